//! The commit numbers of the master that are known anywhere in a world.

use std::collections::BTreeSet;

use reloop_protocol::id::Commit;
use reloop_protocol::master::{self, SlaveLink, SlaveRecord};
use reloop_protocol::message::{Hello, Message};

use super::super::{Stray, World};

impl World {
    /// Every commit number that some node knows.
    pub(super) fn commits(&self) -> BTreeSet<Commit> {
        let mut known = BTreeSet::new();
        known.extend(self.master_node().map(|node| node.commit));
        known.extend(self.backup.iter().filter_map(|disk| disk.node()).map(|node| node.commit));
        for held in &self.boxes {
            let node = held.state.as_ref().map(|state| &state.node).or_else(|| held.disk.node());
            known.extend(node.and_then(|node| node.binding).map(|binding| binding.commit));
            let frames = held.link.iter().flat_map(|wire| {
                wire.to_master.iter().chain(wire.to_slave.iter().map(|(.., message)| message))
            });
            known.extend(frames.filter_map(commit_in));
            let said = held.link.iter().flat_map(|wire| &wire.to_slave);
            known.extend(said.filter_map(|(_, commit, message)| counted(*commit, message)));
        }
        known.extend(self.late.iter().filter_map(|late| match late {
            Stray::ToSlave(.., message) | Stray::ToMaster(.., message) => commit_in(message),
        }));
        known.extend(self.late.iter().filter_map(|late| match late {
            Stray::ToSlave(.., commit, message) => counted(*commit, message),
            Stray::ToMaster(..) => None,
        }));
        for record in self.master.iter().flat_map(|master| master.slaves.values()) {
            known.extend(hellos(record).filter_map(|hello| hello.binding).map(|binding| binding.commit));
        }
        known
    }

    fn master_node(&self) -> Option<&master::Node> {
        self.master.as_ref().map(|master| &master.node).or_else(|| self.master_disk.node())
    }
}

fn hellos(record: &SlaveRecord) -> impl Iterator<Item = &Hello> {
    let of_link = match &record.link {
        SlaveLink::Down | SlaveLink::Live { .. } => None,
        SlaveLink::Welcomed { hello, .. } => Some(&**hello),
    };
    of_link.into_iter().chain(record.contender.as_ref().map(|contender| &*contender.hello))
}

fn commit_in(message: &Message) -> Option<Commit> {
    match message {
        Message::Challenge(challenge) => Some(challenge.commit),
        Message::Hello(hello) => hello.binding.map(|binding| binding.commit),
        Message::Welcome(welcome) => Some(welcome.binding.commit),
        Message::Refuse(_)
        | Message::Settled(_)
        | Message::Report(_)
        | Message::Declined(_)
        | Message::Machine(_)
        | Message::DesiredState(_)
        | Message::Forget(_)
        | Message::OperatingMode(_)
        | Message::Ask(_)
        | Message::Answer(_)
        | Message::Ping
        | Message::Pong => None,
    }
}

/// The commit of a master's frame, if a slave records it.
pub(super) fn counted(commit: Commit, message: &Message) -> Option<Commit> {
    match message {
        Message::DesiredState(_) | Message::Forget(_) | Message::OperatingMode(_) | Message::Ask(_) => {
            Some(commit)
        }
        Message::Challenge(_)
        | Message::Hello(_)
        | Message::Welcome(_)
        | Message::Refuse(_)
        | Message::Settled(_)
        | Message::Report(_)
        | Message::Declined(_)
        | Message::Machine(_)
        | Message::Answer(_)
        | Message::Ping
        | Message::Pong => None,
    }
}

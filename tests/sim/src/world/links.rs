//! Links: connected, cut, half open, and their late frames.

use reloop_protocol::id::Session;
use reloop_protocol::master::{self};
use reloop_protocol::message::Message;
use reloop_protocol::slave::{self, LinkId};
use std::collections::{BTreeMap, VecDeque};

use super::nodes::kind;
use super::{Invariant, STRAYS, Stray, Wire, World};

impl World {
    /// Makes a slave dial the master or the second master.
    pub fn dial(&mut self, slave: usize, double: bool) {
        if self.boxes[slave].dials_double != double && (!double || self.double.is_some()) {
            self.drop_link(slave);
            self.boxes[slave].dials_double = double;
            self.boxes[slave].closed.clear();
        }
    }

    /// Pulls the cable: both ends notice.
    pub fn cut(&mut self, slave: usize) {
        self.boxes[slave].cable = false;
        self.drop_link(slave);
    }

    /// Only the slave's end notices.
    pub fn half_open(&mut self, slave: usize) {
        self.boxes[slave].cable = false;
        if let Some(wire) = self.boxes[slave].link.take() {
            self.at(wire.double, |world| world.dead_links.insert(wire.id));
            self.slave_event(slave, slave::Event::LinkClosed { link: wire.id });
        }
    }

    /// Swallows everything on the link; neither end notices.
    pub fn swallow(&mut self, slave: usize) {
        if let Some(wire) = &mut self.boxes[slave].link {
            wire.half_open = true;
            wire.to_master.clear();
            wire.to_slave.clear();
        }
    }

    /// Puts the cable back.
    pub fn plug(&mut self, slave: usize) {
        self.boxes[slave].cable = true;
    }

    /// The frames on a dead link become late frames.
    pub(super) fn strand(&mut self, slave: usize, wire: Wire) {
        let (id, double) = (wire.id, wire.double);
        let to_slave = wire
            .to_slave
            .into_iter()
            .map(|(session, commit, m)| Stray::ToSlave(slave, id, session, commit, m));
        let to_master = wire.to_master.into_iter().map(|message| Stray::ToMaster(double, id, message));
        self.late.extend(to_slave.chain(to_master));
        while self.late.len() > STRAYS {
            self.late.pop_front();
        }
    }

    pub(super) fn drop_link(&mut self, slave: usize) {
        let Some(wire) = self.boxes[slave].link.take() else { return };
        let (id, double) = (wire.id, wire.double);
        self.strand(slave, wire);
        if self.boxes[slave].state.is_some() {
            self.slave_event(slave, slave::Event::LinkClosed { link: id });
        }
        let last_heard = self.now();
        self.at(double, |world| {
            world.master_event(master::Event::LinkClosed { link: id, last_heard });
        });
    }

    pub fn late_frames(&self) -> usize {
        self.late.len()
    }

    /// A frame of a dead link arrives: it must have no effect.
    pub fn deliver_late(&mut self, which: usize) {
        let Some(late) = self.late.remove(which % self.late.len().max(1)) else { return };
        match late {
            Stray::ToSlave(slave, link, session, commit, message) => {
                // The effects of time alone are taken out first.
                self.slave_event(slave, slave::Event::TimePassed);
                let unfit = BTreeMap::new();
                let known = self.boxes[slave]
                    .disk
                    .node()
                    .map(|node| (node.operating_mode, node.binding, node.sync, node.session));
                let begun = self.boxes[slave].machine.begun.len();
                self.slave_event(slave, slave::Event::Received { link, session, commit, message, unfit });
                let held = &self.boxes[slave];
                let now =
                    held.disk.node().map(|node| (node.operating_mode, node.binding, node.sync, node.session));
                if held.machine.begun.len() != begun || known.is_some() && now != known {
                    self.violate(Invariant::OldSessionIgnored, format!("slave {slave} obeyed {link:?}"));
                }
            }
            Stray::ToMaster(double, link, message) => self.at(double, |world| {
                let commit = world.master.as_ref().map(|master| master.node.commit);
                let event = match message {
                    Message::Hello(hello) => master::Event::HelloReceived { link, hello, token: None },
                    message => master::Event::Received { link, message },
                };
                // A queued job's window may close in any step.
                let passed = world.master.as_ref().and_then(master::next_deadline);
                let quiet = passed.is_none_or(|at| at > world.now());
                world.master_event(event);
                let crashed = world.master.is_none();
                if quiet && !crashed && commit != world.master.as_ref().map(|master| master.node.commit) {
                    world.violate(Invariant::OldSessionIgnored, format!("the master heeded {link:?}"));
                }
            }),
        }
    }

    pub(super) fn connect(&mut self, slave: usize) {
        let id = LinkId(self.fresh());
        let double = self.boxes[slave].dials_double;
        let wire = Wire {
            id,
            to_master: VecDeque::new(),
            to_slave: VecDeque::new(),
            session: Session(0),
            half_open: false,
            double,
        };
        self.boxes[slave].link = Some(wire);
        let token = self.boxes[slave].token.map(text_of);
        self.slave_event(slave, slave::Event::LinkOpened { link: id, token });
        self.at(double, |world| world.master_event(master::Event::LinkOpened { link: id, nonce: [0; 32] }));
    }

    /// Whether a slave is not connected and could be.
    pub fn can_dial(&self, slave: usize) -> bool {
        let held = &self.boxes[slave];
        if held.state.is_none() || held.link.is_some() || !held.cable {
            return false;
        }
        let refused = held.closed.last().is_some_and(|code| !code.is_passing());
        let up = if held.dials_double == self.swapped {
            self.master.is_some()
        } else {
            self.double.as_ref().is_some_and(|seat| seat.state.is_some())
        };
        up && !refused
    }

    /// Connects a slave, if it is not connected and can be.
    pub fn dial_in(&mut self, slave: usize) -> bool {
        let dials = self.can_dial(slave);
        if dials {
            self.connect(slave);
        }
        dials
    }

    /// Delivers the next message to a slave.
    pub fn to_slave(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        let (Some(wire), true) = (&mut held.link, held.state.is_some()) else { return false };
        let link = wire.id;
        let Some((session, commit, message)) = wire.to_slave.pop_front() else { return false };
        if self.keeps_crossed {
            self.crossed.push((slave, kind(&message)));
        }
        self.receive(slave, link, session, commit, message);
        true
    }

    /// Delivers a slave's next message to its master.
    pub fn to_master(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        let (Some(wire), true) = (&mut held.link, held.state.is_some()) else { return false };
        let (link, double) = (wire.id, wire.double);
        let Some(message) = wire.to_master.pop_front() else { return false };
        if self.keeps_crossed {
            self.crossed.push((slave, kind(&message)));
        }
        let event = match message {
            Message::Hello(hello) => {
                let token = hello.token.as_deref().map(hash_of);
                master::Event::HelloReceived { link, hello, token }
            }
            message => master::Event::Received { link, message },
        };
        self.at(double, |world| world.master_event(event));
        true
    }
}

/// A token as a slave shows it: here the hash itself, because nobody steals tokens in this world.
fn text_of(token: [u8; 32]) -> String {
    token.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The master's hash of a token's text.
fn hash_of(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        let digits = std::str::from_utf8(digits).unwrap_or_default();
        *byte = u8::from_str_radix(digits, 16).unwrap_or_default();
    }
    hash
}

//! New connections of a slave that is connected already: each is welcomed or closed, whatever happens to the others.

use std::collections::BTreeSet;

use reloop_protocol::id::{BootId, MasterId, Session, StoreId};
use reloop_protocol::master::{self, RequestId, SlaveCommand};
use reloop_protocol::message::{CloseCode, Hello, MasterBinding, PROTOCOL, Versions};
use reloop_protocol::slave::LinkId;
use reloop_sim::world::World;

use crate::stage::*;

const FIRST: LinkId = LinkId(600);
const WAITING: LinkId = LinkId(601);
const LAST: LinkId = LinkId(602);

/// The phase of the slave's first connection when the others are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Welcomed,
    Live,
}

/// Who sends a Hello with the slave's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    SameBox,
    Rebooted,
    OtherDisk,
    OtherBox,
    OfAnotherMaster,
    OfAnotherVersion,
}

const CALLERS: [Caller; 6] = [
    Caller::SameBox,
    Caller::Rebooted,
    Caller::OtherDisk,
    Caller::OtherBox,
    Caller::OfAnotherMaster,
    Caller::OfAnotherVersion,
];

/// What happens after the last Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Answers,
    IsSilent,
    EndsFirst,
    Revoked,
    Restored,
}

const THEN: [Then; 5] = [Then::Answers, Then::IsSilent, Then::EndsFirst, Then::Revoked, Then::Restored];

fn calls(caller: Caller, first: &Hello, number: u64) -> Hello {
    let hello = Hello { session: Session(first.session.0 + number), ..first.clone() };
    match caller {
        Caller::SameBox => hello,
        Caller::Rebooted => Hello { boot: BootId([8; 16]), ..hello },
        Caller::OtherDisk => Hello { store: StoreId([8; 16]), ..hello },
        Caller::OtherBox => Hello { boot: BootId([7; 16]), store: StoreId([7; 16]), ..hello },
        Caller::OfAnotherMaster => {
            let elsewhere = MasterBinding {
                master: MasterId([9; 16]),
                epoch: Default::default(),
                incarnation: Default::default(),
                commit: Default::default(),
            };
            Hello { binding: Some(elsewhere), ..hello }
        }
        Caller::OfAnotherVersion => Hello { protocol: Versions { oldest: 9, newest: 9 }, ..hello },
    }
}

/// The connections of one slave, and the master's messages on each.
struct Calls {
    seat: Seat,
    /// Open connections with a Hello that the master has not answered.
    unanswered: BTreeSet<LinkId>,
    /// The links that the master has pinged.
    asked: Vec<LinkId>,
    closed: Vec<(LinkId, CloseCode)>,
}

impl Calls {
    fn note(&mut self, effects: &[master::Effect]) {
        for effect in effects {
            match effect {
                master::Effect::Close { link, why } => {
                    assert!(!why.text().is_empty());
                    self.unanswered.remove(link);
                    self.closed.push((*link, why.code()));
                }
                master::Effect::Probe { link } => self.asked.push(*link),
                _ => {}
            }
        }
        self.unanswered.retain(|link| welcomed(effects, *link).is_none());
    }

    fn step(&mut self, event: master::Event) {
        let effects = self.seat.step(event);
        self.note(&effects);
        assert_eq!(master::broken_invariant(&self.seat.state), None);
    }

    fn call(&mut self, link: LinkId, hello: Hello) {
        self.unanswered.insert(link);
        let effects = self.seat.say_hello(link, hello);
        self.note(&effects);
    }

    /// Closed connections end, and pinged links answer if `alive`.
    fn come_to_rest(&mut self, alive: bool) {
        let last_heard = self.seat.now;
        while !self.closed.is_empty() || !self.asked.is_empty() {
            for (link, _) in std::mem::take(&mut self.closed) {
                self.step(master::Event::LinkClosed { link, last_heard });
            }
            for link in std::mem::take(&mut self.asked) {
                self.step(master::Event::LinkProbed { link, alive });
            }
        }
    }
}

fn story(link: Link, second: Caller, third: Caller, then: Then) {
    let case = (link, second, third, then);
    let mut seat = Seat::of(&mut World::new(1));
    let first = seat.hello();
    if link != Link::Down {
        seat.say_hello(FIRST, first.clone());
    }
    if link == Link::Live {
        seat.settle(FIRST, first.session);
        assert_eq!(seat.live(), Some(FIRST));
    }
    let mut calls_in = Calls { seat, unanswered: BTreeSet::new(), asked: vec![], closed: vec![] };
    calls_in.call(WAITING, calls(second, &first, 1));
    calls_in.call(LAST, calls(third, &first, 2));
    let last_heard = calls_in.seat.now;
    match then {
        Then::Answers | Then::IsSilent => {}
        Then::EndsFirst => calls_in.step(master::Event::LinkClosed { link: FIRST, last_heard }),
        Then::Revoked => {
            let (request, slave) = (RequestId(900), calls_in.seat.key);
            calls_in.step(master::Event::SlaveCommanded { request, slave, command: SlaveCommand::Forget });
        }
        Then::Restored => {
            calls_in.step(master::Event::RestoreConfirmed { request: RequestId(900), forced: true });
        }
    }
    calls_in.come_to_rest(then == Then::Answers);
    assert_eq!(calls_in.unanswered, BTreeSet::new(), "{case:?}: nobody waits for a timeout");
}

#[test]
fn every_connection_of_a_slave_is_welcomed_or_closed_whoever_else_calls_and_whatever_becomes_of_them() {
    assert_eq!(PROTOCOL.common(Versions { oldest: 9, newest: 9 }), None);
    for link in [Link::Down, Link::Welcomed, Link::Live] {
        for (second, third) in CALLERS.iter().flat_map(|one| CALLERS.iter().map(|other| (*one, *other))) {
            for then in THEN {
                story(link, second, third, then);
            }
        }
    }
}

#[test]
fn if_a_waiting_box_connects_again_the_newest_connection_waits() {
    for alive in [true, false] {
        let mut seat = Seat::of(&mut World::new(1));
        let first = seat.hello();
        seat.say_hello(FIRST, first.clone());
        seat.settle(FIRST, first.session);
        assert!(is_probed(&seat.say_hello(WAITING, calls(Caller::Rebooted, &first, 1)), FIRST));
        let effects = seat.say_hello(LAST, calls(Caller::Rebooted, &first, 2));
        assert_eq!(closed(&effects, WAITING), Some(CloseCode::Superseded));
        assert_eq!(closed(&effects, LAST), None);
        let effects = seat.step(master::Event::LinkProbed { link: FIRST, alive });
        assert_eq!(welcomed(&effects, LAST).is_some(), !alive);
        assert_eq!(closed(&effects, LAST), alive.then_some(CloseCode::DuplicateIdentity));
    }
}

#[test]
fn a_connection_that_waits_for_an_older_link_waits_for_the_link_that_replaces_it() {
    for alive in [true, false] {
        let mut seat = Seat::of(&mut World::new(1));
        let first = seat.hello();
        seat.say_hello(FIRST, first.clone());
        seat.settle(FIRST, first.session);
        assert!(is_probed(&seat.say_hello(WAITING, calls(Caller::Rebooted, &first, 1)), FIRST));
        let effects = seat.say_hello(LAST, calls(Caller::SameBox, &first, 2));
        assert_eq!(closed(&effects, FIRST), Some(CloseCode::Superseded));
        assert!(welcomed(&effects, LAST).is_some() && is_probed(&effects, LAST));
        // The answer of the link that has ended says nothing about the other one, nor does that of the one that waits.
        for link in [FIRST, WAITING] {
            assert_eq!(seat.step(master::Event::LinkProbed { link, alive: false }), vec![]);
        }
        let effects = seat.step(master::Event::LinkProbed { link: LAST, alive });
        assert_eq!(welcomed(&effects, WAITING).is_some(), !alive);
        assert_eq!(closed(&effects, WAITING), alive.then_some(CloseCode::DuplicateIdentity));
    }
}

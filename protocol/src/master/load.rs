//! What the disk holds and memory does not: jobs that have ended, orders, and idempotency keys.
//!
//! [`unknown`] says what has to be read from disk before an event may be stepped. What was found is passed in as
//! [`Event::Loaded`], and the next step lets go of it again. The rules see nothing else of the disk.

use std::collections::{BTreeMap, BTreeSet};

use super::{Event, Job, Master, Order, SlaveRecord};
use crate::id::{JobId, OrderId};
use crate::message::{Hello, Message};

/// What was read from disk for the next event.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Loaded {
    pub jobs: Vec<Job>,
    pub orders: Vec<Order>,
    /// Each idempotency key that was looked up, with the order that was placed with it and the fingerprint of that order's
    /// body; `None` if the disk does not have the key.
    pub keys: BTreeMap<String, Option<(OrderId, [u8; 32])>>,
}

/// What an event is about and memory does not hold. The disk need not have it either.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Unknown {
    pub jobs: BTreeSet<JobId>,
    pub orders: BTreeSet<OrderId>,
    pub keys: BTreeSet<String>,
}

impl Loaded {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.orders.is_empty() && self.keys.is_empty()
    }
}

impl Unknown {
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.orders.is_empty() && self.keys.is_empty()
    }

    /// What is left to read once `loaded` was read.
    #[must_use]
    pub fn without(mut self, loaded: &Loaded) -> Self {
        for job in &loaded.jobs {
            self.jobs.remove(&job.id);
        }
        for order in &loaded.orders {
            self.orders.remove(&order.id);
        }
        self.keys.retain(|key| !loaded.keys.contains_key(key));
        self
    }
}

/// What has to be read from disk before the event is stepped.
pub fn unknown(state: &Master, event: &Event) -> Unknown {
    let mut unknown = Unknown::default();
    let mut about = |job: JobId| {
        if !state.book.jobs.contains_key(&job) {
            unknown.jobs.insert(job);
        }
    };
    let slave_of = |link| state.links.get(link).copied().flatten().and_then(|key| state.slaves.get(&key));
    match event {
        Event::OrderPlaced { key: Some(key), .. } => {
            if state.book.recent(&key.key).is_none() {
                unknown.keys.insert(key.key.clone());
            }
        }
        Event::JobsCommanded { jobs, .. } => jobs.iter().copied().for_each(about),
        Event::LogAsked { job, .. } => about(*job),
        Event::HelloReceived { hello, .. } => spoken_of(hello).for_each(about),
        Event::Received { link, message } => match message {
            Message::Report(report) => about(report.job),
            Message::Declined(declined) => about(declined.job),
            Message::Settled(settled) => {
                settled.reports.iter().for_each(|report| about(report.job));
                settled.records.iter().for_each(|record| about(record.report.job));
                settled.declined.iter().for_each(|declined| about(declined.job));
                // A Settled speaks of the Hello's rows too.
                let hello = slave_of(link).and_then(SlaveRecord::hello);
                hello.into_iter().flat_map(spoken_of).for_each(about);
                unknown.orders.extend(settled.records.iter().map(|record| record.spec.order));
            }
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Machine(_)
            | Message::DesiredState(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_)
            | Message::Ping
            | Message::Pong => {}
        },
        // Another box with the slave's key that waits for the end of this link is welcomed by it.
        Event::LinkProbed { link, .. } | Event::LinkClosed { link, .. } => {
            let contender = slave_of(link).and_then(|slave| slave.contender.as_ref());
            contender.into_iter().flat_map(|contender| spoken_of(&contender.hello)).for_each(about);
        }
        Event::OrderPlaced { key: None, .. }
        | Event::Loaded(_)
        | Event::SlaveCommanded { .. }
        | Event::TokenMade { .. }
        | Event::RestoreConfirmed { .. }
        | Event::LinkOpened { .. }
        | Event::TimePassed
        | Event::ClockSet { .. } => {}
    }
    unknown
}

fn spoken_of(hello: &Hello) -> impl Iterator<Item = JobId> {
    hello.rows.iter().chain(&hello.recent_outcomes).map(|row| row.job)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_not_been_read_is_left_to_read() {
        let (job, order) = (JobId([1; 16]), OrderId([2; 16]));
        let all = Unknown {
            jobs: BTreeSet::from([job]),
            orders: BTreeSet::from([order]),
            keys: BTreeSet::from(["a".to_owned(), "b".to_owned()]),
        };
        let read = Loaded { keys: BTreeMap::from([("a".to_owned(), None)]), ..Loaded::default() };
        let left = all.clone().without(&read);
        assert_eq!(left, Unknown { keys: BTreeSet::from(["b".to_owned()]), ..all.clone() });
        for one in [
            Unknown { jobs: all.jobs, ..Unknown::default() },
            Unknown { orders: all.orders, ..Unknown::default() },
            Unknown { keys: all.keys, ..Unknown::default() },
        ] {
            assert!(!one.is_empty(), "{one:?}");
        }
        assert!(Unknown::default().is_empty() && Loaded::default().is_empty() && !read.is_empty());
    }
}

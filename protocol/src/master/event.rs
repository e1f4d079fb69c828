//! What can happen to a master.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Job, Master, Order, RequestId, Token};
use crate::id::{JobId, OrderId, SlaveKey};
use crate::job::End;
use crate::message::{Hello, Message, Mode};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Late};
use crate::time::{Millis, Time};

/// A client's idempotency key, with what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// The SHA-256 of the request's body.
    pub fingerprint: [u8; 32],
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Jobs that the disk holds and the next event speaks of: [`unknown_jobs`] names them.
    JobsLoaded(Vec<Job>),
    /// Orders that the disk holds and the next event speaks of: [`unknown_orders`] names them.
    OrdersLoaded(Vec<Order>),
    /// A client placed an order.
    OrderPlaced {
        /// Who waits.
        request: RequestId,
        /// The order, with new ids.
        order: Box<Order>,
        /// The client's key.
        key: Option<IdempotencyKey>,
        /// What the disk knows of that key: the order and the body's fingerprint.
        known: Option<(OrderId, [u8; 32])>,
    },
    /// Somebody wants something of jobs.
    JobsCommanded {
        /// Who waits.
        request: RequestId,
        /// Which: one, or an order's.
        jobs: Vec<JobId>,
        /// What.
        command: JobCommand,
    },
    /// Somebody wants something of a slave.
    SlaveCommanded {
        /// Who waits.
        request: RequestId,
        /// Which.
        slave: SlaveKey,
        /// What.
        command: SlaveCommand,
    },
    /// Somebody asks for a job's output.
    LogAsked {
        /// Who waits.
        request: RequestId,
        /// Which.
        job: JobId,
        /// From which byte; the end if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
    /// An enrolment token was made.
    TokenMade {
        /// Who waits.
        request: RequestId,
        /// The SHA-256 of its text.
        hash: [u8; 32],
        /// What it permits.
        token: Token,
    },
    /// A person confirmed that this master was restored, and is the one.
    RestoreConfirmed {
        /// Who waits.
        request: RequestId,
        /// Also if nothing speaks for it: the slaves that could tell may be away.
        forced: bool,
    },
    /// A slave connected.
    LinkOpened {
        /// Its connection.
        link: LinkId,
        /// What it has to sign.
        nonce: [u8; 32],
    },
    /// A slave introduced itself, and its signature is right.
    HelloReceived {
        /// On which connection.
        link: LinkId,
        /// What it said.
        hello: Box<Hello>,
        /// The SHA-256 of the enrolment token that it showed.
        token: Option<[u8; 32]>,
    },
    /// A slave said something else.
    Received {
        /// On which connection.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// The peer of a connection was asked whether it is there.
    LinkProbed {
        /// Which.
        link: LinkId,
        /// It answered.
        alive: bool,
    },
    /// A connection ended.
    LinkClosed {
        /// Which.
        link: LinkId,
        /// When its last byte came.
        last_heard: Time,
    },
    /// A moment came that [`next_deadline`](super::next_deadline) named.
    TimePassed,
    /// The master's wall clock was set: what slaves have measured of it is wrong.
    ClockSet {
        /// By so many milliseconds.
        step_ms: i64,
    },
}

/// What somebody may want of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobCommand {
    /// End it.
    Cancel(CancelMode),
    /// Do not start it; pause it if it runs.
    Pause,
    /// Let it go on.
    Resume,
    /// Let a held job start, within this time from now.
    Release {
        /// How long the word holds.
        valid: Millis,
    },
    /// Change when it may start.
    Reschedule {
        /// Not before this.
        not_before: Option<Time>,
        /// Not after this.
        deadline: Option<Time>,
        /// If that passes while the slave is off.
        late: Late,
    },
    /// Begin a new attempt.
    Retry,
    /// Say how an uncertain job ended.
    Resolve(End),
    /// Give this attempt up: its outcome will not be known.
    Abandon,
}

/// What somebody may want of a slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SlaveCommand {
    /// Confirm that the machine is clear.
    Ready,
    /// Confirm that somebody has looked at what needed attention.
    Clear,
    /// Put it in a mode.
    Mode(Mode),
    /// Enrol a key that waits for it.
    Approve,
    /// Revoke its key; what it holds stays with it.
    Forget,
}

/// Jobs that the event speaks of and that are not in memory: if the disk has them, they come first, as
/// [`Event::JobsLoaded`].
pub fn unknown_jobs(state: &Master, event: &Event) -> Vec<JobId> {
    let mut jobs: Vec<JobId> = match event {
        Event::JobsCommanded { jobs, .. } => jobs.clone(),
        Event::LogAsked { job, .. } => vec![*job],
        Event::HelloReceived { hello, .. } => spoken_of(hello).collect(),
        Event::Received { message, .. } => match message {
            Message::Report(report) => vec![report.job],
            Message::Declined(declined) => vec![declined.job],
            Message::Settled(settled) => settled
                .reports
                .iter()
                .map(|report| report.job)
                .chain(settled.records.iter().map(|record| record.report.job))
                .chain(settled.declined.iter().map(|declined| declined.job))
                .collect(),
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
            | Message::Pong => vec![],
        },
        Event::JobsLoaded(_)
        | Event::OrdersLoaded(_)
        | Event::OrderPlaced { .. }
        | Event::SlaveCommanded { .. }
        | Event::TokenMade { .. }
        | Event::RestoreConfirmed { .. }
        | Event::LinkOpened { .. }
        | Event::TimePassed
        | Event::ClockSet { .. } => vec![],
        // Whoever waits for the end of an older link is welcomed by it.
        Event::LinkProbed { link, .. } | Event::LinkClosed { link, .. } => {
            let slave = state.links.get(link).copied().flatten().and_then(|key| state.slaves.get(&key));
            let contender = slave.and_then(|slave| slave.contender.as_ref());
            contender.map_or_else(Vec::new, |contender| spoken_of(&contender.hello).collect())
        }
    };
    // A Settled speaks of the Hello's rows too.
    if let Event::Received { link, message: Message::Settled(_) } = event
        && let Some(slave) = state.links.get(link).copied().flatten().and_then(|key| state.slaves.get(&key))
        && let Some(hello) = slave.hello()
    {
        jobs.extend(spoken_of(hello));
    }
    jobs.retain(|job| !state.book.jobs.contains_key(job));
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

pub(super) fn spoken_of(hello: &Hello) -> impl Iterator<Item = JobId> {
    hello.rows.iter().chain(&hello.recent_outcomes).map(|row| row.job)
}

/// Orders that the event speaks of: if the disk has them, they come first, as [`Event::OrdersLoaded`].
pub fn unknown_orders(event: &Event) -> Vec<OrderId> {
    let Event::Received { message: Message::Settled(settled), .. } = event else { return vec![] };
    let orders: BTreeSet<_> = settled.records.iter().map(|record| record.spec.order).collect();
    orders.into_iter().collect()
}

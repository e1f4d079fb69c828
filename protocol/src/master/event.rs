//! The events of a master.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::{Job, Master, Order, RequestId, Token};
use crate::id::{JobId, OrderId, SlaveKey};
use crate::job::End;
use crate::message::{Hello, Message, Mode};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Late};
use crate::time::{Millis, Time};

/// A client's idempotency key, with the request that it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    pub key: String,
    /// The SHA-256 of the request's body: the key counts only for the same body.
    pub fingerprint: [u8; 32],
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Jobs that were on disk and not in memory, and that the next event is about; [`unknown_jobs`] names them.
    JobsLoaded(Vec<Job>),
    /// Orders that were on disk and not in memory, and that the next event is about; [`unknown_orders`] names them.
    OrdersLoaded(Vec<Order>),
    /// A client placed an order.
    OrderPlaced {
        request: RequestId,
        /// The order, with an id and job ids that the shell has drawn.
        order: Box<Order>,
        key: Option<IdempotencyKey>,
        /// What the disk has under that key: the order, and the fingerprint of the body that placed it.
        known: Option<(OrderId, [u8; 32])>,
    },
    /// A client gave a command for jobs.
    JobsCommanded {
        request: RequestId,
        /// One job, or all jobs of an order.
        jobs: Vec<JobId>,
        command: JobCommand,
    },
    /// A client gave a command for a slave.
    SlaveCommanded { request: RequestId, slave: SlaveKey, command: SlaveCommand },
    /// A client asked for a job's output.
    LogAsked {
        request: RequestId,
        job: JobId,
        /// The first byte; `None`: the last `limit` bytes.
        offset: Option<u64>,
        limit: u32,
    },
    /// A person made an enrolment token.
    TokenMade {
        request: RequestId,
        /// The SHA-256 of its text, which is kept nowhere.
        hash: [u8; 32],
        token: Token,
    },
    /// A person confirmed that this master was restored and is the one to go on.
    RestoreConfirmed {
        request: RequestId,
        /// Whether to take this without a slave that has seen a later state: those may be away.
        forced: bool,
    },
    /// A slave connected.
    LinkOpened {
        link: LinkId,
        /// The nonce of the Challenge, which the slave has to sign.
        nonce: [u8; 32],
    },
    /// A slave sent its Hello, and the signature was verified.
    HelloReceived {
        link: LinkId,
        hello: Box<Hello>,
        /// The SHA-256 of the enrolment token in the Hello.
        token: Option<[u8; 32]>,
    },
    /// A slave sent any other message of its session.
    Received { link: LinkId, message: Message },
    /// The peer of a connection was pinged because of an [`Effect::Probe`](super::Effect).
    LinkProbed {
        link: LinkId,
        /// Whether anything came from it in time.
        alive: bool,
    },
    /// A connection ended.
    LinkClosed {
        link: LinkId,
        /// When the last byte of it came.
        last_heard: Time,
    },
    /// A moment came that [`next_deadline`](super::next_deadline) named.
    TimePassed,
    /// The master's wall clock was set, so the time that slaves took from the last Challenge is wrong.
    ClockSet {
        /// By how many milliseconds; negative if it was set back.
        step_ms: i64,
    },
}

/// A client's command for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobCommand {
    Cancel(CancelMode),
    /// Do not start it, and pause it if it runs.
    Pause,
    /// Undo a pause.
    Resume,
    /// Let a held job start.
    Release {
        /// How long from now the release holds.
        valid: Millis,
    },
    /// Change when it may start.
    Reschedule {
        /// The earliest start.
        not_before: Option<Time>,
        /// The latest start.
        deadline: Option<Time>,
        /// What happens if `not_before` passes while the slave is off.
        late: Late,
    },
    /// Queue it again after its end, for a new attempt.
    Retry,
    /// Say how an uncertain job ended.
    Resolve(End),
    /// Give this attempt up: its outcome will not be known.
    Abandon,
}

/// A client's command for a slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SlaveCommand {
    /// Confirm that the machine is clear.
    Ready,
    /// Confirm that a person has looked at what needed attention.
    Clear,
    /// Set its operating mode.
    Mode(Mode),
    /// Enrol a key that waits for approval.
    Approve,
    /// Revoke its key. The jobs that it holds stay with it.
    Forget,
}

/// The jobs that an event is about and that are not in memory. Before the event is stepped, those that the disk has are passed
/// in as
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

/// The orders that an event is about. Before it is stepped, those that the disk has are passed in as [`Event::OrdersLoaded`].
pub fn unknown_orders(event: &Event) -> Vec<OrderId> {
    let Event::Received { message: Message::Settled(settled), .. } = event else { return vec![] };
    let orders: BTreeSet<_> = settled.records.iter().map(|record| record.spec.order).collect();
    orders.into_iter().collect()
}

//! The events of a master.

use serde::{Deserialize, Serialize};

use super::{Loaded, Order, RequestId, Token};
use crate::id::{JobId, SlaveKey};
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
    /// The disk was read for the next event; [`unknown`](super::unknown) says what is looked for.
    Loaded(Loaded),
    /// A client placed an order.
    OrderPlaced {
        request: RequestId,
        /// The order, with an id and job ids that the shell has drawn.
        order: Box<Order>,
        key: Option<IdempotencyKey>,
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
    /// Let a paused job go on, or start.
    Resume,
    /// Let a held job start.
    Release {
        /// How long from now the release holds.
        valid: Millis,
    },
    /// Change when it may start.
    Reschedule {
        not_before: Option<Time>,
        deadline: Option<Time>,
        /// What happens if the start is missed.
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

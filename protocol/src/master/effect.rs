//! What follows from a step: what is written, and what is done once that is durable.

use super::{
    CloseReason, IdempotencyKey, Job, Master, Node, Order, Receipt, Refusal, RequestId, SlaveRecord, Token,
};
use crate::id::{Commit, JobId, OrderId, SlaveKey};
use crate::job;
use crate::message::{Begun, Message};
use crate::slave::LinkId;
use crate::time::Time;

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// It is done: no slave has to be told.
    Applied,
    /// The slave was told, and has not reported what follows from it.
    Sent,
    /// The slave is offline, or obeys nothing now, and is told in its next handshake.
    PendingOnReconnect,
    /// The job has gone past the point to which the command applies.
    TooLate,
}

impl Delivery {
    pub const ALL: [Self; 4] = [Self::Applied, Self::Sent, Self::PendingOnReconnect, Self::TooLate];

    /// Its name in the REST interface and in the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Sent => "sent",
            Self::PendingOnReconnect => "pending_on_reconnect",
            Self::TooLate => "too_late",
        }
    }
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The order is on disk.
    Placed {
        order: OrderId,
        /// Whether the order was placed before, with the same key and body.
        replayed: bool,
    },
    /// The command for jobs was accepted: how far it has come, for each job.
    Taken(Vec<(JobId, Delivery)>),
    /// The command for a slave was accepted: how far it has come.
    SlaveTaken(Delivery),
    /// A part of a job's output, as [`Reply::Log`](crate::message::Reply) has it.
    Output {
        offset: u64,
        total: u64,
        bytes: Vec<u8>,
    },
    Done,
    Refused(Refusal),
}

/// A record that the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    Node(Node),
    Order(Box<Order>),
    /// A client's idempotency key with the order that it placed.
    Key(IdempotencyKey, OrderId),
    /// A job, whether it has ended or not.
    Job(Box<Job>),
    Slave(Box<SlaveRecord>),
    /// An enrolment token by the SHA-256 of its text; `None` removes it.
    Token([u8; 32], Option<Token>),
    Receipt(Box<Receipt>),
    /// The newest incarnations of this master.
    Begun(Vec<Begun>),
    /// [`Master::clock_mark`](super::Master::clock_mark).
    ClockMark(Time),
}

/// Something that the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send a message to a slave.
    Send {
        link: LinkId,
        /// How many durable commits this master has once the step's writes are on disk: see
        /// [`Frame::commit`](crate::wire::Frame::commit).
        commit: Commit,
        message: Message,
    },
    Close {
        link: LinkId,
        why: CloseReason,
    },
    /// Ping the peer, and report as [`Event::LinkProbed`](super::Event) whether it is there.
    Probe {
        link: LinkId,
    },
    Answer {
        request: RequestId,
        answer: Answer,
    },
    /// Tell clients that follow jobs that this one changed.
    JobChanged(JobId),
    /// Tell clients that follow slaves that this one changed.
    SlaveChanged(SlaveKey),
    /// An event had no consequence, for this reason. The driver only logs it.
    Ignored(Ignored),
}

/// Why an event, or a part of it, had no consequence. [`Ignored::text`] says it for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// A newer report of this attempt is known.
    OlderReport,
    /// The slave answers an older desired state than the newest.
    OlderAnswer,
    /// A report of an attempt that the master did not assign to this slave by all that it knows: the slave is lying, or the master has
    /// forgotten it in a restore. It is kept for operators to see, and ends no other slave's attempt.
    NeverAssigned,
    /// A record that the master did not ask for.
    UnrequestedRecord,
    /// The slave already holds as many jobs as one handshake can report.
    TooManyJobs,
    /// The report names a generation that this master cannot have issued: it is read as the newest that the master knows.
    UnknownGeneration,
    /// The attempt or the generation exceeds what a master takes over: see
    /// [`ADOPTED_ATTEMPT`](crate::limits::ADOPTED_ATTEMPT).
    OutOfRange,
    /// The slave reported a job that the master does not know, without the record that it was asked for.
    MissingRecord,
    /// The slave was revoked, and its connection is being closed.
    Revoked,
    /// The connection is not one on which a slave may speak.
    UnknownConnection,
}

/// What follows from one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    pub state: Master,
    /// What has to be durable before any effect is performed.
    pub persist: Vec<Write>,
    /// What is done then, in this order.
    pub effects: Vec<Effect>,
    /// Ended jobs that the state does not hold any more, as they were when they ended.
    pub archived: Vec<Job>,
}

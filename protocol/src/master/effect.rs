//! What comes of a step: what is written, and what is done once that is durable.

use super::{IdempotencyKey, Job, Master, Node, Order, Receipt, RequestId, SlaveRecord, Token};
use crate::id::{Commit, JobId, OrderId, SlaveKey};
use crate::job::{self, State};
use crate::message::{Begun, CloseCode, Message, Reply};
use crate::slave::LinkId;
use crate::time::Time;

/// How far a command got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// It is done.
    Applied,
    /// It is on its way to the slave.
    Sent,
    /// The slave is not there: the desired state waits, as part of the job, for its next connection.
    PendingOnReconnect,
    /// What it was meant to prevent has happened.
    TooLate,
}

impl Delivery {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Sent => "sent",
            Self::PendingOnReconnect => "pending_on_reconnect",
            Self::TooLate => "too_late",
        }
    }
}

/// Why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such job.
    NoSuchJob,
    /// No such slave.
    NoSuchSlave,
    /// The key was used for another body.
    KeyReused,
    /// The job's state does not allow it.
    WrongState(State),
    /// The slave is connected: it can be asked instead.
    SlaveOnline,
    /// It can only be done while the slave is connected.
    SlaveOffline,
    /// Nothing is there that this could end.
    NothingToDo(&'static str),
    /// The slave said no.
    SlaveRefused,
    /// The slave was revoked: only a token enrols it again.
    SlaveRevoked,
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The order is on disk.
    Placed {
        /// Which.
        order: OrderId,
        /// It was placed before, with the same key.
        replayed: bool,
    },
    /// The command is taken: how far it got, for each job.
    Taken(Vec<(JobId, Delivery)>),
    /// Done.
    Done,
    /// The slave's answer.
    Replied(Reply),
    /// Not granted, and what would help.
    Refused(Refusal, String),
}

/// What the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    /// About itself.
    Node(Node),
    /// An order.
    Order(Box<Order>),
    /// A client's key.
    Key(IdempotencyKey, OrderId),
    /// A job: live, or for the archive.
    Job(Box<Job>),
    /// A slave.
    Slave(Box<SlaveRecord>),
    /// An enrolment token, or that it is gone.
    Token([u8; 32], Option<Token>),
    /// A handshake's receipt.
    Receipt(Box<Receipt>),
    /// Its newest incarnations.
    Begun(Vec<Begun>),
    /// When it last made something that lasts for a length of time, by its clock.
    CountedUntil(Time),
}

/// What the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say something to a slave.
    Send {
        /// On which connection.
        link: LinkId,
        /// The durable commits of this master by then: see [`Frame::commit`](crate::wire::Frame::commit).
        commit: Commit,
        /// What.
        message: Message,
    },
    /// End a connection.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        code: CloseCode,
        /// Why, for people.
        text: String,
    },
    /// Ask the peer whether it is there.
    Probe {
        /// On which connection.
        link: LinkId,
    },
    /// Answer a client.
    Answer {
        /// Which.
        request: RequestId,
        /// What.
        answer: Answer,
    },
    /// Tell whoever listens that a job changed.
    JobChanged(JobId),
    /// Tell whoever listens that a slave changed.
    SlaveChanged(SlaveKey),
    /// Nothing was done, and why.
    Ignored(Ignored),
}

/// Why the master did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// A newer report of the job is known.
    OlderReport,
    /// The slave answers an older desired state than the newest.
    OlderAnswer,
    /// The attempt was never assigned to this slave: the slave is lying, or the master was restored.
    NeverAssigned,
    /// A record that the master did not ask for.
    UnrequestedRecord,
    /// The slave already holds as many jobs as one handshake can report.
    TooManyJobs,
    /// The report names a generation that this master cannot have issued.
    UnknownGeneration,
    /// The attempt or the generation is past all that a master counts to.
    OutOfRange,
    /// The slave reported a job that the master does not know, without the record that it was asked for.
    MissingRecord,
    /// The slave was revoked, and its connection is being closed.
    Revoked,
    /// The connection is not one on which a slave may speak.
    UnknownConnection,
}

/// What one event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// The state after it.
    pub state: Master,
    /// To be durable before any effect.
    pub persist: Vec<Write>,
    /// To be done then, in order.
    pub effects: Vec<Effect>,
    /// Jobs that are no longer in memory, as they were at the end.
    pub archived: Vec<Job>,
}

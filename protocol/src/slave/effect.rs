//! What comes of a step: what is written, and what is done once that is durable.

use super::{Job, LinkId, Node, RunKey, Slave};
use crate::id::{JobId, Session};
use crate::job::{self};
use crate::message::{CloseCode, Message, Record};
use crate::spec::Spec;

/// What the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    /// About itself.
    Node(Node),
    /// A job, or that it is gone.
    Job(JobId, Option<Box<Job>>),
    /// The forgotten outcomes.
    RecentOutcomes(Vec<Record>),
}

/// What the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say something to the master; a Hello is signed on the way.
    Send {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
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
    /// Begin.
    Start {
        /// What.
        work: RunKey,
        /// The work.
        spec: Spec,
    },
    /// End it.
    Stop {
        /// What.
        work: RunKey,
        /// At once, not at a safe point.
        now: bool,
    },
    /// Pause it.
    Pause(RunKey),
    /// Let it go on.
    Resume(RunKey),
    /// Ask the machine what it did.
    Probe {
        /// With what.
        work: RunKey,
        /// The work.
        spec: Spec,
    },
    /// Its outcome is on the master's disk: what the machine kept of it may go.
    Dismiss(RunKey),
    /// Answer a question for a job's output.
    ReadLog {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
        /// Pairs the answer.
        id: u32,
        /// Of which beginning.
        work: RunKey,
        /// From which byte; the end if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
    /// Answer a person at the machine.
    Reply {
        /// Pairs it.
        request: u64,
        /// Done, or why not and what would do it.
        reply: Result<String, String>,
    },
    /// The enrolment token has done its work.
    ForgetToken,
    /// Nothing was done, and why.
    Ignored(Ignored),
}

/// Why the slave did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// The message belongs to another session.
    OtherSession,
    /// The master is older than what this slave has seen: nothing it says is obeyed until a person confirms it there.
    MasterDoubted,
    /// A newer generation of the desired state is known.
    OlderGeneration,
    /// A newer operating mode is known.
    OlderMode,
    /// A job that has not ended is not forgotten.
    NotEnded,
    /// A newer report than the one on the master's disk is not forgotten.
    NewerReport,
    /// The slave does not hold the job that it was told to forget.
    NothingToForget,
    /// The machine speaks of another run than the job's.
    OtherRun,
    /// The machine answers a question that was not asked.
    NotProbed,
    /// The job has ended, and an outcome does not change.
    Ended,
}

/// What one event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// The state after it.
    pub state: Slave,
    /// To be durable before any effect.
    pub persist: Vec<Write>,
    /// To be done then, in order.
    pub effects: Vec<Effect>,
}

//! What follows from a step: what is written, and what is done once that is durable.

use super::{Closing, Done, Job, LinkId, Node, NotDone, RunKey, Slave};
use crate::id::{JobId, Session};
use crate::job::{self};
use crate::message::{Message, Record};
use crate::spec::Spec;

/// A record that the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    Node(Node),
    /// A job; `None` removes it.
    Job(JobId, Option<Box<Job>>),
    /// All recent outcomes, in place of those on disk.
    RecentOutcomes(Vec<Record>),
}

/// Something that the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Send a message to the master. The driver signs a Hello.
    Send { link: LinkId, session: Session, message: Message },
    /// Close a connection.
    Close { link: LinkId, why: Closing },
    /// Tell the machine to start a run.
    Start { work: RunKey, spec: Spec },
    /// Tell the machine to stop it.
    Stop {
        work: RunKey,
        /// Whether to stop at once and not at a safe point.
        now: bool,
    },
    /// Tell the machine to pause it.
    Pause(RunKey),
    /// Tell the machine to resume it.
    Resume(RunKey),
    /// Ask the machine what it did with a run; the answer is a [`Fact::Probed`](super::Fact).
    Probe { work: RunKey, spec: Spec },
    /// Ask the machine whether it could begin a job; the answer is an [`Event::MachineChecked`](super::Event).
    CheckMachine {
        /// With this program; `None`: as far as that does not depend on the program.
        program: Option<String>,
    },
    /// The run's outcome is on the master's disk: the machine may delete what it kept of the run.
    Dismiss(RunKey),
    /// Read a part of a run's output, and send it as the answer to a question.
    ReadLog {
        link: LinkId,
        session: Session,
        /// The [`Ask::id`](crate::message::Ask) of the question.
        id: u32,
        work: RunKey,
        /// The first byte; `None`: the last `limit` bytes.
        offset: Option<u64>,
        limit: u32,
    },
    /// Answer a person at the machine.
    Reply {
        /// The request of the [`Event::Local`](super::Event).
        request: u64,
        reply: Result<Done, NotDone>,
    },
    /// Delete the enrolment token: the slave is enrolled.
    ForgetToken,
    /// An event had no consequence, for this reason. The driver only logs it.
    Ignored(Ignored),
}

/// Why an event had no consequence. [`Ignored::text`] says it for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// The message belongs to another session or connection, or comes out of order.
    OtherSession,
    /// The master is older than what this slave has seen: nothing it says is obeyed until a person confirms it there.
    MasterDoubted,
    /// A desired state of the same or a newer generation, or of a newer attempt, is known.
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
    /// The machine says that it works on an uncertain job while it works on another one: a person has to look.
    OtherJobWorks,
    /// The machine answers a question that was not asked.
    NotProbed,
    /// Nothing keeps the machine from beginning a job any more.
    NotAsked,
    /// The job has ended, and an outcome does not change.
    Ended,
}

/// What follows from one event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    pub state: Slave,
    /// What has to be durable before any effect is performed.
    pub persist: Vec<Write>,
    /// What is done then, in this order.
    pub effects: Vec<Effect>,
}

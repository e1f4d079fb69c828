//! Why the slave's rules decide as they do, as data. [`text`](crate::text) has the sentences for people.

use crate::id::{Attempt, JobId};
use crate::job::State;
use crate::message::{Attention, CloseCode, Mode, Reason, Source, Versions};
use crate::spec::Late;

/// Why a job is in its state. On the wire and on disk it is a [`Reason`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobReason {
    /// Who wanted it to end: the master, a person at the machine, or the slave because it ran too long.
    Stopped(Source),
    /// The master has given the attempt up.
    Abandoned,
    /// The slave's store went back in time, so what it says of the job is not to be trusted.
    StoreRolledBack,
    /// The master means other work than what is here.
    OtherWork,
    /// A person at the machine paused it, and only a person there can resume it.
    PausedLocally,
    /// The machine failed, in its words.
    MachineFault(String),
    /// The machine refused to stop, in its words.
    StopRefused(String),
    /// The machine refused to pause or to resume, in its words.
    PauseRefused(String),
    /// It was interrupted.
    Interrupted,
    /// It was interrupted this often, which is more often than the settings allow.
    InterruptedTooOften { times: u32 },
    /// It was interrupted, and is being started again.
    BegunAgain,
    /// It is not known what the machine did with it.
    NoProof(Doubt),
    /// The machine could not begin it, for this cause of its own.
    MachineUnfit { cause: String },
    /// The slave's config does not allow it any more, for this reason.
    Unfit(Reason),
    /// A person said how it ended.
    Resolved,
    /// The release was for a start before now.
    ReleaseLapsed,
    /// Its start was missed, and this follows.
    MissedStart(Late),
    /// Its latest start passed.
    WindowClosed,
}

/// Why it is not known what the machine did with a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doubt {
    /// The machine knows nothing of work that had begun.
    Forgotten,
    /// The machine could not say.
    CouldNotSay {
        /// What it said instead; `None`: it did not answer.
        said: Option<String>,
        /// In which words it had refused the start, if it was asked because of that.
        refused: Option<String>,
    },
}

/// Why a slave does not hold an attempt that the master assigned. On the wire it is a [`Reason`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decline {
    /// Another attempt of the job is here, in this state.
    OlderAttempt { attempt: Attempt, state: State },
    /// What the master wants to end was never here.
    NeverHere,
    /// What the master recalls was not started here.
    NotStartedHere,
    /// The offer lacks the work.
    WorkNeeded,
    /// It was given back as asked.
    GivenBack,
    /// The work has another digest than the offer.
    OtherWork,
    /// The programs here can't do it, for this reason.
    Unfit(Reason),
    /// The slave is in this operating mode.
    NotInProduction(Mode),
    /// A person at the machine has locked remote starts out.
    LocalLock,
    /// Its latest start has passed.
    WindowClosed,
    /// These jobs are all that the slave may hold of those that could start.
    Full(Vec<JobId>),
    /// These jobs are all that the slave may hold of those that wait for their time or for a person.
    FullOfDeferred(Vec<JobId>),
    /// The slave keeps as many jobs, ended ones included, as one message can tell of.
    TooManyKept,
    /// The work is this many bytes, which is more than one job may have.
    TooLarge { size: usize },
    /// The slave keeps as much work as one message can tell of.
    TooMuchKept,
}

impl Decline {
    /// Whether the slave would decline the offer at any other time too.
    pub fn is_for_good(&self) -> bool {
        match self {
            Self::NeverHere | Self::OtherWork | Self::Unfit(_) | Self::TooLarge { .. } => true,
            Self::OlderAttempt { .. }
            | Self::NotStartedHere
            | Self::WorkNeeded
            | Self::GivenBack
            | Self::NotInProduction(_)
            | Self::LocalLock
            | Self::WindowClosed
            | Self::Full(_)
            | Self::FullOfDeferred(_)
            | Self::TooManyKept
            | Self::TooMuchKept => false,
        }
    }
}

/// What was done because a person at the machine commanded it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Done {
    /// The machine is clear of this job.
    Unloaded(JobId),
    /// This needs no attention any more.
    Cleared(Attention),
    Locked,
    Unlocked,
    Pausing(JobId),
    Resuming(JobId),
    /// It was paused before its start, and may start now.
    MayStart(JobId),
    Stopping(JobId),
    /// It is stopped if the machine, which is being asked, still works at it.
    StoppingIfAtWork(JobId),
    Resolved(JobId),
}

/// Why a command of a person at the machine changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum NotDone {
    NotUnloading,
    NoAttention,
    /// The job at the machine is in a state in which this can't be done.
    InState(JobId, State),
    NothingRuns,
    NothingUncertain,
    /// More than one job is uncertain, and none was named.
    ManyUncertain,
    /// The named job is not uncertain.
    NotUncertain(JobId),
}

/// Why a question of the master changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AskRefused {
    /// The machine is not waiting to be cleared of the job that the question names.
    NotUnloading,
    /// What the question names needs no attention.
    NoAttention,
}

/// Why the slave closes a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Closing {
    /// The master refused the slave, in one line of its words.
    Refused { code: CloseCode, text: String },
    /// The master speaks these versions, and the slave none of them.
    Version(Versions),
    /// The Welcome comes from another master than the Challenge.
    OtherMaster,
    /// The Welcome is of an older epoch than the binding.
    OlderEpoch,
    /// Another master admitted the slave, which introduces itself again.
    Admitted,
    /// A master does not send this on a live link.
    OutOfPlace,
}

impl Closing {
    pub fn code(&self) -> CloseCode {
        match self {
            Self::Refused { code, .. } => *code,
            Self::Version(_) => CloseCode::Version,
            Self::OtherMaster | Self::OlderEpoch | Self::OutOfPlace => CloseCode::Protocol,
            Self::Admitted => CloseCode::GoingAway,
        }
    }
}

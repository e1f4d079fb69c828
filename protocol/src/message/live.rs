//! What both nodes say on a live link.

use super::{Attention, Reason};
use crate::id::{Attempt, Generation, JobId, ReportSeq, Run};
use crate::job::State;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// A job's progress when all of it is done: it is counted in thousandths.
pub const ALL_OF_IT: u16 = 1000;

/// The slave's whole truth about one job: to one job what Hello is to all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Which beginning of it.
    pub run: Run,
    /// The newest desired state that it knows.
    pub generation: Generation,
    /// Orders the reports of one attempt.
    pub seq: ReportSeq,
    /// What it is.
    pub state: State,
    /// What an accepted job waits for.
    pub waiting_for: Option<WaitingFor>,
    /// How far, in thousandths.
    pub progress: Option<u16>,
    /// What the program says that it is doing.
    pub note: Option<String>,
    /// When it went to the slave's disk.
    pub accepted_at: Time,
    /// When the machine began.
    pub started_at: Option<Time>,
    /// Under which desired state it began.
    pub started_generation: Option<Generation>,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// How the machine's work ended, if the machine said so.
    pub outcome: Option<Outcome>,
    /// Why it is what it is.
    pub reason: Option<Reason>,
    /// Beside the state.
    pub flags: Flags,
    /// Who caused the last change.
    pub source: Source,
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// A process's exit status.
    pub exit_code: Option<i32>,
    /// The signal that ended a process.
    pub signal: Option<i32>,
    /// What the machine said.
    pub text: String,
}

/// The slave does not hold this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Declined {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The desired state that this answers; an older one than the newest settles nothing.
    pub generation: Generation,
    /// Why.
    pub reason: Reason,
    /// It would not take it another time either.
    pub for_good: bool,
}

/// This ended job is on the master's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forget {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The report that is on the disk; a newer one would not be forgotten.
    pub seq: ReportSeq,
}

/// What an accepted job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WaitingFor {
    /// Another job is first.
    Turn,
    /// Its time.
    Time,
    /// Something that it needs is not there yet.
    Artifact,
    /// The machine to be ready.
    Ready,
    /// A person's release.
    Operator,
    /// A clock that can be trusted.
    Clock,
}

impl WaitingFor {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Time => "time",
            Self::Artifact => "artifact",
            Self::Ready => "ready",
            Self::Operator => "operator",
            Self::Clock => "clock",
        }
    }
}

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    /// A desired state of the master.
    Remote,
    /// A person at the machine.
    Local,
    /// The slave's own rules.
    Slave,
    /// The machine.
    Machine,
}

impl Source {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
            Self::Slave => "slave",
            Self::Machine => "machine",
        }
    }
}

/// Facts beside a job's state, never mixed into it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Flags(pub u16);

impl Flags {
    /// It runs longer than its order allows.
    pub const OVERDUE: Self = Self(1);
    /// The cancel came when it was over, or could no longer be stopped by its mode.
    pub const CANCEL_TOO_LATE: Self = Self(1 << 1);
    /// Two slaves had it under way.
    pub const DUPLICATE: Self = Self(1 << 2);
    /// The master learned of it from its slave.
    pub const ADOPTED: Self = Self(1 << 3);
    /// The outcome came after a person had given the job up.
    pub const LATE_RESULT: Self = Self(1 << 4);
    /// Its start was missed while the slave was off.
    pub const MISSED_START: Self = Self(1 << 5);
    /// It was interrupted and begun again.
    pub const INTERRUPTED: Self = Self(1 << 6);
    /// A slave speaks of an attempt that the master, by all that it knows, has never assigned to it.
    pub const CLAIMED: Self = Self(1 << 7);
    /// It waited when the master was restored, and a slave may have done it in the time that is forgotten.
    pub const RESTORED: Self = Self(1 << 8);
    /// Its slave acted on an older desired state before it knew the newest one, and against it.
    pub const OVERTAKEN: Self = Self(1 << 9);

    /// What only the master says, and of one attempt.
    pub const MASTERS_OF_ATTEMPT: Self = Self(Self::LATE_RESULT.0 | Self::OVERTAKEN.0);

    /// What the master says of one attempt, and not of the job.
    pub const OF_ATTEMPT: Self = Self(Self::CANCEL_TOO_LATE.0 | Self::MASTERS_OF_ATTEMPT.0);

    /// What a slave says.
    pub const OF_SLAVE: Self =
        Self(Self::OVERDUE.0 | Self::CANCEL_TOO_LATE.0 | Self::MISSED_START.0 | Self::INTERRUPTED.0);

    const NAMES: [(Self, &'static str); 10] = [
        (Self::OVERDUE, "overdue"),
        (Self::CANCEL_TOO_LATE, "cancel_too_late"),
        (Self::DUPLICATE, "duplicate"),
        (Self::ADOPTED, "adopted"),
        (Self::LATE_RESULT, "late_result"),
        (Self::MISSED_START, "missed_start"),
        (Self::INTERRUPTED, "interrupted"),
        (Self::CLAIMED, "claimed"),
        (Self::RESTORED, "restored"),
        (Self::OVERTAKEN, "overtaken"),
    ];

    /// All of these are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    /// Sets these.
    pub fn set(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    /// Takes these away.
    pub fn clear(&mut self, flags: Self) {
        self.0 &= !flags.0;
    }

    /// Those that are among these.
    #[must_use]
    pub fn among(self, flags: Self) -> Self {
        Self(self.0 & flags.0)
    }

    /// The words that people and programs see.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A question that needs its answer now, and names what it assumes: a stale one has no force.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Pairs the answer with the question.
    pub id: u32,
    /// What.
    pub question: Question,
}

/// What a master may ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// Somebody confirms that the machine is clear of this job's work.
    Ready {
        /// The job that it was `unloading`.
        unloading: JobId,
    },
    /// Somebody has looked at what needed attention.
    Clear {
        /// What needed it.
        attention: Attention,
    },
    /// A part of a job's output.
    Log {
        /// Which job.
        job: JobId,
        /// Which attempt.
        attempt: Attempt,
        /// Which beginning of it.
        run: Run,
        /// From which byte; the end of the output if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Pairs the answer with the question.
    pub id: u32,
    /// What.
    pub answer: Reply,
}

/// What a slave may answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// Done, durably.
    Done,
    /// Not done, and what would do it.
    Refused(String),
    /// A part of a job's output.
    Log {
        /// Where the part begins.
        offset: u64,
        /// How long the output is.
        total: u64,
        /// The part.
        bytes: Vec<u8>,
    },
}

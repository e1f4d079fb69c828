//! The messages of a live link, but the machine's condition and the desired state.

use super::{Attention, Reason};
use crate::id::{Attempt, Generation, JobId, ReportSeq, Run};
use crate::job::State;
use crate::time::Time;
use serde::{Deserialize, Serialize};

/// A job's progress when all of it is done: it is counted in thousandths.
pub const ALL_OF_IT: u16 = 1000;

/// Everything that a slave knows of one job. A newer report replaces an older one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Report {
    pub job: JobId,
    pub attempt: Attempt,
    /// How often this attempt was begun; 0 before the first time.
    pub run: Run,
    /// The newest desired state that the slave knows.
    pub generation: Generation,
    /// Orders the reports of one attempt: the highest is the newest.
    pub seq: ReportSeq,
    pub state: State,
    /// Of an accepted job, and only there.
    pub waiting_for: Option<WaitingFor>,
    /// Thousandths of the work that are done.
    pub progress: Option<u16>,
    /// What the program says it is doing.
    pub note: Option<String>,
    /// When the slave took the offer. All times here are by the master's clock, as well as the slave can tell it.
    pub accepted_at: Time,
    /// When the machine was first known to work on it, in any run of this attempt.
    pub started_at: Option<Time>,
    /// The newest desired state that the slave knew then.
    pub started_generation: Option<Generation>,
    pub ended_at: Option<Time>,
    /// What the machine said of the end, if it said anything.
    pub outcome: Option<Outcome>,
    /// Why it is in this state, if that needs saying.
    pub reason: Option<Reason>,
    pub flags: Flags,
    /// Who caused the newest change.
    pub source: Source,
}

impl Report {
    /// A machine has worked on it under this attempt, or may have: what was interrupted while it started may have begun.
    pub fn has_begun(&self) -> bool {
        self.started_at.is_some() || self.flags.has(Flags::INTERRUPTED)
    }
}

/// What the machine said of how the work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Outcome {
    /// The exit status of a process that exited by itself.
    pub exit_code: Option<i32>,
    /// The number of the signal that ended a process.
    pub signal: Option<i32>,
    /// The machine's own words, for people.
    pub text: String,
}

/// The slave does not hold this attempt: it declines an offer, or has given the job back.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Declined {
    pub job: JobId,
    pub attempt: Attempt,
    /// The desired state that this answers. If the master has a newer one by then, the message counts only with
    /// [`ReasonCode::GivenBack`](super::ReasonCode).
    pub generation: Generation,
    pub reason: Reason,
    /// Whether the slave would decline it at any other time too.
    pub for_good: bool,
}

/// This ended job is on the master's disk: the slave need not hold it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Forget {
    pub job: JobId,
    pub attempt: Attempt,
    /// The report that is on the master's disk. A slave that has made a newer one ignores the message.
    pub seq: ReportSeq,
}

/// What an accepted job waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum WaitingFor {
    /// For another job to end, or to start first.
    Turn,
    /// For its `not_before`.
    Time,
    /// For something that it needs. Not used yet.
    Artifact,
    /// For the machine: something bars every start.
    Ready,
    /// For a person: it is held, paused, or its start was missed.
    Operator,
    /// For the master's time, which the slave does not know yet.
    Clock,
    /// For the master to recall it: by its config of today this slave can't do it.
    Elsewhere,
}

impl WaitingFor {
    /// Its name in the REST interface, in the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Turn => "turn",
            Self::Time => "time",
            Self::Artifact => "artifact",
            Self::Ready => "ready",
            Self::Operator => "operator",
            Self::Clock => "clock",
            Self::Elsewhere => "elsewhere",
        }
    }
}

/// Who caused a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Source {
    Remote,
    Local,
    /// The slave's own rules.
    Slave,
    Machine,
}

impl Source {
    /// Its name in the REST interface, in the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Remote => "remote",
            Self::Local => "local",
            Self::Slave => "slave",
            Self::Machine => "machine",
        }
    }
}

/// What is to be known of a job beside its state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Flags(pub u16);

impl Flags {
    /// It runs longer than its order allows.
    pub const OVERDUE: Self = Self(1);
    /// A cancel did not end it: it had ended, it succeeded all the same, or it had started and the mode stops nothing that has started.
    pub const CANCEL_TOO_LATE: Self = Self(1 << 1);
    /// Two slaves began it, or a slave reported two different ends.
    pub const DUPLICATE: Self = Self(1 << 2);
    /// The master did not know the job and took it over from its slave.
    pub const ADOPTED: Self = Self(1 << 3);
    /// A report came after the attempt had been given up, or an earlier attempt speaks again.
    pub const LATE_RESULT: Self = Self(1 << 4);
    /// Its slave found its `not_before` past by more than the slave's tolerance.
    pub const MISSED_START: Self = Self(1 << 5);
    /// A run of it was interrupted, and the machine does not know how that run ended.
    pub const INTERRUPTED: Self = Self(1 << 6);
    /// A slave reports an attempt that was never assigned to it.
    pub const CLAIMED: Self = Self(1 << 7);
    /// It waited when the master was restored from a backup; a slave may have done it since the backup was made.
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

    /// Whether all of these are set.
    pub fn has(self, flags: Self) -> bool {
        self.0 & flags.0 == flags.0
    }

    pub fn set(&mut self, flags: Self) {
        self.0 |= flags.0;
    }

    pub fn clear(&mut self, flags: Self) {
        self.0 &= !flags.0;
    }

    /// Those that are among these.
    #[must_use]
    pub fn among(self, flags: Self) -> Self {
        Self(self.0 & flags.0)
    }

    /// The names of those that are set, as the REST interface and the command line show them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |(flag, _)| self.has(*flag)).map(|(_, name)| name)
    }
}

impl std::fmt::Debug for Flags {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// A question that is answered at once or not at all. It names what it is about, so that a late one changes nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ask {
    /// Pairs the answer with the question.
    pub id: u32,
    pub question: Question,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// A person confirms that this job's work is out of the machine.
    Ready {
        /// The job that [`MachineReport::unloading`](super::MachineReport) names.
        unloading: JobId,
    },
    /// A person has looked at what needed attention.
    Clear {
        /// The attention that [`MachineReport::attention`](super::MachineReport) names.
        attention: Attention,
    },
    /// A part of the output of one run.
    Log {
        job: JobId,
        attempt: Attempt,
        /// How often this attempt was begun; 0 before the first time.
        run: Run,
        /// The first byte; `None`: the last `limit` bytes.
        offset: Option<u64>,
        /// At most this many bytes, and at most [`LOG_BYTES`](crate::limits::LOG_BYTES).
        limit: u32,
    },
}

/// The answer to an [`Ask`].
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Answer {
    /// Pairs the answer with the question.
    pub id: u32,
    pub answer: Reply,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Reply {
    /// Done, and on disk.
    Done,
    /// Not done; the text says what would help.
    Refused(String),
    /// A part of the output of one run.
    Log {
        /// The first byte of the part.
        offset: u64,
        /// The length of the whole output in bytes, at this moment.
        total: u64,
        bytes: Vec<u8>,
    },
}

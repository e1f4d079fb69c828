//! The machine's condition, and the slave's operating mode.

use crate::id::{Generation, JobId};
use serde::{Deserialize, Serialize};

/// The operating mode that people gave a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperatingMode {
    /// Raised with each change: the highest is the newest.
    pub generation: Generation,
    pub mode: Mode,
}

/// An operating mode: what a slave may do by people's decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Mode {
    /// It takes jobs and starts them.
    #[default]
    Production,
    /// It starts and finishes the jobs that it has, and takes no more.
    Draining,
    /// Nothing starts while people work at the machine.
    Maintenance,
    /// Nothing starts until it is enabled again.
    Disabled,
    /// Nothing starts until a person has looked: its identity or store is in doubt.
    Quarantined,
}

impl Mode {
    pub const ALL: [Self; 5] =
        [Self::Production, Self::Draining, Self::Maintenance, Self::Disabled, Self::Quarantined];

    /// Its name in the REST interface, in the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Disabled => "disabled",
            Self::Quarantined => "quarantined",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// Whether a job that the slave holds may start.
    pub fn may_start(self) -> bool {
        match self {
            Self::Production | Self::Draining => true,
            Self::Maintenance | Self::Disabled | Self::Quarantined => false,
        }
    }
}

/// The machine's condition. Sent whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineReport {
    pub activity: Activity,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<JobId>,
    pub attention: Option<Attention>,
    /// An uncertain job: nothing starts before a person has said how it ended.
    pub uncertain: Option<JobId>,
    /// Whether a person at the machine has locked remote starts out.
    pub local_lock: bool,
    /// The operating mode that the slave obeys.
    pub operating_mode: OperatingMode,
    /// With [`Attention::MachineUnfit`] and [`Attention::FailuresInRow`], what the machine said; at most [`CAUSE_BYTES`](crate::limits::CAUSE_BYTES).
    pub cause: Option<String>,
}

impl MachineReport {
    /// Whether a job could start, if none runs. What keeps the machine from that needs a person, or passes.
    pub fn may_start(&self) -> bool {
        let is_asked_for = self.attention.is_some() || self.unloading.is_some() || self.uncertain.is_some();
        !is_asked_for && !self.local_lock && self.activity.may_start()
    }

    /// The cause of the attention and what ends it, for people.
    pub fn attention_text(&self) -> Option<String> {
        Some(self.attention?.text(self.cause.as_deref()))
    }
}

/// What the machine does, worked out by its slave from the fields of [`MachineReport`]. The master assigns jobs first to slaves
/// that are `Ready`; all else is for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// No job runs, and none may start.
    Idle,
    /// No job runs, and one may start.
    Ready,
    /// A job is being started.
    Preparing,
    Running,
    Paused,
    /// A job ended and nobody has confirmed that the machine is clear.
    Unloading,
    /// A person is needed: see [`Attention`], or a job is uncertain.
    Attention,
    /// A person is needed after a job failed.
    Fault,
    /// The machine's controller does not answer. Not used yet.
    MachineOff,
    /// The machine has not said yet what it does with a job of before the agent's start.
    Unknown,
}

impl Activity {
    pub const ALL: [Self; 10] = [
        Self::Idle,
        Self::Ready,
        Self::Preparing,
        Self::Running,
        Self::Paused,
        Self::Unloading,
        Self::Attention,
        Self::Fault,
        Self::MachineOff,
        Self::Unknown,
    ];

    /// Whether a job may start now, or when the one that runs is over.
    pub fn may_start(self) -> bool {
        match self {
            Self::Ready | Self::Preparing | Self::Running | Self::Paused => true,
            Self::Idle
            | Self::Unloading
            | Self::Attention
            | Self::Fault
            | Self::MachineOff
            | Self::Unknown => false,
        }
    }

    /// Whether a job runs.
    pub fn is_at_work(self) -> bool {
        matches!(self, Self::Preparing | Self::Running | Self::Paused)
    }

    /// Its name in the REST interface, in the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Ready => "ready",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Unloading => "unloading",
            Self::Attention => "attention",
            Self::Fault => "fault",
            Self::MachineOff => "machine_off",
            Self::Unknown => "unknown",
        }
    }
}

/// Why a person is needed at a machine. The command `clear` ends each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Attention {
    /// The slave's store is new and its key is not: what the machine did before is forgotten.
    StoreReplaced,
    /// The slave's store went back in time: see [`Store::RolledBack`](crate::reconcile::Store).
    StoreRolledBack,
    /// The box has another fingerprint: it may stand on another machine.
    Moved,
    /// A job failed, and the slave's config says that a person has to look then.
    Fault,
    /// The master knows of a job that this slave accepted, and the slave's store lacks it.
    MemoryGap,
    /// The machine could not begin a job, for a cause of its own: a full disk, a program whose file is missing.
    MachineUnfit,
    /// As many jobs in a row have failed as the slave's config allows.
    FailuresInRow,
}

impl Attention {
    /// Its name in the REST interface, in the command line and in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreReplaced => "store_replaced",
            Self::StoreRolledBack => "store_rolled_back",
            Self::Moved => "moved",
            Self::Fault => "fault",
            Self::MemoryGap => "memory_gap",
            Self::MachineUnfit => "machine_unfit",
            Self::FailuresInRow => "failures_in_row",
        }
    }

    /// The cause and what ends it, for people; `cause` is what the machine said.
    pub(crate) fn text(self, cause: Option<&str>) -> String {
        match (self, cause) {
            (Self::MachineUnfit, Some(cause)) => {
                format!(
                    "it could not begin a job: {cause}; mend that: it goes on within 10 minutes, or at once after `clear`"
                )
            }
            (Self::FailuresInRow, Some(cause)) => {
                format!(
                    "job after job has failed there, the last with: {cause}; look at the machine, then `clear`"
                )
            }
            (attention, _) => attention.advice().to_owned(),
        }
    }

    /// What it is and what ends it, for people.
    pub fn advice(self) -> &'static str {
        match self {
            Self::StoreReplaced => "its store is new: look at the machine, then `clear`",
            Self::StoreRolledBack => "its store went back in time: look at the machine, then `clear`",
            Self::Moved => "the box has another fingerprint: look at the machine, then `clear`",
            Self::Fault => "its last job failed: look at the machine, then `clear`",
            Self::MemoryGap => {
                "its store lacks a job that it had accepted: look at the machine, then `clear`"
            }
            Self::FailuresInRow => "job after job has failed there: look at the machine, then `clear`",
            Self::MachineUnfit => {
                "it could not begin a job: mend what kept it from that, and it goes on within 10 minutes, or at once after `clear`"
            }
        }
    }
}

//! The machine's condition, and what people decided about its slave.

use crate::id::{Generation, JobId};
use serde::{Deserialize, Serialize};

/// How people want the slave to behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OperatingMode {
    /// Orders the changes.
    pub generation: Generation,
    /// What people decided.
    pub mode: Mode,
}

/// What people decided about a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Mode {
    /// It takes jobs.
    #[default]
    Production,
    /// It finishes what it has and takes no more.
    Draining,
    /// People work at it: nothing starts.
    Maintenance,
    /// Nothing starts until it is enabled again.
    Disabled,
    /// Its identity or memory is in doubt: nothing starts until a person has looked.
    Quarantined,
}

impl Mode {
    /// Every mode, in wire order.
    pub const ALL: [Self; 5] =
        [Self::Production, Self::Draining, Self::Maintenance, Self::Disabled, Self::Quarantined];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Production => "production",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Disabled => "disabled",
            Self::Quarantined => "quarantined",
        }
    }

    /// The mode of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.name() == name)
    }

    /// A job that the slave holds may start.
    pub fn may_start(self) -> bool {
        match self {
            Self::Production | Self::Draining => true,
            Self::Maintenance | Self::Disabled | Self::Quarantined => false,
        }
    }
}

/// The machine's condition: a level, sent whenever it changes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MachineReport {
    /// What it does.
    pub activity: Activity,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<JobId>,
    /// Why a person is needed.
    pub attention: Option<Attention>,
    /// The job of which nobody knows what became: a person has to say, before anything starts.
    pub uncertain: Option<JobId>,
    /// A person at the machine has locked remote starts out.
    pub local_lock: bool,
    /// The mode that the slave obeys.
    pub operating_mode: OperatingMode,
    /// What the machine said, with [`Attention::MachineUnfit`].
    pub cause: Option<String>,
}

impl MachineReport {
    /// Why a person is needed, for people: the cause and what ends it.
    pub fn attention_text(&self) -> Option<String> {
        match (self.attention?, &self.cause) {
            (Attention::MachineUnfit, Some(cause)) => {
                Some(format!("it could not begin a job: {cause}; mend that, then `clear`"))
            }
            (attention, _) => Some(attention.advice().to_owned()),
        }
    }
}

/// What a machine does, as its slave reports it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Activity {
    /// No job; it may not start one.
    Idle,
    /// It may start a job.
    Ready,
    /// A job is being started.
    Preparing,
    /// A job runs.
    Running,
    /// A job is paused.
    Paused,
    /// A job ended and nobody has confirmed that the machine is clear.
    Unloading,
    /// A person is needed.
    Attention,
    /// The machine is in fault.
    Fault,
    /// The slave is there, the machine's controller is not.
    MachineOff,
    /// The slave does not know yet.
    Unknown,
}

impl Activity {
    /// Every activity, in wire order.
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

    /// The word that people and programs see.
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

/// Why a person is needed at a machine. Each is ended by one action, `clear`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Attention {
    /// The slave's database is new while its key is not: nobody remembers what the machine did.
    StoreReplaced,
    /// The master knows a higher session: the slave's database went back in time.
    StoreRolledBack,
    /// The box has another fingerprint: it may stand on another machine.
    Moved,
    /// A job's work failed, and the config says that somebody has to look.
    Fault,
    /// The master knows of a job that was accepted here, and the slave's database does not.
    MemoryGap,
    /// It could not begin a job, for a cause at the machine: a full disk, a program that is not there.
    MachineUnfit,
}

impl Attention {
    /// The stable code that programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::StoreReplaced => "store_replaced",
            Self::StoreRolledBack => "store_rolled_back",
            Self::Moved => "moved",
            Self::Fault => "fault",
            Self::MemoryGap => "memory_gap",
            Self::MachineUnfit => "machine_unfit",
        }
    }

    /// For people: what it is, and what ends it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::StoreReplaced => "its database is new: look at the machine, then `clear`",
            Self::StoreRolledBack => "its database went back in time: look at the machine, then `clear`",
            Self::Moved => "the box has another fingerprint: look at the machine, then `clear`",
            Self::Fault => "its last job failed: look at the machine, then `clear`",
            Self::MemoryGap => {
                "its database lacks a job that it had accepted: look at the machine, then `clear`"
            }
            Self::MachineUnfit => "it could not begin a job: mend what kept it from that, then `clear`",
        }
    }
}

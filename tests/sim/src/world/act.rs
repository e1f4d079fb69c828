//! Everything that may happen in a world, as data: what a schedule is made of.
//!
//! An act is total: one that makes no sense in the world as it is does nothing. So any part of a schedule is a schedule,
//! and a schedule that breaks something can be cut down to what it takes. Jobs are named by numbers of the schedule's own
//! and not by when they came, so that what is left means the same.

use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::message::Mode;
use reloop_protocol::spec::{CancelMode, Late};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// What waits at a slave moves: messages, its machine's words, its next connection.
    Pump {
        slave: usize,
        /// How many of them, at most.
        moves: usize,
    },
    /// The same at all slaves, in turn.
    Stir {
        from: usize,
        /// How many, at most.
        moves: usize,
    },
    Pass {
        ms: i64,
    },
    /// A frame of a dead link arrives.
    Late {
        frame: usize,
    },
    /// A client places an order of one job.
    Place {
        /// The schedule's number for it.
        job: usize,
        order: Placed,
    },
    /// A client or an operator wants something of a job.
    Job {
        job: usize,
        command: JobAct,
    },
    /// An operator wants something of a slave.
    Slave {
        slave: usize,
        command: SlaveAct,
    },
    /// A person at a machine wants something.
    Local {
        slave: usize,
        command: LocalAct,
    },
    /// The cable is pulled, and both ends notice.
    Cut {
        slave: usize,
    },
    /// The cable is pulled, and only the slave notices.
    HalfOpen {
        slave: usize,
    },
    /// The link swallows everything, and nobody notices.
    Swallow {
        slave: usize,
    },
    /// The cable is put back, and whoever was turned away dials again.
    Plug {
        slave: usize,
    },
    /// An agent is killed; its machine goes on.
    Kill {
        slave: usize,
    },
    /// A dead agent starts.
    Revive {
        slave: usize,
    },
    /// The power of a box is cut and comes back.
    Reboot {
        slave: usize,
    },
    /// An agent will crash once it has done so many more things.
    Crash {
        slave: usize,
        effects: usize,
    },
    /// The master will crash once it has done so many more things.
    CrashMaster {
        effects: usize,
    },
    /// The master is killed.
    KillMaster,
    /// A dead master starts.
    StartMaster,
    /// What a machine does from now on.
    Machine {
        slave: usize,
        /// It does not answer probes.
        silent: bool,
        /// It refuses to stop.
        unstoppable: bool,
        /// It refuses to start.
        refuses: bool,
        fails: bool,
        /// It takes time to begin.
        #[serde(default, skip_serializing_if = "is_default")]
        slow: bool,
        /// It can't begin anything, and proves that.
        #[serde(default, skip_serializing_if = "is_default")]
        unfit: bool,
        /// What it is to begin is not there any more.
        #[serde(default, skip_serializing_if = "is_default")]
        rejects: bool,
        /// It takes time to answer a probe.
        #[serde(default, skip_serializing_if = "is_default")]
        ponders: bool,
    },
    /// How fast it is known whether a link still lives.
    Pings {
        slow: bool,
    },
    /// A slave is given a token that enrols it, and dials again.
    Enroll {
        slave: usize,
    },
    /// A slave's disk is replaced.
    ReplaceDisk {
        slave: usize,
    },
    /// A slave's disk is copied.
    SaveDisk {
        slave: usize,
    },
    /// That copy is put back in.
    PutBackDisk {
        slave: usize,
    },
    /// A copy of a slave's disk, key included, runs in another box.
    Clone {
        slave: usize,
    },
    /// The master's files are backed up.
    BackUp,
    /// They are put back.
    Restore {
        /// A person confirms it.
        confirmed: bool,
    },
    /// A person confirms that this master was restored.
    Confirm,
    /// The master loses everything.
    WipeMaster,
    /// A second master runs on a copy of the first one's files.
    Double {
        /// A person raises its epoch.
        confirmed: bool,
    },
    /// A slave is pointed at one of two masters.
    Dial {
        slave: usize,
        double: bool,
    },
    /// The second master goes.
    EndDouble,
    /// A slave that is enrolled and has never been handed anything speaks for a job.
    Lie {
        job: usize,
        /// How far beyond the newest attempt.
        ahead: u32,
        /// What it says that the job is.
        said: Said,
    },
    /// A slave's wall clock jumps.
    SlaveClock {
        slave: usize,
        by_ms: i64,
    },
    /// The masters' clock jumps.
    MastersClock {
        by_ms: i64,
    },
}

/// An order in a schedule; moments are counted from when it is placed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct Placed {
    /// The other of the two programs.
    #[serde(skip_serializing_if = "is_default")]
    pub bake: bool,
    /// If it is interrupted.
    #[serde(skip_serializing_if = "is_default")]
    pub on_interrupt: OnInterrupt,
    /// It is stopped when it runs longer than it may.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_overdue: bool,
    /// How long it may run.
    #[serde(skip_serializing_if = "is_default")]
    pub max_runtime_ms: Option<u64>,
    /// The highest goes first.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub not_before_ms: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub deadline_ms: Option<i64>,
    /// If its start passes while its slave is off.
    #[serde(skip_serializing_if = "is_default")]
    pub late: Late,
    /// A person has to let it go.
    #[serde(skip_serializing_if = "is_default")]
    pub held: bool,
    /// It is tried again if it fails.
    #[serde(skip_serializing_if = "is_default")]
    pub again: bool,
    /// Only this slave may do it.
    #[serde(skip_serializing_if = "is_default")]
    pub slave: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What somebody wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAct {
    Cancel(CancelMode),
    Pause,
    Resume,
    Release {
        /// How long the word holds.
        valid_ms: u64,
    },
    Reschedule {
        /// From now.
        not_before_ms: Option<i64>,
        /// From now.
        deadline_ms: Option<i64>,
        /// If that passes while the slave is off.
        late: Late,
    },
    Retry,
    Resolve(End),
    Abandon,
}

/// What a slave may say that a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    Accepted,
    Running,
    Uncertain,
    Succeeded,
    Failed,
}

impl Said {
    pub fn state(self) -> State {
        match self {
            Self::Accepted => State::Accepted,
            Self::Running => State::Running,
            Self::Uncertain => State::Uncertain,
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
        }
    }
}

/// What an operator wants of a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlaveAct {
    Mode(Mode),
    Ready,
    Clear,
    Approve,
    Forget,
}

/// What a person at a machine wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalAct {
    Ready,
    Clear,
    Pause,
    Resume,
    Stop {
        /// At once, not at a safe point.
        now: bool,
    },
    Lock(bool),
    Resolve(End),
}

impl Act {
    /// Its kind in one word, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pump { .. } | Self::Stir { .. } => "moves",
            Self::Pass { .. } => "time",
            Self::Late { .. } => "late frame",
            Self::Place { .. } => "order",
            Self::Job { .. } => "job command",
            Self::Slave { .. } => "slave command",
            Self::Local { .. } => "local command",
            Self::Cut { .. } => "cut",
            Self::HalfOpen { .. } => "half-open",
            Self::Swallow { .. } => "swallowed",
            Self::Plug { .. } => "plug",
            Self::Kill { .. } => "agent killed",
            Self::Revive { .. } => "agent started",
            Self::Reboot { .. } => "reboot",
            Self::Crash { .. } => "agent crash between effects",
            Self::CrashMaster { .. } => "master crash between effects",
            Self::KillMaster => "master killed",
            Self::StartMaster => "master started",
            Self::Machine { .. } => "machine changed",
            Self::Pings { .. } => "pings changed",
            Self::Enroll { .. } => "token given",
            Self::ReplaceDisk { .. } => "disk replaced",
            Self::SaveDisk { .. } => "disk saved",
            Self::PutBackDisk { .. } => "disk put back",
            Self::Clone { .. } => "box cloned",
            Self::BackUp => "backup",
            Self::Restore { confirmed: true } => "master restored, confirmed",
            Self::Restore { confirmed: false } => "master restored, unconfirmed",
            Self::Confirm => "confirmed",
            Self::WipeMaster => "master wiped",
            Self::Double { confirmed: true } => "master doubled, confirmed",
            Self::Double { confirmed: false } => "master doubled, unconfirmed",
            Self::Dial { .. } => "dialed another master",
            Self::EndDouble => "double ended",
            Self::Lie { .. } => "lie",
            Self::SlaveClock { .. } => "slave's clock jumped",
            Self::MastersClock { .. } => "master's clock jumped",
        }
    }
}

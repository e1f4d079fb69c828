//! Everything that may happen in a world, as data: a schedule is a list of acts.
//!
//! An act that makes no sense in the world as it is does nothing. So any part of a schedule is a schedule, and a
//! failing schedule can be cut down. Jobs have numbers in the schedule that do not depend on the order of acts, so that
//! the remaining acts keep their meaning.

use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::message::Mode;
use reloop_protocol::spec::{CancelMode, Late};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// Moves what waits at a slave: messages, its machine's facts, its next connection.
    Pump {
        slave: usize,
        /// The limit of moves.
        moves: usize,
    },
    /// The same at all slaves, in turn.
    Stir {
        from: usize,
        /// The limit of moves.
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
        /// The schedule's number for the job.
        job: usize,
        order: Placed,
    },
    /// A client's or operator's command for a job.
    Job {
        job: usize,
        command: JobAct,
    },
    /// An operator's command for a slave.
    Slave {
        slave: usize,
        command: SlaveAct,
    },
    /// A command at a machine.
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
    /// The link swallows everything, and neither end notices.
    Swallow {
        slave: usize,
    },
    /// The cable is put back, and a slave that was refused for good dials again.
    Plug {
        slave: usize,
    },
    /// An agent is killed; its machine goes on.
    Kill {
        slave: usize,
    },
    /// An agent that is down starts.
    Revive {
        slave: usize,
    },
    /// A box loses its power and restarts.
    Reboot {
        slave: usize,
    },
    /// An agent will crash after this many more effects.
    Crash {
        slave: usize,
        effects: usize,
    },
    /// The master will crash after this many more effects.
    CrashMaster {
        effects: usize,
    },
    KillMaster,
    StartMaster,
    /// How a machine behaves from now on.
    Machine {
        slave: usize,
        /// It does not answer probes.
        silent: bool,
        /// It refuses to stop.
        unstoppable: bool,
        /// It refuses to start.
        refuses: bool,
        fails: bool,
        /// It begins work later and not at once.
        #[serde(default, skip_serializing_if = "is_default")]
        slow: bool,
        /// It can't start anything, and proves that nothing began.
        #[serde(default, skip_serializing_if = "is_default")]
        unfit: bool,
        /// The program is missing.
        #[serde(default, skip_serializing_if = "is_default")]
        rejects: bool,
        /// It answers probes later and not at once.
        #[serde(default, skip_serializing_if = "is_default")]
        ponders: bool,
    },
    /// A slave's config is another one from the next start of its agent on.
    Configure {
        slave: usize,
        /// It allows no wide work.
        narrow: bool,
        /// It lacks the label that orders may require.
        bare: bool,
    },
    /// How fast links answer pings.
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
    /// That copy is put back.
    PutBackDisk {
        slave: usize,
    },
    /// A copy of a slave's disk, with its key, runs in another box.
    Clone {
        slave: usize,
    },
    /// A backup of the master's files.
    BackUp,
    /// The master is restored from its backup.
    Restore {
        /// A person confirms it.
        confirmed: bool,
    },
    /// A person confirms that this master was restored.
    Confirm,
    /// The master loses all its data.
    WipeMaster,
    /// A second master runs on a copy of the first one's files.
    Double {
        /// A person raises its epoch.
        confirmed: bool,
    },
    /// A slave dials one of two masters.
    Dial {
        slave: usize,
        double: bool,
    },
    /// The second master is removed.
    EndDouble,
    /// An enrolled slave that was never assigned anything reports a job.
    Lie {
        job: usize,
        /// How many attempts after the newest one.
        ahead: u32,
        /// The state that it reports.
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

/// An order in a schedule; times are relative to its placement.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct Placed {
    /// The program `bake` instead of `mill`.
    #[serde(skip_serializing_if = "is_default")]
    pub bake: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub on_interrupt: OnInterrupt,
    /// It is stopped when it exceeds `max_runtime_ms`; otherwise it is only flagged.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_overdue: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub max_runtime_ms: Option<u64>,
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    #[serde(skip_serializing_if = "is_default")]
    pub not_before_ms: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub deadline_ms: Option<i64>,
    #[serde(skip_serializing_if = "is_default")]
    pub late: Late,
    /// A person has to release it.
    #[serde(skip_serializing_if = "is_default")]
    pub held: bool,
    /// It is retried if it fails.
    #[serde(skip_serializing_if = "is_default")]
    pub again: bool,
    /// The retry waits as long as it does by default.
    #[serde(skip_serializing_if = "is_default")]
    pub backs_off: bool,
    /// Not every config allows it.
    #[serde(skip_serializing_if = "is_default")]
    pub wide: bool,
    /// It requires a label that slaves have unless their config is bare.
    #[serde(skip_serializing_if = "is_default")]
    pub labelled: bool,
    /// Only this slave may do it.
    #[serde(skip_serializing_if = "is_default")]
    pub slave: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A command for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAct {
    Cancel(CancelMode),
    Pause,
    Resume,
    Release {
        /// How long the release is valid.
        valid_ms: u64,
    },
    Reschedule {
        /// Relative to now.
        not_before_ms: Option<i64>,
        /// Relative to now.
        deadline_ms: Option<i64>,
        late: Late,
    },
    Retry,
    Resolve(End),
    Abandon,
}

/// A state that a slave may report.
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

/// An operator's command for a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlaveAct {
    Mode(Mode),
    Ready,
    Clear,
    Approve,
    Forget,
}

/// A command at a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalAct {
    Ready,
    Clear,
    Pause,
    Resume,
    Stop {
        /// At once, and not at a safe point.
        now: bool,
    },
    Lock(bool),
    Resolve(End),
}

impl Act {
    /// The kind in one word, for counting.
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
            Self::Configure { .. } => "config",
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

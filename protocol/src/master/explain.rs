//! Why a job has not started: each slave, and why not there.

use super::availability::Load;
use super::line::Line;
use super::placement::can_do;
use super::{Enrolled, Job, Master, Need, SlaveRecord};
use crate::id::SlaveKey;
use crate::job::State;
use crate::message::{Attention, Mode, WaitingFor};
use crate::spec::{Desired, Gate};
use crate::time::Time;

/// Why a job has not started. [`Explanation::text`] says it in one sentence, with what would change it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Explanation {
    pub waits: Waits,
    /// What its start rule lacks.
    pub gate: Option<Gated>,
    /// For each slave, why not there; none where it could.
    pub slaves: Vec<(SlaveKey, Option<WhyNot>)>,
}

/// What a job waits for. Slaves are named as people see them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Waits {
    Paused,
    /// A person has to let it go.
    ForPerson,
    NoSlaves,
    /// A slave has room for it.
    Assignable,
    /// No slave takes it. Of the slaves' reasons this is the one that is looked for last.
    ForSlave(WhyNot),
    /// It was offered, and the slave has not answered.
    Offered {
        slave: String,
        is_offline: bool,
    },
    /// Its slave needs a person at the machine.
    ForMachine {
        slave: String,
        is_offline: bool,
        attention: Attention,
        /// What the machine said.
        cause: Option<String>,
    },
    /// Its slave has it and waits for this, or for the job's turn.
    AtSlave {
        slave: String,
        is_offline: bool,
        waiting_for: Option<WaitingFor>,
    },
    /// It does not wait: it is in this state.
    Not(State),
}

/// What a job's start rule lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gated {
    /// It was held when the master was restored.
    HeldByRestore,
    Held,
    MissedStart,
    ReleaseLapsed,
}

/// Why a slave does not take a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WhyNot {
    /// The order names another slave.
    OtherSlave,
    /// It does not offer the program.
    Program,
    /// A label is missing or differs.
    Label,
    /// Not enrolled, or not any more.
    NotEnrolled,
    Offline,
    /// People have taken it out of production.
    Mode,
    /// A person at the machine has locked remote starts out.
    LocalLock,
    /// It needs a person.
    Attention,
    /// It has seen a later state of this master.
    Doubts,
    /// It declined, and nothing has changed there since.
    Declined,
    /// It holds as many jobs as it may.
    Capacity,
    /// The machine is not ready.
    Ready,
}

impl WhyNot {
    /// Every reason, in the order in which they are looked for.
    pub const ALL: [Self; 12] = [
        Self::OtherSlave,
        Self::Program,
        Self::Label,
        Self::NotEnrolled,
        Self::Offline,
        Self::Mode,
        Self::LocalLock,
        Self::Attention,
        Self::Doubts,
        Self::Declined,
        Self::Capacity,
        Self::Ready,
    ];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherSlave => "other_slave",
            Self::Program => "program",
            Self::Label => "label",
            Self::NotEnrolled => "not_enrolled",
            Self::Offline => "offline",
            Self::Mode => "mode",
            Self::LocalLock => "local_lock",
            Self::Attention => "attention",
            Self::Doubts => "doubts",
            Self::Declined => "declined",
            Self::Capacity => "capacity",
            Self::Ready => "ready",
        }
    }
}

/// Why the job has not started, by everything that the master knows.
pub fn explain(state: &Master, job: &Job, now: Time) -> Explanation {
    let slaves: Vec<_> = state.slaves.values().map(|slave| (slave.key, why_not(state, slave, job))).collect();
    let holder = job.holder.and_then(|key| state.slaves.get(&key));
    let slave = holder.map_or("its slave", |slave| slave.name.as_str()).to_owned();
    let is_offline = holder.is_none_or(|slave| slave.live().is_none());
    let waits = match job.state {
        State::Queued if job.desired == Desired::Pause => Waits::Paused,
        State::Queued if !job.seeks_a_slave() => Waits::ForPerson,
        State::Queued if slaves.iter().any(|(_, why)| why.is_none()) => Waits::Assignable,
        State::Queued => {
            slaves.iter().filter_map(|(_, why)| *why).max().map_or(Waits::NoSlaves, Waits::ForSlave)
        }
        State::Assigned => Waits::Offered { slave, is_offline },
        State::Accepted => {
            let waiting_for = job.report.as_ref().and_then(|report| report.waiting_for);
            let machine = holder.and_then(|slave| slave.machine.as_ref());
            match machine.and_then(|machine| Some((machine.attention?, machine.cause.clone()))) {
                Some((attention, cause)) if waiting_for == Some(WaitingFor::Ready) => {
                    Waits::ForMachine { slave, is_offline, attention, cause }
                }
                Some(_) | None => Waits::AtSlave { slave, is_offline, waiting_for },
            }
        }
        State::Starting
        | State::Running
        | State::Paused
        | State::Stopping
        | State::Uncertain
        | State::Succeeded
        | State::Failed
        | State::Canceled
        | State::Rejected
        | State::Expired
        | State::Lost => Waits::Not(job.state),
    };
    let gate = match job.start.gate {
        Gate::Held if job.need() == Some(Need::Restored) => Some(Gated::HeldByRestore),
        Gate::Held if job.need() == Some(Need::ReleaseLapsed) => Some(Gated::ReleaseLapsed),
        Gate::Held if !job.state.is_started() => Some(Gated::Held),
        Gate::Open if job.need() == Some(Need::MissedStart) => Some(Gated::MissedStart),
        Gate::Released { latest } if latest < now && !job.state.is_started() => Some(Gated::ReleaseLapsed),
        Gate::Open | Gate::Held | Gate::Released { .. } => None,
    };
    Explanation { waits, gate, slaves }
}

fn why_not(state: &Master, slave: &SlaveRecord, job: &Job) -> Option<WhyNot> {
    let machine = slave.machine.as_ref();
    let load = Load::of(&state.book, slave);
    let full = match job.queue_line(state.book.view()) {
        Some(Line::Later) => load.later >= usize::from(slave.deferred_capacity),
        Some(Line::Now) | None => load.now >= usize::from(slave.capacity),
    };
    let reasons = [
        (job.slave.as_ref().is_some_and(|name| *name != slave.name), WhyNot::OtherSlave),
        (!slave.programs.contains(&job.spec.program), WhyNot::Program),
        (!can_do(slave, job), WhyNot::Label),
        (slave.enrolled != Enrolled::Yes, WhyNot::NotEnrolled),
        (slave.live().is_none(), WhyNot::Offline),
        (slave.operating_mode.mode != Mode::Production, WhyNot::Mode),
        (machine.is_some_and(|machine| machine.local_lock), WhyNot::LocalLock),
        (machine.is_some_and(|machine| machine.attention.is_some()), WhyNot::Attention),
        (slave.doubts, WhyNot::Doubts),
        (slave.declining, WhyNot::Declined),
        (full && job.holder != Some(slave.key), WhyNot::Capacity),
        (!slave.is_ready(), WhyNot::Ready),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

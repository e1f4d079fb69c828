//! Why a job has not started: each slave, and why not there.

use super::availability::Load;
use super::line::Line;
use super::{Enrolled, Job, Master, Need, SlaveRecord};
use crate::id::{Attempt, JobId, SlaveKey};
use crate::job::State;
use crate::message::{Attention, Mode, ReasonCode, WaitingFor};
use crate::spec::{Desired, Gate};
use crate::time::Time;

/// Why a job has not started. [`Explanation::text`] says it in one sentence, with what would change it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Explanation {
    pub waits: Waits,
    /// What its start rule lacks.
    pub gate: Option<Gated>,
    /// When something about that changes by itself: its time, or that of its retry.
    pub at: Option<Time>,
    /// How many jobs go before it, [`Self::MANY`] at most: in the queue those of its program, and at a slave those that the slave has.
    pub in_front: usize,
    pub slaves: Vec<Considered>,
}

impl Explanation {
    /// More jobs than these are not counted.
    pub const MANY: usize = 1000;
}

/// One slave, and why not there.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Considered {
    pub slave: SlaveKey,
    /// `None`: it could take it, now or when it has done what it has.
    pub why: Option<WhyNot>,
    /// For people, with what would change it.
    pub text: String,
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
    /// It is queued again after this attempt has ended so, and waits before the next.
    ForRetry {
        attempt: Attempt,
        ended: State,
    },
    /// No slave takes it. Of the slaves' reasons this is the one that is looked for last, with that slave's name and sentence.
    ForSlave(WhyNot, String),
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
    /// Its slave has it, and is asked to give it back.
    Recall {
        slave: String,
        is_offline: bool,
    },
    /// Its slave has it and waits for this, or for the job's turn.
    AtSlave {
        slave: String,
        is_offline: bool,
        waiting_for: Option<WaitingFor>,
        /// What the slave said besides.
        said: Option<String>,
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
    /// It has rejected the job, and its agent was not restarted since.
    Rejected,
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
    /// The machine is not ready.
    Ready,
    /// It holds as many jobs as it may.
    Capacity,
    /// It has room, and another slave has a more urgent job that goes there first.
    MoreUrgent,
}

impl WhyNot {
    /// Every reason, in the order in which they are looked for.
    pub const ALL: [Self; 14] = [
        Self::OtherSlave,
        Self::Program,
        Self::Label,
        Self::Rejected,
        Self::NotEnrolled,
        Self::Offline,
        Self::Mode,
        Self::LocalLock,
        Self::Attention,
        Self::Doubts,
        Self::Declined,
        Self::Ready,
        Self::Capacity,
        Self::MoreUrgent,
    ];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::OtherSlave => "other_slave",
            Self::Program => "program",
            Self::Label => "label",
            Self::Rejected => "rejected",
            Self::NotEnrolled => "not_enrolled",
            Self::Offline => "offline",
            Self::Mode => "mode",
            Self::LocalLock => "local_lock",
            Self::Attention => "attention",
            Self::Doubts => "doubts",
            Self::Declined => "declined",
            Self::Capacity => "capacity",
            Self::Ready => "ready",
            Self::MoreUrgent => "more_urgent",
        }
    }
}

/// Why the job has not started, by everything that the master knows.
pub fn explain(state: &Master, job: &Job, now: Time) -> Explanation {
    let slaves: Vec<_> = state.slaves.values().map(|slave| consider(state, slave, job)).collect();
    let holder = job.holder.and_then(|key| state.slaves.get(&key));
    let slave = holder.map_or("its slave", |slave| slave.name.as_str()).to_owned();
    let is_offline = holder.is_none_or(|slave| slave.live().is_none());
    let waits = match job.state {
        State::Queued | State::Accepted | State::Paused if job.desired == Desired::Pause => Waits::Paused,
        State::Queued if !job.seeks_a_slave() => Waits::ForPerson,
        State::Queued if job.waits_for_retry(now) => {
            let last = job.others.iter().find(|other| other.attempt == job.attempt);
            Waits::ForRetry { attempt: job.attempt, ended: last.map_or(State::Failed, |other| other.state) }
        }
        State::Queued if slaves.iter().any(|slave| slave.why.is_none()) => Waits::Assignable,
        State::Queued => match slaves.iter().max_by_key(|slave| slave.why) {
            Some(Considered { slave, why: Some(why), text }) => {
                let name = state.slaves.get(slave).map_or("", |slave| &slave.name);
                Waits::ForSlave(*why, format!("{name}: {text}"))
            }
            Some(_) | None => Waits::NoSlaves,
        },
        State::Assigned | State::Accepted if job.is_being_recalled() && job.is_unfit_there().is_none() => {
            Waits::Recall { slave, is_offline }
        }
        State::Assigned => Waits::Offered { slave, is_offline },
        State::Paused if !is_paused_there(job) => Waits::Not(job.state),
        State::Accepted | State::Paused => {
            let report = job.report.as_ref();
            let reason = report.and_then(|report| report.reason.as_ref());
            let waiting_for = report.and_then(|report| report.waiting_for);
            let waiting_for = if is_paused_there(job) { Some(WaitingFor::Operator) } else { waiting_for };
            let machine = holder.and_then(|slave| slave.machine.as_ref());
            match machine.and_then(|machine| Some((machine.attention?, machine.cause.clone()))) {
                Some((attention, cause)) if waiting_for == Some(WaitingFor::Ready) => {
                    Waits::ForMachine { slave, is_offline, attention, cause }
                }
                Some(_) | None => {
                    let said = reason.map(|reason| reason.text.clone());
                    Waits::AtSlave { slave, is_offline, waiting_for, said }
                }
            }
        }
        State::Starting
        | State::Running
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
    let waits_to_start = !job.state.is_started() && !job.state.is_ended();
    let by_plan = if job.start.gate == Gate::Open { job.start.not_before } else { None };
    let at = [job.retry_at, by_plan].into_iter().flatten().filter(|at| *at > now && waits_to_start).max();
    Explanation { waits, gate, at, in_front: in_front(state, job), slaves }
}

/// A person at the machine has paused it, by its slave's word.
fn is_paused_there(job: &Job) -> bool {
    let reason = job.report.as_ref().and_then(|report| report.reason.as_ref());
    reason.is_some_and(|reason| reason.code == ReasonCode::PausedLocally)
}

/// How many jobs go before it where it waits.
fn in_front(state: &Master, job: &Job) -> usize {
    let view = state.book.view();
    match (job.state, job.holder) {
        (State::Queued, _) => {
            let line = job.queue_line(view);
            line.map_or(0, |line| state.book.index.count_before(line, job, Explanation::MANY))
        }
        (State::Accepted, Some(holder)) => {
            let is_before = |other: &&Job| {
                other.state.is_executing() || other.line(view) == Some(Line::Now) && other.starts_before(job)
            };
            state.book.held_by(holder).filter(is_before).count()
        }
        _ => 0,
    }
}

fn consider(state: &Master, slave: &SlaveRecord, job: &Job) -> Considered {
    let load = Load::of(&state.book, slave);
    let view = state.book.view();
    let is_deferred = job.queue_line(view) == Some(Line::Later);
    let is_in_load = job.holder == Some(slave.key) && job.line(view) == Some(Line::Now);
    let before = load.now.saturating_sub(usize::from(is_in_load));
    let waits_now = job.queue_line(view) == Some(Line::Now);
    let first = if waits_now { state.goes_there_first(slave.key, job.place(view.placement)) } else { None };
    let first = first.map(|(_, id)| id);
    let why = why_not(slave, job, &load, is_deferred, first);
    let text = Considered::sentence(slave, job, why, is_deferred, before, first);
    Considered { slave: slave.key, why, text }
}

fn why_not(
    slave: &SlaveRecord,
    job: &Job,
    load: &Load<'_>,
    is_deferred: bool,
    first: Option<JobId>,
) -> Option<WhyNot> {
    let machine = slave.machine.as_ref();
    let full = if is_deferred {
        load.later >= usize::from(slave.deferred_capacity)
    } else {
        load.now >= usize::from(slave.capacity)
    };
    let reasons = [
        (job.slave.as_ref().is_some_and(|name| *name != slave.name), WhyNot::OtherSlave),
        (!slave.programs.contains(&job.spec.program), WhyNot::Program),
        (!super::index::fits(&job.requires, &slave.labels), WhyNot::Label),
        (!slave.can_do(job), WhyNot::Rejected),
        (slave.enrolled != Enrolled::Yes, WhyNot::NotEnrolled),
        (slave.live().is_none(), WhyNot::Offline),
        (slave.operating_mode.mode != Mode::Production, WhyNot::Mode),
        (machine.is_some_and(|machine| machine.local_lock), WhyNot::LocalLock),
        (machine.is_some_and(|machine| machine.attention.is_some()), WhyNot::Attention),
        (slave.doubts, WhyNot::Doubts),
        (slave.declining, WhyNot::Declined),
        (!machine.is_some_and(|machine| machine.may_start()), WhyNot::Ready),
        (full && job.holder != Some(slave.key), WhyNot::Capacity),
        (first.is_some(), WhyNot::MoreUrgent),
    ];
    reasons.into_iter().find(|(holds, _)| *holds).map(|(_, why)| why)
}

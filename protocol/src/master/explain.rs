//! Why a job has not started: each slave, and why not there.

use super::placement::{can_do, places_taken};
use super::{Enrolled, Job, Master, Need, SlaveRecord};
use crate::id::SlaveKey;
use crate::job::State;
use crate::message::{MachineReport, Mode, WaitingFor};
use crate::spec::{Desired, Gate};
use crate::time::Time;

/// Why a job has not started.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Explanation {
    /// In one sentence, with what would change it.
    pub summary: String,
    /// For each slave, why not there; none where it could.
    pub slaves: Vec<(SlaveKey, Option<WhyNot>)>,
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
    /// Not connected.
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
    let at = holder.map_or("its slave", |slave| slave.name.as_str());
    let away = holder.is_none_or(|slave| slave.live().is_none());
    let summary = match job.state {
        State::Queued if job.desired == Desired::Pause => "it is paused: `resume` lets it go on".to_owned(),
        State::Queued if !job.seeks_a_slave() => "it waits for a person".to_owned(),
        State::Queued if slaves.is_empty() => "there are no slaves: enrol one".to_owned(),
        State::Queued => match slaves.iter().filter_map(|(_, why)| *why).max() {
            _ if slaves.iter().any(|(_, why)| why.is_none()) => {
                "a slave has room: it is being handed out".to_owned()
            }
            Some(WhyNot::Program | WhyNot::OtherSlave) => {
                "no slave that it is for offers its program".to_owned()
            }
            Some(WhyNot::Label) => "no slave with its program has the labels that it requires".to_owned(),
            Some(why) => format!("the slaves that could do it cannot now: {}", why.name()),
            None => "no slave can take it".to_owned(),
        },
        State::Assigned if away => {
            format!("offered to {at}, which is offline: whether it has it shows when it is back")
        }
        State::Assigned => format!("offered to {at}, which has not answered yet"),
        State::Accepted => {
            let waits = job.report.as_ref().and_then(|report| report.waiting_for);
            let stale = if away { " by its last word: it is offline" } else { "" };
            let machine = holder.and_then(|slave| slave.machine.as_ref());
            match machine.and_then(MachineReport::attention_text) {
                Some(needs) if waits == Some(WaitingFor::Ready) => {
                    format!("{at} has it and needs a person{stale}: {needs}")
                }
                Some(_) | None => {
                    let waits = waits.map_or("its turn", |waits| waits.name());
                    format!("{at} has it and waits for {waits}{stale}")
                }
            }
        }
        state => format!("it is {}", state.name()),
    };
    let gate = match job.start.gate {
        Gate::Held if job.need() == Some(Need::Restored) => {
            "; held since the master was restored, and a slave may have done it since: `release` lets it start"
        }
        Gate::Held if !job.state.is_started() => "; held: `release` lets it start",
        Gate::Open if job.need() == Some(Need::MissedStart) => {
            "; its start was missed: `release` lets it start, `reschedule` plans another time"
        }
        Gate::Released { latest } if latest < now && !job.state.is_started() => {
            "; its release has lapsed: `release` it again"
        }
        Gate::Open | Gate::Held | Gate::Released { .. } => "",
    };
    Explanation { summary: format!("{summary}{gate}"), slaves }
}

fn why_not(state: &Master, slave: &SlaveRecord, job: &Job) -> Option<WhyNot> {
    let machine = slave.machine.as_ref();
    let full = places_taken(&state.book, slave) >= usize::from(slave.capacity);
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

//! What happens by itself: starts, missed starts, overruns, and the moments at which to look again.

use super::clock::{master_time, stamp};
use super::local::PAUSED_LOCALLY;
use super::machine::may_be_probed;
use super::step::Rules;
use super::{Effect, Now, Probed, Probing, Slave};
use crate::job::{self, State};
use crate::message::{Flags, Reason, ReasonCode, Source, WaitingFor};
use crate::spec::{CancelMode, Desired, Gate, Late, OnOverdue};
use crate::time::{Millis, Time};

/// How long the machine may take to say what it does, after the agent started or a start was refused: a handshake
/// waits for it, and a master waits 10 s for a Hello.
pub const PROBE_PATIENCE: Millis = Millis::seconds(5);

/// Why a deadline is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A job's time comes.
    NotBefore,
    /// A job's window closes.
    Deadline,
    /// A release lapses.
    Release,
    /// A job runs longer than it may.
    MaxRuntime,
    /// The machine has not said what it did.
    Probe,
}

impl Why {
    /// What happens then, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotBefore => "a job's time comes",
            Self::Deadline => "a job's window closes",
            Self::Release => "the word that lets a held job start lapses",
            Self::MaxRuntime => "a job runs longer than its order allows",
            Self::Probe => "the machine is no longer waited for to say what it did",
        }
    }
}

/// When something will happen by itself, in milliseconds since the boot, and what. To set a timer, pass the last step's `now`:
/// deadlines that elapsed since are filtered out and would never fire.
pub fn next_deadline(state: &Slave, now: Now) -> Option<(u64, Why)> {
    let in_boot = |time: Time, at: Time| now.boot_ms.saturating_add(at.since(time).0);
    let windows = master_time(state, now).into_iter().flat_map(|time| {
        let accepted = state.jobs.values().filter(|job| job.report.state == State::Accepted);
        accepted.flat_map(move |job| {
            let window = job.window();
            let latest = match job.start.gate {
                Gate::Released { latest } => Some(latest),
                Gate::Open | Gate::Held => None,
            };
            let past = |at: Time| Time(at.0.saturating_add(1));
            let moments = [
                (window.not_before, Why::NotBefore),
                (window.deadline.map(past), Why::Deadline),
                (latest.map(past), Why::Release),
            ];
            let upcoming = moments.into_iter().filter_map(|(at, why)| Some((at?, why)));
            upcoming.filter(move |(at, _)| *at > time).map(move |(at, why)| (in_boot(time, at), why))
        })
    });
    let stamp = stamp(state, now);
    let overruns = state.jobs.values().filter(|job| state.may_overrun(job));
    let overruns = overruns.filter_map(|job| Some((in_boot(stamp, job.overruns_at()?), Why::MaxRuntime)));
    let probing = state.volatile.probing.values();
    let probing = probing.map(|asked| (asked.since.saturating_add(PROBE_PATIENCE.0), Why::Probe));
    windows.chain(overruns).chain(probing).min_by_key(|(at, _)| *at)
}

/// What keeps an accepted job from starting, apart from the machine.
pub(super) fn held_by(job: &super::Job, time: Option<Time>) -> Option<(WaitingFor, Option<Reason>)> {
    if job.paused_locally {
        return Some((WaitingFor::Operator, Some(Reason::new(ReasonCode::PausedLocally, PAUSED_LOCALLY))));
    }
    let held = job.start.gate == Gate::Held || job.missed && !matches!(job.start.gate, Gate::Released { .. });
    if job.desired == Desired::Pause || held {
        return Some((WaitingFor::Operator, None));
    }
    let window = job.window();
    let timed = window.not_before.is_some()
        || window.deadline.is_some()
        || matches!(job.start.gate, Gate::Released { .. });
    let Some(time) = time else { return timed.then_some((WaitingFor::Clock, None)) };
    match job.start.gate {
        Gate::Released { latest } if latest < time => {
            let text = "the release was for a start before now: release it again";
            return Some((WaitingFor::Operator, Some(Reason::new(ReasonCode::ReleaseLapsed, text))));
        }
        // A person's word to start now stands above the planned time.
        Gate::Released { .. } => return None,
        Gate::Open | Gate::Held => {}
    }
    if window.not_before.is_some_and(|at| at > time) {
        return Some((WaitingFor::Time, None));
    }
    None
}

impl Rules {
    /// After every event: what the passing of time and the machine's condition make of the whole.
    pub(super) fn look_around(&mut self) {
        self.give_up_probing();
        self.introduce();
        self.wake();
        self.come_due();
        self.overrun();
        self.lapse();
        self.begin();
        self.say_what_is_waited_for();
    }

    pub(super) fn give_up_probing(&mut self) {
        let jobs = &self.state.jobs;
        // Of what has ended meanwhile nothing is to be known any more.
        self.state.volatile.probing.retain(|id, _| jobs.get(id).is_some_and(may_be_probed));
        let now = self.now.boot_ms;
        let overdue = |asked: &mut Probing| now >= asked.since.saturating_add(super::PROBE_PATIENCE.0);
        let overdue: Vec<_> = self.state.volatile.probing.extract_if(.., |_, asked| overdue(asked)).collect();
        for (id, asked) in overdue {
            let silence = Probed::Unknown("it did not answer".to_owned());
            self.settled_by_probe(id, asked.refused, silence);
        }
    }

    /// Once, when the master's time is first known after a start: what was missed meanwhile?
    pub(super) fn wake(&mut self) {
        let (Some(time), None) = (self.master_time(), self.state.volatile.awake_since) else { return };
        self.state.volatile.awake_since = Some(time);
        let missed: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| job.report.state == State::Accepted && !job.due)
            .filter(|(_, job)| job.window().not_before.is_some_and(|at| at <= time))
            .map(|(id, job)| (*id, job.start.late))
            .collect();
        for (id, late) in missed {
            let Some(job) = self.state.jobs.get_mut(&id) else { continue };
            job.report.flags.set(Flags::MISSED_START);
            let reason = |text: &str| Reason::new(ReasonCode::MissedStart, text);
            match late {
                Late::Hold => {
                    job.missed = true;
                    job.report.reason =
                        Some(reason("its time passed while the slave was off: `release` lets it start"));
                }
                Late::Run => {
                    (job.due, job.missed) = (true, false);
                    job.report.reason =
                        Some(reason("its time passed while the slave was off: it starts late"));
                }
                Late::Skip => {
                    self.apply(id, job::Event::Lapsed, Source::Slave);
                    self.reason(id, reason("its time passed while the slave was off"));
                }
            }
        }
    }

    pub(super) fn come_due(&mut self) {
        let Some(time) = self.master_time() else { return };
        let comes_due = |job: &super::Job| {
            let accepted = job.report.state == State::Accepted && !job.missed && !job.due;
            accepted && job.start.not_before.is_some_and(|at| at <= time)
        };
        self.state.jobs.change(comes_due, |job| job.due = true);
    }

    pub(super) fn overrun(&mut self) {
        let now = self.stamp();
        let over: Vec<_> = self
            .state
            .jobs
            .values()
            .filter(|job| self.state.may_overrun(job))
            .filter(|job| job.overruns_at().is_some_and(|at| at <= now))
            .map(|job| (job.report.job, job.spec.on_overdue))
            .collect();
        for (id, on_overdue) in over {
            if let Some(job) = self.state.jobs.get_mut(&id) {
                job.run.overrun = true;
                job.report.flags.set(Flags::OVERDUE);
            }
            if on_overdue == OnOverdue::Stop {
                self.cancel(id, CancelMode::SafePoint, Source::Slave);
            }
        }
    }

    pub(super) fn lapse(&mut self) {
        let Some(time) = self.master_time() else { return };
        let lapsed: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| job.report.state == State::Accepted)
            .filter(|(_, job)| job.window().deadline.is_some_and(|deadline| deadline < time))
            .map(|(id, _)| *id)
            .collect();
        for id in lapsed {
            if self.apply(id, job::Event::Lapsed, Source::Slave) {
                self.reason(id, Reason::new(ReasonCode::WindowClosed, "its latest start passed"));
            }
        }
    }

    /// Starts the next job, if there is one and the machine may.
    pub(super) fn begin(&mut self) {
        if self.machine_is_taken() || self.machine_is_barred() {
            return;
        }
        let time = self.master_time();
        let next = self
            .state
            .jobs
            .values()
            .filter(|job| job.report.state == State::Accepted && held_by(job, time).is_none())
            .min_by_key(|job| (std::cmp::Reverse(job.start.priority), job.report.job))
            .map(|job| job.report.job);
        let Some(id) = next else { return };
        if !self.apply(id, job::Event::StartIntended, Source::Slave) {
            return;
        }
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.run = job.report.run.next();
        // What was told of the run before is no word of this one.
        (job.report.progress, job.report.note) = (None, None);
        job.report.flags.clear(Flags::OVERDUE);
        if job.report.flags.has(Flags::INTERRUPTED) {
            let text = "it was interrupted, and is begun again";
            job.report.reason = Some(Reason::new(ReasonCode::Interrupted, text));
        } else if !job.report.flags.has(Flags::MISSED_START) {
            job.report.reason = None;
        }
        let (work, spec) = (job.work(), job.spec.clone());
        self.effects.push(Effect::Start { work, spec });
    }

    pub(super) fn machine_is_taken(&self) -> bool {
        self.state.jobs.values().any(|job| job.report.state.is_executing())
    }

    /// Something other than a job keeps the machine from starting.
    pub(super) fn machine_is_barred(&self) -> bool {
        let node = &self.state.node;
        node.unloading.is_some()
            || node.attention.is_some()
            || node.local_lock
            || !node.operating_mode.mode.may_start()
            || !self.state.volatile.probing.is_empty()
            || self.state.volatile.boot.is_none()
            || self.state.jobs.values().any(|job| job.report.state == State::Uncertain)
    }

    pub(super) fn say_what_is_waited_for(&mut self) {
        let time = self.master_time();
        let barred = self.machine_is_barred();
        let waits = |job: &super::Job| match held_by(job, time) {
            _ if job.report.state != State::Accepted => (None, None),
            Some((waiting_for, reason)) => (Some(waiting_for), reason),
            None if barred => (Some(WaitingFor::Ready), None),
            None => (Some(WaitingFor::Turn), None),
        };
        let says_otherwise = |job: &super::Job| {
            let (waiting_for, reason) = waits(job);
            job.report.waiting_for != waiting_for || reason.is_some() && job.report.reason != reason
        };
        self.state.jobs.change(says_otherwise, |job| {
            let (waiting_for, reason) = waits(job);
            job.report.waiting_for = waiting_for;
            job.report.reason = reason.or(job.report.reason.take());
        });
    }
}

//! What happens by itself: starts, missed starts, overruns, and the moments at which to look again.

use super::clock::Clock;
use super::held::Held;
use super::machine::is_barred;
use super::step::Rules;
use super::waiting::Judge;
use super::{Effect, Job, JobReason, Now, Slave};
use crate::job::{self, State};
use crate::message::{Flags, ReasonCode, Source};
use crate::spec::{CancelMode, Gate, Late, OnOverdue};
use crate::time::{Millis, Time};

/// How long the machine may take to say what it does, after the agent started or a start was refused: a handshake
/// waits for it, and a master waits 10 s for a Hello.
pub const PROBE_PATIENCE: Millis = Millis::seconds(5);

/// How often the slave looks whether a time service has set this box's clock, while timed work waits for that: no event says so. Most
/// services take less than a minute after a boot.
pub const CLOCK_PATIENCE: Millis = Millis::seconds(5);

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
    /// A time service may have set this box's clock.
    Clock,
    /// The machine may be able to begin a job again.
    MachineCheck,
}

/// When something will happen by itself, in milliseconds since the boot, and what. To set a timer, pass the last step's `now`:
/// deadlines that elapsed since are filtered out and would never fire.
pub fn next_deadline(state: &Slave, now: Now) -> Option<(u64, Why)> {
    let clock = Clock::of(state, now);
    let in_boot = |time: Time, at: Time| now.boot_ms.saturating_add(at.since(time).0);
    let judge = Judge::of(state, now);
    let windows = clock.master_time().into_iter().flat_map(|time| {
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
                (judge.waits_to_hear(job), Why::NotBefore),
                (window.deadline.map(past), Why::Deadline),
                (latest.map(past), Why::Release),
            ];
            let upcoming = moments.into_iter().filter_map(|(at, why)| Some((at?, why)));
            upcoming.filter(move |(at, _)| *at > time).map(move |(at, why)| (in_boot(time, at), why))
        })
    });
    let overruns = state.jobs.values().filter_map(|job| state.left_to_work(job, clock));
    let overruns = overruns.map(|left| (now.boot_ms.saturating_add(left.0), Why::MaxRuntime));
    let probing = state.volatile.probing.values();
    let probing = probing.map(|asked| (asked.since.saturating_add(PROBE_PATIENCE.0), Why::Probe));
    let is_timed = |job: &Job| job.report.state == State::Accepted && job.is_timed();
    let waits_for_a_time_service = clock.lacks_a_time_service() && state.jobs.values().any(is_timed);
    let looks_again =
        waits_for_a_time_service.then_some((now.boot_ms.saturating_add(CLOCK_PATIENCE.0), Why::Clock));
    let checks = state.volatile.checks.at.map(|at| (at, Why::MachineCheck));
    windows.chain(overruns).chain(probing).chain(looks_again).chain(checks).min_by_key(|(at, _)| *at)
}

impl Rules {
    /// Finds the jobs whose `not_before` has passed. One that is late by more than the tolerance was missed, whatever made it late: people
    /// beside the machine no longer expect it. When the time is first known after the agent started, missed jobs are judged again,
    /// because their `late` may have been changed.
    pub(super) fn come_due(&mut self) {
        let Some(time) = self.clock().master_time() else { return };
        let wakes = self.timekeeper().wake(time);
        let tolerance = self.state().settings.late_tolerance;
        let not_before = |job: &Job| job.window().not_before.filter(|at| *at <= time);
        let has_come = |job: &Job| {
            job.report.state == State::Accepted
                && !job.due
                && (wakes || !job.missed)
                && not_before(job).is_some()
        };
        self.each(has_come, |mut held| {
            if not_before(&held).is_some_and(|at| time.since(at) > tolerance) {
                held.miss_start();
            } else {
                let job = held.edit();
                job.due = !job.missed;
            }
        });
    }

    /// Acts on the jobs that run longer than they may.
    pub(super) fn overrun(&mut self) {
        if let Some(clock) = self.clock().of_work() {
            let is_old = |job: &Job| job.run.works_since.is_some_and(|since| clock.can_rebase(since));
            self.each(is_old, |mut held| held.edit().run.rebase_stretch(clock));
        }
        let (state, clock) = (self.state(), self.clock());
        let over = state.jobs.values().filter(|job| state.left_to_work(job, clock) == Some(Millis(0)));
        for id in over.map(|job| job.report.job).collect::<Vec<_>>() {
            if let Some(mut held) = self.held(id) {
                held.overran();
            }
        }
    }

    /// Ends the accepted jobs whose latest start has passed.
    pub(super) fn lapse(&mut self) {
        let Some(time) = self.clock().master_time() else { return };
        let has_lapsed = |job: &Job| {
            job.report.state == State::Accepted
                && job.window().deadline.is_some_and(|deadline| deadline < time)
        };
        self.each(has_lapsed, |mut held| {
            if held.apply(job::Event::Lapsed, Source::Slave) {
                held.explain(JobReason::WindowClosed);
            }
        });
    }

    /// Starts the next job, if there is one and the machine may.
    pub(super) fn begin(&mut self) {
        if self.machine_is_taken() || is_barred(self.state()) {
            return;
        }
        let judge = self.judge();
        let next = self
            .state()
            .jobs
            .values()
            .filter(|job| job.report.state == State::Accepted && judge.held_by(job).is_none())
            .min_by_key(|job| (std::cmp::Reverse(job.start.priority), job.report.job))
            .map(|job| job.report.job);
        if let Some(mut held) = next.and_then(|id| self.held(id)) {
            held.intend_start();
        }
    }

    fn machine_is_taken(&self) -> bool {
        self.state().jobs.values().any(|job| job.report.state.is_executing())
    }
}

impl Held<'_> {
    fn miss_start(&mut self) {
        let late = self.start.late;
        let job = self.edit();
        job.report.flags.set(Flags::MISSED_START);
        match late {
            Late::Hold => job.missed = true,
            Late::Run => (job.due, job.missed) = (true, false),
            Late::Skip => drop(self.apply(job::Event::Lapsed, Source::Slave)),
        }
        self.explain(JobReason::MissedStart(late));
    }

    fn overran(&mut self) {
        let job = self.edit();
        job.run.overrun = true;
        job.report.flags.set(Flags::OVERDUE);
        if job.spec.on_overdue == OnOverdue::Stop {
            self.cancel(CancelMode::SafePoint, Source::Slave);
        }
    }

    /// Intends a new run; the machine is told once that is durable.
    fn intend_start(&mut self) {
        if !self.apply(job::Event::StartIntended, Source::Slave) {
            return;
        }
        let job = self.edit();
        job.report.run = job.report.run.next();
        // What was told of the run before is no word of this one.
        (job.report.progress, job.report.note) = (None, None);
        job.report.flags.clear(Flags::OVERDUE);
        if job.report.flags.has(Flags::INTERRUPTED) {
            self.explain(JobReason::BegunAgain);
        } else if !self.says(ReasonCode::MissedStart) {
            self.edit().report.reason = None;
        }
        self.act(Effect::Start { work: self.work(), spec: self.spec.clone() });
    }
}

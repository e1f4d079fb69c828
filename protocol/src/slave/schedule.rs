//! What happens by itself: starts, missed starts, overruns, and the moments at which to look again.

use super::clock::master_time;
use super::local::PAUSED_LOCALLY;
use super::machine::may_be_probed;
use super::step::Rules;
use super::{Effect, Now, Probed, Probing, Slave, TrustClock};
use crate::id::JobId;
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
    /// A time service may have set this box's clock.
    Clock,
}

/// How often the slave looks whether a time service has set this box's clock, while timed work waits for that: no event says so. Most
/// services take less than a minute after a boot.
pub const CLOCK_PATIENCE: Millis = Millis::seconds(5);

impl Why {
    /// What happens then, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotBefore => "a job's time comes",
            Self::Deadline => "a job's window closes",
            Self::Release => "the word that lets a held job start lapses",
            Self::MaxRuntime => "a job runs longer than its order allows",
            Self::Probe => "the machine is no longer waited for to say what it did",
            Self::Clock => "the agent looks again whether a time service has set this box's clock",
        }
    }
}

/// When something will happen by itself, in milliseconds since the boot, and what. To set a timer, pass the last step's `now`:
/// deadlines that elapsed since are filtered out and would never fire.
pub fn next_deadline(state: &Slave, now: Now) -> Option<(u64, Why)> {
    let in_boot = |time: Time, at: Time| now.boot_ms.saturating_add(at.since(time).0);
    let judge = Judge::of(state, now);
    let windows = judge.time.into_iter().flat_map(|time| {
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
    let overruns = state.jobs.values().filter_map(|job| state.left_to_work(job, now));
    let overruns = overruns.map(|left| (now.boot_ms.saturating_add(left.0), Why::MaxRuntime));
    let probing = state.volatile.probing.values();
    let probing = probing.map(|asked| (asked.since.saturating_add(PROBE_PATIENCE.0), Why::Probe));
    let clock = waits_for_a_time_service(state, now)
        .then_some((now.boot_ms.saturating_add(CLOCK_PATIENCE.0), Why::Clock));
    windows.chain(overruns).chain(probing).chain(clock).min_by_key(|(at, _)| *at)
}

/// Whether timed work could start by this box's clock once a time service has set it.
fn waits_for_a_time_service(state: &Slave, now: Now) -> bool {
    let is_comparable = state.node.sync.is_some_and(|sync| sync.synchronized);
    state.settings.trust_clock == TrustClock::Synchronized
        && is_comparable
        && master_time(state, now).is_none()
        && state.jobs.values().any(|job| job.report.state == State::Accepted && job.is_timed())
}

/// What decides now whether an accepted job may start, apart from the job and the machine.
#[derive(Clone, Copy)]
pub(super) struct Judge {
    /// The master's time, if it is known.
    time: Option<Time>,
    doubts_releases: bool,
    /// Since when the master's time is known, if no Welcome was applied since the agent started.
    unheard_since: Option<Time>,
    tolerance: Millis,
}

impl Judge {
    pub(super) fn of(state: &Slave, now: Now) -> Self {
        Self {
            time: master_time(state, now),
            doubts_releases: state.node.doubts_releases,
            unheard_since: state.volatile.awake_since.filter(|_| !state.volatile.heard),
            tolerance: state.settings.late_tolerance,
        }
    }

    /// What keeps an accepted job from starting, apart from the machine.
    pub(super) fn held_by(&self, job: &super::Job) -> Option<(WaitingFor, Option<Reason>)> {
        if job.paused_locally {
            return Some((
                WaitingFor::Operator,
                Some(Reason::new(ReasonCode::PausedLocally, PAUSED_LOCALLY)),
            ));
        }
        let held =
            job.start.gate == Gate::Held || job.missed && !matches!(job.start.gate, Gate::Released { .. });
        if job.desired == Desired::Pause || held {
            return Some((WaitingFor::Operator, None));
        }
        let Some(time) = self.time else { return job.is_timed().then_some((WaitingFor::Clock, None)) };
        match job.start.gate {
            Gate::Released { latest } if latest < time => {
                let text = "the release was for a start before now: release it again";
                return Some((WaitingFor::Operator, Some(Reason::new(ReasonCode::ReleaseLapsed, text))));
            }
            Gate::Released { .. } if self.doubts_releases => return Some((WaitingFor::Clock, None)),
            // A person's word to start now stands above the planned time.
            Gate::Released { .. } => return None,
            Gate::Open | Gate::Held => {}
        }
        if job.window().not_before.is_some_and(|at| at > time)
            || self.waits_to_hear(job).is_some_and(|until| until > time)
        {
            return Some((WaitingFor::Time, None));
        }
        None
    }

    /// Until when a job waits for the master's Welcome whose `not_before` passed before the agent started: if the slave's disk was put
    /// back, the master knows that the job has started. It waits no longer than a start may be late.
    fn waits_to_hear(&self, job: &super::Job) -> Option<Time> {
        let since = self.unheard_since?;
        job.window().not_before.filter(|at| *at < since).map(|at| at.after(self.tolerance))
    }
}

impl Rules {
    /// After every event: what the passing of time and the machine's condition make of the whole.
    pub(super) fn look_around(&mut self) {
        self.give_up_probing();
        self.introduce();
        self.measure_again();
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

    /// Compares the wall clock anew with the master's time if a time service has set it since the last handshake: after a power cut only
    /// such a comparison counts ([`TrustClock::Synchronized`]).
    pub(super) fn measure_again(&mut self) {
        let Some(sync) = self.state.node.sync.filter(|sync| !sync.synchronized) else { return };
        if self.now.synchronized
            && self.state.settings.trust_clock == TrustClock::Synchronized
            && Some(sync.boot) == self.state.volatile.boot
        {
            let (boot_ms, wall) = (self.now.boot_ms, self.now.wall);
            let master = sync.master_at(boot_ms);
            self.state.node.sync =
                Some(super::Sync { boot: sync.boot, boot_ms, wall, master, synchronized: true });
        }
    }

    /// Finds the jobs whose `not_before` has passed. One that is late by more than the tolerance was missed, whatever made it late: people
    /// beside the machine no longer expect it. When the time is first known after the agent started, missed jobs are judged again,
    /// because their `late` may have been changed.
    pub(super) fn come_due(&mut self) {
        let Some(time) = self.master_time() else { return };
        let wakes = self.state.volatile.awake_since.is_none();
        self.state.volatile.awake_since.get_or_insert(time);
        let tolerance = self.state.settings.late_tolerance;
        let come: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| job.report.state == State::Accepted && !job.due && (wakes || !job.missed))
            .filter_map(|(id, job)| Some((*id, job.window().not_before?)))
            .filter(|(_, at)| *at <= time)
            .collect();
        for (id, at) in come {
            if time.since(at) > tolerance {
                self.miss_start(id);
            } else if let Some(job) = self.state.jobs.get_mut(&id) {
                job.due = !job.missed;
            }
        }
    }

    fn miss_start(&mut self, id: JobId) {
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.flags.set(Flags::MISSED_START);
        let reason = |then: &str| {
            let text = "its start was found past by more than the slave's tolerance: the slave was off, suspended or without a \
                        clock, or a clock was set";
            Reason::new(ReasonCode::MissedStart, format!("{text}{then}"))
        };
        match job.start.late {
            Late::Hold => {
                job.missed = true;
                job.report.reason = Some(reason("; `release` lets it start"));
            }
            Late::Run => {
                (job.due, job.missed) = (true, false);
                job.report.reason = Some(reason("; it starts late"));
            }
            Late::Skip => {
                self.apply(id, job::Event::Lapsed, Source::Slave);
                self.reason(id, reason(""));
            }
        }
    }

    pub(super) fn overrun(&mut self) {
        if let Some(clock) = self.work_clock() {
            let is_old = |job: &super::Job| job.run.works_since.is_some_and(|since| clock.can_rebase(since));
            self.state.jobs.change(is_old, |job| job.run.rebase_stretch(clock));
        }
        let over: Vec<_> = self
            .state
            .jobs
            .values()
            .filter(|job| self.state.left_to_work(job, self.now) == Some(Millis(0)))
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
        let judge = Judge::of(&self.state, self.now);
        let next = self
            .state
            .jobs
            .values()
            .filter(|job| job.report.state == State::Accepted && judge.held_by(job).is_none())
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
        let judge = Judge::of(&self.state, self.now);
        let barred = self.machine_is_barred();
        let waits = |job: &super::Job| match judge.held_by(job) {
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

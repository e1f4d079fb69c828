//! What an accepted job waits for.

use super::clock::Clock;
use super::machine::is_barred;
use super::step::Rules;
use super::{Job, JobReason, Now, Slave};
use crate::job::State;
use crate::message::{Reason, ReasonCode, WaitingFor};
use crate::spec::{Desired, Gate};
use crate::time::{Millis, Time};

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
            time: Clock::of(state, now).master_time(),
            doubts_releases: state.node.doubts_releases,
            unheard_since: state.volatile.awake_since.filter(|_| !state.volatile.heard),
            tolerance: state.settings.late_tolerance,
        }
    }

    /// What keeps an accepted job from starting, apart from the machine.
    pub(super) fn held_by(&self, job: &Job) -> Option<(WaitingFor, Option<JobReason>)> {
        if let Some(why) = &job.unfit {
            let why = Some(JobReason::Unfit(why.clone()));
            // What has begun stays at its machine, and a start that was missed is a person's to let happen, wherever.
            if !job.report.has_begun() && !job.missed {
                return Some((WaitingFor::Elsewhere, why));
            }
            // A person who lets it go on there knows what has changed.
            if !matches!(job.start.gate, Gate::Released { .. }) {
                return Some((WaitingFor::Operator, why));
            }
        }
        if job.paused_locally {
            return Some((WaitingFor::Operator, Some(JobReason::PausedLocally)));
        }
        let held =
            job.start.gate == Gate::Held || job.missed && !matches!(job.start.gate, Gate::Released { .. });
        if job.desired == Desired::Pause || held {
            return Some((WaitingFor::Operator, None));
        }
        let Some(time) = self.time else { return job.is_timed().then_some((WaitingFor::Clock, None)) };
        match job.start.gate {
            Gate::Released { latest } if latest < time => {
                return Some((WaitingFor::Operator, Some(JobReason::ReleaseLapsed)));
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

    /// Its time comes within the tolerance for late starts.
    pub(super) fn is_near(&self, job: &Job) -> bool {
        let left = job.window().not_before.zip(self.time).map(|(at, time)| at.since(time));
        left.is_some_and(|left| left <= self.tolerance)
    }

    /// Until when a job waits for the master's Welcome whose `not_before` passed before the agent started: if the slave's disk was put
    /// back, the master knows that the job has started. It waits no longer than a start may be late.
    pub(super) fn waits_to_hear(&self, job: &Job) -> Option<Time> {
        let since = self.unheard_since?;
        job.window().not_before.filter(|at| *at < since).map(|at| at.after(self.tolerance))
    }
}

impl Rules {
    pub(super) fn say_what_is_waited_for(&mut self) {
        let judge = self.judge();
        let barred = is_barred(self.state());
        let waits = |job: &Job| {
            let (waiting_for, reason) = match judge.held_by(job) {
                _ if job.report.state != State::Accepted => (None, None),
                Some((waiting_for, reason)) => (Some(waiting_for), reason),
                None if barred => (Some(WaitingFor::Ready), None),
                None => (Some(WaitingFor::Turn), None),
            };
            // It may have been released again, or the config may allow it again.
            let is_over = |old: &Reason| {
                let by_config = [ReasonCode::UnknownProgram, ReasonCode::BadParams, ReasonCode::MissingLabel];
                old.code == ReasonCode::ReleaseLapsed
                    || job.report.state == State::Accepted && by_config.contains(&old.code)
            };
            let old = job.report.reason.as_ref().filter(|old| !is_over(old));
            (waiting_for, reason.map(Reason::from).or(old.cloned()))
        };
        let says_otherwise = |job: &Job| {
            let (waiting_for, reason) = waits(job);
            job.report.waiting_for != waiting_for || job.report.reason != reason
        };
        self.each(says_otherwise, |mut held| {
            let job = held.edit();
            (job.report.waiting_for, job.report.reason) = waits(job);
        });
    }
}

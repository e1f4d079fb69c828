//! What the master wants of a job: a new offer, or a newer desired state of a job that is here.

use std::collections::BTreeMap;

use super::held::Held;
use super::step::Rules;
use super::{Decline, HELD_BYTES, Ignored, Job, JobReason};
use crate::id::JobId;
use crate::job::State;
use crate::limits;
use crate::message::{Mode, Reason, ReasonCode, Record, Source};
use crate::spec::{Desired, DesiredState, Gate, SPEC_BYTES, StartRule};
use crate::time::Time;

impl Rules {
    /// The master's whole desired state for one job, from a DesiredState or from a Welcome.
    pub(super) fn wanted(&mut self, desired_state: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let id = desired_state.job;
        let held = self.state().jobs.get(&id);
        match held.map(|job| (job.report.attempt, job.report.state, job.report.generation)) {
            None => self.offered(desired_state, unfit),
            Some((attempt, ..)) if attempt > desired_state.attempt => {
                self.out().ignore(Ignored::OlderGeneration);
            }
            Some((attempt, state, _)) if attempt < desired_state.attempt => {
                if state == State::Accepted {
                    self.jobs().remove(id);
                    self.offered(desired_state, unfit);
                } else {
                    self.out().decline(&desired_state, Decline::OlderAttempt { attempt, state });
                    self.say_again(id);
                }
            }
            Some((_, _, generation)) if generation >= desired_state.generation => {
                self.out().ignore(Ignored::OlderGeneration);
                self.say_again(id);
            }
            Some(_) => self.set_desired(&desired_state),
        }
    }

    /// Reports the job again: the master seems not to know its newest report.
    fn say_again(&mut self, id: JobId) {
        let starts = self.state().node.starts;
        if let Some(mut held) = self.held(id) {
            held.say_again(starts);
        }
    }

    fn offered(&mut self, mut offer: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let done =
            |record: &&Record| record.report.job == offer.job && record.report.attempt >= offer.attempt;
        if let Some(record) = self.state().recent_outcomes.iter().find(done).cloned() {
            // It was done here and forgotten: never again, and the outcome is told anew.
            self.jobs().insert(Job::remembered(record));
            return self.say_again(offer.job);
        }
        let job = match (offer.desired, offer.spec.take()) {
            (Desired::Cancel(_) | Desired::Resolve(_), _) => Err(Decline::NeverHere),
            (Desired::Return, _) => Err(Decline::NotStartedHere),
            (Desired::Run | Desired::Pause, None) => Err(Decline::WorkNeeded),
            (Desired::Run | Desired::Pause, Some(spec)) => {
                let clock = self.clock();
                let requires = std::mem::take(&mut offer.requires);
                let mut job = Job::taken(spec, requires, &offer, clock.stamp());
                // A time that passed while the job waited at the master was not missed here.
                let has_come = |at: Time| clock.master_time().is_some_and(|time| at <= time);
                job.due = offer.start.not_before.is_some_and(has_come);
                self.unacceptable(&job, unfit).map_or(Ok(job), Err)
            }
        };
        match job {
            Ok(job) => self.jobs().insert(job),
            Err(why) => self.out().decline(&offer, why),
        }
    }

    /// Why the slave does not take a job that is offered, if it does not.
    fn unacceptable(&self, offered: &Job, unfit: &BTreeMap<JobId, Reason>) -> Option<Decline> {
        let (state, id, spec) = (self.state(), offered.report.job, &offered.spec);
        if spec.digest() != offered.digest {
            return Some(Decline::OtherWork);
        }
        if let Some(reason) = unfit.get(&id).cloned().or_else(|| state.settings.lacks(&offered.requires)) {
            return Some(Decline::Unfit(reason));
        }
        let mode = state.node.operating_mode.mode;
        if !matches!(mode, Mode::Production) {
            return Some(Decline::NotInProduction(mode));
        }
        if state.node.local_lock {
            return Some(Decline::LocalLock);
        }
        if let (Some(deadline), Some(time)) = (offered.start.deadline, self.clock().master_time())
            && deadline < time
        {
            return Some(Decline::WindowClosed);
        }
        // What can't start yet takes no place of what can.
        let judge = self.judge();
        let is_deferred = |job: &Job| job.report.state == State::Accepted && judge.held_by(job).is_some();
        let full_of = |deferred: bool| {
            let is_alike = |job: &&Job| !job.report.state.is_ended() && is_deferred(job) == deferred;
            let alike: Vec<_> = state.jobs.values().filter(is_alike).map(|job| job.report.job).collect();
            let (bound, full): (_, fn(Vec<JobId>) -> Decline) = match deferred {
                true => (state.settings.deferred_capacity, Decline::FullOfDeferred),
                false => (state.settings.capacity, Decline::Full),
            };
            (alike.len() >= usize::from(bound)).then(|| full(alike))
        };
        // What comes in a moment may have come by the master's clock.
        let may_have_come = is_deferred(offered) && judge.is_near(offered) && full_of(false).is_none();
        if let Some(full) = full_of(is_deferred(offered)).filter(|_| !may_have_come) {
            return Some(full);
        }
        if state.jobs.len() >= usize::from(limits::CAPACITY) {
            return Some(Decline::TooManyKept);
        }
        let size = offered.size();
        if size > SPEC_BYTES {
            return Some(Decline::TooLarge { size });
        }
        // Outcomes count: a master that knows nothing is told them whole.
        if state.jobs.values().map(Job::size).sum::<usize>() + size > HELD_BYTES {
            return Some(Decline::TooMuchKept);
        }
        None
    }

    /// A newer desired state for a job that is here.
    fn set_desired(&mut self, wanted: &DesiredState) {
        let Some(mut held) = self.held(wanted.job) else { return };
        held.take_desired(wanted);
        match wanted.desired {
            Desired::Run | Desired::Pause | Desired::Cancel(_) => held.follow(wanted.desired),
            Desired::Return => {
                // A job that has begun under this attempt is not given back; its report says so.
                if held.report.state == State::Accepted && !held.report.has_begun() {
                    self.jobs().remove(wanted.job);
                    self.out().decline(wanted, Decline::GivenBack);
                }
            }
            Desired::Resolve(end) => {
                if let Some(mut job) = self.at_machine(wanted.job) {
                    job.resolve(end, Source::Remote);
                }
            }
        }
    }
}

impl Held<'_> {
    /// Keeps what the master wants from here on. Only before it has begun can a job be given another start rule: what is starting waits
    /// again if the machine turns out to be unable to begin.
    fn take_desired(&mut self, wanted: &DesiredState) {
        let job = self.edit();
        job.report.generation = wanted.generation;
        job.desired = wanted.desired;
        let state = job.report.state;
        let takes_start_rule = state == State::Accepted || state.is_started() && !job.report.has_begun();
        if takes_start_rule {
            self.take_start_rule(wanted.start);
        }
        if wanted.digest != self.digest {
            self.explain(JobReason::OtherWork);
            if takes_start_rule {
                self.edit().start.gate = Gate::Held;
            }
        }
    }

    fn take_start_rule(&mut self, start: StartRule) {
        let time = self.clock().master_time();
        let job = self.edit();
        if start.not_before != job.start.not_before {
            // The new time is judged afresh. If it has passed already, a job that is held for a missed start stays held until a person
            // releases it: it may be the plan of a master that was restored.
            let is_over = start.not_before.is_some_and(|at| time.is_some_and(|time| at <= time));
            job.due = is_over && !job.missed;
            if !is_over {
                job.missed = false;
                let missed = |reason: &mut Reason| reason.code == ReasonCode::MissedStart;
                drop(job.report.reason.take_if(missed));
            }
        }
        if (start.not_before, start.deadline) != (job.start.not_before, job.start.deadline) {
            job.window_met = false;
        }
        job.start = start;
        if matches!(start.gate, Gate::Released { .. }) {
            job.missed = false;
            job.due = true;
        }
    }
}

//! What the master wants of a job: a new offer, or a newer desired state of a job that is here.

use std::collections::BTreeMap;

use super::handshake::remembered;
use super::step::Rules;
use super::{Effect, HELD_BYTES, Ignored, Job, RunState};
use crate::id::{Attempt, Generation, JobId, Run};
use crate::job::{self, State};
use crate::limits::{self};
use crate::message::{Declined, Flags, Reason, ReasonCode, Record, Report, Source, WaitingFor};
use crate::spec::{CancelMode, Desired, DesiredState, Gate, SPEC_BYTES};
use crate::time::Time;

pub(super) fn not_held(
    job: JobId,
    attempt: Attempt,
    generation: Generation,
    reason: Reason,
    for_good: bool,
) -> Declined {
    Declined { job, attempt, generation, reason, for_good }
}

pub(super) fn fresh_report(job: JobId, attempt: Attempt, generation: Generation, at: Time) -> Report {
    Report {
        job,
        attempt,
        run: Run(0),
        generation,
        seq: crate::id::ReportSeq::default(),
        state: State::Accepted,
        waiting_for: None::<WaitingFor>,
        progress: None,
        note: None,
        accepted_at: at,
        started_at: None,
        started_generation: None,
        ended_at: None,
        outcome: None,
        reason: None,
        flags: Flags::default(),
        source: Source::Remote,
    }
}

/// What is told of a job that was canceled by this one.
pub(super) fn why_stopped(source: Source) -> Reason {
    match source {
        Source::Local => Reason::new(ReasonCode::StoppedLocally, "stopped by a person at the machine"),
        Source::Slave => Reason::new(ReasonCode::MaxRuntime, "it ran longer than its order allows"),
        Source::Remote | Source::Machine => Reason::new(ReasonCode::Canceled, "canceled"),
    }
}

impl Rules {
    /// The master's whole desired state for one job, from a DesiredState or from a Welcome.
    pub(super) fn wanted(&mut self, desired_state: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let held = self
            .state
            .jobs
            .get(&desired_state.job)
            .map(|job| (job.report.attempt, job.report.state, job.report.generation));
        match held {
            None => self.offered(desired_state, unfit),
            Some((attempt, ..)) if attempt > desired_state.attempt => {
                self.effects.push(Effect::Ignored(Ignored::OlderGeneration))
            }
            Some((attempt, state, _)) if attempt < desired_state.attempt => {
                if state == job::State::Accepted {
                    self.state.jobs.remove(&desired_state.job);
                    self.offered(desired_state, unfit);
                } else {
                    let text = format!("attempt {attempt} of the same job is {} here", state.name());
                    let reason = Reason::new(ReasonCode::OlderAttempt, text);
                    self.declined.push(not_held(
                        desired_state.job,
                        desired_state.attempt,
                        desired_state.generation,
                        reason,
                        false,
                    ));
                    self.say_again(desired_state.job);
                }
            }
            Some((_, _, generation)) if generation >= desired_state.generation => {
                self.effects.push(Effect::Ignored(Ignored::OlderGeneration));
                self.say_again(desired_state.job);
            }
            Some(_) => self.set_desired(desired_state),
        }
    }

    /// A level is repeated when the other side seems not to know it.
    pub(super) fn say_again(&mut self, id: JobId) {
        if let Some(settling) = &mut self.settling {
            settling.report.insert(id);
        }
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.report.seq.start = self.state.node.starts;
            job.report.seq.count += 1;
        }
    }

    pub(super) fn offered(&mut self, desired_state: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let done = |record: &&Record| {
            record.report.job == desired_state.job && record.report.attempt >= desired_state.attempt
        };
        if let Some(record) = self.state.recent_outcomes.iter().find(done).cloned() {
            // It was done here and forgotten: never again, and the outcome is told anew.
            self.state.jobs.insert(desired_state.job, remembered(record));
            self.say_again(desired_state.job);
            return;
        }
        let DesiredState { job: id, attempt, generation, digest, spec, desired, start } = desired_state;
        let decline =
            |code, text: &str, for_good| not_held(id, attempt, generation, Reason::new(code, text), for_good);
        let declined = match (desired, spec) {
            (Desired::Cancel(_) | Desired::Resolve(_), _) => {
                decline(ReasonCode::NotHeld, "it was never here", true)
            }
            (Desired::Return, _) => decline(ReasonCode::GivenBack, "it was not started here", false),
            (Desired::Run | Desired::Pause, None) => {
                decline(ReasonCode::NotHeld, "the work is needed to take it", false)
            }
            (Desired::Run | Desired::Pause, Some(spec)) => {
                match self.unacceptable(id, &spec, digest, &start, unfit) {
                    Some((reason, for_good)) => not_held(id, attempt, generation, reason, for_good),
                    None => {
                        let report = fresh_report(id, attempt, generation, self.stamp());
                        // A time that passed while the job waited at the master was not missed here.
                        let has_come = |at: Time| self.master_time().is_some_and(|time| at <= time);
                        let due = start.not_before.is_some_and(has_come);
                        let job = Job {
                            spec,
                            digest,
                            desired,
                            start,
                            report,
                            due,
                            missed: false,
                            window_met: false,
                            paused_locally: false,
                            interruptions: 0,
                            run: RunState::default(),
                        };
                        self.state.jobs.insert(id, job);
                        return;
                    }
                }
            }
        };
        self.declined.push(declined);
    }

    pub(super) fn unacceptable(
        &self,
        id: JobId,
        spec: &crate::spec::Spec,
        digest: crate::spec::SpecDigest,
        start: &crate::spec::StartRule,
        unfit: &BTreeMap<JobId, Reason>,
    ) -> Option<(Reason, bool)> {
        let state = &self.state;
        if spec.digest() != digest {
            return Some((Reason::new(ReasonCode::DigestMismatch, "the work is not what was agreed"), true));
        }
        if let Some(reason) = unfit.get(&id) {
            return Some((reason.clone(), true));
        }
        if !matches!(state.node.operating_mode.mode, crate::message::Mode::Production) {
            let text = format!("the slave is in mode {}", state.node.operating_mode.mode.name());
            return Some((Reason::new(ReasonCode::NotInProduction, text), false));
        }
        if state.node.local_lock {
            let text =
                "remote starts are locked out at the machine: `reloop-slave local off` there lets them in";
            return Some((Reason::new(ReasonCode::LocalLock, text), false));
        }
        if let (Some(deadline), Some(time)) = (start.deadline, self.master_time())
            && deadline < time
        {
            return Some((Reason::new(ReasonCode::WindowClosed, "its latest start has passed"), false));
        }
        let held: Vec<_> = state.jobs.values().filter(|job| !job.report.state.is_ended()).collect();
        if held.len() >= usize::from(state.settings.capacity) {
            let names: Vec<_> = held.iter().map(|job| job.report.job.to_string()).collect();
            let text = format!("the slave holds as many jobs as it may: {}", names.join(", "));
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        if state.jobs.len() >= usize::from(limits::CAPACITY) {
            let text = "the slave keeps as many jobs and outcomes as one message can tell of: the master has to \
                        take the outcomes first";
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        let size = spec.size();
        if size > SPEC_BYTES {
            let text = format!(
                "the work takes {size} bytes where {SPEC_BYTES} are allowed: pass large things by name"
            );
            return Some((Reason::new(ReasonCode::BadParams, text), true));
        }
        // Outcomes count: a master that knows nothing is told them whole.
        if state.jobs.values().map(|job| job.spec.size()).sum::<usize>() + size > HELD_BYTES {
            let text = "the slave holds as much work as one message can tell of";
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        None
    }

    /// A newer desired state for a job that is here.
    pub(super) fn set_desired(&mut self, desired_state: DesiredState) {
        let id = desired_state.job;
        let time = self.master_time();
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.generation = desired_state.generation;
        job.desired = desired_state.desired;
        let state = job.report.state;
        if state == job::State::Accepted {
            if desired_state.start.not_before != job.start.not_before {
                // What came or was missed was another time. One that is over already ends no hold: it may be the plan of
                // a master that was restored, and who wants it begun now says so by a release.
                let is_over =
                    desired_state.start.not_before.is_some_and(|at| time.is_some_and(|time| at <= time));
                job.due = is_over && !job.missed;
                if !is_over {
                    job.missed = false;
                    let missed = |reason: &mut Reason| reason.code == ReasonCode::MissedStart;
                    drop(job.report.reason.take_if(missed));
                }
            }
            if (desired_state.start.not_before, desired_state.start.deadline)
                != (job.start.not_before, job.start.deadline)
            {
                job.window_met = false;
            }
            job.start = desired_state.start;
            if matches!(desired_state.start.gate, Gate::Released { .. }) {
                job.missed = false;
                job.due = true;
            }
        }
        if desired_state.digest != job.digest {
            let text = "the work that the master means is not the work that is here: cancel it";
            job.report.reason = Some(Reason::new(ReasonCode::DigestMismatch, text));
            if state == job::State::Accepted {
                job.start.gate = Gate::Held;
            }
        }
        match desired_state.desired {
            Desired::Run => self.let_run(id, Source::Remote),
            Desired::Pause => self.pause(id, Source::Remote),
            Desired::Cancel(mode) => self.cancel(id, mode, Source::Remote),
            Desired::Return => {
                // What has begun here begins again here, if it does: its report says so.
                let has_begun = self.state.jobs.get(&id).is_some_and(|job| job.report.started_at.is_some());
                if state == job::State::Accepted && !has_begun {
                    self.state.jobs.remove(&id);
                    let reason = Reason::new(ReasonCode::GivenBack, "given back as asked");
                    self.declined.push(not_held(
                        id,
                        desired_state.attempt,
                        desired_state.generation,
                        reason,
                        false,
                    ));
                }
            }
            Desired::Resolve(end) => {
                self.resolve(id, end, Source::Remote);
            }
        }
    }

    /// Somebody cancels a job. What the machine has not answered about is stopped once it has.
    pub(super) fn cancel(&mut self, id: JobId, mode: CancelMode, source: Source) {
        let reason = why_stopped(source);
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let state = job.report.state;
        if state == job::State::Accepted {
            if self.apply(id, job::Event::Dropped, source) {
                self.reason(id, reason);
            }
            return;
        }
        let too_late = state.is_ended() || (state.is_executing() && mode == CancelMode::IfNotStarted);
        if too_late {
            job.report.flags.set(Flags::CANCEL_TOO_LATE);
            return;
        }
        if !state.is_executing() {
            return;
        }
        if matches!(source, Source::Local | Source::Slave) {
            job.run.stop_decided = Some(source);
        }
        let harder = job.run.stopping.is_none_or(|stopping| mode > stopping);
        if harder {
            job.run.stopping = Some(mode);
        }
        if harder && !is_unanswered {
            let work = job.work();
            self.apply(id, job::Event::StopBegan, source);
            self.reason(id, reason);
            self.effects.push(Effect::Stop { work, now: mode == CancelMode::Now });
        }
    }
}

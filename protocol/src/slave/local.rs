//! What a person at the machine wants.

use super::machine::no_longer_refused;
use super::step::Rules;
use super::{Effect, Local};
use crate::id::JobId;
use crate::job::State;
use crate::message::{Attention, Reason, ReasonCode, Source};
use crate::spec::{CancelMode, Desired};

pub(super) const PAUSED_LOCALLY: &str =
    "paused by a person at the machine: `reloop-slave resume` there lets it go on";

pub(super) const NOT_RUNNING: &str = "nothing runs that could be told";

impl Rules {
    /// A person has looked at what needed attention.
    pub(super) fn clear(&mut self) -> Option<Attention> {
        self.state.node.cause = None;
        let unfit = |job: &super::Job| {
            let reason = job.report.reason.as_ref();
            job.report.state == State::Accepted
                && reason.is_some_and(|reason| reason.code == ReasonCode::MachineUnfit)
        };
        self.state.jobs.change(unfit, |job| job.report.reason = None);
        self.state.node.attention.take()
    }

    pub(super) fn local(&mut self, request: u64, command: Local) {
        let reply = self.obey(command);
        self.effects.push(Effect::Reply { request, reply });
    }

    pub(super) fn obey(&mut self, command: Local) -> Result<String, String> {
        let executing = self.state.jobs.values().find(|job| job.report.state.is_executing());
        let executing = executing.map(|job| (job.report.job, job.report.state));
        match command {
            Local::Ready => match self.state.node.unloading.take() {
                Some(job) => Ok(format!("clear of {job}: the machine takes the next job")),
                None => Err("the machine is not waiting to be cleared of a job".to_owned()),
            },
            Local::Clear => match self.clear() {
                Some(attention) => Ok(format!("cleared: {}", attention.name())),
                None => Err("the machine does not need attention".to_owned()),
            },
            Local::Lock(lock) => {
                self.state.node.local_lock = lock;
                Ok(if lock {
                    "remote starts are locked out; what runs goes on".to_owned()
                } else {
                    "remote starts are let in".to_owned()
                })
            }
            Local::Pause => match executing {
                Some((id, State::Starting | State::Running)) => {
                    self.pause(id, Source::Local);
                    Ok(format!("pausing {id}: only here can it be resumed"))
                }
                Some((id, state)) => Err(format!("{id} is {}", state.name())),
                None => Err(NOT_RUNNING.to_owned()),
            },
            Local::Resume => match executing {
                Some((id, State::Paused)) => {
                    if let Some(job) = self.state.jobs.get_mut(&id) {
                        job.paused_locally = false;
                        job.run.stop_decided = None;
                        if !matches!(job.desired, Desired::Cancel(_)) {
                            // It was to be stopped once the machine has said what it does.
                            job.run.stopping = None;
                        }
                    }
                    self.let_run(id, Source::Local);
                    Ok(format!("resuming {id}"))
                }
                Some((id, state)) => Err(format!("{id} is {}", state.name())),
                // Paused here, then interrupted, and about to begin again: still paused here.
                None => {
                    let paused =
                        self.state.jobs.values().find(|job| job.paused_locally).map(|job| job.report.job);
                    match paused.and_then(|id| self.state.jobs.get_mut(&id)) {
                        Some(job) => {
                            job.paused_locally = false;
                            let paused = |reason: &mut Reason| reason.code == ReasonCode::PausedLocally;
                            drop(job.report.reason.take_if(paused));
                            Ok(format!("{} may start", job.report.job))
                        }
                        None => Err(NOT_RUNNING.to_owned()),
                    }
                }
            },
            Local::Stop { now } => match executing {
                Some((id, _)) => {
                    let mode = if now { CancelMode::Now } else { CancelMode::SafePoint };
                    self.cancel(id, mode, Source::Local);
                    Ok(if self.state.is_unanswered(id) {
                        format!("the machine is being asked what it does: {id} is stopped if it still works")
                    } else {
                        format!("stopping {id}")
                    })
                }
                None => Err(NOT_RUNNING.to_owned()),
            },
            Local::Resolve { job, end } => {
                let mut uncertain = self
                    .state
                    .jobs
                    .values()
                    .filter(|job| job.report.state == State::Uncertain)
                    .map(|j| j.report.job);
                let id = match (job, uncertain.next(), uncertain.next()) {
                    (Some(id), ..) => id,
                    (None, Some(id), None) => id,
                    (None, None, _) => return Err("no job here is uncertain".to_owned()),
                    (None, Some(_), Some(_)) => {
                        return Err("more than one job is uncertain: name the one you mean".to_owned());
                    }
                };
                if self.resolve(id, end, Source::Local) {
                    Ok(format!("{id} is resolved"))
                } else {
                    Err(format!("{id} is not uncertain here"))
                }
            }
        }
    }

    pub(super) fn pause(&mut self, id: JobId, source: Source) {
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        if source == Source::Local {
            job.paused_locally = true;
            job.report.reason =
                Some(Reason::new(ReasonCode::PausedLocally, "paused by a person at the machine"));
        }
        if matches!(job.report.state, State::Starting | State::Running | State::Paused)
            && !job.run.asked_to_pause.unwrap_or(job.run.paused)
        {
            job.run.asked_to_pause = Some(true);
            let work = job.work();
            if !is_unanswered {
                self.effects.push(Effect::Pause(work));
            }
        }
    }

    pub(super) fn let_run(&mut self, id: JobId, source: Source) {
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let executing = matches!(job.report.state, State::Starting | State::Running | State::Paused);
        if !executing {
            return;
        }
        if !job.run.asked_to_pause.unwrap_or(job.run.paused) {
            no_longer_refused(job);
            return;
        }
        if job.paused_locally {
            job.report.reason = Some(Reason::new(ReasonCode::PausedLocally, PAUSED_LOCALLY));
            return;
        }
        job.run.asked_to_pause = Some(false);
        job.report.reason = None;
        job.report.source = source;
        let work = job.work();
        if !is_unanswered {
            self.effects.push(Effect::Resume(work));
        }
    }
}

//! What a person at the machine wants.

use super::step::Rules;
use super::{Done, Effect, Job, Local, NotDone};
use crate::id::JobId;
use crate::job::{End, State};
use crate::message::{Attention, ReasonCode, Source};
use crate::spec::{CancelMode, Desired};

impl Rules {
    pub(super) fn local(&mut self, request: u64, command: Local) {
        let reply = self.obey(command);
        self.out().act(Effect::Reply { request, reply });
    }

    fn obey(&mut self, command: Local) -> Result<Done, NotDone> {
        match command {
            Local::Ready => self.machine().unload().map(Done::Unloaded).ok_or(NotDone::NotUnloading),
            Local::Clear => self.clear().map(Done::Cleared).ok_or(NotDone::NoAttention),
            Local::Lock(lock) => {
                self.machine().set_locked(lock);
                Ok(if lock { Done::Locked } else { Done::Unlocked })
            }
            Local::Pause => match self.executing().ok_or(NotDone::NothingRuns)? {
                (id, State::Starting | State::Running) => {
                    if let Some(mut held) = self.held(id) {
                        held.pause(Source::Local);
                    }
                    Ok(Done::Pausing(id))
                }
                (id, state) => Err(NotDone::InState(id, state)),
            },
            Local::Resume => match self.executing() {
                Some((id, State::Paused)) => {
                    self.resume(id);
                    Ok(Done::Resuming(id))
                }
                Some((id, state)) => self.let_start().map(Done::MayStart).ok_or(NotDone::InState(id, state)),
                None => self.let_start().map(Done::MayStart).ok_or(NotDone::NothingRuns),
            },
            Local::Stop { now } => {
                let (id, _) = self.executing().ok_or(NotDone::NothingRuns)?;
                let mode = if now { CancelMode::Now } else { CancelMode::SafePoint };
                if let Some(mut held) = self.held(id) {
                    held.cancel(mode, Source::Local);
                }
                let is_unanswered = self.state().is_unanswered(id);
                Ok(if is_unanswered { Done::StoppingIfAtWork(id) } else { Done::Stopping(id) })
            }
            Local::Resolve { job, end } => self.resolve(job, end),
        }
    }

    /// The job that the machine is at.
    fn executing(&self) -> Option<(JobId, State)> {
        let executing = self.state().jobs.values().find(|job| job.report.state.is_executing());
        executing.map(|job| (job.report.job, job.report.state))
    }

    /// A person has looked at what needed attention.
    pub(super) fn clear(&mut self) -> Option<Attention> {
        self.drop_reasons_of_unfitness();
        self.machine().clear()
    }

    /// The machine may begin again what it could not begin.
    pub(super) fn drop_reasons_of_unfitness(&mut self) {
        let unfit = |job: &Job| job.report.state == State::Accepted && job.says(ReasonCode::MachineUnfit);
        self.each(unfit, |mut held| held.edit().report.reason = None);
    }

    fn resume(&mut self, id: JobId) {
        let Some(mut held) = self.held(id) else { return };
        let job = held.edit();
        job.paused_locally = false;
        job.run.stop_decided = None;
        if !matches!(job.desired, Desired::Cancel(_)) {
            // It was to be stopped once the machine has said what it does.
            job.run.stopping = None;
        }
        held.let_run(Source::Local);
    }

    /// Lets a job start that was paused here, then interrupted, and is about to begin again.
    fn let_start(&mut self) -> Option<JobId> {
        let waits = |job: &&Job| job.paused_locally && job.report.state == State::Accepted;
        let id = self.state().jobs.values().find(waits)?.report.job;
        let mut held = self.held(id)?;
        held.edit().paused_locally = false;
        if held.says(ReasonCode::PausedLocally) {
            held.edit().report.reason = None;
        }
        Some(id)
    }

    fn resolve(&mut self, job: Option<JobId>, end: End) -> Result<Done, NotDone> {
        let uncertain = self.state().jobs.values().filter(|job| job.report.state == State::Uncertain);
        let mut uncertain = uncertain.map(|job| job.report.job);
        let id = match (job, uncertain.next(), uncertain.next()) {
            (Some(id), ..) => id,
            (None, Some(id), None) => id,
            (None, None, _) => return Err(NotDone::NothingUncertain),
            (None, Some(_), Some(_)) => return Err(NotDone::ManyUncertain),
        };
        let is_resolved = self.at_machine(id).is_some_and(|mut job| job.resolve(end, Source::Local));
        if is_resolved { Ok(Done::Resolved(id)) } else { Err(NotDone::NotUncertain(id)) }
    }
}

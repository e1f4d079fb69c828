//! How a job's run is paused, let go on and stopped, whoever wants it.

use super::held::Held;
use super::{Effect, JobReason};
use crate::job::{self, State};
use crate::message::{Flags, ReasonCode, Source};
use crate::spec::{CancelMode, Desired};

impl Held<'_> {
    /// What the master wants of a run that may be there.
    pub(super) fn follow(&mut self, desired: Desired) {
        match desired {
            Desired::Run => self.let_run(Source::Remote),
            Desired::Pause => self.pause(Source::Remote),
            Desired::Cancel(mode) => self.cancel(mode, Source::Remote),
            Desired::Return | Desired::Resolve(_) => {}
        }
    }

    /// The same, of a run that could not be paused or let go on before. A stop that was refused is not asked for again.
    pub(super) fn follow_pause(&mut self) {
        if matches!(self.desired, Desired::Run | Desired::Pause) {
            self.follow(self.desired);
        }
    }

    pub(super) fn pause(&mut self, source: Source) {
        if source == Source::Local {
            self.edit().paused_locally = true;
            self.explain(JobReason::PausedLocally);
        }
        if self.is_pausable() && !self.run.asked_to_pause.unwrap_or(self.run.paused) {
            self.edit().run.asked_to_pause = Some(true);
            if !self.is_unanswered() {
                self.act(Effect::Pause(self.work()));
            }
        }
    }

    pub(super) fn let_run(&mut self, source: Source) {
        if !self.is_pausable() {
            return;
        }
        if !self.run.asked_to_pause.unwrap_or(self.run.paused) {
            self.no_longer_refused();
            return;
        }
        if self.paused_locally {
            self.explain(JobReason::PausedLocally);
            return;
        }
        let job = self.edit();
        job.run.asked_to_pause = Some(false);
        job.report.reason = None;
        job.report.source = source;
        if !self.is_unanswered() {
            self.act(Effect::Resume(self.work()));
        }
    }

    /// It is paused or goes on, as was asked; or nobody asks any more.
    pub(super) fn no_longer_refused(&mut self) {
        if self.says(ReasonCode::PauseRefused) {
            self.edit().report.reason = None;
        }
    }

    /// Somebody cancels the job. What the machine has not answered about is stopped once it has.
    pub(super) fn cancel(&mut self, mode: CancelMode, source: Source) {
        let state = self.report.state;
        if state == State::Accepted {
            if self.apply(job::Event::Dropped, source) {
                self.explain(JobReason::Stopped(source));
            }
            return;
        }
        let too_late = state.is_ended() || (state.is_executing() && mode == CancelMode::IfNotStarted);
        if too_late {
            self.edit().report.flags.set(Flags::CANCEL_TOO_LATE);
            return;
        }
        if !state.is_executing() {
            return;
        }
        if matches!(source, Source::Local | Source::Slave) {
            self.edit().run.stop_decided = Some(source);
        }
        let harder = self.run.stopping.is_none_or(|stopping| mode > stopping);
        if harder {
            self.edit().run.stopping = Some(mode);
        }
        if harder && !self.is_unanswered() {
            self.apply(job::Event::StopBegan, source);
            self.explain(JobReason::Stopped(source));
            self.act(Effect::Stop { work: self.work(), now: mode == CancelMode::Now });
        }
    }

    /// The job never began and would wait again, but somebody wanted it away meanwhile: in time, as it turns out.
    pub(super) fn call_off(&mut self, source: Source) {
        if self.apply(job::Event::Dropped, source) {
            self.explain(JobReason::Stopped(source));
            self.edit().report.flags.clear(Flags::CANCEL_TOO_LATE);
        }
    }
}

//! A slave says that it does not hold an attempt: it would not take it, has given it back, or never had it.

use super::jobs::Jobs;
use super::visit::Visit;
use super::{Ignored, JobReason, OtherAttempt};
use crate::id::{Attempt, JobId};
use crate::job::{self, State};
use crate::message::{Declined, Message, Reason, ReasonCode};
use crate::spec::Desired;

impl Visit<'_> {
    /// Somebody said no, or gave it back.
    pub(super) fn declined(&mut self, declined: Declined) {
        let key = self.key;
        let Some(job) = self.book().jobs.get(&declined.job) else { return };
        let (id, desired, unfit_there) = (declined.job, job.wanted(), job.is_unfit_there().cloned());
        if declined.reason.code == ReasonCode::NotHeld && !job.is_current(key, declined.attempt) {
            return self.other_is_gone(id, declined.attempt);
        }
        // Also of one that was starting: its machine may have been unable to begin it, and the slave's word of that may have been lost.
        let may_come_back = matches!(job.state, State::Assigned | State::Accepted | State::Starting);
        let missing = job.state.is_started() && declined.reason.code == ReasonCode::NotHeld;
        let stale = !job.is_current(key, declined.attempt)
            || !may_come_back && !missing
            || declined.generation < job.generation && declined.reason.code != ReasonCode::GivenBack;
        if stale {
            return self.out.ignore(Ignored::OlderAnswer);
        }
        if missing {
            return self.judge_absent(id);
        }
        if declined.reason.code == ReasonCode::NotHeld && matches!(desired, Desired::Run | Desired::Pause) {
            // It lacks the work: it is offered whole, under the same attempt.
            let desired_state = job.desired_state(true);
            return self.send(Message::DesiredState(desired_state));
        }
        if declined.for_good && !self.record().can_do(&job) {
            // What its handshake has told says the same: the job was assigned before its config was changed.
            return self.jobs().given_back(id, desired, Some(declined.reason));
        }
        if declined.for_good && desired == Desired::Run {
            let mut jobs = self.jobs();
            jobs.edit(id, |job| job.reason = Some(declined.reason));
            jobs.apply(id, job::Event::StartRefused, jobs.roster.name(key));
            return jobs.try_again(id);
        }
        if declined.reason.code == ReasonCode::WindowClosed
            && job.start.deadline.is_some()
            && !matches!(desired, Desired::Cancel(_))
        {
            // That is about the job and not about the slave, which takes the next.
            let mut jobs = self.jobs();
            let by = jobs.roster.name(key);
            jobs.edit(id, |job| job.reason = Some(declined.reason));
            jobs.apply(id, job::Event::GivenBack, by);
            // A window is for what has not begun: an older attempt may have.
            jobs.weigh(id);
            if jobs.is_in(id, State::Queued) {
                jobs.apply(id, job::Event::WindowClosed, by);
            }
            return;
        }
        let asked_for = declined.reason.code == ReasonCode::GivenBack;
        if asked_for {
            self.ends_declining();
        }
        // What became of an older attempt was told before this: by now it is forgotten there, or speaks for the job.
        let is_told = declined.reason.code == ReasonCode::OlderAttempt;
        // That it was recalled is no reason; that its slave's config does not allow it any more is one.
        let reason = if asked_for { unfit_there } else { Some(declined.reason) };
        self.jobs().given_back(id, desired, reason);
        // What it can never do says nothing of others, nor does a job that has ended by that.
        let waits = self.book().jobs.get(&id).is_some_and(|job| !job.state.is_ended());
        if !asked_for && !is_told && !declined.for_good && waits {
            self.edit_volatile(|slave| slave.declining = true);
        }
    }

    /// Another attempt is not there any more, and was told of no end: what a person may have said of it reaches nobody.
    fn other_is_gone(&mut self, id: JobId, attempt: Attempt) {
        let key = self.key;
        let is_it = |e: &OtherAttempt| {
            let has_ended = e.report.as_ref().is_some_and(|report| report.state.is_ended());
            e.attempt == attempt && e.holder == key && !has_ended
        };
        let Some(job) = self.book().jobs.get(&id) else { return };
        let Some(at) = job.others.iter().position(is_it) else {
            return self.out.ignore(Ignored::OlderAnswer);
        };
        let state = match job::next(job.others[at].state, job::Event::Abandoned) {
            job::Transition::To(next) => next,
            job::Transition::Unchanged | job::Transition::Rejected(_) => job.others[at].state,
        };
        self.jobs().edit(id, |job| {
            job.others[at].state = state;
            job.others[at].report = None;
        });
        self.note_other_attempt(id, false);
    }
}

impl Jobs<'_> {
    /// The slave never had it, or has let it go.
    pub(super) fn given_back(&mut self, id: JobId, desired: Desired, reason: Option<Reason>) {
        let has_reason = reason.is_some();
        let by = self.get(id).and_then(|job| job.holder).map_or("slave", |holder| self.roster.name(holder));
        self.edit(id, |job| {
            if has_reason {
                job.reason = reason;
            }
        });
        if self.is_in(id, State::Starting) {
            self.apply(id, job::Event::StartPostponed, by);
        }
        if self.is_in(id, State::Accepted) {
            // An accepted job goes back to the queue first; then the desired state decides.
            self.apply(id, job::Event::GivenBack, by);
        }
        match desired {
            Desired::Cancel(_) => {
                self.edit(id, |job| job.reason = Some(JobReason::CanceledUnstarted.into()));
                self.apply(id, job::Event::Withdrawn, "client");
                self.weigh(id);
            }
            Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => {
                self.apply(id, job::Event::GivenBack, by);
                self.weigh(id);
            }
        }
    }
}

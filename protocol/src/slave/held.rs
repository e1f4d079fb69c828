//! One job that the slave holds, for the rules that look at nothing else. A change of it is noted, so that the end of the step
//! writes and reports it.

use std::ops::Deref;

use super::clock::Clock;
use super::out::Out;
use super::{Effect, Ignored, Job, RunState};
use crate::job::{self, State};
use crate::message::{Reason, Source};

/// It is read like the job that it is, and changed by [`Held::edit`].
pub(super) struct Held<'a> {
    job: &'a mut Job,
    clock: Clock,
    is_unanswered: bool,
    out: &'a mut Out,
}

impl Deref for Held<'_> {
    type Target = Job;

    fn deref(&self) -> &Job {
        self.job
    }
}

impl<'a> Held<'a> {
    pub(super) fn new(job: &'a mut Job, clock: Clock, is_unanswered: bool, out: &'a mut Out) -> Self {
        Self { job, clock, is_unanswered, out }
    }

    /// The job, to be changed.
    pub(super) fn edit(&mut self) -> &mut Job {
        self.out.note(self.job.report.job, Some(self.job));
        self.job
    }

    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether the machine was asked what it does with this job and has not answered: until it has, it is told nothing.
    pub(super) fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    pub(super) fn act(&mut self, effect: Effect) {
        self.out.act(effect);
    }

    /// Moves the job by the table. True if its state changed. If the table rejects the event, an `Ignored` effect says why.
    pub(super) fn apply(&mut self, event: job::Event, source: Source) -> bool {
        match job::next(self.report.state, event) {
            job::Transition::To(next) => {
                let stamp = self.clock.stamp();
                let job = self.edit();
                if job.report.state == State::Uncertain {
                    // Why nobody knew how it ended.
                    job.report.reason = None;
                }
                job.report.state = next;
                job.report.source = source;
                if next.is_ended() {
                    job.report.ended_at = job.report.ended_at.or(Some(stamp));
                }
                if !next.is_started() {
                    job.run = RunState::default();
                }
                true
            }
            job::Transition::Unchanged => false,
            job::Transition::Rejected(why) => {
                self.out.ignore(Ignored::Job(why));
                false
            }
        }
    }

    /// Says why the job is in its state.
    pub(super) fn explain(&mut self, reason: impl Into<Reason>) {
        self.edit().report.reason = Some(reason.into());
    }

    /// Makes a new report that says the same, because the master seems not to know it.
    pub(super) fn say_again(&mut self, starts: u32) {
        let job = self.edit();
        job.report.seq = job.report.seq.next(starts);
    }
}

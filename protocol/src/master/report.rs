//! What a slave says on a live link, and what follows from a report of the attempt that speaks for its job.

use super::attempts::OTHERS_TEXT;
use super::jobs::Jobs;
use super::order::durable_report;
use super::slave_record::{Enrolled, SlaveLink};
use super::visit::Visit;
use super::{CloseReason, Ignored, Job, JobReason, REJECTIONS, RejectedBy, RetryOn, Rules};
use crate::id::{Epoch, Generation, JobId};
use crate::job::{self, End, State};
use crate::limits::clip;
use crate::message::{Flags, Forget, MachineReport, Message, ReasonCode, Reply, Report, WaitingFor};
use crate::reconcile::{Line, Store, Theirs, Verdict};
use crate::slave::LinkId;
use crate::spec::{Desired, DesiredState, Gate};
use crate::time::Time;

/// Whether the slave acted on an older desired state, in a way that the newest one does not allow: it began the job outside of the
/// newest window, or let it expire inside that window, or reports another state than the end that a person has given, or a later run.
fn is_overtaken(job: &Job, report: &Report) -> bool {
    let window = &job.start;
    let is_after = |at: Time| window.deadline.is_some_and(|deadline| deadline < at);
    let knew = |known: Generation| known >= job.generation;
    let is_released = matches!(window.gate, Gate::Released { .. });
    let has_begun = job.report.as_ref().is_some_and(|known| known.started_at.is_some());
    let began = report.started_at.filter(|_| !has_begun && !is_released);
    let began_early = began.is_some_and(|at| window.not_before.is_some_and(|from| at < from));
    let began_late = began.is_some_and(is_after) && !report.started_generation.is_some_and(knew);
    let expired = report.state == State::Expired && job.state != State::Expired && !knew(report.generation);
    let expired_early = expired && report.ended_at.is_some_and(|at| !is_after(at));
    let is_otherwise = match job.desired {
        Desired::Resolve(end) => {
            is_resolve_moot(job, report) || report.state != State::Uncertain && report.state != end.state()
        }
        Desired::Run | Desired::Pause | Desired::Cancel(_) | Desired::Return => false,
    };
    began_early || began_late || expired_early || is_otherwise
}

/// Whether a person has said how it ended, and this is not what the person spoke of: it works or waits after all, or was begun again
/// since. Its end is not that person's to say.
fn is_resolve_moot(job: &Job, report: &Report) -> bool {
    let was_begun_again = job.report.as_ref().is_some_and(|known| known.run < report.run);
    let has_stopped = report.state == State::Uncertain || report.state.is_ended();
    matches!(job.desired, Desired::Resolve(_)) && (was_begun_again || !has_stopped)
}

impl Rules {
    pub(super) fn received(&mut self, link: LinkId, message: Message) {
        let key = self.state.links.get(&link).copied().flatten();
        let Some(mut visit) = key.and_then(|key| self.visit(key)) else {
            return self.out.ignore(Ignored::UnknownConnection);
        };
        if let Some((id, reply)) = visit.received(link, message)
            && self.state.asked.get(&id).is_some_and(|asked| asked.link == link)
            && let Some(asked) = self.state.asked.remove(&id)
        {
            self.out.answer(asked.request, asked.asked_for.answer(reply));
        }
    }
}

impl Visit<'_> {
    /// Gives the answer to a question, if the message is one, with the question's number.
    fn received(&mut self, link: LinkId, message: Message) -> Option<(u32, Reply)> {
        let slave = self.record();
        if slave.enrolled != Enrolled::Yes {
            self.out.ignore(Ignored::Revoked);
            return None;
        }
        if slave.current() != Some(link) {
            self.out.ignore(Ignored::UnknownConnection);
            return None;
        }
        let settling = matches!(slave.link, SlaveLink::Welcomed { .. });
        let live = slave.live() == Some(link);
        match message {
            Message::Settled(settled) if settling => self.settled(link, settled),
            Message::Report(report) if live => self.heard(report),
            Message::Declined(declined) if live => self.declined(declined),
            Message::Machine(machine) if live => self.machine(machine),
            Message::Answer(answer) if live => return Some((answer.id, answer.answer)),
            Message::Ping | Message::Pong => {}
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Settled(_)
            | Message::Report(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::DesiredState(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_) => {
                self.out.close(link, CloseReason::Unexpected);
            }
        }
        None
    }

    fn machine(&mut self, machine: MachineReport) {
        self.ends_declining();
        if self.record().machine.as_ref() != Some(&machine) {
            self.edit(|slave| slave.machine = Some(machine));
        }
    }

    /// There is news: the slave may take what it declined before.
    pub(super) fn ends_declining(&mut self) {
        if self.record().declining {
            self.edit_volatile(|slave| slave.declining = false);
        }
    }

    /// A report on a live link.
    fn heard(&mut self, report: Report) {
        if report.state.is_ended() {
            self.ends_declining();
        }
        self.judge_report(report, None);
        self.out.look_for_work(self.key);
    }

    /// A slave's report of an attempt; in a handshake with the verdict on it.
    pub(super) fn judge_report(&mut self, report: Report, settled: Option<&'static Line>) {
        let key = self.key;
        let mut report = self.taken(report);
        if report.state != State::Uncertain {
            // The machine report that drops the question may be lost with the link, so it is dropped here.
            self.asks_no_more(report.job);
        }
        let Some(known) = self.book().jobs.get(&report.job).map(|job| job.generation) else {
            return self.out.ignore(Ignored::MissingRecord);
        };
        if !known.may_be_followed_by(report.generation, self.moment.node.epoch) {
            self.out.ignore(Ignored::UnknownGeneration);
            report.generation = known;
        }
        let Some(job) = self.book().jobs.get(&report.job) else { return };
        if !job.is_current(key, report.attempt) {
            return self.hear_other(report);
        }
        let line = settled.unwrap_or_else(|| {
            self.line(Some(&job), Some(&report.row()), Theirs::of(report.state), Store::Trusted)
        });
        let id = report.job;
        let older = job.report.as_ref().is_some_and(|known| known.seq > report.seq);
        let over = job.state.is_ended() && job.state != State::Lost && report.state.is_ended();
        let differs = report.state != job.state;
        let tells_nothing_new =
            report.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Resolved)
                && job.report.as_ref().is_some_and(|known| known.state == job.state);
        if over && (older || differs || tells_nothing_new) {
            // The report is from another store, or repeats what the slave was told: what was known first stays.
            let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send(Message::Forget(forget));
            if differs {
                self.jobs().flag(id, Flags::DUPLICATE, JobReason::EndedOtherwise);
            }
            return;
        }
        // After a handshake the slave's report is the newest, whatever its number: another store counts anew.
        let link = self.record().current();
        let is_same_link = settled.is_none() && job.heard_on == link;
        if is_same_link && older {
            return self.out.ignore(Ignored::OlderReport);
        }
        if line.verdict == Verdict::Quarantine && !report.state.is_ended() && job.state.is_ended() {
            if report.state == State::Uncertain {
                self.tell_end(report);
            } else {
                self.jobs().flag(id, Flags::DUPLICATE, JobReason::AliveAfterEnd);
            }
            return;
        }
        if line.verdict == Verdict::Cancel && job.state == State::Lost {
            return self.withdraw(id, report.attempt, report.generation);
        }
        self.take(report);
    }

    /// What the slave's machine asked about this job is answered, until it asks again.
    fn asks_no_more(&mut self, id: JobId) {
        let asked = self.record().machine.as_ref().and_then(|machine| machine.uncertain);
        if asked == Some(id) {
            self.edit(|slave| {
                if let Some(machine) = &mut slave.machine {
                    machine.uncertain = None;
                }
            });
        }
    }

    /// A slave whose store went back in time is uncertain of an attempt whose end it had told before: it is told that end, and no
    /// person is asked. Of what was given up nobody knows the end: the question is kept for `resolve`.
    fn tell_end(&mut self, asked: Report) {
        let Some(job) = self.book().jobs.get(&asked.job) else { return };
        let end = match job.state {
            State::Lost => {
                self.jobs().edit(asked.job, |job| job.report = Some(asked));
                return;
            }
            State::Succeeded => End::Succeeded,
            State::Failed => End::Failed,
            State::Canceled | State::Rejected | State::Expired => End::Stopped,
            // It has not ended.
            State::Queued
            | State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain => return,
        };
        let desired_state = DesiredState {
            generation: asked.generation.next(),
            desired: Desired::Resolve(end),
            ..job.desired_state(false)
        };
        self.asks_no_more(asked.job);
        self.send(Message::DesiredState(desired_state));
    }

    /// The slave's word about the attempt that speaks for the job.
    fn take(&mut self, report: Report) {
        let id = report.job;
        let Some(job) = self.book().jobs.get(&id) else { return };
        let generation = job.generation.max(report.generation);
        // What has begun is not given back any more, not even if it was interrupted and waits to begin again.
        let has_begun = report.state.is_started() || report.has_begun();
        // A machine may turn out to be unfit after the intent to start was told: a slave that hears of the recall only then
        // gives it back after all.
        let is_intent = report.state == State::Starting && !report.has_begun();
        let has_heard = report.generation >= job.generation;
        let may_come_back = is_intent && !has_heard;
        // It was starting when it heard of the recall, and could not begin.
        let was_kept = report.state == State::Accepted && has_heard;
        let stays = (has_begun && !may_come_back || was_kept) && job.recalled.is_some();
        let is_resolve_moot = is_resolve_moot(&job, &report);
        // The slave is still uncertain though it knows this generation: before the store went back, that number meant something else.
        // The Resolve gets a higher one.
        let asks_still = report.state == State::Uncertain
            && matches!(job.desired, Desired::Resolve(_))
            && !is_resolve_moot
            && report.generation >= job.generation;
        let raised = generation.uttered(self.moment.node.epoch);
        let was_lost = job.state == State::Lost;
        let is_unfit_there = report.waiting_for == Some(WaitingFor::Elsewhere);
        let link = self.record().current();
        let is_overtaken = is_overtaken(&job, &report);
        let durable_change = (job.state, job.generation) != (report.state, generation)
            || stays
            || asks_still
            || job.report.as_ref().map(durable_report) != Some(durable_report(&report));
        let (key, now) = (self.key, self.moment.now);
        let Report { attempt, seq, state, .. } = report;
        let mut jobs = self.jobs();
        if durable_change {
            jobs.edit(id, |job| {
                job.generation = generation;
                if was_lost && !state.is_ended() {
                    // Its slave may have been told to let it go.
                    job.generation = job.generation.above_withdrawal(generation);
                }
                if stays {
                    // The slave is told what is wanted of it instead.
                    job.recalled = None;
                    job.generation = job.generation.next();
                }
                if asks_still {
                    job.generation = raised;
                }
                job.heard_at = Some(now);
                job.heard_on = link;
                job.reason = None;
                if has_begun {
                    job.flags.clear(Flags::RESTORED);
                }
                if was_lost {
                    job.flags.set(Flags::LATE_RESULT);
                }
                if is_overtaken {
                    job.flags.set(Flags::OVERTAKEN);
                }
                if is_resolve_moot {
                    job.desired = Desired::Run;
                }
                if job.is_canceled() && state == State::Succeeded {
                    job.flags.set(Flags::CANCEL_TOO_LATE);
                }
                job.report = Some(report);
            });
            jobs.apply(id, job::Event::Reported(state), jobs.roster.name(key));
            jobs.flag_if_twice(id);
        } else {
            jobs.edit_volatile(id, |job| {
                job.report = Some(report);
                job.heard_at = Some(now);
                job.heard_on = link;
            });
        }
        self.note_other_attempt(id, false);
        if state.is_ended() {
            self.send(Message::Forget(Forget { job: id, attempt, seq }));
            self.jobs().try_again(id);
        } else {
            if state == State::Uncertain {
                // A newer attempt, of which a restored master has heard already, knows more.
                self.jobs().weigh(id);
            }
            if is_unfit_there {
                self.jobs().recall_unfit(id);
            }
            self.jobs().tell(id);
        }
    }
}

impl Jobs<'_> {
    /// Recalls the job if its slave waits for that, because its config does not allow it any more.
    pub(super) fn recall_unfit(&mut self, id: JobId) {
        let is_unfit = |job: &Job| {
            job.is_unfit_there().is_some() && matches!(job.wanted(), Desired::Run | Desired::Pause)
        };
        if self.get(id).is_some_and(|job| is_unfit(&job)) {
            self.edit(id, Job::recall);
        }
    }

    /// An attempt has ended badly: another slave may be able to do what this one rejected, or the order wants another attempt.
    pub(super) fn try_again(&mut self, id: JobId) {
        // A success speaks for the job, whichever attempt it was.
        self.weigh(id);
        let on = match self.get(id).map(|job| job.state) {
            Some(State::Failed) => RetryOn::Failed,
            Some(State::Rejected) => RetryOn::Rejected,
            _ => return,
        };
        if on == RetryOn::Rejected {
            self.note_rejection(id);
        }
        let Some(job) = self.get(id) else { return };
        let now = self.moment.now;
        if job.desired != Desired::Run || job.is_too_late(now) {
            return;
        }
        let retry_at = now.after(job.backoff());
        let is_left = job.retries.saturating_add(1) < job.retry.max_attempts && !job.is_too_late(retry_at);
        let why = JobReason::Retrying(job.attempt, job.state);
        // A no says something of that slave's config and nothing of the job, as long as another slave may do it. What has begun is done
        // again only if the order says so.
        if job.state == State::Rejected && !job.has_begun() && self.could_be_taken(&job) {
            self.queue_again(id, why, None, "the slave's rejection");
        } else if job.retry.on.contains(&on) && is_left {
            self.out.mark_clock();
            self.queue_again(id, why, Some(retry_at), "the order's retry");
        }
    }

    /// Queues a job again, to wait until then if it is the order's retry.
    fn queue_again(&mut self, id: JobId, why: JobReason, retry_at: Option<Time>, by: &str) {
        self.edit(id, |job| {
            job.set_aside();
            job.reason = Some(why.into());
            if retry_at.is_some() {
                job.forgive();
                job.retries = job.retries.saturating_add(1);
                job.retry_at = retry_at;
                if matches!(job.start.gate, Gate::Released { .. }) {
                    // A person let that one attempt go.
                    job.start.gate = Gate::Held;
                }
            }
        });
        self.apply(id, job::Event::Retried, by);
        // Another one may be under way already.
        self.weigh(id);
        let in_gap = self.moment.node.epoch > Epoch(1) && self.moment.gap_of.is_some();
        let is_queued = self.is_in(id, State::Queued);
        if is_queued && (in_gap || self.moment.is_doubted) {
            // It may have been tried again in the time that a restored master has forgotten.
            self.edit(id, Job::hold_after_restore);
        }
    }

    /// Keeps in mind that its slave has rejected the job.
    fn note_rejection(&mut self, id: JobId) {
        let Some(job) = self.get(id) else { return };
        let mut said =
            job.report.as_ref().and_then(|report| report.reason.clone()).or_else(|| job.reason.clone());
        if let Some(reason) = &mut said {
            clip(&mut reason.text, OTHERS_TEXT);
        }
        let by = job.holder.and_then(|key| Some((key, self.said_under(key)?)));
        let Some(by) = by else { return };
        let rejection =
            RejectedBy { attempt: job.attempt, by, at: self.moment.now, reason: said, is_over: false };
        if job.rejected_by.iter().any(|known| (known.attempt, known.by) == (rejection.attempt, rejection.by))
        {
            return;
        }
        self.edit(id, |job| job.note_rejection(rejection));
    }

    /// A slave that has not rejected it could do the job, now or when it is back.
    fn could_be_taken(&self, job: &Job) -> bool {
        job.who_rejects().count() < REJECTIONS && self.roster.any(|slave| slave.can_do(job))
    }
}

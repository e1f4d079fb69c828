//! The attempts of a job: what is kept of those that do not speak for it, and which one does.
//!
//! [`Visit::hear_other`] is where a slave's word of such an attempt comes in, [`Jobs::weigh`] is asked after the attempt
//! that speaks has changed. Both ask [one table](crate::reconcile::attempts), and [`Jobs::speak`] is the only place that
//! lets another attempt speak.

use super::jobs::Jobs;
use super::visit::Visit;
use super::{Basis, Ignored, Job, JobReason, OtherAttempt};
use crate::id::{Attempt, Epoch, JobId, SlaveKey};
use crate::job::{self, State};
use crate::message::{Flags, Forget, Message, Reason, ReasonCode, Report};
use crate::reconcile::attempts::{Other, Outcome, Speaker, Standing, weigh};
use crate::spec::{Desired, Gate};

/// How many other attempts of a job are kept: enough to see a pattern, and a bound on its record.
const OTHERS: usize = 16;

/// How much of a text is kept of another attempt, in bytes.
pub(super) const OTHERS_TEXT: usize = 256;

/// How many attempts of one job a restored master may have forgotten: more than happen between two backups, and too few for a
/// slave that lies to use the numbers up.
const ATTEMPTS_AHEAD: u32 = 1 << 16;

impl Visit<'_> {
    /// A slave's word of an attempt that does not speak for the job.
    pub(super) fn hear_other(&mut self, report: Report) {
        let key = self.key;
        let jobs = self.jobs();
        let Some(job) = jobs.get(report.job) else { return };
        let (id, attempt, said, seq) = (report.job, report.attempt, report.state, report.seq);
        let basis = jobs.basis(&job, key, attempt);
        let standing = if basis == Basis::Gap && !is_free_for(&job, key) {
            Standing::Contested
        } else if attempt > job.last_attempt {
            Standing::Forgotten
        } else {
            Standing::Known
        };
        let known = job.others.iter().find(|other| other.is(attempt, key));
        // A claim starts from `Assigned` each time.
        let past = known.filter(|other| basis != Basis::Claim && other.basis != Basis::Claim);
        let was = past.map_or(State::Assigned, |other| other.state);
        let is_again = was.is_ended() && said.is_started();
        let event = if is_again { job::Event::Reappeared(said) } else { job::Event::Reported(said) };
        let state = match job::next(was, event) {
            job::Transition::To(next) => next,
            job::Transition::Unchanged => was,
            job::Transition::Rejected(_) => return self.contradicted(&report, was, standing),
        };
        let is_news = known.is_none_or(|known| known.state != state || known.basis > basis);
        // A slave that makes up attempts does not fill the list for those that had the job.
        let is_kept = known.is_some() || basis != Basis::Claim || job.others.len() < OTHERS;
        let is_claimed_first = basis == Basis::Claim && known.is_none() && is_kept;
        if basis == Basis::Claim || standing == Standing::Contested {
            self.out.ignore(Ignored::NeverAssigned);
        }
        if basis != Basis::Claim {
            self.note_other_attempt(id, !said.is_ended());
        }
        let generation = report.generation;
        if (is_news || basis != Basis::Claim) && is_kept {
            let basis = match basis {
                Basis::Gap if standing != Standing::Contested => Basis::Assigned,
                basis => basis,
            };
            let report = report.clone();
            self.jobs().edit(id, |job| {
                if basis == Basis::Assigned {
                    job.remember(attempt, key);
                } else if basis == Basis::Gap {
                    // Its number may have been given out: the next assignment has to bear a higher one.
                    job.last_attempt = job.last_attempt.max(attempt);
                }
                job.keep_other(OtherAttempt { attempt, holder: key, state, report: Some(report), basis });
                job.clear_flag_without_claims();
                if is_claimed_first {
                    job.flags.set(Flags::CLAIMED);
                }
            });
        }
        if said.is_ended() {
            self.send(Message::Forget(Forget { job: id, attempt, seq }));
        }
        if basis == Basis::Claim {
            if said == State::Accepted {
                // By all that is known it is not to begin there, and nothing is lost by that.
                self.withdraw(id, attempt, generation);
            }
            return;
        }
        self.compare(report, standing, is_news);
    }

    /// Keeps in mind whether a slave has an attempt of the job that does not speak for it.
    pub(super) fn note_other_attempt(&mut self, id: JobId, is_there: bool) {
        if self.record().other_attempts.contains(&id) == is_there {
            return;
        }
        self.edit_volatile(|slave| match is_there {
            true => slave.other_attempts.insert(id),
            false => slave.other_attempts.remove(&id),
        });
    }

    /// What follows from another attempt, of which its slave has just spoken.
    fn compare(&mut self, report: Report, standing: Standing, is_news: bool) {
        let key = self.key;
        let Some(job) = self.book().jobs.get(&report.job) else { return };
        let (id, attempt, generation) = (report.job, report.attempt, report.generation);
        let Some(other) = job.others.iter().find(|other| other.is(attempt, key)) else { return };
        let line = weigh(job.speaker(other), other.class(), standing);
        let state = other.state;
        let is_recalled_or_canceled = job.recalled.is_some() || job.is_canceled();
        match line.outcome {
            Outcome::Keep => {}
            Outcome::Take => self.jobs().speak(id, attempt, key, Some(report), standing),
            Outcome::Withdraw => self.withdraw(id, attempt, generation),
            Outcome::Recall => {
                // Once is enough: to raise the generation with each report would make every answer to it an answer to an older
                // one. A cancel ends this attempt by itself, and then the other one is compared again.
                if !is_recalled_or_canceled {
                    let mut jobs = self.jobs();
                    jobs.edit(id, Job::recall);
                    jobs.tell(id);
                }
            }
            Outcome::Duplicate | Outcome::GoesOn if !is_news => {}
            Outcome::Duplicate => {
                // One that ended without success is only ever contested, and of that no reason is shown.
                let why = match state {
                    State::Succeeded => JobReason::OtherSucceeded(attempt),
                    State::Paused => JobReason::OtherPaused(attempt),
                    _ => JobReason::OtherRuns(attempt),
                };
                self.jobs().flag_other(id, standing, why);
            }
            Outcome::GoesOn => self.jobs().flag_other(id, standing, JobReason::OtherGoesOn(attempt)),
        }
    }

    /// A slave says of an attempt what the job table rejects after what is known of it.
    fn contradicted(&mut self, report: &Report, was: State, standing: Standing) {
        let (id, attempt, seq) = (report.job, report.attempt, report.seq);
        if report.state == State::Accepted {
            // It was given up, or has ended: it does not begin.
            return self.withdraw(id, attempt, report.generation);
        }
        if report.state.is_ended() {
            self.send(Message::Forget(Forget { job: id, attempt, seq }));
        }
        if was.is_ended() {
            self.jobs().flag_other(id, standing, JobReason::OtherEndedOtherwise(attempt));
        }
    }
}

impl Jobs<'_> {
    /// Flags the job because of another attempt. Of a contested one no reason is shown: its slave may be lying, and the job is
    /// another slave's.
    fn flag_other(&mut self, id: JobId, standing: Standing, why: JobReason) {
        match standing {
            Standing::Contested => {
                self.edit(id, |job| job.flags.set(Flags::DUPLICATE));
            }
            Standing::Known | Standing::Forgotten => self.flag(id, Flags::DUPLICATE, why),
        }
    }

    /// The attempt that speaks has changed: another one may speak from here on.
    pub(super) fn weigh(&mut self, id: JobId) {
        let Some(job) = self.get(id) else { return };
        let standing = |other: &OtherAttempt| match other.basis {
            // What was contested counts like a known one after its rival has changed, unless the rival is not there.
            Basis::Gap if other.attempt > job.attempt && job.speaker(other) == Speaker::Vanished => {
                Standing::Contested
            }
            Basis::Gap | Basis::Claim | Basis::Assigned => Standing::Known,
        };
        let takes_over = |other: &&OtherAttempt| {
            let line = weigh(job.speaker(other), other.class(), standing(other));
            other.basis != Basis::Claim && line.outcome == Outcome::Take
        };
        let best = |other: &&OtherAttempt| {
            (
                other.state == State::Succeeded,
                other.state.is_executing(),
                other.state.is_started(),
                other.attempt,
            )
        };
        let found = job.others.iter().filter(takes_over).max_by_key(best);
        if let Some((attempt, holder, standing)) = found.map(|one| (one.attempt, one.holder, standing(one))) {
            self.speak(id, attempt, holder, None, standing);
        }
        self.flag_if_twice(id);
    }

    /// Flags the job if another attempt was done as well, or is under way at another slave as well, whichever of them the master
    /// has known of for longer.
    pub(super) fn flag_if_twice(&mut self, id: JobId) {
        let Some(job) = self.get(id) else { return };
        let is_twice = |other: &OtherAttempt| {
            let is_its_word = other.report.as_ref().is_some_and(|report| report.state == other.state);
            let is_done_too = job.state == State::Succeeded && other.state == State::Succeeded;
            let is_elsewhere = job.holder != Some(other.holder)
                && matches!(
                    weigh(job.speaker(other), other.class(), Standing::Known).outcome,
                    Outcome::Duplicate | Outcome::GoesOn
                );
            other.basis != Basis::Claim && is_its_word && (is_done_too || is_elsewhere)
        };
        if !job.flags.has(Flags::DUPLICATE) && job.others.iter().any(is_twice) {
            self.edit(id, |job| job.flags.set(Flags::DUPLICATE));
        }
    }

    /// Lets another attempt speak for the job; what spoke before is kept beside it. What is wanted of the attempt is told anew:
    /// a slave that has come back without it says so then.
    fn speak(
        &mut self,
        id: JobId,
        attempt: Attempt,
        key: SlaveKey,
        heard: Option<Report>,
        standing: Standing,
    ) {
        let (now, epoch) = (self.moment.now, self.moment.node.epoch);
        let by = self.roster.name(key);
        let link = self.roster.current(key).filter(|_| heard.is_some());
        self.edit(id, |job| {
            let Some(at) = job.others.iter().position(|other| other.is(attempt, key)) else { return };
            let other = job.others.remove(at);
            let flags = other.report.as_ref().map_or(Flags::default(), |report| report.flags);
            let report = heard.or(other.report);
            let told = report.as_ref().map_or(job.generation, |report| report.generation);
            let mut is_too_late = false;
            if standing == Standing::Forgotten && job.is_canceled() {
                let has_obeyed = job.report.as_ref().is_some_and(|known| known.state == job.state);
                // What its slave was told last is newer than the cancel, as far as anybody can tell.
                is_too_late = !has_obeyed && job.generation <= told;
                if has_obeyed || is_too_late {
                    job.desired = Desired::Run;
                }
            }
            if matches!(job.desired, Desired::Resolve(_)) && job.holder != Some(key) {
                // A person has looked at another machine.
                job.desired = Desired::Run;
            }
            job.set_aside();
            job.assign(attempt, key);
            job.flags.set(flags.among(Flags::MASTERS_OF_ATTEMPT));
            if is_too_late {
                job.flags.set(Flags::CANCEL_TOO_LATE);
            }
            if job.generation.may_be_followed_by(told, epoch) {
                job.generation = job.generation.max(told);
            }
            if standing == Standing::Known {
                job.flags.set(Flags::LATE_RESULT);
            }
            if job.is_canceled() && other.state == State::Succeeded {
                job.flags.set(Flags::CANCEL_TOO_LATE);
            }
            job.heard_at = link.map(|_| now);
            job.heard_on = link;
            job.reason = None;
            job.report = report;
            job.enter(other.state, now, by);
            if job.has_begun() {
                job.flags.clear(Flags::RESTORED);
            }
        });
        let Some(job) = self.get(id) else { return };
        if job.state.is_ended() {
            self.try_again(id);
        } else if job.report.is_some() {
            // Of what nobody has reported a person was asked, and an offer would begin it again. What its slave was told before the
            // master was restored still holds, unless a person has to let it go first.
            if standing != Standing::Forgotten || job.start.gate == Gate::Held {
                let told = job.report.as_ref().map_or(job.generation, |report| report.generation);
                self.edit(id, |job| job.generation = job.generation.above_withdrawal(told));
            }
            self.tell(id);
        }
    }

    /// What this slave's word of this attempt rests on. A master that was restored may have forgotten what it had assigned, and
    /// one that adopted a job was never told of its other attempts: each slave tells what it has of that in its first handshake
    /// with the restored or new master, and what it does not tell there it can't tell later.
    pub(super) fn basis(&self, job: &Job, key: SlaveKey, attempt: Attempt) -> Basis {
        // Of many assignments only the newest are remembered, but all that have not ended are among the other attempts.
        let known = job.others.iter().find(|other| other.is(attempt, key)).map(|other| other.basis);
        if job.was_assigned(attempt, key) || known == Some(Basis::Assigned) {
            return Basis::Assigned;
        }
        let may_be_forgotten = self.moment.node.epoch > Epoch(1) || job.flags.has(Flags::ADOPTED);
        let closes_gap = self.moment.gap_of == Some(key) && may_be_forgotten;
        // A master whose store went back unnoticed learns of it here: the slave that it has assigned the job to has a later attempt,
        // and takes no earlier one.
        let knows_later = !self.moment.is_doubted && job.holder == Some(key) && attempt > job.last_attempt;
        let is_near = attempt.0 <= job.last_attempt.0.saturating_add(ATTEMPTS_AHEAD);
        if is_near && (closes_gap || knows_later) || known == Some(Basis::Gap) {
            Basis::Gap
        } else {
            Basis::Claim
        }
    }
}

/// No other slave has this job, by all that the master knows since it was restored: nobody has it, its slave has come back
/// without it, or it was canceled, which means all of its attempts.
fn is_free_for(job: &Job, key: SlaveKey) -> bool {
    let has_vanished = job.state == State::Uncertain && job.report.is_none();
    let is_called_off = job.state == State::Canceled && job.is_canceled();
    job.holder.is_none_or(|holder| holder == key) || has_vanished || is_called_off
}

impl OtherAttempt {
    pub(super) fn is(&self, attempt: Attempt, holder: SlaveKey) -> bool {
        self.attempt == attempt && self.holder == holder
    }

    fn class(&self) -> Other {
        let has_begun = self.report.as_ref().is_some_and(Report::has_begun);
        match self.state {
            State::Queued | State::Assigned | State::Accepted => Other::Waiting,
            State::Starting | State::Running | State::Paused | State::Stopping => Other::Working,
            State::Uncertain => Other::Doubtful,
            State::Succeeded => Other::Done,
            State::Failed | State::Canceled | State::Rejected | State::Expired | State::Lost if has_begun => {
                Other::Over
            }
            State::Failed | State::Canceled | State::Rejected | State::Expired | State::Lost => {
                Other::Unbegun
            }
        }
    }
}

/// An attempt whose slave asks how it ended: its machine starts nothing until a person has said that. The job itself is not uncertain.
pub(super) struct Unresolved<'a> {
    pub basis: Basis,
    pub attempt: Attempt,
    pub holder: SlaveKey,
    pub report: &'a Report,
}

impl<'a> Unresolved<'a> {
    /// What a person has said, until its slave speaks of the attempt again.
    pub(super) fn said(&self) -> Option<&'a Reason> {
        self.report.reason.as_ref().filter(|reason| reason.code == ReasonCode::Resolved)
    }
}

impl Job {
    /// What slaves ask of its attempts. The book's word of an attempt may be that it was given up: what counts is what its slave said.
    pub(super) fn unresolved(&self) -> impl Iterator<Item = Unresolved<'_>> {
        let own = self.report.as_ref().filter(|_| self.state == State::Lost);
        let own = own.and_then(|report| {
            Some(Unresolved { basis: Basis::Assigned, attempt: self.attempt, holder: self.holder?, report })
        });
        let others = self.others.iter().filter_map(|other| {
            let report = other.report.as_ref()?;
            Some(Unresolved { basis: other.basis, attempt: other.attempt, holder: other.holder, report })
        });
        own.into_iter().chain(others).filter(|asked| asked.report.state == State::Uncertain)
    }

    /// What the attempt that speaks has come to, seen from another one.
    fn speaker(&self, other: &OtherAttempt) -> Speaker {
        let is_replaced = self.holder == Some(other.holder) && other.attempt > self.attempt;
        match self.state {
            State::Queued => Speaker::Nobody,
            State::Uncertain if self.report.is_none() || other.attempt > self.attempt && !is_replaced => {
                Speaker::Vanished
            }
            State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain
                if is_replaced =>
            {
                Speaker::Replaced
            }
            State::Assigned | State::Accepted if !self.has_begun() => Speaker::Unstarted,
            State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain => Speaker::Begun,
            State::Succeeded => Speaker::Succeeded,
            State::Failed | State::Rejected => Speaker::Ended,
            State::Canceled | State::Expired | State::Lost => {
                let is_slaves_word = self.report.as_ref().is_some_and(|report| report.state == self.state);
                match (is_slaves_word, self.state == State::Canceled && self.is_canceled()) {
                    (true, true) => Speaker::Canceled,
                    (true, false) => Speaker::Ended,
                    (false, true) => Speaker::CalledOff,
                    (false, false) => Speaker::Closed,
                }
            }
        }
    }

    /// Keeps the attempt that speaks beside the job, with what the master says of it: another one follows it.
    pub(super) fn set_aside(&mut self) {
        let flags = self.flags.among(Flags::OF_ATTEMPT);
        self.flags.clear(Flags::OF_ATTEMPT);
        if let Some(holder) = self.holder.take() {
            let (attempt, state, mut report) = (self.attempt, self.state, self.report.take());
            if let Some(report) = &mut report {
                report.flags.set(flags);
            }
            self.keep_other(OtherAttempt { attempt, holder, state, report, basis: Basis::Assigned });
        }
    }

    /// Keeps what is known of an attempt that does not speak.
    fn keep_other(&mut self, other: OtherAttempt) {
        let mut other =
            OtherAttempt { report: other.report.map(|report| report.clipped(OTHERS_TEXT)), ..other };
        match self.others.iter_mut().find(|known| known.is(other.attempt, other.holder)) {
            Some(known) => {
                if let (Some(said), Some(before)) = (&mut other.report, &known.report) {
                    said.flags.set(before.flags.among(Flags::MASTERS_OF_ATTEMPT));
                }
                *known = other;
            }
            None => self.others.push(other),
        }
        if self.others.len() > OTHERS {
            // What happened stays longer than what was only claimed, and what its slave may still tell of longer than what it has told.
            let claimed = self.others.iter().position(|other| other.basis == Basis::Claim);
            let has_ended =
                |other: &OtherAttempt| other.report.as_ref().is_some_and(|it| it.state.is_ended());
            let told = || self.others.iter().position(has_ended);
            self.others.remove(claimed.or_else(told).unwrap_or(0));
        }
    }
}

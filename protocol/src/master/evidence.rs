//! What a slave record makes of what its slave says: the handshake's end, reports, refusals.
//!
//! Each is judged by the verdict table, and each verdict goes through the job table.

use std::collections::{BTreeMap, BTreeSet};

use super::book::durable_report;
use super::slave_record::{Receipt, SlaveLink, SlaveRecord, is_current};
use super::{Basis, Delivery, Earlier, Effect, Ignored, Job, RECEIPTS, Rules, Write};
use crate::id::{Attempt, Epoch, Generation, JobId, SlaveKey};
use crate::job::{self, State};
use crate::limits;
use crate::message::{
    CloseCode, Declined, Flags, Forget, Hello, Message, Reason, ReasonCode, Record, Report, Row, Settled,
};
use crate::reconcile::{Line, Store, Theirs, Verdict};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Desired, DesiredState, Gate};

/// How many earlier attempts of a job are kept: enough to see a pattern, and a bound on its record.
const EARLIER: usize = 16;

/// How many jobs an order may have: as many as a client may order at once.
const ORDER_JOBS: usize = 1000;

/// How much of a text is kept of an earlier attempt, in bytes.
const EARLIER_TEXT: usize = 256;

/// How many attempts of one job a restored master may have forgotten: more than happen between two backups, and too few for a
/// slave that lies to use the numbers up.
const ATTEMPTS_AHEAD: u32 = 1 << 16;

/// The same, of people's decisions about a slave.
const DECISIONS_AHEAD: u32 = 1 << 16;

impl Rules {
    /// The handshake is over: what both held, and what the slave made of the verdicts, becomes what is.
    pub(super) fn settled(&mut self, key: SlaveKey, link: LinkId, settled: Settled) {
        let now = self.now;
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        if slave.hello().is_none_or(|hello| hello.session != settled.session) {
            return self.close(link, CloseCode::Protocol, "Settled of another session".to_owned());
        }
        let (ours, asking) = match std::mem::take(&mut slave.link) {
            SlaveLink::Asking { older, newcomer, hello } => (*older, Some((newcomer, hello))),
            ours @ (SlaveLink::Down | SlaveLink::Welcomed { .. } | SlaveLink::Live { .. }) => (ours, None),
        };
        let SlaveLink::Welcomed { hello, store, lines, since, .. } = ours else { return };
        let rebooted = slave.boot.is_some_and(|boot| boot != hello.boot);
        slave.store = Some(hello.store);
        slave.boot = Some(hello.boot);
        slave.session = hello.session;
        slave.agent.clone_from(&hello.agent);
        slave.programs.clone_from(&hello.programs);
        slave.labels.clone_from(&hello.labels);
        slave.capacity = hello.capacity.min(limits::CAPACITY);
        slave.clock_offset_ms = hello.clock.ahead_of(since);
        slave.machine = Some(settled.machine.clone());
        if !slave.doubts {
            // A doubted master may be an old copy: it takes up no attempts that it has no record of before a person confirms it.
            self.gap_of = (slave.settled_in != self.state.node.epoch).then_some(key);
            slave.settled_in = self.state.node.epoch;
        }
        slave.last_contact = Some(now);
        slave.declining = false;
        slave.link = match asking {
            None => SlaveLink::Live { link },
            Some((newcomer, hello)) => {
                SlaveLink::Asking { older: Box::new(SlaveLink::Live { link }), newcomer, hello }
            }
        };
        let asked: BTreeSet<JobId> =
            lines.iter().filter(|line| line.mine.is_none()).map(|line| line.job).collect();
        slave.receipts = slave.receipts.wrapping_add(1);
        let receipt = Receipt {
            slave: key,
            number: slave.receipts % RECEIPTS,
            at: now,
            took: now.since(since),
            session: hello.session,
            store,
            rebooted,
            lines,
        };
        self.persist.push(Write::Receipt(Box::new(receipt)));
        // A master that was restored has forgotten how often people decided: its word has to be newer than any of those.
        if let Some(obeyed) = slave.machine.as_ref().map(|machine| machine.operating_mode)
            && obeyed.generation.0 <= slave.operating_mode.generation.0.saturating_add(DECISIONS_AHEAD)
            && (obeyed.generation > slave.operating_mode.generation
                || obeyed.generation == slave.operating_mode.generation
                    && obeyed.mode != slave.operating_mode.mode)
        {
            slave.operating_mode.generation = if obeyed.mode == slave.operating_mode.mode {
                obeyed.generation
            } else {
                obeyed.generation.next()
            };
        }
        self.touch_slave(key);
        self.settle_jobs(key, &hello, store.store(), &asked, settled);
        self.tell_newer_desired_states(key);
    }

    fn settle_jobs(
        &mut self,
        key: SlaveKey,
        hello: &Hello,
        store: Store,
        asked: &BTreeSet<JobId>,
        settled: Settled,
    ) {
        let Settled { reports, records, declined, .. } = settled;
        // An older attempt in the slave's view says nothing of a newer one.
        let mut seen: BTreeMap<JobId, Attempt> = BTreeMap::new();
        let mut saw = |job: JobId, attempt: Attempt| {
            let newest = seen.entry(job).or_insert(attempt);
            *newest = attempt.max(*newest);
        };
        // What a memory that went back in time says of jobs that are not there is as old as it is.
        let recent_outcomes = if store == Store::RolledBack { &[] } else { hello.recent_outcomes.as_slice() };
        hello.rows.iter().chain(recent_outcomes).for_each(|row| saw(row.job, row.attempt));
        let kept = |report: &Report| hello.rows.iter().any(|row| row.job == report.job);
        let reports: Vec<_> =
            reports.into_iter().filter(|report| store != Store::RolledBack || kept(report)).collect();
        let reported: BTreeSet<JobId> = reports.iter().map(|report| report.job).collect();
        let (adopted, renewed): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| !self.state.book.jobs.contains_key(&record.report.job));
        declined.iter().for_each(|declined| saw(declined.job, declined.attempt));
        reports.iter().for_each(|report| saw(report.job, report.attempt));
        for record in adopted {
            saw(record.report.job, record.report.attempt);
            if asked.contains(&record.report.job) {
                self.adopt(key, record);
            } else {
                self.effects.push(Effect::Ignored(Ignored::UnrequestedRecord));
            }
        }
        // An offer that was taken is in the reports; what is in neither view is judged as absent.
        for id in self.held_where(key, |job| seen.get(&job.id).is_none_or(|newest| *newest < job.attempt)) {
            self.judge_absent(key, id, store);
        }
        for row in hello.rows.iter().filter(|row| !reported.contains(&row.job)) {
            self.mirror_row(key, row, store);
        }
        for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)) {
            self.judge_report(key, report, Some(store));
        }
        for declined in declined {
            self.declined(key, declined);
        }
        // A slave has one attempt of a job: where it told of a newer one that does not speak for the job, the one that does is not there.
        for id in self.held_where(key, |job| seen.get(&job.id).is_some_and(|newest| *newest > job.attempt)) {
            self.judge_absent(key, id, store);
        }
    }

    /// Jobs that this slave has, by the book, of which this holds.
    fn held_where(&self, key: SlaveKey, holds: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.state.book.held_by(key).filter(|job| holds(job)).map(|job| job.id).collect()
    }

    /// The slave has neither the job nor its outcome.
    fn judge_absent(&mut self, key: SlaveKey, id: JobId, store: Store) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let line = self.line(Some(&job), key, None, Theirs::Absent, store);
        let (desired, told, is_assigned) = (job.desired, job.report.is_some(), job.state == State::Assigned);
        if self.state.slaves.get(&key).is_some_and(|slave| slave.doubts) {
            // An old copy concludes nothing from what is not there, before a person has confirmed it.
            return;
        }
        match line.verdict {
            // A person was asked, and the slave that would have heard the answer has forgotten the question.
            Verdict::Keep if told => self.question_forgotten(id, desired),
            Verdict::AskPerson => {
                let reason = match store {
                    Store::Trusted | Store::Ahead => Reason::new(
                        ReasonCode::Vanished,
                        "the slave had promised to keep it, and has neither the job nor its outcome: say how it ended \
                         with `resolve`",
                    ),
                    Store::Replaced => Reason::new(
                        ReasonCode::StoreReplaced,
                        "the slave's database is new: nobody knows what became of it; say how it ended with `resolve`",
                    ),
                    Store::RolledBack => Reason::new(
                        ReasonCode::StoreRolledBack,
                        "the slave's database went back in time: say how it ended with `resolve`",
                    ),
                };
                self.edit(id, |job| {
                    job.reason = Some(reason);
                    job.report = None;
                });
                self.apply(id, job::Event::Vanished, "reconciliation");
                self.take_up_forgotten(id);
            }
            Verdict::Release if store == Store::Ahead && !is_assigned => {
                let text = "the master was restored, and its slave has let it go since: another may have it or have done it; \
                            if none tells of it, say how it ended with `resolve`";
                self.edit(id, |job| {
                    job.reason = Some(Reason::new(ReasonCode::Restored, text));
                    job.report = None;
                });
                self.apply(id, job::Event::Vanished, "reconciliation");
                self.take_up_forgotten(id);
            }
            Verdict::Release => self.given_back(id, desired, None),
            Verdict::Offer
            | Verdict::Keep
            | Verdict::Start
            | Verdict::Cancel
            | Verdict::Recall
            | Verdict::Adopt
            | Verdict::Forget
            | Verdict::Quarantine => {}
        }
    }

    /// Its slave does not have the job that the master, before it was restored, may have assigned to another one later: what that one has
    /// told of it speaks for the job.
    fn take_up_forgotten(&mut self, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let has_begun = |e: &Earlier| {
            e.state.is_started() || e.report.as_ref().is_some_and(|report| report.started_at.is_some())
        };
        let is_later = |e: &&Earlier| e.basis == Basis::Gap && e.attempt > job.attempt && has_begun(e);
        let best = |e: &&Earlier| (e.state == State::Succeeded, e.state.is_started(), e.attempt);
        let found = job.earlier.iter().filter(is_later).max_by_key(best).map(|e| (e.attempt, e.holder));
        if let Some((attempt, holder)) = found {
            self.promote(id, attempt, holder);
        }
    }

    /// The slave that asked a person how a job ended does not have it any more: if somebody has said it, that is how.
    fn question_forgotten(&mut self, id: JobId, desired: Desired) {
        self.edit(id, |job| job.report = None);
        if let Desired::Resolve(end) = desired {
            self.resolve(id, end);
        }
    }

    /// A row that the report is known of: only what moves without a report moves.
    fn mirror_row(&mut self, key: SlaveKey, row: &Row, store: Store) {
        let Some(job) = self.state.book.jobs.get(&row.job) else { return };
        let line = self.line(Some(&job), key, Some(row), Theirs::of(row.state), store);
        if !is_current(&job, key, row.attempt) {
            // Another attempt was wanted since the Welcome: what this one came to is on disk beside it.
            let is_kept = job.earlier.iter().any(|earlier| {
                earlier.attempt == row.attempt && earlier.holder == key && earlier.state == row.state
            });
            if is_kept && row.state.is_ended() {
                let forget = Forget { job: row.job, attempt: row.attempt, seq: row.seq };
                self.send_to(key, Message::Forget(forget));
            } else if line.verdict == Verdict::Cancel {
                self.withdraw(key, row.job, row.attempt, row.generation);
            }
            return;
        }
        if job.state == State::Lost && line.verdict == Verdict::Cancel {
            // It was given up since the Welcome.
            return self.withdraw(key, row.job, row.attempt, row.generation);
        }
        if line.verdict == Verdict::Forget {
            let forget = Forget { job: row.job, attempt: row.attempt, seq: row.seq };
            return self.send_to(key, Message::Forget(forget));
        }
        let now = self.now;
        if let Some(job) = self.state.book.jobs.get_mut(&row.job) {
            job.heard_at = Some(now);
            if let Some(report) = &mut job.report {
                report.progress = row.progress;
                // Another start of the agent is told by a report, and written with it.
                if report.seq.start == row.seq.start {
                    report.seq = report.seq.max(row.seq);
                }
            }
            self.stirred.insert(row.job);
        }
    }

    /// A report on a live link.
    pub(super) fn heard(&mut self, key: SlaveKey, report: Report) {
        if report.state.is_ended()
            && let Some(slave) = self.state.slaves.get_mut(&key)
        {
            slave.declining = false;
        }
        self.judge_report(key, report, None);
        self.look_for_work.insert(key);
    }

    /// With the memory that a handshake found; on a live link, without.
    fn judge_report(&mut self, key: SlaveKey, report: Report, settled: Option<Store>) {
        let Some(job) = self.state.book.jobs.get(&report.job) else {
            return self.effects.push(Effect::Ignored(Ignored::MissingRecord));
        };
        let basis = self.basis(&job, key, report.attempt);
        match basis {
            Basis::Assigned => {}
            Basis::Gap if is_free_for(&job, key) => {}
            // Nobody speaks for what another slave has, or had to its end, without having been handed it.
            Basis::Gap | Basis::Claim => return self.take_claim(key, report, basis),
        }
        let mut report = report;
        if !job.generation.may_be_followed_by(report.generation, self.state.node.epoch) {
            self.effects.push(Effect::Ignored(Ignored::UnknownGeneration));
            report.generation = job.generation;
        }
        let row = Row {
            job: report.job,
            attempt: report.attempt,
            generation: report.generation,
            seq: report.seq,
            state: report.state,
            progress: report.progress,
        };
        let theirs = Theirs::of(report.state);
        let line = self.line(Some(&job), key, Some(&row), theirs, settled.unwrap_or(Store::Trusted));
        let id = report.job;
        if report.attempt > job.last_attempt {
            return self.take_forgotten(key, report);
        }
        if is_current(&job, key, report.attempt) {
            let older = job.report.as_ref().is_some_and(|known| known.seq > report.seq);
            let over = job.state.is_ended() && job.state != State::Lost && report.state.is_ended();
            let differs = report.state != job.state;
            if over && (older || differs) {
                // Another memory of the attempt: what was known first stays, and that one is not needed.
                let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
                self.send_to(key, Message::Forget(forget));
                if differs {
                    self.flag(id, Flags::DUPLICATE, "the slave says that this attempt ended otherwise");
                }
                return;
            }
            // After a handshake its word is the newest, whatever its number: another memory counts anew.
            let link = self.state.slaves.get(&key).and_then(SlaveRecord::current);
            let same_memory = settled.is_none() && job.heard_on == link;
            if same_memory && older {
                return self.effects.push(Effect::Ignored(Ignored::OlderReport));
            }
            if line.verdict == Verdict::Quarantine && !report.state.is_ended() && job.state.is_ended() {
                return self.flag(id, Flags::DUPLICATE, "the slave says that an ended attempt is alive");
            }
            if line.verdict == Verdict::Cancel && job.state == State::Lost {
                return self.withdraw(key, id, report.attempt, report.generation);
            }
            return self.take(key, report);
        }
        if basis == Basis::Gap {
            self.edit(id, |job| job.remember(report.attempt, key));
        }
        self.take_older(key, report, line);
    }

    /// What this slave's word of this attempt rests on. A master that was restored may have forgotten what it had assigned, and
    /// one that adopted a job was never told of its other attempts: each slave tells what it has of that in its first handshake
    /// with the restored or new master, and what it does not tell there it can't tell later.
    fn basis(&self, job: &Job, key: SlaveKey, attempt: Attempt) -> Basis {
        if job.was_assigned(attempt, key) {
            return Basis::Assigned;
        }
        let may_be_forgotten = self.state.node.epoch > Epoch(1) || job.flags.has(Flags::ADOPTED);
        let closes_gap = self.gap_of == Some(key)
            && may_be_forgotten
            && attempt.0 <= job.last_attempt.0.saturating_add(ATTEMPTS_AHEAD);
        let is_it = |e: &Earlier| e.attempt == attempt && e.holder == key && e.basis == Basis::Gap;
        if closes_gap || job.earlier.iter().any(is_it) { Basis::Gap } else { Basis::Claim }
    }

    /// A report of an attempt that was never assigned to this slave, by all that the master knows, or of one that it may have forgotten
    /// while another slave has the job. It is kept beside the job for people to see, and nothing follows from it for the job.
    fn take_claim(&mut self, key: SlaveKey, report: Report, basis: Basis) {
        let Some(job) = self.state.book.jobs.get(&report.job) else { return };
        let (id, attempt, seq, said, generation) =
            (report.job, report.attempt, report.seq, report.state, report.generation);
        let newest = job.last_attempt;
        let known = job.earlier.iter().find(|e| e.attempt == attempt && e.holder == key);
        let is_known = known.is_some();
        // Also what was only claimed while its slave doubted this master, and is now told after the restore was confirmed.
        let is_news = known.is_none_or(|known| known.state != said || known.basis > basis);
        // A slave that makes up attempts does not fill the list for those that had the job.
        let is_kept = is_known || basis != Basis::Claim || job.earlier.len() < EARLIER;
        self.effects.push(Effect::Ignored(Ignored::NeverAssigned));
        if is_news && is_kept {
            self.keep_earlier(key, report, basis);
            self.edit(id, Job::clear_flag_without_claims);
        }
        if basis == Basis::Gap && attempt > newest {
            // Its number may have been given out: the next attempt has to bear a higher one.
            self.edit(id, |job| job.last_attempt = attempt);
        }
        let flag = match basis {
            Basis::Claim => Some(Flags::CLAIMED),
            Basis::Assigned | Basis::Gap => (said != State::Accepted).then_some(Flags::DUPLICATE),
        };
        if let (false, true, Some(flag)) = (is_known, is_kept, flag) {
            self.edit(id, |job| job.flags.set(flag));
        }
        if said == State::Accepted {
            // By all that is known it is not to begin there, and nothing is lost by that.
            return self.withdraw(key, id, attempt, generation);
        }
        if said.is_ended() {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
    }

    /// What a attempt came to that does not speak for the job.
    fn keep_earlier(&mut self, key: SlaveKey, report: Report, basis: Basis) {
        let report = report.clipped(EARLIER_TEXT);
        let (id, attempt, state) = (report.job, report.attempt, report.state);
        self.edit(id, |job| {
            let known =
                job.earlier.iter_mut().find(|earlier| earlier.attempt == attempt && earlier.holder == key);
            match known {
                Some(earlier) => {
                    earlier.state = state;
                    earlier.report = Some(report);
                    earlier.basis = earlier.basis.min(basis);
                }
                None => job.keep(Earlier { attempt, holder: key, state, report: Some(report), basis }),
            }
        });
    }

    /// The slave's word about a attempt that this master made before it was restored, and has forgotten, of a job that no other slave
    /// has.
    fn take_forgotten(&mut self, key: SlaveKey, report: Report) {
        let id = report.job;
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let (state, attempt) = (job.state, report.attempt);
        let slaves_word = job.report.as_ref().is_some_and(|known| known.state == state);
        let tried_again =
            slaves_word && state != State::Succeeded || matches!(state, State::Failed | State::Rejected);
        if state.is_ended() && !tried_again && report.state == State::Accepted {
            // Somebody has ended it since, by all that is known: what has not started does not start.
            self.edit(id, |job| job.last_attempt = attempt);
            return self.withdraw(key, id, attempt, report.generation);
        }
        if state == State::Succeeded {
            // A success speaks for the job, whichever attempt it was.
            self.edit(id, |job| job.remember(attempt, key));
            let (said, seq) = (report.state, report.seq);
            self.keep_earlier(key, report, Basis::Assigned);
            if said.is_ended() {
                return self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
            }
            let goes_on =
                format!("attempt {attempt} goes on although the job is done: stop it at the machine");
            return self.flag(id, Flags::DUPLICATE, &goes_on);
        }
        let by = self.state.slaves.get(&key).map_or_else(String::new, |slave| slave.name.clone());
        if state.is_ended() {
            // It had been tried again.
            self.edit(id, Job::set_aside);
            self.apply(id, job::Event::Retried, &by);
        }
        self.edit(id, |job| {
            job.assign(attempt, key);
            if job.is_canceled() && slaves_word {
                job.desired = Desired::Run;
            } else if job.is_canceled() && job.generation <= report.generation {
                // What the slave was told last is newer than the cancel, as far as anybody can tell.
                job.desired = Desired::Run;
                job.flags.set(Flags::CANCEL_TOO_LATE);
            }
            job.generation = job.generation.max(report.generation);
            if job.start.gate == Gate::Held {
                // Its slave may know it as open: it is told that a person has to let it go.
                job.generation = job.generation.next();
            }
        });
        if self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Queued) {
            self.apply(id, job::Event::AttemptAssigned, &by);
        }
        self.take(key, report);
    }

    /// Tells a slave to let a attempt go that has not started, by a desired state that is newer than the one that it knows.
    fn withdraw(&mut self, key: SlaveKey, id: JobId, attempt: Attempt, known: Generation) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let desired = Desired::Cancel(CancelMode::IfNotStarted);
        let desired_state =
            DesiredState { attempt, generation: known.next(), desired, ..job.desired_state(false) };
        self.send_to(key, Message::DesiredState(desired_state));
    }

    /// The slave's word about the attempt that speaks for the job.
    fn take(&mut self, key: SlaveKey, report: Report) {
        let id = report.job;
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let generation = job.generation.max(report.generation);
        let recalled = job.recalled.filter(|recalled| *recalled > report.generation);
        // What has begun is not given back any more, not even if it was interrupted and waits to begin again.
        let has_begun = report.state.is_started() || report.started_at.is_some();
        let stays = has_begun && job.desired == Desired::Return;
        let was_lost = job.state == State::Lost;
        let link = self.state.slaves.get(&key).and_then(SlaveRecord::current);
        let durable_change = (job.state, job.generation, job.recalled)
            != (report.state, generation, recalled)
            || stays
            || job.report.as_ref().map(durable_report) != Some(durable_report(&report));
        let now = self.now;
        if durable_change {
            self.edit(id, |job| {
                job.generation = generation;
                job.recalled = recalled;
                if stays {
                    job.set_desired(Desired::Run);
                }
                job.report = Some(report.clone());
                job.heard_at = Some(now);
                job.heard_on = link;
                job.reason = None;
                if has_begun {
                    job.flags.clear(Flags::RESTORED);
                }
                if was_lost {
                    job.flags.set(Flags::LATE_RESULT);
                }
                if job.is_canceled() && report.state == State::Succeeded {
                    job.flags.set(Flags::CANCEL_TOO_LATE);
                }
            });
            let by = self.state.slaves.get(&key).map_or_else(String::new, |slave| slave.name.clone());
            self.apply(id, job::Event::Reported(report.state), &by);
        } else if let Some(job) = self.state.book.jobs.get_mut(&id) {
            job.report = Some(report.clone());
            job.heard_at = Some(now);
            job.heard_on = link;
            self.stirred.insert(id);
        }
        if report.state.is_ended() {
            let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send_to(key, Message::Forget(forget));
            self.try_again(id);
            self.cancel_the_others(id);
        } else {
            self.tell_if_newer(key, id);
        }
    }

    /// A cancel is for all attempts of a job. After the newest has ended by it, an earlier one that is under way or succeeded speaks
    /// for the job, and its slave is told to cancel it.
    fn cancel_the_others(&mut self, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let goes_on =
            |e: &&Earlier| (e.state.is_executing() || e.state == State::Succeeded) && e.basis != Basis::Claim;
        let other = job.earlier.iter().find(goes_on).map(|e| (e.attempt, e.holder));
        if let (State::Canceled, true, Some((attempt, holder))) = (job.state, job.is_canceled(), other) {
            self.promote(id, attempt, holder);
        }
    }

    /// The order's own policy may want another attempt.
    fn try_again(&mut self, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let has_succeeded = |e: &&Earlier| e.state == State::Succeeded && e.basis != Basis::Claim;
        let done = job.earlier.iter().find(has_succeeded).map(|e| (e.attempt, e.holder));
        if let (State::Failed | State::Rejected, Some((attempt, holder))) = (job.state, done) {
            // A success speaks for the job, whichever attempt it was.
            return self.promote(id, attempt, holder);
        }
        let wanted = match job.state {
            State::Failed => job.retry.on.contains(&super::RetryOn::Failed),
            State::Rejected => job.retry.on.contains(&super::RetryOn::Rejected),
            _ => false,
        };
        if wanted && job.desired == Desired::Run && job.last_attempt.0 < job.retry.max_attempts {
            self.edit(id, |job| {
                let text = format!("attempt {} {}", job.attempt, job.state.name());
                job.set_aside();
                job.reason = Some(Reason::new(ReasonCode::Retrying, text));
            });
            self.apply(id, job::Event::Retried, "the order's retry");
            // Another one may be under way already.
            self.speak_for(id);
            let in_gap = self.state.node.epoch > Epoch(1) && self.gap_of.is_some();
            let is_queued = self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Queued);
            if is_queued && (in_gap || self.state.doubters() > 0) {
                // It may have been tried again in the time that a restored master has forgotten.
                self.edit(id, Job::hold_after_restore);
            }
        }
    }

    /// The slave's word about an attempt that was given up or assigned to another slave.
    fn take_older(&mut self, key: SlaveKey, report: Report, line: &Line) {
        let id = report.job;
        let (attempt, said, seq, generation) = (report.attempt, report.state, report.seq, report.generation);
        self.keep_earlier(key, report, Basis::Assigned);
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let (newer, newer_holder, desired, is_canceled) =
            (job.state, job.holder, job.desired, job.is_canceled());
        let newer_has_begun = !newer.is_ended() && job.has_begun();
        if line.verdict == Verdict::Cancel {
            // It is told in the Welcome; on a live link it is told here.
            return self.withdraw(key, id, attempt, generation);
        }
        if said.is_ended() {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
        let counts = said.is_started() || said == State::Succeeded;
        if !counts {
            return;
        }
        let is_better = newer.is_ended() && newer != State::Succeeded && said == State::Succeeded;
        // Whoever canceled the job meant all of it.
        let is_to_end = newer == State::Canceled && is_canceled && said.is_executing();
        if newer == State::Queued || is_better || is_to_end {
            return self.promote(id, attempt, key);
        }
        if newer_has_begun {
            let text = if said.is_ended() {
                format!("attempt {attempt} succeeded elsewhere: cancel this one if it is not needed")
            } else if said == State::Paused {
                format!(
                    "attempt {attempt} is paused elsewhere: `reloop-slave resume` or `stop` at that machine"
                )
            } else {
                format!("attempt {attempt} runs elsewhere too: both finish unless somebody cancels one")
            };
            return self.flag(id, Flags::DUPLICATE, &text);
        }
        if newer.is_ended() && said.is_executing() {
            let goes_on = format!(
                "attempt {attempt} goes on although the job has ended: `reloop-slave stop` at that machine, if it is not needed"
            );
            return self.flag(id, Flags::DUPLICATE, &goes_on);
        }
        // Once is enough: to raise the desired state with each report would make every answer to it an answer to an older one. A cancel takes
        // it from there by itself, and then ends this attempt too.
        if let (State::Assigned | State::Accepted, Some(holder)) = (newer, newer_holder)
            && desired != Desired::Return
            && !is_canceled
        {
            self.edit(id, |job| job.set_desired(Desired::Return));
            self.tell_if_newer(holder, id);
        }
    }

    fn flag(&mut self, id: JobId, flag: Flags, text: &str) {
        self.edit(id, |job| {
            job.flags.set(flag);
            job.reason = Some(Reason::new(ReasonCode::OlderAttempt, text));
        });
    }

    /// An earlier attempt speaks for the job again: nobody else has started it, or it is to end as well. What is wanted of
    /// it is said anew: a slave that has come back without it says so then.
    fn promote(&mut self, id: JobId, attempt: Attempt, key: SlaveKey) {
        let (now, epoch) = (self.now, self.state.node.epoch);
        let by = self.state.slaves.get(&key).map_or_else(String::new, |slave| slave.name.clone());
        self.edit(id, |job| {
            let Some(at) =
                job.earlier.iter().position(|earlier| earlier.attempt == attempt && earlier.holder == key)
            else {
                return;
            };
            let earlier = job.earlier.remove(at);
            if job.state != State::Queued {
                job.set_aside();
            }
            // A master that was restored may have forgotten that it handed this out.
            job.assign(attempt, key);
            let known = earlier.report.as_ref().map_or(job.generation, |report| report.generation);
            if job.generation.may_be_followed_by(known, epoch) {
                job.generation = job.generation.max(known);
            }
            job.report = earlier.report;
            job.flags.set(Flags::LATE_RESULT);
            if job.is_canceled() && earlier.state == State::Succeeded {
                job.flags.set(Flags::CANCEL_TOO_LATE);
            }
            job.reason = None;
            job.enter(earlier.state, now, &by);
        });
        // Of what nobody has reported, a person has been asked, and an offer would begin it again.
        let is_told = |job: &Job| job.report.is_some() && !job.state.is_ended();
        if self.state.book.jobs.get(&id).is_some_and(|job| is_told(&job)) {
            self.edit(id, |job| job.set_desired(job.desired));
            self.tell_if_newer(key, id);
        }
    }

    /// Somebody said no, or gave it back.
    pub(super) fn declined(&mut self, key: SlaveKey, declined: Declined) {
        let Some(job) = self.state.book.jobs.get(&declined.job) else { return };
        let (id, desired) = (declined.job, job.desired);
        if declined.reason.code == ReasonCode::NotHeld && !is_current(&job, key, declined.attempt) {
            return self.earlier_is_gone(key, id, declined.attempt);
        }
        let missing = job.state.is_started() && declined.reason.code == ReasonCode::NotHeld;
        let stale = !is_current(&job, key, declined.attempt)
            || job.state != State::Assigned && job.state != State::Accepted && !missing
            || declined.generation < job.generation && declined.reason.code != ReasonCode::GivenBack;
        if stale {
            return self.effects.push(Effect::Ignored(Ignored::OlderAnswer));
        }
        if missing {
            return self.judge_absent(key, id, Store::Trusted);
        }
        if declined.reason.code == ReasonCode::NotHeld && matches!(desired, Desired::Run | Desired::Pause) {
            // It lacks the work: it is offered whole, under the same attempt.
            let desired_state = job.desired_state(true);
            return self.send_to(key, Message::DesiredState(desired_state));
        }
        if declined.for_good && desired == Desired::Run {
            self.edit(id, |job| job.reason = Some(declined.reason));
            let by = self.state.slaves.get(&key).map_or_else(String::new, |slave| slave.name.clone());
            self.apply(id, job::Event::StartRefused, &by);
            return self.try_again(id);
        }
        if declined.reason.code == ReasonCode::WindowClosed
            && job.start.deadline.is_some()
            && !matches!(desired, Desired::Cancel(_))
        {
            // That is about the job and not about the slave, which takes the next.
            self.edit(id, |job| job.reason = Some(declined.reason));
            if self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Accepted) {
                self.apply(id, job::Event::GivenBack, "slave");
            }
            self.apply(id, job::Event::WindowClosed, "slave");
            return;
        }
        let asked_for = declined.reason.code == ReasonCode::GivenBack;
        // What became of an older attempt was told before this: by now it is forgotten there, or speaks for the job.
        let is_told = declined.reason.code == ReasonCode::OlderAttempt;
        self.given_back(id, desired, (!asked_for).then_some(declined.reason));
        // If the job has ended by that, it says nothing of others.
        let waits = self.state.book.jobs.get(&id).is_some_and(|job| !job.state.is_ended());
        if !asked_for
            && !is_told
            && waits
            && let Some(slave) = self.state.slaves.get_mut(&key)
        {
            slave.declining = true;
        }
    }

    /// An earlier attempt is not there any more, and was told of no end: what a person may have said of it reaches nobody.
    fn earlier_is_gone(&mut self, key: SlaveKey, id: JobId, attempt: Attempt) {
        let is_it = |e: &Earlier| {
            let has_ended = e.report.as_ref().is_some_and(|report| report.state.is_ended());
            e.attempt == attempt && e.holder == key && !has_ended
        };
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let Some(at) = job.earlier.iter().position(is_it) else {
            return self.effects.push(Effect::Ignored(Ignored::OlderAnswer));
        };
        self.edit(id, |job| {
            job.earlier[at].state = State::Lost;
            job.earlier[at].report = None;
        });
    }

    /// The slave never had it, or has let it go.
    fn given_back(&mut self, id: JobId, desired: Desired, reason: Option<Reason>) {
        let has_reason = reason.is_some();
        self.edit(id, |job| {
            if has_reason {
                job.reason = reason;
            }
        });
        if self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Accepted) {
            // It had been taken before it was let go: it is nobody's first, and then what the desired state makes of it.
            self.apply(id, job::Event::GivenBack, "slave");
        }
        match desired {
            Desired::Cancel(_) => {
                self.edit(id, |job| {
                    job.reason = Some(Reason::new(ReasonCode::Canceled, "canceled before it started"))
                });
                self.apply(id, job::Event::Withdrawn, "client");
                self.speak_for(id);
            }
            Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => {
                let closed = |job: &Job| job.start.deadline.is_some_and(|deadline| deadline < self.now);
                let over = self.state.book.jobs.get(&id).is_some_and(|job| closed(&job));
                if over {
                    let reason = Reason::new(ReasonCode::WindowClosed, "its latest start passed");
                    self.edit(id, |job| job.reason = Some(reason));
                    self.apply(id, job::Event::WindowClosed, "master");
                    return;
                }
                self.apply(id, job::Event::GivenBack, "slave");
                self.speak_for(id);
            }
        }
    }

    /// A job that is nobody's again: an earlier attempt that is under way or succeeded speaks for it.
    fn speak_for(&mut self, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let alive = job.earlier.iter().find(|earlier| {
            (earlier.state.is_started() || earlier.state == State::Succeeded) && earlier.basis != Basis::Claim
        });
        if let Some((attempt, holder)) = alive.map(|earlier| (earlier.attempt, earlier.holder)) {
            self.promote(id, attempt, holder);
        }
    }

    /// The master takes a job up from its slave.
    fn adopt(&mut self, key: SlaveKey, record: Record) {
        let Record { spec, start, report } = record;
        let id = report.job;
        if self.state.book.jobs.contains_key(&id) {
            return self.effects.push(Effect::Ignored(Ignored::UnrequestedRecord));
        }
        if !report.state.is_ended() && self.state.book.held_by(key).count() >= limits::ROWS {
            return self.effects.push(Effect::Ignored(Ignored::TooManyJobs));
        }
        if report.attempt.0 > limits::ADOPTED_ATTEMPT || report.generation.0 > limits::ADOPTED_GENERATION {
            return self.effects.push(Effect::Ignored(Ignored::OutOfRange));
        }
        let slave = self.state.slaves.get(&key);
        let by = slave.map_or_else(String::new, |slave| slave.name.clone());
        let mut flags = Flags::default();
        flags.set(Flags::ADOPTED);
        let order = super::Order {
            id: spec.order,
            created_at: report.accepted_at,
            jobs: vec![id],
            spec,
            slave: None,
            requires: BTreeMap::new(),
            start,
            retry: super::Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
        };
        let mut job = Job::new(id, &order);
        job.flags = flags;
        job.assign(report.attempt, key);
        job.generation = report.generation;
        job.heard_at = Some(self.now);
        let (state, ended, seq, attempt) =
            (report.state, report.state.is_ended(), report.seq, report.attempt);
        job.report = Some(report);
        job.enter(state, self.now, &by);
        self.state.book.insert(job);
        self.touched.insert(id);
        self.rebuild(order);
        if ended {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
    }

    /// The order of a job that was adopted: what the disk has of it is kept, and gains the job.
    fn rebuild(&mut self, order: super::Order) {
        let order = match self.state.book.orders.get(&order.id) {
            None => order,
            Some(known) => {
                let new: Vec<_> = order.jobs.into_iter().filter(|job| !known.jobs.contains(job)).collect();
                if new.is_empty() || known.spec != order.spec || known.jobs.len() + new.len() > ORDER_JOBS {
                    return;
                }
                let mut known = known.clone();
                known.jobs.extend(new);
                known
            }
        };
        self.state.book.orders.insert(order.id, order.clone());
        self.persist.push(Write::Order(Box::new(order)));
    }

    pub(super) fn send_to(&mut self, key: SlaveKey, message: Message) {
        if let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) {
            self.send(link, message);
        }
    }

    /// Tells the slave the newest desired state, if its last report does not know it.
    pub(super) fn tell_if_newer(&mut self, key: SlaveKey, id: JobId) -> Delivery {
        let Some(job) = self.state.book.jobs.get(&id) else { return Delivery::TooLate };
        let live = self.state.slaves.get(&key).filter(|slave| !slave.doubts).and_then(SlaveRecord::live);
        let Some(link) = live else { return Delivery::PendingOnReconnect };
        let knows = job.report.as_ref().map(|report| report.generation);
        if knows.is_none_or(|generation| generation < job.generation) {
            let desired_state = job.desired_state(knows.is_none());
            self.send(link, Message::DesiredState(desired_state));
        }
        Delivery::Sent
    }

    fn tell_newer_desired_states(&mut self, key: SlaveKey) {
        let Some(slave) = self.state.slaves.get(&key) else { return };
        if slave.doubts {
            return;
        }
        if slave
            .machine
            .as_ref()
            .is_some_and(|machine| machine.operating_mode.generation < slave.operating_mode.generation)
        {
            let operating_mode = slave.operating_mode;
            self.send_to(key, Message::OperatingMode(operating_mode));
        }
        let ids: Vec<_> =
            self.state.book.held_by(key).filter(|job| job.state != State::Uncertain).map(|j| j.id).collect();
        for id in ids {
            self.tell_if_newer(key, id);
        }
    }
}

/// No other slave has this job, by all that the master knows since it was restored: nobody has it, its slave has come back without
/// it, or it was canceled, which means all of its attempts.
fn is_free_for(job: &Job, key: SlaveKey) -> bool {
    let has_vanished = job.state == State::Uncertain && job.report.is_none();
    let is_called_off = job.state == State::Canceled && job.is_canceled();
    job.holder.is_none_or(|holder| holder == key) || has_vanished || is_called_off
}

impl Job {
    /// Another attempt comes: what this one came to is kept beside it.
    pub(super) fn set_aside(&mut self) {
        if let Some(holder) = self.holder.take() {
            let (attempt, state) = (self.attempt, self.state);
            let report = self.report.take().map(|report| report.clipped(EARLIER_TEXT));
            self.keep(Earlier { attempt, holder, state, report, basis: Basis::Assigned });
        }
    }

    fn keep(&mut self, earlier: Earlier) {
        self.earlier.push(earlier);
        if self.earlier.len() > EARLIER {
            // What happened stays longer than what was only claimed.
            let claimed = self.earlier.iter().position(|earlier| earlier.basis == Basis::Claim);
            self.earlier.remove(claimed.unwrap_or(0));
        }
    }
}

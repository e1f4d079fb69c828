//! What a slave record makes of what its slave says: the handshake's end, reports, refusals.
//!
//! Each is judged by the verdict table, and each verdict goes through the job table.

use std::collections::{BTreeMap, BTreeSet};

use super::book::durable_report;
use super::slave_record::{Receipt, SlaveLink, SlaveRecord, is_current};
use super::{Delivery, Earlier, Effect, Ignored, Job, RECEIPTS, Rules, Write};
use crate::id::{Attempt, Epoch, JobId, SlaveKey};
use crate::job::{self, State};
use crate::limits;
use crate::message::{
    CloseCode, Declined, Flags, Forget, Hello, Message, Reason, ReasonCode, Record, Report, Row, Settled,
};
use crate::reconcile::{Store, Theirs, Verdict};
use crate::slave::LinkId;
use crate::spec::Desired;

/// How many jobs an order may have: as many as a client may order at once.
const ORDER_JOBS: usize = 1000;

/// How many decisions of people about a slave a restored master may have forgotten: more than happen between two backups, and
/// too few for a slave that lies to use the numbers up.
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
        let (desired, told, is_assigned) = (job.wanted(), job.report.is_some(), job.state == State::Assigned);
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
                self.weigh(id);
            }
            Verdict::Release if store == Store::Ahead && !is_assigned => {
                let text = "the master was restored, and its slave has let it go since: another may have it or have done it; \
                            if none tells of it, say how it ended with `resolve`";
                self.edit(id, |job| {
                    job.reason = Some(Reason::new(ReasonCode::Restored, text));
                    job.report = None;
                });
                self.apply(id, job::Event::Vanished, "reconciliation");
                self.weigh(id);
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

    /// A slave's report of an attempt; in a handshake with what is known of the slave's memory.
    fn judge_report(&mut self, key: SlaveKey, mut report: Report, settled: Option<Store>) {
        let Some(job) = self.state.book.jobs.get(&report.job) else {
            return self.effects.push(Effect::Ignored(Ignored::MissingRecord));
        };
        if !job.generation.may_be_followed_by(report.generation, self.state.node.epoch) {
            self.effects.push(Effect::Ignored(Ignored::UnknownGeneration));
            report.generation = job.generation;
        }
        if !is_current(&job, key, report.attempt) {
            return self.hear_other(key, report);
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
        self.take(key, report);
    }

    /// The slave's word about the attempt that speaks for the job.
    fn take(&mut self, key: SlaveKey, report: Report) {
        let id = report.job;
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let generation = job.generation.max(report.generation);
        // What has begun is not given back any more, not even if it was interrupted and waits to begin again.
        let has_begun = report.state.is_started() || report.started_at.is_some();
        let stays = has_begun && job.recalled.is_some();
        let was_lost = job.state == State::Lost;
        let link = self.state.slaves.get(&key).and_then(SlaveRecord::current);
        let durable_change = (job.state, job.generation) != (report.state, generation)
            || stays
            || job.report.as_ref().map(durable_report) != Some(durable_report(&report));
        let now = self.now;
        if durable_change {
            self.edit(id, |job| {
                job.generation = generation;
                if stays {
                    // The slave is told what is wanted of it instead.
                    job.recalled = None;
                    job.generation = job.generation.next();
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
            self.weigh(id);
        } else {
            self.tell_if_newer(key, id);
        }
    }

    /// The order's own policy may want another attempt.
    pub(super) fn try_again(&mut self, id: JobId) {
        // A success speaks for the job, whichever attempt it was.
        self.weigh(id);
        let Some(job) = self.state.book.jobs.get(&id) else { return };
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
            self.weigh(id);
            let in_gap = self.state.node.epoch > Epoch(1) && self.gap_of.is_some();
            let is_queued = self.state.book.jobs.get(&id).is_some_and(|job| job.state == State::Queued);
            if is_queued && (in_gap || self.state.doubters() > 0) {
                // It may have been tried again in the time that a restored master has forgotten.
                self.edit(id, Job::hold_after_restore);
            }
        }
    }

    /// Somebody said no, or gave it back.
    pub(super) fn declined(&mut self, key: SlaveKey, declined: Declined) {
        let Some(job) = self.state.book.jobs.get(&declined.job) else { return };
        let (id, desired) = (declined.job, job.wanted());
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
                self.weigh(id);
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
                self.weigh(id);
            }
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

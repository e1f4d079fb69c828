//! How a Settled is applied: what both held, and what the slave made of the verdicts, becomes what is.

use std::collections::{BTreeMap, BTreeSet};

use super::slave_record::{Judged, Receipt, SlaveLink};
use super::visit::Visit;
use super::{CloseReason, Ignored, Job, JobReason, RECEIPTS, Write};
use crate::id::{Attempt, JobId};
use crate::job::{self, State};
use crate::message::{Flags, Forget, Hello, Message, Report, Row, Settled};
use crate::reconcile::{Line, Store, Theirs, Verdict};
use crate::slave::LinkId;
use crate::spec::Desired;

impl Visit<'_> {
    /// The handshake is over.
    pub(super) fn settled(&mut self, link: LinkId, settled: Settled) {
        let (key, now, epoch) = (self.key, self.moment.now, self.moment.node.epoch);
        if self.record().hello().is_none_or(|hello| hello.session != settled.session) {
            return self.out.close(link, CloseReason::OtherSession);
        }
        let live = SlaveLink::Live { link };
        let SlaveLink::Welcomed { hello, store, judged, since, .. } =
            self.edit(|slave| std::mem::replace(&mut slave.link, live))
        else {
            return;
        };
        let rebooted = self.record().boot.is_some_and(|boot| boot != hello.boot);
        if !self.record().doubts {
            // A doubted master may be an old copy: it takes up no attempts that it has no record of before a person confirms it.
            self.moment.gap_of = (self.record().settled_in != epoch).then_some(key);
        }
        self.moment.settled_before = Some((key, self.record().agent_start()));
        self.edit(|slave| slave.settle(&hello, settled.machine.clone(), epoch, since, now));
        if store == Store::RolledBack {
            // It counts on from where its store was, so this number may have stood for another start.
            self.edit(|slave| slave.starts = 0);
        }
        let number = self.record().receipts;
        let judged = self.settle_jobs(&hello, store, judged, settled);
        self.out.persist.push(Write::Receipt(Box::new(Receipt {
            slave: key,
            number: number % RECEIPTS,
            at: now,
            took: now.since(since),
            session: hello.session,
            store,
            rebooted,
            lines: judged.into_iter().map(Judged::receipt_line).collect(),
        })));
        self.tell_newer_desired_states();
    }

    /// What the slave has not been told while it was away.
    fn tell_newer_desired_states(&mut self) {
        let slave = self.record();
        if slave.doubts {
            return;
        }
        let operating_mode = slave.operating_mode;
        let obeyed = slave.machine.as_ref().map(|machine| machine.operating_mode.generation);
        if obeyed.is_some_and(|obeyed| obeyed < operating_mode.generation) {
            self.send(Message::OperatingMode(operating_mode));
        }
        for id in self.held_where(|_| true) {
            self.jobs().tell(id);
        }
    }

    fn settle_jobs(
        &mut self,
        hello: &Hello,
        store: Store,
        mut judged: Vec<Judged>,
        settled: Settled,
    ) -> Vec<Judged> {
        let asked: BTreeSet<JobId> =
            judged.iter().filter(|judged| judged.mine.is_none()).map(|judged| judged.job).collect();
        let Settled { reports, records, declined, .. } = settled;
        // An older attempt in the slave's view says nothing of a newer one.
        let mut seen: BTreeMap<JobId, Attempt> = BTreeMap::new();
        let mut saw = |job: JobId, attempt: Attempt| {
            let newest = seen.entry(job).or_insert(attempt);
            *newest = attempt.max(*newest);
        };
        // The recent outcomes of a store that went back in time are as old as it is.
        let recent_outcomes = if store == Store::RolledBack { &[] } else { hello.recent_outcomes.as_slice() };
        hello.rows.iter().chain(recent_outcomes).for_each(|row| saw(row.job, row.attempt));
        let kept = |report: &Report| hello.rows.iter().any(|row| row.job == report.job);
        let reports: Vec<_> =
            reports.into_iter().filter(|report| store != Store::RolledBack || kept(report)).collect();
        let reported: BTreeSet<JobId> = reports.iter().map(|report| report.job).collect();
        let (adopted, renewed): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| !self.book().jobs.contains_key(&record.report.job));
        declined.iter().for_each(|declined| saw(declined.job, declined.attempt));
        reports.iter().for_each(|report| saw(report.job, report.attempt));
        for record in adopted {
            saw(record.report.job, record.report.attempt);
            if asked.contains(&record.report.job) {
                self.adopt(record);
            } else {
                self.out.ignore(Ignored::UnrequestedRecord);
            }
        }
        // An offer that was taken is in the reports; what is in neither view is judged as absent.
        for id in self.held_where(|job| seen.get(&job.id).is_none_or(|newest| *newest < job.attempt)) {
            let line = self.carried(&mut judged, id, None, store);
            self.apply_absent(id, line, store);
        }
        for row in hello.rows.iter().filter(|row| !reported.contains(&row.job)) {
            let line = self.carried(&mut judged, row.job, Some(row), store);
            self.mirror_row(row, line);
        }
        for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)) {
            let line = self.carried(&mut judged, report.job, Some(&report.row()), store);
            self.judge_report(report, Some(line));
        }
        for declined in declined {
            self.declined(declined);
        }
        // It may have declined for want of room, which the outcomes took that are forgotten now. Otherwise it declines once more.
        self.ends_declining();
        // A slave has one attempt of a job: where it told of a newer one that does not speak for the job, the one that does is not there.
        for id in self.held_where(|job| seen.get(&job.id).is_some_and(|newest| *newest > job.attempt)) {
            let line = self.carried(&mut judged, id, None, store);
            self.apply_absent(id, line, store);
        }
        judged
    }

    /// The verdict that the Welcome told on a job. If the job has changed since, at the master or at the slave, it is judged anew, and
    /// the receipt says that.
    fn carried(&self, judged: &mut Vec<Judged>, id: JobId, row: Option<&Row>, store: Store) -> &'static Line {
        let job = self.book().jobs.get(&id);
        let job = job.as_deref();
        let revision = job.map_or(0, |job| job.revision);
        let at = judged.iter().position(|one| one.job == id && one.theirs.is_some() == row.is_some());
        if let Some(at) = at
            && judged[at].revision == revision
            && judged[at].theirs == row.map(|row| row.state)
        {
            return judged[at].line;
        }
        let theirs = row.map_or(Theirs::Absent, |row| Theirs::of(row.state));
        let attempt = row.map_or_else(|| job.map_or(Attempt(0), |job| job.attempt), |row| row.attempt);
        let line = self.line(job, row, theirs, store);
        let anew = Judged::new(id, attempt, job, row.map(|row| row.state), line);
        match at {
            Some(at) => judged[at] = anew,
            None => judged.push(anew),
        }
        line
    }

    /// Jobs that this slave has, by the book, of which this holds.
    fn held_where(&self, holds: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.book().held_by(self.key).filter(|job| holds(job)).map(|job| job.id).collect()
    }

    /// A slave says on its live link that it has neither the job nor its outcome.
    pub(super) fn judge_absent(&mut self, id: JobId) {
        let Some(job) = self.book().jobs.get(&id) else { return };
        let line = self.line(Some(&job), None, Theirs::Absent, Store::Trusted);
        self.apply_absent(id, line, Store::Trusted);
    }

    /// The slave has neither the job nor its outcome, and this is the verdict on that.
    fn apply_absent(&mut self, id: JobId, line: &Line, store: Store) {
        let Some(job) = self.book().jobs.get(&id) else { return };
        let (desired, told, is_assigned) = (job.wanted(), job.report.is_some(), job.state == State::Assigned);
        match line.verdict {
            // An old copy concludes nothing from what is not there, before a person has confirmed it.
            _ if store == Store::Doubting => {}
            // A person was asked, and the slave that would have heard the answer has forgotten the question.
            Verdict::Keep if told => self.question_forgotten(id, desired),
            Verdict::AskPerson => {
                let why = match store {
                    Store::Trusted | Store::Ahead | Store::Doubting => JobReason::Vanished,
                    Store::Replaced => JobReason::StoreReplaced,
                    Store::RolledBack => JobReason::StoreRolledBack,
                };
                self.jobs().edit(id, |job| {
                    job.reason = Some(why.into());
                    job.report = None;
                });
                self.jobs().apply(id, job::Event::Vanished, "reconciliation");
                match desired {
                    // A person was asked before, and has answered.
                    Desired::Resolve(end) => drop(self.jobs().resolve(id, end)),
                    _ => self.jobs().weigh(id),
                }
            }
            Verdict::Release if store == Store::Ahead && !is_assigned => {
                self.jobs().edit(id, |job| {
                    job.reason = Some(JobReason::LetGoBeforeRestore.into());
                    if !job.has_begun() {
                        // It was given back before it had begun, and only then another slave had it.
                        job.flags.clear(Flags::DUPLICATE);
                    }
                    job.report = None;
                });
                self.jobs().apply(id, job::Event::Vanished, "reconciliation");
                self.jobs().weigh(id);
            }
            Verdict::Release => self.jobs().given_back(id, desired, None),
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
        self.jobs().edit(id, |job| job.report = None);
        if let Desired::Resolve(end) = desired {
            self.jobs().resolve(id, end);
        }
    }

    /// A row whose report the master has already: only progress, `seq` and the time of the last word change.
    fn mirror_row(&mut self, row: &Row, line: &'static Line) {
        let key = self.key;
        let Some(job) = self.book().jobs.get(&row.job) else { return };
        let is_current = job.is_current(key, row.attempt);
        if !is_current || job.state == State::Lost {
            // It was given up since the Welcome, which had told the slave that its report is known.
            let other = job.others.iter().find(|other| other.is(row.attempt, key));
            let known =
                if is_current { job.report.as_ref() } else { other.and_then(|it| it.report.as_ref()) };
            if row.state.is_ended() {
                if other.is_some_and(|other| other.state == row.state) {
                    let forget = Forget { job: row.job, attempt: row.attempt, seq: row.seq };
                    self.send(Message::Forget(forget));
                }
            } else if let Some(known) = known.cloned() {
                let report = Report { seq: row.seq, progress: row.progress, ..known };
                self.judge_report(report, Some(line));
            }
            return;
        }
        if line.verdict == Verdict::Forget {
            let forget = Forget { job: row.job, attempt: row.attempt, seq: row.seq };
            return self.send(Message::Forget(forget));
        }
        let now = self.moment.now;
        self.jobs().edit_volatile(row.job, |job| {
            job.heard_at = Some(now);
            if let Some(report) = &mut job.report {
                report.progress = super::said::progress(row.progress);
                // Another start of the agent is told by a report, and written with it.
                if report.seq.start == row.seq.start {
                    report.seq = report.seq.max(row.seq);
                }
            }
        });
    }
}

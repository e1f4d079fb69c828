//! The handshake, from the Challenge to the moment when the slave's link is live.
//!
//! A Hello is answered by a Welcome, with one verdict on each job in either view. Nothing changes by that: what both held, and
//! what the slave made of the verdicts, is applied when it has settled.

use std::collections::{BTreeMap, BTreeSet};

use super::slave_record::{Contender, Enrolled, Judged, Receipt, SlaveLink};
use super::{Effect, Ignored, Job, RECEIPTS, Refusal, Rules, Write};
use crate::id::{Attempt, Epoch, JobId, SlaveKey};
use crate::job::{self, State};
use crate::limits;
use crate::message::{
    Challenge, CloseCode, Forget, Hello, MasterBinding, Message, PROTOCOL, Reason, ReasonCode, Refuse,
    Report, Row, Ruling, Settled, Tell, Welcome,
};
use crate::reconcile::{DesiredKind, Line, Mine, Store, Theirs, Verdict, judge};
use crate::slave::LinkId;
use crate::spec::Desired;
use crate::time::Time;

/// How much work one Welcome offers, in bytes on the wire: it is one message of at most 256 KiB.
const OFFERED_BYTES: usize = 128 * 1024;

/// How many decisions of people about a slave a restored master may have forgotten: more than happen between two backups, and
/// too few for a slave that lies to use the numbers up.
const DECISIONS_AHEAD: u32 = 1 << 16;

impl Rules {
    pub(super) fn link_opened(&mut self, link: LinkId, nonce: [u8; 32]) {
        self.state.links.insert(link, None);
        let node = self.state.node;
        let challenge = Challenge {
            protocol: PROTOCOL,
            master: node.id,
            epoch: node.epoch,
            commit: node.commit,
            begun: self.state.begun.clone(),
            nonce,
            time: self.now,
        };
        self.send(link, Message::Challenge(challenge));
    }

    pub(super) fn link_closed(&mut self, link: LinkId, last_heard: Time) {
        let Some(key) = self.state.links.remove(&link).flatten() else { return };
        self.unanswer(link);
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        if slave.contender.as_ref().is_some_and(|contender| contender.link == link) {
            slave.contender = None;
            return;
        }
        if slave.current() != Some(link) {
            // The link had ended for the rules already: its slave was revoked, or the master was restored and confirmed.
            slave.last_contact = slave.last_contact.max(Some(last_heard));
            return self.touch_slave(key);
        }
        slave.last_contact = Some(last_heard);
        slave.link = SlaveLink::Down;
        let contender = slave.contender.take();
        self.touch_slave(key);
        if let Some(Contender { link, hello }) = contender {
            self.welcome(link, hello);
        }
    }

    /// Questions on a connection that ended have their answer: not now.
    fn unanswer(&mut self, link: LinkId) {
        let (gone, kept) =
            std::mem::take(&mut self.state.asked).into_iter().partition(|(_, ask)| ask.link == link);
        self.state.asked = kept;
        let gone: BTreeMap<u32, super::Asked> = gone;
        for ask in gone.into_values() {
            self.refuse(
                ask.request,
                Refusal::SlaveOffline,
                "the link was lost before the slave answered: try again",
            );
        }
    }

    pub(super) fn hello_received(&mut self, link: LinkId, hello: Box<Hello>, token: Option<[u8; 32]>) {
        if self.state.links.get(&link) != Some(&None) {
            return self.close(link, CloseCode::Protocol, "a second Hello".to_owned());
        }
        if PROTOCOL.common(hello.protocol).is_none() {
            let text = format!(
                "this master speaks protocol {} to {}, the slave {} to {}: upgrade the older one; its job goes on",
                PROTOCOL.oldest, PROTOCOL.newest, hello.protocol.oldest, hello.protocol.newest
            );
            return self.turn_away(link, CloseCode::Version, text);
        }
        if let Some(binding) = hello.binding
            && binding.master == self.state.node.id
            && binding.epoch > self.state.node.epoch
        {
            let text = format!(
                "this slave has seen epoch {} of this master, which is now at {}: another copy of it was restored; \
                 stop this one, or confirm it with `reloop restore confirm`",
                binding.epoch, self.state.node.epoch
            );
            self.note_later(hello.key, binding.epoch);
            return self.turn_away(link, CloseCode::StaleMaster, text);
        }
        if let Err((code, text)) = self.admit(&hello, token) {
            return self.turn_away(link, code, text);
        }
        let key = hello.key;
        self.state.links.insert(link, Some(key));
        let binding = binding_of(&self.state);
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        let foreign = hello.binding.is_some_and(|binding| binding.master != self.state.node.id);
        if foreign {
            // It told nothing of its jobs yet: it binds itself, and introduces itself again.
            let welcome = Welcome {
                protocol: PROTOCOL.common(hello.protocol).unwrap_or(PROTOCOL.newest),
                session: hello.session,
                binding,
                operating_mode: slave.operating_mode,
                rulings: vec![],
            };
            self.state.links.insert(link, None);
            return self.send(link, Message::Welcome(welcome));
        }
        let Some(older) = slave.current() else { return self.welcome(link, hello) };
        let same_box = slave.hello().map_or_else(
            || slave.store == Some(hello.store) && slave.boot == Some(hello.boot),
            |known| known.store == hello.store && known.boot == hello.boot,
        );
        if same_box {
            // Half-open: the slave knows better which of its links is its own.
            slave.link = SlaveLink::Down;
            self.state.links.insert(older, None);
            self.unanswer(older);
            self.close(
                older,
                CloseCode::Superseded,
                "a newer connection of the same slave took over".to_owned(),
            );
            return self.welcome(link, hello);
        }
        if slave.contender.is_some() {
            self.state.links.insert(link, None);
            let text = "two boxes say that they are this slave; one of them is being asked".to_owned();
            return self.turn_away(link, CloseCode::TryLater, text);
        }
        slave.contender = Some(Contender { link, hello });
        self.effects.push(Effect::Probe { link: older });
    }

    /// A slave has obeyed a later epoch of this master: the one that a person confirms next comes after it.
    fn note_later(&mut self, key: SlaveKey, epoch: Epoch) {
        let belongs = self.state.slaves.get(&key).is_some_and(|slave| slave.enrolled == Enrolled::Yes);
        if belongs && epoch.0 <= self.state.node.epoch.0.saturating_add(limits::EPOCHS_AHEAD) {
            self.state.later = self.state.later.max(epoch);
        }
    }

    /// Slaves keep time by this master's clock as the handshake showed it to them: they look at it again.
    pub(super) fn clock_set(&mut self, step_ms: i64) {
        self.follow_a_clock_that_was_set(step_ms);
        let links: Vec<LinkId> = self.state.links.keys().copied().collect();
        for link in links {
            let text = "this master's clock was set: introduce yourself again".to_owned();
            self.close(link, CloseCode::GoingAway, text);
        }
    }

    /// The older of two links was asked whether it is there.
    pub(super) fn link_probed(&mut self, link: LinkId, alive: bool) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else { return };
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        if slave.current() != Some(link) {
            return;
        }
        let Some(Contender { link: newcomer, hello }) = slave.contender.take() else { return };
        if alive {
            slave.cloned_at = Some(self.now);
            let text = format!(
                "another box with the key of {} is connected and answers: this one is a copy; give it a key of its own \
                 by removing identity.key from its state directory",
                slave.name
            );
            self.touch_slave(key);
            self.state.links.insert(newcomer, None);
            return self.turn_away(newcomer, CloseCode::DuplicateIdentity, text);
        }
        slave.link = SlaveLink::Down;
        self.state.links.insert(link, None);
        self.unanswer(link);
        self.close(
            link,
            CloseCode::Superseded,
            "it did not answer, and the same slave came from elsewhere".to_owned(),
        );
        self.welcome(newcomer, hello);
    }

    fn turn_away(&mut self, link: LinkId, code: CloseCode, text: String) {
        let refuse = Refuse { code, text: text.clone(), retry_after_ms: None };
        self.send(link, Message::Refuse(refuse));
        self.close(link, code, text);
    }

    /// Answers a Hello: one ruling per job in either view. Nothing changes until the slave has settled.
    fn welcome(&mut self, link: LinkId, hello: Box<Hello>) {
        let key = hello.key;
        let Some(slave) = self.state.slaves.get(&key) else { return };
        let node = self.state.node;
        let doubts = hello.binding.is_some_and(|binding| {
            binding.epoch == node.epoch && binding.is_ahead_of(node.commit, &self.state.begun)
        });
        // A memory that went forward does not say less than it has said: a copy of it may, under a newer session.
        let says_less = |row: &Row| {
            let job = self.state.book.jobs.get(&row.job).filter(|job| is_current(job, key, row.attempt));
            let known = job.as_deref().and_then(|job| job.report.as_ref());
            known.is_some_and(|known| known.seq > row.seq)
        };
        let store = if doubts {
            Store::Doubting
        } else if slave.store.is_some_and(|known| known != hello.store) {
            Store::Replaced
        } else if slave.store.is_some()
            && (hello.session <= slave.session || hello.rows.iter().any(says_less))
        {
            Store::RolledBack
        } else if node.epoch > Epoch(1) && slave.settled_in != node.epoch {
            Store::Ahead
        } else {
            Store::Trusted
        };
        let operating_mode = slave.operating_mode;
        let mut rulings = Vec::new();
        let mut judged = Vec::new();
        let mut seen = BTreeSet::new();
        let mut room = OFFERED_BYTES;
        for (row, remembered) in hello
            .rows
            .iter()
            .map(|row| (row, false))
            .chain(hello.recent_outcomes.iter().map(|row| (row, true)))
        {
            if !seen.insert(row.job) {
                continue;
            }
            let job = self.state.book.jobs.get(&row.job);
            let job = job.as_deref();
            let theirs = if remembered { Theirs::Remembered } else { Theirs::of(row.state) };
            let line = self.line(job, key, Some(row), theirs, store);
            judged.push(Judged::new(row.job, row.attempt, job, Some(row.state), line));
            rulings.push(self.ruling(job, key, row, line));
        }
        for job in self.state.book.held_by(key).filter(|job| !seen.contains(&job.id)) {
            let line = self.line(Some(job), key, None, Theirs::Absent, store);
            judged.push(Judged::new(job.id, job.attempt, Some(job), None, line));
            // What does not fit into this message is wanted again as soon as the link is live.
            let size = job.spec.size();
            let fits = line.verdict == Verdict::Offer && size <= room;
            room -= if fits { size } else { 0 };
            let desired_state = fits.then(|| job.desired_state(true));
            rulings.push(Ruling {
                job: job.id,
                attempt: job.attempt,
                verdict: line.verdict,
                tell: Tell::Nothing,
                desired_state,
            });
        }
        let welcome = Welcome {
            protocol: PROTOCOL.common(hello.protocol).unwrap_or(PROTOCOL.newest),
            session: hello.session,
            binding: binding_of(&self.state),
            operating_mode,
            rulings,
        };
        let now = self.now;
        if let Some(slave) = self.state.slaves.get_mut(&key) {
            slave.doubts = doubts;
            slave.link = SlaveLink::Welcomed { link, hello, store, judged, since: now };
        }
        if doubts {
            self.state.doubted_by.insert(key);
        } else {
            self.state.doubted_by.remove(&key);
        }
        self.state.links.insert(link, Some(key));
        self.send(link, Message::Welcome(welcome));
    }

    fn ruling(&self, job: Option<&Job>, key: SlaveKey, row: &Row, line: &Line) -> Ruling {
        let current = job.filter(|job| is_current(job, key, row.attempt));
        let known = current.and_then(|job| job.report.as_ref()).map(|report| report.seq);
        let tell = match line.verdict {
            // Also what is not trusted: it becomes known here, and a person says what it is.
            _ if job.is_none() => Tell::Record,
            // It counts its reports anew.
            Verdict::Quarantine => Tell::Report,
            Verdict::Forget
                if current.is_some_and(|job| job.state.is_ended() && job.state != State::Lost) =>
            {
                Tell::Nothing
            }
            // What a person gave up is heard again, whatever was known of it.
            _ if known == Some(row.seq) && current.is_some_and(|job| job.state == row.state) => Tell::Nothing,
            _ => Tell::Report,
        };
        let newer = current.filter(|job| job.generation > row.generation && !job.state.is_ended());
        let desired_state = match line.verdict {
            Verdict::Keep | Verdict::Start | Verdict::Cancel | Verdict::Recall | Verdict::AskPerson => newer,
            Verdict::Offer | Verdict::Adopt | Verdict::Forget | Verdict::Release | Verdict::Quarantine => {
                None
            }
        };
        Ruling {
            job: row.job,
            attempt: row.attempt,
            verdict: line.verdict,
            tell,
            desired_state: desired_state.map(|job| job.desired_state(false)),
        }
    }

    /// The line of the table for what both hold.
    pub(super) fn line(
        &self,
        job: Option<&Job>,
        key: SlaveKey,
        row: Option<&Row>,
        theirs: Theirs,
        store: Store,
    ) -> &'static Line {
        let mine = job.map_or(Mine::Unknown, |job| {
            held_as(job, key, row.map_or(job.attempt, |row| row.attempt), store)
        });
        let desired = job.map_or(DesiredKind::Go, |job| DesiredKind::of(job.wanted(), &job.start, self.now));
        judge(mine, theirs, store, desired)
    }

    /// The handshake is over: what both held, and what the slave made of the verdicts, becomes what is.
    pub(super) fn settled(&mut self, key: SlaveKey, link: LinkId, settled: Settled) {
        let now = self.now;
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        if slave.hello().is_none_or(|hello| hello.session != settled.session) {
            return self.close(link, CloseCode::Protocol, "Settled of another session".to_owned());
        }
        let live = SlaveLink::Live { link };
        let SlaveLink::Welcomed { hello, store, judged, since, .. } =
            std::mem::replace(&mut slave.link, live)
        else {
            return;
        };
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
        slave.receipts = slave.receipts.wrapping_add(1);
        let number = slave.receipts;
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
        let judged = self.settle_jobs(key, &hello, store, judged, settled);
        self.persist.push(Write::Receipt(Box::new(Receipt {
            slave: key,
            number: number % RECEIPTS,
            at: now,
            took: now.since(since),
            session: hello.session,
            store,
            rebooted,
            lines: judged.into_iter().map(Judged::receipt_line).collect(),
        })));
        self.tell_newer_desired_states(key);
    }

    fn settle_jobs(
        &mut self,
        key: SlaveKey,
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
            let line = self.carried(&mut judged, key, id, None, store);
            self.apply_absent(id, line, store);
        }
        for row in hello.rows.iter().filter(|row| !reported.contains(&row.job)) {
            let line = self.carried(&mut judged, key, row.job, Some(row), store);
            self.mirror_row(key, row, line);
        }
        for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)) {
            self.judge_report(key, report, Some(store));
        }
        for declined in declined {
            self.declined(key, declined);
        }
        // A slave has one attempt of a job: where it told of a newer one that does not speak for the job, the one that does is not there.
        for id in self.held_where(key, |job| seen.get(&job.id).is_some_and(|newest| *newest > job.attempt)) {
            let line = self.carried(&mut judged, key, id, None, store);
            self.apply_absent(id, line, store);
        }
        judged
    }

    /// The verdict that the Welcome told on a job. If the job has changed since, it is judged anew, and the receipt says that.
    fn carried(
        &self,
        judged: &mut Vec<Judged>,
        key: SlaveKey,
        id: JobId,
        row: Option<&Row>,
        store: Store,
    ) -> &'static Line {
        let job = self.state.book.jobs.get(&id);
        let job = job.as_deref();
        let revision = job.map_or(0, |job| job.revision);
        let at = judged.iter().position(|one| one.job == id && one.theirs.is_some() == row.is_some());
        if let Some(at) = at
            && judged[at].revision == revision
        {
            return judged[at].line;
        }
        let theirs = row.map_or(Theirs::Absent, |row| Theirs::of(row.state));
        let attempt = row.map_or_else(|| job.map_or(Attempt(0), |job| job.attempt), |row| row.attempt);
        let line = self.line(job, key, row, theirs, store);
        let anew = Judged::new(id, attempt, job, row.map(|row| row.state), line);
        match at {
            Some(at) => judged[at] = anew,
            None => judged.push(anew),
        }
        line
    }

    /// Jobs that this slave has, by the book, of which this holds.
    fn held_where(&self, key: SlaveKey, holds: impl Fn(&Job) -> bool) -> Vec<JobId> {
        self.state.book.held_by(key).filter(|job| holds(job)).map(|job| job.id).collect()
    }

    /// A slave says on its live link that it has neither the job nor its outcome.
    pub(super) fn judge_absent(&mut self, key: SlaveKey, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let line = self.line(Some(&job), key, None, Theirs::Absent, Store::Trusted);
        self.apply_absent(id, line, Store::Trusted);
    }

    /// The slave has neither the job nor its outcome, and this is the verdict on that.
    fn apply_absent(&mut self, id: JobId, line: &Line, store: Store) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let (desired, told, is_assigned) = (job.wanted(), job.report.is_some(), job.state == State::Assigned);
        match line.verdict {
            // An old copy concludes nothing from what is not there, before a person has confirmed it.
            _ if store == Store::Doubting => {}
            // A person was asked, and the slave that would have heard the answer has forgotten the question.
            Verdict::Keep if told => self.question_forgotten(id, desired),
            Verdict::AskPerson => {
                let reason = match store {
                    Store::Trusted | Store::Ahead | Store::Doubting => Reason::new(
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
    fn mirror_row(&mut self, key: SlaveKey, row: &Row, line: &Line) {
        let Some(job) = self.state.book.jobs.get(&row.job) else { return };
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
}

pub(super) fn is_current(job: &Job, key: SlaveKey, attempt: Attempt) -> bool {
    job.attempt == attempt && job.holder == Some(key)
}

/// What the book says of this attempt at this slave.
fn held_as(job: &Job, key: SlaveKey, attempt: Attempt, store: Store) -> Mine {
    if attempt > job.last_attempt {
        return Mine::Assigned;
    }
    if !is_current(job, key, attempt) {
        return Mine::Older;
    }
    match job.state {
        State::Queued | State::Assigned => Mine::Assigned,
        // Asked back: whether the slave still has it is as open as when it was offered, unless it may have been done since.
        State::Accepted if job.is_recall_unanswered() && store != Store::Ahead => Mine::Assigned,
        State::Accepted => Mine::Unstarted,
        State::Starting | State::Running | State::Paused | State::Stopping => Mine::Started,
        State::Uncertain => Mine::Uncertain,
        State::Lost => Mine::GivenUp,
        State::Succeeded | State::Failed | State::Canceled | State::Rejected | State::Expired => Mine::Ended,
    }
}

fn binding_of(state: &super::Master) -> MasterBinding {
    let node = state.node;
    MasterBinding {
        master: node.id,
        epoch: node.epoch,
        incarnation: state.incarnation(),
        commit: node.commit,
    }
}

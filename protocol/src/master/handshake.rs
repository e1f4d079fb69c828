//! The handshake, from the Challenge to the moment when the slave's link is live.
//!
//! A Hello is answered by a Welcome, with one verdict on each job in either view. Nothing changes by that: what both held, and
//! what the slave made of the verdicts, is applied when it has settled.

use std::collections::{BTreeMap, BTreeSet};

use super::slave_record::{Contender, Enrolled, Judged, Receipt, SlaveLink};
use super::visit::Visit;
use super::{Ignored, Job, RECEIPTS, Refusal, Rules, Write};
use crate::id::{Attempt, Epoch, Incarnation, JobId, SlaveKey};
use crate::job::{self, State};
use crate::limits;
use crate::message::{
    Challenge, CloseCode, Flags, Forget, Hello, MasterBinding, Message, PROTOCOL, Reason, ReasonCode, Refuse,
    Report, Row, Ruling, Settled, Tell, Welcome,
};
use crate::reconcile::{DesiredKind, Line, Mine, Store, Theirs, Verdict, judge};
use crate::slave::LinkId;
use crate::spec::Desired;
use crate::time::Time;

/// How much work one Welcome offers, in bytes on the wire: it is one message of at most 256 KiB.
const OFFERED_BYTES: usize = 128 * 1024;

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
        self.out.send(link, Message::Challenge(challenge));
    }

    pub(super) fn link_closed(&mut self, link: LinkId, last_heard: Time) {
        let Some(key) = self.state.links.remove(&link).flatten() else { return };
        self.unanswer(link);
        let Some(mut visit) = self.visit(key) else { return };
        if visit.record().contender.as_ref().is_some_and(|contender| contender.link == link) {
            return visit.edit_volatile(|slave| slave.contender = None);
        }
        if visit.record().current() != Some(link) {
            // The link had ended for the rules already: its slave was revoked, or the master was restored and confirmed.
            return visit.edit(|slave| slave.last_contact = slave.last_contact.max(Some(last_heard)));
        }
        let contender = visit.edit(|slave| {
            slave.last_contact = Some(last_heard);
            slave.link = SlaveLink::Down;
            slave.contender.take()
        });
        if let Some(Contender { link, hello }) = contender {
            self.answer_hello(link, hello);
        }
    }

    /// Questions on a connection that ended have their answer: not now.
    fn unanswer(&mut self, link: LinkId) {
        let (gone, kept) =
            std::mem::take(&mut self.state.asked).into_iter().partition(|(_, ask)| ask.link == link);
        self.state.asked = kept;
        let gone: BTreeMap<u32, super::Asked> = gone;
        for ask in gone.into_values() {
            self.out.refuse(
                ask.request,
                Refusal::SlaveOffline,
                "the link was lost before the slave answered: try again",
            );
        }
    }

    pub(super) fn hello_received(&mut self, link: LinkId, hello: Box<Hello>, token: Option<[u8; 32]>) {
        if self.state.links.get(&link) != Some(&None) {
            return self.out.close(link, CloseCode::Protocol, "a second Hello");
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
        let foreign = hello.binding.is_some_and(|binding| binding.master != self.state.node.id);
        let Some(mut visit) = self.visit(key) else { return };
        if foreign {
            // It told nothing of its jobs yet: it binds itself, and introduces itself again.
            let welcome = visit.welcome_to(&hello, vec![]);
            return self.out.send(link, Message::Welcome(welcome));
        }
        let slave = visit.record();
        let Some(older) = slave.current() else { return self.answer_hello(link, hello) };
        let same_box = slave.hello().map_or_else(
            || slave.store == Some(hello.store) && slave.boot == Some(hello.boot),
            |known| known.store == hello.store && known.boot == hello.boot,
        );
        if same_box {
            // Half-open: the slave knows better which of its links is its own.
            let is_contended = slave.contender.is_some();
            self.supersede(key, older, "a newer connection of the same slave took over");
            self.answer_hello(link, hello);
            if is_contended {
                // Another box waits for the answer of the link that has just ended: it waits for this one's instead.
                self.out.probe(link);
            }
            return;
        }
        let is_same_box =
            |other: &Contender| other.hello.store == hello.store && other.hello.boot == hello.boot;
        if let Some(waiting) = slave.contender.as_ref().filter(|other| is_same_box(other)) {
            let waiting = waiting.link;
            visit.edit_volatile(|slave| slave.contender = Some(Contender { link, hello }));
            self.state.links.insert(link, Some(key));
            self.state.links.insert(waiting, None);
            let text = "a newer connection of the same box waits in its place";
            return self.out.close(waiting, CloseCode::Superseded, text);
        }
        if slave.contender.is_some() {
            let text = "two boxes say that they are this slave; one of them is being asked".to_owned();
            return self.turn_away(link, CloseCode::TryLater, text);
        }
        visit.edit_volatile(|slave| slave.contender = Some(Contender { link, hello }));
        self.state.links.insert(link, Some(key));
        self.out.probe(older);
    }

    /// Another connection takes this one's place.
    fn supersede(&mut self, key: SlaveKey, link: LinkId, text: &str) {
        if let Some(mut visit) = self.visit(key) {
            visit.edit_volatile(|slave| slave.link = SlaveLink::Down);
        }
        self.state.links.insert(link, None);
        self.unanswer(link);
        self.out.close(link, CloseCode::Superseded, text);
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
        self.move_with_clock(step_ms);
        let links: Vec<LinkId> = self.state.links.keys().copied().collect();
        for link in links {
            let text = "this master's clock was set: introduce yourself again".to_owned();
            self.out.close(link, CloseCode::GoingAway, text);
        }
    }

    /// The older of two links was asked whether it is there.
    pub(super) fn link_probed(&mut self, link: LinkId, alive: bool) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else { return };
        let now = self.now;
        let Some(mut visit) = self.visit(key) else { return };
        if visit.record().current() != Some(link) || visit.record().contender.is_none() {
            return;
        }
        let contender = visit.edit_volatile(|slave| slave.contender.take());
        let Some(Contender { link: newcomer, hello }) = contender else { return };
        if alive {
            let text = format!(
                "another box with the key of {} is connected and answers: this one is a copy; give it a key of its own \
                 by removing identity.key from its state directory",
                visit.record().name
            );
            visit.edit(|slave| slave.cloned_at = Some(now));
            self.state.links.insert(newcomer, None);
            return self.turn_away(newcomer, CloseCode::DuplicateIdentity, text);
        }
        self.supersede(key, link, "it did not answer, and the same slave came from elsewhere");
        self.answer_hello(newcomer, hello);
    }

    fn turn_away(&mut self, link: LinkId, code: CloseCode, text: String) {
        let refuse = Refuse { code, text: text.clone(), retry_after_ms: None };
        self.out.send(link, Message::Refuse(refuse));
        self.out.close(link, code, text);
    }

    fn answer_hello(&mut self, link: LinkId, hello: Box<Hello>) {
        let key = hello.key;
        let Some(mut visit) = self.visit(key) else { return };
        visit.welcome(link, hello);
        if visit.record().doubts {
            self.state.doubted_by.insert(key);
        } else {
            self.state.doubted_by.remove(&key);
        }
        self.state.links.insert(link, Some(key));
    }
}

impl Visit<'_> {
    /// Answers a Hello: one ruling per job in either view. Nothing changes until the slave has settled.
    fn welcome(&mut self, link: LinkId, hello: Box<Hello>) {
        let (key, node) = (self.key, self.moment.node);
        let doubts = hello.binding.is_some_and(|binding| {
            binding.epoch == node.epoch && binding.is_ahead_of(node.commit, self.begun)
        });
        let store = if doubts { Store::Doubting } else { self.store_of(&hello) };
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
            let job = self.book().jobs.get(&row.job);
            let job = job.as_deref();
            let theirs = if remembered { Theirs::Remembered } else { Theirs::of(row.state) };
            let line = self.line(job, Some(row), theirs, store);
            judged.push(Judged::new(row.job, row.attempt, job, Some(row.state), line));
            rulings.push(self.ruling(job, row, line));
        }
        for job in self.book().held_by(key).filter(|job| !seen.contains(&job.id)) {
            let line = self.line(Some(job), None, Theirs::Absent, store);
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
        if store == Store::RolledBack && rulings.iter().all(|ruling| ruling.verdict != Verdict::Quarantine) {
            // None of its jobs tells the slave that its memory went back in time: a ruling that names no job does.
            rulings.push(Ruling {
                job: JobId([0; 16]),
                attempt: Attempt(0),
                verdict: Verdict::Quarantine,
                tell: Tell::Nothing,
                desired_state: None,
            });
        }
        let welcome = self.welcome_to(&hello, rulings);
        let since = self.moment.now;
        self.begin_handshake(SlaveLink::Welcomed { link, hello, store, judged, since }, doubts);
        self.out.send(link, Message::Welcome(welcome));
    }

    /// What is known of the memory that the slave speaks from.
    fn store_of(&self, hello: &Hello) -> Store {
        let slave = self.record();
        let Some(known) = slave.store else { return self.store_since_restore() };
        // A memory that went forward does not say less than it has said: a copy of it may, under a newer session.
        let says_less = |row: &Row| {
            let job = self.book().jobs.get(&row.job).filter(|job| is_current(job, self.key, row.attempt));
            let known = job.as_deref().and_then(|job| job.report.as_ref());
            known.is_some_and(|known| known.seq > row.seq)
        };
        if known != hello.store {
            Store::Replaced
        } else if hello.session <= slave.session || hello.rows.iter().any(says_less) {
            Store::RolledBack
        } else {
            self.store_since_restore()
        }
    }

    fn store_since_restore(&self) -> Store {
        let epoch = self.moment.node.epoch;
        let has_settled = epoch == Epoch(1) || self.record().settled_in == epoch;
        if has_settled { Store::Trusted } else { Store::Ahead }
    }

    fn welcome_to(&self, hello: &Hello, rulings: Vec<Ruling>) -> Welcome {
        let node = self.moment.node;
        let incarnation = self.begun.last().map_or_else(Incarnation::default, |begun| begun.incarnation);
        Welcome {
            protocol: PROTOCOL.common(hello.protocol).unwrap_or(PROTOCOL.newest),
            session: hello.session,
            binding: MasterBinding { master: node.id, epoch: node.epoch, incarnation, commit: node.commit },
            operating_mode: self.record().operating_mode,
            rulings,
        }
    }

    fn ruling(&self, job: Option<&Job>, row: &Row, line: &Line) -> Ruling {
        let current = job.filter(|job| is_current(job, self.key, row.attempt));
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
        row: Option<&Row>,
        theirs: Theirs,
        store: Store,
    ) -> &'static Line {
        let mine = job.map_or(Mine::Unknown, |job| {
            held_as(job, self.key, row.map_or(job.attempt, |row| row.attempt), store)
        });
        let desired =
            job.map_or(DesiredKind::Go, |job| DesiredKind::of(job.wanted(), &job.start, self.moment.now));
        judge(mine, theirs, store, desired)
    }

    /// The handshake is over: what both held, and what the slave made of the verdicts, becomes what is.
    pub(super) fn settled(&mut self, link: LinkId, settled: Settled) {
        let (key, now, epoch) = (self.key, self.moment.now, self.moment.node.epoch);
        if self.record().hello().is_none_or(|hello| hello.session != settled.session) {
            return self.out.close(link, CloseCode::Protocol, "Settled of another session");
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
        self.edit(|slave| slave.settle(&hello, settled.machine.clone(), epoch, since, now));
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
        for id in self.held_where(|job| job.state != State::Uncertain) {
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
        // What a memory that went back in time says of jobs that are not there is as old as it is.
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
            self.judge_report(report, Some(store));
        }
        for declined in declined {
            self.declined(declined);
        }
        // A slave has one attempt of a job: where it told of a newer one that does not speak for the job, the one that does is not there.
        for id in self.held_where(|job| seen.get(&job.id).is_some_and(|newest| *newest > job.attempt)) {
            let line = self.carried(&mut judged, id, None, store);
            self.apply_absent(id, line, store);
        }
        judged
    }

    /// The verdict that the Welcome told on a job. If the job has changed since, it is judged anew, and the receipt says that.
    fn carried(&self, judged: &mut Vec<Judged>, id: JobId, row: Option<&Row>, store: Store) -> &'static Line {
        let job = self.book().jobs.get(&id);
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
                self.jobs().edit(id, |job| {
                    job.reason = Some(reason);
                    job.report = None;
                });
                self.jobs().apply(id, job::Event::Vanished, "reconciliation");
                self.jobs().weigh(id);
            }
            Verdict::Release if store == Store::Ahead && !is_assigned => {
                let text = "the master was restored, and its slave has let it go since: another may have it or have done it; \
                            if none tells of it, say how it ended with `resolve`";
                self.jobs().edit(id, |job| {
                    job.reason = Some(Reason::new(ReasonCode::Restored, text));
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

    /// A row that the report is known of: only what moves without a report moves.
    fn mirror_row(&mut self, row: &Row, line: &Line) {
        let key = self.key;
        let Some(job) = self.book().jobs.get(&row.job) else { return };
        if !is_current(&job, key, row.attempt) {
            // Another attempt was wanted since the Welcome: what this one came to is on disk beside it.
            let is_kept = job.earlier.iter().any(|earlier| {
                earlier.attempt == row.attempt && earlier.holder == key && earlier.state == row.state
            });
            if is_kept && row.state.is_ended() {
                let forget = Forget { job: row.job, attempt: row.attempt, seq: row.seq };
                self.send(Message::Forget(forget));
            } else if line.verdict == Verdict::Cancel {
                self.withdraw(row.job, row.attempt, row.generation);
            }
            return;
        }
        if job.state == State::Lost && line.verdict == Verdict::Cancel {
            // It was given up since the Welcome.
            return self.withdraw(row.job, row.attempt, row.generation);
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
        State::Accepted | State::Starting if job.is_recall_unanswered() && store != Store::Ahead => {
            Mine::Assigned
        }
        State::Accepted => Mine::Unstarted,
        State::Starting | State::Running | State::Paused | State::Stopping => Mine::Started,
        State::Uncertain => Mine::Uncertain,
        State::Lost => Mine::GivenUp,
        State::Succeeded | State::Failed | State::Canceled | State::Rejected | State::Expired => Mine::Ended,
    }
}

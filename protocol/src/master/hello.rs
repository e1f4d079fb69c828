//! How a Hello is answered: from the Challenge to the Welcome, and what becomes of two connections that name the same slave.
//!
//! A Welcome has one verdict on each job in either view. Nothing changes by that before the slave has settled (`settle`).

use std::collections::{BTreeMap, BTreeSet};

use super::slave_record::{Contender, Enrolled, Judged, SlaveLink};
use super::visit::Visit;
use super::{CloseReason, Job, Offline, Refusal, Rules};
use crate::id::{Attempt, Epoch, Incarnation, JobId, SlaveKey};
use crate::job::State;
use crate::limits;
use crate::message::{
    Challenge, Hello, MasterBinding, Message, PROTOCOL, Refuse, Row, Ruling, Tell, Welcome,
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
            self.out.refuse(ask.request, Refusal::SlaveOffline(Offline::Lost));
        }
    }

    pub(super) fn hello_received(&mut self, link: LinkId, hello: Box<Hello>, token: Option<[u8; 32]>) {
        if self.state.links.get(&link) != Some(&None) {
            return self.out.close(link, CloseReason::SecondHello);
        }
        if PROTOCOL.common(hello.protocol).is_none() {
            return self.turn_away(link, CloseReason::Version(hello.protocol));
        }
        if let Some(binding) = hello.binding
            && binding.master == self.state.node.id
            && binding.epoch > self.state.node.epoch
        {
            self.note_later(hello.key, binding.epoch);
            let why = CloseReason::StaleMaster { seen: binding.epoch, own: self.state.node.epoch };
            return self.turn_away(link, why);
        }
        if let Err(why) = self.admit(&hello, token) {
            return self.turn_away(link, why);
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
            self.supersede(key, older, CloseReason::Superseded);
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
            return self.out.close(waiting, CloseReason::SupersededInLine);
        }
        if slave.contender.is_some() {
            return self.turn_away(link, CloseReason::Contended);
        }
        visit.edit_volatile(|slave| slave.contender = Some(Contender { link, hello }));
        self.state.links.insert(link, Some(key));
        self.out.probe(older);
    }

    /// Another connection takes this one's place.
    fn supersede(&mut self, key: SlaveKey, link: LinkId, why: CloseReason) {
        if let Some(mut visit) = self.visit(key) {
            visit.edit_volatile(|slave| slave.link = SlaveLink::Down);
        }
        self.state.links.insert(link, None);
        self.unanswer(link);
        self.out.close(link, why);
    }

    /// A slave has obeyed a later epoch of this master: the one that a person confirms next comes after it.
    fn note_later(&mut self, key: SlaveKey, epoch: Epoch) {
        let belongs = self.state.slaves.get(&key).is_some_and(|slave| slave.enrolled == Enrolled::Yes);
        if belongs && epoch.0 <= self.state.node.epoch.0.saturating_add(limits::EPOCHS_AHEAD) {
            self.state.later = self.state.later.max(epoch);
        }
    }

    /// Slaves derive the master's time from the handshake: after a change of the clock they make another one.
    pub(super) fn clock_set(&mut self, step_ms: i64) {
        self.move_with_clock(step_ms);
        let links: Vec<LinkId> = self.state.links.keys().copied().collect();
        for link in links {
            self.out.close(link, CloseReason::ClockSet);
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
            visit.edit(|slave| slave.cloned_at = Some(now));
            let why = CloseReason::Copy(visit.record().name.clone());
            self.state.links.insert(newcomer, None);
            return self.turn_away(newcomer, why);
        }
        self.supersede(key, link, CloseReason::Unanswered);
        self.answer_hello(newcomer, hello);
    }

    fn turn_away(&mut self, link: LinkId, why: CloseReason) {
        let refuse = Refuse { code: why.code(), text: why.text(), retry_after_ms: None };
        self.out.send(link, Message::Refuse(refuse));
        self.out.close(link, why);
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
            // None of its jobs tells the slave that its store went back in time: a ruling that names no job does.
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

    /// What is known of the store that the slave speaks from.
    fn store_of(&self, hello: &Hello) -> Store {
        let slave = self.record();
        let Some(known) = slave.store else { return self.store_since_restore() };
        // A store that went forward never says less than before; a copy of it may, under a newer session.
        let says_less = |row: &Row| {
            let job = self.book().jobs.get(&row.job).filter(|job| job.is_current(self.key, row.attempt));
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
        let current = job.filter(|job| job.is_current(self.key, row.attempt));
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
        // What a person said is of one run, and a row names none: the report is heard first (`settled`).
        let is_said_of_a_run = |job: &&Job| matches!(job.wanted(), Desired::Resolve(_));
        let newer = current
            .filter(|job| job.generation > row.generation && !job.state.is_ended())
            .filter(|job| !is_said_of_a_run(job));
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
}

/// What the book says of this attempt at this slave.
fn held_as(job: &Job, key: SlaveKey, attempt: Attempt, store: Store) -> Mine {
    if attempt > job.last_attempt {
        return Mine::Assigned;
    }
    if !job.is_current(key, attempt) {
        return Mine::Other;
    }
    match job.state {
        State::Queued | State::Assigned => Mine::Assigned,
        // Recalled: whether the slave still has it is as open as when it was offered, unless it may have been done since.
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

//! One slave record per slave: its link and its handshake.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Answer, Effect, Ignored, Job, Refusal, Rules};
use crate::id::{Attempt, BootId, Commit, Epoch, Generation, JobId, Session, SlaveKey, StoreId};
use crate::job::State;
use crate::limits;
use crate::message::{
    Activity, Challenge, CloseCode, Hello, MachineReport, MasterBinding, Message, Mode, OperatingMode,
    PROTOCOL, Refuse, Row, Ruling, Tell, Welcome,
};
use crate::reconcile::{DesiredKind, Line, Mine, Store, Theirs, Verdict, judge};
use crate::slave::LinkId;
use crate::time::{Millis, Time};

/// How much work one Welcome offers, in bytes on the wire: it is one message of at most 256 KiB.
const OFFERED_BYTES: usize = 128 * 1024;

/// What the master knows of one slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlaveRecord {
    /// Who.
    pub key: SlaveKey,
    /// Its label.
    pub name: String,
    /// The agent's version.
    pub agent: String,
    /// Whether it belongs here.
    pub enrolled: Enrolled,
    /// The slave's database, when it last settled.
    pub store: Option<StoreId>,
    /// The boot that it last settled in.
    pub boot: Option<BootId>,
    /// Its session then.
    pub session: Session,
    /// The epoch of this master in which it last settled, 0 if in none: after a restore, it closes the gap in the master's memory
    /// once.
    pub settled_in: Epoch,
    /// Programs that it offers.
    pub programs: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How many unended jobs it keeps.
    pub capacity: u16,
    /// What people decided about it.
    pub operating_mode: OperatingMode,
    /// The machine's condition, by its last word.
    pub machine: Option<MachineReport>,
    /// When it was last heard of, as far as that was written down.
    pub last_contact: Option<Time>,
    /// Its clock minus the master's, at the last handshake.
    pub clock_offset_ms: i64,
    /// When another box with the same key tried to connect while this one answered.
    pub cloned_at: Option<Time>,
    /// Receipts written so far.
    pub receipts: u32,
    /// Its link.
    #[serde(skip)]
    pub link: SlaveLink,
    /// It declined, and has not said since that anything changed.
    #[serde(skip)]
    pub declining: bool,
    /// It has seen a later state of this master: it obeys nothing.
    #[serde(skip)]
    pub doubts: bool,
}

/// Whether a slave belongs here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Enrolled {
    /// A person has to approve its key.
    Pending,
    /// Yes.
    Yes,
    /// Not any more.
    Revoked,
}

/// A slave record's link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SlaveLink {
    /// None.
    #[default]
    Down,
    /// Another box says that it is this slave: the older link is being asked whether it is there.
    Asking {
        /// The older link, live or not yet.
        older: Box<SlaveLink>,
        /// The newcomer...
        newcomer: LinkId,
        /// ...and its Hello.
        hello: Box<Hello>,
    },
    /// The Welcome is out.
    Welcomed {
        /// Which.
        link: LinkId,
        /// What it answers.
        hello: Box<Hello>,
        /// What is known of the slave's memory.
        store: HelloStore,
        /// What was found.
        lines: Vec<ReceiptLine>,
        /// When the Hello came.
        since: Time,
    },
    /// Live.
    Live {
        /// Which.
        link: LinkId,
    },
}

/// [`Store`], as a slave record keeps it until the handshake is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HelloStore {
    /// See [`Store::Trusted`].
    Trusted,
    /// See [`Store::Replaced`].
    Replaced,
    /// See [`Store::RolledBack`].
    RolledBack,
    /// See [`Store::Ahead`].
    Ahead,
}

impl HelloStore {
    pub(super) fn store(self) -> Store {
        match self {
            Self::Trusted => Store::Trusted,
            Self::Replaced => Store::Replaced,
            Self::RolledBack => Store::RolledBack,
            Self::Ahead => Store::Ahead,
        }
    }

    /// The word in a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
            Self::Ahead => "ahead",
        }
    }
}

/// What one handshake came to: "why did it do that?" is always answerable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// Which slave.
    pub slave: SlaveKey,
    /// Its number there; the recent outcomes keeps the newest [`RECEIPTS`](super::RECEIPTS).
    pub number: u32,
    /// When it was settled.
    pub at: Time,
    /// From Hello to Settled.
    pub took: Millis,
    /// The slave's session.
    pub session: Session,
    /// What was known of its memory.
    pub store: HelloStore,
    /// The box was rebooted since.
    pub rebooted: bool,
    /// One per job in either view.
    pub lines: Vec<ReceiptLine>,
}

/// One job in a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// What the master held.
    pub mine: Option<State>,
    /// What the slave held.
    pub theirs: Option<State>,
    /// The line of the table.
    pub line: String,
    /// What came of it.
    pub verdict: Verdict,
}

impl SlaveRecord {
    pub(super) fn new(key: SlaveKey, hello: &Hello, enrolled: Enrolled) -> Self {
        Self {
            key,
            name: hello.name.clone(),
            agent: hello.agent.clone(),
            enrolled,
            store: None,
            boot: None,
            session: Session(0),
            settled_in: Epoch(0),
            programs: vec![],
            labels: BTreeMap::new(),
            capacity: 0,
            operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
            machine: None,
            last_contact: None,
            clock_offset_ms: 0,
            cloned_at: None,
            receipts: 0,
            link: SlaveLink::Down,
            declining: false,
            doubts: false,
        }
    }

    /// The slave record without its link.
    pub(super) fn durable(&self) -> Self {
        Self { link: SlaveLink::Down, declining: false, doubts: false, ..self.clone() }
    }

    /// The live link.
    pub fn live(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Live { link } => Some(*link),
            SlaveLink::Asking { older, .. } => match **older {
                SlaveLink::Live { link } => Some(link),
                SlaveLink::Down | SlaveLink::Asking { .. } | SlaveLink::Welcomed { .. } => None,
            },
            SlaveLink::Down | SlaveLink::Welcomed { .. } => None,
        }
    }

    /// The Hello of a handshake under way.
    pub(super) fn hello(&self) -> Option<&Hello> {
        match &self.link {
            SlaveLink::Welcomed { hello, .. } => Some(hello),
            SlaveLink::Asking { older, .. } => match &**older {
                SlaveLink::Welcomed { hello, .. } => Some(hello),
                SlaveLink::Down | SlaveLink::Asking { .. } | SlaveLink::Live { .. } => None,
            },
            SlaveLink::Down | SlaveLink::Live { .. } => None,
        }
    }

    /// The connection that is the slave's at present, handshake over or not.
    pub(super) fn current(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Down => None,
            SlaveLink::Live { link } | SlaveLink::Welcomed { link, .. } => Some(*link),
            SlaveLink::Asking { older, .. } => match &**older {
                SlaveLink::Live { link } | SlaveLink::Welcomed { link, .. } => Some(*link),
                SlaveLink::Down | SlaveLink::Asking { .. } => None,
            },
        }
    }
}

impl SlaveRecord {
    /// Every connection that says it is this slave's: the current one, and one that waits for its end.
    pub(super) fn connections(&self) -> Vec<LinkId> {
        let newcomer = match &self.link {
            SlaveLink::Asking { newcomer, .. } => Some(*newcomer),
            SlaveLink::Down | SlaveLink::Welcomed { .. } | SlaveLink::Live { .. } => None,
        };
        self.current().into_iter().chain(newcomer).collect()
    }
}

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
        if let SlaveLink::Asking { older, newcomer, .. } = &slave.link
            && *newcomer == link
        {
            slave.link = (**older).clone();
            return;
        }
        if slave.current() != Some(link) {
            // The link had ended for the rules already: its slave was revoked, or the master was restored and confirmed.
            slave.last_contact = slave.last_contact.max(Some(last_heard));
            return self.touch_slave(key);
        }
        slave.last_contact = Some(last_heard);
        let waiting = match std::mem::take(&mut slave.link) {
            SlaveLink::Asking { newcomer, hello, .. } => Some((newcomer, hello)),
            SlaveLink::Down | SlaveLink::Welcomed { .. } | SlaveLink::Live { .. } => None,
        };
        self.touch_slave(key);
        if let Some((newcomer, hello)) = waiting {
            self.welcome(newcomer, hello);
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
        if let SlaveLink::Asking { .. } = slave.link {
            self.state.links.insert(link, None);
            let text = "two boxes say that they are this slave; one of them is being asked".to_owned();
            return self.turn_away(link, CloseCode::TryLater, text);
        }
        let link_now = std::mem::take(&mut slave.link);
        slave.link = SlaveLink::Asking { older: Box::new(link_now), newcomer: link, hello };
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
    pub(super) fn clock_set(&mut self) {
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
        let SlaveLink::Asking { older, newcomer, hello } = std::mem::take(&mut slave.link) else { return };
        if alive {
            slave.link = *older;
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

    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        // The end of the step fills the commit in.
        self.effects.push(Effect::Send { link, commit: Commit(0), message });
    }

    pub(super) fn close(&mut self, link: LinkId, code: CloseCode, text: String) {
        self.effects.push(Effect::Close { link, code, text });
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
        let store = if slave.store.is_some_and(|known| known != hello.store) {
            HelloStore::Replaced
        } else if slave.store.is_some()
            && (hello.session <= slave.session || hello.rows.iter().any(says_less))
        {
            HelloStore::RolledBack
        } else if doubts || node.epoch > Epoch(1) && slave.settled_in != node.epoch {
            HelloStore::Ahead
        } else {
            HelloStore::Trusted
        };
        let operating_mode = slave.operating_mode;
        let mut rulings = Vec::new();
        let mut lines = Vec::new();
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
            let line = self.line(job, key, Some(row), theirs, store.store());
            lines.push(receipt_line(row.job, row.attempt, job, Some(row.state), line));
            rulings.push(self.ruling(job, key, row, line));
        }
        for job in self.state.book.held_by(key).filter(|job| !seen.contains(&job.id)) {
            let line = self.line(Some(job), key, None, Theirs::Absent, store.store());
            lines.push(receipt_line(job.id, job.attempt, Some(job), None, line));
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
            slave.link = SlaveLink::Welcomed { link, hello, store, lines, since: now };
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

    pub(super) fn received(&mut self, link: LinkId, message: Message) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else {
            return self.effects.push(Effect::Ignored(Ignored::UnknownConnection));
        };
        let Some(slave) = self.state.slaves.get(&key) else { return };
        if slave.enrolled != Enrolled::Yes {
            return self.effects.push(Effect::Ignored(Ignored::Revoked));
        }
        if slave.current() != Some(link) {
            return self.effects.push(Effect::Ignored(Ignored::UnknownConnection));
        }
        let settling = matches!(slave.link, SlaveLink::Welcomed { link: l, .. } if l == link)
            || matches!(&slave.link, SlaveLink::Asking { older, .. }
                if matches!(**older, SlaveLink::Welcomed { link: l, .. } if l == link));
        let live = slave.live() == Some(link);
        match message {
            Message::Settled(settled) if settling => self.settled(key, link, settled),
            Message::Report(report) if live => self.heard(key, report),
            Message::Declined(declined) if live => self.declined(key, declined),
            Message::Machine(machine) if live => self.machine(key, machine),
            Message::Answer(answer) if live => {
                let asked = self.state.asked.get(&answer.id).filter(|asked| asked.link == link).copied();
                if let Some(asked) = asked {
                    self.state.asked.remove(&answer.id);
                    self.answer(asked.request, Answer::Replied(answer.answer));
                }
            }
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
                self.close(link, CloseCode::Protocol, "a message that a slave does not send here".to_owned());
            }
        }
    }

    fn machine(&mut self, key: SlaveKey, machine: MachineReport) {
        if let Some(slave) = self.state.slaves.get_mut(&key) {
            slave.declining = false;
            if slave.machine.as_ref() != Some(&machine) {
                slave.machine = Some(machine);
                self.touch_slave(key);
            }
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

fn receipt_line(
    job: JobId,
    attempt: Attempt,
    mine: Option<&Job>,
    theirs: Option<State>,
    line: &Line,
) -> ReceiptLine {
    ReceiptLine {
        job,
        attempt,
        mine: mine.map(|job| job.state),
        theirs,
        line: line.name.to_owned(),
        verdict: line.verdict,
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

/// The machine could take a job now.
pub(super) fn is_ready(slave: &SlaveRecord) -> bool {
    slave.machine.as_ref().is_some_and(|machine| machine.activity == Activity::Ready)
}

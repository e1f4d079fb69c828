//! One desk per slave: its link, its evidence, its reconciliation.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Answer, Delivery, Earlier, Effect, Enrollment, Job, MAX_PENDING, RECEIPTS, Refusal, Rules, Write,
};
use crate::id::{Attempt, BootId, Commit, JobId, Session, SlaveKey, StoreId, WishRev};
use crate::job::{self, State};
use crate::message::{
    Activity, Bond, Challenge, CloseCode, Conduct, Declined, Flags, Forget, Hello, MachineReport, Message,
    Mode, PROTOCOL, Reason, ReasonCode, Record, Refuse, Report, Row, Ruling, Settled, Tell, Welcome,
};
use crate::reconcile::{Line, Mine, Store, Theirs, Verdict, Wish, judge};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Desired};
use crate::time::{Millis, Time};

/// How much work one Welcome offers, in bytes on the wire: it is one message of at most 256 KiB.
const OFFERED_BYTES: usize = 128 * 1024;

/// How many earlier hand-outs of a job are kept: enough to see a pattern, and a bound on its record.
const EARLIER: usize = 32;

const NOT_OURS: &str = "the connection is not one that speaks";
const OLD_REPORT: &str = "a newer report is known";
const OLD_DECLINE: &str = "it answers an older wish";
const NO_RECORD: &str = "the slave did not tell the record that it was asked for";

/// What the master knows of one slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Desk {
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
    /// Programs that it offers.
    pub programs: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How many unended jobs it keeps.
    pub capacity: u16,
    /// What people decided about it.
    pub conduct: Conduct,
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
    pub link: DeskLink,
    /// It declined, and has not said since that anything changed.
    #[serde(skip)]
    pub balked: bool,
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

/// A desk's link.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum DeskLink {
    /// None.
    #[default]
    Down,
    /// Another box says that it is this slave: the older link is being asked whether it is there.
    Asking {
        /// The older link, live or not yet.
        older: Box<DeskLink>,
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

/// [`Store`], as a desk keeps it until the handshake is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum HelloStore {
    /// See [`Store::Trusted`].
    Trusted,
    /// See [`Store::Replaced`].
    Replaced,
    /// See [`Store::RolledBack`].
    RolledBack,
}

impl HelloStore {
    fn store(self) -> Store {
        match self {
            Self::Trusted => Store::Trusted,
            Self::Replaced => Store::Replaced,
            Self::RolledBack => Store::RolledBack,
        }
    }

    /// The word in a receipt.
    pub fn name(self) -> &'static str {
        match self {
            Self::Trusted => "trusted",
            Self::Replaced => "replaced",
            Self::RolledBack => "rolled_back",
        }
    }
}

/// What one handshake came to: "why did it do that?" is always answerable.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    /// Which slave.
    pub slave: SlaveKey,
    /// Its number there; the ring keeps the newest [`RECEIPTS`].
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
    /// Which hand-out.
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

impl Desk {
    fn new(key: SlaveKey, hello: &Hello, enrolled: Enrolled) -> Self {
        Self {
            key,
            name: hello.name.clone(),
            agent: hello.agent.clone(),
            enrolled,
            store: None,
            boot: None,
            session: Session(0),
            programs: vec![],
            labels: BTreeMap::new(),
            capacity: 0,
            conduct: Conduct { rev: WishRev(1), mode: Mode::Production },
            machine: None,
            last_contact: None,
            clock_offset_ms: 0,
            cloned_at: None,
            receipts: 0,
            link: DeskLink::Down,
            balked: false,
            doubts: false,
        }
    }

    /// The desk without its link.
    pub(super) fn durable(&self) -> Self {
        Self { link: DeskLink::Down, balked: false, doubts: false, ..self.clone() }
    }

    /// The live link.
    pub fn live(&self) -> Option<LinkId> {
        match &self.link {
            DeskLink::Live { link } => Some(*link),
            DeskLink::Asking { older, .. } => match **older {
                DeskLink::Live { link } => Some(link),
                DeskLink::Down | DeskLink::Asking { .. } | DeskLink::Welcomed { .. } => None,
            },
            DeskLink::Down | DeskLink::Welcomed { .. } => None,
        }
    }

    /// The Hello of a handshake under way.
    pub(super) fn hello(&self) -> Option<&Hello> {
        match &self.link {
            DeskLink::Welcomed { hello, .. } => Some(hello),
            DeskLink::Asking { older, .. } => match &**older {
                DeskLink::Welcomed { hello, .. } => Some(hello),
                DeskLink::Down | DeskLink::Asking { .. } | DeskLink::Live { .. } => None,
            },
            DeskLink::Down | DeskLink::Live { .. } => None,
        }
    }

    /// The connection that is the slave's at present, handshake over or not.
    fn current(&self) -> Option<LinkId> {
        match &self.link {
            DeskLink::Down => None,
            DeskLink::Live { link } | DeskLink::Welcomed { link, .. } => Some(*link),
            DeskLink::Asking { older, .. } => match &**older {
                DeskLink::Live { link } | DeskLink::Welcomed { link, .. } => Some(*link),
                DeskLink::Down | DeskLink::Asking { .. } => None,
            },
        }
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
            nonce,
            time: self.now,
        };
        self.send(link, Message::Challenge(challenge));
    }

    pub(super) fn link_closed(&mut self, link: LinkId, last_heard: Time) {
        let Some(key) = self.state.links.remove(&link).flatten() else { return };
        self.unanswer(link);
        let Some(desk) = self.state.desks.get_mut(&key) else { return };
        if let DeskLink::Asking { older, newcomer, .. } = &desk.link
            && *newcomer == link
        {
            desk.link = (**older).clone();
            return;
        }
        if desk.current() != Some(link) {
            return;
        }
        desk.last_contact = Some(last_heard);
        let waiting = match std::mem::take(&mut desk.link) {
            DeskLink::Asking { newcomer, hello, .. } => Some((newcomer, hello)),
            DeskLink::Down | DeskLink::Welcomed { .. } | DeskLink::Live { .. } => None,
        };
        self.touch_desk(key);
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
        if let Some(bond) = hello.bond
            && bond.master == self.state.node.id
            && bond.epoch > self.state.node.epoch
        {
            let text = format!(
                "this slave has seen epoch {} of this master, which is now at {}: another copy of it was restored; \
                 stop this one, or confirm it with `reloop restore confirm`",
                bond.epoch, self.state.node.epoch
            );
            return self.turn_away(link, CloseCode::StaleMaster, text);
        }
        if let Err((code, text)) = self.admit(&hello, token) {
            return self.turn_away(link, code, text);
        }
        let key = hello.key;
        self.state.links.insert(link, Some(key));
        let Some(desk) = self.state.desks.get_mut(&key) else { return };
        let foreign = hello.bond.is_some_and(|bond| bond.master != self.state.node.id);
        if foreign {
            // It told nothing of its jobs yet: it binds itself, and introduces itself again.
            let welcome = Welcome {
                protocol: PROTOCOL.common(hello.protocol).unwrap_or(PROTOCOL.newest),
                session: hello.session,
                bond: bond_of(self.state.node),
                conduct: desk.conduct,
                rulings: vec![],
            };
            self.state.links.insert(link, None);
            return self.send(link, Message::Welcome(welcome));
        }
        let Some(older) = desk.current() else { return self.welcome(link, hello) };
        let same_box = desk.hello().map_or_else(
            || desk.store == Some(hello.store) && desk.boot == Some(hello.boot),
            |known| known.store == hello.store && known.boot == hello.boot,
        );
        if same_box {
            // Half-open: the slave knows better which of its links is its own.
            desk.link = DeskLink::Down;
            self.state.links.insert(older, None);
            self.unanswer(older);
            self.close(
                older,
                CloseCode::Superseded,
                "a newer connection of the same slave took over".to_owned(),
            );
            return self.welcome(link, hello);
        }
        if let DeskLink::Asking { .. } = desk.link {
            self.state.links.insert(link, None);
            let text = "two boxes say that they are this slave; one of them is being asked".to_owned();
            return self.turn_away(link, CloseCode::TryLater, text);
        }
        let link_now = std::mem::take(&mut desk.link);
        desk.link = DeskLink::Asking { older: Box::new(link_now), newcomer: link, hello };
        self.effects.push(Effect::Probe { link: older });
    }

    /// The older of two links was asked whether it is there.
    pub(super) fn link_probed(&mut self, link: LinkId, alive: bool) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else { return };
        let Some(desk) = self.state.desks.get_mut(&key) else { return };
        if desk.current() != Some(link) {
            return;
        }
        let DeskLink::Asking { older, newcomer, hello } = std::mem::take(&mut desk.link) else { return };
        if alive {
            desk.link = *older;
            desk.cloned_at = Some(self.now);
            let text = format!(
                "another box with the key of {} is connected and answers: this one is a copy; give it a key of its own \
                 by removing identity.key from its state directory",
                desk.name
            );
            self.touch_desk(key);
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

    /// Whether the slave belongs here; enrols it where that is due.
    fn admit(&mut self, hello: &Hello, token: Option<[u8; 32]>) -> Result<(), (CloseCode, String)> {
        let key = hello.key;
        let name = &hello.name;
        if let Some(desk) = self.state.desks.get_mut(&key)
            && desk.enrolled == Enrolled::Yes
        {
            return Ok(());
        }
        let namesake = self.state.desks.values().find(|desk| desk.name == *name && desk.key != key);
        if let Some(other) = namesake.filter(|desk| desk.enrolled != Enrolled::Revoked) {
            let text = format!(
                "the name {name} belongs to the key {}: rename this slave, or `reloop slave forget {name}` if that \
                 one is gone",
                other.key.fingerprint()
            );
            return Err((CloseCode::NameTaken, text));
        }
        let revoked = self.state.desks.get(&key).is_some_and(|desk| desk.enrolled == Enrolled::Revoked);
        let by_token = self.spend(token, name);
        let by_whom = match (self.state.settings.enrollment, by_token) {
            (_, Ok(())) => Ok(()),
            (Enrollment::Open, Err(_)) if !revoked => Ok(()),
            (Enrollment::Open, Err(_)) => {
                Err("this slave was revoked: only a token enrols it again".to_owned())
            }
            (Enrollment::Token, Err(why)) => Err(why),
            (Enrollment::Approve, Err(_)) => Err(format!("`reloop slave approve {name}` enrols it")),
        };
        match by_whom {
            Ok(()) => {
                let desk =
                    self.state.desks.entry(key).or_insert_with(|| Desk::new(key, hello, Enrolled::Yes));
                desk.enrolled = Enrolled::Yes;
                desk.name.clone_from(name);
                self.touch_desk(key);
                Ok(())
            }
            Err(why) => {
                self.remember_caller(hello);
                let other = match hello.bond {
                    Some(bond) if bond.master != self.state.node.id => {
                        format!(" (it belongs to {}, this is {})", bond.master, self.state.node.id)
                    }
                    _ => String::new(),
                };
                let code = match (revoked, other.is_empty()) {
                    (true, _) => CloseCode::Revoked,
                    (false, true) => CloseCode::NotEnrolled,
                    (false, false) => CloseCode::WrongMaster,
                };
                Err((code, format!("{name}, key {}, is not enrolled here{other}: {why}", key.fingerprint())))
            }
        }
    }

    fn spend(&mut self, token: Option<[u8; 32]>, name: &str) -> Result<(), String> {
        let make_one = "make one with `reloop slave enroll-token`, and let `reloop-slave enroll` have it";
        let Some(hash) = token else { return Err(format!("it needs an enrolment token: {make_one}")) };
        let now = self.now;
        let Some(token) = self.state.tokens.get_mut(&hash) else {
            return Err(format!("its enrolment token is not known, or spent: {make_one}"));
        };
        if token.expires_at < now {
            return Err(format!("its enrolment token has expired: {make_one}"));
        }
        if token.name.as_ref().is_some_and(|only| only != name) {
            return Err(format!("its enrolment token is for another name: {make_one}"));
        }
        token.uses_left = token.uses_left.saturating_sub(1);
        let left = (token.uses_left > 0).then(|| token.clone());
        if left.is_none() {
            self.state.tokens.remove(&hash);
        }
        self.persist.push(Write::Token(hash, left));
        Ok(())
    }

    /// A person can approve only what is listed.
    fn remember_caller(&mut self, hello: &Hello) {
        let pending = self.state.desks.values().filter(|desk| desk.enrolled == Enrolled::Pending).count();
        if self.state.settings.enrollment == Enrollment::Approve
            && pending < MAX_PENDING
            && !self.state.desks.contains_key(&hello.key)
        {
            self.state.desks.insert(hello.key, Desk::new(hello.key, hello, Enrolled::Pending));
            self.touch_desk(hello.key);
        }
    }

    fn turn_away(&mut self, link: LinkId, code: CloseCode, text: String) {
        let refuse = Refuse { code, text: text.clone(), retry_after_ms: None };
        self.send(link, Message::Refuse(refuse));
        self.close(link, code, text);
    }

    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        self.effects.push(Effect::Send { link, message });
    }

    fn close(&mut self, link: LinkId, code: CloseCode, text: String) {
        self.effects.push(Effect::Close { link, code, text });
    }

    /// Answers a Hello: one ruling per job in either view. Nothing changes until the slave has settled.
    fn welcome(&mut self, link: LinkId, hello: Box<Hello>) {
        let key = hello.key;
        let Some(desk) = self.state.desks.get(&key) else { return };
        let node = self.state.node;
        let store = if desk.store.is_some_and(|known| known != hello.store) {
            HelloStore::Replaced
        } else if desk.store.is_some() && hello.session <= desk.session {
            HelloStore::RolledBack
        } else {
            HelloStore::Trusted
        };
        let doubts = hello.bond.is_some_and(|bond| bond.epoch == node.epoch && bond.commit > node.commit);
        let conduct = desk.conduct;
        let mut rulings = Vec::new();
        let mut lines = Vec::new();
        let mut seen = BTreeSet::new();
        let mut room = OFFERED_BYTES;
        for (row, remembered) in
            hello.rows.iter().map(|row| (row, false)).chain(hello.ring.iter().map(|row| (row, true)))
        {
            if !seen.insert(row.job) {
                continue;
            }
            let job = self.state.book.jobs.get(&row.job);
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
            let want = fits.then(|| job.want(true));
            rulings.push(Ruling {
                job: job.id,
                attempt: job.attempt,
                verdict: line.verdict,
                tell: Tell::Nothing,
                want,
            });
        }
        let welcome = Welcome {
            protocol: PROTOCOL.common(hello.protocol).unwrap_or(PROTOCOL.newest),
            session: hello.session,
            bond: bond_of(node),
            conduct,
            rulings,
        };
        let now = self.now;
        if let Some(desk) = self.state.desks.get_mut(&key) {
            desk.doubts = doubts;
            desk.link = DeskLink::Welcomed { link, hello, store, lines, since: now };
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
            Verdict::Adopt => Tell::Record,
            Verdict::Forget
                if current.is_some_and(|job| job.state.is_ended() && job.state != State::Lost) =>
            {
                Tell::Nothing
            }
            // What a person gave up is heard again, whatever was known of it.
            _ if known.is_some_and(|seq| seq >= row.seq)
                && current.is_some_and(|job| job.state == row.state) =>
            {
                Tell::Nothing
            }
            _ => Tell::Report,
        };
        let newer = current.filter(|job| job.rev > row.rev && !job.state.is_ended());
        let want = match line.verdict {
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
            want: want.map(|job| job.want(false)),
        }
    }

    /// The line of the table for what both hold.
    fn line(
        &self,
        job: Option<&Job>,
        key: SlaveKey,
        row: Option<&Row>,
        theirs: Theirs,
        store: Store,
    ) -> &'static Line {
        let mine =
            job.map_or(Mine::Unknown, |job| held_as(job, key, row.map_or(job.attempt, |row| row.attempt)));
        let wish = job.map_or(Wish::Go, |job| Wish::of(job.desired, &job.start, self.now));
        judge(mine, theirs, store, wish)
    }

    pub(super) fn received(&mut self, link: LinkId, message: Message) {
        let Some(key) = self.state.links.get(&link).copied().flatten() else {
            return self.effects.push(Effect::Ignored(NOT_OURS));
        };
        let Some(desk) = self.state.desks.get(&key) else { return };
        let settling = matches!(desk.link, DeskLink::Welcomed { link: l, .. } if l == link)
            || matches!(&desk.link, DeskLink::Asking { older, .. }
                if matches!(**older, DeskLink::Welcomed { link: l, .. } if l == link));
        let live = desk.live() == Some(link);
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
            | Message::Want(_)
            | Message::Forget(_)
            | Message::Conduct(_)
            | Message::Ask(_)
            | Message::Answer(_) => {
                self.close(link, CloseCode::Protocol, "a message that a slave does not send here".to_owned());
            }
        }
    }

    fn machine(&mut self, key: SlaveKey, machine: MachineReport) {
        if let Some(desk) = self.state.desks.get_mut(&key) {
            desk.balked = false;
            if desk.machine.as_ref() != Some(&machine) {
                desk.machine = Some(machine);
                self.touch_desk(key);
            }
        }
    }

    /// The handshake is over: what both held, and what the slave made of the verdicts, becomes what is.
    fn settled(&mut self, key: SlaveKey, link: LinkId, settled: Settled) {
        let now = self.now;
        let Some(desk) = self.state.desks.get_mut(&key) else { return };
        let DeskLink::Welcomed { hello, store, lines, since, .. } = std::mem::take(&mut desk.link) else {
            return;
        };
        if settled.session != hello.session {
            return self.close(link, CloseCode::Protocol, "Settled of another session".to_owned());
        }
        let rebooted = desk.boot.is_some_and(|boot| boot != hello.boot);
        desk.store = Some(hello.store);
        desk.boot = Some(hello.boot);
        desk.session = hello.session;
        desk.agent.clone_from(&hello.agent);
        desk.programs.clone_from(&hello.programs);
        desk.labels.clone_from(&hello.labels);
        desk.capacity = hello.capacity;
        desk.clock_offset_ms = hello.clock.0 - since.0;
        desk.machine = Some(settled.machine);
        desk.last_contact = Some(now);
        desk.balked = false;
        desk.link = DeskLink::Live { link };
        desk.receipts = desk.receipts.wrapping_add(1);
        let receipt = Receipt {
            slave: key,
            number: desk.receipts % RECEIPTS,
            at: now,
            took: now.since(since),
            session: hello.session,
            store,
            rebooted,
            lines,
        };
        self.persist.push(Write::Receipt(Box::new(receipt)));
        // A master that was restored has forgotten how often people decided: its word has to be newer than any of those.
        if let Some(obeyed) = desk.machine.as_ref().map(|machine| machine.conduct)
            && (obeyed.rev > desk.conduct.rev
                || obeyed.rev == desk.conduct.rev && obeyed.mode != desk.conduct.mode)
        {
            desk.conduct.rev = if obeyed.mode == desk.conduct.mode { obeyed.rev } else { obeyed.rev.next() };
        }
        self.touch_desk(key);
        self.settle_jobs(key, &hello, store.store(), settled.reports, settled.records, settled.declined);
        self.tell_newer_wishes(key);
    }

    fn settle_jobs(
        &mut self,
        key: SlaveKey,
        hello: &Hello,
        store: Store,
        reports: Vec<Report>,
        records: Vec<Record>,
        declined: Vec<Declined>,
    ) {
        let mut seen: BTreeSet<JobId> = hello.rows.iter().chain(&hello.ring).map(|row| row.job).collect();
        let reported: BTreeSet<JobId> = reports.iter().map(|report| report.job).collect();
        let (adopted, renewed): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| !self.state.book.jobs.contains_key(&record.report.job));
        seen.extend(declined.iter().map(|declined| declined.job));
        seen.extend(&reported);
        for record in adopted {
            seen.insert(record.report.job);
            self.adopt(key, record);
        }
        // An offer that was taken is in the reports; what is in neither view is judged as absent.
        let absent: Vec<JobId> =
            self.state.book.held_by(key).map(|job| job.id).filter(|id| !seen.contains(id)).collect();
        for id in absent {
            self.judge_absent(key, id, store);
        }
        for row in hello.rows.iter().filter(|row| !reported.contains(&row.job)) {
            self.mirror_row(key, row, store);
        }
        for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)) {
            self.judge_report(key, report, store);
        }
        for declined in declined {
            self.declined(key, declined);
        }
    }

    /// The slave has neither the job nor its outcome.
    fn judge_absent(&mut self, key: SlaveKey, id: JobId, store: Store) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let line = self.line(Some(job), key, None, Theirs::Absent, store);
        let desired = job.desired;
        match line.verdict {
            Verdict::AskPerson => {
                let reason = match store {
                    Store::Trusted => Reason::new(
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
                self.turn(id, job::Event::Vanished, "reconciliation");
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

    /// A row that the report is known of: only what moves without a report moves.
    fn mirror_row(&mut self, key: SlaveKey, row: &Row, store: Store) {
        let Some(job) = self.state.book.jobs.get(&row.job) else { return };
        let line = self.line(Some(job), key, Some(row), Theirs::of(row.state), store);
        if !is_current(job, key, row.attempt) {
            return;
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
                report.seq = report.seq.max(row.seq);
            }
            self.stirred.insert(row.job);
        }
    }

    /// A report on a live link.
    fn heard(&mut self, key: SlaveKey, report: Report) {
        if report.state.is_ended()
            && let Some(desk) = self.state.desks.get_mut(&key)
        {
            desk.balked = false;
        }
        self.judge_report(key, report, Store::Trusted);
        self.look_for_work.insert(key);
    }

    fn judge_report(&mut self, key: SlaveKey, report: Report, store: Store) {
        let Some(job) = self.state.book.jobs.get(&report.job) else {
            return self.effects.push(Effect::Ignored(NO_RECORD));
        };
        let row = Row {
            job: report.job,
            attempt: report.attempt,
            rev: report.rev,
            seq: report.seq,
            state: report.state,
            progress: report.progress,
        };
        let theirs = Theirs::of(report.state);
        let line = self.line(Some(job), key, Some(&row), theirs, store);
        let id = report.job;
        if report.attempt > job.last_attempt {
            // A master that was restored has handed it out again without remembering.
            self.edit(id, |job| {
                job.last_attempt = report.attempt;
                job.attempt = report.attempt;
                job.holder = Some(key);
                job.rev = job.rev.max(report.rev);
            });
            return self.take(key, report);
        }
        if is_current(job, key, report.attempt) {
            if job.report.as_ref().is_some_and(|known| known.seq > report.seq) {
                return self.effects.push(Effect::Ignored(OLD_REPORT));
            }
            if line.verdict == Verdict::Quarantine && !report.state.is_ended() && job.state.is_ended() {
                return self.flag(id, Flags::DUPLICATE, "the slave says that an ended attempt is alive");
            }
            return self.take(key, report);
        }
        self.take_older(key, report, line);
    }

    /// The slave's word about the attempt that speaks for the job.
    fn take(&mut self, key: SlaveKey, report: Report) {
        let id = report.job;
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let mut after = job.clone();
        after.report = Some(report.clone());
        after.rev = after.rev.max(report.rev);
        if report.state.is_started() && job.desired == Desired::Return {
            after.wish(Desired::Run);
        }
        let was_lost = job.state == State::Lost;
        let durable_change = after.durable() != job.durable() || job.state != report.state;
        let now = self.now;
        if durable_change {
            self.edit(id, |job| {
                job.rev = after.rev;
                job.desired = after.desired;
                job.report = Some(report.clone());
                job.heard_at = Some(now);
                job.reason = None;
                if was_lost {
                    job.flags.set(Flags::LATE_RESULT);
                }
                if matches!(job.desired, Desired::Cancel(_)) && report.state == State::Succeeded {
                    job.flags.set(Flags::CANCEL_TOO_LATE);
                }
            });
            let by = self.state.desks.get(&key).map_or_else(String::new, |desk| desk.name.clone());
            self.turn(id, job::Event::Reported(report.state), &by);
        } else if let Some(job) = self.state.book.jobs.get_mut(&id) {
            job.report = Some(report.clone());
            job.heard_at = Some(now);
            self.stirred.insert(id);
        }
        if report.state.is_ended() {
            let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send_to(key, Message::Forget(forget));
            self.try_again(id);
        } else {
            self.tell_if_newer(key, id);
        }
    }

    /// The order's own policy may want another attempt.
    fn try_again(&mut self, id: JobId) {
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
            self.turn(id, job::Event::Retried, "the order's retry");
        }
    }

    /// The slave's word about an attempt that was given up or handed to another slave.
    fn take_older(&mut self, key: SlaveKey, report: Report, line: &Line) {
        let id = report.job;
        let (attempt, said, seq, rev) = (report.attempt, report.state, report.seq, report.rev.next());
        self.edit(id, |job| {
            let known =
                job.earlier.iter_mut().find(|earlier| earlier.attempt == attempt && earlier.holder == key);
            match known {
                Some(earlier) => {
                    earlier.state = said;
                    earlier.report = Some(report);
                }
                None => job.earlier.push(Earlier { attempt, holder: key, state: said, report: Some(report) }),
            }
        });
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let (newer, newer_holder) = (job.state, job.holder);
        if line.verdict == Verdict::Cancel {
            // It is told in the Welcome; on a live link it is told here.
            let want = crate::spec::Want {
                attempt,
                rev,
                desired: Desired::Cancel(CancelMode::IfNotStarted),
                ..job.want(false)
            };
            return self.send_to(key, Message::Want(want));
        }
        if said.is_ended() {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
        let counts = said.is_started() || said == State::Succeeded;
        if !counts {
            return;
        }
        if newer == State::Queued || newer.is_ended() && newer != State::Succeeded && said == State::Succeeded
        {
            return self.promote(id, attempt, key);
        }
        if newer.is_started() {
            let text = if said.is_ended() {
                format!("attempt {attempt} succeeded elsewhere: cancel this one if it is not needed")
            } else {
                format!("attempt {attempt} runs elsewhere too: both finish unless somebody cancels one")
            };
            return self.flag(id, Flags::DUPLICATE, &text);
        }
        if let (State::Assigned | State::Accepted, Some(holder)) = (newer, newer_holder) {
            self.edit(id, |job| job.wish(Desired::Return));
            self.tell_if_newer(holder, id);
        }
    }

    fn flag(&mut self, id: JobId, flag: Flags, text: &str) {
        self.edit(id, |job| {
            job.flags.set(flag);
            job.reason = Some(Reason::new(ReasonCode::OlderAttempt, text));
        });
    }

    /// An earlier attempt speaks for the job again: nobody else has started it.
    fn promote(&mut self, id: JobId, attempt: Attempt, key: SlaveKey) {
        let now = self.now;
        let by = self.state.desks.get(&key).map_or_else(String::new, |desk| desk.name.clone());
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
            job.attempt = attempt;
            job.holder = Some(key);
            job.report = earlier.report;
            job.flags.set(Flags::LATE_RESULT);
            job.reason = None;
            job.enter(earlier.state, now, &by);
        });
    }

    /// Somebody said no, or gave it back.
    fn declined(&mut self, key: SlaveKey, declined: Declined) {
        let Some(job) = self.state.book.jobs.get(&declined.job) else { return };
        let stale = !is_current(job, key, declined.attempt)
            || job.state != State::Assigned && job.state != State::Accepted
            || declined.rev < job.rev && declined.reason.code != ReasonCode::GivenBack;
        if stale {
            return self.effects.push(Effect::Ignored(OLD_DECLINE));
        }
        let (id, desired) = (declined.job, job.desired);
        if declined.reason.code == ReasonCode::NotHeld && matches!(desired, Desired::Run | Desired::Pause) {
            // It lacks the work: it is offered whole, under the same attempt.
            let want = job.want(true);
            return self.send_to(key, Message::Want(want));
        }
        if declined.for_good && desired == Desired::Run {
            self.edit(id, |job| job.reason = Some(declined.reason));
            let by = self.state.desks.get(&key).map_or_else(String::new, |desk| desk.name.clone());
            self.turn(id, job::Event::StartRefused, &by);
            return self.try_again(id);
        }
        let asked_for = declined.reason.code == ReasonCode::GivenBack;
        if !asked_for && let Some(desk) = self.state.desks.get_mut(&key) {
            desk.balked = true;
        }
        self.given_back(id, desired, (!asked_for).then_some(declined.reason));
    }

    /// The slave never had it, or has let it go.
    fn given_back(&mut self, id: JobId, desired: Desired, reason: Option<Reason>) {
        let has_reason = reason.is_some();
        self.edit(id, |job| {
            if has_reason {
                job.reason = reason;
            }
        });
        match desired {
            Desired::Cancel(_) => {
                self.edit(id, |job| {
                    job.reason = Some(Reason::new(ReasonCode::Canceled, "canceled before it started"))
                });
                self.turn(id, job::Event::Withdrawn, "client");
            }
            Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => {
                let closed = |job: &Job| job.start.deadline.is_some_and(|deadline| deadline < self.now);
                let over = self.state.book.jobs.get(&id).is_some_and(closed);
                if over {
                    let reason = Reason::new(ReasonCode::WindowClosed, "its latest start passed");
                    self.edit(id, |job| job.reason = Some(reason));
                    self.turn(id, job::Event::WindowClosed, "master");
                    return;
                }
                self.turn(id, job::Event::GivenBack, "slave");
                self.speak_for(id);
            }
        }
    }

    /// A job that is queued again: an earlier attempt that is under way or succeeded speaks for it.
    fn speak_for(&mut self, id: JobId) {
        let Some(job) = self.state.book.jobs.get(&id) else { return };
        let alive = job.earlier.iter().find(|e| e.state.is_started() || e.state == State::Succeeded);
        if let Some((attempt, holder)) = alive.map(|earlier| (earlier.attempt, earlier.holder)) {
            self.promote(id, attempt, holder);
        }
    }

    /// The master takes a job up from its slave.
    fn adopt(&mut self, key: SlaveKey, record: Record) {
        let Record { spec, start, report } = record;
        let id = report.job;
        let desk = self.state.desks.get(&key);
        let by = desk.map_or_else(String::new, |desk| desk.name.clone());
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
        job.attempt = report.attempt;
        job.last_attempt = report.attempt;
        job.rev = report.rev;
        job.holder = Some(key);
        job.heard_at = Some(self.now);
        let (state, ended, seq, attempt) =
            (report.state, report.state.is_ended(), report.seq, report.attempt);
        job.report = Some(report);
        job.enter(state, self.now, &by);
        self.state.book.insert(job);
        self.touched.insert(id);
        self.persist.push(Write::Order(Box::new(order)));
        if ended {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
    }

    pub(super) fn send_to(&mut self, key: SlaveKey, message: Message) {
        if let Some(link) = self.state.desks.get(&key).and_then(Desk::live) {
            self.send(link, message);
        }
    }

    /// Tells the slave the newest wish, if its last report does not know it.
    pub(super) fn tell_if_newer(&mut self, key: SlaveKey, id: JobId) -> Delivery {
        let Some(job) = self.state.book.jobs.get(&id) else { return Delivery::TooLate };
        let live = self.state.desks.get(&key).filter(|desk| !desk.doubts).and_then(Desk::live);
        let Some(link) = live else { return Delivery::PendingOnReconnect };
        let knows = job.report.as_ref().map(|report| report.rev);
        if knows.is_none_or(|rev| rev < job.rev) {
            let want = job.want(knows.is_none());
            self.send(link, Message::Want(want));
        }
        Delivery::Sent
    }

    fn tell_newer_wishes(&mut self, key: SlaveKey) {
        let Some(desk) = self.state.desks.get(&key) else { return };
        if desk.doubts {
            return;
        }
        if desk.machine.as_ref().is_some_and(|machine| machine.conduct.rev < desk.conduct.rev) {
            let conduct = desk.conduct;
            self.send_to(key, Message::Conduct(conduct));
        }
        let ids: Vec<_> =
            self.state.book.held_by(key).filter(|job| job.state != State::Uncertain).map(|j| j.id).collect();
        for id in ids {
            self.tell_if_newer(key, id);
        }
    }
}

impl Job {
    /// Another attempt comes: what this one came to is kept beside it.
    pub(super) fn set_aside(&mut self) {
        if let Some(holder) = self.holder.take() {
            let (attempt, state, report) = (self.attempt, self.state, self.report.take());
            self.earlier.push(Earlier { attempt, holder, state, report });
            if self.earlier.len() > EARLIER {
                self.earlier.remove(0);
            }
        }
    }
}

fn is_current(job: &Job, key: SlaveKey, attempt: Attempt) -> bool {
    job.attempt == attempt && job.holder == Some(key)
}

/// What the book says of this attempt at this slave.
fn held_as(job: &Job, key: SlaveKey, attempt: Attempt) -> Mine {
    if attempt > job.last_attempt {
        return Mine::Assigned;
    }
    if !is_current(job, key, attempt) {
        return match job.state {
            State::Queued | State::Assigned | State::Accepted => Mine::OlderThanUnstarted,
            state if state.is_ended() => Mine::OlderThanEnded,
            _ => Mine::OlderThanStarted,
        };
    }
    match job.state {
        State::Queued | State::Assigned => Mine::Assigned,
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

fn bond_of(node: super::Node) -> Bond {
    Bond { master: node.id, epoch: node.epoch, commit: Commit(node.commit.0) }
}

/// The machine could take a job now.
pub(super) fn is_ready(desk: &Desk) -> bool {
    desk.machine.as_ref().is_some_and(|machine| machine.activity == Activity::Ready)
}

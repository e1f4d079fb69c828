//! What a master knows: its settings, what is on its disk, and what is lost with the process.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Availability, Book, Enrolled, Job, SlaveRecord, Write};
use crate::id::{Commit, Epoch, Incarnation, MasterId, SlaveKey};
use crate::job::State;
use crate::limits;
use crate::message::Begun;
use crate::slave::LinkId;
use crate::time::Time;

/// How many slaves may wait for approval: keys are free, and nobody may fill the master with them.
pub const MAX_PENDING: usize = 256;

/// How many receipts of handshakes are kept for each slave.
pub const RECEIPTS: u32 = 64;

/// How many idempotency keys are kept in memory: more than can be between the disk's answer and the step that needs it.
pub const RECENT_KEYS: usize = 4096;

/// What a master is told by its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How slaves are enrolled.
    pub enrollment: Enrollment,
}

/// How slaves are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Enrollment {
    /// Whoever comes: for demos.
    Open,
    /// With a token.
    #[default]
    Token,
    /// When a person has approved its key.
    Approve,
}

/// A master's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Master {
    /// From the config.
    pub settings: Settings,
    /// About itself.
    pub node: Node,
    /// Its newest incarnations, oldest first; the last is this process.
    pub begun: Vec<Begun>,
    /// The order book.
    pub book: Book,
    /// One slave record per slave.
    pub slaves: BTreeMap<SlaveKey, SlaveRecord>,
    /// Enrolment tokens, by the SHA-256 of their text.
    pub tokens: BTreeMap<[u8; 32], Token>,
    /// Connections, and whose they are once that is known.
    pub links: BTreeMap<LinkId, Option<SlaveKey>>,
    /// Questions that wait for a slave's answer.
    pub asked: BTreeMap<u32, Asked>,
    /// The number of the next question.
    pub next_ask: u32,
    /// A slave has seen a later state of this master: its files were put back.
    pub doubted_by: BTreeSet<SlaveKey>,
    /// The highest epoch of this master that a slave has obeyed, if it is later than this master knows.
    pub later: Epoch,
    /// When it last made something that lasts for a length of time, by its clock: that clock has gone back if it shows an
    /// earlier time. The beginning of time if it never has.
    pub counted_until: Time,
    /// Who could take a job.
    pub availability: Availability,
}

impl Master {
    /// How many slaves say that this master's files were put back and nobody has confirmed it: they have seen a later
    /// state of it, or obeyed a later epoch.
    pub fn doubters(&self) -> usize {
        self.doubted_by.len().max(usize::from(self.later > self.node.epoch))
    }
}

/// What a master keeps about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// This database.
    pub id: MasterId,
    /// How often it was restored.
    pub epoch: Epoch,
    /// Its durable commits.
    pub commit: Commit,
}

/// Permission to enrol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Not after this.
    pub expires_at: Time,
    /// How many slaves it still enrols.
    pub uses_left: u32,
    /// Only a slave of this name.
    pub name: Option<String>,
}

/// A question under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who wants to know.
    pub request: RequestId,
    /// On which connection it was asked.
    pub link: LinkId,
}

/// Pairs an answer with the client that waits for it; of no meaning beyond this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Whose a database is, by what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It says so itself.
    Known,
    /// Nobody's yet.
    Newborn,
    /// It has forgotten: its own record is lost, and others are there. Orders are not lost for that, so it goes on with
    /// them, under a new name. Its slaves are enrolled in it and bind to the new name by themselves; whether another
    /// copy still goes by the old one is for a person to say.
    Nameless,
}

/// Whose a database is: whether its own record can be read, and whether there is any other thing in it.
pub fn origin(own: bool, other: bool) -> Origin {
    match (own, other) {
        (true, _) => Origin::Known,
        (false, false) => Origin::Newborn,
        (false, true) => Origin::Nameless,
    }
}

/// The state that the disk holds; `fresh` names a database that is empty.
pub fn recover(settings: Settings, fresh: MasterId, records: impl IntoIterator<Item = Write>) -> Master {
    let mut state = newborn(settings, fresh);
    records.into_iter().for_each(|record| state.restore(record));
    state
}

/// The state of a database that is empty, which `fresh` names.
pub fn newborn(settings: Settings, fresh: MasterId) -> Master {
    Master {
        settings,
        node: Node { id: fresh, epoch: Epoch(1), commit: Commit(0) },
        begun: Vec::new(),
        book: Book::default(),
        slaves: BTreeMap::new(),
        tokens: BTreeMap::new(),
        links: BTreeMap::new(),
        asked: BTreeMap::new(),
        next_ask: 0,
        doubted_by: BTreeSet::new(),
        later: Epoch(0),
        counted_until: Time(i64::MIN),
        availability: Availability::default(),
    }
}

impl Master {
    /// Takes up a record of the disk, before the first step. A million of them need not be in memory at once.
    pub fn restore(&mut self, record: Write) {
        match record {
            Write::Node(node) => self.node = node,
            Write::Begun(begun) => self.begun = begun,
            Write::CountedUntil(time) => self.counted_until = time,
            Write::Job(job) => self.book.restore(*job),
            Write::Slave(slave) => drop(self.slaves.insert(slave.key, *slave)),
            Write::Token(hash, Some(token)) => drop(self.tokens.insert(hash, token)),
            Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            Write::Order(_) | Write::Key(..) | Write::Receipt(_) => {}
        }
    }

    /// A process begins with this state. What it gives has to be on disk before a slave hears of it.
    pub fn begin(&mut self, incarnation: Incarnation) -> [Write; 2] {
        let older = (self.begun.len() + 1).saturating_sub(limits::INCARNATIONS);
        self.begun.drain(..older);
        self.begun.push(Begun { incarnation, at: self.node.commit });
        [Write::Node(self.node), Write::Begun(self.begun.clone())]
    }

    /// The process that speaks.
    pub fn incarnation(&self) -> Incarnation {
        self.begun.last().map_or_else(Incarnation::default, |begun| begun.incarnation)
    }
}

/// The part of the state that the disk holds after the step's writes.
pub fn durable(state: &Master) -> (Node, Vec<Job>, Vec<SlaveRecord>, BTreeMap<[u8; 32], Token>) {
    let jobs = state.book.jobs.values().map(|job| job.durable()).collect();
    let slaves = state.slaves.values().map(SlaveRecord::durable).collect();
    (state.node, jobs, slaves, state.tokens.clone())
}

/// What must hold after every step; the name of the first that does not.
pub fn broken_invariant(state: &Master) -> Option<&'static str> {
    for job in state.book.jobs.values() {
        if job.state == State::Queued && job.holder.is_some() {
            return Some("a queued job is with nobody");
        }
        if (job.state == State::Assigned || job.state == State::Accepted || job.state.is_executing())
            && job.holder.is_none()
        {
            return Some("an assigned job is with a slave");
        }
        if job.attempt > job.last_attempt {
            return Some("attempts are counted");
        }
        if job.state.is_executing() && job.report.as_ref().is_none_or(|report| report.state != job.state) {
            return Some("only a slave says running");
        }
        if job.state.is_ended() {
            return Some("what has ended is on disk, not in memory");
        }
    }
    if state.slaves.values().any(|slave| slave.enrolled != Enrolled::Yes && slave.current().is_some()) {
        return Some("who is not enrolled has no link");
    }
    state.book.broken_invariant()
}

//! What a master knows: its settings, what is on its disk, and what is lost with the process.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{Answer, Availability, Book, Delivery, Enrolled, Job, Refusal, SlaveRecord, SlaveRefused, Write};
use crate::id::{Commit, Epoch, Incarnation, MasterId, SlaveKey};
use crate::job::State;
use crate::limits;
use crate::message::{Begun, Question, Reply};
use crate::slave::LinkId;
use crate::time::{Millis, Time};

/// How many unknown keys may wait for approval: a key costs nothing, so without a limit they could fill the master.
pub const MAX_PENDING: usize = 256;

/// How many receipts of handshakes are kept for each slave.
pub const RECEIPTS: u32 = 64;

/// How many idempotency keys are kept in memory: more than can be placed between a look-up on disk and the step that uses it.
pub const RECENT_KEYS: usize = 4096;

/// A master's settings, from its config. They are not on disk and may differ at each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How a slave that is not enrolled yet can be.
    pub enrollment: Enrollment,
    pub placement: Placement,
}

/// How long before its time a job is recalled, by default, from a slave that could not start it: longer than a link takes to break and to
/// come back, and short enough that most machines are mended before.
pub const RECALL_BEFORE: Millis = Millis::seconds(15 * 60);

/// What people choose of how work is given to slaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Placement {
    /// How long before its time a job is recalled from a slave that could not start it now, if another one could.
    pub recall_before: Millis,
    /// How much longer one job has to wait than another to go before it although its priority is lower by one; `None`: never.
    pub ageing: Option<Millis>,
}

impl Default for Placement {
    fn default() -> Self {
        Self { recall_before: RECALL_BEFORE, ageing: None }
    }
}

/// How a slave that is not enrolled yet can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Enrollment {
    /// Every key is enrolled that was not revoked: for demos.
    Open,
    /// A slave has to show a token.
    #[default]
    Token,
    /// A person has to approve the key, or the slave shows a token.
    Approve,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Master {
    pub settings: Settings,
    /// What it keeps about itself.
    pub node: Node,
    /// The newest incarnations, oldest first; the last is this process.
    pub begun: Vec<Begun>,
    /// Jobs that have not ended, and which of them wait for a slave.
    pub book: Book,
    pub slaves: BTreeMap<SlaveKey, SlaveRecord>,
    /// Enrolment tokens, by the SHA-256 of their text.
    pub tokens: BTreeMap<[u8; 32], Token>,
    /// Open connections, with the key of the slave once its Hello was accepted.
    pub links: BTreeMap<LinkId, Option<SlaveKey>>,
    /// Questions that wait for a slave's answer, by [`Ask::id`](crate::message::Ask).
    pub asked: BTreeMap<u32, Asked>,
    /// The id of the next question.
    pub next_ask: u32,
    /// Slaves that have seen a later state of this master: its files were put back.
    pub doubted_by: BTreeSet<SlaveKey>,
    /// The highest epoch of this master that an enrolled slave has obeyed; it counts if it is later than the master's own.
    pub later: Epoch,
    /// The master's wall clock when it last made a release or an enrolment token: if the clock shows an earlier time, it was
    /// set back. The beginning of time if it has made none.
    pub clock_mark: Time,
    /// Which slaves could take a job, and which could be without one.
    pub availability: Availability,
}

impl Master {
    /// How many slaves say that this master's files were put back, without a person having confirmed that: they have seen a later
    /// state of it or obeyed a later epoch. At least 1 if there is any sign of that.
    pub fn doubters(&self) -> usize {
        self.doubted_by.len().max(usize::from(self.later > self.node.epoch))
    }
}

/// What a master's store says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    pub id: MasterId,
    pub epoch: Epoch,
    /// The durable commits so far.
    pub commit: Commit,
}

/// What an enrolment token permits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// It enrols nobody after this.
    pub expires_at: Time,
    /// How many slaves it still enrols.
    pub uses_left: u32,
    /// The only name that a slave may have which it enrols.
    pub name: Option<String>,
}

/// A question to a slave that it has not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// The client that waits for the answer.
    pub request: RequestId,
    /// The connection on which it was asked.
    pub link: LinkId,
    /// How it can be answered.
    pub asked_for: AskedFor,
}

/// What a question asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AskedFor {
    /// That something is done.
    Deed,
    /// A part of a job's output.
    Output {
        /// From which byte; the end of the output if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
}

impl AskedFor {
    pub(super) fn of(question: &Question) -> Self {
        match question {
            Question::Ready { .. } | Question::Clear { .. } => Self::Deed,
            Question::Log { offset, limit, .. } => Self::Output { offset: *offset, limit: *limit },
        }
    }

    /// What the client is answered after the slave's reply. An output that begins later than was asked has a gap before it; one
    /// without bytes may say how long the whole is.
    pub(super) fn answer(self, reply: Reply) -> Answer {
        match (self, reply) {
            (_, Reply::Refused(text)) => Answer::Refused(Refusal::SlaveRefused(SlaveRefused::Said(text))),
            (Self::Deed, Reply::Done) => Answer::SlaveTaken(Delivery::Applied),
            (Self::Output { offset: asked, limit }, Reply::Log { offset, total, bytes })
                if (bytes.is_empty() || asked.is_none_or(|asked| asked <= offset))
                    && u32::try_from(bytes.len()).is_ok_and(|length| length <= limit) =>
            {
                Answer::Output { offset, total, bytes }
            }
            (Self::Deed | Self::Output { .. }, Reply::Log { .. }) | (Self::Output { .. }, Reply::Done) => {
                Answer::Refused(Refusal::SlaveRefused(SlaveRefused::NoAnswer))
            }
        }
    }
}

/// Pairs an answer with the client that waits for it, within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// What a store can say of whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// Its own record can be read.
    Known,
    /// It holds no record.
    Newborn,
    /// Its own record is lost, and other records are there. So that no order is lost, the master goes on with them under a new id.
    /// Its slaves are still enrolled and bind to the new id by themselves. Whether another copy runs under the old id, a person has
    /// to find out.
    Nameless,
}

/// The origin of a store: `own` says whether its own record can be read, `other` whether there is any other record.
pub fn origin(own: bool, other: bool) -> Origin {
    match (own, other) {
        (true, _) => Origin::Known,
        (false, false) => Origin::Newborn,
        (false, true) => Origin::Nameless,
    }
}

/// The state that the disk holds; `fresh` is the id of a store that is empty.
pub fn recover(settings: Settings, fresh: MasterId, records: impl IntoIterator<Item = Write>) -> Master {
    let mut state = newborn(settings, fresh);
    records.into_iter().for_each(|record| state.restore(record));
    state
}

/// The state of an empty store with the id `fresh`.
pub fn newborn(settings: Settings, fresh: MasterId) -> Master {
    Master {
        settings,
        node: Node { id: fresh, epoch: Epoch(1), commit: Commit(0) },
        begun: Vec::new(),
        book: Book::new(settings.placement),
        slaves: BTreeMap::new(),
        tokens: BTreeMap::new(),
        links: BTreeMap::new(),
        asked: BTreeMap::new(),
        next_ask: 0,
        doubted_by: BTreeSet::new(),
        later: Epoch(0),
        clock_mark: Time(i64::MIN),
        availability: Availability::default(),
    }
}

impl Master {
    /// Takes up one record of the disk, before the first step. So a million of them need not be in memory at once.
    pub fn restore(&mut self, record: Write) {
        match record {
            Write::Node(node) => self.node = node,
            Write::Begun(begun) => self.begun = begun,
            Write::ClockMark(time) => self.clock_mark = time,
            Write::Job(job) => self.book.restore(*job),
            Write::Slave(slave) => drop(self.slaves.insert(slave.key, *slave)),
            Write::Token(hash, Some(token)) => drop(self.tokens.insert(hash, token)),
            Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            Write::Order(_) | Write::Key(..) | Write::Receipt(_) => {}
        }
    }

    /// Enters a new process as the newest incarnation. What it returns has to be on disk before any slave is told.
    pub fn begin(&mut self, incarnation: Incarnation) -> [Write; 2] {
        let older = (self.begun.len() + 1).saturating_sub(limits::INCARNATIONS);
        self.begun.drain(..older);
        self.begun.push(Begun { incarnation, at: self.node.commit });
        [Write::Node(self.node), Write::Begun(self.begun.clone())]
    }

    /// The incarnation of this process.
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

/// The name of the first invariant that the state breaks; none may be broken after any step.
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
    if !state.availability.is_true_of(&state.slaves, &state.book) {
        return Some("which slaves could take or lend a job is derived from them and from the book");
    }
    state.book.broken_invariant()
}

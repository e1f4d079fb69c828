//! What the master knows of one slave: its record, its link, and the receipts of its handshakes.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Job;
use crate::id::{Attempt, BootId, Epoch, Generation, JobId, Session, SlaveKey, StoreId};
use crate::job::State;
use crate::message::{Activity, Hello, MachineReport, Mode, OperatingMode};
use crate::reconcile::{Line, Store, Verdict};
use crate::slave::LinkId;
use crate::time::{Millis, Time};

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
    /// Another box that says it is this slave, while the link is being asked whether it is still there.
    #[serde(skip)]
    pub contender: Option<Contender>,
    /// It declined, and has not said since that anything changed.
    #[serde(skip)]
    pub declining: bool,
    /// It has seen a later state of this master: it obeys nothing.
    #[serde(skip)]
    pub doubts: bool,
    /// Jobs of which it has an attempt that does not speak for them and has not ended, by what it said since it last settled.
    #[serde(skip)]
    pub other_attempts: BTreeSet<JobId>,
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

/// The link of a slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SlaveLink {
    /// There is none.
    #[default]
    Down,
    /// The Welcome was sent, and the slave has not settled yet.
    Welcomed {
        /// The connection.
        link: LinkId,
        /// The Hello that the Welcome answers.
        hello: Box<Hello>,
        /// What is known of the slave's memory.
        store: Store,
        /// The verdict on each job in either view.
        judged: Vec<Judged>,
        /// When the Hello came.
        since: Time,
    },
    /// The slave has settled.
    Live {
        /// The connection.
        link: LinkId,
    },
}

/// A box that introduced itself as a slave whose link is another box's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Contender {
    /// Its connection.
    pub link: LinkId,
    /// Its Hello, which is answered if the link turns out to be dead.
    pub hello: Box<Hello>,
}

/// A verdict on one job, from the Welcome that tells it to the Settled that applies it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judged {
    /// The job.
    pub job: JobId,
    /// The attempt that the slave told of; for a job that it did not tell of, the one that speaks.
    pub attempt: Attempt,
    /// The master's state of the job.
    pub mine: Option<State>,
    /// The slave's state of the attempt; `None` if it did not tell of the job.
    pub theirs: Option<State>,
    /// The job's revision when it was judged: a verdict on an earlier revision is not applied.
    pub revision: u32,
    /// The line of the table.
    pub line: &'static Line,
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
    pub store: Store,
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

impl Judged {
    /// Judges a job now.
    pub(super) fn new(
        job: JobId,
        attempt: Attempt,
        ours: Option<&Job>,
        theirs: Option<State>,
        line: &'static Line,
    ) -> Self {
        let revision = ours.map_or(0, |job| job.revision);
        Self { job, attempt, mine: ours.map(|job| job.state), theirs, revision, line }
    }

    /// What the receipt says of it.
    pub(super) fn receipt_line(self) -> ReceiptLine {
        let Self { job, attempt, mine, theirs, line, .. } = self;
        ReceiptLine { job, attempt, mine, theirs, line: line.name.to_owned(), verdict: line.verdict }
    }
}

/// The jobs that are with a slave, by its last word: those that it speaks for, and those of which it has another attempt that
/// has not ended.
pub fn jobs_at(state: &super::Master, slave: &SlaveRecord) -> BTreeSet<JobId> {
    let held = state.book.held_by(slave.key).map(|job| job.id);
    held.chain(slave.other_attempts.iter().copied()).collect()
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
            contender: None,
            declining: false,
            doubts: false,
            other_attempts: BTreeSet::new(),
        }
    }

    /// The slave record without its link.
    pub(super) fn durable(&self) -> Self {
        Self {
            link: SlaveLink::Down,
            contender: None,
            declining: false,
            doubts: false,
            other_attempts: BTreeSet::new(),
            ..self.clone()
        }
    }

    /// The connection of a slave that has settled.
    pub fn live(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Live { link } => Some(*link),
            SlaveLink::Down | SlaveLink::Welcomed { .. } => None,
        }
    }

    /// The Hello of a handshake under way.
    pub(super) fn hello(&self) -> Option<&Hello> {
        match &self.link {
            SlaveLink::Welcomed { hello, .. } => Some(hello),
            SlaveLink::Down | SlaveLink::Live { .. } => None,
        }
    }

    /// The slave's connection, whether it has settled or not.
    pub(super) fn current(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Down => None,
            SlaveLink::Live { link } | SlaveLink::Welcomed { link, .. } => Some(*link),
        }
    }

    /// The slave's connection, and one whose box says that it is this slave.
    pub(super) fn connections(&self) -> Vec<LinkId> {
        let contender = self.contender.as_ref().map(|contender| contender.link);
        self.current().into_iter().chain(contender).collect()
    }

    /// Its machine could start a job now.
    pub(super) fn is_ready(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.activity == Activity::Ready)
    }
}

//! The slave record: what the master knows of one slave. Also its link, and the receipts of its handshakes.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::Job;
use crate::id::{Attempt, BootId, Epoch, Generation, JobId, Session, SlaveKey, StoreId};
use crate::job::State;
use crate::limits;
use crate::message::{Activity, Hello, MachineReport, Mode, OperatingMode};
use crate::reconcile::{Line, Store, Verdict};
use crate::slave::LinkId;
use crate::time::{Millis, Time};

/// How many decisions of people about a slave a restored master may have forgotten: more than happen between two backups, and
/// too few for a slave that lies to use the numbers up.
const DECISIONS_AHEAD: u32 = 1 << 16;

/// What the master knows of one slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SlaveRecord {
    /// Its public key, which is its identity.
    pub key: SlaveKey,
    /// Its label, unique among enrolled slaves.
    pub name: String,
    /// The agent's version, for people.
    pub agent: String,
    pub enrolled: Enrolled,
    /// The slave's store when it last settled; `None` if it never has.
    pub store: Option<StoreId>,
    /// The boot of the slave's kernel then.
    pub boot: Option<BootId>,
    /// The session that last settled.
    pub session: Session,
    /// The epoch of this master in which it last settled; 0 before the first time. In the first handshake after a restore the slave
    /// may tell of attempts that the master has forgotten.
    pub settled_in: Epoch,
    /// The programs that it can run.
    pub programs: Vec<String>,
    /// The labels that an order's `requires` is compared with.
    pub labels: BTreeMap<String, String>,
    /// How many jobs it takes that could start, the one that runs included.
    pub capacity: u16,
    /// How many jobs it takes that wait for their time or for a person.
    pub deferred_capacity: u16,
    pub operating_mode: OperatingMode,
    /// The newest machine report.
    pub machine: Option<MachineReport>,
    /// When it was last heard of, by the last settling or end of a link.
    pub last_contact: Option<Time>,
    /// How far its wall clock was ahead of the master's in the last handshake, in milliseconds.
    pub clock_offset_ms: i64,
    /// When another box with the same key tried to connect while this one answered.
    pub cloned_at: Option<Time>,
    /// The number of its receipts so far, dropped ones included.
    pub receipts: u32,
    /// How often its agent was started on its store; 0 if that is not known.
    pub starts: u32,
    #[serde(skip)]
    pub link: SlaveLink,
    /// Another box with the same key that wants to connect, while the peer of the link is being pinged.
    #[serde(skip)]
    pub contender: Option<Contender>,
    /// It declined an offer and has not settled, sent a machine report or ended a job since: nothing is offered to it.
    #[serde(skip)]
    pub declining: bool,
    /// It has seen a later state of this master, and obeys nothing before a person has confirmed that the master was restored.
    #[serde(skip)]
    pub doubts: bool,
    /// Jobs of which it has an attempt that does not speak for them and has not ended, by what it said since it last settled.
    #[serde(skip)]
    pub other_attempts: BTreeSet<JobId>,
}

/// One start of a slave's agent: its config is the same until the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AgentStart {
    pub store: StoreId,
    /// How often the agent was started on that store.
    pub starts: u32,
}

/// Whether a slave is enrolled with this master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Enrolled {
    /// It waits for a person to approve its key.
    Pending,
    Yes,
    /// A person revoked it: only a token enrols it again.
    Revoked,
}

/// How far a slave's link has come.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum SlaveLink {
    #[default]
    Down,
    /// The Welcome was sent, and the slave has not settled yet.
    Welcomed {
        link: LinkId,
        /// The Hello that the Welcome answers.
        hello: Box<Hello>,
        /// How the slave's store was judged from the Hello.
        store: Store,
        /// The verdict on each job that either of the two holds.
        judged: Vec<Judged>,
        /// When the Hello came.
        since: Time,
    },
    /// The handshake is over.
    Live { link: LinkId },
}

/// A box whose Hello names the key of a slave that has a link from another box or store.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Contender {
    pub link: LinkId,
    /// Its Hello, which is answered if the other link turns out to be dead.
    pub hello: Box<Hello>,
}

/// A verdict on one job, computed for the Welcome and applied when the slave has settled.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Judged {
    pub job: JobId,
    /// The attempt in the slave's row; without a row, the attempt that speaks for the job.
    pub attempt: Attempt,
    /// The state of the job at the master; `None` if the master did not know it.
    pub mine: Option<State>,
    /// The state in the slave's row; `None` without a row.
    pub theirs: Option<State>,
    /// The job's revision when it was judged. If it has changed by the time of the Settled, the job is judged again.
    pub revision: u32,
    /// The line of [`TABLE`](crate::reconcile::TABLE) that applied.
    pub line: &'static Line,
}

/// What one handshake compared and decided, for people who ask why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Receipt {
    pub slave: SlaveKey,
    /// Its place among the slave's newest [`RECEIPTS`](super::RECEIPTS) receipts: its number modulo that.
    pub number: u32,
    /// When the slave had settled.
    pub at: Time,
    /// From Hello to Settled.
    pub took: Millis,
    pub session: Session,
    /// How the slave's store was judged.
    pub store: Store,
    /// Whether the box was rebooted since the slave settled before.
    pub rebooted: bool,
    /// One line for each job that either of the two held.
    pub lines: Vec<ReceiptLine>,
}

/// One job in a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReceiptLine {
    pub job: JobId,
    pub attempt: Attempt,
    /// The state of the job at the master; `None` if the master did not know it.
    pub mine: Option<State>,
    /// The state in the slave's row; `None` without a row.
    pub theirs: Option<State>,
    /// The name of the line of [`TABLE`](crate::reconcile::TABLE) that applied.
    pub line: String,
    pub verdict: Verdict,
}

impl Receipt {
    /// Sorts the receipts of one slave. Their numbers repeat, and so don't tell which is newer.
    pub fn sort_newest_first(receipts: &mut [Self]) {
        receipts.sort_by_key(|receipt| Reverse((receipt.at, receipt.session)));
    }
}

impl Judged {
    /// A verdict on a job as it is now.
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

    /// Its line in the receipt.
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
            deferred_capacity: 0,
            operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
            machine: None,
            last_contact: None,
            clock_offset_ms: 0,
            cloned_at: None,
            receipts: 0,
            starts: 0,
            link: SlaveLink::Down,
            contender: None,
            declining: false,
            doubts: false,
            other_attempts: BTreeSet::new(),
        }
    }

    /// It is a job for this slave, whether that has room or not.
    pub(super) fn can_do(&self, job: &Job) -> bool {
        job.slave.as_ref().is_none_or(|name| *name == self.name)
            && self.programs.contains(&job.spec.program)
            && super::index::fits(&job.requires, &self.labels)
            && !job.is_rejected_by(self)
    }

    /// The start of its agent with which it last settled; `None` if it never has.
    pub(super) fn agent_start(&self) -> Option<AgentStart> {
        self.store.map(|store| AgentStart { store, starts: self.starts })
    }

    /// What of it is on disk.
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

    /// Takes over what the handshake has told of the slave itself.
    pub(super) fn settle(
        &mut self,
        hello: &Hello,
        machine: MachineReport,
        epoch: Epoch,
        since: Time,
        now: Time,
    ) {
        self.store = Some(hello.store);
        self.starts = hello.starts;
        self.boot = Some(hello.boot);
        self.session = hello.session;
        self.agent.clone_from(&hello.agent);
        self.programs.clone_from(&hello.programs);
        self.labels.clone_from(&hello.labels);
        self.capacity = hello.capacity.min(limits::CAPACITY);
        self.deferred_capacity = hello.deferred_capacity.min(limits::CAPACITY);
        self.clock_offset_ms = hello.clock.ahead_of(since);
        if !self.doubts {
            self.settled_in = epoch;
        }
        self.last_contact = Some(now);
        self.declining = false;
        // It tells anew of each attempt that does not speak for its job.
        self.other_attempts.clear();
        self.receipts = self.receipts.wrapping_add(1);
        self.outbid(machine.operating_mode);
        self.machine = Some(machine);
    }

    /// A master that was restored has forgotten how often people decided: its operating mode gets a generation that is newer
    /// than the one that the slave has obeyed.
    fn outbid(&mut self, obeyed: OperatingMode) {
        let known = &mut self.operating_mode;
        let is_believable = obeyed.generation.0 <= known.generation.0.saturating_add(DECISIONS_AHEAD);
        if obeyed.mode == known.mode && is_believable {
            known.generation = known.generation.max(obeyed.generation);
        } else if obeyed.generation >= known.generation && is_believable {
            known.generation = obeyed.generation.next();
        }
    }

    /// Ends the link and what waits for it.
    pub(super) fn hang_up(&mut self) {
        self.link = SlaveLink::Down;
        self.contender = None;
    }

    /// The connection, if the slave has settled.
    pub fn live(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Live { link } => Some(*link),
            SlaveLink::Down | SlaveLink::Welcomed { .. } => None,
        }
    }

    /// The Hello, while the handshake is under way.
    pub(super) fn hello(&self) -> Option<&Hello> {
        match &self.link {
            SlaveLink::Welcomed { hello, .. } => Some(hello),
            SlaveLink::Down | SlaveLink::Live { .. } => None,
        }
    }

    /// The connection, whether the slave has settled or not.
    pub(super) fn current(&self) -> Option<LinkId> {
        match &self.link {
            SlaveLink::Down => None,
            SlaveLink::Live { link } | SlaveLink::Welcomed { link, .. } => Some(*link),
        }
    }

    /// The connection and the contender's.
    pub(super) fn connections(&self) -> Vec<LinkId> {
        let contender = self.contender.as_ref().map(|contender| contender.link);
        self.current().into_iter().chain(contender).collect()
    }

    /// Whether its machine says that it could start a job now.
    pub(super) fn is_ready(&self) -> bool {
        self.machine.as_ref().is_some_and(|machine| machine.activity == Activity::Ready)
    }
}

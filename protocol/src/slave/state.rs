//! A slave's state: its settings, what is on its disk, and what is lost with the agent.

use alloc::sync::Arc;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::checks::Checks;
use super::clock::Clock;
use super::{Job, Sync, Write};
use crate::id::{BootId, Commit, Generation, JobId, ReportSeq, Run, Session, SlaveKey, StoreId};
use crate::job::State;
use crate::limits::shown;
use crate::message::{Attention, MasterBinding, OperatingMode, Reason, ReasonCode, Record, Row, WaitingFor};
use crate::time::{Millis, Time};

/// How many recent outcomes a slave keeps, for a master that is restored from a backup.
pub const RECENT_OUTCOMES: usize = 16;

/// How much work a slave holds, in bytes on the wire, ended jobs included: a Settled to a master that knows none of it tells all,
/// and is one message of at most 256 KiB.
pub const HELD_BYTES: usize = 128 * 1024;

/// How late a start may be, by default, before it counts as missed. Longer than a busy box, the way from the master and an agent's
/// restart take, so that people are not asked for nothing; and so short that people beside the machine still expect the start.
pub const LATE_TOLERANCE: Millis = Millis::seconds(60);

/// How many jobs in a row may fail, by default, before a person has to look at the machine. One bad job says nothing of the machine, and
/// neither do two of one order; a machine that fails everything would take the most work of all.
pub const MAX_FAILURES_IN_ROW: u16 = 3;

/// How much work the recent outcomes hold, in bytes on the wire.
pub const RECENT_OUTCOMES_BYTES: usize = 64 * 1024;

/// A slave's settings, from its config. They are not on disk and may differ at each start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The slave's label, unique among the master's slaves.
    pub name: String,
    /// The agent's version, for people.
    pub agent: String,
    /// The slave's identity.
    pub key: SlaveKey,
    /// The names of the programs that it can run.
    pub programs: Vec<String>,
    /// The labels that an order's `requires` is compared with.
    pub labels: BTreeMap<String, String>,
    /// How many jobs it takes that could start, the one that runs included.
    pub capacity: u16,
    /// How many jobs it takes besides that wait for their time or for a person.
    pub deferred_capacity: u16,
    /// What has to happen before the machine takes the next job.
    pub release: Release,
    /// What has to happen after a job failed.
    pub after_failure: AfterFailure,
    /// When the wall clock counts as right after a reboot, before the master has said the time.
    pub trust_clock: TrustClock,
    /// A start that is found to be late by more than this was missed.
    pub late_tolerance: Millis,
    /// How often one attempt may be interrupted and begun again before a person is asked.
    pub max_interruptions: u32,
    /// After how many jobs in a row that failed the machine starts nothing before a person has looked at it; 0: it goes on.
    pub max_failures_in_row: u16,
    /// The enrolment token to show, until a handshake with it has succeeded.
    pub token: Option<String>,
}

impl Settings {
    /// The first label of these that the slave does not have, as a reason.
    pub(super) fn lacks(&self, requires: &BTreeMap<String, String>) -> Option<Reason> {
        let (label, value) = requires.iter().find(|(label, value)| self.labels.get(*label) != Some(value))?;
        let wanted = format!("the order requires {}={}", shown(label), shown(value));
        let text = match self.labels.get(label) {
            Some(has) => format!("{wanted}, and this slave has {}={}", shown(label), shown(has)),
            None => format!("{wanted}, and this slave has no {}", shown(label)),
        };
        Some(Reason::new(ReasonCode::MissingLabel, text))
    }
}

/// What has to happen before a machine takes its next job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Release {
    #[default]
    Auto,
    /// A person confirms that the machine is clear.
    Ack,
}

/// When a box's own clock tells the master's time, in a boot in which the master was not reached yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum TrustClock {
    /// Never: timed work waits for the master.
    #[default]
    Never,
    /// Always: the box has a clock with a battery.
    Always,
    /// Once a time service keeps it right, as one did when the master was last reached.
    Synchronized,
}

/// What has to happen after a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AfterFailure {
    /// The same as after a job that succeeded.
    #[default]
    Release,
    /// A person looks at the machine: [`Attention::Fault`].
    Hold,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slave {
    pub settings: Settings,
    /// What it keeps about itself.
    pub node: Node,
    /// The jobs that it holds, ended ones included.
    pub jobs: BTreeMap<JobId, Job>,
    /// The outcomes that it was told to forget, newest last.
    pub recent_outcomes: Arc<Vec<Record>>,
    pub link: Link,
    /// What is lost with the agent.
    pub volatile: Volatile,
}

/// What a slave's store says of the slave itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    pub store: StoreId,
    /// How often the agent was started on this store.
    pub starts: u32,
    /// The number of the newest connection.
    pub session: Session,
    /// The master that it belongs to; `None` before the first Welcome.
    pub binding: Option<MasterBinding>,
    /// The newest reading of the master's clock; `None` before the first.
    pub sync: Option<Sync>,
    /// The fingerprint of the box at the last start of the agent.
    pub fingerprint: Option<[u8; 16]>,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<JobId>,
    /// Why a person is needed.
    pub attention: Option<Attention>,
    /// Whether a person at the machine has locked remote starts out.
    pub local_lock: bool,
    /// The operating mode that it obeys.
    pub operating_mode: OperatingMode,
    /// What the machine said that belongs to `attention`, if it said anything.
    pub cause: Option<String>,
    /// Set by a Challenge that is the first one, or the first of a boot, while the slave holds a released job; cleared by a Welcome. The
    /// master's clock may have been set back in between: no release counts until the Welcome has said when it lapses.
    pub doubts_releases: bool,
    /// The jobs that failed since one succeeded and since a person has looked, each once.
    pub failed: Vec<JobId>,
}

/// How far a slave's link has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    Down,
    /// The connection was made, and the Challenge has not come.
    Opened {
        link: LinkId,
    },
    /// The Challenge has come. The Hello is sent when the machine has said what it does.
    Challenged {
        link: LinkId,
        /// Whether this may be an old copy of the master, which is not obeyed.
        doubtful: bool,
        /// What the Hello tells.
        disclosure: Disclosure,
    },
    /// The Hello was sent.
    Introduced {
        link: LinkId,
        session: Session,
        /// Whether this may be an old copy of the master, which is not obeyed.
        doubtful: bool,
    },
    /// The Settled was sent.
    Live {
        link: LinkId,
        session: Session,
        /// Whether this may be an old copy of the master, which is not obeyed.
        doubtful: bool,
    },
}

impl Link {
    /// The connection, if there is one.
    pub(super) fn id(&self) -> Option<LinkId> {
        match *self {
            Self::Opened { link }
            | Self::Challenged { link, .. }
            | Self::Introduced { link, .. }
            | Self::Live { link, .. } => Some(link),
            Self::Down => None,
        }
    }
}

/// What a Hello tells, by the master's standing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disclosure {
    /// Who the slave is: it belongs to another master.
    Identity,
    /// Also its jobs.
    Jobs,
    /// Also its recent outcomes: this master may have forgotten them.
    JobsAndOutcomes,
}

/// A connection, within this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a slave knows only since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Volatile {
    pub boot: Option<BootId>,
    /// The id of the next store, if the master finds that this one was put back to an earlier state.
    pub next_store: Option<StoreId>,
    /// Since when the slave knows the master's time; `None`: not since the agent started.
    pub awake_since: Option<Time>,
    /// Whether a Welcome of a master that it obeys was applied since the agent started.
    pub heard: bool,
    /// Whether it has declined an offer for want of room, and has not said since that there is room again.
    pub lacks_room: bool,
    /// The questions to the machine that it has not answered.
    pub probing: BTreeMap<JobId, Probing>,
    /// When a machine that could not begin a job is asked whether it could now.
    pub checks: Checks,
    /// The `seq` of each job in the last Hello: a job whose `seq` is another one by the Settled is told there.
    pub told: BTreeMap<JobId, ReportSeq>,
    /// The commit of the last Welcome, if the Hello told recent outcomes. It goes into the binding with the master's next live
    /// message, which shows that the Settled arrived.
    pub owed: Option<Commit>,
}

/// A question to the machine that it has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probing {
    /// When it was asked, in milliseconds since the boot.
    pub since: u64,
    /// What the machine said when it refused to start, if it is asked because of that. Not on disk: an agent that finds a job
    /// `Starting` there asks in any case, and starts it again if nothing had begun.
    pub refused: Option<String>,
}

/// What could not be read of the disk when the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Damage {
    /// Whether the slave's own record is lost and there are other records.
    pub node: bool,
    /// How many jobs are lost.
    pub jobs: u32,
}

impl Damage {
    /// Whether nothing on the disk counts. Without its own record a slave does not know whose jobs it holds, nor what was agreed on
    /// them, so the store counts as a new one.
    pub fn is_total(self) -> bool {
        self.node
    }
}

/// The state that the disk holds; `fresh` is the id of a store that is empty. Without the slave's own record nothing counts
/// ([`Damage::is_total`]).
pub fn recover(settings: Settings, fresh: StoreId, records: impl IntoIterator<Item = Write>) -> Slave {
    let mut state = Slave {
        settings,
        node: Node {
            store: fresh,
            starts: 0,
            session: Session(0),
            binding: None,
            sync: None,
            fingerprint: None,
            unloading: None,
            attention: None,
            local_lock: false,
            operating_mode: OperatingMode {
                generation: Generation(0),
                mode: crate::message::Mode::Production,
            },
            cause: None,
            doubts_releases: false,
            failed: Vec::new(),
        },
        jobs: BTreeMap::new(),
        recent_outcomes: Arc::default(),
        link: Link::Down,
        volatile: Volatile::default(),
    };
    let mut known = false;
    for record in records {
        match record {
            Write::Node(node) => {
                state.node = node;
                known = true;
            }
            Write::Job(id, Some(job)) => drop(state.jobs.insert(id, *job)),
            Write::Job(id, None) => drop(state.jobs.remove(&id)),
            Write::RecentOutcomes(recent_outcomes) => state.recent_outcomes = Arc::new(recent_outcomes),
        }
    }
    if !known {
        state.jobs = BTreeMap::new();
        state.recent_outcomes = Arc::default();
    }
    state
}

/// The part of the state that the disk holds after the step's writes.
pub fn durable(state: &Slave) -> (Node, BTreeMap<JobId, Job>, Vec<Record>) {
    let jobs = state.jobs.iter().map(|(id, job)| (*id, job.durable())).collect();
    (state.node.clone(), jobs, state.recent_outcomes.to_vec())
}

/// The rows of a Hello.
pub fn snapshot(state: &Slave) -> Vec<Row> {
    state.jobs.values().map(|job| job.report.row()).collect()
}

impl Slave {
    /// Whether the machine was asked what it does with this job and has not answered. Until it has, it is told nothing about the job;
    /// what is wanted meanwhile is stored, and follows on the answer.
    pub(super) fn is_unanswered(&self, job: JobId) -> bool {
        self.volatile.probing.contains_key(&job)
    }

    /// How long the machine may go on working before the run takes longer than allowed. `None` if there is no limit, if the machine does
    /// not work now, or if the excess was acted upon already.
    pub(super) fn left_to_work(&self, job: &Job, clock: Clock) -> Option<Millis> {
        let limit = job.spec.max_runtime?;
        let may_overrun =
            job.report.state.is_executing() && !job.run.overrun && !self.is_unanswered(job.report.job);
        let since = job.run.works_since.filter(|_| may_overrun)?;
        let stretch = clock.of_work()?.since(since);
        Some(Millis(limit.0.saturating_sub(job.run.worked.0.saturating_add(stretch.0))))
    }
}

/// The name of the first invariant that the state breaks; none may be broken after any step.
pub fn broken_invariant(state: &Slave) -> Option<&'static str> {
    let executing = state.jobs.values().filter(|job| job.report.state.is_executing()).count();
    if executing > 1 {
        return Some("at most one executing job per slave");
    }
    let waits_for_turn =
        |job: &Job| (job.report.state, job.report.waiting_for) == (State::Accepted, Some(WaitingFor::Turn));
    if executing == 0 && state.jobs.values().any(waits_for_turn) {
        return Some("what waits for its turn waits behind another");
    }
    if state.jobs.values().any(|job| !job.report.state.is_slaves_word()) {
        return Some("a slave says only what is its to say");
    }
    if state.jobs.values().any(|job| job.report.state.is_executing() && job.report.run == Run(0)) {
        return Some("what executes was begun");
    }
    if state.jobs.values().any(|job| job.digest != job.spec.digest()) {
        return Some("the work is what was agreed");
    }
    if state.recent_outcomes.len() > RECENT_OUTCOMES {
        return Some("the recent outcomes are bounded");
    }
    None
}

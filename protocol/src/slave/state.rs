//! What a slave knows: its settings, what is on its disk, and what is lost with the agent.

use alloc::sync::Arc;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clock::WorkClock;
use super::{Jobs, Now, RunKey, Stretch, Sync, Write};
use crate::id::{BootId, Commit, Generation, JobId, ReportSeq, Run, Session, SlaveKey, StoreId};
use crate::job::State;
use crate::message::{Attention, MasterBinding, OperatingMode, Record, Report, Row, Source, WaitingFor};
use crate::spec::{CancelMode, Desired, Gate, Spec, SpecDigest, StartRule};
use crate::time::{Millis, Time};

/// How many forgotten outcomes a slave remembers, for a master that comes back from a backup.
pub const RECENT_OUTCOMES: usize = 16;

/// How much work is held, in bytes on the wire: a Settled to a master that knows nothing tells all of it, and is one
/// message of at most 256 KiB.
pub const HELD_BYTES: usize = 128 * 1024;

/// How late a start may be found to have come and just happen, by default. It has to be longer than a busy box, the way from
/// the master and an agent's restart take, or people are asked for nothing; and short enough that nobody beside the machine
/// has stopped to expect the start.
pub const LATE_TOLERANCE: Millis = Millis::seconds(60);

/// The same, of what was told to be forgotten.
pub const RECENT_OUTCOMES_BYTES: usize = 64 * 1024;

/// What a slave is told by its config. Not state: it may be another at each start.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Settings {
    /// The slave's label.
    pub name: String,
    /// The agent's version, for people.
    pub agent: String,
    /// The slave's identity.
    pub key: SlaveKey,
    /// The programs that it offers.
    pub programs: Vec<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How many unended jobs it keeps.
    pub capacity: u16,
    /// What has to happen before the machine takes the next job.
    pub release: Release,
    /// What has to happen after a job failed.
    pub after_failure: AfterFailure,
    /// When the wall clock counts after a boot without contact.
    pub trust_clock: TrustClock,
    /// A start that is found to be late by more than this was missed.
    pub late_tolerance: Millis,
    /// How often one attempt may be interrupted and begun again.
    pub max_interruptions: u32,
    /// Proof for enrolment.
    pub token: Option<String>,
}

/// What has to happen before a machine takes its next job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Release {
    /// Nothing.
    #[default]
    Auto,
    /// Somebody confirms that it is clear.
    Ack,
}

/// When a box's own clock tells the master's time, after a boot in which the master was not reached yet.
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
    /// The same as after any other job.
    #[default]
    Release,
    /// Somebody looks at the machine.
    Hold,
}

/// A slave's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Slave {
    /// From the config.
    pub settings: Settings,
    /// About itself.
    pub node: Node,
    /// The jobs that it holds.
    pub jobs: Jobs,
    /// What it was told to forget, newest last.
    pub recent_outcomes: Arc<Vec<Record>>,
    /// Its link.
    pub link: Link,
    /// What it knows only since the agent started.
    pub volatile: Volatile,
}

/// What a slave keeps about itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// This database.
    pub store: StoreId,
    /// The agent's starts on it.
    pub starts: u32,
    /// Connections so far.
    pub session: Session,
    /// The master that it belongs to.
    pub binding: Option<MasterBinding>,
    /// The master's clock against this box's.
    pub sync: Option<Sync>,
    /// The box that it stood on last.
    pub fingerprint: Option<[u8; 16]>,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<JobId>,
    /// Why a person is needed.
    pub attention: Option<Attention>,
    /// A person at the machine has locked remote starts out.
    pub local_lock: bool,
    /// What people decided at the master.
    pub operating_mode: OperatingMode,
    /// What the machine said, with [`Attention::MachineUnfit`].
    pub cause: Option<String>,
    /// The master's clock was measured in another boot than before: it may have been set in between, and a release may have
    /// lapsed by then. No release counts until a Welcome has said what is left of it.
    pub doubts_releases: bool,
}

/// A job, as the slave keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Job {
    /// The work.
    pub spec: Spec,
    /// Pins it.
    pub digest: SpecDigest,
    /// The master's newest desired state.
    pub desired: Desired,
    /// When it may start.
    pub start: StartRule,
    /// What is told about it.
    pub report: Report,
    /// Its time was found to have come, and not too late.
    pub due: bool,
    /// Its time was found to have passed too long ago, and a person has to let it go.
    pub missed: bool,
    /// An earlier run began in the window: the next run of this attempt need not, unless the window is changed.
    pub window_met: bool,
    /// A person at the machine paused it: only there can it go on.
    pub paused_locally: bool,
    /// How often this attempt was interrupted.
    pub interruptions: u32,
    /// What belongs to the run under way.
    pub run: RunState,
}

/// What a slave keeps about one run. It begins empty with each run, and ends with it: nothing that was asked of one run
/// has been asked of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct RunState {
    /// Its overrun was acted upon.
    pub overrun: bool,
    /// The machine's last word was that it is paused.
    pub paused: bool,
    /// The machine was asked to pause (true) or to go on (false), and has not answered. Or it is to be asked, once it has
    /// said what it does.
    pub asked_to_pause: Option<bool>,
    /// How it is being stopped; or how it is to be stopped, once the machine has said what it does.
    pub stopping: Option<CancelMode>,
    /// Who decided here that it is stopped: a person at the machine, or the slave, because it overran. That stands also
    /// if the machine refuses.
    pub stop_decided: Option<Source>,
    /// How long the machine has worked before its last pause.
    pub worked: Millis,
    /// Since when it works without a pause; none while it is paused, and before it was first known to work.
    pub works_since: Option<Stretch>,
}

/// A slave's link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Link {
    /// None.
    Down,
    /// It stands, and the master speaks first.
    Opened {
        /// Which.
        link: LinkId,
    },
    /// The Hello waits until the machine has said what it does.
    Challenged {
        /// Which.
        link: LinkId,
        /// The master may be an old one: nothing that it says is obeyed.
        doubtful: bool,
        /// How much is told.
        disclosure: Disclosure,
    },
    /// The Hello is out.
    Introduced {
        /// Which.
        link: LinkId,
        /// Its session.
        session: Session,
        /// The master may be an old one: nothing that it says is obeyed.
        doubtful: bool,
    },
    /// Live.
    Live {
        /// Which.
        link: LinkId,
        /// Its session.
        session: Session,
        /// The master may be an old one: nothing that it says is obeyed.
        doubtful: bool,
    },
}

/// How much a slave tells a master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Disclosure {
    /// Who it is: this master is not its own.
    Identity,
    /// And its jobs.
    Jobs,
    /// And the outcomes that it was told to forget: this master's past is in doubt.
    JobsAndOutcomes,
}

/// A connection of this process; of no meaning beyond it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a slave knows only since the agent started.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Volatile {
    /// The kernel's boot.
    pub boot: Option<BootId>,
    /// A name for the next database, if this one turns out to be an old copy.
    pub next_store: Option<StoreId>,
    /// Since when it can tell the master's time.
    pub awake_since: Option<Time>,
    /// A master that it obeys has told it in a Welcome what became of its jobs.
    pub heard: bool,
    /// Jobs of which the machine has been asked and has not said.
    pub probing: BTreeMap<JobId, Probing>,
    /// What the last Hello said of each job: what has changed by the Welcome is told in Settled.
    pub told: BTreeMap<JobId, ReportSeq>,
    /// The master's commit in a handshake that told the recent outcomes: it counts when the master has said something since.
    pub owed: Option<Commit>,
}

/// A question to the machine that it has not answered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Probing {
    /// Since when, in milliseconds since the boot.
    pub since: u64,
    /// It is asked because it would not start, and this is what it said. Not on disk: an agent that finds an intent to
    /// start there asks in any case, and begins anew if nothing had begun.
    pub refused: Option<String>,
}

/// What could not be read of the disk when the agent started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Damage {
    /// What the slave kept about itself, while there were other records.
    pub node: bool,
    /// This many jobs.
    pub jobs: u32,
}

impl Damage {
    /// Nothing on the disk counts: without its own record a slave can't tell whose jobs it holds, nor under which
    /// promises, so the database counts as another.
    pub fn is_total(self) -> bool {
        self.node
    }
}

/// The state that the disk holds; `fresh` names a database that is empty. Without a slave's own record nothing counts
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
        },
        jobs: Jobs::default(),
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
            Write::Job(id, Some(job)) => state.jobs.insert(id, *job),
            Write::Job(id, None) => drop(state.jobs.remove(&id)),
            Write::RecentOutcomes(recent_outcomes) => state.recent_outcomes = Arc::new(recent_outcomes),
        }
    }
    if !known {
        state.jobs = Jobs::default();
        state.recent_outcomes = Arc::default();
    }
    state.jobs.settle();
    state
}

/// The part of the state that the disk holds after the step's writes.
pub fn durable(state: &Slave) -> (Node, BTreeMap<JobId, Job>, Vec<Record>) {
    let jobs = state.jobs.iter().map(|(id, job)| (*id, job.durable())).collect();
    (state.node.clone(), jobs, state.recent_outcomes.to_vec())
}

/// What a Hello says of the jobs.
pub fn snapshot(state: &Slave) -> Vec<Row> {
    state.jobs.values().map(|job| row(&job.report)).collect()
}

pub(super) fn row(report: &Report) -> Row {
    Row {
        job: report.job,
        attempt: report.attempt,
        generation: report.generation,
        seq: report.seq,
        state: report.state,
        progress: report.progress,
    }
}

impl Slave {
    /// The machine was asked what it does with a job and has not answered: until it has, nothing is done to that job.
    /// What is wanted meanwhile is kept, and done by what the machine says.
    pub(super) fn is_unanswered(&self, job: JobId) -> bool {
        self.volatile.probing.contains_key(&job)
    }

    /// How long the machine may go on working before the job overruns; none if it is paused, has no limit, or nothing follows
    /// from an overrun any more.
    pub(super) fn left_to_work(&self, job: &Job, now: Now) -> Option<Millis> {
        let limit = job.spec.max_runtime?;
        let may_overrun =
            job.report.state.is_executing() && !job.run.overrun && !self.is_unanswered(job.report.job);
        let since = job.run.works_since.filter(|_| may_overrun)?;
        let stretch = WorkClock::of(self, now)?.since(since);
        Some(Millis(limit.0.saturating_sub(job.run.worked.0.saturating_add(stretch.0))))
    }
}

/// The part of a [`StartRule`] that a start has to be within.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) not_before: Option<Time>,
    pub(super) deadline: Option<Time>,
}

impl Job {
    /// The window in which its next run has to begin: none if an earlier run met it.
    pub(super) fn window(&self) -> Window {
        if self.window_met {
            return Window::default();
        }
        Window { not_before: self.start.not_before, deadline: self.start.deadline }
    }

    /// Whether it may start depends on the time.
    pub(super) fn is_timed(&self) -> bool {
        let window = self.window();
        let is_released = matches!(self.start.gate, Gate::Released { .. });
        window.not_before.is_some() || window.deadline.is_some() || is_released
    }

    /// Somebody wanted it to end: the master, a person at the machine, or its order because it overran. A machine that
    /// refuses to stop does not change that.
    pub(super) fn is_unwanted(&self) -> bool {
        matches!(self.desired, Desired::Cancel(_))
            || self.run.stopping.is_some()
            || self.run.stop_decided.is_some()
    }

    /// Who wanted it to end, if somebody did.
    pub(super) fn canceled_by(&self) -> Option<Source> {
        self.is_unwanted().then(|| self.run.stop_decided.unwrap_or(Source::Remote))
    }

    /// The job without what need not survive the agent.
    pub(super) fn durable(&self) -> Self {
        let mut job = self.clone();
        job.report.progress = None;
        job.report.note = None;
        job.report.waiting_for = None;
        job.report.seq.count = 0;
        job
    }

    /// The beginning that the report speaks of.
    pub fn work(&self) -> RunKey {
        RunKey { job: self.report.job, attempt: self.report.attempt, run: self.report.run }
    }
}

/// What must hold after every step; the name of the first that does not.
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
        return Some("the ring is bounded");
    }
    None
}

impl super::RunState {
    /// Counts a stretch that began in another boot up to now, so that no clock that is set later changes how long it was.
    pub(super) fn move_stretch(&mut self, clock: WorkClock) {
        if let Some(since) = self.works_since.filter(|since| clock.can_move(*since)) {
            self.worked = Millis(self.worked.0.saturating_add(clock.since(since).0));
            self.works_since = Some(clock.stretch());
        }
    }

    /// The machine says whether it is paused: if that was asked of it, it has answered. Work time counts while it is not.
    pub(super) fn set_paused(&mut self, paused: bool, clock: Option<WorkClock>) {
        self.paused = paused;
        match (clock, self.works_since) {
            (Some(clock), Some(since)) if paused => {
                self.worked = Millis(self.worked.0.saturating_add(clock.since(since).0));
                self.works_since = None;
            }
            (Some(clock), None) if !paused => self.works_since = Some(clock.stretch()),
            (Some(_) | None, _) => {}
        }
        if self.asked_to_pause == Some(paused) {
            self.asked_to_pause = None;
        }
    }
}

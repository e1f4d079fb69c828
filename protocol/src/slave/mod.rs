//! The rules of the node at the machine.
//!
//! A slave favours consistency: what it believes is what is on its disk, and what is on its disk mirrors the machine.
//! It never waits for the master. A link only brings desired states in and truth out; without one, the slave goes on with what
//! it has, starts deferred jobs by itself, keeps outcomes, and tells everything at the next handshake.
//!
//! [`step`] is the one entry. It changes the state by what happened ([`link`](self) for messages, `work` for the
//! machine, the clock and people), then looks at the whole: what may start now, what each job waits for, what has
//! changed. What changed durably is to be written, and what changed at all is told to the master if it listens. So no
//! rule has to remember to write or to report.

mod jobs;
mod link;
pub mod redial;
mod work;

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::jobs::Jobs;

use crate::id::{Attempt, BootId, Commit, Generation, JobId, ReportSeq, Run, Session, SlaveKey, StoreId};
use crate::job::{self, End, State};
use crate::message::{
    Activity, Attention, Challenge, CloseCode, Declined, Flags, MachineReport, MasterBinding, Message,
    OperatingMode, Outcome, Reason, Record, Report, Row, Settled, Source, WaitingFor,
};
use crate::spec::{CancelMode, Desired, Gate, Spec, SpecDigest, StartRule};
use crate::time::{Millis, Time};

/// How many forgotten outcomes a slave remembers, for a master that comes back from a backup.
pub const RECENT_OUTCOMES: usize = 16;

/// How much work is held, in bytes on the wire: a Settled to a master that knows nothing tells all of it, and is one
/// message of at most 256 KiB.
pub const HELD_BYTES: usize = 128 * 1024;

/// The same, of what was told to be forgotten.
pub const RECENT_OUTCOMES_BYTES: usize = 64 * 1024;

/// How long the machine may take to say what it does, after the agent started or a start was refused: a handshake
/// waits for it, and a master waits 10 s for a Hello.
pub const PROBE_PATIENCE: Millis = Millis::seconds(5);

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
    /// After a boot without contact, the wall clock counts.
    pub trust_clock: bool,
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

/// What has to happen after a job failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AfterFailure {
    /// The same as after any other job.
    #[default]
    Release,
    /// Somebody looks at the machine.
    Hold,
}

/// Both of a slave's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Now {
    /// The wall clock: it may be wrong, and it may jump.
    pub wall: Time,
    /// Milliseconds since the kernel's boot, sleep included: it only goes forward.
    pub boot_ms: u64,
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
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sync {
    /// In this boot.
    pub boot: BootId,
    /// At this many milliseconds since the boot...
    pub boot_ms: u64,
    /// ...and this wall clock...
    pub wall: Time,
    /// ...the master's clock showed this.
    pub master: Time,
}

impl Sync {
    /// The master's clock at this many milliseconds since the same boot.
    fn master_at(&self, boot_ms: u64) -> Time {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        self.master.shifted(ms(boot_ms) - ms(self.boot_ms))
    }
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
    /// Its time has come while the slave was there.
    pub due: bool,
    /// Its time passed while the slave was off, and a person has to let it go.
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
    /// When it was first known that the machine works, by the master's clock: `max_runtime` counts from here.
    pub began_at: Option<Time>,
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

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent started, with what was on disk.
    AgentStarted {
        /// The kernel's boot.
        boot: BootId,
        /// The box.
        fingerprint: Option<[u8; 16]>,
        /// The key is older than the database: something else remembered this machine.
        known_key: bool,
        /// A name for the next database.
        next_store: StoreId,
        /// What of it could not be read.
        damage: Damage,
    },
    /// A connection stands; it is the only one.
    LinkOpened {
        /// Which.
        link: LinkId,
        /// What there is to show for enrolment.
        token: Option<String>,
    },
    /// The master said something.
    Received {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
        /// The master's durable commits when it said this.
        commit: Commit,
        /// What.
        message: Message,
        /// Offers in it that this slave's programs cannot do, and why.
        unfit: BTreeMap<JobId, Reason>,
    },
    /// A connection ended.
    LinkClosed {
        /// Which.
        link: LinkId,
    },
    /// The machine did something.
    Machine {
        /// With which job.
        work: RunKey,
        /// What.
        fact: Fact,
    },
    /// A person at the machine wants something.
    Local {
        /// Pairs the reply.
        request: u64,
        /// What.
        command: Local,
    },
    /// A moment came that [`next_deadline`] named.
    TimePassed,
}

/// One beginning of one attempt of one job: what a machine is told to start at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Which beginning.
    pub run: Run,
}

/// What a machine does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It began.
    Started,
    /// It goes on.
    Progressed {
        /// How far, in thousandths.
        permille: Option<u16>,
        /// What the program says that it does.
        note: Option<String>,
    },
    /// It paused.
    Paused,
    /// It goes on after a pause.
    Resumed,
    /// Its work ended.
    Ended(Ended),
    /// It was told to begin what this slave can't or may not do: proof that nothing began.
    StartRejected(Reason),
    /// It would not start, and says why. That is no proof: it may refuse what it has begun before.
    StartRefused(String),
    /// It would not stop.
    StopRefused(String),
    /// It would not pause or resume.
    PauseRefused(String),
    /// It was asked what it did.
    Probed(Probed),
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ended {
    /// How.
    pub end: End,
    /// What it said.
    pub outcome: Outcome,
    /// When, by the box's wall clock.
    pub at: Option<Time>,
}

/// What a machine says when asked about one beginning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probed {
    /// Proof that it never began, and never will.
    NeverStarted,
    /// It works, or is paused.
    Alive {
        /// Paused.
        paused: bool,
        /// How far, in thousandths.
        permille: Option<u16>,
    },
    /// It ended.
    Ended(Ended),
    /// It began, runs no more, and nobody can know how it ended.
    Gone,
    /// It cannot say.
    Unknown(String),
    /// It could not begin, and says why: proof that nothing began. It may also say so unasked, as the answer to a start.
    NotBegun(String),
}

/// What a person at the machine wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Local {
    /// The machine is clear.
    Ready,
    /// What needed attention was looked at.
    Clear,
    /// Pause what runs.
    Pause,
    /// Let it go on.
    Resume,
    /// Stop what runs.
    Stop {
        /// At once, not at a safe point.
        now: bool,
    },
    /// Lock remote starts out, or let them in.
    Lock(bool),
    /// Say how an uncertain job ended.
    Resolve {
        /// Which; the only one if none is named.
        job: Option<JobId>,
        /// How.
        end: End,
    },
}

/// What the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    /// About itself.
    Node(Node),
    /// A job, or that it is gone.
    Job(JobId, Option<Box<Job>>),
    /// The forgotten outcomes.
    RecentOutcomes(Vec<Record>),
}

/// What the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say something to the master; a Hello is signed on the way.
    Send {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
        /// What.
        message: Message,
    },
    /// End a connection.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        code: CloseCode,
        /// Why, for people.
        text: String,
    },
    /// Begin.
    Start {
        /// What.
        work: RunKey,
        /// The work.
        spec: Spec,
    },
    /// End it.
    Stop {
        /// What.
        work: RunKey,
        /// At once, not at a safe point.
        now: bool,
    },
    /// Pause it.
    Pause(RunKey),
    /// Let it go on.
    Resume(RunKey),
    /// Ask the machine what it did.
    Probe {
        /// With what.
        work: RunKey,
        /// The work.
        spec: Spec,
    },
    /// Its outcome is on the master's disk: what the machine kept of it may go.
    Dismiss(RunKey),
    /// Answer a question for a job's output.
    ReadLog {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
        /// Pairs the answer.
        id: u32,
        /// Of which beginning.
        work: RunKey,
        /// From which byte; the end if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
    /// Answer a person at the machine.
    Reply {
        /// Pairs it.
        request: u64,
        /// Done, or why not and what would do it.
        reply: Result<String, String>,
    },
    /// The enrolment token has done its work.
    ForgetToken,
    /// Nothing was done, and why.
    Ignored(Ignored),
}

/// Why the slave did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// The message belongs to another session.
    OtherSession,
    /// The master is older than what this slave has seen: nothing it says is obeyed until a person confirms it there.
    MasterDoubted,
    /// A newer generation of the desired state is known.
    OlderGeneration,
    /// A newer operating mode is known.
    OlderMode,
    /// A job that has not ended is not forgotten.
    NotEnded,
    /// A newer report than the one on the master's disk is not forgotten.
    NewerReport,
    /// The slave does not hold the job that it was told to forget.
    NothingToForget,
    /// The machine speaks of another run than the job's.
    OtherRun,
    /// The machine answers a question that was not asked.
    NotProbed,
    /// The job has ended, and an outcome does not change.
    Ended,
}

/// What one event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// The state after it.
    pub state: Slave,
    /// To be durable before any effect.
    pub persist: Vec<Write>,
    /// To be done then, in order.
    pub effects: Vec<Effect>,
}

/// Why a deadline is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// A job's time comes.
    NotBefore,
    /// A job's window closes.
    Deadline,
    /// A release lapses.
    Release,
    /// A job runs longer than it may.
    MaxRuntime,
    /// The machine has not said what it did.
    Probe,
}

impl Why {
    /// What happens then, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotBefore => "a job's time comes",
            Self::Deadline => "a job's window closes",
            Self::Release => "the word that lets a held job start lapses",
            Self::MaxRuntime => "a job runs longer than its order allows",
            Self::Probe => "the machine is no longer waited for to say what it did",
        }
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

/// What a slave does when something happens.
pub fn step(state: Slave, now: Now, event: Event) -> Step {
    let before = Before {
        node: state.node.clone(),
        recent_outcomes: Arc::clone(&state.recent_outcomes),
        machine: machine_report(&state),
    };
    let mut rules = Rules { state, now, effects: Vec::new(), declined: Vec::new(), settling: None };
    match event {
        Event::AgentStarted { boot, fingerprint, known_key, next_store, damage } => {
            rules.agent_started(boot, fingerprint, known_key, next_store, damage);
        }
        Event::Received { link, session, commit, message, unfit } => {
            rules.received(link, session, commit, message, &unfit);
        }
        Event::LinkOpened { link, token } => {
            rules.state.settings.token = token;
            rules.state.link = Link::Opened { link };
        }
        Event::LinkClosed { link } => rules.link_closed(link),
        Event::Machine { work, fact } => rules.machine(work, fact),
        Event::Local { request, command } => rules.local(request, command),
        Event::TimePassed => {}
    }
    rules.look_around();
    rules.conclude(&before)
}

/// When something will happen by itself, in milliseconds since the boot, and what. To set a timer, `now` is the last step's:
/// what came to pass since then is left out otherwise, and nobody looks.
pub fn next_deadline(state: &Slave, now: Now) -> Option<(u64, Why)> {
    let in_boot = |time: Time, at: Time| now.boot_ms.saturating_add(at.since(time).0);
    let windows = master_time(state, now).into_iter().flat_map(|time| {
        let accepted = state.jobs.values().filter(|job| job.report.state == State::Accepted);
        accepted.flat_map(move |job| {
            let window = job.window();
            let latest = match job.start.gate {
                Gate::Released { latest } => Some(latest),
                Gate::Open | Gate::Held => None,
            };
            let past = |at: Time| Time(at.0.saturating_add(1));
            let moments = [
                (window.not_before, Why::NotBefore),
                (window.deadline.map(past), Why::Deadline),
                (latest.map(past), Why::Release),
            ];
            let upcoming = moments.into_iter().filter_map(|(at, why)| Some((at?, why)));
            upcoming.filter(move |(at, _)| *at > time).map(move |(at, why)| (in_boot(time, at), why))
        })
    });
    let stamp = stamp(state, now);
    let overruns = state.jobs.values().filter(|job| state.may_overrun(job));
    let overruns = overruns.filter_map(|job| Some((in_boot(stamp, job.overruns_at()?), Why::MaxRuntime)));
    let probing = state.volatile.probing.values();
    let probing = probing.map(|asked| (asked.since.saturating_add(PROBE_PATIENCE.0), Why::Probe));
    windows.chain(overruns).chain(probing).min_by_key(|(at, _)| *at)
}

/// What a Hello says of the jobs.
pub fn snapshot(state: &Slave) -> Vec<Row> {
    state.jobs.values().map(|job| row(&job.report)).collect()
}

fn row(report: &Report) -> Row {
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
    fn is_unanswered(&self, job: JobId) -> bool {
        self.volatile.probing.contains_key(&job)
    }

    /// It executes, and its overrun has not been acted upon.
    fn may_overrun(&self, job: &Job) -> bool {
        job.report.state.is_executing() && !job.run.overrun && !self.is_unanswered(job.report.job)
    }
}

/// The part of a [`StartRule`] that a start has to be within.
#[derive(Debug, Clone, Copy, Default)]
struct Window {
    not_before: Option<Time>,
    deadline: Option<Time>,
}

impl Job {
    /// The window in which its next run has to begin: none if an earlier run met it.
    fn window(&self) -> Window {
        if self.window_met {
            return Window::default();
        }
        Window { not_before: self.start.not_before, deadline: self.start.deadline }
    }

    /// From when on the run under way lasts longer than its order allows.
    fn overruns_at(&self) -> Option<Time> {
        Some(self.run.began_at?.after(self.spec.max_runtime?))
    }

    /// Somebody wanted it to end: the master, a person at the machine, or its order because it overran. A machine that
    /// refuses to stop does not change that.
    fn is_unwanted(&self) -> bool {
        matches!(self.desired, Desired::Cancel(_))
            || self.run.stopping.is_some()
            || self.run.stop_decided.is_some()
    }

    /// Who wanted it to end, if somebody did.
    fn canceled_by(&self) -> Option<Source> {
        self.is_unwanted().then(|| self.run.stop_decided.unwrap_or(Source::Remote))
    }

    /// The job without what need not survive the agent.
    fn durable(&self) -> Self {
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

/// The master's time, if this box can tell it.
fn master_time(state: &Slave, now: Now) -> Option<Time> {
    let sync = state.node.sync?;
    if Some(sync.boot) == state.volatile.boot {
        return Some(sync.master_at(now.boot_ms));
    }
    state.settings.trust_clock.then(|| by_wall(state, now, now.wall))
}

/// The best guess at the master's time: what reports are stamped with.
fn stamp(state: &Slave, now: Now) -> Time {
    master_time(state, now).unwrap_or_else(|| by_wall(state, now, now.wall))
}

/// A wall clock reading of this box, by the master's clock.
fn by_wall(state: &Slave, now: Now, wall: Time) -> Time {
    match state.node.sync {
        Some(sync) if Some(sync.boot) == state.volatile.boot => {
            sync.master_at(now.boot_ms).shifted(wall.ahead_of(now.wall))
        }
        Some(sync) => wall.shifted(sync.master.ahead_of(sync.wall)),
        None => wall,
    }
}

/// What a step is compared with at its end; what its jobs were is noted as it reaches for them.
struct Before {
    node: Node,
    recent_outcomes: Arc<Vec<Record>>,
    machine: MachineReport,
}

/// A step under way.
struct Rules {
    state: Slave,
    now: Now,
    effects: Vec<Effect>,
    declined: Vec<Declined>,
    settling: Option<Settling>,
}

/// A Welcome is being applied: its answer is made when everything has come to rest.
struct Settling {
    link: LinkId,
    session: Session,
    doubtful: bool,
    report: BTreeSet<JobId>,
    record: BTreeSet<JobId>,
}

impl Rules {
    fn master_time(&self) -> Option<Time> {
        master_time(&self.state, self.now)
    }

    fn stamp(&self) -> Time {
        stamp(&self.state, self.now)
    }

    fn by_wall(&self, wall: Time) -> Time {
        by_wall(&self.state, self.now, wall)
    }

    /// Moves a job by the table. False: nothing happened, and the effects say why.
    fn apply(&mut self, id: JobId, event: job::Event, source: Source) -> bool {
        let stamp = self.stamp();
        let Some(job) = self.state.jobs.get_mut(&id) else { return false };
        match job::next(job.report.state, event) {
            job::Transition::To(next) => {
                job.report.state = next;
                job.report.source = source;
                if next.is_ended() {
                    job.report.ended_at = job.report.ended_at.or(Some(stamp));
                }
                if !next.is_started() {
                    job.run = RunState::default();
                }
                true
            }
            job::Transition::Unchanged => false,
            job::Transition::Rejected(why) => {
                self.effects.push(Effect::Ignored(Ignored::Job(why)));
                false
            }
        }
    }

    fn reason(&mut self, id: JobId, reason: Reason) {
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.report.reason = Some(reason);
        }
    }

    /// The end of every step: writes what changed durably, tells what changed at all.
    fn conclude(mut self, before: &Before) -> Step {
        let mut persist = Vec::new();
        let mut gone = Vec::new();
        let mut told = Vec::new();
        let starts = self.state.node.starts;
        let noted = self.state.jobs.take_before();
        for (id, was) in &noted {
            let Some(job) = self.state.jobs.get_mut(id) else {
                gone.extend(was.is_some().then_some(Write::Job(*id, None)));
                continue;
            };
            let changed = was.as_ref().is_none_or(|was| was.report != job.report);
            if changed && was.as_ref().is_none_or(|was| was.report.seq == job.report.seq) {
                job.report.seq.start = starts;
                job.report.seq.count += 1;
            }
            if changed {
                told.push(*id);
            }
            let durable = job.durable();
            if was.as_ref().is_none_or(|was| was.durable() != durable) {
                persist.push(Write::Job(*id, Some(Box::new(durable))));
            }
        }
        self.state.jobs.settle();
        persist.append(&mut gone);
        if before.node != self.state.node {
            persist.push(Write::Node(self.state.node.clone()));
        }
        if before.recent_outcomes != self.state.recent_outcomes {
            persist.push(Write::RecentOutcomes(self.state.recent_outcomes.to_vec()));
        }
        let machine = machine_report(&self.state);
        let mut tell = Vec::new();
        if let Some(settling) = self.settling.take() {
            tell.push(Message::Settled(self.settled(&settling, machine)));
            if self.state.settings.token.take().is_some() {
                self.effects.push(Effect::ForgetToken);
            }
            self.state.link =
                Link::Live { link: settling.link, session: settling.session, doubtful: settling.doubtful };
        } else if let Link::Live { .. } = self.state.link {
            let report = |id: &JobId| Message::Report(self.state.jobs[id].report.clone());
            tell.extend(told.iter().map(report));
            tell.extend(self.declined.drain(..).map(Message::Declined));
            if before.machine != machine {
                tell.push(Message::Machine(machine));
            }
        }
        if let Link::Live { link, session, .. } = self.state.link {
            // What is told comes first: a machine is touched after the word of it is on its way.
            let words = tell.into_iter().map(|message| Effect::Send { link, session, message });
            self.effects.splice(0..0, words);
        }
        Step { state: self.state, persist, effects: self.effects }
    }

    fn settled(&self, settling: &Settling, machine: MachineReport) -> Settled {
        let mut report = settling.report.clone();
        let changed = |id: &JobId, job: &Job| self.state.volatile.told.get(id) != Some(&job.report.seq);
        let since_hello = self.state.jobs.iter().filter(|(id, job)| changed(id, job)).map(|(id, _)| id);
        report.extend(since_hello.filter(|id| !settling.record.contains(id)));
        let remembered =
            |id: &&JobId| self.state.recent_outcomes.iter().find(|record| record.report.job == **id);
        let kept = |id: &&JobId| {
            let job = self.state.jobs.get(*id)?;
            Some(Record { spec: job.spec.clone(), start: job.start, report: job.report.clone() })
        };
        let record = |id: &JobId| kept(&id).or_else(|| remembered(&id).cloned());
        Settled {
            session: settling.session,
            reports: report.iter().filter_map(record).map(|record| record.report).collect(),
            records: settling.record.iter().filter_map(record).collect(),
            declined: self.declined.clone(),
            machine,
        }
    }
}

/// The machine's condition, from everything that the slave knows.
pub fn machine_report(state: &Slave) -> MachineReport {
    let executing = state.jobs.values().find(|job| job.report.state.is_executing());
    let uncertain =
        state.jobs.values().find(|job| job.report.state == State::Uncertain).map(|job| job.report.job);
    let activity = match executing.map(|job| job.report.state) {
        _ if !state.volatile.probing.is_empty() => Activity::Unknown,
        Some(State::Starting) => Activity::Preparing,
        Some(State::Paused) => Activity::Paused,
        Some(_) => Activity::Running,
        None if state.node.attention == Some(Attention::Fault) => Activity::Fault,
        None if state.node.attention.is_some() || uncertain.is_some() => Activity::Attention,
        None if state.node.unloading.is_some() => Activity::Unloading,
        None if state.node.local_lock || !state.node.operating_mode.mode.may_start() => Activity::Idle,
        None => Activity::Ready,
    };
    MachineReport {
        activity,
        unloading: state.node.unloading,
        attention: state.node.attention,
        uncertain,
        local_lock: state.node.local_lock,
        operating_mode: state.node.operating_mode,
        cause: state.node.cause.clone().filter(|_| state.node.attention == Some(Attention::MachineUnfit)),
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

fn not_held(
    job: JobId,
    attempt: Attempt,
    generation: Generation,
    reason: Reason,
    for_good: bool,
) -> Declined {
    Declined { job, attempt, generation, reason, for_good }
}

fn fresh_report(job: JobId, attempt: Attempt, generation: Generation, at: Time) -> Report {
    Report {
        job,
        attempt,
        run: Run(0),
        generation,
        seq: crate::id::ReportSeq::default(),
        state: State::Accepted,
        waiting_for: None::<WaitingFor>,
        progress: None,
        note: None,
        accepted_at: at,
        started_at: None,
        started_generation: None,
        ended_at: None,
        outcome: None,
        reason: None,
        flags: Flags::default(),
        source: Source::Remote,
    }
}

/// Whether a master is one that this slave may obey, by what it has seen before.
fn standing(binding: Option<MasterBinding>, challenge: &Challenge) -> Standing {
    match binding {
        None => Standing::New,
        Some(binding) if binding.master != challenge.master => Standing::Foreign,
        Some(binding) if binding.epoch > challenge.epoch => Standing::Old,
        // Just admitted there: nothing of what was forgotten before is on its disk.
        Some(binding) if binding.commit == Commit(0) => Standing::New,
        Some(binding)
            if binding.epoch == challenge.epoch
                && binding.is_ahead_of(challenge.commit, &challenge.begun) =>
        {
            Standing::Old
        }
        Some(binding) if binding.epoch < challenge.epoch => Standing::Restored,
        Some(_) => Standing::Known,
    }
}

/// See [`standing`].
#[derive(Clone, Copy)]
enum Standing {
    New,
    Foreign,
    Old,
    Restored,
    Known,
}

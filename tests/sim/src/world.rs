//! Masters and slaves, links, disks, clocks and machines on one thread: the same rules that run in production, driven
//! only through `step` and `recover`.
//!
//! A disk contains exactly the durable writes: a node may crash between its commit and its effects, and between any two
//! effects ([`World::crash_agent_after`]). A link keeps the order of a session and may be cut at any moment, and its
//! frames may still arrive during a later one. Machines go on without their agents. Clocks jump and drift. Disks are
//! wiped, restored and cloned, masters restored and doubled.
//!
//! After every step the world checks the [`Invariant`]s. The first one that breaks is kept in [`World::broken`].

mod act;
mod checks;
mod disk;
mod fingerprint;
mod idle;
mod invariant;
mod liar;
mod links;
mod machine;
mod moves;
mod nodes;
mod pauses;
mod people;
mod perform;
mod power;
mod progress;
mod stores;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::{BootId, Commit, JobId, Session, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Answer, Enrollment, Master, RequestId};
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::slave::{self, LinkId, Release, RunKey, Settings, Slave};
use reloop_protocol::time::Time;

pub use self::act::{Act, JobAct, LocalAct, Placed, Said, SlaveAct};
pub use self::disk::{MasterDisk, SlaveDisk};
pub use self::invariant::{Broken, Invariant, Ledger, Told};
pub use self::machine::{Machine, Work};
pub use self::people::RELEASED_FOR;
pub use self::perform::{job_id, required};

/// The time at the beginning, in milliseconds since the Unix epoch.
const GENESIS: i64 = 1_700_000_000_000;

/// How many late frames are kept; the oldest are lost.
const STRAYS: usize = 64;

/// With more live jobs, the whole master, its disk and its own invariants are checked only every [`COMPARED_EVERY`]
/// steps: a master that is wrong stays wrong, so it is found later.
const COMPARED_ALWAYS: usize = 24;

/// In these steps and at each start, the whole result of `recover` is compared; in all others the disk is compared with
/// the writes, record by record.
const COMPARED_EVERY: u64 = 64;

/// The initial [`World::patience`]: enough for many slaves with many jobs.
const MOVES: usize = 1_000_000;

/// A slave with everything around it.
#[derive(Debug, Clone)]
pub struct Station {
    /// The state of its rules; `None` while the agent is down.
    pub state: Option<Slave>,
    pub disk: SlaveDisk,
    pub settings: Settings,
    pub machine: Machine,
    pub boot: BootId,
    booted_at: i64,
    /// How far its wall clock is off.
    pub wall_off: i64,
    /// How much too fast its clocks run, in millionths.
    pub drift_ppm: i64,
    /// A time service keeps its wall clock right.
    pub synchronized: bool,
    /// The box's fingerprint; `None` if the agent does not use it.
    pub fingerprint: Option<[u8; 16]>,
    link: Option<Wire>,
    pub cable: bool,
    /// It dials the second master.
    pub dials_double: bool,
    /// The close codes of its last links.
    pub closed: Vec<CloseCode>,
    /// The answers to its people's commands.
    pub replies: Vec<Result<slave::Done, slave::NotDone>>,
    /// Its last reading of the master's clock.
    synced: Option<Synced>,
    saved: Option<Saved>,
    /// It was removed for good.
    pub retired: bool,
    /// The agent crashes after this many more effects.
    fuse: Option<usize>,
    /// The enrolment token that it shows when it connects, as the token's hash.
    token: Option<[u8; 32]>,
    /// The runs that its machine was told to pause.
    told_to_pause: BTreeSet<RunKey>,
    /// The beginnings of runs with a limit of their run time.
    began: BTreeMap<RunKey, Began>,
    /// Its config does not allow work of [`WIDE`] size. It is read when the agent starts.
    pub narrow: bool,
    /// The config that the running agent has read was narrow.
    runs_narrow: bool,
    /// The jobs that it has rejected since its agent started.
    rejected: BTreeSet<JobId>,
}

/// The parameter that a narrow config does not allow.
pub const WIDE: (&str, &str) = ("size", "wide");

/// A reading of the master's clock: when it was taken, how late it arrived, and how far off that clock was.
#[derive(Debug, Clone, Copy, Hash)]
struct Synced {
    at: i64,
    late: i64,
    master_off: i64,
}

/// When a machine began a run, by the world's time, and the largest error of its slave's idea of the master's time
/// since then.
#[derive(Debug, Clone, Copy, Hash)]
struct Began {
    at: i64,
    off: i64,
}

/// A copy of a slave's disk, with what the world knows about it.
#[derive(Debug, Clone, Hash)]
struct Saved {
    disk: SlaveDisk,
    synced: Option<Synced>,
    boot: BootId,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Wire {
    id: LinkId,
    to_master: VecDeque<Message>,
    to_slave: VecDeque<(Session, Commit, Message)>,
    session: Session,
    half_open: bool,
    /// To the second master.
    double: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stray {
    ToSlave(usize, LinkId, Session, Commit, Message),
    ToMaster(bool, LinkId, Message),
}

/// A second master with the same past.
#[derive(Debug, Clone, Default)]
struct Seat {
    state: Option<Master>,
    disk: MasterDisk,
    dead_links: BTreeSet<LinkId>,
    fuse: Option<usize>,
}

#[derive(Debug, Clone)]
pub struct World {
    /// Milliseconds since the beginning.
    pub ms: i64,
    /// The master's state; `None` while it is down.
    pub master: Option<Master>,
    pub master_disk: MasterDisk,
    /// How far the masters' clock is off.
    pub master_off: i64,
    pub enrollment: Enrollment,
    /// How the masters give work to slaves.
    pub placement: master::Placement,
    pub boxes: Vec<Station>,
    pub answers: BTreeMap<RequestId, Answer>,
    /// What the nodes do not know.
    pub ledger: Ledger,
    /// No disk was changed from outside: no slave may lose a job.
    pub disks_are_sound: bool,
    /// Prints every step.
    pub tracing: bool,
    /// A broken invariant is kept in [`World::broken`] and does not panic.
    pub lenient: bool,
    pub broken: Option<Broken>,
    /// The limit of moves in [`World::settle`]: beyond it the nodes never come to rest.
    pub patience: usize,
    /// Steps of both nodes so far.
    pub steps: u64,
    /// Every message that was delivered: the slave and the message's kind...
    pub crossed: Vec<(usize, &'static str)>,
    /// ...if this is set.
    pub keeps_crossed: bool,
    /// The effects of slaves, if a test has set a place for them.
    pub acts: Option<Vec<slave::Effect>>,
    next: u64,
    /// Links that the master believes to be open, and that the slave has lost.
    dead_links: BTreeSet<LinkId>,
    /// Frames that were on their way when their link ended: they may still arrive, when the node is in another session.
    late: VecDeque<Stray>,
    double: Option<Box<Seat>>,
    /// Jobs of a schedule that were placed, known or forgotten.
    pub numbered: BTreeSet<JobId>,
    /// The second master is in the first one's place, during one call.
    swapped: bool,
    backup: Option<MasterDisk>,
    /// The master crashes after this many more effects.
    fuse: Option<usize>,
    /// Links answer pings later and not at once.
    pub pings_are_slow: bool,
    /// The links that were asked, each with whether the second master asked.
    pings: VecDeque<(bool, LinkId)>,
    /// The progress of runs, as each node shows it.
    progress: progress::Progress,
}

impl World {
    /// A master and this many connected slaves with the programs `mill` and `bake`.
    pub fn new(slaves: usize) -> Self {
        let mut world = Self::bare();
        for number in 0..slaves {
            world.add_slave(&format!("s{number}"));
        }
        world.settle();
        world
    }

    pub fn bare() -> Self {
        let mut world = Self {
            ms: 0,
            master: None,
            master_disk: MasterDisk::default(),
            master_off: 0,
            enrollment: Enrollment::Open,
            placement: master::Placement::default(),
            boxes: Vec::new(),
            answers: BTreeMap::new(),
            ledger: Ledger::default(),
            disks_are_sound: false,
            tracing: std::env::var_os("RELOOP_TRACE").is_some(),
            lenient: false,
            broken: None,
            patience: MOVES,
            steps: 0,
            crossed: Vec::new(),
            keeps_crossed: true,
            acts: None,
            next: 1,
            dead_links: BTreeSet::new(),
            late: VecDeque::new(),
            double: None,
            numbered: BTreeSet::new(),
            swapped: false,
            backup: None,
            fuse: None,
            pings_are_slow: false,
            pings: VecDeque::new(),
            progress: progress::Progress::default(),
        };
        world.start_master();
        world
    }

    /// Prints a line if [`World::tracing`] is set.
    fn note(&self, line: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>9} {}", self.ms, line());
        }
    }

    /// Reports that an invariant does not hold. Panics unless the world is [lenient](World::lenient).
    pub fn violate(&mut self, invariant: Invariant, how: impl Into<String>) {
        let broken = Broken { invariant, how: how.into() };
        self.note(|| broken.to_string());
        assert!(self.lenient, "{broken}");
        self.broken.get_or_insert(broken);
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn bytes(&mut self) -> [u8; 16] {
        u128::from(self.fresh()).to_be_bytes()
    }

    pub fn now(&self) -> Time {
        Time(GENESIS + self.ms + self.master_off)
    }

    /// Adds a slave and connects it.
    pub fn add_slave(&mut self, name: &str) -> usize {
        let settings = self.settings(name);
        self.add_box(settings)
    }

    /// The settings of a plain slave with a new key.
    pub fn settings(&mut self, name: &str) -> Settings {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.bytes());
        Settings {
            name: name.to_owned(),
            agent: "test".to_owned(),
            key: SlaveKey(key),
            programs: vec!["bake".to_owned(), "mill".to_owned()],
            labels: BTreeMap::new(),
            capacity: 4,
            deferred_capacity: 16,
            release: Release::Auto,
            after_failure: slave::AfterFailure::Release,
            trust_clock: slave::TrustClock::Never,
            late_tolerance: slave::LATE_TOLERANCE,
            max_interruptions: 3,
            max_failures_in_row: 3,
            token: None,
        }
    }

    /// Adds a slave with these settings and connects it.
    pub fn add_box(&mut self, settings: Settings) -> usize {
        let slave = self.add_station(settings, SlaveDisk::default());
        self.start_agent(slave, false);
        slave
    }

    fn add_station(&mut self, settings: Settings, disk: SlaveDisk) -> usize {
        let boot = BootId(self.bytes());
        self.boxes.push(Station {
            state: None,
            disk,
            settings,
            machine: Machine { length_ms: 10_000, ..Machine::default() },
            boot,
            booted_at: self.ms,
            wall_off: 0,
            drift_ppm: 0,
            synchronized: false,
            fingerprint: None,
            link: None,
            cable: true,
            dials_double: false,
            closed: Vec::new(),
            replies: Vec::new(),
            synced: None,
            saved: None,
            retired: false,
            fuse: None,
            token: None,
            told_to_pause: BTreeSet::new(),
            began: BTreeMap::new(),
            narrow: false,
            runs_narrow: false,
            rejected: BTreeSet::new(),
        });
        self.boxes.len() - 1
    }

    /// Forgets answers and messages that only tests read, and all but so many late frames: the model check copies the
    /// world many times.
    pub fn forget_the_past(&mut self, late: usize) {
        self.answers.clear();
        self.crossed.clear();
        self.master_disk.receipts.clear();
        for held in &mut self.boxes {
            held.replies.clear();
            let older = held.closed.len().saturating_sub(1);
            held.closed.drain(..older);
        }
        while self.late.len() > late {
            self.late.pop_front();
        }
    }

    /// The number of the machine's facts that the slave has not received.
    pub fn unheard(&self, slave: usize) -> usize {
        self.boxes[slave].machine.facts.len()
    }

    /// The number of messages on their way to a slave, and from it.
    pub fn under_way(&self, slave: usize) -> (usize, usize) {
        self.boxes[slave].link.as_ref().map_or((0, 0), |wire| (wire.to_slave.len(), wire.to_master.len()))
    }

    /// Whether a slave has a link, and whether that link swallows everything.
    pub fn link(&self, slave: usize) -> Option<bool> {
        self.boxes[slave].link.as_ref().map(|wire| wire.half_open)
    }

    /// A job as the master knows it, from its memory or its disk.
    pub fn find_job(&self, id: JobId) -> Option<Cow<'_, master::Job>> {
        let live = self.master.as_ref().and_then(|master| master.book.jobs.get(&id));
        live.or_else(|| self.master_disk.jobs.get(&id).map(Cow::Borrowed))
    }

    /// The same of a job that must be there; panics if it is lost.
    pub fn job(&self, id: JobId) -> master::Job {
        self.find_job(id).map(Cow::into_owned).expect("an acknowledged order is never lost")
    }

    /// The job's state at the master.
    pub fn state(&self, id: JobId) -> State {
        self.find_job(id).expect("an acknowledged order is never lost").state
    }

    /// The job's state at a slave.
    pub fn on_slave(&self, slave: usize, id: JobId) -> Option<State> {
        self.boxes[slave].state.as_ref()?.jobs.get(&id).map(|job| job.report.state)
    }

    /// The slave that the master believes to have the job.
    pub fn holder(&self, id: JobId) -> Option<usize> {
        let key = self.job(id).holder?;
        self.boxes.iter().position(|held| held.settings.key == key)
    }

    /// How often a job was begun, on all machines.
    pub fn begun(&self, id: JobId) -> u32 {
        let works = self.boxes.iter().flat_map(|held| &held.machine.begun);
        works.filter(|(work, _)| work.job == id).map(|(_, count)| count).sum()
    }
}

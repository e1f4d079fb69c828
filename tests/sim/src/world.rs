//! Masters and slaves, links, disks, clocks and machines on one thread: the same rules that run in production, driven
//! only through `step` and `recover`.
//!
//! A disk keeps exactly the durable writes: a node may crash between what it wrote and what it does, and between any
//! two things that it does ([`World::crash_agent_after`]). Links keep the order of a session, may be cut at any moment, and
//! what was under way may still arrive in a later one. Machines go on without their agents. Clocks jump and drift.
//! Disks are wiped, put back and cloned, masters restored and doubled.
//!
//! After every step the world checks the [`Invariant`]s. The first that breaks ends the story: [`World::broken`].

mod act;
mod checks;
mod disk;
mod fingerprint;
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
pub use self::perform::job_id;

/// When the world begins, in milliseconds since the Unix epoch.
const GENESIS: i64 = 1_700_000_000_000;

/// How many late frames are kept: the oldest are lost for good.
const STRAYS: usize = 64;

/// Worlds with more live jobs look at the whole master, its disk and its own invariants, only now and then: what is
/// wrong with it stays wrong, so it is found all the same.
const COMPARED_ALWAYS: usize = 24;

/// How often they do. As often, and at each start, what `recover` makes of a disk is compared as a whole; else what is
/// on the disk is compared with what should be there, record by record.
const COMPARED_EVERY: u64 = 64;

/// What [`World::patience`] is at first: enough for many slaves with many jobs.
const MOVES: usize = 1_000_000;

/// A slave with everything around it.
#[derive(Debug, Clone)]
pub struct Station {
    /// Its rules' state; none while the agent is dead.
    pub state: Option<Slave>,
    /// Its disk.
    pub disk: SlaveDisk,
    /// Its config.
    pub settings: Settings,
    /// Its machine.
    pub machine: Machine,
    /// The kernel's boot.
    pub boot: BootId,
    booted_at: i64,
    /// How far its wall clock is off.
    pub wall_off: i64,
    /// How much too fast its clocks run, in millionths.
    pub drift_ppm: i64,
    /// A time service keeps its wall clock right.
    pub synchronized: bool,
    /// The box itself, as the agent recognises it; none if it does not look.
    pub fingerprint: Option<[u8; 16]>,
    link: Option<Wire>,
    /// The cable is in.
    pub cable: bool,
    /// It dials the double of its master.
    pub dials_double: bool,
    /// How its last links were closed.
    pub closed: Vec<CloseCode>,
    /// What its people were told.
    pub replies: Vec<Result<slave::Done, slave::NotDone>>,
    /// How well it knows the master's time: when it read it, how late the reading was, how far off that master's clock.
    synced: Option<Synced>,
    saved: Option<Saved>,
    /// It was taken away for good.
    pub retired: bool,
    /// The agent crashes after this many more effects.
    fuse: Option<usize>,
    /// The enrolment token that it shows when it connects, by the token's hash.
    token: Option<[u8; 32]>,
    /// The runs that its machine was told to pause.
    told_to_pause: BTreeSet<RunKey>,
    /// The beginnings of those runs that may last only so long.
    began: BTreeMap<RunKey, Began>,
}

/// A reading of a master's clock: when it was, how late it arrived, and how far off that clock was then.
#[derive(Debug, Clone, Copy, Hash)]
struct Synced {
    at: i64,
    late: i64,
    master_off: i64,
}

/// When a machine began something, by the world's time, and how far its slave's idea of the master's time was off at most
/// since then.
#[derive(Debug, Clone, Copy, Hash)]
struct Began {
    at: i64,
    off: i64,
}

/// A copy of a slave's disk, with what the world knows beside it.
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
    /// Swallows everything.
    half_open: bool,
    /// To the master's double.
    double: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stray {
    ToSlave(usize, LinkId, Session, Commit, Message),
    ToMaster(bool, LinkId, Message),
}

/// The other one of two masters with the same past.
#[derive(Debug, Clone, Default)]
struct Seat {
    state: Option<Master>,
    disk: MasterDisk,
    dead_links: BTreeSet<LinkId>,
    fuse: Option<usize>,
}

/// The world.
#[derive(Debug, Clone)]
pub struct World {
    /// Milliseconds since the beginning.
    pub ms: i64,
    /// The master's state; none while it is dead.
    pub master: Option<Master>,
    /// The master's disk.
    pub master_disk: MasterDisk,
    /// How far the masters' clock is off.
    pub master_off: i64,
    /// How slaves are enrolled.
    pub enrollment: Enrollment,
    /// The slaves.
    pub boxes: Vec<Station>,
    /// Answers to clients.
    pub answers: BTreeMap<RequestId, Answer>,
    /// What the nodes do not know.
    pub ledger: Ledger,
    /// No disk was touched: nobody may say that something vanished.
    pub disks_are_sound: bool,
    /// Every step is printed.
    pub tracing: bool,
    /// A broken invariant is kept in [`World::broken`], and does not panic.
    pub lenient: bool,
    /// The first invariant that broke.
    pub broken: Option<Broken>,
    /// More moves than any settling takes: beyond it, the nodes talk in circles.
    pub patience: usize,
    /// Steps of both nodes so far.
    pub steps: u64,
    /// Every message that crossed, for those who want to count...
    pub crossed: Vec<(usize, &'static str)>,
    /// ...if it is to be kept.
    pub keeps_crossed: bool,
    /// What slaves were told to do by their rules, for those who want to look; kept only once there is a place for it.
    pub acts: Option<Vec<slave::Effect>>,
    next: u64,
    /// Links that the master believes in and that are dead to the slave.
    dead_links: BTreeSet<LinkId>,
    /// Frames that were under way when their link died: they may still arrive, at a node that is in another session.
    late: VecDeque<Stray>,
    double: Option<Box<Seat>>,
    /// Jobs of a schedule that were placed, whether they are still known or not.
    pub numbered: BTreeSet<JobId>,
    /// The double sits in the master's place, for the length of one call.
    swapped: bool,
    backup: Option<MasterDisk>,
    /// The master crashes after this many more effects.
    fuse: Option<usize>,
    /// Whoever is asked whether its link still lives takes its time to answer.
    pub pings_are_slow: bool,
    /// The links of which that was asked: at the double or not, and which.
    pings: VecDeque<(bool, LinkId)>,
    /// How far the runs are, by everybody who shows it.
    progress: progress::Progress,
}

impl World {
    /// A master and this many slaves, all connected, with the programs `mill` and `bake`.
    pub fn new(slaves: usize) -> Self {
        let mut world = Self::bare();
        for number in 0..slaves {
            world.add_slave(&format!("s{number}"));
        }
        world.settle();
        world
    }

    /// A master alone.
    pub fn bare() -> Self {
        let mut world = Self {
            ms: 0,
            master: None,
            master_disk: MasterDisk::default(),
            master_off: 0,
            enrollment: Enrollment::Open,
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

    /// Everything that happens, line by line, when [`World::tracing`] is on.
    fn note(&self, line: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>9} {}", self.ms, line());
        }
    }

    /// Tells that an invariant does not hold.
    ///
    /// # Panics
    /// Unless the world is [lenient](World::lenient).
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

    /// The masters' clock.
    pub fn now(&self) -> Time {
        Time(GENESIS + self.ms + self.master_off)
    }

    /// Adds a slave and plugs it in.
    pub fn add_slave(&mut self, name: &str) -> usize {
        let settings = self.settings(name);
        self.add_box(settings)
    }

    /// A plain slave's config, with a new key.
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
            release: Release::Auto,
            after_failure: slave::AfterFailure::Release,
            trust_clock: slave::TrustClock::Never,
            late_tolerance: slave::LATE_TOLERANCE,
            max_interruptions: 3,
            token: None,
        }
    }

    /// Adds a slave that is told this by its config, and plugs it in.
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
        });
        self.boxes.len() - 1
    }

    /// Forgets what only people could ask for, and keeps no more than so many frames of dead links: a world of which
    /// many copies are made has to stay small.
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

    /// What a slave's machine has to say and has not been heard.
    pub fn unheard(&self, slave: usize) -> usize {
        self.boxes[slave].machine.facts.len()
    }

    /// What is under way to a slave, and from it.
    pub fn under_way(&self, slave: usize) -> (usize, usize) {
        self.boxes[slave].link.as_ref().map_or((0, 0), |wire| (wire.to_slave.len(), wire.to_master.len()))
    }

    /// Whether a slave has a link, and whether it swallows everything.
    pub fn link(&self, slave: usize) -> Option<bool> {
        self.boxes[slave].link.as_ref().map(|wire| wire.half_open)
    }

    /// A job as the master knows it: from memory, or from disk.
    pub fn find_job(&self, id: JobId) -> Option<Cow<'_, master::Job>> {
        let live = self.master.as_ref().and_then(|master| master.book.jobs.get(&id));
        live.or_else(|| self.master_disk.jobs.get(&id).map(Cow::Borrowed))
    }

    /// The same, of a job that must be there.
    ///
    /// # Panics
    /// If it is lost.
    pub fn job(&self, id: JobId) -> master::Job {
        self.find_job(id).map(Cow::into_owned).expect("an acknowledged order is never lost")
    }

    /// What the master says that a job is.
    pub fn state(&self, id: JobId) -> State {
        self.find_job(id).expect("an acknowledged order is never lost").state
    }

    /// What a slave says that a job is.
    pub fn on_slave(&self, slave: usize, id: JobId) -> Option<State> {
        self.boxes[slave].state.as_ref()?.jobs.get(&id).map(|job| job.report.state)
    }

    /// Which slave the master believes has it.
    pub fn holder(&self, id: JobId) -> Option<usize> {
        let key = self.job(id).holder?;
        self.boxes.iter().position(|held| held.settings.key == key)
    }

    /// How often a job was begun, on any machine.
    pub fn begun(&self, id: JobId) -> u32 {
        let works = self.boxes.iter().flat_map(|held| &held.machine.begun);
        works.filter(|(work, _)| work.job == id).map(|(_, count)| count).sum()
    }
}

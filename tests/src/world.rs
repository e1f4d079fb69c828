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
mod disk;
mod fingerprint;
mod invariant;
mod machine;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::{Attempt, BootId, JobId, MasterId, OrderId, Session, SlaveKey, StoreId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::limits;
use reloop_protocol::master::{
    self, Answer, Delivery, Enrollment, JobCommand, Master, Order, RequestId, Retry, SlaveCommand,
};
use reloop_protocol::message::{CloseCode, Flags, Message, ReasonCode, Report};
use reloop_protocol::slave::{self, LinkId, Local, Now, Release, RunKey, Settings, Slave};
use reloop_protocol::spec::{CancelMode, Desired, Gate, Late, OnOverdue, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire;

pub use self::act::{Act, JobAct, LocalAct, Placed, SlaveAct, job_id};
pub use self::disk::{MasterDisk, SlaveDisk};
pub use self::invariant::{Broken, Invariant, Ledger, Told};
pub use self::machine::{Machine, Work};

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

/// Session and signature around a message, in bytes.
const FRAME_BYTES: usize = 9 + 1 + 64;

/// A peer closes the link at a message that it does not take.
fn is_heard(message: &Message) {
    assert_eq!(limits::check(message), Ok(()), "{} is not taken by any peer", kind(message));
    let size = wire::encode(message).len() + FRAME_BYTES;
    assert!(
        size <= wire::MAX_MESSAGE,
        "a {} of {size} bytes was to be sent: no peer takes it",
        kind(message)
    );
}

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
    pub replies: Vec<Result<String, String>>,
    /// How well it knows the master's time: when it read it, how late the reading was, how far off that master's clock.
    synced: Option<Synced>,
    saved: Option<Saved>,
    /// It was taken away for good.
    pub retired: bool,
    /// The agent crashes after this many more effects.
    fuse: Option<usize>,
}

/// A reading of a master's clock: when it was, how late it arrived, and how far off that clock was then.
#[derive(Debug, Clone, Copy, Hash)]
struct Synced {
    at: i64,
    late: i64,
    master_off: i64,
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
    to_slave: VecDeque<(Session, Message)>,
    session: Session,
    /// Swallows everything.
    half_open: bool,
    /// To the master's double.
    double: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Stray {
    ToSlave(usize, LinkId, Session, Message),
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
            trust_clock: false,
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
        });
        self.boxes.len() - 1
    }

    /// Starts the master from its disk.
    pub fn start_master(&mut self) {
        let fresh = MasterId(self.bytes());
        let settings = master::Settings { enrollment: self.enrollment };
        let state = master::recover(settings, fresh, self.master_disk.records());
        self.master_disk.write(master::Write::Node(state.node));
        if !self.master_disk.holds(&state) {
            self.violate(Invariant::DiskIsState, "a master that has just started");
        }
        self.master = Some(state);
        let lost: Vec<_> = self
            .ledger
            .acknowledged
            .iter()
            .filter(|id| !self.master_disk.orders.contains_key(id))
            .copied()
            .collect();
        for order in lost {
            if self.disks_are_sound && !self.swapped {
                self.violate(Invariant::AcknowledgedOrderKept, format!("{order} is not on the disk"));
            }
            self.ledger.acknowledged.remove(&order);
        }
    }

    /// Kills the master: every link to it dies.
    pub fn kill_master(&mut self) {
        self.master = None;
        self.fuse = None;
        let swapped = self.swapped;
        for slave in 0..self.boxes.len() {
            if self.boxes[slave].link.as_ref().is_some_and(|wire| wire.double == swapped)
                && let Some(wire) = self.boxes[slave].link.take()
            {
                let id = wire.id;
                self.strand(slave, wire);
                self.slave_event(slave, slave::Event::LinkClosed { link: id });
            }
        }
        self.dead_links.clear();
    }

    /// Starts a slave's agent from its disk.
    pub fn start_agent(&mut self, slave: usize, known_key: bool) {
        let fresh = StoreId(self.bytes());
        let next_store = StoreId(self.bytes());
        let held = &mut self.boxes[slave];
        let state = slave::recover(held.settings.clone(), fresh, held.disk.records());
        held.state = Some(state);
        held.fuse = None;
        held.machine.facts.clear();
        let (boot, fingerprint) = (held.boot, held.fingerprint);
        let damage = slave::Damage::default();
        let started = slave::Event::AgentStarted { boot, fingerprint, known_key, next_store, damage };
        self.slave_event(slave, started);
    }

    /// Kills a slave's agent; its machine goes on.
    pub fn kill_agent(&mut self, slave: usize) {
        self.drop_link(slave);
        self.boxes[slave].state = None;
        self.boxes[slave].fuse = None;
    }

    /// Lets a slave's agent crash once it has done this many more things: what it decided is on its disk by then.
    pub fn crash_agent_after(&mut self, slave: usize, effects: usize) {
        if self.boxes[slave].state.is_some() {
            self.boxes[slave].fuse = Some(effects);
        }
    }

    /// Lets the master crash once it has done this many more things: what it decided is on its disk by then.
    pub fn crash_master_after(&mut self, effects: usize) {
        if self.master.is_some() {
            self.fuse = Some(effects);
        }
    }

    /// Takes the crashes back that have not happened; true if there was one.
    pub fn defuse(&mut self) -> bool {
        let agents = self.boxes.iter_mut().filter_map(|held| held.fuse.take()).count();
        self.fuse.take().is_some() || agents > 0
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

    /// Nobody crashes any more who has not yet.
    pub fn disarm(&mut self) {
        self.fuse = None;
        if let Some(seat) = &mut self.double {
            seat.fuse = None;
        }
        for held in &mut self.boxes {
            held.fuse = None;
        }
    }

    /// Pulls a slave's power, and puts it back: agent and work are gone.
    pub fn reboot(&mut self, slave: usize) {
        self.kill_agent(slave);
        let boot = BootId(self.bytes());
        let ms = self.ms;
        let held = &mut self.boxes[slave];
        held.boot = boot;
        held.booted_at = ms;
        held.synced = None;
        held.machine.lose_power();
        self.start_agent(slave, true);
    }

    /// Replaces a slave's disk, but for its key.
    pub fn replace_disk(&mut self, slave: usize) {
        self.kill_agent(slave);
        self.memory_is_lost(slave);
        self.boxes[slave].disk = SlaveDisk::default();
        self.boxes[slave].synced = None;
        self.start_agent(slave, true);
    }

    /// Copies a slave's disk, for [`World::put_back_disk`].
    pub fn save_disk(&mut self, slave: usize) {
        let held = &mut self.boxes[slave];
        held.saved = Some(Saved { disk: held.disk.clone(), synced: held.synced, boot: held.boot });
    }

    /// Puts a slave's saved disk back in: its store goes back in time.
    pub fn put_back_disk(&mut self, slave: usize) {
        let Some(saved) = self.boxes[slave].saved.clone() else { return };
        self.kill_agent(slave);
        self.memory_is_lost(slave);
        let held = &mut self.boxes[slave];
        held.disk = saved.disk;
        held.synced = saved.synced.filter(|_| saved.boot == held.boot);
        self.memory_is_lost(slave);
        self.start_agent(slave, true);
    }

    /// Puts a copy of a slave's disk, key included, into another box with another machine.
    pub fn clone_box(&mut self, slave: usize) -> usize {
        self.memory_is_lost(slave);
        let original = &self.boxes[slave];
        let (settings, disk, length_ms) =
            (original.settings.clone(), original.disk.clone(), original.machine.length_ms);
        self.ledger.cloned.insert(settings.key);
        let clone = self.add_station(settings, disk);
        let number = u8::try_from(clone).unwrap_or(u8::MAX);
        self.boxes[clone].fingerprint = Some([number; 16]);
        self.boxes[clone].machine.length_ms = length_ms;
        self.start_agent(clone, true);
        clone
    }

    /// Takes a box away for good.
    pub fn retire(&mut self, slave: usize) {
        self.kill_agent(slave);
        self.boxes[slave].cable = false;
        self.boxes[slave].retired = true;
        self.boxes[slave].machine.lose_power();
    }

    /// What the disk of a slave holds now, what the masters believe to be there, and what its machine was told to begin,
    /// is not promised any more: the disk is about to forget it, or to know it twice.
    fn memory_is_lost(&mut self, slave: usize) {
        let held = &self.boxes[slave];
        let key = held.settings.key;
        let mut torn: BTreeSet<JobId> = held.disk.jobs().map(|job| job.report.job).collect();
        torn.extend(held.machine.begun.keys().map(|work| work.job));
        let seat = self.double.as_ref().map(|seat| &seat.disk);
        for disk in [Some(&self.master_disk), seat].into_iter().flatten() {
            let there = disk.jobs.values().filter(|job| !job.state.is_ended() && job.holder == Some(key));
            torn.extend(there.map(|job| job.id));
        }
        self.ledger.torn.extend(torn);
        self.ledger.wishes.retain(|(of, ..), _| *of != slave);
        let told = std::mem::take(&mut self.ledger.outcomes);
        let kept = told.into_iter().filter_map(|((id, attempt, of), mut told)| {
            if of == slave {
                told.retold = true;
            }
            let lost = of == slave && !self.masters_know(id, attempt, told.state);
            (!lost).then_some(((id, attempt, of), told))
        });
        self.ledger.outcomes = kept.collect();
    }

    /// Backs the master's files up.
    pub fn back_up_master(&mut self) {
        self.backup = Some(self.master_disk.clone());
    }

    /// Whether there is a backup to put back.
    pub fn is_backed_up(&self) -> bool {
        self.backup.is_some()
    }

    /// Puts the master's backup back; a person confirms that, or forgets to.
    pub fn restore_master(&mut self, confirmed: bool) {
        let Some(backup) = self.backup.clone() else { return };
        self.kill_master();
        self.master_disk = backup;
        self.master_forgot(confirmed);
        self.start_master();
        if confirmed {
            self.confirm_restore();
        }
    }

    /// A person confirms that this master was restored, and is the one.
    pub fn confirm_restore(&mut self) {
        let request = RequestId(self.fresh());
        self.master_event(master::Event::RestoreConfirmed { request });
    }

    /// The master loses all its data.
    pub fn wipe_master(&mut self) {
        self.kill_master();
        self.master_disk = MasterDisk::default();
        self.master_forgot(true);
        self.start_master();
    }

    /// What the master's disk does not hold any more is promised only as far as slaves remember it, and notice that they
    /// are asked for it: by an epoch that they have not seen.
    fn master_forgot(&mut self, confirmed: bool) {
        let disk = &self.master_disk;
        let seen = |node: &master::Node| {
            let bonds = self.boxes.iter().filter_map(|held| held.disk.node()?.bond);
            bonds.filter(|bond| bond.master == node.id).any(|bond| bond.epoch > node.epoch)
        };
        let confirmed = confirmed && !disk.node().is_some_and(seen);
        self.ledger.masters_forgot = true;
        self.ledger.acknowledged.retain(|order| disk.orders.contains_key(order));
        let canceled = |job: &master::Job| job.state.is_ended() || matches!(job.desired, Desired::Cancel(_));
        self.ledger.canceled.retain(|job, _| disk.jobs.get(job).is_some_and(canceled));
        // By the master's book they are at their slaves, which were told to forget them, or gave them back.
        let boxes = &self.boxes;
        let remembered = |job: &master::Job, holder: SlaveKey| {
            boxes.iter().any(|held| held.settings.key == holder && held.disk.remembers(job.id, None))
        };
        let live = disk.jobs.values().filter(|job| !job.state.is_ended());
        let torn = live
            .filter(|job| !confirmed || job.holder.is_some_and(|holder| !remembered(job, holder)))
            .map(|job| job.id);
        self.ledger.torn.extend(torn);
        self.outcomes_are_forgotten(confirmed);
    }

    /// Outcomes that neither the master nor a slave knows any more, or that only a master that is gone was told. Slaves tell
    /// what they were told to forget if they notice that the master went back in time: its epoch says so.
    fn outcomes_are_forgotten(&mut self, noticed: bool) {
        let told = std::mem::take(&mut self.ledger.outcomes);
        let boxes = &self.boxes;
        let disk = &self.master_disk;
        let kept = told.into_iter().filter(|((id, attempt, slave), told)| {
            let slave = &boxes[*slave].disk;
            // Of a job that it holds again, a slave tells the newest attempt.
            let overshadowed = slave.job(*id).is_some_and(|job| job.report.attempt != *attempt);
            let held = slave.job(*id).is_some_and(|job| job.report.attempt == *attempt);
            let remembered = noticed && slave.remembers(*id, Some(*attempt)) && !overshadowed;
            disk.knows(*id, *attempt, told.state) || held || remembered
        });
        self.ledger.outcomes = kept.collect();
    }

    /// Somebody starts a second master on a copy of the master's files; a person may raise its epoch.
    pub fn double_master(&mut self, confirmed: bool) {
        if self.double.is_some() {
            return;
        }
        self.ledger.masters_forgot = true;
        self.ledger.split = !confirmed;
        self.ledger.was_split |= !confirmed;
        let live = self.master_disk.jobs.values().filter(|job| !job.state.is_ended());
        self.ledger.torn.extend(live.map(|job| job.id));
        let disk = self.master_disk.clone();
        self.double = Some(Box::new(Seat { disk, ..Seat::default() }));
        self.at(true, |world| {
            world.start_master();
            if confirmed {
                world.confirm_restore();
            }
        });
    }

    /// Whether there is a second master.
    pub fn is_doubled(&self) -> bool {
        self.double.is_some()
    }

    /// The second master goes for good; all slaves dial the first again.
    pub fn end_double(&mut self) {
        if self.double.is_none() {
            return;
        }
        for slave in 0..self.boxes.len() {
            self.dial(slave, false);
        }
        self.at(true, Self::kill_master);
        self.double = None;
        self.ledger.split = false;
        self.outcomes_are_forgotten(false);
        self.late.retain(|late| !matches!(late, Stray::ToMaster(true, ..)));
    }

    /// Points a slave at the master or at its double.
    pub fn dial(&mut self, slave: usize, double: bool) {
        if self.boxes[slave].dials_double != double && (!double || self.double.is_some()) {
            self.drop_link(slave);
            self.boxes[slave].dials_double = double;
            self.boxes[slave].closed.clear();
        }
    }

    /// Runs something with the double in the master's place, or not.
    fn at<R>(&mut self, double: bool, act: impl FnOnce(&mut Self) -> R) -> R {
        if self.swapped == double {
            return act(self);
        }
        self.swap();
        let result = act(self);
        self.swap();
        result
    }

    fn swap(&mut self) {
        let Some(seat) = &mut self.double else { return };
        std::mem::swap(&mut self.master, &mut seat.state);
        std::mem::swap(&mut self.master_disk, &mut seat.disk);
        std::mem::swap(&mut self.dead_links, &mut seat.dead_links);
        std::mem::swap(&mut self.fuse, &mut seat.fuse);
        self.swapped = !self.swapped;
    }

    /// Pulls the cable: both ends notice.
    pub fn cut(&mut self, slave: usize) {
        self.boxes[slave].cable = false;
        self.drop_link(slave);
    }

    /// The slave's end notices; the master's does not.
    pub fn half_open(&mut self, slave: usize) {
        self.boxes[slave].cable = false;
        if let Some(wire) = self.boxes[slave].link.take() {
            self.at(wire.double, |world| world.dead_links.insert(wire.id));
            self.slave_event(slave, slave::Event::LinkClosed { link: wire.id });
        }
    }

    /// Swallows everything on the link; neither end notices.
    pub fn swallow(&mut self, slave: usize) {
        if let Some(wire) = &mut self.boxes[slave].link {
            wire.half_open = true;
            wire.to_master.clear();
            wire.to_slave.clear();
        }
    }

    /// Puts the cable back.
    pub fn plug(&mut self, slave: usize) {
        self.boxes[slave].cable = true;
    }

    /// What was under way on a dead link.
    fn strand(&mut self, slave: usize, wire: Wire) {
        let (id, double) = (wire.id, wire.double);
        let to_slave = wire.to_slave.into_iter().map(|(session, m)| Stray::ToSlave(slave, id, session, m));
        let to_master = wire.to_master.into_iter().map(|message| Stray::ToMaster(double, id, message));
        self.late.extend(to_slave.chain(to_master));
        while self.late.len() > STRAYS {
            self.late.pop_front();
        }
    }

    fn drop_link(&mut self, slave: usize) {
        let Some(wire) = self.boxes[slave].link.take() else { return };
        let (id, double) = (wire.id, wire.double);
        self.strand(slave, wire);
        if self.boxes[slave].state.is_some() {
            self.slave_event(slave, slave::Event::LinkClosed { link: id });
        }
        let last_heard = self.now();
        self.at(double, |world| {
            world.master_event(master::Event::LinkClosed { link: id, last_heard });
        });
    }

    /// How many frames of dead links are still under way.
    pub fn late_frames(&self) -> usize {
        self.late.len()
    }

    /// A frame of a dead link arrives all the same: nothing may come of it.
    pub fn deliver_late(&mut self, which: usize) {
        let Some(late) = self.late.remove(which % self.late.len().max(1)) else { return };
        match late {
            Stray::ToSlave(slave, link, session, message) => {
                let unfit = BTreeMap::new();
                let known = self.boxes[slave]
                    .disk
                    .node()
                    .map(|node| (node.conduct, node.bond, node.sync, node.session));
                let begun = self.boxes[slave].machine.begun.len();
                self.slave_event(slave, slave::Event::Received { link, session, message, unfit });
                let held = &self.boxes[slave];
                let now = held.disk.node().map(|node| (node.conduct, node.bond, node.sync, node.session));
                if held.machine.begun.len() != begun || known.is_some() && now != known {
                    self.violate(Invariant::OldSessionIgnored, format!("slave {slave} obeyed {link:?}"));
                }
            }
            Stray::ToMaster(double, link, message) => self.at(double, |world| {
                let commit = world.master.as_ref().map(|master| master.node.commit);
                let event = match message {
                    Message::Hello(hello) => master::Event::HelloReceived { link, hello, token: None },
                    message => master::Event::Received { link, message },
                };
                // A queued job's window may close in any step.
                let passed = world.master.as_ref().and_then(master::next_deadline);
                let quiet = passed.is_none_or(|at| at > world.now());
                world.master_event(event);
                let crashed = world.master.is_none();
                if quiet && !crashed && commit != world.master.as_ref().map(|master| master.node.commit) {
                    world.violate(Invariant::OldSessionIgnored, format!("the master heeded {link:?}"));
                }
            }),
        }
    }

    fn connect(&mut self, slave: usize) {
        let id = LinkId(self.fresh());
        let double = self.boxes[slave].dials_double;
        let wire = Wire {
            id,
            to_master: VecDeque::new(),
            to_slave: VecDeque::new(),
            session: Session(0),
            half_open: false,
            double,
        };
        self.boxes[slave].link = Some(wire);
        self.slave_event(slave, slave::Event::LinkOpened { link: id, token: None });
        self.at(double, |world| world.master_event(master::Event::LinkOpened { link: id, nonce: [0; 32] }));
    }

    /// Steps the master; nothing happens while it is dead.
    pub fn master_event(&mut self, event: master::Event) {
        let now = self.now();
        let Some(mut state) = self.master.take() else { return };
        let unknown = master::unknown_jobs(&state, &event);
        let recalled: Vec<_> =
            unknown.iter().filter_map(|id| self.master_disk.jobs.get(id).cloned()).collect();
        if !recalled.is_empty() {
            state = master::step(state, now, master::Event::Recalled(recalled)).state;
        }
        let orders = master::unknown_orders(&event);
        let orders: Vec<_> =
            orders.iter().filter_map(|id| self.master_disk.orders.get(id).cloned()).collect();
        if !orders.is_empty() {
            state = master::step(state, now, master::Event::OrdersRecalled(orders)).state;
        }
        let shown = self.tracing.then(|| format!("{event:?}"));
        let step = master::step(state, now, event);
        self.steps += 1;
        self.note(|| {
            let seat = if self.swapped { "double" } else { "master" };
            let wrote: Vec<_> = step.persist.iter().map(disk::name_master_write).collect();
            format!("{seat} {} => {:?}; wrote {}", shown.unwrap_or_default(), step.effects, wrote.join(", "))
        });
        for write in step.persist {
            if let master::Write::Job(job) = &write {
                self.check_vanished(job);
            }
            self.master_disk.write(write);
        }
        let now_and_then = self.steps.is_multiple_of(COMPARED_EVERY);
        if step.state.book.jobs.len() <= COMPARED_ALWAYS || now_and_then {
            if let Some(broken) = master::broken_invariant(&step.state) {
                self.violate(Invariant::NodeInvariant, format!("master: {broken}"));
            }
            let mut same = self.master_disk.holds(&step.state);
            if same && now_and_then {
                let live = self.master_disk.live_records();
                let back = master::recover(step.state.settings, step.state.node.id, live);
                same = master::durable(&back) == master::durable(&step.state);
            }
            if !same {
                self.violate(Invariant::DiskIsState, "master");
            }
        }
        self.master = Some(step.state);
        for effect in step.effects {
            if self.fuse == Some(0) {
                return self.kill_master();
            }
            self.fuse = self.fuse.map(|left| left - 1);
            self.master_effect(effect);
            if self.master.is_none() {
                return;
            }
        }
    }

    fn master_effect(&mut self, effect: master::Effect) {
        match effect {
            master::Effect::Send { link, message } => {
                is_heard(&message);
                if let Some(wire) =
                    self.boxes.iter_mut().filter_map(|b| b.link.as_mut()).find(|w| w.id == link)
                    && !wire.half_open
                {
                    wire.to_slave.push_back((wire.session, message));
                }
            }
            master::Effect::Close { link, code, .. } => {
                let last_heard = self.now();
                if let Some(slave) =
                    self.boxes.iter().position(|b| b.link.as_ref().is_some_and(|w| w.id == link))
                {
                    let held = &mut self.boxes[slave];
                    held.closed.push(code);
                    // What was sent before the close arrives before it.
                    let pending: Vec<_> =
                        held.link.take().into_iter().flat_map(|wire| wire.to_slave).collect();
                    for (session, message) in pending {
                        self.slave_event(
                            slave,
                            slave::Event::Received { link, session, message, unfit: BTreeMap::new() },
                        );
                    }
                    self.slave_event(slave, slave::Event::LinkClosed { link });
                }
                self.dead_links.remove(&link);
                self.master_event(master::Event::LinkClosed { link, last_heard });
            }
            master::Effect::Probe { link } => {
                let alive =
                    self.boxes.iter().filter_map(|b| b.link.as_ref()).any(|w| w.id == link && !w.half_open);
                self.master_event(master::Event::LinkProbed { link, alive });
            }
            master::Effect::Answer { request, answer } => self.answered(request, answer),
            master::Effect::JobChanged(_) | master::Effect::SlaveChanged(_) | master::Effect::Ignored(_) => {}
        }
    }

    fn check_vanished(&mut self, job: &master::Job) {
        let vanished = job.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Vanished);
        if !vanished || !self.disks_are_sound || self.ledger.torn.contains(&job.id) {
            return;
        }
        if job.holder.is_none_or(|holder| !self.ledger.cloned.contains(&holder)) {
            self.violate(Invariant::NothingVanishes, format!("the master says that {} vanished", job.id));
        }
    }

    fn answered(&mut self, request: RequestId, answer: Answer) {
        if let Answer::Placed { order, .. } = &answer {
            if !self.master_disk.orders.contains_key(order) {
                self.violate(Invariant::AcknowledgedOrderKept, "acknowledged before it was on the disk");
            }
            // What the double takes is lost with it: a person decides which of the two stays.
            if !self.swapped {
                self.ledger.acknowledged.insert(*order);
            }
        }
        self.answers.insert(request, answer);
    }

    /// What a slave's wall clock shows.
    pub fn wall(&self, slave: usize) -> i64 {
        self.slave_now(slave).wall.0
    }

    /// A slave's clocks.
    pub fn slave_now(&self, slave: usize) -> Now {
        let held = &self.boxes[slave];
        let awake = self.ms - held.booted_at;
        let drifted = awake + awake * held.drift_ppm / 1_000_000;
        Now {
            wall: Time(GENESIS + held.booted_at + drifted + held.wall_off),
            boot_ms: u64::try_from(drifted).unwrap_or(0),
        }
    }

    /// Steps a slave; nothing happens while its agent is dead.
    pub fn slave_event(&mut self, slave: usize, event: slave::Event) {
        let now = self.slave_now(slave);
        let Some(state) = self.boxes[slave].state.take() else { return };
        let shown = self.tracing.then(|| format!("{event:?}"));
        let sync_before = state.node.sync;
        let step = slave::step(state, now, event);
        self.steps += 1;
        self.note(|| {
            let wrote: Vec<_> = step.persist.iter().map(disk::name_slave_write).collect();
            format!(
                "slave {slave} {} => {:?}; wrote {}",
                shown.unwrap_or_default(),
                step.effects,
                wrote.join(", ")
            )
        });
        if let Some(sync) = step.state.node.sync
            && step.state.node.sync != sync_before
        {
            let late = self.now().0.saturating_sub(sync.master.0);
            self.boxes[slave].synced = Some(Synced { at: self.ms, late, master_off: self.master_off });
        }
        for write in step.persist {
            self.check_slave_write(slave, &write);
            self.boxes[slave].disk.write(write);
        }
        if let Some(broken) = slave::broken_invariant(&step.state) {
            self.violate(Invariant::NodeInvariant, format!("slave {slave}: {broken}"));
        }
        let held = &mut self.boxes[slave];
        let mut same = held.disk.holds(&step.state);
        if same && held.disk.node().is_some() && self.steps.is_multiple_of(COMPARED_EVERY) {
            let back = slave::recover(held.settings.clone(), step.state.node.store, held.disk.records());
            same = slave::durable(&back) == slave::durable(&step.state);
        }
        held.state = Some(step.state);
        if !same {
            self.violate(Invariant::DiskIsState, format!("slave {slave}"));
        }
        if let Some(acts) = &mut self.acts {
            acts.extend(step.effects.iter().cloned());
        }
        for effect in step.effects {
            let fuse = &mut self.boxes[slave].fuse;
            if *fuse == Some(0) {
                return self.kill_agent(slave);
            }
            *fuse = fuse.map(|left| left - 1);
            self.slave_effect(slave, effect);
            if self.boxes[slave].state.is_none() {
                return;
            }
        }
    }

    /// What a slave's disk may be told, given what it holds.
    fn check_slave_write(&mut self, slave: usize, write: &slave::Write) {
        match write {
            slave::Write::Node(node) => {
                let before = self.boxes[slave].disk.node().and_then(|before| before.bond);
                if let (Some(before), Some(after)) = (before, node.bond)
                    && before.master == after.master
                    && before.epoch > after.epoch
                {
                    self.violate(Invariant::EpochsGoForward, format!("slave {slave}"));
                }
            }
            slave::Write::Job(id, Some(job)) => {
                let (attempt, rev) = (job.report.attempt, job.report.rev);
                let held = &self.boxes[slave];
                let two_masters = self.ledger.split && held.dials_double;
                if two_masters || self.ledger.cloned.contains(&held.settings.key) {
                    self.ledger.torn.insert(*id);
                }
                let newest = self.ledger.wishes.entry((slave, *id, attempt)).or_insert(rev);
                if *newest > rev {
                    self.violate(Invariant::WishesGoForward, format!("slave {slave}, {id}"));
                } else {
                    *newest = rev;
                }
                if job.report.state.is_ended() {
                    let told =
                        Told { state: job.report.state, outcome: job.report.outcome.clone(), retold: false };
                    let known =
                        self.ledger.outcomes.entry((*id, attempt, slave)).or_insert_with(|| told.clone());
                    if known.retold {
                        *known = Told { retold: true, ..told };
                    } else if *known != told {
                        let how = format!("slave {slave}, {id}: {known:?} became {told:?}");
                        self.violate(Invariant::OutcomeKept, how);
                    }
                }
            }
            slave::Write::Job(id, None) => {
                let Some(job) = self.boxes[slave].disk.job(*id) else { return };
                let (state, attempt) = (job.report.state, job.report.attempt);
                if self.ledger.masters_forgot {
                    // A master that does not remember this hand-out makes it again, and counts its wishes anew.
                    self.ledger.wishes.remove(&(slave, *id, attempt));
                }
                if state.is_started() {
                    self.violate(
                        Invariant::NothingDestroyed,
                        format!("slave {slave} let go of {id}, {state:?}"),
                    );
                }
                let excused = self.ledger.torn.contains(id) || self.ledger.master_lies;
                if state.is_ended() && !excused && !self.masters_know(*id, attempt, state) {
                    let how = format!("slave {slave} forgot {id}, {state:?}, which is on no master's disk");
                    self.violate(Invariant::OutcomeKept, how);
                }
            }
            slave::Write::Ring(_) => {}
        }
    }

    fn masters_know(&self, id: JobId, attempt: Attempt, state: State) -> bool {
        self.master_disk.knows(id, attempt, state)
            || self.double.as_ref().is_some_and(|seat| seat.disk.knows(id, attempt, state))
    }

    fn slave_effect(&mut self, slave: usize, effect: slave::Effect) {
        let held = &mut self.boxes[slave];
        match effect {
            slave::Effect::Send { link, session, message } => {
                is_heard(&message);
                if let Some(wire) = held.link.as_mut().filter(|wire| wire.id == link && !wire.half_open) {
                    wire.session = session;
                    wire.to_master.push_back(message);
                }
            }
            slave::Effect::Close { link, code, .. } => {
                if held.link.as_ref().is_some_and(|wire| wire.id == link) {
                    held.closed.push(code);
                    self.drop_link(slave);
                }
            }
            slave::Effect::Start { work, .. } => self.begin(slave, work),
            slave::Effect::Stop { work, .. } => held.machine.stop(work),
            slave::Effect::Pause(work) => held.machine.pause(work, true),
            slave::Effect::Resume(work) => held.machine.pause(work, false),
            slave::Effect::Probe { work, .. } => held.machine.probe(work),
            slave::Effect::Dismiss(_)
            | slave::Effect::ReadLog { .. }
            | slave::Effect::ForgetToken
            | slave::Effect::Ignored(_) => {}
            slave::Effect::Reply { reply, .. } => held.replies.push(reply),
        }
    }

    /// A machine is told to begin.
    fn begin(&mut self, slave: usize, work: RunKey) {
        self.check_start(slave, work);
        self.boxes[slave].machine.start(work);
        let held = &self.boxes[slave];
        let torn = &self.ledger.torn;
        let again =
            held.machine.begun.get(&work).is_some_and(|count| *count > 1) && !torn.contains(&work.job);
        let alive: Vec<_> = held.machine.alive().filter(|work| !torn.contains(&work.job)).collect();
        if again {
            self.violate(Invariant::BegunOnce, format!("slave {slave} began {work:?} again"));
        }
        if alive.len() > 1 {
            self.violate(Invariant::OneWorkPerMachine, format!("slave {slave}: {alive:?}"));
        }
    }

    fn check_start(&mut self, slave: usize, work: RunKey) {
        let held = &self.boxes[slave];
        let Some(state) = &held.state else { return };
        let node = &state.node;
        let barred = node.local_lock
            || node.attention.is_some()
            || node.unloading.is_some()
            || !node.conduct.mode.may_start();
        let Some(job) = state.jobs.get(&work.job) else { return };
        let outside = self.outside_window(slave, job);
        if barred {
            self.violate(Invariant::StartWhenReady, format!("slave {slave} starts {}", work.job));
        }
        if let Some(how) = outside {
            self.violate(Invariant::StartInWindow, format!("slave {slave} starts {}: {how}", work.job));
        }
    }

    /// Whether this is not the time for a job, by the clock of the master that the slave heard last.
    fn outside_window(&self, slave: usize, job: &slave::Job) -> Option<String> {
        let held = &self.boxes[slave];
        if job.start.gate == Gate::Held {
            return Some("nobody let it go".to_owned());
        }
        // Begun again after an interruption: its start was in time.
        let again = job.report.run != reloop_protocol::id::Run(1);
        let timed = job.start.not_before.is_some()
            || job.start.deadline.is_some()
            || matches!(job.start.gate, Gate::Released { .. });
        if again || !timed {
            return None;
        }
        let Some(Synced { at, late, master_off }) = held.synced else {
            let by_wall = held.settings.trust_clock;
            return (!by_wall).then(|| "it cannot tell the master's time".to_owned());
        };
        let time = GENESIS + self.ms + master_off;
        let drift = (self.ms - at) * held.drift_ppm.abs() / 1_000_000 + 1;
        if let Some(not_before) = job.start.not_before
            && !matches!(job.start.gate, Gate::Released { .. })
            && time + drift - late.min(0) < not_before.0
        {
            return Some(format!("{} ms early", not_before.0 - time));
        }
        let latest = match job.start.gate {
            Gate::Released { latest } => Some(latest),
            Gate::Open | Gate::Held => None,
        };
        [job.start.deadline, latest]
            .into_iter()
            .flatten()
            .find(|latest| time - drift - late.max(0) > latest.0)
            .map(|latest| format!("{} ms late", time - latest.0))
    }

    /// Moves one message, fact or connection; false when nothing is left to move.
    pub fn pump(&mut self) -> bool {
        (0..self.boxes.len()).any(|slave| self.pump_one(slave))
    }

    /// The same, of one slave.
    pub fn pump_one(&mut self, slave: usize) -> bool {
        self.hear_machine(slave) || self.dial_in(slave) || self.to_slave(slave) || self.to_master(slave)
    }

    /// Lets a slave hear its machine's next word.
    pub fn hear_machine(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        if held.state.is_none() {
            return false;
        }
        let Some((work, fact)) = held.machine.facts.pop_front() else { return false };
        self.slave_event(slave, slave::Event::Machine { work, fact });
        true
    }

    /// Whether a slave is not connected, and could be.
    pub fn can_dial(&self, slave: usize) -> bool {
        let held = &self.boxes[slave];
        if held.state.is_none() || held.link.is_some() || !held.cable {
            return false;
        }
        let refused = held.closed.last().is_some_and(|code| !code.is_passing());
        let up = if held.dials_double == self.swapped {
            self.master.is_some()
        } else {
            self.double.as_ref().is_some_and(|seat| seat.state.is_some())
        };
        up && !refused
    }

    /// Lets a slave connect, if it is not and can.
    pub fn dial_in(&mut self, slave: usize) -> bool {
        let dials = self.can_dial(slave);
        if dials {
            self.connect(slave);
        }
        dials
    }

    /// Delivers the next message to a slave.
    pub fn to_slave(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        let (Some(wire), true) = (&mut held.link, held.state.is_some()) else { return false };
        let link = wire.id;
        let Some((session, message)) = wire.to_slave.pop_front() else { return false };
        if self.keeps_crossed {
            self.crossed.push((slave, kind(&message)));
        }
        self.slave_event(slave, slave::Event::Received { link, session, message, unfit: BTreeMap::new() });
        true
    }

    /// Delivers a slave's next message to its master.
    pub fn to_master(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        let (Some(wire), true) = (&mut held.link, held.state.is_some()) else { return false };
        let (link, double) = (wire.id, wire.double);
        let Some(message) = wire.to_master.pop_front() else { return false };
        if self.keeps_crossed {
            self.crossed.push((slave, kind(&message)));
        }
        let event = match message {
            Message::Hello(hello) => master::Event::HelloReceived { link, hello, token: None },
            message => master::Event::Received { link, message },
        };
        self.at(double, |world| world.master_event(event));
        true
    }

    /// Starts a slave's agent if it is dead.
    pub fn revive(&mut self, slave: usize) {
        if self.boxes[slave].state.is_none() {
            self.start_agent(slave, true);
        }
    }

    /// Lets time pass without waiting for what it brings.
    pub fn pass_some(&mut self, ms: i64) {
        self.ms += ms;
        for slave in 0..self.boxes.len() {
            let wall = self.slave_now(slave).wall.0;
            let held = &mut self.boxes[slave];
            held.machine.work(ms, wall, held.state.is_some());
            self.slave_event(slave, slave::Event::TimePassed);
        }
        self.master_event(master::Event::TimePassed);
        self.at(true, |world| {
            if world.swapped {
                world.master_event(master::Event::TimePassed);
            }
        });
    }

    /// Moves everything that can move without time.
    pub fn settle(&mut self) {
        let mut moves = 0;
        let mut idle = false;
        while !idle {
            idle = true;
            for slave in 0..self.boxes.len() {
                while self.broken.is_none() && self.pump_one(slave) {
                    idle = false;
                    moves += 1;
                    if moves > self.patience {
                        return self
                            .violate(Invariant::ComesToRest, format!("after {} moves", self.patience));
                    }
                }
            }
        }
    }

    /// Lets time pass, in steps, with everything that it brings.
    pub fn pass(&mut self, ms: i64) {
        let end = self.ms + ms;
        self.settle();
        while self.ms < end && self.broken.is_none() {
            self.pass_some((end - self.ms).min(500));
            self.settle();
        }
    }

    /// A plain order of one job.
    pub fn order(&mut self, program: &str) -> Order {
        let job = JobId(self.bytes());
        let order = OrderId(self.bytes());
        Order {
            id: order,
            created_at: self.now(),
            jobs: vec![job],
            spec: Spec {
                order,
                name: None,
                program: program.to_owned(),
                params: BTreeMap::new(),
                max_runtime: None,
                on_overdue: OnOverdue::Flag,
                on_interrupt: OnInterrupt::Hold,
            },
            slave: None,
            requires: BTreeMap::new(),
            start: StartRule::default(),
            retry: Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
        }
    }

    /// Places an order; gives its first job.
    pub fn place(&mut self, order: Order) -> JobId {
        let job = order.jobs[0];
        if order.start.deadline.is_some() || order.start.late == Late::Skip {
            self.ledger.timed.insert(job);
        }
        let request = RequestId(self.fresh());
        self.master_event(master::Event::OrderPlaced {
            request,
            order: Box::new(order),
            key: None,
            known: None,
        });
        job
    }

    /// Commands a job; gives the answer.
    pub fn command(&mut self, job: JobId, command: JobCommand) -> Option<Answer> {
        let request = RequestId(self.fresh());
        match command {
            // What a person decides is a person's to answer for.
            JobCommand::Abandon => {
                self.ledger.given_away.insert(job);
                self.ledger.abandoned.insert(job);
            }
            JobCommand::Resolve(_) => {
                self.ledger.given_away.insert(job);
                self.ledger.resolved.insert(job);
                self.look_at_machines(Some(job));
            }
            JobCommand::Retry => drop(self.ledger.given_away.insert(job)),
            JobCommand::Release { .. } if self.ledger.masters_forgot => {
                self.ledger.given_away.insert(job);
            }
            JobCommand::Reschedule { deadline, late, .. } => {
                if deadline.is_some() || late == Late::Skip {
                    self.ledger.timed.insert(job);
                }
            }
            JobCommand::Cancel(_) => drop(self.ledger.cancel_asked.insert(job)),
            JobCommand::Pause | JobCommand::Resume | JobCommand::Release { .. } => {}
        }
        self.master_event(master::Event::JobsCommanded { request, jobs: vec![job], command });
        let answer = self.answers.get(&request).cloned();
        let in_time = |told: &[(JobId, Delivery)]| told.iter().any(|(_, told)| *told != Delivery::TooLate);
        if matches!(&answer, Some(Answer::Taken(told)) if in_time(told)) {
            let refused = |held: &Station| held.machine.went_on.iter().any(|work| work.job == job);
            let begun = |held: &Station| held.machine.begun.keys().any(|work| work.job == job);
            let is_over = match self.ledger.canceled.get(&job) {
                Some(CancelMode::IfNotStarted) => self.boxes.iter().any(begun),
                Some(CancelMode::SafePoint | CancelMode::Now) => self.boxes.iter().any(refused),
                None => false,
            };
            match command {
                JobCommand::Cancel(mode) => {
                    let hardest = self.ledger.canceled.entry(job).or_insert(mode);
                    *hardest = mode.max(*hardest);
                }
                // Whoever lets a job go on that could not be stopped has given the cancel up.
                JobCommand::Pause | JobCommand::Resume if is_over => drop(self.ledger.canceled.remove(&job)),
                _ => {}
            }
        }
        answer
    }

    /// Whoever says how an uncertain job ended, or that a machine is clear, has seen to it that nothing works there of
    /// which the slave does not know.
    fn look_at_machines(&mut self, job: Option<JobId>) {
        for held in &mut self.boxes {
            let concerned = job.is_none_or(|job| held.machine.knows(job));
            if concerned {
                let executing = held.state.as_ref().and_then(|state| {
                    state.jobs.values().find(|job| job.report.state.is_executing()).map(slave::Job::work)
                });
                held.machine.clear_by_hand(executing);
            }
        }
    }

    /// Commands a slave; gives the answer, if it has come.
    pub fn command_slave(&mut self, slave: usize, command: SlaveCommand) -> Option<Answer> {
        let request = self.command_slave_now(slave, command);
        self.settle();
        self.answers.get(&request).cloned()
    }

    /// Commands a slave, and does not wait for what comes of it.
    pub fn command_slave_now(&mut self, slave: usize, command: SlaveCommand) -> RequestId {
        let request = RequestId(self.fresh());
        let key = self.boxes[slave].settings.key;
        if command == SlaveCommand::Clear {
            self.look_at_machines(None);
        }
        self.master_event(master::Event::SlaveCommanded { request, slave: key, command });
        request
    }

    /// A person acts at a machine.
    pub fn local(&mut self, slave: usize, command: Local) -> Option<Result<String, String>> {
        let request = self.fresh();
        if let Local::Resolve { .. } = command {
            let uncertain = self.boxes[slave].state.iter().flat_map(|state| state.jobs.values());
            let uncertain = uncertain.filter(|job| job.report.state == State::Uncertain);
            self.ledger.resolved.extend(uncertain.map(|job| job.report.job));
        }
        if matches!(command, Local::Clear | Local::Resolve { .. }) {
            let held = &mut self.boxes[slave];
            let executing = held.state.as_ref().and_then(|state| {
                state.jobs.values().find(|job| job.report.state.is_executing()).map(slave::Job::work)
            });
            held.machine.clear_by_hand(executing);
        }
        self.slave_event(slave, slave::Event::Local { request, command });
        self.boxes[slave].replies.last().cloned()
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

    /// What must hold of jobs whose story is told: every question answered, every fault mended, every link up.
    pub fn check_converged(&mut self, jobs: &[JobId]) {
        for slave in 0..self.boxes.len() {
            if self.boxes[slave].retired {
                continue;
            }
            let Some(state) = &self.boxes[slave].state else {
                return self.violate(Invariant::Converges, format!("slave {slave} is dead"));
            };
            let kept: Vec<_> = state.jobs.values().map(|job| (job.report.job, job.report.state)).collect();
            if !kept.is_empty() {
                self.violate(Invariant::ViewsEqual, format!("slave {slave} keeps {kept:?}"));
            }
        }
        self.check_acknowledged();
        let unheard = self
            .ledger
            .outcomes
            .keys()
            .find(|(id, ..)| !self.ledger.torn.contains(id) && self.find_job(*id).is_none());
        if let Some((id, attempt, slave)) = unheard {
            let how = format!("no master has heard of {id}, attempt {attempt}, which ended on slave {slave}");
            self.violate(Invariant::OutcomeKept, how);
        }
        for id in jobs {
            let Some(job) = self.find_job(*id).map(Cow::into_owned) else { continue };
            if !job.state.is_ended() {
                let how = self.tell(*id);
                self.violate(Invariant::Converges, how);
                continue;
            }
            self.check_places(*id, &job);
            self.check_outcomes(*id, &job);
            if let Some(how) = self.undemanded(&job) {
                self.violate(Invariant::Converges, how);
            }
        }
    }

    fn check_acknowledged(&mut self) {
        let disk = &self.master_disk;
        let kept = |order: &OrderId| {
            let order = disk.orders.get(order);
            order.is_some_and(|order| order.jobs.iter().all(|job| disk.jobs.contains_key(job)))
        };
        if let Some(order) = self.ledger.acknowledged.iter().find(|order| !kept(order)).copied() {
            self.violate(Invariant::AcknowledgedOrderKept, format!("{order} is not on the disk"));
        }
    }

    fn check_places(&mut self, id: JobId, job: &master::Job) {
        let begun: Vec<RunKey> = self
            .boxes
            .iter()
            .flat_map(|held| held.machine.begun.keys().copied())
            .filter(|work| work.job == id)
            .collect();
        let attempts: BTreeSet<_> = begun.iter().map(|work| work.attempt).collect();
        let restartable = job.spec.on_interrupt == OnInterrupt::Restart;
        let decided = self.ledger.given_away.contains(&id);
        let torn = self.ledger.torn.contains(&id);
        // A restored master counts its hand-outs anew.
        let recounted = decided && self.ledger.masters_forgot;
        if begun.len() > attempts.len() && !restartable && !torn && !recounted {
            self.violate(Invariant::AttemptBegunOnce, format!("{id}: {begun:?}"));
        }
        let places = self.boxes.iter().filter(|held| held.machine.knows(id)).count();
        let retried = job.events.iter().filter(|event| event.state == State::Queued).count() > 1;
        // A master that lost its data does not remember that it was tried again; the attempts tell.
        let retried = retried || self.ledger.masters_forgot && attempts.len() >= places;
        if places > 1 && !decided && !retried && !torn {
            self.violate(Invariant::OnePlace, format!("{id} ran in {places} places"));
        }
    }

    fn check_outcomes(&mut self, id: JobId, job: &master::Job) {
        let told = |report: &Option<Report>| report.as_ref().map(|report| (report.attempt, report.state));
        let told_by_slaves = self.ledger.outcomes.range((id, Attempt(0), 0)..);
        let unheard =
            told_by_slaves.take_while(|((of, ..), _)| *of == id).find(|((_, attempt, _), ended)| {
                let this = Some((*attempt, ended.state));
                !ended.retold
                    && !self.ledger.torn.contains(&id)
                    && told(&job.report) != this
                    && !job.earlier.iter().any(|earlier| told(&earlier.report) == this)
            });
        if let Some(((_, attempt, _), ended)) = unheard {
            let how = format!("{id}: the master never learned that attempt {attempt} was {:?}", ended.state);
            return self.violate(Invariant::OutcomeKept, how);
        }
        if self.ledger.canceled.contains_key(&id)
            && !self.ledger.given_away.contains(&id)
            && !self.ledger.torn.contains(&id)
            && job.state == State::Succeeded
            && !job.all_flags().has(Flags::CANCEL_TOO_LATE)
        {
            let how = format!("{id} succeeded, and its cancel is forgotten");
            self.violate(Invariant::CancelAndOutcomeKept, how);
        }
    }

    /// How a job ended, if nothing that really happened says so.
    fn undemanded(&self, job: &master::Job) -> Option<String> {
        let id = job.id;
        let ledger = &self.ledger;
        let ended = |end: End| {
            let works =
                self.boxes.iter().flat_map(|held| held.machine.works.keys().map(move |key| (held, *key)));
            let mut works = works.filter(|(_, key)| key.job == id && key.attempt == job.attempt);
            works.any(|(held, key)| held.machine.ended(key).is_some_and(|ended| ended.end == end))
        };
        let report = job.report.as_ref().filter(|report| report.state == job.state);
        let reason = report.and_then(|report| report.reason.as_ref()).or(job.reason.as_ref());
        let reason = reason.map(|reason| reason.code);
        let known = reason == Some(ReasonCode::Resolved) || ledger.torn.contains(&id);
        let resolved = ledger.resolved.contains(&id) && known;
        // A machine that a memory from the past has begun again keeps only the newer end.
        let again =
            |held: &Station| held.machine.begun.iter().any(|(work, count)| work.job == id && *count > 1);
        let begun_again = ledger.torn.contains(&id) && self.boxes.iter().any(again);
        let demanded = match job.state {
            State::Succeeded => ended(End::Succeeded) || resolved || begun_again,
            State::Failed => match reason {
                _ if ended(End::Failed) || resolved || begun_again => true,
                // The reason may have been overwritten by that of a later refusal.
                _ => job.spec.on_interrupt == OnInterrupt::Fail && job.all_flags().has(Flags::INTERRUPTED),
            },
            State::Canceled => match reason {
                // A stop that was refused, or that came after the end, leaves its reason behind.
                // What was given up before it began is called off, and so is what one of two masters does not know.
                Some(ReasonCode::Canceled) => {
                    ledger.cancel_asked.contains(&id) || ledger.abandoned.contains(&id) || ledger.was_split
                }
                Some(ReasonCode::Abandoned) => {
                    ledger.masters_forgot || ledger.given_away.contains(&id) || job.last_attempt > Attempt(1)
                }
                Some(ReasonCode::MaxRuntime) => job.spec.on_overdue == OnOverdue::Stop,
                _ => true,
            },
            State::Expired => ledger.timed.contains(&id),
            State::Rejected => self.boxes.iter().any(|held| held.machine.refused > 0),
            State::Lost => ledger.abandoned.contains(&id),
            State::Queued
            | State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain => false,
        };
        (!demanded).then(|| format!("nothing says that {} is {:?}, by {reason:?}", self.tell(id), job.state))
    }

    /// Whether every waiting job can say why.
    pub fn check_explained(&mut self) {
        let Some(master) = &self.master else { return };
        let now = self.now();
        let mute = master
            .book
            .jobs
            .values()
            .filter(|job| job.state == State::Queued)
            .find(|job| master::explain(master, job, now).summary.is_empty())
            .map(|job| job.id);
        if let Some(id) = mute {
            self.violate(Invariant::WaitingIsExplained, id.to_string());
        }
    }

    /// Everything about a job in a few lines, for people.
    pub fn tell(&self, id: JobId) -> String {
        use std::fmt::Write as _;
        let Some(job) = self.find_job(id) else { return format!("{id} is not known to the master") };
        let holder = job.holder.and_then(|key| self.boxes.iter().position(|held| held.settings.key == key));
        let mut text = format!(
            "{id} {:?} desired {:?} rev {} attempt {}/{} holder {holder:?} start {:?} reason {:?} report {:?}\n  earlier {:?}",
            job.state,
            job.desired,
            job.rev,
            job.attempt,
            job.last_attempt,
            job.start,
            job.reason,
            job.report.as_ref().map(|r| (r.state, r.rev, r.seq, r.waiting_for, &r.reason)),
            job.earlier.iter().map(|e| (e.attempt, e.state)).collect::<Vec<_>>(),
        );
        for (slave, held) in self.boxes.iter().enumerate() {
            let Some(state) = &held.state else { continue };
            let job = state.jobs.get(&id).map(|job| {
                let r = &job.report;
                (r.state, r.attempt, r.rev, r.waiting_for, job.desired, job.start.gate, job.missed)
            });
            let full: Vec<_> = state.jobs.values().map(|job| (job.report.job, job.report.state)).collect();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n  slave {slave}: {job:?} link {:?} unloading {:?} attention {:?} mode {:?} closed {:?} holds {full:?}",
                state.link,
                state.node.unloading,
                state.node.attention,
                state.node.conduct.mode,
                held.closed.last()
            );
        }
        text
    }
}

fn kind(message: &Message) -> &'static str {
    match message {
        Message::Challenge(_) => "challenge",
        Message::Hello(_) => "hello",
        Message::Welcome(_) => "welcome",
        Message::Refuse(_) => "refuse",
        Message::Settled(_) => "settled",
        Message::Report(_) => "report",
        Message::Declined(_) => "declined",
        Message::Machine(_) => "machine",
        Message::Want(_) => "want",
        Message::Forget(_) => "forget",
        Message::Conduct(_) => "conduct",
        Message::Ask(_) => "ask",
        Message::Answer(_) => "answer",
        Message::Ping => "ping",
        Message::Pong => "pong",
    }
}

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
mod people;
mod stores;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::{
    Attempt, BootId, Commit, Incarnation, JobId, MasterId, Session, SlaveKey, StoreId,
};
use reloop_protocol::job::State;
use reloop_protocol::limits;
use reloop_protocol::master::{self, Answer, Enrollment, Master, RequestId};
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::slave::{self, LinkId, Now, Release, RunKey, Settings, Slave};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_protocol::time::Time;
use reloop_protocol::wire;

use self::checks::UnderWay;

pub use self::act::{Act, JobAct, LocalAct, Placed, Said, SlaveAct, job_id};
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
    pub replies: Vec<Result<String, String>>,
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

    /// Starts the master from its disk.
    pub fn start_master(&mut self) {
        let fresh = MasterId(self.bytes());
        let settings = master::Settings { enrollment: self.enrollment };
        let mut state = master::recover(settings, fresh, self.master_disk.records());
        let incarnation = Incarnation(self.fresh().to_be_bytes());
        for write in state.begin(incarnation) {
            self.master_disk.write(write);
        }
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
        self.let_the_master_look_at_its_clock();
    }

    /// A master whose clock went back notices that at its next event; so that no frame of a dead link is that event, here it
    /// comes at once.
    fn let_the_master_look_at_its_clock(&mut self) {
        if self.master_disk.counted_until.is_some_and(|until| until > self.now()) {
            self.master_event(master::Event::TimePassed);
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
        self.pings.retain(|(double, _)| *double != swapped);
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
        held.machine.pondered.clear();
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

    /// Steps the master; nothing happens while it is dead.
    pub fn master_event(&mut self, event: master::Event) {
        let now = self.now();
        let Some(mut state) = self.master.take() else { return };
        let unknown = master::unknown_jobs(&state, &event);
        let recalled: Vec<_> =
            unknown.iter().filter_map(|id| self.master_disk.jobs.get(id).cloned()).collect();
        if !recalled.is_empty() {
            state = master::step(state, now, master::Event::JobsLoaded(recalled)).state;
        }
        let orders = master::unknown_orders(&event);
        let orders: Vec<_> =
            orders.iter().filter_map(|id| self.master_disk.orders.get(id).cloned()).collect();
        if !orders.is_empty() {
            state = master::step(state, now, master::Event::OrdersLoaded(orders)).state;
        }
        if let master::Event::HelloReceived { hello, token: Some(token), .. } = &event
            && state.tokens.contains_key(token)
        {
            self.ledger.revoked.remove(&hello.key);
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
        self.check_enrolled();
    }

    fn master_effect(&mut self, effect: master::Effect) {
        match effect {
            master::Effect::Send { link, commit, message } => {
                is_heard(&message);
                if let Message::DesiredState(desired_state) = &message
                    && desired_state.desired == Desired::Cancel(CancelMode::IfNotStarted)
                    && self.ledger.masters_forgot
                    && !self.ledger.cancel_asked.contains(&desired_state.job)
                {
                    self.ledger.called_off.insert(desired_state.job);
                }
                if let Some(wire) =
                    self.boxes.iter_mut().filter_map(|b| b.link.as_mut()).find(|w| w.id == link)
                    && !wire.half_open
                {
                    wire.to_slave.push_back((wire.session, commit, message));
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
                    for (session, commit, message) in pending {
                        self.slave_event(
                            slave,
                            slave::Event::Received { link, session, commit, message, unfit: BTreeMap::new() },
                        );
                    }
                    self.slave_event(slave, slave::Event::LinkClosed { link });
                }
                self.dead_links.remove(&link);
                self.master_event(master::Event::LinkClosed { link, last_heard });
            }
            master::Effect::Probe { link } => {
                self.pings.push_back((self.swapped, link));
                if !self.pings_are_slow {
                    self.answer_ping();
                }
            }
            master::Effect::Answer { request, answer } => self.answered(request, answer),
            master::Effect::JobChanged(_) | master::Effect::SlaveChanged(_) | master::Effect::Ignored(_) => {}
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
            synchronized: held.synchronized,
        }
    }

    /// Steps a slave; nothing happens while its agent is dead.
    pub fn slave_event(&mut self, slave: usize, event: slave::Event) {
        let now = self.slave_now(slave);
        let Some(state) = self.boxes[slave].state.take() else { return };
        let shown = self.tracing.then(|| format!("{event:?}"));
        let sync_before = state.node.sync;
        let under_way = UnderWay::of(&state);
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
        if let Some(how) = under_way.touched_in_silence(&step) {
            self.violate(Invariant::AnsweredFirst, format!("slave {slave}: {how}"));
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
        self.note_reading(slave);
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
            slave::Effect::Stop { work, .. } => {
                held.machine.stop(work);
                self.check_stop(slave, work);
            }
            slave::Effect::Pause(work) => {
                held.told_to_pause.insert(work);
                held.machine.pause(work, true);
            }
            slave::Effect::Resume(work) => held.machine.pause(work, false),
            slave::Effect::Probe { work, .. } => held.machine.probe(work),
            slave::Effect::Dismiss(_) | slave::Effect::ReadLog { .. } | slave::Effect::Ignored(_) => {}
            slave::Effect::ForgetToken => held.token = None,
            slave::Effect::Reply { reply, .. } => held.replies.push(reply),
        }
    }

    /// A machine is told to begin.
    fn begin(&mut self, slave: usize, work: RunKey) {
        self.check_start(slave, work);
        self.boxes[slave].machine.start(work);
        self.check_machine(slave, work);
    }

    /// A slow machine begins what it has in hand.
    pub fn begin_what_comes(&mut self, slave: usize) {
        let held = &mut self.boxes[slave];
        for work in held.machine.begin_what_comes(held.state.is_some()) {
            self.check_machine(slave, work);
        }
    }

    /// After a beginning.
    fn check_machine(&mut self, slave: usize, work: RunKey) {
        self.note_beginning(slave, work);
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

    /// Moves one message, fact or connection; false when nothing is left to move.
    pub fn pump(&mut self) -> bool {
        (0..self.boxes.len()).any(|slave| self.pump_one(slave))
    }

    /// The same, of one slave.
    pub fn pump_one(&mut self, slave: usize) -> bool {
        self.hear_machine(slave)
            || self.dial_in(slave)
            || self.to_slave(slave)
            || self.to_master(slave)
            || self.answer_ping()
    }

    /// A master learns whether a link that it asked still lives.
    fn answer_ping(&mut self) -> bool {
        let Some((double, link)) = self.pings.pop_front() else { return false };
        let mut wires = self.boxes.iter().filter_map(|held| held.link.as_ref());
        let alive = wires.any(|wire| wire.id == link && !wire.half_open);
        self.at(double, |world| world.master_event(master::Event::LinkProbed { link, alive }));
        true
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
            self.begin_what_comes(slave);
            let wall = self.slave_now(slave).wall.0;
            let held = &mut self.boxes[slave];
            held.machine.work(ms, wall, held.state.is_some());
            held.machine.answer_what_was_asked();
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
        Message::DesiredState(_) => "want",
        Message::Forget(_) => "forget",
        Message::OperatingMode(_) => "conduct",
        Message::Ask(_) => "ask",
        Message::Answer(_) => "answer",
        Message::Ping => "ping",
        Message::Pong => "pong",
    }
}

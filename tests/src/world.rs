//! Master and slaves, links, disks, clocks and machines on one thread: the same rules that run in production, driven
//! only through `step` and `recover`.
//!
//! A disk keeps exactly the durable writes. After every step the world checks that what the disk would bring back is
//! what the node believes, that no invariant is broken, and that no attempt was begun twice.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_node::record;
use reloop_node::store::VALUE_LIMIT_BYTES;
use reloop_protocol::id::{BootId, JobId, MasterId, OrderId, SlaveKey, StoreId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::limits;
use reloop_protocol::master::{
    self, Answer, Enrollment, JobCommand, Master, Order, Receipt, RequestId, Retry, SlaveCommand,
};
use reloop_protocol::message::{CloseCode, Message, Outcome, ReasonCode};
use reloop_protocol::slave::{
    self, Ended, Fact, LinkId, Local, Now, Probed, Release, RunKey, Settings, Slave,
};
use reloop_protocol::spec::{OnOverdue, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire;
use serde::Serialize;

/// When the world begins, in milliseconds since the Unix epoch.
const GENESIS: i64 = 1_700_000_000_000;

/// A slave with everything around it.
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
    link: Option<Wire>,
    /// The cable is in.
    pub cable: bool,
    /// How its last links were closed.
    pub closed: Vec<CloseCode>,
    /// What its people were told.
    pub replies: Vec<Result<String, String>>,
}

/// What is on a slave's disk.
#[derive(Debug, Clone, Default)]
pub struct SlaveDisk {
    node: Option<slave::Write>,
    jobs: BTreeMap<JobId, slave::Write>,
    ring: Option<slave::Write>,
}

impl SlaveDisk {
    fn write(&mut self, write: slave::Write) {
        match &write {
            slave::Write::Node(node) => fits(node),
            slave::Write::Job(_, job) => fits(job),
            slave::Write::Ring(ring) => ring.iter().for_each(fits),
        }
        match &write {
            slave::Write::Node(_) => self.node = Some(write),
            slave::Write::Job(id, Some(_)) => drop(self.jobs.insert(*id, write)),
            slave::Write::Job(id, None) => drop(self.jobs.remove(id)),
            slave::Write::Ring(_) => self.ring = Some(write),
        }
    }

    /// The same disk, one job short.
    #[must_use]
    pub fn without(mut self, job: JobId) -> Self {
        self.jobs.remove(&job);
        self
    }

    fn records(&self) -> impl Iterator<Item = slave::Write> {
        self.node.iter().chain(self.jobs.values()).chain(&self.ring).cloned()
    }
}

/// What is on the master's disk.
#[derive(Debug, Clone, Default)]
pub struct MasterDisk {
    node: Option<master::Write>,
    /// Every job, live or ended.
    pub jobs: BTreeMap<JobId, master::Job>,
    desks: BTreeMap<SlaveKey, master::Write>,
    tokens: BTreeMap<[u8; 32], master::Write>,
    keys: BTreeMap<String, (OrderId, [u8; 32])>,
    /// Every order.
    pub orders: BTreeMap<OrderId, Order>,
    /// Every receipt.
    pub receipts: Vec<Receipt>,
}

/// What one record holds at most; the envelope takes some bytes of the store's limit for a value.
const RECORD_BYTES: usize = VALUE_LIMIT_BYTES - record::OVERHEAD_BYTES;

/// The nodes stop for good at a record that the store does not take.
fn fits<T: Serialize>(record: &T) {
    let size = wire::encode(record).len();
    assert!(size <= RECORD_BYTES, "a record of {size} bytes was to be written: no store takes it");
}

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

/// Session and signature around a message, in bytes.
const FRAME_BYTES: usize = 9 + 1 + 64;

impl MasterDisk {
    fn write(&mut self, write: master::Write) {
        match &write {
            master::Write::Node(node) => fits(node),
            master::Write::Job(job) => fits(job),
            master::Write::Order(order) => fits(order),
            master::Write::Desk(desk) => fits(desk),
            master::Write::Token(_, token) => fits(token),
            master::Write::Key(key, order) => fits(&(key, order)),
            master::Write::Receipt(receipt) => fits(receipt),
        }
        match write {
            master::Write::Node(_) => self.node = Some(write),
            master::Write::Job(job) => drop(self.jobs.insert(job.id, *job)),
            master::Write::Order(order) => drop(self.orders.insert(order.id, *order)),
            master::Write::Desk(ref desk) => drop(self.desks.insert(desk.key, write)),
            master::Write::Token(hash, Some(_)) => drop(self.tokens.insert(hash, write)),
            master::Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            master::Write::Key(key, order) => drop(self.keys.insert(key.key, (order, key.fingerprint))),
            master::Write::Receipt(receipt) => self.receipts.push(*receipt),
        }
    }

    fn records(&self) -> impl Iterator<Item = master::Write> {
        let jobs = self.jobs.values().map(|job| master::Write::Job(Box::new(job.clone())));
        self.node.iter().chain(self.desks.values()).chain(self.tokens.values()).cloned().chain(jobs)
    }
}

/// A machine: it works by itself, with the agent or without.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    /// Everything that it was told to begin.
    pub works: BTreeMap<RunKey, Work>,
    /// How often each beginning really began.
    pub begun: BTreeMap<RunKey, u32>,
    /// It does not answer probes.
    pub silent: bool,
    /// It refuses to stop.
    pub unstoppable: bool,
    /// It refuses to start.
    pub refuses: bool,
    /// Work takes this long.
    pub length_ms: i64,
    /// Work fails.
    pub fails: bool,
    facts: VecDeque<(RunKey, Fact)>,
}

/// One beginning.
#[derive(Debug, Clone)]
pub struct Work {
    left_ms: i64,
    paused: bool,
    ended: Option<Ended>,
    gone: bool,
}

struct Wire {
    id: LinkId,
    to_master: VecDeque<Message>,
    to_slave: VecDeque<(reloop_protocol::id::Session, Message)>,
    session: reloop_protocol::id::Session,
    /// Swallows everything.
    half_open: bool,
}

/// How many late frames are kept: the oldest are lost for good.
const LATE: usize = 64;

enum Late {
    ToSlave(usize, LinkId, reloop_protocol::id::Session, Message),
    ToMaster(LinkId, Message),
}

/// The world.
pub struct World {
    /// Milliseconds since the beginning.
    pub ms: i64,
    /// The master's state; none while it is dead.
    pub master: Option<Master>,
    /// The master's disk.
    pub master_disk: MasterDisk,
    /// How slaves are enrolled.
    pub enrollment: Enrollment,
    /// The slaves.
    pub boxes: Vec<Station>,
    /// Answers to clients.
    pub answers: BTreeMap<RequestId, Answer>,
    next: u64,
    /// No disk was touched: nobody may say that something vanished.
    pub disks_are_sound: bool,
    /// Every step is printed.
    pub tracing: bool,
    /// Links that the master believes in and that are dead to the slave.
    dead_links: BTreeMap<LinkId, bool>,
    /// Frames that were under way when their link died: they may still arrive, at a node that is in another session.
    late: VecDeque<Late>,
    /// Every message that crossed, for those who want to count.
    pub crossed: Vec<(usize, &'static str)>,
    /// What slaves were told to do by their rules, for those who want to look; kept only once there is a place for it.
    pub acts: Option<Vec<slave::Effect>>,
}

impl World {
    /// A master and this many slaves, all connected, with the programs `mill` and `bake`.
    pub fn new(slaves: usize) -> Self {
        let mut world = Self {
            ms: 0,
            master: None,
            master_disk: MasterDisk::default(),
            enrollment: Enrollment::Open,
            boxes: Vec::new(),
            answers: BTreeMap::new(),
            next: 1,
            disks_are_sound: false,
            tracing: std::env::var_os("RELOOP_TRACE").is_some(),
            dead_links: BTreeMap::new(),
            late: VecDeque::new(),
            crossed: Vec::new(),
            acts: None,
        };
        world.start_master();
        for number in 0..slaves {
            world.add_slave(&format!("s{number}"));
        }
        world.settle();
        world
    }

    /// Everything that happens, line by line, when [`World::tracing`] is on.
    fn note(&self, line: impl FnOnce() -> String) {
        if self.tracing {
            println!("{:>9} {}", self.ms, line());
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn bytes(&mut self) -> [u8; 16] {
        u128::from(self.fresh()).to_be_bytes()
    }

    /// The master's clock.
    pub fn now(&self) -> Time {
        Time(GENESIS + self.ms)
    }

    /// Adds a slave and plugs it in.
    pub fn add_slave(&mut self, name: &str) -> usize {
        let mut key = [0; 32];
        key[..16].copy_from_slice(&self.bytes());
        let settings = Settings {
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
        };
        let boot = BootId(self.bytes());
        self.boxes.push(Station {
            state: None,
            disk: SlaveDisk::default(),
            settings,
            machine: Machine { length_ms: 10_000, ..Machine::default() },
            boot,
            booted_at: self.ms,
            wall_off: 0,
            link: None,
            cable: true,
            closed: Vec::new(),
            replies: Vec::new(),
        });
        let slave = self.boxes.len() - 1;
        self.start_agent(slave, false);
        slave
    }

    /// Starts the master from its disk.
    pub fn start_master(&mut self) {
        let fresh = MasterId(self.bytes());
        let settings = master::Settings { enrollment: self.enrollment };
        let state = master::recover(settings, fresh, self.master_disk.records());
        self.master_disk.write(master::Write::Node(state.node));
        self.master = Some(state);
    }

    /// Kills the master: every link dies.
    pub fn kill_master(&mut self) {
        self.master = None;
        for slave in 0..self.boxes.len() {
            if let Some(wire) = self.boxes[slave].link.take() {
                self.slave_event(slave, slave::Event::LinkClosed { link: wire.id });
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
        held.machine.facts.clear();
        let boot = held.boot;
        self.slave_event(
            slave,
            slave::Event::AgentStarted { boot, fingerprint: None, known_key, next_store },
        );
    }

    /// Kills a slave's agent; its machine goes on.
    pub fn kill_agent(&mut self, slave: usize) {
        self.drop_link(slave);
        self.boxes[slave].state = None;
    }

    /// Pulls a slave's power, and puts it back: agent and work are gone.
    pub fn reboot(&mut self, slave: usize) {
        self.kill_agent(slave);
        let boot = BootId(self.bytes());
        let ms = self.ms;
        let held = &mut self.boxes[slave];
        held.boot = boot;
        held.booted_at = ms;
        for work in held.machine.works.values_mut() {
            work.gone |= work.ended.is_none();
        }
        self.start_agent(slave, true);
    }

    /// Replaces a slave's disk, but for its key.
    pub fn replace_disk(&mut self, slave: usize) {
        self.kill_agent(slave);
        self.boxes[slave].disk = SlaveDisk::default();
        self.start_agent(slave, true);
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
            self.dead_links.insert(wire.id, false);
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

    fn drop_link(&mut self, slave: usize) {
        let Some(wire) = self.boxes[slave].link.take() else { return };
        let to_slave =
            wire.to_slave.into_iter().map(|(session, m)| Late::ToSlave(slave, wire.id, session, m));
        let to_master = wire.to_master.into_iter().map(|message| Late::ToMaster(wire.id, message));
        self.late.extend(to_slave.chain(to_master));
        while self.late.len() > LATE {
            self.late.pop_front();
        }
        if self.boxes[slave].state.is_some() {
            self.slave_event(slave, slave::Event::LinkClosed { link: wire.id });
        }
        let last_heard = self.now();
        self.master_event(master::Event::LinkClosed { link: wire.id, last_heard });
    }

    /// A frame of a dead link arrives all the same.
    pub fn deliver_late(&mut self, which: usize) {
        let Some(late) = self.late.remove(which % self.late.len().max(1)) else { return };
        match late {
            Late::ToSlave(slave, link, session, message) => {
                let unfit = BTreeMap::new();
                self.slave_event(slave, slave::Event::Received { link, session, message, unfit });
            }
            Late::ToMaster(link, message) => match message {
                Message::Hello(hello) => {
                    self.master_event(master::Event::HelloReceived { link, hello, token: None });
                }
                message => self.master_event(master::Event::Received { link, message }),
            },
        }
    }

    fn connect(&mut self, slave: usize) {
        let id = LinkId(self.fresh());
        let zero = reloop_protocol::id::Session(0);
        let wire = Wire {
            id,
            to_master: VecDeque::new(),
            to_slave: VecDeque::new(),
            session: zero,
            half_open: false,
        };
        self.boxes[slave].link = Some(wire);
        self.master_event(master::Event::LinkOpened { link: id, nonce: [0; 32] });
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
        let shown = event.clone();
        let step = master::step(state, now, event);
        self.note(|| format!("m {shown:?} => {:?}", step.effects));
        for write in step.persist {
            self.master_disk.write(write);
        }
        let vanished =
            |job: &master::Job| job.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Vanished);
        if self.disks_are_sound && self.master_disk.jobs.values().any(vanished) {
            panic!("something vanished from a sound disk, by {shown:?}");
        }
        if let Some(broken) = master::broken_invariant(&step.state) {
            panic!("master: {broken} is broken by {shown:?}");
        }
        let back = master::recover(step.state.settings, step.state.node.id, self.master_disk.records());
        assert_eq!(master::durable(&back), master::durable(&step.state), "master's disk after {shown:?}");
        self.master = Some(step.state);
        for effect in step.effects {
            self.master_effect(effect);
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
            master::Effect::Answer { request, answer } => drop(self.answers.insert(request, answer)),
            master::Effect::JobChanged(_) | master::Effect::SlaveChanged(_) | master::Effect::Ignored(_) => {}
        }
    }

    /// A slave's clocks.
    pub fn slave_now(&self, slave: usize) -> Now {
        let held = &self.boxes[slave];
        Now {
            wall: Time(GENESIS + self.ms + held.wall_off),
            boot_ms: u64::try_from(self.ms - held.booted_at).unwrap_or(0),
        }
    }

    /// Steps a slave; nothing happens while its agent is dead.
    pub fn slave_event(&mut self, slave: usize, event: slave::Event) {
        let now = self.slave_now(slave);
        let Some(state) = self.boxes[slave].state.take() else { return };
        let shown = event.clone();
        let step = slave::step(state, now, event);
        self.note(|| format!("s{slave} {shown:?} => {:?}", step.effects));
        let held = &mut self.boxes[slave];
        for write in step.persist {
            held.disk.write(write);
        }
        if let Some(broken) = slave::broken_invariant(&step.state) {
            panic!("slave {slave}: {broken} is broken by {shown:?}");
        }
        let back = slave::recover(held.settings.clone(), step.state.node.store, held.disk.records());
        let (mut node, mut jobs, ring) = slave::durable(&step.state);
        if held.disk.node.is_none() {
            node = back.node.clone();
            jobs.clone_from(&back.jobs);
        }
        assert_eq!(slave::durable(&back), (node, jobs, ring), "slave {slave}'s disk after {shown:?}");
        held.state = Some(step.state);
        if let Some(acts) = &mut self.acts {
            acts.extend(step.effects.iter().cloned());
        }
        for effect in step.effects {
            self.slave_effect(slave, effect);
        }
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
            slave::Effect::Start { work, .. } => held.machine.start(work),
            slave::Effect::Stop { work, .. } => held.machine.stop(work),
            slave::Effect::Pause(work) => held.machine.pause(work, true),
            slave::Effect::Resume(work) => held.machine.pause(work, false),
            slave::Effect::Probe { work, .. } => held.machine.probe(work),
            slave::Effect::Dismiss(_) | slave::Effect::ReadLog { .. } | slave::Effect::Ignored(_) => {}
            slave::Effect::Reply { reply, .. } => held.replies.push(reply),
        }
    }

    /// Moves one message, fact or connection; false when nothing is left to move.
    pub fn pump(&mut self) -> bool {
        (0..self.boxes.len()).any(|slave| self.pump_one(slave))
    }

    /// The same, of one slave.
    pub fn pump_one(&mut self, slave: usize) -> bool {
        if self.boxes.get(slave).is_none_or(|held| held.state.is_none()) {
            return false;
        }
        if let Some((work, fact)) = self.boxes[slave].machine.facts.pop_front() {
            self.slave_event(slave, slave::Event::Machine { work, fact });
            return true;
        }
        let held = &mut self.boxes[slave];
        let Some(wire) = &mut held.link else {
            let refused = held.closed.last().is_some_and(|code| !code.is_passing());
            if held.cable && self.master.is_some() && !refused {
                self.connect(slave);
                return true;
            }
            return false;
        };
        let link = wire.id;
        if let Some((session, message)) = wire.to_slave.pop_front() {
            self.crossed.push((slave, kind(&message)));
            self.slave_event(
                slave,
                slave::Event::Received { link, session, message, unfit: BTreeMap::new() },
            );
            return true;
        }
        if let Some(message) = wire.to_master.pop_front() {
            self.crossed.push((slave, kind(&message)));
            let event = match message {
                Message::Hello(hello) => master::Event::HelloReceived { link, hello, token: None },
                message => master::Event::Received { link, message },
            };
            self.master_event(event);
            return true;
        }
        false
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
            let held = &mut self.boxes[slave];
            held.machine.work(ms, GENESIS + self.ms + held.wall_off, held.state.is_some());
            self.slave_event(slave, slave::Event::TimePassed);
        }
        self.master_event(master::Event::TimePassed);
    }

    /// Moves everything that can move without time.
    ///
    /// # Panics
    /// If that does not come to an end.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.pump() {
                return self.check_begun();
            }
        }
        panic!("the world does not come to rest");
    }

    /// Lets time pass, in steps, with everything that it brings.
    pub fn pass(&mut self, ms: i64) {
        let end = self.ms + ms;
        self.settle();
        while self.ms < end {
            let step = (end - self.ms).min(500);
            self.ms += step;
            for held in &mut self.boxes {
                let agent = held.state.is_some();
                held.machine.work(step, GENESIS + self.ms + held.wall_off, agent);
            }
            for slave in 0..self.boxes.len() {
                self.slave_event(slave, slave::Event::TimePassed);
            }
            self.master_event(master::Event::TimePassed);
            self.settle();
        }
    }

    fn check_begun(&self) {
        for (slave, held) in self.boxes.iter().enumerate() {
            for (work, count) in &held.machine.begun {
                assert!(*count <= 1, "slave {slave} began {work:?} {count} times");
            }
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
        self.master_event(master::Event::JobsCommanded { request, jobs: vec![job], command });
        self.answers.get(&request).cloned()
    }

    /// Commands a slave; gives the answer, if it has come.
    pub fn command_slave(&mut self, slave: usize, command: SlaveCommand) -> Option<Answer> {
        let request = RequestId(self.fresh());
        let key = self.boxes[slave].settings.key;
        self.master_event(master::Event::SlaveCommanded { request, slave: key, command });
        self.settle();
        self.answers.get(&request).cloned()
    }

    /// Commands a slave, and does not wait for what comes of it.
    pub fn command_slave_now(&mut self, slave: usize, command: SlaveCommand) {
        let request = RequestId(self.fresh());
        let key = self.boxes[slave].settings.key;
        self.master_event(master::Event::SlaveCommanded { request, slave: key, command });
    }

    /// A person acts at a machine.
    pub fn local(&mut self, slave: usize, command: Local) -> Option<Result<String, String>> {
        let request = self.fresh();
        self.slave_event(slave, slave::Event::Local { request, command });
        self.boxes[slave].replies.last().cloned()
    }

    /// A job as the master knows it: from memory, or from disk.
    ///
    /// # Panics
    /// If it is lost.
    pub fn job(&self, id: JobId) -> master::Job {
        let live = self.master.as_ref().and_then(|master| master.book.jobs.get(&id));
        live.or_else(|| self.master_disk.jobs.get(&id)).cloned().expect("an acknowledged order is never lost")
    }

    /// What the master says that a job is.
    pub fn state(&self, id: JobId) -> State {
        self.job(id).state
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

    /// Everything about a job in a few lines, for people.
    pub fn tell(&self, id: JobId) -> String {
        use std::fmt::Write as _;
        let job = self.job(id);
        let mut text = format!(
            "{id} {:?} desired {:?} rev {} attempt {}/{} holder {:?} start {:?} reason {:?} report {:?}\n  earlier {:?}",
            job.state,
            job.desired,
            job.rev,
            job.attempt,
            job.last_attempt,
            self.holder(id),
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

    /// How often a job was begun, on any machine.
    pub fn begun(&self, id: JobId) -> u32 {
        let works = self.boxes.iter().flat_map(|held| &held.machine.begun);
        works.filter(|(work, _)| work.job == id).map(|(_, count)| count).sum()
    }
}

impl Machine {
    fn start(&mut self, key: RunKey) {
        if self.refuses {
            let reason = reloop_protocol::message::Reason::new(
                reloop_protocol::message::ReasonCode::StartRefused,
                "the machine refuses",
            );
            self.facts.push_back((key, Fact::StartRefused(reason)));
            return;
        }
        *self.begun.entry(key).or_default() += 1;
        self.works.insert(key, Work { left_ms: self.length_ms, paused: false, ended: None, gone: false });
        self.facts.push_back((key, Fact::Started));
    }

    fn stop(&mut self, key: RunKey) {
        if self.unstoppable {
            self.facts.push_back((key, Fact::StopRefused("the machine cannot stop now".to_owned())));
            return;
        }
        if let Some(work) = self.works.get_mut(&key)
            && work.ended.is_none()
        {
            if work.gone {
                return self.facts.push_back((key, Fact::Probed(Probed::Gone)));
            }
            let ended = Ended { end: End::Stopped, outcome: outcome("stopped"), at: None };
            work.ended = Some(ended.clone());
            self.facts.push_back((key, Fact::Ended(ended)));
        }
    }

    fn pause(&mut self, key: RunKey, pause: bool) {
        if let Some(work) = self.works.get_mut(&key)
            && work.ended.is_none()
        {
            if work.gone {
                return self.facts.push_back((key, Fact::PauseRefused("there is no such work".to_owned())));
            }
            work.paused = pause;
            self.facts.push_back((key, if pause { Fact::Paused } else { Fact::Resumed }));
        }
    }

    fn probe(&mut self, key: RunKey) {
        let probed = match self.works.get(&key) {
            _ if self.silent => return,
            None => Probed::NeverStarted,
            Some(Work { gone: true, .. }) => Probed::Gone,
            Some(Work { ended: Some(ended), .. }) => Probed::Ended(ended.clone()),
            Some(work) => Probed::Alive { paused: work.paused, permille: None },
        };
        self.facts.push_back((key, Fact::Probed(probed)));
    }

    fn work(&mut self, ms: i64, wall: i64, agent: bool) {
        for (key, work) in &mut self.works {
            if work.ended.is_some() || work.paused || work.gone {
                continue;
            }
            work.left_ms -= ms;
            if work.left_ms <= 0 {
                let end = if self.fails { End::Failed } else { End::Succeeded };
                let ended = Ended { end, outcome: outcome("done"), at: Some(Time(wall + work.left_ms)) };
                work.ended = Some(ended.clone());
                if agent {
                    self.facts.push_back((*key, Fact::Ended(ended)));
                }
            }
        }
    }
}

fn outcome(text: &str) -> Outcome {
    Outcome { exit_code: None, signal: None, text: text.to_owned() }
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

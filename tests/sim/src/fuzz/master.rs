//! A hostile slave: it is enrolled, so it may send any message. It may lie about its own jobs, but nothing that it
//! sends may change another slave's job, lose an order, or leave the master with something that it can't store.

use std::collections::{BTreeMap, BTreeSet};

use reloop_protocol::id::{Attempt, Commit, Epoch, JobId, OrderId, SlaveKey};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::limits;
use reloop_protocol::master::{self, Basis, Event, JobCommand, Order, RetryOn, SlaveCommand, SlaveLink};
use reloop_protocol::message::{
    Activity, Declined, Flags, Hello, MachineReport, Message, Mode, PROTOCOL, Reason, ReasonCode, Record,
    Report, Row, Settled, WaitingFor,
};
use reloop_protocol::slave::LinkId;
use reloop_protocol::spec::{CancelMode, Desired, Gate, Late};
use reloop_protocol::time::{Millis, Time};
use reloop_protocol::wire::{self, Frame, MAX_HANDSHAKE, MAX_MESSAGE};

use super::any::Source;
use crate::world::World;

const HONEST: usize = 2;

/// Acts in one run, at most.
const ACTS: usize = 48;

/// Seconds that everything may take once the hostile slave is gone: one machine may have to do all jobs.
const ROUNDS: usize = 90;

const HOSTILE: SlaveKey = SlaveKey([0xEE; 32]);

/// How many more times a job can be assigned or its desired state changed, whatever a slave has sent.
const ROOM: u32 = 1 << 20;

/// The hostile slave's connections are numbered from here; the world's own stay below.
const LINKS: u64 = 1 << 40;

/// The bytes choose the acts: messages of the hostile slave between those of clients, people and honest slaves.
///
/// # Panics
/// The hostile slave has changed a job of an honest one, an acknowledged order is lost or changed, an invariant is
/// broken, or the master's step can't be stored or sent.
pub fn run(bytes: &[u8]) {
    let mut scene = Scene::new(bytes);
    for _ in 0..ACTS {
        if scene.source.is_empty() {
            break;
        }
        if scene.source.below(3) == 0 {
            scene.honest()
        } else {
            scene.hostile()
        }
        scene.nothing_is_lost();
    }
    // Only sometimes, because it takes by far the longest.
    if scene.source.one_in(4) {
        scene.ends_well();
    }
}

struct Scene<'a> {
    source: Source<'a>,
    world: World,
    placed: BTreeMap<OrderId, Order>,
    jobs: Vec<JobId>,
    /// Its connections, newest last.
    links: Vec<LinkId>,
    next: u64,
    session: u64,
}

impl<'a> Scene<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut scene = Self {
            source: Source::new(bytes),
            world: World::new(HONEST),
            placed: BTreeMap::new(),
            jobs: Vec::new(),
            links: Vec::new(),
            next: LINKS,
            session: 0,
        };
        for held in &mut scene.world.boxes {
            held.machine.length_ms = 3_000;
            held.settings.capacity = 2;
        }
        if scene.source.one_in(3) {
            scene.adopt();
        }
        // Targets for the hostile slave: a job for each slave, one that waits, and an order of several jobs.
        for slave in [Some("s0"), Some("s1"), None] {
            let mut order = scene.world.order("mill");
            order.slave = slave.map(ToOwned::to_owned);
            scene.place(order);
        }
        let mut order = scene.world.order("mill");
        order.jobs.extend((0..3).map(|_| scene.world.order("mill").jobs[0]));
        scene.place(order);
        scene.world.settle();
        if scene.source.one_in(3) {
            let request = master::RequestId(u64::MAX - 2);
            scene.world.master_event(Event::RestoreConfirmed { request, forced: true });
            scene.world.settle();
        }
        scene
    }

    /// A master that lost all its data adopts the jobs of its honest slaves.
    fn adopt(&mut self) {
        for slave in 0..HONEST {
            let mut order = self.world.order("mill");
            order.slave = Some(format!("s{slave}"));
            self.jobs.extend(&order.jobs);
            self.world.place(order);
        }
        self.world.settle();
        self.world.wipe_master();
        self.world.settle();
        self.placed = self.world.master_disk.orders.clone();
    }

    fn place(&mut self, order: Order) {
        self.jobs.extend(&order.jobs);
        self.placed.insert(order.id, order.clone());
        self.world.place(order);
    }

    /// An act of a client, a person or an honest slave.
    fn honest(&mut self) {
        let slave = self.source.below(HONEST);
        let at = self.source.below(self.jobs.len());
        let job = self.jobs[at];
        match self.source.below(16) {
            0 | 1 if self.jobs.len() < 12 => {
                let program = self.source.pick(&["mill", "bake"]);
                let mut order = self.world.order(program);
                let now = self.world.now().0;
                if self.source.one_in(3) {
                    order.start.not_before = Some(Time(now + i64::from(self.source.byte()) * 20));
                    order.start.late = self.source.pick(&[Late::Hold, Late::Run, Late::Skip]);
                }
                if self.source.one_in(3) {
                    order.start.deadline = Some(Time(now + i64::from(self.source.byte()) * 40));
                }
                if self.source.one_in(4) {
                    order.start.gate = Gate::Held;
                }
                if self.source.one_in(3) {
                    order.retry.max_attempts = 3;
                    order.retry.on = [RetryOn::Failed, RetryOn::Rejected].into();
                }
                order.spec.on_interrupt = self.source.pick(&[OnInterrupt::Hold, OnInterrupt::Restart]);
                order.slave = match self.source.below(4) {
                    0 => Some(format!("s{slave}")),
                    1 => Some("hostile".to_owned()),
                    _ => None,
                };
                self.place(order);
            }
            2 | 3 => drop(self.world.pump_one(slave)),
            4 => self.world.settle(),
            5 | 6 => {
                let ms = i64::from(self.source.byte()) * 20;
                self.world.pass_some(ms);
            }
            7 => self.world.cut(slave),
            8 => self.world.plug(slave),
            9 => match self.source.below(3) {
                0 => self.world.kill_agent(slave),
                _ => self.world.revive(slave),
            },
            10 | 11 => {
                let command = match self.source.below(9) {
                    0 => JobCommand::Cancel(self.source.pick(&[
                        CancelMode::IfNotStarted,
                        CancelMode::SafePoint,
                        CancelMode::Now,
                    ])),
                    1 => JobCommand::Pause,
                    2 => JobCommand::Resume,
                    3 => JobCommand::Release { valid: Millis::seconds(3) },
                    4 => JobCommand::Resolve(self.source.pick(&[End::Succeeded, End::Failed, End::Stopped])),
                    5 => JobCommand::Abandon,
                    6 | 7 => JobCommand::Retry,
                    _ => JobCommand::Reschedule { not_before: None, deadline: None, late: Late::Run },
                };
                self.world.command(job, command);
            }
            12 => {
                let request = master::RequestId(u64::MAX);
                let command = match self.source.below(8) {
                    0 => SlaveCommand::Ready,
                    1 => SlaveCommand::Clear,
                    2 => SlaveCommand::Forget,
                    3 => SlaveCommand::Approve,
                    _ => SlaveCommand::Mode(self.source.pick(&[Mode::Production, Mode::Draining])),
                };
                self.world.master_event(Event::SlaveCommanded { request, slave: HOSTILE, command });
            }
            13 => {
                let request = master::RequestId(u64::MAX - 1);
                self.world.master_event(Event::LogAsked { request, job, offset: None, limit: 100 });
            }
            14 if self.source.one_in(2) => {
                self.world.kill_master();
                self.links.clear();
                self.world.start_master();
            }
            15 if self.source.one_in(4) => {
                let request = master::RequestId(u64::MAX - 2);
                self.world.master_event(Event::RestoreConfirmed { request, forced: self.source.one_in(2) });
            }
            _ => self.world.pass_some(500),
        }
    }

    /// An act of the hostile slave.
    fn hostile(&mut self) {
        self.remember();
        let act = self.source.below(16);
        if self.links.is_empty() || act == 0 {
            return self.connect();
        }
        let at =
            if self.source.one_in(8) { self.source.below(self.links.len()) } else { self.links.len() - 1 };
        let link = self.links[at];
        match act {
            1 => {
                self.links.remove(at);
                let last_heard = self.world.now();
                self.say(Event::LinkClosed { link, last_heard });
            }
            2 | 3 => {
                let hello = self.hello();
                self.introduce(link, hello);
            }
            4 => {
                let hello: Hello = self.source.any();
                self.introduce(link, Hello { key: HOSTILE, ..hello });
            }
            5..=7 => {
                let settled = self.settled();
                self.speak(link, Message::Settled(settled));
            }
            8..=10 => {
                let report = self.report();
                self.speak(link, Message::Report(report));
            }
            11 => {
                let declined = self.declined();
                self.speak(link, Message::Declined(declined));
            }
            12 => {
                let machine = self.machine();
                self.speak(link, Message::Machine(machine));
            }
            13 => {
                let alive = self.source.one_in(2);
                self.say(Event::LinkProbed { link, alive });
            }
            _ => {
                let message: Message = self.source.any();
                self.speak(link, message);
            }
        }
    }

    /// A handshake as an honest slave does it, so that most runs get beyond it.
    fn connect(&mut self) {
        self.next += 1;
        let link = LinkId(self.next);
        self.links.push(link);
        self.say(Event::LinkOpened { link, nonce: [0; 32] });
        if self.source.one_in(6) {
            return;
        }
        self.session = self.session.saturating_add(1);
        let hello = self.hello();
        let session = hello.session;
        self.introduce(link, hello);
        if !self.source.one_in(4) {
            let mut settled = self.settled();
            settled.session = session;
            self.speak(link, Message::Settled(settled));
        }
    }

    fn hello(&mut self) -> Hello {
        let mut rows = self.list(|scene| {
            let report = scene.report();
            Row {
                job: report.job,
                attempt: report.attempt,
                generation: report.generation,
                seq: report.seq,
                state: report.state,
                progress: report.progress,
            }
        });
        // The shell checks a Hello before the rules see it.
        let mut told = BTreeSet::new();
        rows.retain(|row| row.state.is_slaves_word() && told.insert(row.job));
        let ended = || rows.iter().filter(|row| row.state.is_ended()).copied().collect();
        let recent_outcomes = if self.source.one_in(4) { ended() } else { vec![] };
        Hello {
            protocol: PROTOCOL,
            key: HOSTILE,
            name: "hostile".to_owned(),
            agent: "fuzz".to_owned(),
            binding: self.source.one_in(4).then(|| self.source.any()),
            token: None,
            store: self.source.any(),
            boot: self.source.any(),
            starts: u32::from(self.source.one_in(4)),
            session: reloop_protocol::id::Session(self.session),
            clock: self.source.any(),
            machine: self.machine(),
            programs: vec!["bake".to_owned(), "mill".to_owned()],
            labels: BTreeMap::new(),
            capacity: if self.source.one_in(4) { self.source.any() } else { 2 },
            deferred_capacity: 2,
            recent_outcomes,
            rows,
        }
    }

    fn settled(&mut self) -> Settled {
        let records = self.list(|scene| {
            let mut record: Record = scene.source.any();
            if !scene.source.one_in(4) {
                record.report = scene.report();
            }
            record
        });
        Settled {
            session: reloop_protocol::id::Session(self.session),
            reports: self.list(Self::report),
            records,
            declined: self.list(Self::declined),
            machine: self.machine(),
        }
    }

    fn list<T>(&mut self, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let many = match self.source.below(32) {
            0..=15 => 0,
            16..=30 => 1 + self.source.below(3),
            _ => self.source.below(256),
        };
        (0..many).map(|_| one(self)).collect()
    }

    /// About a job of its own, of another slave, or of no slave.
    fn report(&mut self) -> Report {
        let mut report: Report = self.source.any();
        if let Some(job) = self.world.master_disk.jobs.get(&report.job)
            && !self.source.one_in(3)
        {
            report.attempt = job.attempt;
            report.generation = job.generation;
            if report.attempt == Attempt(0) {
                report.attempt = Attempt(1);
            }
        }
        if self.source.one_in(4) {
            report.attempt = report.attempt.next();
        }
        if !report.state.is_slaves_word() {
            report.state = State::Running;
        }
        report
    }

    fn declined(&mut self) -> Declined {
        let mut declined: Declined = self.source.any();
        if self.source.one_in(2) {
            let code =
                self.source.pick(&[ReasonCode::GivenBack, ReasonCode::NotHeld, ReasonCode::AtCapacity]);
            declined.reason = Reason::new(code, "");
        }
        if let Some(job) = self.world.master_disk.jobs.get(&declined.job)
            && !self.source.one_in(4)
        {
            declined.attempt = job.attempt;
            declined.generation = job.generation;
        }
        declined
    }

    fn machine(&mut self) -> MachineReport {
        let mut machine: MachineReport = self.source.any();
        if !self.source.one_in(4) {
            machine =
                MachineReport { activity: Activity::Ready, attention: None, local_lock: false, ..machine };
        }
        machine
    }

    /// Adds what the master knows to the pools.
    fn remember(&mut self) {
        let pools = &mut self.source.pools;
        let fresh = [[0xF0; 16], [0xF1; 16]];
        pools.bytes("JobId", self.jobs.iter().map(|job| job.0).chain(fresh));
        pools.bytes("OrderId", self.placed.keys().map(|order| order.0).chain(fresh));
        pools.bytes("StoreId", [[1; 16], [2; 16]]);
        pools.bytes("BootId", [[1; 16], [2; 16]]);
        let keys = self.world.boxes.iter().map(|held| held.settings.key.0);
        pools.bytes("SlaveKey", keys.chain([HOSTILE.0]));
        if let Some(master) = &self.world.master {
            pools.bytes("MasterId", [master.node.id.0]);
            let epoch = i64::from(master.node.epoch.0);
            pools.numbers("Epoch", [epoch, epoch, (epoch - 1).max(0), epoch + 1]);
            let commit = master.node.commit.0 as i64;
            pools.numbers("Commit", [commit, commit, 0, commit + 1]);
        }
        let session = i64::try_from(self.session).unwrap_or(i64::MAX - 1);
        pools.numbers("Session", [session, session, session.saturating_add(1), 0]);
        let now = self.world.now().0;
        pools.numbers("Time", [now, now - 1_000, now + 1_000, i64::MAX, 0]);
        let highest = i64::from(limits::COUNT);
        pools.numbers("Attempt", [1, 2, 3, highest]);
        pools.numbers("WishRev", [1, 2, 70_000, highest]);
        pools.words(&["hostile", "s0", "mill", "bake", ""]);
    }

    /// Like the master's shell: a Hello that is too large or invalid never reaches the rules.
    fn introduce(&mut self, link: LinkId, mut hello: Hello) {
        hello.token = None;
        let message = Message::Hello(Box::new(hello));
        let size = wire::encode(&message).len();
        let Message::Hello(hello) = message else { return };
        if size < MAX_HANDSHAKE - 128 && limits::check(&Message::Hello(hello.clone())).is_ok() {
            self.session = self.session.max(hello.session.0);
            self.say(Event::HelloReceived { link, hello, token: None });
        }
    }

    fn speak(&mut self, link: LinkId, message: Message) {
        let frame = Frame { session: Default::default(), commit: Commit(0), message, signature: None };
        if wire::encode(&frame).len() <= MAX_MESSAGE && limits::check(&frame.message).is_ok() {
            let message = frame.message;
            self.say(Event::Received { link, message });
        }
    }

    /// Sends one message, and checks what it must not have changed.
    fn say(&mut self, event: Event) {
        let before = self.others();
        let shown = event.clone();
        self.world.master_event(event);
        for (id, was) in before {
            let is = self.world.job(id);
            assert!(same(&was, &is, self.world.now()), "{id} was changed by {shown:?}:\n{was:?}\n{is:?}");
        }
    }

    /// The jobs that a message of this slave must not change: those that another slave has or had, in any epoch and
    /// however the master learned of them, and those that no slave has, unless this slave's next handshake may close a
    /// gap in a restored master's state.
    fn others(&self) -> BTreeMap<JobId, master::Job> {
        let Some(master) = &self.world.master else { return BTreeMap::new() };
        let settled_in = master.slaves.get(&HOSTILE).map(|slave| slave.settled_in);
        let is_settled = settled_in == Some(master.node.epoch);
        let all = self.world.master_disk.jobs.keys().map(|id| (*id, self.world.job(*id)));
        all.filter(|(_, job)| {
            let was_its_own = job.holder == Some(HOSTILE)
                || job.assigned.iter().any(|(_, holder)| *holder == HOSTILE)
                || job.others.iter().any(|e| e.holder == HOSTILE && e.basis != Basis::Claim);
            let may_be_forgotten = master.node.epoch > Epoch(1) || job.flags.has(Flags::ADOPTED);
            let is_had = job.holder.is_some()
                && !(job.state == State::Uncertain && job.report.is_none())
                && !(job.state == State::Canceled && matches!(job.desired, Desired::Cancel(_)));
            !was_its_own && (is_had || is_settled || !may_be_forgotten)
        })
        .collect()
    }

    fn nothing_is_lost(&self) {
        for (id, order) in &self.placed {
            let mut kept =
                self.world.master_disk.orders.get(id).cloned().expect("no acknowledged order is lost");
            // A slave may add another job of the same work, and nothing else.
            kept.jobs.truncate(order.jobs.len());
            assert_eq!(kept, *order, "an acknowledged order stays what it was");
        }
        for id in &self.jobs {
            let job = self.world.job(*id);
            assert_eq!(job.digest, self.placed[&job.spec.order].spec.digest(), "{id}");
        }
        let Some(master) = &self.world.master else { return };
        // The numbers of every job have to leave room, because another slave has to accept them.
        for job in master.book.jobs.values() {
            let highest = job.last_attempt.0.max(job.attempt.0).max(job.generation.0);
            assert!(highest < limits::COUNT - ROOM, "{} leaves no room: {highest}", job.id);
        }
        // The slave record agrees about the connection, unless the slave was revoked.
        let slave = master.slaves.get(&HOSTILE);
        if let Some(SlaveLink::Live { link } | SlaveLink::Welcomed { link, .. }) =
            slave.map(|slave| &slave.link)
        {
            assert_eq!(master.links.get(link), Some(&Some(HOSTILE)), "a desk's link is open");
        }
        master::next_deadline(master);
    }

    /// Once the hostile slave is gone and a person has taken back its jobs, all jobs end.
    fn ends_well(&mut self) {
        if self.world.master.is_none() {
            self.world.start_master();
        }
        let request = master::RequestId(u64::MAX);
        let last_heard = self.world.now();
        for link in std::mem::take(&mut self.links) {
            self.world.master_event(Event::LinkClosed { link, last_heard });
        }
        self.world.master_event(Event::SlaveCommanded {
            request,
            slave: HOSTILE,
            command: SlaveCommand::Forget,
        });
        for slave in 0..HONEST {
            self.world.revive(slave);
            self.world.plug(slave);
        }
        self.world.settle();
        for _ in 0..ROUNDS {
            self.world.pass(1_000);
            let mut open = 0;
            for id in self.jobs.clone() {
                let job = self.world.job(id);
                if job.state.is_ended() {
                    continue;
                }
                open += 1;
                let command = match (job.state, job.desired) {
                    _ if job.holder == Some(HOSTILE) => JobCommand::Abandon,
                    _ if job.slave.as_deref() == Some("hostile") => JobCommand::Cancel(CancelMode::Now),
                    (State::Uncertain, _) => JobCommand::Resolve(End::Failed),
                    (State::Paused, _) | (_, Desired::Pause) => JobCommand::Resume,
                    _ if job.start.gate != Gate::Open || waits_for_a_person(&job) => {
                        JobCommand::Release { valid: Millis::seconds(600) }
                    }
                    _ => continue,
                };
                self.world.command(id, command);
                if self.world.job(id).others.iter().any(|earlier| earlier.state == State::Uncertain) {
                    self.world.command(id, JobCommand::Resolve(End::Failed));
                }
            }
            if open == 0 {
                return;
            }
        }
        let stuck: Vec<_> = self.jobs.iter().filter(|id| !self.world.job(**id).state.is_ended()).collect();
        let told: BTreeSet<_> = stuck.iter().map(|id| self.world.tell(**id)).collect();
        assert!(told.is_empty(), "what never ends after a hostile slave: {told:?}");
    }
}

/// For example, its start was missed.
fn waits_for_a_person(job: &master::Job) -> bool {
    job.report.as_ref().is_some_and(|report| report.waiting_for == Some(WaitingFor::Operator))
}

/// The changes of another slave's job that are allowed: recalling an unstarted job for an idle slave, assigning a
/// queued one, ending one whose window has closed, and recording what the hostile slave claims.
fn same(was: &master::Job, is: &master::Job, now: Time) -> bool {
    let claims = |job: &master::Job| job.others.iter().filter(|e| e.holder == HOSTILE).count();
    let next = was.last_attempt.next();
    let (mut was, mut is) = (was.clone(), is.clone());
    if claims(&is) > 0 {
        for job in [&mut was, &mut is] {
            job.others.retain(|earlier| earlier.holder != HOSTILE);
            job.flags.set(Flags::CLAIMED);
            job.flags.set(Flags::DUPLICATE);
            job.revision = 0;
        }
        // An attempt number that may have been used before a restore is not used again.
        was.last_attempt = was.last_attempt.max(is.last_attempt);
    }
    if was.state == State::Queued && is.state != State::Queued {
        let is_assigned = is.state == State::Assigned && is.attempt >= next;
        let is_too_late = is.state == State::Expired && was.start.deadline.is_some_and(|at| at < now);
        return is_assigned || is_too_late;
    }
    let recalled = was.recalled.is_none()
        && is.recalled == Some(is.generation)
        && matches!(was.state, State::Assigned | State::Accepted);
    if !recalled {
        return was == is;
    }
    (was.generation, was.recalled, was.revision) = (is.generation, is.recalled, is.revision);
    was == is
}

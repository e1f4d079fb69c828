//! The rules alone: steps per second of each node's `step`, with few and with very many jobs in its state.
//!
//! A master and its slaves on one thread, without disk and socket; messages are passed by function calls. A step that does not
//! concern the jobs and slaves in the state must not cost more because of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use anyhow::ensure;
use reloop_protocol::id::{Attempt, BootId, Generation, JobId, MasterId, OrderId, Run, SlaveKey, StoreId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Enrollment, Master, Order, RequestId, Retry};
use reloop_protocol::message::{Flags, Message, Outcome, Report as JobReport, Source};
use reloop_protocol::slave::{
    self, AfterFailure, Damage, Ended, Fact, LATE_TOLERANCE, LinkId, Now, Release, RunKey, Slave, TrustClock,
    Write,
};
use reloop_protocol::spec::{Desired, Gate, OnOverdue, Spec, StartRule};
use reloop_protocol::time::Time;

use super::report::{Report, Row};
use super::stats::{Sample, figure};

/// Queued jobs in the master's state beside those that are done.
pub(super) const STATES: [usize; 3] = [10, 1000, 100_000];

/// Jobs from order to outcome for one figure.
const JOBS: usize = 3000;

/// Progress facts of the machine for one figure.
const FACTS: usize = 20_000;

/// Slaves of a master.
pub(super) const FLEETS: [usize; 3] = [10, 1000, 10_000];

/// Jobs in a slave's state. A slave holds at most 64 that have not ended, so it seldom has more than the largest number.
pub(super) const SLAVE_STATES: [usize; 3] = [10, 64, 256];

/// No slave offers this program.
const WAITING: &str = "forge";
const DONE: &str = "mill";

fn spec(order: OrderId, program: &str) -> Spec {
    Spec {
        order,
        name: None,
        program: program.to_owned(),
        params: BTreeMap::from([("file".to_owned(), "bracket-7.nc".to_owned())]),
        max_runtime: None,
        on_overdue: OnOverdue::Flag,
        on_interrupt: OnInterrupt::Hold,
    }
}

/// An order of one job.
pub(super) fn order(number: usize, program: &str) -> Order {
    let id = OrderId::from_parts(number as u64 + 1, 1);
    Order {
        retry_backoff: reloop_protocol::master::RETRY_BACKOFF,
        id,
        created_at: Time(1_000),
        jobs: vec![JobId::from_parts(number as u64 + 1, 1)],
        spec: spec(id, program),
        slave: None,
        requires: BTreeMap::new(),
        start: StartRule::default(),
        retry: Retry { max_attempts: 1, on: BTreeSet::new() },
        external_id: None,
        labels: BTreeMap::new(),
    }
}

pub(super) fn empty_master() -> Master {
    let settings = master::Settings { enrollment: Enrollment::Open, placement: Default::default() };
    master::recover(settings, MasterId::from_parts(1, 1), [])
}

/// A master with this many queued orders of one job.
pub(super) fn waiting(orders: usize) -> Master {
    let mut state = empty_master();
    for number in 0..orders {
        let order = Box::new(order(number, WAITING));
        let placed = master::Event::OrderPlaced { request: RequestId(0), order, key: None };
        state = master::step(state, Time(1_800_000_000_000), placed).state;
    }
    state
}

pub(super) fn settings() -> slave::Settings {
    slave::Settings {
        name: "board".to_owned(),
        agent: "1".to_owned(),
        key: SlaveKey([7; 32]),
        programs: vec![DONE.to_owned()],
        labels: BTreeMap::new(),
        capacity: 4,
        deferred_capacity: 16,
        release: Release::Auto,
        after_failure: AfterFailure::Release,
        trust_clock: TrustClock::Never,
        late_tolerance: LATE_TOLERANCE,
        max_interruptions: 3,
        max_failures_in_row: 3,
        token: None,
    }
}

/// A master and its slaves on one thread, with the time that each kind of node has used.
struct Fleet {
    master: Option<Master>,
    slaves: Vec<Option<Slave>>,
    /// The machines end their jobs at once; otherwise when they are told to.
    is_prompt: bool,
    /// What each machine works on.
    at_work: Vec<Option<RunKey>>,
    clock: u64,
    /// Orders placed so far.
    orders: usize,
    /// How many of them stay queued.
    waiting: usize,
    steps: [u64; 2],
    took: [Duration; 2],
}

enum Way {
    Up(master::Event),
    /// To the slave at this place.
    Down(usize, slave::Event),
}

impl Fleet {
    /// A fleet with live links, and `waiting` queued jobs that its slaves cannot do.
    fn new(slaves: usize, is_prompt: bool, waiting: usize) -> Self {
        let mut fleet = Self {
            master: Some(empty_master()),
            slaves: (0..slaves).map(|place| Some(newborn(place))).collect(),
            is_prompt,
            at_work: vec![None; slaves],
            clock: 0,
            orders: 0,
            waiting,
            steps: [0; 2],
            took: [Duration::ZERO; 2],
        };
        for _ in 0..waiting {
            fleet.place(WAITING);
        }
        for place in 0..slaves {
            fleet.carry(Way::Down(place, started()));
            fleet.carry(Way::Down(place, slave::Event::LinkOpened { link: link(place), token: None }));
            fleet.carry(Way::Up(master::Event::LinkOpened { link: link(place), nonce: [0; 32] }));
        }
        fleet.start_counting();
        fleet
    }

    fn start_counting(&mut self) {
        (self.steps, self.took) = ([0; 2], [Duration::ZERO; 2]);
    }

    fn rates(&self) -> [f64; 2] {
        [0, 1].map(|node| self.steps[node] as f64 / self.took[node].as_secs_f64())
    }

    /// Does one job, from the order to its outcome.
    fn job(&mut self) -> anyhow::Result<()> {
        self.place(DONE);
        let left = self.live_jobs();
        ensure!(left == self.waiting, "{left} jobs are left of {} that nobody can do", self.waiting);
        Ok(())
    }

    fn live_jobs(&self) -> usize {
        self.master.as_ref().map_or(0, |master| master.book.jobs.len())
    }

    /// A machine ends its job, and its slave goes on with the next.
    fn end(&mut self, place: usize) -> anyhow::Result<()> {
        let Some(work) = self.at_work[place].take() else { anyhow::bail!("slave {place} is not at work") };
        let fact = Fact::Ended(succeeded());
        self.carry(Way::Down(place, slave::Event::Machine { work, fact }));
        Ok(())
    }

    fn place(&mut self, program: &str) {
        let (request, order) = (RequestId(self.orders as u64), Box::new(order(self.orders, program)));
        self.orders += 1;
        self.carry(Way::Up(master::Event::OrderPlaced { request, order, key: None }));
    }

    /// Steps the event, and every message and machine fact that follows from it.
    fn carry(&mut self, first: Way) {
        let mut ways = VecDeque::from([first]);
        while let Some(way) = ways.pop_front() {
            self.clock += 1;
            match way {
                Way::Up(event) => self.step_master(event, &mut ways),
                Way::Down(place, event) => self.step_slave(place, event, &mut ways),
            }
        }
    }

    fn step_master(&mut self, event: master::Event, ways: &mut VecDeque<Way>) {
        let state = self.master.take().expect("it is back after each step");
        let since = Instant::now();
        let master::Step { state, effects, .. } =
            master::step(state, Time(1_000_000 + self.clock as i64), event);
        self.took[0] += since.elapsed();
        self.steps[0] += 1;
        self.master = Some(state);
        for effect in effects {
            if let master::Effect::Send { link, commit, message } = effect {
                let place = link.0 as usize - 1;
                let Some(session) = self.slaves[place].as_ref().map(|slave| slave.node.session) else {
                    continue;
                };
                let unfit = BTreeMap::new();
                let received = slave::Event::Received { link, session, commit, message, unfit };
                ways.push_back(Way::Down(place, received));
            }
        }
    }

    fn step_slave(&mut self, place: usize, event: slave::Event, ways: &mut VecDeque<Way>) {
        let state = self.slaves[place].take().expect("it is back after each step");
        let wall = Time(1_000_000 + self.clock as i64);
        let now = Now { wall, boot_ms: self.clock, synchronized: false };
        let since = Instant::now();
        let slave::Step { state, effects, .. } = slave::step(state, now, event);
        self.took[1] += since.elapsed();
        self.steps[1] += 1;
        self.slaves[place] = Some(state);
        let link = link(place);
        for effect in effects {
            match effect {
                slave::Effect::Send { message: Message::Hello(hello), .. } => {
                    ways.push_back(Way::Up(master::Event::HelloReceived { link, hello, token: None }));
                }
                slave::Effect::Send { message, .. } => {
                    ways.push_back(Way::Up(master::Event::Received { link, message }));
                }
                slave::Effect::Start { work, .. } => {
                    self.at_work[place] = Some(work);
                    let end = self.is_prompt.then(|| Fact::Ended(succeeded()));
                    for fact in [Some(Fact::Started), end].into_iter().flatten() {
                        ways.push_back(Way::Down(place, slave::Event::Machine { work, fact }));
                    }
                }
                _ => {}
            }
        }
    }
}

fn link(place: usize) -> LinkId {
    LinkId(place as u64 + 1)
}

/// A slave with a name and a key of its own.
fn newborn(place: usize) -> Slave {
    let mut key = [7; 32];
    key[..8].copy_from_slice(&(place as u64).to_be_bytes());
    let settings = slave::Settings { name: format!("board-{place}"), key: SlaveKey(key), ..settings() };
    slave::recover(settings, StoreId::from_parts(1, 1), [])
}

pub(super) fn succeeded() -> Ended {
    let outcome = Outcome { exit_code: Some(0), signal: None, text: "exit status 0".to_owned() };
    Ended { end: End::Succeeded, outcome, at: None }
}

fn started() -> slave::Event {
    slave::Event::AgentStarted {
        boot: BootId([1; 16]),
        fingerprint: None,
        known_key: false,
        next_store: StoreId::from_parts(2, 2),
        damage: Damage::default(),
        unfit: Default::default(),
    }
}

/// Steps per second of the master's and of the slave's rules, with `waiting` queued jobs in the master's state.
pub(super) fn loops(waiting: usize) -> anyhow::Result<[f64; 2]> {
    let mut pair = Fleet::new(1, true, waiting);
    for _ in 0..JOBS {
        pair.job()?;
    }
    Ok(pair.rates())
}

/// Steps per second of the master's rules with so many slaves, each of them at work and with as much ahead of it as it takes, while their
/// machines end one job after the other and the next ones come from the queue.
pub(super) fn fleet(slaves: usize) -> anyhow::Result<f64> {
    let mut fleet = Fleet::new(slaves, false, 0);
    let ahead = slaves * usize::from(settings().capacity);
    for _ in 0..ahead + JOBS {
        fleet.place(DONE);
    }
    fleet.start_counting();
    for done in 0..JOBS {
        fleet.end(done % slaves)?;
    }
    let left = fleet.live_jobs();
    ensure!(left == ahead, "{left} jobs are left of {ahead} that slaves have");
    Ok(fleet.rates()[0])
}

fn held(number: usize, gate: Gate) -> (JobId, slave::Job) {
    let id = JobId::from_parts(number as u64 + 1, 1);
    let spec = spec(OrderId::from_parts(1, 1), DONE);
    let report = JobReport {
        job: id,
        attempt: Attempt(1),
        run: Run(0),
        generation: Generation(1),
        seq: Default::default(),
        state: State::Accepted,
        waiting_for: None,
        progress: None,
        note: None,
        accepted_at: Time(1_000),
        started_at: None,
        started_generation: None,
        ended_at: None,
        outcome: None,
        reason: None,
        flags: Flags::default(),
        source: Source::Remote,
    };
    let job = slave::Job {
        requires: Default::default(),
        unfit: Default::default(),
        digest: spec.digest(),
        spec,
        desired: Desired::Run,
        start: StartRule { gate, ..StartRule::default() },
        report,
        due: false,
        missed: false,
        window_met: false,
        paused_locally: false,
        interruptions: 0,
        run: slave::RunState::default(),
    };
    (id, job)
}

/// A slave whose machine reports progress.
struct Working {
    state: Option<Slave>,
    work: RunKey,
    told: u64,
}

impl Working {
    /// A slave with one running job and `waiting` held ones.
    fn new(waiting: usize) -> anyhow::Result<Self> {
        let empty = slave::recover(settings(), StoreId::from_parts(1, 1), []);
        let mut records = vec![Write::Node(empty.node)];
        for number in 0..waiting {
            let (id, job) = held(number, Gate::Held);
            records.push(Write::Job(id, Some(Box::new(job))));
        }
        let (id, job) = held(waiting, Gate::Open);
        records.push(Write::Job(id, Some(Box::new(job))));
        let state = slave::recover(settings(), StoreId::from_parts(1, 1), records);
        let slave::Step { state, effects, .. } = slave::step(state, at(1), started());
        let work = effects.iter().find_map(|effect| match effect {
            slave::Effect::Start { work, .. } => Some(*work),
            _ => None,
        });
        let Some(work) = work else { anyhow::bail!("nothing was started: {effects:?}") };
        let state = slave::step(state, at(2), slave::Event::Machine { work, fact: Fact::Started }).state;
        ensure!(state.jobs[&id].report.state == State::Running, "it runs");
        Ok(Self { state: Some(state), work, told: 0 })
    }

    /// Steps one progress fact.
    fn progress(&mut self) {
        let permille = Some((self.told % 1000) as u16);
        let fact = Fact::Progressed { permille, note: None };
        let event = slave::Event::Machine { work: self.work, fact };
        let state = self.state.take().expect("it is back after each step");
        self.state = Some(slave::step(state, at(3 + self.told), event).state);
        self.told += 1;
    }
}

fn at(boot_ms: u64) -> Now {
    Now { wall: Time(1_000_000), boot_ms, synchronized: false }
}

/// Steps per second of a slave's rules for progress facts, with `waiting` held jobs.
pub(super) fn progress(waiting: usize) -> anyhow::Result<f64> {
    let mut working = Working::new(waiting)?;
    let since = Instant::now();
    for _ in 0..FACTS {
        working.progress();
    }
    Ok(FACTS as f64 / since.elapsed().as_secs_f64())
}

pub(super) fn run(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let sizes = STATES.len();
    let mut rates = [(); 4].map(|()| vec![Sample::default(); sizes]);
    for _ in 0..rounds {
        for (place, waiting) in STATES.into_iter().enumerate() {
            let [master, slave] = loops(waiting)?;
            rates[0][place].push(master);
            rates[1][place].push(slave);
        }
        for (place, waiting) in SLAVE_STATES.into_iter().enumerate() {
            rates[2][place].push(progress(waiting)?);
        }
        for (place, slaves) in FLEETS.into_iter().enumerate() {
            rates[3][place].push(fleet(slaves)?);
        }
    }
    let whats = [
        "the master's rules, jobs in its book",
        "a slave's rules, jobs in its master's book",
        "a slave's rules, jobs of its own",
        "the master's rules, slaves at work",
    ];
    for ((what, sizes), rates) in whats.into_iter().zip([STATES, STATES, SLAVE_STATES, FLEETS]).zip(rates) {
        for (size, rate) in sizes.into_iter().zip(&rates).skip(1) {
            let what = format!("steps per second of {what}: {}", figure(size as f64));
            let row = Row::new(what, rate.clone(), "cost ≤ 2 ×, so a ratio of 0.5");
            report.row(row.beside(&format!("the same with {}", sizes[0]), rates[0].clone()));
        }
    }
    Ok(())
}

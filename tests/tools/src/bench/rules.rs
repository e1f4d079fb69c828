//! The rules alone: steps per second of each node's `step`, with few and with very many jobs in its state.
//!
//! A master and a slave on one thread, without disk and socket; messages are passed by function calls. A step that does not
//! concern the jobs in the state must not cost more because of them.

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

/// Jobs in a slave's state. A slave holds at most 64 that have not ended, so it seldom has more than the largest number.
pub(super) const SLAVE_STATES: [usize; 3] = [10, 64, 256];

const LINK: LinkId = LinkId(1);

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

/// A master and a slave on one thread, with the time that each has used.
struct Pair {
    master: Option<Master>,
    slave: Option<Slave>,
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
    Down(slave::Event),
}

impl Pair {
    /// A pair with a live link, and `waiting` queued jobs that this slave cannot do.
    fn new(waiting: usize) -> Self {
        let mut pair = Self {
            master: Some(empty_master()),
            slave: Some(slave::recover(settings(), StoreId::from_parts(1, 1), [])),
            clock: 0,
            orders: 0,
            waiting,
            steps: [0; 2],
            took: [Duration::ZERO; 2],
        };
        for _ in 0..waiting {
            pair.place(WAITING);
        }
        pair.carry(Way::Down(started()));
        pair.carry(Way::Down(slave::Event::LinkOpened { link: LINK, token: None }));
        pair.carry(Way::Up(master::Event::LinkOpened { link: LINK, nonce: [0; 32] }));
        (pair.steps, pair.took) = ([0; 2], [Duration::ZERO; 2]);
        pair
    }

    /// Does one job, from the order to its outcome.
    fn job(&mut self) -> anyhow::Result<()> {
        self.place(DONE);
        let left = self.master.as_ref().map_or(0, |master| master.book.jobs.len());
        ensure!(left == self.waiting, "{left} jobs are left of {} that nobody can do", self.waiting);
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
                Way::Up(event) => {
                    let state = self.master.take().expect("it is back after each step");
                    let since = Instant::now();
                    let master::Step { state, effects, .. } =
                        master::step(state, Time(1_000_000 + self.clock as i64), event);
                    self.took[0] += since.elapsed();
                    self.steps[0] += 1;
                    self.master = Some(state);
                    let session = |slave: &Option<Slave>| slave.as_ref().map(|slave| slave.node.session);
                    for effect in effects {
                        if let master::Effect::Send { commit, message, .. } = effect
                            && let Some(session) = session(&self.slave)
                        {
                            let unfit = BTreeMap::new();
                            ways.push_back(Way::Down(slave::Event::Received {
                                link: LINK,
                                session,
                                commit,
                                message,
                                unfit,
                            }));
                        }
                    }
                }
                Way::Down(event) => {
                    let state = self.slave.take().expect("it is back after each step");
                    let now = Now {
                        wall: Time(1_000_000 + self.clock as i64),
                        boot_ms: self.clock,
                        synchronized: false,
                    };
                    let since = Instant::now();
                    let slave::Step { state, effects, .. } = slave::step(state, now, event);
                    self.took[1] += since.elapsed();
                    self.steps[1] += 1;
                    self.slave = Some(state);
                    for effect in effects {
                        match effect {
                            slave::Effect::Send { message: Message::Hello(hello), .. } => {
                                let hello = master::Event::HelloReceived { link: LINK, hello, token: None };
                                ways.push_back(Way::Up(hello));
                            }
                            slave::Effect::Send { message, .. } => {
                                ways.push_back(Way::Up(master::Event::Received { link: LINK, message }));
                            }
                            slave::Effect::Start { work, .. } => {
                                for fact in [Fact::Started, Fact::Ended(succeeded())] {
                                    ways.push_back(Way::Down(slave::Event::Machine { work, fact }));
                                }
                            }
                            _ => {}
                        }
                    }
                }
            }
        }
    }
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
    let mut pair = Pair::new(waiting);
    for _ in 0..JOBS {
        pair.job()?;
    }
    Ok([0, 1].map(|node| pair.steps[node] as f64 / pair.took[node].as_secs_f64()))
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
    let mut rates = [(); 3].map(|()| vec![Sample::default(); sizes]);
    for _ in 0..rounds {
        for (place, waiting) in STATES.into_iter().enumerate() {
            let [master, slave] = loops(waiting)?;
            rates[0][place].push(master);
            rates[1][place].push(slave);
        }
        for (place, waiting) in SLAVE_STATES.into_iter().enumerate() {
            rates[2][place].push(progress(waiting)?);
        }
    }
    let whats = [
        "the master's rules, jobs in its book",
        "a slave's rules, jobs in its master's book",
        "a slave's rules, jobs of its own",
    ];
    for ((what, sizes), rates) in whats.into_iter().zip([STATES, STATES, SLAVE_STATES]).zip(rates) {
        for (size, rate) in sizes.into_iter().zip(&rates).skip(1) {
            let what = format!("steps per second of {what}: {}", figure(size as f64));
            let row = Row::new(what, rate.clone(), "cost ≤ 2 ×, so a ratio of 0.5");
            report.row(row.beside(&format!("the same with {}", sizes[0]), rates[0].clone()));
        }
    }
    Ok(())
}

//! What the tests of the edges share.

use reloop_protocol::id::{BootId, Commit, Generation, JobId, ReportSeq, Session, SlaveKey, StoreId};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{self, Order};
use reloop_protocol::message::{
    Activity, CloseCode, Hello, MachineReport, Message, Mode, OperatingMode, Outcome, PROTOCOL, ReasonCode,
    Record, Report, Row, Settled,
};
use reloop_protocol::slave::{self, Ended, Fact, LinkId, Local};
use reloop_protocol::spec::Gate;
use reloop_protocol::time::Time;
use reloop_sim::world::{Machine, World};
use std::collections::BTreeMap;

pub(crate) fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

pub(crate) fn place_as(world: &mut World, change: impl FnOnce(&mut Order)) -> JobId {
    let mut order = world.order("mill");
    change(&mut order);
    let job = world.place(order);
    world.settle();
    job
}

pub(crate) fn machine(world: &World) -> MachineReport {
    slave::machine_report(world.boxes[0].state.as_ref().unwrap())
}

pub(crate) fn hello(key: u8, name: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        key: SlaveKey([key; 32]),
        name: name.to_owned(),
        agent: "test".to_owned(),
        binding: None,
        token: None,
        store: StoreId([key; 16]),
        boot: BootId([key; 16]),
        session: Session(1),
        clock: Time(0),
        machine: MachineReport {
            activity: Activity::Ready,
            unloading: None,
            attention: None,
            uncertain: None,
            local_lock: false,
            operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
            cause: None,
        },
        programs: vec!["mill".to_owned()],
        labels: BTreeMap::new(),
        capacity: 1,
        rows: vec![],
        recent_outcomes: vec![],
    }
}

/// A master and nobody else: what it does at each event, without a world that obeys.
pub(crate) struct Seat {
    pub(crate) state: master::Master,
    pub(crate) now: Time,
    pub(crate) key: SlaveKey,
}

pub(crate) const OLDER: LinkId = LinkId(500);
pub(crate) const NEWER: LinkId = LinkId(501);

impl Seat {
    /// Of a world with one slave, whose link has gone.
    pub(crate) fn of(world: &mut World) -> Self {
        world.cut(0);
        world.settle();
        let (state, now) = (world.master.clone().unwrap(), world.now());
        Self { state, now, key: world.boxes[0].settings.key }
    }

    pub(crate) fn step(&mut self, event: master::Event) -> Vec<master::Effect> {
        let step = master::step(self.state.clone(), self.now, event);
        self.state = step.state;
        step.effects
    }

    /// What the slave would say of itself now.
    pub(crate) fn hello(&self) -> Hello {
        let slave = &self.state.slaves[&self.key];
        Hello {
            key: self.key,
            name: slave.name.clone(),
            store: slave.store.unwrap(),
            boot: slave.boot.unwrap(),
            session: Session(slave.session.0 + 1),
            capacity: 8,
            ..hello(1, "")
        }
    }

    pub(crate) fn say_hello(&mut self, link: LinkId, hello: Hello) -> Vec<master::Effect> {
        self.step(master::Event::LinkOpened { link, nonce: [0; 32] });
        self.step(master::Event::HelloReceived { link, hello: Box::new(hello), token: None })
    }

    pub(crate) fn settle(&mut self, link: LinkId, session: Session) -> Vec<master::Effect> {
        let machine = hello(1, "").machine;
        let settled = Settled { session, reports: vec![], records: vec![], declined: vec![], machine };
        self.step(master::Event::Received { link, message: Message::Settled(settled) })
    }

    pub(crate) fn live(&self) -> Option<LinkId> {
        self.state.slaves[&self.key].live()
    }
}

pub(crate) fn closed(effects: &[master::Effect], link: LinkId) -> Option<CloseCode> {
    effects.iter().find_map(|effect| match effect {
        master::Effect::Close { link: closed, code, .. } if *closed == link => Some(*code),
        _ => None,
    })
}

pub(crate) fn welcomed(
    effects: &[master::Effect],
    link: LinkId,
) -> Option<&reloop_protocol::message::Welcome> {
    effects.iter().find_map(|effect| match effect {
        master::Effect::Send { link: to, message: Message::Welcome(welcome), .. } if *to == link => {
            Some(welcome)
        }
        _ => None,
    })
}

pub(crate) fn is_probed(effects: &[master::Effect], link: LinkId) -> bool {
    effects.iter().any(|effect| matches!(effect, master::Effect::Probe { link: asked } if *asked == link))
}

/// What a slave does with this on this link, while it is as it is.
pub(crate) fn hears(
    world: &World,
    link: LinkId,
    session: Session,
    message: Message,
) -> (slave::Slave, Vec<slave::Effect>) {
    let state = world.boxes[0].state.clone().unwrap();
    let event = slave::Event::Received { link, session, commit: Commit(0), message, unfit: BTreeMap::new() };
    let step = slave::step(state, world.slave_now(0), event);
    (step.state, step.effects)
}

pub(crate) fn is_forgotten(effects: &[master::Effect]) -> bool {
    let forget = |effect: &master::Effect| {
        matches!(effect, master::Effect::Send { link: OLDER, message: Message::Forget(_), .. })
    };
    effects.iter().any(forget)
}

/// The slave's live link.
pub(crate) fn live_at(world: &World) -> (LinkId, Session) {
    match world.boxes[0].state.as_ref().unwrap().link {
        slave::Link::Live { link, session, .. } => (link, session),
        other => panic!("{other:?}"),
    }
}

/// Introduces the slave and settles, with this of the past in reach of the master; its last step.
pub(crate) fn shakes(
    seat: &mut Seat,
    past: (Vec<master::Job>, Vec<Order>),
    rows: Vec<Row>,
    (reports, records): (Vec<Report>, Vec<Record>),
) -> master::Step {
    let first = Hello { rows, ..seat.hello() };
    seat.step(master::Event::JobsLoaded(past.0.clone()));
    seat.say_hello(OLDER, first.clone());
    seat.step(master::Event::JobsLoaded(past.0));
    seat.step(master::Event::OrdersLoaded(past.1));
    let settled =
        Settled { session: first.session, reports, records, declined: vec![], machine: first.machine };
    let event = master::Event::Received { link: OLDER, message: Message::Settled(settled) };
    let step = master::step(seat.state.clone(), seat.now, event);
    seat.state = step.state.clone();
    step
}

/// What the master does with a report on the live link, of a job that may be on its disk only.
pub(crate) fn reports(seat: &mut Seat, past: Option<&master::Job>, report: Report) -> master::Step {
    seat.step(master::Event::JobsLoaded(past.into_iter().cloned().collect()));
    let event = master::Event::Received { link: OLDER, message: Message::Report(report) };
    let step = master::step(seat.state.clone(), seat.now, event);
    seat.state = step.state.clone();
    step
}

pub(crate) fn row_of(report: &Report) -> Row {
    Row {
        job: report.job,
        attempt: report.attempt,
        generation: report.generation,
        seq: report.seq,
        state: report.state,
        progress: report.progress,
    }
}

/// A master and a job that runs at its slave, with the slave's last word, before any link.
pub(crate) fn runs() -> (Seat, Report) {
    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
    assert_eq!(world.state(job), State::Running);
    let mut seat = Seat::of(&mut world);
    let report = seat.state.book.jobs.get_mut(&job).unwrap().report.as_mut().unwrap();
    report.seq.count = 10;
    let report = report.clone();
    (seat, report)
}

/// The same, with a link that is live.
pub(crate) fn runs_live() -> (Seat, Report) {
    let (mut seat, report) = runs();
    drop(shakes(&mut seat, (vec![], vec![]), vec![row_of(&report)], (vec![], vec![])));
    assert_eq!(seat.live(), Some(OLDER));
    (seat, report)
}

pub(crate) fn numbered(report: &Report, count: u32, state: State) -> Report {
    Report { seq: ReportSeq { count, ..report.seq }, state, ..report.clone() }
}

/// What a slave tells of a job that its master does not know.
pub(crate) fn unheard_of(report: &Report, seat: &Seat, state: State) -> (Row, Record) {
    let known = seat.state.book.jobs.get(&report.job).unwrap();
    let report = Report { job: JobId([0xcc; 16]), state, ..report.clone() };
    (row_of(&report), Record { spec: known.spec.clone(), start: known.start, report })
}

/// A slave at a job that ends only when it is told to, out of reach of its master; another job waits behind it.
pub(crate) fn at_work() -> (slave::Slave, slave::Now, JobId, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |_| {});
    let waits = place_as(&mut world, |_| {});
    world.cut(0);
    assert_eq!(
        (world.on_slave(0, job), world.on_slave(0, waits)),
        (Some(State::Running), Some(State::Accepted))
    );
    (world.boxes[0].state.clone().unwrap(), world.slave_now(0), job, waits)
}

pub(crate) fn machine_says(state: slave::Slave, now: slave::Now, job: JobId, fact: Fact) -> slave::Step {
    let work = state.jobs[&job].work();
    slave::step(state, now, slave::Event::Machine { work, fact })
}

pub(crate) fn person_says(state: slave::Slave, now: slave::Now, command: Local) -> slave::Step {
    slave::step(state, now, slave::Event::Local { request: 1, command })
}

pub(crate) fn ended(end: End) -> Fact {
    let outcome = Outcome { exit_code: None, signal: None, text: String::new() };
    Fact::Ended(Ended { end, outcome, at: None })
}

/// What the slave says of a job, and why.
pub(crate) fn word(state: &slave::Slave, job: JobId) -> (State, Option<ReasonCode>) {
    let report = &state.jobs[&job].report;
    (report.state, report.reason.as_ref().map(|reason| reason.code))
}

/// A job that waits at the second slave until a person lets it go, and that slave's link.
pub(crate) fn held_at_the_second() -> (World, JobId, LinkId) {
    let mut world = World::new(1);
    world.add_slave("second");
    let job = place_as(&mut world, |order| {
        order.slave = Some("second".to_owned());
        order.start.gate = Gate::Held;
    });
    let second = world.boxes[1].settings.key;
    let link = world.master.as_ref().unwrap().slaves[&second].live().unwrap();
    (world, job, link)
}

//! A master without a world: its effects at each event.

use std::collections::BTreeMap;

use reloop_protocol::id::{
    Attempt, BootId, Commit, Epoch, Generation, JobId, ReportSeq, Session, SlaveKey, StoreId,
};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Job, JobCommand, Loaded, Order, RequestId};
use reloop_protocol::message::{
    Activity, CloseCode, Hello, MachineReport, MasterBinding, Message, Mode, OperatingMode, PROTOCOL, Record,
    Report, Row, Settled, Welcome,
};
use reloop_protocol::slave::LinkId;
use reloop_protocol::spec::{CancelMode, Desired, DesiredState};
use reloop_protocol::time::Time;
use reloop_sim::world::World;

use super::{placed, received};

pub(crate) fn hello(key: u8, name: &str) -> Hello {
    Hello {
        starts: 1,
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
        deferred_capacity: 16,
        rows: vec![],
        recent_outcomes: vec![],
    }
}

/// An empty Settled.
pub(crate) fn settled(session: Session) -> Settled {
    let machine = hello(1, "").machine;
    Settled { session, reports: vec![], records: vec![], declined: vec![], machine }
}

/// A master alone: its effects at each event, without anybody who performs them.
pub(crate) struct Seat {
    pub(crate) state: master::Master,
    pub(crate) now: Time,
    pub(crate) key: SlaveKey,
}

pub(crate) const OLDER: LinkId = LinkId(500);
pub(crate) const NEWER: LinkId = LinkId(501);

impl Seat {
    /// The master of a world with one slave, whose link has ended.
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

    /// These jobs were read from disk for the next event.
    pub(crate) fn load(&mut self, jobs: Vec<Job>) {
        self.step(master::Event::Loaded(Loaded { jobs, ..Loaded::default() }));
    }

    /// The same with the whole step.
    pub(crate) fn full_step(&mut self, event: master::Event) -> master::Step {
        let step = master::step(self.state.clone(), self.now, event);
        self.state = step.state.clone();
        step
    }

    /// Gives a person's command. Returns the last step.
    pub(crate) fn commands(&mut self, job: JobId, command: JobCommand) -> master::Step {
        self.full_step(master::Event::JobsCommanded { request: RequestId(1), jobs: vec![job], command })
    }

    pub(crate) fn job(&self, id: JobId) -> Job {
        self.state.book.jobs.get(&id).unwrap().into_owned()
    }

    pub(crate) fn job_mut(&mut self, id: JobId) -> &mut Job {
        self.state.book.jobs.get_mut(&id).unwrap()
    }

    /// The binding of a slave that has obeyed this epoch, so many commits after the master's own.
    pub(crate) fn binding(&self, epoch: Epoch, ahead: u64) -> MasterBinding {
        let (node, incarnation) = (self.state.node, self.state.incarnation());
        MasterBinding { master: node.id, epoch, incarnation, commit: Commit(node.commit.0 + ahead) }
    }

    /// The slave's next Hello.
    pub(crate) fn hello(&self) -> Hello {
        let slave = &self.state.slaves[&self.key];
        Hello {
            key: self.key,
            name: slave.name.clone(),
            store: slave.store.unwrap(),
            boot: slave.boot.unwrap(),
            session: Session(slave.session.0 + 1),
            capacity: 8,
            deferred_capacity: 16,
            ..hello(1, "")
        }
    }

    pub(crate) fn say_hello(&mut self, link: LinkId, hello: Hello) -> Vec<master::Effect> {
        self.step(master::Event::LinkOpened { link, nonce: [0; 32] });
        self.step(master::Event::HelloReceived { link, hello: Box::new(hello), token: None })
    }

    /// Sends the slave's Hello on `OLDER`.
    pub(crate) fn introduce(&mut self) -> Hello {
        let first = self.hello();
        self.say_hello(OLDER, first.clone());
        first
    }

    pub(crate) fn settle(&mut self, link: LinkId, session: Session) -> Vec<master::Effect> {
        self.step(received(link, Message::Settled(settled(session))))
    }

    /// Sends a Settled on `OLDER` with this machine report.
    pub(crate) fn settle_as(&mut self, session: Session, machine: MachineReport) -> Vec<master::Effect> {
        self.step(received(OLDER, Message::Settled(Settled { machine, ..settled(session) })))
    }

    pub(crate) fn live(&self) -> Option<LinkId> {
        self.state.slaves[&self.key].live()
    }
}

pub(crate) fn closed(effects: &[master::Effect], link: LinkId) -> Option<CloseCode> {
    effects.iter().find_map(|effect| match effect {
        master::Effect::Close { link: closed, why } if *closed == link => Some(why.code()),
        _ => None,
    })
}

pub(crate) fn welcomed(effects: &[master::Effect], link: LinkId) -> Option<&Welcome> {
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

pub(crate) fn is_forgotten(effects: &[master::Effect]) -> bool {
    let forget = |effect: &master::Effect| {
        matches!(effect, master::Effect::Send { link: OLDER, message: Message::Forget(_), .. })
    };
    effects.iter().any(forget)
}

/// Whether the slave is told not to begin this attempt.
pub(crate) fn is_called_off(effects: &[master::Effect], attempt: Attempt, generation: Generation) -> bool {
    let calls_off = |wanted: &DesiredState| {
        let cancel = Desired::Cancel(CancelMode::IfNotStarted);
        (wanted.desired, wanted.attempt, wanted.generation) == (cancel, attempt, generation)
    };
    effects.iter().any(|effect| {
        matches!(effect, master::Effect::Send { link: OLDER, message: Message::DesiredState(wanted), .. } if calls_off(wanted))
    })
}

/// Sends the slave's Hello and Settled, with these past jobs on the master's disk. Returns the last step.
pub(crate) fn shakes(
    seat: &mut Seat,
    past: (Vec<master::Job>, Vec<Order>),
    rows: Vec<Row>,
    (reports, records): (Vec<Report>, Vec<Record>),
) -> master::Step {
    let first = Hello { rows, ..seat.hello() };
    seat.load(past.0.clone());
    seat.say_hello(OLDER, first.clone());
    let (jobs, orders) = past;
    seat.step(master::Event::Loaded(Loaded { jobs, orders, ..Loaded::default() }));
    let settled = Settled { reports, records, machine: first.machine, ..settled(first.session) };
    seat.full_step(received(OLDER, Message::Settled(settled)))
}

/// Sends a report on the live link, about a job that may be only on the master's disk.
pub(crate) fn reports(seat: &mut Seat, past: Option<&master::Job>, report: Report) -> master::Step {
    seat.load(past.into_iter().cloned().collect());
    seat.full_step(received(OLDER, Message::Report(report)))
}

/// A master and a job that runs at its slave, with the slave's last report, before any link.
pub(crate) fn runs() -> (Seat, Report) {
    let mut world = World::new(1);
    let job = placed(&mut world, |order| order.slave = Some("s0".to_owned()));
    assert_eq!(world.state(job), State::Running);
    let mut seat = Seat::of(&mut world);
    let report = seat.job_mut(job).report.as_mut().unwrap();
    report.seq.count = 10;
    let report = report.clone();
    (seat, report)
}

/// The same, with a live link.
pub(crate) fn runs_live() -> (Seat, Report) {
    let (mut seat, report) = runs();
    drop(shakes(&mut seat, (vec![], vec![]), vec![report.row()], (vec![], vec![])));
    assert_eq!(seat.live(), Some(OLDER));
    (seat, report)
}

pub(crate) fn numbered(report: &Report, count: u32, state: State) -> Report {
    Report { seq: ReportSeq { count, ..report.seq }, state, ..report.clone() }
}

/// A slave's row and record of a job that its master does not know.
pub(crate) fn unheard_of(report: &Report, seat: &Seat, state: State) -> (Row, Record) {
    let known = seat.job(report.job);
    let report = Report { job: JobId([0xcc; 16]), state, ..report.clone() };
    (
        report.row(),
        Record { requires: Default::default(), spec: known.spec.clone(), start: known.start, report },
    )
}

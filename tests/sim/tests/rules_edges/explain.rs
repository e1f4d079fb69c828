//! Why a job has not started, in words.

use std::collections::BTreeMap;

use reloop_protocol::id::Attempt;
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Enrolled, JobCommand, WhyNot};
use reloop_protocol::message::{Activity, Attention, Flags, MachineReport, Mode, Reason, ReasonCode};
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{Desired, Gate};
use reloop_protocol::time::Time;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn a_job_that_has_not_started_is_explained_in_words() {
    let (mut world, running) = endless_job(|_, _| {});
    let job = placed(&mut world, |_| {});
    let master = world.master.clone().unwrap();
    let now = world.now();
    let job = world.job(job);
    let queued = master::Job { state: State::Queued, holder: None, report: None, ..job.clone() };
    let says = |state: &master::Master, job: &master::Job| {
        master::explain(state, job, now).text(|at| at.to_string())
    };
    let with = |change: &dyn Fn(&mut master::Job)| {
        let mut job = queued.clone();
        change(&mut job);
        says(&master, &job)
    };
    let mut nobody = master.clone();
    nobody.slaves.clear();
    assert_eq!(says(&nobody, &queued), "there are no slaves: enrol one");
    assert_eq!(with(&|job| job.desired = Desired::Pause), "it is paused: `resume` lets it go on");
    assert_eq!(with(&|_| {}), "a slave has room: the job is being assigned to it");
    let elsewhere = "no slave that it is for offers its program";
    assert_eq!(with(&|job| job.spec.program = "weave".to_owned()), elsewhere);
    assert_eq!(with(&|job| job.slave = Some("s9".to_owned())), elsewhere);
    let label =
        |job: &mut master::Job| job.requires = BTreeMap::from([("material".to_owned(), "pla".to_owned())]);
    assert_eq!(with(&label), "no slave with its program has the labels that it requires");
    let idle = World::new(1).master.unwrap();
    assert_eq!(says(&idle, &queued), "a slave has room: the job is being assigned to it");
    let mut held = queued.clone();
    held.start.gate = Gate::Held;
    held.flags.set(Flags::RESTORED);
    assert!(says(&idle, &held).starts_with("it waits for a person; held since the master was restored"));
    let assigned = master::Job { state: State::Assigned, ..job.clone() };
    assert_eq!(says(&master, &assigned), "offered to s0, which has not answered yet");
    let waits = "s0 has it and waits for its turn";
    assert_eq!(says(&master, &job), format!("{waits}; one job goes before it"));
    let mut faulty = master.clone();
    for slave in faulty.slaves.values_mut() {
        slave.machine.as_mut().unwrap().attention = Some(Attention::Fault);
    }
    assert!(says(&faulty, &job).starts_with(waits), "not for its machine");
    let mut away = Seat::of(&mut world).state;
    away.slaves.values_mut().for_each(|slave| slave.declining = false);
    assert_eq!(
        says(&away, &assigned),
        "offered to s0, which is offline: whether it has it shows when it is back"
    );
    let old = format!("{waits} by its last word: it is offline; one job goes before it");
    assert_eq!(says(&away, &job), old);

    // Only until it has started is a held job explained by the missing release.
    let running = world.job(running);
    let gated = |job: &master::Job, gate| {
        let mut job = job.clone();
        job.start.gate = gate;
        let said = says(&master, &job).replace("; one job goes before it", "");
        said.split_once("; ").map(|(_, gate)| gate.to_owned())
    };
    let held = Some("held: `release` lets it start".to_owned());
    let lapsed = Some("its release has lapsed: `release` it again".to_owned());
    let released = |ms: i64| Gate::Released { latest: Time(now.0 + ms) };
    let of_waiting =
        [Gate::Open, Gate::Held, released(-1), released(0), released(1)].map(|gate| gated(&job, gate));
    assert_eq!(of_waiting, [None, held, lapsed, None, None]);
    let of_running = [Gate::Open, Gate::Held, released(-1), released(1)].map(|gate| gated(&running, gate));
    assert_eq!(of_running, [None, None, None, None]);
}

#[test]
fn each_slave_says_what_would_change_it() {
    let (world, _) = endless_job(|_, _| {});
    let state = world.master.as_ref().unwrap();
    let mut order = World::new(1).order("mill");
    order.requires = BTreeMap::from([("material".to_owned(), "pla".to_owned())]);
    let job = master::Job::new(order.jobs[0], &order);
    let with = |change: &dyn Fn(&mut master::SlaveRecord, &mut master::Job)| {
        let (mut state, mut job) = (state.clone(), job.clone());
        let slave = state.slaves.values_mut().next().unwrap();
        slave.labels.insert("material".to_owned(), "pla".to_owned());
        change(slave, &mut job);
        let [one] = <[_; 1]>::try_from(master::explain(&state, &job, Time(0)).slaves).unwrap();
        (one.why.map(WhyNot::name), one.text)
    };
    let machine = |slave: &mut master::SlaveRecord| slave.machine.take().unwrap();
    type Case<'a> = (&'a dyn Fn(&mut master::SlaveRecord, &mut master::Job), Option<&'a str>, &'a str);
    let cases: [Case<'_>; 17] = [
        (&|_, _| {}, None, "it could take it after the job that it has"),
        (&|_, job| job.slave = Some("s9".to_owned()), Some("other_slave"), "the order is for s9 alone"),
        (
            &|_, job| job.spec.program = "weave".to_owned(),
            Some("program"),
            "it does not offer weave; it has bake, mill",
        ),
        (&|slave, _| slave.labels.clear(), Some("label"), "material=pla is required, and it has no material"),
        (
            &|slave, _| drop(slave.labels.insert("material".to_owned(), "abs".to_owned())),
            Some("label"),
            "material=pla is required, and it has material=abs",
        ),
        (
            &|slave, job| {
                job.rejected_by.push(master::RejectedBy {
                    attempt: Attempt(1),
                    by: (slave.key, master::AgentStart { store: slave.store.unwrap(), starts: slave.starts }),
                    at: Time(0),
                    reason: Some(Reason::new(ReasonCode::BadParams, "it is too wide")),
                    is_over: false,
                });
            },
            Some("rejected"),
            "it rejected the job: it is too wide; change its config and restart its agent, or `retry` the job once it has ended",
        ),
        (
            &|slave, _| slave.enrolled = Enrolled::Pending,
            Some("not_enrolled"),
            "it is not enrolled: `reloop slave approve s0`, or a new token",
        ),
        (
            &|slave, _| slave.enrolled = Enrolled::Revoked,
            Some("not_enrolled"),
            "it is revoked: a new token lets it in again, `reloop slave enroll-token --name s0`",
        ),
        (
            &|slave, _| slave.link = master::SlaveLink::Down,
            Some("offline"),
            "it is offline: look at its agent and at the network",
        ),
        (
            &|slave, _| slave.operating_mode.mode = Mode::Maintenance,
            Some("mode"),
            "it is in mode maintenance: `reloop slave mode s0 production`",
        ),
        (
            &|slave, _| slave.machine = Some(MachineReport { local_lock: true, ..machine(slave) }),
            Some("local_lock"),
            "a person at the machine has locked it: `reloop-slave local off` there",
        ),
        (
            &|slave, _| {
                let (attention, cause) = (Some(Attention::FailuresInRow), Some("exit code 1".to_owned()));
                slave.machine = Some(MachineReport { attention, cause, ..machine(slave) });
            },
            Some("attention"),
            "it needs a person: job after job has failed there, the last with: exit code 1; look at the machine, then \
             `reloop slave clear s0`",
        ),
        (
            &|slave, _| slave.doubts = true,
            Some("doubts"),
            "it has seen a later state of this master: `reloop restore confirm` if this is the right one",
        ),
        (
            &|slave, _| slave.declining = true,
            Some("declined"),
            "it declined another job for want of room, and says when it has room",
        ),
        (
            &|slave, _| slave.capacity = 1,
            Some("capacity"),
            "it has as many jobs as it may, and could take it after the job that it has",
        ),
        (
            &|slave, job| {
                slave.deferred_capacity = 0;
                job.start.not_before = Some(Time(i64::MAX));
            },
            Some("capacity"),
            "it has as many jobs that wait for their time as it may (`deferred_capacity`), and takes one more when one of them starts",
        ),
        (
            &|slave, _| {
                let (unloading, activity) = (Some(job.id), Activity::Unloading);
                slave.machine = Some(MachineReport { unloading, activity, ..machine(slave) });
            },
            Some("ready"),
            "its machine has to be cleared of its last job: `reloop slave ready s0`",
        ),
    ];
    for (change, why, text) in cases {
        assert_eq!(with(change), (why, text.to_owned()));
    }
    let uncertain = Some(job.id);
    let asks = with(&|slave, _| {
        let activity = Activity::Attention;
        slave.machine = Some(MachineReport { uncertain, activity, ..machine(slave) });
    });
    assert_eq!(
        asks.1,
        format!(
            "nobody knows how {0} ended there: `reloop job resolve {0} succeeded|failed|canceled`",
            job.id
        )
    );
}

#[test]
fn at_a_slave_what_it_starts_first_goes_before_a_job_also_with_ageing() {
    let mut world = with_ageing();
    placed(&mut world, |_| {});
    let old = placed(&mut world, |order| order.start.gate = Gate::Held);
    world.pass(20_000);
    let urgent = placed(&mut world, |order| order.start.priority = 10);
    let_start(&mut world, old);
    let state = world.master.as_ref().unwrap();
    let in_front = [urgent, old].map(|job| master::explain(state, &world.job(job), world.now()).in_front);
    assert_eq!([urgent, old].map(|job| world.holder(job)), [Some(0), Some(0)]);
    assert_eq!(in_front, [1, 2]);
}

#[test]
fn it_is_told_what_goes_before_a_job_and_when_something_changes() {
    let mut world = World::new(1);
    world.cut(0);
    let place = |world: &mut World, priority: i32| placed(world, |order| order.start.priority = priority);
    let low = place(&mut world, 0);
    for priority in [1, 5, -1] {
        place(&mut world, priority);
    }
    let far = later(&world, 600_000);
    let planned = placed(&mut world, |order| order.start.not_before = far);
    let state = world.master.as_ref().unwrap();
    let explained = |job| master::explain(state, &world.job(job), world.now());
    assert_eq!((explained(low).in_front, explained(low).at), (2, None));
    assert_eq!((explained(planned).in_front, explained(planned).at), (0, far));
    let says = |job| explained(job).text(|at| format!("at {} o'clock", at.0 % 10));
    let nearest =
        "no slave can take it now; the nearest: s0: it is offline: look at its agent and at the network";
    assert_eq!(says(low), format!("{nearest}; 2 jobs go before it"));
    assert_eq!(says(planned), format!("{nearest}; its time is at {} o'clock", far.unwrap().0 % 10));
}

#[test]
fn every_why_not_has_its_own_word() {
    let words: std::collections::BTreeSet<_> = WhyNot::ALL.iter().map(|why| why.name()).collect();
    assert_eq!(words.len(), WhyNot::ALL.len());
    assert!(words.contains("local_lock") && words.contains("other_slave"), "{words:?}");
}

#[test]
fn a_slave_that_is_full_or_not_ready_says_so() {
    let (mut world, job) = endless_job(|_, _| {});
    let why = |world: &World, job: &master::Job| {
        master::explain(world.master.as_ref().unwrap(), job, world.now()).slaves[0].why
    };
    assert_eq!(why(&world, &world.job(job)), None, "it works at it");
    let other = master::Job { holder: None, ..world.job(job) };
    assert_eq!(why(&world, &other), None, "it has room, after what it works at");
    for _ in 0..3 {
        placed(&mut world, |_| {});
    }
    assert_eq!(why(&world, &other), Some(WhyNot::Capacity));
    assert_eq!(why(&world, &world.job(job)), None, "the place is its own");
    let mut world = World::new(1);
    let far = later(&world, 600_000);
    let waits = placed(&mut world, |order| order.start.not_before = far);
    assert_eq!(why(&world, &world.job(waits)), None);
}

#[test]
fn the_holder_of_a_job_that_waits_for_its_time_counts_what_is_in_front_of_it() {
    let (mut world, _) = endless_job(|_, _| {});
    let far = later(&world, 600_000);
    let waits = placed(&mut world, |order| order.start.not_before = far);
    assert_eq!(world.holder(waits), Some(0));
    let state = world.master.as_ref().unwrap();
    let said = master::explain(state, &world.job(waits), world.now());
    assert_eq!(said.slaves[0].text, "it could take it after the job that it has");
}

#[test]
fn a_job_that_is_paused_or_asked_back_says_so_where_it_is() {
    let (mut world, running) = endless_job(|_, _| {});
    let waits = placed(&mut world, |_| {});
    let says = |world: &World, job| {
        let state = world.master.as_ref().unwrap();
        master::explain(state, &world.job(job), world.now()).text(|at| at.to_string())
    };
    let paused = "it is paused: `resume` lets it go on";
    for job in [running, waits] {
        command(&mut world, job, JobCommand::Pause);
        assert!(says(&world, job).starts_with(paused), "{}", says(&world, job));
        command(&mut world, job, JobCommand::Resume);
    }
    world.local(0, Local::Pause);
    world.settle();
    let here = says(&world, running);
    assert!(
        here.contains("waits for a person: paused by a person at the machine: `reloop-slave resume`"),
        "{here}"
    );
    world.local(0, Local::Resume);
    let key = world.boxes[0].settings.key;
    let mut state = world.master.clone().unwrap();
    let mut asked = world.job(waits);
    asked.recalled = Some(asked.generation);
    let text = |state: &master::Master| master::explain(state, &asked, world.now()).text(|at| at.to_string());
    let back = "s0 has it and is asked to give it back, so that it starts sooner elsewhere or makes room";
    assert_eq!(text(&state), format!("{back}; one job goes before it"));
    state.slaves.get_mut(&key).unwrap().link = master::SlaveLink::Down;
    assert_eq!(text(&state), format!("{back} by its last word: it is offline; one job goes before it"));
}

#[test]
fn of_a_full_slave_whose_job_is_uncertain_it_is_said_who_ends_that() {
    let (world, running) = endless_job(|_, _| {});
    let mut state = world.master.clone().unwrap();
    let queued = master::Job { state: State::Queued, holder: None, report: None, ..world.job(running) };
    let slave = state.slaves.values_mut().next().unwrap();
    slave.capacity = 1;
    let machine = slave.machine.as_mut().unwrap();
    (machine.uncertain, machine.activity) = (Some(running), Activity::Attention);
    let said = master::explain(&state, &queued, world.now()).slaves.remove(0);
    assert_eq!(said.why, Some(WhyNot::Ready));
    assert!(said.text.contains("nobody knows how"), "{}", said.text);
}

#[test]
fn what_has_ended_waits_for_no_time() {
    let (world, running) = endless_job(|_, _| {});
    let retry_at = later(&world, 600_000);
    let ended = master::Job { state: State::Expired, retry_at, ..world.job(running) };
    assert_eq!(master::explain(world.master.as_ref().unwrap(), &ended, world.now()).at, None);
}

//! The start of a job: refused, crashed in, too late, paused; and what its later runs inherit.

use reloop_protocol::id::{JobId, Run};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::JobCommand;
use reloop_protocol::message::{Flags, Reason, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, Fact, Local, RunState, TrustClock};
use reloop_protocol::spec::{CancelMode, Late, OnOverdue};
use reloop_protocol::time::Millis;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn a_start_that_came_while_the_machine_was_busy_is_not_missed_when_the_agent_starts_again() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 120_000;
    let busy = place(&mut world);
    let job = deferred(&mut world, 5_000, |_| {});
    world.pass(90_000);
    assert_eq!((world.state(busy), world.state(job)), (State::Running, State::Accepted));
    restart_agent(&mut world);
    reconnect(&mut world, 0);
    let told = world.job(job);
    assert!(!told.all_flags().has(Flags::MISSED_START), "it was there when the time came");
    world.pass(35_000);
    assert_eq!((world.state(busy), world.state(job)), (State::Succeeded, State::Running));
}

#[test]
fn a_job_that_nobody_let_go_does_not_start_because_the_clock_is_lost() {
    let (mut world, job) = unstarted();
    world.cut(0);
    world.reboot(0);
    world.pass(60_000);
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Accepted), 0));
    reconnect(&mut world, 0);
    release(&mut world, job, 60);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

fn told(world: &World, job: JobId, fact: Fact) -> slave::Step {
    machine_says(agent(world).clone(), world.slave_now(0), job, fact)
}

#[test]
fn a_rejected_start_is_proof_and_a_refused_one_is_a_question() {
    let (world, job) = starting();
    let asks = |step: &slave::Step| step.effects.iter().any(|e| matches!(e, slave::Effect::Probe { .. }));
    let rejected = told(&world, job, Fact::StartRejected(Reason::new(ReasonCode::UnknownProgram, "gone")));
    assert!(!asks(&rejected));
    assert_eq!(word(&rejected.state, job), (State::Rejected, Some(ReasonCode::UnknownProgram)));
    let refused = told(&world, job, Fact::StartRefused("busy".to_owned()));
    assert!(asks(&refused));
    assert_eq!(refused.state.jobs[&job].report.state, State::Starting, "until the machine has answered");
}

#[test]
fn a_start_that_is_refused_although_the_work_began_is_followed_to_its_end() {
    let (mut world, job) = starting_as(|world| {
        world.boxes[0].machine.refuses = true;
        world.boxes[0].machine.begins_all_the_same = true;
    });
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn a_machine_that_refuses_a_start_and_then_falls_silent_makes_a_person_decide() {
    let (mut world, job) = starting_as(|world| {
        world.boxes[0].machine.refuses = true;
        world.boxes[0].machine.silent = true;
    });
    world.pass(4_000);
    assert_eq!(world.on_slave(0, job), Some(State::Starting), "it has time to answer");
    world.pass(2_000);
    assert_eq!(world.state(job), State::Uncertain);
    let reason = world.job(job).report.unwrap().reason.unwrap();
    assert_eq!(reason.code, ReasonCode::NoProof);
    assert!(reason.text.contains("the machine refuses"), "{}", reason.text);
    world.boxes[0].machine.refuses = false;
    world.command(job, JobCommand::Resolve(End::Failed));
    let next = placed(&mut world, |_| {});
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn a_crash_between_a_refused_start_and_the_machines_answer_begins_nothing_twice() {
    for began in [false, true] {
        let (mut world, job) = starting_as(|world| {
            world.boxes[0].machine.refuses = true;
            world.boxes[0].machine.begins_all_the_same = began;
        });
        // The refusal has been received, the answer to the probe has not.
        world.pump();
        let probing = &agent(&world).volatile.probing;
        assert_eq!(probing[&job].refused.as_deref(), Some("the machine refuses"));
        restart_agent(&mut world);
        world.settle();
        let expected = if began { State::Running } else { State::Accepted };
        assert_eq!((world.state(job), world.begun(job)), (expected, u32::from(began)), "began: {began}");
        world.pass(20_000);
    }
}

#[test]
fn a_job_that_is_wanted_paused_does_not_start_when_its_turn_comes() {
    let mut world = World::new(1);
    let orders = [world.order("mill"), world.order("mill")];
    let [first, second] = orders.map(|order| world.place(order));
    world.settle();
    assert_eq!((world.state(first), world.state(second)), (State::Running, State::Accepted));
    world.command(second, JobCommand::Pause);
    world.pass(30_000);
    assert_eq!((world.state(first), world.begun(second)), (State::Succeeded, 0));
    world.command(second, JobCommand::Resume);
    world.pass(12_000);
    assert_eq!((world.state(second), world.begun(second)), (State::Succeeded, 1));
}

#[test]
fn a_pause_that_the_machine_refused_locks_nobody_out_and_its_reason_goes_with_it() {
    let (world, job) = running();
    let now = world.slave_now(0);
    let local = |state, command| person_says(state, now, command).state;
    let fact = |state, fact| machine_says(state, now, job, fact).state;
    let reason = |state: &slave::Slave| word(state, job).1;

    let refused = fact(local(agent(&world).clone(), Local::Pause), Fact::PauseRefused("not now".to_owned()));
    assert_eq!(reason(&refused), Some(ReasonCode::PauseRefused));
    assert!(!refused.jobs[&job].paused_locally, "nobody at the machine has to let go what was not paused");

    let paused = fact(local(refused.clone(), Local::Pause), Fact::Paused);
    assert_eq!((reason(&paused), paused.jobs[&job].paused_locally), (Some(ReasonCode::PausedLocally), true));
    let resumed = fact(paused, Fact::PauseRefused("the door is open".to_owned()));
    assert!(resumed.jobs[&job].paused_locally, "it was not asked for a pause");
    assert_eq!(reason(&fact(resumed, Fact::Resumed)), None);

    assert_eq!(reason(&fact(refused, ended(End::Succeeded))), None);
}

/// A slave at a job that ends only when it is told to, of which the master has not heard yet.
fn begun_unheard() -> (World, JobId) {
    let mut world = endless();
    let job = place_as(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Restart);
    assert!(world.to_slave(0) && world.hear_machine(0));
    assert_eq!((world.on_slave(0, job), world.state(job)), (Some(State::Running), State::Assigned));
    (world, job)
}

#[test]
fn a_pause_that_was_asked_of_one_run_is_asked_of_the_next_one_anew() {
    let (mut world, job) = endless_job(restartable);
    world.command(job, JobCommand::Pause);
    // The slave receives it, and the machine loses its power before it has answered.
    while kept(&world, job).run.asked_to_pause.is_none() {
        assert!(world.to_slave(0));
    }
    reboot(&mut world);
    assert_eq!(kept(&world, job).report.state, State::Accepted);
    assert_eq!(kept(&world, job).run, RunState::default());
    command(&mut world, job, JobCommand::Resume);
    assert_eq!((world.state(job), kept(&world, job).report.run), (State::Running, Run(2)));
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    assert_eq!(world.boxes[0].machine.working().count(), 0);
}

#[test]
fn a_person_is_asked_about_what_was_longer_off_than_it_may_run() {
    let (mut world, job) = endless_job(|_, order| {
        order.spec.max_runtime = Some(Millis(3_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    // By its own clock the box knows at once how long it was off.
    world.boxes[0].settings.trust_clock = TrustClock::Always;
    world.kill_agent(0);
    world.ms += 3_600_000;
    reboot(&mut world);
    assert_eq!((kept(&world, job).report.state, world.begun(job)), (State::Uncertain, 1));
    assert!(!kept(&world, job).report.flags.has(Flags::OVERDUE));
}

#[test]
fn each_run_has_its_own_clock_and_the_first_one_is_told() {
    let (mut world, job) = endless_job(|world, order| {
        restartable(world, order);
        order.spec.max_runtime = Some(Millis(20_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    let first = world.job(job).report.unwrap().started_at;
    world.pass(15_000);
    reboot(&mut world);
    world.pass(15_000);
    assert_eq!((world.state(job), kept(&world, job).report.run), (State::Running, Run(2)));
    assert_eq!(world.job(job).report.unwrap().started_at, first);
    world.pass(5_000);
    let report = world.job(job).report.unwrap();
    assert_eq!((report.state, report.reason.unwrap().code), (State::Canceled, ReasonCode::MaxRuntime));
}

#[test]
fn a_window_once_met_is_met_until_somebody_changes_it() {
    let begun_in_time = || {
        let (mut world, job) = endless_job(|world, order| {
            restartable(world, order);
            order.start.deadline = later(world, 5_000);
        });
        world.local(0, Local::Lock(true));
        world.pass(20_000);
        reboot(&mut world);
        assert_eq!(world.state(job), State::Accepted);
        (world, job)
    };
    let (mut world, job) = begun_in_time();
    // It waits for the machine, and for no deadline or clock.
    let state = agent(&world);
    assert_eq!(slave::next_deadline(state, world.slave_now(0)), None);
    world.cut(0);
    world.reboot(0);
    assert_eq!(kept(&world, job).report.waiting_for, Some(WaitingFor::Ready));
    world.local(0, Local::Lock(false));
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 2));
    let (mut world, job) = begun_in_time();
    let (not_before, deadline) = (None, later(&world, 1_000));
    world.command(job, JobCommand::Reschedule { not_before, deadline, late: Late::Hold });
    world.pass(3_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 1));
}

#[test]
fn a_job_that_was_to_be_canceled_is_not_started_again() {
    let desired_states: [fn(&mut World, JobId); 3] = [
        |world, job| drop(world.command(job, JobCommand::Cancel(CancelMode::Now))),
        |world, job| drop(world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted))),
        |world, _| {
            world.local(0, Local::Stop { now: false });
        },
    ];
    for desired in desired_states {
        let (mut world, job) = begun_unheard();
        world.boxes[0].machine.unstoppable = true;
        desired(&mut world, job);
        world.settle();
        assert_eq!(world.on_slave(0, job), Some(State::Running), "the machine refuses, or it is too late");
        reboot(&mut world);
        assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 1));
    }
    // Stopped by the order's own limit, because it ran too long.
    let (mut world, job) = endless_job(|world, order| {
        restartable(world, order);
        order.spec.max_runtime = Some(Millis(3_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    world.boxes[0].machine.unstoppable = true;
    world.pass(4_000);
    assert_eq!(world.state(job), State::Running);
    reboot(&mut world);
    assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 1));
}

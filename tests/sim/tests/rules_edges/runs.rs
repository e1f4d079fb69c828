//! What belongs to one run and ends with it, what waits for the machine's answer, and what was to end.

use reloop_protocol::id::{JobId, Run};
use reloop_protocol::job::{OnInterrupt, State};
use reloop_protocol::master::JobCommand;
use reloop_protocol::message::{Flags, Message, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, Done, Effect, Fact, Local, NotDone, Probed};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate, OnOverdue};
use reloop_protocol::time::Millis;
use reloop_sim::world::World;

use crate::stage::*;

fn paused(world: &World) -> bool {
    world.boxes[0].machine.alive().count() == 1 && world.boxes[0].machine.working().next().is_none()
}

#[test]
fn what_was_paused_at_the_machine_and_interrupted_says_who_lets_it_go_on() {
    let (mut world, job) = endless_job(restartable);
    let told = |world: &World| {
        let report = world.job(job).report.unwrap();
        (report.state, report.waiting_for, report.reason.map(|reason| reason.code))
    };
    world.local(0, Local::Pause);
    world.settle();
    reboot(&mut world);
    let waits = (State::Accepted, Some(WaitingFor::Operator), Some(ReasonCode::PausedLocally));
    assert_eq!(told(&world), waits);
    command(&mut world, job, JobCommand::Resume);
    assert_eq!(told(&world), waits);
    world.local(0, Local::Resume);
    world.settle();
    assert_eq!(told(&world), (State::Running, None, Some(ReasonCode::Interrupted)));
}

#[test]
fn what_was_paused_at_the_machine_can_be_let_go_on_while_the_machine_does_another() {
    let (mut world, job) = endless_job(restartable);
    let other = placed(&mut world, |_| {});
    world.local(0, Local::Pause);
    world.settle();
    reboot(&mut world);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.state(other)), (State::Accepted, State::Running));
    assert_eq!(reason(&world, job), ReasonCode::PausedLocally);

    // What is at the machine comes first.
    world.local(0, Local::Pause);
    world.settle();
    assert_eq!(world.local(0, Local::Resume), Some(Ok(Done::Resuming(other))));
    world.settle();
    assert_eq!(world.local(0, Local::Resume), Some(Ok(Done::MayStart(job))));
    world.settle();
    assert_eq!(waits_for(&world, job), Some(WaitingFor::Turn));
    let nothing_waits = NotDone::InState(other, State::Running);
    assert_eq!(world.local(0, Local::Resume), Some(Err(nothing_waits)));
}

#[test]
fn a_run_shows_neither_the_progress_nor_the_note_of_the_run_before() {
    let (mut world, job) = endless_job(restartable);
    let work = kept(&world, job).work();
    let told = |world: &World| {
        let report = world.job(job).report.unwrap();
        (report.run, report.progress, report.note)
    };
    let fact = Fact::Progressed { permille: Some(300), note: Some("roughing".to_owned()) };
    world.slave_event(0, slave::Event::Machine { work, fact });
    world.settle();
    assert_eq!(told(&world), (Run(1), Some(300), Some("roughing".to_owned())));
    // The machine itself reports that the work is gone, while the agent is up.
    world.boxes[0].machine.let_go(work);
    world.slave_event(0, slave::Event::Machine { work, fact: Fact::Probed(Probed::Gone) });
    world.settle();
    assert_eq!(told(&world), (Run(2), None, None));
}

#[test]
fn a_late_word_that_a_run_lives_says_nothing_of_the_next() {
    for late in [Fact::Started, Fact::Probed(Probed::Alive { paused: false, permille: Some(10) })] {
        let (mut world, job) = endless_job(restartable);
        let work = kept(&world, job).work();
        world.local(0, Local::Lock(true)).unwrap().unwrap();
        world.boxes[0].machine.let_go(work);
        world.slave_event(0, slave::Event::Machine { work, fact: Fact::Probed(Probed::Gone) });
        world.settle();
        let before = kept(&world, job).clone();
        assert_eq!((before.report.state, before.run.works_since), (State::Accepted, None));
        world.slave_event(0, slave::Event::Machine { work, fact: late.clone() });
        assert_eq!(*kept(&world, job), before, "{late:?}");
    }
}

/// The desired state by which the master asks slave 0 to give the job back.
fn asks_back(world: &World, job: JobId) -> DesiredState {
    let held = kept(world, job);
    let (attempt, generation) = (held.report.attempt, held.report.generation.next());
    let (desired, start) = (Desired::Return, held.start);
    DesiredState { attempt, generation, spec: None, desired, start, ..desired_state(world, job) }
}

#[test]
fn an_interrupted_job_begins_again_at_its_own_slave_even_if_another_is_idle() {
    let (mut world, job) = endless_job(restartable);
    let urgent = placed(&mut world, |order| order.start.priority = 1);
    // The other job is begun first, so the interrupted one waits for its turn.
    reboot(&mut world);
    assert_eq!((world.state(urgent), world.state(job)), (State::Running, State::Accepted));
    let other = world.add_slave("idle");
    world.settle();
    assert_eq!(world.holder(job), Some(0));
    // A desired state that was sent before the interruption was known is not followed either.
    let desired_state = asks_back(&world, job);
    let (link, session) = live(&world);
    let (after, _) = hears(&world, link, session, Message::DesiredState(desired_state));
    assert_eq!(word(&after, job).0, State::Accepted);
    for held in &mut world.boxes {
        held.machine.length_ms = 10_000;
    }
    world.local(0, Local::Stop { now: true });
    world.pass(30_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 2));
    assert!(!world.boxes[other].machine.knows(job));
}

#[test]
fn what_was_interrupted_while_it_started_may_have_begun_and_is_not_given_back() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Restart);
    pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Starting));
    // Paused by a person, so that it waits behind the idle machine.
    world.local(0, Local::Pause);
    reboot(&mut world);
    let held = kept(&world, job).clone();
    assert_eq!((held.report.state, held.report.started_at), (State::Accepted, None));
    world.add_slave("idle");
    world.settle();
    assert_eq!((world.holder(job), world.job(job).recalled), (Some(0), None), "it is not recalled");
    let desired_state = asks_back(&world, job);
    let (link, session) = live(&world);
    let (after, _) = hears(&world, link, session, Message::DesiredState(desired_state));
    assert_eq!(word(&after, job).0, State::Accepted, "and would not be given back");
}

#[test]
fn a_pause_is_repeated_once_the_machine_has_begun_or_has_refused_to_stop() {
    // Refused, because the machine had not begun.
    let mut world = World::new(1);
    world.boxes[0].machine.slow = true;
    let job = placed(&mut world, |_| {});
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(word(agent(&world), job).1, Some(ReasonCode::PauseRefused));
    world.begin_what_comes(0);
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    assert!(paused(&world));
    // Paused while it was being stopped.
    let (mut world, job) = endless_job(|_, _| {});
    world.boxes[0].machine.unstoppable = true;
    world.local(0, Local::Stop { now: true });
    world.command(job, JobCommand::Pause);
    while world.to_slave(0) {}
    assert_eq!(kept(&world, job).report.state, State::Stopping);
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    assert!(paused(&world));
}

#[test]
fn nothing_is_done_to_a_job_whose_machine_has_not_answered() {
    for command in [Local::Stop { now: true }, Local::Pause] {
        let (mut world, job) = endless_job(|_, order| {
            order.spec.max_runtime = Some(Millis(3_000));
            order.spec.on_overdue = OnOverdue::Stop;
        });
        world.boxes[0].machine.ponders = true;
        world.kill_agent(0);
        world.ms += 4_000;
        world.acts = Some(vec![]);
        world.revive(0);
        world.local(0, command.clone()).unwrap().unwrap();
        let state = agent(&world);
        let next = slave::next_deadline(state, world.slave_now(0));
        assert_eq!(next.map(|(_, why)| why), Some(slave::Why::Probe), "it is not looked at in vain");
        let reason = (command == Local::Pause).then_some(ReasonCode::PausedLocally);
        assert_eq!(word(state, job), (State::Running, reason));
        assert!(!state.jobs[&job].report.flags.has(Flags::OVERDUE));
        let touched = |effect: &Effect| {
            matches!(
                effect,
                Effect::Stop { .. } | Effect::Pause(_) | Effect::Resume(_) | Effect::Start { .. }
            )
        };
        assert!(!world.acts.as_ref().unwrap().iter().any(touched), "{command:?}");
        world.pass(500);
        assert_eq!(world.on_slave(0, job).unwrap_or(State::Canceled), State::Canceled);
        let asked_to_pause = |effect: &Effect| matches!(effect, Effect::Pause(_));
        assert_eq!(world.acts.take().unwrap().iter().any(asked_to_pause), command == Local::Pause);
        let reason = world.job(job).report.unwrap().reason.unwrap().code;
        let by_person = command != Local::Pause;
        assert_eq!(reason, if by_person { ReasonCode::StoppedLocally } else { ReasonCode::MaxRuntime });
    }
}

#[test]
fn the_result_of_a_stop_that_waits_is_the_machines_answer() {
    let stopped = |on_interrupt, probed| {
        let (mut world, job) = endless_job(|_, order| order.spec.on_interrupt = on_interrupt);
        world.boxes[0].machine.silent = true;
        world.kill_agent(0);
        world.revive(0);
        world.local(0, Local::Stop { now: true }).unwrap().unwrap();
        let work = kept(&world, job).work();
        // It survives a restart of the agent.
        world.kill_agent(0);
        world.revive(0);
        world.acts = Some(vec![]);
        world.slave_event(0, slave::Event::Machine { work, fact: Fact::Probed(probed) });
        let told = world.acts.take().unwrap().contains(&Effect::Stop { work, now: true });
        (word(agent(&world), job).0, told)
    };
    let alive = || Probed::Alive { paused: false, permille: None };
    assert_eq!(stopped(OnInterrupt::Hold, alive()), (State::Stopping, true));
    assert_eq!(stopped(OnInterrupt::Hold, Probed::Gone), (State::Uncertain, false));
    assert_eq!(stopped(OnInterrupt::Fail, Probed::Gone), (State::Failed, false));
    assert_eq!(stopped(OnInterrupt::Restart, Probed::Gone), (State::Canceled, false));
    assert_eq!(stopped(OnInterrupt::Restart, Probed::Unknown(String::new())), (State::Uncertain, false));
}

#[test]
fn a_job_that_was_released_early_and_interrupted_has_not_missed_its_start() {
    let mut world = endless();
    let mut order = world.order("mill");
    restartable(&world, &mut order);
    order.start.not_before = later(&world, 10_000);
    order.start.gate = Gate::Released { latest: later(&world, 3_600_000).unwrap() };
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Running, "a person's word stands above the planned time");
    world.kill_agent(0);
    world.ms += 20_000;
    reboot(&mut world);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 2));
    assert!(!world.job(job).all_flags().has(Flags::MISSED_START));
}

#[test]
fn resuming_a_job_that_could_not_be_stopped_withdraws_the_stop() {
    let (mut world, job) = endless_job(restartable);
    world.boxes[0].machine.unstoppable = true;
    world.local(0, Local::Pause);
    world.settle();
    world.local(0, Local::Stop { now: true });
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    world.local(0, Local::Resume);
    world.settle();
    reboot(&mut world);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 2));
}

#[test]
fn a_cancel_that_seemed_too_late_is_in_time_if_nothing_had_begun() {
    let mut world = World::new(1);
    world.boxes[0].machine.slow = true;
    let job = place(&mut world);
    assert!(world.to_slave(0));
    assert_eq!((world.on_slave(0, job), world.state(job)), (Some(State::Starting), State::Assigned));
    command(&mut world, job, JobCommand::Cancel(CancelMode::IfNotStarted));
    assert!(kept(&world, job).report.flags.has(Flags::CANCEL_TOO_LATE));
    reboot(&mut world);
    let known = world.job(job);
    assert_eq!((known.state, world.begun(job)), (State::Canceled, 0));
    assert!(!known.report.unwrap().flags.has(Flags::CANCEL_TOO_LATE));
}

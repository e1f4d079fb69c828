//! Checks in the rules that are normally preceded by another check: each is tested alone.
#![cfg(test)]

mod stage;

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, Commit, Epoch, Generation, JobId, MasterId, Run, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{self, Answer, JobCommand, SlaveCommand};
use reloop_protocol::message::{
    Challenge, Declined, Flags, Hello, Message, Mode, OperatingMode, Reason, ReasonCode,
};
use reloop_protocol::slave::{self, Fact, Local, Probed, RunKey, Slave};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState};
use reloop_protocol::time::Time;
use reloop_sim::world::World;

use crate::stage::*;

fn cancel_of(world: &World, job: JobId, attempt: u32, generation: u32) -> Message {
    let (attempt, generation, desired) =
        (Attempt(attempt), Generation(generation), Desired::Cancel(CancelMode::Now));
    Message::DesiredState(DesiredState {
        attempt,
        generation,
        spec: None,
        desired,
        ..desired_state(world, job)
    })
}

#[test]
fn a_desired_state_that_is_older_than_the_one_that_is_known_has_no_force() {
    let (mut world, job) = unstarted();
    let known = world.job(job);
    let message = cancel_of(&world, job, known.attempt.0, known.generation.0 - 1);
    say(&mut world, message);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
}

#[test]
fn a_desired_state_for_an_older_attempt_has_no_force_however_new_it_is() {
    let (mut world, job) = unstarted();
    world.cut(0);
    give_away(&mut world, job);
    reconnect(&mut world, 0);
    let_start(&mut world, job);
    assert_eq!((world.job(job).attempt, world.state(job)), (Attempt(2), State::Running));
    let message = cancel_of(&world, job, 1, world.job(job).generation.0 + 9);
    say(&mut world, message);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn an_older_decision_about_the_slave_has_no_force() {
    let mut world = World::new(1);
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    let older = OperatingMode { generation: Generation(0), mode: Mode::Production };
    say(&mut world, Message::OperatingMode(older));
    assert_eq!(agent(&world).node.operating_mode.mode, Mode::Maintenance);
}

#[test]
fn that_a_start_never_was_is_believed_only_of_a_machine_that_was_asked() {
    let (mut world, job) = starting();
    let work = RunKey { job, attempt: Attempt(1), run: Run(1) };
    world.slave_event(0, slave::Event::Machine { work, fact: Fact::Probed(Probed::NeverStarted) });
    world.settle();
    assert_eq!(
        (world.on_slave(0, job), world.begun(job)),
        (Some(State::Running), 1),
        "it is not begun again"
    );
}

#[test]
fn a_machine_that_speaks_of_another_beginning_ends_nothing() {
    let (mut world, job) = running();
    let work = RunKey { job, attempt: Attempt(1), run: Run(7) };
    world.slave_event(0, slave::Event::Machine { work, fact: ended(End::Failed) });
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn a_machine_that_has_forgotten_what_it_had_begun_proves_nothing() {
    let (mut world, job) = running();
    world.kill_agent(0);
    world.boxes[0].machine.works.clear();
    world.start_agent(0, true);
    world.pass(6_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Uncertain, 1));
}

#[test]
fn a_success_that_a_refused_stop_could_not_prevent_is_a_success() {
    let (mut world, job) = running();
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert!(world.job(job).all_flags().has(Flags::CANCEL_TOO_LATE));
}

#[test]
fn an_outcome_of_the_time_without_an_agent_carries_its_own_time() {
    let (mut world, job) = running();
    let started = world.now();
    off_for(&mut world, 60_000);
    let took = world.job(job).ended_at.unwrap().since(started).0;
    assert!(took <= 10_500, "{took} ms");
}

#[test]
fn a_slave_that_lost_its_job_starts_nothing_until_a_person_has_looked() {
    let (mut world, job) = running();
    world.kill_agent(0);
    world.boxes[0].disk = world.boxes[0].disk.clone().without(job);
    world.start_agent(0, true);
    world.settle();
    world.command(job, JobCommand::Resolve(End::Failed));
    let next = place(&mut world);
    world.pass(5_000);
    assert_eq!(world.begun(next), 0, "the lost job may still be in the machine");
    world.local(0, Local::Clear).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn what_the_programs_cannot_do_is_never_held() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let (job, digest) = (order.jobs[0], order.spec.digest());
    let desired_state = DesiredState {
        requires: Default::default(),
        job,
        attempt: Attempt(1),
        generation: Generation(1),
        digest,
        spec: Some(order.spec),
        desired: Desired::Run,
        start: order.start,
    };
    let (link, session) = live(&world);
    let unfit = BTreeMap::from([(job, Reason::new(ReasonCode::BadParams, "the file does not match"))]);
    let message = Message::DesiredState(desired_state);
    world.slave_event(0, slave::Event::Received { link, session, commit: Commit(0), message, unfit });
    assert_eq!((world.on_slave(0, job), world.begun(job)), (None, 0));
}

#[test]
fn a_cancel_is_not_taken_back_and_a_success_is_not_repeated() {
    let (mut world, job) = running();
    world.cut(0);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    assert!(matches!(world.command(job, JobCommand::Resume), Some(Answer::Refused(..))));
    let (mut world, job) = running();
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert!(matches!(world.command(job, JobCommand::Retry), Some(Answer::Refused(..))));
}

/// How often the job was assigned directly after it was placed.
fn assigned(world: &mut World, change: impl FnOnce(&mut master::Order)) -> u32 {
    let job = placed(world, change);
    world.job(job).last_attempt.0
}

#[test]
fn who_cannot_take_a_job_is_not_even_asked() {
    let mut world = World::new(1);
    assert_eq!(assigned(&mut world, |_| {}), 1);
    assert_eq!(assigned(&mut world, |order| order.spec.program = "paint".to_owned()), 0);
    assert_eq!(assigned(&mut world, |order| order.slave = Some("s9".to_owned())), 0);
    for taken in 2..=4 {
        assert_eq!(assigned(&mut world, |_| {}), 1, "{taken}");
    }
    assert_eq!(assigned(&mut world, |_| {}), 0, "there is no room");
    for taken in 1..=16 {
        assert_eq!(assigned(&mut world, much_later), 1, "there is room of its own: {taken}");
    }
    assert_eq!(assigned(&mut world, much_later), 0, "there is no room of that kind");
    let mut world = World::new(2);
    let second = placed(&mut world, |order| order.slave = Some("s1".to_owned()));
    assert_eq!(world.holder(second), Some(1));
    let mut world = World::new(1);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.settle();
    assert_eq!(assigned(&mut world, |_| {}), 0, "it is locked");
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    assert_eq!(assigned(&mut world, |_| {}), 0, "it is out of production");
}

#[test]
fn of_what_waits_the_highest_priority_is_assigned_and_started_first() {
    let mut world = World::new(1);
    world.cut(0);
    let jobs = [0, 5, 1].map(|priority| place_as(&mut world, |order| order.start.priority = priority));
    // All of them reach the slave at the same time, and the machine takes one.
    world.local(0, Local::Pause);
    reconnect(&mut world, 0);
    assert_eq!(world.state(jobs[1]), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(jobs[0]), world.state(jobs[2])), (State::Accepted, State::Running));
}

#[test]
fn a_command_inside_the_handshake_waits_for_its_end() {
    let (mut world, job) = unstarted();
    world.cut(0);
    world.plug(0);
    world.crossed.clear();
    pump_until(&mut world, |world| crossed(world, "welcome") > 0);
    world.crossed.clear();
    command(&mut world, job, JobCommand::Pause);
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(said.first(), Some(&"settled"), "{said:?}");
    assert_eq!(agent(&world).jobs[&job].desired, Desired::Pause);
}

#[test]
fn a_refusal_of_an_older_desired_state_takes_nothing_back() {
    let (mut world, job) = unstarted();
    let link = link_of(&world, 0);
    let known = no_to(&world.job(job), ReasonCode::AtCapacity, false);
    let older = Declined { generation: Generation(0), ..known };
    world.master_event(received(link, Message::Declined(older)));
    assert_eq!(world.state(job), State::Accepted);
}

#[test]
fn a_restored_master_believes_in_attempts_that_it_has_forgotten() {
    for is_busy in [false, true] {
        let (mut world, job) = unstarted();
        let backup = world.master_disk.clone();
        world.cut(0);
        world.command(job, JobCommand::Abandon);
        if is_busy {
            place_as(&mut world, |order| order.start.priority = 1);
        }
        world.command(job, JobCommand::Retry);
        let_start(&mut world, job);
        reconnect(&mut world, 0);
        let found = if is_busy { State::Accepted } else { State::Running };
        assert_eq!(world.on_slave(0, job), Some(found));
        world.boxes[0].cable = false;
        put_back_files(&mut world, backup);
        confirm_restore(&mut world);
        reconnect(&mut world, 0);
        assert_eq!((world.state(job), world.job(job).attempt), (found, Attempt(2)));
        assert_eq!(world.on_slave(0, job), Some(found));
    }
}

#[test]
fn a_success_speaks_for_the_job_whatever_else_a_restored_master_has_forgotten() {
    let mut world = World::new(2);
    let job = placed(&mut world, |_| {});
    let first = usize::from(world.on_slave(1, job).is_some());
    let second = 1 - first;
    world.boxes[second].machine.length_ms = i64::MAX;
    let backup = world.master_disk.clone();
    world.cut(first);
    give_away(&mut world, job);
    world.settle();
    assert_eq!(world.on_slave(second, job), Some(State::Running));
    for slave in [first, second] {
        world.boxes[slave].cable = false;
    }
    put_back_files(&mut world, backup);
    confirm_restore(&mut world);
    world.pass(12_000);
    reconnect(&mut world, first);
    assert_eq!((world.state(job), world.job(job).attempt), (State::Succeeded, Attempt(1)));
    reconnect(&mut world, second);
    let told = world.job(job);
    assert_eq!((told.state, told.attempt, told.last_attempt), (State::Succeeded, Attempt(1), Attempt(2)));
    assert!(told.all_flags().has(Flags::DUPLICATE), "the second goes on, and somebody should know");
}

/// What the clock of a master shows at its Challenge.
const ITS_TIME: Time = Time(7_000);

/// The answer to a Challenge of a slave with one recent outcome and one job.
fn hello_to(change: impl FnOnce(&mut Challenge)) -> (Slave, Hello) {
    let (mut world, _) = running();
    world.pass(12_000);
    placed(&mut world, much_later);
    confirm_restore(&mut world);
    world.settle();
    // The slave takes an outcome for known to the master once the master has sent something.
    world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
    world.settle();
    world.cut(0);
    let mut challenge = Challenge { time: ITS_TIME, ..challenge(&world) };
    change(&mut challenge);
    let event = heard(DIALLED, Session(0), Message::Challenge(challenge));
    let step = slave::step(dialled(&world, None), world.slave_now(0), event);
    (step.state, hello_in(&step.effects))
}

#[test]
fn a_slave_tells_each_master_what_is_its_to_know_and_obeys_no_older_copy() {
    let takes_its_time = |state: &Slave| state.node.sync.unwrap().master == ITS_TIME;
    let (state, known) = hello_to(|_| {});
    assert!(takes_its_time(&state));
    assert_eq!((known.rows.len(), known.recent_outcomes.len()), (1, 0), "it has forgotten nothing");
    let (state, foreign) = hello_to(|challenge| challenge.master = MasterId([9; 16]));
    assert_eq!((foreign.rows.len(), foreign.recent_outcomes.len()), (0, 0), "a stranger");
    assert!(!takes_its_time(&state), "nor is anything taken from it");
    let (state, restored) = hello_to(|challenge| challenge.epoch = Epoch(challenge.epoch.0 + 1));
    assert_eq!((restored.rows.len(), restored.recent_outcomes.len()), (1, 1), "it may have forgotten");
    assert!(takes_its_time(&state));
    for older in [
        |challenge: &mut Challenge| challenge.epoch = Epoch(challenge.epoch.0 - 1),
        |challenge: &mut Challenge| challenge.commit = Commit(1),
    ] {
        let (state, _) = hello_to(older);
        assert!(matches!(state.link, slave::Link::Introduced { doubtful: true, .. }), "{:?}", state.link);
        assert!(!takes_its_time(&state), "an older copy may be of another time");
    }
}

//! Jobs of more than one attempt.

use reloop_protocol::id::Attempt;
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Answer, Delivery, JobCommand, Retry, RetryOn};
use reloop_protocol::slave;
use reloop_protocol::spec::Desired;
use reloop_protocol::time::Time;
use reloop_sim::world::{Machine, World};

use crate::stage::*;

#[test]
fn an_uncertain_job_that_was_given_up_while_its_slave_was_connected_can_still_be_resolved() {
    let (mut world, job) = running();
    reboot(&mut world);
    assert_eq!(world.state(job), State::Uncertain);
    command(&mut world, job, JobCommand::Abandon);
    assert_eq!(world.state(job), State::Lost);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain), "the machine waits for a person");
    let answer = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Sent)])));
    world.settle();
    assert_eq!(world.state(job), State::Failed);
    assert_eq!(world.on_slave(0, job), None, "the machine is free");
}

#[test]
fn a_job_that_is_assigned_again_to_the_slave_that_is_just_beginning_it_comes_to_rest() {
    let mut world = World::new(1);
    world.patience = 1_000;
    let job = place(&mut world);
    // The slave has not answered yet, and both attempts reach it one after the other.
    give_away(&mut world, job);
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
    world.pass(12_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn an_uncertain_job_that_was_given_up_and_is_done_elsewhere_can_still_be_resolved() {
    let mut world = World::new(2);
    let job = placed(&mut world, |_| {});
    let first = world.holder(job).unwrap();
    world.reboot(first);
    world.settle();
    give_away(&mut world, job);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(first, job), Some(State::Uncertain), "that machine waits for a person");
    command(&mut world, job, JobCommand::Resolve(End::Failed));
    assert_eq!((world.state(job), world.on_slave(first, job)), (State::Succeeded, None));
}

#[test]
fn a_slave_that_declined_because_of_an_attempt_that_is_over_is_offered_the_next() {
    let mut world = World::new(1);
    let job = place(&mut world);
    world.to_slave(0);
    world.boxes[0].machine.fails = true;
    world.pass_some(12_000);
    world.boxes[0].machine.fails = false;
    // The work has failed, and the slave itself has not received the fact yet.
    give_away(&mut world, job);
    assert!(world.to_slave(0) && world.to_master(0) && world.to_master(0));
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_job_that_was_given_up_while_its_offer_was_under_way_is_called_off() {
    let mut world = World::new(1);
    let first = world.order("mill");
    let first = world.place(first);
    world.settle();
    let second = world.order("mill");
    let second = world.place(second);
    assert_eq!(world.state(second), State::Assigned);
    command(&mut world, second, JobCommand::Abandon);
    assert_eq!((world.state(first), world.on_slave(0, second)), (State::Running, None));
    world.pass(30_000);
    assert_eq!((world.state(second), world.begun(second)), (State::Canceled, 0));
}

fn retries(order: &mut master::Order, max_attempts: u32, on: RetryOn) {
    order.retry = Retry { max_attempts, on: [on].into() };
}

#[test]
fn the_success_of_an_old_attempt_of_many_is_kept() {
    for attempts in [16, 17, 30] {
        let mut world = World::new(1);
        world.lenient = true;
        world.boxes[0].machine.length_ms = 30_000;
        // A person's own retry is not one of the order's.
        let job = placed(&mut world, |order| retries(order, attempts - 1, RetryOn::Failed));
        world.cut(0);
        let second = world.add_slave("second");
        (world.boxes[second].machine.fails, world.boxes[second].machine.length_ms) = (true, 1_000);
        world.settle();
        give_away(&mut world, job);
        world.pass(60_000);
        assert_eq!((world.state(job), world.on_slave(0, job)), (State::Failed, Some(State::Succeeded)));
        assert_eq!(world.job(job).attempt, Attempt(attempts));
        reconnect(&mut world, 0);
        assert_eq!(world.on_slave(0, job), None, "it was told to forget");
        assert_eq!(world.state(job), State::Succeeded, "after {attempts} attempts: {:?}", world.broken);
    }
}

#[test]
fn a_slave_that_asks_of_an_old_attempt_of_many_is_answered_by_somebody() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, |order| retries(order, 29, RetryOn::Failed));
    world.cut(0);
    reboot(&mut world);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain));
    let second = world.add_slave("second");
    (world.boxes[second].machine.fails, world.boxes[second].machine.length_ms) = (true, 1_000);
    world.settle();
    give_away(&mut world, job);
    world.pass(60_000);
    assert_eq!((world.state(job), world.job(job).attempt), (State::Failed, Attempt(30)));
    reconnect(&mut world, 0);
    assert_eq!(slave::machine_report(agent(&world)).uncertain, Some(job));
    let waits = place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
    world.answer_needs();
    world.pass(60_000);
    assert_eq!(world.begun(waits), 1, "its machine stands still");
}

#[test]
fn what_began_although_it_was_given_up_is_begun_again_as_its_order_says() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let first = placed(&mut world, |_| {});
    let job = place_as(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Restart);
    // The slave takes it; the master gives the offer up before it hears of that.
    pump_until(&mut world, |world| world.on_slave(0, job).is_some());
    world.command(job, JobCommand::Abandon);
    while world.to_master(0) {}
    // The master tells the slave not to begin it, and that moment it begins.
    let (work, at) = (agent(&world).jobs[&first].work(), Time(world.wall(0)));
    world.boxes[0].machine.finish(work, End::Succeeded, at, true);
    while world.hear_machine(0) {}
    world.settle();
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Running, Some(State::Running)));
    assert_eq!(world.job(job).desired, Desired::Run);
    reboot(&mut world);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 2), "nobody has canceled it");
}

//! Which slave gets a waiting job, and what is recalled for that.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Event, JobCommand, Order, RequestId, SlaveCommand};
use reloop_protocol::message::{Flags, Message, Mode, ReasonCode};
use reloop_protocol::slave::Local;
use reloop_protocol::spec::Desired;
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

/// A job that waits behind a long one at the first slave, and a second slave that connects with these jobs.
fn waits_behind(second: impl FnOnce(&mut World)) -> (World, JobId) {
    let mut world = World::new(2);
    world.boxes.iter_mut().for_each(|one| one.machine.length_ms = Machine::UNTIL_TOLD);
    second(&mut world);
    world.settle();
    world.cut(1);
    placed(&mut world, |order| order.slave = Some("s0".to_owned()));
    let waits = placed(&mut world, |_| {});
    assert_eq!((world.holder(waits), world.state(waits)), (Some(0), State::Accepted));
    world.plug(1);
    world.pass(2_000);
    (world, waits)
}

fn at_second(change: impl Fn(&mut Order)) -> impl FnOnce(&mut World) {
    move |world: &mut World| {
        let mut order = world.order("mill");
        order.slave = Some("s1".to_owned());
        change(&mut order);
        world.place(order);
    }
}

#[test]
fn a_slave_that_has_only_deferred_jobs_takes_over_a_job_that_waits_elsewhere() {
    let far = Time(World::new(0).now().0 + 3_600_000);
    let (world, job) = waits_behind(|_| {});
    assert_eq!((world.holder(job), world.state(job)), (Some(1), State::Running), "it has nothing");
    let (world, job) = waits_behind(at_second(|order| order.start.not_before = Some(far)));
    assert_eq!(
        (world.holder(job), world.state(job)),
        (Some(1), State::Running),
        "its own waits for its time"
    );
    let (world, job) = waits_behind(at_second(much_later));
    assert_eq!(
        (world.holder(job), world.state(job)),
        (Some(1), State::Running),
        "its own waits for a person"
    );
    let (world, job) = waits_behind(at_second(|_| {}));
    assert_eq!((world.holder(job), world.state(job)), (Some(0), State::Accepted), "it is at work");
}

#[test]
fn a_job_whose_slave_can_start_nothing_goes_to_one_that_can() {
    // Nothing runs there.
    let mut world = World::new(2);
    world.cut(1);
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    world.command_slave(0, SlaveCommand::Mode(Mode::Production));
    let job = placed(&mut world, much_later);
    world.local(0, Local::Lock(true));
    command(&mut world, job, JobCommand::Release { valid: Millis(60_000) });
    assert_eq!((world.holder(job), world.state(job)), (Some(0), State::Accepted));
    world.plug(1);
    world.pass(2_000);
    assert_eq!((world.holder(job), world.state(job)), (Some(1), State::Running));
}

#[test]
fn a_job_that_waits_at_an_offline_slave_is_not_recalled() {
    let mut world = World::new(2);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.cut(1);
    placed(&mut world, |order| order.slave = Some("s0".to_owned()));
    let waits = placed(&mut world, |_| {});
    world.cut(0);
    world.plug(1);
    world.pass(2_000);
    let job = world.job(waits);
    assert_eq!((world.holder(waits), job.state, job.wanted()), (Some(0), State::Accepted, Desired::Run));
}

/// Makes the work of an order almost as large as it may be.
fn large(order: &mut Order) {
    order.spec.params.insert("blob".to_owned(), "x".repeat(31 * 1024));
}

#[test]
fn a_slave_whose_outcomes_left_no_room_gets_work_once_they_are_taken() {
    let mut world = world_with(|settings| settings.capacity = 5);
    world.settle();
    let jobs: Vec<_> = (0..5).map(|_| place_as(&mut world, large)).collect();
    let last = jobs[4];
    pump_until(&mut world, |world| world.on_slave(0, jobs[3]).is_some());
    assert_eq!((world.on_slave(0, last), world.state(last)), (None, State::Assigned));
    // The last offer is lost with the link, and the slave does all others without its master.
    world.cut(0);
    world.pass(120_000);
    assert!(jobs[..4].iter().all(|job| world.on_slave(0, *job) == Some(State::Succeeded)));
    reconnect(&mut world, 0);
    assert!(agent(&world).jobs.values().all(|job| !job.report.state.is_ended()), "all are forgotten");
    world.pass(120_000);
    assert_eq!(world.state(last), State::Succeeded);
}

#[test]
fn a_paused_job_that_a_slave_can_never_do_keeps_no_other_work_from_it() {
    for is_paused in [false, true] {
        let mut world = World::new(1);
        let orders = [world.order("mill"), world.order("mill")];
        let [job, other] = [0, 1].map(|at: usize| orders[at].jobs[0]);
        let mut seat = Seat::of(&mut world);
        let first = seat.introduce();
        seat.settle(OLDER, first.session);
        let [order, next] = orders.map(Box::new);
        seat.step(Event::OrderPlaced { request: RequestId(1), order, key: None });
        assert_eq!(seat.job(job).state, State::Assigned);
        if is_paused {
            drop(seat.commands(job, JobCommand::Pause));
        }
        let said = no_to(&seat.job(job), ReasonCode::BadParams, true);
        seat.step(received(OLDER, Message::Declined(said)));
        seat.step(Event::OrderPlaced { request: RequestId(2), order: next, key: None });
        assert_eq!(seat.job(other).state, State::Assigned, "the first one is paused: {is_paused}");
    }
}

#[test]
fn what_is_given_back_in_a_handshake_after_it_could_not_begin_goes_elsewhere() {
    let (mut world, first) = endless_job(|_, _| {});
    let job = placed(&mut world, |_| {});
    world.boxes[0].machine.unfit = true;
    let (work, at) = (agent(&world).jobs[&first].work(), Time(world.wall(0)));
    world.boxes[0].machine.finish(work, End::Succeeded, at, true);
    assert!(world.hear_machine(0));
    assert_eq!(world.on_slave(0, job), Some(State::Starting));
    // The master recalls it before it hears of the intent; what it says is lost with the link.
    world.add_slave("idle");
    while world.pump_one(1) {}
    assert!(world.job(job).recalled.is_some());
    while world.state(job) != State::Starting {
        assert!(world.to_master(0));
    }
    world.cut(0);
    while world.hear_machine(0) {}
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    assert!(world.job(job).recalled.is_some());
    reconnect(&mut world, 0);
    assert_eq!(world.on_slave(0, job), None, "it has given it back");
    world.pass(120_000);
    assert_eq!((world.begun(job), world.state(job)), (1, State::Succeeded));
}

#[test]
fn a_job_that_may_go_on_waits_at_no_busy_slave_while_another_is_idle() {
    let (mut world, _) = endless_job(|_, _| {});
    let job = placed(&mut world, |_| {});
    command(&mut world, job, JobCommand::Pause);
    world.add_slave("idle");
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)));
    command(&mut world, job, JobCommand::Resume);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(1)));
}

#[test]
fn of_what_may_go_on_each_idle_slave_gets_one() {
    let (mut world, _) = endless_job(|_, _| {});
    let jobs = [(); 2].map(|()| placed(&mut world, |_| {}));
    jobs.iter().for_each(|job| drop(command(&mut world, *job, JobCommand::Pause)));
    for name in ["idle", "idle-too"] {
        world.add_slave(name);
    }
    world.settle();
    let (jobs, command) = (jobs.to_vec(), JobCommand::Resume);
    world.master_event(Event::JobsCommanded { request: RequestId(1), jobs: jobs.clone(), command });
    world.settle();
    assert!(jobs.iter().all(|job| world.state(*job) == State::Running));
}

#[test]
fn a_slave_that_let_a_job_go_before_a_restore_has_room_whatever_turns_up_of_it() {
    let (mut world, job) = endless_job(|_, _| {});
    world.cut(0);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    let other = placed(&mut world, |_| {});
    give_away(&mut world, job);
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(second)));
    let backup = world.master_disk.clone();
    let third = world.add_slave("third");
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(third)));
    world.cut(second);
    world.cut(third);
    put_back_files(&mut world, backup);
    confirm_restore(&mut world);
    world.boxes[second].settings.capacity = 1;
    world.kill_agent(second);
    let works = &world.boxes[second].machine;
    let (work, at) = (works.alive().find(|work| work.job == other).unwrap(), Time(world.wall(second)));
    world.boxes[second].machine.finish(work, End::Succeeded, at, false);
    world.start_agent(second, true);
    reconnect(&mut world, second);
    assert_eq!((world.state(other), world.state(job)), (State::Succeeded, State::Uncertain));
    assert_eq!(reason(&world, job), ReasonCode::Restored);
    reconnect(&mut world, 0);
    assert!(world.job(job).flags.has(Flags::DUPLICATE), "another attempt runs");
    let waits = placed(&mut world, |order| order.slave = Some("second".to_owned()));
    assert_eq!(world.state(waits), State::Running);
}

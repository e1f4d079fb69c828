//! Deferred jobs and time.

use reloop_protocol::job::State;
use reloop_protocol::master::{self, Delivery, JobCommand};
use reloop_protocol::message::{Flags, ReasonCode, WaitingFor};
use reloop_protocol::slave::{Release, TrustClock};
use reloop_protocol::spec::{Late, OnOverdue};
use reloop_protocol::time::Millis;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn b1_a_start_time_that_comes_offline_is_kept() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 30_000, |_| {});
    assert_eq!(waits_for(&world, job), Some(WaitingFor::Time));
    world.cut(0);
    world.pass(29_000);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
    world.pass(2_000);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.pass(20_000);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn b2_a_start_that_was_missed_follows_its_late_rule_and_is_reported() {
    for (late, expected) in
        [(Late::Hold, State::Accepted), (Late::Run, State::Running), (Late::Skip, State::Expired)]
    {
        let mut world = World::new(1);
        let job = deferred(&mut world, 5_000, |order| order.start.late = late);
        off_for(&mut world, 70_000);
        assert_eq!(world.state(job), expected, "{late:?}");
        assert!(world.job(job).all_flags().has(Flags::MISSED_START));
        assert_eq!(reason(&world, job), ReasonCode::MissedStart);
        if late == Late::Hold {
            assert_eq!(waits_for(&world, job), Some(WaitingFor::Operator));
            release(&mut world, job, 60);
            world.settle();
            assert_eq!(world.state(job), State::Running);
        }
    }
}

#[test]
fn b2_a_late_start_is_none_after_its_deadline() {
    let mut world = World::new(1);
    let deadline = later(&world, 8_000);
    let job = deferred(&mut world, 5_000, |order| {
        order.start.deadline = deadline;
        order.start.late = Late::Run;
    });
    off_for(&mut world, 10_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 0));
}

#[test]
fn b3_a_changed_time_is_applied_if_it_has_not_started() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 20_000, |_| {});
    world.cut(0);
    let sooner =
        JobCommand::Reschedule { not_before: later(&world, 5_000), deadline: None, late: Late::Hold };
    assert_eq!(world.command(job, sooner), taken(Delivery::PendingOnReconnect, job));
    world.plug(0);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn b3_a_start_under_the_old_time_stands_and_says_under_which_desired_state() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 20_000, |_| {});
    let known = world.job(job).generation;
    world.cut(0);
    let not_before = later(&world, 900_000);
    world.command(job, JobCommand::Reschedule { not_before, deadline: None, late: Late::Hold });
    world.pass(22_000);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).report.unwrap().started_generation, Some(known));
    assert!(world.job(job).generation > known);
}

#[test]
fn b4_a_withdrawn_start_of_a_running_job_stops_nothing() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 2_000, |_| {});
    world.cut(0);
    let not_before = later(&world, 1_000_000);
    world.command(job, JobCommand::Reschedule { not_before, deadline: None, late: Late::Skip });
    world.pass(3_000);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Running, "nobody asked for a stop");
}

#[test]
fn b5_start_now_is_one_desired_state_with_a_latest_time() {
    let (mut world, job) = unstarted();
    world.cut(0);
    for _ in 0..3 {
        release(&mut world, job, 60);
    }
    world.crossed.clear();
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
    assert_eq!(
        crossed(&world, "desired_state"),
        0,
        "the Welcome carries the newest desired state; nothing was queued"
    );
}

#[test]
fn b6_of_two_for_the_same_time_one_waits_its_turn() {
    let mut world = World::new(1);
    let jobs = [deferred(&mut world, 5_000, |_| {}), deferred(&mut world, 5_000, |_| {})];
    world.pass(6_000);
    assert_eq!((world.state(jobs[0]), world.state(jobs[1])), (State::Running, State::Accepted));
    assert_eq!(waits_for(&world, jobs[1]), Some(WaitingFor::Turn));
    world.pass(12_000);
    assert_eq!(world.state(jobs[1]), State::Running);
}

#[test]
fn b6_the_one_that_waits_expires_if_its_window_does_not_allow_it() {
    let mut world = World::new(1);
    let deadline = later(&world, 8_000);
    let first = deferred(&mut world, 5_000, |_| {});
    let second = deferred(&mut world, 5_000, |order| order.start.deadline = deadline);
    world.pass(10_000);
    assert_eq!((world.state(first), world.state(second)), (State::Running, State::Expired));
    assert_eq!(world.begun(second), 0);
}

#[test]
fn b7_without_a_clock_that_can_be_trusted_a_deferred_job_waits() {
    for trusted in [false, true] {
        let mut world = World::new(1);
        let job = deferred(&mut world, 60_000, |_| {});
        world.cut(0);
        let trust = if trusted { TrustClock::Always } else { TrustClock::Never };
        world.boxes[0].settings.trust_clock = trust;
        world.reboot(0);
        world.pass(1_000);
        let waits = kept(&world, job).report.waiting_for;
        assert_eq!(waits, Some(if trusted { WaitingFor::Time } else { WaitingFor::Clock }));
        world.pass(65_000);
        let expected = if trusted { State::Running } else { State::Accepted };
        assert_eq!(world.on_slave(0, job), Some(expected), "trusted {trusted}");
    }
}

#[test]
fn b8_a_clock_that_jumps_fires_once_and_not_early() {
    for jump in [5 * 3_600_000, -5 * 3_600_000] {
        let mut world = World::new(1);
        let job = deferred(&mut world, 20_000, |_| {});
        world.cut(0);
        world.boxes[0].wall_off = jump;
        world.pass(19_000);
        assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
        world.pass(2_000);
        assert_eq!(world.on_slave(0, job), Some(State::Running));
        world.pass(15_000);
        reconnect(&mut world, 0);
        let told = world.job(job).report.unwrap();
        let took = told.ended_at.unwrap().since(told.started_at.unwrap()).0;
        assert!((9_000..=11_000).contains(&took), "elapsed times stay right: {took} ms");
        assert_eq!(world.begun(job), 1);
    }
}

#[test]
fn b8_slaves_measure_a_masters_clock_again_that_was_set() {
    let (mut world, job) = running();
    let (_, session) = live(&world);
    world.master_event(master::Event::ClockSet { step_ms: 5_000 });
    world.settle();
    assert!(live(&world).1 > session, "a handshake shows them the time");
    assert_eq!(world.state(job), State::Running);
    world.pass(11_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn b9_a_machine_that_is_not_ready_is_waited_for_until_the_deadline() {
    let mut world = World::new(1);
    world.boxes[0].state.as_mut().unwrap().settings.release = Release::Ack;
    world.boxes[0].settings.release = Release::Ack;
    place(&mut world);
    let deadline = later(&world, 21_000);
    let job = deferred(&mut world, 13_000, |order| order.start.deadline = deadline);
    world.pass(16_000);
    assert_eq!(waits_for(&world, job), Some(WaitingFor::Ready));
    world.pass(8_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 0));
}

#[test]
fn b10_a_slave_acts_on_an_overrun_by_itself() {
    for (rule, expected) in [(OnOverdue::Flag, State::Running), (OnOverdue::Stop, State::Canceled)] {
        let (mut world, job) = running_as(|order| {
            order.spec.max_runtime = Some(Millis::seconds(3));
            order.spec.on_overdue = rule;
        });
        world.cut(0);
        world.pass(5_000);
        assert_eq!(world.on_slave(0, job), Some(expected), "{rule:?}");
        reconnect(&mut world, 0);
        assert!(world.job(job).all_flags().has(Flags::OVERDUE));
    }
}

//! Jobs from order to outcome, also over links that break and with nodes that crash.

use reloop_protocol::job::State;
use reloop_protocol::master::{Answer, Delivery, JobCommand, SlaveCommand};
use reloop_protocol::message::WaitingFor;
use reloop_protocol::slave::Release;
use reloop_protocol::spec::CancelMode;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn an_order_runs_to_success() {
    let mut world = World::new(1);
    let job = place(&mut world);
    assert_eq!(world.state(job), State::Assigned);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None, "an outcome that the master has on disk is forgotten");
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a_cut_after_any_message_changes_nothing_in_the_end() {
    // The same jobs, with one cut after each of the messages.
    for cut_after in 0..24 {
        let mut world = World::new(1);
        let job = place(&mut world);
        for _ in 0..cut_after {
            world.pump();
        }
        world.cut(0);
        world.pass(3_000);
        world.plug(0);
        world.pass(30_000);
        assert_eq!(world.state(job), State::Succeeded, "cut after {cut_after}");
        assert_eq!(world.begun(job), 1, "cut after {cut_after}");
    }
}

#[test]
fn a_crash_of_the_agent_or_the_master_after_any_message_changes_nothing_in_the_end() {
    for crash_after in 0..24 {
        for who in ["agent", "master", "both"] {
            let mut world = World::new(1);
            let job = place(&mut world);
            for _ in 0..crash_after {
                world.pump();
            }
            if who != "master" {
                world.kill_agent(0);
            }
            if who != "agent" {
                world.kill_master();
                world.start_master();
            }
            if who != "master" {
                world.start_agent(0, true);
            }
            world.pass(40_000);
            assert_eq!(world.state(job), State::Succeeded, "{who} after {crash_after}");
            assert_eq!(world.begun(job), 1, "{who} after {crash_after}");
        }
    }
}

#[test]
fn a_cancel_of_what_no_slave_holds_is_applied_at_once() {
    let mut world = World::new(0);
    let job = place(&mut world);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Applied)])));
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a_job_pauses_and_goes_on() {
    let (mut world, job) = running();
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    command(&mut world, job, JobCommand::Resume);
    assert_eq!(world.state(job), State::Running);
    world.pass(11_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn finished_is_not_free_with_release_ack() {
    let mut world = world_with(|settings| settings.release = Release::Ack);
    let (one, two) = (place(&mut world), place(&mut world));
    world.pass(12_000);
    assert_eq!(world.state(one), State::Succeeded);
    assert_eq!(world.state(two), State::Accepted);
    assert_eq!(world.job(two).report.unwrap().waiting_for, Some(WaitingFor::Ready));
    assert_eq!(world.command_slave(0, SlaveCommand::Ready), Some(Answer::SlaveTaken(Delivery::Applied)));
    world.settle();
    assert_eq!(world.state(two), State::Running);
}

#[test]
fn higher_priority_goes_first_and_idle_slaves_before_busy_ones() {
    let mut world = World::new(2);
    let jobs: Vec<_> = (0..2).map(|_| place(&mut world)).collect();
    world.settle();
    assert!(jobs.iter().all(|job| world.state(*job) == State::Running));
    let lows = [(); 4].map(|()| place(&mut world));
    let high = place_as(&mut world, |order| order.start.priority = 5);
    world.pass(12_000);
    assert!(world.state(high).is_executing(), "{:?}", world.state(high));
    let begun: u32 = lows.iter().map(|job| world.begun(*job)).sum();
    assert_eq!(begun, 1, "two slaves, and one has the high one");
    world.pass(36_000);
    assert_eq!(world.state(high), State::Succeeded);
    assert_eq!(lows.map(|job| (world.state(job), world.begun(job))), [(State::Succeeded, 1); 4]);
}

#[test]
fn what_waits_at_a_busy_slave_moves_to_one_that_falls_idle() {
    let mut world = World::new(1);
    let jobs: Vec<_> = (0..3).map(|_| place(&mut world)).collect();
    world.settle();
    assert_eq!(world.holder(jobs[1]), Some(0));
    world.add_slave("late");
    world.settle();
    assert_eq!(jobs.iter().filter(|job| world.state(**job) == State::Running).count(), 2);
    world.pass(40_000);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Succeeded));
    assert!(jobs.iter().all(|job| world.begun(*job) == 1));
}

#[test]
fn a_window_that_closes_unstarted_expires_the_job_where_it_is() {
    let mut world = World::new(0);
    let soon = later(&world, 5_000);
    let job = place_as(&mut world, |order| order.start.deadline = soon);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Expired);
    let mut world = World::new(1);
    place(&mut world);
    let job = placed(&mut world, |order| order.start.deadline = soon);
    assert_eq!(world.state(job), State::Accepted);
    world.cut(0);
    world.pass(6_000);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Expired);
    assert_eq!(world.begun(job), 0);
}

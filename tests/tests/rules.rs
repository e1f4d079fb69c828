//! The rules of both nodes against each other, without processes: the loop in all its cases.
#![cfg(test)]

use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{Answer, Delivery, JobCommand, SlaveCommand};
use reloop_protocol::message::{Attention, CloseCode, Flags, Mode, ReasonCode, WaitingFor};
use reloop_protocol::slave::{Local, Release};
use reloop_protocol::spec::{CancelMode, Gate, Late};
use reloop_protocol::time::{Millis, Time};
use reloop_tests::world::World;

fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

#[test]
fn an_order_runs_to_success() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    assert_eq!(world.state(job), State::Assigned);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None, "an outcome that the master has on disk is forgotten");
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a_job_finished_while_offline_is_recorded_on_reconnect_with_the_slaves_times() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let started = world.now();
    world.cut(0);
    world.pass(60_000);
    assert_eq!(world.state(job), State::Running, "the link's loss says nothing of the job");
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded));
    world.plug(0);
    world.settle();
    let job = world.job(job);
    assert_eq!(job.state, State::Succeeded);
    let ended = job.ended_at.unwrap();
    assert!(ended.since(started).0 <= 10_500, "it ended by the slave's clock: {}", ended.since(started).0);
}

#[test]
fn a_deferred_job_starts_by_itself_while_offline() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 30_000);
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    assert_eq!(world.job(job).report.unwrap().waiting_for, Some(WaitingFor::Time));
    world.cut(0);
    world.pass(29_000);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
    world.pass(2_000);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.pass(20_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a_start_that_passed_while_the_slave_was_off_follows_its_late_rule() {
    for (late, expected) in
        [(Late::Hold, State::Accepted), (Late::Run, State::Running), (Late::Skip, State::Expired)]
    {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        order.start.not_before = later(&world, 30_000);
        order.start.late = late;
        let job = world.place(order);
        world.settle();
        world.kill_agent(0);
        world.pass(60_000);
        world.start_agent(0, true);
        world.settle();
        assert_eq!(world.state(job), expected, "{late:?}");
        if late == Late::Hold {
            assert_eq!(world.job(job).report.unwrap().waiting_for, Some(WaitingFor::Operator));
            world.command(job, JobCommand::Release { valid: Millis::seconds(60) });
            world.settle();
            assert_eq!(world.state(job), State::Running);
        }
    }
}

#[test]
fn a_cut_after_any_message_changes_nothing_in_the_end() {
    // The same story, cut once after each message that crosses in it.
    for cut_after in 0..24 {
        let mut world = World::new(1);
        let order = world.order("mill");
        let job = world.place(order);
        let mut moved = 0;
        while moved < cut_after && world.pump() {
            moved += 1;
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
            let order = world.order("mill");
            let job = world.place(order);
            let mut moved = 0;
            while moved < crash_after && world.pump() {
                moved += 1;
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
fn a_machine_that_cannot_say_what_it_did_makes_a_person_decide() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 60_000;
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.boxes[0].machine.silent = true;
    world.kill_agent(0);
    world.start_agent(0, true);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Uncertain);
    assert_eq!(world.job(job).report.unwrap().reason.unwrap().code, ReasonCode::NoProof);
    let order = world.order("mill");
    let next = world.place(order);
    world.pass(5_000);
    assert_eq!(world.begun(next), 0, "nothing starts on a machine in doubt");
    let answer = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Sent)])));
    world.settle();
    assert_eq!(world.state(job), State::Failed);
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn work_that_a_power_cut_ended_follows_the_orders_rule() {
    for (policy, expected) in [
        (OnInterrupt::Hold, State::Uncertain),
        (OnInterrupt::Fail, State::Failed),
        (OnInterrupt::Restart, State::Running),
    ] {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        order.spec.on_interrupt = policy;
        let job = world.place(order);
        world.settle();
        world.reboot(0);
        world.settle();
        assert_eq!(world.state(job), expected, "{policy:?}");
    }
}

#[test]
fn a_box_that_reboots_in_a_loop_stops_restarting_its_job() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.spec.on_interrupt = OnInterrupt::Restart;
    let job = world.place(order);
    world.settle();
    for _ in 0..3 {
        world.reboot(0);
        world.settle();
        assert_eq!(world.state(job), State::Running);
    }
    world.reboot(0);
    world.settle();
    assert_eq!(world.state(job), State::Uncertain);
    assert_eq!(world.job(job).report.unwrap().reason.unwrap().code, ReasonCode::InterruptedTooOften);
}

#[test]
fn a_cancel_ends_a_job_in_each_phase() {
    // Queued.
    let mut world = World::new(0);
    let order = world.order("mill");
    let job = world.place(order);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Applied)])));
    assert_eq!(world.state(job), State::Canceled);
    // Accepted, unstarted.
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
    world.settle();
    assert_eq!(world.state(job), State::Canceled);
    assert_eq!(world.begun(job), 0);
    // Running, online.
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let too_late = world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
    assert_eq!(too_late, Some(Answer::Taken(vec![(job, Delivery::TooLate)])));
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    assert_eq!(world.state(job), State::Canceled);
    // Running, offline: the wish waits as part of the job.
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.cut(0);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::PendingOnReconnect)])));
    assert_eq!(world.state(job), State::Running);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn an_outcome_beats_a_late_cancel() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.pass(20_000);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert!(world.job(job).all_flags().has(Flags::CANCEL_TOO_LATE));
}

#[test]
fn a_machine_may_refuse_to_stop() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).report.unwrap().reason.unwrap().code, ReasonCode::StopRefused);
}

#[test]
fn a_job_pauses_and_goes_on_and_local_people_win() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.command(job, JobCommand::Pause);
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    world.command(job, JobCommand::Resume);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.local(0, Local::Pause).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    world.command(job, JobCommand::Resume);
    world.settle();
    assert_eq!(world.state(job), State::Paused, "a remote command never clears a local one");
    assert_eq!(world.job(job).report.unwrap().reason.unwrap().code, ReasonCode::PausedLocally);
    world.local(0, Local::Resume).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn finished_is_not_free_with_release_ack() {
    let mut world = World::new(0);
    let slave = world.add_slave("mill-1");
    world.kill_agent(slave);
    world.boxes[slave].settings.release = Release::Ack;
    world.start_agent(slave, true);
    world.settle();
    let (one, two) = (world.order("mill"), world.order("mill"));
    let (one, two) = (world.place(one), world.place(two));
    world.pass(12_000);
    assert_eq!(world.state(one), State::Succeeded);
    assert_eq!(world.state(two), State::Accepted);
    assert_eq!(world.job(two).report.unwrap().waiting_for, Some(WaitingFor::Ready));
    assert_eq!(
        world.command_slave(slave, SlaveCommand::Ready),
        Some(Answer::Replied(reloop_protocol::message::Reply::Done))
    );
    world.settle();
    assert_eq!(world.state(two), State::Running);
}

#[test]
fn a_local_lock_keeps_starts_out_until_it_is_lifted_there() {
    let mut world = World::new(1);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.settle();
    let order = world.order("mill");
    let job = world.place(order);
    world.pass(5_000);
    assert_eq!(world.state(job), State::Queued, "a locked machine is not offered work");
    assert_eq!(world.job(job).last_attempt.0, 0, "not even to decline it");
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn a_held_job_is_held_also_where_nobody_knows_the_time() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.reboot(0);
    world.pass(5_000);
    assert_eq!(
        world.on_slave(0, job),
        Some(State::Accepted),
        "it was rebooted, and heard of no master since"
    );
    world.plug(0);
    world.command(job, JobCommand::Release { valid: Millis::seconds(60) });
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
}

#[test]
fn maintenance_keeps_starts_out_and_draining_finishes_what_is_there() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let held = world.place(order);
    world.settle();
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    world.command(held, JobCommand::Release { valid: Millis::seconds(600) });
    world.settle();
    assert_eq!(world.state(held), State::Accepted);
    world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
    let order = world.order("mill");
    let new = world.place(order);
    world.settle();
    assert_eq!(world.state(held), State::Running);
    assert_eq!(world.state(new), State::Queued);
    world.command_slave(0, SlaveCommand::Mode(Mode::Production));
    world.settle();
    assert_eq!(world.state(new), State::Accepted);
}

#[test]
fn higher_priority_goes_first_and_idle_slaves_before_busy_ones() {
    let mut world = World::new(2);
    let jobs: Vec<_> = (0..2)
        .map(|_| {
            let order = world.order("mill");
            world.place(order)
        })
        .collect();
    world.settle();
    assert_eq!(
        jobs.iter().map(|job| world.state(*job)).collect::<Vec<_>>(),
        [State::Running, State::Running]
    );
    let low = world.order("mill");
    let mut high = world.order("mill");
    high.start.priority = 5;
    let (low, high) = (world.place(low), world.place(high));
    world.pass(12_000);
    assert!(world.state(high).is_executing(), "{:?}", world.state(high));
    world.pass(12_000);
    assert_eq!(world.state(low), State::Succeeded.min(world.state(low)), "it went on");
    world.pass(12_000);
    assert_eq!((world.state(high), world.state(low)), (State::Succeeded, State::Succeeded));
}

#[test]
fn what_waits_at_a_busy_slave_moves_to_one_that_falls_idle() {
    let mut world = World::new(1);
    let jobs: Vec<_> = (0..3)
        .map(|_| {
            let order = world.order("mill");
            world.place(order)
        })
        .collect();
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
fn a_replaced_disk_makes_a_person_look_and_starts_nothing_until_then() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.replace_disk(0);
    world.settle();
    assert_eq!(world.state(job), State::Uncertain);
    assert_eq!(world.job(job).reason.unwrap().code, ReasonCode::StoreReplaced);
    let order = world.order("mill");
    let next = world.place(order);
    world.settle();
    assert_eq!(world.state(next), State::Queued);
    let machine = world.master.as_ref().unwrap().desks.values().next().unwrap().machine.clone().unwrap();
    assert_eq!(machine.attention, Some(Attention::StoreReplaced));
    world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(world.state(job), State::Failed);
    world.command_slave(0, SlaveCommand::Clear);
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn a_store_that_went_back_in_time_fires_nothing() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 20_000);
    let job = world.place(order);
    world.settle();
    let old = world.boxes[0].disk.clone();
    world.cut(0);
    world.plug(0);
    world.settle();
    world.pass(40_000);
    assert_eq!(world.state(job), State::Succeeded);
    world.kill_agent(0);
    world.boxes[0].disk = old;
    world.start_agent(0, true);
    world.pass(60_000);
    assert_eq!(world.begun(job), 1, "it ran once");
    let slave = world.boxes[0].state.as_ref().unwrap();
    assert_eq!(slave.node.attention, Some(Attention::StoreRolledBack));
}

#[test]
fn a_master_that_lost_everything_adopts_what_its_slaves_hold() {
    let mut world = World::new(1);
    let (one, two) = (world.order("mill"), world.order("bake"));
    let (one, two) = (world.place(one), world.place(two));
    world.settle();
    world.kill_master();
    world.master_disk = Default::default();
    world.start_master();
    world.settle();
    assert_eq!(world.state(one), State::Running);
    assert!(world.job(one).flags.has(Flags::ADOPTED));
    assert_eq!(world.state(two), State::Accepted);
    assert_eq!(world.job(two).spec.program, "bake");
    world.pass(40_000);
    assert_eq!((world.state(one), world.state(two)), (State::Succeeded, State::Succeeded));
    assert_eq!((world.begun(one), world.begun(two)), (1, 1));
}

#[test]
fn a_master_whose_files_were_put_back_gives_no_orders_until_a_person_confirms() {
    let mut world = World::new(1);
    let backup = world.master_disk.clone();
    let order = world.order("mill");
    let job = world.place(order);
    world.pass(2_000);
    world.cut(0);
    world.plug(0);
    world.settle();
    world.kill_master();
    world.master_disk = backup;
    world.start_master();
    world.settle();
    assert!(!world.master.as_ref().unwrap().doubted_by.is_empty());
    let order = world.order("mill");
    let other = world.place(order);
    world.pass(20_000);
    assert_eq!(world.state(other), State::Queued, "nothing is handed to a slave that doubts");
    world.master_event(reloop_protocol::master::Event::RestoreConfirmed {
        request: reloop_protocol::master::RequestId(0),
    });
    world.settle();
    assert_eq!(world.state(job), State::Succeeded, "what it forgot is adopted");
    world.pass(20_000);
    assert_eq!(world.begun(other), 0, "held until a person lets it go");
    world.command(other, JobCommand::Release { valid: Millis::seconds(600) });
    world.settle();
    assert_eq!(world.state(other), State::Running);
}

#[test]
fn a_job_given_to_another_slave_runs_there_unless_the_first_had_begun() {
    // Unstarted at the first: it drops it.
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    assert_eq!(world.state(job), State::Lost);
    let second = world.add_slave("second");
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!(world.holder(job), Some(second));
    world.plug(0);
    world.pass(20_000);
    assert_eq!(world.on_slave(0, job), None);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.begun(job), 1);
    // Both run: both finish, flagged.
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    world.add_slave("second");
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.plug(0);
    world.settle();
    assert!(world.job(job).flags.has(Flags::DUPLICATE));
    world.pass(20_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.begun(job), 2, "a person gave it away");
    assert_eq!(world.job(job).earlier.len(), 1);
}

#[test]
fn a_late_truth_corrects_what_a_person_gave_up() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    world.pass(30_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert!(world.job(job).flags.has(Flags::LATE_RESULT));
    assert_eq!(world.on_slave(0, job), None);
}

#[test]
fn a_half_open_link_is_superseded_by_the_next_session() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.half_open(0);
    world.pass(20_000);
    assert_eq!(world.state(job), State::Running);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_clone_is_refused_while_the_first_answers() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let settings = world.boxes[0].settings.clone();
    let disk = world.boxes[0].disk.clone();
    let clone = world.add_slave("clone");
    world.kill_agent(clone);
    world.boxes[clone].settings = settings;
    world.boxes[clone].disk = disk;
    world.boxes[clone].closed.clear();
    world.start_agent(clone, true);
    world.settle();
    assert_eq!(world.boxes[clone].closed.last(), Some(&CloseCode::DuplicateIdentity));
    assert_eq!(world.state(job), State::Running);
    let key = world.boxes[0].settings.key;
    assert!(world.master.as_ref().unwrap().desks[&key].cloned_at.is_some());
    world.pass(20_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_rebooted_box_is_not_taken_for_a_clone() {
    let mut world = World::new(1);
    world.swallow(0);
    // The master's end stays; the box comes back with another boot.
    world.half_open(0);
    let boot = world.boxes[0].boot;
    world.kill_agent(0);
    world.boxes[0].boot = reloop_protocol::id::BootId([9; 16]);
    assert_ne!(boot, world.boxes[0].boot);
    world.start_agent(0, true);
    world.plug(0);
    world.settle();
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn a_window_that_closes_unstarted_expires_the_job_where_it_is() {
    let mut world = World::new(0);
    let mut order = world.order("mill");
    order.start.deadline = later(&world, 5_000);
    let job = world.place(order);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Expired);
    let mut world = World::new(1);
    world.local(0, Local::Lock(false));
    let busy = world.order("mill");
    world.place(busy);
    let mut order = world.order("mill");
    order.start.deadline = later(&world, 5_000);
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    world.cut(0);
    world.pass(6_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Expired);
    assert_eq!(world.begun(job), 0);
}

#[test]
fn a_failed_job_is_tried_again_only_if_its_order_says_so() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let order = world.order("mill");
    let once = world.place(order);
    world.pass(12_000);
    assert_eq!((world.state(once), world.begun(once)), (State::Failed, 1));
    let mut order = world.order("mill");
    order.retry.max_attempts = 3;
    order.retry.on.insert(reloop_protocol::master::RetryOn::Failed);
    let thrice = world.place(order);
    world.pass(60_000);
    assert_eq!((world.state(thrice), world.begun(thrice)), (State::Failed, 3));
}

#[test]
fn a_slave_says_nothing_until_its_machine_has_said_what_it_does() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.kill_agent(0);
    world.boxes[0].machine.silent = true;
    world.start_agent(0, true);
    world.crossed.clear();
    world.settle();
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(said, ["challenge"], "no Hello while the machine is being asked");
    world.pass(6_000);
    assert_eq!(world.state(job), State::Uncertain, "silence is an answer in the end");
}

#[test]
fn nothing_is_handed_out_before_the_handshake_is_over() {
    let mut world = World::new(1);
    world.cut(0);
    let order = world.order("mill");
    let job = world.place(order);
    world.crossed.clear();
    world.plug(0);
    world.settle();
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    let settled = said.iter().position(|kind| *kind == "settled").unwrap();
    let want = said.iter().position(|kind| *kind == "want").unwrap();
    assert!(settled < want, "{said:?}");
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn what_happens_inside_a_handshake_is_told_at_its_end() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.plug(0);
    world.crossed.clear();
    // The Hello is out, the Welcome is not in, and the machine ends.
    while !world.crossed.iter().any(|(_, kind)| *kind == "hello") {
        assert!(world.pump());
    }
    world.boxes[0].machine.length_ms = 0;
    world.pass_some(20_000);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None);
}

#[test]
fn a_job_that_was_given_back_while_the_link_broke_is_not_missed() {
    for then_canceled in [false, true] {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = 60_000;
        let jobs: Vec<_> = (0..2)
            .map(|_| {
                let order = world.order("mill");
                world.place(order)
            })
            .collect();
        world.settle();
        // An idle slave appears: the waiting job is asked back, and the answer is lost.
        world.add_slave("idle");
        while world.on_slave(0, jobs[1]).is_some() {
            assert!(world.pump());
        }
        world.cut(0);
        assert_eq!(world.state(jobs[1]), State::Accepted);
        if then_canceled {
            world.command(jobs[1], JobCommand::Cancel(CancelMode::SafePoint));
        }
        world.plug(0);
        world.pass(30_000);
        let expected = if then_canceled { State::Canceled } else { State::Succeeded };
        assert_eq!(world.state(jobs[1]), expected);
        assert_eq!(world.begun(jobs[1]), u32::from(!then_canceled));
    }
}

#[test]
fn what_has_not_ended_is_not_forgotten_whoever_says_so() {
    use reloop_protocol::message::{Forget, Message};
    use reloop_protocol::slave;
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let report = world.job(job).report.unwrap();
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    let mut seq = report.seq;
    seq.count += 100;
    let message = Message::Forget(Forget { job, attempt: report.attempt, seq });
    world.slave_event(0, slave::Event::Received { link, session, message, unfit: Default::default() });
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    // Nor an outcome that is newer than what the master has on disk.
    world.cut(0);
    world.pass(12_000);
    world.plug(0);
    while !matches!(world.boxes[0].state.as_ref().unwrap().link, slave::Link::Live { .. }) {
        assert!(world.pump());
    }
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    let message = Message::Forget(Forget { job, attempt: report.attempt, seq: report.seq });
    world.slave_event(0, slave::Event::Received { link, session, message, unfit: Default::default() });
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded));
}

#[test]
fn frames_of_another_session_have_no_force() {
    use reloop_protocol::message::Message;
    use reloop_protocol::slave;
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    let held = world.job(job);
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    let mut start = held.start;
    start.gate = Gate::Open;
    let want = reloop_protocol::spec::Want {
        job,
        attempt: held.attempt,
        rev: reloop_protocol::id::WishRev(held.rev.0 + 9),
        digest: held.digest,
        spec: None,
        desired: held.desired,
        start,
    };
    let other_link = slave::LinkId(link.0 + 1000);
    let other_session = reloop_protocol::id::Session(session.0 + 1);
    for (link, session) in [(other_link, session), (link, other_session)] {
        let message = Message::Want(want.clone());
        world.slave_event(0, slave::Event::Received { link, session, message, unfit: Default::default() });
        assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    }
    let message = Message::Want(want);
    world.slave_event(0, slave::Event::Received { link, session, message, unfit: Default::default() });
    assert_eq!(world.begun(job), 1, "of this session it has");
}

#[test]
fn a_promise_that_was_broken_makes_a_person_decide() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    world.kill_agent(0);
    // Same database, one record short.
    world.boxes[0].disk = world.boxes[0].disk.clone().without(job);
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.state(job), State::Uncertain);
    assert_eq!(world.job(job).reason.unwrap().code, ReasonCode::Vanished);
}

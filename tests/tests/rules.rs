//! The rules of both nodes against each other, without processes: what is about no single row of the published
//! disagreements, which have `disagreements/`.
#![cfg(test)]

use reloop_protocol::job::State;
use reloop_protocol::master::{Answer, Delivery, JobCommand, SlaveCommand};
use reloop_protocol::message::{Flags, WaitingFor};
use reloop_protocol::slave::{Local, Release};
use reloop_protocol::spec::{CancelMode, Gate};
use reloop_protocol::time::Time;
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
fn a_cancel_of_what_no_slave_holds_is_applied_at_once() {
    let mut world = World::new(0);
    let order = world.order("mill");
    let job = world.place(order);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Applied)])));
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a_job_pauses_and_goes_on() {
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
    world.pass(11_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
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

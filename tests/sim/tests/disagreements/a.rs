//! Assignment, start, cancel.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{Delivery, Event, JobCommand, RequestId, SlaveCommand, Waits, WhyNot, explain};
use reloop_protocol::message::{Flags, Message, Mode, ReasonCode, WaitingFor};
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::slave::{Effect, Local};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_protocol::time::Millis;
use reloop_sim::world::{Act, World};

use crate::stage::*;

#[test]
fn a1_an_offer_that_never_arrived_is_made_again_or_taken_back() {
    for (desired, verdict, expected) in [
        ("run", Verdict::Offer, State::Running),
        ("cancel", Verdict::Release, State::Canceled),
        ("late", Verdict::Release, State::Expired),
    ] {
        let mut world = World::new(1);
        let soon = later(&world, 5_000).filter(|_| desired == "late");
        let job = place_as(&mut world, |order| order.start.deadline = soon);
        assert_eq!(world.state(job), State::Assigned);
        world.cut(0);
        if desired == "cancel" {
            let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
            assert_eq!(answer, taken(Delivery::PendingOnReconnect, job));
        }
        world.pass(6_000);
        assert_eq!(world.state(job), State::Assigned, "silence proves nothing");
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), expected, "{desired}");
        assert_eq!(world.job(job).attempt.0, 1, "the same attempt");
        assert_eq!(world.master_disk.receipts.last().unwrap().lines[0].verdict, verdict, "{desired}");
    }
}

#[test]
fn a2_a_lost_confirmation_is_made_good_by_the_snapshot() {
    let mut world = World::new(1);
    let job = place_as(&mut world, much_later);
    // The DesiredState arrives, the Report does not.
    pump_until(&mut world, |world| world.on_slave(0, job).is_some());
    world.cut(0);
    assert_eq!(world.state(job), State::Assigned);
    world.crossed.clear();
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Accepted);
    assert_eq!(crossed(&world, "desired_state"), 0, "nothing is sent twice");
}

#[test]
fn a3_a_released_start_is_given_again_until_its_latest_time() {
    for (away, expected) in [(1_000, State::Running), (20_000, State::Accepted)] {
        let (mut world, job) = unstarted();
        world.cut(0);
        assert_eq!(release(&mut world, job, 10), taken(Delivery::PendingOnReconnect, job));
        world.pass(away);
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), expected, "after {away} ms");
        if expected == State::Accepted {
            assert_eq!(reason(&world, job), ReasonCode::ReleaseLapsed);
            assert_eq!(waits_for(&world, job), Some(WaitingFor::Operator));
        }
    }
}

#[test]
fn a4_the_master_takes_the_slaves_phase_and_start_time() {
    let mut world = World::new(1);
    let job = place(&mut world);
    pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Running));
    let started = world.now();
    world.cut(0);
    world.pass(3_000);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).report.unwrap().started_at, Some(started));
}

#[test]
fn a5_a_broken_promise_is_a_persons_question() {
    let (mut world, job) = running();
    world.kill_agent(0);
    // The same store, one record short.
    world.boxes[0].disk = world.boxes[0].disk.clone().without(job);
    world.start_agent(0, true);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::Vanished));
    assert_eq!(world.begun(job), 1, "not run again");
}

#[test]
fn a6_after_a_crash_the_machine_is_asked_and_believed() {
    let (mut world, job) = running();
    restart_agent(&mut world);
    world.settle();
    assert_eq!(world.state(job), State::Running, "it goes on");
    off_for(&mut world, 15_000);
    assert_eq!(world.state(job), State::Succeeded, "it has ended");
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a6_work_that_a_power_cut_ended_follows_the_orders_rule() {
    for (rule, expected, begun) in [
        (OnInterrupt::Hold, State::Uncertain, 1),
        (OnInterrupt::Fail, State::Failed, 1),
        (OnInterrupt::Restart, State::Running, 2),
    ] {
        let (mut world, job) = running_as(|order| order.spec.on_interrupt = rule);
        reboot(&mut world);
        assert_eq!((world.state(job), world.begun(job)), (expected, begun), "{rule:?}");
        assert_eq!(reason(&world, job), ReasonCode::Interrupted, "{rule:?}");
    }
}

#[test]
fn a7_an_intent_that_the_machine_never_saw_may_start() {
    let (mut world, job) = starting();
    world.kill_agent(0);
    world.boxes[0].machine.works.clear();
    world.boxes[0].machine.begun.clear();
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a7_an_intent_without_proof_makes_a_person_decide_and_starts_nothing_until_then() {
    let (mut world, job) = starting();
    silence_machine(&mut world);
    world.pass(6_000);
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::NoProof));
    assert_eq!(world.begun(job), 1, "no second blind start");
    assert_eq!(machine(&world).uncertain, Some(job), "the machine is not ready");
    let next = place(&mut world);
    world.pass(2_000);
    assert_eq!(world.begun(next), 0);
    assert_eq!(command(&mut world, job, JobCommand::Resolve(End::Failed)), taken(Delivery::Sent, job));
    assert_eq!((world.state(job), world.state(next)), (State::Failed, State::Running));
}

#[test]
fn a8_an_outcome_of_the_offline_time_is_recorded_once_and_with_the_slaves_times() {
    let (mut world, job) = running();
    let started = world.now();
    world.cut(0);
    world.pass(60_000);
    assert_eq!(world.state(job), State::Running, "the link's loss says nothing of the job");
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded));
    reconnect(&mut world, 0);
    let told = world.job(job);
    assert_eq!((told.state, world.on_slave(0, job)), (State::Succeeded, None));
    let length = told.ended_at.unwrap().since(started).0;
    assert!((9_000..=10_500).contains(&length), "it ended by the slave's clock, after {length} ms");
    world.cut(0);
    reconnect(&mut world, 0);
    assert_eq!(world.job(job), told, "repeating changes nothing");
}

#[test]
fn a9_an_outcome_beats_a_late_cancel() {
    let (mut world, job) = running();
    world.cut(0);
    world.pass(20_000);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Succeeded);
    assert!(world.job(job).all_flags().has(Flags::CANCEL_TOO_LATE));
}

#[test]
fn a10_a_failure_is_not_hidden_by_a_cancel() {
    let (mut world, job) = running();
    world.boxes[0].machine.fails = true;
    world.cut(0);
    world.pass(20_000);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Failed);
    assert!(matches!(world.job(job).desired, Desired::Cancel(_)), "the cancel is noted");
}

#[test]
fn a11_a_running_job_is_stopped_by_the_mode_that_was_chosen() {
    for mode in [CancelMode::SafePoint, CancelMode::Now] {
        // With the link up.
        let (mut world, job) = running();
        assert_eq!(command(&mut world, job, JobCommand::Cancel(mode)), taken(Delivery::Sent, job));
        assert_eq!(world.state(job), State::Canceled, "{mode:?}");
        // With the link down: the desired state waits as part of the job.
        let (mut world, job) = running();
        world.cut(0);
        let answer = world.command(job, JobCommand::Cancel(mode));
        assert_eq!(answer, taken(Delivery::PendingOnReconnect, job));
        assert_eq!(world.state(job), State::Running);
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), State::Canceled, "{mode:?}");
    }
    let (mut world, job) = running();
    let answer = world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
    assert_eq!(answer, taken(Delivery::TooLate, job));
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn a11_a_machine_may_refuse_to_stop_and_the_job_is_running_again_and_says_so() {
    let (mut world, job) = running();
    world.boxes[0].machine.unstoppable = true;
    command(&mut world, job, JobCommand::Cancel(CancelMode::Now));
    assert_eq!((world.state(job), reason(&world, job)), (State::Running, ReasonCode::StopRefused));
    // A refused cancel is over: the person repeats it, or continues otherwise.
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    command(&mut world, job, JobCommand::Cancel(CancelMode::Now));
    assert_eq!((world.state(job), reason(&world, job)), (State::Paused, ReasonCode::StopRefused));
    assert_eq!(command(&mut world, job, JobCommand::Resume), taken(Delivery::Sent, job));
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn a11_a_cancel_that_overtakes_the_beginning_keeps_it_from_beginning() {
    let mut world = World::new(1);
    world.boxes[0].machine.slow = true;
    let job = placed(&mut world, |_| {});
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Starting), 0));
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.pass(30_000);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Canceled, None));
    assert_eq!(world.begun(job), 0);
    // The machine is free for the next job.
    let next = place(&mut world);
    world.pass(30_000);
    assert_eq!(world.state(next), State::Succeeded);
}

#[test]
fn a12_an_unstarted_job_is_dropped() {
    for online in [true, false] {
        let (mut world, job) = unstarted();
        if !online {
            world.cut(0);
        }
        world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
        reconnect(&mut world, 0);
        assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 0), "online {online}");
        assert_eq!(world.on_slave(0, job), None);
    }
}

#[test]
fn a13_a_cancel_waits_for_weeks_and_only_a_person_ends_it() {
    let (mut world, job) = running();
    world.boxes[0].machine.length_ms = i64::MAX;
    world.cut(0);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::Now));
    assert_eq!(answer, taken(Delivery::PendingOnReconnect, job));
    for _ in 0..4 {
        world.pass_some(7 * 24 * 3_600_000);
    }
    assert_eq!(world.state(job), State::Running);
    assert!(matches!(world.job(job).desired, Desired::Cancel(_)), "the cancel stands");
    assert_eq!(world.command(job, JobCommand::Abandon), taken(Delivery::Applied, job));
    assert_eq!(world.state(job), State::Lost);
    world.command(job, JobCommand::Retry);
    world.add_slave("second");
    world.settle();
    assert_eq!(world.job(job).attempt.0, 2, "the first attempt is burned");
}

#[test]
fn a14_a_burned_attempt_that_was_not_begun_is_dropped() {
    let (mut world, job) = unstarted();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    let second = world.add_slave("second");
    command(&mut world, job, JobCommand::Retry);
    let_start(&mut world, job);
    assert_eq!((world.holder(job), world.job(job).attempt.0), (Some(second), 2));
    world.plug(0);
    world.pass(20_000);
    assert_eq!((world.on_slave(0, job), world.holder(job)), (None, Some(second)));
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn a14_an_offer_that_arrives_after_the_job_went_to_another_is_taken_back_on_the_live_link() {
    let mut world = World::new(2);
    let job = place_as(&mut world, much_later);
    let first = world.holder(job).unwrap();
    // The offer is still on its way when the next attempt goes to another slave.
    world.command_slave_now(first, SlaveCommand::Mode(Mode::Draining));
    let release = JobCommand::Release { valid: Millis::seconds(60) };
    for command in [JobCommand::Abandon, JobCommand::Retry, release] {
        world.master_event(Event::JobsCommanded { request: RequestId(0), jobs: vec![job], command });
    }
    assert_ne!(world.holder(job), Some(first));
    world.settle();
    assert_eq!(world.on_slave(first, job), None);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
}

#[test]
fn a15_who_has_begun_keeps_it_and_the_other_gives_it_back() {
    let (mut world, job, second) = two_attempts_one_waiting();
    reconnect(&mut world, 0);
    assert_eq!((world.holder(job), world.job(job).attempt.0), (Some(0), 1));
    assert_eq!(world.on_slave(second, job), None);
    world.pass(20_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn a11_a_cancel_that_waits_is_not_lost_when_an_older_attempt_turns_up_running() {
    let (mut world, job, second) = two_attempts_one_waiting();
    world.cut(second);
    world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    reconnect(&mut world, 0);
    assert_eq!(world.job(job).desired, Desired::Cancel(CancelMode::SafePoint));
    reconnect(&mut world, second);
    world.pass(1_000);
    assert_eq!((world.state(job), world.on_slave(second, job)), (State::Canceled, None));
    assert_eq!(world.on_slave(0, job), None, "whoever canceled it meant all of it");
    assert_eq!(world.begun(job), 1);
}

/// A job whose first attempt runs at an unreachable slave and whose second one waits at a busy slave: both, and the
/// second slave.
fn two_attempts_one_waiting() -> (World, JobId, usize) {
    let (mut world, job) = running();
    world.boxes[0].machine.length_ms = 60_000;
    world.cut(0);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = 60_000;
    let busy = placed(&mut world, |_| {});
    assert_eq!(world.holder(busy), Some(second));
    give_away(&mut world, job);
    world.settle();
    assert_eq!(world.on_slave(second, job), Some(State::Accepted));
    (world, job, second)
}

#[test]
fn a11_a_cancel_means_also_an_older_attempt_that_turns_up_running() {
    let (mut world, job, second) = two_attempts_one_waiting();
    command(&mut world, job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!((world.state(job), world.on_slave(second, job)), (State::Canceled, None));
    reconnect(&mut world, 0);
    assert_eq!(world.holder(job), Some(0), "the machine that works at it speaks for it");
    world.pass(20_000);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Canceled, None));
    let ended = world.job(job).report.filter(|report| report.state == State::Canceled);
    assert!(ended.is_some_and(|report| report.started_at.is_some()), "by its slave's word");
}

#[test]
fn a15_what_a_client_wants_is_not_lost_when_a_job_is_recalled() {
    let (mut world, job, _) = two_attempts_one_waiting();
    command(&mut world, job, JobCommand::Pause);
    reconnect(&mut world, 0);
    assert_eq!((world.holder(job), world.job(job).desired), (Some(0), Desired::Pause));
    assert_eq!(world.on_slave(0, job), Some(State::Paused));
}

#[test]
fn a15_an_attempt_that_speaks_again_is_asked_whether_it_is_still_there() {
    let (mut world, job, second) = two_attempts_one_waiting();
    // Its slave reports that it runs, and comes back with a new disk before the other one has given the job back.
    world.swallow(second);
    reconnect(&mut world, 0);
    assert!(world.holder(job) == Some(second) && world.job(job).recalled.is_some());
    world.act(&Act::ReplaceDisk { slave: 0 });
    world.settle();
    world.cut(second);
    reconnect(&mut world, second);
    assert_eq!(world.state(job), State::Uncertain, "nobody knows what became of it");
    assert_eq!(world.job(job).reason.map(|reason| reason.code), Some(ReasonCode::Vanished));
}

#[test]
fn a16_two_that_run_both_finish_and_a_person_decides() {
    let (mut world, job) = two_attempts();
    reconnect(&mut world, 0);
    assert!(world.job(job).flags.has(Flags::DUPLICATE));
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    assert_eq!(world.on_slave(1, job), Some(State::Running));
    world.pass(70_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.job(job).others.len(), 1);
    assert_eq!(world.begun(job), 2, "a person gave it away");
}

#[test]
fn a17_an_earlier_success_offers_the_cancel_of_the_later_and_does_not_send_it() {
    let (mut world, job) = two_attempts();
    world.pass(15_000);
    reconnect(&mut world, 0);
    assert_eq!(world.job(job).others[0].state, State::Succeeded);
    assert_eq!(world.on_slave(0, job), None, "its outcome is on the master's disk");
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).reason.unwrap().code, ReasonCode::OlderAttempt);
}

#[test]
fn a18_the_first_success_is_the_jobs_outcome() {
    let (mut world, job) = two_attempts();
    world.boxes[1].machine.fails = true;
    world.pass(70_000);
    assert_eq!(world.state(job), State::Failed);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.job(job).attempt.0), (State::Succeeded, 1));
    assert_eq!(world.job(job).others[0].state, State::Failed, "the other is kept beside it");
}

#[test]
fn a19_what_was_canceled_on_disk_stays_canceled() {
    for with_the_box in [false, true] {
        let (mut world, job) = running();
        world.boxes[0].machine.unstoppable = true;
        world.command(job, JobCommand::Cancel(CancelMode::Now));
        pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Stopping));
        // The agent dies before the machine has answered, and the machine would go on.
        if with_the_box {
            world.reboot(0);
        } else {
            world.kill_agent(0);
            world.boxes[0].machine.unstoppable = false;
            world.start_agent(0, true);
        }
        world.settle();
        assert_eq!(world.state(job), State::Canceled, "with the box {with_the_box}");
    }
}

#[test]
fn a20_an_offer_of_what_is_done_is_answered_with_the_outcome() {
    let (mut world, job) = running();
    let again = desired_state(&world, job);
    world.pass(15_000);
    assert_eq!(world.on_slave(0, job), None, "forgotten");
    let effects = would_do(&world, Message::DesiredState(again));
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Start { .. })), "{effects:?}");
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Send { message: Message::Report(report), .. } if report.state == State::Succeeded)
    });
    assert!(told, "{effects:?}");
}

#[test]
fn a21_a_slave_without_room_says_what_holds_the_place() {
    let (mut world, first) = running();
    // The master still has the capacity from the last handshake.
    world.boxes[0].state.as_mut().unwrap().settings.capacity = 1;
    let second = placed(&mut world, |_| {});
    assert_eq!((world.state(second), reason(&world, second)), (State::Queued, ReasonCode::AtCapacity));
    assert!(world.job(second).reason.unwrap().text.contains(&first.to_string()));
    assert_eq!(world.job(second).last_attempt.0, 1, "no loop of offers");
    world.pass(11_000);
    assert_eq!(world.state(second), State::Running);
}

#[test]
fn a22_explain_names_every_slave_and_why_not() {
    let mut world = World::new(4);
    world.cut(0);
    world.command_slave(1, SlaveCommand::Mode(Mode::Maintenance));
    world.local(2, Local::Lock(true));
    world.local(3, Local::Lock(true));
    world.settle();
    let plain = place(&mut world);
    let labeled =
        place_as(&mut world, |order| drop(order.requires.insert("material".to_owned(), "pla".to_owned())));
    let mut order = world.order("paint");
    order.slave = Some("s3".to_owned());
    let painted = world.place(order);
    let master = world.master.as_ref().unwrap();
    let why = |job| {
        let explanation = explain(master, &world.job(job), world.now());
        assert_eq!(explanation.slaves.len(), 4);
        explanation.slaves.into_iter().map(|one| one.why).collect::<Vec<_>>()
    };
    assert_eq!(
        why(plain),
        [Some(WhyNot::Offline), Some(WhyNot::Mode), Some(WhyNot::LocalLock), Some(WhyNot::LocalLock)]
    );
    assert_eq!(why(labeled), [Some(WhyNot::Label); 4]);
    let painted = why(painted);
    assert_eq!((painted[0], painted[3]), (Some(WhyNot::OtherSlave), Some(WhyNot::Program)));
}

#[test]
fn a22_explain_names_a_full_slave_one_that_needs_a_person_and_what_an_accepted_job_waits_for() {
    let (mut world, _) = running();
    world.boxes[0].machine.length_ms = 60_000;
    let behind = place(&mut world);
    let timed = deferred(&mut world, 3_600_000, |_| {});
    for _ in 0..2 {
        placed(&mut world, |_| {});
    }
    let waits = place(&mut world);
    let explained =
        |world: &World, job| explain(world.master.as_ref().unwrap(), &world.job(job), world.now());
    let waits_for = |world: &World, job| match explained(world, job).waits {
        Waits::AtSlave { waiting_for, .. } => waiting_for,
        other => panic!("{other:?}"),
    };
    assert_eq!(explained(&world, waits).slaves[0].why, Some(WhyNot::Capacity));
    assert_eq!(waits_for(&world, behind), Some(WaitingFor::Turn));
    assert_eq!(waits_for(&world, timed), Some(WaitingFor::Time));
    world.replace_disk(0);
    world.settle();
    assert_eq!(explained(&world, waits).slaves[0].why, Some(WhyNot::Attention));
}

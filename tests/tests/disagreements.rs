//! Each published disagreement of the two nodes, by its number, at the level of the rules. What is about processes,
//! disks, clocks or links is shown again end to end by the scenarios.
#![cfg(test)]

use std::collections::BTreeMap;

use reloop_protocol::id::{BootId, MasterId, StoreId, WishRev};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{
    self, Answer, Delivery, Enrollment, IdempotencyKey, JobCommand, RequestId, SlaveCommand, WhyNot, explain,
};
use reloop_protocol::message::{
    Attention, CloseCode, Flags, Message, Mode, ReasonCode, Source, Versions, WaitingFor,
};
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::slave::{self, Effect, LinkId, Local, Now, Release};
use reloop_protocol::spec::{CancelMode, Desired, Gate, Late, OnOverdue, SpecDigest, Want};
use reloop_protocol::time::{Millis, Time};
use reloop_tests::world::{MasterDisk, World};

fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

/// A world of one slave with one job under way.
fn running() -> (World, reloop_protocol::id::JobId) {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    (world, job)
}

/// A world of one slave with one job that a person holds.
fn held() -> (World, reloop_protocol::id::JobId) {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    (world, job)
}

fn taken(delivery: Delivery, job: reloop_protocol::id::JobId) -> Option<Answer> {
    Some(Answer::Taken(vec![(job, delivery)]))
}

fn reason(world: &World, job: reloop_protocol::id::JobId) -> ReasonCode {
    let job = world.job(job);
    job.report.and_then(|report| report.reason).or(job.reason).unwrap().code
}

/// The wish for a job, as the master would say it.
fn want(world: &World, job: reloop_protocol::id::JobId) -> Want {
    let job = world.job(job);
    Want {
        job: job.id,
        attempt: job.attempt,
        rev: job.rev,
        digest: job.digest,
        spec: Some(job.spec),
        desired: Desired::Run,
        start: job.start,
    }
}

/// What a slave does with a message on its live link.
fn say(world: &mut World, slave: usize, message: Message) -> Vec<Effect> {
    let state = world.boxes[slave].state.clone().unwrap();
    let slave::Link::Live { link, session, .. } = state.link else { panic!("not live") };
    let now = Now { wall: world.now(), boot_ms: world.ms as u64 };
    slave::step(state, now, slave::Event::Received { link, session, message, unfit: BTreeMap::new() }).effects
}

#[test]
fn a1_an_offer_that_never_arrived_is_made_again_or_taken_back() {
    for (wish, expected) in [("run", State::Running), ("cancel", State::Canceled), ("late", State::Expired)] {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        if wish == "late" {
            order.start.deadline = later(&world, 5_000);
        }
        let job = world.place(order);
        assert_eq!(world.state(job), State::Assigned);
        world.cut(0);
        if wish == "cancel" {
            assert_eq!(
                world.command(job, JobCommand::Cancel(CancelMode::SafePoint)),
                taken(Delivery::PendingOnReconnect, job)
            );
        }
        world.pass(6_000);
        assert_eq!(world.state(job), State::Assigned, "silence proves nothing");
        world.plug(0);
        world.settle();
        assert_eq!(world.state(job), expected, "{wish}");
        assert_eq!(world.job(job).attempt.0, 1, "the same attempt");
        let receipt = world.master_disk.receipts.last().unwrap();
        let verdict = if wish == "run" { Verdict::Offer } else { Verdict::Release };
        assert_eq!(receipt.lines[0].verdict, verdict, "{wish}");
    }
}

#[test]
fn a2_a_lost_confirmation_is_made_good_by_the_snapshot() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    // The Want arrives, the Report does not.
    while world.on_slave(0, job).is_none() {
        assert!(world.pump());
    }
    world.cut(0);
    assert_eq!(world.state(job), State::Assigned);
    world.crossed.clear();
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    assert!(world.crossed.iter().all(|(_, kind)| *kind != "want"), "nothing is sent twice");
}

#[test]
fn a3_a_released_start_is_given_again_until_its_latest_time() {
    for (away, expected) in [(1_000, State::Running), (20_000, State::Accepted)] {
        let (mut world, job) = held();
        world.cut(0);
        let answer = world.command(job, JobCommand::Release { valid: Millis::seconds(10) });
        assert_eq!(answer, taken(Delivery::PendingOnReconnect, job));
        world.pass(away);
        world.plug(0);
        world.settle();
        assert_eq!(world.state(job), expected, "after {away} ms");
        if expected == State::Accepted {
            assert_eq!(reason(&world, job), ReasonCode::ReleaseLapsed);
            assert_eq!(world.job(job).report.unwrap().waiting_for, Some(WaitingFor::Operator));
        }
    }
}

#[test]
fn a4_the_master_takes_the_slaves_phase_and_start_time() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    while world.on_slave(0, job) != Some(State::Running) {
        assert!(world.pump());
    }
    let started = world.now();
    world.cut(0);
    world.pass(3_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).report.unwrap().started_at, Some(started));
}

#[test]
fn a5_a_broken_promise_is_a_persons_question() {
    let (mut world, job) = running();
    world.kill_agent(0);
    world.boxes[0].disk = world.boxes[0].disk.clone().without(job);
    world.start_agent(0, true);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::Vanished));
    assert_eq!(world.begun(job), 1, "not run again");
}

#[test]
fn a6_after_a_reboot_the_machine_is_asked() {
    // Alive, ended, gone.
    let (mut world, job) = running();
    world.kill_agent(0);
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.kill_agent(0);
    world.pass(15_000);
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    let (mut world, job) = running();
    world.reboot(0);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::Interrupted));
}

#[test]
fn a7_an_intent_without_proof_is_never_started_blindly() {
    // The intent is on disk, the machine was never touched: proof, and it may start.
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    while world.on_slave(0, job) != Some(State::Starting) {
        assert!(world.pump());
    }
    world.kill_agent(0);
    world.boxes[0].machine.works.clear();
    world.boxes[0].machine.begun.clear();
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    assert_eq!(world.begun(job), 1);
    // The machine cannot say.
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    while world.on_slave(0, job) != Some(State::Starting) {
        assert!(world.pump());
    }
    world.kill_agent(0);
    world.boxes[0].machine.silent = true;
    world.start_agent(0, true);
    world.pass(6_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Uncertain, 1));
    let machine = slave::machine_report(world.boxes[0].state.as_ref().unwrap());
    assert_eq!(machine.uncertain, Some(job), "the machine is not ready");
}

#[test]
fn a8_an_outcome_of_the_offline_time_is_recorded_once() {
    let (mut world, job) = running();
    world.cut(0);
    world.pass(30_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    let before = world.job(job);
    world.cut(0);
    world.plug(0);
    world.settle();
    assert_eq!(world.job(job), before, "repeating changes nothing");
    assert_eq!(world.on_slave(0, job), None);
}

#[test]
fn a9_an_outcome_beats_a_late_cancel() {
    let (mut world, job) = running();
    world.cut(0);
    world.pass(20_000);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.plug(0);
    world.settle();
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
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Failed);
    assert!(matches!(world.job(job).desired, Desired::Cancel(_)), "the cancel is noted");
}

#[test]
fn a11_a_running_job_is_stopped_by_the_mode_that_was_chosen_or_says_why_not() {
    for mode in [CancelMode::SafePoint, CancelMode::Now] {
        let (mut world, job) = running();
        world.cut(0);
        world.command(job, JobCommand::Cancel(mode));
        world.plug(0);
        world.settle();
        assert_eq!(world.state(job), State::Canceled, "{mode:?}");
    }
    let (mut world, job) = running();
    assert_eq!(
        world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted)),
        taken(Delivery::TooLate, job)
    );
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Running, ReasonCode::StopRefused));
}

#[test]
fn a12_an_unstarted_job_is_dropped() {
    let (mut world, job) = held();
    world.cut(0);
    world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 0));
}

#[test]
fn a13_a_cancel_waits_for_weeks_and_only_a_person_ends_it() {
    let (mut world, job) = running();
    world.boxes[0].machine.length_ms = i64::MAX;
    world.cut(0);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    for _ in 0..4 {
        world.pass_some(7 * 24 * 3_600_000);
    }
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.command(job, JobCommand::Abandon), taken(Delivery::Applied, job));
    assert_eq!(world.state(job), State::Lost);
}

#[test]
fn a14_a_burned_attempt_that_was_not_begun_is_dropped() {
    let (mut world, job) = held();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    let second = world.add_slave("second");
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!((world.holder(job), world.job(job).attempt.0), (Some(second), 2));
    world.plug(0);
    world.settle();
    assert_eq!(world.on_slave(0, job), None);
    assert_eq!(world.holder(job), Some(second));
}

#[test]
fn a15_who_has_begun_keeps_it_and_the_other_gives_it_back() {
    let (mut world, job) = running();
    world.boxes[0].machine.length_ms = 60_000;
    world.cut(0);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = 60_000;
    let busy = world.order("mill");
    let busy = world.place(busy);
    world.settle();
    assert_eq!(world.holder(busy), Some(second));
    world.command(job, JobCommand::Abandon);
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!(world.on_slave(second, job), Some(State::Accepted));
    world.plug(0);
    world.settle();
    assert_eq!((world.holder(job), world.job(job).attempt.0), (Some(0), 1));
    assert_eq!(world.on_slave(second, job), None);
    world.pass(20_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

/// Attempt 1 is with slave 0, which is away; attempt 2 runs at slave 1.
fn two_attempts() -> (World, reloop_protocol::id::JobId) {
    let (mut world, job) = running();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = 60_000;
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(second)));
    (world, job)
}

#[test]
fn a16_two_that_run_both_finish_and_a_person_decides() {
    let (mut world, job) = two_attempts();
    world.plug(0);
    world.settle();
    assert!(world.job(job).flags.has(Flags::DUPLICATE));
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    assert_eq!(world.on_slave(1, job), Some(State::Running));
    world.pass(70_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.job(job).earlier.len(), 1);
}

#[test]
fn a17_an_earlier_success_offers_the_cancel_of_the_later_and_does_not_send_it() {
    let (mut world, job) = two_attempts();
    world.pass(15_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.job(job).earlier[0].state, State::Succeeded);
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
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.job(job).attempt.0), (State::Succeeded, 1));
    assert_eq!(world.job(job).earlier[0].state, State::Failed, "the other is kept beside it");
}

#[test]
fn a19_what_was_canceled_on_disk_stays_canceled() {
    let (mut world, job) = running();
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    while world.on_slave(0, job) != Some(State::Stopping) {
        assert!(world.pump());
    }
    // The agent dies before the machine has answered, and the machine goes on.
    world.kill_agent(0);
    world.boxes[0].machine.unstoppable = false;
    world.start_agent(0, true);
    world.settle();
    assert_eq!(world.state(job), State::Canceled);
    // With the box, too.
    let (mut world, job) = running();
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    while world.on_slave(0, job) != Some(State::Stopping) {
        assert!(world.pump());
    }
    world.reboot(0);
    world.settle();
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a20_an_offer_of_what_is_done_is_answered_with_the_outcome() {
    let (mut world, job) = running();
    let again = want(&world, job);
    world.pass(15_000);
    assert_eq!(world.on_slave(0, job), None, "forgotten");
    let effects = say(&mut world, 0, Message::Want(again));
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Start { .. })), "{effects:?}");
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::Send { message: Message::Report(report), .. } if report.state == State::Succeeded)
    });
    assert!(told, "{effects:?}");
}

#[test]
fn a21_a_slave_without_room_says_what_holds_the_place() {
    let (mut world, first) = running();
    // The master still believes in the room of the last handshake.
    world.boxes[0].state.as_mut().unwrap().settings.capacity = 1;
    let order = world.order("mill");
    let second = world.place(order);
    world.settle();
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
    world.settle();
    let mut order = world.order("mill");
    order.requires.insert("material".to_owned(), "pla".to_owned());
    let labeled = world.place(order);
    let mut order = world.order("paint");
    order.slave = Some("s3".to_owned());
    let painted = world.place(order);
    let order = world.order("mill");
    world.local(3, Local::Lock(true));
    world.settle();
    let plain = world.place(order);
    let master = world.master.as_ref().unwrap();
    let why = |job| {
        let explanation = explain(master, &world.job(job), world.now());
        assert_eq!(explanation.slaves.len(), 4);
        explanation.slaves.into_iter().map(|(_, why)| why).collect::<Vec<_>>()
    };
    let expected =
        [Some(WhyNot::Offline), Some(WhyNot::Mode), Some(WhyNot::LocalLock), Some(WhyNot::LocalLock)];
    assert_eq!(why(plain), expected);
    assert_eq!(why(labeled), [Some(WhyNot::Label); 4]);
    let painted = why(painted);
    assert_eq!(painted[0], Some(WhyNot::OtherSlave));
    assert_eq!(painted[3], Some(WhyNot::Program));
}

#[test]
fn b1_a_start_time_that_comes_offline_is_kept() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 20_000);
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.pass(21_000);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn b2_a_start_that_was_missed_follows_its_late_rule_and_is_reported() {
    for (late, expected) in
        [(Late::Hold, State::Accepted), (Late::Run, State::Running), (Late::Skip, State::Expired)]
    {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        order.start.not_before = later(&world, 5_000);
        order.start.late = late;
        let job = world.place(order);
        world.settle();
        world.kill_agent(0);
        world.pass(10_000);
        world.start_agent(0, true);
        world.settle();
        assert_eq!(world.state(job), expected, "{late:?}");
        assert!(world.job(job).all_flags().has(Flags::MISSED_START));
        assert_eq!(reason(&world, job), ReasonCode::MissedStart);
    }
    // Late, and past its deadline.
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 5_000);
    order.start.deadline = later(&world, 8_000);
    order.start.late = Late::Run;
    let job = world.place(order);
    world.settle();
    world.kill_agent(0);
    world.pass(10_000);
    world.start_agent(0, true);
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 0));
}

#[test]
fn b3_a_changed_time_is_applied_if_it_has_not_started() {
    let deferred = |world: &mut World| {
        let mut order = world.order("mill");
        order.start.not_before = later(world, 20_000);
        let job = world.place(order);
        world.settle();
        world.cut(0);
        job
    };
    let mut world = World::new(1);
    let job = deferred(&mut world);
    let sooner =
        JobCommand::Reschedule { not_before: later(&world, 5_000), deadline: None, late: Late::Hold };
    assert_eq!(world.command(job, sooner), taken(Delivery::PendingOnReconnect, job));
    world.plug(0);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Running);
    // It started under the old wish: that stands, and the report says under which.
    let mut world = World::new(1);
    let job = deferred(&mut world);
    let known = world.job(job).rev;
    let later_still =
        JobCommand::Reschedule { not_before: later(&world, 900_000), deadline: None, late: Late::Hold };
    world.command(job, later_still);
    world.pass(22_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert_eq!(world.job(job).report.unwrap().started_rev, Some(known));
}

#[test]
fn b4_a_withdrawn_start_of_a_running_job_stops_nothing() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 2_000);
    let job = world.place(order);
    world.settle();
    world.cut(0);
    let never =
        JobCommand::Reschedule { not_before: later(&world, 1_000_000), deadline: None, late: Late::Skip };
    world.command(job, never);
    world.pass(3_000);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(job), State::Running, "an automatic stop is nobody's wish");
}

#[test]
fn b5_start_now_is_one_wish_with_a_latest_time() {
    let (mut world, job) = held();
    world.cut(0);
    for _ in 0..3 {
        world.command(job, JobCommand::Release { valid: Millis::seconds(60) });
    }
    world.crossed.clear();
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
    let wants = world.crossed.iter().filter(|(_, kind)| *kind == "want").count();
    assert_eq!(wants, 0, "the Welcome carries the newest wish; nothing was queued");
}

#[test]
fn b6_of_two_for_the_same_time_one_waits_its_turn() {
    let mut world = World::new(1);
    let at = later(&world, 5_000);
    let mut jobs = Vec::new();
    for _ in 0..2 {
        let mut order = world.order("mill");
        order.start.not_before = at;
        jobs.push(world.place(order));
    }
    world.pass(6_000);
    assert_eq!((world.state(jobs[0]), world.state(jobs[1])), (State::Running, State::Accepted));
    assert_eq!(world.job(jobs[1]).report.unwrap().waiting_for, Some(WaitingFor::Turn));
    world.pass(12_000);
    assert_eq!(world.state(jobs[1]), State::Running);
}

#[test]
fn b7_without_a_clock_that_can_be_trusted_a_deferred_job_waits() {
    for trusted in [false, true] {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        order.start.not_before = later(&world, 60_000);
        let job = world.place(order);
        world.settle();
        world.cut(0);
        world.boxes[0].settings.trust_clock = trusted;
        world.reboot(0);
        world.pass(1_000);
        let waits = world.boxes[0].state.as_ref().unwrap().jobs[&job].report.waiting_for;
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
        let mut order = world.order("mill");
        order.start.not_before = later(&world, 20_000);
        let job = world.place(order);
        world.settle();
        world.cut(0);
        world.boxes[0].wall_off = jump;
        world.pass(19_000);
        assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
        world.pass(2_000);
        assert_eq!(world.on_slave(0, job), Some(State::Running));
        world.pass(15_000);
        world.plug(0);
        world.settle();
        let job = world.job(job);
        let report = job.report.unwrap();
        let took = report.ended_at.unwrap().since(report.started_at.unwrap()).0;
        assert!((9_000..=11_000).contains(&took), "elapsed times stay right: {took} ms");
        assert_eq!(world.begun(job.id), 1);
    }
}

#[test]
fn b9_a_machine_that_is_not_ready_is_waited_for_until_the_deadline() {
    let mut world = World::new(1);
    world.boxes[0].state.as_mut().unwrap().settings.release = Release::Ack;
    world.boxes[0].settings.release = Release::Ack;
    let first = world.order("mill");
    world.place(first);
    world.pass(11_000);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 2_000);
    order.start.deadline = later(&world, 10_000);
    let job = world.place(order);
    world.pass(5_000);
    assert_eq!(world.job(job).report.unwrap().waiting_for, Some(WaitingFor::Ready));
    world.pass(8_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 0));
}

#[test]
fn b10_a_slave_acts_on_an_overrun_by_itself() {
    for (policy, expected) in [(OnOverdue::Flag, State::Running), (OnOverdue::Stop, State::Canceled)] {
        let mut world = World::new(1);
        let mut order = world.order("mill");
        order.spec.max_runtime = Some(Millis::seconds(3));
        order.spec.on_overdue = policy;
        let job = world.place(order);
        world.settle();
        world.cut(0);
        world.pass(5_000);
        assert_eq!(world.on_slave(0, job), Some(expected), "{policy:?}");
        world.plug(0);
        world.settle();
        assert!(world.job(job).all_flags().has(Flags::OVERDUE));
    }
}

#[test]
fn c1_a_new_store_under_an_old_key_waits_for_one_action_of_a_person() {
    let (mut world, job) = running();
    world.replace_disk(0);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::StoreReplaced));
    let machine = slave::machine_report(world.boxes[0].state.as_ref().unwrap());
    assert_eq!(machine.attention, Some(Attention::StoreReplaced));
    let order = world.order("mill");
    let next = world.place(order);
    world.pass(20_000);
    assert_eq!(world.begun(next), 0);
    world.command_slave(0, SlaveCommand::Clear);
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn c2_a_store_that_does_not_open_is_a_new_store_and_the_machine_is_not_touched() {
    let (mut world, job) = running();
    world.replace_disk(0);
    world.pass(15_000);
    let works: Vec<_> = world.boxes[0].machine.works.keys().collect();
    assert_eq!(works.len(), 1, "neither stopped nor begun again");
    assert_eq!(world.state(job), State::Uncertain);
}

#[test]
fn c3_a_store_that_went_back_is_not_trusted() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 20_000);
    let job = world.place(order);
    world.settle();
    let old = world.boxes[0].disk.clone();
    let store = world.boxes[0].state.as_ref().unwrap().node.store;
    world.cut(0);
    world.plug(0);
    world.settle();
    world.kill_agent(0);
    world.boxes[0].disk = old;
    world.start_agent(0, true);
    world.pass(60_000);
    assert_eq!(world.begun(job), 0, "nothing deferred fires");
    let node = &world.boxes[0].state.as_ref().unwrap().node;
    assert_eq!(node.attention, Some(Attention::StoreRolledBack));
    assert_ne!(node.store, store, "a new store id");
    assert_eq!(world.state(job), State::Uncertain);
}

#[test]
fn c4_a_clone_is_refused_while_the_older_link_answers_and_a_reboot_is_no_clone() {
    let (mut world, job) = running();
    let (settings, disk) = (world.boxes[0].settings.clone(), world.boxes[0].disk.clone());
    let clone = world.add_slave("clone");
    world.kill_agent(clone);
    world.boxes[clone].settings = settings;
    world.boxes[clone].disk = disk;
    world.boxes[clone].closed.clear();
    world.start_agent(clone, true);
    world.settle();
    assert_eq!(world.boxes[clone].closed.last(), Some(&CloseCode::DuplicateIdentity));
    assert!(!CloseCode::DuplicateIdentity.is_passing(), "no takeover loop");
    world.pass(11_000);
    assert_eq!(world.state(job), State::Succeeded, "undisturbed");
    // The older link does not answer: the box was rebooted.
    let mut world = World::new(1);
    world.half_open(0);
    world.kill_agent(0);
    world.boxes[0].boot = BootId([9; 16]);
    world.start_agent(0, true);
    world.plug(0);
    world.settle();
    assert_ne!(world.boxes[0].closed.last(), Some(&CloseCode::DuplicateIdentity));
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn c5_a_higher_session_of_the_same_slave_takes_over_at_once() {
    let (mut world, job) = running();
    world.half_open(0);
    world.plug(0);
    world.settle();
    let link = world.master.as_ref().unwrap().desks.values().next().unwrap().live();
    assert!(link.is_some());
    world.pass(11_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn c6_a_box_with_another_fingerprint_waits_for_a_person() {
    let mut world = World::new(1);
    let start = |fingerprint, world: &World| slave::Event::AgentStarted {
        boot: world.boxes[0].boot,
        fingerprint: Some([fingerprint; 16]),
        known_key: true,
        next_store: StoreId([1; 16]),
        damage: Default::default(),
    };
    let event = start(1, &world);
    world.slave_event(0, event);
    assert_eq!(world.boxes[0].state.as_ref().unwrap().node.attention, None);
    let event = start(2, &world);
    world.slave_event(0, event);
    world.settle();
    assert_eq!(world.boxes[0].state.as_ref().unwrap().node.attention, Some(Attention::Moved));
    let order = world.order("mill");
    let job = world.place(order);
    world.pass(5_000);
    assert_eq!(world.begun(job), 0);
    world.local(0, Local::Clear).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn c7_a_new_key_under_an_old_name_is_a_persons_choice() {
    let (mut world, job) = running();
    world.cut(0);
    let newcomer = world.add_slave("s0");
    world.settle();
    assert_eq!(world.boxes[newcomer].closed.last(), Some(&CloseCode::NameTaken));
    world.command_slave(0, SlaveCommand::Forget);
    world.boxes[newcomer].closed.clear();
    world.settle();
    assert!(world.boxes[newcomer].closed.is_empty());
    assert_eq!(world.holder(job), Some(0), "jobs of the old one stay with the old key");
}

#[test]
fn c8_a_revoked_slave_finishes_and_is_adopted_when_it_is_enrolled_again() {
    let (mut world, job) = running();
    world.command_slave(0, SlaveCommand::Forget);
    world.pass(20_000);
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::Revoked));
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded), "it keeps the outcome");
    world.command_slave(0, SlaveCommand::Approve);
    world.boxes[0].closed.clear();
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn d1_after_a_restart_nothing_is_dispatched_before_reconciliation() {
    let (mut world, job) = running();
    world.kill_master();
    world.boxes[0].cable = false;
    world.start_master();
    let order = world.order("mill");
    let next = world.place(order);
    world.settle();
    assert_eq!((world.state(job), world.state(next)), (State::Running, State::Queued));
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.state(next)), (State::Running, State::Accepted));
}

#[test]
fn d2_a_master_that_lost_everything_adopts_and_stops_nothing() {
    let (mut world, job) = running();
    let spec = world.job(job).spec;
    let started = world.job(job).report.unwrap().started_at;
    world.pass(2_000);
    world.kill_master();
    world.master_disk = MasterDisk::default();
    world.start_master();
    world.settle();
    let adopted = world.job(job);
    assert_eq!(
        (adopted.state, adopted.spec, adopted.report.unwrap().started_at),
        (State::Running, spec, started)
    );
    assert!(adopted.flags.has(Flags::ADOPTED));
    assert!(world.master_disk.orders.contains_key(&world.job(job).spec.order));
    world.pass(10_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn d3_after_a_restore_the_ring_repairs_the_gap_and_nothing_fires_in_mass() {
    let mut world = World::new(1);
    let mut orders: Vec<_> = (0..3).map(|_| world.order("mill")).collect();
    let deferred = later(&world, 5_000);
    orders[2].start.not_before = deferred;
    let jobs: Vec<_> = orders.into_iter().map(|order| world.place(order)).collect();
    world.cut(0);
    let backup = world.master_disk.clone();
    world.plug(0);
    world.pass(60_000);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Succeeded));
    world.kill_master();
    world.boxes[0].cable = false;
    world.master_disk = backup;
    world.start_master();
    world.master_event(master::Event::RestoreConfirmed { request: RequestId(0) });
    let order = world.order("mill");
    let fresh = world.place(order);
    world.pass(60_000);
    world.plug(0);
    world.settle();
    for job in &jobs {
        assert_eq!((world.state(*job), world.begun(*job)), (State::Succeeded, 1));
    }
    assert_eq!(world.state(fresh), State::Running, "what was placed after the restore goes on");
}

#[test]
fn d4_files_that_were_put_back_give_no_commands_until_a_person_confirms() {
    let mut world = World::new(1);
    let backup = world.master_disk.clone();
    let order = world.order("mill");
    let job = world.place(order);
    world.pass(1_000);
    world.cut(0);
    world.plug(0);
    world.settle();
    world.kill_master();
    world.master_disk = backup;
    world.start_master();
    world.settle();
    let slave::Link::Live { doubtful, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    assert!(doubtful, "it reports, and obeys nothing");
    let order = world.order("mill");
    let other = world.place(order);
    world.pass(15_000);
    assert_eq!(world.state(other), State::Queued);
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded), "not forgotten on its word");
    world.master_event(master::Event::RestoreConfirmed { request: RequestId(0) });
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None);
}

#[test]
fn d5_of_two_copies_the_one_with_the_highest_epoch_is_obeyed() {
    let mut world = World::new(1);
    let old = world.master_disk.clone();
    world.master_event(master::Event::RestoreConfirmed { request: RequestId(0) });
    world.settle();
    world.kill_master();
    world.master_disk = old;
    world.start_master();
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::StaleMaster));
}

#[test]
fn d6_a_master_that_it_is_not_enrolled_with_gets_nothing_until_a_person_says_so() {
    let (mut world, job) = running();
    world.kill_master();
    world.master_disk = MasterDisk::default();
    world.enrollment = Enrollment::Approve;
    world.start_master();
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::WrongMaster));
    assert!(world.master.as_ref().unwrap().book.jobs.is_empty(), "it was told nothing");
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.command_slave(0, SlaveCommand::Approve);
    world.boxes[0].closed.clear();
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert!(world.job(job).flags.has(Flags::ADOPTED));
}

#[test]
fn d7_d8_the_same_key_makes_exactly_one_order_across_a_crash() {
    let mut world = World::new(0);
    let order = world.order("mill");
    let key = IdempotencyKey { key: "k".to_owned(), fingerprint: [1; 32] };
    let place = |world: &mut World, order: master::Order, request, key: IdempotencyKey, known| {
        let order = Box::new(order);
        world.master_event(master::Event::OrderPlaced {
            request: RequestId(request),
            order,
            key: Some(key),
            known,
        });
        world.answers[&RequestId(request)].clone()
    };
    let first = place(&mut world, order.clone(), 900, key.clone(), None);
    assert_eq!(first, Answer::Placed { order: order.id, replayed: false });
    // At once, before the disk could show it.
    let other = world.order("mill");
    let again = place(&mut world, other.clone(), 901, key.clone(), None);
    assert_eq!(again, Answer::Placed { order: order.id, replayed: true });
    // After a crash, from the disk.
    world.kill_master();
    world.start_master();
    let again = place(&mut world, other.clone(), 902, key.clone(), Some((order.id, key.fingerprint)));
    assert_eq!(again, Answer::Placed { order: order.id, replayed: true });
    let changed = IdempotencyKey { fingerprint: [2; 32], ..key };
    let refused = place(&mut world, other, 903, changed, Some((order.id, [1; 32])));
    assert!(matches!(refused, Answer::Refused(master::Refusal::KeyReused, _)));
    assert_eq!(world.master_disk.orders.len(), 1);
    assert_eq!(world.state(order.jobs[0]), State::Queued, "it is there");
}

#[test]
fn d9_a_cut_inside_the_handshake_has_no_effect() {
    for cut_after in 0..6 {
        let (mut world, job) = running();
        world.cut(0);
        let before = world.job(job);
        world.plug(0);
        for _ in 0..cut_after {
            world.pump();
        }
        let live = world.master.as_ref().unwrap().desks.values().next().unwrap().live().is_some();
        world.cut(0);
        if !live {
            assert_eq!(world.job(job).state, before.state, "cut after {cut_after}");
            assert_eq!(world.job(job).rev, before.rev, "cut after {cut_after}");
        }
        world.plug(0);
        world.pass(15_000);
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "cut after {cut_after}");
    }
}

#[test]
fn e1_an_older_report_changes_nothing() {
    let (mut world, job) = running();
    let old = world.job(job).report.unwrap();
    world.command(job, JobCommand::Pause);
    world.settle();
    assert_eq!(world.state(job), State::Paused);
    let link = world.master.as_ref().unwrap().desks.values().next().unwrap().live().unwrap();
    world.master_event(master::Event::Received { link, message: Message::Report(old) });
    assert_eq!(world.state(job), State::Paused);
}

#[test]
fn e2_work_that_is_not_what_was_agreed_is_not_taken() {
    let mut world = World::new(1);
    world.cut(0);
    let order = world.order("mill");
    let job = world.place(order);
    let mut forged = want(&world, job);
    forged.attempt = reloop_protocol::id::Attempt(1);
    forged.spec.as_mut().unwrap().params.insert("file".to_owned(), "other".to_owned());
    world.plug(0);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    let effects = say(&mut world, 0, Message::Want(forged.clone()));
    let declined = effects.iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Declined(declined), .. } => Some(declined.reason.code),
        _ => None,
    });
    assert_eq!(declined, Some(ReasonCode::DigestMismatch));
    // Of a job that it holds: held, and a person is asked.
    let (mut world, job) = held();
    let mut forged = want(&world, job);
    forged.rev = WishRev(forged.rev.0 + 1);
    forged.digest = SpecDigest([0; 16]);
    forged.start.gate = Gate::Open;
    let state = world.boxes[0].state.clone().unwrap();
    let slave::Link::Live { link, session, .. } = state.link else { panic!("not live") };
    let message = Message::Want(forged);
    world.slave_event(0, slave::Event::Received { link, session, message, unfit: BTreeMap::new() });
    world.pass(2_000);
    assert_eq!(world.begun(job), 0);
}

#[test]
fn e5_a_version_that_is_not_spoken_is_refused_and_the_machine_goes_on() {
    let (mut world, job) = running();
    world.cut(0);
    let state = world.boxes[0].state.clone().unwrap();
    let now = Now { wall: world.now(), boot_ms: world.ms as u64 };
    let challenge = reloop_protocol::message::Challenge {
        protocol: Versions { oldest: 7, newest: 9 },
        master: MasterId([1; 16]),
        epoch: reloop_protocol::id::Epoch(1),
        commit: reloop_protocol::id::Commit(0),
        nonce: [0; 32],
        time: world.now(),
    };
    let state = slave::step(state, now, slave::Event::LinkOpened { link: LinkId(999) }).state;
    let step = slave::step(
        state,
        now,
        slave::Event::Received {
            link: LinkId(999),
            session: reloop_protocol::id::Session(0),
            message: Message::Challenge(challenge),
            unfit: BTreeMap::new(),
        },
    );
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Close { code: CloseCode::Version, .. })));
    assert_eq!(step.state.jobs[&job].report.state, State::Running);
}

#[test]
fn e6_what_is_gone_between_accept_and_start_is_rejected_with_the_reason() {
    let (mut world, job) = held();
    world.boxes[0].machine.refuses = true;
    world.command(job, JobCommand::Release { valid: Millis::seconds(60) });
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Rejected, ReasonCode::StartRefused));
}

#[test]
fn e7_what_people_do_at_the_machine_is_reported_as_theirs() {
    let (mut world, job) = running();
    world.cut(0);
    world.local(0, Local::Stop { now: false }).unwrap().unwrap();
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Canceled, ReasonCode::StoppedLocally));
    let (mut world, job) = running();
    world.local(0, Local::Pause).unwrap().unwrap();
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Paused, ReasonCode::PausedLocally));
    world.local(0, Local::Resume).unwrap().unwrap();
    assert_eq!(world.boxes[0].state.as_ref().unwrap().jobs[&job].report.source, Source::Local);
}

#[test]
fn e8_a_machine_under_local_control_is_not_offered_work_and_a_race_makes_no_loop() {
    let mut world = World::new(1);
    // The lock is on before the master knows of it.
    let order = world.order("mill");
    let job = world.place(order);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.pass(5_000);
    assert_eq!((world.state(job), reason(&world, job)), (State::Queued, ReasonCode::LocalLock));
    assert_eq!(world.job(job).last_attempt.0, 1);
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn e9_a_reboot_loop_ends_with_a_person() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.spec.on_interrupt = OnInterrupt::Restart;
    let job = world.place(order);
    world.settle();
    for _ in 0..4 {
        world.reboot(0);
        world.settle();
    }
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::InterruptedTooOften));
    assert_eq!(world.command(job, JobCommand::Resolve(End::Failed)), taken(Delivery::Sent, job));
}

#[test]
fn e10_a_starved_agent_changes_only_the_last_contact() {
    let (mut world, job) = running();
    let before = world.job(job);
    world.swallow(0);
    world.half_open(0);
    world.pass_some(3_600_000);
    assert_eq!(world.job(job).state, before.state);
    assert_eq!(world.job(job).revision, before.revision);
}

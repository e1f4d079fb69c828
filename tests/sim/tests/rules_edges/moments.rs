//! Deadlines, windows and clocks: the last millisecond, and when a node wakes.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, JobCommand, Retry, RetryOn};
use reloop_protocol::message::{Activity, Flags, Message, ReasonCode, WaitingFor};
use reloop_protocol::reconcile::DesiredKind;
use reloop_protocol::slave::{self, Local, PROBE_PATIENCE, Release, Why};
use reloop_protocol::spec::{Desired, Gate, Late, StartRule};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

/// The slave's next deadline in milliseconds from now, and its reason.
fn due(world: &World) -> Option<(u64, Why)> {
    let now = world.slave_now(0);
    let next = slave::next_deadline(agent(world), now);
    next.map(|(at, why)| (at - now.boot_ms, why))
}

#[test]
fn a_slave_wakes_for_a_start_when_its_time_comes_and_not_before() {
    let mut world = World::new(1);
    assert_eq!(due(&world), None);
    let at = later(&world, 60_000);
    let job = placed(&mut world, |order| order.start.not_before = at);
    assert_eq!(due(&world), Some((60_000, Why::NotBefore)));
    world.pass_some(59_999);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    assert_eq!(due(&world), Some((1, Why::NotBefore)));
    world.pass_some(1);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert_eq!(due(&world), None, "what runs starts no more");
}

#[test]
fn a_slave_wakes_for_the_earliest_of_several_deadlines() {
    let mut world = World::new(1);
    for (at, window) in [(50_000, None), (40_000, None), (45_000, Some(90_000))] {
        let (at, window) = (later(&world, at), window.and_then(|ms| later(&world, ms)));
        placed(&mut world, |order| (order.start.not_before, order.start.deadline) = (at, window));
    }
    assert_eq!(due(&world), Some((40_000, Why::NotBefore)));
}

#[test]
fn a_window_is_open_in_its_last_millisecond_at_the_slave() {
    for (wait, state) in [(30_000, State::Running), (30_001, State::Expired)] {
        let mut world = World::new(1);
        world.boxes[0].settings.release = Release::Auto;
        let close = later(&world, 30_000);
        let job = placed(&mut world, |order| {
            order.start.deadline = close;
            much_later(order);
        });
        assert_eq!(due(&world), Some((30_001, Why::Deadline)));
        world.pass_some(wait);
        command(&mut world, job, JobCommand::Release { valid: Millis(1_000) });
        assert_eq!(world.state(job), state, "after {wait} ms");
    }
}

#[test]
fn a_slave_wakes_when_a_release_lapses() {
    let mut world = World::new(1);
    world.local(0, Local::Lock(true));
    world.settle();
    world.local(0, Local::Lock(false));
    // Another job is in the machine: the release waits, and lapses.
    placed(&mut world, |_| {});
    let job = placed(&mut world, |_| {});
    command(&mut world, job, JobCommand::Release { valid: Millis(5_000) });
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    assert_eq!(due(&world), Some((5_001, Why::Release)));
    world.pass_some(5_000);
    world.settle();
    assert_eq!(due(&world), Some((1, Why::Release)));
    world.pass_some(1);
    world.settle();
    assert_eq!(due(&world), None);
}

#[test]
fn a_slave_wakes_once_for_work_that_runs_too_long() {
    let mut world = endless();
    let job = placed(&mut world, |order| order.spec.max_runtime = Some(Millis(7_000)));
    assert_eq!(world.state(job), State::Running);
    assert_eq!(due(&world), Some((7_000, Why::MaxRuntime)));
    world.pass_some(6_999);
    world.settle();
    let flagged = |world: &World| world.job(job).report.unwrap().flags.names().any(|name| name == "overdue");
    assert!(!flagged(&world));
    world.pass_some(1);
    world.settle();
    assert!(flagged(&world));
    assert_eq!(due(&world), None);
}

#[test]
fn the_wait_for_a_machines_answer_is_limited() {
    let (mut world, job) = running();
    silence_machine(&mut world);
    assert_eq!(due(&world), Some((PROBE_PATIENCE.0, Why::Probe)));
    assert_eq!(machine(&world).activity, Activity::Unknown);
    world.pass_some(i64::try_from(PROBE_PATIENCE.0).unwrap() - 1);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.pass_some(1);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain));
    assert_eq!(due(&world), None);
}

#[test]
fn every_deadline_has_a_description() {
    let whys = [Why::NotBefore, Why::Deadline, Why::Release, Why::MaxRuntime, Why::Probe];
    let words: std::collections::BTreeSet<_> = whys.iter().map(|why| why.text()).collect();
    assert_eq!(words.len(), whys.len());
    assert!(words.iter().all(|text| text.contains(' ')), "{words:?}");
}

#[test]
fn a_master_wakes_when_a_queued_jobs_window_closes() {
    let mut world = World::new(0);
    let next = |world: &World| master::next_deadline(world.master.as_ref().unwrap());
    assert_eq!(next(&world), None);
    let (first, second) = (later(&world, 30_000), later(&world, 50_000));
    placed(&mut world, |order| order.start.deadline = second);
    let job = placed(&mut world, |order| order.start.deadline = first);
    assert_eq!(next(&world), later(&world, 30_001));
    world.pass_some(30_000);
    assert_eq!(world.state(job), State::Queued);
    assert_eq!(next(&world), later(&world, 1));
    world.pass_some(1);
    assert_eq!(world.state(job), State::Expired);
    assert_eq!(next(&world), later(&world, 19_999 + 1));
}

#[test]
fn a_desired_state_is_too_late_only_after_its_last_millisecond() {
    let now = Time(1_000);
    let of = |deadline: Option<i64>, latest: Option<i64>| {
        let gate = latest.map_or(Gate::Open, |latest| Gate::Released { latest: Time(latest) });
        DesiredKind::of(
            Desired::Run,
            &StartRule { deadline: deadline.map(Time), gate, ..StartRule::default() },
            now,
        )
    };
    assert_eq!(
        [999, 1_000, 1_001].map(|at| of(Some(at), None)),
        [DesiredKind::TooLate, DesiredKind::Go, DesiredKind::Go]
    );
    assert_eq!(
        [999, 1_000, 1_001].map(|at| of(None, Some(at))),
        [DesiredKind::Go, DesiredKind::Released, DesiredKind::Released]
    );
}

#[test]
fn a_box_that_was_rebooted_out_of_reach_tells_time_by_its_wall_clock_as_the_master_once_saw_it() {
    let mut world = World::new(1);
    world.boxes[0].wall_off = 3_600_000;
    world.pass(20_000);
    world.cut(0);
    world.plug(0);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Fail);
    assert_eq!(world.state(job), State::Running);
    world.pass(7_000);
    world.cut(0);
    world.pass(5_000);
    reboot(&mut world);
    let ended_at = world.now();
    assert_eq!(world.on_slave(0, job), Some(State::Failed));
    world.pass(9_000);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.job(job).ended_at), (State::Failed, Some(ended_at)));
}

#[test]
fn times_of_a_machine_without_contact_are_reported_in_the_masters_time() {
    // Its wall clock is an hour ahead; the fact's time is by that clock, and the box has not been rebooted since.
    let mut world = World::new(1);
    world.boxes[0].wall_off = 3_600_000;
    world.cut(0);
    reconnect(&mut world, 0);
    let key = world.boxes[0].settings.key;
    assert_eq!(world.master.as_ref().unwrap().slaves[&key].clock_offset_ms, 3_600_000, "as people are shown");
    let job = placed(&mut world, |_| {});
    world.cut(0);
    world.kill_agent(0);
    world.pass(30_000);
    let ended_at = Time(world.now().0 - 20_000);
    world.start_agent(0, true);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.job(job).ended_at), (State::Succeeded, Some(ended_at)));
}

#[test]
fn a_job_that_is_given_back_in_the_last_millisecond_of_its_window_is_queued_again() {
    let mut world = World::new(1);
    let close = later(&world, 1_000);
    let job = place_as(&mut world, |order| order.start.deadline = close);
    let declined = no_to(&world.job(job), ReasonCode::AtCapacity, false);
    let event = received(live(&world).0, Message::Declined(declined));
    let step = master::step(world.master.clone().unwrap(), close.unwrap(), event);
    assert_eq!(step.state.book.jobs.get(&job).unwrap().state, State::Queued);
}

#[test]
fn what_failed_after_its_latest_start_is_not_tried_again() {
    for (length_ms, attempts) in [(30_000, 2), (30_001, 1)] {
        let mut world = World::new(1);
        (world.boxes[0].machine.fails, world.boxes[0].machine.length_ms) = (true, length_ms);
        let deadline = later(&world, 30_000);
        let job = placed(&mut world, |order| {
            order.start.deadline = deadline;
            order.retry = Retry { max_attempts: 2, on: [RetryOn::Failed].into() };
        });
        world.pass(120_000);
        assert_eq!((world.state(job), world.begun(job)), (State::Failed, attempts));
    }
}

#[test]
fn a_release_lets_a_job_start_in_its_last_millisecond() {
    for (wait, expected) in
        [(5_000, (State::Starting, None)), (5_001, (State::Accepted, Some(ReasonCode::ReleaseLapsed)))]
    {
        let (mut world, busy) = endless_job(|_, _| {});
        let job = placed(&mut world, much_later);
        command(&mut world, job, JobCommand::Release { valid: Millis(5_000) });
        world.cut(0);
        world.pass_some(wait);
        let state = agent(&world).clone();
        let after = machine_says(state, world.slave_now(0), busy, ended(End::Succeeded)).state;
        assert_eq!(word(&after, job), expected, "after {wait} ms");
    }
}

/// A job that waits for its time behind a long one; when its time comes the slave is down if `missed`, and up
/// otherwise.
fn had_its_time(missed: bool) -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 100_000;
    placed(&mut world, |_| {});
    let job = deferred(&mut world, 10_000, |_| {});
    if missed {
        world.kill_agent(0);
    }
    world.pass_some(if missed { 80_000 } else { 20_000 });
    if missed {
        world.start_agent(0, true);
    }
    reconnect(&mut world, 0);
    let report = world.job(job).report.unwrap();
    assert_eq!((report.state, report.flags.has(Flags::MISSED_START)), (State::Accepted, missed));
    (world, job)
}

fn plan(world: &mut World, job: JobId, in_ms: Option<i64>, late: Late) {
    let not_before = in_ms.and_then(|ms| later(world, ms));
    command(world, job, JobCommand::Reschedule { not_before, deadline: None, late });
}

#[test]
fn a_job_that_is_rescheduled_has_not_missed_its_start() {
    for (missed, in_ms, waits_for) in [
        (false, Some(100_000), WaitingFor::Time),
        (false, Some(-100_000), WaitingFor::Turn),
        (false, None, WaitingFor::Turn),
        (true, Some(100_000), WaitingFor::Time),
        (true, None, WaitingFor::Turn),
    ] {
        let (mut world, job) = had_its_time(missed);
        plan(&mut world, job, in_ms, Late::Hold);
        let report = world.job(job).report.unwrap();
        assert_eq!((report.waiting_for, report.reason), (Some(waits_for), None), "{missed} {in_ms:?}");
        world.pass(210_000);
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "{missed} {in_ms:?}");
    }
}

#[test]
fn a_start_time_from_before_a_reschedule_is_not_the_new_one() {
    let (mut world, job) = had_its_time(false);
    plan(&mut world, job, Some(100_000), Late::Hold);
    world.pass(50_000);
    world.kill_agent(0);
    world.pass_some(150_000);
    world.start_agent(0, true);
    reconnect(&mut world, 0);
    let report = world.job(job).report.unwrap();
    let reason = report.reason.map(|reason| reason.code);
    assert_eq!((report.state, reason), (State::Accepted, Some(ReasonCode::MissedStart)));
    assert_eq!(world.begun(job), 0);
}

#[test]
fn after_a_restart_of_the_agent_a_missed_start_follows_the_newest_late_rule() {
    for (late, state) in
        [(Late::Hold, State::Accepted), (Late::Run, State::Running), (Late::Skip, State::Expired)]
    {
        let (mut world, job) = had_its_time(true);
        world.pass(25_000);
        let planned = world.job(job).start.not_before.unwrap();
        let in_ms = planned.0 - world.now().0;
        plan(&mut world, job, Some(in_ms), late);
        assert_eq!(
            world.state(job),
            State::Accepted,
            "a person has to let it go, or else the next start of the agent"
        );
        restart_agent(&mut world);
        reconnect(&mut world, 0);
        assert_eq!((world.state(job), world.begun(job)), (state, u32::from(late == Late::Run)), "{late:?}");
    }
}

#[test]
fn a_start_time_in_the_past_does_not_release_a_missed_start() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 5_000, |order| order.start.late = Late::Hold);
    off_for(&mut world, 70_000);
    assert!(world.job(job).all_flags().has(Flags::MISSED_START));
    plan(&mut world, job, Some(-1_000), Late::Hold);
    assert_eq!((world.state(job), world.begun(job)), (State::Accepted, 0), "only a release starts it");
    plan(&mut world, job, Some(1_000), Late::Hold);
    world.pass(2_000);
    assert_eq!(world.state(job), State::Running);
}

//! Commands that come too late or contradict earlier ones leave a flag, or are refused.

use reloop_protocol::id::{Attempt, JobId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{
    self, Answer, Delivery, JobCommand, JobReason, Refusal, RequestId, WrongState,
};
use reloop_protocol::message::{Flags, ReasonCode, Report};
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{CancelMode, Desired, Late};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

fn reschedule(world: &World, not_before: Option<i64>, deadline: Option<i64>) -> JobCommand {
    let at = |ms: Option<i64>| ms.and_then(|ms| later(world, ms));
    JobCommand::Reschedule { not_before: at(not_before), deadline: at(deadline), late: Late::Hold }
}

fn refusal(answer: Option<Answer>) -> Option<Refusal> {
    match answer {
        Some(Answer::Refused(refusal)) => Some(refusal),
        _ => None,
    }
}

/// A job with a start in twenty seconds, at a slave that is away.
fn planned(change: impl FnOnce(&World, &mut reloop_protocol::master::Order)) -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 60_000;
    let mut order = world.order("mill");
    order.start.not_before = later(&world, 20_000);
    change(&world, &mut order);
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    world.cut(0);
    (world, job)
}

fn is_overtaken(world: &World, job: JobId) -> bool {
    world.job(job).flags.has(Flags::OVERTAKEN)
}

#[test]
fn a_new_time_counts_at_once_whatever_was_released_before() {
    for lapsed in [false, true] {
        let (mut world, job) = planned(|_, _| {});
        world.command(job, JobCommand::Release { valid: Millis::seconds(10) });
        if lapsed {
            world.pass(11_000);
        }
        let plan = reschedule(&world, Some(30_000), None);
        world.command(job, plan);
        world.plug(0);
        world.settle();
        assert_eq!(world.state(job), State::Accepted, "not before its new time; lapsed: {lapsed}");
        world.pass(31_000);
        assert_eq!(world.state(job), State::Running, "lapsed: {lapsed}");
    }
}

#[test]
fn a_plan_that_came_after_the_start_is_said_to_have_been_overtaken() {
    for (not_before, deadline, overtaken) in [
        (Some(3_600_000), None, true),
        (None, Some(10_000), true),
        // What it did is what was wanted, although it did not know that.
        (Some(15_000), None, false),
        (None, Some(3_600_000), false),
        (None, None, false),
    ] {
        for ended in [false, true] {
            let (mut world, job) = planned(|_, _| {});
            let command = reschedule(&world, not_before, deadline);
            assert_eq!(world.command(job, command), taken(Delivery::PendingOnReconnect, job));
            assert!(!is_overtaken(&world, job), "nobody knows yet");
            world.pass(if ended { 90_000 } else { 22_000 });
            reconnect(&mut world, 0);
            let case = (not_before, deadline, ended);
            assert_eq!(world.state(job), if ended { State::Succeeded } else { State::Running }, "{case:?}");
            assert_eq!(is_overtaken(&world, job), overtaken, "{case:?}");
            world.pass(90_000);
            assert_eq!(is_overtaken(&world, job), overtaken, "{case:?}: it stays so");
        }
    }
}

#[test]
fn a_start_in_the_last_millisecond_of_a_new_window_is_in_time() {
    for (ms, overtaken) in [(0, false), (1, true)] {
        let (mut seat, report) = runs_live();
        let began = report.started_at.unwrap();
        let job = seat.job_mut(report.job);
        let waits = Report { started_at: None, ..numbered(&report, 10, State::Accepted) };
        (job.state, job.report) = (State::Accepted, Some(waits));
        // Its slave has not heard of this window.
        (job.start.deadline, job.generation) = (Some(Time(began.0 - ms)), job.generation.next());
        drop(reports(&mut seat, None, numbered(&report, 11, State::Running)));
        assert_eq!(seat.job(report.job).flags.has(Flags::OVERTAKEN), overtaken, "{ms}");
    }
}

#[test]
fn a_plan_that_reached_its_slave_in_time_is_not_overtaken() {
    let (mut world, job) = planned(|_, _| {});
    let command = reschedule(&world, Some(40_000), None);
    world.command(job, command);
    reconnect(&mut world, 0);
    world.cut(0);
    // A later pause is no plan.
    world.command(job, JobCommand::Pause);
    world.command(job, JobCommand::Resume);
    world.pass(50_000);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), is_overtaken(&world, job)), (State::Running, false));
    // Nor is a plan that a release has superseded.
    let (mut world, job) = planned(|_, _| {});
    world.command(job, JobCommand::Release { valid: Millis::seconds(600) });
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), is_overtaken(&world, job)), (State::Running, false));
}

#[test]
fn a_longer_window_that_its_slave_did_not_know_when_the_old_one_closed_has_been_overtaken() {
    for (deadline, overtaken) in [(Some(3_600_000), true), (None, true), (Some(5_000), false)] {
        let (mut world, job) = planned(|world, order| {
            much_later(order);
            order.start.deadline = later(world, 30_000);
        });
        let command = reschedule(&world, None, deadline);
        world.command(job, command);
        world.pass(40_000);
        reconnect(&mut world, 0);
        assert_eq!(
            (world.state(job), is_overtaken(&world, job)),
            (State::Expired, overtaken),
            "{deadline:?}"
        );
    }
}

#[test]
fn a_command_that_contradicts_a_pending_cancel_is_refused_with_the_reason() {
    for online in [true, false] {
        let (mut world, job) = planned(|_, _| {});
        if online {
            reconnect(&mut world, 0);
        }
        let plan = reschedule(&world, Some(3_600_000), None);
        let release = JobCommand::Release { valid: Millis::seconds(600) };
        world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
        let wanted = world.find_job(job).unwrap().into_owned();
        for command in [plan, release, JobCommand::Pause, JobCommand::Resume] {
            let answer = world.command(job, command);
            if wanted.state.is_ended() {
                assert_eq!(answer, taken(Delivery::TooLate, job), "{command:?}");
                continue;
            }
            let (state, why) = (wanted.state, WrongState::BeingCanceled);
            assert_eq!(refusal(answer), Some(Refusal::WrongState { job, state, why }), "{command:?}");
            assert_eq!((world.job(job).start, world.job(job).desired), (wanted.start, wanted.desired));
        }
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), State::Canceled);
    }
}

/// An uncertain job.
fn doubted() -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, |_| {});
    world.boxes[0].machine.silent = true;
    world.kill_agent(0);
    world.start_agent(0, true);
    world.pass(10_000);
    assert_eq!(world.state(job), State::Uncertain);
    (world, job)
}

#[test]
fn of_several_people_who_say_how_a_job_ended_the_first_counts_and_the_others_are_told_so() {
    for online in [true, false] {
        let (mut world, job) = doubted();
        if !online {
            world.cut(0);
        }
        let delivery = if online { Delivery::Sent } else { Delivery::PendingOnReconnect };
        assert_eq!(world.command(job, JobCommand::Resolve(End::Succeeded)), taken(delivery, job));
        let others = [
            JobCommand::Resolve(End::Failed),
            JobCommand::Resolve(End::Stopped),
            JobCommand::Cancel(CancelMode::Now),
            JobCommand::Pause,
            JobCommand::Resume,
        ];
        for command in others {
            let (state, why) = (State::Uncertain, WrongState::AlreadyResolved(End::Succeeded));
            let refused = refusal(world.command(job, command));
            assert_eq!(refused, Some(Refusal::WrongState { job, state, why }), "{command:?}");
        }
        let same = world.command(job, JobCommand::Resolve(End::Succeeded));
        assert_eq!(same, taken(delivery, job), "who says the same is right too");
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), State::Succeeded);
        assert!(!is_overtaken(&world, job));
        assert!(!world.job(job).all_flags().has(Flags::CANCEL_TOO_LATE), "nobody has canceled it");
    }
}

#[test]
fn a_cancel_was_too_late_for_work_that_a_person_says_was_done() {
    for (end, too_late) in [(End::Succeeded, true), (End::Failed, false)] {
        let (mut world, job) = doubted();
        world.command(job, JobCommand::Cancel(CancelMode::Now));
        world.cut(0);
        world.command(job, JobCommand::Resolve(end));
        assert_eq!(world.job(job).flags.has(Flags::CANCEL_TOO_LATE), too_late, "{end:?}");
    }
}

#[test]
fn what_a_person_said_of_a_job_that_ended_otherwise_or_works_again_has_been_overtaken() {
    // A person at the machine was first.
    let (mut world, job) = doubted();
    world.cut(0);
    world.command(job, JobCommand::Resolve(End::Succeeded));
    world.local(0, Local::Resolve { job: None, end: End::Failed }).unwrap().unwrap();
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), is_overtaken(&world, job)), (State::Failed, true));
    // The machine reports again, also of a job that was given up meanwhile.
    for gives_up in [false, true] {
        let (mut seat, report) = runs_live();
        drop(reports(&mut seat, None, numbered(&report, 11, State::Uncertain)));
        seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
        let resolve = JobCommand::Resolve(End::Failed);
        drop(seat.commands(report.job, resolve));
        let given_up =
            if gives_up { seat.commands(report.job, JobCommand::Abandon).archived } else { vec![] };
        assert_eq!(given_up.iter().map(|job| job.state).eq([State::Lost]), gives_up);
        let works = numbered(&report, 12, State::Running);
        let step = shakes(&mut seat, (given_up, vec![]), vec![works.row()], (vec![works], vec![]));
        assert!(step.archived.is_empty());
        let job = seat.job(report.job);
        assert_eq!((job.state, job.desired), (State::Running, Desired::Run), "{gives_up}");
        assert!(job.flags.has(Flags::OVERTAKEN));
        let effects = seat.commands(report.job, JobCommand::Pause).effects;
        let answer = taken(Delivery::Sent, report.job).unwrap();
        assert!(effects.contains(&master::Effect::Answer { request: RequestId(1), answer }));
    }
}

#[test]
fn of_an_abandoned_attempt_too_the_first_resolve_counts() {
    for tried_again in [false, true] {
        let (mut world, job) = doubted();
        world.command(job, JobCommand::Abandon);
        assert_eq!(world.state(job), State::Lost);
        if tried_again {
            let second = world.add_slave("second");
            world.boxes[second].machine.length_ms = 60_000;
            world.settle();
            command(&mut world, job, JobCommand::Retry);
            assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(second)));
            // The same slave had an attempt before that.
            let mut former = world.job(job).others[0].clone();
            (former.attempt, former.state) = (Attempt(0), State::Failed);
            former.report.as_mut().unwrap().state = State::Failed;
            world.master.as_mut().unwrap().book.jobs.get_mut(&job).unwrap().others.push(former);
        }
        world.swallow(0);
        assert_eq!(world.command(job, JobCommand::Resolve(End::Failed)), taken(Delivery::Sent, job));
        for end in [End::Succeeded, End::Failed] {
            let said = Refusal::AlreadyResolved(JobReason::ResolvedAs(End::Failed).into());
            assert_eq!(refusal(world.command(job, JobCommand::Resolve(end))), Some(said));
        }
        if tried_again {
            let former = world.job(job).others[1].report.clone().unwrap();
            assert_ne!(former.reason.map(|reason| reason.code), Some(ReasonCode::Resolved));
        }
        // The message was lost with the link: the slave asks again, and is answered.
        world.cut(0);
        reconnect(&mut world, 0);
        assert_eq!(world.command(job, JobCommand::Resolve(End::Succeeded)), taken(Delivery::Sent, job));
        world.settle();
        let job = world.job(job);
        let first = job.others.iter().find(|earlier| earlier.attempt.0 == 1);
        assert_eq!(first.map_or(job.state, |first| first.state), State::Succeeded, "{tried_again}");
    }
}

#[test]
fn what_a_person_said_of_one_run_ends_no_other_run() {
    let mut world = endless();
    let job = placed(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Restart);
    silence_machine(&mut world);
    reconnect(&mut world, 0);
    world.pass(10_000);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Uncertain, Some(State::Uncertain)));
    world.cut(0);
    // Somebody says so from afar, without a look at the machine.
    let command_from_afar = JobCommand::Resolve(End::Succeeded);
    let (request, jobs) = (RequestId(7), vec![job]);
    world.master_event(master::Event::JobsCommanded { request, jobs, command: command_from_afar });
    assert_eq!(world.job(job).desired, Desired::Resolve(End::Succeeded));
    // It has run all along, is interrupted by a power cut, and is begun again as its order says.
    world.boxes[0].machine.silent = false;
    restart_agent(&mut world);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.reboot(0);
    world.settle();
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Running), 2));
    silence_machine(&mut world);
    world.pass(10_000);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain), "now nobody knows of the second run");
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Uncertain, Some(State::Uncertain)));
    assert!(is_overtaken(&world, job));
    // Of the second run a person can say it too.
    command(&mut world, job, JobCommand::Resolve(End::Failed));
    assert_eq!(world.state(job), State::Failed);
}

#[test]
fn what_a_person_said_of_a_run_is_forgotten_once_the_job_waits_to_begin_again() {
    let (mut seat, report) = runs_live();
    let job = report.job;
    let uncertain = numbered(&report, 11, State::Uncertain);
    drop(reports(&mut seat, None, uncertain.clone()));
    seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
    drop(seat.commands(job, JobCommand::Resolve(End::Succeeded)));
    assert_eq!(seat.job(job).desired, Desired::Resolve(End::Succeeded));
    let waits = Report { state: State::Accepted, seq: uncertain.seq, ..uncertain };
    drop(shakes(&mut seat, (vec![], vec![]), vec![waits.row()], (vec![waits], vec![])));
    assert_eq!((seat.job(job).state, seat.job(job).desired), (State::Accepted, Desired::Run));
}

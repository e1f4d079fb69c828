//! Data, capability, locality.

use reloop_protocol::id::{Attempt, Generation, Session};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Delivery, JobCommand, RequestId, SlaveCommand};
use reloop_protocol::message::{Ask, Challenge, Message, Mode, Question, ReasonCode, Source, Versions};
use reloop_protocol::slave::{self, Closing, Effect, Local, NotDone};
use reloop_protocol::spec::{CancelMode, SpecDigest, StartRule};
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn e1_an_older_report_changes_nothing() {
    let (mut world, job) = running();
    let old = world.job(job).report.unwrap();
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    let before = world.job(job);
    let link = link_of(&world, 0);
    world.master_event(received(link, Message::Report(old)));
    assert_eq!(world.job(job), before);
}

#[test]
fn e2_work_that_is_not_what_was_agreed_is_not_taken() {
    let mut world = World::new(1);
    world.cut(0);
    let job = place(&mut world);
    let mut forged = desired_state(&world, job);
    forged.attempt = Attempt(1);
    forged.spec.as_mut().unwrap().params.insert("file".to_owned(), "other".to_owned());
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    reconnect(&mut world, 0);
    let declined =
        would_do(&world, Message::DesiredState(forged)).into_iter().find_map(|effect| match effect {
            Effect::Send { message: Message::Declined(declined), .. } => Some(declined.reason.code),
            _ => None,
        });
    assert_eq!(declined, Some(ReasonCode::DigestMismatch));
}

#[test]
fn e2_a_job_whose_digest_changed_does_not_start() {
    let (mut world, job) = unstarted();
    let mut forged = desired_state(&world, job);
    forged.generation = Generation(forged.generation.0 + 1);
    forged.digest = SpecDigest([0; 16]);
    forged.start = StartRule::default();
    say(&mut world, Message::DesiredState(forged));
    world.pass(2_000);
    assert_eq!(world.begun(job), 0);
}

#[test]
fn e4_a_stretch_of_output_is_asked_for_by_job_attempt_run_and_offset() {
    let (mut world, job) = running();
    world.crossed.clear();
    for _ in 0..2 {
        world.master_event(master::Event::LogAsked {
            request: RequestId(9_000),
            job,
            offset: Some(4_000),
            limit: 100,
        });
    }
    world.settle();
    assert_eq!(crossed(&world, "ask"), 2, "asked anew each time: nothing is kept of it on the way");
    let report = world.job(job).report.unwrap();
    let question =
        Question::Log { job, attempt: report.attempt, run: report.run, offset: Some(4_000), limit: 100 };
    let effects = would_do(&world, Message::Ask(Ask { id: 1, question }));
    let read = effects.iter().find_map(|effect| match effect {
        Effect::ReadLog { work, offset, limit, .. } => Some((work.job, work.attempt, *offset, *limit)),
        _ => None,
    });
    assert_eq!(read, Some((job, report.attempt, Some(4_000), 100)));
}

#[test]
fn e5_a_version_that_is_not_spoken_is_refused_and_the_machine_goes_on() {
    let (mut world, job) = running();
    world.cut(0);
    let challenge = Challenge { protocol: Versions { oldest: 7, newest: 9 }, ..challenge(&world) };
    let event = heard(DIALLED, Session(0), Message::Challenge(challenge));
    let step = slave::step(dialled(&world, None), world.slave_now(0), event);
    assert!(step.effects.iter().any(|e| matches!(e, Effect::Close { why: Closing::Version(_), .. })));
    assert_eq!(step.state.jobs[&job].report.state, State::Running);
}

#[test]
fn e6_what_is_gone_between_accept_and_start_is_rejected_with_the_reason() {
    let (mut world, job) = unstarted();
    world.boxes[0].machine.rejects = true;
    release(&mut world, job, 60);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Rejected, ReasonCode::UnknownProgram));
}

#[test]
fn e6_what_a_machine_lacks_at_the_start_ends_no_job_and_asks_a_person() {
    for refuses in [false, true] {
        let (mut world, job) = unstarted();
        let machine = &mut world.boxes[0].machine;
        (machine.refuses, machine.unfit) = (refuses, !refuses);
        release(&mut world, job, 60);
        world.settle();
        assert_eq!((world.state(job), reason(&world, job)), (State::Accepted, ReasonCode::MachineUnfit));
        let machine = &mut world.boxes[0].machine;
        (machine.refuses, machine.unfit) = (false, false);
        world.command_slave(0, SlaveCommand::Clear);
        world.settle();
        assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
    }
}

#[test]
fn e7_a_stop_at_the_machine_is_reported_as_theirs() {
    let (mut world, job) = running();
    world.cut(0);
    world.local(0, Local::Stop { now: false }).unwrap().unwrap();
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), reason(&world, job)), (State::Canceled, ReasonCode::StoppedLocally));
}

#[test]
fn e7_a_pause_at_the_machine_is_reported_as_theirs_and_only_ended_there() {
    let (mut world, job) = running();
    world.local(0, Local::Pause).unwrap().unwrap();
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Paused, ReasonCode::PausedLocally));
    command(&mut world, job, JobCommand::Resume);
    assert_eq!(world.state(job), State::Paused, "a remote command never clears a local one");
    world.local(0, Local::Resume).unwrap().unwrap();
    assert_eq!(kept(&world, job).report.source, Source::Local);
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn e7_nothing_is_resumed_at_the_machine_once_what_was_paused_there_has_ended() {
    let (mut world, job) = running();
    world.cut(0);
    world.local(0, Local::Pause).unwrap().unwrap();
    world.local(0, Local::Stop { now: true }).unwrap().unwrap();
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Canceled), "nobody has taken its outcome yet");
    assert_eq!(world.local(0, Local::Resume), Some(Err(NotDone::NothingRuns)));
}

#[test]
fn e8_a_machine_under_local_control_is_not_offered_work() {
    let mut world = World::new(1);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.settle();
    let job = place(&mut world);
    world.pass(5_000);
    assert_eq!((world.state(job), world.job(job).last_attempt.0), (State::Queued, 0));
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn e8_a_race_with_the_lock_is_rejected_with_the_reason_and_makes_no_loop() {
    let mut world = World::new(1);
    // The lock is on before the master knows it.
    let job = place(&mut world);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.pass(5_000);
    assert_eq!((world.state(job), reason(&world, job)), (State::Queued, ReasonCode::LocalLock));
    assert_eq!(world.job(job).last_attempt.0, 1);
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn e8_maintenance_keeps_starts_out_and_draining_finishes_what_is_there() {
    let (mut world, held) = unstarted();
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    release(&mut world, held, 600);
    world.settle();
    assert_eq!(world.state(held), State::Accepted);
    world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
    let new = placed(&mut world, |_| {});
    assert_eq!((world.state(held), world.state(new)), (State::Running, State::Queued));
    world.command_slave(0, SlaveCommand::Mode(Mode::Production));
    world.settle();
    assert_eq!(world.state(new), State::Accepted);
}

#[test]
fn e9_a_reboot_loop_ends_with_a_person() {
    let (mut world, job) = running_as(|order| order.spec.on_interrupt = OnInterrupt::Restart);
    for number in 1..=3 {
        reboot(&mut world);
        assert_eq!(world.state(job), State::Running, "reboot {number}");
    }
    reboot(&mut world);
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::InterruptedTooOften));
    assert_eq!(world.begun(job), 4);
    assert_eq!(world.command(job, JobCommand::Resolve(End::Failed)), taken(Delivery::Sent, job));
}

#[test]
fn e10_a_starved_agent_changes_only_the_last_contact() {
    let (mut world, job) = running();
    let before = world.job(job);
    world.swallow(0);
    world.half_open(0);
    world.pass_some(3_600_000);
    assert_eq!(world.job(job), before);
}

//! What belongs to one attempt or to one run of a job is not shown of the next.

use reloop_protocol::id::{Attempt, SlaveKey};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Job, JobCommand};
use reloop_protocol::message::{Flags, Outcome, Reason, ReasonCode, Report, WaitingFor};
use reloop_protocol::slave::{self, Fact, Local};
use reloop_protocol::spec::Desired;
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::World;

use crate::stage::*;

/// All flags that the master sets because of the result of one attempt.
const OF_ATTEMPT: [Flags; 2] = [Flags::LATE_RESULT, Flags::CANCEL_TOO_LATE];

/// A job whose first attempt runs on the live link, with every field of its record set.
fn with_every_fact() -> (Seat, Report) {
    let (mut seat, report) = runs_live();
    let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
    OF_ATTEMPT.into_iter().for_each(|flag| job.flags.set(flag));
    job.flags.set(Flags::ADOPTED);
    job.recalled = Some(job.generation);
    job.heard_at = Some(Time(seat.now.0 - 1));
    job.reason = Some(Reason::new(ReasonCode::OlderAttempt, "of the first attempt"));
    let said = Report {
        progress: Some(420),
        note: Some("drilling".to_owned()),
        waiting_for: Some(WaitingFor::Turn),
        outcome: Some(Outcome { exit_code: Some(3), signal: Some(4), text: "broken".to_owned() }),
        ended_at: Some(seat.now),
        reason: Some(Reason::new(ReasonCode::MachineFault, "broken")),
        flags: Flags(Flags::OVERDUE.0 | Flags::MISSED_START.0 | Flags::INTERRUPTED.0),
        ..report
    };
    (seat, said)
}

/// Checks that the record of a job whose second attempt has just been assigned shows nothing of the first.
fn is_about_the_second_alone(job: Job, how: &str) {
    let Job {
        // The order's fields.
        id: _,
        spec: _,
        digest: _,
        slave: _,
        requires: _,
        retry: _,
        retry_backoff: _,
        created_at: _,
        // The job's fields, which all its attempts share.
        start: _,
        desired: _,
        generation: _,
        last_attempt,
        assigned,
        revision: _,
        events: _,
        flags,
        others,
        retries: _,
        rejected_by,
        // The attempt's fields.
        state,
        attempt,
        holder,
        report,
        heard_at,
        heard_on,
        reason,
        ended_at,
        recalled,
        retry_at,
    } = job;
    assert_eq!((state, attempt, last_attempt), (State::Assigned, Attempt(2), Attempt(2)), "{how}");
    assert_eq!((assigned.len(), holder.is_some()), (2, true), "{how}");
    assert_eq!((report, heard_at, heard_on), (None, None, None), "{how}");
    assert_eq!((reason, ended_at, recalled, retry_at), (None, None, None, None), "{how}");
    assert_eq!(rejected_by, [], "{how}");
    assert_eq!(flags, Flags::ADOPTED, "{how}: what is the job's stays");
    let [first] = others.as_slice() else { panic!("{how}: {others:?}") };
    let kept = first.report.as_ref().unwrap();
    assert_eq!(
        (first.attempt, kept.progress, kept.note.as_deref()),
        (Attempt(1), Some(420), Some("drilling"))
    );
    for flag in OF_ATTEMPT {
        assert!(kept.flags.has(flag), "{how}: what was the first attempt's stays with it");
    }
}

#[test]
fn a_second_attempt_shows_nothing_of_the_first() {
    // A person begins the second attempt.
    let (mut seat, said) = with_every_fact();
    let failed = Report { state: State::Failed, ..numbered(&said, 20, State::Failed) };
    let step = reports(&mut seat, None, failed);
    let [ended] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
    let ended = ended.clone();
    // By then other facts are known than when it ended.
    let mut ended = Job { heard_at: Some(seat.now), ..ended };
    ended.recalled = None;
    seat.load(vec![ended]);
    drop(seat.commands(said.job, JobCommand::Retry));
    is_about_the_second_alone(seat.job(said.job), "a person's retry");
    // The order's retry begins it.
    let (mut seat, said) = with_every_fact();
    let job = seat.state.book.jobs.get_mut(&said.job).unwrap();
    (job.retry.max_attempts, job.retry.on) = (3, [master::RetryOn::Failed].into());
    job.desired = Desired::Run;
    drop(reports(&mut seat, None, numbered(&said, 20, State::Failed)));
    is_about_the_second_alone(seat.job(said.job), "the order's retry");
}

#[test]
fn an_attempt_that_speaks_again_shows_its_own_facts_and_none_of_the_other_attempt() {
    let (mut seat, said) = with_every_fact();
    // The second attempt has failed, and the first one's slave reports success.
    let other = SlaveKey([9; 32]);
    let job = seat.state.book.jobs.get_mut(&said.job).unwrap();
    (job.attempt, job.last_attempt, job.holder) = (Attempt(2), Attempt(2), Some(other));
    job.assigned.push_back((Attempt(2), other));
    job.flags = Flags::CANCEL_TOO_LATE;
    job.state = State::Failed;
    let past = Job {
        report: Some(Report { attempt: Attempt(2), state: State::Failed, ..said.clone() }),
        ..job.clone()
    };
    seat.state.book = master::Book::default();
    let step = reports(&mut seat, Some(&past), numbered(&said, 20, State::Succeeded));
    let [ended] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
    assert_eq!((ended.state, ended.attempt, ended.recalled), (State::Succeeded, Attempt(1), None));
    assert_eq!(ended.flags, Flags::LATE_RESULT, "it came after another one had taken its place");
    let kept = ended.others.iter().find(|earlier| earlier.attempt == Attempt(2)).unwrap();
    assert!(kept.report.as_ref().unwrap().flags.has(Flags::CANCEL_TOO_LATE));
}

#[test]
fn a_second_run_says_nothing_that_is_of_the_first() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 60_000;
    let job = placed(&mut world, |order| {
        order.spec.on_interrupt = OnInterrupt::Restart;
        order.spec.max_runtime = Some(Millis(5_000));
    });
    let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
    let fact = Fact::Progressed { permille: Some(420), note: Some("drilling".to_owned()) };
    world.slave_event(0, slave::Event::Machine { work, fact });
    world.pass(6_000);
    let first = world.job(job).report.unwrap();
    assert!(first.flags.has(Flags::OVERDUE) && first.note.is_some());
    reboot(&mut world);
    let second = world.job(job).report.unwrap();
    assert_eq!((second.state, second.run.0), (State::Running, 2));
    assert_eq!((second.progress, &second.note), (None, &None));
    assert_eq!(second.flags, Flags::INTERRUPTED, "it has just begun, and is not overdue");
    let reason = second.reason.unwrap();
    assert_eq!(reason.code, ReasonCode::Interrupted);
    assert!(!reason.text.contains("runs no more"), "{}", reason.text);
    world.pass(6_000);
    assert!(world.job(job).report.unwrap().flags.has(Flags::OVERDUE), "by its own clock");
}

#[test]
fn a_second_release_ends_the_reason_of_the_first() {
    let mut world = endless();
    let job = deferred(&mut world, 60_000, |_| {});
    off_for(&mut world, 600_000);
    assert_eq!(reason(&world, job), ReasonCode::MissedStart);
    world.local(0, Local::Lock(true));
    release(&mut world, job, 10);
    world.pass(20_000);
    assert_eq!(reason(&world, job), ReasonCode::ReleaseLapsed);
    let told = |world: &World| {
        let report = world.job(job).report.unwrap();
        (report.state, report.waiting_for, report.reason)
    };
    release(&mut world, job, 600);
    world.settle();
    assert_eq!(told(&world), (State::Accepted, Some(WaitingFor::Ready), None));
    world.local(0, Local::Lock(false));
    world.settle();
    assert_eq!(told(&world), (State::Running, None, None));
}

#[test]
fn a_run_that_begins_keeps_no_reason_but_that_its_start_was_missed() {
    for code in [ReasonCode::ReleaseLapsed, ReasonCode::DigestMismatch, ReasonCode::MissedStart] {
        let (mut state, now, job, waits) = at_work();
        let kept = state.jobs.get_mut(&waits).unwrap();
        kept.report.flags.set(Flags::MISSED_START);
        kept.report.reason = Some(Reason::new(code, "before"));
        let state = machine_says(state, now, job, ended(End::Succeeded)).state;
        let after = person_says(state, now, Local::Ready).state;
        let stays = (code == ReasonCode::MissedStart).then_some(code);
        assert_eq!(word(&after, waits), (State::Starting, stays));
    }
}

#[test]
fn what_was_uncertain_says_so_no_more_once_its_machine_has_spoken() {
    let facts = [
        (Fact::Started, State::Running, None),
        (Fact::Resumed, State::Running, None),
        (Fact::Paused, State::Paused, None),
        (ended(End::Succeeded), State::Succeeded, None),
        (ended(End::Failed), State::Failed, Some(ReasonCode::MachineFault)),
    ];
    for (fact, state, code) in facts {
        let (mut doubting, now, job, _) = at_work();
        let report = &mut doubting.jobs.get_mut(&job).unwrap().report;
        report.state = State::Uncertain;
        report.reason = Some(Reason::new(ReasonCode::NoProof, "it could not say"));
        let after = machine_says(doubting, now, job, fact).state;
        assert_eq!(word(&after, job), (state, code));
    }
}

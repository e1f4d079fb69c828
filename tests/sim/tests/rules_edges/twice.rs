//! Two attempts of one job that both ran: the job is flagged, and so are its slaves shown.

use reloop_protocol::id::{Attempt, Generation, JobId, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Answer, Basis, Delivery, JobCommand, OtherAttempt};
use reloop_protocol::message::{Flags, Message, Reason, ReasonCode, Report};
use reloop_sim::world::World;

use crate::stage::*;

/// Attempt 1 was abandoned while its slave was away, attempt 2 is at another slave.
fn given_up_and_tried_again(length_ms: i64) -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 20_000;
    let job = placed(&mut world, |_| {});
    world.cut(0);
    assert_eq!(world.command(job, JobCommand::Abandon), Some(Answer::Taken(vec![(job, Delivery::Applied)])));
    assert_eq!(world.state(job), State::Lost);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = length_ms;
    command(&mut world, job, JobCommand::Retry);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(second)));
    (world, job)
}

#[test]
fn two_attempts_that_were_done_are_a_duplicate_whenever_the_master_hears_of_them() {
    // The first attempt ends before or after the second, and is reported before, meanwhile or afterwards.
    for length_ms in [10_000, 40_000] {
        for heard_after in [0, 15_000, 30_000, 60_000] {
            let (mut world, job) = given_up_and_tried_again(length_ms);
            world.pass(heard_after);
            world.plug(0);
            world.pass(90_000);
            let case = (length_ms, heard_after);
            assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 2), "{case:?}");
            assert!(world.job(job).flags.has(Flags::DUPLICATE), "{case:?}");
        }
    }
}

#[test]
fn two_attempts_that_succeeded_are_a_duplicate_in_whichever_order_they_ended() {
    for other_first in [false, true] {
        let (mut seat, report) = runs_live();
        // Attempt 1 has succeeded elsewhere, and attempt 2 was recalled for that, but has begun meanwhile.
        let elsewhere = SlaveKey([9; 32]);
        let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
        (job.attempt, job.last_attempt, job.state) = (Attempt(2), Attempt(2), State::Accepted);
        job.assigned = [(Attempt(1), elsewhere), (Attempt(2), seat.key)].into();
        let waits =
            Report { attempt: Attempt(2), state: State::Accepted, started_at: None, ..report.clone() };
        job.report = Some(waits.clone());
        let (state, basis) = (State::Succeeded, Basis::Assigned);
        let told = Report { state, ..report.clone() };
        job.others =
            vec![OtherAttempt { attempt: Attempt(1), holder: elsewhere, state, report: Some(told), basis }];
        job.recalled = other_first.then_some(Generation(job.generation.0));
        let has_moved = Reason::new(ReasonCode::Restored, "it waits");
        let waits = Report { reason: Some(has_moved), ..numbered(&waits, 19, State::Accepted) };
        drop(reports(&mut seat, None, waits));
        assert!(!seat.job(report.job).flags.has(Flags::DUPLICATE), "nothing was done twice yet");
        let began = Report { attempt: Attempt(2), ..numbered(&report, 20, State::Running) };
        drop(reports(&mut seat, None, began.clone()));
        let job = seat.job(report.job);
        assert!(job.state == State::Running && job.flags.has(Flags::DUPLICATE), "{other_first}");
        // The same without that report in between.
        let step = reports(&mut seat, None, numbered(&began, 21, State::Succeeded));
        assert!(step.archived[0].flags.has(Flags::DUPLICATE));
    }
}

#[test]
fn a_slave_is_shown_with_the_attempt_that_it_works_at_whoever_speaks_for_the_job() {
    let of = |world: &World, slave: usize| {
        let master = world.master.as_ref().unwrap();
        let there = master::jobs_at(master, &master.slaves[&world.boxes[slave].settings.key]);
        Vec::from_iter(there)
    };
    let (mut world, job) = given_up_and_tried_again(5_000);
    assert_eq!((of(&world, 0), of(&world, 1)), (vec![], vec![job]));
    reconnect(&mut world, 0);
    assert_eq!((of(&world, 0), of(&world, 1)), (vec![job], vec![job]), "both work at it");
    world.pass(6_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!((of(&world, 0), of(&world, 1)), (vec![job], vec![]), "the first goes on");
    world.kill_master();
    world.start_master();
    world.settle();
    assert_eq!(of(&world, 0), vec![job], "also after a restart of the master");
    world.cut(0);
    assert_eq!(of(&world, 0), vec![job], "by its last word");
    world.plug(0);
    world.pass(30_000);
    assert_eq!((of(&world, 0), of(&world, 1)), (vec![], vec![]), "it has ended there too");
}

#[test]
fn a_claim_is_no_job_of_the_slave_that_claims_it() {
    let (mut world, job, link) = deferred_at_the_second();
    let report = Report { state: State::Running, attempt: Attempt(9), ..world.job(job).report.unwrap() };
    let first = world.boxes[0].settings.key;
    let own = world.master.as_ref().unwrap().slaves[&first].live().unwrap();
    assert_ne!(own, link);
    world.master_event(master::Event::Received { link: own, message: Message::Report(report) });
    let master = world.master.as_ref().unwrap();
    assert!(master::jobs_at(master, &master.slaves[&first]).is_empty());
}

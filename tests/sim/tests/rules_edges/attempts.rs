//! Which attempt speaks for a job: every line of that table, applied to a slave's report.

use std::collections::BTreeSet;

use reloop_protocol::id::{Attempt, Epoch, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Basis, Ignored, Job, JobCommand, JobReason, OtherAttempt};
use reloop_protocol::message::{Flags, Message, Reason, ReasonCode, Report};
use reloop_protocol::reconcile::attempts::{Other, Outcome, Speaker, Standing, TABLE, weigh};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Late};
use reloop_protocol::time::Time;

use crate::stage::*;

const ELSEWHERE: SlaveKey = SlaveKey([9; 32]);

/// A slave's report of an attempt of this class.
fn said(report: &Report, attempt: Attempt, other: Other) -> Report {
    let (state, has_begun) = match other {
        Other::Waiting => (State::Accepted, false),
        Other::Working => (State::Running, true),
        Other::Doubtful => (State::Uncertain, true),
        Other::Done => (State::Succeeded, true),
        Other::Over => (State::Failed, true),
        Other::Unbegun => (State::Rejected, false),
    };
    Report { attempt, state, started_at: report.started_at.filter(|_| has_begun), ..report.clone() }
}

/// Puts the job's first attempt into this class, at a slave that the master knows of or at the one that reports, in each way
/// there is. None if a job whose other attempt has this standing can't be in that class.
fn speaking(job: Job, key: SlaveKey, speaker: Speaker, standing: Standing) -> Vec<Job> {
    let own = job.report.clone().unwrap();
    let at = |holder, state, is_its_word: bool| {
        let report = is_its_word.then(|| Report { state, ..own.clone() });
        Job { holder, state, report, ..job.clone() }
    };
    let is_free = standing == Standing::Forgotten;
    // A forgotten attempt speaks only if no other slave has the job.
    let holder = Some(if is_free { key } else { ELSEWHERE });
    let canceled = |job: Job| Job { desired: Desired::Cancel(CancelMode::Now), ..job };
    let jobs = match speaker {
        Speaker::Nobody => vec![at(None, State::Queued, false)],
        Speaker::Replaced => vec![at(Some(key), State::Running, true)],
        Speaker::Unstarted => {
            let unbegun = Report { state: State::Accepted, started_at: None, ..own.clone() };
            vec![Job { report: Some(unbegun), ..at(Some(ELSEWHERE), State::Accepted, true) }]
        }
        Speaker::Begun => {
            let runs = at(Some(ELSEWHERE), State::Running, true);
            // It was interrupted and waits to begin again; or its cancel is on the way.
            vec![at(Some(ELSEWHERE), State::Accepted, true), canceled(runs.clone()), runs]
        }
        Speaker::Vanished => vec![at(Some(ELSEWHERE), State::Uncertain, false)],
        Speaker::Succeeded => vec![at(holder, State::Succeeded, true)],
        Speaker::Canceled => vec![canceled(at(Some(ELSEWHERE), State::Canceled, true))],
        Speaker::CalledOff => vec![canceled(at(None, State::Canceled, false))],
        // Its slave may have canceled it unasked.
        Speaker::Ended => [State::Failed, State::Canceled].map(|state| at(holder, state, true)).into(),
        Speaker::Closed => vec![at(holder.filter(|_| !is_free), State::Lost, false)],
    };
    let is_elsewhere = jobs[0].holder == Some(ELSEWHERE);
    let counts = match speaker {
        Speaker::Nobody | Speaker::Vanished | Speaker::Canceled | Speaker::CalledOff => {
            standing != Standing::Contested
        }
        Speaker::Replaced => standing == Standing::Forgotten,
        Speaker::Unstarted | Speaker::Begun => standing != Standing::Forgotten,
        Speaker::Succeeded | Speaker::Ended | Speaker::Closed => is_elsewhere != is_free,
    };
    if counts { jobs } else { vec![] }
}

#[test]
fn every_line_is_applied_to_a_slaves_report_of_another_attempt() {
    let mut reached = BTreeSet::new();
    for standing in Standing::ALL {
        let known = runs();
        let pairs = Speaker::ALL.iter().flat_map(|one| Other::ALL.iter().map(|other| (*one, *other)));
        let cases = pairs.flat_map(|(speaker, other)| {
            let jobs = speaking(known.0.job(known.1.job), known.0.key, speaker, standing);
            jobs.into_iter().map(move |job| (speaker, other, job))
        });
        for (speaker, other, mut past) in cases {
            let (mut seat, report) = runs();
            let (newest, told_of) = match standing {
                Standing::Known => (Attempt(2), Attempt(1)),
                Standing::Forgotten | Standing::Contested => (Attempt(1), Attempt(2)),
            };
            (past.attempt, past.last_attempt) = (newest, newest);
            // A waiting job stays in the queue.
            past.slave = Some("elsewhere".to_owned());
            if let Some(report) = &mut past.report {
                report.attempt = newest;
            }
            past.assigned = past.holder.map(|holder| (newest, holder)).into_iter().collect();
            if standing == Standing::Known {
                past.assigned.push_front((told_of, seat.key));
            } else {
                seat.state.node.epoch = Epoch(2);
            }
            let name = past.id;
            seat.state.book = master::Book::default();
            let report = said(&report, told_of, other);
            let told = (vec![report.clone()], vec![]);
            let step = shakes(&mut seat, (vec![past.clone()], vec![]), vec![report.row()], told);
            let live = seat.state.book.jobs.get(&name).map(|job| job.into_owned());
            let job = live.or_else(|| step.archived.iter().find(|job| job.id == name).cloned()).unwrap();
            let line = weigh(speaker, other, standing);
            reached.insert(line.name);
            let what = format!("{}: {speaker:?} {other:?} {standing:?} {:?}", line.name, past.state);
            let is_taken =
                (job.attempt, job.holder) == (told_of, Some(seat.key)) && job.state == report.state;
            assert_eq!(is_taken, line.outcome == Outcome::Take, "{what}");
            let withdraws = |wanted: &DesiredState| {
                wanted.attempt == told_of && wanted.desired == Desired::Cancel(CancelMode::IfNotStarted)
            };
            let is_withdrawn = step.effects.iter().any(|effect| {
                matches!(effect, master::Effect::Send { message: Message::DesiredState(wanted), .. } if withdraws(wanted))
            });
            assert_eq!(is_withdrawn, line.outcome == Outcome::Withdraw, "{what}");
            assert_eq!(job.recalled.is_some(), line.outcome == Outcome::Recall, "{what}");
            let is_flagged = matches!(line.outcome, Outcome::Duplicate | Outcome::GoesOn);
            assert_eq!(job.flags.has(Flags::DUPLICATE), is_flagged, "{what}");
            assert!(!job.flags.has(Flags::CLAIMED), "{what}");
            let is_contested = standing == Standing::Contested;
            let is_denied = step.effects.contains(&master::Effect::Ignored(Ignored::NeverAssigned));
            assert_eq!(is_denied, is_contested, "{what}");
            if is_flagged {
                let why = match (line.outcome, other) {
                    (Outcome::GoesOn, _) => JobReason::OtherGoesOn(told_of),
                    (_, Other::Done) => JobReason::OtherSucceeded(told_of),
                    _ => JobReason::OtherRuns(told_of),
                };
                let shown = if is_contested { past.reason.clone() } else { Some(Reason::from(why)) };
                assert_eq!(job.reason, shown, "{what}");
            }
            if line.outcome != Outcome::Take {
                let kept = job.others.iter().find(|one| one.attempt == told_of).unwrap();
                let basis = if is_contested { Basis::Gap } else { Basis::Assigned };
                assert_eq!((kept.holder, kept.state, kept.basis), (seat.key, report.state, basis), "{what}");
                assert_eq!((job.attempt, job.state), (newest, past.state), "{what}");
            }
            assert_eq!(master::broken_invariant(&seat.state), None, "{what}");
        }
    }
    let missed: Vec<_> = TABLE.iter().map(|line| line.name).filter(|name| !reached.contains(name)).collect();
    // This line is reached when the speaker vanishes later: tested in `d3_...`.
    assert_eq!(missed, ["it_vanished_and_another_slave_had_it_later"]);
}

/// A job that waits at its slave, and an earlier attempt with this result.
fn beside(state: State, basis: Basis) -> (Seat, Job) {
    let (mut seat, report) = runs_live();
    let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
    (job.attempt, job.last_attempt) = (Attempt(2), Attempt(2));
    job.assigned.push_back((Attempt(2), seat.key));
    job.report = Some(Report { attempt: Attempt(2), ..report.clone() });
    let told = Report { state, ..report };
    job.others =
        vec![OtherAttempt { attempt: Attempt(1), holder: ELSEWHERE, state, report: Some(told), basis }];
    let job = job.clone();
    (seat, job)
}

#[test]
fn an_attempt_that_succeeded_speaks_once_the_newer_one_has_failed_and_a_claim_never_does() {
    for (basis, speaks) in [(Basis::Assigned, true), (Basis::Gap, true), (Basis::Claim, false)] {
        let (mut seat, job) = beside(State::Succeeded, basis);
        let failed =
            Report { state: State::Failed, ..numbered(job.report.as_ref().unwrap(), 20, State::Failed) };
        let step = reports(&mut seat, None, failed);
        let [ended] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
        let (state, attempt) = if speaks { (State::Succeeded, 1) } else { (State::Failed, 2) };
        assert_eq!((ended.state, ended.attempt), (state, Attempt(attempt)), "{basis:?}");
        assert_eq!(ended.flags.has(Flags::LATE_RESULT), speaks, "{basis:?}");
    }
}

#[test]
fn a_word_that_contradicts_what_is_known_of_an_attempt_is_flagged() {
    for (said, flagged) in [(State::Failed, false), (State::Succeeded, true), (State::Running, true)] {
        let (mut seat, job) = beside(State::Failed, Basis::Assigned);
        let known = seat.state.book.jobs.get_mut(&job.id).unwrap();
        // The job's slave is the one that speaks, and another slave has the newest attempt.
        (known.others[0].holder, known.holder) = (seat.key, Some(ELSEWHERE));
        known.assigned = [(Attempt(1), seat.key), (Attempt(2), ELSEWHERE)].into();
        let report = known.others[0].report.clone().unwrap();
        let step = reports(&mut seat, None, numbered(&report, 30, said));
        let job = seat.job(job.id);
        // An ended attempt stays ended, unless its slave has it again.
        let kept = if said == State::Running { said } else { State::Failed };
        assert_eq!((job.state, job.others[0].state), (State::Running, kept), "{said:?}");
        assert_eq!(job.flags.has(Flags::DUPLICATE), flagged, "{said:?}");
        assert_eq!(is_forgotten(&step.effects), said.is_ended(), "{said:?}");
        if said == State::Running {
            // The same word again is no news: what else was said of the job since stays.
            seat.job_mut(job.id).reason = None;
            drop(reports(&mut seat, None, numbered(&report, 31, said)));
            assert_eq!(seat.job(job.id).reason, None);
        }
    }
}

#[test]
fn what_is_known_to_have_been_assigned_is_never_a_mere_claim() {
    let (mut seat, job) = beside(State::Lost, Basis::Assigned);
    let known = seat.state.book.jobs.get_mut(&job.id).unwrap();
    (known.others[0].holder, known.holder) = (seat.key, Some(ELSEWHERE));
    // So many assignments later the first one is not listed any more.
    (known.attempt, known.last_attempt) = (Attempt(17), Attempt(17));
    known.assigned = (2..18).map(|attempt| (Attempt(attempt), ELSEWHERE)).collect();
    let report = known.others[0].report.clone().unwrap();
    drop(reports(&mut seat, None, numbered(&report, 30, State::Running)));
    let kept = &seat.job(job.id).others[0];
    assert_eq!((kept.attempt, kept.state, kept.basis), (Attempt(1), State::Running, Basis::Assigned));
}

#[test]
fn a_slave_with_a_newer_attempt_does_not_have_the_older_one_whatever_it_said_of_that() {
    for state in [State::Running, State::Uncertain] {
        let (mut seat, report) = runs_live();
        let key = seat.key;
        drop(reports(&mut seat, None, numbered(&report, 20, state)));
        let job = seat.job_mut(report.job);
        job.assigned.push_back((Attempt(2), key));
        job.last_attempt = Attempt(2);
        let newer = Report { attempt: Attempt(2), ..numbered(&report, 21, State::Running) };
        drop(reports(&mut seat, None, newer));
        let job = seat.job(report.job);
        assert_eq!((job.attempt, job.state), (Attempt(2), State::Running), "{state:?}");
        assert!(!job.flags.has(Flags::DUPLICATE), "{state:?}");
    }
}

#[test]
fn only_a_higher_number_says_that_the_attempt_of_another_slave_is_the_later_one() {
    for (number, is_later) in [(2, false), (3, true)] {
        // Its slave does not know what became of the one that speaks, and the other one is told of after a restore.
        let (mut seat, job) = beside(State::Running, Basis::Gap);
        seat.state.node.epoch = Epoch(2);
        seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
        let mut past =
            Job { holder: Some(ELSEWHERE), state: State::Uncertain, others: vec![], ..job.clone() };
        past.assigned = [(Attempt(2), ELSEWHERE)].into();
        past.report.as_mut().unwrap().state = State::Uncertain;
        seat.state.book = master::Book::default();
        let told =
            Report { attempt: Attempt(number), ..numbered(job.report.as_ref().unwrap(), 30, State::Running) };
        drop(shakes(&mut seat, (vec![past], vec![]), vec![told.row()], (vec![told], vec![])));
        assert_eq!(seat.job(job.id).holder == Some(seat.key), is_later, "{number}");
        // The other one has been told of, and then its slave has nothing of the one that speaks.
        let (mut seat, job) = beside(State::Running, Basis::Gap);
        seat.job_mut(job.id).others[0].attempt = Attempt(number);
        seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
        drop(shakes(&mut seat, (vec![], vec![]), vec![], (vec![], vec![])));
        assert_eq!(seat.job(job.id).holder == Some(ELSEWHERE), is_later, "{number}");
    }
}

#[test]
fn a_slave_that_contests_a_job_and_contradicts_itself_changes_no_text_of_it() {
    for said in [State::Succeeded, State::Running] {
        let (mut seat, job) = beside(State::Failed, Basis::Gap);
        seat.state.node.epoch = Epoch(2);
        let known = seat.state.book.jobs.get_mut(&job.id).unwrap();
        (known.others[0].holder, known.holder) = (seat.key, Some(ELSEWHERE));
        known.assigned = [(Attempt(2), ELSEWHERE)].into();
        let report = known.others[0].report.clone().unwrap();
        drop(reports(&mut seat, None, numbered(&report, 30, said)));
        let after = seat.job(job.id);
        assert_eq!((after.state, &after.reason), (job.state, &job.reason), "{said:?}");
        assert!(after.flags.has(Flags::DUPLICATE), "{said:?}");
    }
}

#[test]
fn an_abandoned_job_of_which_another_attempt_succeeded_has_succeeded() {
    let (mut seat, job) = beside(State::Succeeded, Basis::Assigned);
    seat.state.book.jobs.get_mut(&job.id).unwrap().holder = Some(ELSEWHERE);
    let step = seat.commands(job.id, JobCommand::Abandon);
    let [ended] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
    assert_eq!((ended.state, ended.attempt), (State::Succeeded, Attempt(1)));
}

#[test]
fn a_window_that_closes_over_a_recalled_attempt_ends_no_job_whose_older_one_runs() {
    let (mut world, job) = endless_job(|_, _| {});
    world.cut(0);
    let second = world.add_slave("second");
    world.settle();
    give_away(&mut world, job);
    assert_eq!((world.state(job), world.holder(job)), (State::Assigned, Some(second)));
    // The offer is lost on its way.
    world.cut(second);
    let deadline = later(&world, 10_000);
    world.command(job, JobCommand::Reschedule { not_before: None, deadline, late: Late::Run });
    reconnect(&mut world, 0);
    assert_eq!(world.job(job).wanted(), Desired::Return, "it is recalled, for the older one runs");
    world.pass(20_000);
    reconnect(&mut world, second);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(0)));
}

#[test]
fn an_offer_that_is_declined_after_its_window_ends_no_job_whose_older_attempt_runs() {
    for code in [ReasonCode::AtCapacity, ReasonCode::WindowClosed] {
        let (mut seat, job) = beside(State::Running, Basis::Assigned);
        let deadline = Some(Time(seat.now.0 - 1));
        let offered = seat.job_mut(job.id);
        (offered.state, offered.report, offered.start.deadline) = (State::Assigned, None, deadline);
        let declined = no_to(offered, code, false);
        seat.step(received(OLDER, Message::Declined(declined)));
        let job = seat.job(job.id);
        assert_eq!((job.state, job.holder), (State::Running, Some(ELSEWHERE)), "{code:?}");
    }
}

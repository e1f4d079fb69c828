//! Reports of slaves, and what the master concludes from them.

use reloop_protocol::id::{Attempt, Epoch, Generation, JobId, ReportSeq, SlaveKey};
use reloop_protocol::job::{End, State};
use reloop_protocol::limits::ROWS;
use reloop_protocol::master::{self, Answer, Basis, JobCommand, JobReason, Order};
use reloop_protocol::message::{Flags, Hello, Message, ReasonCode, Report, Row, Settled, Tell, WaitingFor};
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn a_slave_that_had_a_job_is_believed_about_attempts_that_are_no_longer_listed() {
    let mut world = World::new(1);
    let second = world.add_slave("second");
    let job = placed(&mut world, |order| order.slave = Some("second".to_owned()));
    world.boxes[second].machine.fails = true;
    for _ in 0..17 {
        world.pass(12_000);
        command(&mut world, job, JobCommand::Retry);
    }
    let kept = world.job(job);
    let (oldest, _) = *kept.assigned.front().unwrap();
    assert!(oldest.0 > 1 && kept.assigned.len() == 16, "{:?}", kept.assigned);
    let is_heard = |slave: usize, attempt: Attempt| {
        let key = world.boxes[slave].settings.key;
        let link = world.master.as_ref().unwrap().slaves[&key].live().unwrap();
        let mut report = kept.report.clone().unwrap();
        (report.attempt, report.state) = (attempt, State::Running);
        let mut world = world.clone();
        world.master_event(received(link, Message::Report(report)));
        world.job(job) != kept
    };
    let forgotten = Attempt(oldest.0 - 1);
    assert!(is_heard(second, forgotten), "of this one nobody knows any more, and it has had the job since");
    assert!(!is_heard(0, forgotten) && !is_heard(0, oldest), "this one never had the job");
}

/// A job that runs at the second slave, and the first one's report of an attempt that it was never assigned.
fn claim() -> (Seat, Report) {
    let mut world = World::new(1);
    world.add_slave("second");
    let job = placed(&mut world, |order| order.slave = Some("second".to_owned()));
    assert_eq!(world.holder(job), Some(1));
    let report = world.job(job).report.unwrap();
    (Seat::of(&mut world), report)
}

fn settle_with(seat: &mut Seat, reports: Vec<Report>) -> Vec<master::Effect> {
    let session = seat.introduce().session;
    seat.step(received(OLDER, Message::Settled(Settled { reports, ..settled(session) })))
}

#[test]
fn a_report_of_a_slave_that_was_never_assigned_the_job_is_shown_and_changes_nothing() {
    for (state, forgotten) in [(State::Accepted, false), (State::Running, false), (State::Succeeded, true)] {
        let (mut seat, report) = claim();
        let id = report.job;
        let before = seat.job(id);
        let report = Report { state, attempt: Attempt(7), ..report };
        let effects = settle_with(&mut seat, vec![report.clone()]);
        let job = seat.job(id);
        assert_eq!((job.state, job.holder, job.attempt), (before.state, before.holder, before.attempt));
        let shown: Vec<_> = job.others.iter().map(|one| (one.attempt, one.holder, one.state)).collect();
        assert_eq!(shown, [(Attempt(7), seat.key, state)]);
        assert!(job.flags.has(Flags::CLAIMED) && !job.flags.has(Flags::DUPLICATE), "{state:?}");
        assert_eq!(is_forgotten(&effects), forgotten, "{state:?}");
        let called_off = is_called_off(&effects, Attempt(7), report.generation.next());
        assert_eq!(called_off, state == State::Accepted, "{state:?}");
        // A later report of it replaces the first; a report of another attempt is kept beside it.
        let mut shown = vec![];
        for attempt in [Attempt(7), Attempt(8)] {
            let report = Report { state: State::Failed, attempt, ..report.clone() };
            seat.step(received(OLDER, Message::Report(report)));
            shown.push((attempt, State::Failed, Basis::Claim));
            let job = seat.job(id);
            let kept: Vec<_> = job.others.iter().map(|one| (one.attempt, one.state, one.basis)).collect();
            assert_eq!(kept, shown);
        }
        let again = Report { state: State::Failed, attempt: Attempt(8), ..report };
        assert_eq!(reports(&mut seat, None, again).persist, [], "nor is it written again");
    }
}

#[test]
fn an_attempt_that_a_slave_reports_after_a_restore_is_counted() {
    // What it only claimed of that attempt before does not count.
    for (claimed, said) in [
        (None, State::Running),
        (Some(State::Running), State::Running),
        (Some(State::Failed), State::Succeeded),
    ] {
        let (mut world, job, link) = deferred_at_the_second();
        let known = world.job(job);
        let mut seat = Seat::of(&mut world);
        let of = |state| Report { state, attempt: Attempt(7), ..known.report.clone().unwrap() };
        if let Some(claimed) = claimed {
            settle_with(&mut seat, vec![of(claimed)]);
            assert_eq!(seat.job(job).flags, Flags::CLAIMED);
            seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
        }
        seat.state.node.epoch = Epoch(2);
        settle_with(&mut seat, vec![of(said)]);
        assert_eq!(seat.job(job).flags, Flags::DUPLICATE, "{claimed:?}");
        let declined = Message::Declined(no_to(&known, ReasonCode::GivenBack, false));
        let mut step = seat.full_step(received(link, declined));
        let speaks = step.archived.pop().unwrap_or_else(|| seat.job(job));
        assert_eq!((speaks.state, speaks.attempt, speaks.holder), (said, Attempt(7), Some(seat.key)));
        assert_eq!(master::broken_invariant(&seat.state), None);
    }
}

#[test]
fn a_row_of_an_older_attempt_proves_nothing_about_a_newer_one() {
    for (attempt, canceled) in [(1, true), (2, false)] {
        let (mut seat, report) = runs();
        let job = seat.job_mut(report.job);
        // It was abandoned, retried at the same slave, and canceled; the slave has not heard of that.
        (job.attempt, job.last_attempt) = (Attempt(2), Attempt(2));
        (job.state, job.report, job.desired) =
            (State::Assigned, None, Desired::Cancel(CancelMode::SafePoint));
        let row = Row { attempt: Attempt(attempt), ..report.row() };
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![]));
        let ended: Vec<_> = step.archived.iter().map(|job| job.state).collect();
        assert_eq!(ended == [State::Canceled], canceled, "{ended:?}");
    }
}

#[test]
fn a_resolve_of_an_earlier_question_does_not_answer_a_later_one() {
    let (mut seat, report) = runs();
    let job = seat.job_mut(report.job);
    // It was uncertain and resolved, was found running all the same, and then the slave had nothing of it any more.
    (job.state, job.report, job.desired) = (State::Uncertain, None, Desired::Resolve(End::Succeeded));
    let before = job.clone();
    let step = shakes(&mut seat, (vec![], vec![]), vec![], (vec![], vec![]));
    assert_eq!(step.state.book.jobs.get(&report.job).as_deref(), Some(&before));
}

#[test]
fn a_slave_forgets_an_earlier_attempts_outcome_only_if_the_master_has_that_outcome() {
    for (attempt, own, kept, said, forgotten) in [
        (7, true, State::Failed, State::Failed, true),
        (6, true, State::Failed, State::Failed, false),
        (7, false, State::Failed, State::Failed, false),
        (7, true, State::Canceled, State::Failed, false),
        (7, true, State::Running, State::Running, false),
    ] {
        let (mut seat, report) = claim();
        let holder = if own { seat.key } else { SlaveKey([9; 32]) };
        let job = seat.job_mut(report.job);
        job.others.push(master::OtherAttempt {
            attempt: Attempt(attempt),
            holder,
            state: kept,
            report: None,
            basis: Basis::Assigned,
        });
        let row = Row { attempt: Attempt(7), state: said, ..report.row() };
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![]));
        assert_eq!(is_forgotten(&step.effects), forgotten, "{attempt} {own} {kept:?} {said:?}");
    }
}

#[test]
fn a_repeated_outcome_changes_nothing_and_a_different_one_is_flagged() {
    for (count, said, flagged) in [
        (10, State::Succeeded, false),
        (11, State::Succeeded, false),
        (9, State::Succeeded, false),
        (11, State::Failed, true),
        (9, State::Failed, true),
    ] {
        let (mut seat, report) = runs_live();
        let first = reports(&mut seat, None, numbered(&report, 10, State::Succeeded));
        let [known] = first.archived.as_slice() else { panic!("{:?}", first.archived) };
        assert!(is_forgotten(&first.effects));
        for heard_on in [None, Some(OLDER)] {
            let known = master::Job { heard_on, ..known.clone() };
            let again = reports(&mut seat, Some(&known), numbered(&report, count, said));
            let [job] = again.archived.as_slice() else { panic!("{:?}", again.archived) };
            assert_eq!(job.state, State::Succeeded);
            let kept = job.report.as_ref().unwrap();
            assert_eq!(kept.state, State::Succeeded, "{count} {said:?}");
            assert_eq!(kept.seq.count, if flagged { 10 } else { count.max(10) });
            assert_eq!(job.flags.has(Flags::DUPLICATE), flagged, "{count} {said:?}");
            assert!(is_forgotten(&again.effects), "{count} {said:?}");
        }
    }
}

#[test]
fn a_lower_report_number_is_older_only_on_the_same_connection() {
    let (mut seat, report) = runs_live();
    let state = |seat: &Seat| seat.job(report.job).state;
    drop(reports(&mut seat, None, numbered(&report, 7, State::Paused)));
    assert_eq!(state(&seat), State::Paused, "nothing of it was heard here before");
    let step = reports(&mut seat, None, numbered(&report, 6, State::Running));
    assert_eq!(state(&seat), State::Paused);
    let ignored = step.effects.iter().any(|effect| matches!(effect, master::Effect::Ignored(_)));
    assert!(ignored, "{:?}", step.effects);
    drop(reports(&mut seat, None, numbered(&report, 8, State::Running)));
    assert_eq!(state(&seat), State::Running);
}

#[test]
fn a_slave_may_have_given_a_recalled_job_back_until_it_reports_it_again() {
    for (heard, state, has_begun, open) in [
        (4, State::Accepted, false, true),
        (5, State::Running, true, false),
        (6, State::Running, true, false),
        // It had not heard of that yet: an intent to start may still end with the job given back, what has begun stays.
        (4, State::Starting, false, true),
        (4, State::Starting, true, false),
        (4, State::Running, true, false),
        // It was interrupted, and waits to begin again.
        (4, State::Accepted, true, false),
        (5, State::Starting, false, false),
    ] {
        let (mut seat, report) = runs_live();
        let report = Report { started_at: report.started_at.filter(|_| has_begun), ..report };
        let job = seat.job_mut(report.job);
        (job.state, job.report) = (State::Accepted, Some(numbered(&report, 10, State::Accepted)));
        (job.generation, job.recalled) = (Generation(5), Some(Generation(5)));
        let report = Report { generation: Generation(heard), ..numbered(&report, 11, state) };
        drop(reports(&mut seat, None, report.clone()));
        let job = seat.job(report.job);
        assert_eq!((job.state, job.recalled.is_some()), (state, open), "{heard} {has_begun}");
    }
}

#[test]
fn progress_is_volatile_and_the_state_is_durable() {
    let (mut seat, report) = runs_live();
    drop(reports(&mut seat, None, numbered(&report, 11, State::Running)));
    let further = Report {
        progress: Some(500),
        note: Some("layer 7".to_owned()),
        waiting_for: Some(WaitingFor::Turn),
        ..numbered(&report, 12, State::Running)
    };
    let step = reports(&mut seat, None, further.clone());
    assert_eq!(step.persist, []);
    assert_eq!(step.state.book.jobs.get(&report.job).unwrap().report, Some(further));
    let step = reports(&mut seat, None, numbered(&report, 13, State::Paused));
    assert!(step.persist.iter().any(|write| matches!(write, master::Write::Job(_))));
}

#[test]
fn an_abandoned_job_is_corrected_by_a_repetition_of_its_last_report() {
    let (mut seat, report) = runs_live();
    let mut given_up = seat.job(report.job);
    given_up.state = State::Lost;
    let key = seat.key;
    seat.state.book = master::Book::default();
    let step = reports(&mut seat, Some(&given_up), numbered(&report, 11, State::Running));
    let job = step.state.book.jobs.get(&report.job).unwrap();
    assert_eq!((job.state, job.holder, job.flags.has(Flags::LATE_RESULT)), (State::Running, Some(key), true));
    assert!(step.persist.iter().any(|write| matches!(write, master::Write::Job(_))));
}

#[test]
fn the_flag_cancel_too_late_needs_a_cancel_and_a_success() {
    let canceled = Desired::Cancel(CancelMode::SafePoint);
    for (desired, said, too_late) in [
        (Desired::Run, State::Succeeded, false),
        (Desired::Run, State::Failed, false),
        (canceled, State::Canceled, false),
        (canceled, State::Succeeded, true),
    ] {
        let (mut seat, report) = runs_live();
        seat.job_mut(report.job).desired = desired;
        let step = reports(&mut seat, None, numbered(&report, 11, said));
        let [job] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
        let flagged = job.flags.has(Flags::CANCEL_TOO_LATE);
        assert_eq!((job.state, flagged), (said, too_late), "{desired:?}");
    }
}

#[test]
fn an_earlier_attempt_that_speaks_again_is_the_one_of_that_slave() {
    let (mut world, job) = running();
    let report = world.job(job).report.unwrap();
    world.cut(0);
    give_away(&mut world, job);
    assert_eq!(world.state(job), State::Queued);
    let mut seat = Seat::of(&mut world);
    let key = seat.key;
    let others = [(report.attempt, SlaveKey([9; 32])), (Attempt(9), key)];
    let earlier = &mut seat.job_mut(job).others;
    for (attempt, holder) in others {
        earlier.insert(
            0,
            master::OtherAttempt {
                attempt,
                holder,
                state: State::Failed,
                report: None,
                basis: Basis::Assigned,
            },
        );
    }
    settle_with(&mut seat, vec![report.clone()]);
    let job = seat.job(job);
    assert_eq!((job.state, job.attempt, job.holder), (State::Running, report.attempt, Some(key)));
    assert_eq!((job.report, job.heard_on), (Some(report), Some(OLDER)));
    let beside: Vec<_> = job.others.iter().rev().map(|one| (one.attempt, one.holder)).collect();
    assert_eq!(beside, others);
}

#[test]
fn of_a_slave_with_as_many_jobs_as_it_may_have_only_outcomes_are_adopted() {
    for (held, state, adopted) in
        [(ROWS - 1, State::Running, true), (ROWS, State::Running, false), (ROWS, State::Succeeded, true)]
    {
        let (mut seat, report) = runs();
        let known = seat.job(report.job);
        let copies = (1..held).map(|number| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            master::Job { id: JobId(id), ..known.clone() }
        });
        let copies: Vec<_> = copies.collect();
        seat.load(copies);
        let (row, record) = unheard_of(&report, &seat, state);
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![record]));
        let is_there = step.state.book.jobs.contains_key(&row.job);
        let is_kept = step.archived.iter().any(|job| job.id == row.job);
        assert_eq!(is_there || is_kept, adopted, "{held} {state:?}");
    }
}

#[test]
fn an_adopted_job_joins_its_order_if_the_order_has_room_and_is_the_same() {
    let ids = |count: usize| (0..count).map(|number| JobId((number as u128).to_be_bytes()));
    let grown = |jobs: Option<Vec<JobId>>, other_work: bool| {
        let (mut seat, report) = runs();
        let (row, record) = unheard_of(&report, &seat, State::Running);
        let mut order = World::new(0).order("mill");
        (order.id, order.spec) = (record.spec.order, record.spec.clone());
        if other_work {
            order.spec.program = "bake".to_owned();
        }
        let orders = jobs.map(|jobs| Order { jobs, ..order }).into_iter().collect();
        let step = shakes(&mut seat, (vec![], orders), vec![row], (vec![], vec![record]));
        assert!(step.state.book.jobs.contains_key(&row.job), "the job is adopted in any case");
        let written = step.persist.iter().find_map(|write| match write {
            master::Write::Order(order) => Some(order.jobs.clone()),
            _ => None,
        });
        written.map(|jobs| {
            assert_eq!(jobs.last(), Some(&row.job));
            jobs.len()
        })
    };
    assert_eq!(grown(None, false), Some(1), "nothing is left of it");
    assert_eq!(grown(Some(ids(1).collect()), false), Some(2));
    assert_eq!(grown(Some(ids(1).chain([JobId([0xcc; 16])]).collect()), false), None, "it has it");
    assert_eq!(grown(Some(ids(1).collect()), true), None, "it is for other work");
    assert_eq!(grown(Some(ids(999).collect()), false), Some(1_000));
    assert_eq!(grown(Some(ids(1_000).collect()), false), None, "it is full");
}

#[test]
fn a_person_is_asked_about_an_accepted_job_that_is_gone_unless_it_was_recalled() {
    for (recalled, desired, verdict) in [
        (false, Desired::Run, Verdict::AskPerson),
        (true, Desired::Run, Verdict::Release),
        (true, Desired::Pause, Verdict::Release),
        (true, Desired::Cancel(CancelMode::Now), Verdict::Release),
    ] {
        let (mut seat, report) = runs();
        let job = seat.job_mut(report.job);
        (job.state, job.report) = (State::Accepted, Some(numbered(&report, 10, State::Accepted)));
        // The recall is newer than what the slave knows.
        (job.desired, job.generation) = (desired, job.generation.next());
        job.recalled = recalled.then_some(job.generation);
        let first = seat.hello();
        let effects = seat.say_hello(OLDER, first);
        let ruling = &welcomed(&effects, OLDER).unwrap().rulings[0];
        assert_eq!(ruling.verdict, verdict, "{recalled} {desired:?}");
    }
}

#[test]
fn a_cancel_that_the_machine_refused_is_over_and_the_next_one_is_sent() {
    for (again, taken) in [(false, true), (true, false)] {
        let mut world = endless();
        world.boxes[0].machine.unstoppable = true;
        let job = placed(&mut world, |_| {});
        let cancel = JobCommand::Cancel(CancelMode::Now);
        command(&mut world, job, cancel);
        let report = world.job(job).report.unwrap();
        let reason = report.reason.map(|reason| reason.code);
        assert_eq!((report.state, reason), (State::Running, Some(ReasonCode::StopRefused)));
        world.cut(0);
        if again {
            world.command(job, cancel);
        }
        let answer = world.command(job, JobCommand::Pause);
        assert_eq!(matches!(answer, Some(Answer::Taken(_))), taken, "{answer:?}");
    }
}

#[test]
fn rows_are_compared_by_number_and_after_a_restart_of_the_agent_only_a_report_counts() {
    for (start, count, expected) in [(0, 12, 12), (0, 8, 10), (1, 12, 10)] {
        let (mut seat, report) = runs();
        let seq = ReportSeq { start: report.seq.start + start, count };
        drop(shakes(&mut seat, (vec![], vec![]), vec![Row { seq, ..report.row() }], (vec![], vec![])));
        let known = seat.job(report.job).report.clone().unwrap().seq;
        assert_eq!(known, ReportSeq { count: expected, ..report.seq }, "{seq:?}");
    }
}

#[test]
fn the_recent_outcomes_of_an_old_store_are_as_old_as_the_store() {
    for (old, expected) in [(false, State::Running), (true, State::Uncertain)] {
        let (mut seat, report) = runs();
        let first = seat.hello();
        let session = if old { seat.state.slaves[&seat.key].session } else { first.session };
        let first = Hello { session, recent_outcomes: vec![report.row()], ..first };
        seat.say_hello(OLDER, first);
        seat.settle(OLDER, session);
        assert_eq!(seat.job(report.job).state, expected, "{old}");
    }
}

#[test]
fn two_live_attempts_are_explained_with_the_commands_that_help() {
    for state in [State::Running, State::Paused] {
        let (mut seat, report) = runs_live();
        let why = match state {
            State::Paused => JobReason::OtherPaused(report.attempt),
            _ => JobReason::OtherRuns(report.attempt),
        };
        let job = seat.job_mut(report.job);
        let next = report.attempt.next();
        (job.attempt, job.last_attempt, job.holder) = (next, next, Some(SlaveKey([0xaa; 32])));
        drop(reports(&mut seat, None, numbered(&report, 11, state)));
        assert_eq!(seat.job(report.job).reason, Some(why.into()));
    }
}

#[test]
fn a_resolve_counts_when_the_slave_comes_back_without_the_question() {
    let (mut seat, report) = runs_live();
    drop(reports(&mut seat, None, numbered(&report, 11, State::Uncertain)));
    seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
    drop(seat.commands(report.job, JobCommand::Resolve(End::Failed)));
    let first = seat.hello();
    seat.say_hello(NEWER, first.clone());
    assert_eq!(seat.job(report.job).state, State::Uncertain);
    seat.settle(NEWER, first.session);
    assert_eq!(seat.state.book.jobs.get(&report.job), None, "it has ended");
}

#[test]
fn a_forgotten_assignment_is_shown_beside_another_slaves_attempt_and_changes_nothing() {
    for said in [State::Accepted, State::Running, State::Succeeded] {
        let (mut world, job, link) = deferred_at_the_second();
        let known = world.job(job);
        let mut seat = Seat::of(&mut world);
        seat.state.node.epoch = Epoch(2);
        let report = Report { attempt: Attempt(2), state: said, ..known.report.clone().unwrap() };
        let effects = settle_with(&mut seat, vec![report]);
        let kept = seat.job(job);
        assert_eq!(
            (kept.state, kept.holder, kept.generation),
            (known.state, known.holder, known.generation),
            "{said:?}"
        );
        let shown: Vec<_> = kept.others.iter().map(|one| (one.state, one.basis)).collect();
        assert_eq!(shown, [(said, Basis::Gap)]);
        assert_eq!(kept.flags.has(Flags::DUPLICATE), said != State::Accepted, "{said:?}");
        let told =
            |effect: &master::Effect| matches!(effect, master::Effect::Send { link: to, .. } if *to == link);
        assert!(!effects.iter().any(told), "the second slave is told nothing");
    }
}

#[test]
fn an_attempt_that_is_abandoned_during_a_handshake_is_called_off_after_it() {
    for retried in [false, true] {
        let (mut world, job) = unstarted();
        let known = world.job(job);
        let row = known.report.as_ref().unwrap().row();
        let mut seat = Seat::of(&mut world);
        let first = Hello { rows: vec![row], ..seat.hello() };
        let effects = seat.say_hello(OLDER, first.clone());
        let ruling = &welcomed(&effects, OLDER).unwrap().rulings[0];
        assert_eq!((ruling.verdict, ruling.tell), (Verdict::Keep, Tell::Nothing));
        let commands = [Some(JobCommand::Abandon), retried.then_some(JobCommand::Retry)];
        for command in commands.into_iter().flatten() {
            let step = seat.commands(job, command);
            // Ended jobs are on the disk, and are loaded when a message mentions them.
            seat.load(step.archived);
        }
        let effects = seat.settle(OLDER, first.session);
        let called_off = is_called_off(&effects, row.attempt, row.generation.next());
        assert!(called_off, "{retried} {effects:?}");
    }
}

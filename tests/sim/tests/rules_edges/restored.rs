//! A restored master: what it has forgotten, and people's commands after a restore.

use reloop_protocol::id::{Attempt, Epoch, Generation, JobId, SlaveKey};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, Answer, Basis, Enrolled, Job, JobCommand, JobReason, Offline, OtherAttempt, Refusal, RequestId,
    Retry, RetryOn,
};
use reloop_protocol::message::{CloseCode, Declined, Flags, Hello, Message, Reason, ReasonCode, Report};
use reloop_protocol::slave::LinkId;
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate, Late};
use reloop_protocol::time::Millis;
use reloop_sim::world::World;
use std::collections::BTreeSet;

use crate::stage::*;

/// The first generation of the second epoch.
const SECOND_EPOCH: Generation = Generation(65_537);

fn wants(effects: &[master::Effect], link: LinkId) -> Vec<&DesiredState> {
    let desired_state = |effect| match effect {
        &master::Effect::Send { link: to, message: Message::DesiredState(ref desired_state), .. }
            if to == link =>
        {
            Some(desired_state)
        }
        _ => None,
    };
    effects.iter().filter_map(desired_state).collect()
}

#[test]
fn a_command_at_a_restored_master_is_newer_than_all_that_it_has_forgotten() {
    let reschedule = JobCommand::Reschedule { not_before: None, deadline: None, late: Late::Hold };
    let said = [
        JobCommand::Pause,
        JobCommand::Cancel(CancelMode::SafePoint),
        JobCommand::Release { valid: Millis(1000) },
        reschedule,
    ];
    for (epoch, command) in said.into_iter().flat_map(|command| [(1, command), (2, command)]) {
        let (mut world, job) = unstarted();
        let mut seat = Seat::of(&mut world);
        let known = seat.job(job);
        seat.state.node.epoch = Epoch(epoch);
        drop(seat.commands(job, command));
        let uttered = if epoch == 1 { known.generation.next() } else { SECOND_EPOCH };
        assert_eq!(seat.job(job).generation, uttered, "{command:?}");
        // The slave knows four generations that the master does not.
        let forgotten = Report { generation: Generation(known.generation.0 + 4), ..known.report.unwrap() };
        let first = Hello { rows: vec![forgotten.row()], ..seat.hello() };
        let effects = seat.say_hello(OLDER, first);
        let tells = welcomed(&effects, OLDER).unwrap().rulings[0].desired_state.as_ref();
        assert_eq!(
            tells.map(|desired_state| desired_state.generation),
            (epoch == 2).then_some(uttered),
            "{command:?}"
        );
    }
}

#[test]
fn what_a_person_said_under_a_forgotten_number_is_told_again() {
    for (behind, is_told) in [(0, true), (1, false)] {
        let (mut seat, report) = runs_live();
        let asks = numbered(&report, 20, State::Uncertain);
        drop(reports(&mut seat, None, asks.clone()));
        drop(seat.commands(report.job, JobCommand::Resolve(End::Succeeded)));
        let said = seat.job(report.job).generation;
        // Of that number the slave has another desired state, of a time that the master has forgotten; or it has none.
        let knows = Generation(said.0 - behind);
        let step = reports(&mut seat, None, Report { generation: knows, ..numbered(&asks, 21, asks.state) });
        let told: Vec<_> = wants(&step.effects, OLDER);
        let told: Vec<_> = told.iter().map(|wanted| (wanted.desired, wanted.generation)).collect();
        let again = (Desired::Resolve(End::Succeeded), said.next());
        assert_eq!(told.contains(&again), is_told, "{behind}: {told:?}");
        assert_eq!(seat.job(report.job).generation > said, is_told, "{behind}");
    }
}

#[test]
fn what_a_person_said_of_a_job_reaches_the_slave_that_asks_of_an_attempt_that_was_forgotten() {
    let (mut seat, report) = runs_live();
    let asks = |attempt, count| Report { attempt, ..numbered(&report, count, State::Uncertain) };
    drop(reports(&mut seat, None, asks(Attempt(1), 20)));
    drop(seat.commands(report.job, JobCommand::Resolve(End::Succeeded)));
    seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced: true });
    seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
    let later = Report { generation: Generation(9), ..asks(Attempt(2), 30) };
    let told = (vec![later.clone()], vec![]);
    let mut effects = shakes(&mut seat, (vec![], vec![]), vec![later.row()], told).effects;
    effects.extend(
        reports(&mut seat, None, Report { generation: Generation(9), ..asks(Attempt(2), 31) }).effects,
    );
    let [told] = wants(&effects, OLDER)[..] else { panic!("{effects:?}") };
    assert_eq!((told.attempt, told.desired), (Attempt(2), Desired::Resolve(End::Succeeded)));
    assert!(told.generation > Generation(9));
}

#[test]
fn a_slave_tells_of_a_later_attempt_of_its_own_job_to_a_master_that_went_back_unnoticed() {
    // If the number has been given out since, the slave has made it up.
    for (is_doubted, last, is_heard) in [(false, 1, true), (true, 1, false), (false, 2, false)] {
        let (mut seat, report) = runs_live();
        seat.job_mut(report.job).last_attempt = Attempt(last);
        if is_doubted {
            seat.state.doubted_by.insert(SlaveKey([9; 32]));
        }
        let later = Report { attempt: Attempt(2), ..numbered(&report, 20, State::Running) };
        drop(reports(&mut seat, None, later));
        let job = seat.job(report.job);
        let spoken = (job.attempt, job.last_attempt, job.flags.has(Flags::CLAIMED));
        let expected =
            if is_heard { (Attempt(2), Attempt(2), false) } else { (Attempt(1), Attempt(last), true) };
        assert_eq!(spoken, expected, "doubted {is_doubted}");
    }
}

#[test]
fn only_the_first_handshake_after_a_restore_closes_a_gap() {
    // A master's first epoch has forgotten nothing: a slave that settles for the first time in it is new.
    for (epoch, settled_in, is_gap) in [(1, 0, false), (2, 1, true), (2, 2, false)] {
        let tells = |retries: bool| {
            let (mut seat, report) = runs();
            seat.state.node.epoch = Epoch(epoch);
            seat.state.slaves.get_mut(&seat.key).unwrap().settled_in = Epoch(settled_in);
            let job = seat.job_mut(report.job);
            job.retry = Retry { max_attempts: 3, on: [RetryOn::Failed].into() };
            let attempt = if retries { job.attempt } else { job.attempt.next() };
            let told = Report { attempt, ..numbered(&report, 20, State::Failed) };
            let past =
                Job { holder: job.holder.filter(|_| retries).or(Some(SlaveKey([9; 32]))), ..job.clone() };
            seat.state.book = master::Book::default();
            drop(shakes(&mut seat, (vec![past], vec![]), vec![told.row()], (vec![told], vec![])));
            seat.job(report.job)
        };
        let basis = if is_gap { Basis::Gap } else { Basis::Claim };
        assert_eq!(tells(false).others[0].basis, basis, "{epoch} {settled_in}");
        // What fails there may have been tried again in the time that is forgotten.
        let again = tells(true);
        assert_eq!(again.flags.has(Flags::RESTORED), is_gap, "{epoch} {settled_in}: {:?}", again.state);
    }
}

#[test]
fn each_epoch_has_its_own_range_of_generations() {
    assert_eq!(Generation(3).uttered(Epoch(0)), Generation(4));
    assert_eq!(Generation(3).uttered(Epoch(1)), Generation(4));
    assert_eq!(Generation(3).uttered(Epoch(2)), SECOND_EPOCH);
    assert_eq!(SECOND_EPOCH.uttered(Epoch(2)), Generation(65_538));
    assert_eq!(Generation(3).uttered(Epoch(3)), Generation(131_073));
    assert_eq!(Generation(3).uttered(Epoch(16_385)), Generation((1 << 30) + 1));
    assert_eq!(Generation(3).uttered(Epoch(u32::MAX)), Generation((1 << 30) + 1), "the wire takes 2³¹ − 1");
}

/// A restored master that knows a job as canceled before it was assigned; the job, and the report of a slave that had
/// it all the time.
fn canceled_in_the_queue() -> (Seat, Job, Report) {
    let (_, report) = runs();
    let mut world = World::new(1);
    world.cut(0);
    let job = placed(&mut world, |_| {});
    let mut seat = Seat::of(&mut world);
    seat.state.node.epoch = Epoch(2);
    let step = seat.commands(job, JobCommand::Cancel(CancelMode::Now));
    let [canceled] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
    assert_eq!((canceled.state, canceled.generation), (State::Canceled, SECOND_EPOCH));
    (seat, canceled.clone(), Report { job, ..report })
}

#[test]
fn of_a_cancel_and_a_forgotten_assignment_the_newer_counts() {
    for (generation, reaches) in [(2, true), (65_536, true), (65_537, false), (65_538, false)] {
        let (mut seat, canceled, report) = canceled_in_the_queue();
        let report = Report { generation: Generation(generation), ..report };
        let told = (vec![report.clone()], vec![]);
        let step = shakes(&mut seat, (vec![canceled], vec![]), vec![report.row()], told);
        let job = seat.job(report.job);
        assert_eq!((job.state, job.holder), (State::Running, Some(seat.key)), "{generation}");
        let cancel = Desired::Cancel(CancelMode::Now);
        assert_eq!(job.desired, if reaches { cancel } else { Desired::Run }, "{generation}");
        assert_eq!(job.flags.has(Flags::CANCEL_TOO_LATE), !reaches, "{generation}");
        let wanted: Vec<_> =
            wants(&step.effects, OLDER).iter().map(|desired_state| desired_state.desired).collect();
        assert_eq!(wanted.contains(&cancel), reaches, "{generation}");
        assert_eq!(master::broken_invariant(&seat.state), None);
    }
}

#[test]
fn a_canceled_job_does_not_start_from_a_forgotten_assignment() {
    for generation in [2, 70_000] {
        let (mut seat, canceled, report) = canceled_in_the_queue();
        let report = Report { generation: Generation(generation), state: State::Accepted, ..report };
        let told = (vec![report.clone()], vec![]);
        let step = shakes(&mut seat, (vec![canceled], vec![]), vec![report.row()], told);
        assert_eq!(seat.state.book.jobs.get(&report.job), None, "it stays on the disk, ended");
        let [desired_state] = wants(&step.effects, OLDER)[..] else { panic!("{:?}", step.effects) };
        assert_eq!(desired_state.desired, Desired::Cancel(CancelMode::IfNotStarted));
        assert_eq!(desired_state.generation, report.generation.next());
    }
}

#[test]
fn a_forgotten_retry_goes_on_where_it_waits() {
    for (state, slaves_word, goes_on) in [
        (State::Failed, false, true),
        (State::Rejected, false, true),
        (State::Canceled, false, false),
        (State::Canceled, true, true),
        (State::Expired, false, false),
        (State::Expired, true, true),
        (State::Lost, false, false),
        (State::Succeeded, true, false),
    ] {
        let (mut seat, report) = runs();
        let (id, mut past) = (report.job, seat.job(report.job));
        past.state = state;
        past.desired = Desired::Cancel(CancelMode::Now);
        if slaves_word {
            past.report.as_mut().unwrap().state = state;
        }
        seat.state.book = master::Book::default();
        seat.state.node.epoch = Epoch(2);
        let report = Report { attempt: Attempt(2), state: State::Accepted, ..report };
        let told = (vec![report.clone()], vec![]);
        let step = shakes(&mut seat, (vec![past], vec![]), vec![report.row()], told);
        let called_off = wants(&step.effects, OLDER)
            .iter()
            .any(|desired_state| desired_state.generation > report.generation);
        assert_eq!(called_off, !goes_on, "{state:?} {slaves_word}");
        let job = seat.state.book.jobs.get(&id).map(|job| (job.state, job.attempt, job.desired));
        let taken_up = (State::Accepted, Attempt(2), Desired::Run);
        assert_eq!(job, goes_on.then_some(taken_up), "{state:?} {slaves_word}");
        // The cancel of the earlier attempt was carried out; a cancel that only the master knows of may have come too
        // late.
        let too_late = job.is_some_and(|_| seat.job(id).flags.has(Flags::CANCEL_TOO_LATE));
        assert_eq!(too_late, goes_on && !slaves_word, "{state:?} {slaves_word}");
    }
}

/// A restored master whose job waits at the second slave, which is connected; the first slave, on `OLDER`, reports this
/// state of an earlier attempt.
fn two_of_one(said: Option<State>) -> (Seat, Job, LinkId) {
    let (mut world, job, link) = deferred_at_the_second();
    let known = world.job(job);
    let mut seat = Seat::of(&mut world);
    seat.state.node.epoch = Epoch(2);
    let told = said.map(|state| Report { state, ..known.report.clone().unwrap() });
    let rows = told.iter().map(Report::row).collect();
    drop(shakes(&mut seat, (vec![], vec![]), rows, (told.into_iter().collect(), vec![])));
    (seat, known, link)
}

fn gives_back(seat: &mut Seat, link: LinkId, id: JobId) -> master::Step {
    let declined = no_to(&seat.job(id), ReasonCode::GivenBack, false);
    seat.full_step(received(link, Message::Declined(declined)))
}

#[test]
fn the_slave_of_an_earlier_attempt_that_speaks_again_is_asked_whether_it_still_has_it() {
    for (answers, asks_a_person, gate) in
        [(0, false, Gate::Held), (1, true, Gate::Held), (2, true, Gate::Held), (1, true, Gate::Open)]
    {
        let (mut seat, known, link) = two_of_one(Some(State::Running));
        seat.job_mut(known.id).start.gate = gate;
        let step = gives_back(&mut seat, link, known.id);
        let job = seat.job(known.id);
        assert_eq!((job.state, job.holder), (State::Running, Some(seat.key)));
        let [desired_state] = wants(&step.effects, OLDER)[..] else { panic!("{:?}", step.effects) };
        assert!(
            desired_state.generation > known.generation && desired_state.generation == job.generation,
            "{desired_state:?}"
        );
        assert_eq!(
            (desired_state.attempt, desired_state.desired, &desired_state.spec),
            (job.attempt, Desired::Run, &None)
        );
        // It has come back with a new disk meanwhile. Only an answer to this desired state, or to a later one, says so.
        let generation = Generation(desired_state.generation.0 + answers - 1);
        let declined = Declined { generation, ..no_to(&job, ReasonCode::NotHeld, false) };
        seat.step(received(OLDER, Message::Declined(declined)));
        let job = seat.job(known.id);
        let expected = if asks_a_person { State::Uncertain } else { State::Running };
        assert_eq!(job.state, expected, "{answers}");
        let asked = job.reason.is_some_and(|reason| reason.code == ReasonCode::Vanished);
        assert_eq!(asked, asks_a_person);
    }
}

#[test]
fn an_attempt_without_a_report_is_sent_no_desired_state_that_could_begin_it() {
    let (mut seat, known, link) = two_of_one(Some(State::Uncertain));
    seat.job_mut(known.id).others[0].report = None;
    let step = gives_back(&mut seat, link, known.id);
    assert_eq!(seat.job(known.id).state, State::Uncertain);
    assert_eq!(wants(&step.effects, OLDER), Vec::<&DesiredState>::new());
}

#[test]
fn a_cancel_applies_to_every_attempt_of_the_job() {
    let cancel = Desired::Cancel(CancelMode::SafePoint);
    // The other attempt is known before it is given back, or only later.
    for known_before in [true, false] {
        let (mut seat, known, link) = two_of_one(known_before.then_some(State::Running));
        drop(seat.commands(known.id, JobCommand::Cancel(CancelMode::SafePoint)));
        let mut step = gives_back(&mut seat, link, known.id);
        if !known_before {
            let [canceled] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
            assert_eq!(canceled.state, State::Canceled);
            let report = Report { state: State::Running, ..known.report.clone().unwrap() };
            let mut canceled = canceled.clone();
            canceled.assigned.push_back((report.attempt, seat.key));
            step = reports(&mut seat, Some(&canceled), report);
        }
        let job = seat.job(known.id);
        assert_eq!((job.state, job.holder, job.desired), (State::Running, Some(seat.key), cancel));
        let [desired_state] = wants(&step.effects, OLDER)[..] else { panic!("{:?}", step.effects) };
        assert_eq!((desired_state.desired, desired_state.generation), (cancel, job.generation));
        assert!(desired_state.generation > known.generation);
        assert_eq!(master::broken_invariant(&seat.state), None);
    }
}

#[test]
fn an_attempt_that_nobody_can_stop_is_kept_beside_a_job_that_was_canceled() {
    for state in [State::Accepted, State::Uncertain] {
        let (mut seat, known, link) = two_of_one(None);
        drop(seat.commands(known.id, JobCommand::Cancel(CancelMode::SafePoint)));
        let canceled = gives_back(&mut seat, link, known.id).archived.remove(0);
        let report = Report { state, ..known.report.clone().unwrap() };
        drop(reports(&mut seat, Some(&canceled), report));
        assert_eq!(seat.state.book.jobs.get(&known.id), None, "{state:?}: it has ended");
    }
}

#[test]
fn a_success_beside_a_cancel_says_that_the_cancel_came_too_late() {
    for canceled in [true, false] {
        let (mut seat, known, link) = two_of_one(Some(State::Running));
        let success = Report { state: State::Succeeded, ..known.report.clone().unwrap() };
        drop(reports(&mut seat, None, success));
        // What still runs counts for less than that.
        let runs = Report { attempt: Attempt(2), state: State::Running, ..known.report.clone().unwrap() };
        let (attempt, holder, state) = (runs.attempt, SlaveKey([9; 32]), runs.state);
        let other = OtherAttempt { attempt, holder, state, report: Some(runs), basis: Basis::Assigned };
        seat.job_mut(known.id).others.push(other);
        if canceled {
            drop(seat.commands(known.id, JobCommand::Cancel(CancelMode::SafePoint)));
        }
        let step = gives_back(&mut seat, link, known.id);
        let [job] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
        assert_eq!((job.state, job.holder), (State::Succeeded, Some(seat.key)));
        assert_eq!(job.flags.has(Flags::CANCEL_TOO_LATE), canceled);
        assert!(job.flags.has(Flags::LATE_RESULT));
    }
}

#[test]
fn the_next_epoch_is_higher_than_every_one_that_a_slave_has_obeyed() {
    let revoke = |seat: &mut Seat| seat.state.slaves.get_mut(&seat.key).unwrap().enrolled = Enrolled::Revoked;
    for (obeyed, revoked, next) in
        [(1, false, 2), (2, false, 3), (7, false, 8), (7, true, 2), (1001, false, 1002), (1002, false, 2)]
    {
        let mut seat = Seat::of(&mut World::new(1));
        if revoked {
            revoke(&mut seat);
        }
        let first = Hello { binding: Some(seat.binding(Epoch(obeyed), 0)), ..seat.hello() };
        let effects = seat.say_hello(OLDER, first);
        let stale = closed(&effects, OLDER) == Some(CloseCode::StaleMaster);
        assert_eq!(stale, obeyed > 1, "{obeyed}");
        seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced: true });
        assert_eq!(seat.state.node.epoch, Epoch(next), "{obeyed} {revoked}");
    }
}

#[test]
fn a_restore_is_confirmed_only_if_a_slave_doubts_or_a_person_insists() {
    for (obeyed, ahead, forced, confirmed) in
        [(1, 0, false, false), (1, 0, true, true), (1, 1000, false, true), (2, 0, false, true)]
    {
        let mut seat = Seat::of(&mut World::new(1));
        let node = seat.state.node;
        let hello = Hello { binding: Some(seat.binding(Epoch(obeyed), ahead)), ..seat.hello() };
        seat.say_hello(OLDER, hello);
        let before = seat.state.clone();
        seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced });
        assert_eq!(seat.state.node.epoch > node.epoch, confirmed, "{obeyed} {ahead} {forced}");
        assert!(confirmed || seat.state == before, "{obeyed} {ahead} {forced}");
        assert_eq!(seat.state.doubters(), 0);
        let epoch = seat.state.node.epoch;
        seat.step(master::Event::RestoreConfirmed { request: RequestId(2), forced: false });
        assert_eq!(seat.state.node.epoch, epoch, "once is enough");
    }
}

#[test]
fn nothing_is_assigned_over_a_link_that_a_restore_closes() {
    for restored in [false, true] {
        let (mut seat, _) = runs_live();
        if restored {
            seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced: true });
            assert!(seat.state.slaves[&seat.key].live().is_none());
        }
        let order = Box::new(World::new(1).order("mill"));
        let job = order.jobs[0];
        let event = master::Event::OrderPlaced { request: RequestId(2), order, key: None };
        let effects = seat.step(event);
        let expected = if restored { State::Queued } else { State::Assigned };
        assert_eq!(seat.job(job).state, expected);
        let is_told = effects.iter().any(|effect| matches!(effect, master::Effect::Send { .. }));
        assert_eq!(is_told, !restored);
    }
}

#[test]
fn a_success_that_a_restored_master_knows_is_not_undone_by_a_later_attempt_of_the_same_slave() {
    for said in [State::Running, State::Failed] {
        let (mut seat, report) = runs_live();
        let done = reports(&mut seat, None, numbered(&report, 20, State::Succeeded)).archived;
        assert_eq!(done.iter().map(|job| job.state).collect::<Vec<_>>(), [State::Succeeded]);
        seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced: true });
        seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
        let later = Report { attempt: Attempt(2), ..numbered(&report, 30, said) };
        let told = shakes(&mut seat, (done, vec![]), vec![later.row()], (vec![later], vec![]));
        let [job] = &told.archived[..] else { panic!("{said:?}: {:?}", told.archived) };
        assert_eq!((job.state, job.attempt, job.last_attempt), (State::Succeeded, Attempt(1), Attempt(2)));
        assert!(job.others.iter().any(|one| (one.attempt, one.state) == (Attempt(2), said)), "it is kept");
    }
}

#[test]
fn a_failure_in_the_gap_is_not_held_if_another_attempt_is_under_way() {
    let (mut seat, report) = runs_live();
    seat.step(master::Event::RestoreConfirmed { request: RequestId(1), forced: true });
    seat.step(master::Event::LinkClosed { link: OLDER, last_heard: seat.now });
    let (attempt, holder) = (Attempt(2), SlaveKey([0xbb; 32]));
    let under_way = Report { attempt, ..report.clone() };
    let job = seat.job_mut(report.job);
    job.retry = Retry { max_attempts: 3, on: [RetryOn::Failed].into() };
    job.last_attempt = attempt;
    job.assigned.push_back((attempt, holder));
    let (state, basis) = (State::Running, Basis::Assigned);
    job.others = vec![OtherAttempt { attempt, holder, state, report: Some(under_way), basis }];
    let failed = numbered(&report, 30, State::Failed);
    drop(shakes(&mut seat, (vec![], vec![]), vec![failed.row()], (vec![failed], vec![])));
    let job = seat.job(report.job);
    assert_eq!((job.state, job.attempt), (State::Running, attempt));
    assert_eq!((job.start.gate, job.flags.has(Flags::RESTORED)), (Gate::Open, false));
}

#[test]
fn the_doubt_of_a_slave_ends_when_it_is_revoked() {
    let mut seat = Seat::of(&mut World::new(1));
    let node = seat.state.node;
    let hello = Hello { binding: Some(seat.binding(node.epoch, 1000)), ..seat.hello() };
    seat.say_hello(OLDER, hello);
    assert_eq!(seat.state.doubters(), 1);
    let (request, slave) = (RequestId(1), seat.key);
    seat.step(master::Event::SlaveCommanded { request, slave, command: master::SlaveCommand::Forget });
    assert_eq!(seat.state.doubters(), 0);
    seat.step(master::Event::RestoreConfirmed { request: RequestId(2), forced: false });
    assert_eq!(seat.state.node.epoch, node.epoch, "there is nothing to confirm");
}

#[test]
fn a_question_about_an_attempt_that_no_slave_has_is_closed() {
    for (said, attempt, closed) in [
        (State::Uncertain, 1, true),
        (State::Accepted, 1, true),
        (State::Uncertain, 2, false),
        (State::Failed, 1, false),
    ] {
        let (mut seat, known, _) = two_of_one(Some(said));
        let before = seat.job(known.id);
        assert_eq!(before.others.len(), 1);
        let attempt = Attempt(attempt);
        let never = no_to(&known, ReasonCode::NotHeld, true);
        let declined = Declined { attempt, generation: Generation(9), ..never };
        for times in 0..2 {
            let event = received(OLDER, Message::Declined(declined.clone()));
            let effects = seat.step(event);
            let job = seat.job(known.id);
            assert_eq!((job.state, job.holder, job.attempt), (before.state, before.holder, before.attempt));
            if closed {
                assert_eq!((job.others[0].state, &job.others[0].report), (State::Lost, &None), "{said:?}");
            } else {
                assert_eq!(job, before, "{said:?} {attempt} {times}");
                assert!(effects.iter().any(|effect| matches!(effect, master::Effect::Ignored(_))));
            }
        }
    }
}

#[test]
fn a_pending_cancel_only_gets_harder() {
    use CancelMode::{IfNotStarted, Now, SafePoint};
    for (first, second, stands) in [
        (Now, IfNotStarted, Now),
        (Now, SafePoint, Now),
        (SafePoint, IfNotStarted, SafePoint),
        (SafePoint, Now, Now),
        (IfNotStarted, Now, Now),
    ] {
        let (mut world, job) = unstarted();
        let mut seat = Seat::of(&mut world);
        drop(seat.commands(job, JobCommand::Cancel(first)));
        drop(seat.commands(job, JobCommand::Cancel(second)));
        assert_eq!(seat.job(job).desired, Desired::Cancel(stands), "{first:?} {second:?}");
    }
}

#[test]
fn after_a_refused_stop_a_softer_cancel_is_allowed() {
    let (mut seat, report) = runs_live();
    drop(seat.commands(report.job, JobCommand::Cancel(CancelMode::Now)));
    let told = seat.job(report.job).generation;
    let refuses = Reason::new(ReasonCode::StopRefused, "not now");
    let running = numbered(&report, 11, State::Running);
    drop(reports(&mut seat, None, Report { generation: told, reason: Some(refuses), ..running }));
    drop(seat.commands(report.job, JobCommand::Cancel(CancelMode::SafePoint)));
    assert_eq!(seat.job(report.job).desired, Desired::Cancel(CancelMode::SafePoint));
}

#[test]
fn jobs_of_a_slave_that_waits_behind_an_older_link_are_loaded_when_that_link_ends() {
    let (mut seat, report) = runs_live();
    let mut copy = Hello { rows: vec![report.row()], recent_outcomes: vec![report.row()], ..seat.hello() };
    copy.boot.0[0] ^= 1;
    (copy.rows[0].job, copy.recent_outcomes[0].job) = (JobId([7; 16]), JobId([8; 16]));
    seat.say_hello(NEWER, copy);
    let now = seat.now;
    let closed = |link| master::Event::LinkClosed { link, last_heard: now };
    let probed = |link| master::Event::LinkProbed { link, alive: false };
    let spoken_of = BTreeSet::from([JobId([7; 16]), JobId([8; 16])]);
    for event in [closed(OLDER), probed(OLDER)] {
        assert_eq!(master::unknown(&seat.state, &event).jobs, spoken_of, "{event:?}");
    }
    let other = LinkId(9);
    for event in [closed(other), probed(other)] {
        assert!(master::unknown(&seat.state, &event).is_empty(), "{event:?}");
    }
    seat.step(closed(NEWER));
    assert!(master::unknown(&seat.state, &closed(OLDER)).is_empty(), "nobody waits");
}

#[test]
fn an_attempt_that_goes_on_although_the_job_has_ended_is_shown() {
    for (ended, said, shown) in [
        (State::Succeeded, State::Running, true),
        (State::Succeeded, State::Paused, true),
        (State::Failed, State::Stopping, true),
        (State::Lost, State::Starting, true),
        (State::Succeeded, State::Uncertain, false),
        (State::Succeeded, State::Failed, false),
        (State::Succeeded, State::Accepted, false),
    ] {
        let (mut seat, known, _) = two_of_one(None);
        seat.state.book = master::Book::default();
        let report = Report { state: said, ..known.report.clone().unwrap() };
        let mut past = Job { state: ended, ..known };
        past.assigned.push_back((report.attempt, seat.key));
        let step = reports(&mut seat, Some(&past), report);
        let [job] = step.archived.as_slice() else { panic!("{said:?} {:?}", step.archived) };
        assert_eq!((job.state, job.others.len()), (ended, 1), "{said:?}");
        assert_eq!(job.flags.has(Flags::DUPLICATE), shown, "{ended:?} {said:?}");
        let why = Reason::from(JobReason::OtherGoesOn(job.others[0].attempt));
        assert_eq!(job.reason == Some(why), shown, "{:?}", job.reason);
    }
}

#[test]
fn of_two_attempts_whose_slaves_ask_how_they_ended_the_one_that_can_be_told_is_told() {
    let (mut seat, report) = runs_live();
    let (key, away) = (seat.key, SlaveKey([0xbb; 32]));
    let asks = |attempt, holder| {
        let (state, report) =
            (State::Uncertain, Report { attempt, state: State::Uncertain, ..report.clone() });
        OtherAttempt { attempt, holder, state, report: Some(report), basis: Basis::Assigned }
    };
    let job = seat.job_mut(report.job);
    (job.attempt, job.last_attempt, job.holder) = (Attempt(3), Attempt(3), Some(SlaveKey([0xaa; 32])));
    job.others = vec![asks(Attempt(1), away), asks(Attempt(2), key)];
    let step = seat.commands(report.job, JobCommand::Resolve(End::Succeeded));
    let [told] = wants(&step.effects, OLDER)[..] else { panic!("{:?}", step.effects) };
    assert_eq!((told.attempt, told.desired), (Attempt(2), Desired::Resolve(End::Succeeded)));
    let offline = Answer::Refused(Refusal::SlaveOffline(Offline::Holder(Attempt(1))));
    let is_refused = |effect: &master::Effect| matches!(effect, master::Effect::Answer { answer, .. } if *answer == offline);
    let step = seat.commands(report.job, JobCommand::Resolve(End::Succeeded));
    assert!(step.effects.iter().any(is_refused), "{:?}", step.effects);
    // An attempt that a slave only claims is no answer to the question about one that was assigned.
    let claims = OtherAttempt { basis: Basis::Claim, ..asks(Attempt(2), key) };
    seat.job_mut(report.job).others = vec![claims, asks(Attempt(1), away)];
    let step = seat.commands(report.job, JobCommand::Resolve(End::Succeeded));
    assert!(step.effects.iter().any(is_refused), "{:?}", step.effects);
}

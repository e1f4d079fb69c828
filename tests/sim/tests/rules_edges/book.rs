//! The master's records of jobs and orders: what is kept, declined, explained and commanded.

use reloop_protocol::id::{Attempt, Generation, JobId, OrderId, SlaveKey};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, Answer, IdempotencyKey, JobCommand, Order, RECEIPTS, RECENT_KEYS, Receipt, RequestId, Retry,
    RetryOn,
};
use reloop_protocol::message::{Declined, Flags, MachineReport, Message, Mode, OperatingMode, ReasonCode};
use reloop_protocol::slave::Fact;
use reloop_protocol::spec::{CancelMode, Desired, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

#[test]
fn the_record_of_a_job_with_many_attempts_stays_small_and_keeps_its_first_events() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let job = placed(&mut world, |_| {});
    let mut lengths = vec![];
    for _ in 0..40 {
        world.pass(12_000);
        assert_eq!(world.state(job), State::Failed);
        command(&mut world, job, JobCommand::Retry);
        let job = world.job(job);
        lengths.push((job.assigned.len(), job.others.len(), job.events.len()));
    }
    let kept = world.job(job);
    assert_eq!(lengths.iter().map(|(assigned, ..)| *assigned).max(), Some(16));
    assert_eq!(lengths.iter().map(|(_, earlier, _)| *earlier).max(), Some(16));
    assert_eq!(lengths.iter().map(|(_, _, events)| *events).max(), Some(64));
    assert_eq!((kept.assigned.len(), kept.others.len()), (16, 16));
    assert_eq!(kept.assigned.back().map(|(attempt, _)| *attempt), Some(kept.attempt));
    assert_eq!(kept.events[0].state, State::Queued, "how it came here is not forgotten");
    assert!(kept.events[1].attempt.0 > 20, "the oldest of the others go first: {:?}", kept.events[1]);
}

#[test]
fn an_event_carries_the_slaves_own_time_where_the_slave_has_one() {
    let mut world = World::new(1);
    world.cut(0);
    let start = world.now();
    reconnect(&mut world, 0);
    let job = placed(&mut world, |_| {});
    world.cut(0);
    world.pass(30_000);
    reconnect(&mut world, 0);
    let kept = world.job(job);
    let seen = |state| {
        kept.events.iter().find(|event| event.state == state).map(|event| (event.at, event.observed_at))
    };
    let after = |ms| Time(start.0 + ms);
    assert_eq!(seen(State::Assigned), Some((start, None)));
    assert_eq!(seen(State::Starting).map(|(_, observed)| observed), Some(None));
    assert_eq!(seen(State::Running), Some((start, Some(start))));
    assert_eq!(seen(State::Succeeded), Some((after(30_000), Some(after(10_000)))));
    let by: Vec<_> = kept.events.iter().map(|event| event.by.as_str()).collect();
    assert_eq!(by, ["client", "dispatch to s0", "s0", "s0", "s0"]);
    let at = later(&world, 60_000);
    let waits = placed(&mut world, |order| order.start.not_before = at);
    let events = world.job(waits).events;
    let accepted = events.iter().find(|event| event.state == State::Accepted);
    assert_eq!(accepted.map(|event| event.observed_at), Some(Some(world.now())));
}

#[test]
fn only_the_newest_idempotency_keys_are_in_memory() {
    let mut world = World::new(0);
    let key = |number: usize| IdempotencyKey { key: format!("k{number}"), fingerprint: [1; 32] };
    let mut place = |number: usize| {
        let order = world.order("mill");
        let id = order.id;
        let (order, key, request) =
            (Box::new(order), Some(key(number)), RequestId(1_000_000 + number as u64));
        let state = world.master.take().unwrap();
        let now = world.now();
        let step = master::step(state, now, master::Event::OrderPlaced { request, order, key });
        world.master = Some(step.state);
        let placed = step.effects.iter().find_map(|effect| match effect {
            master::Effect::Answer { answer: Answer::Placed { order, .. }, .. } => Some(*order),
            _ => None,
        });
        (placed, id)
    };
    let placed: Vec<(Option<OrderId>, OrderId)> = (0..RECENT_KEYS).map(&mut place).collect();
    assert!(placed.iter().all(|(placed, id)| *placed == Some(*id)));
    assert_eq!(place(0).0, Some(placed[0].1), "as many are known as there is room for");
    let (new, id) = place(RECENT_KEYS);
    assert_eq!(new, Some(id));
    assert_eq!(place(1).0, Some(placed[1].1), "the second is known yet");
    let (again, id) = place(0);
    assert_eq!(again, Some(id), "the oldest had to go");
}

#[test]
fn only_so_many_receipts_of_a_slave_are_kept() {
    let mut world = World::new(1);
    for _ in 0..RECEIPTS + 5 {
        world.cut(0);
        reconnect(&mut world, 0);
    }
    let mut numbers: Vec<_> = world.master_disk.receipts.iter().map(|receipt| receipt.number).collect();
    assert_eq!(numbers.len(), RECEIPTS as usize + 6);
    assert_eq!(numbers.split_off(RECEIPTS as usize), (1..7).collect::<Vec<_>>(), "the oldest make room");
    assert_eq!(numbers, (1..RECEIPTS).chain([0]).collect::<Vec<_>>());
    let mut newest_first = world.master_disk.receipts.clone();
    Receipt::sort_newest_first(&mut newest_first);
    assert!(newest_first.is_sorted_by(|newer, older| newer.session > older.session));
}

#[test]
fn deliveries_have_the_names_of_the_api() {
    use master::Delivery::{Applied, PendingOnReconnect, Sent, TooLate};
    let names = [Applied, Sent, PendingOnReconnect, TooLate].map(master::Delivery::name);
    assert_eq!(names, ["applied", "sent", "pending_on_reconnect", "too_late"]);
}

#[test]
fn the_invariants_notice_a_master_whose_records_contradict_each_other() {
    let mut world = World::new(1);
    let running = placed(&mut world, |_| {});
    let far = later(&world, 600_000);
    let accepted = placed(&mut world, |order| order.start.not_before = far);
    let queued = placed(&mut world, |order| {
        order.slave = Some("nobody".to_owned());
        order.start.deadline = far;
    });
    let sound = world.master.clone().unwrap();
    assert_eq!(master::broken_invariant(&sound), None);
    let key = world.boxes[0].settings.key;
    let broken = |job: JobId, change: &dyn Fn(&mut master::Job)| {
        let mut state = sound.clone();
        change(state.book.jobs.get_mut(&job).unwrap());
        master::broken_invariant(&state).unwrap_or("nothing")
    };
    assert_eq!(broken(queued, &|job| job.holder = Some(key)), "a queued job is with nobody");
    for job in [running, accepted] {
        assert_eq!(broken(job, &|job| job.holder = None), "an assigned job is with a slave");
    }
    let assigned = |job: &mut master::Job| (job.state, job.holder) = (State::Assigned, None);
    assert_eq!(broken(accepted, &assigned), "an assigned job is with a slave");
    assert_eq!(broken(queued, &|job| job.attempt = job.last_attempt.next()), "attempts are counted");
    assert_eq!(broken(running, &|job| job.report = None), "only a slave says running");
    assert_eq!(
        broken(running, &|job| job.report.as_mut().unwrap().state = State::Paused),
        "only a slave says running"
    );
    assert_eq!(
        broken(accepted, &|job| job.state = State::Failed),
        "what has ended is on disk, not in memory"
    );
    let derived = "what is derived from the jobs is derived from the jobs";
    assert_eq!(broken(queued, &|job| job.start.priority = 7), derived);
    assert_eq!(broken(queued, &|job| job.start.deadline = None), derived);
    assert_eq!(broken(accepted, &|job| job.holder = Some(SlaveKey([9; 32]))), derived);
    assert_eq!(broken(accepted, &|job| job.start.gate = Gate::Held), derived, "it needs a person");
    let released = Gate::Released { latest: Time(1) };
    assert_eq!(broken(accepted, &|job| job.start.gate = released), derived, "it will need one");
    assert_eq!(broken(accepted, &|job| job.revision = 7), "nothing", "nothing is derived from a revision");
}

#[test]
fn texts_of_an_earlier_attempt_are_cut_between_two_characters() {
    // Of long texts as much is kept as fits.
    for (text, kept) in
        [("x".repeat(256), 256), ("x".repeat(257), 256), (format!("x{}", "é".repeat(150)), 255)]
    {
        let (mut world, job) = endless_job(|_, _| {});
        world.cut(0);
        world.command(job, JobCommand::Abandon);
        let second = world.add_slave("second");
        world.boxes[second].machine.length_ms = Machine::UNTIL_TOLD;
        command(&mut world, job, JobCommand::Retry);
        assert_eq!(world.holder(job), Some(second));
        machine_tells(&mut world, job, Fact::Progressed { permille: None, note: Some(text.clone()) });
        reconnect(&mut world, 0);
        machine_tells(&mut world, job, ended_with(End::Failed, &text));
        world.settle();
        let earlier = world.job(job).others;
        let [earlier] = earlier.as_slice() else { panic!("{earlier:?}") };
        let report = earlier.report.as_ref().unwrap();
        assert_eq!(earlier.state, State::Failed);
        assert_eq!(report.outcome.as_ref().map(|outcome| outcome.text.len()), Some(kept));
        assert_eq!(report.reason.as_ref().map(|reason| reason.text.len()), Some(kept));
        assert_eq!(report.note.as_ref().map(String::len), Some(kept));
    }
}

#[test]
fn a_job_is_retried_as_often_and_for_the_reasons_that_its_order_says() {
    for (on, rejects, tries, state) in [
        (None, false, 1, State::Failed),
        (Some(RetryOn::Failed), false, 3, State::Failed),
        (Some(RetryOn::Rejected), true, 3, State::Rejected),
        (Some(RetryOn::Rejected), false, 1, State::Failed),
        (Some(RetryOn::Failed), true, 1, State::Rejected),
    ] {
        let mut world = World::new(1);
        world.boxes[0].machine.fails = true;
        world.boxes[0].machine.rejects = rejects;
        let job = placed(&mut world, |order| {
            order.retry = on.map_or(order.retry.clone(), |on| Retry { max_attempts: 3, on: [on].into() });
        });
        world.pass(60_000);
        let ended = world.job(job);
        assert_eq!((ended.state, ended.attempt), (state, Attempt(tries)), "{on:?}");
        assert!(rejects || world.begun(job) == tries, "{on:?}");
    }
}

#[test]
fn what_a_slave_says_of_a_job_that_was_given_up_is_marked_as_late() {
    let (mut world, job) = running();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    assert_eq!(world.state(job), State::Lost);
    world.pass(12_000);
    reconnect(&mut world, 0);
    let late = world.job(job);
    assert_eq!(late.state, State::Succeeded);
    assert!(late.flags.has(Flags::LATE_RESULT));
    assert_eq!(world.on_slave(0, job), None, "the master has it on disk");
    let job = placed(&mut world, |_| {});
    world.pass(12_000);
    assert!(!world.job(job).flags.has(Flags::LATE_RESULT));
}

/// A job that was just offered to its slave, or that its slave has, after the slave declines it with this reason.
fn declines(
    held: bool,
    change: impl Fn(&mut Order),
    code: ReasonCode,
    for_good: bool,
    desired: Option<JobCommand>,
) -> (State, bool) {
    let mut world = World::new(1);
    let link = link_of(&world, 0);
    let job = place_as(&mut world, |order| {
        much_later(order);
        change(order);
    });
    if held {
        world.settle();
        assert_eq!(world.state(job), State::Accepted);
    } else {
        world.swallow(0);
        assert_eq!(world.state(job), State::Assigned);
    }
    if let Some(desired) = desired {
        world.command(job, desired);
    }
    let event = received(link, Message::Declined(no_to(&world.job(job), code, for_good)));
    let step = master::step(world.master.clone().unwrap(), world.now(), event);
    let archived = step.archived.iter().find(|one| one.id == job).cloned();
    let after = archived.unwrap_or_else(|| step.state.book.jobs.get(&job).unwrap().into_owned());
    let declining = step.state.slaves[&world.boxes[0].settings.key].declining;
    (after.state, declining)
}

#[test]
fn what_happens_to_a_declined_job_depends_on_the_reason() {
    use ReasonCode::{AtCapacity, GivenBack, UnknownProgram, WindowClosed};
    let plain = |_: &mut Order| {};
    let timed = |order: &mut Order| order.start.deadline = Some(Time(order.created_at.0 + 3_600_000));
    let cancel = Some(JobCommand::Cancel(CancelMode::IfNotStarted));
    for held in [false, true] {
        assert_eq!(declines(held, plain, UnknownProgram, true, None), (State::Rejected, false), "{held}");
        assert_eq!(declines(held, plain, AtCapacity, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, WindowClosed, false, None), (State::Expired, false), "{held}");
        assert_eq!(declines(held, plain, WindowClosed, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, AtCapacity, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, WindowClosed, false, cancel), (State::Canceled, false), "{held}");
    }
    // The slave drops it as it was asked to: nothing is wrong with the slave.
    assert!(!declines(true, plain, GivenBack, false, None).1);
}

#[test]
fn a_slave_that_declined_is_given_work_again_once_it_says_anything_of_its_machine() {
    let mut world = World::new(1);
    let link = link_of(&world, 0);
    let order = world.order("mill");
    let job = order.jobs[0];
    world.place(order);
    world.swallow(0);
    let (state, now) = (world.master.clone().unwrap(), world.now());
    let mut seat = Seat { state, now, key: world.boxes[0].settings.key };
    let no = no_to(&seat.job(job), ReasonCode::AtCapacity, false);
    drop(seat.step(received(link, Message::Declined(no))));
    assert_eq!(seat.job(job).state, State::Queued);
    let machine = seat.state.slaves.values().next().unwrap().machine.clone().unwrap();
    drop(seat.step(received(link, Message::Machine(machine))));
    assert_eq!(seat.job(job).state, State::Assigned, "the same report is news after a refusal");
}

#[test]
fn a_resolve_counts_even_if_the_slave_has_forgotten_the_question() {
    let (mut seat, report) = runs_live();
    drop(reports(&mut seat, None, numbered(&report, 11, State::Uncertain)));
    drop(seat.commands(report.job, JobCommand::Resolve(End::Failed)));
    let known = seat.job(report.job);
    assert_eq!((known.state, known.desired), (State::Uncertain, Desired::Resolve(End::Failed)));
    let declines = |generation, code| {
        let declined = Declined { generation, ..no_to(&known, code, true) };
        let step = master::step(seat.state.clone(), seat.now, received(OLDER, Message::Declined(declined)));
        step.archived.iter().find(|job| job.id == known.id).map(|job| job.state)
    };
    assert_eq!(
        declines(Generation(known.generation.0 - 1), ReasonCode::NotHeld),
        None,
        "that was about an older desired state"
    );
    assert_eq!(declines(known.generation, ReasonCode::AtCapacity), None, "it may have it");
    assert_eq!(declines(known.generation, ReasonCode::NotHeld), Some(State::Failed));
}

#[test]
fn a_running_job_can_not_be_declined() {
    let (mut world, job) = running();
    let known = world.job(job);
    let link = link_of(&world, 0);
    let declined = no_to(&known, ReasonCode::AtCapacity, false);
    world.master_event(received(link, Message::Declined(declined)));
    assert_eq!(world.job(job), known);
}

#[test]
fn a_command_for_a_job_that_is_beyond_it_is_too_late() {
    use master::Delivery::{Sent, TooLate};
    let release = JobCommand::Release { valid: Millis(1_000) };
    let reschedule = JobCommand::Reschedule { not_before: None, deadline: None, late: Default::default() };
    let cancel = JobCommand::Cancel(CancelMode::Now);
    let all = [cancel, JobCommand::Pause, JobCommand::Resume, release, reschedule, JobCommand::Abandon];
    let answers = |length_ms: i64| {
        all.map(|command| {
            let mut world = World::new(1);
            world.boxes[0].machine.length_ms = length_ms;
            let job = placed(&mut world, |_| {});
            world.pass(2_000);
            match world.command(job, command) {
                Some(Answer::Taken(told)) => Some(told[0].1),
                _ => None,
            }
        })
    };
    assert_eq!(answers(1_000), [Some(TooLate); 6], "it has ended");
    let running = [Some(Sent), Some(Sent), Some(Sent), Some(TooLate), Some(TooLate), None];
    assert_eq!(answers(Machine::UNTIL_TOLD), running, "it runs, at a slave that is there");
}

#[test]
fn of_many_jobs_each_gets_its_own_answer() {
    let (mut world, job) = running();
    let mut ask = |jobs: Vec<JobId>| {
        let request = RequestId(6_000_000 + jobs.len() as u64);
        let command = JobCommand::Resolve(End::Failed);
        world.master_event(master::Event::JobsCommanded { request, jobs, command });
        world.answers.get(&request).cloned()
    };
    assert!(matches!(ask(vec![job]), Some(Answer::Refused(..))), "alone it is refused with the reason");
    assert_eq!(ask(vec![job, job]), Some(Answer::Taken(vec![(job, master::Delivery::TooLate); 2])));
}

#[test]
fn only_a_success_has_full_progress_and_no_end_is_flagged_without_a_cancel() {
    for (end, progress) in [(End::Succeeded, Some(1_000)), (End::Failed, None)] {
        let (mut world, job) = endless_job(|_, _| {});
        world.cut(0);
        machine_tells(&mut world, job, ended(end));
        let report = &kept(&world, job).report;
        assert_eq!(report.progress, progress, "{end:?}");
        assert!(!report.flags.has(Flags::CANCEL_TOO_LATE));
    }
}

#[test]
fn a_decision_that_the_slave_has_not_heard_is_told_when_the_handshake_is_over() {
    for (heard, told) in [(2, true), (3, false), (4, false)] {
        let mut seat = Seat::of(&mut World::new(1));
        let key = seat.key;
        seat.state.slaves.get_mut(&key).unwrap().operating_mode.generation = Generation(3);
        let first = seat.introduce();
        let operating_mode = OperatingMode { generation: Generation(heard), mode: Mode::Production };
        let machine = MachineReport { operating_mode, ..first.machine };
        let effects = seat.settle_as(first.session, machine);
        let tells = effects
            .iter()
            .any(|effect| matches!(effect, master::Effect::Send { message: Message::OperatingMode(_), .. }));
        assert_eq!(tells, told, "{heard}");
    }
}

#[test]
fn jobs_are_counted_by_state() {
    let mut world = World::new(1);
    for _ in 0..3 {
        placed(&mut world, |order| order.slave = Some("nobody".to_owned()));
    }
    placed(&mut world, |_| {});
    let book = &world.master.as_ref().unwrap().book;
    let counts = [State::Queued, State::Running, State::Paused].map(|state| book.count(state));
    assert_eq!(counts, [3, 1, 0]);
}

//! Reports of slaves are checked where they enter: only valid values that a slave may set are stored and shown.

use reloop_protocol::id::{Attempt, Generation, JobId, ReportSeq, Run, Session};
use reloop_protocol::job::State;
use reloop_protocol::limits;
use reloop_protocol::master::{self, Answer, Delivery, Job, Refusal, RequestId, SlaveCommand, SlaveRefused};
use reloop_protocol::message::{
    self, Declined, Flags, Hello, MachineReport, Message, Outcome, Reason, ReasonCode, Reply, Report, Row,
    Settled, Source, WaitingFor,
};
use reloop_protocol::slave::{Event, Fact, Probed};
use reloop_protocol::spec::{CancelMode, Desired, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::World;
use std::collections::BTreeMap;

use crate::stage::*;

/// All flags, and all bits without a name.
const ALL_FLAGS: Flags = Flags(u16::MAX);

/// The flags that a slave may set.
const ITS_OWN: [Flags; 4] = [Flags::OVERDUE, Flags::CANCEL_TOO_LATE, Flags::MISSED_START, Flags::INTERRUPTED];

type Change = fn(&mut Report);

/// Every field of a report, with a change to a value that is invalid or that a slave may not set.
const OF_A_REPORT: [(&str, Change); 14] = [
    ("progress", |report| report.progress = Some(u16::MAX)),
    ("flags", |report| report.flags = ALL_FLAGS),
    ("accepted_at, before the job was made", |report| {
        report.accepted_at = Time(report.accepted_at.0 - 1_000_000)
    }),
    ("accepted_at, the end of time", |report| report.accepted_at = Time(i64::MAX)),
    ("accepted_at, the beginning of time", |report| report.accepted_at = Time(i64::MIN)),
    ("started_at, before the job was made", |report| report.started_at = Some(Time(1))),
    ("started_at, the end of time", |report| report.started_at = Some(Time(i64::MAX))),
    ("ended_at, before the job was made", |report| report.ended_at = Some(Time(-1))),
    ("ended_at, the end of time", |report| report.ended_at = Some(Time(i64::MAX))),
    ("outcome", |report| {
        report.outcome = Some(Outcome { exit_code: Some(0), signal: None, text: "done".to_owned() });
    }),
    ("waiting_for", |report| report.waiting_for = Some(WaitingFor::Artifact)),
    ("started_generation", |report| report.started_generation = Some(Generation(limits::COUNT))),
    ("run and seq", |report| {
        (report.run, report.seq) = (Run(u32::MAX), ReportSeq { start: u32::MAX, count: u32::MAX });
    }),
    ("source", |report| report.source = Source::Local),
];

/// Checks that everything that is shown of a job is valid.
fn makes_sense(job: &Job, now: Time, what: &str) {
    let latest = now.after(Millis::seconds(3600));
    let report = job.report.as_ref().unwrap();
    assert!(report.progress.is_none_or(|progress| progress <= 1000), "{what}: {report:?}");
    for flag in 0..16 {
        let flag = Flags(1 << flag);
        assert!(!job.all_flags().has(flag) || ITS_OWN.contains(&flag), "{what}: {:?}", job.all_flags());
    }
    let times = [Some(report.accepted_at), report.started_at, report.ended_at, job.ended_at];
    for at in times.into_iter().flatten() {
        assert!(job.created_at <= at && at <= latest, "{what}: {at:?} of {report:?}");
    }
    assert!(report.state.is_ended() || (report.outcome.is_none() && report.ended_at.is_none()), "{what}");
    for event in &job.events {
        let within = |at: Time| job.created_at <= at && at <= latest;
        assert!(event.observed_at.is_none_or(within), "{what}: {event:?}");
    }
}

#[test]
fn of_every_field_of_a_report_only_what_makes_sense_and_is_the_slaves_to_say_is_taken() {
    for (what, change) in OF_A_REPORT {
        for state in [State::Running, State::Succeeded, State::Failed] {
            for live in [true, false] {
                let case = format!("{what} {state:?} live {live}");
                let (mut seat, report) = if live { runs_live() } else { runs() };
                let mut said = numbered(&report, 20, state);
                if state.is_ended() {
                    said.ended_at = Some(seat.now);
                }
                change(&mut said);
                assert_eq!(limits::check(&Message::Report(said.clone())), Ok(()), "{case}");
                let step = if live {
                    reports(&mut seat, None, said)
                } else {
                    let row = said.row();
                    shakes(&mut seat, (vec![], vec![]), vec![row], (vec![said], vec![]))
                };
                let ended = step.archived.first().cloned();
                let job = ended.unwrap_or_else(|| seat.job(report.job));
                assert_eq!(job.state, state, "{case}: the outcome is not lost for that");
                makes_sense(&job, seat.now, &case);
                assert_eq!(master::broken_invariant(&seat.state), None, "{case}");
            }
        }
    }
}

#[test]
fn of_every_field_of_an_adopted_job_only_valid_values_are_taken() {
    for (what, change) in OF_A_REPORT {
        for state in [State::Running, State::Succeeded] {
            let (mut seat, report) = runs();
            let (_, mut record) = unheard_of(&report, &seat, state);
            change(&mut record.report);
            record.start.not_before = Some(Time(i64::MAX));
            record.start.deadline = Some(Time(i64::MAX));
            record.start.gate = Gate::Released { latest: Time(i64::MAX) };
            let row = record.report.row();
            let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![record.clone()]));
            let id = record.report.job;
            let ended = step.archived.iter().find(|job| job.id == id).cloned();
            let mut job = ended.unwrap_or_else(|| seat.job(id));
            assert!(job.flags.has(Flags::ADOPTED), "{what}");
            job.flags.clear(Flags::ADOPTED);
            makes_sense(&job, seat.now, what);
            let order = step.persist.iter().find_map(|write| match write {
                master::Write::Order(order) => Some(order),
                _ => None,
            });
            for start in [job.start, order.unwrap().start] {
                let last = Time(253_402_300_799_999);
                assert!(
                    start.not_before <= Some(last) && start.deadline <= Some(last),
                    "{what}: the year 9999"
                );
                assert_eq!(start.gate, Gate::Released { latest: last }, "{what}: the same");
            }
        }
    }
}

#[test]
fn an_invalid_time_does_not_move_with_every_report() {
    let (mut seat, report) = runs_live();
    let absurd =
        |count| Report { started_at: Some(Time(i64::MAX)), ..numbered(&report, count, State::Running) };
    let known = report.started_at;
    drop(reports(&mut seat, None, absurd(20)));
    seat.now = Time(seat.now.0 + 60_000);
    drop(reports(&mut seat, None, absurd(21)));
    let job = seat.state.book.jobs.get(&report.job).unwrap();
    assert_eq!(job.report.as_ref().unwrap().started_at, known);
    // The same for a time that was valid before the master's clock was set back by hours.
    seat.now = Time(seat.now.0 - 36_000_000);
    drop(reports(&mut seat, None, numbered(&report, 22, State::Running)));
    let job = seat.state.book.jobs.get(&report.job).unwrap();
    assert_eq!(job.report.as_ref().unwrap().started_at, known);
}

#[test]
fn of_another_attempt_too_only_valid_values_are_kept() {
    for (what, change) in OF_A_REPORT {
        let (mut seat, report) = runs_live();
        let mut said = Report { attempt: Attempt(1 << 20), ..numbered(&report, 20, State::Running) };
        change(&mut said);
        let before = seat.job(report.job);
        drop(reports(&mut seat, None, said));
        let job = seat.job(report.job);
        let now = (job.state, job.attempt, job.last_attempt, &job.report);
        assert_eq!(now, (before.state, before.attempt, before.last_attempt, &before.report), "{what}");
        assert_eq!(job.flags, Flags::CLAIMED, "{what}: so many attempts no master has forgotten");
        let claimed = Job { report: job.others[0].report.clone(), flags: Flags::default(), ..job };
        makes_sense(&claimed, seat.now, what);
    }
}

#[test]
fn the_progress_of_a_row_is_taken_only_if_it_is_valid() {
    // It is taken also while the slave is to be told of a cancel.
    for desired in [Desired::Run, Desired::Cancel(CancelMode::Now)] {
        for (said, taken) in [(u16::MAX, None), (500, Some(500))] {
            let (mut seat, report) = runs();
            seat.job_mut(report.job).desired = desired;
            let row = Row { progress: Some(said), ..report.row() };
            drop(shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![])));
            assert_eq!(seat.job(report.job).report.unwrap().progress, taken, "{desired:?}");
        }
    }
}

fn row(state: State) -> Row {
    Row {
        job: JobId([1; 16]),
        attempt: Attempt(1),
        generation: Generation(1),
        seq: ReportSeq::default(),
        state,
        progress: None,
    }
}

fn is_taken(message: Message) -> bool {
    limits::check(&message).is_ok()
}

#[test]
fn a_hello_has_one_row_per_job_and_only_possible_values() {
    let says = |rows: Vec<Row>, recent_outcomes: Vec<Row>| {
        is_taken(Message::Hello(Box::new(Hello { rows, recent_outcomes, ..hello(1, "s") })))
    };
    for state in State::ALL {
        let is_its = !matches!(state, State::Queued | State::Assigned | State::Lost);
        assert_eq!(says(vec![row(state)], vec![]), is_its, "{state:?}");
        assert_eq!(says(vec![], vec![row(state)]), is_its && state.is_ended(), "{state:?} as an outcome");
    }
    let other = Row { job: JobId([2; 16]), ..row(State::Running) };
    assert!(says(vec![row(State::Running), other], vec![row(State::Failed)]));
    assert!(!says(vec![row(State::Running), Row { attempt: Attempt(2), ..row(State::Running) }], vec![]));
    assert!(!says(vec![], vec![row(State::Failed), row(State::Failed)]));
}

#[test]
fn an_answer_and_a_refusal_are_within_the_limits_of_the_question() {
    let answers = |answer| is_taken(Message::Answer(message::Answer { id: 1, answer }));
    let log = |offset, total, length: u32| Reply::Log { offset, total, bytes: vec![0; length as usize] };
    assert!(answers(Reply::Done) && answers(Reply::Refused("x".repeat(limits::TEXT_BYTES))));
    assert!(!answers(Reply::Refused("x".repeat(limits::TEXT_BYTES + 1))));
    assert!(answers(log(0, u64::from(limits::LOG_BYTES), limits::LOG_BYTES)));
    assert!(!answers(log(0, u64::from(limits::LOG_BYTES) + 1, limits::LOG_BYTES + 1)));
    assert!(answers(log(10, 12, 2)) && !answers(log(10, 11, 2)), "a part is within the whole");
    assert!(answers(log(u64::MAX, u64::MAX, 0)) && !answers(log(u64::MAX, u64::MAX, 1)));
    let declines = |attempt, generation| {
        let reason = Reason::new(ReasonCode::AtCapacity, "full");
        let job = JobId([1; 16]);
        is_taken(Message::Declined(Declined { job, attempt, generation, reason, for_good: false }))
    };
    let (attempt, generation) = (Attempt(limits::COUNT), Generation(limits::COUNT));
    assert!(declines(attempt, generation));
    assert!(!declines(Attempt(limits::COUNT + 1), generation) && !declines(attempt, Generation(u32::MAX)));
}

/// The client's answer if a slave gives this reply to a request for a job's output, and the answer for a person's
/// question.
fn replied(reply: Reply) -> [Option<Answer>; 2] {
    let (mut seat, report) = runs_live();
    let machine = seat.state.slaves[&seat.key].machine.clone().unwrap();
    let unloading = MachineReport { unloading: Some(report.job), ..machine };
    seat.step(master::Event::Received { link: OLDER, message: Message::Machine(unloading) });
    let (request, slave, command) = (RequestId(1), seat.key, SlaveCommand::Ready);
    let questions = [
        master::Event::LogAsked { request, job: report.job, offset: Some(5), limit: 4 },
        master::Event::SlaveCommanded { request, slave, command },
    ];
    questions.map(|question| {
        let asked = seat.step(question).into_iter().find_map(|effect| match effect {
            master::Effect::Send { message: Message::Ask(ask), .. } => Some(ask.id),
            _ => None,
        });
        let answer = message::Answer { id: asked.unwrap(), answer: reply.clone() };
        let effects = seat.step(master::Event::Received { link: OLDER, message: Message::Answer(answer) });
        effects.into_iter().find_map(|effect| match effect {
            master::Effect::Answer { answer, .. } => Some(answer),
            _ => None,
        })
    })
}

#[test]
fn an_answer_of_another_kind_or_beyond_what_was_asked_for_is_an_error_of_the_slave() {
    let log = |offset, bytes: &[u8]| Reply::Log { offset, total: 100, bytes: bytes.to_vec() };
    let wrong = Answer::Refused(Refusal::SlaveRefused(SlaveRefused::NoAnswer));
    let right = |reply: Reply| match reply {
        Reply::Done => Answer::SlaveTaken(Delivery::Applied),
        Reply::Refused(text) => Answer::Refused(Refusal::SlaveRefused(SlaveRefused::Said(text))),
        Reply::Log { offset, total, bytes } => Answer::Output { offset, total, bytes },
    };
    for (reply, fits) in [
        (log(5, b"four"), [true, false]),
        (log(9, b"gap"), [true, false]),
        (log(3, b""), [true, false]),
        (log(5, b"fives"), [false, false]),
        (log(4, b"four"), [false, false]),
        (Reply::Done, [false, true]),
        (Reply::Refused("no".to_owned()), [true, true]),
    ] {
        let expected = fits.map(|fits| Some(if fits { right(reply.clone()) } else { wrong.clone() }));
        assert_eq!(replied(reply.clone()), expected, "{reply:?}");
    }
}

#[test]
fn the_progress_of_a_machine_that_is_found_working_is_at_most_all_of_it() {
    let mut world = World::new(1);
    let job = placed(&mut world, |_| {});
    let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
    let fact = Fact::Probed(Probed::Alive { paused: false, permille: Some(u16::MAX) });
    world.slave_event(0, Event::Machine { work, fact });
    world.settle();
    assert_eq!(world.job(job).report.unwrap().progress, Some(1000));
}

#[test]
fn a_slaves_description_of_itself_is_bounded() {
    let mut seat = Seat::of(&mut World::new(1));
    let labels = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
    let machine = MachineReport {
        unloading: Some(JobId([9; 16])),
        uncertain: Some(JobId([8; 16])),
        ..hello(1, "").machine
    };
    let first = Hello {
        clock: Time(i64::MIN),
        capacity: u16::MAX,
        programs: vec![String::new(), "mill".to_owned()],
        labels,
        machine: machine.clone(),
        session: Session(u64::MAX),
        ..seat.hello()
    };
    assert_eq!(limits::check(&Message::Hello(Box::new(first.clone()))), Ok(()));
    seat.say_hello(OLDER, first.clone());
    let settled =
        Settled { session: first.session, reports: vec![], records: vec![], declined: vec![], machine };
    seat.step(master::Event::Received { link: OLDER, message: Message::Settled(settled) });
    let slave = &seat.state.slaves[&seat.key];
    assert_eq!(slave.capacity, limits::CAPACITY);
    assert_eq!(slave.session, Session(u64::MAX));
    assert!(master::needs(&seat.state, seat.now, None, 10).len() <= 10);
    assert_eq!(master::broken_invariant(&seat.state), None);
}

#[test]
fn a_slave_whose_idea_of_the_masters_time_is_a_little_behind_is_believed() {
    let (mut seat, report) = runs_live();
    let made = seat.job(report.job).created_at;
    let accepted_at = Time(made.0 - 7);
    drop(reports(&mut seat, None, Report { accepted_at, ..numbered(&report, 21, State::Running) }));
    assert_eq!(seat.job(report.job).report.unwrap().accepted_at, accepted_at);
}

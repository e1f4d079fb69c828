//! A peer that says as much as it may still fits into one record on disk, and what says more is refused.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use reloop_protocol::id::{
    Attempt, BootId, Commit, Epoch, Generation, Incarnation, JobId, MasterId, OrderId, ReportSeq, Run,
    Session, SlaveKey, StoreId,
};
use reloop_protocol::job::{OnInterrupt, State};
use reloop_protocol::limits::{self, TEXT_BYTES};
use reloop_protocol::master::{
    AgentStart, Basis, Job, JobEvent, Order, OtherAttempt, REJECTIONS, RejectedBy, Retry,
};
use reloop_protocol::message::{
    Activity, Answer, Challenge, CloseCode, Declined, Flags, Hello, MachineReport, MasterBinding, Message,
    Mode, OperatingMode, Outcome, PROTOCOL, Reason, ReasonCode, Record, Refuse, Reply, Report, Row, Ruling,
    Settled, Source, Tell, Versions, Welcome,
};
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::slave;
use reloop_protocol::spec::{Desired, DesiredState, OnOverdue, SPEC_BYTES, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame};

/// What one value of the store may hold, less the envelope.
const RECORD_BYTES: usize = 80 * 1024 - 64;

fn report(text: usize) -> Report {
    let text = "x".repeat(text);
    Report {
        job: JobId([1; 16]),
        attempt: Attempt(limits::COUNT),
        run: Run(u32::MAX),
        generation: Generation(limits::COUNT),
        seq: ReportSeq { start: u32::MAX, count: u32::MAX },
        state: State::Failed,
        waiting_for: None,
        progress: Some(1000),
        note: Some(text.clone()),
        accepted_at: Time(i64::MAX),
        started_at: Some(Time(i64::MAX)),
        started_generation: Some(Generation(u32::MAX)),
        ended_at: Some(Time(i64::MAX)),
        outcome: Some(Outcome { exit_code: Some(i32::MIN), signal: Some(i32::MAX), text: text.clone() }),
        reason: Some(Reason::new(ReasonCode::MachineFault, text)),
        flags: Flags(u16::MAX),
        source: Source::Machine,
    }
}

#[test]
fn the_largest_job_fits_into_a_record() {
    let mut spec = Spec {
        order: OrderId([2; 16]),
        name: None,
        program: "mill".to_owned(),
        params: BTreeMap::new(),
        max_runtime: None,
        on_overdue: OnOverdue::Flag,
        on_interrupt: OnInterrupt::Hold,
    };
    spec.params.insert("p".to_owned(), "x".repeat(SPEC_BYTES - spec.size() - 16));
    assert!(spec.size() <= SPEC_BYTES && spec.size() > SPEC_BYTES - 32, "{}", spec.size());
    let order = Order {
        retry_backoff: reloop_protocol::master::RETRY_BACKOFF,
        id: spec.order,
        created_at: Time(i64::MAX),
        jobs: vec![],
        spec,
        slave: Some("s".repeat(63)),
        requires: BTreeMap::new(),
        start: StartRule::default(),
        retry: Retry { max_attempts: u32::MAX, on: BTreeSet::new() },
        external_id: None,
        labels: BTreeMap::new(),
    };
    let mut job = Job::new(JobId([1; 16]), &order);
    job.report = Some(report(TEXT_BYTES));
    let earlier = OtherAttempt {
        attempt: Attempt(u32::MAX),
        holder: SlaveKey([3; 32]),
        state: State::Failed,
        report: Some(report(256)),
        basis: Basis::Claim,
    };
    job.others = vec![earlier; 16];
    let event = JobEvent {
        at: Time(i64::MAX),
        observed_at: Some(Time(i64::MAX)),
        state: State::Failed,
        attempt: Attempt(u32::MAX),
        by: format!("dispatch to {}", "s".repeat(63)),
    };
    job.events = VecDeque::from(vec![event; 64]);
    job.reason = Some(Reason::new(ReasonCode::AtCapacity, "x".repeat(TEXT_BYTES)));
    let rejection = |reason: Option<Reason>| RejectedBy {
        attempt: Attempt(u32::MAX),
        by: (SlaveKey([3; 32]), AgentStart { store: StoreId([4; 16]), starts: u32::MAX }),
        at: Time(i64::MAX),
        reason,
        is_over: false,
    };
    job.rejected_by = vec![rejection(None); REJECTIONS - 16];
    job.rejected_by.extend(vec![rejection(Some(Reason::new(ReasonCode::BadParams, "x".repeat(256)))); 16]);
    let size = wire::encode(&job).len();
    assert!(size <= RECORD_BYTES, "{size}");
}

#[test]
fn what_says_more_than_it_may_is_refused() {
    assert_eq!(limits::check(&Message::Report(report(TEXT_BYTES))), Ok(()));
    assert!(limits::check(&Message::Report(report(TEXT_BYTES + 1))).is_err());
    let masters_word = Report { state: State::Lost, ..report(1) };
    assert!(limits::check(&Message::Report(masters_word)).is_err());
}

fn settled() -> Settled {
    Settled { session: Session(1), reports: vec![], records: vec![], declined: vec![], machine: machine(0) }
}

fn machine(generation: u32) -> MachineReport {
    MachineReport {
        activity: Activity::Idle,
        unloading: None,
        attention: None,
        uncertain: None,
        local_lock: false,
        operating_mode: operating_mode(generation),
        cause: None,
    }
}

fn operating_mode(generation: u32) -> OperatingMode {
    OperatingMode { generation: Generation(generation), mode: Mode::Production }
}

fn binding(epoch: u32, commit: u64) -> MasterBinding {
    MasterBinding {
        master: MasterId([3; 16]),
        epoch: Epoch(epoch),
        incarnation: Incarnation::default(),
        commit: Commit(commit),
    }
}

fn row(attempt: u32, generation: u32) -> Row {
    Row {
        job: JobId([1; 16]),
        attempt: Attempt(attempt),
        generation: Generation(generation),
        seq: ReportSeq { start: 1, count: 1 },
        state: State::Running,
        progress: None,
    }
}

fn ended(attempt: u32, generation: u32) -> Row {
    Row { state: State::Failed, ..row(attempt, generation) }
}

/// So many rows, each of a job of its own.
fn rows(count: usize, state: State) -> Vec<Row> {
    let job = |number: usize| JobId((number as u128).to_be_bytes());
    (0..count).map(|number| Row { job: job(number), state, ..row(1, 1) }).collect()
}

fn hello() -> Hello {
    Hello {
        starts: 1,
        protocol: Versions { oldest: 1, newest: 1 },
        key: SlaveKey([4; 32]),
        name: "mill-3".to_owned(),
        agent: "0.1.0".to_owned(),
        binding: None,
        token: None,
        store: StoreId([5; 16]),
        boot: BootId([6; 16]),
        session: Session(9),
        clock: Time(0),
        machine: machine(0),
        programs: vec![],
        labels: BTreeMap::new(),
        capacity: 4,
        deferred_capacity: 16,
        rows: vec![],
        recent_outcomes: vec![],
    }
}

fn spec(params: usize) -> Spec {
    let spec = Spec {
        order: OrderId([2; 16]),
        name: None,
        program: "mill".to_owned(),
        params: BTreeMap::new(),
        max_runtime: None,
        on_overdue: OnOverdue::Flag,
        on_interrupt: OnInterrupt::Hold,
    };
    Spec { params: BTreeMap::from([("p".to_owned(), "x".repeat(params))]), ..spec }
}

/// The largest work of at most so many bytes, and so much larger.
fn work(bytes: usize, more: usize) -> Spec {
    let most = (0..=bytes).rev().find(|params| spec(*params).size() <= bytes).expect("the emptiest fits");
    spec(most + more)
}

fn declined(text: usize) -> Declined {
    Declined {
        job: JobId([1; 16]),
        attempt: Attempt(1),
        generation: Generation(1),
        reason: Reason::new(ReasonCode::AtCapacity, "x".repeat(text)),
        for_good: false,
    }
}

fn desired_state(attempt: u32, generation: u32) -> DesiredState {
    DesiredState {
        requires: Default::default(),
        job: JobId([1; 16]),
        attempt: Attempt(attempt),
        generation: Generation(generation),
        digest: spec(1).digest(),
        spec: None,
        desired: Desired::Run,
        start: StartRule::default(),
    }
}

fn welcome(binding: MasterBinding, operating_mode: OperatingMode, desired_state: DesiredState) -> Message {
    let ruling = Ruling {
        job: desired_state.job,
        attempt: desired_state.attempt,
        verdict: Verdict::Cancel,
        tell: Tell::Nothing,
        desired_state: Some(desired_state),
    };
    Message::Welcome(Welcome {
        protocol: 1,
        session: Session(1),
        binding,
        operating_mode,
        rulings: vec![ruling],
    })
}

/// One label that counts as so many bytes.
fn required(bytes: usize) -> BTreeMap<String, String> {
    BTreeMap::from([("l".to_owned(), "v".repeat(bytes - "l".len() - 2))])
}

/// What a message says at most, one by one: given 0 it says just as much as it may, given 1 a little more.
type Most = (&'static str, fn(usize) -> Message);

const MOST: [Most; 35] = [
    ("name", |more| hello_with(|hello| hello.name = "n".repeat(limits::NAME_BYTES + more))),
    ("agent", |more| hello_with(|hello| hello.agent = "a".repeat(limits::AGENT_BYTES + more))),
    ("programs", |more| {
        // Each takes a byte more than its name.
        let text = "p".repeat(limits::LIST_BYTES / 4 - 1);
        hello_with(|hello| {
            hello.programs = vec![text.clone(), text.clone(), text.clone(), text + &"p".repeat(more)]
        })
    }),
    ("labels", |more| {
        // Each takes two bytes more than its name and its value.
        let value = "v".repeat(limits::LIST_BYTES / 2 - 3);
        let second = value.clone() + &"v".repeat(more);
        hello_with(|hello| hello.labels = BTreeMap::from([("a".to_owned(), value), ("b".to_owned(), second)]))
    }),
    ("rows", |more| hello_with(|hello| hello.rows = rows(limits::ROWS + more, State::Running))),
    ("ring", |more| hello_with(|hello| hello.recent_outcomes = rows(limits::ROWS + more, State::Failed))),
    ("a row's attempt", |more| hello_with(|hello| hello.rows = vec![row(count(more), 1)])),
    ("a row's wish", |more| hello_with(|hello| hello.rows = vec![row(1, count(more))])),
    ("an attempt of the ring", |more| {
        hello_with(|hello| hello.recent_outcomes = vec![ended(count(more), 1)])
    }),
    ("a wish of the ring", |more| hello_with(|hello| hello.recent_outcomes = vec![ended(1, count(more))])),
    ("a bond's epoch", |more| hello_with(|hello| hello.binding = Some(binding(count(more), 1)))),
    ("a bond's commit", |more| {
        hello_with(|hello| hello.binding = Some(binding(1, limits::COMMITS + more as u64)))
    }),
    ("a hello's conduct", |more| hello_with(|hello| hello.machine = machine(count(more)))),
    ("settled reports", |more| settled_with(|one| one.reports = vec![report(1); 3 * limits::ROWS + more])),
    ("settled jobs of all kinds", |more| {
        settled_with(|one| {
            one.reports = vec![report(1); limits::ROWS];
            one.records = vec![record(1, 1); limits::ROWS];
            one.declined = vec![declined(1); limits::ROWS + more];
        })
    }),
    ("a settled report", |more| settled_with(|one| one.reports = vec![report(TEXT_BYTES + more)])),
    ("a settled record's report", |more| {
        settled_with(|one| one.records = vec![record(1, TEXT_BYTES + more)])
    }),
    ("a settled record's work", |more| {
        settled_with(|one| one.records = vec![Record { spec: work(SPEC_BYTES, more), ..record(1, 1) }])
    }),
    ("a settled record's work and what it requires", |more| {
        let requires = required(limits::LIST_BYTES + more);
        let spec = work(SPEC_BYTES - limits::LIST_BYTES, 0);
        settled_with(|one| one.records = vec![Record { requires, spec, ..record(1, 1) }])
    }),
    ("a settled reason", |more| settled_with(|one| one.declined = vec![declined(TEXT_BYTES + more)])),
    ("a settled machine", |more| settled_with(|one| one.machine = machine(count(more)))),
    ("a reason", |more| Message::Declined(declined(TEXT_BYTES + more))),
    ("a refusal", |more| {
        let text = "x".repeat(TEXT_BYTES + more);
        Message::Refuse(Refuse { code: CloseCode::NotEnrolled, text, retry_after_ms: None })
    }),
    ("a welcome's epoch", |more| welcome(binding(count(more), 1), operating_mode(1), desired_state(1, 1))),
    ("a welcome's conduct", |more| welcome(binding(1, 1), operating_mode(count(more)), desired_state(1, 1))),
    ("a welcome's wish", |more| welcome(binding(1, 1), operating_mode(1), desired_state(1, count(more)))),
    ("a machine's conduct", |more| Message::Machine(machine(count(more)))),
    ("a conduct", |more| Message::OperatingMode(operating_mode(count(more)))),
    ("a wish", |more| Message::DesiredState(desired_state(1, count(more)))),
    ("what a wish requires", |more| {
        let requires = required(limits::LIST_BYTES + more);
        Message::DesiredState(DesiredState { requires, ..desired_state(1, 1) })
    }),
    ("a wish's attempt", |more| Message::DesiredState(desired_state(count(more), 1))),
    ("a report's attempt", |more| Message::Report(Report { attempt: Attempt(count(more)), ..report(1) })),
    ("a report's wish", |more| Message::Report(Report { generation: Generation(count(more)), ..report(1) })),
    ("a report's note", |more| {
        Message::Report(Report { note: Some("x".repeat(TEXT_BYTES + more)), ..report(1) })
    }),
    ("an outcome", |more| {
        let outcome = Outcome { exit_code: None, signal: None, text: "x".repeat(TEXT_BYTES + more) };
        Message::Report(Report { outcome: Some(outcome), ..report(1) })
    }),
];

fn count(more: usize) -> u32 {
    limits::COUNT + u32::try_from(more).expect("a small number")
}

fn record(params: usize, text: usize) -> Record {
    Record {
        requires: Default::default(),
        spec: spec(params),
        start: StartRule::default(),
        report: report(text),
    }
}

fn hello_with(change: impl FnOnce(&mut Hello)) -> Message {
    let mut hello = hello();
    change(&mut hello);
    Message::Hello(Box::new(hello))
}

fn settled_with(change: impl FnOnce(&mut Settled)) -> Message {
    let mut settled = settled();
    change(&mut settled);
    Message::Settled(settled)
}

#[test]
fn as_much_as_is_allowed_is_taken_and_a_little_more_is_refused() {
    for (name, message) in MOST {
        assert_eq!(limits::check(&message(0)), Ok(()), "{name}");
        assert!(limits::check(&message(1)).is_err(), "{name}");
    }
}

#[test]
fn a_name_that_could_be_more_than_a_name_is_refused() {
    for name in ["a", "mill-3", "mill_3.b", "0"] {
        assert_eq!(limits::check(&hello_with(|hello| hello.name = name.to_owned())), Ok(()), "{name}");
    }
    for name in ["", "Mill", "mill 3", "mill/3", "mill\n", "mühle", "<b>"] {
        assert!(limits::check(&hello_with(|hello| hello.name = name.to_owned())).is_err(), "{name}");
    }
}

/// They are part of what nodes agree on: a peer of another version counts on them.
#[test]
fn the_limits_are_those_that_the_protocol_states() {
    assert_eq!(limits::LIST_BYTES, 16_384);
    assert_eq!(limits::COUNT, 2_147_483_647);
    assert_eq!(limits::COMMITS, 9_223_372_036_854_775_807);
    assert_eq!(limits::LOG_BYTES, 65_536);
    assert_eq!(limits::LATEST_CLOCK, 253_402_300_799_999);
    assert_eq!(limits::RECORD_BYTES, 81_915);
    assert_eq!(SPEC_BYTES, 32_768);
    assert_eq!(wire::MAX_MESSAGE, 262_144);
    assert_eq!(wire::MAX_HANDSHAKE, 65_536);
    assert_eq!(slave::HELD_BYTES, 131_072);
    assert_eq!(slave::RECENT_OUTCOMES_BYTES, 65_536);
}

#[test]
fn a_frame_is_refused_for_its_number_and_for_its_message() {
    let check = |commit, message| {
        limits::check_frame(&Frame { session: Session(1), commit: Commit(commit), message, signature: None })
    };
    assert_eq!(check(limits::COMMITS, Message::Ping), Ok(()));
    assert!(check(limits::COMMITS + 1, Message::Ping).is_err());
    assert!(check(1, Message::Report(report(TEXT_BYTES + 1))).is_err());
}

/// Otherwise a release that is over could be moved to a time at which it holds again.
#[test]
fn a_masters_clock_shows_a_time_that_makes_sense() {
    let shows = |time| {
        let challenge = Challenge {
            protocol: PROTOCOL,
            master: MasterId([1; 16]),
            epoch: Epoch(1),
            commit: Commit(1),
            begun: vec![],
            nonce: [0; 32],
            time: Time(time),
        };
        limits::check(&Message::Challenge(challenge)).is_ok()
    };
    assert!(shows(0) && shows(limits::LATEST_CLOCK));
    assert!(!shows(-1) && !shows(limits::LATEST_CLOCK + 1) && !shows(i64::MIN) && !shows(i64::MAX));
}

#[test]
fn the_cause_of_a_machines_attention_has_a_length() {
    let with = |bytes| MachineReport { cause: Some("x".repeat(bytes)), ..machine(0) };
    for (bytes, is_taken) in [
        (0, true),
        (limits::CAUSE_BYTES, true),
        (limits::CAUSE_BYTES + 1, false),
        (usize::from(u16::MAX), false),
    ] {
        assert_eq!(limits::check(&Message::Machine(with(bytes))).is_ok(), is_taken, "{bytes} bytes");
    }
}

#[test]
fn a_part_of_an_output_lies_within_it() {
    let part = |offset, total, length| {
        let bytes = vec![0; length];
        limits::check(&Message::Answer(Answer { id: 1, answer: Reply::Log { offset, total, bytes } })).is_ok()
    };
    assert!(part(3, 5, 2) && !part(3, 5, 3));
    assert!(part(9, 5, 0), "that there is nothing is said from anywhere");
    assert!(!part(u64::MAX, u64::MAX, 1));
}

/// What a master takes over from a slave leaves it room to count on, and a generation of the last numbered epoch can be taken over.
#[test]
fn what_is_adopted_leaves_room_to_count_on() {
    const ROOM: u32 = limits::COUNT / 8;
    for (adopted, above) in [(limits::ADOPTED_ATTEMPT, 0), (limits::ADOPTED_GENERATION, limits::COUNT / 2)] {
        assert!(adopted > above + ROOM && adopted < limits::COUNT - ROOM, "{adopted}");
    }
}

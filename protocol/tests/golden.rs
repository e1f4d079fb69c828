//! The wire format, byte by byte: every message has a vector in `golden/v1.txt`. A change that moves a byte fails here,
//! and is a new protocol version. `UPDATE_GOLDEN=1` writes the file anew, for a version that is not released yet.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reloop_protocol::id::{
    Attempt, BootId, Commit, Epoch, Generation, Incarnation, JobId, MasterId, OrderId, ReportSeq, Run,
    Session, SlaveKey, StoreId,
};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::message::*;
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate, Late, OnOverdue, Spec, StartRule};
use reloop_protocol::time::{Millis, Time};
use reloop_protocol::wire::{self, Frame, Signature, WireError};

const JOB: JobId = JobId([1; 16]);
const NOON: Time = Time(1_700_000_000_000);

fn spec() -> Spec {
    Spec {
        order: OrderId([2; 16]),
        name: Some("bracket".to_owned()),
        program: "mill".to_owned(),
        params: BTreeMap::from([("file".to_owned(), "part.nc".to_owned())]),
        max_runtime: Some(Millis(3_600_000)),
        on_overdue: OnOverdue::Stop,
        on_interrupt: OnInterrupt::Restart,
    }
}

fn start() -> StartRule {
    StartRule {
        not_before: Some(NOON),
        deadline: Some(Time(NOON.0 + 60_000)),
        late: Late::Run,
        gate: Gate::Released { latest: NOON },
        priority: -3,
    }
}

fn report() -> Report {
    Report {
        job: JOB,
        attempt: Attempt(2),
        run: Run(1),
        generation: Generation(3),
        seq: ReportSeq { start: 4, count: 300 },
        state: State::Failed,
        waiting_for: None,
        progress: Some(420),
        note: Some("roughing".to_owned()),
        accepted_at: NOON,
        started_at: Some(NOON),
        started_generation: Some(Generation(3)),
        ended_at: Some(Time(NOON.0 + 1)),
        outcome: Some(Outcome { exit_code: Some(-1), signal: None, text: "spindle".to_owned() }),
        reason: Some(Reason::new(ReasonCode::MachineFault, "spindle")),
        flags: Flags::OVERDUE,
        source: Source::Machine,
    }
}

fn machine() -> MachineReport {
    MachineReport {
        activity: Activity::Unloading,
        unloading: Some(JOB),
        attention: Some(Attention::Fault),
        uncertain: None,
        local_lock: true,
        operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Draining },
        cause: Some("the disk is full".to_owned()),
    }
}

fn desired_state() -> DesiredState {
    DesiredState {
        requires: Default::default(),
        job: JOB,
        attempt: Attempt(2),
        generation: Generation(3),
        digest: spec().digest(),
        spec: Some(spec()),
        desired: Desired::Cancel(CancelMode::SafePoint),
        start: start(),
    }
}

fn binding() -> MasterBinding {
    MasterBinding {
        master: MasterId([3; 16]),
        epoch: Epoch(1),
        incarnation: Incarnation([10; 8]),
        commit: Commit(70_000),
    }
}

fn row() -> Row {
    Row {
        job: JOB,
        attempt: Attempt(2),
        generation: Generation(3),
        seq: ReportSeq { start: 4, count: 300 },
        state: State::Running,
        progress: Some(420),
    }
}

fn declined() -> Declined {
    Declined {
        job: JOB,
        attempt: Attempt(2),
        generation: Generation(3),
        reason: Reason::new(ReasonCode::AtCapacity, "full"),
        for_good: false,
    }
}

fn hello() -> Hello {
    Hello {
        starts: 1,
        protocol: Versions { oldest: 1, newest: 1 },
        key: SlaveKey([4; 32]),
        name: "mill-3".to_owned(),
        agent: "0.1.0".to_owned(),
        binding: Some(binding()),
        token: Some("xenr1.secret".to_owned()),
        store: StoreId([5; 16]),
        boot: BootId([6; 16]),
        session: Session(9),
        clock: NOON,
        machine: machine(),
        programs: vec!["mill".to_owned()],
        labels: BTreeMap::from([("material".to_owned(), "pla".to_owned())]),
        capacity: 4,
        deferred_capacity: 16,
        rows: vec![row()],
        recent_outcomes: vec![row()],
    }
}

fn messages() -> Vec<(&'static str, Message)> {
    vec![
        (
            "challenge",
            Message::Challenge(Challenge {
                protocol: Versions { oldest: 1, newest: 1 },
                master: MasterId([3; 16]),
                epoch: Epoch(1),
                commit: Commit(70_000),
                begun: vec![Begun { incarnation: Incarnation([10; 8]), at: Commit(69_000) }],
                nonce: [7; 32],
                time: NOON,
            }),
        ),
        ("hello", Message::Hello(Box::new(hello()))),
        (
            "welcome",
            Message::Welcome(Welcome {
                protocol: 1,
                session: Session(9),
                binding: binding(),
                operating_mode: OperatingMode { generation: Generation(1), mode: Mode::Production },
                rulings: vec![Ruling {
                    job: JOB,
                    attempt: Attempt(2),
                    verdict: Verdict::Cancel,
                    tell: Tell::Report,
                    desired_state: Some(desired_state()),
                }],
            }),
        ),
        (
            "refuse",
            Message::Refuse(Refuse {
                code: CloseCode::NotEnrolled,
                text: "who?".to_owned(),
                retry_after_ms: Some(5_000),
            }),
        ),
        (
            "settled",
            Message::Settled(Settled {
                session: Session(9),
                reports: vec![report()],
                records: vec![Record {
                    requires: Default::default(),
                    spec: spec(),
                    start: start(),
                    report: report(),
                }],
                declined: vec![declined()],
                machine: machine(),
            }),
        ),
        ("report", Message::Report(report())),
        ("declined", Message::Declined(declined())),
        ("machine", Message::Machine(machine())),
        ("desired_state", Message::DesiredState(desired_state())),
        (
            "desired_state.resolve",
            Message::DesiredState(DesiredState {
                spec: None,
                desired: Desired::Resolve(End::Stopped),
                ..desired_state()
            }),
        ),
        (
            "forget",
            Message::Forget(Forget {
                job: JOB,
                attempt: Attempt(2),
                seq: ReportSeq { start: 4, count: 300 },
            }),
        ),
        (
            "operating_mode",
            Message::OperatingMode(OperatingMode { generation: Generation(7), mode: Mode::Maintenance }),
        ),
        ("ask.ready", Message::Ask(Ask { id: 1, question: Question::Ready { unloading: JOB } })),
        ("ask.clear", Message::Ask(Ask { id: 2, question: Question::Clear { attention: Attention::Moved } })),
        (
            "ask.log",
            Message::Ask(Ask {
                id: 3,
                question: Question::Log {
                    job: JOB,
                    attempt: Attempt(2),
                    run: Run(1),
                    offset: None,
                    limit: 4096,
                },
            }),
        ),
        ("answer.done", Message::Answer(Answer { id: 1, answer: Reply::Done })),
        ("answer.refused", Message::Answer(Answer { id: 2, answer: Reply::Refused("no".to_owned()) })),
        (
            "answer.log",
            Message::Answer(Answer {
                id: 3,
                answer: Reply::Log { offset: 10, total: 12, bytes: b"ok".to_vec() },
            }),
        ),
        ("ping", Message::Ping),
        ("pong", Message::Pong),
    ]
}

fn frame(name: &str, message: Message) -> Frame {
    let signature = (name == "hello").then_some(Signature([8; 32], [9; 32]));
    let commit = match &message {
        Message::DesiredState(_) | Message::Forget(_) | Message::OperatingMode(_) | Message::Ask(_) => {
            Commit(70_001)
        }
        Message::Challenge(_) | Message::Welcome(_) | Message::Refuse(_) => Commit(70_000),
        Message::Hello(_)
        | Message::Settled(_)
        | Message::Report(_)
        | Message::Declined(_)
        | Message::Machine(_)
        | Message::Answer(_)
        | Message::Ping
        | Message::Pong => Commit(0),
    };
    Frame { session: Session(9), commit, message, signature }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn every_message_has_its_bytes() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.txt");
    let mut text = String::new();
    for (name, message) in messages() {
        let bytes = wire::encode(&frame(name, message.clone()));
        let back: Frame = wire::decode(&bytes, wire::MAX_MESSAGE).unwrap();
        assert_eq!(back, frame(name, message), "{name}");
        writeln!(text, "{name} {}", hex(&bytes)).unwrap();
    }
    writeln!(text, "signed {}", hex(&wire::signed_bytes(&[7; 32], &hello()))).unwrap();
    writeln!(text, "digest {}", hex(&spec().digest().0)).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        text,
        "the wire format moved: see the head of this file"
    );
}

const ATTENTIONS: [Attention; 7] = [
    Attention::StoreReplaced,
    Attention::StoreRolledBack,
    Attention::Moved,
    Attention::Fault,
    Attention::MemoryGap,
    Attention::MachineUnfit,
    Attention::FailuresInRow,
];

const SOURCES: [Source; 4] = [Source::Remote, Source::Local, Source::Slave, Source::Machine];

#[test]
fn the_words_of_each_list_keep_their_numbers() {
    let mut text = String::new();
    let mut list = |name: &str, words: Vec<&str>| writeln!(text, "{name}: {}", words.join(" ")).unwrap();
    list("State", State::ALL.iter().map(|word| word.name()).collect());
    list("Mode", Mode::ALL.iter().map(|word| word.name()).collect());
    list("Activity", Activity::ALL.iter().map(|word| word.name()).collect());
    list("Verdict", Verdict::ALL.iter().map(|word| word.name()).collect());
    list("ReasonCode", ReasonCode::ALL.iter().map(|word| word.name()).collect());
    list("Attention", ATTENTIONS.iter().map(|word| word.name()).collect());
    list("Source", SOURCES.iter().map(|word| word.name()).collect());
    list("Flags", Flags(u16::MAX).names().collect());
    for (number, name) in Flags(u16::MAX).names().enumerate() {
        assert_eq!(Flags(1 << number).names().collect::<Vec<_>>(), [name]);
    }
    for (number, code) in CloseCode::ALL.iter().enumerate() {
        assert_eq!(usize::from(wire::encode(code)[0]), number);
        assert_eq!(CloseCode::from_number(code.number()), Some(*code));
        writeln!(text, "CloseCode {number}: {code:?} {}", code.number()).unwrap();
    }
    for (number, state) in State::ALL.iter().enumerate() {
        assert_eq!(wire::encode(state), [number as u8]);
    }
    for (number, code) in ReasonCode::ALL.iter().enumerate() {
        assert_eq!(wire::encode(code), [number as u8]);
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/words.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "lists only grow at their end");
}

#[test]
fn a_row_of_a_hello_takes_at_most_64_bytes() {
    let largest = Row {
        attempt: Attempt(u32::MAX),
        generation: Generation(u32::MAX),
        seq: ReportSeq { start: u32::MAX, count: u32::MAX },
        progress: Some(1000),
        ..row()
    };
    assert!(wire::encode(&largest).len() <= 64, "{}", wire::encode(&largest).len());
}

#[test]
fn bytes_that_are_not_exactly_one_message_are_refused() {
    let bytes = wire::encode(&frame("report", Message::Report(report())));
    let decode = |bytes: &[u8]| wire::decode::<Frame>(bytes, wire::MAX_MESSAGE);
    let mut trailing = bytes.clone();
    trailing.push(0);
    assert!(matches!(decode(&trailing), Err(WireError::Malformed(_))));
    for end in 0..bytes.len() {
        assert!(matches!(decode(&bytes[..end]), Err(WireError::Malformed(_))), "cut at {end}");
    }
    // A variant that is not there, and a length that nobody could send.
    assert!(matches!(decode(&[0, 99]), Err(WireError::Malformed(_))));
    let huge = [0, 0, 0, 0, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    assert!(decode(&huge).is_err());
    assert_eq!(wire::decode::<Frame>(&bytes, 10), Err(WireError::TooLarge { size: bytes.len(), limit: 10 }));
}

#[test]
fn each_flag_is_a_bit_of_its_own() {
    let flags = [
        (Flags::OVERDUE, 1, "overdue"),
        (Flags::CANCEL_TOO_LATE, 2, "cancel_too_late"),
        (Flags::DUPLICATE, 4, "duplicate"),
        (Flags::ADOPTED, 8, "adopted"),
        (Flags::LATE_RESULT, 16, "late_result"),
        (Flags::MISSED_START, 32, "missed_start"),
        (Flags::INTERRUPTED, 64, "interrupted"),
        (Flags::CLAIMED, 128, "claimed"),
        (Flags::RESTORED, 256, "restored"),
        (Flags::OVERTAKEN, 512, "overtaken"),
    ];
    for (flag, bit, name) in flags {
        assert_eq!(flag, Flags(bit));
        assert_eq!(format!("{flag:?}"), format!("{{\"{name}\"}}"));
    }
}

#[test]
fn a_word_is_found_by_its_name_and_nothing_else_is() {
    assert!(State::ALL.iter().all(|word| State::from_name(word.name()) == Some(*word)));
    assert!(Mode::ALL.iter().all(|word| Mode::from_name(word.name()) == Some(*word)));
    for name in ["", "Queued", "nothing"] {
        assert_eq!((State::from_name(name), Mode::from_name(name)), (None, None));
    }
    // Each number stands for one code, and each attention says what to do about it.
    for attention in ATTENTIONS {
        assert!(attention.advice().contains("`clear`"), "{attention:?}");
    }
}

#[test]
fn a_key_is_shown_by_its_first_sixteen_digits() {
    let mut key = [0; 32];
    key[..9].copy_from_slice(&[0xab, 1, 2, 3, 4, 5, 6, 0xf0, 9]);
    let key = SlaveKey(key);
    assert_eq!(key.fingerprint(), "ab010203040506f0");
    assert_eq!(format!("{key:?}"), "ab010203040506f0");
}

#[test]
fn a_message_may_be_as_large_as_the_limit_and_no_larger() {
    let bytes = wire::encode(&frame("ping", Message::Ping));
    assert!(wire::decode::<Frame>(&bytes, bytes.len()).is_ok());
    let one_less = bytes.len() - 1;
    assert_eq!(
        wire::decode::<Frame>(&bytes, one_less),
        Err(WireError::TooLarge { size: bytes.len(), limit: one_less })
    );
}

#[test]
fn what_cannot_be_read_is_told_in_one_line_with_a_reason() {
    let Err(WireError::Malformed(why)) = wire::decode::<Frame>(&[0, 99], 100) else {
        panic!("it is no frame")
    };
    assert!(!why.trim().is_empty() && !why.contains('\n') && why != "it makes no sense", "{why:?}");
}

#[test]
fn a_moment_is_shown_in_milliseconds() {
    assert_eq!(Time(1_500).to_string(), "1500 ms");
    assert_eq!(Time(1_500).since(Time(500)), Millis(1_000));
    assert_eq!(Time(500).since(Time(1_500)), Millis(0));
    assert_eq!(Millis::seconds(3), Millis(3_000));
}

//! Hand-made slaves against the real master: whatever a peer sends, it loses only its own link, with the documented
//! code.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reloop_protocol::id::{Attempt, Commit, Epoch, Generation, MasterId, ReportSeq, Run, Session};
use reloop_protocol::job::State;
use reloop_protocol::limits;
use reloop_protocol::message::{
    Challenge, CloseCode, Flags, MachineReport, Message, PROTOCOL, Report, Settled, Source,
};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, MAX_HANDSHAKE, MAX_MESSAGE};
use reloop_rig::factory::{Factory, gated, has_flag, with, work};
use reloop_rig::process::MasterOptions;
use reloop_rig::raw::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, Raw, TEXT, frame, hello, key, masked, signed,
    upgrade_headers,
};
use reloop_rig::wait::{PATIENCE, eventually, says};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;

const RSV1: u8 = 0x40;
const RSV2: u8 = 0x20;
const RSV3: u8 = 0x10;
/// The limit of a handshake in these tests, in seconds.
const HANDSHAKE_SECONDS: u64 = 1;
/// A closed peer may take this long to answer: the node's own limit is 2 s.
const GOODBYE: Duration = Duration::from_secs(3);
/// In the master's log, once for each ended link.
const LINK_ENDED: &str = "a link ended";
/// How much more memory a master may use after all bad peers: the allocator's own slack.
const SLACK_BYTES: u64 = 16 * 1024 * 1024;
/// RFC 6455, section 7.4.1: the library's answer to an invalid close frame.
const WS_PROTOCOL_ERROR: u16 = 1002;

/// A master, and an honest slave with a job that runs all the time.
struct House {
    f: Factory,
    job: String,
    session: Value,
}

impl House {
    async fn new(change: impl Fn(&mut MasterOptions)) -> Self {
        let mut options = MasterOptions::default();
        options.link.insert("handshake_seconds", HANDSHAKE_SECONDS);
        options.env.insert("RELOOP_LOG".to_owned(), "info,reloop_master::link=debug".to_owned());
        change(&mut options);
        let f = Factory::at(options).await;
        let session = f.online(0).await["session"].clone();
        let job = f.running(gated("honest")).await;
        Self { f, job, session }
    }

    fn addr(&self) -> SocketAddr {
        self.f.master.addr()
    }

    fn links_ended(&self) -> usize {
        self.f.master.log().matches(LINK_ENDED).count()
    }

    /// Waits until the master has ended this many more links than `before`, and logged each once.
    async fn let_go(&self, before: usize, links: usize, what: &str) {
        eventually(&format!("{what}: one line in the log for each link"), PATIENCE, async || {
            let ended = self.links_ended() - before;
            if ended >= links { Ok(()) } else { Err(ended) }
        })
        .await;
        assert_eq!(self.links_ended() - before, links, "{what}: {}", self.f.master.log());
    }

    /// The master's resident memory, in bytes.
    fn resident(&self) -> u64 {
        let status = format!("/proc/{}/status", self.f.master.pid().unwrap());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// The honest slave's job was not disturbed, and the master works as before.
    async fn ends_undisturbed(self) {
        self.ends_undisturbed_by(&[]).await;
    }

    /// The same, with these slaves enrolled beside it.
    async fn ends_undisturbed_by(mut self, known: &[&str]) {
        let slave = self.f.online(0).await;
        assert_eq!(slave["session"], self.session, "its link stood all the time: {slave:#}");
        assert_eq!(self.f.job(&self.job).await["state"], "running");
        self.f.finish(&self.job, "honest").await;
        let log = self.f.master.log();
        let loud = log.lines().find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
        assert_eq!(loud, None, "what strangers do is no operator's business");
        assert!(self.f.master.is_alive());
        let slaves = self.f.client.slaves().await.unwrap().expect(200);
        let names = slaves["data"].as_array().unwrap().iter().map(|slave| slave["name"].as_str().unwrap());
        let strangers: Vec<_> = names.filter(|name| *name != "s0" && !known.contains(name)).collect();
        assert!(strangers.is_empty(), "nothing is kept of them: {strangers:?}");
    }
}

fn ping() -> Vec<u8> {
    wire::encode(&Frame { session: Session(0), commit: Commit(0), message: Message::Ping, signature: None })
}

fn close_payload(code: u16, reason: &[u8]) -> Vec<u8> {
    [&code.to_be_bytes(), reason].concat()
}

/// Frames sent right after the Challenge, with the expected close code. Text messages, garbage, messages out of order
/// and wrong signatures are in `scenarios_identity`.
fn bad_frames() -> Vec<(&'static str, Vec<u8>, CloseCode)> {
    use CloseCode::{Protocol, TooLarge};
    let ping = ping();
    let half = MAX_MESSAGE / 2 + 1;
    vec![
        ("not masked", frame(FIN | BINARY, false, 3, &ping), Protocol),
        ("first reserved bit", masked(FIN | RSV1 | BINARY, &ping), Protocol),
        ("second reserved bit", masked(FIN | RSV2 | BINARY, &ping), Protocol),
        ("third reserved bit", masked(FIN | RSV3 | PING, &[]), Protocol),
        ("reserved data opcode 3", masked(FIN | 3, &ping), Protocol),
        ("reserved data opcode 7", masked(FIN | 7, &ping), Protocol),
        ("reserved control opcode 11", masked(FIN | 11, &[]), Protocol),
        ("reserved control opcode 15", masked(FIN | 15, &[]), Protocol),
        ("a ping in fragments", masked(PING, b"ab"), Protocol),
        ("a close in fragments", masked(CLOSE, &close_payload(1000, b"")), Protocol),
        ("a ping of 126 bytes", masked(FIN | PING, &[0; 126]), Protocol),
        ("a pong of 126 bytes", masked(FIN | PONG, &[0; 126]), Protocol),
        ("a close of 126 bytes", masked(FIN | CLOSE, &close_payload(1000, &[b'x'; 124])), Protocol),
        ("a continuation of nothing", masked(FIN | CONTINUATION, &ping), Protocol),
        (
            "a message within a message",
            [masked(BINARY, &ping[..1]), masked(FIN | BINARY, &ping)].concat(),
            Protocol,
        ),
        (
            "text that is not UTF-8, in fragments",
            [masked(TEXT, &[0xc3]), masked(FIN | CONTINUATION, &[0x28])].concat(),
            Protocol,
        ),
        ("a close of one byte", masked(FIN | CLOSE, &[3]), Protocol),
        ("a close whose reason is not UTF-8", masked(FIN | CLOSE, &close_payload(1000, &[0xff])), Protocol),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), Protocol),
        ("nothing but zeros", vec![0; 4096], Protocol),
        ("nothing but ones", vec![0xff; 4096], Protocol),
        ("an unknown message", masked(FIN | BINARY, &[0, 0, 15, 0]), Protocol),
        (
            "an unknown message by a number of four bytes",
            masked(FIN | BINARY, b"\0\0\xfc\xff\xff\xff\xff\0"),
            Protocol,
        ),
        ("an unknown close code in a Refuse", masked(FIN | BINARY, &[0, 0, 3, 17, 0, 0, 0]), Protocol),
        ("a tag that is neither 0 nor 1", masked(FIN | BINARY, &[0, 0, 13, 2]), Protocol),
        (
            "an integer of 16 bytes",
            masked(FIN | BINARY, &[&[0xfe][..], &[1; 16], &[0, 13, 0]].concat()),
            Protocol,
        ),
        ("bytes left over", masked(FIN | BINARY, &[0, 0, 13, 0, 0]), Protocol),
        ("bytes missing", masked(FIN | BINARY, &[0, 0, 13]), Protocol),
        ("an empty message", masked(FIN | BINARY, &[]), Protocol),
        // An Answer (12) to an Ask, with a log (2) of 2^64 - 1 bytes.
        (
            "a list that claims to be endless",
            masked(FIN | BINARY, &[&[1, 0, 12, 1, 2, 0, 0, 0xfd][..], &[0xff; 8], &[0; 8]].concat()),
            Protocol,
        ),
        ("2^63 bytes", frame(FIN | BINARY, true, 1 << 63, &[0; 64]), TooLarge),
        ("2^64 - 1 bytes", frame(FIN | BINARY, true, u64::MAX, &[0; 64]), TooLarge),
        ("a ping of 2^63 bytes", frame(FIN | PING, true, 1 << 63, &[0; 64]), TooLarge),
        ("one byte above the limit", frame(FIN | BINARY, true, MAX_MESSAGE as u64 + 1, &[0; 64]), TooLarge),
        (
            "fragments above the limit together",
            [masked(BINARY, &vec![0; half]), masked(FIN | CONTINUATION, &vec![0; half])].concat(),
            TooLarge,
        ),
        ("more than a Hello may be", masked(FIN | BINARY, &vec![0; MAX_HANDSHAKE + 1]), TooLarge),
        (
            "more than a Hello may be, behind a Ping",
            [masked(FIN | BINARY, &ping), masked(FIN | BINARY, &vec![0; MAX_HANDSHAKE + 1])].concat(),
            TooLarge,
        ),
    ]
}

#[tokio::test]
async fn whoever_sends_bad_frames_loses_the_own_link_with_the_documented_code_and_nobody_else_notices() {
    let house = House::new(|_| {}).await;
    let mut resident = vec![];
    for _ in 0..4 {
        for (what, bytes, code) in bad_frames() {
            let before = house.links_ended();
            let (mut raw, _) = Raw::challenged(house.addr()).await;
            let began = Instant::now();
            raw.bytes(&bytes).await;
            assert_eq!(raw.closed().await, Some(code.number()), "{what}");
            let limit = Duration::from_secs(HANDSHAKE_SECONDS);
            assert!(began.elapsed() < limit, "{what}: it was its own fault, and not the clock");
            house.let_go(before, 1, what).await;
        }
        resident.push(house.resident());
    }
    assert!(resident[3] < resident[0] + SLACK_BYTES, "{resident:?}");
    house.ends_undisturbed().await;
}

#[tokio::test]
async fn the_end_of_a_link_is_answered_as_rfc_6455_says() {
    let house = House::new(|_| {}).await;
    for (what, payload, answer) in [
        ("without a code", vec![], vec![]),
        ("with a code", close_payload(1000, b"bye"), close_payload(1000, b"bye")),
        ("with a code of ours", close_payload(4001, b""), close_payload(4001, b"")),
        ("with a code that nobody knows", close_payload(4999, b""), close_payload(4999, b"")),
    ] {
        let before = house.links_ended();
        let (mut raw, _) = Raw::challenged(house.addr()).await;
        raw.send(CLOSE, &payload).await;
        assert_eq!(raw.frame().await, Some((CLOSE, answer)), "{what}");
        assert_eq!(raw.frame().await, None, "{what}");
        house.let_go(before, 1, what).await;
    }
    let (mut raw, _) = Raw::challenged(house.addr()).await;
    raw.send(CLOSE, &close_payload(1000, b"bye\n2026-01-01T00:00:00Z error \x1b[31mthe house burns")).await;
    raw.closed().await;
    let line = says(|| house.f.master.log(), "the house burns").await;
    assert!(line.contains("bye") && !line.contains('\x1b'), "one line, and no colours: {line:?}");
    for code in [0, 999, 1004, 1005, 1006, 1015, 5000, u16::MAX] {
        let before = house.links_ended();
        let (mut raw, _) = Raw::challenged(house.addr()).await;
        raw.send(CLOSE, &close_payload(code, b"")).await;
        assert_eq!(raw.closed().await, Some(WS_PROTOCOL_ERROR), "{code}");
        house.let_go(before, 1, &format!("close code {code}")).await;
    }
    house.ends_undisturbed().await;
}

#[tokio::test]
async fn a_message_may_come_in_fragments_with_pings_between_them() {
    let house = House::new(|_| {}).await;
    let key = key(7);
    let (mut raw, nonce) = Raw::challenged(house.addr()).await;
    let hello = wire::encode(&signed(&key, &nonce, hello(&key)));
    let mut parts = hello.chunks(hello.len().div_ceil(5));
    raw.bytes(&masked(BINARY, parts.next().unwrap())).await;
    for (number, part) in parts.enumerate() {
        let fin = if number == 3 { FIN } else { 0 };
        raw.send(PING, &[b'p'; 125]).await;
        raw.send(PONG, b"unasked").await;
        raw.bytes(&masked(CONTINUATION, &[])).await;
        raw.bytes(&masked(fin | CONTINUATION, part)).await;
    }
    for _ in 0..4 {
        assert_eq!(raw.frame().await, Some((PONG, vec![b'p'; 125])));
    }
    let welcome = raw.message().await;
    assert!(matches!(welcome, Some(Message::Welcome(_))), "{welcome:?}");
    drop(raw);
    house.ends_undisturbed_by(&["raw"]).await;
}

#[tokio::test]
async fn messages_before_their_turn_and_incomplete_ones_open_no_link() {
    let house = House::new(|_| {}).await;
    let limit = Duration::from_secs(HANDSHAKE_SECONDS);

    // Sent directly after the request, before the master's answer: it is read, and found wrong.
    for (what, early, code) in [
        ("garbage", vec![0xff; 100], CloseCode::Protocol),
        ("a frame", masked(FIN | BINARY, &[0xff; 100]), CloseCode::Protocol),
        (
            "a Hello",
            masked(FIN | BINARY, &wire::encode(&signed(&key(7), &[0; 32], hello(&key(7))))),
            CloseCode::NotAuthentic,
        ),
    ] {
        let before = house.links_ended();
        let (mut raw, answer) = Raw::ask_with(house.addr(), &upgrade_headers(), &early).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        assert_eq!(raw.closed().await, Some(code.number()), "{what}");
        house.let_go(before, 1, what).await;
    }

    let hello = masked(FIN | BINARY, &vec![0; 1000]);
    for (what, bytes) in [
        ("half a header", &hello[..1]),
        ("half a length", &hello[..3]),
        ("half a mask", &hello[..6]),
        ("half a payload", &hello[..500]),
        ("half a message", &masked(BINARY, &[0; 100])[..]),
    ] {
        let before = house.links_ended();
        let (mut raw, _) = Raw::challenged(house.addr()).await;
        raw.bytes(bytes).await;
        let began = Instant::now();
        assert_eq!(raw.closed().await, Some(CloseCode::TooSlow.number()), "{what}");
        assert!(
            began.elapsed() > limit / 2 && began.elapsed() < limit + GOODBYE,
            "{what}: {:?}",
            began.elapsed()
        );
        house.let_go(before, 1, what).await;
    }

    // Heartbeats do not extend the limit.
    let before = house.links_ended();
    let (mut raw, _) = Raw::challenged(house.addr()).await;
    let began = Instant::now();
    let pings = [masked(FIN | BINARY, &ping()), masked(FIN | PING, &[])].concat();
    let mut ticks = tokio::time::interval(limit / 20);
    while raw.0.write_all(&pings).await.is_ok() {
        assert!(began.elapsed() < limit + GOODBYE, "it still listens");
        ticks.tick().await;
    }
    assert_eq!(raw.closed().await, Some(CloseCode::TooSlow.number()));
    house.let_go(before, 1, "heartbeats").await;
    house.ends_undisturbed().await;
}

#[tokio::test]
async fn an_enrolled_slave_that_sends_invalid_frames_is_closed_like_a_stranger() {
    let house = House::new(|_| {}).await;
    let key = key(7);
    let say =
        |message| wire::encode(&Frame { session: Session(1), commit: Commit(0), message, signature: None });
    let settled = |machine: MachineReport| {
        Message::Settled(Settled {
            session: Session(1),
            reports: vec![],
            records: vec![],
            declined: vec![],
            machine,
        })
    };
    let machine = hello(&key).machine;
    let challenge = Challenge {
        protocol: PROTOCOL,
        master: MasterId([1; 16]),
        epoch: Epoch(1),
        commit: Commit(1),
        begun: vec![],
        nonce: [0; 32],
        time: Time(0),
    };
    for (what, bytes, code) in [
        ("Settled twice", masked(FIN | BINARY, &say(settled(machine.clone()))), CloseCode::Protocol),
        (
            "a Hello on the live link",
            masked(FIN | BINARY, &say(Message::Hello(Box::new(hello(&key))))),
            CloseCode::Protocol,
        ),
        (
            "a master's message",
            masked(FIN | BINARY, &say(Message::Challenge(challenge))),
            CloseCode::Protocol,
        ),
        ("an unknown message", masked(FIN | BINARY, &[1, 0, 15, 0]), CloseCode::Protocol),
        ("not masked", frame(FIN | BINARY, false, 3, &say(Message::Ping)), CloseCode::Protocol),
        (
            "one byte above the limit",
            frame(FIN | BINARY, true, MAX_MESSAGE as u64 + 1, &[0; 64]),
            CloseCode::TooLarge,
        ),
    ] {
        let before = house.links_ended();
        let (mut raw, nonce) = Raw::challenged(house.addr()).await;
        raw.say(&signed(&key, &nonce, hello(&key))).await;
        assert!(matches!(raw.message().await, Some(Message::Welcome(_))), "{what}");
        raw.send(BINARY, &say(settled(machine.clone()))).await;
        raw.bytes(&bytes).await;
        assert_eq!(raw.closed().await, Some(code.number()), "{what}");
        house.let_go(before, 1, what).await;
    }
    let before = house.links_ended();
    let (mut raw, nonce) = Raw::challenged(house.addr()).await;
    let mut other = signed(&key, &nonce, hello(&key));
    other.session = Session(2);
    raw.say(&other).await;
    assert_eq!(raw.closed().await, Some(CloseCode::Protocol.number()), "the frame's session is the Hello's");
    house.let_go(before, 1, "a frame of another session").await;
    house.ends_undisturbed_by(&["raw"]).await;
}

/// It is assigned one job, and reports others, whose ids follow that one's.
#[tokio::test]
async fn a_slave_that_is_enrolled_and_lies_speaks_for_no_job_but_its_own() {
    let house = House::new(|_| {}).await;
    let order = with(work("beside", 0.0), json!({ "quantity": 20, "slave": "s0" }));
    let order = house.f.client.place(&order, None).await.unwrap().expect(201);
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    let beside: Vec<String> = order["jobs"].as_array().unwrap().iter().map(id).collect();
    assert_eq!(beside.len(), 20);

    let key = key(7);
    let (mut raw, nonce) = Raw::challenged(house.addr()).await;
    let hello = hello(&key);
    raw.say(&signed(&key, &nonce, hello.clone())).await;
    assert!(matches!(raw.message().await, Some(Message::Welcome(_))));
    let say = |message| Frame { session: hello.session, commit: Commit(0), message, signature: None };
    raw.say(&say(Message::Settled(Settled {
        session: hello.session,
        reports: vec![],
        records: vec![],
        declined: vec![],
        machine: hello.machine.clone(),
    })))
    .await;
    let own = house.f.place(with(work("own", 0.0), json!({ "slave": "raw" }))).await;
    let desired_state = loop {
        match raw.message().await.expect("work") {
            Message::DesiredState(desired_state) => break desired_state,
            other => assert!(matches!(other, Message::OperatingMode(_)), "{other:?}"),
        }
    };
    let report = Report {
        job: desired_state.job,
        attempt: desired_state.attempt,
        run: Run(1),
        generation: desired_state.generation,
        seq: ReportSeq { start: 1, count: 1 },
        state: State::Succeeded,
        waiting_for: None,
        progress: None,
        note: None,
        accepted_at: Time(0),
        started_at: None,
        started_generation: None,
        ended_at: None,
        outcome: None,
        reason: None,
        flags: Flags::default(),
        source: Source::Machine,
    };
    for attempt in [Attempt(1), Attempt(2), Attempt(limits::COUNT)] {
        for job in beside.iter().chain([&house.job]) {
            let (job, generation) = (job.parse().unwrap(), Generation(limits::COUNT));
            raw.say(&say(Message::Report(Report { job, attempt, generation, ..report.clone() }))).await;
        }
    }
    raw.say(&say(Message::Report(report))).await;
    house.f.state(&own, "succeeded").await;
    for job in &beside {
        let seen = house.f.job(job).await;
        assert!(!seen["ended_at"].is_string() && has_flag(&seen, "claimed"), "{seen:#}");
        assert!(seen["earlier"].as_array().unwrap().iter().all(|one| one["claimed"] == true), "{seen:#}");
    }
    assert_eq!(house.f.job(&house.job).await["state"], "running");
    drop(raw);
    house.f.slaves[0].open_gate("honest");
    for job in &beside {
        let seen = house.f.state(job, "succeeded").await;
        assert_eq!((&seen["slave"], &seen["attempt"]), (&"s0".into(), &1.into()), "{seen:#}");
    }
    assert_eq!(house.f.starts("beside"), 20);
}

/// Each announces the longest message allowed, sends hardly anything of it, and waits.
#[tokio::test]
async fn lengths_that_strangers_announce_cost_the_master_no_memory() {
    const STRANGERS: u64 = 200;
    let house = House::new(|options| {
        options.link.insert("handshake_seconds", 5);
    })
    .await;
    let claim = frame(FIN | BINARY, true, MAX_MESSAGE as u64, &[0; 64]);
    let mut resident = vec![house.resident()];
    for _ in 0..3 {
        let before = house.links_ended();
        let mut crowd = vec![];
        for _ in 0..STRANGERS {
            let (mut raw, _) = Raw::challenged(house.addr()).await;
            raw.bytes(&claim).await;
            crowd.push(raw);
        }
        resident.push(house.resident());
        drop(crowd);
        house.let_go(before, usize::try_from(STRANGERS).unwrap(), "a crowd").await;
    }
    let most = *resident.iter().max().unwrap();
    assert!(most < resident[0] + SLACK_BYTES, "{resident:?}, of {} claimed", STRANGERS * MAX_MESSAGE as u64);
    house.ends_undisturbed().await;
}

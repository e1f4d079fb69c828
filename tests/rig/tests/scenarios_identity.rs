//! Who is who: enrolment, copies, strangers, and those who do not speak the protocol at all.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reloop_protocol::id::{Commit, Session};
use reloop_protocol::message::{CloseCode, Message, Refuse};
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL};
use reloop_rig::process::{MasterOptions, Slave};
use reloop_rig::proxy::Proxy;
use reloop_rig::wait::eventually;
use ring::signature::Ed25519KeyPair;
use scenario::raw::{Raw, hello, signed};
use scenario::{Factory, PATIENCE, gated, work};
use serde_json::{Value, json};

#[tokio::test]
async fn c4_a_copied_box_is_refused_and_flagged_and_the_job_is_undisturbed() {
    let mut f = Factory::new().await;
    let job = f.place(gated("original")).await;
    f.state(&job, "running").await;
    let session = f.online(0).await["session"].clone();
    let net = Proxy::start(f.master.addr());
    let clone = Slave::clone_of(&f.slaves[0], net.url());
    eventually("the copy to be refused", PATIENCE, async || {
        let log = clone.log();
        if log.contains("4409") { Ok(()) } else { Err(log) }
    })
    .await;
    let seen = f.slave(0, "flagged", |slave| slave["cloned"] == true).await;
    assert_eq!(
        (seen["link"].as_str(), &seen["session"]),
        (Some("online"), &session),
        "no ping-pong: {seen:#}"
    );
    assert_eq!(seen["status"], "attention");
    assert_eq!(f.job(&job).await["state"], "running");
    drop(clone);
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    f.slaves[0].open_gate("original");
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("original"), 1);
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
    f.slaves.clear();
}

#[tokio::test]
async fn c4_a_rebooted_box_whose_old_link_is_half_open_takes_over_after_the_old_one_was_asked() {
    let mut f = Factory::with(|options| {
        options.link.insert("dead_after_seconds", 60);
    })
    .await;
    f.nets[0].half_open_existing();
    f.slaves[0].reboot();
    f.nets[0].wait_for_connections(2).await;
    let slave = f.slave(0, "back", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    assert_eq!(slave["cloned"], false, "{slave:#}");
}

#[tokio::test]
async fn a_slave_is_enrolled_by_a_token_for_its_name_and_no_other_and_only_once() {
    let mut f =
        Factory::empty(MasterOptions { enrollment: "token".to_owned(), ..MasterOptions::default() }).await;
    f.add(|_| {});
    refused(&f, 0, CloseCode::NotEnrolled).await;
    assert_eq!(f.client.slave("s0").await.unwrap().status, 404, "a stranger leaves no trace");

    show_token(&f, 0, &json!({"name": "s9"})).await;
    refused_for(&f, 0, CloseCode::NotEnrolled, "another name").await;
    show_token(&f, 0, &json!({"name": "s0"})).await;
    f.online(0).await;

    let token = token(&f, &json!({"uses": 1})).await;
    f.add(|_| {});
    f.add(|_| {});
    enroll(&f, 1, &token).await;
    f.online(1).await;
    enroll(&f, 2, &token).await;
    refused_for(&f, 2, CloseCode::NotEnrolled, "spent").await;
    enroll(&f, 2, "xenr1.0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef").await;
    refused_for(&f, 2, CloseCode::NotEnrolled, "not known").await;

    // Its enrolment is its key's, and needs no token again.
    f.slaves[0].restart();
    f.master.restart().await;
    f.online(0).await;
}

#[tokio::test]
async fn c8_a_revoked_slave_finishes_its_job_and_is_let_in_again_by_a_token_only() {
    let mut f = Factory::new().await;
    let job = f.place(gated("revoked")).await;
    f.state(&job, "running").await;
    f.client.forget("s0", &json!({})).await.unwrap().expect(202);
    refused(&f, 0, CloseCode::Revoked).await;
    f.held_as(0, &job, "running").await;
    f.slaves[0].open_gate("revoked");
    f.held_as(0, &job, "succeeded").await;
    f.slaves[0].restart();
    refused(&f, 0, CloseCode::Revoked).await;
    assert_eq!(f.job(&job).await["state"], "running", "the last that was heard of it");
    show_token(&f, 0, &json!({})).await;
    f.state(&job, "succeeded").await;
    f.holds_nothing(0).await;
    assert_eq!(f.slaves[0].starts("revoked"), 1);
}

#[tokio::test]
async fn a_stranger_waits_for_approval() {
    let mut f =
        Factory::empty(MasterOptions { enrollment: "approve".to_owned(), ..MasterOptions::default() }).await;
    f.add(|_| {});
    f.slave(0, "listed", |slave| slave["enrolled"] == "pending").await;
    let job = f.place(with_slave(work("approved", 0.0))).await;
    assert_eq!(f.slaves[0].starts("approved"), 0);
    f.client.post("/v1/slaves/s0/approve", &json!({})).await.unwrap().expect(202);
    f.state(&job, "succeeded").await;
}

#[tokio::test]
async fn c7_a_name_that_is_taken_is_refused_and_the_first_goes_on() {
    let mut f = Factory::new().await;
    let second = f.add(|options| options.name = "s0".to_owned());
    refused(&f, second, CloseCode::NameTaken).await;
    let job = f.place(with_slave(work("first", 0.0))).await;
    f.state(&job, "succeeded").await;
    assert_eq!((f.slaves[0].starts("first"), f.slaves[second].starts("first")), (1, 0));
}

#[tokio::test]
async fn c7_a_name_that_a_person_frees_goes_to_the_new_key_and_the_old_keys_job_stays_with_it() {
    let mut f = Factory::new().await;
    let job = f.place(gated("old")).await;
    f.state(&job, "running").await;
    let second = f.add(|options| options.name = "s0".to_owned());
    refused(&f, second, CloseCode::NameTaken).await;
    f.client.forget("s0", &json!({})).await.unwrap().expect(202);
    refused(&f, 0, CloseCode::Revoked).await;
    f.at_machine(second, "online", |status| status["link"]["state"] == "online").await;
    let next = f.place(with_slave(work("new", 0.0))).await;
    f.state(&next, "succeeded").await;
    assert_eq!((f.slaves[0].starts("new"), f.slaves[second].starts("new")), (0, 1));
    let seen = f.job(&job).await;
    assert_eq!(seen["state"], "running", "{seen:#}");
    f.held_as(0, &job, "running").await;
    assert_eq!((f.slaves[0].starts("old"), f.slaves[second].starts("old")), (1, 0));
}

#[tokio::test]
async fn c6_a_disk_in_another_box_starts_nothing_until_a_person_has_looked() {
    let dir = tempfile::tempdir().unwrap();
    let id = dir.path().join("machine-id");
    std::fs::write(&id, "one box\n").unwrap();
    let line = format!("machine_id_file = {:?}", id.to_str().unwrap());
    let mut f = Factory::with(|options| options.config.clone_from(&line)).await;
    let first = f.place(work("first", 0.0)).await;
    f.state(&first, "succeeded").await;
    f.slaves[0].restart();
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    f.at_machine(0, "at ease", |status| status["machine"]["attention"].is_null()).await;
    f.slaves[0].power_off();
    std::fs::write(&id, "another box\n").unwrap();
    f.slaves[0].restart();
    let seen = f.slave(0, "asking", |slave| slave["link"] == "online" && !slave["attention"].is_null()).await;
    assert_eq!((&seen["attention"]["code"], &seen["status"]), (&json!("moved"), &json!("attention")));
    let next = f.place(with_slave(work("next", 0.0))).await;
    let why = f.client.explain(&next).await.unwrap().expect(200);
    assert_eq!(why["slaves"][0]["why_not"], "attention", "{why:#}");
    assert_eq!(f.slaves[0].starts("next"), 0);
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    f.state(&next, "succeeded").await;
    // What a person has confirmed is what it is.
    f.slaves[0].restart();
    f.slave(0, "back", |slave| slave["link"] == "online" && slave["session"] == 4).await;
    f.at_machine(0, "at ease", |status| status["machine"]["attention"].is_null()).await;
}

#[tokio::test]
async fn d6_a_slave_of_another_master_is_told_so_and_tells_nothing_of_its_jobs() {
    let mut f = Factory::new().await;
    let job = f.place(gated("mine")).await;
    f.state(&job, "running").await;
    let other = MasterOptions { enrollment: "token".to_owned(), ..MasterOptions::default() };
    let other = reloop_rig::process::Master::start(other).await;
    f.nets[0].redirect(other.addr());
    f.nets[0].drop_existing(reloop_rig::proxy::Close::Fin);
    refused(&f, 0, CloseCode::WrongMaster).await;
    assert_eq!(other.client().jobs("").await.unwrap().expect(200)["data"], json!([]));
    // A person's word there: the machine belongs to it now, with what it runs.
    let made = other.client().post("/v1/enroll-tokens", &json!({})).await.unwrap().expect(201);
    enroll(&f, 0, made["token"].as_str().unwrap()).await;
    let client = other.client();
    eventually("the job to be adopted", PATIENCE, async || {
        let seen = client.job(&job).await.map_err(|error| json!(error.to_string()))?.body;
        if seen["state"] == "running" { Ok(()) } else { Err(seen) }
    })
    .await;
    f.slaves[0].open_gate("mine");
    f.holds_nothing(0).await;
    assert_eq!(client.job(&job).await.unwrap().expect(200)["state"], "succeeded");
    assert_eq!(f.slaves[0].starts("mine"), 1);
    f.slaves.clear();
}

fn with_slave(order: Value) -> Value {
    scenario::with(order, json!({"slave": "s0"}))
}

/// Waits until the slave says that it was refused with this code.
async fn refused(f: &Factory, slave: usize, code: CloseCode) {
    refused_for(f, slave, code, "").await;
}

/// The same, with these words.
async fn refused_for(f: &Factory, slave: usize, code: CloseCode, words: &str) {
    f.at_machine(slave, &format!("refused with {} {words}", code.number()), |status| {
        let trouble = status["link"]["trouble"].as_str().unwrap_or_default();
        status["link"]["state"] != "online"
            && trouble.contains(&code.number().to_string())
            && trouble.contains(words)
    })
    .await;
}

async fn token(f: &Factory, body: &Value) -> String {
    let made = f.client.post("/v1/enroll-tokens", body).await.unwrap().expect(201);
    made["token"].as_str().unwrap().to_owned()
}

async fn show_token(f: &Factory, slave: usize, body: &Value) {
    let token = token(f, body).await;
    enroll(f, slave, &token).await;
}

/// Gives the slave a token, and waits until it dials with it.
async fn enroll(f: &Factory, slave: usize, token: &str) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, token).unwrap();
    let connections = f.nets[slave].counts().connections;
    f.locally(slave, &["enroll", "--token-file", file.to_str().unwrap()]).await;
    f.nets[slave].wait_for_connections(connections + 1).await;
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_is_closed_with_the_documented_code_and_the_master_goes_on() {
    let mut options = MasterOptions::default();
    options.link.insert("handshake_seconds", 1);
    let mut f = Factory::empty(options).await;
    let addr = f.master.addr();
    let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).unwrap();
    let other = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).unwrap();

    let (_, answer) = Raw::ask(addr, "").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");

    let (mut raw, _) = Raw::challenged(addr).await;
    raw.send(1, b"{\"hello\": true}").await;
    assert_eq!(raw.closed().await, Some(CloseCode::Protocol.number()));

    let (mut raw, _) = Raw::challenged(addr).await;
    raw.send(2, &[0xff; 100]).await;
    assert_eq!(raw.closed().await, Some(CloseCode::Protocol.number()));

    let (mut raw, _) = Raw::challenged(addr).await;
    let answer = Message::Answer(reloop_protocol::message::Answer {
        id: 1,
        answer: reloop_protocol::message::Reply::Done,
    });
    raw.say(&Frame { session: Session(1), commit: Commit(0), message: answer, signature: None }).await;
    assert_eq!(raw.closed().await, Some(CloseCode::Protocol.number()), "a Hello comes first");

    let (mut raw, nonce) = Raw::challenged(addr).await;
    let mut forged = signed(&other, &nonce, hello(&key));
    raw.say(&forged).await;
    assert_eq!(raw.closed().await, Some(CloseCode::NotAuthentic.number()), "another key's signature");
    let (mut raw, _) = Raw::challenged(addr).await;
    raw.say(&signed(&key, &nonce, hello(&key))).await;
    assert_eq!(raw.closed().await, Some(CloseCode::NotAuthentic.number()), "a signature over an older nonce");
    forged.signature = None;
    let (mut raw, _) = Raw::challenged(addr).await;
    raw.say(&forged).await;
    assert_eq!(raw.closed().await, Some(CloseCode::NotAuthentic.number()), "no signature");

    let (mut raw, nonce) = Raw::challenged(addr).await;
    let mut future = hello(&key);
    future.protocol = reloop_protocol::message::Versions { oldest: 900, newest: 901 };
    raw.say(&signed(&key, &nonce, future)).await;
    let (_, refusal) = raw.frame().await.unwrap();
    let Frame { message: Message::Refuse(Refuse { code, .. }), .. } =
        wire::decode(&refusal, wire::MAX_MESSAGE).unwrap()
    else {
        panic!("no Refuse");
    };
    assert_eq!((code, raw.closed().await), (CloseCode::Version, Some(CloseCode::Version.number())));

    let (mut raw, nonce) = Raw::challenged(addr).await;
    raw.say(&signed(&key, &nonce, hello(&key))).await;
    raw.say(&signed(&key, &nonce, hello(&key))).await;
    assert_eq!(raw.closed().await, Some(CloseCode::Protocol.number()), "a second Hello");

    let (mut raw, _) = Raw::challenged(addr).await;
    let began = Instant::now();
    assert_eq!(raw.closed().await, Some(CloseCode::TooSlow.number()), "not a word");
    assert!(began.elapsed() < Duration::from_secs(4));

    let (mut raw, nonce) = Raw::challenged(addr).await;
    let began = Instant::now();
    raw.say(&signed(&key, &nonce, hello(&key))).await;
    assert_eq!(raw.closed().await, Some(CloseCode::TooSlow.number()), "no Settled");
    assert!(began.elapsed() < Duration::from_secs(4));

    f.add(|_| {});
    f.online(0).await;
    let job = f.place(work("after", 0.0)).await;
    f.state(&job, "succeeded").await;
}

#[tokio::test]
async fn who_finds_the_house_full_waits_for_a_place_or_is_told_when_to_come_back() {
    let mut options = MasterOptions::default();
    options.link.insert("max_handshakes", 2);
    options.link.insert("max_waiting", 1);
    let mut f = Factory::empty(options).await;
    let addr = f.master.addr();
    let held = [Raw::challenged(addr).await, Raw::challenged(addr).await];
    let mut waits = tokio::spawn(async move { Raw::challenged(addr).await });
    let is_late = tokio::time::timeout(Duration::from_secs(1), &mut waits).await;
    assert!(is_late.is_err(), "there is no place for a third");
    let upgrade = format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
    );
    let (_, answer) = Raw::ask(addr, &upgrade).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.to_lowercase().contains("retry-after: "),
        "{answer}"
    );
    f.client.livez().await.unwrap().expect(200);
    drop(held);
    drop(waits.await.unwrap());
    f.add(|_| {});
    f.online(0).await;
}

#[tokio::test]
async fn a_request_that_makes_no_sense_is_refused_with_its_reason_and_places_nothing() {
    let f = Factory::new().await;
    for (body, code) in [
        (json!([]), "bad_request"),
        (json!({}), "bad_request"),
        (json!({"program": 1}), "bad_request"),
        (json!({"program": "work", "quantity": 0}), "bad_request"),
        (json!({"program": "work", "quantity": 1_000_000}), "bad_request"),
        (json!({"program": "work", "start": {"not_before": "tomorrow"}}), "bad_request"),
        (json!({"program": "work", "params": {"tag": 1}}), "bad_request"),
        (json!({"program": "work", "dead_line": "x"}), "unknown_field"),
        (json!({"program": "work", "on_interrupt": "maybe"}), "bad_request"),
        (json!({"program": "work", "params": {"tag": "x".repeat(5000)}}), "bad_request"),
    ] {
        let answer = f.client.place(&body, None).await.unwrap();
        assert_eq!(answer.headers["content-type"], "application/problem+json");
        assert_eq!(answer.expect(400)["code"], code, "{body}");
    }
    let large = json!({"program": "work", "name": "x".repeat(1 << 20)});
    f.client.place(&large, None).await.unwrap().expect(413);
    assert_eq!(f.client.get("/v1/nothing").await.unwrap().expect(404)["code"], "not_found");
    f.client.job("job_nonsense").await.unwrap().expect(404);
    f.client.post("/v1/slaves", &json!({})).await.unwrap().expect(405);
    f.client.jobs("colour=red").await.unwrap().expect(400);
    assert_eq!(f.client.orders("").await.unwrap().expect(200)["data"], json!([]));
    assert_eq!(f.slaves[0].machine_log(), []);
}

#[tokio::test]
async fn d8_an_idempotency_key_stands_for_one_order_also_after_the_master_was_killed() {
    let mut f = Factory::new().await;
    let order = work("once", 0.0);
    let first = f.client.place(&order, Some("k1")).await.unwrap().expect(201);
    let job = scenario::job_of(&first);
    f.state(&job, "succeeded").await;
    for round in 0..3 {
        if round == 1 {
            f.master.restart().await;
        }
        let again = f.client.place(&order, Some("k1")).await.unwrap();
        assert_eq!(again.headers["idempotency-replayed"], "true");
        assert_eq!(again.expect(201)["id"], first["id"]);
    }
    let other = f.client.place(&work("twice", 0.0), Some("k1")).await.unwrap().expect(422);
    assert_eq!(other["code"], "idempotency_key_reused");
    let together = (0..8).map(|_| {
        let (client, order) = (f.client.clone(), work("together", 0.0));
        tokio::spawn(async move { client.place(&order, Some("k2")).await.unwrap().expect(201) })
    });
    let mut jobs = vec![];
    for placed in together.collect::<Vec<_>>() {
        jobs.push(scenario::job_of(&placed.await.unwrap()));
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 1, "one order, however many ask at once");
    f.state(&jobs[0], "succeeded").await;
    assert_eq!(
        (f.slaves[0].starts("once"), f.slaves[0].starts("together"), f.slaves[0].starts("twice")),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn each_role_may_do_what_it_may_and_no_more() {
    let f = Factory::new().await;
    let mut clients = BTreeMap::new();
    for role in ["viewer", "client", "operator"] {
        let made =
            f.client.post("/v1/tokens", &json!({"name": role, "role": role})).await.unwrap().expect(201);
        clients.insert(role, f.client.with_token(made["token"].as_str().unwrap()));
    }
    let nobody = f.client.with_token("x".repeat(70));
    for path in ["/v1/jobs", "/v1/slaves", "/v1/events", "/metrics"] {
        assert_eq!(nobody.get(path).await.unwrap().expect(401)["code"], "unauthorized");
    }
    nobody.livez().await.unwrap().expect(200);
    let order = work("role", 0.0);
    clients["viewer"].slaves().await.unwrap().expect(200);
    assert_eq!(clients["viewer"].place(&order, None).await.unwrap().expect(403)["code"], "forbidden");
    let placed = clients["client"].place(&order, None).await.unwrap().expect(201);
    let job = scenario::job_of(&placed);
    clients["client"].mode("s0", &json!({"mode": "draining"})).await.unwrap().expect(403);
    clients["client"].abandon(&job, &json!({})).await.unwrap().expect(403);
    clients["operator"].mode("s0", &json!({"mode": "production"})).await.unwrap().expect(202);
    clients["operator"].post("/v1/tokens", &json!({"name": "x", "role": "admin"})).await.unwrap().expect(403);
    clients["operator"].forget("s0", &json!({})).await.unwrap().expect(403);
    f.state(&job, "succeeded").await;
}

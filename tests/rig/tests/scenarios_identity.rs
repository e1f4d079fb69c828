//! Enrolment, copies, strangers, and peers that do not speak the protocol.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reloop_protocol::id::{Commit, Session};
use reloop_protocol::message::{Answer, CloseCode, Message, Refuse, Reply, Versions};
use reloop_protocol::wire::{self, Frame};
use reloop_rig::factory::{Factory, for_s0, gated, job_of, work};
use reloop_rig::process::{Master, MasterOptions, Slave};
use reloop_rig::proxy::{Close, Proxy};
use reloop_rig::raw::{BINARY, Raw, TEXT, hello, key, signed, upgrade_headers};
use reloop_rig::wait::{PATIENCE, eventually, says};
use serde_json::{Value, json};

/// A master with this enrolment: `open`, `token` or `approve`.
async fn enrolling(enrollment: &str) -> Factory {
    let enrollment = enrollment.to_owned();
    Factory::empty(MasterOptions { enrollment, ..MasterOptions::default() }).await
}

/// Waits until the slave reports that it was refused with this code and these words.
async fn refused(f: &Factory, slave: usize, code: CloseCode, words: &str) {
    f.at_machine(slave, &format!("refused with {} {words}", code.number()), |status| {
        let trouble = status["link"]["trouble"].as_str().unwrap_or_default();
        status["link"]["state"] != "online"
            && trouble.contains(&code.number().to_string())
            && trouble.contains(words)
    })
    .await;
}

async fn token(f: &Factory, body: Value) -> String {
    let made = f.client.post("/v1/enroll-tokens", &body).await.unwrap().expect(201);
    made["token"].as_str().unwrap().to_owned()
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
async fn c4_a_copied_box_is_refused_and_flagged_and_the_job_is_undisturbed() {
    let f = Factory::new().await;
    let job = f.running(gated("original")).await;
    let net = Proxy::start(f.master.addr());
    let clone = Slave::clone_of(&f.slaves[0], net.url());
    says(|| clone.log(), &CloseCode::DuplicateIdentity.number().to_string()).await;
    let seen = f.slave(0, "flagged", |slave| slave["cloned"] == true).await;
    assert_eq!((&seen["link"], &seen["session"]), (&json!("online"), &json!(1)), "its link stands: {seen:#}");
    assert_eq!(seen["status"], "attention");
    assert_eq!(f.job(&job).await["state"], "running");
    drop(clone);
    f.slave_command(0, "clear", json!({})).await;
    f.finish(&job, "original").await;
    f.done(work("next", 0.0)).await;
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
    let slave = f.session(0, 2).await;
    assert_eq!(slave["cloned"], false, "{slave:#}");
}

#[tokio::test]
async fn a_slave_is_enrolled_by_a_token_for_its_name_and_no_other_and_only_once() {
    let mut f = enrolling("token").await;
    f.dial(|_| {});
    refused(&f, 0, CloseCode::NotEnrolled, "").await;
    assert_eq!(f.client.slave("s0").await.unwrap().status, 404, "a stranger leaves no trace");
    enroll(&f, 0, &token(&f, json!({ "name": "s9" })).await).await;
    refused(&f, 0, CloseCode::NotEnrolled, "another name").await;
    enroll(&f, 0, &token(&f, json!({ "name": "s0" })).await).await;
    f.online(0).await;

    let once = token(&f, json!({ "uses": 1 })).await;
    f.dial(|_| {});
    f.dial(|_| {});
    enroll(&f, 1, &once).await;
    f.online(1).await;
    enroll(&f, 2, &once).await;
    refused(&f, 2, CloseCode::NotEnrolled, "spent").await;
    enroll(&f, 2, "xenr1.0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef").await;
    refused(&f, 2, CloseCode::NotEnrolled, "not known").await;

    // An enrolled key needs no token.
    f.slaves[0].restart();
    f.master.restart().await;
    f.online(0).await;
}

#[tokio::test]
async fn c8_a_revoked_slave_finishes_its_job_and_is_let_in_again_by_a_token_only() {
    let mut f = Factory::new().await;
    let job = f.running(gated("revoked")).await;
    f.slave_command(0, "forget", json!({})).await;
    refused(&f, 0, CloseCode::Revoked, "").await;
    f.held_as(0, &job, "running").await;
    f.slaves[0].open_gate("revoked");
    f.held_as(0, &job, "succeeded").await;
    f.slaves[0].restart();
    refused(&f, 0, CloseCode::Revoked, "").await;
    assert_eq!(f.job(&job).await["state"], "running", "the last report before it was revoked");
    enroll(&f, 0, &token(&f, json!({})).await).await;
    f.state(&job, "succeeded").await;
    f.holds_nothing(0).await;
    f.started_once(&["revoked"]);
}

#[tokio::test]
async fn a_stranger_waits_for_approval() {
    let mut f = enrolling("approve").await;
    f.dial(|_| {});
    f.slave(0, "listed", |slave| slave["enrolled"] == "pending").await;
    let job = f.place(for_s0(work("approved", 0.0))).await;
    f.never_started(&["approved"]);
    f.slave_command(0, "approve", json!({})).await;
    f.state(&job, "succeeded").await;
}

#[tokio::test]
async fn c7_a_name_that_a_person_frees_goes_to_the_new_key_and_the_old_keys_job_stays_with_it() {
    let mut f = Factory::new().await;
    let second = f.dial(|options| options.name = "s0".to_owned());
    refused(&f, second, CloseCode::NameTaken, "").await;
    f.done(for_s0(work("first", 0.0))).await;
    let job = f.running(gated("old")).await;
    f.slave_command(0, "forget", json!({})).await;
    refused(&f, 0, CloseCode::Revoked, "").await;
    f.at_machine(second, "online", |status| status["link"]["state"] == "online").await;
    f.done(for_s0(work("new", 0.0))).await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.held_as(0, &job, "running").await;
    for (tag, starts) in [("first", (1, 0)), ("old", (1, 0)), ("new", (0, 1))] {
        assert_eq!((f.slaves[0].starts(tag), f.slaves[second].starts(tag)), starts, "{tag}");
    }
}

#[tokio::test]
async fn c6_a_disk_in_another_box_starts_nothing_until_a_person_has_looked() {
    let dir = tempfile::tempdir().unwrap();
    let id = dir.path().join("machine-id");
    std::fs::write(&id, "one box\n").unwrap();
    let line = format!("machine_id_file = {:?}", id.to_str().unwrap());
    let mut f = Factory::with(|options| options.config.clone_from(&line)).await;
    let at_ease = async |f: &Factory, session| {
        f.session(0, session).await;
        f.at_machine(0, "at ease", |status| status["machine"]["attention"].is_null()).await;
    };
    f.done(work("first", 0.0)).await;
    f.slaves[0].restart();
    at_ease(&f, 2).await;

    f.slaves[0].power_off();
    std::fs::write(&id, "another box\n").unwrap();
    f.slaves[0].restart();
    assert_eq!(f.attention(0, "moved").await["status"], "attention");
    let next = f.place(for_s0(work("next", 0.0))).await;
    assert_eq!(f.why_not(&next).await, ["attention"]);
    f.never_started(&["next"]);
    f.slave_command(0, "clear", json!({})).await;
    f.state(&next, "succeeded").await;

    // A person has confirmed the new box.
    f.slaves[0].restart();
    at_ease(&f, 4).await;
}

#[tokio::test]
async fn d6_a_slave_of_another_master_is_told_so_and_tells_nothing_of_its_jobs() {
    let mut f = Factory::new().await;
    let job = f.running(gated("mine")).await;
    let enrollment = "token".to_owned();
    let other = Master::start(MasterOptions { enrollment, ..MasterOptions::default() }).await;
    f.nets[0].redirect(other.addr());
    f.nets[0].drop_existing(Close::Fin);
    refused(&f, 0, CloseCode::WrongMaster, "").await;
    let client = other.client();
    assert_eq!(client.jobs("").await.unwrap().expect(200)["data"], json!([]));
    // With a token of the other master a person gives the machine to it, with its running job.
    let made = client.post("/v1/enroll-tokens", &json!({})).await.unwrap().expect(201);
    enroll(&f, 0, made["token"].as_str().unwrap()).await;
    eventually("the job to be adopted", PATIENCE, async || {
        let seen = client.job(&job).await.map_err(|error| json!(error.to_string()))?.body;
        if seen["state"] == "running" { Ok(()) } else { Err(seen) }
    })
    .await;
    f.slaves[0].open_gate("mine");
    f.holds_nothing(0).await;
    assert_eq!(client.job(&job).await.unwrap().expect(200)["state"], "succeeded");
    f.started_once(&["mine"]);
    // The slave's directory belongs to this factory, so the slave ends first.
    f.slaves.clear();
}

#[tokio::test]
async fn who_does_not_speak_the_protocol_is_closed_with_the_documented_code_and_the_master_goes_on() {
    let mut options = MasterOptions::default();
    options.link.insert("handshake_seconds", 1);
    let mut f = Factory::empty(options).await;
    let addr = f.master.addr();
    let (own, other) = (key(7), key(8));
    let closed = async |mut raw: Raw, code: CloseCode, what: &str| {
        assert_eq!(raw.closed().await, Some(code.number()), "{what}");
    };

    let (_, answer) = Raw::ask(addr, "").await;
    assert!(answer.starts_with("HTTP/1.1 426"), "{answer}");

    let answer = Message::Answer(Answer { id: 1, answer: Reply::Done });
    let answer = Frame { session: Session(1), commit: Commit(0), message: answer, signature: None };
    for (what, opcode, bytes) in [
        ("text", TEXT, b"{\"hello\": true}".to_vec()),
        ("garbage", BINARY, vec![0xff; 100]),
        ("no Hello first", BINARY, wire::encode(&answer)),
    ] {
        let (mut raw, _) = Raw::challenged(addr).await;
        raw.send(opcode, &bytes).await;
        closed(raw, CloseCode::Protocol, what).await;
    }

    let (_, older_nonce) = Raw::challenged(addr).await;
    for what in ["another key's signature", "a signature over an older nonce", "no signature"] {
        let (mut raw, nonce) = Raw::challenged(addr).await;
        let mut frame = match what {
            "another key's signature" => signed(&other, &nonce, hello(&own)),
            "a signature over an older nonce" => signed(&own, &older_nonce, hello(&own)),
            _ => signed(&own, &nonce, hello(&own)),
        };
        if what == "no signature" {
            frame.signature = None;
        }
        raw.say(&frame).await;
        closed(raw, CloseCode::NotAuthentic, what).await;
    }

    let (mut raw, nonce) = Raw::challenged(addr).await;
    let mut future = hello(&own);
    future.protocol = Versions { oldest: 900, newest: 901 };
    raw.say(&signed(&own, &nonce, future)).await;
    let refusal = raw.message().await;
    assert!(matches!(refusal, Some(Message::Refuse(Refuse { code: CloseCode::Version, .. }))), "{refusal:?}");
    closed(raw, CloseCode::Version, "a protocol to come").await;

    let (mut raw, nonce) = Raw::challenged(addr).await;
    raw.say(&signed(&own, &nonce, hello(&own))).await;
    raw.say(&signed(&own, &nonce, hello(&own))).await;
    closed(raw, CloseCode::Protocol, "a second Hello").await;

    for (what, says_hello) in [("silence", false), ("no Settled", true)] {
        let (mut raw, nonce) = Raw::challenged(addr).await;
        let began = Instant::now();
        if says_hello {
            raw.say(&signed(&own, &nonce, hello(&own))).await;
        }
        closed(raw, CloseCode::TooSlow, what).await;
        assert!(began.elapsed() < Duration::from_secs(4), "{what}");
    }

    f.add(|_| {}).await;
    f.done(work("after", 0.0)).await;
}

#[tokio::test]
async fn a_slave_at_a_busy_master_waits_for_a_place_or_is_told_when_to_come_back() {
    let mut options = MasterOptions::default();
    options.link.insert("max_handshakes", 2);
    options.link.insert("max_waiting", 1);
    let mut f = Factory::empty(options).await;
    let addr = f.master.addr();
    let held = [Raw::challenged(addr).await, Raw::challenged(addr).await];
    let mut waits = tokio::spawn(async move { Raw::challenged(addr).await });
    let is_late = tokio::time::timeout(Duration::from_secs(1), &mut waits).await;
    assert!(is_late.is_err(), "there is no place for a third");
    let (_, answer) = Raw::ask(addr, &upgrade_headers()).await;
    let answer = answer.to_lowercase();
    assert!(answer.starts_with("http/1.1 503") && answer.contains("retry-after: "), "{answer}");
    f.client.livez().await.unwrap().expect(200);
    drop(held);
    drop(waits.await.unwrap());
    f.add(|_| {}).await;
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
    let job = job_of(&first);
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
        jobs.push(job_of(&placed.await.unwrap()));
    }
    jobs.dedup();
    assert_eq!(jobs.len(), 1, "one order, however many ask at once");
    f.state(&jobs[0], "succeeded").await;
    f.started_once(&["once", "together"]);
    f.never_started(&["twice"]);
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
    let job = job_of(&placed);
    for (role, path, body, status) in [
        ("client", "/v1/slaves/s0/mode", json!({ "mode": "draining" }), 403),
        ("client", &format!("/v1/jobs/{job}/abandon"), json!({}), 403),
        ("operator", "/v1/slaves/s0/mode", json!({ "mode": "production" }), 202),
        ("operator", "/v1/tokens", json!({ "name": "x", "role": "admin" }), 403),
        ("operator", "/v1/slaves/s0/forget", json!({}), 403),
    ] {
        clients[role].post(path, &body).await.unwrap().expect(status);
    }
    f.state(&job, "succeeded").await;
}

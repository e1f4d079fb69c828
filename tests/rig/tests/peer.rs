//! The slave in Python against the real master, through a network that fails: two programs that share nothing but
//! `protocol/PROTOCOL.md`.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs;

use reloop_rig::daemon::{copy_dir, workspace};
use reloop_rig::factory::{Factory, has_flag, in_ms, ms, passed, rfc3339, starting};
use reloop_rig::peer::{Peer, check_golden};
use reloop_rig::process::{Master, MasterOptions};
use reloop_rig::proxy::{Close, Direction, Proxy};
use reloop_rig::wait::{PATIENCE, eventually, says};
use serde_json::{Value, json};

/// A master, the Python slave `py`, and the network between them.
struct Line {
    f: Factory,
    net: Proxy,
    peer: Peer,
}

impl Line {
    /// Connected. `None` without Python.
    async fn new(args: &[&str]) -> Option<Self> {
        let f = Factory::empty(MasterOptions::default()).await;
        let net = Proxy::start(f.master.addr());
        let peer = Peer::start("py", net.url(), args)?;
        let line = Self { f, net, peer };
        line.slave("online", |slave| slave["link"] == "online").await;
        Some(line)
    }

    async fn slave(&self, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("the slave to be {what}"), PATIENCE, async || {
            let seen = self.f.client.slave(self.peer.name()).await;
            let seen = seen.map_err(|error| error.to_string())?;
            if seen.status == 200 && look(&seen.body) {
                Ok(seen.body)
            } else {
                Err(format!("{:#}\n{}", seen.body, self.peer.log()))
            }
        })
        .await
    }

    async fn offline(&self) -> Value {
        self.slave("offline", |slave| slave["link"] == "offline").await
    }

    async fn cut(&self) {
        self.net.cut(Close::Reset);
        self.offline().await;
    }

    async fn online(&self) -> Value {
        self.slave("online", |slave| slave["link"] == "online").await
    }

    /// Waits until the slave's own state has the job like this.
    async fn held_as(&self, job: &str, state: &str) -> Value {
        eventually(&format!("{job} {state} at the slave"), PATIENCE, async || match self.peer.held(job) {
            Some(held) if held["report"]["state"] == state => Ok(held["report"].clone()),
            held => Err(format!("{held:#?}\n{}", self.peer.log())),
        })
        .await
    }

    /// Waits until the slave has no job and both views are equal.
    async fn forgotten(&self, job: &str) {
        eventually(&format!("{job} forgotten by the slave"), PATIENCE, async || match self.peer.held(job) {
            None => Ok(()),
            Some(held) => Err(held),
        })
        .await;
        let state = self.peer.state();
        let recent_outcomes = state["recent_outcomes"].as_array().unwrap();
        let kept = &recent_outcomes.last().unwrap()["report"];
        let seen = self.f.job(job).await;
        assert_eq!(seen["state"], kept["state"], "{seen:#}\n{kept:#}");
        for time in ["accepted_at", "started_at", "ended_at"] {
            let told = kept[time].as_i64().map(rfc3339);
            let told = told.map(|told| ms(&json!(told)));
            assert_eq!(seen[time].as_str().map(|_| ms(&seen[time])), told, "{time}: {seen:#}\n{kept:#}");
        }
        assert_eq!(seen["outcome"]["text"], kept["outcome"]["text"]);
    }

    /// A command for the slave that the master has to accept.
    async fn command(&self, verb: &str, body: Value) {
        self.f.client.slave_command(self.peer.name(), verb, &body).await.unwrap().expect(202);
    }
}

fn sleep(seconds: f64) -> Value {
    json!({"program": "sleep", "params": {"seconds": seconds.to_string()}})
}

#[test]
fn the_python_slave_reads_every_golden_vector_and_writes_the_same_bytes() {
    let golden = workspace().join("protocol/tests/golden/v1.txt");
    let Some(said) = check_golden(&golden) else { return };
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // The check can fail: flip one bit in one vector.
    let vectors = fs::read_to_string(&golden).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let broken = dir.path().join("v1.txt");
    fs::write(&broken, vectors.replacen("forget 09fc7111010009", "forget 09fc7111010079", 1)).unwrap();
    let said = check_golden(&broken).unwrap();
    let words = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success() && words.contains("no variant"), "{words}");
}

#[tokio::test]
async fn the_python_slave_is_enrolled_does_a_job_and_forgets_it_when_told() {
    let Some(l) = Line::new(&[]).await else { return };
    let slave = l.online().await;
    assert_eq!((slave["enrolled"].as_str(), slave["activity"].as_str()), (Some("yes"), Some("ready")));
    let job = l.f.place(sleep(1.5)).await;
    l.f.until(&job, "under way and told so", |job| job["progress"].as_f64() > Some(0.3)).await;
    let failing =
        l.f.waiting(json!({"program": "sleep", "params": {"seconds": "0.1", "fail": "yes"}}), "turn").await;
    let seen = l.f.state(&job, "succeeded").await;
    assert_eq!((seen["attempt"].as_u64(), seen["progress"].as_f64()), (Some(1), Some(1.0)), "{seen:#}");
    let took = ms(&seen["ended_at"]) - ms(&seen["started_at"]);
    // Each end is rounded, and converted to the master's time.
    assert!((1490..1600).contains(&took), "{took} ms");
    let seen = l.f.state(&failing, "failed").await;
    assert_eq!(seen["reason"]["code"], "machine_fault");
    l.forgotten(&failing).await;
    assert_eq!((l.peer.starts(&job), l.peer.starts(&failing)), (1, 1));
    assert_eq!(l.peer.state()["jobs"], json!([]));
}

#[tokio::test]
async fn a_job_that_the_python_slaves_machine_could_not_begin_does_not_end() {
    let Some(l) = Line::new(&[]).await else { return };
    let first = l.f.place(sleep(0.1)).await;
    l.f.state(&first, "succeeded").await;
    let notes = l.peer.state_dir().join("machine.json");
    eventually("its machine has let the first job go", PATIENCE, async || match fs::read_to_string(&notes) {
        Ok(text) if text == "{}" => Ok(()),
        other => Err(other),
    })
    .await;
    // The machine records what it begins in this file, and can't here.
    let in_the_way = l.peer.state_dir().join("machine.new");
    fs::create_dir(&in_the_way).unwrap();
    let job = l.f.place(sleep(0.2)).await;
    l.f.until(&job, "kept for the machine", |job| job["reason"]["code"] == "machine_unfit").await;
    assert_eq!(l.f.job(&job).await["state"], "accepted");
    l.slave("in need of a person", |slave| slave["activity"] == "attention").await;
    fs::remove_dir(&in_the_way).unwrap();
    l.command("clear", json!({})).await;
    let seen = l.f.state(&job, "succeeded").await;
    assert_eq!(seen["attempt"], 1, "{seen:#}");
    l.forgotten(&job).await;
}

#[tokio::test]
async fn the_python_slave_refuses_what_it_must_and_says_why() {
    let Some(l) = Line::new(&["--capacity", "1"]).await else { return };
    for (order, code) in [
        (json!({"program": "sleep", "params": {}, "slave": "py"}), "bad_params"),
        (json!({"program": "sleep", "params": {"seconds": "soon"}, "slave": "py"}), "bad_params"),
        (json!({"program": "sleep", "params": {"seconds": "1", "x": "y"}, "slave": "py"}), "bad_params"),
    ] {
        let job = l.f.place(order).await;
        let seen = l.f.state(&job, "rejected").await;
        assert_eq!(seen["reason"]["code"], code, "{seen:#}");
        assert_eq!(l.peer.starts(&job), 0);
    }
    let job = l.f.running(sleep(600.0)).await;
    let second = l.f.place(sleep(0.0)).await;
    l.f.job_command(&job, "pause", json!({})).await;
    let seen = l.f.until(&job, "not paused", |job| job["reason"]["code"] == "pause_refused").await;
    assert_eq!(seen["state"], "running", "a machine that cannot pause goes on");
    assert_eq!(l.f.job(&second).await["state"], "queued", "its place is taken");
    l.f.job_command(&job, "resume", json!({})).await;
    l.f.until(&job, "as before", |job| job["reason"].is_null()).await;
    l.f.job_command(&job, "cancel", json!({})).await;
    let seen = l.f.state(&job, "canceled").await;
    assert_eq!(seen["reason"]["code"], "canceled", "{seen:#}");
    l.f.state(&second, "succeeded").await;
    l.forgotten(&second).await;
}

#[tokio::test]
async fn a_job_that_ends_at_the_python_slave_while_the_cable_is_cut_is_reconciled() {
    let Some(l) = Line::new(&[]).await else { return };
    let running = l.f.running(sleep(1.0)).await;
    let next = l.f.waiting(sleep(0.0), "turn").await;
    let deferred = l.f.waiting(starting(sleep(0.0), json!({ "not_before": in_ms(1500) })), "time").await;
    l.cut().await;
    assert_eq!(l.f.job(&running).await["state"], "running");
    for job in [&running, &next, &deferred] {
        l.held_as(job, "succeeded").await;
    }
    let stale = l.f.job(&next).await;
    assert_eq!((stale["state"].as_str(), has_flag(&stale, "stale")), (Some("accepted"), true), "{stale:#}");
    let due = l.f.job(&deferred).await["not_before"].clone();
    l.net.pass();
    for job in [&running, &next, &deferred] {
        l.f.state(job, "succeeded").await;
        assert_eq!(l.f.verdict("py", job).await, "forget");
        assert_eq!(l.peer.starts(job), 1);
    }
    l.forgotten(&deferred).await;
    assert!(ms(&l.f.job(&deferred).await["started_at"]) >= ms(&due));
}

#[tokio::test]
async fn a_half_open_link_is_noticed_by_the_python_slave_too() {
    let Some(l) = Line::new(&[]).await else { return };
    let job = l.f.running(sleep(1.0)).await;
    let session = l.online().await["session"].as_u64().unwrap();
    l.net.half_open_existing();
    l.slave("on a newer session", |slave| {
        slave["link"] == "online" && slave["session"].as_u64() > Some(session)
    })
    .await;
    assert!(l.peer.log().contains("4000"), "{}", l.peer.log());
    l.f.state(&job, "succeeded").await;
    l.forgotten(&job).await;
}

/// As for the other slave: whichever message is the last one forwarded, the job starts once.
#[tokio::test]
async fn a_cut_at_any_message_starts_the_job_at_the_python_slave_once() {
    let Some(l) = Line::new(&[]).await else { return };
    for direction in [Direction::ToMaster, Direction::ToSlave] {
        for frame in 1..=5 {
            for before in [true, false] {
                let connections = l.net.counts().connections;
                l.net.cut_after_frame(direction, frame, before);
                l.net.drop_existing(Close::Fin);
                l.net.wait_for_connections(connections + 1).await;
                let job = l.f.place(sleep(0.0)).await;
                let seen = l.f.state(&job, "succeeded").await;
                assert_eq!(seen["attempt"], 1, "{direction:?} {frame} before={before}: {seen:#}");
                assert_eq!(l.peer.starts(&job), 1, "{direction:?} {frame} before={before}");
            }
        }
    }
}

#[tokio::test]
async fn a_python_slave_that_is_killed_finds_its_job_again() {
    let Some(mut l) = Line::new(&[]).await else { return };
    let job = l.f.running(sleep(2.0)).await;
    l.peer.kill();
    l.offline().await;
    l.peer.restart();
    l.online().await;
    assert_eq!(l.f.job(&job).await["state"], "running");
    l.f.state(&job, "succeeded").await;
    l.forgotten(&job).await;
    assert_eq!(l.peer.starts(&job), 1);

    // One that ended unobserved, with the machine's own time.
    let job = l.f.place(sleep(0.3)).await;
    let running = l.f.state(&job, "running").await;
    l.peer.kill();
    let ended = ms(&running["started_at"]) + 300;
    passed(ended + 500).await;
    l.peer.restart();
    let seen = l.f.state(&job, "succeeded").await;
    assert!((ms(&seen["ended_at"]) - ended).abs() < 100, "{seen:#}");
    assert_eq!((seen["attempt"].as_u64(), l.peer.starts(&job)), (Some(1), 1));
    l.forgotten(&job).await;
    assert!(l.peer.stop().await.success());
    assert!(l.peer.log().contains("4001"), "{}", l.peer.log());
}

#[tokio::test]
async fn a_python_slave_whose_machine_remembers_nothing_asks_a_person() {
    let Some(mut l) = Line::new(&[]).await else { return };
    let job = l.f.running(sleep(600.0)).await;
    l.peer.kill();
    l.peer.wipe_machine();
    l.peer.restart();
    let seen = l.f.state(&job, "uncertain").await;
    assert_eq!(seen["reason"]["code"], "no_proof", "{seen:#}");
    let next = l.f.place(sleep(0.0)).await;
    l.f.state(&next, "queued").await;
    l.f.resolve(&job, "failed").await;
    let seen = l.f.state(&job, "failed").await;
    assert_eq!(seen["reason"]["code"], "resolved", "{seen:#}");
    l.f.state(&next, "succeeded").await;
    assert_eq!((l.peer.starts(&job), l.peer.starts(&next)), (1, 1));
}

#[tokio::test]
async fn a_python_slave_that_was_wiped_says_so_and_starts_nothing_until_a_person_looked() {
    let Some(mut l) = Line::new(&["--release", "ack"]).await else { return };
    let first = l.f.place(sleep(0.0)).await;
    l.f.state(&first, "succeeded").await;
    l.slave("to be cleared", |slave| slave["unloading"] == first.as_str()).await;
    l.command("ready", json!({})).await;
    let job = l.f.running(sleep(600.0)).await;
    l.peer.wipe();
    l.peer.restart();
    l.slave("in need of a person", |slave| slave["attention"]["code"] == "store_replaced").await;
    l.f.state(&job, "uncertain").await;
    l.f.resolve(&job, "canceled").await;
    l.command("clear", json!({})).await;
    let next = l.f.place(sleep(0.0)).await;
    l.f.state(&next, "succeeded").await;
}

#[tokio::test]
async fn a_cancel_reaches_the_python_slave_when_it_is_back_and_a_job_that_was_done_stays_done() {
    let Some(l) = Line::new(&[]).await else { return };
    let long = l.f.running(sleep(600.0)).await;
    let waiting = l.f.waiting(sleep(0.0), "turn").await;
    l.cut().await;
    for job in [&waiting, &long] {
        let said = l.f.job_command(job, "cancel", json!({})).await;
        assert_eq!(said["delivery"], "pending_on_reconnect");
    }
    l.net.pass();
    l.f.state(&long, "canceled").await;
    l.f.state(&waiting, "canceled").await;
    assert_eq!((l.peer.starts(&long), l.peer.starts(&waiting)), (1, 0));

    let short = l.f.running(sleep(0.5)).await;
    l.cut().await;
    l.f.job_command(&short, "cancel", json!({})).await;
    l.held_as(&short, "succeeded").await;
    l.net.pass();
    let seen = l.f.state(&short, "succeeded").await;
    assert!(has_flag(&seen, "cancel_too_late"), "{seen:#}");
    l.forgotten(&short).await;
}

#[tokio::test]
async fn the_python_slave_and_its_jobs_go_to_another_master_only_if_a_person_gives_it_a_token() {
    let Some(mut l) = Line::new(&[]).await else { return };
    let done = l.f.place(sleep(0.0)).await;
    l.f.state(&done, "succeeded").await;
    l.forgotten(&done).await;
    let job = l.f.running(sleep(4.0)).await;
    let enrollment = "token".to_owned();
    let other = Master::start(MasterOptions { enrollment, ..MasterOptions::default() }).await;
    l.net.redirect(other.addr());
    l.net.drop_existing(Close::Fin);
    says(|| l.peer.log(), "4404").await;
    let client = other.client();
    assert_eq!(client.jobs("").await.unwrap().expect(200)["data"], json!([]), "it was told nothing");
    let made = client.post("/v1/enroll-tokens", &json!({})).await.unwrap().expect(201);
    l.peer.add_args(&["--token", made["token"].as_str().unwrap()]);
    l.peer.restart();
    eventually("the job to be adopted", PATIENCE, async || {
        let seen = client.job(&job).await.map_err(|error| json!(error.to_string()))?.body;
        if seen["state"] == "succeeded" && has_flag(&seen, "adopted") { Ok(()) } else { Err(seen) }
    })
    .await;
    assert_eq!(l.peer.starts(&job), 1);
    let earlier = client.job(&done).await.unwrap().expect(200);
    assert_eq!(earlier["state"], "succeeded", "what it had been told to forget is told to a new master");
}

#[tokio::test]
async fn the_python_slave_obeys_a_restored_master_only_after_a_person_confirmed() {
    let Some(mut l) = Line::new(&[]).await else { return };
    let place = tempfile::tempdir().unwrap();
    let copy = place.path().join("copy");
    l.f.master.kill();
    copy_dir(&l.f.master.data_dir(), &copy);
    l.f.master.restart().await;
    l.online().await;
    let done = l.f.place(sleep(0.0)).await;
    l.f.state(&done, "succeeded").await;
    l.forgotten(&done).await;
    // One more connection, from which it learns the master's commit.
    let seen = l.peer.state()["binding"]["commit"].as_u64();
    l.net.drop_existing(Close::Fin);
    eventually("a newer commit at the slave", PATIENCE, async || {
        let commit = l.peer.state()["binding"]["commit"].as_u64();
        if commit > seen { Ok(()) } else { Err(commit) }
    })
    .await;

    l.f.master.wipe();
    copy_dir(&copy, &l.f.master.data_dir());
    l.f.master.restart().await;
    l.slave("in doubt", |slave| slave["link"] == "online" && slave["doubts"] == true).await;
    let told = l.f.state(&done, "succeeded").await;
    assert!(has_flag(&told, "adopted"), "what it was told to forget is told again: {told:#}");
    let early = l.f.place(sleep(0.0)).await;
    l.command("mode", json!({ "mode": "maintenance" })).await;
    l.slave("not heard", |slave| slave["mode_pending"] == true).await;
    let session = l.online().await["session"].as_u64();
    l.net.drop_existing(Close::Fin);
    l.slave("back, and in doubt", |slave| {
        slave["link"] == "online" && slave["session"].as_u64() > session && slave["doubts"] == true
    })
    .await;
    assert_eq!(l.peer.state()["operating_mode"]["mode"], "production", "nothing is obeyed");
    assert_eq!(l.peer.starts(&early), 0);

    l.f.client.post("/v1/master/confirm-restore", &json!({})).await.unwrap().expect(200);
    let obeys = |slave: &Value| slave["doubts"] == false && slave["mode_pending"] == false;
    l.slave("obedient", |slave| slave["link"] == "online" && obeys(slave)).await;
    assert_eq!(l.peer.state()["operating_mode"]["mode"], "maintenance");
    l.command("mode", json!({ "mode": "production" })).await;
    let after = l.f.place(sleep(0.0)).await;
    l.f.state(&after, "succeeded").await;
    assert_eq!((l.peer.starts(&done), l.peer.starts(&after)), (1, 1));
}

//! People's commands: cancel, release, lock, clear. A person at the machine takes precedence.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use reloop_rig::factory::{Factory, bake, for_s0, gated, has_flag, held, with, work};
use reloop_rig::proxy::Close;
use serde_json::{Value, json};

/// Cancels a job. Returns the delivery.
async fn cancel(f: &Factory, job: &str, body: Value) -> Value {
    f.job_command(job, "cancel", body).await["delivery"].clone()
}

#[tokio::test]
async fn a_job_is_canceled_in_each_phase_while_online() {
    let f = Factory::new().await;
    let queued = f.place(with(work("queued", 0.0), json!({ "slave": "s9" }))).await;
    assert_eq!(cancel(&f, &queued, json!({})).await, "applied");
    f.state(&queued, "canceled").await;
    assert_eq!(cancel(&f, &queued, json!({})).await, "too_late", "it has ended");

    let running = f.running(gated("running")).await;
    let accepted = f.waiting(work("accepted", 0.0), "turn").await;
    assert_eq!(cancel(&f, &accepted, json!({ "mode": "if_not_started" })).await, "sent");
    f.state(&accepted, "canceled").await;
    assert_eq!(cancel(&f, &running, json!({ "mode": "if_not_started" })).await, "too_late");
    assert_eq!(f.job(&running).await["desired"], "run", "a cancel that came too late changes nothing");
    // The program handles the signal only after it has noted its start.
    f.machine_started(0, "running").await;
    assert_eq!(cancel(&f, &running, json!({ "mode": "safe_point" })).await, "sent");
    assert_eq!(f.state(&running, "canceled").await["desired"], "cancel");
    let log = f.slaves[0].machine_log();
    assert_eq!(log.last().map(|(what, tag, _)| (what.as_str(), tag.as_str())), Some(("stop", "running")));

    let now = f.running(gated("now")).await;
    assert_eq!(cancel(&f, &now, json!({ "mode": "now" })).await, "sent");
    f.state(&now, "canceled").await;

    let order =
        f.client.place(&with(gated("many"), json!({ "quantity": 5 })), None).await.unwrap().expect(201);
    let jobs: Vec<_> =
        order["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    f.state(jobs[0], "running").await;
    f.client.cancel_order(order["id"].as_str().unwrap(), &json!({})).await.unwrap().expect(202);
    for job in jobs {
        f.state(job, "canceled").await;
    }
    f.done(work("next", 0.0)).await;
    f.started_once(&["many", "next"]);
    f.never_started(&["accepted"]);
}

#[tokio::test]
async fn a11_a_cancel_while_offline_waits_as_part_of_the_job_and_acts_at_the_next_connection() {
    let f = Factory::new().await;
    let running = f.running(gated("running")).await;
    let accepted = f.waiting(work("accepted", 0.0), "turn").await;
    f.cut(0).await;
    for job in [&running, &accepted] {
        assert_eq!(cancel(&f, job, json!({})).await, "pending_on_reconnect");
        let seen = f.job(job).await;
        assert_eq!(
            (&seen["desired"], has_flag(&seen, "cancel_pending")),
            (&json!("cancel"), true),
            "{seen:#}"
        );
    }
    f.held_as(0, &running, "running").await;
    f.nets[0].pass();
    f.state(&running, "canceled").await;
    let seen = f.state(&accepted, "canceled").await;
    assert!(!has_flag(&seen, "cancel_pending"), "{seen:#}");
    f.never_started(&["accepted"]);
    assert_eq!(f.verdict("s0", &running).await, "cancel");
}

#[tokio::test]
async fn a9_a_job_that_was_done_before_its_cancel_came_is_done_and_says_so() {
    let f = Factory::new().await;
    let job = f.running(gated("done")).await;
    f.cut(0).await;
    f.slaves[0].open_gate("done");
    f.held_as(0, &job, "succeeded").await;
    assert_eq!(cancel(&f, &job, json!({})).await, "pending_on_reconnect");
    f.nets[0].pass();
    let seen = f.state(&job, "succeeded").await;
    assert!(has_flag(&seen, "cancel_too_late"), "{seen:#}");
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a_faulted_machine_starts_nothing_until_somebody_has_looked() {
    let f = Factory::with(|options| options.config = "after_failure = \"hold\"".to_owned()).await;
    let faulty = json!({ "program": "bake", "params": { "seconds": "0.3", "fail_at": "50%" } });
    let fault = async || {
        let job = f.place(faulty.clone()).await;
        assert_eq!(f.state(&job, "failed").await["reason"]["code"], "machine_fault");
        assert_eq!(f.attention(0, "fault").await["status"], "fault");
    };
    fault().await;
    let next = f.place(work("next", 0.0)).await;
    let why = f.client.explain(&next).await.unwrap().expect(200);
    assert!(!why["summary"].as_str().unwrap().is_empty());
    f.never_started(&["next"]);
    f.slave_command(0, "clear", json!({})).await;
    f.state(&next, "succeeded").await;

    // The same at the machine, without a link.
    fault().await;
    f.cut(0).await;
    f.slave_refusal(0, "clear").await;
    f.locally(0, &["clear"]).await;
    f.nets[0].pass();
    f.done(work("last", 0.0)).await;
    f.started_once(&["next", "last"]);
}

#[tokio::test]
async fn finished_is_not_free_until_somebody_says_that_the_machine_is_clear() {
    let mut f = Factory::with(|options| options.release = "ack".to_owned()).await;
    // A new machine may have to be cleared first.
    f.local(0, &["ready"]).await;
    let mut jobs = vec![];
    for tag in ["one", "two", "three"] {
        jobs.push(f.place(work(tag, 0.0)).await);
    }
    let unloading = async |f: &Factory, job: &String| {
        f.slave(0, "unloading", |slave| slave["unloading"] == job.as_str()).await
    };
    f.state(&jobs[0], "succeeded").await;
    assert_eq!(unloading(&f, &jobs[0]).await["activity"], "unloading");
    f.waits_for(&jobs[1], "ready").await;
    f.slaves[0].reboot();
    f.session(0, 2).await;
    f.waits_for(&jobs[1], "ready").await;
    f.never_started(&["two"]);
    f.slave_command(0, "ready", json!({})).await;
    f.state(&jobs[1], "succeeded").await;

    unloading(&f, &jobs[1]).await;
    f.cut(0).await;
    assert_eq!(f.slave_refusal(0, "ready").await, "slave_offline", "nothing is queued for later");
    f.never_started(&["three"]);
    f.locally(0, &["ready"]).await;
    f.machine_ended(0, "three").await;
    f.held_as(0, &jobs[2], "succeeded").await;
    f.nets[0].pass();
    f.state(&jobs[2], "succeeded").await;
    unloading(&f, &jobs[2]).await;
    f.locally(0, &["ready"]).await;
    f.slave(0, "clear", |slave| slave["unloading"].is_null()).await;
    assert_eq!(f.slave_refusal(0, "ready").await, "nothing_to_do");
}

#[tokio::test]
async fn e8_a_lock_at_the_machine_keeps_remote_starts_out_and_only_there_it_is_opened() {
    let f = Factory::new().await;
    let first = f.running(gated("first")).await;
    let waiting = f.waiting(for_s0(work("waiting", 0.0)), "turn").await;
    f.locally(0, &["local", "on"]).await;
    let seen = f.slave(0, "locked", |slave| slave["local_lock"] == true).await;
    assert_eq!(seen["link"], "online");
    f.finish(&first, "first").await;
    f.waits_for(&waiting, "ready").await;
    let job = f.place(for_s0(work("locked", 0.0))).await;
    for verb in ["clear", "ready"] {
        assert_eq!(f.slave_refusal(0, verb).await, "nothing_to_do");
    }
    f.slave_command(0, "mode", json!({ "mode": "production" })).await;
    f.job_command(&job, "release", json!({})).await;
    f.reconnect(0).await;
    let seen = f.job(&job).await;
    assert!(seen["started_at"].is_null(), "{seen:#}");
    assert_eq!(f.online(0).await["local_lock"], true);
    f.never_started(&["locked", "waiting"]);
    f.locally(0, &["local", "off"]).await;
    f.state(&job, "succeeded").await;
    f.state(&waiting, "succeeded").await;
    f.started_once(&["locked", "waiting"]);
}

#[tokio::test]
async fn e7_a_pause_at_the_machine_is_only_ended_there() {
    let f = Factory::new().await;
    let job = f.running(bake(1.5)).await;
    f.job_command(&job, "pause", json!({})).await;
    f.state(&job, "paused").await;
    f.job_command(&job, "resume", json!({})).await;
    f.state(&job, "running").await;

    f.nets[0].cut(Close::Fin);
    f.locally(0, &["pause"]).await;
    f.held_as(0, &job, "paused").await;
    f.nets[0].pass();
    assert_eq!(f.state(&job, "paused").await["reason"]["code"], "paused_locally");
    for verb in ["resume", "pause", "resume"] {
        f.job_command(&job, verb, json!({})).await;
    }
    let seen = f.until(&job, "desired to run", |job| job["desired"] == "run").await;
    assert_eq!(seen["state"], "paused");
    f.held_as(0, &job, "paused").await;
    f.locally(0, &["resume"]).await;
    let seen = f.state(&job, "succeeded").await;
    assert_eq!(f.bakes(0, &job), 1);
    assert!(seen["outcome"]["text"].as_str().is_some());
}

#[tokio::test]
async fn e7_a_stop_at_the_machine_ends_the_job_without_a_link_and_is_reported_with_its_source() {
    let f = Factory::new().await;
    let job = f.running(gated("stop")).await;
    // The program handles the signal only after it has noted its start.
    f.machine_started(0, "stop").await;
    f.nets[0].cut(Close::Reset);
    f.locally(0, &["stop"]).await;
    f.machine_ended(0, "stop").await;
    f.at_machine(0, "ended", |status| held(status, &job).is_some_and(|job| !job["ended_at"].is_null())).await;
    f.nets[0].pass();
    let seen = f.until(&job, "ended", |job| !job["ended_at"].is_null()).await;
    assert_eq!((&seen["state"], &seen["reason"]["code"]), (&json!("canceled"), &json!("stopped_locally")));
}

#[tokio::test]
async fn e8_a_slave_out_of_production_finishes_what_runs_and_starts_nothing() {
    let f = Factory::new().await;
    let job = f.running(gated("runs")).await;
    let waiting = f.waiting(for_s0(work("waits", 0.0)), "turn").await;
    f.cut(0).await;
    let answer = f.slave_command(0, "mode", json!({ "mode": "maintenance" })).await;
    assert_eq!(answer["delivery"], "pending_on_reconnect");
    f.nets[0].pass();
    f.slave(0, "in maintenance", |slave| slave["link"] == "online" && slave["mode_pending"] == false).await;
    f.finish(&job, "runs").await;
    f.slave(0, "idle", |slave| slave["activity"] == "idle").await;
    f.never_started(&["waits"]);
    f.slave_command(0, "mode", json!({ "mode": "production" })).await;
    f.state(&waiting, "succeeded").await;
}

#[tokio::test]
async fn a_job_that_a_person_gave_up_may_be_corrected_by_the_truth() {
    let f = Factory::new().await;
    let job = f.running(gated("lost")).await;
    assert_eq!(f.job_refusal(&job, "abandon").await, "slave_online");
    f.cut(0).await;
    f.job_command(&job, "abandon", json!({})).await;
    f.state(&job, "lost").await;
    f.slaves[0].open_gate("lost");
    f.held_as(0, &job, "succeeded").await;
    f.nets[0].pass();
    let seen = f.state(&job, "succeeded").await;
    assert!(has_flag(&seen, "late_result"), "{seen:#}");
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn what_a_machine_may_not_run_is_rejected_before_anything_starts() {
    let f = Factory::new().await;
    for params in [
        json!({ "tag": "a b" }),
        json!({ "tag": "x; touch /tmp/y" }),
        json!({ "tag": "$(id)" }),
        json!({ "tag": "../x" }),
        json!({ "tag": "ok", "seconds": "1e9" }),
        json!({ "tag": "ok", "surprise": "1" }),
        json!({}),
    ] {
        let job = f.place(for_s0(json!({ "program": "work", "params": params }))).await;
        let seen = f.state(&job, "rejected").await;
        assert_eq!((&seen["reason"]["code"], &seen["started_at"]), (&json!("bad_params"), &Value::Null));
    }
    let unknown = f.place(json!({ "program": "rm", "params": {} })).await;
    assert!(!f.why_not(&unknown).await[0].is_null());
    assert_eq!(f.job(&unknown).await["state"], "queued", "some slave may offer it one day");
    assert_eq!(f.slaves[0].machine_log(), []);
    assert!(f.slaves[0].runs().is_empty());
}

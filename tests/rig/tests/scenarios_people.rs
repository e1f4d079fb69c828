//! What people want: to cancel, to release, to lock, to look after a fault. Local people win.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use reloop_rig::proxy::Close;
use scenario::{Factory, bake, gated, has_flag, held, with, work};
use serde_json::{Value, json};

/// Cancels; the word for how far that got.
async fn cancel(f: &Factory, job: &str, body: Value) -> String {
    f.client.cancel(job, &body).await.unwrap().expect(202)["delivery"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_job_is_canceled_in_each_phase_while_online() {
    let f = Factory::new().await;
    let queued = f.place(with(work("queued", 0.0), json!({"slave": "s9"}))).await;
    assert_eq!(cancel(&f, &queued, json!({})).await, "applied");
    f.state(&queued, "canceled").await;
    assert_eq!(cancel(&f, &queued, json!({})).await, "too_late", "it has ended");

    let running = f.place(gated("running")).await;
    f.state(&running, "running").await;
    let accepted = f.place(work("accepted", 0.0)).await;
    f.until(&accepted, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    assert_eq!(cancel(&f, &accepted, json!({"mode": "if_not_started"})).await, "sent");
    f.state(&accepted, "canceled").await;
    assert_eq!(f.slaves[0].starts("accepted"), 0);

    assert_eq!(cancel(&f, &running, json!({"mode": "if_not_started"})).await, "too_late");
    assert_eq!(f.job(&running).await["desired"], "run", "what came too late is not wished");
    // It handles the signal only once it has come so far as to note its start.
    f.machine_started(0, "running").await;
    assert_eq!(cancel(&f, &running, json!({"mode": "safe_point"})).await, "sent");
    let seen = f.state(&running, "canceled").await;
    assert_eq!(seen["desired"], "cancel");
    let log = f.slaves[0].machine_log();
    assert_eq!(log.last().map(|(what, tag, _)| (what.as_str(), tag.as_str())), Some(("stop", "running")));

    let now = f.place(gated("now")).await;
    f.state(&now, "running").await;
    assert_eq!(cancel(&f, &now, json!({"mode": "now"})).await, "sent");
    f.state(&now, "canceled").await;
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
}

#[tokio::test]
async fn a11_a_cancel_while_offline_waits_as_part_of_the_job_and_acts_at_the_next_connection() {
    let f = Factory::new().await;
    let running = f.place(gated("running")).await;
    f.state(&running, "running").await;
    let accepted = f.place(work("accepted", 0.0)).await;
    f.until(&accepted, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
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
    assert_eq!(f.slaves[0].starts("accepted"), 0);
    assert_eq!(f.ruling(0, &running).await["verdict"], "cancel");
}

#[tokio::test]
async fn a9_a_job_that_was_done_before_its_cancel_came_is_done_and_says_so() {
    let f = Factory::new().await;
    let job = f.place(gated("done")).await;
    f.state(&job, "running").await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    f.slaves[0].open_gate("done");
    f.held_as(0, &job, "succeeded").await;
    assert_eq!(cancel(&f, &job, json!({})).await, "pending_on_reconnect");
    f.nets[0].pass();
    let seen = f.state(&job, "succeeded").await;
    assert!(has_flag(&seen, "cancel_too_late"), "{seen:#}");
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a_cancel_of_an_order_ends_all_its_jobs() {
    let f = Factory::new().await;
    let order = with(gated("many"), json!({"quantity": 5}));
    let order = f.client.place(&order, None).await.unwrap().expect(201);
    let jobs: Vec<_> =
        order["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    f.state(jobs[0], "running").await;
    f.client.cancel_order(order["id"].as_str().unwrap(), &json!({})).await.unwrap().expect(202);
    for job in jobs {
        f.state(job, "canceled").await;
    }
    assert_eq!(f.slaves[0].starts("many"), 1);
}

#[tokio::test]
async fn a_faulted_machine_starts_nothing_until_somebody_has_looked() {
    let f = Factory::with(|options| options.config = "after_failure = \"hold\"".to_owned()).await;
    let faulty = |f: &Factory| {
        let order = with(bake(0.3), json!({"params": {"seconds": "0.3", "fail_at": "50%"}}));
        let client = f.client.clone();
        async move { scenario::job_of(&client.place(&order, None).await.unwrap().expect(201)) }
    };
    let first = faulty(&f).await;
    let seen = f.state(&first, "failed").await;
    assert_eq!(seen["reason"]["code"], "machine_fault", "{seen:#}");
    let seen = f.slave(0, "in fault", |slave| !slave["attention"].is_null()).await;
    assert_eq!(
        (seen["attention"]["code"].as_str(), seen["status"].as_str()),
        (Some("fault"), Some("fault")),
        "{seen:#}"
    );
    let next = f.place(work("next", 0.0)).await;
    let order_then = f.client.explain(&next).await.unwrap().expect(200);
    assert!(!order_then["summary"].as_str().unwrap().is_empty());
    assert_eq!(f.slaves[0].starts("next"), 0);
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    f.state(&next, "succeeded").await;

    // The same at the machine, without a link.
    let second = faulty(&f).await;
    f.state(&second, "failed").await;
    f.slave(0, "in fault", |slave| !slave["attention"].is_null()).await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    f.client.clear("s0", &json!({})).await.unwrap().expect(409);
    f.locally(0, &["clear"]).await;
    f.nets[0].pass();
    let last = f.place(work("last", 0.0)).await;
    f.state(&last, "succeeded").await;
    assert_eq!((f.slaves[0].starts("next"), f.slaves[0].starts("last")), (1, 1));
}

#[tokio::test]
async fn finished_is_not_free_until_somebody_says_that_the_machine_is_clear() {
    let f = Factory::with(|options| options.release = "ack".to_owned()).await;
    // Whether it is clear when it is new is for a person to say too; there may be nothing to say.
    f.local(0, &["ready"]).await;
    let jobs =
        [f.place(work("one", 0.0)).await, f.place(work("two", 0.0)).await, f.place(work("three", 0.0)).await];
    f.state(&jobs[0], "succeeded").await;
    let seen = f.slave(0, "unloading", |slave| slave["activity"] == "unloading").await;
    assert_eq!(seen["unloading"], jobs[0].as_str());
    f.until(&jobs[1], "waiting for it", |job| job["waiting_for"] == "ready").await;
    assert_eq!(f.slaves[0].starts("two"), 0);
    f.client.ready("s0", &json!({})).await.unwrap().expect(202);
    f.state(&jobs[1], "succeeded").await;

    f.slave(0, "unloading", |slave| slave["unloading"] == jobs[1].as_str()).await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    let refused = f.client.ready("s0", &json!({})).await.unwrap().expect(409);
    assert_eq!(refused["code"], "slave_offline", "nothing is queued for later: {refused:#}");
    assert_eq!(f.slaves[0].starts("three"), 0);
    f.locally(0, &["ready"]).await;
    f.machine_ended(0, "three").await;
    f.held_as(0, &jobs[2], "succeeded").await;
    f.nets[0].pass();
    f.state(&jobs[2], "succeeded").await;
    f.slave(0, "unloading", |slave| slave["unloading"] == jobs[2].as_str()).await;
    let (done, text) = f.local(0, &["ready"]).await;
    assert!(done, "{text}");
    f.slave(0, "clear", |slave| slave["unloading"].is_null()).await;
    let refused = f.client.ready("s0", &json!({})).await.unwrap().expect(409);
    assert_eq!(refused["code"], "nothing_to_do");
}

#[tokio::test]
async fn a_machine_that_waits_to_be_cleared_still_waits_after_its_agent_was_killed() {
    let mut f = Factory::with(|options| options.release = "ack".to_owned()).await;
    f.local(0, &["ready"]).await;
    let job = f.place(work("one", 0.0)).await;
    f.state(&job, "succeeded").await;
    f.slave(0, "unloading", |slave| slave["unloading"] == job.as_str()).await;
    f.slaves[0].reboot();
    f.online(0).await;
    let next = f.place(work("two", 0.0)).await;
    f.until(&next, "waiting for it", |job| job["waiting_for"] == "ready" || job["state"] == "queued").await;
    assert_eq!(f.slaves[0].starts("two"), 0);
    f.locally(0, &["ready"]).await;
    f.state(&next, "succeeded").await;
}

#[tokio::test]
async fn e8_a_lock_at_the_machine_keeps_remote_starts_out_and_only_there_it_is_opened() {
    let f = Factory::new().await;
    let first = f.place(gated("first")).await;
    f.state(&first, "running").await;
    let waiting = f.place(with(work("waiting", 0.0), json!({"slave": "s0"}))).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.locally(0, &["local", "on"]).await;
    let seen = f.slave(0, "locked", |slave| slave["local_lock"] == true).await;
    assert_eq!(seen["link"], "online");
    f.slaves[0].open_gate("first");
    f.state(&first, "succeeded").await;
    f.until(&waiting, "locked out", |job| job["waiting_for"] == "ready").await;
    let job = f.place(with(work("locked", 0.0), json!({"slave": "s0"}))).await;
    for word in ["clear", "ready"] {
        let refused = f.client.post(&format!("/v1/slaves/s0/{word}"), &json!({})).await.unwrap().expect(409);
        assert_eq!(refused["code"], "nothing_to_do");
    }
    f.client.mode("s0", &json!({"mode": "production"})).await.unwrap().expect(202);
    f.client.release(&job, &json!({})).await.unwrap().expect(202);
    f.nets[0].drop_existing(Close::Reset);
    f.nets[0].wait_for_connections(2).await;
    f.online(0).await;
    let seen = f.job(&job).await;
    assert!(seen["started_at"].is_null(), "{seen:#}");
    assert_eq!(f.slave(0, "locked", |_| true).await["local_lock"], true);
    assert_eq!((f.slaves[0].starts("locked"), f.slaves[0].starts("waiting")), (0, 0));
    f.locally(0, &["local", "off"]).await;
    f.state(&job, "succeeded").await;
    f.state(&waiting, "succeeded").await;
    assert_eq!((f.slaves[0].starts("locked"), f.slaves[0].starts("waiting")), (1, 1));
}

#[tokio::test]
async fn e7_a_pause_at_the_machine_is_only_ended_there() {
    let f = Factory::new().await;
    let job = f.place(bake(1.5)).await;
    f.state(&job, "running").await;
    f.nets[0].cut(Close::Fin);
    f.locally(0, &["pause"]).await;
    f.held_as(0, &job, "paused").await;
    f.nets[0].pass();
    let seen = f.state(&job, "paused").await;
    assert_eq!(seen["reason"]["code"], "paused_locally", "{seen:#}");
    f.client.resume(&job, &json!({})).await.unwrap().expect(202);
    // The desired state has arrived when the slave has said so of a newer one than before.
    f.client.pause(&job, &json!({})).await.unwrap().expect(202);
    f.client.resume(&job, &json!({})).await.unwrap().expect(202);
    let seen = f.until(&job, "told", |job| job["desired"] == "run").await;
    assert_eq!(seen["state"], "paused");
    f.held_as(0, &job, "paused").await;
    f.locally(0, &["resume"]).await;
    let seen = f.state(&job, "succeeded").await;
    assert_eq!(f.bakes(0, &job), 1);
    assert!(seen["outcome"]["text"].as_str().is_some());
}

#[tokio::test]
async fn a_remote_pause_is_ended_remotely() {
    let f = Factory::new().await;
    let job = f.place(bake(1.0)).await;
    f.state(&job, "running").await;
    f.client.pause(&job, &json!({})).await.unwrap().expect(202);
    f.state(&job, "paused").await;
    f.client.resume(&job, &json!({})).await.unwrap().expect(202);
    f.state(&job, "succeeded").await;
    assert_eq!(f.bakes(0, &job), 1);
}

#[tokio::test]
async fn e7_a_stop_at_the_machine_ends_the_job_without_a_link_and_is_reported_with_its_source() {
    let f = Factory::new().await;
    let job = f.place(gated("stop")).await;
    f.state(&job, "running").await;
    // It has begun with its first line, which is when it can hear a stop.
    f.machine_started(0, "stop").await;
    f.nets[0].cut(Close::Reset);
    f.locally(0, &["stop"]).await;
    f.machine_ended(0, "stop").await;
    f.at_machine(0, "ended", |status| held(status, &job).is_some_and(|job| !job["ended_at"].is_null())).await;
    f.nets[0].pass();
    let seen = f.until(&job, "ended", |job| !job["ended_at"].is_null()).await;
    assert_eq!(seen["state"], "canceled", "{seen:#}");
    assert_eq!(seen["reason"]["code"], "stopped_locally", "{seen:#}");
}

#[tokio::test]
async fn e8_a_slave_out_of_production_finishes_what_runs_and_starts_nothing() {
    let f = Factory::new().await;
    let job = f.place(gated("runs")).await;
    f.state(&job, "running").await;
    let waiting = f.place(with(work("waits", 0.0), json!({"slave": "s0"}))).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    let answer = f.client.mode("s0", &json!({"mode": "maintenance"})).await.unwrap().expect(202);
    assert_eq!(answer["delivery"], "pending_on_reconnect");
    f.nets[0].pass();
    f.slave(0, "in maintenance", |slave| slave["link"] == "online" && slave["mode_pending"] == false).await;
    f.slaves[0].open_gate("runs");
    f.state(&job, "succeeded").await;
    f.slave(0, "idle", |slave| slave["activity"] == "idle").await;
    assert_eq!(f.slaves[0].starts("waits"), 0);
    f.client.mode("s0", &json!({"mode": "production"})).await.unwrap().expect(202);
    f.state(&waiting, "succeeded").await;
}

#[tokio::test]
async fn a_job_that_a_person_gave_up_may_be_corrected_by_the_truth() {
    let f = Factory::new().await;
    let job = f.place(gated("lost")).await;
    f.state(&job, "running").await;
    let refused = f.client.abandon(&job, &json!({})).await.unwrap().expect(409);
    assert_eq!(refused["code"], "slave_online");
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    f.client.abandon(&job, &json!({})).await.unwrap().expect(202);
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
        json!({"tag": "a b"}),
        json!({"tag": "x; touch /tmp/y"}),
        json!({"tag": "$(id)"}),
        json!({"tag": "../x"}),
        json!({"tag": "ok", "seconds": "1e9"}),
        json!({"tag": "ok", "surprise": "1"}),
        json!({}),
    ] {
        let job = f.place(json!({"program": "work", "params": params, "slave": "s0"})).await;
        let seen = f.state(&job, "rejected").await;
        assert_eq!(seen["reason"]["code"], "bad_params", "{seen:#}");
        assert!(seen["started_at"].is_null());
    }
    let unknown = f.place(json!({"program": "rm", "params": {}})).await;
    let why = f.client.explain(&unknown).await.unwrap().expect(200);
    assert_eq!(f.job(&unknown).await["state"], "queued", "some slave may offer it one day: {why:#}");
    assert!(!why["slaves"][0]["why_not"].is_null(), "{why:#}");
    assert_eq!(f.slaves[0].machine_log(), []);
    assert!(f.slaves[0].runs().is_empty());
}

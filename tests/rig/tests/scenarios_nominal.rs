//! Jobs from order to outcome, at once and later, over a network that works or is away.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use reloop_rig::proxy::Close;
use reloop_rig::wait::eventually;
use scenario::{
    Factory, PATIENCE, bake, gated, has_flag, held, in_ms, ms, now_ms, printed, printer, with, work,
};
use serde_json::json;

#[tokio::test]
async fn a_process_job_ends_with_its_whole_output_and_its_exit_status() {
    let f = Factory::new().await;
    let good = f.place(printer("good", 0)).await;
    f.state(&good, "running").await;
    eventually("the first half of the output", PATIENCE, async || {
        let log = f.client.job_log(&good, "offset=0").await.unwrap().expect(200);
        log.as_str().filter(|log| log.ends_with("line 499\n")).map(str::len).ok_or(log.clone())
    })
    .await;
    f.slaves[0].open_gate("good");
    let job = f.state(&good, "succeeded").await;
    assert_eq!(job["outcome"]["exit_code"], 0);
    assert_eq!(job["progress"], 1.0);
    assert_eq!(f.output(0, &good), printed());
    for time in ["accepted_at", "started_at", "ended_at"] {
        assert!(ms(&job[time]) >= ms(&job["created_at"]) - 1000, "{job:#}");
    }

    f.slaves[0].open_gate("bad");
    let bad = f.place(printer("bad", 7)).await;
    let job = f.state(&bad, "failed").await;
    assert_eq!(job["outcome"]["exit_code"], 7);
    assert_eq!(f.output(0, &bad), printed());
    for job in [&good, &bad] {
        let log = f.client.job_log(job, "offset=0").await.unwrap().expect(200);
        assert_eq!(log.as_str(), Some(printed().as_str()), "what ended is asked for most");
    }
    assert_eq!((f.slaves[0].starts("good"), f.slaves[0].starts("bad")), (1, 1));
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a_simulated_job_ends_as_it_should() {
    let f = Factory::new().await;
    let job = f.place(bake(0.5)).await;
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["ended_at"]) - ms(&job["started_at"]) >= 450, "{job:#}");
    let states = f.client.job_events(job["id"].as_str().unwrap()).await.unwrap().expect(200);
    let states: Vec<_> = states["data"].as_array().unwrap().iter().map(|event| &event["state"]).collect();
    assert_eq!(states.first().unwrap().as_str(), Some("queued"));
    assert_eq!(states.last().unwrap().as_str(), Some("succeeded"));
}

#[tokio::test]
async fn a_deferred_job_is_assigned_ahead_and_starts_at_its_time_while_online() {
    let f = Factory::new().await;
    let due = in_ms(2500);
    let job = f.place(with(work("later", 0.0), json!({"start": {"not_before": due}}))).await;
    let waiting = f.until(&job, "accepted", |job| job["waiting_for"] == "time").await;
    assert_eq!(waiting["state"], "accepted");
    assert_eq!(f.slaves[0].starts("later"), 0);
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["started_at"]) >= ms(&json!(due)), "not before its time: {job:#}");
    assert!(ms(&job["started_at"]) < ms(&json!(due)) + 3000, "{job:#}");
    assert_eq!(f.slaves[0].starts("later"), 1);
}

#[tokio::test]
async fn b1_a_deferred_job_starts_at_its_time_while_offline_and_is_reported_with_the_slaves_times() {
    let f = Factory::new().await;
    let due = in_ms(2500);
    let job = f.place(with(work("later", 0.2), json!({"start": {"not_before": due}}))).await;
    f.until(&job, "on the slave's disk", |job| job["waiting_for"] == "time").await;
    f.nets[0].cut(Close::Fin);
    f.offline(0).await;
    f.machine_ended(0, "later").await;
    let ended = f.held_as(0, &job, "succeeded").await;
    let seen = f.job(&job).await;
    assert_eq!(seen["state"], "accepted", "the master only repeats the slave's last word");
    assert!(has_flag(&seen, "stale"), "{seen:#}");
    let back = now_ms();
    f.nets[0].pass();
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["started_at"]) >= ms(&json!(due)), "{job:#}");
    assert_eq!(ms(&job["ended_at"]), ms(&ended["ended_at"]), "its own time");
    assert!(ms(&job["ended_at"]) < back, "and not that of its news");
    assert_eq!(f.slaves[0].starts("later"), 1);
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn two_slaves_share_the_work_and_the_higher_priority_goes_first() {
    let mut f = Factory::new().await;
    f.add(|_| {});
    f.online(1).await;
    let (first, second) = (f.place(gated("a")).await, f.place(gated("b")).await);
    let first = f.state(&first, "running").await;
    let second = f.state(&second, "running").await;
    assert_ne!(first["slave"], second["slave"], "idle slaves are served first");

    let pinned =
        |tag: &str, priority: i32| with(work(tag, 0.0), json!({"slave": "s0", "priority": priority}));
    let low = f.place(pinned("low", -1)).await;
    let high = f.place(pinned("high", 5)).await;
    for job in [&low, &high] {
        f.until(job, "accepted", |job| job["waiting_for"] == "turn").await;
    }
    for tag in ["a", "b"] {
        f.slaves[0].open_gate(tag);
        f.slaves[1].open_gate(tag);
    }
    let high = f.state(&high, "succeeded").await;
    let low = f.state(&low, "succeeded").await;
    assert!(ms(&high["started_at"]) <= ms(&low["started_at"]), "{high:#} {low:#}");
    let order: Vec<_> =
        f.slaves[0].machine_log().into_iter().filter(|(what, ..)| what == "start").map(|l| l.1).collect();
    assert_eq!(order[1..], ["high", "low"]);
    assert_eq!((high["slave"].as_str(), low["slave"].as_str()), (Some("s0"), Some("s0")));
}

#[tokio::test]
async fn an_unstarted_job_moves_to_an_idle_slave_and_starts_once() {
    let mut f = Factory::new().await;
    let first = f.place(gated("long")).await;
    f.state(&first, "running").await;
    let waits = f.place(work("waits", 0.0)).await;
    f.until(&waits, "behind the first", |job| job["waiting_for"] == "turn").await;
    f.add(|_| {});
    f.online(1).await;
    let moved = f.state(&waits, "succeeded").await;
    assert_eq!(moved["slave"], "s1");
    assert_eq!((f.slaves[0].starts("waits"), f.slaves[1].starts("waits")), (0, 1));
    f.slaves[0].open_gate("long");
    f.state(&first, "succeeded").await;
}

#[tokio::test]
async fn a_job_needs_a_slave_with_its_labels() {
    let mut f = Factory::with(|options| drop(options.labels.insert("material".into(), "pla".into()))).await;
    let job = f.place(with(work("metal", 0.0), json!({"requires": {"material": "steel"}}))).await;
    let why = f.client.explain(&job).await.unwrap().expect(200);
    assert!(!why["slaves"][0]["why_not"].is_null(), "{why:#}");
    assert_eq!(f.job(&job).await["state"], "queued");
    f.add(|options| drop(options.labels.insert("material".into(), "steel".into())));
    assert_eq!(f.state(&job, "succeeded").await["slave"], "s1");
    assert_eq!(f.slaves[0].starts("metal"), 0);
}

#[tokio::test]
async fn b2_a_start_that_was_missed_while_the_slave_was_off_follows_its_orders_word() {
    let mut f = Factory::new().await;
    let due = in_ms(2000);
    let late = |late: &str| with(work(late, 0.0), json!({"start": {"not_before": due, "late": late}}));
    let mut jobs = vec![];
    for word in ["hold", "run", "skip"] {
        let job = f.place(late(word)).await;
        f.until(&job, "on the slave's disk", |job| job["waiting_for"] == "time").await;
        jobs.push(job);
    }
    f.slaves[0].power_off();
    eventually("their time to pass", PATIENCE, async || (now_ms() > ms(&json!(due)) + 100).then_some(()))
        .await;
    f.slaves[0].restart();
    let run = f.state(&jobs[1], "succeeded").await;
    assert!(has_flag(&run, "missed_start"), "{run:#}");
    let skip = f.state(&jobs[2], "expired").await;
    assert_eq!(skip["reason"]["code"], "missed_start");
    let hold = f.until(&jobs[0], "asking a person", |job| job["waiting_for"] == "operator").await;
    assert_eq!(hold["reason"]["code"], "missed_start");
    assert_eq!((f.slaves[0].starts("hold"), f.slaves[0].starts("skip")), (0, 0));
    f.client.release(&jobs[0], &json!({})).await.unwrap().expect(202);
    f.state(&jobs[0], "succeeded").await;
    assert_eq!(
        (f.slaves[0].starts("hold"), f.slaves[0].starts("run"), f.slaves[0].starts("skip")),
        (1, 1, 0)
    );
}

#[tokio::test]
async fn a_job_whose_window_closes_unstarted_expires_at_the_slave_and_at_the_master() {
    let f = Factory::new().await;
    let long = f.place(gated("long")).await;
    f.state(&long, "running").await;
    let window = json!({"start": {"deadline": in_ms(1500)}});
    let at_slave = f.place(with(work("closed", 0.0), window.clone())).await;
    f.until(&at_slave, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.nets[0].cut(Close::Fin);
    let elsewhere = with(work("nobody", 0.0), json!({"start": {"deadline": in_ms(1000)}, "slave": "s9"}));
    let at_master = f.place(elsewhere).await;
    assert_eq!(f.state(&at_master, "expired").await["reason"]["code"], "window_closed");
    f.held_as(0, &at_slave, "expired").await;
    f.slaves[0].open_gate("long");
    f.nets[0].pass();
    let job = f.state(&at_slave, "expired").await;
    assert_eq!(job["reason"]["code"], "window_closed");
    f.state(&long, "succeeded").await;
    assert_eq!(f.slaves[0].starts("closed"), 0);
}

#[tokio::test]
async fn a_held_job_waits_for_its_release() {
    let f = Factory::new().await;
    let job = f.place(with(work("held", 0.0), json!({"start": {"hold": true}}))).await;
    f.until(&job, "held", |job| job["waiting_for"] == "operator" || job["state"] == "queued").await;
    assert_eq!(f.slaves[0].starts("held"), 0);
    let behind = f.place(work("behind", 0.0)).await;
    f.state(&behind, "succeeded").await;
    assert_eq!(f.slaves[0].starts("held"), 0, "and nobody waits for it");
    f.client.release(&job, &json!({})).await.unwrap().expect(202);
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("held"), 1);
}

#[tokio::test]
async fn b10_a_job_that_runs_too_long_while_offline_is_flagged_or_stopped_as_its_order_says() {
    let f = Factory::new().await;
    let limited =
        |tag: &str, word: &str| with(gated(tag), json!({"max_runtime_seconds": 1, "on_overdue": word}));
    let flag = f.place(limited("flag", "flag")).await;
    f.state(&flag, "running").await;
    f.nets[0].cut(Close::Fin);
    f.at_machine(0, "overdue", |status| held(status, &flag).is_some_and(|job| has_flag(job, "overdue")))
        .await;
    f.slaves[0].open_gate("flag");
    f.held_as(0, &flag, "succeeded").await;
    f.nets[0].pass();
    let job = f.state(&flag, "succeeded").await;
    assert!(has_flag(&job, "overdue"), "{job:#}");

    let stop = f.place(limited("stop", "stop")).await;
    f.state(&stop, "running").await;
    f.nets[0].cut(Close::Reset);
    f.machine_ended(0, "stop").await;
    f.at_machine(0, "stopped", |status| held(status, &stop).is_some_and(|job| !job["ended_at"].is_null()))
        .await;
    f.nets[0].pass();
    let job = f.until(&stop, "ended", |job| !job["ended_at"].is_null()).await;
    assert_eq!(job["reason"]["code"], "max_runtime", "{job:#}");
    assert!(has_flag(&job, "overdue"), "{job:#}");
    assert_eq!(
        f.slaves[0].machine_log().last().map(|(what, tag, _)| (what.as_str(), tag.as_str())),
        Some(("stop", "stop"))
    );
}

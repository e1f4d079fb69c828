//! Jobs from order to outcome, immediate and deferred, with and without a network.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use reloop_rig::factory::{
    Factory, gated, has_flag, held, in_ms, ms, now_ms, passed, printed, printer, starting, with, work,
};
use reloop_rig::proxy::Close;
use reloop_rig::wait::{PATIENCE, eventually};
use serde_json::json;

#[tokio::test]
async fn a_process_job_ends_with_its_whole_output_and_its_exit_status() {
    let f = Factory::new().await;
    let good = f.running(printer("good", 0)).await;
    eventually("the first half of the output", PATIENCE, async || {
        let log = f.client.job_log(&good, "offset=0").await.unwrap().expect(200);
        log.as_str().filter(|log| log.ends_with("line 499\n")).map(str::len).ok_or(log.clone())
    })
    .await;
    let job = f.finish(&good, "good").await;
    assert_eq!((&job["outcome"]["exit_code"], &job["progress"]), (&json!(0), &json!(1.0)));
    for time in ["accepted_at", "started_at", "ended_at"] {
        assert!(ms(&job[time]) >= ms(&job["created_at"]) - 1000, "{job:#}");
    }

    f.slaves[0].open_gate("bad");
    let bad = f.place(printer("bad", 7)).await;
    assert_eq!(f.state(&bad, "failed").await["outcome"]["exit_code"], 7);
    for job in [&good, &bad] {
        assert_eq!(f.output(0, job), printed());
        let log = f.client.job_log(job, "offset=0").await.unwrap().expect(200);
        assert_eq!(log.as_str(), Some(printed().as_str()), "the output of a job that has ended");
    }
    f.started_once(&["good", "bad"]);
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn b1_a_deferred_job_starts_at_its_time_while_offline_and_is_reported_with_the_slaves_times() {
    let f = Factory::new().await;
    let due = in_ms(2500);
    let job = f.waiting(starting(work("later", 0.2), json!({ "not_before": due })), "time").await;
    f.cut(0).await;
    f.machine_ended(0, "later").await;
    let ended = f.held_as(0, &job, "succeeded").await;
    let seen = f.job(&job).await;
    assert_eq!(seen["state"], "accepted", "the slave's last report before the cut");
    assert!(has_flag(&seen, "stale"), "{seen:#}");

    let back = now_ms();
    f.nets[0].pass();
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["started_at"]) >= ms(&json!(due)), "{job:#}");
    assert_eq!(ms(&job["ended_at"]), ms(&ended["ended_at"]), "the slave's time");
    assert!(ms(&job["ended_at"]) < back, "not the time of the report");
    f.started_once(&["later"]);
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn an_unstarted_job_moves_to_an_idle_slave_and_starts_once() {
    let mut f = Factory::new().await;
    let first = f.running(gated("long")).await;
    let waits = f.waiting(work("waits", 0.0), "turn").await;
    f.add(|_| {}).await;
    assert_eq!(f.state(&waits, "succeeded").await["slave"], "s1");
    f.started_once(&["waits"]);
    f.finish(&first, "long").await;
}

#[tokio::test]
async fn b2_a_start_that_was_missed_while_the_slave_was_off_follows_its_orders_word() {
    let mut f = Factory::with(|options| options.config = "late_tolerance_seconds = 1".to_owned()).await;
    let due = in_ms(2000);
    let mut jobs = vec![];
    for late in ["hold", "run", "skip"] {
        let order = starting(work(late, 0.0), json!({ "not_before": due, "late": late }));
        jobs.push(f.waiting(order, "time").await);
    }
    f.slaves[0].power_off();
    passed(ms(&json!(due)) + 1100).await;
    f.slaves[0].restart();
    let run = f.state(&jobs[1], "succeeded").await;
    assert!(has_flag(&run, "missed_start"), "{run:#}");
    assert_eq!(f.state(&jobs[2], "expired").await["reason"]["code"], "missed_start");
    assert_eq!(f.waits_for(&jobs[0], "operator").await["reason"]["code"], "missed_start");
    f.never_started(&["hold", "skip"]);
    f.job_command(&jobs[0], "release", json!({})).await;
    f.state(&jobs[0], "succeeded").await;
    f.started_once(&["hold", "run"]);
    f.never_started(&["skip"]);
}

#[tokio::test]
async fn a_job_whose_window_closes_unstarted_expires_at_the_slave_and_at_the_master() {
    let f = Factory::new().await;
    let long = f.running(gated("long")).await;
    let window = json!({ "deadline": in_ms(1500) });
    let at_slave = f.waiting(starting(work("closed", 0.0), window), "turn").await;
    f.nets[0].cut(Close::Fin);
    let window = json!({ "deadline": in_ms(1000) });
    let at_master = f.place(with(starting(work("nobody", 0.0), window), json!({ "slave": "s9" }))).await;
    assert_eq!(f.state(&at_master, "expired").await["reason"]["code"], "window_closed");
    f.held_as(0, &at_slave, "expired").await;
    f.nets[0].pass();
    assert_eq!(f.state(&at_slave, "expired").await["reason"]["code"], "window_closed");
    f.finish(&long, "long").await;
    f.never_started(&["closed"]);
}

#[tokio::test]
async fn b10_a_job_that_runs_too_long_while_offline_is_flagged_or_stopped_as_its_order_says() {
    let f = Factory::new().await;
    let limited = |tag: &str| with(gated(tag), json!({ "max_runtime_seconds": 1, "on_overdue": tag }));
    let flag = f.running(limited("flag")).await;
    f.nets[0].cut(Close::Fin);
    let is_overdue = |job: &serde_json::Value| has_flag(job, "overdue");
    f.at_machine(0, "overdue", |status| held(status, &flag).is_some_and(is_overdue)).await;
    f.slaves[0].open_gate("flag");
    f.held_as(0, &flag, "succeeded").await;
    f.nets[0].pass();
    assert!(is_overdue(&f.state(&flag, "succeeded").await));

    let stop = f.running(limited("stop")).await;
    f.nets[0].cut(Close::Reset);
    f.machine_ended(0, "stop").await;
    f.at_machine(0, "stopped", |status| held(status, &stop).is_some_and(|job| !job["ended_at"].is_null()))
        .await;
    f.nets[0].pass();
    let job = f.until(&stop, "ended", |job| !job["ended_at"].is_null()).await;
    assert_eq!((&job["reason"]["code"], is_overdue(&job)), (&json!("max_runtime"), true), "{job:#}");
    let log = f.slaves[0].machine_log();
    assert_eq!(log.last().map(|(what, tag, _)| (what.as_str(), tag.as_str())), Some(("stop", "stop")));
}

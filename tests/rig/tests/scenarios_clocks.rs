//! Clocks that jump or cannot be trusted: times and durations stay right.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use reloop_rig::clock::WrongClock;
use reloop_rig::factory::{Factory, bake, gated, in_ms, ms, now_ms, passed, rfc3339, starting, work};
use reloop_rig::process::MasterOptions;
use reloop_rig::proxy::Close;
use serde_json::{Value, json};

const HOURS: i64 = 3600;

fn at(order: Value, moment: &str) -> Value {
    starting(order, json!({ "not_before": moment, "late": "run" }))
}

#[tokio::test]
async fn b7_a_deferred_job_waits_for_a_clock_after_a_boot_without_contact() {
    let mut f = Factory::new().await;
    let due = in_ms(4000);
    let job = f.waiting(at(work("clock", 0.0), &due), "time").await;
    f.nets[0].cut(Close::Fin);
    f.slaves[0].reboot();
    let status = f.at_machine(0, "up", |status| status["jobs"][0]["waiting_for"] == "clock").await;
    assert_eq!(status["clock"]["source"], "unknown", "{status:#}");
    passed(ms(&json!(due)) + 500).await;
    f.held_as(0, &job, "accepted").await;
    f.never_started(&["clock"]);
    f.nets[0].pass();
    f.state(&job, "succeeded").await;
    f.started_once(&["clock"]);
}

#[tokio::test]
async fn b7_a_box_whose_clock_is_trusted_keeps_the_time_after_a_boot_without_contact() {
    let mut f = Factory::with(|options| options.config = "trust_clock = true".to_owned()).await;
    let due = in_ms(4000);
    let job = f.waiting(at(work("trusted", 0.0), &due), "time").await;
    f.nets[0].cut(Close::Fin);
    f.slaves[0].reboot();
    f.at_machine(0, "up", |status| status["clock"]["source"] == "wall").await;
    f.machine_ended(0, "trusted").await;
    f.held_as(0, &job, "succeeded").await;
    f.nets[0].pass();
    let job = f.state(&job, "succeeded").await;
    assert!(ms(&job["started_at"]) >= ms(&json!(due)), "{job:#}");
    f.started_once(&["trusted"]);
}

#[tokio::test]
async fn b8_a_slave_whose_clock_jumps_starts_once_and_not_early_and_tells_the_right_times() {
    for hours in [5, -5] {
        let clock = WrongClock::new();
        let env = clock.env();
        let f = Factory::with(|options| options.env.clone_from(&env)).await;
        let due = in_ms(3000);
        let job = f.waiting(at(bake(2.0), &due), "time").await;
        f.cut(0).await;
        clock.is_off_by(hours * HOURS);
        let jumped = hours * HOURS * 1000;
        let is_off = |status: &Value| {
            let offset = status["clock"]["offset_ms"].as_i64().unwrap_or_default();
            (offset + jumped).abs() < 60_000
        };
        let status = f.at_machine(0, "off by hours", is_off).await;
        assert_eq!(status["clock"]["source"], "master", "{status:#}");
        if now_ms() < ms(&json!(due)) - 300 {
            f.held_as(0, &job, "accepted").await;
        }
        f.held_as(0, &job, "succeeded").await;
        assert!(now_ms() >= ms(&json!(due)), "it did not begin early");
        f.nets[0].pass();
        let seen = f.state(&job, "succeeded").await;
        let (started, ended) = (ms(&seen["started_at"]), ms(&seen["ended_at"]));
        assert!((0..5000).contains(&(started - ms(&json!(due)))), "{hours} h: {seen:#}");
        // The start is stamped when the agent reads of it, on a busy box a little after the machine began.
        assert!((1000..8000).contains(&(ended - started)), "{hours} h: {seen:#}");
        assert_eq!(f.bakes(0, &job), 1);
    }
}

/// A factory whose master has this clock.
async fn with_masters_clock(clock: &WrongClock) -> Factory {
    Factory::at(MasterOptions { env: clock.env(), ..MasterOptions::default() }).await
}

/// A job that is placed now is deferred by the master's new clock.
async fn defers_by_the_new_clock(f: &Factory, hours: i64) {
    let due = now_ms() + 3000;
    f.done(at(work("after", 0.0), &rfc3339(due + hours * HOURS * 1000))).await;
    assert!(now_ms() >= due, "{hours} h: it did not begin early");
    f.started_once(&["after"]);
}

#[tokio::test]
async fn b8_a_master_whose_clock_jumps_starts_nothing_twice_and_nothing_early() {
    for hours in [5, -5] {
        let clock = WrongClock::new();
        let f = with_masters_clock(&clock).await;
        let due = in_ms(3000);
        let job = f.waiting(at(work("before", 0.0), &due), "time").await;
        f.cut(0).await;
        clock.is_off_by(hours * HOURS);
        f.machine_ended(0, "before").await;
        assert!(now_ms() >= ms(&json!(due)), "not early by the clock under which it was agreed");
        f.nets[0].pass();
        f.state(&job, "succeeded").await;
        defers_by_the_new_clock(&f, hours).await;
        f.started_once(&["before"]);
    }
}

#[tokio::test]
async fn b8_a_master_whose_clock_is_set_while_its_slaves_are_there_keeps_the_new_time() {
    for hours in [5, -5] {
        let clock = WrongClock::new();
        let f = with_masters_clock(&clock).await;
        let running = f.place(gated("running")).await;
        let before = f.state(&running, "running").await;
        clock.is_off_by(hours * HOURS);
        f.session(0, 2).await;
        let seen = f.job(&running).await;
        assert_eq!((&seen["state"], &seen["attempt"]), (&json!("running"), &before["attempt"]));
        f.finish(&running, "running").await;
        defers_by_the_new_clock(&f, hours).await;
    }
}

//! Processes that die, boxes that lose their power, disks that are replaced: nothing is lost, nothing starts twice.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

mod scenario;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use reloop_rig::process::MasterOptions;
use reloop_rig::proxy::Close;
use reloop_rig::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use scenario::{
    Factory, PATIENCE, bake, gated, has_flag, held, in_ms, ms, now_ms, printed, printer, with, work,
};
use serde_json::{Value, json};
use tokio::time::sleep;

// Pauses that are part of what is tried: a fault comes at some moment, and nobody waits for anything to be so.

/// From one round to the next, the agent's death moves on by this: over accept, intent, claim, runner and report, wherever
/// those fall on this box.
const START_STEP: Duration = Duration::from_millis(5);
/// The same of the master's death after an order was sent, which is answered sooner.
const ORDER_STEP: Duration = Duration::from_millis(2);
/// A master may stand still for up to this long: more than the 3 s after which its links count as dead.
const STANDSTILL_MS: u64 = 4000;
/// From one fault to the next: from the middle of a handshake to about as long as one and a short job take.
const LEAST_QUIET: Duration = Duration::from_millis(100);
const QUIET_MS: u64 = 1000;

#[tokio::test]
async fn a6_a_process_job_outlives_its_killed_agent_and_is_found_again() {
    let mut f = Factory::new().await;
    let job = f.place(printer("agent", 3)).await;
    let started = f.state(&job, "running").await;
    f.slaves[0].kill();
    f.offline(0).await;
    f.slaves[0].restart();
    f.online(0).await;
    let found = f.job(&job).await;
    assert_eq!((found["state"].as_str(), &found["started_at"]), (Some("running"), &started["started_at"]));
    f.slaves[0].open_gate("agent");
    let ended = f.state(&job, "failed").await;
    assert_eq!(ended["outcome"]["exit_code"], 3);
    assert_eq!(f.output(0, &job), printed());
    assert_eq!((f.slaves[0].starts("agent"), &ended["attempt"]), (1, &json!(1)));
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a6_a_process_job_that_ends_while_its_agent_is_dead_keeps_its_outcome_and_time() {
    let mut f = Factory::new().await;
    let job = f.place(printer("dead", 5)).await;
    f.state(&job, "running").await;
    f.slaves[0].kill();
    f.slaves[0].open_gate("dead");
    f.machine_ended(0, "dead").await;
    eventually("the runner to leave", PATIENCE, async || {
        let runs = f.slaves[0].runs();
        if runs.is_empty() { Ok(()) } else { Err(runs) }
    })
    .await;
    let back = now_ms();
    f.slaves[0].restart();
    let ended = f.state(&job, "failed").await;
    assert_eq!(ended["outcome"]["exit_code"], 5);
    assert!(ms(&ended["ended_at"]) <= back, "its own time, not that of the agent's return: {ended:#}");
    assert_eq!(f.output(0, &job), printed());
    assert_eq!(f.slaves[0].starts("dead"), 1);
}

#[tokio::test]
async fn a6_a_simulated_job_outlives_its_killed_agent_and_begins_once() {
    let mut f = Factory::new().await;
    let job = f.place(bake(3.0)).await;
    f.state(&job, "running").await;
    for session in 2..5 {
        f.slaves[0].restart();
        f.slave(0, "back", |slave| slave["link"] == "online" && slave["session"] == session).await;
        assert_eq!(f.job(&job).await["state"], "running");
    }
    let ended = f.state(&job, "succeeded").await;
    assert_eq!((f.bakes(0, &job), &ended["attempt"]), (1, &json!(1)));
    let length = ms(&ended["ended_at"]) - ms(&ended["started_at"]);
    assert!((2900..5000).contains(&length), "{ended:#}");
}

#[tokio::test]
async fn a_job_outlives_its_agent_and_the_master_dying_one_after_the_other() {
    let mut f = Factory::new().await;
    let process = f.place(printer("both", 0)).await;
    f.state(&process, "running").await;
    let next = f.place(bake(0.3)).await;
    f.until(&next, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.slaves[0].kill();
    f.master.kill();
    f.slaves[0].open_gate("both");
    f.machine_ended(0, "both").await;
    f.slaves[0].restart();
    f.at_machine(0, "the next job done", |status| {
        held(status, &next).is_some_and(|job| job["state"] == "succeeded")
    })
    .await;
    f.master.restart().await;
    f.state(&process, "succeeded").await;
    f.state(&next, "succeeded").await;
    assert_eq!((f.slaves[0].starts("both"), f.bakes(0, &next)), (1, 1));
    assert_eq!(f.output(0, &process), printed());
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a7_agents_killed_at_any_moment_of_a_start_start_once() {
    let mut f = Factory::new().await;
    for round in 0..12 {
        let tag = format!("moment-{round}");
        let job = f.place(work(&tag, 0.1)).await;
        sleep(START_STEP * round).await;
        f.slaves[0].restart();
        let ended = f.state(&job, "succeeded").await;
        assert_eq!((f.slaves[0].starts(&tag), &ended["attempt"]), (1, &json!(1)), "{ended:#}");
    }
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a7_a_power_cut_at_any_moment_of_a_start_never_starts_it_blindly_again() {
    let mut f = Factory::new().await;
    for round in 0_u64..8 {
        let tag = format!("power-{round}");
        let job = f.place(gated(&tag)).await;
        // Where in accept, intent, claim, runner and report this falls differs from round to round and box to box.
        tokio::time::sleep(Duration::from_millis(round * 8)).await;
        f.slaves[0].reboot();
        f.slave(0, "back", |slave| slave["link"] == "online" && slave["session"] == round + 2).await;
        let seen = f
            .until(&job, "running or uncertain", |job| {
                job["state"] == "uncertain" || job["state"] == "running"
            })
            .await;
        assert!(f.slaves[0].starts(&tag) <= 1, "{seen:#}");
        if seen["state"] == "uncertain" {
            f.client.resolve(&job, &json!({"outcome": "failed"})).await.unwrap().expect(202);
            f.state(&job, "failed").await;
        } else {
            f.slaves[0].open_gate(&tag);
            f.state(&job, "succeeded").await;
        }
        assert!(f.slaves[0].starts(&tag) <= 1);
    }
    f.holds_nothing(0).await;
}

/// A program that does not hear a polite request to stop.
const DEAF: &str = r#"
[programs.deaf]
driver = "process"
command = ["/bin/sh", "-c", "trap '' TERM; echo start deaf $$ >>../../../../machine/machine.log; while :; do sleep 0.05; done"]
stop_grace_seconds = 600
"#;

#[tokio::test]
async fn a19_what_was_canceled_on_disk_stays_canceled_whatever_dies() {
    let mut f = Factory::with(|options| options.tables.push_str(DEAF)).await;
    let job = f.place(json!({"program": "deaf"})).await;
    f.state(&job, "running").await;
    f.machine_started(0, "deaf").await;
    f.client.cancel(&job, &json!({"mode": "safe_point"})).await.unwrap().expect(202);
    f.held_as(0, &job, "stopping").await;
    f.slaves[0].restart();
    f.held_as(0, &job, "stopping").await;
    f.nets[0].cut(Close::Reset);
    f.slaves[0].reboot();
    f.held_as(0, &job, "canceled").await;
    f.nets[0].pass();
    f.state(&job, "canceled").await;
    assert_eq!(f.slaves[0].starts("deaf"), 1);
}

#[tokio::test]
async fn e6_a_program_that_is_gone_between_accept_and_start_is_rejected_with_the_reason() {
    let mut f = Factory::new().await;
    let held = with(printer("gone", 0), json!({"start": {"hold": true}, "slave": "s0"}));
    let job = f.place(held).await;
    f.until(&job, "held", |job| job["waiting_for"] == "operator").await;
    f.slaves[0].options_mut().tables.clear();
    f.slaves[0].restart();
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    f.client.release(&job, &json!({})).await.unwrap().expect(202);
    let seen = f.state(&job, "rejected").await;
    assert_eq!(seen["reason"]["code"], "unknown_program", "{seen:#}");
    assert_eq!(f.slaves[0].starts("gone"), 0);
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
}

#[tokio::test]
async fn e9_a_box_that_reboots_again_and_again_asks_a_person() {
    let mut f = Factory::with(|options| options.config = "max_interruptions = 2".to_owned()).await;
    let job = f.place(with(gated("loop"), json!({"on_interrupt": "restart"}))).await;
    for start in 1..=3 {
        eventually(&format!("start {start}"), PATIENCE, async || {
            let starts = f.slaves[0].starts("loop");
            if starts == start { Ok(()) } else { Err(starts) }
        })
        .await;
        f.held_as(0, &job, "running").await;
        f.slaves[0].reboot();
    }
    let seen = f.state(&job, "uncertain").await;
    assert_eq!(seen["reason"]["code"], "interrupted_too_often", "{seen:#}");
    f.client.resolve(&job, &json!({"outcome": "failed"})).await.unwrap().expect(202);
    f.state(&job, "failed").await;
    assert_eq!(f.slaves[0].starts("loop"), 3);
}

#[tokio::test]
async fn e10_an_agent_that_is_starved_changes_only_the_last_contact() {
    let f = Factory::new().await;
    let job = f.place(gated("starved")).await;
    let before = f.state(&job, "running").await;
    f.slaves[0].pause();
    let slave = f.offline(0).await;
    let seen = f.job(&job).await;
    assert!(has_flag(&seen, "stale"), "{seen:#}");
    for field in ["state", "desired", "attempt", "slave", "started_at", "reason", "outcome", "revision"] {
        assert_eq!(seen[field], before[field], "{field}");
    }
    // The machine does not need its agent.
    f.slaves[0].open_gate("starved");
    f.machine_ended(0, "starved").await;
    assert_eq!(f.job(&job).await["state"], "running", "only the slave says otherwise");
    f.slaves[0].cont();
    let ended = f.state(&job, "succeeded").await;
    assert!(ms(&slave["last_contact_at"]) <= ms(&ended["ended_at"]), "{ended:#}");
    assert_eq!((f.slaves[0].starts("starved"), &ended["attempt"]), (1, &json!(1)));
}

#[tokio::test]
async fn d7_an_order_that_was_acknowledged_outlives_the_masters_death_at_any_moment() {
    let mut f = Factory::new().await;
    let mut placed = vec![];
    for round in 0..12 {
        let (tag, key) = (format!("order-{round}"), format!("key-{round}"));
        let client = f.client.clone();
        let order = work(&tag, 0.0);
        let placing = {
            let (order, key) = (order.clone(), key.clone());
            tokio::spawn(async move { client.place(&order, Some(&key)).await })
        };
        sleep(ORDER_STEP * round).await;
        f.master.restart().await;
        let acknowledged = placing.await.unwrap().ok().map(|reply| reply.expect(201));
        let again = f.client.place(&order, Some(&key)).await.unwrap().expect(201);
        if let Some(first) = acknowledged {
            assert_eq!(first["id"], again["id"], "the key stands for the order that was acknowledged");
        }
        placed.push((scenario::job_of(&again), tag));
    }
    for (job, tag) in &placed {
        f.state(job, "succeeded").await;
        assert_eq!(f.slaves[0].starts(tag), 1, "{tag}");
    }
    let orders = f.client.orders("limit=100").await.unwrap().expect(200);
    assert_eq!(orders["data"].as_array().unwrap().len(), placed.len(), "one order per key");
}

#[tokio::test]
async fn d1_a_master_that_restarts_with_its_data_shows_the_past_as_stale_until_the_slave_is_back() {
    let mut f = Factory::new().await;
    let job = f.place(gated("stale")).await;
    let before = f.state(&job, "running").await;
    f.master.kill();
    f.nets[0].cut(Close::Fin);
    f.master.restart().await;
    let seen = f.job(&job).await;
    assert_eq!((seen["state"].as_str(), has_flag(&seen, "stale")), (Some("running"), true), "{seen:#}");
    assert_eq!(seen["freshness"]["link"], "offline");
    assert!(ms(&seen["freshness"]["observed_at"]) >= ms(&before["started_at"]) - 1000);
    assert_eq!(f.client.slave("s0").await.unwrap().expect(200)["link"], "offline");
    // It takes orders all the same.
    let next = f.place(work("next", 0.0)).await;
    f.nets[0].pass();
    let seen = f.until(&job, "fresh", |job| !has_flag(job, "stale")).await;
    assert_eq!((&seen["state"], &seen["started_at"]), (&json!("running"), &before["started_at"]));
    f.slaves[0].open_gate("stale");
    f.state(&job, "succeeded").await;
    f.state(&next, "succeeded").await;
    assert_eq!((f.slaves[0].starts("stale"), f.slaves[0].starts("next")), (1, 1));
}

#[tokio::test]
async fn what_a_job_waits_for_is_known_again_after_its_agent_and_then_the_master_restarted() {
    let mut f = Factory::new().await;
    let job = f.place(with(work("held", 0.0), json!({"start": {"hold": true}, "slave": "s0"}))).await;
    f.until(&job, "held", |job| job["waiting_for"] == "operator").await;
    f.slaves[0].restart();
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    f.until(&job, "held", |job| job["waiting_for"] == "operator").await;
    f.master.restart().await;
    f.until(&job, "held", |job| job["waiting_for"] == "operator").await;
}

#[tokio::test]
async fn d2_a_master_that_lost_everything_adopts_its_slaves_jobs_and_stops_nothing() {
    let mut f = Factory::new().await;
    let done = f.place(work("done", 0.0)).await;
    let done_before = f.state(&done, "succeeded").await;
    let running = f.place(with(gated("running"), json!({"name": "bracket"}))).await;
    let running_before = f.state(&running, "running").await;
    let waiting = f.place(with(work("waiting", 0.0), json!({"priority": 3}))).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    let due = in_ms(3_600_000);
    let timed = f.place(with(work("timed", 0.0), json!({"start": {"not_before": due}}))).await;
    f.until(&timed, "on the slave's disk", |job| job["waiting_for"] == "time").await;

    f.master.wipe();
    f.master.restart().await;
    f.client = f.master.client();
    let seen = f.state(&running, "running").await;
    assert!(has_flag(&seen, "adopted"), "{seen:#}");
    for field in ["order", "name", "program", "params", "attempt", "accepted_at", "started_at", "slave"] {
        assert_eq!(seen[field], running_before[field], "{field}");
    }
    let seen = f.state(&waiting, "accepted").await;
    assert_eq!((&seen["priority"], &seen["params"]["tag"]), (&json!(3), &json!("waiting")));
    assert_eq!(ms(&f.state(&timed, "accepted").await["not_before"]), ms(&json!(due)));
    let seen = f.state(&done, "succeeded").await;
    assert_eq!(seen["ended_at"], done_before["ended_at"], "also what it had been told to forget");
    assert_eq!(f.slaves[0].machine_log().iter().filter(|(what, ..)| what == "stop").count(), 0);

    f.slaves[0].open_gate("running");
    f.state(&running, "succeeded").await;
    f.state(&waiting, "succeeded").await;
    f.client.cancel(&timed, &json!({})).await.unwrap().expect(202);
    f.state(&timed, "canceled").await;
    let after = f.place(work("after", 0.0)).await;
    f.state(&after, "succeeded").await;
    for tag in ["done", "running", "waiting", "after"] {
        assert_eq!(f.slaves[0].starts(tag), 1, "{tag}");
    }
}

#[tokio::test]
async fn a6_a_job_that_a_reboot_interrupted_follows_its_orders_word() {
    let mut f = Factory::new().await;
    let interrupted = |tag: &str, word: &str| with(gated(tag), json!({"on_interrupt": word}));

    let hold = f.place(interrupted("hold", "hold")).await;
    f.state(&hold, "running").await;
    let behind = f.place(work("behind", 0.0)).await;
    f.until(&behind, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.slaves[0].reboot();
    let seen = f.state(&hold, "uncertain").await;
    assert!(!seen["reason"]["text"].as_str().unwrap().is_empty());
    assert_eq!(
        f.slave(0, "asking", |slave| slave["status"] == "attention").await["uncertain"],
        hold.as_str()
    );
    assert_eq!(f.slaves[0].starts("behind"), 0, "nothing starts over a job of which nobody knows");
    f.client.resolve(&hold, &json!({"outcome": "failed"})).await.unwrap().expect(202);
    assert_eq!(f.state(&hold, "failed").await["reason"]["code"], "resolved");
    f.state(&behind, "succeeded").await;
    assert_eq!(f.slaves[0].starts("hold"), 1);

    let fail = f.place(interrupted("fail", "fail")).await;
    f.state(&fail, "running").await;
    f.slaves[0].reboot();
    assert_eq!(f.state(&fail, "failed").await["reason"]["code"], "interrupted");
    assert_eq!(f.slaves[0].starts("fail"), 1);

    let restart = f.place(interrupted("restart", "restart")).await;
    f.state(&restart, "running").await;
    f.nets[0].cut(Close::Fin);
    f.slaves[0].reboot();
    eventually("it to begin again, without a link", PATIENCE, async || {
        (f.slaves[0].starts("restart") == 2).then_some(())
    })
    .await;
    f.slaves[0].open_gate("restart");
    f.nets[0].pass();
    let seen = f.state(&restart, "succeeded").await;
    assert!(has_flag(&seen, "interrupted"), "{seen:#}");
    assert_eq!((f.slaves[0].starts("restart"), &seen["attempt"]), (2, &json!(1)));
}

/// Lets go of all descriptors that it did not make, as a daemon does, and moves until it is killed.
const CLOSING: &str = r#"
[programs.closing]
driver = "process"
command = ["/usr/bin/env", "python3", "-c", """
import os, time
os.closerange(3, 1024)
with open("../../../../machine/machine.log", "a") as log:
    print("start", "closing", os.getpid(), file=log)
while True:
    time.sleep(0.05)
"""]
"#;

#[tokio::test]
async fn a_run_that_lost_its_runner_is_not_begun_again_while_anything_of_it_lives() {
    let mut f = Factory::with(|options| options.tables.push_str(CLOSING)).await;
    let job = f.place(json!({"program": "closing", "on_interrupt": "restart"})).await;
    f.state(&job, "running").await;
    f.machine_started(0, "closing").await;
    let (_, _, program) = f.slaves[0].machine_log().pop().unwrap();
    let program = Pid::from_raw(program.try_into().unwrap()).unwrap();
    for runner in f.slaves[0].runs().into_iter().filter(|pid| *pid != program) {
        kill_process(runner, Signal::KILL).unwrap();
    }
    let seen = f.state(&job, "uncertain").await;
    let text = seen["reason"]["text"].as_str().unwrap();
    assert!(text.contains(&format!("kill -9 {}", program.as_raw_nonzero())), "what to do: {text}");
    // Nor does a new agent take it for gone.
    f.slaves[0].restart();
    f.slave(0, "on its second session", |slave| slave["link"] == "online" && slave["session"] == 2).await;
    assert_eq!(f.job(&job).await["state"], "uncertain");
    assert_eq!(f.slaves[0].starts("closing"), 1);
    kill_process(program, Signal::KILL).unwrap();
    f.client.resolve(&job, &json!({"outcome": "failed"})).await.unwrap().expect(202);
    f.state(&job, "failed").await;
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
    assert_eq!(f.slaves[0].starts("closing"), 1);
}

/// Ends in good order when it is told to, as if all were done.
const POLITE: &str = r#"
[programs.polite]
driver = "process"
command = ["/bin/sh", "-c", """
trap 'exit 0' TERM
echo start $0 $$ >>../../../../machine/machine.log
while :; do sleep 0.05; done
""", "{tag}"]
[programs.polite.params]
tag = { pattern = "[a-z]+" }
"#;

#[tokio::test]
async fn a_shutdown_of_the_box_interrupts_its_job_whatever_the_program_returns() {
    let mut f = Factory::with(|options| options.tables.push_str(POLITE)).await;
    for (round, word, end) in [(2, "fail", "failed"), (3, "hold", "uncertain")] {
        let job = f.place(json!({"program": "polite", "params": {"tag": word}, "on_interrupt": word})).await;
        f.state(&job, "running").await;
        f.machine_started(0, word).await;
        // As at a shutdown: the agent is told with all the others, and the power goes when nothing is left.
        let all = f.slaves[0].runs();
        f.slaves[0].stop().await;
        for pid in all {
            // What the program waits for comes and goes.
            let _ = kill_process(pid, Signal::TERM);
        }
        eventually("all of it to end", PATIENCE, async || {
            let runs = f.slaves[0].runs();
            if runs.is_empty() { Ok(()) } else { Err(runs) }
        })
        .await;
        f.slaves[0].reboot();
        f.slave(0, "back", |slave| slave["link"] == "online" && slave["session"] == round).await;
        let seen = f.state(&job, end).await;
        assert_eq!(seen["reason"]["code"], "interrupted", "{seen:#}");
        assert_eq!(f.slaves[0].starts(word), 1);
    }
}

#[tokio::test]
async fn a6_a_simulated_machine_that_goes_on_through_a_reboot_is_asked_and_believed() {
    let mut f = Factory::new().await;
    let job = f.place(bake(1.5)).await;
    f.state(&job, "running").await;
    f.slaves[0].reboot();
    f.state(&job, "succeeded").await;
    assert_eq!(f.bakes(0, &job), 1);
    f.ran_undisturbed(&job).await;
}

#[tokio::test]
async fn c1_a_replaced_disk_makes_its_jobs_uncertain_and_starts_nothing_until_a_person_has_looked() {
    let mut f = Factory::new().await;
    let running = f.place(gated("running")).await;
    f.state(&running, "running").await;
    let waiting = f.place(work("waiting", 0.0)).await;
    f.until(&waiting, "on the slave's disk", |job| job["waiting_for"] == "turn").await;
    f.slaves[0].wipe();
    f.slaves[0].restart();
    let seen = f.state(&running, "uncertain").await;
    assert_eq!(seen["reason"]["code"], "store_replaced", "not a promise that was broken: {seen:#}");
    let seen =
        f.slave(0, "asking", |slave| slave["link"] == "online" && slave["status"] == "attention").await;
    assert_eq!(seen["attention"]["code"], "store_replaced", "{seen:#}");
    let after = f.place(work("after", 0.0)).await;
    let behind = f.place(with(work("behind", 0.0), json!({"slave": "s0"}))).await;
    f.client.resolve(&running, &json!({"outcome": "failed"})).await.unwrap().expect(202);
    f.state(&running, "failed").await;
    if f.job(&waiting).await["state"] == "uncertain" {
        f.client.resolve(&waiting, &json!({"outcome": "canceled"})).await.unwrap().expect(202);
        f.state(&waiting, "canceled").await;
    }
    f.at_machine(0, "still asking", |status| status["machine"]["attention"] == "store_replaced").await;
    assert_eq!(
        (f.slaves[0].starts("after"), f.slaves[0].starts("behind"), f.slaves[0].starts("waiting")),
        (0, 0, 0)
    );
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    f.state(&after, "succeeded").await;
    f.state(&behind, "succeeded").await;
    assert_eq!(
        (f.slaves[0].starts("running"), f.slaves[0].starts("after"), f.slaves[0].starts("behind")),
        (1, 1, 1)
    );
}

#[tokio::test]
async fn c2_an_unreadable_store_of_a_slave_is_set_aside_and_the_agent_comes_up_asking() {
    let mut f = Factory::new().await;
    let job = f.place(gated("garbage")).await;
    f.state(&job, "running").await;
    f.slaves[0].kill();
    spoil(&f.slaves[0].state_dir().join("store"));
    f.slaves[0].restart();
    let seen = f.slave(0, "asking", |slave| slave["link"] == "online" && !slave["attention"].is_null()).await;
    assert_eq!(seen["attention"]["code"], "store_replaced", "{seen:#}");
    f.state(&job, "uncertain").await;
    assert!(is_set_aside(&f.slaves[0].state_dir()), "the old one is kept for a look");
    f.client.resolve(&job, &json!({"outcome": "canceled"})).await.unwrap().expect(202);
    f.client.clear("s0", &json!({})).await.unwrap().expect(202);
    let next = f.place(work("next", 0.0)).await;
    f.state(&next, "succeeded").await;
    assert_eq!(f.slaves[0].starts("garbage"), 1);
}

#[tokio::test]
async fn d2_an_unreadable_store_of_the_master_is_set_aside_and_its_jobs_are_adopted() {
    let mut f = Factory::new().await;
    let job = f.place(gated("garbage")).await;
    let before = f.state(&job, "running").await;
    f.master.kill();
    spoil(&f.master.data_dir().join("store"));
    f.master.restart().await;
    let seen = f.state(&job, "running").await;
    assert_eq!(seen["started_at"], before["started_at"]);
    assert!(has_flag(&seen, "adopted"), "{seen:#}");
    assert!(is_set_aside(&f.master.data_dir()), "the old one is kept for a look");
    f.slaves[0].open_gate("garbage");
    f.state(&job, "succeeded").await;
    assert_eq!(f.slaves[0].starts("garbage"), 1);
}

/// Overwrites a database with what no database is.
fn spoil(store: &Path) {
    let db = store.join("db");
    let length = fs::metadata(&db).unwrap().len().max(4096);
    fs::write(&db, b"not a database\n".repeat(usize::try_from(length).unwrap() / 15)).unwrap();
    fs::write(store.join("conf"), "neither is this").unwrap();
}

/// Whether there is a second store beside the one in use.
fn is_set_aside(dir: &Path) -> bool {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with("store")).count() == 2
}

#[tokio::test]
async fn an_order_is_on_the_disk_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let Some(wrapper) = strace(&trace) else { return };
    let f = Factory::empty(MasterOptions { wrapper, ..MasterOptions::default() }).await;
    for round in 0..3 {
        let began = Instant::now();
        f.place(work(&format!("traced-{round}"), 0.0)).await;
        assert!(began.elapsed() >= SLOW_DISK, "acknowledged after {:?}", began.elapsed());
    }
    let lines = eventually("three answers in the trace", PATIENCE, async || {
        let lines = lines(&trace);
        let answers = lines.iter().filter(|line| line.contains("HTTP/1.1 201")).count();
        if answers == 3 { Ok(lines) } else { Err(answers) }
    })
    .await;
    let mut asked = None;
    for (number, line) in lines.iter().enumerate() {
        if line.contains("POST /v1/orders") {
            asked = Some(number);
        } else if line.contains("HTTP/1.1 201") {
            let between = &lines[asked.take().expect("a question before the answer")..number];
            assert!(between.iter().any(|line| synced(line)), "{between:#?}");
        }
    }
}

#[tokio::test]
async fn an_intent_is_on_the_disk_before_the_machine_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let Some(wrapper) = strace(&trace) else { return };
    let f = Factory::with(|options| options.wrapper.clone_from(&wrapper)).await;
    let before = lines(&trace).len();
    let placed = SystemTime::now();
    let job = f.place(work("traced", 0.0)).await;
    f.state(&job, "succeeded").await;
    let runs = fs::read_dir(f.slaves[0].state_dir().join("runs")).unwrap();
    let plans: Vec<_> = runs.map(|run| run.unwrap().path().join("plan")).collect();
    assert_eq!(plans.len(), 1);
    let waited = fs::metadata(&plans[0]).unwrap().modified().unwrap().duration_since(placed).unwrap();
    assert!(waited >= SLOW_DISK, "the machine was touched after {waited:?}");
    let lines = lines(&trace).split_off(before);
    let touched = lines
        .iter()
        .position(|line| line.contains("mkdir") && line.contains("/runs/") && line.contains("= 0"))
        .unwrap_or_else(|| panic!("no run was made: {lines:#?}"));
    assert!(lines[..touched].iter().any(|line| synced(line)), "{:#?}", &lines[..touched]);
}

#[tokio::test]
async fn a11_a_cancel_that_overtakes_the_beginning_keeps_it_from_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let Some(wrapper) = traced(&trace, "execve", SLOW_START) else { return };
    let f = Factory::with(|options| options.wrapper.clone_from(&wrapper)).await;
    let job = f.place(work("overtaken", 0.0)).await;
    f.state(&job, "starting").await;
    f.client.cancel(&job, &json!({"mode": "now"})).await.unwrap().expect(202);
    let ended = f.state(&job, "canceled").await;
    assert_eq!(ended["started_at"], Value::Null, "{ended:#}");
    // On a machine that executes nothing.
    let next = f.place(bake(0.0)).await;
    f.state(&next, "succeeded").await;
    eventually("the runner to come and go", PATIENCE, async || {
        let lines = lines(&trace);
        let runner = lines.iter().find(|line| line.contains("execve") && line.contains("\"runner\""));
        let pid = runner.and_then(|line| line.split_whitespace().next()).ok_or(vec![])?;
        let gone = |line: &&String| line.starts_with(pid) && line.contains("exited with 0");
        lines.iter().find(gone).map(drop).ok_or(lines)
    })
    .await;
    assert_eq!(f.slaves[0].starts("overtaken"), 0, "nor by a runner that comes late");
    f.holds_nothing(0).await;
}

/// A successful fdatasync of a store's database file. A call that another thread's call interrupts in the trace is
/// shown in two halves; the second counts.
fn synced(line: &str) -> bool {
    line.contains("fdatasync")
        && line.contains("= 0")
        && (line.contains("/store/db") || line.contains("resumed"))
}

fn lines(trace: &Path) -> Vec<String> {
    fs::read_to_string(trace).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// How long the disk of a traced node takes to make something durable: what does not wait for it comes sooner.
const SLOW_DISK: Duration = Duration::from_millis(500);

/// How long a traced program takes to be executed: whatever does not wait for a beginning overtakes it.
const SLOW_START: Duration = Duration::from_secs(2);

/// Runs a node so that its disk is slow and its system calls are written down; `None`, and a word about it, where that can't be done.
fn strace(trace: &Path) -> Option<Vec<String>> {
    traced(trace, "fdatasync", SLOW_DISK)
}

/// The same of one kind of system call that takes so long.
fn traced(trace: &Path, call: &str, takes: Duration) -> Option<Vec<String>> {
    let slow = format!("inject={call}:delay_enter={}", takes.as_micros());
    let works = Command::new("strace").args(["-f", "-e", &slow, "-o", "/dev/null", "/bin/true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "left out: strace is not installed, or may not trace").unwrap();
        return None;
    }
    let calls = "trace=fdatasync,read,recvfrom,write,writev,sendto,sendmsg,mkdir,mkdirat,execve";
    let trace: PathBuf = trace.to_owned();
    let place = trace.to_str().unwrap();
    let words = ["strace", "-f", "-y", "-s", "64", "-e", calls, "-e", &slow, "-o", place];
    Some(words.map(str::to_owned).to_vec())
}

/// How many rounds of faults if RELOOP_CHAOS_ROUNDS says nothing: on two cores it takes a minute and a half.
const CHAOS_ROUNDS: u64 = 100;

/// Sebastiano Vigna's SplitMix64: the same seed, the same choices.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

/// A client that never gives up, and places an order under one key until it is acknowledged.
struct Placed {
    key: String,
    tag: Option<String>,
    order: Value,
    acknowledged: Value,
}

async fn place_until_acknowledged(
    client: &reloop_rig::client::Client,
    key: String,
    tag: Option<String>,
    order: Value,
) -> Placed {
    let acknowledged = eventually("an order to be acknowledged", PATIENCE, async || {
        match client.place(&order, Some(&key)).await {
            Ok(reply) if reply.status == 201 => Ok(reply.body),
            Ok(reply) => Err(format!("{reply:?}")),
            Err(error) => Err(format!("{error:?}")),
        }
    })
    .await;
    Placed { key, tag, order, acknowledged }
}

/// Nodes are killed and links are broken at random while orders come in. At the end no acknowledged order is lost, no
/// tag was started twice, all jobs have ended, and both views are equal.
#[tokio::test]
async fn nothing_is_lost_and_nothing_starts_twice_whatever_dies_when() {
    // The client is a task beside the faults.
    tokio::task::LocalSet::new().run_until(chaos()).await;
}

async fn chaos() {
    const SLAVES: u64 = 3;
    let env = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seed = env("RELOOP_SEED").unwrap_or_else(|| u64::from(std::process::id()) ^ now_ms().unsigned_abs());
    let rounds = env("RELOOP_CHAOS_ROUNDS").unwrap_or(CHAOS_ROUNDS);
    {
        use std::io::Write as _;
        writeln!(std::io::stderr(), "chaos: RELOOP_SEED={seed} RELOOP_CHAOS_ROUNDS={rounds}").unwrap();
    }
    let mut dice = Dice(seed);
    let mut f = Factory::empty(MasterOptions::default()).await;
    for slave in 0..3 {
        f.add(|_| {});
        f.online(slave).await;
    }
    let (order_here, mut orders) =
        tokio::sync::mpsc::unbounded_channel::<(String, Option<String>, Value, bool)>();
    let client = f.client.clone();
    let load = tokio::task::spawn_local(async move {
        let mut placed = vec![];
        while let Some((key, tag, order, cancel)) = orders.recv().await {
            let one = place_until_acknowledged(&client, key, tag, order).await;
            if cancel {
                // If nobody answers, it is not canceled: both ends are right.
                drop(client.cancel_order(one.acknowledged["id"].as_str().unwrap(), &json!({})).await);
            }
            placed.push(one);
        }
        placed
    });

    let mut faults = vec![];
    for round in 0..rounds {
        for number in 0..dice.below(7) {
            let key = format!("chaos-{round}-{number}");
            let tag = format!("t-{round}-{number}");
            let seconds = f64::from(u32::try_from(dice.below(600)).unwrap()) / 1000.0;
            let cancel = dice.below(8) == 0;
            let (tag, order) = match dice.below(6) {
                0 | 1 => (None, with(bake(seconds), json!({"quantity": 1 + dice.below(3)}))),
                2 => {
                    // Its time may pass while its agent is dead.
                    let start = json!({"start": {"not_before": in_ms(1500), "late": "run"}});
                    (Some(tag.clone()), with(work(&tag, seconds), start))
                }
                _ => (Some(tag.clone()), with(work(&tag, seconds), json!({"priority": dice.below(3)}))),
            };
            order_here.send((key, tag, order, cancel)).unwrap();
        }
        let slave = usize::try_from(dice.below(SLAVES)).unwrap();
        let close = if dice.below(2) == 0 { Close::Fin } else { Close::Reset };
        let fault = dice.below(12);
        faults.push((round, fault, slave));
        match fault {
            0 | 1 => f.master.restart().await,
            2 | 3 => f.slaves[slave].restart(),
            4 => {
                f.master.kill();
                f.slaves[slave].restart();
                f.master.restart().await;
            }
            5 => f.nets[slave].drop_existing(close),
            6 => f.nets[slave].half_open_existing(),
            7 => {
                let direction = if dice.below(2) == 0 {
                    reloop_rig::proxy::Direction::ToMaster
                } else {
                    reloop_rig::proxy::Direction::ToSlave
                };
                f.nets[slave].cut_after(direction, 100 + dice.below(3000));
                f.nets[slave].drop_existing(close);
            }
            8 => f.nets[slave].cut(close),
            9 => {
                if f.slaves[slave].is_alive() {
                    f.slaves[slave].stop().await;
                }
                f.slaves[slave].restart();
            }
            10 => {
                f.master.pause();
                sleep(Duration::from_millis(dice.below(STANDSTILL_MS))).await;
                f.master.cont();
            }
            _ => {
                f.nets[slave].delay(Duration::from_millis(dice.below(200)));
                f.slaves[slave].kill();
            }
        }
        sleep(LEAST_QUIET + Duration::from_millis(dice.below(QUIET_MS))).await;
        // What was left cut or dead is mended a while later; the next fault may come first.
        let mended = usize::try_from(dice.below(SLAVES)).unwrap();
        f.nets[mended].pass();
        if !f.slaves[mended].is_alive() {
            f.slaves[mended].restart();
        }
    }

    drop(order_here);
    for slave in 0..3 {
        f.nets[slave].pass();
        if !f.slaves[slave].is_alive() {
            f.slaves[slave].restart();
        }
    }
    let placed = load.await.unwrap();
    let mut jobs = 0;
    for one in &placed {
        let id = one.acknowledged["id"].as_str().unwrap();
        let order = f.client.order(id).await.unwrap().expect(200);
        let again = f.client.place(&one.order, Some(&one.key)).await.unwrap().expect(201);
        assert_eq!(again["id"], id, "the key still stands for the order (seed {seed})");
        for job in order["jobs"].as_array().unwrap() {
            jobs += 1;
            let id = job["id"].as_str().unwrap();
            let ended = f.until(id, "ended", |job| !job["ended_at"].is_null()).await;
            let state = ended["state"].as_str().unwrap();
            assert!(["succeeded", "canceled"].contains(&state), "seed {seed}, {faults:?}: {ended:#}");
            let starts: usize = match &one.tag {
                Some(tag) => f.slaves.iter().map(|slave| slave.starts(tag)).sum(),
                None => (0..3).map(|slave| f.bakes(slave, id)).sum(),
            };
            let allowed = if state == "succeeded" { 1..=1 } else { 0..=1 };
            assert!(allowed.contains(&starts), "{starts} starts, seed {seed}, {faults:?}: {ended:#}");
        }
    }
    assert!(placed.len() as u64 >= rounds, "it was a load");
    for slave in 0..3 {
        f.online(slave).await;
        f.holds_nothing(slave).await;
        assert_eq!(f.client.slave(f.slaves[slave].name()).await.unwrap().expect(200)["jobs"], json!([]));
    }
    use std::io::Write as _;
    writeln!(std::io::stderr(), "chaos: {} orders, {jobs} jobs, all ended and none twice", placed.len())
        .unwrap();
}

//! Processes that crash, boxes that lose their power, disks that are replaced: nothing is lost, nothing starts twice.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use reloop_rig::factory::{
    Factory, bake, for_s0, gated, has_flag, in_ms, job_of, ms, much_later, now_ms, printed, printer,
    starting, with, work,
};
use reloop_rig::process::MasterOptions;
use reloop_rig::proxy::Close;
use reloop_rig::wait::{PATIENCE, eventually};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::time::sleep;

// These pauses are part of the test: a fault comes at some moment of a start or of an order.

/// The agent is killed this much later in each round, so that over the rounds its death falls on accept, intent, claim,
/// runner and report, wherever they are on this box.
const START_STEP: Duration = Duration::from_millis(5);
/// The same for a power cut, which takes longer to cause.
const POWER_STEP: Duration = Duration::from_millis(8);
/// The same for the master's death after an order was sent, which is answered sooner.
const ORDER_STEP: Duration = Duration::from_millis(2);

/// Waits until no process of a slave's jobs is left.
async fn nothing_runs(f: &Factory) {
    eventually("all runs to end", PATIENCE, async || {
        let runs = f.slaves[0].runs();
        if runs.is_empty() { Ok(()) } else { Err(runs) }
    })
    .await;
}

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
    assert_eq!((&ended["outcome"]["exit_code"], &ended["attempt"]), (&json!(3), &json!(1)));
    assert_eq!(f.output(0, &job), printed());
    f.started_once(&["agent"]);
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a6_a_process_job_that_ends_while_its_agent_is_dead_keeps_its_outcome_and_time() {
    let mut f = Factory::new().await;
    let job = f.running(printer("dead", 5)).await;
    f.slaves[0].kill();
    f.slaves[0].open_gate("dead");
    f.machine_ended(0, "dead").await;
    nothing_runs(&f).await;
    let back = now_ms();
    f.slaves[0].restart();
    let ended = f.state(&job, "failed").await;
    assert_eq!(ended["outcome"]["exit_code"], 5);
    assert!(ms(&ended["ended_at"]) <= back, "not the time of the agent's return: {ended:#}");
    assert_eq!(f.output(0, &job), printed());
    f.started_once(&["dead"]);
}

#[tokio::test]
async fn a6_a_simulated_job_outlives_its_killed_agent_and_begins_once() {
    let mut f = Factory::new().await;
    let job = f.running(bake(6.0)).await;
    for session in 2..5 {
        f.slaves[0].restart();
        f.session(0, session).await;
        assert_eq!(f.job(&job).await["state"], "running");
    }
    let ended = f.state(&job, "succeeded").await;
    assert_eq!((f.bakes(0, &job), &ended["attempt"]), (1, &json!(1)));
    let length = ms(&ended["ended_at"]) - ms(&ended["started_at"]);
    assert!((5900..9000).contains(&length), "{ended:#}");
    let states = f.states(&job).await;
    assert_eq!((states[0].as_str(), states[states.len() - 1].as_str()), ("queued", "succeeded"));
}

#[tokio::test]
async fn a_job_outlives_its_agent_and_the_master_dying_one_after_the_other() {
    let mut f = Factory::new().await;
    let process = f.running(printer("both", 0)).await;
    let next = f.waiting(bake(0.3), "turn").await;
    f.slaves[0].kill();
    f.master.kill();
    f.slaves[0].open_gate("both");
    f.machine_ended(0, "both").await;
    f.slaves[0].restart();
    f.held_as(0, &next, "succeeded").await;
    f.master.restart().await;
    f.finish(&process, "both").await;
    f.state(&next, "succeeded").await;
    assert_eq!(f.bakes(0, &next), 1);
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
        assert_eq!((f.starts(&tag), &ended["attempt"]), (1, &json!(1)), "{ended:#}");
    }
    f.holds_nothing(0).await;
}

#[tokio::test]
async fn a7_a_power_cut_at_any_moment_of_a_start_never_starts_it_blindly_again() {
    let mut f = Factory::new().await;
    for round in 0..8 {
        let tag = format!("power-{round}");
        let job = f.place(gated(&tag)).await;
        sleep(POWER_STEP * round).await;
        f.slaves[0].reboot();
        f.session(0, u64::from(round) + 2).await;
        let known = ["running", "uncertain"].map(Value::from);
        let seen = f.until(&job, "running or uncertain", |job| known.contains(&job["state"])).await;
        assert!(f.starts(&tag) <= 1, "{seen:#}");
        if seen["state"] == "uncertain" {
            f.resolve(&job, "failed").await;
            f.state(&job, "failed").await;
        } else {
            f.slaves[0].open_gate(&tag);
            f.state(&job, "succeeded").await;
        }
        assert!(f.starts(&tag) <= 1);
    }
    f.holds_nothing(0).await;
}

/// A program that ignores SIGTERM.
const DEAF: &str = r#"
[programs.deaf]
driver = "process"
command = ["/bin/sh", "-c", "trap '' TERM; echo start deaf $$ >>../../../../machine/machine.log; while :; do sleep 0.05; done"]
stop_grace_seconds = 600
"#;

#[tokio::test]
async fn a19_what_was_canceled_on_disk_stays_canceled_whatever_dies() {
    let mut f = Factory::with(|options| options.tables.push_str(DEAF)).await;
    let job = f.running(json!({ "program": "deaf" })).await;
    f.machine_started(0, "deaf").await;
    f.job_command(&job, "cancel", json!({ "mode": "safe_point" })).await;
    f.held_as(0, &job, "stopping").await;
    f.slaves[0].restart();
    f.held_as(0, &job, "stopping").await;
    f.nets[0].cut(Close::Reset);
    f.slaves[0].reboot();
    f.held_as(0, &job, "canceled").await;
    f.nets[0].pass();
    f.state(&job, "canceled").await;
    f.started_once(&["deaf"]);
}

#[tokio::test]
async fn e6_a_program_that_is_gone_between_accept_and_start_gives_the_job_back_with_the_reason() {
    let mut f = Factory::new().await;
    let job = f.waiting(much_later(for_s0(printer("gone", 0))), "time").await;
    let tables = std::mem::take(&mut f.slaves[0].options_mut().tables);
    f.slaves[0].restart();
    f.session(0, 2).await;
    assert_eq!(f.state(&job, "queued").await["reason"]["code"], "unknown_program");
    assert_eq!(f.why_not(&job).await, ["program"]);
    f.job_command(&job, "release", json!({})).await;
    f.done(work("next", 0.0)).await;
    f.never_started(&["gone"]);
    f.slaves[0].options_mut().tables = tables;
    f.slaves[0].restart();
    f.finish(&job, "gone").await;
}

#[tokio::test]
async fn e9_a_box_that_reboots_again_and_again_asks_a_person() {
    let mut f = Factory::with(|options| options.config = "max_interruptions = 2".to_owned()).await;
    let job = f.place(with(gated("loop"), json!({ "on_interrupt": "restart" }))).await;
    for start in 1..=3 {
        has_started(&f, "loop", start).await;
        f.held_as(0, &job, "running").await;
        f.slaves[0].reboot();
    }
    assert_eq!(f.state(&job, "uncertain").await["reason"]["code"], "interrupted_too_often");
    f.resolve(&job, "failed").await;
    f.state(&job, "failed").await;
    assert_eq!(f.starts("loop"), 3);
}

/// Waits until the machine was started so often with this tag.
async fn has_started(f: &Factory, tag: &str, times: usize) {
    eventually(&format!("start {times} of {tag}"), PATIENCE, async || {
        let starts = f.starts(tag);
        if starts == times { Ok(()) } else { Err(starts) }
    })
    .await;
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
    assert_eq!(f.job(&job).await["state"], "running", "nothing else was reported");
    f.slaves[0].cont();
    let ended = f.finish(&job, "starved").await;
    assert!(ms(&slave["last_contact_at"]) <= ms(&ended["ended_at"]), "{ended:#}");
    assert_eq!(ended["attempt"], 1);
}

#[tokio::test]
async fn d7_an_order_that_was_acknowledged_outlives_the_masters_death_at_any_moment() {
    let mut f = Factory::new().await;
    let mut placed = vec![];
    for round in 0..12 {
        let (tag, key) = (format!("order-{round}"), format!("key-{round}"));
        let order = work(&tag, 0.0);
        let placing = {
            let (client, order, key) = (f.client.clone(), order.clone(), key.clone());
            tokio::spawn(async move { client.place(&order, Some(&key)).await })
        };
        sleep(ORDER_STEP * round).await;
        f.master.restart().await;
        let acknowledged = placing.await.unwrap().ok().map(|reply| reply.expect(201));
        let again = f.client.place(&order, Some(&key)).await.unwrap().expect(201);
        if let Some(first) = acknowledged {
            assert_eq!(first["id"], again["id"], "the key stands for the order that was acknowledged");
        }
        placed.push((job_of(&again), tag));
    }
    for (job, tag) in &placed {
        f.state(job, "succeeded").await;
        f.started_once(&[tag]);
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
    f.finish(&job, "stale").await;
    f.state(&next, "succeeded").await;
    f.started_once(&["next"]);
}

#[tokio::test]
async fn what_a_job_waits_for_is_known_again_after_its_agent_and_then_the_master_restarted() {
    let mut f = Factory::new().await;
    let job = f.waiting(much_later(for_s0(work("held", 0.0))), "time").await;
    f.slaves[0].restart();
    f.session(0, 2).await;
    f.waits_for(&job, "time").await;
    f.master.restart().await;
    f.waits_for(&job, "time").await;
}

#[tokio::test]
async fn d2_a_master_that_lost_everything_adopts_its_slaves_jobs_and_stops_nothing() {
    let mut f = Factory::new().await;
    let done_before = f.done(work("done", 0.0)).await;
    let done = done_before["id"].as_str().unwrap();
    let running = f.place(with(gated("running"), json!({ "name": "bracket" }))).await;
    let running_before = f.state(&running, "running").await;
    let waiting = f.waiting(with(work("waiting", 0.0), json!({ "priority": 3 })), "turn").await;
    let due = in_ms(3_600_000);
    let timed = f.waiting(starting(work("timed", 0.0), json!({ "not_before": due })), "time").await;

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
    let seen = f.state(done, "succeeded").await;
    assert_eq!(seen["ended_at"], done_before["ended_at"], "also what the slave had been told to forget");
    assert_eq!(f.slaves[0].machine_log().iter().filter(|(what, ..)| what == "stop").count(), 0);

    f.finish(&running, "running").await;
    f.state(&waiting, "succeeded").await;
    f.job_command(&timed, "cancel", json!({})).await;
    f.state(&timed, "canceled").await;
    f.done(work("after", 0.0)).await;
    f.started_once(&["done", "waiting", "after"]);
}

#[tokio::test]
async fn a6_a_job_that_a_reboot_interrupted_follows_its_orders_word() {
    let mut f = Factory::new().await;
    let interrupted = |word: &str| with(gated(word), json!({ "on_interrupt": word }));

    let hold = f.running(interrupted("hold")).await;
    let behind = f.waiting(work("behind", 0.0), "turn").await;
    f.slaves[0].reboot();
    let seen = f.state(&hold, "uncertain").await;
    assert!(!seen["reason"]["text"].as_str().unwrap().is_empty());
    let seen = f.slave(0, "asking", |slave| slave["status"] == "attention").await;
    assert_eq!(seen["uncertain"], hold.as_str());
    f.never_started(&["behind"]);
    f.resolve(&hold, "failed").await;
    assert_eq!(f.state(&hold, "failed").await["reason"]["code"], "resolved");
    f.state(&behind, "succeeded").await;

    let fail = f.running(interrupted("fail")).await;
    f.slaves[0].reboot();
    assert_eq!(f.state(&fail, "failed").await["reason"]["code"], "interrupted");
    f.started_once(&["hold", "fail"]);

    let restart = f.running(interrupted("restart")).await;
    f.nets[0].cut(Close::Fin);
    f.slaves[0].reboot();
    has_started(&f, "restart", 2).await;
    f.slaves[0].open_gate("restart");
    f.nets[0].pass();
    let seen = f.state(&restart, "succeeded").await;
    assert!(has_flag(&seen, "interrupted"), "{seen:#}");
    assert_eq!((f.starts("restart"), &seen["attempt"]), (2, &json!(1)));
}

/// Closes all descriptors that it did not open, as a daemon does, and works until it is killed.
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
    let job = f.running(json!({ "program": "closing", "on_interrupt": "restart" })).await;
    f.machine_started(0, "closing").await;
    let (_, _, program) = f.slaves[0].machine_log().pop().unwrap();
    let program = Pid::from_raw(program.try_into().unwrap()).unwrap();
    for runner in f.slaves[0].runs().into_iter().filter(|pid| *pid != program) {
        kill_process(runner, Signal::KILL).unwrap();
    }
    let seen = f.state(&job, "uncertain").await;
    let text = seen["reason"]["text"].as_str().unwrap();
    assert!(text.contains(&format!("kill -9 {}", program.as_raw_nonzero())), "what to do: {text}");
    // A restarted agent does not take it for gone either.
    f.slaves[0].restart();
    f.session(0, 2).await;
    assert_eq!(f.job(&job).await["state"], "uncertain");
    f.started_once(&["closing"]);
    kill_process(program, Signal::KILL).unwrap();
    f.resolve(&job, "failed").await;
    f.state(&job, "failed").await;
    f.done(work("next", 0.0)).await;
    f.started_once(&["closing"]);
}

/// Exits with success on SIGTERM, as if the work were done.
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
    for (session, word, end) in [(2, "fail", "failed"), (3, "hold", "uncertain")] {
        let order = json!({ "program": "polite", "params": { "tag": word }, "on_interrupt": word });
        let job = f.running(order).await;
        f.machine_started(0, word).await;
        // As at a shutdown: all processes get SIGTERM, and the power goes when none is left.
        let all = f.slaves[0].runs();
        f.slaves[0].stop().await;
        for pid in all {
            // The program's child may exit and come again.
            let _ = kill_process(pid, Signal::TERM);
        }
        nothing_runs(&f).await;
        f.slaves[0].reboot();
        f.session(0, session).await;
        assert_eq!(f.state(&job, end).await["reason"]["code"], "interrupted");
        f.started_once(&[word]);
    }
}

#[tokio::test]
async fn a6_a_simulated_machine_that_goes_on_through_a_reboot_is_asked_and_believed() {
    let mut f = Factory::new().await;
    let job = f.running(bake(1.5)).await;
    f.slaves[0].reboot();
    f.state(&job, "succeeded").await;
    assert_eq!(f.bakes(0, &job), 1);
    f.ran_undisturbed(&job).await;
}

#[tokio::test]
async fn c1_a_replaced_disk_makes_its_jobs_uncertain_and_starts_nothing_until_a_person_has_looked() {
    let mut f = Factory::new().await;
    let running = f.running(gated("running")).await;
    let waiting = f.waiting(work("waiting", 0.0), "turn").await;
    f.slaves[0].wipe();
    f.slaves[0].restart();
    assert_eq!(f.state(&running, "uncertain").await["reason"]["code"], "store_replaced");
    assert_eq!(f.attention(0, "store_replaced").await["status"], "attention");
    let after = f.place(work("after", 0.0)).await;
    let behind = f.place(for_s0(work("behind", 0.0))).await;
    f.resolve(&running, "failed").await;
    f.state(&running, "failed").await;
    if f.job(&waiting).await["state"] == "uncertain" {
        f.resolve(&waiting, "canceled").await;
        f.state(&waiting, "canceled").await;
    }
    f.at_machine(0, "still asking", |status| status["machine"]["attention"] == "store_replaced").await;
    f.never_started(&["after", "behind", "waiting"]);
    f.slave_command(0, "clear", json!({})).await;
    f.state(&after, "succeeded").await;
    f.state(&behind, "succeeded").await;
    f.started_once(&["running", "after", "behind"]);
}

/// How long a traced node takes to sync: what does not wait for the sync comes sooner.
const SLOW_DISK: Duration = Duration::from_millis(500);
/// How long a traced program takes to be executed: what does not wait for the start comes before it.
const SLOW_START: Duration = Duration::from_secs(2);

#[tokio::test]
async fn an_order_is_on_the_disk_before_it_is_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let Some(wrapper) = traced(&trace, "fdatasync", SLOW_DISK) else { return };
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
    let Some(wrapper) = traced(&trace, "fdatasync", SLOW_DISK) else { return };
    let f = Factory::with(|options| options.wrapper.clone_from(&wrapper)).await;
    let before = lines(&trace).len();
    let placed = SystemTime::now();
    f.done(work("traced", 0.0)).await;
    let runs = fs::read_dir(f.slaves[0].state_dir().join("runs")).unwrap();
    let plans: Vec<_> = runs.map(|run| run.unwrap().path().join("plan")).collect();
    assert_eq!(plans.len(), 1);
    let waited = fs::metadata(&plans[0]).unwrap().modified().unwrap().duration_since(placed).unwrap();
    assert!(waited >= SLOW_DISK, "the machine was touched after {waited:?}");
    let lines = lines(&trace).split_off(before);
    let makes_run = |line: &String| line.contains("mkdir") && line.contains("/runs/") && line.contains("= 0");
    let touched = lines.iter().position(makes_run).unwrap_or_else(|| panic!("no run was made: {lines:#?}"));
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
    f.job_command(&job, "cancel", json!({ "mode": "now" })).await;
    let ended = f.state(&job, "canceled").await;
    assert_eq!(ended["started_at"], Value::Null, "{ended:#}");
    // On a machine that executes nothing.
    f.done(bake(0.0)).await;
    eventually("the runner to come and go", PATIENCE, async || {
        let lines = lines(&trace);
        let runner = lines.iter().find(|line| line.contains("execve") && line.contains("\"runner\""));
        let pid = runner.and_then(|line| line.split_whitespace().next()).ok_or(vec![])?;
        let gone = |line: &&String| line.starts_with(pid) && line.contains("exited with 0");
        lines.iter().find(gone).map(drop).ok_or(lines)
    })
    .await;
    f.never_started(&["overtaken"]);
    f.holds_nothing(0).await;
}

/// A successful fdatasync of a store's database file. A call that is interrupted in the trace has two lines; the second
/// counts.
fn synced(line: &str) -> bool {
    line.contains("fdatasync")
        && line.contains("= 0")
        && (line.contains("/store/db") || line.contains("resumed"))
}

fn lines(trace: &Path) -> Vec<String> {
    fs::read_to_string(trace).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A wrapper under which one kind of system call takes so long, and that records all calls which the tests look for.
/// `None`, with a line on stderr, if that is not possible here.
fn traced(trace: &Path, call: &str, takes: Duration) -> Option<Vec<String>> {
    let slow = format!("inject={call}:delay_enter={}", takes.as_micros());
    let works = Command::new("strace").args(["-f", "-e", &slow, "-o", "/dev/null", "/bin/true"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        writeln!(std::io::stderr(), "left out: strace is not installed, or may not trace").unwrap();
        return None;
    }
    let calls = "trace=fdatasync,read,recvfrom,write,writev,sendto,sendmsg,mkdir,mkdirat,execve";
    let place = trace.to_str().unwrap();
    let words = ["strace", "-f", "-y", "-s", "64", "-e", calls, "-e", &slow, "-o", place];
    Some(words.map(str::to_owned).to_vec())
}

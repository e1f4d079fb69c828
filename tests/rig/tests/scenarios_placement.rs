//! Who gets what: machines that fail, retries that wait, configs that differ or change, and the bounds of a slave.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use reloop_rig::factory::{Factory, for_s0, gated, held, in_ms, ms, printer, starting, with, work};
use reloop_rig::process::{MasterOptions, SlaveOptions};
use serde_json::{Value, json};

const FAILS: &str = "#!/bin/sh\necho the spindle is blocked\nexit 1\n";
const RUNS_WELL: &str = "#!/bin/sh\nexit 0\n";

fn own_program(options: &mut SlaveOptions, program: &Path) {
    let command = json!([program]);
    options.tables = format!("[programs.tool]\ndriver = \"process\"\ncommand = {command}\n");
}

fn put_program(path: &Path, text: &str) {
    // A file that is being executed cannot be written to.
    let _ = fs::remove_file(path);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn tool(retry: Value) -> Value {
    json!({ "program": "tool", "retry": retry })
}

/// The reasons of a job's earlier attempts, with their slaves.
fn earlier(job: &Value) -> Vec<(String, String)> {
    let earlier = job["earlier"].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    earlier.map(|one| (text(&one["slave"]), text(&one["reason"]["code"]))).collect()
}

#[tokio::test]
async fn p4_a_machine_where_job_after_job_fails_is_barred_and_its_work_goes_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut f = Factory::empty(MasterOptions::default()).await;
    for (slave, text) in [FAILS, RUNS_WELL, RUNS_WELL].iter().enumerate() {
        let program = dir.path().join(format!("tool{slave}"));
        put_program(&program, text);
        f.add(|options| own_program(options, &program)).await;
    }
    let retry = json!({ "max_attempts": 3, "on": ["failed"], "backoff_seconds": 2 });
    let mut jobs = vec![];
    for _ in 0..30 {
        jobs.push(f.place(tool(retry.clone())).await);
    }
    let mut failed_at = vec![];
    for job in &jobs {
        failed_at.extend(earlier(&f.state(job, "succeeded").await));
    }
    assert_eq!(failed_at, vec![("s0".to_owned(), "machine_fault".to_owned()); 3]);
    let barred = f.attention(0, "failures_in_row").await;
    let text = barred["attention"]["text"].as_str().unwrap();
    assert!(text.contains("exit") && text.contains("`clear`"), "{text}");
    let needs = f.client.get("/v1/needs").await.unwrap().expect(200);
    assert_eq!(needs["data"][0]["command"], "reloop slave clear s0", "{needs:#}");
    let only_there = f.place(for_s0(tool(json!({})))).await;
    assert_eq!(f.why_not(&only_there).await[0], "attention");
    // One action ends it.
    put_program(&dir.path().join("tool0"), RUNS_WELL);
    f.slave_command(0, "clear", json!({})).await;
    f.state(&only_there, "succeeded").await;
}

#[tokio::test]
async fn p4_a_retry_waits_and_says_until_when() {
    let f = Factory::new().await;
    let retry = json!({ "retry": { "max_attempts": 100, "on": ["failed"] } });
    let job = f.place(with(printer("again", 1), retry)).await;
    f.slaves[0].open_gate("again");
    let waits = f.until(&job, "to be tried again", |job| !job["retry_at"].is_null()).await;
    assert_eq!((&waits["state"], &waits["attempt"]), (&json!("queued"), &json!(1)));
    let failed =
        f.client.job_events(&job).await.unwrap().expect(200)["data"].as_array().unwrap().last().cloned();
    assert_eq!(ms(&waits["retry_at"]) - ms(&failed.unwrap()["at"]), 10_000);
    let explained = f.client.explain(&job).await.unwrap().expect(200);
    assert_eq!(explained["next_at"], waits["retry_at"]);
    let summary = explained["summary"].as_str().unwrap();
    assert!(summary.contains("tried again at 2") && summary.contains("`release`"), "{summary}");
    // A person need not wait.
    f.job_command(&job, "release", json!({})).await;
    f.until(&job, "failed again", |job| job["attempt"] == 2 && !job["retry_at"].is_null()).await;
    assert_eq!(f.starts("again"), 2);
}

/// A slave whose `mill` takes files of this pattern.
fn takes(options: &mut SlaveOptions, pattern: &str) {
    options.tables = format!(
        "[programs.mill]\ndriver = \"process\"\ncommand = [\"/bin/true\", \"{{file}}\"]\n\
         [programs.mill.params]\nfile = {{ pattern = \"{pattern}\" }}\n"
    );
}

fn mill(file: &str) -> Value {
    json!({ "program": "mill", "params": { "file": file } })
}

#[tokio::test]
async fn p5_of_two_slaves_the_one_that_may_does_the_work_and_the_last_no_ends_it() {
    let mut f = Factory::with(|options| takes(options, "[a-z]+")).await;
    f.add(|options| takes(options, "[a-z0-9]+")).await;
    let mut jobs = vec![];
    for number in 0..6 {
        jobs.push(f.place(mill(&format!("part{number}"))).await);
    }
    for job in &jobs {
        let done = f.state(job, "succeeded").await;
        assert_eq!(done["slave"], "s1");
        assert!(
            earlier(&done).iter().all(|one| *one == ("s0".to_owned(), "bad_params".to_owned())),
            "{done:#}"
        );
    }
    let neither = f.state(&f.place(mill("Part")).await, "rejected").await;
    let mut said: Vec<_> = earlier(&neither).into_iter().map(|(slave, _)| slave).collect();
    said.push(neither["slave"].as_str().unwrap().to_owned());
    said.sort();
    assert_eq!((said, &neither["reason"]["code"]), (vec!["s0".into(), "s1".into()], &json!("bad_params")));
    // A slave with another config is asked again.
    f.slaves[1].stop().await;
    f.offline(1).await;
    let waits = f.place(mill("part9")).await;
    f.until(&waits, "rejected by one", |job| job["earlier"].as_array().is_some_and(|one| one.len() == 1))
        .await;
    assert_eq!(f.why_not(&waits).await, ["rejected", "offline"]);
    takes(f.slaves[0].options_mut(), "[a-z0-9]+");
    f.slaves[0].restart();
    assert_eq!(f.state(&waits, "succeeded").await["slave"], "s0");
}

#[tokio::test]
async fn p6_what_an_order_requires_still_holds_at_the_start_without_a_link_too() {
    let material = |is: &str| [("material".to_owned(), is.to_owned())].into();
    let mut f = Factory::with(|options| options.labels = material("pla")).await;
    let first = f.running(gated("first")).await;
    let requires = json!({ "requires": { "material": "pla" } });
    let job = f.waiting(with(work("second", 0.0), requires), "turn").await;
    f.cut(0).await;
    f.slaves[0].options_mut().labels = material("abs");
    f.slaves[0].restart();
    f.held_as(0, &first, "running").await;
    f.slaves[0].open_gate("first");
    let status = f.at_machine(0, "done with the first", |status| {
        held(status, &job).is_some_and(|job| job["waiting_for"] == "elsewhere")
            && held(status, &first).is_some_and(|job| job["state"] == "succeeded")
    });
    status.await;
    f.never_started(&["second"]);
    f.nets[0].pass();
    let given_back = f.state(&job, "queued").await;
    assert_eq!(given_back["reason"]["code"], "missing_label");
    let explained = f.client.explain(&job).await.unwrap().expect(200);
    assert_eq!(explained["slaves"][0]["text"], "material=pla is required, and it has material=abs");
    f.add(|options| options.labels = material("pla")).await;
    assert_eq!(f.state(&job, "succeeded").await["slave"], "s1");
    f.started_once(&["second"]);
}

#[tokio::test]
async fn p7_a_machine_says_by_itself_when_it_can_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("tool");
    // That another program is missing, which no job needs, keeps nothing from beginning.
    let unused = "[programs.unused]\ndriver = \"process\"\ncommand = [\"/nowhere/unused\"]\n";
    let f = Factory::with(|options| {
        own_program(options, &program);
        options.tables.push_str(unused);
    });
    let f = f.await;
    let job = f.place(tool(json!({}))).await;
    f.until(&job, "held back", |job| job["reason"]["code"] == "machine_unfit").await;
    f.attention(0, "machine_unfit").await;
    put_program(&program, RUNS_WELL);
    assert_eq!(f.state(&job, "succeeded").await["attempt"], 1);
    f.slave(0, "without attention", |slave| slave["attention"].is_null()).await;
}

#[tokio::test]
async fn p1_a_slave_says_how_much_it_takes_that_waits_for_its_time() {
    let f = Factory::with(|options| options.config = "deferred_capacity = 1".to_owned()).await;
    assert_eq!(f.online(0).await["deferred_capacity"], 1);
    let later = || starting(work("later", 0.0), json!({ "not_before": in_ms(3_600_000) }));
    f.waiting(later(), "time").await;
    let second = f.place(later()).await;
    assert_eq!(f.job(&second).await["state"], "queued");
    assert_eq!(f.why_not(&second).await, ["capacity"]);
    f.done(work("now", 0.0)).await;
}

#[tokio::test]
async fn p2_people_choose_how_long_before_its_time_deferred_work_moves() {
    let config = "placement = { recall_before_seconds = 3600 }".to_owned();
    let mut f = Factory::at(MasterOptions { config, ..MasterOptions::default() }).await;
    let in_minutes =
        |minutes: i64| starting(work("later", 0.0), json!({ "not_before": in_ms(minutes * 60_000) }));
    let [near, far] = [f.waiting(in_minutes(55), "time").await, f.waiting(in_minutes(65), "time").await];
    f.locally(0, &["local", "on"]).await;
    f.slave(0, "locked", |slave| slave["local_lock"] == true).await;
    f.add(|_| {}).await;
    f.until(&near, "moved", |job| job["slave"] == "s1").await;
    assert_eq!(f.job(&far).await["slave"], "s0");
}

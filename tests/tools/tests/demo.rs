//! The demo has to come out right, and to leave nothing behind.

#![cfg(test)]

use std::fs::OpenOptions;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reloop_rig::client::Client;
use reloop_rig::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// After the demo has exited, nothing of it may run any more.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

/// Starts the demo with all its files in this directory.
fn demo(scratch: &Path, args: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_harness"))
        .arg("demo")
        .args(args)
        .env("TMPDIR", scratch)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Files that are left, and processes that name them.
fn left_behind(scratch: &Path) -> Vec<String> {
    let files = std::fs::read_dir(scratch).unwrap().map(|file| file.unwrap().path().display().to_string());
    let name = scratch.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let arguments = std::fs::read(entry.ok()?.path().join("cmdline")).ok()?;
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        arguments.contains(name).then_some(arguments)
    });
    files.chain(processes).collect()
}

async fn nothing_is_left_behind(scratch: &Path) {
    eventually("the demo to leave nothing behind", GONE_DEADLINE, async || match left_behind(scratch) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

#[tokio::test]
async fn the_demo_comes_out_right_and_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let output = demo(scratch.path(), &["--once"]).wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{}\n{text}", output.status);
    let lines = [
        "CUT: the cable of oven-1 is pulled in mid-job",
        "The master: running at",
        "KILL: kill -9 to the agent of mill-3",
        "The new agent found bracket again: same process",
        "oven-1 is done with bread, and keeps the outcome until the master has it.",
        "oven-1 starts cake by itself, its time has come; no link is needed.",
        "bread: the master had running, the machine says succeeded → it_ended: forget",
        "cake: the master had accepted, the machine says running → it_runs: keep",
        "✓ every job but the holes was started exactly once",
        "mill-3 is barred: job after job has failed there, the last with:",
        "✓ the machine that failed three times was barred",
        "Everything came out right: 13 orders, 13 jobs done",
    ];
    for line in lines {
        assert!(text.contains(line), "not there: {line}\n{text}");
    }
    assert!(!text.contains('\x1b'), "no control sequences where there is no terminal");
    nothing_is_left_behind(scratch.path()).await;
}

#[tokio::test]
async fn a_demo_that_is_interrupted_in_mid_job_leaves_nothing_behind() {
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = demo(scratch.path(), &[]);
    let lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut seen = Vec::new();
    for line in lines {
        seen.push(line);
        if seen.last().is_some_and(|line| line.contains("mill-3 starts bracket")) {
            kill_process(Pid::from_child(&demo), Signal::INT).unwrap();
            break;
        }
    }
    assert_eq!(demo.wait().unwrap().code(), Some(130), "{seen:#?}");
    nothing_is_left_behind(scratch.path()).await;
}

/// Runs the demo and calls `meddle` once when this line is printed. Returns the whole output; the demo has to have
/// failed.
async fn meddled(scratch: &Path, when: &str, meddle: impl AsyncFnOnce(&[String])) -> String {
    let mut demo = demo(scratch, &["--once"]);
    let mut meddle = Some(meddle);
    let mut said = Vec::new();
    for line in BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap) {
        said.push(line);
        if let Some(meddle) = meddle.take_if(|_| said.last().is_some_and(|line| line.contains(when))) {
            meddle(&said).await;
        }
    }
    let said = said.join("\n");
    assert!(meddle.is_none(), "it never said {when:?}:\n{said}");
    assert_eq!(demo.wait().unwrap().code(), Some(1), "{said}");
    assert!(!said.contains("Everything came out right"), "{said}");
    said
}

/// The notes of the mill's program.
fn mill_notes(scratch: &Path) -> PathBuf {
    let dirs = std::fs::read_dir(scratch).unwrap().map(|entry| entry.unwrap().path().join("mill.notes"));
    dirs.into_iter().find(|notes| notes.exists()).expect("the mill has begun")
}

#[tokio::test]
async fn the_demo_notices_a_machine_that_ends_badly() {
    let scratch = tempfile::tempdir().unwrap();
    let said = meddled(scratch.path(), "mill-3 starts bracket", async |_| {
        let notes = std::fs::read_to_string(mill_notes(scratch.path())).unwrap();
        let program = notes.lines().find_map(|line| line.strip_prefix("start bracket ")?.parse().ok());
        kill_process(Pid::from_raw(program.unwrap()).unwrap(), Signal::KILL).unwrap();
    })
    .await;
    assert!(said.contains("bracket ended as failed, while waiting for"), "{said}");
    nothing_is_left_behind(scratch.path()).await;
}

#[tokio::test]
async fn the_demo_notices_a_job_that_is_lost() {
    let scratch = tempfile::tempdir().unwrap();
    let said = meddled(scratch.path(), "hears nothing of oven-1 any more: offline", async |said| {
        let address = said.iter().find_map(|line| line.split_once("A master is up at http://")).unwrap().1;
        let address = address.split(',').next().unwrap().parse().unwrap();
        let dirs = std::fs::read_dir(scratch.path()).unwrap();
        let mut tokens = dirs.map(|entry| entry.unwrap().path().join("data/admin.token"));
        let token = std::fs::read_to_string(tokens.find(|token| token.exists()).unwrap()).unwrap();
        let client = Client::new(address, Some(token.trim().to_owned()));
        let jobs = client.get("/v1/jobs").await.unwrap().expect(200);
        let job = jobs["data"].as_array().unwrap().iter().find(|job| job["name"] == "bread").unwrap();
        let path = format!("/v1/jobs/{}/abandon", job["id"].as_str().unwrap());
        client.post(&path, &json!({})).await.unwrap().expect(202);
    })
    .await;
    assert!(said.contains("bread ended as lost, while waiting for"), "{said}");
    nothing_is_left_behind(scratch.path()).await;
}

#[tokio::test]
async fn the_demo_notices_a_second_start_and_another_process() {
    let scratch = tempfile::tempdir().unwrap();
    // As if the machine had been started once more while its agent was down.
    let said = meddled(scratch.path(), "KILL: kill -9 to the agent of mill-3", async |_| {
        let mut notes = OpenOptions::new().append(true).open(mill_notes(scratch.path())).unwrap();
        notes.write_all(b"start bracket 1\n").unwrap();
    })
    .await;
    for line in [
        "✗ every job but the holes was started exactly once, by its machine's own memory: NO, bracket was started 2 times in 1 attempts",
        "✗ the killed agent found its job again, the same process and further on: NO, process Some(",
        "✓ every order succeeded",
        "2 of 9 checks did not come out right.",
    ] {
        assert!(said.contains(line), "not there: {line}\n{said}");
    }
    nothing_is_left_behind(scratch.path()).await;
}

/// The processes of the nodes, not of their jobs: jobs outlive a killed agent, and here end by themselves.
fn nodes_of(scratch: &Path) -> Vec<String> {
    let nodes = ["reloop\0serve", "reloop-slave\0run\0"];
    let programs = left_behind(scratch).into_iter();
    programs.filter(|program| nodes.iter().any(|node| program.contains(node))).collect()
}

#[tokio::test]
async fn nodes_end_with_a_harness_that_is_killed() {
    if Command::new("setpriv").arg("--version").stdout(Stdio::null()).status().is_err() {
        writeln!(std::io::stderr(), "left out: setpriv missing").unwrap();
        return;
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut demo = demo(scratch.path(), &[]);
    let mut lines = BufReader::new(demo.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("Three slaves dialled in")).expect("they come online");
    assert_eq!(nodes_of(scratch.path()).len(), 4);
    demo.kill().unwrap();
    demo.wait().unwrap();
    eventually("its nodes to be gone", GONE_DEADLINE, async || match nodes_of(scratch.path()) {
        left if left.is_empty() => Ok(()),
        left => Err(left),
    })
    .await;
}

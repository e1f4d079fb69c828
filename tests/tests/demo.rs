//! The demo is the first thing that people run: it must come out right, and leave nothing behind.

#![cfg(test)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use reloop_tests::wait::eventually;
use rustix::process::{Pid, Signal, kill_process};

/// After the demo has ended nothing of it has anything left to do.
const GONE_DEADLINE: Duration = Duration::from_secs(5);

/// The demo, with all that it makes in this directory.
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

/// Files that are there, and processes that name them.
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
        "✓ every job was started exactly once",
        "Everything came out right: 6 orders, 6 jobs done, each once",
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

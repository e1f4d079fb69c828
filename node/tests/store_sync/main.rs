//! The store's durability, seen from the kernel: no commit is acknowledged without an fdatasync of the database file
//! between the two, and none at all when that fails or the disk is full.
//!
//! The tests run this very program once more, as a [`worker`] under strace or on a file system of its own.
#![cfg(test)]

mod worker;

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use worker::COMMITS;

/// This program as a worker: the program, and its arguments.
fn as_worker() -> Vec<OsString> {
    let own = std::env::current_exe().unwrap().into_os_string();
    let arguments = ["--ignored", "--exact", "worker::works", "--nocapture", "--test-threads", "1"];
    [own].into_iter().chain(arguments.map(OsString::from)).collect()
}

/// Not captured by the test runner: what is left out must be seen to be.
fn left_out(why: &str) {
    writeln!(std::io::stderr(), "left out: {why}").unwrap();
}

/// The trace, line by line, or nothing if there is no strace here.
fn trace(dir: &Path, work: &str, arguments: &[&str]) -> Option<Vec<String>> {
    let log = dir.join("trace");
    let outcome = Command::new("strace")
        .args(["-f", "-y", "-s", "200", "-o"])
        .arg(&log)
        .args(arguments)
        .args(as_worker())
        .env(worker::WORK, work)
        .env(worker::DIR, dir.join("store"))
        .output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            left_out("strace missing");
            return None;
        }
        Err(error) => panic!("strace does not start: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("PTRACE_TRACEME") || complaint.contains("Operation not permitted") {
        left_out(&format!("strace may not trace here: {complaint}"));
        return None;
    }
    assert!(output.status.success(), "{complaint}\n{}", String::from_utf8_lossy(&output.stdout));
    Some(fs::read_to_string(log).unwrap().lines().map(str::to_owned).collect())
}

fn position(lines: &[String], marker: &str) -> usize {
    let quoted = format!("\"{marker}\\n\"");
    lines
        .iter()
        .position(|line| line.contains(&quoted))
        .unwrap_or_else(|| panic!("{marker} is not in the trace"))
}

fn said(lines: &[String], marker: &str) -> usize {
    lines.iter().filter(|line| line.contains(" write(1") && line.contains(&format!("\"{marker}"))).count()
}

#[test]
fn an_fdatasync_of_the_database_stands_between_each_commit_and_its_acknowledgement() {
    let dir = tempfile::tempdir().unwrap();
    let Some(lines) = trace(dir.path(), "commit", &["-e", "trace=fdatasync,pwrite64,write"]) else { return };
    for n in 0..COMMITS {
        let between =
            &lines[position(&lines, &format!("commit {n}"))..position(&lines, &format!("acknowledged {n}"))];
        let last =
            |call: &str| between.iter().rposition(|line| line.contains(call) && line.contains("/store/db>"));
        let (Some(write), Some(sync)) = (last("pwrite64("), last("fdatasync(")) else {
            panic!("commit {n} is not synced: {between:#?}")
        };
        assert!(write < sync, "{between:#?}");
        let thread = between[sync].split(' ').next().unwrap();
        let finished = between[sync..].iter().any(|line| {
            line.starts_with(thread) && line.contains("fdatasync") && line.trim_end().ends_with("= 0")
        });
        assert!(finished, "commit {n} is acknowledged before its sync returned: {between:#?}");
    }
}

/// The segments of sled's log. What is written at the beginning of one stands where something else may have stood.
const SEGMENT_BYTES: u64 = 512 * 1024;

#[test]
fn before_space_is_used_again_all_that_was_written_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let Some(lines) = trace(dir.path(), "rewrite", &["-e", "trace=fdatasync,pwrite64"]) else { return };
    let calls: Vec<_> = lines.iter().filter(|line| line.contains("/store/db>")).collect();
    let mut begun = Vec::new();
    for (before, call) in calls.iter().zip(&calls[1..]) {
        if !call.contains("pwrite64(") {
            continue;
        }
        let arguments = call.split(" <unfinished").next().unwrap().split(") = ").next().unwrap();
        let at: u64 = arguments.rsplit(", ").next().unwrap().trim().parse().unwrap();
        if at.is_multiple_of(SEGMENT_BYTES) {
            assert!(before.contains("fdatasync("), "{before} then {call}");
            begun.push(at);
        }
    }
    let all = begun.len();
    begun.sort_unstable();
    begun.dedup();
    assert!(begun.len() < all, "no space was used again: {begun:?}");
}

#[test]
fn nothing_is_acknowledged_from_the_first_failed_fdatasync_on() {
    let dir = tempfile::tempdir().unwrap();
    let inject = "inject=fdatasync:error=EIO:when=6";
    let Some(lines) = trace(dir.path(), "commit", &["-e", "trace=fdatasync,write", "-e", inject]) else {
        return;
    };
    assert_eq!(said(&lines, "acknowledged "), 5);
    assert_eq!(
        said(&lines, "refused "),
        COMMITS - 5,
        "the error stays although the later syncs would succeed"
    );
    assert_eq!(said(&lines, "healthy: false"), 1);
}

/// A real file system that is full: a small one in memory, mounted in a namespace of its own.
#[test]
fn on_a_disk_that_fills_up_all_that_was_acknowledged_stays_and_nothing_more_is() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=6m none \"$0\" || exit 77; exec \"$@\"";
    let outcome = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(dir.path())
        .args(as_worker())
        .env(worker::WORK, "fill")
        .env(worker::DIR, dir.path().join("store"))
        .output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            left_out("unshare missing");
            return;
        }
        Err(error) => panic!("unshare does not start: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.starts_with("unshare: ") || output.status.code() == Some(77) {
        left_out(&format!("no namespaces here: {complaint}"));
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{complaint}\n{text}");
    assert!(text.contains("the disk filled up and nothing was lost"), "{complaint}\n{text}");
}

//! The store's durability, seen from the kernel: no commit is acknowledged without an fdatasync of the database file
//! between the two, and none at all when that fails or the disk is full.
//!
//! The tests run this test program itself, under strace or on a file system of its own, with a worker that commits.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use reloop_node::store::{Op, Options, Store, StoreError};

const WORKER: &str = "worker_commits_one_after_the_other";
const FILLING_WORKER: &str = "worker_fills_the_disk";
const FILLING_COMMITS: usize = 600;
const WORKER_DIR: &str = "RELOOP_TEST_STORE_DIR";
const COMMITS: usize = 20;

/// A marker that strace sees and libtest does not capture.
fn say(what: &str) {
    let mut line = what.to_owned();
    line.push('\n');
    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
}

#[test]
#[ignore = "the other tests run it under strace"]
fn worker_commits_one_after_the_other() {
    let Some(dir) = std::env::var_os(WORKER_DIR) else { return };
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let store = Store::open(Path::new(&dir), options).unwrap().store;
    for n in 0..COMMITS {
        let (answer, answered) = mpsc::channel();
        let op = Op::Put { key: format!("key {n}").into_bytes(), value: vec![7; 300] };
        say(&format!("commit {n}"));
        store.commit(vec![op], move |result| {
            match result {
                Ok(()) => say(&format!("acknowledged {n}")),
                Err(error) => say(&format!("refused {n}: {error}")),
            }
            answer.send(()).unwrap();
        });
        answered.recv().unwrap();
    }
    say(&format!("healthy: {}", store.healthy().is_ok()));
}

/// The trace, line by line, or nothing if there is no strace here.
fn trace(dir: &Path, arguments: &[&str]) -> Option<Vec<String>> {
    let log = dir.join("trace");
    let outcome = Command::new("strace")
        .args(["-f", "-y", "-s", "200", "-o"])
        .arg(&log)
        .args(arguments)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", WORKER, "--ignored", "--nocapture", "--test-threads=1"])
        .env(WORKER_DIR, dir.join("store"))
        .output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("left out: strace missing");
            return None;
        }
        Err(error) => panic!("strace does not start: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if complaint.contains("PTRACE_TRACEME") || complaint.contains("Operation not permitted") {
        println!("left out: strace may not trace here: {complaint}");
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
    let Some(lines) = trace(dir.path(), &["-e", "trace=fdatasync,sync_file_range,write"]) else { return };
    for n in 0..COMMITS {
        let between =
            &lines[position(&lines, &format!("commit {n}"))..position(&lines, &format!("acknowledged {n}"))];
        let flush = between.iter().position(|line| line.contains("sync_file_range"));
        let sync = between.iter().position(|line| line.contains("fdatasync(") && line.contains("/store/db>"));
        let (Some(flush), Some(sync)) = (flush, sync) else {
            panic!("commit {n} is not synced: {between:#?}")
        };
        assert!(flush < sync, "{between:#?}");
        let thread = between[sync].split(' ').next().unwrap();
        let finished = between[sync..].iter().any(|line| {
            line.starts_with(thread) && line.contains("fdatasync") && line.trim_end().ends_with("= 0")
        });
        assert!(finished, "commit {n} is acknowledged before its sync returned: {between:#?}");
    }
}

#[test]
fn nothing_is_acknowledged_from_the_first_failed_fdatasync_on() {
    let dir = tempfile::tempdir().unwrap();
    let inject = "inject=fdatasync:error=EIO:when=6";
    let Some(lines) = trace(dir.path(), &["-e", "trace=fdatasync,write", "-e", inject]) else { return };
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
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", FILLING_WORKER, "--ignored", "--nocapture", "--test-threads=1"])
        .env(WORKER_DIR, dir.path().join("store"))
        .output();
    let output = match outcome {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("left out: unshare missing");
            return;
        }
        Err(error) => panic!("unshare does not start: {error}"),
    };
    let complaint = String::from_utf8_lossy(&output.stderr);
    if complaint.starts_with("unshare: ") || output.status.code() == Some(77) {
        println!("left out: no namespaces here: {complaint}");
        return;
    }
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{complaint}\n{text}");
    assert!(text.contains("the disk filled up and nothing was lost"), "{complaint}\n{text}");
}

#[test]
#[ignore = "another test runs it on a small file system"]
fn worker_fills_the_disk() {
    let Some(dir) = std::env::var_os(WORKER_DIR) else { return };
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 2 << 20 };
    let opened = Store::open(Path::new(&dir), options.clone()).unwrap();
    let mut good = 0;
    let mut full_at = None;
    for n in 0..FILLING_COMMITS {
        let key = format!("{n:04}").into_bytes();
        match commit(&opened.store, Op::Put { key, value: vec![7; 20_000] }) {
            Ok(()) => {
                assert_eq!(full_at, None, "nothing is acknowledged after the first error");
                good = n + 1;
            }
            Err(StoreError::Full { .. }) => full_at = full_at.or(Some(n)),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(good > 10 && full_at == Some(good), "{good} {full_at:?}");
    assert!(matches!(opened.store.healthy(), Err(StoreError::Full { .. })));
    assert!(matches!(opened.store.close(), Err(StoreError::Full { .. })));

    // A node that is started again on the full disk may not get its store, but must not lose it.
    match Store::open(Path::new(&dir), options.clone()) {
        Ok(opened) => {
            assert_eq!(opened.set_aside, None);
            assert!(matches!(opened.store.healthy(), Err(StoreError::Full { .. })), "the watermark says so");
        }
        Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
    }
    let larger = Command::new("mount")
        .args(["-o", "remount,size=40m"])
        .arg(Path::new(&dir).parent().unwrap())
        .status();
    assert!(larger.unwrap().success());
    let opened = Store::open(Path::new(&dir), options).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.store.healthy().unwrap();
    let mut found = 0;
    opened.store.load(b"", |_, value| found += usize::from(value == [7; 20_000])).unwrap();
    assert!(found >= good, "{found} of {good} acknowledged");
    commit(&opened.store, Op::Put { key: b"more".to_vec(), value: vec![] }).unwrap();
    say("the disk filled up and nothing was lost");
}

fn commit(store: &Store, op: Op) -> Result<(), StoreError> {
    let (answer, answered) = mpsc::channel();
    store.commit(vec![op], move |result| answer.send(result).unwrap());
    answered.recv().unwrap()
}

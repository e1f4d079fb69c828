//! `reloop store export` and `import`, as an operator runs them.
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;

use reloop_node::store::{Op, Options, Store};

const CONFLICT: i32 = 5;

fn reloop(arguments: &[&str], data_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reloop"));
    command.arg("store").args(arguments).arg("--data-dir").arg(data_dir);
    command.env_remove("RELOOP_DATA_DIR").output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn open(data_dir: &Path) -> Store {
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    Store::open(&data_dir.join("store"), options).unwrap().store
}

fn entries(data_dir: &Path) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut entries = Vec::new();
    open(data_dir).load(b"", |key, value| entries.push((key.to_vec(), value.to_vec()))).unwrap();
    entries
}

#[test]
fn a_store_goes_out_as_text_and_comes_back_in() {
    let root = tempfile::tempdir().unwrap();
    let (old, new) = (root.path().join("old"), root.path().join("new"));
    let file = root.path().join("master.jsonl");
    let file = file.to_str().unwrap();
    let store = open(&old);
    let (done, written) = mpsc::channel();
    let ops = (0..100_u8).map(|n| Op::Put { key: vec![n; 20], value: vec![n; 100] }).collect();
    store.commit(ops, move |result| done.send(result).unwrap());
    written.recv().unwrap().unwrap();

    let running = reloop(&["export", file], &old);
    assert_eq!(running.status.code(), Some(CONFLICT));
    assert!(said(&running).contains("in use by another process"), "{}", said(&running));
    assert!(!Path::new(file).exists(), "nothing is left of an export that failed");
    store.close().unwrap();

    let exported = reloop(&["export", file], &old);
    assert!(exported.status.success(), "{}", said(&exported));
    assert!(said(&exported).starts_with("100 records exported"), "{}", said(&exported));
    assert!(!reloop(&["export", file], &old).status.success(), "it replaces no file");
    let piped = reloop(&["export", "-"], &old);
    assert_eq!(piped.stdout, fs::read(file).unwrap());

    let occupied = reloop(&["import", file], &old);
    assert_eq!(occupied.status.code(), Some(CONFLICT));
    assert!(said(&occupied).contains("move it away"), "{}", said(&occupied));

    let damaged = root.path().join("damaged.jsonl");
    fs::write(&damaged, fs::read_to_string(file).unwrap().replacen("0707", "0708", 1)).unwrap();
    let refused = reloop(&["import", damaged.to_str().unwrap()], &new);
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("line 9: "), "{}", said(&refused));
    assert!(!new.join("store").exists());

    let imported = reloop(&["import", file], &new);
    assert!(imported.status.success(), "{}", said(&imported));
    assert!(said(&imported).starts_with("100 records imported"), "{}", said(&imported));
    assert_eq!(entries(&new), entries(&old));
}

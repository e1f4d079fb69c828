//! `reloop-slave store export` and `import`, as an operator runs them.
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;

use reloop_node::store::{Op, Options, Store};

fn slave(direction: &str, file: &Path, state_dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reloop-slave"));
    command.args(["store", direction]).arg(file).arg("--state-dir").arg(state_dir);
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_store_goes_out_as_text_and_comes_back_in() {
    let root = tempfile::tempdir().unwrap();
    let (old, new, file) =
        (root.path().join("old"), root.path().join("new"), root.path().join("slave.jsonl"));
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let store = Store::open(&old.join("store"), options).unwrap().store;
    let (done, written) = mpsc::channel();
    let ops = vec![Op::Put { key: b"node".to_vec(), value: b"no record".to_vec() }];
    store.commit(ops, move |result| done.send(result).unwrap());
    written.recv().unwrap().unwrap();

    let running = slave("export", &file, &old);
    assert_eq!(running.status.code(), Some(1));
    assert!(said(&running).contains("in use by another process"), "{}", said(&running));
    store.close().unwrap();

    let exported = slave("export", &file, &old);
    assert!(exported.status.success(), "{}", said(&exported));
    assert_eq!(slave("import", &file, &old).status.code(), Some(1), "it replaces no record");
    let imported = slave("import", &file, &new);
    assert!(imported.status.success(), "{}", said(&imported));
    assert!(said(&imported).contains("1 records imported") && said(&imported).contains("start the agent"));
    assert_eq!(slave("export", Path::new("-"), &new).stdout, fs::read(&file).unwrap());
}

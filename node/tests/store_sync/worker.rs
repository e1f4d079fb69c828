//! A store's client that the durability tests watch from outside, in a process of its own.

use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;

use reloop_node::store::{Op, Options, Store, StoreError};

/// Names the work in the environment: `commit`, `rewrite` or `fill`.
pub(crate) const WORK: &str = "STORE_WORK";
/// Names the store's directory there.
pub(crate) const DIR: &str = "STORE_DIR";

pub(crate) const COMMITS: usize = 20;
const FILLING_COMMITS: usize = 600;
const REWRITING_COMMITS: usize = 300;

#[test]
#[ignore = "it is what the other tests run and watch"]
fn works() {
    let dir = PathBuf::from(std::env::var_os(DIR).unwrap());
    match std::env::var(WORK).unwrap().as_str() {
        "commit" => commits(&dir),
        "rewrite" => rewrites(&dir),
        "fill" => fills(&dir),
        other => panic!("commit, rewrite or fill, not {other}"),
    }
}

/// A marker that strace sees as one write, whatever the test runner has in its buffer.
fn say(what: &str) {
    let line = format!("{what}\n");
    assert_eq!(rustix::io::write(std::io::stdout().as_fd(), line.as_bytes()).unwrap(), line.len());
}

/// Commits one after the other, and says what it does on a descriptor that strace sees.
fn commits(dir: &Path) {
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let store = Store::open(dir, options).unwrap().store;
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

/// Writes the same over and over, so that its space is used again.
fn rewrites(dir: &Path) {
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let store = Store::open(dir, options).unwrap().store;
    for n in 0..REWRITING_COMMITS {
        let key = format!("key {}", n % 10).into_bytes();
        let [byte, ..] = n.to_le_bytes();
        commit(&store, Op::Put { key, value: vec![byte; 20_000] }).unwrap();
    }
}

/// Fills a small file system, and looks for everything that was acknowledged once there is room again.
fn fills(dir: &Path) {
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 2 << 20 };
    let opened = Store::open(dir, options.clone()).unwrap();
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
    match Store::open(dir, options.clone()) {
        Ok(opened) => {
            assert_eq!(opened.set_aside, None);
            assert!(matches!(opened.store.healthy(), Err(StoreError::Full { .. })), "the watermark says so");
        }
        Err(error) => assert!(matches!(error, StoreError::Full { .. }), "{error}"),
    }
    let larger = Command::new("mount").args(["-o", "remount,size=40m"]).arg(dir.parent().unwrap()).status();
    assert!(larger.unwrap().success());
    let opened = Store::open(dir, options).unwrap();
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

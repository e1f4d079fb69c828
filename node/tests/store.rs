//! What the store promises to the drivers, seen from outside.

#![allow(clippy::unwrap_used, reason = "a helper of tests fails like a test")]

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use reloop_node::store::{KEY_LIMIT_BYTES, Op, Opened, Options, Store, StoreError, VALUE_LIMIT_BYTES};

/// Much longer than any answer takes, so that a lost one fails the test instead of blocking it.
const PATIENCE: Duration = Duration::from_secs(60);

type Answer = Result<(), StoreError>;

fn options() -> Options {
    Options { cache_bytes: 1 << 20, min_free_bytes: 0 }
}

fn open(dir: &Path) -> Store {
    let opened = Store::open(dir, options()).unwrap();
    assert_eq!(opened.set_aside, None);
    opened.store
}

fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Op {
    Op::Put { key: key.as_ref().to_vec(), value: value.as_ref().to_vec() }
}

fn delete(key: impl AsRef<[u8]>) -> Op {
    Op::Delete { key: key.as_ref().to_vec() }
}

fn queue(store: &Store, ops: Vec<Op>) -> mpsc::Receiver<Answer> {
    let (answer, answered) = mpsc::channel();
    store.commit(ops, move |result| {
        // The receiver is gone if the test does not wait for this answer.
        let _ = answer.send(result);
    });
    answered
}

fn commit(store: &Store, ops: Vec<Op>) -> Answer {
    queue(store, ops).recv_timeout(PATIENCE).expect("every commit is answered")
}

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn get(store: &Store, key: impl AsRef<[u8]>) -> Option<Vec<u8>> {
    wait(store.get(key.as_ref().to_vec())).unwrap()
}

fn all(store: &Store, prefix: &[u8]) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut found = BTreeMap::new();
    store
        .load(prefix, |key, value| {
            assert_eq!(found.insert(key.to_vec(), value.to_vec()), None, "an entry is shown once");
        })
        .unwrap();
    found
}

/// Keeps the store's thread busy until it is released, so that what is queued meanwhile becomes one group.
fn hold(store: &Store) -> mpsc::Sender<()> {
    let (release, released) = mpsc::channel();
    let (enter, entered) = mpsc::channel();
    store.commit(vec![], move |_| {
        enter.send(()).unwrap();
        released.recv().unwrap();
    });
    entered.recv_timeout(PATIENCE).unwrap();
    release
}

/// Every file below a directory with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("not/there/yet");
    let store = open(&dir);
    commit(&store, vec![put("a", "1"), put("b", "2"), put("c", "3")]).unwrap();
    commit(&store, vec![delete("b"), put("c", "4")]).unwrap();
    store.close().unwrap();

    let store = open(&dir);
    assert_eq!(get(&store, "a").unwrap(), b"1");
    assert_eq!(get(&store, "b"), None);
    assert_eq!(get(&store, "c").unwrap(), b"4");
    assert_eq!(store.healthy(), Ok(()));
}

#[test]
fn a_later_write_to_a_key_wins_within_one_group() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let release = hold(&store);
    let mut answers = Vec::new();
    for n in 0..100 {
        answers.push(queue(&store, vec![put("gone", "x"), put("k", "overwritten")]));
        answers.push(queue(&store, vec![put("k", "at once"), delete("gone"), put("k", format!("{n}"))]));
    }
    release.send(()).unwrap();
    for answer in answers {
        answer.recv_timeout(PATIENCE).unwrap().unwrap();
    }
    assert_eq!(get(&store, "k").unwrap(), b"99");
    assert_eq!(get(&store, "gone"), None);
}

#[test]
fn commits_are_answered_in_their_order() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (answer, answered) = mpsc::channel();
    for n in 0..500 {
        let answer = answer.clone();
        let too_large = n % 50 == 7;
        let value = vec![0; if too_large { VALUE_LIMIT_BYTES + 1 } else { 4000 }];
        store.commit(vec![put(format!("{n}"), value)], move |result| {
            assert_eq!(result.is_err(), too_large);
            answer.send(n).unwrap();
        });
    }
    drop(answer);
    store.close().unwrap();
    assert!(answered.iter().eq(0..500));
}

#[test]
fn a_read_sees_the_writes_queued_before_it() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for n in 0..100 {
        store.commit(vec![put("k", format!("{n}"))], |_| {});
        assert_eq!(get(&store, "k").unwrap(), format!("{n}").into_bytes());
    }
}

#[test]
fn committers_on_many_threads_all_get_their_answer_and_their_data() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let store = store.clone();
            scope.spawn(move || {
                for n in 0..100 {
                    commit(
                        &store,
                        vec![
                            put(format!("{thread}/{n}"), "x"),
                            put(format!("last/{thread}"), format!("{n}")),
                        ],
                    )
                    .unwrap();
                }
            });
        }
    });
    store.close().unwrap();
    let store = open(root.path());
    assert_eq!(all(&store, b"").len(), 8 * 100 + 8);
    for thread in 0..8 {
        assert_eq!(get(&store, format!("last/{thread}")).unwrap(), b"99");
    }
}

#[test]
fn a_value_or_key_over_the_limit_is_refused_with_its_whole_commit() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let over = VALUE_LIMIT_BYTES + 1;
    let refused = commit(&store, vec![put("a", "1"), put("b", vec![0; over])]);
    assert_eq!(refused, Err(StoreError::ValueTooLarge { len: over }));
    let over = KEY_LIMIT_BYTES + 1;
    assert_eq!(
        commit(&store, vec![put("a", "1"), put(vec![1; over], "")]),
        Err(StoreError::KeyTooLarge { len: over })
    );
    assert_eq!(get(&store, "a"), None);

    commit(&store, vec![put(vec![1; KEY_LIMIT_BYTES], vec![7; VALUE_LIMIT_BYTES])]).unwrap();
    assert_eq!(get(&store, vec![1; KEY_LIMIT_BYTES]).unwrap(), vec![7; VALUE_LIMIT_BYTES]);
}

/// Files under `blobs/` are where the database would put large pages without ever syncing them.
#[test]
fn the_largest_values_and_keys_side_by_side_make_no_file_that_is_never_synced() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let key = |n: u32| format!("{n:0width$}", width = KEY_LIMIT_BYTES);
    let blobs = || fs::read_dir(root.path().join("blobs")).unwrap().count();
    for round in 0..3_u32 {
        for n in 0..300 {
            // Scattered order, so that leaves fill, split and merge in the middle.
            let n = n * 113 % 300;
            let op = if (n + round) % 7 == 0 {
                delete(key(n))
            } else {
                put(key(n), vec![round as u8; VALUE_LIMIT_BYTES])
            };
            commit(&store, vec![op]).unwrap();
            assert_eq!(blobs(), 0, "round {round}, entry {n}");
        }
    }
    let many = (0..6000).map(|n| put(key(n), "x")).collect();
    commit(&store, many).unwrap();
    assert_eq!(blobs(), 0);
    assert_eq!(all(&store, b"").len(), 6000);
}

#[test]
fn values_that_shrink_and_grow_read_back_as_they_were_last_written() {
    let root = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let lengths = [0, 1, 5119, 5120, 5121, 10_240, 10_241, VALUE_LIMIT_BYTES];
    for round in 0..lengths.len() {
        let store = open(root.path());
        assert_eq!(all(&store, b""), expected);
        let mut ops = Vec::new();
        for n in 0..40_usize {
            let key = format!("{n}").into_bytes();
            if (n + round) % 5 == 0 {
                expected.remove(&key);
                ops.push(delete(&key));
            } else {
                let len = lengths[(n * 3 + round) % lengths.len()];
                let value: Vec<u8> = (0..len).map(|i| (i / 256 + i + n + round) as u8).collect();
                ops.push(put(&key, &value));
                expected.insert(key, value);
            }
        }
        commit(&store, ops).unwrap();
        assert_eq!(all(&store, b""), expected);
        store.close().unwrap();
    }
}

#[test]
fn a_scan_gives_what_a_sorted_map_would() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let alphabet = [0x00, 0x01, b'a', 0xfe, 0xff];
    let mut model = BTreeMap::new();
    for x in alphabet {
        for y in alphabet {
            for len in 0..3 {
                let key = [x, y][..len].to_vec();
                model.insert(key.clone(), [x, y, len as u8].to_vec());
            }
        }
    }
    commit(&store, model.iter().map(|(key, value)| put(key, value)).collect()).unwrap();

    let marks: Vec<Vec<u8>> =
        model.keys().cloned().chain([vec![0xff, 0xff, 0xff], vec![b'a', b'a', 0]]).collect();
    for prefix in &marks {
        for after in marks.iter().map(Some).chain([None]) {
            for reverse in [false, true] {
                let inside = model.iter().filter(|(key, _)| key.starts_with(prefix)).filter(|(key, _)| {
                    after.is_none_or(|after| if reverse { *key < after } else { *key > after })
                });
                let mut expected: Vec<_> = inside.map(|(key, value)| (key.clone(), value.clone())).collect();
                if reverse {
                    expected.reverse();
                }
                expected.truncate(3);
                let found = wait(store.scan(prefix.clone(), after.cloned(), reverse, 3)).unwrap();
                assert_eq!(found, expected, "prefix {prefix:?} after {after:?} reverse {reverse}");
            }
        }
    }
}

#[test]
fn a_load_shows_all_of_a_prefix_and_nothing_else_however_much_there_is() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut expected = BTreeMap::new();
    for n in 0..100 {
        let (key, value) = (format!("job/{n}").into_bytes(), vec![n; 50_000]);
        commit(&store, vec![put(&key, &value), put(format!("joc/{n}"), "x")]).unwrap();
        expected.insert(key, value);
    }
    assert_eq!(all(&store, b"job/"), expected);
    assert_eq!(all(&store, b"nothing"), BTreeMap::new());
}

#[test]
fn a_second_opener_is_told_that_it_is_locked_and_touches_nothing() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let store = open(&dir);
    commit(&store, vec![put("a", "1")]).unwrap();
    let half = dir.join("snap.00000000000000AA.generating");
    fs::write(&half, b"the first one may be writing this").unwrap();
    let names: Vec<_> = tree(&dir).into_keys().collect();
    assert_eq!(Store::open(&dir, options()).unwrap_err(), StoreError::Locked { dir: dir.clone() });
    assert_eq!(tree(&dir).into_keys().collect::<Vec<_>>(), names);
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1, "nothing was set aside");
    commit(&store, vec![put("b", "2")]).unwrap();
    store.close().unwrap();
    assert_eq!(get(&open(&dir), "b").unwrap(), b"2");
}

#[test]
fn a_store_that_something_else_holds_with_its_own_lock_is_locked_too() {
    let root = tempfile::tempdir().unwrap();
    open(root.path()).close().unwrap();
    let database = fs::File::open(root.path().join("db")).unwrap();
    // The thread of the store that was just closed may hold it for a moment longer.
    database.lock().unwrap();
    assert!(matches!(Store::open(root.path(), options()), Err(StoreError::Locked { .. })));
    drop(database);
    open(root.path());
}

#[test]
fn a_snapshot_that_a_crash_left_half_written_is_no_obstacle() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    commit(&store, vec![put("a", "1")]).unwrap();
    store.close().unwrap();
    let half = root.path().join("snap.FFFFFFFFFFFFFF00.generating");
    fs::write(&half, b"half").unwrap();
    assert_eq!(get(&open(root.path()), "a").unwrap(), b"1");
    assert!(!half.exists());
}

/// Fills a store, damages it, and shows that it is set aside unchanged and replaced by one that works.
fn assert_set_aside(damage: impl FnOnce(&Path)) {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("store");
    let store = open(&dir);
    for n in 0..2000 {
        store.commit(vec![put(format!("job/{n}"), vec![n as u8; 1000])], |result| result.unwrap());
    }
    store.close().unwrap();
    open(&dir).close().unwrap();
    damage(&dir);

    let Opened { store, set_aside } = Store::open(&dir, options()).unwrap();
    let set_aside = set_aside.expect("a damaged store is set aside");
    let name = set_aside.file_name().unwrap().to_str().unwrap();
    let date = name.strip_prefix("store.unreadable-").unwrap();
    assert_eq!(date.len(), "20261122T154700Z".len(), "{name}");
    assert!(set_aside.join("db").metadata().unwrap().len() > 1_000_000, "the old data is there to look at");
    assert_eq!(all(&store, b"").len(), 0);
    commit(&store, vec![put("a", "1")]).unwrap();
    store.close().unwrap();
    assert_eq!(get(&open(&dir), "a").unwrap(), b"1");
}

#[test]
fn a_store_with_garbage_in_the_middle_is_set_aside() {
    assert_set_aside(|dir| {
        let path = dir.join("db");
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 4..bytes.len() / 4 * 3;
        for (at, byte) in bytes[middle].iter_mut().enumerate() {
            *byte = (at * 31 % 251) as u8;
        }
        fs::write(&path, bytes).unwrap();
    });
}

/// The database would open, and fail later when it reads the damaged page.
#[test]
fn a_store_with_one_damaged_page_is_set_aside_at_once() {
    assert_set_aside(|dir| {
        let path = dir.join("db");
        let mut bytes = fs::read(&path).unwrap();
        let value = [77_u8; 1000];
        let mut at = 0;
        while let Some(found) = bytes[at..].windows(value.len()).position(|window| window == value) {
            at += found;
            bytes[at + 500] ^= 1;
        }
        assert!(at > 0, "the value is in there");
        fs::write(&path, bytes).unwrap();
    });
}

#[test]
fn a_store_with_a_damaged_snapshot_is_set_aside() {
    assert_set_aside(|dir| {
        let snapshots: Vec<_> =
            tree(dir).into_keys().filter(|path| path.to_str().unwrap().contains("snap.")).collect();
        assert!(!snapshots.is_empty());
        for path in snapshots {
            fs::write(path, [b'x'; 100]).unwrap();
        }
    });
}

#[test]
fn a_store_of_another_format_is_set_aside() {
    assert_set_aside(|dir| fs::write(dir.join("conf"), b"something else entirely").unwrap());
}

#[test]
fn a_path_that_is_no_directory_is_an_error_and_stays_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("file");
    fs::write(&path, b"mine").unwrap();
    assert!(matches!(Store::open(&path, options()), Err(StoreError::Open { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"mine");
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 1);
}

#[test]
fn below_the_watermark_the_store_says_full_and_still_commits() {
    let root = tempfile::tempdir().unwrap();
    let wanting = Options { min_free_bytes: u64::MAX, ..options() };
    let store = Store::open(root.path(), wanting).unwrap().store;
    assert!(matches!(store.healthy(), Err(StoreError::Full { .. })));
    commit(&store, vec![put("a", "1")]).unwrap();
    assert!(matches!(store.healthy(), Err(StoreError::Full { .. })));
    store.close().unwrap();
    open(root.path()).healthy().unwrap();
}

#[test]
fn dropping_the_last_handle_finishes_what_was_queued() {
    let root = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let store = open(root.path());
        let other = store.clone();
        let answers: Vec<_> =
            (0..50).map(|n| queue(&store, vec![put(format!("{round}/{n}"), "x")])).collect();
        drop(store);
        drop(other);
        for answer in answers {
            assert_eq!(answer.try_recv(), Ok(Ok(())), "the drop returns after the answers");
        }
    }
    assert_eq!(all(&open(root.path()), b"").len(), 20 * 50);
}

#[test]
fn the_last_handle_may_be_dropped_by_a_callback() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (answer, answered) = mpsc::channel();
    let held = store.clone();
    let release = hold(&store);
    store.commit(vec![put("a", "1")], move |result| {
        drop(held);
        answer.send(result).unwrap();
    });
    drop(store);
    release.send(()).unwrap();
    assert_eq!(answered.recv_timeout(PATIENCE).unwrap(), Ok(()));
}

#[test]
fn after_a_close_every_handle_answers_closed() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let other = store.clone();
    store.close().unwrap();
    assert_eq!(other.healthy(), Err(StoreError::Closed));
    assert_eq!(commit(&other, vec![put("a", "1")]), Err(StoreError::Closed));
    assert_eq!(wait(other.get(b"a".to_vec())), Err(StoreError::Closed));
    assert_eq!(other.load(b"", |_, _| {}), Err(StoreError::Closed));
    assert_eq!(other.close(), Ok(()));
}

#[test]
fn a_callback_that_panics_leaves_nobody_waiting() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let release = hold(&store);
    store.commit(vec![put("a", "1")], |_| panic!("a mistake in the driver"));
    store.commit(vec![put("c", "1")], |_| panic!("and again, while the first one unwinds"));
    let after = queue(&store, vec![put("b", "1")]);
    release.send(()).unwrap();
    assert_eq!(after.recv_timeout(PATIENCE).unwrap(), Err(StoreError::Closed));
    assert_eq!(commit(&store, vec![]), Err(StoreError::Closed));
    // The answers come while the thread unwinds; closing waits until it is gone.
    let other = store.clone();
    store.close().unwrap();
    assert_eq!(other.healthy(), Err(StoreError::Closed));
    assert_eq!(get(&open(root.path()), "a").unwrap(), b"1");
}

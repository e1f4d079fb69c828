//! A store whose files were damaged: it opens with everything that was acknowledged, or it is set aside and said to be.
//! It never opens with less and keeps quiet about it.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use reloop_node::store::{Op, Opened, Options, Store, StoreError};

/// Damages of each kind if RELOOP_DAMAGES says nothing: with the debug build of the database some 20 ms each.
const DAMAGES: u64 = 60;

const KEYS: u64 = 200;
const COMMITS: u64 = 1500;
const FEW_COMMITS: u64 = 60;
const CUT_STEP: u64 = 4096;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn options() -> Options {
    Options { cache_bytes: 1 << 20, min_free_bytes: 0 }
}

/// Steele, Lea and Flood's SplitMix64: the same seed, the same damage.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

/// A store in use, and a copy of its files as a kill at this moment leaves them.
struct Fixture {
    root: tempfile::TempDir,
    content: Content,
}

impl Fixture {
    fn new(closed_in_order: bool) -> Self {
        Self::of(COMMITS, closed_in_order)
    }

    fn of(commits: u64, closed_in_order: bool) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("live");
        let mut content = Content::new();
        let mut dice = Dice(7);
        // A second opening, so that there is a snapshot that the database starts from.
        for part in 0..2 {
            let store = Store::open(&dir, options()).unwrap().store;
            for n in 0..commits {
                let key = format!("key/{}", dice.below(KEYS)).into_bytes();
                let value = format!("{part} {n} ").repeat(1 + dice.below(60) as usize).into_bytes();
                content.insert(key.clone(), value.clone());
                let (answer, answered) = mpsc::channel();
                store.commit(vec![Op::Put { key, value }], move |result| drop(answer.send(result)));
                if n % 8 == 0 {
                    answered.recv().unwrap().unwrap();
                }
            }
            let (answer, answered) = mpsc::channel();
            store.commit(vec![Op::Put { key: b"end".to_vec(), value: vec![part] }], move |result| {
                answer.send(result).unwrap();
            });
            answered.recv().unwrap().unwrap();
            content.insert(b"end".to_vec(), vec![part]);
            if part == 1 && !closed_in_order {
                copy(&dir, &root.path().join("taken"));
            }
            store.close().unwrap();
        }
        if closed_in_order {
            copy(&dir, &root.path().join("taken"));
        }
        Self { root, content }
    }

    /// The store's files, damaged, in a place of their own.
    fn damaged(&self, damage: impl FnOnce(&Path)) -> PathBuf {
        let dir = self.root.path().join("trial/store");
        let _ = fs::remove_dir_all(dir.parent().unwrap());
        copy(&self.root.path().join("taken"), &dir);
        damage(&dir);
        dir
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[derive(Debug, Default)]
struct Tally {
    whole: u64,
    set_aside: u64,
    refused: Vec<String>,
    silent: Vec<String>,
}

impl Tally {
    /// Opens it and judges what is found.
    fn judge(&mut self, dir: &Path, content: &Content, what: &str) {
        let Opened { store, set_aside } = match Store::open(dir, options()) {
            Ok(opened) => opened,
            Err(error) => return self.refused.push(format!("{what}: {error}")),
        };
        if let Some(aside) = set_aside {
            assert!(aside.is_dir(), "what is set aside is kept");
            self.set_aside += 1;
            return;
        }
        let mut found = Content::new();
        let read = store.load(b"", |key, value| drop(found.insert(key.to_vec(), value.to_vec())));
        match read {
            Ok(()) if found == *content => self.whole += 1,
            Ok(()) => {
                let lost = content.iter().filter(|(key, value)| found.get(*key) != Some(value)).count();
                self.silent.push(format!("{what}: {lost} of {} entries are not as they were", content.len()));
            }
            Err(error) => self.silent.push(format!("{what}: opens, and then: {error}")),
        }
    }

    fn must_be_loud(self, what: &str) {
        writeln!(
            std::io::stderr(),
            "{what}: {} whole, {} set aside, {} refused, {} silent",
            self.whole,
            self.set_aside,
            self.refused.len(),
            self.silent.len()
        )
        .unwrap();
        assert_eq!(self.silent, [] as [String; 0], "{what}");
        assert_eq!(self.refused, [] as [String; 0], "{what}");
    }
}

fn damages() -> u64 {
    std::env::var("RELOOP_DAMAGES").map_or(DAMAGES, |text| text.parse().unwrap())
}

fn file_in(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let mut files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    files.find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
}

fn flip(path: &Path, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, bit / 8).unwrap();
    byte[0] ^= 1 << (bit % 8);
    file.write_all_at(&byte, bit / 8).unwrap();
}

#[test]
fn a_flipped_bit_anywhere_loses_nothing_in_silence() {
    for closed_in_order in [true, false] {
        let fixture = Fixture::new(closed_in_order);
        let mut tally = Tally::default();
        for seed in 0..damages() {
            let mut dice = Dice(seed);
            let mut what = String::new();
            let dir = fixture.damaged(|dir| {
                // Mostly the database; now and then what stands beside it.
                let prefix = ["db", "db", "db", "db", "db", "db", "snap.", "conf"][dice.below(8) as usize];
                let Some(path) = file_in(dir, prefix) else { return };
                let bit = dice.below(fs::metadata(&path).unwrap().len() * 8);
                what = format!("bit {bit} of {prefix}, seed {seed}");
                flip(&path, bit);
            });
            tally.judge(&dir, &fixture.content, &what);
        }
        tally.must_be_loud(&format!("flipped bits, closed in order: {closed_in_order}"));
    }
}

#[test]
fn a_database_cut_short_anywhere_loses_nothing_in_silence() {
    for closed_in_order in [true, false] {
        let fixture = Fixture::new(closed_in_order);
        let mut tally = Tally::default();
        for seed in 0..damages() {
            let mut what = String::new();
            let dir = fixture.damaged(|dir| {
                let file = OpenOptions::new().write(true).open(dir.join("db")).unwrap();
                let length = file.metadata().unwrap().len();
                let left = match seed {
                    0 => 0,
                    1 => length - 1,
                    // sled's segments are half a MiB: what ends between two of them looks whole to it.
                    2 => length.saturating_sub(1) / (512 << 10) * (512 << 10),
                    seed => Dice(seed).below(length),
                };
                what = format!("{left} of {length} bytes left");
                file.set_len(left).unwrap();
            });
            tally.judge(&dir, &fixture.content, &what);
        }
        tally.must_be_loud(&format!("cut short, closed in order: {closed_in_order}"));
    }
}

/// The way back that the documentation names: without its mark the database is taken as it is.
#[test]
fn a_store_that_lost_its_end_opens_with_what_is_left_once_somebody_has_removed_its_mark() {
    // So little that it fills one segment: of more, the file's end need not be what was written last.
    let fixture = Fixture::of(FEW_COMMITS, true);
    // The last bytes of the file may hold nothing yet: it is cut shorter until something is lost.
    let mut cut = 1;
    let (dir, aside) = loop {
        let dir = fixture.damaged(|dir| {
            let file = OpenOptions::new().write(true).open(dir.join("db")).unwrap();
            let left = file.metadata().unwrap().len().checked_sub(cut).expect("the store has an end to lose");
            file.set_len(left).unwrap();
        });
        let Opened { store, set_aside } = Store::open(&dir, options()).unwrap();
        store.close().unwrap();
        if let Some(aside) = set_aside {
            break (dir, aside);
        }
        cut += CUT_STEP;
    };
    fs::remove_dir_all(&dir).unwrap();
    fs::rename(&aside, &dir).unwrap();
    fs::remove_file(dir.join("acknowledged")).unwrap();
    let Opened { store, set_aside } = Store::open(&dir, options()).unwrap();
    assert_eq!(set_aside, None);
    let mut same = 0;
    store
        .load(b"", |key, value| {
            same += usize::from(fixture.content.get(key).is_some_and(|kept| kept == value))
        })
        .unwrap();
    assert!(
        (1..fixture.content.len()).contains(&same),
        "{same} of {} are as they were",
        fixture.content.len()
    );
}

#[test]
fn a_missing_file_loses_nothing_in_silence() {
    let fixture = Fixture::new(false);
    let mut tally = Tally::default();
    for prefix in ["db", "conf", "snap."] {
        let dir = fixture.damaged(|dir| fs::remove_file(file_in(dir, prefix).unwrap()).unwrap());
        tally.judge(&dir, &fixture.content, &format!("{prefix} is missing"));
    }
    tally.must_be_loud("missing files");
}

#[test]
fn a_half_written_snapshot_costs_nothing() {
    let fixture = Fixture::new(false);
    let mut tally = Tally::default();
    for seed in 0..4 {
        let dir = fixture.damaged(|dir| {
            let snapshot = fs::read(file_in(dir, "snap.").unwrap()).unwrap();
            let half = &snapshot[..Dice(seed).below(snapshot.len() as u64) as usize];
            fs::write(dir.join(format!("snap.{:016X}.generating", u64::MAX - seed)), half).unwrap();
        });
        tally.judge(&dir, &fixture.content, "a half-written snapshot");
    }
    assert_eq!(tally.whole, 4, "{tally:?}");
}

#[test]
fn a_directory_in_place_of_a_file_is_said_and_left_as_it_is() {
    let fixture = Fixture::new(true);
    let dir = fixture.damaged(|dir| {
        fs::remove_file(dir.join("db")).unwrap();
        fs::create_dir(dir.join("db")).unwrap();
    });
    match Store::open(&dir, options()) {
        Err(StoreError::Open { .. }) => assert!(dir.join("db").is_dir()),
        Ok(Opened { set_aside: Some(aside), .. }) => assert!(aside.join("db").is_dir()),
        other => panic!("{other:?}"),
    }
}

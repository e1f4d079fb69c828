//! The database on disk and the sorted map in memory give the same answers to the same writes, reads, failed syncs, crashes
//! and reopenings.
//!
//! A crash of the process is a copy of the database's files as they are; a power cut is a copy of them as they were at the
//! last sync that succeeded.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;

use super::disk::{BLOB_DIR, DiskEngine};
use super::memory::{MemoryDisk, MemoryEngine};
use super::pieces::PIECE_BYTES;
use super::{Changes, Engine, Stretch};
use crate::store::VALUE_LIMIT_BYTES;

/// Enough to see a fault seeded into either engine every time, in a few seconds. `PROPTEST_CASES` sets another number.
const CASES: u32 = 96;

const EIO: i32 = 5;

#[derive(Debug, Clone)]
enum Step {
    Write { changes: Changes, is_synced: bool },
    Get(Vec<u8>),
    Page { stretch: Stretch, limit: usize, max_bytes: usize },
    Clean,
    SyncCleaned,
    Reopen,
    Kill,
    PowerCut,
}

/// Few keys, so that they meet; among them are prefixes of others and the ends of their order.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(vec![0x00, 0x01, b'a', b'b', 0xfe, 0xff]);
    vec(byte, 0..4)
}

/// Around the lengths at which a value gets another piece.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        4 => 0..300_usize,
        2 => prop::sample::select(vec![PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES]),
        1 => Just(VALUE_LIMIT_BYTES),
    ];
    (length, any::<u8>()).prop_map(|(length, first)| (0..length).map(|at| first ^ at as u8).collect())
}

fn step() -> impl Strategy<Value = Step> {
    let changes = prop::collection::btree_map(key(), prop::option::weighted(0.7, value()), 0..12);
    let stretch = (key(), prop::option::of(key()), any::<bool>())
        .prop_map(|(prefix, start_after, reverse)| Stretch { prefix, start_after, reverse });
    let max_bytes = prop::sample::select(vec![0, 1, 1000, usize::MAX]);
    prop_oneof![
        8 => (changes, prop::bool::weighted(0.9))
            .prop_map(|(changes, is_synced)| Step::Write { changes, is_synced }),
        4 => key().prop_map(Step::Get),
        6 => (stretch, prop::sample::select(vec![0, 1, 3, usize::MAX]), max_bytes)
            .prop_map(|(stretch, limit, max_bytes)| Step::Page { stretch, limit, max_bytes }),
        2 => Just(Step::Clean),
        1 => Just(Step::SyncCleaned),
        1 => Just(Step::Reopen),
        1 => Just(Step::Kill),
        1 => Just(Step::PowerCut),
    ]
}

struct Both {
    root: tempfile::TempDir,
    /// How many directories the database has had.
    number: u32,
    disk: Option<Box<DiskEngine>>,
    memory: MemoryEngine,
    map: MemoryDisk,
    /// Every sync fails while this is set.
    is_failing: Arc<AtomicBool>,
    /// A write failed: only reads are allowed until the engines are opened again.
    has_failed: bool,
}

impl Both {
    fn new() -> Self {
        let map = MemoryDisk::default();
        let is_failing = Arc::new(AtomicBool::new(false));
        let memory = open_map(&map, &is_failing);
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("0")).unwrap();
        let mut both = Self { root, number: 0, disk: None, memory, map, is_failing, has_failed: false };
        both.open();
        both
    }

    fn dir(&self) -> PathBuf {
        self.root.path().join(self.number.to_string())
    }

    /// The database's files as they were at the last sync that succeeded.
    fn image(&self) -> PathBuf {
        self.root.path().join("image")
    }

    fn open(&mut self) {
        let (dir, image, is_failing) = (self.dir(), self.image(), Arc::clone(&self.is_failing));
        let sync = move |_: &File| {
            fail_if(&is_failing)?;
            copy(&dir, &image)
        };
        self.disk = Some(Box::new(DiskEngine::open(&self.dir(), 1 << 20, Box::new(sync)).unwrap()));
        copy(&self.dir(), &self.image()).unwrap();
        self.memory = open_map(&self.map, &self.is_failing);
        self.has_failed = false;
    }

    /// Goes on with a copy of these files.
    fn crash(&mut self, files: &Path, failed_write_is_found: bool) {
        let next = self.root.path().join((self.number + 1).to_string());
        copy(files, &next).unwrap();
        // sled writes as it is dropped, which a process that died does not.
        drop(self.disk.take());
        fs::remove_dir_all(self.dir()).unwrap();
        self.number += 1;
        self.map.decide(failed_write_is_found);
        self.open();
    }

    fn disk(&mut self) -> &mut DiskEngine {
        self.disk.as_mut().unwrap()
    }

    fn take(&mut self, step: Step) -> TestCaseResult {
        match step {
            Step::Write { .. } | Step::Clean | Step::SyncCleaned if self.has_failed => {}
            Step::Write { changes, is_synced } => {
                self.is_failing.store(!is_synced, Ordering::Relaxed);
                let on_disk = self.disk().write(changes.clone()).is_ok();
                let in_memory = self.memory.write(changes).is_ok();
                self.is_failing.store(false, Ordering::Relaxed);
                prop_assert_eq!(on_disk, in_memory);
                self.has_failed = !on_disk;
            }
            Step::Get(key) => {
                prop_assert_eq!(self.disk().get(&key).unwrap(), self.memory.get(&key).unwrap());
            }
            Step::Page { stretch, limit, max_bytes } => self.compare(&stretch, limit, max_bytes)?,
            Step::Clean => drop(self.disk().clean().unwrap()),
            Step::SyncCleaned => self.disk().sync_cleaned().unwrap(),
            Step::Reopen => {
                self.disk.take().unwrap().close().unwrap();
                // The failed write is in the kernel's cache, and the close has synced it.
                self.map.decide(true);
                self.open();
            }
            Step::Kill => self.crash(&self.dir(), true),
            Step::PowerCut => self.crash(&self.image(), false),
        }
        Ok(())
    }

    fn compare(&mut self, stretch: &Stretch, limit: usize, max_bytes: usize) -> TestCaseResult {
        let on_disk = self.disk().page(stretch, limit, max_bytes).unwrap();
        let in_memory = self.memory.page(stretch, limit, max_bytes).unwrap();
        prop_assert_eq!(on_disk, in_memory);
        Ok(())
    }

    fn compare_all(&mut self) -> TestCaseResult {
        for reverse in [false, true] {
            let all = Stretch { prefix: Vec::new(), start_after: None, reverse };
            self.compare(&all, usize::MAX, usize::MAX)?;
        }
        Ok(())
    }
}

fn open_map(map: &MemoryDisk, is_failing: &Arc<AtomicBool>) -> MemoryEngine {
    let is_failing = Arc::clone(is_failing);
    MemoryEngine::open(map, Box::new(move || fail_if(&is_failing)))
}

fn fail_if(is_failing: &AtomicBool) -> io::Result<()> {
    if is_failing.load(Ordering::Relaxed) { Err(io::Error::from_raw_os_error(EIO)) } else { Ok(()) }
}

/// Replaces a directory by a copy of another, without the files below it, of which an engine has none.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    match fs::remove_dir_all(to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => fs::create_dir(to)?,
    }
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    fs::create_dir(to.join(BLOB_DIR))
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    ProptestConfig { cases: cases.unwrap_or(CASES), failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_engine_in_memory_answers_as_the_one_on_disk(steps in vec(step(), 1..40)) {
        let mut both = Both::new();
        for step in steps {
            let is_reopened = matches!(step, Step::Reopen | Step::Kill | Step::PowerCut);
            both.take(step)?;
            if is_reopened || both.has_failed {
                both.compare_all()?;
            }
        }
        both.compare_all()?;
    }
}

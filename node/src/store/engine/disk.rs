//! The database on disk: sled, restricted to the part of it that keeps its promises.
//!
//! * `flush` hands its data to the kernel only. A write counts as durable after an fdatasync of the database file, through a
//!   second descriptor on it.
//! * Values are cut into pieces, because sled never syncs the files of its large pages (`pieces`).
//! * It may panic on damage. Every call into it is guarded, and a panic becomes an error (`guard`).
//! * The copy under `vendor/` does all work in the thread that asks, which is the store's thread. The crate wakes seven
//!   threads for each flush, cleans up in an eighth, and sometimes loses the error of another thread's write.
//! * Neither `flush_async`, `transaction` nor `len` is used: the first two can deadlock, the last walks the database.
//! * It takes damage at the end of its log for a torn write, and opens with what is left. Commits are counted, so that the
//!   loss is noticed (`mark`).
//! * It shows what it was told to write whether that reached the disk or not. What a batch replaces is kept until the batch
//!   is durable, and shown if it never is (`undone`).
//! * It leaves work for the next reader, such as merging a page that became too small, which must not be done after a
//!   failed write. So each page that a batch changed is read once before it is flushed.
//!
//! Everything is in sled's default tree, because a batch is atomic within one tree only.

use std::cmp::Ordering;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use super::guard::guarded;
use super::pieces::{COUNT, bounds, head_key, missing_piece, put_pieces, rest_key};
use super::undone::{Heads, Replaced};
use super::{Changes, Engine, Fault, Stretch};
use crate::store::Entry;
use crate::store::mark::Mark;

/// Makes the database file durable. A parameter, so that tests can have it fail.
pub(crate) type SyncFile = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// The database file's name in the store's directory.
pub(crate) const DATABASE_FILE: &str = "db";

/// Where sled would put pages above 128 KiB.
pub(crate) const BLOB_DIR: &str = "blobs";

pub(crate) struct DiskEngine {
    db: sled::Db,
    file: File,
    sync: SyncFile,
    /// Commits since the database was made.
    commits: u64,
    mark: Mark,
    /// What a write that failed has replaced.
    undone: Replaced,
}

impl DiskEngine {
    /// Opens the database and reads all of it once, because sled notices a damaged page only when it reads it, and that
    /// would stop the node at some worse time. Syncs the database: a process that died may have written what it did not
    /// sync.
    pub(crate) fn open(dir: &Path, cache_bytes: u64, sync: SyncFile) -> Result<Self, Fault> {
        guarded(|| {
            let db = open(dir, cache_bytes)?;
            read_all(&db)?;
            let commits = count_in(&db)?;
            let (mark, acknowledged) = Mark::open(dir)?;
            if commits < acknowledged {
                return Err(Fault::Unreadable(format!(
                    "its end is lost: it has {commits} commits, and {acknowledged} were acknowledged"
                )));
            }
            let file = OpenOptions::new().read(true).write(true).open(dir.join(DATABASE_FILE))?;
            db.flush()?;
            file.sync_data()?;
            Ok(Self { db, file, sync, commits, mark, undone: Replaced::new() })
        })
    }

    fn write_or_fail(&mut self, changes: Changes, replaced: &mut Replaced) -> Result<(), Fault> {
        let db = &self.db;
        let number = self.commits + 1;
        guarded(|| {
            db.apply_noting(|batch| {
                batch.set(&sled::IVec::from(&[COUNT]), Some((&number.to_le_bytes()).into()), |_| ())?;
                changes.iter().try_for_each(|(key, value)| put_pieces(batch, replaced, key, value.as_deref()))
            })?;
            db.flush()?;
            Ok(())
        })?;
        self.sync()?;
        self.commits = number;
        self.mark.set(number).map_err(Fault::System)
    }

    fn sync(&mut self) -> Result<(), Fault> {
        (self.sync)(&self.file).map_err(Fault::System)
    }

    /// What sled has under a stored key, or had before a write that failed.
    fn durable(&self, stored_key: &[u8]) -> Result<Option<sled::IVec>, Fault> {
        match self.undone.get(stored_key) {
            Some(before) => Ok(before.clone()),
            None => Ok(self.db.get(stored_key)?),
        }
    }

    fn assemble(&self, key: &[u8], head: &[u8]) -> Result<Vec<u8>, Fault> {
        let (further, first) = head.split_first().ok_or_else(|| missing_piece(key))?;
        let mut value = first.to_vec();
        for number in 0..u16::from(*further) {
            let piece = self.durable(&rest_key(key, number))?.ok_or_else(|| missing_piece(key))?;
            value.extend_from_slice(&piece);
        }
        Ok(value)
    }
}

impl Engine for DiskEngine {
    fn write(&mut self, changes: Changes) -> Result<(), Fault> {
        let mut replaced = Replaced::new();
        let written = self.write_or_fail(changes, &mut replaced);
        if written.is_err() {
            self.undone = replaced;
        }
        written
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        guarded(|| match self.durable(&head_key(key))? {
            Some(head) => self.assemble(key, &head).map(Some),
            None => Ok(None),
        })
    }

    fn page(&self, stretch: &Stretch, limit: usize, max_bytes: usize) -> Result<Vec<Entry>, Fault> {
        guarded(|| {
            let Some((lower, upper)) = bounds(stretch) else { return Ok(Vec::new()) };
            let undone = self.undone.range((lower.clone(), upper.clone()));
            let found = self.db.range::<Vec<u8>, _>((lower, upper));
            let mut heads = if stretch.reverse {
                Heads::new(found.rev(), undone.rev(), Ordering::Greater)
            } else {
                Heads::new(found, undone, Ordering::Less)
            };
            let mut page = Vec::new();
            let mut bytes = 0;
            while page.len() < limit && bytes < max_bytes {
                let Some((stored_key, head)) = heads.next()? else { break };
                let key = stored_key[1..].to_vec();
                let value = self.assemble(&key, &head)?;
                bytes += key.len() + value.len();
                page.push((key, value));
            }
            Ok(page)
        })
    }

    fn clean(&self) -> Result<bool, Fault> {
        guarded(|| Ok(self.db.context.pagecache.attempt_gc()?))
    }

    fn sync_cleaned(&mut self) -> Result<(), Fault> {
        guarded(|| Ok(self.db.flush().map(drop)?))?;
        self.sync()
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        let Self { db, file, .. } = *self;
        // Commits are durable already; this syncs what was cleaned up since. sled unwraps the result of its own last sync.
        guarded(|| {
            drop(db);
            Ok(file.sync_data()?)
        })
    }
}

fn open(dir: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(dir).mode(sled::Mode::LowSpace);
    config.cache_capacity(cache_bytes).flush_every_ms(None).open()
}

fn read_all(db: &sled::Db) -> sled::Result<()> {
    db.iter().try_for_each(|entry| entry.map(drop))
}

fn count_in(db: &sled::Db) -> Result<u64, Fault> {
    let Some(value) = db.get([COUNT])? else { return Ok(0) };
    let bytes = value.as_ref().try_into();
    bytes
        .map(u64::from_le_bytes)
        .map_err(|_| Fault::Unreadable("its count of commits is no number".to_owned()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::store::VALUE_LIMIT_BYTES;
    use crate::store::engine::pieces::PIECE_BYTES;

    fn write(engine: &mut DiskEngine, value: Option<usize>) -> usize {
        let value = value.map(|len| vec![7; len]);
        engine.write(BTreeMap::from([(b"key".to_vec(), value)])).unwrap();
        engine.db.iter().count() - 1
    }

    #[test]
    fn no_piece_of_an_overwritten_or_deleted_value_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(File::sync_data)).unwrap();
        assert_eq!(write(&mut engine, Some(PIECE_BYTES)), 1);
        assert_eq!(write(&mut engine, Some(VALUE_LIMIT_BYTES)), VALUE_LIMIT_BYTES.div_ceil(PIECE_BYTES));
        assert_eq!(write(&mut engine, Some(2 * PIECE_BYTES + 1)), 3);
        assert_eq!(write(&mut engine, None), 0);
    }

    #[test]
    fn no_page_is_left_for_the_next_reader_to_split() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
        for round in 0..50_u8 {
            let key = |number: u8| vec![number % 7, round, number];
            let entry = |number: u8| (key(number), Some(vec![number; 40 * usize::from(number)]));
            engine.write((0..round).map(entry).collect()).unwrap();
            for number in 0..round {
                assert!(engine.get(&key(number)).unwrap().is_some());
            }
            assert_eq!(engine.db.flush().unwrap(), 0, "bytes written by reading, in round {round}");
        }
    }

    /// Whatever changes in whatever order: what is new just behind what is there, as ids are, and anywhere; replaced, deleted,
    /// of one piece and of many.
    #[test]
    fn what_commits_change_is_there_and_nothing_else_is() {
        let dir = tempfile::tempdir().unwrap();
        let open = || DiskEngine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
        let (mut engine, mut expected) = (open(), BTreeMap::new());
        let mut state = 1_u64;
        let mut random = |below: u64| {
            // Knuth's MMIX generator.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..400_u32 {
            let mut changes = BTreeMap::new();
            for number in 0..random(40) as u32 {
                let (key, len) = match random(8) {
                    0..4 => (format!("live {:08} {number:04}", round), 200),
                    4 => (format!("live {:08} {:04}", random(u64::from(round) + 1), random(40)), random(400)),
                    5 => (format!("anywhere {:04}", random(500)), random(2) * 300),
                    6 => (format!("large {:02}", random(20)), random(VALUE_LIMIT_BYTES as u64 / 4)),
                    _ => (format!("node {:02}", random(3)), 20),
                };
                let value = (random(4) > 0).then(|| vec![random(256) as u8; len as usize]);
                changes.insert(key.into_bytes(), value);
            }
            for (key, value) in &changes {
                match value {
                    Some(value) => expected.insert(key.clone(), value.clone()),
                    None => expected.remove(key),
                };
            }
            engine.write(changes).unwrap();
            if round % 50 == 49 {
                assert_eq!(
                    seen(&engine),
                    expected.clone().into_iter().collect::<Vec<_>>(),
                    "in round {round}"
                );
                assert_eq!(engine.db.flush().unwrap(), 0, "bytes written by reading, in round {round}");
            }
            if round % 100 == 99 {
                Box::new(engine).close().unwrap();
                engine = open();
            }
        }
        assert_eq!(seen(&engine), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_of_many_large_values_leaves_no_page_to_a_file_that_is_never_synced() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
        for round in 0..3_u8 {
            let value = vec![round; VALUE_LIMIT_BYTES];
            engine
                .write((0..16_u8).map(|number| (vec![number, round], Some(value.clone()))).collect())
                .unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path().join(BLOB_DIR)).unwrap().count(), 0);
    }

    #[test]
    fn the_file_grows_by_whole_segments_so_that_most_commits_change_no_length() {
        const SEGMENT_BYTES: u64 = 512 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
        let mut lengths = Vec::new();
        for number in 0..200_u8 {
            engine.write(BTreeMap::from([(vec![number], Some(vec![number; 10_000]))])).unwrap();
            lengths.push(std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len());
        }
        assert!(lengths.iter().all(|length| length % SEGMENT_BYTES == 0), "{lengths:?}");
        lengths.dedup();
        assert!((3..20).contains(&lengths.len()), "{lengths:?}");
    }

    #[test]
    fn a_database_far_larger_than_its_cache_is_all_there_when_it_is_opened_again() {
        const CACHE_BYTES: u64 = 1 << 20;
        let dir = tempfile::tempdir().unwrap();
        let open = || DiskEngine::open(dir.path(), CACHE_BYTES, Box::new(|_| Ok(()))).unwrap();
        let mut engine = open();
        let value = |number: u16| number.to_le_bytes().repeat(VALUE_LIMIT_BYTES / 2);
        const VALUES: u16 = 400;
        for number in 0..VALUES {
            engine.write(BTreeMap::from([(number.to_be_bytes().to_vec(), Some(value(number)))])).unwrap();
        }
        Box::new(engine).close().unwrap();
        assert!(std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len() > 16 * CACHE_BYTES);
        let engine = open();
        assert_eq!(engine.commits, u64::from(VALUES));
        for number in 0..VALUES {
            assert_eq!(engine.get(&number.to_be_bytes()).unwrap(), Some(value(number)));
        }
    }

    #[test]
    fn what_is_cleaned_up_makes_room_and_loses_nothing() {
        const ROUNDS: u16 = 1200;
        const BUSY_BYTES: usize = 32 * 1024;
        // What is written once lies between what is written again and again.
        let taken = |cleans: bool| {
            let dir = tempfile::tempdir().unwrap();
            let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
            for round in 0..ROUNDS {
                let kept = format!("kept {:04}", round * 7 % ROUNDS).into_bytes();
                let [byte, _] = round.to_le_bytes();
                let busy = (b"busy".to_vec(), Some(vec![byte; BUSY_BYTES]));
                engine.write(BTreeMap::from([(kept, Some(vec![1; 1000])), busy])).unwrap();
                while cleans && engine.clean().unwrap() {}
            }
            engine.sync_cleaned().unwrap();
            assert_eq!(seen(&engine).len(), usize::from(ROUNDS) + 1);
            std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len()
        };
        let (with, without) = (taken(true), taken(false));
        assert!(with * 2 < without, "{with} bytes with cleaning, {without} without");
    }

    /// Everything there is, both ways and one by one.
    fn seen(engine: &DiskEngine) -> Vec<Entry> {
        let stretch =
            |prefix: &[u8], reverse| Stretch { prefix: prefix.to_vec(), start_after: None, reverse };
        let all = engine.page(&stretch(b"", false), usize::MAX, usize::MAX).unwrap();
        let mut back = engine.page(&stretch(b"", true), usize::MAX, usize::MAX).unwrap();
        back.reverse();
        assert_eq!(all, back);
        for (key, value) in &all {
            assert_eq!(engine.get(key).unwrap().as_ref(), Some(value));
            assert_eq!(engine.page(&stretch(key, false), 1, usize::MAX).unwrap()[0].0, *key);
        }
        all
    }

    #[test]
    fn after_a_write_that_failed_reads_show_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let failing = Arc::new(AtomicBool::new(false));
        let sync = {
            let failing = Arc::clone(&failing);
            move |file: &File| match failing.load(std::sync::atomic::Ordering::Relaxed) {
                true => Err(io::Error::from_raw_os_error(5)),
                false => file.sync_data(),
            }
        };
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(sync)).unwrap();
        let entry = |key: &str, value: Option<Vec<u8>>| (key.as_bytes().to_vec(), value);
        let long = |byte, pieces: usize| Some(vec![byte; pieces * PIECE_BYTES + 1]);
        engine
            .write(BTreeMap::from([
                entry("b", Some(b"before".to_vec())),
                entry("d", long(1, 3)),
                entry("e", long(2, 1)),
                entry("f", Some(b"stays".to_vec())),
            ]))
            .unwrap();
        let before = seen(&engine);
        assert_eq!(before.len(), 4);
        failing.store(true, std::sync::atomic::Ordering::Relaxed);
        let changes = BTreeMap::from([
            entry("a", Some(b"new".to_vec())),
            entry("b", Some(b"after".to_vec())),
            entry("c", long(3, 2)),
            entry("d", None),
            entry("e", long(4, 4)),
            entry("g", Some(b"new".to_vec())),
        ]);
        engine.write(changes).unwrap_err();
        assert_eq!(seen(&engine), before);
        assert_eq!(engine.get(b"a").unwrap(), None);
    }

    #[test]
    fn a_missing_piece_is_an_error_and_not_a_shorter_value() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = DiskEngine::open(dir.path(), 1 << 20, Box::new(File::sync_data)).unwrap();
        write(&mut engine, Some(3 * PIECE_BYTES));
        engine.db.remove(rest_key(b"key", 1)).unwrap();
        assert!(matches!(engine.get(b"key"), Err(Fault::Unreadable(_))));
    }
}

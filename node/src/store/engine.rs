//! sled, kept to the part of it that holds what it promises.
//!
//! * `flush` gives what it has to the kernel and no further. A write counts as durable only after an fdatasync of the
//!   database file, here through a second descriptor on it.
//! * A page above 128 KiB goes to a file of its own under `blobs/` that is never synced. A leaf holds up to about 20
//!   entries whatever their size, so it is not enough to limit values: they are cut into pieces so small that no
//!   leaf gets there, and keys are limited so that no inner page does.
//! * It may panic on damage. Every call that reaches it is caught, and a panic is an error like another.
//! * As it is on crates.io it wakes seven threads for each flush, cleans up from an eighth, and forgets at times to tell
//!   one that a write of another has failed. The copy that is built here does everything in the thread that asks, see
//!   `vendor/README.md`; that is one thread here.
//! * Neither `flush_async`, `transaction` nor `len` is used: the first two can deadlock, the last walks the database.
//!
//! * It takes damage at its log's end for a torn write, and opens with what is left. Commits are counted, see `mark.rs`.
//! * It shows what it was told to write whether that reached the disk or not. What a batch replaces is remembered until
//!   the batch is durable, and shown instead if it never is.
//! * It mends what a change has left to do, as a page that is too small, when the next reader comes by, which after a
//!   failed write can't be done: so each page that a batch has changed is read once before it is flushed.
//!
//! On disk an entry is `[HEAD] key -> [pieces that follow: u8] first piece`, and each further piece is
//! `[REST] key [number: u16 big endian] -> piece`; `[COUNT] -> u64 little endian` is the number of commits. All of it lives in sled's default tree, because a batch is atomic
//! within one tree only.

use std::any::Any;
use std::cell::Cell;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::iter::Peekable;
use std::ops::Bound;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Once;

use crate::store::mark::Mark;
use crate::store::{Entry, KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES};

/// Makes the database file durable. A parameter so that tests can have it fail.
pub(super) type SyncFile = Box<dyn FnMut(&File) -> io::Result<()> + Send>;

/// The database file's name inside the store's directory.
pub(super) const DATABASE_FILE: &str = "db";

/// Where sled would put pages above 128 KiB.
pub(super) const BLOB_DIR: &str = "blobs";

/// 24 entries of this size and the longest keys stay below sled's 128 KiB per page; leaves split at 17 entries, those of
/// less than 8 KiB later, and a merge adds 3 at most.
const PIECE_BYTES: usize = 5 * 1024;

const HEAD: u8 = 0;
const REST: u8 = 1;
const COUNT: u8 = 2;

const _: () = assert!((KEY_LIMIT_BYTES + PIECE_BYTES + 64) * 24 < 128 * 1024);
// sled splits inner pages above 256 children.
const _: () = assert!((KEY_LIMIT_BYTES + 64) * 257 < 128 * 1024);
const _: () = assert!(VALUE_LIMIT_BYTES.div_ceil(PIECE_BYTES) <= u8::MAX as usize);

/// Why sled could not do what it was asked to.
#[derive(Debug)]
pub(super) enum Fault {
    /// The operating system refused: another try, after somebody mended the cause, may do.
    System(io::Error),
    /// What is on disk makes no sense to this version of sled: no other try will do.
    Unreadable(String),
}

/// A stretch of keys that share a prefix.
#[derive(Debug, Clone)]
pub(super) struct Stretch {
    pub(super) prefix: Vec<u8>,
    pub(super) start_after: Option<Vec<u8>>,
    pub(super) reverse: bool,
}

pub(super) struct Engine {
    db: sled::Db,
    file: File,
    sync: SyncFile,
    /// Commits since the database was made.
    commits: u64,
    mark: Mark,
    /// What stood where a write failed.
    undone: Replaced,
}

/// What a batch replaces, as sled has it: nothing, or a piece.
type Replaced = BTreeMap<Vec<u8>, Option<sled::IVec>>;

impl Engine {
    /// Opens the database and reads all of it once: sled notices a damaged page only when it comes to it, and a
    /// database that opens but cannot be written later would stop the node at some worse time. What was found may have been
    /// written by a process that died before it was on the disk: it is from here.
    pub(super) fn open(dir: &Path, cache_bytes: u64, sync: SyncFile) -> Result<Engine, Fault> {
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
            Ok(Engine { db, file, sync, commits, mark, undone: Replaced::new() })
        })
    }

    /// Applies the changes as one, and returns once they are durable. `None` deletes a key.
    ///
    /// After an error the disk's state is unknown and the engine must not be written to any more: the kernel reports a
    /// failed write-back once, and a second fdatasync would succeed without having written anything. Reads show what was
    /// there before.
    pub(super) fn write(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), Fault> {
        let mut replaced = Replaced::new();
        let written = self.write_or_fail(changes, &mut replaced);
        if written.is_err() {
            self.undone = replaced;
        }
        written
    }

    fn write_or_fail(
        &mut self,
        changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
        replaced: &mut Replaced,
    ) -> Result<(), Fault> {
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

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        guarded(|| match self.durable(&head_key(key))? {
            Some(head) => self.assemble(key, &head).map(Some),
            None => Ok(None),
        })
    }

    /// At most `limit` entries, and no more after `max_bytes` of keys and values.
    pub(super) fn page(
        &self,
        stretch: &Stretch,
        limit: usize,
        max_bytes: usize,
    ) -> Result<Vec<Entry>, Fault> {
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

    /// Writes one page again whose surroundings on disk are mostly of no use any more, so that their space can be; false
    /// if there is none. Durability does not rest on it, but it writes: after an error nothing must be written any more.
    pub(super) fn clean(&self) -> Result<bool, Fault> {
        guarded(|| Ok(self.db.context.pagecache.attempt_gc()?))
    }

    /// Makes durable what [`Engine::clean`] wrote, so that no power cut finds its pages in neither place.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        guarded(|| Ok(self.db.flush().map(drop)?))?;
        self.sync()
    }

    fn sync(&mut self) -> Result<(), Fault> {
        (self.sync)(&self.file).map_err(Fault::System)
    }

    /// Leaves the database. Commits are durable already; what was cleaned up since is from here.
    pub(super) fn close(self) -> Result<(), Fault> {
        // sled unwraps its last sync.
        guarded(|| {
            drop(self.db);
            Ok(self.file.sync_data()?)
        })
    }

    /// What sled has under a key, unless that was never written.
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

fn open(dir: &Path, cache_bytes: u64) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(dir).mode(sled::Mode::LowSpace);
    config.cache_capacity(cache_bytes).flush_every_ms(None).open()
}

fn read_all(db: &sled::Db) -> sled::Result<()> {
    db.iter().try_for_each(|entry| entry.map(drop))
}

type Found = sled::Result<(sled::IVec, sled::IVec)>;
type Undone<'a> = (&'a Vec<u8>, &'a Option<sled::IVec>);

/// What sled found and what was undone, as one stretch of keys.
struct Heads<'a> {
    found: Peekable<Box<dyn Iterator<Item = Found> + 'a>>,
    undone: Peekable<Box<dyn Iterator<Item = Undone<'a>> + 'a>>,
    /// How a key compares with those that come after it.
    order: Ordering,
}

impl<'a> Heads<'a> {
    fn new(
        found: impl Iterator<Item = Found> + 'a,
        undone: impl Iterator<Item = Undone<'a>> + 'a,
        order: Ordering,
    ) -> Self {
        let (found, undone): (
            Box<dyn Iterator<Item = Found> + 'a>,
            Box<dyn Iterator<Item = Undone<'a>> + 'a>,
        ) = (Box::new(found), Box::new(undone));
        Self { found: found.peekable(), undone: undone.peekable(), order }
    }

    fn next(&mut self) -> Result<Option<(sled::IVec, sled::IVec)>, Fault> {
        loop {
            let undone_first = match (self.found.peek(), self.undone.peek()) {
                (_, None) | (Some(Err(_)), _) => return Ok(self.found.next().transpose()?),
                (None, Some(_)) => true,
                (Some(Ok((found, _))), Some((undone, _))) => {
                    let is = found.as_ref().cmp(undone.as_slice());
                    if is == Ordering::Equal {
                        self.found.next();
                    }
                    is != self.order
                }
            };
            if !undone_first {
                return Ok(self.found.next().transpose()?);
            }
            if let Some((stored_key, Some(before))) = self.undone.next() {
                return Ok(Some((stored_key.as_slice().into(), before.clone())));
            }
        }
    }
}

fn count_in(db: &sled::Db) -> Result<u64, Fault> {
    let Some(value) = db.get([COUNT])? else { return Ok(0) };
    let bytes = value.as_ref().try_into();
    bytes
        .map(u64::from_le_bytes)
        .map_err(|_| Fault::Unreadable("its count of commits is no number".to_owned()))
}

fn put_pieces(
    batch: &mut sled::Writing<'_>,
    replaced: &mut Replaced,
    key: &[u8],
    value: Option<&[u8]>,
) -> sled::Result<()> {
    let bytes = value.unwrap_or_default();
    let (first, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
    let mut rest = rest.chunks(PIECE_BYTES);
    let head = value.map(|_| {
        let further = u8::try_from(rest.len()).expect("a value within its limit has no more pieces");
        [&[further], first].concat()
    });
    let before = put(batch, replaced, head_key(key), head.as_deref())?;
    let pieces_before = before.as_ref().and_then(|head| head.first().copied()).unwrap_or(0);
    for number in 0..rest.len().max(usize::from(pieces_before)) {
        put(batch, replaced, rest_key(key, number as u16), rest.next())?;
    }
    Ok(())
}

/// Remembers what is replaced before it is, and gives it back.
fn put(
    batch: &mut sled::Writing<'_>,
    replaced: &mut Replaced,
    stored_key: Vec<u8>,
    value: Option<&[u8]>,
) -> sled::Result<Option<sled::IVec>> {
    let mut before = None;
    batch.set(&stored_key.as_slice().into(), value.map(Into::into), |stands| {
        before = stands.cloned();
        replaced.insert(stored_key.clone(), before.clone());
    })?;
    Ok(before)
}

fn head_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(HEAD);
    stored.extend_from_slice(key);
    stored
}

/// The number has a fixed width, so that no two keys share a piece's name.
fn rest_key(key: &[u8], number: u16) -> Vec<u8> {
    let mut stored = Vec::with_capacity(3 + key.len());
    stored.push(REST);
    stored.extend_from_slice(key);
    stored.extend_from_slice(&number.to_be_bytes());
    stored
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Nothing, if the stretch starts where it would have to end.
fn bounds(stretch: &Stretch) -> Option<Bounds> {
    let first = head_key(&stretch.prefix);
    let end = end_of_prefix(&first);
    let start_after = stretch.start_after.as_deref().map(head_key);
    let (lower, upper) = match (start_after, stretch.reverse) {
        (Some(after), false) if after >= first => (Bound::Excluded(after), end),
        (Some(after), true) if after < end => (Bound::Included(first), after),
        _ => (Bound::Included(first), end),
    };
    let (Bound::Included(lowest) | Bound::Excluded(lowest)) = &lower else { return None };
    (*lowest < upper).then_some((lower, Bound::Excluded(upper)))
}

/// The first key after all those that start with `prefix`, which starts with `HEAD`.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let last = end.last_mut().expect("a stored key starts with HEAD, which is not 0xff");
    *last += 1;
    end
}

fn missing_piece(key: &[u8]) -> Fault {
    Fault::Unreadable(format!("a piece of the value at {} is missing", key.escape_ascii()))
}

fn guarded<T>(call: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    static HOOK: Once = Once::new();
    HOOK.call_once(silence_guarded_panics);
    let outer = GUARDED.replace(true);
    // Whoever gets a fault from a write stops writing, so that no half-changed state of sled is built upon.
    let result = catch_unwind(AssertUnwindSafe(call));
    GUARDED.set(outer);
    result.unwrap_or_else(|panic| Err(fault_of_panic(panic.as_ref())))
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// A panic that becomes an error is told as one: a message of the runtime with a backtrace would send whoever reads the
/// log after a damaged disk on the search for a bug.
fn silence_guarded_panics() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if GUARDED.get() {
            tracing::debug!(%panic, "sled panicked");
        } else {
            before(panic);
        }
    }));
}

fn fault_of_panic(panic: &(dyn Any + Send)) -> Fault {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    let text = format!("sled panicked: {text}");
    // sled unwraps some IO errors; this is how the operating system's ones look in such a message.
    if text.contains("Os { code") { Fault::System(io::Error::other(text)) } else { Fault::Unreadable(text) }
}

impl From<sled::Error> for Fault {
    fn from(error: sled::Error) -> Fault {
        match error {
            sled::Error::Io(error) => Fault::from(error),
            other => Fault::Unreadable(other.to_string()),
        }
    }
}

impl From<io::Error> for Fault {
    /// sled copies errors by kind, so there may be no number left to look at. These kinds come from following a damaged
    /// length, offset or name; what disks, quotas and permissions come up with has other kinds.
    fn from(error: io::Error) -> Fault {
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::NotFound => Fault::Unreadable(error.to_string()),
            _ => Fault::System(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn write(engine: &mut Engine, value: Option<usize>) -> usize {
        let value = value.map(|len| vec![7; len]);
        engine.write(BTreeMap::from([(b"key".to_vec(), value)])).unwrap();
        engine.db.iter().count() - 1
    }

    #[test]
    fn no_piece_of_an_overwritten_or_deleted_value_stays_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(File::sync_data)).unwrap();
        assert_eq!(write(&mut engine, Some(PIECE_BYTES)), 1);
        assert_eq!(write(&mut engine, Some(VALUE_LIMIT_BYTES)), VALUE_LIMIT_BYTES.div_ceil(PIECE_BYTES));
        assert_eq!(write(&mut engine, Some(2 * PIECE_BYTES + 1)), 3);
        assert_eq!(write(&mut engine, None), 0);
    }

    #[test]
    fn no_page_is_left_for_the_next_reader_to_split() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
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
        let open = || Engine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
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
                engine.close().unwrap();
                engine = open();
            }
        }
        assert_eq!(seen(&engine), expected.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_commit_of_many_large_values_leaves_no_page_to_a_file_that_is_never_synced() {
        let dir = tempfile::tempdir().unwrap();
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
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
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
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
        let open = || Engine::open(dir.path(), CACHE_BYTES, Box::new(|_| Ok(()))).unwrap();
        let mut engine = open();
        let value = |number: u16| number.to_le_bytes().repeat(VALUE_LIMIT_BYTES / 2);
        const VALUES: u16 = 400;
        for number in 0..VALUES {
            engine.write(BTreeMap::from([(number.to_be_bytes().to_vec(), Some(value(number)))])).unwrap();
        }
        engine.close().unwrap();
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
            let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(|_| Ok(()))).unwrap();
            for round in 0..ROUNDS {
                let kept = format!("kept {:04}", round * 7 % ROUNDS).into_bytes();
                let [byte, _] = round.to_le_bytes();
                let busy = (b"busy".to_vec(), Some(vec![byte; BUSY_BYTES]));
                engine.write(BTreeMap::from([(kept, Some(vec![1; 1000])), busy])).unwrap();
                while cleans && engine.clean().unwrap() {}
            }
            engine.settle().unwrap();
            assert_eq!(seen(&engine).len(), usize::from(ROUNDS) + 1);
            std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len()
        };
        let (with, without) = (taken(true), taken(false));
        assert!(with * 2 < without, "{with} bytes with cleaning, {without} without");
    }

    /// Everything there is, both ways and one by one.
    fn seen(engine: &Engine) -> Vec<Entry> {
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
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(sync)).unwrap();
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
        let mut engine = Engine::open(dir.path(), 1 << 20, Box::new(File::sync_data)).unwrap();
        write(&mut engine, Some(3 * PIECE_BYTES));
        engine.db.remove(rest_key(b"key", 1)).unwrap();
        assert!(matches!(engine.get(b"key"), Err(Fault::Unreadable(_))));
    }

    #[test]
    fn a_panic_inside_is_a_fault_and_names_the_system_only_when_it_was_the_system() {
        let disk = io::Error::from_raw_os_error(5);
        let fault = guarded::<()>(|| panic!("called `Result::unwrap()` on an `Err` value: {disk:?}"));
        assert!(matches!(fault, Err(Fault::System(_))), "{fault:?}");
        let fault = guarded::<()>(|| panic!("index out of bounds"));
        assert!(matches!(fault, Err(Fault::Unreadable(_))), "{fault:?}");
    }
}

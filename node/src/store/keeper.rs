//! The thread that owns the database: it groups commits, makes them durable, answers, and cleans up in between.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::engine::{Changes, Engine, Fault};
use super::health::{Health, lock};
use super::session::Session;
use super::{KEY_LIMIT_BYTES, Op, StoreError, VALUE_LIMIT_BYTES};

/// A group is closed when it has this many bytes. A disk sync costs as much as writing about that much, so a larger
/// group would make everybody wait longer without getting more done.
const GROUP_BYTES: usize = 1024 * 1024;

/// What a change counts beside its key and value, so that a group of many tiny changes ends too.
const CHANGE_OVERHEAD_BYTES: usize = 64;

/// How often free space is looked at: other programs change it too, and asking costs microseconds.
const SPACE_CHECK_PERIOD: Duration = Duration::from_secs(1);

const ENGINE_LIVES: &str = "the engine is there until the keeper is dropped";

/// While commits wait, cleaning up takes no more than one in so many parts of the time that writing takes. Whoever waits
/// hardly notices, and a page is rewritten in a fraction of the time of a commit.
const CLEANING_SHARE: u32 = 8;

pub(super) enum Message {
    Commit(Commit),
    Read(Query),
    Close,
}

/// Reads from the engine and answers whoever asked.
type Query = Box<dyn FnOnce(&dyn Engine) + Send>;

pub(super) struct Commit {
    pub(super) ops: Vec<Op>,
    pub(super) done: Done,
}

/// A committer's callback. It is called with [`StoreError::Closed`] if it is dropped, so that no committer waits for ever.
pub(super) struct Done(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Done {
    pub(super) fn new(callback: impl FnOnce(Result<(), StoreError>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    fn call(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let Some(done) = self.0.take() else { return };
        // Another callback may be panicking, and a second panic during unwinding would abort the process.
        if catch_unwind(AssertUnwindSafe(|| done(Err(StoreError::Closed)))).is_err() {
            tracing::error!("a callback panicked when it was told that the store is closed");
        }
    }
}

/// The directory of a store that is open.
pub(super) struct Place {
    pub(super) dir: PathBuf,
    /// Held while the engine lives.
    pub(super) lock: File,
    pub(super) session: Session,
    pub(super) min_free_bytes: u64,
}

/// The state of the store's thread.
pub(super) struct Keeper {
    inbox: Receiver<Message>,
    health: Arc<Mutex<Health>>,
    /// `Some` until the keeper is dropped.
    engine: Option<Box<dyn Engine>>,
    /// `None` for an engine in memory.
    place: Option<Place>,
    next_space_check: Instant,
    /// Acknowledges commits without writing them, for benches.
    forgets: bool,
    /// Pages were cleaned up since the last commit.
    cleaned: bool,
}

impl Keeper {
    pub(super) fn new(
        inbox: Receiver<Message>,
        health: Arc<Mutex<Health>>,
        engine: Box<dyn Engine>,
        place: Option<Place>,
        forgets: bool,
    ) -> Self {
        let next_space_check = Instant::now();
        let mut keeper =
            Self { inbox, health, engine: Some(engine), place, next_space_check, forgets, cleaned: false };
        keeper.check_space_if_due();
        keeper
    }

    pub(super) fn run(mut self) {
        let mut next = None;
        loop {
            let message = match next.take() {
                Some(message) => Ok(message),
                None => self.wait(),
            };
            match message {
                Ok(Message::Commit(commit)) => {
                    let begun = Instant::now();
                    next = self.commit_group(commit);
                    self.clean_until(Instant::now() + begun.elapsed() / CLEANING_SHARE);
                }
                Ok(Message::Read(query)) => query(self.engine()),
                Ok(Message::Close) | Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => self.sync_cleaned(),
            }
            self.check_space_if_due();
        }
    }

    /// Waits for the next message, and cleans up meanwhile.
    fn wait(&mut self) -> Result<Message, RecvTimeoutError> {
        loop {
            match self.inbox.try_recv() {
                Ok(message) => return Ok(message),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if self.clean() => {}
                Err(TryRecvError::Empty) => return self.inbox.recv_timeout(SPACE_CHECK_PERIOD),
            }
        }
    }

    fn clean_until(&mut self, end: Instant) {
        while Instant::now() < end && self.clean() {}
    }

    /// Cleans up one page. Returns false if there is nothing to clean up, or a write has failed.
    fn clean(&mut self) -> bool {
        if lock(&self.health).fault.is_some() {
            return false;
        }
        let cleaned = self.writing(|engine| engine.clean()).unwrap_or(false);
        self.cleaned |= cleaned;
        cleaned
    }

    /// Makes durable what was cleaned up, if no commit has done so since.
    fn sync_cleaned(&mut self) {
        if !std::mem::take(&mut self.cleaned) || lock(&self.health).fault.is_some() {
            return;
        }
        // A failure is kept in the store's health.
        let _ = self.writing(|engine| engine.sync_cleaned());
    }

    /// Writes this commit and those that wait behind it as one. Returns the first message that is not a commit.
    fn commit_group(&mut self, first: Commit) -> Option<Message> {
        let mut changes = Changes::new();
        let mut bytes = 0;
        let mut answers = Vec::new();
        let mut next = Some(Message::Commit(first));
        while let Some(Message::Commit(commit)) = next {
            let checked = commit.ops.iter().try_for_each(check_limits);
            if checked.is_ok() {
                bytes += add_changes(&mut changes, commit.ops);
            }
            answers.push((commit.done, checked));
            next = if bytes < GROUP_BYTES { self.inbox.try_recv().ok() } else { None };
        }
        let written = self.write(changes);
        for (done, checked) in answers {
            done.call(written.clone().and(checked));
        }
        next
    }

    fn write(&mut self, changes: Changes) -> Result<(), StoreError> {
        if let Some(fault) = &lock(&self.health).fault {
            return Err(fault.clone());
        }
        if changes.is_empty() || self.forgets {
            return Ok(());
        }
        let written = self.writing(|engine| engine.write(changes));
        self.cleaned = false;
        written
    }

    /// Runs `work`, which writes. While it runs, the store's health shows since when; if it fails, nothing is written any
    /// more.
    fn writing<T>(
        &mut self,
        work: impl FnOnce(&mut dyn Engine) -> Result<T, Fault>,
    ) -> Result<T, StoreError> {
        lock(&self.health).writing_since = Some(Instant::now());
        let engine = self.engine.as_deref_mut().expect(ENGINE_LIVES);
        let done = work(engine);
        lock(&self.health).writing_since = None;
        done.map_err(|fault| {
            let error = StoreError::from_write(fault);
            self.fail(&error);
            error
        })
    }

    fn fail(&self, error: &StoreError) {
        tracing::error!(store = self.name(), %error, "no write is acknowledged any more");
        lock(&self.health).fault.get_or_insert_with(|| error.clone());
    }

    /// After a failed write the disk may lack what the kernel's cache still shows: the session then stays open, so that the
    /// next opening compares the two.
    fn close_session(&self) {
        if lock(&self.health).fault.is_some() {
            return;
        }
        let Some(place) = &self.place else { return };
        if let Err(error) = place.session.close() {
            tracing::warn!(store = self.name(), %error, "the next start takes it for one after a crash");
        }
    }

    fn check_space_if_due(&mut self) {
        let now = Instant::now();
        if now < self.next_space_check {
            return;
        }
        self.next_space_check = now + SPACE_CHECK_PERIOD;
        let Some(place) = &self.place else { return };
        let low = low_space(&place.dir, place.min_free_bytes);
        let mut health = lock(&self.health);
        match (&health.low_space, &low) {
            (None, Some(error)) => tracing::warn!(store = self.name(), %error, "space runs low"),
            (Some(_), None) => tracing::info!(store = self.name(), "there is space again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        health.low_space = low;
    }

    fn engine(&self) -> &dyn Engine {
        self.engine.as_deref().expect(ENGINE_LIVES)
    }

    /// The store's name in log lines.
    fn name(&self) -> String {
        self.place.as_ref().map_or_else(|| "memory".to_owned(), |place| place.dir.display().to_string())
    }
}

impl Drop for Keeper {
    /// Runs after a callback's panic too, so that the handles learn that the thread has ended.
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            match engine.close() {
                Ok(()) => self.close_session(),
                Err(fault) => self.fail(&StoreError::from_write(fault)),
            }
        }
        lock(&self.health).fault.get_or_insert(StoreError::Closed);
        let Some(place) = &self.place else { return };
        if let Err(error) = place.lock.unlock() {
            tracing::warn!(store = self.name(), %error, "the store's lock stays until the process ends");
        }
    }
}

fn check_limits(op: &Op) -> Result<(), StoreError> {
    let (key, value_len) = match op {
        Op::Put { key, value } => (key, value.len()),
        Op::Delete { key } => (key, 0),
    };
    if key.len() > KEY_LIMIT_BYTES {
        return Err(StoreError::KeyTooLarge { len: key.len() });
    }
    if value_len > VALUE_LIMIT_BYTES {
        return Err(StoreError::ValueTooLarge { len: value_len });
    }
    Ok(())
}

/// Adds a commit's changes, of which later ones of a key replace earlier ones. Returns their size in bytes.
fn add_changes(changes: &mut Changes, ops: Vec<Op>) -> usize {
    let mut bytes = CHANGE_OVERHEAD_BYTES;
    for op in ops {
        let (key, value) = match op {
            Op::Put { key, value } => (key, Some(value)),
            Op::Delete { key } => (key, None),
        };
        bytes += CHANGE_OVERHEAD_BYTES + key.len() + value.as_ref().map_or(0, Vec::len);
        changes.insert(key, value);
    }
    bytes
}

fn low_space(dir: &Path, min_free_bytes: u64) -> Option<StoreError> {
    let detail = match rustix::fs::statvfs(dir) {
        Ok(found) => {
            let free = found.f_bavail.saturating_mul(found.f_frsize);
            if free >= min_free_bytes {
                return None;
            }
            format!("{free} bytes are free at {}, {min_free_bytes} are wanted: free some", dir.display())
        }
        Err(error) => format!("how much is free at {} cannot be told: {error}", dir.display()),
    };
    Some(StoreError::Full { detail })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;
    use crate::store::engine::disk::DATABASE_FILE;
    use crate::store::engine::memory::{MemoryDisk, MemoryEngine};
    use crate::store::health::STALL_LIMIT;
    use crate::store::{Options, Store};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn put(key: &str) -> Vec<Op> {
        vec![Op::Put { key: key.into(), value: b"value".to_vec() }]
    }

    fn commit(store: &Store, ops: Vec<Op>) -> Result<(), StoreError> {
        let (answer, answered) = mpsc::channel();
        store.commit(ops, move |result| answer.send(result).unwrap());
        answered.recv_timeout(PATIENCE).unwrap()
    }

    fn in_memory(sync: impl FnMut() -> io::Result<()> + Send + 'static) -> Store {
        Store::in_memory(MemoryEngine::open(&MemoryDisk::default(), Box::new(sync)))
    }

    /// A store whose third sync fails and whose later ones would succeed.
    fn failing_once(errno: i32) -> (Store, Arc<AtomicUsize>) {
        let syncs = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&syncs);
        let store = in_memory(move || match counted.fetch_add(1, Ordering::Relaxed) {
            2 => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(()),
        });
        (store, syncs)
    }

    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;

    #[test]
    fn after_one_failed_sync_no_commit_is_acknowledged_or_even_tried() {
        let (store, syncs) = failing_once(EIO);
        commit(&store, put("a")).unwrap();
        commit(&store, put("b")).unwrap();
        let failed = commit(&store, put("c"));
        assert!(
            matches!(&failed, Err(StoreError::Write { detail }) if detail.contains("Input/output")),
            "{failed:?}"
        );
        assert_eq!(store.healthy(), failed);
        assert_eq!(commit(&store, put("d")), failed);
        assert_eq!(commit(&store, vec![]), failed, "not even one that writes nothing");
        assert_eq!(syncs.load(Ordering::Relaxed), 3);

        let mut keys = Vec::new();
        store.load(b"", |key, _| keys.push(key.to_vec())).unwrap();
        assert_eq!(keys, [b"a", b"b"], "reads show what was there before");
        assert_eq!(store.close(), failed);
    }

    #[test]
    fn a_whole_group_fails_together() {
        let (store, _) = failing_once(EIO);
        commit(&store, put("a")).unwrap();
        let (release, released) = mpsc::channel::<()>();
        let (enter, entered) = mpsc::channel();
        store.commit(put("b"), move |_| {
            enter.send(()).unwrap();
            released.recv().unwrap();
        });
        entered.recv_timeout(PATIENCE).unwrap();
        let (answer, answers) = mpsc::channel();
        for n in 0..10 {
            let answer = answer.clone();
            store.commit(put(&n.to_string()), move |result| answer.send(result).unwrap());
        }
        drop(answer);
        release.send(()).unwrap();
        let answers: Vec<_> = answers.iter().collect();
        assert_eq!(answers.len(), 10);
        assert!(answers.iter().all(Result::is_err), "{answers:?}");
    }

    #[test]
    fn a_write_that_finds_no_space_is_full_for_good() {
        let (store, _) = failing_once(ENOSPC);
        commit(&store, put("a")).unwrap();
        commit(&store, put("b")).unwrap();
        let failed = commit(&store, put("c"));
        assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
        assert_eq!(commit(&store, put("d")), failed);
        assert_eq!(store.healthy(), failed);
    }

    #[test]
    fn a_write_that_does_not_end_is_reported_until_it_does() {
        let (enter, entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let store = in_memory(move || {
            enter.send(()).unwrap();
            released.recv().unwrap();
            Ok(())
        });
        let (answer, answered) = mpsc::channel();
        store.commit(put("a"), move |result| answer.send(result).unwrap());
        entered.recv_timeout(PATIENCE).unwrap();
        let later = || Instant::now() + STALL_LIMIT + Duration::from_secs(1);
        assert!(matches!(lock(store.health()).at(later()), Err(StoreError::Stalled { .. })));
        release.send(()).unwrap();
        answered.recv_timeout(PATIENCE).unwrap().unwrap();
        // Looking for something to clean up counts as writing too.
        let since = Instant::now();
        while lock(store.health()).at(later()).is_err() {
            assert!(since.elapsed() < PATIENCE, "the write has ended");
            thread::yield_now();
        }
    }

    /// Values that are written once lie between values that are written again and again. How much is cleaned up between two
    /// commits depends on the machine; without cleaning, the file has two fifths of what was written. The engine's own test
    /// is exact.
    #[test]
    fn space_that_is_of_no_use_any_more_is_used_again() {
        const ROUNDS: u32 = 1200;
        const BUSY_BYTES: usize = 32 * 1024;
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let store = Store::open_with(dir.path(), options, || Box::new(|_| Ok(()))).unwrap().store;
        let put = |key: String, byte: u8, len| Op::Put { key: key.into_bytes(), value: vec![byte; len] };
        for round in 0..ROUNDS {
            let kept = put(format!("kept {:04}", round * 7 % ROUNDS), 1, 1000);
            let [byte, ..] = round.to_le_bytes();
            commit(&store, vec![kept, put("busy".to_owned(), byte, BUSY_BYTES)]).unwrap();
        }
        let written = u64::from(ROUNDS) * BUSY_BYTES as u64;
        let taken = std::fs::metadata(dir.path().join(DATABASE_FILE)).unwrap().len();
        assert!(taken < written * 3 / 8, "{taken} bytes are taken, {written} were written");
        let mut kept = 0;
        store.load(b"kept ", |_, value| kept += usize::from(value == [1; 1000])).unwrap();
        assert_eq!(kept, ROUNDS as usize);
    }
}

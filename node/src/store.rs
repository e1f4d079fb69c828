//! The node's durable memory: an ordered map from keys to values on the local disk.
//!
//! One plain thread owns the database; a [`Store`] is a handle to its inbox. The thread takes everything that waits
//! there, writes it as one batch, makes it durable, and only then tells each writer, in the order in which they came.
//! So a slow disk makes groups larger instead of queues longer, and a write that was answered with `Ok` survives a
//! power cut. Reads go through the same inbox: they see every write queued before them, and nothing that is not
//! durable. That holds after a failed write too: they show what was there before it. While nothing waits, the thread
//! cleans up behind what was written; while something does, for an eighth of the time that writing takes.
//!
//! Trouble has three shapes. A store that is *unreadable* when it is opened, or that has lost commits which were
//! acknowledged, is set aside under a dated name and replaced by an empty one ([`Opened::set_aside`]). A *failed write*
//! is final: nothing is acknowledged any more until the store is opened anew, because after a failed fdatasync nobody
//! knows what is on the disk. Whoever opens it looks at the disk past the kernel's cache. A disk that is *nearly full* is only reported ([`Store::healthy`]): commits go on, and the
//! caller decides what to refuse.
//!
//! A commit that failed, or whose answer was cut off by a crash, may still be found after the next start, whole or not
//! at all. It is unknown, not undone.
//!
//! Architecture invariant: nothing outside this module knows which database this is.

mod cache;
mod engine;
mod mark;
mod opening;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::store::cache::Session;
use crate::store::engine::{Engine, Fault, Stretch, SyncFile};

/// The largest value. Larger things belong into files of their own, named by a record here: a value is written again
/// with each neighbour that changes.
pub const VALUE_LIMIT_BYTES: usize = 64 * 1024;

/// The longest key: a kind, a job and a number take a quarter of it.
pub const KEY_LIMIT_BYTES: usize = 256;

/// A group is closed when it has this many bytes. A disk sync costs as much as writing about that much, so larger
/// groups would make everybody wait longer without getting more done.
const GROUP_BYTES: usize = 1024 * 1024;

/// What a change is counted as beside its key and value, so that a group of many tiny ones ends too.
const CHANGE_OVERHEAD_BYTES: usize = 64;

/// A recovery reads this much at a time, so that it never holds a second copy of everything.
const LOAD_PAGE_BYTES: usize = 1024 * 1024;

/// Free space changes by other programs' doing too; asking costs microseconds, once a second is soon enough.
const SPACE_CHECK_PERIOD: Duration = Duration::from_secs(1);

/// A single write that takes longer counts as trouble: a healthy disk needs milliseconds, a busy one seconds.
const STALL_LIMIT: Duration = Duration::from_secs(30);

/// While commits wait, cleaning up takes no more than this part (one in so many) of the time that writing takes: who waits
/// hardly sees it, and a page is written again in a fraction of the time of a commit.
const CLEANING_SHARE: u32 = 8;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// How much memory the database may use for pages, roughly.
    pub cache_bytes: u64,
    /// Below this much free space on the store's file system, [`Store::healthy`] reports [`StoreError::Full`].
    pub min_free_bytes: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, whether it was there or not.
    Put {
        /// At most [`KEY_LIMIT_BYTES`].
        key: Vec<u8>,
        /// At most [`VALUE_LIMIT_BYTES`].
        value: Vec<u8>,
    },
    /// Removes a key, if it is there.
    Delete {
        /// At most [`KEY_LIMIT_BYTES`].
        key: Vec<u8>,
    },
}

/// A store that was opened.
#[derive(Debug)]
pub struct Opened {
    /// The handle to it.
    pub store: Store,
    /// Where the store that was here before is now, if it could not be read; [`Opened::store`] is empty then.
    pub set_aside: Option<PathBuf>,
}

/// What can go wrong with the store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open. Nothing was touched.
    #[error("the store {} is in use by another process: stop that one, or choose another directory", dir.display())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
    },
    /// The operating system would not let it be opened. Nothing was set aside.
    #[error("the store {} cannot be opened ({detail}): mend the cause and start again", dir.display())]
    Open {
        /// The store's directory.
        dir: PathBuf,
        /// What the operating system said.
        detail: String,
    },
    /// A write failed: this one and all later ones are not acknowledged. Reads go on, from before that write.
    #[error("the store cannot write ({detail}): nothing is saved until it is opened anew; check the disk")]
    Write {
        /// What went wrong.
        detail: String,
    },
    /// An entry could not be read. It stays unreadable, the others need not be.
    #[error("the store cannot read ({detail}): check the disk; a restart sets an unreadable store aside")]
    Read {
        /// What went wrong.
        detail: String,
    },
    /// No room: either too little is left, and commits still work, or a write hit the end, and is treated like
    /// [`StoreError::Write`].
    #[error("the store's disk is full ({detail})")]
    Full {
        /// How much there is, and what to do.
        detail: String,
    },
    /// A write is taking so long that the disk must be stuck. It may still come to an end, with any result.
    #[error("the store has been writing for {seconds} s without an end: check the disk")]
    Stalled {
        /// How long it has been at it.
        seconds: u64,
    },
    /// A value in the commit was over the limit. None of the commit was written.
    #[error("a value of {len} bytes is over the store's limit of {VALUE_LIMIT_BYTES}: keep it in a file")]
    ValueTooLarge {
        /// How long it is.
        len: usize,
    },
    /// A key in the commit was over the limit. None of the commit was written.
    #[error("a key of {len} bytes is over the store's limit of {KEY_LIMIT_BYTES}: choose shorter ones")]
    KeyTooLarge {
        /// How long it is.
        len: usize,
    },
    /// The store was closed, or its thread died.
    #[error("the store is closed: restart the node")]
    Closed,
}

/// A handle to the store's thread. Clones are handles to the same thread; when the last one is dropped, the thread
/// finishes what was queued, and the drop returns when it has.
#[derive(Debug, Clone)]
pub struct Store {
    line: Arc<Line>,
}

impl Store {
    /// Opens the store in a directory, which is created if it is missing, and reads all of it once to be sure that
    /// it can be read. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::Open`] or [`StoreError::Full`] if the operating
    /// system refuses. A store that cannot be read is no error, see [`Opened::set_aside`].
    pub fn open(dir: &Path, options: Options) -> Result<Opened, StoreError> {
        Store::open_with(dir, options, || Box::new(File::sync_data))
    }

    /// A store that acknowledges every commit at once and keeps none of it: what a node costs without its disk. Only
    /// for benches; no setting of a node leads here.
    #[doc(hidden)]
    pub fn forgetful(dir: &Path, options: Options) -> Result<Opened, StoreError> {
        Store::start(dir, options, || Box::new(File::sync_data), true)
    }

    pub(crate) fn open_with(
        dir: &Path,
        options: Options,
        sync: impl Fn() -> SyncFile + Sync,
    ) -> Result<Opened, StoreError> {
        Store::start(dir, options, sync, false)
    }

    fn start(
        dir: &Path,
        options: Options,
        sync: impl Fn() -> SyncFile + Sync,
        forgets: bool,
    ) -> Result<Opened, StoreError> {
        let dir = std::path::absolute(dir).map_err(|error| StoreError::from_open(dir, &error))?;
        let begun = Instant::now();
        let opened = opening::open(&dir, |dir| Engine::open(dir, options.cache_bytes, sync()))?;
        tracing::debug!(store = %dir.display(), took = ?begun.elapsed(), "store opened and read");

        let health = Arc::new(Mutex::new(Health::default()));
        let (sender, inbox) = mpsc::channel();
        let mut keeper = Keeper {
            inbox,
            health: Arc::clone(&health),
            min_free_bytes: options.min_free_bytes,
            next_space_check: begun,
            engine: Some(opened.engine),
            forgets,
            cleaned: false,
            lock: opened.lock,
            session: opened.session,
            dir: dir.clone(),
        };
        keeper.check_space_if_due();
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || keeper.run())
            .map_err(|error| StoreError::from_open(&dir, &error))?;
        let line = Line { sender, health, thread: Mutex::new(Some(thread)) };
        Ok(Opened { store: Store { line: Arc::new(line) }, set_aside: opened.set_aside })
    }

    /// Queues changes to be made as one, in their order, and returns at once. `done` is called exactly once, on the
    /// store's thread and in the order of the commits, with `Ok` when the changes are durable. It must be short: all
    /// others wait for it. If the store is closed it may be called on any thread, with [`StoreError::Closed`].
    ///
    /// The queue has no limit of its own, because the drivers that call this must not block: whoever commits bounds
    /// how many commits it has in flight.
    pub fn commit(&self, ops: Vec<Op>, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        // A message that is not delivered comes back and answers `Closed` as it is dropped.
        let _ = self.line.sender.send(Message::Commit(Commit { ops, done: Done(Some(Box::new(done))) }));
    }

    /// The value of a key. Asked for at once, as all reads are: who has something else to do may await it later.
    pub fn get(&self, key: Vec<u8>) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + use<> {
        self.read(move |engine| engine.get(&key))
    }

    /// Up to `limit` entries whose keys start with `prefix`, in the order of their keys or against it, from the first
    /// one past the full key `start_after`. The thread does nothing else meanwhile: ask for a page, not for everything.
    pub fn scan(
        &self,
        prefix: Vec<u8>,
        start_after: Option<Vec<u8>>,
        reverse: bool,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Entry>, StoreError>> + use<> {
        let stretch = Stretch { prefix, start_after, reverse };
        self.read(move |engine| engine.page(&stretch, limit, usize::MAX))
    }

    /// Shows `each` all entries whose keys start with `prefix`, in order. Blocks, for recovery before anything else
    /// runs: what is committed meanwhile may or may not be seen.
    pub fn load(&self, prefix: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        let mut stretch = Stretch { prefix: prefix.to_vec(), start_after: None, reverse: false };
        loop {
            let wanted = stretch.clone();
            let (answer, page) = mpsc::sync_channel(1);
            self.ask(
                move |engine| engine.page(&wanted, usize::MAX, LOAD_PAGE_BYTES),
                move |result| {
                    // Nobody waits any more: nobody misses it.
                    let _ = answer.send(result);
                },
            );
            let page = page.recv().unwrap_or(Err(StoreError::Closed))?;
            for (key, value) in &page {
                each(key, value);
            }
            let Some((last, _)) = page.into_iter().next_back() else { return Ok(()) };
            stretch.start_after = Some(last);
        }
    }

    /// Whether the store can be relied on: not after a failed write, while one is stuck or when it is closed, and not
    /// without limits when space runs low ([`StoreError::Full`]). Costs next to nothing; free space is looked at once
    /// a second.
    pub fn healthy(&self) -> Result<(), StoreError> {
        lock(&self.line.health).at(Instant::now())
    }

    /// Finishes what was queued before, closes the database and waits for that; the other handles are closed too.
    /// Gives the error if there was a failed write. Blocks, unless it is called by a `done`.
    pub fn close(self) -> Result<(), StoreError> {
        self.line.close();
        match &lock(&self.line.health).fault {
            None | Some(StoreError::Closed) => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    fn read<T: Send + 'static, Q: FnOnce(&Engine) -> Result<T, Fault> + Send + 'static>(
        &self,
        query: Q,
    ) -> impl Future<Output = Result<T, StoreError>> + use<T, Q> {
        let (answer, result) = oneshot::channel();
        self.ask(query, move |result| {
            // The one who asked has gone away: nobody misses it.
            let _ = answer.send(result);
        });
        async { result.await.unwrap_or(Err(StoreError::Closed)) }
    }

    fn ask<T>(
        &self,
        query: impl FnOnce(&Engine) -> Result<T, Fault> + Send + 'static,
        answer: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        // A message that is not delivered drops `answer`, and whoever waits for that takes it as `Closed`.
        let _ = self.line.sender.send(Message::Read(Box::new(move |engine| {
            answer(query(engine).map_err(StoreError::from_read));
        })));
    }
}

/// What all handles to one thread share.
#[derive(Debug)]
struct Line {
    sender: Sender<Message>,
    health: Arc<Mutex<Health>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Line {
    fn close(&self) {
        // If it is not delivered, the thread has ended already.
        let _ = self.sender.send(Message::Close);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread
            && thread.thread().id() != thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.close();
    }
}

#[derive(Debug, Default)]
struct Health {
    /// For good: a failed write, or closed.
    fault: Option<StoreError>,
    /// For as long as it is so.
    low_space: Option<StoreError>,
    writing_since: Option<Instant>,
}

impl Health {
    fn at(&self, now: Instant) -> Result<(), StoreError> {
        let writing_for =
            self.writing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let stalled =
            (writing_for > STALL_LIMIT).then_some(StoreError::Stalled { seconds: writing_for.as_secs() });
        self.fault.clone().or(stalled).or_else(|| self.low_space.clone()).map_or(Ok(()), Err)
    }
}

enum Message {
    Commit(Commit),
    Read(Box<dyn FnOnce(&Engine) + Send>),
    Close,
}

struct Commit {
    ops: Vec<Op>,
    done: Done,
}

/// A writer's callback. It answers even if it is only dropped, so that no writer waits for ever.
struct Done(Option<Callback>);

type Callback = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

impl Done {
    fn call(mut self, result: Result<(), StoreError>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        let Some(done) = self.0.take() else { return };
        // This may be the unwinding from another callback's panic, where a second one would abort the process.
        if catch_unwind(AssertUnwindSafe(|| done(Err(StoreError::Closed)))).is_err() {
            tracing::error!("a callback panicked when it was told that the store is closed");
        }
    }
}

/// The thread's side.
struct Keeper {
    inbox: Receiver<Message>,
    health: Arc<Mutex<Health>>,
    min_free_bytes: u64,
    next_space_check: Instant,
    /// There until the end.
    engine: Option<Engine>,
    /// See [`Store::forgetful`].
    forgets: bool,
    /// Since the last commit.
    cleaned: bool,
    lock: File,
    session: Session,
    dir: PathBuf,
}

impl Keeper {
    fn run(mut self) {
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
                Err(RecvTimeoutError::Timeout) => self.settle(),
            }
            self.check_space_if_due();
        }
    }

    /// What comes next; while nothing does, there is time to clean up.
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

    /// Cleans up a little; false if there is nothing to clean up, or no write is trusted any more.
    fn clean(&mut self) -> bool {
        if lock(&self.health).fault.is_some() {
            return false;
        }
        let cleaned = self.writing(|engine| engine.clean()).unwrap_or(false);
        self.cleaned |= cleaned;
        cleaned
    }

    /// What was cleaned up is made durable, when no commit has come for a while that did so.
    fn settle(&mut self) {
        if !std::mem::take(&mut self.cleaned) || lock(&self.health).fault.is_some() {
            return;
        }
        // Whether it went well is in the store's health.
        let _ = self.writing(Engine::settle);
    }

    /// Writes this commit and those that wait behind it as one. Gives back the first message that is something else.
    fn commit_group(&mut self, first: Commit) -> Option<Message> {
        let mut changes = BTreeMap::new();
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

    fn write(&mut self, changes: BTreeMap<Vec<u8>, Option<Vec<u8>>>) -> Result<(), StoreError> {
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

    /// Does what writes: meanwhile it can be seen how long it takes, and if it fails nothing is written any more.
    fn writing<T>(&mut self, work: impl FnOnce(&mut Engine) -> Result<T, Fault>) -> Result<T, StoreError> {
        lock(&self.health).writing_since = Some(Instant::now());
        let done = work(self.engine_mut());
        lock(&self.health).writing_since = None;
        done.map_err(|fault| {
            let error = StoreError::from_write(fault);
            self.fail(&error);
            error
        })
    }

    fn fail(&self, error: &StoreError) {
        tracing::error!(store = %self.dir.display(), %error, "no write is acknowledged any more");
        lock(&self.health).fault.get_or_insert_with(|| error.clone());
    }

    /// After a failed write the disk may lack what the kernel still shows: the session stays open, and whoever opens the
    /// store next looks at the disk itself.
    fn close_session(&self) {
        if lock(&self.health).fault.is_some() {
            return;
        }
        if let Err(error) = self.session.close() {
            tracing::warn!(store = %self.dir.display(), %error, "the next start takes it for one after a crash");
        }
    }

    fn check_space_if_due(&mut self) {
        let now = Instant::now();
        if now < self.next_space_check {
            return;
        }
        self.next_space_check = now + SPACE_CHECK_PERIOD;
        let low = low_space(&self.dir, self.min_free_bytes);
        let mut health = lock(&self.health);
        match (&health.low_space, &low) {
            (None, Some(error)) => tracing::warn!(store = %self.dir.display(), %error, "space runs low"),
            (Some(_), None) => tracing::info!(store = %self.dir.display(), "there is space again"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        health.low_space = low;
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine is there until the thread ends")
    }

    fn engine_mut(&mut self) -> &mut Engine {
        self.engine.as_mut().expect("the engine is there until the thread ends")
    }
}

impl Drop for Keeper {
    /// Also when a callback panicked: the handles must learn that nobody is there any more.
    fn drop(&mut self) {
        if let Some(engine) = self.engine.take() {
            match engine.close() {
                Ok(()) => self.close_session(),
                Err(fault) => self.fail(&StoreError::from_write(fault)),
            }
        }
        lock(&self.health).fault.get_or_insert(StoreError::Closed);
        if let Err(error) = self.lock.unlock() {
            tracing::warn!(store = %self.dir.display(), %error, "the store's lock stays until the process ends");
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

/// Later changes of a key replace earlier ones. Gives their size.
fn add_changes(changes: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>, ops: Vec<Op>) -> usize {
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

impl StoreError {
    fn from_open(dir: &Path, error: &io::Error) -> StoreError {
        if is_full(error) {
            let detail =
                format!("{} cannot be opened: {error}; free some space, then start again", dir.display());
            return StoreError::Full { detail };
        }
        StoreError::Open { dir: dir.to_owned(), detail: error.to_string() }
    }

    fn from_open_fault(dir: &Path, fault: Fault) -> StoreError {
        match fault {
            Fault::System(error) => StoreError::from_open(dir, &error),
            Fault::Unreadable(detail) => StoreError::Open { dir: dir.to_owned(), detail },
        }
    }

    fn from_write(fault: Fault) -> StoreError {
        match fault {
            Fault::System(error) if is_full(&error) => StoreError::Full {
                detail: format!("{error}: nothing is saved until it is opened anew; free some space"),
            },
            Fault::System(error) => StoreError::Write { detail: error.to_string() },
            Fault::Unreadable(detail) => StoreError::Write { detail },
        }
    }

    fn from_read(fault: Fault) -> StoreError {
        let detail = match fault {
            Fault::System(error) => error.to_string(),
            Fault::Unreadable(detail) => detail,
        };
        StoreError::Read { detail }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds one of the store's locks")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn put(key: &str) -> Vec<Op> {
        vec![Op::Put { key: key.into(), value: b"value".to_vec() }]
    }

    fn commit(store: &Store, ops: Vec<Op>) -> Result<(), StoreError> {
        let (answer, answered) = mpsc::channel();
        store.commit(ops, move |result| answer.send(result).unwrap());
        answered.recv_timeout(PATIENCE).unwrap()
    }

    /// A store whose disk fails at the third sync and is fine again afterwards.
    fn failing_once(dir: &Path, errno: i32) -> (Store, Arc<AtomicUsize>) {
        let syncs = Arc::new(AtomicUsize::new(0));
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let opened = Store::open_with(dir, options, || {
            let syncs = Arc::clone(&syncs);
            Box::new(move |file| match syncs.fetch_add(1, Ordering::Relaxed) {
                2 => Err(io::Error::from_raw_os_error(errno)),
                _ => file.sync_data(),
            })
        });
        (opened.unwrap().store, syncs)
    }

    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;

    #[test]
    fn after_one_failed_sync_no_commit_is_acknowledged_or_even_tried() {
        let dir = tempfile::tempdir().unwrap();
        let (store, syncs) = failing_once(dir.path(), EIO);
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
        assert!(keys.starts_with(&[b"a".to_vec(), b"b".to_vec()]), "reads go on");
        assert!(!keys.contains(&b"d".to_vec()));
        assert_eq!(store.close(), failed);
    }

    #[test]
    fn a_whole_group_fails_together() {
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = failing_once(dir.path(), EIO);
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
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = failing_once(dir.path(), ENOSPC);
        commit(&store, put("a")).unwrap();
        commit(&store, put("b")).unwrap();
        let failed = commit(&store, put("c"));
        assert!(matches!(failed, Err(StoreError::Full { .. })), "{failed:?}");
        assert_eq!(commit(&store, put("d")), failed);
        assert_eq!(store.healthy(), failed);
    }

    #[test]
    fn a_write_that_does_not_end_is_reported_until_it_does() {
        let dir = tempfile::tempdir().unwrap();
        let (enter, entered) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let opened = Store::open_with(dir.path(), options, || {
            let (enter, released) = (enter.clone(), Arc::clone(&released));
            Box::new(move |_| {
                enter.send(()).unwrap();
                lock(&released).recv().unwrap();
                Ok(())
            })
        });
        let store = opened.unwrap().store;
        let (answer, answered) = mpsc::channel();
        store.commit(put("a"), move |result| answer.send(result).unwrap());
        entered.recv_timeout(PATIENCE).unwrap();
        let later = || Instant::now() + STALL_LIMIT + Duration::from_secs(1);
        assert!(matches!(lock(&store.line.health).at(later()), Err(StoreError::Stalled { .. })));
        release.send(()).unwrap();
        answered.recv_timeout(PATIENCE).unwrap().unwrap();
        // It may look just now whether there is something to clean up, which is writing too.
        let since = Instant::now();
        while lock(&store.line.health).at(later()).is_err() {
            assert!(since.elapsed() < PATIENCE, "the write has ended");
            thread::yield_now();
        }
    }

    /// What is written once lies between what is written again and again. How much is cleaned up while commits come one after
    /// the other depends on the machine; without any, two fifths of what was written are taken. The engine has an
    /// exact test.
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
        let taken = std::fs::metadata(dir.path().join(engine::DATABASE_FILE)).unwrap().len();
        assert!(taken < written * 3 / 8, "{taken} bytes are taken, {written} were written");
        let mut kept = 0;
        store.load(b"kept ", |_, value| kept += usize::from(value == [1; 1000])).unwrap();
        assert_eq!(kept, ROUNDS as usize);
    }
}

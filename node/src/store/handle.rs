//! The handle to a store: it queues commits and reads, and may be cloned.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use tokio::sync::oneshot;

use super::engine::disk::{DiskEngine, SyncFile};
#[cfg(test)]
use super::engine::memory::MemoryEngine;
use super::engine::{Engine, Fault, Stretch};
use super::health::{Health, lock};
use super::keeper::{Commit, Done, Keeper, Message, Place};
use super::opening::{self, IfUnreadable, Opening};
use super::{Entry, Op, StoreError};

/// A recovery reads this much at a time, so that it never holds a second copy of everything.
const LOAD_PAGE_BYTES: usize = 1024 * 1024;

#[derive(Debug, Clone)]
pub struct Options {
    /// How much memory the database may use for pages, roughly.
    pub cache_bytes: u64,
    /// With less free space than this on the store's file system, [`Store::healthy`] returns [`StoreError::Full`].
    pub min_free_bytes: u64,
}

#[derive(Debug)]
pub struct Opened {
    pub store: Store,
    /// Where the former store is now, if it could not be read; [`Opened::store`] is empty then.
    pub set_aside: Option<PathBuf>,
}

/// A handle to the store's thread. Clones are handles to the same thread. Dropping the last one blocks until the thread
/// has finished what was queued.
#[derive(Debug, Clone)]
pub struct Store {
    line: Arc<Line>,
}

impl Store {
    /// Opens the store in a directory, which is created if it is missing, and reads all of it once to make sure that it is
    /// readable. Blocks.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::Open`] or [`StoreError::Full`] if the operating
    /// system refuses. An unreadable store is not an error, see [`Opened::set_aside`].
    pub fn open(dir: &Path, options: Options) -> Result<Opened, StoreError> {
        Store::open_with(dir, options, || Box::new(File::sync_data))
    }

    /// The same, but an unreadable store is [`StoreError::Open`] and stays where it is.
    pub(super) fn open_as_it_is(dir: &Path, options: Options) -> Result<Store, StoreError> {
        let sync = || Box::new(File::sync_data) as SyncFile;
        Store::start(dir, options, sync, IfUnreadable::Refuse, false).map(|opened| opened.store)
    }

    /// A store that acknowledges every commit at once and writes none, for benches that measure a node without its disk.
    #[doc(hidden)]
    pub fn forgetful(dir: &Path, options: Options) -> Result<Opened, StoreError> {
        Store::start(dir, options, || Box::new(File::sync_data), IfUnreadable::SetAside, true)
    }

    pub(crate) fn open_with(
        dir: &Path,
        options: Options,
        sync: impl Fn() -> SyncFile + Sync,
    ) -> Result<Opened, StoreError> {
        Store::start(dir, options, sync, IfUnreadable::SetAside, false)
    }

    /// A store in memory, whose commits are durable once `engine` says so.
    #[cfg(test)]
    pub(crate) fn in_memory(engine: MemoryEngine) -> Store {
        Store::spawn(Box::new(engine), None, false).expect("the system gives a thread")
    }

    fn start(
        dir: &Path,
        options: Options,
        sync: impl Fn() -> SyncFile + Sync,
        if_unreadable: IfUnreadable,
        forgets: bool,
    ) -> Result<Opened, StoreError> {
        let dir = std::path::absolute(dir).map_err(|error| StoreError::from_open(dir, &error))?;
        let begun = Instant::now();
        let open = |dir: &Path| DiskEngine::open(dir, options.cache_bytes, sync());
        let Opening { engine, lock, session, set_aside } = opening::open(&dir, if_unreadable, open)?;
        tracing::debug!(store = %dir.display(), took = ?begun.elapsed(), "store opened and read");

        let place = Place { dir: dir.clone(), lock, session, min_free_bytes: options.min_free_bytes };
        let store = Store::spawn(Box::new(engine), Some(place), forgets)
            .map_err(|error| StoreError::from_open(&dir, &error))?;
        Ok(Opened { store, set_aside })
    }

    fn spawn(engine: Box<dyn Engine>, place: Option<Place>, forgets: bool) -> io::Result<Store> {
        let health = Arc::new(Mutex::new(Health::default()));
        let (sender, inbox) = mpsc::channel();
        let keeper = Keeper::new(inbox, Arc::clone(&health), engine, place, forgets);
        let thread = thread::Builder::new().name("store".to_owned()).spawn(move || keeper.run())?;
        let line = Line { sender, health, thread: Mutex::new(Some(thread)) };
        Ok(Store { line: Arc::new(line) })
    }

    /// Queues changes to be made as one, in their order, and returns at once. `done` is called exactly once, on the
    /// store's thread and in the order of the commits, with `Ok` when the changes are durable. It must return quickly: all
    /// others wait for it. If the store is closed, it may be called on any thread, with [`StoreError::Closed`].
    ///
    /// The queue has no limit of its own, because the drivers that call this must not block: the caller limits how many
    /// commits it has in flight.
    pub fn commit(&self, ops: Vec<Op>, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        // A message that is not delivered is dropped, which answers `Closed`.
        let _ = self.line.sender.send(Message::Commit(Commit { ops, done: Done::new(done) }));
    }

    /// The value of a key. Like every read, it is queued when this is called, not when the future is first polled.
    pub fn get(&self, key: Vec<u8>) -> impl Future<Output = Result<Option<Vec<u8>>, StoreError>> + use<> {
        self.read(move |engine| engine.get(&key))
    }

    /// Up to `limit` entries whose keys start with `prefix`, in ascending or descending order of their keys, from the first
    /// one past the full key `start_after`. The store's thread does nothing else meanwhile: ask for a page, not for
    /// everything.
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

    /// Passes all entries whose keys start with `prefix` to `each`, in order. Blocks, for recovery before anything else
    /// runs: what is committed meanwhile may or may not be included.
    pub fn load(&self, prefix: &[u8], mut each: impl FnMut(&[u8], &[u8])) -> Result<(), StoreError> {
        self.load_pages(prefix, |page| {
            page.iter().for_each(|(key, value)| each(key, value));
            Ok(())
        })
    }

    /// The same, one page of entries at a time. Ends with the first error of `each`.
    pub(super) fn load_pages<E: From<StoreError>>(
        &self,
        prefix: &[u8],
        mut each: impl FnMut(&[Entry]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut stretch = Stretch { prefix: prefix.to_vec(), start_after: None, reverse: false };
        loop {
            let wanted = stretch.clone();
            let (answer, page) = mpsc::sync_channel(1);
            self.ask(
                move |engine| engine.page(&wanted, usize::MAX, LOAD_PAGE_BYTES),
                move |result| {
                    // The receiver is gone only if this thread panicked.
                    let _ = answer.send(result);
                },
            );
            let page = page.recv().unwrap_or(Err(StoreError::Closed))?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            stretch.start_after = Some(last.clone());
            each(&page)?;
        }
    }

    /// An error if a write has failed or is stuck, if the store is closed, or if space runs low ([`StoreError::Full`]), in
    /// which case commits still work. Cheap: free space is looked at once a second.
    pub fn healthy(&self) -> Result<(), StoreError> {
        lock(&self.line.health).at(Instant::now())
    }

    /// Finishes what was queued before and closes the database, for the other handles too. Returns the error of a write that
    /// failed. Blocks, unless a `done` calls it.
    pub fn close(self) -> Result<(), StoreError> {
        self.line.close();
        match &lock(&self.line.health).fault {
            None | Some(StoreError::Closed) => Ok(()),
            Some(fault) => Err(fault.clone()),
        }
    }

    #[cfg(test)]
    pub(super) fn health(&self) -> &Mutex<Health> {
        &self.line.health
    }

    fn read<T: Send + 'static, Q: FnOnce(&dyn Engine) -> Result<T, Fault> + Send + 'static>(
        &self,
        query: Q,
    ) -> impl Future<Output = Result<T, StoreError>> + use<T, Q> {
        let (answer, result) = oneshot::channel();
        self.ask(query, move |result| {
            // The future was dropped: nobody waits for the answer.
            let _ = answer.send(result);
        });
        async { result.await.unwrap_or(Err(StoreError::Closed)) }
    }

    fn ask<T>(
        &self,
        query: impl FnOnce(&dyn Engine) -> Result<T, Fault> + Send + 'static,
        answer: impl FnOnce(Result<T, StoreError>) + Send + 'static,
    ) {
        // A message that is not delivered is dropped with `answer`, whose receiver takes that for `Closed`.
        let _ = self.line.sender.send(Message::Read(Box::new(move |engine| {
            answer(query(engine).map_err(StoreError::from_read));
        })));
    }
}

/// What all clones of a handle share.
#[derive(Debug)]
struct Line {
    sender: Sender<Message>,
    health: Arc<Mutex<Health>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Line {
    fn close(&self) {
        // Not delivered if the thread has ended already.
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

//! The handle through which clients' requests and slaves' links reach the master's loop, and the disk's records are read.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use reloop_node::entropy::random;
use reloop_node::link::Outbox;
use reloop_node::store::{Store, StoreError};
use reloop_protocol::id::{JobId, NewestId, OrderId, SlaveKey};
use reloop_protocol::master::{
    Answer, Event, IdempotencyKey, Job, JobCommand, Loaded, Master, Order, Receipt, RequestId, SlaveCommand,
    Token, Unknown,
};
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::Time;
use tokio::sync::{mpsc, oneshot};

use crate::changes::{Change, Changes, Subscription};
use crate::contacts::Contacts;
use crate::directory::Directory;
use crate::records;

/// How many inputs wait for the loop: past that a sender waits, which a client sees as latency.
pub(crate) const INBOX: usize = 4096;

/// After a failed write, how often the master tries whether the disk takes writes again. Long enough that a disk which
/// fails at every second write does not keep the master busy with restarting; until then reads are answered.
pub(crate) const MEND_PERIOD: Duration = Duration::from_secs(10);

/// How long a slave's answer or the disk may take before the client is told to try later.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

const SHUTTING_DOWN: &str = "the master is shutting down: try again in a moment";

/// Why there is no answer, for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// What reaches the loop.
pub(crate) enum Input {
    /// A slave connected, and was not sent a Challenge yet.
    LinkUp {
        link: LinkId,
        outbox: Outbox,
        /// What the slave has to sign.
        nonce: [u8; 32],
    },
    /// An event of a link.
    Link(Event),
    /// An event that a client waits for.
    Call {
        event: Event,
        request: RequestId,
        answer: oneshot::Sender<Answer>,
        /// What was read from disk for the event already.
        loaded: Loaded,
        /// A look at the state just after the event.
        look: Option<Look>,
    },
    Look(Look),
    /// Answered at once, as a sign that the loop is running.
    Alive(oneshot::Sender<()>),
    /// After a failed write: the state that was read again from the disk.
    Reread(Result<Box<Master>, StoreError>),
}

/// Reads the state, and returns what delivers the result once everything that was read is durable.
pub(crate) type Look = Box<dyn FnOnce(&Master, Time) -> Deliver + Send>;

/// Gives the result of a look to whoever waits for it.
pub(crate) type Deliver = Box<dyn FnOnce() + Send>;

/// What the loop tells the handles beside its answers.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) changes: Changes,
    pub(crate) contacts: Contacts,
    /// A write has failed.
    pub(crate) failed: Arc<AtomicBool>,
    /// How many slaves have seen a later state of this master.
    pub(crate) doubters: Arc<AtomicUsize>,
    pub(crate) directory: Arc<RwLock<Directory>>,
    /// Of all orders and jobs that are stored or were given an id.
    newest_id: Arc<Mutex<NewestId>>,
}

impl Shared {
    pub(crate) fn new(state: &Master) -> Self {
        let mut newest_id = NewestId::default();
        state.book.jobs.values().for_each(|job| newest_id.note(job.id.0));
        Self {
            newest_id: Arc::new(Mutex::new(newest_id)),
            changes: Changes::new(),
            contacts: Contacts::default(),
            failed: Arc::new(AtomicBool::new(false)),
            doubters: Arc::new(AtomicUsize::new(0)),
            directory: Arc::new(RwLock::new(Directory::of(state))),
        }
    }

    pub(crate) fn newest_id(&self) -> MutexGuard<'_, NewestId> {
        self.newest_id.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle to the loop. Clones share it.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    store: Store,
    shared: Shared,
    requests: Arc<AtomicU64>,
}

impl Handle {
    pub(crate) fn new(inbox: mpsc::Sender<Input>, store: Store, shared: Shared) -> Self {
        Self { inbox, store, shared, requests: Arc::new(AtomicU64::new(0)) }
    }

    /// Gives an order and this many jobs of it new ids, which sort after all that are stored; the jobs' are in ascending order.
    pub(crate) fn new_ids(&self, now: Time, jobs: usize) -> (OrderId, Vec<JobId>) {
        new_ids(&mut self.shared.newest_id(), now, jobs)
    }

    /// Looks up the newest ids on disk, before the first new one is given. Those of live jobs are known from the start.
    pub(crate) async fn note_stored_ids(&self) -> Result<(), StoreError> {
        let orders = records::orders(&self.store, None, 1).await?;
        let jobs = records::ended_jobs(&self.store, None, 1).await?;
        let mut newest = self.shared.newest_id();
        orders.iter().for_each(|order| newest.note(order.id.0));
        jobs.iter().for_each(|job| newest.note(job.id.0));
        Ok(())
    }

    /// Places an order. Answered when it is durable, together with what `look` read just after it was placed: a second
    /// request for that would wait for writes of others.
    ///
    /// The key is looked up on disk here, where many orders are prepared at the same time, and not in the loop.
    pub(crate) async fn place<T: Send + 'static>(
        &self,
        order: Order,
        key: Option<IdempotencyKey>,
        look: impl FnOnce(&Master, Time) -> T + Send + 'static,
    ) -> Result<(Answer, T), Unavailable> {
        let loaded = match &key {
            Some(IdempotencyKey { key, .. }) => {
                let unknown = Unknown { keys: BTreeSet::from([key.clone()]), ..Unknown::default() };
                in_time(records::look_up(&self.store, &unknown)).await?
            }
            None => Loaded::default(),
        };
        let (look, seen) = looking(look);
        let placed = |request| Event::OrderPlaced { request, order: Box::new(order), key };
        let answer = self.call_with(placed, loaded, Some(look)).await?;
        Ok((answer, seen.await.map_err(|_| self.no_answer())?))
    }

    /// Commands one job, or all jobs of an order.
    pub(crate) async fn command(&self, jobs: Vec<JobId>, command: JobCommand) -> Result<Answer, Unavailable> {
        self.call(|request| Event::JobsCommanded { request, jobs, command }).await
    }

    pub(crate) async fn slave_command(
        &self,
        slave: SlaveKey,
        command: SlaveCommand,
    ) -> Result<Answer, Unavailable> {
        self.call(|request| Event::SlaveCommanded { request, slave, command }).await
    }

    /// Asks a job's slave for at most `limit` bytes of its output.
    pub(crate) async fn log(
        &self,
        job: JobId,
        offset: Option<u64>,
        limit: u32,
    ) -> Result<Answer, Unavailable> {
        self.call(|request| Event::LogAsked { request, job, offset, limit }).await
    }

    /// Stores an enrolment token under the SHA-256 of its text.
    pub(crate) async fn make_token(&self, hash: [u8; 32], token: Token) -> Result<Answer, Unavailable> {
        self.call(|request| Event::TokenMade { request, hash, token }).await
    }

    /// Confirms that this copy of the master is the one in force; `forced` also if no slave doubts it.
    pub(crate) async fn confirm_restore(&self, forced: bool) -> Result<Answer, Unavailable> {
        self.call(|request| Event::RestoreConfirmed { request, forced }).await
    }

    /// Reads the state. Answered when everything that the result shows is durable.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Master, Time) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (look, seen) = looking(look);
        self.send(Input::Look(look)).await?;
        in_time(async { seen.await.map_err(|_| self.no_answer()) }).await
    }

    /// A job: from memory, with its progress, or from disk.
    pub(crate) async fn job(&self, id: JobId) -> Result<Option<Job>, Unavailable> {
        match self.read(move |state, _| state.book.jobs.get(&id).map(Cow::into_owned)).await? {
            Some(job) => Ok(Some(job)),
            None => in_time(records::ended_job(&self.store, id)).await,
        }
    }

    /// Jobs, newest first, older than `before`; live ones with their progress.
    pub(crate) async fn jobs(&self, before: Option<JobId>, limit: usize) -> Result<Vec<Job>, Unavailable> {
        // Memory first: a job that ends in between is then found twice, and not missed.
        let live = self.read(move |state, _| {
            let live = state.book.jobs.newest_first(before).take(limit);
            live.map(|job| (job.id, job.into_owned())).collect::<BTreeMap<_, _>>()
        });
        let mut jobs = live.await?;
        for ended in in_time(records::ended_jobs(&self.store, before, limit)).await? {
            // A job that was tried again is live, and its record as an ended job is out of date.
            jobs.entry(ended.id).or_insert(ended);
        }
        Ok(jobs.into_values().rev().take(limit).collect())
    }

    /// An order, from disk.
    pub(crate) async fn order(&self, id: OrderId) -> Result<Option<Order>, Unavailable> {
        in_time(records::order(&self.store, id)).await
    }

    /// Orders, newest first, older than `before`.
    pub(crate) async fn orders(
        &self,
        before: Option<OrderId>,
        limit: usize,
    ) -> Result<Vec<Order>, Unavailable> {
        in_time(records::orders(&self.store, before, limit)).await
    }

    /// A slave's receipts, newest first.
    pub(crate) async fn receipts(&self, slave: SlaveKey) -> Result<Vec<Receipt>, Unavailable> {
        in_time(records::receipts(&self.store, slave)).await
    }

    /// Whether orders can be taken.
    ///
    /// # Errors
    /// Why not, and what helps.
    pub(crate) fn healthy(&self) -> Result<(), String> {
        if self.has_failed() {
            return Err(format!(
                "the master could not write to its disk: check it; it is tried every {} s, and the master goes on \
                 when it takes writes again",
                MEND_PERIOD.as_secs()
            ));
        }
        self.store.healthy().map_err(|error| error.to_string())?;
        if self.inbox.is_closed() {
            return Err(SHUTTING_DOWN.to_owned());
        }
        Ok(())
    }

    /// Whether a write has failed: the master decides nothing more until it has restarted from its store.
    pub(crate) fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Relaxed)
    }

    /// Waits for an answer of the loop; false if the loop has ended.
    pub(crate) async fn is_alive(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Alive(answer)).await.is_ok() && answered.await.is_ok()
    }

    /// What to tell people while slaves have seen a later state of this master and nobody has confirmed a restore.
    pub(crate) fn doubt(&self) -> Option<String> {
        let doubters = self.shared.doubters.load(Ordering::Relaxed);
        (doubters > 0).then(|| {
            format!(
                "slaves that have seen a later state of this master: {doubters}. They take no orders from it. If its files \
                 were put back: `reloop restore confirm`; if another copy of it runs, stop one of the two"
            )
        })
    }

    /// When a slave was last heard, connected or not; `None` if it was not since this master started.
    pub(crate) fn last_heard(&self, slave: SlaveKey) -> Option<Time> {
        self.shared.contacts.last_heard(slave)
    }

    /// The slave whose key has this fingerprint, or else all slaves of this name.
    pub(crate) fn slaves_called(&self, name: &str) -> Vec<SlaveKey> {
        self.shared.directory.read().unwrap_or_else(PoisonError::into_inner).called(name)
    }

    /// Shows the slaves after `after`, sorted by name, until `show` returns `false`. `show` gets the place of each slave
    /// in that order, which serves as the next `after`.
    pub(crate) fn each_slave_after(&self, after: Option<&str>, show: impl FnMut(&str, SlaveKey) -> bool) {
        self.shared.directory.read().unwrap_or_else(PoisonError::into_inner).each_after(after, show);
    }

    /// Subscribes to the changes from now on.
    pub(crate) fn subscribe(&self) -> Subscription {
        self.shared.changes.subscribe()
    }

    /// The number of the newest change.
    pub(crate) fn newest_change(&self) -> u64 {
        self.shared.changes.newest()
    }

    /// The changes after `number`, and a subscription to those that follow. `None` if some of them are forgotten, or
    /// `number` is not one of this process.
    pub(crate) fn changes_since(&self, number: u64) -> Option<(Vec<(u64, Change)>, Subscription)> {
        self.shared.changes.since(number)
    }

    /// Waits until the inbox takes the input.
    pub(crate) async fn send(&self, input: Input) -> Result<(), Unavailable> {
        self.inbox.send(input).await.map_err(|_| Unavailable(SHUTTING_DOWN.to_owned()))
    }

    /// Gives the input back if the inbox is full or the loop has ended.
    pub(crate) fn try_send(&self, input: Input) -> Result<(), Box<Input>> {
        self.inbox.try_send(input).map_err(|error| Box::new(error.into_inner()))
    }

    async fn call(&self, event: impl FnOnce(RequestId) -> Event) -> Result<Answer, Unavailable> {
        self.call_with(event, Loaded::default(), None).await
    }

    async fn call_with(
        &self,
        event: impl FnOnce(RequestId) -> Event,
        loaded: Loaded,
        look: Option<Look>,
    ) -> Result<Answer, Unavailable> {
        let request = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        self.send(Input::Call { event: event(request), request, answer, loaded, look }).await?;
        match tokio::time::timeout(ANSWER_PATIENCE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.no_answer()),
            Err(_) => {
                Err(Unavailable("no answer in time: ask for the state before you try again".to_owned()))
            }
        }
    }

    fn no_answer(&self) -> Unavailable {
        Unavailable(self.healthy().err().unwrap_or_else(|| SHUTTING_DOWN.to_owned()))
    }
}

/// New ids for an order and its jobs, after the newest; the jobs' are in ascending order.
pub(crate) fn new_ids(newest: &mut NewestId, now: Time, jobs: usize) -> (OrderId, Vec<JobId>) {
    let unix_ms = u64::try_from(now.0).unwrap_or(0);
    let mut next = |count| newest.next(unix_ms, u128::from_le_bytes(random()), count);
    let jobs = next(jobs).map(JobId).collect();
    let order = next(1).map(OrderId).next().expect("one was asked for");
    (order, jobs)
}

/// A look, and where its result arrives when everything that it shows is durable.
fn looking<T: Send + 'static>(
    look: impl FnOnce(&Master, Time) -> T + Send + 'static,
) -> (Look, oneshot::Receiver<T>) {
    let (answer, seen) = oneshot::channel();
    let look: Look = Box::new(move |state, now| {
        let seen = look(state, now);
        // Fails if the client has gone away.
        Box::new(move || drop(answer.send(seen)))
    });
    (look, seen)
}

/// Waits for an answer, but not for a disk that hangs.
async fn in_time<T, E: Into<Unavailable>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unavailable> {
    match tokio::time::timeout(ANSWER_PATIENCE, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Unavailable(
            "no answer in time: the disk is stuck, or the master has too much to do".to_owned(),
        )),
    }
}

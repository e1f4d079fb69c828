//! The master's loop, and the handle that everything else speaks to it through.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use reloop_node::driver::Node;
use reloop_node::link::{LastHeard, Outbox, wall_ms};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::{JobId, OrderId, Session, SlaveKey};
use reloop_protocol::master::{
    self, Answer, Effect, Event, IdempotencyKey, Job, JobCommand, Master, Order, Receipt, RequestId,
    SlaveCommand, Token,
};
use reloop_protocol::message::CloseCode;
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::{Millis, Time, clock_step};
use reloop_protocol::wire::Frame;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::directory::Directory;
use crate::records;

/// How many events wait for the loop: past that whoever brings one waits, and a client sees it as latency.
const INBOX: usize = 4096;

/// How many changes a listener may fall behind before it has to look at everything again.
const CHANGES: usize = 4096;

/// How long a slave may take to answer a question, or the disk, before the client is told "not now".
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);

/// After a failed write, how often to look whether the disk takes writes again. Not so often that a disk which fails at
/// every second write keeps the master busy with starting; until then the reads go on.
pub(crate) const MEND_PERIOD: Duration = Duration::from_secs(10);

/// Every so often the wall clock is compared with the one that only goes forward.
const CLOCK_LOOK: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

impl From<StoreError> for Unavailable {
    fn from(error: StoreError) -> Self {
        Self(error.to_string())
    }
}

/// For slaves.
const CANNOT_WRITE: &str = "the master cannot write to its disk";

const GONE: &str = "the master is shutting down: try again in a moment";

/// What changed; its content is read when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A job.
    Job(JobId),
    /// A slave.
    Slave(SlaveKey),
}

/// What a listener hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// Something changed.
    Change {
        /// Its number: one more than the last.
        number: u64,
        /// What.
        change: Change,
    },
    /// It fell behind: look at everything again.
    Missed,
    /// The master shuts down.
    Closed,
}

/// Hears of changes from when it was made.
#[derive(Debug)]
pub struct Listener {
    changes: broadcast::Receiver<(u64, Change)>,
}

impl Listener {
    /// The next thing.
    pub async fn next(&mut self) -> Heard {
        match self.changes.recv().await {
            Ok((number, change)) => Heard::Change { number, change },
            Err(broadcast::error::RecvError::Lagged(_)) => Heard::Missed,
            Err(broadcast::error::RecvError::Closed) => Heard::Closed,
        }
    }
}

/// Tells of changes, and remembers the newest for listeners that come back.
#[derive(Debug)]
struct Board {
    newest: AtomicU64,
    recent: Mutex<VecDeque<(u64, Change)>>,
    changes: broadcast::Sender<(u64, Change)>,
}

impl Board {
    fn new() -> Self {
        // Numbers go on across a restart only by chance: a listener from before has to look at everything again.
        let first = u64::try_from(wall_ms()).unwrap_or(0) << 12;
        Self {
            newest: AtomicU64::new(first),
            recent: Mutex::new(VecDeque::new()),
            changes: broadcast::channel(CHANGES).0,
        }
    }

    fn tell(&self, change: Change) {
        let number = self.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((number, change));
        if recent.len() > CHANGES {
            recent.pop_front();
        }
        // Nobody listens: nobody misses it.
        let _ = self.changes.send((number, change));
    }
}

/// Looks at the state, and gives what is to be delivered once everything that was seen is durable.
type Look = Box<dyn FnOnce(&Master, Time) -> Deliver + Send>;
type Deliver = Box<dyn FnOnce() + Send>;

/// What reaches the loop.
pub enum Input {
    /// A slave connected.
    LinkUp {
        /// Its connection.
        link: LinkId,
        /// This end of it.
        outbox: Outbox,
        /// What it has to sign.
        nonce: [u8; 32],
    },
    /// Something happened on a link.
    Link(Event),
    /// Somebody waits for an answer, and may want to look at what it makes of the state.
    Call(Event, RequestId, oneshot::Sender<Answer>, Option<Look>),
    /// Somebody wants to look.
    Look(Look),
    /// Whether the loop still turns.
    Alive(oneshot::Sender<()>),
    /// After a failed write: the state that the disk holds.
    Reread(Result<Box<Master>, StoreError>),
}

/// What the loop does.
pub enum Act {
    /// By the rules.
    Rule(Box<Effect>),
    /// For somebody who looked.
    Deliver(Deliver),
}

/// A slave that this process has heard, and stays known when its link has ended: what a job's last sign is must not go
/// back to what the disk holds.
struct Contact {
    heard: LastHeard,
    is_live: bool,
}

/// The handle to the loop.
#[derive(Clone)]
pub struct Handle {
    inbox: mpsc::Sender<Input>,
    store: Store,
    board: Arc<Board>,
    requests: Arc<AtomicU64>,
    failed: Arc<AtomicBool>,
    doubters: Arc<AtomicUsize>,
    heard: Arc<Mutex<BTreeMap<SlaveKey, Contact>>>,
    directory: Arc<RwLock<Directory>>,
}

impl Handle {
    /// Places an order; answered when it is durable, with what `look` saw just after it was placed: who wants to show it
    /// needs no second turn, which would wait for what others have written meanwhile.
    pub async fn place<T: Send + 'static>(
        &self,
        order: Order,
        key: Option<IdempotencyKey>,
        look: impl FnOnce(&Master, Time) -> T + Send + 'static,
    ) -> Result<(Answer, T), Unavailable> {
        let known = match &key {
            Some(key) => patient(records::known_key(&self.store, &key.key)).await?,
            None => None,
        };
        let (look, seen) = looking(look);
        let placed = |request| Event::OrderPlaced { request, order: Box::new(order), key, known };
        let answer = self.call_and_look(placed, Some(look)).await?;
        Ok((answer, seen.await.map_err(|_| self.no_answer())?))
    }

    /// Commands jobs: one, or an order's.
    pub async fn command(&self, jobs: Vec<JobId>, command: JobCommand) -> Result<Answer, Unavailable> {
        self.call(|request| Event::JobsCommanded { request, jobs, command }).await
    }

    /// Commands a slave.
    pub async fn slave_command(&self, slave: SlaveKey, command: SlaveCommand) -> Result<Answer, Unavailable> {
        self.call(|request| Event::SlaveCommanded { request, slave, command }).await
    }

    /// Asks a job's slave for its output.
    pub async fn log(&self, job: JobId, offset: Option<u64>, limit: u32) -> Result<Answer, Unavailable> {
        self.call(|request| Event::LogAsked { request, job, offset, limit }).await
    }

    /// Keeps an enrolment token.
    pub async fn make_token(&self, hash: [u8; 32], token: Token) -> Result<Answer, Unavailable> {
        self.call(|request| Event::TokenMade { request, hash, token }).await
    }

    /// A person says that this copy of the master is the one; `forced`: also if no slave doubts it.
    pub async fn confirm_restore(&self, forced: bool) -> Result<Answer, Unavailable> {
        self.call(|request| Event::RestoreConfirmed { request, forced }).await
    }

    async fn call(&self, event: impl FnOnce(RequestId) -> Event) -> Result<Answer, Unavailable> {
        self.call_and_look(event, None).await
    }

    async fn call_and_look(
        &self,
        event: impl FnOnce(RequestId) -> Event,
        look: Option<Look>,
    ) -> Result<Answer, Unavailable> {
        let request = RequestId(self.requests.fetch_add(1, Ordering::Relaxed));
        let (answer, answered) = oneshot::channel();
        self.send(Input::Call(event(request), request, answer, look)).await?;
        match tokio::time::timeout(ANSWER_PATIENCE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(self.no_answer()),
            Err(_) => {
                Err(Unavailable("no answer in time: ask for the state before you try again".to_owned()))
            }
        }
    }

    /// Sends it now, or gives it back.
    pub(crate) fn try_send(&self, input: Input) -> Result<(), Box<Input>> {
        self.inbox.try_send(input).map_err(|error| Box::new(error.into_inner()))
    }

    pub(crate) async fn send(&self, input: Input) -> Result<(), Unavailable> {
        self.inbox.send(input).await.map_err(|_| Unavailable(GONE.to_owned()))
    }

    /// Reads the state; answered when everything that it shows is durable.
    pub async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Master, Time) -> T + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (look, seen) = looking(look);
        self.send(Input::Look(look)).await?;
        patient(async { seen.await.map_err(|_| self.no_answer()) }).await
    }

    /// Whether the loop still turns.
    pub async fn is_alive(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.send(Input::Alive(answer)).await.is_ok() && answered.await.is_ok()
    }

    fn no_answer(&self) -> Unavailable {
        Unavailable(self.healthy().err().unwrap_or_else(|| GONE.to_owned()))
    }

    /// An order, from disk.
    pub async fn order(&self, id: OrderId) -> Result<Option<Order>, Unavailable> {
        patient(records::order(&self.store, id)).await
    }

    /// Orders, newest first, older than `before`.
    pub async fn orders(&self, before: Option<OrderId>, limit: usize) -> Result<Vec<Order>, Unavailable> {
        patient(records::orders(&self.store, before, limit)).await
    }

    /// A job: from memory, with its progress, or from disk.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, Unavailable> {
        match self.read(move |state, _| state.book.jobs.get(&id).map(Cow::into_owned)).await? {
            Some(job) => Ok(Some(job)),
            None => patient(records::ended_job(&self.store, id)).await,
        }
    }

    /// Jobs, newest first, older than `before`; live ones with their progress.
    pub async fn jobs(&self, before: Option<JobId>, limit: usize) -> Result<Vec<Job>, Unavailable> {
        // In this order: what ends in between is found twice, and not missed.
        let live = self.read(move |state, _| {
            let live = state.book.jobs.newest_first(before).take(limit);
            live.map(|job| (job.id, job.into_owned())).collect::<BTreeMap<_, _>>()
        });
        let mut jobs = live.await?;
        for ended in patient(records::ended_jobs(&self.store, before, limit)).await? {
            // It may have been tried again, and is live.
            jobs.entry(ended.id).or_insert(ended);
        }
        Ok(jobs.into_values().rev().take(limit).collect())
    }

    /// A slave's receipts, newest first.
    pub async fn receipts(&self, slave: SlaveKey) -> Result<Vec<Receipt>, Unavailable> {
        patient(records::receipts(&self.store, slave)).await
    }

    /// Whether orders can be taken; if not, why and what helps.
    pub fn healthy(&self) -> Result<(), String> {
        if self.has_failed() {
            return Err(format!(
                "the master could not write to its disk: check it; it is tried every {} s, and the master goes on \
                 when it takes writes again",
                MEND_PERIOD.as_secs()
            ));
        }
        self.store.healthy().map_err(|error| error.to_string())?;
        if self.inbox.is_closed() {
            return Err(GONE.to_owned());
        }
        Ok(())
    }

    /// A write has failed: nothing is decided any more until the store is opened anew.
    pub fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    /// What to tell people while slaves doubt this master: its files were put back, and nobody has confirmed that.
    pub fn doubt(&self) -> Option<String> {
        let doubters = self.doubters.load(Ordering::Relaxed);
        (doubters > 0).then(|| {
            format!(
                "slaves that have seen a later state of this master: {doubters}. They take no orders from it. If its files \
                 were put back: `reloop restore confirm`; if another copy of it runs, stop one of the two"
            )
        })
    }

    /// When a slave was last heard, connected or not; none if it was not since this master started.
    pub fn last_heard(&self, slave: SlaveKey) -> Option<Time> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.get(&slave).map(|contact| Time(contact.heard.ms()))
    }

    /// The slave whose key has this fingerprint, or else all slaves of this name.
    pub(crate) fn slaves_called(&self, name: &str) -> Vec<SlaveKey> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).called(name)
    }

    /// Shows slaves behind a place in their order, by name, until `show` says that it has enough.
    pub(crate) fn each_slave_after(&self, after: Option<&str>, show: impl FnMut(&str, SlaveKey) -> bool) {
        self.directory.read().unwrap_or_else(PoisonError::into_inner).each_after(after, show);
    }

    /// Hears of changes from now on.
    pub fn listen(&self) -> Listener {
        Listener { changes: self.board.changes.subscribe() }
    }

    /// The number of the newest change.
    pub fn newest_change(&self) -> u64 {
        self.board.newest.load(Ordering::SeqCst)
    }

    /// What changed since, and then what changes; none if that is too long ago to know.
    pub fn changes_since(&self, number: u64) -> Option<(Vec<(u64, Change)>, Listener)> {
        let recent = self.board.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let listener = self.listen();
        let newest = self.newest_change();
        let oldest = recent.front().map_or(newest + 1, |(number, _)| *number);
        if number > newest || number + 1 < oldest {
            return None;
        }
        Some((recent.iter().filter(|(at, _)| *at > number).copied().collect(), listener))
    }
}

/// A look, and where what it sees arrives when that is durable.
fn looking<T: Send + 'static>(
    look: impl FnOnce(&Master, Time) -> T + Send + 'static,
) -> (Look, oneshot::Receiver<T>) {
    let (answer, seen) = oneshot::channel();
    let look: Look = Box::new(move |state, now| {
        let seen = look(state, now);
        // The one who looked has gone away: nobody misses it.
        Box::new(move || drop(answer.send(seen)))
    });
    (look, seen)
}

/// Waits for an answer, but not for a disk that hangs.
async fn patient<T, E: Into<Unavailable>>(
    answer: impl Future<Output = Result<T, E>>,
) -> Result<T, Unavailable> {
    match tokio::time::timeout(ANSWER_PATIENCE, answer).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => Err(Unavailable(
            "no answer in time: the disk is stuck, or the master has too much to do".to_owned(),
        )),
    }
}

/// The master, as the loop runs it.
pub struct Driver {
    /// Away while it is stepped, and after a failed write until what the disk holds is read.
    state: Option<Master>,
    rereading: bool,
    /// Who looks meanwhile.
    looks: Vec<Look>,
    store: Store,
    inbox: mpsc::WeakSender<Input>,
    board: Arc<Board>,
    failed: Arc<AtomicBool>,
    doubters: Arc<AtomicUsize>,
    heard: Arc<Mutex<BTreeMap<SlaveKey, Contact>>>,
    directory: Arc<RwLock<Directory>>,
    links: BTreeMap<LinkId, (Outbox, Session)>,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    probe_patience: Duration,
    /// Both clocks, when they were last compared.
    clocks: (i64, Instant),
}

/// A master's loop before it runs: the loop, the handle to it, and its inbox.
pub fn new(state: Master, store: Store, probe_patience: Duration) -> (Driver, Handle, mpsc::Receiver<Input>) {
    let (inbox, events) = mpsc::channel(INBOX);
    let board = Arc::new(Board::new());
    let failed = Arc::new(AtomicBool::new(false));
    let doubters = Arc::new(AtomicUsize::new(0));
    let heard = Arc::new(Mutex::new(BTreeMap::new()));
    let directory = Arc::new(RwLock::new(Directory::of(&state)));
    let driver = Driver {
        state: Some(state),
        rereading: false,
        looks: Vec::new(),
        store: store.clone(),
        inbox: inbox.downgrade(),
        board: Arc::clone(&board),
        failed: Arc::clone(&failed),
        doubters: Arc::clone(&doubters),
        heard: Arc::clone(&heard),
        directory: Arc::clone(&directory),
        links: BTreeMap::new(),
        waiting: BTreeMap::new(),
        probe_patience,
        clocks: (wall_ms(), Instant::now()),
    };
    let requests = Arc::new(AtomicU64::new(0));
    let handle = Handle { inbox, store, board, requests, failed, doubters, heard, directory };
    (driver, handle, events)
}

impl Driver {
    /// Not to be called after a failed write.
    fn state(&self) -> &Master {
        self.state.as_ref().expect("the state is only away while it is stepped")
    }

    fn apply(&mut self, event: Event) -> master::Step {
        let state = self.state.take().expect("the state is only away while it is stepped");
        let mut step = master::step(state, Time(wall_ms()), event);
        // What ended lives on disk from here.
        step.archived.clear();
        step
    }

    fn decide(&mut self, event: Event) -> (Vec<Op>, Vec<Act>) {
        let span = tracing::enabled!(tracing::Level::DEBUG).then(|| format!("{event:?}"));
        let master::Step { state, persist, effects, .. } = self.apply(event);
        if let Some(event) = span {
            tracing::debug!(%event, ?effects, writes = persist.len(), "step");
        }
        self.note_doubt(&state);
        self.state = Some(state);
        let mut ops = Vec::with_capacity(persist.len() * 2);
        for write in &persist {
            records::ops(write, &mut ops);
        }
        (ops, effects.into_iter().map(|effect| Act::Rule(Box::new(effect))).collect())
    }

    /// Tells people when the first slave doubts this master, and when none does any more.
    fn note_doubt(&self, state: &Master) {
        let (now, before) = (state.doubters(), self.doubters.load(Ordering::Relaxed));
        self.doubters.store(now, Ordering::Relaxed);
        match (before, now) {
            (0, 1..) => {
                let slaves: Vec<_> =
                    state.doubted_by.iter().filter_map(|key| state.slaves.get(key)).collect();
                let slave = slaves.first().map(|slave| slave.name.as_str());
                tracing::error!(
                    slave,
                    "a slave has seen a later state of this master and takes no orders from it: if the master's files \
                     were put back, `reloop restore confirm`; if another copy of it runs, stop one of the two"
                );
            }
            (1.., 0) => tracing::info!("no slave doubts this master any more"),
            _ => {}
        }
    }

    fn look(&self, look: Look) -> Act {
        Act::Deliver(look(self.state(), Time(wall_ms())))
    }

    fn clock_was_set(&mut self) -> bool {
        let (wall, since) = std::mem::replace(&mut self.clocks, (wall_ms(), Instant::now()));
        let passed = u64::try_from(self.clocks.1.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        let step = clock_step(self.clocks.0.saturating_sub(wall), Millis(passed));
        if let Some(step_ms) = step {
            tracing::warn!(step_ms, "the clock was set: every slave looks at it again");
        }
        step.is_some()
    }

    fn take(&mut self, input: Input) -> (Vec<Op>, Vec<Act>) {
        match input {
            Input::LinkUp { link, outbox, nonce } => {
                self.links.insert(link, (outbox, Session(0)));
                self.decide(Event::LinkOpened { link, nonce })
            }
            Input::Link(event) => {
                if let Event::HelloReceived { link, hello, .. } = &event
                    && let Some((_, session)) = self.links.get_mut(link)
                {
                    *session = hello.session;
                }
                let closed = match &event {
                    Event::LinkClosed { link, .. } => Some(*link),
                    _ => None,
                };
                let decided = self.decide(event);
                if let Some(link) = closed {
                    self.links.remove(&link);
                }
                decided
            }
            Input::Call(event, request, answer, look) => {
                self.waiting.insert(request, answer);
                let (ops, mut acts) = self.decide(event);
                acts.extend(look.map(|look| self.look(look)));
                (ops, acts)
            }
            Input::Look(look) => (Vec::new(), vec![self.look(look)]),
            Input::Alive(answer) => {
                // The one who asked has gone away: nobody misses it.
                let _ = answer.send(());
                (Vec::new(), Vec::new())
            }
            Input::Reread(_) => (Vec::new(), Vec::new()),
        }
    }

    fn event(input: &Input) -> Option<&Event> {
        match input {
            Input::Link(event) | Input::Call(event, ..) => Some(event),
            Input::LinkUp { .. } | Input::Look(_) | Input::Alive(_) | Input::Reread(_) => None,
        }
    }
}

impl Node for Driver {
    type Event = Input;
    type Effect = Act;

    fn needs_disk(&self, input: &Input) -> bool {
        Self::event(input).is_some_and(|event| {
            !master::unknown_jobs(self.state(), event).is_empty() || !master::unknown_orders(event).is_empty()
        })
    }

    async fn prepare(&mut self, input: &mut Input) -> Result<(), StoreError> {
        let Some(event) = Self::event(input) else { return Ok(()) };
        let mut orders = Vec::new();
        for id in master::unknown_orders(event) {
            orders.extend(records::order(&self.store, id).await?);
        }
        let mut recalled = Vec::new();
        for id in master::unknown_jobs(self.state(), event) {
            recalled.extend(records::ended_job(&self.store, id).await?);
        }
        if !orders.is_empty() {
            let step = self.apply(Event::OrdersLoaded(orders));
            self.state = Some(step.state);
        }
        if !recalled.is_empty() {
            let step = self.apply(Event::JobsLoaded(recalled));
            self.state = Some(step.state);
        }
        Ok(())
    }

    fn step(&mut self, input: Input) -> (Vec<Op>, Vec<Act>) {
        let (mut ops, mut acts) =
            if self.clock_was_set() { self.decide(Event::ClockSet) } else { (Vec::new(), Vec::new()) };
        let (then, after) = self.take(input);
        ops.extend(then);
        acts.extend(after);
        (ops, acts)
    }

    fn time_passed(&self) -> Input {
        Input::Link(Event::TimePassed)
    }

    fn next_deadline(&self) -> Option<Instant> {
        let wait = master::next_deadline(self.state())
            .map(|at| Duration::from_millis(u64::try_from(at.0.saturating_sub(wall_ms())).unwrap_or(0)));
        Some(Instant::now() + wait.unwrap_or(CLOCK_LOOK).min(CLOCK_LOOK))
    }

    fn perform(&mut self, act: Act) {
        let effect = match act {
            Act::Deliver(deliver) => return deliver(),
            Act::Rule(effect) => *effect,
        };
        match effect {
            Effect::Send { link, commit, message } => {
                if let Some((outbox, session)) = self.links.get(&link) {
                    outbox.send(&Frame { session: *session, commit, message, signature: None });
                }
            }
            Effect::Close { link, code, text } => {
                if let Some((outbox, _)) = self.links.get(&link) {
                    tracing::info!(link = link.0, code = code.number(), text, "closing a link");
                    outbox.close(code, text);
                }
            }
            Effect::Probe { link } => {
                let (Some((outbox, _)), Some(inbox)) = (self.links.get(&link).cloned(), self.inbox.upgrade())
                else {
                    return;
                };
                let patience = self.probe_patience;
                tokio::spawn(async move {
                    let alive = outbox.is_alive(patience).await;
                    // The master is gone: so is the question.
                    let _ = inbox.send(Input::Link(Event::LinkProbed { link, alive })).await;
                });
            }
            Effect::Answer { request, answer } => {
                if let Some(waiting) = self.waiting.remove(&request) {
                    // The client has gone away; what it asked for is done all the same.
                    let _ = waiting.send(answer);
                }
            }
            Effect::JobChanged(id) => self.board.tell(Change::Job(id)),
            Effect::SlaveChanged(key) => {
                let live = self.state().slaves.get(&key).and_then(master::SlaveRecord::live);
                let last_heard =
                    live.and_then(|link| self.links.get(&link)).map(|(outbox, _)| outbox.last_heard());
                let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
                let was_online = heard.get(&key).is_some_and(|contact| contact.is_live);
                let is_online = last_heard.is_some();
                match (last_heard, heard.get_mut(&key)) {
                    (Some(last_heard), _) => {
                        heard.insert(key, Contact { heard: last_heard, is_live: true });
                    }
                    (None, Some(contact)) => contact.is_live = false,
                    (None, None) => {}
                }
                drop(heard);
                if let Some(slave) = self.state().slaves.get(&key) {
                    let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
                    directory.note(key, &slave.name);
                }
                if let Some(slave) = self.state().slaves.get(&key).filter(|_| was_online != is_online) {
                    let (slave, session) = (&slave.name, slave.session.0);
                    let jobs = self.state().book.held_by(key).count();
                    let link = if is_online { "online" } else { "offline; its jobs go on" };
                    tracing::info!(slave, session, jobs, "{link}");
                }
                self.board.tell(Change::Slave(key));
            }
            Effect::Ignored(why) => tracing::debug!(why = why.text(), "ignored"),
        }
    }

    fn failed(&mut self, _error: &StoreError, undone: Vec<Act>) {
        self.failed.store(true, Ordering::Relaxed);
        // Whoever waits is told that nothing was promised.
        drop(undone);
        self.waiting.clear();
        // What slaves say can't be kept: they say it again when the master goes on.
        for (outbox, _) in std::mem::take(&mut self.links).into_values() {
            outbox.close(CloseCode::Storage, CANNOT_WRITE);
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.values_mut().for_each(|contact| contact.is_live = false);
        drop(heard);
        let (Some(state), Some(inbox)) = (self.state.take(), self.inbox.upgrade()) else { return };
        let live = state.slaves.values().filter(|slave| slave.live().is_some());
        live.for_each(|slave| self.board.tell(Change::Slave(slave.key)));
        let (settings, id, store) = (state.settings, state.node.id, self.store.clone());
        // There is room for one state.
        drop(state);
        self.rereading = true;
        tokio::spawn(async move {
            let mut state = Box::new(master::newborn(settings, id));
            let read = records::reread(store, |record| state.restore(record)).await;
            let state = read.map(|()| state);
            // The master starts anew already.
            let _ = inbox.send(Input::Reread(state)).await;
        });
    }

    fn refuse(&mut self, input: Input) {
        match input {
            Input::Look(look) => match &self.state {
                Some(durable) => look(durable, Time(wall_ms()))(),
                None if self.rereading && self.looks.len() < INBOX => self.looks.push(look),
                // Who looks learns it from the answer that does not come.
                None => drop(look),
            },
            Input::Reread(Ok(durable)) => {
                tracing::warn!(
                    "questions are answered from what is on the disk; every slave is shown as offline"
                );
                let looks = std::mem::take(&mut self.looks);
                *self.directory.write().unwrap_or_else(PoisonError::into_inner) = Directory::of(&durable);
                looks.into_iter().for_each(|look| look(&durable, Time(wall_ms()))());
                (self.state, self.rereading) = (Some(*durable), false);
            }
            Input::Reread(Err(error)) => {
                self.looks.clear();
                self.rereading = false;
                tracing::error!(%error, "questions are refused: what is on the disk can't be read");
            }
            Input::Alive(answer) => {
                // The one who asked has gone away: nobody misses it.
                let _ = answer.send(());
            }
            Input::LinkUp { outbox, .. } => outbox.close(CloseCode::Storage, CANNOT_WRITE),
            Input::Link(_) | Input::Call(..) => {}
        }
    }
}

//! The rules of the node that takes orders.
//!
//! A master favours availability: it always takes orders and always answers, and says how fresh the answer is. Its
//! state is an order book ([`Book`]: what waits, and who may take it) and one [`SlaveRecord`] per slave (its link, its
//! evidence, its reconciliation). A slave record never reads another slave record; what moves between them goes through the book.
//!
//! [`step`] is the one entry: `slave` runs the handshake, `admission` knows who belongs here, `evidence` judges what
//! slaves say, `people` answers clients and operators, `dispatch` gives work to whom it fits, and the end of every step
//! writes what was touched and publishes it.

mod admission;
mod attempts;
mod book;
mod decline;
mod dispatch;
mod explain;
mod handshake;
mod live;
mod needs;
mod people;
mod report;
mod slave_record;
mod tell;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::book::{Basis, Book, Earlier, Job, JobEvent, Order, Retry, RetryOn};
pub use self::dispatch::Availability;
pub use self::explain::{Explanation, WhyNot, explain};
pub use self::live::Live;
pub use self::needs::{Need, Needed, Subject, count_needs, needs};
pub use self::slave_record::{Contender, Enrolled, Judged, Receipt, ReceiptLine, SlaveLink, SlaveRecord};

use crate::id::{Commit, Epoch, Incarnation, JobId, MasterId, OrderId, SlaveKey};
use crate::job::{self, End, State};
use crate::limits;
use crate::message::{Begun, CloseCode, Hello, Message, Mode, Reason, ReasonCode, Reply};
use crate::slave::LinkId;
use crate::spec::{CancelMode, Late};
use crate::time::{Millis, Time};

/// How many slaves may wait for approval: keys are free, and nobody may fill the master with them.
pub const MAX_PENDING: usize = 256;

/// How many receipts of handshakes are kept for each slave.
pub const RECEIPTS: u32 = 64;

/// How many idempotency keys are kept in memory: more than can be between the disk's answer and the step that needs it.
pub const RECENT_KEYS: usize = 4096;

/// What a master is told by its config.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Settings {
    /// How slaves are enrolled.
    pub enrollment: Enrollment,
}

/// How slaves are enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Enrollment {
    /// Whoever comes: for demos.
    Open,
    /// With a token.
    #[default]
    Token,
    /// When a person has approved its key.
    Approve,
}

/// A master's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Master {
    /// From the config.
    pub settings: Settings,
    /// About itself.
    pub node: Node,
    /// Its newest incarnations, oldest first; the last is this process.
    pub begun: Vec<Begun>,
    /// The order book.
    pub book: Book,
    /// One slave record per slave.
    pub slaves: BTreeMap<SlaveKey, SlaveRecord>,
    /// Enrolment tokens, by the SHA-256 of their text.
    pub tokens: BTreeMap<[u8; 32], Token>,
    /// Connections, and whose they are once that is known.
    pub links: BTreeMap<LinkId, Option<SlaveKey>>,
    /// Questions that wait for a slave's answer.
    pub asked: BTreeMap<u32, Asked>,
    /// The number of the next question.
    pub next_ask: u32,
    /// A slave has seen a later state of this master: its files were put back.
    pub doubted_by: BTreeSet<SlaveKey>,
    /// The highest epoch of this master that a slave has obeyed, if it is later than this master knows.
    pub later: Epoch,
    /// Who could take a job.
    pub availability: Availability,
}

impl Master {
    /// How many slaves say that this master's files were put back and nobody has confirmed it: they have seen a later
    /// state of it, or obeyed a later epoch.
    pub fn doubters(&self) -> usize {
        self.doubted_by.len().max(usize::from(self.later > self.node.epoch))
    }
}

/// What a master keeps about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Node {
    /// This database.
    pub id: MasterId,
    /// How often it was restored.
    pub epoch: Epoch,
    /// Its durable commits.
    pub commit: Commit,
}

/// Permission to enrol.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Token {
    /// Not after this.
    pub expires_at: Time,
    /// How many slaves it still enrols.
    pub uses_left: u32,
    /// Only a slave of this name.
    pub name: Option<String>,
}

/// A question under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who wants to know.
    pub request: RequestId,
    /// On which connection it was asked.
    pub link: LinkId,
}

/// Pairs an answer with the client that waits for it; of no meaning beyond this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// A client's idempotency key, with what it stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// The key.
    pub key: String,
    /// The SHA-256 of the request's body.
    pub fingerprint: [u8; 32],
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// Jobs that the disk holds and the next event speaks of: [`unknown_jobs`] names them.
    JobsLoaded(Vec<Job>),
    /// Orders that the disk holds and the next event speaks of: [`unknown_orders`] names them.
    OrdersLoaded(Vec<Order>),
    /// A client placed an order.
    OrderPlaced {
        /// Who waits.
        request: RequestId,
        /// The order, with new ids.
        order: Box<Order>,
        /// The client's key.
        key: Option<IdempotencyKey>,
        /// What the disk knows of that key: the order and the body's fingerprint.
        known: Option<(OrderId, [u8; 32])>,
    },
    /// Somebody wants something of jobs.
    JobsCommanded {
        /// Who waits.
        request: RequestId,
        /// Which: one, or an order's.
        jobs: Vec<JobId>,
        /// What.
        command: JobCommand,
    },
    /// Somebody wants something of a slave.
    SlaveCommanded {
        /// Who waits.
        request: RequestId,
        /// Which.
        slave: SlaveKey,
        /// What.
        command: SlaveCommand,
    },
    /// Somebody asks for a job's output.
    LogAsked {
        /// Who waits.
        request: RequestId,
        /// Which.
        job: JobId,
        /// From which byte; the end if none.
        offset: Option<u64>,
        /// How many bytes at most.
        limit: u32,
    },
    /// An enrolment token was made.
    TokenMade {
        /// Who waits.
        request: RequestId,
        /// The SHA-256 of its text.
        hash: [u8; 32],
        /// What it permits.
        token: Token,
    },
    /// A person confirmed that this master was restored, and is the one.
    RestoreConfirmed {
        /// Who waits.
        request: RequestId,
        /// Also if nothing speaks for it: the slaves that could tell may be away.
        forced: bool,
    },
    /// A slave connected.
    LinkOpened {
        /// Its connection.
        link: LinkId,
        /// What it has to sign.
        nonce: [u8; 32],
    },
    /// A slave introduced itself, and its signature is right.
    HelloReceived {
        /// On which connection.
        link: LinkId,
        /// What it said.
        hello: Box<Hello>,
        /// The SHA-256 of the enrolment token that it showed.
        token: Option<[u8; 32]>,
    },
    /// A slave said something else.
    Received {
        /// On which connection.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// The peer of a connection was asked whether it is there.
    LinkProbed {
        /// Which.
        link: LinkId,
        /// It answered.
        alive: bool,
    },
    /// A connection ended.
    LinkClosed {
        /// Which.
        link: LinkId,
        /// When its last byte came.
        last_heard: Time,
    },
    /// A moment came that [`next_deadline`] named.
    TimePassed,
    /// The master's wall clock was set: what slaves have measured of it is wrong.
    ClockSet,
}

/// What somebody may want of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobCommand {
    /// End it.
    Cancel(CancelMode),
    /// Do not start it; pause it if it runs.
    Pause,
    /// Let it go on.
    Resume,
    /// Let a held job start, within this time from now.
    Release {
        /// How long the word holds.
        valid: Millis,
    },
    /// Change when it may start.
    Reschedule {
        /// Not before this.
        not_before: Option<Time>,
        /// Not after this.
        deadline: Option<Time>,
        /// If that passes while the slave is off.
        late: Late,
    },
    /// Begin a new attempt.
    Retry,
    /// Say how an uncertain job ended.
    Resolve(End),
    /// Give this attempt up: its outcome will not be known.
    Abandon,
}

/// What somebody may want of a slave.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SlaveCommand {
    /// Confirm that the machine is clear.
    Ready,
    /// Confirm that somebody has looked at what needed attention.
    Clear,
    /// Put it in a mode.
    Mode(Mode),
    /// Enrol a key that waits for it.
    Approve,
    /// Revoke its key; what it holds stays with it.
    Forget,
}

/// How far a command got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// It is done.
    Applied,
    /// It is on its way to the slave.
    Sent,
    /// The slave is not there: the desired state waits, as part of the job, for its next connection.
    PendingOnReconnect,
    /// What it was meant to prevent has happened.
    TooLate,
}

impl Delivery {
    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Sent => "sent",
            Self::PendingOnReconnect => "pending_on_reconnect",
            Self::TooLate => "too_late",
        }
    }
}

/// Why a request was not granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// No such job.
    NoSuchJob,
    /// No such slave.
    NoSuchSlave,
    /// The key was used for another body.
    KeyReused,
    /// The job's state does not allow it.
    WrongState(State),
    /// The slave is connected: it can be asked instead.
    SlaveOnline,
    /// It can only be done while the slave is connected.
    SlaveOffline,
    /// Nothing is there that this could end.
    NothingToDo(&'static str),
    /// The slave said no.
    SlaveRefused,
    /// The slave was revoked: only a token enrols it again.
    SlaveRevoked,
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Answer {
    /// The order is on disk.
    Placed {
        /// Which.
        order: OrderId,
        /// It was placed before, with the same key.
        replayed: bool,
    },
    /// The command is taken: how far it got, for each job.
    Taken(Vec<(JobId, Delivery)>),
    /// Done.
    Done,
    /// The slave's answer.
    Replied(Reply),
    /// Not granted, and what would help.
    Refused(Refusal, String),
}

/// What the driver has to write before it performs the step's effects.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Write {
    /// About itself.
    Node(Node),
    /// An order.
    Order(Box<Order>),
    /// A client's key.
    Key(IdempotencyKey, OrderId),
    /// A job: live, or for the archive.
    Job(Box<Job>),
    /// A slave.
    Slave(Box<SlaveRecord>),
    /// An enrolment token, or that it is gone.
    Token([u8; 32], Option<Token>),
    /// A handshake's receipt.
    Receipt(Box<Receipt>),
    /// Its newest incarnations.
    Begun(Vec<Begun>),
}

/// What the driver has to do once the step's writes are durable.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Say something to a slave.
    Send {
        /// On which connection.
        link: LinkId,
        /// The durable commits of this master by then: see [`Frame::commit`](crate::wire::Frame::commit).
        commit: Commit,
        /// What.
        message: Message,
    },
    /// End a connection.
    Close {
        /// Which.
        link: LinkId,
        /// Why.
        code: CloseCode,
        /// Why, for people.
        text: String,
    },
    /// Ask the peer whether it is there.
    Probe {
        /// On which connection.
        link: LinkId,
    },
    /// Answer a client.
    Answer {
        /// Which.
        request: RequestId,
        /// What.
        answer: Answer,
    },
    /// Tell whoever listens that a job changed.
    JobChanged(JobId),
    /// Tell whoever listens that a slave changed.
    SlaveChanged(SlaveKey),
    /// Nothing was done, and why.
    Ignored(Ignored),
}

/// Why the master did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The job table rejects the event.
    Job(job::Rejection),
    /// A newer report of the job is known.
    OlderReport,
    /// The slave answers an older desired state than the newest.
    OlderAnswer,
    /// The attempt was never assigned to this slave: the slave is lying, or the master was restored.
    NeverAssigned,
    /// A record that the master did not ask for.
    UnrequestedRecord,
    /// The slave already holds as many jobs as one handshake can report.
    TooManyJobs,
    /// The report names a generation that this master cannot have issued.
    UnknownGeneration,
    /// The attempt or the generation is past all that a master counts to.
    OutOfRange,
    /// The slave reported a job that the master does not know, without the record that it was asked for.
    MissingRecord,
    /// The slave was revoked, and its connection is being closed.
    Revoked,
    /// The connection is not one on which a slave may speak.
    UnknownConnection,
}

/// What one event came to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Step {
    /// The state after it.
    pub state: Master,
    /// To be durable before any effect.
    pub persist: Vec<Write>,
    /// To be done then, in order.
    pub effects: Vec<Effect>,
    /// Jobs that are no longer in memory, as they were at the end.
    pub archived: Vec<Job>,
}

/// Whose a database is, by what is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// It says so itself.
    Known,
    /// Nobody's yet.
    Newborn,
    /// It has forgotten: its own record is lost, and others are there. Orders are not lost for that, so it goes on with
    /// them, under a new name. Its slaves are enrolled in it and bind to the new name by themselves; whether another
    /// copy still goes by the old one is for a person to say.
    Nameless,
}

/// Whose a database is: whether its own record can be read, and whether there is any other thing in it.
pub fn origin(own: bool, other: bool) -> Origin {
    match (own, other) {
        (true, _) => Origin::Known,
        (false, false) => Origin::Newborn,
        (false, true) => Origin::Nameless,
    }
}

/// The state that the disk holds; `fresh` names a database that is empty.
pub fn recover(settings: Settings, fresh: MasterId, records: impl IntoIterator<Item = Write>) -> Master {
    let mut state = newborn(settings, fresh);
    records.into_iter().for_each(|record| state.restore(record));
    state
}

/// The state of a database that is empty, which `fresh` names.
pub fn newborn(settings: Settings, fresh: MasterId) -> Master {
    Master {
        settings,
        node: Node { id: fresh, epoch: Epoch(1), commit: Commit(0) },
        begun: Vec::new(),
        book: Book::default(),
        slaves: BTreeMap::new(),
        tokens: BTreeMap::new(),
        links: BTreeMap::new(),
        asked: BTreeMap::new(),
        next_ask: 0,
        doubted_by: BTreeSet::new(),
        later: Epoch(0),
        availability: Availability::default(),
    }
}

impl Master {
    /// Takes up a record of the disk, before the first step. A million of them need not be in memory at once.
    pub fn restore(&mut self, record: Write) {
        match record {
            Write::Node(node) => self.node = node,
            Write::Begun(begun) => self.begun = begun,
            Write::Job(job) => self.book.restore(*job),
            Write::Slave(slave) => drop(self.slaves.insert(slave.key, *slave)),
            Write::Token(hash, Some(token)) => drop(self.tokens.insert(hash, token)),
            Write::Token(hash, None) => drop(self.tokens.remove(&hash)),
            Write::Order(_) | Write::Key(..) | Write::Receipt(_) => {}
        }
    }

    /// A process begins with this state. What it gives has to be on disk before a slave hears of it.
    pub fn begin(&mut self, incarnation: Incarnation) -> [Write; 2] {
        let older = (self.begun.len() + 1).saturating_sub(limits::INCARNATIONS);
        self.begun.drain(..older);
        self.begun.push(Begun { incarnation, at: self.node.commit });
        [Write::Node(self.node), Write::Begun(self.begun.clone())]
    }

    /// The process that speaks.
    pub fn incarnation(&self) -> Incarnation {
        self.begun.last().map_or_else(Incarnation::default, |begun| begun.incarnation)
    }
}

/// The part of the state that the disk holds after the step's writes.
pub fn durable(state: &Master) -> (Node, Vec<Job>, Vec<SlaveRecord>, BTreeMap<[u8; 32], Token>) {
    let jobs = state.book.jobs.values().map(|job| job.durable()).collect();
    let slaves = state.slaves.values().map(SlaveRecord::durable).collect();
    (state.node, jobs, slaves, state.tokens.clone())
}

/// Jobs that the event speaks of and that are not in memory: if the disk has them, they come first, as
/// [`Event::JobsLoaded`].
pub fn unknown_jobs(state: &Master, event: &Event) -> Vec<JobId> {
    let mut jobs: Vec<JobId> = match event {
        Event::JobsCommanded { jobs, .. } => jobs.clone(),
        Event::LogAsked { job, .. } => vec![*job],
        Event::HelloReceived { hello, .. } => spoken_of(hello).collect(),
        Event::Received { message, .. } => match message {
            Message::Report(report) => vec![report.job],
            Message::Declined(declined) => vec![declined.job],
            Message::Settled(settled) => settled
                .reports
                .iter()
                .map(|report| report.job)
                .chain(settled.records.iter().map(|record| record.report.job))
                .chain(settled.declined.iter().map(|declined| declined.job))
                .collect(),
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Machine(_)
            | Message::DesiredState(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_)
            | Message::Ping
            | Message::Pong => vec![],
        },
        Event::JobsLoaded(_)
        | Event::OrdersLoaded(_)
        | Event::OrderPlaced { .. }
        | Event::SlaveCommanded { .. }
        | Event::TokenMade { .. }
        | Event::RestoreConfirmed { .. }
        | Event::LinkOpened { .. }
        | Event::TimePassed
        | Event::ClockSet => vec![],
        // Whoever waits for the end of an older link is welcomed by it.
        Event::LinkProbed { link, .. } | Event::LinkClosed { link, .. } => {
            let slave = state.links.get(link).copied().flatten().and_then(|key| state.slaves.get(&key));
            let contender = slave.and_then(|slave| slave.contender.as_ref());
            contender.map_or_else(Vec::new, |contender| spoken_of(&contender.hello).collect())
        }
    };
    // A Settled speaks of the Hello's rows too.
    if let Event::Received { link, message: Message::Settled(_) } = event
        && let Some(slave) = state.links.get(link).copied().flatten().and_then(|key| state.slaves.get(&key))
        && let Some(hello) = slave.hello()
    {
        jobs.extend(spoken_of(hello));
    }
    jobs.retain(|job| !state.book.jobs.contains_key(job));
    jobs.sort_unstable();
    jobs.dedup();
    jobs
}

fn spoken_of(hello: &Hello) -> impl Iterator<Item = JobId> {
    hello.rows.iter().chain(&hello.recent_outcomes).map(|row| row.job)
}

/// Orders that the event speaks of: if the disk has them, they come first, as [`Event::OrdersLoaded`].
pub fn unknown_orders(event: &Event) -> Vec<OrderId> {
    let Event::Received { message: Message::Settled(settled), .. } = event else { return vec![] };
    let orders: BTreeSet<_> = settled.records.iter().map(|record| record.spec.order).collect();
    orders.into_iter().collect()
}

/// What a master does when something happens.
pub fn step(state: Master, now: Time, event: Event) -> Step {
    let mut rules = Rules {
        state,
        now,
        persist: Vec::new(),
        effects: Vec::new(),
        touched: BTreeSet::new(),
        stirred: BTreeSet::new(),
        slaves: BTreeSet::new(),
        stirred_slaves: BTreeSet::new(),
        look_for_work: BTreeSet::new(),
        look_for_slave: BTreeSet::new(),
        gap_of: None,
    };
    match event {
        Event::JobsLoaded(jobs) => {
            for job in jobs {
                rules.state.book.load(job);
            }
            return Step { state: rules.state, persist: vec![], effects: vec![], archived: vec![] };
        }
        Event::OrdersLoaded(orders) => {
            rules.state.book.orders.extend(orders.into_iter().map(|order| (order.id, order)));
            return Step { state: rules.state, persist: vec![], effects: vec![], archived: vec![] };
        }
        Event::OrderPlaced { request, order, key, known } => rules.order_placed(request, *order, key, known),
        Event::JobsCommanded { request, jobs, command } => rules.jobs_commanded(request, &jobs, command),
        Event::SlaveCommanded { request, slave, command } => rules.slave_commanded(request, slave, command),
        Event::LogAsked { request, job, offset, limit } => rules.log_asked(request, job, offset, limit),
        Event::TokenMade { request, hash, token } => rules.token_made(request, hash, token),
        Event::RestoreConfirmed { request, forced } => rules.restore_confirmed(request, forced),
        Event::LinkOpened { link, nonce } => rules.link_opened(link, nonce),
        Event::HelloReceived { link, hello, token } => rules.hello_received(link, hello, token),
        Event::Received { link, message } => rules.received(link, message),
        Event::LinkProbed { link, alive } => rules.link_probed(link, alive),
        Event::LinkClosed { link, last_heard } => rules.link_closed(link, last_heard),
        Event::TimePassed => {}
        Event::ClockSet => rules.clock_set(),
    }
    rules.close_windows();
    rules.dispatch();
    rules.conclude()
}

/// When something will happen by itself, and why: a queued job's window closes.
pub fn next_deadline(state: &Master) -> Option<Time> {
    state.book.next_window().map(|at| at.after(Millis(1)))
}

/// A step under way.
struct Rules {
    state: Master,
    now: Time,
    persist: Vec<Write>,
    effects: Vec<Effect>,
    /// Jobs that changed durably.
    touched: BTreeSet<JobId>,
    /// Jobs that changed at all.
    stirred: BTreeSet<JobId>,
    /// Slaves that changed durably.
    slaves: BTreeSet<SlaveKey>,
    /// Slaves that changed at all.
    stirred_slaves: BTreeSet<SlaveKey>,
    /// Slaves that may have room or fall idle.
    look_for_work: BTreeSet<SlaveKey>,
    /// Jobs that were queued.
    look_for_slave: BTreeSet<JobId>,
    /// The slave whose first handshake after a restore ends in this step: it closes the gap in the master's memory.
    gap_of: Option<SlaveKey>,
}

impl Rules {
    /// Changes a job, and everything that is derived from it.
    fn edit<R>(&mut self, id: JobId, change: impl FnOnce(&mut Job) -> R) -> Option<R> {
        let (holders, result) = self.state.book.edit(id, change)?;
        self.touched.insert(id);
        self.look_for_work.extend(holders.into_iter().flatten());
        Some(result)
    }

    /// Moves a job by the table. False: nothing happened, and the effects say why.
    fn apply(&mut self, id: JobId, event: job::Event, by: &str) -> bool {
        let Some(job) = self.state.book.jobs.get(&id) else { return false };
        match job::next(job.state, event) {
            job::Transition::To(next) => {
                let now = self.now;
                self.edit(id, |job| job.enter(next, now, by));
                if next == State::Queued {
                    self.look_for_slave.insert(id);
                }
                true
            }
            job::Transition::Unchanged => false,
            job::Transition::Rejected(why) => {
                self.effects.push(Effect::Ignored(Ignored::Job(why)));
                false
            }
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        self.effects.push(Effect::Answer { request, answer });
    }

    fn refuse(&mut self, request: RequestId, refusal: Refusal, text: impl Into<String>) {
        self.answer(request, Answer::Refused(refusal, text.into()));
    }

    fn touch_slave(&mut self, key: SlaveKey) {
        self.slaves.insert(key);
        self.look_for_work.insert(key);
    }

    /// Queued jobs whose latest start has passed.
    fn close_windows(&mut self) {
        while let Some(id) = self.state.book.closed_window(self.now) {
            let reason =
                Reason::new(ReasonCode::WindowClosed, "its latest start passed and no slave had taken it");
            self.edit(id, |job| job.reason = Some(reason));
            self.apply(id, job::Event::WindowClosed, "master");
        }
    }

    /// The end of every step: writes what was touched, and says so to whoever listens.
    fn conclude(mut self) -> Step {
        let mut archived = Vec::new();
        for id in &self.touched {
            let Some(job) = self.state.book.jobs.get_mut(id) else { continue };
            job.revision = job.revision.saturating_add(1);
            self.persist.push(Write::Job(Box::new(job.durable())));
        }
        archived.extend(self.state.book.archive(&self.touched));
        self.state.book.jobs.pack();
        self.state.book.orders.clear();
        for key in &self.slaves {
            if let Some(slave) = self.state.slaves.get(key) {
                self.persist.push(Write::Slave(Box::new(slave.durable())));
            }
        }
        if !self.persist.is_empty() {
            self.state.node.commit = self.state.node.commit.next();
            self.persist.push(Write::Node(self.state.node));
        }
        // What this step says is said once its own writes are durable.
        for effect in &mut self.effects {
            if let Effect::Send { commit, .. } = effect {
                *commit = self.state.node.commit;
            }
        }
        self.stirred.append(&mut self.touched);
        self.stirred_slaves.append(&mut self.slaves);
        self.effects.extend(self.stirred.iter().map(|id| Effect::JobChanged(*id)));
        self.effects.extend(self.stirred_slaves.iter().map(|key| Effect::SlaveChanged(*key)));
        Step { state: self.state, persist: self.persist, effects: self.effects, archived }
    }
}

/// What must hold after every step; the name of the first that does not.
pub fn broken_invariant(state: &Master) -> Option<&'static str> {
    for job in state.book.jobs.values() {
        if job.state == State::Queued && job.holder.is_some() {
            return Some("a queued job is with nobody");
        }
        if (job.state == State::Assigned || job.state == State::Accepted || job.state.is_executing())
            && job.holder.is_none()
        {
            return Some("an assigned job is with a slave");
        }
        if job.attempt > job.last_attempt {
            return Some("attempts are counted");
        }
        if job.state.is_executing() && job.report.as_ref().is_none_or(|report| report.state != job.state) {
            return Some("only a slave says running");
        }
        if job.state.is_ended() {
            return Some("what has ended is on disk, not in memory");
        }
    }
    if state.slaves.values().any(|slave| slave.enrolled != Enrolled::Yes && slave.current().is_some()) {
        return Some("who is not enrolled has no link");
    }
    state.book.broken_invariant()
}

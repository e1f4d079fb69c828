//! The slave's side of the driver loop: what happens outside becomes an event of the rules, and what they decide becomes
//! frames, commands to the machine and answers to people. Nothing is decided here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use reloop_node::clock::wall_ms;
use reloop_node::driver::Node;
use reloop_node::link::{LastHeard, Outbox};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::{Commit, JobId, Session};
use reloop_protocol::message::{Answer, CloseCode, Message, Reason, Reply};
use reloop_protocol::slave::{self, Done, Fact, Link, LinkId, Local, NotDone, Now, Probed, RunKey, Slave};
use reloop_protocol::spec::DesiredState;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::identity::{self, Identity};
use crate::machine::{Command, Machines, Work, run_name};
use crate::records;
use crate::status::Status;

/// How many inputs wait for the driver; senders wait while it is full. A few changes of every job that a slave may hold.
pub(crate) const INBOX: usize = 256;

/// The longest wait for a deadline. The timer stands still while the box is suspended, and the rules' clock does not: after
/// a suspension a deadline is acted upon at most this much late. It is short compared with the tolerance for late starts, so that the
/// wait after a short suspension does not make a start missed.
const TIMER_LIMIT: Duration = Duration::from_secs(15);

/// The answer to a person's command: what was done, or why it was not and what would help.
pub(crate) type LocalReply = oneshot::Sender<Result<String, String>>;

pub(crate) enum Input {
    /// The agent's own start, before anything else. The writes set aside the records that could not be read; they are in one
    /// commit with what the rules conclude from that, so that a crash in between cannot lose the reason to ask a person.
    Started(slave::Event, Vec<Op>),
    /// A connection stands, and the master speaks first.
    LinkUp {
        link: LinkId,
        outbox: Outbox,
        /// Set to true when the handshake is over.
        settled: watch::Sender<bool>,
        /// The enrolment token to show.
        token: Option<String>,
    },
    Frame {
        link: LinkId,
        frame: Frame,
    },
    LinkDown {
        link: LinkId,
        /// How it ended, for people.
        why: String,
    },
    /// A connection could not be made, for this reason.
    NotReached(String),
    Machine(RunKey, Fact),
    /// Whether the machine could begin a run now; if not, what stands in the way.
    MachineChecked(Result<(), String>),
    /// A person at the machine gives a command.
    Local(Local, LocalReply),
    /// A person at the machine asks for the status.
    Status(oneshot::Sender<Status>),
    /// Answered when the driver takes it: a sign that it still takes inputs.
    Alive(oneshot::Sender<()>),
    /// A deadline has come.
    TimePassed,
}

/// What is done when the decision is durable.
pub(crate) enum Effect {
    Rules(Box<slave::Effect>),
    /// This state is durable.
    Durable(Arc<Slave>),
    /// The store has a record of this slave: from now on its key counts as known.
    ConfirmIdentity,
    Status(Box<Status>, oneshot::Sender<Status>),
}

/// What the driver is made of.
pub(crate) struct Parts {
    /// As recovered from the store.
    pub(crate) state: Slave,
    pub(crate) machines: Machines,
    pub(crate) identity: Identity,
    pub(crate) state_dir: PathBuf,
    /// The file that exists once a time service has set the wall clock; `None` if the settings ask for no such service.
    pub(crate) clock_sync_file: Option<PathBuf>,
    /// The master's address, for people.
    pub(crate) url: String,
    /// Only asked whether it is healthy.
    pub(crate) store: Store,
    /// Where answers come in that the driver waits for elsewhere.
    pub(crate) inbox: mpsc::WeakSender<Input>,
    /// Gets the error when the store has failed.
    pub(crate) broken: watch::Sender<Option<StoreError>>,
}

pub(crate) struct Driver {
    state: Arc<Slave>,
    /// The newest state that is on disk, which is all that people may see after a failure of the store.
    durable: Arc<Slave>,
    /// Shared with the threads that read a run's output, which may wait for the disk.
    machines: Arc<RwLock<Machines>>,
    identity: Identity,
    state_dir: PathBuf,
    clock_sync_file: Option<PathBuf>,
    url: String,
    store: Store,
    inbox: mpsc::WeakSender<Input>,
    broken: watch::Sender<Option<StoreError>>,
    links: BTreeMap<LinkId, Connection>,
    last_heard: Option<LastHeard>,
    /// Why there was no link the last time.
    trouble: Option<String>,
    replies: BTreeMap<u64, LocalReply>,
    next_request: u64,
    /// When the last step was, by the rules' clock and by the timer's.
    stepped_at: (Now, Instant),
}

struct Connection {
    outbox: Outbox,
    settled: watch::Sender<bool>,
    /// The master's challenge, which a Hello is signed over.
    nonce: Option<[u8; 32]>,
}

impl Connection {
    fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }
}

/// Both clocks of this box. `sync_file` exists once a time service has set the wall clock; `None` counts as not set.
pub(crate) fn now(sync_file: Option<&Path>) -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let millis = u64::try_from(boot.tv_nsec / 1_000_000).unwrap_or(0);
    Now {
        wall: Time(wall_ms()),
        boot_ms: seconds.saturating_mul(1000).saturating_add(millis),
        synchronized: sync_file.is_some_and(Path::exists),
    }
}

impl Driver {
    /// A node to which nothing has happened yet.
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { state, machines, identity, state_dir, clock_sync_file, url, store, inbox, broken } =
            parts;
        let state = Arc::new(state);
        Self {
            durable: Arc::clone(&state),
            state,
            machines: Arc::new(RwLock::new(machines)),
            identity,
            state_dir,
            url,
            store,
            inbox,
            broken,
            links: BTreeMap::new(),
            last_heard: None,
            trouble: None,
            replies: BTreeMap::new(),
            next_request: 0,
            stepped_at: (now(clock_sync_file.as_deref()), Instant::now()),
            clock_sync_file,
        }
    }

    fn now(&self) -> Now {
        now(self.clock_sync_file.as_deref())
    }

    /// Tells the master that the agent stops, and closes the link.
    pub(crate) fn say_goodbye(&mut self) {
        for connection in std::mem::take(&mut self.links).into_values() {
            connection.outbox.close(CloseCode::GoingAway, "the agent stops; its job goes on");
        }
    }

    fn decide(&mut self, event: slave::Event) -> (Vec<Op>, Vec<Effect>) {
        let told = tracing::enabled!(tracing::Level::DEBUG).then(|| told_event(&event));
        self.stepped_at = (self.now(), Instant::now());
        let slave::Step { state, persist, effects } =
            slave::step((*self.state).clone(), self.stepped_at.0, event);
        tracing::debug!(event = told, effects = %told_effects(&effects), "step");
        self.state = Arc::new(state);
        debug_assert_eq!(slave::broken_invariant(&self.state), None);
        let mut ops = Vec::new();
        persist.iter().for_each(|write| records::ops(write, &mut ops));
        let durable = Effect::Durable(Arc::clone(&self.state));
        let effects = effects.into_iter().map(|effect| Effect::Rules(Box::new(effect)));
        (ops, std::iter::once(durable).chain(effects).collect())
    }

    fn received(&mut self, link: LinkId, frame: Frame) -> (Vec<Op>, Vec<Effect>) {
        let Frame { session, commit, message, .. } = frame;
        // The Challenge that the rules take: a link's first message, on the newest link.
        if let (Message::Challenge(challenge), Link::Opened { link: newest }) = (&message, self.state.link)
            && newest == link
            && let Some(connection) = self.links.get_mut(&link)
        {
            connection.nonce = Some(challenge.nonce);
        }
        let unfit = self.unfit(&message);
        self.decide(slave::Event::Received { link, session, commit, message, unfit })
    }

    /// The offers in a message that this slave's programs cannot do, and why.
    fn unfit(&self, message: &Message) -> BTreeMap<JobId, Reason> {
        let offers: Vec<&DesiredState> = match message {
            Message::DesiredState(desired_state) => vec![desired_state],
            Message::Welcome(welcome) => {
                welcome.rulings.iter().filter_map(|ruling| ruling.desired_state.as_ref()).collect()
            }
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Refuse(_)
            | Message::Settled(_)
            | Message::Report(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_)
            | Message::Ping
            | Message::Pong => vec![],
        };
        let reason = |desired_state: &DesiredState| {
            let spec = desired_state.spec.as_ref()?;
            let rejection = self.machines().check(&spec.program, &spec.params).err()?;
            Some((desired_state.job, rejection.reason()))
        };
        offers.into_iter().filter_map(reason).collect()
    }

    fn heard(&mut self, key: RunKey, fact: Fact) -> (Vec<Op>, Vec<Effect>) {
        if let Fact::Probed(Probed::NotBegun(why)) = &fact {
            let key = run_name(key);
            tracing::warn!(
                key,
                why,
                "the machine could not begin it; mend that, and it goes on within 10 minutes, or at once after `reloop-slave clear`"
            );
        }
        self.decide(slave::Event::Machine { work: key, fact })
    }

    fn checked(&mut self, found: Result<(), String>) -> (Vec<Op>, Vec<Effect>) {
        match &found {
            Ok(()) => tracing::info!("the machine can begin jobs again"),
            Err(why) => tracing::warn!(why, "the machine can't begin a job yet"),
        }
        self.decide(slave::Event::MachineChecked(found))
    }

    /// This state is on disk: from here on it may be shown, and a handshake that ended in it is over.
    fn set_durable(&mut self, state: Arc<Slave>) {
        self.durable = state;
        if let Link::Live { link, session, .. } = self.durable.link
            && let Some(connection) = self.links.get(&link).filter(|connection| !connection.is_settled())
        {
            connection.settled.send_replace(true);
            tracing::info!(session = session.0, jobs = self.durable.jobs.len(), "online");
        }
    }

    fn act(&mut self, effect: slave::Effect) {
        match effect {
            slave::Effect::Send { link, session, message } => self.send(link, session, message),
            slave::Effect::Close { link, why } => {
                if let Some(connection) = self.links.get(&link) {
                    connection.outbox.close(why.code(), why.text());
                }
            }
            slave::Effect::Start { work: key, spec } => {
                self.command(Command::Start(Work::new(key, &spec)));
            }
            slave::Effect::Stop { work: key, now } => self.command(Command::Stop { key, now }),
            slave::Effect::Pause(key) => self.command(Command::Pause(key)),
            slave::Effect::Resume(key) => self.command(Command::Resume(key)),
            slave::Effect::Probe { work: key, spec } => {
                self.command(Command::Probe(Work::new(key, &spec)));
            }
            slave::Effect::CheckMachine { program } => self.check_machine(program),
            slave::Effect::Dismiss(key) => self.command(Command::Dismiss(key)),
            slave::Effect::ReadLog { link, session, id, work, offset, limit } => {
                self.read_log(link, session, id, work, offset, limit);
            }
            slave::Effect::Reply { request, reply } => {
                if let Some(waiting) = self.replies.remove(&request) {
                    answer(waiting, reply.map(Done::text).map_err(NotDone::text));
                }
            }
            slave::Effect::ForgetToken => self.forget_token(),
            slave::Effect::Ignored(_) => {}
        }
    }

    fn send(&mut self, link: LinkId, session: Session, message: Message) {
        let Some(connection) = self.links.get(&link) else {
            tracing::debug!(
                link = link.0,
                "a message for a link that has ended: the next handshake makes up for it"
            );
            return;
        };
        let signature = match (&message, connection.nonce) {
            (Message::Hello(hello), Some(nonce)) => {
                Some(self.identity.sign(&wire::signed_bytes(&nonce, hello)))
            }
            _ => None,
        };
        connection.outbox.send(&Frame { session, commit: Commit(0), message, signature });
    }

    fn forget_token(&self) {
        let dir = self.state_dir.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = identity::forget_token(&dir) {
                tracing::warn!(%error, "the enrolment token is used up and can't be removed");
            }
        });
    }

    /// Asks from a thread of its own, because a disk may take its time.
    fn check_machine(&self, program: Option<String>) {
        let (could_begin, inbox) = (self.machines().could_begin(program), self.inbox.clone());
        tokio::task::spawn_blocking(move || {
            let found = could_begin();
            // An agent that ends needs no answer: the next one asks again.
            if let Some(inbox) = inbox.upgrade() {
                drop(inbox.blocking_send(Input::MachineChecked(found)));
            }
        });
    }

    fn command(&self, command: Command) {
        // The lock is only ever held to read or to pass on a command, so it guards no half of a change if it is poisoned.
        self.machines.write().unwrap_or_else(PoisonError::into_inner).command(command);
    }

    fn machines(&self) -> RwLockReadGuard<'_, Machines> {
        self.machines.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers from a thread of its own, because a disk may take its time. If the link ends meanwhile, there is no answer.
    fn read_log(
        &self,
        link: LinkId,
        session: Session,
        id: u32,
        key: RunKey,
        offset: Option<u64>,
        limit: u32,
    ) {
        let Some(connection) = self.links.get(&link) else { return };
        let (outbox, machines) = (connection.outbox.clone(), Arc::clone(&self.machines));
        tokio::task::spawn_blocking(move || {
            let answer = {
                let machines = machines.read().unwrap_or_else(PoisonError::into_inner);
                read_output(&machines, key, offset, limit)
            };
            let message = Message::Answer(Answer { id, answer });
            outbox.send(&Frame { session, commit: Commit(0), message, signature: None });
        });
    }

    fn status(&self, state: &Slave) -> Box<Status> {
        let heard = self.last_heard.as_ref().map(|heard| Time(heard.ms()));
        Box::new(Status::of(state, self.now(), &self.url, heard, self.trouble.clone(), self.store.healthy()))
    }

    fn lost(&self) -> String {
        let why = self.store.healthy().err().unwrap_or(StoreError::Closed);
        format!("nothing can be decided: {why}; the machine goes on as it is")
    }
}

impl Node for Driver {
    type Event = Input;
    type Effect = Effect;

    fn needs_disk(&self, _input: &Input) -> bool {
        false
    }

    async fn prepare(&mut self, _input: &mut Input) -> Result<(), StoreError> {
        Ok(())
    }

    fn step(&mut self, input: Input) -> (Vec<Op>, Vec<Effect>) {
        match input {
            Input::Started(event, mut ops) => {
                let (decided, mut effects) = self.decide(event);
                ops.extend(decided);
                effects.push(Effect::ConfirmIdentity);
                (ops, effects)
            }
            Input::LinkUp { link, outbox, settled, token } => {
                self.last_heard = Some(outbox.last_heard());
                self.links.insert(link, Connection { outbox, settled, nonce: None });
                self.decide(slave::Event::LinkOpened { link, token })
            }
            Input::Frame { link, frame } => self.received(link, frame),
            Input::LinkDown { link, why } => {
                if self.links.remove(&link).is_some_and(|connection| connection.is_settled()) {
                    tracing::info!(why, jobs = self.state.jobs.len(), "offline; the machine goes on");
                }
                self.trouble = Some(why);
                self.decide(slave::Event::LinkClosed { link })
            }
            Input::NotReached(why) => {
                self.trouble = Some(why);
                (vec![], vec![])
            }
            Input::Machine(key, fact) => self.heard(key, fact),
            Input::MachineChecked(found) => self.checked(found),
            Input::Local(command, reply) => {
                self.next_request += 1;
                self.replies.insert(self.next_request, reply);
                self.decide(slave::Event::Local { request: self.next_request, command })
            }
            Input::Status(reply) => (vec![], vec![Effect::Status(self.status(&self.state), reply)]),
            Input::Alive(reply) => {
                answer(reply, ());
                (vec![], vec![])
            }
            Input::TimePassed => self.decide(slave::Event::TimePassed),
        }
    }

    fn time_passed(&self) -> Input {
        Input::TimePassed
    }

    fn next_deadline(&self) -> Option<Instant> {
        // Asked with the last step's time: a deadline that came after that is still ahead of the rules.
        let (now, since) = self.stepped_at;
        let (at, _) = slave::next_deadline(&self.state, now)?;
        let wait = Duration::from_millis(at.saturating_sub(now.boot_ms));
        Some(since + wait.min(TIMER_LIMIT))
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Rules(effect) => self.act(*effect),
            Effect::Durable(state) => self.set_durable(state),
            Effect::ConfirmIdentity => {
                if let Err(error) = self.identity.confirm() {
                    tracing::warn!(%error, "the key stays marked as new: a lost store would not be noticed");
                }
            }
            Effect::Status(status, reply) => answer(reply, *status),
        }
    }

    fn failed(&mut self, error: &StoreError, undone: Vec<Effect>) {
        for effect in undone {
            if let Effect::Status(_, reply) = effect {
                answer(reply, *self.status(&self.durable));
            }
        }
        for connection in std::mem::take(&mut self.links).into_values() {
            connection.outbox.close(CloseCode::Storage, error.to_string());
        }
        for (_, reply) in std::mem::take(&mut self.replies) {
            answer(reply, Err(self.lost()));
        }
        self.broken.send_replace(Some(error.clone()));
    }

    fn refuse(&mut self, input: Input) {
        match input {
            Input::Local(_, reply) => answer(reply, Err(self.lost())),
            Input::Status(reply) => answer(reply, *self.status(&self.durable)),
            Input::Alive(reply) => answer(reply, ()),
            Input::LinkUp { outbox, .. } => outbox.close(CloseCode::Storage, self.lost()),
            Input::Machine(key, fact) => {
                let key = run_name(key);
                tracing::debug!(key, ?fact, "not kept: the next start asks the machine again");
            }
            Input::Started(..)
            | Input::Frame { .. }
            | Input::LinkDown { .. }
            | Input::NotReached(_)
            | Input::MachineChecked(_)
            | Input::TimePassed => {}
        }
    }
}

/// Whoever asked may have gone away; then nobody needs the answer.
fn answer<T>(reply: oneshot::Sender<T>, value: T) {
    let _ = reply.send(value);
}

/// Without an offset: the end of the output.
fn read_output(machines: &Machines, key: RunKey, offset: Option<u64>, limit: u32) -> Reply {
    let refused = |error: std::io::Error| Reply::Refused(format!("the output can't be read: {error}"));
    let none = || Reply::Refused("the machine keeps no output of this job".to_owned());
    let max = usize::try_from(limit).unwrap_or(usize::MAX);
    let offset = match offset {
        Some(offset) => offset,
        None => match machines.output(key, 0, 0) {
            Ok(Some((_, total))) => total.saturating_sub(u64::from(limit)),
            Ok(None) => return none(),
            Err(error) => return refused(error),
        },
    };
    match machines.output(key, offset, max) {
        Ok(Some((bytes, total))) => Reply::Log { offset: offset.min(total), total, bytes },
        Ok(None) => none(),
        Err(error) => refused(error),
    }
}

/// For the log, without secrets and long values.
fn told_event(event: &slave::Event) -> String {
    match event {
        slave::Event::Received { link, session, message: Message::Challenge(challenge), .. } => {
            let (master, epoch) = (challenge.master, challenge.epoch);
            format!("Challenge {{ link: {}, session: {session}, master: {master}, epoch: {epoch} }}", link.0)
        }
        slave::Event::LinkOpened { link, token } => {
            format!("LinkOpened {{ link: {}, token: {} }}", link.0, token.is_some())
        }
        event => format!("{event:?}"),
    }
}

fn told_effects(effects: &[slave::Effect]) -> String {
    let told = effects.iter().map(|effect| match effect {
        // It may contain a token.
        slave::Effect::Send { link, session, message: Message::Hello(hello) } => {
            let (rows, outcomes) = (&hello.rows, hello.recent_outcomes.len());
            format!(
                "Hello {{ link: {}, session: {session}, rows: {rows:?}, recent_outcomes: {outcomes} }}",
                link.0
            )
        }
        effect => format!("{effect:?}"),
    });
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;

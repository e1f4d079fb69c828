//! The slave's side of the driver loop: what happens outside becomes an event of the rules, and what they decide
//! becomes frames, commands to the machine and answers to people.
//!
//! Nothing is decided here. The machine and the rules have words of their own for runs and facts, so that neither
//! has to know the other; this is where one becomes the other.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use reloop_node::clock::wall_ms;
use reloop_node::driver::Node;
use reloop_node::link::{LastHeard, Outbox};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::{Commit, JobId, Session};
use reloop_protocol::job::End;
use reloop_protocol::message::{Answer, CloseCode, Message, Outcome, Reason, ReasonCode, Reply};
use reloop_protocol::slave::{self, Ended, Fact, Link, LinkId, Local, Now, Probed, RunKey, Slave};
use reloop_protocol::spec::{DesiredState, Spec};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use crate::identity::{self, Identity};
use crate::machine::{self, Command, EndResult, Grade, Machines, Probe, Rejection, Verb, Work};
use crate::records;
use crate::status::Status;

/// How many inputs wait for the driver. Senders wait when it is full, so this only bounds memory: a few changes of
/// every job that a slave may hold.
pub const INBOX: usize = 256;

/// The longest wait for a deadline. The timer stands still while the box is suspended and the rules' clock does not,
/// so a deadline may come this much late after a sleep, and no more.
const TIMER_LIMIT: Duration = Duration::from_secs(60);

/// What happens outside.
pub enum Input {
    /// The agent's own start, and nothing else. Its writes put aside what could not be read: in one commit with what the
    /// rules make of that, so that a crash in between can't lose the reason for which a person is asked.
    Started(slave::Event, Vec<Op>),
    /// A connection stands; the master speaks first.
    LinkUp {
        /// Which.
        link: LinkId,
        /// The node's end of it.
        outbox: Outbox,
        /// To be told when the handshake is over.
        settled: watch::Sender<bool>,
        /// What to show for enrolment.
        token: Option<String>,
    },
    /// The master said something.
    Frame {
        /// On which connection.
        link: LinkId,
        /// What.
        frame: Frame,
    },
    /// A connection ended.
    LinkDown {
        /// Which.
        link: LinkId,
        /// Why, for people.
        why: String,
    },
    /// A connection did not come about.
    NotReached(String),
    /// A machine did or said something.
    Machine(machine::RunKey, machine::Fact),
    /// A person at the machine wants something.
    Local(Local, oneshot::Sender<Result<String, String>>),
    /// A person at the machine asks.
    Status(oneshot::Sender<Status>),
    /// Whether the driver still takes events.
    Alive(oneshot::Sender<()>),
    /// A deadline came.
    TimePassed,
}

/// What is done once the decision is durable.
pub enum Effect {
    /// As the rules say.
    Rules(Box<slave::Effect>),
    /// This state is durable.
    Durable(Arc<Slave>),
    /// The identity has a memory from here on.
    SettleIdentity,
    /// The answer to a person.
    Status(Box<Status>, oneshot::Sender<Status>),
}

/// What the driver needs.
pub struct Parts {
    /// As recovered.
    pub state: Slave,
    /// What it drives.
    pub machines: Machines,
    /// Who it is.
    pub identity: Identity,
    /// Where it keeps its files.
    pub state_dir: PathBuf,
    /// Where it dials, for people.
    pub url: String,
    /// Only to ask whether it is healthy.
    pub store: Store,
    /// To be told when the store has failed.
    pub broken: watch::Sender<Option<StoreError>>,
}

/// The node.
pub struct Driver {
    state: Arc<Slave>,
    /// As people may see it: nothing of it can be lost any more.
    durable: Arc<Slave>,
    /// Shared with whoever reads an output, which may wait for the disk.
    machines: Arc<RwLock<Machines>>,
    identity: Identity,
    state_dir: PathBuf,
    url: String,
    store: Store,
    broken: watch::Sender<Option<StoreError>>,
    links: BTreeMap<LinkId, Connection>,
    last_heard: Option<LastHeard>,
    trouble: Option<String>,
    replies: BTreeMap<u64, oneshot::Sender<Result<String, String>>>,
    next_request: u64,
    /// When the rules last looked: by their clock, and by the timer's.
    looked: (Now, Instant),
}

struct Connection {
    outbox: Outbox,
    settled: watch::Sender<bool>,
    nonce: Option<[u8; 32]>,
}

/// Both clocks of this box.
pub fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let millis = u64::try_from(boot.tv_nsec / 1_000_000).unwrap_or(0);
    Now { wall: Time(wall_ms()), boot_ms: seconds.saturating_mul(1000).saturating_add(millis) }
}

impl Driver {
    /// A node to which nothing has happened yet.
    pub fn new(parts: Parts) -> Self {
        let Parts { state, machines, identity, state_dir, url, store, broken } = parts;
        let state = Arc::new(state);
        Self {
            durable: Arc::clone(&state),
            state,
            machines: Arc::new(RwLock::new(machines)),
            identity,
            state_dir,
            url,
            store,
            broken,
            links: BTreeMap::new(),
            last_heard: None,
            trouble: None,
            replies: BTreeMap::new(),
            next_request: 0,
            looked: (now(), Instant::now()),
        }
    }

    /// Ends all links in good order. The machine goes on.
    pub fn say_goodbye(&mut self) {
        for connection in std::mem::take(&mut self.links).into_values() {
            connection.outbox.close(CloseCode::GoingAway, "the agent stops; its job goes on");
        }
    }

    fn decide(&mut self, event: slave::Event) -> (Vec<Op>, Vec<Effect>) {
        let told = tracing::enabled!(tracing::Level::DEBUG).then(|| told_event(&event));
        self.looked = (now(), Instant::now());
        let slave::Step { state, persist, effects } =
            slave::step((*self.state).clone(), self.looked.0, event);
        tracing::debug!(event = told, effects = %told_effects(&effects), "step");
        self.state = Arc::new(state);
        debug_assert_eq!(slave::broken_invariant(&self.state), None);
        if let Link::Live { link, .. } = self.state.link
            && let Some(connection) = self.links.get(&link)
            && !*connection.settled.borrow()
        {
            connection.settled.send_replace(true);
            let session = self.state.node.session.0;
            tracing::info!(session, jobs = self.state.jobs.len(), "online");
        }
        let mut ops = Vec::new();
        persist.iter().for_each(|write| records::ops(write, &mut ops));
        let durable = Effect::Durable(Arc::clone(&self.state));
        let effects = effects.into_iter().map(|effect| Effect::Rules(Box::new(effect)));
        (ops, std::iter::once(durable).chain(effects).collect())
    }

    fn received(&mut self, link: LinkId, frame: Frame) -> (Vec<Op>, Vec<Effect>) {
        let Frame { session, commit, message, .. } = frame;
        if let (Message::Challenge(challenge), Some(connection)) = (&message, self.links.get_mut(&link)) {
            connection.nonce = Some(challenge.nonce);
        }
        let unfit = self.unfit(&message);
        self.decide(slave::Event::Received { link, session, commit, message, unfit })
    }

    /// Which of the offers in a message this slave's programs cannot do.
    fn unfit(&self, message: &Message) -> BTreeMap<JobId, Reason> {
        let wants: Vec<&DesiredState> = match message {
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
            let key = machine::RunKey {
                job: desired_state.job,
                attempt: desired_state.attempt,
                run: Default::default(),
            };
            let rejection = self.machines().check(&work(key, spec)).err()?;
            Some((desired_state.job, reason_of(&rejection)))
        };
        wants.into_iter().filter_map(reason).collect()
    }

    fn heard(&mut self, key: machine::RunKey, fact: machine::Fact) -> (Vec<Op>, Vec<Effect>) {
        if let machine::Fact::Probed(Probe::NotBegun { why }) = &fact {
            tracing::warn!(%key, why, "the machine could not begin it: mend that, then `reloop-slave clear`");
        }
        let fact = match fact {
            machine::Fact::Started => Fact::Started,
            machine::Fact::Progress { permille, phase, note } => Fact::Progressed {
                permille,
                note: match (phase, note) {
                    (Some(phase), Some(note)) => Some(format!("{phase}: {note}")),
                    (phase, note) => phase.or(note),
                },
            },
            machine::Fact::Paused => Fact::Paused,
            machine::Fact::Resumed => Fact::Resumed,
            // The rules know: they wanted it.
            machine::Fact::Stopping => return (vec![], vec![]),
            machine::Fact::Ended(ended) => Fact::Ended(ended_of(ended)),
            machine::Fact::Rejected(rejection) => Fact::StartRejected(reason_of(&rejection)),
            machine::Fact::Refused { what: Verb::Start, why } => Fact::StartRefused(why),
            machine::Fact::Refused { what: Verb::Stop, why } => Fact::StopRefused(why),
            machine::Fact::Refused { what: Verb::Pause | Verb::Resume, why } => Fact::PauseRefused(why),
            machine::Fact::Probed(probe) => Fact::Probed(probed_of(probe)),
        };
        self.decide(slave::Event::Machine { work: rules_key(key), fact })
    }

    fn act(&mut self, effect: slave::Effect) {
        match effect {
            slave::Effect::Send { link, session, message } => self.send(link, session, message),
            slave::Effect::Close { link, code, text } => {
                if let Some(connection) = self.links.get(&link) {
                    connection.outbox.close(code, text);
                }
            }
            slave::Effect::Start { work: key, spec } => {
                self.command(Command::Start(work(machine_key(key), &spec)));
            }
            slave::Effect::Stop { work, now } => {
                let grade = if now { Grade::Now } else { Grade::SafePoint };
                self.command(Command::Stop { key: machine_key(work), grade });
            }
            slave::Effect::Pause(work) => self.command(Command::Pause(machine_key(work))),
            slave::Effect::Resume(work) => self.command(Command::Resume(machine_key(work))),
            slave::Effect::Probe { work: key, spec } => {
                self.command(Command::Probe(work(machine_key(key), &spec)));
            }
            slave::Effect::Dismiss(work) => self.command(Command::Dismiss(machine_key(work))),
            slave::Effect::ReadLog { link, session, id, work, offset, limit } => {
                self.read_log(link, session, id, machine_key(work), offset, limit);
            }
            slave::Effect::Reply { request, reply } => {
                if let Some(waiting) = self.replies.remove(&request) {
                    // Whoever asked may have gone away.
                    let _ = waiting.send(reply);
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
                "a message for a link that has ended: the next handshake settles it"
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
                tracing::warn!(%error, "the enrolment token has done its work and can't be removed");
            }
        });
    }

    fn command(&self, command: Command) {
        // A panic of another holder leaves nothing half done: the lock is only ever held for a look or a command.
        self.machines.write().unwrap_or_else(PoisonError::into_inner).command(command);
    }

    fn machines(&self) -> RwLockReadGuard<'_, Machines> {
        self.machines.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// In a thread of its own, because a disk may take its time; it is an answer for now or none at all.
    fn read_log(
        &self,
        link: LinkId,
        session: Session,
        id: u32,
        key: machine::RunKey,
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
        Box::new(Status::of(state, now(), &self.url, heard, self.trouble.clone(), self.store.healthy()))
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
                effects.push(Effect::SettleIdentity);
                (ops, effects)
            }
            Input::LinkUp { link, outbox, settled, token } => {
                self.last_heard = Some(outbox.last_heard());
                self.links.insert(link, Connection { outbox, settled, nonce: None });
                self.decide(slave::Event::LinkOpened { link, token })
            }
            Input::Frame { link, frame } => self.received(link, frame),
            Input::LinkDown { link, why } => {
                let was_live = matches!(self.state.link, Link::Live { link: live, .. } if live == link);
                self.links.remove(&link);
                if was_live {
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
            Input::Local(command, reply) => {
                self.next_request += 1;
                self.replies.insert(self.next_request, reply);
                self.decide(slave::Event::Local { request: self.next_request, command })
            }
            Input::Status(reply) => (vec![], vec![Effect::Status(self.status(&self.state), reply)]),
            Input::Alive(reply) => {
                // Whoever asked may have gone away.
                let _ = reply.send(());
                (vec![], vec![])
            }
            Input::TimePassed => self.decide(slave::Event::TimePassed),
        }
    }

    fn time_passed(&self) -> Input {
        Input::TimePassed
    }

    fn next_deadline(&self) -> Option<Instant> {
        // What came to pass since the rules looked is ahead of them still, whatever this loop did meanwhile.
        let (now, since) = self.looked;
        let (at, _) = slave::next_deadline(&self.state, now)?;
        let wait = Duration::from_millis(at.saturating_sub(now.boot_ms));
        Some(since + wait.min(TIMER_LIMIT))
    }

    fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Rules(effect) => self.act(*effect),
            Effect::Durable(state) => self.durable = state,
            Effect::SettleIdentity => {
                if let Err(error) = self.identity.settle() {
                    tracing::warn!(%error, "the key stays marked as new: a lost store would not be noticed");
                }
            }
            Effect::Status(status, reply) => {
                // Whoever asked may have gone away.
                let _ = reply.send(*status);
            }
        }
    }

    fn failed(&mut self, error: &StoreError, undone: Vec<Effect>) {
        for effect in undone {
            if let Effect::Status(_, reply) = effect {
                // Whoever asked may have gone away.
                let _ = reply.send(*self.status(&self.durable));
            }
        }
        for connection in std::mem::take(&mut self.links).into_values() {
            connection.outbox.close(CloseCode::Storage, error.to_string());
        }
        for (_, reply) in std::mem::take(&mut self.replies) {
            // Whoever asked may have gone away.
            let _ = reply.send(Err(self.lost()));
        }
        self.broken.send_replace(Some(error.clone()));
    }

    fn refuse(&mut self, input: Input) {
        match input {
            Input::Local(_, reply) => {
                // Whoever asked may have gone away.
                let _ = reply.send(Err(self.lost()));
            }
            Input::Status(reply) => {
                // Whoever asked may have gone away.
                let _ = reply.send(*self.status(&self.durable));
            }
            Input::Alive(reply) => {
                // Whoever asked may have gone away.
                let _ = reply.send(());
            }
            Input::LinkUp { outbox, .. } => outbox.close(CloseCode::Storage, self.lost()),
            Input::Machine(key, fact) => {
                tracing::debug!(%key, ?fact, "not kept: the next start asks the machine again");
            }
            Input::Started(..)
            | Input::Frame { .. }
            | Input::LinkDown { .. }
            | Input::NotReached(_)
            | Input::TimePassed => {}
        }
    }
}

fn read_output(machines: &Machines, key: machine::RunKey, offset: Option<u64>, limit: u32) -> Reply {
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

fn work(key: machine::RunKey, spec: &Spec) -> Work {
    Work { key, program: spec.program.clone(), params: spec.params.clone() }
}

fn machine_key(RunKey { job, attempt, run }: RunKey) -> machine::RunKey {
    machine::RunKey { job, attempt, run }
}

fn rules_key(machine::RunKey { job, attempt, run }: machine::RunKey) -> RunKey {
    RunKey { job, attempt, run }
}

fn reason_of(rejection: &Rejection) -> Reason {
    let code = match rejection {
        Rejection::UnknownProgram { .. } => ReasonCode::UnknownProgram,
        Rejection::UnknownParam { .. } | Rejection::MissingParam { .. } | Rejection::BadValue { .. } => {
            ReasonCode::BadParams
        }
    };
    Reason::new(code, rejection.to_string())
}

fn ended_of(ended: machine::Ended) -> Ended {
    let machine::Ended { result, exit_code, signal, text, at_ms } = ended;
    let end = match result {
        EndResult::Succeeded => End::Succeeded,
        EndResult::Failed => End::Failed,
        EndResult::Stopped => End::Stopped,
    };
    Ended { end, outcome: Outcome { exit_code, signal, text }, at: at_ms.map(Time) }
}

fn probed_of(probe: Probe) -> Probed {
    match probe {
        Probe::NeverStarted => Probed::NeverStarted,
        Probe::Running { paused, permille, .. } => Probed::Alive { paused, permille },
        Probe::Ended(ended) => Probed::Ended(ended_of(ended)),
        Probe::Gone => Probed::Gone,
        Probe::Unknown { why } => Probed::Unknown(why),
        Probe::NotBegun { why } => Probed::NotBegun(why),
    }
}

/// For the log, without what is secret or long.
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
        // It may carry a token.
        slave::Effect::Send { link, session, message: Message::Hello(hello) } => {
            format!(
                "Hello {{ link: {}, session: {session}, rows: {:?}, ring: {} }}",
                link.0,
                hello.rows,
                hello.recent_outcomes.len()
            )
        }
        effect => format!("{effect:?}"),
    });
    told.collect::<Vec<_>>().join(", ")
}

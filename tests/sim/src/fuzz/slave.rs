//! A hostile master: the slave is bound to it, so it may send any message. It may assign and end work, but nothing that
//! it sends may start work twice, outside its window or at a machine that must not start, or change an outcome.

use std::collections::{BTreeMap, BTreeSet};

use reloop_protocol::id::{Attempt, JobId, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::limits;
use reloop_protocol::message::{Challenge, Message, Outcome, PROTOCOL, Reason, ReasonCode, Ruling, Welcome};
use reloop_protocol::slave::{
    self, AfterFailure, Effect, Ended, Event, Fact, Link, LinkId, Local, Probed, Release, RunKey, Slave,
    TrustClock,
};
use reloop_protocol::spec::{Desired, DesiredState, Gate, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, MAX_MESSAGE};

use super::any::Source;
use crate::world::World;

/// Acts in one run, at most.
const ACTS: usize = 64;

/// The hostile master's connections are numbered from here; the world's own stay below.
const LINKS: u64 = 1 << 40;

/// The longest text that a machine's driver passes on, in bytes.
const TEXT: usize = 512;

/// The bytes choose the acts: messages of the hostile master between events of the machine, its people and time.
///
/// # Panics
/// The slave starts what it must not, changes an outcome, or its step can't be stored or sent.
pub fn run(bytes: &[u8]) {
    let mut scene = Scene::new(bytes);
    if !scene.source.one_in(8) {
        scene.shake_hands();
    }
    for _ in 0..ACTS {
        if scene.source.is_empty() {
            break;
        }
        if scene.source.below(3) == 0 { scene.honest() } else { scene.hostile() }
    }
}

struct Scene<'a> {
    source: Source<'a>,
    world: World,
    link: LinkId,
    /// The end of each attempt, once it was on disk.
    ended: BTreeMap<(JobId, Attempt), (State, Option<Outcome>)>,
    /// The runs that the machine was told to start.
    begun: BTreeSet<RunKey>,
}

impl<'a> Scene<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let mut source = Source::new(bytes);
        let mut world = World::new(1);
        let held = &mut world.boxes[0];
        held.machine.length_ms = 2_000;
        held.machine.fails = source.one_in(4);
        world.kill_agent(0);
        let settings = &mut world.boxes[0].settings;
        settings.release = source.pick(&[Release::Auto, Release::Auto, Release::Ack]);
        settings.after_failure = source.pick(&[AfterFailure::Release, AfterFailure::Hold]);
        settings.capacity = source.pick(&[1, 4, 64]);
        settings.trust_clock = if source.one_in(2) { TrustClock::Always } else { TrustClock::Never };
        world.boxes[0].cable = false;
        world.revive(0);
        world.acts = Some(Vec::new());
        world.ledger.master_lies = true;
        let (ended, begun) = (BTreeMap::new(), BTreeSet::new());
        Self { source, world, link: LinkId(LINKS), ended, begun }
    }

    fn state(&self) -> &Slave {
        self.world.boxes[0].state.as_ref().expect("the agent lives unless it is being started")
    }

    fn session(&self) -> Session {
        match self.state().link {
            Link::Introduced { session, .. } | Link::Live { session, .. } => session,
            Link::Down | Link::Opened { .. } | Link::Challenged { .. } => self.state().node.session,
        }
    }

    /// An act of the machine, its people or time.
    fn honest(&mut self) {
        match self.source.below(10) {
            0 => drop(self.world.pump_one(0)),
            // Each start is checked before the machine does anything.
            1 => {
                while self.world.pump_one(0) {
                    self.look();
                }
            }
            2 | 3 => {
                let ms = i64::from(self.source.byte()) * 20;
                self.world.pass_some(ms);
            }
            4 => {
                let command = match self.source.below(8) {
                    0 => Local::Ready,
                    1 => Local::Clear,
                    2 => Local::Pause,
                    3 => Local::Resume,
                    4 => Local::Stop { now: self.source.one_in(2) },
                    5 => Local::Lock(true),
                    6 => Local::Lock(false),
                    _ => Local::Resolve { job: None, end: End::Failed },
                };
                self.world.local(0, command);
            }
            5 => {
                let held = &mut self.world.boxes[0];
                held.machine.unstoppable = self.source.one_in(2);
                held.machine.silent = self.source.one_in(3);
                held.machine.refuses = self.source.one_in(4);
            }
            6 => {
                self.world.kill_agent(0);
                if self.source.one_in(2) { self.world.reboot(0) } else { self.world.revive(0) }
            }
            7 => {
                self.world.boxes[0].wall_off = i64::from(self.source.byte()) * 100_000 - 5_000_000;
                self.world.ledger.clocks_were_set = true;
            }
            _ => self.fact(),
        }
        self.look();
    }

    /// A fact from the machine about work that it has.
    fn fact(&mut self) {
        let works: Vec<RunKey> = self.state().jobs.values().map(slave::Job::work).collect();
        if works.is_empty() {
            return;
        }
        let work = works[self.source.below(works.len())];
        let text = "x".repeat(self.source.pick(&[0, 8, TEXT]));
        let outcome = Outcome { exit_code: Some(1), signal: None, text: text.clone() };
        let end = self.source.pick(&[End::Succeeded, End::Failed, End::Stopped]);
        let ended = Ended { end, outcome, at: self.source.one_in(2).then(|| self.source.any()) };
        let fact = match self.source.below(11) {
            0 => Fact::Started,
            1 => Fact::Progressed { permille: self.source.any(), note: Some(text) },
            2 => Fact::Paused,
            3 => Fact::Resumed,
            4 | 5 => Fact::Ended(ended),
            6 => Fact::StartRefused(text),
            9 => Fact::StartRejected(Reason::new(ReasonCode::StartRefused, text)),
            7 => Fact::StopRefused(text),
            8 => Fact::PauseRefused(text),
            _ => Fact::Probed(match self.source.below(6) {
                4 => Probed::NotBegun(text),
                0 => Probed::Alive { paused: self.source.one_in(2), permille: None },
                1 => Probed::Ended(ended),
                2 => Probed::Gone,
                3 => Probed::NeverStarted,
                _ => Probed::Unknown(text),
            }),
        };
        // A machine reports only what it was told to start, and does not contradict itself: what it said has ended
        // stays ended.
        if !self.begun.contains(&work) {
            return;
        }
        match &fact {
            Fact::StartRejected(_)
            | Fact::Ended(_)
            | Fact::Probed(Probed::NeverStarted | Probed::NotBegun(_) | Probed::Gone | Probed::Ended(_)) => {
                self.world.boxes[0].machine.let_go(work);
            }
            _ => {}
        }
        self.world.slave_event(0, Event::Machine { work, fact });
    }

    /// An act of the hostile master.
    fn hostile(&mut self) {
        self.remember();
        match self.source.below(16) {
            0 => self.shake_hands(),
            1 => {
                self.dial();
                let mut challenge: Challenge = self.source.any();
                if !self.source.one_in(4) {
                    challenge.protocol = PROTOCOL;
                }
                self.say(Message::Challenge(challenge));
                if !self.source.one_in(4) {
                    let welcome = self.welcome();
                    self.say(Message::Welcome(welcome));
                }
            }
            2 | 3 => {
                let welcome = self.welcome();
                self.say(Message::Welcome(welcome));
            }
            4..=9 => {
                let desired_state = self.desired_state();
                self.say(Message::DesiredState(desired_state));
            }
            10 => {
                let mut forget: reloop_protocol::message::Forget = self.source.any();
                let right = !self.source.one_in(4);
                if let Some(job) = self.state().jobs.get(&forget.job).filter(|_| right) {
                    forget.attempt = job.report.attempt;
                    forget.seq = job.report.seq;
                }
                self.say(Message::Forget(forget));
            }
            11 => {
                let link = self.link;
                self.world.slave_event(0, Event::LinkClosed { link });
                self.look();
            }
            _ => {
                let message: Message = self.source.any();
                self.say(message);
            }
        }
    }

    /// Opens another connection: on one connection a master introduces itself only once.
    fn dial(&mut self) {
        let link = self.link;
        self.world.slave_event(0, Event::LinkClosed { link });
        self.link = LinkId(link.0 + 1);
        self.world.slave_event(0, Event::LinkOpened { link: self.link, token: None });
        self.look();
    }

    /// A handshake as the slave's own master does it, so that most runs get beyond it.
    fn shake_hands(&mut self) {
        self.remember();
        self.dial();
        let mut challenge: Challenge = self.source.any();
        let binding = self.state().node.binding.expect("it was admitted when the world began");
        (challenge.protocol, challenge.master, challenge.epoch) = (PROTOCOL, binding.master, binding.epoch);
        challenge.time = self.world.now();
        if !self.source.one_in(4) {
            challenge.commit = binding.commit;
        }
        self.say(Message::Challenge(challenge));
        let operating_mode = self.state().node.operating_mode;
        let session = self.session();
        self.say(Message::Welcome(Welcome {
            protocol: 1,
            session,
            binding,
            operating_mode,
            rulings: vec![],
        }));
    }

    fn welcome(&mut self) -> Welcome {
        let mut welcome: Welcome = self.source.any();
        welcome.session = self.session();
        if welcome.rulings.is_empty() {
            let job = self.source.any();
            let attempt = self.source.any();
            let desired_state = self.source.one_in(2).then(|| self.desired_state());
            let ruling =
                Ruling { job, attempt, verdict: self.source.any(), tell: self.source.any(), desired_state };
            welcome.rulings.push(ruling);
        }
        welcome
    }

    /// Mostly one that the slave could accept.
    fn desired_state(&mut self) -> DesiredState {
        let mut desired_state: DesiredState = self.source.any();
        if !self.source.one_in(3) {
            desired_state.desired = Desired::Run;
        }
        if self.source.one_in(2) {
            desired_state.start =
                StartRule { priority: desired_state.start.priority, ..StartRule::default() };
        }
        if let Some(spec) = &mut desired_state.spec {
            spec.params.retain(|_, value| value.len() < 256);
            if !self.source.one_in(8) {
                desired_state.digest = spec.digest();
            }
        }
        let right = !self.source.one_in(4);
        if let Some(job) = self.state().jobs.get(&desired_state.job).filter(|_| right) {
            desired_state.attempt = job.report.attempt;
            desired_state.generation = job.report.generation.next();
            desired_state.digest = job.digest;
        }
        desired_state
    }

    fn remember(&mut self) {
        let state = self.world.boxes[0].state.as_ref().expect("the agent lives");
        let pools = &mut self.source.pools;
        let known =
            state.jobs.keys().copied().chain(state.recent_outcomes.iter().map(|record| record.report.job));
        let fresh = (0..6).map(|number| JobId([number; 16]));
        pools.bytes("JobId", known.chain(fresh).map(|job| job.0));
        let binding = state.node.binding;
        pools.bytes("MasterId", binding.iter().map(|binding| binding.master.0));
        let epoch = binding.map_or(1, |binding| i64::from(binding.epoch.0));
        pools.numbers("Epoch", [epoch, epoch, epoch, epoch + 1, (epoch - 1).max(0)]);
        let commit = binding.map_or(1, |binding| i64::try_from(binding.commit.0).unwrap_or(i64::MAX - 1));
        pools.numbers("Commit", [commit, commit, commit.saturating_add(1), 0]);
        pools.numbers("Attempt", [1, 1, 2, 3]);
        pools.numbers("WishRev", [1, 2, 3, 4, 5]);
        let now = self.world.now().0;
        pools.numbers("Time", [now, now, now + 1_000, now + 5_000, now - 1_000, i64::MAX, 0]);
        pools.words(&["mill", "bake", ""]);
    }

    /// Sends one message, mostly in the right session, and checks what it must not have changed.
    fn say(&mut self, message: Message) {
        let session = if self.source.one_in(8) { self.source.any() } else { self.session() };
        let commit = self.source.any();
        let frame = Frame { session, commit, message, signature: None };
        if wire::encode(&frame).len() > MAX_MESSAGE || limits::check_frame(&frame).is_err() {
            return;
        }
        let message = frame.message;
        let link = if self.source.one_in(8) { LinkId(self.link.0 - 1) } else { self.link };
        // The effects of time alone are taken out first.
        self.world.slave_event(0, Event::TimePassed);
        self.look();
        let before = self.state().clone();
        let deaf = self.is_deaf(&before, link, session, &message);
        let unfit = match &message {
            Message::DesiredState(desired_state) if self.source.one_in(8) => {
                BTreeMap::from([(desired_state.job, Reason::new(ReasonCode::UnknownProgram, "not here"))])
            }
            _ => BTreeMap::new(),
        };
        if !deaf {
            self.believe(&message);
        }
        let shown = message.clone();
        self.world.slave_event(0, Event::Received { link, session, commit, message, unfit });
        let after = self.state();
        if deaf {
            let told = (slave::durable(after), slave::durable(&before));
            let (is, was) = (&told.0, &told.1);
            assert!(is.1 == was.1 && is.2 == was.2, "jobs were changed by {shown:?}");
            assert!(
                is.0.operating_mode == was.0.operating_mode && is.0.attention == was.0.attention,
                "obeyed {shown:?}"
            );
        }
        let now = self.world.slave_now(0);
        slave::next_deadline(self.state(), now);
        self.look();
    }

    /// Lets the machine drop every uncertain job that the master says is resolved: the person has looked at the
    /// machine. A slave can't know if the master lies about that.
    fn believe(&mut self, message: &Message) {
        let wants: Vec<&DesiredState> = match message {
            Message::DesiredState(desired_state) => vec![desired_state],
            Message::Welcome(welcome) => {
                welcome.rulings.iter().filter_map(|ruling| ruling.desired_state.as_ref()).collect()
            }
            _ => return,
        };
        for desired_state in
            wants.into_iter().filter(|desired_state| matches!(desired_state.desired, Desired::Resolve(_)))
        {
            let uncertain =
                self.state().jobs.get(&desired_state.job).filter(|job| job.report.state == State::Uncertain);
            if let Some(work) = uncertain.map(slave::Job::work) {
                self.world.boxes[0].machine.let_go(work);
            }
        }
    }

    /// The slave must ignore this message: it is of another session or connection, or of a master that is older than
    /// one that it has seen.
    fn is_deaf(&self, before: &Slave, link: LinkId, session: Session, message: &Message) -> bool {
        // A Challenge is no command, but it sets the time, and jobs that waited for that may start.
        if matches!(message, Message::Challenge(_)) {
            return false;
        }
        match before.link {
            Link::Down | Link::Opened { .. } | Link::Challenged { .. } => true,
            Link::Introduced { link: l, session: s, doubtful }
            | Link::Live { link: l, session: s, doubtful } => doubtful || l != link || s != session,
        }
    }

    /// Checks the slave's latest decisions.
    fn look(&mut self) {
        let acts = self.world.acts.replace(Vec::new()).unwrap_or_default();
        let now = self.world.slave_now(0);
        for act in acts {
            match act {
                Effect::Start { work, .. } => {
                    assert!(self.begun.insert(work), "{work:?} was begun twice");
                    self.may_begin(work, now);
                }
                Effect::Close { link, .. } if link.0 >= LINKS => {
                    self.world.slave_event(0, Event::LinkClosed { link });
                }
                _ => {}
            }
        }
        let state = self.world.boxes[0].state.as_ref().expect("the agent lives");
        let held = state.jobs.values().map(|job| &job.report);
        for report in held.chain(state.recent_outcomes.iter().map(|record| &record.report)) {
            let key = (report.job, report.attempt);
            if report.state.is_ended() {
                let said = (report.state, report.outcome.clone());
                let first = self.ended.entry(key).or_insert_with(|| said.clone());
                assert_eq!(*first, said, "the outcome of {key:?} has changed");
            } else {
                assert!(!self.ended.contains_key(&key), "{key:?} had ended, and is {:?}", report.state);
            }
        }
        // Outcomes that it was told to forget, and that are no longer among the recent outcomes, are unknown to it.
        let remembered = state.recent_outcomes.iter().map(|record| record.report.job);
        let known: BTreeSet<JobId> = state.jobs.keys().copied().chain(remembered).collect();
        self.ended.retain(|(job, _), _| known.contains(job));
        self.begun.retain(|work| known.contains(&work.job));
        self.world.boxes[0].machine.begun.retain(|work, _| known.contains(&work.job));
    }

    /// Checks everything that has to hold when a start is decided.
    fn may_begin(&self, work: RunKey, now: slave::Now) {
        let state = self.state();
        let node = &state.node;
        assert!(!node.local_lock && node.attention.is_none() && node.unloading.is_none(), "{node:?}");
        assert!(node.operating_mode.mode.may_start() && state.volatile.probing.is_empty(), "{node:?}");
        let Some(job) = state.jobs.get(&work.job) else { panic!("{work:?} is not held") };
        assert!(job.spec.digest() == job.digest && job.report.attempt == work.attempt, "{work:?}");
        let others = state.jobs.values().filter(|other| other.report.job != work.job);
        for other in others {
            assert!(!other.report.state.is_executing() && other.report.state != State::Uncertain, "{work:?}");
        }
        let time = master_time(state, now);
        // A run after an interruption need not begin in the window.
        let [not_before, deadline] =
            [job.start.not_before, job.start.deadline].map(|at| at.filter(|_| !job.window_met));
        match (job.start.gate, time) {
            (Gate::Held, _) => panic!("{work:?} is held"),
            (Gate::Released { latest }, Some(time)) => {
                assert!(time <= latest, "{work:?} was released until {latest}")
            }
            (Gate::Released { .. }, None) => panic!("{work:?} was begun without a clock"),
            (Gate::Open, Some(time)) => {
                assert!(not_before.is_none_or(|at| at <= time), "{work:?} was begun early");
            }
            (Gate::Open, None) => {
                assert!(not_before.is_none(), "{work:?} was begun without a clock")
            }
        }
        match time {
            Some(time) => assert!(deadline.is_none_or(|at| time <= at), "{work:?} was begun late"),
            None => assert!(deadline.is_none(), "{work:?} was begun without a clock"),
        }
    }
}

/// The master's time by the slave's own records, computed independently.
fn master_time(state: &Slave, now: slave::Now) -> Option<Time> {
    let sync = state.node.sync?;
    let passed = if Some(sync.boot) == state.volatile.boot {
        i128::from(now.boot_ms) - i128::from(sync.boot_ms)
    } else if state.settings.trust_clock == TrustClock::Always {
        i128::from(now.wall.0) - i128::from(sync.wall.0)
    } else {
        return None;
    };
    let time = (i128::from(sync.master.0) + passed).clamp(i64::MIN.into(), i64::MAX.into());
    i64::try_from(time).ok().map(Time)
}

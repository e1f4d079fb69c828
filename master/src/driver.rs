//! The master's loop: steps the rules, turns their writes into records, and performs their effects when those are durable.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reloop_node::clock::wall_ms;
use reloop_node::driver::Node;
use reloop_node::link::{LastHeard, Outbox};
use reloop_node::store::{Op, Store, StoreError};
use reloop_protocol::id::{Session, SlaveKey};
use reloop_protocol::master::{self, Answer, Effect, Event, Loaded, Master, RequestId, SlaveRecord, Unknown};
use reloop_protocol::message::CloseCode;
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::{Millis, Time, clock_step};
use reloop_protocol::wire::Frame;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::changes::Change;
use crate::directory::Directory;
use crate::handle::{Deliver, Handle, INBOX, Input, Look, Shared};
use crate::records;

/// How often the wall clock is compared with the monotonic one.
const CLOCK_PERIOD: Duration = Duration::from_secs(5);

/// Told to slaves after a failed write.
const CANNOT_WRITE: &str = "the master cannot write to its disk";

/// A master's loop before it runs, the handle to it, and its inbox. An older link of a slave that connects again has
/// `probe_patience` to answer a probe.
pub(crate) fn new(
    state: Master,
    store: Store,
    probe_patience: Duration,
) -> (Driver, Handle, mpsc::Receiver<Input>) {
    let (inbox, inputs) = mpsc::channel(INBOX);
    let shared = Shared::new(&state);
    let driver = Driver {
        state: Some(state),
        rereading: false,
        looks: Vec::new(),
        store: store.clone(),
        inbox: inbox.downgrade(),
        shared: shared.clone(),
        links: BTreeMap::new(),
        live: BTreeMap::new(),
        doubters: 0,
        waiting: BTreeMap::new(),
        loaded: Loaded::default(),
        probe_patience,
        clocks: (wall_ms(), Instant::now()),
    };
    (driver, Handle::new(inbox, store, shared), inputs)
}

/// The master as [`reloop_node::driver::run`] runs it.
pub(crate) struct Driver {
    /// `None` while it is stepped, and after a failed write until the disk was read again.
    state: Option<Master>,
    rereading: bool,
    /// Looks that came while `rereading`.
    looks: Vec<Look>,
    store: Store,
    inbox: mpsc::WeakSender<Input>,
    shared: Shared,
    links: BTreeMap<LinkId, (Outbox, Session)>,
    /// The live link of each slave, as of the newest step.
    live: BTreeMap<SlaveKey, LinkId>,
    /// As of the newest step.
    doubters: usize,
    waiting: BTreeMap<RequestId, oneshot::Sender<Answer>>,
    /// What was read from disk for the next input.
    loaded: Loaded,
    probe_patience: Duration,
    /// The wall clock in milliseconds and the monotonic clock when they were last compared.
    clocks: (i64, Instant),
}

/// What the loop does once everything that was decided before is durable.
pub(crate) enum Act {
    Effect(Box<Effect>),
    Deliver(Deliver),
    LiveLinkChanged(Box<LiveLink>),
    /// `first` is the name of one of the slaves that have seen a later state of this master.
    DoubtersChanged {
        before: usize,
        now: usize,
        first: Option<String>,
    },
}

/// A slave's live link, after it changed.
pub(crate) struct LiveLink {
    slave: SlaveKey,
    /// `None` if the slave has no live link.
    last_heard: Option<LastHeard>,
    /// For the log; `None` if the slave is as online or offline as before.
    described: Option<Described>,
}

/// A slave in the log.
struct Described {
    name: String,
    session: Session,
    jobs: usize,
}

impl Node for Driver {
    type Event = Input;
    type Effect = Act;

    fn needs_disk(&self, input: &Input) -> bool {
        !self.unknown(input).is_empty()
    }

    async fn prepare(&mut self, input: &mut Input) -> Result<(), StoreError> {
        self.loaded = records::look_up(&self.store, &self.unknown(input)).await?;
        Ok(())
    }

    fn step(&mut self, input: Input) -> (Vec<Op>, Vec<Act>) {
        let (mut ops, mut acts) = match self.compare_clocks() {
            Some(step_ms) => {
                tracing::warn!(step_ms, "the clock was set: every slave reconnects to learn the new time");
                self.decide(Event::ClockSet { step_ms })
            }
            None => (Vec::new(), Vec::new()),
        };
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
        Some(Instant::now() + wait.unwrap_or(CLOCK_PERIOD).min(CLOCK_PERIOD))
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Effect(effect) => self.perform_effect(*effect),
            Act::Deliver(deliver) => deliver(),
            Act::LiveLinkChanged(link) => self.tell_link(*link),
            Act::DoubtersChanged { before, now, first } => self.tell_doubters(before, now, first.as_deref()),
        }
    }

    fn failed(&mut self, _error: &StoreError, undone: Vec<Act>) {
        self.shared.failed.store(true, Ordering::Relaxed);
        // Dropping the channels of waiting clients tells them that nothing was promised.
        drop(undone);
        self.waiting.clear();
        // Reports of slaves cannot be stored: slaves repeat them in the next handshake.
        for (outbox, _) in std::mem::take(&mut self.links).into_values() {
            outbox.close(CloseCode::Storage, CANNOT_WRITE);
        }
        let (Some(state), Some(inbox)) = (self.state.take(), self.inbox.upgrade()) else { return };
        let live = state.slaves.values().filter(|slave| slave.live().is_some());
        live.for_each(|slave| self.shared.changes.publish(Change::Slave(slave.key)));
        let (settings, id, store) = (state.settings, state.node.id, self.store.clone());
        // Memory is sized for one state.
        drop(state);
        self.rereading = true;
        tokio::spawn(async move {
            let mut state = Box::new(master::newborn(settings, id));
            let read = records::reread(store, |record| state.restore(record)).await;
            let state = read.map(|()| state);
            // Fails if the master restarts already.
            let _ = inbox.send(Input::Reread(state)).await;
        });
    }

    fn refuse(&mut self, input: Input) {
        match input {
            Input::Look(look) => match &self.state {
                Some(durable) => look(durable, Time(wall_ms()))(),
                None if self.rereading && self.looks.len() < INBOX => self.looks.push(look),
                // Dropping its channel tells the client.
                None => drop(look),
            },
            Input::Reread(Ok(durable)) => {
                tracing::warn!("reads are answered from the state on disk; every slave is shown as offline");
                *self.shared.directory.write().unwrap_or_else(PoisonError::into_inner) =
                    Directory::of(&durable);
                let looks = std::mem::take(&mut self.looks);
                looks.into_iter().for_each(|look| look(&durable, Time(wall_ms()))());
                (self.state, self.rereading) = (Some(*durable), false);
            }
            Input::Reread(Err(error)) => {
                self.looks.clear();
                self.rereading = false;
                tracing::error!(%error, "questions are refused: the state on disk cannot be read");
            }
            Input::Alive(answer) => answer_alive(answer),
            Input::LinkUp { outbox, .. } => outbox.close(CloseCode::Storage, CANNOT_WRITE),
            Input::Link(_) | Input::Call { .. } => {}
        }
    }
}

impl Driver {
    /// Not to be called after a failed write.
    fn state(&self) -> &Master {
        self.state.as_ref().expect("the state is only absent while it is stepped")
    }

    /// What has to be read from disk before the input is stepped.
    fn unknown(&self, input: &Input) -> Unknown {
        match input {
            Input::Link(event) => master::unknown(self.state(), event),
            Input::Call { event, loaded, .. } => master::unknown(self.state(), event).without(loaded),
            Input::LinkUp { .. } | Input::Look(_) | Input::Alive(_) | Input::Reread(_) => Unknown::default(),
        }
    }

    /// Adds what was read from disk to the state, for the next step.
    fn load(&mut self, loaded: Loaded) {
        if loaded.is_empty() {
            return;
        }
        let step = self.apply(Event::Loaded(loaded));
        debug_assert!(step.persist.is_empty() && step.effects.is_empty(), "loading decides nothing");
        self.state = Some(step.state);
    }

    fn take(&mut self, input: Input) -> (Vec<Op>, Vec<Act>) {
        let loaded = std::mem::take(&mut self.loaded);
        self.load(loaded);
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
            Input::Call { event, request, answer, loaded, look } => {
                self.waiting.insert(request, answer);
                self.load(loaded);
                let (ops, mut acts) = self.decide(event);
                acts.extend(look.map(|look| self.look(look)));
                (ops, acts)
            }
            Input::Look(look) => (Vec::new(), vec![self.look(look)]),
            Input::Alive(answer) => {
                answer_alive(answer);
                (Vec::new(), Vec::new())
            }
            Input::Reread(_) => (Vec::new(), Vec::new()),
        }
    }

    fn decide(&mut self, event: Event) -> (Vec<Op>, Vec<Act>) {
        let logged = tracing::enabled!(tracing::Level::DEBUG).then(|| format!("{event:?}"));
        let master::Step { state, persist, effects, .. } = self.apply(event);
        if let Some(event) = logged {
            tracing::debug!(%event, ?effects, writes = persist.len(), "step");
        }
        let mut ops = Vec::with_capacity(persist.len() * 2);
        for write in &persist {
            records::ops(write, &mut ops);
        }
        let mut acts = Vec::with_capacity(effects.len());
        for effect in effects {
            if let Effect::SlaveChanged(key) = effect {
                acts.extend(self.live_link_change(&state, key));
            }
            acts.push(Act::Effect(Box::new(effect)));
        }
        acts.extend(self.doubters_change(&state));
        self.state = Some(state);
        (ops, acts)
    }

    /// Leaves the state absent: the caller puts it back.
    fn apply(&mut self, event: Event) -> master::Step {
        let state = self.state.take().expect("the state is only absent while it is stepped");
        let mut step = master::step(state, Time(wall_ms()), event);
        // Ended jobs are read from disk from now on.
        step.archived.clear();
        step
    }

    fn look(&self, look: Look) -> Act {
        Act::Deliver(look(self.state(), Time(wall_ms())))
    }

    /// What to tell if the slave's live link is another than before.
    fn live_link_change(&mut self, state: &Master, key: SlaveKey) -> Option<Act> {
        let slave = state.slaves.get(&key);
        let live = slave.and_then(SlaveRecord::live).filter(|link| self.links.contains_key(link));
        let before = match live {
            Some(link) => self.live.insert(key, link),
            None => self.live.remove(&key),
        };
        if before == live {
            return None;
        }
        let described = slave.filter(|_| before.is_some() != live.is_some()).map(|slave| Described {
            name: slave.name.clone(),
            session: slave.session,
            jobs: state.book.held_by(key).count(),
        });
        let last_heard = live.and_then(|link| self.links.get(&link)).map(|(outbox, _)| outbox.last_heard());
        Some(Act::LiveLinkChanged(Box::new(LiveLink { slave: key, last_heard, described })))
    }

    /// What to tell if another number of slaves than before have seen a later state of this master.
    fn doubters_change(&mut self, state: &Master) -> Option<Act> {
        let now = state.doubters();
        let before = std::mem::replace(&mut self.doubters, now);
        let first = || {
            let slave = state.doubted_by.iter().find_map(|key| state.slaves.get(key));
            slave.map(|slave| slave.name.clone())
        };
        (before != now).then(|| Act::DoubtersChanged { before, now, first: first() })
    }

    /// By how many milliseconds the wall clock was set since the last comparison; `None` if it was not.
    fn compare_clocks(&mut self) -> Option<i64> {
        let (wall, since) = std::mem::replace(&mut self.clocks, (wall_ms(), Instant::now()));
        let passed = u64::try_from(self.clocks.1.duration_since(since).as_millis()).unwrap_or(u64::MAX);
        clock_step(self.clocks.0.saturating_sub(wall), Millis(passed))
    }

    fn perform_effect(&mut self, effect: Effect) {
        match effect {
            Effect::Send { link, commit, message } => {
                if let Some((outbox, session)) = self.links.get(&link) {
                    outbox.send(&Frame { session: *session, commit, message, signature: None });
                }
            }
            Effect::Close { link, why } => {
                if let Some((outbox, _)) = self.links.get(&link) {
                    let (code, text) = (why.code(), why.text());
                    tracing::info!(link = link.0, code = code.number(), text, "closing a link");
                    outbox.close(code, text);
                }
            }
            Effect::Probe { link } => self.probe(link),
            Effect::Answer { request, answer } => {
                if let Some(waiting) = self.waiting.remove(&request) {
                    // Fails if the client has gone away.
                    let _ = waiting.send(answer);
                }
            }
            Effect::JobChanged(id) => {
                self.shared.newest_id().note(id.0);
                self.shared.changes.publish(Change::Job(id));
            }
            Effect::SlaveChanged(key) => {
                if let Some(slave) = self.state().slaves.get(&key) {
                    let directory = self.shared.directory.write();
                    directory.unwrap_or_else(PoisonError::into_inner).note(key, &slave.name);
                }
                self.shared.changes.publish(Change::Slave(key));
            }
            Effect::Ignored(why) => tracing::debug!(why = why.text(), "ignored"),
        }
    }

    fn probe(&self, link: LinkId) {
        let (Some((outbox, _)), Some(inbox)) = (self.links.get(&link).cloned(), self.inbox.upgrade()) else {
            return;
        };
        let patience = self.probe_patience;
        tokio::spawn(async move {
            let alive = outbox.is_alive(patience).await;
            // Fails if the master has ended.
            let _ = inbox.send(Input::Link(Event::LinkProbed { link, alive })).await;
        });
    }

    fn tell_link(&self, LiveLink { slave, last_heard, described }: LiveLink) {
        let is_online = last_heard.is_some();
        if let Some(last_heard) = last_heard {
            self.shared.contacts.set_link(slave, last_heard);
        }
        if let Some(Described { name, session, jobs }) = described {
            let link = if is_online { "online" } else { "offline; its jobs go on" };
            tracing::info!(slave = name, session = session.0, jobs, "{link}");
        }
    }

    fn tell_doubters(&self, before: usize, now: usize, first: Option<&str>) {
        self.shared.doubters.store(now, Ordering::Relaxed);
        match (before, now) {
            (0, 1..) => tracing::error!(
                slave = first,
                "a slave has seen a later state of this master and takes no orders from it: if the master's files \
                 were put back, `reloop restore confirm`; if another copy of it runs, stop one of the two"
            ),
            (1.., 0) => tracing::info!("no slave doubts this master any more"),
            (0, 0) | (1.., 1..) => {}
        }
    }
}

fn answer_alive(answer: oneshot::Sender<()>) {
    // Fails if whoever asked has gone away.
    let _ = answer.send(());
}

#[cfg(test)]
mod tests {
    use reloop_node::store::Options;
    use reloop_protocol::id::MasterId;
    use reloop_protocol::master::{Enrollment, JobCommand, Settings};
    use reloop_protocol::spec::CancelMode;

    use super::*;
    use crate::rest::bodies;

    async fn commit(store: &Store, ops: Vec<Op>) {
        let (written, is_written) = oneshot::channel();
        store.commit(ops, move |result| written.send(result).unwrap());
        is_written.await.unwrap().unwrap();
    }

    fn answer(acts: Vec<Act>) -> Option<Answer> {
        acts.into_iter().find_map(|act| match act {
            Act::Effect(effect) => match *effect {
                Effect::Answer { answer, .. } => Some(answer),
                _ => None,
            },
            _ => None,
        })
    }

    #[tokio::test]
    async fn what_an_event_needs_from_disk_is_there_if_the_clock_was_set_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
        let store = Store::open(&dir.path().join("store"), options).unwrap().store;
        let state = master::newborn(
            Settings { enrollment: Enrollment::Open, placement: Default::default() },
            MasterId([1; 16]),
        );
        let (mut driver, _handle, _inputs) = new(state, store.clone(), Duration::from_secs(1));
        let (order, key) = bodies::order(br#"{"program": "mill"}"#, None, Time(wall_ms())).unwrap();
        let (request, jobs) = (RequestId(1), order.jobs.clone());
        let command = |command| Input::Link(Event::JobsCommanded { request, jobs: jobs.clone(), command });
        let placed = Input::Link(Event::OrderPlaced { request, order: Box::new(order), key });
        for input in [placed, command(JobCommand::Cancel(CancelMode::Now))] {
            commit(&store, driver.step(input).0).await;
        }
        assert!(driver.state().book.jobs.is_empty(), "it has ended");
        let mut retry = command(JobCommand::Retry);
        assert!(driver.needs_disk(&retry));
        driver.prepare(&mut retry).await.unwrap();
        driver.clocks.0 -= 3_600_000;
        let answered = answer(driver.step(retry).1);
        assert!(matches!(answered, Some(Answer::Taken(_))), "{answered:?}");
    }
}

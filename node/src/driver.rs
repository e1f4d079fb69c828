//! The loop of a node: the one place where a decision becomes durable and is then acted upon.
//!
//! The loop owns the node's state. It takes all events that wait, steps each, hands everything that has to be written to
//! the store as one commit, and performs the effects of those steps, in their order, when the commit is on disk. The next
//! batch is stepped while a commit is being written, so the disk's latency is paid once per batch and not once per event.
//! The effects of a step that writes nothing wait for the commits before it, because they may tell of an earlier step.
//!
//! A question is an event: its answer is made when it is stepped and given as an effect, when everything that it can tell
//! of is on disk. So nobody sees a decision that could still be lost.
//!
//! If the store fails, no effect of that commit or of a later step is performed, and nothing is stepped any more. What the
//! node then answers is for its [`Node::refuse`] to choose, from what was durable.

use std::collections::VecDeque;
use std::future::Future;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::store::{Op, Store, StoreError};

/// How many events are stepped before they are committed. Limits how long the first of them waits for the last.
const BATCH: usize = 512;

/// How many commits may be under way. One is being written; those behind it become the store's next group. With room for
/// only one behind it, an event that arrives while that place is taken would miss the next group too.
const IN_FLIGHT: usize = 8;

/// A node's state and rules, and how it performs what they decide.
pub trait Node {
    type Event: Send;
    type Effect;

    /// Whether the rules need something from the disk for this event.
    fn needs_disk(&self, event: &Self::Event) -> bool;

    /// Reads what the event needs from the disk. All earlier decisions were handed to the store before, so the answer is not
    /// stale.
    fn prepare(&mut self, event: &mut Self::Event) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Returns what has to be written, and the effects to perform when that is durable.
    fn step(&mut self, event: Self::Event) -> (Vec<Op>, Vec<Self::Effect>);

    /// The event for a deadline that has come.
    fn time_passed(&self) -> Self::Event;

    fn next_deadline(&self) -> Option<Instant>;

    /// Performs an effect whose writes are durable. Must not wait: the loop waits for it.
    fn perform(&mut self, effect: Self::Effect);

    /// Called once, when the store has failed: nothing is stepped any more, and the state may include what never reached the
    /// disk. `undone` are the effects that are not performed.
    fn failed(&mut self, error: &StoreError, undone: Vec<Self::Effect>);

    /// Called for each event after the store has failed, and for one whose [`Node::prepare`] has failed.
    fn refuse(&mut self, event: Self::Event);
}

/// The commits under way, in their order, with the effects that wait for them.
struct Line<E> {
    store: Store,
    report: mpsc::UnboundedSender<(u64, Result<(), StoreError>)>,
    under_way: VecDeque<Commit<E>>,
    number: u64,
}

struct Commit<E> {
    number: u64,
    written: bool,
    effects: Vec<E>,
}

impl<E> Line<E> {
    /// Hands writes to the store. Returns the effects that can be performed at once.
    fn commit(&mut self, ops: Vec<Op>, mut effects: Vec<E>) -> Vec<E> {
        if ops.is_empty() {
            return match self.under_way.back_mut() {
                Some(last) => {
                    last.effects.append(&mut effects);
                    effects
                }
                None => effects,
            };
        }
        self.number += 1;
        let (report, number) = (self.report.clone(), self.number);
        self.store.commit(ops, move |result| {
            // The receiver is gone if the driver has ended.
            let _ = report.send((number, result));
        });
        self.under_way.push_back(Commit { number, written: false, effects });
        Vec::new()
    }

    /// Notes that a commit is on disk. Returns the effects that can be performed now.
    fn written(&mut self, number: u64) -> Vec<E> {
        if let Some(commit) = self.under_way.iter_mut().find(|commit| commit.number == number) {
            commit.written = true;
        }
        let mut effects = Vec::new();
        while self.under_way.front().is_some_and(|commit| commit.written) {
            effects.extend(self.under_way.pop_front().into_iter().flat_map(|commit| commit.effects));
        }
        effects
    }
}

/// Runs the node until every sender of its inbox is gone or `stop` returns. What was decided by then is written and
/// performed.
pub async fn run<N: Node>(
    mut node: N,
    store: Store,
    mut inbox: mpsc::Receiver<N::Event>,
    stop: impl Future<Output = ()>,
) -> Result<N, StoreError> {
    let (report, mut written) = mpsc::unbounded_channel();
    let mut line = Line { store, report, under_way: VecDeque::new(), number: 0 };
    let mut failure: Option<StoreError> = None;
    let mut stopping = false;
    let mut events = Vec::with_capacity(BATCH);
    tokio::pin!(stop);
    loop {
        if stopping && line.under_way.is_empty() {
            return failure.map_or(Ok(node), Err);
        }
        let deadline = if failure.is_none() && !stopping { node.next_deadline() } else { None };
        tokio::select! {
            biased;
            Some((number, result)) = written.recv() => match result {
                Ok(()) => line.written(number).into_iter().for_each(|effect| node.perform(effect)),
                Err(error) => {
                    let undone = line.under_way.drain(..).flat_map(|commit| commit.effects).collect();
                    if failure.is_none() {
                        tracing::error!(%error, "nothing is written any more: no decision is taken until the store is opened anew");
                        node.failed(&error, undone);
                        failure = Some(error);
                    }
                }
            },
            () = &mut stop, if !stopping => stopping = true,
            count = inbox.recv_many(&mut events, BATCH), if !stopping && line.under_way.len() < IN_FLIGHT => {
                stopping = count == 0;
            }
            () = sleep_until(deadline), if line.under_way.len() < IN_FLIGHT => events.push(node.time_passed()),
        }
        if failure.is_some() {
            events.drain(..).for_each(|event| node.refuse(event));
            continue;
        }
        let (mut ops, mut effects) = (Vec::new(), Vec::new());
        for mut event in events.drain(..) {
            if node.needs_disk(&event) {
                let done = line.commit(std::mem::take(&mut ops), std::mem::take(&mut effects));
                done.into_iter().for_each(|effect| node.perform(effect));
                if let Err(error) = node.prepare(&mut event).await {
                    tracing::warn!(%error, "an event needs what cannot be read, and is refused");
                    node.refuse(event);
                    continue;
                }
            }
            let (mut writes, mut acts) = node.step(event);
            ops.append(&mut writes);
            effects.append(&mut acts);
        }
        line.commit(ops, effects).into_iter().for_each(|effect| node.perform(effect));
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use tokio::sync::oneshot;

    use super::*;
    use crate::store::engine::memory::{MemoryDisk, MemoryEngine};

    #[derive(Default)]
    struct Counter {
        count: u64,
        shown: u64,
    }

    enum Event {
        Count(oneshot::Sender<()>),
        Ask(oneshot::Sender<u64>),
        /// Replies when it is stepped, before that is durable.
        Mark(oneshot::Sender<()>),
    }

    enum Effect {
        Counted(u64, oneshot::Sender<()>),
        Tell(u64, oneshot::Sender<u64>),
    }

    impl Node for Counter {
        type Event = Event;
        type Effect = Effect;

        fn needs_disk(&self, _: &Event) -> bool {
            false
        }

        async fn prepare(&mut self, _: &mut Event) -> Result<(), StoreError> {
            Ok(())
        }

        fn step(&mut self, event: Event) -> (Vec<Op>, Vec<Effect>) {
            match event {
                Event::Count(done) => {
                    self.count += 1;
                    let op = Op::Put { key: b"count".to_vec(), value: self.count.to_le_bytes().to_vec() };
                    (vec![op], vec![Effect::Counted(self.count, done)])
                }
                Event::Ask(reply) => (vec![], vec![Effect::Tell(self.count, reply)]),
                Event::Mark(reply) => {
                    reply.send(()).unwrap();
                    (vec![], vec![])
                }
            }
        }

        fn time_passed(&self) -> Event {
            unreachable!("there is no deadline")
        }

        fn next_deadline(&self) -> Option<Instant> {
            None
        }

        fn perform(&mut self, effect: Effect) {
            match effect {
                Effect::Counted(count, done) => {
                    self.shown = count;
                    done.send(()).unwrap();
                }
                Effect::Tell(count, reply) => reply.send(count).unwrap(),
            }
        }

        fn failed(&mut self, _: &StoreError, undone: Vec<Effect>) {
            for effect in undone {
                if let Effect::Tell(_, reply) = effect {
                    reply.send(self.shown).unwrap();
                }
            }
        }

        fn refuse(&mut self, event: Event) {
            if let Event::Ask(reply) = event {
                reply.send(self.shown).unwrap();
            }
        }
    }

    /// A running counter. Each of its writes ends when the test says how.
    struct Bench {
        events: mpsc::Sender<Event>,
        /// The outcome of the next write.
        disk: std::sync::mpsc::Sender<io::Result<()>>,
    }

    impl Bench {
        fn start() -> Self {
            let (disk, outcome) = std::sync::mpsc::channel();
            let sync = move || outcome.recv().unwrap_or(Ok(()));
            let store = Store::in_memory(MemoryEngine::open(&MemoryDisk::default(), Box::new(sync)));
            let (events, inbox) = mpsc::channel(16);
            tokio::spawn(run(Counter::default(), store, inbox, std::future::pending()));
            Self { events, disk }
        }

        async fn send<T>(&self, event: impl FnOnce(oneshot::Sender<T>) -> Event) -> oneshot::Receiver<T> {
            let (reply, replied) = oneshot::channel();
            assert!(self.events.send(event(reply)).await.is_ok());
            replied
        }
    }

    #[tokio::test]
    async fn a_question_is_answered_when_all_that_the_answer_shows_is_on_disk() {
        let bench = Bench::start();
        let counted = bench.send(Event::Count).await;
        let mut asked = bench.send(Event::Ask).await;
        bench.send(Event::Mark).await.await.unwrap();
        // In the next batch, which has nothing to write.
        let mut asked_later = bench.send(Event::Ask).await;
        bench.send(Event::Mark).await.await.unwrap();
        for asked in [&mut asked, &mut asked_later] {
            assert!(asked.try_recv().is_err(), "it was stepped, and what it shows is not durable");
        }
        bench.disk.send(Ok(())).unwrap();
        counted.await.unwrap();
        assert_eq!((asked.await, asked_later.await), (Ok(1), Ok(1)));
    }

    #[tokio::test]
    async fn a_decision_that_never_reached_the_disk_is_shown_to_nobody() {
        let bench = Bench::start();
        let first = bench.send(Event::Count).await;
        bench.disk.send(Ok(())).unwrap();
        first.await.unwrap();
        let lost = bench.send(Event::Count).await;
        bench.send(Event::Mark).await.await.unwrap();
        let during = bench.send(Event::Ask).await;
        bench.send(Event::Mark).await.await.unwrap();
        bench.disk.send(Err(io::Error::from_raw_os_error(5))).unwrap();
        assert_eq!(during.await, Ok(1));
        lost.await.unwrap_err();
        assert_eq!(bench.send(Event::Ask).await.await, Ok(1));
    }
}

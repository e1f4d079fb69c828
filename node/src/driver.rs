//! The loop of a node: the one place where a decision becomes durable and then an act.
//!
//! It owns the node's state. It takes whatever events wait, steps each, hands everything that has to be written to the
//! store as one commit, and performs the effects of those steps, in their order, when the commit is on disk. While
//! one commit is being written the next batch is stepped, so the disk's latency is paid once per batch and not once
//! per event. What has nothing to write still waits for what came before it: an effect may tell of an earlier step.
//!
//! If the store fails, no effect of that commit or of a later step is performed: the node says so and acts no more.

use std::collections::VecDeque;
use std::future::Future;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::store::{Op, Store, StoreError};

/// How many events are stepped before they are committed: bounds how long the first of them waits for the last.
const BATCH: usize = 512;

/// How many commits are under way: one is being written, one waits behind it.
const IN_FLIGHT: usize = 2;

/// A node: its state, its rules, and the means to perform what they decide.
pub trait Node {
    /// What happens to it.
    type Event: Send;
    /// What it does.
    type Effect;

    /// The rules need something from the disk for this event.
    fn needs_disk(&self, event: &Self::Event) -> bool;

    /// Fetches it. Everything that was decided before is on its way to the store by then, so the answer is not stale.
    fn prepare(&mut self, event: &mut Self::Event) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Decides: what has to be written, then what has to be done.
    fn step(&mut self, event: Self::Event) -> (Vec<Op>, Vec<Self::Effect>);

    /// The event that says that a deadline came.
    fn time_passed(&self) -> Self::Event;

    /// When that will be.
    fn next_deadline(&self) -> Option<Instant>;

    /// Does one thing; never waits.
    fn perform(&mut self, effect: Self::Effect);

    /// The store has failed: nothing is decided any more.
    fn failed(&mut self, error: &StoreError);

    /// An event after the store has failed.
    fn refuse(&mut self, event: Self::Event);
}

/// Commits in their order, with what waits for them.
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
    /// Hands writes to the store; gives back what can be done at once.
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
            // A driver that is gone has nothing left to perform.
            let _ = report.send((number, result));
        });
        self.under_way.push_back(Commit { number, written: false, effects });
        Vec::new()
    }

    /// A commit is on disk; gives back what can be done now.
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

/// Runs the node until every sender of its inbox is gone, or `stop` says so; what was decided by then is written and
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
        let deadline = node.next_deadline().filter(|_| failure.is_none() && !stopping);
        tokio::select! {
            biased;
            Some((number, result)) = written.recv() => match result {
                Ok(()) => line.written(number).into_iter().for_each(|effect| node.perform(effect)),
                Err(error) => {
                    line.under_way.clear();
                    if failure.is_none() {
                        tracing::error!(%error, "nothing is written any more: no decision is taken until the store is opened anew");
                        node.failed(&error);
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

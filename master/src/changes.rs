//! Numbers the changes of jobs and slaves, tells subscribers of them, and remembers the newest for subscribers that come
//! back.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use reloop_node::clock::unix_ms;
use reloop_protocol::id::{JobId, SlaveKey};
use tokio::sync::broadcast;

/// How many changes are remembered, and how many a subscriber may fall behind before it has to read everything again.
const CHANGES: usize = 4096;

/// What changed; its content is read when it is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Job(JobId),
    Slave(SlaveKey),
}

/// What a subscriber is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Notice {
    /// `number` is one more than that of the change before.
    Change { number: u64, change: Change },
    /// The subscriber fell behind: it has to read everything again.
    Missed,
    /// The master shuts down.
    Closed,
}

/// Receives every change from its creation on.
#[derive(Debug)]
pub(crate) struct Subscription {
    changes: broadcast::Receiver<(u64, Change)>,
}

impl Subscription {
    /// Waits for the next notice.
    pub(crate) async fn next(&mut self) -> Notice {
        match self.changes.recv().await {
            Ok((number, change)) => Notice::Change { number, change },
            Err(broadcast::error::RecvError::Lagged(_)) => Notice::Missed,
            Err(broadcast::error::RecvError::Closed) => Notice::Closed,
        }
    }
}

/// The changes of one master, in numbered order. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Changes(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    newest: AtomicU64,
    recent: Mutex<VecDeque<(u64, Change)>>,
    sender: broadcast::Sender<(u64, Change)>,
}

impl Changes {
    pub(crate) fn new() -> Self {
        // Based on the clock, so that a number from before a restart is hardly ever one of this process: its subscriber has
        // to read everything again.
        let first = unix_ms() << 12;
        Self(Arc::new(Inner {
            newest: AtomicU64::new(first),
            recent: Mutex::new(VecDeque::new()),
            sender: broadcast::channel(CHANGES).0,
        }))
    }

    pub(crate) fn publish(&self, change: Change) {
        let number = self.0.newest.fetch_add(1, Ordering::SeqCst) + 1;
        let mut recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push_back((number, change));
        if recent.len() > CHANGES {
            recent.pop_front();
        }
        // Fails only while nobody is subscribed.
        let _ = self.0.sender.send((number, change));
    }

    pub(crate) fn subscribe(&self) -> Subscription {
        Subscription { changes: self.0.sender.subscribe() }
    }

    /// The number of the newest change.
    pub(crate) fn newest(&self) -> u64 {
        self.0.newest.load(Ordering::SeqCst)
    }

    /// The changes after `number`, and a subscription to those that follow. `None` if some of them are forgotten, or
    /// `number` is not one of this process.
    pub(crate) fn since(&self, number: u64) -> Option<(Vec<(u64, Change)>, Subscription)> {
        let recent = self.0.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let subscription = self.subscribe();
        let newest = self.newest();
        let oldest = recent.front().map_or(newest + 1, |(number, _)| *number);
        if number > newest || number + 1 < oldest {
            return None;
        }
        Some((recent.iter().filter(|(at, _)| *at > number).copied().collect(), subscription))
    }
}

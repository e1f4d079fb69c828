//! What a node may ask of a link: to send a frame, or to close.

use std::sync::Arc;
use std::time::Duration;

use reloop_protocol::id::{Commit, Session};
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::wire::{self, Frame};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::pulse::LastHeard;

/// How many messages wait to be sent to one peer. A slave holds at most 64 jobs, and a newer message about a job does not
/// replace an older one in the queue, so this is a few changes of everything.
pub const OUTBOX: usize = 256;

/// The shortest and longest pause between two looks for a peer's sign of life: a quick answer is seen at once, and a slow one
/// costs a few looks.
const SIGN_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

#[derive(Debug)]
pub(super) enum Order {
    Send(Vec<u8>),
    Close(CloseCode, String),
}

/// The node's end of a link. When the last clone is dropped, the link ends.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// Boxed, because a channel reserves room for 32 items, on every link.
    orders: mpsc::Sender<Box<Order>>,
    kill: Arc<Notify>,
    heard: LastHeard,
}

impl Outbox {
    pub(super) fn new(orders: mpsc::Sender<Box<Order>>, kill: Arc<Notify>, heard: LastHeard) -> Self {
        Self { orders, kill, heard }
    }

    /// Queues a frame. A peer that has not read [`OUTBOX`] frames loses its link.
    pub fn send(&self, frame: &Frame) {
        self.order(Order::Send(wire::encode(frame)));
    }

    /// Sends what is queued, then closes.
    pub fn close(&self, code: CloseCode, text: impl Into<String>) {
        self.order(Order::Close(code, text.into()));
    }

    fn order(&self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.orders.try_send(Box::new(order)) {
            self.kill.notify_one();
        }
    }

    pub fn last_heard(&self) -> LastHeard {
        self.heard.clone()
    }

    /// [`LastHeard::ms`] of this link.
    pub fn last_heard_ms(&self) -> i64 {
        self.heard.ms()
    }

    /// Pings the peer, and waits this long for any byte from it.
    pub async fn is_alive(&self, patience: Duration) -> bool {
        let before = self.last_heard_ms();
        self.send(&heartbeat(Message::Ping));
        let deadline = Instant::now() + patience;
        let mut pause = SIGN_PAUSE.0;
        while Instant::now() < deadline {
            tokio::time::sleep(pause).await;
            if self.last_heard_ms() > before {
                return true;
            }
            pause = (pause * 2).min(SIGN_PAUSE.1);
        }
        false
    }
}

/// A ping or a pong, which belong to no session.
pub(super) fn heartbeat(message: Message) -> Frame {
    Frame { session: Session(0), commit: Commit(0), message, signature: None }
}

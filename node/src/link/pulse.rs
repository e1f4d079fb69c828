//! When a peer was last heard.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::clock::wall_ms;

/// A connection that notes when its last byte came, because a message that takes long to arrive is a sign of life too.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    pub(super) pulse: Arc<Pulse>,
}

/// When the last byte of a peer came.
#[derive(Debug)]
pub(super) struct Pulse {
    /// By the wall clock, for people.
    wall_ms: Arc<AtomicI64>,
    begin: Instant,
    /// Milliseconds from `begin` to the last byte, by the monotonic clock.
    byte_ms: AtomicU64,
    /// Milliseconds from `begin` to the end of the last whole message.
    message_ms: AtomicU64,
}

impl Pulse {
    pub(super) fn note_byte(&self) {
        self.wall_ms.store(wall_ms(), Ordering::Relaxed);
        self.byte_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(super) fn note_message(&self) {
        self.message_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    pub(super) fn last_heard(&self) -> LastHeard {
        LastHeard(Arc::clone(&self.wall_ms))
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn last_message(&self) -> Instant {
        self.begin + Duration::from_millis(self.message_ms.load(Ordering::Relaxed))
    }

    pub(super) fn last_byte(&self) -> Instant {
        self.begin + Duration::from_millis(self.byte_ms.load(Ordering::Relaxed))
    }
}

impl<S> Counted<S> {
    pub fn new(stream: S) -> Self {
        let wall_ms = Arc::new(AtomicI64::new(wall_ms()));
        let pulse = Pulse {
            wall_ms,
            begin: Instant::now(),
            byte_ms: AtomicU64::new(0),
            message_ms: AtomicU64::new(0),
        };
        Self { stream, pulse: Arc::new(pulse) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.note_byte();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// When the last byte of a peer came. Keeping this does not keep the link.
#[derive(Debug, Clone)]
pub struct LastHeard(Arc<AtomicI64>);

impl LastHeard {
    /// In milliseconds since the Unix epoch, by this computer's clock.
    pub fn ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

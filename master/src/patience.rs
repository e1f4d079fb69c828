//! A client's connection on which nothing is waited for without an end.
//!
//! A peer may be anybody, and each wait for it holds a descriptor. hyper limits the time between two requests, the
//! handlers limit a body's arrival and their own work; what is left is here: a request's head has to be complete soon
//! after its first byte, and a peer has to take something of what is written to it. A long poll or a stream of events
//! that its reader reads may take as long as it likes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::service::Service;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// From a request's first byte to the end of its head, and from the opening of a connection to its first byte: a slow
/// line needs a second for the longest head.
pub const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// Without taking a byte of what is written to it, a peer is given up after this long; a link gives its peer the same.
pub const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// How far the requests of one connection have come.
#[derive(Debug, Default)]
pub struct Turns {
    /// Requests of which the head was read.
    begun: AtomicU64,
    /// Requests that were answered to the end.
    ended: AtomicU64,
    /// It is no HTTP any more, and the link has its own deadlines for what it reads.
    upgraded: AtomicBool,
}

impl Turns {
    /// The request whose head is awaited; none while one is under way.
    fn awaited(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::Relaxed);
        (begun == self.ended.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed))
            .then_some(begun)
    }
}

/// A connection with deadlines for its peer.
#[derive(Debug)]
pub struct Patient<S> {
    stream: S,
    turns: Arc<Turns>,
    head_patience: Duration,
    write_patience: Duration,
    /// The request of which a part has come, and when its head has to be complete.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// When the peer has to have taken something.
    write: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// A connection whose requests are counted there.
    pub fn new(stream: S, turns: Arc<Turns>) -> Self {
        Self {
            stream,
            turns,
            head_patience: HEAD_PATIENCE,
            write_patience: WRITE_PATIENCE,
            head: None,
            write: None,
        }
    }

    /// What a write came to, unless the peer has taken nothing for too long.
    fn written(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let patience = self.write_patience;
        let deadline = self.write.get_or_insert_with(|| Box::pin(sleep(patience)));
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer does not read its answer")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let awaited = self.turns.awaited();
        if self.head.as_ref().is_some_and(|(request, _)| Some(*request) != awaited) {
            self.head = None;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if read.is_ready() {
            if let Some(request) = awaited.filter(|_| buffer.filled().len() > before) {
                let patience = self.head_patience;
                self.head.get_or_insert_with(|| (request, Box::pin(sleep(patience))));
            }
            return read;
        }
        let Some((_, deadline)) = &mut self.head else { return Poll::Pending };
        ready!(deadline.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the head of a request takes too long")))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A service that counts its requests in a connection's [`Turns`].
#[derive(Debug)]
pub struct Counting<S> {
    service: S,
    turns: Arc<Turns>,
}

impl<S> Counting<S> {
    /// Counts the requests of this service there.
    pub fn new(service: S, turns: Arc<Turns>) -> Self {
        Self { service, turns }
    }
}

/// One request, until its answer is written.
#[derive(Debug)]
struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

impl<S> Service<Request<Incoming>> for Counting<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Answer>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Answer>, S::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.turns.begun.fetch_add(1, Ordering::Relaxed);
        let turn = Turn(Arc::clone(&self.turns));
        let answering = self.service.call(request);
        Box::pin(async move {
            let response = answering.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                turn.0.upgraded.store(true, Ordering::Relaxed);
            }
            Ok(response.map(|body| Answer { body, _turn: turn }))
        })
    }
}

/// An answer's body: when it is dropped, all of it was assigned to the connection.
#[derive(Debug)]
pub struct Answer {
    body: Body,
    _turn: Turn,
}

impl hyper::body::Body for Answer {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::*;

    const SMALL: usize = 16;
    const SHORT: Duration = Duration::from_millis(200);

    fn patient(ours: DuplexStream, turns: &Arc<Turns>) -> Patient<DuplexStream> {
        Patient { head_patience: SHORT, write_patience: SHORT, ..Patient::new(ours, Arc::clone(turns)) }
    }

    #[tokio::test]
    async fn the_head_of_each_request_has_to_be_complete_soon_and_nothing_else_on_the_way_in_has_to() {
        let turns = Arc::new(Turns::default());
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = patient(ours, &turns);
        let mut byte = [0];
        for request in 0..2 {
            // Between two requests it is for others to say how long is too long.
            let idle = tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await;
            assert!(idle.is_err(), "{request}");
            peer.write_all(b"G").await.unwrap();
            ours.read_exact(&mut byte).await.unwrap();
            turns.begun.fetch_add(1, Ordering::Relaxed);
            let answering = tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await;
            assert!(answering.is_err(), "{request}");
            drop(Turn(Arc::clone(&turns)));
        }
        // A byte now and then is no progress.
        let dripping = tokio::spawn(async move {
            while peer.write_all(b"G").await.is_ok() {
                tokio::time::sleep(SHORT / 4).await;
            }
        });
        let begun = tokio::time::Instant::now();
        let error = loop {
            if let Err(error) = ours.read_exact(&mut byte).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() >= SHORT);
        drop(ours);
        dripping.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_read_after_an_upgrade_has_no_deadline_here() {
        let turns = Arc::new(Turns::default());
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = patient(ours, &turns);
        turns.upgraded.store(true, Ordering::Relaxed);
        peer.write_all(b"G").await.unwrap();
        let mut byte = [0];
        ours.read_exact(&mut byte).await.unwrap();
        assert!(tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await.is_err());
    }

    #[tokio::test]
    async fn a_peer_has_to_take_something_and_a_slow_one_may_take_long() {
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = patient(ours, &Arc::default());
        let reading = tokio::spawn(async move {
            for _ in 0..4 {
                tokio::time::sleep(SHORT / 2).await;
                peer.read_exact(&mut [0; SMALL]).await.unwrap();
            }
            peer
        });
        let begun = tokio::time::Instant::now();
        ours.write_all(&[0; SMALL * 5]).await.unwrap();
        assert!(begun.elapsed() > SHORT);
        let _peer = reading.await.unwrap();
        let error = ours.write_all(&[0]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

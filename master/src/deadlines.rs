//! Deadlines of a client's connection.
//!
//! A peer may be anybody, and each wait for it holds a file descriptor. hyper limits the time between two requests, the
//! handlers limit the arrival of a body and their own work. The rest is here: the head of a request has to be complete soon
//! after its first byte, and a peer has to take some of what is written to it. A long poll or an event stream that is read
//! has no deadline.

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
pub(crate) const HEAD_PATIENCE: Duration = Duration::from_secs(10);

/// How long a peer may take no byte of what is written to it; the same as on a link.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// How far the requests of one connection have come. Shared by its [`TimedStream`] and its [`CountedService`].
#[derive(Debug, Default)]
pub(crate) struct Requests {
    /// Requests whose head was read.
    begun: AtomicU64,
    /// Requests whose answer was written to the end.
    ended: AtomicU64,
    /// The connection is a link now, which has deadlines of its own for what it reads.
    upgraded: AtomicBool,
}

impl Requests {
    /// The number of the request whose head is awaited; `None` while a request is being answered.
    fn awaited(&self) -> Option<u64> {
        let begun = self.begun.load(Ordering::Relaxed);
        (begun == self.ended.load(Ordering::Relaxed) && !self.upgraded.load(Ordering::Relaxed))
            .then_some(begun)
    }
}

/// A connection whose reads and writes fail when the peer has missed a deadline.
#[derive(Debug)]
pub(crate) struct TimedStream<S> {
    stream: S,
    requests: Arc<Requests>,
    head_patience: Duration,
    write_patience: Duration,
    /// The request whose first bytes have come, and the deadline of its head.
    head: Option<(u64, Pin<Box<Sleep>>)>,
    /// Runs while a write is blocked.
    write: Option<Pin<Box<Sleep>>>,
}

impl<S> TimedStream<S> {
    pub(crate) fn new(stream: S, requests: Arc<Requests>) -> Self {
        Self {
            stream,
            requests,
            head_patience: HEAD_PATIENCE,
            write_patience: WRITE_PATIENCE,
            head: None,
            write: None,
        }
    }

    /// The outcome of a write: an error if the peer has taken nothing until the deadline.
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

impl<S: AsyncRead + Unpin> AsyncRead for TimedStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let awaited = self.requests.awaited();
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

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedStream<S> {
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

/// A service that counts its requests in the connection's [`Requests`].
#[derive(Debug)]
pub(crate) struct CountedService<S> {
    service: S,
    requests: Arc<Requests>,
}

impl<S> CountedService<S> {
    pub(crate) fn new(service: S, requests: Arc<Requests>) -> Self {
        Self { service, requests }
    }
}

impl<S> Service<Request<Incoming>> for CountedService<S>
where
    S: Service<Request<Incoming>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<CountedBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<CountedBody>, S::Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        self.requests.begun.fetch_add(1, Ordering::Relaxed);
        let under_way = UnderWay(Arc::clone(&self.requests));
        let answering = self.service.call(request);
        Box::pin(async move {
            let response = answering.await?;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                under_way.0.upgraded.store(true, Ordering::Relaxed);
            }
            Ok(response.map(|body| CountedBody { body, _under_way: under_way }))
        })
    }
}

/// One request; dropped when its answer is written.
#[derive(Debug)]
struct UnderWay(Arc<Requests>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// The body of an answer. hyper drops it when all of it was given to the connection.
#[derive(Debug)]
pub(crate) struct CountedBody {
    body: Body,
    _under_way: UnderWay,
}

impl hyper::body::Body for CountedBody {
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

    fn timed(ours: DuplexStream, requests: &Arc<Requests>) -> TimedStream<DuplexStream> {
        TimedStream {
            head_patience: SHORT,
            write_patience: SHORT,
            ..TimedStream::new(ours, Arc::clone(requests))
        }
    }

    #[tokio::test]
    async fn the_head_of_each_request_has_to_be_complete_soon_and_nothing_else_on_the_way_in_has_to() {
        let requests = Arc::new(Requests::default());
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = timed(ours, &requests);
        let mut byte = [0];
        for request in 0..2 {
            // Between two requests it is for others to say how long is too long.
            let idle = tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await;
            assert!(idle.is_err(), "{request}");
            peer.write_all(b"G").await.unwrap();
            ours.read_exact(&mut byte).await.unwrap();
            requests.begun.fetch_add(1, Ordering::Relaxed);
            let answering = tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await;
            assert!(answering.is_err(), "{request}");
            drop(UnderWay(Arc::clone(&requests)));
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
        let requests = Arc::new(Requests::default());
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = timed(ours, &requests);
        requests.upgraded.store(true, Ordering::Relaxed);
        peer.write_all(b"G").await.unwrap();
        let mut byte = [0];
        ours.read_exact(&mut byte).await.unwrap();
        assert!(tokio::time::timeout(SHORT * 3, ours.read_exact(&mut byte)).await.is_err());
    }

    #[tokio::test]
    async fn a_peer_has_to_take_something_and_a_slow_one_may_take_long() {
        let (mut peer, ours) = tokio::io::duplex(SMALL);
        let mut ours = timed(ours, &Arc::default());
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

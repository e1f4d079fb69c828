//! The listener: limits how many handshakes run and wait, and upgrades connections to WebSockets.

use std::future::poll_fn;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper_util::rt::TokioIo;
use reloop_node::entropy::random_fraction;
use reloop_node::link::{self, Counted, Timing};
use reloop_protocol::slave::LinkId;
use reloop_protocol::wire::SUBPROTOCOL;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response, create_response};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use super::request::{HEAD_BYTES, is_ordinary};
use super::running;
use crate::deadlines::HEAD_PATIENCE;
use crate::handle::Handle;

/// How long a connection waits for a handshake: half of what a slave gives an upgrade, so that the slave hears when to
/// come back before it gives up by itself.
const WAIT_PATIENCE: Duration = Duration::from_secs(5);

/// When a slave that was turned away should come back: spread, so that slaves do not come back together.
const RETRY_AFTER_SECONDS: RangeInclusive<u64> = 1..=5;

/// What a slave that is turned away is told.
const FULL: &str = "too many slaves connect at once\n";

/// Accepts the connections of slaves.
#[derive(Clone)]
pub(crate) struct Listener {
    handle: Handle,
    timing: Timing,
    handshakes: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    next_link: Arc<AtomicU64>,
}

impl Listener {
    /// A listener that runs at most `handshakes` handshakes at a time and lets at most `waiting` connections wait for one.
    pub(crate) fn new(handle: Handle, timing: Timing, handshakes: usize, waiting: usize) -> Self {
        Self {
            handle,
            timing,
            handshakes: Arc::new(Semaphore::new(handshakes)),
            waiting: Arc::new(Semaphore::new(waiting)),
            next_link: Arc::new(AtomicU64::new(1)),
        }
    }

    /// Whether the first bytes of a connection are an ordinary upgrade request. Such a request needs no HTTP connection,
    /// whose buffers, three times 8 KiB, would be the cost of each of thousands of waiting slaves. The bytes stay unread.
    /// `None` if nothing came in time or the connection broke.
    pub(crate) async fn is_link_request(&self, tcp: &TcpStream) -> Option<bool> {
        // Not `readable` and then `peek`: a connection reported as readable may have nothing, and the peek then waits.
        let look = poll_fn(|context| {
            // A local of the closure: in the future it would be part of every waiting connection.
            let mut head = [0; HEAD_BYTES];
            let mut head = ReadBuf::new(&mut head);
            let looked = ready!(tcp.poll_peek(context, &mut head));
            Poll::Ready(looked.map(|_| is_ordinary(head.filled())))
        });
        tokio::time::timeout(HEAD_PATIENCE, look).await.ok()?.ok()
    }

    /// Answers an ordinary upgrade request. Returns when the upgrade is done or has failed; the link runs in its own task.
    pub(crate) async fn accept(self, mut tcp: TcpStream) {
        let Some(permit) = self.handshake_permit().await else {
            match tokio::time::timeout(HEAD_PATIENCE, turn_away(&mut tcp)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a slave disconnected before it could be turned away")
                }
                Err(_) => tracing::debug!("a slave did not read that it should come back later"),
            }
            return;
        };
        let accepted =
            accept_hdr_async_with_config(Counted::new(tcp), name_subprotocol, Some(link::config()));
        match tokio::time::timeout(HEAD_PATIENCE, accepted).await {
            // A task of its own, so that the memory of the upgrade is freed while the link runs.
            Ok(Ok(socket)) => drop(tokio::spawn(self.run(socket, permit))),
            Ok(Err(error)) => tracing::debug!(%error, "a WebSocket upgrade failed"),
            Err(_) => tracing::debug!("a WebSocket upgrade took too long"),
        }
    }

    /// Permission for a handshake, as soon as one is free; `None` if too many connections wait or this one has waited too
    /// long.
    async fn handshake_permit(&self) -> Option<OwnedSemaphorePermit> {
        // Fails while others wait: the semaphore is fair, and a freed permit goes to the first of them.
        if let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = self.waiting.try_acquire().ok()?;
        let permit = Arc::clone(&self.handshakes).acquire_owned();
        tokio::time::timeout(WAIT_PATIENCE, permit).await.ok()?.ok()
    }

    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: WebSocketStream<Counted<S>>,
        permit: OwnedSemaphorePermit,
    ) {
        let id = LinkId(self.next_link.fetch_add(1, Ordering::Relaxed));
        running::run(self.handle, self.timing, id, socket, permit).await;
    }
}

/// Answers an upgrade request that came through the router: on a connection that a proxy had used before, or in a form that
/// [`Listener::is_link_request`] leaves to others.
pub(crate) async fn upgrade(
    State(listener): State<Listener>,
    mut request: axum::extract::Request,
) -> axum::response::Response {
    let names_ours = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|protocol| protocol.trim() == SUBPROTOCOL))
    });
    if !names_ours {
        let text = format!("this is the slaves' link: a WebSocket with subprotocol {SUBPROTOCOL}\n");
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], text).into_response();
    }
    let Some(permit) = listener.handshake_permit().await else {
        let retry_after = [(header::RETRY_AFTER, retry_after_seconds().to_string())];
        return (StatusCode::SERVICE_UNAVAILABLE, retry_after, FULL).into_response();
    };
    let mut bare = axum::http::Request::new(());
    bare.method_mut().clone_from(request.method());
    bare.uri_mut().clone_from(request.uri());
    *bare.version_mut() = request.version();
    bare.headers_mut().clone_from(request.headers());
    let mut response = match create_response(&bare) {
        Ok(response) => response.map(|()| Body::empty()),
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("not a WebSocket upgrade: {error}\n")).into_response();
        }
    };
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match tokio::time::timeout(HEAD_PATIENCE, upgraded).await {
            Ok(Ok(upgraded)) => {
                let (io, config) = (Counted::new(TokioIo::new(upgraded)), Some(link::config()));
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, config).await;
                listener.run(socket, permit).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "a WebSocket upgrade failed"),
            Err(_) => tracing::debug!("a WebSocket upgrade took too long"),
        }
    });
    response
}

fn retry_after_seconds() -> u64 {
    let span = RETRY_AFTER_SECONDS.end() - RETRY_AFTER_SECONDS.start();
    RETRY_AFTER_SECONDS.start() + (random_fraction() * span as f64).round() as u64
}

#[expect(clippy::result_large_err, reason = "the library's own type")]
fn name_subprotocol(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// Reads the request before the answer is written: closing a connection with unread bytes would discard the answer.
async fn turn_away(tcp: &mut TcpStream) -> std::io::Result<()> {
    let mut head = vec![0; HEAD_BYTES];
    let _ = tcp.read(&mut head).await?;
    let (wait, length) = (retry_after_seconds(), FULL.len());
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {wait}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{FULL}"
    );
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await
}

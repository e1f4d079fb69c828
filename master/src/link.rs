//! The slaves' door: `GET /v1/link`, a WebSocket with subprotocol `reloop.v1`.
//!
//! Until a slave has proved who it is, it costs a place among a limited number of handshakes and nothing else. Past
//! that number it waits for one, in the order of coming, before anything is upgraded: a master that was restarted gets
//! through all of its slaves without a pause. The room to wait in is limited too, and so is the time; whoever finds it
//! full or has waited for too long is told when to come back.

use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::IntoResponse as _;
use hyper_util::rt::TokioIo;
use reloop_node::digest::sha256;
use reloop_node::link::{self, Counted, Timing};
use reloop_node::{clock, entropy};
use reloop_protocol::handshake::{self, FromSlave};
use reloop_protocol::id::Session;
use reloop_protocol::master::Event;
use reloop_protocol::message::{CloseCode, Hello, Message};
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL, Signature};
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response, create_response};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async_with_config};

use crate::driver::{Handle, Input};
use crate::patience::HEAD_PATIENCE;

/// How long a slave waits for a place: half of what it gives an upgrade itself, so that it hears when to come back
/// before it gives up by itself.
const WAIT_PATIENCE: Duration = Duration::from_secs(5);

/// When a slave that found the house full should come back, at the earliest and at the latest, in seconds: spread, so
/// that they do not come back together.
const COME_BACK: (u64, u64) = (1, 5);

/// What such a slave is told.
const FULL: &str = "too many slaves connect at once\n";

/// How an ordinary request begins.
const REQUEST_LINE: &str = "GET /v1/link HTTP/1.1\r\n";

/// The longest head of an ordinary request: a slave's own has a quarter of this, the rest is what proxies add.
const HEAD_BYTES: usize = 1024;

/// What the door needs.
#[derive(Clone)]
pub struct Door {
    handle: Handle,
    timing: Timing,
    places: Arc<Semaphore>,
    seats: Arc<Semaphore>,
    next: Arc<AtomicU64>,
}

impl Door {
    /// A door with this many handshakes at a time, and room for this many that wait for theirs.
    pub fn new(handle: Handle, timing: Timing, handshakes: usize, waiting: usize) -> Self {
        Self {
            handle,
            timing,
            places: Arc::new(Semaphore::new(handshakes)),
            seats: Arc::new(Semaphore::new(waiting)),
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    /// A place for a handshake, as soon as there is one; none if too many wait, or for too long.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        // While somebody waits there is none to be had here: those that become free are theirs.
        if let Ok(place) = Arc::clone(&self.places).try_acquire_owned() {
            return Some(place);
        }
        let _seat = self.seats.try_acquire().ok()?;
        let place = Arc::clone(&self.places).acquire_owned();
        tokio::time::timeout(WAIT_PATIENCE, place).await.ok()?.ok()
    }
}

/// Answers an upgrade request that came the way of every other request: on a connection that a proxy had used before, or
/// in a shape that [`Door::knows`] leaves to others.
pub async fn upgrade(
    State(door): State<Door>,
    mut request: axum::extract::Request,
) -> axum::response::Response {
    let speaks = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|protocol| protocol.trim() == SUBPROTOCOL))
    });
    if !speaks {
        let text = format!("this is the slaves' link: a WebSocket with subprotocol {SUBPROTOCOL}\n");
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], text).into_response();
    }
    let Some(place) = door.place().await else {
        let retry_after = [(header::RETRY_AFTER, come_back().to_string())];
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
                door.run(socket, place).await;
            }
            Ok(Err(error)) => tracing::debug!(%error, "an upgrade came to nothing"),
            Err(_) => tracing::debug!("an upgrade took too long"),
        }
    });
    response
}

/// In seconds.
fn come_back() -> u64 {
    let span = COME_BACK.1 - COME_BACK.0;
    COME_BACK.0 + (entropy::random_fraction() * span as f64).round() as u64
}

/// The head of a complete and ordinary upgrade request for this door. Whatever else comes is for the router: it says what is
/// wrong with it.
fn is_ordinary(head: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(head) else { return false };
    let Some(fields) = text.strip_suffix("\r\n\r\n").and_then(|text| text.strip_prefix(REQUEST_LINE)) else {
        return false;
    };
    let has = |name: &str, value: &str| {
        fields.split("\r\n").filter_map(|field| field.split_once(':')).any(|(found, given)| {
            found.eq_ignore_ascii_case(name)
                && given.split(',').any(|word| value.is_empty() || word.trim().eq_ignore_ascii_case(value))
        })
    };
    has("host", "")
        && has("upgrade", "websocket")
        && has("connection", "upgrade")
        && has("sec-websocket-version", "13")
        && has("sec-websocket-key", "")
        && has("sec-websocket-protocol", SUBPROTOCOL)
}

impl Door {
    /// Whether the first thing on a connection is an ordinary upgrade request, which then needs nothing of what an HTTP
    /// connection needs: its buffers, three times 8 KiB, are what thousands of slaves that wait would cost. Nothing of it
    /// is taken off the connection. None: nothing came in time, or the connection broke.
    pub async fn knows(&self, tcp: &TcpStream) -> Option<bool> {
        // Not `readable` and then `peek`: a connection that is said to be readable may have nothing, and the second waits.
        let look = poll_fn(|context| {
            // Not in the future, which every connection that waits keeps.
            let mut head = [0; HEAD_BYTES];
            let mut head = ReadBuf::new(&mut head);
            let looked = ready!(tcp.poll_peek(context, &mut head));
            Poll::Ready(looked.map(|_| is_ordinary(head.filled())))
        });
        tokio::time::timeout(HEAD_PATIENCE, look).await.ok()?.ok()
    }

    /// Answers such a request, and lets the link run.
    pub async fn meet(self, mut tcp: TcpStream) {
        let Some(place) = self.place().await else {
            match tokio::time::timeout(HEAD_PATIENCE, turn_away(&mut tcp)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a slave was gone before it was told to come back");
                }
                Err(_) => tracing::debug!("a slave did not take the word that it should come back"),
            }
            return;
        };
        let accepted = accept_hdr_async_with_config(Counted::new(tcp), speak, Some(link::config()));
        let accepted = tokio::time::timeout(HEAD_PATIENCE, accepted);
        match accepted.await {
            // In a task of its own, for as long as the link lives: what it took to come here is let go of.
            Ok(Ok(socket)) => drop(tokio::spawn(self.run(socket, place))),
            Ok(Err(error)) => tracing::debug!(%error, "an upgrade came to nothing"),
            Err(_) => tracing::debug!("an upgrade took too long"),
        }
    }
}

/// The answer to an ordinary request names what will be spoken.
#[expect(clippy::result_large_err, reason = "the library's own type")]
fn speak(_: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

/// The request is taken first: a connection that is closed with something unread loses its last words.
async fn turn_away(tcp: &mut TcpStream) -> std::io::Result<()> {
    let mut head = vec![0; HEAD_BYTES];
    let _ = tcp.read(&mut head).await?;
    let (wait, length) = (come_back(), FULL.len());
    let answer = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {wait}\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{FULL}"
    );
    tcp.write_all(answer.as_bytes()).await?;
    tcp.shutdown().await
}

/// How far a link has come.
struct Stage {
    nonce: [u8; 32],
    session: Option<Session>,
    place: Option<OwnedSemaphorePermit>,
}

impl Door {
    async fn run<S: AsyncRead + AsyncWrite + Unpin>(
        self,
        socket: WebSocketStream<Counted<S>>,
        place: OwnedSemaphorePermit,
    ) {
        let id = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let nonce = entropy::random();
        let (settle, settled) = watch::channel(false);
        let stage = Mutex::new(Stage { nonce, session: None, place: Some(place) });
        let on_frame = |frame: Frame| {
            let event = take(&mut stage.lock().unwrap_or_else(PoisonError::into_inner), &settle, id, frame);
            async {
                let Some(event) = event? else { return Ok(()) };
                let gone = |_| (CloseCode::GoingAway, "the master is shutting down".to_owned());
                self.handle.send(Input::Link(event)).await.map_err(gone)
            }
        };
        let mut last_heard = None;
        let mut announced = None;
        let inbox = self.handle.clone();
        let ended = link::run(socket, self.timing, settled, on_frame, |outbox| {
            last_heard = Some(outbox.last_heard());
            // If the master is busy, in a task of its own, because a link that is to be closed must not wait for it. If
            // that is shutting down, the outbox is dropped, and that closes the link.
            let up = Input::LinkUp { link: id, outbox, nonce };
            announced = inbox.try_send(up).err().map(|up| tokio::spawn(async move { inbox.send(*up).await }));
        })
        .await;
        if let Some(announced) = announced {
            // The end is told after the beginning, whatever became of that.
            drop(announced.await);
        }
        tracing::debug!(link = id.0, %ended, "a link ended");
        let last_heard = Time(last_heard.map_or_else(clock::wall_ms, |heard| heard.ms()));
        // The master is shutting down: it needs no news of links.
        let _ = self.handle.send(Input::Link(Event::LinkClosed { link: id, last_heard })).await;
    }
}

/// What a frame means to the rules, if anything.
fn take(
    stage: &mut Stage,
    settle: &watch::Sender<bool>,
    link: LinkId,
    frame: Frame,
) -> Result<Option<Event>, (CloseCode, String)> {
    let kind = handshake::from_slave(stage.session, &frame);
    match (kind, frame.message) {
        (FromSlave::Fault(fault), _) => Err((CloseCode::Protocol, fault.to_owned())),
        (FromSlave::OtherSession, _) => {
            tracing::debug!(link = link.0, "a frame of another session is ignored");
            Ok(None)
        }
        (FromSlave::Hello, Message::Hello(mut hello)) => {
            if !is_authentic(&stage.nonce, &hello, frame.signature) {
                return Err((CloseCode::NotAuthentic, "the signature does not match the key".to_owned()));
            }
            stage.session = Some(hello.session);
            let token = hello.token.take().map(|text| sha256(text.as_bytes()));
            Ok(Some(Event::HelloReceived { link, hello, token }))
        }
        (FromSlave::Hello | FromSlave::Word { .. }, message) => {
            if kind == (FromSlave::Word { settles: true }) {
                stage.place = None;
                settle.send_replace(true);
            }
            Ok(Some(Event::Received { link, message }))
        }
    }
}

/// The Ed25519 signature (RFC 8032) over the nonce and the Hello is the key's.
fn is_authentic(nonce: &[u8; 32], hello: &Hello, signature: Option<Signature>) -> bool {
    let Some(Signature(first, second)) = signature else { return false };
    let key = UnparsedPublicKey::new(&ED25519, hello.key.0);
    key.verify(&wire::signed_bytes(nonce, hello), &[first, second].concat()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "GET /v1/link HTTP/1.1\r\nHost: m\r\nConnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
                        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Protocol: a, reloop.v1\r\n\r\n";

    #[test]
    fn only_a_complete_and_ordinary_request_is_answered_without_the_router() {
        assert!(is_ordinary(HEAD.as_bytes()));
        for (piece, instead) in [
            ("GET", "POST"),
            ("/v1/link", "/v1/links"),
            ("HTTP/1.1", "HTTP/1.0"),
            ("Host: m\r\n", ""),
            ("keep-alive, Upgrade", "keep-alive"),
            ("WebSocket\r\n", "h2c\r\n"),
            ("13", "8"),
            ("Sec-WebSocket-Key", "Key"),
            ("reloop.v1", "reloop.v2"),
            ("\r\n\r\n", "\r\n"),
            ("\r\n\r\n", "\r\n\r\nmore"),
        ] {
            let other = HEAD.replacen(piece, instead, 1);
            assert_ne!(other, HEAD);
            assert!(!is_ordinary(other.as_bytes()), "{other}");
        }
    }
}

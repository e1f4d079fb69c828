//! The slaves' door: `GET /v1/link`, a WebSocket with subprotocol `reloop.v1`.
//!
//! Until a slave has proved who it is, it costs a place among a limited number of handshakes and nothing else. Past
//! that number it waits for one, in the order of coming, before anything is upgraded: a master that was restarted gets
//! through all of its slaves without a pause. The room to wait in is limited too, and so is the time; whoever finds it
//! full or has waited for too long is told when to come back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use hyper_util::rt::TokioIo;
use reloop_node::link::{self, Timing};
use reloop_protocol::id::Session;
use reloop_protocol::master::Event;
use reloop_protocol::message::{CloseCode, Hello, Message};
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL, Signature};
use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::driver::{Handle, Input};

/// How long a slave waits for a place: half of what it gives an upgrade itself, so that it hears when to come back
/// before it gives up by itself.
const WAIT_PATIENCE: Duration = Duration::from_secs(5);

/// When a slave that found the house full should come back, at the earliest and at the latest, in seconds: spread, so
/// that they do not come back together.
const COME_BACK: (u64, u64) = (1, 5);

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

/// Answers an upgrade request.
pub async fn upgrade(State(door): State<Door>, mut request: Request) -> Response {
    let speaks = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|protocol| protocol.trim() == SUBPROTOCOL))
    });
    if !speaks {
        let text = format!("this is the slaves' link: a WebSocket with subprotocol {SUBPROTOCOL}\n");
        return (StatusCode::UPGRADE_REQUIRED, [(header::UPGRADE, "websocket")], text).into_response();
    }
    let Some(place) = door.place().await else {
        let span = COME_BACK.1 - COME_BACK.0;
        let wait = COME_BACK.0 + (link::random_fraction() * span as f64).round() as u64;
        let text = "too many slaves connect at once\n";
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, wait.to_string())], text)
            .into_response();
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
        match upgraded.await {
            Ok(upgraded) => door.run(TokioIo::new(upgraded), place).await,
            Err(error) => tracing::debug!(%error, "an upgrade came to nothing"),
        }
    });
    response
}

/// How far a link has come.
struct Stage {
    nonce: [u8; 32],
    session: Option<Session>,
    place: Option<OwnedSemaphorePermit>,
}

impl Door {
    async fn run(self, io: TokioIo<hyper::upgrade::Upgraded>, place: OwnedSemaphorePermit) {
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(link::config())).await;
        let id = LinkId(self.next.fetch_add(1, Ordering::Relaxed));
        let nonce = link::random();
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
            // In a task of its own, because a link that is to be closed must not wait for a busy master. If that is
            // shutting down, the outbox is dropped, and that closes the link.
            announced =
                Some(tokio::spawn(
                    async move { inbox.send(Input::LinkUp { link: id, outbox, nonce }).await },
                ));
        })
        .await;
        if let Some(announced) = announced {
            // The end is told after the beginning, whatever became of that.
            drop(announced.await);
        }
        tracing::debug!(link = id.0, %ended, "a link ended");
        let last_heard = Time(last_heard.map_or_else(link::wall_ms, |heard| heard.ms()));
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
    match (stage.session, frame.message) {
        (None, Message::Hello(mut hello)) => {
            if frame.session != hello.session {
                return Err((CloseCode::Protocol, "the frame is not of the Hello's session".to_owned()));
            }
            if !is_authentic(&stage.nonce, &hello, frame.signature) {
                return Err((CloseCode::NotAuthentic, "the signature does not match the key".to_owned()));
            }
            stage.session = Some(hello.session);
            let token = hello.token.take().map(|text| sha256(text.as_bytes()));
            Ok(Some(Event::HelloReceived { link, hello, token }))
        }
        (None, _) => Err((CloseCode::Protocol, "a Hello comes first".to_owned())),
        (Some(session), _) if frame.session != session => {
            tracing::debug!(link = link.0, "a frame of another session is ignored");
            Ok(None)
        }
        (Some(_), message) => {
            if matches!(message, Message::Settled(_)) {
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

/// The SHA-256 (FIPS 180-4) of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

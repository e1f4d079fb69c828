//! One link from its upgrade to its end: frames become events of the rules.

use std::sync::{Mutex, PoisonError};

use reloop_node::clock::wall_ms;
use reloop_node::digest::sha256;
use reloop_node::entropy::random;
use reloop_node::link::{self, Counted, Timing};
use reloop_protocol::handshake::{self, FromSlave};
use reloop_protocol::id::Session;
use reloop_protocol::master::Event;
use reloop_protocol::message::{CloseCode, Hello, Message};
use reloop_protocol::slave::LinkId;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, Signature};
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_tungstenite::WebSocketStream;

use crate::handle::{Handle, Input};

/// How far a link's handshake has come.
struct Progress {
    nonce: [u8; 32],
    /// Of the slave's Hello, once its signature was verified.
    session: Option<Session>,
    /// Held until the handshake is settled.
    permit: Option<OwnedSemaphorePermit>,
}

/// Runs the link `id` to its end. `permit` is freed when the handshake is settled.
pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(
    handle: Handle,
    timing: Timing,
    id: LinkId,
    socket: WebSocketStream<Counted<S>>,
    permit: OwnedSemaphorePermit,
) {
    let nonce = random();
    let (settle, settled) = watch::channel(false);
    let progress = Mutex::new(Progress { nonce, session: None, permit: Some(permit) });
    let on_frame = |frame: Frame| {
        let mut progress = progress.lock().unwrap_or_else(PoisonError::into_inner);
        let event = event_of(&mut progress, &settle, id, frame);
        drop(progress);
        async {
            let Some(event) = event? else { return Ok(()) };
            let stopping = |_| (CloseCode::GoingAway, "the master is shutting down".to_owned());
            handle.send(Input::Link(event)).await.map_err(stopping)
        }
    };
    let mut last_heard = None;
    let mut announced = None;
    let inbox = handle.clone();
    let ended = link::run(socket, timing, settled, on_frame, |outbox| {
        last_heard = Some(outbox.last_heard());
        // A full inbox is waited for in a task of its own, so that the link can be closed meanwhile. If the master is
        // shutting down, the outbox is dropped, which closes the link.
        let up = Input::LinkUp { link: id, outbox, nonce };
        announced = inbox.try_send(up).err().map(|up| tokio::spawn(async move { inbox.send(*up).await }));
    })
    .await;
    if let Some(announced) = announced {
        // LinkClosed must come after LinkUp, whether or not that could be sent.
        drop(announced.await);
    }
    tracing::debug!(link = id.0, %ended, "a link ended");
    let last_heard = Time(last_heard.map_or_else(wall_ms, |heard| heard.ms()));
    // Fails only while the master shuts down, which then needs no event.
    let _ = handle.send(Input::Link(Event::LinkClosed { link: id, last_heard })).await;
}

/// The event that a frame is for the rules, if any.
///
/// # Errors
/// The code and the text to close the link with: the frame breaks the protocol, or the Hello's signature is wrong.
fn event_of(
    progress: &mut Progress,
    settle: &watch::Sender<bool>,
    link: LinkId,
    frame: Frame,
) -> Result<Option<Event>, (CloseCode, String)> {
    let kind = handshake::from_slave(progress.session, &frame);
    match (kind, frame.message) {
        (FromSlave::Fault(fault), _) => Err((CloseCode::Protocol, fault.to_owned())),
        (FromSlave::OtherSession, _) => {
            tracing::debug!(link = link.0, "ignored a frame of another session");
            Ok(None)
        }
        (FromSlave::Hello, Message::Hello(mut hello)) => {
            if !is_authentic(&progress.nonce, &hello, frame.signature) {
                return Err((CloseCode::NotAuthentic, "the signature does not match the key".to_owned()));
            }
            progress.session = Some(hello.session);
            let token = hello.token.take().map(|text| sha256(text.as_bytes()));
            Ok(Some(Event::HelloReceived { link, hello, token }))
        }
        (FromSlave::Hello | FromSlave::Word { .. }, message) => {
            if kind == (FromSlave::Word { settles: true }) {
                progress.permit = None;
                settle.send_replace(true);
            }
            Ok(Some(Event::Received { link, message }))
        }
    }
}

/// Whether the Ed25519 signature (RFC 8032) over the nonce and the Hello was made with the Hello's key.
fn is_authentic(nonce: &[u8; 32], hello: &Hello, signature: Option<Signature>) -> bool {
    let Some(Signature(first, second)) = signature else { return false };
    let key = UnparsedPublicKey::new(&ED25519, hello.key.0);
    key.verify(&wire::signed_bytes(nonce, hello), &[first, second].concat()).is_ok()
}

//! One WebSocket link (RFC 6455), as both nodes run it: frames in, frames out, a heartbeat, and an end.
//!
//! The read side always runs (`read`): it answers pings itself and puts everything else into a short queue, so that neither
//! a commit nor a busy driver delays a pong. The write side is bounded (`write`): a peer that does not read loses its link,
//! and the next handshake settles what it missed. Heartbeats are protocol messages, not WebSocket pings, because a reverse
//! proxy may answer those itself.

mod ended;
mod outbox;
mod pulse;
mod read;
mod write;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use reloop_protocol::message::CloseCode;
use reloop_protocol::wire::{self, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

pub use ended::Ended;
pub use outbox::{OUTBOX, Outbox};
pub use pulse::{Counted, LastHeard};
pub use write::jittered;

/// Each link keeps a read buffer of this size: with the library's 128 KiB, ten thousand idle links would need more than a
/// gigabyte. Most messages have less than 200 bytes; the buffer grows for a larger one until that is read.
const READ_BUFFER: usize = 1024;

/// How many messages of one peer wait for the driver. A peer that sends more is closed, and starts over.
const INBOX: usize = 256;

/// How long the peer may take to answer a close (RFC 6455, section 7.1.1).
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// How long to wait between two pings.
    pub heartbeat: Duration,
    /// How long the peer may send no byte.
    pub dead_after: Duration,
    /// How long the handshake may take, from the upgrade to its last message.
    pub handshake: Duration,
}

impl Default for Timing {
    /// Heartbeats come within every common proxy's idle limit of 60 s, and a pulled cable is noticed within a minute.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            dead_after: Duration::from_secs(45),
            handshake: Duration::from_secs(10),
        }
    }
}

/// The sizes of buffers and messages.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * wire::MAX_MESSAGE)
        .max_message_size(Some(wire::MAX_MESSAGE))
        .max_frame_size(Some(wire::MAX_MESSAGE))
}

/// Runs a link to its end.
///
/// `start` gets the node's end. `handle` gets each frame that is not a heartbeat, and may wait; its error closes the link.
/// `settled` becomes true when the handshake is over, for which it has [`Timing::handshake`].
pub async fn run<S, H, F>(
    socket: WebSocketStream<Counted<S>>,
    timing: Timing,
    settled: watch::Receiver<bool>,
    mut handle: H,
    start: impl FnOnce(Outbox),
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Frame) -> F,
    F: Future<Output = Result<(), (CloseCode, String)>>,
{
    let (orders, queue) = mpsc::channel(OUTBOX);
    let kill = Arc::new(Notify::new());
    let pulse = Arc::clone(&socket.get_ref().pulse);
    pulse.note_byte();
    let outbox = Outbox::new(orders, Arc::clone(&kill), pulse.last_heard());
    let pong = Notify::new();
    let (frames, mut inbox) = mpsc::channel::<Box<Frame>>(INBOX);
    let (mut sink, mut stream) = socket.split();
    // No sender is kept here: the link ends when the node drops its outbox.
    start(outbox);
    let ended = tokio::select! {
        ended = read::read(&mut stream, &pulse, &frames, &pong, timing.dead_after) => ended,
        ended = write::write(&mut sink, queue, &pong, &pulse, timing.heartbeat) => ended,
        ended = async {
            while let Some(frame) = inbox.recv().await {
                if let Err((code, text)) = handle(*frame).await {
                    return Ended::ByUs(code, text);
                }
            }
            std::future::pending().await
        } => ended,
        ended = handshake_timeout(settled, timing.handshake) => ended,
        () = kill.notified() => {
            Ended::ByUs(CloseCode::SlowReader, "the peer does not read what it is sent".to_owned())
        }
    };
    let goodbye = async {
        match &ended {
            // A peer that is silent or does not read would not receive the reason.
            Ended::ByUs(CloseCode::Silent | CloseCode::SlowReader, _) | Ended::Broken(_) => Ok(()),
            Ended::ByUs(code, text) => {
                sink.send(WsMessage::Close(Some(ended::close_frame(*code, text)))).await?;
                while stream.next().await.is_some_and(|message| message.is_ok()) {}
                Ok(())
            }
            // The library has queued the answer to the close; this sends it.
            Ended::ByPeer(..) => sink.close().await,
        }
    };
    match timeout(CLOSE_PATIENCE, goodbye).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the peer was gone before the close was done"),
    }
    ended
}

/// Returns when the handshake has taken too long, and never if it is over in time.
async fn handshake_timeout(mut settled: watch::Receiver<bool>, limit: Duration) -> Ended {
    let in_time = timeout(limit, settled.wait_for(|settled| *settled)).await.is_ok();
    if in_time {
        std::future::pending::<()>().await;
    }
    Ended::ByUs(CloseCode::TooSlow, "the handshake took too long".to_owned())
}

#[cfg(test)]
mod tests {
    use reloop_protocol::id::{Commit, Session};
    use reloop_protocol::message::Message;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::time::Instant;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const DEAD_AFTER: Duration = Duration::from_millis(600);

    /// A master's end of a link, and the bare connection to it.
    async fn link() -> (tokio::io::DuplexStream, tokio::task::JoinHandle<Ended>) {
        let (peer, ours) = tokio::io::duplex(1 << 16);
        let socket = WebSocketStream::from_raw_socket(Counted::new(ours), Role::Server, Some(config())).await;
        let timing =
            Timing { heartbeat: Duration::from_secs(3600), dead_after: DEAD_AFTER, ..Timing::default() };
        let ended = tokio::spawn(async move {
            let (_settle, settled) = tokio::sync::watch::channel(true);
            let mut kept = None;
            run(socket, timing, settled, |_| async { Ok(()) }, |outbox| kept = Some(outbox)).await
        });
        (peer, ended)
    }

    #[tokio::test]
    async fn a_message_that_takes_long_to_come_is_a_sign_of_life() {
        let (mut peer, ended) = link().await;
        let ping = wire::encode(&Frame {
            session: Session(0),
            commit: Commit(0),
            message: Message::Ping,
            signature: None,
        });
        // Binary, final, masked with zeros (RFC 6455, section 5.2).
        let mut bytes = vec![0x82, 0x80 | u8::try_from(ping.len()).unwrap(), 0, 0, 0, 0];
        bytes.extend(ping);
        let begun = Instant::now();
        for byte in bytes {
            peer.write_all(&[byte]).await.unwrap();
            // The whole message takes longer than a silence may last, each byte does not.
            tokio::time::sleep(DEAD_AFTER / 4).await;
        }
        assert!(begun.elapsed() > DEAD_AFTER);
        let mut pong = [0; 2];
        peer.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong[0], 0x82, "an answer, and no close");
        assert_eq!(
            ended.await.unwrap(),
            Ended::ByUs(CloseCode::Silent, "nothing was heard for too long".to_owned())
        );
    }
}

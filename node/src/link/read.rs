//! The read side of a link.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::SplitStream;
use reloop_protocol::limits;
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::wire::{self, Frame, WireError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::timeout_at;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use super::ended::Ended;
use super::pulse::{Counted, Pulse};

/// Reads frames until the link ends. Heartbeats are answered or dropped here, all other frames go to the queue.
pub(super) async fn read<S>(
    stream: &mut SplitStream<WebSocketStream<Counted<S>>>,
    pulse: &Pulse,
    frames: &mpsc::Sender<Box<Frame>>,
    pong: &Notify,
    dead_after: Duration,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // A peer that has only pinged is unauthenticated: its messages are small.
    let mut limit = wire::MAX_HANDSHAKE;
    loop {
        let message = match timeout_at(pulse.last_byte() + dead_after, stream.next()).await {
            // Part of a message has arrived meanwhile.
            Err(_) if pulse.last_byte().elapsed() < dead_after => continue,
            Err(_) => return Ended::ByUs(CloseCode::Silent, "nothing was heard for too long".to_owned()),
            Ok(None) => return Ended::Broken("the connection ended without a word".to_owned()),
            Ok(Some(Err(WsError::Capacity(CapacityError::MessageTooLong { size, max_size })))) => {
                let text = format!("a message of {size} bytes where {max_size} are allowed");
                return Ended::ByUs(CloseCode::TooLarge, text);
            }
            Ok(Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)))) => {
                return Ended::Broken("the connection ended without a word".to_owned());
            }
            Ok(Some(Err(error @ (WsError::Protocol(_) | WsError::Utf8(_))))) => {
                return Ended::ByUs(CloseCode::Protocol, error.to_string());
            }
            Ok(Some(Err(error))) => return Ended::Broken(error.to_string()),
            Ok(Some(Ok(message))) => message,
        };
        pulse.note_message();
        let bytes = match message {
            WsMessage::Binary(bytes) => bytes,
            WsMessage::Close(frame) => {
                let (code, text) = frame.map_or((None, String::new()), |frame| {
                    (CloseCode::from_number(frame.code.into()), limits::one_line(&frame.reason))
                });
                return Ended::ByPeer(code, text);
            }
            WsMessage::Ping(_) | WsMessage::Pong(_) => continue,
            WsMessage::Text(_) | WsMessage::Frame(_) => {
                return Ended::ByUs(CloseCode::Protocol, "only binary messages are spoken here".to_owned());
            }
        };
        let frame: Frame = match wire::decode_frame(&bytes, limit) {
            Ok(frame) => frame,
            Err(error @ WireError::TooLarge { .. }) => {
                return Ended::ByUs(CloseCode::TooLarge, error.to_string());
            }
            Err(error @ WireError::Malformed(_)) => {
                return Ended::ByUs(CloseCode::Protocol, error.to_string());
            }
        };
        if let Err(what) = limits::check_frame(&frame) {
            return Ended::ByUs(CloseCode::Protocol, what.to_owned());
        }
        match frame.message {
            // One pong answers all pings that are not answered yet.
            Message::Ping => pong.notify_one(),
            Message::Pong => {}
            _ => {
                limit = wire::MAX_MESSAGE;
                if frames.try_send(Box::new(frame)).is_err() {
                    let text = "this node is busy and cannot keep up: the next handshake settles the rest"
                        .to_owned();
                    return Ended::ByUs(CloseCode::TryLater, text);
                }
            }
        }
    }
}

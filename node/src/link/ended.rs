//! Why a link ended, and the close frame that tells the peer.

use std::fmt;

use reloop_protocol::message::CloseCode;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;

/// The longest reason that fits a close frame (RFC 6455, section 5.5).
const CLOSE_REASON_BYTES: usize = 123;

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed it, with a known code if it gave one.
    ByPeer(Option<CloseCode>, String),
    ByUs(CloseCode, String),
    Broken(String),
}

impl Ended {
    /// The reason, whichever side closed first: a peer that is refused closes too, and the two closes race. A peer's text may
    /// be cut off.
    pub fn cause(&self) -> String {
        match self {
            Self::ByPeer(Some(code), text) | Self::ByUs(code, text) => format!("{}: {text}", code.number()),
            Self::ByPeer(None, _) | Self::Broken(_) => self.to_string(),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByPeer(Some(code), text) => write!(f, "closed by the peer ({}: {text})", code.number()),
            Self::ByPeer(None, text) => write!(f, "closed by the peer ({text})"),
            Self::ByUs(code, text) => write!(f, "closed here ({}: {text})", code.number()),
            Self::Broken(text) => write!(f, "broken ({text})"),
        }
    }
}

pub(super) fn close_frame(code: CloseCode, text: &str) -> CloseFrame {
    let text = &text[..text.floor_char_boundary(CLOSE_REASON_BYTES)];
    CloseFrame { code: WsCode::from(code.number()), reason: text.to_owned().into() }
}

//! How messages and records become bytes: bincode 1.3.3 with one fixed configuration.
//!
//! Variable-length integers, little endian, trailing bytes rejected, only slices decoded and never more than a limit:
//! a peer's claim of a length allocates nothing. No type here is recursive or empty, so the limit bounds the work too.
//! The layout of every message is pinned by golden vectors; a change that moves a byte is a new protocol version.

use bincode::Options as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{Commit, Session};
use crate::message::{Hello, Message};

/// The WebSocket subprotocol (RFC 6455, section 1.9) of version 1.
pub const SUBPROTOCOL: &str = "reloop.v1";

/// The largest message, in bytes: a Hello with 64 jobs and a full ring needs a tenth of it.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// The largest message of a peer that has not proved who it is.
pub const MAX_HANDSHAKE: usize = 64 * 1024;

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Larger than anything that is sent.
    #[error("{size} bytes where {limit} are allowed")]
    TooLarge {
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// Not a message of this protocol version.
    #[error("not a message of this protocol version: {0}")]
    Malformed(String),
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_limit(MAX_MESSAGE as u64).reject_trailing_bytes()
}

/// The bytes of a value.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::DefaultOptions::new()
        .reject_trailing_bytes()
        .serialize(value)
        .expect("plain data of known length always serialises into memory")
}

/// The value of bytes, if they are exactly one and within `limit`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limit: usize) -> Result<T, WireError> {
    let limit = limit.min(MAX_MESSAGE);
    if bytes.len() > limit {
        return Err(WireError::TooLarge { size: bytes.len(), limit });
    }
    options().deserialize(bytes).map_err(|error| {
        let text = error.to_string();
        let line = text.lines().find(|line| !line.trim().is_empty());
        WireError::Malformed(line.unwrap_or("it makes no sense").to_owned())
    })
}

/// The frame of bytes. A frame has one form: other bytes that would mean the same are refused, because digests and
/// signatures are taken over the form.
pub fn decode_frame(bytes: &[u8], limit: usize) -> Result<Frame, WireError> {
    let frame = decode(bytes, limit)?;
    if encode(&frame) == bytes {
        Ok(frame)
    } else {
        Err(WireError::Malformed("it is not in its shortest form, or a map is not in order".to_owned()))
    }
}

/// A message as it crosses the link: the session that it belongs to, then the message. The session is 0 until the
/// slave's Hello has named it; a receiver ignores frames of any other session than its own. A Ping or Pong belongs to the
/// connection and not to a session, and always bears 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    /// Whose conversation this is part of.
    pub session: Session,
    /// From a master: its durable commits when it said this. The effects that a message has on a slave are kept together
    /// with this number, so that the slave notices when the master's files are put back to a state before the message.
    /// 0 in a slave's frames, and in a Ping or Pong.
    pub commit: Commit,
    /// What is said.
    pub message: Message,
    /// The slave's Ed25519 signature (RFC 8032) over [`signed_bytes`]; on a Hello, and only there.
    pub signature: Option<Signature>,
}

/// An Ed25519 signature, in halves because that is how serde knows arrays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

/// What a slave signs: a fixed prefix, the master's nonce, and its whole Hello.
pub fn signed_bytes(nonce: &[u8; 32], hello: &Hello) -> Vec<u8> {
    let mut bytes = b"reloop.v1 hello\0".to_vec();
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(&encode(hello));
    bytes
}

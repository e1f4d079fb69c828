//! Messages and records as bytes: bincode 1.3.3 with one fixed configuration.
//!
//! Integers have variable length and are little endian, trailing bytes are rejected, and only slices up to a limit are decoded,
//! so a length that a peer claims allocates nothing. No type here is recursive or empty, so the limit bounds the work too.
//! The layout of every message is pinned by golden vectors; a change that moves a byte is a new protocol version.

use bincode::Options as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::id::{Commit, Session};
use crate::message::{Hello, Message};

/// The WebSocket subprotocol (RFC 6455, section 1.9) of version 1.
pub const SUBPROTOCOL: &str = "reloop.v1";

/// The largest message, in bytes. The largest that is needed is a Settled that tells all jobs and recent outcomes whole.
pub const MAX_MESSAGE: usize = 256 * 1024;

/// The largest message of a peer that has only sent heartbeats so far, in bytes. A Hello fits: its programs and labels take at
/// most 32 KiB, 64 jobs and 16 recent outcomes 5 KiB.
pub const MAX_HANDSHAKE: usize = 64 * 1024;

/// Why bytes could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// There are more bytes than the limit.
    #[error("{size} bytes where {limit} are allowed")]
    TooLarge { size: usize, limit: usize },
    /// They are no value of the expected type.
    #[error("not a message of this protocol version: {0}")]
    Malformed(String),
}

fn options() -> impl bincode::Options {
    bincode::DefaultOptions::new().with_limit(MAX_MESSAGE as u64).reject_trailing_bytes()
}

pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    bincode::DefaultOptions::new()
        .reject_trailing_bytes()
        .serialize(value)
        .expect("plain data of known length always serialises into memory")
}

/// The value that the bytes are.
///
/// # Errors
/// There are more than `limit` bytes, or they are not exactly one value of the type.
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

/// The frame that the bytes are. Only one form of a frame is accepted, because digests and signatures are taken over the bytes.
///
/// # Errors
/// The same as [`decode`]'s, or other bytes would mean the same frame.
pub fn decode_frame(bytes: &[u8], limit: usize) -> Result<Frame, WireError> {
    let frame = decode(bytes, limit)?;
    if encode(&frame) == bytes {
        Ok(frame)
    } else {
        Err(WireError::Malformed("it is not in its shortest form, or a map is not in order".to_owned()))
    }
}

/// A message as it crosses the link. Its session is 0 until the slave's Hello has named one, and always 0 in a Ping or Pong, which
/// belong to the connection and to no session. A receiver ignores frames of any other session than its own.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Frame {
    pub session: Session,
    /// From a master: its durable commits when it said this. What a slave does because of a message goes to its disk together with
    /// this number, so that the slave notices when the master's files are put back to a state before the message.
    /// 0 in a slave's frames, and in a Ping or Pong.
    pub commit: Commit,
    pub message: Message,
    /// The slave's Ed25519 signature (RFC 8032) over [`signed_bytes`]; on a Hello, and only there.
    pub signature: Option<Signature>,
}

/// The 64 bytes of an Ed25519 signature, in two halves because serde has no arrays of 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature(pub [u8; 32], pub [u8; 32]);

/// The bytes that a slave signs: a fixed prefix, the nonce of the master's Challenge, and the encoded Hello.
pub fn signed_bytes(nonce: &[u8; 32], hello: &Hello) -> Vec<u8> {
    let mut bytes = b"reloop.v1 hello\0".to_vec();
    bytes.extend_from_slice(nonce);
    bytes.extend_from_slice(&encode(hello));
    bytes
}

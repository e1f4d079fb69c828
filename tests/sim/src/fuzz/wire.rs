//! The decoder of the wire.

use reloop_protocol::limits;
use reloop_protocol::message::Message;
use reloop_protocol::wire::{self, Frame, MAX_HANDSHAKE, MAX_MESSAGE, WireError};

use super::any::Source;

/// Any bytes are a frame or an error with a text. A decoded frame encodes to the same bytes, and any encoded frame
/// decodes to the same frame.
pub fn run(bytes: &[u8]) {
    for limit in [MAX_MESSAGE, MAX_HANDSHAKE, bytes.len() / 2] {
        match wire::decode_frame(bytes, limit) {
            Ok(frame) => {
                assert!(bytes.len() <= limit, "{} bytes where {limit} are allowed", bytes.len());
                let again = wire::encode(&frame);
                assert!(again == bytes, "{frame:?} is written as other bytes than it was read from");
                // Every limit's error names what is too large.
                if let Err(what) = limits::check_frame(&frame) {
                    assert!(!what.is_empty());
                }
            }
            Err(WireError::TooLarge { size, limit: allowed }) => {
                assert!(size == bytes.len() && allowed == limit && size > allowed);
            }
            Err(WireError::Malformed(why)) => assert!(!why.is_empty() && why.len() < 512, "{why}"),
        }
    }
    // The other direction: every frame that can be sent can be read.
    let mut source = Source::new(bytes);
    let frame = Frame {
        session: source.any(),
        commit: source.any(),
        message: source.any::<Message>(),
        signature: source.any(),
    };
    let written = wire::encode(&frame);
    if written.len() <= MAX_MESSAGE {
        assert_eq!(wire::decode_frame(&written, MAX_MESSAGE), Ok(frame));
    }
}

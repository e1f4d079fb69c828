//! The records of both nodes: how a value is encoded for the store, and what happens to one that cannot be read.
//!
//! Every value on disk is `[layout u8][payload][crc32 of both, little endian]`. The layout says how to decode the payload,
//! so that a newer program can read what an older one wrote; the payload is encoded like a message on the wire. The
//! checksum (CRC-32/ISO-HDLC) covers the way through memory too, which the database's own checksum does not.
//!
//! A record that cannot be read is moved to another key, for a person to look at.

use reloop_protocol::wire::{self, WireError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::store::{Op, VALUE_LIMIT_BYTES};

/// Bytes that the envelope adds to a payload.
pub const OVERHEAD_BYTES: usize = LAYOUT_BYTES + CHECKSUM_BYTES;

const LAYOUT_BYTES: usize = 1;
const CHECKSUM_BYTES: usize = 4;

// What the rules may write, the store takes.
const _: () = assert!(reloop_protocol::limits::RECORD_BYTES + OVERHEAD_BYTES <= VALUE_LIMIT_BYTES);

/// The envelope is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record has {len} bytes, fewer than the {OVERHEAD_BYTES} of an empty one: handle it as lost")]
    Truncated { len: usize },
    #[error("the record's checksum is {found:08x} where its bytes make {computed:08x}: handle it as lost")]
    Checksum { found: u32, computed: u32 },
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    #[error(transparent)]
    Envelope(#[from] RecordError),
    /// A newer version of this program wrote it.
    #[error(
        "it has layout {found}, and this version knows {known}: use the version that wrote it, or a newer one"
    )]
    Newer { found: u8, known: u8 },
    /// The payload is not of the kind that the key says.
    #[error(transparent)]
    Payload(#[from] WireError),
    /// The payload names another thing than the key does.
    #[error("it stands under another's key")]
    WrongKey,
}

/// The key of one record among those that share a prefix.
pub fn key(prefix: &[u8], rest: &[u8]) -> Vec<u8> {
    [prefix, rest].concat()
}

/// Writes `value` under `key`, in this layout.
pub fn put<T: Serialize>(layout: u8, key: Vec<u8>, value: &T) -> Op {
    Op::Put { key, value: seal(layout, &wire::encode(value)) }
}

/// A payload that [`put`] wrote.
pub fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, WireError> {
    wire::decode(payload, wire::MAX_MESSAGE)
}

/// A payload of an earlier build whose record lacks these fields at its end.
pub fn decode_short<T: DeserializeOwned>(payload: &[u8], lacks: &impl Serialize) -> Result<T, WireError> {
    decode(&[payload, &wire::encode(lacks)].concat())
}

/// Reads what [`put`] wrote in this layout; `former` decodes the payload of an earlier one, from 1 on.
pub fn read<T: DeserializeOwned>(
    layout: u8,
    value: &[u8],
    former: impl FnOnce(u8, &[u8]) -> Result<T, WireError>,
) -> Result<T, Unreadable> {
    let (found, payload) = open(value)?;
    if found == layout {
        return Ok(decode(payload)?);
    }
    if found > layout {
        return Err(Unreadable::Newer { found, known: layout });
    }
    if found == 0 {
        return Err(WireError::Malformed(format!("there is no layout {found}")).into());
    }
    Ok(former(found, payload)?)
}

/// Moves a record to `prefix` followed by its key.
pub fn set_aside(prefix: &[u8], at: &[u8], value: &[u8]) -> [Op; 2] {
    [Op::Delete { key: at.to_vec() }, Op::Put { key: key(prefix, at), value: value.to_vec() }]
}

/// Wraps a payload for the disk.
#[must_use]
pub fn seal(layout: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
    record.push(layout);
    record.extend_from_slice(payload);
    let checksum = crc32fast::hash(&record);
    record.extend_from_slice(&checksum.to_le_bytes());
    record
}

/// Checks a record and returns its layout and payload.
pub fn open(record: &[u8]) -> Result<(u8, &[u8]), RecordError> {
    let truncated = RecordError::Truncated { len: record.len() };
    let (sealed, checksum) = record.split_last_chunk::<CHECKSUM_BYTES>().ok_or(truncated)?;
    let (layout, payload) = sealed.split_first().ok_or(truncated)?;
    let (found, computed) = (u32::from_le_bytes(*checksum), crc32fast::hash(sealed));
    if found != computed {
        return Err(RecordError::Checksum { found, computed });
    }
    Ok((*layout, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sealed_opens_again() {
        for len in [0, 1, 2, 300, 64 * 1024] {
            let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            let record = seal(7, &payload);
            assert_eq!(record.len(), len + OVERHEAD_BYTES);
            assert_eq!(open(&record), Ok((7, payload.as_slice())));
        }
    }

    #[test]
    fn the_layout_on_disk_is_pinned() {
        // CRC-32/ISO-HDLC's published check value is 0xcbf43926 for these nine bytes.
        assert_eq!(seal(b'1', b"23456789"), b"123456789\x26\x39\xf4\xcb");
    }

    #[test]
    fn a_record_in_this_layout_or_a_former_one_is_read_and_any_other_is_refused() {
        let in_layout = |layout| seal(layout, &wire::encode(&7_u16));
        let read = |value: &[u8]| {
            read::<(u16, bool)>(3, value, |layout, payload| decode_short(payload, &(layout == 2)))
        };
        assert_eq!(read(&seal(3, &wire::encode(&(7_u16, true)))).unwrap(), (7, true));
        assert_eq!(read(&in_layout(2)).unwrap(), (7, true));
        assert_eq!(read(&in_layout(1)).unwrap(), (7, false));
        assert!(matches!(read(&in_layout(0)), Err(Unreadable::Payload(_))));
        assert!(matches!(read(&in_layout(4)), Err(Unreadable::Newer { found: 4, known: 3 })));
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let record = seal(1, b"which order, which attempt, and what the machine said");
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(open(&damaged), Err(RecordError::Checksum { .. })), "bit {bit}");
        }
    }

    #[test]
    fn any_cut_is_noticed() {
        let record = seal(1, b"payload");
        for len in 0..OVERHEAD_BYTES {
            assert_eq!(open(&record[..len]), Err(RecordError::Truncated { len }));
        }
        for len in OVERHEAD_BYTES..record.len() {
            assert!(matches!(open(&record[..len]), Err(RecordError::Checksum { .. })), "{len} bytes");
        }
    }
}

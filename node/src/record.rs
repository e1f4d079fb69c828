//! The envelope of every value on disk: `[schema u8][payload][crc32 of both, little endian]`.
//!
//! The schema number says how to decode the payload, so that a newer program can read what an older one wrote. The
//! checksum (CRC-32/ISO-HDLC) is the last word on whether a value is what was written: the engine below has its own,
//! but it does not cover what passes through memory on the way.

use crate::store::VALUE_LIMIT_BYTES;

/// Bytes that the envelope adds to a payload.
pub const OVERHEAD_BYTES: usize = SCHEMA_BYTES + CHECKSUM_BYTES;

const SCHEMA_BYTES: usize = 1;
const CHECKSUM_BYTES: usize = 4;

// What the rules may write, the store takes.
const _: () = assert!(reloop_protocol::limits::RECORD_BYTES + OVERHEAD_BYTES <= VALUE_LIMIT_BYTES);

/// Why a record cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Shorter than an empty record.
    #[error("the record has {len} bytes, fewer than the {OVERHEAD_BYTES} of an empty one: handle it as lost")]
    Truncated {
        /// How many bytes there are.
        len: usize,
    },
    /// The bytes are not those that were sealed.
    #[error("the record's checksum is {found:08x} where its bytes make {computed:08x}: handle it as lost")]
    Checksum {
        /// What the record carries.
        found: u32,
        /// What its bytes come to.
        computed: u32,
    },
}

/// Wraps a payload for the disk.
#[must_use]
pub fn seal(schema: u8, payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(payload.len() + OVERHEAD_BYTES);
    record.push(schema);
    record.extend_from_slice(payload);
    let checksum = crc32fast::hash(&record);
    record.extend_from_slice(&checksum.to_le_bytes());
    record
}

/// Checks a record and gives its schema number and payload.
pub fn open(record: &[u8]) -> Result<(u8, &[u8]), RecordError> {
    let truncated = RecordError::Truncated { len: record.len() };
    let (sealed, checksum) = record.split_last_chunk::<CHECKSUM_BYTES>().ok_or(truncated)?;
    let (schema, payload) = sealed.split_first().ok_or(truncated)?;
    let (found, computed) = (u32::from_le_bytes(*checksum), crc32fast::hash(sealed));
    if found != computed {
        return Err(RecordError::Checksum { found, computed });
    }
    Ok((*schema, payload))
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

//! How an entry lies in sled: cut into pieces.
//!
//! sled puts a page above 128 KiB into a file of its own under `blobs/`, which it never syncs. A leaf holds up to about 20
//! entries whatever their size, so limiting values is not enough: they are cut into pieces so small that no leaf gets that
//! large, and keys are limited so that no inner page does.
//!
//! An entry is `[HEAD] key -> [number of further pieces: u8] first piece`, and each further piece is
//! `[REST] key [number: u16 big endian] -> piece`. `[COUNT] -> u64 little endian` is the number of commits.

use std::ops::Bound;

use super::undone::Replaced;
use super::{Fault, Stretch};
use crate::store::{KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES};

/// 24 entries of this size with the longest keys stay below sled's 128 KiB per page. A leaf of more than 16 entries is split
/// when it has more than 4 KiB, and a merge adds 3 entries at most.
pub(super) const PIECE_BYTES: usize = 5 * 1024;

const HEAD: u8 = 0;
const REST: u8 = 1;
pub(super) const COUNT: u8 = 2;

const _: () = assert!((KEY_LIMIT_BYTES + PIECE_BYTES + 64) * 24 < 128 * 1024);
// sled splits inner pages above 256 children.
const _: () = assert!((KEY_LIMIT_BYTES + 64) * 257 < 128 * 1024);
const _: () = assert!(VALUE_LIMIT_BYTES.div_ceil(PIECE_BYTES) <= u8::MAX as usize);

pub(super) fn put_pieces(
    batch: &mut sled::Writing<'_>,
    replaced: &mut Replaced,
    key: &[u8],
    value: Option<&[u8]>,
) -> sled::Result<()> {
    let bytes = value.unwrap_or_default();
    let (first, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES));
    let mut rest = rest.chunks(PIECE_BYTES);
    let head = value.map(|_| {
        let further = u8::try_from(rest.len()).expect("a value within its limit has no more pieces");
        [&[further], first].concat()
    });
    let before = put(batch, replaced, head_key(key), head.as_deref())?;
    let pieces_before = before.as_ref().and_then(|head| head.first().copied()).unwrap_or(0);
    for number in 0..rest.len().max(usize::from(pieces_before)) {
        put(batch, replaced, rest_key(key, number as u16), rest.next())?;
    }
    Ok(())
}

/// Sets or deletes a stored key. Notes what it replaces and returns it.
fn put(
    batch: &mut sled::Writing<'_>,
    replaced: &mut Replaced,
    stored_key: Vec<u8>,
    value: Option<&[u8]>,
) -> sled::Result<Option<sled::IVec>> {
    let mut before = None;
    batch.set(&stored_key.as_slice().into(), value.map(Into::into), |stands| {
        before = stands.cloned();
        replaced.insert(stored_key.clone(), before.clone());
    })?;
    Ok(before)
}

pub(super) fn head_key(key: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(1 + key.len());
    stored.push(HEAD);
    stored.extend_from_slice(key);
    stored
}

/// The number has a fixed width, so that no two keys share a piece's key.
pub(super) fn rest_key(key: &[u8], number: u16) -> Vec<u8> {
    let mut stored = Vec::with_capacity(3 + key.len());
    stored.push(REST);
    stored.extend_from_slice(key);
    stored.extend_from_slice(&number.to_be_bytes());
    stored
}

pub(super) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// The stored keys of a stretch; `None` if the stretch is empty whatever is stored.
pub(super) fn bounds(stretch: &Stretch) -> Option<Bounds> {
    let first = head_key(&stretch.prefix);
    let end = end_of_prefix(&first);
    let start_after = stretch.start_after.as_deref().map(head_key);
    let (lower, upper) = match (start_after, stretch.reverse) {
        (Some(after), false) if after >= first => (Bound::Excluded(after), end),
        (Some(after), true) if after < end => (Bound::Included(first), after),
        _ => (Bound::Included(first), end),
    };
    let (Bound::Included(lowest) | Bound::Excluded(lowest)) = &lower else { return None };
    (*lowest < upper).then_some((lower, Bound::Excluded(upper)))
}

/// The first key after all those that start with `prefix`, which starts with `HEAD`.
fn end_of_prefix(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&u8::MAX) {
        end.pop();
    }
    let last = end.last_mut().expect("a stored key starts with HEAD, which is not 0xff");
    *last += 1;
    end
}

pub(super) fn missing_piece(key: &[u8]) -> Fault {
    Fault::Unreadable(format!("a piece of the value at {} is missing", key.escape_ascii()))
}

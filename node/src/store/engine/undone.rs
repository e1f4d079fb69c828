//! What reads show after a failed write: what stood there before it.
//!
//! sled shows what it was told to write whether that reached the disk or not.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::iter::Peekable;

use super::Fault;

/// What a batch replaces, by stored key: a piece, or nothing.
pub(super) type Replaced = BTreeMap<Vec<u8>, Option<sled::IVec>>;

type Found = sled::Result<(sled::IVec, sled::IVec)>;
type Undone<'a> = (&'a Vec<u8>, &'a Option<sled::IVec>);

/// Merges what sled holds with what a failed write replaced, as one stretch of keys.
pub(super) struct Heads<'a> {
    found: Peekable<Box<dyn Iterator<Item = Found> + 'a>>,
    undone: Peekable<Box<dyn Iterator<Item = Undone<'a>> + 'a>>,
    /// How a key compares with those after it: `Less` in ascending order.
    order: Ordering,
}

impl<'a> Heads<'a> {
    pub(super) fn new(
        found: impl Iterator<Item = Found> + 'a,
        undone: impl Iterator<Item = Undone<'a>> + 'a,
        order: Ordering,
    ) -> Self {
        let (found, undone): (
            Box<dyn Iterator<Item = Found> + 'a>,
            Box<dyn Iterator<Item = Undone<'a>> + 'a>,
        ) = (Box::new(found), Box::new(undone));
        Self { found: found.peekable(), undone: undone.peekable(), order }
    }

    pub(super) fn next(&mut self) -> Result<Option<(sled::IVec, sled::IVec)>, Fault> {
        loop {
            let undone_first = match (self.found.peek(), self.undone.peek()) {
                (_, None) | (Some(Err(_)), _) => return Ok(self.found.next().transpose()?),
                (None, Some(_)) => true,
                (Some(Ok((found, _))), Some((undone, _))) => {
                    let is = found.as_ref().cmp(undone.as_slice());
                    if is == Ordering::Equal {
                        self.found.next();
                    }
                    is != self.order
                }
            };
            if !undone_first {
                return Ok(self.found.next().transpose()?);
            }
            if let Some((stored_key, Some(before))) = self.undone.next() {
                return Ok(Some((stored_key.as_slice().into(), before.clone())));
            }
        }
    }
}

//! What the store's thread needs of a database, and the database that it has.

pub(super) mod disk;
mod guard;
#[cfg(test)]
pub(crate) mod memory;
mod pieces;
#[cfg(test)]
mod same_answers;
mod undone;

use std::collections::BTreeMap;
use std::io;

use super::Entry;

/// The changes of one batch; `None` deletes a key.
pub(crate) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// An ordered map that keeps what was written.
pub(crate) trait Engine: Send {
    /// Applies the changes as one, and returns once they are durable.
    ///
    /// After an error it is not known what is on the disk, and nothing may be written any more: the kernel reports a
    /// failed write-back once, and a second fdatasync would succeed without having written anything. Reads show what was
    /// there before.
    fn write(&mut self, changes: Changes) -> Result<(), Fault>;

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault>;

    /// At most `limit` entries, and no more once they have `max_bytes` of keys and values.
    fn page(&self, stretch: &Stretch, limit: usize, max_bytes: usize) -> Result<Vec<Entry>, Fault>;

    /// Rewrites one page whose surroundings on disk are mostly unused, so that their space can be used again. Returns
    /// false if there is none. This writes: it must not be called after a write has failed.
    fn clean(&self) -> Result<bool, Fault>;

    /// Makes durable what [`Engine::clean`] wrote, so that no power cut finds its pages in neither place.
    fn sync_cleaned(&mut self) -> Result<(), Fault>;

    fn close(self: Box<Self>) -> Result<(), Fault>;
}

/// Why the database could not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The operating system refused. It may work after somebody has mended the cause.
    System(io::Error),
    /// What is on disk makes no sense to the database, and never will.
    Unreadable(String),
}

/// The keys that share a prefix, from one end or from one of them on.
#[derive(Debug, Clone)]
pub(crate) struct Stretch {
    pub(crate) prefix: Vec<u8>,
    /// A full key; the stretch begins past it.
    pub(crate) start_after: Option<Vec<u8>>,
    /// Whether the keys are read in descending order.
    pub(crate) reverse: bool,
}

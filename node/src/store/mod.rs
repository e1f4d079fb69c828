//! The node's durable memory: an ordered map from keys to values on the local disk.
//!
//! One thread owns the database (`keeper`); a [`Store`] is a handle to that thread's inbox. The thread takes all commits
//! that wait there, writes them as one batch, makes the batch durable, and only then answers each committer, in the order
//! of the commits. A slow disk therefore makes batches larger and not the queue longer, and a commit that was answered
//! with `Ok` survives a power cut. Reads go through the same inbox: they see every commit queued before them, and nothing
//! that is not durable. This holds after a failed write too: reads then show what was there before it.
//!
//! Three kinds of failure:
//!
//! * The store is *unreadable* when it is opened, or lacks commits that were acknowledged. It is set aside under a dated
//!   name and replaced by an empty one ([`Opened::set_aside`]).
//! * A *write failed*. Nothing is acknowledged until the store is opened again, because after a failed fdatasync it is not
//!   known what is on the disk. Opening it again compares the disk with the kernel's cache (`session`).
//! * The disk is *nearly full*. [`Store::healthy`] reports it; commits go on, and the caller decides what to refuse.
//!
//! A commit that failed, or whose answer was lost in a crash, may be found after the next start, whole or not at all. Its
//! outcome is unknown; it is not undone.
//!
//! Architecture invariant: only `engine` knows which database this is.

pub(crate) mod engine;
mod error;
mod handle;
mod health;
mod keeper;
mod mark;
mod opening;
mod session;
pub mod text;

pub use error::StoreError;
pub use handle::{Opened, Options, Store};

/// The largest value. Larger data belongs into a file that a record names: a value is written again with each neighbour
/// that changes.
pub const VALUE_LIMIT_BYTES: usize = 80 * 1024;

/// The longest key. A kind, a job id and a number take a quarter of it.
pub const KEY_LIMIT_BYTES: usize = 256;

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// One change of a commit. A key has at most [`KEY_LIMIT_BYTES`], a value at most [`VALUE_LIMIT_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets a key, whether it exists or not.
    Put { key: Vec<u8>, value: Vec<u8> },
    /// Removes a key, if it exists.
    Delete { key: Vec<u8> },
}

//! What can go wrong with a store, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::engine::Fault;
use super::{KEY_LIMIT_BYTES, VALUE_LIMIT_BYTES};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Another process has it open. Nothing was changed.
    #[error("the store {} is in use by another process: stop that one, or choose another directory", dir.display())]
    Locked { dir: PathBuf },
    /// The operating system refused to open it. Nothing was set aside.
    #[error("the store {} cannot be opened ({detail}): mend the cause and start again", dir.display())]
    Open { dir: PathBuf, detail: String },
    /// A write failed: it and all later ones are not acknowledged. Reads show what was there before it.
    #[error("the store cannot write ({detail}): nothing is saved until it is opened anew; check the disk")]
    Write { detail: String },
    /// An entry could not be read. It stays unreadable; other entries may be readable.
    #[error("the store cannot read ({detail}): check the disk; a restart sets an unreadable store aside")]
    Read { detail: String },
    /// Either little space is left and commits still work, or a write found no space, which is final like
    /// [`StoreError::Write`].
    #[error("the store's disk is full ({detail})")]
    Full { detail: String },
    /// A write takes so long that the disk must be stuck. It may still end, with any result.
    #[error("the store has been writing for {seconds} s without an end: check the disk")]
    Stalled { seconds: u64 },
    /// None of the commit was written.
    #[error("a value of {len} bytes is over the store's limit of {VALUE_LIMIT_BYTES}: keep it in a file")]
    ValueTooLarge { len: usize },
    /// None of the commit was written.
    #[error("a key of {len} bytes is over the store's limit of {KEY_LIMIT_BYTES}: choose shorter ones")]
    KeyTooLarge { len: usize },
    /// The store was closed, or its thread died.
    #[error("the store is closed: restart the node")]
    Closed,
}

impl StoreError {
    pub(super) fn from_open(dir: &Path, error: &io::Error) -> StoreError {
        if is_full(error) {
            let detail =
                format!("{} cannot be opened: {error}; free some space, then start again", dir.display());
            return StoreError::Full { detail };
        }
        StoreError::Open { dir: dir.to_owned(), detail: error.to_string() }
    }

    pub(super) fn from_open_fault(dir: &Path, fault: Fault) -> StoreError {
        match fault {
            Fault::System(error) => StoreError::from_open(dir, &error),
            Fault::Unreadable(detail) => StoreError::Open { dir: dir.to_owned(), detail },
        }
    }

    pub(super) fn from_write(fault: Fault) -> StoreError {
        match fault {
            Fault::System(error) if is_full(&error) => StoreError::Full {
                detail: format!("{error}: nothing is saved until it is opened anew; free some space"),
            },
            Fault::System(error) => StoreError::Write { detail: error.to_string() },
            Fault::Unreadable(detail) => StoreError::Write { detail },
        }
    }

    pub(super) fn from_read(fault: Fault) -> StoreError {
        let detail = match fault {
            Fault::System(error) => error.to_string(),
            Fault::Unreadable(detail) => detail,
        };
        StoreError::Read { detail }
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

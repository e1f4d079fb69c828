//! Crash states: what a disk may legally contain after a power cut, built from a recording of what a process did to its
//! files.
//!
//! A power cut on a real file system shows one of many possible states, and nearly always a harmless one. Here a
//! process runs under strace ([`record`]); the calls that change files, names or lengths, and those that make them
//! durable, become a list of [`Act`]s. At any point of that list a [`disk::Disk`] knows what is durable and what is
//! only in the kernel's memory, and writes out a directory as the next start could find it: unsynced changes are there,
//! missing, or torn. The method is that of ALICE (Pillai and others, OSDI 2014) and CrashMonkey (Mohan and others, OSDI
//! 2018).
//!
//! What counts as legal:
//! * An fsync or fdatasync of a file covers the file's bytes and length as they were when it was called, and no name.
//!   `sync_file_range` covers nothing.
//! * An fsync of a directory covers the names in it.
//! * Of writes that no sync covers each page has the contents that it had after any one of them, as the kernel writes
//!   back whole pages at any time; a torn page does so for each of its sectors.
//! * The length is that after any of the changes. What the file has beyond what was written back reads as zeros.
//! * Of changes to names that no sync covers any subset took place. A rename is atomic.
//!
//! Journaling file systems allow less than that. But ext4 does allow the state that once broke a start here: a rename
//! is lost although a later fdatasync of an overwritten file is there, because that sync needs no journal.

pub mod disk;
pub mod record;

use std::path::PathBuf;

/// Files and directories are numbered in the order in which they appeared.
pub type Inode = usize;

/// The directory that contains everything else; its own name is not recorded.
pub const ROOT: Inode = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Create {
        dir: Inode,
        name: String,
        /// A number that was not used before.
        inode: Inode,
        is_dir: bool,
    },
    Unlink {
        dir: Inode,
        name: String,
    },
    /// To another name in the same directory, which it replaces if it exists.
    Rename {
        dir: Inode,
        from: String,
        to: String,
    },
    Write {
        file: Inode,
        at: usize,
        bytes: Vec<u8>,
    },
    /// Cuts a file, or extends it by zeros.
    SetLength {
        file: Inode,
        length: usize,
    },
    /// A sync that has returned without an error.
    Sync {
        /// For a file its bytes are synced, for a directory its names.
        inode: Inode,
        /// The acts before this one are covered: those that had returned when the sync was called.
        covers: usize,
    },
    /// A line on stdout. Others may rely on it from here on.
    Say(String),
}

/// What one process, or several one after the other, did to a directory.
#[derive(Debug)]
pub struct Recording {
    /// The acts that create what was there, and durable, at the beginning.
    pub before: Vec<Act>,
    /// In the order in which the calls returned.
    pub acts: Vec<Act>,
    /// The index in `acts` at which each process began.
    pub starts: Vec<usize>,
    /// strace's output.
    pub log: PathBuf,
}

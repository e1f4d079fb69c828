//! Crash states: what a disk may legally hold after a power cut, built from a recording of what a process did to its files.
//!
//! A power cut on a real file system shows one outcome out of many, nearly always the kindest. Here a process runs under
//! strace ([`record`]); the calls that change files, names or lengths and those that make them durable become a list of
//! [`Act`]s. At any point of that list a [`disk::Disk`] knows what is durable and what is only in the kernel's memory,
//! and writes out a directory as the next start could find it: of what was not synced, any part is there, another part is
//! not, and some of it is torn. The method is that of ALICE (Pillai and others, OSDI 2014) and CrashMonkey (Mohan and
//! others, OSDI 2018).
//!
//! What counts as legal:
//! * An fsync or fdatasync of a file covers the file's bytes and length as they were when it was called, and no name.
//!   `sync_file_range` covers nothing.
//! * An fsync of a directory covers the names in it.
//! * Of writes that no sync covers each page holds what it held after any one of them, as the kernel writes back whole
//!   pages at any time; a torn page does so for each of its sectors.
//! * The length is that after any of the changes. What the file has beyond what was written back reads as zeros.
//! * Of changes to names that no sync covers any subset took place. One rename is one change: it is whole or not there.
//!
//! Journaling file systems allow less than that. ext4 does allow what broke a start here once: a rename that is lost
//! although a later fdatasync of an overwritten file came back, since that one needs no journal.

pub mod disk;
pub mod record;

use std::path::PathBuf;

/// A file or directory, by the order in which they appeared.
pub type Inode = usize;

/// The directory that everything else is in; its own name is not part of the recording.
pub const ROOT: Inode = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    Create {
        dir: Inode,
        name: String,
        /// What it is; a number that was not used before.
        inode: Inode,
        /// A directory, or else a file.
        is_dir: bool,
    },
    Unlink {
        dir: Inode,
        name: String,
    },
    /// Another name in the same directory, in place of what may have had it.
    Rename {
        dir: Inode,
        from: String,
        to: String,
    },
    /// Bytes at a place of a file.
    Write {
        file: Inode,
        at: usize,
        bytes: Vec<u8>,
    },
    /// A file was cut, or grew by zeros.
    SetLength {
        file: Inode,
        length: usize,
    },
    /// A sync that came back without an error.
    Sync {
        /// A file, for its bytes, or a directory, for its names.
        inode: Inode,
        /// It covers the acts before this one: those that had come back when it was called.
        covers: usize,
    },
    /// A line on stdout: what others act upon from here on.
    Say(String),
}

/// What a process, or several one after the other, did to a directory.
#[derive(Debug)]
pub struct Recording {
    /// What was there and durable when it began, as acts.
    pub before: Vec<Act>,
    /// What was done, in the order in which the calls came back.
    pub acts: Vec<Act>,
    /// Where in `acts` each process began.
    pub starts: Vec<usize>,
    /// The kernel's own words.
    pub log: PathBuf,
}

//! How many commits were acknowledged, so that a database that has lost its end is noticed.
//!
//! sled takes damage in the newest part of its log for a write that a crash tore, cuts the log there and opens with what is
//! left. That is right after a power cut, when the torn write was never acknowledged. After a flipped bit or a shortened
//! file it loses acknowledged commits silently. So every commit increments a number inside the database, and this file gets
//! the number when the commit is durable and before it is acknowledged. A database with a lower number than its mark has
//! lost acknowledged commits.
//!
//! The mark is not synced: after a power cut it may be older than the database, which is harmless.
//!
//! On disk: `[number: u64][crc32 of it]`, little endian.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

/// Sorts before the database's own files, so that a copy of a running node's directory, made name by name, has a mark that is
/// older than the database.
const FILE: &str = "acknowledged";

const NUMBER_BYTES: usize = 8;
const BYTES: usize = NUMBER_BYTES + 4;

pub(super) struct Mark {
    file: File,
}

impl Mark {
    /// The mark of a store and its number, which is 0 for a new mark and for one that is damaged.
    pub(super) fn open(dir: &Path) -> io::Result<(Mark, u64)> {
        let path = dir.join(FILE);
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut bytes = [0; BYTES];
        let number = match file.read_exact_at(&mut bytes, 0) {
            Ok(()) => number_in(&bytes),
            // It is new, or a power cut came before its first byte was on disk.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Some(0),
            Err(error) => return Err(error),
        };
        let number = number.unwrap_or_else(|| {
            tracing::warn!(
                file = %path.display(),
                "it is damaged: this once nobody can tell whether the database has lost its end"
            );
            0
        });
        Ok((Mark { file }, number))
    }

    pub(super) fn set(&self, number: u64) -> io::Result<()> {
        self.file.write_all_at(&bytes_of(number), 0)
    }
}

fn bytes_of(number: u64) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    let (first, last) = bytes.split_at_mut(NUMBER_BYTES);
    first.copy_from_slice(&number.to_le_bytes());
    last.copy_from_slice(&crc32fast::hash(&number.to_le_bytes()).to_le_bytes());
    bytes
}

fn number_in(bytes: &[u8; BYTES]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes_of(number) == *bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_that_was_set_last_is_read_and_a_damaged_one_accuses_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (mark, number) = Mark::open(dir.path()).unwrap();
        assert_eq!(number, 0);
        mark.set(7).unwrap();
        mark.set(300).unwrap();
        assert_eq!(Mark::open(dir.path()).unwrap().1, 300);
        mark.file.write_all_at(&[9], 0).unwrap();
        assert_eq!(Mark::open(dir.path()).unwrap().1, 0);
    }
}

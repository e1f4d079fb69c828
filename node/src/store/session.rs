//! Makes sure that the disk holds what the kernel's cache shows of the store's files.
//!
//! When a write-back fails, the kernel reports it to one fsync and may take the pages for clean afterwards: ext4 keeps them in
//! its cache, never writes them again, and shows them to every reader until it needs the memory or the power fails. A store
//! that is opened on such a file looks whole, and later commits are written behind a gap. Another fsync does not help,
//! because nothing is dirty.
//!
//! So a file beside the database notes the kernel's boot when a store is opened, and that it was closed when everything was
//! written and synced without an error. If the last session was closed or belongs to another boot, there is no cache that
//! could differ from the disk. Otherwise the process died or saw a write fail: every file of the store is compared with
//! the disk, read past the cache, and written again where the two differ. The cache has what was written, which may count;
//! what matters is that the disk has the same before anything relies on it. Where the file system does not say that it can
//! read past its cache, everything is written again.
//!
//! On disk: `open` or `closed`, padded with spaces to six characters, a space, and the kernel's boot id, written in place
//! within one sector. Any other content is an unknown session, which is not trusted.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};

use crate::durable::sync_dir;

const FILE: &str = "session";

/// A random id that changes with each start of the kernel.
const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

const OPEN: &str = "open  ";
const CLOSED: &str = "closed";

/// How much is compared at a time: enough for a disk to read at its full rate.
const BLOCK_BYTES: usize = 1024 * 1024;

/// The alignment of buffers for reads past the cache: no file system wants more.
const PAGE_BYTES: usize = 4096;

pub(super) struct Session {
    file: File,
    boot: String,
}

impl Session {
    /// Makes sure that what is read of the files in `dir` is on the disk, and notes that they are in use.
    ///
    /// # Errors
    /// Something could not be read, written or synced, now or by an earlier write-back whose error was not reported yet: it is
    /// not known what is on the disk, and nothing may rely on it.
    pub(super) fn begin(dir: &Path) -> io::Result<Session> {
        // An unknown boot equals no other.
        let boot = fs::read_to_string(BOOT_ID_FILE).unwrap_or_default().trim().to_owned();
        let last = fs::read_to_string(dir.join(FILE)).unwrap_or_default();
        let files = files_in(dir)?;
        for path in &files {
            File::open(path)?.sync_all()?;
        }
        if !is_trusted(&last, &boot) {
            for path in &files {
                make_disk_agree(path)?;
            }
        }
        let path = dir.join(FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let session = Session { file, boot };
        session.note(OPEN)?;
        session.file.sync_all()?;
        sync_dir(dir)?;
        Ok(session)
    }

    /// Notes that everything written since the session began was synced without an error. This need not be durable: without
    /// it, the next opening compares the files.
    pub(super) fn close(&self) -> io::Result<()> {
        self.note(CLOSED)
    }

    fn note(&self, how: &str) -> io::Result<()> {
        self.file.write_all_at(line(how, &self.boot).as_bytes(), 0)
    }
}

fn line(how: &str, boot: &str) -> String {
    format!("{how} {boot}\n")
}

/// Whether the cache cannot differ from the disk.
fn is_trusted(last: &str, boot: &str) -> bool {
    let Some((how, at)) = last.strip_suffix('\n').and_then(|last| last.split_at_checked(OPEN.len())) else {
        return false;
    };
    how == CLOSED || (how == OPEN && !boot.is_empty() && !at.trim().is_empty() && at.trim() != boot)
}

fn files_in(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Writes again what differs on the disk from what is read.
fn make_disk_agree(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    let direct = past_the_cache(path)?;
    let (mut shown, mut held) = (vec![0; BLOCK_BYTES], vec![0; BLOCK_BYTES + PAGE_BYTES]);
    let aligned = held.as_ptr().align_offset(PAGE_BYTES);
    let held = &mut held[aligned..aligned + BLOCK_BYTES];
    let (mut at, mut written) = (0, 0);
    loop {
        let count = read_block(&file, &mut shown, at)?;
        if count == 0 {
            break;
        }
        let same = match &direct {
            Some(direct) => read_block(direct, held, at)? == count && held[..count] == shown[..count],
            None => false,
        };
        if !same {
            file.write_all_at(&shown[..count], at)?;
            written += count;
        }
        at += count as u64;
    }
    if written == 0 {
        return Ok(());
    }
    if direct.is_some() {
        tracing::warn!(
            file = %path.display(),
            bytes = written,
            "the disk did not hold what was written before it failed: it is written again"
        );
    }
    file.sync_all()
}

/// The file, opened so that reads come from the disk; `None` if its file system does not promise that.
fn past_the_cache(path: &Path) -> io::Result<Option<File>> {
    let found = match statx(CWD, path, AtFlags::empty(), StatxFlags::DIOALIGN) {
        Ok(found) => found,
        // A kernel before 4.11.
        Err(rustix::io::Errno::NOSYS) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let fits = |align: u32| align > 0 && PAGE_BYTES.is_multiple_of(align as usize);
    if found.stx_mask & StatxFlags::DIOALIGN.bits() == 0
        || !fits(found.stx_dio_mem_align)
        || !fits(found.stx_dio_offset_align)
    {
        return Ok(None);
    }
    let flags = i32::from_ne_bytes(OFlags::DIRECT.bits().to_ne_bytes());
    OpenOptions::new().read(true).custom_flags(flags).open(path).map(Some)
}

/// Fills the buffer, or reads up to the end of the file. Returns the number of bytes.
fn read_block(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read_at(&mut buffer[count..], at + count as u64) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        // At the end of the file. Another read would begin at an offset that is not aligned.
        if !count.is_multiple_of(PAGE_BYTES) {
            break;
        }
    }
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "992a381a-467f-4b1c-b122-0e2ff464736e";
    const OTHER: &str = "00000000-467f-4b1c-b122-0e2ff464736e";

    #[test]
    fn only_a_session_that_was_closed_or_is_of_another_boot_is_trusted() {
        assert!(is_trusted(&line(CLOSED, BOOT), BOOT));
        assert!(is_trusted(&line(CLOSED, ""), ""));
        assert!(is_trusted(&line(OPEN, OTHER), BOOT));
        assert!(!is_trusted(&line(OPEN, BOOT), BOOT));
        assert!(!is_trusted(&line(OPEN, ""), BOOT));
        assert!(!is_trusted(&line(OPEN, OTHER), ""));
        for unknown in ["", "\n", "open", "closed", "closed 992a381a", "\u{e4}\u{e4}\u{e4}\u{e4}\n"] {
            assert!(!is_trusted(unknown, BOOT), "{unknown:?}");
        }
    }

    #[test]
    fn a_session_is_open_until_it_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let session = Session::begin(dir.path()).unwrap();
        let noted = || fs::read_to_string(dir.path().join(FILE)).unwrap();
        assert!(!is_trusted(&noted(), &session.boot));
        session.close().unwrap();
        assert!(is_trusted(&noted(), &session.boot));
        let again = Session::begin(dir.path()).unwrap();
        assert!(!is_trusted(&noted(), &again.boot));
    }

    #[test]
    fn files_of_any_length_are_as_they_were_after_they_were_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        for length in [0, 1, 511, 4096, 4097, BLOCK_BYTES, 2 * BLOCK_BYTES + 12_345] {
            let bytes: Vec<u8> = (0..length).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
            fs::write(&path, &bytes).unwrap();
            make_disk_agree(&path).unwrap();
            assert!(fs::read(&path).unwrap() == bytes, "{length}");
        }
    }
}

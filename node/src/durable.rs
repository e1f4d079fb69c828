//! Files and directories that survive a power cut.
//!
//! A file's bytes are durable after an fsync of the file, its name after an fsync of its directory. These helpers do both
//! before they return.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

const TRIAL: &str = "write.trial";

/// More than a file system writes without asking its disk for new space.
const TRIAL_BYTES: usize = 1 << 20;

/// Replaces a file as a whole: after a crash at any point it holds either what it held before or all of `bytes`.
///
/// `mode` is the file's permission bits (`0o600` for a secret), whatever the umask. The new content is first written to
/// another file beside it. Only one writer per path is allowed at a time.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let draft = draft_of(path)?;
    match fs::remove_file(&draft) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let written = write_draft(&draft, bytes, mode).and_then(|()| fs::rename(&draft, path));
    if let Err(error) = written {
        // The draft may not exist; the error that counts is the one that stopped the write.
        let _ = fs::remove_file(&draft);
        return Err(error);
    }
    sync_dir(parent_of(path))
}

/// Makes the names in a directory durable: files that appeared, were renamed or removed.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Creates a directory and its missing parents, each durably.
pub fn create_dir_all_synced(path: &Path) -> io::Result<()> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|ancestor| !ancestor.as_os_str().is_empty() && !ancestor.is_dir())
        .collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(error) => return Err(error),
        }
        sync_dir(parent_of(dir))?;
    }
    Ok(())
}

/// Checks that a directory takes writes, by writing a file durably and removing it, and that `min_free_bytes` are free.
pub fn try_writing(dir: &Path, min_free_bytes: u64) -> io::Result<()> {
    let trial = dir.join(TRIAL);
    let written = write_file(&trial, &vec![0; TRIAL_BYTES], 0o600);
    match fs::remove_file(&trial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => written?,
    }
    let found = rustix::fs::statvfs(dir)?;
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    if free < min_free_bytes {
        return Err(io::Error::other(format!("{free} bytes are free, {min_free_bytes} are wanted")));
    }
    Ok(())
}

/// The directory that contains `path`: `.` for a bare name.
pub(crate) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}

fn draft_of(path: &Path) -> io::Result<PathBuf> {
    let Some(name) = path.file_name() else {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{} does not name a file", path.display()),
        ));
    };
    let mut draft = OsString::from(".");
    draft.push(name);
    draft.push(".draft");
    Ok(path.with_file_name(draft))
}

fn write_draft(draft: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // A secret must not be readable between creating the file and setting its mode.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(draft)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_with_the_mode_that_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("admin.token");
        write_file(&path, b"a long first content", 0o644).unwrap();
        write_file(&path, b"short", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"short");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays behind");
    }

    #[test]
    fn a_draft_that_a_crash_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(draft_of(&path).unwrap(), b"half of someth").unwrap();
        write_file(&path, b"whole", 0o600).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_no_draft() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("taken");
        fs::create_dir(&path).unwrap();
        write_file(&path, b"bytes", 0o600).unwrap_err();
        assert!(path.is_dir());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn missing_directories_are_created_down_to_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a/b/c");
        create_dir_all_synced(&deep).unwrap();
        create_dir_all_synced(&deep).unwrap();
        assert!(deep.is_dir());
    }

    #[test]
    fn a_file_where_a_directory_should_be_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), b"").unwrap();
        create_dir_all_synced(&dir.path().join("a/b")).unwrap_err();
        create_dir_all_synced(&dir.path().join("a")).unwrap_err();
    }
}

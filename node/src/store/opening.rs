//! From a path to an engine that is safe to build on: locked, readable, and with its files' names on disk.
//!
//! A database that cannot be read is an ordinary start state: it is set aside under a dated name, for somebody to look
//! at, and a fresh one takes its place. An error of the operating system is not: the data may be fine, and the one who
//! starts the node is told. To tell the two apart for sure, a fresh database must open where the old one did not; if
//! it doesn't either, the old one is put back.
//!
//! A store whose first opening did not come to its end has acknowledged nothing: it is marked as such before anything of
//! it is there, and made anew.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::durable::{create_dir_all_synced, parent_of, sync_dir};
use crate::store::StoreError;
use crate::store::cache::Session;
use crate::store::engine::{BLOB_DIR, DATABASE_FILE, Fault};

/// A file that is there from before the first until after the last thing that makes a new store.
const UNFINISHED: &str = "unfinished";

/// How long a lock may stay taken by a node that has ended: sled's background threads let go of the file a moment after
/// the database was closed, and a process that a killed node was just forking holds its descriptors up to its exec.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// How often to look whether it was let go.
const RELEASE_POLL: Duration = Duration::from_millis(5);

pub(super) struct Opening<E> {
    pub(super) engine: E,
    /// Held for as long as the engine lives.
    pub(super) lock: File,
    pub(super) session: Session,
    pub(super) set_aside: Option<PathBuf>,
}

/// `attempt` opens the database in a directory; it runs on a thread of its own.
pub(super) fn open<E: Send>(
    dir: &Path,
    attempt: impl Fn(&Path) -> Result<E, Fault> + Sync,
) -> Result<Opening<E>, StoreError> {
    let system = |error: io::Error| StoreError::from_open(dir, &error);
    create_dir_all_synced(dir).map_err(system)?;
    let lock = lock(dir)?;
    wait_for_sled(dir)?;
    begin_afresh_if_new(dir).map_err(system)?;
    remove_half_snapshots(dir).map_err(system)?;
    // What an earlier process left in memory only is on the disk before anything is built on it.
    let session =
        Session::begin(dir).and_then(|session| sync_names(dir).map(|()| session)).map_err(system)?;
    let (engine, lock, session, set_aside) = match on_own_thread(dir, &attempt) {
        Ok(engine) => (engine, lock, session, None),
        Err(Fault::System(error)) => return Err(system(error)),
        Err(Fault::Unreadable(why)) => {
            let (engine, fresh_lock, fresh_session, aside) = start_afresh(dir, &why, &attempt)?;
            (engine, fresh_lock, fresh_session, Some(aside))
        }
    };
    sync_names(dir).and_then(|()| finish(dir)).map_err(system)?;
    Ok(Opening { engine, lock, session, set_aside })
}

/// In an empty directory, and in one where the first opening was cut off, a store begins that counts once it is finished.
fn begin_afresh_if_new(dir: &Path) -> io::Result<()> {
    let mark = dir.join(UNFINISHED);
    if mark.try_exists()? {
        tracing::info!(store = %dir.display(), "its first start was cut off before it was of use to anybody: it is made anew");
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            } else if path != mark {
                fs::remove_file(path)?;
            }
        }
    } else if fs::read_dir(dir)?.next().is_some() {
        return Ok(());
    }
    File::create(mark)?.sync_all()?;
    sync_dir(dir)
}

/// Everything that a new store consists of is on the disk.
fn finish(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(UNFINISHED)) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The lock is on the directory itself, so that it is there before sled creates or touches anything in it.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let system = |error: io::Error| StoreError::from_open(dir, &error);
    let handle = File::open(dir).map_err(system)?;
    wait_for_lock(dir, &handle)?;
    Ok(handle)
}

fn wait_for_sled(dir: &Path) -> Result<(), StoreError> {
    let system = |error: io::Error| StoreError::from_open(dir, &error);
    let file = match File::open(dir.join(DATABASE_FILE)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(system(error)),
    };
    wait_for_lock(dir, &file)
}

fn wait_for_lock(dir: &Path, file: &File) -> Result<(), StoreError> {
    let deadline = Instant::now() + RELEASE_LIMIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(RELEASE_POLL),
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked { dir: dir.to_owned() }),
            Err(TryLockError::Error(error)) => return Err(StoreError::from_open(dir, &error)),
        }
    }
}

/// sled takes a snapshot that it did not finish for its newest one, and refuses to open for ever.
fn remove_half_snapshots(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.starts_with("snap.") && name.ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "removing a snapshot that a crash left unfinished");
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn on_own_thread<E: Send>(
    dir: &Path,
    attempt: &(impl Fn(&Path) -> Result<E, Fault> + Sync),
) -> Result<E, Fault> {
    thread::scope(|scope| {
        let opener =
            thread::Builder::new().name("store-open".to_owned()).spawn_scoped(scope, || attempt(dir));
        match opener {
            Ok(opener) => opener
                .join()
                .unwrap_or_else(|_| Err(Fault::Unreadable("the thread that opened it panicked".to_owned()))),
            Err(error) => Err(Fault::System(error)),
        }
    })
}

fn start_afresh<E: Send>(
    dir: &Path,
    why: &str,
    attempt: &(impl Fn(&Path) -> Result<E, Fault> + Sync),
) -> Result<(E, File, Session, PathBuf), StoreError> {
    let system = |error: io::Error| StoreError::from_open(dir, &error);
    let aside = free_name_for(dir).map_err(system)?;
    fs::rename(dir, &aside).map_err(system)?;
    let fresh = fs::create_dir(dir).and_then(|()| sync_dir(parent_of(dir))).map_err(system).and_then(|()| {
        let lock = lock(dir)?;
        begin_afresh_if_new(dir).map_err(system)?;
        let session = Session::begin(dir).map_err(system)?;
        let engine = on_own_thread(dir, attempt).map_err(|fault| StoreError::from_open_fault(dir, fault))?;
        Ok((engine, lock, session))
    });
    match fresh {
        Ok((engine, lock, session)) => {
            tracing::error!(
                store = %dir.display(),
                set_aside = %aside.display(),
                why,
                "the store could not be read: it was set aside and an empty one took its place"
            );
            Ok((engine, lock, session, aside))
        }
        Err(error) => {
            tracing::error!(
                store = %dir.display(),
                why,
                %error,
                "the store could not be read, but an empty one does not open in its place either: left as it was"
            );
            put_back(dir, &aside).map_err(system)?;
            Err(error)
        }
    }
}

fn put_back(dir: &Path, aside: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    fs::rename(aside, dir)?;
    sync_dir(parent_of(dir))
}

/// `<dir>.unreadable-20261122T154700Z`, and a number if that second has one already.
fn free_name_for(dir: &Path) -> io::Result<PathBuf> {
    let mut stem = OsString::from(dir.as_os_str());
    stem.push(jiff::Timestamp::now().strftime(".unreadable-%Y%m%dT%H%M%SZ").to_string());
    let mut name = PathBuf::from(&stem);
    let mut number = 2;
    while name.try_exists()? {
        let mut numbered = stem.clone();
        numbered.push(format!("-{number}"));
        name = PathBuf::from(numbered);
        number += 1;
    }
    Ok(name)
}

/// sled syncs neither its settings file nor any directory. Without the settings an otherwise sound database does not
/// open after a power cut.
fn sync_names(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    match sync_dir(&dir.join(BLOB_DIR)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    sync_dir(dir)?;
    sync_dir(parent_of(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn old_store() -> (tempfile::TempDir, PathBuf) {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        fs::create_dir_all(dir.join(BLOB_DIR)).unwrap();
        fs::write(dir.join("old"), b"orders").unwrap();
        (root, dir)
    }

    fn is_old(dir: &Path) -> bool {
        dir.join("old").exists()
    }

    fn names_in(root: &Path) -> Vec<OsString> {
        fs::read_dir(root).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn an_error_of_the_system_leaves_the_store_where_it_is() {
        let (root, dir) = old_store();
        let opened = open::<()>(&dir, |_| Err(Fault::System(io::Error::from_raw_os_error(5))));
        assert!(matches!(opened, Err(StoreError::Open { .. })));
        assert!(is_old(&dir));
        assert_eq!(names_in(root.path()), ["store"]);
    }

    #[test]
    fn a_lock_that_a_dead_node_still_holds_for_a_moment_is_waited_for() {
        let (_root, dir) = old_store();
        let dying = File::open(&dir).unwrap();
        dying.lock().unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(&dir).map(|_lock| Instant::now()));
            // That it takes a while is what is tested: several looks in vain.
            thread::sleep(RELEASE_POLL * 10);
            assert!(!waiting.is_finished(), "it got or gave up what another has");
            let released = Instant::now();
            drop(dying);
            assert!(waiting.join().unwrap().unwrap() >= released);
        });
    }

    #[test]
    fn a_store_that_panics_is_set_aside_and_a_fresh_one_opens() {
        let (_root, dir) = old_store();
        let opened = open(&dir, |dir| {
            assert!(!is_old(dir), "damaged");
            fs::create_dir(dir.join(BLOB_DIR))?;
            Ok(())
        })
        .unwrap();
        let aside = opened.set_aside.unwrap();
        assert!(is_old(&aside));
        assert!(!is_old(&dir));
        assert!(matches!(lock(&dir), Err(StoreError::Locked { .. })), "the fresh directory is locked");
    }

    #[test]
    fn a_store_is_put_back_when_a_fresh_one_does_not_open_either() {
        let (root, dir) = old_store();
        let opened = open::<()>(&dir, |_| panic!("no thread could be started"));
        assert!(matches!(opened, Err(StoreError::Open { .. })));
        assert!(is_old(&dir));
        assert_eq!(names_in(root.path()), ["store"]);
    }

    #[test]
    fn a_store_whose_first_opening_was_cut_off_is_made_anew_and_nothing_is_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        open::<()>(&dir, |dir| {
            fs::write(dir.join(DATABASE_FILE), b"half of a data")?;
            Err(Fault::System(io::Error::from_raw_os_error(5)))
        })
        .map(|_| ())
        .unwrap_err();
        let empty = |dir: &Path| {
            assert!(!dir.join(DATABASE_FILE).exists(), "what was cut off is still there");
            fs::write(dir.join(DATABASE_FILE), b"a database")?;
            Ok(())
        };
        assert_eq!(open(&dir, empty).unwrap().set_aside, None);
        let whole = |dir: &Path| {
            assert_eq!(fs::read(dir.join(DATABASE_FILE))?, b"a database");
            Ok(())
        };
        assert_eq!(open(&dir, whole).unwrap().set_aside, None);
        assert_eq!(names_in(root.path()), ["store"]);
    }

    #[test]
    fn two_stores_set_aside_within_a_second_keep_apart() {
        let (_root, dir) = old_store();
        for _ in 0..3 {
            fs::create_dir(free_name_for(&dir).unwrap()).unwrap();
        }
    }
}

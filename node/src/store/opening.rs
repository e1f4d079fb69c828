//! Opens a store's directory: locks it, makes sure that the database is readable, and syncs the names of its files.
//!
//! A database that cannot be read is set aside under a dated name, for a person to look at, and an empty one takes its
//! place. After an error of the operating system the data may be fine: it stays where it is, and the error is returned. To
//! tell the two apart, an empty database must open where the old one did not; if it does not either, the old one is put
//! back.
//!
//! A store whose first opening was interrupted has acknowledged nothing. A file marks it from before its first file exists
//! until it is complete; the next opening makes a marked store anew.

use std::ffi::OsString;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::durable::{create_dir_all_synced, parent_of, sync_dir};
use crate::store::StoreError;
use crate::store::engine::Fault;
use crate::store::engine::disk::{BLOB_DIR, DATABASE_FILE};
use crate::store::session::Session;

/// Marks a new store that is not complete.
const UNFINISHED: &str = "unfinished";

/// How long a lock may stay taken by a node that has ended: sled's background threads let go of the file a moment after
/// the database was closed, and a process that a killed node was forking holds its descriptors up to its exec.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

const RELEASE_POLL: Duration = Duration::from_millis(5);

pub(super) struct Opening<E> {
    pub(super) engine: E,
    /// To be held while the engine lives.
    pub(super) lock: File,
    pub(super) session: Session,
    pub(super) set_aside: Option<PathBuf>,
}

/// What to do with a database that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfUnreadable {
    SetAside,
    Refuse,
}

/// `attempt` opens the database in a directory; it runs on a thread of its own.
pub(super) fn open<E: Send>(
    dir: &Path,
    if_unreadable: IfUnreadable,
    attempt: impl Fn(&Path) -> Result<E, Fault> + Sync,
) -> Result<Opening<E>, StoreError> {
    let system = |error: io::Error| StoreError::from_open(dir, &error);
    create_dir_all_synced(dir).map_err(system)?;
    let lock = lock(dir)?;
    wait_for_sled(dir)?;
    begin_afresh_if_new(dir).map_err(system)?;
    remove_half_snapshots(dir).map_err(system)?;
    // Syncs what an earlier process wrote and did not sync, before anything relies on it.
    let session =
        Session::begin(dir).and_then(|session| sync_names(dir).map(|()| session)).map_err(system)?;
    let (engine, lock, session, set_aside) = match on_own_thread(dir, &attempt) {
        Ok(engine) => (engine, lock, session, None),
        Err(Fault::System(error)) => return Err(system(error)),
        Err(Fault::Unreadable(detail)) if if_unreadable == IfUnreadable::Refuse => {
            return Err(StoreError::Open { dir: dir.to_owned(), detail });
        }
        Err(Fault::Unreadable(why)) => {
            let (engine, fresh_lock, fresh_session, aside) = start_afresh(dir, &why, &attempt)?;
            (engine, fresh_lock, fresh_session, Some(aside))
        }
    };
    sync_names(dir).and_then(|()| finish(dir)).map_err(system)?;
    Ok(Opening { engine, lock, session, set_aside })
}

/// Marks an empty directory as a store that is not complete; removes what an interrupted first opening left.
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

/// Removes the mark: everything that a new store consists of is on the disk.
fn finish(dir: &Path) -> io::Result<()> {
    match fs::remove_file(dir.join(UNFINISHED)) {
        Ok(()) => sync_dir(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Locks the directory itself, so that the lock exists before sled creates or changes anything in it.
pub(super) fn lock(dir: &Path) -> Result<File, StoreError> {
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

/// sled takes an unfinished snapshot for its newest one, and then never opens again.
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

/// `<dir>.unreadable-20261122T154700Z`, with a number appended if that name is taken.
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

/// sled syncs neither its settings file nor any directory, and without the settings a sound database does not open after a
/// power cut.
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

    fn open_or_set_aside<E: Send>(
        dir: &Path,
        attempt: impl Fn(&Path) -> Result<E, Fault> + Sync,
    ) -> Result<Opening<E>, StoreError> {
        open(dir, IfUnreadable::SetAside, attempt)
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
        let opened = open_or_set_aside::<()>(&dir, |_| Err(Fault::System(io::Error::from_raw_os_error(5))));
        assert!(matches!(opened, Err(StoreError::Open { .. })));
        assert!(is_old(&dir));
        assert_eq!(names_in(root.path()), ["store"]);
    }

    #[test]
    fn an_unreadable_store_stays_where_it_is_if_that_is_asked_for() {
        let (root, dir) = old_store();
        let opened = open::<()>(&dir, IfUnreadable::Refuse, |_| Err(Fault::Unreadable("damaged".to_owned())));
        assert!(matches!(opened, Err(StoreError::Open { detail, .. }) if detail == "damaged"));
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
            // Long enough for several attempts that fail.
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
        let opened = open_or_set_aside(&dir, |dir| {
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
        let opened = open_or_set_aside::<()>(&dir, |_| panic!("no thread could be started"));
        assert!(matches!(opened, Err(StoreError::Open { .. })));
        assert!(is_old(&dir));
        assert_eq!(names_in(root.path()), ["store"]);
    }

    #[test]
    fn a_store_whose_first_opening_was_cut_off_is_made_anew_and_nothing_is_set_aside() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("store");
        open_or_set_aside::<()>(&dir, |dir| {
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
        assert_eq!(open_or_set_aside(&dir, empty).unwrap().set_aside, None);
        let whole = |dir: &Path| {
            assert_eq!(fs::read(dir.join(DATABASE_FILE))?, b"a database");
            Ok(())
        };
        assert_eq!(open_or_set_aside(&dir, whole).unwrap().set_aside, None);
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

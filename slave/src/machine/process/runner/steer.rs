//! Stops and pauses of the whole tree below this process.

use std::io;
use std::time::Duration;

use rustix::process::Signal;

use super::log::complain;
use crate::machine::process::freeze::{Frozen, freeze, thaw};
use crate::machine::process::tree::{names, own_pid, send};

/// How long it may take to make the tree stand still before it is told to end. After that the signals are sent anyway: they
/// reach processes that do not stand still too.
const STOP_FREEZE_LIMIT: Duration = Duration::from_millis(500);

/// Tells every process of the tree to end, once. A process that a handler starts to clean up is not told, because all stand
/// still until all have been told.
pub(super) fn terminate() -> Result<(), String> {
    let frozen = freeze(own_pid(), STOP_FREEZE_LIMIT).map_err(|error| unlisted(&error))?;
    if !frozen.barred.is_empty() {
        return Err(barred(&frozen));
    }
    for process in &frozen.tree {
        if let Err(error) = send(process.id, Signal::TERM) {
            complain(format_args!("process {} was not told to end: {error}", process.id.pid));
        }
    }
    // Those that stood still before too: a stopped process gets the signal when it goes on.
    thaw(own_pid(), &frozen.tree.iter().map(|process| process.id).collect());
    Ok(())
}

/// Makes the whole tree stand still. If that is not possible, everything goes on, and the error says why.
pub(super) fn hold_still(patience: Duration) -> Result<Frozen, String> {
    let frozen = freeze(own_pid(), patience).map_err(|error| unlisted(&error))?;
    if !frozen.barred.is_empty() {
        return Err(barred(&frozen));
    }
    if !frozen.restless.is_empty() {
        thaw(own_pid(), &frozen.stopped);
        return Err(format!(
            "{} of its {} processes did not stand still within {} s, and all go on: {}",
            frozen.restless.len(),
            frozen.tree.len(),
            patience.as_secs(),
            names(&frozen.restless)
        ));
    }
    Ok(frozen)
}

fn unlisted(error: &io::Error) -> String {
    format!("its processes can't be listed, and all go on: {error}")
}

fn barred(frozen: &Frozen) -> String {
    format!(
        "{} of its {} processes belong to another user and can't be reached, and all go on: {}",
        frozen.barred.len(),
        frozen.tree.len(),
        names(&frozen.barred)
    )
}

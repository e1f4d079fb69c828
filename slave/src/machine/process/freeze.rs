//! Makes a whole process tree stand still, and lets it go on.

use std::collections::BTreeSet;
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::tree::{Process, ProcessId, below, descendants, send};

/// How long one process may take to stand still before the next one is stopped. Parents come first, so that a shell with job
/// control does not see its child stopped and go on without it; but one that hangs in the kernel must not delay the others.
const STEP_LIMIT: Duration = Duration::from_millis(50);
const STEP_PAUSE: Duration = Duration::from_micros(500);

/// The result of an attempt to make a tree stand still.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// The whole tree, parents before their children.
    pub(super) tree: Vec<Process>,
    /// The processes that this attempt stopped, without those that stood still before.
    pub(super) stopped: BTreeSet<ProcessId>,
    /// The processes that may not be sent a signal. If there are any, nothing was stopped.
    pub(super) barred: Vec<Process>,
    /// The processes that did not stand still in time.
    pub(super) restless: Vec<Process>,
}

/// Stops everything below this process, and looks again until nothing moves and nothing is new: a process that stands still
/// starts no other. The caller passes what was stopped to [`thaw`] later, and waits for no child in between: a child that
/// started another one and ended is the only trace of that.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn freeze(root: i32, patience: Duration) -> io::Result<Frozen> {
    let deadline = Instant::now() + patience;
    let mut frozen = Frozen::default();
    let mut calm: Option<BTreeSet<(ProcessId, bool)>> = None;
    loop {
        let all = match below(root) {
            Ok(tree) => tree,
            Err(error) => {
                thaw(root, &frozen.stopped);
                return Err(error);
            }
        };
        let seen = all.iter().map(|process| (process.id, process.is_dead())).collect();
        frozen.tree = all.into_iter().filter(|process| !process.is_dead()).collect();
        frozen.barred = frozen.tree.iter().filter(|process| process.is_barred()).cloned().collect();
        if !frozen.barred.is_empty() {
            thaw(root, &std::mem::take(&mut frozen.stopped));
            return Ok(frozen);
        }
        frozen.restless.clear();
        for process in &frozen.tree {
            if !process.stands_still() && stop(process, deadline, &mut frozen.stopped) {
                frozen.restless.push(process.clone());
            }
        }
        // A list of processes is not of one moment and may miss one. If such a process moved, it or its parent would be new
        // in the next list, alive or dead. So only a second list that is equal to the first one is believed.
        if frozen.restless.is_empty() && calm.as_ref() == Some(&seen) {
            return Ok(frozen);
        }
        if Instant::now() >= deadline {
            if frozen.restless.is_empty() {
                // Every look found something new: then any process may be one that moves.
                frozen.restless.clone_from(&frozen.tree);
            }
            return Ok(frozen);
        }
        calm = frozen.restless.is_empty().then_some(seen);
    }
}

/// Stops one process. True if it was still moving, or moves still.
fn stop(process: &Process, deadline: Instant, stopped: &mut BTreeSet<ProcessId>) -> bool {
    match send(process.id, Signal::STOP) {
        Ok(true) => {
            stopped.insert(process.id);
        }
        Ok(false) => return false,
        Err(_) => return true,
    }
    let limit = deadline.min(Instant::now() + STEP_LIMIT);
    while let Ok(Some(now)) = Process::read(process.id.pid)
        && now.id == process.id
    {
        if now.stands_still() || Instant::now() >= limit {
            break;
        }
        thread::sleep(STEP_PAUSE);
    }
    true
}

/// Lets these go on, children before their parents: a shell that wakes up must not find a child that is still stopped.
pub(super) fn thaw(root: i32, stopped: &BTreeSet<ProcessId>) {
    // Without a list the order is unknown; they are let go on in any order then.
    let tree = descendants(root).unwrap_or_default();
    let ordered = tree.iter().rev().map(|process| process.id).filter(|id| stopped.contains(id));
    let others = stopped.iter().copied().filter(|id| !tree.iter().any(|process| process.id == *id));
    for id in ordered.chain(others).collect::<Vec<_>>() {
        // Stopping it was allowed, so this fails only if it has ended.
        let _ = send(id, Signal::CONT);
    }
}

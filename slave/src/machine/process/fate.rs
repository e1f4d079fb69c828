//! What became of a run, by the files of its directory and the processes of the box.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use reloop_node::durable;
use reloop_protocol::id::BootId;
use reloop_protocol::job::End;
use reloop_protocol::message::Outcome;
use reloop_protocol::slave::{Ended, Fact, Probed};
use reloop_protocol::time::Time;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::files::{
    CONTROL, EXIT, Exit, LOCK, OUTPUT, PLAN, Plan, STARTED, Started, VOID, WORK, exists, is_absent,
    open_control, open_lock, read_json, read_state,
};
use super::remains::{Remains, Traces, remains};
use super::reports::newest_progress;
use super::tree::{self, MARK};
use crate::machine::types::{TEXT_LIMIT, clip};

/// How long a probe waits for a runner that holds the lock to begin: a few synchronous writes, on a slow disk.
pub(super) const BEGIN_LIMIT: Duration = Duration::from_secs(2);
const BEGIN_PAUSE: Duration = Duration::from_millis(10);
/// How long a probe waits for processes that live without their runner: whoever killed the runner may be killing the rest.
const REMAINS_LIMIT: Duration = Duration::from_secs(2);
/// The longest time between two looks meanwhile, each of which reads all of `/proc`.
const REMAINS_PAUSE: Duration = Duration::from_millis(200);

/// Says what became of a run. If nothing on disk says that it began, and nobody is left who could begin it, this makes it
/// void.
pub(super) fn fate(dir: &Path, boot: BootId) -> io::Result<Probed> {
    if exists(dir, VOID) {
        return Ok(Probed::NeverStarted);
    }
    // A runner is started when the plan is on disk: without one nothing began, even if the disk is too full to write that
    // down. But in a directory that somebody has removed, missing files prove nothing.
    if dir.is_dir() && [PLAN, STARTED, EXIT].iter().all(|file| is_absent(&dir.join(file))) {
        if let Err(error) = make_void(dir) {
            tracing::info!(dir = %dir.display(), %error, "a run that never began could not be marked as such");
        }
        return Ok(Probed::NeverStarted);
    }
    let since = Instant::now();
    let mut pause = BEGIN_PAUSE;
    loop {
        let hold = Hold::take(dir)?;
        // Under the lock these files do not change any more.
        if let Some(exit) = read_json::<Exit>(dir, EXIT)? {
            return Ok(outcome(exit));
        }
        let remains = match (read_json::<Started>(dir, STARTED)?, &hold) {
            (None, Some(_)) => {
                make_void(dir)?;
                return Ok(Probed::NeverStarted);
            }
            // Held by a runner that is about to begin, or for a moment by a fork of this process.
            (None, None) if since.elapsed() < BEGIN_LIMIT => None,
            (None, None) => return alive(dir),
            (Some(_), None) if has_runner(dir)? => return alive(dir),
            (Some(started), _) => Some(remains_of(dir, &started, boot)?),
        };
        if let Some(remains) = remains {
            let is_free = hold.is_some();
            if is_free && remains.is_nothing() {
                tracing::warn!(dir = %dir.display(), "a run left no outcome");
                return Ok(Probed::Gone);
            }
            if since.elapsed() >= REMAINS_LIMIT {
                return Ok(Probed::Unknown(clip(&orphaned(dir, &remains), TEXT_LIMIT)));
            }
        }
        drop(hold);
        thread::sleep(pause);
        pause = (pause * 2).min(REMAINS_PAUSE);
    }
}

/// The same, where an error means that the machine cannot say.
pub(super) fn fate_or_unknown(dir: &Path, boot: BootId) -> Probed {
    fate(dir, boot).unwrap_or_else(|error| {
        let why = format!("{}: {error}; mend that and probe again", dir.display());
        Probed::Unknown(clip(&why, TEXT_LIMIT))
    })
}

/// What the runner's last words mean.
pub(super) fn outcome(exit: Exit) -> Probed {
    if exit.not_begun {
        return Probed::NotBegun(clip(&exit.text, TEXT_LIMIT));
    }
    if let Some(left) = &exit.left
        && (left.is_empty() || !tree::living(left).is_empty())
    {
        return Probed::Unknown(clip(&exit.text, TEXT_LIMIT));
    }
    match &exit.interrupted {
        Some(by) => {
            tracing::warn!(by, text = exit.text, "a run was interrupted");
            Probed::Gone
        }
        None => Probed::Ended(ended(exit)),
    }
}

fn ended(exit: Exit) -> Ended {
    let end = match (exit.stop_requested, exit.exit_code) {
        (true, _) => End::Stopped,
        (false, Some(0)) => End::Succeeded,
        (false, _) => End::Failed,
    };
    let text = clip(&exit.text, TEXT_LIMIT);
    let outcome = Outcome { exit_code: exit.exit_code, signal: exit.signal, text };
    Ended { end, outcome, at: Some(Time(exit.at_ms)) }
}

pub(super) fn not_begun(why: &str) -> Fact {
    Fact::Probed(Probed::NotBegun(clip(why, TEXT_LIMIT)))
}

/// Whether a runner reads commands. It does so from before it takes the lock until it ends, and the program does not inherit
/// the FIFO.
pub(super) fn has_runner(dir: &Path) -> io::Result<bool> {
    Ok(open_control(&dir.join(CONTROL))?.is_some())
}

fn alive(dir: &Path) -> io::Result<Probed> {
    Ok(Probed::Alive { paused: read_state(dir)?.paused, permille: newest_progress(&dir.join(OUTPUT))? })
}

/// Writes down that nothing began and nothing will. On a full disk the plan is renamed to that: a runner then finds no plan.
fn make_void(dir: &Path) -> io::Result<()> {
    let void = dir.join(VOID);
    if let Err(error) = durable::write_file(&void, b"", 0o600) {
        fs::rename(dir.join(PLAN), &void).map_err(|_| error)?;
        durable::sync_dir(dir)?;
    }
    dir.parent().map_or(Ok(()), durable::sync_dir)
}

/// What lives of a run that has begun and has no runner.
fn remains_of(dir: &Path, started: &Started, boot: BootId) -> io::Result<Remains> {
    if started.boot != boot {
        // The processes of another boot are dead, and the same ids and marks may belong to others now.
        return Ok(Remains::default());
    }
    let plan: Option<Plan> = read_json(dir, PLAN)?;
    let mark = plan.as_ref().and_then(|plan| plan.env.get(MARK)).map(String::as_str);
    // The kernel names files by their true path.
    let dir = dir.canonicalize()?;
    remains(&Traces { mark, runner: started.runner, work: &dir.join(WORK), output: &dir.join(OUTPUT) })
}

/// For people: what is known of a run that has lost its runner, and how to end it.
fn orphaned(dir: &Path, remains: &Remains) -> String {
    let Remains { alive, doubts } = remains;
    if !alive.is_empty() {
        return format!(
            "its runner was killed, and {} of its processes live on without it: {}; {} at the machine ends them",
            alive.len(),
            tree::names(alive),
            tree::kill_command(alive)
        );
    }
    if doubts.is_empty() {
        let lock = dir.join(LOCK);
        return format!(
            "its runner was killed, and a process that can't be found has {} open",
            lock.display()
        );
    }
    format!("its runner was killed, and whether anything of it lives can't be seen: {}", doubts.join("; "))
}

/// A run's lock, held by this process: the run's runner is dead or has not begun, and cannot begin meanwhile.
struct Hold(File);

impl Hold {
    /// `None` if something of the run holds the lock.
    fn take(dir: &Path) -> io::Result<Option<Self>> {
        let file = open_lock(dir)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread forks holds the file too until it executes its program.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "a run's lock was not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn that_a_run_never_began_holds_also_where_nothing_can_be_written() {
        let boot = BootId([1; 16]);
        for planned in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            // A directory with the name of the mark's draft makes writing it fail.
            fs::create_dir(dir.path().join(format!(".{VOID}.draft"))).unwrap();
            if planned {
                fs::write(dir.path().join(PLAN), "{}").unwrap();
            }
            assert!(durable::write_file(&dir.path().join(VOID), b"", 0o600).is_err());
            assert_eq!(fate(dir.path(), boot).unwrap(), Probed::NeverStarted);
            assert!(!exists(dir.path(), PLAN), "a runner that comes late finds none");
            assert_eq!(exists(dir.path(), VOID), planned);
            assert_eq!(fate(dir.path(), boot).unwrap(), Probed::NeverStarted);
        }
    }
}

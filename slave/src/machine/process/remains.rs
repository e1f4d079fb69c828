//! What lives of a run whose runner was killed.
//!
//! The parent ids lead nowhere then. A process is recognized by the mark in its environment, which every process inherits
//! that descends from the program; by the runner's session; by the run's work directory or output as its current directory
//! or standard output; or as a child of a process that is recognized. A process that cannot be looked into is a doubt, and
//! never a proof. A process escapes if it has changed its environment, session, parent and files, all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use rustix::process::getuid;

use super::tree::{MARK, Process, ProcessId, all, is_gone, names, own_pid};

/// How many lists of processes are made at most before nothing counts as alive. On a box where processes of others come and go
/// all the time, a process ends during most of the lists.
const LOOKS: usize = 8;

/// What the processes of a run are recognized by; it began in this boot.
#[derive(Debug)]
pub(super) struct Traces<'a> {
    /// The value of [`MARK`], if the run was given one.
    pub(super) mark: Option<&'a str>,
    /// The run's runner, if that was noted. No process of the run is older.
    pub(super) runner: Option<ProcessId>,
    /// The run's work directory and output, by their true paths.
    pub(super) work: &'a Path,
    pub(super) output: &'a Path,
}

#[derive(Debug, Default)]
pub(super) struct Remains {
    pub(super) alive: Vec<Process>,
    /// Why there may be more, for people.
    pub(super) doubts: Vec<String>,
}

impl Remains {
    /// Proof that nothing of the run lives.
    pub(super) fn is_nothing(&self) -> bool {
        self.alive.is_empty() && self.doubts.is_empty()
    }
}

/// Looks for living processes of a run.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn remains(traces: &Traces<'_>) -> io::Result<Remains> {
    let mut is_second = false;
    for _ in 0..LOOKS {
        let (found, has_missed) = look(traces)?;
        // A list of processes is not of one moment: it may miss a process that starts meanwhile and whose parent has ended.
        if !found.is_nothing() || is_second && !has_missed {
            return Ok(found);
        }
        is_second = true;
    }
    Ok(Remains::default())
}

/// One look, and whether a process of the list ended before it could be looked at.
fn look(traces: &Traces<'_>) -> io::Result<(Remains, bool)> {
    let (mut others, has_missed) = all()?;
    // If the runner's id belongs to another living process, so may the session with that number.
    let session = traces
        .runner
        .filter(|runner| !others.iter().any(|process| process.id.pid == runner.pid && process.id != *runner));
    others.retain(|process| {
        let is_older = traces.runner.is_some_and(|runner| process.id.start < runner.start);
        process.id.pid != own_pid() && !is_older && !process.is_dead()
    });

    let mut found = Remains::default();
    let mut unknown = Vec::new();
    let mut rest = Vec::new();
    for process in others {
        let in_session = session.is_some_and(|runner| process.session == runner.pid);
        match is_traced(&process, traces) {
            _ if in_session => found.alive.push(process),
            Ok(true) => found.alive.push(process),
            Ok(false) => rest.push(process),
            Err(error) if is_gone(&error) => {}
            Err(_) => unknown.push(process),
        }
    }
    loop {
        let parents: BTreeSet<i32> = found.alive.iter().map(|process| process.id.pid).collect();
        let is_child = |process: &mut Process| parents.contains(&process.parent);
        let before = found.alive.len();
        found.alive.extend(rest.extract_if(.., is_child));
        found.alive.extend(unknown.extract_if(.., is_child));
        if found.alive.len() == before {
            break;
        }
    }
    unknown.retain(|process| real_uid(process.id.pid).is_none_or(|uid| uid == getuid().as_raw()));
    if !unknown.is_empty() {
        found.doubts.push(format!("of this user, begun later, and closed to a look: {}", names(&unknown)));
    }
    if !matches!(Process::read(1), Ok(Some(_))) {
        found.doubts.push("/proc hides the processes of other users".to_owned());
    }
    if traces.mark.is_none() {
        found.doubts.push("an older version began it, which left no mark on its processes".to_owned());
    }
    Ok((found, has_missed))
}

/// Whether a process has the run's mark or its files.
fn is_traced(process: &Process, traces: &Traces<'_>) -> io::Result<bool> {
    let of = |name: &str| format!("/proc/{}/{name}", process.id.pid);
    let environment = fs::read(of("environ"))?;
    if matches!(process.state, 'Z' | 'X') {
        // The environment can only be read through the first thread.
        return Err(io::Error::other("its first thread has ended"));
    }
    let is_mark = |entry: &[u8]| {
        let value = entry.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| traces.mark.is_some_and(|mark| value == mark.as_bytes()))
    };
    if environment.split(|byte| *byte == 0).any(is_mark) {
        return Ok(true);
    }
    // A closed descriptor has no link.
    let leads_to =
        |name: &str, place: &Path| fs::read_link(of(name)).is_ok_and(|target| target.starts_with(place));
    Ok(leads_to("cwd", traces.work) || leads_to("fd/1", traces.output) || leads_to("fd/2", traces.output))
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

//! The process tree of a run, as `/proc` shows it.
//!
//! While its runner lives, the run is everything below the runner: a process whose parent ends becomes a child of the
//! runner (`PR_SET_CHILD_SUBREAPER`), whatever session or process group it has made for itself. So the parents tell all of
//! it, and the kernel's word that the runner has no child left is proof that nothing of the run lives.
//!
//! When the runner was killed that is lost, and [`remains`] looks for what it leaves behind: the mark in the environment of
//! every process that descends from the program, the runner's session, the run's directory or output as a process's
//! current directory or standard output, and children of what is found by that. What can't be looked into is a doubt, never a
//! proof. One process escapes: it has let go of environment, session, parent and files together.
//!
//! A process is named by its id and the moment of its start, since an id alone may be another's by now.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, getuid, kill_process, pidfd_open, pidfd_send_signal, test_kill_process,
};
use serde::{Deserialize, Serialize};

use super::process::{OUTPUT, WORK};

/// The environment variable that every process of a run inherits: the run's directory.
pub(super) const MARK: &str = "RELOOP_RUN";

/// How long one process may take to stand still before the next one is stopped. Parents come first, so that a shell with job
/// control does not see its child stopped and go on without it; one that hangs in the kernel must not hold up the others.
const STEP_LIMIT: Duration = Duration::from_millis(50);
const STEP_PAUSE: Duration = Duration::from_micros(500);
/// How many lists of processes are made at most to believe that nothing of a run lives. On a box where processes of others come
/// and go all the time, one disappears from most lists.
const LOOKS: usize = 8;
/// How many processes are named in a text, which has a limit.
const NAMED: usize = 8;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    /// In clock ticks since the boot.
    pub(super) start: u64,
}

/// What the kernel tells everybody of a process (proc_pid_stat(5)).
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    name: String,
    state: char,
    parent: i32,
    session: i32,
    threads: u32,
}

impl Process {
    /// Nothing if there is none under this id.
    ///
    /// # Errors
    /// It can't be looked at: `/proc` is not there, or hides it.
    pub(super) fn read(pid: i32) -> io::Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        match fs::read(&path) {
            Ok(bytes) => match Self::parse(pid, &String::from_utf8_lossy(&bytes)) {
                Some(process) => Ok(Some(process)),
                None => Err(io::Error::new(ErrorKind::InvalidData, format!("{path} makes no sense"))),
            },
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The name in the second field may hold anything, parentheses included.
    fn parse(pid: i32, stat: &str) -> Option<Self> {
        let (front, back) = stat.rsplit_once(')')?;
        let (_, name) = front.split_once('(')?;
        let fields: Vec<&str> = back.split_ascii_whitespace().collect();
        // The first of these is the third field of the file.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            id: ProcessId { pid, start: field(22)?.parse().ok()? },
            name: name.to_owned(),
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            session: field(6)?.parse().ok()?,
            threads: field(20)?.parse().ok()?,
        })
    }

    /// A process whose first thread has ended lives on in the others, and looks like a zombie.
    fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// Every thread of it is stopped or has ended.
    fn stands_still(&self) -> bool {
        if self.threads <= 1 {
            return is_still(self.state);
        }
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.id.pid)) else { return false };
        threads.flatten().all(|thread| match fs::read(thread.path().join("stat")) {
            Ok(bytes) => {
                Self::parse(0, &String::from_utf8_lossy(&bytes)).is_some_and(|thread| is_still(thread.state))
            }
            Err(error) => is_gone(&error),
        })
    }
}

fn is_still(state: char) -> bool {
    matches!(state, 'T' | 't' | 'Z' | 'X')
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// The processes that can be seen, and whether one had gone when it was to be looked at.
fn all() -> io::Result<(Vec<Process>, bool)> {
    let (mut processes, mut has_missed) = (Vec::new(), false);
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match Process::read(pid) {
            Ok(Some(process)) => processes.push(process),
            Ok(None) => has_missed = true,
            // Hidden: whoever needs to know of it asks for that.
            Err(_) => {}
        }
    }
    Ok((processes, has_missed))
}

/// What lives below this process, parents before their children.
///
/// # Errors
/// `/proc` can't be read.
pub(super) fn descendants(root: i32) -> io::Result<Vec<Process>> {
    let mut found = below(root)?;
    found.retain(|process| !process.is_dead());
    Ok(found)
}

/// The same with what has ended and was not waited for yet.
fn below(root: i32) -> io::Result<Vec<Process>> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all()?.0 {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut next = VecDeque::from([root]);
    while let Some(parent) = next.pop_front() {
        for process in children.remove(&parent).unwrap_or_default() {
            next.push_back(process.id.pid);
            found.push(process);
        }
    }
    Ok(found)
}

/// Those of these that live still. What can't be looked at counts as alive.
pub(super) fn living(ids: &[ProcessId]) -> Vec<ProcessId> {
    let lives = |id: &ProcessId| match Process::read(id.pid) {
        Ok(Some(process)) => process.id == *id && !process.is_dead(),
        Ok(None) => false,
        Err(_) => true,
    };
    ids.iter().copied().filter(lives).collect()
}

/// Sends a signal to this process and to no other that has its id by now. False if it has ended.
///
/// # Errors
/// The kernel does not allow it.
pub(super) fn send(id: ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(id.pid) else { return Ok(false) };
    // The handle first: it is of the process that is looked at next, or of one that has ended. Old kernels have none.
    let handle = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => Some(handle),
        Err(Errno::SRCH) => return Ok(false),
        Err(_) => None,
    };
    if Process::read(id.pid)?.is_none_or(|process| process.id != id) {
        return Ok(false);
    }
    let sent = match &handle {
        Some(handle) => pidfd_send_signal(handle, signal),
        None => kill_process(pid, signal),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What came of an attempt to make a tree stand still.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    /// All of it, parents before their children.
    pub(super) tree: Vec<Process>,
    /// What this attempt has stopped: what stood still before is not among it.
    pub(super) stopped: BTreeSet<ProcessId>,
    /// What may not be sent a signal: then nothing was stopped.
    pub(super) barred: Vec<Process>,
    /// What did not stand still within the time.
    pub(super) restless: Vec<Process>,
}

/// Stops everything below this process, and looks again until nothing of it moves and nothing is new: what does not move
/// begets nothing. What it has stopped is let go by [`thaw`]. The caller waits for no child meanwhile: one that begot another
/// and ended is the trace of it.
///
/// # Errors
/// `/proc` can't be read.
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
        frozen.barred = frozen.tree.iter().filter(|process| is_barred(process)).cloned().collect();
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
        // A list of processes is not of one moment. If something moved that it misses, then that, or what begot it, is new in
        // the next one, alive or dead: only a second list that says the same is believed.
        if frozen.restless.is_empty() && calm.as_ref() == Some(&seen) {
            return Ok(frozen);
        }
        if Instant::now() >= deadline {
            if frozen.restless.is_empty() {
                // What is new by every look stands for what was not seen.
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

fn is_barred(process: &Process) -> bool {
    Pid::from_raw(process.id.pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::PERM))
}

/// Lets these go on, children before their parents: a shell that wakes must not find a child that is still stopped.
pub(super) fn thaw(root: i32, stopped: &BTreeSet<ProcessId>) {
    // Without a list the order is lost, which is better than to leave them stopped.
    let tree = descendants(root).unwrap_or_default();
    let ordered = tree.iter().rev().map(|process| process.id).filter(|id| stopped.contains(id));
    let others = stopped.iter().copied().filter(|id| !tree.iter().any(|process| process.id == *id));
    for id in ordered.chain(others).collect::<Vec<_>>() {
        // It was allowed to be stopped; if it has ended, that is as good.
        let _ = send(id, Signal::CONT);
    }
}

/// By what the processes of a run of this boot are known whose runner is dead.
#[derive(Debug)]
pub(super) struct Traces<'a> {
    /// The value of [`MARK`], if the run was given one.
    pub(super) mark: Option<&'a str>,
    /// Its runner, if that was noted. Nothing of the run is older.
    pub(super) runner: Option<ProcessId>,
    /// The run's directory.
    pub(super) dir: &'a Path,
}

/// What is found of a run whose runner is dead.
#[derive(Debug, Default)]
pub(super) struct Remains {
    /// What lives of it.
    pub(super) alive: Vec<Process>,
    /// Why there may be more, each with its reason.
    pub(super) doubts: Vec<String>,
}

impl Remains {
    /// Proof that nothing of the run lives.
    pub(super) fn is_nothing(&self) -> bool {
        self.alive.is_empty() && self.doubts.is_empty()
    }
}

/// Looks for what lives of a run whose runner is dead.
///
/// # Errors
/// `/proc` can't be read.
pub(super) fn remains(traces: &Traces<'_>) -> io::Result<Remains> {
    let mut is_second = false;
    for _ in 0..LOOKS {
        let (found, has_missed) = look(traces)?;
        // A list of processes is not of one moment: what is born while it is made may be missing, and what begot it has ended.
        if !found.is_nothing() || is_second && !has_missed {
            return Ok(found);
        }
        is_second = true;
    }
    Ok(Remains::default())
}

fn look(traces: &Traces<'_>) -> io::Result<(Remains, bool)> {
    let Traces { mark, runner, dir } = *traces;
    // The kernel names files by their true path.
    let dir = dir.canonicalize()?;
    let files = [dir.join(WORK), dir.join(OUTPUT)];
    let own = getpid().as_raw_nonzero().get();
    let (mut others, has_missed) = all()?;
    // Its number is another's when the session's first process lives and is not the runner.
    let session = runner
        .filter(|runner| !others.iter().any(|process| process.id.pid == runner.pid && process.id != *runner));
    others.retain(|process| {
        let too_old = runner.is_some_and(|runner| process.id.start < runner.start);
        process.id.pid != own && !too_old && !process.is_dead()
    });

    let mut found = Remains::default();
    let mut unknown = Vec::new();
    let mut rest = Vec::new();
    for process in others {
        let in_session = session.is_some_and(|runner| process.session == runner.pid);
        match is_traced(&process, mark, &files) {
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
    if mark.is_none() {
        found.doubts.push("an older version began it, which left no mark on its processes".to_owned());
    }
    Ok((found, has_missed))
}

/// Whether a process bears the run's mark or has its files.
fn is_traced(process: &Process, mark: Option<&str>, [work, output]: &[PathBuf; 2]) -> io::Result<bool> {
    let of = |name: &str| format!("/proc/{}/{name}", process.id.pid);
    let environment = fs::read(of("environ"))?;
    if matches!(process.state, 'Z' | 'X') {
        // Its first thread has ended and has taken the view of the others' environment along.
        return Err(io::Error::other("its first thread has ended"));
    }
    let is_mark = |entry: &[u8]| {
        let value = entry.strip_prefix(MARK.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        value.is_some_and(|value| mark.is_some_and(|mark| value == mark.as_bytes()))
    };
    if environment.split(|byte| *byte == 0).any(is_mark) {
        return Ok(true);
    }
    // A descriptor that was closed leads nowhere.
    let leads_to =
        |name: &str, place: &Path| fs::read_link(of(name)).is_ok_and(|target| target.starts_with(place));
    Ok(leads_to("cwd", work) || leads_to("fd/1", output) || leads_to("fd/2", output))
}

fn real_uid(pid: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// For people: ids with the names of the programs.
pub(super) fn names(processes: &[Process]) -> String {
    let mut names: Vec<String> = processes
        .iter()
        .take(NAMED)
        .map(|process| {
            let plain = process.name.chars().map(|c| if c.is_control() { ' ' } else { c });
            format!("{} ({})", process.id.pid, plain.collect::<String>())
        })
        .collect();
    if let Some(more) = processes.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    names.join(", ")
}

/// For people: the command that ends these.
pub(super) fn kill_command(processes: &[Process]) -> String {
    let pids: Vec<String> = processes.iter().take(NAMED).map(|process| process.id.pid.to_string()).collect();
    format!("`kill -9 {}`", pids.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_hold_anything() {
        let stat = "42 (a) b (c) T 7 42 41 0 -1 0 0 0 0 0 1 2 3 4 20 0 3 0 98765 1 2";
        let process = Process::parse(42, stat).unwrap();
        assert_eq!(process.id, ProcessId { pid: 42, start: 98765 });
        assert_eq!((process.name.as_str(), process.state), ("a) b (c", 'T'));
        assert_eq!((process.parent, process.session, process.threads), (7, 41, 3));
        assert_eq!(names(&[process]), "42 (a) b (c)");
        assert!(Process::parse(42, "42 (sh) T 7").is_none());
    }

    #[test]
    fn an_id_without_its_moment_of_start_is_nobody() {
        let own = Process::read(getpid().as_raw_nonzero().get()).unwrap().unwrap();
        assert_eq!(living(&[own.id]), [own.id]);
        let other = ProcessId { start: own.id.start + 1, ..own.id };
        assert_eq!(living(&[other]), []);
        // It would end this test otherwise.
        assert!(!send(other, Signal::KILL).unwrap());
    }
}

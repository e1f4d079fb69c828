//! The process tree of a run, as `/proc` shows it.
//!
//! While its runner lives, a run is everything below the runner: a process whose parent ends becomes a child of the runner
//! (`PR_SET_CHILD_SUBREAPER`), whatever session or process group it has made for itself. So the parent ids lead to all of
//! it, and when the kernel says that the runner has no child left, nothing of the run lives.
//!
//! A process is identified by its id and the moment of its start: the id alone may belong to another process by now.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::io::{self, ErrorKind};

use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, getpid, kill_process, pidfd_open, pidfd_send_signal, test_kill_process,
};
use serde::{Deserialize, Serialize};

/// The environment variable that every process of a run inherits: the run's directory.
pub(super) const MARK: &str = "RELOOP_RUN";

/// How many processes are named in a text.
const NAMED: usize = 8;

/// One process of this boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ProcessId {
    pub(super) pid: i32,
    /// In clock ticks since the boot.
    pub(super) start: u64,
}

/// What the kernel tells everybody about a process (proc_pid_stat(5)).
#[derive(Debug, Clone)]
pub(super) struct Process {
    pub(super) id: ProcessId,
    name: String,
    pub(super) state: char,
    pub(super) parent: i32,
    pub(super) session: i32,
    threads: u32,
}

impl Process {
    /// `None` if there is no process with this id.
    ///
    /// # Errors
    /// The process cannot be looked at: there is no `/proc`, or it hides the process.
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

    /// The name in the second field may contain anything, even parentheses.
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

    /// A process whose first thread has ended looks like a zombie while its other threads live on.
    pub(super) fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }

    /// Every thread of it is stopped or has ended.
    pub(super) fn stands_still(&self) -> bool {
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

    /// It may not be sent a signal.
    pub(super) fn is_barred(&self) -> bool {
        Pid::from_raw(self.id.pid).is_some_and(|pid| test_kill_process(pid) == Err(Errno::PERM))
    }
}

pub(super) fn own_pid() -> i32 {
    getpid().as_raw_nonzero().get()
}

fn is_still(state: char) -> bool {
    matches!(state, 'T' | 't' | 'Z' | 'X')
}

pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || Errno::from_io_error(error) == Some(Errno::SRCH)
}

/// The processes that can be seen, and whether one of the list had ended before it could be looked at.
pub(super) fn all() -> io::Result<(Vec<Process>, bool)> {
    let (mut processes, mut has_missed) = (Vec::new(), false);
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        match Process::read(pid) {
            Ok(Some(process)) => processes.push(process),
            Ok(None) => has_missed = true,
            // Hidden processes are left out here; a caller for whom they matter looks for them itself.
            Err(_) => {}
        }
    }
    Ok((processes, has_missed))
}

/// The living processes below this one, parents before their children.
///
/// # Errors
/// `/proc` cannot be read.
pub(super) fn descendants(root: i32) -> io::Result<Vec<Process>> {
    let mut found = below(root)?;
    found.retain(|process| !process.is_dead());
    Ok(found)
}

/// The same, with those that have ended and were not waited for yet.
pub(super) fn below(root: i32) -> io::Result<Vec<Process>> {
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

/// Those of these that still live. One that cannot be looked at counts as alive.
pub(super) fn living(ids: &[ProcessId]) -> Vec<ProcessId> {
    let lives = |id: &ProcessId| match Process::read(id.pid) {
        Ok(Some(process)) => process.id == *id && !process.is_dead(),
        Ok(None) => false,
        Err(_) => true,
    };
    ids.iter().copied().filter(lives).collect()
}

/// Sends a signal to this process, and never to another one that has the same id by now. False if the process has ended.
///
/// # Errors
/// The kernel does not allow it.
pub(super) fn send(id: ProcessId, signal: Signal) -> io::Result<bool> {
    let Some(pid) = Pid::from_raw(id.pid) else { return Ok(false) };
    // Open the handle before the look: then it belongs to the process that is seen, or to one that has ended. Old kernels
    // have no such handles.
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
        let own = Process::read(own_pid()).unwrap().unwrap();
        assert_eq!(living(&[own.id]), [own.id]);
        let other = ProcessId { start: own.id.start + 1, ..own.id };
        assert_eq!(living(&[other]), []);
        // If it were sent, it would end this test.
        assert!(!send(other, Signal::KILL).unwrap());
    }
}

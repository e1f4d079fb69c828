//! What all started programs have in common: where they are built, one process with its log, and a directory that it
//! works in and from which all its descendants can be found.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::wait::eventually;

/// Longer than a node takes to close its links and its store.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// A killed process is gone at once, unless its disk hangs.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_PAUSE: Duration = Duration::from_millis(5);
/// A thread in a system call stops when that ends; a sync of a busy disk takes its time.
const FREEZE_DEADLINE: Duration = Duration::from_secs(20);
/// Below the range from which Linux takes the ports of outgoing connections, so that no link of another test sits on a
/// master's port while that master is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// Enough of a log to see how it came to the failure.
const TAIL_LINES: usize = 60;

/// Where a node's program is: in `RELOOP_BIN_DIR`, else beside the running test. Programs that are missing there are
/// built, once; existing ones are taken as they are.
///
/// # Panics
/// When they cannot be built.
pub fn binary(name: &str) -> PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match std::env::var_os("RELOOP_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => built_binaries(),
    })
    .join(name)
}

fn built_binaries() -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    let mut dir = test.parent().expect("a program lies in a directory");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps lies in the profile's directory");
    }
    if ["reloop", "reloop-slave"].iter().any(|name| !dir.join(name).is_file()) {
        let profile = match dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(profile) => profile,
        };
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--bins", "-p", "reloop-master", "-p", "reloop-slave", "--profile", profile])
            .arg("--target-dir")
            .arg(dir.parent().expect("a profile lies in the target directory"))
            .current_dir(workspace())
            .status();
        assert!(
            built.as_ref().is_ok_and(ExitStatus::success),
            "could not build the nodes ({built:?}); run `cargo build --bins`"
        );
    }
    dir.to_owned()
}

/// The project's directory.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace")
}

/// A port of 127.0.0.1 on which nobody listens now.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let first = RandomState::new().build_hasher().finish();
    (0..u64::from(PORTS.end - PORTS.start))
        .map(|offset| {
            let span = u64::from(PORTS.end - PORTS.start);
            let within = first.wrapping_add(offset) % span;
            PORTS.start + u16::try_from(within).expect("smaller than the span of the ports")
        })
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port on 127.0.0.1")
}

/// One program that is started, ended and watched.
#[derive(Debug)]
pub(crate) struct Daemon {
    name: String,
    log: PathBuf,
    child: Option<Child>,
    wrapped: bool,
}

impl Daemon {
    pub(crate) fn new(name: &str, log: PathBuf) -> Self {
        Self { name: name.to_owned(), log, child: None, wrapped: false }
    }

    pub(crate) fn spawn(
        &mut self,
        program: &Path,
        args: &[String],
        env: &BTreeMap<String, String>,
        wrapper: &[String],
    ) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|error| panic!("cannot write {}: {error}", self.log.display()));
        let mut command = match wrapper {
            [] => Command::new(program),
            [wrapper, wrapper_args @ ..] => {
                let mut command = Command::new(wrapper);
                command.args(wrapper_args).arg(program);
                command
            }
        };
        // The environment is a source of settings, and who runs the tests may have set some.
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_bytes().starts_with(b"RELOOP_")) {
            command.env_remove(key);
        }
        command
            .args(args)
            .envs(env)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .process_group(0);
        let child = command.spawn();
        self.child = Some(child.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display())));
        self.wrapped = !wrapper.is_empty();
    }

    /// How it ended, once it did.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the child is ours to wait for")?;
        self.child = None;
        Some(status)
    }

    pub(crate) fn is_alive(&mut self) -> bool {
        self.ended().is_none() && self.child.is_some()
    }

    /// The process, while it was not seen to have ended.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The process, as what [`freeze`] takes.
    pub(crate) fn process(&self) -> Vec<Pid> {
        assert!(!self.wrapped, "what a wrapper runs is not known");
        self.child.as_ref().map(Pid::from_child).into_iter().collect()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let pid = Pid::from_child(child);
        if self.wrapped {
            // The one who must get it is a child of the wrapper. What jobs it has are in sessions of their own.
            ignore_gone(rustix::process::kill_process_group(pid, signal));
        } else {
            send(pid, signal);
        }
    }

    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("the child is ours to wait for");
        }
    }

    pub(crate) async fn stop(&mut self) -> ExitStatus {
        assert!(self.is_alive(), "{} does not run:\n{}", self.name, self.tail());
        self.signal(Signal::TERM);
        let what = format!("{} to end after SIGTERM", self.name);
        eventually(&what, STOP_DEADLINE, async || self.ended().ok_or_else(|| self.tail())).await
    }

    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(crate) fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(TAIL_LINES);
        format!("---- end of {} ----\n{}\n----", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            println!("{}", self.tail());
        }
    }
}

/// A temporary directory that a panic leaves behind.
#[derive(Debug)]
pub(crate) struct WorkDir(TempDir);

impl WorkDir {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.disable_cleanup(true);
            println!("kept for a look: {}", self.path().display());
        }
    }
}

/// The processes that work in a directory, have a file of it open, or name it in their arguments or environment; this
/// process and the excepted one left out.
pub(crate) fn processes_of(dir: &Path, except: Option<u32>) -> Vec<Pid> {
    let own = std::process::id();
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own && Some(*pid) != except && touches(*pid, dir))
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}

/// Kills the processes of a directory until there are none, for one that is being killed may start another.
pub(crate) fn kill_processes_of(dir: &Path, except: Option<u32>) {
    let end = Instant::now() + KILL_DEADLINE;
    loop {
        let processes = processes_of(dir, except);
        if processes.is_empty() {
            return;
        }
        assert!(Instant::now() < end, "processes of {} do not end: {processes:?}", dir.display());
        for process in processes {
            send(process, Signal::KILL);
        }
        std::thread::sleep(KILL_PAUSE);
    }
}

/// SIGSTOP to all of them; returns when no thread of theirs does anything any more.
pub(crate) fn freeze(processes: &[Pid]) {
    let end = Instant::now() + FREEZE_DEADLINE;
    for process in processes {
        send(*process, Signal::STOP);
    }
    while !processes.iter().all(|process| is_frozen(*process)) {
        assert!(Instant::now() < end, "processes do not stop: {processes:?}");
        std::thread::sleep(KILL_PAUSE);
    }
}

/// All threads are stopped (`T`), or are gone.
fn is_frozen(process: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
        // The name before it may hold anything, parentheses too.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}

/// Whatever cannot be read of a process says nothing: it has ended meanwhile, or it is somebody else's.
fn touches(pid: u32, dir: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let within = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    let names = |file: &str| {
        fs::read(proc.join(file)).is_ok_and(|text| contains_path(&text, dir.as_os_str().as_bytes()))
    };
    within(proc.join("cwd"))
        || names("cmdline")
        || names("environ")
        || fs::read_dir(proc.join("fd"))
            .is_ok_and(|mut fds| fds.any(|fd| fd.is_ok_and(|fd| within(fd.path()))))
}

/// Whether `text` names `path` or something in it, and not just a name that begins alike.
fn contains_path(text: &[u8], path: &[u8]) -> bool {
    let ends_there = |next: Option<&u8>| next.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    text.windows(path.len())
        .enumerate()
        .any(|(at, window)| window == path && ends_there(text.get(at + path.len())))
}

fn send(pid: Pid, signal: Signal) {
    ignore_gone(rustix::process::kill_process(pid, signal));
}

/// Signals race with a process's own end, which is then what was wanted.
pub(crate) fn ignore_gone(sent: rustix::io::Result<()>) {
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot signal a process of the test: {error}"),
    }
}

/// Copies a directory with all its plain files. Sockets stay where they are: a disk has none.
///
/// # Panics
/// When something cannot be read or written.
pub fn copy_dir(from: &Path, to: &Path) {
    make_dir(to);
    let entries =
        fs::read_dir(from).unwrap_or_else(|error| panic!("cannot read {}: {error}", from.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("cannot read {}: {error}", from.display()));
        let kind =
            entry.file_type().unwrap_or_else(|error| panic!("cannot read {:?}: {error}", entry.path()));
        let target = to.join(entry.file_name());
        if kind.is_dir() {
            copy_dir(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), &target)
                .unwrap_or_else(|error| panic!("cannot copy to {}: {error}", target.display()));
        }
    }
}

pub(crate) fn remove_dir(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => panic!("cannot remove {}: {error}", dir.display()),
    }
}

pub(crate) fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
}

pub(crate) fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

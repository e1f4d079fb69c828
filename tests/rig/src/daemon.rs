//! Common to all started programs: building them, a process with its log, and a working directory by which all its
//! descendants can be found.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::wait::eventually;

/// Longer than a node takes to close its links and its store.
const STOP_DEADLINE: Duration = Duration::from_secs(15);
/// A killed process exits at once, unless its disk hangs.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
const KILL_PAUSE: Duration = Duration::from_millis(5);
/// A thread in a system call stops when the call ends; a sync of a busy disk takes its time.
const FREEZE_DEADLINE: Duration = Duration::from_secs(20);
/// Below the range of ports that Linux assigns to outgoing connections, so that no connection of another test takes a
/// master's port while that master is down.
const PORTS: std::ops::Range<u16> = 12_000..32_000;
/// The prefixes of variables by which cargo describes the package that it runs.
const OUTER: [&str; 6] = [
    "CARGO_BIN_",
    "CARGO_CRATE_",
    "CARGO_MANIFEST_",
    "CARGO_PKG_",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_TARGET_TMPDIR",
];
/// Enough lines of a log to understand a failure.
const TAIL_LINES: usize = 60;

/// The path of a node's program: in `RELOOP_BIN_DIR` if it is set, otherwise built beside the running one.
pub fn binary(name: &str) -> PathBuf {
    match build() {
        Ok(dir) => dir.join(name),
        Err(error) => panic!("{error:#}"),
    }
}

/// Builds the nodes' programs from the current sources, with the profile and in the directory of the running program,
/// once per process. Without cargo, existing programs are used as they are.
pub fn build() -> anyhow::Result<PathBuf> {
    // Other callers wait for the first one.
    static DIR: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut known = DIR.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dir) = &*known {
        return Ok(dir.clone());
    }
    let dir = match std::env::var_os("RELOOP_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => built_binaries()?,
    };
    Ok(known.insert(dir).clone())
}

fn built_binaries() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own path")?;
    let mut dir = own.parent().context("a program lies in a directory")?;
    let is_test = dir.ends_with("deps");
    if is_test {
        dir = dir.parent().context("deps lies in the profile's directory")?;
    }
    let profile = match dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // Build scripts look at these variables, and would rebuild their crates because of them.
    let outer = |key: &OsStr| OUTER.iter().any(|prefix| key.as_bytes().starts_with(prefix.as_bytes()));
    for (key, _) in std::env::vars_os().filter(|(key, _)| outer(key)) {
        cargo.env_remove(key);
    }
    // The whole workspace, as for `cargo test --workspace`: with fewer packages the dependencies would have other
    // features and be built again. Cargo's own lock lets several test programs do this at the same time.
    let arguments = ["build", "--workspace", "--bins", "--profile", profile, "--target-dir"];
    if is_test {
        // What a person started shows how far the build has come.
        cargo.env("CARGO_TERM_QUIET", "true");
    }
    let target = dir.parent().context("a profile lies in the target directory")?;
    match cargo.args(arguments).arg(target).current_dir(workspace()).status() {
        Ok(status) if status.success() => Ok(dir.to_owned()),
        Ok(status) => bail!("the nodes could not be built ({status}): cargo said above what to mend"),
        Err(error) if error.kind() == io::ErrorKind::NotFound && dir.join("reloop").is_file() => {
            Ok(dir.to_owned())
        }
        Err(error) => Err(error)
            .context("cargo could not be run: install Rust, or name the nodes' directory in RELOOP_BIN_DIR"),
    }
}

pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the crate lies in the workspace")
}

/// A wrapper that makes the kernel kill the program when this process exits, even if it is killed. Empty without
/// setpriv (util-linux); then killed tests leave nodes behind. The jobs of a slave are never wrapped: they have to
/// outlive the agent.
static TIED: LazyLock<&[&str]> = LazyLock::new(|| {
    const SETPRIV: [&str; 3] = ["setpriv", "--pdeathsig", "KILL"];
    let works = Command::new(SETPRIV[0]).args(&SETPRIV[1..]).arg("true").stderr(Stdio::null()).status();
    if works.is_ok_and(|status| status.success()) { &SETPRIV } else { &[] }
});

/// A port of 127.0.0.1 on which nothing listens now.
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

/// A program that is started, stopped and watched.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Option<Child>,
    wrapped: bool,
}

impl Daemon {
    /// A process that is not started yet; `log` gets its output.
    pub fn new(name: &str, log: PathBuf) -> Self {
        Self { name: name.to_owned(), log, child: None, wrapped: false }
    }

    /// Starts it. Its output is appended to its log.
    pub fn spawn(
        &mut self,
        program: &Path,
        args: &[String],
        env: &BTreeMap<String, String>,
        wrapper: &[String],
    ) {
        assert!(self.child.is_none(), "{} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.unwrap_or_else(|error| panic!("cannot write {}: {error}", self.log.display()));
        let tied = TIED.iter().map(OsStr::new);
        let mut words = tied.chain(wrapper.iter().map(OsStr::new)).chain([program.as_os_str()]);
        let mut command = Command::new(words.next().expect("the program at least"));
        command.args(words);
        // Variables are settings too, and the user of the tests may have set some.
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

    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("the child is ours to wait for")?;
        self.child = None;
        Some(status)
    }

    pub fn is_alive(&mut self) -> bool {
        self.ended().is_none() && self.child.is_some()
    }

    /// `None` once it was seen to have exited.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether this process, or its child if it is a wrapper, listens on a port of IPv4. Another program may have taken
    /// the port, and give the same answers.
    pub fn listens(&self, port: u16) -> bool {
        let (Some(leader), sockets) = (self.pid(), listening_sockets(port)) else { return false };
        let is_one = |link: PathBuf| fs::read_link(link).is_ok_and(|target| sockets.contains(&target));
        processes().filter(|pid| group_of(*pid) == Some(leader)).any(|pid| open_files(pid).any(is_one))
    }

    /// For [`freeze`].
    pub fn process(&self) -> Vec<Pid> {
        assert!(!self.wrapped, "what a wrapper runs is not known");
        self.child.as_ref().map(Pid::from_child).into_iter().collect()
    }

    /// Sends it a signal if it runs.
    pub fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        let pid = Pid::from_child(child);
        if self.wrapped {
            // The node may be a child of a wrapper. Jobs have sessions of their own and are not reached.
            ignore_gone(rustix::process::kill_process_group(pid, signal));
        } else {
            send(pid, signal);
        }
    }

    /// Sends SIGSTOP.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Sends SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(mut child) = self.child.take() {
            child.wait().expect("the child is ours to wait for");
        }
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn stop(&mut self) -> ExitStatus {
        assert!(self.is_alive(), "{} does not run:\n{}", self.name, self.tail());
        self.signal(Signal::TERM);
        let what = format!("{} to end after SIGTERM", self.name);
        eventually(&what, STOP_DEADLINE, async || self.ended().ok_or_else(|| self.tail())).await
    }

    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub fn tail(&self) -> String {
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

/// A temporary directory that is kept after a panic.
#[derive(Debug)]
pub struct WorkDir(TempDir);

impl WorkDir {
    pub fn new(prefix: &str) -> Self {
        Self(tempfile::Builder::new().prefix(prefix).tempdir().expect("a temporary directory"))
    }

    pub fn path(&self) -> &Path {
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

/// The processes that work in a directory, have a file of it open, or name it in their arguments or environment;
/// without this process and `except`.
pub fn processes_of(dir: &Path, except: Option<u32>) -> Vec<Pid> {
    let own = std::process::id();
    processes()
        .filter(|pid| *pid != own && Some(*pid) != except && touches(*pid, dir))
        .filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
        .collect()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("Linux has /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
}

/// The process group: field 5 of proc_pid_stat(5). The name in field 2 may contain anything, so it is skipped first.
fn group_of(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

/// If a process can't be read, it has exited or belongs to somebody else.
fn open_files(pid: u32) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
    files.filter_map(|file| Some(file.ok()?.path()))
}

/// The sockets that listen on a port of IPv4, as links in `/proc` name them (proc_pid_net(5)).
fn listening_sockets(port: u16) -> Vec<PathBuf> {
    const LISTEN: &str = "0A";
    let table = fs::read_to_string("/proc/net/tcp").expect("Linux lists its sockets");
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let at = u16::from_str_radix(local.rsplit_once(':')?.1, 16).ok()?;
        (at == port && *state == LISTEN).then(|| PathBuf::from(format!("socket:[{inode}]")))
    };
    table.lines().filter_map(socket).collect()
}

/// Kills the processes of a directory until there are none: a process may start another while it is being killed.
pub fn kill_processes_of(dir: &Path, except: Option<u32>) {
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

/// Sends SIGSTOP to all of them; returns when all their threads have stopped.
pub fn freeze(processes: &[Pid]) {
    let end = Instant::now() + FREEZE_DEADLINE;
    for process in processes {
        send(*process, Signal::STOP);
    }
    while !processes.iter().all(|process| is_frozen(*process)) {
        assert!(Instant::now() < end, "processes do not stop: {processes:?}");
        std::thread::sleep(KILL_PAUSE);
    }
}

/// Whether all threads have stopped (`T`) or are gone.
fn is_frozen(process: Pid) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.as_raw_nonzero())) else { return true };
    threads.flatten().all(|thread| {
        let Ok(stat) = fs::read_to_string(thread.path().join("stat")) else { return true };
        // The name before it may contain anything, even parentheses.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        state.is_none_or(|state| matches!(state, 'T' | 't' | 'Z' | 'X'))
    })
}

/// If a process can't be read, it has exited or belongs to somebody else.
fn touches(pid: u32, dir: &Path) -> bool {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let within = |link: PathBuf| fs::read_link(link).is_ok_and(|target| target.starts_with(dir));
    let names = |file: &str| {
        fs::read(proc.join(file)).is_ok_and(|text| contains_path(&text, dir.as_os_str().as_bytes()))
    };
    within(proc.join("cwd")) || names("cmdline") || names("environ") || open_files(pid).any(within)
}

/// Whether `text` contains `path` or a path below it, and not just a name with the same beginning.
fn contains_path(text: &[u8], path: &[u8]) -> bool {
    let ends_there = |next: Option<&u8>| next.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    text.windows(path.len())
        .enumerate()
        .any(|(at, window)| window == path && ends_there(text.get(at + path.len())))
}

fn send(pid: Pid, signal: Signal) {
    ignore_gone(rustix::process::kill_process(pid, signal));
}

/// The process may have exited before the signal came, which is fine.
pub fn ignore_gone(sent: rustix::io::Result<()>) {
    match sent {
        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
        Err(error) => panic!("cannot signal a process of the test: {error}"),
    }
}

/// Copies a directory with all its regular files, without sockets.
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

pub fn remove_dir(dir: &Path) {
    match fs::remove_dir_all(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => panic!("cannot remove {}: {error}", dir.display()),
    }
}

pub fn make_dir(dir: &Path) {
    fs::create_dir_all(dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
}

pub fn write(path: &Path, content: &str) {
    fs::write(path, content).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
}

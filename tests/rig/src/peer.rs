//! The slave in Python as a process: a peer that shares no code with the nodes.
//!
//! It was written from `protocol/PROTOCOL.md`, so that what it and the master agree on is in the document. Its packages
//! come from PyPI into an environment under `target/`, one for each content of `requirements.txt`. With
//! `RELOOP_INSTALL=1`, packages that cannot be installed are a failure: a wrong pin must not look like a missing
//! network.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use reloop_protocol::id::JobId;
use serde_json::Value;

use crate::daemon::{Daemon, WorkDir, make_dir, remove_dir, workspace, write};
use crate::install::{self, install, left_out};

/// The oldest Python that the slave runs on.
const OLDEST_PYTHON: (u32, u32) = (3, 9);
/// Like the links of the other slaves in tests: a dead link is noticed within seconds.
const FAST_LINK: [&str; 6] = ["--heartbeat", "1", "--dead-after", "3", "--longest-pause", "0.2"];

/// A slave in Python with its disk and its simulated machine, which is killed on drop.
#[derive(Debug)]
pub struct Peer {
    daemon: Daemon,
    python: PathBuf,
    name: String,
    master: String,
    args: Vec<String>,
    dir: WorkDir,
}

impl Peer {
    /// Starts a new slave on an empty state directory. Returns `None`, with a line on stderr, if it cannot run here.
    pub fn start(name: &str, master: impl Into<String>, args: &[&str]) -> Option<Self> {
        let python = environment()?;
        let dir = WorkDir::new("reloop-peer-");
        let mut peer = Self {
            daemon: Daemon::new(name, dir.path().join("peer.log")),
            python,
            name: name.to_owned(),
            master: master.into(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            dir,
        };
        peer.restart();
        Some(peer)
    }

    /// Starts it again on the same state. A running one is killed first; its machine goes on.
    pub fn restart(&mut self) {
        self.kill();
        let mut args = vec![text(&source().join("reloop_slave.py"))];
        args.extend(["--name", &self.name, "--master", &self.master].map(str::to_owned));
        args.extend(["--state".to_owned(), text(&self.state_dir())]);
        args.extend(FAST_LINK.map(str::to_owned));
        args.extend(self.args.iter().cloned());
        let env = BTreeMap::from([("PYTHONDONTWRITEBYTECODE".to_owned(), "1".to_owned())]);
        self.daemon.spawn(&self.python, &args, &env, &[]);
    }

    /// Adds arguments, from the next start on.
    pub fn add_args(&mut self, args: &[&str]) {
        self.args.extend(args.iter().map(|&arg| arg.to_owned()));
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The directory of its key, its state and its machine's file.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Its state on disk; `null` before it has any.
    pub fn state(&self) -> Value {
        match fs::read_to_string(self.state_dir().join("state.json")) {
            Ok(state) => serde_json::from_str(&state).expect("a state is whole JSON at any time"),
            Err(_) => Value::Null,
        }
    }

    /// A job in its state.
    pub fn held(&self, job: &str) -> Option<Value> {
        let id = hex(job);
        let state = self.state();
        state["jobs"].as_array()?.iter().find(|held| held["report"]["job"] == id.as_str()).cloned()
    }

    /// How often its machine has begun a job, by the machine's own log.
    pub fn starts(&self, job: &str) -> usize {
        let log = fs::read_to_string(self.state_dir().join("machine.log")).unwrap_or_default();
        let start = format!("start {}/", hex(job));
        log.lines().filter(|line| line.starts_with(&start)).count()
    }

    /// Kills it and removes its jobs: the disk was replaced and only the key was kept.
    pub fn wipe(&mut self) {
        self.kill();
        remove_file(&self.state_dir().join("state.json"));
    }

    /// Removes the machine's file, so that it knows nothing that it has done.
    pub fn wipe_machine(&self) {
        remove_file(&self.state_dir().join("machine.json"));
    }
}

impl Deref for Peer {
    type Target = Daemon;
    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

/// Runs `test_golden.py` on these vectors. Returns `None`, with a line on stderr, without Python.
pub fn check_golden(vectors: &Path) -> Option<Output> {
    let python = python()?;
    let mut command = Command::new(python);
    command.arg("-B").arg(source().join("test_golden.py")).arg(vectors).stdin(Stdio::null());
    Some(command.output().expect("python was just found"))
}

fn source() -> PathBuf {
    workspace().join("tests/rig/peer")
}

fn text(path: &Path) -> String {
    path.to_str().expect("the project and its temporary directories have plain names").to_owned()
}

fn hex(job: &str) -> String {
    let id: JobId = job.parse().unwrap_or_else(|_| panic!("{job} is no job's id"));
    id.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn remove_file(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|error| panic!("cannot remove {}: {error}", path.display()));
}

fn python() -> Option<PathBuf> {
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = PYTHON.get_or_init(|| {
        let there = is_new_enough() || install(&["python3", "python3-venv"]) && is_new_enough();
        there.then(|| PathBuf::from("python3"))
    });
    if found.is_none() {
        let (major, minor) = OLDEST_PYTHON;
        left_out(&format!(
            "there is no python3 of {major}.{minor} or newer (RELOOP_INSTALL=1 as root installs one)"
        ));
    }
    found.clone()
}

fn is_new_enough() -> bool {
    let (major, minor) = OLDEST_PYTHON;
    let question = format!("import sys, venv, ensurepip; sys.exit(sys.version_info < ({major}, {minor}))");
    run(Command::new("python3").args(["-c", &question])).is_ok()
}

/// The interpreter of the environment with the pinned packages.
fn environment() -> Option<PathBuf> {
    static ENVIRONMENT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let python = python()?;
    let made = ENVIRONMENT.get_or_init(|| make_environment(&python));
    match made {
        Ok(python) => Some(python.clone()),
        Err(why) if install::is_wanted() => panic!("the packages of the Python slave cannot be had: {why}"),
        Err(why) => {
            left_out(&format!("the packages of the Python slave cannot be had from PyPI: {why}"));
            None
        }
    }
}

/// One environment for all test programs that run at the same time, and for all later runs with the same pins.
fn make_environment(python: &Path) -> Result<PathBuf, String> {
    let requirements = source().join("requirements.txt");
    let pinned = fs::read_to_string(&requirements).expect("requirements.txt lies beside the slave");
    let target = target_dir();
    make_dir(&target);
    let lock = File::create(target.join("peer-venv.lock")).expect("the target directory can be written");
    lock.lock().expect("a file on a local disk can be locked");
    let dir = target.join("peer-venv");
    let interpreter = dir.join("bin/python");
    let complete = dir.join("made-from.txt");
    if fs::read_to_string(&complete).is_ok_and(|made_from| made_from == pinned)
        && run(Command::new(&interpreter).arg("--version")).is_ok()
    {
        return Ok(interpreter);
    }
    remove_dir(&dir);
    run(Command::new(python).args(["-m", "venv"]).arg(&dir))?;
    run(Command::new(&interpreter)
        .args(["-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--requirement"])
        .arg(&requirements))?;
    write(&complete, &pinned);
    Ok(interpreter)
}

fn target_dir() -> PathBuf {
    let test = std::env::current_exe().expect("the running test has a path");
    // target/<profile>/deps/<test>
    let target = test.ancestors().nth(3).expect("a test lies three levels deep in the target directory");
    target.to_owned()
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(words.lines().last().unwrap_or("it ended without a word").to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

//! Any program of this box as a machine, under a tiny runner that outlives the agent.
//!
//! Every run has a directory of its own, `<state_dir>/runs/<job>-<attempt>-<run>/`, and everything that anybody knows
//! about the run is in there:
//!
//! | file | written by | what it says |
//! |---|---|---|
//! | `plan` | agent, once, before it starts a runner | what to execute |
//! | `lock` | | held (flock) by runner and program: held means that something of it lives |
//! | `void` | agent, holding the lock | never started, and never will |
//! | `started` | runner, holding the lock, before it executes the program | when, and in which boot |
//! | `exit` | runner | how it ended, and when; or that the program could not be executed, so that nothing began |
//! | `control` | agent, into a FIFO which the runner reads | stop, pause, resume |
//! | `state` | runner | paused, stopping, and what it did not do |
//! | `output` | the program | what it prints |
//! | `work/` | the program | its current directory |
//!
//! Making the directory is what claims the key, so a second start of it fails. The lock belongs to an open file
//! description which the program inherits. Because `void` and `started` are both written under the lock, exactly one of
//! them can exist: a probe that finds neither settles the matter for good, even against a runner that a dead agent started
//! a moment ago.
//!
//! A run is its whole process tree; `tree` tells how it is found. While the runner lives it speaks for the
//! tree. If it was killed without an outcome, a free lock is no proof, since a program may close what it has inherited:
//! the run is *gone* when nothing of it is found, and *unknown* while something lives or can't be looked into.
//!
//! The program writes straight into `output`, which therefore has no upper limit; its owner sees to that. Lines of the form
//! `::reloop progress=0.42` (or `42%`), `::reloop phase=word` and `::reloop note=text` are picked up on the way. Only the
//! newest counts: a few are passed on per second, and of a program that prints faster than it is read, parts are skipped.
//!
//! What keeps a program from being executed (a full disk, wrong rights, a file that is missing or no program) is told as *not
//! begun*, which is a proof: the runner is started after the plan is on disk, and writes down itself that the system would not
//! execute the program. The agent says that a run has begun when the program is there.
//!
//! A pause stops every process of the tree, and counts when none moves. A stop sends SIGTERM to every process of the tree,
//! waits until the last one has ended, and sends SIGKILL to what is left when the grace is over. What can't be reached is
//! told by a refusal, and then all goes on as it was. A program that ends after it was asked to stop was stopped, whatever
//! its exit status. A program that ends after somebody else has told the runner to end, as at a shutdown, was interrupted,
//! whatever its exit status: that is *gone* too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use reloop_node::durable;
use reloop_protocol::id::BootId;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, inotify};
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tree::{self, MARK, ProcessId, Remains, Traces};
use super::{
    EndResult, Ended, Fact, Grade, Machine, Probe, Rejection, Reporter, RunKey, TEXT_LIMIT, Verb, Work, clip,
    dir_of,
};
use crate::config::ProcessProgram;

pub(super) const PLAN: &str = "plan";
pub(super) const LOCK: &str = "lock";
pub(super) const VOID: &str = "void";
pub(super) const STARTED: &str = "started";
pub(super) const EXIT: &str = "exit";
pub(super) const CONTROL: &str = "control";
pub(super) const STATE: &str = "state";
pub(super) const OUTPUT: &str = "output";
pub(super) const CHILD: &str = "child";
pub(super) const WORK: &str = "work";
const RUNNER_LOG: &str = "runner.log";
const DISMISSED: &str = "dismissed";

/// Why a command does not reach a run that lives.
const DEAF_RUNNER: &str = "its runner does not take commands; try again, or probe it";

/// How soon anything is noticed that raises no file event: a run that vanished, an agent that lets go.
const TICK: Duration = Duration::from_secs(1);
/// The least time between two looks at a run's directory, however much the program prints.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// The least time between two progress facts: each becomes a durable write and a report.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// How long a probe waits for what holds the lock to begin: the runner's few synchronous writes, on a slow disk.
const BEGIN_LIMIT: Duration = Duration::from_secs(2);
const BEGIN_PAUSE: Duration = Duration::from_millis(10);
/// How long a probe waits for the end of what lives without its runner: whoever killed the runner may be killing the rest.
const REMAINS_LIMIT: Duration = Duration::from_secs(2);
/// The longest time between two looks meanwhile, each of which reads all of `/proc`.
const REMAINS_PAUSE: Duration = Duration::from_millis(200);
/// The longest line that is looked at for a report; the rest of it is passed over.
const LINE_LIMIT: usize = 4096;
/// More unread output than this is skipped but for its end: only the newest report counts.
const BACKLOG_LIMIT: u64 = 1 << 20;
/// How much of the end of the output is searched for the newest report: after a skip, and when a run is adopted.
const LOOK_BACK: u64 = 1 << 16;
/// Phases are words for a column of a table.
const PHASE_LIMIT: usize = 64;
/// Dismissed runs whose output and work directory are still there for somebody who asks what went wrong.
const KEPT_OUTPUTS: usize = 100;
/// Dismissed runs of which the proof that they ended is still there. It guards against a store that was rolled back and asks
/// for an old key again; each takes some kilobytes.
const KEPT_RUNS: usize = 5000;
/// Of the agent's environment the program gets these only: what is a secret of the agent must not leak into a job.
const PASSED_ENV: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a runner is to do. A runner may be of an older version than the agent that reads its files, and the other way round
/// for a moment in an upgrade: the files only ever get new, optional fields.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) program: String,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) stop_grace_ms: u64,
    pub(super) boot: BootId,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) at_ms: i64,
    pub(super) boot: BootId,
    /// The runner, which is the first process of the run's session.
    #[serde(default)]
    pub(super) runner: Option<ProcessId>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) at_ms: i64,
    pub(super) exit_code: Option<i32>,
    pub(super) signal: Option<i32>,
    pub(super) stop_requested: bool,
    /// The program was never executed.
    #[serde(default)]
    pub(super) not_begun: bool,
    pub(super) text: String,
    /// Who told the runner to end before the program did, if that was not a stop.
    #[serde(default)]
    pub(super) interrupted: Option<String>,
    /// What the runner could not kill; empty if it could not even list it.
    #[serde(default)]
    pub(super) left: Option<Vec<ProcessId>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) paused: bool,
    pub(super) stopping: Option<Grade>,
    /// The newest commands that were not followed, oldest first.
    #[serde(default)]
    pub(super) refused: Vec<Refusal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    /// Counts the refusals of this run, from 1.
    pub(super) number: u32,
    pub(super) what: Verb,
    pub(super) why: String,
}

/// Only for people, should the runner be gone.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildId {
    pub(super) pid: i32,
}

/// The driver for all programs of this box.
pub struct ProcessMachine {
    programs: BTreeMap<String, ProcessProgram>,
    runs: PathBuf,
    runner: PathBuf,
    boot: BootId,
    reporter: Reporter,
    /// Runs whose end is still to be told. A run leaves before that, so that whoever finds it here can rely on it.
    watched: Arc<Mutex<BTreeSet<RunKey>>>,
    /// Watching threads end when this is dropped.
    alive: Arc<()>,
}

impl ProcessMachine {
    /// For these programs, with its files under `state_dir`; `runner` is executed as `runner <run_dir>`.
    pub fn new(
        programs: BTreeMap<String, ProcessProgram>,
        state_dir: &Path,
        runner: &Path,
        boot: BootId,
        reporter: Reporter,
    ) -> Self {
        Self {
            programs,
            runs: state_dir.join("runs"),
            runner: runner.to_path_buf(),
            boot,
            reporter,
            watched: Arc::default(),
            alive: Arc::default(),
        }
    }

    fn program(&self, name: &str) -> Result<&ProcessProgram, Rejection> {
        self.programs.get(name).ok_or_else(|| Rejection::UnknownProgram {
            program: name.to_owned(),
            known: super::list(self.programs.keys().cloned()),
        })
    }

    fn not_begun(&self, key: RunKey, why: &str) {
        self.reporter.tell(key, Fact::Probed(Probe::NotBegun { why: clip(why, TEXT_LIMIT) }));
    }

    fn prepare(&self, dir: &Path, plan: &Plan) -> io::Result<()> {
        private_dir(&dir.join(WORK))?;
        lock_file(dir)?;
        rustix::fs::mkfifoat(CWD, dir.join(CONTROL), Mode::from_raw_mode(0o600))?;
        durable::write_file(&dir.join(PLAN), &serde_json::to_vec(plan)?, 0o600)?;
        durable::sync_dir(&self.runs)
    }

    fn watch_from(&self, key: RunKey, begin: Begin) -> io::Result<()> {
        if !watched(&self.watched).insert(key) {
            return Ok(());
        }
        let watch = Watch {
            key,
            dir: dir_of(&self.runs, key),
            boot: self.boot,
            reporter: self.reporter.clone(),
            watched: self.watched.clone(),
            alive: Arc::downgrade(&self.alive),
        };
        let spawned = thread::Builder::new().name("run watch".into()).spawn(move || watch.run(begin));
        if spawned.is_err() {
            watched(&self.watched).remove(&key);
        }
        spawned.map(drop)
    }

    /// Writes a command into the runner's FIFO; false if no runner reads it.
    fn control(&self, key: RunKey, line: &str) -> Result<bool, String> {
        let path = dir_of(&self.runs, key).join(CONTROL);
        let mut fifo = match open_control(&path) {
            Ok(Some(fifo)) => fifo,
            Ok(None) => return Ok(false),
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        match fifo.write_all(format!("{line}\n").as_bytes()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(format!("the runner does not take the command ({error}); try again")),
        }
    }

    fn steer(&self, key: RunKey, line: &str) -> Result<(), String> {
        let dir = dir_of(&self.runs, key);
        // The runner reads commands before it writes `started`, so whoever finds that finds a reader, or it is dead.
        if !exists(&dir, STARTED) {
            return Err("it has not begun; try again, or probe it".into());
        }
        if !exists(&dir, EXIT) && self.control(key, line)? {
            return Ok(());
        }
        Err(match settle_or_unknown(&dir, self.boot) {
            Probe::Unknown { why } => why,
            Probe::Running { .. } => DEAF_RUNNER.to_owned(),
            Probe::Ended(_) | Probe::Gone | Probe::NeverStarted | Probe::NotBegun { .. } => {
                "it has ended already".to_owned()
            }
        })
    }
}

impl Machine for ProcessMachine {
    fn knows(&self, key: RunKey) -> bool {
        let dir = dir_of(&self.runs, key);
        dir.is_dir() && !exists(&dir, VOID)
    }

    fn check(&self, work: &Work) -> Result<(), Rejection> {
        self.program(&work.program)?.arguments(&work.params).map(drop)
    }

    fn start(&self, work: &Work) -> Result<(), String> {
        let program = self.program(&work.program).map_err(|rejection| rejection.to_string())?;
        let argv = program.arguments(&work.params).map_err(|rejection| rejection.to_string())?;
        let dir = dir_of(&self.runs, work.key);
        let plan = Plan {
            program: work.program.clone(),
            argv,
            env: environment(work, &program.env, &dir),
            stop_grace_ms: u64::try_from(program.stop_grace.as_millis()).unwrap_or(u64::MAX),
            boot: self.boot,
        };
        if let Err(error) = private_dir_all(&self.runs) {
            self.not_begun(work.key, &format!("{}: {error}", self.runs.display()));
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err("this run was begun before, and never begins twice; probe it".into());
            }
            // A key is told to start once: one whose directory could not be made never began.
            Err(error) => {
                self.not_begun(work.key, &format!("{}: {error}", dir.display()));
                return Ok(());
            }
        }
        let begin = Begin::Start { runner: self.runner.clone() };
        if let Err(error) = self.prepare(&dir, &plan).and_then(|()| self.watch_from(work.key, begin)) {
            // No runner was started.
            if let Err(error) = settle(&dir, self.boot) {
                tracing::info!(key = %work.key, %error, "a run that never began could not be marked as such");
            }
            self.not_begun(work.key, &format!("could not prepare {}: {error}", dir.display()));
        }
        Ok(())
    }

    fn stop(&self, key: RunKey, grade: Grade) -> Result<(), String> {
        let dir = dir_of(&self.runs, key);
        let line = format!("stop {grade}");
        if !exists(&dir, EXIT) && self.control(key, &line)? {
            return Ok(());
        }
        let fact = match settle_or_unknown(&dir, self.boot) {
            // It may have begun between the two looks; the runner reads commands before it takes the lock.
            Probe::Running { .. } if self.control(key, &line)? => return Ok(()),
            Probe::Running { .. } => return Err(DEAF_RUNNER.to_owned()),
            Probe::Unknown { why } => return Err(why),
            Probe::Ended(ended) => Fact::Ended(ended),
            probe @ (Probe::NeverStarted | Probe::NotBegun { .. } | Probe::Gone) => Fact::Probed(probe),
        };
        self.reporter.tell(key, fact);
        Ok(())
    }

    fn pause(&self, key: RunKey) -> Result<(), String> {
        self.steer(key, "pause")
    }

    fn resume(&self, key: RunKey) -> Result<(), String> {
        self.steer(key, "resume")
    }

    fn probe(&self, work: &Work) -> Probe {
        let dir = dir_of(&self.runs, work.key);
        if let Err(error) = private_dir_all(&self.runs).and_then(|()| private_dir(&dir)) {
            // The agent makes the directory before anything else. Without one nothing began, and an agent that could still
            // make it lives no more.
            if is_absent(&dir) {
                return Probe::NeverStarted;
            }
            return Probe::Unknown { why: format!("{}: {error}", dir.display()) };
        }
        settle_or_unknown(&dir, self.boot)
    }

    fn watch(&self, key: RunKey) {
        if let Err(error) = self.watch_from(key, Begin::Adopt) {
            tracing::error!(%key, %error, "no thread to watch the run; probe it again");
        }
    }

    fn dismiss(&self, key: RunKey) {
        let dir = dir_of(&self.runs, key);
        if !dir.is_dir() {
            return;
        }
        let tidied =
            File::create(dir.join(DISMISSED)).and_then(|_| tidy(&self.runs, KEPT_OUTPUTS, KEPT_RUNS));
        if let Err(error) = tidied {
            tracing::warn!(%key, %error, "old runs could not be tidied up; they take room until the next job ends");
        }
    }

    fn output(&self, key: RunKey, offset: u64, max: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        match read_output(&dir_of(&self.runs, key), offset, max) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Where the files of a run are.
pub fn run_dir(state_dir: &Path, key: RunKey) -> PathBuf {
    dir_of(&state_dir.join("runs"), key)
}

/// What a run printed from this offset on, at most `max` bytes, and how much there is in all.
///
/// # Errors
/// `NotFound` if there is no output (not begun, or tidied up); else what the disk said.
pub fn read_output(run_dir: &Path, offset: u64, max: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(run_dir.join(OUTPUT))?;
    let total = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset.min(total)))?;
    file.take(u64::try_from(max).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok((bytes, total))
}

fn watched(set: &Mutex<BTreeSet<RunKey>>) -> MutexGuard<'_, BTreeSet<RunKey>> {
    // A set of keys is whole at any moment, also if a thread panicked over it.
    set.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exists(dir: &Path, file: &str) -> bool {
    dir.join(file).exists()
}

/// There is surely no such file; an error that may hide one is no proof.
fn is_absent(path: &Path) -> bool {
    let found = fs::symlink_metadata(path).map_err(|error| error.kind());
    matches!(found, Err(ErrorKind::NotFound | ErrorKind::NotADirectory))
}

fn environment(work: &Work, extra: &BTreeMap<String, String>, dir: &Path) -> BTreeMap<String, String> {
    let mut env: BTreeMap<String, String> = PASSED_ENV
        .iter()
        .filter_map(|name| std::env::var(name).ok().map(|value| ((*name).to_owned(), value)))
        .collect();
    env.entry("PATH".into()).or_insert_with(|| DEFAULT_PATH.into());
    env.extend(extra.clone());
    env.insert("RELOOP_JOB".into(), work.key.job.to_string());
    env.insert("RELOOP_ATTEMPT".into(), work.key.attempt.to_string());
    env.insert(MARK.into(), dir.display().to_string());
    env
}

fn private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn private_dir_all(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        durable::create_dir_all_synced(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn lock_file(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK))
}

pub(super) fn read_json<T: DeserializeOwned>(dir: &Path, file: &str) -> io::Result<Option<T>> {
    let path = dir.join(file);
    let bytes = match fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, format!("{}: {error}", path.display())))?;
    Ok(Some(value))
}

/// A run's lock in this process's hands: its runner is dead or has not begun, and can't begin meanwhile.
struct Hold(File);

impl Hold {
    /// Nothing if something of the run holds it.
    fn take(dir: &Path) -> io::Result<Option<Self>> {
        let file = lock_file(dir)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread forks has the file as well until it executes its program.
        if let Err(error) = flock(&self.0, FlockOperation::Unlock) {
            tracing::warn!(%error, "a run's lock was not released");
        }
    }
}

/// The one place that says what became of a run. With nothing on disk that says it began, and nobody left who could
/// begin it, it writes that down for good.
fn settle(dir: &Path, boot: BootId) -> io::Result<Probe> {
    if exists(dir, VOID) {
        return Ok(Probe::NeverStarted);
    }
    // A runner is started after the plan is on disk: without one nothing began, also if the disk is too full to say so. If
    // somebody has removed the directory, what it lacks proves nothing.
    if dir.is_dir() && [PLAN, STARTED, EXIT].iter().all(|file| is_absent(&dir.join(file))) {
        if let Err(error) = make_void(dir) {
            tracing::info!(dir = %dir.display(), %error, "a run that never began could not be marked as such");
        }
        return Ok(Probe::NeverStarted);
    }
    let since = Instant::now();
    let mut pause = BEGIN_PAUSE;
    loop {
        let hold = Hold::take(dir)?;
        // What is read under the lock does not change any more.
        if let Some(exit) = read_json::<Exit>(dir, EXIT)? {
            return Ok(outcome(exit));
        }
        let remains = match (read_json::<Started>(dir, STARTED)?, &hold) {
            (None, Some(_)) => {
                make_void(dir)?;
                return Ok(Probe::NeverStarted);
            }
            // Held by something that has not begun: a runner about to, or for a moment a fork of this process.
            (None, None) if since.elapsed() < BEGIN_LIMIT => None,
            (None, None) => return running(dir, None),
            (Some(started), None) if is_attended(dir)? => return running(dir, Some(started.at_ms)),
            (Some(started), _) => Some(remains(dir, &started, boot)?),
        };
        if let Some(remains) = remains {
            let is_free = hold.is_some();
            if is_free && remains.is_nothing() {
                tracing::warn!(dir = %dir.display(), "a run left no outcome");
                return Ok(Probe::Gone);
            }
            if since.elapsed() >= REMAINS_LIMIT {
                return Ok(Probe::Unknown { why: clip(&orphaned(dir, &remains), TEXT_LIMIT) });
            }
        }
        drop(hold);
        thread::sleep(pause);
        pause = (pause * 2).min(REMAINS_PAUSE);
    }
}

fn running(dir: &Path, started_at_ms: Option<i64>) -> io::Result<Probe> {
    Ok(Probe::Running { paused: state_of(dir)?.paused, permille: newest_progress(dir)?, started_at_ms })
}

/// Whether a runner reads commands. It does so before it takes the lock and until it ends, and the program does not inherit
/// that.
fn is_attended(dir: &Path) -> io::Result<bool> {
    Ok(open_control(&dir.join(CONTROL))?.is_some())
}

/// Nothing if no runner reads it.
fn open_control(path: &Path) -> io::Result<Option<File>> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("an open flag fits an int");
    match OpenOptions::new().write(true).custom_flags(nonblocking).open(path) {
        Ok(fifo) => Ok(Some(fifo)),
        // Nobody reads: ENXIO. No FIFO, no runner: the same answer.
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::NXIO) || error.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn remains(dir: &Path, started: &Started, boot: BootId) -> io::Result<Remains> {
    if started.boot != boot {
        // What lived in another boot is dead, and its ids and marks may be another's.
        return Ok(Remains::default());
    }
    let plan: Option<Plan> = read_json(dir, PLAN)?;
    let mark = plan.as_ref().and_then(|plan| plan.env.get(MARK)).map(String::as_str);
    tree::remains(&Traces { mark, runner: started.runner, dir })
}

/// For people: what is known of a run that has lost its runner, and what ends it.
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

/// What an outcome on disk means.
fn outcome(exit: Exit) -> Probe {
    if exit.not_begun {
        return Probe::NotBegun { why: clip(&exit.text, TEXT_LIMIT) };
    }
    if let Some(left) = &exit.left
        && (left.is_empty() || !tree::living(left).is_empty())
    {
        return Probe::Unknown { why: clip(&exit.text, TEXT_LIMIT) };
    }
    match &exit.interrupted {
        Some(by) => {
            tracing::warn!(by, text = exit.text, "a run was interrupted");
            Probe::Gone
        }
        None => Probe::Ended(ended(exit)),
    }
}

/// Writes down that nothing began and nothing will. On a full disk the plan gives its place: a runner finds none then.
fn make_void(dir: &Path) -> io::Result<()> {
    let void = dir.join(VOID);
    if let Err(error) = durable::write_file(&void, b"", 0o600) {
        fs::rename(dir.join(PLAN), &void).map_err(|_| error)?;
        durable::sync_dir(dir)?;
    }
    dir.parent().map_or(Ok(()), durable::sync_dir)
}

fn settle_or_unknown(dir: &Path, boot: BootId) -> Probe {
    settle(dir, boot).unwrap_or_else(|error| Probe::Unknown {
        why: clip(&format!("{}: {error}; mend that and probe again", dir.display()), TEXT_LIMIT),
    })
}

fn state_of(dir: &Path) -> io::Result<State> {
    Ok(read_json(dir, STATE)?.unwrap_or_default())
}

fn ended(exit: Exit) -> Ended {
    let result = match (exit.stop_requested, exit.exit_code) {
        (true, _) => EndResult::Stopped,
        (false, Some(0)) => EndResult::Succeeded,
        (false, _) => EndResult::Failed,
    };
    Ended {
        result,
        exit_code: exit.exit_code,
        signal: exit.signal,
        text: clip(&exit.text, TEXT_LIMIT),
        at_ms: Some(exit.at_ms),
    }
}

fn newest_progress(dir: &Path) -> io::Result<Option<u16>> {
    let mut tail = Tail::default();
    tail.read(&dir.join(OUTPUT), LOOK_BACK)?;
    Ok(tail.news.permille)
}

/// Removes what dismissed runs no longer need, oldest first: job ids sort by time.
fn tidy(runs: &Path, outputs: usize, all: usize) -> io::Result<()> {
    let mut spent = Vec::new();
    for entry in fs::read_dir(runs)? {
        let dir = entry?.path();
        if exists(&dir, DISMISSED) || exists(&dir, VOID) {
            spent.push(dir);
        }
    }
    spent.sort_unstable();
    let age = |index: usize| spent.len() - index;
    for (index, dir) in spent.iter().enumerate() {
        if age(index) > all {
            fs::remove_dir_all(dir)?;
        } else if age(index) > outputs && exists(dir, OUTPUT) {
            fs::remove_dir_all(dir.join(WORK))?;
            fs::remove_file(dir.join(OUTPUT))?;
        }
    }
    Ok(())
}

enum Begin {
    /// Start the runner and see it begin.
    Start { runner: PathBuf },
    /// It runs already.
    Adopt,
}

/// Looks after one run, from a thread of its own, until it is over.
struct Watch {
    key: RunKey,
    dir: PathBuf,
    boot: BootId,
    reporter: Reporter,
    watched: Arc<Mutex<BTreeSet<RunKey>>>,
    alive: Weak<()>,
}

impl Watch {
    fn run(&self, begin: Begin) {
        let events = self.events();
        let (child, state, mut tail) = match begin {
            Begin::Start { runner } => match self.start(&runner, &events) {
                Some(child) => (Some(child), State::default(), Tail::default()),
                None => return,
            },
            Begin::Adopt => {
                let state = State { stopping: None, ..state_of(&self.dir).unwrap_or_default() };
                (None, state, Tail::default())
            }
        };
        if child.is_none() {
            // What was printed before was reported by the agent of that time, and the newest of it by the probe.
            tail.offset = fs::metadata(self.dir.join(OUTPUT)).map_or(0, |file| file.len());
        }
        self.follow(&events, state, tail);
        if let Some(mut child) = child {
            self.leave(&mut child);
        }
    }

    fn leave(&self, runner: &mut Child) {
        if let Err(error) = runner.wait() {
            tracing::warn!(key = %self.key, %error, "the runner could not be waited for");
        }
    }

    /// Starts the runner and waits until it has begun. Nothing if it has not and never will.
    fn start(&self, runner: &Path, events: &Option<OwnedFd>) -> Option<Child> {
        let mut child = match self.spawn(runner) {
            Ok(child) => child,
            Err(error) => {
                self.refuse(&format!("could not start the runner {}: {error}", runner.display()));
                return None;
            }
        };
        let mut started = None::<Instant>;
        loop {
            if exists(&self.dir, STARTED) {
                // Written before the program is executed, and one of the others right after that.
                if let Ok(Some(exit)) = read_json::<Exit>(&self.dir, EXIT)
                    && exit.not_begun
                {
                    // Nobody will ask for its files by this key: they may go with those of other jobs.
                    if let Err(error) = File::create(self.dir.join(DISMISSED)) {
                        tracing::info!(key = %self.key, %error, "the files of a run that never began stay");
                    }
                    self.last(Fact::Probed(outcome(exit)));
                    self.leave(&mut child);
                    return None;
                }
                let since = *started.get_or_insert_with(Instant::now);
                let there = exists(&self.dir, CHILD) || exists(&self.dir, EXIT);
                let over = since.elapsed() >= BEGIN_LIMIT || !matches!(child.try_wait(), Ok(None));
                if there || over {
                    return self.reporter.tell(self.key, Fact::Started).then_some(child);
                }
            }
            if exists(&self.dir, VOID) {
                // Settled by a stop or a probe, which has told so. The runner finds it out as soon as it has the lock.
                watched(&self.watched).remove(&self.key);
                self.leave(&mut child);
                return None;
            }
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) if !exists(&self.dir, STARTED) => {
                    let log = fs::read_to_string(self.dir.join(RUNNER_LOG)).unwrap_or_default();
                    self.refuse(&format!("the runner gave up ({status}): {}", log.trim()));
                    return None;
                }
                Ok(Some(_)) => {}
                Err(error) => tracing::warn!(key = %self.key, %error, "the runner could not be waited for"),
            }
            if self.alive.strong_count() == 0 {
                return None;
            }
            wait(events, LOOK_INTERVAL);
        }
    }

    fn spawn(&self, runner: &Path) -> io::Result<Child> {
        let log = OpenOptions::new().create(true).append(true).mode(0o600).open(self.dir.join(RUNNER_LOG))?;
        Program::new(runner)
            .arg0("reloop-slave")
            .arg("runner")
            .arg(&self.dir)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
    }

    fn refuse(&self, why: &str) {
        // The runner is dead or never was, but proof is proof: nothing may begin under this key after a refusal.
        let not_begun = || Fact::Probed(Probe::NotBegun { why: clip(why, TEXT_LIMIT) });
        let fact = match settle(&self.dir, self.boot) {
            Ok(Probe::NeverStarted) => not_begun(),
            Ok(probe) => Fact::Probed(probe),
            // What a dead runner has not written down it never will.
            Err(_) if self.dir.is_dir() && is_absent(&self.dir.join(STARTED)) => not_begun(),
            Err(error) => {
                Fact::Refused { what: Verb::Start, why: clip(&format!("{why}; {error}"), TEXT_LIMIT) }
            }
        };
        self.last(fact);
    }

    /// Tells how it came out, after which it is no longer watched.
    fn last(&self, fact: Fact) {
        watched(&self.watched).remove(&self.key);
        self.reporter.tell(self.key, fact);
    }

    fn follow(&self, events: &Option<OwnedFd>, mut state: State, mut tail: Tail) {
        let mut told_at: Option<Instant> = None;
        let mut checked_at = Instant::now();
        loop {
            // The order matters: what ended has printed everything before.
            let exit = read_json::<Exit>(&self.dir, EXIT);
            if let Err(error) = tail.read(&self.dir.join(OUTPUT), BACKLOG_LIMIT) {
                tracing::warn!(key = %self.key, %error, "the output could not be read; its reports are late");
            }
            if let Ok(now) = state_of(&self.dir)
                && now != state
                && !self.tell_state(&mut state, now)
            {
                return;
            }
            let over = matches!(exit, Ok(Some(_)));
            let due = over || told_at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL);
            if due && let Some(progress) = tail.news.take() {
                told_at = Some(Instant::now());
                if !self.reporter.tell(self.key, progress) {
                    return;
                }
            }
            match exit {
                Ok(Some(exit)) => {
                    self.last(match outcome(exit) {
                        Probe::Ended(ended) => Fact::Ended(ended),
                        probe => Fact::Probed(probe),
                    });
                    return;
                }
                Ok(None) => {}
                Err(error) => {
                    let why = clip(&format!("how it ended can't be read: {error}"), TEXT_LIMIT);
                    self.last(Fact::Probed(Probe::Unknown { why }));
                    return;
                }
            }
            if checked_at.elapsed() >= TICK {
                checked_at = Instant::now();
                // A runner is the rule; none without an outcome means that somebody killed it.
                if matches!(is_attended(&self.dir), Ok(false))
                    && let Ok(
                        probe @ (Probe::Gone
                        | Probe::NeverStarted
                        | Probe::NotBegun { .. }
                        | Probe::Unknown { .. }),
                    ) = settle(&self.dir, self.boot)
                {
                    self.last(Fact::Probed(probe));
                    return;
                }
                if !self.dir.is_dir() {
                    let why = format!("{} was removed while the run was on", self.dir.display());
                    self.last(Fact::Probed(Probe::Unknown { why }));
                    return;
                }
            }
            if self.alive.strong_count() == 0 {
                return;
            }
            thread::sleep(LOOK_INTERVAL);
            let news_wait = if tail.news.is_empty() { TICK } else { PROGRESS_INTERVAL };
            wait(events, news_wait);
        }
    }

    fn tell_state(&self, before: &mut State, now: State) -> bool {
        let mut listens = true;
        if now.paused != before.paused {
            listens &= self.reporter.tell(self.key, if now.paused { Fact::Paused } else { Fact::Resumed });
        }
        if now.stopping.is_some() && before.stopping.is_none() {
            listens &= self.reporter.tell(self.key, Fact::Stopping);
        }
        let told = before.refused.last().map_or(0, |refusal| refusal.number);
        for Refusal { what, why, .. } in now.refused.iter().filter(|refusal| refusal.number > told) {
            let fact = Fact::Refused { what: *what, why: why.clone() };
            listens &= self.reporter.tell(self.key, fact);
        }
        *before = now;
        listens
    }

    /// Without file events, which are a limited good of the system, the look comes at every tick.
    fn events(&self) -> Option<OwnedFd> {
        let watch = || {
            let events = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
            let flags = inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::ONLYDIR;
            inotify::add_watch(&events, &self.dir, flags)?;
            Ok::<_, Errno>(events)
        };
        watch()
            .inspect_err(|error| {
                tracing::info!(key = %self.key, %error, "no file events; the run is looked at once a second");
            })
            .ok()
    }
}

/// Until something happens in the directory, or this long.
fn wait(events: &Option<OwnedFd>, longest: Duration) {
    let Some(events) = events else {
        thread::sleep(longest);
        return;
    };
    let timeout = Timespec::try_from(longest).expect("a constant of seconds");
    // A signal or an error only makes the next look come sooner; draining ends at the first empty read.
    if poll(&mut [PollFd::new(events, PollFlags::IN)], Some(&timeout)).is_ok() {
        let mut buffer = [0; 4096];
        while rustix::io::read(events, &mut buffer).is_ok_and(|count| count > 0) {}
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct News {
    permille: Option<u16>,
    phase: Option<String>,
    note: Option<String>,
}

impl News {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn take(&mut self) -> Option<Fact> {
        let Self { permille, phase, note } = std::mem::take(self);
        let something = permille.is_some() || phase.is_some() || note.is_some();
        something.then_some(Fact::Progress { permille, phase, note })
    }

    /// What is malformed is only output.
    fn hear(&mut self, line: &[u8]) {
        let Some((key, value)) = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.trim_end().strip_prefix("::reloop "))
            .and_then(|report| report.trim_start().split_once('='))
        else {
            return;
        };
        match key {
            "progress" => self.permille = permille(value).or(self.permille),
            "phase" => {
                let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
                if !value.is_empty() && value.len() <= PHASE_LIMIT && value.chars().all(word) {
                    self.phase = Some(value.to_owned());
                }
            }
            "note" => {
                let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
                self.note = Some(clip(&plain, TEXT_LIMIT));
            }
            _ => {}
        }
    }
}

/// A share of the way, as `0.42` or `42%`, in thousandths.
pub(super) fn permille(text: &str) -> Option<u16> {
    let share = fraction(text)?;
    // In range by the check in `fraction`.
    Some((share * 1000.0).round() as u16)
}

/// A share of the way, as `0.42` or `42%`, from 0 to 1.
pub(super) fn fraction(text: &str) -> Option<f64> {
    let share = match text.strip_suffix('%') {
        Some(percent) => percent.parse::<f64>().ok()? / 100.0,
        None => text.parse().ok()?,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

/// Reads a file that grows, line by line.
#[derive(Debug, Default)]
struct Tail {
    offset: u64,
    line: Vec<u8>,
    /// Inside the rest of a line that was cut, or of one whose beginning was skipped.
    deaf: bool,
    news: News,
}

impl Tail {
    /// What is new since the last time, but only the end of it if there is more than `backlog`.
    fn read(&mut self, path: &Path, backlog: u64) -> io::Result<()> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        if length < self.offset {
            // The program emptied its own output.
            *self = Self { news: std::mem::take(&mut self.news), ..Self::default() };
        }
        if length - self.offset > backlog {
            self.offset = length - LOOK_BACK.min(backlog);
            self.line.clear();
            self.deaf = true;
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let mut rest = file.take(length - self.offset);
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = rest.read(&mut buffer)?;
            if count == 0 {
                return Ok(());
            }
            self.offset += count as u64;
            self.feed(&buffer[..count]);
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let whole = part.last() == Some(&b'\n');
            if !self.deaf {
                let room = LINE_LIMIT - self.line.len();
                self.line.extend_from_slice(&part[..part.len().min(room)]);
                if whole || self.line.len() == LINE_LIMIT {
                    self.news.hear(&self.line);
                    self.line.clear();
                    self.deaf = !whole;
                }
            } else if whole {
                self.deaf = false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(chunks: &[&[u8]]) -> News {
        let mut tail = Tail::default();
        for chunk in chunks {
            tail.feed(chunk);
        }
        tail.news
    }

    #[test]
    fn reports_are_heard_between_other_lines_and_across_reads() {
        let news = heard(&[
            b"hello\n::reloop prog",
            b"ress=0.42\n::reloop phase=cut\r\n::reloop note=two  words \n",
        ]);
        assert_eq!(
            news,
            News { permille: Some(420), phase: Some("cut".into()), note: Some("two  words".into()) }
        );
        assert_eq!(heard(&[b"::reloop progress=7%\n"]).permille, Some(70));
        assert_eq!(heard(&[b"::reloop progress=10%\n::reloop progress=100%\n"]).permille, Some(1000));
    }

    #[test]
    fn malformed_reports_are_only_output() {
        for line in [
            "::reloop progress=42",
            "::reloop progress=-1%",
            "::reloop progress=NaN",
            "::reloop progress=0.5 phase=cut",
            "::reloop phase=two words",
            "::reloop phase=",
            "::reloop",
            "::reloop progress",
            "::reloop color=red",
            " ::reloop progress=0.5",
            "::reloop progress=0.5\0",
        ] {
            assert!(heard(&[line.as_bytes(), b"\n"]).is_empty(), "{line:?} was heard");
        }
        assert!(heard(&[b"::reloop note=\xff\n"]).is_empty());
        assert!(heard(&[b"::reloop progress=0.5"]).is_empty(), "the line is not over yet");
    }

    #[test]
    fn a_line_without_end_is_cut_and_the_next_one_heard() {
        let mut long = b"::reloop note=".to_vec();
        long.resize(3 * LINE_LIMIT, b'x');
        let news = heard(&[&long, b"::reloop progress=0.1\n", b"::reloop progress=0.2\n"]);
        assert_eq!(news.note.map(|note| note.len()), Some(TEXT_LIMIT));
        assert_eq!(news.permille, Some(200));
    }

    #[test]
    fn of_a_flood_only_the_end_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(OUTPUT);
        let mut text = b"::reloop phase=early\n".to_vec();
        text.resize(usize::try_from(BACKLOG_LIMIT).unwrap() + 1, b'\n');
        text.extend_from_slice(b"::reloop progress=0.9\n");
        fs::write(&path, &text).unwrap();
        let mut tail = Tail::default();
        tail.read(&path, BACKLOG_LIMIT).unwrap();
        assert_eq!(tail.news, News { permille: Some(900), ..News::default() });
        assert_eq!(tail.offset, text.len() as u64);

        fs::write(&path, b"::reloop progress=0.1\n").unwrap();
        tail.read(&path, BACKLOG_LIMIT).unwrap();
        assert_eq!(tail.news.permille, Some(100), "the program emptied its output and began anew");
    }

    #[test]
    fn that_a_run_never_began_is_settled_also_where_nothing_can_be_written() {
        let boot = BootId([1; 16]);
        for planned in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            // What the draft of the mark would be is in the way.
            fs::create_dir(dir.path().join(format!(".{VOID}.draft"))).unwrap();
            if planned {
                fs::write(dir.path().join(PLAN), "{}").unwrap();
            }
            assert!(durable::write_file(&dir.path().join(VOID), b"", 0o600).is_err());
            assert_eq!(settle(dir.path(), boot).unwrap(), Probe::NeverStarted);
            assert!(!exists(dir.path(), PLAN), "a runner that comes late finds none");
            assert_eq!(exists(dir.path(), VOID), planned);
            assert_eq!(settle(dir.path(), boot).unwrap(), Probe::NeverStarted);
        }
    }

    #[test]
    fn dismissed_runs_lose_their_output_first_and_their_proof_much_later() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b", "c", "d"] {
            let run = dir.path().join(name);
            fs::create_dir_all(run.join(WORK)).unwrap();
            fs::write(run.join(OUTPUT), "x").unwrap();
            fs::write(run.join(EXIT), "x").unwrap();
            if name != "a" {
                fs::write(run.join(DISMISSED), "").unwrap();
            }
        }
        tidy(dir.path(), 1, 2).unwrap();
        let there = |path: &str| dir.path().join(path).exists();
        assert!(there("a/output"), "not dismissed");
        assert!(!there("b"));
        assert!(there("c/exit") && !there("c/output") && !there("c/work"));
        assert!(there("d/output"));
    }
}

//! Any program of this box as a machine, under a small runner process that outlives the agent.
//!
//! Every run has a directory of its own, `<state_dir>/runs/<job>-<attempt>-<run>/`, which holds all that anybody knows about
//! the run:
//!
//! | file | written by | content |
//! |---|---|---|
//! | `plan` | agent, once, before it starts a runner | what to execute |
//! | `lock` | | held (flock) by runner and program: while it is held, something of the run lives |
//! | `void` | agent, holding the lock | the run never started, and never will |
//! | `started` | runner, holding the lock, before it executes the program | when, and in which boot |
//! | `exit` | runner | how the run ended, and when; or that the program could not be executed, so that nothing began |
//! | `control` | agent, into a FIFO which the runner reads | stop, pause, resume |
//! | `state` | runner | paused, stopping, and the commands that it refused |
//! | `output` | the program | what it prints |
//! | `work/` | the program | its current directory |
//!
//! The agent claims a key by making the directory, so a second start of it fails. The lock belongs to an open file
//! description, which the program inherits. `void` and `started` are both written under the lock, so only one of them can
//! exist: a probe that finds neither writes `void`, and then no runner can begin the run any more, not even one that a dead
//! agent started a moment ago.
//!
//! A run is its whole process tree; the module `tree` tells how it is found. While the runner lives, it speaks for the tree. If the
//! runner was killed before it wrote `exit`, a free lock proves nothing, since a program may close what it inherited: the
//! run is *gone* when no process of it is found, and *unknown* while one lives or cannot be looked into (`remains`).
//!
//! The program writes directly into `output`, whose size is not limited here. Lines of the form `::reloop progress=0.42` (or
//! `42%`), `::reloop phase=word` and `::reloop note=text` are its reports (`reports`).
//!
//! If something keeps the program from being executed (a full disk, wrong rights, a file that is missing or no program), the
//! run has *not begun*. That is a proof: the runner is started when the plan is on disk, and writes down that the system
//! refused to execute the program. The agent reports that a run has started when its program was executed.
//!
//! A pause stops every process of the tree, and counts when none of them moves. A stop sends SIGTERM to every process of the
//! tree, waits until the last one has ended, and sends SIGKILL to those that are left when the grace period is over. If a
//! process cannot be reached, the command is refused and the work goes on as before. A program that ends after it was asked to
//! stop was stopped, whatever its exit status is. A program that ends after somebody else has sent SIGTERM to the runner, as
//! at a shutdown, was interrupted, whatever its exit status is: that run is *gone* too.

mod fate;
mod files;
mod freeze;
mod remains;
mod reports;
pub mod runner;
mod tree;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use reloop_node::durable;
use reloop_protocol::id::BootId;
use reloop_protocol::slave::{Fact, Probed, RunKey};
use rustix::fs::{CWD, Mode};

use self::fate::{fate, fate_or_unknown, not_begun};
use self::files::{
    CONTROL, DISMISSED, EXIT, PLAN, Plan, STARTED, StopMode, VOID, WORK, dir_of, exists, is_absent,
    make_private_dir, make_private_dirs, open_control, open_lock, runs_dir, tidy,
};
pub use self::files::{read_output, run_dir};
use self::tree::MARK;
use self::watch::{Begin, Watch, lock};
use super::types::{Machine, Rejection, Reporter, Work, run_name};
use crate::config::{ProcessProgram, listed};

/// Why a command does not reach a run that lives.
const DEAF_RUNNER: &str = "its runner does not take commands; try again, or probe it";

/// Dismissed runs whose output and work directory are kept for people who look for the cause of a failure.
const KEPT_OUTPUTS: usize = 100;
/// Dismissed runs whose proof that they ended is kept: it guards against a store that was rolled back and asks for an old key
/// again. Each takes some kilobytes.
const KEPT_RUNS: usize = 5000;
/// What is written where runs lie, and removed at once, to see whether a start could write there.
const TRIAL: &str = ".trial";
/// More than what a start writes for one run before it begins.
const TRIAL_BYTES: usize = 64 * 1024;
/// The variables of the agent's environment that a program gets. Others may hold secrets of the agent.
const PASSED_ENV: [&str; 4] = ["PATH", "HOME", "LANG", "TZ"];
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The driver for all programs of this box.
pub(super) struct ProcessMachine {
    programs: BTreeMap<String, ProcessProgram>,
    runs: PathBuf,
    runner: PathBuf,
    boot: BootId,
    reporter: Reporter,
    /// Runs whose end is not reported yet. A run is removed before its end is reported.
    watched: Arc<Mutex<BTreeSet<RunKey>>>,
    /// The threads that watch runs end when this is dropped.
    alive: Arc<()>,
}

impl ProcessMachine {
    /// `runner` is executed as `runner <run_dir>`.
    pub(super) fn new(
        programs: BTreeMap<String, ProcessProgram>,
        state_dir: &Path,
        runner: &Path,
        boot: BootId,
        reporter: Reporter,
    ) -> Self {
        Self {
            programs,
            runs: runs_dir(state_dir),
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
            known: listed(self.programs.keys()),
        })
    }

    fn tell_not_begun(&self, key: RunKey, why: &str) {
        self.reporter.tell(key, not_begun(why));
    }

    fn prepare(&self, dir: &Path, plan: &Plan) -> io::Result<()> {
        make_private_dir(&dir.join(WORK))?;
        open_lock(dir)?;
        rustix::fs::mkfifoat(CWD, dir.join(CONTROL), Mode::from_raw_mode(0o600))?;
        durable::write_file(&dir.join(PLAN), &serde_json::to_vec(plan)?, 0o600)?;
        durable::sync_dir(&self.runs)
    }

    fn watch_from(&self, key: RunKey, begin: Begin) -> io::Result<()> {
        if !lock(&self.watched).insert(key) {
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
        let spawned = watch.spawn(begin);
        if spawned.is_err() {
            lock(&self.watched).remove(&key);
        }
        spawned
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
        // The runner opens the FIFO before it writes `started`: where that exists, nobody reads only if the runner is dead.
        if !exists(&dir, STARTED) {
            return Err("it has not begun; try again, or probe it".into());
        }
        if !exists(&dir, EXIT) && self.control(key, line)? {
            return Ok(());
        }
        Err(match fate_or_unknown(&dir, self.boot) {
            Probed::Unknown(why) => why,
            Probed::Alive { .. } => DEAF_RUNNER.to_owned(),
            Probed::Ended(_) | Probed::Gone | Probed::NeverStarted | Probed::NotBegun(_) => {
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

    fn check(&self, program: &str, params: &BTreeMap<String, String>) -> Result<(), Rejection> {
        self.program(program)?.arguments(params)?;
        Ok(())
    }

    fn could_begin(&self, program: Option<&str>) -> Result<(), String> {
        let try_out = || {
            make_private_dirs(&self.runs)?;
            durable::write_file(&self.runs.join(TRIAL), &[0; TRIAL_BYTES], 0o600)?;
            fs::remove_file(self.runs.join(TRIAL))
        };
        try_out().map_err(|error| format!("{}: {error}", self.runs.display()))?;
        let program = program.and_then(|name| self.programs.get(name));
        program.map_or(Ok(()), |program| program.check_executable().map(drop))
    }

    fn start(&self, work: &Work) -> Result<(), String> {
        let program = self.program(&work.program).map_err(|rejection| rejection.to_string())?;
        let argv = program.arguments(&work.params).map_err(|error| error.to_string())?;
        let dir = dir_of(&self.runs, work.key);
        let plan = Plan {
            program: work.program.clone(),
            argv,
            env: environment(work, &program.env, &dir),
            stop_grace_ms: u64::try_from(program.stop_grace.as_millis()).unwrap_or(u64::MAX),
            boot: self.boot,
        };
        if let Err(error) = make_private_dirs(&self.runs) {
            self.tell_not_begun(work.key, &format!("{}: {error}", self.runs.display()));
            return Ok(());
        }
        match DirBuilder::new().mode(0o700).create(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err("this run was begun before, and never begins twice; probe it".into());
            }
            // The rules send one start for a key: if its directory could not be made, it never began.
            Err(error) => {
                self.tell_not_begun(work.key, &format!("{}: {error}", dir.display()));
                return Ok(());
            }
        }
        let begin = Begin::Start { runner: self.runner.clone() };
        if let Err(error) = self.prepare(&dir, &plan).and_then(|()| self.watch_from(work.key, begin)) {
            // No runner was started.
            if let Err(error) = fate(&dir, self.boot) {
                let key = run_name(work.key);
                tracing::info!(key, %error, "a run that never began could not be marked as such");
            }
            self.tell_not_begun(work.key, &format!("could not prepare {}: {error}", dir.display()));
        }
        Ok(())
    }

    fn stop(&self, key: RunKey, now: bool) -> Result<(), String> {
        let dir = dir_of(&self.runs, key);
        let mode = if now { StopMode::Now } else { StopMode::SafePoint };
        let line = format!("stop {}", mode.name());
        if !exists(&dir, EXIT) && self.control(key, &line)? {
            return Ok(());
        }
        let fact = match fate_or_unknown(&dir, self.boot) {
            // It may have begun between the two looks. The runner opens the FIFO before it takes the lock.
            Probed::Alive { .. } if self.control(key, &line)? => return Ok(()),
            Probed::Alive { .. } => return Err(DEAF_RUNNER.to_owned()),
            Probed::Unknown(why) => return Err(why),
            Probed::Ended(ended) => Fact::Ended(ended),
            probed @ (Probed::NeverStarted | Probed::NotBegun(_) | Probed::Gone) => Fact::Probed(probed),
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

    fn probe(&self, work: &Work) -> Probed {
        let dir = dir_of(&self.runs, work.key);
        if let Err(error) = make_private_dirs(&self.runs).and_then(|()| make_private_dir(&dir)) {
            // An agent makes the directory before anything else: without one nothing began. Another agent that could still
            // make it does not live any more.
            if is_absent(&dir) {
                return Probed::NeverStarted;
            }
            return Probed::Unknown(format!("{}: {error}", dir.display()));
        }
        fate_or_unknown(&dir, self.boot)
    }

    fn watch(&self, key: RunKey) {
        if let Err(error) = self.watch_from(key, Begin::Adopt) {
            tracing::error!(key = run_name(key), %error, "no thread to watch the run; probe it again");
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
            let key = run_name(key);
            tracing::warn!(key, %error, "old runs could not be removed; they take space until the next job ends");
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

//! The files of a run's directory: their names, and what is in them.
//!
//! In an upgrade, a runner of one version and an agent of another read each other's files: these only ever get new,
//! optional fields.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use reloop_node::durable;
use reloop_protocol::id::BootId;
use reloop_protocol::slave::{Fact, RunKey};
use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::tree::ProcessId;
use crate::machine::types::run_name;

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
pub(super) const RUNNER_LOG: &str = "runner.log";
pub(super) const DISMISSED: &str = "dismissed";

/// `plan`: what the runner is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) program: String,
    pub(super) argv: Vec<String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) stop_grace_ms: u64,
    pub(super) boot: BootId,
}

/// `started`: the run has begun, and will not begin again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Started {
    pub(super) at_ms: i64,
    pub(super) boot: BootId,
    /// The first process of the run's session.
    #[serde(default)]
    pub(super) runner: Option<ProcessId>,
}

/// `exit`: how the run ended.
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
    /// Who told the runner to end before the program ended, if that was not a stop.
    #[serde(default)]
    pub(super) interrupted: Option<String>,
    /// The processes that the runner could not kill; empty if it could not even list them.
    #[serde(default)]
    pub(super) left: Option<Vec<ProcessId>>,
}

/// `state`: what the runner did with the commands that it got.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    pub(super) paused: bool,
    pub(super) stopping: Option<StopMode>,
    /// The newest commands that were not followed, oldest first.
    #[serde(default)]
    pub(super) refused: Vec<Refusal>,
}

/// How soon a run is to end; the second is the more urgent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum StopMode {
    SafePoint,
    Now,
}

impl StopMode {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SafePoint => "safe_point",
            Self::Now => "now",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusal {
    /// Counts the refusals of this run, from 1.
    pub(super) number: u32,
    pub(super) what: Refused,
    pub(super) why: String,
}

/// The commands that a runner may refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refused {
    Stop,
    Pause,
    Resume,
}

impl Refusal {
    pub(super) fn fact(&self) -> Fact {
        let why = self.why.clone();
        match self.what {
            Refused::Stop => Fact::StopRefused(why),
            Refused::Pause | Refused::Resume => Fact::PauseRefused(why),
        }
    }
}

/// `child`: the program's process group. For people, should the runner be killed.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ChildId {
    pub(super) pid: i32,
}

/// The directory of a run's files.
pub fn run_dir(state_dir: &Path, key: RunKey) -> PathBuf {
    dir_of(&runs_dir(state_dir), key)
}

pub(super) fn runs_dir(state_dir: &Path) -> PathBuf {
    state_dir.join("runs")
}

pub(super) fn dir_of(runs: &Path, key: RunKey) -> PathBuf {
    runs.join(run_name(key))
}

/// At most `max` bytes of the run's output from this offset on, and the output's total length.
///
/// # Errors
/// `NotFound` if there is no output (the program has not begun, or the run was tidied up); else the error of the disk.
pub fn read_output(run_dir: &Path, offset: u64, max: usize) -> io::Result<(Vec<u8>, u64)> {
    let mut file = File::open(run_dir.join(OUTPUT))?;
    let total = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(offset.min(total)))?;
    file.take(u64::try_from(max).unwrap_or(u64::MAX)).read_to_end(&mut bytes)?;
    Ok((bytes, total))
}

/// The content of a JSON file; `None` if there is no such file.
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

pub(super) fn read_state(dir: &Path) -> io::Result<State> {
    Ok(read_json(dir, STATE)?.unwrap_or_default())
}

pub(super) fn exists(dir: &Path, file: &str) -> bool {
    dir.join(file).exists()
}

/// Proof that there is no such file: an error that may hide one is none.
pub(super) fn is_absent(path: &Path) -> bool {
    let found = fs::symlink_metadata(path).map_err(|error| error.kind());
    matches!(found, Err(ErrorKind::NotFound | ErrorKind::NotADirectory))
}

pub(super) fn open_lock(dir: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(dir.join(LOCK))
}

/// The agent's end of the FIFO; `None` if no runner reads it.
pub(super) fn open_control(path: &Path) -> io::Result<Option<File>> {
    match OpenOptions::new().write(true).custom_flags(nonblocking()).open(path) {
        Ok(fifo) => Ok(Some(fifo)),
        // Nobody reads: ENXIO. If there is no FIFO, there is no runner either.
        Err(error)
            if Errno::from_io_error(&error) == Some(Errno::NXIO) || error.kind() == ErrorKind::NotFound =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn nonblocking() -> i32 {
    i32::try_from(OFlags::NONBLOCK.bits()).expect("an open flag fits an int")
}

pub(super) fn make_private_dir(path: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

pub(super) fn make_private_dirs(path: &Path) -> io::Result<()> {
    if !path.is_dir() {
        durable::create_dir_all_synced(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// Removes what dismissed runs no longer need: the outputs and work directories of all but the newest `outputs` runs, and all
/// files of all but the newest `all`. Job ids sort by time.
pub(super) fn tidy(runs: &Path, outputs: usize, all: usize) -> io::Result<()> {
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

#[cfg(test)]
mod tests {
    use super::*;

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

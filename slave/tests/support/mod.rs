//! Shared by the tests of the machines: an agent that only has machines, and receives their facts.
#![allow(dead_code, unreachable_pub, reason = "every test program uses another part")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reloop_protocol::id::{Attempt, JobId, Run};
use reloop_protocol::slave::{Ended, Fact, Probed, RunKey};
use reloop_slave::config::{Config, Overrides};
use reloop_slave::machine::{Command, Machines, Work, process};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::sync::mpsc::{self, Receiver, error::TryRecvError};

/// Far longer than anything here takes, for a box that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A state directory for one test. When it is dropped, it kills the runs that are alive, so that a test that failed leaves no
/// processes behind.
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for run in std::fs::read_dir(self.path().join("runs")).into_iter().flatten().flatten() {
            let Ok(lock) = std::fs::File::open(run.path().join("lock")) else { continue };
            let alive = flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err();
            if alive && run.path().join("child").exists() && !run.path().join("exit").exists() {
                // It may have ended this very moment.
                let _ = kill_process_group(group(&run.path()), Signal::KILL);
                // The runner holds it until the outcome is written.
                flock(&lock, FlockOperation::LockExclusive).unwrap();
            }
        }
    }
}

/// The process group of a run's program. The runner notes it a moment after the run has begun.
pub fn group(run_dir: &Path) -> Pid {
    let mut group = None;
    until("the process group is noted", || {
        let child = std::fs::read(run_dir.join("child")).unwrap_or_default();
        let pid =
            serde_json::from_slice(&child).ok().and_then(|child: serde_json::Value| child["pid"].as_i64());
        group = pid.and_then(|pid| Pid::from_raw(pid.try_into().unwrap()));
        group.is_some()
    });
    group.unwrap()
}

pub fn key(number: u64) -> RunKey {
    RunKey { job: JobId::from_parts(number, 7), attempt: Attempt(1), run: Run(1) }
}

/// The key as it is written in messages and names of files.
pub fn run_name(key: RunKey) -> String {
    process::run_dir(Path::new(""), key).file_name().unwrap().to_str().unwrap().to_owned()
}

pub fn params(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

pub fn work(key: RunKey, program: &str, pairs: &[(&str, &str)]) -> Work {
    Work { key, program: program.to_owned(), params: params(pairs) }
}

/// Waits until it holds.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub struct Agent {
    pub machines: Machines,
    facts: Receiver<(RunKey, Fact)>,
    pub state_dir: PathBuf,
}

impl Agent {
    /// With these program tables, and the boot that `<state_dir>/boot` names.
    pub fn new(state_dir: &Path, programs: &str) -> Self {
        Self::with_runner(state_dir, programs, Path::new(env!("CARGO_BIN_EXE_reloop-slave")))
    }

    /// The same with another program as the runner.
    pub fn with_runner(state_dir: &Path, programs: &str, runner: &Path) -> Self {
        let boot = state_dir.join("boot");
        if !boot.exists() {
            reboot(state_dir, 1);
        }
        let text = format!(
            "name = \"test\"\nmaster = \"ws://127.0.0.1:1/v1/link\"\nstate_dir = {state_dir:?}\nboot_id_file = {boot:?}\n{programs}"
        );
        let config = Config::parse(&text, Path::new("slave.toml"), Overrides::default()).unwrap();
        let (facts_in, facts) = mpsc::channel(64);
        let machines = Machines::with_runner(&config, runner, facts_in).unwrap();
        Self { machines, facts, state_dir: state_dir.to_path_buf() }
    }

    pub fn start(&mut self, key: RunKey, program: &str, params: &[(&str, &str)]) {
        self.machines.command(Command::Start(work(key, program, params)));
    }

    /// At a safe point.
    pub fn stop(&mut self, key: RunKey) {
        self.machines.command(Command::Stop { key, now: false });
    }

    pub fn stop_now(&mut self, key: RunKey) {
        self.machines.command(Command::Stop { key, now: true });
    }

    /// Whether the runner of this run has begun to stop it.
    pub fn is_stopping(&self, key: RunKey) -> bool {
        let state = std::fs::read(process::run_dir(&self.state_dir, key).join("state")).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap_or_default();
        !state["stopping"].is_null()
    }

    /// Stops a run at a safe point, and waits until its runner has begun to.
    pub fn begin_stop(&mut self, key: RunKey) {
        self.stop(key);
        until("the runner stops the run", || self.is_stopping(key));
    }

    pub fn next(&mut self) -> (RunKey, Fact) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.facts.try_recv() {
                Ok(fact) => return fact,
                Err(TryRecvError::Empty) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => panic!("no fact: {error}"),
            }
        }
    }

    /// The next fact about this run that is no progress.
    pub fn fact(&mut self, key: RunKey) -> Fact {
        loop {
            match self.next() {
                (_, Fact::Progressed { .. }) => {}
                (about, fact) => {
                    assert_eq!(about, key);
                    return fact;
                }
            }
        }
    }

    #[track_caller]
    pub fn expect(&mut self, key: RunKey, expected: Fact) {
        assert_eq!(self.fact(key), expected);
    }

    pub fn ended(&mut self, key: RunKey) -> Ended {
        match self.fact(key) {
            Fact::Ended(ended) => ended,
            other => panic!("not the end: {other:?}"),
        }
    }

    pub fn refusal(&mut self, key: RunKey) -> String {
        match self.fact(key) {
            Fact::StartRefused(why) | Fact::StopRefused(why) | Fact::PauseRefused(why) => why,
            Fact::StartRejected(reason) => reason.text,
            other => panic!("no refusal: {other:?}"),
        }
    }

    /// The next progress of this run, in thousandths.
    pub fn permille(&mut self, key: RunKey) -> u16 {
        loop {
            match self.next() {
                (about, Fact::Progressed { permille: Some(permille), .. }) if about == key => {
                    return permille;
                }
                (_, Fact::Progressed { .. }) => {}
                other => panic!("no progress: {other:?}"),
            }
        }
    }

    pub fn probe(&mut self, key: RunKey, program: &str) -> Probed {
        self.machines.command(Command::Probe(work(key, program, &[])));
        loop {
            match self.fact(key) {
                Fact::Probed(probed) => return probed,
                Fact::Started | Fact::Paused | Fact::Resumed => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    /// All facts that come within this time.
    pub fn within(&mut self, time: Duration) -> Vec<Fact> {
        let deadline = Instant::now() + time;
        let mut heard = Vec::new();
        while Instant::now() < deadline {
            match self.facts.try_recv() {
                Ok((_, fact)) => heard.push(fact),
                Err(TryRecvError::Empty) => std::thread::sleep(Duration::from_millis(5)),
                Err(error) => panic!("nobody speaks any more: {error}"),
            }
        }
        heard
    }
}

/// The next agent on this directory runs in another boot.
pub fn reboot(state_dir: &Path, boot: u8) {
    std::fs::write(state_dir.join("boot"), format!("00000000-0000-0000-0000-0000000000{boot:02x}\n"))
        .unwrap();
}

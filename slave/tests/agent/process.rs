//! An agent as a process, with a state directory of its own.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// Far longer than anything here takes, for a box that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct Agent {
    pub dir: TempDir,
    master: String,
    pub child: Option<Child>,
}

impl Agent {
    pub fn new(master: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("boot"), "00000000-0000-0000-0000-000000000001\n").unwrap();
        Self { dir, master: master.to_owned(), child: None }
    }

    pub fn started(master: &str) -> Self {
        let mut agent = Self::new(master);
        agent.start();
        agent
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let config = self.dir.path().join("slave.toml");
        let (state_dir, boot) = (self.state_dir(), self.dir.path().join("boot"));
        let text = format!(
            "name = \"mill-3\"\nmaster = {:?}\nstate_dir = {state_dir:?}\nboot_id_file = {boot:?}\n\
             labels = {{ material = \"pla\" }}\n\
             [link]\nbackoff_min_ms = 5\nbackoff_max_ms = 50\n\
             [programs.bake]\ndriver = \"simulated\"\n\
             [programs.say]\ndriver = \"process\"\ncommand = [\"/bin/echo\", \"{{word}}\"]\n\
             [programs.say.params]\nword = {{ pattern = \"[a-z]+\" }}\n",
            self.master
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("/bin/sh");
        // With the signal ignored, a write beyond the size limit fails instead of ending the agent.
        command.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh", env!("CARGO_BIN_EXE_reloop-slave")]);
        command.args(arguments).arg("--config").arg(config).env("RELOOP_LOG", "debug");
        for name in ["NAME", "MASTER", "STATE_DIR", "ENROLL_TOKEN_FILE"] {
            command.env_remove(format!("RELOOP_SLAVE_{name}"));
        }
        command
    }

    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).unwrap();
        let child = self.command(&["run"]).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
    }

    pub fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().unwrap())
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub async fn stop(&mut self) -> ExitStatus {
        kill_process(self.pid(), Signal::TERM).unwrap();
        self.ended().await
    }

    pub async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        // An agent whose store has failed stays for another 30 s, so that the master is told why.
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "in vain: the agent ends");
            sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// A local command's exit status and words.
    pub async fn says(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.run(arguments).await;
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap(), String::from_utf8(text).unwrap())
    }

    pub async fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]).await;
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    pub async fn status_until(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "in vain: {what}: {status}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many times the simulated machine has begun a run.
    pub fn bakes(&self) -> usize {
        let file = self.state_dir().join("machines/bake.json");
        let memory: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        let past = fs::read_to_string(file.with_extension("past")).unwrap_or_default();
        let past =
            past.lines().filter(|line| !line.is_empty()).map(|line| serde_json::from_str(line).unwrap());
        let runs = memory["runs"].as_array().unwrap().iter().cloned().chain(past);
        // A run that is remembered with two start times has begun twice.
        let start = |run: Value| (run["key"].to_string(), run["trace"]["begun"]["started_at_ms"].as_i64());
        runs.map(start).collect::<BTreeSet<_>>().len()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            println!("--- the agent's log\n{log}");
        }
    }
}

pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

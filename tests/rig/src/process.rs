//! Real masters and slaves as processes, each in a directory of its own.
//!
//! A [`Master`] or [`Slave`] is the node with its disk: it can be killed, stopped, started again on what it left, wiped
//! or copied. When the handle is dropped its processes are ended, for a slave also those of its runs, and the directory
//! is removed; after a panic the directory stays and the log's tail is printed.
//!
//! The default programs of a slave write what they do into a machine log beside the state directory. It is what a
//! person standing at the machine would have seen: see [`Slave::starts`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::client::Client;
use crate::daemon::{
    Daemon, WorkDir, binary, copy_dir, free_port, freeze, kill_processes_of, make_dir, processes_of,
    remove_dir, write,
};
use crate::disk::{Disk, DiskKind};
use crate::wait::eventually;

/// A master opens an empty store in well under a second; the rest is for a machine that is busy with a build.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// A free port can be taken by somebody else before the master has it. Five times in a row is something else.
const PORT_ATTEMPTS: usize = 5;

/// A `[link]` table: key and whole number. Fast enough that a test sees a dead link within seconds.
pub type LinkSettings = BTreeMap<&'static str, u64>;

fn fast_link() -> LinkSettings {
    BTreeMap::from([("heartbeat_seconds", 1), ("dead_after_seconds", 3), ("handshake_seconds", 5)])
}

/// How to run a master.
#[derive(Clone, Debug)]
pub struct MasterOptions {
    /// `open`, `token` or `approve`.
    pub enrollment: String,
    /// The `[link]` table.
    pub link: LinkSettings,
    /// More top-level lines of the configuration.
    pub config: String,
    /// More arguments of `reloop serve`.
    pub args: Vec<String>,
    /// More environment.
    pub env: BTreeMap<String, String>,
    /// A program that runs the master, with its arguments: `strace` with injected disk errors, for instance.
    pub wrapper: Vec<String>,
    /// What its data directory stands on.
    pub disk: DiskKind,
}

impl Default for MasterOptions {
    fn default() -> Self {
        Self {
            enrollment: "open".to_owned(),
            link: fast_link(),
            config: String::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            wrapper: Vec::new(),
            disk: DiskKind::Shared,
        }
    }
}

/// A master with its disk.
#[derive(Debug)]
pub struct Master {
    daemon: Daemon,
    options: MasterOptions,
    addr: SocketAddr,
    /// Dropped after the process that uses it and before the directory that it is mounted in.
    disk: Option<Disk>,
    dir: WorkDir,
}

impl Master {
    /// A new master on an empty data directory; returns when it answers.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub async fn start(options: MasterOptions) -> Self {
        let dir = WorkDir::new("reloop-master-");
        let mut master = Self {
            daemon: Daemon::new("master", dir.path().join("master.log")),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            disk: Disk::mount(options.disk, &dir.path().join("data")),
            options,
            dir,
        };
        for _ in 0..PORT_ATTEMPTS {
            master.addr.set_port(free_port());
            match master.run().await {
                Ok(()) => return master,
                Err(_) if master.log().contains("in use") => {}
                Err(status) => panic!("the master ended with {status}:\n{}", master.daemon.tail()),
            }
        }
        panic!("{PORT_ATTEMPTS} ports in a row were taken:\n{}", master.daemon.tail());
    }

    /// Starts it again, on the same port and data directory; returns when it answers. A running one is killed first.
    ///
    /// # Panics
    /// When it does not start; its log is in the message.
    pub async fn restart(&mut self) {
        self.kill();
        if let Err(status) = self.run().await {
            panic!("the master ended with {status}:\n{}", self.daemon.tail());
        }
    }

    /// Starts it again although it may refuse to run: its exit status if it did, and it is in [`Master::log`] why.
    pub async fn try_restart(&mut self) -> Result<(), ExitStatus> {
        self.kill();
        self.run().await
    }

    /// SIGKILL, as by the kernel or a power cut that spares the disk.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// SIGTERM, and how it ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> ExitStatus {
        self.daemon.stop().await
    }

    /// SIGSTOP: it is there and does nothing.
    pub fn pause(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// The box loses its power: the process is gone, and the disk has what had reached it by then.
    /// [`Master::restart`] is the other half.
    ///
    /// # Panics
    /// When its disk is none whose power can be cut.
    pub fn cut_power(&mut self) {
        freeze(&self.daemon.process());
        let left = self.disk().as_the_power_cut_leaves_it();
        self.kill();
        self.disk.as_mut().expect("it was just there").come_back_as(left);
    }

    /// The disk of its own.
    ///
    /// # Panics
    /// When it has none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the options give it a disk of its own")
    }

    /// Whether its process runs.
    pub fn is_alive(&mut self) -> bool {
        self.daemon.is_alive()
    }

    /// How it ended, once it did by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// Kills it and removes all its data: the master that lost everything.
    ///
    /// # Panics
    /// When its data cannot be removed.
    pub fn wipe(&mut self) {
        self.kill();
        remove_dir(&self.data_dir());
    }

    /// A copy of its data at this moment.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn backup(&self) -> Backup {
        // A disk is copied at one moment, not over a stretch of time in which the store moves on.
        self.pause();
        let backup = Backup::of(&self.data_dir());
        self.cont();
        backup
    }

    /// Kills it, and puts its data back as it was then.
    ///
    /// # Panics
    /// When its data cannot be replaced.
    pub fn put_back(&mut self, backup: &Backup) {
        self.kill();
        backup.put_back(&self.data_dir());
    }

    /// Another master on a copy of the same data.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_from(backup: &Backup, options: MasterOptions) -> Self {
        let mut master = Self::start(options).await;
        master.put_back(backup);
        master.restart().await;
        master
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link's address for a slave that dials it without a proxy.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.addr)
    }

    /// What it keeps.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// How it is run; a change acts at the next start.
    pub fn options_mut(&mut self) -> &mut MasterOptions {
        &mut self.options
    }

    /// Everything it has printed, over all its starts.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// A client with the admin token that the master wrote at its first start.
    ///
    /// # Panics
    /// When there is no token.
    pub fn client(&self) -> Client {
        let path = self.data_dir().join("admin.token");
        let token = fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("no admin token in {}: {error}", path.display()));
        Client::new(self.addr, Some(token.trim().to_owned()))
    }

    async fn run(&mut self) -> Result<(), ExitStatus> {
        let data_dir = self.data_dir();
        let config = self.dir.path().join("master.toml");
        write(&config, &self.config());
        let mut args: Vec<String> = vec!["serve".into(), "--listen".into(), self.addr.to_string()];
        args.extend(["--data-dir".into(), text(&data_dir), "--config".into(), text(&config)]);
        args.extend(self.options.args.iter().cloned());
        self.daemon.spawn(&binary("reloop"), &args, &self.options.env, &self.options.wrapper);
        let client = Client::new(self.addr, None);
        eventually("the master to answer /livez", START_DEADLINE, async || {
            if let Some(status) = self.daemon.ended() {
                return Ok(Err(status));
            }
            if !self.daemon.listens(self.addr.port()) {
                return Err(format!("it does not listen yet\n{}", self.daemon.tail()));
            }
            match client.livez().await {
                Ok(reply) if reply.status == 200 => Ok(Ok(())),
                Ok(reply) => Err(format!("{reply:?}")),
                Err(unanswered) => Err(format!("{unanswered:?}\n{}", self.daemon.tail())),
            }
        })
        .await
    }

    fn config(&self) -> String {
        let mut config =
            format!("enrollment = {}\n{}\n", quoted(&self.options.enrollment), self.options.config);
        push_link_table(&mut config, &self.options.link);
        config
    }
}

/// How to run a slave.
#[derive(Clone, Debug)]
pub struct SlaveOptions {
    /// Its name.
    pub name: String,
    /// The link's address: [`crate::proxy::Proxy::url`] or [`Master::url`].
    pub master: String,
    /// `auto` or `ack`.
    pub release: String,
    /// How many accepted jobs it keeps.
    pub capacity: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The `[link]` table.
    pub link: LinkSettings,
    /// More top-level lines of the configuration.
    pub config: String,
    /// More tables of the configuration, `[programs.…]` for instance.
    pub tables: String,
    /// More environment.
    pub env: BTreeMap<String, String>,
    /// A program that runs the slave, with its arguments.
    pub wrapper: Vec<String>,
    /// What its state directory stands on.
    pub disk: DiskKind,
}

impl SlaveOptions {
    /// A slave with the default programs:
    /// `work` (parameters `tag`, `seconds` = 0, `exit` = 0) runs for that long and ends with that status;
    /// `gated` (`tag`, `exit` = 0) runs until [`Slave::open_gate`];
    /// `bake` is a simulated machine.
    pub fn new(name: &str, master: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            master: master.into(),
            release: "auto".to_owned(),
            capacity: 4,
            labels: BTreeMap::new(),
            link: fast_link(),
            config: String::new(),
            tables: String::new(),
            env: BTreeMap::new(),
            wrapper: Vec::new(),
            disk: DiskKind::Shared,
        }
    }
}

/// What the default programs run. It notes starts and ends where neither node can reach, and ends on SIGTERM.
/// `gated` ends as well when the one who would open the gate, in the first line, is gone.
const WORK_SCRIPT: &str = r#"
here=$(dirname "$0") mode=$1 tag=$2 seconds=$3 exit=$4
note() { echo "$1 $tag $$" >>"$here/machine.log"; }
note start
trap 'note stop; [ -z "$child" ] || kill "$child"; exit 143' TERM INT
case $mode in
work)
    sleep "$seconds" & child=$!
    wait "$child" ;;
gated)
    until [ -e "$here/gates/$tag" ] || [ ! -e "/proc/$keeper" ]; do sleep 0.05; done ;;
esac
note end
exit "$exit"
"#;

/// A slave with its disk and its machine.
#[derive(Debug)]
pub struct Slave {
    daemon: Daemon,
    options: SlaveOptions,
    /// Dropped after the processes that use it and before the directory that it is mounted in.
    disk: Option<Disk>,
    dir: WorkDir,
}

impl Slave {
    /// A new slave on an empty state directory. It runs when this returns; that it has a link is for the test to await.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn start(options: SlaveOptions) -> Self {
        let mut slave = Self::prepare(options);
        slave.run();
        slave
    }

    /// A copy of this slave's disk in another box: same key and store, another boot, started beside it.
    ///
    /// # Panics
    /// When the disk cannot be copied.
    pub fn clone_of(original: &Self, master: impl Into<String>) -> Self {
        let options = SlaveOptions { master: master.into(), ..original.options.clone() };
        let mut clone = Self::prepare(options);
        // A disk is copied at one moment, not over a stretch of time in which the store moves on.
        original.pause();
        copy_dir(&original.state_dir(), &clone.state_dir());
        original.cont();
        clone.run();
        clone
    }

    fn prepare(options: SlaveOptions) -> Self {
        let dir = WorkDir::new("reloop-slave-");
        let slave = Self {
            daemon: Daemon::new(&options.name, dir.path().join("slave.log")),
            disk: Disk::mount(options.disk, &dir.path().join("state")),
            options,
            dir,
        };
        make_dir(&slave.state_dir());
        make_dir(&slave.machine_dir().join("gates"));
        let keeper = format!("#!/bin/sh\nkeeper={}", std::process::id());
        write(&slave.machine_dir().join("work.sh"), &(keeper + WORK_SCRIPT));
        slave.new_boot();
        slave
    }

    /// Starts the agent again on the same state. A running one is killed first; its jobs are not touched.
    ///
    /// # Panics
    /// When it cannot be run.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// SIGKILL to the agent. Its jobs go on.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// SIGTERM to the agent, and how it ended. Its jobs go on.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn stop(&mut self) -> ExitStatus {
        self.daemon.stop().await
    }

    /// SIGSTOP to the agent: it is there and does nothing. Its jobs go on.
    pub fn pause(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// SIGCONT to the agent.
    pub fn cont(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Whether the agent runs.
    pub fn is_alive(&mut self) -> bool {
        self.daemon.is_alive()
    }

    /// How the agent ended, once it did by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.daemon.ended()
    }

    /// The agent's process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.pid()
    }

    /// The box loses its power and starts again: the agent and all its jobs are gone, the disk is there, the boot id is
    /// another one.
    ///
    /// # Panics
    /// When processes of the slave cannot be ended.
    pub fn reboot(&mut self) {
        self.power_off();
        self.run();
    }

    /// The first half of [`Slave::reboot`]; [`Slave::restart`] is the second.
    ///
    /// # Panics
    /// When processes of the slave cannot be ended.
    pub fn power_off(&mut self) {
        self.kill();
        self.kill_runs();
        self.new_boot();
    }

    /// [`Slave::power_off`], and the disk has only what had reached it by then. [`Slave::restart`] is the other half.
    ///
    /// # Panics
    /// When its disk is none whose power can be cut.
    pub fn cut_power(&mut self) {
        // The agent first: it begins nothing that would have to be found.
        freeze(&self.daemon.process());
        freeze(&self.runs());
        let left = self.disk().as_the_power_cut_leaves_it();
        self.power_off();
        self.disk.as_mut().expect("it was just there").come_back_as(left);
    }

    /// The disk of its own.
    ///
    /// # Panics
    /// When it has none.
    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the options give it a disk of its own")
    }

    /// Kills the agent and removes its store: the disk was replaced and only the key was carried over.
    ///
    /// # Panics
    /// When the store cannot be removed.
    pub fn wipe(&mut self) {
        self.kill();
        remove_dir(&self.state_dir().join("store"));
    }

    /// A copy of its store at this moment.
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn backup(&self) -> Backup {
        self.pause();
        let backup = Backup::of(&self.state_dir().join("store"));
        self.cont();
        backup
    }

    /// Kills the agent, and puts its store back as it was then.
    ///
    /// # Panics
    /// When the store cannot be replaced.
    pub fn put_back(&mut self, backup: &Backup) {
        self.kill();
        backup.put_back(&self.state_dir().join("store"));
    }

    /// Kills what the slave's jobs run, and leaves the agent.
    ///
    /// # Panics
    /// When such a process does not end.
    pub fn kill_runs(&self) {
        kill_processes_of(self.dir.path(), self.pid());
    }

    /// The processes of the slave's jobs, the agent left out: those that work in its directory, have a file of it open,
    /// or name it in their arguments or environment.
    pub fn runs(&self) -> Vec<Pid> {
        processes_of(self.dir.path(), self.pid())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// What it keeps.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Its configuration file, for the local commands.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("slave.toml")
    }

    /// How it is run; a change acts at the next start.
    pub fn options_mut(&mut self) -> &mut SlaveOptions {
        &mut self.options
    }

    /// Everything the agent has printed, over all its starts.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// How often the machine was started with this tag.
    ///
    /// # Panics
    /// When the machine log cannot be read.
    pub fn starts(&self, tag: &str) -> usize {
        self.machine_log().iter().filter(|(what, noted, _)| what == "start" && noted == tag).count()
    }

    /// What the machine did, in order: `start`, `end` or `stop`, the tag, and the process.
    ///
    /// # Panics
    /// When the machine log cannot be read.
    pub fn machine_log(&self) -> Vec<(String, String, u32)> {
        let path = self.machine_dir().join("machine.log");
        let log = match fs::read_to_string(&path) {
            Ok(log) => log,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
            Err(error) => panic!("cannot read {}: {error}", path.display()),
        };
        log.lines()
            .map(|line| {
                let fields: Vec<&str> = line.split(' ').collect();
                let &[what, tag, pid] = fields.as_slice() else { panic!("not a machine log line: {line}") };
                (what.to_owned(), tag.to_owned(), pid.parse().expect("a process id"))
            })
            .collect()
    }

    /// Lets a `gated` job with this tag end, now or when it starts.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn open_gate(&self, tag: &str) {
        write(&self.machine_dir().join("gates").join(tag), "");
    }

    /// How often its simulated oven has begun a job, by the machine's own memory: what was dismissed may stand in it twice.
    ///
    /// # Errors
    /// The memory can't be read.
    pub fn bakes(&self, job: &str) -> anyhow::Result<usize> {
        let path = self.state_dir().join("machines/bake.json");
        let unless_missing = |read: io::Result<String>| match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some).with_context(|| path.display().to_string()),
        };
        let Some(memory) = unless_missing(fs::read_to_string(&path))? else { return Ok(0) };
        let past = unless_missing(fs::read_to_string(path.with_extension("past")))?.unwrap_or_default();
        begun(&memory, &past, job).with_context(|| path.display().to_string())
    }

    fn run(&mut self) {
        let config = self.config_path();
        write(&config, &self.config());
        let args = ["run".to_owned(), "--config".to_owned(), text(&config)];
        self.daemon.spawn(&binary("reloop-slave"), &args, &self.options.env, &self.options.wrapper);
    }

    fn config(&self) -> String {
        let options = &self.options;
        let labels: Vec<String> = options
            .labels
            .iter()
            .map(|(key, value)| format!("{} = {}", quoted(key), quoted(value)))
            .collect();
        let mut config = String::new();
        for (key, value) in [
            ("name", quoted(&options.name)),
            ("master", quoted(&options.master)),
            ("state_dir", quoted(&text(&self.state_dir()))),
            ("boot_id_file", quoted(&text(&self.boot_id_path()))),
            ("release", quoted(&options.release)),
            ("capacity", options.capacity.to_string()),
            ("labels", format!("{{ {} }}", labels.join(", "))),
        ] {
            writeln!(config, "{key} = {value}").expect("a string takes everything");
        }
        config.push_str(&options.config);
        config.push('\n');
        push_link_table(&mut config, &options.link);
        config.push_str(&self.default_programs());
        config.push_str(&options.tables);
        config
    }

    fn default_programs(&self) -> String {
        let script = quoted(&text(&self.machine_dir().join("work.sh")));
        format!(
            r#"
[programs.work]
driver = "process"
command = ["/bin/sh", {script}, "work", "{{tag}}", "{{seconds}}", "{{exit}}"]
[programs.work.params]
tag = {{ pattern = "[A-Za-z0-9_-]+" }}
seconds = {{ pattern = "[0-9]+(\\.[0-9]+)?", default = "0" }}
exit = {{ pattern = "[0-9]{{1,3}}", default = "0" }}

[programs.gated]
driver = "process"
command = ["/bin/sh", {script}, "gated", "{{tag}}", "0", "{{exit}}"]
[programs.gated.params]
tag = {{ pattern = "[A-Za-z0-9_-]+" }}
exit = {{ pattern = "[0-9]{{1,3}}", default = "0" }}

[programs.bake]
driver = "simulated"

"#
        )
    }

    fn machine_dir(&self) -> PathBuf {
        self.dir.path().join("machine")
    }

    fn boot_id_path(&self) -> PathBuf {
        self.dir.path().join("boot_id")
    }

    fn new_boot(&self) {
        let id = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("Linux gives random UUIDs");
        write(&self.boot_id_path(), &id);
    }
}

/// What a node had on its disk at one moment.
#[derive(Debug)]
pub struct Backup(WorkDir);

impl Backup {
    fn of(dir: &Path) -> Self {
        let backup = WorkDir::new("reloop-backup-");
        copy_dir(dir, backup.path());
        Self(backup)
    }

    fn put_back(&self, dir: &Path) {
        remove_dir(dir);
        copy_dir(self.0.path(), dir);
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.daemon.kill();
        self.kill_runs();
    }
}

/// A TOML string. JSON's escapes are a subset of TOML's.
fn quoted(value: &str) -> String {
    serde_json::Value::from(value).to_string()
}

fn text(path: &Path) -> String {
    path.to_str().expect("temporary directories have plain names").to_owned()
}

fn push_link_table(config: &mut String, link: &LinkSettings) {
    config.push_str("[link]\n");
    for (key, value) in link {
        writeln!(config, "{key} = {value}").expect("a string takes everything");
    }
}

/// How often a job has begun, by a simulated machine's memory and what it keeps of the past, in which a power cut may have cut
/// off a line. The same run that began at another moment began twice.
fn begun(memory: &str, past: &str, job: &str) -> anyhow::Result<usize> {
    let mut memory: Value = serde_json::from_str(memory)?;
    let mut runs: Vec<Value> = serde_json::from_value(memory["runs"].take())?;
    runs.extend(past.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()));
    let start = |run: &Value| {
        let key = run["key"].as_str().filter(|key| key.starts_with(job))?;
        Some((key.to_owned(), run["trace"]["begun"]["started_at_ms"].as_i64()?))
    };
    Ok(runs.iter().filter_map(start).collect::<BTreeSet<_>>().len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_counts_once_wherever_it_stands_and_a_second_one_of_the_same_run_counts_too() {
        let run =
            |key: &str, at: i64| format!(r#"{{"key":"{key}","trace":{{"begun":{{"started_at_ms":{at}}}}}}}"#);
        let first = run("job_a/1/1", 1000);
        let void = r#"{"key":"job_a/2/1","trace":"void"}"#;
        let memory = format!(r#"{{"runs":[{first},{void},{}]}}"#, run("job_b/1/1", 1000));
        let begun = |past: &str| begun(&memory, past, "job_a").unwrap();
        assert_eq!(begun(""), 1);
        assert_eq!(
            begun(&format!("\n{first}\n{{\"key\":\"jo")),
            1,
            "dismissed, and not yet out of the memory"
        );
        assert_eq!(begun(&format!("\n{}", run("job_a/1/1", 2000))), 2, "the same run once more");
        assert_eq!(begun(&format!("\n{}", run("job_a/2/1", 1000))), 2, "another attempt");
    }
}

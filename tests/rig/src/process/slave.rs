//! A slave with its disk and its machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;

use anyhow::Context as _;
use rustix::process::Pid;
use serde_json::Value;

use super::{Backup, LinkSettings, fast_link, push_link_table, quoted, text};
use crate::daemon::{
    Daemon, WorkDir, binary, copy_dir, freeze, kill_processes_of, make_dir, processes_of, remove_dir, write,
};
use crate::disk::{Disk, DiskKind};

#[derive(Clone, Debug)]
pub struct SlaveOptions {
    pub name: String,
    /// The link's address: [`crate::proxy::Proxy::url`] or [`crate::process::Master::url`].
    pub master: String,
    /// `auto` or `ack`.
    pub release: String,
    pub labels: BTreeMap<String, String>,
    pub link: LinkSettings,
    /// More top-level lines of the configuration.
    pub config: String,
    /// More tables of the configuration, such as `[programs.…]`.
    pub tables: String,
    pub env: BTreeMap<String, String>,
    /// A program that runs the slave, with its arguments.
    pub wrapper: Vec<String>,
    /// What its state directory is on.
    pub disk: DiskKind,
}

impl SlaveOptions {
    /// A slave with the default programs:
    /// `work` (parameters `tag`, `seconds` = 0, `exit` = 0) runs for that long and exits with that status;
    /// `gated` (`tag`, `exit` = 0) runs until [`Slave::open_gate`];
    /// `bake` is a simulated machine.
    pub fn new(name: &str, master: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            master: master.into(),
            release: "auto".to_owned(),
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

/// The script of the default programs. It writes starts and ends into a file that neither node writes, and exits on
/// SIGTERM. `gated` also exits when the test process, whose id is in the first line, is gone.
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

#[derive(Debug)]
pub struct Slave {
    daemon: Daemon,
    options: SlaveOptions,
    /// Dropped after the processes that use it and before the directory in which it is mounted.
    disk: Option<Disk>,
    dir: WorkDir,
}

impl Slave {
    /// A new slave on an empty state directory. It may not have a link yet when this returns.
    pub fn start(options: SlaveOptions) -> Self {
        let mut slave = Self::prepare(options);
        slave.run();
        slave
    }

    /// Starts a copy of this slave's disk in another box: same key and store, another boot.
    pub fn clone_of(original: &Self, master: impl Into<String>) -> Self {
        let options = SlaveOptions { master: master.into(), ..original.options.clone() };
        let mut clone = Self::prepare(options);
        // Stopped while it is copied, so that the store does not change meanwhile.
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

    /// Restarts the agent on the same state. A running one is killed first; its jobs go on.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// A power cut and a restart of the box: the agent and all its jobs are gone, the disk is kept, the boot id
    /// changes.
    pub fn reboot(&mut self) {
        self.power_off();
        self.run();
    }

    /// The first half of [`Slave::reboot`]; [`Slave::restart`] is the second.
    pub fn power_off(&mut self) {
        self.kill();
        self.kill_runs();
        self.new_boot();
    }

    /// [`Slave::power_off`], with a disk that keeps only what had reached it by then. [`Slave::restart`] follows.
    pub fn cut_power(&mut self) {
        // The agent first, so that it starts nothing meanwhile.
        freeze(&self.daemon.process());
        freeze(&self.runs());
        let left = self.disk().as_the_power_cut_leaves_it();
        self.power_off();
        self.disk.as_mut().expect("it was just there").come_back_as(left);
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the options give it a disk of its own")
    }

    /// Kills the agent and removes its store: the disk was replaced and only the key was kept.
    pub fn wipe(&mut self) {
        self.kill();
        remove_dir(&self.state_dir().join("store"));
    }

    /// A copy of its store at this moment.
    pub fn backup(&self) -> Backup {
        self.pause();
        let backup = Backup::of(&self.state_dir().join("store"));
        self.cont();
        backup
    }

    /// Kills the agent, and restores its store from a backup.
    pub fn put_back(&mut self, backup: &Backup) {
        self.kill();
        backup.put_back(&self.state_dir().join("store"));
    }

    /// Kills the processes of the slave's jobs, and not the agent.
    pub fn kill_runs(&self) {
        kill_processes_of(self.dir.path(), self.pid());
    }

    /// The processes of the slave's jobs: those that work in its directory, have a file of it open, or name it in their
    /// arguments or environment, without the agent.
    pub fn runs(&self) -> Vec<Pid> {
        processes_of(self.dir.path(), self.pid())
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    /// Its configuration file, for the local commands.
    pub fn config_path(&self) -> PathBuf {
        self.dir.path().join("slave.toml")
    }

    /// Its options; a change takes effect at the next start.
    pub fn options_mut(&mut self) -> &mut SlaveOptions {
        &mut self.options
    }

    /// How often the machine was started with this tag.
    pub fn starts(&self, tag: &str) -> usize {
        self.machine_log().iter().filter(|(what, noted, _)| what == "start" && noted == tag).count()
    }

    /// What the machine did, in order: `start`, `end` or `stop`, the tag, and the process.
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
    pub fn open_gate(&self, tag: &str) {
        write(&self.machine_dir().join("gates").join(tag), "");
    }

    /// How often its simulated oven has begun a job, by the oven's own file. A dismissed run may be in it twice.
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
            ("capacity", "4".to_owned()),
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

/// Its process is the agent: the jobs go on when it is stopped.
impl Deref for Slave {
    type Target = Daemon;
    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Slave {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.daemon.kill();
        self.kill_runs();
    }
}

/// How often a job has begun, by a simulated machine's file and its file of the past, of which a power cut may have cut
/// off a line. The same run at another time counts as another beginning.
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

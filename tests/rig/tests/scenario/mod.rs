//! What the scenarios share: a factory of one master and some slaves, each behind a network that fails on command.
#![allow(dead_code, unreachable_pub, reason = "every test program uses another part")]

pub mod raw;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reloop_rig::client::Client;
use reloop_rig::daemon::binary;
use reloop_rig::process::{Master, MasterOptions, Slave, SlaveOptions};
use reloop_rig::proxy::Proxy;
use reloop_rig::wait::eventually;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Far longer than anything here takes, for the sake of a box that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// A slave waits at most this long before it dials again: the tests are not about patience.
const LONGEST_PAUSE_MS: u64 = 200;
/// Each factory is some processes that all want their disk: more of them at once only wait for each other.
const FACTORIES: usize = 4;

/// The jobs of a fresh `process` program that prints and can be held in the middle. It notes its start, prints 500 lines,
/// waits for its gate, prints 500 more, and ends with the status `exit`.
const PRINTER: &str = r#"
[programs.printer]
driver = "process"
command = ["/bin/sh", "-c", """
place=../../../../machine
echo "start $0 $$" >>$place/machine.log
i=0
while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done
until [ -e $place/gates/$0 ]; do sleep 0.05; done
while [ $i -lt 1000 ]; do echo line $i; i=$((i+1)); done
echo "end $0 $$" >>$place/machine.log
exit $1
""", "{tag}", "{exit}"]
[programs.printer.params]
tag = { pattern = "[A-Za-z0-9_-]+" }
exit = { pattern = "[0-9]{1,3}", default = "0" }
"#;

static TURNS: std::sync::OnceLock<Arc<Semaphore>> = std::sync::OnceLock::new();

/// One master, and slaves `s0`, `s1`, … with a network each.
pub struct Factory {
    pub slaves: Vec<Slave>,
    pub nets: Vec<Proxy>,
    pub client: Client,
    pub master: Master,
    _turn: OwnedSemaphorePermit,
}

impl Factory {
    /// One slave, connected.
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// One slave of these options, connected.
    pub async fn with(change: impl Fn(&mut SlaveOptions)) -> Self {
        let mut factory = Self::empty(MasterOptions::default()).await;
        factory.add(change);
        factory.online(0).await;
        factory
    }

    /// A master alone.
    pub async fn empty(options: MasterOptions) -> Self {
        let turns = Arc::clone(TURNS.get_or_init(|| Arc::new(Semaphore::new(FACTORIES))));
        let turn = turns.acquire_owned().await.unwrap();
        let master = Master::start(options).await;
        Self { client: master.client(), slaves: vec![], nets: vec![], master, _turn: turn }
    }

    /// One more slave; its number.
    pub fn add(&mut self, change: impl Fn(&mut SlaveOptions)) -> usize {
        let net = Proxy::start(self.master.addr());
        let mut options = options(&format!("s{}", self.slaves.len()), &net.url());
        change(&mut options);
        self.slaves.push(Slave::start(options));
        self.nets.push(net);
        self.slaves.len() - 1
    }

    /// Places an order of one job; the job's id.
    pub async fn place(&self, order: Value) -> String {
        let order = self.client.place(&order, None).await.unwrap().expect(201);
        job_of(&order)
    }

    /// A job, once `look` is true of it.
    pub async fn until(&self, job: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("{job} to be {what}"), PATIENCE, async || {
            let seen = self.client.job(job).await.map_err(|error| json!(error.to_string()))?;
            if seen.status == 200 && look(&seen.body) { Ok(seen.body) } else { Err(seen.body) }
        })
        .await
    }

    /// A job, once it is in this state.
    pub async fn state(&self, job: &str, state: &str) -> Value {
        self.until(job, state, |job| job["state"] == state).await
    }

    /// A job, now.
    pub async fn job(&self, job: &str) -> Value {
        self.client.job(job).await.unwrap().expect(200)
    }

    /// A slave as the master sees it, once `look` is true of it.
    pub async fn slave(&self, slave: usize, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("slave {slave} to be {what}"), PATIENCE, async || {
            let seen = self.client.slave(self.slaves[slave].name()).await;
            let seen = seen.map_err(|error| json!(error.to_string()))?;
            if seen.status == 200 && look(&seen.body) { Ok(seen.body) } else { Err(seen.body) }
        })
        .await
    }

    /// Waits until the master has a live link to it.
    pub async fn online(&self, slave: usize) -> Value {
        self.slave(slave, "online", |slave| slave["link"] == "online").await
    }

    /// Waits until the master knows that there is no link.
    pub async fn offline(&self, slave: usize) -> Value {
        self.slave(slave, "offline", |slave| slave["link"] == "offline").await
    }

    /// A local command at the machine: whether it was done, and its words.
    pub async fn local(&self, slave: usize, words: &[&str]) -> (bool, String) {
        local(self.slaves[slave].config_path(), words).await
    }

    /// A local command that is done.
    pub async fn locally(&self, slave: usize, words: &[&str]) -> String {
        let (done, text) = self.local(slave, words).await;
        assert!(done, "{words:?}: {text}");
        text
    }

    /// What the slave says of itself, once `look` is true of it.
    pub async fn at_machine(&self, slave: usize, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("at the machine of slave {slave}: {what}"), PATIENCE, async || {
            let (done, text) = self.local(slave, &["status", "--json"]).await;
            let status: Value = serde_json::from_str(&text).map_err(|_| Value::from(text))?;
            if done && look(&status) { Ok(status) } else { Err(status) }
        })
        .await
    }

    /// Waits until the slave itself says this of the job.
    pub async fn held_as(&self, slave: usize, job: &str, state: &str) -> Value {
        let status = self
            .at_machine(slave, &format!("{job} {state}"), |status| {
                held(status, job).is_some_and(|job| job["state"] == state)
            })
            .await;
        held(&status, job).unwrap().clone()
    }

    /// Waits until the slave holds no job at all: what it had is on the master's disk.
    pub async fn holds_nothing(&self, slave: usize) {
        self.at_machine(slave, "nothing held", |status| status["jobs"] == json!([])).await;
    }

    /// Waits until the machine was started with this tag.
    pub async fn machine_started(&self, slave: usize, tag: &str) {
        eventually(&format!("the machine to start {tag}"), PATIENCE, async || {
            let slave = &self.slaves[slave];
            if slave.starts(tag) > 0 { Ok(()) } else { Err(slave.machine_log()) }
        })
        .await;
    }

    /// Waits until the machine was done with this tag.
    pub async fn machine_ended(&self, slave: usize, tag: &str) {
        eventually(&format!("the machine to end {tag}"), PATIENCE, async || {
            let log = self.slaves[slave].machine_log();
            let ended = log.iter().any(|(what, noted, _)| what != "start" && noted == tag);
            if ended { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// The whole output of a process job, as it is on the slave's disk.
    pub fn output(&self, slave: usize, job: &str) -> String {
        let runs = self.slaves[slave].state_dir().join("runs");
        let bare = job.trim_start_matches("job_");
        let dirs = std::fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap());
        let mut of_job = dirs.filter(|dir| dir.file_name().to_string_lossy().contains(bare));
        let dir = of_job.next().unwrap_or_else(|| panic!("no run of {job} in {}", runs.display()));
        assert!(of_job.next().is_none(), "{job} was begun once");
        std::fs::read_to_string(dir.path().join("output")).unwrap()
    }

    /// How often the simulated machine began this job, by its own memory.
    pub fn bakes(&self, slave: usize, job: &str) -> usize {
        self.slaves[slave].bakes(job).unwrap()
    }

    /// A job that ran, and of which nothing else was ever said until it succeeded.
    pub async fn ran_undisturbed(&self, job: &str) {
        let events = self.client.job_events(job).await.unwrap().expect(200);
        let states = events["data"].as_array().unwrap().iter().map(|event| &event["state"]);
        let states: Vec<_> = states.skip_while(|state| **state != "running").collect();
        assert_eq!(states, ["running", "succeeded"], "nothing else, not even for a moment");
    }

    /// The newest receipt of a slave's handshakes that has a line about this job: the line.
    pub async fn ruling(&self, slave: usize, job: &str) -> Value {
        let receipts = self.client.receipts(self.slaves[slave].name()).await.unwrap().expect(200);
        let mut receipts = receipts["data"].as_array().unwrap().clone();
        receipts.sort_by_key(|receipt| receipt["session"].as_u64());
        let mut lines = receipts.iter().rev().flat_map(|receipt| receipt["lines"].as_array().unwrap());
        lines.find(|line| line["job"] == job).cloned().unwrap_or_else(|| panic!("{receipts:#?}"))
    }
}

/// A slave's options, with short pauses and the printer.
pub fn options(name: &str, url: &str) -> SlaveOptions {
    let mut options = SlaveOptions::new(name, url);
    options.link.insert("backoff_max_ms", LONGEST_PAUSE_MS);
    options.tables = PRINTER.to_owned();
    options
}

/// A local command of `reloop-slave`: whether it was done, and its words.
pub async fn local(config: PathBuf, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(binary("reloop-slave"));
    command.args(words).arg("--config").arg(config).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// The only job of an order.
pub fn job_of(order: &Value) -> String {
    order["jobs"][0]["id"].as_str().unwrap_or_else(|| panic!("{order:#}")).to_owned()
}

/// What a slave's status says of one job.
pub fn held<'a>(status: &'a Value, job: &str) -> Option<&'a Value> {
    status["jobs"].as_array()?.iter().find(|held| held["id"] == job)
}

/// An order of `work` that takes `seconds`.
pub fn work(tag: &str, seconds: f64) -> Value {
    json!({"program": "work", "params": {"tag": tag, "seconds": seconds.to_string()}})
}

/// An order that runs until its gate is opened.
pub fn gated(tag: &str) -> Value {
    json!({"program": "gated", "params": {"tag": tag}})
}

/// An order that prints, waits for its gate, prints again and ends with a status.
pub fn printer(tag: &str, exit: u8) -> Value {
    json!({"program": "printer", "params": {"tag": tag, "exit": exit.to_string()}})
}

/// An order of the simulated machine.
pub fn bake(seconds: f64) -> Value {
    json!({"program": "bake", "params": {"seconds": seconds.to_string()}})
}

/// Everything that a printer prints.
pub fn printed() -> String {
    (0..1000).map(|line| format!("line {line}\n")).collect()
}

/// A value with more fields, one level deep.
pub fn with(mut order: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    order.as_object_mut().unwrap().extend(more);
    order
}

/// A moment from now, as an order says it.
pub fn in_ms(ms: i64) -> String {
    rfc3339(now_ms() + ms)
}

/// This box's clock.
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Milliseconds since the epoch as RFC 3339.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// A moment of an answer, comparable with [`now_ms`].
pub fn ms(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("a time, not {time}"));
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Whether a job carries this flag.
pub fn has_flag(job: &Value, flag: &str) -> bool {
    job["flags"].as_array().is_some_and(|flags| flags.iter().any(|set| set == flag))
}

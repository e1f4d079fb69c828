//! A factory for scenarios: a master and slaves `s0`, `s1`, …, each behind a network that fails on command; its orders;
//! and waiting for their results.
#![allow(clippy::unwrap_used, reason = "only tests use it: a panic is a failed test")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::client::{Client, Reply, Unanswered};
use crate::daemon::binary;
use crate::process::{Backup, Master, MasterOptions, Slave, SlaveOptions};
use crate::proxy::{Close, Proxy};
use crate::wait::{PATIENCE, eventually};

/// The longest pause of a slave before it dials again.
const LONGEST_PAUSE_MS: u64 = 200;
/// Factories of one test program that run at the same time: their processes all sync to the same disk.
const FACTORIES: usize = 4;

/// A program that can be held in the middle of its output. It notes its start in the machine log, prints 500 lines,
/// waits for the gate of its tag, prints 500 more, and exits with the status `exit`.
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

pub struct Factory {
    pub slaves: Vec<Slave>,
    /// The network of each slave, by the same index.
    pub nets: Vec<Proxy>,
    pub client: Client,
    pub master: Master,
    _turn: OwnedSemaphorePermit,
}

// ---- Setup ----

impl Factory {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    /// One slave with changed options, online.
    pub async fn with(change: impl Fn(&mut SlaveOptions)) -> Self {
        let mut factory = Self::empty(MasterOptions::default()).await;
        factory.add(change).await;
        factory
    }

    /// One slave, online at a master with these options.
    pub async fn at(options: MasterOptions) -> Self {
        let mut factory = Self::empty(options).await;
        factory.add(|_| {}).await;
        factory
    }

    pub async fn empty(options: MasterOptions) -> Self {
        static TURNS: OnceLock<Arc<Semaphore>> = OnceLock::new();
        let turns = Arc::clone(TURNS.get_or_init(|| Arc::new(Semaphore::new(FACTORIES))));
        let turn = turns.acquire_owned().await.unwrap();
        let master = Master::start(options).await;
        Self { client: master.client(), slaves: vec![], nets: vec![], master, _turn: turn }
    }

    /// Adds a slave and waits until it is online. Returns its index.
    pub async fn add(&mut self, change: impl Fn(&mut SlaveOptions)) -> usize {
        let slave = self.dial(change);
        self.online(slave).await;
        slave
    }

    /// Adds a slave that dials the master, which may refuse it. Returns its index.
    pub fn dial(&mut self, change: impl Fn(&mut SlaveOptions)) -> usize {
        let net = Proxy::start(self.master.addr());
        let url = net.url();
        self.dial_through(net, url, change)
    }

    /// The same through this network, with this address of the link.
    pub fn dial_through(&mut self, net: Proxy, url: String, change: impl Fn(&mut SlaveOptions)) -> usize {
        let mut options = SlaveOptions::new(&format!("s{}", self.slaves.len()), url);
        options.link.insert("backoff_max_ms", LONGEST_PAUSE_MS);
        options.tables = PRINTER.to_owned();
        change(&mut options);
        self.slaves.push(Slave::start(options));
        self.nets.push(net);
        self.slaves.len() - 1
    }

    /// Places an order of one job. Returns the job's id.
    pub async fn place(&self, order: Value) -> String {
        job_of(&self.client.place(&order, None).await.unwrap().expect(201))
    }

    /// Places an order and waits until its job runs.
    pub async fn running(&self, order: Value) -> String {
        let job = self.place(order).await;
        self.state(&job, "running").await;
        job
    }

    /// Places an order and waits until its job is on the slave's disk and waits for this: `turn`, `time`, `operator`, …
    pub async fn waiting(&self, order: Value, waiting_for: &str) -> String {
        let job = self.place(order).await;
        self.waits_for(&job, waiting_for).await;
        job
    }

    /// Places an order and waits until its job has succeeded. Returns the job.
    pub async fn done(&self, order: Value) -> Value {
        let job = self.place(order).await;
        self.state(&job, "succeeded").await
    }
}

// ---- Events ----

impl Factory {
    /// Cuts a slave's network, and waits until the master has noticed.
    pub async fn cut(&self, slave: usize) {
        self.nets[slave].cut(Close::Fin);
        self.offline(slave).await;
    }

    /// Drops a slave's link once, and waits for the slave's next session.
    pub async fn reconnect(&self, slave: usize) {
        let session = self.online(slave).await["session"].as_u64().unwrap();
        self.nets[slave].drop_existing(Close::Fin);
        self.session(slave, session + 1).await;
    }

    /// Restores the master's files, and starts it while no slave can reach it.
    pub async fn restore(&mut self, backup: &Backup) {
        self.master.put_back(backup);
        self.nets.iter().for_each(|net| net.cut(Close::Fin));
        self.master.restart().await;
        self.client = self.master.client();
    }

    /// Confirms the restore, whatever the slaves have seen.
    pub async fn confirm_restore(&self) -> Value {
        let body = json!({ "force": true });
        self.client.post("/v1/master/confirm-restore", &body).await.unwrap().expect(200)
    }

    /// A command for a job that the master has to accept. Returns the answer.
    pub async fn job_command(&self, job: &str, verb: &str, body: Value) -> Value {
        self.client.job_command(job, verb, &body).await.unwrap().expect(202)
    }

    /// A command for a job that the master has to refuse. Returns the error's code.
    pub async fn job_refusal(&self, job: &str, verb: &str) -> Value {
        self.client.job_command(job, verb, &json!({})).await.unwrap().expect(409)["code"].clone()
    }

    pub async fn resolve(&self, job: &str, outcome: &str) {
        self.job_command(job, "resolve", json!({ "outcome": outcome })).await;
    }

    /// A command for a slave that the master has to accept. Returns the answer.
    pub async fn slave_command(&self, slave: usize, verb: &str, body: Value) -> Value {
        self.client.slave_command(self.slaves[slave].name(), verb, &body).await.unwrap().expect(202)
    }

    /// A command for a slave that the master has to refuse. Returns the error's code.
    pub async fn slave_refusal(&self, slave: usize, verb: &str) -> Value {
        let reply = self.client.slave_command(self.slaves[slave].name(), verb, &json!({})).await;
        reply.unwrap().expect(409)["code"].clone()
    }

    /// Runs `reloop-slave` at the slave's box. Returns whether it succeeded, and its output.
    pub async fn local(&self, slave: usize, words: &[&str]) -> (bool, String) {
        local(self.slaves[slave].config_path(), words).await
    }

    /// The same, which has to succeed.
    pub async fn locally(&self, slave: usize, words: &[&str]) -> String {
        let (done, text) = self.local(slave, words).await;
        assert!(done, "{words:?}: {text}");
        text
    }

    /// Opens the gate of a job and waits until it has succeeded. Its tag must have been started once, over all slaves.
    pub async fn finish(&self, job: &str, tag: &str) -> Value {
        self.slaves.iter().for_each(|slave| slave.open_gate(tag));
        let seen = self.state(job, "succeeded").await;
        self.started_once(&[tag]);
        seen
    }
}

// ---- Checks at the master ----

impl Factory {
    /// Waits until `look` is true of a job. Returns the job.
    pub async fn until(&self, job: &str, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        seen(&format!("{job} to be {what}"), async || self.client.job(job).await, look).await
    }

    /// Waits until a job is in this state. Returns the job.
    pub async fn state(&self, job: &str, state: &str) -> Value {
        self.until(job, state, |job| job["state"] == state).await
    }

    /// Waits until a job is on its slave's disk and waits for this. Returns the job.
    pub async fn waits_for(&self, job: &str, waiting_for: &str) -> Value {
        let what = format!("waiting for {waiting_for}");
        self.until(job, &what, |job| job["waiting_for"] == waiting_for).await
    }

    pub async fn job(&self, job: &str) -> Value {
        self.client.job(job).await.unwrap().expect(200)
    }

    /// Waits until `look` is true of a slave as the master shows it. Returns the slave.
    pub async fn slave(&self, slave: usize, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        let name = self.slaves[slave].name();
        seen(&format!("slave {slave} to be {what}"), async || self.client.slave(name).await, look).await
    }

    pub async fn online(&self, slave: usize) -> Value {
        self.slave(slave, "online", |slave| slave["link"] == "online").await
    }

    pub async fn offline(&self, slave: usize) -> Value {
        self.slave(slave, "offline", |slave| slave["link"] == "offline").await
    }

    /// Waits until a slave is online in this session; sessions are counted from 1.
    pub async fn session(&self, slave: usize, session: u64) -> Value {
        let what = format!("in session {session}");
        self.slave(slave, &what, |slave| slave["link"] == "online" && slave["session"] == session).await
    }

    /// Waits until a slave is online and asks for a person for this reason.
    pub async fn attention(&self, slave: usize, code: &str) -> Value {
        let asks = |slave: &Value| slave["link"] == "online" && !slave["attention"].is_null();
        let seen = self.slave(slave, "asking for a person", asks).await;
        assert_eq!(seen["attention"]["code"], code, "{seen:#}");
        seen
    }

    /// Why no slave takes a job: the answers of `explain`, one per slave.
    pub async fn why_not(&self, job: &str) -> Vec<Value> {
        let why = self.client.explain(job).await.unwrap().expect(200);
        why["slaves"].as_array().unwrap().iter().map(|slave| slave["why_not"].clone()).collect()
    }

    /// The states of a job, from the first.
    pub async fn states(&self, job: &str) -> Vec<String> {
        let events = self.client.job_events(job).await.unwrap().expect(200);
        let states = events["data"].as_array().unwrap().iter();
        states.map(|event| event["state"].as_str().unwrap().to_owned()).collect()
    }

    /// Waits until a job has succeeded, and checks that it was `running` without a break until then.
    pub async fn ran_undisturbed(&self, job: &str) {
        let states = self.states(job).await;
        let since_running: Vec<_> = states.iter().skip_while(|state| *state != "running").collect();
        assert_eq!(since_running, ["running", "succeeded"], "{states:?}");
    }

    /// The verdict about this job in the newest receipt that mentions it.
    pub async fn verdict(&self, slave: &str, job: &str) -> Value {
        let receipts = self.client.receipts(slave).await.unwrap().expect(200);
        let mut receipts = receipts["data"].as_array().unwrap().clone();
        receipts.sort_by_key(|receipt| receipt["session"].as_u64());
        let mut lines = receipts.iter().rev().flat_map(|receipt| receipt["lines"].as_array().unwrap());
        lines.find(|line| line["job"] == job).unwrap_or_else(|| panic!("{receipts:#?}"))["verdict"].clone()
    }
}

// ---- Checks at the machine ----

impl Factory {
    /// Waits until `look` is true of the slave's own status. Returns the status.
    pub async fn at_machine(&self, slave: usize, what: &str, look: impl Fn(&Value) -> bool) -> Value {
        eventually(&format!("at the machine of slave {slave}: {what}"), PATIENCE, async || {
            let (done, text) = self.local(slave, &["status", "--json"]).await;
            let status: Value = serde_json::from_str(&text).map_err(|_| Value::from(text))?;
            if done && look(&status) { Ok(status) } else { Err(status) }
        })
        .await
    }

    /// Waits until the slave itself reports this state of the job.
    pub async fn held_as(&self, slave: usize, job: &str, state: &str) -> Value {
        let is_so = |status: &Value| held(status, job).is_some_and(|job| job["state"] == state);
        let status = self.at_machine(slave, &format!("{job} {state}"), is_so).await;
        held(&status, job).unwrap().clone()
    }

    /// Waits until the slave has no job: all its jobs are on the master's disk.
    pub async fn holds_nothing(&self, slave: usize) {
        self.at_machine(slave, "nothing held", |status| status["jobs"] == json!([])).await;
    }

    /// Waits until the machine was started with this tag.
    pub async fn machine_started(&self, slave: usize, tag: &str) {
        self.machine_did(slave, tag, |what| what == "start").await;
    }

    /// Waits until the machine has ended the work with this tag.
    pub async fn machine_ended(&self, slave: usize, tag: &str) {
        self.machine_did(slave, tag, |what| what != "start").await;
    }

    async fn machine_did(&self, slave: usize, tag: &str, did: impl Fn(&str) -> bool) {
        eventually(&format!("news of {tag} in the machine log"), PATIENCE, async || {
            let log = self.slaves[slave].machine_log();
            let is_there = log.iter().any(|(what, noted, _)| did(what) && noted == tag);
            if is_there { Ok(()) } else { Err(log) }
        })
        .await;
    }

    /// How often the machines were started with this tag, over all slaves.
    pub fn starts(&self, tag: &str) -> usize {
        self.slaves.iter().map(|slave| slave.starts(tag)).sum()
    }

    pub fn started_once(&self, tags: &[&str]) {
        self.started(1, tags);
    }

    pub fn never_started(&self, tags: &[&str]) {
        self.started(0, tags);
    }

    fn started(&self, times: usize, tags: &[&str]) {
        for tag in tags {
            assert_eq!(self.starts(tag), times, "starts of {tag}");
        }
    }

    /// How often a slave's simulated machine began this job, by the machine's own file.
    pub fn bakes(&self, slave: usize, job: &str) -> usize {
        self.slaves[slave].bakes(job).unwrap()
    }

    /// The whole output of a process job that began once, from the slave's disk.
    pub fn output(&self, slave: usize, job: &str) -> String {
        let runs = self.slaves[slave].state_dir().join("runs");
        let bare = job.trim_start_matches("job_");
        let dirs = fs::read_dir(&runs).unwrap().map(|entry| entry.unwrap());
        let of_job: Vec<_> = dirs.filter(|dir| dir.file_name().to_string_lossy().contains(bare)).collect();
        assert_eq!(of_job.len(), 1, "runs of {job} in {}", runs.display());
        fs::read_to_string(of_job[0].path().join("output")).unwrap()
    }
}

/// Polls until `look` is true of the answer.
async fn seen(
    what: &str,
    ask: impl AsyncFn() -> Result<Reply, Unanswered>,
    look: impl Fn(&Value) -> bool,
) -> Value {
    eventually(what, PATIENCE, async || {
        let seen = ask().await.map_err(|error| json!(error.to_string()))?;
        if seen.status == 200 && look(&seen.body) { Ok(seen.body) } else { Err(seen.body) }
    })
    .await
}

/// Runs `reloop-slave` with this config. Returns whether it succeeded, and its output.
async fn local(config: PathBuf, words: &[&str]) -> (bool, String) {
    let mut command = Command::new(binary("reloop-slave"));
    command.args(words).arg("--config").arg(config).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

// ---- Orders ----

/// An order of `work` that takes `seconds`.
pub fn work(tag: &str, seconds: f64) -> Value {
    json!({ "program": "work", "params": { "tag": tag, "seconds": seconds.to_string() } })
}

/// An order that runs until its gate is opened.
pub fn gated(tag: &str) -> Value {
    json!({ "program": "gated", "params": { "tag": tag } })
}

/// An order that prints, waits for its gate, prints again and exits with a status.
pub fn printer(tag: &str, exit: u8) -> Value {
    json!({ "program": "printer", "params": { "tag": tag, "exit": exit.to_string() } })
}

/// The whole output of a printer.
pub fn printed() -> String {
    (0..1000).map(|line| format!("line {line}\n")).collect()
}

/// An order of the simulated machine.
pub fn bake(seconds: f64) -> Value {
    json!({ "program": "bake", "params": { "seconds": seconds.to_string() } })
}

/// Adds fields to an order, one level deep.
pub fn with(mut order: Value, more: Value) -> Value {
    let more = more.as_object().unwrap().clone();
    order.as_object_mut().unwrap().extend(more);
    order
}

pub fn starting(order: Value, start: Value) -> Value {
    with(order, json!({ "start": start }))
}

/// An order that waits at its slave for a time after the end of every test.
pub fn much_later(order: Value) -> Value {
    starting(order, json!({ "not_before": "2099-01-01T00:00:00Z" }))
}

pub fn for_s0(order: Value) -> Value {
    with(order, json!({ "slave": "s0" }))
}

/// An order that no slave can take: it stays queued.
pub fn for_nobody() -> Value {
    with(bake(0.0), json!({ "requires": { "place": "nowhere" } }))
}

// ---- Parts of answers ----

/// The id of the first job of an order.
pub fn job_of(order: &Value) -> String {
    order["jobs"][0]["id"].as_str().unwrap_or_else(|| panic!("{order:#}")).to_owned()
}

/// A job in a slave's status.
pub fn held<'a>(status: &'a Value, job: &str) -> Option<&'a Value> {
    status["jobs"].as_array()?.iter().find(|held| held["id"] == job)
}

pub fn has_flag(job: &Value, flag: &str) -> bool {
    job["flags"].as_array().is_some_and(|flags| flags.iter().any(|set| set == flag))
}

// ---- Times ----

/// A time from now, as in an order.
pub fn in_ms(ms: i64) -> String {
    rfc3339(now_ms() + ms)
}

/// This box's clock, in milliseconds since the epoch.
pub fn now_ms() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

/// Milliseconds since the epoch as RFC 3339.
pub fn rfc3339(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).unwrap().to_string()
}

/// A time of an order or an answer, comparable with [`now_ms`].
pub fn ms(time: &Value) -> i64 {
    let text = time.as_str().unwrap_or_else(|| panic!("a time, not {time}"));
    text.parse::<jiff::Timestamp>().unwrap().as_millisecond()
}

/// Waits until this box's clock has passed a time.
pub async fn passed(moment: i64) {
    eventually("a moment to pass", PATIENCE, async || (now_ms() > moment).then_some(())).await;
}

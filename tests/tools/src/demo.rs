//! The demo: the main job of Reloop in front of one's eyes, with real processes and a network that fails on command.
//!
//! A master and three slaves are started, each slave behind a [`Proxy`] of its own. While all of them work, one loses its
//! cable and another its agent; the machines go on, and afterwards both sides settle what happened. What each machine
//! really does is read at its own box, never from the master, and stands beside what the master believes. How often a job
//! was started is read from the machine's own memory, which neither node writes: for the simulated ovens it is the file
//! that stands for the machine, for the mill it is what its program notes.

mod screen;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use self::screen::{Board, Machine, Row, Screen, Style, Voice};
use self::watch::{Eye, Job, Receipt, Status};
use reloop_rig::client::Client;
use reloop_rig::daemon::{Daemon, WorkDir, binary, build, write};
use reloop_rig::process::{Slave, SlaveOptions};
use reloop_rig::proxy::Proxy;

/// The port that people know from the documentation, and how many after it are tried.
const FIRST_PORT: u16 = 7400;
const PORTS: u16 = 50;
/// Longer than a master takes to open an empty store on a busy box.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Twice what any part of the story takes: what has not happened by then has gone wrong.
const PART_DEADLINE: Duration = Duration::from_secs(45);
/// Between two looks at everything, which is also between two frames.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// How long the mill has no agent: time enough to see that its program goes on.
const WITHOUT_AGENT: Duration = Duration::from_millis(3500);
/// From the order to the deferred start: some seconds after the first job of that oven is over.
const CAKE_IS_DUE_AFTER: SignedDuration = SignedDuration::from_secs(21);
/// A slave in the field waits up to a minute between two attempts; nobody wants to watch that.
const LONGEST_BACKOFF_MS: u64 = 1000;
/// What an attempt may take that fell into the cut cable, in seconds.
const HANDSHAKE_SECONDS: u64 = 2;
/// Of each log, when something went wrong.
const LOG_TAIL_LINES: usize = 15;

const INTERRUPTED: u8 = 130;

/// The program of the mill. It says how far it is, and notes where neither node can reach what it did.
const MILL: &str = r#"#!/bin/sh
part=$1 seconds=$2 notes=$(dirname "$0")/mill.notes
echo "start $part $$" >>"$notes"
steps=$((seconds * 2)) step=0
while [ "$step" -lt "$steps" ]; do
    sleep 0.5
    step=$((step + 1))
    echo "::reloop progress=$((step * 100 / steps))%"
    echo "at $part $((step * 100 / steps))" >>"$notes"
done
echo "end $part $$" >>"$notes"
"#;

/// Plays it. With `once` it ends by itself, and well only if everything came out right; otherwise the factory stays up at
/// the end until somebody stops it.
pub fn run(once: bool) -> ExitCode {
    match prepare().and_then(|runtime| runtime.block_on(perform(once))) {
        Ok(code) => code,
        Err(error) => {
            // There is nobody else to tell.
            let _ = writeln!(io::stderr(), "demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> anyhow::Result<tokio::runtime::Runtime> {
    build()?;
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

async fn perform(once: bool) -> anyhow::Result<ExitCode> {
    let mut stop = Stop::new()?;
    let play = async {
        let mut factory = Factory::open().await?;
        let played = factory.play().await;
        anyhow::Ok((factory, played))
    };
    let (mut factory, played) = tokio::select! {
        played = play => played?,
        () = stop.told() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let right = match played {
        Ok(()) => factory.sum_up(),
        Err(error) => {
            factory.screen.say(Voice::Bad, format!("{error:#}"));
            factory.screen.finish();
            false
        }
    };
    if !right {
        factory.show_logs();
        return Ok(ExitCode::FAILURE);
    }
    if !once {
        factory.invite();
        stop.told().await;
        factory.screen.print("\nStopping the master, the slaves and their jobs.\n");
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever wants the demo to end.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn told(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// The demo's master. It listens where the documentation says, which the tests' own masters never do.
struct Office {
    daemon: Daemon,
    addr: SocketAddr,
    dir: WorkDir,
}

impl Office {
    async fn open() -> anyhow::Result<Self> {
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(addr).is_err() {
                continue;
            }
            let dir = WorkDir::new("reloop-demo-");
            let daemon = Daemon::new("master", dir.path().join("master.log"));
            let mut office = Self { daemon, addr, dir };
            if office.start().await? {
                return Ok(office);
            }
        }
        bail!("no free port from {FIRST_PORT} to {}: end what listens there", FIRST_PORT + PORTS - 1)
    }

    /// False when somebody else took the port in this moment.
    async fn start(&mut self) -> anyhow::Result<bool> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let config = self.dir.path().join("master.toml");
        // Faster than in a factory, so that nobody has to wait a minute for a dead link to be noticed.
        write(&config, "enrollment = \"open\"\n[link]\nheartbeat_seconds = 1\ndead_after_seconds = 3\n");
        let args = ["serve".into(), "--listen".into(), self.addr.to_string()];
        let args = [&args[..], &["--data-dir".into(), path(&self.data_dir())]].concat();
        let args = [&args[..], &["--config".into(), path(&config)]].concat();
        self.daemon.spawn(&binary("reloop"), &args, &BTreeMap::new(), &[]);
        let end = Instant::now() + START_DEADLINE;
        loop {
            // With the token that only this master knows: on the same port another one may answer.
            if let Ok(client) = self.client()
                && client.slaves().await.is_ok_and(|reply| reply.status == 200)
            {
                return Ok(true);
            }
            if let Some(status) = self.daemon.ended() {
                ensure!(
                    self.daemon.log().contains("in use"),
                    "the master ended: {status}\n{}",
                    self.daemon.tail()
                );
                return Ok(false);
            }
            ensure!(Instant::now() < end, "the master does not answer:\n{}", self.daemon.tail());
            sleep(LOOK_INTERVAL).await;
        }
    }

    fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn token_file(&self) -> PathBuf {
        self.data_dir().join("admin.token")
    }

    fn client(&self) -> anyhow::Result<Client> {
        let token = fs::read_to_string(self.token_file()).context("the admin token of the first start")?;
        Ok(Client::new(self.addr, Some(token.trim().to_owned())))
    }
}

/// One slave with its network, and what is known of both.
struct Station {
    eye: Eye,
    slave: Slave,
    proxy: Proxy,
    trouble: Option<Trouble>,
    /// The machine's own word; nothing while there is no agent to ask.
    seen: Option<Status>,
    /// What the newest handshake after a break came to.
    receipt: Option<Receipt>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut,
    Killed,
}

/// What is compared at the end.
#[derive(Default)]
struct Facts {
    bread_at_cut: f64,
    bread_when_noticed: f64,
    belief_when_noticed: Option<Job>,
    bread_done_while_cut: bool,
    cake_started_while_cut: bool,
    cake_due: Option<Timestamp>,
    cut_at: Option<Instant>,
    cut_for: Duration,
    agent_gone_for: Duration,
    mill_before: Option<u32>,
    mill_after: Option<u32>,
    mill_at_kill: f64,
    mill_at_return: f64,
}

/// Everything that runs. Fields are dropped in this order: the master goes last.
struct Factory {
    screen: Screen,
    stations: BTreeMap<&'static str, Station>,
    tools: WorkDir,
    client: Client,
    office: Office,
    /// By id, as they were ordered.
    names: BTreeMap<String, String>,
    order: Vec<String>,
    /// By name, as the master has them.
    jobs: BTreeMap<String, Job>,
    slaves: BTreeMap<String, watch::Slave>,
    told: BTreeSet<String>,
    facts: Facts,
}

const OVEN: &str = "oven-1";
const OTHER_OVEN: &str = "oven-2";
const MILL_NAME: &str = "mill-3";
const SLAVES: [&str; 3] = [OVEN, OTHER_OVEN, MILL_NAME];

impl Factory {
    async fn open() -> anyhow::Result<Self> {
        let screen = Screen::new();
        let office = Office::open().await?;
        let tools = WorkDir::new("reloop-demo-tools-");
        write(&tools.path().join("mill.sh"), MILL);
        let mut stations = BTreeMap::new();
        for name in SLAVES {
            let proxy = Proxy::start(office.addr);
            let mut options = SlaveOptions::new(name, proxy.url());
            options.link.insert("backoff_max_ms", LONGEST_BACKOFF_MS);
            options.link.insert("handshake_seconds", HANDSHAKE_SECONDS);
            let kind = if name == MILL_NAME { "mill" } else { "oven" };
            options.labels.insert("machine".to_owned(), kind.to_owned());
            if name == MILL_NAME {
                options.tables = mill_table(&tools.path().join("mill.sh"));
            }
            let slave = Slave::start(options);
            let eye = Eye::on(&slave.config_path())?;
            let station = Station { eye, slave, proxy, trouble: None, seen: None, receipt: None };
            stations.insert(name, station);
        }
        Ok(Self {
            screen,
            stations,
            tools,
            client: office.client()?,
            office,
            names: BTreeMap::new(),
            order: Vec::new(),
            jobs: BTreeMap::new(),
            slaves: BTreeMap::new(),
            told: BTreeSet::new(),
            facts: Facts::default(),
        })
    }

    async fn play(&mut self) -> anyhow::Result<()> {
        self.begin().await?;
        self.cut_the_cable().await?;
        self.kill_the_agent().await?;
        self.wait_without_a_link().await?;
        self.plug_the_cable().await?;
        self.screen.caption("Nothing is broken any more: the last jobs run to their end.");
        self.until("every job to succeed", |factory| {
            let at_work = |station: &Station| station.seen.as_ref().is_none_or(|seen| !seen.jobs.is_empty());
            factory.jobs.values().all(Job::is_ended) && !factory.stations.values().any(at_work)
        })
        .await
    }

    async fn begin(&mut self) -> anyhow::Result<()> {
        self.screen
            .caption("A master and three slaves start, each slave behind a network that can be broken.");
        let text =
            format!("A master is up at http://{}, with its own disk and nothing else.", self.office.addr);
        self.screen.say(Voice::Does, text);
        self.until("three slaves to come online", |factory| {
            factory.slaves.len() == 3 && factory.slaves.values().all(|slave| slave.link == "online")
        })
        .await?;
        self.screen.say(
            Voice::Sees,
            "Three slaves dialled in: two simulated ovens and a mill that runs a real program, a shell script.",
        );
        self.screen.caption("Orders come in over REST; the master hands them out as jobs.");
        let due = Timestamp::now() + CAKE_IS_DUE_AFTER;
        self.facts.cake_due = Some(due);
        self.place(
            "bread",
            "16 s in oven-1",
            json!({"program": "bake", "slave": OVEN, "params": {"seconds": "16"}}),
        )
        .await?;
        let mugs = json!({"program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "15"}});
        self.place("mugs", "15 s, in any oven", mugs).await?;
        let bracket = json!({"program": "mill", "params": {"part": "bracket", "seconds": "30"}});
        self.place("bracket", "30 s, by the real program", bracket).await?;
        let cake = json!({
            "program": "bake", "slave": OVEN, "params": {"seconds": "10"}, "start": {"not_before": due.to_string()},
        });
        let text = format!("10 s in oven-1, deferred: not before {} s from now", CAKE_IS_DUE_AFTER.as_secs());
        self.place("cake", &text, cake).await?;
        self.until("all three machines to work", |factory| {
            ["bread", "mugs", "bracket"].iter().all(|job| factory.share(job).is_some_and(|share| share > 0.0))
                && factory.held("cake").is_some()
        })
        .await
    }

    async fn cut_the_cable(&mut self) -> anyhow::Result<()> {
        self.until("bread to be well under way", |factory| factory.share("bread") >= Some(0.3)).await?;
        let share = self.share("bread").context("bread is under way")?;
        self.facts.bread_at_cut = share;
        let station = self.station(OVEN);
        // Both sockets stay open and silent: what a pulled cable behind a reverse proxy looks like.
        station.proxy.half_open();
        station.trouble = Some(Trouble::Cut);
        self.facts.cut_at = Some(Instant::now());
        self.screen.caption("oven-1 has no cable: its bar moves on while the master's word gets older.");
        let text = format!(
            "CUT: the cable of oven-1 is pulled in mid-job, bread at {}. Nobody is told.",
            percent(share)
        );
        self.screen.say(Voice::Breaks, text);
        self.until("the master to notice", |factory| factory.link(OVEN) == "offline").await?;
        self.facts.bread_when_noticed = self.share("bread").unwrap_or_default();
        let belief = self.jobs.get("bread").cloned().context("bread is in the master's book")?;
        let text = format!(
            "At the machine: bread at {}. The master: {} at {}, {} s old, {}. It gives nothing up.",
            percent(self.facts.bread_when_noticed),
            belief.state,
            percent(belief.progress.unwrap_or_default()),
            age(belief.freshness.observed_at.as_deref()).map_or(0, |age| age.as_secs()),
            belief.flags.join(", "),
        );
        self.facts.belief_when_noticed = Some(belief);
        self.screen.say(Voice::Sees, text);
        self.screen
            .say(Voice::Does, "Orders are taken all the same: plates, then vase with a higher priority.");
        let plates = json!({"program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "10"}});
        self.place("plates", "10 s, in any oven", plates).await?;
        let vase = json!({
            "program": "bake", "requires": {"machine": "oven"}, "params": {"seconds": "7"}, "priority": 10,
        });
        self.place("vase", "7 s, in any oven, priority 10", vase).await
    }

    async fn kill_the_agent(&mut self) -> anyhow::Result<()> {
        self.until("the bracket to be well under way", |factory| factory.share("bracket") >= Some(0.4))
            .await?;
        self.facts.mill_before = self.mill_process()?;
        self.facts.mill_at_kill = self.milled()?;
        let at = percent(self.facts.mill_at_kill);
        let station = self.station(MILL_NAME);
        let agent = station.slave.pid().unwrap_or_default();
        station.slave.kill();
        station.trouble = Some(Trouble::Killed);
        station.seen = None;
        let killed = Instant::now();
        self.screen.caption("mill-3 has no agent: its program does not need one to go on.");
        let text =
            format!("KILL: kill -9 to the agent of mill-3 (process {agent}) in mid-job, bracket at {at}.");
        self.screen.say(Voice::Breaks, text);
        self.until("some seconds without an agent", |_| killed.elapsed() >= WITHOUT_AGENT).await?;
        let text = format!(
            "The program works on without it: process {}, bracket at {} by its own notes.",
            self.mill_process()?.unwrap_or_default(),
            percent(self.milled()?)
        );
        self.screen.say(Voice::Sees, text);
        self.screen.say(Voice::Does, "The agent of mill-3 is started again.");
        let station = self.station(MILL_NAME);
        station.slave.restart();
        station.trouble = None;
        self.until("the new agent to find its job", |factory| {
            factory.held("bracket").is_some_and(|(state, _)| state == "running")
                && factory.link(MILL_NAME) == "online"
        })
        .await?;
        self.facts.agent_gone_for = killed.elapsed();
        self.facts.mill_after = self.mill_process()?;
        self.facts.mill_at_return = self.milled()?;
        let text = format!(
            "The new agent found bracket again: same process {}, at {}. Nothing was started a second time.",
            self.facts.mill_after.unwrap_or_default(),
            percent(self.facts.mill_at_return)
        );
        self.screen.say(Voice::Good, text);
        Ok(())
    }

    async fn wait_without_a_link(&mut self) -> anyhow::Result<()> {
        self.screen.caption("oven-1 still has no cable: it ends bread, and begins cake when its time comes.");
        self.until("bread to be done at the machine", |factory| {
            factory.held("bread").is_some_and(|(state, _)| state == "succeeded")
        })
        .await?;
        self.facts.bread_done_while_cut = true;
        self.until("cake to be started by the machine", |factory| factory.share("cake").is_some()).await?;
        self.facts.cake_started_while_cut = self.link(OVEN) == "offline";
        self.until("cake to be on its way", |factory| factory.share("cake") >= Some(0.3)).await
    }

    async fn plug_the_cable(&mut self) -> anyhow::Result<()> {
        let belief = self
            .jobs
            .get("bread")
            .map_or(0, |job| age(job.freshness.observed_at.as_deref()).map_or(0, |age| age.as_secs()));
        self.facts.cut_for = self.facts.cut_at.map(|at| at.elapsed()).unwrap_or_default();
        self.screen.caption(
            "The cable is back: both sides compare what they know, and settle it in one round trip.",
        );
        let station = self.station(OVEN);
        station.proxy.pass();
        station.trouble = None;
        let text =
            format!("PLUG: the cable of oven-1 is back. The master's last word of it is {belief} s old.");
        self.screen.say(Voice::Does, text);
        self.until("oven-1 to be reconciled", |factory| factory.stations[OVEN].receipt.is_some()).await
    }

    async fn place(&mut self, name: &str, what: &str, mut order: Value) -> anyhow::Result<()> {
        order["name"] = name.into();
        let reply = self.client.place(&order, Some(name)).await.context("the master does not take orders")?;
        ensure!(reply.status == 201, "order {name}: the master answered {}: {:#}", reply.status, reply.body);
        let job = &reply.body["jobs"][0];
        let id = job.as_str().or_else(|| job["id"].as_str()).context("an order has a job")?;
        self.names.insert(id.to_owned(), name.to_owned());
        self.order.push(name.to_owned());
        self.screen.say(Voice::Does, format!("Order {name:<8} {what}."));
        Ok(())
    }

    /// Looks on until it is so.
    async fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> anyhow::Result<()> {
        let end = Instant::now() + PART_DEADLINE;
        loop {
            self.look().await?;
            if holds(self) {
                return Ok(());
            }
            let mut failed = self.jobs.values().filter(|job| job.is_ended() && job.state != "succeeded");
            if let Some(job) = failed.next() {
                bail!("{} ended as {}, while waiting for {what}", job.name(), job.state);
            }
            ensure!(Instant::now() < end, "waited {} s in vain for {what}", PART_DEADLINE.as_secs());
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// One look at both sides.
    async fn look(&mut self) -> anyhow::Result<()> {
        let jobs: Vec<Job> = watch::list(&self.client, "/v1/jobs?limit=100").await?;
        self.jobs = jobs
            .into_iter()
            .filter(|job| self.names.contains_key(&job.id))
            .map(|job| (job.name().to_owned(), job))
            .collect();
        let slaves: Vec<watch::Slave> = watch::list(&self.client, "/v1/slaves").await?;
        let before = std::mem::take(&mut self.slaves);
        self.slaves = slaves.into_iter().map(|slave| (slave.name.clone(), slave)).collect();
        for station in self.stations.values_mut().filter(|station| station.trouble != Some(Trouble::Killed)) {
            station.seen = station.eye.seen();
        }
        self.tell_of_machines();
        for (name, slave) in &before {
            match (slave.link.as_str(), self.link(name).to_owned().as_str()) {
                ("online", "offline") => {
                    let text = format!(
                        "The master hears nothing of {name} any more: offline. Its jobs stay as they are."
                    );
                    self.screen.say(Voice::Sees, text);
                }
                ("offline", "online") => self.tell_of_receipt(name).await?,
                _ => {}
            }
        }
        self.tell_of_outcomes();
        let board = self.board();
        self.screen.show(board);
        Ok(())
    }

    fn tell_of_machines(&mut self) {
        let mut news = Vec::new();
        for (slave, station) in &self.stations {
            let cut = station.trouble == Some(Trouble::Cut);
            for held in station.seen.iter().flat_map(|seen| &seen.jobs) {
                let Some(name) = self.names.get(&held.id) else { continue };
                let deferred = if held.not_before.is_some() { ", its time has come" } else { "" };
                let text = match (held.state.as_str(), cut) {
                    ("running", true) => {
                        format!("{slave} starts {name} by itself{deferred}; no link is needed.")
                    }
                    ("running", false) => format!("{slave} starts {name}{deferred}."),
                    ("succeeded", true) => {
                        format!("{slave} is done with {name}, and keeps the outcome until the master has it.")
                    }
                    _ => continue,
                };
                let voice = if cut { Voice::Good } else { Voice::Sees };
                news.push((
                    format!("{name} {} {cut}", held.state),
                    format!("{name} {}", held.state),
                    voice,
                    text,
                ));
            }
        }
        for (_, key, voice, text) in news {
            if self.told.insert(key) {
                self.screen.say(voice, text);
            }
        }
    }

    async fn tell_of_receipt(&mut self, slave: &str) -> anyhow::Result<()> {
        let path = format!("/v1/slaves/{slave}/receipts");
        let receipts: Vec<Receipt> = watch::list(&self.client, &path).await?;
        let newest = receipts.into_iter().max_by_key(|receipt| receipt.number);
        let receipt = newest.with_context(|| format!("no receipt of the handshake with {slave}"))?;
        let took = match receipt.took_ms {
            0 => "less than 1 ms".to_owned(),
            ms => format!("{ms} ms"),
        };
        let text = format!("{slave} is back. Both views were compared in one handshake, settled in {took}:");
        self.screen.say(Voice::Good, text);
        for line in &receipt.lines {
            let name = self.names.get(&line.job).unwrap_or(&line.job);
            let text = format!(
                "{name}: the master had {}, the machine says {} → {}: {}",
                line.master.as_deref().unwrap_or("nothing"),
                line.slave.as_deref().unwrap_or("nothing"),
                line.line,
                line.verdict
            );
            self.screen.say(Voice::Detail, text);
        }
        if let Some(station) = self.stations.get_mut(slave) {
            station.receipt = Some(receipt);
        }
        Ok(())
    }

    fn tell_of_outcomes(&mut self) {
        for job in self.jobs.values().filter(|job| job.is_ended()) {
            if self.told.insert(format!("{} at the master", job.name())) {
                let voice = if job.state == "succeeded" { Voice::Good } else { Voice::Bad };
                let text = format!("{} {}; the master has it on its disk.", job.name(), job.state);
                self.screen.say(voice, text);
            }
        }
    }

    fn board(&self) -> Board {
        let rows = SLAVES.iter().map(|name| self.row(name, &self.stations[name])).collect();
        let named = |wanted: &dyn Fn(&Job) -> bool| {
            let names = self.order.iter().filter(|name| self.jobs.get(*name).is_some_and(wanted));
            names.cloned().collect::<Vec<_>>()
        };
        Board {
            title: format!("Reloop · one master, three slaves, bad cables · http://{}", self.office.addr),
            rows,
            orders: vec![
                ("waiting", named(&|job| !job.is_ended() && !job.is_under_way())),
                ("running", named(&Job::is_under_way)),
                ("done", named(&Job::is_ended)),
            ],
        }
    }

    fn row(&self, name: &str, station: &Station) -> Row {
        let link = match (station.trouble, self.link(name)) {
            (Some(Trouble::Cut), _) => ("○ cable cut", Style::Yellow),
            (Some(Trouble::Killed), _) => ("✗ agent killed", Style::Red),
            (None, "online") => ("● online", Style::Green),
            (None, _) => ("○ connecting", Style::Dim),
        };
        let mine = |job: &&Job| job.slave.as_deref() == Some(name) && !job.is_ended();
        let under_way = self.jobs.values().filter(mine).find(|job| job.is_under_way());
        let master = match under_way.or_else(|| self.jobs.values().find(mine)) {
            Some(job) if job.state == "running" => {
                format!("{} {}", job.name(), percent(job.progress.unwrap_or_default()))
            }
            Some(job) if job.is_under_way() => {
                format!("{} {} {}", job.name(), job.state, percent(job.progress.unwrap_or_default()))
            }
            Some(job) => format!("{} waits", job.name()),
            None => "idle".to_owned(),
        };
        let contact = self.slaves.get(name).and_then(|slave| slave.last_contact_at.as_deref());
        Row {
            slave: name.to_owned(),
            link: (link.0.to_owned(), link.1),
            machine: self.machine(station),
            master,
            age: age(contact),
        }
    }

    fn machine(&self, station: &Station) -> Machine {
        if station.trouble == Some(Trouble::Killed) {
            let done = self.milled().unwrap_or_default();
            return Machine::Works("bracket".to_owned(), done);
        }
        let Some(seen) = &station.seen else { return Machine::Says("no agent answers yet".to_owned()) };
        let name = |id: &String| self.names.get(id).unwrap_or(id).clone();
        if let Some(job) = seen.jobs.iter().find(|job| watch::is_under_way(&job.state)) {
            return Machine::Works(name(&job.id), f64::from(job.progress.unwrap_or_default()) / 1000.0);
        }
        match seen.jobs.iter().find(|job| job.state == "accepted") {
            Some(job) => {
                Machine::Says(match job.not_before.as_deref().and_then(|at| at.parse::<Timestamp>().ok()) {
                    Some(at) => format!(
                        "{} starts in {} s",
                        name(&job.id),
                        at.duration_since(Timestamp::now()).as_secs().max(0)
                    ),
                    None => format!("{} is next", name(&job.id)),
                })
            }
            None => Machine::Says("idle".to_owned()),
        }
    }

    fn station(&mut self, name: &str) -> &mut Station {
        self.stations.get_mut(name).expect("all three are there from the beginning")
    }

    fn link(&self, slave: &str) -> &str {
        self.slaves.get(slave).map_or("never", |slave| &slave.link)
    }

    /// A job by the machine's own word: its state, and how far it is.
    fn held(&self, name: &str) -> Option<(&str, f64)> {
        let jobs =
            self.stations.values().filter_map(|station| station.seen.as_ref()).flat_map(|seen| &seen.jobs);
        let held =
            jobs.into_iter().find(|held| self.names.get(&held.id).is_some_and(|known| known == name))?;
        Some((held.state.as_str(), f64::from(held.progress.unwrap_or_default()) / 1000.0))
    }

    /// How far a job is by the machine's own word, once it is under way.
    fn share(&self, name: &str) -> Option<f64> {
        self.held(name).filter(|(state, _)| watch::is_under_way(state)).map(|(_, share)| share)
    }

    fn notes(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.tools.path().join("mill.notes")).context("the notes of the mill's program")
    }

    /// The process that mills the bracket, by its own notes.
    fn mill_process(&self) -> anyhow::Result<Option<u32>> {
        let notes = self.notes()?;
        Ok(notes.lines().rev().find_map(|line| line.strip_prefix("start bracket ")?.parse().ok()))
    }

    /// How far the bracket is, by the program's own notes.
    fn milled(&self) -> anyhow::Result<f64> {
        let notes = self.notes()?;
        let percent: Option<f64> =
            notes.lines().rev().find_map(|line| line.strip_prefix("at bracket ")?.parse().ok());
        Ok(percent.unwrap_or_default() / 100.0)
    }

    /// How often a machine has begun this job, by its own memory.
    fn starts(&self, job: &Job) -> anyhow::Result<usize> {
        let slave = job.slave.as_deref().with_context(|| format!("{} has no slave", job.name()))?;
        if slave == MILL_NAME {
            let start = format!("start {} ", job.name());
            return Ok(self.notes()?.lines().filter(|line| line.starts_with(&start)).count());
        }
        // Of all machines: a second start would be as bad on another one.
        let mut starts = 0;
        for station in self.stations.values() {
            starts += station.slave.bakes(&job.id)?;
        }
        Ok(starts)
    }

    /// The end of the story: what was done, what came of it, and whether that is right.
    fn sum_up(&mut self) -> bool {
        let total = self.screen.elapsed();
        self.screen.caption("The story is over.");
        let board = self.board();
        self.screen.show(board);
        self.screen.finish();
        let facts = &self.facts;
        let mut text = String::from("\n");
        let mut line = |line: String| {
            writeln!(text, "{}", format!("  {line}").trim_end()).expect("a string takes everything")
        };
        let bold = |text: &str| self.screen.paint(Style::Bold, text);
        let dim = |text: &str| self.screen.paint(Style::Dim, text);
        line(format!(
            "{}  the cable of oven-1, in mid-job, for {} s",
            bold("cut   "),
            facts.cut_for.as_secs()
        ));
        let gone = facts.agent_gone_for.as_secs_f64();
        line(format!(
            "{}  the agent of mill-3, in mid-job, with SIGKILL; away for {gone:.1} s",
            bold("killed")
        ));
        line(String::new());
        line(dim(&format!("{:<10}{:<10}{:<12}{:<9}{}", "JOB", "MACHINE", "OUTCOME", "STARTS", "TOOK")));
        for job in self.in_order() {
            let starts =
                self.starts(job).map_or_else(|error| format!("{error:#}"), |starts| starts.to_string());
            let took = match (instant(job.started_at.as_deref()), instant(job.ended_at.as_deref())) {
                (Some(from), Some(to)) => format!("{:.1} s", to.duration_since(from).as_secs_f64()),
                _ => "unknown".to_owned(),
            };
            let slave = job.slave.as_deref().unwrap_or("none");
            line(format!("{:<10}{slave:<10}{:<12}{starts:<9}{took}", job.name(), job.state));
        }
        line(String::new());
        let checks = self.checks();
        let mut right = true;
        for (what, trouble) in &checks {
            right &= trouble.is_none();
            line(match trouble {
                None => format!("{} {what}", self.screen.paint(Style::Green, "✓")),
                Some(trouble) => format!("{} {what}: NO, {trouble}", self.screen.paint(Style::Red, "✗")),
            });
        }
        line(String::new());
        let (orders, seconds) = (self.order.len(), total.as_secs_f64());
        line(match checks.iter().filter(|(_, trouble)| trouble.is_some()).count() {
            0 => bold(&format!(
                "Everything came out right: {orders} orders, {orders} jobs done, each once, in {seconds:.1} s."
            )),
            wrong => bold(&format!("{wrong} of {} checks did not come out right.", checks.len())),
        });
        self.screen.print(&text);
        right
    }

    fn in_order(&self) -> impl Iterator<Item = &Job> {
        self.order.iter().filter_map(|name| self.jobs.get(name))
    }

    /// What must be so, and what is so instead if it is not.
    fn checks(&self) -> Vec<(&'static str, Option<String>)> {
        let facts = &self.facts;
        let unless = |right: bool, trouble: &dyn Fn() -> String| if right { None } else { Some(trouble()) };
        let states: Vec<_> = self
            .in_order()
            .filter(|job| job.state != "succeeded")
            .map(|job| format!("{} is {}", job.name(), job.state))
            .collect();
        let counts: Vec<_> = self
            .in_order()
            .filter_map(|job| match self.starts(job) {
                Ok(1) if job.attempt == 1 => None,
                Ok(starts) => {
                    Some(format!("{} was started {starts} times in {} attempts", job.name(), job.attempt))
                }
                Err(error) => Some(format!("{error:#}")),
            })
            .collect();
        let belief = facts.belief_when_noticed.as_ref();
        let honest =
            belief.is_some_and(|job| job.state == "running" && job.flags.iter().any(|flag| flag == "stale"));
        let started = |name: &str| self.jobs.get(name).and_then(|job| instant(job.started_at.as_deref()));
        let on_time = facts.cake_due.zip(started("cake")).is_some_and(|(due, started)| started >= due);
        let verdict = |slave: &str, name: &str| {
            let receipt = self.stations.get(slave).and_then(|station| station.receipt.as_ref());
            let lines = receipt.into_iter().flat_map(|receipt| &receipt.lines);
            let line =
                lines.into_iter().find(|line| self.names.get(&line.job).is_some_and(|known| known == name));
            line.map_or_else(|| "none".to_owned(), |line| format!("{}: {}", line.line, line.verdict))
        };
        let judged = [verdict(OVEN, "bread"), verdict(OVEN, "cake"), verdict(MILL_NAME, "bracket")];
        vec![
            (
                "every order succeeded",
                unless(states.is_empty() && self.jobs.len() == self.order.len(), &|| states.join(", ")),
            ),
            (
                "every job was started exactly once, by its machine's own memory",
                unless(counts.is_empty(), &|| counts.join(", ")),
            ),
            (
                "the job went on when its cable was cut",
                unless(facts.bread_when_noticed > facts.bread_at_cut && facts.bread_done_while_cut, &|| {
                    format!(
                        "bread was at {} and then at {}",
                        percent(facts.bread_at_cut),
                        percent(facts.bread_when_noticed)
                    )
                }),
            ),
            (
                "the master said how old its word was, and gave nothing up",
                unless(honest, &|| {
                    format!(
                        "it said {:?} with the flags {:?}",
                        belief.map(|job| &job.state),
                        belief.map(|job| &job.flags)
                    )
                }),
            ),
            (
                "the deferred job started on time, without a link",
                unless(on_time && facts.cake_started_while_cut, &|| {
                    format!("due {:?}, started {:?}", facts.cake_due, started("cake"))
                }),
            ),
            (
                "the killed agent found its job again, the same process and further on",
                unless(
                    facts.mill_before.is_some()
                        && facts.mill_before == facts.mill_after
                        && facts.mill_at_return > facts.mill_at_kill,
                    &|| format!("process {:?} became {:?}", facts.mill_before, facts.mill_after),
                ),
            ),
            (
                "each reconnect settled what both sides knew",
                unless(judged == ["it_ended: forget", "it_runs: keep", "it_runs: keep"], &|| {
                    judged.join(", ")
                }),
            ),
            (
                "the urgent order went before the one placed earlier",
                unless(
                    started("vase").zip(started("plates")).is_some_and(|(vase, plates)| vase < plates),
                    &|| format!("vase started {:?}, plates {:?}", started("vase"), started("plates")),
                ),
            ),
        ]
    }

    fn show_logs(&self) {
        let logs = self.stations.values().map(|station| (station.slave.name(), station.slave.log()));
        for (name, log) in [("master", self.office.daemon.log())].into_iter().chain(logs) {
            let lines: Vec<&str> = log.lines().collect();
            let tail = lines[lines.len().saturating_sub(LOG_TAIL_LINES)..].join("\n");
            self.screen.print(&format!("\n---- the end of the log of {name} ----\n{tail}\n"));
        }
    }

    fn invite(&self) {
        let url = format!("http://{}", self.office.addr);
        let token = format!("-H \"Authorization: Bearer $(cat {})\"", self.office.token_file().display());
        let order = r#"{"name":"rolls","program":"bake","params":{"seconds":"20"}}"#;
        let bold = |text: &str| self.screen.paint(Style::Bold, text);
        let dim = |text: &str| self.screen.paint(Style::Dim, text);
        self.screen.print(&format!(
            "\n  The factory stays up. Look at it in a browser: {}\n  The page asks for the token in {}\n\n\
             {}\ncurl -s {token} {url}/v1/jobs\n\n\
             {}\ncurl -s {token} -H 'Content-Type: application/json' -d '{order}' {url}/v1/orders\n\n\
             {}\ncurl -s {token} {url}/v1/slaves/{OVEN}/receipts\n\n  Ctrl-C stops everything.\n",
            bold(&url),
            self.office.token_file().display(),
            dim("# all jobs, with how fresh each word is"),
            dim("# one more order"),
            dim("# why did it do that? what oven-1's handshakes came to"),
        ));
    }
}

fn mill_table(script: &Path) -> String {
    // A TOML string. JSON's escapes are a subset of TOML's.
    let script = Value::from(script.to_string_lossy());
    format!(
        r#"
[programs.mill]
driver = "process"
command = ["/bin/sh", {script}, "{{part}}", "{{seconds}}"]
[programs.mill.params]
part = {{ pattern = "[a-z]+" }}
seconds = {{ pattern = "[0-9]{{1,3}}" }}
"#
    )
}

fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

fn instant(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// How long ago that was. The nodes are on this box: there is one clock.
fn age(text: Option<&str>) -> Option<Duration> {
    Timestamp::now().duration_since(instant(text)?).try_into().ok()
}

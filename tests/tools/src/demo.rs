//! The demo: a master and three slaves as real processes, each slave behind a [`Proxy`] of its own, and a network
//! that fails on command.
//!
//! While all machines work, one slave loses its network and the agent of another is killed. The machines go on, and
//! afterwards both nodes reconcile. What each machine really does is read at its own box, never from the master, and is
//! shown beside what the master knows. How often a job was started is read from a file that neither node writes: the
//! state file of a simulated oven, the notes of the mill's program.

mod office;
mod screen;
mod story;
mod summary;
mod telling;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use jiff::Timestamp;
use reloop_rig::client::Client;
use reloop_rig::daemon::{WorkDir, build, write};
use reloop_rig::process::{Slave, SlaveOptions};
use reloop_rig::proxy::Proxy;
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::sleep;

use self::office::Office;
use self::screen::{Screen, Voice};
use self::watch::{Eye, Job, Receipt, Status};

/// Twice as long as any part of the story takes.
const PART_DEADLINE: Duration = Duration::from_secs(45);
/// Poll interval, and the interval between two frames.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);
/// The default is a minute, too long for a demo.
const LONGEST_BACKOFF_MS: u64 = 1000;
/// Until a handshake that was cut is given up.
const HANDSHAKE_SECONDS: u64 = 2;
const INTERRUPTED: u8 = 130;

/// The mill's program. It reports its progress, and notes what it did in a file that neither node writes.
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

/// The drills' program. It notes each start in a file that neither node writes, and fails while its bit is broken.
const DRILL: &str = r#"#!/bin/sh
place=$(dirname "$0") slave=$1 hole=$2
echo "drill $hole $slave" >>"$place/drill.notes"
sleep 0.3
if [ -e "$place/$slave.broken" ]; then
    echo "the bit is broken"
    exit 1
fi
"#;

/// Runs the demo. With `once` it ends by itself and succeeds only if everything came out right; otherwise the master
/// and the slaves run until the user stops them.
pub fn run(once: bool) -> ExitCode {
    match prepare().and_then(|runtime| runtime.block_on(perform(once))) {
        Ok(code) => code,
        Err(error) => {
            // The board has been removed by now, so this goes to stderr.
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

/// Whether the user has asked for the end: Ctrl-C or SIGTERM.
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

/// A slave, its network, and the latest observations of both.
struct Station {
    eye: Eye,
    slave: Slave,
    proxy: Proxy,
    trouble: Option<Trouble>,
    /// The slave's own status; `None` while its agent is down.
    seen: Option<Status>,
    /// The newest receipt of a handshake after a break.
    receipt: Option<Receipt>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Cut,
    Killed,
}

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
    failed_there: usize,
    barred: Option<String>,
    worked_again: bool,
}

/// Everything that runs. Fields are dropped in this order: the master last.
struct Factory {
    screen: Screen,
    stations: BTreeMap<&'static str, Station>,
    tools: WorkDir,
    client: Client,
    office: Office,
    /// Jobs by id, with the names under which they were ordered.
    names: BTreeMap<String, String>,
    order: Vec<String>,
    /// By name, as the master shows them.
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
        write(&tools.path().join("drill.sh"), DRILL);
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
            if name != OVEN {
                options.tables += &drill_table(&tools.path().join("drill.sh"), name);
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

    /// Polls both sides until `holds` is true.
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

    fn station(&mut self, name: &str) -> &mut Station {
        self.stations.get_mut(name).expect("all three are there from the beginning")
    }

    fn link(&self, slave: &str) -> &str {
        self.slaves.get(slave).map_or("never", |slave| &slave.link)
    }

    /// A job as its slave reports it: state and progress.
    fn held(&self, name: &str) -> Option<(&str, f64)> {
        let jobs =
            self.stations.values().filter_map(|station| station.seen.as_ref()).flat_map(|seen| &seen.jobs);
        let held =
            jobs.into_iter().find(|held| self.names.get(&held.id).is_some_and(|known| known == name))?;
        Some((held.state.as_str(), f64::from(held.progress.unwrap_or_default()) / 1000.0))
    }

    /// The progress of a job as its slave reports it, once it is under way.
    fn share(&self, name: &str) -> Option<f64> {
        self.held(name).filter(|(state, _)| watch::is_under_way(state)).map(|(_, share)| share)
    }

    fn notes(&self) -> anyhow::Result<String> {
        fs::read_to_string(self.tools.path().join("mill.notes")).context("the notes of the mill's program")
    }

    /// The process that mills the bracket, from the program's notes.
    fn mill_process(&self) -> anyhow::Result<Option<u32>> {
        let notes = self.notes()?;
        Ok(notes.lines().rev().find_map(|line| line.strip_prefix("start bracket ")?.parse().ok()))
    }

    /// The progress of the bracket, from the program's notes.
    fn milled(&self) -> anyhow::Result<f64> {
        let notes = self.notes()?;
        let percent: Option<f64> =
            notes.lines().rev().find_map(|line| line.strip_prefix("at bracket ")?.parse().ok());
        Ok(percent.unwrap_or_default() / 100.0)
    }

    /// How often a machine's drill was started, from the program's notes.
    fn drilled_at(&self, slave: &str) -> usize {
        let notes = fs::read_to_string(self.tools.path().join("drill.notes")).unwrap_or_default();
        notes.lines().filter(|line| line.ends_with(&format!(" {slave}"))).count()
    }

    fn is_hole(&self, job: &Job) -> bool {
        job.name().starts_with("hole-")
    }

    /// How often the machines have begun this job, from their own files.
    fn starts(&self, job: &Job) -> anyhow::Result<usize> {
        let slave = job.slave.as_deref().with_context(|| format!("{} has no slave", job.name()))?;
        if self.is_hole(job) {
            let notes = fs::read_to_string(self.tools.path().join("drill.notes"))?;
            return Ok(notes.lines().filter(|line| line.contains(&format!(" {} ", job.name()))).count());
        }
        if slave == MILL_NAME {
            let start = format!("start {} ", job.name());
            return Ok(self.notes()?.lines().filter(|line| line.starts_with(&start)).count());
        }
        // On all machines: a second start may be on another one.
        let mut starts = 0;
        for station in self.stations.values() {
            starts += station.slave.bakes(&job.id)?;
        }
        Ok(starts)
    }
}

fn mill_table(script: &Path) -> String {
    // As a TOML string: JSON's escapes are a subset of TOML's.
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

fn drill_table(script: &Path, slave: &str) -> String {
    let script = Value::from(script.to_string_lossy());
    format!(
        r#"
[programs.drill]
driver = "process"
command = ["/bin/sh", {script}, "{slave}", "{{hole}}"]
[programs.drill.params]
hole = {{ pattern = "hole-[a-z]" }}
"#
    )
}

fn percent(share: f64) -> String {
    format!("{:.0} %", (share * 100.0).floor())
}

fn instant(text: Option<&str>) -> Option<Timestamp> {
    text?.parse().ok()
}

/// How long ago a time was. All nodes run on this box, so there is one clock.
fn age(text: Option<&str>) -> Option<Duration> {
    Timestamp::now().duration_since(instant(text)?).try_into().ok()
}

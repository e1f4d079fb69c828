//! The machines of this slave, behind one seam: commands go in, facts come out.
//!
//! Everything turns on the [`RunKey`]: one job, one attempt, one run. A key is started at most once, ever; a start of a
//! key that a machine has seen is refused, whatever became of it. After a crash the agent does not guess but
//! [probes](Command::Probe), and the answer is a proof or says that it is none:
//!
//! * *never started*: and from that answer on it can't start any more under this key, not even through a start that
//!   an agent which is now dead had set going;
//! * *running*: and it is watched again from here, as if this agent had started it;
//! * *ended*: with its outcome and when;
//! * *gone*: it began and surely runs no more, and what it came to nobody can know, or it was cut short by a shutdown;
//! * *unknown*: the machine can't say. A person has to;
//! * *not begun*: it was to begin and could not, for a cause at the machine. Nothing began, and nothing will under this key.
//!
//! The work never depends on the agent: dropping [`Machines`] or killing the agent leaves every machine as it is.
//!
//! A [`Machine`] is a driver with blocking calls. Its commands are done one by one, in a plain thread that is there
//! while there are some, so a machine that is slow to answer holds up neither the agent nor another machine. Facts leave
//! through one bounded channel, as pairs of key and [`Fact`]; those about one run leave in the order in which they came to
//! be. They may come twice (a run that ended is probed, or asked to stop), never in part.

pub mod process;
pub mod runner;
pub mod simulated;
mod tree;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use reloop_node::clock::wall_ms;
use reloop_protocol::id::{Attempt, JobId, Run};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::config::{Config, Program};
use process::ProcessMachine;
use simulated::SimulatedMachine;

/// Commands that wait for one machine. The agent has a handful of jobs and a handful of commands for each; more than this
/// wait only if the machine hangs, and then a refusal is the better answer.
const QUEUE_LIMIT: usize = 256;
/// The longest text of an ending, in bytes: it travels in reports and is kept for every job.
pub const TEXT_LIMIT: usize = 512;
/// How much of a value that is refused is shown.
const SHOWN_VALUE: usize = 64;

/// One start of the machine, ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Which job.
    pub job: JobId,
    /// Which attempt of it.
    pub attempt: Attempt,
    /// Which beginning of that.
    pub run: Run,
}

impl fmt::Display for RunKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.job, self.attempt, self.run)
    }
}

/// What a machine is to do under a key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Work {
    /// Under which key.
    pub key: RunKey,
    /// Which of the configured programs.
    pub program: String,
    /// Its parameters, as the order gave them.
    pub params: BTreeMap<String, String>,
}

/// How soon a stop must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grade {
    /// Where the work can be left without harm.
    SafePoint,
    /// At once. It is no emergency stop.
    Now,
}

impl fmt::Display for Grade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SafePoint => "safe_point",
            Self::Now => "now",
        })
    }
}

/// What the agent wants of a machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Answered by [`Fact::Started`], or by [`Fact::Rejected`], [`Fact::Refused`] or [`Probe::NotBegun`] if it did not begin.
    Start(Work),
    /// Answered by [`Fact::Stopping`] and in the end [`Fact::Ended`], or [`Fact::Refused`]; by [`Fact::Probed`] if there is
    /// nothing to stop.
    Stop {
        /// Which run.
        key: RunKey,
        /// How soon.
        grade: Grade,
    },
    /// Answered by [`Fact::Paused`] or [`Fact::Refused`].
    Pause(RunKey),
    /// Answered by [`Fact::Resumed`] or [`Fact::Refused`].
    Resume(RunKey),
    /// Answered by [`Fact::Probed`].
    Probe(Work),
    /// Its outcome is durable elsewhere: its files may go when there is need. Not answered.
    Dismiss(RunKey),
}

impl Command {
    /// Which run it is about.
    pub fn key(&self) -> RunKey {
        match self {
            Self::Start(work) | Self::Probe(work) => work.key,
            Self::Stop { key, .. } | Self::Pause(key) | Self::Resume(key) | Self::Dismiss(key) => *key,
        }
    }
}

/// What a machine did or said.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The work began.
    Started,
    /// How far it is; only what is new is there.
    Progress {
        /// Thousandths of the way.
        permille: Option<u16>,
        /// What it does now.
        phase: Option<String>,
        /// What it has to say.
        note: Option<String>,
    },
    /// It stands still, and can go on.
    Paused,
    /// It goes on.
    Resumed,
    /// It was told to stop and is about to.
    Stopping,
    /// It is over.
    Ended(Ended),
    /// It was to begin what can't or may not be done here: no machine was told of it, and nothing began.
    Rejected(Rejection),
    /// A command was not followed; the work is as it was before.
    Refused {
        /// Which command.
        what: Verb,
        /// Why, and what would help.
        why: String,
    },
    /// The answer to a probe. [`Probe::Gone`] also comes unasked, when a run that was watched turns out to have vanished.
    Probed(Probe),
}

/// Commands that can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// [`Command::Start`]. The refusal is no proof that the key never started: it may be refused because it did.
    Start,
    /// [`Command::Stop`].
    Stop,
    /// [`Command::Pause`].
    Pause,
    /// [`Command::Resume`].
    Resume,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ended {
    /// In one word.
    pub result: EndResult,
    /// What the program returned.
    pub exit_code: Option<i32>,
    /// Which signal ended it.
    pub signal: Option<i32>,
    /// For people; at most [`TEXT_LIMIT`] bytes.
    pub text: String,
    /// When, in milliseconds since the Unix epoch by this box's wall clock, if known.
    pub at_ms: Option<i64>,
}

/// How a run ended, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndResult {
    /// It did what it should.
    Succeeded,
    /// It did not.
    Failed,
    /// It was told to stop, and ended after that.
    Stopped,
}

/// What a machine knows about a run; see the module's words.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Proof that it never began, and from now on can't.
    NeverStarted,
    /// It runs, and is watched from here.
    Running {
        /// It stands still.
        paused: bool,
        /// Thousandths of the way, if it says.
        permille: Option<u16>,
        /// When it began, in milliseconds since the Unix epoch by this box's wall clock.
        started_at_ms: Option<i64>,
    },
    /// It ended.
    Ended(Ended),
    /// It began and surely runs no more, and its outcome is unknowable, or no outcome of its own because a shutdown cut it
    /// short.
    Gone,
    /// The machine can't say.
    Unknown {
        /// Why not.
        why: String,
    },
    /// Proof that it could not begin, and from now on can't. Also comes unasked, as the answer to a start.
    NotBegun {
        /// What kept it from beginning: the disk, the rights, the program's file.
        why: String,
    },
}

/// Work that this slave can't or may not do, whoever asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejection {
    /// No such program here.
    #[error("this slave has no program {program:?}; it has {known}")]
    UnknownProgram {
        /// What was asked for.
        program: String,
        /// What there is.
        known: String,
    },
    /// A parameter that the program does not have.
    #[error("the program has no parameter {param:?}; it has {known}")]
    UnknownParam {
        /// What was given.
        param: String,
        /// What there is.
        known: String,
    },
    /// A parameter that must be given.
    #[error("parameter {param:?} is missing; expected {expected}")]
    MissingParam {
        /// Which.
        param: String,
        /// What it should look like.
        expected: String,
    },
    /// A value that is not allowed.
    #[error("parameter {param:?} can't be {value:?}; expected {expected}")]
    BadValue {
        /// Which parameter.
        param: String,
        /// The value, or its beginning.
        value: String,
        /// What it should look like.
        expected: String,
    },
}

impl Rejection {
    /// A stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnknownProgram { .. } => "program_unknown",
            Self::UnknownParam { .. } => "param_unknown",
            Self::MissingParam { .. } => "param_missing",
            Self::BadValue { .. } => "param_invalid",
        }
    }

    pub(crate) fn unknown_param(param: &str, known: impl IntoIterator<Item = String>) -> Self {
        Self::UnknownParam { param: clip(param, SHOWN_VALUE), known: list(known) }
    }

    pub(crate) fn missing_param(param: &str, pattern: &str) -> Self {
        Self::MissingParam { param: param.to_owned(), expected: format!("a match of {pattern}") }
    }

    pub(crate) fn bad_value(param: &str, value: &str, expected: String) -> Self {
        Self::BadValue { param: param.to_owned(), value: clip(value, SHOWN_VALUE), expected }
    }
}

fn list(words: impl IntoIterator<Item = String>) -> String {
    let words: Vec<String> = words.into_iter().collect();
    if words.is_empty() { "none".into() } else { words.join(", ") }
}

/// A driver. Its calls may block, and are made one at a time from one thread; what it does besides (watching, ticking)
/// it does on threads of its own, which end soon after it is dropped or when nobody takes the facts any more.
///
/// `Err` is why a command is refused, and a panic is a refusal too. Facts go out through the [`Reporter`] that the driver
/// was built with, except for the answer of [`probe`](Machine::probe), which is returned.
pub trait Machine: Send + Sync {
    /// Whether it has a trace of a start under this key. Quick, and without touching a controller: it is asked to find
    /// out whom a command without a program is for.
    fn knows(&self, key: RunKey) -> bool;
    /// Whether it could do this work, by its settings alone. The program is one of its own.
    fn check(&self, work: &Work) -> Result<(), Rejection>;
    /// Begins, if the key was never seen before, and watches from then on.
    fn start(&self, work: &Work) -> Result<(), String>;
    /// Stops, if it runs; else tells how it ended.
    fn stop(&self, key: RunKey, grade: Grade) -> Result<(), String>;
    /// Makes it stand still.
    fn pause(&self, key: RunKey) -> Result<(), String>;
    /// Lets it go on.
    fn resume(&self, key: RunKey) -> Result<(), String>;
    /// Asks the machine. The program may be one that is no longer configured.
    fn probe(&self, work: &Work) -> Probe;
    /// Watches a run that a probe found running, unless it does already; called after the answer went out.
    fn watch(&self, key: RunKey);
    /// Its files may go when there is need.
    fn dismiss(&self, key: RunKey);
    /// What the run printed from this offset on, at most `max` bytes, and how much there is in all; nothing if the
    /// machine keeps no output of it.
    fn output(&self, key: RunKey, offset: u64, max: usize) -> io::Result<Option<(Vec<u8>, u64)>>;
}

/// Where facts go. For plain threads only: it blocks while the channel is full.
#[derive(Debug, Clone)]
pub struct Reporter(mpsc::Sender<(RunKey, Fact)>);

impl Reporter {
    /// Into this channel.
    pub fn new(facts: mpsc::Sender<(RunKey, Fact)>) -> Self {
        Self(facts)
    }

    /// Passes a fact on. False if nobody takes facts any more: the agent is going down, and a later one will probe.
    pub fn tell(&self, key: RunKey, fact: Fact) -> bool {
        self.0.blocking_send((key, fact)).is_ok()
    }
}

/// All machines of this slave: one driver for all programs of the box, one for each simulated machine.
pub struct Machines {
    units: Vec<Unit>,
    programs: BTreeMap<String, usize>,
    /// Who has a run of this agent's time, so that a stop right after a start finds it.
    routes: BTreeMap<RunKey, usize>,
    reporter: Reporter,
}

#[derive(Clone)]
struct Unit {
    name: String,
    index: usize,
    machine: Arc<dyn Machine>,
    line: Arc<Mutex<Queue>>,
    reporter: Reporter,
}

/// What waits for one machine. A thread takes it one by one while there is something, and no thread waits for more: a slave on a
/// small board has nothing to do for hours.
#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// A thread is at it.
    attended: bool,
}

impl Unit {
    /// Sets a task going, or gives back why not.
    fn send(&self, task: Task) -> Result<(), (Task, String)> {
        let mut line = lock(&self.line);
        if line.tasks.len() >= QUEUE_LIMIT {
            return Err((task, format!("the machine has {QUEUE_LIMIT} commands to do first")));
        }
        line.tasks.push_back(task);
        if line.attended {
            return Ok(());
        }
        let unit = self.clone();
        let begun =
            thread::Builder::new().name(format!("machine {}", self.name)).spawn(move || unit.attend());
        match begun {
            Ok(_) => line.attended = true,
            Err(error) => {
                let why = format!("the system gives no thread for the machine ({error}); try again");
                // The one that was put there just now.
                return line.tasks.pop_back().map_or(Ok(()), |task| Err((task, why)));
            }
        }
        Ok(())
    }

    /// Does everything that waits.
    fn attend(&self) {
        while let Some(task) = next_task(&self.line) {
            serve(self.index, &*self.machine, task, &self.reporter);
        }
    }
}

/// The next one, unless nothing is left: then whoever comes after that finds nobody at it.
fn next_task(line: &Mutex<Queue>) -> Option<Task> {
    let mut line = lock(line);
    let task = line.tasks.pop_front();
    line.attended = task.is_some();
    task
}

fn lock(line: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // A list of tasks is whole at any moment.
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Task {
    Command(Command),
    /// A probe of many machines for one answer.
    Ask(Work, Sender<(usize, Probe)>),
    Watch(RunKey),
}

impl Machines {
    /// As configured, with this program itself as the runner of processes.
    ///
    /// # Errors
    /// The boot id can't be read, or the system gives no thread.
    pub fn new(config: &Config, facts: mpsc::Sender<(RunKey, Fact)>) -> io::Result<Self> {
        // Not its path: an upgrade puts another file there, while this names the very program that runs.
        Self::with_runner(config, Path::new("/proc/self/exe"), facts)
    }

    /// As configured, with another program as the runner of processes: it is called with `runner <run_dir>`.
    ///
    /// # Errors
    /// As for [`Machines::new`].
    pub fn with_runner(
        config: &Config,
        runner: &Path,
        facts: mpsc::Sender<(RunKey, Fact)>,
    ) -> io::Result<Self> {
        let boot = config.boot_id()?;
        let reporter = Reporter::new(facts);
        let mut machines =
            Self { units: Vec::new(), programs: BTreeMap::new(), routes: BTreeMap::new(), reporter };
        let memories = config.state_dir.join("machines");
        let mut processes = BTreeMap::new();
        for (name, program) in &config.programs {
            match program {
                Program::Process(program) => {
                    processes.insert(name.clone(), program.clone());
                }
                Program::Simulated(settings) => {
                    let machine =
                        SimulatedMachine::new(name, settings, &memories, boot, machines.reporter.clone());
                    let unit = machines.add(name, Arc::new(machine));
                    machines.programs.insert(name.clone(), unit);
                }
            }
        }
        // A program that was taken out of the settings may have left a run that somebody will ask about.
        for name in simulated::remembered(&memories)? {
            if !machines.programs.contains_key(&name) {
                let machine = SimulatedMachine::retired(&name, &memories, boot, machines.reporter.clone());
                machines.add(&name, Arc::new(machine));
            }
        }
        let names: Vec<String> = processes.keys().cloned().collect();
        let machine =
            ProcessMachine::new(processes, &config.state_dir, runner, boot, machines.reporter.clone());
        let unit = machines.add("processes", Arc::new(machine));
        machines.programs.extend(names.into_iter().map(|name| (name, unit)));
        Ok(machines)
    }

    /// What this slave can run, in order.
    pub fn programs(&self) -> impl Iterator<Item = &str> {
        self.programs.keys().map(String::as_str)
    }

    /// Whether this work can be done here: the program exists, every parameter is known and its value allowed, and none
    /// is missing that has no default.
    pub fn check(&self, work: &Work) -> Result<(), Rejection> {
        let unit = self.programs.get(&work.program).ok_or_else(|| Rejection::UnknownProgram {
            program: clip(&work.program, SHOWN_VALUE),
            known: list(self.programs.keys().cloned()),
        })?;
        self.units[*unit].machine.check(work)
    }

    /// Sets a command going, and returns at once.
    pub fn command(&mut self, command: Command) {
        let key = command.key();
        let route = self.route(key);
        match command {
            Command::Start(work) => match self.place(&work, route) {
                Ok(unit) => {
                    self.routes.insert(key, unit);
                    self.send(unit, Command::Start(work));
                }
                Err(fact) => self.answer(key, fact),
            },
            Command::Probe(work) => match route.or_else(|| self.programs.get(&work.program).copied()) {
                Some(unit) => {
                    self.routes.insert(key, unit);
                    self.send(unit, Command::Probe(work));
                }
                None => self.ask_all(work),
            },
            Command::Stop { .. } | Command::Pause(_) | Command::Resume(_) => match route {
                Some(unit) => self.send(unit, command),
                None => {
                    let why = "no machine here knows this run; probe it first".to_owned();
                    if let Some(fact) = refusal(&command, why) {
                        self.answer(key, fact);
                    }
                }
            },
            Command::Dismiss(_) => {
                self.routes.remove(&key);
                if let Some(unit) = route {
                    self.send(unit, command);
                }
            }
        }
    }

    /// What a run printed from this offset on, at most `max` bytes, and how much there is in all. Blocks on the disk.
    pub fn output(&self, key: RunKey, offset: u64, max: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        match self.route(key) {
            Some(unit) => self.units[unit].machine.output(key, offset, max),
            None => Ok(None),
        }
    }

    fn add(&mut self, name: &str, machine: Arc<dyn Machine>) -> usize {
        let index = self.units.len();
        let (line, reporter) = (Arc::default(), self.reporter.clone());
        self.units.push(Unit { name: name.to_owned(), index, machine, line, reporter });
        index
    }

    fn route(&self, key: RunKey) -> Option<usize> {
        let known = self.routes.get(&key).copied();
        known.or_else(|| self.units.iter().position(|unit| unit.machine.knows(key)))
    }

    fn place(&self, work: &Work, route: Option<usize>) -> Result<usize, Fact> {
        self.check(work).map_err(Fact::Rejected)?;
        let unit = self.programs[&work.program];
        if route.is_some_and(|route| route != unit) {
            let why = "this run was begun on another machine; probe it".into();
            return Err(Fact::Refused { what: Verb::Start, why });
        }
        Ok(unit)
    }

    fn send(&self, unit: usize, command: Command) {
        let Err((Task::Command(command), why)) = self.units[unit].send(Task::Command(command)) else {
            return;
        };
        let fact = match command {
            // The machine was not told of it.
            Command::Start(_) => Some(Fact::Probed(Probe::NotBegun { why })),
            Command::Stop { .. }
            | Command::Pause(_)
            | Command::Resume(_)
            | Command::Probe(_)
            | Command::Dismiss(_) => refusal(&command, why),
        };
        if let Some(fact) = fact {
            self.answer(command.key(), fact);
        }
    }

    /// Nobody is known to have it: only if all prove that they never had it, it never was.
    fn ask_all(&self, work: Work) {
        let units = self.units.clone();
        let reporter = self.reporter.clone();
        self.aside(work.key, move || {
            let key = work.key;
            let (answer, answers) = channel();
            let asked = units.len();
            for unit in &units {
                // Who has no room gives no answer, and is missed in the count below.
                drop(unit.send(Task::Ask(work.clone(), answer.clone())));
            }
            drop(answer);
            let (unit, probe) = settle(answers, asked);
            let running = matches!(probe, Probe::Running { .. });
            if reporter.tell(key, Fact::Probed(probe))
                && running
                && let Some(unit) = unit
            {
                // Without room for it the run is watched from the next probe on.
                if let Err((_, why)) = units[unit].send(Task::Watch(key)) {
                    tracing::error!(%key, %why, "the run is not watched; probe it again");
                }
            }
        });
    }

    /// The channel may be full and the caller must not wait.
    fn answer(&self, key: RunKey, fact: Fact) {
        let reporter = self.reporter.clone();
        self.aside(key, move || {
            reporter.tell(key, fact);
        });
    }

    fn aside(&self, key: RunKey, work: impl FnOnce() + Send + 'static) {
        if let Err(error) = thread::Builder::new().name("machine answer".into()).spawn(work) {
            tracing::error!(%key, %error, "no thread to answer a command for the machine; probe the run again");
        }
    }
}

fn refusal(command: &Command, why: String) -> Option<Fact> {
    let what = match command {
        Command::Start(_) => Verb::Start,
        Command::Stop { .. } => Verb::Stop,
        Command::Pause(_) => Verb::Pause,
        Command::Resume(_) => Verb::Resume,
        Command::Probe(_) => return Some(Fact::Probed(Probe::Unknown { why })),
        Command::Dismiss(_) => return None,
    };
    Some(Fact::Refused { what, why })
}

fn serve(index: usize, machine: &dyn Machine, task: Task, reporter: &Reporter) {
    match task {
        Task::Command(Command::Probe(work)) => {
            let probe = probe(machine, &work);
            let running = matches!(probe, Probe::Running { .. });
            if reporter.tell(work.key, Fact::Probed(probe)) && running {
                watch(machine, work.key);
            }
        }
        Task::Command(command) => {
            let done = survived(|| match &command {
                Command::Start(work) => machine.start(work),
                Command::Stop { key, grade } => machine.stop(*key, *grade),
                Command::Pause(key) => machine.pause(*key),
                Command::Resume(key) => machine.resume(*key),
                Command::Dismiss(key) => {
                    machine.dismiss(*key);
                    Ok(())
                }
                Command::Probe(_) => Ok(()),
            });
            if let Err(why) = done.flatten()
                && let Some(fact) = refusal(&command, why)
            {
                reporter.tell(command.key(), fact);
            }
        }
        Task::Ask(work, answer) => {
            // Whoever asked has its answer already if it no longer listens.
            let _ = answer.send((index, probe(machine, &work)));
        }
        Task::Watch(key) => watch(machine, key),
    }
}

fn probe(machine: &dyn Machine, work: &Work) -> Probe {
    survived(|| machine.probe(work)).unwrap_or_else(|why| Probe::Unknown { why })
}

fn watch(machine: &dyn Machine, key: RunKey) {
    if let Err(why) = survived(|| machine.watch(key)) {
        tracing::error!(%key, %why, "the run is not watched; probe it again");
    }
}

/// A bug in a driver leaves no command without an answer, and the next one is served: what the machine did is asked of it, as
/// after any refusal.
fn survived<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(call)).map_err(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        format!("the machine's driver panicked: {text}")
    })
}

fn settle(answers: Receiver<(usize, Probe)>, asked: usize) -> (Option<usize>, Probe) {
    let answers: Vec<(usize, Probe)> = answers.into_iter().collect();
    let missing = asked - answers.len();
    let mut doubt = (missing > 0)
        .then(|| Probe::Unknown { why: format!("{missing} machine drivers gave no answer; probe again") });
    for (unit, probe) in answers {
        match probe {
            Probe::Running { .. } | Probe::Ended(_) | Probe::Gone | Probe::NotBegun { .. } => {
                return (Some(unit), probe);
            }
            Probe::Unknown { .. } => doubt = Some(probe),
            Probe::NeverStarted => {}
        }
    }
    (None, doubt.unwrap_or(Probe::NeverStarted))
}

/// At most `limit` bytes of a text, cut between characters.
fn clip(text: &str, limit: usize) -> String {
    text[..text.floor_char_boundary(limit)].to_owned()
}

/// Where a key's files are, in a directory of runs.
fn dir_of(runs: &Path, key: RunKey) -> PathBuf {
    runs.join(key.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn settled(probes: &[Probe], asked: usize) -> Probe {
        let (answer, answers) = channel();
        for entry in probes.iter().cloned().enumerate() {
            answer.send(entry).unwrap();
        }
        drop(answer);
        settle(answers, asked).1
    }

    #[test]
    fn only_all_machines_together_prove_that_a_run_never_was() {
        let unknown = Probe::Unknown { why: "silent".into() };
        assert_eq!(settled(&[Probe::NeverStarted, Probe::NeverStarted], 2), Probe::NeverStarted);
        assert_eq!(settled(&[Probe::NeverStarted, unknown.clone()], 2), unknown);
        assert_eq!(settled(&[unknown, Probe::Gone, Probe::NeverStarted], 3), Probe::Gone);
        assert!(matches!(settled(&[Probe::NeverStarted], 2), Probe::Unknown { .. }));
    }

    /// A driver with a bug in every call.
    struct Panics;

    impl Machine for Panics {
        fn knows(&self, _: RunKey) -> bool {
            true
        }
        fn check(&self, _: &Work) -> Result<(), Rejection> {
            Ok(())
        }
        fn start(&self, _: &Work) -> Result<(), String> {
            panic!("in start")
        }
        fn stop(&self, _: RunKey, _: Grade) -> Result<(), String> {
            panic!("in stop")
        }
        fn pause(&self, _: RunKey) -> Result<(), String> {
            panic!("in pause")
        }
        fn resume(&self, _: RunKey) -> Result<(), String> {
            panic!("in resume")
        }
        fn probe(&self, _: &Work) -> Probe {
            panic!("in probe")
        }
        fn watch(&self, _: RunKey) {
            panic!("in watch")
        }
        fn dismiss(&self, _: RunKey) {
            panic!("in dismiss")
        }
        fn output(&self, _: RunKey, _: u64, _: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
            Ok(None)
        }
    }

    async fn next(told: &mut mpsc::Receiver<(RunKey, Fact)>) -> (RunKey, Fact) {
        let told = tokio::time::timeout(Duration::from_secs(60), told.recv());
        told.await.expect("a command is answered").expect("the machines are there")
    }

    #[tokio::test]
    async fn a_driver_that_panics_leaves_no_command_unanswered_and_serves_the_next() {
        let (facts, mut told) = mpsc::channel(16);
        let mut machines = Machines {
            units: Vec::new(),
            programs: BTreeMap::new(),
            routes: BTreeMap::new(),
            reporter: Reporter::new(facts),
        };
        let unit = machines.add("mill", Arc::new(Panics));
        machines.programs.insert("mill".to_owned(), unit);
        let key = RunKey { job: JobId::from_parts(1, 1), attempt: Attempt(1), run: Run(1) };
        let work = Work { key, program: "mill".to_owned(), params: BTreeMap::new() };
        let refused = |what: Verb, why: &str| {
            let why = format!("the machine's driver panicked: in {why}");
            Fact::Refused { what, why }
        };
        let unknown = Probe::Unknown { why: "the machine's driver panicked: in probe".to_owned() };

        // All but the dismissal are answered, in their order.
        let commands = [
            (Command::Dismiss(key), None),
            (Command::Start(work.clone()), Some(refused(Verb::Start, "start"))),
            (Command::Stop { key, grade: Grade::Now }, Some(refused(Verb::Stop, "stop"))),
            (Command::Pause(key), Some(refused(Verb::Pause, "pause"))),
            (Command::Resume(key), Some(refused(Verb::Resume, "resume"))),
            (Command::Probe(work), Some(Fact::Probed(unknown))),
        ];
        for (command, answer) in commands {
            machines.command(command);
            if let Some(answer) = answer {
                assert_eq!(next(&mut told).await, (key, answer));
            }
        }
        machines.units[unit].send(Task::Watch(key)).map_err(|(_, why)| why).unwrap();
        machines.command(Command::Pause(key));
        assert_eq!(next(&mut told).await, (key, refused(Verb::Pause, "pause")), "after a watch too");
    }

    #[test]
    fn a_text_is_cut_between_characters() {
        assert_eq!(clip("äöü", 3), "ä");
        assert_eq!(clip("abc", 3), "abc");
    }
}

//! A make-believe machine, for the demo and the tests: it has a speed, failures, and a memory of its own.
//!
//! Like a real controller it goes on whether the agent lives or not. Its memory is a file,
//! `<state_dir>/machines/<program>.json`, which holds what was begun and when; where the work stands follows from that and
//! the wall clock alone. A new agent that asks finds it as far as it has come in the meantime. What is of the past is in
//! `<program>.past` beside it.
//!
//! Parameters: `seconds` (10; fractions are allowed), `fail_at` (`0.5` or `50%`: how far it gets before it faults),
//! `refuse_stop` (`true`: it will not be stopped). In the settings, `speed` makes it faster, `forget_on_boot` lets a power cut
//! kill the work without a trace, and `probe = "silent"` makes it a machine that can't say what it did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reloop_node::durable;
use reloop_protocol::id::BootId;
use serde::{Deserialize, Serialize};

use super::process::fraction;
use super::{EndResult, Ended, Fact, Grade, Machine, Probe, Rejection, Reporter, RunKey, Work, wall_ms};
use crate::config::{SimulatedProgram, check_shape};

/// The least time between two progress facts: each becomes a durable write and a report.
const TICK: Duration = Duration::from_millis(500);
/// How long it takes to a point where the work can be left.
const SAFE_POINT_MS: i64 = 300;
const DEFAULT_SECONDS: f64 = 10.0;
/// Longer than any job, and far from any overflow.
const LONGEST_SECONDS: f64 = 31.0 * 24.0 * 3600.0;
/// Runs that all of its memory has, which is written with each change: those that nobody has dismissed, and no more than
/// this if they have ended. More than a slave has accepted at a time, so that the answer to each of them is remembered.
const MEMORY_LIMIT: usize = 128;
/// Dismissed runs it remembers. It is a make-believe machine: a key older than that may be begun again.
const PAST_LIMIT: usize = 1000;
const PARAMS: [&str; 3] = ["fail_at", "refuse_stop", "seconds"];

/// The driver for one simulated machine.
pub struct SimulatedMachine {
    settings: SimulatedProgram,
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    boot: BootId,
    reporter: Reporter,
    /// Held from a look at the state until what follows from it is told, so that facts leave in their order. Telling may
    /// block on the agent, and the agent may wait for the state: hence not the state's own lock.
    voice: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Or why it can't be read.
    memory: Result<Memory, String>,
    /// Runs whose end is still to be told. A run leaves before that, so that whoever finds it here can rely on it.
    watched: BTreeSet<RunKey>,
    /// Raised by every change of the memory.
    changes: u64,
    /// The driver was dropped: watching threads end.
    left: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Memory {
    /// Oldest first.
    runs: Vec<Entry>,
    /// The same, of those that were dismissed: in a file of its own that only grows at its end, see [`note_past`].
    #[serde(skip)]
    past: Arc<Vec<Entry>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Entry {
    key: String,
    trace: Trace,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Trace {
    /// Somebody was told that it never began, so it can't any more.
    Void,
    Begun(Begun),
}

/// A run, in terms of the wall clock. The settings are those of its beginning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Begun {
    boot: BootId,
    forget_on_boot: bool,
    started_at_ms: i64,
    length_ms: i64,
    fault_after_ms: Option<i64>,
    refuse_stop: bool,
    pauses: Vec<Pause>,
    stop_at_ms: Option<i64>,
    ended: Option<Ended>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Pause {
    from_ms: i64,
    to_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq)]
enum Condition {
    Running { paused: bool, permille: u16 },
    Ended(Ended),
    Gone,
}

impl Begun {
    /// Where it stands at this moment, in this boot.
    fn at(&self, now_ms: i64, boot: BootId) -> Condition {
        if let Some(ended) = &self.ended {
            return Condition::Ended(ended.clone());
        }
        if self.forget_on_boot && self.boot != boot {
            return Condition::Gone;
        }
        let end_ms = self.end_ms();
        if let Some(stop_ms) = self.stop_at_ms.filter(|stop| end_ms.is_none_or(|end| *stop < end)) {
            if stop_ms <= now_ms {
                let text = format!("stopped on request at {}", percent(self.permille(stop_ms)));
                return Condition::Ended(over(EndResult::Stopped, text, stop_ms));
            }
        } else if let Some(end_ms) = end_ms.filter(|end| *end <= now_ms) {
            return Condition::Ended(match self.fault_after_ms {
                Some(_) => {
                    let text = format!("the simulated machine faulted at {}", percent(self.permille(end_ms)));
                    over(EndResult::Failed, text, end_ms)
                }
                None => over(EndResult::Succeeded, "the simulated machine is done".into(), end_ms),
            });
        }
        Condition::Running { paused: self.paused(), permille: self.permille(now_ms) }
    }

    /// When it is done or faults; never, as long as it stands still.
    fn end_ms(&self) -> Option<i64> {
        let mut from_ms = self.started_at_ms;
        let mut left_ms = self.fault_after_ms.unwrap_or(self.length_ms);
        for pause in &self.pauses {
            let worked_ms = (pause.from_ms - from_ms).max(0);
            if left_ms <= worked_ms {
                break;
            }
            left_ms -= worked_ms;
            from_ms = pause.to_ms?;
        }
        Some(from_ms + left_ms)
    }

    fn permille(&self, now_ms: i64) -> u16 {
        let mut worked_ms = 0;
        let mut from_ms = Some(self.started_at_ms);
        for pause in &self.pauses {
            if let Some(from_ms) = from_ms {
                worked_ms += (pause.from_ms.min(now_ms) - from_ms).max(0);
            }
            from_ms = pause.to_ms;
        }
        if let Some(from_ms) = from_ms {
            worked_ms += (now_ms - from_ms).max(0);
        }
        let permille =
            if self.length_ms == 0 { 1000 } else { worked_ms.saturating_mul(1000) / self.length_ms };
        u16::try_from(permille.clamp(0, 1000)).expect("clamped")
    }

    fn paused(&self) -> bool {
        self.pauses.last().is_some_and(|pause| pause.to_ms.is_none())
    }
}

fn over(result: EndResult, text: String, at_ms: i64) -> Ended {
    Ended { result, exit_code: None, signal: None, text, at_ms: Some(at_ms) }
}

fn percent(permille: u16) -> String {
    format!("{} %", f64::from(permille) / 10.0)
}

impl Trace {
    /// Nothing more is to come of it.
    fn is_over(&self) -> bool {
        match self {
            Self::Void => true,
            Self::Begun(begun) => begun.ended.is_some(),
        }
    }
}

impl Memory {
    fn trace(&self, key: RunKey) -> Option<&Trace> {
        let key = key.to_string();
        let mut all = self.runs.iter().rev().chain(self.past.iter().rev());
        all.find(|entry| entry.key == key).map(|entry| &entry.trace)
    }

    fn begun(&mut self, key: RunKey) -> Option<&mut Begun> {
        let key = key.to_string();
        let entry = match self.runs.iter().rposition(|entry| entry.key == key) {
            Some(at) => &mut self.runs[at],
            None => {
                let at = self.past.iter().rposition(|entry| entry.key == key)?;
                &mut Arc::make_mut(&mut self.past)[at]
            }
        };
        match &mut entry.trace {
            Trace::Begun(begun) => Some(begun),
            Trace::Void => None,
        }
    }

    fn add(&mut self, key: RunKey, trace: Trace) {
        while self.runs.len() >= MEMORY_LIMIT
            && let Some(oldest) = self.runs.iter().position(|entry| entry.trace.is_over())
        {
            self.runs.remove(oldest);
        }
        self.runs.push(Entry { key: key.to_string(), trace });
    }

    /// Moves what is over to what was dismissed, and shows it.
    fn dismiss(&mut self, key: RunKey) -> Option<&Entry> {
        let key = key.to_string();
        let at = self.runs.iter().rposition(|entry| entry.key == key && entry.trace.is_over())?;
        let past = Arc::make_mut(&mut self.past);
        let surplus = (past.len() + 1).saturating_sub(PAST_LIMIT);
        past.drain(..surplus);
        past.push(self.runs.remove(at));
        past.last()
    }
}

/// Machines that have a memory in this directory, configured or not.
pub(super) fn remembered(memories: &Path) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(memories) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        // A name with a dot in front is a draft that a crash left.
        if path.extension().is_some_and(|extension| extension == "json")
            && let Some(name) = path.file_stem().and_then(|stem| stem.to_str())
            && !name.starts_with('.')
        {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

impl SimulatedMachine {
    /// The machine of this program, with its memory in this directory.
    pub fn new(
        program: &str,
        settings: &SimulatedProgram,
        memories: &Path,
        boot: BootId,
        reporter: Reporter,
    ) -> Self {
        let path = memories.join(format!("{program}.json"));
        let memory = load(&path).map_err(|error| {
            format!(
                "{}: {error}; the machine's memory can't be read: mend or remove the file",
                path.display()
            )
        });
        let state = Mutex::new(State { memory, watched: BTreeSet::new(), changes: 0, left: false });
        let shared =
            Arc::new(Shared { path, boot, reporter, voice: Mutex::new(()), state, changed: Condvar::new() });
        Self { settings: settings.clone(), shared }
    }

    /// A machine that is no longer configured, and is only asked about its past.
    pub fn retired(program: &str, memories: &Path, boot: BootId, reporter: Reporter) -> Self {
        let settings = SimulatedProgram { forget_on_boot: false, silent: false, speed: 1.0 };
        Self::new(program, &settings, memories, boot, reporter)
    }

    fn steer(&self, key: RunKey, fact: Fact, change: impl FnOnce(&mut Begun, i64)) -> Result<(), String> {
        let _voice = self.shared.voice();
        let mut state = self.shared.lock();
        let now_ms = wall_ms();
        let begun = begun(&mut state, key)?;
        match begun.map(|begun| (begun.at(now_ms, self.shared.boot), begun.stop_at_ms)) {
            Some((Condition::Running { .. }, None)) => {}
            Some((Condition::Running { .. }, Some(_))) => return Err("it is about to stop".into()),
            Some((Condition::Ended(_), _)) => return Err("it has ended already".into()),
            Some((Condition::Gone, _)) | None => return Err("it does not run; probe it".into()),
        }
        self.shared.alter(&mut state, |memory| {
            if let Some(begun) = memory.begun(key) {
                change(begun, now_ms);
            }
        })?;
        drop(state);
        self.shared.reporter.tell(key, fact);
        Ok(())
    }
}

impl Drop for SimulatedMachine {
    fn drop(&mut self) {
        self.shared.lock().left = true;
        self.shared.changed.notify_all();
    }
}

impl Machine for SimulatedMachine {
    fn knows(&self, key: RunKey) -> bool {
        let state = self.shared.lock();
        matches!(state.memory.as_ref().map(|memory| memory.trace(key)), Ok(Some(Trace::Begun(_))))
    }

    fn check(&self, work: &Work) -> Result<(), Rejection> {
        parse(&work.params).map(drop)
    }

    fn start(&self, work: &Work) -> Result<(), String> {
        let asked = parse(&work.params).map_err(|rejection| rejection.to_string())?;
        let shared = &self.shared;
        let mut state = shared.lock();
        let now_ms = wall_ms();
        let memory = state.memory.as_ref().map_err(Clone::clone)?;
        if memory.trace(work.key).is_some() {
            return Err("this run was begun before, and never begins twice; probe it".into());
        }
        let busy = memory.runs.iter().find(|entry| match &entry.trace {
            Trace::Begun(begun) => matches!(begun.at(now_ms, shared.boot), Condition::Running { .. }),
            Trace::Void => false,
        });
        if let Some(entry) = busy {
            return Err(format!("the machine is busy with {}", entry.key));
        }
        let length_ms = (asked.seconds * 1000.0 / self.settings.speed).round();
        let begun = Begun {
            boot: shared.boot,
            forget_on_boot: self.settings.forget_on_boot,
            started_at_ms: now_ms,
            // Both are finite and not negative by the checks of parameters and settings.
            length_ms: length_ms as i64,
            fault_after_ms: asked.fail_at.map(|share| (length_ms * share).round() as i64),
            refuse_stop: asked.refuse_stop,
            pauses: Vec::new(),
            stop_at_ms: None,
            ended: None,
        };
        shared.alter(&mut state, |memory| memory.add(work.key, Trace::Begun(begun)))?;
        drop(state);
        let first = Fact::Progress { permille: Some(0), phase: None, note: None };
        if shared.reporter.tell(work.key, Fact::Started) && shared.reporter.tell(work.key, first) {
            self.watch(work.key);
        }
        Ok(())
    }

    fn stop(&self, key: RunKey, grade: Grade) -> Result<(), String> {
        let shared = &self.shared;
        let _voice = shared.voice();
        let mut state = shared.lock();
        let now_ms = wall_ms();
        let condition =
            begun(&mut state, key)?.map(|begun| (begun.at(now_ms, shared.boot), begun.refuse_stop));
        let fact = match condition {
            Some((Condition::Running { .. }, true)) => {
                return Err("the simulated machine can't be stopped in this job (refuse_stop)".into());
            }
            Some((Condition::Running { .. }, false)) => {
                let stop_ms = match grade {
                    Grade::SafePoint => now_ms.saturating_add(SAFE_POINT_MS),
                    Grade::Now => now_ms,
                };
                shared.alter(&mut state, |memory| {
                    if let Some(begun) = memory.begun(key) {
                        begun.stop_at_ms = Some(begun.stop_at_ms.map_or(stop_ms, |stop| stop.min(stop_ms)));
                    }
                })?;
                Fact::Stopping
            }
            Some((Condition::Ended(ended), _)) => Fact::Ended(ended),
            Some((Condition::Gone, _)) => Fact::Probed(Probe::Gone),
            None => {
                void(shared, &mut state, key)?;
                Fact::Probed(Probe::NeverStarted)
            }
        };
        drop(state);
        shared.reporter.tell(key, fact);
        Ok(())
    }

    fn pause(&self, key: RunKey) -> Result<(), String> {
        self.steer(key, Fact::Paused, |begun, now_ms| {
            if !begun.paused() {
                begun.pauses.push(Pause { from_ms: now_ms, to_ms: None });
            }
        })
    }

    fn resume(&self, key: RunKey) -> Result<(), String> {
        self.steer(key, Fact::Resumed, |begun, now_ms| {
            if let Some(pause) = begun.pauses.last_mut().filter(|pause| pause.to_ms.is_none()) {
                pause.to_ms = Some(now_ms.max(pause.from_ms));
            }
        })
    }

    fn probe(&self, work: &Work) -> Probe {
        if self.settings.silent {
            return Probe::Unknown {
                why: "the simulated machine answers no probe (probe = \"silent\")".into(),
            };
        }
        let shared = &self.shared;
        let mut state = shared.lock();
        let condition = match begun(&mut state, work.key) {
            Ok(begun) => begun.map(|begun| (begun.at(wall_ms(), shared.boot), begun.started_at_ms)),
            Err(why) => return Probe::Unknown { why },
        };
        match condition {
            Some((Condition::Running { paused, permille }, started_at_ms)) => {
                Probe::Running { paused, permille: Some(permille), started_at_ms: Some(started_at_ms) }
            }
            Some((Condition::Ended(ended), _)) => Probe::Ended(ended),
            Some((Condition::Gone, _)) => Probe::Gone,
            None => match void(shared, &mut state, work.key) {
                Ok(()) => Probe::NeverStarted,
                Err(why) => Probe::Unknown { why },
            },
        }
    }

    fn watch(&self, key: RunKey) {
        if !self.shared.lock().watched.insert(key) {
            return;
        }
        let shared = self.shared.clone();
        let spawned =
            thread::Builder::new().name("simulated machine".into()).spawn(move || shared.follow(key));
        if let Err(error) = spawned {
            tracing::error!(%key, %error, "no thread to watch the run; probe it again");
            self.shared.lock().watched.remove(&key);
        }
    }

    fn dismiss(&self, key: RunKey) {
        let mut state = self.shared.lock();
        let Ok(memory) = &mut state.memory else { return };
        // On the disk it is in the memory too until that is written the next time.
        if let Some(entry) = memory.dismiss(key)
            && let Err(error) = note_past(&self.shared.path, entry)
        {
            tracing::warn!(%key, %error, "the simulated machine could not note that a run was dismissed");
        }
    }

    fn output(&self, _key: RunKey, _offset: u64, _max: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        Ok(None)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Changes are made to a copy and put in place whole, so a panic leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn voice(&self) -> MutexGuard<'_, ()> {
        self.voice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// On disk first, then in memory.
    fn alter(&self, state: &mut State, change: impl FnOnce(&mut Memory)) -> Result<(), String> {
        let mut memory = state.memory.clone()?;
        change(&mut memory);
        save(&self.path, &memory).map_err(|error| format!("{}: {error}", self.path.display()))?;
        state.memory = Ok(memory);
        state.changes += 1;
        self.changed.notify_all();
        Ok(())
    }

    fn follow(&self, key: RunKey) {
        let mut told = None;
        loop {
            let voice = self.voice();
            let mut state = self.lock();
            if state.left {
                return;
            }
            let now_ms = wall_ms();
            let changes = state.changes;
            let Ok(Some(begun)) = begun(&mut state, key) else { return };
            // Never more than a tick, so that a step of the wall clock makes an end late by no more.
            let next_ms = [begun.end_ms(), begun.stop_at_ms].into_iter().flatten().min();
            let pause = next_ms.map_or(TICK, |next_ms| {
                TICK.min(Duration::from_millis(
                    u64::try_from(next_ms.saturating_sub(now_ms)).unwrap_or(0).max(1),
                ))
            });
            match begun.at(now_ms, self.boot) {
                Condition::Running { permille, .. } => {
                    drop(state);
                    let progress = Fact::Progress { permille: Some(permille), phase: None, note: None };
                    if told.replace(permille) != Some(permille) && !self.reporter.tell(key, progress) {
                        return;
                    }
                }
                Condition::Ended(ended) => {
                    self.keep(&mut state, key, &ended);
                    state.watched.remove(&key);
                    drop(state);
                    if ended.result == EndResult::Succeeded {
                        let last = Fact::Progress { permille: Some(1000), phase: None, note: None };
                        self.reporter.tell(key, last);
                    }
                    self.reporter.tell(key, Fact::Ended(ended));
                    return;
                }
                Condition::Gone => {
                    state.watched.remove(&key);
                    drop(state);
                    self.reporter.tell(key, Fact::Probed(Probe::Gone));
                    return;
                }
            }
            drop(voice);
            let same = |state: &mut State| state.changes == changes && !state.left;
            drop(self.changed.wait_timeout_while(self.lock(), pause, same));
        }
    }

    fn keep(&self, state: &mut State, key: RunKey, ended: &Ended) {
        let kept = self.alter(state, |memory| {
            if let Some(begun) = memory.begun(key) {
                begun.ended = Some(ended.clone());
            }
        });
        if let Err(error) = kept {
            // Not lost: the clock and the memory come to the same end whenever they are asked.
            tracing::warn!(%key, error, "the simulated machine could not note the end of a run");
        }
    }
}

fn begun(state: &mut State, key: RunKey) -> Result<Option<&mut Begun>, String> {
    match &mut state.memory {
        Ok(memory) => Ok(memory.begun(key)),
        Err(why) => Err(why.clone()),
    }
}

fn void(shared: &Shared, state: &mut State, key: RunKey) -> Result<(), String> {
    if state.memory.as_ref().is_ok_and(|memory| memory.trace(key).is_some()) {
        return Ok(());
    }
    shared.alter(state, |memory| memory.add(key, Trace::Void))
}

struct Asked {
    seconds: f64,
    fail_at: Option<f64>,
    refuse_stop: bool,
}

fn parse(params: &BTreeMap<String, String>) -> Result<Asked, Rejection> {
    let mut asked = Asked { seconds: DEFAULT_SECONDS, fail_at: None, refuse_stop: false };
    for (name, value) in params {
        check_shape(name, value)?;
        let expected = match name.as_str() {
            "seconds" => match value.parse().ok().filter(|seconds| (0.0..=LONGEST_SECONDS).contains(seconds))
            {
                Some(seconds) => {
                    asked.seconds = seconds;
                    continue;
                }
                None => format!("a number from 0 to {LONGEST_SECONDS}"),
            },
            "fail_at" => match fraction(value) {
                Some(share) => {
                    asked.fail_at = Some(share);
                    continue;
                }
                None => "a share from 0 to 1, or 0% to 100%".to_owned(),
            },
            "refuse_stop" => match value.parse() {
                Ok(refuse) => {
                    asked.refuse_stop = refuse;
                    continue;
                }
                Err(_) => "true or false".to_owned(),
            },
            _ => return Err(Rejection::unknown_param(name, PARAMS.map(str::to_owned))),
        };
        return Err(Rejection::bad_value(name, value, expected));
    }
    Ok(asked)
}

fn load(path: &Path) -> io::Result<Memory> {
    let mut memory: Memory = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Memory::default()),
        Err(error) => return Err(error),
    };
    let past = load_past(path)?;
    let dismissed: BTreeSet<&str> = past.iter().map(|entry| entry.key.as_str()).collect();
    memory.runs.retain(|entry| !dismissed.contains(entry.key.as_str()));
    memory.past = Arc::new(past);
    Ok(memory)
}

/// Beside the memory: dismissed runs, oldest first, each on a line of JSON. A line begins with its line break, so that one
/// which a power cut has cut off spoils no other.
fn past_path(memory: &Path) -> PathBuf {
    memory.with_extension("past")
}

/// Not synced: what a power cut takes of it was told to somebody who has it on his disk.
fn note_past(memory: &Path, entry: &Entry) -> io::Result<()> {
    let line = format!("\n{}", serde_json::to_string(entry)?);
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(past_path(memory));
    file?.write_all(line.as_bytes())
}

fn load_past(memory: &Path) -> io::Result<Vec<Entry>> {
    let path = past_path(memory);
    let text = match fs::read(&path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let entry = |line: &str| {
        let read = serde_json::from_str(line);
        read.inspect_err(|error| {
            tracing::warn!(file = %path.display(), %error, "a dismissed run cannot be read and is passed over");
        })
        .ok()
    };
    let mut past: Vec<Entry> = text.lines().filter(|line| !line.is_empty()).filter_map(entry).collect();
    if past.len() > 2 * PAST_LIMIT {
        past.drain(..past.len() - PAST_LIMIT);
        let lines = past.iter().map(|entry| Ok(format!("\n{}", serde_json::to_string(entry)?)));
        durable::write_file(&path, lines.collect::<io::Result<String>>()?.as_bytes(), 0o600)?;
    }
    past.drain(..past.len().saturating_sub(PAST_LIMIT));
    Ok(past)
}

fn save(path: &Path, memory: &Memory) -> io::Result<()> {
    if let Some(dir) = path.parent() {
        durable::create_dir_all_synced(dir)?;
    }
    durable::write_file(path, &serde_json::to_vec(memory)?, 0o600)
}

#[cfg(test)]
mod tests {
    use reloop_protocol::id::{Attempt, JobId, Run};

    use super::*;

    const BOOT: BootId = BootId([1; 16]);

    fn run() -> Begun {
        Begun {
            boot: BOOT,
            forget_on_boot: false,
            started_at_ms: 1000,
            length_ms: 10_000,
            fault_after_ms: None,
            refuse_stop: false,
            pauses: Vec::new(),
            stop_at_ms: None,
            ended: None,
        }
    }

    fn result(condition: Condition) -> (EndResult, i64) {
        match condition {
            Condition::Ended(ended) => (ended.result, ended.at_ms.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn where_a_run_stands_follows_from_the_clock_alone() {
        let mut run = run();
        assert_eq!(run.at(3500, BOOT), Condition::Running { paused: false, permille: 250 });
        assert_eq!(
            run.at(0, BOOT),
            Condition::Running { paused: false, permille: 0 },
            "a clock that went back"
        );
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Succeeded, 11_000));
        run.fault_after_ms = Some(5000);
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Failed, 6000));
        run.stop_at_ms = Some(4000);
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Stopped, 4000));
        run.stop_at_ms = Some(7000);
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Failed, 6000), "the stop came too late");
    }

    #[test]
    fn a_pause_moves_the_end() {
        let mut run = run();
        run.pauses.push(Pause { from_ms: 3000, to_ms: None });
        assert_eq!(run.at(99_000, BOOT), Condition::Running { paused: true, permille: 200 });
        run.stop_at_ms = Some(50_000);
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Stopped, 50_000));
        run.stop_at_ms = None;
        run.pauses[0].to_ms = Some(8000);
        assert_eq!(run.at(9000, BOOT), Condition::Running { paused: false, permille: 300 });
        assert_eq!(result(run.at(99_000, BOOT)), (EndResult::Succeeded, 16_000));
    }

    #[test]
    fn a_power_cut_kills_only_what_forgets() {
        let other = BootId([2; 16]);
        let mut run = run();
        assert!(matches!(run.at(3000, other), Condition::Running { .. }));
        run.forget_on_boot = true;
        assert_eq!(run.at(99_000, other), Condition::Gone);
        run.ended = Some(over(EndResult::Succeeded, String::new(), 11_000));
        assert_eq!(result(run.at(99_000, other)), (EndResult::Succeeded, 11_000), "it ended before");
    }

    #[test]
    fn a_long_run_is_remembered_whatever_came_and_went_meanwhile() {
        let key = |number: u8| RunKey { job: JobId([number; 16]), attempt: Attempt(1), run: Run(1) };
        let ended = Begun { ended: Some(over(EndResult::Succeeded, String::new(), 11_000)), ..run() };
        let mut memory = Memory::default();
        memory.add(key(0), Trace::Begun(ended));
        memory.add(key(1), Trace::Begun(run()));
        for number in 2..=u8::MAX {
            memory.add(key(number), Trace::Void);
        }
        assert_eq!(memory.runs.len(), MEMORY_LIMIT);
        assert!(memory.trace(key(0)).is_none());
        assert_eq!(memory.begun(key(1)), Some(&mut run()));
        assert!(memory.trace(key(u8::MAX)).is_some());
        assert!(memory.dismiss(key(1)).is_none(), "it has not ended");
    }

    #[test]
    fn what_was_dismissed_is_remembered_beside_what_was_not() {
        let key = |number: u8| RunKey { job: JobId([number; 16]), attempt: Attempt(1), run: Run(1) };
        let ended = Begun { ended: Some(over(EndResult::Succeeded, String::new(), 11_000)), ..run() };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bake.json");
        let mut memory = Memory::default();
        for number in 0..3 {
            memory.add(key(number), Trace::Begun(ended.clone()));
        }
        save(&path, &memory).unwrap();
        for number in 0..2 {
            note_past(&path, memory.dismiss(key(number)).unwrap()).unwrap();
        }
        assert_eq!(memory.runs.len(), 1);
        // The power is cut in the middle of a line, before the memory is written again.
        let mut file = OpenOptions::new().append(true).open(past_path(&path)).unwrap();
        file.write_all(b"\n{\"key\":\"jo").unwrap();
        let mut again = load(&path).unwrap();
        assert_eq!((again.runs.len(), again.past.len()), (1, 2));
        note_past(&path, again.dismiss(key(2)).unwrap()).unwrap();
        let mut again = load(&path).unwrap();
        assert_eq!((again.runs.len(), again.past.len()), (0, 3));
        for number in 0..3 {
            assert_eq!(again.begun(key(number)), Some(&mut ended.clone()));
        }

        for _ in 0..2 * PAST_LIMIT {
            note_past(&path, again.past.last().unwrap()).unwrap();
        }
        assert_eq!(load(&path).unwrap().past.len(), PAST_LIMIT);
        assert_eq!(fs::read_to_string(past_path(&path)).unwrap().trim().lines().count(), PAST_LIMIT);
    }

    #[test]
    fn parameters_are_checked() {
        let asked = |name: &str, value: &str| parse(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        assert_eq!(asked("seconds", "0.5").unwrap().seconds, 0.5);
        assert_eq!(asked("fail_at", "50%").unwrap().fail_at, Some(0.5));
        assert!(asked("refuse_stop", "true").unwrap().refuse_stop);
        for (name, value) in [
            ("seconds", "-1"),
            ("seconds", "NaN"),
            ("seconds", "inf"),
            ("seconds", "1e9"),
            ("fail_at", "2"),
            ("fail_at", "half"),
            ("refuse_stop", "yes"),
            ("speed", "2"),
        ] {
            assert!(asked(name, value).is_err(), "{name}={value}");
        }
    }
}

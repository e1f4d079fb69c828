//! A machine that only exists as a file and a clock, for the demo and the tests. It has a speed, failures and a memory.
//!
//! Like a real controller it goes on whether the agent lives or not: its memory, the file
//! `<state_dir>/machines/<program>.json`, holds what was begun and when, and where the work stands follows from that and the
//! wall clock alone ([`run`]). An agent that starts later and probes finds the work as far as it has come by then. Dismissed
//! runs are kept beside the memory, in `<program>.past` ([`memory`]).
//!
//! The parameters of its orders are described in [`params`]. Its settings: `speed` makes it faster, `forget_on_boot` lets a
//! power cut end the work without a trace, and `probe = "silent"` makes it a machine that cannot say what it did.

mod memory;
mod params;
mod run;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reloop_node::clock::wall_ms;
use reloop_protocol::id::BootId;
use reloop_protocol::job::End;
use reloop_protocol::slave::{Fact, Probed, RunKey};

pub(super) use self::memory::remembered;
use self::memory::{Memory, Trace, load, note_past, save};
use self::params::parse;
use self::run::{Begun, Condition, Ending, Pause};
use super::types::{Machine, Rejection, Reporter, Work, run_name};
use crate::config::SimulatedProgram;

/// The least time between two progress facts. The rules keep none of them on disk, but each becomes a report to the master.
const TICK: Duration = Duration::from_millis(500);
/// How long the work takes to a point where it can be left.
const SAFE_POINT_MS: i64 = 300;

/// The driver for one simulated machine.
pub(super) struct SimulatedMachine {
    settings: SimulatedProgram,
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    boot: BootId,
    reporter: Reporter,
    /// Held from a look at the state until the facts that follow from it are reported, so that facts leave in their order.
    /// The state's own lock would not do: reporting may wait for the agent, and the agent may wait for the state.
    voice: Mutex<()>,
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The memory, or why it cannot be read.
    memory: Result<Memory, String>,
    /// Runs whose end is not reported yet. A run is removed before its end is reported.
    watched: BTreeSet<RunKey>,
    /// Counts the changes of the memory.
    changes: u64,
    /// The driver was dropped: the threads that watch runs end.
    is_dropped: bool,
}

impl SimulatedMachine {
    /// The machine of this program, with its memory in this directory.
    pub(super) fn new(
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
        let state = Mutex::new(State { memory, watched: BTreeSet::new(), changes: 0, is_dropped: false });
        let shared =
            Arc::new(Shared { path, boot, reporter, voice: Mutex::new(()), state, changed: Condvar::new() });
        Self { settings: settings.clone(), shared }
    }

    /// A machine that is no longer configured: it is only asked about its past, and its settings do not matter for that.
    pub(super) fn retired(program: &str, memories: &Path, boot: BootId, reporter: Reporter) -> Self {
        let settings = SimulatedProgram { forget_on_boot: false, silent: false, speed: 1.0 };
        Self::new(program, &settings, memories, boot, reporter)
    }

    fn steer(&self, key: RunKey, fact: Fact, change: impl FnOnce(&mut Begun, i64)) -> Result<(), String> {
        let _voice = self.shared.voice();
        let mut state = self.shared.lock();
        let now_ms = wall_ms();
        let begun = begun(&mut state, key)?;
        match begun.map(|begun| (begun.at(now_ms, self.shared.boot), begun.stop_at_ms)) {
            Some((Condition::Alive { .. }, None)) => {}
            Some((Condition::Alive { .. }, Some(_))) => return Err("it is about to stop".into()),
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
        self.shared.lock().is_dropped = true;
        self.shared.changed.notify_all();
    }
}

impl Machine for SimulatedMachine {
    fn knows(&self, key: RunKey) -> bool {
        let state = self.shared.lock();
        matches!(state.memory.as_ref().map(|memory| memory.trace(key)), Ok(Some(Trace::Begun(_))))
    }

    fn check(&self, _program: &str, params: &BTreeMap<String, String>) -> Result<(), Rejection> {
        parse(params)?;
        Ok(())
    }

    fn could_begin(&self, _program: Option<&str>) -> Result<(), String> {
        self.shared.lock().memory.as_ref().map(drop).map_err(Clone::clone)
    }

    fn start(&self, work: &Work) -> Result<(), String> {
        let asked = parse(&work.params).map_err(|error| error.to_string())?;
        let shared = &self.shared;
        let mut state = shared.lock();
        let now_ms = wall_ms();
        let memory = state.memory.as_ref().map_err(Clone::clone)?;
        if memory.trace(work.key).is_some() {
            return Err("this run was begun before, and never begins twice; probe it".into());
        }
        if let Some(busy_with) = memory.alive(now_ms, shared.boot) {
            return Err(format!("the machine is busy with {busy_with}"));
        }
        let length_ms = (asked.seconds * 1000.0 / self.settings.speed).round();
        let begun = Begun {
            boot: shared.boot,
            forget_on_boot: self.settings.forget_on_boot,
            started_at_ms: now_ms,
            // Parameters and settings were checked: both numbers are finite and not negative.
            length_ms: length_ms as i64,
            fault_after_ms: asked.fail_at.map(|share| (length_ms * share).round() as i64),
            refuse_stop: asked.refuse_stop,
            pauses: Vec::new(),
            stop_at_ms: None,
            ended: None,
        };
        shared.alter(&mut state, |memory| memory.add(work.key, Trace::Begun(begun)))?;
        drop(state);
        if shared.reporter.tell(work.key, Fact::Started) && shared.reporter.tell(work.key, progress(0)) {
            self.watch(work.key);
        }
        Ok(())
    }

    fn stop(&self, key: RunKey, now: bool) -> Result<(), String> {
        let shared = &self.shared;
        let _voice = shared.voice();
        let mut state = shared.lock();
        let now_ms = wall_ms();
        let condition =
            begun(&mut state, key)?.map(|begun| (begun.at(now_ms, shared.boot), begun.refuse_stop));
        let fact = match condition {
            Some((Condition::Alive { .. }, true)) => {
                return Err("the simulated machine can't be stopped in this job (refuse_stop)".into());
            }
            Some((Condition::Alive { .. }, false)) => {
                let stop_ms = if now { now_ms } else { now_ms.saturating_add(SAFE_POINT_MS) };
                // The thread that watches the run reports its end.
                return shared.alter(&mut state, |memory| {
                    if let Some(begun) = memory.begun(key) {
                        begun.stop_at_ms = Some(begun.stop_at_ms.map_or(stop_ms, |stop| stop.min(stop_ms)));
                    }
                });
            }
            Some((Condition::Ended(ending), _)) => Fact::Ended(ending.into()),
            Some((Condition::Gone, _)) => Fact::Probed(Probed::Gone),
            None => {
                void(shared, &mut state, key)?;
                Fact::Probed(Probed::NeverStarted)
            }
        };
        drop(state);
        shared.reporter.tell(key, fact);
        Ok(())
    }

    fn pause(&self, key: RunKey) -> Result<(), String> {
        self.steer(key, Fact::Paused, |begun, now_ms| {
            if !begun.is_paused() {
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

    fn probe(&self, work: &Work) -> Probed {
        if self.settings.silent {
            return Probed::Unknown("the simulated machine answers no probe (probe = \"silent\")".into());
        }
        let shared = &self.shared;
        let mut state = shared.lock();
        let condition = match begun(&mut state, work.key) {
            Ok(begun) => begun.map(|begun| begun.at(wall_ms(), shared.boot)),
            Err(why) => return Probed::Unknown(why),
        };
        match condition {
            Some(Condition::Alive { paused, permille }) => Probed::Alive { paused, permille: Some(permille) },
            Some(Condition::Ended(ending)) => Probed::Ended(ending.into()),
            Some(Condition::Gone) => Probed::Gone,
            None => match void(shared, &mut state, work.key) {
                Ok(()) => Probed::NeverStarted,
                Err(why) => Probed::Unknown(why),
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
            tracing::error!(key = run_name(key), %error, "no thread to watch the run; probe it again");
            self.shared.lock().watched.remove(&key);
        }
    }

    fn dismiss(&self, key: RunKey) {
        let mut state = self.shared.lock();
        let Ok(memory) = &mut state.memory else { return };
        // On disk the run is in the memory too, until that is written the next time.
        if let Some(entry) = memory.dismiss(key)
            && let Err(error) = note_past(&self.shared.path, entry)
        {
            let key = run_name(key);
            tracing::warn!(key, %error, "the simulated machine could not note that a run was dismissed");
        }
    }

    fn output(&self, _key: RunKey, _offset: u64, _max: usize) -> io::Result<Option<(Vec<u8>, u64)>> {
        Ok(None)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The memory is changed in a copy, which then replaces it: a panic leaves no half of a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn voice(&self) -> MutexGuard<'_, ()> {
        self.voice.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the memory on disk first.
    fn alter(&self, state: &mut State, change: impl FnOnce(&mut Memory)) -> Result<(), String> {
        let mut memory = state.memory.clone()?;
        change(&mut memory);
        save(&self.path, &memory).map_err(|error| format!("{}: {error}", self.path.display()))?;
        state.memory = Ok(memory);
        state.changes += 1;
        self.changed.notify_all();
        Ok(())
    }

    /// Reports the progress of a run, and how it ends.
    fn follow(&self, key: RunKey) {
        let mut told = None;
        loop {
            let voice = self.voice();
            let mut state = self.lock();
            if state.is_dropped {
                return;
            }
            let now_ms = wall_ms();
            let changes = state.changes;
            let Ok(Some(begun)) = begun(&mut state, key) else { return };
            // Never longer than a tick: if the wall clock is set, the end is noticed at most that much late.
            let next_ms = [begun.end_ms(), begun.stop_at_ms].into_iter().flatten().min();
            let pause = next_ms.map_or(TICK, |next_ms| {
                TICK.min(Duration::from_millis(
                    u64::try_from(next_ms.saturating_sub(now_ms)).unwrap_or(0).max(1),
                ))
            });
            match begun.at(now_ms, self.boot) {
                Condition::Alive { permille, .. } => {
                    drop(state);
                    if told.replace(permille) != Some(permille)
                        && !self.reporter.tell(key, progress(permille))
                    {
                        return;
                    }
                }
                Condition::Ended(ending) => {
                    self.note_end(&mut state, key, &ending);
                    state.watched.remove(&key);
                    drop(state);
                    if ending.result == End::Succeeded {
                        self.reporter.tell(key, progress(1000));
                    }
                    self.reporter.tell(key, Fact::Ended(ending.into()));
                    return;
                }
                Condition::Gone => {
                    state.watched.remove(&key);
                    drop(state);
                    self.reporter.tell(key, Fact::Probed(Probed::Gone));
                    return;
                }
            }
            drop(voice);
            let same = |state: &mut State| state.changes == changes && !state.is_dropped;
            drop(self.changed.wait_timeout_while(self.lock(), pause, same));
        }
    }

    fn note_end(&self, state: &mut State, key: RunKey, ending: &Ending) {
        let noted = self.alter(state, |memory| {
            if let Some(begun) = memory.begun(key) {
                begun.ended = Some(ending.clone());
            }
        });
        if let Err(error) = noted {
            // Nothing is lost: the same end follows from the memory and the clock whenever somebody asks.
            let key = run_name(key);
            tracing::warn!(key, error, "the simulated machine could not note the end of a run");
        }
    }
}

fn progress(permille: u16) -> Fact {
    Fact::Progressed { permille: Some(permille), note: None }
}

fn begun(state: &mut State, key: RunKey) -> Result<Option<&mut Begun>, String> {
    match &mut state.memory {
        Ok(memory) => Ok(memory.begun(key)),
        Err(why) => Err(why.clone()),
    }
}

/// Notes that the key never began and never will.
fn void(shared: &Shared, state: &mut State, key: RunKey) -> Result<(), String> {
    if state.memory.as_ref().is_ok_and(|memory| memory.trace(key).is_some()) {
        return Ok(());
    }
    shared.alter(state, |memory| memory.add(key, Trace::Void))
}

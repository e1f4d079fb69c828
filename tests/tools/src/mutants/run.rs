//! Shows each mutant to the tests, the schedules and the model, until one of them notices.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use serde::{Deserialize, Serialize};

use super::copy::{self, Prepared};
use super::{Mutant, Number, REACHED, SWITCH};
use crate::breaks::workspace::Programs;

/// Programs with tests of the rules, the quick ones first.
const RULES: [&str; 9] = [
    "reloop_protocol",
    "limits",
    "golden",
    "job_table",
    "rules",
    "rules_edges",
    "fences",
    "hostile",
    "disagreements",
];

/// The program that tries schedules.
const HUNT: &str = "hunt";

/// The test of the model check, in the program that has its name.
const MODEL: (&str, &str) = ("model", "every_story_of_the_short_configurations_holds_and_comes_right");

/// Schedules that a mutant meets before it has survived them: a third of what the test command tries.
const SCHEDULES: usize = 1_000;

/// Schedules that tell what schedules reach. What so many do not reach is not looked for in more of them.
const REACHING_SCHEDULES: usize = 1_000;

/// A program hangs when it takes so many times the processor time that it takes without a mutant,
const SLOWER: u32 = 5;

/// and at least this much.
const PATIENCE: Duration = Duration::from_secs(4);

/// On a busy box a program may wait so many times as long as it computes.
const BUSY: u32 = 20;

/// Between two looks whether a program has ended.
const PAUSE: Duration = Duration::from_millis(3);

/// Memory of one program, in bytes: a mutant that never stops collecting must not take the box with it.
const MEMORY: u64 = 4 << 30;

/// Mutants that are tried at a time.
const WORKERS: usize = 2;

/// Who noticed a mutant, or that nobody did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Unviable,
    Caught {
        by: Stage,
        /// The test, the seed, or what the model found.
        what: String,
        /// By never coming to an end, or by taking all the memory.
        hung: bool,
    },
    Survived {
        /// The stages that executed the changed code.
        reached: BTreeSet<Stage>,
    },
}

/// What a mutant is shown to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    Rules,
    Simulation,
    /// The model check, which found something that does not hold.
    Model,
    /// The model check, in which only the number of states is another, or something no longer happens.
    States,
}

#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// The last stage that is tried.
    pub until: Until,
}

/// The stages, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Until {
    Rules,
    Simulation,
    Model,
}

enum End {
    Passed,
    Failed(String),
    Hung,
}

/// A program's tests and what of the mutants each reaches.
struct Reach {
    tests: BTreeMap<String, BTreeSet<Number>>,
    took: Duration,
}

struct Bench<'a> {
    logs: PathBuf,
    prepared: &'a Prepared,
    rules: BTreeMap<&'static str, Reach>,
    schedules: Option<Reach>,
    model: Option<Reach>,
}

/// Tries these mutants; what becomes of each is told as soon as it is known.
///
/// # Errors
/// A copy cannot be built, or something fails without any mutant.
pub fn run(
    workspace: &Path,
    prepared: &Prepared,
    mutants: &[Mutant],
    plan: Plan,
    told: impl Fn(&Mutant, &Fate) + Sync,
) -> Result<(), String> {
    let logs = workspace.join("target/mutants/log");
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let bench = Bench::new(logs, prepared, plan)?;
    let (mut queue, mut alone) = (Vec::new(), Vec::new());
    for one in mutants {
        if prepared.alone.contains(&one.piece.number) { &mut alone } else { &mut queue }.push(one);
    }
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(one) = queue.get(next.fetch_add(1, Ordering::Relaxed)) {
                    match bench.fate(one) {
                        Ok(fate) => told(one, &fate),
                        Err(error) => wrong.lock().expect("no worker panics with it").push(error),
                    }
                }
            });
        }
    });
    for one in alone {
        match copy::alone(workspace, one, plan.until >= Until::Model)? {
            Some(programs) => told(one, &bench.fate_alone(&programs, one)?),
            None => told(one, &Fate::Unviable),
        }
    }
    let wrong = wrong.into_inner().expect("no worker panics with it");
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

impl<'a> Bench<'a> {
    /// Runs everything once without a mutant: it has to pass, and tells what it reaches.
    fn new(logs: PathBuf, prepared: &'a Prepared, plan: Plan) -> Result<Self, String> {
        let empty = || Reach { tests: BTreeMap::new(), took: Duration::ZERO };
        let mut bench = Self { logs, prepared, rules: BTreeMap::new(), schedules: None, model: None };
        for name in RULES.into_iter().filter(|name| prepared.programs.contains_key(*name)) {
            let mut reach = empty();
            for test in bench.tests_of(name)? {
                let began = Instant::now();
                reach.tests.insert(test.clone(), bench.reached(name, &["--exact", &test])?);
                reach.took += began.elapsed();
            }
            println!("{name}: {} tests, {:.1} s", reach.tests.len(), reach.took.as_secs_f64());
            bench.rules.insert(name, reach);
        }
        if plan.until >= Until::Simulation {
            let began = Instant::now();
            let reached = bench.reached(HUNT, &["0", &REACHING_SCHEDULES.to_string()])?;
            let took = began.elapsed() * u32::try_from(SCHEDULES / REACHING_SCHEDULES).unwrap_or(1);
            println!("simulation: {} mutants reached, {:.1} s", reached.len(), took.as_secs_f64());
            bench.schedules = Some(Reach { tests: BTreeMap::from([(String::new(), reached)]), took });
        }
        if plan.until >= Until::Model {
            let began = Instant::now();
            let reached = bench.reached(MODEL.0, &["--exact", MODEL.1])?;
            println!("model: {} mutants reached, {:.1} s", reached.len(), began.elapsed().as_secs_f64());
            let tests = BTreeMap::from([(MODEL.1.to_owned(), reached)]);
            bench.model = Some(Reach { tests, took: began.elapsed() });
        }
        Ok(bench)
    }

    fn tests_of(&self, program: &str) -> Result<Vec<String>, String> {
        let listed = Command::new(self.program(&self.prepared.programs, program)?)
            .args(["--list", "--format", "terse"])
            .output()
            .map_err(|error| format!("{program}: {error}"))?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        Ok(text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect())
    }

    fn program<'p>(&self, programs: &'p Programs, name: &str) -> Result<&'p Path, String> {
        programs.get(name).map(PathBuf::as_path).ok_or_else(|| format!("there is no program {name}"))
    }

    /// What a program reaches while nothing is changed.
    fn reached(&self, program: &str, arguments: &[&str]) -> Result<BTreeSet<Number>, String> {
        let place = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        let mut command = Command::new(self.program(&self.prepared.programs, program)?);
        command.args(arguments).env(REACHED, place.path());
        match self.end(command, "sound", Duration::from_secs(600))? {
            End::Passed => {}
            End::Failed(text) => {
                return Err(format!("{program} {arguments:?} fails without any mutant:\n{text}"));
            }
            End::Hung => return Err(format!("{program} {arguments:?} does not end")),
        }
        let text = fs::read_to_string(place.path()).map_err(|error| error.to_string())?;
        Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
    }

    fn fate(&self, mutant: &Mutant) -> Result<Fate, String> {
        let number = mutant.piece.number;
        let reaches = |tests: &BTreeMap<String, BTreeSet<Number>>| -> Vec<String> {
            tests
                .iter()
                .filter(|(_, reached)| reached.contains(&number))
                .map(|(test, _)| test.clone())
                .collect()
        };
        self.tried(&self.prepared.programs, number, reaches)
    }

    fn fate_alone(&self, programs: &Programs, mutant: &Mutant) -> Result<Fate, String> {
        self.tried(programs, mutant.piece.number, |tests| tests.keys().cloned().collect())
    }

    fn tried(
        &self,
        programs: &Programs,
        number: Number,
        reaching: impl Fn(&BTreeMap<String, BTreeSet<Number>>) -> Vec<String>,
    ) -> Result<Fate, String> {
        let mut reached = BTreeSet::new();
        let log = number.to_string();
        let patience = |took: Duration| PATIENCE.max(took * SLOWER);
        let switched = |program: &str| -> Result<Command, String> {
            let mut command = Command::new(self.program(programs, program)?);
            command.env(SWITCH, &log);
            Ok(command)
        };
        for (program, reach) in &self.rules {
            let tests = reaching(&reach.tests);
            if tests.is_empty() {
                continue;
            }
            reached.insert(Stage::Rules);
            let mut command = switched(program)?;
            command.arg("--exact").args(&tests);
            match self.end(command, &log, patience(reach.took))? {
                End::Passed => {}
                End::Failed(text) => {
                    let failed =
                        text.lines().find_map(|line| line.strip_prefix("test ")?.strip_suffix(" ... FAILED"));
                    let what = format!("{program}::{}", failed.unwrap_or("it ended early"));
                    return Ok(Fate::Caught { by: Stage::Rules, what, hung: false });
                }
                End::Hung => {
                    return Ok(Fate::Caught { by: Stage::Rules, what: (*program).to_owned(), hung: true });
                }
            }
        }
        if let Some(schedules) = &self.schedules
            && !reaching(&schedules.tests).is_empty()
        {
            reached.insert(Stage::Simulation);
            let mut command = switched(HUNT)?;
            command.args(["0", &SCHEDULES.to_string()]);
            match self.end(command, &log, patience(schedules.took))? {
                End::Passed => {}
                End::Failed(text) => {
                    let seed =
                        text.lines().last().and_then(|line| line.split('\t').next()).unwrap_or_default();
                    let what = format!("seed {seed}");
                    return Ok(Fate::Caught { by: Stage::Simulation, what, hung: false });
                }
                End::Hung => {
                    return Ok(Fate::Caught { by: Stage::Simulation, what: String::new(), hung: true });
                }
            }
        }
        if let Some(model) = &self.model
            && !reaching(&model.tests).is_empty()
        {
            reached.insert(Stage::Model);
            let mut command = switched(MODEL.0)?;
            command.args(["--exact", MODEL.1]);
            match self.end(command, &log, patience(model.took))? {
                End::Passed => {}
                End::Failed(text) => {
                    let only = ["the number of states changed", "the model proves nothing about"];
                    let by = if only.iter().any(|words| text.contains(words)) {
                        Stage::States
                    } else {
                        Stage::Model
                    };
                    return Ok(Fate::Caught { by, what: MODEL.1.to_owned(), hung: false });
                }
                End::Hung => return Ok(Fate::Caught { by: Stage::Model, what: String::new(), hung: true }),
            }
        }
        Ok(Fate::Survived { reached })
    }

    fn end(&self, mut command: Command, name: &str, patience: Duration) -> Result<End, String> {
        let path = self.logs.join(format!("{name}.log"));
        let about = |error: std::io::Error| format!("{}: {error}", path.display());
        let log = File::create(&path).map_err(about)?;
        for variable in ["RELOOP_SEED", "RELOOP_SIMULATIONS", "RELOOP_TRACE", "UPDATE_GOLDEN"] {
            command.env_remove(variable);
        }
        command.env("RUST_BACKTRACE", "0").env("RUST_TEST_THREADS", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone().map_err(about)?).stderr(log);
        let mut child = command.spawn().map_err(about)?;
        for (what, most) in [(Resource::As, MEMORY), (Resource::Cpu, patience.as_secs() + 1)] {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            // A child that has ended already needs no limit.
            let _ = prlimit(Some(Pid::from_child(&child)), what, limit);
        }
        let end = Instant::now() + patience * BUSY;
        let status = loop {
            if let Some(status) = child.try_wait().map_err(about)? {
                break status;
            }
            if Instant::now() > end {
                child.kill().and_then(|()| child.wait()).map_err(about)?;
                return Ok(End::Hung);
            }
            std::thread::sleep(PAUSE);
        };
        if status.success() {
            return Ok(End::Passed);
        }
        // The kernel kills a program that exceeds its processor time.
        if status
            .signal()
            .is_some_and(|signal| signal == Signal::XCPU.as_raw() || signal == Signal::KILL.as_raw())
        {
            return Ok(End::Hung);
        }
        let bytes = fs::read(&path).map_err(about)?;
        Ok(End::Failed(String::from_utf8_lossy(&bytes).into_owned()))
    }
}

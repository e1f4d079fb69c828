//! Tries each mutant against the tests, the schedules and the model check, until one of them notices.

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

/// Test programs of the rules, the quick ones first.
const RULES: [&str; 10] = [
    "reloop_protocol",
    "limits",
    "golden",
    "sentences",
    "job_table",
    "rules",
    "rules_edges",
    "fences",
    "hostile",
    "disagreements",
];

/// The program that plays schedules.
const HUNT: &str = "hunt";

/// The test of the model check, as (program, test).
const MODEL: (&str, &str) = ("model", "every_story_of_the_short_configurations_holds_and_comes_right");

/// Schedules that record what schedules reach, and that each mutant is tried against.
const SCHEDULES: usize = 1_000;

/// Limit of a program's processor time, as a multiple of its time without a mutant,
const SLOWER: u32 = 5;

/// and at least this much.
const PATIENCE: Duration = Duration::from_secs(4);

/// Limit of a program's elapsed time, as a multiple of its processor time: other processes run too.
const BUSY: u32 = 20;

/// Poll interval while a program runs.
const PAUSE: Duration = Duration::from_millis(3);

/// Memory limit of a program, in bytes: a mutant may collect without end.
const MEMORY: u64 = 4 << 30;

/// Mutants that are tried at the same time.
const WORKERS: usize = 2;

/// The result for one mutant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Unviable,
    Caught {
        by: Stage,
        /// The test, the seed, or the property of the model.
        what: String,
        /// It exceeded its time or its memory.
        hung: bool,
    },
    Survived {
        /// The stages that executed the changed code.
        reached: BTreeSet<Stage>,
    },
}

/// A stage in which a mutant is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Stage {
    Rules,
    Simulation,
    /// The model check found a property that does not hold.
    Model,
    /// In the model check only the number of states differs, or something no longer happens.
    States,
}

/// The stages, in order.
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

/// The tests of a program, and which mutants each reaches.
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

/// Tries these mutants; `told` gets each result as soon as it is known.
pub fn run(
    workspace: &Path,
    prepared: &Prepared,
    mutants: &[Mutant],
    until: Until,
    told: impl Fn(&Mutant, &Fate) + Sync,
) -> Result<(), String> {
    let logs = workspace.join("target/mutants/log");
    fs::create_dir_all(&logs).map_err(|error| format!("{}: {error}", logs.display()))?;
    let bench = Bench::new(logs, prepared, until)?;
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
        match copy::alone(workspace, one, until >= Until::Model)? {
            Some(programs) => told(one, &bench.fate_alone(&programs, one)?),
            None => told(one, &Fate::Unviable),
        }
    }
    let wrong = wrong.into_inner().expect("no worker panics with it");
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

impl<'a> Bench<'a> {
    /// Runs everything once without a mutant: it has to pass, and records what it reaches.
    fn new(logs: PathBuf, prepared: &'a Prepared, until: Until) -> Result<Self, String> {
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
        if until >= Until::Simulation {
            let began = Instant::now();
            let reached = bench.reached(HUNT, &["0", &SCHEDULES.to_string()])?;
            let took = began.elapsed();
            println!("simulation: {} mutants reached, {:.1} s", reached.len(), took.as_secs_f64());
            bench.schedules = Some(Reach { tests: BTreeMap::from([(String::new(), reached)]), took });
        }
        if until >= Until::Model {
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

    /// The mutants that a program reaches.
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
        let log = number.to_string();
        let mut reached = BTreeSet::new();
        let mut show = |by, program: &str, arguments: &[String], took: Duration| {
            reached.insert(by);
            let mut command = Command::new(self.program(programs, program)?);
            command.env(SWITCH, &log).args(arguments);
            let caught = |by, what, hung| Ok::<_, String>(Some(Fate::Caught { by, what, hung }));
            match self.end(command, &log, PATIENCE.max(took * SLOWER))? {
                End::Passed => Ok(None),
                End::Failed(text) => {
                    let (by, what) = finding(by, program, &text);
                    caught(by, what, false)
                }
                End::Hung => caught(by, program.to_owned(), true),
            }
        };
        let exact = |tests| [vec!["--exact".to_owned()], tests].concat();
        for (program, reach) in &self.rules {
            let tests = reaching(&reach.tests);
            if !tests.is_empty()
                && let Some(fate) = show(Stage::Rules, program, &exact(tests), reach.took)?
            {
                return Ok(fate);
            }
        }
        if let Some(schedules) = &self.schedules
            && !reaching(&schedules.tests).is_empty()
            && let Some(fate) =
                show(Stage::Simulation, HUNT, &["0".to_owned(), SCHEDULES.to_string()], schedules.took)?
        {
            return Ok(fate);
        }
        if let Some(model) = &self.model
            && !reaching(&model.tests).is_empty()
            && let Some(fate) = show(Stage::Model, MODEL.0, &exact(vec![MODEL.1.to_owned()]), model.took)?
        {
            return Ok(fate);
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
            // Fails if the child has ended already.
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

/// What a failed program has found, and as which stage it counts.
fn finding(by: Stage, program: &str, text: &str) -> (Stage, String) {
    match by {
        Stage::Rules => {
            let failed =
                |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
            let test = text.lines().find_map(failed).unwrap_or_else(|| "it ended early".to_owned());
            (by, format!("{program}::{test}"))
        }
        Stage::Simulation => {
            let seed = text.lines().last().and_then(|line| line.split('\t').next()).unwrap_or_default();
            (by, format!("seed {seed}"))
        }
        Stage::Model | Stage::States => {
            let only_states = ["the number of states changed", "the model proves nothing about"];
            let is_it = only_states.iter().any(|words| text.contains(words));
            (if is_it { Stage::States } else { Stage::Model }, MODEL.1.to_owned())
        }
    }
}

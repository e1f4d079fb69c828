//! The program `harness`: the demo, the benches, the model check, random schedules, seeded bugs and mutants.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use clap::{Parser, Subcommand};
use regex::Regex;
use reloop_rig::daemon::workspace;
use reloop_sim::model;
use reloop_sim::simulation::hunt::Hunt;
use reloop_sim::simulation::{self, file, hunt};
use reloop_tools::breaks::{self, Break, run};
use reloop_tools::mutants::report::{Fates, page};
use reloop_tools::mutants::run::{Fate, Until};
use reloop_tools::mutants::{self, Mutant, copy};
use reloop_tools::{bench, demo};

/// The same allocator as the master's: a bench runs a master inside this program and compares it with the real one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Demo, benches and checks of Reloop.
#[derive(Parser)]
#[command(name = "harness", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run a master and three slaves, cut a cable, kill an agent, and show that nothing is lost (needs only Rust)
    Demo {
        /// Exit when the story is over; the status is 0 only if everything came out right. Without it, the master and
        /// the slaves stay up
        #[arg(long)]
        once: bool,
    },
    /// Measure the performance of whole processes beside peers (build with `cargo build --profile dist --bins`)
    Bench {
        /// Benches to run [default: all]
        names: Vec<String>,
        /// Number of slaves or jobs [default: as the bench's aim says]
        #[arg(long)]
        size: Option<usize>,
        /// Rounds per bench
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Store the results in docs/performance.json and print docs/performance.md
        #[arg(long)]
        keep: bool,
        /// Only print docs/performance.md from the stored results
        #[arg(long)]
        print: bool,
        /// Only check that a few important ratios have not become worse; exit with 1 if one has
        #[arg(long)]
        guard: bool,
        #[arg(long, hide = true)]
        bare_server: Option<SocketAddr>,
        #[arg(long, hide = true)]
        bare_http: Option<SocketAddr>,
        #[arg(long, hide = true, requires = "data_dir")]
        forgetful: Option<SocketAddr>,
        #[arg(long, hide = true)]
        data_dir: Option<PathBuf>,
    },
    /// Check every state of small floors: every fault at every moment, within the limits of a configuration
    Model {
        /// Configuration to check [default: all]
        name: Option<String>,
        /// List the configurations
        #[arg(long)]
        list: bool,
        /// Find the shortest way to a failure (needs much more memory)
        #[arg(long)]
        shortest: bool,
        /// Number of threads
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Play random schedules of faults against the rules of both nodes; stop at the first failure
    Simulate {
        /// Number of schedules
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// First seed
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Slaves in each schedule [default: by the seed]
        #[arg(long)]
        slaves: Option<usize>,
        /// Jobs in each schedule [default: by the seed]
        #[arg(long)]
        jobs: Option<usize>,
        /// Go on after a failure, and keep one schedule for each kind of failure
        #[arg(long)]
        all: bool,
        /// Directory for schedules that fail
        #[arg(long, default_value = "target/schedules")]
        keep: PathBuf,
    },
    /// Play a schedule from a file, and print every event, its effects and writes
    Replay {
        /// File of the schedule
        file: PathBuf,
        /// Wait for Enter before each act
        #[arg(long)]
        step: bool,
    },
    /// Check that the tests can fail: build seeded bugs into a copy of the workspace and run the tests against each;
    /// exit with 1 if one is not noticed
    Breaks(Breaks),
    /// Check that the tests can fail: run them against every mutant of the rules that cargo-mutants lists, and write
    /// docs/mutants.md; exit with 1 if too few are noticed or a survivor is not explained
    Mutants(Mutants),
}

#[derive(clap::Args)]
struct Mutants {
    /// Only mutants k, k+n, k+2n, ... (k/n)
    #[arg(long)]
    shard: Option<String>,
    /// Only mutants whose name matches this regular expression
    #[arg(long)]
    only: Option<Regex>,
    /// List the mutants, and run nothing
    #[arg(long)]
    list: bool,
    /// Only mutants that have not been noticed in earlier runs
    #[arg(long)]
    again: bool,
    /// Last stage to try; each takes much longer than the one before
    #[arg(long, value_enum, default_value_t = Until::Model)]
    until: Until,
    /// Only write the page from earlier results
    #[arg(long)]
    report: bool,
}

#[derive(clap::Args)]
struct Breaks {
    /// Seeded bugs to try [default: all]
    names: Vec<String>,
    /// List the seeded bugs, and run nothing
    #[arg(long)]
    list: bool,
    /// Run every test of the rules and the simulation against each seeded bug, and list all that notice
    #[arg(long)]
    survey: bool,
    /// Only make and build the copies
    #[arg(long)]
    build: bool,
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
        Verb::Bench { bare_server: Some(addr), .. } => report(bench::bare_server(addr).map(|()| true)),
        Verb::Bench { bare_http: Some(addr), .. } => report(bench::bare_http(addr).map(|()| true)),
        Verb::Bench { forgetful: Some(addr), data_dir: Some(dir), .. } => {
            report(bench::forgetful(addr, &dir).map(|()| true))
        }
        Verb::Bench { print: true, .. } => report(bench::document::print().map(|()| true)),
        Verb::Bench { guard: true, .. } => report(bench::guard::run()),
        Verb::Bench { names, size, rounds, keep, .. } => {
            report(bench::run(&names, size, rounds, keep).map(|()| true))
        }
        Verb::Mutants(mutants) => report(mutants.run().map_err(anyhow::Error::msg)),
        Verb::Breaks(breaks) => report(breaks.run().map_err(anyhow::Error::msg)),
        Verb::Model { list: true, .. } => model::list(),
        Verb::Model { name, shortest, threads, list: false } => {
            let search = if shortest { model::Search::Shortest } else { model::Search::Deep };
            model::check(name.as_deref(), search, threads)
        }
        Verb::Simulate { seeds, from, slaves, jobs, all, keep } => {
            report(simulate(Hunt { from, seeds, slaves, jobs, all }, &keep))
        }
        Verb::Replay { file, step } => report(replay(&file, step)),
    }
}

fn report(result: Result<bool>) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // The program's only place that prints errors.
            #[expect(clippy::print_stderr)]
            {
                eprintln!("{error:#}");
            }
            ExitCode::from(2)
        }
    }
}

impl Breaks {
    /// True if every seeded bug was noticed.
    fn run(self) -> Result<bool, String> {
        let all = breaks::all();
        let known = |name: &str| all.iter().any(|one| one.name == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            return Err(format!("there is no seeded bug {name}: see `--list`"));
        }
        let chosen = |one: &&Break| self.names.is_empty() || self.names.iter().any(|name| name == one.name);
        let chosen: Vec<Break> = all.iter().filter(chosen).cloned().collect();
        if self.list {
            for one in chosen {
                println!("{}: {} ({})\n    {}", one.name, one.what, one.place, one.caught_by.join("\n    "));
            }
            return Ok(true);
        }
        let wrong = breaks::rotten(workspace(), &all);
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        if self.build {
            run::build(workspace(), &all)?;
            return Ok(true);
        }
        let mut rows = Vec::new();
        let of_rules = |one: &&Break| self.survey || one.is_hunted() || !one.rule_tests().is_empty();
        let of_rules: Vec<_> = chosen.iter().filter(of_rules).cloned().collect();
        if !of_rules.is_empty() {
            rows.extend(run::rules(workspace(), &all, &of_rules, self.survey)?);
        }
        let of_processes: Vec<_> =
            chosen.iter().filter(|one| !one.process_tests().is_empty()).cloned().collect();
        if !self.survey && !of_processes.is_empty() {
            rows.extend(run::processes(workspace(), &all, &of_processes)?);
        }
        println!("\n{}", run::table(&rows));
        let survived = rows.iter().filter(|row| !row.caught).count();
        if survived > 0 {
            println!("{survived} of {} checks did not notice their seeded bug", rows.len());
        }
        Ok(survived == 0)
    }
}

impl Mutants {
    /// True if enough were noticed and every survivor is explained.
    fn run(self) -> Result<bool, String> {
        let all = mutants::list(workspace())?;
        let mut chosen = self.chosen(&all)?;
        if self.list {
            chosen.iter().for_each(|one| println!("{:>4} {}", one.piece.number, one.name));
            return Ok(true);
        }
        // Results of earlier runs.
        let path = workspace().join("target/mutants/fates.json");
        let about = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let old: Fates = match std::fs::read(&path) {
            Ok(bytes) if self.again || self.report => {
                serde_json::from_slice(&bytes).map_err(|e| about(&e))?
            }
            Ok(_) | Err(_) => Fates::new(),
        };
        let whole = chosen.len() == all.len();
        if self.again {
            chosen.retain(|one| matches!(old.get(&one.name), None | Some(Fate::Survived { .. })));
        }
        let fates = Mutex::new(old);
        if !self.report {
            let prepared = copy::prepare(workspace(), &all, self.until >= Until::Model)?;
            let left = AtomicUsize::new(chosen.len());
            let told = |one: &Mutant, fate: &Fate| {
                let left = left.fetch_sub(1, Ordering::Relaxed) - 1;
                println!("{left:>4} left: {} {fate:?}", one.name);
                let mut fates = fates.lock().expect("no worker panics with it");
                fates.insert(one.name.clone(), fate.clone());
                // Stored after each, so that `--again` can continue an interrupted run.
                if let Ok(bytes) = serde_json::to_vec(&*fates) {
                    drop(std::fs::write(&path, bytes));
                }
            };
            mutants::run::run(workspace(), &prepared, &chosen, self.until, told)?;
        }
        let fates = fates.into_inner().expect("no worker panics with it");
        let bytes = serde_json::to_vec(&fates).map_err(|e| about(&e))?;
        std::fs::write(&path, bytes).map_err(|e| about(&e))?;
        if !whole {
            let survived = |one: &&Mutant| matches!(fates.get(&one.name), Some(Fate::Survived { .. }));
            let survived: Vec<_> = chosen.iter().filter(survived).collect();
            println!("\n{} of {} survived", survived.len(), chosen.len());
            survived.iter().for_each(|one| println!("{}", one.name));
            return Ok(survived.is_empty());
        }
        let (text, wrong) = page(&all, &fates, mutants::EXPLAINED);
        let place = workspace().join("docs/mutants.md");
        std::fs::write(&place, &text).map_err(|e| format!("{}: {e}", place.display()))?;
        println!("\n{text}");
        wrong.iter().for_each(|wrong| println!("{wrong}"));
        Ok(wrong.is_empty())
    }

    fn chosen(&self, all: &[Mutant]) -> Result<Vec<Mutant>, String> {
        let shard = self.shard.as_deref().map(|text| {
            let (k, n) = text.split_once('/')?;
            let (k, n): (usize, usize) = (k.parse().ok()?, n.parse().ok()?);
            (k < n).then_some((k, n))
        });
        let (k, n) = match shard {
            None => (0, 1),
            Some(Some(shard)) => shard,
            Some(None) => return Err("a shard is k/n with k from 0 to n - 1".to_owned()),
        };
        let named = |one: &&Mutant| self.only.as_ref().is_none_or(|only| only.is_match(&one.name));
        Ok(all.iter().filter(|one| one.piece.number % n == k).filter(named).cloned().collect())
    }
}

/// True if no invariant broke.
fn simulate(hunt: Hunt, keep: &Path) -> Result<bool> {
    let bag = hunt::hunt(hunt);
    print!("{}", bag.tell()?);
    if bag.found.is_empty() {
        println!("no invariant breaks");
        return Ok(true);
    }
    for found in bag.found.into_values() {
        println!("\n{}", hunt::keep(keep, found)?.1);
    }
    Ok(false)
}

/// True if no invariant broke.
fn replay(file: &Path, step: bool) -> Result<bool> {
    let schedule = file::open(file)?;
    println!("seed {}, {} slaves", schedule.head.seed, schedule.head.slaves.len());
    if let Some(note) = &schedule.head.note {
        println!("{note}");
    }
    let mut lines = std::io::stdin().lines();
    let played = simulation::watch(&schedule, true, &mut |number, act| {
        match act {
            Some(act) => println!("\n== {} {act:?}", number + 1),
            None => println!("\n== healing"),
        }
        if step {
            // At the end of the input it goes on without waiting.
            let _ = lines.next();
        }
    });
    match played {
        Ok(outcome) => println!("\nno invariant breaks: {:?}", outcome.ended),
        Err(failure) => {
            println!("\n{}", failure.broken);
            return Ok(false);
        }
    }
    Ok(true)
}

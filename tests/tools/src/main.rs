//! The harness as a program: what of it is for people to run and to look at.

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

/// The master's own: one that keeps nothing is compared with it, and what is bare beside it has no worse.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Shows and exercises Reloop with real processes on this machine.
#[derive(Parser)]
#[command(name = "harness", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// One master, three slaves, a cut cable and a killed agent, in under a minute. Needs nothing but Rust.
    Demo {
        /// End when the story is over, instead of leaving the master up to play with; exit 0 only if all came out right.
        #[arg(long)]
        once: bool,
    },
    /// Measures whole processes, in turn with a peer. Build with `--release`.
    Bench {
        /// The benches to run; all if none is named.
        names: Vec<String>,
        /// How many slaves or jobs; without it, as many as the bench's aim is about.
        #[arg(long)]
        size: Option<usize>,
        /// How often each is measured.
        #[arg(long, default_value_t = 5)]
        rounds: usize,
        /// Keep what was found in docs/performance.json, and print docs/performance.md anew.
        #[arg(long)]
        keep: bool,
        /// Only print docs/performance.md anew.
        #[arg(long)]
        print: bool,
        /// Measure nothing but the few ratios that must not be lost; exit 1 if one is.
        #[arg(long)]
        guard: bool,
        /// Be the server that does nothing else, at this address.
        #[arg(long, hide = true)]
        bare_server: Option<SocketAddr>,
        /// Be the web server that answers at once, at this address.
        #[arg(long, hide = true)]
        bare_http: Option<SocketAddr>,
        /// Be a master that keeps nothing, at this address.
        #[arg(long, hide = true, requires = "data_dir")]
        forgetful: Option<SocketAddr>,
        /// Where that master has its files.
        #[arg(long, hide = true)]
        data_dir: Option<PathBuf>,
    },
    /// Enumerates every state of a small floor, with every fault at every moment: all configurations, or one.
    Model {
        /// The configuration to check; all if none is named.
        name: Option<String>,
        /// List the configurations.
        #[arg(long)]
        list: bool,
        /// The number of faults, in place of the configuration's.
        #[arg(long)]
        faults: Option<u8>,
        /// The number of people's deeds, in place of the configuration's.
        #[arg(long)]
        deeds: Option<u8>,
        /// Find the shortest way to what does not hold; this needs much more memory.
        #[arg(long)]
        shortest: bool,
        /// How many threads search.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
    /// Random schedules of faults over both nodes' rules, without processes: stops at the first that breaks something.
    Simulate {
        /// How many schedules.
        #[arg(long, default_value_t = 10_000)]
        seeds: u64,
        /// The first seed.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Slaves in each schedule; by default the seed decides.
        #[arg(long)]
        slaves: Option<usize>,
        /// Jobs in each schedule; by default the seed decides.
        #[arg(long)]
        jobs: Option<usize>,
        /// Go on when something breaks, and keep one schedule of each way in which something does.
        #[arg(long)]
        all: bool,
        /// The directory for schedules that break something.
        #[arg(long, default_value = "target/schedules")]
        keep: PathBuf,
    },
    /// Plays a schedule from a file, and prints every event, what came of it and what was written.
    Replay {
        /// The file of the schedule.
        file: PathBuf,
        /// Wait for Enter before each act.
        #[arg(long)]
        step: bool,
    },
    /// Can the tests fail? Breaks rules on purpose, one after the other, in a doctored copy of the workspace, and tells
    /// which tests notice. Exit 1 if a break survives.
    Breaks(Breaks),
    /// Can the tests fail? Tries every mutant of the rules that cargo-mutants knows, in a doctored copy of them, and prints
    /// the page docs/mutants.md. Exit 1 if too few are noticed, or if one survives that is not explained.
    Mutants(Mutants),
}

/// Which mutants to try.
#[derive(clap::Args)]
struct Mutants {
    /// Only every nth, beginning with the kth: `k/n`.
    #[arg(long)]
    shard: Option<String>,
    /// Only those whose name matches this regular expression.
    #[arg(long)]
    only: Option<Regex>,
    /// List them, and run nothing.
    #[arg(long)]
    list: bool,
    /// Only those that have not been noticed so far; what was found earlier is kept.
    #[arg(long)]
    again: bool,
    /// Try no more than this: each stage takes much longer than the one before.
    #[arg(long, value_enum, default_value_t = Until::Model)]
    until: Until,
    /// Print the page from what is known, and run nothing.
    #[arg(long)]
    report: bool,
    /// Where the page goes; only a whole run writes it.
    #[arg(long, default_value = "docs/mutants.md")]
    page: PathBuf,
}

/// What of the breaks to run.
#[derive(clap::Args)]
struct Breaks {
    /// The breaks to try; all if none is named.
    names: Vec<String>,
    /// List them, and run nothing.
    #[arg(long)]
    list: bool,
    /// Only what tests of the rules and the simulation are to notice: no processes.
    #[arg(long, conflicts_with = "processes")]
    rules: bool,
    /// Only what tests with real processes are to notice.
    #[arg(long)]
    processes: bool,
    /// Try every test of the rules and the simulation on each break, and tell all that notice.
    #[arg(long, conflicts_with = "processes")]
    survey: bool,
    /// Make and build the doctored copies, and run nothing.
    #[arg(long)]
    build: bool,
    /// Take it for granted that the tests with processes pass while nothing is broken.
    #[arg(long)]
    assume_sound: bool,
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
        Verb::Model { name, faults, deeds, shortest, threads, list: false } => {
            let instead = model::Instead { faults, deeds };
            let search = if shortest { model::Search::Shortest } else { model::Search::Deep };
            model::check(name.as_deref(), instead, search, threads)
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
            // The program's one place for errors.
            #[expect(clippy::print_stderr)]
            {
                eprintln!("{error:#}");
            }
            ExitCode::from(2)
        }
    }
}

impl Breaks {
    /// Whether nothing survived.
    fn run(self) -> Result<bool, String> {
        let all = breaks::all();
        let known = |name: &str| all.iter().any(|one| one.name == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            return Err(format!("there is no break {name}: `--list` names them"));
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
            run::build(workspace(), &all, self.rules, self.processes)?;
            return Ok(true);
        }
        let mut rows = Vec::new();
        let of_rules = |one: &&Break| self.survey || one.is_hunted() || !one.rule_tests().is_empty();
        let of_rules: Vec<_> = chosen.iter().filter(of_rules).cloned().collect();
        if !self.processes && !of_rules.is_empty() {
            rows.extend(run::rules(workspace(), &all, &of_rules, self.survey)?);
        }
        let of_processes: Vec<_> =
            chosen.iter().filter(|one| !one.process_tests().is_empty()).cloned().collect();
        if !self.rules && !self.survey && !of_processes.is_empty() {
            rows.extend(run::processes(workspace(), &all, &of_processes, !self.assume_sound)?);
        }
        println!("\n{}", run::table(&rows));
        let survived = rows.iter().filter(|row| !row.caught).count();
        if survived > 0 {
            println!("{survived} times of {} a break was not noticed", rows.len());
        }
        Ok(survived == 0)
    }
}

/// What earlier runs have found.
const FATES: &str = "target/mutants/fates.json";

impl Mutants {
    /// Whether enough were noticed, and the others are explained.
    fn run(self) -> Result<bool, String> {
        let all = mutants::list(workspace())?;
        let mut chosen = self.chosen(&all)?;
        if self.list {
            chosen.iter().for_each(|one| println!("{:>4} {}", one.piece.number, one.name));
            return Ok(true);
        }
        let path = workspace().join(FATES);
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
                // So that `--again` goes on where a run was ended.
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
        let place = workspace().join(&self.page);
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

/// Whether nothing broke.
fn simulate(hunt: Hunt, keep: &Path) -> Result<bool> {
    let bag = hunt::hunt(hunt);
    print!("{}", bag.tell()?);
    if bag.found.is_empty() {
        println!("nothing breaks");
        return Ok(true);
    }
    for found in bag.found.into_values() {
        println!("\n{}", hunt::keep(keep, found)?.1);
    }
    Ok(false)
}

/// Whether nothing broke.
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
            None => println!("\n== everything is healed"),
        }
        if step {
            // At the end of the input it goes on without waiting.
            let _ = lines.next();
        }
    });
    match played {
        Ok(outcome) => println!("\nnothing breaks: {:?}", outcome.ended),
        Err(failure) => {
            println!("\n{}", failure.broken);
            return Ok(false);
        }
    }
    Ok(true)
}

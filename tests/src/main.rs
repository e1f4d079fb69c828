//! The harness as a program: what of it is for people to run and to look at.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reloop_tests::breaks::{self, Break, run};
use reloop_tests::daemon::workspace;
use reloop_tests::demo;

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
    /// Can the tests fail? Breaks rules on purpose, one after the other, in a doctored copy of the workspace, and tells
    /// which tests notice. Exit 1 if a break survives.
    Breaks(Breaks),
}

/// What of the breaks to run.
#[derive(clap::Args)]
struct Breaks {
    /// Only these; all if none is named.
    names: Vec<String>,
    /// Say what there is, and run nothing.
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
        Verb::Breaks(breaks) => breaks.run().unwrap_or_else(|error| fail(&error)),
    }
}

impl Breaks {
    fn run(self) -> Result<ExitCode, String> {
        let all = breaks::all();
        let known = |name: &str| all.iter().any(|one| one.name == name);
        if let Some(name) = self.names.iter().find(|name| !known(name)) {
            return Err(format!("there is no break {name}: `--list` names them"));
        }
        let chosen = |one: &&Break| self.names.is_empty() || self.names.iter().any(|name| name == one.name);
        let chosen: Vec<Break> = all.iter().filter(chosen).copied().collect();
        if self.list {
            for one in chosen {
                println!("{}: {} ({})\n    {}", one.name, one.what, one.file, one.caught_by.join("\n    "));
            }
            return Ok(ExitCode::SUCCESS);
        }
        let wrong = breaks::rotten(workspace(), &all);
        if !wrong.is_empty() {
            return Err(wrong.join("\n"));
        }
        if self.build {
            run::build(workspace(), &all, self.rules, self.processes)?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut rows = Vec::new();
        let of_rules = |one: &&Break| self.survey || one.is_hunted() || !one.rule_tests().is_empty();
        let of_rules: Vec<_> = chosen.iter().filter(of_rules).copied().collect();
        if !self.processes && !of_rules.is_empty() {
            rows.extend(run::rules(workspace(), &all, &of_rules, self.survey)?);
        }
        let of_processes: Vec<_> =
            chosen.iter().filter(|one| !one.process_tests().is_empty()).copied().collect();
        if !self.rules && !self.survey && !of_processes.is_empty() {
            rows.extend(run::processes(workspace(), &all, &of_processes, !self.assume_sound)?);
        }
        println!("\n{}", run::table(&rows));
        match rows.iter().filter(|row| !row.caught).count() {
            0 => Ok(ExitCode::SUCCESS),
            survived => Err(format!("{survived} times of {} a break was not noticed", rows.len())),
        }
    }
}

fn fail(text: &str) -> ExitCode {
    use std::io::Write as _;
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}

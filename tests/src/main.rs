//! The harness as a program: what of it is for people to run and to look at.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reloop_tests::breaks::{self, Break};
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
    Breaks {
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
        /// Take it for granted that the tests with processes pass while nothing is broken.
        #[arg(long)]
        assume_sound: bool,
    },
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
        Verb::Breaks { names, list, rules, processes, survey, assume_sound } => {
            let all = breaks::all();
            let unknown: Vec<_> = names.iter().filter(|name| all.iter().all(|one| one.name != **name)).collect();
            if !unknown.is_empty() {
                return fail(&format!("no such break: {unknown:?}; `--list` names them"));
            }
            let chosen: Vec<Break> =
                all.iter().filter(|one| names.is_empty() || names.iter().any(|name| name == one.name)).copied().collect();
            if list {
                for one in chosen {
                    println!("{}: {} ({})\n    {}", one.name, one.what, one.file, one.caught_by.join("\n    "));
                }
                return ExitCode::SUCCESS;
            }
            let wrong = breaks::rotten(workspace(), &all);
            if !wrong.is_empty() {
                return fail(&wrong.join("\n"));
            }
            let of_rules = |one: &&Break| survey || one.is_hunted() || !one.rule_tests().is_empty();
            let at_rules: Vec<_> = chosen.iter().filter(of_rules).filter(|_| !processes).copied().collect();
            let with_processes = |one: &&Break| !rules && !survey && !one.process_tests().is_empty();
            let in_processes: Vec<_> = chosen.iter().filter(with_processes).copied().collect();
            let mut rows = Vec::new();
            if !at_rules.is_empty() {
                match breaks::run::rules(workspace(), &all, &at_rules, survey) {
                    Ok(found) => rows.extend(found),
                    Err(error) => return fail(&error),
                }
            }
            if !in_processes.is_empty() {
                match breaks::run::processes(workspace(), &all, &in_processes, !assume_sound) {
                    Ok(found) => rows.extend(found),
                    Err(error) => return fail(&error),
                }
            }
            println!("\n{}", breaks::run::table(&rows));
            let survived = rows.iter().filter(|row| !row.caught).count();
            if survived == 0 || survey {
                return ExitCode::SUCCESS;
            }
            fail(&format!("{survived} of {} catchers did not notice their break", rows.len()))
        }
    }
}

fn fail(text: &str) -> ExitCode {
    use std::io::Write as _;
    // Nobody is left to hear that standard error is closed.
    let _ = writeln!(std::io::stderr(), "{text}");
    ExitCode::FAILURE
}

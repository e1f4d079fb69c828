//! The harness as a program: what of it is for people to run and to look at.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
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
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
    }
}

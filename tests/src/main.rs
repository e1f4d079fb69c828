//! The harness as a program: what of it is for people to run and to look at.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reloop_tests::{demo, model};

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
    /// Enumerates every state of a small floor, with every fault at every moment: all configurations, or one.
    Model {
        /// Which configuration.
        name: Option<String>,
        /// Tell which there are.
        #[arg(long)]
        list: bool,
        /// So many faults, instead of what the configuration says.
        #[arg(long)]
        faults: Option<u8>,
        /// So many deeds of people, instead of what the configuration says.
        #[arg(long)]
        deeds: Option<u8>,
        /// Find the shortest way to what does not hold; this needs much more memory.
        #[arg(long)]
        shortest: bool,
        /// How many threads search.
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
        Verb::Model { list: true, .. } => model::list(),
        Verb::Model { name, faults, deeds, shortest, threads, list: false } => {
            let instead = model::Instead { faults, deeds };
            let search = if shortest { model::Search::Shortest } else { model::Search::Deep };
            model::check(name.as_deref(), instead, search, threads)
        }
    }
}

//! The harness as a program: what of it is for people to run and to look at.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reloop_tests::{bench, demo};

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
        /// Which; all if none is named.
        names: Vec<String>,
        /// How many slaves.
        #[arg(long, default_value_t = 1000)]
        size: usize,
        /// How often each is measured.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// Be the server that does nothing else, at this address.
        #[arg(long, hide = true)]
        bare_server: Option<SocketAddr>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
        Verb::Bench { bare_server: Some(addr), .. } => told(bench::bare_server(addr)),
        Verb::Bench { names, size, rounds, .. } => told(bench::run(&names, size, rounds)),
    }
}

fn told(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error:?}");
            ExitCode::FAILURE
        }
    }
}

//! The harness as a program: what of it is for people to run and to look at.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use reloop_tests::{demo, store_load};

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
    /// Writes to a store until it is killed, and says what was acknowledged: the power-cut test's worker.
    #[command(hide = true)]
    StoreLoad {
        /// The store's directory.
        dir: PathBuf,
    },
}

fn main() -> ExitCode {
    match Cli::parse().verb {
        Verb::Demo { once } => demo::run(once),
        Verb::StoreLoad { dir } => match store_load::write(&dir) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                complain(&error.to_string());
                ExitCode::FAILURE
            }
        },
    }
}

fn complain(text: &str) {
    use std::io::Write as _;
    // There is nobody else to tell.
    let _ = writeln!(std::io::stderr().lock(), "harness: {text}");
}

//! `reloop serve` is the master; every other subcommand is its client.

use std::process::ExitCode;

fn main() -> ExitCode {
    reloop_master::cli::main()
}

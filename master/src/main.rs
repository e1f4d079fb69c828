//! `reloop serve` is the master; every other subcommand is its client.

use std::process::ExitCode;

/// glibc's allocator took a sixth of the time that the master needs for an order: see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    reloop_master::cli::main()
}

//! `reloop serve` is the master; every other subcommand is its client.

use std::process::ExitCode;

/// glibc's spent a sixth of what the master does for an order; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    reloop_master::cli::main()
}

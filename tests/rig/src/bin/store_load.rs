//! A worker for the power cuts and the crash states: writes to a store and prints what was acknowledged.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use reloop_rig::store_load::{self, End, Shape};

/// Write to a store and print each acknowledged batch
#[derive(Parser)]
struct Cli {
    /// The store's directory
    dir: PathBuf,
    /// The node whose store it resembles
    #[arg(long, value_enum, default_value = "master")]
    shape: Shape,
    /// Number of commits [default: until it is killed]
    #[arg(long)]
    commits: Option<u64>,
    /// How it ends after the last commit
    #[arg(long, value_enum, default_value = "close")]
    end: End,
}

fn main() -> Result<()> {
    let Cli { dir, shape, commits, end } = Cli::parse();
    Ok(store_load::write(&dir, shape, commits, end)?)
}

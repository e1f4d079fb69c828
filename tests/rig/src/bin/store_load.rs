//! Writes to a store, and says what was acknowledged: the worker of the power cuts and of the crash states.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use reloop_rig::store_load::{self, End, Shape};

/// Writes to a store, and says what was acknowledged.
#[derive(Parser)]
struct Cli {
    /// The store's directory.
    dir: PathBuf,
    /// Whose store it resembles.
    #[arg(long, value_enum, default_value = "master")]
    shape: Shape,
    /// How many commits it makes; without a number it goes on until it is killed.
    #[arg(long)]
    commits: Option<u64>,
    /// How it ends after that.
    #[arg(long, value_enum, default_value = "close")]
    end: End,
}

fn main() -> Result<()> {
    let Cli { dir, shape, commits, end } = Cli::parse();
    Ok(store_load::write(&dir, shape, commits, end)?)
}

//! Benches of whole processes: `harness bench NAME`.
//!
//! A result means something beside another of the same run, on the same computer, in turn with it: each bench runs its peer
//! between its own rounds, and shows the ratio of neighbours. The results are stored as data beside the documentation
//! ([`document`]), and docs/performance.md is printed from them.

mod backlog;
mod bare;
pub mod document;
mod flow;
mod footprint;
mod full_loop;
mod growth;
pub mod guard;
mod handshake;
mod history;
mod intake;
mod latency;
mod links;
mod mqtt;
mod peers;
mod process;
mod report;
mod rules;
mod stats;
mod storm;
mod swarm;

use std::net::SocketAddr;
use std::path::Path;

use self::process::runtime;
use self::report::Report;

/// Every bench, by name, in the order of the document.
pub const NAMES: [&str; 12] = [
    "storm",
    "links",
    "intake",
    "latency",
    "flow",
    "loop",
    "backlog",
    "history",
    "footprint",
    "handshake",
    "rules",
    "growth",
];

/// Runs the named benches, or all if no name is given, and stores their results if `keep` is set. `size` is the number of
/// slaves or jobs; by default that of the bench's aim.
///
/// # Errors
/// A name is unknown, or a bench has failed.
pub fn run(names: &[String], size: Option<usize>, rounds: usize, keep: bool) -> anyhow::Result<()> {
    for name in names {
        anyhow::ensure!(NAMES.contains(&name.as_str()), "no bench is called {name:?}: there are {NAMES:?}");
    }
    for name in NAMES.into_iter().filter(|name| names.is_empty() || names.iter().any(|n| n == name)) {
        let mut report = Report::new(name);
        println!("{name}, beside a load of {}", report.load);
        match name {
            // On this thread, without a runtime, so that only the rules are measured.
            "rules" => rules::run(rounds, &mut report)?,
            _ => runtime()?.block_on(one(name, size, rounds, &mut report))?,
        }
        if keep {
            document::keep(report)?;
        }
    }
    Ok(())
}

async fn one(name: &str, size: Option<usize>, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    match name {
        "handshake" => handshake::run(report).await,
        "backlog" => backlog::run(size.unwrap_or(1_000_000), rounds, report).await,
        "footprint" => footprint::run(report).await,
        "history" => history::run(size.unwrap_or(1_000_000), rounds, report).await,
        "flow" => flow::run(size.unwrap_or(1000), rounds, report).await,
        "loop" => full_loop::run(size.unwrap_or(10_000), rounds, report).await,
        "latency" => latency::run(rounds, report).await,
        "growth" => growth::run(size.unwrap_or(10_000), rounds, report).await,
        "intake" => intake::run(rounds, report).await,
        "links" => links::run(size.unwrap_or(10_000), report).await,
        _ => storm::run(&size.map_or(vec![5000, 10_000], |size| vec![size]), rounds, report).await,
    }
}

/// Runs the peer of the storm until the process is killed.
///
/// # Errors
/// The address is taken.
pub fn bare_server(addr: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(bare::serve(addr))
}

/// Runs the bare HTTP peer of the intake until the process is killed.
///
/// # Errors
/// The address is taken.
pub fn bare_http(addr: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(intake::answer(addr))
}

/// Runs the intake's master without a durable store until the process is killed.
///
/// # Errors
/// It can't start.
pub fn forgetful(addr: SocketAddr, data_dir: &Path) -> anyhow::Result<()> {
    runtime()?.block_on(intake::forget(addr, data_dir))
}

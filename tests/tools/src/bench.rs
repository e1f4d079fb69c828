//! Benches of whole processes: `harness bench NAME`.
//!
//! A figure is worth something beside another that was taken in the same run, on the same machine, in turn with it.
//! So each bench runs its peer between its own rounds, and quotes the ratio of neighbours. What was found is kept as data
//! beside the documentation ([`document`]), and docs/performance.md is printed from there.

pub mod backlog;
pub mod bare;
pub mod document;
pub mod flow;
pub mod footprint;
pub mod full_loop;
pub mod growth;
pub mod guard;
pub mod handshake;
pub mod history;
pub mod intake;
pub mod latency;
pub mod links;
pub mod mqtt;
pub mod peers;
pub mod report;
pub mod rules;
pub mod stats;
pub mod storm;
pub mod swarm;

use std::net::SocketAddr;
use std::path::Path;

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

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().thread_name("bench").enable_all().build()
}

/// Runs the benches of these names, all if there is none, and keeps what they found. `size` is how many slaves or jobs;
/// without it each has the size that its aim is about.
///
/// # Errors
/// A name is not known, or something did not come to be that was to be measured.
pub fn run(names: &[String], size: Option<usize>, rounds: usize, keep: bool) -> anyhow::Result<()> {
    for name in names {
        anyhow::ensure!(NAMES.contains(&name.as_str()), "no bench is called {name:?}: there are {NAMES:?}");
    }
    for name in NAMES.into_iter().filter(|name| names.is_empty() || names.iter().any(|n| n == name)) {
        let mut report = Report::new(name);
        println!("{name}, beside a load of {}", report.load);
        match name {
            // On this thread, without a runtime: they measure nothing but the rules.
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

/// Is the peer of the storm until it is killed.
///
/// # Errors
/// The address is taken.
pub fn bare_server(addr: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(bare::serve(addr))
}

/// Is the least of the intake until it is killed.
///
/// # Errors
/// The address is taken.
pub fn bare_http(addr: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(intake::answer(addr))
}

/// Is the peer of the intake until it is killed.
///
/// # Errors
/// It can't start.
pub fn forgetful(addr: SocketAddr, data_dir: &Path) -> anyhow::Result<()> {
    runtime()?.block_on(intake::forget(addr, data_dir))
}

//! Benches of whole processes: `harness bench NAME`.
//!
//! A figure is worth something beside another that was taken in the same run, on the same machine, in turn with it.
//! So each bench runs its peer between its own rounds, and quotes the ratio of neighbours.

pub mod backlog;
pub mod bare;
pub mod flow;
pub mod footprint;
pub mod full_loop;
pub mod handshake;
pub mod history;
pub mod intake;
pub mod links;
pub mod peers;
pub mod report;
pub mod stats;
pub mod storm;
pub mod swarm;

use std::net::SocketAddr;

use self::report::Report;

/// Every bench, by name.
pub const NAMES: [&str; 9] =
    ["backlog", "flow", "footprint", "handshake", "history", "intake", "links", "loop", "storm"];

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Runs the benches of these names; all if there is none.
///
/// # Errors
/// A name is not known, or something did not come to be that was to be measured.
pub fn run(names: &[String], size: usize, rounds: usize) -> anyhow::Result<()> {
    for name in names {
        anyhow::ensure!(NAMES.contains(&name.as_str()), "no bench is called {name:?}: there are {NAMES:?}");
    }
    let mut report = Report::default();
    runtime()?.block_on(async {
        for name in NAMES.into_iter().filter(|name| names.is_empty() || names.iter().any(|n| n == name)) {
            match name {
                "handshake" => handshake::run(&mut report).await?,
                "backlog" => backlog::run(size, rounds, &mut report).await?,
                "footprint" => footprint::run(&mut report).await?,
                "history" => history::run(size, rounds, &mut report).await?,
                "flow" => flow::run(size, rounds, &mut report).await?,
                "loop" => full_loop::run(size, rounds, &mut report).await?,
                "intake" => intake::run(rounds, &mut report).await?,
                "links" => links::run(size, &mut report).await?,
                _ => storm::run(size, rounds, &mut report).await?,
            }
        }
        Ok(())
    })
}

/// Is the peer of the storm until it is killed.
///
/// # Errors
/// The address is taken.
pub fn bare_server(addr: SocketAddr) -> anyhow::Result<()> {
    runtime()?.block_on(bare::serve(addr))
}

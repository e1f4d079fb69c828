//! A few figures that a change must not make worse: `harness bench --guard`, under a minute. Each is a ratio or a count that
//! the computer's load hardly changes, with a margin that only a real loss exceeds.

use super::process::runtime;
use super::stats::Sample;
use super::storm::{once, populated, resident_each};
use super::{backlog, bare, handshake, rules};

const ROUNDS: usize = 3;

const SLAVES: usize = 500;

const QUEUED: usize = 100_000;

struct Guard {
    what: &'static str,
    found: f64,
    allowed: std::ops::RangeInclusive<f64>,
}

fn flat(sizes: [usize; 3], rate: impl Fn(usize) -> anyhow::Result<f64>) -> anyhow::Result<f64> {
    let mut few = Sample::default();
    let mut many = Sample::default();
    for _ in 0..ROUNDS {
        few.push(rate(sizes[0])?);
        many.push(rate(sizes[2])?);
    }
    Ok(many.ratio(&few).median())
}

/// Measures and prints all figures; false if one is out of its range.
pub fn run() -> anyhow::Result<bool> {
    let mut guards = vec![
        Guard {
            what: "the master's rules: steps per second with 100,000 jobs by those with 10",
            found: flat(rules::STATES, |size| Ok(rules::loops(size)?[0]))?,
            allowed: 0.25..=f64::INFINITY,
        },
        Guard {
            what: "a slave's rules: steps per second with 256 jobs by those with 10",
            found: flat(rules::SLAVE_STATES, rules::progress)?,
            allowed: 0.06..=f64::INFINITY,
        },
    ];
    runtime()?.block_on(async {
        let [first, further] = handshake::bytes().await?;
        guards.push(Guard { what: "bytes of a handshake with two jobs", found: first, allowed: 0.0..=600.0 });
        guards.push(Guard { what: "bytes for each further job", found: further, allowed: 0.0..=64.0 });
        let server = bare::Server::start(bare::free_addr()).await?;
        let (mut master, mut swarm) = populated(SLAVES, 2).await?;
        let mut storm = Sample::default();
        for _ in 0..ROUNDS {
            let (clients, took) = bare::Clients::connect(SLAVES, server.addr).await?;
            drop(clients);
            storm.push(took.as_secs_f64() / once(&mut master, &mut swarm, SLAVES).await?.0);
        }
        let memory = resident_each(&master, SLAVES)?;
        swarm.leave().await;
        guards.push(Guard {
            what: "reconnect storm: bare upgrades by slaves",
            found: storm.median(),
            allowed: 0.05..=f64::INFINITY,
        });
        guards.push(Guard { what: "KiB of memory for each slave", found: memory, allowed: 0.0..=100.0 });
        let (_, bytes) = backlog::filled(QUEUED).await?.start_again().await?;
        guards.push(Guard {
            what: "bytes of memory for each queued job of a master that was started again",
            found: bytes,
            allowed: 0.0..=500.0,
        });
        anyhow::Ok(())
    })?;
    let mut kept = true;
    for Guard { what, found, allowed } in guards {
        let is_kept = allowed.contains(&found);
        kept &= is_kept;
        println!("{} {what}: {found:.3}, allowed {allowed:?}", if is_kept { "kept" } else { "LOST" });
    }
    Ok(kept)
}

//! Reconnect storm: all slaves lose the master at once, and all come back at once.
//!
//! Each has one running and one accepted job. The clock runs from the moment they dial, with the master up again on its
//! data, until the last of them is live and the master counts them all. Beside it, alternating, the same number of bare
//! WebSocket upgrades with one round trip, against a server that does nothing else, and mosquitto, which stays up and has
//! one message of QoS 1 waiting in memory for each persistent session.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reloop_rig::process::Master;
use serde_json::json;

use super::peers::{Peer, Server};
use super::process::{cpu_seconds, resident, shipped_master};
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::swarm::{Pace, Swarm};
use super::{bare, mqtt};

/// Longer than any storm that is worth measuring.
const PATIENCE: Duration = Duration::from_secs(180);

/// Jobs of one order.
const QUANTITY: usize = 1000;

/// A master with `size` connected slaves, each with one running job and `jobs_each` in all.
pub(super) async fn populated(size: usize, jobs_each: usize) -> anyhow::Result<(Master, Swarm)> {
    let master = shipped_master().await;
    let capacity = u16::try_from(jobs_each).context("a slave keeps that many jobs")?;
    let mut swarm = Swarm::new(size, master.addr(), Pace::Endless, capacity)?;
    swarm.connect(PATIENCE).await?;
    let client = master.client();
    let mut left = size * jobs_each;
    while left > 0 {
        let quantity = left.min(QUANTITY);
        client.place(&json!({"program": "mill", "quantity": quantity}), None).await?.expect(201);
        left -= quantity;
    }
    let since = Instant::now();
    loop {
        let (running, accepted) = (jobs(&master, "running").await?, jobs(&master, "accepted").await?);
        if running == size && running + accepted == size * jobs_each {
            return Ok((master, swarm));
        }
        anyhow::ensure!(since.elapsed() < PATIENCE, "only {running} jobs run and {accepted} are accepted");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The value of a series of `/metrics`.
pub(super) async fn metric(master: &Master, series: &str) -> anyhow::Result<usize> {
    let text = master.client().get("/metrics").await?.body;
    let text = text.as_str().context("metrics are text")?;
    let line = text.lines().find(|line| line.starts_with(series)).context(series.to_owned())?;
    let value: f64 = line.rsplit(' ').next().context("a line has a value")?.parse()?;
    Ok(value as usize)
}

/// The number of jobs that have not ended.
pub(super) async fn unended(master: &Master) -> anyhow::Result<usize> {
    let text = master.client().get("/metrics").await?.body;
    let text = text.as_str().context("metrics are text")?;
    let counts = text.lines().filter(|line| line.starts_with("reloop_jobs{"));
    let counts = counts.map(|line| anyhow::Ok(line.rsplit(' ').next().context("a value")?.parse::<usize>()?));
    counts.sum()
}

async fn jobs(master: &Master, state: &str) -> anyhow::Result<usize> {
    metric(master, &format!("reloop_jobs{{state=\"{state}\"}}")).await
}

async fn online(master: &Master) -> anyhow::Result<usize> {
    metric(master, "reloop_slaves{link=\"online\",mode=\"production\"}").await
}

/// Results of storms of one size, one per round; in seconds if nothing else is said.
#[derive(Default)]
pub(super) struct Storm {
    /// From the first dial until the master counts all slaves as online.
    pub(super) ours: Sample,
    /// Bare upgrades with one round trip.
    pub(super) bare: Sample,
    /// The same, with a signature.
    pub(super) signed: Sample,
    pub(super) mosquitto: Sample,
    /// The longest wait divided by the median wait.
    pub(super) worst: Sample,
    /// The master's processor time for each slave in microseconds, its start included.
    pub(super) cpu: Sample,
}

/// Restarts the master, and lets all slaves reconnect. Returns the seconds from the first dial until the master counts all of
/// them as online, and the wait of each slave.
pub(super) async fn once(
    master: &mut Master,
    swarm: &mut Swarm,
    size: usize,
) -> anyhow::Result<(f64, Sample)> {
    swarm.rest().await;
    master.kill();
    master.restart().await;
    drop(swarm.waits());
    let since = Instant::now();
    swarm.connect(PATIENCE).await?;
    while online(master).await? < size {
        anyhow::ensure!(since.elapsed() < PATIENCE, "the master counts them all");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok((since.elapsed().as_secs_f64(), swarm.waits().into_iter().collect()))
}

/// The master's memory divided by the number of its slaves, in KiB.
pub(super) fn resident_each(master: &Master, size: usize) -> anyhow::Result<f64> {
    Ok(resident(master.pid().context("it runs")?)? as f64 / 1024.0 / size as f64)
}

/// The peers of a storm.
pub(super) struct Beside {
    server: bare::Server,
    broker: Option<Server>,
}

impl Beside {
    /// Starts the peers; mosquitto gets `size` sessions.
    pub(super) async fn start(size: usize, report: &mut Report) -> anyhow::Result<Self> {
        let server = bare::Server::start(bare::free_addr()).await?;
        let broker = Server::start(Peer::Mosquitto).await?;
        match &broker {
            Some(broker) => mqtt::prepare(broker.addr, size).await?,
            None => report.left_out(Peer::Mosquitto),
        }
        Ok(Self { server, broker })
    }
}

/// Measures `rounds` storms, each beside one of every peer.
pub(super) async fn measure(
    beside: &Beside,
    master: &mut Master,
    swarm: &mut Swarm,
    size: usize,
    rounds: usize,
) -> anyhow::Result<Storm> {
    let Beside { server, broker } = beside;
    let mut storm = Storm::default();
    for _ in 0..rounds {
        // The number of open files is limited: the slaves disconnect before the clients of the peers connect.
        swarm.rest().await;
        let (clients, took) = bare::Clients::connect(size, server.addr).await?;
        drop(clients);
        let pairs = bare::pairs(size)?;
        let signed = bare::signed(pairs, server.addr).await?;
        storm.bare.push(took.as_secs_f64());
        storm.signed.push(signed.as_secs_f64());
        let mut of_broker = String::new();
        if let Some(broker) = broker {
            mqtt::queue(broker.addr, size).await?;
            let took = mqtt::storm(broker.addr, size).await?;
            storm.mosquitto.push(took.as_secs_f64());
            of_broker = format!(", mosquitto {took:.2?}");
        }
        let of_bare = cpu_seconds(server.pid())?;
        let (ours, waits) = once(master, swarm, size).await?;
        // The process is new: all its processor time belongs to this storm.
        storm.cpu.push(cpu_seconds(master.pid().context("it runs")?)? * 1e6 / size as f64);
        storm.ours.push(ours);
        let both = of_bare / (2 * (storm.ours.len()) * size) as f64;
        println!(
            "  processor time for each: {} µs of the master, {:.0} µs of the bare server",
            storm.cpu,
            both * 1e6
        );
        storm.worst.push(waits.max() / waits.median());
        println!(
            "  {size} slaves: counted after {ours:.2} s, bare {took:.2?}, signed {signed:.2?}{of_broker}; waits: median \
             {:.2} s, 99 % {:.2} s, longest {:.2} s",
            waits.median(),
            waits.quantile(0.99),
            waits.max(),
        );
    }
    Ok(storm)
}

pub(super) async fn run(sizes: &[usize], rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    for size in sizes {
        let beside = Beside::start(*size, report).await?;
        let (mut master, mut swarm) = populated(*size, 2).await?;
        let storm = measure(&beside, &mut master, &mut swarm, *size, rounds).await?;
        swarm.leave().await;
        let slaves = figure(*size as f64);
        let what = format!("{slaves} slaves reconnect, authenticate and reconcile, seconds");
        let mut against = |name: &str, theirs: &Sample, reach: &str| {
            let row = Row::new(what.clone(), storm.ours.clone(), reach).beside(name, theirs.clone());
            report.row(Row { ratio: theirs.ratio(&storm.ours), ..row });
        };
        against("bare upgrades with one round trip", &storm.bare, "≥ 0.7 of bare");
        against("the same, and one Ed25519 signature made and checked", &storm.signed, "no aim");
        if !storm.mosquitto.is_empty() {
            against(Peer::Mosquitto.name(), &storm.mosquitto, "≥ 2 ×");
        }
        let what = format!("{slaves} slaves: µs of a core at the master for each, its start included");
        report.row(Row::new(what, storm.cpu, "no aim"));
        let what = format!("{slaves} slaves: longest wait by the median wait");
        report.row(Row::new(what, storm.worst, "≤ 3"));
    }
    Ok(())
}

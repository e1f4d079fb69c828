//! Reconnect storm: all slaves lose the master at once, and all come back at once.
//!
//! Each has one running and one accepted job. The clock runs from the moment they dial, with the master up again on its
//! data, until the last of them is live and the master counts them all. Beside it, alternating, the same number of bare
//! WebSocket upgrades with one round trip, against a server that does nothing else.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use super::bare;
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::swarm::{Pace, Swarm};
use crate::process::{Master, MasterOptions};

/// Longer than any storm that is worth a figure.
const PATIENCE: Duration = Duration::from_secs(180);

/// How many orders are placed by one request.
const QUANTITY: usize = 1000;

/// A master with this many slaves, each with one running and one accepted job.
///
/// # Errors
/// Not all come to be.
pub async fn populated(size: usize, jobs_each: usize) -> anyhow::Result<(Master, Swarm)> {
    let options = MasterOptions { link: Default::default(), ..MasterOptions::default() };
    let master = Master::start(options).await;
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

/// A value of `/metrics`.
pub async fn metric(master: &Master, series: &str) -> anyhow::Result<usize> {
    let text = master.client().get("/metrics").await?.body;
    let text = text.as_str().context("metrics are text")?;
    let line = text.lines().find(|line| line.starts_with(series)).context(series.to_owned())?;
    let value: f64 = line.rsplit(' ').next().context("a line has a value")?.parse()?;
    Ok(value as usize)
}

async fn jobs(master: &Master, state: &str) -> anyhow::Result<usize> {
    metric(master, &format!("reloop_jobs{{state=\"{state}\"}}")).await
}

async fn online(master: &Master) -> anyhow::Result<usize> {
    metric(master, "reloop_slaves{link=\"online\",mode=\"production\"}").await
}

/// Runs it.
///
/// # Errors
/// Something did not come back.
pub async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let bare_addr = bare::free_addr();
    let mut server = Command::new(std::env::current_exe()?)
        .args(["bench", "--bare-server", &bare_addr.to_string()])
        .stdin(Stdio::null())
        .spawn()?;
    let (mut master, mut swarm) = populated(size, 2).await?;
    let (mut ours, mut theirs, mut worst) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        let (clients, took) = bare::Clients::connect(size, bare_addr).await?;
        anyhow::ensure!(clients.len() == size, "all bare clients are there");
        theirs.push(took.as_secs_f64());
        drop(clients);
        swarm.rest().await;
        master.kill();
        master.restart().await;
        drop(swarm.waits());
        let since = Instant::now();
        let live = swarm.connect(PATIENCE).await?;
        while online(&master).await? < size {
            anyhow::ensure!(since.elapsed() < PATIENCE, "the master counts them all");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let counted = since.elapsed();
        let waits: Sample = swarm.waits().into_iter().collect();
        worst.push(waits.max() / waits.median());
        ours.push(counted.as_secs_f64());
        println!(
            "  {size} slaves: live after {live:.2?}, counted after {counted:.2?}, bare {took:.2?}; waits: median \
             {:.2} s, 99 % {:.2} s, longest {:.2} s",
            waits.median(),
            waits.quantile(0.99),
            waits.max(),
        );
    }
    swarm.leave().await;
    server.kill()?;
    server.wait()?;
    report.row(Row {
        bench: "storm".to_owned(),
        what: format!("{} slaves reconnect, authenticate and reconcile, seconds", figure(size as f64)),
        ours: ours.clone(),
        against: "bare upgrades with one round trip".to_owned(),
        theirs: theirs.clone(),
        reach: "≥ 0.7 of bare".to_owned(),
        ratio: theirs.ratio(&ours),
    });
    report.row(Row {
        bench: "storm".to_owned(),
        what: format!("{} slaves: longest wait by the median wait", figure(size as f64)),
        ours: worst,
        reach: "≤ 3".to_owned(),
        ..Row::default()
    });
    Ok(())
}

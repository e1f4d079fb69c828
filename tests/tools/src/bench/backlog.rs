//! Backlog: what a queued order costs the master in memory, and whether placing and assigning get slower when a
//! million of them wait.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reloop_rig::process::Master;

use super::intake::place_all;
use super::process::{resident, resident_at_rest, shipped_master};
use super::report::{Report, Row};
use super::rules;
use super::stats::{Sample, figure};
use super::storm::metric;
use super::swarm::{Pace, Swarm};

/// Jobs of one order while the queue is filled.
const QUANTITY: usize = 1000;

/// Orders of one job that are placed, and jobs that are done, for one figure.
const MEASURED: usize = 4000;

/// Clients that place orders at the same time.
const CLIENTS: usize = 16;

/// No slave offers this program, so its jobs stay queued.
const WAITING: &str = r#"{"program":"forge","quantity":1000}"#;
const DONE: &str = r#"{"program":"mill"}"#;

struct Figures {
    place: f64,
    dispatch: f64,
}

async fn post(master: &Master, requests: usize, body: &'static str) -> anyhow::Result<f64> {
    let since = Instant::now();
    place_all(master, requests, CLIENTS, body).await?;
    Ok(requests as f64 / since.elapsed().as_secs_f64())
}

async fn measure(master: &Master) -> anyhow::Result<Figures> {
    let place = post(master, MEASURED, r#"{"program":"forge"}"#).await?;
    // The queued jobs are of another program, as in a factory where one machine is down.
    let mut swarm = Swarm::new(20, master.addr(), Pace::Instant, 4)?;
    swarm.connect(Duration::from_secs(60)).await?;
    let since = Instant::now();
    post(master, MEASURED, DONE).await?;
    loop {
        let begun = swarm.counts.begun.load(std::sync::atomic::Ordering::Relaxed);
        if usize::try_from(begun)? >= MEASURED {
            break;
        }
        ensure!(since.elapsed() < Duration::from_secs(120), "{begun} of {MEASURED} have begun");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let dispatch = MEASURED as f64 / since.elapsed().as_secs_f64();
    swarm.leave().await;
    Ok(Figures { place, dispatch })
}

/// A master with queued jobs.
pub(super) struct Queue {
    master: Master,
    /// The master's memory before the queue was filled, in bytes.
    before: u64,
    /// Jobs placed per second while the queue was filled.
    rate: f64,
}

/// A master with `size` queued jobs.
pub(super) async fn filled(size: usize) -> anyhow::Result<Queue> {
    let master = shipped_master().await;
    let before = resident(master.pid().context("it runs")?)?;
    let rate = post(&master, size / QUANTITY, WAITING).await? * QUANTITY as f64;
    Ok(Queue { master, before, rate })
}

impl Queue {
    /// Bytes of the master's memory for each queued job.
    async fn bytes_each(&self) -> anyhow::Result<f64> {
        let queued = metric(&self.master, "reloop_jobs{state=\"queued\"}").await?;
        ensure!(queued > 0, "its jobs are queued");
        let resident = resident_at_rest(self.master.pid().context("it runs")?).await?;
        Ok(resident.saturating_sub(self.before) as f64 / queued as f64)
    }

    /// Restarts the master. Returns the seconds until it answers, and then bytes of its memory for each queued job.
    pub(super) async fn start_again(&mut self) -> anyhow::Result<(f64, f64)> {
        self.master.kill();
        let since = Instant::now();
        self.master.restart().await;
        let took = since.elapsed().as_secs_f64();
        Ok((took, self.bytes_each().await?))
    }
}

pub(super) async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let before = resident(std::process::id())?;
    let state = rules::waiting(size);
    let in_rules = (resident(std::process::id())?.saturating_sub(before)) as f64 / size as f64;
    drop(state);
    let jobs = figure(size as f64);
    let what = format!("bytes of the rules' state for each of {jobs} queued orders of one job");
    report.row(Row::new(what, Sample::of(in_rules), "≤ 300"));
    let short = filled(QUANTITY).await?.master;
    let mut queue = filled(size).await?;
    let each = queue.bytes_each().await?;
    println!("  {jobs} jobs queued at {} a second", figure(queue.rate));
    let mut ratios = [(); 2].map(|()| (Sample::default(), Sample::default()));
    for _ in 0..rounds {
        let (few, many) = (measure(&short).await?, measure(&queue.master).await?);
        for ((theirs, ours), (few, many)) in
            ratios.iter_mut().zip([(few.place, many.place), (few.dispatch, many.dispatch)])
        {
            theirs.push(few);
            ours.push(many);
        }
    }
    let mut starts = [(); 2].map(|()| Sample::default());
    for _ in 0..rounds {
        let (took, bytes) = queue.start_again().await?;
        starts[0].push(took);
        starts[1].push(bytes);
    }
    let [seconds, again] = starts;
    let each_of = "bytes of the master's memory for each of";
    for (what, ours, reach) in [
        (format!("{each_of} {jobs} queued jobs, the database's caches included"), Sample::of(each), "≤ 300"),
        (format!("{each_of} {jobs} queued jobs, when it was started again"), again, "≤ 300"),
        (format!("seconds to start with {jobs} queued jobs"), seconds, "no aim"),
    ] {
        report.row(Row::new(what, ours, reach));
    }
    for (what, (theirs, ours)) in
        ["orders placed per second", "jobs placed and begun per second"].iter().zip(ratios)
    {
        let row = Row::new(format!("{what}, {jobs} queued"), ours, "cost ≤ 1.3 ×, so a ratio of 0.77");
        report.row(row.beside("the same with 1,000 queued", theirs));
    }
    Ok(())
}

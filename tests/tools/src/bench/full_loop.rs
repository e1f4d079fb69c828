//! Full loop: jobs per second from the order to the outcome, through a hundred slaves whose machines are done at once.
//!
//! The master makes each job durable when it is placed, when it is assigned, and when its outcome has come. Two job queues
//! that sync each write are measured beside it, with the minimum that a job queue does: put, reserve, delete.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use reloop_rig::process::Master;
use tokio::task::JoinSet;

use super::intake::{CONNECTIONS, place_all};
use super::peers::{Peer, Peering, Server};
use super::process::{all, shipped_master};
use super::report::{Report, Row};
use super::stats::Sample;
use super::storm::unended;
use super::swarm::{Pace, Swarm};

/// Slaves of the master, and workers of a job queue.
const SLAVES: usize = 100;

/// The order, and the job of a queue.
pub(super) const BODY: &str = r#"{"program":"mill","params":{"file":"bracket-7.nc","material":"al6061"}}"#;

const PATIENCE: Duration = Duration::from_secs(300);

/// Jobs per second, from the first order until the master has every outcome.
pub(super) async fn ours(master: &Master, swarm: &Swarm, jobs: usize) -> anyhow::Result<f64> {
    let begun = || usize::try_from(swarm.counts.begun.load(Ordering::Relaxed)).unwrap_or(usize::MAX);
    let before = begun();
    let since = Instant::now();
    place_all(master, jobs, CONNECTIONS, BODY).await?;
    // When all have begun on a machine and none is live any more, the master has every outcome.
    while begun() - before < jobs || unended(master).await? > 0 {
        ensure!(since.elapsed() < PATIENCE, "{} of {jobs} jobs have begun", begun() - before);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(jobs as f64 / since.elapsed().as_secs_f64())
}

async fn theirs(server: &Server, jobs: usize) -> anyhow::Result<f64> {
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = JoinSet::new();
    for _ in 0..SLAVES {
        let (mut peering, done) = (Peering::connect(server).await?, Arc::clone(&done));
        workers.spawn(async move {
            while done.load(Ordering::Relaxed) < jobs {
                if peering.work().await? {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            }
            anyhow::Ok(())
        });
    }
    let since = Instant::now();
    let left = Arc::new(AtomicUsize::new(jobs));
    let mut clients = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (mut peering, left) = (Peering::connect(server).await?, Arc::clone(&left));
        clients.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                peering.push(BODY).await?;
            }
            anyhow::Ok(())
        });
    }
    all(clients).await?;
    while done.load(Ordering::Relaxed) < jobs {
        ensure!(since.elapsed() < PATIENCE, "the queue does not come to its end");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let took = since.elapsed();
    all(workers).await?;
    Ok(jobs as f64 / took.as_secs_f64())
}

pub(super) async fn run(jobs: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let master = shipped_master().await;
    let mut swarm = Swarm::new(SLAVES, master.addr(), Pace::Instant, 4)?;
    swarm.connect(PATIENCE).await?;
    let mut servers = Vec::new();
    for peer in [Peer::Beanstalkd, Peer::Redis] {
        match Server::start(peer).await? {
            Some(server) => servers.push((server, Sample::default())),
            None => report.left_out(peer),
        }
    }
    let mut figures = Sample::default();
    for _ in 0..rounds {
        figures.push(ours(&master, &swarm, jobs).await?);
        for (server, sample) in &mut servers {
            sample.push(theirs(server, jobs).await?);
        }
    }
    swarm.leave().await;
    for (server, sample) in servers {
        let what = format!("jobs per second, order to outcome, {SLAVES} slaves");
        report.row(Row::new(what, figures.clone(), "ahead").beside(server.peer.name(), sample));
    }
    Ok(())
}

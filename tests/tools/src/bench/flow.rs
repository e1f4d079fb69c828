//! Live flow: progress reports per second from a thousand slaves, against a bare echo of the same frames.
//!
//! A real machine reports progress at most twice a second, so this is far more than a factory sends. The reports are made
//! before the clock starts, since a thousand slaves have a thousand processors for that: sending and taking them is measured.
//! The last report of each slave ends its job, and the clock stops when the master counts no running job any more.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::bare;
use super::process::all;
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::storm::{metric, populated};
use super::swarm::Pulse;

/// Reports of each slave for one figure.
const REPORTS: u16 = 200;

/// Bytes of a progress report on the wire, as the swarm sends it.
const FRAME: usize = 72;

const PATIENCE: Duration = Duration::from_secs(120);

async fn echo(size: usize, addr: std::net::SocketAddr) -> anyhow::Result<f64> {
    let mut sockets = Vec::with_capacity(size);
    for _ in 0..size {
        sockets.push(bare::dial(addr).await?);
    }
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for socket in sockets {
        let (mut sink, mut stream) = socket.split();
        tasks.spawn(async move {
            for _ in 0..REPORTS {
                sink.send(Message::Binary(vec![7; FRAME].into())).await?;
            }
            anyhow::Ok(())
        });
        tasks.spawn(async move {
            for _ in 0..REPORTS {
                stream.next().await.context("no answer")??;
            }
            anyhow::Ok(())
        });
    }
    all(tasks).await?;
    Ok(size as f64 * f64::from(REPORTS) / since.elapsed().as_secs_f64())
}

pub(super) async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let server = bare::Server::start(bare::free_addr()).await?;
    let (master, swarm) = populated(size, 1).await?;
    let client = master.client();
    let (mut ours, mut theirs) = (Sample::default(), Sample::default());
    for round in 0..rounds {
        theirs.push(echo(size, server.addr).await?);
        let (links, before) =
            (swarm.counts.handshakes.load(Ordering::Relaxed), swarm.counts.reports.load(Ordering::Relaxed));
        let from = 1 + u16::try_from(round % 2)? * REPORTS;
        for member in 0..size {
            swarm.pulse(member, Pulse::Progress(from, from + REPORTS)).await;
        }
        let made = || swarm.counts.reports.load(Ordering::Relaxed) - before;
        let since = Instant::now();
        while made() < size as u64 * u64::from(REPORTS) {
            ensure!(since.elapsed() < PATIENCE, "all reports are made");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let since = Instant::now();
        for member in 0..size {
            swarm.pulse(member, Pulse::Send).await;
        }
        for member in 0..size {
            swarm.pulse(member, Pulse::End).await;
        }
        while metric(&master, "reloop_jobs{state=\"running\"}").await? > 0 {
            ensure!(since.elapsed() < PATIENCE, "all have ended");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = since.elapsed().as_secs_f64();
        let sent = made();
        ensure!(swarm.counts.handshakes.load(Ordering::Relaxed) == links, "no link was lost over it");
        ours.push(sent as f64 / took);
        client.place(&json!({"program": "mill", "quantity": size.min(1000)}), None).await?.expect(201);
        while metric(&master, "reloop_jobs{state=\"running\"}").await? < size.min(1000) {
            ensure!(since.elapsed() < PATIENCE, "all run again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    swarm.leave().await;
    drop(master);
    let what = format!("progress reports per second from {} slaves", figure(size as f64));
    report.row(Row::new(what, ours, "≥ 0.6").beside("bare echo of frames of that size", theirs));
    Ok(())
}

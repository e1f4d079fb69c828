//! History: whether a million ended jobs make a master slower to start, larger, or slower to page through.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use reloop_rig::process::Master;

use super::intake::{Http, token};
use super::process::{resident_at_rest, shipped_master};
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::storm::metric;
use super::swarm::{Pace, Swarm};

const PATIENCE: Duration = Duration::from_secs(1800);

/// Its jobs are canceled in the queue, so they end without a slave.
const ORDER: &str = r#"{"program":"forge","quantity":1000}"#;

async fn fill(master: &Master, jobs: usize) -> anyhow::Result<()> {
    let mut http = Http::connect(master.addr(), &token(master)?).await?;
    for _ in 0..jobs / 1000 {
        let (status, body) = http.post("/v1/orders", None, ORDER).await?;
        ensure!(status == 201, "an order was answered by {status}");
        let order: serde_json::Value = serde_json::from_slice(&body)?;
        let id = order["id"].as_str().context("an order has an id")?;
        let (status, _) = http.post(&format!("/v1/orders/{id}/cancel"), None, "{}").await?;
        ensure!(status == 202 || status == 200, "a cancel was answered by {status}");
    }
    let since = Instant::now();
    while metric(master, "reloop_jobs{state=\"queued\"}").await? > 0 {
        ensure!(since.elapsed() < PATIENCE, "all are canceled");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Bytes of the master's store on disk.
fn stored(master: &Master) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for file in fs::read_dir(master.data_dir().join("store"))? {
        bytes += file?.metadata()?.len();
    }
    Ok(bytes)
}

async fn page(master: &Master) -> anyhow::Result<f64> {
    let mut http = Http::connect(master.addr(), &token(master)?).await?;
    let mut took = Sample::default();
    for _ in 0..50 {
        let since = Instant::now();
        let (status, _) = http.get("/v1/jobs?limit=100").await?;
        took.push(since.elapsed().as_secs_f64() * 1000.0);
        ensure!(status == 200, "a list was answered by {status}");
    }
    Ok(took.median())
}

async fn start(master: &mut Master) -> anyhow::Result<(f64, f64)> {
    master.kill();
    let since = Instant::now();
    master.restart().await;
    let took = since.elapsed().as_secs_f64();
    // One slave connects, so that memory which the master needs only for a first handshake is counted.
    let mut swarm = Swarm::new(1, master.addr(), Pace::Instant, 4)?;
    swarm.connect(Duration::from_secs(60)).await?;
    swarm.leave().await;
    Ok((took, resident_at_rest(master.pid().context("it runs")?).await? as f64 / 1_048_576.0))
}

pub(super) async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (mut empty, mut full) = (shipped_master().await, shipped_master().await);
    fill(&empty, 1000).await?;
    let since = Instant::now();
    fill(&full, size).await?;
    let jobs = figure(size as f64);
    println!("  {jobs} jobs placed and ended in {:.0?}", since.elapsed());
    let what = format!("bytes on the disk for each of {jobs} jobs, ended without a pause");
    report.row(Row::new(what, Sample::of(stored(&full)? as f64 / size as f64), "no aim"));
    let mut rows = [(); 3].map(|()| (Sample::default(), Sample::default()));
    for _ in 0..rounds {
        for (which, master) in [&mut empty, &mut full].into_iter().enumerate() {
            let (took, memory) = start(master).await?;
            for ((theirs, ours), value) in rows.iter_mut().zip([took, memory, page(master).await?]) {
                if which == 0 { theirs.push(value) } else { ours.push(value) }
            }
        }
    }
    let whats = [
        ("seconds to start", "≤ 3 s"),
        ("MiB of memory after the start", "+ ≤ 10 %"),
        ("milliseconds for a page of 100 jobs", "≤ 2 ×"),
    ];
    for ((what, reach), (theirs, ours)) in whats.into_iter().zip(rows) {
        let row = Row::new(format!("{what}, {jobs} ended jobs"), ours, reach);
        report.row(row.beside("1,000 ended jobs", theirs));
    }
    Ok(())
}

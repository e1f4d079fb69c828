//! Handshake bytes: the bytes in both directions after the upgrade, until a slave is live again.

use std::sync::atomic::Ordering;

use super::report::{Report, Row};
use super::stats::Sample;
use super::storm::populated;

/// Bytes of a handshake with two jobs, and for each further job.
pub(super) async fn bytes() -> anyhow::Result<[f64; 2]> {
    let mut totals = Vec::new();
    for jobs in [2_usize, 10] {
        let (master, mut swarm) = populated(1, jobs).await?;
        swarm.rest().await;
        swarm.counts.sent.store(0, Ordering::Relaxed);
        swarm.counts.received.store(0, Ordering::Relaxed);
        swarm.connect(std::time::Duration::from_secs(20)).await?;
        let sent = swarm.counts.sent.load(Ordering::Relaxed);
        let received = swarm.counts.received.load(Ordering::Relaxed);
        println!("  {jobs} jobs: {sent} bytes to the master, {received} to the slave");
        totals.push((sent + received) as f64);
        swarm.leave().await;
        drop(master);
    }
    Ok([totals[0], (totals[1] - totals[0]) / 8.0])
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let whats =
        [("bytes in all, one running and one accepted job", "≤ 600"), ("bytes for each further job", "≤ 64")];
    for ((what, reach), bytes) in whats.into_iter().zip(bytes().await?) {
        report.row(Row::new(what, Sample::of(bytes), reach));
    }
    Ok(())
}

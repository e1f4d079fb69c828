//! Handshake bytes: what crosses the wire after the upgrade, in both directions, until a slave is live again.

use std::sync::atomic::Ordering;

use super::report::{Report, Row};
use super::stats::Sample;
use super::storm::populated;

/// Runs it.
///
/// # Errors
/// The slave does not come back.
pub async fn run(report: &mut Report) -> anyhow::Result<()> {
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
        totals.push(sent + received);
        swarm.leave().await;
        drop(master);
    }
    report.row(Row {
        bench: "handshake".to_owned(),
        what: "bytes in all, one running and one accepted job".to_owned(),
        ours: [totals[0] as f64].into_iter().collect::<Sample>(),
        reach: "≤ 600".to_owned(),
        ..Row::default()
    });
    report.row(Row {
        bench: "handshake".to_owned(),
        what: "bytes for each further job".to_owned(),
        ours: [(totals[1] - totals[0]) as f64 / 8.0].into_iter().collect::<Sample>(),
        reach: "≤ 64".to_owned(),
        ..Row::default()
    });
    Ok(())
}

//! Live flow: progress reports per second from a thousand slaves, against a bare echo of messages of the same size.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::storm::populated;
use super::swarm::Pulse;

/// How long each round takes.
const ROUND: Duration = Duration::from_secs(5);

/// Runs it.
///
/// # Errors
/// Not all slaves come to run.
pub async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let (master, swarm) = populated(size, 1).await?;
    let mut ours = Sample::default();
    let mut permille = 0_u16;
    for _ in 0..rounds {
        let before = swarm.counts.reports.load(Ordering::Relaxed);
        let since = Instant::now();
        while since.elapsed() < ROUND {
            permille = permille % 1000 + 1;
            for member in 0..size {
                swarm.pulse(member, Pulse { permille }).await;
            }
        }
        let sent = swarm.counts.reports.load(Ordering::Relaxed) - before;
        ours.push(sent as f64 / since.elapsed().as_secs_f64());
    }
    swarm.leave().await;
    drop(master);
    report.row(Row {
        bench: "flow".to_owned(),
        what: format!("progress reports per second from {} slaves", figure(size as f64)),
        ours,
        reach: "≥ 0.6 of an echo".to_owned(),
        ..Row::default()
    });
    Ok(())
}

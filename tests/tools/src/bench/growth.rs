//! Growth: the master's cost for each slave, with a hundred, a thousand and ten thousand of them.

use std::time::Duration;

use anyhow::Context as _;

use super::peers::Peer;
use super::process::{cpu_seconds, resident, shipped_master};
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::storm::{Beside, measure, populated};
use super::swarm::{Pace, Swarm};
use super::{bare, full_loop};

/// Two heartbeats of each link.
const WATCHED: Duration = Duration::from_secs(30);

/// Jobs that are assigned and done for one figure.
const JOBS: usize = 8000;

/// A storm of a few slaves takes milliseconds: it is repeated until this many handshakes were measured.
const HANDSHAKES: usize = 10_000;

/// Runs with a hundredth of `size` slaves, a tenth, and all.
pub(super) async fn run(size: usize, rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let sizes = [size / 100, size / 10, size].map(|size| size.max(1));
    let whats = [
        "microseconds of a storm for each slave",
        "KiB of memory for each slave with two jobs",
        "microseconds of a core for each link and second",
        "microseconds for each job, placed, handed out and done",
    ];
    let mut table = whats.map(|_| Vec::new());
    for size in sizes {
        let bare = bare::link_kib(size).await?;
        let beside = Beside::start(size, report).await?;
        let fresh = shipped_master().await;
        let before = resident(fresh.pid().context("it runs")?)?;
        drop(fresh);
        let (mut master, mut swarm) = populated(size, 2).await?;
        let storms = rounds.max(HANDSHAKES / size).min(4 * rounds.max(1));
        let storm = measure(&beside, &mut master, &mut swarm, size, storms).await?;
        drop(beside);
        let each = |sample: &Sample| sample.times(1e6 / size as f64);
        let others = [
            (whats[0], "bare upgrades", each(&storm.bare).median()),
            (whats[0], "bare upgrades with a signature", each(&storm.signed).median()),
            (whats[0], Peer::Mosquitto.name(), each(&storm.mosquitto).median()),
            (whats[1], "bare link", bare),
        ];
        let storm = each(&storm.ours);
        let pid = master.pid().context("it runs")?;
        let cpu = cpu_seconds(pid)?;
        tokio::time::sleep(WATCHED).await;
        let idle = (cpu_seconds(pid)? - cpu) * 1e6 / WATCHED.as_secs_f64() / size as f64;
        let memory = resident(pid)?.saturating_sub(before) as f64 / 1024.0 / size as f64;
        swarm.leave().await;
        drop(master);
        let master = shipped_master().await;
        let mut swarm = Swarm::new(size, master.addr(), Pace::Instant, 4)?;
        swarm.connect(Duration::from_secs(180)).await?;
        let mut dispatch = Sample::default();
        for _ in 0..rounds {
            dispatch.push(1e6 / full_loop::ours(&master, &swarm, JOBS).await?);
        }
        swarm.leave().await;
        println!(
            "  {size} slaves: storm {storm} µs, {memory:.1} KiB, {idle:.1} µs/s, dispatch {dispatch} µs each"
        );
        for ((what, rows), sample) in
            whats.into_iter().zip(&mut table).zip([storm, Sample::of(memory), Sample::of(idle), dispatch])
        {
            report.point(what, "Reloop", (size as f64, sample.median()));
            rows.push((size, sample));
        }
        // A peer that is not installed has no figure.
        for (plot, name, figure) in others.into_iter().filter(|(_, _, figure)| figure.is_finite()) {
            report.point(plot, name, (size as f64, figure));
        }
    }
    for (what, rows) in whats.into_iter().zip(table) {
        let Some((first, theirs)) = rows.first().cloned() else { continue };
        for (size, ours) in rows.into_iter().skip(1) {
            let ratio = Sample::of(ours.median() / theirs.median());
            let against = format!("the same, {} slaves", figure(first as f64));
            let what = format!("{what}, {} slaves", figure(size as f64));
            let row = Row::new(what, ours, "no more each: ≤ 1");
            report.row(Row { against, theirs: theirs.clone(), ratio, ..row });
        }
    }
    Ok(())
}

//! Idle links: the master's memory for each, and its processor time for all.

use std::time::Duration;

use anyhow::Context as _;

use super::process::{cpu_seconds, resident, shipped_master};
use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::swarm::{Pace, Swarm};

/// Two heartbeats of each link.
const WATCHED: Duration = Duration::from_secs(30);

pub(super) async fn run(size: usize, report: &mut Report) -> anyhow::Result<()> {
    let master = shipped_master().await;
    let pid = master.pid().context("it runs")?;
    let before = resident(pid)?;
    let used = cpu_seconds(pid)?;
    tokio::time::sleep(WATCHED).await;
    let alone = (cpu_seconds(pid)? - used) / WATCHED.as_secs_f64() * 100.0;
    let mut swarm = Swarm::new(size, master.addr(), Pace::Endless, 1)?;
    swarm.connect(Duration::from_secs(180)).await?;
    let each = |now: u64| (now.saturating_sub(before)) as f64 / size as f64 / 1024.0;
    let at_once = each(resident(pid)?);
    let cpu = cpu_seconds(pid)?;
    tokio::time::sleep(WATCHED).await;
    let busy = (cpu_seconds(pid)? - cpu) / WATCHED.as_secs_f64() * 100.0 - alone;
    let idle = each(resident(pid)?);
    println!("  {size} links: {at_once:.1} KiB each when the last is live, {idle:.1} KiB after {WATCHED:?}");
    swarm.leave().await;
    let links = figure(size as f64);
    let what = format!("KiB each, {links} idle links, slave record included");
    report.row(Row::new(what, Sample::of(idle), "≤ 12"));
    let what = format!("% of a core for the heartbeats of {links} links, above a master without");
    report.row(Row::new(what, Sample::of(busy), "< 2"));
    Ok(())
}

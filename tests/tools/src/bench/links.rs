//! Idle links: what each costs the master in memory, and all of them in time.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::report::{Report, Row};
use super::stats::{Sample, figure};
use super::swarm::{Pace, Swarm};
use reloop_rig::process::{Master, MasterOptions};

/// Two heartbeats of every link.
const WATCHED: Duration = Duration::from_secs(30);

/// Linux counts processor time in hundredths of a second for every program that asks.
const TICKS: f64 = 100.0;

/// A master looks every two seconds for what it can give back.
const REST: Duration = Duration::from_secs(5);

/// Memory that a process has to itself and in use, in bytes.
///
/// # Errors
/// It is gone.
pub fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("a process has memory")?;
    let kib: u64 = line.split_whitespace().nth(1).context("in KiB")?.parse()?;
    Ok(kib * 1024)
}

/// The same once the process has come to rest and has given back what it no longer needs.
///
/// # Errors
/// It is gone, or does not come to rest.
pub async fn resident_at_rest(pid: u32) -> anyhow::Result<u64> {
    let (begun, mut since, mut least) = (Instant::now(), Instant::now(), resident(pid)?);
    while since.elapsed() < REST {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = resident(pid)?;
        if now < least {
            (since, least) = (Instant::now(), now);
        }
        anyhow::ensure!(begun.elapsed() < 12 * REST, "its memory goes on shrinking");
    }
    resident(pid)
}

/// Processor time that a process has used, in seconds.
///
/// # Errors
/// It is gone.
pub fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces; what follows it does not.
    let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || anyhow::Ok(fields.next().context("14th and 15th field")?.parse::<f64>()?);
    Ok((ticks()? + ticks()?) / TICKS)
}

/// Runs it.
///
/// # Errors
/// Not all links come to be.
pub async fn run(size: usize, report: &mut Report) -> anyhow::Result<()> {
    let options = MasterOptions { link: Default::default(), ..MasterOptions::default() };
    let master = Master::start(options).await;
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
    report.row(Row {
        bench: "links".to_owned(),
        what: format!("KiB each, {} idle links, desk and record included", figure(size as f64)),
        ours: [idle].into_iter().collect::<Sample>(),
        reach: "≤ 12".to_owned(),
        ..Row::default()
    });
    report.row(Row {
        bench: "links".to_owned(),
        what: format!(
            "% of a core for the heartbeats of {} links, above a master without",
            figure(size as f64)
        ),
        ours: [busy].into_iter().collect::<Sample>(),
        reach: "< 2".to_owned(),
        ..Row::default()
    });
    Ok(())
}

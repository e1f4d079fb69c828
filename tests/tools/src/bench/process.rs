//! The processes of a bench: a master as it is shipped, and memory and processor time of any process.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use reloop_rig::process::{Master, MasterOptions};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

/// Linux reports processor time in hundredths of a second (USER_HZ).
const TICKS: f64 = 100.0;

/// The master returns unused memory to the system every two seconds.
const REST: Duration = Duration::from_secs(5);

/// Waits for all tasks. Returns their results, or the first error.
pub(super) async fn all<T: 'static>(mut tasks: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        results.push(ended??);
    }
    Ok(results)
}

/// The runtime of this process.
pub(super) fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().thread_name("bench").enable_all().build()
}

/// A master with the link timing that it is shipped with, and not the faster one of the tests.
pub(super) async fn shipped_master() -> Master {
    Master::start(MasterOptions { link: Default::default(), ..MasterOptions::default() }).await
}

/// Resident memory of a process, in bytes.
pub(super) fn resident(pid: u32) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("a process has memory")?;
    let kib: u64 = line.split_whitespace().nth(1).context("in KiB")?.parse()?;
    Ok(kib * 1024)
}

/// The same, when it has not shrunk for [`REST`].
pub(super) async fn resident_at_rest(pid: u32) -> anyhow::Result<u64> {
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

/// Processor time of a process so far, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name of the process may contain spaces; the fields after it do not.
    let (_, rest) = stat.rsplit_once(')').context("a process has a name")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || anyhow::Ok(fields.next().context("14th and 15th field")?.parse::<f64>()?);
    Ok((ticks()? + ticks()?) / TICKS)
}

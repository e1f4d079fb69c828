//! The footprint of a slave's agent: memory, threads, wake-ups and processor time, idle with a link and with a job, and
//! the size of what is installed.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use reloop_rig::daemon::binary;
use reloop_rig::process::{Slave, SlaveOptions};
use serde_json::json;

use super::process::{cpu_seconds, resident, shipped_master};
use super::report::{Report, Row};
use super::stats::Sample;

/// Long enough to measure less than a thousandth of a core, since processor time is counted in hundredths of a second.
const WATCHED: Duration = Duration::from_secs(60);

fn threads(pid: u32) -> anyhow::Result<Vec<String>> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))?;
    tasks.map(|task| Ok(fs::read_to_string(task?.path().join("comm"))?.trim().to_owned())).collect()
}

/// How often the process's threads were woken: the number of their voluntary context switches.
fn wakeups(pid: u32) -> anyhow::Result<u64> {
    let mut all = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        let line = status.lines().find(|line| line.starts_with("voluntary_ctxt_switches"));
        all += line
            .and_then(|line| line.split_whitespace().nth(1))
            .context("counted by Linux")?
            .parse::<u64>()?;
    }
    Ok(all)
}

pub(super) async fn run(report: &mut Report) -> anyhow::Result<()> {
    let master = shipped_master().await;
    let slave =
        Slave::start(SlaveOptions { link: Default::default(), ..SlaveOptions::new("board", master.url()) });
    let pid = slave.pid().context("it runs")?;
    let client = master.client();
    for what in ["idle, with a link", "with a running job"] {
        if what.contains("job") {
            let order = json!({"program": "gated", "params": {"tag": "t"}});
            client.place(&order, None).await?.expect(201);
        }
        reloop_rig::wait::eventually(what, Duration::from_secs(30), async || {
            let slave = client.slave("board").await.map_err(|error| error.to_string())?;
            let is_there = slave.body["link"] == "online";
            let is_running = !what.contains("job") || slave.body["activity"] == "running";
            if is_there && is_running { Ok(()) } else { Err(slave.body.to_string()) }
        })
        .await;
        // The start itself is not measured.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (cpu, woken) = (cpu_seconds(pid)?, wakeups(pid)?);
        tokio::time::sleep(WATCHED).await;
        let seconds = WATCHED.as_secs_f64();
        let names = threads(pid)?;
        println!("  threads: {names:?}");
        let figures = [
            ("MiB of memory", resident(pid)? as f64 / 1_048_576.0, "≤ 8"),
            ("threads", names.len() as f64, "≤ 4"),
            ("% of a core", (cpu_seconds(pid)? - cpu) / seconds * 100.0, "< 0.1"),
            ("wake-ups per second", (wakeups(pid)? - woken) as f64 / seconds, "few"),
        ];
        for (unit, value, reach) in figures {
            report.row(Row::new(format!("agent {what}: {unit}"), Sample::of(value), reach));
        }
    }
    let size = fs::metadata(binary("reloop-slave"))?.len() as f64 / 1_048_576.0;
    report.row(Row::new("MiB of the stripped program", Sample::of(size), "≤ 8"));
    Ok(())
}

//! Latency: from the first byte of a POST until the machine has begun, through real processes.
//!
//! The way consists of two hops (client to master, master to slave), a durable commit of each node, and a file in which the
//! machine records that it begins: when the file appears, the machine has begun. Each part is also measured alone, in turn
//! with the whole, and the whole is compared with their sum.

use std::collections::BTreeMap;
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::durable::write_file;
use reloop_node::store::{Op, Options, Store};
use reloop_rig::process::{Master, Slave, SlaveOptions};
use rustix::fs::inotify;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::interval_at;
use tokio_tungstenite::tungstenite::Message;

use super::bare;
use super::full_loop;
use super::intake::{Http, token};
use super::process::{all, shipped_master};
use super::report::{Report, Row};
use super::stats::Sample;
use super::swarm::{Pace, Swarm};

/// Orders for one figure.
const ORDERS: usize = 200;

/// Slaves that work at the same time, for the figures under load.
const CROWD: usize = 100;

/// Clients that place the orders of the crowd.
const CLIENTS: usize = 16;

/// Jobs of the crowd that show its highest rate.
const TRIAL: usize = 4000;

const PATIENCE: Duration = Duration::from_secs(30);

/// A job for a simulated machine, which ends it almost at once.
const ORDER: &str = r#"{"program":"bake","params":{"seconds":"0.001"}}"#;

/// About as large as the record that each node writes for the job.
const RECORD: [u8; 400] = [7; 400];

/// Notes when a file in a directory was replaced.
struct Watch {
    moments: mpsc::Receiver<Instant>,
}

impl Watch {
    fn new(dir: &Path, file: &'static str) -> anyhow::Result<Self> {
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, dir, inotify::WatchFlags::MOVED_TO)?;
        let (told, moments) = mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [MaybeUninit::uninit(); 4096];
            let mut reader = inotify::Reader::new(watch, &mut buffer);
            while let Ok(event) = reader.next() {
                let is_it = event.file_name().is_some_and(|name| name.to_bytes() == file.as_bytes());
                if is_it && told.send(Instant::now()).is_err() {
                    return;
                }
            }
        });
        Ok(Self { moments })
    }

    fn first_since(&self, since: Instant) -> anyhow::Result<Duration> {
        loop {
            let at = self.moments.recv_timeout(PATIENCE).context("the machine did not begin")?;
            if at >= since {
                return Ok(at - since);
            }
        }
    }
}

async fn orders(master: &Master, watch: &Watch, sample: &mut Sample) -> anyhow::Result<()> {
    let token = token(master)?;
    let mut http = Http::connect(master.addr(), &token).await?;
    for _ in 0..ORDERS {
        let since = Instant::now();
        let (status, body) = http.post("/v1/orders", None, ORDER).await?;
        ensure!(status == 201, "an order was answered by {status}");
        sample.push(tokio::task::block_in_place(|| watch.first_since(since))?.as_secs_f64() * 1000.0);
        let order: Value = serde_json::from_slice(&body)?;
        let job = order["jobs"][0].as_str().or_else(|| order["jobs"][0]["id"].as_str());
        let path = format!("/v1/jobs/{}", job.context("an order has a job")?);
        loop {
            let (_, body) = http.get(&path).await?;
            let job: Value = serde_json::from_slice(&body)?;
            if job["state"] == "succeeded" {
                break;
            }
            ensure!(since.elapsed() < PATIENCE, "{job}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    Ok(())
}

/// The parts, in milliseconds.
#[derive(Default)]
struct Parts {
    http: Sample,
    hop: Sample,
    commit: Sample,
    machine: Sample,
    /// All parts, one after the other: client to master, the master's commit, master to slave, the slave's commit, the machine's
    /// file.
    one_by_one: Sample,
}

impl Parts {
    /// The sum of all parts, by their medians.
    fn sum(&self) -> f64 {
        let halves = (self.http.median() + self.hop.median()) / 2.0;
        halves + 2.0 * self.commit.median() + self.machine.median()
    }
}

async fn parts(master: &Master, bare: std::net::SocketAddr, dir: &Path) -> anyhow::Result<Parts> {
    let mut parts = Parts::default();
    let millis = |since: Instant| since.elapsed().as_secs_f64() * 1000.0;
    let mut http = Http::connect(master.addr(), &token(master)?).await?;
    let mut socket = bare::dial(bare).await?;
    let options = Options { cache_bytes: 1 << 20, min_free_bytes: 0 };
    let opened = Store::open(&dir.join("store"), options)?;
    for number in 0..ORDERS as u64 {
        let since = Instant::now();
        ensure!(http.get("/livez").await?.0 == 200, "the master lives");
        let request = millis(since);
        let since = Instant::now();
        socket.send(Message::Binary(RECORD.to_vec().into())).await?;
        socket.next().await.context("no answer")??;
        let hop = millis(since);
        let mut one_by_one = (request + hop) / 2.0;
        parts.http.push(request);
        parts.hop.push(hop);
        for of in ["master", "slave"] {
            let (done, written) = tokio::sync::oneshot::channel();
            let key = [of.as_bytes(), &number.to_be_bytes()].concat();
            let since = Instant::now();
            opened
                .store
                .commit(vec![Op::Put { key, value: RECORD.to_vec() }], move |result| drop(done.send(result)));
            written.await??;
            parts.commit.push(millis(since));
            one_by_one += millis(since);
        }
        let since = Instant::now();
        write_file(&dir.join("machine.json"), &RECORD, 0o600)?;
        parts.machine.push(millis(since));
        parts.one_by_one.push(one_by_one + millis(since));
    }
    opened.store.close()?;
    fs::remove_dir_all(dir.join("store"))?;
    Ok(parts)
}

/// Places `rate` jobs per second for the crowd, evenly spaced, until `stop` is set.
async fn crowd(
    master: &Master,
    rate: f64,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<JoinSet<anyhow::Result<()>>> {
    let (addr, token) = (master.addr(), token(master)?);
    let mut clients = JoinSet::new();
    let begin = tokio::time::Instant::now();
    for number in 0..CLIENTS {
        let (mut http, stop) = (Http::connect(addr, &token).await?, Arc::clone(&stop));
        let turn = Duration::from_secs_f64(number as f64 / rate);
        let mut tick = interval_at(begin + turn, Duration::from_secs_f64(CLIENTS as f64 / rate));
        clients.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                tick.tick().await;
                let (status, _) = http.post("/v1/orders", None, full_loop::BODY).await?;
                ensure!(status == 201, "an order was answered by {status}");
            }
            Ok(())
        });
    }
    Ok(clients)
}

pub(super) async fn run(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let bare_addr = bare::free_addr();
    let server = bare::Server::start(bare_addr).await?;
    let master = shipped_master().await;
    let options = SlaveOptions { link: BTreeMap::new(), ..SlaveOptions::new("board", master.url()) };
    let slave = Slave::start(options);
    let client = master.client();
    reloop_rig::wait::eventually("the slave is there", PATIENCE, async || {
        let slave = client.slave("board").await.map_err(|error| error.to_string())?;
        if slave.body["link"] == "online" { Ok(()) } else { Err(slave.body.to_string()) }
    })
    .await;
    // The machine creates its directory when it begins for the first time.
    client.place(&json!({"program": "bake", "params": {"seconds": "0.001"}}), None).await?.expect(201);
    let machines = slave.state_dir().join("machines");
    reloop_rig::wait::eventually("the machine has a memory", PATIENCE, async || {
        if machines.join("bake.json").is_file() { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let watch = Watch::new(&machines, "bake.json")?;
    let mut swarm = Swarm::new(CROWD, master.addr(), Pace::Instant, 4)?;
    swarm.connect(PATIENCE).await?;
    let most = full_loop::ours(&master, &swarm, TRIAL).await?;
    let dir = tempfile::TempDir::with_prefix("reloop-parts-")?;
    let (mut sums, mut idle, mut busy) = (Sample::default(), Sample::default(), Sample::default());
    let (mut idle_p50, mut busy_p50, mut idle_p99, mut busy_p99) =
        (Sample::default(), Sample::default(), Sample::default(), Sample::default());
    let (mut parts_beside, mut parts_p50, mut parts_p99) =
        (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        let alone = parts(&master, bare_addr, dir.path()).await?;
        println!(
            "  parts, ms: request {:.3}, round trip of a link {:.3}, commit {:.3}, machine {:.3}; sum {:.3}",
            alone.http.median(),
            alone.hop.median(),
            alone.commit.median(),
            alone.machine.median(),
            alone.sum()
        );
        sums.push(alone.sum());
        let mut quiet = Sample::default();
        orders(&master, &watch, &mut quiet).await?;
        let stop = Arc::new(AtomicBool::new(false));
        let clients = crowd(&master, most / 2.0, Arc::clone(&stop)).await?;
        let mut loaded = Sample::default();
        orders(&master, &watch, &mut loaded).await?;
        let beside = parts(&master, bare_addr, dir.path()).await?.one_by_one;
        stop.store(true, Ordering::Relaxed);
        all(clients).await?;
        for (from, p50, p99, median) in [
            (&quiet, &mut idle_p50, &mut idle_p99, &mut idle),
            (&loaded, &mut busy_p50, &mut busy_p99, &mut busy),
            (&beside, &mut parts_p50, &mut parts_p99, &mut parts_beside),
        ] {
            p50.push(from.median() / alone.sum());
            p99.push(from.quantile(0.99) / alone.sum());
            median.push(from.median());
        }
        let figures =
            |sample: &Sample| format!("median {:.2}, 99 % {:.2}", sample.median(), sample.quantile(0.99));
        println!(
            "  ms, idle: {}; at {:.0} jobs/s beside it: {}, the parts one by one {}",
            figures(&quiet),
            most / 2.0,
            figures(&loaded),
            figures(&beside),
        );
    }
    swarm.leave().await;
    drop(server);
    let whole = "ms from POST to machine started";
    for (what, ours, p50, p99, [reach_p50, reach_p99]) in [
        (format!("{whole}, idle"), idle, idle_p50, idle_p99, ["≤ 1.5 ×", "≤ 5 ×"]),
        (format!("{whole}, half load"), busy, busy_p50, busy_p99, ["≤ 1.5 ×", "≤ 5 ×"]),
        (
            "ms for the parts one by one, half load".to_owned(),
            parts_beside,
            parts_p50,
            parts_p99,
            ["no aim"; 2],
        ),
    ] {
        let row = |figure: &str, ratio: Sample, reach: &str| {
            let row = Row::new(format!("{what}: {figure}"), ours.clone(), reach);
            Row { ratio, ..row.beside("the sum of the parts alone, ms", sums.clone()) }
        };
        report.row(row("median, as a multiple", p50, reach_p50));
        report.row(row("99 %, as a multiple", p99, reach_p99));
    }
    Ok(())
}

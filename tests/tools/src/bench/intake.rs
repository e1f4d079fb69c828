//! Order intake: durable `POST /v1/orders` over keep-alive connections, each with one request under way.
//!
//! Measured beside it: the same master with a store that acknowledges at once and keeps nothing; the web framework alone,
//! which reads each request and answers with as many bytes; and well-known servers, with the same body and a similar client.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::body::Bytes;
use axum::http::{StatusCode, header};
use axum::routing::post;
use reloop_master::config::{Config, Overrides};
use reloop_master::serve;
use reloop_rig::process::Master;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{JoinSet, block_in_place};

use super::bare::{self, free_addr};
use super::peers::{Peer, Peering, Server};
use super::process::{all, shipped_master};
use super::report::{Report, Row};
use super::stats::Sample;

pub(super) const CONNECTIONS: usize = 64;

const ROUND: Duration = Duration::from_secs(3);

/// Threads of the clients. One leaves more of two cores to the server, two put more load on it: the better result counts.
const CLIENT_THREADS: [usize; 2] = [1, 2];

/// How long a master may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);

const BODY: &str =
    r#"{"program":"mill","params":{"file":"bracket-7.nc","material":"al6061"},"external_id":"ERP-4711"}"#;

/// A keep-alive connection to a master, as a minimal HTTP/1.1 client.
pub(super) struct Http {
    io: BufReader<TcpStream>,
    head: String,
    line: String,
}

impl Http {
    pub(super) async fn connect(addr: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let head =
            format!("Host: {addr}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        Ok(Self { io: BufReader::new(tcp), head, line: String::new() })
    }

    /// Returns the status and the body of the answer.
    pub(super) async fn post(
        &mut self,
        path: &str,
        key: Option<&str>,
        body: &str,
    ) -> anyhow::Result<(u16, Vec<u8>)> {
        let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
        let head = &self.head;
        let length = body.len();
        let request = format!("POST {path} HTTP/1.1\r\n{head}{key}Content-Length: {length}\r\n\r\n{body}");
        self.io.get_mut().write_all(request.as_bytes()).await?;
        self.answer().await
    }

    /// Returns the status and the body of the answer.
    pub(super) async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
        let request = format!("GET {path} HTTP/1.1\r\n{}\r\n", self.head);
        self.io.get_mut().write_all(request.as_bytes()).await?;
        self.answer().await
    }

    async fn answer(&mut self) -> anyhow::Result<(u16, Vec<u8>)> {
        let (mut status, mut length) = (None, 0);
        loop {
            self.line.clear();
            ensure!(self.io.read_line(&mut self.line).await? > 0, "the master hung up");
            let line = self.line.trim_end();
            if line.is_empty() {
                break;
            }
            if status.is_none() {
                status = Some(line.split(' ').nth(1).context("a status line")?.parse()?);
            } else if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
        }
        let mut body = vec![0; length];
        self.io.read_exact(&mut body).await?;
        Ok((status.context("a status line")?, body))
    }
}

/// Lets all clients repeat their request for a round, once with each number of threads. Returns the best rate per second.
fn drive<F, G>(client: impl Fn() -> F + Sync) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<G>>,
    G: Repeat + Send + 'static,
{
    let mut best: f64 = 0.0;
    for threads in CLIENT_THREADS {
        let rate = thread::scope(|scope| {
            let clients = scope.spawn(|| {
                let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
                runtime.block_on(drive_once(&client))
            });
            clients.join().expect("what goes wrong with a client is an error")
        });
        best = best.max(rate?);
    }
    Ok(best)
}

async fn drive_once<F, G>(client: &impl Fn() -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<G>>,
    G: Repeat + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let mut ready = Vec::with_capacity(CONNECTIONS);
    for _ in 0..CONNECTIONS {
        ready.push(client().await?);
    }
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in ready {
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            while since.elapsed() < ROUND {
                client.once().await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    all(tasks).await?;
    Ok(done.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64())
}

/// A client with a request that it repeats.
trait Repeat {
    fn once(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

struct Placing(Http);

impl Repeat for Placing {
    async fn once(&mut self) -> anyhow::Result<()> {
        let (status, body) = self.0.post("/v1/orders", None, BODY).await?;
        ensure!(status == 201, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

struct Putting(Peering);

impl Repeat for Putting {
    async fn once(&mut self) -> anyhow::Result<()> {
        self.0.put(BODY).await
    }
}

/// Places so many orders with this body, over so many connections.
pub(super) async fn place_all(
    master: &Master,
    orders: usize,
    connections: usize,
    body: &'static str,
) -> anyhow::Result<()> {
    let (addr, token) = (master.addr(), token(master)?);
    let left = Arc::new(AtomicU64::new(orders as u64));
    let mut clients = JoinSet::new();
    for _ in 0..connections {
        let (mut http, left) = (Http::connect(addr, &token).await?, Arc::clone(&left));
        clients.spawn(async move {
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            {
                let (status, _) = http.post("/v1/orders", None, body).await?;
                ensure!(status == 201, "an order was answered by {status}");
            }
            anyhow::Ok(())
        });
    }
    all(clients).await.map(drop)
}

pub(super) fn token(master: &Master) -> anyhow::Result<String> {
    token_in(&master.data_dir())
}

fn token_in(data_dir: &Path) -> anyhow::Result<String> {
    Ok(fs::read_to_string(data_dir.join("admin.token"))?.trim().to_owned())
}

fn place(addr: SocketAddr, token: &str) -> anyhow::Result<f64> {
    drive(|| async move { Ok(Placing(Http::connect(addr, token).await?)) })
}

/// A master without a durable store, in a process of its own, which is killed on drop.
struct Forgetful {
    addr: SocketAddr,
    token: String,
    child: Child,
    _dir: TempDir,
}

impl Forgetful {
    async fn start() -> anyhow::Result<Self> {
        let (dir, addr) = (TempDir::with_prefix("reloop-forgetful-")?, free_addr());
        let child = Command::new(std::env::current_exe()?)
            .args(["bench", "--forgetful", &addr.to_string(), "--data-dir"])
            .arg(dir.path())
            .stdin(Stdio::null())
            .spawn()?;
        let mut master = Self { addr, token: String::new(), child, _dir: dir };
        let since = Instant::now();
        while TcpStream::connect(addr).await.is_err() {
            ensure!(since.elapsed() < START_PATIENCE, "the forgetful master does not listen");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        master.token = token_in(master._dir.path())?;
        Ok(master)
    }
}

impl Drop for Forgetful {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a master without a durable store until the process is killed.
pub(super) async fn forget(addr: SocketAddr, data_dir: &Path) -> anyhow::Result<()> {
    let text = format!(
        "listen = \"{addr}\"\ndata_dir = {:?}\nenrollment = \"open\"",
        data_dir.display().to_string()
    );
    let config = Config::parse(&text, None, Overrides::default())?;
    serve::run_forgetful(&config).await
}

/// About as long as a master's answer to an order.
const ANSWER: [u8; 640] = [b'x'; 640];

/// Answers every order at once, until the process is killed: the cost of HTTP alone.
pub(super) async fn answer(addr: SocketAddr) -> anyhow::Result<()> {
    let order =
        async |_: Bytes| (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], &ANSWER[..]);
    let router = Router::new().route("/v1/orders", post(order));
    Ok(axum::serve(TcpListener::bind(addr).await?, router).await?)
}

pub(super) async fn run(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let master = shipped_master().await;
    let mut servers = Vec::new();
    for peer in [Peer::Redis, Peer::Postgres, Peer::Nats] {
        match Server::start(peer).await? {
            Some(server) => {
                Peering::connect(&server).await?.prepare().await?;
                servers.push((server, Sample::default()));
            }
            None => report.left_out(peer),
        }
    }
    let forgetful = Forgetful::start().await?;
    let form = bare::Server::start_as(bare::Kind::Http, free_addr()).await?;
    let own = token(&master)?;
    let (mut ours, mut unstored, mut answered) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        ours.push(block_in_place(|| place(master.addr(), &own))?);
        unstored.push(block_in_place(|| place(forgetful.addr, &forgetful.token))?);
        answered.push(block_in_place(|| place(form.addr, &own))?);
        for (server, sample) in &mut servers {
            let server = &*server;
            let put = || drive(|| async move { Ok(Putting(Peering::connect(server).await?)) });
            sample.push(block_in_place(put)?);
        }
    }
    let what = format!("durable orders per second, {CONNECTIONS} connections");
    let row = |against: &str, theirs: Sample, reach: &str| {
        Row::new(what.clone(), ours.clone(), reach).beside(against, theirs)
    };
    report.row(row("the same master, its store keeps nothing", unstored, "≥ 0.6"));
    report.row(row("the web framework alone, which answers at once", answered, "no aim"));
    for (server, sample) in servers {
        report.row(row(server.peer.name(), sample, "ahead, if as durable"));
    }
    Ok(())
}

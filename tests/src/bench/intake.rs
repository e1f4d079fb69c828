//! Order intake: durable `POST /v1/orders` over keep-alive connections, each with one request under way.
//!
//! Beside it the same handler when it has nothing to store, because each order is a repeat with the same idempotency
//! key; and well-known servers that are given a body of the same size through an equal client.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::peers::{Peer, Peering, Server};
use super::report::{Report, Row};
use super::stats::Sample;
use crate::process::{Master, MasterOptions};

/// How many clients at a time.
pub const CONNECTIONS: usize = 64;

/// How long each round takes.
const ROUND: Duration = Duration::from_secs(3);

/// What is ordered.
const BODY: &str =
    r#"{"program":"mill","params":{"file":"bracket-7.nc","material":"al6061"},"external_id":"ERP-4711"}"#;

/// A keep-alive connection to a master: the least HTTP/1.1 client that does.
pub struct Http {
    io: BufReader<TcpStream>,
    head: String,
    line: String,
}

impl Http {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens.
    pub async fn connect(addr: SocketAddr, token: &str) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let head =
            format!("Host: {addr}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n");
        Ok(Self { io: BufReader::new(tcp), head, line: String::new() })
    }

    /// Posts a body; gives the status and the answer's body.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn post(
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

    /// Gets a path.
    ///
    /// # Errors
    /// The connection ends.
    pub async fn get(&mut self, path: &str) -> anyhow::Result<(u16, Vec<u8>)> {
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

/// Lets this many clients do the same again and again for a round; gives how often per second it was done.
///
/// # Errors
/// One of them failed.
pub async fn drive<F, G>(clients: usize, round: Duration, client: impl Fn(usize) -> F) -> anyhow::Result<f64>
where
    F: Future<Output = anyhow::Result<G>>,
    G: Repeat + Send + 'static,
{
    let done = Arc::new(AtomicU64::new(0));
    let mut ready = Vec::with_capacity(clients);
    for number in 0..clients {
        ready.push(client(number).await?);
    }
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for mut client in ready {
        let done = Arc::clone(&done);
        tasks.spawn(async move {
            while since.elapsed() < round {
                client.once().await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / since.elapsed().as_secs_f64())
}

/// Something that a client does again and again.
pub trait Repeat {
    /// Once.
    fn once(&mut self) -> impl Future<Output = anyhow::Result<()>> + Send;
}

struct Placing {
    http: Http,
    keys: Option<(usize, u64)>,
    expected: u16,
}

impl Repeat for Placing {
    async fn once(&mut self) -> anyhow::Result<()> {
        let key = self.keys.map(|(client, _)| format!("client-{client}"));
        let (status, body) = self.http.post("/v1/orders", key.as_deref(), BODY).await?;
        ensure!(status == self.expected, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(())
    }
}

struct Putting(Peering);

impl Repeat for Putting {
    async fn once(&mut self) -> anyhow::Result<()> {
        self.0.put(BODY).await
    }
}

/// The admin token of a master.
///
/// # Errors
/// It can't be read.
pub fn token(master: &Master) -> anyhow::Result<String> {
    Ok(std::fs::read_to_string(master.data_dir().join("admin.token"))?.trim().to_owned())
}

async fn place(master: &Master, repeats: bool) -> anyhow::Result<f64> {
    let (addr, token) = (master.addr(), token(master)?);
    drive(CONNECTIONS, ROUND, |client| {
        let token = token.clone();
        async move {
            let mut http = Http::connect(addr, &token).await?;
            let mut expected = 201;
            if repeats {
                http.post("/v1/orders", Some(&format!("client-{client}")), BODY).await?;
                expected = 200;
            }
            Ok(Placing { http, keys: repeats.then_some((client, 0)), expected })
        }
    })
    .await
}

/// Runs it.
///
/// # Errors
/// The master or a peer refused something.
pub async fn run(rounds: usize, report: &mut Report) -> anyhow::Result<()> {
    let master = Master::start(MasterOptions { link: Default::default(), ..MasterOptions::default() }).await;
    let mut servers = Vec::new();
    for peer in [Peer::Redis, Peer::Postgres, Peer::Nats] {
        match Server::start(peer).await? {
            Some(server) => {
                Peering::connect(&server).await?.prepare().await?;
                servers.push((server, Sample::default()));
            }
            None => report.left_out("intake", peer),
        }
    }
    let (mut ours, mut unstored) = (Sample::default(), Sample::default());
    for _ in 0..rounds {
        ours.push(place(&master, false).await?);
        unstored.push(place(&master, true).await?);
        for (server, sample) in &mut servers {
            let server = &*server;
            let put =
                drive(CONNECTIONS, ROUND, |_| async move { Ok(Putting(Peering::connect(server).await?)) });
            sample.push(put.await?);
        }
    }
    let row = |against: &str, theirs: Sample, reach: &str| Row {
        bench: "intake".to_owned(),
        what: format!("durable orders per second, {CONNECTIONS} connections"),
        ours: ours.clone(),
        against: against.to_owned(),
        ratio: ours.ratio(&theirs),
        theirs,
        reach: reach.to_owned(),
    };
    report.row(row("the same handler, nothing to store", unstored, "≥ 0.6"));
    for (server, sample) in servers {
        report.row(row(server.peer.name(), sample, "ahead, if as durable"));
    }
    Ok(())
}

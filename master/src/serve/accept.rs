//! Accepts TCP connections, and serves each as a slave's link or as a client's HTTP connection.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::deadlines::{CountedService, Requests, TimedStream};
use crate::link::Listener;

/// Connections that the kernel keeps while the master is busy: with the usual 128, five thousand slaves that came back at
/// once overflowed it and took 15 times as long.
const BACKLOG: u32 = 8192;

/// After a failed accept, which the next try would only repeat: long enough that the loop does not spin, short enough
/// that nobody notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// File descriptors that no connection gets: the store and the tokens open a handful of files at a time.
const RESERVED_FILES: u64 = 32;

/// While file descriptors are scarce, how long a new connection may take to send its first byte: clients and slaves send
/// it at once.
const SCARCE_PATIENCE: Duration = Duration::from_secs(1);

/// How often the log says that file descriptors are scarce.
const SCARCE_LOG_PERIOD: Duration = Duration::from_secs(60);

/// For peers that are not behind a proxy: the idle time before the first probe, the time between probes, and their number.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(20), Duration::from_secs(5), 3);

pub(super) fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address).with_context(|| {
        format!(
            "cannot listen on {address}: if another master or the demo runs there, end it, or name another \
             address with --listen"
        )
    })?;
    Ok(socket.listen(BACKLOG)?)
}

/// Accepts connections for ever, each in a task of `connections`. A client's connection may be idle for `idle` between two
/// requests. When `stop` is cancelled, connections end after the request that is under way.
pub(super) async fn accept(
    tcp: TcpListener,
    router: Router,
    slaves: Listener,
    idle: Duration,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let mut descriptors = Descriptors::new();
    loop {
        let socket = match tcp.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Likely cause: this process or the whole computer is out of file descriptors.
                descriptors.note_scarcity(&error.to_string());
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let number = socket.as_raw_fd();
        if let Err(error) = tune(&socket) {
            tracing::debug!(%error, "a connection was gone before it was tuned");
            continue;
        }
        let (router, slaves, stop) = (router.clone(), slaves.clone(), stop.clone());
        let scarce = Arc::clone(&descriptors.scarce);
        connections.spawn(async move {
            let is_link = tokio::select! {
                is_link = slaves.is_link_request(&socket) => is_link,
                () = stop.cancelled() => None,
                () = async {
                    tokio::time::sleep(SCARCE_PATIENCE).await;
                    scarce.notified().await;
                } => None,
            };
            match is_link {
                // A task outside `connections`: a stopping master does not wait for the end of links.
                Some(true) => drop(tokio::spawn(slaves.accept(socket))),
                Some(false) => Box::pin(serve_http(socket, router, idle, stop, scarce)).await,
                None => {}
            }
        });
        if descriptors.is_reserved(number) {
            descriptors.wait_for_free(&tcp).await;
        }
    }
}

/// The file descriptors of this process. Each connection takes one.
struct Descriptors {
    /// The first number that is kept for files. A new descriptor has the lowest free number.
    first_reserved: u64,
    /// Tells idle connections to end.
    scarce: Arc<Notify>,
    logged: Option<Instant>,
}

impl Descriptors {
    fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let first_reserved = limit - RESERVED_FILES.min(limit / 4);
        Self { first_reserved, scarce: Arc::new(Notify::new()), logged: None }
    }

    fn is_reserved(&self, number: i32) -> bool {
        u64::try_from(number).is_ok_and(|number| number >= self.first_reserved)
    }

    /// Ends idle connections, and logs `why` if the last time is long ago.
    fn note_scarcity(&mut self, why: &str) {
        self.scarce.notify_waiters();
        if self.logged.is_none_or(|logged| logged.elapsed() >= SCARCE_LOG_PERIOD) {
            self.logged = Some(Instant::now());
            tracing::warn!(
                why,
                "new connections have to wait, and idle ones are closed: raise the limit of open files (LimitNOFILE), \
                 or find out who opens so many"
            );
        }
    }

    /// Returns when there is a descriptor for another connection.
    async fn wait_for_free(&mut self, tcp: &TcpListener) {
        while rustix::io::dup(tcp).map_or(true, |next| self.is_reserved(next.as_raw_fd())) {
            self.note_scarcity("nearly all file descriptors are in use");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (idle, between, probes) = KEEPALIVE;
    let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(between).with_retries(probes);
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

async fn serve_http(
    socket: TcpStream,
    router: Router,
    idle: Duration,
    stop: CancellationToken,
    scarce: Arc<Notify>,
) {
    let requests = Arc::new(Requests::default());
    let service = CountedService::new(TowerToHyperService::new(router), Arc::clone(&requests));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // hyper counts it from the end of the last answer, so it limits how long a connection may be idle.
        .header_read_timeout(idle)
        .serve_connection(TokioIo::new(TimedStream::new(socket, requests)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = scarce.notified() => {}
            }
        } => {
            // An idle connection ends at once, others when the request that is under way is answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended with an error");
    }
}

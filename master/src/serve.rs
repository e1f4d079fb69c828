//! Starts the master: store, loop, door, REST; and stops it in order.
//!
//! After a failed write the master takes no decision any more, because nobody knows what is on the disk; questions are
//! answered from what was durable before. Once the disk takes writes again the master starts anew, within the same process: from
//! what the disk holds, as after a restart.

use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use reloop_node::clock::unix_ms;
use reloop_node::durable;
use reloop_node::entropy::random;
use reloop_node::link::Timing;
use reloop_node::store::{Opened, Options, Store, StoreError};
use reloop_protocol::id::{Incarnation, MasterId};
use reloop_protocol::master::{self, Origin};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::link::Door;
use crate::patience::{Counting, Patient, Turns};
use crate::{driver, link, records, rest};

/// Connections that the kernel keeps while the master is busy: five thousand slaves that come back at once overflowed
/// the usual 128 and took 15 times as long.
const BACKLOG: u32 = 8192;

/// Memory for the database's pages: what is written lies together, and what is read twice is in the rules' state.
const CACHE_BYTES: u64 = 4 << 20;

/// Longer than the second for which mimalloc keeps what it could give back; a thread that does nothing takes some 50 µs.
const GIVE_BACK_PERIOD: Duration = Duration::from_secs(2);

/// After a connection that could not be accepted, which the next try would only find again: long enough that the loop
/// does not spin, short enough that nobody notices.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Descriptors that no connection gets, for the files that the store and the tokens open while the master runs: a handful
/// at a time.
const RESERVED_FILES: u64 = 32;

/// While descriptors are scarce, a new connection has so long for its first byte: a client or a slave sends it at once.
const SCARCE_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is told that connections can't be accepted, while that lasts.
const SCARCITY_PERIOD: Duration = Duration::from_secs(60);

/// How long requests and links may take to end when the master stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Keepalive of an accepted connection, for peers that are not behind a proxy: idle, between probes, probes.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(20), Duration::from_secs(5), 3);

/// Why a master ended without an error.
enum Ended {
    Told,
    DiskMended,
}

/// Runs the master until it is told to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    while let Ended::DiskMended = run_once(&config).await? {
        tracing::warn!("the disk takes writes again: the master starts anew from what is on it");
    }
    Ok(())
}

/// Runs a master that acknowledges at once and keeps nothing, until its process ends: what it costs without its disk.
/// Only for benches; no setting leads here.
#[doc(hidden)]
pub async fn run_forgetful(config: &Config) -> anyhow::Result<()> {
    run_on(config, Store::forgetful).await.map(|_| ())
}

async fn run_once(config: &Config) -> anyhow::Result<Ended> {
    run_on(config, Store::open).await
}

async fn run_on(
    config: &Config,
    open: impl FnOnce(&Path, Options) -> Result<Opened, StoreError>,
) -> anyhow::Result<Ended> {
    let data_dir = &config.data_dir;
    durable::create_dir_all_synced(data_dir)
        .with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let tokens = rest::Tokens::open(data_dir)?;
    let options = Options { cache_bytes: CACHE_BYTES, min_free_bytes: config.min_free_bytes };
    let opened = open(&data_dir.join("store"), options)?;
    if let Some(aside) = &opened.set_aside {
        tracing::error!(
            kept = %aside.display(),
            "the store could not be read and is set aside: this is a new master, its slaves tell it what they hold \
             once they are enrolled again"
        );
    }
    let store = opened.store;
    let fresh = MasterId::from_parts(unix_ms(), u128::from_le_bytes(random()));
    let settings = master::Settings { enrollment: config.enrollment };
    let mut state = master::newborn(settings, fresh);
    let origin = records::load(&store, |record| state.restore(record)).await?;
    if origin == Origin::Nameless {
        tracing::error!(
            master = %state.node.id,
            "the master's own record is lost: it goes on with its orders under a new name, to which its slaves bind \
             when they connect; see to it that no other copy of this master runs"
        );
    }
    let begun = state.begun.clone();
    let mut ops = Vec::new();
    for write in &state.begin(Incarnation(random())) {
        records::ops(write, &mut ops);
    }
    let (done, written) = tokio::sync::oneshot::channel();
    store.commit(ops, move |result| drop(done.send(result)));
    let is_recorded = match written.await.context("the store is closed")? {
        Ok(()) => true,
        // It can still answer. No slave is told of an incarnation that the disk does not know.
        Err(error) if origin == Origin::Known && !begun.is_empty() => {
            tracing::error!(%error, "this start can't be written down: the disk takes no writes");
            state.begun = begun;
            false
        }
        Err(error) => return Err(error.into()),
    };
    tracing::info!(
        master = %state.node.id, epoch = state.node.epoch.0, jobs = state.book.jobs.len(), slaves = state.slaves.len(),
        new = origin != Origin::Known, "recovered"
    );

    let (node, handle, inbox) = driver::new(state, store.clone(), config.link.probe);
    let listener = listen(config.listen)?;
    let address = listener.local_addr()?;
    let stop = CancellationToken::new();
    let driving = tokio::spawn({
        let (stop, store) = (stop.clone(), store.clone());
        async move { reloop_node::driver::run(node, store, inbox, stop.cancelled_owned()).await.map(|_| ()) }
    });

    let timing = Timing {
        heartbeat: config.link.heartbeat,
        dead_after: config.link.dead_after,
        handshake: config.link.handshake,
    };
    let door = Door::new(handle.clone(), timing, config.link.max_handshakes, config.link.max_waiting);
    let quiet = CancellationToken::new();
    let watched = handle.clone();
    let router =
        rest::router(rest::RestState::new(handle, Arc::new(tokens), config).with_stop(quiet.clone()))
            .merge(Router::new().route("/v1/link", get(link::upgrade)).with_state(door.clone()));
    tracing::info!(%address, "listening");
    notify(&[sd_notify::NotifyState::Ready]);
    let watchdog = tokio::spawn(watchdog(watched.clone()));
    let giving_back = tokio::spawn(give_back_memory());

    let connections = TaskTracker::new();
    let ended = tokio::select! {
        () = accept(listener, router, door, config.http.idle, &connections, &quiet) => Ended::Told,
        () = told_to_stop() => Ended::Told,
        () = disk_mended(watched, is_recorded, config) => Ended::DiskMended,
    };
    if matches!(ended, Ended::Told) {
        tracing::info!("stopping: running jobs go on at their machines");
        notify(&[sd_notify::NotifyState::Stopping]);
    }
    watchdog.abort();
    giving_back.abort();
    quiet.cancel();
    connections.close();
    // The loop ends first: that drops the links, and answers who waits.
    stop.cancel();
    let driven = tokio::time::timeout(STOP_PATIENCE, driving).await;
    if tokio::time::timeout(STOP_PATIENCE, connections.wait()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
    let closed = store.close();
    match driven {
        // The loop may never have met the fault that this start met.
        Ok(Ok(Ok(()))) if matches!(ended, Ended::DiskMended) => Ok(ended),
        Ok(Ok(Ok(()))) => closed.map(|()| ended).map_err(Into::into),
        Ok(Ok(Err(_))) if matches!(ended, Ended::DiskMended) => Ok(ended),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(error)) => Err(error).context("the loop died"),
        Err(_) => anyhow::bail!("the loop did not end within {STOP_PATIENCE:?}"),
    }
}

/// Returns when a write has failed, be it the one that records this start, and a later one went well, with as much free space
/// as the config wants.
async fn disk_mended(handle: driver::Handle, is_recorded: bool, config: &Config) {
    loop {
        tokio::time::sleep(driver::MEND_PERIOD).await;
        if is_recorded && !handle.has_failed() {
            continue;
        }
        let (data_dir, min_free_bytes) = (config.data_dir.clone(), config.min_free_bytes);
        let tried =
            tokio::task::spawn_blocking(move || durable::try_writing(&data_dir, min_free_bytes)).await;
        match tried {
            Ok(Ok(())) => return,
            Ok(Err(why)) => {
                tracing::warn!(%why, "the disk takes no writes: questions are answered, orders refused")
            }
            Err(error) => tracing::error!(%error, "the disk could not be tried"),
        }
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket
        .bind(address)
        .with_context(|| format!("cannot listen on {address}: is another master running there?"))?;
    Ok(socket.listen(BACKLOG)?)
}

async fn accept(
    listener: TcpListener,
    router: Router,
    door: Door,
    idle: Duration,
    connections: &TaskTracker,
    quiet: &CancellationToken,
) {
    let mut descriptors = Descriptors::new();
    let scarce = Arc::clone(&descriptors.scarce);
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // Out of descriptors, most likely, of this process or of the whole box.
                descriptors.are_scarce(&error.to_string());
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let number = socket.as_raw_fd();
        if let Err(error) = tune(&socket) {
            tracing::debug!(%error, "a connection was gone before it was tuned");
            continue;
        }
        let (router, door, quiet, scarce) =
            (router.clone(), door.clone(), quiet.clone(), Arc::clone(&scarce));
        connections.spawn(async move {
            let known = tokio::select! {
                known = door.knows(&socket) => known,
                () = quiet.cancelled() => None,
                () = async {
                    tokio::time::sleep(SCARCE_PATIENCE).await;
                    scarce.notified().await;
                } => None,
            };
            match known {
                // A task of its own: nobody waits for a link's end when the master stops.
                Some(true) => drop(tokio::spawn(door.meet(socket))),
                Some(false) => Box::pin(serve_http(socket, router, idle, quiet, scarce)).await,
                None => {}
            }
        });
        if descriptors.is_reserved(number) {
            descriptors.make_room(&listener).await;
        }
    }
}

/// The descriptors of this process, of which each connection takes one.
struct Descriptors {
    /// The first number that is kept for files. A new descriptor has the lowest number that is free.
    first_reserved: u64,
    /// Tells connections on which nothing is under way to end.
    scarce: Arc<Notify>,
    told: Option<Instant>,
}

impl Descriptors {
    fn new() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let first_reserved = limit - RESERVED_FILES.min(limit / 4);
        Self { first_reserved, scarce: Arc::new(Notify::new()), told: None }
    }

    fn is_reserved(&self, number: i32) -> bool {
        u64::try_from(number).is_ok_and(|number| number >= self.first_reserved)
    }

    /// Ends connections on which nothing is under way, and tells people now and then.
    fn are_scarce(&mut self, why: &str) {
        self.scarce.notify_waiters();
        if self.told.is_none_or(|told| told.elapsed() >= SCARCITY_PERIOD) {
            self.told = Some(Instant::now());
            tracing::warn!(
                why,
                "new connections have to wait, and idle ones are closed: raise the limit of open files (LimitNOFILE), \
                 or find out who opens so many"
            );
        }
    }

    /// Returns when there is a descriptor for another connection.
    async fn make_room(&mut self, listener: &TcpListener) {
        while rustix::io::dup(listener).map_or(true, |next| self.is_reserved(next.as_raw_fd())) {
            self.are_scarce("nearly all file descriptors are in use");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn serve_http(
    socket: TcpStream,
    router: Router,
    idle: Duration,
    quiet: CancellationToken,
    scarce: Arc<Notify>,
) {
    let turns = Arc::new(Turns::default());
    let service = Counting::new(TowerToHyperService::new(router), Arc::clone(&turns));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        // It counts from the end of the last answer, and so limits how long a connection may be idle.
        .header_read_timeout(idle)
        .serve_connection(TokioIo::new(Patient::new(socket, turns)), service)
        .with_upgrades();
    tokio::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        () = async {
            tokio::select! {
                () = quiet.cancelled() => {}
                () = scarce.notified() => {}
            }
        } => {
            // An idle one ends at once, others when the request that is under way is answered.
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection ended badly");
    }
}

fn tune(socket: &TcpStream) -> std::io::Result<()> {
    socket.set_nodelay(true)?;
    let (idle, between, probes) = KEEPALIVE;
    let keepalive = socket2::TcpKeepalive::new().with_time(idle).with_interval(between).with_retries(probes);
    socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

async fn told_to_stop() {
    let mut terminate = match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
        Ok(terminate) => terminate,
        Err(error) => {
            tracing::error!(%error, "cannot wait for SIGTERM");
            return std::future::pending().await;
        }
    };
    tokio::select! {
        _ = terminate.recv() => {}
        result = tokio::signal::ctrl_c() => {
            if let Err(error) = result {
                tracing::error!(%error, "cannot wait for SIGINT");
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Tells systemd, if that started the master.
fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// The allocator gives back what has lain unused for a second, but looks for it only when a thread ends or takes new pages. A
/// master that has read a million jobs at its start, and waits from then on, would keep twice what it needs: so a thread
/// ends now and then.
async fn give_back_memory() {
    loop {
        tokio::time::sleep(GIVE_BACK_PERIOD).await;
        if let Err(error) = std::thread::Builder::new().name("give-back".to_owned()).spawn(|| ()) {
            tracing::debug!(%error, "no thread: the next one does as well");
        }
    }
}

/// Tells systemd that the loop still turns: a process that is there and does not decide is to be restarted.
async fn watchdog(handle: driver::Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(limit / 2).await;
        if handle.is_alive().await {
            notify(&[sd_notify::NotifyState::Watchdog]);
        }
    }
}

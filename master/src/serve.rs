//! Starts the master (store, recovery, loop, REST and the slaves' listener), and stops it in order.
//!
//! After a failed write nobody knows what is on the disk: the master decides nothing more, and answers reads from what was
//! durable before. Once the disk takes writes again, the master restarts within the same process, from what the disk
//! holds.

mod accept;
mod system;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::routing::get;
use reloop_node::clock::unix_ms;
use reloop_node::durable;
use reloop_node::entropy::random;
use reloop_node::link::Timing;
use reloop_node::store::{Opened, Options, Store, StoreError};
use reloop_protocol::id::{Incarnation, MasterId};
use reloop_protocol::master::{self, Master, Origin};
use sd_notify::NotifyState;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{self, Config};
use crate::handle::{Handle, MEND_PERIOD};
use crate::link::{self, Listener};
use crate::{driver, records, rest};

/// Memory for the database's pages: writes are close together, and what is read twice is in the rules' state.
const CACHE_BYTES: u64 = 4 << 20;

/// How long requests and links may take to end when the master stops.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// Runs the master until SIGTERM or SIGINT.
///
/// # Errors
/// The master could not start, or the store failed and stayed failed.
pub async fn run(config: Config) -> anyhow::Result<()> {
    while let Ended::DiskMended = run_once(&config, Store::open).await? {
        tracing::info!("the disk takes writes again: the master starts anew from the state on disk");
    }
    Ok(())
}

/// Runs a master that acknowledges at once and stores nothing, until its process ends: for benches that measure the rest.
///
/// # Errors
/// As for [`run`].
#[doc(hidden)]
pub async fn run_forgetful(config: &Config) -> anyhow::Result<()> {
    run_once(config, Store::forgetful).await.map(|_| ())
}

/// Why a master ended without an error.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ended {
    Stopped,
    DiskMended,
}

async fn run_once(
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
    let settings = master::Settings { enrollment: config.enrollment, placement: config.placement };
    let (state, is_recorded) = recover(&store, settings).await?;

    let (node, handle, inputs) = driver::new(state, store.clone(), config.link.probe);
    handle.note_stored_ids().await?;
    let tcp = accept::listen(config.listen)?;
    let address = tcp.local_addr()?;
    let stop_loop = CancellationToken::new();
    let driving = tokio::spawn({
        let (stop, store) = (stop_loop.clone(), store.clone());
        async move { reloop_node::driver::run(node, store, inputs, stop.cancelled_owned()).await.map(|_| ()) }
    });
    let slaves = Listener::new(
        handle.clone(),
        timing(&config.link),
        config.link.max_handshakes,
        config.link.max_waiting,
    );
    let stop_http = CancellationToken::new();
    let rest_state = rest::RestState::new(handle.clone(), Arc::new(tokens), config);
    let router = rest::router(rest_state.with_stop(stop_http.clone()))
        .merge(Router::new().route("/v1/link", get(link::upgrade)).with_state(slaves.clone()));
    tracing::info!(%address, "listening");
    system::notify(NotifyState::Ready);
    let watchdog = tokio::spawn(system::feed_watchdog(handle.clone()));
    let giving_back = tokio::spawn(system::give_back_memory());

    let connections = TaskTracker::new();
    let ended = tokio::select! {
        () = accept::accept(tcp, router, slaves, config.http.idle, &connections, &stop_http) => Ended::Stopped,
        () = system::stop_signal() => Ended::Stopped,
        () = disk_mended(handle, is_recorded, config) => Ended::DiskMended,
    };
    if ended == Ended::Stopped {
        tracing::info!("stopping: running jobs go on at their machines");
        system::notify(NotifyState::Stopping);
    }
    watchdog.abort();
    giving_back.abort();
    stop_http.cancel();
    connections.close();
    // The loop ends first: that closes the links and answers waiting clients.
    stop_loop.cancel();
    let driven = tokio::time::timeout(STOP_PATIENCE, driving).await;
    if tokio::time::timeout(STOP_PATIENCE, connections.wait()).await.is_err() {
        tracing::debug!("some connections did not end in time");
    }
    let closed = store.close();
    match driven {
        // After a failed write both the loop and the store may report it: that is what the restart mends. The loop reports
        // nothing if the write that failed was the one that records the start.
        Ok(Ok(_)) if ended == Ended::DiskMended => Ok(ended),
        Ok(Ok(Ok(()))) => closed.map(|()| ended).map_err(Into::into),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(error)) => Err(error).context("the loop died"),
        Err(_) => anyhow::bail!("the loop did not end within {STOP_PATIENCE:?}"),
    }
}

/// The state that the store holds, and whether this start of the master is recorded in it. A start that cannot be recorded
/// is an error, unless the store holds an earlier one: then reads can be answered, and no slave is told of an incarnation
/// that is not on disk.
async fn recover(store: &Store, settings: master::Settings) -> anyhow::Result<(Master, bool)> {
    let fresh = MasterId::from_parts(unix_ms(), u128::from_le_bytes(random()));
    let mut state = master::newborn(settings, fresh);
    let origin = records::load(store, |record| state.restore(record)).await?;
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
    let (done, written) = oneshot::channel();
    store.commit(ops, move |result| drop(done.send(result)));
    let is_recorded = match written.await.context("the store is closed")? {
        Ok(()) => true,
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
    Ok((state, is_recorded))
}

fn timing(link: &config::Link) -> Timing {
    Timing { heartbeat: link.heartbeat, dead_after: link.dead_after, handshake: link.handshake }
}

/// Returns when a write has failed, be it the record of this start, and a later write succeeds with as much free space as
/// the config demands.
async fn disk_mended(handle: Handle, is_recorded: bool, config: &Config) {
    loop {
        tokio::time::sleep(MEND_PERIOD).await;
        if is_recorded && !handle.has_failed() {
            continue;
        }
        let (data_dir, min_free_bytes) = (config.data_dir.clone(), config.min_free_bytes);
        let tried =
            tokio::task::spawn_blocking(move || durable::try_writing(&data_dir, min_free_bytes)).await;
        match tried {
            Ok(Ok(())) => return,
            Ok(Err(why)) => {
                tracing::warn!(%why, "the disk takes no writes: reads are answered, orders refused");
            }
            Err(error) => tracing::error!(%error, "the disk could not be tried"),
        }
    }
}

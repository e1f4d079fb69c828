//! The master and the system around it: signals, systemd, and memory that the allocator holds.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};

use crate::handle::Handle;

/// Longer than the second for which mimalloc keeps unused pages. Each time costs some 50 µs.
const GIVE_BACK_PERIOD: Duration = Duration::from_secs(2);

/// Returns when SIGTERM or SIGINT came.
pub(super) async fn stop_signal() {
    let mut terminate = match signal(SignalKind::terminate()) {
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

/// Tells systemd, if the master is one of its services.
pub(super) fn notify(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be notified");
    }
}

/// Tells systemd regularly that the loop is running, if the unit has a watchdog: a master that hangs is restarted.
pub(super) async fn feed_watchdog(handle: Handle) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    loop {
        tokio::time::sleep(limit / 2).await;
        if handle.is_alive().await {
            notify(NotifyState::Watchdog);
        }
    }
}

/// Lets the allocator return unused memory to the system. mimalloc does so only when a thread ends or takes new pages: an
/// idle master that has read a million jobs at its start would keep twice the memory that it needs.
pub(super) async fn give_back_memory() {
    loop {
        tokio::time::sleep(GIVE_BACK_PERIOD).await;
        if let Err(error) = std::thread::Builder::new().name("give-back".to_owned()).spawn(|| ()) {
            tracing::debug!(%error, "no thread could be started: the next one returns the memory");
        }
    }
}

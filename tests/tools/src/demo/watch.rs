//! Polls both sides: each slave through its local socket, the master over REST.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use reloop_rig::client::Client;
use reloop_rig::daemon::binary;

/// Often enough that a bar moves, and no load for a box with two cores.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A slave's own status, from `reloop-slave status --json`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Status {
    pub(super) jobs: Vec<Held>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Held {
    pub(super) id: String,
    pub(super) state: String,
    /// In thousandths.
    pub(super) progress: Option<u16>,
    pub(super) not_before: Option<String>,
}

/// Watches one slave locally, without the network.
pub(super) struct Eye {
    seen: watch::Receiver<Option<Status>>,
    open: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Eye {
    pub(super) fn on(config: &Path) -> anyhow::Result<Self> {
        let (tell, seen) = watch::channel(None);
        let (open, closed) = mpsc::channel();
        let config = config.to_owned();
        let look = move || {
            // Ends when the other end of the channel is dropped.
            while closed.recv_timeout(LOOK_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
                tell.send_replace(status(&config));
            }
        };
        let thread = std::thread::Builder::new().name("eye".to_owned()).spawn(look)?;
        Ok(Self { seen, open: Some(open), thread: Some(thread) })
    }

    /// The latest status; `None` while the agent is down.
    pub(super) fn seen(&self) -> Option<Status> {
        self.seen.borrow().clone()
    }
}

impl Drop for Eye {
    fn drop(&mut self) {
        self.open = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has been printed already.
            let _ = thread.join();
        }
    }
}

fn status(config: &Path) -> Option<Status> {
    let mut command = Command::new(binary("reloop-slave"));
    // Variables are settings too, and the user of the demo may have set some.
    for (key, _) in std::env::vars_os().filter(|(key, _)| key.as_encoded_bytes().starts_with(b"RELOOP_")) {
        command.env_remove(key);
    }
    let output = command
        .args(["status", "--json", "--config"])
        .arg(config)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    serde_json::from_slice(&output.stdout).ok()
}

/// A job as the master shows it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Job {
    pub(super) id: String,
    pub(super) name: Option<String>,
    pub(super) state: String,
    pub(super) slave: Option<String>,
    pub(super) flags: Vec<String>,
    /// From 0 to 1.
    pub(super) progress: Option<f64>,
    pub(super) freshness: Freshness,
    pub(super) attempt: u32,
    pub(super) started_at: Option<String>,
    pub(super) ended_at: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Freshness {
    pub(super) observed_at: Option<String>,
}

impl Job {
    pub(super) fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(&self.id)
    }

    pub(super) fn is_ended(&self) -> bool {
        ["succeeded", "failed", "canceled", "rejected", "expired", "lost"].contains(&self.state.as_str())
    }

    pub(super) fn is_under_way(&self) -> bool {
        is_under_way(&self.state)
    }
}

/// Whether the machine works on it or is about to.
pub(super) fn is_under_way(state: &str) -> bool {
    ["starting", "running", "paused", "stopping"].contains(&state)
}

/// A slave as the master shows it.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Slave {
    pub(super) name: String,
    pub(super) link: String,
    pub(super) last_contact_at: Option<String>,
    pub(super) attention: Option<Attention>,
}

/// Why a slave needs a person.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Attention {
    pub(super) code: String,
    pub(super) text: String,
}

/// The receipt of one handshake.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Receipt {
    pub(super) number: u32,
    pub(super) took_ms: u64,
    pub(super) lines: Vec<Line>,
}

/// What it decided for one job.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Line {
    pub(super) job: String,
    /// What the master knew.
    pub(super) master: Option<String>,
    /// What the slave reported.
    pub(super) slave: Option<String>,
    /// The line of the reconciliation table that decided.
    pub(super) line: String,
    pub(super) verdict: String,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
}

/// A whole list of the master's.
pub(super) async fn list<T: DeserializeOwned>(master: &Client, path: &str) -> anyhow::Result<Vec<T>> {
    let reply = master.get(path).await.with_context(|| format!("the master does not answer GET {path}"))?;
    ensure!(reply.status == 200, "GET {path}: the master answered {}: {:#}", reply.status, reply.body);
    let page: Page<T> =
        serde_json::from_value(reply.body).with_context(|| format!("the answer to GET {path}"))?;
    Ok(page.data)
}

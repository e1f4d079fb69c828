//! The demo's master.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use reloop_rig::client::Client;
use reloop_rig::daemon::{Daemon, WorkDir, binary, write};
use tokio::time::sleep;

use super::LOOK_INTERVAL;

/// The documented port. If it is taken, the following ones are tried.
const FIRST_PORT: u16 = 7400;
const PORTS: u16 = 50;
/// Longer than a master takes to open an empty store on a busy box.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// The demo's master. Unlike the masters of the tests it listens on the documented port.
pub(super) struct Office {
    pub(super) daemon: Daemon,
    pub(super) addr: SocketAddr,
    dir: WorkDir,
}

impl Office {
    pub(super) async fn open() -> anyhow::Result<Self> {
        for port in FIRST_PORT..FIRST_PORT + PORTS {
            let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            if TcpListener::bind(addr).is_err() {
                continue;
            }
            let dir = WorkDir::new("reloop-demo-");
            let daemon = Daemon::new("master", dir.path().join("master.log"));
            let mut office = Self { daemon, addr, dir };
            if office.start().await? {
                return Ok(office);
            }
        }
        bail!("no free port from {FIRST_PORT} to {}: end what listens there", FIRST_PORT + PORTS - 1)
    }

    /// False if another process has taken the port meanwhile.
    pub(super) async fn start(&mut self) -> anyhow::Result<bool> {
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let config = self.dir.path().join("master.toml");
        // Shorter than the defaults, so that a dead link is noticed within seconds.
        write(&config, "enrollment = \"open\"\n[link]\nheartbeat_seconds = 1\ndead_after_seconds = 3\n");
        let args = ["serve".into(), "--listen".into(), self.addr.to_string()];
        let args = [&args[..], &["--data-dir".into(), path(&self.data_dir())]].concat();
        let args = [&args[..], &["--config".into(), path(&config)]].concat();
        self.daemon.spawn(&binary("reloop"), &args, &BTreeMap::new(), &[]);
        let end = Instant::now() + START_DEADLINE;
        loop {
            // The token proves that it is this master: another one may answer on this port.
            if let Ok(client) = self.client()
                && client.slaves().await.is_ok_and(|reply| reply.status == 200)
            {
                return Ok(true);
            }
            if let Some(status) = self.daemon.ended() {
                ensure!(
                    self.daemon.log().contains("in use"),
                    "the master ended: {status}\n{}",
                    self.daemon.tail()
                );
                return Ok(false);
            }
            ensure!(Instant::now() < end, "the master does not answer:\n{}", self.daemon.tail());
            sleep(LOOK_INTERVAL).await;
        }
    }

    pub(super) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn token_file(&self) -> PathBuf {
        self.data_dir().join("admin.token")
    }

    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let token = fs::read_to_string(self.token_file()).context("the admin token of the first start")?;
        Ok(Client::new(self.addr, Some(token.trim().to_owned())))
    }
}

//! A master with its disk.

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use super::{Backup, LinkSettings, fast_link, push_link_table, quoted, text};
use crate::client::Client;
use crate::daemon::{Daemon, WorkDir, binary, free_port, freeze, remove_dir, write};
use crate::disk::{Disk, DiskKind};
use crate::wait::eventually;

/// A master opens an empty store in well under a second; the rest is for a busy box.
const START_DEADLINE: Duration = Duration::from_secs(20);
/// Another process may take a free port before the master does. Five times in a row has another cause.
const PORT_ATTEMPTS: usize = 5;

#[derive(Clone, Debug)]
pub struct MasterOptions {
    /// `open`, `token` or `approve`.
    pub enrollment: String,
    pub link: LinkSettings,
    /// More top-level lines of the configuration.
    pub config: String,
    pub env: BTreeMap<String, String>,
    /// A program that runs the master, with its arguments, such as `strace` with injected errors.
    pub wrapper: Vec<String>,
    /// What its data directory is on.
    pub disk: DiskKind,
}

impl Default for MasterOptions {
    fn default() -> Self {
        Self {
            enrollment: "open".to_owned(),
            link: fast_link(),
            config: String::new(),
            env: BTreeMap::new(),
            wrapper: Vec::new(),
            disk: DiskKind::Shared,
        }
    }
}

#[derive(Debug)]
pub struct Master {
    daemon: Daemon,
    options: MasterOptions,
    addr: SocketAddr,
    /// Dropped after the process that uses it and before the directory in which it is mounted.
    disk: Option<Disk>,
    dir: WorkDir,
}

impl Master {
    /// A new master on an empty data directory; returns when it answers.
    pub async fn start(options: MasterOptions) -> Self {
        let dir = WorkDir::new("reloop-master-");
        let mut master = Self {
            daemon: Daemon::new("master", dir.path().join("master.log")),
            addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            disk: Disk::mount(options.disk, &dir.path().join("data")),
            options,
            dir,
        };
        for _ in 0..PORT_ATTEMPTS {
            master.addr.set_port(free_port());
            match master.run().await {
                Ok(()) => return master,
                Err(_) if master.log().contains("in use") => {}
                Err(status) => panic!("the master ended with {status}:\n{}", master.daemon.tail()),
            }
        }
        panic!("{PORT_ATTEMPTS} ports in a row were taken:\n{}", master.daemon.tail());
    }

    /// Restarts it on the same port and data directory; returns when it answers. A running one is killed first.
    pub async fn restart(&mut self) {
        self.kill();
        if let Err(status) = self.run().await {
            panic!("the master ended with {status}:\n{}", self.daemon.tail());
        }
    }

    /// Restarts it although it may refuse to run; then returns its exit status.
    pub async fn try_restart(&mut self) -> Result<(), ExitStatus> {
        self.kill();
        self.run().await
    }

    /// A power cut: the process is killed, and the disk keeps what had reached it by then. [`Master::restart`] follows.
    pub fn cut_power(&mut self) {
        freeze(&self.daemon.process());
        let left = self.disk().as_the_power_cut_leaves_it();
        self.kill();
        self.disk.as_mut().expect("it was just there").come_back_as(left);
    }

    pub fn disk(&self) -> &Disk {
        self.disk.as_ref().expect("the options give it a disk of its own")
    }

    /// Kills it and removes all its data.
    pub fn wipe(&mut self) {
        self.kill();
        remove_dir(&self.data_dir());
    }

    /// A copy of its data at this moment.
    pub fn backup(&self) -> Backup {
        // Stopped while it is copied, so that the store does not change meanwhile.
        self.pause();
        let backup = Backup::of(&self.data_dir());
        self.cont();
        backup
    }

    /// Kills it, and restores its data from a backup.
    pub fn put_back(&mut self, backup: &Backup) {
        self.kill();
        backup.put_back(&self.data_dir());
    }

    /// Starts another master on a copy of the same data.
    pub async fn start_from(backup: &Backup, options: MasterOptions) -> Self {
        let mut master = Self::start(options).await;
        master.put_back(backup);
        master.restart().await;
        master
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link's address for a slave that dials it without a proxy.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.addr)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Its options; a change takes effect at the next start.
    pub fn options_mut(&mut self) -> &mut MasterOptions {
        &mut self.options
    }

    /// The admin token that the master wrote at its first start.
    pub fn admin_token(&self) -> String {
        let path = self.data_dir().join("admin.token");
        let token = fs::read_to_string(&path);
        token.unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
    }

    pub fn client(&self) -> Client {
        Client::new(self.addr, Some(self.admin_token()))
    }

    async fn run(&mut self) -> Result<(), ExitStatus> {
        let data_dir = self.data_dir();
        let config = self.dir.path().join("master.toml");
        write(&config, &self.config());
        let mut args: Vec<String> = vec!["serve".into(), "--listen".into(), self.addr.to_string()];
        args.extend(["--data-dir".into(), text(&data_dir), "--config".into(), text(&config)]);
        self.daemon.spawn(&binary("reloop"), &args, &self.options.env, &self.options.wrapper);
        let client = Client::new(self.addr, None);
        eventually("the master to answer /livez", START_DEADLINE, async || {
            if let Some(status) = self.daemon.ended() {
                return Ok(Err(status));
            }
            if !self.daemon.listens(self.addr.port()) {
                return Err(format!("it does not listen yet\n{}", self.daemon.tail()));
            }
            match client.livez().await {
                Ok(reply) if reply.status == 200 => Ok(Ok(())),
                Ok(reply) => Err(format!("{reply:?}")),
                Err(unanswered) => Err(format!("{unanswered:?}\n{}", self.daemon.tail())),
            }
        })
        .await
    }

    fn config(&self) -> String {
        let mut config =
            format!("enrollment = {}\n{}\n", quoted(&self.options.enrollment), self.options.config);
        push_link_table(&mut config, &self.options.link);
        config
    }
}

impl Deref for Master {
    type Target = Daemon;
    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

impl DerefMut for Master {
    fn deref_mut(&mut self) -> &mut Daemon {
        &mut self.daemon
    }
}

//! The real nginx with the shipped site file. Only its ports are replaced.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use crate::daemon::{WorkDir, free_port, ignore_gone, workspace, write};
use crate::install::{install, left_out, runs};
use crate::wait::eventually;

/// nginx listens within milliseconds; the rest is for a busy box.
const START_DEADLINE: Duration = Duration::from_secs(10);
/// A fast shutdown closes connections at once.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
const STOP_PAUSE: Duration = Duration::from_millis(5);
/// The lines of the shipped file that a test replaces; each has to occur exactly once.
const SHIPPED_LISTEN: &str = "listen 80;\n    # For TLS";
const SHIPPED_UPSTREAM: &str = "server 127.0.0.1:7400;";
const SHIPPED_IDLE: &str = "keepalive_timeout 60s;";

/// A running nginx, which is stopped on drop.
#[derive(Debug)]
pub struct Nginx {
    child: Child,
    addr: SocketAddr,
    dir: WorkDir,
}

impl Nginx {
    /// Starts nginx with the shipped site on a free port, before the master on `upstream_port`. Returns `None`, with a
    /// line on stderr, if it is not installed.
    pub async fn start(upstream_port: u16) -> Option<Self> {
        Self::start_with(upstream_port, None).await
    }

    /// The same, with another timeout for idle connections to the master.
    pub async fn start_with(upstream_port: u16, idle: Option<Duration>) -> Option<Self> {
        if !is_there() {
            left_out("nginx is not installed (RELOOP_INSTALL=1 as root installs nginx-light)");
            return None;
        }
        let dir = WorkDir::new("reloop-nginx-");
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let site = dir.path().join("reloop.conf");
        write(&site, &shipped_site(addr, upstream_port, idle));
        let config = dir.path().join("nginx.conf");
        write(&config, &main_config(&site.display().to_string()));
        let log = fs::File::create(dir.path().join("output.log")).expect("the directory was just made");
        let child = Command::new("nginx")
            .arg("-p")
            .arg(dir.path())
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .process_group(0)
            .spawn()
            .expect("nginx was just found");
        let mut nginx = Self { child, addr, dir };
        eventually("nginx to listen", START_DEADLINE, async || {
            match nginx.child.try_wait().expect("the child is ours to wait for") {
                Some(status) => panic!("nginx ended with {status}:\n{}", nginx.log()),
                None => TcpStream::connect(addr).map_err(|error| format!("{error}\n{}", nginx.log())),
            }
        })
        .await;
        Some(nginx)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link's address for a slave's configuration.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.addr)
    }

    /// `nginx -s reload`: new workers take over, the old ones keep their connections for a while.
    pub fn reload(&self) {
        self.signal(Signal::HUP);
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("output.log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        ignore_gone(rustix::process::kill_process(Pid::from_child(&self.child), signal));
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // SIGTERM first, so that the master process stops its workers.
        self.signal(Signal::TERM);
        let end = Instant::now() + STOP_DEADLINE;
        while self.child.try_wait().expect("the child is ours to wait for").is_none() {
            if Instant::now() > end {
                ignore_gone(rustix::process::kill_process_group(Pid::from_child(&self.child), Signal::KILL));
            }
            std::thread::sleep(STOP_PAUSE);
        }
        if std::thread::panicking() {
            println!("---- nginx ----\n{}\n----", self.log());
        }
    }
}

fn is_there() -> bool {
    static THERE: OnceLock<bool> = OnceLock::new();
    let is_here = || runs("nginx", &["-v"]);
    *THERE.get_or_init(|| is_here() || install(&["nginx-light"]) && is_here())
}

fn shipped_site(listen: SocketAddr, upstream_port: u16, idle: Option<Duration>) -> String {
    let path = workspace().join("deploy/nginx/reloop.conf");
    let shipped = fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("cannot read the shipped {}: {error}", path.display()));
    let replace = |text: &str, from: &str, to: &str| {
        assert_eq!(text.matches(from).count(), 1, "{} should have once: {from}", path.display());
        text.replacen(from, to, 1)
    };
    let text = replace(&shipped, SHIPPED_LISTEN, &format!("listen {listen};\n    # For TLS"));
    let text = replace(&text, SHIPPED_UPSTREAM, &format!("server 127.0.0.1:{upstream_port};"));
    match idle {
        Some(idle) => replace(&text, SHIPPED_IDLE, &format!("keepalive_timeout {}ms;", idle.as_millis())),
        None => text,
    }
}

fn main_config(site: &str) -> String {
    // The workers must reach the test's directory; without root they run as the same user anyway.
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    format!(
        "{user}daemon off;
worker_processes 1;
worker_shutdown_timeout 5m;
pid nginx.pid;
error_log stderr info;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    include {site};
}}
"
    )
}

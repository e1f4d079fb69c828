//! Well-known servers from Debian's packages, started for a bench, with a minimal client for each.
//!
//! Each client uses a plain socket and has one request under way, as the clients of the master do. The report names servers
//! that are not installed, with their packages.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::bare::free_addr;

/// How long a server may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// A server that Reloop is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peer {
    /// Redis, which syncs its append-only file before each answer.
    Redis,
    /// NATS JetStream, file storage; it answers before it syncs.
    Nats,
    /// PostgreSQL with its default durability.
    Postgres,
    /// beanstalkd, which syncs its log on each write.
    Beanstalkd,
    Mosquitto,
}

impl Peer {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis, appendfsync always",
            Self::Nats => "NATS JetStream, file storage (answers before it syncs)",
            Self::Postgres => "PostgreSQL, one INSERT each",
            Self::Beanstalkd => "beanstalkd, fsync on each write",
            Self::Mosquitto => "mosquitto, QoS 1, persistent sessions",
        }
    }

    pub(super) fn package(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Nats => "nats-server",
            Self::Postgres => "postgresql",
            Self::Beanstalkd => "beanstalkd",
            Self::Mosquitto => "mosquitto",
        }
    }

    fn program(self) -> Option<PathBuf> {
        let (names, dirs): (&[&str], Vec<PathBuf>) = match self {
            Self::Redis => (&["redis-server"], vec![]),
            Self::Nats => (&["nats-server"], vec![]),
            Self::Beanstalkd => (&["beanstalkd"], vec![]),
            Self::Mosquitto => (&["mosquitto"], vec![]),
            Self::Postgres => {
                let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
                (&["postgres"], versions.map(|entry| entry.path().join("bin")).collect())
            }
        };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let dirs = dirs.into_iter().chain(std::env::split_paths(&path)).chain(["/usr/sbin".into()]);
        dirs.flat_map(|dir| names.iter().map(move |name| dir.join(name))).find(|path| path.is_file())
    }
}

/// A running server, which is killed on drop.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    pub(super) peer: Peer,
    child: Child,
    _dir: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    /// Starts a server with an empty directory; `None` if it is not installed.
    pub(super) async fn start(peer: Peer) -> anyhow::Result<Option<Self>> {
        let Some(program) = peer.program() else { return Ok(None) };
        let dir = TempDir::with_prefix("reloop-peer-")?;
        let addr = free_addr();
        let mut command = peer.command(&program, dir.path(), addr)?;
        let log = fs::File::create(dir.path().join("log"))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let server = Self { addr, peer, child, _dir: dir };
        let since = Instant::now();
        // Some listen before they answer.
        while let Err(error) = server.answers().await {
            if since.elapsed() > START_PATIENCE {
                let log = fs::read_to_string(server._dir.path().join("log")).unwrap_or_default();
                bail!("{} does not start: {error:#}\n{log}", peer.package());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Some(server))
    }

    async fn answers(&self) -> anyhow::Result<()> {
        Peering::connect(self).await.map(|_| ())
    }
}

impl Peer {
    fn command(self, program: &Path, dir: &Path, addr: SocketAddr) -> anyhow::Result<Command> {
        let (port, place) = (addr.port().to_string(), dir.display().to_string());
        let mut command = Command::new(program);
        match self {
            Self::Redis => {
                command.args(["--port", &port, "--bind", "127.0.0.1", "--dir", &place, "--save", ""]);
                command.args(["--appendonly", "yes", "--appendfsync", "always"]);
            }
            Self::Nats => {
                command.args(["-js", "-a", "127.0.0.1", "-p", &port, "-sd", &place]);
            }
            Self::Beanstalkd => {
                command.args(["-l", "127.0.0.1", "-p", &port, "-b", &place, "-f", "0"]);
            }
            Self::Mosquitto => {
                let conf = dir.join("mosquitto.conf");
                let text = format!(
                    "listener {port} 127.0.0.1\nallow_anonymous true\npersistence true\npersistence_location \
                     {place}/\nmax_queued_messages 0\n"
                );
                fs::write(&conf, text)?;
                command.arg("-c").arg(conf);
            }
            Self::Postgres => {
                // The server refuses to run as root; Debian's package brings a user for it.
                let data = dir.join("data");
                fs::create_dir(&data)?;
                let owner = |path: &Path| Command::new("chown").arg("postgres").arg(path).status();
                let root = rustix::process::geteuid().is_root();
                if root {
                    ensure!(owner(dir)?.success() && owner(&data)?.success(), "there is a user postgres");
                }
                let wrapped = |program: &Path| {
                    if root {
                        let mut command = Command::new("setpriv");
                        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(program);
                        command
                    } else {
                        Command::new(program)
                    }
                };
                let initdb = program.with_file_name("initdb");
                let made =
                    wrapped(&initdb).args(["-A", "trust", "-U", "postgres", "-D"]).arg(&data).output()?;
                ensure!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
                command = wrapped(program);
                command.arg("-D").arg(&data).args(["-p", &port, "-h", "127.0.0.1", "-k", &place]);
                command.args(["-c", "max_connections=300"]);
            }
        }
        Ok(command)
    }
}

/// A connection to a peer.
pub(super) struct Peering {
    peer: Peer,
    io: BufReader<TcpStream>,
    line: String,
}

impl Peering {
    /// Connects, and does the handshake of the protocol.
    pub(super) async fn connect(server: &Server) -> anyhow::Result<Self> {
        let tcp = TcpStream::connect(server.addr).await?;
        tcp.set_nodelay(true)?;
        let mut peering = Self { peer: server.peer, io: BufReader::new(tcp), line: String::new() };
        match server.peer {
            Peer::Redis | Peer::Beanstalkd | Peer::Mosquitto => {}
            Peer::Nats => {
                peering.read_line().await?;
                peering.send(b"CONNECT {\"verbose\":false,\"pedantic\":false}\r\nPING\r\n").await?;
                while peering.read_line().await?.trim() != "PONG" {}
                peering.send(b"SUB reply.> 1\r\n").await?;
            }
            Peer::Postgres => {
                let mut startup = vec![];
                startup.extend(196_608_u32.to_be_bytes());
                startup.extend(b"user\0postgres\0database\0postgres\0\0");
                let length = u32::try_from(startup.len() + 4)?;
                let mut message = length.to_be_bytes().to_vec();
                message.extend(startup);
                peering.send(&message).await?;
                peering.ready_for_query().await?;
            }
        }
        Ok(peering)
    }

    /// Creates what the first order needs: a stream or a table.
    pub(super) async fn prepare(&mut self) -> anyhow::Result<()> {
        match self.peer {
            Peer::Nats => {
                let config = r#"{"name":"orders","subjects":["orders"],"storage":"file","retention":"limits","num_replicas":1}"#;
                let request =
                    format!("PUB $JS.API.STREAM.CREATE.orders reply.make {}\r\n{config}\r\n", config.len());
                self.send(request.as_bytes()).await?;
                let answer = self.nats_message().await?;
                ensure!(!answer.contains("\"error\""), "{answer}");
            }
            Peer::Postgres => {
                self.query("CREATE TABLE orders (id bigserial PRIMARY KEY, body text NOT NULL)").await?;
            }
            Peer::Redis | Peer::Beanstalkd | Peer::Mosquitto => {}
        }
        Ok(())
    }

    /// Stores one order, and waits for the server's acknowledgement.
    pub(super) async fn put(&mut self, body: &str) -> anyhow::Result<()> {
        match self.peer {
            Peer::Redis => {
                let answer = self.redis(&["XADD", "orders", "*", "body", body]).await?;
                ensure!(answer.is_some(), "no id");
            }
            Peer::Nats => {
                let request = format!("PUB orders reply.put {}\r\n{body}\r\n", body.len());
                self.send(request.as_bytes()).await?;
                let answer = self.nats_message().await?;
                ensure!(answer.contains("\"seq\""), "{answer}");
            }
            Peer::Postgres => self.query(&format!("INSERT INTO orders (body) VALUES ('{body}')")).await?,
            Peer::Beanstalkd => {
                let request = format!("put 0 0 600 {}\r\n{body}\r\n", body.len());
                self.send(request.as_bytes()).await?;
                ensure!(self.read_line().await?.starts_with("INSERTED"), "{}", self.line);
            }
            Peer::Mosquitto => bail!("mosquitto is measured by its sessions"),
        }
        Ok(())
    }

    /// Adds one job for [`Peering::work`].
    pub(super) async fn push(&mut self, body: &str) -> anyhow::Result<()> {
        match self.peer {
            Peer::Redis => self.redis(&["LPUSH", "jobs", body]).await.map(|_| ()),
            Peer::Beanstalkd | Peer::Nats | Peer::Postgres | Peer::Mosquitto => self.put(body).await,
        }
    }

    /// Takes one job so that a crash would not lose it, and marks it as done; false if none came within a second.
    pub(super) async fn work(&mut self) -> anyhow::Result<bool> {
        match self.peer {
            Peer::Redis => {
                let Some(body) = self.redis(&["BLMOVE", "jobs", "taken", "RIGHT", "LEFT", "1"]).await? else {
                    return Ok(false);
                };
                self.redis(&["LREM", "taken", "1", &body]).await?;
                Ok(true)
            }
            Peer::Beanstalkd => {
                self.send(b"reserve-with-timeout 1\r\n").await?;
                let line = self.read_line().await?.to_owned();
                let mut words = line.split_whitespace();
                match words.next() {
                    Some("RESERVED") => {
                        let id = words.next().context("a job has an id")?.to_owned();
                        let size: usize = words.next().context("and a size")?.parse()?;
                        let mut body = vec![0; size + 2];
                        self.io.read_exact(&mut body).await?;
                        self.send(format!("delete {id}\r\n").as_bytes()).await?;
                        ensure!(self.read_line().await?.starts_with("DELETED"), "{}", self.line);
                        Ok(true)
                    }
                    Some("TIMED_OUT") => Ok(false),
                    _ => bail!("{line}"),
                }
            }
            Peer::Nats | Peer::Postgres | Peer::Mosquitto => {
                bail!("{} is no job queue here", self.peer.name())
            }
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.io.get_mut().write_all(bytes).await?)
    }

    async fn read_line(&mut self) -> anyhow::Result<&str> {
        self.line.clear();
        ensure!(self.io.read_line(&mut self.line).await? > 0, "the server hung up");
        Ok(&self.line)
    }

    /// Sends a RESP 2 command. Returns its bulk, simple or integer answer; `None` for nil.
    async fn redis(&mut self, words: &[&str]) -> anyhow::Result<Option<String>> {
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        self.send(request.as_bytes()).await?;
        let line = self.read_line().await?.trim_end().to_owned();
        let (kind, rest) = line.split_at_checked(1).context("an empty answer")?;
        match kind {
            "+" | ":" => Ok(Some(rest.to_owned())),
            "$" | "*" if rest == "-1" => Ok(None),
            "$" => {
                let mut body = vec![0; rest.parse::<usize>()? + 2];
                self.io.read_exact(&mut body).await?;
                body.truncate(body.len() - 2);
                Ok(Some(String::from_utf8(body)?))
            }
            _ => bail!("{line}"),
        }
    }

    /// The body of the next message.
    async fn nats_message(&mut self) -> anyhow::Result<String> {
        loop {
            let line = self.read_line().await?.trim_end().to_owned();
            if line == "PING" {
                self.send(b"PONG\r\n").await?;
            } else if line.starts_with("MSG") {
                let size: usize = line.rsplit(' ').next().context("a message has a size")?.parse()?;
                let mut body = vec![0; size + 2];
                self.io.read_exact(&mut body).await?;
                return Ok(String::from_utf8_lossy(&body).into_owned());
            } else {
                ensure!(!line.starts_with("-ERR"), "{line}");
            }
        }
    }

    async fn query(&mut self, sql: &str) -> anyhow::Result<()> {
        let mut message = vec![b'Q'];
        message.extend(u32::try_from(sql.len() + 5)?.to_be_bytes());
        message.extend(sql.as_bytes());
        message.push(0);
        self.send(&message).await?;
        self.ready_for_query().await
    }

    async fn ready_for_query(&mut self) -> anyhow::Result<()> {
        let mut failed = None;
        loop {
            let kind = self.io.read_u8().await?;
            let size = self.io.read_u32().await?;
            let mut body = vec![0; usize::try_from(size)?.saturating_sub(4)];
            self.io.read_exact(&mut body).await?;
            match kind {
                b'E' => failed = Some(String::from_utf8_lossy(&body).replace('\0', " ")),
                b'Z' => {
                    return match failed {
                        None => Ok(()),
                        Some(why) => bail!("{why}"),
                    };
                }
                _ => {}
            }
        }
    }
}

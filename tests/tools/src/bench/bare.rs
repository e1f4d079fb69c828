//! The lower bound of a link's cost: an upgrade by the same library with the same buffers, and one round trip of 100
//! bytes. A reconnect storm is compared with it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::link;
use ring::rand::SystemRandom;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

use super::process::{all, resident};

/// Long enough for every client of a bench: the kernel drops a connection that does not fit, and the client tries again a
/// second later.
const BACKLOG: i32 = 65_535;

/// How long a server may take until it listens.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Sent and echoed in the round trip.
const PAYLOAD: [u8; 100] = [7; 100];

/// Prefix of a message that carries a key and its signature of [`PAYLOAD`].
const SIGNED: [u8; 4] = *b"SIGN";

/// Upgrades and echoes until the process is killed.
pub(super) async fn serve(addr: SocketAddr) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        // Fails if the client has disconnected already.
        let Ok((tcp, _)) = listener.accept().await else { continue };
        tokio::spawn(echo(tcp));
    }
}

async fn echo(tcp: TcpStream) -> anyhow::Result<()> {
    tcp.set_nodelay(true)?;
    let mut socket = accept_async_with_config(tcp, Some(link::config())).await?;
    while let Some(message) = socket.next().await {
        let Message::Binary(bytes) = message? else { continue };
        if let Some((key, signature)) = bytes.strip_prefix(&SIGNED).and_then(|rest| rest.split_at_checked(32))
        {
            let key = UnparsedPublicKey::new(&ED25519, key);
            ensure!(key.verify(&PAYLOAD, signature).is_ok(), "the signature is the key's");
        }
        socket.send(Message::Binary(bytes)).await?;
    }
    Ok(())
}

/// Connects one client to [`serve`].
pub(super) async fn dial(addr: SocketAddr) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let request = ClientRequestBuilder::new(format!("ws://{addr}/").parse()?);
    Ok(client_async_with_config(request, tcp, Some(link::config())).await?.0)
}

/// Repeats `attempt` while it is reset: when the listener's queue is full, the kernel resets some connections (those whose
/// SYN cookie has expired, tcp(7)). A slave redials too.
pub(super) async fn until_heard<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    loop {
        match attempt().await {
            Err(error) if was_reset(&error) => tokio::time::sleep(Duration::from_millis(5)).await,
            ended => return ended,
        }
    }
}

fn was_reset(error: &anyhow::Error) -> bool {
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    /// [`serve`].
    Echo,
    /// [`super::intake::answer`].
    Http,
}

/// A bare server in a process of its own, which is killed on drop.
pub(super) struct Server {
    pub(super) addr: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts an echo server. Returns when it listens.
    pub(super) async fn start(addr: SocketAddr) -> anyhow::Result<Self> {
        Self::start_as(Kind::Echo, addr).await
    }

    /// Starts a server of this kind. Returns when it listens.
    pub(super) async fn start_as(kind: Kind, addr: SocketAddr) -> anyhow::Result<Self> {
        let mut server = Self { addr, child: spawn(kind, addr)? };
        let since = Instant::now();
        while !server.listens().await {
            ensure!(since.elapsed() < START_PATIENCE, "the bare server does not listen");
            // It exits if another process took the port first.
            if server.child.try_wait()?.is_some() {
                server.addr = free_addr();
                server.child = spawn(kind, server.addr)?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(server)
    }

    /// A connection to a local port without a listener may connect to itself (TCP simultaneous open).
    async fn listens(&self) -> bool {
        let socket = TcpStream::connect(self.addr).await;
        socket.is_ok_and(|socket| socket.local_addr().is_ok_and(|local| local != self.addr))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn spawn(kind: Kind, addr: SocketAddr) -> io::Result<Child> {
    let which = match kind {
        Kind::Echo => "--bare-server",
        Kind::Http => "--bare-http",
    };
    Command::new(std::env::current_exe()?)
        .args(["bench", which, &addr.to_string()])
        .stdin(Stdio::null())
        .spawn()
}

impl Drop for Server {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Connected clients of [`serve`].
pub(super) struct Clients {
    _sockets: Vec<WebSocketStream<TcpStream>>,
}

impl Clients {
    /// Connects `size` clients at once, each with one round trip. Returns how long all of them took.
    pub(super) async fn connect(size: usize, addr: SocketAddr) -> anyhow::Result<(Self, Duration)> {
        Self::connect_with((0..size).map(|_| || PAYLOAD.to_vec()), addr).await
    }

    async fn connect_with<M>(
        messages: impl Iterator<Item = M>,
        addr: SocketAddr,
    ) -> anyhow::Result<(Self, Duration)>
    where
        M: Fn() -> Vec<u8> + Send + Sync + 'static,
    {
        let since = Instant::now();
        let mut tasks = JoinSet::new();
        for message in messages {
            tasks.spawn(async move {
                until_heard(async || {
                    let mut socket = dial(addr).await?;
                    socket.send(Message::Binary(message().into())).await?;
                    socket.next().await.context("no answer")??;
                    Ok(socket)
                })
                .await
            });
        }
        Ok((Self { _sockets: all(tasks).await? }, since.elapsed()))
    }
}

/// KiB of a server's memory for each of `size` bare links.
pub(super) async fn link_kib(size: usize) -> anyhow::Result<f64> {
    let server = Server::start(free_addr()).await?;
    let before = resident(server.pid())?;
    let (clients, _) = Clients::connect(size, server.addr).await?;
    let grown = resident(server.pid())?.saturating_sub(before);
    drop(clients);
    Ok(grown as f64 / 1024.0 / size as f64)
}

/// `size` new key pairs.
pub(super) fn pairs(size: usize) -> anyhow::Result<Vec<Ed25519KeyPair>> {
    (0..size).map(|_| key_pair()).collect()
}

pub(super) fn key_pair() -> anyhow::Result<Ed25519KeyPair> {
    let secret = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("no randomness")?;
    Ed25519KeyPair::from_pkcs8(secret.as_ref()).ok().context("a key that was just made")
}

/// Connects a client for each key at once; the server verifies one signature of each, as every handshake that proves a key
/// has to. Returns how long all of them took.
pub(super) async fn signed(pairs: Vec<Ed25519KeyPair>, addr: SocketAddr) -> anyhow::Result<Duration> {
    let proof = |pair: Ed25519KeyPair| {
        move || [&SIGNED[..], pair.public_key().as_ref(), pair.sign(&PAYLOAD).as_ref()].concat()
    };
    Ok(Clients::connect_with(pairs.into_iter().map(proof), addr).await?.1)
}

/// A local address on which nothing listens.
pub(super) fn free_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, reloop_rig::daemon::free_port()))
}

//! The least that a link can cost: an upgrade by the same library with the same buffers, and one round trip of 100
//! bytes. It is what a reconnect storm is measured against.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
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

use super::links::resident;

/// As long as the master's own: what does not fit here is refused and tried again a second later.
const BACKLOG: i32 = 65_535;

/// A server that does not listen by then has failed to start.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// The round trip.
const PAYLOAD: [u8; 100] = [7; 100];

/// What a key and its signature of the payload follow.
const SIGNED: [u8; 4] = *b"SIGN";

/// Serves for ever.
///
/// # Errors
/// The address is taken.
pub async fn serve(addr: SocketAddr) -> anyhow::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    loop {
        // A client that went away again is no reason to end.
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

/// One client of [`serve`].
///
/// # Errors
/// Nobody listens.
pub async fn dial(addr: SocketAddr) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let request = ClientRequestBuilder::new(format!("ws://{addr}/").parse()?);
    Ok(client_async_with_config(request, tcp, Some(link::config())).await?.0)
}

/// Does it again for as long as the listener's queue is too full for it: of the connections that do not fit, the kernel
/// resets some (those whose SYN cookie it no longer takes, tcp(7)). A slave dials again too.
///
/// # Errors
/// It fails in any other way.
pub async fn until_heard<T, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
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

/// What a bare server is.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// [`serve`].
    Echo,
    /// [`super::intake::answer`].
    Http,
}

/// A process of its own that is a bare server for as long as this lives.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    child: Child,
}

impl Server {
    /// Starts one that echoes; returns when it listens.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn start(addr: SocketAddr) -> anyhow::Result<Self> {
        Self::start_as(Kind::Echo, addr).await
    }

    /// The same of one or the other kind.
    ///
    /// # Errors
    /// It does not come to that.
    pub async fn start_as(kind: Kind, addr: SocketAddr) -> anyhow::Result<Self> {
        let mut server = Self { addr, child: spawn(kind, addr)? };
        let since = Instant::now();
        while !server.listens().await {
            ensure!(since.elapsed() < START_PATIENCE, "the bare server does not listen");
            // Somebody took its port before it did.
            if server.child.try_wait()?.is_some() {
                server.addr = free_addr();
                server.child = spawn(kind, server.addr)?;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(server)
    }

    /// A connection to a port on which nobody listens may come to be with itself.
    async fn listens(&self) -> bool {
        let socket = TcpStream::connect(self.addr).await;
        socket.is_ok_and(|socket| socket.local_addr().is_ok_and(|local| local != self.addr))
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
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
        // It has nothing to lose.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Clients of [`serve`].
pub struct Clients {
    sockets: Vec<WebSocketStream<TcpStream>>,
    /// How long each waited, in seconds.
    pub waits: Vec<f64>,
}

impl Clients {
    /// All connect at once, and exchange one message; gives how long that took.
    ///
    /// # Errors
    /// One of them could not.
    pub async fn connect(size: usize, addr: SocketAddr) -> anyhow::Result<(Self, Duration)> {
        let since = Instant::now();
        let mut tasks = JoinSet::new();
        let done = Arc::new(AtomicUsize::new(0));
        for _ in 0..size {
            let done = Arc::clone(&done);
            tasks.spawn(async move {
                let socket = until_heard(async || {
                    let mut socket = dial(addr).await?;
                    socket.send(Message::Binary(PAYLOAD.to_vec().into())).await?;
                    socket.next().await.context("no answer")??;
                    Ok(socket)
                });
                let socket = socket.await?;
                done.fetch_add(1, Ordering::Relaxed);
                anyhow::Ok((socket, since.elapsed().as_secs_f64()))
            });
        }
        let (mut sockets, mut waits) = (Vec::with_capacity(size), Vec::with_capacity(size));
        while let Some(joined) = tasks.join_next().await {
            let (socket, wait) = joined??;
            sockets.push(socket);
            waits.push(wait);
        }
        Ok((Self { sockets, waits }, since.elapsed()))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.sockets.is_empty()
    }
}

/// KiB of a server's memory for each of so many bare links.
///
/// # Errors
/// One of them could not.
pub async fn link_kib(size: usize) -> anyhow::Result<f64> {
    let server = Server::start(free_addr()).await?;
    let before = resident(server.pid())?;
    let (clients, _) = Clients::connect(size, server.addr).await?;
    let grown = resident(server.pid())?.saturating_sub(before);
    drop(clients);
    Ok(grown as f64 / 1024.0 / size as f64)
}

/// As many key pairs.
///
/// # Errors
/// There is no randomness.
pub fn pairs(size: usize) -> anyhow::Result<Vec<Ed25519KeyPair>> {
    let pair = |_| {
        let secret = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).ok().context("no randomness")?;
        Ed25519KeyPair::from_pkcs8(secret.as_ref()).ok().context("a key that was just made")
    };
    (0..size).map(pair).collect()
}

/// All connect at once, and have one signature of their own checked by the server: what no handshake that proves a key
/// does without. Gives how long that took.
///
/// # Errors
/// One of them could not.
pub async fn signed(pairs: Vec<Ed25519KeyPair>, addr: SocketAddr) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for pair in pairs {
        tasks.spawn(async move {
            until_heard(async || {
                let mut socket = dial(addr).await?;
                let proof = [&SIGNED[..], pair.public_key().as_ref(), pair.sign(&PAYLOAD).as_ref()].concat();
                socket.send(Message::Binary(proof.into())).await?;
                socket.next().await.context("no answer")??;
                Ok(socket)
            })
            .await
        });
    }
    let mut sockets = Vec::new();
    while let Some(joined) = tasks.join_next().await {
        sockets.push(joined??);
    }
    Ok(since.elapsed())
}

/// An address of this machine on which nobody listens.
pub fn free_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, reloop_rig::daemon::free_port()))
}

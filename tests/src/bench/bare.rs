//! The least that a link can cost: an upgrade by the same library with the same buffers, and one round trip of 100
//! bytes. It is what a reconnect storm is measured against.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::link;
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message};
use tokio_tungstenite::{WebSocketStream, accept_async_with_config, client_async_with_config};

/// As long as the master's own: what does not fit here is refused and tried again a second later.
const BACKLOG: i32 = 65_535;

/// The round trip.
const PAYLOAD: [u8; 100] = [7; 100];

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
        let message = message?;
        if message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
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
                let tcp = TcpStream::connect(addr).await?;
                tcp.set_nodelay(true)?;
                let request = ClientRequestBuilder::new(format!("ws://{addr}/").parse()?);
                let (mut socket, _) = client_async_with_config(request, tcp, Some(link::config())).await?;
                socket.send(Message::Binary(PAYLOAD.to_vec().into())).await?;
                socket.next().await.context("no answer")??;
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

/// An address of this machine on which nobody listens.
pub fn free_addr() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, crate::daemon::free_port()))
}

//! One WebSocket link (RFC 6455), as both nodes run it: frames in, frames out, a heartbeat, and an end.
//!
//! The read side always runs: it answers the peer's pings by itself, and hands everything else to a short queue, so
//! that neither a commit nor a busy driver delays a pong. The write side is bounded: a peer that does not read loses
//! its link, and the next handshake settles what it missed. Heartbeats are protocol messages, not WebSocket pings,
//! because a reverse proxy may answer those itself.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt as _, StreamExt as _};
use reloop_protocol::id::{Commit, Session};
use reloop_protocol::limits;
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::wire::{self, Frame, WireError};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error as WsError, Message as WsMessage};

use crate::clock::wall_ms;
use crate::entropy::random_fraction;

/// Between two looks for a peer's sign of life, the first and the longest: a quick answer is seen at once, and the
/// seconds that a slow one may take cost a few looks.
const SIGN_PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Read buffer of one link, which every link keeps: with the library's 128 KiB, ten thousand idle links cost more than a
/// gigabyte. Most messages have less than 200 bytes; for a larger one it grows until that is read.
const READ_BUFFER: usize = 1024;

/// How many messages wait to be sent to one peer: a slave holds at most 64 jobs, and a level replaces none in the
/// queue, so this is a few changes of everything.
pub const OUTBOX: usize = 256;

/// How many messages of one peer wait for the driver: past that the peer is faster than this node and starts over.
const INBOX: usize = 256;

/// How long one message may take to be written: a peer that reads at all needs milliseconds.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// The longest reason that fits a close frame (RFC 6455, section 5.5).
const CLOSE_REASON_BYTES: usize = 123;

/// How long the peer may take to answer a close (RFC 6455, section 7.1.1).
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The spread of heartbeats, so that ten thousand links do not beat together.
const JITTER: f64 = 0.2;

/// Heartbeats fall on one grid for all links of this process, so many to a heartbeat: ten thousand links are then woken
/// together some times a second, and not one by one.
const BEATS: u32 = 60;

/// How often and how long.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// Between two pings.
    pub heartbeat: Duration,
    /// Without a byte from the peer.
    pub dead_after: Duration,
    /// For the handshake, from the upgrade to the last message.
    pub handshake: Duration,
}

impl Default for Timing {
    /// Below every common proxy's idle limit of 60 s, and a pulled cable is noticed within a minute.
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(15),
            dead_after: Duration::from_secs(45),
            handshake: Duration::from_secs(10),
        }
    }
}

/// Sizes of buffers and messages, small and explicit.
pub fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * wire::MAX_MESSAGE)
        .max_message_size(Some(wire::MAX_MESSAGE))
        .max_frame_size(Some(wire::MAX_MESSAGE))
}

/// Why a link ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed it, with a code of ours if it gave one.
    ByPeer(Option<CloseCode>, String),
    /// This node closed it.
    ByUs(CloseCode, String),
    /// The connection broke.
    Broken(String),
}

impl Ended {
    /// Why, whoever was the first to close: who is refused closes too, and the two race. A peer's words may be cut off.
    pub fn cause(&self) -> String {
        match self {
            Self::ByPeer(Some(code), text) | Self::ByUs(code, text) => format!("{}: {text}", code.number()),
            Self::ByPeer(None, _) | Self::Broken(_) => self.to_string(),
        }
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ByPeer(Some(code), text) => write!(f, "closed by the peer ({}: {text})", code.number()),
            Self::ByPeer(None, text) => write!(f, "closed by the peer ({text})"),
            Self::ByUs(code, text) => write!(f, "closed here ({}: {text})", code.number()),
            Self::Broken(text) => write!(f, "broken ({text})"),
        }
    }
}

/// A connection that knows when its last byte came: a message that takes long to arrive is a sign of life too.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    pulse: Arc<Pulse>,
}

/// When the last byte of a peer came.
#[derive(Debug)]
struct Pulse {
    /// By this box's clock, for people.
    wall_ms: Arc<AtomicI64>,
    begin: Instant,
    /// Since the begin, by a clock that nobody sets.
    after_ms: AtomicU64,
    /// The same, of the last byte of a message.
    whole_ms: AtomicU64,
}

impl Pulse {
    fn beat(&self) {
        self.wall_ms.store(wall_ms(), Ordering::Relaxed);
        self.after_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn whole(&self) {
        self.whole_ms.store(self.now_ms(), Ordering::Relaxed);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.begin.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn last_whole(&self) -> Instant {
        self.begin + Duration::from_millis(self.whole_ms.load(Ordering::Relaxed))
    }

    fn last(&self) -> Instant {
        self.begin + Duration::from_millis(self.after_ms.load(Ordering::Relaxed))
    }
}

impl<S> Counted<S> {
    /// A connection from which nothing was read yet.
    pub fn new(stream: S) -> Self {
        let wall_ms = Arc::new(AtomicI64::new(wall_ms()));
        let pulse = Pulse {
            wall_ms,
            begin: Instant::now(),
            after_ms: AtomicU64::new(0),
            whole_ms: AtomicU64::new(0),
        };
        Self { stream, pulse: Arc::new(pulse) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.pulse.beat();
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What a node wants of a link.
#[derive(Debug)]
enum Order {
    Send(Vec<u8>),
    Close(CloseCode, String),
}

/// The node's end of a link.
#[derive(Debug, Clone)]
pub struct Outbox {
    /// Boxed, because a channel reserves room for 32 of what it carries, on every link.
    orders: mpsc::Sender<Box<Order>>,
    kill: Arc<tokio::sync::Notify>,
    heard: Arc<AtomicI64>,
}

impl Outbox {
    /// Queues a frame. A peer that has not read [`OUTBOX`] frames loses its link.
    pub fn send(&self, frame: &Frame) {
        self.order(Order::Send(wire::encode(frame)));
    }

    /// Sends what is queued, then closes.
    pub fn close(&self, code: CloseCode, text: impl Into<String>) {
        self.order(Order::Close(code, text.into()));
    }

    fn order(&self, order: Order) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.orders.try_send(Box::new(order)) {
            self.kill.notify_one();
        }
    }

    /// When the last byte of the peer came; it can be kept without keeping the link.
    pub fn last_heard(&self) -> LastHeard {
        LastHeard(Arc::clone(&self.heard))
    }

    /// When the last byte of the peer came, in milliseconds since the Unix epoch by this box's clock.
    pub fn last_heard_ms(&self) -> i64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Asks the peer for a sign of life, and waits for one.
    pub async fn is_alive(&self, patience: Duration) -> bool {
        let before = self.last_heard_ms();
        self.send(&Frame { session: Session(0), commit: Commit(0), message: Message::Ping, signature: None });
        let deadline = Instant::now() + patience;
        let mut pause = SIGN_PAUSE.0;
        while Instant::now() < deadline {
            tokio::time::sleep(pause).await;
            if self.last_heard_ms() > before {
                return true;
            }
            pause = (pause * 2).min(SIGN_PAUSE.1);
        }
        false
    }
}

/// When the last byte of a peer came.
#[derive(Debug, Clone)]
pub struct LastHeard(Arc<AtomicI64>);

impl LastHeard {
    /// In milliseconds since the Unix epoch, by this box's clock.
    pub fn ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Runs a link to its end. `handle` gets each frame that is not a heartbeat, and may wait; if it says no, the link is
/// closed for that. `settled` becomes true when the handshake is over: until then [`Timing::handshake`] counts.
pub async fn run<S, H, F>(
    socket: WebSocketStream<Counted<S>>,
    timing: Timing,
    settled: tokio::sync::watch::Receiver<bool>,
    mut handle: H,
    start: impl FnOnce(Outbox),
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
    H: FnMut(Frame) -> F,
    F: Future<Output = Result<(), (CloseCode, String)>>,
{
    let (orders, queue) = mpsc::channel(OUTBOX);
    let kill = Arc::new(tokio::sync::Notify::new());
    let pulse = Arc::clone(&socket.get_ref().pulse);
    pulse.beat();
    let outbox = Outbox { orders, kill: Arc::clone(&kill), heard: Arc::clone(&pulse.wall_ms) };
    let pong = tokio::sync::Notify::new();
    let (frames, mut inbox) = mpsc::channel::<Box<Frame>>(INBOX);
    let (mut sink, mut stream) = socket.split();
    // The loop keeps no sender of its own: when the node drops its outbox, the link ends.
    start(outbox);
    let ended = tokio::select! {
        ended = read(&mut stream, &pulse, &frames, &pong, timing.dead_after) => ended,
        ended = write(&mut sink, queue, &pong, &pulse, timing.heartbeat) => ended,
        ended = async {
            while let Some(frame) = inbox.recv().await {
                if let Err((code, text)) = handle(*frame).await {
                    return Ended::ByUs(code, text);
                }
            }
            std::future::pending().await
        } => ended,
        ended = patience(settled, timing.handshake) => ended,
        () = kill.notified() => {
            Ended::ByUs(CloseCode::SlowReader, "the peer does not read what it is sent".to_owned())
        }
    };
    let goodbye = async {
        match &ended {
            // A peer that is silent or does not read would not hear why.
            Ended::ByUs(CloseCode::Silent | CloseCode::SlowReader, _) | Ended::Broken(_) => Ok(()),
            Ended::ByUs(code, text) => {
                sink.send(WsMessage::Close(Some(close_frame(*code, text)))).await?;
                while stream.next().await.is_some_and(|message| message.is_ok()) {}
                Ok(())
            }
            // The library has made the answer to a close, and leaves it to others to send it.
            Ended::ByPeer(..) => sink.close().await,
        }
    };
    match timeout(CLOSE_PATIENCE, goodbye).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => tracing::debug!(%error, "the peer was gone before the close was done"),
    }
    ended
}

async fn patience(mut settled: tokio::sync::watch::Receiver<bool>, limit: Duration) -> Ended {
    let in_time = timeout(limit, settled.wait_for(|settled| *settled)).await.is_ok();
    if in_time {
        std::future::pending::<()>().await;
    }
    Ended::ByUs(CloseCode::TooSlow, "the handshake took too long".to_owned())
}

async fn read<S>(
    stream: &mut SplitStream<WebSocketStream<Counted<S>>>,
    pulse: &Pulse,
    frames: &mpsc::Sender<Box<Frame>>,
    pong: &tokio::sync::Notify,
    dead_after: Duration,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // Who has said nothing but Ping has proved nothing.
    let mut limit = wire::MAX_HANDSHAKE;
    loop {
        let message = match timeout_at(pulse.last() + dead_after, stream.next()).await {
            // A part of a message has come meanwhile.
            Err(_) if pulse.last().elapsed() < dead_after => continue,
            Err(_) => return Ended::ByUs(CloseCode::Silent, "nothing was heard for too long".to_owned()),
            Ok(None) => return Ended::Broken("the connection ended without a word".to_owned()),
            Ok(Some(Err(WsError::Capacity(CapacityError::MessageTooLong { size, max_size })))) => {
                let text = format!("a message of {size} bytes where {max_size} are allowed");
                return Ended::ByUs(CloseCode::TooLarge, text);
            }
            Ok(Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake)))) => {
                return Ended::Broken("the connection ended without a word".to_owned());
            }
            Ok(Some(Err(error @ (WsError::Protocol(_) | WsError::Utf8(_))))) => {
                return Ended::ByUs(CloseCode::Protocol, error.to_string());
            }
            Ok(Some(Err(error))) => return Ended::Broken(error.to_string()),
            Ok(Some(Ok(message))) => message,
        };
        pulse.whole();
        let bytes = match message {
            WsMessage::Binary(bytes) => bytes,
            WsMessage::Close(frame) => {
                let (code, text) = frame.map_or((None, String::new()), |frame| {
                    (CloseCode::from_number(frame.code.into()), limits::one_line(&frame.reason))
                });
                return Ended::ByPeer(code, text);
            }
            WsMessage::Ping(_) | WsMessage::Pong(_) => continue,
            WsMessage::Text(_) | WsMessage::Frame(_) => {
                return Ended::ByUs(CloseCode::Protocol, "only binary messages are spoken here".to_owned());
            }
        };
        let frame: Frame = match wire::decode_frame(&bytes, limit) {
            Ok(frame) => frame,
            Err(error @ WireError::TooLarge { .. }) => {
                return Ended::ByUs(CloseCode::TooLarge, error.to_string());
            }
            Err(error @ WireError::Malformed(_)) => {
                return Ended::ByUs(CloseCode::Protocol, error.to_string());
            }
        };
        if let Err(what) = limits::check_frame(&frame) {
            return Ended::ByUs(CloseCode::Protocol, what.to_owned());
        }
        match frame.message {
            // One pong answers all pings before it.
            Message::Ping => pong.notify_one(),
            Message::Pong => {}
            _ => {
                limit = wire::MAX_MESSAGE;
                if frames.try_send(Box::new(frame)).is_err() {
                    let text = "this node is busy and cannot keep up: the next handshake settles the rest"
                        .to_owned();
                    return Ended::ByUs(CloseCode::TryLater, text);
                }
            }
        }
    }
}

async fn write<S>(
    sink: &mut SplitSink<WebSocketStream<Counted<S>>, WsMessage>,
    mut orders: mpsc::Receiver<Box<Order>>,
    pong: &tokio::sync::Notify,
    pulse: &Pulse,
    heartbeat: Duration,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let beat =
        |message| wire::encode(&Frame { session: Session(0), commit: Commit(0), message, signature: None });
    let mut next = on_the_grid(Instant::now() + jittered(heartbeat), heartbeat);
    loop {
        let bytes = tokio::select! {
            order = orders.recv() => match order.map(|order| *order) {
                Some(Order::Send(bytes)) => bytes,
                Some(Order::Close(code, text)) => return Ended::ByUs(code, text),
                None => return Ended::ByUs(CloseCode::GoingAway, "the node has let go of the link".to_owned()),
            },
            () = pong.notified() => beat(Message::Pong),
            () = tokio::time::sleep_until(next) => {
                let quiet = jittered(heartbeat);
                // Of two that would ask each other at the same pace, one is enough: its question is a sign of life, and
                // the answer to it another. Only what was said to its end counts: who is still saying something long
                // can't ask, and is to hear of us meanwhile.
                let due = pulse.last_whole() + quiet;
                if due > Instant::now() {
                    next = on_the_grid(due, heartbeat);
                    continue;
                }
                next = on_the_grid(Instant::now() + quiet, heartbeat);
                beat(Message::Ping)
            }
        };
        match timeout(WRITE_PATIENCE, sink.send(WsMessage::Binary(bytes.into()))).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Ended::Broken(error.to_string()),
            Err(_) => return Ended::ByUs(CloseCode::SlowReader, "the peer does not read".to_owned()),
        }
    }
}

fn close_frame(code: CloseCode, text: &str) -> CloseFrame {
    let text = &text[..text.floor_char_boundary(CLOSE_REASON_BYTES)];
    CloseFrame { code: WsCode::from(code.number()), reason: text.to_owned().into() }
}

/// The first moment of the grid that is not before this one.
fn on_the_grid(at: Instant, heartbeat: Duration) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    let beat = (heartbeat / BEATS).as_nanos().max(1);
    let over = at.saturating_duration_since(origin).as_nanos() % beat;
    let rest = if over == 0 { 0 } else { beat - over };
    at + Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}

/// A length of time, somewhat shorter or longer.
pub fn jittered(length: Duration) -> Duration {
    length.mul_f64(1.0 - JITTER + 2.0 * JITTER * random_fraction())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const DEAD_AFTER: Duration = Duration::from_millis(600);

    /// A master's end of a link, and the bare connection to it.
    async fn link() -> (tokio::io::DuplexStream, tokio::task::JoinHandle<Ended>) {
        let (peer, ours) = tokio::io::duplex(1 << 16);
        let socket = WebSocketStream::from_raw_socket(Counted::new(ours), Role::Server, Some(config())).await;
        let timing =
            Timing { heartbeat: Duration::from_secs(3600), dead_after: DEAD_AFTER, ..Timing::default() };
        let ended = tokio::spawn(async move {
            let (_settle, settled) = tokio::sync::watch::channel(true);
            let mut kept = None;
            run(socket, timing, settled, |_| async { Ok(()) }, |outbox| kept = Some(outbox)).await
        });
        (peer, ended)
    }

    #[tokio::test]
    async fn heartbeats_of_all_links_fall_on_one_grid_and_none_comes_early() {
        let heartbeat = Duration::from_secs(15);
        let beat = heartbeat / BEATS;
        // The grid begins with the first link.
        on_the_grid(Instant::now(), heartbeat);
        let now = Instant::now();
        let first = on_the_grid(now, heartbeat);
        for late in [1, 7, 90, 249] {
            let at = first + Duration::from_millis(late);
            assert_eq!(on_the_grid(at, heartbeat), first + beat, "{late} ms after one, the next");
        }
        assert_eq!(on_the_grid(first, heartbeat), first);
        assert!(first >= now && first < now + beat);
        // Whatever the heartbeat is, it comes.
        assert!(on_the_grid(now, Duration::ZERO) >= now);
    }

    #[tokio::test]
    async fn a_message_that_takes_long_to_come_is_a_sign_of_life() {
        let (mut peer, ended) = link().await;
        let ping = wire::encode(&Frame {
            session: Session(0),
            commit: Commit(0),
            message: Message::Ping,
            signature: None,
        });
        // Binary, final, masked with zeros (RFC 6455, section 5.2).
        let mut bytes = vec![0x82, 0x80 | u8::try_from(ping.len()).unwrap(), 0, 0, 0, 0];
        bytes.extend(ping);
        let begun = Instant::now();
        for byte in bytes {
            peer.write_all(&[byte]).await.unwrap();
            // How slow the peer is: all of it takes longer than a silence may, no byte does.
            tokio::time::sleep(DEAD_AFTER / 4).await;
        }
        assert!(begun.elapsed() > DEAD_AFTER);
        let mut pong = [0; 2];
        peer.read_exact(&mut pong).await.unwrap();
        assert_eq!(pong[0], 0x82, "an answer, and no close");
        assert_eq!(
            ended.await.unwrap(),
            Ended::ByUs(CloseCode::Silent, "nothing was heard for too long".to_owned())
        );
    }
}

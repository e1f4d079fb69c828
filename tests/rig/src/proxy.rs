//! A network between one slave and the master, that fails on command.
//!
//! A [`Proxy`] listens on a port of its own and carries every connection to the master. What it does wrong is a
//! setting that can be changed at any time; most settings act on the connections that stand and on those to come.
//! Each proxy has a thread of its own, so that a test which blocks does not stop the network.
//!
//! The proxy knows just enough of WebSocket to find the frames' borders behind the HTTP upgrade. So a connection can
//! be cut between any two messages of a handshake, without knowing how long they are.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// How much is read at once; also the unit of what a delay or a throttle holds back.
const CHUNK_BYTES: usize = 16 * 1024;
/// How many chunks wait for their time in one direction before the sender feels it: 1 MiB, more than any test sends.
const QUEUE_CHUNKS: usize = 64;
/// A throttled connection moves in this many small steps per second, so that it is slow and not bursty.
const THROTTLE_STEPS_PER_SECOND: u32 = 20;
/// How long an orderly close waits for the peers to close too. Closing with unread bytes would turn it into a reset.
const LINGER: Duration = Duration::from_secs(2);
/// As a reverse proxy does, the proxy gives up on a master that does not take the connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// An HTTP head longer than this is not the beginning of a link.
const LONGEST_HEAD_BYTES: usize = 16 * 1024;
/// The proxy's thread takes a setting up in microseconds; when it does not, it is dead.
const APPLY_DEADLINE: Duration = Duration::from_secs(10);
/// How long the `wait_for_...` functions wait: longer than a reconnect after several failed attempts.
const WAIT_DEADLINE: Duration = Duration::from_secs(30);
/// More than a test's reconnects; the rest is refused by the kernel, as by a busy host.
const BACKLOG: u32 = 128;

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the slave to the master: Hello, Settled, reports.
    ToMaster,
    /// From the master to the slave: Challenge, Welcome, desired states.
    ToSlave,
}

/// How a connection is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Orderly: both sides read what was forwarded, then the end of the stream.
    Fin,
    /// At once: both sides get a connection reset.
    Reset,
}

/// What went through since the proxy was started, over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted from the slave, swallowed ones included.
    pub connections: u64,
    /// Connections that stand now.
    pub open: u64,
    /// Bytes forwarded to the master.
    pub bytes_to_master: u64,
    /// Bytes forwarded to the slave.
    pub bytes_to_slave: u64,
    /// Complete WebSocket frames forwarded to the master, control frames included.
    pub frames_to_master: u64,
    /// Complete WebSocket frames forwarded to the slave, control frames included.
    pub frames_to_slave: u64,
}

impl Counts {
    /// Bytes forwarded in one direction.
    pub fn bytes(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToMaster => self.bytes_to_master,
            Direction::ToSlave => self.bytes_to_slave,
        }
    }

    /// Complete WebSocket frames forwarded in one direction.
    pub fn frames(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToMaster => self.frames_to_master,
            Direction::ToSlave => self.frames_to_slave,
        }
    }

    fn add(&mut self, direction: Direction, bytes: u64, frames: u64) {
        let (bytes_so_far, frames_so_far) = match direction {
            Direction::ToMaster => (&mut self.bytes_to_master, &mut self.frames_to_master),
            Direction::ToSlave => (&mut self.bytes_to_slave, &mut self.frames_to_slave),
        };
        *bytes_so_far += bytes;
        *frames_so_far += frames;
    }
}

/// A faulty network for one slave's link. Dropping it ends all its connections.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    counts: watch::Receiver<Counts>,
    applied: Arc<Applied>,
    thread: Option<JoinHandle<()>>,
    /// Bound and never listening: the port stays ours while connections to it are refused.
    _port: TcpSocket,
}

impl Proxy {
    /// A proxy on a free port of 127.0.0.1 that forwards faithfully to `upstream`, which need not be there yet.
    ///
    /// # Panics
    /// When the machine has no free port or thread.
    pub fn start(upstream: SocketAddr) -> Self {
        let port = shared_port(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).expect("a free port on 127.0.0.1");
        let addr = port.local_addr().expect("a bound socket has an address");
        let control = Arc::new(watch::Sender::new(Control::new(upstream)));
        let (counts_tx, counts) = watch::channel(Counts::default());
        let applied = Arc::new(Applied::default());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for the proxy");
        let thread = {
            let (control, applied) = (Arc::clone(&control), Arc::clone(&applied));
            std::thread::Builder::new()
                .name("proxy".to_owned())
                .spawn(move || runtime.block_on(run(addr, control, Arc::new(counts_tx), &applied)))
                .expect("a thread for the proxy")
        };
        let proxy = Self { addr, control, counts, applied, thread: Some(thread), _port: port };
        proxy.change(|_| {});
        proxy
    }

    /// Where slaves connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link's address for a slave's configuration.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.addr)
    }

    /// From now on a faithful network: no refusal, delay, throttle or planned cut is left.
    ///
    /// Connections that are half-open stay so: a stream with a hole in it is nothing that a network does.
    pub fn pass(&self) {
        self.change(|control| {
            control.listening = true;
            control.swallow_new = false;
            control.delay = Duration::ZERO;
            control.throttle = None;
            control.next_cut = None;
        });
    }

    /// Ends all connections and refuses new ones until [`Proxy::pass`].
    pub fn cut(&self, close: Close) {
        self.change(|control| {
            control.listening = false;
            control.close_up_to = control.accepted;
            control.close = close;
        });
    }

    /// Refuses new connections until [`Proxy::pass`]: nothing listens on the port. Those that stand go on.
    pub fn refuse(&self) {
        self.change(|control| control.listening = false);
    }

    /// Ends the connections that stand, once. New ones are accepted.
    pub fn drop_existing(&self, close: Close) {
        self.change(|control| {
            control.close_up_to = control.accepted;
            control.close = close;
        });
    }

    /// Everything arrives this much later, in both directions and in order.
    pub fn delay(&self, delay: Duration) {
        self.change(|control| control.delay = delay);
    }

    /// Each connection carries at most this many bytes per second in each direction.
    ///
    /// # Panics
    /// When the rate is zero: that is [`Proxy::half_open`].
    pub fn throttle(&self, bytes_per_second: u32) {
        let rate = NonZeroU32::new(bytes_per_second).expect("a rate of zero is half_open()");
        self.change(|control| control.throttle = Some(rate));
    }

    /// Swallows everything both ways and keeps all sockets open, those of new connections too: a pulled cable behind a
    /// reverse proxy. What one side does to its socket, the other does not learn.
    pub fn half_open(&self) {
        self.change(|control| {
            control.swallow_up_to = control.accepted;
            control.swallow_new = true;
        });
    }

    /// As [`Proxy::half_open`], for the connections that stand now only: new ones work.
    pub fn half_open_existing(&self) {
        self.change(|control| {
            control.swallow_up_to = control.accepted;
            control.swallow_new = false;
        });
    }

    /// The next connection is closed (orderly, both ways) once exactly `bytes` went through in one direction, counted
    /// from its first byte, the HTTP upgrade included.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.change(|control| control.next_cut = Some(Cut { direction, at: CutAt::Bytes(bytes) }));
    }

    /// The next connection is closed (orderly, both ways) at its `frame`-th WebSocket frame in one direction, counted
    /// from 1, control frames included. With `before` nothing of that frame goes through, else all of it and nothing
    /// behind it. Frame 0 without `before` is the end of the HTTP upgrade.
    pub fn cut_after_frame(&self, direction: Direction, frame: u64, before: bool) {
        let at = if before { CutAt::BeforeFrame(frame) } else { CutAt::AfterFrame(frame) };
        self.change(|control| control.next_cut = Some(Cut { direction, at }));
    }

    /// New connections go to another master.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.change(|control| control.upstream = upstream);
    }

    /// What went through so far.
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until `n` connections have been accepted since the start.
    ///
    /// # Panics
    /// When that takes too long; the message shows what went through.
    pub async fn wait_for_connections(&self, n: u64) -> Counts {
        self.wait_until(&format!("{n} connections"), |counts| counts.connections >= n).await
    }

    /// Waits until what went through satisfies `enough`.
    ///
    /// # Panics
    /// When that takes too long; the message shows what went through.
    pub async fn wait_until(&self, what: &str, mut enough: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.clone();
        match timeout(WAIT_DEADLINE, counts.wait_for(|counts| enough(counts))).await {
            Ok(Ok(counts)) => *counts,
            Ok(Err(_)) => panic!("the proxy's thread has ended; its own panic is above"),
            Err(_) => panic!(
                "waited {WAIT_DEADLINE:?} for: {what} through the proxy\nlast seen: {:?}",
                self.counts()
            ),
        }
    }

    /// Changes the setting and returns when it is in force: a connection tried afterwards meets it.
    fn change(&self, change: impl FnOnce(&mut Control)) {
        let mut revision = 0;
        self.control.send_modify(|control| {
            change(control);
            control.revision += 1;
            revision = control.revision;
        });
        self.applied.wait_for(revision);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.control.send_modify(|control| control.stopped = true);
        if let Some(thread) = self.thread.take() {
            // A panic of that thread was printed when it happened, and a second one here would abort the test run.
            let _ = thread.join();
        }
    }
}

/// The setting, as the connections read it. Connections are numbered from 1 in the order of their acceptance.
#[derive(Clone, Debug)]
struct Control {
    revision: u64,
    upstream: SocketAddr,
    listening: bool,
    accepted: u64,
    close_up_to: u64,
    close: Close,
    swallow_up_to: u64,
    swallow_new: bool,
    delay: Duration,
    throttle: Option<NonZeroU32>,
    next_cut: Option<Cut>,
    stopped: bool,
}

impl Control {
    fn new(upstream: SocketAddr) -> Self {
        Self {
            revision: 0,
            upstream,
            listening: true,
            accepted: 0,
            close_up_to: 0,
            close: Close::Fin,
            swallow_up_to: 0,
            swallow_new: false,
            delay: Duration::ZERO,
            throttle: None,
            next_cut: None,
            stopped: false,
        }
    }

    /// Numbers a new connection and says what is planned for it; `None` when it raced with a refusal.
    fn admit(&mut self) -> Option<Admission> {
        if !self.listening {
            return None;
        }
        self.accepted += 1;
        if self.swallow_new {
            self.swallow_up_to = self.accepted;
        }
        Some(Admission { number: self.accepted, upstream: self.upstream, cut: self.next_cut.take() })
    }
}

#[derive(Clone, Copy, Debug)]
struct Admission {
    number: u64,
    upstream: SocketAddr,
    cut: Option<Cut>,
}

#[derive(Clone, Copy, Debug)]
struct Cut {
    direction: Direction,
    at: CutAt,
}

#[derive(Clone, Copy, Debug)]
enum CutAt {
    Bytes(u64),
    BeforeFrame(u64),
    AfterFrame(u64),
}

/// Which revision of the setting the accepting task has taken up.
#[derive(Debug, Default)]
struct Applied {
    revision: Mutex<u64>,
    raised: Condvar,
}

impl Applied {
    fn raise(&self, revision: u64) {
        *self.revision.lock().expect("no holder of this lock panics") = revision;
        self.raised.notify_all();
    }

    fn wait_for(&self, revision: u64) {
        let reached = self.revision.lock().expect("no holder of this lock panics");
        let (_reached, waited) = self
            .raised
            .wait_timeout_while(reached, APPLY_DEADLINE, |reached| *reached < revision)
            .expect("no holder of this lock panics");
        assert!(!waited.timed_out(), "the proxy's thread does not answer; did it panic above?");
    }
}

/// A socket that shares its port with the other sockets of this proxy, and with nobody else.
fn shared_port(addr: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseport(true)?;
    socket.bind(addr)?;
    Ok(socket)
}

async fn run(
    addr: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    counts: Arc<watch::Sender<Counts>>,
    applied: &Applied,
) {
    let mut changes = control.subscribe();
    let mut listener: Option<TcpListener> = None;
    loop {
        let (listening, stopped, revision) = {
            let control = changes.borrow_and_update();
            (control.listening, control.stopped, control.revision)
        };
        if stopped {
            return;
        }
        if !listening {
            if let Some(open) = listener.take() {
                // Closing is not enough: a process that is just being forked holds a copy of the socket.
                rustix::net::shutdown(&open, rustix::net::Shutdown::Both)
                    .expect("a listener can be shut down");
            }
        } else if listener.is_none() {
            let reopened = shared_port(addr).and_then(|socket| socket.listen(BACKLOG));
            listener = Some(reopened.expect("the proxy's port is kept for it"));
        }
        applied.raise(revision);
        tokio::select! {
            slave = accept(listener.as_ref()) => {
                let mut admission = None;
                control.send_if_modified(|control| {
                    admission = control.admit();
                    false
                });
                if let Some(admission) = admission {
                    let line = Line {
                        number: admission.number,
                        control: control.subscribe(),
                        counts: Arc::clone(&counts),
                    };
                    tokio::spawn(line.serve(slave, admission));
                }
            }
            changed = changes.changed() => changed.expect("the sender is held by this task"),
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((slave, _)) => return slave,
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => panic!("the proxy cannot accept: {error}"),
        }
    }
}

/// One connection from the slave, and the one to the master that belongs to it.
struct Line {
    number: u64,
    control: watch::Receiver<Control>,
    counts: Arc<watch::Sender<Counts>>,
}

/// How one direction came to its end.
enum End {
    /// The sender closed its side, and the receiver was told (unless the line is half-open).
    Closed,
    /// The planned cut was reached.
    Cut,
    /// A socket failed.
    Broken,
}

enum Arrival {
    Bytes(Instant, Vec<u8>),
    Closed,
    Broken,
}

impl Line {
    async fn serve(self, slave: TcpStream, admission: Admission) {
        self.counts.send_modify(|counts| {
            counts.connections += 1;
            counts.open += 1;
        });
        if self.swallows() {
            self.swallow_alone(slave).await;
        } else {
            self.connect_and_carry(slave, admission).await;
        }
        self.counts.send_modify(|counts| counts.open -= 1);
    }

    /// A connection that was born half-open: the master never hears of it.
    async fn swallow_alone(&self, mut slave: TcpStream) {
        tokio::select! {
            close = self.told_to_close() => end_all([slave], close).await,
            () = discard(&mut slave) => {}
        }
    }

    async fn connect_and_carry(&self, mut slave: TcpStream, admission: Admission) {
        // Not given up for a cut: half a connection that is dropped would tell the master of an orderly end.
        let connected = timeout(CONNECT_DEADLINE, TcpStream::connect(admission.upstream)).await;
        let Ok(Ok(mut master)) = connected else { return end_all([slave], Close::Reset).await };
        for socket in [&slave, &master] {
            // A socket that has died already says so at its next read.
            let _ = socket.set_nodelay(true);
        }
        let close = self.carry_both(&mut slave, &mut master, admission.cut).await;
        end_all([slave, master], close).await;
    }

    async fn carry_both(&self, slave: &mut TcpStream, master: &mut TcpStream, cut: Option<Cut>) -> Close {
        let (from_slave, to_slave) = slave.split();
        let (from_master, to_master) = master.split();
        let cut_in = |direction| cut.filter(|cut| cut.direction == direction).map(|cut| cut.at);
        let up = self.carry(Direction::ToMaster, from_slave, to_master, cut_in(Direction::ToMaster));
        let down = self.carry(Direction::ToSlave, from_master, to_slave, cut_in(Direction::ToSlave));
        let told = self.told_to_close();
        tokio::pin!(up, down, told);
        let (mut up_closed, mut down_closed) = (false, false);
        while !(up_closed && down_closed) {
            let end = tokio::select! {
                biased;
                close = &mut told => return close,
                end = &mut up, if !up_closed => { up_closed = true; end }
                end = &mut down, if !down_closed => { down_closed = true; end }
            };
            match end {
                End::Closed => {}
                End::Cut => return Close::Fin,
                End::Broken => return Close::Reset,
            }
        }
        Close::Fin
    }

    /// Carries one direction to its end. Reading runs ahead of writing, so that a delay costs latency and not bandwidth.
    async fn carry(
        &self,
        direction: Direction,
        from: ReadHalf<'_>,
        to: WriteHalf<'_>,
        cut: Option<CutAt>,
    ) -> End {
        let (queue, arrivals) = mpsc::channel(QUEUE_CHUNKS);
        let read = async {
            read_all(from, queue).await;
            std::future::pending().await
        };
        let mut writer = Writer { line: self, direction, to, cut, sent: 0, scanner: FrameScanner::new() };
        tokio::select! {
            end = writer.write_all(arrivals) => end,
            end = read => end,
        }
    }

    fn swallows(&self) -> bool {
        self.control.borrow().swallow_up_to >= self.number
    }

    async fn told_to_close(&self) -> Close {
        let mut control = self.control.clone();
        match control.wait_for(|control| control.close_up_to >= self.number).await {
            Ok(control) => control.close,
            // The proxy is gone; so is the task that would wait for more.
            Err(_) => Close::Reset,
        }
    }

    async fn told_to_swallow(&self) {
        let mut control = self.control.clone();
        if control.wait_for(|control| control.swallow_up_to >= self.number).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for the moment that the setting names, however often the setting changes meanwhile. False: the line has
    /// become half-open instead.
    async fn hold_until(&self, due: impl Fn(&Control) -> Option<Instant>) -> bool {
        let mut control = self.control.clone();
        loop {
            let due = {
                let control = control.borrow_and_update();
                if control.swallow_up_to >= self.number {
                    return false;
                }
                due(&control)
            };
            let Some(due) = due.filter(|due| *due > Instant::now()) else { return true };
            tokio::select! {
                () = sleep_until(due) => return true,
                changed = control.changed() => if changed.is_err() { return false },
            }
        }
    }
}

/// The writing end of one direction of a line.
struct Writer<'a> {
    line: &'a Line,
    direction: Direction,
    to: WriteHalf<'a>,
    cut: Option<CutAt>,
    sent: u64,
    scanner: FrameScanner,
}

impl Writer<'_> {
    async fn write_all(&mut self, mut arrivals: mpsc::Receiver<Arrival>) -> End {
        if self.cut_is_reached() {
            return End::Cut;
        }
        while let Some(arrival) = arrivals.recv().await {
            match arrival {
                Arrival::Bytes(at, bytes) => {
                    let delayed = |control: &Control| Some(at + control.delay);
                    if self.line.hold_until(delayed).await
                        && let Some(end) = self.write(&bytes).await
                    {
                        return end;
                    }
                }
                Arrival::Closed | Arrival::Broken if self.line.swallows() => return End::Closed,
                Arrival::Closed => {
                    return if self.to.shutdown().await.is_ok() { End::Closed } else { End::Broken };
                }
                Arrival::Broken => return End::Broken,
            }
        }
        End::Closed
    }

    /// Writes one chunk in pieces that end where a frame, the plan to cut or the throttle's next step ends.
    async fn write(&mut self, mut bytes: &[u8]) -> Option<End> {
        while !bytes.is_empty() {
            if self.line.swallows() {
                return None;
            }
            if matches!(self.cut, Some(CutAt::BeforeFrame(n)) if self.scanner.at_border_after() == n.checked_sub(1))
            {
                return Some(End::Cut);
            }
            let rate = self.line.control.borrow().throttle;
            let mut most = bytes.len();
            if let Some(rate) = rate {
                most = most.min((rate.get() / THROTTLE_STEPS_PER_SECOND).max(1) as usize);
            }
            if let Some(CutAt::Bytes(n)) = self.cut {
                most = most.min(usize::try_from(n - self.sent).unwrap_or(usize::MAX));
            }
            let frames_before = self.scanner.frames;
            let (piece, rest) = bytes.split_at(self.scanner.take(&bytes[..most]));
            tokio::select! {
                written = self.to.write_all(piece) => if written.is_err() { return Some(End::Broken) },
                () = self.line.told_to_swallow() => return None,
            }
            bytes = rest;
            self.sent += piece.len() as u64;
            let frames = self.scanner.frames - frames_before;
            self.line.counts.send_modify(|counts| counts.add(self.direction, piece.len() as u64, frames));
            if self.cut_is_reached() {
                return Some(End::Cut);
            }
            let Some(rate) = rate else { continue };
            let written_at = Instant::now();
            let cost = |rate: NonZeroU32| Duration::from_secs(1) * piece.len() as u32 / rate.get();
            // A new rate may shorten this pause and not lengthen it: the piece was cut to the rate of its time.
            let due = |new: NonZeroU32| written_at + cost(new).min(cost(rate));
            self.line.hold_until(|control| control.throttle.map(due)).await;
        }
        None
    }

    fn cut_is_reached(&self) -> bool {
        match self.cut {
            Some(CutAt::Bytes(n)) => self.sent == n,
            Some(CutAt::AfterFrame(n)) => self.scanner.at_border_after() == Some(n),
            Some(CutAt::BeforeFrame(_)) | None => false,
        }
    }
}

async fn read_all(mut from: ReadHalf<'_>, queue: mpsc::Sender<Arrival>) {
    loop {
        let mut chunk = vec![0; CHUNK_BYTES];
        let arrival = match from.read(&mut chunk).await {
            Ok(0) => Arrival::Closed,
            Ok(n) => {
                chunk.truncate(n);
                Arrival::Bytes(Instant::now(), chunk)
            }
            Err(_) => Arrival::Broken,
        };
        let was_last = !matches!(arrival, Arrival::Bytes(..));
        if queue.send(arrival).await.is_err() || was_last {
            return;
        }
    }
}

async fn end_all<const N: usize>(sockets: [TcpStream; N], close: Close) {
    for mut socket in sockets {
        match close {
            // A socket that can be neither reset nor shut down is dead already, which is what was wanted.
            Close::Reset => drop(socket.set_zero_linger()),
            Close::Fin => {
                let _ = socket.shutdown().await;
                tokio::spawn(timeout(LINGER, async move { discard(&mut socket).await }));
            }
        }
    }
}

/// Reads and forgets until the peer closes or the socket fails.
async fn discard(socket: &mut TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while matches!(socket.read(&mut chunk).await, Ok(1..)) {}
}

/// Finds the borders of WebSocket frames (RFC 6455, section 5.2) behind an HTTP upgrade. Anything else than an upgrade
/// is carried without borders.
struct FrameScanner {
    state: Scan,
    /// Complete frames so far.
    frames: u64,
}

enum Scan {
    Head(Vec<u8>),
    Header(Vec<u8>),
    Payload(u64),
    NoFrames,
}

impl FrameScanner {
    fn new() -> Self {
        Self { state: Scan::Head(Vec::new()), frames: 0 }
    }

    /// Takes bytes up to the next border, at least one of them, and says how many.
    fn take(&mut self, bytes: &[u8]) -> usize {
        for (index, &byte) in bytes.iter().enumerate() {
            match &mut self.state {
                Scan::NoFrames => return bytes.len(),
                Scan::Head(head) => {
                    head.push(byte);
                    if head.ends_with(b"\r\n\r\n") {
                        self.state = if is_upgrade(head) { Scan::Header(Vec::new()) } else { Scan::NoFrames };
                        return index + 1;
                    }
                    if head.len() > LONGEST_HEAD_BYTES {
                        self.state = Scan::NoFrames;
                    }
                }
                Scan::Header(header) => {
                    header.push(byte);
                    match payload_bytes(header) {
                        None => {}
                        Some(0) => return self.frame_ended(index),
                        Some(length) => self.state = Scan::Payload(length),
                    }
                }
                Scan::Payload(1) => return self.frame_ended(index),
                Scan::Payload(left) => *left -= 1,
            }
        }
        bytes.len()
    }

    fn frame_ended(&mut self, index: usize) -> usize {
        self.frames += 1;
        self.state = Scan::Header(Vec::new());
        index + 1
    }

    /// After how many frames the stream stands at a border; `None` inside a frame or the HTTP head.
    fn at_border_after(&self) -> Option<u64> {
        match &self.state {
            Scan::Header(header) if header.is_empty() => Some(self.frames),
            _ => None,
        }
    }
}

fn is_upgrade(head: &[u8]) -> bool {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let refused = head.starts_with("http/") && head.split(' ').nth(1) != Some("101");
    head.contains("upgrade: websocket") && !refused
}

/// The payload's length, once the whole frame header is there.
fn payload_bytes(header: &[u8]) -> Option<u64> {
    let &[_, second, ref rest @ ..] = header else { return None };
    let mask_bytes = if second & 0x80 == 0 { 0 } else { 4 };
    let length_bytes = match second & 0x7f {
        126 => 2,
        127 => 8,
        _ => 0,
    };
    if rest.len() < length_bytes + mask_bytes {
        return None;
    }
    Some(match length_bytes {
        0 => u64::from(second & 0x7f),
        _ => rest[..length_bytes].iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
    })
}

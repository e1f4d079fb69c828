//! A network between one slave and the master that fails on command.
//!
//! A [`Proxy`] listens on a port of its own and forwards every connection to the master. Its faults are settings that
//! can be changed at any time; most settings apply to existing and to new connections. Each proxy has a thread of its
//! own, so that a test that blocks does not stop the network.
//!
//! The proxy knows just enough of WebSocket to find the boundaries of frames after the HTTP upgrade, so that a
//! connection can be cut between any two messages of a handshake.

mod frames;
mod line;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;

use self::line::Line;

/// The proxy's thread applies a setting within microseconds; if it does not, it is dead.
const APPLY_DEADLINE: Duration = Duration::from_secs(10);
/// The limit of the `wait_for_...` functions: longer than a reconnect after several failed attempts.
const WAIT_DEADLINE: Duration = Duration::from_secs(30);
/// More than the reconnects of a test; the kernel refuses the rest, as on a busy host.
const BACKLOG: u32 = 128;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the slave to the master: Hello, Settled, reports.
    ToMaster,
    /// From the master to the slave: Challenge, Welcome, desired states.
    ToSlave,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Orderly: both sides read what was forwarded, then the end of the stream.
    Fin,
    /// At once: both sides get a connection reset.
    Reset,
}

/// Totals over all connections since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted from the slave, swallowed ones included.
    pub connections: u64,
    /// Connections that are open now.
    pub open: u64,
    pub bytes_to_master: u64,
    pub bytes_to_slave: u64,
    /// Complete WebSocket frames forwarded to the master, control frames included.
    pub frames_to_master: u64,
    /// Complete WebSocket frames forwarded to the slave, control frames included.
    pub frames_to_slave: u64,
}

impl Counts {
    pub fn bytes(&self, direction: Direction) -> u64 {
        match direction {
            Direction::ToMaster => self.bytes_to_master,
            Direction::ToSlave => self.bytes_to_slave,
        }
    }

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

/// A faulty network for one slave's link. All its connections end on drop.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    control: Arc<watch::Sender<Control>>,
    counts: watch::Receiver<Counts>,
    applied: Arc<Applied>,
    thread: Option<JoinHandle<()>>,
    /// Bound but never listening: it keeps the port while connections to it are refused.
    _port: TcpSocket,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 that forwards to `upstream`, which need not listen yet.
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

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// The link's address for a slave's configuration.
    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.addr)
    }

    /// Ends all faults: refusal, delay, throttle and planned cuts.
    ///
    /// Half-open connections stay half-open: no network delivers a stream with a gap.
    pub fn pass(&self) {
        self.change(|control| {
            control.listening = true;
            control.swallow_new = false;
            control.delay = Duration::ZERO;
            control.throttle = None;
            control.next_cut = None;
        });
    }

    /// Closes all connections and refuses new ones until [`Proxy::pass`].
    pub fn cut(&self, close: Close) {
        self.change(|control| {
            control.listening = false;
            control.close_up_to = control.accepted;
            control.close = close;
        });
    }

    /// Refuses new connections until [`Proxy::pass`]: nothing listens on the port. Existing ones go on.
    pub fn refuse(&self) {
        self.change(|control| control.listening = false);
    }

    /// Closes the existing connections. New ones are accepted.
    pub fn drop_existing(&self, close: Close) {
        self.change(|control| {
            control.close_up_to = control.accepted;
            control.close = close;
        });
    }

    /// Delays everything by this time, in both directions and in order.
    pub fn delay(&self, delay: Duration) {
        self.change(|control| control.delay = delay);
    }

    /// Limits each connection to this many bytes per second in each direction.
    pub fn throttle(&self, bytes_per_second: u32) {
        let rate = NonZeroU32::new(bytes_per_second).expect("a rate of zero is half_open()");
        self.change(|control| control.throttle = Some(rate));
    }

    /// Swallows everything in both directions and keeps all sockets open, those of new connections too, as with a
    /// pulled cable behind a reverse proxy. A close on one side does not reach the other.
    pub fn half_open(&self) {
        self.change(|control| {
            control.swallow_up_to = control.accepted;
            control.swallow_new = true;
        });
    }

    /// The same as [`Proxy::half_open`], but only for existing connections: new ones work.
    pub fn half_open_existing(&self) {
        self.change(|control| {
            control.swallow_up_to = control.accepted;
            control.swallow_new = false;
        });
    }

    /// The next connection is closed (orderly, both ways) after exactly `bytes` in one direction, counted from its
    /// first byte, the HTTP upgrade included.
    pub fn cut_after(&self, direction: Direction, bytes: u64) {
        self.change(|control| control.next_cut = Some(Cut { direction, at: CutAt::Bytes(bytes) }));
    }

    /// The next connection is closed (orderly, both ways) at its `frame`-th WebSocket frame in one direction, counted
    /// from 1, control frames included. With `before` nothing of that frame is forwarded, otherwise all of it and
    /// nothing after it. Frame 0 without `before` is the end of the HTTP upgrade.
    pub fn cut_after_frame(&self, direction: Direction, frame: u64, before: bool) {
        let at = if before { CutAt::BeforeFrame(frame) } else { CutAt::AfterFrame(frame) };
        self.change(|control| control.next_cut = Some(Cut { direction, at }));
    }

    /// New connections go to another master.
    pub fn redirect(&self, upstream: SocketAddr) {
        self.change(|control| control.upstream = upstream);
    }

    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    /// Waits until `n` connections have been accepted since the start.
    pub async fn wait_for_connections(&self, n: u64) -> Counts {
        self.wait_until(&format!("{n} connections"), |counts| counts.connections >= n).await
    }

    /// Waits until the totals satisfy `enough`.
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

    /// Changes the setting and returns when it is in force: it applies to every connection that is tried afterwards.
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
            // A panic of that thread has been printed, and a second one here would abort the test run.
            let _ = thread.join();
        }
    }
}

/// The settings as the connections read them. Connections are numbered from 1 in the order of their acceptance.
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

    /// Numbers a new connection and returns its plan; `None` if new connections are refused by now.
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

/// The revision of the settings that the accepting task has applied.
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

/// A socket that shares its port with the other sockets of this proxy, and with no one else.
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
                // Closing is not enough: a process that is being forked has a copy of the socket.
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

//! One connection through the proxy.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::frames::FrameScanner;
use super::{Admission, Close, Control, Counts, Cut, CutAt, Direction};

/// Bytes read at once, and the unit that a delay or a throttle holds back.
const CHUNK_BYTES: usize = 16 * 1024;
/// Chunks that wait in one direction before the sender is slowed down: 1 MiB, more than any test sends.
const QUEUE_CHUNKS: usize = 64;
/// Writes per second of a throttled connection, so that it is slow and not bursty.
const THROTTLE_STEPS_PER_SECOND: u32 = 20;
/// How long an orderly close waits for the peers to close too. Closing with unread bytes would become a reset.
const LINGER: Duration = Duration::from_secs(2);
/// Like a reverse proxy, it gives up on a master that does not accept the connection.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// One connection from the slave, and the one to the master that belongs to it.
pub(super) struct Line {
    pub(super) number: u64,
    pub(super) control: watch::Receiver<Control>,
    pub(super) counts: Arc<watch::Sender<Counts>>,
}

/// How one direction ended.
enum End {
    /// The sender closed its side, and the receiver was told unless the connection is half-open.
    Closed,
    /// The planned cut was reached.
    Cut,
    Broken,
}

enum Arrival {
    Bytes(Instant, Vec<u8>),
    Closed,
    Broken,
}

impl Line {
    pub(super) async fn serve(self, slave: TcpStream, admission: Admission) {
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

    /// A connection that is half-open from the beginning: the master does not see it.
    async fn swallow_alone(&self, mut slave: TcpStream) {
        tokio::select! {
            close = self.told_to_close() => end_all([slave], close).await,
            () = discard(&mut slave) => {}
        }
    }

    async fn connect_and_carry(&self, mut slave: TcpStream, admission: Admission) {
        // Not aborted by a cut: dropping half a connection would be an orderly end for the master.
        let connected = timeout(CONNECT_DEADLINE, TcpStream::connect(admission.upstream)).await;
        let Ok(Ok(mut master)) = connected else { return end_all([slave], Close::Reset).await };
        for socket in [&slave, &master] {
            // A dead socket fails at its next read.
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

    /// Forwards one direction to its end. Reading runs ahead of writing, so that a delay costs latency and not
    /// bandwidth.
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
            // The proxy is gone, and so is the task that would wait.
            Err(_) => Close::Reset,
        }
    }

    async fn told_to_swallow(&self) {
        let mut control = self.control.clone();
        if control.wait_for(|control| control.swallow_up_to >= self.number).await.is_err() {
            std::future::pending().await
        }
    }

    /// Waits for the time that the settings name, even if they change meanwhile. False if the connection has become
    /// half-open.
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

/// The writing end of one direction.
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

    /// Writes one chunk in pieces that end at a frame, at the planned cut or at the throttle's next step.
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
            // A new rate may shorten this pause and not lengthen it: the piece was cut for the old rate.
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
            // Fails if the socket is dead already.
            Close::Reset => drop(socket.set_zero_linger()),
            Close::Fin => {
                let _ = socket.shutdown().await;
                tokio::spawn(timeout(LINGER, async move { discard(&mut socket).await }));
            }
        }
    }
}

/// Reads until the peer closes or the socket fails.
async fn discard(socket: &mut TcpStream) {
    let mut chunk = vec![0; CHUNK_BYTES];
    while matches!(socket.read(&mut chunk).await, Ok(1..)) {}
}

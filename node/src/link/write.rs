//! The write side of a link, and when its heartbeats are due.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::SinkExt as _;
use futures_util::stream::SplitSink;
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::wire;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message as WsMessage;

use super::ended::Ended;
use super::outbox::{Order, heartbeat};
use super::pulse::{Counted, Pulse};
use crate::entropy::random_fraction;

/// How long one message may take to be written: a peer that reads at all needs milliseconds.
const WRITE_PATIENCE: Duration = Duration::from_secs(20);

/// The spread of heartbeats, so that ten thousand links do not send theirs together.
const JITTER: f64 = 0.2;

/// All links of a process send their heartbeats on one grid of so many instants per heartbeat, so that ten thousand links are
/// woken together a few times a second and not one by one.
const BEATS: u32 = 60;

/// Writes what the node orders, pongs, and a ping for each period without a message from the peer.
pub(super) async fn write<S>(
    sink: &mut SplitSink<WebSocketStream<Counted<S>>, WsMessage>,
    mut orders: mpsc::Receiver<Box<Order>>,
    pong: &Notify,
    pulse: &Pulse,
    period: Duration,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let beat = |message| wire::encode(&heartbeat(message));
    let mut next = on_the_grid(Instant::now() + jittered(period), period);
    loop {
        let bytes = tokio::select! {
            order = orders.recv() => match order.map(|order| *order) {
                Some(Order::Send(bytes)) => bytes,
                Some(Order::Close(code, text)) => return Ended::ByUs(code, text),
                None => return Ended::ByUs(CloseCode::GoingAway, "the node has let go of the link".to_owned()),
            },
            () = pong.notified() => beat(Message::Pong),
            () = tokio::time::sleep_until(next) => {
                let quiet = jittered(period);
                // A ping of the peer proves that it lives, and the pong to it that this node does: only one of the two
                // has to ping. A message counts once it is complete, because a peer that sends a long one cannot ping and
                // has to hear from this node meanwhile.
                let due = pulse.last_message() + quiet;
                if due > Instant::now() {
                    next = on_the_grid(due, period);
                    continue;
                }
                next = on_the_grid(Instant::now() + quiet, period);
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

/// The first instant of the grid that is not before `at`.
fn on_the_grid(at: Instant, period: Duration) -> Instant {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    let beat = (period / BEATS).as_nanos().max(1);
    let over = at.saturating_duration_since(origin).as_nanos() % beat;
    let rest = if over == 0 { 0 } else { beat - over };
    at + Duration::from_nanos(u64::try_from(rest).unwrap_or(0))
}

/// A duration between 80 and 120 percent of `length`.
pub fn jittered(length: Duration) -> Duration {
    length.mul_f64(1.0 - JITTER + 2.0 * JITTER * random_fraction())
}

#[cfg(test)]
mod tests {
    use super::*;

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
}

//! Keeps a link to the master: dial, pass what comes to the driver, and dial again.
//!
//! Only the length of the next pause is carried over from one connection to the next, and the rules decide it
//! ([`redial`]): every connection begins with a handshake, in which both nodes compare what they hold.

mod dial;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use reloop_node::entropy::random;
use reloop_node::link::{self, Ended, Outbox, Timing};
use reloop_protocol::handshake;
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::slave::LinkId;
use reloop_protocol::slave::redial::{self, Pauses, Redial, Tried};
use reloop_protocol::time::Millis;
use reloop_protocol::wire::Frame;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use self::dial::DialError;
pub(crate) use self::dial::{Dialer, Socket};
use crate::config::{self, Config};
use crate::driver::Input;
use crate::identity;

/// What the loop needs beside the dialer.
pub(crate) struct Loop {
    pub(crate) config: Config,
    pub(crate) inbox: mpsc::Sender<Input>,
    /// When this is true, no connection is made any more.
    pub(crate) halt: watch::Receiver<bool>,
    /// Ends a pause.
    pub(crate) nudge: Arc<Notify>,
}

/// How one connection, or the attempt to make one, ended.
#[derive(Debug, Default)]
struct Outcome {
    settled: bool,
    code: Option<CloseCode>,
    retry_after: Option<Duration>,
    /// How it ended, for people.
    why: String,
    /// The same, without what may differ from one attempt to the next.
    cause: String,
}

/// Runs until the agent ends.
pub(crate) async fn run(dialer: Dialer, mut parts: Loop) {
    let ms = |length: Duration| Millis(u64::try_from(length.as_millis()).unwrap_or(u64::MAX));
    let mut pauses = Pauses::new(ms(parts.config.link.backoff_min), ms(parts.config.link.backoff_max));
    let mut told: Option<String> = None;
    let mut enrolled = false;
    for number in 1.. {
        let Some(dialed) = unless_halted(&mut parts.halt, dialer.dial()).await else { return };
        let outcome = match dialed {
            Ok(socket) => {
                let outcome = talk(&parts, socket, LinkId(number), enrolled).await;
                enrolled |= outcome.settled;
                outcome
            }
            Err(error) => {
                let why = error.to_string();
                // Without a driver no link is needed.
                let Ok(()) = parts.inbox.send(Input::NotReached(why.clone())).await else { return };
                let retry_after = match error {
                    DialError::NotAMaster { retry_after, .. } => retry_after,
                    DialError::Unknown { .. }
                    | DialError::Unreached { .. }
                    | DialError::Tls { .. }
                    | DialError::TooSlow { .. } => None,
                };
                Outcome { cause: why.clone(), why, retry_after, ..Outcome::default() }
            }
        };
        let tried =
            Tried { settled: outcome.settled, code: outcome.code, retry_after: outcome.retry_after.map(ms) };
        let pause = Duration::from_millis(pauses.after(tried, u32::from_le_bytes(random())).0);
        let todo = match outcome.code.map(redial::after) {
            Some(Redial::Person(todo)) => todo.text(),
            Some(Redial::Back | Redial::Patient) | None => "",
        };
        if outcome.settled {
            tracing::info!(master = dialer.peer(), why = outcome.why, "the link ended; the machine goes on");
            told = None;
        } else if told.as_deref().is_none_or(|told| !is_same_cause(told, &outcome.cause)) {
            tracing::warn!(master = dialer.peer(), why = outcome.why, todo, "no link; the machine goes on");
            told = Some(outcome.cause);
        }
        tracing::debug!(why = outcome.why, ?pause, "the next attempt comes after a pause");
        let pausing = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = parts.nudge.notified() => {}
            }
        };
        if unless_halted(&mut parts.halt, pausing).await.is_none() {
            return;
        }
    }
}

/// One may be the beginning of the other, see [`Ended::cause`].
fn is_same_cause(told: &str, cause: &str) -> bool {
    told.starts_with(cause) || cause.starts_with(told)
}

async fn unless_halted<T>(halt: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        // Also if the sender is gone, which means that the agent has ended.
        _ = halt.wait_for(|halted| *halted) => None,
        done = work => Some(done),
    }
}

/// Runs one connection to its end. The driver is told of it with the master's first frame.
async fn talk(parts: &Loop, socket: Socket, link: LinkId, enrolled: bool) -> Outcome {
    let config::Link { heartbeat, dead_after, handshake, .. } = parts.config.link;
    let configured = parts.config.enroll_token_file.as_deref().filter(|_| !enrolled);
    let mut token = identity::token(&parts.config.state_dir, configured).unwrap_or_else(|error| {
        tracing::warn!(%error, "no token is shown to the master");
        None
    });
    let (settle, settled) = watch::channel(false);
    let (give, given) = oneshot::channel::<Outbox>();
    let mut first = Some((given, settle));
    let mut retry_after = None;
    let on_frame = |frame: Frame| {
        if let Message::Refuse(refuse) = &frame.message {
            retry_after = refuse.retry_after_ms.map(|ms| Duration::from_millis(ms.into()));
        }
        let (first, token, inbox) = (first.take(), token.take(), parts.inbox.clone());
        let in_order = first.as_ref().map_or(Ok(()), |_| handshake::first_from_master(&frame.message));
        async move {
            in_order.map_err(|fault| (CloseCode::Protocol, fault.to_owned()))?;
            let gone = || (CloseCode::GoingAway, "the agent stops; its job goes on".to_owned());
            if let Some((given, settled)) = first {
                let outbox = given.await.map_err(|_| gone())?;
                inbox.send(Input::LinkUp { link, outbox, settled, token }).await.map_err(|_| gone())?;
            }
            inbox.send(Input::Frame { link, frame }).await.map_err(|_| gone())
        }
    };
    let timing = Timing { heartbeat, dead_after, handshake };
    let ended = link::run(socket, timing, settled.clone(), on_frame, |outbox| {
        // The receiver lives as long as this link.
        let _ = give.send(outbox);
    })
    .await;
    let (why, cause) = (ended.to_string(), ended.cause());
    // If the driver is gone, it needs no news of the link.
    let _ = parts.inbox.send(Input::LinkDown { link, why: why.clone() }).await;
    let code = match ended {
        Ended::ByPeer(code, _) => code,
        Ended::ByUs(code, _) => Some(code),
        Ended::Broken(_) => None,
    };
    Outcome { settled: *settled.borrow(), code, retry_after, why, cause }
}

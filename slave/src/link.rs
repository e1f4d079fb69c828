//! The slave's way to its master: dial, hand what comes to the driver, and dial again, for ever.
//!
//! Nothing is carried over from one connection to the next but how long to wait, which the rules say
//! ([`redial`]): the next handshake settles everything.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reloop_node::entropy::random;
use reloop_node::link::{self, Counted, Ended, Outbox, Timing};
use reloop_protocol::handshake;
use reloop_protocol::message::{CloseCode, Message};
use reloop_protocol::slave::LinkId;
use reloop_protocol::slave::redial::{self, Pauses, Redial, Tried};
use reloop_protocol::time::Millis;
use reloop_protocol::wire::{Frame, SUBPROTOCOL};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::{self, Error as WsError};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::config::{self, Config};
use crate::driver::Input;
use crate::identity;

/// How long finding the address and connecting to it may take. Across a continent it takes a fifth of a second; more
/// than some seconds means that packets are lost, and another try is better than to go on waiting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// A name with more addresses than this would leave too little of the patience to each.
const ADDRESSES: usize = 4;

/// An idle connection is tried after this long...
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
/// ...again after this long...
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// ...and is dead after this many tries without an answer: sooner than the heartbeat finds it out, on the stretch to the
/// next proxy at least.
const KEEPALIVE_TRIES: u32 = 3;
/// What was sent must be acknowledged by then, or the connection is dead (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of a refusing server's own words is shown.
const SHOWN_BODY: usize = 200;

/// Anything that a link can run over.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection on which nothing was said yet.
pub type Socket = WebSocketStream<Counted<Box<dyn Stream>>>;

/// How to reach the master.
pub struct Dialer {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    upgrade_patience: Duration,
}

/// The master was not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// Its name is not known.
    #[error("{host} can't be found: {why}")]
    Unknown {
        /// The name.
        host: String,
        /// What the system said.
        why: io::Error,
    },
    /// Nobody there answers.
    #[error("{host}:{port} can't be reached: {why}")]
    Unreached {
        /// The name.
        host: String,
        /// The port.
        port: u16,
        /// What the system said about the last of its addresses.
        why: io::Error,
    },
    /// Somebody answers, who can't prove to be the one.
    #[error("no TLS with {host}: {why}")]
    Tls {
        /// The name.
        host: String,
        /// What is wrong.
        why: io::Error,
    },
    /// It is no master, or a proxy that does not let WebSockets through.
    #[error("{host} answers, but not as a master: {why}")]
    NotAMaster {
        /// The name.
        host: String,
        /// What it said.
        why: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It takes too long.
    #[error("{host} does not answer in time")]
    TooSlow {
        /// The name.
        host: String,
    },
}

impl Dialer {
    /// By the settings.
    ///
    /// # Errors
    /// The certificates to trust can't be read.
    pub fn new(config: &Config) -> anyhow::Result<Self> {
        let uri: Uri = config.master.parse().with_context(|| format!("master = {:?}", config.master))?;
        let host = uri.host().context("the master's address has no host")?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_tls = uri.scheme_str() == Some("wss");
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let tls = match is_tls {
            true => {
                let name = ServerName::try_from(host.clone())
                    .with_context(|| format!("{host:?} can't be the name in a certificate"))?;
                Some((tls(config.ca_file.as_deref())?, name))
            }
            false => None,
        };
        Ok(Self { uri, host, port, tls, upgrade_patience: config.link.handshake })
    }

    /// Whom it dials, without what may be secret in an address.
    pub fn peer(&self) -> String {
        format!("{}://{}:{}{}", self.uri.scheme_str().unwrap_or("ws"), self.host, self.port, self.uri.path())
    }

    /// Connects, up to the point where the master speaks.
    pub async fn dial(&self) -> Result<Socket, DialError> {
        let tcp = timeout(CONNECT_PATIENCE, self.connect()).await.map_err(|_| self.too_slow())??;
        timeout(self.upgrade_patience, self.upgrade(tcp)).await.map_err(|_| self.too_slow())?
    }

    fn too_slow(&self) -> DialError {
        DialError::TooSlow { host: self.host.clone() }
    }

    async fn connect(&self) -> Result<TcpStream, DialError> {
        let host = || self.host.clone();
        let found = lookup_host((self.host.as_str(), self.port)).await;
        let addresses: Vec<SocketAddr> =
            found.map_err(|why| DialError::Unknown { host: host(), why })?.take(ADDRESSES).collect();
        let mut why = io::Error::other("the name has no address");
        for address in &addresses {
            // One that swallows packets must not take the time of the others.
            let patience = CONNECT_PATIENCE / u32::try_from(addresses.len()).unwrap_or(1);
            match timeout(patience, TcpStream::connect(address)).await {
                Ok(Ok(tcp)) => match tune(&tcp) {
                    Ok(()) => return Ok(tcp),
                    Err(error) => why = error,
                },
                Ok(Err(error)) => why = error,
                Err(_) => why = io::Error::other(format!("{address} does not answer")),
            }
        }
        Err(DialError::Unreached { host: host(), port: self.port, why })
    }

    async fn upgrade(&self, tcp: TcpStream) -> Result<Socket, DialError> {
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), tcp).await;
                Box::new(stream.map_err(|why| DialError::Tls { host: self.host.clone(), why })?)
            }
        };
        let request = ClientRequestBuilder::new(self.uri.clone()).with_sub_protocol(SUBPROTOCOL);
        match client_async_with_config(request, Counted::new(stream), Some(link::config())).await {
            Ok((socket, _)) => Ok(socket),
            Err(error) => {
                let (why, retry_after) = refusal(error);
                Err(DialError::NotAMaster { host: self.host.clone(), why, retry_after })
            }
        }
    }
}

fn refusal(error: WsError) -> (String, Option<Duration>) {
    match error {
        WsError::Http(response) => {
            let header = response.headers().get(tungstenite::http::header::RETRY_AFTER);
            let seconds = header.and_then(|value| value.to_str().ok()?.parse().ok());
            let body = response.body().as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let body: String = body.trim().chars().take(SHOWN_BODY).collect();
            let text = format!("{} {body}", response.status());
            (text.trim().to_owned(), seconds.map(Duration::from_secs))
        }
        WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(
            SubProtocolError::NoSubProtocol | SubProtocolError::InvalidSubProtocol,
        )) => {
            (format!("it does not speak {SUBPROTOCOL}; check the path in the slave's setting master"), None)
        }
        error => (error.to_string(), None),
    }
}

fn tune(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_TRIES);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))
}

fn tls(ca_file: Option<&Path>) -> anyhow::Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let extra = match ca_file {
        None => vec![],
        Some(path) => {
            let about = || format!("ca_file = {path:?}: expected certificates in PEM");
            let read = CertificateDer::pem_file_iter(path).with_context(about)?;
            let certificates: Vec<_> = read.collect::<Result<_, _>>().with_context(about)?;
            if certificates.is_empty() {
                return Err(anyhow!("there is none")).with_context(about);
            }
            certificates
        }
    };
    let verifier = rustls_platform_verifier::Verifier::new_with_extra_roots(extra, Arc::clone(&provider))
        .context("no certificates to trust: install the system's (ca-certificates), or set ca_file")?;
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS has no protocol version")?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(client)))
}

/// What the loop needs beside the dialer.
pub struct Loop {
    /// The settings.
    pub config: Config,
    /// The driver.
    pub inbox: mpsc::Sender<Input>,
    /// No more connections once this is true.
    pub halt: watch::Receiver<bool>,
    /// Dial now, whatever the pause was for.
    pub nudge: Arc<Notify>,
}

/// How one try went.
#[derive(Debug, Default)]
struct Outcome {
    settled: bool,
    code: Option<CloseCode>,
    retry_after: Option<Duration>,
    why: String,
    cause: String,
}

/// One may be the beginning of the other, see [`Ended::cause`].
fn is_the_same(told: &str, cause: &str) -> bool {
    told.starts_with(cause) || cause.starts_with(told)
}

/// Keeps a link to the master for as long as the agent lives.
pub async fn run(dialer: Dialer, mut parts: Loop) {
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
                let retry_after = match &error {
                    DialError::NotAMaster { retry_after, .. } => *retry_after,
                    DialError::Unknown { .. }
                    | DialError::Unreached { .. }
                    | DialError::Tls { .. }
                    | DialError::TooSlow { .. } => None,
                };
                let why = error.to_string();
                // The driver is gone: so is the need for a link.
                let Ok(()) = parts.inbox.send(Input::NotReached(why.clone())).await else { return };
                Outcome { cause: why.clone(), why, retry_after, ..Outcome::default() }
            }
        };
        let tried =
            Tried { settled: outcome.settled, code: outcome.code, retry_after: outcome.retry_after.map(ms) };
        let pause = Duration::from_millis(pauses.after(tried, u32::from_le_bytes(random())).0);
        let todo = match outcome.code.map(redial::after) {
            Some(Redial::Person(todo)) => todo,
            Some(Redial::Back | Redial::Patient) | None => "",
        };
        if outcome.settled {
            tracing::info!(master = dialer.peer(), why = outcome.why, "the link ended; the machine goes on");
            told = None;
        } else if told.as_deref().is_none_or(|told| !is_the_same(told, &outcome.cause)) {
            tracing::warn!(master = dialer.peer(), why = outcome.why, todo, "no link; the machine goes on");
            told = Some(outcome.cause);
        }
        tracing::debug!(why = outcome.why, ?pause, "the next try comes after a pause");
        let nudged = async {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = parts.nudge.notified() => {}
            }
        };
        if unless_halted(&mut parts.halt, nudged).await.is_none() {
            return;
        }
    }
}

async fn unless_halted<T>(halt: &mut watch::Receiver<bool>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        // If its sender is gone, so is the agent.
        _ = halt.wait_for(|halted| *halted) => None,
        done = work => Some(done),
    }
}

/// Runs one connection to its end.
async fn talk(parts: &Loop, socket: Socket, link: LinkId, enrolled: bool) -> Outcome {
    let config::Link { heartbeat, dead_after, handshake, .. } = parts.config.link;
    let configured = parts.config.enroll_token_file.as_deref().filter(|_| !enrolled);
    let mut token = identity::token(&parts.config.state_dir, configured).unwrap_or_else(|error| {
        tracing::warn!(%error, "no token is shown to the master");
        None
    });
    let (settle, settled) = watch::channel(false);
    let (give, given) = oneshot::channel::<Outbox>();
    let (mut given, mut settle) = (Some(given), Some(settle));
    let mut retry_after = None;
    let on_frame = |frame: Frame| {
        if let Message::Refuse(refuse) = &frame.message {
            retry_after = refuse.retry_after_ms.map(|ms| Duration::from_millis(ms.into()));
        }
        let (first, token, inbox) = (given.take().zip(settle.take()), token.take(), parts.inbox.clone());
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
        // The frames' end waits for it as long as the link runs.
        let _ = give.send(outbox);
    })
    .await;
    let (why, cause) = (ended.to_string(), ended.cause());
    // A driver that is gone needs no news of links.
    let _ = parts.inbox.send(Input::LinkDown { link, why: why.clone() }).await;
    let code = match ended {
        Ended::ByPeer(code, _) => code,
        Ended::ByUs(code, _) => Some(code),
        Ended::Broken(_) => None,
    };
    Outcome { settled: *settled.borrow(), code, retry_after, why, cause }
}

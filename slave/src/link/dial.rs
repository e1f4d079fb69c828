//! Connects to the master: name, TCP, TLS, and the upgrade to a WebSocket (RFC 6455).

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use reloop_node::link::{self, Counted};
use reloop_protocol::wire::SUBPROTOCOL;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::{ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::http::{Uri, header};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::config::Config;

/// How long it may take to find the address and to connect. Across a continent that takes a fifth of a second; if it takes
/// seconds, packets are lost, and another attempt is better than waiting.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);

/// How many addresses of a name are tried: they share the patience, and more would leave too little for each.
const ADDRESSES: usize = 4;

/// TCP keepalive: after so long without traffic a connection is probed, again after each interval, and counts as dead after
/// so many probes without an answer. On the way to the next proxy that finds a dead link sooner than the heartbeat.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(20);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// If sent data is not acknowledged within this time, the connection is dead (RFC 5482).
const USER_TIMEOUT: Duration = Duration::from_secs(20);

/// How much of a refusing server's answer is shown.
const SHOWN_BODY: usize = 200;

/// TCP, with or without TLS.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A connection to a master.
pub(crate) type Socket = WebSocketStream<Counted<Box<dyn Stream>>>;

pub(crate) struct Dialer {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    upgrade_patience: Duration,
}

/// Why the master was not reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("{host} can't be found: {why}")]
    Unknown { host: String, why: io::Error },
    /// `why` is the error of the last address that was tried.
    #[error("{host}:{port} can't be reached: {why}")]
    Unreached { host: String, port: u16, why: io::Error },
    #[error("no TLS with {host}: {why}")]
    Tls { host: String, why: io::Error },
    /// It is no master, or a proxy that does not pass WebSockets on. `retry_after` is when it wants to be asked again.
    #[error("{host} answers, but not as a master: {why}")]
    NotAMaster { host: String, why: String, retry_after: Option<Duration> },
    #[error("{host} does not answer in time")]
    TooSlow { host: String },
}

impl Dialer {
    /// # Errors
    /// The master's address or the certificates to trust are not usable.
    pub(crate) fn new(config: &Config) -> anyhow::Result<Self> {
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

    /// The master's address without its query, which may hold a secret.
    pub(crate) fn peer(&self) -> String {
        format!("{}://{}:{}{}", self.uri.scheme_str().unwrap_or("ws"), self.host, self.port, self.uri.path())
    }

    /// Connects. On the new connection the master speaks first.
    pub(crate) async fn dial(&self) -> Result<Socket, DialError> {
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
            // An address that never answers must not use up the time of the others.
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

/// Why the upgrade failed, for people, and when the server wants to be asked again.
fn refusal(error: WsError) -> (String, Option<Duration>) {
    match error {
        WsError::Http(response) => {
            let value = response.headers().get(header::RETRY_AFTER);
            let seconds = value.and_then(|value| value.to_str().ok()?.parse().ok());
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

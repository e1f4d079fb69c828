//! A minimal MQTT 3.1.1 client for a reconnect storm against mosquitto: persistent sessions, each with one subscription and
//! one message of QoS 1. Section numbers are those of the OASIS standard of 2014.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::bare::until_heard;
use super::process::all;

/// The message that waits for each session; as long as that of the bare peer.
const PAYLOAD: [u8; 100] = [7; 100];

/// Packet types with their flags, as in the first byte (2.2).
const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH_QOS1: u8 = 0x32;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const DISCONNECT: u8 = 0xe0;

/// The pause before a failed connect is repeated.
const RETRY: Duration = Duration::from_millis(5);

/// Sessions that are created at a time, before the measurement.
const AT_A_TIME: usize = 256;

struct Session {
    io: BufReader<TcpStream>,
}

fn topic(number: usize) -> String {
    format!("jobs/{number}")
}

fn text(packet: &mut Vec<u8>, text: &str) -> anyhow::Result<()> {
    packet.extend(u16::try_from(text.len())?.to_be_bytes());
    packet.extend(text.as_bytes());
    Ok(())
}

impl Session {
    /// Resumes the session with this number, or creates it (3.1: without the clean-session flag).
    async fn open(addr: SocketAddr, number: usize) -> anyhow::Result<Self> {
        let tcp = loop {
            match TcpStream::connect(addr).await {
                Ok(tcp) => break tcp,
                Err(_) => tokio::time::sleep(RETRY).await,
            }
        };
        tcp.set_nodelay(true)?;
        let mut session = Self { io: BufReader::new(tcp) };
        let mut body = Vec::new();
        text(&mut body, "MQTT")?;
        // Level 4 is 3.1.1; no flags; keep alive for ten minutes.
        body.extend([4, 0]);
        body.extend(600_u16.to_be_bytes());
        text(&mut body, &format!("slave-{number}"))?;
        session.send(CONNECT, &body).await?;
        let (kind, body) = session.packet().await?;
        ensure!(kind == CONNACK && body.get(1) == Some(&0), "refused: {kind:#x} {body:?}");
        Ok(session)
    }

    async fn send(&mut self, kind: u8, body: &[u8]) -> anyhow::Result<()> {
        let mut packet = vec![kind];
        let mut left = body.len();
        // The remaining length, seven bits a byte (2.2.3).
        loop {
            let byte = u8::try_from(left % 128)?;
            left /= 128;
            packet.push(if left > 0 { byte | 0x80 } else { byte });
            if left == 0 {
                break;
            }
        }
        packet.extend(body);
        Ok(self.io.get_mut().write_all(&packet).await?)
    }

    async fn packet(&mut self) -> anyhow::Result<(u8, Vec<u8>)> {
        let kind = self.io.read_u8().await?;
        let (mut size, mut shift) = (0_usize, 0);
        loop {
            let byte = self.io.read_u8().await?;
            size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            ensure!(shift < 28, "a length has at most four bytes");
        }
        let mut body = vec![0; size];
        self.io.read_exact(&mut body).await?;
        Ok((kind, body))
    }

    async fn subscribe(&mut self, number: usize) -> anyhow::Result<()> {
        let mut body = 1_u16.to_be_bytes().to_vec();
        text(&mut body, &topic(number))?;
        body.push(1);
        self.send(SUBSCRIBE, &body).await?;
        let (kind, body) = self.packet().await?;
        ensure!(kind == SUBACK && body.get(2) == Some(&1), "not subscribed: {body:?}");
        Ok(())
    }

    async fn publish(&mut self, number: usize) -> anyhow::Result<()> {
        let mut body = Vec::new();
        text(&mut body, &topic(number))?;
        body.extend(1_u16.to_be_bytes());
        body.extend(PAYLOAD);
        self.send(PUBLISH_QOS1, &body).await?;
        match self.packet().await? {
            (PUBACK, _) => Ok(()),
            (kind, _) => bail!("{kind:#x} instead of a PUBACK"),
        }
    }

    /// Waits for the queued message, and acknowledges it (4.3.2).
    async fn receive(&mut self) -> anyhow::Result<()> {
        let (kind, body) = self.packet().await?;
        ensure!(kind & 0xf6 == PUBLISH_QOS1, "{kind:#x} instead of a PUBLISH");
        let size = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let id = [body[2 + size], body[3 + size]];
        self.send(PUBACK, &id).await
    }

    async fn close(mut self) -> anyhow::Result<()> {
        self.send(DISCONNECT, &[]).await
    }
}

/// Creates `size` sessions without a connection, each with a subscription.
pub(super) async fn prepare(addr: SocketAddr, size: usize) -> anyhow::Result<()> {
    let mut tasks = JoinSet::new();
    for number in 0..size {
        if tasks.len() == AT_A_TIME
            && let Some(done) = tasks.join_next().await
        {
            done??;
        }
        tasks.spawn(async move {
            let session = until_heard(async || {
                let mut session = Session::open(addr, number).await?;
                session.subscribe(number).await?;
                Ok(session)
            });
            session.await?.close().await
        });
    }
    all(tasks).await.map(drop)
}

/// Queues one message for each session.
pub(super) async fn queue(addr: SocketAddr, size: usize) -> anyhow::Result<()> {
    let mut publisher = Session::open(addr, size).await?;
    for number in 0..size {
        publisher.publish(number).await?;
    }
    publisher.close().await
}

/// Resumes all sessions at once; each receives its message. Returns how long all of them took.
pub(super) async fn storm(addr: SocketAddr, size: usize) -> anyhow::Result<Duration> {
    let since = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..size {
        tasks.spawn(async move {
            until_heard(async || {
                let mut session = Session::open(addr, number).await?;
                session.receive().await?;
                Ok(session)
            })
            .await
        });
    }
    let sessions = all(tasks).await?;
    let took = since.elapsed();
    for session in sessions {
        session.close().await?;
    }
    Ok(took)
}

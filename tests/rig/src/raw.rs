//! A hand-made peer: a TCP connection, and frames of RFC 6455 (section 5.2) byte by byte, right or wrong.
#![allow(clippy::unwrap_used, reason = "only tests use it: a panic is a failed test")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use reloop_protocol::id::{BootId, Commit, Generation, Session, SlaveKey, StoreId};
use reloop_protocol::message::{Activity, Hello, MachineReport, Message, Mode, OperatingMode, PROTOCOL};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL, Signature};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longer than the master's limits, which are a second in these tests.
const LIMIT: Duration = Duration::from_secs(8);

/// The bit of a frame's first byte that ends a message.
pub const FIN: u8 = 0x80;
pub const CONTINUATION: u8 = 0;
pub const TEXT: u8 = 1;
pub const BINARY: u8 = 2;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// The headers that ask for the upgrade.
pub fn upgrade_headers() -> String {
    format!(
        "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"
    )
}

/// A frame with this first byte (FIN, reserved bits, opcode), masked or not, and this length in its header.
pub fn frame(first: u8, masked: bool, claimed: u64, payload: &[u8]) -> Vec<u8> {
    let mask_bit = if masked { 0x80 } else { 0 };
    let mut bytes = vec![first];
    match claimed {
        0..=125 => bytes.push(mask_bit | u8::try_from(claimed).unwrap()),
        126..=0xffff => {
            bytes.push(mask_bit | 126);
            bytes.extend(u16::try_from(claimed).unwrap().to_be_bytes());
        }
        _ => {
            bytes.push(mask_bit | 127);
            bytes.extend(claimed.to_be_bytes());
        }
    }
    if masked {
        bytes.extend([0; 4]);
    }
    bytes.extend(payload);
    bytes
}

/// A whole masked frame, as a client sends it.
pub fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, true, payload.len() as u64, payload)
}

pub struct Raw(pub TcpStream);

impl Raw {
    /// Connects and asks for the upgrade. Returns the answer too.
    pub async fn ask(addr: SocketAddr, more: &str) -> (Self, String) {
        Self::ask_with(addr, more, &[]).await
    }

    /// The same, with bytes sent directly after the request.
    pub async fn ask_with(addr: SocketAddr, more: &str, behind: &[u8]) -> (Self, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let head = format!("GET /v1/link HTTP/1.1\r\nHost: x\r\n{more}\r\n");
        stream.write_all(&[head.as_bytes(), behind].concat()).await.unwrap();
        let mut answer = vec![];
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(timeout(LIMIT, stream.read_u8()).await.unwrap().unwrap());
        }
        (Self(stream), String::from_utf8(answer).unwrap())
    }

    /// Connects up to the Challenge. Returns its nonce.
    pub async fn challenged(addr: SocketAddr) -> (Self, [u8; 32]) {
        let (mut raw, answer) = Self::ask(addr, &upgrade_headers()).await;
        assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        let (opcode, bytes) = raw.frame().await.unwrap();
        assert_eq!(opcode, BINARY);
        let Frame { message: Message::Challenge(challenge), .. } =
            wire::decode(&bytes, wire::MAX_MESSAGE).unwrap()
        else {
            panic!("no Challenge");
        };
        (raw, challenge.nonce)
    }

    /// Sends bytes. The other side may have closed already: what it sent before is checked.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        drop(self.0.write_all(bytes).await);
    }

    pub async fn send(&mut self, opcode: u8, payload: &[u8]) {
        self.0.write_all(&masked(FIN | opcode, payload)).await.unwrap();
    }

    pub async fn say(&mut self, frame: &Frame) {
        self.send(BINARY, &wire::encode(frame)).await;
    }

    /// The opcode and payload of the next frame; `None` at the end.
    pub async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let opcode = self.0.read_u8().await? & 0x0f;
            let length = match self.0.read_u8().await? {
                126 => usize::from(self.0.read_u16().await?),
                127 => usize::try_from(self.0.read_u64().await?).unwrap(),
                short => usize::from(short),
            };
            let mut payload = vec![0; length];
            self.0.read_exact(&mut payload).await?;
            Ok::<_, std::io::Error>((opcode, payload))
        };
        timeout(LIMIT, read).await.expect("an end of the link in time").ok()
    }

    /// The next message of the protocol; `None` at the end.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            let (opcode, payload) = self.frame().await?;
            if opcode == BINARY {
                let frame: Frame = wire::decode(&payload, wire::MAX_MESSAGE).unwrap();
                return Some(frame.message);
            }
        }
    }

    /// Reads to the end. Returns the close code if there was one.
    pub async fn closed(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((opcode, payload)) = self.frame().await {
            if opcode == CLOSE {
                code = payload.get(..2).map(|two| u16::from_be_bytes([two[0], two[1]]));
                // The other side waits for this answer, or is gone already.
                self.bytes(&masked(FIN | CLOSE, &[])).await;
            }
        }
        code
    }
}

pub fn key(seed: u8) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap()
}

/// The Hello of a hand-made slave.
pub fn hello(key: &Ed25519KeyPair) -> Hello {
    Hello {
        starts: 1,
        protocol: PROTOCOL,
        key: SlaveKey(key.public_key().as_ref().try_into().unwrap()),
        name: "raw".to_owned(),
        agent: "hand-made".to_owned(),
        binding: None,
        token: None,
        store: StoreId([1; 16]),
        boot: BootId([2; 16]),
        session: Session(1),
        clock: Time(crate::factory::now_ms()),
        machine: MachineReport {
            activity: Activity::Ready,
            unloading: None,
            attention: None,
            uncertain: None,
            local_lock: false,
            operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
            cause: None,
        },
        programs: vec!["work".to_owned()],
        labels: BTreeMap::new(),
        capacity: 1,
        deferred_capacity: 16,
        rows: vec![],
        recent_outcomes: vec![],
    }
}

pub fn signed(key: &Ed25519KeyPair, nonce: &[u8; 32], hello: Hello) -> Frame {
    let signature = key.sign(&wire::signed_bytes(nonce, &hello));
    let halves = signature.as_ref();
    let signature = Signature(halves[..32].try_into().unwrap(), halves[32..].try_into().unwrap());
    Frame {
        session: hello.session,
        commit: Commit(0),
        message: Message::Hello(Box::new(hello)),
        signature: Some(signature),
    }
}

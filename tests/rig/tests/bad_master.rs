//! Masters that break the protocol: a real slave dials a listener that answers with hand-made bytes. It closes the link
//! with the documented code, says what is wrong, and dials again, while its job goes on.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use reloop_protocol::id::{Commit, Epoch, Generation, Incarnation, MasterId, Session};
use reloop_protocol::message::{
    Challenge, CloseCode, MasterBinding, Message, Mode, OperatingMode, PROTOCOL, Versions, Welcome,
};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL};
use reloop_rig::factory::{Factory, gated, held};
use reloop_rig::proxy::Close;
use reloop_rig::raw::{BINARY, CLOSE, FIN, TEXT, frame, masked};
use reloop_rig::wait::{PATIENCE, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// Makes the answer from the request.
type Answer = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

/// A listener that answers every upgrade with the same bytes, and then stays silent until the other side closes.
struct BadMaster {
    addr: SocketAddr,
    seen: Arc<AtomicU64>,
    /// The close codes that the slave sent.
    closes: Arc<Mutex<Vec<u16>>>,
    task: tokio::task::JoinHandle<()>,
}

impl BadMaster {
    async fn start(answer: Answer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let closes = Arc::new(Mutex::new(vec![]));
        let (count, codes) = (Arc::clone(&seen), Arc::clone(&closes));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let (answer, codes) = (Arc::clone(&answer), Arc::clone(&codes));
                tokio::spawn(serve(stream, answer, codes));
            }
        });
        Self { addr, seen, closes, task }
    }

    fn seen(&self) -> u64 {
        self.seen.load(Ordering::SeqCst)
    }
}

impl Drop for BadMaster {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, answer: Answer, codes: Arc<Mutex<Vec<u16>>>) {
    let mut request = vec![];
    while !request.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        request.push(byte);
    }
    // Fails if the slave has closed already: it need not read everything.
    drop(stream.write_all(&answer(&String::from_utf8(request).unwrap())).await);
    loop {
        let Ok(first) = stream.read_u8().await else { return };
        let Ok(length) = stream.read_u8().await else { return };
        let length = match length & 0x7f {
            126 => usize::from(stream.read_u16().await.unwrap_or(0)),
            127 => usize::try_from(stream.read_u64().await.unwrap_or(0)).unwrap(),
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        let mut payload = vec![0; length];
        if stream.read_exact(&mut mask).await.is_err() || stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        if first & 0x0f == CLOSE && payload.len() >= 2 {
            codes.lock().unwrap().push(u16::from_be_bytes([payload[0], payload[1]]));
            return;
        }
    }
}

/// The correct answer to an upgrade (RFC 6455, section 4.2.2), followed by `behind`.
fn upgraded(request: &str, behind: &[u8]) -> Vec<u8> {
    let key = request.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let accept = derive_accept_key(key.unwrap().as_bytes());
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {SUBPROTOCOL}\r\n\r\n"
    );
    [head.as_bytes(), behind].concat()
}

/// An unmasked frame, as a server sends it.
fn spoken(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, false, payload.len() as u64, payload)
}

fn behind(bytes: Vec<u8>) -> Answer {
    Arc::new(move |request| upgraded(request, &bytes))
}

fn instead(answer: &str) -> Answer {
    let answer = answer.replace('\n', "\r\n");
    Arc::new(move |_| answer.clone().into_bytes())
}

#[tokio::test]
async fn a_slave_leaves_a_bad_master_says_what_is_wrong_and_comes_back_while_its_job_goes_on() {
    let f = Factory::with(|options| {
        options.link.insert("handshake_seconds", 1);
    })
    .await;
    let job = f.running(gated("mine")).await;
    let master = MasterBinding {
        master: MasterId([9; 16]),
        epoch: Epoch(1),
        incarnation: Incarnation::default(),
        commit: Commit(1),
    };
    let welcome = Welcome {
        protocol: 1,
        session: Session(0),
        binding: master,
        operating_mode: OperatingMode { generation: Generation(99), mode: Mode::Disabled },
        rulings: vec![],
    };
    let challenge = |protocol| Challenge {
        protocol,
        master: master.master,
        epoch: master.epoch,
        commit: master.commit,
        begun: vec![],
        nonce: [0; 32],
        time: Time(0),
    };
    let say = |message| {
        let bytes = wire::encode(&Frame { session: Session(0), commit: Commit(0), message, signature: None });
        spoken(FIN | BINARY, &bytes)
    };
    let ours = say(Message::Challenge(challenge(PROTOCOL)));
    let later = Versions { oldest: 900, newest: 901 };
    let far = say(Message::Challenge(challenge(later)));
    let protocol = Some(CloseCode::Protocol);
    for (what, answer, code, words) in [
        ("a web page", instead("HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"), None, "200"),
        (
            "a redirect",
            instead("HTTP/1.1 301 Moved\nLocation: http://127.0.0.1:1/\nContent-Length: 0\n\n"),
            None,
            "301",
        ),
        ("no HTTP at all", instead("SSH-2.0-OpenSSH_9.2\n"), None, "answers, but not as a master"),
        (
            "the accept key of somebody else",
            instead(&format!(
                "HTTP/1.1 101 Switching Protocols\nUpgrade: websocket\nConnection: Upgrade\nSec-WebSocket-Accept: \
                 s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\nSec-WebSocket-Protocol: {SUBPROTOCOL}\n\n"
            )),
            None,
            "Accept",
        ),
        (
            "no subprotocol",
            Arc::new(|request: &str| {
                let answer = String::from_utf8(upgraded(request, &[])).unwrap();
                answer.replace(&format!("Sec-WebSocket-Protocol: {SUBPROTOCOL}\r\n"), "").into_bytes()
            }) as Answer,
            None,
            "does not speak reloop.v1",
        ),
        ("silence", behind(vec![]), Some(CloseCode::TooSlow), "4408"),
        ("silence before the upgrade", instead(""), None, "does not answer in time"),
        ("half a message", behind(ours[..10].to_vec()), Some(CloseCode::TooSlow), "4408"),
        ("silence after the Challenge", behind(ours.clone()), Some(CloseCode::TooSlow), "4408"),
        ("garbage", behind(vec![0xff; 200]), protocol, "4400"),
        ("masked", behind(masked(FIN | BINARY, &ours[2..])), protocol, "4400"),
        ("text", behind(spoken(FIN | TEXT, b"hello")), protocol, "4400"),
        ("an unknown message", behind(spoken(FIN | BINARY, &[0, 0, 15, 0])), protocol, "4400"),
        ("bytes left over", behind(spoken(FIN | BINARY, &[&ours[2..], &[0]].concat())), protocol, "4400"),
        (
            "2^63 bytes",
            behind(frame(FIN | BINARY, false, 1 << 63, &[0; 64])),
            Some(CloseCode::TooLarge),
            "4413",
        ),
        ("a Welcome first", behind(say(Message::Welcome(welcome.clone()))), protocol, "4400"),
        (
            "an OperatingMode first",
            behind(say(Message::OperatingMode(welcome.operating_mode))),
            protocol,
            "4400",
        ),
        ("a protocol to come", behind(far), Some(CloseCode::Version), "4426"),
    ] {
        let bad = BadMaster::start(answer).await;
        f.nets[0].redirect(bad.addr);
        f.nets[0].drop_existing(Close::Reset);
        // It dials again by itself, more than once.
        eventually(&format!("{what}: three tries"), PATIENCE, async || {
            if bad.seen() >= 3 { Ok(()) } else { Err(bad.seen()) }
        })
        .await;
        let status = f
            .at_machine(0, &format!("{what}: told as {words:?}"), |status| {
                status["link"]["trouble"].as_str().is_some_and(|trouble| trouble.contains(words))
            })
            .await;
        assert_ne!(status["link"]["state"], "online", "{what}");
        assert_eq!(status["machine"]["mode"], "production", "{what}: it is not obeyed");
        let held = held(&status, &job).unwrap_or_else(|| panic!("{what}: {status:#}"));
        assert_eq!(held["state"], "running", "{what}");
        if let Some(code) = code {
            eventually(&format!("{what}: a word of the slave"), PATIENCE, async || {
                (!bad.closes.lock().unwrap().is_empty()).then_some(())
            })
            .await;
            let closes = bad.closes.lock().unwrap().clone();
            assert!(closes.iter().all(|said| *said == code.number()), "{what}: {closes:?}");
        }
        let text = f.locally(0, &["status"]).await;
        assert!(text.contains(words), "{what}: {text}");
    }
    f.nets[0].redirect(f.master.addr());
    f.nets[0].drop_existing(Close::Reset);
    f.online(0).await;
    assert_eq!(f.job(&job).await["state"], "running");
    f.finish(&job, "mine").await;
}

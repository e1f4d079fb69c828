//! A master that is only a script: the tests say what it answers.

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::clock::wall_ms;
use reloop_protocol::id::{
    Attempt, Commit, Epoch, Generation, Incarnation, JobId, MasterId, OrderId, Session,
};
use reloop_protocol::job::State;
use reloop_protocol::message::{
    Answer, Challenge, CloseCode, Hello, MasterBinding, Message, Mode, OperatingMode, PROTOCOL, Refuse,
    Report, Ruling, Settled, Welcome,
};
use reloop_protocol::spec::{Desired, DesiredState, Spec, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, SUBPROTOCOL, Signature};
use ring::signature::{ED25519, UnparsedPublicKey};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode as WsCode;
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

use super::process::PATIENCE;

pub const MASTER: MasterId = MasterId([7; 16]);

/// How much the master's clock is ahead of the slave's.
pub const AHEAD_MS: i64 = 5000;

pub struct Master {
    listener: TcpListener,
    challenges: u8,
}

pub struct Link {
    pub socket: WebSocketStream<TcpStream>,
    pub session: Session,
}

impl Master {
    pub async fn new() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap(), challenges: 0 }
    }

    pub fn url(&self) -> String {
        format!("ws://{}/v1/link", self.listener.local_addr().unwrap())
    }

    /// Accepts the next connection, and answers with this subprotocol.
    pub async fn accept_as(&self, subprotocol: Option<&'static str>) -> Link {
        let (tcp, _) = timeout(PATIENCE, self.listener.accept()).await.expect("nobody dials").unwrap();
        #[expect(clippy::result_large_err, reason = "the library wants it so")]
        let answer = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            assert_eq!(request.uri().path(), "/v1/link");
            assert_eq!(request.headers()[header::SEC_WEBSOCKET_PROTOCOL], SUBPROTOCOL);
            if let Some(subprotocol) = subprotocol {
                let value = HeaderValue::from_static(subprotocol);
                response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, value);
            }
            Ok(response)
        };
        let socket = timeout(PATIENCE, accept_hdr_async(tcp, answer)).await.unwrap().unwrap();
        Link { socket, session: Session(0) }
    }

    pub async fn accept(&self) -> Link {
        self.accept_as(Some(SUBPROTOCOL)).await
    }

    /// Accepts a connection up to the slave's Hello, and checks its signature.
    pub async fn hello(&mut self) -> (Link, Hello) {
        let mut link = self.accept().await;
        self.challenges += 1;
        let nonce = [self.challenges; 32];
        link.send(challenge(Epoch(1), nonce)).await;
        let Frame { session, message, signature, .. } = link.frame().await;
        let Message::Hello(hello) = message else { panic!("no Hello: {message:?}") };
        assert_eq!(session, hello.session);
        let Signature(first, second) = signature.expect("a Hello is signed");
        let key = UnparsedPublicKey::new(&ED25519, hello.key.0);
        let signed = wire::signed_bytes(&nonce, &hello);
        key.verify(&signed, &[first, second].concat()).expect("the signature is the key's, over this nonce");
        link.session = session;
        (link, *hello)
    }

    /// Accepts a connection up to the end of the handshake, with these rulings.
    pub async fn live(&mut self, rulings: Vec<Ruling>) -> (Link, Hello, Settled) {
        let (mut link, hello) = self.hello().await;
        link.send(Message::Welcome(Welcome {
            protocol: 1,
            session: link.session,
            binding: MasterBinding {
                master: MASTER,
                epoch: Epoch(1),
                incarnation: Incarnation::default(),
                commit: Commit(1),
            },
            operating_mode: OperatingMode { generation: Generation(0), mode: Mode::Production },
            rulings,
        }))
        .await;
        let Message::Settled(settled) = link.next().await else { panic!("no Settled") };
        assert_eq!(settled.session, hello.session);
        (link, hello, settled)
    }
}

impl Link {
    pub async fn send(&mut self, message: Message) {
        let frame = Frame { session: self.session, commit: Commit(0), message, signature: None };
        self.socket.send(tungstenite::Message::Binary(wire::encode(&frame).into())).await.unwrap();
    }

    /// The next frame that is no heartbeat.
    pub async fn frame(&mut self) -> Frame {
        loop {
            let message = timeout(PATIENCE, self.socket.next()).await.expect("the slave is silent");
            match message.expect("the slave hung up").unwrap() {
                tungstenite::Message::Binary(bytes) => {
                    let frame: Frame = wire::decode(&bytes, wire::MAX_MESSAGE).unwrap();
                    if !matches!(frame.message, Message::Ping | Message::Pong) {
                        return frame;
                    }
                }
                other => panic!("not a frame: {other:?}"),
            }
        }
    }

    pub async fn next(&mut self) -> Message {
        let frame = self.frame().await;
        assert_eq!(frame.session, self.session);
        assert_eq!(frame.signature, None, "only a Hello is signed");
        frame.message
    }

    /// The next report that is in this state; those before it go into `seen`.
    pub async fn report(&mut self, state: State, seen: &mut Vec<State>) -> Report {
        loop {
            if let Message::Report(report) = self.next().await {
                if seen.last() != Some(&report.state) {
                    seen.push(report.state);
                }
                if report.state == state {
                    return report;
                }
            }
        }
    }

    pub async fn answer(&mut self) -> Answer {
        loop {
            match self.next().await {
                Message::Answer(answer) => return answer,
                Message::Report(_) | Message::Machine(_) => {}
                other => panic!("no answer: {other:?}"),
            }
        }
    }

    /// The code with which the slave closes the connection.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            match timeout(PATIENCE, self.socket.next()).await.expect("the slave is silent") {
                Some(Ok(tungstenite::Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    pub async fn refuse(mut self, code: CloseCode) {
        self.say_refused(code).await;
        self.hang_up(code).await;
    }

    pub async fn say_refused(&mut self, code: CloseCode) {
        let refuse = Refuse { code, text: REFUSAL.to_owned(), retry_after_ms: None };
        self.send(Message::Refuse(refuse)).await;
    }

    pub async fn hang_up(mut self, code: CloseCode) {
        let close = CloseFrame { code: WsCode::from(code.number()), reason: REFUSAL.into() };
        // The slave may have closed the connection already.
        let _ = self.socket.close(Some(close)).await;
        self.close_code().await;
    }
}

pub fn challenge(epoch: Epoch, nonce: [u8; 32]) -> Message {
    Message::Challenge(Challenge {
        protocol: PROTOCOL,
        master: MASTER,
        epoch,
        commit: Commit(1),
        begun: vec![],
        nonce,
        time: Time(wall_ms() + AHEAD_MS),
    })
}

/// Why a master refuses a slave.
pub const REFUSAL: &str = "a person has to do something";

pub fn job(number: u64) -> JobId {
    JobId::from_parts(number, 1)
}

pub fn desired_state(id: JobId, program: &str, params: &[(&str, &str)], start: StartRule) -> DesiredState {
    let params = params.iter().map(|(name, value)| (name.to_string(), value.to_string()));
    let spec = Spec {
        order: OrderId::from_parts(1, 1),
        name: None,
        program: program.to_owned(),
        params: params.collect::<BTreeMap<_, _>>(),
        max_runtime: None,
        on_overdue: Default::default(),
        on_interrupt: Default::default(),
    };
    let digest = spec.digest();
    DesiredState {
        requires: Default::default(),
        job: id,
        attempt: Attempt(1),
        generation: Generation(1),
        digest,
        spec: Some(spec),
        desired: Desired::Run,
        start,
    }
}

pub fn bake(id: JobId, seconds: &str) -> DesiredState {
    desired_state(id, "bake", &[("seconds", seconds)], StartRule::default())
}

pub fn set_desired(desired_state: &DesiredState, generation: u32, desired: Desired) -> Message {
    Message::DesiredState(DesiredState {
        generation: Generation(generation),
        spec: None,
        desired,
        ..desired_state.clone()
    })
}

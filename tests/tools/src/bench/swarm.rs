//! Thousands of slaves in one process: the real rules and the real wire format, without disk and machine.
//!
//! Each member has its own key, signs its Hello, keeps its jobs over a lost link, and reports everything that a real slave
//! reports. It lacks what the master cannot see: the store, the runner and the heartbeat's timer.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::{SinkExt as _, StreamExt as _};
use reloop_node::{clock, entropy, link};
use reloop_protocol::id::{BootId, Commit, SlaveKey, StoreId};
use reloop_protocol::message::Message;
use reloop_protocol::slave::{self, Fact, Link, LinkId, Now, Probed, Slave};
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, Signature};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::{ClientRequestBuilder, Message as WsMessage};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::bare::key_pair;
use super::rules::{settings, succeeded};

const PATH: &str = "/v1/link";
const SUBPROTOCOL: &str = "reloop.v1";

/// When a member's machine ends its work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    Endless,
    /// As soon as it has begun.
    Instant,
}

/// Counts of all members together.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) live: AtomicUsize,
    pub(super) handshakes: AtomicU64,
    /// Bytes sent after the upgrade, WebSocket headers and masks included.
    pub(super) sent: AtomicU64,
    /// Bytes received after the upgrade, WebSocket headers included.
    pub(super) received: AtomicU64,
    pub(super) begun: AtomicU64,
    pub(super) reports: AtomicU64,
    /// The duration of each wait for a live link, in microseconds.
    pub(super) waits: std::sync::Mutex<Vec<u64>>,
}

/// What all members are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Rest,
    /// Connect and stay connected. The number tells one such order from the next.
    Connect(u64),
    /// End the member's task.
    Leave,
}

pub(super) struct Swarm {
    pub(super) counts: Arc<Counts>,
    orders: watch::Sender<Order>,
    pulses: Vec<mpsc::Sender<Pulse>>,
    tasks: JoinSet<()>,
    round: u64,
}

/// What one member's machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pulse {
    /// It makes progress from one permille to another. A report of each is made, and not sent yet.
    Progress(u16, u16),
    /// The reports that were made are sent.
    Send,
    /// Its job has succeeded.
    End,
}

struct Member {
    pair: Ed25519KeyPair,
    /// `None` while it is stepped.
    state: Option<Slave>,
    born: Instant,
    pace: Pace,
    links: u64,
    counts: Arc<Counts>,
}

impl Swarm {
    /// Creates the members, disconnected.
    pub(super) fn new(size: usize, addr: SocketAddr, pace: Pace, capacity: u16) -> anyhow::Result<Self> {
        let counts = Arc::new(Counts::default());
        // Another swarm needs other names: the master remembers them.
        let tag = u32::from_le_bytes(entropy::random());
        let (orders, _) = watch::channel(Order::Rest);
        let mut tasks = JoinSet::new();
        let mut pulses = Vec::with_capacity(size);
        for number in 0..size {
            let member = Member::new(tag, number, pace, capacity, Arc::clone(&counts))?;
            let (pulse, pulsed) = mpsc::channel(4);
            pulses.push(pulse);
            tasks.spawn(live(member, addr, orders.subscribe(), pulsed));
        }
        Ok(Self { counts, orders, pulses, tasks, round: 0 })
    }

    /// Lets all members connect. Returns how long it took until the last was live.
    pub(super) async fn connect(&mut self, patience: Duration) -> anyhow::Result<Duration> {
        self.round += 1;
        let since = Instant::now();
        self.orders.send_replace(Order::Connect(self.round));
        let size = self.pulses.len();
        loop {
            let live = self.counts.live.load(Ordering::Relaxed);
            if live == size {
                return Ok(since.elapsed());
            }
            anyhow::ensure!(since.elapsed() < patience, "only {live} of {size} links are live");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) async fn rest(&self) {
        self.orders.send_replace(Order::Rest);
        while self.counts.live.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// Tells one member what its machine does.
    pub(super) async fn pulse(&self, member: usize, pulse: Pulse) {
        // Fails if the member's task has ended.
        let _ = self.pulses[member].send(pulse).await;
    }

    /// Takes the duration of each wait for a live link since the last call, in seconds.
    pub(super) fn waits(&self) -> Vec<f64> {
        let mut waits = self.counts.waits.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::mem::take(&mut *waits).into_iter().map(|micros| micros as f64 / 1e6).collect()
    }

    pub(super) async fn leave(mut self) {
        self.orders.send_replace(Order::Leave);
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Member {
    fn new(tag: u32, number: usize, pace: Pace, capacity: u16, counts: Arc<Counts>) -> anyhow::Result<Self> {
        let pair = key_pair()?;
        let key = pair.public_key().as_ref().try_into().context("an Ed25519 key has 32 bytes")?;
        let settings = slave::Settings {
            name: format!("swarm-{tag:08x}-{number:05}"),
            agent: env!("CARGO_PKG_VERSION").to_owned(),
            key: SlaveKey(key),
            capacity,
            deferred_capacity: 0,
            ..settings()
        };
        let state = slave::recover(settings, StoreId(entropy::random()), []);
        let boot = BootId(entropy::random());
        let mut member = Self { pair, state: Some(state), born: Instant::now(), pace, links: 0, counts };
        let started = slave::Event::AgentStarted {
            boot,
            fingerprint: None,
            known_key: false,
            next_store: StoreId(entropy::random()),
            damage: slave::Damage::default(),
            unfit: Default::default(),
        };
        let mut unsent = Vec::new();
        member.step(started, &mut unsent, None);
        Ok(member)
    }

    fn now(&self) -> Now {
        let boot_ms = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now { wall: Time(clock::wall_ms()), boot_ms, synchronized: false }
    }

    /// Steps the event and every machine fact that follows from it. Returns false if the link is to end.
    fn step(&mut self, event: slave::Event, unsent: &mut Vec<Vec<u8>>, nonce: Option<[u8; 32]>) -> bool {
        let mut events = VecDeque::from([event]);
        let mut stays = true;
        while let Some(event) = events.pop_front() {
            let Some(state) = self.state.take() else { return false };
            let slave::Step { state, effects, .. } = slave::step(state, self.now(), event);
            self.state = Some(state);
            for effect in effects {
                match effect {
                    slave::Effect::Send { session, message, .. } => {
                        if matches!(message, Message::Report(_)) {
                            self.counts.reports.fetch_add(1, Ordering::Relaxed);
                        }
                        let signature = self.signature(&message, nonce);
                        unsent.push(wire::encode(&Frame { session, commit: Commit(0), message, signature }));
                    }
                    slave::Effect::Close { .. } => stays = false,
                    slave::Effect::Start { work, .. } => {
                        self.counts.begun.fetch_add(1, Ordering::Relaxed);
                        events.push_back(slave::Event::Machine { work, fact: Fact::Started });
                        if self.pace == Pace::Instant {
                            events.push_back(slave::Event::Machine { work, fact: Fact::Ended(succeeded()) });
                        }
                    }
                    slave::Effect::CheckMachine { .. } => {
                        events.push_back(slave::Event::MachineChecked(Ok(())))
                    }
                    slave::Effect::Probe { work, .. } => {
                        let alive = Probed::Alive { paused: false, permille: None };
                        events.push_back(slave::Event::Machine { work, fact: Fact::Probed(alive) });
                    }
                    slave::Effect::Stop { .. }
                    | slave::Effect::Pause(_)
                    | slave::Effect::Resume(_)
                    | slave::Effect::Dismiss(_)
                    | slave::Effect::ReadLog { .. }
                    | slave::Effect::ForgetToken
                    | slave::Effect::Reply { .. }
                    | slave::Effect::Ignored(_) => {}
                }
            }
        }
        stays
    }

    fn signature(&self, message: &Message, nonce: Option<[u8; 32]>) -> Option<Signature> {
        let (Message::Hello(hello), Some(nonce)) = (message, nonce) else { return None };
        let signature = self.pair.sign(&wire::signed_bytes(&nonce, hello));
        let (mut first, mut second) = ([0; 32], [0; 32]);
        let (head, tail) = signature.as_ref().split_at(32);
        first.copy_from_slice(head);
        second.copy_from_slice(tail);
        Some(Signature(first, second))
    }

    fn is_live(&self) -> bool {
        self.state.as_ref().is_some_and(|state| matches!(state.link, Link::Live { .. }))
    }
}

async fn live(
    mut member: Member,
    addr: SocketAddr,
    mut orders: watch::Receiver<Order>,
    mut pulses: mpsc::Receiver<Pulse>,
) {
    // A wait begins with the order, and lasts until a dial has succeeded.
    let mut waiting: Option<(Order, Instant)> = None;
    loop {
        let Ok(order) = orders.wait_for(|order| *order != Order::Rest).await.map(|order| *order) else {
            return;
        };
        if order == Order::Leave {
            return;
        }
        orders.mark_unchanged();
        if waiting.is_none_or(|(round, _)| round != order) {
            waiting = Some((order, Instant::now()));
        }
        let since = waiting.map_or_else(Instant::now, |(_, since)| since);
        match dial(addr).await {
            Ok(socket) => {
                member.links += 1;
                let id = LinkId(member.links);
                talk(&mut member, id, socket, since, &mut orders, &mut pulses).await;
            }
            // The master is not up yet. A real slave waits longer.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

async fn dial(addr: SocketAddr) -> anyhow::Result<WebSocketStream<TcpStream>> {
    let tcp = TcpStream::connect(addr).await?;
    tcp.set_nodelay(true)?;
    let uri = format!("ws://{addr}{PATH}").parse()?;
    let request = ClientRequestBuilder::new(uri).with_sub_protocol(SUBPROTOCOL);
    Ok(client_async_with_config(request, tcp, Some(link::config())).await?.0)
}

/// Runs one link to its end.
async fn talk(
    member: &mut Member,
    link: LinkId,
    mut socket: WebSocketStream<TcpStream>,
    since: Instant,
    orders: &mut watch::Receiver<Order>,
    pulses: &mut mpsc::Receiver<Pulse>,
) {
    let counts = Arc::clone(&member.counts);
    let (mut unsent, mut made) = (Vec::new(), Vec::new());
    let mut nonce = None;
    let mut live = false;
    member.step(slave::Event::LinkOpened { link, token: None }, &mut unsent, None);
    loop {
        let stays = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(WsMessage::Binary(bytes))) => {
                    counts.received.fetch_add(framed(bytes.len(), false), Ordering::Relaxed);
                    match wire::decode::<Frame>(&bytes, wire::MAX_MESSAGE) {
                        Ok(frame) => {
                            heard(member, link, frame, &mut nonce, &mut unsent)
                        }
                        Err(_) => false,
                    }
                }
                Some(Ok(WsMessage::Close(_)) | Err(_)) | None => false,
                Some(Ok(_)) => true,
            },
            Some(pulse) = pulses.recv() => progress(member, pulse, &mut made, &mut unsent),
            changed = orders.changed() => {
                changed.is_ok() && matches!(*orders.borrow_and_update(), Order::Connect(_))
            }
        };
        for bytes in unsent.drain(..) {
            counts.sent.fetch_add(framed(bytes.len(), true), Ordering::Relaxed);
            if socket.send(WsMessage::Binary(bytes.into())).await.is_err() {
                break;
            }
        }
        if !live && member.is_live() {
            live = true;
            counts.live.fetch_add(1, Ordering::Relaxed);
            counts.handshakes.fetch_add(1, Ordering::Relaxed);
            let wait = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX);
            counts.waits.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(wait);
        }
        if !stays {
            break;
        }
    }
    member.step(slave::Event::LinkClosed { link }, &mut unsent, None);
    if live {
        counts.live.fetch_sub(1, Ordering::Relaxed);
    }
}

fn heard(
    member: &mut Member,
    link: LinkId,
    frame: Frame,
    nonce: &mut Option<[u8; 32]>,
    unsent: &mut Vec<Vec<u8>>,
) -> bool {
    let Frame { session, commit, message, .. } = frame;
    match message {
        Message::Ping => {
            let pong = Frame { session, commit: Commit(0), message: Message::Pong, signature: None };
            unsent.push(wire::encode(&pong));
            true
        }
        Message::Pong => true,
        message => {
            if let Message::Challenge(challenge) = &message {
                *nonce = Some(challenge.nonce);
            }
            let event = slave::Event::Received { link, session, commit, message, unfit: BTreeMap::new() };
            member.step(event, unsent, *nonce)
        }
    }
}

fn progress(member: &mut Member, pulse: Pulse, made: &mut Vec<Vec<u8>>, unsent: &mut Vec<Vec<u8>>) -> bool {
    let jobs = member.state.iter().flat_map(|state| state.jobs.values());
    let running = jobs.into_iter().find(|job| job.report.state.is_executing());
    let Some(work) = running.map(slave::Job::work) else { return true };
    let mut tell = |fact, frames: &mut _| member.step(slave::Event::Machine { work, fact }, frames, None);
    match pulse {
        Pulse::Progress(from, to) => {
            (from..to).all(|permille| tell(Fact::Progressed { permille: Some(permille), note: None }, made))
        }
        Pulse::Send => {
            unsent.append(made);
            true
        }
        Pulse::End => tell(Fact::Ended(succeeded()), unsent),
    }
}

/// Bytes of a message on the wire (RFC 6455, section 5.2), with its header and the mask that clients use.
fn framed(payload: usize, masked: bool) -> u64 {
    let header = match payload {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    };
    (payload + header + if masked { 4 } else { 0 }) as u64
}

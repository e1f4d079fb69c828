//! The faulty network between plain sockets: the scenarios rely on what it promises.

#![cfg(test)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use reloop_rig::nginx::Nginx;
use reloop_rig::proxy::{Close, Counts, Direction, Proxy};
use reloop_rig::raw;
use reloop_rig::wait::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// What has not happened on this machine after this time will not happen.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long nothing must happen to show that nothing does.
const SILENCE: Duration = Duration::from_millis(300);

const HEAD: &[u8] = b"GET /v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";

/// A server that returns what it gets.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let (mut from, mut to) = socket.split();
                let _broken_connections_are_what_is_tested = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    addr
}

/// A server that passes each connection to the test.
async fn raw_server() -> (SocketAddr, mpsc::UnboundedReceiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (tx, rx) = mpsc::unbounded_channel();
    tokio::spawn(async move { while tx.send(listener.accept().await.unwrap().0).is_ok() {} });
    (addr, rx)
}

/// The next connection that reached the master.
async fn taken(accepted: &mut mpsc::UnboundedReceiver<TcpStream>) -> TcpStream {
    timeout(DEADLINE, accepted.recv()).await.expect("a connection at the master").unwrap()
}

async fn connect(proxy: &Proxy) -> TcpStream {
    TcpStream::connect(proxy.addr()).await.unwrap()
}

/// A proxy before a server that passes each connection to the test.
async fn raw_proxy() -> (Proxy, mpsc::UnboundedReceiver<TcpStream>) {
    let (upstream, accepted) = raw_server().await;
    (Proxy::start(upstream), accepted)
}

/// Both ends of a new connection: the slave's and the master's.
async fn connected(
    proxy: &Proxy,
    accepted: &mut mpsc::UnboundedReceiver<TcpStream>,
) -> (TcpStream, TcpStream) {
    (connect(proxy).await, taken(accepted).await)
}

async fn read_exactly(socket: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut bytes = vec![0; n];
    timeout(DEADLINE, socket.read_exact(&mut bytes)).await.expect("the bytes in time").unwrap();
    bytes
}

/// Everything up to the orderly end of the stream.
async fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    timeout(DEADLINE, socket.read_to_end(&mut bytes)).await.expect("an end of the stream").unwrap();
    bytes
}

async fn is_silent(socket: &mut TcpStream) -> bool {
    timeout(SILENCE, socket.read_u8()).await.is_err()
}

/// A WebSocket frame of a client (masked) or a server. Line ends inside its payload must not be taken for the end of an
/// HTTP head.
fn frame(payload: usize, masked: bool) -> Vec<u8> {
    let payload: Vec<u8> = b"\r\n\r\n".iter().cycle().take(payload).copied().collect();
    raw::frame(raw::FIN | raw::BINARY, masked, payload.len() as u64, &payload)
}

#[tokio::test]
async fn a_passing_proxy_carries_bytes_both_ways_and_counts_them() {
    let proxy = Proxy::start(echo_server().await);
    let mut socket = connect(&proxy).await;
    let big: Vec<u8> = (0..300_000_u32).map(|i| i as u8).collect();
    let (mut from, mut to) = socket.split();
    let send = async {
        to.write_all(&big).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut back = Vec::new();
    let (_, read) =
        timeout(DEADLINE, async { tokio::join!(send, from.read_to_end(&mut back)) }).await.unwrap();
    read.unwrap();
    assert_eq!(back, big);
    let counts = proxy.wait_until("the connection's end", |counts| counts.open == 0).await;
    let expected =
        Counts { connections: 1, bytes_to_master: 300_000, bytes_to_slave: 300_000, ..Counts::default() };
    assert_eq!(counts, expected);
}

#[tokio::test]
async fn an_orderly_cut_ends_the_stream_for_both_sides_and_refuses_until_pass() {
    let (proxy, mut accepted) = raw_proxy().await;
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    slave.write_all(b"before").await.unwrap();
    assert_eq!(read_exactly(&mut master, 6).await, b"before");

    proxy.cut(Close::Fin);
    assert_eq!(read_to_end(&mut slave).await, b"");
    assert_eq!(read_to_end(&mut master).await, b"");
    let refused = TcpStream::connect(proxy.addr()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    proxy.pass();
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    slave.write_all(b"after").await.unwrap();
    assert_eq!(read_exactly(&mut master, 5).await, b"after");
    assert_eq!(proxy.counts().connections, 2);
}

#[tokio::test]
async fn a_hard_cut_resets_both_sides() {
    let (proxy, mut accepted) = raw_proxy().await;
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    proxy.cut(Close::Reset);
    for socket in [&mut slave, &mut master] {
        let end = timeout(DEADLINE, socket.read_u8()).await.expect("a reset").unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_half_open_connection_swallows_everything_and_neither_end_notices() {
    let (proxy, mut accepted) = raw_proxy().await;
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    slave.write_all(b"up").await.unwrap();
    assert_eq!(read_exactly(&mut master, 2).await, b"up");

    proxy.half_open();
    slave.write_all(b"lost").await.unwrap();
    master.write_all(b"lost too").await.unwrap();
    assert!(is_silent(&mut master).await);
    assert!(is_silent(&mut slave).await);
    let mut newcomer = connect(&proxy).await;
    newcomer.write_all(b"lost as well").await.unwrap();
    proxy.wait_for_connections(2).await;
    assert!(is_silent(&mut newcomer).await);
    assert!(accepted.try_recv().is_err(), "the master must not hear of a connection that is born half-open");
    drop(slave);
    assert!(is_silent(&mut master).await, "the master must not learn that the slave's socket is closed");

    proxy.pass();
    master.write_all(b"still lost").await.unwrap();
    assert!(is_silent(&mut newcomer).await);
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    slave.write_all(b"through").await.unwrap();
    assert_eq!(read_exactly(&mut master, 7).await, b"through");
    let counts =
        proxy.wait_until("the first and the last word", |counts| counts.bytes_to_master >= 2 + 7).await;
    assert_eq!((counts.bytes_to_master, counts.bytes_to_slave), (2 + 7, 0));
}

#[tokio::test]
async fn a_delay_holds_back_and_keeps_order_and_ends_when_it_is_lifted() {
    let proxy = Proxy::start(echo_server().await);
    let mut socket = connect(&proxy).await;
    let delay = Duration::from_millis(150);
    proxy.delay(delay);
    let begun = Instant::now();
    socket.write_all(b"first ").await.unwrap();
    says_back_after(&mut socket, b"second", b"first second").await;
    assert!(begun.elapsed() >= 2 * delay, "one delay each way: {:?}", begun.elapsed());

    proxy.delay(Duration::from_secs(3600));
    socket.write_all(b"stuck").await.unwrap();
    assert!(is_silent(&mut socket).await);
    proxy.pass();
    assert_eq!(read_exactly(&mut socket, 5).await, b"stuck");
}

async fn says_back_after(socket: &mut TcpStream, bytes: &[u8], expected: &[u8]) {
    socket.write_all(bytes).await.unwrap();
    assert_eq!(read_exactly(socket, expected.len()).await, expected);
}

#[tokio::test]
async fn a_throttle_limits_the_rate_and_loses_nothing() {
    let (proxy, mut accepted) = raw_proxy().await;
    proxy.throttle(20_000);
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    let begun = Instant::now();
    let sent: Vec<u8> = (0..10_000_u32).map(|i| i as u8).collect();
    slave.write_all(&sent).await.unwrap();
    assert_eq!(read_exactly(&mut master, sent.len()).await, sent);
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400), "10,000 bytes at 20,000 per second came in {took:?}");

    proxy.throttle(1);
    slave.write_all(&sent).await.unwrap();
    proxy.wait_until("the slow start", |counts| counts.bytes_to_master > 10_000).await;
    proxy.pass();
    assert_eq!(
        read_exactly(&mut master, sent.len()).await,
        sent,
        "bytes pass at once when a throttle is lifted"
    );
}

#[tokio::test]
async fn a_planned_cut_lets_exactly_that_many_bytes_through() {
    let (proxy, mut accepted) = raw_proxy().await;
    for n in [0, 1, 7, 20_000] {
        proxy.cut_after(Direction::ToMaster, n as u64);
        let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
        slave.write_all(&vec![7; 30_000]).await.unwrap();
        assert_eq!(read_to_end(&mut master).await.len(), n);
        assert_eq!(read_to_end(&mut slave).await, b"");

        proxy.cut_after(Direction::ToSlave, n as u64);
        let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
        master.write_all(&vec![7; 30_000]).await.unwrap();
        assert_eq!(read_to_end(&mut slave).await.len(), n);
        assert_eq!(read_to_end(&mut master).await, b"");
    }
    says_back_once_uncut(&proxy, &mut accepted).await;
}

/// A planned cut applies to one connection: the next one works.
async fn says_back_once_uncut(proxy: &Proxy, accepted: &mut mpsc::UnboundedReceiver<TcpStream>) {
    let (mut slave, mut master) = connected(proxy, accepted).await;
    slave.write_all(&[1; 40_000]).await.unwrap();
    read_exactly(&mut master, 40_000).await;
    master.write_all(&[2; 40_000]).await.unwrap();
    read_exactly(&mut slave, 40_000).await;
}

#[tokio::test]
async fn an_orderly_cut_is_orderly_for_a_peer_that_is_still_talking() {
    let (proxy, mut accepted) = raw_proxy().await;
    // More than the slave's side of the network takes at once, so that a part is still on its way at the cut.
    proxy.cut_after(Direction::ToSlave, 500_000);
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    master.write_all(&vec![7; 600_000]).await.unwrap();
    assert_eq!(read_to_end(&mut master).await, b"");
    slave.write_all(&[1; 40_000]).await.unwrap();
    assert_eq!(read_to_end(&mut slave).await.len(), 500_000);
}

#[tokio::test]
async fn a_cut_at_a_frame_falls_on_its_border_whatever_its_length() {
    let (proxy, mut accepted) = raw_proxy().await;
    let frames: Vec<Vec<u8>> =
        [5, 0, 125, 126, 70_000].into_iter().map(|payload| frame(payload, true)).collect();
    let stream: Vec<u8> = HEAD.iter().chain(frames.iter().flatten()).copied().collect();
    for n in 1..=frames.len() {
        for before in [false, true] {
            proxy.cut_after_frame(Direction::ToMaster, n as u64, before);
            let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
            slave.write_all(&stream).await.unwrap();
            let whole = if before { n - 1 } else { n };
            let expected = HEAD.len() + frames[..whole].iter().map(Vec::len).sum::<usize>();
            assert_eq!(read_to_end(&mut master).await, stream[..expected], "frame {n}, before: {before}");
        }
    }
    let expected = (1..=5).flat_map(|n| [n, n - 1]).sum::<u64>();
    let counts = proxy.wait_until("the last connection's end", |counts| counts.open == 0).await;
    assert_eq!(counts.frames(Direction::ToMaster), expected);
}

#[tokio::test]
async fn a_cut_at_the_frame_zero_falls_behind_the_upgrade() {
    let (proxy, mut accepted) = raw_proxy().await;
    proxy.cut_after_frame(Direction::ToMaster, 0, false);
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    slave.write_all(&[HEAD, &frame(5, true)].concat()).await.unwrap();
    assert_eq!(read_to_end(&mut master).await, HEAD);
}

#[tokio::test]
async fn frames_are_counted_in_both_directions_even_when_they_come_byte_by_byte() {
    let (proxy, mut accepted) = raw_proxy().await;
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    for byte in HEAD.iter().chain(&frame(3, true)).chain(&frame(200, true)) {
        slave.write_all(&[*byte]).await.unwrap();
    }
    let answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
    master.write_all(&[answer, frame(9, false).as_slice()].concat()).await.unwrap();
    let counts = proxy
        .wait_until("two frames up and one down", |c| c.frames_to_master >= 2 && c.frames_to_slave >= 1)
        .await;
    assert_eq!((counts.frames_to_master, counts.frames_to_slave), (2, 1));
}

#[tokio::test]
async fn an_answer_that_refuses_the_upgrade_has_no_frames() {
    let (proxy, mut accepted) = raw_proxy().await;
    let (mut slave, mut master) = connected(&proxy, &mut accepted).await;
    let answer = b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n\r\n\x82\x00\x82\x00";
    master.write_all(answer).await.unwrap();
    assert_eq!(read_exactly(&mut slave, answer.len()).await, answer);
    assert_eq!(proxy.counts().frames_to_slave, 0);
}

#[tokio::test]
async fn a_dead_master_behind_the_proxy_resets_the_connection_and_a_closing_one_ends_it() {
    let (proxy, mut accepted) = raw_proxy().await;
    let mut slave = connect(&proxy).await;
    drop(taken(&mut accepted).await);
    assert_eq!(read_to_end(&mut slave).await, b"");

    let nobody = SocketAddr::from(([127, 0, 0, 1], reloop_rig::daemon::free_port()));
    proxy.redirect(nobody);
    // The reset may come while the connection is being made.
    let end = match TcpStream::connect(proxy.addr()).await {
        Ok(mut slave) => timeout(DEADLINE, slave.read_u8()).await.expect("an end").unwrap_err(),
        Err(end) => end,
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
#[should_panic(expected = "waited 50ms for: the impossible\nlast seen: 7")]
async fn a_wait_that_fails_names_the_condition_and_what_was_seen_last() {
    eventually("the impossible", Duration::from_millis(50), async || Err::<(), _>(7)).await;
}

#[tokio::test]
async fn the_shipped_nginx_site_carries_links_and_events_and_strips_what_clients_claim() {
    let (upstream, mut accepted) = raw_server().await;
    let Some(nginx) = Nginx::start(upstream.port()).await else { return };
    let claims = "X-Forwarded-For: 6.6.6.6\r\nClient-Cert: :forged:\r\n";

    let mut slave = TcpStream::connect(nginx.addr()).await.unwrap();
    let request = format!(
        "GET /v1/link HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{claims}\r\n"
    );
    slave.write_all(request.as_bytes()).await.unwrap();
    let mut master = taken(&mut accepted).await;
    let head = read_head(&mut master).await.to_ascii_lowercase();
    assert!(head.contains("upgrade: websocket") && head.contains("connection: upgrade"), "{head}");
    assert!(head.contains("x-forwarded-for: 127.0.0.1\r\n") && !head.contains("forged"), "{head}");
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    master.write_all(answer.as_bytes()).await.unwrap();
    assert!(read_head(&mut slave).await.starts_with("HTTP/1.1 101 "));
    slave.write_all(&frame(200, true)).await.unwrap();
    assert_eq!(read_exactly(&mut master, frame(200, true).len()).await, frame(200, true));
    master.write_all(&frame(9, false)).await.unwrap();
    assert_eq!(read_exactly(&mut slave, frame(9, false).len()).await, frame(9, false));

    let mut client = TcpStream::connect(nginx.addr()).await.unwrap();
    let request = format!("GET /v1/events HTTP/1.1\r\nHost: x\r\n{claims}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut master = taken(&mut accepted).await;
    let head = read_head(&mut master).await.to_ascii_lowercase();
    assert!(!head.contains("connection:") && !head.contains("forged"), "{head}");
    let answer = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\nid: 1\ndata: {}\n\n";
    master.write_all(answer.as_bytes()).await.unwrap();
    let mut seen = String::new();
    while !seen.contains("data: {}\n\n") {
        let mut chunk = [0; 1024];
        let n = timeout(DEADLINE, client.read(&mut chunk)).await.expect("the event at once").unwrap();
        assert_ne!(n, 0, "the stream ended with {seen}");
        seen.push_str(std::str::from_utf8(&chunk[..n]).unwrap());
    }
}

async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(timeout(DEADLINE, socket.read_u8()).await.expect("a whole head").unwrap());
    }
    String::from_utf8(head).unwrap()
}

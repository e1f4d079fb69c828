//! Connections of anyone who can reach the master's port: each has a deadline, and however many there are, clients are
//! answered and slaves can connect.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::time::Duration;

use reloop_rig::client::Client;
use reloop_rig::factory::{Factory, work};
use reloop_rig::nginx::Nginx;
use reloop_rig::process::MasterOptions;
use reloop_rig::wait::{PATIENCE, eventually};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep_until, timeout};

/// The usual limit that a shell gives its programs.
const DESCRIPTORS: usize = 1024;
/// How soon a client is answered by a master without free descriptors: a second until silent connections are closed,
/// and the rest for a busy box. It is less than the deadline of a silent connection.
const RECOVERY: Duration = Duration::from_secs(8);
/// Longer than the master waits for a request's head.
const LONG_IDLE: Duration = Duration::from_secs(12);
/// Between two bytes of a peer that never finishes.
const DRIP: Duration = Duration::from_millis(500);

const GET: &[u8] = b"GET /assets/app.js HTTP/1.1\r\nHost: m\r\n\r\n";

/// Waits until the master has closed this connection.
async fn is_closed(stream: &mut TcpStream, who: &str) {
    let mut bytes = [0; 4096];
    let closed = async { while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {} };
    timeout(PATIENCE, closed).await.unwrap_or_else(|_| panic!("{who} is waited for"));
}

#[tokio::test]
async fn strangers_that_take_every_descriptor_keep_nobody_out() {
    // This process needs as many, and some more.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let wrapper = ["prlimit".to_owned(), format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}")].to_vec();
    let mut f = Factory::empty(MasterOptions { wrapper, ..MasterOptions::default() }).await;
    let mut strangers = Vec::new();
    for number in 0..DESCRIPTORS + 76 {
        let mut stranger = TcpStream::connect(f.master.addr()).await.unwrap();
        // Half of them are silent from the beginning, the others after an answer.
        if number % 2 == 0 {
            stranger.write_all(b"GET /livez HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
        }
        strangers.push(stranger);
    }
    let begun = Instant::now();
    eventually("an answer", PATIENCE, async || f.client.livez().await).await.expect(200);
    assert!(begun.elapsed() < RECOVERY, "after {:?}", begun.elapsed());
    f.add(|_| {}).await;
    f.done(work("one", 0.0)).await;
    assert_eq!(f.master.log().matches("new connections have to wait").count(), 1, "it is logged once");
}

#[tokio::test]
async fn who_sends_nothing_or_no_end_or_reads_nothing_is_dropped() {
    let f = Factory::empty(MasterOptions::default()).await;
    let connect = async || TcpStream::connect(f.master.addr()).await.unwrap();
    let silent = async { is_closed(&mut connect().await, "who says nothing").await };
    let drip = async |first: &[u8], who: &str| {
        let (mut read, mut write) = connect().await.into_split();
        write.write_all(first).await.unwrap();
        let dripping = async {
            let mut ticks = interval(DRIP);
            loop {
                ticks.tick().await;
                if write.write_all(b"x").await.is_err() {
                    return;
                }
            }
        };
        let mut bytes = Vec::new();
        let ended = async {
            // The first request may be answered or not; then the connection ends.
            let _ = read.read_to_end(&mut bytes).await;
        };
        timeout(PATIENCE, async {
            tokio::select! { () = dripping => {}, () = ended => {} }
        })
        .await
        .unwrap_or_else(|_| panic!("{who} is waited for"));
    };
    let slow_head = drip(b"GET /livez HTTP/1.1\r\nx-long: ", "who never ends a head");
    let second_head = drip(
        b"GET /livez HTTP/1.1\r\nHost: m\r\n\r\nGET /livez HTTP/1.1\r\nx-long: ",
        "who never ends a second head",
    );
    let slow_upgrade = drip(
        b"GET /v1/link HTTP/1.1\r\nUpgrade: websocket\r\nConnection: upgrade\r\nx-long: ",
        "who never ends an upgrade",
    );
    let unread = async {
        let mut stream = connect().await;
        // First until the buffers are full, then until the master closes the connection.
        let writing = async { while stream.write_all(GET).await.is_ok() {} };
        timeout(PATIENCE * 2, writing).await.expect("who reads nothing is waited for");
    };
    tokio::join!(silent, slow_head, second_head, slow_upgrade, unread);
    f.client.livez().await.unwrap().expect(200);
}

#[tokio::test]
async fn a_connection_that_was_idle_takes_the_next_request() {
    let f = Factory::empty(MasterOptions::default()).await;
    let mut events = f.client.events().await.unwrap();
    let mut stream = TcpStream::connect(f.master.addr()).await.unwrap();
    let mut ask = async || {
        stream.write_all(b"GET /livez HTTP/1.1\r\nHost: m\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let read = timeout(PATIENCE, stream.read_buf(&mut answer)).await.unwrap().unwrap();
            assert!(read > 0, "closed after {:?}", String::from_utf8_lossy(&answer));
        }
    };
    ask().await;
    sleep_until(Instant::now() + LONG_IDLE).await;
    ask().await;
    // A stream that is read stays open.
    let job = f.place(work("told", 0.0)).await;
    let heard = async { while events.next().await.unwrap().expect("it goes on")["id"] != job.as_str() {} };
    timeout(PATIENCE, heard).await.unwrap();
}

#[tokio::test]
async fn no_request_is_lost_between_a_proxy_and_a_master_that_both_let_go_of_idle_connections() {
    /// As many connections as the shipped site keeps to the master.
    const CLIENTS: u64 = 16;
    const ROUNDS: u64 = 20;
    /// How long the proxy keeps an idle connection; the master keeps it longer, in the shipped proportion.
    const PROXY_IDLE: Duration = Duration::from_millis(600);
    const MASTER_IDLE: &str = "0.75";
    let config = format!("http.idle_seconds = {MASTER_IDLE}");
    let f = Factory::empty(MasterOptions { config, ..MasterOptions::default() }).await;
    let Some(nginx) = Nginx::start_with(f.master.addr().port(), Some(PROXY_IDLE)).await else { return };
    let through = Client::new(nginx.addr(), Some(f.master.admin_token()));
    let clients = (0..CLIENTS).map(|number| {
        let through = through.clone();
        tokio::spawn(async move {
            // From 20 ms before an idle connection's end to 20 ms after it.
            let pause = PROXY_IDLE + Duration::from_millis(number * 40 / CLIENTS) - Duration::from_millis(20);
            let mut statuses = Vec::new();
            for _ in 0..ROUNDS {
                let order = json!({ "program": "none" });
                statuses.push(through.place(&order, None).await.unwrap().status);
                sleep_until(Instant::now() + pause).await;
            }
            statuses
        })
    });
    let mut lost = 0;
    for client in clients.collect::<Vec<_>>() {
        lost += client.await.unwrap().into_iter().filter(|status| *status != 201).count();
    }
    assert_eq!(lost, 0, "of {}", CLIENTS * ROUNDS);
}

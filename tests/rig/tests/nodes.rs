//! The rig does not mistake another program for its own node.
#![cfg(test)]

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;

use reloop_rig::process::{Master, MasterOptions};

/// A server that says yes to everything, as a live master does.
fn impostor(listener: TcpListener) {
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let head = BufReader::new(stream.try_clone().unwrap()).lines();
        head.take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty())).for_each(drop);
        // Fails if the client has gone.
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nconnection: close\r\n\r\nok\n");
    }
}

#[tokio::test]
async fn another_program_on_a_masters_port_is_not_taken_for_the_master() {
    let mut master = Master::start(MasterOptions::default()).await;
    master.kill();
    let listener = TcpListener::bind(master.addr()).unwrap();
    std::thread::spawn(|| impostor(listener));
    let ended = master.try_restart().await.expect_err("its port is taken");
    assert!(!ended.success(), "{ended}");
    assert!(master.log().contains("in use"), "{}", master.log());
}

//! The command line against a real master, and against one whose certificate only a given file vouches for.
#![cfg(test)]

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use reloop_rig::daemon::{binary, free_port};
use reloop_rig::factory::job_of;
use reloop_rig::process::{Master, MasterOptions};
use reloop_rig::wait::{PATIENCE, eventually};
use serde_json::json;

async fn reloop(master: &str, token_file: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary("reloop"));
    command.args(["--master", master, "--token-file"]).arg(token_file).args(words).stdin(Stdio::null());
    command.env_remove("RELOOP_CA_FILE");
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn a_job_is_rescheduled_and_what_is_not_given_no_longer_counts() {
    let master = Master::start(MasterOptions::default()).await;
    let client = master.client();
    let start =
        json!({ "not_before": "2090-01-01T06:00:00Z", "deadline": "2090-01-02T06:00:00Z", "late": "skip" });
    let order = client.place(&json!({ "program": "bake", "start": start }), None).await.unwrap().expect(201);
    let job = &job_of(&order);
    let (url, token) = (format!("http://{}", master.addr()), master.data_dir().join("admin.token"));

    let later = ["job", "reschedule", job, "--not-before", "2091-01-01T06:00:00Z", "--late", "run"];
    let output = reloop(&url, &token, &later).await;
    assert!(output.status.success(), "{}", words(&output));
    assert!(words(&output).contains("reschedule: done; it is queued"), "{}", words(&output));
    let start = client.job(job).await.unwrap().expect(200);
    assert_eq!(
        (&start["not_before"], &start["deadline"], &start["late"]),
        (&json!("2091-01-01T06:00:00Z"), &json!(null), &json!("run"))
    );

    let output = reloop(&url, &token, &["job", "reschedule", job, "--deadline", "tomorrow"]).await;
    assert_eq!(output.status.code(), Some(2), "{}", words(&output));
    assert!(words(&output).contains("deadline"), "{}", words(&output));
}

fn openssl(dir: &Path, words: &str) {
    let output = Command::new("openssl").args(words.split(' ')).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Killed on drop.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Answers `GET /v1/orders` over TLS as a master does, with a certificate of an unknown authority.
async fn https(dir: &Path) -> (Server, u16) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(dir, &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=authority"));
    openssl(dir, &format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    std::fs::write(dir.join("names"), "subjectAltName=IP:127.0.0.1\n").unwrap();
    openssl(
        dir,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.pem",
    );
    std::fs::create_dir(dir.join("v1")).unwrap();
    let answer =
        "HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n{\"data\": [], \"next_cursor\": null}";
    std::fs::write(dir.join("v1/orders?limit=50"), answer).unwrap();
    let port = free_port();
    let server = Command::new("openssl")
        .args(["s_server", "-quiet", "-HTTP", "-cert", "server.pem", "-key", "server.key", "-accept"])
        .arg(format!("127.0.0.1:{port}"))
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the server to listen", PATIENCE, async || TcpStream::connect((Ipv4Addr::LOCALHOST, port)))
        .await;
    (Server(server), port)
}

#[tokio::test]
async fn a_certificate_that_the_system_does_not_know_is_trusted_by_a_file() {
    if Command::new("openssl").arg("version").stdout(Stdio::null()).status().is_err() {
        writeln!(std::io::stderr(), "left out: openssl missing").unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "secret").unwrap();
    let (_server, port) = https(dir.path()).await;
    let url = format!("https://127.0.0.1:{port}");

    let output = reloop(&url, &token, &["order", "ls"]).await;
    assert_eq!(output.status.code(), Some(6), "{}", words(&output));
    assert!(words(&output).contains("certificate"), "{}", words(&output));
    let file = dir.path().join("ca.pem");
    let output = reloop(&url, &token, &["order", "ls", "--ca-file", file.to_str().unwrap()]).await;
    assert_eq!(output.status.code(), Some(0), "{}", words(&output));

    for (wrong, text) in [("token", "there is none"), ("nowhere.pem", "No such file")] {
        let file = dir.path().join(wrong);
        let output = reloop(&url, &token, &["order", "ls", "--ca-file", file.to_str().unwrap()]).await;
        assert_eq!(output.status.code(), Some(2), "{}", words(&output));
        assert!(words(&output).contains(text) && words(&output).contains("PEM"), "{}", words(&output));
    }
}

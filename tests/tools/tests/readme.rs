//! Runs the blocks of README's "Run it" literally, each terminal in a shell of its own that exits at the first
//! command that fails.
//!
//! Two things differ from a fresh clone: the programs are built before, so `cargo` is a stand-in that only checks its
//! arguments, and the master listens on a free port instead of 7400.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use reloop_rig::client::Client;
use reloop_rig::daemon::{binary, free_port, workspace};
use reloop_rig::wait::eventually;
use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::{Value, json};

/// More than any command of the section takes on a busy box.
const PATIENCE: Duration = Duration::from_secs(60);
const SECTION: &str = "## Run it\n";
const FENCE: &str = "```sh terminal ";
/// The port that is printed, which the test replaces.
const PORT: &str = "7400";
/// Accepts the documented build command and nothing else.
const CARGO: &str = "#!/bin/sh\n[ \"$*\" = 'build --release' ]\n";

/// The blocks of README's section, by their terminal.
fn blocks() -> BTreeMap<u32, Vec<String>> {
    let readme = fs::read_to_string(workspace().join("README.md")).unwrap();
    let (_, section) = readme.split_once(SECTION).expect("README has the section");
    let section = section.split("\n## ").next().unwrap();
    let fences = section.lines().filter(|line| line.starts_with("```") && line.len() > 3).count();
    let mut blocks: BTreeMap<u32, Vec<String>> = BTreeMap::new();
    for block in section.split(FENCE).skip(1) {
        let (terminal, rest) = block.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n```").expect("a block ends");
        blocks.entry(terminal.trim().parse().unwrap()).or_default().push(text.to_owned());
    }
    assert_eq!(blocks.values().flatten().count(), fences, "a block of the section names no terminal");
    blocks
}

/// A shell that runs blocks, and everything that it started.
struct Terminal {
    child: Child,
    log: PathBuf,
}

impl Terminal {
    fn open(dir: &Path, name: u32, blocks: &[String], port: u16) -> Self {
        let log = dir.join(format!("terminal-{name}.log"));
        let output = File::create(&log).unwrap();
        // A wrong command ends the shell; `-x` shows each command before its output.
        let script = format!("set -ex\n{}\n", blocks.join("\n")).replace(PORT, &port.to_string());
        let mut command = Command::new("/bin/sh");
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("RELOOP_")) {
            command.env_remove(key);
        }
        command.args(["-c", &script]).current_dir(dir);
        command.env("PATH", format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap()));
        command.stdin(Stdio::null()).stdout(output.try_clone().unwrap()).stderr(output).process_group(0);
        Self { child: command.spawn().unwrap(), log }
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    #[track_caller]
    fn goes_on(&mut self) {
        if let Some(status) = self.ended() {
            panic!("the terminal ended: {status}\n{}", self.said());
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Fails if it has exited already.
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

/// A directory as after `git clone` and the build, with a `reloop` that uses this port.
fn clone(port: u16) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (built, bin) = (dir.path().join("target/release"), dir.path().join("bin"));
    fs::create_dir_all(&built).unwrap();
    fs::create_dir(&bin).unwrap();
    symlink(binary("reloop-slave"), built.join("reloop-slave")).unwrap();
    let at = format!("127.0.0.1:{port}");
    let reloop = binary("reloop");
    let told = format!("RELOOP_LISTEN={at} RELOOP_MASTER=http://{at} exec '{}' \"$@\"", reloop.display());
    for (path, text) in
        [(built.join("reloop"), format!("#!/bin/sh\n{told}\n")), (bin.join("cargo"), CARGO.to_owned())]
    {
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
}

fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let there = found.is_ok_and(|status| status.success());
    if !there {
        // Not `println`, which the test runner captures: it has to be visible that something was left out.
        writeln!(io::stderr(), "left out: the order by curl, which is not installed").unwrap();
    }
    there
}

async fn jobs(client: &Client, program: &str) -> Vec<Value> {
    let list = client.jobs("").await.unwrap().expect(200);
    list["data"].as_array().unwrap().iter().filter(|job| job["program"] == program).cloned().collect()
}

#[tokio::test]
async fn the_first_order_succeeds_as_it_is_printed() {
    let (mut blocks, port) = (blocks(), free_port());
    let dir = clone(port);
    assert_eq!(blocks.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    let with_curl = has_curl();
    if !with_curl {
        blocks.get_mut(&3).unwrap().retain(|block| !block.starts_with("curl "));
    }
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));

    let mut master = Terminal::open(dir.path(), 1, &blocks[&1], port);
    let stranger = Client::new(addr, None);
    eventually("the master to answer", PATIENCE, async || {
        master.goes_on();
        match stranger.readyz().await {
            Ok(ready) if ready.status == 200 => Ok(()),
            _ => Err(master.said()),
        }
    })
    .await;
    let token = fs::read_to_string(dir.path().join("data/admin.token")).unwrap();
    let client = Client::new(addr, Some(token.trim().to_owned()));

    let mut slave = Terminal::open(dir.path(), 2, &blocks[&2], port);
    eventually("the slave to be online", PATIENCE, async || {
        slave.goes_on();
        let seen = client.slave("mill-3").await.map_err(|error| error.to_string())?;
        if seen.body["link"] == "online" { Ok(()) } else { Err(slave.said()) }
    })
    .await;

    let mut orders = Terminal::open(dir.path(), 3, &blocks[&3], port);
    let status =
        eventually("the commands to end", PATIENCE, async || orders.ended().ok_or_else(|| orders.said()));
    let status = status.await;
    let said = orders.said();
    assert!(status.success(), "{status}\n{said}");
    assert!(said.contains("milling bracket.nc at 100"), "{said}");

    let by_cli_and_curl = eventually("every first order to succeed", PATIENCE, async || {
        let jobs = jobs(&client, "mill").await;
        if jobs.iter().all(|job| job["state"] == "succeeded") { Ok(jobs.len()) } else { Err(json!(jobs)) }
    })
    .await;
    assert_eq!(by_cli_and_curl, 1 + usize::from(with_curl));
    let deferred = jobs(&client, "bake").await;
    let states: Vec<_> = deferred.iter().map(|job| job["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["canceled"]);
}

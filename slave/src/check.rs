//! Checks everything that an agent needs, before one is started. Changes nothing.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use futures_util::StreamExt as _;
use reloop_node::clock::wall_ms;
use reloop_protocol::message::{Challenge, Message, PROTOCOL};
use reloop_protocol::wire::{self, Frame};
use rustix::fs::{Access, access};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite;

use crate::config::{Config, Program};
use crate::identity::{self, Identity};
use crate::link::Dialer;
use crate::run::store_dir;

/// The result of one check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What was checked.
    pub subject: String,
    /// What was found; or what is wrong with it, and what to do.
    pub found: Result<String, String>,
}

/// Checks everything, and dials the master for that.
pub async fn check(config: &Config) -> Vec<Finding> {
    let mut findings = vec![
        finding("state directory", state_dir(&config.state_dir)),
        finding("identity", identity(&config.state_dir)),
        finding("store", store(&config.state_dir)),
        finding(
            "boot id",
            config.boot_id().map(|_| "can be read".to_owned()).map_err(|error| error.to_string()),
        ),
        finding("enrolment token", token(config)),
    ];
    if config.programs.is_empty() {
        findings
            .push(finding("programs", Err("none: add a [programs.NAME] table to the settings".to_owned())));
    }
    for (name, program) in &config.programs {
        findings.push(finding(&format!("program {name}"), executable(program)));
    }
    findings.push(finding("master", master(config).await));
    findings
}

fn finding(subject: &str, found: Result<String, String>) -> Finding {
    Finding { subject: subject.to_owned(), found }
}

fn state_dir(dir: &Path) -> Result<String, String> {
    if !dir.exists() {
        let there = dir.ancestors().find(|ancestor| ancestor.is_dir()).unwrap_or(Path::new("/"));
        return match access(there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => Ok(format!("{} will be made", dir.display())),
            Err(error) => Err(format!("{} can't be made: {}: {error}", dir.display(), there.display())),
        };
    }
    match access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) => Ok(dir.display().to_string()),
        Err(error) => Err(format!("{}: {error}; give it to the user that runs the agent", dir.display())),
    }
}

fn identity(dir: &Path) -> Result<String, String> {
    match Identity::find(dir) {
        Ok(Some(identity)) => Ok(format!("key {}", identity.key().fingerprint())),
        Ok(None) => Ok("none yet: the first start makes it".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn store(dir: &Path) -> Result<String, String> {
    let path = store_dir(dir);
    let handle = match File::open(&path) {
        Ok(handle) => handle,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok("none yet: the first start makes it".to_owned());
        }
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    // An agent holds it exclusively. This lock is released at the end of the function.
    match handle.try_lock_shared() {
        Ok(()) => Ok(format!("{}, not in use", path.display())),
        Err(TryLockError::WouldBlock) => Ok(format!("{}, in use by a running agent", path.display())),
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", path.display())),
    }
}

fn token(config: &Config) -> Result<String, String> {
    match identity::token(&config.state_dir, config.enroll_token_file.as_deref()) {
        Ok(Some(_)) => Ok("there is one".to_owned()),
        Ok(None) => Ok("none: not needed once the slave is enrolled".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn executable(program: &Program) -> Result<String, String> {
    match program {
        Program::Simulated(_) => Ok("simulated".to_owned()),
        Program::Process(program) => program.check_executable().map(|path| path.display().to_string()),
    }
}

async fn master(config: &Config) -> Result<String, String> {
    let dialer = Dialer::new(config).map_err(|error| format!("{error:#}"))?;
    let mut socket = dialer.dial().await.map_err(|error| error.to_string())?;
    let challenge = challenge(&mut socket, config.link.handshake).await;
    // If this fails, the master sees the end of the connection anyway.
    let _ = timeout(config.link.handshake, socket.close(None)).await;
    let Challenge { protocol, master, epoch, time, .. } = challenge?;
    if PROTOCOL.common(protocol).is_none() {
        return Err(format!(
            "{master} speaks protocol {} to {}, and this slave {} to {}: upgrade the older one",
            protocol.oldest, protocol.newest, PROTOCOL.oldest, PROTOCOL.newest
        ));
    }
    let ahead = time.0.saturating_sub(wall_ms());
    Ok(format!("{master}, epoch {epoch}, at {}; its clock is {ahead} ms ahead of this box's", dialer.peer()))
}

async fn challenge(socket: &mut crate::link::Socket, patience: Duration) -> Result<Challenge, String> {
    let silent = |_| "it took the connection and says nothing: is a proxy in the way?".to_owned();
    let heard = async {
        loop {
            match socket.next().await {
                Some(Ok(tungstenite::Message::Binary(bytes))) => return Ok(bytes),
                Some(Ok(tungstenite::Message::Close(frame))) => {
                    let why = frame.map(|frame| frame.to_string()).unwrap_or_default();
                    return Err(format!("it closed the connection: {why}"));
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.to_string()),
                None => return Err("it ended the connection without a word".to_owned()),
            }
        }
    };
    let bytes = timeout(patience, heard).await.map_err(silent)??;
    match wire::decode_frame(&bytes, wire::MAX_HANDSHAKE) {
        Ok(Frame { message: Message::Challenge(challenge), .. }) => Ok(challenge),
        Ok(_) => Err("it does not begin with a Challenge: not a master of this version".to_owned()),
        Err(error) => Err(format!("its first words make no sense: {error}")),
    }
}

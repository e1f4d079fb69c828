//! Commands of people at the machine: a socket that only the agent's own user and root can use.
//!
//! One connection is one request: a line of JSON goes in, a line of JSON comes out. It works without a link, because only the
//! driver is asked.

use std::fs::{self, File, Permissions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as PlainStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reloop_protocol::id::JobId;
use reloop_protocol::job::End;
use reloop_protocol::slave::Local;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::Input;
use crate::status::Status;

const SOCKET: &str = "control.sock";
const DRAFT: &str = ".control.sock.draft";

/// The longest path that is used as it is. A socket's address has 108 bytes (unix(7)); a longer path is named through its
/// directory's descriptor.
const PATH_LIMIT: usize = 100;

/// The longest request in bytes. The longest that makes sense has some 100.
const REQUEST_LIMIT: u64 = 4096;

/// The longest answer in bytes: a status with 64 jobs of long parameters stays far below it.
const REPLY_LIMIT: u64 = 16 * 1024 * 1024;

/// How long the other side may take to send or read a line. Both are on this box.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the agent may take to do what was asked. A disk that needs longer for a write is stuck.
const DOING_PATIENCE: Duration = Duration::from_secs(10);

/// How long a caller waits: longer than all times of the agent together, because the agent's answer says what is wrong.
const CALL_PATIENCE: Duration = Duration::from_secs(30);

/// How long an agent that ends still answers requests that it has read.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// The pause after a connection that could not be accepted, for example because there are no more descriptors: an attempt at
/// once would fail again.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Connections at a time; others wait.
const CONNECTIONS: usize = 8;

/// What a person can ask of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Show the state of the slave.
    Status,
    /// The machine is clear of the last job.
    Ready,
    /// A person has looked at what needed attention.
    Clear,
    /// Pause the running job.
    Pause,
    /// Let the paused job go on.
    Resume,
    /// Stop the running job.
    Stop {
        /// At once, not at a safe point.
        #[serde(default)]
        now: bool,
    },
    /// Lock remote starts out, or let them in.
    Local {
        /// True locks remote starts out, false lets them in.
        on: bool,
    },
    /// Say how an uncertain job ended.
    Resolve {
        /// The job's id; may be left out if only one is uncertain.
        #[serde(default)]
        job: Option<String>,
        /// The outcome that the person has found.
        outcome: Resolution,
    },
    /// Dial the master now.
    Dial,
}

/// The outcome of an uncertain job, by a person who has looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Resolution {
    /// The work is done.
    Succeeded,
    /// The work failed.
    Failed,
    /// The work was broken off.
    Canceled,
}

/// The agent's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it was done.
    pub done: bool,
    /// What was done; or why it was not, and what would help.
    pub text: String,
    /// Only for [`Request::Status`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Box<Status>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody listens at this socket.
    #[error("the agent is not running: nobody listens at {}", .0.display())]
    NotRunning(PathBuf),
    /// The agent belongs to another user.
    #[error("{}: {why}; use the agent's own user, or root", path.display())]
    NotAllowed {
        /// The socket's path.
        path: PathBuf,
        /// Why the system does not let the caller connect.
        why: io::Error,
    },
    /// The agent ended while it was asked.
    #[error(
        "the agent ended before it answered, so it is not known whether this was done: its log says why it ended \
         (`journalctl -u reloop-slave@NAME`); ask for the status when it is back"
    )]
    Ended,
    /// The connection failed, or the answer makes no sense.
    #[error("the agent gave no answer: {0}")]
    NoAnswer(#[from] io::Error),
}

/// The path of the socket, for messages: it may be too long to be used as an address.
pub(crate) fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join(SOCKET)
}

/// A path that fits into a socket's address. It is valid while the returned file is open.
fn address(dir: &Path, name: &str) -> io::Result<(PathBuf, Option<File>)> {
    let path = dir.join(name);
    if path.as_os_str().len() <= PATH_LIMIT {
        return Ok((path, None));
    }
    let handle = File::open(dir)?;
    Ok((PathBuf::from(format!("/proc/self/fd/{}/{name}", handle.as_raw_fd())), Some(handle)))
}

/// Opens the socket. The caller holds the store, so a socket that is there already belongs to an agent that has ended.
pub(crate) fn listen(state_dir: &Path) -> io::Result<UnixListener> {
    let draft = state_dir.join(DRAFT);
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let (short, _dir) = address(state_dir, DRAFT)?;
    let listener = UnixListener::bind(short)?;
    // It gets its name when its mode is set, so that nobody else can connect before that.
    fs::set_permissions(&draft, Permissions::from_mode(0o600))?;
    fs::rename(&draft, socket_path(state_dir))?;
    Ok(listener)
}

fn unlink(state_dir: &Path) -> io::Result<()> {
    fs::remove_file(socket_path(state_dir))
}

/// Answers requests until `end`, and after that those of callers that had connected before.
pub(crate) async fn serve(
    state_dir: PathBuf,
    listener: UnixListener,
    inbox: mpsc::Sender<Input>,
    nudge: Arc<Notify>,
    end: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = TaskTracker::new();
    let take = |accepted: io::Result<UnixStream>, place: Option<OwnedSemaphorePermit>| {
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "a local command could not be accepted");
                return false;
            }
        };
        let (inbox, nudge) = (inbox.clone(), Arc::clone(&nudge));
        answers.spawn(async move {
            if let Err(error) = talk(stream, &inbox, &nudge).await {
                tracing::debug!(%error, "a local connection ended early");
            }
            drop(place);
        });
        true
    };
    let accepting = async {
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            if !take(listener.accept().await.map(|(stream, _)| stream), Some(place)) {
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    tokio::select! {
        () = accepting => {}
        () = end.cancelled() => {}
    }
    // A caller that comes from here on finds no socket, and knows that nothing was done.
    if let Err(error) = unlink(&state_dir) {
        tracing::debug!(%error, "the local socket stays behind");
    }
    // Callers that have connected and were not accepted yet.
    if let Ok(listener) = listener.into_std() {
        while let Ok((stream, _)) = listener.accept() {
            let stream = stream.set_nonblocking(true).and_then(|()| UnixStream::from_std(stream));
            take(stream, None);
        }
    }
    answers.close();
    if timeout(LAST_ANSWERS, answers.wait()).await.is_err() {
        tracing::debug!("a local connection outlives the agent");
    }
}

async fn talk(mut stream: UnixStream, inbox: &mpsc::Sender<Input>, nudge: &Notify) -> io::Result<()> {
    let caller = stream.peer_cred()?.uid();
    let allowed = caller == 0 || caller == rustix::process::geteuid().as_raw();
    let (read, mut write) = stream.split();
    let mut line = String::new();
    let mut read = tokio::io::BufReader::with_capacity(512, read.take(REQUEST_LIMIT));
    timeout(PATIENCE, read.read_line(&mut line)).await??;
    let answer = match serde_json::from_str(&line) {
        _ if !allowed => refused("only the agent's own user and root may do this".to_owned()),
        Ok(request) => timeout(DOING_PATIENCE, obey(request, inbox, nudge)).await.unwrap_or_else(|_| busy()),
        Err(error) => refused(format!("not a request: {error}")),
    };
    let mut bytes = serde_json::to_vec(&answer)?;
    bytes.push(b'\n');
    timeout(PATIENCE, write.write_all(&bytes)).await??;
    write.shutdown().await
}

async fn obey(request: Request, inbox: &mpsc::Sender<Input>, nudge: &Notify) -> Answer {
    let command = match request {
        Request::Status => {
            let (reply, replied) = oneshot::channel();
            if inbox.send(Input::Status(reply)).await.is_err() {
                return stopping();
            }
            return match replied.await {
                Ok(status) => Answer { done: true, text: String::new(), status: Some(Box::new(status)) },
                Err(_) => stopping(),
            };
        }
        Request::Dial => {
            nudge.notify_one();
            return Answer { done: true, text: "the master is tried now".to_owned(), status: None };
        }
        Request::Ready => Local::Ready,
        Request::Clear => Local::Clear,
        Request::Pause => Local::Pause,
        Request::Resume => Local::Resume,
        Request::Stop { now } => Local::Stop { now },
        Request::Local { on } => Local::Lock(on),
        Request::Resolve { job, outcome } => {
            let job = match job.map(|text| text.parse::<JobId>()).transpose() {
                Ok(job) => job,
                Err(error) => return refused(error.to_string()),
            };
            let end = match outcome {
                Resolution::Succeeded => End::Succeeded,
                Resolution::Failed => End::Failed,
                Resolution::Canceled => End::Stopped,
            };
            Local::Resolve { job, end }
        }
    };
    let (reply, replied) = oneshot::channel();
    if inbox.send(Input::Local(command, reply)).await.is_err() {
        return stopping();
    }
    match replied.await {
        Ok(Ok(text)) => Answer { done: true, text, status: None },
        Ok(Err(text)) => refused(text),
        Err(_) => stopping(),
    }
}

fn refused(text: String) -> Answer {
    Answer { done: false, text, status: None }
}

fn stopping() -> Answer {
    refused(
        "the agent is stopping: whether this was done is told by `reloop-slave status` when it is back"
            .to_owned(),
    )
}

fn busy() -> Answer {
    refused(format!(
        "the agent has not done it within {} s, because its disk is stuck or the box is overloaded: it may still be \
         done; look at the disk, and ask for the status",
        DOING_PATIENCE.as_secs()
    ))
}

/// Asks the agent of this state directory. Blocks.
///
/// # Errors
/// The agent is not running, belongs to another user, or does not answer.
pub fn call(state_dir: &Path, request: &Request) -> Result<Answer, CallError> {
    let path = socket_path(state_dir);
    let connected = address(state_dir, SOCKET).and_then(|(short, _dir)| PlainStream::connect(short));
    let mut stream = connected.map_err(|why| match why.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => CallError::NotRunning(path.clone()),
        ErrorKind::PermissionDenied => CallError::NotAllowed { path: path.clone(), why },
        _ => CallError::NoAnswer(why),
    })?;
    stream.set_read_timeout(Some(CALL_PATIENCE))?;
    stream.set_write_timeout(Some(CALL_PATIENCE))?;
    let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(ended)?;
    let mut reply = String::new();
    BufReader::new(stream.take(REPLY_LIMIT)).read_line(&mut reply).map_err(ended)?;
    if !reply.ends_with('\n') {
        return Err(CallError::Ended);
    }
    Ok(serde_json::from_str(&reply).map_err(io::Error::from)?)
}

/// A process that ends while it has not read everything resets the connection.
fn ended(error: io::Error) -> CallError {
    match error.kind() {
        ErrorKind::BrokenPipe | ErrorKind::ConnectionReset | ErrorKind::UnexpectedEof => CallError::Ended,
        _ => CallError::NoAnswer(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_plain_json() {
        let parse = |text: &str| serde_json::from_str::<Request>(text);
        assert_eq!(parse(r#"{"command":"status"}"#).unwrap(), Request::Status);
        assert_eq!(parse(r#"{"command":"stop"}"#).unwrap(), Request::Stop { now: false });
        let resolve = parse(r#"{"command":"resolve","outcome":"canceled"}"#).unwrap();
        assert_eq!(resolve, Request::Resolve { job: None, outcome: Resolution::Canceled });
        parse(r#"{"command":"stop","soon":true}"#).unwrap_err();
        parse(r#"{"command":"explode"}"#).unwrap_err();
    }

    #[tokio::test]
    async fn a_socket_below_a_long_path_can_be_opened_and_called() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("a".repeat(90)).join("b".repeat(90));
        fs::create_dir_all(&deep).unwrap();
        assert!(matches!(call(&deep, &Request::Status), Err(CallError::NotRunning(_))));
        for _ in 0..2 {
            // The second time there is the socket of the first, as after a crash.
            let listener = listen(&deep).unwrap();
            let mode = fs::metadata(socket_path(&deep)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
            let (inbox, _inputs) = mpsc::channel(1);
            let end = CancellationToken::new();
            let served = tokio::spawn(serve(deep.clone(), listener, inbox, Arc::default(), end));
            let (at, request) = (deep.clone(), Request::Dial);
            let answer = tokio::task::spawn_blocking(move || call(&at, &request)).await.unwrap().unwrap();
            assert!(answer.done, "{answer:?}");
            served.abort();
            assert!(served.await.unwrap_err().is_cancelled());
        }
    }

    /// Serves a socket. The inputs are those that reach the driver.
    fn served(dir: &Path) -> (mpsc::Receiver<Input>, CancellationToken, tokio::task::JoinHandle<()>) {
        let (inbox, inputs) = mpsc::channel(1);
        let end = CancellationToken::new();
        let listener = listen(dir).unwrap();
        let served = tokio::spawn(serve(dir.to_owned(), listener, inbox, Arc::default(), end.clone()));
        (inputs, end, served)
    }

    async fn ask(dir: &Path) -> Result<Answer, CallError> {
        let dir = dir.to_owned();
        tokio::task::spawn_blocking(move || call(&dir, &Request::Status)).await.unwrap()
    }

    #[tokio::test]
    async fn a_request_to_an_agent_that_decides_nothing_any_more_is_answered_with_that() {
        let dir = tempfile::tempdir().unwrap();
        let (mut inputs, _end, _served) = served(dir.path());
        let asking = tokio::spawn({
            let dir = dir.path().to_owned();
            async move { ask(&dir).await }
        });
        // The driver never answers, as if its disk were stuck.
        let _question = inputs.recv().await.unwrap();
        let answer = asking.await.unwrap().unwrap();
        assert!(!answer.done && answer.text.contains("disk is stuck"), "{answer:?}");
    }

    #[tokio::test]
    async fn callers_that_are_connected_when_the_agent_ends_are_answered_and_later_ones_find_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let (inputs, end, served) = served(dir.path());
        let (short, _dir) = address(dir.path(), SOCKET).unwrap();
        let mut early: Vec<_> = (0..2 * CONNECTIONS).map(|_| PlainStream::connect(&short).unwrap()).collect();
        drop(inputs);
        end.cancel();
        for stream in &mut early {
            stream.write_all(b"{\"command\":\"status\"}\n").unwrap();
        }
        served.await.unwrap();
        for mut stream in early {
            let mut line = String::new();
            stream.read_to_string(&mut line).unwrap();
            assert!(line.contains("the agent is stopping"), "{line:?}");
        }
        assert!(matches!(ask(dir.path()).await, Err(CallError::NotRunning(_))));
    }

    #[test]
    fn a_caller_is_told_that_the_agent_ended_in_the_middle_of_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        for said in ["", "{\"done\":tr"] {
            let path = socket_path(dir.path());
            let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
            let agent = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                stream.write_all(said.as_bytes()).unwrap();
            });
            let error = call(dir.path(), &Request::Status).unwrap_err();
            assert!(matches!(error, CallError::Ended), "{error:?}");
            assert!(error.to_string().contains("journalctl"), "{error}");
            agent.join().unwrap();
            fs::remove_file(&path).unwrap();
        }
    }
}

//! Follows jobs until they end. A master that does not answer is waited for: the jobs go on without it.

use std::io::IsTerminal as _;
use std::time::Duration;

use reloop_api::{Job, header};
use reloop_protocol::job::State;
use reloop_protocol::limits::LOG_BYTES;
use tokio::time::Instant;

use super::args::Output;
use super::client::{Answer, Client, Failure};
use super::table::{bar, clean, or_nothing, progress, state};
use super::{Exit, remark, say, write_out};

/// Pause between two looks: short enough for a person, and a hundred watchers are no load.
const EVERY: Duration = Duration::from_secs(1);
/// How much of a log is asked for at a time.
const LOG_PART: u64 = LOG_BYTES as u64;

/// Follows a job until it has ended.
pub(super) async fn watch(client: &Client, output: Output, id: &str) -> Result<Exit, Failure> {
    tokio::select! {
        result = show_until_ended(client, output, id) => result,
        () = interrupted() => Err(left_alone(&[id.to_owned()], "watch")),
    }
}

async fn show_until_ended(client: &Client, output: Output, id: &str) -> Result<Exit, Failure> {
    let redraws = output == Output::Table && std::io::stdout().is_terminal();
    let mut shown = String::new();
    let mut looker = Looker::new(client);
    loop {
        let Some(seen) = looker.look(id).await? else {
            tokio::time::sleep(EVERY).await;
            continue;
        };
        let now = jiff::Timestamp::now();
        let job: Job = seen.read()?;
        let line = match output {
            Output::Json => seen.line(),
            Output::Id => clean(&job.state),
            Output::Table => {
                let mut line = format!("{id}  {}", state(&job, now));
                if let Some(fraction) = job.progress {
                    let bar = if redraws { format!("{} ", bar(fraction)) } else { String::new() };
                    line = format!("{line}  {bar}{}", progress(&job));
                }
                let note = or_nothing(job.note.as_deref());
                let at = job.slave.as_ref().map(|slave| format!("  on {slave}")).unwrap_or_default();
                format!("{line}{at}  {note}").trim_end().to_owned()
            }
        };
        if line != shown {
            // Clear to the end of the line: the text before may have been longer.
            let exit = if redraws { say(&format!("\r{line}\u{1b}[K")) } else { say(&format!("{line}\n")) };
            if exit != Exit::Ok {
                return Ok(exit);
            }
            shown = line;
        }
        if job.ended_at.is_some() {
            if redraws {
                say("\n");
            }
            return Ok(Exit::Ok);
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// Waits until all jobs have ended: how, by the worst of them.
pub(super) async fn wait(
    client: &Client,
    ids: &[String],
    timeout: Option<Duration>,
) -> Result<Exit, Failure> {
    let ended = async {
        let mut worst = Exit::Ok;
        let mut looker = Looker::new(client);
        for id in ids {
            let exit = ended(&mut looker, id).await?;
            if exit as u8 > worst as u8 {
                worst = exit;
            }
        }
        Ok(worst)
    };
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let late = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        result = ended => result,
        () = late => Err(Failure::new(Exit::Timeout, "it has not ended yet, and goes on")),
        () = interrupted() => Err(left_alone(ids, "wait")),
    }
}

async fn ended(looker: &mut Looker<'_>, id: &str) -> Result<Exit, Failure> {
    let mut warned = false;
    loop {
        if let Some(seen) = looker.look(id).await? {
            let job: Job = seen.read()?;
            let state = State::from_name(&job.state);
            if job.ended_at.is_some() {
                let why = job.reason.map(|why| format!(": {}", clean(&why.text))).unwrap_or_default();
                remark(&format!("{id} {}{why}", job.state));
                return Ok(exit_of(state));
            }
            if state == Some(State::Uncertain) && !warned {
                remark(&format!("{id} is uncertain: look at the machine, then `reloop job resolve {id} …`"));
                warned = true;
            }
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// How a job that has ended ended; none is a state of a newer master.
fn exit_of(state: Option<State>) -> Exit {
    match state {
        Some(State::Succeeded) => Exit::Ok,
        Some(State::Failed) => Exit::JobFailed,
        Some(State::Canceled) => Exit::JobCanceled,
        Some(State::Rejected) => Exit::JobRejected,
        Some(State::Expired) => Exit::JobExpired,
        Some(State::Lost) => Exit::JobLost,
        None
        | Some(
            State::Queued
            | State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain,
        ) => Exit::Error,
    }
}

/// Prints a job's output; with `follow` until the job has ended.
pub(super) async fn log(
    client: &Client,
    id: &str,
    offset: Option<u64>,
    limit: Option<u32>,
    follow: bool,
) -> Result<Exit, Failure> {
    let print = async {
        let mut at = offset;
        let mut looker = Looker::new(client);
        loop {
            // Look before reading: the output of a job that has ended is complete.
            let over = !follow || has_ended(looker.look(id).await?.as_ref())?;
            loop {
                let (from, total, bytes) = part(client, id, at, limit).await?;
                let exit = write_out(&bytes);
                let end = from + bytes.len() as u64;
                at = Some(end);
                if exit != Exit::Ok || (!follow && limit.is_some()) {
                    return Ok(exit);
                }
                if end >= total || bytes.is_empty() {
                    break;
                }
            }
            if over {
                return Ok(Exit::Ok);
            }
            tokio::time::sleep(EVERY).await;
        }
    };
    tokio::select! {
        result = print => result,
        () = interrupted() => Err(left_alone(&[id.to_owned()], "log --follow")),
    }
}

fn has_ended(seen: Option<&Answer>) -> Result<bool, Failure> {
    let job = seen.map(Answer::read::<Job>).transpose()?;
    Ok(job.is_some_and(|job| job.ended_at.is_some()))
}

async fn part(
    client: &Client,
    id: &str,
    offset: Option<u64>,
    limit: Option<u32>,
) -> Result<(u64, u64, Vec<u8>), Failure> {
    let from = offset.map(|offset| format!("&offset={offset}")).unwrap_or_default();
    let limit = limit.map_or(LOG_PART, u64::from);
    let path = format!("/v1/jobs/{id}/log?limit={limit}{from}");
    let answer = client.send(reqwest::Method::GET, &path, &[], None).await?;
    let number = |name: &str| answer.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
    let (offset, total) = (number(header::LOG_OFFSET).unwrap_or(0), number(header::LOG_TOTAL).unwrap_or(0));
    let bytes = answer.bytes().await.map_err(|error| Failure::new(Exit::Unreachable, error.to_string()))?;
    Ok((offset, total, bytes.to_vec()))
}

/// Looks at jobs again and again, and says once that the master does not answer.
struct Looker<'a> {
    client: &'a Client,
    silent: bool,
}

impl<'a> Looker<'a> {
    fn new(client: &'a Client) -> Self {
        Self { client, silent: false }
    }

    /// The job; none while the master does not answer.
    async fn look(&mut self, id: &str) -> Result<Option<Answer>, Failure> {
        match self.client.get(&format!("/v1/jobs/{id}")).await {
            Ok(job) => {
                if std::mem::take(&mut self.silent) {
                    remark("the master answers again");
                }
                Ok(Some(job))
            }
            Err(failure) if failure.exit == Exit::Unreachable => {
                if !std::mem::replace(&mut self.silent, true) {
                    remark(&format!("{}; trying again every second", failure.text));
                }
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }
}

async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without the signal's handler Ctrl-C ends the process as it always does.
        std::future::pending::<()>().await;
    }
}

fn left_alone(ids: &[String], verb: &str) -> Failure {
    for id in ids {
        remark(&format!("\njob {id} continues; re-attach: reloop job {verb} {id}"));
    }
    Failure::new(Exit::Interrupted, "")
}

//! Lists, follows and controls jobs.

use std::io::IsTerminal as _;
use std::time::Duration;

use reloop_api::{
    CancelRequest, Explanation, Job, JobCommand as Commanded, JobEvent, Nothing, Outcome, ReleaseRequest,
    RescheduleRequest, ResolveRequest,
};
use serde::Serialize;

use super::{confirm, delivery, pairs, print, print_list, words};
use crate::cli::args::{JobCommand, Output};
use crate::cli::client::{Client, Failure, escape};
use crate::cli::table::{age, clean, heard_ago, or_dash, or_nothing, progress, sheet, state, table};
use crate::cli::{Exit, watch};

pub(super) async fn run(client: &Client, out: Output, command: JobCommand) -> Result<Exit, Failure> {
    let find = async |part: &str| client.resolve("job", "job_", part).await;
    let tell = Teller { client, out };
    match command {
        JobCommand::Ls { state, slave, order, limit } => {
            let mut query = String::new();
            let order = match order {
                Some(order) => Some(client.resolve("order", "ord_", &order).await?),
                None => None,
            };
            for (name, value) in [("state", state), ("slave", slave), ("order", order)] {
                query.extend(value.map(|value| format!("&{name}={}", escape(&value))));
            }
            let list = client.list("/v1/jobs", &query, limit).await?;
            print_list(out, &list, |job: &Job| job.id.clone(), |jobs| table_of(jobs, jiff::Timestamp::now()))
        }
        JobCommand::Show(job) => {
            let id = find(&job.id).await?;
            let job = client.get(&format!("/v1/jobs/{id}")).await?;
            print(out, &job, |job: &Job| job.id.clone(), show)
        }
        JobCommand::Watch(job) => watch::watch(client, out, &find(&job.id).await?).await,
        JobCommand::Wait { ids: parts, timeout } => {
            let mut ids = Vec::new();
            for part in &parts {
                ids.push(find(part).await?);
            }
            watch::wait(client, &ids, timeout.map(Duration::from_secs)).await
        }
        JobCommand::Log { job, offset, limit, follow } => {
            watch::log(client, &find(&job.id).await?, offset, limit, follow).await
        }
        JobCommand::Explain(job) => {
            let id = find(&job.id).await?;
            let answer = client.get(&format!("/v1/jobs/{id}/explain")).await?;
            print(out, &answer, |why: &Explanation| why.job.clone(), show_explanation)
        }
        JobCommand::Events(job) => {
            let id = find(&job.id).await?;
            let list = client.get(&format!("/v1/jobs/{id}/events")).await?;
            print_list(out, &list, |event: &JobEvent| event.state.clone().into_owned(), show_events)
        }
        JobCommand::Cancel { job, mode, yes } => {
            let id = find(&job.id).await?;
            if !yes && std::io::stdin().is_terminal() {
                let now: Job = client.get(&format!("/v1/jobs/{id}")).await?.read()?;
                if now.started_at.is_some() && now.ended_at.is_none() {
                    confirm(&format!("{id} is {}. Cancel it?", clean(&now.state)), false)?;
                }
            }
            tell.command(&id, "cancel", &CancelRequest { mode: Some(mode.name().into()) }).await
        }
        JobCommand::Pause(job) => tell.command(&find(&job.id).await?, "pause", &Nothing {}).await,
        JobCommand::Resume(job) => tell.command(&find(&job.id).await?, "resume", &Nothing {}).await,
        JobCommand::Release { job, valid } => {
            let request = ReleaseRequest { valid_seconds: Some(valid) };
            tell.command(&find(&job.id).await?, "release", &request).await
        }
        JobCommand::Reschedule { job, not_before, deadline, late } => {
            let request = RescheduleRequest { not_before, deadline, late: late.map(Into::into) };
            tell.command(&find(&job.id).await?, "reschedule", &request).await
        }
        JobCommand::Retry(job) => tell.command(&find(&job.id).await?, "retry", &Nothing {}).await,
        JobCommand::Resolve { job, outcome } => {
            let request = ResolveRequest { outcome: outcome.name().into() };
            tell.command(&find(&job.id).await?, "resolve", &request).await
        }
        JobCommand::Abandon { job, yes } => {
            let id = find(&job.id).await?;
            let question =
                format!("Give {id} up? Its outcome will not be known, and the machine may still run.");
            confirm(&question, yes)?;
            tell.command(&id, "abandon", &Nothing {}).await
        }
    }
}

/// Sends commands, and says how far they got.
struct Teller<'a> {
    client: &'a Client,
    out: Output,
}

impl Teller<'_> {
    async fn command(&self, id: &str, verb: &str, request: &impl Serialize) -> Result<Exit, Failure> {
        let answer = self.client.post(&format!("/v1/jobs/{id}/{verb}"), request).await?;
        print(
            self.out,
            &answer,
            |done: &Commanded| done.job.clone(),
            |done| format!("{id} {verb}: {}; it is {}\n", delivery(&done.delivery), clean(&done.state)),
        )
    }
}

/// Jobs as a table.
pub(super) fn table_of(jobs: &[Job], now: jiff::Timestamp) -> String {
    let row = |job: &Job| {
        vec![
            clean(&job.id),
            or_dash(job.name.as_deref()),
            clean(&job.program),
            state(job, now),
            progress(job),
            or_dash(job.slave.as_deref()),
            age(Some(&job.created_at), now),
        ]
    };
    let rows: Vec<_> = jobs.iter().map(row).collect();
    table(&["ID", "NAME", "PROGRAM", "STATE", "PROGRESS", "SLAVE", "AGE"], &rows)
}

/// The machine's own words, which name the exit code or the signal of a program; if it has said nothing, the number alone.
fn outcome(outcome: &Outcome) -> String {
    match (outcome.exit_code, outcome.signal) {
        _ if !outcome.text.is_empty() => clean(&outcome.text),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => String::new(),
    }
}

fn show(job: &Job) -> String {
    let now = jiff::Timestamp::now();
    let reason = job.reason.as_ref().map(|why| format!("{}: {}", why.code, clean(&why.text)));
    let freshness = &job.freshness;
    let heard = freshness.link.as_ref().map(|link| {
        format!("{link}, heard {}", heard_ago(freshness.observed_at.as_deref(), freshness.at_least, now))
    });
    let mut shown = sheet(&[
        ("job", clean(&job.id)),
        ("order", clean(&job.order)),
        ("name", or_nothing(job.name.as_deref())),
        ("program", clean(&job.program)),
        ("params", pairs(&job.params)),
        ("state", state(job, now)),
        ("desired", clean(&job.desired)),
        ("reason", reason.unwrap_or_default()),
        ("flags", words(&job.flags)),
        ("progress", progress(job)),
        ("note", or_nothing(job.note.as_deref())),
        ("slave", or_nothing(job.slave.as_deref())),
        ("its link", heard.unwrap_or_default()),
        ("attempt", job.attempt.to_string()),
        ("gate", clean(&job.gate)),
        ("not before", or_nothing(job.not_before.as_deref())),
        ("deadline", or_nothing(job.deadline.as_deref())),
        ("next try", or_nothing(job.retry_at.as_deref())),
        ("created", clean(&job.created_at)),
        ("accepted", or_nothing(job.accepted_at.as_deref())),
        ("started", or_nothing(job.started_at.as_deref())),
        ("ended", or_nothing(job.ended_at.as_deref())),
        ("outcome", job.outcome.as_ref().map(outcome).unwrap_or_default()),
    ]);
    for earlier in &job.earlier {
        let (attempt, slave) = (earlier.attempt, clean(&earlier.slave));
        let claimed = if earlier.claimed { " (it says so, and was never handed it)" } else { "" };
        shown.push_str(&format!("attempt {attempt} on {slave}: {}{claimed}\n", clean(&earlier.state)));
    }
    shown
}

fn show_explanation(why: &Explanation) -> String {
    let rows: Vec<_> = why
        .slaves
        .iter()
        .map(|slave| vec![clean(&slave.slave), or_dash(slave.why_not.as_deref()), clean(&slave.text)])
        .collect();
    format!("{}\n\n{}", clean(&why.summary), table(&["SLAVE", "WHY NOT", "IN WORDS"], &rows))
}

fn show_events(events: &[JobEvent]) -> String {
    let row = |event: &JobEvent| {
        let (at, observed) = (clean(&event.at), or_dash(event.observed_at.as_deref()));
        vec![at, clean(&event.state), event.attempt.to_string(), clean(&event.by), observed]
    };
    let rows: Vec<_> = events.iter().map(row).collect();
    table(&["AT", "STATE", "ATTEMPT", "BY", "OBSERVED"], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_told_once() {
        let of =
            |exit_code, signal, text: &str| outcome(&Outcome { exit_code, signal, text: text.to_owned() });
        assert_eq!(of(Some(0), None, "exit code 0"), "exit code 0");
        assert_eq!(of(Some(3), None, ""), "exit code 3");
        assert_eq!(of(None, Some(9), ""), "signal 9");
        assert_eq!(of(None, None, ""), "");
    }
}

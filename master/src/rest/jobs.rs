//! Jobs: what they are, why, and what people want of them.

use std::borrow::Cow;
use std::cmp::Reverse;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reloop_protocol::id::{JobId, OrderId, SlaveKey};
use reloop_protocol::job::State as JobState;
use reloop_protocol::limits::LOG_BYTES;
use reloop_protocol::master::{self, Answer, Job, JobCommand};
use reloop_protocol::message::Reply;
use reloop_protocol::spec::CancelMode;
use reloop_protocol::time::Millis;
use serde::Serialize;
use serde_json::Value;

use super::fields::{self, Fields};
use super::order::window;
use super::problem::Problem;
use super::query::{Query, page};
use super::view::{CANCEL_MODES, ENDS, ExplanationView, JobEventView, JobView};
use super::{Page, RestState, job_id, orders, slaves, unexpected, view};

/// How many old jobs one request looks at for those that fit its filters; the cursor goes on from there.
const SCAN_LIMIT: usize = 2000;
/// How many of them are read at a time.
const SCAN_PAGE: usize = 200;
/// How much of a log is answered if nobody says.
const LOG_DEFAULT: u32 = 16 * 1024;
/// How long a release holds if nobody says: longer than a walk to the machine.
const RELEASE_DEFAULT_SECONDS: i64 = 600;
/// A release is a person's word about now; a week is no longer that.
const RELEASE_LIMIT_SECONDS: i64 = 7 * 24 * 3600;

const LOG_OFFSET: HeaderName = HeaderName::from_static("reloop-log-offset");
const LOG_TOTAL: HeaderName = HeaderName::from_static("reloop-log-total");

/// Which jobs somebody wants to see.
struct Filter {
    /// Any of these; all if empty.
    states: Vec<JobState>,
    /// At or last at this slave.
    slave: Option<SlaveKey>,
}

impl Filter {
    fn takes(&self, job: &Job) -> bool {
        (self.states.is_empty() || self.states.contains(&job.state))
            && self.slave.is_none_or(|slave| job.holder == Some(slave))
    }

    /// Nothing that it takes has ended, so that all of it is in memory.
    fn is_live(&self) -> bool {
        !self.states.is_empty() && !self.states.iter().any(|state| state.is_ended())
    }
}

pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<Page<JobView>>, Problem> {
    let (limit, before) = (query.limit(), query.parsed::<JobId>("cursor"));
    let order = query.parsed::<OrderId>("order");
    let slave = query.text("slave");
    let mut states = Vec::new();
    if let Some(names) = query.text("state") {
        for name in names.split(',') {
            match JobState::from_name(name) {
                Some(state) => states.push(state),
                None => {
                    let allowed = JobState::ALL.map(JobState::name).join(", ");
                    query.wrong("state", format!("{name:?}; allowed are {allowed}, several with commas"));
                }
            }
        }
    }
    query.end()?;
    let slave = match slave {
        Some(name) => Some(slaves::find(&state, name, slaves::Prefer::Enrolled).await?),
        None => None,
    };
    let filter = Filter { states, slave };
    let Page { data, next_cursor } = match order {
        Some(order) => of_order(&state, order, before, limit, &filter).await?,
        None if filter.is_live() => live(&state, before, limit, filter).await?,
        None => any(&state, before, limit, &filter).await?,
    };
    Ok(Json(Page { data: state.views(&data).await?, next_cursor }))
}

async fn of_order(
    state: &RestState,
    order: OrderId,
    before: Option<JobId>,
    limit: usize,
    filter: &Filter,
) -> Result<Page<Job>, Problem> {
    let mut ids = orders::find(state, order).await?.jobs;
    ids.sort_unstable_by_key(|id| Reverse(*id));
    ids.retain(|id| before.is_none_or(|before| *id < before));
    let mut jobs = state.jobs(&ids).await?;
    jobs.retain(|job| filter.takes(job));
    Ok(page(jobs, limit, |job| job.id.to_string()))
}

async fn live(
    state: &RestState,
    before: Option<JobId>,
    limit: usize,
    filter: Filter,
) -> Result<Page<Job>, Problem> {
    let jobs = state.handle.read(move |state, _| {
        let jobs = &state.book.jobs;
        let takes = |job: &Job| before.is_none_or(|before| job.id < before) && filter.takes(job);
        // The loop does nothing else meanwhile: what waits for a slave is passed over where a slave or another state is meant.
        if filter.slave.is_some() || !filter.states.contains(&JobState::Queued) {
            return jobs.assigned().rev().filter(|job| takes(job)).take(limit + 1).cloned().collect();
        }
        let jobs = jobs.newest_first(before).filter(|job| takes(job));
        jobs.take(limit + 1).map(Cow::into_owned).collect()
    });
    let jobs: Vec<Job> = jobs.await.map_err(|why| state.unavailable(why))?;
    Ok(page(jobs, limit, |job| job.id.to_string()))
}

async fn any(
    state: &RestState,
    mut before: Option<JobId>,
    limit: usize,
    filter: &Filter,
) -> Result<Page<Job>, Problem> {
    let everything = filter.states.is_empty() && filter.slave.is_none();
    let at_once = if everything { limit + 1 } else { SCAN_PAGE };
    let (mut found, mut looked_at) = (Vec::new(), 0);
    loop {
        let jobs = state.handle.jobs(before, at_once).await.map_err(|why| state.unavailable(why))?;
        let was_last = jobs.len() < at_once;
        looked_at += jobs.len();
        before = jobs.last().map_or(before, |job| Some(job.id));
        found.extend(jobs.into_iter().filter(|job| filter.takes(job)));
        if was_last || found.len() > limit {
            return Ok(page(found, limit, |job| job.id.to_string()));
        }
        if looked_at >= SCAN_LIMIT {
            return Ok(Page { data: found, next_cursor: before.map(|id| id.to_string()) });
        }
    }
}

pub(super) async fn show(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<JobView>, Problem> {
    Ok(Json(state.view_of(job_id(&id)?).await?))
}

pub(super) async fn events(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<Page<JobEventView>>, Problem> {
    let job = state.job(&id).await?;
    Ok(Json(Page::whole(job.events.iter().map(JobEventView::from).collect())))
}

pub(super) async fn explain(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<ExplanationView>, Problem> {
    let job = state.job(&id).await?;
    let explanation = state
        .handle
        .read(move |state, now| view::explanation(state, &job, master::explain(state, &job, now)));
    Ok(Json(explanation.await.map_err(|why| state.unavailable(why))?))
}

pub(super) async fn log(
    State(state): State<RestState>,
    Path(id): Path<String>,
    mut query: Query,
) -> Result<Response, Problem> {
    let offset = query.int("offset", 0..=i64::MAX).and_then(|offset| u64::try_from(offset).ok());
    let limit = query.int("limit", 1..=i64::from(LOG_BYTES)).and_then(|limit| u32::try_from(limit).ok());
    query.end()?;
    let job = state.job(&id).await?;
    let answer = state.handle.log(job.id, offset, limit.unwrap_or(LOG_DEFAULT)).await;
    match answer.map_err(|why| state.unavailable(why))? {
        Answer::Replied(Reply::Log { offset, total, bytes }) => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (LOG_OFFSET, HeaderValue::from(offset)),
                (LOG_TOTAL, HeaderValue::from(total)),
            ];
            Ok((headers, bytes).into_response())
        }
        Answer::Replied(Reply::Refused(why)) => Err(slaves::refused(why)),
        Answer::Refused(refusal, why) => Err(Problem::refused(refusal, why)),
        other => Err(unexpected(&other)),
    }
}

/// What somebody may want of a job.
#[derive(Debug, Clone, Copy)]
pub(super) enum Verb {
    Cancel,
    Pause,
    Resume,
    Release,
    Reschedule,
    Retry,
    Resolve,
    Abandon,
}

impl Verb {
    pub(super) const ALL: [Self; 8] = [
        Self::Cancel,
        Self::Pause,
        Self::Resume,
        Self::Release,
        Self::Reschedule,
        Self::Retry,
        Self::Resolve,
        Self::Abandon,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Cancel => "cancel",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Release => "release",
            Self::Reschedule => "reschedule",
            Self::Retry => "retry",
            Self::Resolve => "resolve",
            Self::Abandon => "abandon",
        }
    }

    /// The whole command.
    pub(super) fn read(self, body: Option<Value>) -> Result<JobCommand, Problem> {
        let mut fields = Fields::new(body)?;
        let command = self.command(&mut fields);
        fields.end()?;
        command.ok_or_else(|| Problem::field("/", "the command is not complete"))
    }

    fn command(self, fields: &mut Fields) -> Option<JobCommand> {
        Some(match self {
            Self::Cancel => {
                JobCommand::Cancel(fields.word("mode", &CANCEL_MODES).unwrap_or(CancelMode::SafePoint))
            }
            Self::Pause => JobCommand::Pause,
            Self::Resume => JobCommand::Resume,
            Self::Release => {
                let seconds = fields.int("valid_seconds", 1..=RELEASE_LIMIT_SECONDS);
                let seconds = u64::try_from(seconds.unwrap_or(RELEASE_DEFAULT_SECONDS)).ok()?;
                JobCommand::Release { valid: Millis::seconds(seconds) }
            }
            Self::Reschedule => {
                let window = window(fields);
                JobCommand::Reschedule {
                    not_before: window.not_before,
                    deadline: window.deadline,
                    late: window.late,
                }
            }
            Self::Retry => JobCommand::Retry,
            Self::Resolve => {
                let Some(end) = fields.word("outcome", &ENDS) else {
                    fields.wrong("outcome", "needed: succeeded, failed or canceled");
                    return None;
                };
                JobCommand::Resolve(end)
            }
            Self::Abandon => JobCommand::Abandon,
        })
    }
}

/// How far a command got: that it was taken does not mean that the machine knows.
#[derive(Serialize)]
pub(super) struct Commanded {
    job: String,
    command: &'static str,
    delivery: &'static str,
    state: &'static str,
    slave_link: Option<&'static str>,
}

pub(super) async fn command(
    State(state): State<RestState>,
    Path(id): Path<String>,
    body: Body,
    verb: Verb,
) -> Result<(StatusCode, Json<Commanded>), Problem> {
    let command = verb.read(fields::json(body).await?)?;
    let id = job_id(&id)?;
    let delivery =
        match state.handle.command(vec![id], command).await.map_err(|why| state.unavailable(why))? {
            Answer::Taken(taken) => taken.first().map(|(_, delivery)| *delivery),
            Answer::Refused(refusal, why) => return Err(Problem::refused(refusal, why)),
            other => return Err(unexpected(&other)),
        };
    let delivery = delivery.ok_or_else(|| unexpected(&Answer::Taken(vec![])))?;
    let view = state.view_of(id).await?;
    let answer = Commanded {
        job: id.to_string(),
        command: verb.name(),
        delivery: delivery.name(),
        state: view.state,
        slave_link: view.freshness.link,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

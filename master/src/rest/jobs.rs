//! Jobs: what they are, and why.

use std::borrow::Cow;
use std::cmp::Reverse;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use reloop_api::limits::LOG_DEFAULT;
use reloop_api::page::PageQuery;
use reloop_api::{Explanation, JobEventPage, JobPage, Page, header as named};
use reloop_protocol::id::{JobId, OrderId, SlaveKey};
use reloop_protocol::job::State as JobState;
use reloop_protocol::limits::LOG_BYTES;
use reloop_protocol::master::{self, Answer, Job};

use super::problem::Problem;
use super::query::{Query, page};
use super::{RestState, job_id, orders, slaves, unexpected, view};

/// How many old jobs one request looks at for those that fit its filters; the cursor goes on from there.
const SCAN_LIMIT: usize = 2000;
/// How many of them are read at a time.
const SCAN_PAGE: usize = 200;

const LOG_OFFSET: HeaderName = HeaderName::from_static(named::LOG_OFFSET);
const LOG_TOTAL: HeaderName = HeaderName::from_static(named::LOG_TOTAL);

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

/// Jobs, newest first.
///
/// A filtered page may have fewer entries than `limit`, or none, and still a next one.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    params(
        PageQuery,
        ("state" = Option<String>, Query, description = "Only in these states; several with commas."),
        ("slave" = Option<String>, Query, description = "Only at, or last at, the slave of this name or key."),
        ("order" = Option<String>, Query, description = "Only of this order."),
    ),
    responses((status = 200, description = "A page.", body = JobPage)),
)]
pub(super) async fn list(State(state): State<RestState>, mut query: Query) -> Result<Json<JobPage>, Problem> {
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

/// A job.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "show_job",
    params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, description = "The job.", body = reloop_api::Job)),
)]
pub(super) async fn show(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<reloop_api::Job>, Problem> {
    Ok(Json(state.view_of(job_id(&id)?).await?))
}

/// What a job went through: the first and the newest 63 changes.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/events",
    operation_id = "list_job_events",
    params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, description = "All of it.", body = JobEventPage)),
)]
pub(super) async fn events(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<JobEventPage>, Problem> {
    let job = state.job(&id).await?;
    Ok(Json(Page::whole(job.events.iter().map(view::event).collect())))
}

/// Why a job has not started, slave by slave.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/explain",
    operation_id = "explain_job",
    params(("id" = String, Path, description = "The job's id.")),
    responses((status = 200, description = "Why.", body = Explanation)),
)]
pub(super) async fn explain(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<Explanation>, Problem> {
    let job = state.job(&id).await?;
    let explanation = state
        .handle
        .read(move |state, now| view::explanation(state, &job, master::explain(state, &job, now)));
    Ok(Json(explanation.await.map_err(|why| state.unavailable(why))?))
}

/// A part of a job's output, from its slave, which has to be connected.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/log",
    operation_id = "show_job_log",
    params(
        ("id" = String, Path, description = "The job's id."),
        ("offset" = Option<u64>, Query, description = "From this byte; the end of the output if absent."),
        ("limit" = Option<u32>, Query, description = "Bytes at most: 1 to 65536, 16384 by default."),
    ),
    responses((
        status = 200,
        description = "The bytes. `Reloop-Log-Offset` says where the part begins, `Reloop-Log-Total` how long the output is.",
        body = String,
        content_type = "text/plain",
        headers(
            ("Reloop-Log-Offset" = u64, description = "The part's first byte."),
            ("Reloop-Log-Total" = u64, description = "The length of the whole output."),
        ),
    )),
)]
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
        Answer::Output { offset, total, bytes } => {
            let headers = [
                (header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
                (LOG_OFFSET, HeaderValue::from(offset)),
                (LOG_TOTAL, HeaderValue::from(total)),
            ];
            Ok((headers, bytes).into_response())
        }
        Answer::Refused(why) => Err(Problem::refused(&why)),
        other => Err(unexpected(&other)),
    }
}

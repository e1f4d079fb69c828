//! What people want of jobs.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use reloop_api::limits::{RELEASE_DEFAULT_SECONDS, RELEASE_LIMIT_SECONDS};
use reloop_api::words::{CANCEL_MODES, ENDS};
use reloop_api::{CancelRequest, Nothing, ReleaseRequest, RescheduleRequest, ResolveRequest};
use reloop_protocol::master::{Answer, JobCommand};
use reloop_protocol::spec::CancelMode;
use reloop_protocol::time::Millis;
use serde_json::Value;

use super::fields::{self, Fields};
use super::order::window;
use super::problem::Problem;
use super::{RestState, job_id, unexpected};

/// What a 202 says.
pub(super) const TAKEN: &str =
    "Taken; `delivery` says how far it got. That it was taken does not mean that the machine knows.";

type Taken = Result<(StatusCode, Json<reloop_api::JobCommand>), Problem>;

/// End a job.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/cancel",
    operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = CancelRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn cancel(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Cancel).await
}

/// Do not start a job; pause it if it runs.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/pause",
    operation_id = "pause_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = Nothing,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn pause(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Pause).await
}

/// Let a paused job go on.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/resume",
    operation_id = "resume_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = Nothing,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn resume(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Resume).await
}

/// Let a held job start, within some time from now.
///
/// It is refused while a cancel is on its way.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/release",
    operation_id = "release_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = ReleaseRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn release(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Release).await
}

/// Change when a job may start: what is absent no longer counts.
///
/// A release that was given before no longer counts: the new time does. If the job's slave acts by the older plan before it knows the
/// new one, the job is flagged `overtaken`. It is refused while a cancel is on its way.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/reschedule",
    operation_id = "reschedule_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = RescheduleRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn reschedule(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Reschedule).await
}

/// Begin a new attempt of a job that ended without success.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/retry",
    operation_id = "retry_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = Nothing,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn retry(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Retry).await
}

/// Say how an uncertain job ended: look at the machine first.
///
/// Of several people the first counts: whoever says otherwise while the job's slave is still to be told is refused. If it ends
/// otherwise all the same, as somebody at the machine may say, the job is flagged `overtaken`.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/resolve",
    operation_id = "resolve_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = ResolveRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn resolve(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Resolve).await
}

/// Give a job up whose slave is gone.
///
/// Its outcome will not be known. The machine may still run.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/abandon",
    operation_id = "abandon_job",
    params(("id" = String, Path, description = "The job's id.")),
    request_body = Nothing,
    responses((status = 202, description = TAKEN, body = reloop_api::JobCommand)),
)]
pub(super) async fn abandon(state: State<RestState>, id: Path<String>, body: Body) -> Taken {
    command(state, id, body, Verb::Abandon).await
}

async fn command(State(state): State<RestState>, Path(id): Path<String>, body: Body, verb: Verb) -> Taken {
    let command = verb.read(fields::json(body).await?)?;
    let id = job_id(&id)?;
    let delivery =
        match state.handle.command(vec![id], command).await.map_err(|why| state.unavailable(why))? {
            Answer::Taken(taken) => taken.first().map(|(_, delivery)| *delivery),
            Answer::Refused(why) => return Err(Problem::refused(&why)),
            other => return Err(unexpected(&other)),
        };
    let delivery = delivery.ok_or_else(|| unexpected(&Answer::Taken(vec![])))?;
    let job = state.view_of(id).await?;
    let answer = reloop_api::JobCommand {
        job: id.to_string(),
        command: verb.name().into(),
        delivery: delivery.name().into(),
        state: job.state,
        slave_link: job.freshness.link,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
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

    /// Reads the command from a request's body; the body may hold nothing else.
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

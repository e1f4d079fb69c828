//! What people decide about slaves.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use reloop_api::limits::VALUE_LIMIT;
use reloop_api::{ModeRequest, PersonRequest};
use reloop_protocol::master::{Answer, SlaveCommand};
use reloop_protocol::message::Mode;
use serde_json::Value;

use super::fields::{self, Fields};
use super::job_commands::TAKEN;
use super::problem::Problem;
use super::slaves::{Prefer, find, one};
use super::tokens::Bearer;
use super::{RestState, unexpected};

type Taken = Result<(StatusCode, Json<reloop_api::SlaveCommand>), Problem>;

/// Confirm that the machine is clear.
#[utoipa::path(
    post,
    path = "/v1/slaves/{name}/ready",
    operation_id = "ready_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    request_body = PersonRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::SlaveCommand)),
)]
pub(super) async fn ready(
    state: State<RestState>,
    bearer: Extension<Bearer>,
    name: Path<String>,
    body: Body,
) -> Taken {
    command(state, bearer, name, body, Verb::Ready).await
}

/// Confirm that somebody has looked at what needed attention.
#[utoipa::path(
    post,
    path = "/v1/slaves/{name}/clear",
    operation_id = "clear_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    request_body = PersonRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::SlaveCommand)),
)]
pub(super) async fn clear(
    state: State<RestState>,
    bearer: Extension<Bearer>,
    name: Path<String>,
    body: Body,
) -> Taken {
    command(state, bearer, name, body, Verb::Clear).await
}

/// Put a slave into a mode.
#[utoipa::path(
    post,
    path = "/v1/slaves/{name}/mode",
    operation_id = "mode_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    request_body = ModeRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::SlaveCommand)),
)]
pub(super) async fn mode(
    state: State<RestState>,
    bearer: Extension<Bearer>,
    name: Path<String>,
    body: Body,
) -> Taken {
    command(state, bearer, name, body, Verb::Mode).await
}

/// Enrol a key that waits for it.
#[utoipa::path(
    post,
    path = "/v1/slaves/{name}/approve",
    operation_id = "approve_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    request_body = PersonRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::SlaveCommand)),
)]
pub(super) async fn approve(
    state: State<RestState>,
    bearer: Extension<Bearer>,
    name: Path<String>,
    body: Body,
) -> Taken {
    command(state, bearer, name, body, Verb::Approve).await
}

/// Revoke a slave's key; what it holds stays with it.
#[utoipa::path(
    post,
    path = "/v1/slaves/{name}/forget",
    operation_id = "forget_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    request_body = PersonRequest,
    responses((status = 202, description = TAKEN, body = reloop_api::SlaveCommand)),
)]
pub(super) async fn forget(
    state: State<RestState>,
    bearer: Extension<Bearer>,
    name: Path<String>,
    body: Body,
) -> Taken {
    command(state, bearer, name, body, Verb::Forget).await
}

async fn command(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    Path(name): Path<String>,
    body: Body,
    verb: Verb,
) -> Taken {
    let (command, reason) = verb.read(fields::json(body).await?)?;
    let prefer = if verb == Verb::Approve { Prefer::Pending } else { Prefer::Enrolled };
    let key = find(&state, name, prefer).await?;
    let answer = state.handle.slave_command(key, command.clone()).await;
    let delivery = match answer.map_err(|why| state.unavailable(why))? {
        Answer::SlaveTaken(delivery) => delivery,
        Answer::Refused(why) => return Err(Problem::refused(&why)),
        other => return Err(unexpected(&other)),
    };
    let slave = one(&state, key).await?;
    tracing::info!(slave = slave.name, ?command, reason, token = bearer.id, "a person's word about a slave");
    let answer = reloop_api::SlaveCommand {
        delivery: delivery.name().into(),
        slave: slave.name,
        command: verb.name().into(),
        mode: slave.mode,
        slave_link: slave.link,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// What somebody may want of a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Ready,
    Clear,
    Mode,
    Approve,
    Forget,
}

impl Verb {
    pub(super) const ALL: [Self; 5] = [Self::Ready, Self::Clear, Self::Mode, Self::Approve, Self::Forget];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Clear => "clear",
            Self::Mode => "mode",
            Self::Approve => "approve",
            Self::Forget => "forget",
        }
    }

    /// The whole command, and the reason that was given for it.
    pub(super) fn read(self, body: Option<Value>) -> Result<(SlaveCommand, Option<String>), Problem> {
        let mut fields = Fields::new(body)?;
        let command = self.command(&mut fields);
        let reason = fields.text("reason", VALUE_LIMIT);
        fields.end()?;
        Ok((command.ok_or_else(|| Problem::field("/", "the command is not complete"))?, reason))
    }

    fn command(self, fields: &mut Fields) -> Option<SlaveCommand> {
        Some(match self {
            Self::Ready => SlaveCommand::Ready,
            Self::Clear => SlaveCommand::Clear,
            Self::Mode => {
                let modes = Mode::ALL.map(|mode| (mode.name(), mode));
                let Some(mode) = fields.word("mode", &modes) else {
                    fields.wrong("mode", format!("needed: {}", Mode::ALL.map(Mode::name).join(", ")));
                    return None;
                };
                SlaveCommand::Mode(mode)
            }
            Self::Approve => SlaveCommand::Approve,
            Self::Forget => SlaveCommand::Forget,
        })
    }
}

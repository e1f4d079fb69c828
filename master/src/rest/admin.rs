//! What only an admin does: tokens for clients, tokens for slaves, and a restored master.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use reloop_api::limits::{ENROLL_DEFAULT_SECONDS, ENROLL_LIMIT_SECONDS, NAME_LIMIT, USES_LIMIT};
use reloop_api::{
    EnrollToken, EnrollTokenRequest, NewToken, Page, RestoreRequest, Restored, Role, TokenPage, TokenRequest,
};
use reloop_node::digest::{sha256, to_hex};
use reloop_node::entropy::random;
use reloop_protocol::master::{self, Answer};
use reloop_protocol::time::Millis;

use super::fields::{self, Fields};
use super::problem::{Code, Problem};
use super::tokens::{Bearer, TokensError};
use super::{RestState, unexpected, view};

/// Make a token that enrols slaves.
#[utoipa::path(
    post,
    path = "/v1/enroll-tokens",
    operation_id = "make_enroll_token",
    request_body = EnrollTokenRequest,
    responses((status = 201, description = "The token: it is shown this once.", body = EnrollToken)),
)]
pub(super) async fn make_enroll_token(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    body: Body,
) -> Result<(StatusCode, Json<EnrollToken>), Problem> {
    let mut fields = Fields::new(fields::json(body).await?)?;
    let name = fields.text("name", NAME_LIMIT);
    let seconds = fields.int("ttl_seconds", 1..=ENROLL_LIMIT_SECONDS).unwrap_or(ENROLL_DEFAULT_SECONDS);
    let uses = fields.int("uses", 1..=USES_LIMIT).unwrap_or(1);
    fields.end()?;
    let length = Millis::seconds(u64::try_from(seconds).expect("it was checked against its limit"));
    let now = state.handle.read(|_, now| now).await.map_err(|why| state.unavailable(why))?;
    let expires_at = now.after(length);
    let text = format!("xenr1.{}", to_hex(&random::<32>()));
    let permission = master::Token {
        expires_at,
        uses_left: u32::try_from(uses).expect("it was checked against its limit"),
        name: name.clone(),
    };
    let answer = state.handle.make_token(sha256(text.as_bytes()), permission).await;
    match answer.map_err(|why| state.unavailable(why))? {
        Answer::Done => {
            tracing::info!(token = bearer.id, slave = name, uses, seconds, "an enrolment token was made");
            let token = EnrollToken { token: text, name, uses, expires_at: view::time(expires_at) };
            Ok((StatusCode::CREATED, Json(token)))
        }
        Answer::Refused(why) => Err(Problem::refused(&why)),
        other => Err(unexpected(&other)),
    }
}

/// Confirm that this master was restored from a backup and is the one: its slaves obey it from here.
#[utoipa::path(
    post,
    path = "/v1/master/confirm-restore",
    operation_id = "confirm_restore",
    request_body = RestoreRequest,
    responses((status = 200, description = "The new epoch.", body = Restored)),
)]
pub(super) async fn confirm_restore(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    body: Body,
) -> Result<Json<Restored>, Problem> {
    let mut fields = Fields::new(fields::json(body).await?)?;
    let forced = fields.flag("force").unwrap_or(false);
    fields.end()?;
    match state.handle.confirm_restore(forced).await.map_err(|why| state.unavailable(why))? {
        Answer::Done => {}
        Answer::Refused(why) => return Err(Problem::refused(&why)),
        other => return Err(unexpected(&other)),
    }
    let node = state.handle.read(|state, _| state.node).await.map_err(|why| state.unavailable(why))?;
    tracing::warn!(
        token = bearer.id,
        epoch = node.epoch.0,
        forced,
        "a person confirmed that this master was restored"
    );
    Ok(Json(Restored { master: node.id.to_string(), epoch: node.epoch.0 }))
}

/// Make a token for a client.
#[utoipa::path(
    post,
    path = "/v1/tokens",
    operation_id = "create_token",
    request_body = TokenRequest,
    responses((status = 201, description = "The token: it is shown this once.", body = NewToken)),
)]
pub(super) async fn create_token(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    body: Body,
) -> Result<(StatusCode, Json<NewToken>), Problem> {
    let mut fields = Fields::new(fields::json(body).await?)?;
    let name = fields.needed_text("name", NAME_LIMIT);
    let roles = Role::ALL.map(|role| (role.name(), role));
    let role = fields.word("role", &roles);
    if role.is_none() {
        fields.wrong("role", "needed: viewer, client, operator or admin");
    }
    fields.end()?;
    let role = role.ok_or_else(|| Problem::field("/role", "missing"))?;
    let tokens = state.tokens;
    let (info, token) = on_disk(move || tokens.create(&name, role)).await?;
    tracing::info!(token = bearer.id, made = info.id, role = %info.role, "a token was made");
    Ok((StatusCode::CREATED, Json(NewToken { info, token })))
}

/// The tokens, without their text.
#[utoipa::path(
    get,
    path = "/v1/tokens",
    operation_id = "list_tokens",
    responses((status = 200, description = "All of them.", body = TokenPage)),
)]
pub(super) async fn list_tokens(State(state): State<RestState>) -> Json<TokenPage> {
    Json(Page::whole(state.tokens.list()))
}

/// Revoke a token.
#[utoipa::path(
    delete,
    path = "/v1/tokens/{id}",
    operation_id = "revoke_token",
    params(("id" = String, Path, description = "The token's id.")),
    responses((status = 204, description = "It is worth nothing any more.")),
)]
pub(super) async fn revoke_token(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let (tokens, revoked) = (state.tokens, id.clone());
    on_disk(move || tokens.revoke(&id)).await?;
    tracing::info!(token = bearer.id, revoked, "a token was revoked");
    Ok(StatusCode::NO_CONTENT)
}

/// Runs what blocks on the disk where it holds nobody up.
async fn on_disk<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, TokensError> + Send + 'static,
) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(change).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => {
            let code = match error {
                TokensError::Unknown(_) => Code::NotFound,
                TokensError::TooMany | TokensError::LastAdmin => Code::Conflict,
                TokensError::Io { .. } | TokensError::Content { .. } => Code::StorageUnavailable,
            };
            Err(Problem::new(code, error.to_string()))
        }
        Err(error) => {
            tracing::error!(%error, "a change of the tokens did not end");
            Err(Problem::new(Code::Internal, "list the tokens before you try again"))
        }
    }
}

//! Slaves: what they are, what their handshakes came to, and what people decide about them.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::{Extension, Json};
use reloop_protocol::id::SlaveKey;
use reloop_protocol::master::{Answer, Delivery, Enrolled, SlaveCommand, SlaveRecord};
use reloop_protocol::message::{Mode, Reply};
use serde::Serialize;
use serde_json::Value;

use super::fields::{self, Fields, VALUE_LIMIT};
use super::problem::{Code, Problem};
use super::query::{Query, page};
use super::view::{ReceiptView, SlaveView};
use super::{Page, RestState, TokenInfo, unexpected, view};

/// Whom a name means first: it is only a label, and a newcomer may carry one that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    Enrolled,
    Pending,
}

/// The slave of a name or of a key's fingerprint.
pub(super) async fn find(state: &RestState, name: String, prefer: Prefer) -> Result<SlaveKey, Problem> {
    let found = state.handle.read(move |state, _| choose(state.slaves.values(), &name, prefer)).await;
    found.map_err(|why| state.unavailable(why))?
}

fn choose<'a>(
    slaves: impl Iterator<Item = &'a SlaveRecord>,
    name: &str,
    prefer: Prefer,
) -> Result<SlaveKey, Problem> {
    let rank = |slave: &SlaveRecord| match (slave.enrolled, prefer) {
        (Enrolled::Yes, Prefer::Enrolled) | (Enrolled::Pending, Prefer::Pending) => 0,
        (Enrolled::Yes, Prefer::Pending) | (Enrolled::Pending, Prefer::Enrolled) => 1,
        (Enrolled::Revoked, _) => 2,
    };
    let mut named: Vec<&SlaveRecord> = Vec::new();
    for slave in slaves {
        if slave.key.fingerprint() == name {
            return Ok(slave.key);
        }
        if slave.name == name {
            named.push(slave);
        }
    }
    named.sort_by_key(|slave| rank(slave));
    match named.as_slice() {
        [] => Err(Problem::not_found(format!("there is no slave {name:?}: /v1/slaves lists them"))),
        [first, second, ..] if rank(first) == rank(second) => {
            let text = format!(
                "several slaves call themselves {name:?}: say which by its key, as {}",
                first.key.fingerprint()
            );
            Err(Problem::new(Code::Conflict, text))
        }
        [first, ..] => Ok(first.key),
    }
}

pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<Page<SlaveView>>, Problem> {
    let (limit, after) = (query.limit(), query.text("cursor"));
    let (wanted_link, wanted_mode) = (query.text("link"), query.text("mode"));
    query.end()?;
    let handle = state.handle.clone();
    let slaves = state.handle.read(move |state, _| {
        let mut slaves: Vec<&SlaveRecord> = state.slaves.values().collect();
        slaves.sort_by_cached_key(|slave| place(slave));
        let slaves = slaves
            .into_iter()
            .filter(|slave| after.as_ref().is_none_or(|after| place(slave) > *after))
            .filter(|slave| wanted_link.as_ref().is_none_or(|link| view::link(slave) == link))
            .filter(|slave| wanted_mode.as_ref().is_none_or(|mode| slave.operating_mode.mode.name() == mode));
        let views =
            slaves.map(|slave| (place(slave), view::slave(state, slave, handle.last_heard(slave.key))));
        views.take(limit + 1).collect::<Vec<_>>()
    });
    let slaves = slaves.await.map_err(|why| state.unavailable(why))?;
    let Page { data, next_cursor } = page(slaves, limit, |(place, _)| place.clone());
    Ok(Json(Page { data: data.into_iter().map(|(_, slave)| slave).collect(), next_cursor }))
}

/// By name, and one name by key.
fn place(slave: &SlaveRecord) -> String {
    format!("{} {}", slave.name, slave.key.fingerprint())
}

pub(super) async fn show(
    State(state): State<RestState>,
    Path(name): Path<String>,
) -> Result<Json<SlaveView>, Problem> {
    let key = find(&state, name, Prefer::Enrolled).await?;
    Ok(Json(one(&state, key).await?))
}

async fn one(state: &RestState, key: SlaveKey) -> Result<SlaveView, Problem> {
    state.slave_view(key).await?.ok_or_else(|| Problem::not_found("the slave is gone"))
}

pub(super) async fn receipts(
    State(state): State<RestState>,
    Path(name): Path<String>,
) -> Result<Json<Page<ReceiptView>>, Problem> {
    let key = find(&state, name, Prefer::Enrolled).await?;
    let receipts = state.handle.receipts(key).await.map_err(|why| state.unavailable(why))?;
    Ok(Json(Page::whole(receipts.iter().map(ReceiptView::from).collect())))
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

/// How far a command got.
#[derive(Serialize)]
pub(super) struct Commanded {
    slave: String,
    command: &'static str,
    delivery: &'static str,
    mode: &'static str,
    slave_link: &'static str,
}

pub(super) async fn command(
    State(state): State<RestState>,
    Extension(bearer): Extension<TokenInfo>,
    Path(name): Path<String>,
    body: Body,
    verb: Verb,
) -> Result<(StatusCode, Json<Commanded>), Problem> {
    let (command, reason) = verb.read(fields::json(body).await?)?;
    let prefer = if verb == Verb::Approve { Prefer::Pending } else { Prefer::Enrolled };
    let key = find(&state, name, prefer).await?;
    match state.handle.slave_command(key, command.clone()).await.map_err(|why| state.unavailable(why))? {
        Answer::Done | Answer::Replied(Reply::Done) => {}
        Answer::Replied(Reply::Refused(why)) => return Err(refused(why)),
        Answer::Refused(refusal, why) => return Err(Problem::refused(refusal, why)),
        other => return Err(unexpected(&other)),
    }
    let slave = one(&state, key).await?;
    tracing::info!(slave = slave.name, ?command, reason, token = bearer.id, "a person's word about a slave");
    let delivery = match (verb, slave.link) {
        (Verb::Mode, "online") => Delivery::Sent,
        (Verb::Mode, _) => Delivery::PendingOnReconnect,
        (Verb::Ready | Verb::Clear | Verb::Approve | Verb::Forget, _) => Delivery::Applied,
    };
    let answer = Commanded {
        slave: slave.name,
        command: verb.name(),
        delivery: delivery.name(),
        mode: slave.mode,
        slave_link: slave.link,
    };
    Ok((StatusCode::ACCEPTED, Json(answer)))
}

/// The slave answered, and said no.
pub(super) fn refused(why: String) -> Problem {
    Problem::new(Code::SlaveRefused, why)
}

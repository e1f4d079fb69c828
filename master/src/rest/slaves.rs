//! Slaves: what they are, and what their handshakes came to.

use axum::Json;
use axum::extract::{Path, State};
use reloop_api::page::PageQuery;
use reloop_api::{Page, ReceiptPage, Slave, SlavePage};
use reloop_protocol::id::SlaveKey;
use reloop_protocol::master::{Enrolled, SlaveRecord};

use super::problem::{Code, Problem};
use super::query::{Query, page};
use super::{RestState, view};

/// Whom a name means first: it is only a label, and a newcomer may carry one that is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Prefer {
    Enrolled,
    Pending,
}

/// The slave of a name or of a key's fingerprint.
pub(super) async fn find(state: &RestState, name: String, prefer: Prefer) -> Result<SlaveKey, Problem> {
    let keys = state.handle.slaves_called(&name);
    if let [only] = *keys {
        return Ok(only);
    }
    let found = state
        .handle
        .read(move |state, _| choose(keys.iter().filter_map(|key| state.slaves.get(key)), &name, prefer));
    found.await.map_err(|why| state.unavailable(why))?
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
    let mut named: Vec<&SlaveRecord> = slaves.collect();
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

/// Slaves, by name.
#[utoipa::path(
    get,
    path = "/v1/slaves",
    operation_id = "list_slaves",
    params(
        PageQuery,
        ("link" = Option<String>, Query, description = "Only with this link."),
        ("mode" = Option<String>, Query, description = "Only in this mode."),
    ),
    responses((status = 200, description = "A page.", body = SlavePage)),
)]
pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<SlavePage>, Problem> {
    let (limit, after) = (query.limit(), query.text("cursor"));
    let (wanted_link, wanted_mode) = (query.text("link"), query.text("mode"));
    query.end()?;
    let handle = state.handle.clone();
    let slaves = state.handle.read(move |state, _| {
        let wanted = |slave: &SlaveRecord| {
            wanted_link.as_ref().is_none_or(|link| view::link(slave) == link)
                && wanted_mode.as_ref().is_none_or(|mode| slave.operating_mode.mode.name() == mode)
        };
        let mut found = Vec::new();
        handle.each_slave_after(after.as_deref(), |place, key| {
            if let Some(slave) = state.slaves.get(&key).filter(|slave| wanted(slave)) {
                found.push((place.to_owned(), view::slave(state, slave, handle.last_heard(key))));
            }
            found.len() <= limit
        });
        found
    });
    let slaves = slaves.await.map_err(|why| state.unavailable(why))?;
    let Page { data, next_cursor } = page(slaves, limit, |(place, _)| place.clone());
    Ok(Json(Page { data: data.into_iter().map(|(_, slave)| slave).collect(), next_cursor }))
}

/// A slave.
#[utoipa::path(
    get,
    path = "/v1/slaves/{name}",
    operation_id = "show_slave",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    responses((status = 200, description = "The slave.", body = Slave)),
)]
pub(super) async fn show(
    State(state): State<RestState>,
    Path(name): Path<String>,
) -> Result<Json<Slave>, Problem> {
    let key = find(&state, name, Prefer::Enrolled).await?;
    Ok(Json(one(&state, key).await?))
}

pub(super) async fn one(state: &RestState, key: SlaveKey) -> Result<Slave, Problem> {
    state.slave_view(key).await?.ok_or_else(|| Problem::not_found("the slave is gone"))
}

/// What its handshakes came to, newest first.
#[utoipa::path(
    get,
    path = "/v1/slaves/{name}/receipts",
    operation_id = "list_receipts",
    params(("name" = String, Path, description = "The slave's name, or its key.")),
    responses((status = 200, description = "All that are kept.", body = ReceiptPage)),
)]
pub(super) async fn receipts(
    State(state): State<RestState>,
    Path(name): Path<String>,
) -> Result<Json<ReceiptPage>, Problem> {
    let key = find(&state, name, Prefer::Enrolled).await?;
    let receipts = state.handle.receipts(key).await.map_err(|why| state.unavailable(why))?;
    Ok(Json(Page::whole(receipts.iter().map(view::receipt).collect())))
}

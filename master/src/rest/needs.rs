//! What needs a person, and how many there are of everything: by the master's own numbers, never by a list that is cut.

use axum::Json;
use axum::extract::State;
use reloop_api::page::PageQuery;
use reloop_api::{Counts, NeedPage, Page};
use reloop_protocol::id::{JobId, SlaveKey};
use reloop_protocol::master::{self, Need, Needed, Subject};

use super::problem::Problem;
use super::query::{Query, page};
use super::{RestState, view};

/// How many there are of everything.
///
/// How many jobs have not ended, by state; how many slaves there are, by link; how much needs a person.
#[utoipa::path(
    get,
    path = "/v1/counts",
    operation_id = "show_counts",
    responses((status = 200, description = "The numbers.", body = Counts)),
)]
pub(super) async fn counts(State(state): State<RestState>, query: Query) -> Result<Json<Counts>, Problem> {
    query.end()?;
    let counts = state.handle.read(view::counts).await;
    Ok(Json(counts.map_err(|why| state.unavailable(why))?))
}

/// What needs a person, the most urgent first.
///
/// Each entry says why, the command that ends it, and its risk.
#[utoipa::path(
    get,
    path = "/v1/needs",
    operation_id = "list_needs",
    params(PageQuery),
    responses((status = 200, description = "A page.", body = NeedPage)),
)]
pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<NeedPage>, Problem> {
    let (limit, cursor) = (query.limit(), query.text("cursor"));
    let after = cursor.as_deref().map(place_of);
    if after == Some(None) {
        query.wrong("cursor", "it is no `next_cursor` of this list".to_owned());
    }
    query.end()?;
    let found = state.handle.read(move |state, now| {
        let found = master::needs(state, now, after.flatten(), limit + 1);
        found.into_iter().map(|needed| (cursor_of(&needed), view::need(state, &needed))).collect::<Vec<_>>()
    });
    let found = found.await.map_err(|why| state.unavailable(why))?;
    let Page { data, next_cursor } = page(found, limit, |(cursor, _)| cursor.clone());
    Ok(Json(Page { data: data.into_iter().map(|(_, need)| need).collect(), next_cursor }))
}

/// The place of an entry in the list, as text: what it needs and who.
fn cursor_of(needed: &Needed) -> String {
    let who = match needed.subject {
        Subject::Slave(key) => reloop_node::digest::to_hex(&key.0),
        Subject::Job(id) => id.to_string(),
    };
    format!("{} {who}", needed.need.name())
}

fn place_of(cursor: &str) -> Option<(Need, Subject)> {
    let (need, who) = cursor.split_once(' ')?;
    let subject = match who.parse::<JobId>() {
        Ok(id) => Subject::Job(id),
        Err(_) => Subject::Slave(SlaveKey(bytes(who)?)),
    };
    Some((Need::from_name(need)?, subject))
}

fn bytes(hex: &str) -> Option<[u8; 32]> {
    let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Vec<_> = digits
        .chunks(2)
        .map(|pair| u8::try_from(pair.iter().fold(0, |byte, digit| byte * 16 + digit)).ok())
        .collect::<Option<_>>()?;
    (digits.len() == 64).then(|| bytes.try_into().ok())?
}

//! Orders.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reloop_node::clock::wall_ms;
use reloop_protocol::id::OrderId;
use reloop_protocol::master::{Answer, JobCommand, Order};
use reloop_protocol::spec::CancelMode;
use reloop_protocol::time::Time;
use serde::Serialize;
use serde_json::Value;

use super::fields::{self, Fields};
use super::problem::{Code, Problem};
use super::query::{Query, page};
use super::view::{CANCEL_MODES, JobView, OrderView};
use super::{Page, RestState, live_of, order, unexpected, view};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

pub(super) async fn place(
    State(state): State<RestState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    state.handle.healthy().map_err(|why| Problem::new(Code::StorageUnavailable, why))?;
    let body = fields::json(body).await?;
    let key = headers
        .get(IDEMPOTENCY_KEY)
        .map(|key| order::idempotency_key(key.as_bytes(), body.as_ref().unwrap_or(&Value::Null)));
    let key = key.transpose()?;
    let order = order::parse(body, Time(wall_ms()))?;
    let placed = state.handle.place(order.clone(), key, live_of(&order.jobs)).await;
    let (answer, seen) = placed.map_err(|why| state.unavailable(why))?;
    let (view, replayed) = match answer {
        Answer::Placed { replayed: false, .. } => {
            (view::order(&order, state.views_of_seen(&order.jobs, seen).await?), false)
        }
        Answer::Placed { order, replayed: true } => (whole(&state, &find(&state, order).await?).await?, true),
        Answer::Refused(refusal, why) => return Err(Problem::refused(refusal, why)),
        other => return Err(unexpected(&other)),
    };
    let location = format!("/v1/orders/{}", view.id);
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(location).expect("an id is fine in a header"));
    if replayed {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<Page<OrderView<String>>>, Problem> {
    let (limit, before) = (query.limit(), query.parsed::<OrderId>("cursor"));
    query.end()?;
    let orders = state.handle.orders(before, limit + 1).await.map_err(|why| state.unavailable(why))?;
    let Page { data, next_cursor } = page(orders, limit, |order| order.id.to_string());
    let ids = |order: &Order| view::order(order, order.jobs.iter().map(ToString::to_string).collect());
    Ok(Json(Page { data: data.iter().map(ids).collect(), next_cursor }))
}

pub(super) async fn show(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<OrderView<JobView>>, Problem> {
    let order = find_text(&state, &id).await?;
    Ok(Json(whole(&state, &order).await?))
}

/// How far a cancel of an order got.
#[derive(Serialize)]
pub(super) struct Canceled {
    order: String,
    command: &'static str,
    jobs: Vec<JobDelivery>,
}

#[derive(Serialize)]
struct JobDelivery {
    id: String,
    delivery: &'static str,
}

pub(super) async fn cancel(
    State(state): State<RestState>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<Canceled>), Problem> {
    let mut fields = Fields::new(fields::json(body).await?)?;
    let mode = fields.word("mode", &CANCEL_MODES).unwrap_or(CancelMode::SafePoint);
    fields.end()?;
    let order = find_text(&state, &id).await?;
    let command = JobCommand::Cancel(mode);
    match state.handle.command(order.jobs, command).await.map_err(|why| state.unavailable(why))? {
        Answer::Taken(taken) => {
            let jobs = taken.into_iter();
            let jobs =
                jobs.map(|(id, delivery)| JobDelivery { id: id.to_string(), delivery: delivery.name() });
            let answer = Canceled { order: order.id.to_string(), command: "cancel", jobs: jobs.collect() };
            Ok((StatusCode::ACCEPTED, Json(answer)))
        }
        Answer::Refused(refusal, why) => Err(Problem::refused(refusal, why)),
        other => Err(unexpected(&other)),
    }
}

/// The order with its jobs as they are now.
async fn whole(state: &RestState, order: &Order) -> Result<OrderView<JobView>, Problem> {
    Ok(view::order(order, state.views_of(&order.jobs).await?))
}

async fn find_text(state: &RestState, id: &str) -> Result<Order, Problem> {
    find(state, id.parse().map_err(|error| Problem::not_found(format!("{error}")))?).await
}

pub(super) async fn find(state: &RestState, id: OrderId) -> Result<Order, Problem> {
    let order = state.handle.order(id).await.map_err(|why| state.unavailable(why))?;
    order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))
}

//! Orders.

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use reloop_api::page::PageQuery;
use reloop_api::words::CANCEL_MODES;
use reloop_api::{
    CancelRequest, JobDelivery, Order, OrderCommand, OrderIds, OrderPage, OrderRequest, Page, header as named,
};
use reloop_node::clock::wall_ms;
use reloop_protocol::id::OrderId;
use reloop_protocol::master::{self, Answer, JobCommand};
use reloop_protocol::spec::CancelMode;
use reloop_protocol::time::Time;
use serde_json::Value;

use super::fields::{self, Fields};
use super::problem::{Code, Problem};
use super::query::{Query, page};
use super::{RestState, job_commands, live_of, order, unexpected, view};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static(named::IDEMPOTENCY_KEY);
const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static(named::IDEMPOTENCY_REPLAYED);

/// Place an order.
///
/// With an `Idempotency-Key` the same request may be sent again: it is placed once.
#[utoipa::path(
    post,
    path = "/v1/orders",
    operation_id = "place_order",
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 255 printable characters; kept as long as the order."),
    ),
    request_body = OrderRequest,
    responses((
        status = 201,
        description = "The order is on disk. `Idempotency-Replayed: true`: it was placed before, with this key.",
        body = Order,
        headers(
            ("Location" = String, description = "The order's path."),
            ("Idempotency-Replayed" = String, description = "`true` if the order was placed before, with this key."),
        ),
    )),
)]
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
    let now = Time(wall_ms());
    let order = order::parse(body, now, |jobs| state.handle.new_ids(now, jobs))?;
    let placed = state.handle.place(order.clone(), key, live_of(&order.jobs)).await;
    let (answer, seen) = placed.map_err(|why| state.unavailable(why))?;
    let (view, replayed) = match answer {
        Answer::Placed { replayed: false, .. } => {
            (view::order(&order, state.views_of_seen(&order.jobs, seen).await?), false)
        }
        Answer::Placed { order, replayed: true } => (whole(&state, &find(&state, order).await?).await?, true),
        Answer::Refused(why) => return Err(Problem::refused(&why)),
        other => return Err(unexpected(&other)),
    };
    let location = format!("/v1/orders/{}", view.placed.id);
    let mut response = (StatusCode::CREATED, Json(view)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(location).expect("an id is fine in a header"));
    if replayed {
        headers.insert(IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    }
    Ok(response)
}

/// Orders, newest first.
#[utoipa::path(
    get,
    path = "/v1/orders",
    operation_id = "list_orders",
    params(PageQuery),
    responses((status = 200, description = "A page, with the jobs' ids.", body = OrderPage)),
)]
pub(super) async fn list(
    State(state): State<RestState>,
    mut query: Query,
) -> Result<Json<Page<OrderIds>>, Problem> {
    let (limit, before) = (query.limit(), query.parsed::<OrderId>("cursor"));
    query.end()?;
    let orders = state.handle.orders(before, limit + 1).await.map_err(|why| state.unavailable(why))?;
    let Page { data, next_cursor } = page(orders, limit, |order| order.id.to_string());
    Ok(Json(Page { data: data.iter().map(view::order_ids).collect(), next_cursor }))
}

/// An order with its jobs.
#[utoipa::path(
    get,
    path = "/v1/orders/{id}",
    operation_id = "show_order",
    params(("id" = String, Path, description = "The order's id.")),
    responses((status = 200, description = "The order.", body = Order)),
)]
pub(super) async fn show(
    State(state): State<RestState>,
    Path(id): Path<String>,
) -> Result<Json<Order>, Problem> {
    let order = find_text(&state, &id).await?;
    Ok(Json(whole(&state, &order).await?))
}

/// Cancel all jobs of an order that have not ended.
#[utoipa::path(
    post,
    path = "/v1/orders/{id}/cancel",
    operation_id = "cancel_order",
    params(("id" = String, Path, description = "The order's id.")),
    request_body = CancelRequest,
    responses((status = 202, description = job_commands::TAKEN, body = OrderCommand)),
)]
pub(super) async fn cancel(
    State(state): State<RestState>,
    Path(id): Path<String>,
    body: Body,
) -> Result<(StatusCode, Json<OrderCommand>), Problem> {
    let mut fields = Fields::new(fields::json(body).await?)?;
    let mode = fields.word("mode", &CANCEL_MODES).unwrap_or(CancelMode::SafePoint);
    fields.end()?;
    let order = find_text(&state, &id).await?;
    let command = JobCommand::Cancel(mode);
    match state.handle.command(order.jobs, command).await.map_err(|why| state.unavailable(why))? {
        Answer::Taken(taken) => {
            let jobs = taken.into_iter();
            let jobs = jobs
                .map(|(id, delivery)| JobDelivery { id: id.to_string(), delivery: delivery.name().into() });
            let (order, command) = (order.id.to_string(), "cancel".into());
            Ok((StatusCode::ACCEPTED, Json(OrderCommand { order, command, jobs: jobs.collect() })))
        }
        Answer::Refused(why) => Err(Problem::refused(&why)),
        other => Err(unexpected(&other)),
    }
}

/// The order with its jobs as they are now.
async fn whole(state: &RestState, order: &master::Order) -> Result<Order, Problem> {
    Ok(view::order(order, state.views_of(&order.jobs).await?))
}

async fn find_text(state: &RestState, id: &str) -> Result<master::Order, Problem> {
    find(state, id.parse().map_err(|error| Problem::not_found(format!("{error}")))?).await
}

pub(super) async fn find(state: &RestState, id: OrderId) -> Result<master::Order, Problem> {
    let order = state.handle.order(id).await.map_err(|why| state.unavailable(why))?;
    order.ok_or_else(|| Problem::not_found(format!("there is no order {id}")))
}

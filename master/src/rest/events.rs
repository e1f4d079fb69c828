//! The stream of changes, as server-sent events (WHATWG HTML, section 9.2).
//!
//! Each event is a level: it carries the whole resource as it is when it is sent, so a client that sees the newest one
//! has missed nothing. A client that comes back with `Last-Event-ID` goes on where it was; one that was away for too
//! long, or that reads too slowly, gets `reset` and has to look at everything again.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures_util::stream;
use tokio::sync::OwnedSemaphorePermit;

use super::RestState;
use super::problem::{Code, Problem};
use super::tokens::Bearer;
use crate::changes::{Change, Notice, Subscription};

/// Below the idle limit of every common proxy.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// When a browser that lost the stream tries again.
const RETRY: Duration = Duration::from_secs(2);

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A client that reads events.
struct Stream {
    state: RestState,
    bearer: Bearer,
    /// What is sent before anything new.
    first: VecDeque<First>,
    changes: Subscription,
    _permit: OwnedSemaphorePermit,
}

enum First {
    /// Where the stream begins, so that a client that comes back before anything happened misses nothing.
    From(u64),
    /// The client has to look at everything again.
    Reset(u64),
    /// It happened while the client was away.
    Change(u64, Change),
}

/// Changes as server-sent events.
///
/// `job.changed` and `slave.changed` with the whole resource, `reset` when changes were missed. Goes on after
/// `Last-Event-ID`.
#[utoipa::path(
    get,
    path = "/v1/events",
    operation_id = "stream_events",
    params(("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was seen.")),
    responses((status = 200, description = "The stream.", body = String, content_type = "text/event-stream")),
)]
pub(super) async fn stream(
    State(state): State<RestState>,
    Extension(bearer): Extension<Bearer>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let permit = state.streams.clone().try_acquire_owned().map_err(|_| {
        Problem::new(Code::TooManyStreams, "close a page or a watch that nobody looks at, or poll instead")
    })?;
    let last = headers.get(LAST_EVENT_ID).map(|id| id.to_str().ok().and_then(|id| id.parse::<u64>().ok()));
    let newest = state.handle.newest_change();
    let (first, changes) = match last {
        None => match state.handle.changes_since(newest) {
            Some((missed, changes)) => (begin(First::From(newest), missed), changes),
            None => (begin(First::From(newest), vec![]), state.handle.subscribe()),
        },
        Some(last) => match last.and_then(|last| state.handle.changes_since(last)) {
            Some((missed, changes)) => (begin(First::From(last.unwrap_or(newest)), missed), changes),
            None => {
                // Subscribe before reading the number: a change in between is then told twice, and not missed.
                let changes = state.handle.subscribe();
                (begin(First::Reset(state.handle.newest_change()), vec![]), changes)
            }
        },
    };
    let stream = Stream { state, bearer, first, changes, _permit: permit };
    let events = stream::unfold(stream, async |mut stream| {
        stream.next().await.map(|event| (Ok::<_, Infallible>(event), stream))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT)).into_response();
    response.headers_mut().insert(ACCEL_BUFFERING, HeaderValue::from_static("no"));
    Ok(response)
}

fn begin(first: First, missed: Vec<(u64, Change)>) -> VecDeque<First> {
    std::iter::once(first)
        .chain(missed.into_iter().map(|(number, change)| First::Change(number, change)))
        .collect()
}

fn reset(number: u64) -> Event {
    let hint = r#"{"hint":"changes were missed: read the lists again"}"#;
    Event::default().id(number.to_string()).event("reset").data(hint)
}

impl Stream {
    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let (number, change) = match self.first.pop_front() {
                // No data: a client keeps the id and shows nothing.
                Some(First::From(number)) => {
                    return Some(Event::default().id(number.to_string()).retry(RETRY));
                }
                Some(First::Reset(number)) => return Some(reset(number)),
                Some(First::Change(number, change)) => (number, change),
                None => {
                    let heard = tokio::select! {
                        heard = self.changes.next() => heard,
                        () = self.state.stop.cancelled() => return None,
                    };
                    match heard {
                        Notice::Change { number, change } => (number, change),
                        Notice::Missed => return Some(reset(self.state.handle.newest_change())),
                        Notice::Closed => return None,
                    }
                }
            };
            if !self.state.tokens.holds(&self.bearer.id) {
                return None;
            }
            // Without an answer the master is stopping: the client comes back with the last number that it has.
            if let Some(event) = self.show(change).await.ok()? {
                return Some(event.id(number.to_string()));
            }
        }
    }

    async fn show(&self, change: Change) -> Result<Option<Event>, Problem> {
        let event = match change {
            Change::Job(id) => match self.state.views_of(&[id]).await?.pop() {
                Some(job) => Event::default().event("job.changed").json_data(job),
                None => return Ok(None),
            },
            Change::Slave(key) => match self.state.slave_view(key).await? {
                Some(slave) => Event::default().event("slave.changed").json_data(slave),
                None => return Ok(None),
            },
        };
        event
            .map(Some)
            .map_err(|error| Problem::new(Code::Internal, format!("an event cannot be written: {error}")))
    }
}

//! The interface for clients and people: JSON over HTTP under `/v1`, a stream of events, health, metrics, a web page.
//!
//! Handlers are thin: they parse at the edge, ask the loop through [`Handle`], and show what it says. `routes` is the
//! one list of what there is and who may use it: the router, the guard and the OpenAPI document are made from it. Every
//! request passes the guard (`answer`) first, which knows the bearer, and leaves through it with a request id.

pub mod bodies;
pub mod problem;
pub mod tokens;

mod admin;
mod events;
mod fields;
mod health;
mod jobs;
mod needs;
mod openapi;
mod order;
mod orders;
mod page;
mod query;
mod slaves;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{self, MethodRouter};
use reloop_node::clock::wall_ms;
use reloop_node::digest::to_hex;
use reloop_node::entropy::random;
use reloop_protocol::id::{JobId, SlaveKey};
use reloop_protocol::master::{Answer, Job, Master};
use reloop_protocol::time::Time;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub use self::tokens::{Role, TokenInfo, Tokens, TokensError};

use self::problem::{Code, Problem};
use self::view::JobView;
use crate::config::Config;
use crate::handle::{Handle, Unavailable};

/// Clients that listen to events at a time: each costs a connection and a share of every change.
const STREAMS_LIMIT: usize = 256;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// With every answer of a master that slaves doubt: what to do about it.
pub(crate) const DOUBTED: HeaderName = HeaderName::from_static("reloop-doubted");

/// What handlers work with.
#[derive(Clone)]
pub struct RestState {
    handle: Handle,
    tokens: Arc<Tokens>,
    metrics_public: bool,
    started_at: Time,
    streams: Arc<Semaphore>,
    stop: CancellationToken,
}

impl RestState {
    /// For a loop, with the tokens of its data directory.
    pub fn new(handle: Handle, tokens: Arc<Tokens>, config: &Config) -> Self {
        Self {
            handle,
            tokens,
            metrics_public: config.metrics_public,
            started_at: Time(wall_ms()),
            streams: Arc::new(Semaphore::new(STREAMS_LIMIT)),
            stop: CancellationToken::new(),
        }
    }

    /// Ends the streams of events when the master stops: they would hold their connections open.
    #[must_use]
    pub fn with_stop(self, stop: CancellationToken) -> Self {
        Self { stop, ..self }
    }

    fn unavailable(&self, why: Unavailable) -> Problem {
        Problem::unavailable(&self.handle, why)
    }

    /// The jobs of these ids, in their order; those that are gone are left out.
    async fn jobs(&self, ids: &[JobId]) -> Result<Vec<Job>, Problem> {
        let wanted = ids.to_vec();
        let live = self.handle.read(move |state, _| {
            let live = wanted.iter().filter_map(|id| state.book.jobs.get(id).map(Cow::into_owned));
            live.map(|job| (job.id, job)).collect::<BTreeMap<_, _>>()
        });
        let mut live = live.await.map_err(|why| self.unavailable(why))?;
        let mut jobs = Vec::with_capacity(ids.len());
        for id in ids {
            let job = match live.remove(id) {
                Some(job) => Some(job),
                None => self.handle.job(*id).await.map_err(|why| self.unavailable(why))?,
            };
            jobs.extend(job);
        }
        Ok(jobs)
    }

    async fn job(&self, id: &str) -> Result<Job, Problem> {
        let id = job_id(id)?;
        let job = self.handle.job(id).await.map_err(|why| self.unavailable(why))?;
        job.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
    }

    /// Jobs as clients see them.
    async fn views(&self, jobs: &[Job]) -> Result<Vec<JobView>, Problem> {
        let holders = self.holders(jobs).await?;
        Ok(jobs.iter().map(|job| self.view(job, &holders)).collect())
    }

    /// The jobs of these ids as clients see them, in their order; those that are gone are left out. One look at the
    /// state does for those that have not ended.
    async fn views_of(&self, ids: &[JobId]) -> Result<Vec<JobView>, Problem> {
        let seen = self.handle.read(live_of(ids)).await.map_err(|why| self.unavailable(why))?;
        self.views_of_seen(ids, seen).await
    }

    /// The same, after the look.
    async fn views_of_seen(
        &self,
        ids: &[JobId],
        (mut jobs, mut holders): Seen,
    ) -> Result<Vec<JobView>, Problem> {
        let mut ended = Vec::new();
        for id in ids.iter().filter(|id| !jobs.contains_key(id)) {
            ended.extend(self.handle.job(*id).await.map_err(|why| self.unavailable(why))?);
        }
        if !ended.is_empty() {
            holders.append(&mut self.holders(&ended).await?);
            jobs.extend(ended.into_iter().map(|job| (job.id, job)));
        }
        Ok(ids.iter().filter_map(|id| jobs.get(id)).map(|job| self.view(job, &holders)).collect())
    }

    /// One job as clients see it.
    async fn view_of(&self, id: JobId) -> Result<JobView, Problem> {
        let view = self.views_of(&[id]).await?.pop();
        view.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
    }

    async fn holders(&self, jobs: &[Job]) -> Result<view::Holders, Problem> {
        let keys = view::keys(jobs);
        let holders = self.handle.read(move |state, _| view::holders(state, &keys)).await;
        holders.map_err(|why| self.unavailable(why))
    }

    fn view(&self, job: &Job, holders: &view::Holders) -> JobView {
        view::job(job, holders, |key| self.handle.last_heard(key))
    }

    async fn slave_view(&self, key: SlaveKey) -> Result<Option<view::SlaveView>, Problem> {
        let heard = self.handle.last_heard(key);
        let slave = self
            .handle
            .read(move |state, _| state.slaves.get(&key).map(|slave| view::slave(state, slave, heard)));
        slave.await.map_err(|why| self.unavailable(why))
    }
}

/// Jobs that have not ended, and who has them.
type Seen = (BTreeMap<JobId, Job>, view::Holders);

/// A look at those of these jobs that have not ended.
fn live_of(ids: &[JobId]) -> impl FnOnce(&Master, Time) -> Seen + Send + use<> {
    let wanted = ids.to_vec();
    move |state, _| {
        let live: BTreeMap<_, _> =
            wanted.iter().filter_map(|id| Some((*id, state.book.jobs.get(id)?.into_owned()))).collect();
        let holders = view::holders(state, &view::keys(live.values()));
        (live, holders)
    }
}

fn job_id(id: &str) -> Result<JobId, Problem> {
    id.parse().map_err(|error| Problem::not_found(format!("{error}")))
}

/// A page of a list.
#[derive(Debug, Serialize)]
struct Page<T> {
    data: Vec<T>,
    /// For the next page; null on the last.
    next_cursor: Option<String>,
}

impl<T> Page<T> {
    fn whole(data: Vec<T>) -> Self {
        Self { data, next_cursor: None }
    }
}

/// The rules gave an answer that does not belong to the question.
fn unexpected(answer: &Answer) -> Problem {
    tracing::error!(?answer, "the rules answered something else than was asked");
    Problem::new(Code::Internal, "the answer was not understood: ask for the state before you try again")
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Everybody,
    /// This role and those above it.
    From(Role),
    /// A viewer, unless the config says everybody.
    Metrics,
}

/// One thing that can be asked for.
struct Route {
    method: Method,
    path: &'static str,
    access: Access,
    handler: MethodRouter<RestState>,
}

/// Everything that can be asked for, and by whom.
fn routes() -> Vec<Route> {
    use Access::{Everybody, From, Metrics};
    use Role::{Admin, Client, Operator, Viewer};
    use jobs::Verb;
    use routing::{delete, get, post};
    use slaves::Verb as SlaveVerb;

    let mut routes = Vec::new();
    let mut add = |method, path, access, handler| routes.push(Route { method, path, access, handler });

    add(Method::POST, "/v1/orders", From(Client), post(orders::place));
    add(Method::GET, "/v1/orders", From(Viewer), get(orders::list));
    add(Method::GET, "/v1/orders/{id}", From(Viewer), get(orders::show));
    add(Method::POST, "/v1/orders/{id}/cancel", From(Client), post(orders::cancel));

    add(Method::GET, "/v1/jobs", From(Viewer), get(jobs::list));
    add(Method::GET, "/v1/jobs/{id}", From(Viewer), get(jobs::show));
    add(Method::GET, "/v1/jobs/{id}/events", From(Viewer), get(jobs::events));
    add(Method::GET, "/v1/jobs/{id}/log", From(Viewer), get(jobs::log));
    add(Method::GET, "/v1/jobs/{id}/explain", From(Viewer), get(jobs::explain));
    for (path, role, verb) in [
        ("/v1/jobs/{id}/cancel", Client, Verb::Cancel),
        ("/v1/jobs/{id}/pause", Client, Verb::Pause),
        ("/v1/jobs/{id}/resume", Client, Verb::Resume),
        ("/v1/jobs/{id}/release", Client, Verb::Release),
        ("/v1/jobs/{id}/reschedule", Operator, Verb::Reschedule),
        ("/v1/jobs/{id}/retry", Operator, Verb::Retry),
        ("/v1/jobs/{id}/resolve", Operator, Verb::Resolve),
        ("/v1/jobs/{id}/abandon", Operator, Verb::Abandon),
    ] {
        add(
            Method::POST,
            path,
            From(role),
            post(async move |state, id, body| jobs::command(state, id, body, verb).await),
        );
    }

    add(Method::GET, "/v1/needs", From(Viewer), get(needs::list));
    add(Method::GET, "/v1/counts", From(Viewer), get(needs::counts));

    add(Method::GET, "/v1/slaves", From(Viewer), get(slaves::list));
    add(Method::GET, "/v1/slaves/{name}", From(Viewer), get(slaves::show));
    add(Method::GET, "/v1/slaves/{name}/receipts", From(Viewer), get(slaves::receipts));
    for (path, role, verb) in [
        ("/v1/slaves/{name}/ready", Operator, SlaveVerb::Ready),
        ("/v1/slaves/{name}/clear", Operator, SlaveVerb::Clear),
        ("/v1/slaves/{name}/mode", Operator, SlaveVerb::Mode),
        ("/v1/slaves/{name}/approve", Operator, SlaveVerb::Approve),
        ("/v1/slaves/{name}/forget", Admin, SlaveVerb::Forget),
    ] {
        let handler = post(async move |state, bearer, name, body| {
            slaves::command(state, bearer, name, body, verb).await
        });
        add(Method::POST, path, From(role), handler);
    }

    add(Method::POST, "/v1/enroll-tokens", From(Admin), post(admin::make_enroll_token));
    add(Method::POST, "/v1/master/confirm-restore", From(Admin), post(admin::confirm_restore));
    add(Method::POST, "/v1/tokens", From(Admin), post(admin::create_token));
    add(Method::GET, "/v1/tokens", From(Admin), get(admin::list_tokens));
    add(Method::DELETE, "/v1/tokens/{id}", From(Admin), delete(admin::revoke_token));

    add(Method::GET, "/v1/events", From(Viewer), get(events::stream));
    add(Method::GET, "/v1/openapi.json", From(Viewer), get(openapi::show));
    add(Method::GET, "/livez", Everybody, get(health::livez));
    add(Method::GET, "/readyz", Everybody, get(health::readyz));
    add(Method::GET, "/metrics", Metrics, get(health::metrics));
    add(Method::GET, "/", Everybody, get(page::index));
    add(Method::GET, "/assets/app.js", Everybody, get(page::script));
    add(Method::GET, "/assets/app.css", Everybody, get(page::style));
    routes
}

/// Knows who may do what, before anything else happens.
#[derive(Clone)]
struct Guard {
    handle: Handle,
    tokens: Arc<Tokens>,
    /// By method and path; a path or method that is not there takes any token, and then is not found.
    access: Arc<BTreeMap<(&'static str, &'static str), Access>>,
    metrics_public: bool,
}

impl Guard {
    fn admit(
        &self,
        method: &Method,
        path: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<TokenInfo>, Problem> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let access = path.and_then(|path| self.access.get(&(method.as_str(), path)));
        let role = match access {
            Some(Access::Everybody) => return Ok(None),
            Some(Access::Metrics) if self.metrics_public => return Ok(None),
            Some(Access::From(role)) => *role,
            Some(Access::Metrics) | None => Role::Viewer,
        };
        let bearer = bearer(headers).and_then(|token| self.tokens.bearer(token)).ok_or_else(|| {
            Problem::new(Code::Unauthorized, "send a valid token as `Authorization: Bearer <token>`")
        })?;
        if bearer.role < role {
            let text = format!("this takes the role {role}; the token {} is a {}'s", bearer.id, bearer.role);
            return Err(Problem::new(Code::Forbidden, text));
        }
        Ok(Some(bearer))
    }
}

/// The token of a request (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// All of it; `/v1/link` is not here, for slaves prove who they are in their own way.
pub fn router(state: RestState) -> Router {
    let routes = routes();
    let guard = Guard {
        handle: state.handle.clone(),
        tokens: Arc::clone(&state.tokens),
        access: Arc::new(routes.iter().map(|r| ((method_name(&r.method), r.path), r.access)).collect()),
        metrics_public: state.metrics_public,
    };
    let router =
        routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.handler));
    router
        .fallback(async || {
            Problem::not_found("there is nothing at this path: /v1/openapi.json says what there is")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "/v1/openapi.json says what this path takes")
        })
        .layer(middleware::from_fn_with_state(guard, answer))
        .with_state(state)
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        _ => "GET",
    }
}

/// The outermost layer: admits the request, gives it an id, and sees to it that every error is a problem document.
async fn answer(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = format!("req_{}", to_hex(&random::<8>()));
    let method = request.method().clone();
    let path = request.extensions().get::<MatchedPath>().cloned();
    let path = path.as_ref().map(MatchedPath::as_str);
    let admitted = guard.admit(&method, path, request.headers());
    let mut response = match admitted {
        Ok(bearer) => {
            if let Some(bearer) = bearer {
                request.extensions_mut().insert(bearer);
            }
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let allow = response.headers_mut().remove(header::ALLOW);
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response = problem.render(&id);
    } else if response.status().is_client_error() || response.status() == StatusCode::INTERNAL_SERVER_ERROR {
        // From an extractor of the library, which answers in plain text.
        let code = if response.status().is_client_error() { Code::BadRequest } else { Code::Internal };
        response = Problem::new(code, "the path or the query cannot be read").render(&id);
    }
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, HeaderValue::try_from(&id).expect("hexadecimal digits are fine in a header"));
    if let Some(doubt) = guard.handle.doubt().and_then(|doubt| HeaderValue::try_from(doubt).ok()) {
        headers.insert(DOUBTED, doubt);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let status = response.status().as_u16();
    tracing::debug!(request = %id, %method, path, status, took = ?started.elapsed(), "answered");
    response
}

#[cfg(test)]
mod tests;

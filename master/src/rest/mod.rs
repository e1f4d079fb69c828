//! The interface for clients and people: JSON over HTTP under `/v1`, a stream of events, health, metrics, a web page.
//!
//! Handlers are thin: they parse at the edge, ask the loop through `Handle`, and show what it says. Each carries the
//! attribute that says its method, its path and what it takes and gives; `routes` is the one list of them, with who may
//! use each. The router, the guard and the OpenAPI document are made from that list. Every request passes the guard
//! first, which knows the bearer, and leaves through it with a request id.

pub mod bodies;
pub mod problem;
pub mod tokens;

mod admin;
mod document;
mod events;
mod fields;
mod guard;
mod health;
mod job_commands;
mod jobs;
mod needs;
mod order;
mod orders;
mod page;
mod query;
mod slave_commands;
mod slaves;
mod view;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use axum::http::Method;
use axum::routing::MethodRouter;
use axum::{Router, middleware};
use reloop_node::clock::wall_ms;
use reloop_protocol::id::{JobId, SlaveKey};
use reloop_protocol::master::{Answer, Job, Master};
use reloop_protocol::time::Time;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::path::Paths;
use utoipa::openapi::{RefOr, Schema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::tokens::{Tokens, TokensError};

use self::guard::{Access, Guard};
use self::problem::{Code, Problem};
use crate::config::Config;
use crate::handle::{Handle, Unavailable};

/// How many clients may listen to events at a time: each costs a connection and a share of every change.
const STREAMS_LIMIT: usize = 256;

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
    /// Serves the master behind this handle.
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
    async fn views(&self, jobs: &[Job]) -> Result<Vec<reloop_api::Job>, Problem> {
        let holders = self.holders(jobs).await?;
        Ok(jobs.iter().map(|job| self.view(job, &holders)).collect())
    }

    /// The jobs of these ids as clients see them, in their order; those that are gone are left out. One look at the
    /// state does for those that have not ended.
    async fn views_of(&self, ids: &[JobId]) -> Result<Vec<reloop_api::Job>, Problem> {
        let seen = self.handle.read(live_of(ids)).await.map_err(|why| self.unavailable(why))?;
        self.views_of_seen(ids, seen).await
    }

    /// The jobs of these ids as clients see them, once `seen` holds those that have not ended.
    async fn views_of_seen(
        &self,
        ids: &[JobId],
        (mut jobs, mut holders): Seen,
    ) -> Result<Vec<reloop_api::Job>, Problem> {
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
    async fn view_of(&self, id: JobId) -> Result<reloop_api::Job, Problem> {
        let view = self.views_of(&[id]).await?.pop();
        view.ok_or_else(|| Problem::not_found(format!("there is no job {id}")))
    }

    async fn holders(&self, jobs: &[Job]) -> Result<view::Holders, Problem> {
        let keys = view::keys(jobs);
        let holders = self.handle.read(move |state, _| view::holders(state, &keys)).await;
        holders.map_err(|why| self.unavailable(why))
    }

    fn view(&self, job: &Job, holders: &view::Holders) -> reloop_api::Job {
        view::job(job, holders, |key| self.handle.last_heard(key))
    }

    async fn slave_view(&self, key: SlaveKey) -> Result<Option<reloop_api::Slave>, Problem> {
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

/// The rules gave an answer that does not belong to the question.
fn unexpected(answer: &Answer) -> Problem {
    tracing::error!(?answer, "the rules answered something else than was asked");
    Problem::new(Code::Internal, "the answer was not understood: ask for the state before you try again")
}

/// Something that can be asked for.
struct Route {
    method: Method,
    path: String,
    access: Access,
    described: Described,
}

/// A handler with its description and the schemas that this needs.
type Described = (Vec<(String, RefOr<Schema>)>, Paths, MethodRouter<RestState>);

/// Everything that can be asked for, and by whom.
fn routes() -> Vec<Route> {
    use reloop_api::Role::{Admin, Client, Operator, Viewer};

    use self::Access::{Everybody, From, Metrics};

    vec![
        route(From(Client), routes!(orders::place)),
        route(From(Viewer), routes!(orders::list)),
        route(From(Viewer), routes!(orders::show)),
        route(From(Client), routes!(orders::cancel)),
        route(From(Viewer), routes!(jobs::list)),
        route(From(Viewer), routes!(jobs::show)),
        route(From(Viewer), routes!(jobs::events)),
        route(From(Viewer), routes!(jobs::log)),
        route(From(Viewer), routes!(jobs::explain)),
        route(From(Client), routes!(job_commands::cancel)),
        route(From(Client), routes!(job_commands::pause)),
        route(From(Client), routes!(job_commands::resume)),
        route(From(Client), routes!(job_commands::release)),
        route(From(Operator), routes!(job_commands::reschedule)),
        route(From(Operator), routes!(job_commands::retry)),
        route(From(Operator), routes!(job_commands::resolve)),
        route(From(Operator), routes!(job_commands::abandon)),
        route(From(Viewer), routes!(needs::list)),
        route(From(Viewer), routes!(needs::counts)),
        route(From(Viewer), routes!(slaves::list)),
        route(From(Viewer), routes!(slaves::show)),
        route(From(Viewer), routes!(slaves::receipts)),
        route(From(Operator), routes!(slave_commands::ready)),
        route(From(Operator), routes!(slave_commands::clear)),
        route(From(Operator), routes!(slave_commands::mode)),
        route(From(Operator), routes!(slave_commands::approve)),
        route(From(Admin), routes!(slave_commands::forget)),
        route(From(Admin), routes!(admin::make_enroll_token)),
        route(From(Admin), routes!(admin::confirm_restore)),
        route(From(Admin), routes!(admin::create_token)),
        route(From(Admin), routes!(admin::list_tokens)),
        route(From(Admin), routes!(admin::revoke_token)),
        route(From(Viewer), routes!(events::stream)),
        route(From(Viewer), routes!(document::show)),
        route(Everybody, routes!(health::livez)),
        route(Everybody, routes!(health::readyz)),
        route(Metrics, routes!(health::metrics)),
        route(Everybody, routes!(page::index)),
        route(Everybody, routes!(page::script)),
        route(Everybody, routes!(page::style)),
    ]
}

/// A route of one handler, whose description is completed with who may use it.
fn route(access: Access, mut described: Described) -> Route {
    let (path, item) = described.1.paths.iter_mut().next().expect("a handler has a path");
    let operations =
        [(Method::GET, &mut item.get), (Method::POST, &mut item.post), (Method::DELETE, &mut item.delete)];
    let operation =
        operations.into_iter().find_map(|(method, operation)| Some((method, operation.as_mut()?)));
    let (method, operation) = operation.expect("a handler has one of the methods that are used here");
    document::restrict(operation, access);
    Route { method, path: path.clone(), access, described }
}

/// All of it; `/v1/link` is not here, for slaves prove who they are in their own way.
pub fn router(state: RestState) -> Router {
    let routes = routes();
    let guard = Guard::new(&state, &routes);
    let router = routes.into_iter().fold(OpenApiRouter::default(), |all, route| all.routes(route.described));
    Router::from(router)
        .fallback(async || {
            Problem::not_found("there is nothing at this path: /v1/openapi.json says what there is")
        })
        .method_not_allowed_fallback(async || {
            Problem::new(Code::MethodNotAllowed, "/v1/openapi.json says what this path takes")
        })
        .layer(middleware::from_fn_with_state(guard, guard::answer))
        .with_state(state)
}

#[cfg(test)]
mod tests;

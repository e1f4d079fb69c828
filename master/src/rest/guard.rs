//! The outermost layer: who may do what, and what every answer carries.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use reloop_api::{Code, Role};
use reloop_node::digest::to_hex;
use reloop_node::entropy::random;

use super::problem::Problem;
use super::tokens::{Bearer, Tokens};
use super::{RestState, Route};
use crate::handle::Handle;

const REQUEST_ID: HeaderName = HeaderName::from_static(reloop_api::header::REQUEST_ID);
const DOUBTED: HeaderName = HeaderName::from_static(reloop_api::header::DOUBTED);

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Everybody,
    /// This role and those above it.
    From(Role),
    /// A viewer, unless the config says everybody.
    Metrics,
}

/// Knows who may do what, before anything else happens.
#[derive(Clone)]
pub(super) struct Guard {
    handle: Handle,
    tokens: Arc<Tokens>,
    /// By path and method; a path or method that is not there takes any token, and then is not found.
    access: Arc<BTreeMap<String, Vec<(Method, Access)>>>,
    metrics_public: bool,
}

impl Guard {
    pub(super) fn new(state: &RestState, routes: &[Route]) -> Self {
        let mut access: BTreeMap<String, Vec<(Method, Access)>> = BTreeMap::new();
        for route in routes {
            access.entry(route.path.clone()).or_default().push((route.method.clone(), route.access));
        }
        Self {
            handle: state.handle.clone(),
            tokens: Arc::clone(&state.tokens),
            access: Arc::new(access),
            metrics_public: state.metrics_public,
        }
    }

    fn admit(
        &self,
        method: &Method,
        path: Option<&str>,
        headers: &HeaderMap,
    ) -> Result<Option<Bearer>, Problem> {
        let method = if method == Method::HEAD { &Method::GET } else { method };
        let access = path.and_then(|path| self.access.get(path)?.iter().find(|(known, _)| known == method));
        let role = match access.map(|(_, access)| access) {
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

/// Admits the request, gives it an id, and sees to it that every error is a problem document.
pub(super) async fn answer(State(guard): State<Guard>, mut request: Request, next: Next) -> Response {
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

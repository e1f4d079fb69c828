//! Errors on their way to a client, and the RFC 9457 document that each becomes.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reloop_api::problem::MEDIA_TYPE;
pub use reloop_api::{Code, FieldError};
use reloop_protocol::master::Refusal;

use crate::handle::{Handle, Unavailable};

/// When a client may try again that was told "not now": about what a restart takes.
const RETRY_AFTER_SECONDS: u32 = 5;

/// An error, on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What went wrong, for programs.
    pub code: Code,
    /// What went wrong and what would help, for people.
    pub detail: String,
    /// Everything that is wrong with the request.
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A problem that is about no field.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new() }
    }

    /// There is nothing of that name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// These fields are wrong.
    pub fn fields(code: Code, errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [] => "the request is not understood".to_owned(),
            [only] => format!("{}: {}", only.field, only.detail),
            [first, rest @ ..] => format!("{}: {} (and {} more)", first.field, first.detail, rest.len()),
        };
        Self { code, detail, errors }
    }

    /// One field is wrong.
    pub fn field(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::fields(Code::BadRequest, vec![FieldError { field: field.into(), detail: detail.into() }])
    }

    /// The rules did not grant it.
    pub fn refused(refusal: &Refusal) -> Self {
        let code = match refusal {
            Refusal::NoSuchJob(_) | Refusal::NoSuchSlave => Code::NotFound,
            Refusal::KeyReused(_) => Code::IdempotencyKeyReused,
            Refusal::WrongState { .. } | Refusal::AlreadyResolved(_) => Code::WrongState,
            Refusal::SlaveOnline(..) => Code::SlaveOnline,
            Refusal::SlaveOffline(_) => Code::SlaveOffline,
            Refusal::NothingToDo(_) => Code::NothingToDo,
            Refusal::SlaveRefused(_) => Code::SlaveRefused,
            Refusal::SlaveRevoked => Code::SlaveRevoked,
        };
        Self::new(code, refusal.text())
    }

    /// No answer came from the loop: because of the disk, or for a passing reason.
    pub fn unavailable(handle: &Handle, why: Unavailable) -> Self {
        match handle.healthy() {
            Err(cause) => Self::new(Code::StorageUnavailable, cause),
            Ok(()) => Self::new(Code::Unavailable, why.0),
        }
    }

    /// The document, for a request of this id.
    pub fn document(&self, request_id: &str) -> reloop_api::Problem {
        reloop_api::Problem {
            code: self.code.name().into(),
            detail: self.detail.clone(),
            errors: self.errors.clone(),
            request_id: request_id.to_owned(),
            status: self.code.status(),
            title: self.code.title().into(),
            kind: format!("/v1/openapi.json#/x-problem-codes/{}", self.code.name()),
        }
    }

    /// The answer, for a request of this id.
    pub fn render(&self, request_id: &str) -> Response {
        let document = serde_json::to_vec(&self.document(request_id)).expect("texts and numbers are JSON");
        let mut response = Response::new(Body::from(document));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"reloop\""));
        }
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }

    fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.code.status()).expect("every code has a status between 400 and 599")
    }
}

impl IntoResponse for Problem {
    /// Leaves the document to the outermost layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use reloop_protocol::id::{JobId, OrderId};
    use reloop_protocol::job::State;
    use reloop_protocol::master::{NothingToDo, Offline, SlaveRefused, WrongState};
    use reloop_protocol::message::{Reason, ReasonCode};

    use super::*;

    #[test]
    fn a_problem_names_its_code_its_fields_and_the_request() {
        let errors = vec![
            FieldError { field: "/quantity".to_owned(), detail: "0; allowed are 1 to 1000".to_owned() },
            FieldError { field: "/program".to_owned(), detail: "missing".to_owned() },
        ];
        let document = Problem::fields(Code::BadRequest, errors).document("req_1");
        assert_eq!((document.status, &*document.code, &*document.request_id), (400, "bad_request", "req_1"));
        assert_eq!(document.detail, "/quantity: 0; allowed are 1 to 1000 (and 1 more)");
        assert_eq!(document.errors[1].field, "/program");
    }

    #[test]
    fn every_refusal_has_its_status() {
        let (job, state, why) = (JobId([1; 16]), State::Running, WrongState::NotUncertain);
        let said = Reason::new(ReasonCode::Resolved, "somebody has said it");
        for (refusal, status) in [
            (Refusal::NoSuchJob(job), 404),
            (Refusal::NoSuchSlave, 404),
            (Refusal::KeyReused(OrderId([1; 16])), 422),
            (Refusal::WrongState { job, state, why }, 409),
            (Refusal::AlreadyResolved(said), 409),
            (Refusal::SlaveOnline(job, state), 409),
            (Refusal::SlaveOffline(Offline::Slave), 409),
            (Refusal::NothingToDo(NothingToDo::Ready), 409),
            (Refusal::SlaveRevoked, 409),
            (Refusal::SlaveRefused(SlaveRefused::Doubts), 409),
        ] {
            assert_eq!(Problem::refused(&refusal).status().as_u16(), status, "{refusal:?}");
        }
    }

    #[test]
    fn every_code_has_a_status_of_an_error() {
        for code in Code::ALL {
            let status = Problem::new(*code, "").status();
            assert!(status.is_client_error() || status.is_server_error(), "{code:?}");
        }
    }

    #[test]
    fn who_shall_try_again_is_told_when() {
        let response = Problem::new(Code::StorageUnavailable, "full").render("req_1");
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    }
}

//! Errors as RFC 9457 problem documents: a stable `code` for programs, a `detail` that says what would help.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use reloop_protocol::master::Refusal;
use serde_json::{Value, json};

use crate::handle::{Handle, Unavailable};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

/// When a client may try again that was told "not now": about what a restart takes.
const RETRY_AFTER_SECONDS: u32 = 5;

macro_rules! codes {
    ($($name:ident = $text:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong, for programs: stable words, append only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word that programs see.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it is, in general.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The status that it comes with.
            pub fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", BAD_REQUEST, "The request is not one that the master understands";
    UnknownField = "unknown_field", BAD_REQUEST, "The request has a field that does not exist";
    Unauthorized = "unauthorized", UNAUTHORIZED, "A valid token is needed";
    Forbidden = "forbidden", FORBIDDEN, "The token's role does not permit this";
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The path does not take this method";
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request's body did not arrive in time";
    Conflict = "conflict", CONFLICT, "It is not possible as things stand";
    WrongState = "wrong_state", CONFLICT, "The job's state does not allow it";
    SlaveOnline = "slave_online", CONFLICT, "The slave is connected and can be asked instead";
    SlaveOffline = "slave_offline", CONFLICT, "The slave is not connected";
    NothingToDo = "nothing_to_do", CONFLICT, "There is nothing that this could end";
    SlaveRefused = "slave_refused", CONFLICT, "The slave said no";
    SlaveRevoked = "slave_revoked", CONFLICT, "The slave was revoked, and only a token enrols it again";
    BodyTooLarge = "body_too_large", PAYLOAD_TOO_LARGE, "The request's body is too large";
    IdempotencyKeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The key was used with another body";
    TooManyStreams = "too_many_streams", SERVICE_UNAVAILABLE, "Too many clients listen to events";
    StorageUnavailable = "storage_unavailable", SERVICE_UNAVAILABLE, "The master cannot store anything at present";
    Unavailable = "unavailable", SERVICE_UNAVAILABLE, "There is no answer at present";
    Internal = "internal", INTERNAL_SERVER_ERROR, "The master made a mistake";
}

/// One thing that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Where, as a JSON Pointer (RFC 6901) into the body, or the parameter's name.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub detail: String,
}

/// An error, on its way to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What, for programs.
    pub code: Code,
    /// What, for people, with what would help.
    pub detail: String,
    /// Where in the request.
    pub errors: Vec<FieldError>,
}

impl Problem {
    /// A code with its words.
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
    pub fn refused(refusal: Refusal, detail: String) -> Self {
        let code = match refusal {
            Refusal::NoSuchJob | Refusal::NoSuchSlave => Code::NotFound,
            Refusal::KeyReused => Code::IdempotencyKeyReused,
            Refusal::WrongState(_) => Code::WrongState,
            Refusal::SlaveOnline => Code::SlaveOnline,
            Refusal::SlaveOffline => Code::SlaveOffline,
            Refusal::NothingToDo(_) => Code::NothingToDo,
            Refusal::SlaveRefused => Code::SlaveRefused,
            Refusal::SlaveRevoked => Code::SlaveRevoked,
        };
        Self::new(code, detail)
    }

    /// No answer came from the loop: because of the disk, or for a passing reason.
    pub fn unavailable(handle: &Handle, why: Unavailable) -> Self {
        match handle.healthy() {
            Err(cause) => Self::new(Code::StorageUnavailable, cause),
            Ok(()) => Self::new(Code::Unavailable, why.0),
        }
    }

    /// The document.
    pub fn document(&self, request_id: &str) -> Value {
        let mut document = json!({
            "type": format!("/v1/openapi.json#/x-problem-codes/{}", self.code.name()),
            "title": self.code.title(),
            "status": self.code.status().as_u16(),
            "detail": self.detail,
            "code": self.code.name(),
            "request_id": request_id,
        });
        if !self.errors.is_empty() {
            let error = |error: &FieldError| json!({ "field": error.field, "detail": error.detail });
            document["errors"] = self.errors.iter().map(error).collect();
        }
        document
    }

    /// The answer, for a request of this id.
    pub fn render(&self, request_id: &str) -> Response {
        let mut response = Response::new(Body::from(self.document(request_id).to_string()));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"reloop\""));
        }
        if self.code.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Leaves the document to the outermost layer, which knows the request's id.
    fn into_response(self) -> Response {
        let mut response = self.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_names_its_code_its_fields_and_the_request() {
        let errors = vec![
            FieldError { field: "/quantity".to_owned(), detail: "0; allowed are 1 to 1000".to_owned() },
            FieldError { field: "/program".to_owned(), detail: "missing".to_owned() },
        ];
        let document = Problem::fields(Code::BadRequest, errors).document("req_1");
        assert_eq!(document["status"], 400);
        assert_eq!(document["code"], "bad_request");
        assert_eq!(document["request_id"], "req_1");
        assert_eq!(document["detail"], "/quantity: 0; allowed are 1 to 1000 (and 1 more)");
        assert_eq!(document["errors"][1]["field"], "/program");
    }

    #[test]
    fn every_refusal_has_its_status() {
        for (refusal, status) in [
            (Refusal::NoSuchJob, 404),
            (Refusal::NoSuchSlave, 404),
            (Refusal::KeyReused, 422),
            (Refusal::WrongState(reloop_protocol::job::State::Running), 409),
            (Refusal::SlaveOnline, 409),
            (Refusal::SlaveOffline, 409),
            (Refusal::NothingToDo("ready"), 409),
            (Refusal::SlaveRevoked, 409),
            (Refusal::SlaveRefused, 409),
        ] {
            assert_eq!(
                Problem::refused(refusal, String::new()).code.status().as_u16(),
                status,
                "{refusal:?}"
            );
        }
    }

    #[test]
    fn who_shall_try_again_is_told_when() {
        let response = Problem::new(Code::StorageUnavailable, "full").render("req_1");
        assert_eq!(response.headers()[header::RETRY_AFTER], "5");
        assert_eq!(response.headers()[header::CONTENT_TYPE], MEDIA_TYPE);
    }
}

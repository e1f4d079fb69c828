//! Errors as RFC 9457 problem documents: a stable `code` for programs, a `detail` that says what would help.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Word, schema};

/// The media type of a problem document.
pub const MEDIA_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($name:ident = $text:literal, $status:literal, $title:literal;)*) => {
        /// What went wrong, for programs: stable words, append only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $title] $name,)* }

        impl Code {
            /// All codes, in the order of their list.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The word that programs see.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// What it is, in general.
            pub fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }

            /// The HTTP status that it comes with.
            pub fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", 400, "The request is not one that the master understands";
    UnknownField = "unknown_field", 400, "The request has a field that does not exist";
    Unauthorized = "unauthorized", 401, "A valid token is needed";
    Forbidden = "forbidden", 403, "The token's role does not permit this";
    NotFound = "not_found", 404, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", 405, "The path does not take this method";
    RequestTimeout = "request_timeout", 408, "The request's body did not arrive in time";
    Conflict = "conflict", 409, "It is not possible as things stand";
    WrongState = "wrong_state", 409, "The job's state does not allow it";
    SlaveOnline = "slave_online", 409, "The slave is connected and can be asked instead";
    SlaveOffline = "slave_offline", 409, "The slave is not connected";
    NothingToDo = "nothing_to_do", 409, "There is nothing that this could end";
    SlaveRefused = "slave_refused", 409, "The slave said no";
    SlaveRevoked = "slave_revoked", 409, "The slave was revoked, and only a token enrols it again";
    BodyTooLarge = "body_too_large", 413, "The request's body is too large";
    IdempotencyKeyReused = "idempotency_key_reused", 422, "The key was used with another body";
    TooManyStreams = "too_many_streams", 503, "Too many clients listen to events";
    StorageUnavailable = "storage_unavailable", 503, "The master cannot store anything at present";
    Unavailable = "unavailable", 503, "There is no answer at present";
    Internal = "internal", 500, "The master made a mistake";
}

/// Something that is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FieldError {
    /// What is wrong, and what is allowed.
    pub detail: String,
    /// Where, as a JSON Pointer (RFC 6901) into the body, or the parameter's name.
    pub field: String,
}

/// A problem, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// What went wrong, for programs.
    #[schema(schema_with = schema::problem_code)]
    pub code: Word,
    /// What went wrong and what would help, for people.
    pub detail: String,
    /// Everything that is wrong with the request; absent if it is about no field.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(inline)]
    pub errors: Vec<FieldError>,
    /// The request's id in the master's log.
    pub request_id: String,
    /// The HTTP status.
    pub status: u16,
    /// What the code means in general.
    #[schema(value_type = String)]
    pub title: Word,
    /// Where the code is described.
    #[serde(rename = "type")]
    pub kind: String,
}

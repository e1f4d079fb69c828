//! The requests and answers of the master's REST interface: what the server writes, its clients read, and the OpenAPI
//! document describes.
//!
//! Reading order: [`order`], [`job`], [`slave`], [`need`], [`admin`], [`problem`], [`page`], then [`words`] and [`limits`].
//!
//! * The interface is additive: a client tolerates fields and words that it does not know. Answers therefore do not
//!   deny unknown fields, and what is an enumeration to the rules is a [`Word`] here. A field that is added later to an
//!   answer has a serde default, so that a client can still read an older master.
//! * Every field of an answer is always there, null where there is nothing to say, and in the order of the struct.
//! * Requests deny unknown fields. The server does not read them by serde, which stops at the first error: it names
//!   everything that is wrong with a body at once. Its tests compare what it takes with these types.
//! * Doc comments of fields are their descriptions in the document.

pub mod admin;
pub mod job;
pub mod limits;
pub mod need;
pub mod order;
pub mod page;
pub mod problem;
pub mod slave;
pub mod words;

mod schema;

use std::borrow::Cow;

pub use self::admin::{
    EnrollToken, EnrollTokenRequest, NewToken, RestoreRequest, Restored, Role, Token, TokenPage, TokenRequest,
};
pub use self::job::{
    Earlier, Explanation, Freshness, Job, JobCommand, JobEvent, JobEventPage, JobPage, Outcome, Reason,
    ReleaseRequest, RescheduleRequest, ResolveRequest, WhyNot,
};
pub use self::need::{Counts, Need, NeedPage};
pub use self::order::{
    CancelRequest, JobDelivery, Nothing, Order, OrderCommand, OrderIds, OrderPage, OrderRequest, Placed,
    Retry, RetryRequest, Start, StartRequest,
};
pub use self::page::Page;
pub use self::problem::{Code, FieldError, Problem};
pub use self::slave::{
    Attention, ModeRequest, PersonRequest, Receipt, ReceiptLine, ReceiptPage, Slave, SlaveCommand, SlavePage,
};

/// A word of a vocabulary that may grow: the server writes one of its constants, a client reads any text.
pub type Word = Cow<'static, str>;

/// Names of the headers that are not standard ones, in lower case.
pub mod header {
    /// Of a request: the same key places the same order once.
    pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// Of an answer: `true` if the order had been placed before, with this key.
    pub const IDEMPOTENCY_REPLAYED: &str = "idempotency-replayed";
    /// Of an answer with a part of a job's output: the part's first byte.
    pub const LOG_OFFSET: &str = "reloop-log-offset";
    /// Of an answer with a part of a job's output: the length of the whole output.
    pub const LOG_TOTAL: &str = "reloop-log-total";
    /// Of every answer of a master that slaves doubt: what to do about it.
    pub const DOUBTED: &str = "reloop-doubted";
    /// Of every answer: the request's id in the master's log.
    pub const REQUEST_ID: &str = "x-request-id";
}

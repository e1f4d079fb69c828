//! What a request may say at most: the server refuses more, and the document tells it.

/// The longest body in bytes: an order with all that it may carry fits many times.
pub const BODY_LIMIT: usize = 256 * 1024;
/// The longest name, key or label: it fits a line.
pub const NAME_LIMIT: usize = 128;
/// The longest value of a parameter or label.
pub const VALUE_LIMIT: usize = 4096;
/// How many entries a map may have.
pub const ENTRIES_LIMIT: usize = 64;
/// The longest idempotency key.
pub const KEY_LIMIT: usize = 255;

/// How many jobs one order may have: they are written in one batch.
pub const QUANTITY_LIMIT: i64 = 1000;
/// How many bytes parameters, labels and requirements may have together: each job's record carries them, a record has
/// to fit the store's 64 KiB with everything that a job may go through, and a message to a slave carries several.
pub const WORK_LIMIT: usize = 16 * 1024;
/// How often a job may be tried by itself.
pub const ATTEMPTS_LIMIT: i64 = 100;
/// How long the first retry may wait: a day.
pub const BACKOFF_LIMIT_SECONDS: i64 = 24 * 3600;
/// A year: more is a typing error.
pub const RUNTIME_LIMIT_SECONDS: i64 = 366 * 24 * 3600;

/// How long a release holds if nobody says: longer than a walk to the machine.
pub const RELEASE_DEFAULT_SECONDS: i64 = 600;
/// A release is a person's word about now; a week is no longer that.
pub const RELEASE_LIMIT_SECONDS: i64 = 7 * 24 * 3600;

/// How long an enrolment token holds if nobody says.
pub const ENROLL_DEFAULT_SECONDS: i64 = 3600;
/// A month: enough to send a box somewhere.
pub const ENROLL_LIMIT_SECONDS: i64 = 31 * 24 * 3600;
/// A whole factory's worth of slaves on one token.
pub const USES_LIMIT: i64 = 10_000;

/// How many entries a page has if nobody says.
pub const PAGE_DEFAULT: i64 = 50;
/// A page of whole jobs, each of 16 KiB and what it went through, stays below some megabytes.
pub const PAGE_LIMIT: i64 = 500;
/// How many bytes of a log are answered if nobody says.
pub const LOG_DEFAULT: u32 = 16 * 1024;

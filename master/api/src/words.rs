//! Vocabularies of requests, each word with what it means to the rules.

use reloop_protocol::job::{End, OnInterrupt};
use reloop_protocol::master::RetryOn;
use reloop_protocol::spec::{CancelMode, Late, OnOverdue};

/// What happens to a job whose start is missed.
pub const LATE: [(&str, Late); 3] = [("hold", Late::Hold), ("run", Late::Run), ("skip", Late::Skip)];
/// What happens to a job that runs longer than `max_runtime_seconds`.
pub const ON_OVERDUE: [(&str, OnOverdue); 2] = [("flag", OnOverdue::Flag), ("stop", OnOverdue::Stop)];
/// What happens to a job whose run was interrupted.
pub const ON_INTERRUPT: [(&str, OnInterrupt); 3] =
    [("hold", OnInterrupt::Hold), ("fail", OnInterrupt::Fail), ("restart", OnInterrupt::Restart)];
/// The ends after which a job is tried again.
pub const RETRY_ON: [(&str, RetryOn); 2] = [("failed", RetryOn::Failed), ("rejected", RetryOn::Rejected)];
/// How a running job may be stopped.
pub const CANCEL_MODES: [(&str, CancelMode); 3] = [
    ("if_not_started", CancelMode::IfNotStarted),
    ("safe_point", CancelMode::SafePoint),
    ("now", CancelMode::Now),
];
/// How an uncertain job is said to have ended.
pub const ENDS: [(&str, End); 3] =
    [("succeeded", End::Succeeded), ("failed", End::Failed), ("canceled", End::Stopped)];
/// A slave's link: `never` until its first handshake.
pub const LINKS: [&str; 3] = ["online", "offline", "never"];

/// The word for a value; `unknown` if the vocabulary lacks it.
pub fn word<T: PartialEq>(words: &[(&'static str, T)], value: &T) -> &'static str {
    words.iter().find(|(_, known)| known == value).map_or("unknown", |(word, _)| word)
}

//! Waiting for a condition instead of sleeping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// The usual limit of a scenario: far longer than anything takes, because the box may be busy.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// A condition that holds at once costs nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Long enough not to load two cores, short enough not to slow a test down.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// The result of one poll: the awaited value, or a description of what was there instead.
///
/// An `Option` has no description; the error of a `Result` is shown in the failure message.
pub trait Look {
    type Found;
    /// The value, or a description of what was there instead.
    fn found(self) -> Result<Self::Found, String>;
}

impl<T> Look for Option<T> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".to_owned())
    }
}

impl<T, E: Debug> Look for Result<T, E> {
    type Found = T;
    fn found(self) -> Result<T, String> {
        self.map_err(|seen| format!("{seen:#?}"))
    }
}

/// Polls, with growing pauses, until `look` finds something.
pub async fn eventually<L: Look>(
    what: &str,
    deadline: Duration,
    mut look: impl AsyncFnMut() -> L,
) -> L::Found {
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    let mut last_seen = "no answer to the first look".to_owned();
    while let Ok(look) = timeout_at(end, look()).await {
        match look.found() {
            Ok(found) => return found,
            Err(seen) => last_seen = seen,
        }
        if Instant::now() + pause > end {
            break;
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(LONGEST_PAUSE);
    }
    panic!("waited {deadline:?} for: {what}\nlast seen: {last_seen}");
}

/// Waits until a log has a line with these words. Returns the first such line.
pub async fn says(log: impl Fn() -> String, words: &str) -> String {
    eventually(&format!("{words:?} in a log"), PATIENCE, async || {
        let log = log();
        log.lines().find(|line| line.contains(words)).map(str::to_owned).ok_or(log)
    })
    .await
}

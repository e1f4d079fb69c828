//! Waiting for a condition instead of sleeping.

use std::fmt::Debug;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// What a scenario waits for anything: far longer than it takes, for a box that is busy with other things.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Short enough that a condition which holds at once costs nothing.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Long enough that two cores are not busy with asking, short enough that no test gets slow by it.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);

/// What one look at the world gave: the awaited value, or what was seen instead.
///
/// `Option` says nothing about what was seen; a `Result` carries it in its error, and the failure message shows it.
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

/// Looks again and again, with pauses that grow, until `look` finds something.
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

/// Waits until a log has a line with these words; the first such line.
pub async fn says(log: impl Fn() -> String, words: &str) -> String {
    eventually(&format!("{words:?} in a log"), PATIENCE, async || {
        let log = log();
        log.lines().find(|line| line.contains(words)).map(str::to_owned).ok_or(log)
    })
    .await
}

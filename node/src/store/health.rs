//! Whether a store can be relied on, as its thread leaves it for the handles to see.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::StoreError;

/// A single write that takes longer counts as trouble: a healthy disk needs milliseconds, a busy one seconds.
pub(super) const STALL_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Health {
    /// Final: a write failed, or the store was closed.
    pub(super) fault: Option<StoreError>,
    /// Set while space is low.
    pub(super) low_space: Option<StoreError>,
    pub(super) writing_since: Option<Instant>,
}

impl Health {
    pub(super) fn at(&self, now: Instant) -> Result<(), StoreError> {
        let writing_for =
            self.writing_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
        let stalled =
            (writing_for > STALL_LIMIT).then_some(StoreError::Stalled { seconds: writing_for.as_secs() });
        self.fault.clone().or(stalled).or_else(|| self.low_space.clone()).map_or(Ok(()), Err)
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds one of the store's locks")
}

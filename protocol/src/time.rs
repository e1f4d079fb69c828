//! Time as both nodes use it: whole milliseconds.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment: milliseconds since the Unix epoch, UTC. By the master's clock, unless a field says that it is by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub i64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}

impl Time {
    /// The moment that is `length` later, or the latest one that there is.
    #[must_use]
    pub fn after(self, length: Millis) -> Self {
        Self(self.0.saturating_add_unsigned(length.0))
    }

    /// The moment that is `ms` later, or earlier if negative; at most the latest or earliest one that there is.
    #[must_use]
    pub fn shifted(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// By how many milliseconds this moment is later than `other`; negative if it is earlier.
    pub fn ahead_of(self, other: Time) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// The length of time from `earlier` to this moment; 0 if `earlier` is later.
    pub fn since(self, earlier: Time) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A wall clock counts as set if it has moved against a monotonic clock by more than this since the two were last compared. Time
/// services that only speed a clock up or slow it down change both alike.
pub const CLOCK_STEP: Millis = Millis(1000);

/// By how many milliseconds the wall clock was set, if it moved by `wall` milliseconds while a monotonic clock moved by `passed`.
/// `None` if it was not set.
pub fn clock_step(wall: i64, passed: Millis) -> Option<i64> {
    let step = wall.saturating_sub_unsigned(passed.0);
    (step.unsigned_abs() > CLOCK_STEP.0).then_some(step)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

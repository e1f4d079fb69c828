//! Time as both nodes speak of it: whole milliseconds by the master's clock.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A moment: milliseconds since the Unix epoch, UTC, by the master's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Time(pub i64);

/// A length of time in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Millis(pub u64);

impl Millis {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(seconds.saturating_mul(1000))
    }
}

impl Time {
    /// This moment and a length of time later; the far end of time if that does not fit.
    #[must_use]
    pub fn after(self, length: Millis) -> Self {
        Self(self.0.saturating_add_unsigned(length.0))
    }

    /// This moment and a difference between two clocks later; the far end of time if that does not fit.
    #[must_use]
    pub fn shifted(self, ms: i64) -> Self {
        Self(self.0.saturating_add(ms))
    }

    /// What this clock shows more than another, in milliseconds.
    pub fn ahead_of(self, other: Time) -> i64 {
        self.0.saturating_sub(other.0)
    }

    /// How long it is from `earlier` to this moment; nothing if `earlier` is later.
    pub fn since(self, earlier: Time) -> Millis {
        Millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

/// A wall clock was set if it and a clock that only goes forward have come apart by more than this since they were last
/// compared: time services that only speed it up or slow it down change both alike.
pub const CLOCK_STEP: Millis = Millis(1000);

/// By how many milliseconds the wall clock was set while it went on by `wall` and the other clock by `passed`; nothing if
/// it was not.
pub fn clock_step(wall: i64, passed: Millis) -> Option<i64> {
    let step = wall.saturating_sub_unsigned(passed.0);
    (step.unsigned_abs() > CLOCK_STEP.0).then_some(step)
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.0)
    }
}

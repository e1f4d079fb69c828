//! A slave's two clocks, and the master's time by them.

use serde::{Deserialize, Serialize};

use super::Slave;
use crate::id::BootId;
use crate::time::Time;

/// Both of a slave's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Now {
    /// The wall clock: it may be wrong, and it may jump.
    pub wall: Time,
    /// Milliseconds since the kernel's boot, sleep included: it only goes forward.
    pub boot_ms: u64,
}

/// One reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sync {
    /// In this boot.
    pub boot: BootId,
    /// At this many milliseconds since the boot...
    pub boot_ms: u64,
    /// ...and this wall clock...
    pub wall: Time,
    /// ...the master's clock showed this.
    pub master: Time,
}

impl Sync {
    /// The master's clock at this many milliseconds since the same boot.
    pub(super) fn master_at(&self, boot_ms: u64) -> Time {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        self.master.shifted(ms(boot_ms) - ms(self.boot_ms))
    }
}

/// The master's time, if this box can tell it.
pub(super) fn master_time(state: &Slave, now: Now) -> Option<Time> {
    let sync = state.node.sync?;
    if Some(sync.boot) == state.volatile.boot {
        return Some(sync.master_at(now.boot_ms));
    }
    state.settings.trust_clock.then(|| by_wall(state, now, now.wall))
}

/// The best guess at the master's time: what reports are stamped with.
pub(super) fn stamp(state: &Slave, now: Now) -> Time {
    master_time(state, now).unwrap_or_else(|| by_wall(state, now, now.wall))
}

/// A wall clock reading of this box, by the master's clock.
pub(super) fn by_wall(state: &Slave, now: Now, wall: Time) -> Time {
    match state.node.sync {
        Some(sync) if Some(sync.boot) == state.volatile.boot => {
            sync.master_at(now.boot_ms).shifted(wall.ahead_of(now.wall))
        }
        Some(sync) => wall.shifted(sync.master.ahead_of(sync.wall)),
        None => wall,
    }
}

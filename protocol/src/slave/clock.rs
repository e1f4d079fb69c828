//! A slave's two clocks, and the master's time by them.

use serde::{Deserialize, Serialize};

use super::{Slave, TrustClock};
use crate::id::BootId;
use crate::time::{Millis, Time, clock_step};

/// Both of a slave's clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Now {
    /// The wall clock: it may be wrong, and it may jump.
    pub wall: Time,
    /// Milliseconds since the kernel's boot, sleep included: it only goes forward.
    pub boot_ms: u64,
    /// Whether a time service has set the wall clock in this boot.
    pub synchronized: bool,
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
    /// Whether a time service had set the wall clock by then.
    pub synchronized: bool,
}

impl Sync {
    /// The master's clock at this many milliseconds since the same boot.
    pub(super) fn master_at(&self, boot_ms: u64) -> Time {
        let ms = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        self.master.shifted(ms(boot_ms) - ms(self.boot_ms))
    }
}

/// What a slave knows the master's time by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSource {
    /// A Challenge in this boot.
    Master,
    /// The box's wall clock, because the settings trust it.
    Wall,
}

/// The clocks in one step, and what is known of the master's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    now: Now,
    boot: Option<BootId>,
    sync: Option<Sync>,
    trust: TrustClock,
}

/// The master's time and what it is known by; `None` if it is not known.
pub fn master_clock(state: &Slave, now: Now) -> Option<(Time, ClockSource)> {
    Clock::of(state, now).of_master()
}

impl Clock {
    pub(super) fn of(state: &Slave, now: Now) -> Self {
        Self { now, boot: state.volatile.boot, sync: state.node.sync, trust: state.settings.trust_clock }
    }

    pub(super) fn wall(&self) -> Time {
        self.now.wall
    }

    pub(super) fn boot_ms(&self) -> u64 {
        self.now.boot_ms
    }

    /// The master's time, if it is known.
    pub(super) fn master_time(&self) -> Option<Time> {
        self.of_master().map(|(time, _)| time)
    }

    fn of_master(&self) -> Option<(Time, ClockSource)> {
        let (now, sync) = (self.now, self.sync?);
        if Some(sync.boot) == self.boot {
            return Some((sync.master_at(now.boot_ms), ClockSource::Master));
        }
        let is_trusted = match self.trust {
            TrustClock::Never => false,
            TrustClock::Always => true,
            // The difference between the two clocks is wrong if a time service has set the wall clock since it was taken.
            TrustClock::Synchronized => now.synchronized && sync.synchronized,
        };
        is_trusted.then(|| (self.by_wall(now.wall), ClockSource::Wall))
    }

    /// The best guess at the master's time: what reports are stamped with.
    pub(super) fn stamp(&self) -> Time {
        self.master_time().unwrap_or_else(|| self.by_wall(self.now.wall))
    }

    /// A wall clock reading of this box, by the master's clock.
    pub(super) fn by_wall(&self, wall: Time) -> Time {
        match self.sync {
            Some(sync) if Some(sync.boot) == self.boot => {
                sync.master_at(self.now.boot_ms).shifted(wall.ahead_of(self.now.wall))
            }
            Some(sync) => wall.shifted(sync.master.ahead_of(sync.wall)),
            None => wall,
        }
    }

    /// What a run's work time is measured with; `None` before the agent's start is known.
    pub(super) fn of_work(&self) -> Option<WorkClock> {
        let (stamp, master) = (self.stamp(), self.master_time());
        Some(WorkClock { boot: self.boot?, boot_ms: self.now.boot_ms, stamp, master })
    }

    /// A reading of both clocks at this moment, when the master's shows `master`; `None` before the agent's start is known.
    pub(super) fn reading(&self, master: Time) -> Option<Sync> {
        let Now { wall, boot_ms, synchronized } = self.now;
        Some(Sync { boot: self.boot?, boot_ms, wall, master, synchronized })
    }

    /// The same difference between the master's time and the time since the boot, with a wall clock that a time service has set since it
    /// was measured: after a power cut only such a comparison counts ([`TrustClock::Synchronized`]).
    pub(super) fn measured_again(&self) -> Option<Sync> {
        let sync = self.sync.filter(|sync| !sync.synchronized && Some(sync.boot) == self.boot)?;
        let counts = self.now.synchronized && self.trust == TrustClock::Synchronized;
        counts.then(|| self.reading(sync.master_at(self.now.boot_ms)))?
    }

    /// Whether timed work could start by this box's clock once a time service has set it.
    pub(super) fn lacks_a_time_service(&self) -> bool {
        let is_comparable = self.sync.is_some_and(|sync| sync.synchronized);
        self.trust == TrustClock::Synchronized && is_comparable && self.master_time().is_none()
    }
}

/// By how many milliseconds the master's clock was set back between two readings in the same boot, as a negative number; `None` if it
/// was not. That it was set forwards can't be told from a box that was suspended.
pub(super) fn masters_step_back(before: Sync, reading: Sync) -> Option<i64> {
    let passed = Millis(reading.boot_ms.saturating_sub(before.boot_ms));
    let step = clock_step(reading.master.ahead_of(before.master), passed);
    step.filter(|step| *step < 0)
}

/// What a run's work time is measured with.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkClock {
    boot: BootId,
    boot_ms: u64,
    stamp: Time,
    master: Option<Time>,
}

/// The begin of a stretch in which a machine works without a pause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Stretch {
    /// In this boot of the box.
    pub boot: BootId,
    /// At this many milliseconds since the boot.
    pub boot_ms: u64,
    /// By the master's clock, which counts if the box was booted since.
    pub at: Time,
}

impl WorkClock {
    pub(super) fn stretch(&self) -> Stretch {
        Stretch { boot: self.boot, boot_ms: self.boot_ms, at: self.stamp }
    }

    /// How long a stretch has lasted: by the time since the boot if it began in this boot, else by the master's time. Until that is known,
    /// the time since the boot is taken, which is the least that it can be.
    pub(super) fn since(&self, stretch: Stretch) -> Millis {
        match self.master {
            _ if stretch.boot == self.boot => Millis(self.boot_ms.saturating_sub(stretch.boot_ms)),
            Some(master) => master.since(stretch.at),
            None => Millis(self.boot_ms),
        }
    }

    /// Whether the stretch began in another boot, and it is known how long it has lasted.
    pub(super) fn can_rebase(&self, stretch: Stretch) -> bool {
        stretch.boot != self.boot && self.master.is_some()
    }
}

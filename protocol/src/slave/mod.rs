//! The rules of the node at the machine.
//!
//! A slave favours consistency: what it believes is what is on its disk, and what is on its disk mirrors the machine.
//! It never waits for the master. A link only brings desired states in and truth out; without one, the slave goes on with what
//! it has, starts deferred jobs by itself, keeps outcomes, and tells everything at the next handshake.
//!
//! [`step`] is the one entry. In reading order: `state`, `event` and `effect` are what it works on, `clock` tells the master's time;
//! `handshake` runs from the Challenge to Settled, `live` takes what the master says afterwards, and `desired` what it wants of a
//! job; `machine` takes what the machine says, `local` what people beside it want; `schedule` looks at the whole at the end of
//! every step: what may start now, and what each job waits for. What changed durably is then written, and what changed at all is
//! told to the master if it listens, so no rule has to remember to write or to report.

mod clock;
mod desired;
mod effect;
mod event;
mod handshake;
mod jobs;
mod live;
mod local;
mod machine;
pub mod redial;
mod schedule;
mod state;
mod step;

pub use self::clock::{ClockSource, Now, Stretch, Sync, master_clock};
pub use self::effect::{Effect, Ignored, Step, Write};
pub use self::event::{Ended, Event, Fact, Local, Probed, RunKey};
pub use self::jobs::Jobs;
pub use self::machine::machine_report;
pub use self::schedule::{CLOCK_PATIENCE, PROBE_PATIENCE, Why, next_deadline};
pub use self::state::{
    AfterFailure, Damage, Disclosure, HELD_BYTES, Job, LATE_TOLERANCE, Link, LinkId, Node, Probing,
    RECENT_OUTCOMES, RECENT_OUTCOMES_BYTES, Release, RunState, Settings, Slave, TrustClock, Volatile,
    broken_invariant, durable, recover, snapshot,
};
pub use self::step::step;

//! The rules of the node at the machine.
//!
//! A slave favours consistency: what it believes is what is on its disk, and what is on its disk mirrors the machine.
//! It never waits for the master. A link only brings desired states in and truth out; without one, the slave goes on with what
//! it has, starts deferred jobs by itself, keeps outcomes, and tells everything at the next handshake.
//!
//! [`step`] is the one entry. It changes the state by what happened ([`link`](self) for messages, `work` for the
//! machine, the clock and people), then looks at the whole: what may start now, what each job waits for, what has
//! changed. What changed durably is to be written, and what changed at all is told to the master if it listens. So no
//! rule has to remember to write or to report.

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

pub use self::clock::{Now, Sync};
pub use self::effect::{Effect, Ignored, Step, Write};
pub use self::event::{Ended, Event, Fact, Local, Probed, RunKey};
pub use self::jobs::Jobs;
pub use self::machine::machine_report;
pub use self::schedule::{PROBE_PATIENCE, Why, next_deadline};
pub use self::state::{
    AfterFailure, Damage, Disclosure, HELD_BYTES, Job, Link, LinkId, Node, Probing, RECENT_OUTCOMES,
    RECENT_OUTCOMES_BYTES, Release, RunState, Settings, Slave, Volatile, broken_invariant, durable, recover,
    snapshot,
};
pub use self::step::step;

//! The rules of the node at the machine.
//!
//! A slave favours consistency: what it believes is what is on its disk, and what is on its disk mirrors the machine.
//! It never waits for the master. A link only brings desired states in and truth out; without one, the slave goes on with what
//! it has, starts deferred jobs by itself, keeps outcomes, and tells everything at the next handshake.
//!
//! [`step`] is the one entry: an event's own rules, then a look around at what the time and the machine's condition make of the
//! whole, then the end of the step, which writes what changed durably and tells what changed at all. So no rule has to remember
//! to write or to report.
//!
//! Every rule reads the whole state, and changes it through one of these, which hold only what they may change:
//!
//! | | changes |
//! |---|---|
//! | `Held` (`held`) | one job |
//! | `AtMachine` (`machine`) | one job with the machine |
//! | `Machine` (`machine`) | what bars the machine, what it was asked |
//! | `Jobs` (`jobs`) | which jobs are held, and recent outcomes |
//! | `Uplink` (`uplink`) | link, session, binding, what is owed |
//! | `Timekeeper` (`timekeeper`) | what is kept of the master's time |
//! | `Place` (`place`) | box, boot, store |
//! | `Out` (`out`) | effects and declined offers; at the end of a step the numbers of reports, and with a Settled the link and the token |
//!
//! In reading order: `state`, `job`, `event` and `effect` are what a step works on, `reason` is why it decides so, `clock` tells the
//! master's time. `step` has the order of everything; `held`, `machine` and `out` are what most rules stand on. Then the rules:
//! `handshake` with `uplink` runs from the Challenge to Settled, `live` takes what the master says afterwards, and `desired` what it
//! wants of a job; `steer` pauses and stops; `facts` takes what the machine says, `local` what people beside it want; `schedule` and
//! `waiting` look at the whole: what may start now, and what each job waits for. Last the small ones: `jobs`, `timekeeper`, `place`,
//! and `redial`, which stands for itself.

mod checks;
mod clock;
mod desired;
mod effect;
mod event;
mod facts;
mod handshake;
mod held;
mod job;
mod jobs;
mod live;
mod local;
mod machine;
mod out;
mod place;
mod reason;
pub mod redial;
mod schedule;
mod state;
mod steer;
mod step;
mod timekeeper;
mod uplink;
mod waiting;

pub use self::checks::Checks;
pub use self::clock::{ClockSource, Now, Stretch, Sync, master_clock};
pub use self::effect::{Effect, Ignored, Step, Write};
pub use self::event::{Ended, Event, Fact, Local, Probed, RunKey};
pub use self::job::{Job, RunState};
pub use self::machine::machine_report;
pub use self::reason::{AskRefused, Closing, Decline, Done, Doubt, JobReason, NotDone};
pub use self::schedule::{CLOCK_PATIENCE, PROBE_PATIENCE, Why, next_deadline};
pub use self::state::{
    AfterFailure, Damage, Disclosure, HELD_BYTES, LATE_TOLERANCE, Link, LinkId, MAX_FAILURES_IN_ROW, Node,
    Probing, RECENT_OUTCOMES, RECENT_OUTCOMES_BYTES, Release, Settings, Slave, TrustClock, Volatile,
    broken_invariant, durable, recover, snapshot,
};
pub use self::step::step;

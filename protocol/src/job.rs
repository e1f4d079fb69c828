//! A job's life, for both nodes, in one place: its [states](State), what [happens](Event) to it, and THE TABLE.
//!
//! [`next`] answers one question: a job is in this state and this happened, what is it now? The slave asks it for what
//! its machine does and for what it finds after a crash; the master asks it for what people decide and for what a
//! slave reports, live or in a handshake. Nobody changes a job's state in any other way, and there is no second
//! rulebook: reconciliation only decides *which* of these events happened.
//!
//! ```text
//!            Bound            Taken             StartIntended      MachineStarted
//!  Queued ─────────▶ Assigned ───────▶ Accepted ──────────────▶ Starting ────────▶ Running ◀──▶ Paused
//!    ▲ GivenBack ◀──────┘  ▲              │                        │ no proof         │  StopBegan   │
//!    │                     └ (the master's half)                   ▼                  ▼              ▼
//!    └── Retried ── ended: Succeeded Failed Canceled Rejected   Uncertain ──▶ …    Stopping ──▶ ended
//!                          Expired Lost                          (a person)
//! ```
//!
//! `Queued`, `Assigned` and `Lost` are words of the master alone; all others are said by a slave, and the master only
//! repeats them. "Running" is something only a slave says.

mod event;
mod state;
mod table;

pub use self::event::{End, Event, OnInterrupt};
pub use self::state::State;
pub use self::table::{Rejection, Transition, next};

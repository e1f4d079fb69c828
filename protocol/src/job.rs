//! A job's life, for both nodes, in one place: its [states](State), the [events](Event) that happen to it, and the job
//! table, [`next`], which gives the state after an event.
//!
//! The slave asks the table for what its machine does and for what it finds after a crash. The master asks it for what people
//! decide and for what a slave reports, live or in a handshake. A job that is held moves from state to state in no other way:
//! reconciliation only decides which of these events happened.
//!
//! ```text
//!  at the master
//!     Queued ──AttemptAssigned──▶ Assigned ──Reported(..)──▶ what the slave says, from Accepted on
//!        ◀──────GivenBack─────────────┘
//!        ◀──────Retried──── any ended state but Succeeded
//!     any state but an end ──Abandoned──▶ Lost
//!
//!  at the slave                            ┌─StartPostponed, FoundNeverStarted─┐
//!                                          ▼                                   │
//!     (an offer is taken) ───────────▶ Accepted ───────StartIntended───────▶ Starting
//!                                                                              │ MachineStarted
//!                              Paused ◀──MachinePaused, MachineResumed──▶ Running
//!
//!     Starting, Running, Paused ──StopBegan──▶ Stopping
//!     Starting, Running, Paused, Stopping ──MachineEnded──▶ Succeeded, Failed, Canceled
//!     Starting, Running, Paused, Stopping ──FoundNothing──▶ Uncertain ──Resolved──▶ Succeeded, Failed, Canceled
//!                                                           Uncertain ──FoundAlive──▶ Running, Paused
//! ```
//!
//! `Queued`, `Assigned` and `Lost` are states that only a master gives a job. All others are reported by a slave; a master
//! also ends a job that no slave holds (`Canceled`, `Expired`, `Rejected`) and makes one `Uncertain` whose slave has lost it.

mod event;
mod state;
mod table;

pub use self::event::{End, Event, OnInterrupt};
pub use self::state::State;
pub use self::table::{Rejection, Transition, next};

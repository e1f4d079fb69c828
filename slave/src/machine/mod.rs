//! The machines of this slave, behind one interface: [`Command`]s go in,
//! [`Fact`](reloop_protocol::slave::Fact)s come out.
//!
//! Every command and fact names a [`RunKey`](reloop_protocol::slave::RunKey): one run of one attempt of one job. A key is
//! started at most once, ever; the start of a key that the machine has seen is refused, whatever became of that run. An agent
//! that starts after a crash [probes](Command::Probe) its runs, and the answer is one of these
//! ([`Probed`](reloop_protocol::slave::Probed)):
//!
//! * *never started* is a proof, and also a promise: from then on no start under this key takes effect, not even one that a
//!   dead agent had set going;
//! * *alive*: the run is watched from here on, as if this agent had started it;
//! * *ended*: with its outcome and its time;
//! * *gone*: it began and certainly runs no more, but its outcome cannot be known, or a shutdown cut it short;
//! * *unknown*: the machine cannot say, so a person has to;
//! * *not begun*: something at the machine kept it from beginning. Nothing began, and nothing will under this key.
//!
//! The work never depends on the agent: dropping [`Machines`] or killing the agent leaves every machine as it is.
//!
//! Each machine has a driver with blocking calls. Its commands are done one by one, in a plain thread that exists while there
//! are commands, so a slow machine delays neither the agent nor another machine. Facts leave through one bounded channel;
//! those about one run leave in the order in which they happened. The same fact may be reported twice (when a run that has
//! ended is probed, or asked to stop), but never only a part of it.

mod dispatch;
pub mod process;
mod simulated;
mod types;

pub use dispatch::Machines;
pub(crate) use types::run_name;
pub use types::{Command, Rejection, Work};

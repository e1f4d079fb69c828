//! THE TABLE: a job's life, for both nodes, in one place.
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

use serde::{Deserialize, Serialize};

use self::Event::*;
use self::State::*;
use self::Turn::{Never, Same, To};

/// What a job is, by the last durable fact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// The master has it, no slave does.
    Queued,
    /// Bound to a slave and an attempt; the slave has not confirmed.
    Assigned,
    /// On the slave's disk: the slave owns it from here.
    Accepted,
    /// The intent to start is on the slave's disk; the machine is being touched.
    Starting,
    /// The machine works on it.
    Running,
    /// Interrupted, and it can be resumed.
    Paused,
    /// The wish to stop is on the slave's disk; the machine is running down.
    Stopping,
    /// It may or may not have run to some point: nobody but a person can say.
    Uncertain,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended because somebody wished so.
    Canceled,
    /// The slave refused it before it started.
    Rejected,
    /// Its window closed before it started.
    Expired,
    /// A person gave it up: its outcome is not known.
    Lost,
}

impl State {
    /// Every state, in wire order.
    pub const ALL: [Self; 14] = [
        Queued, Assigned, Accepted, Starting, Running, Paused, Stopping, Uncertain, Succeeded, Failed,
        Canceled, Rejected, Expired, Lost,
    ];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Queued => "queued",
            Assigned => "assigned",
            Accepted => "accepted",
            Starting => "starting",
            Running => "running",
            Paused => "paused",
            Stopping => "stopping",
            Uncertain => "uncertain",
            Succeeded => "succeeded",
            Failed => "failed",
            Canceled => "canceled",
            Rejected => "rejected",
            Expired => "expired",
            Lost => "lost",
        }
    }

    /// The state of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Nothing more happens to this attempt, save that the truth may still correct `Lost`.
    pub fn is_ended(self) -> bool {
        match self {
            Succeeded | Failed | Canceled | Rejected | Expired | Lost => true,
            Queued | Assigned | Accepted | Starting | Running | Paused | Stopping | Uncertain => false,
        }
    }

    /// The machine was or may have been touched, and the work has not ended.
    pub fn is_started(self) -> bool {
        match self {
            Starting | Running | Paused | Stopping | Uncertain => true,
            Queued | Assigned | Accepted | Succeeded | Failed | Canceled | Rejected | Expired | Lost => false,
        }
    }

    /// The machine is occupied by it, as far as its slave knows.
    pub fn is_executing(self) -> bool {
        match self {
            Starting | Running | Paused | Stopping => true,
            Queued | Assigned | Accepted | Uncertain | Succeeded | Failed | Canceled | Rejected | Expired
            | Lost => false,
        }
    }

    /// A slave may say this of a job that it holds.
    pub fn is_slaves_word(self) -> bool {
        match self {
            Accepted | Starting | Running | Paused | Stopping | Uncertain | Succeeded | Failed | Canceled
            | Rejected | Expired => true,
            Queued | Assigned | Lost => false,
        }
    }
}

/// How the machine's work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum End {
    /// As it should.
    Succeeded,
    /// By a fault.
    Failed,
    /// Because it was told to stop.
    Stopped,
}

/// What an order says about work that was interrupted and whose outcome nobody can know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum OnInterrupt {
    /// A person decides.
    #[default]
    Hold,
    /// It counts as failed.
    Fail,
    /// It is safe to begin again, on the same slave and under the same attempt.
    Restart,
}

/// What happened to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    // At the master: decisions of people and of the book.
    /// The book gave it to a slave, under a new attempt.
    Bound,
    /// The slave does not hold it and will not: declined, handed back, or never reached.
    GivenBack,
    /// It was canceled where no slave holds it.
    Withdrawn,
    /// Its latest start passed where no slave holds it.
    WindowClosed,
    /// A person gave this attempt up.
    Abandoned,
    /// A person, or the order's own policy, wants another attempt.
    Retried,
    /// The slave held it and now has neither the job nor its outcome.
    Vanished,
    /// The slave says so.
    Reported(State),
    /// A person says how an uncertain job ended.
    Resolved(End),

    // At the slave: facts of its disk and of its machine.
    /// It went to the slave's disk.
    Taken,
    /// Somebody wished it away before it started.
    Dropped,
    /// Its window closed before it started.
    Lapsed,
    /// The intent to start went to disk.
    StartIntended,
    /// It may not be begun here: the program or a parameter is not what this slave allows.
    StartRefused,
    /// The machine began.
    MachineStarted,
    /// The machine paused.
    MachinePaused,
    /// The machine goes on.
    MachineResumed,
    /// The wish to stop went to disk.
    StopBegan,
    /// The machine refused to stop.
    StopRefused {
        /// It had been paused, and still is.
        paused: bool,
    },
    /// The machine's work ended.
    MachineEnded(End),

    // At the slave, after a crash: what the machine said when asked.
    /// It proved that this start never reached it.
    FoundNeverStarted,
    /// It works, or is paused.
    FoundAlive {
        /// Paused rather than working.
        paused: bool,
    },
    /// It did start, runs no more, and nobody knows how it ended; the order (or the limit of restarts) says what then.
    FoundGone(OnInterrupt),
    /// It could not say.
    FoundNothing,

    // At the slave: the machine's word on a start.
    /// The machine could not begin, for a cause of its own, and proved that nothing began.
    StartPostponed,
}

/// What became of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Turn {
    /// It is this now.
    To(State),
    /// It is that already: nothing changes.
    Same,
    /// This does not happen to a job in that state, or is of no consequence: the named reason.
    Never(&'static str),
}

const NOT_HELD: &str = "no slave holds it";
const NOT_BOUND: &str = "it is not bound to a slave";
const MASTERS: &str = "the slave does not hold it yet";
const ON_SLAVE: &str = "the slave owns it: only its word counts";
const STARTED: &str = "it has started";
const NOT_STARTED: &str = "it has not started";
const ENDED: &str = "it has ended, and an outcome does not change";
const NOT_ENDED: &str = "it has not ended";
const NOT_UNCERTAIN: &str = "only an uncertain job is resolved by a person";
const NOT_A_SLAVES_WORD: &str = "a slave does not say this of a job";
const BURNED: &str = "this attempt was given up before it started";
const SUCCEEDED: &str = "it succeeded";
const STOPPING: &str = "it is being stopped";
const UNCERTAIN: &str = "a person was asked";

/// What becomes of a job in this state when this happens. Total.
pub fn next(state: State, event: Event) -> Turn {
    match look_up(state, event) {
        To(next) if next == state => Same,
        turn => turn,
    }
}

/// The table: every pair of a state and an event has its answer here.
fn look_up(state: State, event: Event) -> Turn {
    match state {
        Queued => match event {
            Bound => To(Assigned),
            Withdrawn => To(Canceled),
            WindowClosed => To(Expired),
            Abandoned => To(Lost),
            GivenBack => Same,
            // A handed-over job's first slave comes back and has it under way: it keeps it.
            Reported(Starting | Running | Paused | Stopping | Uncertain) => to_reported(event),
            Reported(Succeeded | Failed | Canceled | Rejected | Expired) => to_reported(event),
            Reported(Accepted) => Never(BURNED),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Retried => Never(NOT_ENDED),
            Vanished => Never(NOT_BOUND),
            Resolved(_) => Never(NOT_UNCERTAIN),
            Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => Never(NOT_HELD),
        },
        Assigned => match event {
            GivenBack => To(Queued),
            Withdrawn => To(Canceled),
            WindowClosed => To(Expired),
            Abandoned => To(Lost),
            // Another store: what the old one did with the offer is unknown.
            Vanished => To(Uncertain),
            Taken => To(Accepted),
            StartRefused => To(Rejected),
            Reported(
                Accepted | Starting | Running | Paused | Stopping | Uncertain | Succeeded | Failed | Canceled
                | Rejected | Expired,
            ) => to_reported(event),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Bound => Same,
            Retried => Never(NOT_ENDED),
            Resolved(_) => Never(NOT_UNCERTAIN),
            Dropped
            | Lapsed
            | StartIntended
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => Never(MASTERS),
        },
        Accepted => match event {
            StartIntended => To(Starting),
            StartRefused => To(Rejected),
            Dropped => To(Canceled),
            Lapsed => To(Expired),
            GivenBack => To(Queued),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            Taken => Same,
            Reported(
                Accepted | Starting | Running | Paused | Stopping | Uncertain | Succeeded | Failed | Canceled
                | Rejected | Expired,
            ) => to_reported(event),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Bound | Withdrawn | WindowClosed => Never(ON_SLAVE),
            Retried => Never(NOT_ENDED),
            Resolved(_) => Never(NOT_UNCERTAIN),
            MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => Never(NOT_STARTED),
        },
        Starting | Running | Paused | Stopping => match event {
            MachineStarted => match state {
                Starting => To(Running),
                Running | Paused => Same,
                Stopping => Never(STOPPING),
                _ => Never(NOT_STARTED),
            },
            StartRefused => match state {
                // A machine that refuses what it was told to begin has not begun it.
                Starting => To(Rejected),
                Stopping => To(Canceled),
                _ => Never(STARTED),
            },
            MachinePaused => match state {
                Stopping => Never(STOPPING),
                _ => To(Paused),
            },
            MachineResumed => match state {
                Stopping => Never(STOPPING),
                _ => To(Running),
            },
            StopBegan => To(Stopping),
            StopRefused { paused } => match state {
                Stopping if paused => To(Paused),
                Stopping => To(Running),
                _ => Same,
            },
            MachineEnded(end) => To(ended(end)),
            FoundNeverStarted => match state {
                Starting => To(Accepted),
                Stopping => To(Canceled),
                // A machine that knows nothing of work that it had begun has lost its memory, not proved anything.
                _ => To(Uncertain),
            },
            FoundAlive { paused } => match state {
                Stopping => Same,
                _ if paused => To(Paused),
                _ => To(Running),
            },
            FoundGone(policy) => match (state, policy) {
                (Stopping, _) => To(Canceled),
                (_, OnInterrupt::Hold) => To(Uncertain),
                (_, OnInterrupt::Fail) => To(Failed),
                (_, OnInterrupt::Restart) => To(Accepted),
            },
            // What keeps a machine from beginning ends no job.
            StartPostponed => match state {
                Stopping => To(Canceled),
                _ => To(Accepted),
            },
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            Reported(
                Accepted | Starting | Running | Paused | Stopping | Uncertain | Succeeded | Failed | Canceled
                | Rejected | Expired,
            ) => to_reported(event),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Bound | GivenBack | Withdrawn | WindowClosed | Taken | Dropped | Lapsed | StartIntended => {
                Never(STARTED)
            }
            Retried => Never(NOT_ENDED),
            Resolved(_) => Never(NOT_UNCERTAIN),
        },
        Uncertain => match event {
            Resolved(end) => To(ended(end)),
            Abandoned => To(Lost),
            // The machine found its voice again.
            MachineEnded(end) => To(ended(end)),
            FoundAlive { paused } => To(if paused { Paused } else { Running }),
            MachineStarted | MachineResumed => To(Running),
            MachinePaused => To(Paused),
            FoundNeverStarted | FoundGone(_) | FoundNothing | StartPostponed => Never(UNCERTAIN),
            Vanished => Same,
            Reported(Uncertain) => Same,
            Reported(
                Accepted | Starting | Running | Paused | Stopping | Succeeded | Failed | Canceled | Rejected
                | Expired,
            ) => to_reported(event),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Bound
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | StopBegan
            | StopRefused { .. } => Never(UNCERTAIN),
            Retried => Never(NOT_ENDED),
        },
        Lost => match event {
            Retried => To(Queued),
            Abandoned => Same,
            // The truth, late: what a machine did counts more than what a person had to assume.
            Reported(Starting | Running | Paused | Stopping | Uncertain) => to_reported(event),
            Reported(Succeeded | Failed | Canceled | Rejected | Expired) => to_reported(event),
            Reported(Accepted) => Never(BURNED),
            Reported(Queued | Assigned | Lost) => Never(NOT_A_SLAVES_WORD),
            Bound
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Vanished
            | Resolved(_)
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => Never(ENDED),
        },
        Succeeded | Failed | Canceled | Rejected | Expired => match event {
            Retried => match state {
                Succeeded => Never(SUCCEEDED),
                _ => To(Queued),
            },
            Reported(said) => {
                if said == state {
                    Same
                } else {
                    Never(ENDED)
                }
            }
            Bound
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Abandoned
            | Vanished
            | Resolved(_)
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => Never(ENDED),
        },
    }
}

fn ended(end: End) -> State {
    match end {
        End::Succeeded => Succeeded,
        End::Failed => Failed,
        End::Stopped => Canceled,
    }
}

fn to_reported(event: Event) -> Turn {
    match event {
        Reported(state) => To(state),
        _ => Never(NOT_A_SLAVES_WORD),
    }
}

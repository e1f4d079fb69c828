//! What can happen to a job.

use serde::{Deserialize, Serialize};

use super::State;

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

impl End {
    /// The state of a job that ended so.
    pub fn state(self) -> State {
        match self {
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
            Self::Stopped => State::Canceled,
        }
    }
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
    AttemptAssigned,
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
    /// Somebody wanted it away before it started.
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
    /// The desired state to stop went to disk.
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

//! The states of a job.

use serde::{Deserialize, Serialize};

use self::State::*;

/// The state of a job, as the node's disk has it. The order is the wire's: append only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// No slave has it.
    Queued,
    /// Assigned to a slave under an attempt, and the slave has not reported it yet.
    Assigned,
    /// On the slave's disk. From here on it changes by what the slave says, or does not hold any more, or by a person who gives it up.
    Accepted,
    /// The slave's disk says that it is to start, and the machine is being told.
    Starting,
    Running,
    /// The machine paused it and can resume it.
    Paused,
    /// The slave's disk says that it is to stop, and the machine has not ended it yet.
    Stopping,
    /// It may have run, wholly or in part, and no node can find out: a person has to say how it ended.
    Uncertain,
    Succeeded,
    Failed,
    /// Ended because a person, a rule of the order or the slave wanted it to end.
    Canceled,
    /// Ended: the slave refused it before it started.
    Rejected,
    /// Ended: its latest start passed before it started.
    Expired,
    /// Ended, and its outcome is not known: a person gave it up, or its slave does not hold it any more while another attempt speaks.
    Lost,
}

impl State {
    /// Every state, in wire order.
    pub const ALL: [Self; 14] = [
        Queued, Assigned, Accepted, Starting, Running, Paused, Stopping, Uncertain, Succeeded, Failed,
        Canceled, Rejected, Expired, Lost,
    ];

    /// Its name in the REST interface, in the command line and in logs.
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

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether the attempt is over. After that only three things change the state: a retry, unless it succeeded; a late report of a
    /// `Lost` attempt; and [`Reappeared`](super::Event::Reappeared).
    pub fn is_ended(self) -> bool {
        match self {
            Succeeded | Failed | Canceled | Rejected | Expired | Lost => true,
            Queued | Assigned | Accepted | Starting | Running | Paused | Stopping | Uncertain => false,
        }
    }

    /// Whether the machine was or may have been told to start it, and it has not ended.
    pub fn is_started(self) -> bool {
        match self {
            Starting | Running | Paused | Stopping | Uncertain => true,
            Queued | Assigned | Accepted | Succeeded | Failed | Canceled | Rejected | Expired | Lost => false,
        }
    }

    /// Whether it occupies the machine, as far as its slave knows.
    pub fn is_executing(self) -> bool {
        match self {
            Starting | Running | Paused | Stopping => true,
            Queued | Assigned | Accepted | Uncertain | Succeeded | Failed | Canceled | Rejected | Expired
            | Lost => false,
        }
    }

    /// Whether a slave may report this state.
    pub fn is_slaves_word(self) -> bool {
        match self {
            Accepted | Starting | Running | Paused | Stopping | Uncertain | Succeeded | Failed | Canceled
            | Rejected | Expired => true,
            Queued | Assigned | Lost => false,
        }
    }
}

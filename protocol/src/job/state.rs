//! What a job can be.

use serde::{Deserialize, Serialize};

use self::State::*;

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
    /// The desired state to stop is on the slave's disk; the machine is running down.
    Stopping,
    /// It may or may not have run to some point: nobody but a person can say.
    Uncertain,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Ended because somebody wanted so.
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

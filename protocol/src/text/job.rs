//! Why the job table rejects an event.

use crate::job::Rejection;

impl Rejection {
    pub fn text(self) -> &'static str {
        match self {
            Self::NotHeld => "no slave holds it",
            Self::NotAssigned => "it is not assigned to a slave",
            Self::NotAccepted => "its slave has not accepted it yet",
            Self::OwnedBySlave => "its slave owns it: only that slave's reports count",
            Self::Started => "it has started",
            Self::NotStarted => "it has not started",
            Self::Ended => "it has ended, and an outcome does not change",
            Self::NotEnded => "it has not ended",
            Self::NotUncertain => "only an uncertain job is resolved by a person",
            Self::NotASlavesState => "a slave does not report this state",
            Self::GivenUp => "this attempt was given up before it started",
            Self::HasSucceeded => "it succeeded",
            Self::IsStopping => "it is being stopped",
            Self::PersonAsked => "a person was asked how it ended",
        }
    }
}

//! Sentences for people, for the typed reasons of the rules.
//!
//! The rules decide and compare by these types, and only people read the texts.

mod slave;

use crate::job::Rejection;
use crate::master;

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

impl master::Ignored {
    pub fn text(self) -> &'static str {
        match self {
            Self::Job(why) => why.text(),
            Self::OlderReport => "a newer report is known",
            Self::OlderAnswer => "it answers an older desired state",
            Self::NeverAssigned => "this attempt was never assigned to this slave",
            Self::UnrequestedRecord => "a record that was not asked for",
            Self::TooManyJobs => "the slave holds as many jobs as one handshake can report",
            Self::UnknownGeneration => "the slave names a generation that this master cannot have issued",
            Self::OutOfRange => "the attempt or the generation is past all that a master counts to",
            Self::MissingRecord => "the slave did not send the record that it was asked for",
            Self::Revoked => "the slave was revoked, and the connection is being closed",
            Self::UnknownConnection => "the connection is not one on which a slave may speak",
        }
    }
}

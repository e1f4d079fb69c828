//! Sentences for people, for the typed reasons of the rules.
//!
//! The rules decide and compare by these types, and only people read the texts.

mod job;
mod master;

use crate::slave;

impl slave::Ignored {
    pub fn text(self) -> &'static str {
        match self {
            Self::Job(why) => why.text(),
            Self::OtherSession => "it belongs to another session",
            Self::MasterDoubted => {
                "this master is older than what was seen before: a person has to confirm it there"
            }
            Self::OlderGeneration => "a newer desired state is known",
            Self::OlderMode => "a newer operating mode is known",
            Self::NotEnded => "what has not ended is not forgotten",
            Self::NewerReport => "a newer report than the one on the master's disk is not forgotten",
            Self::NothingToForget => "there is nothing to forget",
            Self::OtherRun => "the machine speaks of another run than the job's",
            Self::NotProbed => "the machine was not asked",
            Self::Ended => "it has ended, and an outcome does not change",
        }
    }
}

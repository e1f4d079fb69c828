//! What the slave's rules say to people, and the codes for programs that go with it.

use crate::id::JobId;
use crate::message::{PROTOCOL, Reason, ReasonCode, Source};
use crate::slave::redial::Todo;
use crate::slave::{AskRefused, Closing, Decline, Done, Doubt, Ignored, JobReason, NotDone, Why};
use crate::spec::{Late, SPEC_BYTES};

impl From<JobReason> for Reason {
    fn from(reason: JobReason) -> Self {
        let (code, text) = match reason {
            JobReason::Stopped(Source::Local) => {
                (ReasonCode::StoppedLocally, "stopped by a person at the machine")
            }
            JobReason::Stopped(Source::Slave) => {
                (ReasonCode::MaxRuntime, "it ran longer than its order allows")
            }
            JobReason::Stopped(Source::Remote | Source::Machine) => (ReasonCode::Canceled, "canceled"),
            JobReason::Abandoned => {
                (ReasonCode::Abandoned, "its attempt was given up, or another one took its place")
            }
            JobReason::StoreRolledBack => (
                ReasonCode::StoreRolledBack,
                "the slave's store went back in time: say how this ended with `resolve`",
            ),
            JobReason::OtherWork => (
                ReasonCode::DigestMismatch,
                "the work that the master means is not the work that is here: cancel it",
            ),
            JobReason::PausedLocally => (
                ReasonCode::PausedLocally,
                "paused by a person at the machine: `reloop-slave resume` there lets it go on",
            ),
            JobReason::MachineFault(text) => return Self::new(ReasonCode::MachineFault, text),
            JobReason::StopRefused(text) => return Self::new(ReasonCode::StopRefused, text),
            JobReason::PauseRefused(text) => return Self::new(ReasonCode::PauseRefused, text),
            JobReason::Interrupted => {
                (ReasonCode::Interrupted, "the box or the agent went down while it ran, and it runs no more")
            }
            JobReason::InterruptedTooOften { times } => {
                let text = format!("interrupted {times} times: say how it ended with `resolve`");
                return Self::new(ReasonCode::InterruptedTooOften, text);
            }
            JobReason::BegunAgain => (ReasonCode::Interrupted, "it was interrupted, and is begun again"),
            JobReason::NoProof(doubt) => {
                let text = format!("{}; look at it and say how it ended with `resolve`", doubt.text());
                return Self::new(ReasonCode::NoProof, text);
            }
            JobReason::MachineUnfit { cause } => {
                let text = format!(
                    "the machine could not begin it: {cause}; mend that: it goes on within 10 minutes, or at once after `clear`"
                );
                return Self::new(ReasonCode::MachineUnfit, text);
            }
            JobReason::Unfit(reason) => return reason,
            JobReason::Resolved => (ReasonCode::Resolved, "a person said how it ended"),
            JobReason::ReleaseLapsed => {
                (ReasonCode::ReleaseLapsed, "the release was for a start before now: release it again")
            }
            JobReason::MissedStart(late) => {
                let then = match late {
                    Late::Hold => "; `release` lets it start",
                    Late::Run => "; it starts late",
                    Late::Skip => "",
                };
                let text = "its start was found past by more than the slave's tolerance: the slave was off, suspended or \
                            without a clock, or a clock was set";
                return Self::new(ReasonCode::MissedStart, format!("{text}{then}"));
            }
            JobReason::WindowClosed => (ReasonCode::WindowClosed, "its latest start passed"),
        };
        Self::new(code, text)
    }
}

impl Doubt {
    fn text(&self) -> String {
        match self {
            Self::Forgotten => "the machine knows nothing of this work, which had begun".to_owned(),
            Self::CouldNotSay { said, refused } => {
                let said = said.as_deref().unwrap_or("it did not answer");
                let before = match refused {
                    Some(refused) => format!("; before that it refused to start: {refused}"),
                    None => String::new(),
                };
                format!("the machine could not say what it did: {said}{before}")
            }
        }
    }
}

impl From<Decline> for Reason {
    fn from(decline: Decline) -> Self {
        let (code, text) = match decline {
            Decline::OlderAttempt { attempt, state } => {
                let text = format!("attempt {attempt} of the same job is {} here", state.name());
                return Self::new(ReasonCode::OlderAttempt, text);
            }
            Decline::NeverHere => (ReasonCode::NotHeld, "it was never here"),
            Decline::NotStartedHere => (ReasonCode::GivenBack, "it was not started here"),
            Decline::WorkNeeded => (ReasonCode::NotHeld, "the work is needed to take it"),
            Decline::GivenBack => (ReasonCode::GivenBack, "given back as asked"),
            Decline::OtherWork => (ReasonCode::DigestMismatch, "the work is not what was agreed"),
            Decline::Unfit(reason) => return reason,
            Decline::NotInProduction(mode) => {
                return Self::new(
                    ReasonCode::NotInProduction,
                    format!("the slave is in mode {}", mode.name()),
                );
            }
            Decline::LocalLock => (
                ReasonCode::LocalLock,
                "remote starts are locked out at the machine: `reloop-slave local off` there lets them in",
            ),
            Decline::WindowClosed => (ReasonCode::WindowClosed, "its latest start has passed"),
            Decline::Full(held) => {
                let text = format!("the slave holds as many jobs as it may: {}", listed(&held));
                return Self::new(ReasonCode::AtCapacity, text);
            }
            Decline::FullOfDeferred(held) => {
                let text = format!("the slave holds as many deferred jobs as it may: {}", listed(&held));
                return Self::new(ReasonCode::AtCapacity, text);
            }
            Decline::TooManyKept => (
                ReasonCode::AtCapacity,
                "the slave keeps as many jobs and outcomes as one message can tell of: the master has to take the \
                 outcomes first",
            ),
            Decline::TooLarge { size } => {
                let text = format!(
                    "the work takes {size} bytes where {SPEC_BYTES} are allowed: pass large things by name"
                );
                return Self::new(ReasonCode::BadParams, text);
            }
            Decline::TooMuchKept => {
                (ReasonCode::AtCapacity, "the slave holds as much work as one message can tell of")
            }
        };
        Self::new(code, text)
    }
}

fn listed(jobs: &[JobId]) -> String {
    jobs.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Done {
    pub fn text(self) -> String {
        match self {
            Self::Unloaded(job) => format!("clear of {job}: the machine takes the next job"),
            Self::Cleared(attention) => format!("cleared: {}", attention.name()),
            Self::Locked => "remote starts are locked out; what runs goes on".to_owned(),
            Self::Unlocked => "remote starts are let in".to_owned(),
            Self::Pausing(job) => format!("pausing {job}: only here can it be resumed"),
            Self::Resuming(job) => format!("resuming {job}"),
            Self::MayStart(job) => format!("{job} may start"),
            Self::Stopping(job) => format!("stopping {job}"),
            Self::StoppingIfAtWork(job) => {
                format!("the machine is being asked what it does: {job} is stopped if it still works")
            }
            Self::Resolved(job) => format!("{job} is resolved"),
        }
    }
}

impl NotDone {
    pub fn text(self) -> String {
        match self {
            Self::NotUnloading => "the machine is not waiting to be cleared of a job".to_owned(),
            Self::NoAttention => "the machine does not need attention".to_owned(),
            Self::InState(job, state) => format!("{job} is {}", state.name()),
            Self::NothingRuns => "nothing runs that could be told".to_owned(),
            Self::NothingUncertain => "no job here is uncertain".to_owned(),
            Self::ManyUncertain => "more than one job is uncertain: name the one you mean".to_owned(),
            Self::NotUncertain(job) => format!("{job} is not uncertain here"),
        }
    }
}

impl AskRefused {
    pub fn text(self) -> &'static str {
        match self {
            Self::NotUnloading => "the machine is not waiting to be cleared of that job",
            Self::NoAttention => "the machine does not need attention for that",
        }
    }
}

impl Closing {
    pub fn text(&self) -> String {
        match self {
            Self::Refused { text, .. } => text.clone(),
            Self::Version(theirs) => format!(
                "this slave speaks protocol {} to {}, the master {} to {}: upgrade the older one",
                PROTOCOL.oldest, PROTOCOL.newest, theirs.oldest, theirs.newest
            ),
            Self::OtherMaster => "a Welcome to another master than the one that asked who this is".to_owned(),
            Self::OlderEpoch => "a Welcome of an older epoch than the one that was seen before".to_owned(),
            Self::Admitted => {
                "admitted by another master than before: introducing again, with its jobs".to_owned()
            }
            Self::OutOfPlace => "a message that a master does not send on a live link".to_owned(),
        }
    }
}

impl Ignored {
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
            Self::OtherJobWorks => "the machine works on another job: a person has to look",
            Self::NotAsked => "nothing keeps the machine from beginning a job any more",
            Self::NotProbed => "the machine was not asked",
            Self::Ended => "it has ended, and an outcome does not change",
        }
    }
}

impl Why {
    /// What happens then, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::NotBefore => "a job's time comes",
            Self::Deadline => "a job's window closes",
            Self::Release => "the word that lets a held job start lapses",
            Self::MaxRuntime => "a job runs longer than its order allows",
            Self::Probe => "the machine is no longer waited for to say what it did",
            Self::MachineCheck => "the machine is asked whether it could begin a job now",
            Self::Clock => "the agent looks again whether a time service has set this box's clock",
        }
    }
}

impl Todo {
    /// What a person has to do, for people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Enrol => {
                "`reloop slave enroll-token` at the master makes a token, `reloop-slave enroll` here uses it; or \
                 approve the slave at the master"
            }
            Self::PutKeyBack => {
                "identity.key does not belong to this slave: put the right one back, or enrol anew"
            }
            Self::CheckMaster => {
                "check the setting master; to move the slave here, enrol it with a token of this master"
            }
            Self::RemoveCopy => {
                "another box uses a copy of this key: remove identity.key and the store on the copy, and enrol it \
                 anew"
            }
            Self::EnrolAnew => "the slave was revoked: enrol it anew with a token of the master",
            Self::Upgrade => "upgrade the older of the two",
            Self::ConfirmMaster => {
                "the master has lost newer data: confirm at the master that it is the right one"
            }
            Self::Rename => "give the slave another name, or free this one at the master",
        }
    }
}

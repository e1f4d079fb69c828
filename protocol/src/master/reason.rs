//! Why a job is in its state, if it is the master that knows.

use crate::id::Attempt;
use crate::job::{End, State};
use crate::message::{Reason, ReasonCode};

/// Why a job is in its state, by what the master decided. [`JobReason::text`] says it for people. A slave's reasons come with its
/// reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum JobReason {
    /// Canceled before a slave had it.
    CanceledInQueue,
    /// Canceled before it started.
    CanceledUnstarted,
    /// Its latest start passed.
    WindowClosed,
    /// A person released it, and no slave could begin it in time.
    ReleaseLapsed,
    /// A person said how it ended.
    Resolved,
    /// A person said that this attempt ended so, and its slave has not spoken of it since.
    ResolvedAs(End),
    /// A person gave it up.
    Abandoned,
    /// The order's own rule has it tried again, after this attempt came to this end.
    Retrying(Attempt, State),
    /// It waited when the master was restored: a slave may have done it after the backup was made.
    HeldByRestore,
    /// The slave let the job go after the backup was made from which the master was restored.
    LetGoBeforeRestore,
    /// The slave had promised to keep it, and has neither the job nor its outcome.
    Vanished,
    /// The slave's store is new.
    StoreReplaced,
    /// The slave's store went back in time.
    StoreRolledBack,
    /// This other attempt succeeded elsewhere.
    OtherSucceeded(Attempt),
    /// This other attempt is paused elsewhere.
    OtherPaused(Attempt),
    /// This other attempt runs elsewhere too.
    OtherRuns(Attempt),
    /// This other attempt goes on although the job has ended.
    OtherGoesOn(Attempt),
    /// The slave says that this other attempt ended otherwise than it had said before.
    OtherEndedOtherwise(Attempt),
    /// The slave says that the attempt that speaks ended otherwise than is known.
    EndedOtherwise,
    /// The slave says that the attempt that speaks is alive, and it has ended.
    AliveAfterEnd,
}

impl JobReason {
    pub fn code(self) -> ReasonCode {
        match self {
            Self::CanceledInQueue | Self::CanceledUnstarted => ReasonCode::Canceled,
            Self::WindowClosed => ReasonCode::WindowClosed,
            Self::ReleaseLapsed => ReasonCode::ReleaseLapsed,
            Self::Resolved | Self::ResolvedAs(_) => ReasonCode::Resolved,
            Self::Abandoned => ReasonCode::Abandoned,
            Self::Retrying(..) => ReasonCode::Retrying,
            Self::HeldByRestore | Self::LetGoBeforeRestore => ReasonCode::Restored,
            Self::Vanished => ReasonCode::Vanished,
            Self::StoreReplaced => ReasonCode::StoreReplaced,
            Self::StoreRolledBack => ReasonCode::StoreRolledBack,
            Self::OtherSucceeded(_)
            | Self::OtherPaused(_)
            | Self::OtherRuns(_)
            | Self::OtherGoesOn(_)
            | Self::OtherEndedOtherwise(_)
            | Self::EndedOtherwise
            | Self::AliveAfterEnd => ReasonCode::OlderAttempt,
        }
    }
}

impl From<JobReason> for Reason {
    fn from(why: JobReason) -> Self {
        Self::new(why.code(), why.text())
    }
}

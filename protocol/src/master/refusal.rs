//! What a master does not grant to a client, and why it closes a slave's connection.

use crate::id::{Attempt, Epoch, JobId, MasterId, OrderId, SlaveKey};
use crate::job::{End, State};
use crate::message::{CloseCode, Reason, Versions};

/// Why a request was not granted. [`Refusal::text`] says it for people, with what would help.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Refusal {
    NoSuchJob(JobId),
    NoSuchSlave,
    /// The idempotency key stands for this order, which was placed with another body.
    KeyReused(OrderId),
    /// The job is in this state, which does not allow it.
    WrongState {
        job: JobId,
        state: State,
        why: WrongState,
    },
    /// Somebody has said already how the attempt ended, with these words.
    AlreadyResolved(Reason),
    /// It can only be done while the slave is offline: now the slave itself can be told. The job is in this state.
    SlaveOnline(JobId, State),
    /// It can only be done while the slave is online.
    SlaveOffline(Offline),
    /// There is nothing that the command could end.
    NothingToDo(NothingToDo),
    SlaveRefused(SlaveRefused),
    /// The slave was revoked: only a token enrols it again.
    SlaveRevoked,
}

/// Why a job's state does not allow a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WrongState {
    /// Somebody has said how the job ended, and its slave is still to be told.
    AlreadyResolved(End),
    /// It was canceled, and the cancel may still come in time.
    BeingCanceled,
    /// Only a job that ended without success is tried again.
    NotRetried,
    /// Only an uncertain job is resolved.
    NotUncertain,
}

/// Who is offline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Offline {
    /// The slave that a person wants something of.
    Slave,
    /// The slave that holds this attempt.
    Holder(Attempt),
    /// The slave whose link was lost before it answered.
    Lost,
}

/// What there is nothing to do for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NothingToDo {
    /// The machine does not wait to be cleared of a job.
    Ready,
    /// Nothing needs attention.
    Clear,
    /// The job has not begun, so there is no output.
    Log,
    /// No slave has seen a later state of this master.
    ConfirmRestore,
}

/// Why a slave does not do what it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlaveRefused {
    /// It has seen a later state of this master, and answers nothing.
    Doubts,
    /// Its reply is of another kind than the question, or longer than was asked for.
    NoAnswer,
    /// It said so, in these words.
    Said(String),
}

/// Why a slave's connection is closed. [`CloseReason::text`] says it for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CloseReason {
    SecondHello,
    /// The slave speaks other versions of the protocol than this master.
    Version(Versions),
    /// The slave has obeyed the epoch `seen` of this master, which is at `own`.
    StaleMaster {
        seen: Epoch,
        own: Epoch,
    },
    /// Another slave, with this key, has the name.
    NameTaken {
        name: String,
        key: SlaveKey,
    },
    NotEnrolled {
        name: String,
        key: SlaveKey,
        why: NotEnrolled,
        /// The master that the slave belongs to and this one, if they differ.
        foreign: Option<[MasterId; 2]>,
        /// The slave was enrolled here once, and was revoked.
        was_revoked: bool,
    },
    /// A newer connection of the same slave took over.
    Superseded,
    /// A newer connection of the same box waits in place of this one, which waited.
    SupersededInLine,
    /// The peer did not answer a ping, and the same slave came from elsewhere.
    Unanswered,
    /// Two boxes say that they are this slave, and one of them is being asked.
    Contended,
    /// Another box with the key of the slave of this name is connected and answers.
    Copy(String),
    /// The master's clock was set.
    ClockSet,
    /// The master was restored, and a person has confirmed that.
    Restored,
    /// A Settled of another session than the Hello's.
    OtherSession,
    /// A message that a slave does not send at this point.
    Unexpected,
    /// A person revoked the slave.
    Revoked,
}

/// Why a slave is not enrolled by its Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotEnrolled {
    /// It shows no token.
    NoToken,
    /// Its token is not known, or spent.
    UnknownToken,
    ExpiredToken,
    /// Its token is for another name.
    OtherName,
    /// It was revoked: only a token enrols it again.
    Revoked,
    /// It waits for a person.
    Pending,
}

impl CloseReason {
    pub fn code(&self) -> CloseCode {
        match self {
            Self::SecondHello | Self::OtherSession | Self::Unexpected => CloseCode::Protocol,
            Self::Version(_) => CloseCode::Version,
            Self::StaleMaster { .. } => CloseCode::StaleMaster,
            Self::NameTaken { .. } => CloseCode::NameTaken,
            Self::NotEnrolled { was_revoked: true, .. } | Self::Revoked => CloseCode::Revoked,
            Self::NotEnrolled { foreign: Some(_), .. } => CloseCode::WrongMaster,
            Self::NotEnrolled { foreign: None, .. } => CloseCode::NotEnrolled,
            Self::Superseded | Self::SupersededInLine | Self::Unanswered => CloseCode::Superseded,
            Self::Contended => CloseCode::TryLater,
            Self::Copy(_) => CloseCode::DuplicateIdentity,
            Self::ClockSet | Self::Restored => CloseCode::GoingAway,
        }
    }
}

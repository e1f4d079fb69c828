//! When a slave dials again, and what it tells people meanwhile.
//!
//! Nothing is carried over from one connection to the next but how long to wait. The wait is random, up to a limit that
//! doubles with each failure (full jitter), so that a thousand slaves whose master was restarted do not come back in
//! step.

use crate::message::CloseCode;
use crate::time::Millis;

/// A master may ask for a longer pause than a slave would make, but not for one that looks like a dead slave.
pub const RETRY_AFTER_LIMIT: Millis = Millis::seconds(600);

/// What a slave does after a link was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Redial {
    /// It comes back by itself, as soon as its pauses let it.
    Back,
    /// It comes back by itself; a handshake that succeeded does not shorten its pauses.
    Patient,
    /// A person has to do this first. It goes on trying, about once in its longest pause.
    Person(Todo),
}

/// What a person has to do before a master takes the slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Todo {
    /// Enrol the slave, or approve it at the master.
    Enrol,
    PutKeyBack,
    /// Point the slave at the right master, or enrol it with this one.
    CheckMaster,
    /// Two boxes have the same key: make the copy a slave of its own.
    RemoveCopy,
    EnrolAnew,
    Upgrade,
    /// Say at the master that it is the right one, although it has lost newer data.
    ConfirmMaster,
    /// Give the slave another name, or free the name at the master.
    Rename,
}

/// The table: close code by close code.
pub fn after(code: CloseCode) -> Redial {
    match code {
        CloseCode::NotEnrolled => Redial::Person(Todo::Enrol),
        CloseCode::NotAuthentic => Redial::Person(Todo::PutKeyBack),
        CloseCode::WrongMaster => Redial::Person(Todo::CheckMaster),
        CloseCode::DuplicateIdentity => Redial::Person(Todo::RemoveCopy),
        CloseCode::Revoked => Redial::Person(Todo::EnrolAnew),
        CloseCode::Version => Redial::Person(Todo::Upgrade),
        CloseCode::StaleMaster => Redial::Person(Todo::ConfirmMaster),
        CloseCode::NameTaken => Redial::Person(Todo::Rename),
        CloseCode::TryLater => Redial::Patient,
        CloseCode::Protocol
        | CloseCode::TooSlow
        | CloseCode::Superseded
        | CloseCode::TooLarge
        | CloseCode::SlowReader
        | CloseCode::GoingAway
        | CloseCode::Storage
        | CloseCode::Silent => Redial::Back,
    }
}

/// How a try went, or a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Tried {
    /// The handshake succeeded.
    pub settled: bool,
    /// How it was closed, if it was.
    pub code: Option<CloseCode>,
    /// When the master wants to be asked again.
    pub retry_after: Option<Millis>,
}

/// How long to wait before the next try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pauses {
    min: Millis,
    max: Millis,
    failures: u32,
}

impl Pauses {
    /// The first pause is at most `min`, none is more than `max`.
    pub fn new(min: Millis, max: Millis) -> Self {
        Self { min, max, failures: 0 }
    }

    /// The next pause; `chance` is a uniformly random number.
    pub fn after(&mut self, tried: Tried, chance: u32) -> Millis {
        let redial = tried.code.map_or(Redial::Back, after);
        if tried.settled && redial != Redial::Patient {
            self.failures = 0;
        }
        let doubled = 2_u64.checked_pow(self.failures).and_then(|factor| self.min.0.checked_mul(factor));
        let limit = doubled.map_or(self.max.0, |doubled| doubled.min(self.max.0));
        self.failures = self.failures.saturating_add(1);
        if let Some(asked) = tried.retry_after {
            return Millis(asked.min(RETRY_AFTER_LIMIT).0.saturating_add(part(self.min.0, chance)));
        }
        match redial {
            // Still not all at the same moment.
            Redial::Person(_) => Millis(self.max.0 - part(self.max.0 / 4, chance)),
            Redial::Back | Redial::Patient => Millis(part(limit, chance)),
        }
    }
}

/// `whole` times `chance / u32::MAX`.
fn part(whole: u64, chance: u32) -> u64 {
    let part = u128::from(whole) * u128::from(chance) / u128::from(u32::MAX);
    u64::try_from(part).unwrap_or(whole)
}

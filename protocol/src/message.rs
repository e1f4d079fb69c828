//! What the two nodes say to each other.
//!
//! Handshake: [`Challenge`], [`Hello`], [`Welcome`] (or [`Refuse`]), [`Settled`]; then live messages, which are levels
//! and not edges: each says the whole truth about its subject, so any of them may be lost or repeated.

mod close;
mod handshake;
mod live;
mod machine;
mod reason;

pub use self::close::CloseCode;
pub use self::handshake::{
    Begun, Challenge, Hello, MasterBinding, Record, Refuse, Row, Ruling, Settled, Tell, Welcome,
};
pub use self::live::{
    ALL_OF_IT, Answer, Ask, Declined, Flags, Forget, Outcome, Question, Reply, Report, Source, WaitingFor,
};
pub use self::machine::{Activity, Attention, MachineReport, Mode, OperatingMode};
pub use self::reason::{Reason, ReasonCode};
use crate::spec::DesiredState;
use serde::{Deserialize, Serialize};

/// The protocol's version: the one that this build speaks, and the oldest that it understands.
pub const PROTOCOL: Versions = Versions { oldest: 1, newest: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    /// The oldest that is understood.
    pub oldest: u16,
    /// The newest that is understood.
    pub newest: u16,
}

impl Versions {
    /// The newest version that both understand.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Everything that crosses a link, one to a binary WebSocket message. The order is the wire's: append only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// Master, first: who I am, prove who you are.
    Challenge(Challenge),
    /// Slave, second: who I am and what I hold.
    Hello(Box<Hello>),
    /// Master, third: one verdict per job in either view.
    Welcome(Welcome),
    /// Master, instead: not now or not here.
    Refuse(Refuse),
    /// Slave, fourth: what the verdicts changed.
    Settled(Settled),
    /// Slave: the whole truth about one job.
    Report(Report),
    /// Slave: it does not hold this attempt, and why.
    Declined(Declined),
    /// Slave: the machine's condition.
    Machine(MachineReport),
    /// Master: the whole desired state for one job.
    DesiredState(DesiredState),
    /// Master: this ended job is on my disk.
    Forget(Forget),
    /// Master: how people want the slave to behave.
    OperatingMode(OperatingMode),
    /// Master: a question that needs its answer now.
    Ask(Ask),
    /// Slave: its answer.
    Answer(Answer),
    /// Either: are you there?
    Ping,
    /// Either: yes.
    Pong,
}

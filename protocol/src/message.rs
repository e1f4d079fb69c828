//! The messages of the link; `PROTOCOL.md` describes them byte by byte.
//!
//! A link begins with the handshake: [`Challenge`], [`Hello`], [`Welcome`] (or [`Refuse`]), [`Settled`]. Then come live messages.
//! Each of these says everything about its subject, so any of them may be lost or repeated.

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

/// The protocol versions that this build understands.
pub const PROTOCOL: Versions = Versions { oldest: 1, newest: 1 };

/// A range of protocol versions, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Versions {
    pub oldest: u16,
    pub newest: u16,
}

impl Versions {
    /// The newest version that both ranges contain, if there is one.
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

/// Everything that crosses a link, one to a binary WebSocket message. The order of the variants is the wire's: append only.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Message {
    /// From the master, first: who it is, and what the slave has to sign.
    Challenge(Challenge),
    /// From the slave, second: who it is, and what it holds.
    Hello(Box<Hello>),
    /// From the master, third: one ruling for each job that either of the two holds.
    Welcome(Welcome),
    /// From the master, instead of a Welcome: it does not accept the slave, now or at all.
    Refuse(Refuse),
    /// From the slave, fourth: what the rulings changed. The handshake is over.
    Settled(Settled),
    /// From the slave: everything about one job.
    Report(Report),
    /// From the slave: it does not hold this attempt, and why.
    Declined(Declined),
    /// From the slave: the machine's condition.
    Machine(MachineReport),
    /// From the master: everything that it wants of one job.
    DesiredState(DesiredState),
    /// From the master: this ended job is on its disk, and the slave need not hold it any more.
    Forget(Forget),
    /// From the master: the slave's operating mode.
    OperatingMode(OperatingMode),
    /// From the master: a question that is answered at once or not at all.
    Ask(Ask),
    /// From the slave: the answer to an Ask.
    Answer(Answer),
    /// From either: it has heard nothing for a while.
    Ping,
    /// From either: the answer to a Ping.
    Pong,
}

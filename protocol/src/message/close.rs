//! Why a link was closed.

use crate::slave::redial;
use serde::{Deserialize, Serialize};

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// Why a link was closed: WebSocket close codes of the private range (RFC 6455, section 7.4.2). The order of the variants is
        /// the wire's, in a Refuse: append only.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum CloseCode { $($(#[$doc])* $name,)* }

        impl CloseCode {
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number in a close frame.
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($code => Some(Self::$name),)* _ => None }
            }

            /// Whether trying again soon can help. If not, a person has to do something first.
            pub fn is_passing(self) -> bool {
                !matches!(redial::after(self), redial::Redial::Person(_))
            }
        }
    };
}

close_codes! {
    /// A message could not be read, or came out of order.
    Protocol = 4400;
    /// The signature does not match the key.
    NotAuthentic = 4401;
    /// The slave is not enrolled here: approve it, or give it a token.
    NotEnrolled = 4403;
    /// The slave belongs to another master, and is not enrolled here.
    WrongMaster = 4404;
    /// The handshake took too long.
    TooSlow = 4408;
    /// Another box with the same key is connected and answers.
    DuplicateIdentity = 4409;
    /// The slave was revoked: only a token enrols it again.
    Revoked = 4410;
    /// A newer connection of the same slave took over.
    Superseded = 4411;
    /// A message was larger than allowed.
    TooLarge = 4413;
    /// The peer does not read what it is sent.
    SlowReader = 4414;
    /// No common protocol version.
    Version = 4426;
    /// Too many slaves at once, or the peer is too busy.
    TryLater = 4429;
    /// The master's epoch is lower than the one that the slave has seen.
    StaleMaster = 4440;
    /// The slave's name belongs to another key.
    NameTaken = 4441;
    /// The node shuts down, or wants a new handshake.
    GoingAway = 4001;
    /// The node cannot write to its disk.
    Storage = 4507;
    /// Nothing was heard of the peer for too long.
    Silent = 4000;
}

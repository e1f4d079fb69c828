//! Why a link was closed.

use crate::slave::redial;
use serde::{Deserialize, Serialize};

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        /// Why a link was closed: WebSocket close codes of the private range (RFC 6455, section 7.4.2).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum CloseCode { $($(#[$doc])* $name,)* }

        impl CloseCode {
            /// Every code, in wire order.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The number on the wire.
            pub fn number(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }

            /// The code of that number.
            pub fn from_number(number: u16) -> Option<Self> {
                match number { $($code => Some(Self::$name),)* _ => None }
            }

            /// Trying again soon can help; otherwise a person has to do something first.
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
    /// This slave is not enrolled here: approve it, or give it a token.
    NotEnrolled = 4403;
    /// This slave belongs to another master.
    WrongMaster = 4404;
    /// The handshake took too long.
    TooSlow = 4408;
    /// Another box with the same key is connected and answers.
    DuplicateIdentity = 4409;
    /// This slave was revoked.
    Revoked = 4410;
    /// A newer connection of the same slave took over.
    Superseded = 4411;
    /// A message was larger than allowed.
    TooLarge = 4413;
    /// The peer does not read what it is sent.
    SlowReader = 4414;
    /// No common protocol version.
    Version = 4426;
    /// Too many at once: come back when told.
    TryLater = 4429;
    /// This master is older than what the slave has seen.
    StaleMaster = 4440;
    /// This slave's name is taken by another key.
    NameTaken = 4441;
    /// The node shuts down.
    GoingAway = 4001;
    /// The node cannot write to its disk.
    Storage = 4507;
    /// Nothing was heard for too long.
    Silent = 4000;
}

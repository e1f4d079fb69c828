//! What may be said on a link at all, before anybody asks what it means: who speaks first, and of which session.

use crate::id::Session;
use crate::message::Message;
use crate::wire::Frame;

/// What a slave's frame is to its master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FromSlave {
    /// Its Hello, whose signature is to be checked.
    Hello,
    /// A word of a slave that has said Hello. `settles`: it ends the handshake.
    Word {
        /// It is the last message of the handshake.
        settles: bool,
    },
    /// It has no force.
    OtherSession,
    /// It breaks the protocol.
    Fault(&'static str),
}

/// Sorts a slave's frame; `introduced` is the session of its Hello, once that was taken.
pub fn from_slave(introduced: Option<Session>, frame: &Frame) -> FromSlave {
    match (introduced, &frame.message) {
        (None, Message::Hello(hello)) if frame.session != hello.session => {
            FromSlave::Fault("the frame is not of the Hello's session")
        }
        (None, Message::Hello(_)) => FromSlave::Hello,
        (None, _) => FromSlave::Fault("a Hello comes first"),
        (Some(session), _) if frame.session != session => FromSlave::OtherSession,
        (Some(_), message) => FromSlave::Word { settles: matches!(message, Message::Settled(_)) },
    }
}

/// What is wrong with a master's message, if it is the first of a link.
pub fn first_from_master(message: &Message) -> Result<(), &'static str> {
    match message {
        Message::Challenge(_) | Message::Refuse(_) => Ok(()),
        Message::Hello(_)
        | Message::Welcome(_)
        | Message::Settled(_)
        | Message::Report(_)
        | Message::Declined(_)
        | Message::Machine(_)
        | Message::DesiredState(_)
        | Message::Forget(_)
        | Message::OperatingMode(_)
        | Message::Ask(_)
        | Message::Answer(_)
        | Message::Ping
        | Message::Pong => Err("a Challenge comes first"),
    }
}

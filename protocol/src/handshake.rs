//! Which message may come first on a link, and which session a frame has to bear. What a message means is not looked at here.

use crate::id::Session;
use crate::message::Message;
use crate::wire::Frame;

/// How the master treats a slave's frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FromSlave {
    /// The Hello. Its signature has to be verified.
    Hello,
    /// A message of a slave that has said Hello.
    Word {
        /// Whether it is the Settled, which ends the handshake.
        settles: bool,
    },
    /// A frame of another session: ignored.
    OtherSession,
    /// It breaks the protocol, in these words. The link is closed with [`CloseCode::Protocol`](crate::message::CloseCode).
    Fault(&'static str),
}

/// How to treat a slave's frame. `introduced` is the session of its Hello, once that was verified.
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

/// Checks the first message of a master on a link.
///
/// # Errors
/// It is neither a Challenge nor a Refuse.
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

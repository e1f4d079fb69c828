//! Accepts the slaves' links: `GET /v1/link`, a WebSocket (RFC 6455) with subprotocol `reloop.v1`.
//!
//! A slave that has not proved its identity costs one of a limited number of handshakes and nothing else. When all of
//! them are taken, connections wait in order of arrival, before anything is upgraded: a restarted master gets through all
//! its slaves without a pause. The number of waiting connections and the time that they wait are limited too; a
//! connection past either limit is told when to come back.
//!
//! A connection's way: [`Listener::is_link_request`] peeks at its first bytes, [`Listener::accept`] waits for a handshake
//! and upgrades it, and then the link runs until it ends.

mod listener;
mod request;
mod running;

pub(crate) use listener::{Listener, upgrade};

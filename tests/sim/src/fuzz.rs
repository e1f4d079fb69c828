//! Hostile input for the rules and the wire: what must hold whatever bytes come, and whatever an authenticated peer says.
//!
//! Each target takes bytes and panics with what is broken.

pub mod any;
pub mod master;
pub mod slave;
pub mod wire;

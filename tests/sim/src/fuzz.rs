//! Hostile input for the rules and the wire: what must hold for any bytes, and for anything that an authenticated peer
//! sends.
//!
//! Each target takes bytes and panics if something does not hold.

pub mod any;
pub mod master;
pub mod slave;
pub mod wire;

//! What the shells of Reloop's two nodes share. Decisions themselves are in `reloop-protocol`.
//!
//! [`driver`] is the loop that makes a decision durable before it acts on it; [`store`] keeps what was decided; [`link`] is one
//! connection between the nodes. [`record`] and [`config`] are what the nodes' records and config files have in common,
//! [`transfer`] is their way out of the store and back in. [`durable`], [`clock`], [`entropy`] and [`digest`] are small helpers.

#![allow(missing_docs, reason = "a comment that only repeats the name is worse than none")]

pub mod clock;
pub mod config;
pub mod digest;
pub mod driver;
pub mod durable;
pub mod entropy;
pub mod link;
pub mod record;
pub mod store;
pub mod transfer;

//! What the shells of Reloop's two nodes share: where a decision becomes durable ([`store`]), where it becomes an act
//! ([`driver`]), and how it crosses the network ([`link`]). Decisions themselves are in `reloop-protocol`.

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

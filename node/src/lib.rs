//! What the shells of Reloop's two nodes share: where a decision becomes durable ([`store`]), where it becomes an act
//! ([`driver`]), and how it crosses the network ([`link`]). Decisions themselves are in `reloop-protocol`.

pub mod driver;
pub mod durable;
pub mod link;
pub mod record;
pub mod store;

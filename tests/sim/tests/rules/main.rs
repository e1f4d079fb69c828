//! The rules of both nodes against each other, without processes: what belongs to no single row of the published
//! disagreements, which are in `disagreements/`.
#![cfg(test)]

mod attempts;
mod handshake;
mod nominal;
mod redial;
#[path = "../stage/mod.rs"]
mod stage;
mod start;
mod store;

//! Hostile input: what must hold for any bytes, and for anything that an authenticated peer sends.
//!
//! Each target takes bytes and panics if something does not hold. `cargo test` runs every target on its committed
//! corpus and on mutations of it; `tests/fuzz/run` runs libFuzzer.

pub use reloop_sim::fuzz::{any, master, slave, wire};

pub mod config;
pub mod records;
pub mod rest;

/// The name of the corpus, and the target.
pub type Target = (&'static str, fn(&[u8]));

pub const TARGETS: [Target; 7] = [
    ("wire", wire::run),
    ("records", records::run),
    ("master_config", config::master),
    ("slave_config", config::slave),
    ("rest", rest::run),
    ("hostile_slave", master::run),
    ("hostile_master", slave::run),
];

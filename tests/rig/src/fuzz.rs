//! Hostile input: what must hold whatever bytes come, and whatever an authenticated peer says.
//!
//! Each target takes bytes and panics with what is broken. The test command runs every target on its committed corpus
//! and on mutations of it; `tests/fuzz/run` lets libFuzzer look for more.

pub use reloop_sim::fuzz::{any, master, slave, wire};

pub mod config;
pub mod records;
pub mod rest;

/// A target, by the name of its corpus.
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

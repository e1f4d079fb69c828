//! The node at the machine: runs jobs with or without a link to the master.
//!
//! This is the shell; every decision is in `reloop_protocol::slave`. [`run`] connects the parts: `driver` turns what happens
//! into events of the rules, and their decisions into acts; [`records`] is how the state lies on disk; `link` reaches the
//! master; [`machine`] moves the machine; and [`local`] answers people at the machine.

pub mod check;
pub mod config;
mod driver;
pub mod identity;
mod link;
pub mod local;
pub mod machine;
pub mod records;
pub mod run;
mod status;
pub mod store;
pub mod telemetry;

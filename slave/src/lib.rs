//! The node at the machine: runs jobs with or without a link.
//!
//! This is the shell; every decision is in `reloop_protocol::slave`. [`run`] puts the rooms together: [`driver`] turns
//! what happens into events of the rules and their decisions into acts, [`records`] is how its memory lies on disk,
//! [`link`] reaches the master, [`machine`] moves the machine, and [`local`] listens to the people beside it.

pub mod check;
pub mod config;
pub mod driver;
pub mod identity;
pub mod link;
pub mod local;
pub mod machine;
pub mod records;
pub mod run;
pub mod status;
pub mod store;
pub mod telemetry;

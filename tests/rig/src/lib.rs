//! The rig: real masters and slaves, a network that fails on command, disks that fail, and the few tools to watch them.
//!
//! A scenario makes a [`factory::Factory`]: a [`process::Master`], and for each [`process::Slave`] a [`proxy::Proxy`] that it
//! dials through. It then talks to the master as any client does ([`client::Client`]), breaks the network through the proxy,
//! processes by signal or disks by their files, and waits with [`wait::eventually`] for what must come of it. What the machine
//! really did is in the slave's machine log, which neither node can write: it shows a job that was started twice.
//!
//! Everything a scenario starts is ended when its handle is dropped, the jobs of a slave included. A scenario that
//! panics keeps its directories and prints where they are, with the tail of each log.
//!
//! Whatever cannot be done here is a failed test: functions panic, and say what they saw.
#![allow(missing_docs, reason = "a name that says everything needs no sentence beside it")]

pub mod browser;
pub mod client;
pub mod clock;
pub mod crash;
pub mod daemon;
pub mod disk;
pub mod factory;
pub mod fuzz;
pub mod install;
pub mod nginx;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod store_load;
pub mod wait;

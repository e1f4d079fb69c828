//! The rig: real masters and slaves, a network that fails on command, disks that fail, and tools to watch them.
//!
//! A scenario makes a [`factory::Factory`]: a [`process::Master`], and for each [`process::Slave`] a [`proxy::Proxy`]
//! through which it dials. It uses the master as any client does ([`client::Client`]), breaks the network through the
//! proxy, processes by signals and disks by their files, and waits with [`wait::eventually`] for the result. What the
//! machine really did is in the slave's machine log, which neither node can write: it shows a job that was started
//! twice.
//!
//! Everything that a scenario starts is ended when its handle is dropped, the jobs of a slave included. A scenario that
//! panics keeps its directories and prints their paths with the tail of each log.
//!
//! Functions panic on failure, and print what they saw.
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

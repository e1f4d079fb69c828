//! The rig: real masters and slaves, a network that fails on command, disks that fail, and the few tools to watch them.
//!
//! A scenario starts a [`process::Master`], puts one [`proxy::Proxy`] in front of it for each slave, and starts a
//! [`process::Slave`] that dials its proxy. It then talks to the master as any client does ([`client::Client`]), breaks
//! what it wants broken (the network through the proxy, processes by signal, disks by their files) and waits for what
//! must come out with [`wait::eventually`]. What the machine really did is in the slave's machine log, which neither
//! node can write: it is the witness against a job that was started twice.
//!
//! Everything a scenario starts is ended when its handle is dropped, the jobs of a slave included. A scenario that
//! panics keeps its directories and prints where they are, with the tail of each log.

pub mod browser;
pub mod client;
pub mod clock;
pub mod crash;
pub mod daemon;
pub mod disk;
pub mod fuzz;
pub mod nginx;
pub mod peer;
pub mod process;
pub mod proxy;
pub mod store_load;
pub mod wait;

//! The node that takes orders: the shell around the master's rules in `reloop-protocol`.
//!
//! An order's way: [`rest`] parses it, [`driver`] steps the rules and makes the outcome durable, [`rest`] answers, and
//! [`link`] tells the slave. [`serve`] puts the rooms together; [`cli`] is the client of [`rest`].

pub mod cli;
pub mod config;
pub mod driver;
pub mod layout;
pub mod link;
pub mod patience;
pub mod records;
pub mod rest;
pub mod serve;
pub mod telemetry;

mod directory;

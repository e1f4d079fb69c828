//! The node that takes orders: the shell around the master's rules in `reloop-protocol`.
//!
//! An order's way: [`rest`] parses it and hands it to the loop through `handle`; `driver` steps the rules and makes the
//! outcome durable; then [`rest`] answers, and the slave's link in `link` sends what the rules decided.
//!
//! Reading order, each module using only earlier ones: `layout` and [`records`] (what is on disk), `changes`, `contacts`,
//! `directory` and `handle` (the way into the loop), `driver` (the loop), `deadlines` and `link` (connections), [`rest`], [`serve`] (puts all
//! of it together), [`cli`] (the client of [`rest`], and `reloop serve`).

#![allow(missing_docs, reason = "a comment that only repeats the name is worse than none")]

mod changes;
pub mod cli;
pub mod config;
mod contacts;
mod deadlines;
mod directory;
mod driver;
mod handle;
mod layout;
mod link;
pub mod records;
pub mod rest;
pub mod serve;
mod telemetry;

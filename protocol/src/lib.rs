//! What the nodes of Reloop agree on, and every decision that either of them takes.
//!
//! Each of the two nodes decides with one pure function, `step`: its state, the time and an event go in; the new state, what
//! to write to disk, and what to do once that is durable come out. Nothing in this crate reads a clock, a socket, a disk or
//! a random number, so every decision of a node can be replayed and checked.
//!
//! In reading order:
//!
//! * [`job`]: the job table. What state an event brings a job into; the same for both nodes, live, in reconciliation and
//!   after a crash.
//! * [`reconcile`]: compares what the master holds with what the slave holds, and gives one verdict per job.
//!   [`reconcile::attempts`]: which attempt speaks for a job that has more than one.
//! * [`spec`], [`message`]: the work, what the master wants of it, and what the nodes say to each other.
//! * [`slave`]: the rules of the node at the machine.
//! * [`master`]: the rules of the node that takes orders: the order book, and one slave record per slave.
//! * [`handshake`]: which message may come first on a new link.
//! * For reference: [`id`] and [`time`] (numbers, names, clocks), [`wire`] (messages as bytes), [`limits`] (how large a
//!   message and its parts may be), [`text`] (sentences for people).

#![allow(missing_docs, reason = "a comment that only repeats the name is worse than none")]

extern crate alloc;

pub mod handshake;
pub mod id;
pub mod job;
pub mod limits;
pub mod master;
pub mod message;
pub mod reconcile;
pub mod slave;
pub mod spec;
pub mod text;
pub mod time;
pub mod wire;

//! What the nodes of Reloop agree on, and every decision that either of them takes.
//!
//! Two nodes, a link that fails, and one question asked over and over: *I am in this state and this happened, what do
//! I do?* Each node answers it with one pure function, `step`: an event goes in, and plain data comes out: what to
//! write to disk and what to do once that is durable. Nothing in this crate reads a clock, a socket, a disk or a
//! random number, so whatever a node ever decides can be found here, replayed, and checked.
//!
//! In reading order:
//!
//! * [`job`]: THE TABLE. What becomes of a job when something happens to it; the same for both nodes, live, in
//!   reconciliation and after a crash.
//! * [`reconcile`]: what the master holds against what the slave holds: one verdict per job. And, in
//!   [`reconcile::attempts`], which attempt speaks for a job that has more than one.
//! * [`slave`]: the rules of the node at the machine.
//! * [`master`]: the rules of the node that takes orders: the order book, and one slave record per slave.
//! * [`handshake`]: who may say what first, on a link that has just been made.
//! * [`message`], [`spec`], [`id`], [`time`]: what they speak of. [`wire`]: as bytes. [`text`]: the sentences for people. [`limits`]: how much of it.

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

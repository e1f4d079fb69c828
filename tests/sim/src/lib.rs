//! Both nodes' rules in a world without processes, clocks or disks.
//!
//! [`world`] contains two pure nodes, their disks and machines as data, and the frames between them; it checks itself
//! after every step. [`simulation`] plays random schedules of faults in it, [`model`] enumerates every state of small
//! floors, and [`fuzz`] connects hostile peers to the rules. The tests of the rules are the tests of this crate.
#![allow(missing_docs, reason = "a name that says everything needs no sentence beside it")]

pub mod fuzz;
pub mod model;
pub mod simulation;
pub mod world;

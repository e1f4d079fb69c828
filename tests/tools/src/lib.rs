//! Tools around the tests for people to run: the demo, the benches, seeded bugs, mutants, and the pages that are
//! printed from the code.
#![allow(missing_docs, reason = "a name that says everything needs no sentence beside it")]

pub mod bench;
pub mod breaks;
pub mod coverage;
pub mod demo;
pub mod docs;
pub mod mutants;
pub mod rows;

//! Each published disagreement of the two nodes as a short story, at the level of the rules: one test or more per row,
//! named after its number. What is about processes, disks, clocks or links is shown again end to end by the scenarios;
//! `docs/coverage.md` says which row is shown where.
#![cfg(test)]

mod a;
mod b;
mod c;
mod d;
mod e;
mod order;
#[path = "../stage/mod.rs"]
mod stage;

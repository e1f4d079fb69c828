//! Each published disagreement of the two nodes as short tests at the level of the rules, named after the row's number.
//! Rows about processes, disks, clocks or links are shown end to end by the scenarios as well; `docs/coverage.md` lists
//! all tests of each row.
#![cfg(test)]

mod a;
mod b;
mod c;
mod d;
mod e;
mod order;
mod p;
mod p_causes;
mod restored;
#[path = "../stage/mod.rs"]
mod stage;

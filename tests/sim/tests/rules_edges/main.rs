//! The rules at their limits: the last millisecond, the last place in a list, one more than allowed. Mutants of the
//! rules (`harness mutants`) show that these tests can fail.
#![cfg(test)]

mod admission;
mod attempts;
mod book;
mod clocks;
mod dispatch;
mod evidence;
mod explain;
mod facts;
mod handshake;
mod moments;
mod needs;
mod newcomers;
mod overtaken;
mod restored;
mod runs;
mod said;
mod slave;
#[path = "../stage/mod.rs"]
mod stage;
mod twice;
mod unfit;

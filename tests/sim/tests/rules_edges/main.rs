//! The rules at their edges: the last moment, the last place in a list, the one more that is too many. Mutants of the
//! rules (`harness mutants`) show that these can fail.
#![cfg(test)]

mod admission;
mod attempts;
mod book;
mod clocks;
mod dispatch;
mod evidence;
mod handshake;
mod moments;
mod needs;
mod restored;
mod runs;
mod slave;
mod stage;
mod unfit;

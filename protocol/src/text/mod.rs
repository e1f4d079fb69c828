//! Sentences for people, for the typed reasons of the rules.
//!
//! The rules decide and compare by these types, and only people read the texts.

mod explain;
mod job;
mod master;
mod slave;

//! The node at the machine: runs jobs with or without a link.

pub mod config;
pub mod machine;

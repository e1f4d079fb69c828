//! The breaks, by where they are.

use super::Break;

mod master;
mod shells;
mod slave;
mod unbroken;

pub use unbroken::UNBROKEN;

/// Every part of the list.
pub(super) const ALL: [&[Break]; 3] = [slave::LIST, master::LIST, shells::LIST];

//! The breaks, by where they are.

use super::Break;

mod master;
mod shells;
mod slave;

/// Every part of the list.
pub(super) const ALL: [&[Break]; 3] = [slave::LIST, master::LIST, shells::LIST];

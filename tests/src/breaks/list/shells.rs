//! What the nodes' shells do: durability, links, machines, the door.

use super::Break;

pub(super) const LIST: &[Break] = &[];

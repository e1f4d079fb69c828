//! When each slave was last heard, for people who ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use reloop_node::link::LastHeard;
use reloop_protocol::id::SlaveKey;
use reloop_protocol::time::Time;

/// The newest link of each slave that this process has heard. Kept after the link ended: otherwise the last time that a
/// slave was heard would go back to the one on disk. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Contacts(Arc<Mutex<BTreeMap<SlaveKey, LastHeard>>>);

impl Contacts {
    pub(crate) fn set_link(&self, slave: SlaveKey, last_heard: LastHeard) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(slave, last_heard);
    }

    pub(crate) fn last_heard(&self, slave: SlaveKey) -> Option<Time> {
        let contacts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        contacts.get(&slave).map(|last_heard| Time(last_heard.ms()))
    }
}

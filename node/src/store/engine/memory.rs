//! An engine in memory, for tests: a sorted map that gives the same answers as the database on disk (`same_answers`).

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

use super::{Changes, Engine, Fault, Stretch};
use crate::store::Entry;
use crate::store::health::lock;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What outlives an engine, as a disk does.
#[derive(Debug, Clone, Default)]
pub(crate) struct MemoryDisk(Arc<Mutex<Contents>>);

#[derive(Debug, Default)]
struct Contents {
    durable: Map,
    /// What the disk holds if a write that failed has reached it after all.
    unsure: Option<Map>,
}

/// Says how the sync of a write goes.
pub(crate) type Sync = Box<dyn FnMut() -> io::Result<()> + Send>;

pub(crate) struct MemoryEngine {
    disk: MemoryDisk,
    sync: Sync,
}

impl MemoryDisk {
    /// Decides whether a write that failed has reached the disk, as the next opening finds it.
    pub(crate) fn decide(&self, has_reached_it: bool) {
        let mut contents = lock(&self.0);
        let unsure = contents.unsure.take();
        if let Some(map) = unsure.filter(|_| has_reached_it) {
            contents.durable = map;
        }
    }
}

impl MemoryEngine {
    pub(crate) fn open(disk: &MemoryDisk, sync: Sync) -> Self {
        Self { disk: disk.clone(), sync }
    }
}

impl Engine for MemoryEngine {
    fn write(&mut self, changes: Changes) -> Result<(), Fault> {
        let mut next = lock(&self.disk.0).durable.clone();
        for (key, value) in changes {
            match value {
                Some(value) => next.insert(key, value),
                None => next.remove(&key),
            };
        }
        let synced = (self.sync)();
        let mut contents = lock(&self.disk.0);
        match synced {
            Ok(()) => {
                contents.durable = next;
                Ok(())
            }
            Err(error) => {
                contents.unsure = Some(next);
                Err(Fault::System(error))
            }
        }
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Fault> {
        Ok(lock(&self.disk.0).durable.get(key).cloned())
    }

    fn page(&self, stretch: &Stretch, limit: usize, max_bytes: usize) -> Result<Vec<Entry>, Fault> {
        let contents = lock(&self.disk.0);
        let is_past = |key: &[u8]| match &stretch.start_after {
            Some(after) if stretch.reverse => key < after.as_slice(),
            Some(after) => key > after.as_slice(),
            None => true,
        };
        let mut found: Vec<_> = contents
            .durable
            .iter()
            .filter(|(key, _)| key.starts_with(&stretch.prefix) && is_past(key))
            .collect();
        if stretch.reverse {
            found.reverse();
        }
        let mut bytes = 0;
        let fits = found.into_iter().take(limit).take_while(|(key, value)| {
            let has_room = bytes < max_bytes;
            bytes += key.len() + value.len();
            has_room
        });
        Ok(fits.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn clean(&self) -> Result<bool, Fault> {
        Ok(false)
    }

    fn sync_cleaned(&mut self) -> Result<(), Fault> {
        Ok(())
    }

    fn close(self: Box<Self>) -> Result<(), Fault> {
        Ok(())
    }
}

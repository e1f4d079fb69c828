//! Which slaves there are, by name and by fingerprint, kept as they change: a question about one slave, or for a page
//! of them, formats and sorts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use reloop_protocol::id::SlaveKey;
use reloop_protocol::master::Master;

/// The slaves that are shown. It holds names and keys only; everything else is read from the state.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By name, and one name by fingerprint.
    places: BTreeMap<String, SlaveKey>,
    /// Both by name and by fingerprint: a name is a label, and several slaves may carry one.
    called: BTreeMap<String, BTreeSet<SlaveKey>>,
    /// What each is listed under.
    names: BTreeMap<SlaveKey, String>,
}

impl Directory {
    /// The slaves of a state.
    pub(crate) fn of(state: &Master) -> Self {
        let mut directory = Self::default();
        state.slaves.values().for_each(|slave| directory.note(slave.key, &slave.name));
        directory
    }

    /// A slave is new, or has changed and may have another name.
    pub(crate) fn note(&mut self, key: SlaveKey, name: &str) {
        if self.names.get(&key).is_some_and(|known| known == name) {
            return;
        }
        let fingerprint = key.fingerprint();
        if let Some(known) = self.names.insert(key, name.to_owned()) {
            self.places.remove(&place(&known, &fingerprint));
            if let Some(keys) = self.called.get_mut(&known).filter(|_| known != fingerprint) {
                keys.remove(&key);
                if keys.is_empty() {
                    self.called.remove(&known);
                }
            }
        }
        self.places.insert(place(name, &fingerprint), key);
        self.called.entry(name.to_owned()).or_default().insert(key);
        self.called.entry(fingerprint).or_default().insert(key);
    }

    /// The slave of this fingerprint, or else all slaves of this name.
    pub(crate) fn called(&self, name: &str) -> Vec<SlaveKey> {
        let keys = self.called.get(name).into_iter().flatten().copied();
        let keys: Vec<_> = keys.collect();
        match keys.iter().find(|key| key.fingerprint() == name) {
            Some(key) => vec![*key],
            None => keys,
        }
    }

    /// Shows slaves behind a place in their order, until `show` says that it has enough.
    pub(crate) fn each_after(&self, after: Option<&str>, mut show: impl FnMut(&str, SlaveKey) -> bool) {
        let behind = after.map_or(Bound::Unbounded, Bound::Excluded);
        for (place, key) in self.places.range::<str, _>((behind, Bound::Unbounded)) {
            if !show(place, *key) {
                return;
            }
        }
    }
}

fn place(name: &str, fingerprint: &str) -> String {
    format!("{name} {fingerprint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: SlaveKey = SlaveKey([1; 32]);
    const TWO: SlaveKey = SlaveKey([2; 32]);

    fn places(directory: &Directory, after: Option<&str>, limit: usize) -> Vec<String> {
        let mut found = Vec::new();
        directory.each_after(after, |place, _| {
            found.push(place.to_owned());
            found.len() < limit
        });
        found
    }

    #[test]
    fn a_slave_that_is_renamed_is_found_by_its_new_name_only() {
        let mut directory = Directory::default();
        directory.note(ONE, "mill-1");
        directory.note(ONE, "mill-2");
        assert!(directory.called("mill-1").is_empty());
        assert_eq!(directory.called("mill-2"), [ONE]);
        assert_eq!(directory.called("0101010101010101"), [ONE]);
        assert_eq!(places(&directory, None, 9), ["mill-2 0101010101010101"]);
    }

    #[test]
    fn a_name_may_be_carried_by_several_and_a_fingerprint_means_its_own_slave() {
        let mut directory = Directory::default();
        directory.note(ONE, "mill");
        directory.note(TWO, "mill");
        assert_eq!(directory.called("mill"), [ONE, TWO]);
        directory.note(TWO, "0101010101010101");
        assert_eq!(directory.called("0101010101010101"), [ONE]);
        directory.note(TWO, "mill");
        assert_eq!(directory.called("mill"), [ONE, TWO]);
        assert_eq!(directory.called("0101010101010101"), [ONE]);
    }

    #[test]
    fn pages_go_on_behind_the_last_place() {
        let mut directory = Directory::default();
        for (key, name) in [(3, "b"), (1, "c"), (2, "a")] {
            directory.note(SlaveKey([key; 32]), name);
        }
        assert_eq!(places(&directory, None, 2), ["a 0202020202020202", "b 0303030303030303"]);
        assert_eq!(places(&directory, Some("b 0303030303030303"), 2), ["c 0101010101010101"]);
    }
}

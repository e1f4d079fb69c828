//! What a disk contains for certain, and what it may contain.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use crate::crash::{Act, Inode, ROOT};
use reloop_sim::simulation::Random;

/// The disk writes a sector atomically.
const SECTOR: usize = 512;

/// The kernel writes back whole pages.
const PAGE: usize = 4096;

/// A disk after the acts that it was given.
#[derive(Debug)]
pub struct Disk {
    files: BTreeMap<Inode, Contents>,
    dirs: BTreeMap<Inode, Names>,
    acts: usize,
}

#[derive(Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    /// With the index of the act.
    pending: Vec<(usize, Change)>,
}

#[derive(Debug, Clone)]
enum Change {
    Write { at: usize, bytes: Vec<u8> },
    SetLength(usize),
}

#[derive(Debug, Default)]
struct Names {
    durable: BTreeMap<String, Inode>,
    pending: Vec<(usize, NameChange)>,
}

#[derive(Debug, Clone)]
enum NameChange {
    Create(String, Inode),
    Unlink(String, Inode),
    Rename(String, String, Inode),
}

/// What happens to the changes that no sync covers.
#[derive(Debug, Clone, Copy)]
enum Fate {
    None,
    All,
    /// All changes up to some moment are there.
    Prefix,
    /// Each piece of a file, and each change of a name, is there or not.
    Mixed {
        piece: usize,
        kept_of_8: usize,
    },
    /// All changes are there but those of one piece or name.
    OneLost {
        piece: usize,
    },
    /// Only the changes of one piece or name are there.
    OneKept {
        piece: usize,
    },
}

impl Disk {
    /// A disk on which the result of these acts is durable.
    pub fn new(before: &[Act]) -> Self {
        let mut disk =
            Self { files: BTreeMap::new(), dirs: BTreeMap::from([(ROOT, Names::default())]), acts: 0 };
        for act in before {
            disk.see(act);
        }
        let inodes: Vec<Inode> = disk.files.keys().chain(disk.dirs.keys()).copied().collect();
        for inode in inodes {
            disk.sync(inode, before.len());
        }
        disk.acts = 0;
        disk
    }

    pub fn see(&mut self, act: &Act) {
        let number = self.acts;
        self.acts += 1;
        match act {
            Act::Create { dir, name, inode, is_dir } => {
                if *is_dir {
                    self.dirs.insert(*inode, Names::default());
                } else {
                    self.files.insert(*inode, Contents::default());
                }
                self.change_names(*dir, number, NameChange::Create(name.clone(), *inode));
            }
            Act::Unlink { dir, name } => {
                let inode = self.named(*dir, name);
                self.change_names(*dir, number, NameChange::Unlink(name.clone(), inode));
            }
            Act::Rename { dir, from, to } => {
                let inode = self.named(*dir, from);
                self.change_names(*dir, number, NameChange::Rename(from.clone(), to.clone(), inode));
            }
            Act::Write { file, at, bytes } => {
                self.change(*file, number, Change::Write { at: *at, bytes: bytes.clone() });
            }
            Act::SetLength { file, length } => self.change(*file, number, Change::SetLength(*length)),
            Act::Sync { inode, covers } => self.sync(*inode, *covers),
            Act::Say(_) => {}
        }
    }

    /// Whether a power cut may undo a change of the file.
    pub fn has_pending(&self, inode: Inode) -> bool {
        self.files.get(&inode).is_some_and(|file| !file.pending.is_empty())
            || self.dirs.get(&inode).is_some_and(|dir| !dir.pending.is_empty())
    }

    /// Whether a power cut may undo a change of any name.
    pub fn has_pending_names(&self) -> bool {
        self.dirs.values().any(|dir| !dir.pending.is_empty())
    }

    fn change(&mut self, file: Inode, number: usize, change: Change) {
        self.files.get_mut(&file).expect("it was created").pending.push((number, change));
    }

    fn change_names(&mut self, dir: Inode, number: usize, change: NameChange) {
        self.dirs.get_mut(&dir).expect("it was created").pending.push((number, change));
    }

    fn named(&self, dir: Inode, name: &str) -> Inode {
        let dir = &self.dirs[&dir];
        let mut names = dir.durable.clone();
        dir.pending.iter().for_each(|(_, change)| change.apply(&mut names));
        names[name]
    }

    fn sync(&mut self, inode: Inode, covers: usize) {
        if let Some(file) = self.files.get_mut(&inode) {
            let covered = file.pending.partition_point(|(number, _)| *number < covers);
            for (_, change) in file.pending.drain(..covered) {
                change.apply(&mut file.durable);
            }
        }
        if let Some(dir) = self.dirs.get_mut(&inode) {
            let covered = dir.pending.partition_point(|(number, _)| *number < covers);
            for (_, change) in dir.pending.drain(..covered) {
                change.apply(&mut dir.durable);
            }
        }
    }

    /// Writes into an empty directory what a power cut at this moment may have left. Returns a description of what
    /// happened to unsynced changes.
    pub fn lose_power(&self, random: &mut Random, into: &Path) -> String {
        let fate = match random.below(12) {
            0 => Fate::None,
            1 => Fate::All,
            2 => Fate::Prefix,
            kind => {
                let piece = if random.one_in(2) { PAGE } else { SECTOR };
                match kind {
                    3..9 => Fate::Mixed { piece, kept_of_8: [1, 4, 7][random.below(3)] },
                    9 | 10 => Fate::OneLost { piece },
                    _ => Fate::OneKept { piece },
                }
            }
        };
        // Starts have been broken by a rename that is lost, or kept, independently of the files.
        let names_fate =
            if random.one_in(3) { [Fate::None, Fate::All, Fate::Prefix][random.below(3)] } else { fate };
        let mut said = vec![format!("{fate:?}, names {names_fate:?}")];
        self.write_out(ROOT, into, (fate, names_fate), random, &mut said);
        said.join("; ")
    }

    fn write_out(
        &self,
        dir: Inode,
        into: &Path,
        fates: (Fate, Fate),
        random: &mut Random,
        said: &mut Vec<String>,
    ) {
        let (names, words) = self.dirs[&dir].after(fates.1, random);
        said.extend(words);
        for (name, inode) in names {
            let path = into.join(&name);
            if self.dirs.contains_key(&inode) {
                fs::create_dir(&path).expect("it can be made");
                self.write_out(inode, &path, fates, random, said);
            } else {
                let (bytes, words) = self.files[&inode].after(fates.0, random);
                said.extend(words.map(|words| format!("{name}: {words}")));
                File::create(&path).and_then(|mut file| file.write_all(&bytes)).expect("it can be written");
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes: new } => {
                if bytes.len() < at + new.len() {
                    bytes.resize(at + new.len(), 0);
                }
                bytes[*at..at + new.len()].copy_from_slice(new);
            }
            Change::SetLength(length) => bytes.resize(*length, 0),
        }
    }

    fn length_after(&self, before: usize) -> usize {
        match self {
            Change::Write { at, bytes } => before.max(at + bytes.len()),
            Change::SetLength(length) => *length,
        }
    }
}

impl Contents {
    fn after(&self, fate: Fate, random: &mut Random) -> (Vec<u8>, Option<String>) {
        if self.pending.is_empty() {
            return (self.durable.clone(), None);
        }
        let all = self.pending.len();
        let (piece, kept_of_8) = match fate {
            Fate::None => return (self.durable.clone(), None),
            Fate::All | Fate::Prefix => {
                let kept = if matches!(fate, Fate::All) { all } else { random.below(all + 1) };
                let mut bytes = self.durable.clone();
                self.pending[..kept].iter().for_each(|(_, change)| change.apply(&mut bytes));
                return (bytes, Some(format!("the first {kept} of {all} changes")));
            }
            Fate::Mixed { piece, kept_of_8 } => (piece, Some(kept_of_8)),
            Fate::OneLost { piece } | Fate::OneKept { piece } => (piece, None),
        };

        let touched = self.touched(piece);
        let chosen = touched.keys().nth(random.below(touched.len())).copied();
        let length_at = match fate {
            Fate::Mixed { .. } => [0, all, random.below(all + 1)][random.below(3)],
            Fate::OneKept { .. } if random.one_in(2) => 0,
            _ => all,
        };
        let length = self.pending[..length_at]
            .iter()
            .fold(self.durable.len(), |length, (_, change)| change.length_after(length));
        let mut bytes = self.durable.clone();
        bytes.resize(length, 0);
        let mut tally = BTreeMap::new();
        for (start, changes) in touched {
            // A cut of the file and the bytes that it removes are one change.
            let cuts =
                |number: &usize| matches!(self.pending[*number].1, Change::SetLength(to) if to <= start);
            let lowest = changes
                .iter()
                .filter(|number| **number < length_at && cuts(number))
                .max()
                .map_or(0, |cut| cut + 1);
            let highest = changes
                .iter()
                .filter(|number| **number >= length_at && cuts(number))
                .min()
                .copied()
                .unwrap_or(all);
            let version = match (fate, kept_of_8) {
                (_, Some(kept)) if random.below(8) < kept => highest,
                (_, Some(_)) if random.one_in(2) => lowest,
                (_, Some(_)) => lowest + random.below(highest - lowest + 1),
                (Fate::OneLost { .. }, _) if Some(start) != chosen => highest,
                (Fate::OneKept { .. }, _) if Some(start) == chosen => highest,
                _ => lowest,
            };
            *tally.entry(version).or_insert(0) += 1;
            let mut part = vec![0; piece];
            if let Some(durable) = self.durable.get(start..) {
                let kept = durable.len().min(piece);
                part[..kept].copy_from_slice(&durable[..kept]);
            }
            for number in changes.into_iter().filter(|number| *number < version) {
                self.pending[number].1.apply_within(start, &mut part);
            }
            if start < length {
                let end = length.min(start + piece);
                bytes[start..end].copy_from_slice(&part[..end - start]);
            }
        }
        let words =
            format!("of {all} changes the length of {length_at}, pieces by the changes they have: {tally:?}");
        (bytes, Some(words))
    }

    /// The pieces that some change touches, by their first byte, with the changes.
    fn touched(&self, piece: usize) -> BTreeMap<usize, BTreeSet<usize>> {
        let mut touched: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut length = self.durable.len();
        for (number, (_, change)) in self.pending.iter().enumerate() {
            let (from, to) = match change {
                Change::Write { at, bytes } => (*at, at + bytes.len()),
                Change::SetLength(to) => (*to.min(&length), length),
            };
            for start in (from / piece * piece..to).step_by(piece) {
                touched.entry(start).or_default().insert(number);
            }
            length = change.length_after(length);
        }
        touched
    }
}

impl Change {
    /// Applies the change to the part of the file that begins at `start`.
    fn apply_within(&self, start: usize, part: &mut [u8]) {
        let end = start + part.len();
        match self {
            Change::Write { at, bytes } => {
                let (from, to) = ((*at).max(start), (at + bytes.len()).min(end));
                if from < to {
                    part[from - start..to - start].copy_from_slice(&bytes[from - at..to - at]);
                }
            }
            Change::SetLength(length) => part[(*length).clamp(start, end) - start..].fill(0),
        }
    }
}

impl Names {
    fn after(&self, fate: Fate, random: &mut Random) -> (BTreeMap<String, Inode>, Option<String>) {
        let mut names = self.durable.clone();
        if self.pending.is_empty() {
            return (names, None);
        }
        let all = self.pending.len();
        let (one, prefix) = (random.below(all), random.below(all + 1));
        let kept: Vec<usize> = (0..all)
            .filter(|number| match fate {
                Fate::None => false,
                Fate::All => true,
                Fate::Prefix => *number < prefix,
                Fate::Mixed { kept_of_8, .. } => random.below(8) < kept_of_8,
                Fate::OneLost { .. } => *number != one,
                Fate::OneKept { .. } => *number == one,
            })
            .collect();
        let mut words = vec![];
        for (number, (_, change)) in self.pending.iter().enumerate() {
            if kept.contains(&number) {
                change.apply(&mut names);
            } else {
                words.push(format!("without {change:?}"));
            }
        }
        (names, Some(format!("{} of {all} changes of names, {}", kept.len(), words.join(", "))))
    }
}

impl NameChange {
    /// If an earlier change of the same name is lost, there may be nothing to remove.
    fn apply(&self, names: &mut BTreeMap<String, Inode>) {
        match self {
            NameChange::Create(name, inode) => {
                names.insert(name.clone(), *inode);
            }
            NameChange::Unlink(name, inode) => {
                if names.get(name) == Some(inode) {
                    names.remove(name);
                }
            }
            NameChange::Rename(from, to, inode) => {
                if names.get(from) == Some(inode) {
                    names.remove(from);
                }
                names.insert(to.clone(), *inode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: Inode = 1;

    fn created() -> Vec<Act> {
        vec![Act::Create { dir: ROOT, name: "file".to_owned(), inode: FILE, is_dir: false }]
    }

    fn write(at: usize, byte: u8, length: usize) -> Act {
        Act::Write { file: FILE, at, bytes: vec![byte; length] }
    }

    /// The contents of the file after power cuts, over many random tries.
    fn outcomes(before: &[Act], acts: &[Act]) -> BTreeSet<Option<Vec<u8>>> {
        let mut disk = Disk::new(before);
        acts.iter().for_each(|act| disk.see(act));
        (0..2000)
            .map(|seed| {
                let dir = tempfile::tempdir().expect("there is room");
                disk.lose_power(&mut Random::new(seed), dir.path());
                fs::read(dir.path().join("file")).ok()
            })
            .collect()
    }

    #[test]
    fn what_was_synced_is_there_and_a_name_only_with_its_directory() {
        let synced = [&created()[..], &[write(0, 7, 10), Act::Sync { inode: FILE, covers: 2 }]].concat();
        assert_eq!(outcomes(&[], &synced), BTreeSet::from([None, Some(vec![7; 10])]));
        let named = [&synced[..], &[Act::Sync { inode: ROOT, covers: 3 }]].concat();
        assert_eq!(outcomes(&[], &named), BTreeSet::from([Some(vec![7; 10])]));
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_was_called() {
        let before = [&created()[..], &[write(0, 1, 4)]].concat();
        let acts = [write(0, 2, 4), write(0, 3, 4), Act::Sync { inode: FILE, covers: 1 }];
        assert_eq!(outcomes(&before, &acts), BTreeSet::from([Some(vec![2; 4]), Some(vec![3; 4])]));
    }

    #[test]
    fn pages_and_sectors_are_there_without_each_other_in_any_order() {
        let before = [&created()[..], &[write(0, 0, 2 * PAGE)]].concat();
        let found = outcomes(&before, &[write(0, 1, PAGE), write(PAGE, 2, PAGE), write(0, 3, PAGE)]);
        let shape = |file: &[u8]| (file[0], file[PAGE - 1], file[PAGE]);
        let shapes: BTreeSet<_> = found.iter().flatten().map(|file| shape(file)).collect();
        for wanted in [(0, 0, 0), (1, 1, 0), (0, 0, 2), (3, 3, 0), (3, 3, 2), (1, 1, 2), (0, 3, 2), (3, 1, 0)]
        {
            assert!(shapes.contains(&wanted), "{wanted:?} is not in {shapes:?}");
        }
        assert!(shapes.iter().all(|(first, last, other)| [0, 1, 3].contains(first)
            && [0, 1, 3].contains(last)
            && [0, 2].contains(other)));
    }

    #[test]
    fn a_file_that_was_cut_and_grew_again_holds_no_byte_from_before() {
        let before = [&created()[..], &[write(0, 1, 2 * PAGE)]].concat();
        let cut = Act::SetLength { file: FILE, length: PAGE };
        let found = outcomes(&before, &[cut, write(2 * PAGE, 2, PAGE)]);
        let old = [vec![1; PAGE], vec![1; PAGE]].concat();
        assert!(found.contains(&Some(old.clone())), "all of it may be lost");
        for file in found.into_iter().flatten().filter(|file| file.len() == 3 * PAGE) {
            assert!(file[PAGE..2 * PAGE].iter().all(|byte| *byte == 0), "a piece of what was cut off");
        }
    }

    #[test]
    fn a_rename_is_whole_or_not_there() {
        let before = [&created()[..], &[write(0, 1, 1)]].concat();
        let new = Act::Create { dir: ROOT, name: "new".to_owned(), inode: 2, is_dir: false };
        let fill = Act::Write { file: 2, at: 0, bytes: vec![2] };
        let sync = Act::Sync { inode: 2, covers: 2 };
        let rename = Act::Rename { dir: ROOT, from: "new".to_owned(), to: "file".to_owned() };
        assert_eq!(
            outcomes(&before, &[new, fill, sync, rename]),
            BTreeSet::from([Some(vec![1]), Some(vec![2])])
        );
    }
}

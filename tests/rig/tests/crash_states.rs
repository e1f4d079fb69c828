//! Every state that a disk may legally be in after a power cut (see `reloop_rig::crash`): the store opens, is not set
//! aside, and has what was acknowledged.
//!
//! `RELOOP_CRASH_STATES` sets how many states of each kind are tried, `RELOOP_SEED` which.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "all of it is test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use reloop_rig::crash::disk::Disk;
use reloop_rig::crash::record::Recorder;
use reloop_rig::crash::{Act, Inode, ROOT, Recording};
use reloop_rig::daemon::binary;
use reloop_rig::disk::faults_available;
use reloop_rig::store_load::{self, Found, Shape};
use reloop_sim::simulation::Random;
use tempfile::TempDir;

/// The default number of states of each kind. With a debug build of the database each takes some 15 ms.
const STATES: usize = 400;

/// Recordings of each kind: each has two or three starts after loads of different lengths.
const RECORDINGS: usize = 12;

/// The same states at every run; `RELOOP_SEED` tries others.
const SEED: u64 = 1;

/// Further failures are not printed.
const FAILURES_SHOWN: usize = 5;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

fn seed() -> u64 {
    number("RELOOP_SEED", SEED)
}

fn states() -> usize {
    number("RELOOP_CRASH_STATES", STATES as u64) as usize
}

/// Not captured by the test runner: the seed is needed to repeat a failure.
fn say(what: &str) {
    writeln!(std::io::stderr(), "{what}").unwrap();
}

/// In memory if possible: this is not the disk that is tested.
fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

#[test]
fn a_masters_store_has_what_was_acknowledged_after_a_power_cut_in_any_legal_state() {
    try_states(Shape::Master);
}

#[test]
fn a_slaves_store_has_what_was_acknowledged_after_a_power_cut_in_any_legal_state() {
    try_states(Shape::Slave);
}

fn try_states(shape: Shape) {
    if !faults_available() {
        return;
    }
    let seed = seed();
    let tally = try_all(shape, states(), seed, |_| BTreeSet::new());
    say(&format!("crash states of a {shape:?}'s store: {tally} (RELOOP_SEED={seed})"));
    assert!(tally.failures.is_empty(), "RELOOP_SEED={seed}: {tally}\n{}", tally.shown());
}

/// The tests above can fail: the same recordings without the syncs that make a start safe.
#[test]
fn the_same_states_lose_a_store_where_a_snapshots_name_or_the_log_is_not_synced() {
    if !faults_available() {
        return;
    }
    let tally = try_all(Shape::Slave, 2 * STATES, seed(), syncs_of_snapshots_names);
    say(&format!("crash states where a snapshot's name is not synced: {tally}"));
    assert!(!tally.failures.is_empty(), "a snapshot's name may be lost and nothing comes of it");
    let tally = try_all(Shape::Slave, STATES / 4, seed(), syncs_of_the_log);
    say(&format!("crash states where the log is not synced: {tally}"));
    assert!(!tally.failures.is_empty(), "commits may be lost and nothing comes of it");
}

/// The order of calls that makes a start safe. It is checked at every start, and not only in the states that were
/// tried.
#[test]
fn a_start_makes_the_log_durable_before_its_snapshot_and_the_snapshots_name_before_it_overwrites_anything() {
    if !faults_available() {
        return;
    }
    let mut snapshots = 0;
    for recording in recordings(Shape::Slave) {
        let mut names = Names::default();
        let mut disk = Disk::new(&recording.before);
        recording.before.iter().for_each(|act| names.see(act));
        let mut unnamed = false;
        for (number, act) in recording.acts.iter().enumerate() {
            let at = || format!("act {number} of {}: {}", recording.log.display(), in_words(act));
            match act {
                Act::Create { name, .. } if is_snapshot(name) => {
                    assert!(!disk.has_pending(names.database()), "the log is not durable: {}", at());
                }
                Act::Unlink { name, .. } if is_snapshot(name) => assert!(!unnamed, "{}", at()),
                Act::Write { file, .. } if *file == names.database() => assert!(!unnamed, "{}", at()),
                _ => {}
            }
            disk.see(act);
            names.see(act);
            match act {
                Act::Rename { to, .. } if is_snapshot(to) => {
                    (unnamed, snapshots) = (true, snapshots + 1);
                }
                Act::Sync { inode, .. } if *inode == names.store => unnamed = false,
                _ => {}
            }
        }
    }
    assert!(snapshots >= RECORDINGS, "{snapshots} snapshots were written");
}

fn is_snapshot(name: &str) -> bool {
    name.starts_with("snap.")
}

/// The store's own files.
#[derive(Default)]
struct Names {
    store: Inode,
    database: Option<Inode>,
}

impl Names {
    fn see(&mut self, act: &Act) {
        match act {
            Act::Create { dir: ROOT, name, inode, .. } if name == "store" => self.store = *inode,
            Act::Create { name, inode, .. } if name == "db" => self.database = Some(*inode),
            _ => {}
        }
    }

    fn database(&self) -> Inode {
        self.database.unwrap_or(Inode::MAX)
    }
}

/// The acts that make a snapshot's name durable before the one that it replaces is overwritten.
fn syncs_of_snapshots_names(recording: &Recording) -> BTreeSet<usize> {
    let mut names = Names::default();
    recording.before.iter().for_each(|act| names.see(act));
    let (mut unnamed, mut found) = (false, BTreeSet::new());
    for (number, act) in recording.acts.iter().enumerate() {
        names.see(act);
        match act {
            Act::Rename { to, .. } if is_snapshot(to) => unnamed = true,
            Act::Sync { inode, .. } if *inode == names.store && unnamed => {
                unnamed = false;
                found.insert(number);
            }
            _ => {}
        }
    }
    found
}

fn syncs_of_the_log(recording: &Recording) -> BTreeSet<usize> {
    let mut names = Names::default();
    recording.before.iter().chain(&recording.acts).for_each(|act| names.see(act));
    let is_one = |act: &Act| matches!(act, Act::Sync { inode, .. } if *inode == names.database());
    (0..recording.acts.len()).filter(|number| is_one(&recording.acts[*number])).collect()
}

/// Shared by all tests: recordings take longer to make than states.
fn recordings(shape: Shape) -> &'static [Recording] {
    static OF_A_MASTER: OnceLock<Vec<Recording>> = OnceLock::new();
    static OF_A_SLAVE: OnceLock<Vec<Recording>> = OnceLock::new();
    let recordings = match shape {
        Shape::Master => &OF_A_MASTER,
        Shape::Slave => &OF_A_SLAVE,
    };
    recordings.get_or_init(|| {
        let home = scratch();
        record(shape, seed(), home.path())
    })
}

/// Loads of different lengths, each followed by starts: killed or closed, on a log that has just crossed a segment's
/// boundary and on one that has not. The first recording begins with an empty directory.
fn record(shape: Shape, seed: u64, home: &Path) -> Vec<Recording> {
    let worker = binary("store-load");
    let mut random = Random::new(seed);
    // A commit of a slave takes about 700 bytes of the log and one of a master 4,000; a segment has 512 KiB.
    let longest = match shape {
        Shape::Master => 600,
        Shape::Slave => 2500,
    };
    let ends = ["kill", "close"];
    (0..RECORDINGS)
        .map(|number| {
            let root = home.join(format!("{number}"));
            fs::create_dir_all(&root).unwrap();
            let dir = store_load::dir_on(&root);
            let work = |commits: usize, random: &mut Random| {
                let shape = format!("{shape:?}").to_lowercase();
                let words = [dir.to_str().unwrap(), "--shape", &shape, "--commits"];
                let words = words.into_iter().map(str::to_owned);
                let rest = [commits.to_string(), "--end".to_owned(), ends[random.below(2)].to_owned()];
                words.chain(rest).collect::<Vec<String>>()
            };
            if number > 0 {
                // Most starts of a node come after less than a segment, some after several.
                let commits = if random.one_in(3) { longest } else { longest / 2 };
                let words = work(1 + random.below(commits), &mut random);
                let ended = std::process::Command::new(&worker)
                    .args(words)
                    .stdout(std::process::Stdio::null())
                    .status();
                let ended = ended.unwrap();
                assert!(ended.success() || ended.signal() == Some(9), "the worker failed: {ended}");
            }
            let mut recorder = Recorder::new(&root, home.join(format!("{number}.strace")));
            for _ in 0..2 + random.below(2) {
                let commits = [0, random.below(10), random.below(150)][random.below(3)];
                let words = work(commits, &mut random);
                recorder.run(&worker, &words.iter().map(String::as_str).collect::<Vec<_>>());
            }
            let recording = recorder.end();
            fs::remove_dir_all(&root).unwrap();
            recording
        })
        .collect()
}

#[derive(Default)]
struct Tally {
    states: usize,
    in_starts: usize,
    took: std::time::Duration,
    failures: Vec<String>,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { states, in_starts, took, failures } = self;
        write!(f, "{states}, {in_starts} of them in a start, {} failed, in {took:.1?}", failures.len())
    }
}

impl Tally {
    fn shown(&self) -> String {
        self.failures.iter().take(FAILURES_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n\n")
    }
}

/// `ignored` are acts that are left out.
fn try_all(
    shape: Shape,
    states: usize,
    seed: u64,
    ignored: impl Fn(&Recording) -> BTreeSet<usize> + Sync,
) -> Tally {
    let (recordings, home) = (recordings(shape), scratch());
    let begun = std::time::Instant::now();
    let (next, tally) = (AtomicUsize::new(0), Mutex::new(Tally::default()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for worker in 0..workers {
            let (next, tally, ignored, home) = (&next, &tally, &ignored, home.path());
            scope.spawn(move || {
                let place = home.join(format!("state-{worker}"));
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(recording) = recordings.get(number) else { return };
                    let count = states / recordings.len() + usize::from(number < states % recordings.len());
                    let done = try_some(
                        shape,
                        recording,
                        &ignored(recording),
                        count,
                        seed ^ (number as u64) << 32,
                        &place,
                    );
                    let mut all = tally.lock().unwrap();
                    all.states += done.states;
                    all.in_starts += done.in_starts;
                    all.failures.extend(done.failures);
                }
            });
        }
    });
    Tally { took: begun.elapsed(), ..tally.into_inner().unwrap() }
}

fn try_some(
    shape: Shape,
    recording: &Recording,
    ignored: &BTreeSet<usize>,
    count: usize,
    seed: u64,
    place: &Path,
) -> Tally {
    let mut random = Random::new(seed);
    let starts = starts(recording);
    let unnamed = unnamed(recording, ignored);
    let mut cuts: Vec<(usize, u64)> = (0..count)
        .map(|_| {
            let at = match random.below(4) {
                0 => random.below(recording.acts.len() + 1),
                1 if !unnamed.is_empty() => unnamed[random.below(unnamed.len())],
                _ => {
                    let (from, to) = starts[random.below(starts.len())];
                    from + random.below(to - from + 1)
                }
            };
            (at, random.any())
        })
        .collect();
    cuts.sort_unstable();
    let mut tally = Tally { states: count, ..Tally::default() };
    let mut disk = Disk::new(&recording.before);
    let mut acknowledged = BTreeMap::new();
    let mut seen = 0;
    for (cut, seed) in cuts {
        for (number, act) in recording.acts[..cut].iter().enumerate().skip(seen) {
            see(&mut disk, ignored, number, act);
            if let Act::Say(line) = act
                && let Some((writer, number)) = line.split_once(' ')
            {
                acknowledged.insert(writer.parse().unwrap(), number.parse().unwrap());
            }
        }
        seen = cut;
        tally.in_starts += usize::from(starts.iter().any(|(from, to)| (from..=to).contains(&&cut)));
        let how = lose_power(&disk, seed, place);
        let wrong = match store_load::verify(&store_load::dir_on(place), shape, &acknowledged) {
            Found::Whole(_) => continue,
            Found::Lost(wrong) | Found::Unopened(wrong) => wrong,
        };
        // States with ignored acts are meant to fail, so they are not kept.
        let kept = if ignored.is_empty() { keep(&disk, seed) } else { PathBuf::from("no place") };
        let last = recording.acts[cut.saturating_sub(12)..cut].iter().map(in_words);
        tally.failures.push(format!(
            "{wrong}\ncut after act {cut} of {}: {how}\nbefore it: {}\nkept in {}",
            recording.acts.len(),
            last.collect::<Vec<_>>().join("; "),
            kept.display()
        ));
    }
    tally
}

fn see(disk: &mut Disk, ignored: &BTreeSet<usize>, number: usize, act: &Act) {
    if ignored.contains(&number) {
        disk.see(&Act::Say(String::new()));
    } else {
        disk.see(act);
    }
}

/// The acts before which a power cut can undo a change of names.
fn unnamed(recording: &Recording, ignored: &BTreeSet<usize>) -> Vec<usize> {
    let mut disk = Disk::new(&recording.before);
    let mut found = vec![];
    for (number, act) in recording.acts.iter().enumerate() {
        see(&mut disk, ignored, number, act);
        if disk.has_pending_names() {
            found.push(number + 1);
        }
    }
    found
}

/// From the beginning of each process to its first acknowledgement.
fn starts(recording: &Recording) -> Vec<(usize, usize)> {
    let ends = recording.starts.iter().skip(1).copied().chain([recording.acts.len()]);
    let ranges = recording.starts.iter().zip(ends);
    ranges
        .map(|(from, to)| {
            let said = recording.acts[*from..to].iter().position(|act| matches!(act, Act::Say(_)));
            (*from, said.map_or(to, |said| from + said))
        })
        .collect()
}

fn lose_power(disk: &Disk, seed: u64, place: &Path) -> String {
    let _ = fs::remove_dir_all(place);
    fs::create_dir_all(place).unwrap();
    disk.lose_power(&mut Random::new(seed), place)
}

/// Keeps the state as it was before it was opened.
fn keep(disk: &Disk, seed: u64) -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("crash-states").join(format!("{seed:016x}"));
    lose_power(disk, seed, &place);
    place
}

fn in_words(act: &Act) -> String {
    match act {
        Act::Write { file, at, bytes } => format!("write {} bytes to {file} at {at}", bytes.len()),
        other => format!("{other:?}"),
    }
}

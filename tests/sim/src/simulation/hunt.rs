//! Plays many schedules on all processors.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use reloop_protocol::job::State;

use super::{Failure, Outcome, Schedule, file, play, schedule, shrink, size};

#[derive(Debug, Clone, Copy)]
pub struct Hunt {
    pub from: u64,
    pub seeds: u64,
    /// `None`: as the seed says.
    pub slaves: Option<usize>,
    /// `None`: as the seed says.
    pub jobs: Option<usize>,
    /// Goes on after a failure, and keeps one schedule for each kind of failure.
    pub all: bool,
}

/// The results together.
#[derive(Debug, Clone, Default)]
pub struct Bag {
    pub schedules: u64,
    /// Steps of both nodes.
    pub steps: u64,
    pub took: Duration,
    /// The number of jobs in each end state.
    pub ended: BTreeMap<State, usize>,
    /// The number of acts of each kind that did something.
    pub acts: BTreeMap<&'static str, usize>,
    /// How often each sight was seen.
    pub sights: BTreeMap<&'static str, usize>,
    /// The most slaves, and the most jobs, in one schedule.
    pub largest: (usize, usize),
    /// By the kind of failure.
    pub found: BTreeMap<String, Found>,
}

/// The schedules that fail in one way.
#[derive(Debug, Clone)]
pub struct Found {
    /// The one of the lowest seed, not cut down yet.
    pub schedule: Schedule,
    pub failure: Failure,
    pub count: u64,
}

/// Plays schedules until one fails, or all are played.
pub fn hunt(hunt: Hunt) -> Bag {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let over = AtomicBool::new(false);
    let bag = Mutex::new(Bag::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= hunt.seeds {
                        break;
                    }
                    let seed = hunt.from + number;
                    let (slaves, jobs) = size(seed);
                    let size = (hunt.slaves.unwrap_or(slaves).max(1), hunt.jobs.unwrap_or(jobs));
                    let schedule = schedule(seed, size.0, size.1);
                    let played = play(&schedule);
                    let mut bag = bag.lock().expect("nothing panics while it is held");
                    match played {
                        Ok(outcome) => bag.add(outcome, size),
                        Err(failure) => {
                            over.fetch_or(!hunt.all, Ordering::Relaxed);
                            bag.find(schedule, failure);
                        }
                    }
                }
            });
        }
    });
    let mut bag = bag.into_inner().expect("nothing panics while it is held");
    bag.took = began.elapsed();
    bag
}

impl Bag {
    fn add(&mut self, outcome: Outcome, size: (usize, usize)) {
        self.schedules += 1;
        self.steps += outcome.steps;
        for (state, count) in outcome.ended {
            *self.ended.entry(state).or_default() += count;
        }
        for (kind, count) in outcome.acts {
            *self.acts.entry(kind).or_default() += count;
        }
        for (sight, count) in outcome.sights {
            *self.sights.entry(sight).or_default() += count;
        }
        self.largest = self.largest.max(size);
    }

    fn find(&mut self, schedule: Schedule, failure: Failure) {
        let new = Found { schedule, failure, count: 0 };
        let found = self.found.entry(way(&new.failure)).or_insert_with(|| new.clone());
        found.count += 1;
        if found.schedule.head.seed > new.schedule.head.seed {
            *found = Found { count: found.count, ..new };
        }
    }

    /// Steps of both nodes per second.
    pub fn pace(&self) -> f64 {
        self.steps as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    pub fn tell(&self) -> Result<String> {
        let mut text = String::new();
        writeln!(
            text,
            "{} schedules, {} steps in {:.1} s: {:.0} steps per second; the largest: {} slaves, {} jobs",
            self.schedules,
            self.steps,
            self.took.as_secs_f64(),
            self.pace(),
            self.largest.0,
            self.largest.1
        )?;
        writeln!(text, "jobs, by how they ended:")?;
        for (state, count) in &self.ended {
            writeln!(text, "{count:>10} {}", state.name())?;
        }
        writeln!(text, "acts, by kind:")?;
        for (kind, count) in &self.acts {
            writeln!(text, "{count:>10} {kind}")?;
        }
        writeln!(text, "what was seen:")?;
        for (sight, count) in &self.sights {
            writeln!(text, "{count:>10} {sight}")?;
        }
        Ok(text)
    }
}

/// The kind of a failure: the invariant and its message, without names and numbers.
fn way(failure: &Failure) -> String {
    let words = failure.broken.how.split_whitespace();
    let words = words.filter(|word| word.chars().all(|letter| letter.is_ascii_lowercase() || letter == ','));
    let words: Vec<_> = words.take(8).collect();
    format!("{}: {}", failure.broken.invariant, words.join(" "))
}

/// Cuts a schedule down and stores it in a directory. Returns the path, and a text that says how to replay it.
pub fn keep(directory: &Path, found: Found) -> Result<(PathBuf, String)> {
    let Found { schedule, failure, count } = found;
    let (seed, slaves, acts) = (schedule.head.seed, schedule.head.slaves.len(), schedule.acts.len());
    let (smallest, failure) = shrink::shrink(schedule, failure);
    let path = file::save(directory, &smallest)?;
    let mut text = format!(
        "seed {seed}, {slaves} slaves ({count} such schedules): {}\n{} of its {acts} acts are enough, on {} slaves:\n",
        failure.broken,
        smallest.acts.len(),
        smallest.head.slaves.len()
    );
    for line in file::write(&smallest)?.lines() {
        writeln!(text, "  {line}")?;
    }
    write!(text, "cargo run -p reloop-tools -- replay {}", path.display())?;
    Ok((path, text))
}

//! Every fuzz target on its committed corpus and on mutations of it, the same ones at every run. `RELOOP_FUZZ_RUNS`
//! sets how many.
#![cfg(test)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use reloop_rig::fuzz::TARGETS;
use reloop_sim::simulation::Random;

/// Mutations that each target is run on.
const RUNS: usize = 400;

/// The longest mutation in bytes, as in libFuzzer's runs.
const LONGEST: usize = 4096;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The corpus, and what the project has anyway: golden vectors and shipped configs.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let folder = root().join("tests/fuzz/corpus").join(target);
    for file in std::fs::read_dir(&folder).unwrap() {
        let file = file.unwrap();
        seeds.push((file.file_name().to_string_lossy().into_owned(), std::fs::read(file.path()).unwrap()));
    }
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    match target {
        "wire" => {
            for line in text("protocol/tests/golden/v1.txt").lines() {
                let (name, hex) = line.split_once(' ').unwrap();
                let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
                seeds.push((format!("golden {name}"), (0..hex.len()).step_by(2).map(byte).collect()));
            }
        }
        "master_config" => seeds.push(("shipped".into(), text("deploy/config/master.toml").into())),
        "slave_config" => seeds.push(("shipped".into(), text("deploy/config/slave.toml").into())),
        _ => {}
    }
    seeds.sort();
    assert!(seeds.len() >= 4, "{target} has no corpus");
    seeds
}

/// One to four small changes.
fn mutate(random: &mut Random, seeds: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = seeds[random.below(seeds.len())].1.clone();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.any() as u8,
            2 => bytes.insert(at, random.any() as u8),
            3 => drop(bytes.drain(at..(at + random.below(16)).min(bytes.len()))),
            4 => {
                let other = &seeds[random.below(seeds.len())].1;
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => {
                let copy: Vec<u8> = bytes[at..].iter().take(random.below(32)).copied().collect();
                bytes.splice(at..at, copy);
            }
        }
    }
    bytes.truncate(LONGEST);
    bytes
}

fn hold(target: &str) {
    let runs = std::env::var("RELOOP_FUZZ_RUNS").ok().map_or(RUNS, |text| text.parse().unwrap());
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let check = |name: &str, bytes: &[u8]| {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(bytes))) {
            let file = std::env::temp_dir().join(format!("reloop-fuzz-{target}"));
            std::fs::write(&file, bytes).unwrap();
            println!("{target} breaks on {name}, which is now in {}", file.display());
            std::panic::resume_unwind(panic);
        }
    };
    let seeds = seeds(target);
    for (name, bytes) in &seeds {
        check(name, bytes);
    }
    let mut random = Random::new(1);
    for number in 0..runs {
        check(&format!("mutation {number}"), &mutate(&mut random, &seeds));
    }
}

#[test]
fn any_bytes_are_a_frame_or_an_error() {
    hold("wire");
}

#[test]
fn any_bytes_on_disk_are_a_record_or_are_set_aside() {
    hold("records");
}

#[test]
fn any_text_is_a_masters_config_or_an_error_that_says_where() {
    hold("master_config");
}

#[test]
fn any_text_is_a_slaves_config_or_an_error_that_says_where() {
    hold("slave_config");
}

#[test]
fn any_body_is_a_request_within_the_bounds_or_a_problem_with_a_code() {
    hold("rest");
}

#[test]
fn a_hostile_slave_harms_nobody_but_itself() {
    hold("hostile_slave");
}

#[test]
fn a_hostile_master_cannot_make_a_slave_start_what_it_must_not() {
    hold("hostile_master");
}

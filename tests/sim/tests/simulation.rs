//! Random schedules with every fault of the world: each must converge and break no invariant. A schedule that breaks
//! one is cut down, stored and printed; schedules that once found a bug are played again.
#![cfg(test)]

use std::path::{Path, PathBuf};

use reloop_protocol::job::State;
use reloop_sim::simulation::hunt::{self, Found, Hunt};
use reloop_sim::simulation::{Outcome, Profile, Schedule, file, play, run, schedule, shrink, sight};
use reloop_sim::world::{Act, Invariant, Placed};

/// How many schedules one test run plays; `RELOOP_SIMULATIONS` sets another number.
const SCHEDULES: u64 = 10_000;

/// The most acts of a minimal schedule for a machine that is broken on purpose.
const HANDFUL: usize = 6;

fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).ok().map_or(default, |text| text.parse().unwrap())
}

#[test]
fn every_schedule_of_faults_converges_once_it_is_healed() {
    let seeds = number("RELOOP_SIMULATIONS", SCHEDULES);
    let mut bag =
        hunt::hunt(Hunt { from: number("RELOOP_SEED", 0), seeds, slaves: None, jobs: None, all: false });
    println!("{}", bag.tell().unwrap());
    if let Some((_, found)) = std::mem::take(&mut bag.found).into_iter().next() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("schedules");
        panic!("{}", hunt::keep(&kept, found).unwrap().1);
    }
    if seeds < SCHEDULES {
        return;
    }
    // A simulation in which nothing fails, or nothing succeeds, proves nothing.
    let ends =
        [State::Succeeded, State::Failed, State::Canceled, State::Rejected, State::Expired, State::Lost];
    for state in ends {
        assert!(bag.ended.get(&state).is_some_and(|count| *count > 100), "{state:?} hardly ever happened");
    }
    for kind in KINDS {
        assert!(bag.acts.get(kind).is_some_and(|count| *count > 100), "{kind} hardly ever happened");
    }
    for sight in sight::SIGHTS {
        assert!(bag.sights.get(sight).is_some_and(|count| *count >= 20), "hardly ever seen: {sight}");
    }
    assert!(bag.largest.0 >= 40 && bag.largest.1 >= 100, "no large fleet: {:?}", bag.largest);
}

const KINDS: &[&str] = &[
    "late frame",
    "half-open",
    "swallowed",
    "reboot",
    "agent crash between effects",
    "master crash between effects",
    "disk replaced",
    "disk put back",
    "box cloned",
    "master restored, confirmed",
    "master restored, unconfirmed",
    "master wiped",
    "master doubled, confirmed",
    "master doubled, unconfirmed",
    "slave's clock jumped",
    "master's clock jumped",
];

#[test]
fn the_same_seed_gives_the_same_story_to_the_byte() {
    assert_eq!(run(7, 3, 8), run(7, 3, 8));
    let text = file::write(&schedule(7, 3, 8)).unwrap();
    assert_eq!(text, file::write(&schedule(7, 3, 8)).unwrap());
    assert_eq!(file::read(&text).unwrap(), schedule(7, 3, 8));
}

#[test]
fn any_part_of_a_schedule_is_a_schedule() {
    let whole = schedule(19, 3, 8);
    for part in 1..8 {
        let acts = whole.acts.iter().skip(part).step_by(part).cloned().collect();
        let played = play(&Schedule { acts, ..whole.clone() });
        assert!(played.is_ok(), "{played:?}");
    }
}

/// The first seed of a fleet whose machines begin twice after a power cut, with its failure.
fn stuttering() -> (Schedule, reloop_sim::simulation::Failure) {
    let stutter = |seed| {
        let mut schedule = schedule(seed, 2, 8);
        for kind in &mut schedule.head.slaves {
            kind.stutters = true;
        }
        let failure = play(&schedule).err()?;
        Some((schedule, failure))
    };
    (0..100).find_map(stutter).expect("a machine that begins twice is found")
}

#[test]
fn a_broken_machine_is_found_and_its_schedule_cut_down_to_a_handful_of_acts() {
    let (schedule, failure) = stuttering();
    assert_eq!(failure.broken.invariant, Invariant::BegunOnce);
    let directory = tempfile::tempdir().unwrap();
    let found = Found { schedule: schedule.clone(), failure: failure.clone(), count: 1 };
    let (path, told) = hunt::keep(directory.path(), found).unwrap();
    let kept = file::open(&path).unwrap();
    assert!(kept.acts.len() <= HANDFUL, "{told}");
    assert!(kept.acts.iter().any(|act| matches!(act, Act::Reboot { .. })), "{told}");
    assert_eq!(kept.head.invariant, Some(Invariant::BegunOnce));
    let again = play(&kept).expect_err("the file breaks what the schedule broke");
    assert_eq!(again.broken.invariant, Invariant::BegunOnce);
    // The result is the same each time.
    let (smallest, _) = shrink::shrink(schedule, failure);
    assert_eq!(file::write(&smallest).unwrap(), file::write(&kept).unwrap());
}

/// The schedules in a directory, each with a note of what it shows. Empty without the directory, because git keeps no
/// empty ones.
fn kept(directory: &str) -> Vec<(PathBuf, Schedule)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    if !directory.exists() {
        return Vec::new();
    }
    let paths = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.is_file()).collect();
    paths.sort();
    let open = |path: PathBuf| {
        let schedule = file::open(&path).unwrap();
        assert!(schedule.head.note.is_some() && schedule.head.invariant.is_some(), "{}", path.display());
        (path, schedule)
    };
    paths.into_iter().map(open).collect()
}

#[test]
fn a_schedule_that_once_found_something_breaks_nothing_any_more() {
    let kept = kept("schedules");
    assert!(kept.len() >= 45, "{kept:?}");
    for (path, schedule) in kept {
        if let Err(failure) = play(&schedule) {
            panic!("{}: {}", path.display(), failure.broken);
        }
    }
}

#[test]
fn an_open_schedule_that_passes_has_to_be_moved() {
    for (path, schedule) in kept("schedules/open") {
        let broken = play(&schedule).err().map(|failure| failure.broken.invariant);
        let path = path.display();
        assert_eq!(
            broken, schedule.head.invariant,
            "{path}: mended? Then it belongs to tests/sim/schedules/"
        );
    }
}

#[test]
fn a_wiped_disk_excuses_nothing_at_another_slave() {
    use reloop_sim::world::{World, job_id};
    let mut world = World::new(2);
    for (job, slave) in [(0, 0), (1, 1)] {
        world.act(&Act::Place { job, order: Placed { slave: Some(slave), ..Placed::default() } });
    }
    world.settle();
    world.act(&Act::ReplaceDisk { slave: 1 });
    assert!(world.ledger.torn.contains(&job_id(1)), "its own job may be forgotten");
    assert!(!world.ledger.torn.contains(&job_id(0)), "the other slave's job may not");
    assert!(world.ledger.desired_states.keys().any(|(slave, ..)| *slave == 0), "nor its desired state");
}

#[test]
fn a_calm_day_in_a_large_fleet_ends_well() {
    let outcome: Outcome = run(1, 50, 500);
    assert_eq!(schedule(1, 50, 500).head.profile, Profile::Calm);
    assert!(outcome.ended.values().sum::<usize>() > 450, "{outcome:?}");
}

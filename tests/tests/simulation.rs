//! Random schedules with every fault of the world: each must converge, and break no invariant on the way.
#![cfg(test)]

use std::collections::BTreeMap;

use reloop_protocol::job::State;
use reloop_tests::simulation::run;

/// How many schedules one test run tries; another number comes by `RELOOP_SIMULATIONS`.
const SCHEDULES: u64 = 3_000;

fn schedules() -> u64 {
    std::env::var("RELOOP_SIMULATIONS").ok().map_or(SCHEDULES, |text| text.parse().unwrap())
}

#[test]
fn every_schedule_of_faults_converges_once_it_is_healed() {
    let first: u64 = std::env::var("RELOOP_SEED").ok().map_or(0, |text| text.parse().unwrap());
    let mut ended: BTreeMap<State, usize> = BTreeMap::new();
    for seed in first..first + schedules() {
        let outcome = run(seed, 1 + (seed % 4) as usize, 4 + (seed % 9) as usize);
        for (state, count) in outcome.ended {
            *ended.entry(state).or_default() += count;
        }
    }
    println!("{ended:?}");
    // A simulation in which nothing goes wrong, or nothing goes right, proves nothing.
    for state in [State::Succeeded, State::Failed, State::Canceled, State::Expired, State::Lost] {
        assert!(
            ended.get(&state).is_some_and(|count| *count > 0) || schedules() < 100,
            "{state:?} never happened"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_story() {
    assert_eq!(run(7, 3, 8), run(7, 3, 8));
}

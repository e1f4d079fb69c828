//! Enumerates the short configurations, and tests the model check itself.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use reloop_sim::model::{CONFIGURATIONS, Floor, Scene, Search, configuration, run, sight};
use stateright::Model;

/// The number of states of each short configuration: a property of the rules.
const PINNED: [(&str, usize); 17] = [
    ("one-job", 78_910),
    ("one-job-broken-twice", 20_998),
    ("restartable", 49_455),
    ("slow-start", 67_825),
    ("two-jobs", 16_208),
    ("two-slaves", 111_429),
    ("late-frames", 24_785),
    ("deferred", 127_401),
    ("restored", 138_934),
    ("limited", 56_033),
    ("revoked", 153_609),
    ("progress", 21_323),
    ("moved", 24_439),
    ("goes-first", 146_823),
    ("held-back", 434_984),
    ("barred", 4_515),
    ("reconfigured", 123_922),
];

/// Pairs of states with equal fingerprints that are followed, on each floor.
const PAIRS: usize = 1_500;

#[test]
fn every_story_of_the_short_configurations_holds_and_comes_right() {
    let mut seen = BTreeSet::new();
    let mut changed = Vec::new();
    for (name, pinned) in PINNED {
        let found = run(configuration(name).unwrap(), Search::Deep, 1, |_: usize, _: Duration| {});
        println!("{name}: {} states, {:.1} s", found.states, found.took.as_secs_f64());
        if let Some(failure) = found.failures.first() {
            panic!("{name}: {failure}\n`harness model {name} --shortest` finds the shortest way to it");
        }
        seen.extend(found.seen);
        if found.states != pinned {
            changed.push(format!("(\"{name}\", {}), // was {pinned}", found.states));
        }
    }
    assert!(
        changed.is_empty(),
        "the number of states changed, so the rules or the model did. If that was meant, write into PINNED:\n{}",
        changed.join("\n")
    );
    let unseen: Vec<_> =
        sight::SIGHTS.iter().map(|(name, _)| *name).filter(|name| !seen.contains(name)).collect();
    assert!(unseen.is_empty(), "the model proves nothing about what never happens in it: {unseen:?}");
}

#[test]
fn every_short_configuration_is_pinned() {
    let short: Vec<_> = CONFIGURATIONS.iter().filter(|one| !one.long).map(|one| one.name).collect();
    assert_eq!(short, PINNED.map(|(name, _)| name));
}

fn number(scene: &Scene) -> u64 {
    let mut hasher = DefaultHasher::new();
    scene.hash(&mut hasher);
    hasher.finish()
}

fn what_follows(floor: &Floor, scene: &Scene) -> BTreeMap<u64, String> {
    let steps = floor.next_steps(scene).into_iter();
    steps.map(|(act, next)| (number(&next), format!("{act:?}"))).collect()
}

/// The lines in which two worlds differ.
fn difference(one: &Scene, other: &Scene) -> String {
    let (one, other) = (format!("{:#?}", one.world), format!("{:#?}", other.world));
    let lines = one.lines().zip(other.lines()).enumerate().filter(|(_, (one, other))| one != other);
    let told = lines.map(|(number, (one, other))| format!("{number:>5} {} | {}", one.trim(), other.trim()));
    told.collect::<Vec<_>>().join("\n")
}

/// What the fingerprint leaves out must not matter: states with equal fingerprints have equal successors.
#[test]
fn states_with_the_same_fingerprint_go_on_alike() {
    for (name, _) in PINNED {
        let floor = Floor::new(configuration(name).unwrap());
        let mut known: BTreeMap<u64, Scene> = BTreeMap::new();
        let mut waiting = VecDeque::from(floor.init_states());
        let mut pairs = 0;
        while let Some(scene) = waiting.pop_front().filter(|_| pairs < PAIRS) {
            let Some(before) = known.get(&number(&scene)) else {
                waiting.extend(floor.next_states(&scene));
                known.insert(number(&scene), scene);
                continue;
            };
            pairs += 1;
            let (follows, followed) = (what_follows(&floor, &scene), what_follows(&floor, before));
            assert!(
                follows.keys().eq(followed.keys()),
                "{name}: {follows:?}\n{followed:?}\n{}",
                difference(&scene, before)
            );
        }
        assert!(pairs > PAIRS / 2, "{name}: only {pairs} ways lead to a state that is known");
    }
}

#[test]
fn the_fingerprint_of_a_state_differs_from_those_of_its_successors() {
    let floor = Floor::new(configuration("one-job").unwrap());
    let mut waiting = VecDeque::from(floor.init_states());
    for _ in 0..500 {
        let scene = waiting.pop_front().unwrap();
        let following = floor.next_states(&scene);
        assert!(following.iter().all(|next| number(next) != number(&scene)));
        waiting.extend(following);
    }
}

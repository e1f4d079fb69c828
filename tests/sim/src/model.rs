//! The model check: enumerates every state that a small floor of machines can reach, with every fault at every moment.
//!
//! Random schedules find what is likely; this finds everything within a bound. The states are those of the [`World`],
//! so the rules that are checked are the rules that run. [stateright](https://docs.rs/stateright) enumerates them: from
//! each state, every [`Act`] that is possible there. A [`Configuration`] limits how many faults and commands of people
//! may happen and of which kinds; within that limit every order of acts is tried.
//!
//! * In every state the world's invariants hold.
//! * In every state without a next act, and in a fixed share of all others, everything is repaired and all questions
//!   are answered; then the world comes to rest with every job ended as its history demands and both views equal
//!   ([`Floor::healed`]). Stateright's own `eventually` would miss a world that goes in circles.
//! * In the same states an enrolled slave that lies reports every job, and no job changes.
//! * Each [sight](mod@sight) is a `sometimes` property: something that has to happen in at least one state, so that a
//!   model in which, for example, a cable is never cut at a critical moment fails.
//! * A crash after the commit and before the effects is an act of its own, for each number of effects that were
//!   performed before.
//!
//! Two states are equal if the world goes on alike from them: see [`World::fingerprint`]. So the number of states of a
//! configuration is a property of the rules, and tests pin it.
//!
//! Memory: the search goes depth first, so only the states on the current path and their siblings are kept; of all
//! others, eight bytes.

mod act;
mod configuration;
mod heal;
pub mod sight;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use reloop_protocol::id::JobId;
use reloop_protocol::master::Order;
use stateright::{Checker, HasDiscoveries, Model, Property};

pub use self::act::Act;
pub use self::configuration::{CONFIGURATIONS, Configuration, Deed, Fault, configuration};
use crate::world::{Broken, Machine, World};

/// How often a long run prints its progress.
const PROGRESS_EVERY: Duration = Duration::from_secs(15);

/// Poll interval for the progress.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Moves after which a floor this small never comes to rest.
const PATIENCE: usize = 2_000;

/// The property that stands for every [`Invariant`](crate::world::Invariant); a failure names the broken one.
const HOLDS: &str = "whatever happens, every invariant holds in every state";

/// The property that stands for everything that must hold in the end.
const COMES_RIGHT: &str = "whatever happened, once everything is mended and answered it comes right";

/// A configuration, ready to be enumerated.
#[derive(Debug)]
pub struct Floor {
    pub configuration: Configuration,
    first: World,
    orders: Vec<Order>,
    /// The fingerprint of the first state that failed: stateright reports the last one that it meets before it stops.
    culprit: OnceLock<u64>,
}

/// How much may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Left {
    pub faults: u8,
    pub deeds: u8,
    /// Frames of dead links.
    pub late: u8,
    /// Steps of the clock.
    pub steps: u8,
}

#[derive(Clone)]
pub struct Scene {
    pub world: World,
    /// What may still happen from here.
    pub left: Left,
    /// The number of orders placed.
    pub placed: usize,
    /// The world's fingerprint, which is used several times.
    print: u64,
}

impl Hash for Scene {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.print, self.left, self.placed).hash(state);
    }
}

impl PartialEq for Scene {
    fn eq(&self, other: &Self) -> bool {
        (self.print, self.left, self.placed) == (other.print, other.left, other.placed)
    }
}

impl fmt::Debug for Scene {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x} {:?}", self.print, self.left)
    }
}

impl Floor {
    /// The first state: all slaves are connected, and nothing was ordered.
    pub fn new(configuration: Configuration) -> Self {
        let mut first = World::new(configuration.slaves);
        first.lenient = true;
        first.disks_are_sound = true;
        first.tracing = false;
        first.patience = PATIENCE;
        for held in &mut first.boxes {
            held.machine.length_ms = Machine::UNTIL_TOLD;
            held.machine.slow = configuration.slow;
            held.machine.ponders = configuration.ponders;
            held.machine.tells_progress = configuration.progress > 0;
            (configuration.slave)(&mut held.settings);
        }
        // Restarted, so that the agent reads its settings at its start.
        for slave in 0..configuration.slaves {
            first.kill_agent(slave);
            first.start_agent(slave, true);
        }
        first.settle();
        if configuration.away {
            first.cut(configuration.slaves - 1);
        }
        first.pings_are_slow = configuration.slow_pings;
        first.forget_the_past(0);
        let orders = (configuration.orders)(&mut first);
        Self { configuration, first, orders, culprit: OnceLock::new() }
    }

    fn print(&self, world: &World) -> u64 {
        world.fingerprint(self.configuration.deeds.1.contains(&Deed::BackUp))
    }

    /// The job of an order, by the order's index.
    pub fn job(&self, order: usize) -> JobId {
        self.orders[order].jobs[0]
    }

    /// The jobs that were placed.
    pub fn jobs(&self, scene: &Scene) -> Vec<JobId> {
        (0..scene.placed).map(|order| self.job(order)).collect()
    }

    /// What does not hold in a state, or in the world after it is healed.
    pub fn broken(&self, scene: &Scene) -> Option<Broken> {
        scene.world.broken.clone().or_else(|| self.healed(scene).broken)
    }

    fn comes_right(&self, scene: &Scene) -> bool {
        if scene.world.broken.is_some() {
            // It is reported as another property.
            return true;
        }
        let chosen = scene.print.is_multiple_of(self.configuration.healed);
        let is_last = || {
            let mut acts = Vec::new();
            self.actions(scene, &mut acts);
            acts.is_empty()
        };
        !(chosen || is_last()) || self.healed(scene).broken.is_none() || self.is_another(scene)
    }

    fn holds(&self, scene: &Scene) -> bool {
        scene.world.broken.is_none() || self.is_another(scene)
    }

    /// Whether the state fails and is not the first one that did.
    fn is_another(&self, scene: &Scene) -> bool {
        *self.culprit.get_or_init(|| scene.print) != scene.print
    }
}

impl Model for Floor {
    type State = Scene;
    type Action = Act;

    fn init_states(&self) -> Vec<Scene> {
        let Configuration { faults, deeds, late, steps, .. } = self.configuration;
        let left = Left { faults: faults.0, deeds: deeds.0, late: late.0, steps: steps.0 };
        vec![Scene { world: self.first.clone(), left, placed: 0, print: self.print(&self.first) }]
    }

    fn actions(&self, scene: &Scene, acts: &mut Vec<Act>) {
        if scene.world.broken.is_none() {
            act::possible(self, scene, acts);
        }
    }

    fn next_state(&self, last: &Scene, act: Act) -> Option<Scene> {
        let mut scene = last.clone();
        act::perform(self, &mut scene, act)?;
        let late = if scene.left.late > 0 { self.configuration.late.1 } else { 0 };
        scene.world.forget_the_past(late);
        scene.world.check_explained();
        scene.world.check_views();
        scene.world.check_placement();
        scene.print = self.print(&scene.world);
        Some(scene)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![Property::always(HOLDS, Self::holds)];
        properties.push(Property::always(COMES_RIGHT, Self::comes_right));
        properties.extend(sight::all());
        properties
    }
}

/// A property that does not hold, with the acts that lead to it.
#[derive(Debug, Clone)]
pub struct Failure {
    pub property: &'static str,
    pub broken: Option<Broken>,
    /// The acts, from the first state.
    pub acts: Vec<Act>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "does not hold: {}", self.property)?;
        if let Some(broken) = &self.broken {
            writeln!(f, "{broken}")?;
        }
        writeln!(f, "after {} acts:", self.acts.len())?;
        for (number, act) in self.acts.iter().enumerate() {
            writeln!(f, "{:>4}. {act:?}", number + 1)?;
        }
        Ok(())
    }
}

/// The result of one run.
#[derive(Debug, Clone)]
pub struct Found {
    pub states: usize,
    /// Transitions.
    pub steps: usize,
    /// The length of the longest path.
    pub depth: usize,
    pub took: Duration,
    pub seen: BTreeSet<&'static str>,
    pub failures: Vec<Failure>,
}

impl Found {
    /// States per second.
    pub fn pace(&self) -> f64 {
        self.states as f64 / self.took.as_secs_f64().max(0.001)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Search {
    /// Depth first: little memory, but the path to a failure may be long.
    Deep,
    /// Breadth first: finds the shortest path to a failure, but keeps all states of one length.
    Shortest,
}

/// Prints the configurations.
pub fn list() -> ExitCode {
    for Configuration { name, about, long, .. } in &CONFIGURATIONS {
        println!("{name:<16} {about}{}", if *long { " (long)" } else { "" });
    }
    ExitCode::SUCCESS
}

/// Enumerates one configuration or all and prints the results; fails if a property does not hold.
pub fn check(name: Option<&str>, search: Search, threads: usize) -> ExitCode {
    let chosen: Vec<_> =
        CONFIGURATIONS.iter().filter(|one| name.is_none_or(|name| name == one.name)).collect();
    if chosen.is_empty() {
        println!("there is no such configuration; there are:");
        list();
        return ExitCode::FAILURE;
    }
    let mut all_hold = true;
    for configuration in chosen {
        println!("{}: {}", configuration.name, configuration.about);
        let found = run(*configuration, search, threads, |states, after| {
            println!("  {states} states after {} s", after.as_secs());
        });
        println!(
            "  {} states, {} steps, depth {}, {:.1} s, {:.0} states/s",
            found.states,
            found.steps,
            found.depth,
            found.took.as_secs_f64(),
            found.pace()
        );
        for (sight, _) in sight::SIGHTS.iter().filter(|(sight, _)| !found.seen.contains(sight)) {
            println!("  never seen: {sight}");
        }
        for failure in &found.failures {
            println!("{failure}");
        }
        all_hold &= found.failures.is_empty();
    }
    if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Enumerates a configuration; `tell` is called with the progress from time to time.
pub fn run(
    configuration: Configuration,
    search: Search,
    threads: usize,
    tell: impl FnMut(usize, Duration),
) -> Found {
    let checker =
        Floor::new(configuration).checker().threads(threads).finish_when(HasDiscoveries::AnyFailures);
    match search {
        Search::Deep => follow(checker.spawn_dfs(), tell),
        Search::Shortest => follow(checker.spawn_bfs(), tell),
    }
}

fn follow(mut checker: impl Checker<Floor>, mut tell: impl FnMut(usize, Duration)) -> Found {
    let began = Instant::now();
    let handles = checker.handles();
    let mut told = began;
    while handles.iter().any(|handle| !handle.is_finished()) {
        thread::sleep(LOOK_EVERY);
        if told.elapsed() >= PROGRESS_EVERY {
            told = Instant::now();
            tell(checker.unique_state_count(), began.elapsed());
        }
    }
    for handle in handles {
        handle.join().expect("the rules are total: they do not panic");
    }
    let took = began.elapsed();
    let floor = checker.model();
    let expected: BTreeMap<_, _> =
        floor.properties().into_iter().map(|property| (property.name, property.expectation)).collect();
    let mut failures = Vec::new();
    let mut seen = BTreeSet::new();
    for (property, path) in checker.discoveries() {
        if expected.get(property) == Some(&stateright::Expectation::Sometimes) {
            seen.insert(property);
        } else {
            let broken = floor.broken(path.last_state());
            failures.push(Failure { property, broken, acts: path.into_actions() });
        }
    }
    Found {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took,
        seen,
        failures,
    }
}

//! Random schedules of faults over the [`World`]: after each schedule everything is healed, and then every job must
//! have ended as its history demands, with both views equal.
//!
//! A schedule is data: a fleet, and a list of [`Act`]s. It is made from a seed alone, without looking at the world, so
//! it can be repeated, cut down, and stored in a file that people can read. Healing completes it: all faults are
//! repaired, all questions to people are answered, and time passes.
//!
//! [`hunt`] plays many schedules; one that breaks an invariant is cut down by [`shrink`], and stored as a
//! [`file`](mod@file) that `harness replay` plays act by act.

pub mod file;
mod generate;
mod heal;
pub mod hunt;
pub mod shrink;
pub mod sight;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use reloop_protocol::job::State;
use reloop_protocol::master::Enrollment;
use reloop_protocol::slave::{AfterFailure, Release, TrustClock};
use reloop_protocol::time::Millis;
use serde::{Deserialize, Serialize};

pub use self::generate::{Profile, Random, schedule, size};
use crate::world::{Act, Broken, Invariant, World, required};

/// After so many acts it is checked that every waiting job has an explanation.
const EXPLAINED_EVERY: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    pub head: Head,
    pub acts: Vec<Act>,
}

/// The fleet, and what is known of the schedule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The seed from which it was made.
    pub seed: u64,
    /// The kinds of acts in it.
    pub profile: Profile,
    /// The invariant that it breaks or once broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invariant: Option<Invariant>,
    /// Why it is kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// A person has to approve each slave that the master does not know.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub approves: bool,
    /// Each step of priority counts like so long a wait; 0: it does not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ageing_ms: i64,
    /// How long before its time deferred work is recalled; 0: as by default.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub recall_before_ms: i64,
    pub slaves: Vec<Kind>,
}

/// The settings of one slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Kind {
    /// How long its machine's work takes.
    pub length_ms: i64,
    /// Somebody has to confirm that the machine is clear.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub ack: bool,
    /// Somebody has to look at the machine after a failure.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub hold: bool,
    pub capacity: u16,
    /// Its wall clock is trusted.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub trust_clock: bool,
    /// How much too fast its clocks run, in millionths.
    #[serde(skip_serializing_if = "is_zero")]
    pub drift_ppm: i64,
    /// Its machine reports progress.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub progress: bool,
    /// After how many failures in a row its machine is barred.
    #[serde(skip_serializing_if = "is_usual_failures")]
    pub max_failures_in_row: u16,
    #[serde(skip_serializing_if = "is_usual_deferred")]
    pub deferred_capacity: u16,
    /// Its machine is broken on purpose: see [`crate::world::Machine::stutters`].
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stutters: bool,
}

fn is_usual_failures(number: &u16) -> bool {
    *number == Kind::default().max_failures_in_row
}

fn is_usual_deferred(number: &u16) -> bool {
    *number == Kind::default().deferred_capacity
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

impl Default for Kind {
    fn default() -> Self {
        Self {
            length_ms: 10_000,
            ack: false,
            hold: false,
            capacity: 4,
            trust_clock: false,
            drift_ppm: 0,
            progress: false,
            max_failures_in_row: 3,
            deferred_capacity: 16,
            stutters: false,
        }
    }
}

/// The result of one schedule.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The number of jobs in each end state.
    pub ended: BTreeMap<State, usize>,
    /// The number of acts of each kind that did something.
    pub acts: BTreeMap<&'static str, usize>,
    /// How often each sight was seen.
    pub sights: sight::Sights,
    /// Steps of both nodes.
    pub steps: u64,
}

/// A schedule that breaks an invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    pub broken: Broken,
    /// The index of the act that broke it; `None` if it broke during healing.
    pub at: Option<usize>,
    /// Steps of both nodes until then.
    pub steps: u64,
}

/// Plays the schedule of a seed. Panics if an invariant is broken.
pub fn run(seed: u64, slaves: usize, jobs: usize) -> Outcome {
    match play(&schedule(seed, slaves, jobs)) {
        Ok(outcome) => outcome,
        Err(failure) => panic!("seed {seed}, {slaves} slaves, {jobs} jobs: {}", failure.broken),
    }
}

/// Plays a schedule to its end, or to the first broken invariant.
pub fn play(schedule: &Schedule) -> Result<Outcome, Failure> {
    watch(schedule, false, &mut |_, _| {})
}

/// The same. `tracing` prints every step; `tell` is called before each act, and with `None` when healing begins.
pub fn watch(
    schedule: &Schedule,
    tracing: bool,
    before: &mut dyn FnMut(usize, Option<&Act>),
) -> Result<Outcome, Failure> {
    let mut at = None;
    let mut outcome = Outcome::default();
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut world = found(&schedule.head);
        world.tracing |= tracing;
        for (number, act) in schedule.acts.iter().enumerate() {
            at = Some(number);
            before(number, Some(act));
            let seen = sight::of(&world, act);
            if world.act(act) {
                *outcome.acts.entry(act.kind()).or_default() += 1;
                sight::count(&mut outcome.sights, seen);
            }
            if number % EXPLAINED_EVERY == 0 {
                world.check_explained();
            }
            world.check_views();
            world.check_placement();
            if world.broken.is_some() {
                return world;
            }
        }
        at = None;
        before(schedule.acts.len(), None);
        if heal::heal(&mut world, schedule.head.slaves.len()) {
            sight::count(&mut outcome.sights, ["a paused job stayed paused until it was resumed"]);
        }
        world
    }));
    let world = match played {
        Ok(world) => world,
        Err(panic) => {
            let said = panic.downcast_ref::<String>().map(String::as_str);
            let said = said.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            let broken = Broken { invariant: Invariant::Total, how: said.to_owned() };
            return Err(Failure { broken, at, steps: 0 });
        }
    };
    outcome.steps = world.steps;
    if let Some(broken) = world.broken {
        return Err(Failure { broken, at, steps: outcome.steps });
    }
    sight::count(&mut outcome.sights, sight::of_jobs(&world));
    for job in world.numbered.iter().filter_map(|id| world.find_job(*id)) {
        *outcome.ended.entry(job.state).or_default() += 1;
    }
    Ok(outcome)
}

/// A world in which nothing has happened yet.
fn found(head: &Head) -> World {
    let mut world = World::bare();
    world.lenient = true;
    world.disks_are_sound = true;
    world.keeps_crossed = false;
    if head.ageing_ms > 0 || head.recall_before_ms > 0 {
        let ms = |ms: i64| (ms > 0).then(|| Millis(ms.unsigned_abs()));
        world.placement.ageing = ms(head.ageing_ms);
        world.placement.recall_before = ms(head.recall_before_ms).unwrap_or(world.placement.recall_before);
        world.kill_master();
        world.start_master();
    }
    for (number, kind) in head.slaves.iter().enumerate() {
        let mut settings = world.settings(&format!("s{number}"));
        (settings.capacity, settings.deferred_capacity) = (kind.capacity, kind.deferred_capacity);
        settings.max_failures_in_row = kind.max_failures_in_row;
        if kind.trust_clock {
            settings.trust_clock = TrustClock::Always;
        }
        settings.release = if kind.ack { Release::Ack } else { Release::Auto };
        settings.after_failure = if kind.hold { AfterFailure::Hold } else { AfterFailure::Release };
        settings.labels = required();
        let slave = world.add_box(settings);
        let held = &mut world.boxes[slave];
        held.drift_ppm = kind.drift_ppm;
        held.machine.length_ms = kind.length_ms;
        held.machine.tells_progress = kind.progress;
        held.machine.stutters = kind.stutters;
    }
    world.settle();
    if head.approves {
        world.enrollment = Enrollment::Approve;
        world.kill_master();
        world.start_master();
        world.settle();
    }
    world
}

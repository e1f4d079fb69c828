//! Seeded random schedules over the [`World`]: everything that can break breaks, then everything
//! is healed, and then every job must be in a state that its history allows, with both views equal.

use std::collections::{BTreeMap, BTreeSet};

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{JobCommand, RetryOn, SlaveCommand};
use reloop_protocol::message::{Attention, Mode};
use reloop_protocol::slave::{AfterFailure, Local, Release};
use reloop_protocol::spec::{CancelMode, Gate, Late, OnOverdue};
use reloop_protocol::time::{Millis, Time};

use crate::world::World;

/// A small generator (SplitMix64, Steele, Lea and Flood 2014): the same seed gives the same schedule everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Any number.
    pub fn any(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.any() % limit.max(1) as u64) as usize
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// What one schedule came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Jobs, by how they ended.
    pub ended: BTreeMap<State, usize>,
    /// Faults and commands.
    pub acts: usize,
}

/// Runs one schedule; panics with what is broken.
///
/// # Panics
/// If an invariant is broken, or the world does not converge.
pub fn run(seed: u64, slaves: usize, jobs: usize) -> Outcome {
    let mut random = Random::new(seed);
    let mut world = World::new(slaves);
    world.disks_are_sound = true;
    let mut placed: Vec<JobId> = Vec::new();
    let mut given_away: BTreeSet<JobId> = BTreeSet::new();
    let mut restartable: BTreeSet<JobId> = BTreeSet::new();
    let mut acts = 0;
    for held in &mut world.boxes {
        held.machine.length_ms = 2_000 + (random.below(20_000) as i64);
        held.settings.release = random.pick(&[Release::Auto, Release::Auto, Release::Ack]);
        held.settings.after_failure = random.pick(&[AfterFailure::Release, AfterFailure::Hold]);
        held.settings.capacity = 1 + random.below(4) as u16;
    }
    let rounds = jobs * 12;
    for _ in 0..rounds {
        for _ in 0..random.below(8) {
            world.pump_one(random.below(slaves.max(1)));
        }
        if random.one_in(3) {
            let ms = 100 + random.below(4_000) as i64;
            world.pass_some(ms);
        }
        if random.one_in(4) {
            world.deliver_late(random.below(64));
        }
        acts += 1;
        let slave = random.below(slaves);
        let job = (!placed.is_empty()).then(|| placed[random.below(placed.len())]);
        match random.below(24) {
            0..=5 if placed.len() < jobs && world.master.is_some() => {
                let mut order = world.order(random.pick(&["mill", "bake"]));
                order.spec.on_interrupt =
                    random.pick(&[OnInterrupt::Hold, OnInterrupt::Fail, OnInterrupt::Restart]);
                order.spec.on_overdue = random.pick(&[OnOverdue::Flag, OnOverdue::Stop]);
                order.spec.max_runtime = random.one_in(6).then_some(Millis(3_000));
                order.start.priority = random.below(3) as i32;
                if random.one_in(4) {
                    order.start.not_before = Some(Time(world.now().0 + random.below(20_000) as i64));
                    order.start.late = random.pick(&[Late::Hold, Late::Run, Late::Skip]);
                }
                if random.one_in(6) {
                    order.start.deadline = Some(Time(world.now().0 + 5_000 + random.below(30_000) as i64));
                }
                if random.one_in(8) {
                    order.start.gate = Gate::Held;
                }
                if random.one_in(4) {
                    order.retry.max_attempts = 2;
                    order.retry.on = [RetryOn::Failed].into();
                }
                if random.one_in(6) {
                    order.slave = Some(format!("s{slave}"));
                }
                let restart = order.spec.on_interrupt == OnInterrupt::Restart;
                let id = world.place(order);
                if restart {
                    restartable.insert(id);
                }
                placed.push(id);
            }
            6 | 7 => world.cut(slave),
            8 => world.half_open(slave),
            9 => world.swallow(slave),
            10 | 11 => world.plug(slave),
            12 => world.kill_agent(slave),
            13 | 14 => world.revive(slave),
            15 if random.one_in(3) => world.reboot(slave),
            16 if random.one_in(2) => {
                world.kill_master();
                if random.one_in(2) {
                    world.start_master();
                }
            }
            17 if world.master.is_none() => world.start_master(),
            18 => world.boxes[slave].machine.fails = random.one_in(2),
            19 => {
                world.boxes[slave].machine.unstoppable = random.one_in(3);
                world.boxes[slave].machine.silent = random.one_in(4);
            }
            20 | 21 => {
                if let Some(job) = job {
                    let command = match random.below(9) {
                        0 => JobCommand::Cancel(random.pick(&[
                            CancelMode::IfNotStarted,
                            CancelMode::SafePoint,
                            CancelMode::Now,
                        ])),
                        1 => JobCommand::Pause,
                        2 | 3 => JobCommand::Resume,
                        4 => JobCommand::Release { valid: Millis::seconds(10) },
                        5 => JobCommand::Resolve(random.pick(&[End::Succeeded, End::Failed])),
                        6 => {
                            given_away.insert(job);
                            JobCommand::Abandon
                        }
                        7 => JobCommand::Retry,
                        _ => JobCommand::Reschedule { not_before: None, deadline: None, late: Late::Run },
                    };
                    world.command(job, command);
                }
            }
            22 => {
                let command = match random.below(6) {
                    0 => Local::Pause,
                    1 => Local::Resume,
                    2 => Local::Stop { now: random.one_in(2) },
                    3 => Local::Lock(random.one_in(2)),
                    4 => Local::Ready,
                    _ => Local::Clear,
                };
                world.local(slave, command);
            }
            23 => {
                let key = world.boxes[slave].settings.key;
                let known = world.master.as_ref().is_some_and(|master| master.desks.contains_key(&key));
                if known {
                    let mode =
                        random.pick(&[Mode::Production, Mode::Draining, Mode::Maintenance, Mode::Production]);
                    world.command_slave_now(slave, SlaveCommand::Mode(mode));
                }
            }
            _ => {}
        }
    }
    heal(&mut world, &placed, seed);
    check(&world, &placed, &given_away, &restartable, seed);
    let mut outcome = Outcome { acts, ..Outcome::default() };
    for job in &placed {
        *outcome.ended.entry(world.state(*job)).or_default() += 1;
    }
    outcome
}

/// Mends everything, answers every question that a person is asked, and lets time pass.
fn heal(world: &mut World, placed: &[JobId], seed: u64) {
    if world.master.is_none() {
        world.start_master();
    }
    for slave in 0..world.boxes.len() {
        let held = &mut world.boxes[slave];
        held.machine.silent = false;
        held.machine.unstoppable = false;
        held.machine.fails = false;
        world.revive(slave);
        world.cut(slave);
        world.plug(slave);
    }
    world.settle();
    for _ in 0..200 {
        for slave in 0..world.boxes.len() {
            world.local(slave, Local::Resume);
            world.local(slave, Local::Ready);
            world.local(slave, Local::Clear);
            world.local(slave, Local::Lock(false));
            world.command_slave_now(slave, SlaveCommand::Mode(Mode::Production));
        }
        for job in placed {
            if world.job(*job).earlier.iter().any(|earlier| earlier.state == State::Uncertain) {
                world.command(*job, JobCommand::Resolve(End::Failed));
            }
            match world.state(*job) {
                State::Uncertain => drop(world.command(*job, JobCommand::Resolve(End::Failed))),
                State::Paused => drop(world.command(*job, JobCommand::Resume)),
                State::Queued | State::Accepted => {
                    world.command(*job, JobCommand::Resume);
                    world.command(*job, JobCommand::Release { valid: Millis::seconds(3_600) });
                }
                _ => {}
            }
        }
        world.pass(5_000);
        if placed.iter().all(|job| world.state(*job).is_ended()) {
            return;
        }
    }
    let stuck: Vec<_> =
        placed.iter().filter(|job| !world.state(**job).is_ended()).map(|job| world.tell(*job)).collect();
    let held = world.boxes.iter().filter_map(|held| held.state.as_ref()).flat_map(|state| state.jobs.keys());
    let held: Vec<_> = held.map(|job| format!("{} {:?}", world.tell(*job), world.job(*job).events)).collect();
    println!("held by slaves:\n{}", held.join("\n"));
    panic!("seed {seed}: not converged after healing:\n{}", stuck.join("\n"));
}

fn check(
    world: &World,
    placed: &[JobId],
    given_away: &BTreeSet<JobId>,
    restartable: &BTreeSet<JobId>,
    seed: u64,
) {
    for (slave, held) in world.boxes.iter().enumerate() {
        let state = held.state.as_ref().expect("healed");
        let kept: Vec<_> = state.jobs.values().map(|job| (job.report.job, job.report.state)).collect();
        assert!(kept.is_empty(), "seed {seed}: slave {slave} keeps {kept:?}");
        assert!(state.node.attention.is_none_or(|a| a == Attention::Fault), "seed {seed}: slave {slave}");
    }
    for id in placed {
        let job = world.job(*id);
        if let Some(said) = job.report.as_ref().map(|report| report.state).filter(|said| said.is_ended()) {
            let repeated = said == job.state || job.state == State::Lost;
            assert!(
                repeated,
                "seed {seed}: {id} is {:?} at the master, and its slave said {said:?}",
                job.state
            );
        }
        let begun: Vec<_> = world
            .boxes
            .iter()
            .flat_map(|held| held.machine.begun.keys())
            .filter(|work| work.job == *id)
            .collect();
        let attempts: BTreeSet<_> = begun.iter().map(|work| work.attempt).collect();
        if !restartable.contains(id) && begun.len() > attempts.len() {
            // Only proof that a beginning never reached the machine allows another: then that one never worked.
            panic!("seed {seed}: {id} was begun twice under one attempt: {begun:?}");
        }
        if job.state == State::Succeeded && job.reason.is_none() {
            assert!(!begun.is_empty(), "seed {seed}: {id} succeeded without a machine");
        }
        let places =
            world.boxes.iter().filter(|held| held.machine.begun.keys().any(|work| work.job == *id)).count();
        let retried = job.events.iter().filter(|event| event.state == State::Queued).count() > 1;
        if places > 1 {
            assert!(given_away.contains(id) || retried, "seed {seed}: {id} ran in {places} places by itself");
        }
    }
}

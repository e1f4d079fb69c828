//! Healing after the faults: everything is repaired, people answer all questions, and time passes until nothing is left
//! to do.
//!
//! People are truthful, and do what the master's list of what needs a person names: a command of that list that is
//! refused is a bug, and so is a job that only ends if somebody tries what no list names. Unasked they only take back what
//! somebody wanted before: a pause, a maintenance, a later start, a revoked key.

use reloop_protocol::id::JobId;
use reloop_protocol::job::State;
use reloop_protocol::master::{Enrolled, Job, JobCommand, SlaveCommand};
use reloop_protocol::message::{CloseCode, Mode, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, Local};
use reloop_protocol::spec::{CancelMode, Desired, Gate};
use reloop_protocol::time::Time;

use crate::world::{Invariant, RELEASED_FOR, World};

/// How long people wait before they look again.
const ROUND_MS: i64 = 5_000;

/// The clock steps of a round.
const TICK_MS: i64 = 2_500;

/// The rounds that a job may take, including the wait for its turn: the longest work takes 22 s.
const ROUNDS_PER_JOB: usize = 8;

/// The rounds that everything else may take.
const ROUNDS: usize = 100;

/// The rounds without any change before people resume what they have paused.
const PAUSED_FOR: usize = 2;

/// Repairs everything, lets all jobs end, and checks what must hold then. Paused jobs are resumed only after everything
/// else has ended; returns true if there were any.
pub(super) fn heal(world: &mut World, slaves: usize) -> bool {
    ask_amid_faults(world, slaves);
    world.disarm();
    world.pings_are_slow = false;
    world.end_double();
    for clone in slaves..world.boxes.len() {
        world.retire(clone);
    }
    if world.master.is_none() {
        world.start_master();
    }
    for slave in 0..slaves {
        let machine = &mut world.boxes[slave].machine;
        (machine.silent, machine.unstoppable) = (false, false);
        (machine.refuses, machine.fails, machine.slow, machine.ponders) = (false, false, false, false);
        (machine.unfit, machine.rejects) = (false, false);
        world.boxes[slave].configure(false, false);
        if world.boxes[slave].is_configured_anew() {
            world.kill_agent(slave);
        }
        world.revive(slave);
        world.cut(slave);
        world.plug_again(slave);
    }
    world.settle();
    world.check_pauses();
    let jobs: Vec<JobId> = world.numbered.iter().copied().collect();
    let were_paused = world.paused();
    let stayed = drain(world, slaves, &jobs, Paused::Stays);
    world.check_stayed_paused(&were_paused);
    if stayed {
        drain(world, slaves, &jobs, Paused::GoesOn);
    }
    world.check_explained();
    world.check_converged(&jobs);
    let barred = world.boxes[..slaves].iter().position(|held| {
        held.state
            .as_ref()
            .is_none_or(|state| state.node.attention.is_some() || state.node.unloading.is_some())
    });
    if let Some(slave) = barred {
        world.violate(Invariant::Converges, format!("slave {slave} still asks for a person"));
    }
    stayed
}

/// Amid the faults too, nothing is refused that the master names. Two boxes with one key take turns without end: there it is
/// asked only after they are healed.
fn ask_amid_faults(world: &mut World, slaves: usize) {
    if world.boxes.len() > slaves {
        return;
    }
    let mut amid = world.clone();
    // A slave whose older link has not answered yet comes again and again, which takes no time here.
    amid.pings_are_slow = false;
    amid.settle();
    amid.answer_needs();
    if let Some(broken) = amid.broken {
        world.violate(broken.invariant, broken.how);
    }
}

/// What people do with paused jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    Stays,
    GoesOn,
}

/// Lets time pass and answers questions until nothing is left to do. True if only paused jobs are left, and what waits
/// for them.
fn drain(world: &mut World, slaves: usize, jobs: &[JobId], paused: Paused) -> bool {
    let rounds = ROUNDS + ROUNDS_PER_JOB * world.numbered.len();
    let mut rested = 0;
    for _ in 0..rounds {
        if world.broken.is_some() {
            return false;
        }
        let were_needed = admit(world) | world.answer_needs();
        let quiet = !were_needed & look_at_slaves(world, slaves, paused) & look_at_jobs(world, paused);
        let done = world.master.as_ref().is_some_and(|master| master.book.jobs.is_empty());
        let mut agents = world.boxes.iter().filter_map(|held| held.state.as_ref());
        if quiet && done && agents.all(|state| state.jobs.is_empty()) {
            return false;
        }
        if paused == Paused::Stays {
            let rests = quiet && world.is_something_paused() && world.only_the_paused_are_left(jobs).is_ok();
            rested = if rests { rested + 1 } else { 0 };
            if rested > PAUSED_FOR {
                return true;
            }
        }
        for _ in 0..ROUND_MS / TICK_MS {
            world.pass_some(TICK_MS);
            world.settle();
            world.check_placement();
        }
    }
    if paused == Paused::Stays && world.is_something_paused() {
        let left = world.only_the_paused_are_left(jobs);
        let how = left.err().unwrap_or_else(|| "somebody is asked again and again".to_owned());
        world.violate(Invariant::PausedStays, how);
    }
    false
}

/// Confirms the restore if a slave that the master does not admit has seen a later state of it: the slave tells people. Gives
/// tokens to slaves that were revoked, or that a master that went back in time does not know. True
/// if that was needed.
fn admit(world: &mut World) -> bool {
    let refused = |code: &CloseCode| *code == CloseCode::StaleMaster;
    let mut were_needed =
        world.boxes.iter().any(|held| !held.retired && held.closed.last().is_some_and(refused));
    if were_needed {
        world.confirm_restore();
    }
    for slave in 0..world.boxes.len() {
        if world.boxes[slave].retired {
            continue;
        }
        let key = world.boxes[slave].settings.key;
        let record = world.master.as_ref().and_then(|master| master.slaves.get(&key));
        if record.is_none_or(|record| record.enrolled != Enrolled::Yes) {
            world.enroll(slave);
            were_needed = true;
        }
        world.plug_again(slave);
    }
    world.settle();
    were_needed
}

/// What people want of slaves without being asked: they resume what was paused, and end maintenance. True if there was
/// nothing of that.
fn look_at_slaves(world: &mut World, slaves: usize, paused: Paused) -> bool {
    let mut quiet = true;
    for slave in 0..slaves {
        let Some(state) = &world.boxes[slave].state else { continue };
        let waits = state.jobs.values().any(|job| job.paused_locally || is_left_paused(world, slave, job));
        let mode = state.node.operating_mode.mode;
        if waits && paused == Paused::GoesOn {
            quiet = false;
            world.local(slave, Local::Resume);
        }
        let key = world.boxes[slave].settings.key;
        let record = world.master.as_ref().and_then(|master| master.slaves.get(&key));
        if record
            .is_some_and(|record| record.operating_mode.mode != Mode::Production || mode != Mode::Production)
        {
            quiet = false;
            world.command_slave_now(slave, SlaveCommand::Mode(Mode::Production));
        }
    }
    quiet
}

/// It is paused, and the master speaks of another attempt: it can be resumed only at the machine.
fn is_left_paused(world: &World, slave: usize, job: &slave::Job) -> bool {
    let key = world.boxes[slave].settings.key;
    job.report.state == State::Paused
        && world.find_job(job.report.job).is_some_and(|known| {
            known.state.is_ended() || known.attempt != job.report.attempt || known.holder != Some(key)
        })
}

/// What people want of jobs without being asked. True if there was nothing of that.
fn look_at_jobs(world: &mut World, paused: Paused) -> bool {
    let now = world.now();
    let masters_forgot = world.ledger.masters_forgot;
    let jobs = world.master.iter().flat_map(|master| master.book.jobs.values());
    let asked: Vec<(JobId, JobCommand)> =
        jobs.filter_map(|job| Some((job.id, answer(&job, now, masters_forgot, paused)?))).collect();
    for (job, command) in &asked {
        world.command(*job, *command);
    }
    asked.is_empty()
}

/// Its slave says that it can be resumed only at the machine.
fn is_paused_at_the_machine(job: &Job) -> bool {
    let reason = job.report.as_ref().and_then(|report| report.reason.as_ref());
    reason.is_some_and(|reason| reason.code == ReasonCode::PausedLocally)
}

/// What a person wants of a job.
fn answer(job: &Job, now: Time, masters_forgot: bool, paused: Paused) -> Option<JobCommand> {
    let goes_on = (paused == Paused::GoesOn).then_some(JobCommand::Resume);
    match job.state {
        State::Paused => match job.desired {
            // Its slave has a desired state of this generation and does not stop: it is one that the master has
            // forgotten.
            Desired::Cancel(mode @ (CancelMode::SafePoint | CancelMode::Now))
                if masters_forgot
                    && job.report.as_ref().is_some_and(|report| report.generation >= job.generation) =>
            {
                Some(JobCommand::Cancel(mode))
            }
            // The master does not want it paused: it goes on by itself, unless its slave has a desired state that the
            // master has forgotten.
            Desired::Run if !masters_forgot || is_paused_at_the_machine(job) => None,
            Desired::Pause => goes_on,
            _ => Some(JobCommand::Resume),
        },
        _ if job.desired == Desired::Pause => goes_on,
        State::Queued | State::Assigned | State::Accepted if is_paused_at_the_machine(job) => None,
        State::Queued | State::Assigned | State::Accepted => {
            // By the master's word, or by a reschedule that the master has forgotten.
            let slave_waits =
                job.report.as_ref().is_some_and(|report| report.waiting_for == Some(WaitingFor::Time));
            let later = slave_waits || job.start.not_before.is_some_and(|at| at > now);
            let is_released = matches!(job.start.gate, Gate::Released { .. });
            (later && !is_released).then_some(JobCommand::Release { valid: RELEASED_FOR })
        }
        State::Starting
        | State::Running
        | State::Stopping
        | State::Uncertain
        | State::Succeeded
        | State::Failed
        | State::Canceled
        | State::Rejected
        | State::Expired
        | State::Lost => None,
    }
}

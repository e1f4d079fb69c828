//! Healing after the faults: everything is repaired, people answer all questions, and time passes until nothing is left
//! to do.
//!
//! People are truthful, and act only where something asks for them: a job that only ends if somebody tries every
//! command all the time is a bug.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Basis, Earlier, Enrolled, Job, JobCommand, SlaveCommand};
use reloop_protocol::message::{CloseCode, Mode, ReasonCode, Report, WaitingFor};
use reloop_protocol::slave::{self, Local};
use reloop_protocol::spec::{CancelMode, Desired, Gate};
use reloop_protocol::time::{Millis, Time};

use crate::world::{Invariant, World};

/// How long a person's release is valid.
const RELEASE: Millis = Millis::seconds(3_600);

/// How long people wait before they look again.
const ROUND_MS: i64 = 5_000;

/// The clock steps of a round.
const TICK_MS: i64 = 2_500;

/// The rounds that a job may take, including the wait for its turn: the longest work takes 22 s.
const ROUNDS_PER_JOB: usize = 8;

/// The rounds that everything else may take.
const ROUNDS: usize = 100;

/// From this round on, what could not be settled at the master is settled at the machine.
const AT_THE_MACHINE: usize = 5;

/// The rounds without any change before people resume what they have paused.
const PAUSED_FOR: usize = 2;

/// Repairs everything, lets all jobs end, and checks what must hold then. Paused jobs are resumed only after everything
/// else has ended; returns true if there were any.
pub(super) fn heal(world: &mut World, slaves: usize) -> bool {
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
    for round in 0..rounds {
        if world.broken.is_some() {
            return false;
        }
        confirm(world);
        let quiet = look_at_slaves(world, slaves, round, paused) & look_at_jobs(world, paused);
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
        }
    }
    if paused == Paused::Stays && world.is_something_paused() {
        let left = world.only_the_paused_are_left(jobs);
        let how = left.err().unwrap_or_else(|| "somebody is asked again and again".to_owned());
        world.violate(Invariant::PausedStays, how);
    }
    false
}

/// Confirms the restore if a slave has seen a later state of the master: the slave reports that to the master and to
/// people.
fn confirm(world: &mut World) {
    let doubted = world.master.as_ref().is_some_and(|master| !master.doubted_by.is_empty());
    let refused = |code: &CloseCode| *code == CloseCode::StaleMaster;
    if doubted || world.boxes.iter().any(|held| held.closed.last().is_some_and(refused)) {
        world.confirm_restore();
    }
    for slave in 0..world.boxes.len() {
        if world.boxes[slave].retired {
            continue;
        }
        let key = world.boxes[slave].settings.key;
        let record = world.master.as_ref().and_then(|master| master.slaves.get(&key));
        if record.is_some_and(|record| record.enrolled != Enrolled::Yes) {
            world.enroll(slave);
        }
        world.plug_again(slave);
    }
    world.settle();
}

/// True if nobody was needed.
fn look_at_slaves(world: &mut World, slaves: usize, round: usize, paused: Paused) -> bool {
    let mut quiet = true;
    for slave in 0..slaves {
        let Some(state) = &world.boxes[slave].state else { continue };
        let node = &state.node;
        // At the machine each uncertain job is resolved by its id.
        let uncertain = state.jobs.values().find(|job| job.report.state == State::Uncertain);
        let uncertain = uncertain.map(|job| job.report.job);
        let waits = state.jobs.values().any(|job| job.paused_locally || is_left_paused(world, slave, job));
        let needs = [
            (node.unloading.is_some(), Local::Ready),
            (node.attention.is_some(), Local::Clear),
            (node.local_lock, Local::Lock(false)),
            (waits && paused == Paused::GoesOn, Local::Resume),
            (
                uncertain.is_some() && round >= AT_THE_MACHINE,
                Local::Resolve { job: uncertain, end: End::Failed },
            ),
        ];
        let mode = node.operating_mode.mode;
        for (_, command) in needs.into_iter().filter(|(needed, _)| *needed) {
            quiet = false;
            world.local(slave, command);
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

/// True if nobody was needed.
fn look_at_jobs(world: &mut World, paused: Paused) -> bool {
    let now = world.now();
    let masters_forgot = world.ledger.masters_forgot;
    let jobs = world.master.iter().flat_map(|master| master.book.jobs.values());
    let mut asked: Vec<(JobId, JobCommand)> =
        jobs.filter_map(|job| Some((job.id, answer(&job, now, masters_forgot, paused)?))).collect();
    let ended = world.numbered.iter().filter_map(|id| world.find_job(*id));
    let ended = ended.filter(|job| job.state.is_ended()).filter(|job| doubts_earlier(job));
    asked.extend(ended.map(|job| (job.id, JobCommand::Resolve(End::Failed))));
    for (job, command) in &asked {
        world.command(*job, *command);
    }
    asked.is_empty()
}

fn doubts_earlier(job: &Job) -> bool {
    // A job can only be resolved if its slave asks.
    let wonders = |report: &Report| report.state == State::Uncertain;
    let doubts = |earlier: &Earlier| {
        let is_open = earlier.state == State::Uncertain && earlier.basis != Basis::Claim;
        is_open && earlier.report.as_ref().is_some_and(wonders)
    };
    job.earlier.iter().any(doubts)
}

/// Its slave says that it can be resumed only at the machine.
fn is_paused_at_the_machine(job: &Job) -> bool {
    let reason = job.report.as_ref().and_then(|report| report.reason.as_ref());
    reason.is_some_and(|reason| reason.code == ReasonCode::PausedLocally)
}

/// What a person does about a job that waits for one.
fn answer(job: &Job, now: Time, masters_forgot: bool, paused: Paused) -> Option<JobCommand> {
    let goes_on = (paused == Paused::GoesOn).then_some(JobCommand::Resume);
    match job.state {
        State::Uncertain => Some(JobCommand::Resolve(End::Failed)),
        _ if doubts_earlier(job) => Some(JobCommand::Resolve(End::Failed)),
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
            let waits = job.report.as_ref().and_then(|report| report.waiting_for);
            let waits = matches!(waits, Some(WaitingFor::Operator | WaitingFor::Clock | WaitingFor::Time));
            let later = job.start.not_before.is_some_and(|at| at > now);
            let released = matches!(job.start.gate, Gate::Released { latest } if latest > now.after(Millis::seconds(60)));
            let needed = job.start.gate != Gate::Open || waits || later;
            // The release was for the beginning before an interruption, or the slave took it for another one of the
            // same generation, which only a master that has forgotten something repeats.
            let is_spent = job.report.as_ref().is_some_and(|report| {
                let asks_again = report.waiting_for == Some(WaitingFor::Operator) && masters_forgot;
                report.generation >= job.generation
                    && (report.waiting_for == Some(WaitingFor::Time) || asks_again)
            });
            (needed && (!released || is_spent)).then_some(JobCommand::Release { valid: RELEASE })
        }
        State::Starting
        | State::Running
        | State::Stopping
        | State::Succeeded
        | State::Failed
        | State::Canceled
        | State::Rejected
        | State::Expired
        | State::Lost => None,
    }
}

//! The end of a state: everything is repaired, and people answer all questions.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Enrolled, JobCommand};
use reloop_protocol::message::CloseCode;
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{Desired, Gate};

use super::{Floor, Scene, act};
use crate::world::{RELEASED_FOR, World};

/// More rounds than healing takes: in each round all open questions are answered, and an answer may raise another.
const ROUNDS: usize = 16;

/// What a slave that was assigned none of the jobs reports of each: how many attempts after the newest, and the state.
const LIES: [(u32, State); 4] =
    [(0, State::Succeeded), (1, State::Running), (1, State::Accepted), (2, State::Failed)];

/// Each round waits this long if there are deferred jobs.
const WAITED_MS: i64 = 30_000;

impl Floor {
    /// The world after everything is repaired and answered; it is broken if the jobs do not end as they should.
    pub fn healed(&self, scene: &Scene) -> World {
        let mut world = scene.world.clone();
        let jobs = self.jobs(scene);
        mend(&mut world);
        self.lie(&mut world, &jobs);
        let over = |world: &World| {
            jobs.iter().all(|job| world.find_job(*job).is_none_or(|job| job.state.is_ended()))
                && world
                    .boxes
                    .iter()
                    .all(|held| held.state.as_ref().is_some_and(|state| state.jobs.is_empty()))
        };
        world.settle();
        world.check_placement();
        let were_paused = world.paused();
        let mut goes_on = were_paused.is_empty() && !world.is_something_paused();
        for _ in 0..ROUNDS {
            world.settle();
            if world.broken.is_some() || over(&world) && world.master.as_ref().is_some_and(is_believed) {
                break;
            }
            if !goes_on && world.only_the_paused_are_left(&jobs).is_ok() {
                world.check_stayed_paused(&were_paused);
                goes_on = true;
            }
            self.answer_questions(&mut world, scene, goes_on);
            world.settle();
            for slave in 0..world.boxes.len() {
                world.begin_what_comes(slave);
                act::finish(&mut world, slave, End::Succeeded);
            }
            if self.configuration.steps.0 > 0 {
                world.pass(WAITED_MS);
            }
        }
        if world.broken.is_none() {
            world.check_converged(&jobs);
        }
        world
    }

    /// An enrolled slave that lies reports every job, and no job changes.
    fn lie(&self, world: &mut World, jobs: &[JobId]) {
        for id in jobs {
            for (ahead, said) in LIES {
                world.lie(*id, ahead, said);
            }
        }
    }

    /// People do what the master's list of what needs a person names. Unasked they take back a pause or a later start; paused jobs
    /// are resumed only if `goes_on`.
    fn answer_questions(&self, world: &mut World, scene: &Scene, goes_on: bool) {
        let stale = |code: Option<&CloseCode>| code.is_some_and(|code| !code.is_passing());
        if world.boxes.iter().any(|held| stale(held.closed.last())) {
            world.confirm_restore();
            for held in &mut world.boxes {
                held.closed.clear();
            }
            world.settle();
        }
        for slave in 0..world.boxes.len() {
            let key = world.boxes[slave].settings.key;
            let record = world.master.as_ref().and_then(|master| master.slaves.get(&key));
            if record.is_some_and(|record| record.enrolled != Enrolled::Yes) {
                world.enroll(slave);
                world.settle();
            }
        }
        world.answer_needs();
        for slave in 0..world.boxes.len() {
            let Some(state) = &world.boxes[slave].state else { continue };
            let paused = state.jobs.values().any(|job| {
                let is_paused = job.report.state == State::Paused;
                let unwished = is_paused && !matches!(job.desired, Desired::Run | Desired::Pause);
                let wished = job.paused_locally || is_paused && job.desired == Desired::Pause;
                unwished && !job.paused_locally || goes_on && wished
            });
            if paused {
                world.local(slave, Local::Resume);
            }
        }
        for id in self.jobs(scene) {
            let Some(job) = world.find_job(id) else { continue };
            let paused = match job.desired {
                Desired::Run => false,
                Desired::Pause => goes_on,
                Desired::Cancel(_) | Desired::Return | Desired::Resolve(_) => job.state == State::Paused,
            };
            let is_later = matches!(job.state, State::Queued | State::Assigned | State::Accepted)
                && job.start.gate == Gate::Open
                && job.start.not_before.is_some();
            if paused {
                world.command(id, JobCommand::Resume);
            }
            if is_later {
                world.command(id, JobCommand::Release { valid: RELEASED_FOR });
            }
        }
    }
}

fn is_believed(master: &reloop_protocol::master::Master) -> bool {
    master.doubted_by.is_empty()
}

fn mend(world: &mut World) {
    world.pings_are_slow = false;
    if world.master.is_none() {
        world.start_master();
    }
    for slave in 0..world.boxes.len() {
        let machine = &mut world.boxes[slave].machine;
        machine.silent = false;
        machine.unstoppable = false;
        machine.refuses = false;
        machine.unfit = false;
        machine.rejects = false;
        machine.slow = false;
        machine.ponders = false;
        machine.answer_what_was_asked();
        if std::mem::take(&mut world.boxes[slave].narrow) {
            world.kill_agent(slave);
        }
        world.revive(slave);
        if world.link(slave) == Some(true) {
            world.cut(slave);
        }
        world.plug(slave);
    }
}

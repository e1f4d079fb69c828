//! A paused job stays paused until a person resumes it.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, State};
use reloop_protocol::master;
use reloop_protocol::slave::{self, RunKey};
use reloop_protocol::spec::Desired;

use super::{Invariant, Station, World};

/// A person wants it paused, at the master or at the machine.
fn is_wanted(job: &slave::Job) -> bool {
    job.desired == Desired::Pause || job.paused_locally
}

/// Its machine is occupied by a paused run.
fn is_taken(held: &Station) -> bool {
    let jobs = held.state.iter().flat_map(|state| state.jobs.values());
    jobs.into_iter().any(|job| job.report.state == State::Paused)
}

/// It has no capacity left, because of jobs that were paused before they began.
fn is_full(held: &Station) -> bool {
    let Some(state) = &held.state else { return true };
    let live = state.jobs.values().filter(|job| !job.report.state.is_ended());
    live.count() >= usize::from(held.settings.capacity) && state.jobs.values().any(is_wanted)
}

impl World {
    /// When a machine has no more facts: every run that was to be paused was told to pause.
    pub fn check_pauses(&mut self) {
        let unheard = self.boxes.iter().enumerate().find_map(|(slave, held)| {
            let state = held.state.as_ref().filter(|state| state.volatile.probing.is_empty())?;
            let runs_on = |job: &&slave::Job| {
                job.report.state == State::Running
                    && job.desired == Desired::Pause
                    && !held.told_to_pause.contains(&job.work())
                    && !self.ledger.torn.contains(&job.report.job)
            };
            Some(format!("slave {slave}: {:?}", state.jobs.values().find(runs_on)?.work()))
        });
        if let Some(how) = unheard {
            self.violate(Invariant::PauseReachesMachine, how);
        }
    }

    /// Whether a job is paused that has not ended.
    pub fn is_something_paused(&self) -> bool {
        let mut jobs = self.master.iter().flat_map(|master| master.book.jobs.values());
        let mut states = self.boxes.iter().filter_map(|held| held.state.as_ref());
        let at_slaves = |state: &slave::Slave| {
            let mut jobs = state.jobs.values().filter(|job| !job.report.state.is_ended());
            jobs.any(|job| is_wanted(job) || job.report.state == State::Paused)
        };
        jobs.any(|job| job.desired == Desired::Pause) || states.any(at_slaves)
    }

    /// Everything has ended but paused jobs, and jobs that wait for them; otherwise the error names what should have
    /// gone on, or should be paused.
    pub fn only_the_paused_are_left(&self, jobs: &[JobId]) -> Result<(), String> {
        for id in jobs {
            let Some(job) = self.find_job(*id).filter(|job| !job.state.is_ended()) else { continue };
            let waits = matches!(job.state, State::Queued | State::Assigned | State::Accepted);
            let fits = match job.desired {
                Desired::Pause => waits || job.state == State::Paused,
                Desired::Run => {
                    self.is_paused_at_its_machine(&job) || waits && self.waits_behind_the_paused(&job)
                }
                Desired::Return => waits,
                Desired::Cancel(_) | Desired::Resolve(_) => false,
            };
            if !fits {
                return Err(format!("{}, though nobody paused that", self.tell(*id)));
            }
        }
        for (slave, held) in self.boxes.iter().enumerate().filter(|(_, held)| !held.retired) {
            let Some(state) = &held.state else { return Err(format!("slave {slave} is dead")) };
            let begun = |job: &&slave::Job| job.report.state.is_executing();
            let working: Vec<_> = held.machine.working().collect();
            for job in state.jobs.values().filter(begun) {
                let id = job.report.job;
                if !self.ledger.torn.contains(&id) && is_wanted(job) && job.report.state != State::Paused {
                    return Err(format!("{} was to stay paused at slave {slave}", self.tell(id)));
                }
                if job.report.state == State::Paused && working.contains(&job.work()) {
                    return Err(format!("slave {slave} says that {id} is paused, and its machine works"));
                }
            }
        }
        Ok(())
    }

    /// The runs that a person has paused and nobody has resumed since, here or at the master.
    pub fn paused(&self) -> Vec<(usize, RunKey)> {
        let states =
            self.boxes.iter().enumerate().filter_map(|(slave, held)| Some((slave, held.state.as_ref()?)));
        let is_let_go = |job: &slave::Job| {
            let known = self.find_job(job.report.job);
            !job.paused_locally && known.is_none_or(|known| known.desired != Desired::Pause)
        };
        let stays = |job: &&slave::Job| {
            let is_asked_to_go_on = job.run.asked_to_pause == Some(false);
            job.report.state == State::Paused && is_wanted(job) && !is_asked_to_go_on && !is_let_go(job)
        };
        let of = |(slave, state): (usize, &slave::Slave)| {
            let runs: Vec<_> = state.jobs.values().filter(stays).map(|job| (slave, job.work())).collect();
            runs
        };
        states.flat_map(of).collect()
    }

    /// The runs that were [paused](Self::paused) did not go on unless a person resumed them.
    pub fn check_stayed_paused(&mut self, were: &[(usize, RunKey)]) {
        // A person at a restored master may resume a job that the master does not know to be paused.
        if self.ledger.masters_forgot {
            return;
        }
        let went_on = were.iter().find(|(slave, run)| {
            let machine = &self.boxes[*slave].machine;
            let done = machine.ended(*run).is_some_and(|ended| ended.end == End::Succeeded);
            !self.ledger.torn.contains(&run.job) && (done || machine.working().any(|works| works == *run))
        });
        if let Some((slave, run)) = went_on {
            self.violate(Invariant::PausedStays, format!("slave {slave} let {run:?} go on by itself"));
        }
    }

    fn is_paused_at_its_machine(&self, job: &master::Job) -> bool {
        let states = self.boxes.iter().filter_map(|held| held.state.as_ref());
        states.filter_map(|state| state.jobs.get(&job.id)).any(|job| job.paused_locally)
    }

    /// No slave that could take it has a free machine and capacity.
    fn waits_behind_the_paused(&self, job: &master::Job) -> bool {
        let mut could = self.boxes.iter().filter(|held| {
            let named = job.slave.as_ref().is_none_or(|name| *name == held.settings.name);
            let holds = job.holder.is_none_or(|holder| holder == held.settings.key);
            !held.retired && if job.holder.is_some() { holds } else { named }
        });
        could.all(|held| is_taken(held) || job.holder.is_none() && is_full(held))
    }
}

//! Who gets what: the highest priority first, then the oldest; idle slaves before busy ones.
//!
//! Work is assigned ahead while the link is up, to the slave's capacity, so that a slave that loses its link has
//! something to do. What waits at a busy slave is recalled when another is idle.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::{Book, Enrolled, Job, Rules, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::job::{self, State};
use crate::message::{Mode, WaitingFor};
use crate::spec::Gate;

/// Slaves that could take a job, by program: the cost of finding one does not grow with the number of slaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Availability {
    /// They could start it now.
    idle: BTreeMap<String, BTreeSet<SlaveKey>>,
    /// They would keep it until its turn comes.
    busy: BTreeMap<String, BTreeSet<SlaveKey>>,
    /// Where each slave is listed.
    listed: BTreeMap<SlaveKey, (bool, Vec<String>)>,
}

impl Availability {
    fn list(&mut self, key: SlaveKey, idle: bool, programs: &[String]) {
        if self.listed.get(&key).is_some_and(|(was_idle, known)| *was_idle == idle && known == programs) {
            return;
        }
        self.unlist(key);
        let side = if idle { &mut self.idle } else { &mut self.busy };
        for program in programs {
            side.entry(program.clone()).or_default().insert(key);
        }
        self.listed.insert(key, (idle, programs.to_vec()));
    }

    fn unlist(&mut self, key: SlaveKey) {
        let Some((idle, programs)) = self.listed.remove(&key) else { return };
        let side = if idle { &mut self.idle } else { &mut self.busy };
        for program in programs {
            if let Some(keys) = side.get_mut(&program) {
                keys.remove(&key);
                if keys.is_empty() {
                    side.remove(&program);
                }
            }
        }
    }

    /// Slaves for a program, those that could start now first.
    fn offers(&self, program: &str) -> impl Iterator<Item = SlaveKey> {
        [&self.idle, &self.busy].into_iter().filter_map(|side| side.get(program)).flatten().copied()
    }

    /// Those that could start now.
    fn idle(&self, program: &str) -> impl Iterator<Item = SlaveKey> {
        self.idle.get(program).into_iter().flatten().copied()
    }
}

impl Rules {
    pub(super) fn dispatch(&mut self) {
        let mut slaves = self.out.take_looking_for_work();
        for key in &slaves {
            self.list(*key);
        }
        let mut looking: Vec<JobId> = self.out.take_looking_for_slave().into_iter().collect();
        looking.sort_by_key(|id| self.state.book.jobs.get(id).map(|job| (Reverse(job.start.priority), *id)));
        for id in looking {
            match self.slave_for(id) {
                Some(key) => self.assign_to(id, key),
                None => slaves.extend(self.idle_slave_for(id, &slaves)),
            }
        }
        let (idle, busy): (Vec<_>, Vec<_>) = slaves.into_iter().partition(|key| self.is_idle(*key));
        for key in &idle {
            match self.job_for(*key) {
                Some(id) => self.assign_to(id, *key),
                None => self.recall_for(*key),
            }
        }
        for key in idle.into_iter().chain(busy) {
            while let Some(id) = self.job_for(key) {
                self.assign_to(id, key);
            }
        }
        // Assigning and recalling have marked slave records again: what they hold changed, not what they could take.
        for key in self.out.take_looking_for_work() {
            self.list(key);
        }
    }

    fn list(&mut self, key: SlaveKey) {
        match self.state.slaves.get(&key).filter(|slave| self.has_room(slave)) {
            Some(slave) => self.state.availability.list(key, self.is_idle(key), &slave.programs),
            None => self.state.availability.unlist(key),
        }
    }

    /// A slave for a job that was just queued.
    fn slave_for(&self, id: JobId) -> Option<SlaveKey> {
        let job = self.state.book.jobs.get(&id).filter(|job| job.seeks_a_slave())?;
        let fits = |key: &SlaveKey| self.state.slaves.get(key).is_some_and(|slave| can_do(slave, &job));
        self.state.availability.offers(&job.spec.program).find(fits)
    }

    /// An idle slave for a job that waits at another one and may start from now on; not one of those that look for work anyway.
    fn idle_slave_for(&self, id: JobId, looking: &BTreeSet<SlaveKey>) -> Option<SlaveKey> {
        let job = self.state.book.jobs.get(&id).filter(|job| job.is_lent())?;
        let fits = |key: &SlaveKey| self.state.slaves.get(key).is_some_and(|slave| can_do(slave, &job));
        self.state.availability.idle(&job.spec.program).find(|key| !looking.contains(key) && fits(key))
    }

    /// The first of what waits for a slave with room.
    fn job_for(&self, key: SlaveKey) -> Option<JobId> {
        let slave = self.state.slaves.get(&key).filter(|slave| self.has_room(slave))?;
        let first =
            |program: &String| self.state.book.index.first_queued(&slave.name, program, &slave.labels);
        slave.programs.iter().filter_map(first).min().map(|(_, id)| id)
    }

    fn has_room(&self, slave: &SlaveRecord) -> bool {
        takes_work(slave) && places_taken(&self.state.book, slave) < usize::from(slave.capacity)
    }

    /// It could start a job now, and has none that could start now.
    fn is_idle(&self, key: SlaveKey) -> bool {
        let Some(slave) = self.state.slaves.get(&key) else { return false };
        takes_work(slave) && slave.is_ready() && !self.state.book.held_by(key).any(is_pressing)
    }

    fn assign_to(&mut self, id: JobId, key: SlaveKey) {
        let mut jobs = self.jobs();
        jobs.edit(id, |job| {
            job.assign(job.last_attempt.next(), key);
            job.generation = job.generation.next();
            job.reason = None;
        });
        let by = format!("dispatch to {}", jobs.roster.name(key));
        if jobs.apply(id, job::Event::AttemptAssigned, &by) {
            jobs.tell(id);
            self.list(key);
        }
    }

    /// An idle slave with nothing to do: what waits unstarted at a busy one is recalled.
    fn recall_for(&mut self, key: SlaveKey) {
        let Some(slave) = self.state.slaves.get(&key).filter(|slave| self.has_room(slave)) else { return };
        let on_its_way = |id: &JobId| {
            self.state.book.jobs.get(id).and_then(|job| job.holder).is_some_and(|holder| {
                holder != key
                    && self.state.slaves.get(&holder).is_some_and(|d| d.live().is_some() && !d.doubts)
                    && !self.is_idle(holder)
                    && self.state.book.held_by(holder).any(|job| job.state.is_started())
            })
        };
        let lent = slave.programs.iter().find_map(|program| {
            // Only the first few are looked at: what is not at a busy slave will start there soon.
            self.state.book.index.lent(program, &slave.labels).take(LOOK_AT_LENT).find(on_its_way)
        });
        let Some(id) = lent else { return };
        let mut jobs = self.jobs();
        jobs.edit(id, Job::recall);
        jobs.tell(id);
    }
}

/// How many waiting jobs are looked at to find one that an idle slave could take over.
const LOOK_AT_LENT: usize = 16;

/// It is there, in production, and nothing but its own jobs keeps it from taking more.
pub(super) fn takes_work(slave: &SlaveRecord) -> bool {
    slave.live().is_some()
        && slave.enrolled == Enrolled::Yes
        && slave.operating_mode.mode == Mode::Production
        && !slave.declining
        && !slave.doubts
        && slave.machine.as_ref().is_some_and(|machine| !machine.local_lock && machine.attention.is_none())
}

pub(super) fn can_do(slave: &SlaveRecord, job: &Job) -> bool {
    job.slave.as_ref().is_none_or(|name| *name == slave.name)
        && slave.programs.contains(&job.spec.program)
        && super::index::fits(&job.requires, &slave.labels)
}

/// How many of the jobs that a slave may hold it holds, as far as anybody knows.
pub(super) fn places_taken(book: &Book, slave: &SlaveRecord) -> usize {
    book.held_by(slave.key).filter(|job| job.takes_a_place()).count()
}

/// It executes, or will as soon as it can.
fn is_pressing(job: &Job) -> bool {
    if !job.takes_a_place() {
        return false;
    }
    if job.state.is_started() || job.state == State::Assigned && job.start.not_before.is_none() {
        return true;
    }
    let waits = job.report.as_ref().and_then(|report| report.waiting_for);
    let later = matches!(waits, Some(WaitingFor::Time | WaitingFor::Operator | WaitingFor::Clock))
        || job.start.not_before.is_some()
        || job.start.gate == Gate::Held;
    !later
}

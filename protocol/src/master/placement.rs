//! Who gets what. No machine that could do a job idles while that job waits, and of the jobs that could start the highest priority goes
//! next, then the oldest.
//!
//! Work is assigned ahead while the link is up, as much as the slave has room for, so that a slave that loses its link has something to
//! do. What waits unstarted at a slave is recalled when it would start sooner elsewhere: from a slave that can't start it, as soon as
//! another could take it; from one that is at work, when another is idle; and the last in line of a slave that has no room, for one that
//! goes before it. A recall is settled by the slave's answer, as always: a slave that has begun the job keeps it.
//!
//! A slave is given nothing that goes after what it could have from others: then it falls idle, and gets that.

use std::collections::BTreeSet;

use super::availability::{Ability, ForWhom, Room};
use super::line::{Line, Place};
use super::{Job, Master, Placement, Rules, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::job;

impl Rules {
    /// At the end of a step: gives work to whom it fits. Jobs and slaves are only looked at if something has changed for them.
    pub(super) fn dispatch(&mut self) {
        self.turn_to_now();
        self.state.availability.lose_patience(self.now);
        loop {
            for key in self.out.take_looking_for_work() {
                self.list(key);
            }
            let book = &mut self.state.book;
            if book.index.take_is_shorter() {
                book.index.firsts().for_each(|id| self.out.look_for_slave(id));
            }
            let slaves = self.state.availability.take_changed();
            let mut jobs: Vec<JobId> = self.out.take_looking_for_slave().into_iter().collect();
            if slaves.is_empty() && jobs.is_empty() {
                break;
            }
            jobs.sort_by_cached_key(|id| self.state.book.jobs.get(id).map(|job| job.place(self.placement())));
            for waits in jobs {
                self.serve_job(waits);
            }
            self.serve_idle(&slaves);
            for key in slaves {
                self.fill(key);
            }
        }
    }

    /// What waited for a time that has come looks for a slave.
    fn turn_to_now(&mut self) {
        for id in self.state.book.turn_to(self.now) {
            self.out.look_for_slave(id);
            let holder = self.state.book.jobs.get_assigned(&id).and_then(|job| job.holder);
            holder.into_iter().for_each(|key| self.out.look_for_work(key));
        }
    }

    fn list(&mut self, key: SlaveKey) {
        self.out.looks_for_no_work(key);
        self.settle_recalls(key);
        self.let_go(key);
        let Master { slaves, book, availability, .. } = &mut self.state;
        availability.list(key, slaves.get(&key), book);
    }

    /// Whoever waited for a recall from this slave looks again once it is settled: the job may have been begun, or another job got its place.
    fn settle_recalls(&mut self, holder: SlaveKey) {
        let Master { slaves, book, availability, .. } = &mut self.state;
        if !availability.lends(holder) {
            return;
        }
        let is_there = slaves.get(&holder).is_some_and(|slave| slave.ability() != Ability::Away);
        let is_asked = |id: JobId| {
            let job = book.jobs.get_assigned(&id).filter(|job| job.holder == Some(holder));
            is_there && job.is_some_and(Job::is_being_recalled)
        };
        for whom in availability.take_settled(holder, is_asked) {
            match whom {
                ForWhom::Slave(key) => availability.look_at(key),
                ForWhom::Job(id) => self.out.look_for_slave(id),
            }
        }
    }

    /// The slave is given nothing before a job of another one; once that is gone from there, it is looked at again.
    fn keep(&mut self, key: SlaveKey, (rank, id): Place) {
        let Master { book, availability, .. } = &mut self.state;
        if !availability.expected(key).any(|expected| expected == id)
            && let Some(holder) = book.jobs.get_assigned(&id).and_then(|job| job.holder)
        {
            availability.keep(key, holder, (rank, id));
        }
    }

    fn let_go(&mut self, holder: SlaveKey) {
        let mut availability = std::mem::take(&mut self.state.availability);
        availability.let_go(holder, |first| {
            let job = self.state.book.jobs.get_assigned(&first.1).filter(|job| job.holder == Some(holder));
            let is_spare =
                |job: &Job| self.state.is_movable_from(holder, job) && job.place(self.placement()) == first;
            job.is_some_and(is_spare)
        });
        self.state.availability = availability;
    }

    /// Gives a queued job to a slave with room, or recalls another job to make room for it.
    fn serve_job(&mut self, id: JobId) {
        let view = self.state.book.view();
        while let Some(job) = self.state.book.jobs.get(&id)
            && let Some(line) = job.queue_line(view)
        {
            let mut found = self.with_room(&job, line);
            let Some(key) = found.slave else {
                if let Some(key) = self.instead(&job, line, &mut found.kept) {
                    self.recall_last(key, id);
                }
                found.kept.into_iter().for_each(|(key, first)| self.keep(key, first));
                return;
            };
            // In this step something else may have come into the queue that goes before it.
            if !self.assign_first(key, line) {
                return;
            }
        }
    }

    /// Each idle slave gets one job before any gets a second: of these slaves, and of those that could take one of their jobs.
    fn serve_idle(&mut self, slaves: &BTreeSet<SlaveKey>) {
        if self.state.availability.nobody_idles() {
            return;
        }
        let is_idle = |key: &&SlaveKey| self.state.availability.room(**key) == Room::Idle;
        let mut idle: BTreeSet<_> = slaves.iter().filter(is_idle).copied().collect();
        idle.extend(slaves.iter().flat_map(|key| self.idle_for(*key)));
        for key in idle {
            if !self.assign_first(key, Line::Now)
                && self.expects_none(key)
                && let Some(id) = self.state.spare_for(key, true)
            {
                self.recall(id, Some(ForWhom::Slave(key)));
            }
        }
    }

    /// Idle slaves that could take jobs that this slave could be without: one for each.
    fn idle_for(&self, holder: SlaveKey) -> BTreeSet<SlaveKey> {
        let lists = &self.state.availability;
        let mut found = BTreeSet::new();
        for job in self.state.book.held_by(holder).filter(|job| self.state.is_movable_from(holder, job)) {
            let mut idle = lists.idle(&job.spec.program);
            let is_free = |key: &SlaveKey| !found.contains(key) && self.expects_none(*key);
            found.extend(idle.find(|key| is_free(key) && self.can_do(*key, job)));
        }
        found
    }

    /// What a slave that was looked at gets, and what it has to give.
    fn fill(&mut self, key: SlaveKey) {
        while self.assign_first(key, Line::Now) {}
        while self.assign_first(key, Line::Later) {}
        let Some(slave) = self.state.slaves.get(&key) else { return };
        match self.state.availability.room(key) {
            room @ (Room::Idle | Room::After(_)) => {
                let count = if let Room::After(count) = room { count } else { 0 };
                for _ in count..usize::from(slave.capacity) {
                    let Some(id) = self.state.spare_for(key, false) else { break };
                    self.recall(id, Some(ForWhom::Slave(key)));
                }
            }
            Room::InsteadOf(last) => {
                let goes_first = |first: &Place| *first < last && !self.keeps_waiting(key, first.1);
                let Some(first) = self.first_for(slave, Line::Now).filter(goes_first) else { return };
                match self.state.goes_there_first(key, first) {
                    None => self.recall_last(key, first.1),
                    Some(before) => self.keep(key, before),
                }
            }
            Room::None if slave.ability() == Ability::Barred => {
                let view = self.state.book.view();
                let held = self.state.book.held_by(key).filter(|job| job.is_movable(view));
                let mut places: Vec<_> = held.map(|job| job.place(view.placement)).collect();
                places.sort_unstable();
                places.into_iter().for_each(|(_, id)| self.send_on(id));
            }
            Room::None => {}
        }
    }

    /// What is next in line for this slave has to wait until the slave has begun another job, and so does what comes after it.
    fn is_closed(&self, key: SlaveKey, line: Line) -> bool {
        if self.placement().ageing.is_none() {
            return false;
        }
        let first = self.state.slaves.get(&key).and_then(|slave| self.first_for(slave, line));
        first.is_some_and(|(_, first)| self.keeps_waiting(key, first))
    }

    /// This queued job would overtake another one at the slave.
    fn keeps_waiting(&self, key: SlaveKey, id: JobId) -> bool {
        self.placement().ageing.is_some()
            && self.state.book.jobs.get(&id).is_some_and(|job| self.state.would_overtake(key, &job))
    }

    fn placement(&self) -> Placement {
        self.state.book.view().placement
    }

    fn can_do(&self, key: SlaveKey, job: &Job) -> bool {
        self.state.slaves.get(&key).is_some_and(|slave| slave.can_do(job))
    }

    /// A slave with room for the job. Of two that are equally free, one where it has not failed is the better.
    fn with_room(&self, job: &Job, line: Line) -> Found {
        let (program, lists) = (&job.spec.program, &self.state.availability);
        let mut found = Found::default();
        if line == Line::Now {
            self.look(job, line, lists.idle(program), &mut found);
        }
        if found.slave.is_none() {
            self.look(job, line, lists.with_room(program, line), &mut found);
        }
        found
    }

    /// The first of these slaves that could do the job and where it has not failed; if it has failed at all of them, the first.
    fn look(&self, job: &Job, line: Line, slaves: impl Iterator<Item = SlaveKey>, found: &mut Found) {
        let place = job.place(self.placement());
        for key in slaves.filter(|key| self.can_do(*key, job) && !self.is_closed(*key, line)) {
            let first = if line == Line::Now { self.state.goes_there_first(key, place) } else { None };
            if let Some(first) = first {
                // What waits in the queue before it has found nobody, and could do with the same slaves.
                let is_next = job.holder.is_some() || self.is_first(job, line);
                if found.kept.len() == ENOUGH || !is_next {
                    return;
                }
                found.kept.push((key, first));
            } else if !job.has_failed_at(key) {
                found.slave = Some(key);
                return;
            } else {
                found.slave = found.slave.or(Some(key));
            }
        }
    }

    /// It is the first in line of what the same slaves could do.
    fn is_first(&self, job: &Job, line: Line) -> bool {
        self.state.book.index.first_like(job, line) == Some(job.id)
    }

    /// A slave without room where a job waits that goes after this one.
    fn instead(&self, job: &Job, line: Line, kept: &mut Vec<(SlaveKey, Place)>) -> Option<SlaveKey> {
        let place = job.place(self.placement());
        let full = self.state.availability.instead(&job.spec.program, place).filter(|_| line == Line::Now);
        for key in full.filter(|key| self.can_do(*key, job) && !self.is_closed(*key, line)) {
            match self.state.goes_there_first(key, place) {
                None => return Some(key),
                Some(_) if kept.len() >= ENOUGH => return None,
                Some(first) => kept.push((key, first)),
            }
        }
        None
    }

    /// Recalls a job from a slave that can't start it, if another could take it.
    fn send_on(&mut self, id: JobId) {
        let view = self.state.book.view();
        let Some(job) = self.state.book.jobs.get_assigned(&id) else { return };
        let Some(line) = job.line(view) else { return };
        let mut found = self.with_room(job, line);
        let could_go = found.slave.is_some() || self.instead(job, line, &mut found.kept).is_some();
        if could_go {
            self.recall(id, found.slave.map(ForWhom::Slave));
        } else {
            found.kept.into_iter().for_each(|(key, first)| self.keep(key, first));
        }
    }

    fn expects_none(&self, key: SlaveKey) -> bool {
        self.state.availability.expected(key).next().is_none()
    }

    /// The first of what waits in a line for a slave.
    fn first_for(&self, slave: &SlaveRecord, line: Line) -> Option<Place> {
        let index = &self.state.book.index;
        let first = |program: &String| index.first_queued(line, program, slave);
        slave.programs.iter().filter_map(first).min()
    }

    /// Assigns the first of what waits in a line to a slave, if that has room for it.
    fn assign_first(&mut self, key: SlaveKey, line: Line) -> bool {
        let Some(slave) = self.state.slaves.get(&key) else { return false };
        let has_room = match line {
            Line::Now => matches!(self.state.availability.room(key), Room::Idle | Room::After(_)),
            Line::Later => self.state.availability.takes_deferred(key),
        };
        let first = if has_room { self.first_for(slave, line) } else { None };
        let Some(first) = first.filter(|(_, id)| !self.keeps_waiting(key, *id)) else { return false };
        let before = if line == Line::Now { self.state.goes_there_first(key, first) } else { None };
        if let Some(before) = before {
            self.keep(key, before);
            return false;
        }
        self.assign_to(first.1, key)
    }

    fn assign_to(&mut self, id: JobId, key: SlaveKey) -> bool {
        let mut jobs = self.jobs();
        jobs.edit(id, |job| {
            job.assign(job.last_attempt.next(), key);
            job.generation = job.generation.next();
            job.reason = None;
        });
        let by = format!("dispatch to {}", jobs.roster.name(key));
        let is_assigned = jobs.apply(id, job::Event::AttemptAssigned, &by);
        if is_assigned {
            jobs.tell(id);
            self.list(key);
        }
        is_assigned
    }

    /// Recalls the last in line of what a slave has and could start, for a queued job.
    fn recall_last(&mut self, key: SlaveKey, queued: JobId) {
        let view = self.state.book.view();
        let spare = self
            .state
            .book
            .held_by(key)
            .filter(|job| job.is_spare(view))
            .map(|job| job.place(view.placement))
            .max();
        if let Some((_, id)) = spare {
            self.recall(id, Some(ForWhom::Job(queued)));
        }
    }

    fn recall(&mut self, id: JobId, whom: Option<ForWhom>) {
        let mut jobs = self.jobs();
        let Some(holder) = jobs.get(id).and_then(|job| job.holder) else { return };
        jobs.edit(id, Job::recall);
        jobs.tell(id);
        if let Some(whom) = whom {
            self.state.availability.recalled(holder, id, whom, self.now);
        }
        self.list(holder);
    }
}

/// The search for a slave with room.
#[derive(Debug, Default)]
struct Found {
    slave: Option<SlaveKey>,
    /// Slaves with room that are to have this other job first.
    kept: Vec<(SlaveKey, Place)>,
}

/// After so many slaves that are to have another job first, the search ends: of thousands, they are as good as all.
const ENOUGH: usize = 64;

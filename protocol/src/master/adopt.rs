//! Jobs that the master does not know and takes up from a slave.

use super::visit::Visit;
use super::{Ignored, Job, RETRY_BACKOFF};
use crate::job::{self, State};
use crate::limits;
use crate::message::{Flags, Forget, Message, Record};
use crate::spec::Gate;
use std::collections::{BTreeMap, BTreeSet};

/// How many jobs an order may have: as many as a client may order at once.
const ORDER_JOBS: usize = 1000;

impl Visit<'_> {
    /// The master takes a job up from its slave.
    pub(super) fn adopt(&mut self, record: Record) {
        let Record { spec, start, report, requires } = self.taken_up(record);
        let (key, id) = (self.key, report.job);
        if self.book().jobs.contains_key(&id) {
            return self.out.ignore(Ignored::UnrequestedRecord);
        }
        if !report.state.is_ended() && self.book().held_by(key).count() >= limits::ROWS {
            return self.out.ignore(Ignored::TooManyJobs);
        }
        if report.attempt.0 > limits::ADOPTED_ATTEMPT || report.generation.0 > limits::ADOPTED_GENERATION {
            return self.out.ignore(Ignored::OutOfRange);
        }
        // It was assigned by a master that has lost that.
        let state = match job::next(State::Assigned, job::Event::Reported(report.state)) {
            job::Transition::To(next) => next,
            job::Transition::Unchanged => State::Assigned,
            job::Transition::Rejected(why) => return self.out.ignore(Ignored::Job(why)),
        };
        let mut flags = Flags::default();
        flags.set(Flags::ADOPTED);
        let order = super::Order {
            id: spec.order,
            created_at: report.accepted_at,
            jobs: vec![id],
            spec,
            slave: None,
            requires,
            start,
            retry: super::Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
            retry_backoff: RETRY_BACKOFF,
        };
        let mut job = Job::new(id, &order);
        job.flags = flags;
        job.assign(report.attempt, key);
        job.generation = report.generation;
        job.heard_at = Some(self.moment.now);
        let (ended, seq, attempt) = (report.state.is_ended(), report.seq, report.attempt);
        job.report = Some(report);
        job.enter(state, self.moment.now, &self.record().name);
        if matches!(job.start.gate, Gate::Released { .. }) {
            self.out.mark_clock();
        }
        self.jobs().insert(job);
        self.rebuild(order);
        self.jobs().recall_unfit(id);
        if ended {
            self.send(Message::Forget(Forget { job: id, attempt, seq }));
        }
    }

    /// The order of a job that was adopted: what the disk has of it is kept, and gains the job.
    fn rebuild(&mut self, order: super::Order) {
        let order = match self.book().orders.get(&order.id) {
            None => order,
            Some(known) => {
                let new: Vec<_> = order.jobs.into_iter().filter(|job| !known.jobs.contains(job)).collect();
                if new.is_empty() || known.spec != order.spec || known.jobs.len() + new.len() > ORDER_JOBS {
                    return;
                }
                let mut known = known.clone();
                known.jobs.extend(new);
                known
            }
        };
        self.jobs().insert_order(order);
    }
}

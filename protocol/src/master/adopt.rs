//! Jobs that the master does not know and takes up from a slave.

use super::{Effect, Ignored, Job, Rules, Write};
use crate::id::SlaveKey;
use crate::limits;
use crate::message::{Flags, Forget, Message, Record};
use std::collections::{BTreeMap, BTreeSet};

/// How many jobs an order may have: as many as a client may order at once.
const ORDER_JOBS: usize = 1000;

impl Rules {
    /// The master takes a job up from its slave.
    pub(super) fn adopt(&mut self, key: SlaveKey, record: Record) {
        let Record { spec, start, report } = self.taken_up(record);
        let id = report.job;
        if self.state.book.jobs.contains_key(&id) {
            return self.effects.push(Effect::Ignored(Ignored::UnrequestedRecord));
        }
        if !report.state.is_ended() && self.state.book.held_by(key).count() >= limits::ROWS {
            return self.effects.push(Effect::Ignored(Ignored::TooManyJobs));
        }
        if report.attempt.0 > limits::ADOPTED_ATTEMPT || report.generation.0 > limits::ADOPTED_GENERATION {
            return self.effects.push(Effect::Ignored(Ignored::OutOfRange));
        }
        let slave = self.state.slaves.get(&key);
        let by = slave.map_or_else(String::new, |slave| slave.name.clone());
        let mut flags = Flags::default();
        flags.set(Flags::ADOPTED);
        let order = super::Order {
            id: spec.order,
            created_at: report.accepted_at,
            jobs: vec![id],
            spec,
            slave: None,
            requires: BTreeMap::new(),
            start,
            retry: super::Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
        };
        let mut job = Job::new(id, &order);
        job.flags = flags;
        job.assign(report.attempt, key);
        job.generation = report.generation;
        job.heard_at = Some(self.now);
        let (state, ended, seq, attempt) =
            (report.state, report.state.is_ended(), report.seq, report.attempt);
        job.report = Some(report);
        job.enter(state, self.now, &by);
        self.state.book.insert(job);
        self.touched.insert(id);
        self.rebuild(order);
        if ended {
            self.send_to(key, Message::Forget(Forget { job: id, attempt, seq }));
        }
    }

    /// The order of a job that was adopted: what the disk has of it is kept, and gains the job.
    fn rebuild(&mut self, order: super::Order) {
        let order = match self.state.book.orders.get(&order.id) {
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
        self.state.book.orders.insert(order.id, order.clone());
        self.persist.push(Write::Order(Box::new(order)));
    }
}

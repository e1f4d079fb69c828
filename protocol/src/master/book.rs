//! The order book: every live job, and what a step has read of the disk.

use super::index::{Index, Listed};
use super::line::View;
use super::order::{Job, Order};
use super::{IdempotencyKey, Live, Loaded, Placement, RECENT_KEYS};
use crate::id::{JobId, OrderId, SlaveKey};
use crate::job::State;
use crate::spec::Desired;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// All jobs that have not ended, with the indexes that are derived from them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Book {
    /// Every job that has not ended.
    pub jobs: Live,
    /// What is derived from them.
    pub(super) index: Index,
    /// Keys that the disk may not show yet.
    recent_keys: VecDeque<(IdempotencyKey, OrderId)>,
    /// The same, for finding.
    recent_orders: BTreeMap<String, ([u8; 32], OrderId)>,
    /// Jobs that were loaded for this step.
    loaded: BTreeSet<JobId>,
    /// Orders that were loaded or written in this step.
    pub(super) orders: BTreeMap<OrderId, Order>,
    /// What the disk has of the idempotency keys that were looked up for this step.
    keys: BTreeMap<String, Option<(OrderId, [u8; 32])>>,
}

impl Book {
    pub(super) fn new(placement: Placement) -> Self {
        Self { index: Index::new(View { placement, ..View::default() }), ..Self::default() }
    }

    /// The time by which jobs are listed, with the settings that matter for that.
    pub(super) fn view(&self) -> View {
        self.index.view()
    }

    /// Lists jobs by the time `now` from here on. Returns those of which that may make a difference.
    pub(super) fn turn_to(&mut self, now: Time) -> Vec<JobId> {
        let before = self.view();
        let turned = self.index.turn_to(now);
        for id in &turned {
            if let Some(job) = self.jobs.get(id) {
                self.index.relist(&job, &Listed::of(&job, before), &Listed::of(&job, self.index.view()));
            }
        }
        turned
    }

    /// Takes up a live job from disk.
    pub(super) fn restore(&mut self, mut job: Job) {
        if job.desired == Desired::Return {
            // Written when a recall took the place of what the client wanted.
            job.desired = Desired::Run;
            job.recalled = job.recalled.or(Some(job.generation));
        }
        if !job.state.is_ended() {
            self.insert(job);
            self.jobs.pack();
        }
    }

    /// Takes up what was read from disk, for one step.
    pub(super) fn load(&mut self, Loaded { jobs, orders, keys }: Loaded) {
        for job in jobs {
            if !self.jobs.contains_key(&job.id) {
                self.loaded.insert(job.id);
                self.insert(job);
            }
        }
        self.orders.extend(orders.into_iter().map(|order| (order.id, order)));
        self.keys.extend(keys);
    }

    /// Lets go of what was loaded, and of what has ended.
    pub(super) fn archive(&mut self, touched: &BTreeSet<JobId>) -> Vec<Job> {
        self.orders.clear();
        self.keys.clear();
        let loaded = std::mem::take(&mut self.loaded);
        let ended = |id: &&JobId| self.jobs.get(id).is_some_and(|job| job.state.is_ended());
        let ids: BTreeSet<_> = touched.iter().chain(&loaded).filter(ended).copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    pub(super) fn insert(&mut self, job: Job) {
        self.index.relist(&job, &Listed::default(), &Listed::of(&job, self.view()));
        self.jobs.insert(job);
    }

    fn remove(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.index.relist(&job, &Listed::of(&job, self.view()), &Listed::default());
        Some(job)
    }

    /// Changes a job and what is derived from it; tells who had it before and who has it after.
    pub(super) fn edit<R>(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Job) -> R,
    ) -> Option<([Option<SlaveKey>; 2], R)> {
        let view = self.view();
        self.jobs.edit(&id, |job| {
            let (holder, listed) = (job.holder, Listed::of(job, view));
            let result = change(job);
            self.index.relist(job, &listed, &Listed::of(job, view));
            ([holder, job.holder], result)
        })
    }

    /// How many jobs are in a state.
    pub fn count(&self, state: State) -> usize {
        self.index.count(state)
    }

    /// What a slave has, in order.
    pub fn held_by(&self, key: SlaveKey) -> impl Iterator<Item = &Job> {
        self.index.held_by(key).filter_map(|id| self.jobs.get_assigned(&id))
    }

    /// The order that was placed with this key, and the fingerprint of its body.
    pub(super) fn placed_with(&self, key: &str) -> Option<(OrderId, [u8; 32])> {
        // The disk may have been read before the newest orders were placed.
        self.recent(key).or_else(|| self.keys.get(key).copied().flatten())
    }

    /// An order that was placed with this key a moment ago.
    pub(super) fn recent(&self, key: &str) -> Option<(OrderId, [u8; 32])> {
        self.recent_orders.get(key).map(|(fingerprint, order)| (*order, *fingerprint))
    }

    pub(super) fn remember(&mut self, key: IdempotencyKey, order: OrderId) {
        self.recent_orders.insert(key.key.clone(), (key.fingerprint, order));
        self.recent_keys.push_back((key, order));
        if self.recent_keys.len() > RECENT_KEYS
            && let Some((old, _)) = self.recent_keys.pop_front()
        {
            self.recent_orders.remove(&old.key);
        }
    }

    pub(super) fn broken_invariant(&self) -> Option<&'static str> {
        let mut again = Index::new(self.view());
        for job in self.jobs.values() {
            again.relist(&job, &Listed::default(), &Listed::of(&job, self.view()));
        }
        (again != self.index).then_some("what is derived from the jobs is derived from the jobs")
    }
}

//! The order book: every live job, and what is derived from them: who waits for what, and who has what.

use super::order::{Job, Order, Place};
use super::{IdempotencyKey, Live, Loaded, Need, RECENT_KEYS};
use crate::id::{JobId, OrderId, SlaveKey};
use crate::job::State;
use crate::spec::Desired;
use crate::time::Time;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

/// Jobs that any slave with these labels can do, in order.
type ByRequirement = BTreeMap<BTreeMap<String, String>, BTreeSet<Place>>;

/// All jobs that have not ended, with the indexes that are derived from them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Book {
    /// Every job that has not ended.
    pub jobs: Live,
    /// What waits: by the slave that it is for, and the program; the cost of finding the next does not grow with the
    /// number of jobs.
    queued: BTreeMap<(Option<String>, String), ByRequirement>,
    /// What waits unstarted at a slave and could go to another, by program.
    lent: BTreeMap<String, ByRequirement>,
    /// What a slave has.
    held: BTreeMap<SlaveKey, BTreeSet<JobId>>,
    /// Latest starts of queued jobs.
    windows: BTreeSet<(Time, JobId)>,
    /// What needs a person, but for lapsed releases: whoever lists it must not look at every job.
    needing: BTreeSet<(Need, JobId)>,
    /// Until when jobs may start that were released and wait: past that they need a person again.
    releases: BTreeSet<(Time, JobId)>,
    /// How many there are of each state: whoever asks every few seconds must not cost what all jobs cost.
    counts: BTreeMap<State, usize>,
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
        self.index(&job);
        self.jobs.insert(job);
    }

    fn remove(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.unindex(&job);
        Some(job)
    }

    /// Changes a job and what is derived from it; tells who had it before and who has it after.
    pub(super) fn edit<R>(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Job) -> R,
    ) -> Option<([Option<SlaveKey>; 2], R)> {
        let mut job = self.remove(id)?;
        let before = job.holder;
        let result = change(&mut job);
        let after = job.holder;
        self.insert(job);
        Some(([before, after], result))
    }

    /// Changes of a job only what its slave says and nobody writes. Of what is derived only the need of a person follows from that.
    pub(super) fn edit_volatile(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> bool {
        let Some(job) = self.jobs.get_mut(&id) else { return false };
        let before = (job.need(), job.released_until());
        change(job);
        let after = (job.need(), job.released_until());
        if before != after {
            self.unindex_need(id, before);
            self.index_need(id, after);
        }
        true
    }

    fn index_need(&mut self, id: JobId, (need, released_until): (Option<Need>, Option<Time>)) {
        self.needing.extend(need.map(|need| (need, id)));
        self.releases.extend(released_until.map(|latest| (latest, id)));
    }

    fn unindex_need(&mut self, id: JobId, (need, released_until): (Option<Need>, Option<Time>)) {
        need.map(|need| self.needing.remove(&(need, id)));
        released_until.map(|latest| self.releases.remove(&(latest, id)));
    }

    fn index(&mut self, job: &Job) {
        *self.counts.entry(job.state).or_default() += 1;
        if job.seeks_a_slave() {
            let key = (job.slave.clone(), job.spec.program.clone());
            let queue = self.queued.entry(key).or_default().entry(job.requires.clone()).or_default();
            queue.insert(job.place());
        }
        if let (State::Queued, Some(deadline)) = (job.state, job.start.deadline) {
            self.windows.insert((deadline, job.id));
        }
        if job.is_lent() {
            let queue = self.lent.entry(job.spec.program.clone()).or_default();
            queue.entry(job.requires.clone()).or_default().insert(job.place());
        }
        if let (false, Some(holder)) = (job.state.is_ended(), job.holder) {
            self.held.entry(holder).or_default().insert(job.id);
        }
        self.index_need(job.id, (job.need(), job.released_until()));
    }

    fn unindex(&mut self, job: &Job) {
        if let Some(count) = self.counts.get_mut(&job.state) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&job.state);
            }
        }
        if job.seeks_a_slave() {
            let key = (job.slave.clone(), job.spec.program.clone());
            if let Some(queue) = self.queued.get_mut(&key) {
                forget(queue, &job.requires, job.place());
                if queue.is_empty() {
                    self.queued.remove(&key);
                }
            }
        }
        if let (State::Queued, Some(deadline)) = (job.state, job.start.deadline) {
            self.windows.remove(&(deadline, job.id));
        }
        if job.is_lent()
            && let Some(queue) = self.lent.get_mut(&job.spec.program)
        {
            forget(queue, &job.requires, job.place());
            if queue.is_empty() {
                self.lent.remove(&job.spec.program);
            }
        }
        if let (false, Some(holder)) = (job.state.is_ended(), job.holder)
            && let Some(held) = self.held.get_mut(&holder)
        {
            held.remove(&job.id);
            if held.is_empty() {
                self.held.remove(&holder);
            }
        }
        self.unindex_need(job.id, (job.need(), job.released_until()));
    }

    /// How many jobs need a person.
    pub(super) fn count_needs(&self, now: Time) -> usize {
        self.needing.len() + self.lapsed(now).count()
    }

    /// The jobs that need a person, lapsed releases left out, in order from here on.
    pub(super) fn needing(&self, from: Option<(Need, JobId)>) -> impl Iterator<Item = (Need, JobId)> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.needing.range((from, Bound::Unbounded)).copied()
    }

    /// The jobs whose release has lapsed.
    pub(super) fn lapsed(&self, now: Time) -> impl Iterator<Item = JobId> {
        self.releases.iter().take_while(move |(latest, _)| *latest < now).map(|(_, id)| *id)
    }

    /// How many jobs are in a state.
    pub fn count(&self, state: State) -> usize {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// What a slave has, in order.
    pub fn held_by(&self, key: SlaveKey) -> impl Iterator<Item = &Job> {
        self.held.get(&key).into_iter().flatten().filter_map(|id| self.jobs.get_assigned(id))
    }

    /// The first of what waits for a slave of this name, program and labels.
    pub(super) fn first_queued(
        &self,
        name: &str,
        program: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Place> {
        [Some(name.to_owned()), None]
            .into_iter()
            .filter_map(|slave| self.queued.get(&(slave, program.to_owned())))
            .filter_map(|queue| first_fitting(queue, labels))
            .min()
    }

    /// The jobs that wait unstarted at slaves and could go to one of this program and labels, in order.
    pub(super) fn lent(
        &self,
        program: &str,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = JobId> {
        let fitting =
            self.lent.get(program).into_iter().flatten().filter(move |(requires, _)| fits(requires, labels));
        fitting.flat_map(|(_, places)| places.iter().map(|(_, id)| *id))
    }

    pub(super) fn next_window(&self) -> Option<Time> {
        self.windows.first().map(|(at, _)| *at)
    }

    pub(super) fn closed_window(&self, now: Time) -> Option<JobId> {
        self.windows.first().filter(|(at, _)| *at < now).map(|(_, id)| *id)
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
        let mut again = Self::default();
        for job in self.jobs.values() {
            again.index(&job);
        }
        let same = again.queued == self.queued
            && again.lent == self.lent
            && again.held == self.held
            && again.windows == self.windows
            && again.needing == self.needing
            && again.releases == self.releases
            && again.counts == self.counts;
        (!same).then_some("what is derived from the jobs is derived from the jobs")
    }
}

fn forget(queue: &mut ByRequirement, requires: &BTreeMap<String, String>, place: Place) {
    if let Some(places) = queue.get_mut(requires) {
        places.remove(&place);
        if places.is_empty() {
            queue.remove(requires);
        }
    }
}

fn first_fitting(queue: &ByRequirement, labels: &BTreeMap<String, String>) -> Option<Place> {
    queue
        .iter()
        .filter(|(requires, _)| fits(requires, labels))
        .filter_map(|(_, places)| places.first().copied())
        .min()
}

/// A slave with these labels has everything that is required.
pub(super) fn fits(requires: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    requires.iter().all(|(key, value)| labels.get(key) == Some(value))
}

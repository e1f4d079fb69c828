//! The jobs that have not ended.
//!
//! A million of them may wait for a slave that is away, and nobody speaks of a waiting job until its turn comes. So a job that
//! was never assigned lies here as the bytes of its record, a tenth of what it takes otherwise, and is unpacked for
//! whoever looks at it. Every step leaves it so, whatever looked at it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::Job;
use crate::id::{Attempt, JobId};
use crate::job::State;
use crate::wire;

/// Jobs by their id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Live {
    /// Boxed, since a tree moves what lies in it.
    jobs: BTreeMap<JobId, Box<Job>>,
    waiting: BTreeMap<JobId, Packed>,
    /// What the step under way has unpacked or added, and may have to be packed at its end; nothing between two steps.
    loose: Vec<JobId>,
}

/// A job's record, without the id with which it begins: that is the key under which it lies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Packed(Box<[u8]>);

impl Packed {
    fn of(job: &Job) -> Self {
        let record = wire::encode(job);
        let rest = record.strip_prefix(&job.id.0).expect("a job's record begins with its id");
        Self(rest.into())
    }

    fn unpack(&self, id: &JobId) -> Job {
        let record = [&id.0, &*self.0].concat();
        wire::decode(&record, record.len()).expect("it was packed by this same program")
    }
}

/// It waits, and no slave ever had it: nothing of it is known that is not in its record.
fn can_be_packed(job: &Job) -> bool {
    job.state == State::Queued && job.last_attempt == Attempt(0) && job.heard_on.is_none()
}

/// Two ordered lines made one; `first` says whether the first of the one comes before the first of the other.
fn merged<'a>(
    assigned: impl Iterator<Item = (&'a JobId, &'a Box<Job>)>,
    waiting: impl Iterator<Item = (&'a JobId, &'a Packed)>,
    first: impl Fn(&JobId, &JobId) -> bool,
) -> impl Iterator<Item = Cow<'a, Job>> {
    let (mut assigned, mut waiting) = (assigned.peekable(), waiting.peekable());
    std::iter::from_fn(move || {
        let is_assigned = match (assigned.peek(), waiting.peek()) {
            (Some((assigned, _)), Some((waiting, _))) => first(assigned, waiting),
            (assigned, _) => assigned.is_some(),
        };
        if is_assigned {
            assigned.next().map(|(_, job)| Cow::Borrowed(&**job))
        } else {
            waiting.next().map(|(id, packed)| Cow::Owned(packed.unpack(id)))
        }
    })
}

impl Live {
    /// Unpacks a job that waits.
    pub fn get(&self, id: &JobId) -> Option<Cow<'_, Job>> {
        match self.jobs.get(id) {
            Some(job) => Some(Cow::Borrowed(&**job)),
            None => self.waiting.get(id).map(|packed| Cow::Owned(packed.unpack(id))),
        }
    }

    /// A job, unless it is one that was never assigned.
    pub(super) fn get_assigned(&self, id: &JobId) -> Option<&Job> {
        self.jobs.get(id).map(|job| &**job)
    }

    /// Whether it is here.
    pub fn contains_key(&self, id: &JobId) -> bool {
        self.jobs.contains_key(id) || self.waiting.contains_key(id)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.jobs.len() + self.waiting.len()
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty() && self.waiting.is_empty()
    }

    /// All of them, in order.
    pub fn values(&self) -> impl Iterator<Item = Cow<'_, Job>> {
        merged(self.jobs.iter(), self.waiting.iter(), |assigned, waiting| assigned < waiting)
    }

    /// The newest first, older than `before`.
    pub fn newest_first(&self, before: Option<JobId>) -> impl Iterator<Item = Cow<'_, Job>> {
        let older = (Bound::Unbounded, before.map_or(Bound::Unbounded, Bound::Excluded));
        let (assigned, waiting) = (self.jobs.range(older).rev(), self.waiting.range(older).rev());
        merged(assigned, waiting, |assigned, waiting| assigned > waiting)
    }

    /// Those that were assigned or are being looked at, in order: all that can have a slave.
    pub fn assigned(&self) -> impl DoubleEndedIterator<Item = &Job> {
        self.jobs.values().map(|job| &**job)
    }

    /// A job, to be changed in nothing that is derived from it.
    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        if let Some(packed) = self.waiting.remove(id) {
            self.loose.push(*id);
            self.jobs.insert(*id, Box::new(packed.unpack(id)));
        }
        self.jobs.get_mut(id).map(|job| &mut **job)
    }

    /// Changes a job. If it waits for its first slave after that, the end of the step packs it.
    pub(super) fn edit<R>(&mut self, id: &JobId, change: impl FnOnce(&mut Job) -> R) -> Option<R> {
        let job = self.get_mut(id)?;
        let result = change(job);
        if can_be_packed(job) {
            self.loose.push(*id);
        }
        Some(result)
    }

    pub(super) fn insert(&mut self, job: Job) {
        if can_be_packed(&job) {
            self.loose.push(job.id);
        }
        self.jobs.insert(job.id, Box::new(job));
    }

    pub(super) fn remove(&mut self, id: &JobId) -> Option<Job> {
        match self.waiting.remove(id) {
            Some(packed) => Some(packed.unpack(id)),
            None => self.jobs.remove(id).map(|job| *job),
        }
    }

    /// The end of a step: what waits is packed.
    pub(super) fn pack(&mut self) {
        for id in std::mem::take(&mut self.loose) {
            if let Some(job) = self.jobs.get(&id).filter(|job| can_be_packed(job)) {
                self.waiting.insert(id, Packed::of(job));
                self.jobs.remove(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::order::tests::job;
    use super::*;
    use crate::id::SlaveKey;
    use crate::time::Time;

    #[test]
    fn a_job_that_waits_is_kept_as_its_record_and_is_found_as_it_was() {
        let mut live = Live::default();
        assert!(live.is_empty());
        let mut assigned = job(2);
        assigned.assign(Attempt(1), SlaveKey([1; 32]));
        let jobs = [job(1), assigned, job(3)];
        for job in jobs.clone() {
            live.insert(job);
            live.pack();
            assert!(!live.is_empty());
        }
        assert_eq!((live.jobs.len(), live.waiting.len(), live.len()), (1, 2, 3));
        assert!(live.waiting.values().all(|packed| packed.0.len() < 200));
        assert_eq!(live.get(&jobs[0].id).as_deref(), Some(&jobs[0]));
        assert_eq!(live.get_assigned(&jobs[0].id), None);
        assert!(live.values().eq(jobs.iter().map(Cow::Borrowed)));
        assert!(live.newest_first(Some(jobs[2].id)).eq([Cow::Borrowed(&jobs[1]), Cow::Borrowed(&jobs[0])]));
    }

    #[test]
    fn what_is_changed_is_packed_again_if_it_still_waits() {
        let mut live = Live::default();
        let (first, second) = (job(1), job(2));
        live.insert(first.clone());
        live.insert(second.clone());
        live.pack();
        live.get_mut(&first.id).unwrap().revision = 7;
        live.get_mut(&second.id).unwrap().assign(Attempt(1), SlaveKey([1; 32]));
        live.pack();
        assert_eq!((live.jobs.len(), live.waiting.len()), (1, 1));
        assert_eq!(live.get(&first.id).unwrap().revision, 7);
        assert_eq!(live.remove(&first.id).unwrap().revision, 7);
        assert!(!live.contains_key(&first.id) && live.contains_key(&second.id));
    }

    #[test]
    fn what_waits_again_is_packed_unless_a_slave_has_had_it() {
        let mut live = Live::default();
        let ended = |number| {
            let mut job = job(number);
            job.enter(State::Canceled, Time(1_800_000_000_001), "client");
            job
        };
        let (untouched, mut assigned) = (ended(1), ended(2));
        assigned.last_attempt = Attempt(1);
        let ids = [untouched.id, assigned.id];
        live.insert(untouched);
        live.insert(assigned);
        for id in ids {
            live.edit(&id, |job| job.enter(State::Queued, Time(1_800_000_000_002), "client"));
        }
        live.pack();
        assert!(live.waiting.contains_key(&ids[0]) && live.jobs.contains_key(&ids[1]));
        assert_eq!(live.len(), 2);
    }
}

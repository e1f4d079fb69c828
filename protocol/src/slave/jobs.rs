//! Which jobs the slave holds, and the outcomes that it remembers of others.

use alloc::sync::Arc;
use std::collections::BTreeMap;

use super::out::Out;
use super::{Job, RECENT_OUTCOMES, RECENT_OUTCOMES_BYTES};
use crate::id::JobId;
use crate::limits::labels_size;
use crate::message::Record;

pub(super) struct Jobs<'a> {
    jobs: &'a mut BTreeMap<JobId, Job>,
    recent_outcomes: &'a mut Arc<Vec<Record>>,
    out: &'a mut Out,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(
        jobs: &'a mut BTreeMap<JobId, Job>,
        recent_outcomes: &'a mut Arc<Vec<Record>>,
        out: &'a mut Out,
    ) -> Self {
        Self { jobs, recent_outcomes, out }
    }

    /// Takes a job up, in place of what was known of it.
    pub(super) fn insert(&mut self, job: Job) {
        let id = job.report.job;
        self.out.note(id, self.jobs.get(&id));
        self.jobs.insert(id, job);
    }

    pub(super) fn remove(&mut self, id: JobId) -> Option<Job> {
        self.out.note(id, Some(self.jobs.get(&id)?));
        self.jobs.remove(&id)
    }

    /// Keeps the outcome of a job that is not held any more, and as many of those before it as there is room for.
    pub(super) fn remember(&mut self, job: Job) {
        let recent_outcomes = Arc::make_mut(self.recent_outcomes);
        recent_outcomes.retain(|record| record.report.job != job.report.job);
        recent_outcomes.push(job.record());
        let size = |record: &Record| record.spec.size() + labels_size(&record.requires);
        let bytes = |recent_outcomes: &[Record]| recent_outcomes.iter().map(size).sum::<usize>();
        while recent_outcomes.len() > RECENT_OUTCOMES || bytes(recent_outcomes) > RECENT_OUTCOMES_BYTES {
            recent_outcomes.remove(0);
        }
    }

    pub(super) fn drop_recent_outcomes(&mut self) {
        *self.recent_outcomes = Arc::default();
    }
}

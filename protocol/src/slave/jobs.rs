//! The jobs that a slave holds.
//!
//! A step ends by comparing what became of each job with what it was. What each was is noted when a rule first reaches
//! for it to change it, so that a step costs what it touches and not what is there.

use std::collections::BTreeMap;
use std::ops::Deref;

use super::Job;
use crate::id::JobId;

/// Jobs by their id. They are read like the map that they are; whoever changes one leaves a note of what it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Jobs {
    jobs: BTreeMap<JobId, Job>,
    /// What the step under way reached for, as it was before; nothing between two steps.
    before: BTreeMap<JobId, Option<Job>>,
}

impl Deref for Jobs {
    type Target = BTreeMap<JobId, Job>;

    fn deref(&self) -> &Self::Target {
        &self.jobs
    }
}

impl Jobs {
    /// A job, to be changed.
    pub fn get_mut(&mut self, id: &JobId) -> Option<&mut Job> {
        let job = self.jobs.get_mut(id)?;
        self.before.entry(*id).or_insert_with(|| Some(job.clone()));
        Some(job)
    }

    /// Takes a job up, in place of what was known of it.
    pub fn insert(&mut self, id: JobId, job: Job) {
        let was = self.jobs.insert(id, job);
        self.before.entry(id).or_insert(was);
    }

    pub(super) fn remove(&mut self, id: &JobId) -> Option<Job> {
        let was = self.jobs.remove(id)?;
        self.before.entry(*id).or_insert_with(|| Some(was.clone()));
        Some(was)
    }

    /// Changes each job of which `which` says so.
    pub(super) fn change(&mut self, which: impl Fn(&Job) -> bool, change: impl Fn(&mut Job)) {
        let ids: Vec<JobId> = self.jobs.iter().filter(|(_, job)| which(job)).map(|(id, _)| *id).collect();
        for id in ids {
            if let Some(job) = self.get_mut(&id) {
                change(job);
            }
        }
    }

    /// What the step reached for, as it was before it; the next step begins with no note.
    pub(super) fn take_before(&mut self) -> BTreeMap<JobId, Option<Job>> {
        std::mem::take(&mut self.before)
    }

    /// What is done with a job here was so before any step.
    pub(super) fn settle(&mut self) {
        self.before.clear();
    }
}

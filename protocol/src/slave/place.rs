//! Where the slave lives: on which box, since which boot, on which store.

use super::step::Rules;
use super::{Damage, Job, Slave};
use crate::id::{BootId, JobId, ReportSeq, StoreId};
use crate::message::{Attention, Reason};
use std::collections::BTreeMap;

pub(super) struct Place<'a> {
    store: &'a mut StoreId,
    starts: &'a mut u32,
    fingerprint: &'a mut Option<[u8; 16]>,
    boot: &'a mut Option<BootId>,
    next_store: &'a mut Option<StoreId>,
}

impl<'a> Place<'a> {
    pub(super) fn new(state: &'a mut Slave) -> Self {
        let Slave { node, volatile, .. } = state;
        Self {
            store: &mut node.store,
            starts: &mut node.starts,
            fingerprint: &mut node.fingerprint,
            boot: &mut volatile.boot,
            next_store: &mut volatile.next_store,
        }
    }

    /// The agent starts here. Returns how often it was started on this store.
    fn started(&mut self, boot: BootId, fingerprint: Option<[u8; 16]>, next_store: StoreId) -> u32 {
        *self.fingerprint = fingerprint.or(*self.fingerprint);
        *self.starts = self.starts.saturating_add(1);
        *self.boot = Some(boot);
        *self.next_store = Some(next_store);
        *self.starts
    }

    /// The store was put back to an earlier state: from here on it is another one. Once per start of the agent is enough, because a
    /// store is only put back while no agent runs.
    pub(super) fn become_another_store(&mut self) {
        if let Some(next) = self.next_store.take() {
            *self.store = next;
        }
    }
}

impl Rules {
    pub(super) fn agent_started(
        &mut self,
        boot: BootId,
        fingerprint: Option<[u8; 16]>,
        known_key: bool,
        next_store: StoreId,
        damage: Damage,
    ) {
        let node = &self.state().node;
        let is_new_under_old_key = node.starts == 0 && known_key;
        let has_moved =
            node.fingerprint.is_some() && fingerprint.is_some() && node.fingerprint != fingerprint;
        if damage.node || is_new_under_old_key {
            self.machine().need_above_all(Attention::StoreReplaced);
        }
        // What is lost may be what the machine does: to its jobs it is as if the store had gone back in time.
        if damage.jobs > 0 {
            self.machine().need(Attention::StoreRolledBack);
        }
        if has_moved {
            self.machine().need(Attention::Moved);
        }
        let starts = self.place().started(boot, fingerprint, next_store);
        // The master's disk keeps 0: it does not know what only a report says.
        let first = ReportSeq { start: starts, count: 1 };
        self.each(|_| true, |mut held| held.edit().report.seq = first);
        let doubtful = self.state().jobs.values().filter(|job| job.may_be_at_the_machine());
        for id in doubtful.map(|job| job.report.job).collect::<Vec<_>>() {
            if let Some(mut job) = self.at_machine(id) {
                job.probe(None);
            }
        }
    }

    /// What made this slave eligible for a job when it took it has to hold when it starts it: the config may be another one today.
    pub(super) fn judge_by_config(&mut self, unfit: &BTreeMap<JobId, Reason>) {
        let settings = self.state().settings.clone();
        let why = |job: &Job| {
            let why = unfit.get(&job.report.job).cloned().or_else(|| settings.lacks(&job.requires));
            why.filter(|_| !job.report.state.is_ended())
        };
        self.each(|job| job.unfit != why(job), |mut held| held.edit().unfit = why(&held));
    }
}

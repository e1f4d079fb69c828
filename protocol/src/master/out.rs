//! What a step brings about, gathered while its rules run: writes, effects, and which jobs and slaves have changed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Answer, CloseReason, Effect, Ignored, Master, Refusal, RequestId, Step, Subject, Write};
use crate::id::{Commit, JobId, SlaveKey};
use crate::message::Message;
use crate::slave::LinkId;

/// How much of a job or of a slave record has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Change {
    /// Only what is lost with the process.
    Volatile,
    /// Also what the disk holds: the record is written at the end of the step.
    Durable,
}

#[derive(Default)]
pub(super) struct Out {
    pub(super) persist: Vec<Write>,
    effects: Vec<Effect>,
    changed: BTreeMap<Subject, Change>,
    /// Slaves that may have room or be idle.
    look_for_work: BTreeSet<SlaveKey>,
    /// Jobs that may have become assignable.
    look_for_slave: BTreeSet<JobId>,
    is_clock_marked: bool,
}

impl Out {
    pub(super) fn changed(&mut self, subject: Subject, change: Change) {
        let known = self.changed.entry(subject).or_insert(change);
        *known = change.max(*known);
    }

    pub(super) fn look_for_work(&mut self, slave: SlaveKey) {
        self.look_for_work.insert(slave);
    }

    pub(super) fn look_for_slave(&mut self, job: JobId) {
        self.look_for_slave.insert(job);
    }

    /// Something was made that lapses: what the clock shows is written with it.
    pub(super) fn mark_clock(&mut self) {
        self.is_clock_marked = true;
    }

    pub(super) fn is_clock_marked(&self) -> bool {
        self.is_clock_marked
    }

    pub(super) fn take_looking_for_work(&mut self) -> BTreeSet<SlaveKey> {
        std::mem::take(&mut self.look_for_work)
    }

    /// What has changed for this slave so far has been looked at.
    pub(super) fn looks_for_no_work(&mut self, key: SlaveKey) {
        self.look_for_work.remove(&key);
    }

    pub(super) fn take_looking_for_slave(&mut self) -> BTreeSet<JobId> {
        std::mem::take(&mut self.look_for_slave)
    }

    pub(super) fn send(&mut self, link: LinkId, message: Message) {
        // The end of the step fills the commit in.
        self.effects.push(Effect::Send { link, commit: Commit(0), message });
    }

    pub(super) fn close(&mut self, link: LinkId, why: CloseReason) {
        self.effects.push(Effect::Close { link, why });
    }

    pub(super) fn probe(&mut self, link: LinkId) {
        self.effects.push(Effect::Probe { link });
    }

    pub(super) fn answer(&mut self, request: RequestId, answer: Answer) {
        self.effects.push(Effect::Answer { request, answer });
    }

    pub(super) fn refuse(&mut self, request: RequestId, why: Refusal) {
        self.answer(request, Answer::Refused(why));
    }

    pub(super) fn ignore(&mut self, why: Ignored) {
        self.effects.push(Effect::Ignored(why));
    }

    /// The end of the step: what changed is written and published, and jobs that have ended leave the memory.
    pub(super) fn conclude(mut self, mut state: Master) -> Step {
        let durable =
            |(subject, change): (&Subject, &Change)| (*change == Change::Durable).then_some(*subject);
        let mut touched = BTreeSet::new();
        for subject in self.changed.iter().filter_map(durable) {
            match subject {
                Subject::Job(id) => {
                    touched.insert(id);
                    if let Some(job) = state.book.jobs.get_mut(&id) {
                        job.revision = job.revision.saturating_add(1);
                        self.persist.push(Write::Job(Box::new(job.durable())));
                    }
                }
                Subject::Slave(key) => {
                    let slave = state.slaves.get(&key);
                    self.persist.extend(slave.map(|slave| Write::Slave(Box::new(slave.durable()))));
                }
            }
        }
        let archived = state.book.archive(&touched);
        state.book.jobs.pack();
        if !self.persist.is_empty() {
            state.node.commit = state.node.commit.next();
            self.persist.push(Write::Node(state.node));
        }
        // Messages carry the number of this step's own commit: they are sent when it is durable.
        for effect in &mut self.effects {
            if let Effect::Send { commit, .. } = effect {
                *commit = state.node.commit;
            }
        }
        self.effects.extend(self.changed.into_keys().map(|subject| match subject {
            Subject::Job(id) => Effect::JobChanged(id),
            Subject::Slave(key) => Effect::SlaveChanged(key),
        }));
        Step { state, persist: self.persist, effects: self.effects, archived }
    }
}

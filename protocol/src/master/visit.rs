//! One slave: its record and its link, and the book. The rules of the handshake and of what a slave says run on this, and so
//! they can't reach another slave's record.

use std::collections::BTreeMap;

use super::jobs::{Jobs, Moment, Roster};
use super::out::{Change, Out};
use super::{Book, SlaveLink, SlaveRecord, Subject};
use crate::id::{Attempt, Generation, JobId, SlaveKey};
use crate::message::{Begun, Message};
use crate::spec::{CancelMode, Desired, DesiredState};

pub(super) struct Visit<'a> {
    pub(super) key: SlaveKey,
    /// Private here: only the record of `key` is handed out.
    slaves: &'a mut BTreeMap<SlaveKey, SlaveRecord>,
    book: &'a mut Book,
    pub(super) out: &'a mut Out,
    pub(super) moment: Moment,
    /// The master's newest incarnations.
    pub(super) begun: &'a [Begun],
}

impl<'a> Visit<'a> {
    /// `None`: there is no such slave.
    pub(super) fn new(
        key: SlaveKey,
        slaves: &'a mut BTreeMap<SlaveKey, SlaveRecord>,
        book: &'a mut Book,
        out: &'a mut Out,
        moment: Moment,
        begun: &'a [Begun],
    ) -> Option<Self> {
        slaves.contains_key(&key).then_some(Self { key, slaves, book, out, moment, begun })
    }

    pub(super) fn record(&self) -> &SlaveRecord {
        self.slaves.get(&self.key).expect("a visit is only made to a slave that is there")
    }

    /// Changes what the disk holds of the slave.
    pub(super) fn edit<R>(&mut self, change: impl FnOnce(&mut SlaveRecord) -> R) -> R {
        self.change(Change::Durable, change)
    }

    /// Changes only what is not written: the link, whether the slave declines, whether it doubts.
    pub(super) fn edit_volatile<R>(&mut self, change: impl FnOnce(&mut SlaveRecord) -> R) -> R {
        self.change(Change::Volatile, change)
    }

    /// The slave was welcomed. Of that only its doubt is shown to anybody before it settles.
    pub(super) fn begin_handshake(&mut self, welcomed: SlaveLink, doubts: bool) {
        if self.record().doubts != doubts {
            self.edit_volatile(|slave| slave.doubts = doubts);
        }
        if let Some(slave) = self.slaves.get_mut(&self.key) {
            slave.link = welcomed;
        }
    }

    fn change<R>(&mut self, kind: Change, change: impl FnOnce(&mut SlaveRecord) -> R) -> R {
        self.out.changed(Subject::Slave(self.key), kind);
        self.out.look_for_work(self.key);
        change(self.slaves.get_mut(&self.key).expect("a visit is only made to a slave that is there"))
    }

    pub(super) fn book(&self) -> &Book {
        self.book
    }

    pub(super) fn jobs(&mut self) -> Jobs<'_> {
        Jobs::new(self.book, self.out, self.moment, Roster::new(self.slaves))
    }

    /// Sends on the slave's link, if that has settled.
    pub(super) fn send(&mut self, message: Message) {
        if let Some(link) = self.record().live() {
            self.out.send(link, message);
        }
    }

    /// Tells the slave to let an attempt go that has not begun, by a desired state that is newer than the one that it knows.
    pub(super) fn withdraw(&mut self, id: JobId, attempt: Attempt, known: Generation) {
        let Some(job) = self.book.jobs.get(&id) else { return };
        let desired = Desired::Cancel(CancelMode::IfNotStarted);
        let desired_state =
            DesiredState { attempt, generation: known.next(), desired, ..job.desired_state(false) };
        self.send(Message::DesiredState(desired_state));
    }
}

//! The book as rules change it: what they do to a job is marked, so that the end of the step writes and publishes it.
//!
//! Of slaves the book's rules see a [`Roster`] only.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::out::{Change, Out};
use super::{
    AgentStart, Book, Delivery, Enrolled, Ignored, Job, JobReason, Node, Order, SlaveRecord, Subject, Write,
};
use crate::id::{JobId, SlaveKey};
use crate::job::{self, State};
use crate::message::{Flags, Message};
use crate::slave::LinkId;
use crate::spec::Gate;
use crate::time::Time;

/// What all rules of one step may read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) now: Time,
    pub(super) node: Node,
    /// A slave has seen a later state of this master.
    pub(super) is_doubted: bool,
    /// The slave that settles for the first time in this epoch: after a restore it tells what the master has forgotten.
    pub(super) gap_of: Option<SlaveKey>,
    /// The slave that settles, and the start of its agent with which it had settled before: what it reports now may be as old as that.
    pub(super) settled_before: Option<(SlaveKey, Option<AgentStart>)>,
}

/// What the book's rules see of slaves: their names, and whether they can be told something.
#[derive(Clone, Copy)]
pub(super) struct Roster<'a>(&'a BTreeMap<SlaveKey, SlaveRecord>);

impl<'a> Roster<'a> {
    pub(super) fn new(slaves: &'a BTreeMap<SlaveKey, SlaveRecord>) -> Self {
        Self(slaves)
    }

    pub(super) fn name(self, key: SlaveKey) -> &'a str {
        self.0.get(&key).map_or("", |slave| &slave.name)
    }

    /// Whether any enrolled slave is like that.
    pub(super) fn any(self, is_it: impl Fn(&SlaveRecord) -> bool) -> bool {
        self.0.values().any(|slave| slave.enrolled == Enrolled::Yes && is_it(slave))
    }

    /// The slave's link, whether it has settled or not.
    pub(super) fn current(self, key: SlaveKey) -> Option<LinkId> {
        self.0.get(&key).and_then(SlaveRecord::current)
    }

    /// The slave's link, if it has settled.
    pub(super) fn live(self, key: SlaveKey) -> Option<LinkId> {
        self.0.get(&key).and_then(SlaveRecord::live)
    }

    /// The slave's link, if it has settled and obeys this master.
    pub(super) fn obeying(self, key: SlaveKey) -> Option<LinkId> {
        self.0.get(&key).filter(|slave| !slave.doubts).and_then(SlaveRecord::live)
    }
}

pub(super) struct Jobs<'a> {
    book: &'a mut Book,
    pub(super) out: &'a mut Out,
    pub(super) moment: Moment,
    pub(super) roster: Roster<'a>,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(book: &'a mut Book, out: &'a mut Out, moment: Moment, roster: Roster<'a>) -> Self {
        Self { book, out, moment, roster }
    }

    /// The start of the slave's agent under whose config it has said what it says now; as far as that is known, not a later one.
    pub(super) fn said_under(&self, key: SlaveKey) -> Option<AgentStart> {
        match self.moment.settled_before {
            Some((settles, before)) if settles == key => before,
            Some(_) | None => self.roster.0.get(&key).and_then(SlaveRecord::agent_start),
        }
    }

    pub(super) fn get(&self, id: JobId) -> Option<Cow<'_, Job>> {
        self.book.jobs.get(&id)
    }

    pub(super) fn is_in(&self, id: JobId, state: State) -> bool {
        self.get(id).is_some_and(|job| job.state == state)
    }

    /// Adds a job that the book does not have.
    pub(super) fn insert(&mut self, job: Job) {
        let id = job.id;
        self.book.insert(job);
        self.out.changed(Subject::Job(id), Change::Durable);
    }

    /// Writes an order, and keeps it for the rest of the step.
    pub(super) fn insert_order(&mut self, order: Order) {
        self.book.orders.insert(order.id, order.clone());
        self.out.persist.push(Write::Order(Box::new(order)));
    }

    /// Changes a job and what is derived from it. `None`: there is no such job.
    pub(super) fn edit<R>(&mut self, id: JobId, change: impl FnOnce(&mut Job) -> R) -> Option<R> {
        let (holders, result) = self.book.edit(id, change)?;
        self.out.changed(Subject::Job(id), Change::Durable);
        holders.into_iter().flatten().for_each(|key| self.out.look_for_work(key));
        Some(result)
    }

    /// Changes only what is not written: progress, notes, the time of the last word.
    pub(super) fn edit_volatile(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        if self.book.edit(id, change).is_some() {
            self.out.changed(Subject::Job(id), Change::Volatile);
        }
    }

    /// Moves a job by the table. True if its state changed. If the table rejects the event, an `Ignored` effect says why.
    pub(super) fn apply(&mut self, id: JobId, event: job::Event, by: &str) -> bool {
        let Some(job) = self.get(id) else { return false };
        match job::next(job.state, event) {
            job::Transition::To(next) => {
                let now = self.moment.now;
                self.edit(id, |job| job.enter(next, now, by));
                if next == State::Queued {
                    self.out.look_for_slave(id);
                }
                true
            }
            job::Transition::Unchanged => false,
            job::Transition::Rejected(why) => {
                self.out.ignore(Ignored::Job(why));
                false
            }
        }
    }

    pub(super) fn flag(&mut self, id: JobId, flag: Flags, why: JobReason) {
        self.edit(id, |job| {
            job.flags.set(flag);
            // That its slave let it go before a restore is told by the reason alone.
            if !job.was_let_go() {
                job.reason = Some(why.into());
            }
        });
    }

    /// Ends the queued jobs whose latest start has passed. One that was released and not begun in time is held again.
    pub(super) fn close_windows(&mut self) {
        let now = self.moment.now;
        while let Some(id) = self.book.index.closed_window(now) {
            if self.get(id).is_some_and(|job| job.is_too_late(now)) {
                self.edit(id, |job| job.reason = Some(JobReason::WindowClosed.into()));
                self.apply(id, job::Event::WindowClosed, "master");
            } else {
                self.edit(id, |job| {
                    job.start.gate = Gate::Held;
                    job.reason = Some(JobReason::ReleaseLapsed.into());
                });
            }
        }
    }

    /// Tells the job's slave the newest desired state, if the slave's last report does not know it.
    pub(super) fn tell(&mut self, id: JobId) -> Delivery {
        let Some(job) = self.get(id) else { return Delivery::TooLate };
        let Some(holder) = job.holder else { return Delivery::Applied };
        if job.state == State::Uncertain && job.report.is_none() {
            // It has vanished from its slave: a desired state would offer it again, and a person was asked what became of it.
            return Delivery::Applied;
        }
        let Some(link) = self.roster.obeying(holder) else { return Delivery::PendingOnReconnect };
        let knows = job.report.as_ref().map(|report| report.generation);
        if knows.is_none_or(|generation| generation < job.generation) {
            let desired_state = job.desired_state(knows.is_none());
            self.out.send(link, Message::DesiredState(desired_state));
        }
        Delivery::Sent
    }
}

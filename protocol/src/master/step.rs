//! One event in, one step out.

use std::collections::BTreeSet;

use super::{Answer, Effect, Event, Ignored, Job, Master, Refusal, RequestId, Step, Write};
use crate::id::{JobId, SlaveKey};
use crate::job::{self, State};
use crate::message::{Reason, ReasonCode};
use crate::time::{Millis, Time};

/// What a master does when something happens.
pub fn step(state: Master, now: Time, event: Event) -> Step {
    let mut rules = Rules {
        state,
        now,
        persist: Vec::new(),
        effects: Vec::new(),
        touched: BTreeSet::new(),
        stirred: BTreeSet::new(),
        slaves: BTreeSet::new(),
        stirred_slaves: BTreeSet::new(),
        look_for_work: BTreeSet::new(),
        look_for_slave: BTreeSet::new(),
        gap_of: None,
    };
    rules.distrust_a_clock_that_went_back(&event);
    match event {
        Event::JobsLoaded(jobs) => {
            for job in jobs {
                rules.state.book.load(job);
            }
            return Step { state: rules.state, persist: vec![], effects: vec![], archived: vec![] };
        }
        Event::OrdersLoaded(orders) => {
            rules.state.book.orders.extend(orders.into_iter().map(|order| (order.id, order)));
            return Step { state: rules.state, persist: vec![], effects: vec![], archived: vec![] };
        }
        Event::OrderPlaced { request, order, key, known } => rules.order_placed(request, *order, key, known),
        Event::JobsCommanded { request, jobs, command } => rules.jobs_commanded(request, &jobs, command),
        Event::SlaveCommanded { request, slave, command } => rules.slave_commanded(request, slave, command),
        Event::LogAsked { request, job, offset, limit } => rules.log_asked(request, job, offset, limit),
        Event::TokenMade { request, hash, token } => rules.token_made(request, hash, token),
        Event::RestoreConfirmed { request, forced } => rules.restore_confirmed(request, forced),
        Event::LinkOpened { link, nonce } => rules.link_opened(link, nonce),
        Event::HelloReceived { link, hello, token } => rules.hello_received(link, hello, token),
        Event::Received { link, message } => rules.received(link, message),
        Event::LinkProbed { link, alive } => rules.link_probed(link, alive),
        Event::LinkClosed { link, last_heard } => rules.link_closed(link, last_heard),
        Event::TimePassed => {}
        Event::ClockSet { step_ms } => rules.clock_set(step_ms),
    }
    rules.close_windows();
    rules.dispatch();
    rules.conclude()
}

/// When something will happen by itself, and why: a queued job's window closes.
pub fn next_deadline(state: &Master) -> Option<Time> {
    state.book.next_window().map(|at| at.after(Millis(1)))
}

/// A step under way.
pub(super) struct Rules {
    pub(super) state: Master,
    pub(super) now: Time,
    pub(super) persist: Vec<Write>,
    pub(super) effects: Vec<Effect>,
    /// Jobs that changed durably.
    pub(super) touched: BTreeSet<JobId>,
    /// Jobs that changed at all.
    pub(super) stirred: BTreeSet<JobId>,
    /// Slaves that changed durably.
    pub(super) slaves: BTreeSet<SlaveKey>,
    /// Slaves that changed at all.
    pub(super) stirred_slaves: BTreeSet<SlaveKey>,
    /// Slaves that may have room or fall idle.
    pub(super) look_for_work: BTreeSet<SlaveKey>,
    /// Jobs that were queued.
    pub(super) look_for_slave: BTreeSet<JobId>,
    /// The slave whose first handshake after a restore ends in this step: it closes the gap in the master's memory.
    pub(super) gap_of: Option<SlaveKey>,
}

impl Rules {
    /// Changes a job, and everything that is derived from it.
    pub(super) fn edit<R>(&mut self, id: JobId, change: impl FnOnce(&mut Job) -> R) -> Option<R> {
        let (holders, result) = self.state.book.edit(id, change)?;
        self.touched.insert(id);
        self.look_for_work.extend(holders.into_iter().flatten());
        Some(result)
    }

    /// Moves a job by the table. False: nothing happened, and the effects say why.
    pub(super) fn apply(&mut self, id: JobId, event: job::Event, by: &str) -> bool {
        let Some(job) = self.state.book.jobs.get(&id) else { return false };
        match job::next(job.state, event) {
            job::Transition::To(next) => {
                let now = self.now;
                self.edit(id, |job| job.enter(next, now, by));
                if next == State::Queued {
                    self.look_for_slave.insert(id);
                }
                true
            }
            job::Transition::Unchanged => false,
            job::Transition::Rejected(why) => {
                self.effects.push(Effect::Ignored(Ignored::Job(why)));
                false
            }
        }
    }

    pub(super) fn answer(&mut self, request: RequestId, answer: Answer) {
        self.effects.push(Effect::Answer { request, answer });
    }

    pub(super) fn refuse(&mut self, request: RequestId, refusal: Refusal, text: impl Into<String>) {
        self.answer(request, Answer::Refused(refusal, text.into()));
    }

    pub(super) fn touch_slave(&mut self, key: SlaveKey) {
        self.slaves.insert(key);
        self.look_for_work.insert(key);
    }

    /// Queued jobs whose latest start has passed.
    pub(super) fn close_windows(&mut self) {
        while let Some(id) = self.state.book.closed_window(self.now) {
            let reason =
                Reason::new(ReasonCode::WindowClosed, "its latest start passed and no slave had taken it");
            self.edit(id, |job| job.reason = Some(reason));
            self.apply(id, job::Event::WindowClosed, "master");
        }
    }

    /// The end of every step: writes what was touched, and says so to whoever listens.
    pub(super) fn conclude(mut self) -> Step {
        let mut archived = Vec::new();
        for id in &self.touched {
            let Some(job) = self.state.book.jobs.get_mut(id) else { continue };
            job.revision = job.revision.saturating_add(1);
            self.persist.push(Write::Job(Box::new(job.durable())));
        }
        archived.extend(self.state.book.archive(&self.touched));
        self.state.book.jobs.pack();
        self.state.book.orders.clear();
        for key in &self.slaves {
            if let Some(slave) = self.state.slaves.get(key) {
                self.persist.push(Write::Slave(Box::new(slave.durable())));
            }
        }
        if !self.persist.is_empty() {
            self.state.node.commit = self.state.node.commit.next();
            self.persist.push(Write::Node(self.state.node));
        }
        // What this step says is said once its own writes are durable.
        for effect in &mut self.effects {
            if let Effect::Send { commit, .. } = effect {
                *commit = self.state.node.commit;
            }
        }
        self.stirred.append(&mut self.touched);
        self.stirred_slaves.append(&mut self.slaves);
        self.effects.extend(self.stirred.iter().map(|id| Effect::JobChanged(*id)));
        self.effects.extend(self.stirred_slaves.iter().map(|key| Effect::SlaveChanged(*key)));
        Step { state: self.state, persist: self.persist, effects: self.effects, archived }
    }
}

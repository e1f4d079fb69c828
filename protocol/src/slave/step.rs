//! One event in, one step out.

use alloc::sync::Arc;
use std::collections::BTreeSet;

use super::clock::{WorkClock, by_wall, master_time, stamp};
use super::{
    Effect, Event, Ignored, Job, Link, LinkId, Node, Now, RunState, Slave, Step, Write, machine_report,
};
use crate::id::{JobId, Session};
use crate::job::{self};
use crate::message::{Declined, MachineReport, Message, Reason, Record, Settled, Source};
use crate::time::Time;

/// What a slave does when something happens.
pub fn step(state: Slave, now: Now, event: Event) -> Step {
    let before = Before {
        node: state.node.clone(),
        recent_outcomes: Arc::clone(&state.recent_outcomes),
        machine: machine_report(&state),
    };
    let mut rules = Rules { state, now, effects: Vec::new(), declined: Vec::new(), settling: None };
    match event {
        Event::AgentStarted { boot, fingerprint, known_key, next_store, damage } => {
            rules.agent_started(boot, fingerprint, known_key, next_store, damage);
        }
        Event::Received { link, session, commit, message, unfit } => {
            rules.received(link, session, commit, message, &unfit);
        }
        Event::LinkOpened { link, token } => {
            rules.state.settings.token = token;
            rules.state.link = Link::Opened { link };
        }
        Event::LinkClosed { link } => rules.link_closed(link),
        Event::Machine { work, fact } => rules.machine(work, fact),
        Event::Local { request, command } => rules.local(request, command),
        Event::TimePassed => {}
    }
    rules.look_around();
    rules.conclude(&before)
}

/// What a step is compared with at its end; what its jobs were is noted as it reaches for them.
pub(super) struct Before {
    pub(super) node: Node,
    pub(super) recent_outcomes: Arc<Vec<Record>>,
    pub(super) machine: MachineReport,
}

/// A step under way.
pub(super) struct Rules {
    pub(super) state: Slave,
    pub(super) now: Now,
    pub(super) effects: Vec<Effect>,
    pub(super) declined: Vec<Declined>,
    pub(super) settling: Option<Settling>,
}

/// A Welcome is being applied: its answer is made when everything has come to rest.
pub(super) struct Settling {
    pub(super) link: LinkId,
    pub(super) session: Session,
    pub(super) doubtful: bool,
    pub(super) report: BTreeSet<JobId>,
    pub(super) record: BTreeSet<JobId>,
}

impl Rules {
    pub(super) fn master_time(&self) -> Option<Time> {
        master_time(&self.state, self.now)
    }

    pub(super) fn stamp(&self) -> Time {
        stamp(&self.state, self.now)
    }

    pub(super) fn by_wall(&self, wall: Time) -> Time {
        by_wall(&self.state, self.now, wall)
    }

    pub(super) fn work_clock(&self) -> Option<WorkClock> {
        WorkClock::of(&self.state, self.now)
    }

    /// Moves a job by the table. False: nothing happened, and the effects say why.
    pub(super) fn apply(&mut self, id: JobId, event: job::Event, source: Source) -> bool {
        let stamp = self.stamp();
        let Some(job) = self.state.jobs.get_mut(&id) else { return false };
        match job::next(job.report.state, event) {
            job::Transition::To(next) => {
                job.report.state = next;
                job.report.source = source;
                if next.is_ended() {
                    job.report.ended_at = job.report.ended_at.or(Some(stamp));
                }
                if !next.is_started() {
                    job.run = RunState::default();
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

    pub(super) fn reason(&mut self, id: JobId, reason: Reason) {
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.report.reason = Some(reason);
        }
    }

    /// The end of every step: writes what changed durably, tells what changed at all.
    pub(super) fn conclude(mut self, before: &Before) -> Step {
        let mut persist = Vec::new();
        let mut gone = Vec::new();
        let mut told = Vec::new();
        let starts = self.state.node.starts;
        let noted = self.state.jobs.take_before();
        for (id, was) in &noted {
            let Some(job) = self.state.jobs.get_mut(id) else {
                gone.extend(was.is_some().then_some(Write::Job(*id, None)));
                continue;
            };
            let changed = was.as_ref().is_none_or(|was| was.report != job.report);
            if changed && was.as_ref().is_none_or(|was| was.report.seq == job.report.seq) {
                job.report.seq.start = starts;
                job.report.seq.count += 1;
            }
            if changed {
                told.push(*id);
            }
            let durable = job.durable();
            if was.as_ref().is_none_or(|was| was.durable() != durable) {
                persist.push(Write::Job(*id, Some(Box::new(durable))));
            }
        }
        self.state.jobs.settle();
        persist.append(&mut gone);
        if before.node != self.state.node {
            persist.push(Write::Node(self.state.node.clone()));
        }
        if before.recent_outcomes != self.state.recent_outcomes {
            persist.push(Write::RecentOutcomes(self.state.recent_outcomes.to_vec()));
        }
        let machine = machine_report(&self.state);
        let mut tell = Vec::new();
        if let Some(settling) = self.settling.take() {
            tell.push(Message::Settled(self.settled(&settling, machine)));
            if self.state.settings.token.take().is_some() {
                self.effects.push(Effect::ForgetToken);
            }
            self.state.link =
                Link::Live { link: settling.link, session: settling.session, doubtful: settling.doubtful };
        } else if let Link::Live { .. } = self.state.link {
            let report = |id: &JobId| Message::Report(self.state.jobs[id].report.clone());
            tell.extend(told.iter().map(report));
            tell.extend(self.declined.drain(..).map(Message::Declined));
            if before.machine != machine {
                tell.push(Message::Machine(machine));
            }
        }
        if let Link::Live { link, session, .. } = self.state.link {
            // What is told comes first: a machine is touched after the word of it is on its way.
            let words = tell.into_iter().map(|message| Effect::Send { link, session, message });
            self.effects.splice(0..0, words);
        }
        Step { state: self.state, persist, effects: self.effects }
    }

    pub(super) fn settled(&self, settling: &Settling, machine: MachineReport) -> Settled {
        let mut report = settling.report.clone();
        let changed = |id: &JobId, job: &Job| self.state.volatile.told.get(id) != Some(&job.report.seq);
        let since_hello = self.state.jobs.iter().filter(|(id, job)| changed(id, job)).map(|(id, _)| id);
        report.extend(since_hello.filter(|id| !settling.record.contains(id)));
        let remembered =
            |id: &&JobId| self.state.recent_outcomes.iter().find(|record| record.report.job == **id);
        let kept = |id: &&JobId| {
            let job = self.state.jobs.get(*id)?;
            Some(Record { spec: job.spec.clone(), start: job.start, report: job.report.clone() })
        };
        let record = |id: &JobId| kept(&id).or_else(|| remembered(&id).cloned());
        Settled {
            session: settling.session,
            reports: report.iter().filter_map(record).map(|record| record.report).collect(),
            records: settling.record.iter().filter_map(record).collect(),
            declined: self.declined.clone(),
            machine,
        }
    }
}

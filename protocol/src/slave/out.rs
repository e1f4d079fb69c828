//! What a step brings about, gathered while its rules run: effects, what the master is told, and what each job was before.
//!
//! No rule writes or reports. The end of the step compares what is there with what was: what changed durably is written, and
//! what changed at all is told to a master that listens.

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

use super::{Closing, Decline, Effect, Ignored, Job, Link, LinkId, Node, Slave, Step, Write, machine_report};
use crate::id::{JobId, Session};
use crate::message::{Declined, MachineReport, Message, ReasonCode, Record, Settled};
use crate::spec::DesiredState;

/// A Welcome that is being applied. Its answer is made at the end of the step, when everything that follows from it has been done.
pub(super) struct Settling {
    pub(super) link: LinkId,
    pub(super) session: Session,
    pub(super) doubtful: bool,
    /// The jobs whose report is told.
    pub(super) report: BTreeSet<JobId>,
    /// The jobs that are told whole.
    pub(super) record: BTreeSet<JobId>,
}

pub(super) struct Out {
    before: Before,
    effects: Vec<Effect>,
    declined: Vec<Declined>,
    settling: Option<Settling>,
}

/// What the end of a step compares with.
struct Before {
    node: Node,
    recent_outcomes: Arc<Vec<Record>>,
    machine: MachineReport,
    lacks_room: bool,
    /// The jobs that a rule has changed, as they were; `None`: the slave did not hold it.
    jobs: BTreeMap<JobId, Option<Job>>,
}

impl Out {
    pub(super) fn before(state: &Slave) -> Self {
        let before = Before {
            node: state.node.clone(),
            recent_outcomes: Arc::clone(&state.recent_outcomes),
            machine: machine_report(state),
            lacks_room: state.volatile.lacks_room,
            jobs: BTreeMap::new(),
        };
        Self { before, effects: vec![], declined: vec![], settling: None }
    }

    /// A job is about to be changed; `None`: to be taken.
    pub(super) fn note(&mut self, id: JobId, was: Option<&Job>) {
        self.before.jobs.entry(id).or_insert_with(|| was.cloned());
    }

    pub(super) fn act(&mut self, effect: Effect) {
        self.effects.push(effect);
    }

    pub(super) fn ignore(&mut self, why: Ignored) {
        self.effects.push(Effect::Ignored(why));
    }

    pub(super) fn close(&mut self, link: LinkId, why: Closing) {
        self.effects.push(Effect::Close { link, why });
    }

    pub(super) fn decline(&mut self, offer: &DesiredState, why: Decline) {
        let DesiredState { job, attempt, generation, .. } = *offer;
        let for_good = why.is_for_good();
        self.declined.push(Declined { job, attempt, generation, reason: why.into(), for_good });
    }

    pub(super) fn settle(&mut self, settling: Settling) {
        self.settling = Some(settling);
    }

    /// The end of every step.
    pub(super) fn conclude(mut self, mut state: Slave) -> Step {
        let changed = self.number_reports(&mut state);
        let persist = self.writes(&state);
        let lacks_room = self.declined.iter().any(|one| one.reason.code == ReasonCode::AtCapacity);
        let words = match self.settling.take() {
            Some(settling) => self.settled(&mut state, settling),
            None => self.news(&mut state, changed),
        };
        state.volatile.lacks_room |= lacks_room;
        if let Link::Live { link, session, .. } = state.link {
            // What is told comes first: a machine is touched after the word of it is on its way.
            let words = words.into_iter().map(|message| Effect::Send { link, session, message });
            self.effects.splice(0..0, words);
        }
        Step { state, persist, effects: self.effects }
    }

    /// Gives each report that has changed a new number, unless a rule has done so. Which have?
    fn number_reports(&self, state: &mut Slave) -> Vec<JobId> {
        let starts = state.node.starts;
        let mut changed = Vec::new();
        for (id, was) in &self.before.jobs {
            let Some(job) = state.jobs.get_mut(id) else { continue };
            if was.as_ref().is_some_and(|was| was.report == job.report) {
                continue;
            }
            if was.as_ref().is_none_or(|was| was.report.seq == job.report.seq) {
                job.report.seq = job.report.seq.next(starts);
            }
            changed.push(*id);
        }
        changed
    }

    fn writes(&self, state: &Slave) -> Vec<Write> {
        let mut persist = Vec::new();
        let mut gone = Vec::new();
        for (id, was) in &self.before.jobs {
            let Some(job) = state.jobs.get(id) else {
                gone.extend(was.is_some().then_some(Write::Job(*id, None)));
                continue;
            };
            let durable = job.durable();
            if was.as_ref().is_none_or(|was| was.durable() != durable) {
                persist.push(Write::Job(*id, Some(Box::new(durable))));
            }
        }
        persist.append(&mut gone);
        if self.before.node != state.node {
            persist.push(Write::Node(state.node.clone()));
        }
        if self.before.recent_outcomes != state.recent_outcomes {
            persist.push(Write::RecentOutcomes(state.recent_outcomes.to_vec()));
        }
        persist
    }

    /// What is told on a live link.
    fn news(&self, state: &mut Slave, changed: Vec<JobId>) -> Vec<Message> {
        let report = |id: JobId| Message::Report(state.jobs[&id].report.clone());
        let mut words: Vec<_> = changed.into_iter().map(report).collect();
        words.extend(self.declined.iter().cloned().map(Message::Declined));
        let machine = machine_report(state);
        // A master offers nothing more to a slave that has declined, until it hears of its machine.
        let has_room_again = self.before.lacks_room && self.is_room_made(state);
        if has_room_again {
            state.volatile.lacks_room = false;
        }
        if self.before.machine != machine || has_room_again {
            words.push(Message::Machine(machine));
        }
        words
    }

    /// A job is gone or has ended, or another one waits for something else than before.
    fn is_room_made(&self, state: &Slave) -> bool {
        let counts_as = |job: &Job| (job.report.state.is_ended(), job.report.waiting_for);
        let mut was_held = self.before.jobs.iter().filter_map(|(id, was)| Some((id, was.as_ref()?)));
        was_held.any(|(id, was)| state.jobs.get(id).is_none_or(|job| counts_as(job) != counts_as(was)))
    }

    /// The answer to a Welcome. The link is live from here on.
    fn settled(&mut self, state: &mut Slave, settling: Settling) -> Vec<Message> {
        let Settling { link, session, doubtful, mut report, record } = settling;
        let changed = |id: &JobId, job: &Job| state.volatile.told.get(id) != Some(&job.report.seq);
        let since_hello = state.jobs.iter().filter(|(id, job)| changed(id, job)).map(|(id, _)| id);
        report.extend(since_hello.filter(|id| !record.contains(id)));
        let remembered = |id: &JobId| state.recent_outcomes.iter().find(|record| record.report.job == *id);
        let held = |id: &JobId| state.jobs.get(id).map(Job::record);
        let whole = |id: &JobId| held(id).or_else(|| remembered(id).cloned());
        let settled = Settled {
            session,
            reports: report.iter().filter_map(whole).map(|record| record.report).collect(),
            records: record.iter().filter_map(whole).collect(),
            declined: std::mem::take(&mut self.declined),
            machine: machine_report(state),
        };
        if state.settings.token.take().is_some() {
            self.effects.push(Effect::ForgetToken);
        }
        state.link = Link::Live { link, session, doubtful };
        state.volatile.lacks_room = false;
        vec![Message::Settled(settled)]
    }
}

//! The order book: every live job, and what is derived from them: who waits for what, and who has what.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use serde::{Deserialize, Serialize};

use super::{IdempotencyKey, Live, Need, RECENT_KEYS};
use crate::id::{Attempt, Generation, JobId, OrderId, ReportSeq, SlaveKey};
use crate::job::State;
use crate::message::{Flags, Reason, ReasonCode, Report};
use crate::slave::LinkId;
use crate::spec::{Desired, DesiredState, Gate, Spec, SpecDigest, StartRule};
use crate::time::Time;

/// How many events of a job are kept: the first and the newest.
const JOB_EVENTS: usize = 64;

/// How many attempts of a job are remembered: as many as what came of them.
const HANDED: usize = 16;

/// A client's order, as it was placed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    /// Its id.
    pub id: OrderId,
    /// When it was taken.
    pub created_at: Time,
    /// Its jobs, all with the same work.
    pub jobs: Vec<JobId>,
    /// The work.
    pub spec: Spec,
    /// Only this slave may do it.
    pub slave: Option<String>,
    /// Labels that a slave must have.
    pub requires: BTreeMap<String, String>,
    /// When it may start.
    pub start: StartRule,
    /// Whether it is tried again.
    pub retry: Retry,
    /// The client's own name for it.
    pub external_id: Option<String>,
    /// The client's own marks.
    pub labels: BTreeMap<String, String>,
}

/// Whether a job is tried again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// How many attempts in all.
    pub max_attempts: u32,
    /// After which ends.
    pub on: BTreeSet<RetryOn>,
}

/// An end after which a job may be tried again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RetryOn {
    /// It failed.
    Failed,
    /// The slave refused it.
    Rejected,
}

/// A job, as the master keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// The work.
    pub spec: Spec,
    /// Pins it.
    pub digest: SpecDigest,
    /// Only this slave may do it.
    pub slave: Option<String>,
    /// Labels that a slave must have.
    pub requires: BTreeMap<String, String>,
    /// When it may start.
    pub start: StartRule,
    /// Whether it is tried again.
    pub retry: Retry,
    /// When it was taken.
    pub created_at: Time,
    /// What it is: the book's word until a slave has it, then the slave's.
    pub state: State,
    /// What clients and operators want of it. A recall by the master itself is beside it: see [`Job::wanted`].
    pub desired: Desired,
    /// The number of the newest desired state.
    pub generation: Generation,
    /// The generation by which it was asked back from its slave, until that has given it back or begun it.
    pub recalled: Option<Generation>,
    /// The attempt that speaks for the job.
    pub attempt: Attempt,
    /// The highest attempt so far.
    pub last_attempt: Attempt,
    /// Who has it.
    pub holder: Option<SlaveKey>,
    /// What that slave said last.
    pub report: Option<Report>,
    /// When that came.
    pub heard_at: Option<Time>,
    /// On which connection: only there is a report with a lower number an older word.
    #[serde(skip)]
    pub heard_on: Option<LinkId>,
    /// Other attempts that came to something.
    pub earlier: Vec<Earlier>,
    /// To whom it was handed, newest last: who may speak of an attempt.
    pub assigned: VecDeque<(Attempt, SlaveKey)>,
    /// Why it is what it is, where the slave has not said.
    pub reason: Option<Reason>,
    /// Beside the state; those of the report come on top.
    pub flags: Flags,
    /// When it ended.
    pub ended_at: Option<Time>,
    /// Raised with every durable change.
    pub revision: u32,
    /// What it went through.
    pub events: VecDeque<JobEvent>,
}

/// Another attempt of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Earlier {
    /// Which.
    pub attempt: Attempt,
    /// Who had it.
    pub holder: SlaveKey,
    /// What it came to.
    pub state: State,
    /// What the slave said last.
    pub report: Option<Report>,
    /// How the slave came by it.
    pub basis: Basis,
}

/// What a slave's word of an attempt rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Basis {
    /// The master has handed this attempt to this slave.
    Assigned,
    /// The master may have handed it to this slave and forgotten it: it was told in the first handshake after a restore, or of a job
    /// that was adopted.
    Gap,
    /// Its own word alone: it is shown to people, and nothing follows from it for the job.
    Claim,
}

/// Something that a job went through.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobEvent {
    /// When the master knew.
    pub at: Time,
    /// When it was, if a slave said.
    pub observed_at: Option<Time>,
    /// What it became.
    pub state: State,
    /// Of which attempt.
    pub attempt: Attempt,
    /// By whom.
    pub by: String,
}

impl Job {
    /// A job of a new order.
    pub fn new(id: JobId, order: &Order) -> Self {
        Self {
            id,
            digest: order.spec.digest(),
            spec: order.spec.clone(),
            slave: order.slave.clone(),
            requires: order.requires.clone(),
            start: order.start,
            retry: order.retry.clone(),
            created_at: order.created_at,
            state: State::Queued,
            desired: Desired::Run,
            generation: Generation(1),
            recalled: None,
            attempt: Attempt(0),
            last_attempt: Attempt(0),
            holder: None,
            report: None,
            heard_at: None,
            heard_on: None,
            earlier: Vec::new(),
            assigned: VecDeque::new(),
            reason: None,
            flags: Flags::default(),
            ended_at: None,
            revision: 0,
            events: VecDeque::new(),
        }
    }

    /// The job without what the next report brings anyway.
    pub(super) fn durable(&self) -> Self {
        let mut job = self.clone();
        job.heard_at = None;
        job.heard_on = None;
        job.report = self.report.as_ref().map(durable_report);
        job
    }

    /// The desired state, for a slave that has the work or for one that has not.
    pub(super) fn desired_state(&self, with_spec: bool) -> DesiredState {
        DesiredState {
            job: self.id,
            attempt: self.attempt,
            generation: self.generation,
            digest: self.digest,
            spec: with_spec.then(|| self.spec.clone()),
            desired: self.wanted(),
            start: self.start,
        }
    }

    /// What is wanted of the slave that has it: to give it back, if it was asked back and nobody has canceled it since, or what
    /// clients and operators want.
    pub(super) fn wanted(&self) -> Desired {
        match self.desired {
            Desired::Run | Desired::Pause if self.recalled.is_some() => Desired::Return,
            desired => desired,
        }
    }

    /// Asks it back from its slave.
    pub(super) fn recall(&mut self) {
        self.generation = self.generation.next();
        self.recalled = Some(self.generation);
    }

    /// It was asked back, and its slave has not spoken of it since: it may have let it go, and its word of that may have been
    /// lost.
    pub(super) fn is_recall_unanswered(&self) -> bool {
        let answered =
            |asked: Generation| self.report.as_ref().is_some_and(|report| report.generation >= asked);
        self.recalled.is_some_and(|asked| !answered(asked))
    }

    /// This attempt is that slave's.
    pub(super) fn assign(&mut self, attempt: Attempt, holder: SlaveKey) {
        self.remember(attempt, holder);
        // What was claimed of it before is now what speaks for the job.
        self.earlier.retain(|earlier| (earlier.attempt, earlier.holder) != (attempt, holder));
        self.clear_flag_without_claims();
        self.attempt = attempt;
        self.holder = Some(holder);
    }

    /// Clears the flag `claimed` once no claim is left.
    pub(super) fn clear_flag_without_claims(&mut self) {
        if !self.earlier.iter().any(|earlier| earlier.basis == Basis::Claim) {
            self.flags.clear(Flags::CLAIMED);
        }
    }

    /// This attempt was that slave's, whichever speaks for the job.
    pub(super) fn remember(&mut self, attempt: Attempt, holder: SlaveKey) {
        self.last_attempt = self.last_attempt.max(attempt);
        if self.assigned.contains(&(attempt, holder)) {
            return;
        }
        self.assigned.push_back((attempt, holder));
        if self.assigned.len() > HANDED {
            self.assigned.pop_front();
        }
    }

    /// This attempt was assigned to that slave; of those that are too old to be remembered, to a slave that has had the job since.
    pub(super) fn was_assigned(&self, attempt: Attempt, holder: SlaveKey) -> bool {
        let is_forgotten =
            self.assigned.len() == HANDED && self.assigned.front().is_some_and(|(a, _)| attempt < *a);
        self.assigned.contains(&(attempt, holder))
            || is_forgotten && self.assigned.iter().any(|(_, key)| *key == holder)
    }

    /// Holds the job until a person releases it: in the time that the restored master has forgotten a slave may have done it.
    pub(super) fn hold_after_restore(&mut self) {
        self.start.gate = Gate::Held;
        self.flags.set(Flags::RESTORED);
        self.generation = self.generation.next();
        let text = "the master was restored, and a slave may have done it since: `release` lets it start";
        self.reason = Some(Reason::new(ReasonCode::Restored, text));
    }

    pub(super) fn set_desired(&mut self, desired: Desired) {
        self.desired = desired;
        self.generation = self.generation.next();
    }

    /// Somebody has canceled it, and that was taken.
    pub(super) fn is_canceled(&self) -> bool {
        matches!(self.desired, Desired::Cancel(_))
    }

    pub(super) fn enter(&mut self, state: State, now: Time, by: &str) {
        self.state = state;
        self.ended_at = state.is_ended().then(|| {
            self.report
                .as_ref()
                .filter(|report| report.state == state)
                .and_then(|r| r.ended_at)
                .unwrap_or(now)
        });
        if state == State::Queued {
            self.holder = None;
            self.report = None;
            self.recalled = None;
            if matches!(self.desired, Desired::Resolve(_)) {
                self.desired = Desired::Run;
            }
        }
        let observed_at =
            self.report.as_ref().filter(|report| report.state == state).and_then(|report| match state {
                State::Running => report.started_at,
                State::Accepted => Some(report.accepted_at),
                _ if state.is_ended() => report.ended_at,
                _ => None,
            });
        if self.events.len() >= JOB_EVENTS {
            self.events.remove(1);
        }
        self.events.push_back(JobEvent {
            at: now,
            observed_at,
            state,
            attempt: self.attempt,
            by: by.to_owned(),
        });
    }

    /// When the slave that has it was last heard or connected, by what this attempt went through; none if no slave has it.
    /// Unlike `heard_at` it is known after a restart of the master too.
    pub fn witnessed_at(&self) -> Option<Time> {
        self.holder?;
        let is_witness = |event: &&JobEvent| match event.state {
            State::Queued => false,
            State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain => true,
            // The master and people end jobs too: only a slave says when it was.
            State::Succeeded
            | State::Failed
            | State::Canceled
            | State::Rejected
            | State::Expired
            | State::Lost => event.observed_at.is_some(),
        };
        let of_attempt = self.events.iter().filter(|event| event.attempt == self.attempt);
        of_attempt.filter(is_witness).map(|event| event.at).max()
    }

    /// Everything beside the state.
    pub fn all_flags(&self) -> Flags {
        let mut flags = self.flags;
        if let Some(report) = &self.report {
            flags.set(report.flags);
        }
        flags
    }

    /// It is nobody's, and is assigned when a slave has room. What was held because of a restore is not assigned before a
    /// person lets it go: the slave that had it may be the next to come.
    pub(super) fn seeks_a_slave(&self) -> bool {
        let is_held = self.start.gate == Gate::Held && self.is_from_before_a_restore();
        self.state == State::Queued && self.desired == Desired::Run && !is_held
    }

    /// Counts against its slave's capacity. A job that the slave let go in the time that a restored master has forgotten does not.
    pub(super) fn takes_a_place(&self) -> bool {
        let was_let_go = self.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Restored);
        !(self.state == State::Uncertain && self.report.is_none() && was_let_go)
    }

    /// It could start on an idle slave now, and no person has tied it to another.
    fn is_lent(&self) -> bool {
        matches!(self.state, State::Assigned | State::Accepted)
            && self.wanted() == Desired::Run
            && self.start.gate == Gate::Open
            && self.start.not_before.is_none()
            && self.slave.is_none()
            && !self.has_begun()
    }

    /// A machine has begun it under its present attempt, and may have been interrupted since: it stays where it is.
    pub(super) fn has_begun(&self) -> bool {
        self.state.is_started() || self.report.as_ref().is_some_and(|report| report.started_at.is_some())
    }

    fn place(&self) -> Place {
        (Reverse(self.start.priority), self.id)
    }
}

/// Who goes first: the highest priority, then the oldest.
type Place = (Reverse<i32>, JobId);

/// Jobs that any slave with these labels can do, in order.
type ByRequirement = BTreeMap<BTreeMap<String, String>, BTreeSet<Place>>;

/// The book.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Book {
    /// Every job that has not ended.
    pub jobs: Live,
    /// What waits: by the slave that it is for, and the program; the cost of finding the next does not grow with the
    /// number of jobs.
    queued: BTreeMap<(Option<String>, String), ByRequirement>,
    /// What waits unstarted at a slave and could go to another, by program.
    lent: BTreeMap<String, ByRequirement>,
    /// What a slave has.
    held: BTreeMap<SlaveKey, BTreeSet<JobId>>,
    /// Latest starts of queued jobs.
    windows: BTreeSet<(Time, JobId)>,
    /// What needs a person, but for lapsed releases: whoever lists it must not look at every job.
    needing: BTreeSet<(Need, JobId)>,
    /// Until when jobs may start that were released and wait: past that they need a person again.
    releases: BTreeSet<(Time, JobId)>,
    /// How many there are of each state: whoever asks every few seconds must not cost what all jobs cost.
    counts: BTreeMap<State, usize>,
    /// Keys that the disk may not show yet.
    recent_keys: VecDeque<(IdempotencyKey, OrderId)>,
    /// The same, for finding.
    recent_orders: BTreeMap<String, ([u8; 32], OrderId)>,
    /// In memory for this step only.
    recalled: BTreeSet<JobId>,
    /// Orders, in memory for this step only.
    pub(super) orders: BTreeMap<OrderId, Order>,
}

impl Book {
    /// Takes up a live job from disk.
    pub(super) fn restore(&mut self, mut job: Job) {
        if job.desired == Desired::Return {
            // Written when a recall took the place of what the client wanted.
            job.desired = Desired::Run;
            job.recalled = job.recalled.or(Some(job.generation));
        }
        if !job.state.is_ended() {
            self.insert(job);
            self.jobs.pack();
        }
    }

    /// Takes up a job from disk for one step.
    pub(super) fn load(&mut self, job: Job) {
        if !self.jobs.contains_key(&job.id) {
            self.recalled.insert(job.id);
            self.insert(job);
        }
    }

    /// Lets go of what has ended.
    pub(super) fn archive(&mut self, touched: &BTreeSet<JobId>) -> Vec<Job> {
        let recalled = std::mem::take(&mut self.recalled);
        let ended = |id: &&JobId| self.jobs.get(id).is_some_and(|job| job.state.is_ended());
        let ids: BTreeSet<_> = touched.iter().chain(&recalled).filter(ended).copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    pub(super) fn insert(&mut self, job: Job) {
        self.index(&job);
        self.jobs.insert(job);
    }

    fn remove(&mut self, id: JobId) -> Option<Job> {
        let job = self.jobs.remove(&id)?;
        self.unindex(&job);
        Some(job)
    }

    /// Changes a job and what is derived from it; tells who had it before and who has it after.
    pub(super) fn edit<R>(
        &mut self,
        id: JobId,
        change: impl FnOnce(&mut Job) -> R,
    ) -> Option<([Option<SlaveKey>; 2], R)> {
        let mut job = self.remove(id)?;
        let before = job.holder;
        let result = change(&mut job);
        let after = job.holder;
        self.insert(job);
        Some(([before, after], result))
    }

    fn index(&mut self, job: &Job) {
        *self.counts.entry(job.state).or_default() += 1;
        if job.seeks_a_slave() {
            let key = (job.slave.clone(), job.spec.program.clone());
            let queue = self.queued.entry(key).or_default().entry(job.requires.clone()).or_default();
            queue.insert(job.place());
        }
        if let (State::Queued, Some(deadline)) = (job.state, job.start.deadline) {
            self.windows.insert((deadline, job.id));
        }
        if job.is_lent() {
            let queue = self.lent.entry(job.spec.program.clone()).or_default();
            queue.entry(job.requires.clone()).or_default().insert(job.place());
        }
        if let (false, Some(holder)) = (job.state.is_ended(), job.holder) {
            self.held.entry(holder).or_default().insert(job.id);
        }
        self.needing.extend(job.need().map(|need| (need, job.id)));
        self.releases.extend(job.released_until().map(|latest| (latest, job.id)));
    }

    fn unindex(&mut self, job: &Job) {
        if let Some(count) = self.counts.get_mut(&job.state) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&job.state);
            }
        }
        if job.seeks_a_slave() {
            let key = (job.slave.clone(), job.spec.program.clone());
            if let Some(queue) = self.queued.get_mut(&key) {
                forget(queue, &job.requires, job.place());
                if queue.is_empty() {
                    self.queued.remove(&key);
                }
            }
        }
        if let (State::Queued, Some(deadline)) = (job.state, job.start.deadline) {
            self.windows.remove(&(deadline, job.id));
        }
        if job.is_lent()
            && let Some(queue) = self.lent.get_mut(&job.spec.program)
        {
            forget(queue, &job.requires, job.place());
            if queue.is_empty() {
                self.lent.remove(&job.spec.program);
            }
        }
        if let (false, Some(holder)) = (job.state.is_ended(), job.holder)
            && let Some(held) = self.held.get_mut(&holder)
        {
            held.remove(&job.id);
            if held.is_empty() {
                self.held.remove(&holder);
            }
        }
        if let Some(need) = job.need() {
            self.needing.remove(&(need, job.id));
        }
        if let Some(latest) = job.released_until() {
            self.releases.remove(&(latest, job.id));
        }
    }

    /// How many jobs need a person.
    pub(super) fn count_needs(&self, now: Time) -> usize {
        self.needing.len() + self.lapsed(now).count()
    }

    /// The jobs that need a person, lapsed releases left out, in order from here on.
    pub(super) fn needing(&self, from: Option<(Need, JobId)>) -> impl Iterator<Item = (Need, JobId)> {
        let from = from.map_or(Bound::Unbounded, Bound::Included);
        self.needing.range((from, Bound::Unbounded)).copied()
    }

    /// The jobs whose release has lapsed.
    pub(super) fn lapsed(&self, now: Time) -> impl Iterator<Item = JobId> {
        self.releases.iter().take_while(move |(latest, _)| *latest < now).map(|(_, id)| *id)
    }

    /// How many jobs are in a state.
    pub fn count(&self, state: State) -> usize {
        self.counts.get(&state).copied().unwrap_or(0)
    }

    /// What a slave has, in order.
    pub fn held_by(&self, key: SlaveKey) -> impl Iterator<Item = &Job> {
        self.held.get(&key).into_iter().flatten().filter_map(|id| self.jobs.get_assigned(id))
    }

    /// The first of what waits for a slave of this name, program and labels.
    pub(super) fn first_queued(
        &self,
        name: &str,
        program: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Place> {
        [Some(name.to_owned()), None]
            .into_iter()
            .filter_map(|slave| self.queued.get(&(slave, program.to_owned())))
            .filter_map(|queue| first_fitting(queue, labels))
            .min()
    }

    /// The jobs that wait unstarted at slaves and could go to one of this program and labels, in order.
    pub(super) fn lent(
        &self,
        program: &str,
        labels: &BTreeMap<String, String>,
    ) -> impl Iterator<Item = JobId> {
        let fitting =
            self.lent.get(program).into_iter().flatten().filter(move |(requires, _)| fits(requires, labels));
        fitting.flat_map(|(_, places)| places.iter().map(|(_, id)| *id))
    }

    pub(super) fn next_window(&self) -> Option<Time> {
        self.windows.first().map(|(at, _)| *at)
    }

    pub(super) fn closed_window(&self, now: Time) -> Option<JobId> {
        self.windows.first().filter(|(at, _)| *at < now).map(|(_, id)| *id)
    }

    /// An order that was placed with this key a moment ago.
    pub(super) fn recent(&self, key: &str) -> Option<(OrderId, [u8; 32])> {
        self.recent_orders.get(key).map(|(fingerprint, order)| (*order, *fingerprint))
    }

    pub(super) fn remember(&mut self, key: IdempotencyKey, order: OrderId) {
        self.recent_orders.insert(key.key.clone(), (key.fingerprint, order));
        self.recent_keys.push_back((key, order));
        if self.recent_keys.len() > RECENT_KEYS
            && let Some((old, _)) = self.recent_keys.pop_front()
        {
            self.recent_orders.remove(&old.key);
        }
    }

    pub(super) fn broken_invariant(&self) -> Option<&'static str> {
        let mut again = Self::default();
        for job in self.jobs.values() {
            again.index(&job);
        }
        let same = again.queued == self.queued
            && again.lent == self.lent
            && again.held == self.held
            && again.windows == self.windows
            && again.needing == self.needing
            && again.releases == self.releases
            && again.counts == self.counts;
        (!same).then_some("what is derived from the jobs is derived from the jobs")
    }
}

/// A report without what the next one brings anyway.
pub(super) fn durable_report(report: &Report) -> Report {
    let seq = ReportSeq { count: 0, ..report.seq };
    Report { progress: None, note: None, waiting_for: None, seq, ..report.clone() }
}

fn forget(queue: &mut ByRequirement, requires: &BTreeMap<String, String>, place: Place) {
    if let Some(places) = queue.get_mut(requires) {
        places.remove(&place);
        if places.is_empty() {
            queue.remove(requires);
        }
    }
}

fn first_fitting(queue: &ByRequirement, labels: &BTreeMap<String, String>) -> Option<Place> {
    queue
        .iter()
        .filter(|(requires, _)| fits(requires, labels))
        .filter_map(|(_, places)| places.first().copied())
        .min()
}

/// A slave with these labels has everything that is required.
pub(super) fn fits(requires: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    requires.iter().all(|(key, value)| labels.get(key) == Some(value))
}

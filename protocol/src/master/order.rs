//! An order, and a job of it, as the master keeps them.

use super::{AgentStart, JobReason, SlaveRecord};
use crate::id::{Attempt, Generation, JobId, OrderId, ReportSeq, SlaveKey};
use crate::job::State;
use crate::message::{Flags, Reason, ReasonCode, Report};
use crate::slave::LinkId;
use crate::spec::{Desired, DesiredState, Gate, Spec, SpecDigest, StartRule};
use crate::time::{Millis, Time};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// How many events of a job are kept: the first one and the newest.
const JOB_EVENTS: usize = 64;

/// How long the first retry waits, by default: long enough that a slave that fails at once costs little, and short enough for a cause
/// that passes.
pub const RETRY_BACKOFF: Millis = Millis::seconds(10);

/// Each retry waits twice as long as the one before, and no longer than this, unless the order's first wait is longer.
pub const MAX_RETRY_BACKOFF: Millis = Millis::seconds(600);

/// How many slaves may reject a job before it counts as rejected by all: each is asked in turn and is written down with the job, and a
/// job that no slave of so many takes is itself at fault.
pub const REJECTIONS: usize = 128;

/// Of how many rejections, the newest, the reason is kept.
const REASONS: usize = 16;

/// How many assignments of a job are remembered: as many as other attempts are kept.
const ASSIGNMENTS: usize = 16;

/// A client's order, as it was placed, or as it was rebuilt from jobs that were taken over from slaves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    pub id: OrderId,
    /// When it was placed.
    pub created_at: Time,
    /// Its jobs, all with the same work and the same start rule at first.
    pub jobs: Vec<JobId>,
    pub spec: Spec,
    /// The name of the only slave that may do it.
    pub slave: Option<String>,
    /// Labels that a slave must have to be assigned it.
    pub requires: BTreeMap<String, String>,
    pub start: StartRule,
    pub retry: Retry,
    /// The client's own id for the order.
    pub external_id: Option<String>,
    /// Labels that the client put on the order; Reloop only shows them.
    pub labels: BTreeMap<String, String>,
    /// How long the first retry waits; each one waits twice as long as the one before, to at most [`MAX_RETRY_BACKOFF`].
    pub retry_backoff: Millis,
}

/// When a job is queued again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Retry {
    /// How many attempts there may be in all.
    pub max_attempts: u32,
    /// The ends after which it is queued again.
    pub on: BTreeSet<RetryOn>,
}

/// An end after which a job may be queued again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RetryOn {
    Failed,
    Rejected,
}

/// A job as the master keeps it, with the attempt that speaks for it and the others beside it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub spec: Spec,
    /// The digest of `spec`.
    pub digest: SpecDigest,
    /// The name of the only slave that may do it.
    pub slave: Option<String>,
    /// Labels that a slave must have to be assigned it.
    pub requires: BTreeMap<String, String>,
    pub start: StartRule,
    pub retry: Retry,
    /// When its order was placed.
    pub created_at: Time,
    /// The state of the attempt that speaks; `Queued` while there is none.
    pub state: State,
    /// What clients and operators want of it. What a slave is told also depends on `recalled`: see [`Job::wanted`].
    pub desired: Desired,
    /// The number of the newest desired state; raised with each.
    pub generation: Generation,
    /// The generation with which it was recalled from its slave; `None` once the slave has given it back or begun it.
    pub recalled: Option<Generation>,
    /// The attempt that speaks for the job.
    pub attempt: Attempt,
    /// The highest attempt so far.
    pub last_attempt: Attempt,
    /// The slave that the attempt was assigned to; `None` while the job is queued.
    pub holder: Option<SlaveKey>,
    /// The newest report of the attempt that speaks.
    pub report: Option<Report>,
    /// When that report came; lost with the process.
    pub heard_at: Option<Time>,
    /// The connection on which it came. Only there does a report with a lower `seq` count as older: another connection may be that of
    /// a slave whose store was replaced.
    #[serde(skip)]
    pub heard_on: Option<LinkId>,
    /// Attempts beside the one that speaks, at most 16.
    pub others: Vec<OtherAttempt>,
    /// Which attempt was assigned to which slave, newest last: reports of other attempts are claims.
    pub assigned: VecDeque<(Attempt, SlaveKey)>,
    /// Why it is in its state, if the master knows and no report says it.
    pub reason: Option<Reason>,
    /// The flags that the master sets; [`Job::all_flags`] adds those of the report.
    pub flags: Flags,
    pub ended_at: Option<Time>,
    /// Raised with every durable change.
    pub revision: u32,
    /// Its changes of state, oldest first; at most 64 are kept.
    pub events: VecDeque<JobEvent>,
    /// How long the first retry waits: see [`Order::retry_backoff`].
    pub retry_backoff: Millis,
    /// How often the order's retry has queued it again.
    pub retries: u32,
    /// Until when it waits in the queue after a retry; `None` if it does not, or a person has let it go.
    pub retry_at: Option<Time>,
    /// Which slaves have rejected it, oldest first; at most [`REJECTIONS`], the newest with their reasons.
    pub rejected_by: Vec<RejectedBy>,
}

/// A slave has said that it can't do a job, whenever it is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct RejectedBy {
    pub attempt: Attempt,
    /// Who said so, and under which start of its agent: a later one may have another config.
    pub by: (SlaveKey, AgentStart),
    pub at: Time,
    /// In its words.
    pub reason: Option<Reason>,
    /// The job was tried again since, so the slave may be asked again.
    pub is_over: bool,
}

/// An attempt that does not speak for the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OtherAttempt {
    pub attempt: Attempt,
    /// The slave that reported it, or that it was assigned to.
    pub holder: SlaveKey,
    /// Its state by the job table, after its slave's newest report.
    pub state: State,
    /// Its newest report, with texts cut short.
    pub report: Option<Report>,
    pub basis: Basis,
}

/// Why a slave's report of an attempt is believed, or not. The order matters: a better basis is lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Basis {
    /// The master assigned this attempt to this slave.
    Assigned,
    /// The master may have assigned it to this slave and forgotten that: the slave told of it in its first handshake with a restored
    /// master, or with one that had taken the job over from a slave; or it has the job by the book and names a later attempt.
    Gap,
    /// Only the slave says so. It is shown to people, and nothing follows from it for the job.
    Claim,
}

/// One change of a job's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct JobEvent {
    /// When the master recorded it.
    pub at: Time,
    /// When it happened, if a slave said.
    pub observed_at: Option<Time>,
    /// The state that it changed to.
    pub state: State,
    /// The attempt that spoke for the job then.
    pub attempt: Attempt,
    /// Who caused it: a slave's name, `client`, `operator`, `master`, or a rule in a few words.
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
            others: Vec::new(),
            assigned: VecDeque::new(),
            reason: None,
            flags: Flags::default(),
            ended_at: None,
            revision: 0,
            events: VecDeque::new(),
            retry_backoff: order.retry_backoff,
            retries: 0,
            retry_at: None,
            rejected_by: Vec::new(),
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
            requires: if with_spec { self.requires.clone() } else { BTreeMap::new() },
            desired: self.wanted(),
            start: self.start,
        }
    }

    /// What is wanted of the slave that has it: to give it back, if it was recalled and nobody has canceled it since, or what
    /// clients and operators want.
    pub fn wanted(&self) -> Desired {
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

    /// It was recalled, and its slave has not spoken of it since: it may have let it go, and its word of that may have been
    /// lost.
    pub(super) fn is_recall_unanswered(&self) -> bool {
        // Each desired state that the slave is told after the recall asks for the job again.
        let has_answered = self.report.as_ref().is_some_and(|report| report.generation >= self.generation);
        self.recalled.is_some() && !has_answered
    }

    /// This attempt is that slave's.
    pub(super) fn assign(&mut self, attempt: Attempt, holder: SlaveKey) {
        self.remember(attempt, holder);
        // What was claimed of it before is now what speaks for the job.
        self.others.retain(|other| (other.attempt, other.holder) != (attempt, holder));
        self.clear_flag_without_claims();
        self.attempt = attempt;
        self.holder = Some(holder);
        // What is known of the attempt before is no word of this one.
        (self.heard_at, self.heard_on, self.recalled) = (None, None, None);
        self.retry_at = None;
    }

    /// It is queued again, and waits until it is tried.
    pub(super) fn waits_for_retry(&self, now: Time) -> bool {
        self.state == State::Queued && self.retry_at.is_some_and(|at| at > now)
    }

    /// How long the next retry waits.
    pub(super) fn backoff(&self) -> Millis {
        let times = 1_u64.checked_shl(self.retries).unwrap_or(u64::MAX);
        let doubled = Millis(self.retry_backoff.0.saturating_mul(times));
        doubled.min(MAX_RETRY_BACKOFF.max(self.retry_backoff))
    }

    /// This slave has rejected it, under the config that it still has.
    pub(super) fn is_rejected_by(&self, slave: &SlaveRecord) -> bool {
        self.rejection_of(slave).is_some()
    }

    /// Its word, if this slave has rejected it.
    pub(crate) fn rejection_of(&self, slave: &SlaveRecord) -> Option<&RejectedBy> {
        let by = slave.agent_start().map(|start| (slave.key, start));
        self.rejected_by.iter().rfind(|rejection| Some(rejection.by) == by && !rejection.is_over)
    }

    /// A slave has rejected it. However often its agent is restarted, it is one slave.
    pub(super) fn note_rejection(&mut self, rejection: RejectedBy) {
        self.rejected_by.retain(|known| known.is_over || known.by.0 != rejection.by.0);
        self.rejected_by.push(rejection);
        let mut newer = self.rejected_by.len();
        self.rejected_by.retain_mut(|known| {
            newer -= 1;
            if newer >= REASONS {
                known.reason = None;
            }
            newer < REASONS || newer < REJECTIONS && !known.is_over
        });
    }

    /// It is tried again: whoever has rejected it may be asked again.
    pub(super) fn forgive(&mut self) {
        self.rejected_by.iter_mut().for_each(|rejection| rejection.is_over = true);
    }

    /// Who has rejected it and is not asked again.
    pub(super) fn who_rejects(&self) -> impl Iterator<Item = (SlaveKey, AgentStart)> {
        self.rejected_by.iter().filter(|rejection| !rejection.is_over).map(|rejection| rejection.by)
    }

    /// An attempt of it failed at this slave.
    pub(super) fn has_failed_at(&self, key: SlaveKey) -> bool {
        self.others.iter().any(|other| other.holder == key && other.state == State::Failed)
    }

    /// Clears the flag `claimed` once no claim is left.
    pub(super) fn clear_flag_without_claims(&mut self) {
        if !self.others.iter().any(|other| other.basis == Basis::Claim) {
            self.flags.clear(Flags::CLAIMED);
        }
    }

    /// This attempt, of this slave, is the one that speaks for the job.
    pub(super) fn is_current(&self, holder: SlaveKey, attempt: Attempt) -> bool {
        self.attempt == attempt && self.holder == Some(holder)
    }

    /// This attempt was that slave's, whichever speaks for the job.
    pub(super) fn remember(&mut self, attempt: Attempt, holder: SlaveKey) {
        self.last_attempt = self.last_attempt.max(attempt);
        if self.assigned.contains(&(attempt, holder)) {
            return;
        }
        self.assigned.push_back((attempt, holder));
        if self.assigned.len() > ASSIGNMENTS {
            self.assigned.pop_front();
        }
    }

    /// This attempt was assigned to that slave; of those that are too old to be remembered, to a slave that has had the job since.
    pub(super) fn was_assigned(&self, attempt: Attempt, holder: SlaveKey) -> bool {
        let is_forgotten =
            self.assigned.len() == ASSIGNMENTS && self.assigned.front().is_some_and(|(a, _)| attempt < *a);
        self.assigned.contains(&(attempt, holder))
            || is_forgotten && self.assigned.iter().any(|(_, key)| *key == holder)
    }

    /// Holds the job until a person releases it: in the time that the restored master has forgotten a slave may have done it.
    pub(super) fn hold_after_restore(&mut self) {
        self.start.gate = Gate::Held;
        self.flags.set(Flags::RESTORED);
        self.generation = self.generation.next();
        self.reason = Some(JobReason::HeldByRestore.into());
    }

    /// Whether clients want it canceled now.
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

    /// The master's flags and those of the report.
    pub fn all_flags(&self) -> Flags {
        let mut flags = self.flags;
        if let Some(report) = &self.report {
            flags.set(report.flags);
        }
        flags
    }

    /// Its latest start has passed.
    pub(super) fn is_too_late(&self, now: Time) -> bool {
        self.start.deadline.is_some_and(|deadline| deadline < now)
    }

    /// Its slave let it go in the time that a restored master has forgotten.
    pub(super) fn was_let_go(&self) -> bool {
        let says_so = self.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Restored);
        self.state == State::Uncertain && self.report.is_none() && says_so
    }

    /// Until when it may start, by its order and by a release.
    pub(super) fn latest_start(&self) -> Option<Time> {
        let released = match self.start.gate {
            Gate::Released { latest } => Some(latest),
            Gate::Open | Gate::Held => None,
        };
        self.start.deadline.into_iter().chain(released).min()
    }

    /// A machine has begun it under its present attempt, and may have been interrupted since: it stays where it is.
    pub(super) fn has_begun(&self) -> bool {
        self.state.is_started() || self.report.as_ref().is_some_and(Report::has_begun)
    }
}

/// A report without what the next one brings anyway.
pub(super) fn durable_report(report: &Report) -> Report {
    let seq = ReportSeq { count: 0, ..report.seq };
    Report { progress: None, note: None, waiting_for: None, seq, ..report.clone() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::id::Run;
    use crate::job::OnInterrupt;
    use crate::message::Source;
    use crate::spec::OnOverdue;

    fn key(slave: u8) -> SlaveKey {
        SlaveKey([slave; 32])
    }

    /// A job that waits for its first slave.
    pub(crate) fn job(number: u64) -> Job {
        let id = OrderId::from_parts(number, 1);
        let spec = Spec {
            order: id,
            name: None,
            program: "mill".to_owned(),
            params: BTreeMap::from([("file".to_owned(), "bracket-7.nc".to_owned())]),
            max_runtime: None,
            on_overdue: OnOverdue::Flag,
            on_interrupt: OnInterrupt::Hold,
        };
        let order = Order {
            id,
            created_at: Time(1_800_000_000_000),
            jobs: vec![JobId::from_parts(number, 2)],
            spec,
            slave: None,
            requires: BTreeMap::new(),
            start: StartRule::default(),
            retry: Retry { max_attempts: 1, on: BTreeSet::new() },
            external_id: None,
            labels: BTreeMap::new(),
            retry_backoff: RETRY_BACKOFF,
        };
        let mut job = Job::new(order.jobs[0], &order);
        job.enter(State::Queued, order.created_at, "client");
        job
    }

    /// The same after its slave has taken it.
    pub(crate) fn accepted() -> Job {
        let mut job = job(1);
        job.assign(Attempt(1), key(1));
        job.state = State::Accepted;
        job.report = Some(Report {
            job: job.id,
            attempt: job.attempt,
            run: Run(0),
            generation: job.generation,
            seq: ReportSeq::default(),
            state: State::Accepted,
            waiting_for: None,
            progress: None,
            note: None,
            accepted_at: Time(2),
            started_at: None,
            started_generation: None,
            ended_at: None,
            outcome: None,
            reason: None,
            flags: Flags::default(),
            source: Source::Remote,
        });
        job
    }

    #[test]
    fn what_a_slave_is_starting_has_begun_before_it_says_so() {
        let mut job = accepted();
        assert!(!job.has_begun());
        job.state = State::Starting;
        assert!(job.has_begun());
    }

    #[test]
    fn an_attempt_that_is_too_old_to_be_remembered_is_any_slaves_that_has_had_the_job_since() {
        let mut job = job(1);
        job.remember(Attempt(3), key(3));
        assert!(job.was_assigned(Attempt(3), key(3)));
        assert!(!job.was_assigned(Attempt(2), key(3)), "none is forgotten yet");
        for attempt in 4..=20 {
            job.remember(Attempt(attempt), key(attempt as u8 % 2));
        }
        // The oldest that is remembered is the fifth.
        assert!(job.was_assigned(Attempt(4), key(0)) && job.was_assigned(Attempt(1), key(1)));
        assert!(job.was_assigned(Attempt(5), key(1)) && !job.was_assigned(Attempt(5), key(0)));
        assert!(!job.was_assigned(Attempt(4), key(9)), "it never had the job");
    }

    #[test]
    fn the_flag_claimed_stays_as_long_as_there_is_a_claim() {
        let mut job = job(1);
        job.flags.set(Flags::CLAIMED);
        let with = |basis| OtherAttempt {
            attempt: Attempt(1),
            holder: key(1),
            state: State::Running,
            report: None,
            basis,
        };
        job.others = vec![with(Basis::Assigned), with(Basis::Claim)];
        job.clear_flag_without_claims();
        assert!(job.flags.has(Flags::CLAIMED));
        job.others.pop();
        job.clear_flag_without_claims();
        assert!(!job.flags.has(Flags::CLAIMED));
    }
}

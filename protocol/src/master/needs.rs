//! What needs a person: why, what would end it, and what is at risk in doing so.
//!
//! Slaves are looked through, for there are as many as there are machines. Jobs are found in the book's index, so that
//! the list costs what it shows and not what all jobs cost.

use super::{Enrolled, Job, Master, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::job::State;
use crate::message::{Attention, Flags, Reason, ReasonCode, WaitingFor};
use crate::spec::{CancelMode, Desired, Gate, Late};
use crate::time::Time;

/// Why a person is needed, the most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Need {
    /// A slave has seen a later state of this master.
    Doubts,
    /// Another box came with a slave's key.
    Cloned,
    /// Something at the machine has to be looked at.
    Attention,
    /// Nobody knows how the job ended.
    Uncertain,
    /// The slave waits to hear how an attempt ended that the master has given up.
    Unresolved,
    /// The work that the slave holds is not the work that the master means.
    Mismatch,
    /// The job's start was missed, and its order says that a person has to release it.
    MissedStart,
    /// The machine has finished, and nobody has confirmed that it is clear.
    Unloading,
    /// The job runs longer than its order allows.
    Overdue,
    /// A key waits to be enrolled.
    Approval,
    /// The job was held when the master was restored: a slave may have done it.
    Restored,
    /// The job was released for a start that is over.
    ReleaseLapsed,
    /// The job's order says that it waits for a release.
    Held,
    /// A person at the machine has locked remote starts out.
    LocalLock,
}

impl Need {
    /// Every need, the most urgent first.
    pub const ALL: [Self; 14] = [
        Self::Doubts,
        Self::Cloned,
        Self::Attention,
        Self::Uncertain,
        Self::Unresolved,
        Self::Mismatch,
        Self::MissedStart,
        Self::Unloading,
        Self::Overdue,
        Self::Approval,
        Self::Restored,
        Self::ReleaseLapsed,
        Self::Held,
        Self::LocalLock,
    ];

    /// The word that people and programs see.
    pub fn name(self) -> &'static str {
        match self {
            Self::Doubts => "doubts",
            Self::Cloned => "cloned",
            Self::Attention => "attention",
            Self::Uncertain => "uncertain",
            Self::Unresolved => "unresolved",
            Self::Mismatch => "mismatch",
            Self::MissedStart => "missed_start",
            Self::Unloading => "unloading",
            Self::Overdue => "overdue",
            Self::Approval => "approval",
            Self::Restored => "restored",
            Self::ReleaseLapsed => "release_lapsed",
            Self::Held => "held",
            Self::LocalLock => "local_lock",
        }
    }

    /// The need of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|need| need.name() == name)
    }
}

/// Who or what needs a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    Slave(SlaveKey),
    Job(JobId),
}

/// One thing that needs a person. [`Needed::text`] says why, [`Needed::command`] what would end it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needed {
    pub need: Need,
    pub subject: Subject,
    /// The slave that it is about or that has the job.
    pub slave: Option<SlaveKey>,
    /// The slave's name; empty without a slave.
    pub name: String,
    /// The job that it is about. Of a slave that waits to hear how an attempt ended, that attempt's job.
    pub job: Option<JobId>,
    /// What the slave's machine needs.
    pub attention: Option<Attention>,
    /// Of a held job that its slave does not start: what the slave says of it.
    pub why: Option<String>,
    /// The slave is offline, so what it said may be out of date.
    pub is_offline: bool,
    /// The job is paused too, and has not started.
    pub is_paused: bool,
    /// The job was canceled. Of an overdue one: its slave has heard that, and it goes on.
    pub is_canceled: bool,
}

impl Job {
    /// Why it needs a person, as far as that can be told without a clock: whether a release has lapsed cannot.
    pub fn need(&self) -> Option<Need> {
        let said = self.report.as_ref().and_then(|report| report.reason.as_ref()).map(|reason| reason.code);
        match self.state {
            // Somebody has answered, and its slave is still to be told.
            State::Uncertain if matches!(self.desired, Desired::Resolve(_)) => None,
            State::Uncertain => Some(Need::Uncertain),
            State::Starting | State::Running | State::Paused | State::Stopping => {
                let is_answered = match self.desired {
                    Desired::Cancel(CancelMode::Now) => true,
                    Desired::Cancel(_) => !self.slave_knows(),
                    Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => false,
                };
                (self.all_flags().has(Flags::OVERDUE) && !is_answered).then_some(Need::Overdue)
            }
            State::Queued | State::Assigned | State::Accepted if self.is_canceled() => None,
            State::Accepted if said == Some(ReasonCode::DigestMismatch) => Some(Need::Mismatch),
            State::Queued | State::Assigned | State::Accepted => match self.start.gate {
                Gate::Held if self.is_from_before_a_restore() => Some(Need::Restored),
                Gate::Held if self.is_release_lapsed() => Some(Need::ReleaseLapsed),
                Gate::Held => Some(Need::Held),
                Gate::Open
                    if self.state == State::Accepted
                        && self.start.late == Late::Hold
                        && said == Some(ReasonCode::MissedStart)
                        && self.slave_knows() =>
                {
                    Some(Need::MissedStart)
                }
                Gate::Open | Gate::Released { .. } if !self.slave_asks() => None,
                // Its slave was told so by a master that has forgotten it since, or the release was for an earlier start.
                Gate::Open | Gate::Released { .. } => match said {
                    Some(ReasonCode::ReleaseLapsed) => Some(Need::ReleaseLapsed),
                    Some(ReasonCode::PausedLocally) => None,
                    _ => Some(Need::Held),
                },
            },
            State::Succeeded
            | State::Failed
            | State::Canceled
            | State::Rejected
            | State::Expired
            | State::Lost => None,
        }
    }

    /// Its slave has heard all that is wanted of it.
    fn slave_knows(&self) -> bool {
        self.report.as_ref().is_some_and(|report| report.generation >= self.generation)
    }

    /// Its slave does not start it before a person says so, and knows all that is wanted of it.
    fn slave_asks(&self) -> bool {
        let waiting_for = self.report.as_ref().and_then(|report| report.waiting_for);
        self.state == State::Accepted
            && self.desired == Desired::Run
            && waiting_for == Some(WaitingFor::Operator)
            && self.slave_knows()
    }

    /// The reason that its slave gives for the state in which it has it.
    fn said_why(&self) -> Option<String> {
        self.report.as_ref().and_then(|report| report.reason.as_ref()).map(|reason| reason.text.clone())
    }

    /// Until when it may start by a person's word, while it has not: after that it needs another one.
    pub(super) fn released_until(&self) -> Option<Time> {
        match self.start.gate {
            Gate::Released { latest } if self.need().is_none() && !self.is_canceled() => {
                let waits = matches!(self.state, State::Queued | State::Assigned | State::Accepted);
                waits.then_some(latest)
            }
            Gate::Open | Gate::Held | Gate::Released { .. } => None,
        }
    }

    /// A person released it while it was queued, and no slave could begin it in time.
    pub(super) fn is_release_lapsed(&self) -> bool {
        let says = |reason: &Reason| reason.code == ReasonCode::ReleaseLapsed;
        self.state == State::Queued && self.reason.as_ref().is_some_and(says)
    }

    /// The master was restored while it waited, and nobody has said since what became of it.
    pub(super) fn is_from_before_a_restore(&self) -> bool {
        self.flags.has(Flags::RESTORED)
    }
}

/// How many things need a person.
pub fn count_needs(state: &Master, now: Time) -> usize {
    let slaves: usize = state.slaves.values().map(|slave| of_slave(state, slave).count()).sum();
    slaves + state.book.index.count_needs(now)
}

/// What needs a person, the most urgent first and then by id: the first `limit` after the one of the cursor.
pub fn needs(state: &Master, now: Time, after: Option<(Need, Subject)>, limit: usize) -> Vec<Needed> {
    let slaves = state
        .slaves
        .values()
        .flat_map(|slave| of_slave(state, slave).map(|need| (need, Subject::Slave(slave.key))));
    let jobs = |(need, id): (Need, JobId)| (need, Subject::Job(id));
    let lapsed = state.book.index.lapsed(now).filter_map(|id| Some((lapsed_need(state, id)?, id))).map(jobs);
    let is_next = |found: &(Need, Subject)| after.is_none_or(|after| *found > after);
    let mut found: Vec<_> = slaves.chain(lapsed).filter(is_next).collect();
    let first = after.map(|(need, subject)| match subject {
        // Jobs come after the slaves of the same need.
        Subject::Slave(_) => (need, JobId([0; 16])),
        Subject::Job(id) => (need, id),
    });
    found.extend(state.book.index.needing(first).map(jobs).filter(is_next).take(limit));
    found.sort_unstable();
    found.truncate(limit);
    found.into_iter().filter_map(|(need, subject)| describe(state, need, subject)).collect()
}

fn lapsed_need(state: &Master, id: JobId) -> Option<Need> {
    let job = state.book.jobs.get(&id)?;
    Some(if job.is_from_before_a_restore() { Need::Restored } else { Need::ReleaseLapsed })
}

fn of_slave(state: &Master, slave: &SlaveRecord) -> impl Iterator<Item = Need> {
    let machine = slave.machine.as_ref();
    let belongs = slave.enrolled == Enrolled::Yes;
    // A slave that doubts the master answers nothing before a person has confirmed the restore.
    let obeys = belongs && !slave.doubts;
    // A job that is uncertain itself is listed as that. One that is not in memory is found on disk by the command. A slave that is
    // offline cannot be told, and asks again when it is back.
    let unresolved = machine.and_then(|machine| machine.uncertain).is_some_and(|id| {
        let asks =
            |job: &Job| job.unresolved().any(|asked| asked.holder == slave.key && asked.said().is_none());
        state.book.jobs.get(&id).is_none_or(|job| asks(&job))
    });
    let needs = [
        (belongs && slave.doubts, Need::Doubts),
        (belongs && slave.cloned_at.is_some(), Need::Cloned),
        (obeys && machine.is_some_and(|machine| machine.attention.is_some()), Need::Attention),
        (obeys && slave.live().is_some() && unresolved, Need::Unresolved),
        (obeys && machine.is_some_and(|machine| machine.unloading.is_some()), Need::Unloading),
        (slave.enrolled == Enrolled::Pending, Need::Approval),
        (belongs && machine.is_some_and(|machine| machine.local_lock), Need::LocalLock),
    ];
    needs.into_iter().filter(|(holds, _)| *holds).map(|(_, need)| need)
}

fn describe(state: &Master, need: Need, subject: Subject) -> Option<Needed> {
    let job = match subject {
        Subject::Slave(_) => None,
        Subject::Job(id) => Some(state.book.jobs.get(&id)?),
    };
    let key = match subject {
        Subject::Slave(key) => Some(key),
        Subject::Job(_) => job.as_ref().and_then(|job| job.holder),
    };
    let slave = key.and_then(|key| state.slaves.get(&key));
    let machine = slave.and_then(|slave| slave.machine.as_ref());
    Some(Needed {
        need,
        subject,
        slave: key,
        name: slave.map_or_else(String::new, |slave| slave.name.clone()),
        job: match subject {
            Subject::Slave(_) => machine.and_then(|machine| machine.uncertain),
            Subject::Job(id) => Some(id),
        },
        attention: machine.and_then(|machine| machine.attention),
        why: job.as_ref().filter(|job| need == Need::Held && job.slave_asks()).and_then(|job| job.said_why()),
        is_offline: slave.is_some_and(|slave| slave.live().is_none()),
        is_paused: job.as_ref().is_some_and(|job| job.desired == Desired::Pause && !job.state.is_started()),
        is_canceled: job.is_some_and(|job| job.is_canceled()),
    })
}

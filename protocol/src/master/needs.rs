//! What needs a person: why, what would end it, and what is at risk in doing so.
//!
//! Slaves are looked through, for there are as many as there are machines. Jobs are found in the book's index, so that
//! the list costs what it shows and not what all jobs cost.

use super::{Enrolled, Job, Master, SlaveRecord};
use crate::id::{JobId, SlaveKey};
use crate::job::State;
use crate::message::{Attention, Flags, ReasonCode};
use crate::spec::{Desired, Gate, Late};
use crate::time::Time;

/// What `resolve` takes.
const RESOLUTIONS: &str = "succeeded|failed|canceled";

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

    /// The command that ends it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Doubts => "restore confirm",
            Self::Cloned | Self::Attention => "clear",
            Self::Uncertain | Self::Unresolved => "resolve",
            Self::Mismatch | Self::Overdue => "cancel",
            Self::Unloading => "ready",
            Self::Approval => "approve",
            Self::MissedStart | Self::Restored | Self::ReleaseLapsed | Self::Held => "release",
            Self::LocalLock => "local off",
        }
    }

    /// What can go wrong by that, and what else could be done.
    pub fn risk(self) -> &'static str {
        match self {
            Self::Doubts => "if another copy of this master still runs, both hand out the same orders",
            Self::Cloned => "the other box comes again until it has a key of its own",
            Self::Attention => "the machine may start its next job at once",
            Self::Uncertain | Self::Unresolved => {
                "the machine may have done all of it, a part or nothing: look first; a `retry` afterwards begins anew"
            }
            Self::Mismatch => "it ends without having started; order the work again if it is still wanted",
            Self::MissedStart => {
                "it starts as soon as its machine is ready, later than planned; `reschedule` plans another time"
            }
            Self::Unloading => "the machine may start its next job at once: it has to be clear",
            Self::Overdue => "the machine stops in the middle of its work; without it the job goes on",
            Self::Approval => {
                "whoever has this key gets work from here on: compare it with what `reloop-slave check` shows there"
            }
            Self::Restored => {
                "a slave that has not been back since the restore may have done it: then it is done twice"
            }
            Self::ReleaseLapsed | Self::Held => "it starts as soon as a machine is ready for it",
            Self::LocalLock => "somebody may be working at the machine: only people there can know",
        }
    }
}

/// Who or what needs a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// A slave.
    Slave(SlaveKey),
    /// A job.
    Job(JobId),
}

/// One thing that needs a person.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Needed {
    /// Why.
    pub need: Need,
    /// Who or what.
    pub subject: Subject,
    /// The slave that it is about or that has the job.
    pub slave: Option<SlaveKey>,
    /// Why, in words, with the last word of the slave marked as such where it is offline.
    pub text: String,
    /// The whole command that ends it.
    pub command: String,
}

impl Job {
    /// Why it needs a person, as far as that can be told without a clock: whether a release has lapsed cannot.
    pub fn need(&self) -> Option<Need> {
        let said = self.report.as_ref().and_then(|report| report.reason.as_ref()).map(|reason| reason.code);
        match self.state {
            State::Uncertain => Some(Need::Uncertain),
            State::Starting | State::Running | State::Paused | State::Stopping => {
                self.all_flags().has(Flags::OVERDUE).then_some(Need::Overdue)
            }
            State::Queued | State::Assigned | State::Accepted if self.is_canceled() => None,
            State::Accepted if said == Some(ReasonCode::DigestMismatch) => Some(Need::Mismatch),
            State::Queued | State::Assigned | State::Accepted => match self.start.gate {
                Gate::Held if self.is_from_before_a_restore() => Some(Need::Restored),
                Gate::Held => Some(Need::Held),
                Gate::Released { .. } => None,
                Gate::Open => {
                    let is_missed = self.state == State::Accepted
                        && self.start.late == Late::Hold
                        && said == Some(ReasonCode::MissedStart);
                    is_missed.then_some(Need::MissedStart)
                }
            },
            State::Succeeded
            | State::Failed
            | State::Canceled
            | State::Rejected
            | State::Expired
            | State::Lost => None,
        }
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

    /// The master was restored while it waited, and nobody has said since what became of it.
    pub(super) fn is_from_before_a_restore(&self) -> bool {
        self.flags.has(Flags::RESTORED)
    }
}

/// How many things need a person.
pub fn count_needs(state: &Master, now: Time) -> usize {
    let slaves: usize = state.slaves.values().map(|slave| of_slave(state, slave).count()).sum();
    slaves + state.book.count_needs(now)
}

/// What needs a person, the most urgent first and then by id: the first `limit` after the one of the cursor.
pub fn needs(state: &Master, now: Time, after: Option<(Need, Subject)>, limit: usize) -> Vec<Needed> {
    let slaves = state
        .slaves
        .values()
        .flat_map(|slave| of_slave(state, slave).map(|need| (need, Subject::Slave(slave.key))));
    let jobs = |(need, id): (Need, JobId)| (need, Subject::Job(id));
    let lapsed = state.book.lapsed(now).filter_map(|id| Some((lapsed_need(state, id)?, id))).map(jobs);
    let is_next = |found: &(Need, Subject)| after.is_none_or(|after| *found > after);
    let mut found: Vec<_> = slaves.chain(lapsed).filter(is_next).collect();
    let first = after.map(|(need, subject)| match subject {
        // Jobs come after the slaves of the same need.
        Subject::Slave(_) => (need, JobId([0; 16])),
        Subject::Job(id) => (need, id),
    });
    found.extend(state.book.needing(first).map(jobs).filter(is_next).take(limit));
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
    // A job that is uncertain here too is listed as that.
    let unresolved = machine.and_then(|machine| machine.uncertain).is_some_and(|id| {
        let job = state.book.jobs.get(&id);
        job.is_none_or(|job| job.state != State::Uncertain || job.holder != Some(slave.key))
    });
    let needs = [
        (belongs && slave.doubts, Need::Doubts),
        (belongs && slave.cloned_at.is_some(), Need::Cloned),
        (belongs && machine.is_some_and(|machine| machine.attention.is_some()), Need::Attention),
        (belongs && unresolved, Need::Unresolved),
        (belongs && machine.is_some_and(|machine| machine.unloading.is_some()), Need::Unloading),
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
    let about = match subject {
        Subject::Slave(_) => slave.map_or_else(String::new, called),
        Subject::Job(id) => id.to_string(),
    };
    let action = need.action();
    let of_slave = || format!("reloop slave {action} {about}");
    let of_job = || format!("reloop job {action} {about}");
    let last_word = |text: &str| by_last_word(text, slave);
    let (text, command) = match need {
        Need::Doubts => (
            "it has seen a later state of this master and obeys nothing".to_owned(),
            format!("reloop {action}"),
        ),
        Need::Cloned => {
            ("another box came with its key: give that one a key of its own".to_owned(), of_slave())
        }
        Need::Attention => {
            let attention = machine.and_then(|machine| machine.attention);
            (last_word(attention.map_or("something there needs a look", Attention::advice)), of_slave())
        }
        Need::Uncertain => {
            let text = "nobody knows how it ended: look at the machine".to_owned();
            (text, format!("{} {RESOLUTIONS}", of_job()))
        }
        Need::Unresolved => {
            let job = machine.and_then(|machine| machine.uncertain)?;
            let text = format!(
                "nobody knows there how an attempt of {job} ended, and nothing starts until that is said"
            );
            (last_word(&text), format!("reloop job {action} {job} {RESOLUTIONS}"))
        }
        Need::Mismatch => (last_word("its slave holds other work under its name"), of_job()),
        Need::MissedStart => (last_word("its start was missed"), of_job()),
        Need::Unloading => (
            last_word("its last job has ended, and nobody has confirmed that the machine is clear"),
            of_slave(),
        ),
        Need::Overdue => (last_word("it runs longer than its order allows"), of_job()),
        Need::Approval => {
            let key = slave?.key.fingerprint();
            (format!("it waits for approval with the key {key}"), format!("reloop slave {action} {key}"))
        }
        Need::Restored => {
            ("held since the master was restored: a slave may have done it since".to_owned(), of_job())
        }
        Need::ReleaseLapsed => ("it was released for a start that is over".to_owned(), of_job()),
        Need::Held => ("it is held until somebody releases it".to_owned(), of_job()),
        Need::LocalLock => {
            let text = last_word("a person at the machine has locked remote starts out");
            (text, format!("reloop-slave {action}"))
        }
    };
    let is_paused = job.as_ref().is_some_and(|job| job.desired == Desired::Pause && !job.state.is_started());
    let text = if is_paused { format!("{text}; it is paused too: `resume` it") } else { text };
    Some(Needed { need, subject, slave: key, text, command })
}

/// What a slave said is marked as old where it cannot be heard.
fn by_last_word(text: &str, slave: Option<&SlaveRecord>) -> String {
    let is_old = slave.is_some_and(|slave| slave.live().is_none());
    format!("{text}{}", if is_old { " (the last word of a slave that is offline)" } else { "" })
}

/// As a command line names it: by its key where its name is not one plain word.
fn called(slave: &SlaveRecord) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !slave.name.is_empty() && !slave.name.starts_with('-') && slave.name.chars().all(is_plain) {
        return slave.name.clone();
    }
    slave.key.fingerprint()
}

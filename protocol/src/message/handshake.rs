//! The messages of a handshake.

use super::{CloseCode, Declined, MachineReport, OperatingMode, Report, Versions};
use crate::id::{
    Attempt, BootId, Commit, Epoch, Generation, Incarnation, JobId, MasterId, ReportSeq, Session, SlaveKey,
    StoreId,
};
use crate::job::State;
use crate::reconcile::Verdict;
use crate::spec::{DesiredState, Spec, StartRule};
use crate::time::Time;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The master introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Challenge {
    /// The protocol versions that the sender understands. The first field, in every version of the protocol.
    pub protocol: Versions,
    pub master: MasterId,
    /// How often that store was restored.
    pub epoch: Epoch,
    /// Durable commits of that store when this was said.
    pub commit: Commit,
    /// The newest incarnations in that store, at most [`INCARNATIONS`](crate::limits::INCARNATIONS), oldest first; the last is
    /// the process that says this.
    pub begun: Vec<Begun>,
    /// Random bytes that the slave has to sign.
    pub nonce: [u8; 32],
    /// The master's wall clock.
    pub time: Time,
}

/// The slave introduces itself, with one row for each job that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol versions that the sender understands. The first field, in every version of the protocol.
    pub protocol: Versions,
    pub key: SlaveKey,
    /// A label, unique among the master's slaves: see [`NAME_BYTES`](crate::limits::NAME_BYTES).
    pub name: String,
    pub agent: String,
    /// The master that the slave belongs to, with what it has seen there. `None` before the first Welcome.
    pub binding: Option<MasterBinding>,
    /// The text of an enrolment token, until the slave has settled once with it.
    pub token: Option<String>,
    pub store: StoreId,
    /// The boot of the slave's kernel.
    pub boot: BootId,
    /// How often the agent was started on that store: its config is the same until the next start.
    pub starts: u32,
    /// The number of this connection, counted on the slave's disk.
    pub session: Session,
    /// The slave's wall clock when it said this, not corrected by the master's.
    pub clock: Time,
    pub machine: MachineReport,
    /// The programs that the slave can run.
    pub programs: Vec<String>,
    /// The slave's labels, which an order's `requires` is compared with.
    pub labels: BTreeMap<String, String>,
    /// How many jobs the slave keeps that could start, the one that runs included.
    pub capacity: u16,
    /// How many jobs it keeps besides that wait for their time or for a person.
    pub deferred_capacity: u16,
    /// Every job that the slave holds, ended ones included.
    pub rows: Vec<Row>,
    /// Outcomes that the slave was told to forget, newest last. Sent only to a master that may have forgotten them:
    /// one that was restored or may be an old copy, or to which the slave is new.
    pub recent_outcomes: Vec<Row>,
}

/// The master that a slave belongs to, and what it has seen of it. The slave keeps it on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasterBinding {
    pub master: MasterId,
    /// The highest epoch seen of that store.
    pub epoch: Epoch,
    /// The incarnation that was heard last.
    pub incarnation: Incarnation,
    /// The highest commit number seen of that incarnation in that epoch; 0 until the master is known to have got
    /// the recent outcomes.
    pub commit: Commit,
}

/// When an incarnation of a master began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begun {
    pub incarnation: Incarnation,
    /// How many durable commits the store had when the incarnation began.
    pub at: Commit,
}

impl MasterBinding {
    /// Whether a master of the binding's epoch, with this many durable commits and these incarnations in its files, is behind what
    /// the slave has seen: its files were put back to an earlier state, even if it has made more commits since then.
    pub fn is_ahead_of(&self, commit: Commit, begun: &[Begun]) -> bool {
        let known = begun.iter().position(|one| one.incarnation == self.incarnation);
        // An incarnation counts until the next one begins. One that is not told of was before all that are, or comes after
        // the state to which the files were put back.
        let next = known.map_or(begun.first(), |at| begun.get(at + 1));
        self.commit > next.map_or(commit, |next| next.at)
    }
}

/// One job in a Hello: at most 64 bytes. Each field is as in the newest report of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    pub job: JobId,
    pub attempt: Attempt,
    /// The newest desired state that the slave knows.
    pub generation: Generation,
    pub seq: ReportSeq,
    pub state: State,
    /// Thousandths of the work that are done.
    pub progress: Option<u16>,
}

impl Report {
    /// What a Hello tells of it.
    pub fn row(&self) -> Row {
        Row {
            job: self.job,
            attempt: self.attempt,
            generation: self.generation,
            seq: self.seq,
            state: self.state,
            progress: self.progress,
        }
    }
}

/// The master's answer to a Hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Welcome {
    /// The version of the protocol that is spoken from here on.
    pub protocol: u16,
    /// The session of the Hello that this answers.
    pub session: Session,
    /// The master that the slave belongs to from here on.
    pub binding: MasterBinding,
    pub operating_mode: OperatingMode,
    /// One ruling for each job that either of the two holds.
    pub rulings: Vec<Ruling>,
}

/// One job in a Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruling {
    pub job: JobId,
    pub attempt: Attempt,
    pub verdict: Verdict,
    /// What the slave has to tell of it in the Settled.
    pub tell: Tell,
    /// The newest desired state, if the slave does not know it; with the work, if it is offered.
    pub desired_state: Option<DesiredState>,
}

/// What a slave has to tell of a job in the Settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tell {
    /// Nothing: the row said enough.
    Nothing,
    Report,
    /// The whole [`Record`]: the master does not know the job.
    Record,
}

/// The master does not accept the slave. The link is closed with the same code after it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refuse {
    pub code: CloseCode,
    /// The cause and what would help, for people.
    pub text: String,
    /// In how many milliseconds to try again.
    pub retry_after_ms: Option<u32>,
}

/// The slave's answer to a Welcome: what the master asked to be told, and what has changed since the Hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// The session whose handshake this ends.
    pub session: Session,
    /// The reports that were asked for, and those of all jobs that have changed since the Hello.
    pub reports: Vec<Report>,
    /// The records that were asked for.
    pub records: Vec<Record>,
    /// Offers in the rulings that the slave did not take, and jobs that it gave back.
    pub declined: Vec<Declined>,
    pub machine: MachineReport,
}

/// All that a slave knows of one job, for a master that does not know the job.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    pub spec: Spec,
    pub start: StartRule,
    pub report: Report,
    /// The labels that a slave must have to do it.
    pub requires: BTreeMap<String, String>,
}

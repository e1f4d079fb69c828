//! What both nodes say in a handshake.

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
    /// What it understands. First, and never changed.
    pub protocol: Versions,
    /// Its database.
    pub master: MasterId,
    /// How often that was restored.
    pub epoch: Epoch,
    /// Its durable commits.
    pub commit: Commit,
    /// The newest incarnations that its files tell of, oldest first; the last is the process that says this.
    pub begun: Vec<Begun>,
    /// Random bytes that the slave has to sign.
    pub nonce: [u8; 32],
    /// Its clock.
    pub time: Time,
}

/// The slave introduces itself, with a compact view of everything that it holds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Hello {
    /// What it understands. First, and never changed.
    pub protocol: Versions,
    /// Its public key.
    pub key: SlaveKey,
    /// Its name: a label.
    pub name: String,
    /// The agent's version, for people.
    pub agent: String,
    /// The master that it belongs to, with what it has seen there; none before the first Welcome.
    pub binding: Option<MasterBinding>,
    /// Proof that it may be enrolled: an enrolment token's text.
    pub token: Option<String>,
    /// Its database.
    pub store: StoreId,
    /// The kernel's boot.
    pub boot: BootId,
    /// Its connections so far.
    pub session: Session,
    /// Its wall clock, when it said this.
    pub clock: Time,
    /// The machine's condition.
    pub machine: MachineReport,
    /// Programs that it offers.
    pub programs: Vec<String>,
    /// Labels for an order's `requires`.
    pub labels: BTreeMap<String, String>,
    /// How many unended jobs it keeps.
    pub capacity: u16,
    /// Every job that it holds.
    pub rows: Vec<Row>,
    /// Outcomes that it was told to forget, newest last: sent only to a master whose past is in doubt, since any
    /// other has them on its disk.
    pub recent_outcomes: Vec<Row>,
}

/// Which master a slave belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct MasterBinding {
    /// The master's database.
    pub master: MasterId,
    /// The highest epoch seen there.
    pub epoch: Epoch,
    /// The incarnation that was heard last...
    pub incarnation: Incarnation,
    /// ...and the highest commit number seen of it in that epoch; 0 until the first.
    pub commit: Commit,
}

/// When an incarnation of a master began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Begun {
    /// Which.
    pub incarnation: Incarnation,
    /// The durable commits of the files that it began with.
    pub at: Commit,
}

impl MasterBinding {
    /// Whether a master of the binding's epoch whose files hold this many commits and tell of these incarnations is behind what
    /// the binding's owner has seen: its files were put back to an earlier state, even if it has counted on since then.
    pub fn is_ahead_of(&self, commit: Commit, begun: &[Begun]) -> bool {
        let known = begun.iter().position(|one| one.incarnation == self.incarnation);
        // An incarnation counts until the next one begins. One that is not told of was before all that are, or comes after
        // the state to which the files were put back.
        let next = known.map_or(begun.first(), |at| begun.get(at + 1));
        self.commit > next.map_or(commit, |next| next.at)
    }
}

/// One job in a Hello: at most 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Row {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// The newest desired state that it knows.
    pub generation: Generation,
    /// Its newest report.
    pub seq: ReportSeq,
    /// What it is.
    pub state: State,
    /// How far, in thousandths.
    pub progress: Option<u16>,
}

/// The master's answer to a Hello.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Welcome {
    /// Version spoken from here.
    pub protocol: u16,
    /// The session that this answers.
    pub session: Session,
    /// The master that the slave belongs to from here.
    pub binding: MasterBinding,
    /// How people want the slave to behave.
    pub operating_mode: OperatingMode,
    /// One ruling per job in either view.
    pub rulings: Vec<Ruling>,
}

/// One job in a Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ruling {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// What comes of it.
    pub verdict: Verdict,
    /// What the slave should tell in Settled.
    pub tell: Tell,
    /// The newest desired state, if the slave does not know it.
    pub desired_state: Option<DesiredState>,
}

/// How much of a job the master wants to hear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Tell {
    /// The row was enough.
    Nothing,
    /// The report.
    Report,
    /// The report, the work and the desired state.
    Record,
}

/// The master does not take the slave, and why.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, as a close code.
    pub code: CloseCode,
    /// Why and who can end it, for people.
    pub text: String,
    /// When it makes sense to try again, in milliseconds.
    pub retry_after_ms: Option<u32>,
}

/// The slave's answer to a Welcome: what it knows that the rows did not say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Settled {
    /// The session that this ends the handshake of.
    pub session: Session,
    /// Reports that were asked for, or that the rulings changed.
    pub reports: Vec<Report>,
    /// Whole records, for jobs that the master did not know.
    pub records: Vec<Record>,
    /// Offers in the rulings that it did not take, and jobs that it gave back.
    pub declined: Vec<Declined>,
    /// The machine's condition now.
    pub machine: MachineReport,
}

/// A slave's whole record of one job, for a master that does not know it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Record {
    /// The work.
    pub spec: Spec,
    /// When it may start.
    pub start: StartRule,
    /// What it is.
    pub report: Report,
}

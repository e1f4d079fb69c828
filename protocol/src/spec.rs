//! The work of a job, which never changes, and the master's desired state for the job, which may.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::id::{Attempt, Generation, JobId, OrderId};
use crate::job::{End, OnInterrupt};
use crate::time::{Millis, Time};
use crate::wire;

/// The largest [`Spec`], in bytes on the wire. With the report it has to fit into one record of either node.
pub const SPEC_BYTES: usize = 32 * 1024;

/// The work of one job. It never changes; [`Spec::digest`] is compared to make sure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    pub order: OrderId,
    pub name: Option<String>,
    /// The name of one of the programs that the slave's config declares.
    pub program: String,
    /// The program's parameters by name; the slave checks each against the pattern that its config declares.
    pub params: BTreeMap<String, String>,
    /// How long the machine may work in one run, pauses not counted.
    pub max_runtime: Option<Millis>,
    /// What happens when a run takes longer.
    pub on_overdue: OnOverdue,
    /// What happens when a run was interrupted and the machine does not know how it ended.
    pub on_interrupt: OnInterrupt,
}

/// The first 16 bytes of the SHA-256 (FIPS 180-4) of a spec's wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpecDigest(pub [u8; 16]);

impl Spec {
    /// Its size in bytes on the wire.
    pub fn size(&self) -> usize {
        wire::encode(self).len()
    }

    /// The digest of its wire form.
    pub fn digest(&self) -> SpecDigest {
        let hash = sha2::Sha256::digest(wire::encode(self));
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        SpecDigest(first)
    }
}

/// What happens to a job that runs longer than its order allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum OnOverdue {
    /// It goes on with the flag `overdue`.
    #[default]
    Flag,
    /// It is stopped at the next safe point.
    Stop,
}

/// What happens to a job whose start was missed: its slave found `not_before` past by more than its tolerance, because the agent was
/// off or stopped, the box suspended or without a clock, or the clock was set over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Late {
    /// It waits until a person releases it.
    #[default]
    Hold,
    /// It starts as soon as it can, if its deadline has not passed.
    Run,
    /// It ends as expired.
    Skip,
}

/// Whether a person has to release the job before it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Gate {
    /// No release is needed.
    #[default]
    Open,
    /// A person has to release it.
    Held,
    /// A person has released it, for a start until `latest` by the master's clock; `not_before` does not count.
    Released {
        /// The latest start under this release.
        latest: Time,
    },
}

impl Gate {
    /// The same gate after the clock by which a release lapses was set by so many milliseconds.
    #[must_use]
    pub fn shifted(self, ms: i64) -> Self {
        match self {
            Self::Released { latest } => Self::Released { latest: latest.shifted(ms) },
            Self::Open | Self::Held => self,
        }
    }
}

/// When a job may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct StartRule {
    /// The earliest start, by the master's clock.
    pub not_before: Option<Time>,
    /// The latest start, by the master's clock.
    pub deadline: Option<Time>,
    /// What happens if the start is missed.
    pub late: Late,
    /// Whether a person has to release it.
    pub gate: Gate,
    /// Of the jobs that may start, the one with the highest priority starts first.
    pub priority: i32,
}

/// How a job may be stopped that has started; each mode is harder than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CancelMode {
    /// Not at all: only a job that has not started is canceled.
    IfNotStarted,
    /// Where the machine can end cleanly.
    SafePoint,
    /// At once.
    Now,
}

/// What the master wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Desired {
    /// To be started when its start rule allows, and to go on if it is paused.
    Run,
    /// Not to be started, and to be paused if it runs.
    Pause,
    /// To be canceled.
    Cancel(CancelMode),
    /// To be given back if it has never begun under this attempt, because another slave can take it now.
    Return,
    /// To end so, as a person said, if it is uncertain.
    Resolve(End),
}

/// Everything that the master wants of one job. The one with the highest generation counts, and older ones are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DesiredState {
    pub job: JobId,
    /// The attempt that it is for: a slave that holds a later one ignores it.
    pub attempt: Attempt,
    /// The number of this desired state: the highest is the newest.
    pub generation: Generation,
    /// The digest of the work, which a slave compares with that of the work it holds.
    pub digest: SpecDigest,
    /// The work, if the slave is not known to hold it.
    pub spec: Option<Spec>,
    /// With the work, the labels that the slave must have, so that it can judge that without the master.
    pub requires: BTreeMap<String, String>,
    pub desired: Desired,
    pub start: StartRule,
}

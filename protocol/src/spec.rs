//! What an order asks for: the work itself, which never changes, and the desired state about it, which may.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::id::{Attempt, Generation, JobId, OrderId};
use crate::job::{End, OnInterrupt};
use crate::time::{Millis, Time};
use crate::wire;

/// The largest work, in bytes on the wire: it has to fit into one record of either node with what is told about it.
pub const SPEC_BYTES: usize = 32 * 1024;

/// The work of one job. It never changes: [`Spec::digest`] pins it from the order to the start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Spec {
    /// The order that it belongs to.
    pub order: OrderId,
    /// A label for people.
    pub name: Option<String>,
    /// Which of the slave's declared programs does it.
    pub program: String,
    /// The program's parameters; the slave checks each against its declared pattern.
    pub params: BTreeMap<String, String>,
    /// How long its machine may work, pauses not counted.
    pub max_runtime: Option<Millis>,
    /// What happens when it runs longer.
    pub on_overdue: OnOverdue,
    /// What happens when it was interrupted and nobody knows how far it came.
    pub on_interrupt: OnInterrupt,
}

/// The first 16 bytes of the SHA-256 (FIPS 180-4) of a spec's wire form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpecDigest(pub [u8; 16]);

impl Spec {
    /// In bytes on the wire.
    pub fn size(&self) -> usize {
        wire::encode(self).len()
    }

    /// Pins the work.
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
    /// It goes on, flagged.
    #[default]
    Flag,
    /// It is stopped at the next safe point.
    Stop,
}

/// What happens to a start that is found to be late by more than a slave's tolerance: it was off, asleep or without a clock
/// when the time came, or the clock was set over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Late {
    /// A person is asked.
    #[default]
    Hold,
    /// It starts now, if its deadline has not passed.
    Run,
    /// It expires.
    Skip,
}

/// Whether somebody still has to let the job go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Gate {
    /// Nobody has to.
    #[default]
    Open,
    /// A person has to.
    Held,
    /// A person did; the word holds for a start until then, by the master's clock, and not longer.
    Released {
        /// The latest start under this word.
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
    /// Not before this, by the master's clock.
    pub not_before: Option<Time>,
    /// Not after this, by the master's clock.
    pub deadline: Option<Time>,
    /// If the start is missed.
    pub late: Late,
    /// Whether a person has to let it go.
    pub gate: Gate,
    /// Among jobs that may start, the highest goes first.
    pub priority: i32,
}

/// How a running job may be stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CancelMode {
    /// Not at all: cancel only what has not started.
    IfNotStarted,
    /// Where the machine can end cleanly.
    SafePoint,
    /// At once.
    Now,
}

/// What the master wants for a job. The highest generation wins; nothing is queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Desired {
    /// Start it when its start rule allows, and let it run.
    Run,
    /// Do not start it; pause it if it runs.
    Pause,
    /// End it.
    Cancel(CancelMode),
    /// Give it back if it has not started: another slave can take it now.
    Return,
    /// A person says how it ended, if it is still uncertain.
    Resolve(End),
}

/// The master's whole desired state for one job: to one job what Welcome is to all.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DesiredState {
    /// Which job.
    pub job: JobId,
    /// Which attempt of it: a desired state for another attempt has no force.
    pub attempt: Attempt,
    /// Which desired state.
    pub generation: Generation,
    /// Pins the work.
    pub digest: SpecDigest,
    /// The work, when the slave is not known to hold it.
    pub spec: Option<Spec>,
    /// What for.
    pub desired: Desired,
    /// When it may start.
    pub start: StartRule,
}

//! Records that earlier builds wrote, converted to what they mean now.
//!
//! The envelope of a record names its layout. A record is rewritten in the layout of this build when it changes.

use std::collections::{BTreeMap, VecDeque};

use reloop_node::record;
use reloop_protocol::id::{Attempt, BootId, Epoch, Generation, JobId, OrderId, Session, SlaveKey, StoreId};
use reloop_protocol::job::State;
use reloop_protocol::master::{
    Basis, Enrolled, IdempotencyKey, Job, JobEvent, Node, Order, OtherAttempt, RETRY_BACKOFF, Receipt,
    RejectedBy, Retry, SlaveLink, SlaveRecord, Token,
};
use reloop_protocol::message::{
    Activity, Attention, Begun, Flags, MachineReport, OperatingMode, Reason, Report,
};
use reloop_protocol::spec::{Desired, Spec, SpecDigest, StartRule};
use reloop_protocol::time::Time;
use reloop_protocol::wire::WireError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A record of the store. Layout 1 had no [`Basis::Claim`], layout 2 one capacity for all jobs of a slave, and layout 3 no retry that
/// waits and no rejection by one slave alone.
pub trait Stored: DeserializeOwned {
    /// Decodes a payload of an earlier layout.
    fn former(_layout: u8, payload: &[u8]) -> Result<Self, WireError> {
        record::decode(payload)
    }
}

macro_rules! unchanged {
    ($($kind:ty),*) => { $(impl Stored for $kind {})* };
}

unchanged!(Node, Vec<Begun>, Time, Token, Receipt, (IdempotencyKey, OrderId));

impl Stored for Order {
    fn former(_layout: u8, payload: &[u8]) -> Result<Self, WireError> {
        record::decode_short(payload, &RETRY_BACKOFF)
    }
}

impl Stored for Job {
    fn former(layout: u8, payload: &[u8]) -> Result<Self, WireError> {
        match layout {
            1 => record::decode::<JobBeforeClaims>(payload).map(Into::into),
            _ => {
                let lacks = (RETRY_BACKOFF, 0_u32, None::<Time>, Vec::<RejectedBy>::new());
                let job: Self = record::decode_short(payload, &lacks)?;
                // Each attempt but the first counted as a retry.
                Ok(Self { retries: job.last_attempt.0.saturating_sub(1), ..job })
            }
        }
    }
}

impl Stored for SlaveRecord {
    fn former(layout: u8, payload: &[u8]) -> Result<Self, WireError> {
        match layout {
            1 => record::decode::<SlaveRecordBeforeClaims>(payload).map(Into::into),
            2 => record::decode::<SlaveRecordBeforeDeferred>(payload).map(Into::into),
            // Its next handshake says how often its agent was started.
            _ => record::decode_short(payload, &0_u32),
        }
    }
}

/// A [`Job`] in layout 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct JobBeforeClaims {
    id: JobId,
    spec: Spec,
    digest: SpecDigest,
    slave: Option<String>,
    requires: BTreeMap<String, String>,
    start: StartRule,
    retry: Retry,
    created_at: Time,
    state: State,
    desired: Desired,
    generation: Generation,
    recalled: Option<Generation>,
    attempt: Attempt,
    last_attempt: Attempt,
    holder: Option<SlaveKey>,
    report: Option<Report>,
    heard_at: Option<Time>,
    earlier: Vec<EarlierBeforeClaims>,
    assigned: VecDeque<(Attempt, SlaveKey)>,
    reason: Option<Reason>,
    flags: Flags,
    ended_at: Option<Time>,
    revision: u32,
    events: VecDeque<JobEvent>,
}

/// An [`OtherAttempt`] in layout 1.
#[derive(Debug, Serialize, Deserialize)]
struct EarlierBeforeClaims {
    attempt: Attempt,
    holder: SlaveKey,
    state: State,
    report: Option<Report>,
}

impl From<JobBeforeClaims> for Job {
    fn from(job: JobBeforeClaims) -> Self {
        let others = job.earlier.into_iter().map(|earlier| {
            let basis = if job.assigned.contains(&(earlier.attempt, earlier.holder)) {
                Basis::Assigned
            } else if job.flags.has(Flags::ADOPTED) {
                Basis::Gap
            } else {
                Basis::Claim
            };
            OtherAttempt {
                attempt: earlier.attempt,
                holder: earlier.holder,
                state: earlier.state,
                report: earlier.report,
                basis,
            }
        });
        Self {
            others: others.collect(),
            id: job.id,
            spec: job.spec,
            digest: job.digest,
            slave: job.slave,
            requires: job.requires,
            start: job.start,
            retry: job.retry,
            created_at: job.created_at,
            state: job.state,
            desired: job.desired,
            generation: job.generation,
            recalled: job.recalled,
            attempt: job.attempt,
            last_attempt: job.last_attempt,
            holder: job.holder,
            report: job.report,
            heard_at: job.heard_at,
            heard_on: None,
            assigned: job.assigned,
            reason: job.reason,
            flags: job.flags,
            ended_at: job.ended_at,
            revision: job.revision,
            events: job.events,
            retry_backoff: RETRY_BACKOFF,
            retries: job.last_attempt.0.saturating_sub(1),
            retry_at: None,
            rejected_by: Vec::new(),
        }
    }
}

/// A [`SlaveRecord`] in layout 1.
#[derive(Debug, Serialize, Deserialize)]
pub struct SlaveRecordBeforeClaims {
    key: SlaveKey,
    name: String,
    agent: String,
    enrolled: Enrolled,
    store: Option<StoreId>,
    boot: Option<BootId>,
    session: Session,
    programs: Vec<String>,
    labels: BTreeMap<String, String>,
    capacity: u16,
    operating_mode: OperatingMode,
    machine: Option<MachineBeforeClaims>,
    last_contact: Option<Time>,
    clock_offset_ms: i64,
    cloned_at: Option<Time>,
    receipts: u32,
}

/// A [`MachineReport`] in layout 1.
#[derive(Debug, Serialize, Deserialize)]
struct MachineBeforeClaims {
    activity: Activity,
    unloading: Option<JobId>,
    attention: Option<Attention>,
    uncertain: Option<JobId>,
    local_lock: bool,
    operating_mode: OperatingMode,
}

impl From<SlaveRecordBeforeClaims> for SlaveRecordBeforeDeferred {
    fn from(slave: SlaveRecordBeforeClaims) -> Self {
        let machine = slave.machine.map(|machine| MachineReport {
            activity: machine.activity,
            unloading: machine.unloading,
            attention: machine.attention,
            uncertain: machine.uncertain,
            local_lock: machine.local_lock,
            operating_mode: machine.operating_mode,
            cause: None,
        });
        Self {
            machine,
            // Layout 1 does not say: the next handshake counts as the first after a restore, if there was one.
            settled_in: Epoch(0),
            key: slave.key,
            name: slave.name,
            agent: slave.agent,
            enrolled: slave.enrolled,
            store: slave.store,
            boot: slave.boot,
            session: slave.session,
            programs: slave.programs,
            labels: slave.labels,
            capacity: slave.capacity,
            operating_mode: slave.operating_mode,
            last_contact: slave.last_contact,
            clock_offset_ms: slave.clock_offset_ms,
            cloned_at: slave.cloned_at,
            receipts: slave.receipts,
        }
    }
}

/// A [`SlaveRecord`] in layout 2.
#[derive(Debug, Serialize, Deserialize)]
pub struct SlaveRecordBeforeDeferred {
    key: SlaveKey,
    name: String,
    agent: String,
    enrolled: Enrolled,
    store: Option<StoreId>,
    boot: Option<BootId>,
    session: Session,
    settled_in: Epoch,
    programs: Vec<String>,
    labels: BTreeMap<String, String>,
    capacity: u16,
    operating_mode: OperatingMode,
    machine: Option<MachineReport>,
    last_contact: Option<Time>,
    clock_offset_ms: i64,
    cloned_at: Option<Time>,
    receipts: u32,
}

impl From<SlaveRecordBeforeDeferred> for SlaveRecord {
    fn from(slave: SlaveRecordBeforeDeferred) -> Self {
        Self {
            // Its next handshake says.
            deferred_capacity: 0,
            key: slave.key,
            name: slave.name,
            agent: slave.agent,
            enrolled: slave.enrolled,
            store: slave.store,
            boot: slave.boot,
            session: slave.session,
            settled_in: slave.settled_in,
            programs: slave.programs,
            labels: slave.labels,
            capacity: slave.capacity,
            operating_mode: slave.operating_mode,
            machine: slave.machine,
            last_contact: slave.last_contact,
            clock_offset_ms: slave.clock_offset_ms,
            cloned_at: slave.cloned_at,
            receipts: slave.receipts,
            starts: 0,
            link: SlaveLink::Down,
            contender: None,
            declining: false,
            doubts: false,
            other_attempts: Default::default(),
        }
    }
}

impl From<SlaveRecordBeforeClaims> for SlaveRecord {
    fn from(slave: SlaveRecordBeforeClaims) -> Self {
        SlaveRecordBeforeDeferred::from(slave).into()
    }
}

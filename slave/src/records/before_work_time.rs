//! The layout of the records before a slave counted how long a machine works: a run had the time at which it began, and a
//! reading of the master's clock did not say whether a time service kept this box's clock.

use std::collections::BTreeMap;

use reloop_protocol::id::{BootId, JobId, Session, StoreId};
use reloop_protocol::message::{Attention, MasterBinding, OperatingMode, Report, Source};
use reloop_protocol::slave::{Job, Node, RunState, Stretch, Sync};
use reloop_protocol::spec::{CancelMode, Desired, Spec, SpecDigest, StartRule};
use reloop_protocol::time::{Millis, Time};
use serde::{Deserialize, Serialize};

/// A [`Sync`] in this layout, and in the one before it.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct SyncBeforeWorkTime {
    pub(super) boot: BootId,
    pub(super) boot_ms: u64,
    pub(super) wall: Time,
    pub(super) master: Time,
}

impl From<SyncBeforeWorkTime> for Sync {
    fn from(sync: SyncBeforeWorkTime) -> Self {
        let SyncBeforeWorkTime { boot, boot_ms, wall, master } = sync;
        Self { boot, boot_ms, wall, master, synchronized: false }
    }
}

/// A [`Node`] in this layout.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeBeforeWorkTime {
    store: StoreId,
    starts: u32,
    session: Session,
    binding: Option<MasterBinding>,
    sync: Option<SyncBeforeWorkTime>,
    fingerprint: Option<[u8; 16]>,
    unloading: Option<JobId>,
    attention: Option<Attention>,
    local_lock: bool,
    operating_mode: OperatingMode,
    cause: Option<String>,
}

impl From<NodeBeforeWorkTime> for Node {
    fn from(node: NodeBeforeWorkTime) -> Self {
        Self {
            store: node.store,
            starts: node.starts,
            session: node.session,
            binding: node.binding,
            sync: node.sync.map(Into::into),
            fingerprint: node.fingerprint,
            unloading: node.unloading,
            attention: node.attention,
            local_lock: node.local_lock,
            operating_mode: node.operating_mode,
            cause: node.cause,
            doubts_releases: false,
            failed: Vec::new(),
        }
    }
}

/// A [`Job`] in this layout.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobBeforeWorkTime {
    pub(super) spec: Spec,
    pub(super) digest: SpecDigest,
    pub(super) desired: Desired,
    pub(super) start: StartRule,
    pub(super) report: Report,
    pub(super) due: bool,
    pub(super) missed: bool,
    pub(super) window_met: bool,
    pub(super) paused_locally: bool,
    pub(super) interruptions: u32,
    pub(super) run: RunBeforeWorkTime,
}

/// A [`RunState`] in this layout.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct RunBeforeWorkTime {
    pub(super) began_at: Option<Time>,
    pub(super) overrun: bool,
    pub(super) paused: bool,
    pub(super) asked_to_pause: Option<bool>,
    pub(super) stopping: Option<CancelMode>,
    pub(super) stop_decided: Option<Source>,
}

impl From<RunBeforeWorkTime> for RunState {
    fn from(run: RunBeforeWorkTime) -> Self {
        // How long it had worked before a pause that is under way is not known, and counts as 0. The boot in which it began is not
        // known either, so its work time since then is by the master's clock.
        let since = |at| Stretch { boot: BootId([0; 16]), boot_ms: 0, at };
        Self {
            overrun: run.overrun,
            paused: run.paused,
            asked_to_pause: run.asked_to_pause,
            stopping: run.stopping,
            stop_decided: run.stop_decided,
            worked: Millis(0),
            works_since: run.began_at.filter(|_| !run.paused).map(since),
        }
    }
}

impl From<JobBeforeWorkTime> for Job {
    fn from(job: JobBeforeWorkTime) -> Self {
        Self {
            spec: job.spec,
            digest: job.digest,
            desired: job.desired,
            start: job.start,
            report: job.report,
            due: job.due,
            missed: job.missed,
            window_met: job.window_met,
            paused_locally: job.paused_locally,
            interruptions: job.interruptions,
            run: job.run.into(),
            requires: BTreeMap::new(),
            unfit: None,
        }
    }
}

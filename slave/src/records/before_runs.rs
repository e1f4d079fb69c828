//! The layout of the records before a job had a [`RunState`]. The slave's own record had no cause of its attention, and no
//! incarnation of its master. An agent that is upgraded goes on with the jobs that it has under way.

use std::collections::BTreeMap;

use reloop_protocol::id::{Commit, Epoch, Incarnation, JobId, MasterId, Session, StoreId};
use reloop_protocol::message::{Attention, MasterBinding, OperatingMode, Report, Source};
use reloop_protocol::slave::{Job, Node, RunState};
use reloop_protocol::spec::{CancelMode, Desired, Spec, SpecDigest, StartRule};
use serde::{Deserialize, Serialize};

use super::before_work_time::{RunBeforeWorkTime, SyncBeforeWorkTime};

/// A [`Node`] in this layout.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct NodeBeforeRuns {
    store: StoreId,
    starts: u32,
    session: Session,
    binding: Option<BindingBeforeRuns>,
    sync: Option<SyncBeforeWorkTime>,
    fingerprint: Option<[u8; 16]>,
    unloading: Option<JobId>,
    attention: Option<Attention>,
    local_lock: bool,
    operating_mode: OperatingMode,
}

/// A [`MasterBinding`] in this layout.
#[derive(Debug, Serialize, Deserialize)]
struct BindingBeforeRuns {
    master: MasterId,
    epoch: Epoch,
    commit: Commit,
}

impl From<NodeBeforeRuns> for Node {
    fn from(node: NodeBeforeRuns) -> Self {
        let binding = node.binding.map(|binding| MasterBinding {
            master: binding.master,
            epoch: binding.epoch,
            // Not known: the default counts as earlier than every incarnation that the master tells of.
            incarnation: Incarnation::default(),
            commit: binding.commit,
        });
        Self {
            binding,
            store: node.store,
            starts: node.starts,
            session: node.session,
            sync: node.sync.map(Into::into),
            fingerprint: node.fingerprint,
            unloading: node.unloading,
            attention: node.attention,
            local_lock: node.local_lock,
            operating_mode: node.operating_mode,
            cause: None,
            doubts_releases: false,
            failed: Vec::new(),
        }
    }
}

/// A [`Job`] in this layout.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct JobBeforeRuns {
    pub(super) spec: Spec,
    pub(super) digest: SpecDigest,
    pub(super) desired: Desired,
    pub(super) start: StartRule,
    pub(super) report: Report,
    pub(super) due: bool,
    pub(super) missed: bool,
    pub(super) paused_locally: bool,
    pub(super) paused: bool,
    pub(super) asked_to_pause: Option<bool>,
    pub(super) stopping: Option<CancelMode>,
    pub(super) interruptions: u32,
    pub(super) overrun: bool,
}

impl From<JobBeforeRuns> for Job {
    fn from(job: JobBeforeRuns) -> Self {
        let under_way = job.report.state.is_started();
        let by_master = matches!(job.desired, Desired::Cancel(_));
        let run = RunBeforeWorkTime {
            began_at: job.report.started_at,
            overrun: job.overrun,
            paused: job.paused,
            asked_to_pause: job.asked_to_pause,
            stopping: job.stopping,
            stop_decided: job.stopping.filter(|_| !by_master).map(|_| Source::Local),
        };
        Self {
            spec: job.spec,
            digest: job.digest,
            desired: job.desired,
            start: job.start,
            due: job.due,
            missed: job.missed,
            window_met: job.interruptions > 0,
            paused_locally: job.paused_locally,
            interruptions: job.interruptions,
            run: if under_way { run.into() } else { RunState::default() },
            report: job.report,
            requires: BTreeMap::new(),
            unfit: None,
        }
    }
}

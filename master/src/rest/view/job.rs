//! Jobs, their changes, and why they wait.

use std::collections::BTreeMap;

use reloop_api::words::{LATE, word};
use reloop_api::{Earlier, Explanation, Freshness, Job, JobEvent, Outcome, WhyNot};
use reloop_protocol::id::SlaveKey;
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Basis, Master, SlaveRecord};
use reloop_protocol::message;
use reloop_protocol::spec::{Desired, Gate};
use reloop_protocol::time::Time;

use super::{reason, time};

/// What a job's view needs to know of a slave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::rest) struct Holder {
    pub(in crate::rest) name: String,
    /// Whether it can be heard now.
    pub(in crate::rest) live: bool,
    /// When it was last heard, by what was written down.
    pub(in crate::rest) last_contact: Option<Time>,
}

/// The slaves that some jobs are or were with.
pub(in crate::rest) type Holders = BTreeMap<SlaveKey, Holder>;

/// Everybody who has or had one of these jobs.
pub(in crate::rest) fn keys<'a>(jobs: impl IntoIterator<Item = &'a master::Job>) -> Vec<SlaveKey> {
    let mut keys: Vec<_> = jobs
        .into_iter()
        .flat_map(|job| job.holder.into_iter().chain(job.others.iter().map(|e| e.holder)))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What the master knows of these slaves.
pub(in crate::rest) fn holders(state: &Master, keys: &[SlaveKey]) -> Holders {
    let slaves = keys.iter().filter_map(|key| state.slaves.get(key));
    slaves
        .map(|slave| {
            let holder = Holder {
                name: slave.name.clone(),
                live: slave.live().is_some(),
                last_contact: slave.last_contact,
            };
            (slave.key, holder)
        })
        .collect()
}

/// A job as a client sees it; `heard` is when a slave was last heard by this process.
pub(in crate::rest) fn job(
    job: &master::Job,
    holders: &Holders,
    heard: impl Fn(SlaveKey) -> Option<Time>,
) -> Job {
    let report = job.report.as_ref();
    let holder = job.holder.and_then(|key| holders.get(&key).map(|holder| (key, holder)));
    let live = holder.is_some_and(|(_, holder)| holder.live);
    let said = report.filter(|report| report.state == job.state);
    let why = match said {
        Some(report) => report.reason.as_ref().or(job.reason.as_ref()),
        None => job.reason.as_ref().or(report.and_then(|report| report.reason.as_ref())),
    };
    let mut flags: Vec<_> = job.all_flags().names().map(Into::into).collect();
    if holder.is_some() && !live && !job.state.is_ended() {
        flags.push("stale".into());
    }
    if matches!(job.desired, Desired::Cancel(_)) && !job.state.is_ended() {
        flags.push("cancel_pending".into());
    }
    let heard = holder.and_then(|(key, _)| heard(key));
    // The newest of all that tells of a sign of life, whether the link stands or not: it never goes back when that ends.
    let signs = holder.map(|(_, holder)| [heard, job.heard_at, holder.last_contact, job.witnessed_at()]);
    let observed_at = signs.and_then(|signs| signs.into_iter().flatten().max());
    let name_of =
        |key: SlaveKey| holders.get(&key).map_or_else(|| key.fingerprint(), |holder| holder.name.clone());
    Job {
        id: job.id.to_string(),
        order: job.spec.order.to_string(),
        name: job.spec.name.clone(),
        program: job.spec.program.clone(),
        params: job.spec.params.clone(),
        state: job.state.name().into(),
        desired: desired(job.desired).into(),
        waiting_for: said
            .filter(|_| job.state == State::Accepted)
            .and_then(|report| report.waiting_for)
            .map(|waiting_for| waiting_for.name().into()),
        reason: why.map(reason),
        flags,
        attempt: job.attempt.0,
        slave: job.holder.map(name_of),
        requested_slave: job.slave.clone(),
        requires: job.requires.clone(),
        progress: match job.state {
            State::Succeeded => Some(1.0),
            _ => report.and_then(|report| report.progress).map(|thousandths| f64::from(thousandths) / 1000.0),
        },
        note: report.and_then(|report| report.note.clone()),
        freshness: Freshness {
            // The master's own word is always fresh: without a slave there is no link.
            link: holder.map(|(_, holder)| if holder.live { "online" } else { "offline" }.into()),
            observed_at: observed_at.map(time),
            at_least: observed_at.is_some() && !live && heard.is_none(),
        },
        priority: job.start.priority,
        not_before: job.start.not_before.map(time),
        deadline: job.start.deadline.map(time),
        late: word(&LATE, &job.start.late).into(),
        gate: gate(job.start.gate).into(),
        created_at: time(job.created_at),
        accepted_at: report.map(|report| time(report.accepted_at)),
        started_at: report.and_then(|report| report.started_at).map(time),
        ended_at: job.ended_at.map(time),
        retry_at: job.retry_at.filter(|_| job.state == State::Queued).map(time),
        outcome: report.and_then(|report| report.outcome.as_ref()).map(outcome),
        earlier: job
            .others
            .iter()
            .map(|attempt| earlier_attempt(job, attempt, name_of(attempt.holder)))
            .collect(),
        revision: job.revision,
    }
}

fn earlier_attempt(job: &master::Job, earlier: &master::OtherAttempt, slave: String) -> Earlier {
    let report = earlier.report.as_ref();
    // A slave that would not take it has reported nothing else.
    let is_it = |one: &&master::RejectedBy| (one.attempt, one.by.0) == (earlier.attempt, earlier.holder);
    let said = || job.rejected_by.iter().find(is_it).and_then(|one| one.reason.as_ref());
    Earlier {
        attempt: earlier.attempt.0,
        slave,
        state: earlier.state.name().into(),
        claimed: earlier.basis == Basis::Claim,
        flags: report.into_iter().flat_map(|report| report.flags.names()).map(Into::into).collect(),
        started_at: report.and_then(|report| report.started_at).map(time),
        ended_at: report.and_then(|report| report.ended_at).map(time),
        outcome: report.and_then(|report| report.outcome.as_ref()).map(outcome),
        reason: report.and_then(|report| report.reason.as_ref()).or_else(said).map(reason),
    }
}

fn outcome(outcome: &message::Outcome) -> Outcome {
    Outcome { exit_code: outcome.exit_code, signal: outcome.signal, text: outcome.text.clone() }
}

/// What people want of a job. That the master has asked for it back, to give it to another slave, is not theirs.
fn desired(desired: Desired) -> &'static str {
    match desired {
        Desired::Run | Desired::Return => "run",
        Desired::Pause => "pause",
        Desired::Cancel(_) => "cancel",
        Desired::Resolve(_) => "resolve",
    }
}

fn gate(gate: Gate) -> &'static str {
    match gate {
        Gate::Open => "open",
        Gate::Held => "held",
        Gate::Released { .. } => "released",
    }
}

/// A change that a job went through.
pub(in crate::rest) fn event(event: &master::JobEvent) -> JobEvent {
    JobEvent {
        at: time(event.at),
        observed_at: event.observed_at.map(time),
        state: event.state.name().into(),
        attempt: event.attempt.0,
        by: event.by.clone(),
    }
}

/// Why a job has not started, with the slaves' names.
pub(in crate::rest) fn explanation(
    state: &Master,
    job: &master::Job,
    explanation: master::Explanation,
) -> Explanation {
    let name = |key: SlaveKey| {
        state.slaves.get(&key).map_or_else(|| key.fingerprint(), |slave: &SlaveRecord| slave.name.clone())
    };
    let summary = explanation.text(time);
    let slaves = explanation.slaves.into_iter();
    let mut slaves: Vec<_> = slaves
        .map(|one| WhyNot {
            slave: name(one.slave),
            why_not: one.why.map(|why| why.name().into()),
            text: one.text,
        })
        .collect();
    slaves.sort_by(|one, other| one.slave.cmp(&other.slave));
    Explanation {
        job: job.id.to_string(),
        state: job.state.name().into(),
        summary,
        next_at: explanation.at.map(time),
        in_front: explanation.in_front,
        slaves,
    }
}

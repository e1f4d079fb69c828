//! What clients see of orders, jobs and slaves.
//!
//! Nothing here is folded into one word that hides how old it is: a job shows its last durable state, who said so, when
//! that was heard, and whether its slave can be heard now.

use std::collections::BTreeMap;

use reloop_protocol::id::SlaveKey;
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, Basis, Earlier, Enrolled, Explanation, Job, JobEvent, Master, Needed, Order, Receipt, SlaveRecord,
    Subject,
};
use reloop_protocol::message::{Activity, Mode, Outcome, Reason};
use reloop_protocol::spec::{CancelMode, Desired, Gate, StartRule};
use reloop_protocol::time::{Millis, Time};
use serde::Serialize;

use super::order::{LATE, ON_INTERRUPT, ON_OVERDUE, RETRY_ON, word};

/// Words for how a job is canceled.
pub(super) const CANCEL_MODES: [(&str, CancelMode); 3] = [
    ("if_not_started", CancelMode::IfNotStarted),
    ("safe_point", CancelMode::SafePoint),
    ("now", CancelMode::Now),
];
/// Words for how an uncertain job is said to have ended.
pub(super) const ENDS: [(&str, End); 3] =
    [("succeeded", End::Succeeded), ("failed", End::Failed), ("canceled", End::Stopped)];

/// A moment as RFC 3339, UTC.
pub(super) fn time(time: Time) -> String {
    let far = if time.0 < 0 { jiff::Timestamp::MIN } else { jiff::Timestamp::MAX };
    jiff::Timestamp::from_millisecond(time.0).unwrap_or(far).to_string()
}

fn seconds(length: Millis) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "exact for 285,000 years")]
    let ms = length.0 as f64;
    ms / 1000.0
}

/// What a job's view needs to know of a slave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    /// Its name.
    pub(super) name: String,
    /// Whether it can be heard now.
    pub(super) live: bool,
    /// When it was last heard, by what was written down.
    pub(super) last_contact: Option<Time>,
}

/// The slaves that some jobs are or were with.
pub(super) type Holders = BTreeMap<SlaveKey, Holder>;

/// Everybody who has or had one of these jobs.
pub(super) fn keys<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> Vec<SlaveKey> {
    let mut keys: Vec<_> = jobs
        .into_iter()
        .flat_map(|job| job.holder.into_iter().chain(job.earlier.iter().map(|e| e.holder)))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What the master knows of these slaves.
pub(super) fn holders(state: &Master, keys: &[SlaveKey]) -> Holders {
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

/// Why something is as it is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ReasonView {
    code: &'static str,
    text: String,
}

impl From<&Reason> for ReasonView {
    fn from(reason: &Reason) -> Self {
        Self { code: reason.code.name(), text: reason.text.clone() }
    }
}

/// How fresh a slave's word is.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Freshness {
    /// Its link; null while the job is with no slave, for then the master's own word is always fresh.
    pub(super) link: Option<&'static str>,
    /// When its slave was last heard.
    observed_at: Option<String>,
    /// It may have been heard after that too: this master has started since, and the disk does not tell.
    at_least: bool,
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OutcomeView {
    exit_code: Option<i32>,
    signal: Option<i32>,
    text: String,
}

impl From<&Outcome> for OutcomeView {
    fn from(outcome: &Outcome) -> Self {
        Self { exit_code: outcome.exit_code, signal: outcome.signal, text: outcome.text.clone() }
    }
}

/// Another attempt of the job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct EarlierView {
    attempt: u32,
    slave: String,
    state: &'static str,
    /// The slave's own word alone: it was never handed this.
    claimed: bool,
    started_at: Option<String>,
    ended_at: Option<String>,
    outcome: Option<OutcomeView>,
    reason: Option<ReasonView>,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct JobView {
    id: String,
    order: String,
    name: Option<String>,
    program: String,
    params: BTreeMap<String, String>,
    /// The last durable fact.
    pub(super) state: &'static str,
    desired: &'static str,
    waiting_for: Option<&'static str>,
    reason: Option<ReasonView>,
    flags: Vec<&'static str>,
    attempt: u32,
    slave: Option<String>,
    requested_slave: Option<String>,
    requires: BTreeMap<String, String>,
    progress: Option<f64>,
    note: Option<String>,
    /// How fresh that is.
    pub(super) freshness: Freshness,
    priority: i32,
    not_before: Option<String>,
    deadline: Option<String>,
    late: &'static str,
    gate: &'static str,
    created_at: String,
    accepted_at: Option<String>,
    started_at: Option<String>,
    ended_at: Option<String>,
    outcome: Option<OutcomeView>,
    earlier: Vec<EarlierView>,
    revision: u32,
}

/// A job as a client sees it; `heard` is when a slave was last heard by this process.
pub(super) fn job(job: &Job, holders: &Holders, heard: impl Fn(SlaveKey) -> Option<Time>) -> JobView {
    let report = job.report.as_ref();
    let holder = job.holder.and_then(|key| holders.get(&key).map(|holder| (key, holder)));
    let live = holder.is_some_and(|(_, holder)| holder.live);
    let said = report.filter(|report| report.state == job.state);
    let reason = match said {
        Some(report) => report.reason.as_ref().or(job.reason.as_ref()),
        None => job.reason.as_ref().or(report.and_then(|report| report.reason.as_ref())),
    };
    let mut flags: Vec<_> = job.all_flags().names().collect();
    if holder.is_some() && !live && !job.state.is_ended() {
        flags.push("stale");
    }
    if matches!(job.desired, Desired::Cancel(_)) && !job.state.is_ended() {
        flags.push("cancel_pending");
    }
    let heard = holder.and_then(|(key, _)| heard(key));
    // The newest of all that tells of a sign of life, whether the link stands or not: it never goes back when that ends.
    let signs = holder.map(|(_, holder)| [heard, job.heard_at, holder.last_contact, job.witnessed_at()]);
    let observed_at = signs.and_then(|signs| signs.into_iter().flatten().max());
    let name_of =
        |key: SlaveKey| holders.get(&key).map_or_else(|| key.fingerprint(), |holder| holder.name.clone());
    JobView {
        id: job.id.to_string(),
        order: job.spec.order.to_string(),
        name: job.spec.name.clone(),
        program: job.spec.program.clone(),
        params: job.spec.params.clone(),
        state: job.state.name(),
        desired: desired(job.desired),
        waiting_for: said
            .filter(|_| job.state == State::Accepted)
            .and_then(|report| report.waiting_for)
            .map(|waiting_for| waiting_for.name()),
        reason: reason.map(ReasonView::from),
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
            link: holder.map(|(_, holder)| if holder.live { "online" } else { "offline" }),
            observed_at: observed_at.map(time),
            at_least: observed_at.is_some() && !live && heard.is_none(),
        },
        priority: job.start.priority,
        not_before: job.start.not_before.map(time),
        deadline: job.start.deadline.map(time),
        late: word(&LATE, &job.start.late),
        gate: gate(job.start.gate),
        created_at: time(job.created_at),
        accepted_at: report.map(|report| time(report.accepted_at)),
        started_at: report.and_then(|report| report.started_at).map(time),
        ended_at: job.ended_at.map(time),
        outcome: report.and_then(|report| report.outcome.as_ref()).map(OutcomeView::from),
        earlier: job.earlier.iter().map(|earlier| earlier_view(earlier, name_of(earlier.holder))).collect(),
        revision: job.revision,
    }
}

fn earlier_view(earlier: &Earlier, slave: String) -> EarlierView {
    let report = earlier.report.as_ref();
    EarlierView {
        attempt: earlier.attempt.0,
        slave,
        state: earlier.state.name(),
        claimed: earlier.basis == Basis::Claim,
        started_at: report.and_then(|report| report.started_at).map(time),
        ended_at: report.and_then(|report| report.ended_at).map(time),
        outcome: report.and_then(|report| report.outcome.as_ref()).map(OutcomeView::from),
        reason: report.and_then(|report| report.reason.as_ref()).map(ReasonView::from),
    }
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

/// Something that a job went through.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct JobEventView {
    at: String,
    observed_at: Option<String>,
    state: &'static str,
    attempt: u32,
    by: String,
}

impl From<&JobEvent> for JobEventView {
    fn from(event: &JobEvent) -> Self {
        Self {
            at: time(event.at),
            observed_at: event.observed_at.map(time),
            state: event.state.name(),
            attempt: event.attempt.0,
            by: event.by.clone(),
        }
    }
}

/// Why a job has not started.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ExplanationView {
    job: String,
    state: &'static str,
    summary: String,
    slaves: Vec<WhyNotView>,
}

/// Why a slave does not take a job; null where it could.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WhyNotView {
    slave: String,
    why_not: Option<&'static str>,
}

/// Why a job has not started, with the slaves' names.
pub(super) fn explanation(state: &Master, job: &Job, explanation: Explanation) -> ExplanationView {
    let name = |key| {
        state.slaves.get(&key).map_or_else(|| key.fingerprint(), |slave: &SlaveRecord| slave.name.clone())
    };
    let slaves = explanation.slaves.into_iter();
    ExplanationView {
        job: job.id.to_string(),
        state: job.state.name(),
        summary: explanation.summary,
        slaves: slaves
            .map(|(key, why)| WhyNotView { slave: name(key), why_not: why.map(|why| why.name()) })
            .collect(),
    }
}

/// An order; `J` is a whole job or its id.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OrderView<J> {
    pub(super) id: String,
    name: Option<String>,
    program: String,
    params: BTreeMap<String, String>,
    quantity: usize,
    slave: Option<String>,
    requires: BTreeMap<String, String>,
    priority: i32,
    start: StartView,
    max_runtime_seconds: Option<f64>,
    on_overdue: &'static str,
    retry: RetryView,
    on_interrupt: &'static str,
    external_id: Option<String>,
    labels: BTreeMap<String, String>,
    created_at: String,
    jobs: Vec<J>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct StartView {
    not_before: Option<String>,
    deadline: Option<String>,
    late: &'static str,
    hold: bool,
}

impl From<&StartRule> for StartView {
    fn from(start: &StartRule) -> Self {
        Self {
            not_before: start.not_before.map(time),
            deadline: start.deadline.map(time),
            late: word(&LATE, &start.late),
            hold: start.gate != Gate::Open,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct RetryView {
    max_attempts: u32,
    on: Vec<&'static str>,
}

/// An order as a client sees it, as it was placed.
pub(super) fn order<J>(order: &Order, jobs: Vec<J>) -> OrderView<J> {
    OrderView {
        id: order.id.to_string(),
        name: order.spec.name.clone(),
        program: order.spec.program.clone(),
        params: order.spec.params.clone(),
        quantity: order.jobs.len(),
        slave: order.slave.clone(),
        requires: order.requires.clone(),
        priority: order.start.priority,
        start: StartView::from(&order.start),
        max_runtime_seconds: order.spec.max_runtime.map(seconds),
        on_overdue: word(&ON_OVERDUE, &order.spec.on_overdue),
        retry: RetryView {
            max_attempts: order.retry.max_attempts,
            on: order.retry.on.iter().map(|on| word(&RETRY_ON, on)).collect(),
        },
        on_interrupt: word(&ON_INTERRUPT, &order.spec.on_interrupt),
        external_id: order.external_id.clone(),
        labels: order.labels.clone(),
        created_at: time(order.created_at),
        jobs,
    }
}

/// A slave: three axes, and one word for where there is room for one only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct SlaveView {
    /// Its name.
    pub(super) name: String,
    key: String,
    /// Its link.
    pub(super) link: &'static str,
    /// What people decided.
    pub(super) mode: &'static str,
    mode_pending: bool,
    activity: &'static str,
    status: &'static str,
    enrolled: &'static str,
    attention: Option<ReasonView>,
    unloading: Option<String>,
    uncertain: Option<String>,
    local_lock: bool,
    cloned: bool,
    doubts: bool,
    last_contact_at: Option<String>,
    last_contact_at_least: bool,
    session: u64,
    programs: Vec<String>,
    labels: BTreeMap<String, String>,
    capacity: u16,
    jobs: Vec<String>,
    clock_offset_ms: i64,
    agent_version: String,
}

/// A slave as a client sees it; `heard` is when it was last heard by this process.
pub(super) fn slave(state: &Master, slave: &SlaveRecord, heard: Option<Time>) -> SlaveView {
    let live = slave.live().is_some();
    let machine = slave.machine.as_ref();
    let last_contact = heard.max(slave.last_contact);
    SlaveView {
        name: slave.name.clone(),
        key: slave.key.fingerprint(),
        link: link(slave),
        mode: slave.operating_mode.mode.name(),
        mode_pending: machine
            .is_none_or(|machine| machine.operating_mode.generation < slave.operating_mode.generation),
        activity: activity(slave).name(),
        status: status(slave),
        enrolled: match slave.enrolled {
            Enrolled::Yes => "yes",
            Enrolled::Pending => "pending",
            Enrolled::Revoked => "revoked",
        },
        attention: machine.and_then(|machine| {
            let code = machine.attention?.name();
            Some(ReasonView { code, text: machine.attention_text()? })
        }),
        unloading: machine.and_then(|machine| machine.unloading).map(|job| job.to_string()),
        uncertain: machine.and_then(|machine| machine.uncertain).map(|job| job.to_string()),
        local_lock: machine.is_some_and(|machine| machine.local_lock),
        cloned: slave.cloned_at.is_some(),
        doubts: slave.doubts,
        last_contact_at: last_contact.map(time),
        last_contact_at_least: last_contact.is_some() && !live && heard.is_none(),
        session: slave.session.0,
        programs: slave.programs.clone(),
        labels: slave.labels.clone(),
        capacity: slave.capacity,
        jobs: state.book.held_by(slave.key).map(|job| job.id.to_string()).collect(),
        clock_offset_ms: slave.clock_offset_ms,
        agent_version: slave.agent.clone(),
    }
}

/// The link's axis.
pub(super) fn link(slave: &SlaveRecord) -> &'static str {
    if slave.live().is_some() {
        "online"
    } else if slave.store.is_none() {
        "never"
    } else {
        "offline"
    }
}

fn activity(slave: &SlaveRecord) -> Activity {
    slave.machine.as_ref().map_or(Activity::Unknown, |machine| machine.activity)
}

/// One word for displays. What keeps a machine from work goes before what it does, and that its word may be old goes
/// before that word.
pub(super) fn status(slave: &SlaveRecord) -> &'static str {
    let machine = slave.machine.as_ref();
    let needs_person =
        machine.is_some_and(|machine| machine.attention.is_some() || machine.uncertain.is_some());
    match (slave.operating_mode.mode, activity(slave)) {
        (Mode::Quarantined, _) => "quarantined",
        (Mode::Disabled, _) => "disabled",
        (Mode::Maintenance, _) => "maintenance",
        _ if slave.live().is_none() => "offline",
        (_, Activity::Fault) => "fault",
        (_, Activity::Attention) => "attention",
        _ if needs_person || slave.cloned_at.is_some() => "attention",
        (_, Activity::MachineOff) => "machine_off",
        (_, Activity::Unloading) => "unloading",
        (_, Activity::Paused) => "paused",
        (Mode::Draining, _) => "draining",
        (Mode::Production, activity) => activity.name(),
    }
}

/// How many there are of what; what needs a person is counted and not shown.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct CountsView {
    jobs: BTreeMap<&'static str, usize>,
    slaves: BTreeMap<&'static str, usize>,
    needs: usize,
}

/// The words for a slave's link.
pub(super) const LINKS: [&str; 3] = ["online", "offline", "never"];

/// Everything that is counted, by the book's own numbers. Of slaves those that belong here or want to.
pub(super) fn counts(state: &Master, now: Time) -> CountsView {
    let unended = State::ALL.into_iter().filter(|state| !state.is_ended());
    let mut slaves: BTreeMap<_, usize> = LINKS.into_iter().map(|link| (link, 0)).collect();
    for slave in state.slaves.values().filter(|slave| slave.enrolled != Enrolled::Revoked) {
        *slaves.entry(link(slave)).or_default() += 1;
    }
    CountsView {
        jobs: unended.map(|job_state| (job_state.name(), state.book.count(job_state))).collect(),
        slaves,
        needs: master::count_needs(state, now),
    }
}

/// Something that needs a person.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct NeedView {
    need: &'static str,
    slave: Option<String>,
    slave_key: Option<String>,
    job: Option<String>,
    text: String,
    action: &'static str,
    command: String,
    risk: &'static str,
}

/// Something that needs a person, with its slave's name.
pub(super) fn need(state: &Master, needed: Needed) -> NeedView {
    let slave = needed.slave.and_then(|key| state.slaves.get(&key));
    NeedView {
        need: needed.need.name(),
        slave: slave.map(|slave| slave.name.clone()),
        slave_key: slave.map(|slave| slave.key.fingerprint()),
        job: match needed.subject {
            Subject::Slave(_) => None,
            Subject::Job(id) => Some(id.to_string()),
        },
        text: needed.text,
        action: needed.need.action(),
        command: needed.command,
        risk: needed.need.risk(),
    }
}

/// What one handshake came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ReceiptView {
    number: u32,
    at: String,
    took_ms: u64,
    session: u64,
    store: &'static str,
    rebooted: bool,
    lines: Vec<ReceiptLineView>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
struct ReceiptLineView {
    job: String,
    attempt: u32,
    master: Option<&'static str>,
    slave: Option<&'static str>,
    line: String,
    verdict: &'static str,
}

impl From<&Receipt> for ReceiptView {
    fn from(receipt: &Receipt) -> Self {
        let lines = receipt.lines.iter().map(|line| ReceiptLineView {
            job: line.job.to_string(),
            attempt: line.attempt.0,
            master: line.mine.map(State::name),
            slave: line.theirs.map(State::name),
            line: line.line.clone(),
            verdict: line.verdict.name(),
        });
        Self {
            number: receipt.number,
            at: time(receipt.at),
            took_ms: receipt.took.0,
            session: receipt.session.0,
            store: receipt.store.name(),
            rebooted: receipt.rebooted,
            lines: lines.collect(),
        }
    }
}

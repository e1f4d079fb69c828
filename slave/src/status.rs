//! The state of this slave, for people at the machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reloop_node::store::StoreError;
use reloop_protocol::job::State;
use reloop_protocol::slave::{self, ClockSource, Job, Link, Now, Slave};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_protocol::time::Time;
use serde::{Deserialize, Serialize};

/// The answer to `reloop-slave status`. Times are texts in the form of RFC 3339.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub name: String,
    /// The agent's version.
    pub agent: String,
    /// The beginning of the slave's public key.
    pub key: String,
    pub link: LinkStatus,
    pub machine: MachineStatus,
    /// What happens next by itself, if nothing else happens before.
    pub next: Option<NextStatus>,
    pub jobs: Vec<JobStatus>,
    /// The number of recent outcomes.
    pub remembered: usize,
    pub clock: ClockStatus,
    pub store: StoreStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `online`, `connecting` or `offline`.
    pub state: String,
    /// The address that the slave dials.
    pub url: String,
    /// The master that the slave belongs to.
    pub master: Option<String>,
    /// How often that master was restored.
    pub epoch: Option<u32>,
    /// The number of connections so far.
    pub session: u64,
    /// The connected master is older than what the slave has seen of it before, and is not obeyed.
    pub doubtful: bool,
    /// When the last byte came from the master, by this box's clock.
    pub last_heard_at: Option<String>,
    /// Why there was no link the last time.
    pub trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    pub activity: String,
    /// The operating mode.
    pub mode: String,
    /// The finished job whose work still lies in the machine.
    pub unloading: Option<String>,
    /// Why a person is needed.
    pub attention: Option<String>,
    /// The cause of the attention, and what ends it.
    pub attention_text: Option<String>,
    /// A person at the machine has locked remote starts out.
    pub local_lock: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStatus {
    /// By this box's clock.
    pub at: String,
    pub why: String,
}

/// A job that the slave holds. Times are by the master's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    pub id: String,
    pub order: String,
    pub name: Option<String>,
    pub program: String,
    pub params: BTreeMap<String, String>,
    pub state: String,
    /// What the master wants.
    pub desired: String,
    pub attempt: u32,
    pub run: u32,
    pub waiting_for: Option<String>,
    /// How much of the work is done, in thousandths.
    pub progress: Option<u16>,
    /// What the program says that it does.
    pub note: Option<String>,
    /// A code for programs.
    pub reason: Option<String>,
    pub reason_text: Option<String>,
    pub flags: Vec<String>,
    pub not_before: Option<String>,
    pub deadline: Option<String>,
    pub accepted_at: String,
    pub started_at: Option<String>,
    pub ended_at: Option<String>,
    /// What the machine said at the end of the work.
    pub outcome: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// How the slave tells the master's time: `master` (measured in this boot), `wall` (this box's own clock, which the
    /// config trusts) or `unknown`.
    pub source: String,
    /// How much the master's clock is ahead of this box's, in milliseconds.
    pub offset_ms: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    pub healthy: bool,
    /// Why it is not healthy, and what to do.
    pub text: Option<String>,
}

impl Status {
    /// `last_heard` and `trouble` are about the link.
    pub(crate) fn of(
        state: &Slave,
        now: Now,
        url: &str,
        last_heard: Option<Time>,
        trouble: Option<String>,
        store: Result<(), StoreError>,
    ) -> Self {
        let (link, doubtful) = match state.link {
            Link::Down => ("offline", false),
            Link::Opened { .. } => ("connecting", false),
            Link::Challenged { doubtful, .. } | Link::Introduced { doubtful, .. } => ("connecting", doubtful),
            Link::Live { doubtful, .. } => ("online", doubtful),
        };
        let machine = slave::machine_report(state);
        let (source, offset_ms) = match slave::master_clock(state, now) {
            Some((time, ClockSource::Master)) => ("master", Some(time.ahead_of(now.wall))),
            Some((time, ClockSource::Wall)) => ("wall", Some(time.ahead_of(now.wall))),
            None => ("unknown", None),
        };
        Self {
            name: state.settings.name.clone(),
            agent: state.settings.agent.clone(),
            key: state.settings.key.fingerprint(),
            link: LinkStatus {
                state: link.to_owned(),
                url: url.to_owned(),
                master: state.node.binding.map(|binding| binding.master.to_string()),
                epoch: state.node.binding.map(|binding| binding.epoch.0),
                session: state.node.session.0,
                doubtful,
                last_heard_at: last_heard.map(rfc3339),
                trouble,
            },
            machine: MachineStatus {
                activity: machine.activity.name().to_owned(),
                mode: machine.operating_mode.mode.name().to_owned(),
                unloading: machine.unloading.map(|job| job.to_string()),
                attention: machine.attention.map(|attention| attention.name().to_owned()),
                attention_text: machine.attention_text(),
                local_lock: machine.local_lock,
            },
            next: slave::next_deadline(state, now).map(|(boot_ms, why)| {
                let wait = i64::try_from(boot_ms.saturating_sub(now.boot_ms)).unwrap_or(i64::MAX);
                let at = rfc3339(Time(now.wall.0.saturating_add(wait)));
                NextStatus { at, why: why.text().to_owned() }
            }),
            jobs: state.jobs.values().map(JobStatus::of).collect(),
            remembered: state.recent_outcomes.len(),
            clock: ClockStatus { source: source.to_owned(), offset_ms },
            store: StoreStatus { healthy: store.is_ok(), text: store.err().map(|error| error.to_string()) },
        }
    }

    /// As lines for a terminal.
    pub fn for_people(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            writeln!(text, "{name:<10} {value}").expect("writing to a string never fails");
        };
        row("slave", &format!("{} (key {}, agent {})", self.name, self.key, self.agent));
        let link = &self.link;
        row("link", &format!("{} to {}, session {}", link.state, link.url, link.session));
        match (&link.master, link.epoch) {
            (Some(master), Some(epoch)) => row("master", &format!("{master}, epoch {epoch}")),
            _ => row("master", "none yet: not enrolled"),
        }
        if link.doubtful {
            row(
                "",
                "this master is older than what was seen before: it is not obeyed until a person confirms it there",
            );
        }
        if let Some(heard) = &link.last_heard_at {
            row("heard", heard);
        }
        if let (Some(trouble), true) = (&link.trouble, link.state != "online") {
            row("trouble", trouble);
        }
        let machine = &self.machine;
        row("machine", &format!("{}, mode {}", machine.activity, machine.mode));
        if let Some(job) = &machine.unloading {
            row("", &format!("not yet clear of {job}: `reloop-slave ready` when it is"));
        }
        if let Some(attention) = &machine.attention {
            row("", &format!("needs a person ({attention}): `reloop-slave clear` after a look at it"));
            if let Some(text) = &machine.attention_text {
                row("", text);
            }
        }
        if machine.local_lock {
            row("", "remote starts are locked out: `reloop-slave local off` lets them in");
        }
        let clock = match (self.clock.source.as_str(), self.clock.offset_ms) {
            ("master", Some(offset)) => format!("the master's, {offset} ms ahead of this box's"),
            ("wall", _) => "this box's own, trusted by its settings".to_owned(),
            _ => "unknown, so timed jobs wait for the master, or for a time service that the settings trust"
                .to_owned(),
        };
        row("clock", &clock);
        if let Some(next) = &self.next {
            row("next", &format!("{}: {}", next.at, next.why));
        }
        row("store", self.store.text.as_deref().unwrap_or("healthy"));
        row("jobs", &format!("{} here, {} forgotten outcomes remembered", self.jobs.len(), self.remembered));
        for job in &self.jobs {
            text.push_str(&job.for_people());
        }
        text
    }
}

impl JobStatus {
    fn of(job: &Job) -> Self {
        let report = &job.report;
        let desired = match job.desired {
            Desired::Run => "run",
            Desired::Pause => "pause",
            Desired::Cancel(CancelMode::IfNotStarted) => "cancel if not started",
            Desired::Cancel(CancelMode::SafePoint) => "cancel at a safe point",
            Desired::Cancel(CancelMode::Now) => "cancel now",
            Desired::Return => "return",
            Desired::Resolve(_) => "resolve",
        };
        Self {
            id: report.job.to_string(),
            order: job.spec.order.to_string(),
            name: job.spec.name.clone(),
            program: job.spec.program.clone(),
            params: job.spec.params.clone(),
            state: report.state.name().to_owned(),
            desired: desired.to_owned(),
            attempt: report.attempt.0,
            run: report.run.0,
            waiting_for: report.waiting_for.map(|waits| waits.name().to_owned()),
            progress: report.progress,
            note: report.note.clone(),
            reason: report.reason.as_ref().map(|reason| reason.code.name().to_owned()),
            reason_text: report.reason.as_ref().map(|reason| reason.text.clone()),
            flags: report.flags.names().map(str::to_owned).collect(),
            not_before: job.start.not_before.map(rfc3339),
            deadline: job.start.deadline.map(rfc3339),
            accepted_at: rfc3339(report.accepted_at),
            started_at: report.started_at.map(rfc3339),
            ended_at: report.ended_at.map(rfc3339),
            outcome: report.outcome.as_ref().map(|outcome| outcome.text.clone()),
        }
    }

    fn for_people(&self) -> String {
        let mut text = format!("  {} {} ({}", self.id, self.state, self.program);
        for (name, value) in &self.params {
            write!(text, " {name}={value}").expect("writing to a string never fails");
        }
        write!(text, "), attempt {}", self.attempt).expect("writing to a string never fails");
        if let Some(waiting_for) = &self.waiting_for {
            write!(text, ", waits for {waiting_for}").expect("writing to a string never fails");
        }
        if let Some(permille) = self.progress {
            write!(text, ", {}.{} %", permille / 10, permille % 10).expect("writing to a string never fails");
        }
        text.push('\n');
        let mut row = |name: &str, value: Option<&String>| {
            if let Some(value) = value {
                writeln!(text, "    {name:<12} {value}").expect("writing to a string never fails");
            }
        };
        row("name", self.name.as_ref());
        row("not before", self.not_before.as_ref());
        row("deadline", self.deadline.as_ref());
        row("started", self.started_at.as_ref());
        row("ended", self.ended_at.as_ref());
        row("note", self.note.as_ref());
        row("outcome", self.outcome.as_ref());
        row("reason", self.reason_text.as_ref());
        if self.state == State::Uncertain.name() {
            let id = &self.id;
            row(
                "to do",
                Some(&format!(
                    "look at the machine, then `reloop-slave resolve {id} succeeded|failed|canceled`"
                )),
            );
        }
        text
    }
}

fn rfc3339(time: Time) -> String {
    match jiff::Timestamp::from_millisecond(time.0) {
        Ok(stamp) => stamp.to_string(),
        // After the year 9999: a clock is wrong.
        Err(_) => time.to_string(),
    }
}

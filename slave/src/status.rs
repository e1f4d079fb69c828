//! Everything that there is to say about this slave, for a person at the machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use reloop_node::store::StoreError;
use reloop_protocol::job::State;
use reloop_protocol::slave::{self, Job, Link, Now, Slave};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_protocol::time::Time;
use serde::{Deserialize, Serialize};

/// The slave, as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its label.
    pub name: String,
    /// The agent's version.
    pub agent: String,
    /// The beginning of its public key.
    pub key: String,
    /// Its connection.
    pub link: LinkStatus,
    /// Its machine.
    pub machine: MachineStatus,
    /// What happens next by itself, if nothing else does before.
    pub next: Option<NextStatus>,
    /// The jobs that it holds.
    pub jobs: Vec<JobStatus>,
    /// Outcomes that it was told to forget and still remembers.
    pub remembered: usize,
    /// Its clock.
    pub clock: ClockStatus,
    /// Its memory.
    pub store: StoreStatus,
}

/// A slave's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkStatus {
    /// `online`, `connecting` or `offline`.
    pub state: String,
    /// Where it dials.
    pub url: String,
    /// The master that it belongs to.
    pub master: Option<String>,
    /// How often that master was restored.
    pub epoch: Option<u32>,
    /// Connections so far.
    pub session: u64,
    /// The master there is older than what was seen before, and is not obeyed.
    pub doubtful: bool,
    /// When the last byte of it came, by this box's clock.
    pub last_heard_at: Option<String>,
    /// Why there was no link the last time.
    pub trouble: Option<String>,
}

/// A machine's condition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// What it does.
    pub activity: String,
    /// What people decided at the master.
    pub mode: String,
    /// The finished job whose work still lies in it.
    pub unloading: Option<String>,
    /// Why a person is needed.
    pub attention: Option<String>,
    /// The same in words: the cause, and what ends it.
    pub attention_text: Option<String>,
    /// A person here has locked remote starts out.
    pub local_lock: bool,
}

/// A moment for which the slave waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextStatus {
    /// When, by this box's clock.
    pub at: String,
    /// What it is for.
    pub why: String,
}

/// A job that the slave holds. Times are by the master's clock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Which.
    pub id: String,
    /// Of which order.
    pub order: String,
    /// A label.
    pub name: Option<String>,
    /// What does it.
    pub program: String,
    /// With what.
    pub params: BTreeMap<String, String>,
    /// What it is.
    pub state: String,
    /// What the master wants.
    pub desired: String,
    /// Which attempt.
    pub attempt: u32,
    /// Which beginning of that.
    pub run: u32,
    /// What an accepted job waits for.
    pub waiting_for: Option<String>,
    /// How far, in thousandths.
    pub progress: Option<u16>,
    /// What the program says.
    pub note: Option<String>,
    /// Why it is what it is: a word for programs...
    pub reason: Option<String>,
    /// ...and one for people.
    pub reason_text: Option<String>,
    /// Beside the state.
    pub flags: Vec<String>,
    /// It may start from here on.
    pub not_before: Option<String>,
    /// It may start until here.
    pub deadline: Option<String>,
    /// When it came.
    pub accepted_at: String,
    /// When the machine began.
    pub started_at: Option<String>,
    /// When it ended.
    pub ended_at: Option<String>,
    /// What the machine said at its end.
    pub outcome: Option<String>,
}

/// How this box tells the master's time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockStatus {
    /// `master` (measured in this boot), `wall` (this box's own, which the config trusts) or `unknown`.
    pub source: String,
    /// How much the master's clock is ahead of this box's, in milliseconds.
    pub offset_ms: Option<i64>,
}

/// The slave's memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// It can be relied on.
    pub healthy: bool,
    /// Why not, and what to do.
    pub text: Option<String>,
}

impl Status {
    /// What the state says; `last_heard` and `trouble` are about the link.
    pub fn of(
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
        let (source, offset_ms) = match state.node.sync {
            Some(sync) if Some(sync.boot) == state.volatile.boot => {
                let elapsed = i64::try_from(now.boot_ms.saturating_sub(sync.boot_ms)).unwrap_or(i64::MAX);
                ("master", Some(sync.master.0.saturating_add(elapsed).saturating_sub(now.wall.0)))
            }
            Some(sync) if state.settings.trust_clock => ("wall", Some(sync.master.0 - sync.wall.0)),
            None if state.settings.trust_clock => ("wall", None),
            Some(_) | None => ("unknown", None),
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

    /// For a terminal.
    pub fn for_people(&self) -> String {
        let mut text = String::new();
        let mut row = |name: &str, value: &str| {
            writeln!(text, "{name:<10} {value}").expect("a string takes everything");
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
            _ => "unknown until the master was reached in this boot: timed jobs wait".to_owned(),
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
            write!(text, " {name}={value}").expect("a string takes everything");
        }
        write!(text, "), attempt {}", self.attempt).expect("a string takes everything");
        if let Some(waiting_for) = &self.waiting_for {
            write!(text, ", waits for {waiting_for}").expect("a string takes everything");
        }
        if let Some(permille) = self.progress {
            write!(text, ", {}.{} %", permille / 10, permille % 10).expect("a string takes everything");
        }
        text.push('\n');
        let mut row = |name: &str, value: Option<&String>| {
            if let Some(value) = value {
                writeln!(text, "    {name:<12} {value}").expect("a string takes everything");
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
        // Past the year 9999, by a clock that is wrong.
        Err(_) => time.to_string(),
    }
}

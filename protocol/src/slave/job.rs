//! A job as the slave keeps it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::RunKey;
use super::clock::{Stretch, WorkClock};
use crate::id::{ReportSeq, Run};
use crate::job::State;
use crate::limits::labels_size;
use crate::message::{Flags, Reason, ReasonCode, Record, Report, Source};
use crate::spec::{CancelMode, Desired, DesiredState, Gate, Spec, SpecDigest, StartRule};
use crate::time::{Millis, Time};

/// A job as the slave keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Job {
    pub spec: Spec,
    /// The digest of `spec`.
    pub digest: SpecDigest,
    /// What the newest desired state wants.
    pub desired: Desired,
    /// The start rule of the newest desired state that came while the job was accepted or had not begun.
    pub start: StartRule,
    /// The newest report, with the job's state.
    pub report: Report,
    /// Whether its `not_before` needs no judging any more: it came in time, had passed when the slave was given the job, or a missed
    /// start was let go by its `late` or by a person's release.
    pub due: bool,
    /// Whether its start was missed, so that a person has to release it.
    pub missed: bool,
    /// Whether an earlier run of this attempt began within the start rule's window. Then the next run need not, unless the window is
    /// changed.
    pub window_met: bool,
    /// Whether a person at the machine paused it: only a person there can resume it.
    pub paused_locally: bool,
    /// How often this attempt was interrupted.
    pub interruptions: u32,
    /// What is kept only for the run under way.
    pub run: RunState,
    /// The labels that a slave must have to do it.
    pub requires: BTreeMap<String, String>,
    /// Why the config of this start of the agent does not allow it, if it does not. Judged anew at each start, and not on disk.
    #[serde(skip)]
    pub unfit: Option<Reason>,
}

/// What a slave keeps about one run. It is empty when a run begins and is emptied when the run ends: nothing that was asked of
/// one run has been asked of the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct RunState {
    /// Whether it has run longer than allowed and that was acted upon.
    pub overrun: bool,
    /// Whether the machine last said that it is paused.
    pub paused: bool,
    /// The machine was asked to pause (true) or to resume (false) and has not answered; or it will be asked, once it has said
    /// what it does.
    pub asked_to_pause: Option<bool>,
    /// How it is being stopped; or how it will be, once the machine has said what it does.
    pub stopping: Option<CancelMode>,
    /// Who at this slave decided to stop it: a person at the machine, or the slave because it ran too long. It stays set if the
    /// machine refuses to stop.
    pub stop_decided: Option<Source>,
    /// How long the machine has worked before [`works_since`](Self::works_since).
    pub worked: Millis,
    /// When it began to work without a pause; `None` while it is paused, and before it was first known to work.
    pub works_since: Option<Stretch>,
}

/// The earliest and latest start of a [`StartRule`].
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Window {
    pub(super) not_before: Option<Time>,
    pub(super) deadline: Option<Time>,
}

impl Job {
    /// A job that has just been taken.
    pub(super) fn taken(
        spec: Spec,
        requires: BTreeMap<String, String>,
        wanted: &DesiredState,
        at: Time,
    ) -> Self {
        let report = Report {
            job: wanted.job,
            attempt: wanted.attempt,
            run: Run(0),
            generation: wanted.generation,
            seq: ReportSeq::default(),
            state: State::Accepted,
            waiting_for: None,
            progress: None,
            note: None,
            accepted_at: at,
            started_at: None,
            started_generation: None,
            ended_at: None,
            outcome: None,
            reason: None,
            flags: Flags::default(),
            source: Source::Remote,
        };
        Self { requires, ..Self::new(spec, wanted.digest, wanted.desired, wanted.start, report) }
    }

    /// A forgotten job, with its outcome to tell again.
    pub(super) fn remembered(record: Record) -> Self {
        let Record { spec, start, report, requires } = record;
        let digest = spec.digest();
        Self { requires, ..Self::new(spec, digest, Desired::Run, start, report) }
    }

    /// All of it, for a master that does not know it.
    pub(super) fn record(&self) -> Record {
        Record {
            spec: self.spec.clone(),
            start: self.start,
            report: self.report.clone(),
            requires: self.requires.clone(),
        }
    }

    fn new(spec: Spec, digest: SpecDigest, desired: Desired, start: StartRule, report: Report) -> Self {
        Self {
            spec,
            digest,
            desired,
            start,
            report,
            due: false,
            missed: false,
            window_met: false,
            paused_locally: false,
            interruptions: 0,
            run: RunState::default(),
            requires: BTreeMap::new(),
            unfit: None,
        }
    }

    /// How many bytes its work takes on the wire.
    pub(super) fn size(&self) -> usize {
        self.spec.size() + labels_size(&self.requires)
    }

    /// The window in which its next run has to begin: none if an earlier run met it.
    pub(super) fn window(&self) -> Window {
        if self.window_met {
            return Window::default();
        }
        Window { not_before: self.start.not_before, deadline: self.start.deadline }
    }

    /// Whether it may start depends on the time.
    pub(super) fn is_timed(&self) -> bool {
        let window = self.window();
        let is_released = matches!(self.start.gate, Gate::Released { .. });
        window.not_before.is_some() || window.deadline.is_some() || is_released
    }

    /// Whether somebody wanted it to end: the master, a person at the machine, or its order because it ran too long. Still true if the
    /// machine refuses to stop.
    pub(super) fn is_unwanted(&self) -> bool {
        matches!(self.desired, Desired::Cancel(_))
            || self.run.stopping.is_some()
            || self.run.stop_decided.is_some()
    }

    /// Whether its newest reason has this code.
    pub(super) fn says(&self, code: ReasonCode) -> bool {
        self.report.reason.as_ref().is_some_and(|reason| reason.code == code)
    }

    /// Whether the machine may have something of it.
    pub(super) fn may_be_at_the_machine(&self) -> bool {
        self.report.state.is_executing() || self.report.state == State::Uncertain
    }

    /// Whether the machine may be asked to pause or to resume it.
    pub(super) fn is_pausable(&self) -> bool {
        matches!(self.report.state, State::Starting | State::Running | State::Paused)
    }

    /// Who wanted it to end, if somebody did.
    pub(super) fn canceled_by(&self) -> Option<Source> {
        self.is_unwanted().then(|| self.run.stop_decided.unwrap_or(Source::Remote))
    }

    /// The job without what need not survive the agent.
    pub(super) fn durable(&self) -> Self {
        let mut job = self.clone();
        job.report.progress = None;
        job.report.note = None;
        job.report.waiting_for = None;
        job.report.seq.count = 0;
        job.unfit = None;
        job
    }

    /// The run that the report is about.
    pub fn work(&self) -> RunKey {
        RunKey { job: self.report.job, attempt: self.report.attempt, run: self.report.run }
    }
}

impl RunState {
    /// Adds a stretch of work that began in another boot to `worked`, and begins a new one: from here on no clock that is set changes
    /// what was measured.
    pub(super) fn rebase_stretch(&mut self, clock: WorkClock) {
        if let Some(since) = self.works_since.filter(|since| clock.can_rebase(*since)) {
            self.worked = Millis(self.worked.0.saturating_add(clock.since(since).0));
            self.works_since = Some(clock.stretch());
        }
    }

    /// The machine says whether it is paused; if it was asked for that, it has answered. `clock` is `None` for a run that has not
    /// begun: it has no work time.
    pub(super) fn set_paused(&mut self, paused: bool, clock: Option<WorkClock>) {
        self.paused = paused;
        match (clock, self.works_since) {
            (Some(clock), Some(since)) if paused => {
                self.worked = Millis(self.worked.0.saturating_add(clock.since(since).0));
                self.works_since = None;
            }
            (Some(clock), None) if !paused => self.works_since = Some(clock.stretch()),
            (Some(_), Some(_) | None) | (None, _) => {}
        }
        if self.asked_to_pause == Some(paused) {
            self.asked_to_pause = None;
        }
    }
}

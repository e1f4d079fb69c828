//! Progress as machines report it and nodes show it: it never decreases within a run, and no run shows that of another.

use std::collections::BTreeMap;

use reloop_protocol::id::JobId;
use reloop_protocol::job::End;
use reloop_protocol::master::{self, SlaveLink};
use reloop_protocol::message::{Message, Report};
use reloop_protocol::slave::{Ended, Fact, Probed, RunKey};

use super::{Invariant, World};

/// The progress of runs, in thousandths.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Progress {
    /// As the slave received it from its machine.
    heard: BTreeMap<RunKey, u16>,
    /// As a slave has shown it.
    by_slave: BTreeMap<(usize, RunKey), u16>,
    /// As the master has shown it.
    by_master: BTreeMap<RunKey, u16>,
}

const DONE: u16 = 1_000;

/// The note beside a machine's progress: it names the run.
pub(super) fn note_of(run: RunKey) -> String {
    format!("attempt {} run {}", run.attempt, run.run)
}

fn run_of(report: &Report) -> RunKey {
    RunKey { job: report.job, attempt: report.attempt, run: report.run }
}

/// Why a report shows another run, if it does.
fn strays(report: &Report) -> Option<String> {
    let note = report.note.as_ref().filter(|note| **note != note_of(run_of(report)))?;
    Some(format!("{} in attempt {} run {} says: {note}", report.job, report.attempt, report.run))
}

impl World {
    /// The runs whose progress a slave has shown before they ended.
    pub fn progress_of_slaves(&self) -> impl Iterator<Item = RunKey> {
        let under_way = self.progress.by_slave.iter().filter(|(_, shown)| **shown < DONE);
        under_way.map(|((_, run), _)| *run)
    }

    /// The same of the master.
    pub fn progress_of_master(&self) -> impl Iterator<Item = RunKey> {
        self.progress.by_master.iter().filter(|(_, shown)| **shown < DONE).map(|(run, _)| *run)
    }

    /// A slave receives this fact next.
    pub(super) fn note_progress(&mut self, run: RunKey, fact: &Fact) {
        let permille = match fact {
            Fact::Progressed { permille, .. } | Fact::Probed(Probed::Alive { permille, .. }) => *permille,
            Fact::Ended(Ended { end: End::Succeeded, .. })
            | Fact::Probed(Probed::Ended(Ended { end: End::Succeeded, .. })) => Some(DONE),
            Fact::Started
            | Fact::Paused
            | Fact::Resumed
            | Fact::Ended(_)
            | Fact::StartRejected(_)
            | Fact::StartRefused(_)
            | Fact::StopRefused(_)
            | Fact::PauseRefused(_)
            | Fact::Probed(_) => None,
        };
        if let Some(permille) = permille {
            let heard = self.progress.heard.entry(run).or_default();
            *heard = permille.max(*heard);
        }
    }

    /// Checks what a slave shows of its jobs.
    pub(super) fn check_slaves_progress(&mut self, slave: usize) {
        // A test that injects facts checks them itself.
        let held = &self.boxes[slave];
        let (Some(state), true) = (&held.state, held.machine.tells_progress) else { return };
        let mut wrong = None;
        for job in state.jobs.values().filter(|job| !self.ledger.torn.contains(&job.report.job)) {
            wrong = wrong.or_else(|| strays(&job.report));
            let (run, Some(shown)) = (run_of(&job.report), job.report.progress) else { continue };
            let heard = self.progress.heard.get(&run).copied().unwrap_or_default();
            let before = self.progress.by_slave.entry((slave, run)).or_default();
            if shown > heard || shown < *before {
                wrong = Some(format!("{run:?} is at {shown} after {before}, and its machine said {heard}"));
            }
            *before = shown;
        }
        if let Some(how) = wrong {
            self.violate(Invariant::ProgressGoesForward, format!("slave {slave}: {how}"));
        }
    }

    /// The jobs that a message to the master may change.
    pub(super) fn spoken_of(&self, master: &master::Master, event: &master::Event) -> Vec<JobId> {
        let master::Event::Received { link, message } = event else { return Vec::new() };
        match message {
            Message::Report(report) => vec![report.job],
            Message::Settled(settled) => {
                let record = master.links.get(link).and_then(|key| master.slaves.get(key.as_ref()?));
                let rows = match record.map(|record| &record.link) {
                    Some(SlaveLink::Welcomed { hello, .. }) => &hello.rows[..],
                    Some(SlaveLink::Down | SlaveLink::Live { .. }) | None => &[],
                };
                let reports = settled.reports.iter().map(|report| report.job);
                reports.chain(rows.iter().map(|row| row.job)).collect()
            }
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::DesiredState(_)
            | Message::Forget(_)
            | Message::OperatingMode(_)
            | Message::Ask(_)
            | Message::Answer(_)
            | Message::Ping
            | Message::Pong => Vec::new(),
        }
    }

    /// Checks what the master shows of these jobs.
    pub(super) fn check_masters_progress(&mut self, jobs: &[JobId]) {
        // A master that forgets, or two of them, may use one attempt number twice.
        let told = self.boxes.iter().any(|held| held.machine.tells_progress);
        if !told || self.ledger.masters_forgot || self.ledger.master_lies {
            return;
        }
        for id in jobs {
            if self.ledger.torn.contains(id) {
                continue;
            }
            let Some(report) = self.find_job(*id).and_then(|job| job.report.clone()) else { continue };
            let mut wrong = strays(&report);
            if let Some(shown) = report.progress {
                let run = run_of(&report);
                let heard = self.progress.heard.get(&run).copied().unwrap_or_default();
                let before = self.progress.by_master.entry(run).or_default();
                if shown > heard || shown < *before {
                    wrong =
                        Some(format!("{run:?} is at {shown} after {before}, and its machine said {heard}"));
                }
                *before = shown;
            }
            if let Some(how) = wrong {
                self.violate(Invariant::ProgressGoesForward, format!("master: {how}"));
            }
        }
    }
}

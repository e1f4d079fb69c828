//! What the machine says, and what is done with the machine.

use super::desired::why_stopped;
use super::step::Rules;
use super::{AfterFailure, Damage, Effect, Ended, Fact, Ignored, Probed, Probing, Release, RunKey, Slave};
use crate::id::{BootId, JobId, StoreId};
use crate::job::{self, End, OnInterrupt, State};
use crate::limits::{CAUSE_BYTES, clip};
use crate::message::{ALL_OF_IT, Activity, Attention, Flags, MachineReport, Reason, ReasonCode, Source};
use crate::spec::{CancelMode, Desired};

/// The machine's condition, from everything that the slave knows.
pub fn machine_report(state: &Slave) -> MachineReport {
    let executing = state.jobs.values().find(|job| job.report.state.is_executing());
    let uncertain =
        state.jobs.values().find(|job| job.report.state == State::Uncertain).map(|job| job.report.job);
    let activity = match executing.map(|job| job.report.state) {
        _ if !state.volatile.probing.is_empty() => Activity::Unknown,
        Some(State::Starting) => Activity::Preparing,
        Some(State::Paused) => Activity::Paused,
        Some(_) => Activity::Running,
        None if state.node.attention == Some(Attention::Fault) => Activity::Fault,
        None if state.node.attention.is_some() || uncertain.is_some() => Activity::Attention,
        None if state.node.unloading.is_some() => Activity::Unloading,
        None if state.node.local_lock || !state.node.operating_mode.mode.may_start() => Activity::Idle,
        None => Activity::Ready,
    };
    MachineReport {
        activity,
        unloading: state.node.unloading,
        attention: state.node.attention,
        uncertain,
        local_lock: state.node.local_lock,
        operating_mode: state.node.operating_mode,
        cause: state.node.cause.clone().filter(|_| state.node.attention == Some(Attention::MachineUnfit)),
    }
}

/// It is paused or goes on, as was asked; or nobody asks any more.
pub(super) fn no_longer_refused(job: &mut super::Job) {
    if job.report.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::PauseRefused) {
        job.report.reason = None;
    }
}

/// The machine may have something of it.
pub(super) fn may_be_probed(job: &super::Job) -> bool {
    job.report.state.is_executing() || job.report.state == State::Uncertain
}

impl Rules {
    pub(super) fn agent_started(
        &mut self,
        boot: BootId,
        fingerprint: Option<[u8; 16]>,
        known_key: bool,
        next_store: StoreId,
        damage: Damage,
    ) {
        let node = &mut self.state.node;
        if damage.node || (node.starts == 0 && known_key) {
            node.attention = Some(Attention::StoreReplaced);
        }
        // What is lost may be what the machine does: to its jobs it is as if the database had gone back in time.
        if damage.jobs > 0 {
            node.attention = node.attention.or(Some(Attention::StoreRolledBack));
        }
        if node.fingerprint.is_some() && fingerprint.is_some() && node.fingerprint != fingerprint {
            node.attention = node.attention.or(Some(Attention::Moved));
        }
        node.fingerprint = fingerprint.or(node.fingerprint);
        node.starts = node.starts.saturating_add(1);
        let starts = node.starts;
        self.state.volatile.boot = Some(boot);
        self.state.volatile.next_store = Some(next_store);
        // The master's disk keeps 0: it does not know what only a report says.
        let first = crate::id::ReportSeq { start: starts, count: 1 };
        self.state.jobs.change(|_| true, |job| job.report.seq = first);
        let doubtful = self.state.jobs.iter().filter(|(_, job)| may_be_probed(job)).map(|(id, _)| *id);
        for id in doubtful.collect::<Vec<_>>() {
            self.probe(id, None);
        }
    }

    /// Asks the machine what it did with a job.
    pub(super) fn probe(&mut self, id: JobId, refused: Option<String>) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        self.effects.push(Effect::Probe { work: job.work(), spec: job.spec.clone() });
        self.state.volatile.probing.insert(id, Probing { since: self.now.boot_ms, refused });
    }

    pub(super) fn machine(&mut self, work: RunKey, fact: Fact) {
        if self.state.jobs.get(&work.job).is_none_or(|job| job.work() != work) {
            self.effects.push(Effect::Ignored(Ignored::OtherRun));
            return;
        }
        let id = work.job;
        // What it came to may be on the master's disk already.
        if self.state.jobs.get(&id).is_some_and(|job| job.report.state.is_ended()) {
            if let Fact::Probed(_) = fact {
                self.state.volatile.probing.remove(&id);
            }
            self.effects.push(Effect::Ignored(Ignored::Ended));
            return;
        }
        match fact {
            Fact::Started => {
                self.is_paused(id, false);
                self.apply(id, job::Event::MachineStarted, Source::Machine);
                self.mark_started(id);
                // A machine may have refused to pause what it had not begun.
                self.follow_pause(id);
            }
            Fact::Progressed { permille, note } => {
                if let Some(job) = self.state.jobs.get_mut(&id)
                    && job.report.state.is_executing()
                {
                    job.report.progress =
                        permille.map(|permille| permille.min(ALL_OF_IT)).or(job.report.progress);
                    job.report.note = note.or(job.report.note.take());
                }
            }
            Fact::Paused => {
                self.is_paused(id, true);
                self.apply(id, job::Event::MachinePaused, Source::Machine);
            }
            Fact::Resumed => {
                self.is_paused(id, false);
                self.apply(id, job::Event::MachineResumed, Source::Machine);
            }
            Fact::Ended(ended) => self.ended(id, ended),
            Fact::StartRejected(reason) => self.never_started(id, reason),
            Fact::StartRefused(why) => self.start_refused(id, why),
            Fact::StopRefused(text) => {
                let Some(job) = self.state.jobs.get_mut(&id) else { return };
                job.run.stopping = None;
                let paused = job.run.paused;
                if self.apply(id, job::Event::StopRefused { paused }, Source::Machine) {
                    self.reason(id, Reason::new(ReasonCode::StopRefused, text));
                    self.follow_pause(id);
                }
            }
            Fact::PauseRefused(text) => {
                if let Some(job) = self.state.jobs.get_mut(&id) {
                    // A person who paused it at the machine did not get what bars others from letting it go on.
                    if job.run.asked_to_pause.take() == Some(true) {
                        job.paused_locally = false;
                    }
                }
                self.reason(id, Reason::new(ReasonCode::PauseRefused, text));
            }
            Fact::Probed(probed) => self.probed(id, probed),
        }
    }

    /// The machine's word, kept beside the state: a stop may be refused, and then it counts again.
    pub(super) fn is_paused(&mut self, id: JobId, paused: bool) {
        let clock = self.work_clock();
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.run.set_paused(paused, clock.filter(|_| job.report.state.is_started()));
            no_longer_refused(job);
        }
    }

    pub(super) fn mark_started(&mut self, id: JobId) {
        let stamp = self.stamp();
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.report.started_at = job.report.started_at.or(Some(stamp));
            job.report.started_generation = job.report.started_generation.or(Some(job.report.generation));
        }
    }

    pub(super) fn ended(&mut self, id: JobId, ended: Ended) {
        let at = ended.at.map_or_else(|| self.stamp(), |wall| self.by_wall(wall));
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let next = match job::next(job.report.state, job::Event::MachineEnded(ended.end)) {
            job::Transition::To(next) => next,
            job::Transition::Unchanged => return,
            // A person has said how it ended before the machine did: an outcome does not change.
            job::Transition::Rejected(why) => return self.effects.push(Effect::Ignored(Ignored::Job(why))),
        };
        let unwanted = job.is_unwanted();
        no_longer_refused(job);
        if next == State::Failed {
            job.report.reason = Some(Reason::new(ReasonCode::MachineFault, ended.outcome.text.clone()));
        }
        if ended.end == End::Succeeded {
            job.report.progress = Some(ALL_OF_IT);
            if unwanted {
                job.report.flags.set(Flags::CANCEL_TOO_LATE);
            }
        }
        job.report.ended_at = Some(at);
        job.report.outcome = Some(ended.outcome);
        if self.apply(id, job::Event::MachineEnded(ended.end), Source::Machine) {
            self.occupy(id, ended.end);
        }
    }

    /// After work was in the machine: finished is not free.
    pub(super) fn occupy(&mut self, id: JobId, end: End) {
        if self.state.settings.release == Release::Ack {
            self.state.node.unloading = Some(id);
        }
        if end == End::Failed && self.state.settings.after_failure == AfterFailure::Hold {
            self.state.node.attention = self.state.node.attention.or(Some(Attention::Fault));
        }
    }

    pub(super) fn never_started(&mut self, id: JobId, reason: Reason) {
        if self.apply(id, job::Event::StartRefused, Source::Machine) {
            self.reason(id, reason);
        }
    }

    /// A machine may refuse a start because it has begun before, and a reply that was lost on the way is a refusal too:
    /// only what it says when it is asked counts.
    pub(super) fn start_refused(&mut self, id: JobId, why: String) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        match job::next(job.report.state, job::Event::StartRefused) {
            job::Transition::To(_) => self.probe(id, Some(why)),
            job::Transition::Unchanged => {}
            job::Transition::Rejected(why) => self.effects.push(Effect::Ignored(Ignored::Job(why))),
        }
    }

    pub(super) fn probed(&mut self, id: JobId, probed: Probed) {
        // A machine may also say by itself that work is gone. That it never began is an answer, to a question or to a stop that
        // came before the beginning, or nothing.
        let asked = self.state.volatile.probing.remove(&id);
        let is_stopping = self.is(id, State::Stopping);
        if asked.is_none() && !is_stopping && matches!(probed, Probed::NeverStarted) {
            return self.effects.push(Effect::Ignored(Ignored::NotProbed));
        }
        self.settled_by_probe(id, asked.and_then(|asked| asked.refused), probed);
    }

    pub(super) fn settled_by_probe(&mut self, id: JobId, refused: Option<String>, probed: Probed) {
        match (refused, probed) {
            // After a crash the intent is still good; here the machine was there, and would not.
            (Some(why), Probed::NeverStarted) if self.may_be_refused(id) => {
                self.postponed(id, why);
            }
            (Some(why), Probed::Unknown(text)) => {
                self.found(id, Probed::Unknown(format!("{text}; before that it refused to start: {why}")));
            }
            (_, probed) => self.found(id, probed),
        }
    }

    /// Its start is under way, canceled again or not.
    pub(super) fn may_be_refused(&self, id: JobId) -> bool {
        let state = self.state.jobs.get(&id).map(|job| job.report.state);
        matches!(state, Some(State::Starting | State::Stopping))
    }

    pub(super) fn found(&mut self, id: JobId, probed: Probed) {
        let clock = self.work_clock();
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let work = job.work();
        match probed {
            Probed::Ended(ended) => self.ended(id, ended),
            Probed::NeverStarted => {
                let unwanted = job.canceled_by();
                if self.apply(id, job::Event::FoundNeverStarted, Source::Slave) {
                    self.explain_doubt(id, "the machine knows nothing of this work, which had begun");
                    if let Some(source) = unwanted.filter(|_| self.is(id, State::Accepted)) {
                        self.call_off(id, source);
                    }
                }
            }
            Probed::Alive { paused, permille } => {
                job.report.progress =
                    permille.map(|permille| permille.min(ALL_OF_IT)).or(job.report.progress);
                job.run.set_paused(paused, clock);
                let (state, desired) = (job.report.state, job.desired);
                let source = job.run.stop_decided.unwrap_or(Source::Remote);
                let told_to_stop = job.run.stopping.filter(|_| state == State::Stopping);
                let to_be_stopped = job.run.stopping.take_if(|_| state != State::Stopping);
                if state == State::Uncertain {
                    job.report.reason = None;
                }
                self.apply(id, job::Event::FoundAlive { paused }, Source::Slave);
                self.mark_started(id);
                // It was asked before the crash, and may never have heard; or it was to be asked now.
                if let (true, Some(asked)) = (state != State::Stopping, self.asked_to_pause(id))
                    && asked != paused
                {
                    self.effects.push(if asked { Effect::Pause(work) } else { Effect::Resume(work) });
                }
                // It was canceled on disk before the machine was touched: it stays canceled.
                if let Some(mode) = told_to_stop {
                    self.effects.push(Effect::Stop { work, now: mode == CancelMode::Now });
                }
                if let Some(mode) = to_be_stopped {
                    self.cancel(id, mode, source);
                }
                if state == State::Uncertain {
                    self.follow(id, desired);
                }
            }
            Probed::Gone => {
                if job.report.state.is_executing() {
                    job.interruptions = job.interruptions.saturating_add(1);
                }
                job.report.flags.set(Flags::INTERRUPTED);
                let too_often = job.interruptions > self.state.settings.max_interruptions;
                let event = match job.spec.on_interrupt {
                    // Nobody wants it begun again, also if the machine refused to stop it.
                    OnInterrupt::Restart if job.is_unwanted() && job.report.state.is_executing() => {
                        job::Event::MachineEnded(End::Stopped)
                    }
                    OnInterrupt::Restart if too_often => job::Event::FoundGone(OnInterrupt::Hold),
                    policy => job::Event::FoundGone(policy),
                };
                let interruptions = job.interruptions;
                if self.apply(id, event, Source::Slave) {
                    let reason = if too_often && self.is(id, State::Uncertain) {
                        let text =
                            format!("interrupted {interruptions} times: say how it ended with `resolve`");
                        Reason::new(ReasonCode::InterruptedTooOften, text)
                    } else {
                        let text = "the box or the agent went down while it ran, and it runs no more";
                        Reason::new(ReasonCode::Interrupted, text)
                    };
                    self.reason(id, reason);
                    if self.is(id, State::Accepted) {
                        self.window_is_met(id);
                    } else if !self.is(id, State::Uncertain) {
                        self.occupy(id, if self.is(id, State::Failed) { End::Failed } else { End::Stopped });
                    }
                }
            }
            Probed::NotBegun(why) => self.postponed(id, why),
            Probed::Unknown(why) => {
                if self.apply(id, job::Event::FoundNothing, Source::Slave) {
                    self.explain_doubt(id, &format!("the machine could not say what it did: {why}"));
                }
            }
        }
    }

    /// The machine could not begin, and nothing began. That is the machine's cause and not the job's: the job waits here,
    /// and nothing starts until a person has mended it and said `clear`.
    pub(super) fn postponed(&mut self, id: JobId, mut why: String) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        let unwanted = job.canceled_by();
        if !self.apply(id, job::Event::StartPostponed, Source::Machine) {
            return;
        }
        clip(&mut why, CAUSE_BYTES);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        if job.report.state == State::Accepted {
            let text = format!("the machine could not begin it: {why}; mend that, then `clear`");
            job.report.reason = Some(Reason::new(ReasonCode::MachineUnfit, text));
            (job.report.progress, job.report.note) = (None, None);
            if job.interruptions == 0 {
                (job.report.started_at, job.report.started_generation) = (None, None);
            }
            if let Some(source) = unwanted {
                self.call_off(id, source);
            }
        }
        let node = &mut self.state.node;
        if node.attention.is_none() {
            (node.attention, node.cause) = (Some(Attention::MachineUnfit), Some(why));
        }
    }

    pub(super) fn explain_doubt(&mut self, id: JobId, what: &str) {
        if self.is(id, State::Uncertain) {
            let text = format!("{what}; look at it and say how it ended with `resolve`");
            self.reason(id, Reason::new(ReasonCode::NoProof, text));
        }
    }

    /// It never began and would wait again, but somebody wanted it away meanwhile: in time, as it turns out.
    pub(super) fn call_off(&mut self, id: JobId, source: Source) {
        if self.apply(id, job::Event::Dropped, source) {
            self.reason(id, why_stopped(source));
            if let Some(job) = self.state.jobs.get_mut(&id) {
                job.report.flags.clear(Flags::CANCEL_TOO_LATE);
            }
        }
    }

    pub(super) fn window_is_met(&mut self, id: JobId) {
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.window_met = true;
        }
    }

    pub(super) fn is(&self, id: JobId, state: State) -> bool {
        self.state.jobs.get(&id).is_some_and(|job| job.report.state == state)
    }

    pub(super) fn asked_to_pause(&self, id: JobId) -> Option<bool> {
        self.state.jobs.get(&id).and_then(|job| job.run.asked_to_pause)
    }

    pub(super) fn resolve(&mut self, id: JobId, end: End, source: Source) -> bool {
        let resolved = self.apply(id, job::Event::Resolved(end), source);
        if resolved {
            self.state.volatile.probing.remove(&id);
            self.reason(id, Reason::new(ReasonCode::Resolved, "a person said how it ended"));
            self.occupy(id, end);
        }
        resolved
    }

    /// What was wanted while nobody knew whether there was anything to obey.
    pub(super) fn follow(&mut self, id: JobId, desired: Desired) {
        match desired {
            Desired::Run => self.let_run(id, Source::Remote),
            Desired::Pause => self.pause(id, Source::Remote),
            Desired::Cancel(mode) => self.cancel(id, mode, Source::Remote),
            Desired::Return | Desired::Resolve(_) => {}
        }
    }

    /// The same, of a job that could not be paused or let go on before.
    pub(super) fn follow_pause(&mut self, id: JobId) {
        match self.state.jobs.get(&id).map(|job| job.desired) {
            Some(Desired::Run) => self.let_run(id, Source::Remote),
            Some(Desired::Pause) => self.pause(id, Source::Remote),
            Some(Desired::Cancel(_) | Desired::Return | Desired::Resolve(_)) | None => {}
        }
    }
}

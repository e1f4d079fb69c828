//! What the machine says of a job.

use super::machine::AtMachine;
use super::step::Rules;
use super::{Doubt, Effect, Ended, Fact, Ignored, Job, JobReason, PROBE_PATIENCE, Probed, Probing, RunKey};
use crate::id::JobId;
use crate::job::{self, End, OnInterrupt, State};
use crate::limits::{CAUSE_BYTES, clip};
use crate::message::{ALL_OF_IT, Flags, Source};
use crate::spec::CancelMode;

impl Rules {
    pub(super) fn machine_said(&mut self, work: RunKey, fact: Fact) {
        if self.state().jobs.get(&work.job).is_none_or(|job| job.work() != work) {
            return self.out().ignore(Ignored::OtherRun);
        }
        if fact.says_it_works() && self.is_uncertain_beside_another(work.job) {
            return self.out().ignore(Ignored::OtherJobWorks);
        }
        if let Some(mut job) = self.at_machine(work.job) {
            job.said(fact);
        }
    }

    /// Whether the job is uncertain and another one executes. A machine does one thing at a time, so its word that it works on both is no
    /// proof of either.
    fn is_uncertain_beside_another(&self, id: JobId) -> bool {
        let jobs = &self.state().jobs;
        jobs.get(&id).is_some_and(|job| job.report.state == State::Uncertain)
            && jobs.values().any(|job| job.report.state.is_executing())
    }

    /// Takes back the questions that the machine has not answered in time, and those about jobs that have ended meanwhile: of them
    /// nothing is to be known any more.
    pub(super) fn give_up_probing(&mut self) {
        let state = self.state();
        let is_moot = |id: &JobId| !state.jobs.get(id).is_some_and(Job::may_be_at_the_machine);
        let moot: Vec<_> = state.volatile.probing.keys().copied().filter(is_moot).collect();
        moot.into_iter().for_each(|id| drop(self.machine().take_question(id)));
        let now = self.clock().boot_ms();
        let is_overdue = |asked: &Probing| now >= asked.since.saturating_add(PROBE_PATIENCE.0);
        let asked = self.state().volatile.probing.iter().filter(|(_, asked)| is_overdue(asked));
        for id in asked.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(mut job) = self.at_machine(id) {
                let refused = job.take_question().and_then(|asked| asked.refused);
                job.not_known(Doubt::CouldNotSay { said: None, refused });
            }
        }
    }
}

impl Fact {
    /// Whether an uncertain job executes by this word of the machine.
    fn says_it_works(&self) -> bool {
        match self {
            Self::Started | Self::Paused | Self::Resumed | Self::Probed(Probed::Alive { .. }) => true,
            Self::Progressed { .. }
            | Self::Ended(_)
            | Self::StartRejected(_)
            | Self::StartRefused(_)
            | Self::StopRefused(_)
            | Self::PauseRefused(_)
            | Self::Probed(
                Probed::Ended(_)
                | Probed::NeverStarted
                | Probed::Gone
                | Probed::NotBegun(_)
                | Probed::Unknown(_),
            ) => false,
        }
    }
}

impl AtMachine<'_> {
    fn said(&mut self, fact: Fact) {
        // What it came to may be on the master's disk already.
        if self.report.state.is_ended() {
            if let Fact::Probed(_) = fact {
                self.take_question();
            }
            return self.ignore(Ignored::Ended);
        }
        match fact {
            Fact::Started if self.report.state == State::Accepted => {
                self.ignore(Ignored::Job(job::Rejection::NotStarted));
            }
            Fact::Started => {
                self.set_paused(false);
                self.held().apply(job::Event::MachineStarted, Source::Machine);
                self.mark_started();
                self.note_beginning();
                // A machine may have refused to pause what it had not begun.
                self.held().follow_pause();
            }
            Fact::Progressed { permille, note } => {
                if self.report.state.is_executing() {
                    self.set_progress(permille);
                    let report = &mut self.edit().report;
                    report.note = note.or(report.note.take());
                }
            }
            Fact::Paused => {
                self.set_paused(true);
                self.held().apply(job::Event::MachinePaused, Source::Machine);
            }
            Fact::Resumed => {
                self.set_paused(false);
                self.held().apply(job::Event::MachineResumed, Source::Machine);
            }
            Fact::Ended(ended) => self.ended(ended),
            Fact::StartRejected(reason) => {
                if self.held().apply(job::Event::StartRefused, Source::Machine) {
                    self.held().explain(reason);
                }
            }
            Fact::StartRefused(why) => self.start_refused(why),
            Fact::StopRefused(text) => {
                let mut job = self.held();
                job.edit().run.stopping = None;
                let paused = job.run.paused;
                if job.apply(job::Event::StopRefused { paused }, Source::Machine) {
                    job.explain(JobReason::StopRefused(text));
                    job.follow_pause();
                }
            }
            Fact::PauseRefused(text) => {
                let mut job = self.held();
                // The machine refused the pause, so nothing is left that only a person at the machine could resume.
                if job.edit().run.asked_to_pause.take() == Some(true) {
                    job.edit().paused_locally = false;
                }
                job.explain(JobReason::PauseRefused(text));
            }
            Fact::Probed(probed) => self.probed(probed),
        }
    }

    /// The machine's word, kept beside the state: a stop may be refused, and then it counts again.
    fn set_paused(&mut self, paused: bool) {
        let clock = self.clock().of_work().filter(|_| self.report.state.is_started());
        let mut job = self.held();
        job.edit().run.set_paused(paused, clock);
        job.no_longer_refused();
    }

    fn set_progress(&mut self, permille: Option<u16>) {
        let permille = permille.map(|permille| permille.min(ALL_OF_IT));
        let report = &mut self.edit().report;
        report.progress = permille.or(report.progress);
    }

    fn mark_started(&mut self) {
        let stamp = self.clock().stamp();
        let report = &mut self.edit().report;
        report.started_at = report.started_at.or(Some(stamp));
        report.started_generation = report.started_generation.or(Some(report.generation));
    }

    fn ended(&mut self, ended: Ended) {
        let clock = self.clock();
        let at = ended.at.map_or_else(|| clock.stamp(), |wall| clock.by_wall(wall));
        let next = match job::next(self.report.state, job::Event::MachineEnded(ended.end)) {
            job::Transition::To(next) => next,
            job::Transition::Unchanged => return,
            // The run never began, by what the machine said before.
            job::Transition::Rejected(why) => return self.ignore(Ignored::Job(why)),
        };
        let unwanted = self.is_unwanted();
        let mut job = self.held();
        job.no_longer_refused();
        let report = &mut job.edit().report;
        if ended.end == End::Succeeded {
            report.progress = Some(ALL_OF_IT);
            if unwanted {
                report.flags.set(Flags::CANCEL_TOO_LATE);
            }
        }
        report.ended_at = Some(at);
        let text = ended.outcome.text.clone();
        report.outcome = Some(ended.outcome);
        if job.apply(job::Event::MachineEnded(ended.end), Source::Machine) {
            if next == State::Failed {
                job.explain(JobReason::MachineFault(text.clone()));
            }
            self.occupy_machine(ended.end);
            match next {
                State::Succeeded => self.trust_machine(),
                State::Failed => self.suspect_machine(text),
                _ => {}
            }
        }
    }

    /// A machine may refuse a start because it has begun before, and a reply that was lost on the way is a refusal too:
    /// only what it says when it is asked counts.
    fn start_refused(&mut self, why: String) {
        match job::next(self.report.state, job::Event::StartRefused) {
            job::Transition::To(_) => self.probe(Some(why)),
            job::Transition::Unchanged => {}
            job::Transition::Rejected(why) => self.ignore(Ignored::Job(why)),
        }
    }

    fn probed(&mut self, probed: Probed) {
        // A machine may also say by itself that work is gone. That it never began is an answer, to a question or to a stop that
        // came before the beginning, or nothing.
        let asked = self.take_question();
        let is_stopping = self.report.state == State::Stopping;
        if asked.is_none() && !is_stopping && matches!(probed, Probed::NeverStarted) {
            return self.ignore(Ignored::NotProbed);
        }
        let refused = asked.and_then(|asked| asked.refused);
        match probed {
            Probed::Ended(ended) => self.ended(ended),
            Probed::NeverStarted => match refused {
                // After a crash the start is tried again. If the machine itself refused it, a person has to look first.
                Some(why) if self.may_be_refused() => self.postponed(why),
                Some(_) | None => self.never_started(),
            },
            Probed::Alive { paused, permille } => self.found_alive(paused, permille),
            Probed::Gone => self.found_gone(),
            Probed::NotBegun(why) => self.postponed(why),
            Probed::Unknown(said) => self.not_known(Doubt::CouldNotSay { said: Some(said), refused }),
        }
    }

    /// Whether the machine's refusal of the start still counts: the job is starting, or is being stopped.
    fn may_be_refused(&self) -> bool {
        matches!(self.report.state, State::Starting | State::Stopping)
    }

    fn never_started(&mut self) {
        let unwanted = self.canceled_by();
        if self.held().apply(job::Event::FoundNeverStarted, Source::Slave) {
            self.explain_doubt(Doubt::Forgotten);
            if let Some(source) = unwanted.filter(|_| self.report.state == State::Accepted) {
                self.held().call_off(source);
            }
        }
    }

    fn found_alive(&mut self, paused: bool, permille: Option<u16>) {
        // It is a word about a run that is over: the next one has a clock of its own.
        if let job::Transition::Rejected(why) =
            job::next(self.report.state, job::Event::FoundAlive { paused })
        {
            return self.ignore(Ignored::Job(why));
        }
        self.set_progress(permille);
        let clock = self.clock().of_work();
        let mut job = self.held();
        job.edit().run.set_paused(paused, clock);
        let (state, desired, work) = (job.report.state, job.desired, job.work());
        let source = job.run.stop_decided.unwrap_or(Source::Remote);
        let told_to_stop = job.run.stopping.filter(|_| state == State::Stopping);
        let to_be_stopped = job.edit().run.stopping.take_if(|_| state != State::Stopping);
        job.apply(job::Event::FoundAlive { paused }, Source::Slave);
        self.mark_started();
        // It was asked before the crash, and may never have heard; or it was to be asked now.
        if let (true, Some(asked)) = (state != State::Stopping, self.run.asked_to_pause)
            && asked != paused
        {
            self.act(if asked { Effect::Pause(work) } else { Effect::Resume(work) });
        }
        // It was canceled on disk before the machine was touched: it stays canceled.
        if let Some(mode) = told_to_stop {
            self.act(Effect::Stop { work, now: mode == CancelMode::Now });
        }
        if let Some(mode) = to_be_stopped {
            self.held().cancel(mode, source);
        }
        // What was wanted while nobody knew whether there was anything to obey.
        if state == State::Uncertain {
            self.held().follow(desired);
        }
    }

    fn found_gone(&mut self) {
        let max_interruptions = self.max_interruptions();
        let mut held = self.held();
        let job = held.edit();
        if job.report.state.is_executing() {
            job.interruptions = job.interruptions.saturating_add(1);
        }
        job.report.flags.set(Flags::INTERRUPTED);
        let too_often = job.interruptions > max_interruptions;
        let event = match job.spec.on_interrupt {
            // Nobody wants it begun again, not even if the machine refused to stop it.
            OnInterrupt::Restart if job.is_unwanted() && job.report.state.is_executing() => {
                job::Event::MachineEnded(End::Stopped)
            }
            OnInterrupt::Restart if too_often => job::Event::FoundGone(OnInterrupt::Hold),
            policy => job::Event::FoundGone(policy),
        };
        if !held.apply(event, Source::Slave) {
            return;
        }
        let state = held.report.state;
        held.explain(if too_often && state == State::Uncertain {
            JobReason::InterruptedTooOften { times: held.interruptions }
        } else {
            JobReason::Interrupted
        });
        if state == State::Accepted {
            held.edit().window_met = true;
        } else if state != State::Uncertain {
            self.occupy_machine(if state == State::Failed { End::Failed } else { End::Stopped });
        }
    }

    /// The machine could not begin, and nothing began. That is the machine's cause and not the job's: the job waits here,
    /// and nothing starts until that is mended.
    fn postponed(&mut self, mut cause: String) {
        let unwanted = self.canceled_by();
        let mut held = self.held();
        if !held.apply(job::Event::StartPostponed, Source::Machine) {
            return;
        }
        clip(&mut cause, CAUSE_BYTES);
        if held.report.state == State::Accepted {
            held.explain(JobReason::MachineUnfit { cause: cause.clone() });
            let job = held.edit();
            (job.report.progress, job.report.note) = (None, None);
            if job.interruptions == 0 {
                (job.report.started_at, job.report.started_generation) = (None, None);
            }
            if let Some(source) = unwanted {
                held.call_off(source);
            }
        }
        self.bar_machine(cause);
    }

    fn not_known(&mut self, doubt: Doubt) {
        if self.held().apply(job::Event::FoundNothing, Source::Slave) {
            self.explain_doubt(doubt);
        }
    }

    fn explain_doubt(&mut self, doubt: Doubt) {
        if self.report.state == State::Uncertain {
            self.held().explain(JobReason::NoProof(doubt));
        }
    }

    /// A person says how the job ended.
    pub(super) fn resolve(&mut self, end: End, source: Source) -> bool {
        let resolved = self.held().apply(job::Event::Resolved(end), source);
        if resolved {
            self.take_question();
            self.held().explain(JobReason::Resolved);
            self.occupy_machine(end);
        }
        resolved
    }
}

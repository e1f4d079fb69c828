//! What a slave does with its machine, its clock and the people beside it.

use super::link::why_stopped;
use super::{
    AfterFailure, Damage, Effect, Ended, Fact, Ignored, Local, Probed, Probing, Release, Rules, RunKey,
};
use crate::id::{BootId, JobId, StoreId};
use crate::job::{self, End, OnInterrupt, State};
use crate::limits::{CAUSE_BYTES, clip};
use crate::message::{Attention, Flags, Reason, ReasonCode, Source, WaitingFor};
use crate::spec::{CancelMode, Desired, Gate, Late, OnOverdue};
use crate::time::Time;

const NOT_RUNNING: &str = "nothing runs that could be told";

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
    fn probe(&mut self, id: JobId, refused: Option<String>) {
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
                    job.report.progress = permille.map(|permille| permille.min(1000)).or(job.report.progress);
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
    fn is_paused(&mut self, id: JobId, paused: bool) {
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.run.set_paused(paused);
            no_longer_refused(job);
        }
    }

    fn mark_started(&mut self, id: JobId) {
        let stamp = self.stamp();
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.run.began_at = job.run.began_at.or(Some(stamp));
            job.report.started_at = job.report.started_at.or(Some(stamp));
            job.report.started_generation = job.report.started_generation.or(Some(job.report.generation));
        }
    }

    fn ended(&mut self, id: JobId, ended: Ended) {
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
            job.report.progress = Some(1000);
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
    fn occupy(&mut self, id: JobId, end: End) {
        if self.state.settings.release == Release::Ack {
            self.state.node.unloading = Some(id);
        }
        if end == End::Failed && self.state.settings.after_failure == AfterFailure::Hold {
            self.state.node.attention = self.state.node.attention.or(Some(Attention::Fault));
        }
    }

    fn never_started(&mut self, id: JobId, reason: Reason) {
        if self.apply(id, job::Event::StartRefused, Source::Machine) {
            self.reason(id, reason);
        }
    }

    /// A machine may refuse a start because it has begun before, and a reply that was lost on the way is a refusal too:
    /// only what it says when it is asked counts.
    fn start_refused(&mut self, id: JobId, why: String) {
        let Some(job) = self.state.jobs.get(&id) else { return };
        match job::next(job.report.state, job::Event::StartRefused) {
            job::Transition::To(_) => self.probe(id, Some(why)),
            job::Transition::Unchanged => {}
            job::Transition::Rejected(why) => self.effects.push(Effect::Ignored(Ignored::Job(why))),
        }
    }

    fn probed(&mut self, id: JobId, probed: Probed) {
        // A machine may also say by itself that work is gone. That it never began is an answer, to a question or to a stop that
        // came before the beginning, or nothing.
        let asked = self.state.volatile.probing.remove(&id);
        let is_stopping = self.is(id, State::Stopping);
        if asked.is_none() && !is_stopping && matches!(probed, Probed::NeverStarted) {
            return self.effects.push(Effect::Ignored(Ignored::NotProbed));
        }
        self.settled_by_probe(id, asked.and_then(|asked| asked.refused), probed);
    }

    fn settled_by_probe(&mut self, id: JobId, refused: Option<String>, probed: Probed) {
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
    fn may_be_refused(&self, id: JobId) -> bool {
        let state = self.state.jobs.get(&id).map(|job| job.report.state);
        matches!(state, Some(State::Starting | State::Stopping))
    }

    fn found(&mut self, id: JobId, probed: Probed) {
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
                job.report.progress = permille.or(job.report.progress);
                job.run.set_paused(paused);
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
    fn postponed(&mut self, id: JobId, mut why: String) {
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

    /// A person has looked at what needed attention.
    pub(super) fn clear(&mut self) -> Option<Attention> {
        self.state.node.cause = None;
        let unfit = |job: &super::Job| {
            let reason = job.report.reason.as_ref();
            job.report.state == State::Accepted
                && reason.is_some_and(|reason| reason.code == ReasonCode::MachineUnfit)
        };
        self.state.jobs.change(unfit, |job| job.report.reason = None);
        self.state.node.attention.take()
    }

    fn explain_doubt(&mut self, id: JobId, what: &str) {
        if self.is(id, State::Uncertain) {
            let text = format!("{what}; look at it and say how it ended with `resolve`");
            self.reason(id, Reason::new(ReasonCode::NoProof, text));
        }
    }

    /// It never began and would wait again, but somebody wanted it away meanwhile: in time, as it turns out.
    fn call_off(&mut self, id: JobId, source: Source) {
        if self.apply(id, job::Event::Dropped, source) {
            self.reason(id, why_stopped(source));
            if let Some(job) = self.state.jobs.get_mut(&id) {
                job.report.flags.clear(Flags::CANCEL_TOO_LATE);
            }
        }
    }

    fn window_is_met(&mut self, id: JobId) {
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.window_met = true;
        }
    }

    fn is(&self, id: JobId, state: State) -> bool {
        self.state.jobs.get(&id).is_some_and(|job| job.report.state == state)
    }

    pub(super) fn local(&mut self, request: u64, command: Local) {
        let reply = self.obey(command);
        self.effects.push(Effect::Reply { request, reply });
    }

    fn obey(&mut self, command: Local) -> Result<String, String> {
        let executing = self.state.jobs.values().find(|job| job.report.state.is_executing());
        let executing = executing.map(|job| (job.report.job, job.report.state));
        match command {
            Local::Ready => match self.state.node.unloading.take() {
                Some(job) => Ok(format!("clear of {job}: the machine takes the next job")),
                None => Err("the machine is not waiting to be cleared of a job".to_owned()),
            },
            Local::Clear => match self.clear() {
                Some(attention) => Ok(format!("cleared: {}", attention.name())),
                None => Err("the machine does not need attention".to_owned()),
            },
            Local::Lock(lock) => {
                self.state.node.local_lock = lock;
                Ok(if lock {
                    "remote starts are locked out; what runs goes on".to_owned()
                } else {
                    "remote starts are let in".to_owned()
                })
            }
            Local::Pause => match executing {
                Some((id, State::Starting | State::Running)) => {
                    self.pause(id, Source::Local);
                    Ok(format!("pausing {id}: only here can it be resumed"))
                }
                Some((id, state)) => Err(format!("{id} is {}", state.name())),
                None => Err(NOT_RUNNING.to_owned()),
            },
            Local::Resume => match executing {
                Some((id, State::Paused)) => {
                    if let Some(job) = self.state.jobs.get_mut(&id) {
                        job.paused_locally = false;
                        job.run.stop_decided = None;
                        if !matches!(job.desired, Desired::Cancel(_)) {
                            // It was to be stopped once the machine has said what it does.
                            job.run.stopping = None;
                        }
                    }
                    self.let_run(id, Source::Local);
                    Ok(format!("resuming {id}"))
                }
                Some((id, state)) => Err(format!("{id} is {}", state.name())),
                // Paused here, then interrupted, and about to begin again: still paused here.
                None => {
                    let paused =
                        self.state.jobs.values().find(|job| job.paused_locally).map(|job| job.report.job);
                    match paused.and_then(|id| self.state.jobs.get_mut(&id)) {
                        Some(job) => {
                            job.paused_locally = false;
                            Ok(format!("{} may start", job.report.job))
                        }
                        None => Err(NOT_RUNNING.to_owned()),
                    }
                }
            },
            Local::Stop { now } => match executing {
                Some((id, _)) => {
                    let mode = if now { CancelMode::Now } else { CancelMode::SafePoint };
                    self.cancel(id, mode, Source::Local);
                    Ok(if self.state.is_unanswered(id) {
                        format!("the machine is being asked what it does: {id} is stopped if it still works")
                    } else {
                        format!("stopping {id}")
                    })
                }
                None => Err(NOT_RUNNING.to_owned()),
            },
            Local::Resolve { job, end } => {
                let mut uncertain = self
                    .state
                    .jobs
                    .values()
                    .filter(|job| job.report.state == State::Uncertain)
                    .map(|j| j.report.job);
                let id = match (job, uncertain.next(), uncertain.next()) {
                    (Some(id), ..) => id,
                    (None, Some(id), None) => id,
                    (None, None, _) => return Err("no job here is uncertain".to_owned()),
                    (None, Some(_), Some(_)) => {
                        return Err("more than one job is uncertain: name the one you mean".to_owned());
                    }
                };
                if self.resolve(id, end, Source::Local) {
                    Ok(format!("{id} is resolved"))
                } else {
                    Err(format!("{id} is not uncertain here"))
                }
            }
        }
    }

    pub(super) fn pause(&mut self, id: JobId, source: Source) {
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        if source == Source::Local {
            job.paused_locally = true;
            job.report.reason =
                Some(Reason::new(ReasonCode::PausedLocally, "paused by a person at the machine"));
        }
        if matches!(job.report.state, State::Starting | State::Running | State::Paused)
            && !job.run.asked_to_pause.unwrap_or(job.run.paused)
        {
            job.run.asked_to_pause = Some(true);
            let work = job.work();
            if !is_unanswered {
                self.effects.push(Effect::Pause(work));
            }
        }
    }

    pub(super) fn let_run(&mut self, id: JobId, source: Source) {
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let executing = matches!(job.report.state, State::Starting | State::Running | State::Paused);
        if !executing {
            return;
        }
        if !job.run.asked_to_pause.unwrap_or(job.run.paused) {
            no_longer_refused(job);
            return;
        }
        if job.paused_locally {
            let text = "paused by a person at the machine: `reloop-slave resume` there lets it go on";
            job.report.reason = Some(Reason::new(ReasonCode::PausedLocally, text));
            return;
        }
        job.run.asked_to_pause = Some(false);
        job.report.reason = None;
        job.report.source = source;
        let work = job.work();
        if !is_unanswered {
            self.effects.push(Effect::Resume(work));
        }
    }

    fn asked_to_pause(&self, id: JobId) -> Option<bool> {
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
    fn follow(&mut self, id: JobId, desired: Desired) {
        match desired {
            Desired::Run => self.let_run(id, Source::Remote),
            Desired::Pause => self.pause(id, Source::Remote),
            Desired::Cancel(mode) => self.cancel(id, mode, Source::Remote),
            Desired::Return | Desired::Resolve(_) => {}
        }
    }

    /// The same, of a job that could not be paused or let go on before.
    fn follow_pause(&mut self, id: JobId) {
        match self.state.jobs.get(&id).map(|job| job.desired) {
            Some(Desired::Run) => self.let_run(id, Source::Remote),
            Some(Desired::Pause) => self.pause(id, Source::Remote),
            Some(Desired::Cancel(_) | Desired::Return | Desired::Resolve(_)) | None => {}
        }
    }

    /// After every event: what the passing of time and the machine's condition make of the whole.
    pub(super) fn look_around(&mut self) {
        self.give_up_probing();
        self.introduce();
        self.wake();
        self.come_due();
        self.overrun();
        self.lapse();
        self.begin();
        self.say_what_is_waited_for();
    }

    fn give_up_probing(&mut self) {
        let jobs = &self.state.jobs;
        // Of what has ended meanwhile nothing is to be known any more.
        self.state.volatile.probing.retain(|id, _| jobs.get(id).is_some_and(may_be_probed));
        let now = self.now.boot_ms;
        let overdue = |asked: &mut Probing| now >= asked.since.saturating_add(super::PROBE_PATIENCE.0);
        let overdue: Vec<_> = self.state.volatile.probing.extract_if(.., |_, asked| overdue(asked)).collect();
        for (id, asked) in overdue {
            let silence = Probed::Unknown("it did not answer".to_owned());
            self.settled_by_probe(id, asked.refused, silence);
        }
    }

    /// Once, when the master's time is first known after a start: what was missed meanwhile?
    fn wake(&mut self) {
        let (Some(time), None) = (self.master_time(), self.state.volatile.awake_since) else { return };
        self.state.volatile.awake_since = Some(time);
        let missed: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| job.report.state == State::Accepted && !job.due)
            .filter(|(_, job)| job.window().not_before.is_some_and(|at| at <= time))
            .map(|(id, job)| (*id, job.start.late))
            .collect();
        for (id, late) in missed {
            let Some(job) = self.state.jobs.get_mut(&id) else { continue };
            job.report.flags.set(Flags::MISSED_START);
            let reason = |text: &str| Reason::new(ReasonCode::MissedStart, text);
            match late {
                Late::Hold => {
                    job.missed = true;
                    job.report.reason =
                        Some(reason("its time passed while the slave was off: `release` lets it start"));
                }
                Late::Run => {
                    (job.due, job.missed) = (true, false);
                    job.report.reason =
                        Some(reason("its time passed while the slave was off: it starts late"));
                }
                Late::Skip => {
                    self.apply(id, job::Event::Lapsed, Source::Slave);
                    self.reason(id, reason("its time passed while the slave was off"));
                }
            }
        }
    }

    fn come_due(&mut self) {
        let Some(time) = self.master_time() else { return };
        let comes_due = |job: &super::Job| {
            let accepted = job.report.state == State::Accepted && !job.missed && !job.due;
            accepted && job.start.not_before.is_some_and(|at| at <= time)
        };
        self.state.jobs.change(comes_due, |job| job.due = true);
    }

    fn overrun(&mut self) {
        let now = self.stamp();
        let over: Vec<_> = self
            .state
            .jobs
            .values()
            .filter(|job| self.state.may_overrun(job))
            .filter(|job| job.overruns_at().is_some_and(|at| at <= now))
            .map(|job| (job.report.job, job.spec.on_overdue))
            .collect();
        for (id, on_overdue) in over {
            if let Some(job) = self.state.jobs.get_mut(&id) {
                job.run.overrun = true;
                job.report.flags.set(Flags::OVERDUE);
            }
            if on_overdue == OnOverdue::Stop {
                self.cancel(id, CancelMode::SafePoint, Source::Slave);
            }
        }
    }

    fn lapse(&mut self) {
        let Some(time) = self.master_time() else { return };
        let lapsed: Vec<_> = self
            .state
            .jobs
            .iter()
            .filter(|(_, job)| job.report.state == State::Accepted)
            .filter(|(_, job)| job.window().deadline.is_some_and(|deadline| deadline < time))
            .map(|(id, _)| *id)
            .collect();
        for id in lapsed {
            if self.apply(id, job::Event::Lapsed, Source::Slave) {
                self.reason(id, Reason::new(ReasonCode::WindowClosed, "its latest start passed"));
            }
        }
    }

    /// Starts the next job, if there is one and the machine may.
    fn begin(&mut self) {
        if self.machine_is_taken() || self.machine_is_barred() {
            return;
        }
        let time = self.master_time();
        let next = self
            .state
            .jobs
            .values()
            .filter(|job| job.report.state == State::Accepted && held_by(job, time).is_none())
            .min_by_key(|job| (std::cmp::Reverse(job.start.priority), job.report.job))
            .map(|job| job.report.job);
        let Some(id) = next else { return };
        if !self.apply(id, job::Event::StartIntended, Source::Slave) {
            return;
        }
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.run = job.report.run.next();
        job.report.progress = None;
        if !job.report.flags.has(Flags::MISSED_START) && !job.report.flags.has(Flags::INTERRUPTED) {
            job.report.reason = None;
        }
        let (work, spec) = (job.work(), job.spec.clone());
        self.effects.push(Effect::Start { work, spec });
    }

    fn machine_is_taken(&self) -> bool {
        self.state.jobs.values().any(|job| job.report.state.is_executing())
    }

    /// Something other than a job keeps the machine from starting.
    fn machine_is_barred(&self) -> bool {
        let node = &self.state.node;
        node.unloading.is_some()
            || node.attention.is_some()
            || node.local_lock
            || !node.operating_mode.mode.may_start()
            || !self.state.volatile.probing.is_empty()
            || self.state.volatile.boot.is_none()
            || self.state.jobs.values().any(|job| job.report.state == State::Uncertain)
    }

    fn say_what_is_waited_for(&mut self) {
        let time = self.master_time();
        let barred = self.machine_is_barred();
        let waits = |job: &super::Job| match held_by(job, time) {
            _ if job.report.state != State::Accepted => (None, None),
            Some((waiting_for, reason)) => (Some(waiting_for), reason),
            None if barred => (Some(WaitingFor::Ready), None),
            None => (Some(WaitingFor::Turn), None),
        };
        let says_otherwise = |job: &super::Job| {
            let (waiting_for, reason) = waits(job);
            job.report.waiting_for != waiting_for || reason.is_some() && job.report.reason != reason
        };
        self.state.jobs.change(says_otherwise, |job| {
            let (waiting_for, reason) = waits(job);
            job.report.waiting_for = waiting_for;
            job.report.reason = reason.or(job.report.reason.take());
        });
    }
}

impl super::RunState {
    /// The machine says whether it is paused: if that was asked of it, it has answered.
    fn set_paused(&mut self, paused: bool) {
        self.paused = paused;
        if self.asked_to_pause == Some(paused) {
            self.asked_to_pause = None;
        }
    }
}

/// It is paused or goes on, as was asked; or nobody asks any more.
fn no_longer_refused(job: &mut super::Job) {
    if job.report.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::PauseRefused) {
        job.report.reason = None;
    }
}

/// The machine may have something of it.
fn may_be_probed(job: &super::Job) -> bool {
    job.report.state.is_executing() || job.report.state == State::Uncertain
}

/// What keeps an accepted job from starting, apart from the machine.
fn held_by(job: &super::Job, time: Option<Time>) -> Option<(WaitingFor, Option<Reason>)> {
    let held = job.start.gate == Gate::Held || job.missed && !matches!(job.start.gate, Gate::Released { .. });
    if job.desired == Desired::Pause || job.paused_locally || held {
        return Some((WaitingFor::Operator, None));
    }
    let window = job.window();
    let timed = window.not_before.is_some()
        || window.deadline.is_some()
        || matches!(job.start.gate, Gate::Released { .. });
    let Some(time) = time else { return timed.then_some((WaitingFor::Clock, None)) };
    match job.start.gate {
        Gate::Released { latest } if latest < time => {
            let text = "the release was for a start before now: release it again";
            return Some((WaitingFor::Operator, Some(Reason::new(ReasonCode::ReleaseLapsed, text))));
        }
        // A person's word to start now stands above the planned time.
        Gate::Released { .. } => return None,
        Gate::Open | Gate::Held => {}
    }
    if window.not_before.is_some_and(|at| at > time) {
        return Some((WaitingFor::Time, None));
    }
    None
}

//! What the master does for clients and operators.

use super::jobs::Jobs;
use super::visit::Visit;
use super::{
    Answer, Asked, AskedFor, Basis, CloseReason, Delivery, Enrolled, IdempotencyKey, Job, JobCommand,
    JobReason, NothingToDo, Offline, Order, Refusal, RequestId, Rules, SlaveCommand, SlaveRecord,
    SlaveRefused, Token, Write, WrongState,
};
use crate::id::{JobId, Run, SlaveKey};
use crate::job::{self, End, State};
use crate::message::{Ask, Flags, Message, Mode, OperatingMode, Question, Reason, ReasonCode};
use crate::spec::{CancelMode, Desired, DesiredState, Gate};

/// Whether a cancel may still end it: not after the machine refused to stop, and `IfNotStarted` not after the start.
fn is_being_canceled(job: &Job) -> bool {
    match job.desired {
        Desired::Cancel(CancelMode::IfNotStarted) => !job.state.is_started(),
        Desired::Cancel(CancelMode::SafePoint | CancelMode::Now) => !was_refused(job),
        Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => false,
    }
}

/// How a person has said that the job ended, if its slave is still to be told and this command would take the place of that.
fn contradicted(command: JobCommand, job: &Job) -> Option<End> {
    let (State::Uncertain, Desired::Resolve(said)) = (job.state, job.desired) else { return None };
    let contradicts = match command {
        JobCommand::Resolve(end) => end != said,
        JobCommand::Cancel(_) | JobCommand::Pause | JobCommand::Resume => true,
        JobCommand::Release { .. }
        | JobCommand::Reschedule { .. }
        | JobCommand::Retry
        | JobCommand::Abandon => false,
    };
    contradicts.then_some(said)
}

/// The machine was told the newest desired state, and goes on as before.
fn was_refused(job: &Job) -> bool {
    let goes_on = matches!(job.state, State::Running | State::Paused);
    let code = ReasonCode::StopRefused;
    goes_on
        && job.report.as_ref().is_some_and(|report| {
            report.generation >= job.generation
                && report.reason.as_ref().is_some_and(|reason| reason.code == code)
        })
}

impl Rules {
    pub(super) fn order_placed(&mut self, request: RequestId, order: Order, key: Option<IdempotencyKey>) {
        if let Some(key) = &key
            && let Some((order, fingerprint)) = self.state.book.placed_with(&key.key)
        {
            return if fingerprint == key.fingerprint {
                self.out.answer(request, Answer::Placed { order, replayed: true })
            } else {
                self.out.refuse(request, Refusal::KeyReused(order))
            };
        }
        for id in &order.jobs {
            let mut job = Job::new(*id, &order);
            job.enter(State::Queued, self.now, "client");
            self.jobs().insert(job);
            self.out.look_for_slave(*id);
        }
        if let Some(key) = key {
            self.out.persist.push(Write::Key(key.clone(), order.id));
            self.state.book.remember(key, order.id);
        }
        self.out.answer(request, Answer::Placed { order: order.id, replayed: false });
        self.out.persist.push(Write::Order(Box::new(order)));
    }

    pub(super) fn jobs_commanded(&mut self, request: RequestId, jobs: &[JobId], command: JobCommand) {
        let mut taken = Vec::new();
        for id in jobs {
            match self.jobs().command(*id, command) {
                Ok(delivery) => taken.push((*id, delivery)),
                // Of an order's jobs, those that it does not concern are answered `too_late`.
                Err(_) if jobs.len() > 1 => taken.push((*id, Delivery::TooLate)),
                Err(refusal) => return self.out.refuse(request, refusal),
            }
        }
        self.out.answer(request, Answer::Taken(taken));
    }
}

impl Jobs<'_> {
    fn command(&mut self, id: JobId, command: JobCommand) -> Result<Delivery, Refusal> {
        let Some(job) = self.get(id) else { return Err(Refusal::NoSuchJob(id)) };
        let state = job.state;
        let wrong = |why| Err(Refusal::WrongState { job: id, state, why });
        if let Some(said) = contradicted(command, &job) {
            return wrong(WrongState::AlreadyResolved(said));
        }
        match command {
            JobCommand::Cancel(_) if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Cancel(mode) => Ok(self.cancel_job(id, mode)),
            JobCommand::Pause | JobCommand::Resume if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Release { .. } | JobCommand::Reschedule { .. }
                if state.is_ended() || state.is_started() =>
            {
                Ok(Delivery::TooLate)
            }
            JobCommand::Pause
            | JobCommand::Resume
            | JobCommand::Release { .. }
            | JobCommand::Reschedule { .. }
                if is_being_canceled(&job) =>
            {
                wrong(WrongState::BeingCanceled)
            }
            JobCommand::Pause => Ok(self.set_desired(id, Desired::Pause)),
            JobCommand::Resume => {
                let delivery = self.set_desired(id, Desired::Run);
                self.out.look_for_slave(id);
                Ok(delivery)
            }
            // It need not wait for its retry, nor for its time; it was not held.
            JobCommand::Release { .. }
                if job.start.gate == Gate::Open && job.waits_for_retry(self.moment.now) =>
            {
                Ok(self.rule(id, |job| (job.retry_at, job.start.not_before) = (None, None)))
            }
            JobCommand::Release { valid } => {
                let latest = self.moment.now.after(valid);
                self.out.mark_clock();
                Ok(self.rule(id, |job| {
                    job.start.gate = Gate::Released { latest };
                    job.retry_at = None;
                }))
            }
            JobCommand::Reschedule { not_before, deadline, late } => Ok(self.rule(id, |job| {
                job.start.not_before = not_before;
                job.start.deadline = deadline;
                job.start.late = late;
                if matches!(job.start.gate, Gate::Released { .. }) || job.is_release_lapsed() {
                    // A release that holds would let it start before the new time, and one that has lapsed would hold it. After a
                    // restore a person still has to say that no slave has done it.
                    job.start.gate = if job.is_from_before_a_restore() { Gate::Held } else { Gate::Open };
                }
            })),
            JobCommand::Retry => match job::next(state, job::Event::Retried) {
                job::Transition::To(_) => {
                    self.edit(id, |job| {
                        job.set_aside();
                        job.desired = Desired::Run;
                        job.generation = job.generation.next();
                        job.start.deadline = None;
                        job.start.gate = Gate::Open;
                        job.flags.clear(Flags::RESTORED);
                        job.reason = None;
                        job.retry_at = None;
                        job.forgive();
                    });
                    self.apply(id, job::Event::Retried, "operator");
                    // Another one may be under way already.
                    self.weigh(id);
                    Ok(Delivery::Applied)
                }
                job::Transition::Unchanged | job::Transition::Rejected(_) => wrong(WrongState::NotRetried),
            },
            JobCommand::Resolve(end) if state == State::Uncertain => Ok(self.resolve(id, end)),
            JobCommand::Resolve(end) => match self.resolve_given_up(id, end) {
                Some(resolved) => resolved,
                None => wrong(WrongState::NotUncertain),
            },
            JobCommand::Abandon if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Abandon => self.abandon(id),
        }
    }

    fn cancel_job(&mut self, id: JobId, mode: CancelMode) -> Delivery {
        let Some(job) = self.get(id) else { return Delivery::TooLate };
        if job.state == State::Queued {
            self.utter(id, |job| {
                job.desired = Desired::Cancel(mode);
                job.reason = Some(JobReason::CanceledInQueue.into());
            });
            self.apply(id, job::Event::Withdrawn, "client");
            return Delivery::Applied;
        }
        if mode == CancelMode::IfNotStarted && job.state.is_started() {
            return Delivery::TooLate;
        }
        // A harder one that is on its way is not taken back by a softer one.
        let mode = match job.desired {
            Desired::Cancel(harder) if is_being_canceled(&job) => harder.max(mode),
            _ => mode,
        };
        self.set_desired(id, Desired::Cancel(mode))
    }

    /// Raises the desired state, and tells the slave if it is there.
    fn set_desired(&mut self, id: JobId, desired: Desired) -> Delivery {
        self.utter(id, |job| job.desired = desired);
        self.tell(id)
    }

    /// Changes when it may start, and tells the slave if it is there.
    fn rule(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Delivery {
        self.utter(id, |job| {
            change(job);
            if job.is_release_lapsed() {
                job.reason = None;
            }
        });
        self.out.look_for_slave(id);
        self.tell(id)
    }

    /// Raises the generation above any that this master may have used before a restore.
    fn utter(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let epoch = self.moment.node.epoch;
        self.edit(id, |job| {
            change(job);
            job.generation = job.generation.uttered(epoch);
        });
    }

    pub(super) fn resolve(&mut self, id: JobId, end: End) -> Delivery {
        let Some(job) = self.get(id) else { return Delivery::TooLate };
        let slave_holds_it = job.report.as_ref().is_some_and(|report| report.state == State::Uncertain);
        if end == End::Succeeded && job.is_canceled() {
            self.edit(id, |job| job.flags.set(Flags::CANCEL_TOO_LATE));
        }
        if slave_holds_it {
            return self.set_desired(id, Desired::Resolve(end));
        }
        self.edit(id, |job| job.reason = Some(JobReason::Resolved.into()));
        self.apply(id, job::Event::Resolved(end), "operator");
        self.weigh(id);
        Delivery::Applied
    }

    /// An attempt that was given up, and that its slave still wonders about: the machine starts nothing until a person
    /// has said how it ended.
    fn resolve_given_up(&mut self, id: JobId, end: End) -> Option<Result<Delivery, Refusal>> {
        let job = self.get(id)?;
        // First an attempt of which nobody has said it and whose slave can be told. What is only claimed does not stand in the way
        // of what was assigned.
        let asked = job.unresolved().min_by_key(|asked| {
            let is_offline = self.roster.obeying(asked.holder).is_none();
            (asked.said().is_some(), asked.basis == Basis::Claim, is_offline, asked.basis)
        })?;
        if let Some(said) = asked.said() {
            return Some(Err(Refusal::AlreadyResolved(said.clone())));
        }
        let (attempt, holder) = (asked.attempt, asked.holder);
        let generation = asked.report.generation;
        let Some(link) = self.roster.obeying(holder) else {
            return Some(Err(Refusal::SlaveOffline(Offline::Holder(attempt))));
        };
        let desired_state = DesiredState {
            attempt,
            generation: generation.next(),
            desired: Desired::Resolve(end),
            ..job.desired_state(false)
        };
        self.out.send(link, Message::DesiredState(desired_state));
        // Until its slave speaks of the attempt again.
        let said = Reason::from(JobReason::ResolvedAs(end));
        self.edit(id, |job| {
            let others =
                job.others.iter_mut().filter(|other| other.attempt == attempt && other.holder == holder);
            let reports = others.filter_map(|other| other.report.as_mut());
            let own = job.report.as_mut().filter(|report| report.attempt == attempt);
            reports.chain(own).for_each(|report| report.reason = Some(said.clone()));
        });
        Some(Ok(Delivery::Sent))
    }

    fn abandon(&mut self, id: JobId) -> Result<Delivery, Refusal> {
        let Some(job) = self.get(id) else { return Ok(Delivery::TooLate) };
        let online = job.holder.and_then(|key| self.roster.live(key)).is_some();
        let slave_knows = job.report.as_ref().is_some_and(|report| report.state == job.state);
        if online && slave_knows && job.state != State::Uncertain {
            return Err(Refusal::SlaveOnline(id, job.state));
        }
        self.edit(id, |job| job.reason = Some(JobReason::Abandoned.into()));
        self.apply(id, job::Event::Abandoned, "operator");
        self.weigh(id);
        Ok(Delivery::Applied)
    }
}

impl Rules {
    pub(super) fn slave_commanded(&mut self, request: RequestId, key: SlaveKey, command: SlaveCommand) {
        let Some(mut visit) = self.visit(key) else {
            return self.out.refuse(request, Refusal::NoSuchSlave);
        };
        let delivery = match command {
            SlaveCommand::Mode(mode) => visit.set_mode(mode),
            SlaveCommand::Approve => match visit.record().enrolled {
                Enrolled::Pending | Enrolled::Yes => {
                    visit.edit(|slave| slave.enrolled = Enrolled::Yes);
                    Delivery::Applied
                }
                // What an admin took away is not given back by somebody who may do less.
                Enrolled::Revoked => return self.out.refuse(request, Refusal::SlaveRevoked),
            },
            SlaveCommand::Forget => {
                visit.revoke();
                // What it says it has seen of this master counts no more.
                self.state.doubted_by.remove(&key);
                Delivery::Applied
            }
            SlaveCommand::Ready => {
                return match visit.record().machine.as_ref().and_then(|machine| machine.unloading) {
                    Some(unloading) => self.ask(request, key, Question::Ready { unloading }),
                    None => self.out.refuse(request, Refusal::NothingToDo(NothingToDo::Ready)),
                };
            }
            SlaveCommand::Clear => {
                let attention = visit.record().machine.as_ref().and_then(|machine| machine.attention);
                let was_cloned = visit.record().cloned_at.is_some();
                if was_cloned {
                    visit.edit(|slave| slave.cloned_at = None);
                }
                match attention {
                    Some(attention) => return self.ask(request, key, Question::Clear { attention }),
                    None if was_cloned => Delivery::Applied,
                    None => return self.out.refuse(request, Refusal::NothingToDo(NothingToDo::Clear)),
                }
            }
        };
        self.out.answer(request, Answer::SlaveTaken(delivery));
    }

    pub(super) fn log_asked(&mut self, request: RequestId, job: JobId, offset: Option<u64>, limit: u32) {
        let Some(found) = self.state.book.jobs.get(&job) else {
            return self.out.refuse(request, Refusal::NoSuchJob(job));
        };
        let run = found.report.as_ref().map(|report| report.run).filter(|run| *run > Run(0));
        let (Some(key), Some(run)) = (found.holder, run) else {
            return self.out.refuse(request, Refusal::NothingToDo(NothingToDo::Log));
        };
        let attempt = found.attempt;
        self.ask(request, key, Question::Log { job, attempt, run, offset, limit });
    }

    /// Asks a slave something that needs its answer now.
    fn ask(&mut self, request: RequestId, key: SlaveKey, question: Question) {
        let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) else {
            return self.out.refuse(request, Refusal::SlaveOffline(Offline::Slave));
        };
        if self.state.slaves.get(&key).is_some_and(|slave| slave.doubts) {
            return self.out.refuse(request, Refusal::SlaveRefused(SlaveRefused::Doubts));
        }
        let id = self.state.next_ask;
        self.state.next_ask = self.state.next_ask.wrapping_add(1);
        let asked_for = AskedFor::of(&question);
        self.state.asked.insert(id, Asked { request, link, asked_for });
        self.out.send(link, Message::Ask(Ask { id, question }));
    }

    pub(super) fn token_made(&mut self, request: RequestId, hash: [u8; 32], token: Token) {
        self.out.mark_clock();
        self.state.tokens.insert(hash, token.clone());
        self.out.persist.push(Write::Token(hash, Some(token)));
        self.out.answer(request, Answer::Done);
    }

    /// From here every slave obeys this copy of the master. What it would have started in the past is a person's to
    /// let go: a slave that has not come back may have done it. All links end and all that waits is held, so a master that
    /// nobody doubts is not confirmed by mistake.
    pub(super) fn restore_confirmed(&mut self, request: RequestId, forced: bool) {
        if !forced && self.state.doubters() == 0 {
            return self.out.refuse(request, Refusal::NothingToDo(NothingToDo::ConfirmRestore));
        }
        self.state.node.epoch = self.state.node.epoch.max(self.state.later).next();
        self.out.persist.push(Write::Node(self.state.node));
        self.state.doubted_by.clear();
        let waiting: Vec<JobId> = self
            .state
            .book
            .jobs
            .values()
            .filter(|job| matches!(job.state, State::Queued | State::Assigned))
            .map(|job| job.id)
            .collect();
        for id in waiting {
            self.jobs().edit(id, Job::hold_after_restore);
        }
        // Each of them, introduced or not: a slave decides by the Challenge whether it obeys, for as long as the link lives.
        for link in self.state.links.keys().copied().collect::<Vec<_>>() {
            self.out.close(link, CloseReason::Restored);
        }
        // Nothing is assigned to a slave over a link that is being closed.
        for key in self.state.slaves.keys().copied().collect::<Vec<_>>() {
            if let Some(mut visit) = self.visit(key) {
                visit.hang_up();
            }
        }
        self.out.answer(request, Answer::Done);
    }
}

impl Visit<'_> {
    fn set_mode(&mut self, mode: Mode) -> Delivery {
        let operating_mode = self.edit(|slave| {
            let generation = slave.operating_mode.generation.next();
            slave.operating_mode = OperatingMode { generation, mode };
            slave.operating_mode
        });
        if self.record().doubts || self.record().live().is_none() {
            return Delivery::PendingOnReconnect;
        }
        self.send(Message::OperatingMode(operating_mode));
        Delivery::Sent
    }

    /// The slave does not belong here any more. From this step on it has no link, whatever its handshake has come to: what
    /// it says before its connections have ended is not heard.
    fn revoke(&mut self) {
        for link in self.record().connections() {
            self.out.close(link, CloseReason::Revoked);
        }
        self.edit(|slave| {
            slave.enrolled = Enrolled::Revoked;
            slave.doubts = false;
            slave.hang_up();
        });
    }

    /// The slave's link is being closed because the master was restored.
    fn hang_up(&mut self) {
        if self.record().current().is_some() {
            self.edit(SlaveRecord::hang_up);
        }
        if self.record().doubts {
            self.edit_volatile(|slave| slave.doubts = false);
        }
    }
}

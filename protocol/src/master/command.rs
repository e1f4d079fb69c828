//! What the master does for clients and operators.

use super::{
    Answer, Asked, Delivery, Enrolled, IdempotencyKey, Job, JobCommand, Order, Refusal, RequestId, Rules,
    SlaveCommand, SlaveLink, SlaveRecord, Token, Write,
};
use crate::id::{JobId, OrderId, Run, SlaveKey};
use crate::job::{self, End, State};
use crate::message::{Ask, CloseCode, Flags, Message, Question, Reason, ReasonCode, Report};
use crate::spec::{CancelMode, Desired, DesiredState, Gate};

/// Its cancel may still come in time: not if the machine has refused it, and one that was only meant for what has not
/// started may not once it has.
fn is_being_canceled(job: &Job) -> bool {
    match job.desired {
        Desired::Cancel(CancelMode::IfNotStarted) => !job.state.is_started(),
        Desired::Cancel(CancelMode::SafePoint | CancelMode::Now) => !was_refused(job),
        Desired::Run | Desired::Pause | Desired::Return | Desired::Resolve(_) => false,
    }
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
    pub(super) fn order_placed(
        &mut self,
        request: RequestId,
        order: Order,
        key: Option<IdempotencyKey>,
        known: Option<(OrderId, [u8; 32])>,
    ) {
        let known = known.or_else(|| key.as_ref().and_then(|key| self.state.book.recent(&key.key)));
        if let (Some(key), Some((order, fingerprint))) = (&key, known) {
            return if fingerprint == key.fingerprint {
                self.answer(request, Answer::Placed { order, replayed: true })
            } else {
                let text =
                    format!("the key stands for {order}, which was placed with another body: use a new key");
                self.refuse(request, Refusal::KeyReused, text)
            };
        }
        for id in &order.jobs {
            let mut job = Job::new(*id, &order);
            job.enter(State::Queued, self.now, "client");
            self.state.book.insert(job);
            self.touched.insert(*id);
            self.look_for_slave.insert(*id);
        }
        if let Some(key) = key {
            self.persist.push(Write::Key(key.clone(), order.id));
            self.state.book.remember(key, order.id);
        }
        self.answer(request, Answer::Placed { order: order.id, replayed: false });
        self.persist.push(Write::Order(Box::new(order)));
    }

    pub(super) fn jobs_commanded(&mut self, request: RequestId, jobs: &[JobId], command: JobCommand) {
        let mut taken = Vec::new();
        for id in jobs {
            match self.command(*id, command) {
                Ok(delivery) => taken.push((*id, delivery)),
                // Of an order's jobs, those that it does not concern are passed over.
                Err(_) if jobs.len() > 1 => taken.push((*id, Delivery::TooLate)),
                Err((refusal, text)) => return self.refuse(request, refusal, text),
            }
        }
        self.answer(request, Answer::Taken(taken));
    }

    fn command(&mut self, id: JobId, command: JobCommand) -> Result<Delivery, (Refusal, String)> {
        let Some(job) = self.state.book.jobs.get(&id) else {
            return Err((Refusal::NoSuchJob, format!("there is no job {id}")));
        };
        let state = job.state;
        let wrong =
            |what: &str| Err((Refusal::WrongState(state), format!("{id} is {}: {what}", state.name())));
        match command {
            JobCommand::Cancel(_) if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Cancel(mode) => Ok(self.cancel_job(id, mode)),
            JobCommand::Pause | JobCommand::Resume if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Pause | JobCommand::Resume if is_being_canceled(&job) => {
                wrong("it was canceled, which is not taken back: `cancel` it again if it goes on")
            }
            JobCommand::Pause => Ok(self.set_desired(id, Desired::Pause)),
            JobCommand::Resume => {
                let delivery = self.set_desired(id, Desired::Run);
                self.look_for_slave.insert(id);
                Ok(delivery)
            }
            JobCommand::Release { .. } if state.is_ended() || state.is_started() => Ok(Delivery::TooLate),
            JobCommand::Release { valid } => {
                let latest = self.now.after(valid);
                self.count_from_now();
                Ok(self.rule(id, |job| job.start.gate = Gate::Released { latest }))
            }
            JobCommand::Reschedule { .. } if state.is_ended() || state.is_started() => Ok(Delivery::TooLate),
            JobCommand::Reschedule { not_before, deadline, late } => Ok(self.rule(id, |job| {
                job.start.not_before = not_before;
                job.start.deadline = deadline;
                job.start.late = late;
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
                    });
                    self.apply(id, job::Event::Retried, "operator");
                    Ok(Delivery::Applied)
                }
                job::Transition::Unchanged | job::Transition::Rejected(_) => wrong(
                    "only a job that ended without success is tried again; `abandon` ends one whose slave is gone",
                ),
            },
            JobCommand::Resolve(end) if state == State::Uncertain => Ok(self.resolve(id, end)),
            JobCommand::Resolve(end) => match self.resolve_given_up(id, end) {
                Some(resolved) => resolved,
                None => wrong("only an uncertain job is resolved"),
            },
            JobCommand::Abandon if state.is_ended() => Ok(Delivery::TooLate),
            JobCommand::Abandon => self.abandon(id),
        }
    }

    fn cancel_job(&mut self, id: JobId, mode: CancelMode) -> Delivery {
        let Some(job) = self.state.book.jobs.get(&id) else { return Delivery::TooLate };
        if job.state == State::Queued {
            let reason = Reason::new(ReasonCode::Canceled, "canceled before a slave had it");
            self.utter(id, |job| {
                job.desired = Desired::Cancel(mode);
                job.reason = Some(reason);
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
        self.deliver(id)
    }

    /// Changes when it may start, and tells the slave if it is there.
    fn rule(&mut self, id: JobId, change: impl FnOnce(&mut Job)) -> Delivery {
        self.utter(id, change);
        self.look_for_slave.insert(id);
        self.deliver(id)
    }

    /// A person's word is newer than what this master has forgotten of its own.
    fn utter(&mut self, id: JobId, change: impl FnOnce(&mut Job)) {
        let epoch = self.state.node.epoch;
        self.edit(id, |job| {
            change(job);
            job.generation = job.generation.uttered(epoch);
        });
    }

    fn deliver(&mut self, id: JobId) -> Delivery {
        match self.state.book.jobs.get(&id).and_then(|job| job.holder) {
            Some(key) => self.tell_if_newer(key, id),
            None => Delivery::Applied,
        }
    }

    pub(super) fn resolve(&mut self, id: JobId, end: End) -> Delivery {
        let Some(job) = self.state.book.jobs.get(&id) else { return Delivery::TooLate };
        let slave_holds_it = job.report.as_ref().is_some_and(|report| report.state == State::Uncertain);
        if slave_holds_it {
            return self.set_desired(id, Desired::Resolve(end));
        }
        let reason = Reason::new(ReasonCode::Resolved, "a person said how it ended");
        self.edit(id, |job| job.reason = Some(reason));
        self.apply(id, job::Event::Resolved(end), "operator");
        self.weigh(id);
        Delivery::Applied
    }

    /// An attempt that was given up, and that its slave still wonders about: the machine starts nothing until a person
    /// has said how it ended.
    fn resolve_given_up(&mut self, id: JobId, end: End) -> Option<Result<Delivery, (Refusal, String)>> {
        let job = self.state.book.jobs.get(&id)?;
        let wonders = |report: &&Report| report.state == State::Uncertain;
        let itself = || {
            let report = job.report.as_ref().filter(|_| job.state == State::Lost).filter(wonders)?;
            Some((job.attempt, job.holder?, report.generation))
        };
        // The book's word of it may be that it was given up: what counts is what its slave said.
        let earlier = || {
            let wondering =
                job.earlier.iter().filter(|e| e.report.as_ref().is_some_and(|report| wonders(&report)));
            // What is only claimed does not stand in the way of what was assigned.
            let earlier = wondering.min_by_key(|earlier| earlier.basis)?;
            Some((earlier.attempt, earlier.holder, earlier.report.as_ref()?.generation))
        };
        let (attempt, holder, generation) = itself().or_else(earlier)?;
        let Some(link) = self.state.slaves.get(&holder).and_then(SlaveRecord::live) else {
            let text = format!("the slave that holds attempt {attempt} is not connected");
            return Some(Err((Refusal::SlaveOffline, text)));
        };
        let desired_state = DesiredState {
            attempt,
            generation: generation.next(),
            desired: Desired::Resolve(end),
            ..job.desired_state(false)
        };
        self.send(link, Message::DesiredState(desired_state));
        Some(Ok(Delivery::Sent))
    }

    fn abandon(&mut self, id: JobId) -> Result<Delivery, (Refusal, String)> {
        let Some(job) = self.state.book.jobs.get(&id) else { return Ok(Delivery::TooLate) };
        let online = job
            .holder
            .and_then(|key| self.state.slaves.get(&key))
            .is_some_and(|slave| slave.live().is_some());
        let slave_knows = job.report.as_ref().is_some_and(|report| report.state == job.state);
        if online && slave_knows && job.state != State::Uncertain {
            let text = format!(
                "the slave of {id} is connected and has it {}: `cancel` it instead",
                job.state.name()
            );
            return Err((Refusal::SlaveOnline, text));
        }
        let reason = Reason::new(ReasonCode::Abandoned, "a person gave it up");
        self.edit(id, |job| job.reason = Some(reason));
        self.apply(id, job::Event::Abandoned, "operator");
        self.weigh(id);
        Ok(Delivery::Applied)
    }

    pub(super) fn slave_commanded(&mut self, request: RequestId, key: SlaveKey, command: SlaveCommand) {
        let Some(slave) = self.state.slaves.get_mut(&key) else {
            return self.refuse(request, Refusal::NoSuchSlave, "there is no such slave");
        };
        match command {
            SlaveCommand::Mode(mode) => {
                slave.operating_mode.mode = mode;
                slave.operating_mode.generation = slave.operating_mode.generation.next();
                let operating_mode = slave.operating_mode;
                self.touch_slave(key);
                self.send_to(key, Message::OperatingMode(operating_mode));
                self.answer(request, Answer::Done);
            }
            SlaveCommand::Approve => match slave.enrolled {
                Enrolled::Pending | Enrolled::Yes => {
                    slave.enrolled = Enrolled::Yes;
                    self.touch_slave(key);
                    self.answer(request, Answer::Done);
                }
                // What an admin took away is not given back by somebody who may do less.
                Enrolled::Revoked => {
                    let text = "this slave was revoked: an admin lets it in again by a token, made with `reloop slave \
                                enroll-token` and shown to `reloop-slave enroll`";
                    self.refuse(request, Refusal::SlaveRevoked, text);
                }
            },
            SlaveCommand::Forget => {
                self.revoke(key);
                self.answer(request, Answer::Done);
            }
            SlaveCommand::Ready => {
                let unloading = slave.machine.as_ref().and_then(|machine| machine.unloading);
                match unloading {
                    Some(unloading) => self.ask(request, key, Question::Ready { unloading }),
                    None => {
                        let text = "the machine is not waiting to be cleared of a job";
                        self.refuse(request, Refusal::NothingToDo("ready"), text);
                    }
                }
            }
            SlaveCommand::Clear => {
                let attention = slave.machine.as_ref().and_then(|machine| machine.attention);
                if slave.cloned_at.take().is_some() {
                    self.touch_slave(key);
                    if attention.is_none() {
                        return self.answer(request, Answer::Done);
                    }
                }
                match attention {
                    Some(attention) => self.ask(request, key, Question::Clear { attention }),
                    None => {
                        self.refuse(request, Refusal::NothingToDo("clear"), "nothing there needs attention")
                    }
                }
            }
        }
    }

    /// A slave does not belong here any more. From this step on it has no link, whatever its handshake has come to: what
    /// it says before its connections have ended is not heard.
    fn revoke(&mut self, key: SlaveKey) {
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        slave.enrolled = Enrolled::Revoked;
        let links = slave.connections();
        slave.link = SlaveLink::Down;
        slave.contender = None;
        slave.doubts = false;
        // What it says it has seen of this master counts no more.
        self.state.doubted_by.remove(&key);
        self.touch_slave(key);
        for link in links {
            let text = "this slave was revoked by a person: its job goes on, and it keeps the outcome";
            self.close(link, CloseCode::Revoked, text.to_owned());
        }
    }

    pub(super) fn log_asked(&mut self, request: RequestId, job: JobId, offset: Option<u64>, limit: u32) {
        let Some(found) = self.state.book.jobs.get(&job) else {
            return self.refuse(request, Refusal::NoSuchJob, format!("there is no job {job}"));
        };
        let run = found.report.as_ref().map(|report| report.run).filter(|run| *run > Run(0));
        let (Some(key), Some(run)) = (found.holder, run) else {
            return self.refuse(
                request,
                Refusal::NothingToDo("log"),
                "it has not begun, so there is no output",
            );
        };
        let attempt = found.attempt;
        self.ask(request, key, Question::Log { job, attempt, run, offset, limit });
    }

    /// Asks a slave something that needs its answer now.
    fn ask(&mut self, request: RequestId, key: SlaveKey, question: Question) {
        let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) else {
            let text =
                "the slave is not connected: do it at the machine with `reloop-slave`, or when it is back";
            return self.refuse(request, Refusal::SlaveOffline, text);
        };
        if self.state.slaves.get(&key).is_some_and(|slave| slave.doubts) {
            let text = "the slave has seen a later state of this master, and answers nothing: `reloop restore confirm`";
            return self.refuse(request, Refusal::SlaveRefused, text);
        }
        let id = self.state.next_ask;
        self.state.next_ask = self.state.next_ask.wrapping_add(1);
        self.state.asked.insert(id, Asked { request, link });
        self.send(link, Message::Ask(Ask { id, question }));
    }

    pub(super) fn token_made(&mut self, request: RequestId, hash: [u8; 32], token: Token) {
        self.count_from_now();
        self.state.tokens.insert(hash, token.clone());
        self.persist.push(Write::Token(hash, Some(token)));
        self.answer(request, Answer::Done);
    }

    /// From here every slave obeys this copy of the master. What it would have started in the past is a person's to
    /// let go: a slave that has not come back may have done it. All links end and all that waits is held, so a master that
    /// nobody doubts is not confirmed by mistake.
    pub(super) fn restore_confirmed(&mut self, request: RequestId, forced: bool) {
        if !forced && self.state.doubters() == 0 {
            let text = "no slave has seen a later state of this master, so there is nothing to confirm; if its files were \
                        put back and the slaves that could tell are away: `reloop restore confirm --force`";
            return self.refuse(request, Refusal::NothingToDo("confirm-restore"), text);
        }
        self.state.node.epoch = self.state.node.epoch.max(self.state.later).next();
        self.persist.push(Write::Node(self.state.node));
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
            self.edit(id, Job::hold_after_restore);
        }
        // Each of them, introduced or not: a slave decides by the Challenge whether it obeys, for as long as the link lives.
        let text = "this master was restored and confirmed: introduce yourself again";
        for link in self.state.links.keys().copied().collect::<Vec<_>>() {
            self.close(link, CloseCode::GoingAway, text.to_owned());
        }
        // Nothing is assigned to a slave over a link that is being closed.
        let linked =
            self.state.slaves.values().filter(|slave| slave.current().is_some()).map(|slave| slave.key);
        let linked: Vec<_> = linked.collect();
        self.state.slaves.values_mut().for_each(|slave| slave.doubts = false);
        for key in linked {
            if let Some(slave) = self.state.slaves.get_mut(&key) {
                slave.link = SlaveLink::Down;
                slave.contender = None;
            }
            self.touch_slave(key);
        }
        self.answer(request, Answer::Done);
    }
}

//! What a slave does with what the master says.

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    Disclosure, Effect, HELD_BYTES, Ignored, Job, Link, LinkId, RECENT_OUTCOMES, RECENT_OUTCOMES_BYTES,
    Rules, RunKey, RunState, Settling, Slave, Standing, fresh_report, not_held, standing,
};
use crate::id::{Attempt, Commit, Generation, JobId, Session};
use crate::job;
use crate::limits::{self, LOG_BYTES};
use crate::message::{
    Attention, Challenge, CloseCode, Flags, Forget, Hello, MasterBinding, Message, OperatingMode, PROTOCOL,
    Question, Reason, ReasonCode, Record, Reply, Ruling, Source, Tell, Welcome,
};
use crate::reconcile::Verdict;
use crate::spec::{CancelMode, Desired, DesiredState, Gate, SPEC_BYTES};

impl Rules {
    pub(super) fn received(
        &mut self,
        link: LinkId,
        session: Session,
        commit: Commit,
        message: Message,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        match (self.state.link, message) {
            (Link::Opened { link: ours }, Message::Challenge(challenge)) if ours == link => {
                self.challenged(link, &challenge);
            }
            (
                Link::Opened { link: ours }
                | Link::Introduced { link: ours, .. }
                | Link::Challenged { link: ours, .. },
                Message::Refuse(refuse),
            ) if ours == link => {
                self.state.link = Link::Down;
                let text = limits::one_line(&refuse.text);
                self.effects.push(Effect::Close { link, code: refuse.code, text });
            }
            (Link::Introduced { link: l, session: s, doubtful }, Message::Welcome(welcome))
                if l == link && s == session && welcome.session == session =>
            {
                self.welcomed(link, session, doubtful, welcome, unfit);
            }
            (Link::Live { link: l, session: s, doubtful }, message) if l == link && s == session => {
                self.live(doubtful, commit, message, unfit);
            }
            (
                Link::Live { .. }
                | Link::Introduced { .. }
                | Link::Challenged { .. }
                | Link::Opened { .. }
                | Link::Down,
                _,
            ) => {
                self.effects.push(Effect::Ignored(Ignored::OtherSession));
            }
        }
    }

    pub(super) fn link_closed(&mut self, closed: LinkId) {
        match self.state.link {
            Link::Opened { link }
            | Link::Challenged { link, .. }
            | Link::Introduced { link, .. }
            | Link::Live { link, .. }
                if link == closed =>
            {
                self.state.link = Link::Down;
            }
            Link::Opened { .. }
            | Link::Challenged { .. }
            | Link::Introduced { .. }
            | Link::Live { .. }
            | Link::Down => {}
        }
    }

    fn challenged(&mut self, link: LinkId, challenge: &Challenge) {
        if PROTOCOL.common(challenge.protocol).is_none() {
            let text = format!(
                "this slave speaks protocol {} to {}, the master {} to {}: upgrade the older one",
                PROTOCOL.oldest, PROTOCOL.newest, challenge.protocol.oldest, challenge.protocol.newest
            );
            self.effects.push(Effect::Close { link, code: CloseCode::Version, text });
            return;
        }
        let standing = standing(self.state.node.binding, challenge);
        let doubtful = matches!(standing, Standing::Old);
        if let (Some(boot), Standing::New | Standing::Known | Standing::Restored) =
            (self.state.volatile.boot, &standing)
        {
            self.state.node.sync = Some(super::Sync {
                boot,
                boot_ms: self.now.boot_ms,
                wall: self.now.wall,
                master: challenge.time,
            });
        }
        self.state.node.session = self.state.node.session.next();
        let disclosure = match standing {
            Standing::Foreign => Disclosure::Identity,
            Standing::Known => Disclosure::Jobs,
            Standing::New | Standing::Old | Standing::Restored => Disclosure::JobsAndOutcomes,
        };
        self.state.link = Link::Challenged { link, doubtful, disclosure };
    }

    /// Says Hello as soon as the machine has said what it does: a slave that does not know says nothing.
    pub(super) fn introduce(&mut self) {
        let Link::Challenged { link, doubtful, disclosure } = self.state.link else { return };
        let (true, Some(boot)) = (self.state.volatile.probing.is_empty(), self.state.volatile.boot) else {
            return;
        };
        let session = self.state.node.session;
        self.state.volatile.told = self.state.jobs.iter().map(|(id, job)| (*id, job.report.seq)).collect();
        self.state.link = Link::Introduced { link, session, doubtful };
        let hello = hello(&self.state, boot, disclosure, self.now.wall);
        self.effects.push(Effect::Send { link, session, message: Message::Hello(Box::new(hello)) });
    }

    fn welcomed(
        &mut self,
        link: LinkId,
        session: Session,
        doubtful: bool,
        welcome: Welcome,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        let foreign = self.state.node.binding.is_some_and(|binding| binding.master != welcome.binding.master);
        if foreign && doubtful {
            let text = "a Welcome to another master than the one that asked who this is".to_owned();
            self.state.link = Link::Down;
            self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
            return;
        }
        if foreign {
            // This master admits the slave, which has told it nothing yet: bind to it and introduce again.
            self.state.node.binding = Some(MasterBinding { commit: Commit(0), ..welcome.binding });
            self.state.node.operating_mode =
                OperatingMode { generation: Generation(0), ..self.state.node.operating_mode };
            self.state.link = Link::Down;
            let text = "admitted by another master than before: introducing again, with its jobs".to_owned();
            self.effects.push(Effect::Close { link, code: CloseCode::GoingAway, text });
            return;
        }
        if !doubtful && self.state.node.binding.is_some_and(|binding| binding.epoch > welcome.binding.epoch) {
            let text = "a Welcome of an older epoch than the one that was seen before".to_owned();
            self.state.link = Link::Down;
            self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
            return;
        }
        // A database that has just been born has promised nothing yet.
        let newborn = self.state.node.binding.is_none();
        let mut settling =
            Settling { link, session, doubtful, report: BTreeSet::new(), record: BTreeSet::new() };
        if !doubtful {
            // The ring was told. Whether that arrived shows when the master says something: until then, it is told again.
            let told =
                self.state.node.binding.is_none_or(|binding| {
                    binding.commit == Commit(0) || binding.epoch < welcome.binding.epoch
                });
            let owed = told && !self.state.recent_outcomes.is_empty();
            self.state.volatile.owed = owed.then_some(welcome.binding.commit);
            let commit = if owed { Commit(0) } else { welcome.binding.commit };
            self.state.node.binding = Some(MasterBinding { commit, ..welcome.binding });
            self.operating_mode(welcome.operating_mode);
        }
        for ruling in welcome.rulings {
            match ruling.tell {
                Tell::Nothing => {}
                Tell::Report => drop(settling.report.insert(ruling.job)),
                Tell::Record => drop(settling.record.insert(ruling.job)),
            }
            let asked = ruling.verdict == Verdict::AskPerson;
            if doubtful {
                self.effects.push(Effect::Ignored(Ignored::MasterDoubted));
            } else if asked && self.remembers(ruling.job, ruling.attempt) {
                // It is a master that went back in time unnoticed: nobody needs to be asked.
                settling.report.insert(ruling.job);
            } else {
                self.rule(ruling, unfit, newborn);
            }
        }
        self.settling = Some(settling);
    }

    /// It was done here, told and forgotten.
    fn remembers(&self, job: JobId, attempt: Attempt) -> bool {
        let same = |record: &Record| record.report.job == job && record.report.attempt == attempt;
        !self.state.jobs.contains_key(&job) && self.state.recent_outcomes.iter().any(same)
    }

    fn rule(&mut self, ruling: Ruling, unfit: &BTreeMap<JobId, Reason>, newborn: bool) {
        let Ruling { job, attempt, verdict, desired_state, .. } = ruling;
        match verdict {
            Verdict::Quarantine => {
                self.state.node.attention = Some(Attention::StoreRolledBack);
                if let Some(next) = self.state.volatile.next_store.take() {
                    self.state.node.store = next;
                }
                self.state.recent_outcomes = Arc::default();
                if self.apply(job, job::Event::Vanished, Source::Slave) {
                    let text = "the slave's database went back in time: say how this ended with `resolve`";
                    self.reason(job, Reason::new(ReasonCode::StoreRolledBack, text));
                }
            }
            // The outcome is told in Settled; Forget comes when the master has it on disk.
            Verdict::AskPerson => {
                // It had promised to keep a job that it does not know: nothing starts until somebody has looked.
                if !self.state.jobs.contains_key(&job) && !newborn {
                    self.state.node.attention = self.state.node.attention.or(Some(Attention::MemoryGap));
                }
            }
            Verdict::Keep
            | Verdict::Adopt
            | Verdict::Forget
            | Verdict::Release
            | Verdict::Offer
            | Verdict::Start
            | Verdict::Cancel
            | Verdict::Recall => {}
        }
        match (verdict, desired_state) {
            (_, Some(desired_state)) => self.wanted(desired_state, unfit),
            (Verdict::Cancel, None) => self.cancel_attempt(job, attempt),
            (_, None) => {}
        }
    }

    /// An attempt that the master has given up or assigned to another slave: it goes if it has not started.
    fn cancel_attempt(&mut self, job: JobId, attempt: Attempt) {
        if self.state.jobs.get(&job).is_some_and(|held| held.report.attempt == attempt)
            && self.apply(job, job::Event::Dropped, Source::Remote)
        {
            let wanted =
                self.state.jobs.get(&job).is_some_and(|job| matches!(job.desired, Desired::Cancel(_)));
            let reason = if wanted {
                Reason::new(ReasonCode::Canceled, "canceled")
            } else {
                Reason::new(ReasonCode::Abandoned, "another attempt took its place")
            };
            self.reason(job, reason);
        }
    }

    fn live(&mut self, doubtful: bool, commit: Commit, message: Message, unfit: &BTreeMap<JobId, Reason>) {
        if let (Some(commit), Some(binding)) = (self.state.volatile.owed.take(), &mut self.state.node.binding)
        {
            binding.commit = commit;
        }
        match message {
            Message::DesiredState(_) | Message::Forget(_) | Message::OperatingMode(_) | Message::Ask(_)
                if doubtful =>
            {
                self.effects.push(Effect::Ignored(Ignored::MasterDoubted));
            }
            Message::DesiredState(desired_state) => {
                self.saw(commit);
                self.wanted(desired_state, unfit);
            }
            Message::Forget(forget) => {
                self.saw(commit);
                self.forget(forget);
            }
            Message::OperatingMode(operating_mode) => {
                self.saw(commit);
                self.operating_mode(operating_mode);
            }
            Message::Ask(ask) => {
                match ask.question {
                    Question::Ready { .. } | Question::Clear { .. } => self.saw(commit),
                    // Reading changes nothing here, and whoever follows an output asks often.
                    Question::Log { .. } => {}
                }
                self.asked(ask.id, ask.question);
            }
            Message::Ping | Message::Pong => {}
            Message::Challenge(_)
            | Message::Hello(_)
            | Message::Welcome(_)
            | Message::Refuse(_)
            | Message::Settled(_)
            | Message::Report(_)
            | Message::Declined(_)
            | Message::Machine(_)
            | Message::Answer(_) => {
                if let Link::Live { link, .. } = self.state.link {
                    let text = "a message that a master does not send on a live link".to_owned();
                    self.state.link = Link::Down;
                    self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
                }
            }
        }
    }

    /// The master has come this far: what follows from its message is on disk only together with that.
    fn saw(&mut self, commit: Commit) {
        if let Some(binding) = &mut self.state.node.binding {
            binding.commit = binding.commit.max(commit);
        }
    }

    fn operating_mode(&mut self, operating_mode: OperatingMode) {
        if operating_mode.generation >= self.state.node.operating_mode.generation {
            self.state.node.operating_mode = operating_mode;
        } else {
            self.effects.push(Effect::Ignored(Ignored::OlderMode));
        }
    }

    fn forget(&mut self, forget: Forget) {
        let Some(job) = self.state.jobs.get(&forget.job).filter(|job| job.report.attempt == forget.attempt)
        else {
            self.effects.push(Effect::Ignored(Ignored::NothingToForget));
            return;
        };
        if !job.report.state.is_ended() {
            self.effects.push(Effect::Ignored(Ignored::NotEnded));
            return;
        }
        if job.report.seq > forget.seq {
            self.effects.push(Effect::Ignored(Ignored::NewerReport));
            return;
        }
        let Some(job) = self.state.jobs.remove(&forget.job) else { return };
        self.effects.push(Effect::Dismiss(job.work()));
        let recent_outcomes = Arc::make_mut(&mut self.state.recent_outcomes);
        recent_outcomes.retain(|record| record.report.job != forget.job);
        recent_outcomes.push(Record { spec: job.spec, start: job.start, report: job.report });
        let bytes = |recent_outcomes: &[Record]| {
            recent_outcomes.iter().map(|record| record.spec.size()).sum::<usize>()
        };
        while recent_outcomes.len() > RECENT_OUTCOMES || bytes(recent_outcomes) > RECENT_OUTCOMES_BYTES {
            recent_outcomes.remove(0);
        }
    }

    fn asked(&mut self, id: u32, question: Question) {
        let Link::Live { link, session, .. } = self.state.link else { return };
        let reply = match question {
            Question::Ready { unloading } => {
                if self.state.node.unloading == Some(unloading) {
                    self.state.node.unloading = None;
                    Reply::Done
                } else {
                    Reply::Refused("the machine is not waiting to be cleared of that job".to_owned())
                }
            }
            Question::Clear { attention } => {
                if self.state.node.attention == Some(attention) {
                    self.clear();
                    Reply::Done
                } else {
                    Reply::Refused("the machine does not need attention for that".to_owned())
                }
            }
            // The machine may have kept it for longer than the slave has kept the job.
            Question::Log { job, attempt, run, offset, limit } => {
                let work = RunKey { job, attempt, run };
                let limit = limit.min(LOG_BYTES);
                self.effects.push(Effect::ReadLog { link, session, id, work, offset, limit });
                return;
            }
        };
        let message = Message::Answer(crate::message::Answer { id, answer: reply });
        self.effects.push(Effect::Send { link, session, message });
    }

    /// The master's whole desired state for one job, from a DesiredState or from a Welcome.
    fn wanted(&mut self, desired_state: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let held = self
            .state
            .jobs
            .get(&desired_state.job)
            .map(|job| (job.report.attempt, job.report.state, job.report.generation));
        match held {
            None => self.offered(desired_state, unfit),
            Some((attempt, ..)) if attempt > desired_state.attempt => {
                self.effects.push(Effect::Ignored(Ignored::OlderGeneration))
            }
            Some((attempt, state, _)) if attempt < desired_state.attempt => {
                if state == job::State::Accepted {
                    self.state.jobs.remove(&desired_state.job);
                    self.offered(desired_state, unfit);
                } else {
                    let text = format!("attempt {attempt} of the same job is {} here", state.name());
                    let reason = Reason::new(ReasonCode::OlderAttempt, text);
                    self.declined.push(not_held(
                        desired_state.job,
                        desired_state.attempt,
                        desired_state.generation,
                        reason,
                        false,
                    ));
                    self.say_again(desired_state.job);
                }
            }
            Some((_, _, generation)) if generation >= desired_state.generation => {
                self.effects.push(Effect::Ignored(Ignored::OlderGeneration));
                self.say_again(desired_state.job);
            }
            Some(_) => self.set_desired(desired_state),
        }
    }

    /// A level is repeated when the other side seems not to know it.
    fn say_again(&mut self, id: JobId) {
        if let Some(settling) = &mut self.settling {
            settling.report.insert(id);
        }
        if let Some(job) = self.state.jobs.get_mut(&id) {
            job.report.seq.start = self.state.node.starts;
            job.report.seq.count += 1;
        }
    }

    fn offered(&mut self, desired_state: DesiredState, unfit: &BTreeMap<JobId, Reason>) {
        let done = |record: &&Record| {
            record.report.job == desired_state.job && record.report.attempt >= desired_state.attempt
        };
        if let Some(record) = self.state.recent_outcomes.iter().find(done).cloned() {
            // It was done here and forgotten: never again, and the outcome is told anew.
            self.state.jobs.insert(desired_state.job, remembered(record));
            self.say_again(desired_state.job);
            return;
        }
        let DesiredState { job: id, attempt, generation, digest, spec, desired, start } = desired_state;
        let decline =
            |code, text: &str, for_good| not_held(id, attempt, generation, Reason::new(code, text), for_good);
        let declined = match (desired, spec) {
            (Desired::Cancel(_) | Desired::Resolve(_), _) => {
                decline(ReasonCode::NotHeld, "it was never here", true)
            }
            (Desired::Return, _) => decline(ReasonCode::GivenBack, "it was not started here", false),
            (Desired::Run | Desired::Pause, None) => {
                decline(ReasonCode::NotHeld, "the work is needed to take it", false)
            }
            (Desired::Run | Desired::Pause, Some(spec)) => {
                match self.unacceptable(id, &spec, digest, &start, unfit) {
                    Some((reason, for_good)) => not_held(id, attempt, generation, reason, for_good),
                    None => {
                        let report = fresh_report(id, attempt, generation, self.stamp());
                        let job = Job {
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
                        };
                        self.state.jobs.insert(id, job);
                        return;
                    }
                }
            }
        };
        self.declined.push(declined);
    }

    fn unacceptable(
        &self,
        id: JobId,
        spec: &crate::spec::Spec,
        digest: crate::spec::SpecDigest,
        start: &crate::spec::StartRule,
        unfit: &BTreeMap<JobId, Reason>,
    ) -> Option<(Reason, bool)> {
        let state = &self.state;
        if spec.digest() != digest {
            return Some((Reason::new(ReasonCode::DigestMismatch, "the work is not what was agreed"), true));
        }
        if let Some(reason) = unfit.get(&id) {
            return Some((reason.clone(), true));
        }
        if !matches!(state.node.operating_mode.mode, crate::message::Mode::Production) {
            let text = format!("the slave is in mode {}", state.node.operating_mode.mode.name());
            return Some((Reason::new(ReasonCode::NotInProduction, text), false));
        }
        if state.node.local_lock {
            let text =
                "remote starts are locked out at the machine: `reloop-slave local off` there lets them in";
            return Some((Reason::new(ReasonCode::LocalLock, text), false));
        }
        if let (Some(deadline), Some(time)) = (start.deadline, self.master_time())
            && deadline < time
        {
            return Some((Reason::new(ReasonCode::WindowClosed, "its latest start has passed"), false));
        }
        let held: Vec<_> = state.jobs.values().filter(|job| !job.report.state.is_ended()).collect();
        if held.len() >= usize::from(state.settings.capacity) {
            let names: Vec<_> = held.iter().map(|job| job.report.job.to_string()).collect();
            let text = format!("the slave holds as many jobs as it may: {}", names.join(", "));
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        if state.jobs.len() >= usize::from(limits::CAPACITY) {
            let text = "the slave keeps as many jobs and outcomes as one message can tell of: the master has to \
                        take the outcomes first";
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        let size = spec.size();
        if size > SPEC_BYTES {
            let text = format!(
                "the work takes {size} bytes where {SPEC_BYTES} are allowed: pass large things by name"
            );
            return Some((Reason::new(ReasonCode::BadParams, text), true));
        }
        // Outcomes count: a master that knows nothing is told them whole.
        if state.jobs.values().map(|job| job.spec.size()).sum::<usize>() + size > HELD_BYTES {
            let text = "the slave holds as much work as one message can tell of";
            return Some((Reason::new(ReasonCode::AtCapacity, text), false));
        }
        None
    }

    /// A newer desired state for a job that is here.
    fn set_desired(&mut self, desired_state: DesiredState) {
        let id = desired_state.job;
        let time = self.master_time();
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.generation = desired_state.generation;
        job.desired = desired_state.desired;
        let state = job.report.state;
        if state == job::State::Accepted {
            if desired_state.start.not_before != job.start.not_before {
                // What came or was missed was another time. One that is over already ends no hold: it may be the plan of
                // a master that was restored, and who wants it begun now says so by a release.
                job.due = false;
                let is_over =
                    desired_state.start.not_before.is_some_and(|at| time.is_some_and(|time| at <= time));
                if !is_over {
                    job.missed = false;
                    let missed = |reason: &mut Reason| reason.code == ReasonCode::MissedStart;
                    drop(job.report.reason.take_if(missed));
                }
            }
            if (desired_state.start.not_before, desired_state.start.deadline)
                != (job.start.not_before, job.start.deadline)
            {
                job.window_met = false;
            }
            job.start = desired_state.start;
            if matches!(desired_state.start.gate, Gate::Released { .. }) {
                job.missed = false;
                job.due = true;
            }
        }
        if desired_state.digest != job.digest {
            let text = "the work that the master means is not the work that is here: cancel it";
            job.report.reason = Some(Reason::new(ReasonCode::DigestMismatch, text));
            if state == job::State::Accepted {
                job.start.gate = Gate::Held;
            }
        }
        match desired_state.desired {
            Desired::Run => self.let_run(id, Source::Remote),
            Desired::Pause => self.pause(id, Source::Remote),
            Desired::Cancel(mode) => self.cancel(id, mode, Source::Remote),
            Desired::Return => {
                // What has begun here begins again here, if it does: its report says so.
                let has_begun = self.state.jobs.get(&id).is_some_and(|job| job.report.started_at.is_some());
                if state == job::State::Accepted && !has_begun {
                    self.state.jobs.remove(&id);
                    let reason = Reason::new(ReasonCode::GivenBack, "given back as asked");
                    self.declined.push(not_held(
                        id,
                        desired_state.attempt,
                        desired_state.generation,
                        reason,
                        false,
                    ));
                }
            }
            Desired::Resolve(end) => {
                self.resolve(id, end, Source::Remote);
            }
        }
    }

    /// Somebody cancels a job. What the machine has not answered about is stopped once it has.
    pub(super) fn cancel(&mut self, id: JobId, mode: CancelMode, source: Source) {
        let reason = why_stopped(source);
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let state = job.report.state;
        if state == job::State::Accepted {
            if self.apply(id, job::Event::Dropped, source) {
                self.reason(id, reason);
            }
            return;
        }
        let too_late = state.is_ended() || (state.is_executing() && mode == CancelMode::IfNotStarted);
        if too_late {
            job.report.flags.set(Flags::CANCEL_TOO_LATE);
            return;
        }
        if !state.is_executing() {
            return;
        }
        if matches!(source, Source::Local | Source::Slave) {
            job.run.stop_decided = Some(source);
        }
        let harder = job.run.stopping.is_none_or(|stopping| mode > stopping);
        if harder {
            job.run.stopping = Some(mode);
        }
        if harder && !is_unanswered {
            let work = job.work();
            self.apply(id, job::Event::StopBegan, source);
            self.reason(id, reason);
            self.effects.push(Effect::Stop { work, now: mode == CancelMode::Now });
        }
    }
}

/// What is told of a job that was canceled by this one.
pub(super) fn why_stopped(source: Source) -> Reason {
    match source {
        Source::Local => Reason::new(ReasonCode::StoppedLocally, "stopped by a person at the machine"),
        Source::Slave => Reason::new(ReasonCode::MaxRuntime, "it ran longer than its order allows"),
        Source::Remote | Source::Machine => Reason::new(ReasonCode::Canceled, "canceled"),
    }
}

/// A forgotten job, with its outcome to tell again.
fn remembered(record: Record) -> Job {
    Job {
        digest: record.spec.digest(),
        desired: Desired::Run,
        spec: record.spec,
        start: record.start,
        report: record.report,
        due: true,
        missed: false,
        window_met: false,
        paused_locally: false,
        interruptions: 0,
        run: RunState::default(),
    }
}

fn hello(state: &Slave, boot: crate::id::BootId, disclosure: Disclosure, clock: crate::time::Time) -> Hello {
    Hello {
        protocol: PROTOCOL,
        key: state.settings.key,
        name: state.settings.name.clone(),
        agent: state.settings.agent.clone(),
        binding: state.node.binding,
        token: state.settings.token.clone(),
        store: state.node.store,
        boot,
        session: state.node.session,
        clock,
        machine: super::machine_report(state),
        programs: state.settings.programs.clone(),
        labels: state.settings.labels.clone(),
        capacity: state.settings.capacity,
        rows: match disclosure {
            Disclosure::Identity => vec![],
            Disclosure::Jobs | Disclosure::JobsAndOutcomes => super::snapshot(state),
        },
        recent_outcomes: match disclosure {
            Disclosure::Identity | Disclosure::Jobs => vec![],
            Disclosure::JobsAndOutcomes => {
                state.recent_outcomes.iter().map(|record| super::row(&record.report)).collect()
            }
        },
    }
}

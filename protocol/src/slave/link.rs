//! What a slave does with what the master says.

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

use super::{
    Candor, Effect, HELD_BYTES, Ignored, Job, Link, LinkId, RING, RING_BYTES, Rules, RunKey, RunState, Settling,
    Slave, Standing, fresh_report, not_held, standing,
};
use crate::id::{Attempt, Commit, JobId, Session, WishRev};
use crate::job;
use crate::limits::{self, LOG_BYTES};
use crate::message::{
    Attention, Bond, Challenge, CloseCode, Conduct, Flags, Forget, Hello, Message, PROTOCOL, Question,
    Reason, ReasonCode, Record, Reply, Ruling, Source, Tell, Welcome,
};
use crate::reconcile::Verdict;
use crate::spec::{CancelMode, Desired, Gate, SPEC_BYTES, Want};


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
        let standing = standing(self.state.node.bond, challenge);
        let doubtful = matches!(standing, Standing::Old);
        if let (Some(boot), Standing::New | Standing::Known | Standing::Restored) =
            (self.state.fresh.boot, &standing)
        {
            self.state.node.sync = Some(super::Sync {
                boot,
                boot_ms: self.now.boot_ms,
                wall: self.now.wall,
                master: challenge.time,
            });
        }
        self.state.node.session = self.state.node.session.next();
        let candor = match standing {
            Standing::Foreign => Candor::Identity,
            Standing::Known => Candor::Jobs,
            Standing::New | Standing::Old | Standing::Restored => Candor::JobsAndRing,
        };
        self.state.link = Link::Challenged { link, doubtful, candor };
    }

    /// Says Hello as soon as the machine has said what it does: a slave that does not know says nothing.
    pub(super) fn introduce(&mut self) {
        let Link::Challenged { link, doubtful, candor } = self.state.link else { return };
        let (true, Some(boot)) = (self.state.fresh.probing.is_empty(), self.state.fresh.boot) else { return };
        let session = self.state.node.session;
        self.state.fresh.told = self.state.jobs.iter().map(|(id, job)| (*id, job.report.seq)).collect();
        self.state.link = Link::Introduced { link, session, doubtful };
        let hello = hello(&self.state, boot, candor, self.now.wall);
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
        let foreign = self.state.node.bond.is_some_and(|bond| bond.master != welcome.bond.master);
        if foreign && doubtful {
            let text = "a Welcome to another master than the one that asked who this is".to_owned();
            self.state.link = Link::Down;
            self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
            return;
        }
        if foreign {
            // This master admits the slave, which has told it nothing yet: bind to it and introduce again.
            self.state.node.bond = Some(Bond { commit: Commit(0), ..welcome.bond });
            self.state.node.conduct = Conduct { rev: WishRev(0), ..self.state.node.conduct };
            self.state.link = Link::Down;
            let text = "admitted by another master than before: introducing again, with its jobs".to_owned();
            self.effects.push(Effect::Close { link, code: CloseCode::GoingAway, text });
            return;
        }
        if !doubtful && self.state.node.bond.is_some_and(|bond| bond.epoch > welcome.bond.epoch) {
            let text = "a Welcome of an older epoch than the one that was seen before".to_owned();
            self.state.link = Link::Down;
            self.effects.push(Effect::Close { link, code: CloseCode::Protocol, text });
            return;
        }
        // A database that has just been born has promised nothing yet.
        let newborn = self.state.node.bond.is_none();
        let mut settling =
            Settling { link, session, doubtful, report: BTreeSet::new(), record: BTreeSet::new() };
        if !doubtful {
            // The ring was told. Whether that arrived shows when the master says something: until then, it is told again.
            let told = self
                .state
                .node
                .bond
                .is_none_or(|bond| bond.commit == Commit(0) || bond.epoch < welcome.bond.epoch);
            let owed = told && !self.state.ring.is_empty();
            self.state.fresh.owed = owed.then_some(welcome.bond.commit);
            let commit = if owed { Commit(0) } else { welcome.bond.commit };
            self.state.node.bond = Some(Bond { commit, ..welcome.bond });
            self.conduct(welcome.conduct);
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
        !self.state.jobs.contains_key(&job) && self.state.ring.iter().any(same)
    }

    fn rule(&mut self, ruling: Ruling, unfit: &BTreeMap<JobId, Reason>, newborn: bool) {
        let Ruling { job, attempt, verdict, want, .. } = ruling;
        match verdict {
            Verdict::Quarantine => {
                self.state.node.attention = Some(Attention::StoreRolledBack);
                if let Some(next) = self.state.fresh.next_store.take() {
                    self.state.node.store = next;
                }
                self.state.ring = Arc::default();
                if self.turn(job, job::Event::Vanished, Source::Slave) {
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
        match (verdict, want) {
            (_, Some(want)) => self.wanted(want, unfit),
            (Verdict::Cancel, None) => self.cancel_attempt(job, attempt),
            (_, None) => {}
        }
    }

    /// An attempt that the master has given up or handed to another slave: it goes if it has not started.
    fn cancel_attempt(&mut self, job: JobId, attempt: Attempt) {
        if self.state.jobs.get(&job).is_some_and(|held| held.report.attempt == attempt)
            && self.turn(job, job::Event::Dropped, Source::Remote)
        {
            let wished =
                self.state.jobs.get(&job).is_some_and(|job| matches!(job.desired, Desired::Cancel(_)));
            let reason = if wished {
                Reason::new(ReasonCode::Canceled, "canceled")
            } else {
                Reason::new(ReasonCode::Abandoned, "another attempt took its place")
            };
            self.reason(job, reason);
        }
    }

    fn live(&mut self, doubtful: bool, commit: Commit, message: Message, unfit: &BTreeMap<JobId, Reason>) {
        if let (Some(commit), Some(bond)) = (self.state.fresh.owed.take(), &mut self.state.node.bond) {
            bond.commit = commit;
        }
        match message {
            Message::Want(_) | Message::Forget(_) | Message::Conduct(_) | Message::Ask(_) if doubtful => {
                self.effects.push(Effect::Ignored(Ignored::MasterDoubted));
            }
            Message::Want(want) => {
                self.saw(commit);
                self.wanted(want, unfit);
            }
            Message::Forget(forget) => {
                self.saw(commit);
                self.forget(forget);
            }
            Message::Conduct(conduct) => {
                self.saw(commit);
                self.conduct(conduct);
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
        if let Some(bond) = &mut self.state.node.bond {
            bond.commit = bond.commit.max(commit);
        }
    }

    fn conduct(&mut self, conduct: Conduct) {
        if conduct.rev >= self.state.node.conduct.rev {
            self.state.node.conduct = conduct;
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
        let ring = Arc::make_mut(&mut self.state.ring);
        ring.retain(|record| record.report.job != forget.job);
        ring.push(Record { spec: job.spec, start: job.start, report: job.report });
        let bytes = |ring: &[Record]| ring.iter().map(|record| record.spec.size()).sum::<usize>();
        while ring.len() > RING || bytes(ring) > RING_BYTES {
            ring.remove(0);
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

    /// The master's whole wish for one job, from a Want or from a Welcome.
    fn wanted(&mut self, want: Want, unfit: &BTreeMap<JobId, Reason>) {
        let held =
            self.state.jobs.get(&want.job).map(|job| (job.report.attempt, job.report.state, job.report.rev));
        match held {
            None => self.offered(want, unfit),
            Some((attempt, ..)) if attempt > want.attempt => self.effects.push(Effect::Ignored(Ignored::OlderGeneration)),
            Some((attempt, state, _)) if attempt < want.attempt => {
                if state == job::State::Accepted {
                    self.state.jobs.remove(&want.job);
                    self.offered(want, unfit);
                } else {
                    let text = format!("attempt {attempt} of the same job is {} here", state.name());
                    let reason = Reason::new(ReasonCode::OlderAttempt, text);
                    self.declined.push(not_held(want.job, want.attempt, want.rev, reason, false));
                    self.say_again(want.job);
                }
            }
            Some((_, _, rev)) if rev >= want.rev => {
                self.effects.push(Effect::Ignored(Ignored::OlderGeneration));
                self.say_again(want.job);
            }
            Some(_) => self.wish(want),
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

    fn offered(&mut self, want: Want, unfit: &BTreeMap<JobId, Reason>) {
        let done = |record: &&Record| record.report.job == want.job && record.report.attempt >= want.attempt;
        if let Some(record) = self.state.ring.iter().find(done).cloned() {
            // It was done here and forgotten: never again, and the outcome is told anew.
            self.state.jobs.insert(want.job, remembered(record));
            self.say_again(want.job);
            return;
        }
        let Want { job: id, attempt, rev, digest, spec, desired, start } = want;
        let decline =
            |code, text: &str, for_good| not_held(id, attempt, rev, Reason::new(code, text), for_good);
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
                    Some((reason, for_good)) => not_held(id, attempt, rev, reason, for_good),
                    None => {
                        let report = fresh_report(id, attempt, rev, self.stamp());
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
        if !matches!(state.node.conduct.mode, crate::message::Mode::Production) {
            let text = format!("the slave is in mode {}", state.node.conduct.mode.name());
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

    /// A newer wish for a job that is here.
    fn wish(&mut self, want: Want) {
        let id = want.job;
        let time = self.master_time();
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        job.report.rev = want.rev;
        job.desired = want.desired;
        let state = job.report.state;
        if state == job::State::Accepted {
            if want.start.not_before != job.start.not_before {
                // What came or was missed was another time. One that is over already ends no hold: it may be the plan of
                // a master that was restored, and who wants it begun now says so by a release.
                job.due = false;
                let is_over = want.start.not_before.is_some_and(|at| time.is_some_and(|time| at <= time));
                if !is_over {
                    job.missed = false;
                    let missed = |reason: &mut Reason| reason.code == ReasonCode::MissedStart;
                    drop(job.report.reason.take_if(missed));
                }
            }
            if (want.start.not_before, want.start.deadline) != (job.start.not_before, job.start.deadline) {
                job.window_met = false;
            }
            job.start = want.start;
            if matches!(want.start.gate, Gate::Released { .. }) {
                job.missed = false;
                job.due = true;
            }
        }
        if want.digest != job.digest {
            let text = "the work that the master means is not the work that is here: cancel it";
            job.report.reason = Some(Reason::new(ReasonCode::DigestMismatch, text));
            if state == job::State::Accepted {
                job.start.gate = Gate::Held;
            }
        }
        match want.desired {
            Desired::Run => self.let_run(id, Source::Remote),
            Desired::Pause => self.pause(id, Source::Remote),
            Desired::Cancel(mode) => self.cancel(id, mode, Source::Remote),
            Desired::Return => {
                // What has begun here begins again here, if it does: its report says so.
                let has_begun = self.state.jobs.get(&id).is_some_and(|job| job.report.started_at.is_some());
                if state == job::State::Accepted && !has_begun {
                    self.state.jobs.remove(&id);
                    let reason = Reason::new(ReasonCode::GivenBack, "given back as asked");
                    self.declined.push(not_held(id, want.attempt, want.rev, reason, false));
                }
            }
            Desired::Resolve(end) => {
                self.resolve(id, end, Source::Remote);
            }
        }
    }

    /// Somebody wishes a job away. What the machine has not answered about is stopped once it has.
    pub(super) fn cancel(&mut self, id: JobId, mode: CancelMode, source: Source) {
        let reason = why_stopped(source);
        let is_unanswered = self.state.is_unanswered(id);
        let Some(job) = self.state.jobs.get_mut(&id) else { return };
        let state = job.report.state;
        if state == job::State::Accepted {
            if self.turn(id, job::Event::Dropped, source) {
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
            self.turn(id, job::Event::StopBegan, source);
            self.reason(id, reason);
            self.effects.push(Effect::Stop { work, now: mode == CancelMode::Now });
        }
    }
}

/// What is told of a job that was wished away by this one.
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

fn hello(state: &Slave, boot: crate::id::BootId, candor: Candor, clock: crate::time::Time) -> Hello {
    Hello {
        protocol: PROTOCOL,
        key: state.settings.key,
        name: state.settings.name.clone(),
        agent: state.settings.agent.clone(),
        bond: state.node.bond,
        token: state.settings.token.clone(),
        store: state.node.store,
        boot,
        session: state.node.session,
        clock,
        machine: super::machine_report(state),
        programs: state.settings.programs.clone(),
        labels: state.settings.labels.clone(),
        capacity: state.settings.capacity,
        rows: match candor {
            Candor::Identity => vec![],
            Candor::Jobs | Candor::JobsAndRing => super::snapshot(state),
        },
        ring: match candor {
            Candor::Identity | Candor::Jobs => vec![],
            Candor::JobsAndRing => state.ring.iter().map(|record| super::row(&record.report)).collect(),
        },
    }
}

//! The handshake, from the Challenge to Settled.

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};

use super::clock::masters_step_back;
use super::step::{Rules, Settling};
use super::{Disclosure, Effect, Ignored, Job, Link, LinkId, RunState, Slave};
use crate::id::{Attempt, Commit, Generation, JobId, Session};
use crate::job::{self};
use crate::message::{
    Attention, Challenge, CloseCode, Hello, MasterBinding, Message, OperatingMode, PROTOCOL, Reason,
    ReasonCode, Record, Ruling, Source, Tell, Welcome,
};
use crate::reconcile::Verdict;
use crate::spec::{Desired, Gate};

/// Whether a master is one that this slave may obey, by what it has seen before.
pub(super) fn standing(binding: Option<MasterBinding>, challenge: &Challenge) -> Standing {
    match binding {
        None => Standing::New,
        Some(binding) if binding.master != challenge.master => Standing::Foreign,
        Some(binding) if binding.epoch > challenge.epoch => Standing::Old,
        // Just admitted there: nothing of what was forgotten before is on its disk.
        Some(binding) if binding.commit == Commit(0) => Standing::New,
        Some(binding)
            if binding.epoch == challenge.epoch
                && binding.is_ahead_of(challenge.commit, &challenge.begun) =>
        {
            Standing::Old
        }
        Some(binding) if binding.epoch < challenge.epoch => Standing::Restored,
        Some(_) => Standing::Known,
    }
}

/// See [`standing`].
#[derive(Clone, Copy)]
pub(super) enum Standing {
    New,
    Foreign,
    Old,
    Restored,
    Known,
}

/// A forgotten job, with its outcome to tell again.
pub(super) fn remembered(record: Record) -> Job {
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

pub(super) fn hello(
    state: &Slave,
    boot: crate::id::BootId,
    disclosure: Disclosure,
    clock: crate::time::Time,
) -> Hello {
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
                state.recent_outcomes.iter().map(|record| super::state::row(&record.report)).collect()
            }
        },
    }
}

impl Rules {
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

    pub(super) fn challenged(&mut self, link: LinkId, challenge: &Challenge) {
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
            self.measure(super::Sync {
                boot,
                boot_ms: self.now.boot_ms,
                wall: self.now.wall,
                master: challenge.time,
                synchronized: self.now.synchronized,
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

    /// Takes a new reading of the master's clock. If that clock was set back, releases move with it, so that what is left of them stays.
    fn measure(&mut self, reading: super::Sync) {
        let is_released = |job: &Job| matches!(job.start.gate, Gate::Released { .. });
        match self.state.node.sync.replace(reading) {
            Some(before) if before.boot == reading.boot => {
                if let Some(step) = masters_step_back(before, reading) {
                    self.state.jobs.change(is_released, |job| job.start.gate = job.start.gate.shifted(step));
                }
            }
            Some(_) | None => self.state.node.doubts_releases |= self.state.jobs.values().any(is_released),
        }
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

    pub(super) fn welcomed(
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
            self.state.node.doubts_releases = false;
            self.state.volatile.heard = true;
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
    pub(super) fn remembers(&self, job: JobId, attempt: Attempt) -> bool {
        let same = |record: &Record| record.report.job == job && record.report.attempt == attempt;
        !self.state.jobs.contains_key(&job) && self.state.recent_outcomes.iter().any(same)
    }

    pub(super) fn rule(&mut self, ruling: Ruling, unfit: &BTreeMap<JobId, Reason>, newborn: bool) {
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
    pub(super) fn cancel_attempt(&mut self, job: JobId, attempt: Attempt) {
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
}

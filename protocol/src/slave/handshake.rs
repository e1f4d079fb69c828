//! The handshake, from the Challenge to Settled.

use std::collections::{BTreeMap, BTreeSet};

use super::out::Settling;
use super::step::Rules;
use super::{Closing, Disclosure, Ignored, JobReason, Link, LinkId, Slave, machine_report, snapshot};
use crate::id::{Attempt, BootId, JobId, Session};
use crate::job::{self};
use crate::message::{
    Attention, Challenge, Hello, MasterBinding, Message, PROTOCOL, Reason, Record, Ruling, Source, Tell,
    Welcome,
};
use crate::reconcile::Verdict;
use crate::spec::Desired;
use crate::time::Time;

fn hello(state: &Slave, boot: BootId, disclosure: Disclosure, clock: Time) -> Hello {
    Hello {
        protocol: PROTOCOL,
        key: state.settings.key,
        name: state.settings.name.clone(),
        agent: state.settings.agent.clone(),
        binding: state.node.binding,
        token: state.settings.token.clone(),
        store: state.node.store,
        boot,
        starts: state.node.starts,
        session: state.node.session,
        clock,
        machine: machine_report(state),
        programs: state.settings.programs.clone(),
        labels: state.settings.labels.clone(),
        capacity: state.settings.capacity,
        deferred_capacity: state.settings.deferred_capacity,
        rows: match disclosure {
            Disclosure::Identity => vec![],
            Disclosure::Jobs | Disclosure::JobsAndOutcomes => snapshot(state),
        },
        recent_outcomes: match disclosure {
            Disclosure::Identity | Disclosure::Jobs => vec![],
            Disclosure::JobsAndOutcomes => {
                state.recent_outcomes.iter().map(|record| record.report.row()).collect()
            }
        },
    }
}

/// What a Welcome means to a slave that has this binding.
enum Admission {
    /// Its master is obeyed, or a doubtful one is answered.
    Taken,
    /// A master that the slave did not belong to admits it.
    Moves,
    Fault(Closing),
}

impl Admission {
    fn of(binding: Option<MasterBinding>, welcome: MasterBinding, doubtful: bool) -> Self {
        let foreign = binding.is_some_and(|binding| binding.master != welcome.master);
        if foreign && doubtful {
            return Self::Fault(Closing::OtherMaster);
        }
        if foreign {
            return Self::Moves;
        }
        if !doubtful && binding.is_some_and(|binding| binding.epoch > welcome.epoch) {
            return Self::Fault(Closing::OlderEpoch);
        }
        Self::Taken
    }
}

impl Rules {
    pub(super) fn challenged(&mut self, link: LinkId, challenge: &Challenge) {
        let standing = self.uplink().challenged(link, challenge);
        if standing.is_some_and(|standing| standing.tells_the_time()) {
            self.measure(challenge.time);
        }
    }

    /// Says Hello as soon as the machine has said what it does: a slave that does not know says nothing.
    pub(super) fn introduce(&mut self) {
        let state = self.state();
        let Link::Challenged { disclosure, .. } = state.link else { return };
        let (true, Some(boot)) = (state.volatile.probing.is_empty(), state.volatile.boot) else { return };
        let told = state.jobs.iter().map(|(id, job)| (*id, job.report.seq)).collect();
        let hello = hello(state, boot, disclosure, self.clock().wall());
        self.uplink().introduced(told, Message::Hello(Box::new(hello)));
    }

    pub(super) fn welcomed(
        &mut self,
        link: LinkId,
        session: Session,
        doubtful: bool,
        welcome: Welcome,
        unfit: &BTreeMap<JobId, Reason>,
    ) {
        let binding = self.state().node.binding;
        match Admission::of(binding, welcome.binding, doubtful) {
            Admission::Taken => {}
            Admission::Moves => {
                self.machine().count_modes_anew();
                return self.uplink().admitted(welcome.binding);
            }
            Admission::Fault(why) => return self.uplink().drop_link(why),
        }
        if !doubtful {
            let has_outcomes = !self.state().recent_outcomes.is_empty();
            self.uplink().bind(welcome.binding, has_outcomes);
            self.timekeeper().welcomed();
            self.operating_mode(welcome.operating_mode);
        }
        // A store without a binding has never accepted a job, so a job that it lacks is no gap.
        let newborn = binding.is_none();
        let (mut report, mut record) = (BTreeSet::new(), BTreeSet::new());
        for ruling in welcome.rulings {
            match ruling.tell {
                Tell::Nothing => {}
                Tell::Report => drop(report.insert(ruling.job)),
                Tell::Record => drop(record.insert(ruling.job)),
            }
            let asked = ruling.verdict == Verdict::AskPerson;
            if doubtful {
                self.out().ignore(Ignored::MasterDoubted);
            } else if asked && self.remembers(ruling.job, ruling.attempt) {
                // It is a master that went back in time unnoticed: nobody needs to be asked.
                report.insert(ruling.job);
            } else {
                self.rule(ruling, unfit, newborn);
            }
        }
        self.out().settle(Settling { link, session, doubtful, report, record });
    }

    /// It was done here, told and forgotten.
    fn remembers(&self, job: JobId, attempt: Attempt) -> bool {
        let same = |record: &Record| record.report.job == job && record.report.attempt == attempt;
        !self.state().jobs.contains_key(&job) && self.state().recent_outcomes.iter().any(same)
    }

    fn rule(&mut self, ruling: Ruling, unfit: &BTreeMap<JobId, Reason>, newborn: bool) {
        let Ruling { job, attempt, verdict, desired_state, .. } = ruling;
        match verdict {
            Verdict::Quarantine => {
                self.machine().need_above_all(Attention::StoreRolledBack);
                self.place().become_another_store();
                self.jobs().drop_recent_outcomes();
                if let Some(mut held) = self.held(job)
                    && held.apply(job::Event::Vanished, Source::Slave)
                {
                    held.explain(JobReason::StoreRolledBack);
                }
            }
            Verdict::AskPerson => {
                // It had promised to keep a job that it does not know: nothing starts until somebody has looked.
                if !self.state().jobs.contains_key(&job) && !newborn {
                    self.machine().need(Attention::MemoryGap);
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
            (Verdict::Cancel, None) => self.give_attempt_up(job, attempt),
            (_, None) => {}
        }
    }

    /// An attempt that the master has given up or assigned to another slave: it goes if it has not started.
    fn give_attempt_up(&mut self, job: JobId, attempt: Attempt) {
        let Some(mut held) = self.held(job).filter(|held| held.report.attempt == attempt) else { return };
        if held.apply(job::Event::Dropped, Source::Remote) {
            let wanted = matches!(held.desired, Desired::Cancel(_));
            held.explain(if wanted { JobReason::Stopped(Source::Remote) } else { JobReason::Abandoned });
        }
    }
}

//! What must hold after a step, and after healing.

use reloop_protocol::id::{Attempt, JobId, OrderId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Enrolled};
use reloop_protocol::message::{Flags, ReasonCode, Report};
use reloop_protocol::slave::{self, RunKey};
use reloop_protocol::spec::{Desired, Gate, OnOverdue};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::{Began, GENESIS, Invariant, Station, Synced, Told, World};

/// The states of a slave's executing jobs before a step.
pub(super) struct UnderWay(BTreeMap<JobId, State>);

impl UnderWay {
    pub(super) fn of(state: &slave::Slave) -> Self {
        let jobs = state.jobs.values().filter(|job| job.report.state.is_started());
        Self(jobs.map(|job| (job.report.job, job.report.state)).collect())
    }

    /// How the step changed a job whose machine was asked and has not answered.
    pub(super) fn touched_in_silence(&self, step: &slave::Step) -> Option<String> {
        let silent = |id: &JobId| step.state.volatile.probing.contains_key(id);
        let told = step.effects.iter().find(|effect| match effect {
            slave::Effect::Start { work, .. }
            | slave::Effect::Stop { work, .. }
            | slave::Effect::Pause(work)
            | slave::Effect::Resume(work) => silent(&work.job),
            slave::Effect::Send { .. }
            | slave::Effect::Close { .. }
            | slave::Effect::Probe { .. }
            | slave::Effect::CheckMachine { .. }
            | slave::Effect::Dismiss(_)
            | slave::Effect::ReadLog { .. }
            | slave::Effect::Reply { .. }
            | slave::Effect::ForgetToken
            | slave::Effect::Ignored(_) => false,
        });
        let stopping = self.0.iter().filter(|(id, _)| silent(id)).find(|(id, was)| {
            let is = step.state.jobs.get(id).map(|job| job.report.state);
            **was != State::Stopping && is == Some(State::Stopping)
        });
        told.map(|effect| format!("{effect:?}")).or_else(|| Some(format!("{} is stopping", stopping?.0)))
    }
}

impl World {
    pub(super) fn check_vanished(&mut self, job: &master::Job) {
        let vanished = job.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Vanished);
        if !vanished || !self.disks_are_sound || self.ledger.torn.contains(&job.id) {
            return;
        }
        // Nobody can know what an attempt came to that was given up while its slave was starting it, and that had no answer when its
        // link broke for the next one.
        if self.ledger.abandoned.contains(&job.id) {
            return;
        }
        if job.holder.is_none_or(|holder| !self.ledger.cloned.contains(&holder)) {
            self.violate(Invariant::NothingVanishes, format!("the master says that {} vanished", job.id));
        }
    }

    /// Checks a write of a slave against what is on its disk.
    pub(super) fn check_slave_write(&mut self, slave: usize, write: &slave::Write) {
        match write {
            slave::Write::Node(node) => {
                let before = self.boxes[slave].disk.node().and_then(|before| before.binding);
                if let (Some(before), Some(after)) = (before, node.binding)
                    && before.master == after.master
                    && before.epoch > after.epoch
                {
                    self.violate(Invariant::EpochsGoForward, format!("slave {slave}"));
                }
            }
            slave::Write::Job(id, Some(job)) => {
                let (attempt, generation) = (job.report.attempt, job.report.generation);
                self.note_torn(slave, *id);
                let held = &self.boxes[slave];
                // A slave knows nothing of an attempt that it has forgotten: a hostile master, or one that has forgotten its
                // own generations, may begin anew.
                let counts_anew = self.ledger.master_lies || self.ledger.masters_forgot;
                let begins_anew =
                    counts_anew && held.disk.job(*id).is_none_or(|known| known.report.attempt != attempt);
                let newest = self.ledger.desired_states.entry((slave, *id, attempt)).or_insert(generation);
                if begins_anew {
                    *newest = generation;
                    // One that says that the slave's store was put back has it forget its outcomes too.
                    if self.ledger.master_lies {
                        self.ledger.outcomes.remove(&(*id, attempt, slave));
                    }
                }
                if *newest > generation {
                    self.violate(Invariant::GenerationsGoForward, format!("slave {slave}, {id}"));
                } else {
                    *newest = generation;
                }
                if job.report.state.is_ended() {
                    let told =
                        Told { state: job.report.state, outcome: job.report.outcome.clone(), retold: false };
                    let known =
                        self.ledger.outcomes.entry((*id, attempt, slave)).or_insert_with(|| told.clone());
                    if known.retold {
                        *known = Told { retold: true, ..told };
                    } else if *known != told {
                        let how = format!("slave {slave}, {id}: {known:?} became {told:?}");
                        self.violate(Invariant::OutcomeKept, how);
                    }
                }
            }
            slave::Write::Job(id, None) => {
                self.note_torn(slave, *id);
                let Some(job) = self.boxes[slave].disk.job(*id) else { return };
                let (state, attempt) = (job.report.state, job.report.attempt);
                if self.ledger.masters_forgot {
                    // A master that does not remember this attempt makes it again, and counts its generations anew.
                    self.ledger.desired_states.remove(&(slave, *id, attempt));
                }
                if state.is_started() {
                    self.violate(
                        Invariant::NothingDestroyed,
                        format!("slave {slave} forgot {id}, {state:?}"),
                    );
                }
                let excused = self.ledger.torn.contains(id) || self.ledger.master_lies;
                if state.is_ended() && !excused && !self.masters_know(*id, attempt, state) {
                    let how = format!("slave {slave} forgot {id}, {state:?}, which is on no master's disk");
                    self.violate(Invariant::OutcomeKept, how);
                }
            }
            slave::Write::RecentOutcomes(_) => {}
        }
    }

    /// What a slave takes, changes or lets go for one of two masters with one past, or beside its own copy, the other one can't know.
    fn note_torn(&mut self, slave: usize, id: JobId) {
        let held = &self.boxes[slave];
        let two_masters = self.ledger.split && held.dials_double;
        if two_masters || self.ledger.cloned.contains(&held.settings.key) {
            self.ledger.torn.insert(id);
        }
    }

    pub(super) fn check_start(&mut self, slave: usize, work: RunKey) {
        let held = &self.boxes[slave];
        let Some(state) = &held.state else { return };
        let node = &state.node;
        let barred = node.local_lock
            || node.attention.is_some()
            || node.unloading.is_some()
            || !node.operating_mode.mode.may_start();
        let Some(job) = state.jobs.get(&work.job) else { return };
        let lacks = |(name, value)| state.settings.labels.get(name) != Some(value);
        let is_unfit = held.why_unfit(&job.spec).is_some() || job.requires.iter().any(lacks);
        let was_interrupted = job.interruptions > 0;
        let outside = self.outside_window(slave, job);
        let unwanted = matches!(job.desired, Desired::Cancel(_))
            || self
                .ledger
                .stopped_here
                .iter()
                .any(|(at, of)| (*at, of.job, of.attempt) == (slave, work.job, work.attempt));
        if unwanted && !self.ledger.torn.contains(&work.job) {
            self.violate(Invariant::StartWanted, format!("slave {slave} starts {}", work.job));
        }
        if is_unfit && !was_interrupted {
            self.violate(Invariant::StartAllowed, format!("slave {slave} starts {}", work.job));
        }
        if barred {
            self.violate(Invariant::StartWhenReady, format!("slave {slave} starts {}", work.job));
        }
        if let Some(how) = outside {
            self.violate(Invariant::StartInWindow, format!("slave {slave} starts {}: {how}", work.job));
        }
    }

    /// A machine began a run with a limit of its run time.
    pub(super) fn note_beginning(&mut self, slave: usize, work: RunKey) {
        let (at, off) = (self.ms, self.off_the_masters_time(slave));
        let held = &mut self.boxes[slave];
        let job = held.state.as_ref().and_then(|state| state.jobs.get(&work.job));
        let limited = job.is_some_and(|job| job.spec.max_runtime.is_some());
        if limited && held.machine.begun.contains_key(&work) {
            held.began.entry(work).or_insert(Began { at, off });
        }
    }

    /// A slave may have read the master's clock.
    pub(super) fn note_reading(&mut self, slave: usize) {
        if self.boxes[slave].began.is_empty() {
            return;
        }
        let off = self.off_the_masters_time(slave);
        for began in self.boxes[slave].began.values_mut() {
            began.off = began.off.max(off);
        }
    }

    /// The error of a slave's idea of the master's time if no clock is set: the reading arrived late, and clocks drift.
    fn off_the_masters_time(&self, slave: usize) -> i64 {
        let held = &self.boxes[slave];
        let sync = held.state.as_ref().and_then(|state| state.node.sync);
        sync.map_or(0, |sync| sync.wall.0.saturating_sub(sync.master.0).saturating_abs())
    }

    /// A machine is told to stop.
    pub(super) fn check_stop(&mut self, slave: usize, work: RunKey) {
        let held = &self.boxes[slave];
        let Some(job) = held.state.as_ref().and_then(|state| state.jobs.get(&work.job)) else { return };
        let overran = job.report.reason.as_ref().is_some_and(|why| why.code == ReasonCode::MaxRuntime);
        let excused = !overran || self.ledger.clocks_were_set || self.ledger.torn.contains(&work.job);
        let (Some(limit), Some(began), false) = (job.spec.max_runtime, held.began.get(&work), excused) else {
            return;
        };
        let lasted = self.ms - began.at;
        let limit = i64::try_from(limit.0).unwrap_or(i64::MAX);
        let drifted = self.ms * held.drift_ppm.abs() / 1_000_000 + 1;
        if began.off.saturating_mul(2).saturating_add(lasted + drifted) < limit {
            let how = format!("slave {slave} stops {work:?} after {lasted} of {limit} ms");
            self.violate(Invariant::RunsOwnClock, how);
        }
    }

    /// A revoked slave has no live link.
    pub(super) fn check_enrolled(&mut self) {
        let Some(master) = &self.master else { return };
        let live =
            master.slaves.values().find(|slave| slave.enrolled != Enrolled::Yes && slave.live().is_some());
        let back = || {
            let revoked = |slave: &&master::SlaveRecord| self.ledger.revoked.contains(&slave.key);
            master.slaves.values().filter(revoked).find(|slave| slave.enrolled != Enrolled::Revoked)
        };
        let wrong =
            live.map(|slave| (slave, "has a live link")).or_else(|| Some((back()?, "is enrolled again")));
        if let Some((slave, how)) = wrong.filter(|_| !self.swapped) {
            let how = format!("{}, {:?}, {how}", slave.name, slave.enrolled);
            self.violate(Invariant::RevokedIsOut, how);
        }
    }

    /// Why a job may not start now, by the clock of the master that the slave heard last.
    pub(super) fn outside_window(&self, slave: usize, job: &slave::Job) -> Option<String> {
        let held = &self.boxes[slave];
        if job.start.gate == Gate::Held {
            return Some("nobody let it go".to_owned());
        }
        // Begun again after an interruption: its first start was in time.
        let again = job.report.run != reloop_protocol::id::Run(1);
        let timed = job.start.not_before.is_some()
            || job.start.deadline.is_some()
            || matches!(job.start.gate, Gate::Released { .. });
        if again || !timed {
            return None;
        }
        let Some(Synced { at, late, master_off }) = held.synced else {
            let by_wall = held.settings.trust_clock != slave::TrustClock::Never;
            return (!by_wall).then(|| "it cannot tell the master's time".to_owned());
        };
        // A hostile master may send any time.
        let time = i128::from(GENESIS + self.ms) + i128::from(master_off);
        let drift = i128::from((self.ms - at) * held.drift_ppm.abs() / 1_000_000 + 1);
        let late = i128::from(late);
        if let Some(not_before) = job.start.not_before.map(|at| i128::from(at.0))
            && !matches!(job.start.gate, Gate::Released { .. })
            && time + drift - late.min(0) < not_before
        {
            return Some(format!("{} ms early", not_before - time));
        }
        let latest = match job.start.gate {
            Gate::Released { latest } => Some(latest),
            Gate::Open | Gate::Held => None,
        };
        [job.start.deadline, latest]
            .into_iter()
            .flatten()
            .map(|latest| i128::from(latest.0))
            .find(|latest| time - drift - late.max(0) > *latest)
            .map(|latest| format!("{} ms late", time - latest))
    }

    /// What must hold of these jobs when every question is answered, every fault repaired and every link up.
    pub fn check_converged(&mut self, jobs: &[JobId]) {
        for slave in 0..self.boxes.len() {
            if self.boxes[slave].retired {
                continue;
            }
            let Some(state) = &self.boxes[slave].state else {
                return self.violate(Invariant::Converges, format!("slave {slave} is dead"));
            };
            let kept: Vec<_> = state.jobs.values().map(|job| (job.report.job, job.report.state)).collect();
            if !kept.is_empty() {
                self.violate(Invariant::ViewsEqual, format!("slave {slave} keeps {kept:?}"));
            }
        }
        self.check_acknowledged();
        let unheard = self
            .ledger
            .outcomes
            .keys()
            .find(|(id, ..)| !self.ledger.torn.contains(id) && self.find_job(*id).is_none());
        if let Some((id, attempt, slave)) = unheard {
            let how = format!("no master has heard of {id}, attempt {attempt}, which ended on slave {slave}");
            self.violate(Invariant::OutcomeKept, how);
        }
        for id in jobs {
            let Some(job) = self.find_job(*id).map(Cow::into_owned) else { continue };
            if !job.state.is_ended() {
                let how = self.tell(*id);
                self.violate(Invariant::Converges, how);
                continue;
            }
            self.check_places(*id, &job);
            self.check_outcomes(*id, &job);
            if let Some(how) = self.undemanded(&job) {
                self.violate(Invariant::Converges, how);
            }
        }
    }

    pub(super) fn check_acknowledged(&mut self) {
        let disk = &self.master_disk;
        let kept = |order: &OrderId| {
            let order = disk.orders.get(order);
            order.is_some_and(|order| order.jobs.iter().all(|job| disk.jobs.contains_key(job)))
        };
        if let Some(order) = self.ledger.acknowledged.iter().find(|order| !kept(order)).copied() {
            self.violate(Invariant::AcknowledgedOrderKept, format!("{order} is not on the disk"));
        }
    }

    pub(super) fn check_places(&mut self, id: JobId, job: &master::Job) {
        let begun: Vec<RunKey> = self
            .boxes
            .iter()
            .flat_map(|held| held.machine.begun.keys().copied())
            .filter(|work| work.job == id)
            .collect();
        let attempts: BTreeSet<_> = begun.iter().map(|work| work.attempt).collect();
        let restartable = job.spec.on_interrupt == OnInterrupt::Restart;
        let decided = self.ledger.given_away.contains(&id);
        let torn = self.ledger.torn.contains(&id);
        // A restored master counts its attempts anew.
        let recounted = decided && self.ledger.masters_forgot;
        if begun.len() > attempts.len() && !restartable && !torn && !recounted {
            self.violate(Invariant::AttemptBegunOnce, format!("{id}: {begun:?}"));
        }
        let places = self.boxes.iter().filter(|held| held.machine.knows(id)).count();
        let retried = job.events.iter().filter(|event| event.state == State::Queued).count() > 1;
        // A master that lost its data does not remember the retry; the attempts show it.
        let retried = retried || self.ledger.masters_forgot && attempts.len() >= places;
        if places > 1 && !decided && !retried && !torn {
            self.violate(Invariant::OnePlace, format!("{id} ran in {places} places"));
        }
    }

    pub(super) fn check_outcomes(&mut self, id: JobId, job: &master::Job) {
        let told = |report: &Option<Report>| report.as_ref().map(|report| (report.attempt, report.state));
        let told_by_slaves = self.ledger.outcomes.range((id, Attempt(0), 0)..);
        let unheard =
            told_by_slaves.take_while(|((of, ..), _)| *of == id).find(|((_, attempt, _), ended)| {
                let this = Some((*attempt, ended.state));
                !ended.retold
                    && !self.ledger.torn.contains(&id)
                    && told(&job.report) != this
                    && !job.others.iter().any(|earlier| told(&earlier.report) == this)
            });
        if let Some(((_, attempt, _), ended)) = unheard {
            let how = format!("{id}: the master never learned that attempt {attempt} was {:?}", ended.state);
            return self.violate(Invariant::OutcomeKept, how);
        }
        if self.ledger.canceled.contains_key(&id)
            && !self.ledger.given_away.contains(&id)
            && !self.ledger.torn.contains(&id)
            && job.state == State::Succeeded
            && !job.all_flags().has(Flags::CANCEL_TOO_LATE)
        {
            let how = format!("{id} succeeded, and its cancel is forgotten");
            self.violate(Invariant::CancelAndOutcomeKept, how);
        }
    }

    /// How a job ended, if nothing that happened explains it.
    pub(super) fn undemanded(&self, job: &master::Job) -> Option<String> {
        let id = job.id;
        let ledger = &self.ledger;
        let ended = |end: End| {
            let works =
                self.boxes.iter().flat_map(|held| held.machine.works.keys().map(move |key| (held, *key)));
            let mut works = works.filter(|(_, key)| key.job == id && key.attempt == job.attempt);
            works.any(|(held, key)| held.machine.ended(key).is_some_and(|ended| ended.end == end))
        };
        let report = job.report.as_ref().filter(|report| report.state == job.state);
        let reason = report.and_then(|report| report.reason.as_ref()).or(job.reason.as_ref());
        let reason = reason.map(|reason| reason.code);
        let known = reason == Some(ReasonCode::Resolved) || ledger.torn.contains(&id);
        let resolved = ledger.resolved.contains(&id) && known;
        // A machine whose run was begun again from an old store keeps only the later end.
        let again =
            |held: &Station| held.machine.begun.iter().any(|(work, count)| work.job == id && *count > 1);
        let begun_again = ledger.torn.contains(&id) && self.boxes.iter().any(again);
        let demanded = match job.state {
            State::Succeeded => ended(End::Succeeded) || resolved || begun_again,
            State::Failed => match reason {
                _ if ended(End::Failed) || resolved || begun_again => true,
                // The reason may have been overwritten by that of a later refusal.
                _ => job.spec.on_interrupt == OnInterrupt::Fail && job.all_flags().has(Flags::INTERRUPTED),
            },
            State::Canceled => match reason {
                // A stop that was refused, or that came after the end, leaves its reason. A job that was abandoned
                // before it began is called off, and so is one that one of two masters does not know.
                Some(ReasonCode::Canceled) => {
                    let called_off = ledger.called_off.contains(&id) || ledger.was_split;
                    ledger.cancel_asked.contains(&id) || ledger.abandoned.contains(&id) || called_off
                }
                Some(ReasonCode::Abandoned) => {
                    ledger.masters_forgot || ledger.given_away.contains(&id) || job.last_attempt > Attempt(1)
                }
                Some(ReasonCode::MaxRuntime) => job.spec.on_overdue == OnOverdue::Stop,
                _ => true,
            },
            State::Expired => {
                let began = |held: &Station| {
                    held.machine.begun.keys().any(|work| (work.job, work.attempt) == (id, job.attempt))
                };
                // A retry waits for a slave under the number of the attempt before.
                let set_aside = job.others.iter().any(|earlier| earlier.attempt == job.attempt);
                let excused = ledger.planned_again.contains(&id) || ledger.torn.contains(&id) || set_aside;
                ledger.timed.contains(&id) && (excused || !self.boxes.iter().any(began))
            }
            State::Rejected => self.boxes.iter().any(|held| held.machine.rejected > 0),
            State::Lost => ledger.abandoned.contains(&id),
            State::Queued
            | State::Assigned
            | State::Accepted
            | State::Starting
            | State::Running
            | State::Paused
            | State::Stopping
            | State::Uncertain => false,
        };
        (!demanded).then(|| format!("nothing says that {} is {:?}, by {reason:?}", self.tell(id), job.state))
    }

    /// Every waiting job has an explanation.
    pub fn check_explained(&mut self) {
        let Some(master) = &self.master else { return };
        let now = self.now();
        let mute = master
            .book
            .jobs
            .values()
            .filter(|job| job.state == State::Queued)
            .find(|job| master::explain(master, job, now).text(|at| at.to_string()).is_empty())
            .map(|job| job.id);
        if let Some(id) = mute {
            self.violate(Invariant::WaitingIsExplained, id.to_string());
        }
    }

    /// Over a live link on which nothing is under way, both nodes say the same of what the slave has.
    pub fn check_views(&mut self) {
        let apart = (0..self.boxes.len()).find_map(|slave| self.views_apart(slave));
        if let Some(how) = apart {
            self.violate(Invariant::ViewsMeet, how);
        }
    }

    fn views_apart(&self, slave: usize) -> Option<String> {
        let held = &self.boxes[slave];
        let (state, master, link) = (held.state.as_ref()?, self.master.as_ref()?, held.link.as_ref()?);
        let key = held.settings.key;
        let record = master.slaves.get(&key)?;
        let is_quiet = link.to_master.is_empty() && link.to_slave.is_empty() && !link.half_open;
        let is_live = matches!(state.link, slave::Link::Live { doubtful: false, .. })
            && record.live() == Some(link.id)
            && !record.doubts;
        if !is_quiet || !is_live || link.double || self.double.is_some() || self.ledger.cloned.contains(&key)
        {
            return None;
        }
        let told = |job: &master::Job| {
            let there = state.jobs.get(&job.id).filter(|there| there.report.attempt == job.attempt);
            let there = there.map(|there| (there.report.state, there.report.generation));
            let is_apart = match there {
                Some(there) => there != (job.state, job.generation),
                // A person was asked what became of it.
                None => job.state != State::Uncertain || job.report.is_some(),
            };
            is_apart.then(|| format!("slave {slave} has {there:?} of {}", self.tell(job.id)))
        };
        let is_torn = |id: &JobId| self.ledger.torn.contains(id);
        master.book.held_by(key).filter(|job| !is_torn(&job.id)).find_map(&told).or_else(|| {
            let there = state.jobs.values().map(|job| &job.report).filter(|there| !is_torn(&there.job));
            there.into_iter().find_map(|there| {
                let job = self.find_job(there.job)?;
                let speaks = (job.attempt, job.holder) == (there.attempt, Some(key));
                // Of what was given up and is uncertain there, a person was asked.
                let asks = (job.state, there.state) == (State::Lost, State::Uncertain);
                (speaks && job.state != there.state && !asks)
                    .then(|| format!("slave {slave} has {:?} of {}", there.state, self.tell(there.job)))
            })
        })
    }

    /// Describes a job in a few lines.
    pub fn tell(&self, id: JobId) -> String {
        use std::fmt::Write as _;
        let Some(job) = self.find_job(id) else { return format!("{id} is not known to the master") };
        let holder = job.holder.and_then(|key| self.boxes.iter().position(|held| held.settings.key == key));
        let mut text = format!(
            "{id} {:?} desired {:?} rev {} attempt {}/{} holder {holder:?} start {:?} reason {:?} report {:?}\n  earlier {:?}",
            job.state,
            job.desired,
            job.generation,
            job.attempt,
            job.last_attempt,
            job.start,
            job.reason,
            job.report.as_ref().map(|r| (r.state, r.generation, r.seq, r.waiting_for, &r.reason)),
            job.others.iter().map(|e| (e.attempt, e.state)).collect::<Vec<_>>(),
        );
        for (slave, held) in self.boxes.iter().enumerate() {
            let Some(state) = &held.state else { continue };
            let job = state.jobs.get(&id).map(|job| {
                let r = &job.report;
                (r.state, r.attempt, r.generation, r.waiting_for, job.desired, job.start.gate, job.missed)
            });
            let full: Vec<_> = state.jobs.values().map(|job| (job.report.job, job.report.state)).collect();
            // Writing to a String cannot fail.
            let _ = write!(
                text,
                "\n  slave {slave}: {job:?} link {:?} unloading {:?} attention {:?} mode {:?} closed {:?} holds {full:?}",
                state.link,
                state.node.unloading,
                state.node.attention,
                state.node.operating_mode.mode,
                held.closed.last()
            );
        }
        text
    }
}

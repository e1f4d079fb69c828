//! No machine idles beside work that it could do, and the highest priority goes next.
//!
//! Judged by what the slaves themselves hold, and by definitions of this module's own: not by those of the rules.

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, JobId};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Enrolled, Master, SlaveRecord};
use reloop_protocol::message::{Mode, Report, WaitingFor};
use reloop_protocol::slave::{self, Slave};
use reloop_protocol::spec::{Desired, Gate};

use super::{Invariant, Station, World};

/// Of so many slaves a master sees what others could have from them.
const LENDERS: usize = 8;

/// A slave that its master can tell something, over a link on which nothing is under way.
#[derive(Clone, Copy)]
struct Seen<'a> {
    station: &'a Station,
    slave: &'a Slave,
    record: &'a SlaveRecord,
}

impl Seen<'_> {
    /// Nothing but a job that runs keeps its machine from starting, and it may be given more.
    fn is_able(self) -> bool {
        let node = &self.slave.node;
        let asks = self.slave.jobs.values().any(|job| job.report.state == State::Uncertain);
        let modes = [node.operating_mode.mode, self.record.operating_mode.mode];
        modes == [Mode::Production; 2]
            && node.unloading.is_none()
            && node.attention.is_none()
            && !node.local_lock
            && !asks
            && self.slave.volatile.probing.is_empty()
    }

    fn is_at_work(self) -> bool {
        self.slave.jobs.values().any(|job| job.report.state.is_executing())
    }

    /// It holds the attempt that speaks, has not begun it, and would start it if its machine were free.
    fn waits_for_its_machine(self, job: &master::Job) -> bool {
        let held = self.slave.jobs.get(&job.id).filter(|held| held.report.attempt == job.attempt);
        held.is_some_and(|held| {
            let waits = matches!(held.report.waiting_for, Some(WaitingFor::Turn | WaitingFor::Ready));
            held.report.state == State::Accepted && waits && !held.report.has_begun()
        })
    }

    fn can_do(self, job: &master::Job) -> bool {
        self.may_be_offered(job) && self.station.why_unfit(&job.spec).is_none()
    }

    /// By all that its master knows of its config, it can do the job.
    fn may_be_offered(self, job: &master::Job) -> bool {
        let settings = &self.slave.settings;
        settings.programs.contains(&job.spec.program)
            && job.slave.as_ref().is_none_or(|name| *name == settings.name)
            && !self.station.rejected.contains(&job.id)
            && job.requires.iter().all(|(name, value)| settings.labels.get(name) == Some(value))
    }
}

impl World {
    /// While nothing is under way: no machine that could do a job now idles while that job waits, and no job that has not begun stands at
    /// a slave in the place of one that goes before it.
    pub fn check_placement(&mut self) {
        let how = self
            .master
            .as_ref()
            .filter(|master| self.is_quiet(master))
            .and_then(|master| self.misplaced(master));
        if let Some(how) = how {
            self.violate(Invariant::NoMachineIdles, how);
        }
    }

    /// Nothing is under way, and no link is lost of which the master still waits for an answer.
    fn is_quiet(&self, master: &Master) -> bool {
        let is_link_quiet = |held: &Station| {
            let no_frames = held
                .link
                .as_ref()
                .is_none_or(|link| link.to_master.is_empty() && link.to_slave.is_empty() && !link.half_open);
            no_frames && held.machine.facts.is_empty() && !held.machine.is_asked
        };
        let is_there =
            |id| self.boxes.iter().any(|held| held.link.as_ref().is_some_and(|link| link.id == id));
        let live = |held: &Station| master.slaves.get(&held.settings.key).and_then(SlaveRecord::live);
        let has_lost_none = self.boxes.iter().filter_map(live).all(is_there);
        self.double.is_none()
            && self.pings.is_empty()
            && has_lost_none
            && self.boxes.iter().all(is_link_quiet)
    }

    /// The slave, if its master can tell it something.
    fn seen<'a>(&'a self, master: &'a Master, slave: usize) -> Option<Seen<'a>> {
        let held = &self.boxes[slave];
        let (state, link) = (held.state.as_ref()?, held.link.as_ref()?);
        let record = master.slaves.get(&held.settings.key)?;
        let is_live = matches!(state.link, slave::Link::Live { doubtful: false, .. })
            && record.live() == Some(link.id)
            && !record.doubts
            && record.enrolled == Enrolled::Yes;
        let is_odd = held.retired || held.machine.rejects || self.ledger.cloned.contains(&held.settings.key);
        (is_live && !is_odd).then_some(Seen { station: held, slave: state, record })
    }

    /// By its priority and its age, one job goes before another.
    fn goes_before(&self, one: &master::Job, other: &master::Job) -> bool {
        let order = |job: &master::Job| {
            let priority = i64::from(job.start.priority);
            match self.placement.ageing {
                None => (-priority, job.id),
                Some(step) => (job.created_at.0 - priority * step.0.cast_signed(), job.id),
            }
        };
        order(one) < order(other)
    }

    /// Without ageing, a job of higher priority comes to a slave before others although it waits at another one.
    fn is_more_urgent(&self, one: &master::Job, other: &master::Job) -> bool {
        self.placement.ageing.is_none() && one.start.priority > other.start.priority
    }

    /// Which attempts wait for nothing but a free machine, as far as the master knows.
    pub(super) fn unstarted(master: &Master) -> BTreeMap<JobId, Attempt> {
        let waits = |job: &master::Job| {
            let could_start = |report: &Report| {
                let waits_for = report.waiting_for;
                !report.has_begun() && matches!(waits_for, None | Some(WaitingFor::Turn | WaitingFor::Ready))
            };
            let is_there = matches!(job.state, State::Assigned | State::Accepted);
            is_there && job.report.as_ref().is_none_or(could_start)
        };
        Self::assigned(master).filter(|job| waits(job)).map(|job| (job.id, job.attempt)).collect()
    }

    fn assigned(master: &Master) -> impl Iterator<Item = &master::Job> {
        master.slaves.keys().flat_map(|key| master.book.held_by(*key))
    }

    /// What the master has assigned in its last step goes before all that the same slave could have had from others instead.
    pub(super) fn check_assigned(&mut self, before: &BTreeMap<JobId, Attempt>) {
        let Some(master) = &self.master else { return };
        let unstarted = Self::unstarted(master);
        let lenders = self.boxes.iter().filter(|held| {
            let mut jobs = master.book.held_by(held.settings.key);
            jobs.any(|job| unstarted.contains_key(&job.id))
        });
        // Of more than so many the master does not look at all.
        if lenders.count() > LENDERS {
            return;
        }
        let has_waited = |job: &master::Job| before.get(&job.id) == Some(&job.attempt);
        let is_new = |job: &master::Job| {
            job.state == State::Assigned && before.get(&job.id) != Some(&job.attempt) && self.is_time(job)
        };
        let passed_over = Self::assigned(master).filter(|job| is_new(job)).find_map(|job| {
            let at = self.boxes.iter().position(|held| Some(held.settings.key) == job.holder)?;
            let first = self.more_urgent_elsewhere(master, job, at, &unstarted, has_waited)?;
            Some(format!("slave {at} got {} before {}", self.tell(job.id), self.tell(first)))
        });
        if let Some(how) = passed_over {
            self.violate(Invariant::NoMachineIdles, how);
        }
    }

    /// Of what has not begun, and counts, a job that could be recalled for this slave, and that goes before the other job.
    fn more_urgent_elsewhere(
        &self,
        master: &Master,
        job: &master::Job,
        at: usize,
        unstarted: &BTreeMap<JobId, Attempt>,
        counts: impl Fn(&master::Job) -> bool,
    ) -> Option<JobId> {
        let taker = self.seen(master, at)?;
        let among = Self::assigned(master).filter(|job| unstarted.contains_key(&job.id) && counts(job));
        let waits = among.filter(|other| {
            let is_free = other.slave.is_none() && other.recalled.is_none() && other.desired == Desired::Run;
            is_free && self.is_time(other)
        });
        let mut first = waits.filter(|other| {
            let record = other.holder.and_then(|key| master.slaves.get(&key));
            let can_be_told = |record: &&SlaveRecord| {
                record.live().is_some() && record.enrolled == Enrolled::Yes && !record.doubts
            };
            let is_other = |record: &&SlaveRecord| record.key != taker.record.key;
            let Some(record) = record.filter(is_other).filter(can_be_told) else { return false };
            let may_start = record.machine.as_ref().is_some_and(|machine| machine.may_start())
                && record.operating_mode.mode == Mode::Production;
            let executes = |held: &master::Job| held.state.is_executing();
            let goes_first = if may_start {
                self.is_more_urgent(other, job) && master.book.held_by(record.key).any(executes)
            } else {
                self.goes_before(other, job)
            };
            // What is recalled from it may stay there.
            let waits = |held: &master::Job| unstarted.contains_key(&held.id) || held.recalled.is_some();
            goes_first && taker.may_be_offered(other) && !self.is_kept_out(master, other, taker, waits)
        });
        first.next().map(|job| job.id)
    }

    /// A slave knows no ageing: it gets nothing that it would start before what has waited long enough, nor what goes after that.
    fn is_kept_out(
        &self,
        master: &Master,
        job: &master::Job,
        slave: Seen<'_>,
        waits: impl Fn(&master::Job) -> bool,
    ) -> bool {
        let overtakes = |queued: &master::Job, held: &master::Job| {
            let is_started_first = (held.start.priority, queued.id) < (queued.start.priority, held.id);
            is_started_first && self.goes_before(held, queued) && waits(held)
        };
        let key = slave.slave.settings.key;
        let is_out = |queued: &master::Job| master.book.held_by(key).any(|held| overtakes(queued, held));
        let goes_first = |queued: &master::Job| {
            queued.state == State::Queued && self.goes_before(queued, job) && slave.may_be_offered(queued)
        };
        self.placement.ageing.is_some()
            && (is_out(job) || master.book.jobs.values().any(|queued| goes_first(&queued) && is_out(&queued)))
    }

    /// Its start rule lets it start now.
    fn is_time(&self, job: &master::Job) -> bool {
        match job.start.gate {
            Gate::Held => false,
            Gate::Released { latest } => latest >= self.now(),
            Gate::Open => job.start.not_before.is_none_or(|at| at <= self.now()),
        }
    }

    fn misplaced(&self, master: &Master) -> Option<String> {
        let seen: Vec<_> = (0..self.boxes.len()).map(|slave| self.seen(master, slave)).collect();
        let able: Vec<_> = (0..seen.len()).filter(|at| seen[*at].is_some_and(Seen::is_able)).collect();
        let is_sound = |id: &JobId| !self.ledger.torn.contains(id);
        let unstarted = Self::unstarted(master);
        for job in master.book.jobs.values().filter(|job| is_sound(&job.id) && job.desired == Desired::Run) {
            let is_time = self.is_time(&job);
            let at = job.holder.and_then(|key| self.boxes.iter().position(|held| held.settings.key == key));
            let waits = match at {
                None => {
                    let waits_to_be_tried_again = job.retry_at.is_some_and(|at| at > self.now());
                    job.state == State::Queued && is_time && !waits_to_be_tried_again
                }
                Some(at) => seen[at].is_some_and(|holder| {
                    let is_behind = !holder.is_able() || holder.is_at_work();
                    is_time && is_behind && job.slave.is_none() && holder.waits_for_its_machine(&job)
                }),
            };
            if !waits {
                continue;
            }
            let others = able.iter().copied().filter(|slave| Some(*slave) != at);
            for (slave, other) in others.filter_map(|slave| Some((slave, seen[slave]?))) {
                if other.can_do(&job) && !other.is_at_work() {
                    return Some(format!("slave {slave} idles beside {}", self.tell(job.id)));
                }
                let goes_after = |held: &&master::Job| {
                    is_sound(&held.id) && self.goes_before(&job, held) && other.waits_for_its_machine(held)
                };
                let key = other.slave.settings.key;
                let last = master.book.held_by(key).find(goes_after);
                // Only a queued job takes the place of another: what a slave has goes in its turn there.
                let last = last.filter(|_| at.is_none() && other.can_do(&job));
                let is_excused = || {
                    self.is_kept_out(master, &job, other, |held| other.waits_for_its_machine(held))
                        || self.more_urgent_elsewhere(master, &job, slave, &unstarted, |_| true).is_some()
                };
                if let Some(held) = last.filter(|_| !is_excused()) {
                    return Some(format!("{} is behind {} at slave {slave}", self.tell(job.id), held.id));
                }
            }
        }
        None
    }
}

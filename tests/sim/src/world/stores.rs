//! Disks that are replaced, restored and cloned; masters that are restored, wiped and doubled.

use reloop_protocol::id::{JobId, SlaveKey};
use reloop_protocol::master::{self, Answer, RequestId};
use reloop_protocol::spec::Desired;
use std::collections::BTreeSet;

use super::{MasterDisk, Saved, Seat, SlaveDisk, Stray, World};

impl World {
    /// Replaces a slave's disk, but keeps its key.
    pub fn replace_disk(&mut self, slave: usize) {
        self.kill_agent(slave);
        self.memory_is_lost(slave);
        self.boxes[slave].disk = SlaveDisk::default();
        self.boxes[slave].synced = None;
        self.start_agent(slave, true);
    }

    /// Copies a slave's disk, for [`World::put_back_disk`].
    pub fn save_disk(&mut self, slave: usize) {
        let held = &mut self.boxes[slave];
        held.saved = Some(Saved { disk: held.disk.clone(), synced: held.synced, boot: held.boot });
    }

    /// Restores a slave's saved disk: its store goes back in time.
    pub fn put_back_disk(&mut self, slave: usize) {
        let Some(saved) = self.boxes[slave].saved.clone() else { return };
        self.kill_agent(slave);
        self.memory_is_lost(slave);
        let held = &mut self.boxes[slave];
        held.disk = saved.disk;
        held.synced = saved.synced.filter(|_| saved.boot == held.boot);
        self.memory_is_lost(slave);
        self.start_agent(slave, true);
    }

    /// Puts a copy of a slave's disk, with its key, into another box with another machine. Returns the new box.
    pub fn clone_box(&mut self, slave: usize) -> usize {
        self.memory_is_lost(slave);
        let original = &self.boxes[slave];
        let (settings, disk, length_ms) =
            (original.settings.clone(), original.disk.clone(), original.machine.length_ms);
        self.ledger.cloned.insert(settings.key);
        let clone = self.add_station(settings, disk);
        let number = u8::try_from(clone).unwrap_or(u8::MAX);
        self.boxes[clone].fingerprint = Some([number; 16]);
        self.boxes[clone].machine.length_ms = length_ms;
        self.start_agent(clone, true);
        clone
    }

    /// Removes a box for good.
    pub fn retire(&mut self, slave: usize) {
        self.kill_agent(slave);
        self.boxes[slave].cable = false;
        self.boxes[slave].retired = true;
        self.boxes[slave].machine.lose_power();
    }

    /// A slave's disk is about to be forgotten or copied: what it contains, what the masters believe to be there, and
    /// what its machine was told to start is not promised any more.
    pub(super) fn memory_is_lost(&mut self, slave: usize) {
        let held = &self.boxes[slave];
        let key = held.settings.key;
        let mut torn: BTreeSet<JobId> = held.disk.jobs().map(|job| job.report.job).collect();
        torn.extend(held.machine.begun.keys().map(|work| work.job));
        let seat = self.double.as_ref().map(|seat| &seat.disk);
        for disk in [Some(&self.master_disk), seat].into_iter().flatten() {
            let there = disk.jobs.values().filter(|job| !job.state.is_ended() && job.holder == Some(key));
            torn.extend(there.map(|job| job.id));
        }
        self.ledger.torn.extend(torn);
        self.ledger.desired_states.retain(|(of, ..), _| *of != slave);
        let told = std::mem::take(&mut self.ledger.outcomes);
        let kept = told.into_iter().filter_map(|((id, attempt, of), mut told)| {
            if of == slave {
                told.retold = true;
            }
            let lost = of == slave && !self.masters_know(id, attempt, told.state);
            (!lost).then_some(((id, attempt, of), told))
        });
        self.ledger.outcomes = kept.collect();
    }

    pub fn back_up_master(&mut self) {
        self.backup = Some(self.master_disk.clone());
    }

    pub fn is_backed_up(&self) -> bool {
        self.backup.is_some()
    }

    /// Restores the master from its backup; a person may confirm that.
    pub fn restore_master(&mut self, confirmed: bool) {
        let Some(backup) = self.backup.clone() else { return };
        self.kill_master();
        self.master_disk = backup;
        self.master_forgot(confirmed);
        self.start_master();
        if confirmed {
            self.confirm_restore();
        }
    }

    /// A person confirms that this master was restored.
    pub fn confirm_restore(&mut self) -> Option<Answer> {
        let request = RequestId(self.fresh());
        self.master_event(master::Event::RestoreConfirmed { request, forced: true });
        let epoch = |disk: &MasterDisk| disk.node().map(|node| node.epoch);
        self.ledger.split |=
            self.double.as_ref().is_some_and(|seat| epoch(&seat.disk) == epoch(&self.master_disk));
        self.answers.get(&request).cloned()
    }

    /// The master loses all its data.
    pub fn wipe_master(&mut self) {
        self.kill_master();
        self.master_disk = MasterDisk::default();
        // Beside a second master it is now another one: slaves that go from one to the other belong to both.
        self.ledger.split |= self.double.is_some();
        self.master_forgot(true);
        self.start_master();
    }

    /// What is no longer on the master's disk is promised only as far as slaves remember it, and are asked for it
    /// because they notice the restore: by an epoch that they have not seen.
    pub(super) fn master_forgot(&mut self, confirmed: bool) {
        let disk = &self.master_disk;
        let seen = |node: &master::Node| {
            let bindings = self.boxes.iter().filter_map(|held| held.disk.node()?.binding);
            bindings.filter(|binding| binding.master == node.id).any(|binding| binding.epoch > node.epoch)
        };
        let confirmed = confirmed && !disk.node().is_some_and(seen);
        self.ledger.masters_forgot = true;
        self.ledger.revoked.clear();
        self.ledger.acknowledged.retain(|order| disk.orders.contains_key(order));
        let canceled = |job: &master::Job| job.state.is_ended() || matches!(job.desired, Desired::Cancel(_));
        self.ledger.canceled.retain(|job, _| disk.jobs.get(job).is_some_and(canceled));
        // By the master's records these jobs are at their slaves, which have forgotten them or given them back.
        let boxes = &self.boxes;
        let remembered = |job: &master::Job, holder: SlaveKey| {
            boxes.iter().any(|held| held.settings.key == holder && held.disk.remembers(job.id, None))
        };
        let live = disk.jobs.values().filter(|job| !job.state.is_ended());
        let torn = live
            .filter(|job| !confirmed || job.holder.is_some_and(|holder| !remembered(job, holder)))
            .map(|job| job.id);
        self.ledger.torn.extend(torn);
        self.outcomes_are_forgotten(confirmed);
    }

    /// Outcomes that neither the master nor a slave knows any more, or that only a removed master was told. Slaves
    /// report their recent outcomes if they notice by the epoch that the master was restored.
    pub(super) fn outcomes_are_forgotten(&mut self, noticed: bool) {
        let told = std::mem::take(&mut self.ledger.outcomes);
        let boxes = &self.boxes;
        let disk = &self.master_disk;
        let kept = told.into_iter().filter(|((id, attempt, slave), told)| {
            let slave = &boxes[*slave].disk;
            // Of a job that it has again, a slave reports the newest attempt.
            let overshadowed = slave.job(*id).is_some_and(|job| job.report.attempt != *attempt);
            let held = slave.job(*id).is_some_and(|job| job.report.attempt == *attempt);
            let remembered = noticed && slave.remembers(*id, Some(*attempt)) && !overshadowed;
            disk.knows(*id, *attempt, told.state) || held || remembered
        });
        self.ledger.outcomes = kept.collect();
    }

    /// Starts a second master on a copy of the master's files; a person may raise its epoch.
    pub fn double_master(&mut self, confirmed: bool) {
        if self.double.is_some() {
            return;
        }
        self.ledger.masters_forgot = true;
        self.ledger.split = !confirmed;
        self.ledger.was_split = true;
        self.ledger.revoked.clear();
        let live = self.master_disk.jobs.values().filter(|job| !job.state.is_ended());
        self.ledger.torn.extend(live.map(|job| job.id));
        let disk = self.master_disk.clone();
        self.double = Some(Box::new(Seat { disk, ..Seat::default() }));
        self.at(true, |world| {
            world.start_master();
            if confirmed {
                world.confirm_restore();
            }
        });
    }

    /// Whether there is a second master.
    pub fn is_doubled(&self) -> bool {
        self.double.is_some()
    }

    /// Removes the second master; all slaves dial the first one again.
    pub fn end_double(&mut self) {
        if self.double.is_none() {
            return;
        }
        for slave in 0..self.boxes.len() {
            self.dial(slave, false);
        }
        self.at(true, Self::kill_master);
        self.double = None;
        self.ledger.split = false;
        self.outcomes_are_forgotten(false);
        self.late.retain(|late| !matches!(late, Stray::ToMaster(true, ..)));
    }

    /// Runs `act` with the second master in the first one's place if `double` is set.
    pub(super) fn at<R>(&mut self, double: bool, act: impl FnOnce(&mut Self) -> R) -> R {
        if self.swapped == double {
            return act(self);
        }
        self.swap();
        let result = act(self);
        self.swap();
        result
    }

    pub(super) fn swap(&mut self) {
        let Some(seat) = &mut self.double else { return };
        std::mem::swap(&mut self.master, &mut seat.state);
        std::mem::swap(&mut self.master_disk, &mut seat.disk);
        std::mem::swap(&mut self.dead_links, &mut seat.dead_links);
        std::mem::swap(&mut self.fuse, &mut seat.fuse);
        self.swapped = !self.swapped;
    }
}

//! Nodes that start, are killed, lose their power, and crash between two effects.

use reloop_protocol::id::{BootId, Incarnation, MasterId, StoreId};
use reloop_protocol::master;
use reloop_protocol::slave;
use reloop_protocol::time::CLOCK_STEP;

use super::{Invariant, World};

impl World {
    /// Starts the master from its disk.
    pub fn start_master(&mut self) {
        let fresh = MasterId(self.bytes());
        let settings = master::Settings { enrollment: self.enrollment, placement: self.placement };
        let mut state = master::recover(settings, fresh, self.master_disk.records());
        let incarnation = Incarnation(self.fresh().to_be_bytes());
        for write in state.begin(incarnation) {
            self.master_disk.write(write);
        }
        if !self.master_disk.holds(&state) {
            self.violate(Invariant::DiskIsState, "a master that has just started");
        }
        self.master = Some(state);
        let lost: Vec<_> = self
            .ledger
            .acknowledged
            .iter()
            .filter(|id| !self.master_disk.orders.contains_key(id))
            .copied()
            .collect();
        for order in lost {
            if self.disks_are_sound && !self.swapped {
                self.violate(Invariant::AcknowledgedOrderKept, format!("{order} is not on the disk"));
            }
            self.ledger.acknowledged.remove(&order);
        }
        self.let_master_read_its_clock();
    }

    /// A master whose clock went back while it was down notices that at its next event. Here that event comes at once,
    /// so that it is not a frame of a dead link.
    fn let_master_read_its_clock(&mut self) {
        if self.master_disk.clock_mark.is_some_and(|mark| mark > self.now()) {
            self.master_event(master::Event::TimePassed);
        }
    }

    /// Sets the clock that both masters read. A master that is up notices at once.
    pub fn set_masters_clock(&mut self, by_ms: i64) {
        self.master_off += by_ms;
        self.notice_set_clock(by_ms);
        self.at(true, |world| {
            if world.swapped {
                world.notice_set_clock(by_ms);
            }
        });
    }

    fn notice_set_clock(&mut self, by_ms: i64) {
        if by_ms.unsigned_abs() > CLOCK_STEP.0 {
            self.master_event(master::Event::ClockSet { step_ms: by_ms });
        }
        self.let_master_read_its_clock();
    }

    /// Kills the master: all its links end.
    pub fn kill_master(&mut self) {
        self.master = None;
        self.fuse = None;
        let swapped = self.swapped;
        for slave in 0..self.boxes.len() {
            if self.boxes[slave].link.as_ref().is_some_and(|wire| wire.double == swapped)
                && let Some(wire) = self.boxes[slave].link.take()
            {
                let id = wire.id;
                self.strand(slave, wire);
                self.slave_event(slave, slave::Event::LinkClosed { link: id });
            }
        }
        self.dead_links.clear();
        self.pings.retain(|(double, _)| *double != swapped);
    }

    /// Starts a slave's agent from its disk.
    pub fn start_agent(&mut self, slave: usize, known_key: bool) {
        let fresh = StoreId(self.bytes());
        let next_store = StoreId(self.bytes());
        let held = &mut self.boxes[slave];
        let state = slave::recover(held.settings.clone(), fresh, held.disk.records());
        held.state = Some(state);
        held.fuse = None;
        held.machine.facts.clear();
        held.machine.pondered.clear();
        let (boot, fingerprint) = (held.boot, held.fingerprint);
        let damage = slave::Damage::default();
        held.runs_narrow = held.narrow;
        held.rejected.clear();
        let jobs = held.state.iter().flat_map(|state| state.jobs.values());
        let unfit = jobs.filter_map(|job| Some((job.report.job, held.why_unfit(&job.spec)?))).collect();
        let started = slave::Event::AgentStarted { boot, fingerprint, known_key, next_store, damage, unfit };
        self.slave_event(slave, started);
    }

    /// Kills a slave's agent; its machine goes on.
    pub fn kill_agent(&mut self, slave: usize) {
        self.drop_link(slave);
        self.boxes[slave].state = None;
        self.boxes[slave].fuse = None;
    }

    /// The slave's agent crashes after this many more effects. Their step's writes are on its disk by then.
    pub fn crash_agent_after(&mut self, slave: usize, effects: usize) {
        if self.boxes[slave].state.is_some() {
            self.boxes[slave].fuse = Some(effects);
        }
    }

    /// The master crashes after this many more effects. Their step's writes are on its disk by then.
    pub fn crash_master_after(&mut self, effects: usize) {
        if self.master.is_some() {
            self.fuse = Some(effects);
        }
    }

    /// Cancels planned crashes; true if there was one.
    pub fn defuse(&mut self) -> bool {
        let agents = self.boxes.iter_mut().filter_map(|held| held.fuse.take()).count();
        self.fuse.take().is_some() || agents > 0
    }

    /// Cancels planned crashes.
    pub fn disarm(&mut self) {
        self.fuse = None;
        if let Some(seat) = &mut self.double {
            seat.fuse = None;
        }
        for held in &mut self.boxes {
            held.fuse = None;
        }
    }

    /// A power cut at a slave and its restart: agent and runs are gone.
    pub fn reboot(&mut self, slave: usize) {
        self.kill_agent(slave);
        let boot = BootId(self.bytes());
        let ms = self.ms;
        let held = &mut self.boxes[slave];
        held.boot = boot;
        held.booted_at = ms;
        held.synced = None;
        held.machine.lose_power();
        self.start_agent(slave, true);
    }

    /// Starts a slave's agent if it is down.
    pub fn revive(&mut self, slave: usize) {
        if self.boxes[slave].state.is_none() {
            self.start_agent(slave, true);
        }
    }
}

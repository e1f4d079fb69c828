//! What the slave keeps of the master's time, and how a new reading of it is taken.

use super::clock::masters_step_back;
use super::step::Rules;
use super::{Job, Slave, Sync};
use crate::spec::Gate;
use crate::time::Time;

pub(super) struct Timekeeper<'a> {
    sync: &'a mut Option<Sync>,
    doubts_releases: &'a mut bool,
    awake_since: &'a mut Option<Time>,
    heard: &'a mut bool,
}

impl<'a> Timekeeper<'a> {
    pub(super) fn new(state: &'a mut Slave) -> Self {
        let Slave { node, volatile, .. } = state;
        Self {
            sync: &mut node.sync,
            doubts_releases: &mut node.doubts_releases,
            awake_since: &mut volatile.awake_since,
            heard: &mut volatile.heard,
        }
    }

    /// A Welcome was applied: what the master wants of each job is known.
    pub(super) fn welcomed(&mut self) {
        (*self.heard, *self.doubts_releases) = (true, false);
    }

    /// The master's time is known. True if it was not since the agent started.
    pub(super) fn wake(&mut self, time: Time) -> bool {
        let wakes = self.awake_since.is_none();
        self.awake_since.get_or_insert(time);
        wakes
    }
}

impl Rules {
    /// The master says what its clock shows. If that was set back, releases move with it, so that what is left of them stays.
    pub(super) fn measure(&mut self, master: Time) {
        let Some(reading) = self.clock().reading(master) else { return };
        let is_released = |job: &Job| matches!(job.start.gate, Gate::Released { .. });
        match self.timekeeper().sync.replace(reading) {
            Some(before) if before.boot == reading.boot => {
                if let Some(step) = masters_step_back(before, reading) {
                    self.each(is_released, |mut held| {
                        let job = held.edit();
                        job.start.gate = job.start.gate.shifted(step);
                    });
                }
            }
            Some(_) | None => {
                let doubts = self.state().jobs.values().any(is_released);
                *self.timekeeper().doubts_releases |= doubts;
            }
        }
    }

    /// Compares the wall clock anew with the master's time if a time service has set it since the last handshake.
    pub(super) fn measure_again(&mut self) {
        if let Some(reading) = self.clock().measured_again() {
            *self.timekeeper().sync = Some(reading);
        }
    }
}

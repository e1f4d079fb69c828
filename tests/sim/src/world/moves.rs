//! Moves: messages, facts of machines, and time.

use reloop_protocol::master;
use reloop_protocol::slave;

use super::{Invariant, World};

impl World {
    /// Moves one message, fact or connection; false if nothing is left to move.
    pub fn pump(&mut self) -> bool {
        (0..self.boxes.len()).any(|slave| self.pump_one(slave))
    }

    /// The same at one slave.
    pub fn pump_one(&mut self, slave: usize) -> bool {
        self.hear_machine(slave)
            || !self.pings_are_slow && self.answer_ping()
            || self.dial_in(slave)
            || self.to_slave(slave)
            || self.to_master(slave)
            || self.answer_ping()
    }

    /// Whether a ping has no answer yet.
    pub fn asks_links(&self) -> bool {
        !self.pings.is_empty()
    }

    /// A link answers the master's ping; false if none was asked.
    pub fn answer_ping(&mut self) -> bool {
        let Some((double, link)) = self.pings.pop_front() else { return false };
        let mut wires = self.boxes.iter().filter_map(|held| held.link.as_ref());
        let alive = wires.any(|wire| wire.id == link && !wire.half_open);
        self.at(double, |world| world.master_event(master::Event::LinkProbed { link, alive }));
        true
    }

    /// Delivers the machine's next fact to a slave.
    pub fn hear_machine(&mut self, slave: usize) -> bool {
        let held = &mut self.boxes[slave];
        if held.state.is_none() {
            return false;
        }
        let Some((work, fact)) = held.machine.facts.pop_front() else {
            let is_asked = std::mem::take(&mut held.machine.is_asked);
            let found = held.machine.could_begin();
            if is_asked {
                self.slave_event(slave, slave::Event::MachineChecked(found));
            }
            return is_asked;
        };
        self.slave_event(slave, slave::Event::Machine { work, fact });
        true
    }

    /// Lets time pass without performing what becomes due.
    pub fn pass_some(&mut self, ms: i64) {
        self.ms += ms;
        for slave in 0..self.boxes.len() {
            self.begin_what_comes(slave);
            let wall = self.slave_now(slave).wall.0;
            let held = &mut self.boxes[slave];
            held.machine.work(ms, wall, held.state.is_some());
            held.machine.answer_what_was_asked();
            self.slave_event(slave, slave::Event::TimePassed);
        }
        self.master_event(master::Event::TimePassed);
        self.at(true, |world| {
            if world.swapped {
                world.master_event(master::Event::TimePassed);
            }
        });
    }

    /// Moves everything that can move without time.
    pub fn settle(&mut self) {
        let mut moves = 0;
        let mut idle = false;
        while !idle {
            idle = true;
            for slave in 0..self.boxes.len() {
                while self.broken.is_none() && self.pump_one(slave) {
                    idle = false;
                    moves += 1;
                    if moves > self.patience {
                        return self
                            .violate(Invariant::ComesToRest, format!("after {} moves", self.patience));
                    }
                }
            }
        }
    }

    /// Lets time pass in steps, and performs what becomes due.
    pub fn pass(&mut self, ms: i64) {
        let end = self.ms + ms;
        self.settle();
        while self.ms < end && self.broken.is_none() {
            self.pass_some((end - self.ms).min(500));
            self.settle();
        }
    }
}

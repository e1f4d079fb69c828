//! Performs the acts of a schedule.

use reloop_protocol::id::{JobId, OrderId};
use reloop_protocol::master::{JobCommand, RETRY_BACKOFF, Retry, RetryOn, SlaveCommand};
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{Gate, OnOverdue};
use reloop_protocol::time::{Millis, Time};

use super::{Act, JobAct, LocalAct, Placed, SlaveAct, Station, WIDE, World};
use std::collections::BTreeMap;

/// The most slaves and clones in a world: more clones show nothing new.
const BOXES: usize = 64;

/// The id of a job, by the schedule's number for it.
pub fn job_id(number: usize) -> JobId {
    // Far from the ids that the world counts up.
    JobId(((1_u128 << 100) + number as u128).to_be_bytes())
}

impl World {
    /// Performs an act; false if it made no sense.
    pub fn act(&mut self, act: &Act) -> bool {
        if self.broken.is_some() {
            return false;
        }
        let boxes = self.boxes.len();
        let there = |slave: usize, world: &Self| slave < boxes && !world.boxes[slave].retired;
        match act {
            Act::Pump { slave, moves } => {
                there(*slave, self)
                    && (0..*moves).take_while(|_| self.broken.is_none() && self.pump_one(*slave)).count() > 0
            }
            Act::Stir { from, moves } => self.stir(*from, *moves),
            Act::Pass { ms } => {
                let passes = *ms > 0;
                if passes {
                    self.pass_some(*ms);
                }
                passes
            }
            Act::Late { frame } => {
                let some = self.late_frames() > 0;
                self.deliver_late(*frame);
                some
            }
            Act::Place { job, order } => self.place_numbered(*job, order),
            Act::Job { job, command } => self.act_on_job(job_id(*job), *command),
            Act::Slave { slave, command } => {
                let key = self.boxes.get(*slave).map(|held| held.settings.key);
                let known = |key| self.master.as_ref().is_some_and(|master| master.slaves.contains_key(&key));
                let known = key.is_some_and(known);
                if known {
                    let command = match command {
                        SlaveAct::Mode(mode) => SlaveCommand::Mode(*mode),
                        SlaveAct::Ready => SlaveCommand::Ready,
                        SlaveAct::Clear => SlaveCommand::Clear,
                        SlaveAct::Approve => SlaveCommand::Approve,
                        SlaveAct::Forget => SlaveCommand::Forget,
                    };
                    self.command_slave_now(*slave, command);
                }
                known
            }
            Act::Local { slave, command } => {
                there(*slave, self) && self.boxes[*slave].state.is_some() && {
                    let command = match command {
                        LocalAct::Ready => Local::Ready,
                        LocalAct::Clear => Local::Clear,
                        LocalAct::Pause => Local::Pause,
                        LocalAct::Resume => Local::Resume,
                        LocalAct::Stop { now } => Local::Stop { now: *now },
                        LocalAct::Lock(lock) => Local::Lock(*lock),
                        LocalAct::Resolve(end) => Local::Resolve { job: None, end: *end },
                    };
                    self.local(*slave, command);
                    true
                }
            }
            Act::Cut { slave } => self.if_there(*slave, |world| world.cut(*slave)),
            Act::HalfOpen { slave } => {
                let linked = there(*slave, self) && self.boxes[*slave].link.is_some();
                linked && self.if_there(*slave, |world| world.half_open(*slave))
            }
            Act::Swallow { slave } => {
                let linked = there(*slave, self) && self.boxes[*slave].link.is_some();
                linked && self.if_there(*slave, |world| world.swallow(*slave))
            }
            Act::Plug { slave } => self.if_there(*slave, |world| world.plug_again(*slave)),
            Act::Kill { slave } => {
                let alive = there(*slave, self) && self.boxes[*slave].state.is_some();
                alive && self.if_there(*slave, |world| world.kill_agent(*slave))
            }
            Act::Revive { slave } => {
                let dead = there(*slave, self) && self.boxes[*slave].state.is_none();
                dead && self.if_there(*slave, |world| world.revive(*slave))
            }
            Act::Reboot { slave } => self.if_there(*slave, |world| world.reboot(*slave)),
            Act::Crash { slave, effects } => {
                let alive = there(*slave, self) && self.boxes[*slave].state.is_some();
                alive && self.if_there(*slave, |world| world.crash_agent_after(*slave, *effects))
            }
            Act::CrashMaster { effects } => {
                self.crash_master_after(*effects);
                self.master.is_some()
            }
            Act::KillMaster => {
                let alive = self.master.is_some();
                self.kill_master();
                alive
            }
            Act::StartMaster => {
                let dead = self.master.is_none();
                if dead {
                    self.start_master();
                }
                dead
            }
            Act::Machine { slave, silent, unstoppable, refuses, fails, slow, unfit, rejects, ponders } => {
                self.if_there(*slave, |world| {
                    let machine = &mut world.boxes[*slave].machine;
                    (machine.silent, machine.unstoppable) = (*silent, *unstoppable);
                    (machine.refuses, machine.fails) = (*refuses, *fails);
                    (machine.slow, machine.ponders) = (*slow, *ponders);
                    (machine.unfit, machine.rejects) = (*unfit, *rejects);
                })
            }
            Act::Configure { slave, narrow, bare } => {
                self.if_there(*slave, |world| world.boxes[*slave].configure(*narrow, *bare))
            }
            Act::Pings { slow } => {
                self.pings_are_slow = *slow;
                true
            }
            Act::Enroll { slave } => {
                let up = self.master.is_some();
                up && self.if_there(*slave, |world| world.enroll(*slave))
            }
            Act::ReplaceDisk { slave } => self.if_there(*slave, |world| world.replace_disk(*slave)),
            Act::SaveDisk { slave } => self.if_there(*slave, |world| world.save_disk(*slave)),
            Act::PutBackDisk { slave } => {
                let saved = there(*slave, self) && self.boxes[*slave].saved.is_some();
                saved && self.if_there(*slave, |world| world.put_back_disk(*slave))
            }
            Act::Clone { slave } => {
                boxes < BOXES
                    && self.if_there(*slave, |world| {
                        world.clone_box(*slave);
                    })
            }
            Act::BackUp => {
                self.back_up_master();
                true
            }
            Act::Restore { confirmed } => {
                let saved = self.backup.is_some();
                self.restore_master(*confirmed);
                saved
            }
            Act::Confirm => {
                self.confirm_restore();
                self.master.is_some()
            }
            Act::WipeMaster => {
                self.wipe_master();
                true
            }
            Act::Double { confirmed } => {
                let new = !self.is_doubled();
                self.double_master(*confirmed);
                new
            }
            Act::Dial { slave, double } => {
                let turns = there(*slave, self) && self.boxes[*slave].dials_double != *double;
                let turns = turns && (!double || self.is_doubled());
                turns && self.if_there(*slave, |world| world.dial(*slave, *double))
            }
            Act::EndDouble => {
                let was = self.is_doubled();
                self.end_double();
                was
            }
            Act::Lie { job, ahead, said } => self.lie(job_id(*job), *ahead, said.state()),
            Act::SlaveClock { slave, by_ms } => {
                self.ledger.clocks_were_set = true;
                self.if_there(*slave, |world| world.boxes[*slave].wall_off += by_ms)
            }
            Act::MastersClock { by_ms } => {
                self.ledger.clocks_were_set = true;
                self.set_masters_clock(*by_ms);
                true
            }
        }
    }

    fn if_there(&mut self, slave: usize, act: impl FnOnce(&mut Self)) -> bool {
        let there = self.boxes.get(slave).is_some_and(|held| !held.retired);
        if there {
            act(self);
        }
        there
    }

    fn stir(&mut self, from: usize, moves: usize) -> bool {
        let boxes = self.boxes.len();
        let (mut slave, mut idle, mut moved) = (from, 0, 0);
        while moved < moves && idle < boxes && self.broken.is_none() {
            if self.pump_one(slave % boxes) {
                (moved, idle) = (moved + 1, 0);
            } else {
                idle += 1;
            }
            slave += 1;
        }
        moved > 0
    }

    /// A slave that was refused for good dials again after somebody has looked at it.
    pub fn plug_again(&mut self, slave: usize) {
        let held = &mut self.boxes[slave];
        if held.closed.last().is_some_and(|code| !code.is_passing()) {
            held.closed.clear();
        }
        self.plug(slave);
    }

    fn place_numbered(&mut self, number: usize, placed: &Placed) -> bool {
        let id = job_id(number);
        if self.master.is_none() || self.find_job(id).is_some() || self.numbered.contains(&id) {
            return false;
        }
        self.numbered.insert(id);
        let mut order = self.order(if placed.bake { "bake" } else { "mill" });
        order.id = OrderId(id.0);
        order.jobs = vec![id];
        order.spec.order = order.id;
        order.spec.on_interrupt = placed.on_interrupt;
        order.spec.on_overdue = if placed.stop_overdue { OnOverdue::Stop } else { OnOverdue::Flag };
        order.spec.max_runtime = placed.max_runtime_ms.map(Millis);
        let now = self.now().0;
        let from_now = |ms: i64| Time(now.saturating_add(ms));
        order.start.priority = placed.priority;
        order.start.not_before = placed.not_before_ms.map(from_now);
        order.start.deadline = placed.deadline_ms.map(from_now);
        order.start.late = placed.late;
        order.start.gate = if placed.held { Gate::Held } else { Gate::Open };
        if placed.again {
            order.retry = Retry { max_attempts: 2, on: [RetryOn::Failed].into() };
            order.retry_backoff = if placed.backs_off { RETRY_BACKOFF } else { Millis(0) };
        }
        if placed.wide {
            order.spec.params.insert(WIDE.0.to_owned(), WIDE.1.to_owned());
        }
        if placed.labelled {
            order.requires = required();
        }
        // Only for an existing slave: otherwise it would never be assigned.
        order.slave = placed.slave.filter(|slave| *slave < self.boxes.len()).map(|slave| format!("s{slave}"));
        self.place(order);
        true
    }

    fn act_on_job(&mut self, id: JobId, command: JobAct) -> bool {
        if self.master.is_none() || self.find_job(id).is_none() {
            return false;
        }
        let now = self.now().0;
        let from_now = |ms: i64| Time(now.saturating_add(ms));
        let command = match command {
            JobAct::Cancel(mode) => JobCommand::Cancel(mode),
            JobAct::Pause => JobCommand::Pause,
            JobAct::Resume => JobCommand::Resume,
            JobAct::Release { valid_ms } => JobCommand::Release { valid: Millis(valid_ms) },
            JobAct::Reschedule { not_before_ms, deadline_ms, late } => JobCommand::Reschedule {
                not_before: not_before_ms.map(from_now),
                deadline: deadline_ms.map(from_now),
                late,
            },
            JobAct::Retry => JobCommand::Retry,
            JobAct::Resolve(end) => JobCommand::Resolve(end),
            JobAct::Abandon => JobCommand::Abandon,
        };
        self.command(id, command);
        true
    }
}

/// What orders may require, and slaves have unless their config is bare.
pub fn required() -> BTreeMap<String, String> {
    BTreeMap::from([("material".to_owned(), "pla".to_owned())])
}

impl Station {
    /// Writes its config, which the agent reads when it starts.
    pub fn configure(&mut self, narrow: bool, bare: bool) {
        self.narrow = narrow;
        self.settings.labels = if bare { BTreeMap::new() } else { required() };
    }

    /// Its agent runs with another config than the one that was written since.
    pub fn is_configured_anew(&self) -> bool {
        let runs_with = self.state.as_ref().map(|state| &state.settings.labels);
        self.narrow != self.runs_narrow || runs_with.is_some_and(|labels| *labels != self.settings.labels)
    }
}

//! Everything that may happen in a world, as data: what a schedule is made of.
//!
//! An act is total: one that makes no sense in the world as it is does nothing. So any part of a schedule is a schedule,
//! and a schedule that breaks something can be cut down to what it takes. Jobs are named by numbers of the schedule's own
//! and not by when they came, so that what is left means the same.

use reloop_protocol::id::{JobId, OrderId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, JobCommand, Retry, RetryOn, SlaveCommand};
use reloop_protocol::message::Mode;
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{CancelMode, Gate, Late, OnOverdue};
use reloop_protocol::time::{CLOCK_STEP, Millis, Time};
use serde::{Deserialize, Serialize};

use super::World;

/// Slaves and clones that a world has room for: a schedule that clones without end is not more interesting.
const BOXES: usize = 64;

/// Something that happens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Act {
    /// What waits at a slave moves: messages, its machine's words, its next connection.
    Pump {
        /// Whose.
        slave: usize,
        /// How many of them, at most.
        moves: usize,
    },
    /// The same at all slaves, in turn.
    Stir {
        /// Who is first.
        from: usize,
        /// How many, at most.
        moves: usize,
    },
    /// Time passes.
    Pass {
        /// How much.
        ms: i64,
    },
    /// A frame of a dead link arrives.
    Late {
        /// Which of them.
        frame: usize,
    },
    /// A client places an order of one job.
    Place {
        /// The schedule's number for it.
        job: usize,
        /// What it is.
        order: Placed,
    },
    /// A client or an operator wants something of a job.
    Job {
        /// Which.
        job: usize,
        /// What.
        command: JobAct,
    },
    /// An operator wants something of a slave.
    Slave {
        /// Which.
        slave: usize,
        /// What.
        command: SlaveAct,
    },
    /// A person at a machine wants something.
    Local {
        /// Where.
        slave: usize,
        /// What.
        command: LocalAct,
    },
    /// The cable is pulled, and both ends notice.
    Cut {
        /// Whose.
        slave: usize,
    },
    /// The cable is pulled, and only the slave notices.
    HalfOpen {
        /// Whose.
        slave: usize,
    },
    /// The link swallows everything, and nobody notices.
    Swallow {
        /// Whose.
        slave: usize,
    },
    /// The cable is put back, and whoever was turned away dials again.
    Plug {
        /// Whose.
        slave: usize,
    },
    /// An agent is killed; its machine goes on.
    Kill {
        /// Whose.
        slave: usize,
    },
    /// A dead agent starts.
    Revive {
        /// Whose.
        slave: usize,
    },
    /// The power of a box is cut and comes back.
    Reboot {
        /// Whose.
        slave: usize,
    },
    /// An agent will crash once it has done so many more things.
    Crash {
        /// Whose.
        slave: usize,
        /// How many.
        effects: usize,
    },
    /// The master will crash once it has done so many more things.
    CrashMaster {
        /// How many.
        effects: usize,
    },
    /// The master is killed.
    KillMaster,
    /// A dead master starts.
    StartMaster,
    /// What a machine does from now on.
    Machine {
        /// Whose.
        slave: usize,
        /// It does not answer probes.
        silent: bool,
        /// It refuses to stop.
        unstoppable: bool,
        /// It refuses to start.
        refuses: bool,
        /// Its work fails.
        fails: bool,
        /// It takes time to begin.
        #[serde(default, skip_serializing_if = "is_default")]
        slow: bool,
        /// It can't begin anything, and proves that.
        #[serde(default, skip_serializing_if = "is_default")]
        unfit: bool,
        /// What it is to begin is not there any more.
        #[serde(default, skip_serializing_if = "is_default")]
        rejects: bool,
        /// It takes time to answer a probe.
        #[serde(default, skip_serializing_if = "is_default")]
        ponders: bool,
    },
    /// How fast it is known whether a link still lives.
    Pings {
        /// It takes time.
        slow: bool,
    },
    /// A slave is given a token that enrols it, and dials again.
    Enroll {
        /// Which.
        slave: usize,
    },
    /// A slave's disk is replaced.
    ReplaceDisk {
        /// Whose.
        slave: usize,
    },
    /// A slave's disk is copied.
    SaveDisk {
        /// Whose.
        slave: usize,
    },
    /// That copy is put back in.
    PutBackDisk {
        /// Whose.
        slave: usize,
    },
    /// A copy of a slave's disk, key included, runs in another box.
    Clone {
        /// Whose.
        slave: usize,
    },
    /// The master's files are backed up.
    BackUp,
    /// They are put back.
    Restore {
        /// A person confirms it.
        confirmed: bool,
    },
    /// A person confirms that this master was restored.
    Confirm,
    /// The master loses everything.
    WipeMaster,
    /// A second master runs on a copy of the first one's files.
    Double {
        /// A person raises its epoch.
        confirmed: bool,
    },
    /// A slave is pointed at one of two masters.
    Dial {
        /// Which slave.
        slave: usize,
        /// At the second.
        double: bool,
    },
    /// The second master goes.
    EndDouble,
    /// A slave that is enrolled and has never been handed anything speaks for a job.
    Lie {
        /// Which.
        job: usize,
        /// How far beyond the newest attempt.
        ahead: u32,
        /// What it says that the job is.
        said: Said,
    },
    /// A slave's wall clock jumps.
    SlaveClock {
        /// Whose.
        slave: usize,
        /// By how much.
        by_ms: i64,
    },
    /// The masters' clock jumps.
    MastersClock {
        /// By how much.
        by_ms: i64,
    },
}

/// An order in a schedule; moments are counted from when it is placed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields, default)]
pub struct Placed {
    /// The other of the two programs.
    #[serde(skip_serializing_if = "is_default")]
    pub bake: bool,
    /// If it is interrupted.
    #[serde(skip_serializing_if = "is_default")]
    pub on_interrupt: OnInterrupt,
    /// It is stopped when it runs longer than it may.
    #[serde(skip_serializing_if = "is_default")]
    pub stop_overdue: bool,
    /// How long it may run.
    #[serde(skip_serializing_if = "is_default")]
    pub max_runtime_ms: Option<u64>,
    /// The highest goes first.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Its earliest start.
    #[serde(skip_serializing_if = "is_default")]
    pub not_before_ms: Option<i64>,
    /// Its latest start.
    #[serde(skip_serializing_if = "is_default")]
    pub deadline_ms: Option<i64>,
    /// If its start passes while its slave is off.
    #[serde(skip_serializing_if = "is_default")]
    pub late: Late,
    /// A person has to let it go.
    #[serde(skip_serializing_if = "is_default")]
    pub held: bool,
    /// It is tried again if it fails.
    #[serde(skip_serializing_if = "is_default")]
    pub again: bool,
    /// Only this slave may do it.
    #[serde(skip_serializing_if = "is_default")]
    pub slave: Option<usize>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What somebody wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobAct {
    /// See [`JobCommand::Cancel`].
    Cancel(CancelMode),
    /// See [`JobCommand::Pause`].
    Pause,
    /// See [`JobCommand::Resume`].
    Resume,
    /// See [`JobCommand::Release`].
    Release {
        /// How long the word holds.
        valid_ms: u64,
    },
    /// See [`JobCommand::Reschedule`].
    Reschedule {
        /// From now.
        not_before_ms: Option<i64>,
        /// From now.
        deadline_ms: Option<i64>,
        /// If that passes while the slave is off.
        late: Late,
    },
    /// See [`JobCommand::Retry`].
    Retry,
    /// See [`JobCommand::Resolve`].
    Resolve(End),
    /// See [`JobCommand::Abandon`].
    Abandon,
}

/// What a slave may say that a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// See [`State::Accepted`].
    Accepted,
    /// See [`State::Running`].
    Running,
    /// See [`State::Uncertain`].
    Uncertain,
    /// See [`State::Succeeded`].
    Succeeded,
    /// See [`State::Failed`].
    Failed,
}

impl Said {
    /// As a state.
    pub fn state(self) -> State {
        match self {
            Self::Accepted => State::Accepted,
            Self::Running => State::Running,
            Self::Uncertain => State::Uncertain,
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
        }
    }
}

/// What an operator wants of a slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlaveAct {
    /// See [`SlaveCommand::Mode`].
    Mode(Mode),
    /// See [`SlaveCommand::Ready`].
    Ready,
    /// See [`SlaveCommand::Clear`].
    Clear,
    /// See [`SlaveCommand::Approve`].
    Approve,
    /// See [`SlaveCommand::Forget`].
    Forget,
}

/// What a person at a machine wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LocalAct {
    /// See [`Local::Ready`].
    Ready,
    /// See [`Local::Clear`].
    Clear,
    /// See [`Local::Pause`].
    Pause,
    /// See [`Local::Resume`].
    Resume,
    /// See [`Local::Stop`].
    Stop {
        /// At once, not at a safe point.
        now: bool,
    },
    /// See [`Local::Lock`].
    Lock(bool),
    /// See [`Local::Resolve`].
    Resolve(End),
}

impl Act {
    /// Its kind in one word, for counting.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Pump { .. } | Self::Stir { .. } => "moves",
            Self::Pass { .. } => "time",
            Self::Late { .. } => "late frame",
            Self::Place { .. } => "order",
            Self::Job { .. } => "job command",
            Self::Slave { .. } => "slave command",
            Self::Local { .. } => "local command",
            Self::Cut { .. } => "cut",
            Self::HalfOpen { .. } => "half-open",
            Self::Swallow { .. } => "swallowed",
            Self::Plug { .. } => "plug",
            Self::Kill { .. } => "agent killed",
            Self::Revive { .. } => "agent started",
            Self::Reboot { .. } => "reboot",
            Self::Crash { .. } => "agent crash between effects",
            Self::CrashMaster { .. } => "master crash between effects",
            Self::KillMaster => "master killed",
            Self::StartMaster => "master started",
            Self::Machine { .. } => "machine changed",
            Self::Pings { .. } => "pings changed",
            Self::Enroll { .. } => "token given",
            Self::ReplaceDisk { .. } => "disk replaced",
            Self::SaveDisk { .. } => "disk saved",
            Self::PutBackDisk { .. } => "disk put back",
            Self::Clone { .. } => "box cloned",
            Self::BackUp => "backup",
            Self::Restore { confirmed: true } => "master restored, confirmed",
            Self::Restore { confirmed: false } => "master restored, unconfirmed",
            Self::Confirm => "confirmed",
            Self::WipeMaster => "master wiped",
            Self::Double { confirmed: true } => "master doubled, confirmed",
            Self::Double { confirmed: false } => "master doubled, unconfirmed",
            Self::Dial { .. } => "dialed another master",
            Self::EndDouble => "double ended",
            Self::Lie { .. } => "lie",
            Self::SlaveClock { .. } => "slave's clock jumped",
            Self::MastersClock { .. } => "master's clock jumped",
        }
    }
}

/// A job's id in every world, by the schedule's number for it.
pub fn job_id(number: usize) -> JobId {
    // Far from what the world counts up by itself.
    JobId(((1_u128 << 100) + number as u128).to_be_bytes())
}

impl World {
    /// Lets something happen; false if it made no sense.
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

    /// Sets the clock of the masters. One that lives notices it at once.
    pub fn set_masters_clock(&mut self, by_ms: i64) {
        self.master_off += by_ms;
        if by_ms.unsigned_abs() > CLOCK_STEP.0 {
            self.master_event(master::Event::ClockSet { step_ms: by_ms });
            self.at(true, |world| {
                if world.swapped {
                    world.master_event(master::Event::ClockSet { step_ms: by_ms });
                }
            });
        }
        self.let_the_master_look_at_its_clock();
        self.at(true, |world| {
            if world.swapped {
                world.let_the_master_look_at_its_clock();
            }
        });
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

    /// Whoever was turned away for good dials again when somebody has looked at it.
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
        }
        // For a slave that is not there, nobody would ever take it.
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

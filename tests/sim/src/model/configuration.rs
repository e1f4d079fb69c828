//! The floors that are enumerated, and the limits of what may happen on them.

use reloop_protocol::job::{End, OnInterrupt};
use reloop_protocol::master::{Order, Retry, RetryOn};
use reloop_protocol::slave::{AfterFailure, Release, Settings};
use reloop_protocol::spec::{CancelMode, Gate, Late, OnOverdue};
use reloop_protocol::time::{Millis, Time};

use crate::world::{WIDE, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// A cable is pulled; both ends notice.
    Cut,
    /// Only the slave's end of a link is closed; the master does not notice.
    HalfOpen,
    /// A link swallows everything; neither end notices.
    Swallow,
    /// An agent is killed; its machine goes on.
    KillAgent,
    /// An agent crashes between its commit and its effects, or between two effects.
    CrashAgent,
    /// A box loses its power and restarts.
    Reboot,
    /// An agent is restarted with a config that does not allow wide work.
    Narrow,
    /// A machine refuses to start.
    Refuse,
    /// A machine can't start anything, and proves that nothing began.
    Unfit,
    /// The program is missing.
    Reject,
    /// A machine refuses to stop.
    Unstoppable,
    /// A machine answers no probe.
    Silent,
    KillMaster,
    /// The master crashes between its commit and its effects, or between two effects.
    CrashMaster,
    /// The master is restored from its backup.
    Restore {
        /// A person confirms it.
        confirmed: bool,
    },
}

/// A command of a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Deed {
    Cancel(CancelMode),
    Pause,
    Resume,
    /// Abandons an attempt: the order lets it be retried, at another slave.
    Abandon,
    Retry,
    /// Resolves an uncertain job.
    Resolve(End),
    /// Releases a held job.
    Release,
    /// Locks remote starts out, at the machine.
    Lock,
    Unlock,
    /// Pauses the running job, at the machine.
    PauseLocally,
    ResumeLocally,
    StopLocally,
    /// Makes a backup of the master.
    BackUp,
    /// Confirms that the master was restored.
    Confirm,
    /// Revokes a slave.
    Revoke,
    Approve,
    /// Enrols a slave by a token.
    Enroll,
}

impl Deed {
    pub(super) fn is_at_the_master(self) -> bool {
        match self {
            Self::Cancel(_)
            | Self::Pause
            | Self::Resume
            | Self::Abandon
            | Self::Retry
            | Self::Resolve(_)
            | Self::Release
            | Self::Confirm
            | Self::Revoke
            | Self::Approve
            | Self::Enroll => true,
            Self::Lock
            | Self::Unlock
            | Self::PauseLocally
            | Self::ResumeLocally
            | Self::StopLocally
            | Self::BackUp => false,
        }
    }
}

/// A floor, and the limits of what may happen on it.
#[derive(Debug, Clone, Copy)]
pub struct Configuration {
    pub name: &'static str,
    /// What it is meant to show.
    pub about: &'static str,
    /// It takes minutes or hours, and is run by hand.
    pub long: bool,
    pub slaves: usize,
    /// Changes the slaves' settings.
    pub slave: fn(&mut Settings),
    /// The orders, in the order in which they are placed.
    pub orders: fn(&mut World) -> Vec<Order>,
    /// The number of faults, and their kinds. Repairs are not counted.
    pub faults: (u8, &'static [Fault]),
    /// The number of people's commands, and their kinds.
    pub deeds: (u8, &'static [Deed]),
    /// How many late frames may arrive, and how many are kept.
    pub late: (u8, usize),
    /// The number of clock steps, and their length in milliseconds.
    pub steps: (u8, i64),
    /// Machines answer probes later and not at once.
    pub ponders: bool,
    /// Links answer pings later and not at once.
    pub slow_pings: bool,
    /// The number of progress reports in a run.
    pub progress: u16,
    /// The last slave is disconnected until its cable is put in.
    pub away: bool,
    /// Machines begin work later and not at once.
    pub slow: bool,
    /// How work may end by itself.
    pub ends: &'static [End],
    /// Crashes come before any of the first so many effects.
    pub effects: usize,
    /// One state in so many is healed, and every last one.
    pub healed: u64,
}

const EVERYTHING: &[Fault] = &[
    Fault::Cut,
    Fault::HalfOpen,
    Fault::Swallow,
    Fault::KillAgent,
    Fault::CrashAgent,
    Fault::Reboot,
    Fault::KillMaster,
    Fault::CrashMaster,
];

const CRASHES: &[Fault] =
    &[Fault::Cut, Fault::HalfOpen, Fault::CrashAgent, Fault::CrashMaster, Fault::Reboot];

const MACHINES: &[Fault] = &[
    Fault::Cut,
    Fault::Refuse,
    Fault::Unfit,
    Fault::Reject,
    Fault::Unstoppable,
    Fault::CrashAgent,
    Fault::Reboot,
];

const RESTORES: &[Fault] =
    &[Fault::Cut, Fault::KillAgent, Fault::Restore { confirmed: true }, Fault::Restore { confirmed: false }];

const PEOPLE: &[Deed] = &[
    Deed::Cancel(CancelMode::IfNotStarted),
    Deed::Cancel(CancelMode::Now),
    Deed::Pause,
    Deed::Resume,
    Deed::Abandon,
    Deed::Retry,
    Deed::Resolve(End::Failed),
    Deed::Lock,
    Deed::PauseLocally,
    Deed::StopLocally,
];

const HAND_OVER: &[Deed] =
    &[Deed::Cancel(CancelMode::Now), Deed::Abandon, Deed::Retry, Deed::Resolve(End::Failed)];

const AT_THE_MACHINE: &[Deed] = &[
    Deed::Cancel(CancelMode::Now),
    Deed::Pause,
    Deed::Resume,
    Deed::Lock,
    Deed::Unlock,
    Deed::PauseLocally,
    Deed::ResumeLocally,
    Deed::StopLocally,
];

const WINDOWS: &[Deed] = &[Deed::Cancel(CancelMode::Now), Deed::Release];

const BACKUPS: &[Deed] =
    &[Deed::BackUp, Deed::Confirm, Deed::Release, Deed::Abandon, Deed::Retry, Deed::Cancel(CancelMode::Now)];

const BOTH: &[End] = &[End::Succeeded, End::Failed];
const WELL: &[End] = &[End::Succeeded];

const PLAIN: Configuration = Configuration {
    name: "",
    about: "",
    long: false,
    slaves: 1,
    slave: |_| {},
    orders: |world| orders(world, 1),
    faults: (1, EVERYTHING),
    deeds: (1, PEOPLE),
    late: (0, 0),
    steps: (0, 0),
    ponders: false,
    slow_pings: false,
    progress: 0,
    away: false,
    slow: false,
    ends: BOTH,
    effects: 3,
    healed: 32,
};

/// The short ones first. What a short one leaves out to be quick is in its long one.
pub static CONFIGURATIONS: [Configuration; 31] = [
    Configuration {
        name: "one-job",
        about: "one slave, one job, any fault, and any command of people",
        ..PLAIN
    },
    Configuration {
        name: "one-job-broken-twice",
        about: "one slave, one job, and two faults",
        faults: (2, CRASHES),
        deeds: (0, PEOPLE),
        effects: 2,
        ..PLAIN
    },
    Configuration {
        name: "restartable",
        about: "a job that may be begun again, at a machine that may refuse to start or to stop",
        faults: (1, MACHINES),
        ..RESTARTABLE
    },
    Configuration {
        name: "slow-start",
        about: "one slave, one job, any fault and any command between the start command and the beginning",
        slow: true,
        ends: WELL,
        ..PLAIN
    },
    Configuration {
        name: "two-jobs",
        about: "one slave, two jobs, and a fault",
        orders: |world| orders(world, 2),
        faults: (1, CRASHES),
        deeds: (0, PEOPLE),
        ends: WELL,
        effects: 1,
        ..PLAIN
    },
    Configuration {
        name: "two-slaves",
        about: "two slaves, one job, a broken link or a dead agent, and a reassignment",
        slaves: 2,
        faults: (1, &[Fault::Cut, Fault::KillAgent]),
        deeds: (2, &[Deed::Abandon, Deed::Retry]),
        ends: WELL,
        ..PLAIN
    },
    Configuration {
        name: "late-frames",
        about: "one slave, one job, a broken link or a dead node, and a frame that arrives late",
        faults: (1, &[Fault::Cut, Fault::KillAgent, Fault::KillMaster]),
        late: (1, 3),
        ..LATE_FRAMES
    },
    Configuration {
        name: "deferred",
        about: "one slave, a job with a window, a cut or a power failure, a release, and a clock",
        orders: |world| vec![planned(world)],
        faults: (1, &[Fault::Cut, Fault::Reboot]),
        steps: (2, 5_000),
        ..DEFERRED
    },
    Configuration {
        name: "restored",
        about: "one slave, one job, a backup of the master that is put back twice, and who says so",
        faults: (2, &[Fault::Restore { confirmed: true }, Fault::Restore { confirmed: false }]),
        deeds: (2, &[Deed::BackUp, Deed::Confirm, Deed::Release, Deed::Cancel(CancelMode::Now)]),
        ends: WELL,
        ..PLAIN
    },
    Configuration {
        name: "limited",
        about: "a job that may be begun again and may last so long, a slow answer, a dead agent, and a clock",
        deeds: (0, PEOPLE),
        steps: (2, 6_000),
        ..LIMITED
    },
    Configuration {
        name: "revoked",
        about: "one slave, one job, a newcomer behind an older link, and a slave that is revoked and enrolled again at any moment",
        faults: (2, &[Fault::Cut, Fault::HalfOpen, Fault::Reboot]),
        deeds: (3, &[Deed::Revoke, Deed::Approve, Deed::Enroll]),
        slow_pings: true,
        ends: WELL,
        ..PLAIN
    },
    Configuration {
        name: "progress",
        about: "a job that may be begun again, a machine that reports progress, and any fault",
        orders: restartable,
        deeds: (0, PEOPLE),
        progress: 2,
        ends: WELL,
        effects: 1,
        ..PLAIN
    },
    Configuration {
        name: "moved",
        about: "two slaves that people lock and unlock, one job, and a broken link",
        orders: |world| orders(world, 1),
        ..MOVED
    },
    Configuration {
        name: "goes-first",
        about: "a slave with room for two jobs, two jobs and an urgent one, and a broken link",
        faults: (1, &[Fault::Cut]),
        ..GOES_FIRST
    },
    Configuration {
        name: "held-back",
        about: "two slaves of which one is away at first, a job, an urgent one behind it, and another one",
        faults: (0, CRASHES),
        ..HELD_BACK
    },
    Configuration {
        name: "barred",
        about: "two slaves that one failure bars, a job that is tried again, and a broken link",
        orders: |world| tried_again(world, 1),
        ..BARRED
    },
    Configuration {
        name: "reconfigured",
        about: "a slave whose config is changed so that it does not allow its two jobs any more, and another that comes later",
        faults: (1, &[Fault::Narrow]),
        away: true,
        ..RECONFIGURED
    },
    Configuration {
        name: "one-job-long",
        about: "one slave, one job, any three faults, and any command of people",
        long: true,
        faults: (3, EVERYTHING),
        healed: 512,
        ..PLAIN
    },
    Configuration {
        name: "restartable-long",
        about: "a job that may be begun again, two faults, at a machine that may refuse to start or to stop",
        long: true,
        faults: (2, MACHINES),
        ..RESTARTABLE
    },
    Configuration {
        name: "two-jobs-long",
        about: "one slave, two jobs, any fault, and any command of people",
        long: true,
        orders: |world| orders(world, 2),
        ends: WELL,
        effects: 2,
        healed: 128,
        ..PLAIN
    },
    Configuration {
        name: "two-slaves-long",
        about: "two slaves, one job, any fault, and a reassignment",
        long: true,
        slaves: 2,
        deeds: (2, HAND_OVER),
        ends: WELL,
        effects: 2,
        ..PLAIN
    },
    Configuration {
        name: "late-frames-long",
        about: "one slave, one job, two broken links or dead nodes, and two frames that arrive late",
        long: true,
        ..LATE_FRAMES
    },
    Configuration {
        name: "restored-long",
        about: "the same with cut links, dead agents, and a reassignment",
        long: true,
        faults: (2, RESTORES),
        deeds: (2, BACKUPS),
        ends: WELL,
        ..PLAIN
    },
    Configuration {
        name: "deferred-long",
        about: "one slave, jobs with a window, two faults, a release, a clock, and a machine that may be silent",
        long: true,
        faults: (2, &[Fault::Cut, Fault::KillAgent, Fault::Reboot, Fault::CrashAgent, Fault::Silent]),
        healed: 128,
        ..DEFERRED
    },
    Configuration {
        name: "given-away-long",
        about: "two slaves of which one is away at first, two jobs, and a backup of the master that is put back",
        long: true,
        slaves: 2,
        orders: |world| orders(world, 2),
        faults: (1, &[Fault::Restore { confirmed: true }, Fault::Restore { confirmed: false }]),
        deeds: (1, &[Deed::BackUp]),
        ends: WELL,
        away: true,
        ..PLAIN
    },
    Configuration { name: "barred-long", about: "the same with two jobs", long: true, ..BARRED },
    Configuration {
        name: "reconfigured-long",
        about: "the same for two slaves that are there, and a broken link",
        long: true,
        ..RECONFIGURED
    },
    Configuration { name: "moved-long", about: "the same with two jobs", long: true, ..MOVED },
    Configuration { name: "goes-first-long", about: "the same with any fault", long: true, ..GOES_FIRST },
    Configuration { name: "held-back-long", about: "the same, and a broken link", long: true, ..HELD_BACK },
    Configuration {
        name: "limited-long",
        about: "the same with a pause or a cancel, and more moments",
        long: true,
        ..LIMITED
    },
];

const RESTARTABLE: Configuration = Configuration {
    slave: |settings| {
        settings.release = Release::Ack;
        settings.after_failure = AfterFailure::Hold;
        settings.max_interruptions = 1;
    },
    orders: restartable,
    deeds: (1, AT_THE_MACHINE),
    ..PLAIN
};

const MOVED: Configuration = Configuration {
    slaves: 2,
    orders: |world| orders(world, 2),
    faults: (1, &[Fault::Cut]),
    deeds: (2, &[Deed::Lock, Deed::Unlock]),
    ends: WELL,
    ..PLAIN
};

const GOES_FIRST: Configuration = Configuration {
    slave: |settings| settings.capacity = 2,
    orders: |world| {
        let mut orders = orders(world, 3);
        orders[2].start.priority = 1;
        orders
    },
    faults: (1, CRASHES),
    deeds: (0, PEOPLE),
    ends: WELL,
    effects: 1,
    ..PLAIN
};

const HELD_BACK: Configuration = Configuration {
    slaves: 2,
    orders: |world| {
        let mut orders = orders(world, 3);
        orders[1].start.priority = 1;
        orders
    },
    faults: (1, &[Fault::Cut]),
    away: true,
    ..GOES_FIRST
};

const BARRED: Configuration = Configuration {
    slaves: 2,
    slave: |settings| settings.max_failures_in_row = 1,
    orders: |world| tried_again(world, 2),
    faults: (1, &[Fault::Cut]),
    deeds: (0, PEOPLE),
    ..PLAIN
};

const RECONFIGURED: Configuration = Configuration {
    slaves: 2,
    orders: |world| wide(world, 2),
    faults: (2, &[Fault::Cut, Fault::Narrow]),
    deeds: (0, PEOPLE),
    ends: WELL,
    ..PLAIN
};

const LATE_FRAMES: Configuration = Configuration {
    faults: (2, &[Fault::Cut, Fault::KillAgent, Fault::KillMaster]),
    deeds: (1, &[Deed::Cancel(CancelMode::Now)]),
    late: (2, 3),
    ends: WELL,
    ..PLAIN
};

const DEFERRED: Configuration = Configuration {
    // Less than a step of the clock: a start that is found one step late was missed.
    slave: |settings| settings.late_tolerance = Millis::seconds(2),
    orders: deferred,
    deeds: (1, WINDOWS),
    steps: (4, 5_000),
    ends: WELL,
    effects: 2,
    ..PLAIN
};

const LIMITED: Configuration = Configuration {
    orders: limited,
    faults: (1, &[Fault::Reboot, Fault::KillAgent]),
    deeds: (1, &[Deed::Pause, Deed::PauseLocally, Deed::Cancel(CancelMode::SafePoint)]),
    steps: (3, 4_000),
    ponders: true,
    ends: WELL,
    ..PLAIN
};

pub fn configuration(name: &str) -> Option<Configuration> {
    CONFIGURATIONS.iter().find(|configuration| configuration.name == name).copied()
}

fn orders(world: &mut World, count: usize) -> Vec<Order> {
    (0..count).map(|_| world.order("mill")).collect()
}

/// They are tried a second time if they fail.
fn tried_again(world: &mut World, count: usize) -> Vec<Order> {
    let mut orders = orders(world, count);
    for order in &mut orders {
        order.retry = Retry { max_attempts: 2, on: [RetryOn::Failed].into() };
    }
    orders
}

/// Not every config allows them.
fn wide(world: &mut World, count: usize) -> Vec<Order> {
    let mut orders = orders(world, count);
    for order in &mut orders {
        order.spec.params.insert(WIDE.0.to_owned(), WIDE.1.to_owned());
    }
    orders
}

fn restartable(world: &mut World) -> Vec<Order> {
    let mut order = world.order("mill");
    order.spec.on_interrupt = OnInterrupt::Restart;
    vec![order]
}

/// It has to begin within 5 s, may last for 10 s of work, and is stopped then.
fn limited(world: &mut World) -> Vec<Order> {
    let deadline = Some(Time(world.now().0 + 5_000));
    let mut orders = restartable(world);
    for order in &mut orders {
        order.start.deadline = deadline;
        order.spec.max_runtime = Some(Millis::seconds(10));
        order.spec.on_overdue = OnOverdue::Stop;
    }
    orders
}

/// Held if its window was missed.
fn planned(world: &mut World) -> Order {
    let at = |world: &World, ms| Some(Time(world.now().0 + ms));
    let mut order = world.order("mill");
    order.start.not_before = at(world, 5_000);
    order.start.deadline = at(world, 10_000);
    order.start.late = Late::Hold;
    order
}

/// The same, and an order that has to be released.
fn deferred(world: &mut World) -> Vec<Order> {
    let planned = planned(world);
    let mut held = world.order("mill");
    held.start.gate = Gate::Held;
    held.start.deadline = planned.start.deadline;
    vec![planned, held]
}

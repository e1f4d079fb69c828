//! The invariants of the world by name, and the ledger against which they are checked.
//!
//! The nodes check their own invariants. The ledger contains what no node knows: what was promised to clients, what
//! machines really did, and what people decided. Only the world writes it, so that a node that is wrong about itself is
//! found.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reloop_protocol::id::{Attempt, Generation, JobId, OrderId, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::message::Outcome;
use reloop_protocol::slave::RunKey;
use reloop_protocol::spec::CancelMode;
use serde::{Deserialize, Serialize};

/// What must hold after every step, or after healing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// An acknowledged order is on the master's disk for ever.
    AcknowledgedOrderKept,
    /// A machine is told to start one run at most once.
    BegunOnce,
    /// An attempt is begun again only if its order allows it, or the first start never reached the machine.
    AttemptBegunOnce,
    /// A job runs on two slaves only if a person gave it away, or its order allows retries.
    OnePlace,
    /// At most one run is alive in one machine.
    OneWorkPerMachine,
    /// The nodes' own invariants, for example: only a slave says running; at most one job executes per slave.
    NodeInvariant,
    /// A durable outcome at the slave does not change, and is not forgotten before it is on the master's disk.
    OutcomeKept,
    /// A slave never drops a job that has begun and has not ended.
    NothingDestroyed,
    /// An accepted cancel and an outcome that came first are both kept.
    CancelAndOutcomeKept,
    /// No start outside its window, by the master's clock.
    StartInWindow,
    /// No start while the machine is locked, occupied, needs a person or is out of production.
    StartWhenReady,
    /// No start of a job that the slave's config does not allow, or whose required labels it lacks.
    StartAllowed,
    /// A frame of an older session has no effect.
    OldSessionIgnored,
    /// Generations only increase.
    GenerationsGoForward,
    /// The epoch that a slave has obeyed only increases.
    EpochsGoForward,
    /// No job vanishes while all disks are sound.
    NothingVanishes,
    /// `recover` returns the node's state from its disk.
    DiskIsState,
    /// The world comes to rest when nothing more happens.
    ComesToRest,
    /// After healing, every job ends in a state that its history demands.
    Converges,
    /// After healing, both views are equal.
    ViewsEqual,
    /// Every waiting job has an explanation.
    WaitingIsExplained,
    /// The rules never panic.
    Total,
    /// No rule changes a job whose machine was asked and has not answered.
    AnsweredFirst,
    /// Nothing is begun that was to end.
    StartWanted,
    /// A run is stopped for its run time only after that run itself has lasted so long.
    RunsOwnClock,
    /// A pause that the slave has received reaches the machine, in each run.
    PauseReachesMachine,
    /// A revoked slave has no live link, and is enrolled again only by a token.
    RevokedIsOut,
    /// A report of a slave that was never assigned the job does not change the job.
    LiesMoveNothing,
    /// Progress never decreases within a run, and no run shows that of another.
    ProgressGoesForward,
    /// A job that a person paused stays paused until a person resumes it, and only jobs that wait for it can't end.
    PausedStays,
    /// The master grants the command that its list of what needs a person names.
    NeedsGranted,
    /// While nothing is under way on a live link, both nodes say the same of the slave's jobs.
    ViewsMeet,
    /// While nothing is under way, no machine idles beside a job that waits and that it could do, and the highest priority goes next.
    NoMachineIdles,
}

impl Invariant {
    pub const ALL: [Self; 33] = [
        Self::AcknowledgedOrderKept,
        Self::BegunOnce,
        Self::AttemptBegunOnce,
        Self::OnePlace,
        Self::OneWorkPerMachine,
        Self::NodeInvariant,
        Self::OutcomeKept,
        Self::NothingDestroyed,
        Self::CancelAndOutcomeKept,
        Self::StartInWindow,
        Self::StartWhenReady,
        Self::StartAllowed,
        Self::OldSessionIgnored,
        Self::GenerationsGoForward,
        Self::EpochsGoForward,
        Self::NothingVanishes,
        Self::DiskIsState,
        Self::ComesToRest,
        Self::Converges,
        Self::ViewsEqual,
        Self::WaitingIsExplained,
        Self::Total,
        Self::AnsweredFirst,
        Self::StartWanted,
        Self::RunsOwnClock,
        Self::PauseReachesMachine,
        Self::RevokedIsOut,
        Self::LiesMoveNothing,
        Self::ProgressGoesForward,
        Self::PausedStays,
        Self::NeedsGranted,
        Self::ViewsMeet,
        Self::NoMachineIdles,
    ];

    pub fn sentence(self) -> &'static str {
        match self {
            Self::AcknowledgedOrderKept => "an acknowledged order is never lost",
            Self::BegunOnce => "a run is started at its machine at most once",
            Self::AttemptBegunOnce => "an attempt starts at most once, unless its order allows a restart",
            Self::OnePlace => "a job never runs on two slaves unless a person gave it away",
            Self::OneWorkPerMachine => "at most one run is alive in a machine",
            Self::NodeInvariant => "the node's own invariants hold",
            Self::OutcomeKept => "an outcome once durable reaches the master and is never changed",
            Self::NothingDestroyed => "nothing is destroyed because it was absent",
            Self::CancelAndOutcomeKept => "cancel and outcome are both kept",
            Self::StartInWindow => "no start outside its window",
            Self::StartWhenReady => "no start while not ready or locked",
            Self::StartAllowed => "no start where the slave's config does not allow it",
            Self::OldSessionIgnored => "nothing acts on an old session",
            Self::GenerationsGoForward => "nothing acts on an old desired state",
            Self::EpochsGoForward => "nothing acts on an old epoch",
            Self::NothingVanishes => "nothing vanishes from a sound disk",
            Self::DiskIsState => "recover(disk) equals the durable state",
            Self::ComesToRest => "the world comes to rest",
            Self::Converges => "once healed, every job ends as its history demands",
            Self::ViewsEqual => "once healed, both views are equal",
            Self::WaitingIsExplained => "every waiting job has an explanation",
            Self::Total => "the rules never panic",
            Self::AnsweredFirst => "no rule changes a job before its machine has answered",
            Self::StartWanted => "nothing is begun that somebody wanted to end",
            Self::RunsOwnClock => "each run has its own clock",
            Self::PauseReachesMachine => "a pause that the slave received reaches the machine",
            Self::RevokedIsOut => "a revoked slave stays out until a token enrols it",
            Self::LiesMoveNothing => "a slave changes no job that it was never assigned",
            Self::ProgressGoesForward => "progress never decreases, and is of its own run",
            Self::PausedStays => "a paused job stays paused until a person resumes it",
            Self::NeedsGranted => "what `needs` names is granted",
            Self::ViewsMeet => "over a live link both nodes say the same of a job",
            Self::NoMachineIdles => "no machine idles beside work that it could do",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// A broken invariant, and how it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub invariant: Invariant,
    pub how: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "broken: {}: {}", self.invariant, self.how)
    }
}

/// The end of an attempt, by a slave's disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    pub state: State,
    pub outcome: Option<Outcome>,
    /// That disk is not the one on which it was written first, so it may change.
    pub retold: bool,
}

/// What the world knows and no node does.
///
/// A fault that no software survives excuses exactly the promises that depend on what it destroyed: the ledger names
/// the affected jobs, slaves' keys and masters.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Orders that were acknowledged to clients.
    pub acknowledged: BTreeSet<OrderId>,
    /// Jobs for which a person decided something that may make them run in two places: retry, abandon, resolve, a
    /// release after a restore.
    pub given_away: BTreeSet<JobId>,
    /// Jobs whose cancel was accepted before they had ended, and its mode.
    pub canceled: BTreeMap<JobId, CancelMode>,
    /// Jobs that somebody canceled, in time or not.
    pub cancel_asked: BTreeSet<JobId>,
    pub abandoned: BTreeSet<JobId>,
    /// Uncertain jobs that a person resolved.
    pub resolved: BTreeSet<JobId>,
    /// Jobs that may expire, because they have a latest start or `late: skip`.
    pub timed: BTreeSet<JobId>,
    /// Durable outcomes on slaves' disks, by job, attempt and slave.
    pub outcomes: BTreeMap<(JobId, Attempt, usize), Told>,
    /// The newest generation of an attempt on a slave's disk.
    pub desired_states: BTreeMap<(usize, JobId, Attempt), Generation>,
    /// Jobs that a wiped, restored, copied or doubled disk has forgotten or has twice.
    pub torn: BTreeSet<JobId>,
    /// Keys that two boxes have.
    pub cloned: BTreeSet<SlaveKey>,
    /// A master was restored, wiped or doubled: it may use an attempt number again.
    pub masters_forgot: bool,
    /// Slaves obey two masters: both have the same past and epoch, or one of them was wiped.
    pub split: bool,
    /// Jobs of which a master called an attempt off by itself, after a master had forgotten something: a master that
    /// forgets that too takes it for a client's cancel.
    pub called_off: BTreeSet<JobId>,
    /// Slaves that were revoked, and got no token since.
    pub revoked: BTreeSet<SlaveKey>,
    /// Runs that a person stopped at the machine, and has not resumed since.
    pub stopped_here: BTreeSet<(usize, RunKey)>,
    /// Jobs that got another window after they were assigned: their slave may learn of it after an interruption.
    pub planned_again: BTreeSet<JobId>,
    /// A clock was set: the time between two readings of it means nothing.
    pub clocks_were_set: bool,
    /// There were two masters once: one may have withdrawn what only the other had assigned.
    pub was_split: bool,
    /// A hostile master sends anything: a slave can't know whether the master has the outcomes that it tells it to
    /// forget.
    pub master_lies: bool,
}

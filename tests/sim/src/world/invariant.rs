//! What must hold in the world, by name, and the ledger against which it is checked.
//!
//! The nodes check themselves by their own invariants. The ledger knows what no node knows: what was promised to
//! clients, what machines really did, and what people decided. It is written by the world alone, so that a node that is
//! wrong about itself is found out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use reloop_protocol::id::{Attempt, Generation, JobId, OrderId, SlaveKey};
use reloop_protocol::job::State;
use reloop_protocol::message::Outcome;
use reloop_protocol::slave::RunKey;
use reloop_protocol::spec::CancelMode;
use serde::{Deserialize, Serialize};

/// Everything that must hold after every step, or once everything is healed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    /// An order that was acknowledged is on the master's disk, for ever.
    AcknowledgedOrderKept,
    /// A machine is told to begin one beginning at most once.
    BegunOnce,
    /// One attempt is begun again only if its order says so, or the first beginning never reached the machine.
    AttemptBegunOnce,
    /// A job runs on two slaves only if a person gave it away, or its order lets it be tried again.
    OnePlace,
    /// In one machine there is at most one work alive.
    OneWorkPerMachine,
    /// The nodes' own invariants, among them: only a slave says running; at most one job executes per slave.
    NodeInvariant,
    /// An outcome that was durable on the slave is not changed, and is not forgotten before the master's disk has it.
    OutcomeKept,
    /// A slave never lets go of a job that was begun and has not ended.
    NothingDestroyed,
    /// A cancel that was taken and an outcome that came first are both kept.
    CancelAndOutcomeKept,
    /// No start outside its window, as the master's clock has it.
    StartInWindow,
    /// No start while the machine is locked, occupied, needs a person or is out of production.
    StartWhenReady,
    /// Nothing acts on a frame of a dead session.
    OldSessionIgnored,
    /// Desired states only go forward.
    GenerationsGoForward,
    /// A slave's epoch of its master only goes forward.
    EpochsGoForward,
    /// Nobody says that something vanished while all disks are sound.
    NothingVanishes,
    /// The disk brings back what the node believes.
    DiskIsState,
    /// The world comes to rest once nothing happens any more.
    ComesToRest,
    /// Once everything is healed, every job ends, in a state that its history demands.
    Converges,
    /// Once everything is healed, both views are equal.
    ViewsEqual,
    /// A job that waits can say why.
    WaitingIsExplained,
    /// Whatever happens, the rules have an answer.
    Total,
    /// No rule touches a job of which the machine was asked and has not answered.
    AnsweredFirst,
    /// Nothing is begun that somebody wanted to end.
    StartWanted,
    /// A run is not stopped for lasting too long before it has lasted so long itself.
    RunsOwnClock,
    /// A pause that its slave has heard reaches the machine, in each run.
    PauseReachesMachine,
    /// A slave that was revoked has no live link, and is enrolled again by a token only.
    RevokedIsOut,
    /// Nothing follows for a job from the word of a slave that was never handed it.
    LiesMoveNothing,
    /// Progress never goes back within a run, and no run shows that of another.
    ProgressGoesForward,
    /// What a person paused stays paused until a person lets it go on, and keeps nothing from ending but what waits behind it.
    PausedStays,
}

impl Invariant {
    pub const ALL: [Self; 29] = [
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
    ];

    pub fn sentence(self) -> &'static str {
        match self {
            Self::AcknowledgedOrderKept => "an acknowledged order is never lost",
            Self::BegunOnce => "a beginning reaches its machine at most once",
            Self::AttemptBegunOnce => "an attempt starts at most once, unless its order allows a restart",
            Self::OnePlace => "a job never runs on two slaves unless a person gave it away",
            Self::OneWorkPerMachine => "at most one work is alive in a machine",
            Self::NodeInvariant => "the node's own invariants hold",
            Self::OutcomeKept => "an outcome once durable reaches the master and is never changed",
            Self::NothingDestroyed => "nothing is destroyed because it was absent",
            Self::CancelAndOutcomeKept => "cancel and outcome are both kept",
            Self::StartInWindow => "no start outside its window",
            Self::StartWhenReady => "no start while not ready or locked",
            Self::OldSessionIgnored => "nothing acts on an old session",
            Self::GenerationsGoForward => "nothing acts on an old wish",
            Self::EpochsGoForward => "nothing acts on an old epoch",
            Self::NothingVanishes => "nothing vanishes from a sound disk",
            Self::DiskIsState => "recover(disk) equals the durable state",
            Self::ComesToRest => "the world comes to rest",
            Self::Converges => "once healed, every job ends as its history demands",
            Self::ViewsEqual => "once healed, both views are equal",
            Self::WaitingIsExplained => "a waiting job can say why",
            Self::Total => "the rules never panic",
            Self::AnsweredFirst => "no rule touches a job before its machine has answered",
            Self::StartWanted => "nothing is begun that somebody wished to end",
            Self::RunsOwnClock => "each run has its own clock",
            Self::PauseReachesMachine => "a pause that was heard reaches the machine",
            Self::RevokedIsOut => "who was revoked is out until a token lets it in",
            Self::LiesMoveNothing => "a slave speaks for no job that it was never handed",
            Self::ProgressGoesForward => "progress goes forward, and is of its own run",
            Self::PausedStays => "what is paused stays paused until somebody lets it go on",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

/// An invariant that does not hold, and how that shows.
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

/// How an attempt ended, by a slave's disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Told {
    /// What it came to.
    pub state: State,
    /// What the machine said.
    pub outcome: Option<Outcome>,
    /// That disk is not the one that it was written to: it may come to say otherwise.
    pub retold: bool,
}

/// What the world knows and no node does.
///
/// A fault that no software survives excuses exactly the promises that only what it destroyed could keep: the ledger
/// names the jobs, the slaves' keys and the masters that it concerns.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Ledger {
    /// Orders that were acknowledged to clients, and that the master's disk holds unless it is wrong.
    pub acknowledged: BTreeSet<OrderId>,
    /// Jobs of which a person decided something that may make them run in two places: retry, abandon, a release after a
    /// restore, a resolve.
    pub given_away: BTreeSet<JobId>,
    /// Jobs whose cancel was taken while they had not ended, and how hard it was.
    pub canceled: BTreeMap<JobId, CancelMode>,
    /// Jobs that somebody wanted canceled, in time or not.
    pub cancel_asked: BTreeSet<JobId>,
    /// Jobs that a person gave up.
    pub abandoned: BTreeSet<JobId>,
    /// Jobs of which a person said how they ended.
    pub resolved: BTreeSet<JobId>,
    /// Jobs that may expire: somebody gave them a latest start, or a start that is not made up for.
    pub timed: BTreeSet<JobId>,
    /// Outcomes that were durable on a slave's disk, by job, attempt and slave.
    pub outcomes: BTreeMap<(JobId, Attempt, usize), Told>,
    /// The newest desired state that a slave's disk held of an attempt.
    pub desired_states: BTreeMap<(usize, JobId, Attempt), Generation>,
    /// Jobs that a disk which was wiped, put back, copied or doubled has forgotten, or knows twice.
    pub torn: BTreeSet<JobId>,
    /// Keys that two boxes have.
    pub cloned: BTreeSet<SlaveKey>,
    /// A master was restored, wiped or doubled: it may hand a job out again under a number that was used before.
    pub masters_forgot: bool,
    /// Two masters with the same past say that they are the one, in the same epoch.
    pub split: bool,
    /// Jobs of which a master called an attempt off by itself, after one had forgotten something: a master that forgets
    /// that too takes it for a client's cancel.
    pub called_off: BTreeSet<JobId>,
    /// Slaves that were revoked, and were given no token since.
    pub revoked: BTreeSet<SlaveKey>,
    /// Runs that a person at their machine wanted to end, and has not let go on since.
    pub stopped_here: BTreeSet<RunKey>,
    /// Jobs that were given another window after they were assigned: their slave may hear of it after an interruption.
    pub planned_again: BTreeSet<JobId>,
    /// A clock was set: spans between two readings of it mean nothing.
    pub clocks_were_set: bool,
    /// There were two masters once: one may have withdrawn what only the other had assigned.
    pub was_split: bool,
    /// A master that is not of this world says what it likes: a slave cannot know whether it has what it tells to forget.
    pub master_lies: bool,
}

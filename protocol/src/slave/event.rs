//! The events of a slave, and what its machine says.

use std::collections::BTreeMap;

use super::{Damage, LinkId};
use crate::id::{Attempt, BootId, Commit, JobId, Run, Session, StoreId};
use crate::job::End;
use crate::message::{Message, Outcome, Reason};
use crate::time::Time;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent started, with the state that was on disk. Always the first event.
    AgentStarted {
        boot: BootId,
        /// The box's fingerprint, such as its machine id; `None` if it has none.
        fingerprint: Option<[u8; 16]>,
        /// Whether the key is older than the store: another store knew this machine.
        known_key: bool,
        /// The id of the next store, used if the master finds that this one was put back to an earlier state.
        next_store: StoreId,
        /// What could not be read of the disk.
        damage: Damage,
        /// Of the jobs that it holds, those that the programs or their declared parameters do not allow any more.
        unfit: BTreeMap<JobId, Reason>,
    },
    /// A connection was made, and there is no other one.
    LinkOpened {
        link: LinkId,
        /// The enrolment token to show.
        token: Option<String>,
    },
    /// A message of the master.
    Received {
        link: LinkId,
        session: Session,
        /// The master's durable commits when it said this.
        commit: Commit,
        message: Message,
        /// Of the offers in it, those that the slave's programs or their declared parameters do not allow.
        unfit: BTreeMap<JobId, Reason>,
    },
    /// A connection ended.
    LinkClosed { link: LinkId },
    /// The machine says something about a job.
    Machine { work: RunKey, fact: Fact },
    /// The machine was asked whether it could begin a job, and this is what stands in the way, if anything does.
    MachineChecked(Result<(), String>),
    /// A person at the machine gave a command.
    Local {
        /// Pairs the [`Effect::Reply`](super::Effect) with it.
        request: u64,
        command: Local,
    },
    /// A moment came that [`next_deadline`](super::next_deadline) named.
    TimePassed,
}

/// One run of one attempt of one job. A machine is told to start it at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    pub job: JobId,
    pub attempt: Attempt,
    pub run: Run,
}

/// What a machine says about one run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// The work began.
    Started,
    /// The work goes on, and is this far.
    Progressed {
        /// Thousandths of the work that are done; `None` if it does not say.
        permille: Option<u16>,
        /// What the program says it is doing; `None` if it does not say.
        note: Option<String>,
    },
    /// The work is paused.
    Paused,
    /// The work goes on after a pause.
    Resumed,
    /// The work ended.
    Ended(Ended),
    /// The program or its parameters are not allowed here: proof that nothing began.
    StartRejected(Reason),
    /// It refused to start, in these words. No proof: it may have begun before, so it is asked.
    StartRefused(String),
    /// It refused to stop, in these words.
    StopRefused(String),
    /// It refused to pause or to resume, in these words.
    PauseRefused(String),
    /// The answer to the question what it did, or the same said unasked.
    Probed(Probed),
}

/// How the work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ended {
    pub end: End,
    pub outcome: Outcome,
    /// When, by the box's wall clock; `None` if the machine does not know.
    pub at: Option<Time>,
}

/// What a machine says when it is asked what it did with a run.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probed {
    /// It never began, and never will: proof.
    NeverStarted,
    /// The work goes on, or is paused.
    Alive {
        paused: bool,
        /// Thousandths of the work that are done; `None` if it does not say.
        permille: Option<u16>,
    },
    Ended(Ended),
    /// It had begun, runs no more, and the machine does not know how it ended.
    Gone,
    /// It cannot say, for this cause.
    Unknown(String),
    /// It could not begin, for this cause of its own, and never will: proof. Also an answer to a start, unasked.
    NotBegun(String),
}

/// A command of a person at the machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Local {
    /// The machine is clear of the finished work.
    Ready,
    /// What needed attention has been looked at.
    Clear,
    /// Pause the job that runs.
    Pause,
    /// Resume it. Only this ends a pause that was made here.
    Resume,
    /// Stop the job that runs.
    Stop {
        /// Whether to stop at once and not at a safe point.
        now: bool,
    },
    /// Lock remote starts out (true), or let them in.
    Lock(bool),
    /// Say how an uncertain job ended.
    Resolve {
        /// `None`: the only one that is uncertain.
        job: Option<JobId>,
        end: End,
    },
}

//! What can happen to a slave.

use std::collections::BTreeMap;

use super::{Damage, LinkId};
use crate::id::{Attempt, BootId, Commit, JobId, Run, Session, StoreId};
use crate::job::End;
use crate::message::{Message, Outcome, Reason};
use crate::time::Time;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// The agent started, with what was on disk.
    AgentStarted {
        /// The kernel's boot.
        boot: BootId,
        /// The box.
        fingerprint: Option<[u8; 16]>,
        /// The key is older than the database: something else remembered this machine.
        known_key: bool,
        /// A name for the next database.
        next_store: StoreId,
        /// What of it could not be read.
        damage: Damage,
    },
    /// A connection stands; it is the only one.
    LinkOpened {
        /// Which.
        link: LinkId,
        /// What there is to show for enrolment.
        token: Option<String>,
    },
    /// The master said something.
    Received {
        /// On which connection.
        link: LinkId,
        /// In which session.
        session: Session,
        /// The master's durable commits when it said this.
        commit: Commit,
        /// What.
        message: Message,
        /// Offers in it that this slave's programs cannot do, and why.
        unfit: BTreeMap<JobId, Reason>,
    },
    /// A connection ended.
    LinkClosed {
        /// Which.
        link: LinkId,
    },
    /// The machine did something.
    Machine {
        /// With which job.
        work: RunKey,
        /// What.
        fact: Fact,
    },
    /// A person at the machine wants something.
    Local {
        /// Pairs the reply.
        request: u64,
        /// What.
        command: Local,
    },
    /// A moment came that [`next_deadline`](super::next_deadline) named.
    TimePassed,
}

/// One beginning of one attempt of one job: what a machine is told to start at most once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunKey {
    /// Which job.
    pub job: JobId,
    /// Which attempt.
    pub attempt: Attempt,
    /// Which beginning.
    pub run: Run,
}

/// What a machine does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Fact {
    /// It began.
    Started,
    /// It goes on.
    Progressed {
        /// How far, in thousandths.
        permille: Option<u16>,
        /// What the program says that it does.
        note: Option<String>,
    },
    /// It paused.
    Paused,
    /// It goes on after a pause.
    Resumed,
    /// Its work ended.
    Ended(Ended),
    /// It was told to begin what this slave can't or may not do: proof that nothing began.
    StartRejected(Reason),
    /// It would not start, and says why. That is no proof: it may refuse what it has begun before.
    StartRefused(String),
    /// It would not stop.
    StopRefused(String),
    /// It would not pause or resume.
    PauseRefused(String),
    /// It was asked what it did.
    Probed(Probed),
}

/// How the machine's work ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ended {
    /// How.
    pub end: End,
    /// What it said.
    pub outcome: Outcome,
    /// When, by the box's wall clock.
    pub at: Option<Time>,
}

/// What a machine says when asked about one beginning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Probed {
    /// Proof that it never began, and never will.
    NeverStarted,
    /// It works, or is paused.
    Alive {
        /// Paused.
        paused: bool,
        /// How far, in thousandths.
        permille: Option<u16>,
    },
    /// It ended.
    Ended(Ended),
    /// It began, runs no more, and nobody can know how it ended.
    Gone,
    /// It cannot say.
    Unknown(String),
    /// It could not begin, and says why: proof that nothing began. It may also say so unasked, as the answer to a start.
    NotBegun(String),
}

/// What a person at the machine wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Local {
    /// The machine is clear.
    Ready,
    /// What needed attention was looked at.
    Clear,
    /// Pause what runs.
    Pause,
    /// Let it go on.
    Resume,
    /// Stop what runs.
    Stop {
        /// At once, not at a safe point.
        now: bool,
    },
    /// Lock remote starts out, or let them in.
    Lock(bool),
    /// Say how an uncertain job ended.
    Resolve {
        /// Which; the only one if none is named.
        job: Option<JobId>,
        /// How.
        end: End,
    },
}

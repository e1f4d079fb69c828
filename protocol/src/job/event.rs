//! The events of a job.

use serde::{Deserialize, Serialize};

use super::State;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum End {
    /// The program or the machine reported success.
    Succeeded,
    /// The program or the machine reported a failure.
    Failed,
    /// It was told to stop, and did.
    Stopped,
}

impl End {
    /// The state of a job that ended so.
    pub fn state(self) -> State {
        match self {
            Self::Succeeded => State::Succeeded,
            Self::Failed => State::Failed,
            Self::Stopped => State::Canceled,
        }
    }
}

/// What an order says about work that was interrupted and whose outcome the machine does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum OnInterrupt {
    /// The job becomes uncertain, and a person says how it ended.
    #[default]
    Hold,
    /// The job has failed.
    Fail,
    /// The job begins again, on the same slave and under the same attempt.
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    // At the master: what people and the master's rules decide, and what slaves report.
    /// The job was assigned to a slave, under a new attempt.
    AttemptAssigned,
    /// The slave does not hold the job: it declined the offer, gave the job back, or never got the offer and shall not get it again.
    GivenBack,
    /// A person canceled it, and no slave holds it.
    Withdrawn,
    /// Its latest start passed, and no slave holds it.
    WindowClosed,
    /// This attempt was given up, and its outcome will not be known. By a person; or by the master, if another attempt speaks for
    /// the job and the slave does not hold this one any more.
    Abandoned,
    /// A person, or the order's own retry rule, wants another attempt.
    Retried,
    /// At the master: the slave held the job, and now has neither it nor its outcome. At the slave: the master says that this
    /// slave's store went back in time, so the job in it is not to be trusted.
    Vanished,
    /// The slave reported this state.
    Reported(State),
    /// The slave reported that it has this attempt in this state, after it had reported an end: another store of the slave holds
    /// it, and the machine is barred until that is settled. The master raises it only for an attempt that does not speak for its
    /// job.
    Reappeared(State),
    /// A person said how an uncertain job ended.
    Resolved(End),

    // At the slave: its own decisions, and what its machine does.
    /// It was canceled, or its attempt given up, before it started.
    Dropped,
    /// Its window closed before it started.
    Lapsed,
    /// The slave decided to start it. The machine is told once this is on disk.
    StartIntended,
    /// It may not be begun here: this slave does not allow its program or a parameter, and nothing began.
    StartRefused,
    /// The machine works on it.
    MachineStarted,
    MachinePaused,
    /// The machine goes on after a pause.
    MachineResumed,
    /// The slave decided to stop it. The machine is told once this is on disk.
    StopBegan,
    /// The machine refused to stop.
    StopRefused {
        /// Whether the machine had been paused before the stop, and still is.
        paused: bool,
    },
    MachineEnded(End),

    // At the slave, after a crash: what the machine said when asked.
    /// It proved that this start never reached it, and made sure that it never will.
    FoundNeverStarted,
    /// It works, or is paused.
    FoundAlive {
        /// Whether it is paused.
        paused: bool,
    },
    /// It had begun, runs no more, and the machine does not know how it ended. What follows is the order's choice, or `Hold`
    /// if it was interrupted too often.
    FoundGone(OnInterrupt),
    /// It cannot say, or did not answer.
    FoundNothing,

    // At the slave: what the machine answers to a start.
    /// The machine could not begin, for a cause of its own such as a full disk, and proved that nothing began.
    StartPostponed,
}

//! THE TABLE: in this state this happens, what is the job now?

use self::Rejection::*;
use self::Transition::{To, Unchanged};
use super::Event::{self, *};
use super::State::{self, *};
use super::{End, OnInterrupt};

/// What an event makes of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Transition {
    /// The job is in this state now.
    To(State),
    /// The job is in that state already.
    Unchanged,
    /// The event does not happen to a job in that state, or has no consequence there.
    Rejected(Rejection),
}

/// Why an event has no consequence for a job in its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// No slave holds the job.
    NotHeld,
    /// The job is not assigned to a slave.
    NotAssigned,
    /// The slave has not accepted it.
    NotAccepted,
    /// The slave owns the job: only its reports count.
    OwnedBySlave,
    /// The job has started.
    Started,
    /// The job has not started.
    NotStarted,
    /// The job has ended, and an outcome does not change.
    Ended,
    /// The job has not ended.
    NotEnded,
    /// Only an uncertain job is resolved by a person.
    NotUncertain,
    /// A slave does not report this state.
    NotASlavesState,
    /// The attempt was given up before it started.
    GivenUp,
    /// The job succeeded.
    HasSucceeded,
    /// The job is being stopped.
    IsStopping,
    /// A person was asked how the job ended.
    PersonAsked,
}

/// The state of a job after an event. Total: every pair of a state and an event has its answer.
pub fn next(state: State, event: Event) -> Transition {
    match look_up(state, event) {
        To(next) if next == state => Unchanged,
        transition => transition,
    }
}

fn look_up(state: State, event: Event) -> Transition {
    match state {
        Queued => match event {
            AttemptAssigned => To(Assigned),
            Withdrawn => To(Canceled),
            WindowClosed => To(Expired),
            Abandoned => To(Lost),
            GivenBack => Unchanged,
            // The first slave of a job that was to go to another comes back and has it under way: it keeps it.
            Reported(Accepted) => rejected(GivenUp),
            Reported(said) => reported(said),
            Retried => rejected(NotEnded),
            Vanished => rejected(NotAssigned),
            Resolved(_) => rejected(NotUncertain),
            Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => rejected(NotHeld),
        },
        Assigned => match event {
            GivenBack => To(Queued),
            Withdrawn => To(Canceled),
            WindowClosed => To(Expired),
            Abandoned => To(Lost),
            // Another store: what the old one did with the offer is unknown.
            Vanished => To(Uncertain),
            Taken => To(Accepted),
            StartRefused => To(Rejected),
            Reported(said) => reported(said),
            AttemptAssigned => Unchanged,
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
            Dropped
            | Lapsed
            | StartIntended
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => rejected(NotAccepted),
        },
        Accepted => match event {
            StartIntended => To(Starting),
            StartRefused => To(Rejected),
            Dropped => To(Canceled),
            Lapsed => To(Expired),
            GivenBack => To(Queued),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            Taken => Unchanged,
            Reported(said) => reported(said),
            AttemptAssigned | Withdrawn | WindowClosed => rejected(OwnedBySlave),
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
            MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => rejected(NotStarted),
        },
        Starting => match event {
            MachineStarted | MachineResumed => To(Running),
            MachinePaused => To(Paused),
            // A machine that refuses a start has not begun.
            StartRefused => To(Rejected),
            StartPostponed => To(Accepted),
            StopBegan => To(Stopping),
            StopRefused { .. } => Unchanged,
            FoundNeverStarted => To(Accepted),
            FoundAlive { paused } => To(alive(paused)),
            FoundGone(policy) => To(interrupted(policy)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Taken | Dropped | Lapsed
            | StartIntended => rejected(Started),
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Running => match event {
            MachineStarted | MachineResumed => Unchanged,
            MachinePaused => To(Paused),
            StartRefused => rejected(Started),
            StartPostponed => To(Accepted),
            StopBegan => To(Stopping),
            StopRefused { .. } => Unchanged,
            // A machine that knows nothing of work that it had begun has lost its memory: that is no proof.
            FoundNeverStarted => To(Uncertain),
            FoundAlive { paused } => To(alive(paused)),
            FoundGone(policy) => To(interrupted(policy)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Taken | Dropped | Lapsed
            | StartIntended => rejected(Started),
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Paused => match event {
            MachineStarted | MachinePaused => Unchanged,
            MachineResumed => To(Running),
            StartRefused => rejected(Started),
            StartPostponed => To(Accepted),
            StopBegan => To(Stopping),
            StopRefused { .. } => Unchanged,
            FoundNeverStarted => To(Uncertain),
            FoundAlive { paused } => To(alive(paused)),
            FoundGone(policy) => To(interrupted(policy)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Taken | Dropped | Lapsed
            | StartIntended => rejected(Started),
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Stopping => match event {
            MachineStarted | MachinePaused | MachineResumed => rejected(IsStopping),
            // Nothing began, or nothing is left of it: the stop has what it wanted.
            StartRefused | StartPostponed | FoundNeverStarted | FoundGone(_) => To(Canceled),
            StopBegan | FoundAlive { .. } => Unchanged,
            StopRefused { paused } => To(alive(paused)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Taken | Dropped | Lapsed
            | StartIntended => rejected(Started),
            Retried => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Uncertain => match event {
            Resolved(end) => To(end.state()),
            Abandoned => To(Lost),
            // The machine found its voice again.
            MachineEnded(end) => To(end.state()),
            FoundAlive { paused } => To(alive(paused)),
            MachineStarted | MachineResumed => To(Running),
            MachinePaused => To(Paused),
            FoundNeverStarted | FoundGone(_) | FoundNothing | StartPostponed => rejected(PersonAsked),
            Vanished => Unchanged,
            Reported(said) => reported(said),
            AttemptAssigned
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | StopBegan
            | StopRefused { .. } => rejected(PersonAsked),
            Retried => rejected(NotEnded),
        },
        Lost => match event {
            Retried => To(Queued),
            Abandoned => Unchanged,
            // The truth, late: what a machine did counts more than what a person had to assume.
            Reported(Accepted) => rejected(GivenUp),
            Reported(said) => reported(said),
            AttemptAssigned
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Vanished
            | Resolved(_)
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => rejected(Ended),
        },
        Succeeded | Failed | Canceled | Rejected | Expired => match event {
            Retried => match state {
                Succeeded => rejected(HasSucceeded),
                _ => To(Queued),
            },
            Reported(said) if said == state => Unchanged,
            Reported(_) => rejected(Ended),
            AttemptAssigned
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Abandoned
            | Vanished
            | Resolved(_)
            | Taken
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | MachineStarted
            | MachinePaused
            | MachineResumed
            | StopBegan
            | StopRefused { .. }
            | MachineEnded(_)
            | FoundNeverStarted
            | FoundAlive { .. }
            | FoundGone(_)
            | FoundNothing
            | StartPostponed => rejected(Ended),
        },
    }
}

fn rejected(why: Rejection) -> Transition {
    Transition::Rejected(why)
}

/// The state that the machine's word about its work means.
fn alive(paused: bool) -> State {
    if paused { Paused } else { Running }
}

/// The state after an interruption of which nobody knows how the work ended.
fn interrupted(policy: OnInterrupt) -> State {
    match policy {
        OnInterrupt::Hold => Uncertain,
        OnInterrupt::Fail => Failed,
        OnInterrupt::Restart => Accepted,
    }
}

/// The slave's word about a job that it holds.
fn reported(state: State) -> Transition {
    if state.is_slaves_word() { To(state) } else { rejected(NotASlavesState) }
}

//! The job table: the state of a job after an event. Both nodes ask it, and nothing else moves a job from state to state.

use self::Rejection::*;
use self::Transition::{To, Unchanged};
use super::Event::{self, *};
use super::OnInterrupt;
use super::State::{self, *};

/// What follows from an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[must_use]
pub enum Transition {
    To(State),
    /// The job was in that state already.
    Unchanged,
    /// The event has no consequence in that state.
    Rejected(Rejection),
}

/// Why an event has no consequence. [`Rejection::text`] says it for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    NotHeld,
    NotAssigned,
    NotAccepted,
    /// The slave has accepted the job: only its reports count.
    OwnedBySlave,
    Started,
    NotStarted,
    /// The job has ended, and an outcome does not change.
    Ended,
    NotEnded,
    /// Only an uncertain job is resolved by a person.
    NotUncertain,
    /// A slave does not report this state.
    NotASlavesState,
    /// The attempt was given up before it started.
    GivenUp,
    HasSucceeded,
    IsStopping,
    /// A person was asked how the job ended.
    PersonAsked,
}

/// The state of a job after an event; every pair of a state and an event has its answer.
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
            // An earlier attempt of a job that waits for another slave: it counts only if it has begun.
            Reported(Accepted) => rejected(GivenUp),
            Reported(said) => reported(said),
            Retried | Reappeared(_) => rejected(NotEnded),
            Vanished => rejected(NotAssigned),
            Resolved(_) => rejected(NotUncertain),
            Dropped
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
            // The slave has another store: what it did with the offer before is unknown.
            Vanished => To(Uncertain),
            StartRefused => To(Rejected),
            Reported(said) => reported(said),
            AttemptAssigned => Unchanged,
            Retried | Reappeared(_) => rejected(NotEnded),
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
            Reported(said) => reported(said),
            AttemptAssigned | Withdrawn | WindowClosed => rejected(OwnedBySlave),
            Retried | Reappeared(_) => rejected(NotEnded),
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
            // Only with proof: a start that was merely refused is asked about first.
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
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Dropped | Lapsed | StartIntended => {
                rejected(Started)
            }
            Retried | Reappeared(_) => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Running => match event {
            MachineStarted | MachineResumed => Unchanged,
            MachinePaused => To(Paused),
            StartRefused => rejected(Started),
            StartPostponed => To(Accepted),
            StopBegan => To(Stopping),
            StopRefused { .. } => Unchanged,
            // The work had begun, so "it never started" means that the machine has lost its memory: no proof.
            FoundNeverStarted => To(Uncertain),
            FoundAlive { paused } => To(alive(paused)),
            FoundGone(policy) => To(interrupted(policy)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Dropped | Lapsed | StartIntended => {
                rejected(Started)
            }
            Retried | Reappeared(_) => rejected(NotEnded),
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
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Dropped | Lapsed | StartIntended => {
                rejected(Started)
            }
            Retried | Reappeared(_) => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Stopping => match event {
            MachineStarted | MachinePaused | MachineResumed => rejected(IsStopping),
            // Nothing began, or nothing runs any more: the stop has been reached.
            StartRefused | StartPostponed | FoundNeverStarted | FoundGone(_) => To(Canceled),
            StopBegan | FoundAlive { .. } => Unchanged,
            StopRefused { paused } => To(alive(paused)),
            FoundNothing => To(Uncertain),
            Vanished => To(Uncertain),
            Abandoned => To(Lost),
            MachineEnded(end) => To(end.state()),
            Reported(state) => reported(state),
            AttemptAssigned | GivenBack | Withdrawn | WindowClosed | Dropped | Lapsed | StartIntended => {
                rejected(Started)
            }
            Retried | Reappeared(_) => rejected(NotEnded),
            Resolved(_) => rejected(NotUncertain),
        },
        Uncertain => match event {
            Resolved(end) => To(end.state()),
            Abandoned => To(Lost),
            // The machine can say again what it does.
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
            | Dropped
            | Lapsed
            | StartIntended
            | StartRefused
            | StopBegan
            | StopRefused { .. } => rejected(PersonAsked),
            Retried | Reappeared(_) => rejected(NotEnded),
        },
        Lost => match event {
            Retried => To(Queued),
            Abandoned => Unchanged,
            // A late report: what the machine did counts more than a person's giving up.
            Reported(Accepted) => rejected(GivenUp),
            Reported(said) | Reappeared(said) => reported(said),
            AttemptAssigned
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Vanished
            | Resolved(_)
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
            Reappeared(said) if said.is_started() => reported(said),
            Reported(_) | Reappeared(_) => rejected(Ended),
            AttemptAssigned
            | GivenBack
            | Withdrawn
            | WindowClosed
            | Abandoned
            | Vanished
            | Resolved(_)
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

/// The state of work that the machine says is alive.
fn alive(paused: bool) -> State {
    if paused { Paused } else { Running }
}

/// The state of work that was interrupted, and of which the machine does not know how it ended.
fn interrupted(policy: OnInterrupt) -> State {
    match policy {
        OnInterrupt::Hold => Uncertain,
        OnInterrupt::Fail => Failed,
        OnInterrupt::Restart => Accepted,
    }
}

/// A slave reported this state of a job that it holds.
fn reported(state: State) -> Transition {
    if state.is_slaves_word() { To(state) } else { rejected(NotASlavesState) }
}

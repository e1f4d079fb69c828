//! Reconciliation: compares what the master holds of a job with what the slave holds, and gives one verdict.
//!
//! [`judge`] finds the line of [`TABLE`] for four things: [`Mine`] (what the master holds), [`Theirs`] (what the slave holds), [`Store`]
//! (what is known of the slave's store) and [`DesiredKind`] (what the master wants). The verdict says which event of the
//! job table happened and what the slave is told. It is computed when the Welcome is made and applied when the slave has
//! settled (`master/hello.rs`, `master/settle.rs`).
//!
//! A live report is judged by the same table, as if it were a row of a Hello.

pub mod attempts;

use serde::{Deserialize, Serialize};

use self::DesiredKind::*;
use self::Mine::*;
use self::Store::*;
use self::Theirs::*;
use crate::job::State;
use crate::spec::{Desired, Gate, StartRule};
use crate::time::Time;

/// What the master holds of a job, seen from one slave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mine {
    /// The master does not know the job.
    Unknown,
    /// Assigned to this slave, which has not reported it. Also a job that was recalled and of which this slave has said nothing
    /// since, and an attempt that is higher than any that the master knows.
    Assigned,
    /// Accepted by this slave, and not started by its last report.
    Unstarted,
    /// Started by this slave's last report.
    Started,
    /// Uncertain: a person was asked how it ended.
    Uncertain,
    /// Ended, by any way but being given up.
    Ended,
    /// A person gave this attempt up: its state is `Lost`.
    GivenUp,
    /// The slave's attempt does not speak for the job: another attempt, or another slave, does.
    Other,
}

/// What the slave holds of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Theirs {
    /// Neither the job nor its outcome.
    Absent,
    /// Accepted, and not started.
    Waiting,
    /// Started, and neither ended nor uncertain.
    Working,
    /// Uncertain: the slave cannot find out what became of it.
    Doubtful,
    /// Ended: the slave holds the outcome.
    Done,
    /// Not held any more, but its outcome is among the slave's recent outcomes.
    Remembered,
}

/// How far the slave's store can be believed, judged once per handshake from the Hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Store {
    /// The store that last settled, and it went forward since.
    Trusted,
    /// Another store than the one that last settled: the slave was wiped or replaced.
    Replaced,
    /// The store that last settled, put back to an earlier state: its session is not higher than the last one, or one of its
    /// rows has a lower `seq` than a report that the master has.
    RolledBack,
    /// The store that last settled, and the master was restored from a backup since: the slave may have seen more than the
    /// master remembers.
    Ahead,
    /// The slave has seen a later state of this master, and no person has confirmed that the master was restored: the slave obeys
    /// nothing, and the master concludes nothing from what the slave lacks.
    Doubting,
}

impl Mine {
    pub const ALL: [Self; 8] = [
        Self::Unknown,
        Self::Assigned,
        Self::Unstarted,
        Self::Started,
        Self::Uncertain,
        Self::Ended,
        Self::GivenUp,
        Self::Other,
    ];
}

impl Store {
    pub const ALL: [Self; 5] = [Self::Trusted, Self::Replaced, Self::RolledBack, Self::Ahead, Self::Doubting];

    /// Its name in receipts.
    pub fn name(self) -> &'static str {
        match self {
            Trusted => "trusted",
            Replaced => "replaced",
            RolledBack => "rolled_back",
            Ahead => "ahead",
            Doubting => "doubting",
        }
    }
}

/// What the master wants of the job, as far as a verdict depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DesiredKind {
    /// It is to run when its start rule allows, or to be paused.
    Go,
    /// A person released it, and the release still holds.
    Released,
    /// It was to run or to be paused, and its latest start has passed.
    TooLate,
    /// It is to be canceled.
    End,
    /// The slave is to give it back if it has not begun.
    Return,
    /// A person said how it ended.
    Resolve,
}

impl DesiredKind {
    pub const ALL: [Self; 6] =
        [Self::Go, Self::Released, Self::TooLate, Self::End, Self::Return, Self::Resolve];

    /// The kind of a desired state at the time `now`.
    pub fn of(desired: Desired, start: &StartRule, now: Time) -> Self {
        match desired {
            Desired::Cancel(_) => End,
            Desired::Return => Return,
            Desired::Resolve(_) => Resolve,
            Desired::Run | Desired::Pause => {
                if start.deadline.is_some_and(|deadline| deadline < now) {
                    TooLate
                } else if matches!(start.gate, Gate::Released { latest } if latest >= now) {
                    Released
                } else {
                    Go
                }
            }
        }
    }
}

impl Theirs {
    pub const ALL: [Self; 6] =
        [Self::Absent, Self::Waiting, Self::Working, Self::Doubtful, Self::Done, Self::Remembered];

    /// The kind of a state in a slave's row or report.
    pub fn of(state: State) -> Self {
        match state {
            State::Queued | State::Assigned | State::Accepted => Waiting,
            State::Starting | State::Running | State::Paused | State::Stopping => Working,
            State::Uncertain => Doubtful,
            State::Succeeded
            | State::Failed
            | State::Canceled
            | State::Rejected
            | State::Expired
            | State::Lost => Done,
        }
    }
}

/// What follows from a disagreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// Both go on, and the master takes over what the slave reports.
    Keep,
    /// The master offers the job again, under the same attempt.
    Offer,
    /// The master tells the slave the release again, with the latest time of the start.
    Start,
    /// The master tells the slave to end it.
    Cancel,
    /// The master asks for the job back, if it has not begun.
    Recall,
    /// The master takes the job up from the slave.
    Adopt,
    /// The master takes over the outcome, and sends a Forget when that is on its disk.
    Forget,
    /// The slave does not hold the job and need not: the job goes back to the queue, or ends as the master wanted. After a restore, one
    /// that was accepted or started becomes uncertain: the slave may have done it since the backup.
    Release,
    /// The slave's store is not believed: the job becomes uncertain there, and nothing starts until a person has looked.
    Quarantine,
    /// No node can find out: a person is asked how it ended.
    AskPerson,
}

impl Verdict {
    pub const ALL: [Self; 10] = [
        Self::Keep,
        Self::Offer,
        Self::Start,
        Self::Cancel,
        Self::Recall,
        Self::Adopt,
        Self::Forget,
        Self::Release,
        Self::Quarantine,
        Self::AskPerson,
    ];

    /// Its name in receipts and in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Offer => "offer",
            Self::Start => "start",
            Self::Cancel => "cancel",
            Self::Recall => "recall",
            Self::Adopt => "adopt",
            Self::Forget => "forget",
            Self::Release => "release",
            Self::Quarantine => "quarantine",
            Self::AskPerson => "ask_person",
        }
    }
}

/// One line of the table. It applies where all four lists contain what is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Line {
    /// Its name in receipts and in the documentation.
    pub name: &'static str,
    /// The numbered rows of `docs/coverage.md` that it answers.
    pub cases: &'static [&'static str],
    pub mine: &'static [Mine],
    pub theirs: &'static [Theirs],
    pub store: &'static [Store],
    pub desired: &'static [DesiredKind],
    /// What follows from a disagreement.
    pub verdict: Verdict,
}

const LIVE: &[Mine] = &[Assigned, Unstarted, Started, Uncertain];
const BEGUN_OR_WAITING: &[Mine] = &[Unstarted, Started];
const UNANSWERED: &[Mine] = &[Assigned, Unstarted, Started];
const OVER: &[Mine] = &[Ended, GivenUp, Other];
const GIVEN_UP_OR_OTHER: &[Mine] = &[GivenUp, Other];
const ANY_MINE: &[Mine] = &Mine::ALL;
const PRESENT: &[Theirs] = &[Waiting, Working, Doubtful, Done, Remembered];
const ANY_STORE: &[Store] = &Store::ALL;
const BELIEVED: &[Store] = &[Trusted, Replaced, Ahead, Doubting];
const ANY_DESIRED: &[DesiredKind] = &DesiredKind::ALL;

/// The verdicts. Exactly one line applies to every combination; `every_combination_has_exactly_one_line` checks it.
pub const TABLE: &[Line] = &[
    // The slave holds nothing of it.
    line("nothing_to_settle", &[], &[Unknown], &[Absent], ANY_STORE, ANY_DESIRED, Verdict::Keep),
    line("both_are_done", &["A8"], OVER, &[Absent], ANY_STORE, ANY_DESIRED, Verdict::Keep),
    line(
        "the_offer_never_arrived",
        &["A1", "D1", "D7"],
        &[Assigned],
        &[Absent],
        &[Trusted, Ahead],
        &[Go, Released, Resolve],
        Verdict::Offer,
    ),
    line(
        "the_offer_never_arrived_and_is_not_wanted_any_more",
        &["A1", "A12"],
        &[Assigned],
        &[Absent],
        &[Trusted, Ahead],
        &[TooLate, End, Return],
        Verdict::Release,
    ),
    line(
        "a_job_that_it_accepted_is_missing",
        &["A5"],
        BEGUN_OR_WAITING,
        &[Absent],
        &[Trusted],
        ANY_DESIRED,
        Verdict::AskPerson,
    ),
    line(
        "it_was_released_before_the_restore",
        &["D3"],
        BEGUN_OR_WAITING,
        &[Absent],
        &[Ahead],
        ANY_DESIRED,
        Verdict::Release,
    ),
    line(
        "an_old_copy_concludes_nothing",
        &["D4"],
        UNANSWERED,
        &[Absent],
        &[Doubting],
        ANY_DESIRED,
        Verdict::Keep,
    ),
    line("a_person_was_asked", &["A5", "C1"], &[Uncertain], &[Absent], ANY_STORE, ANY_DESIRED, Verdict::Keep),
    line(
        "the_store_is_new",
        &["C1", "C2", "C3"],
        UNANSWERED,
        &[Absent],
        &[Replaced, RolledBack],
        ANY_DESIRED,
        Verdict::AskPerson,
    ),
    // The slave's store went back in time.
    line("the_store_went_back", &["C3"], ANY_MINE, PRESENT, &[RolledBack], ANY_DESIRED, Verdict::Quarantine),
    // Both hold it.
    line(
        "it_waits_at_the_slave",
        &["A2", "B1", "B3", "B6", "B7", "B9"],
        LIVE,
        &[Waiting],
        BELIEVED,
        &[Go, TooLate, Resolve],
        Verdict::Keep,
    ),
    line("its_start_was_released", &["A3", "B5"], LIVE, &[Waiting], BELIEVED, &[Released], Verdict::Start),
    line("it_was_canceled_unstarted", &["A12"], LIVE, &[Waiting], BELIEVED, &[End], Verdict::Cancel),
    line("it_is_recalled", &["A15"], LIVE, &[Waiting], BELIEVED, &[Return], Verdict::Recall),
    line(
        "it_runs",
        &["A4", "A6", "B3", "B4", "E7", "E10"],
        LIVE,
        &[Working],
        BELIEVED,
        &[Go, Released, TooLate, Return, Resolve],
        Verdict::Keep,
    ),
    line("it_was_canceled_and_runs", &["A11", "A13"], LIVE, &[Working], BELIEVED, &[End], Verdict::Cancel),
    line(
        "the_machine_could_not_say",
        &["A6", "A7", "E9"],
        LIVE,
        &[Doubtful],
        BELIEVED,
        &[Go, Released, TooLate, End, Return],
        Verdict::AskPerson,
    ),
    line("a_person_said_how_it_ended", &["A7", "C1"], LIVE, &[Doubtful], BELIEVED, &[Resolve], Verdict::Keep),
    line(
        "it_ended",
        &["A8", "A9", "A10", "A19", "A20"],
        LIVE,
        &[Done],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Forget,
    ),
    line("it_ended_and_was_forgotten", &["D3"], LIVE, &[Remembered], BELIEVED, ANY_DESIRED, Verdict::Forget),
    // The master has ended it.
    line(
        "an_ended_attempt_is_not_alive",
        &["C3"],
        &[Ended],
        &[Waiting, Working, Doubtful],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Quarantine,
    ),
    line(
        "both_know_how_it_ended",
        &["A8", "E1"],
        &[Ended],
        &[Done, Remembered],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Forget,
    ),
    // The slave's attempt was given up or assigned to another slave.
    line(
        "an_older_attempt_waits",
        &["A13", "A14"],
        GIVEN_UP_OR_OTHER,
        &[Waiting],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Cancel,
    ),
    line(
        "an_older_attempt_runs",
        &["A13", "A15", "A16"],
        GIVEN_UP_OR_OTHER,
        &[Working, Doubtful],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Keep,
    ),
    line(
        "an_older_attempt_ended",
        &["A13", "A17", "A18"],
        GIVEN_UP_OR_OTHER,
        &[Done, Remembered],
        BELIEVED,
        ANY_DESIRED,
        Verdict::Forget,
    ),
    // The master has never heard of it.
    line(
        "the_master_does_not_know_it",
        &["D2", "D3", "D6", "C8"],
        &[Unknown],
        PRESENT,
        BELIEVED,
        ANY_DESIRED,
        Verdict::Adopt,
    ),
];

const fn line(
    name: &'static str,
    cases: &'static [&'static str],
    mine: &'static [Mine],
    theirs: &'static [Theirs],
    store: &'static [Store],
    desired: &'static [DesiredKind],
    verdict: Verdict,
) -> Line {
    Line { name, cases, mine, theirs, store, desired, verdict }
}

/// The line that applies.
pub fn judge(mine: Mine, theirs: Theirs, store: Store, desired: DesiredKind) -> &'static Line {
    TABLE
        .iter()
        .find(|line| {
            line.mine.contains(&mine)
                && line.theirs.contains(&theirs)
                && line.store.contains(&store)
                && line.desired.contains(&desired)
        })
        .expect("the table answers every combination: `every_combination_has_exactly_one_line`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_has_exactly_one_line() {
        for mine in Mine::ALL {
            for theirs in Theirs::ALL {
                for store in Store::ALL {
                    for desired in DesiredKind::ALL {
                        let names: Vec<_> = TABLE
                            .iter()
                            .filter(|line| {
                                line.mine.contains(&mine)
                                    && line.theirs.contains(&theirs)
                                    && line.store.contains(&store)
                                    && line.desired.contains(&desired)
                            })
                            .map(|line| line.name)
                            .collect();
                        assert_eq!(names.len(), 1, "{mine:?} {theirs:?} {store:?} {desired:?}: {names:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_destroyed_because_it_was_absent() {
        for line in TABLE.iter().filter(|line| line.mine.contains(&Unknown) || line.theirs.contains(&Absent))
        {
            assert!(
                !matches!(line.verdict, Verdict::Cancel | Verdict::Forget),
                "{}: {:?}",
                line.name,
                line.verdict
            );
        }
    }
}

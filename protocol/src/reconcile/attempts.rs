//! Which attempt speaks for a job.
//!
//! A job gets one attempt after the other. Sometimes two of them matter: a person gave one up and its slave turns out to be
//! alive, or a master that was restored from a backup hears of attempts that it has forgotten. One attempt speaks for the
//! job: its state is the job's state, its report is shown. The others are kept beside the job with the last report of each
//! (`Job::others`).
//!
//! [`weigh`] compares the attempt that speaks with one other by looking up [`TABLE`]. The master asks it whenever one of the
//! two has changed (`master/attempts.rs`). An attempt that a slave only claims, without having been assigned it, is shown to
//! people and never compared.

use self::Other::*;
use self::Speaker::*;
use self::Standing::*;

/// The state of the attempt that speaks for the job, as the comparison needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speaker {
    /// No slave holds the job: it is queued.
    Nobody,
    /// Its slave has reported a newer attempt of the job; a slave holds only one attempt of a job, so this one is gone.
    Replaced,
    /// Assigned or accepted, and never begun.
    Unstarted,
    /// Begun, and not known to have ended; or uncertain by its slave's report.
    Begun,
    /// Uncertain: its slave has neither the job nor its outcome, or a newer attempt was assigned since, so that it had been given up.
    Vanished,
    Succeeded,
    /// Canceled by its slave, and the cancel is still wanted.
    Canceled,
    /// Canceled by the master while no slave held it.
    CalledOff,
    /// Ended in another way: by its slave's report, because its slave declined it, or failed by a person's word.
    Ended,
    /// Ended by the master for another cause: its window closed while no slave held it, or a person gave it up.
    Closed,
}

/// The state of the other attempt, by its slave's last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Other {
    /// Assigned or accepted, and not started.
    Waiting,
    /// Started, and neither ended nor uncertain.
    Working,
    /// Uncertain: its slave cannot find out what became of it.
    Doubtful,
    /// It succeeded.
    Done,
    /// Ended in another way after it had begun.
    Over,
    /// Ended without having begun.
    Unbegun,
}

/// Whether the master remembers that the other attempt was assigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// The master remembers that it assigned it, or has taken its number into account. It may be newer than the one that speaks.
    Known,
    /// Its slave reports it in the first handshake after a restore, or is the one that the job is assigned to, and its number is higher
    /// than any that the master knows: it was assigned and forgotten. No other slave holds the job.
    Forgotten,
    /// Also forgotten by a restore, but when its slave first reported it another slave held the job, or had ended it.
    Contested,
}

/// What follows from the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Nothing changes.
    Keep,
    /// The other attempt speaks for the job from here on.
    Take,
    /// The other attempt's slave is told to drop it if it has not begun.
    Withdraw,
    /// The attempt that speaks is recalled from its slave; when it has been given back, the other one speaks.
    Recall,
    /// Both began: the job gets the flag `duplicate`.
    Duplicate,
    /// The other attempt runs although the job has ended: the job gets the flag `duplicate`, and a person has to stop that run.
    GoesOn,
}

impl Speaker {
    pub const ALL: [Self; 10] = [
        Self::Nobody,
        Self::Replaced,
        Self::Unstarted,
        Self::Begun,
        Self::Vanished,
        Self::Succeeded,
        Self::Canceled,
        Self::CalledOff,
        Self::Ended,
        Self::Closed,
    ];
}

impl Other {
    pub const ALL: [Self; 6] =
        [Self::Waiting, Self::Working, Self::Doubtful, Self::Done, Self::Over, Self::Unbegun];
}

impl Standing {
    pub const ALL: [Self; 3] = [Self::Known, Self::Forgotten, Self::Contested];
}

impl Outcome {
    pub const ALL: [Self; 6] =
        [Self::Keep, Self::Take, Self::Withdraw, Self::Recall, Self::Duplicate, Self::GoesOn];

    /// Its name in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Take => "take",
            Self::Withdraw => "withdraw",
            Self::Recall => "recall",
            Self::Duplicate => "duplicate",
            Self::GoesOn => "goes_on",
        }
    }
}

/// One line of the table. It applies where all three lists contain what is compared.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Its name in the documentation.
    pub name: &'static str,
    /// The numbered rows of `docs/coverage.md` that it answers.
    pub cases: &'static [&'static str],
    pub speaker: &'static [Speaker],
    pub other: &'static [Other],
    pub standing: &'static [Standing],
    pub outcome: Outcome,
}

const ANY_SPEAKER: &[Speaker] = &Speaker::ALL;
/// Speakers whose place a forgotten attempt takes.
const YIELDING: &[Speaker] = &[Nobody, Replaced, Vanished, Canceled, Ended];
/// Speakers that keep their place when a forgotten attempt turns up.
const HELD: &[Speaker] = &[Unstarted, Begun, Succeeded];
/// Speakers that the master itself has ended.
const ENDED_SINCE: &[Speaker] = &[CalledOff, Closed];
const ANY_OTHER: &[Other] = &Other::ALL;
const BEGUN_OR_DONE: &[Other] = &[Working, Doubtful, Done];
const ANY_STANDING: &[Standing] = &Standing::ALL;
const REMEMBERED: &[Standing] = &[Known, Contested];

/// The outcomes. Exactly one line applies to every combination; `every_combination_has_exactly_one_line` checks it.
pub const TABLE: &[Line] = &[
    // The other attempt has not begun.
    line("another_attempt_waits", &["A14"], ANY_SPEAKER, &[Waiting], REMEMBERED, Outcome::Withdraw),
    line("it_has_been_ended_since", &["D3"], ENDED_SINCE, &[Waiting], &[Forgotten], Outcome::Withdraw),
    line("a_forgotten_attempt_is_not_needed", &["D3"], HELD, &[Waiting], &[Forgotten], Outcome::Withdraw),
    // The master has forgotten the other attempt, and no other slave has the job.
    line("a_forgotten_attempt_speaks", &["D3"], YIELDING, ANY_OTHER, &[Forgotten], Outcome::Take),
    line(
        "a_forgotten_attempt_came_to_something",
        &["D3"],
        ENDED_SINCE,
        &[Working, Doubtful, Done, Over, Unbegun],
        &[Forgotten],
        Outcome::Take,
    ),
    // No slave has the job, or none whose word counts more.
    line(
        "nobody_else_has_it",
        &["A13", "A15"],
        &[Nobody, Replaced],
        BEGUN_OR_DONE,
        REMEMBERED,
        Outcome::Take,
    ),
    line(
        "a_cancel_means_all_attempts",
        &["A11"],
        &[Canceled, CalledOff],
        BEGUN_OR_DONE,
        REMEMBERED,
        Outcome::Take,
    ),
    line("another_attempt_succeeded", &["A17", "A18"], &[Ended, Closed], &[Done], &[Known], Outcome::Take),
    line(
        "it_vanished_and_another_slave_had_it_later",
        &["D3"],
        &[Vanished],
        &[Working, Doubtful, Done, Over],
        &[Contested],
        Outcome::Take,
    ),
    // A slave has the job.
    line("the_newer_has_not_begun", &["A15"], &[Unstarted], BEGUN_OR_DONE, &[Known], Outcome::Recall),
    line(
        "two_were_under_way",
        &["A16", "A17"],
        &[Begun, Vanished],
        BEGUN_OR_DONE,
        &[Known],
        Outcome::Duplicate,
    ),
    line(
        "another_slave_has_it",
        &["D3"],
        &[Unstarted, Begun],
        &[Working, Doubtful, Done, Over],
        &[Forgotten, Contested],
        Outcome::Duplicate,
    ),
    line(
        "another_slave_had_it_to_its_end",
        &["D3"],
        &[Ended, Closed],
        &[Done],
        &[Contested],
        Outcome::Duplicate,
    ),
    // The job has ended.
    line("it_was_done_twice", &["A18"], &[Succeeded], &[Done], ANY_STANDING, Outcome::Duplicate),
    line("it_goes_on_though_done", &["A16"], &[Succeeded], &[Working], ANY_STANDING, Outcome::GoesOn),
    line("it_goes_on_though_ended", &["A16"], &[Ended, Closed], &[Working], REMEMBERED, Outcome::GoesOn),
    line(
        "nobody_knows_of_it_and_it_is_done",
        &["A16"],
        &[Succeeded],
        &[Doubtful],
        ANY_STANDING,
        Outcome::Keep,
    ),
    line(
        "nobody_knows_of_it_and_it_has_ended",
        &["A16"],
        &[Ended, Closed],
        &[Doubtful],
        REMEMBERED,
        Outcome::Keep,
    ),
    // Nothing follows from what is over.
    line("an_earlier_attempt_is_over", &["A13"], ANY_SPEAKER, &[Over, Unbegun], &[Known], Outcome::Keep),
    line(
        "a_contested_attempt_is_over",
        &["D3"],
        &[Nobody, Replaced, Succeeded, Canceled, CalledOff, Ended, Closed],
        &[Over],
        &[Contested],
        Outcome::Keep,
    ),
    line("a_contested_attempt_never_began", &["D3"], ANY_SPEAKER, &[Unbegun], &[Contested], Outcome::Keep),
    line(
        "a_forgotten_attempt_of_a_done_job_is_over",
        &["D3"],
        &[Succeeded],
        &[Over],
        &[Forgotten],
        Outcome::Keep,
    ),
    line("a_forgotten_attempt_never_began", &["D3"], HELD, &[Unbegun], &[Forgotten], Outcome::Keep),
];

const fn line(
    name: &'static str,
    cases: &'static [&'static str],
    speaker: &'static [Speaker],
    other: &'static [Other],
    standing: &'static [Standing],
    outcome: Outcome,
) -> Line {
    Line { name, cases, speaker, other, standing, outcome }
}

/// The line that applies to two attempts of a job.
pub fn weigh(speaker: Speaker, other: Other, standing: Standing) -> &'static Line {
    TABLE
        .iter()
        .find(|line| {
            line.speaker.contains(&speaker)
                && line.other.contains(&other)
                && line.standing.contains(&standing)
        })
        .expect("the table answers every combination: `every_combination_has_exactly_one_line`")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_combination_has_exactly_one_line() {
        for speaker in Speaker::ALL {
            for other in Other::ALL {
                for standing in Standing::ALL {
                    let fits = |line: &&Line| {
                        line.speaker.contains(&speaker)
                            && line.other.contains(&other)
                            && line.standing.contains(&standing)
                    };
                    let names: Vec<_> = TABLE.iter().filter(fits).map(|line| line.name).collect();
                    assert_eq!(names.len(), 1, "{speaker:?} {other:?} {standing:?}: {names:?}");
                }
            }
        }
    }

    #[test]
    fn every_outcome_has_a_word_of_its_own() {
        let words: BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.name()).collect();
        assert_eq!(words.len(), Outcome::ALL.len());
    }

    #[test]
    fn a_success_is_never_taken_back() {
        let of_done = TABLE.iter().filter(|line| line.speaker.contains(&Succeeded));
        assert!(of_done.clone().count() > 0);
        for line in of_done {
            assert!(!matches!(line.outcome, Outcome::Take | Outcome::Recall), "{}", line.name);
        }
    }
}

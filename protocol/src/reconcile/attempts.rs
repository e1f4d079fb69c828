//! Which attempt speaks for a job.
//!
//! A job has one attempt after the other, and at times more than one that came to something: a person gave one up whose
//! slave turns out to be alive, or a master that was restored from a backup hears of attempts that it has forgotten. Each
//! attempt moves by [the job table](crate::job::next) alone. One of them speaks for the job: its state is the job's state.
//!
//! [`weigh`] compares the attempt that speaks with one other, and is a pure look-up in [`TABLE`]. It is asked whenever one
//! of the two has changed. What only a slave claims, without having been assigned it, is not compared at all.

use self::Other::*;
use self::Speaker::*;
use self::Standing::*;

/// What the attempt that speaks for the job has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Speaker {
    /// No slave has the job: it waits in the queue.
    Nobody,
    /// Its slave has told of a newer attempt of the job, and a slave has only one.
    Replaced,
    /// Assigned or accepted, and not begun.
    Unstarted,
    /// Begun, and not ended as far as is known.
    Begun,
    /// Its slave no longer has it, and a person was asked what became of it.
    Vanished,
    /// Ended well.
    Succeeded,
    /// Ended by its slave because of a cancel that still stands.
    Canceled,
    /// Canceled by the master alone: no slave had it, or it was given back.
    CalledOff,
    /// Ended by its slave in any other way.
    Ended,
    /// Ended by the master alone: its window closed, or a person gave it up.
    Closed,
}

/// What the other attempt has come to, by its slave's last word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Other {
    /// Accepted, and not begun.
    Waiting,
    /// Under way.
    Working,
    /// Its slave can't say what became of it.
    Doubtful,
    /// Ended well.
    Done,
    /// Ended in any other way, after it had begun.
    Over,
    /// Ended without having begun.
    Unbegun,
}

/// How the other attempt stands to the one that speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Standing {
    /// This master remembers that it was assigned before the one that speaks.
    Earlier,
    /// It was assigned later, by a master that was restored since and has forgotten it. Its slave tells of it for the first
    /// time, and no other slave has the job.
    Forgotten,
    /// The same, but when its slave first told of it another slave had the job, or had had it to its end.
    Contested,
}

/// What comes of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Nothing follows from the other attempt.
    Keep,
    /// The other attempt speaks for the job from here on.
    Take,
    /// The other attempt's slave is told to let it go if it has not begun.
    Withdraw,
    /// The attempt that speaks is asked back: when it is given back, the other one speaks.
    Recall,
    /// Both were under way: the job is flagged as a duplicate.
    Duplicate,
    /// The other attempt goes on although the job has ended: the job is flagged, and a person has to stop it.
    GoesOn,
}

impl Outcome {
    /// The word that people see.
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

/// One line of the table: where all three match, its outcome holds.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// Its name in the documentation.
    pub name: &'static str,
    /// The published disagreements that it answers.
    pub cases: &'static [&'static str],
    /// The attempt that speaks.
    pub speaker: &'static [Speaker],
    /// The other attempt.
    pub other: &'static [Other],
    /// How the other attempt stands to the one that speaks.
    pub standing: &'static [Standing],
    /// What comes of it.
    pub outcome: Outcome,
}

const ANY_SPEAKER: &[Speaker] =
    &[Nobody, Replaced, Unstarted, Begun, Vanished, Succeeded, Canceled, CalledOff, Ended, Closed];
/// Speakers that another attempt of which the master has forgotten everything takes the place of.
const YIELDING: &[Speaker] = &[Nobody, Replaced, Vanished, Canceled, Ended];
/// Speakers that the master has ended since, by all that it knows.
const ENDED_SINCE: &[Speaker] = &[CalledOff, Closed];
const ANY_OTHER: &[Other] = &[Waiting, Working, Doubtful, Done, Over, Unbegun];
const BEGUN_OR_DONE: &[Other] = &[Working, Doubtful, Done];
const ANY_STANDING: &[Standing] = &[Earlier, Forgotten, Contested];
const REMEMBERED: &[Standing] = &[Earlier, Contested];

/// What comes of two attempts. Every combination is answered by exactly one line; a test proves it.
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
    line("another_attempt_succeeded", &["A17", "A18"], &[Ended, Closed], &[Done], &[Earlier], Outcome::Take),
    line(
        "it_vanished_and_another_slave_had_it_later",
        &["D3"],
        &[Vanished],
        &[Working, Doubtful, Done, Over],
        &[Contested],
        Outcome::Take,
    ),
    // A slave has the job.
    line("the_newer_has_not_begun", &["A15"], &[Unstarted], BEGUN_OR_DONE, &[Earlier], Outcome::Recall),
    line(
        "two_were_under_way",
        &["A16", "A17"],
        &[Begun, Vanished],
        BEGUN_OR_DONE,
        &[Earlier],
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
    line("an_earlier_attempt_is_over", &["A13"], ANY_SPEAKER, &[Over, Unbegun], &[Earlier], Outcome::Keep),
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

/// Speakers that keep their place whatever was forgotten.
const HELD: &[Speaker] = &[Unstarted, Begun, Succeeded];

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

/// The line that answers for two attempts of a job.
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

    #[test]
    fn every_combination_has_exactly_one_line() {
        for &speaker in ANY_SPEAKER {
            for &other in ANY_OTHER {
                for &standing in ANY_STANDING {
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
    fn a_success_is_never_taken_back() {
        let of_done = TABLE.iter().filter(|line| line.speaker.contains(&Succeeded));
        assert!(of_done.clone().count() > 0);
        for line in of_done {
            assert!(!matches!(line.outcome, Outcome::Take | Outcome::Recall), "{}", line.name);
        }
    }
}

//! The part of `docs/reconciliation.md` on which attempt speaks for a job.

use reloop_protocol::reconcile::attempts::{self, Other, Outcome, Speaker, Standing};

use super::Page;
use super::reconciliation::{either, words};

pub(super) fn attempts_table(page: &mut Page) {
    page.text(
        "## Which attempt speaks\n\nA job may have more than one attempt that came to something: a person gave one up whose slave \
         turns out to be alive, or a master that was restored hears of attempts that it has forgotten. Each attempt moves by the \
         job table alone, and one of them speaks for the job: its state is the job's state. The master compares the attempt \
         that speaks with another one whenever one of the two has changed, by the table below. What a slave only claims, \
         without having been assigned it, is shown to people and never compared.\n\n\
         **speaks** — what the attempt that speaks has come to:",
    );
    page.table(
        &["word", "meaning"],
        Speaker::ALL.map(|one| vec![words(&one), speaker_means(one).to_owned()]),
    );
    page.text("**other** — what the other attempt has come to:");
    page.table(&["word", "meaning"], Other::ALL.map(|one| vec![words(&one), other_means(one).to_owned()]));
    page.text("**standing** — how the other attempt stands to the one that speaks:");
    page.table(
        &["word", "meaning"],
        Standing::ALL.map(|one| vec![words(&one), standing_means(one).to_owned()]),
    );
    page.text("**outcome** — what comes of it:");
    page.table(
        &["word", "meaning"],
        Outcome::ALL.map(|one| vec![format!("`{}`", one.name()), outcome_means(one).to_owned()]),
    );
    page.text("A line holds where all three columns match.");
    page.table(
        &["line", "cases", "speaks", "other", "standing", "outcome"],
        attempts::TABLE.iter().map(|line| {
            vec![
                format!("`{}`", line.name),
                line.cases.join(" "),
                either(line.speaker, &Speaker::ALL),
                either(line.other, &Other::ALL),
                either(line.standing, &Standing::ALL),
                format!("**{}**", line.outcome.name()),
            ]
        }),
    );
}

fn speaker_means(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::Nobody => "no slave has the job: it waits in the queue",
        Speaker::Replaced => "its slave has told of a newer attempt, and a slave has only one of a job",
        Speaker::Unstarted => "assigned or accepted, and not begun",
        Speaker::Begun => "begun, and not ended as far as is known",
        Speaker::Vanished => "its slave no longer has it, and a person was asked what became of it",
        Speaker::Succeeded => "ended well",
        Speaker::Canceled => "ended by its slave because of a cancel that still stands",
        Speaker::CalledOff => "canceled by the master alone: no slave had it, or it was given back",
        Speaker::Ended => "ended by its slave in any other way",
        Speaker::Closed => "ended by the master alone: its window closed, or a person gave it up",
    }
}

fn other_means(other: Other) -> &'static str {
    match other {
        Other::Waiting => "accepted, and not begun",
        Other::Working => "under way",
        Other::Doubtful => "its slave can't say what became of it",
        Other::Done => "ended well",
        Other::Over => "ended in any other way, after it had begun",
        Other::Unbegun => "ended without having begun",
    }
}

fn standing_means(standing: Standing) -> &'static str {
    match standing {
        Standing::Earlier => "this master remembers that it was assigned before the one that speaks",
        Standing::Forgotten => {
            "it was assigned later, by a master that was restored since and has forgotten it; its slave tells of it for the first \
             time, and no other slave has the job"
        }
        Standing::Contested => {
            "the same, but when its slave first told of it another slave had the job, or had had it to its end"
        }
    }
}

fn outcome_means(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Keep => "nothing follows from the other attempt",
        Outcome::Take => "the other attempt speaks for the job from here on",
        Outcome::Withdraw => "the other attempt's slave is told to let it go if it has not begun",
        Outcome::Recall => {
            "the attempt that speaks is asked back; once it is given back, the other one speaks"
        }
        Outcome::Duplicate => "both were under way: the job is flagged `duplicate`, and a person decides",
        Outcome::GoesOn => {
            "the other attempt goes on although the job has ended: the job is flagged `duplicate`, and a person has to stop it"
        }
    }
}

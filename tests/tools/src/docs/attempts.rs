//! The section of `docs/reconciliation.md` on which attempt speaks for a job.

use reloop_protocol::reconcile::attempts::{self, Other, Outcome, Speaker, Standing};

use super::Page;
use super::reconciliation::{either, words};

pub(super) fn attempts_table(page: &mut Page) {
    page.text(
        "## Which attempt speaks\n\nA job can have more than one attempt that ran: a person abandoned one \
         whose slave comes back, or a restored master learns of attempts that it has forgotten. Each attempt \
         changes by the job table alone. One of them speaks for the job: its state is the job's state. \
         Whenever an attempt changes, the master compares the attempt that speaks with the other one by the \
         table below. A report of a slave that was never assigned the attempt is shown to people and not \
         compared.\n\n\
         **speaks** — the attempt that speaks:",
    );
    page.table(
        &["word", "meaning"],
        Speaker::ALL.map(|one| vec![words(&one), speaker_means(one).to_owned()]),
    );
    page.text("**other** — the other attempt:");
    page.table(&["word", "meaning"], Other::ALL.map(|one| vec![words(&one), other_means(one).to_owned()]));
    page.text("**standing** — the relation of the other attempt to the one that speaks:");
    page.table(
        &["word", "meaning"],
        Standing::ALL.map(|one| vec![words(&one), standing_means(one).to_owned()]),
    );
    page.text("**outcome** — what follows:");
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
        Speaker::Replaced => {
            "its slave has reported a newer attempt, and a slave has only one attempt of a job"
        }
        Speaker::Unstarted => "assigned or accepted, and not begun",
        Speaker::Begun => "begun, and not ended as far as the master knows",
        Speaker::Vanished => "its slave no longer has it, and a person was asked how it ended",
        Speaker::Succeeded => "succeeded",
        Speaker::Canceled => "ended by its slave because of a cancel that is still desired",
        Speaker::CalledOff => "canceled by the master alone: no slave had it, or it was given back",
        Speaker::Ended => "ended by its slave in any other way",
        Speaker::Closed => "ended by the master alone: its window closed, or a person abandoned it",
    }
}

fn other_means(other: Other) -> &'static str {
    match other {
        Other::Waiting => "accepted, and not begun",
        Other::Working => "under way",
        Other::Doubtful => "its slave does not know how it ended",
        Other::Done => "succeeded",
        Other::Over => "ended in any other way, after it had begun",
        Other::Unbegun => "ended without having begun",
    }
}

fn standing_means(standing: Standing) -> &'static str {
    match standing {
        Standing::Known => "by this master's record it was assigned, or its number counts as given out",
        Standing::Forgotten => {
            "it was assigned later, and the master was restored since and has forgotten it; its slave \
             reports it for the first time, and no other slave has the job"
        }
        Standing::Contested => {
            "the same, but when its slave first reported it, another slave had the job, or had ended it"
        }
    }
}

fn outcome_means(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Keep => "nothing follows from the other attempt",
        Outcome::Take => "the other attempt speaks for the job from here on",
        Outcome::Withdraw => "the other attempt's slave is told to drop it if it has not begun",
        Outcome::Recall => "the attempt that speaks is recalled; once it is given back, the other one speaks",
        Outcome::Duplicate => "both were under way: the job is flagged `duplicate`, and a person decides",
        Outcome::GoesOn => {
            "the other attempt goes on although the job has ended: the job is flagged `duplicate`, and a \
             person has to stop it"
        }
    }
}

//! `docs/reconciliation.md`: the verdict table, the attempts' table and the job table.

use reloop_protocol::job::{End, Event, OnInterrupt, Rejection, State, Transition, next};
use reloop_protocol::reconcile::{DesiredKind, Line, Mine, Store, TABLE, Theirs, Verdict};

use super::Page;
use super::attempts::attempts_table;
use super::meanings::job;
use crate::rows;

const ENDS: [End; 3] = [End::Succeeded, End::Failed, End::Stopped];

pub fn reconciliation() -> String {
    let mut page = Page::new("Reconciliation", "`protocol/src/reconcile.rs` and `protocol/src/job/table.rs`");
    page.text(
        "Whenever a slave connects, the master compares two views: its own record of each job at that slave, \
         and the jobs that the slave reports. For each job in either view it looks up **one verdict** in the \
         table below. There is exactly one line for every combination; a test proves it. The same table \
         judges a report on a live link: a report does for one job what a handshake does for all.\n\n\
         A verdict decides only *which event happened*. How the job changes is decided by the second table, \
         the job table, which both nodes use for live messages, reconciliation, and recovery after a \
         crash.\n\n\
         All lines follow two rules. *Absence destroys nothing*: a job that one side does not know is not \
         canceled or forgotten for that reason; it is offered, adopted, or a person is asked. *The slave \
         says what happened, the master what is desired.*\n\n\
         Each handshake leaves a receipt with the line that decided for each job, and with both views of it: \
         `GET /v1/slaves/{name}/receipts`.",
    );
    page.text("## The words\n\n**master** — the master's record of the job at this slave:");
    page.table(&["word", "meaning"], Mine::ALL.map(|mine| vec![words(&mine), mine_means(mine).to_owned()]));
    page.text("**slave** — what the slave has of the job:");
    page.table(
        &["word", "meaning"],
        Theirs::ALL.map(|theirs| vec![words(&theirs), theirs_means(theirs).to_owned()]),
    );
    page.text("**store** — what is known of the slave's store:");
    page.table(
        &["word", "meaning"],
        Store::ALL.map(|store| vec![words(&store), store_means(store).to_owned()]),
    );
    page.text("**desired** — the master's desired state, as far as a verdict depends on it:");
    page.table(
        &["word", "meaning"],
        DesiredKind::ALL.map(|desired| vec![words(&desired), desired_state_means(desired).to_owned()]),
    );
    page.text("**verdict** — what follows:");
    page.table(
        &["word", "meaning"],
        Verdict::ALL.map(|verdict| vec![format!("`{}`", verdict.name()), verdict_means(verdict).to_owned()]),
    );
    page.text("## The table\n\nA line holds where all four columns match; \"any\" matches everything.");
    page.table(
        &["line", "cases", "master", "slave", "store", "desired", "verdict"],
        TABLE.iter().map(|line| {
            vec![
                format!("`{}`", line.name),
                line.cases.join(" "),
                either(line.mine, &Mine::ALL),
                either(line.theirs, &Theirs::ALL),
                either(line.store, &Store::ALL),
                either(line.desired, &DesiredKind::ALL),
                format!("**{}**", line.verdict.name()),
            ]
        }),
    );
    page.text(
        "## The cases\n\nThe disagreements that these lines decide, each with its outcome. \
         [coverage.md](coverage.md) lists all disagreements, the other rules that decide them, and the tests \
         that show them.",
    );
    let mut cases: Vec<&str> = TABLE.iter().flat_map(|line| line.cases).copied().collect();
    cases.sort_by_key(|case| (case.as_bytes()[0], case[1..].parse::<u8>().unwrap_or(0)));
    cases.dedup();
    page.table(
        &["case", "what both nodes have, and the outcome", "lines"],
        cases.into_iter().map(|case| {
            let lines: Vec<_> =
                TABLE.iter().filter(|line| line.cases.contains(&case)).map(line_name).collect();
            let means =
                rows::row(case).map_or_else(String::new, |row| format!("{} → {}", row.case, row.outcome));
            vec![case.to_owned(), means, lines.join(" ")]
        }),
    );
    attempts_table(&mut page);
    job_table(&mut page);
    page.0
}

fn line_name(line: &Line) -> String {
    format!("`{}`", line.name)
}

pub(super) fn either<T: std::fmt::Debug + PartialEq>(some: &[T], all: &[T]) -> String {
    if all.iter().all(|one| some.contains(one)) {
        return "any".to_owned();
    }
    some.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn mine_means(mine: Mine) -> &'static str {
    match mine {
        Mine::Unknown => "the master does not know the job",
        Mine::Assigned => "assigned to this slave, which has not confirmed",
        Mine::Unstarted => "on this slave's disk, and not started at its last report",
        Mine::Started => "under way at its last report",
        Mine::Uncertain => "uncertain: a person has been asked how it ended",
        Mine::Ended => "it has ended",
        Mine::GivenUp => "a person abandoned this attempt",
        Mine::Other => "another attempt speaks for the job, or another slave has it",
    }
}

fn theirs_means(theirs: Theirs) -> &'static str {
    match theirs {
        Theirs::Absent => "neither the job nor its outcome",
        Theirs::Waiting => "on its disk, and not started",
        Theirs::Working => "under way: starting, running, paused or stopping",
        Theirs::Doubtful => "it does not know what its machine did",
        Theirs::Done => "its outcome",
        Theirs::Remembered => "its outcome, which it was told to forget, among its recent outcomes",
    }
}

fn store_means(store: Store) -> &'static str {
    match store {
        Store::Trusted => "the store that the master knows, and the session number increased",
        Store::Replaced => "another store than the master knows: the slave knows nothing from before",
        Store::RolledBack => {
            "the store that the master knows, but its session is not higher than before, or it knows less than it has told: an old copy"
        }
        Store::Ahead => {
            "the store that the master knows, and the master was restored since their last handshake"
        }
        Store::Doubting => {
            "the slave has seen a later state of this master, and nobody has confirmed a restore: it obeys \
             nothing"
        }
    }
}

fn desired_state_means(desired: DesiredKind) -> &'static str {
    match desired {
        DesiredKind::Go => "run it when its start rule allows, or keep it paused",
        DesiredKind::Released => "a person released it: it may start now",
        DesiredKind::TooLate => "it was to run, but its latest start has passed",
        DesiredKind::End => "it is to be canceled",
        DesiredKind::Return => "it is recalled: it is to be given back if it has not started",
        DesiredKind::Resolve => "a person has resolved it",
    }
}

fn verdict_means(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Keep => {
            "both go on; the master takes over the slave's report, and the slave gets a newer desired state \
             if there is one; what a person said of how it ended only after the Settled, if that tells of the same \
             run"
        }
        Verdict::Offer => "the slave is offered the job again, under the same attempt",
        Verdict::Start => "the slave is sent the release again, with its latest start time",
        Verdict::Cancel => "the slave is told to cancel it",
        Verdict::Recall => "the slave is told to give it back if it has not started",
        Verdict::Adopt => "the master adopts the job from the slave, with its work, state and times",
        Verdict::Forget => {
            "the master records the outcome; when that is on its disk, the slave forgets the job"
        }
        Verdict::Release => {
            "the slave does not have it and had not confirmed it, or gave it back: it is queued again, or \
             ends as desired. If the slave may have done it after the backup from which the master was \
             restored, it is `uncertain`, unless another slave reports it"
        }
        Verdict::Quarantine => {
            "the slave's store is not trusted: nothing starts from it until a person has looked"
        }
        Verdict::AskPerson => "neither node can know: the job is `uncertain` until a person resolves it",
    }
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::AttemptAssigned,
        Event::GivenBack,
        Event::Withdrawn,
        Event::WindowClosed,
        Event::Abandoned,
        Event::Retried,
        Event::Vanished,
    ];
    events.extend(State::ALL.map(Event::Reported));
    events.extend(State::ALL.into_iter().filter(|state| state.is_started()).map(Event::Reappeared));
    events.extend(ENDS.map(Event::Resolved));
    events.extend([
        Event::Dropped,
        Event::Lapsed,
        Event::StartIntended,
        Event::StartRefused,
        Event::MachineStarted,
        Event::MachinePaused,
        Event::MachineResumed,
        Event::StopBegan,
        Event::StopRefused { paused: false },
        Event::StopRefused { paused: true },
    ]);
    events.extend(ENDS.map(Event::MachineEnded));
    events.extend([
        Event::FoundNeverStarted,
        Event::FoundAlive { paused: false },
        Event::FoundAlive { paused: true },
    ]);
    events.extend([OnInterrupt::Hold, OnInterrupt::Fail, OnInterrupt::Restart].map(Event::FoundGone));
    events.push(Event::FoundNothing);
    events.push(Event::StartPostponed);
    events
}

fn event_means(event: Event) -> String {
    let plain = match event {
        Event::AttemptAssigned => "the master assigns it to a slave, under a new attempt",
        Event::GivenBack => "the slave does not have it and will not accept it",
        Event::Withdrawn => "it is canceled while no slave has it",
        Event::WindowClosed => "its latest start passes while no slave has it",
        Event::Abandoned => "a person abandons this attempt",
        Event::Retried => "a person or the order's policy retries it",
        Event::Vanished => "the slave had accepted it, and has neither job nor outcome",
        Event::Reported(state) => return format!("the slave reports `{}`", state.name()),
        Event::Reappeared(state) => {
            return format!("after an end, the slave reports `{}` again", state.name());
        }
        Event::Resolved(end) => return format!("a person resolves it: it {}", ended(end)),
        Event::Dropped => "it is canceled or recalled before it started",
        Event::Lapsed => "its window closes at the slave before it started",
        Event::StartIntended => "the intent to start is on the slave's disk",
        Event::StartRefused => "the program or a parameter is not allowed here",
        Event::MachineStarted => "the machine has begun it",
        Event::MachinePaused => "the machine has paused it",
        Event::MachineResumed => "the machine has resumed it",
        Event::StopBegan => "the intent to stop is on the slave's disk",
        Event::StopRefused { paused: false } => "the machine refuses to stop it",
        Event::StopRefused { paused: true } => "the machine refuses to stop it, and it is paused",
        Event::MachineEnded(end) => return format!("the machine's work {}", ended(end)),
        Event::FoundNeverStarted => "asked after a crash, the machine proves that it never began",
        Event::FoundAlive { paused: false } => "asked after a crash, the machine is running it",
        Event::FoundAlive { paused: true } => "asked after a crash, the machine has it paused",
        Event::FoundGone(OnInterrupt::Hold) => "it began and is not running any more; the order says `hold`",
        Event::FoundGone(OnInterrupt::Fail) => "it began and is not running any more; the order says `fail`",
        Event::FoundGone(OnInterrupt::Restart) => {
            "it began and is not running any more; the order says `restart`"
        }
        Event::FoundNothing => "asked after a crash, the machine does not know",
        Event::StartPostponed => {
            "the machine cannot begin, for a cause of its own, with proof that nothing began"
        }
    };
    plain.to_owned()
}

fn ended(end: End) -> &'static str {
    match end {
        End::Succeeded => "succeeded",
        End::Failed => "failed",
        End::Stopped => "was stopped",
    }
}

fn job_table(page: &mut Page) {
    page.text(
        "## The job table\n\nThe table has the next state for each state and event. Nothing else changes a \
         job's state, on either node. Each state lists the events that change it, then the events that are \
         refused, with the reason. An event that is not listed leaves the state as it is.",
    );
    for state in State::ALL {
        page.text(&format!("### `{}`\n\n{}", state.name(), job(state).means));
        let turns: Vec<_> = events().into_iter().map(|event| (event, next(state, event))).collect();
        let mut moves = Vec::new();
        let mut refusals: Vec<(Rejection, Vec<String>)> = Vec::new();
        for (event, turn) in turns {
            match turn {
                Transition::To(next) => moves.push(vec![event_means(event), format!("`{}`", next.name())]),
                Transition::Unchanged => {}
                Transition::Rejected(why) => match refusals.iter_mut().find(|(known, _)| *known == why) {
                    Some((_, events)) => events.push(event_means(event)),
                    None => refusals.push((why, vec![event_means(event)])),
                },
            }
        }
        if moves.is_empty() {
            page.text("No event changes it.");
        } else {
            page.table(&["event", "next state"], moves);
        }
        if !refusals.is_empty() {
            let list: Vec<_> = refusals
                .into_iter()
                .map(|(why, events)| format!("* *{}*: {}", why.text(), events.join("; ")))
                .collect();
            page.text(&format!("Refused:\n\n{}", list.join("\n")));
        }
    }
}

pub(super) fn words<T: std::fmt::Debug>(value: &T) -> String {
    let mut text = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn every_event_of_the_job_table_is_raised_by_a_rule() {
        let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/src");
        let files = ["master", "slave"].map(|node| std::fs::read_dir(rules.join(node)).unwrap());
        let files = files.into_iter().flatten().map(|file| file.unwrap().path());
        let rules: String = files.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        for event in events() {
            let name = format!("{event:?}");
            let name = name.split(|letter: char| !letter.is_alphanumeric()).next().unwrap();
            assert!(rules.contains(&format!("job::Event::{name}")), "nothing raises {name}");
        }
    }
}

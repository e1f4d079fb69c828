//! The documentation that is printed from the code: `docs/reconciliation.md` and `docs/states.md`. (`docs/coverage.md`
//! is [`crate::coverage`]'s.)
//!
//! A table that is written twice is wrong once. What the rules decide is printed from the rules; what people have to
//! be told beside it stands here, in matches without a `_` arm, so that a new value does not compile without its row.

use reloop_protocol::job::{End, Event, OnInterrupt, Rejection, State, Transition, next};
use reloop_protocol::master::{Delivery, Need, WhyNot};
use reloop_protocol::message::{Activity, Attention, CloseCode, Flags, Mode, ReasonCode, Source, WaitingFor};
use reloop_protocol::reconcile::attempts::{self, Other, Outcome, Speaker, Standing};
use reloop_protocol::reconcile::{DesiredKind, Line, Mine, Store, TABLE, Theirs, Verdict};
use reloop_protocol::slave::redial::{self, Redial};
use reloop_protocol::wire::{self, WireError};

use crate::rows;

const MINE: [Mine; 8] = [
    Mine::Unknown,
    Mine::Assigned,
    Mine::Unstarted,
    Mine::Started,
    Mine::Uncertain,
    Mine::Ended,
    Mine::GivenUp,
    Mine::Older,
];
const THEIRS: [Theirs; 6] =
    [Theirs::Absent, Theirs::Waiting, Theirs::Working, Theirs::Doubtful, Theirs::Done, Theirs::Remembered];
const STORE: [Store; 5] = [Store::Trusted, Store::Replaced, Store::RolledBack, Store::Ahead, Store::Doubting];
const DESIRED: [DesiredKind; 6] = [
    DesiredKind::Go,
    DesiredKind::Released,
    DesiredKind::TooLate,
    DesiredKind::End,
    DesiredKind::HandBack,
    DesiredKind::Resolve,
];
const ENDS: [End; 3] = [End::Succeeded, End::Failed, End::Stopped];

/// What a slave's link can be, as the master sees it, with what MTConnect, Nomad and AWS IoT call it.
pub const LINKS: [(&str, &str, [&str; 3]); 3] = [
    ("online", "a handshake is settled and the peer is heard", ["AVAILABLE", "ready", "connected"]),
    (
        "offline",
        "no link now; what is shown is the last word, with its age",
        ["UNAVAILABLE", "disconnected", "disconnected"],
    ),
    ("never", "known by name and key, and never settled", ["UNAVAILABLE", "initializing", "—"]),
];

/// Every value of a plain enum, in wire order.
pub fn all<T>(decode: fn(&[u8], usize) -> Result<T, WireError>) -> Vec<T> {
    (0..=u8::MAX).map_while(|number| decode(&[number], 1).ok()).collect()
}

fn words<T: std::fmt::Debug>(value: &T) -> String {
    let mut text = String::new();
    for letter in format!("{value:?}").chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// A page that is being printed.
pub(crate) struct Page(pub(crate) String);

impl Page {
    /// With its title, and what it is printed from.
    pub(crate) fn new(title: &str, source: &str) -> Self {
        Self(format!(
            "# {title}\n\n<!-- Printed from {source} by `UPDATE_DOCS=1 cargo test -p reloop-tools --test docs`. -->\n"
        ))
    }

    /// A paragraph, a heading or a list.
    pub(crate) fn text(&mut self, text: &str) {
        self.0.push_str(&format!("\n{}\n", text.trim()));
    }

    /// A table.
    pub(crate) fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<String>>) {
        self.0.push_str(&format!("\n| {} |\n|{}\n", heads.join(" | "), "---|".repeat(heads.len())));
        for row in rows {
            self.0.push_str(&format!("| {} |\n", row.join(" | ")));
        }
    }
}

/// `docs/reconciliation.md`.
pub fn reconciliation() -> String {
    let mut page = Page::new("Reconciliation", "`protocol/src/reconcile.rs` and `protocol/src/job/table.rs`");
    page.text(
        "Whenever a slave connects, the master lays two views beside each other: what its own book says of each job at \
         that slave, and what the slave says it holds. For each job in either view it looks up **one verdict** in the \
         table below. There is exactly one line for every combination; a test proves it. A report on a live link is \
         judged by the same table, because it is to one job what a handshake is to all.\n\n\
         A verdict decides only *which event happened*. What becomes of the job then is answered by the second table, \
         the job table, which both nodes use for everything: live messages, reconciliation, and recovery after a \
         crash.\n\n\
         Two rules run through all lines. *Absence destroys nothing*: a job that one side does not know is never \
         canceled or forgotten for that; it is offered, adopted, or a person is asked. *The slave's word counts for what \
         happened, the master's for what is wanted.*\n\n\
         Which line decided, for which job, and what both sides held at that moment, is kept as a receipt of the \
         handshake: `GET /v1/slaves/{name}/receipts`.",
    );
    page.text("## The words\n\n**master** — what the master's book says of the job at this slave:");
    page.table(&["word", "meaning"], MINE.map(|mine| vec![words(&mine), mine_means(mine).to_owned()]));
    page.text("**slave** — what the slave holds of it:");
    page.table(
        &["word", "meaning"],
        THEIRS.map(|theirs| vec![words(&theirs), theirs_means(theirs).to_owned()]),
    );
    page.text("**memory** — what is known of the database that the slave speaks from:");
    page.table(&["word", "meaning"], STORE.map(|store| vec![words(&store), store_means(store).to_owned()]));
    page.text("**desired** — what the master wants of it, as far as a verdict depends on that:");
    page.table(
        &["word", "meaning"],
        DESIRED.map(|desired| vec![words(&desired), desired_state_means(desired).to_owned()]),
    );
    page.text("**verdict** — what comes of it:");
    page.table(
        &["word", "meaning"],
        Verdict::ALL.map(|verdict| vec![format!("`{}`", verdict.name()), verdict_means(verdict).to_owned()]),
    );
    page.text("## The table\n\nA line holds where all four columns match; \"any\" matches everything.");
    page.table(
        &["line", "cases", "master", "slave", "memory", "desired", "verdict"],
        TABLE.iter().map(|line| {
            vec![
                format!("`{}`", line.name),
                line.cases.join(" "),
                either(line.mine, &MINE),
                either(line.theirs, &THEIRS),
                either(line.store, &STORE),
                either(line.desired, &DESIRED),
                format!("**{}**", line.verdict.name()),
            ]
        }),
    );
    page.text(
        "## The cases\n\nDisagreements that these lines answer, each with what must come out. All of them, what else decides \
         them, and the tests that show them are in [coverage.md](coverage.md).",
    );
    let mut cases: Vec<&str> = TABLE.iter().flat_map(|line| line.cases).copied().collect();
    cases.sort_by_key(|case| (case.as_bytes()[0], case[1..].parse::<u8>().unwrap_or(0)));
    cases.dedup();
    page.table(
        &["case", "what both hold, and what must come out", "lines"],
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

fn attempts_table(page: &mut Page) {
    page.text(
        "## Which attempt speaks\n\nA job may have more than one attempt that came to something: a person gave one up whose slave \
         turns out to be alive, or a master that was restored hears of attempts that it has forgotten. Each attempt moves by the \
         job table alone, and one of them speaks for the job: its state is the job's state. The master compares the attempt \
         that speaks with another one whenever one of the two has changed, by the table below. What a slave only claims, \
         without having been assigned it, is shown to people and never compared.\n\n\
         **speaks** — what the attempt that speaks has come to:",
    );
    page.table(&["word", "meaning"], SPEAKER.map(|one| vec![words(&one), speaker_means(one).to_owned()]));
    page.text("**other** — what the other attempt has come to:");
    page.table(&["word", "meaning"], OTHER.map(|one| vec![words(&one), other_means(one).to_owned()]));
    page.text("**standing** — how the other attempt stands to the one that speaks:");
    page.table(&["word", "meaning"], STANDING.map(|one| vec![words(&one), standing_means(one).to_owned()]));
    page.text("**outcome** — what comes of it:");
    page.table(
        &["word", "meaning"],
        OUTCOME.map(|one| vec![format!("`{}`", one.name()), outcome_means(one).to_owned()]),
    );
    page.text("A line holds where all three columns match.");
    page.table(
        &["line", "cases", "speaks", "other", "standing", "outcome"],
        attempts::TABLE.iter().map(|line| {
            vec![
                format!("`{}`", line.name),
                line.cases.join(" "),
                either(line.speaker, &SPEAKER),
                either(line.other, &OTHER),
                either(line.standing, &STANDING),
                format!("**{}**", line.outcome.name()),
            ]
        }),
    );
}

const SPEAKER: [Speaker; 10] = [
    Speaker::Nobody,
    Speaker::Replaced,
    Speaker::Unstarted,
    Speaker::Begun,
    Speaker::Vanished,
    Speaker::Succeeded,
    Speaker::Canceled,
    Speaker::CalledOff,
    Speaker::Ended,
    Speaker::Closed,
];
const OTHER: [Other; 6] =
    [Other::Waiting, Other::Working, Other::Doubtful, Other::Done, Other::Over, Other::Unbegun];
const STANDING: [Standing; 3] = [Standing::Earlier, Standing::Forgotten, Standing::Contested];
const OUTCOME: [Outcome; 6] =
    [Outcome::Keep, Outcome::Take, Outcome::Withdraw, Outcome::Recall, Outcome::Duplicate, Outcome::GoesOn];

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

fn line_name(line: &Line) -> String {
    format!("`{}`", line.name)
}

fn either<T: std::fmt::Debug + PartialEq>(some: &[T], all: &[T]) -> String {
    if all.iter().all(|one| some.contains(one)) {
        return "any".to_owned();
    }
    some.iter().map(words).collect::<Vec<_>>().join(", ")
}

fn mine_means(mine: Mine) -> &'static str {
    match mine {
        Mine::Unknown => "it has never heard of the job",
        Mine::Assigned => "given to this slave, which has not confirmed",
        Mine::Unstarted => "on this slave's disk, not started by its last word",
        Mine::Started => "under way by its last word",
        Mine::Uncertain => "a person has been asked what became of it",
        Mine::Ended => "it has ended, and nobody expects more",
        Mine::GivenUp => "a person gave this attempt up",
        Mine::Older => "the slave's attempt is an older one, whatever became of the newer",
    }
}

fn theirs_means(theirs: Theirs) -> &'static str {
    match theirs {
        Theirs::Absent => "neither the job nor its outcome",
        Theirs::Waiting => "on its disk, not started",
        Theirs::Working => "under way: starting, running, paused or stopping",
        Theirs::Doubtful => "it cannot say what its machine did",
        Theirs::Done => "its outcome",
        Theirs::Remembered => {
            "its outcome, which it was told to forget and still has among its recent outcomes"
        }
    }
}

fn store_means(store: Store) -> &'static str {
    match store {
        Store::Trusted => "the database that the master knows, and its sessions went forward",
        Store::Replaced => "another database than the master knows: the slave remembers nothing from before",
        Store::RolledBack => {
            "the database that the master knows, but its session number went back: an old copy"
        }
        Store::Ahead => {
            "the database that the master knows, and the master's files were put back since the two last settled"
        }
        Store::Doubting => {
            "the slave has seen a later state of this master, and nobody has confirmed that the master was restored: it obeys nothing"
        }
    }
}

fn desired_state_means(desired: DesiredKind) -> &'static str {
    match desired {
        DesiredKind::Go => "run it when its start rule allows, or keep it paused",
        DesiredKind::Released => "a person let it go: it may start now",
        DesiredKind::TooLate => "it should have run, but its latest start has passed",
        DesiredKind::End => "it is to be canceled",
        DesiredKind::HandBack => "it is to be given back if it has not started",
        DesiredKind::Resolve => "a person has said how it ended",
    }
}

fn verdict_means(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Keep => {
            "both go on; the master takes the slave's word, the slave gets a newer desired state if there is one"
        }
        Verdict::Offer => "the slave is given the job again, under the same attempt",
        Verdict::Start => "the slave is given the start again, with its latest time",
        Verdict::Cancel => "the slave is told to end it",
        Verdict::Recall => "the slave is told to give it back if it has not started",
        Verdict::Adopt => "the master takes the job up from the slave, with its work, state and times",
        Verdict::Forget => "the master takes the outcome; when that is on its disk, the slave forgets it",
        Verdict::Release => {
            "the slave does not have it and owes nothing: it waits again, or ends as is wanted; what a slave let go in the time that a restored \
             master has forgotten is `uncertain`, unless another slave tells of it"
        }
        Verdict::Quarantine => {
            "the slave's memory is not trusted: nothing starts from it until a person has looked"
        }
        Verdict::AskPerson => "nobody can know: the job is `uncertain` until a person says how it ended",
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
    events.extend(ENDS.map(Event::Resolved));
    events.extend([
        Event::Taken,
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
        Event::AttemptAssigned => "the book gives it to a slave, under a new attempt",
        Event::GivenBack => "the slave does not hold it and will not",
        Event::Withdrawn => "it is canceled where no slave holds it",
        Event::WindowClosed => "its latest start passes where no slave holds it",
        Event::Abandoned => "a person gives this attempt up",
        Event::Retried => "a person or the order's policy wants another attempt",
        Event::Vanished => "its memory is gone: the slave held it, and has neither job nor outcome",
        Event::Reported(state) => return format!("the slave says `{}`", state.name()),
        Event::Resolved(end) => return format!("a person says that it {}", ended(end)),
        Event::Taken => "it goes to the slave's disk",
        Event::Dropped => "somebody cancels it before it started",
        Event::Lapsed => "its window closes at the slave before it started",
        Event::StartIntended => "the intent to start goes to disk",
        Event::StartRefused => "the program or a parameter is not allowed here",
        Event::MachineStarted => "the machine begins",
        Event::MachinePaused => "the machine pauses",
        Event::MachineResumed => "the machine goes on",
        Event::StopBegan => "the intent to stop goes to disk",
        Event::StopRefused { paused: false } => "the machine refuses to stop",
        Event::StopRefused { paused: true } => "the machine refuses to stop, and is paused",
        Event::MachineEnded(end) => return format!("the machine's work {}", ended(end)),
        Event::FoundNeverStarted => "asked after a crash, the machine proves that it never began",
        Event::FoundAlive { paused: false } => "asked after a crash, the machine works on it",
        Event::FoundAlive { paused: true } => "asked after a crash, the machine has it paused",
        Event::FoundGone(OnInterrupt::Hold) => "it began, runs no more, and the order says: hold",
        Event::FoundGone(OnInterrupt::Fail) => "it began, runs no more, and the order says: fail",
        Event::FoundGone(OnInterrupt::Restart) => "it began, runs no more, and the order says: restart",
        Event::FoundNothing => "asked after a crash, the machine cannot say",
        Event::StartPostponed => {
            "the machine cannot begin, for a cause of its own, and proves that nothing began"
        }
    };
    plain.to_owned()
}

fn ended(end: End) -> &'static str {
    match end {
        End::Succeeded => "ended well",
        End::Failed => "failed",
        End::Stopped => "was stopped",
    }
}

fn job_table(page: &mut Page) {
    page.text(
        "## The job table\n\nA job is in a state and something happens: what is it now? Nothing else changes a job's \
         state, on either node. Under each state: what moves it, then what is refused and why. What is not listed changes \
         nothing, because the job is that already.",
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
            page.text("Nothing moves it.");
        } else {
            page.table(&["what happens", "becomes"], moves);
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

struct JobRow {
    means: &'static str,
    /// ISA-95 / OPC 10031-4, PackML, SEMI E40, AWS IoT Jobs, Nomad.
    maps: [&'static str; 5],
}

const JOB_STANDARDS: [&str; 5] =
    ["ISA-95 (OPC 10031-4)", "PackML unit", "SEMI E40 process job", "AWS IoT Jobs", "Nomad allocation"];

fn job(state: State) -> JobRow {
    let (means, maps) = match state {
        State::Queued => (
            "The master has it on disk, no slave does.",
            ["NotAllowedToStart; AllowedToStart.Waiting", "—", "pooled", "QUEUED", "pending"],
        ),
        State::Assigned => (
            "Bound to a slave and an attempt; the slave has not confirmed.",
            ["AllowedToStart.Waiting", "—", "pooled", "QUEUED", "pending"],
        ),
        State::Accepted => (
            "On the slave's disk: the slave owns it from here, link or not. `waiting_for` says what it waits for.",
            ["AllowedToStart.Ready, .Loaded, .Waiting", "Idle", "waiting for start", "QUEUED", "pending"],
        ),
        State::Starting => (
            "The intent to start is on the slave's disk; the machine is being touched.",
            ["Running", "Resetting, Starting", "setting up", "IN_PROGRESS", "pending"],
        ),
        State::Running => {
            ("The machine works on it.", ["Running", "Execute", "processing", "IN_PROGRESS", "running"])
        }
        State::Paused => (
            "Interrupted, and it can be resumed; the reason says by whom.",
            ["Interrupted (Held or Suspended)", "Held, Suspended", "paused", "IN_PROGRESS", "running"],
        ),
        State::Stopping => (
            "The intent to stop is on the slave's disk; the machine is running down.",
            ["Running", "Stopping, Aborting", "stopping, aborting", "IN_PROGRESS", "running (desired stop)"],
        ),
        State::Uncertain => (
            "It may or may not have run to some point: nobody but a person can say.",
            ["Interrupted (Held)", "Aborted, to be cleared", "—", "IN_PROGRESS", "unknown"],
        ),
        State::Succeeded => (
            "Ended well, by the slave's word.",
            ["Ended.Completed", "Complete", "process complete", "SUCCEEDED", "complete"],
        ),
        State::Failed => {
            ("Ended badly.", ["Aborted", "Aborted, Stopped", "aborted", "FAILED, TIMED_OUT", "failed"])
        }
        State::Canceled => (
            "Ended because somebody canceled it.",
            ["Aborted", "Stopped", "stopped, aborted", "CANCELED", "complete (desired stop)"],
        ),
        State::Rejected => (
            "The slave refused it before it started.",
            ["— (an error of the method)", "—", "—", "REJECTED", "failed (in setup)"],
        ),
        State::Expired => (
            "Its window closed before it started.",
            ["— (removed by Clear)", "—", "—", "REMOVED, TIMED_OUT", "—"],
        ),
        State::Lost => (
            "A person gave it up: its outcome is not known. A late true report may still correct it.",
            ["—", "—", "—", "TIMED_OUT", "lost"],
        ),
    };
    JobRow { means, maps }
}

/// Meaning; OPC UA Machinery operation mode, Nomad node, SEMI E10 time.
fn mode(mode: Mode) -> (&'static str, [&'static str; 3]) {
    match mode {
        Mode::Production => ("It takes jobs.", ["Processing", "eligible", "by its activity"]),
        Mode::Draining => (
            "It finishes what it holds and takes no more.",
            ["Processing", "draining, ineligible", "by its activity"],
        ),
        Mode::Maintenance => (
            "People work at it: nothing starts.",
            ["Maintenance, Setup", "ineligible", "Scheduled Down, Engineering"],
        ),
        Mode::Disabled => {
            ("Nothing starts until it is enabled again.", ["None", "ineligible", "Non-Scheduled"])
        }
        Mode::Quarantined => (
            "Its identity or memory is in doubt: nothing starts until a person has looked.",
            ["None", "ineligible", "Unscheduled Down"],
        ),
    }
}

/// Meaning; OPC UA Machinery item, PackML, MTConnect execution, SEMI E10.
fn activity(activity: Activity) -> (&'static str, [&'static str; 4]) {
    match activity {
        Activity::Idle => (
            "No job, and it may not start one: a mode or a local lock is against it.",
            ["NotExecuting", "Stopped, Idle", "STOPPED", "Standby"],
        ),
        Activity::Ready => ("It may start a job.", ["NotExecuting", "Idle", "READY", "Standby"]),
        Activity::Preparing => {
            ("A job is being started.", ["Executing", "Resetting, Starting", "ACTIVE, WAIT", "Productive"])
        }
        Activity::Running => {
            ("A job runs, or is being stopped.", ["Executing", "Execute", "ACTIVE", "Productive"])
        }
        Activity::Paused => (
            "A job is paused.",
            ["NotExecuting", "Held, Suspended", "INTERRUPTED, FEED_HOLD, PROGRAM_STOPPED", "Standby"],
        ),
        Activity::Unloading => (
            "A job ended and nobody has confirmed that the machine is clear.",
            ["NotExecuting", "Complete", "PROGRAM_COMPLETED", "Standby"],
        ),
        Activity::Attention => (
            "A person is needed before anything starts.",
            ["OutOfService", "Held", "INTERRUPTED, OPTIONAL_STOP", "Standby (no operator)"],
        ),
        Activity::Fault => (
            "A job failed and somebody has to look at the machine.",
            ["OutOfService", "Aborted", "STOPPED with a fault condition", "Unscheduled Down"],
        ),
        Activity::MachineOff => (
            "The slave is there, the machine's controller is not.",
            ["NotAvailable", "—", "UNAVAILABLE", "Non-Scheduled, Unscheduled Down"],
        ),
        Activity::Unknown => (
            "The slave does not know yet: it has asked its machine.",
            ["NotAvailable", "—", "UNAVAILABLE", "—"],
        ),
    }
}

/// Meaning; what ends the waiting.
fn waiting_for(waiting: WaitingFor) -> (&'static str, &'static str) {
    match waiting {
        WaitingFor::Turn => ("another job is first", "that job's end"),
        WaitingFor::Time => ("its `not_before`", "time, a new time, or `release`"),
        WaitingFor::Artifact => ("something that it needs is not there yet", "its arrival"),
        WaitingFor::Ready => (
            "the machine is not ready: it is to be cleared, locked, in another mode, or in need of a person",
            "`ready`, `clear`, `mode`, or unlocking at the machine",
        ),
        WaitingFor::Operator => ("a person's word", "`release`, `resume`, or `resume` at the machine"),
        WaitingFor::Clock => ("a clock that can be trusted", "the next handshake"),
    }
}

fn source(source: Source) -> &'static str {
    match source {
        Source::Remote => "what the master wants",
        Source::Local => "a person at the machine",
        Source::Slave => "the slave's own rules",
        Source::Machine => "the machine",
    }
}

/// Meaning; what a person does before `clear`.
fn attention(attention: Attention) -> (&'static str, &'static str) {
    match attention {
        Attention::StoreReplaced => (
            "The slave's database is new while its key is not: nobody remembers what the machine did.",
            "look whether the machine works or holds something",
        ),
        Attention::StoreRolledBack => (
            "The slave's database went back in time: what it remembers may be undone or done twice.",
            "look at the machine, and say how its jobs ended with `resolve`",
        ),
        Attention::Moved => (
            "The box has another fingerprint: it may stand on another machine.",
            "make sure that the config fits the machine",
        ),
        Attention::Fault => {
            ("A job failed, and the config says that somebody has to look.", "look at the machine")
        }
        Attention::MemoryGap => (
            "The master knows of a job that was accepted here, and the slave does not.",
            "look at the machine",
        ),
        Attention::MachineUnfit => (
            "It could not begin a job: its disk is full, the program's file is missing, rights are wrong. The job waits.",
            "mend what the text names: it begins the job anew then",
        ),
    }
}

fn flag(name: &str) -> Option<&'static str> {
    Some(match name {
        "overdue" => "it runs longer than its order allows",
        "cancel_too_late" => "the cancel came when it was over, or its mode could no longer stop it",
        "duplicate" => "two slaves had it under way",
        "adopted" => "the master learned of it from its slave",
        "late_result" => "the outcome came after a person had given the job up",
        "missed_start" => "its start was missed while the slave was off",
        "interrupted" => "its work was interrupted",
        "claimed" => {
            "a slave speaks of an attempt that was never handed to it: nothing follows from that, look at `earlier`"
        }
        "restored" => {
            "it waited when the master was restored, and a slave may have done it in the time that is forgotten"
        }
        _ => return None,
    })
}

/// What the master adds to the flags when it shows a job.
pub const SHOWN_FLAGS: [(&str, &str); 2] = [
    ("stale", "its slave is not connected: everything else is the last word of it"),
    ("cancel_pending", "it was canceled, and that has not happened yet"),
];

/// How far a command can have got.
pub const DELIVERIES: [Delivery; 4] =
    [Delivery::Applied, Delivery::Sent, Delivery::PendingOnReconnect, Delivery::TooLate];

fn delivery_means(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Applied => "it is done",
        Delivery::Sent => "it is on its way to the slave",
        Delivery::PendingOnReconnect => {
            "the slave is not there: the desired state waits as part of the job, and counts at the next handshake if it is still the \
             newest"
        }
        Delivery::TooLate => "what it was to prevent has happened",
    }
}

fn need(need: Need) -> &'static str {
    match need {
        Need::Doubts => "a slave has seen a later state of this master and obeys nothing",
        Need::Cloned => "another box came with a slave's key while that slave answered",
        Need::Attention => "something at the machine has to be looked at",
        Need::Uncertain => "nobody knows how the job ended",
        Need::Unresolved => "the slave does not know how an attempt ended that the master has given up",
        Need::Mismatch => "the slave holds other work under the job's name",
        Need::MissedStart => "the start passed while the slave was off, and the order says `late: hold`",
        Need::Unloading => "the machine has ended a job, and nobody has confirmed that it is clear",
        Need::Overdue => "the job runs longer than its order allows",
        Need::Approval => "a key waits to be enrolled",
        Need::Restored => "the job waited when the master was restored, and nobody has released it since",
        Need::ReleaseLapsed => "the job was released for a start that is over",
        Need::Held => "the order says that the job waits for a release",
        Need::LocalLock => "a person at the machine has locked remote starts out",
    }
}

/// Meaning; what ends it.
fn why_not(why: WhyNot) -> (&'static str, &'static str) {
    match why {
        WhyNot::OtherSlave => ("the order names another slave", "nothing: it waits for that one"),
        WhyNot::Program => ("it does not offer the program", "declare it there"),
        WhyNot::Label => ("a label that the order requires is missing or differs", "set it there"),
        WhyNot::NotEnrolled => ("it is not enrolled, or not any more", "a token, or `approve`"),
        WhyNot::Offline => ("it is not connected", "its next connection"),
        WhyNot::Mode => ("people have taken it out of production", "`mode production`"),
        WhyNot::LocalLock => ("a person at the machine has locked remote starts out", "unlock there"),
        WhyNot::Attention => ("it needs a person", "`clear`, after a look at the machine"),
        WhyNot::Doubts => ("it has seen a later state of this master", "`reloop restore confirm`"),
        WhyNot::Declined => ("it declined, and nothing has changed there since", "its next news"),
        WhyNot::Capacity => {
            ("it holds as many jobs as it may", "an end of one of them, or a higher `capacity`")
        }
        WhyNot::Ready => ("its machine is not ready", "`ready`, or the end of what it does"),
    }
}

/// The flags in use: bit and word.
pub fn flags() -> Vec<(u16, &'static str)> {
    let named = |bit: u32| Some((1 << bit, Flags(1 << bit).names().next()?));
    (0..u16::BITS).filter_map(named).collect()
}

/// Meaning; what a person can do.
fn reason(code: ReasonCode) -> (&'static str, &'static str) {
    match code {
        ReasonCode::AtCapacity => ("the slave holds as many jobs as it may", "wait, or raise `capacity`"),
        ReasonCode::UnknownProgram => {
            ("the slave does not offer the program", "declare it there, or `retry`")
        }
        ReasonCode::BadParams => (
            "a parameter is missing, unknown, or not allowed; or the work is too large",
            "place a corrected order",
        ),
        ReasonCode::NotInProduction => ("people have taken the slave out of production", "`mode production`"),
        ReasonCode::LocalLock => ("a person at the machine has locked remote starts out", "unlock there"),
        ReasonCode::WindowClosed => {
            ("its latest start passed before it started", "`retry` with another window")
        }
        ReasonCode::MissedStart => ("its time passed while the slave was off", "`release`"),
        ReasonCode::ReleaseLapsed => ("the release came too late to count", "`release` again"),
        ReasonCode::NotHeld => ("the slave holds nothing of this attempt", "nothing: it is offered or ended"),
        ReasonCode::GivenBack => ("it was given back as asked", "nothing: another slave takes it"),
        ReasonCode::DigestMismatch => ("the work is not what was agreed", "`cancel`, and place it anew"),
        ReasonCode::OlderAttempt => {
            ("an older attempt of the same job is still there", "wait for it, or cancel the one not needed")
        }
        ReasonCode::StartRefused => {
            ("the machine refused to start it, by the word of an older slave", "look at it, then `retry`")
        }
        ReasonCode::StopRefused => ("the machine refused to stop", "`cancel` harder, or at the machine"),
        ReasonCode::PauseRefused => ("the machine refused to pause or to resume", "at the machine"),
        ReasonCode::PausedLocally => ("a person at the machine paused it", "`resume` at the machine"),
        ReasonCode::StoppedLocally => ("a person at the machine stopped it", "`retry`"),
        ReasonCode::Interrupted => {
            ("the agent or the box went down while it ran", "by the order: `resolve`, `retry`, or nothing")
        }
        ReasonCode::InterruptedTooOften => ("it was interrupted too often", "`resolve`"),
        ReasonCode::NoProof => ("the machine could not say what it did", "look at it, then `resolve`"),
        ReasonCode::MaxRuntime => ("it ran longer than its order allows, and was stopped", "`retry`"),
        ReasonCode::Canceled => ("somebody canceled it", "nothing"),
        ReasonCode::Vanished => {
            ("the slave lost what it had promised to keep", "look at the machine, `resolve`")
        }
        ReasonCode::StoreReplaced => {
            ("the slave's database is new", "look at the machine, `resolve`, `clear`")
        }
        ReasonCode::StoreRolledBack => {
            ("the slave's database went back in time", "look at the machine, `resolve`, `clear`")
        }
        ReasonCode::Abandoned => ("a person gave the attempt up", "`retry`"),
        ReasonCode::Resolved => ("a person said how it ended", "nothing"),
        ReasonCode::Retrying => ("the order wants another attempt", "nothing"),
        ReasonCode::MachineFault => ("the machine reported a fault, or the program failed", "`retry`"),
        ReasonCode::Restored => (
            "the master was restored from a backup; a slave may have done it since",
            "`release` where it waits, `resolve` where it is uncertain",
        ),
        ReasonCode::MachineUnfit => (
            "its machine could not begin it, for a cause of its own that the text names: nothing began",
            "mend that, then `clear`",
        ),
    }
}

fn close(code: CloseCode) -> (&'static str, &'static str) {
    match code {
        CloseCode::Protocol => {
            ("a message could not be read, or came out of order", "nothing; if it goes on, a bug")
        }
        CloseCode::NotAuthentic => {
            ("the signature does not match the key", "put the right key back, or enrol anew")
        }
        CloseCode::NotEnrolled => ("the slave is not enrolled here", "approve it, or give it a token"),
        CloseCode::WrongMaster => {
            ("the slave belongs to another master", "correct its address, or enrol it here")
        }
        CloseCode::TooSlow => ("the handshake took too long", "nothing"),
        CloseCode::DuplicateIdentity => {
            ("another box with the same key is connected and answers", "give the copy a key of its own")
        }
        CloseCode::Revoked => ("the slave was revoked", "enrol it anew"),
        CloseCode::Superseded => ("a newer connection of the same slave took over", "nothing"),
        CloseCode::TooLarge => ("a message was larger than allowed", "pass files by name, not by value"),
        CloseCode::SlowReader => ("the peer does not read what it is sent", "nothing"),
        CloseCode::Version => ("no common protocol version", "upgrade the older node"),
        CloseCode::TryLater => ("too many at once", "nothing: the slave comes back"),
        CloseCode::StaleMaster => {
            ("this master is older than what the slave has seen", "stop this copy, or confirm it")
        }
        CloseCode::NameTaken => ("the name belongs to another key", "rename the slave, or forget the other"),
        CloseCode::GoingAway => ("the node shuts down, or wants a new handshake", "nothing"),
        CloseCode::Storage => ("the node cannot write to its disk", "free or replace the disk"),
        CloseCode::Silent => ("nothing was heard for too long", "nothing"),
    }
}

fn code(word: &str) -> String {
    format!("`{word}`")
}

fn row(first: String, second: &str, rest: &[&str]) -> Vec<String> {
    let rest = rest.iter().map(|text| (*text).to_owned());
    [first, second.to_owned()].into_iter().chain(rest).collect()
}

/// `docs/states.md`.
pub fn states() -> String {
    let mut page = Page::new("States and words", "`protocol/src/` and `tests/tools/src/docs.rs`");
    page.text(
        "Every word that Reloop shows for a job or a slave, what it means, and what comes closest in the standards and \
         systems that factories already use. \"—\": there is nothing like it. The mappings are for people who connect \
         systems; nothing in Reloop depends on them.",
    );
    page.text(
        "## Jobs\n\n`state` is the last durable fact and never a guess. Wish, reason, flags and freshness stand beside \
         it. The last six are ends. How a job moves between them is in [reconciliation.md](reconciliation.md).",
    );
    page.table(&["state", "meaning"], State::ALL.map(|state| row(code(state.name()), job(state).means, &[])));
    let heads: Vec<&str> = ["state"].into_iter().chain(JOB_STANDARDS).collect();
    page.table(
        &heads,
        State::ALL.map(|state| {
            let maps = job(state).maps;
            row(code(state.name()), maps[0], &maps[1..])
        }),
    );
    page.text(
        "PackML and ISA-95 both say Held and Suspended and mean different things: in PackML Held has an inner cause and \
         Suspended an outer one; in ISA-95 Held is a constraint and Suspended a decision. Reloop says `paused`, with a \
         reason.",
    );
    page.text("### What an accepted job waits for");
    page.table(
        &["waiting_for", "meaning", "what ends it"],
        all(wire::decode::<WaitingFor>).into_iter().map(|waiting| {
            let (means, ends) = waiting_for(waiting);
            row(code(waiting.name()), means, &[ends])
        }),
    );
    page.text("### Flags: facts beside the state");
    page.table(
        &["flag", "meaning"],
        flags().into_iter().map(|(_, name)| row(code(name), flag(name).unwrap_or(""), &[])),
    );
    page.text("Two more are worked out when somebody asks, and are on no disk:");
    page.table(&["flag", "meaning"], SHOWN_FLAGS.map(|(name, means)| row(code(name), means, &[])));
    page.text("### How far a command got");
    page.table(
        &["delivery", "meaning"],
        DELIVERIES.map(|delivery| row(code(delivery.name()), delivery_means(delivery), &[])),
    );
    page.text("### Why a slave does not take a job\n\nAs `explain` says it, for every slave.");
    page.table(
        &["why_not", "meaning", "what ends it"],
        WhyNot::ALL.map(|why| {
            let (means, ends) = why_not(why);
            row(code(why.name()), means, &[ends])
        }),
    );
    page.text(
        "### How fresh a slave's word is\n\n`freshness.observed_at` is when the job's slave was last heard, whatever it said; it never \
         goes back while the job is with that slave. A master that has started since and has not heard the slave knows what \
         its disk holds, and what the job went through: then `at_least` is true, and the slave was heard then or later. A slave \
         shows the same as `last_contact_at` and `last_contact_at_least`.",
    );
    page.text(
        "### What needs a person\n\nAs `reloop needs` and `GET /v1/needs` list it, the most urgent first. `GET /v1/counts` counts it.",
    );
    page.table(
        &["need", "meaning", "what ends it", "risk"],
        Need::ALL.map(|value| {
            row(code(value.name()), need(value), &[&format!("`{}`", value.action()), value.risk()])
        }),
    );
    page.text("### Who caused the last change");
    page.table(
        &["source", "meaning"],
        all(wire::decode::<Source>).into_iter().map(|s| row(code(s.name()), source(s), &[])),
    );
    page.text(
        "### Reasons\n\nThe code is for programs and stable; the text beside it is for people and is not.",
    );
    page.table(
        &["code", "meaning", "what helps"],
        ReasonCode::ALL.iter().map(|code_| {
            let (means, helps) = reason(*code_);
            row(code(code_.name()), means, &[helps])
        }),
    );
    page.text("## Slaves\n\nThree axes, never folded into one.\n\n### `link`: what the master observes");
    page.table(
        &["link", "meaning", "MTConnect AVAILABILITY", "Nomad node", "AWS IoT thing"],
        LINKS.map(|(name, means, maps)| row(code(name), means, &maps)),
    );
    page.text("### `mode`: what people decide");
    page.table(
        &["mode", "meaning", "OPC UA Machinery operation mode", "Nomad node", "SEMI E10 time"],
        Mode::ALL.map(|value| {
            let (means, maps) = mode(value);
            row(code(value.name()), means, &maps)
        }),
    );
    page.text("### `activity`: what the slave reports");
    page.table(
        &["activity", "meaning", "OPC UA Machinery item", "PackML", "MTConnect EXECUTION", "SEMI E10"],
        Activity::ALL.map(|value| {
            let (means, maps) = activity(value);
            row(code(value.name()), means, &maps)
        }),
    );
    page.text(
        "### Why a person is needed\n\nEach is ended by `clear`, at the machine or through the master.",
    );
    page.table(
        &["attention", "meaning", "before that"],
        all(wire::decode::<Attention>).into_iter().map(|value| {
            let (means, todo) = attention(value);
            row(code(value.name()), means, &[todo])
        }),
    );
    page.text(
        "## Why a link was closed\n\nWebSocket close codes. After a passing one the slave comes back by itself within \
         a minute; after the others a person has to do something, and the slave goes on trying meanwhile. Whatever the \
         code: the machine goes on.",
    );
    page.table(
        &["code", "name", "passing", "meaning", "what helps", "the slave"],
        CloseCode::ALL.iter().map(|value| {
            let (means, helps) = close(*value);
            let passing = if value.is_passing() { "yes" } else { "no" };
            let name = format!("{value:?}");
            let slave = match redial::after(*value) {
                Redial::Back => "comes back".to_owned(),
                Redial::Patient => "comes back; its pauses go on growing".to_owned(),
                Redial::Person(todo) => format!("tries once a minute, and says: {todo}"),
            };
            row(value.number().to_string(), &name, &[passing, means, helps, &slave])
        }),
    );
    page.0
}

/// Values that have no row; the matches above catch most of them before.
pub fn missing() -> Vec<String> {
    let cases = TABLE.iter().flat_map(|line| line.cases).filter(|case| rows::row(case).is_none());
    let flags = flags().into_iter().filter(|(_, name)| flag(name).is_none());
    cases.map(|case| format!("case {case}")).chain(flags.map(|(_, name)| format!("flag {name}"))).collect()
}

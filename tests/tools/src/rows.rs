//! The published disagreements of the two nodes as data: the case, the outcome, the rules that decide it, and the
//! levels on which a test has to show it.
//!
//! What decides a row has two sources: lines of the verdict table (`protocol/src/reconcile.rs`) carry the numbers of
//! the rows that they decide, and other rules are named here as functions.
//!
//! The tests of a row are not listed here: their names begin with its number, and [`crate::coverage`] collects them.

use reloop_protocol::reconcile::{Line, TABLE};

#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// A letter for the field, and a count.
    pub number: &'static str,
    /// What each side holds, or what happens.
    pub case: &'static str,
    pub outcome: &'static str,
    /// The rules that decide it beside the verdict table.
    pub rules: &'static [Rule],
    /// The lowest level on which it can be shown.
    pub lowest: Level,
    /// What of it only real processes can show. If there is anything, a test with processes is required.
    pub about: &'static [About],
    /// How much of it the product has.
    pub scope: Scope,
}

#[derive(Debug, Clone, Copy)]
pub struct Rule {
    pub file: &'static str,
    pub function: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Both nodes' rules in a world without processes.
    Rules,
    /// Real masters, slaves and machines, behind networks that fail.
    Processes,
}

/// What the rules alone cannot show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum About {
    /// Nodes, jobs and boxes that crash and come back.
    Processes,
    /// Disks that lose data or are replaced.
    Disks,
    /// Clocks that jump, stand still, or are not trusted.
    Clocks,
    /// Connections that break, hang, or stay down.
    Links,
    /// Keys, names, enrolment, copies.
    Identity,
    /// What people do at a machine.
    People,
}

impl About {
    /// The word in `docs/coverage.md`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Disks => "disks",
            Self::Clocks => "clocks",
            Self::Links => "links",
            Self::Identity => "identity",
            Self::People => "people at the machine",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Whole,
    /// All but this part, which no test shows.
    Without(&'static str),
    /// Nothing, for this reason. No test may carry its number.
    Nothing(&'static str),
}

impl Row {
    /// The lines of the verdict table that decide it.
    pub fn lines(&self) -> impl Iterator<Item = &'static Line> {
        let number = self.number;
        TABLE.iter().filter(move |line| line.cases.contains(&number))
    }

    /// The levels on which a test has to show it.
    pub fn needs(&self) -> impl Iterator<Item = Level> {
        let nothing = matches!(self.scope, Scope::Nothing(_));
        let rules = !nothing && self.lowest == Level::Rules;
        let processes = !nothing && (self.lowest == Level::Processes || !self.about.is_empty());
        [rules.then_some(Level::Rules), processes.then_some(Level::Processes)].into_iter().flatten()
    }
}

pub fn row(number: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.number == number)
}

const fn rule(file: &'static str, function: &'static str) -> Rule {
    Rule { file, function }
}

/// A row that tests of the rules show, and tests with processes if it is `about` anything.
const fn shown(
    number: &'static str,
    case: &'static str,
    outcome: &'static str,
    rules: &'static [Rule],
    about: &'static [About],
) -> Row {
    Row { number, case, outcome, rules, lowest: Level::Rules, about, scope: Scope::Whole }
}

/// The row without a part that the product does not have.
const fn shown_without(row: Row, missing: &'static str) -> Row {
    Row { scope: Scope::Without(missing), ..row }
}

const ABSENT: Rule = rule("protocol/src/master/settle.rs", "apply_absent");
const ADMIT: Rule = rule("protocol/src/master/enrolment.rs", "admit");
const AGENT_STARTED: Rule = rule("protocol/src/slave/place.rs", "agent_started");
const BEGIN: Rule = rule("protocol/src/slave/schedule.rs", "begin");
const COME_DUE: Rule = rule("protocol/src/slave/schedule.rs", "come_due");
const ENDED: Rule = rule("protocol/src/slave/facts.rs", "ended");
const PROBED: Rule = rule("protocol/src/slave/facts.rs", "probed");
const HELD_BY: Rule = rule("protocol/src/slave/waiting.rs", "held_by");
const HELLO: Rule = rule("protocol/src/master/hello.rs", "hello_received");
const MASTER_TIME: Rule = rule("protocol/src/slave/clock.rs", "master_time");
const OLDER: Rule = rule("protocol/src/master/attempts.rs", "compare");
const ORDER_PLACED: Rule = rule("protocol/src/master/command.rs", "order_placed");
const SAY_AGAIN: Rule = rule("protocol/src/slave/desired.rs", "say_again");
const STANDING: Rule = rule("protocol/src/slave/uplink.rs", "standing");
const UNACCEPTABLE: Rule = rule("protocol/src/slave/desired.rs", "unacceptable");
const SET_DESIRED: Rule = rule("protocol/src/slave/desired.rs", "set_desired");

pub const ROWS: &[Row] = &[
    // A. Assignment, start, cancel.
    shown(
        "A1",
        "The master assigned it; the slave, whose store is sound, never got it.",
        "It is offered again under the same attempt while its window is open; otherwise it is queued again, \
         canceled or expired.",
        &[ABSENT],
        &[About::Links],
    ),
    shown(
        "A2",
        "The slave accepted it, and its report of that was lost.",
        "The handshake's snapshot is the confirmation; nothing is sent twice.",
        &[],
        &[About::Links],
    ),
    shown(
        "A3",
        "The master released the start; the slave has the job and has not started it.",
        "The release is sent again with its latest start time; after that time the job is held and a person \
         is asked.",
        &[HELD_BY],
        &[],
    ),
    shown(
        "A4",
        "At the master it is assigned, at the slave it already runs.",
        "The master takes over the slave's state and start time.",
        &[],
        &[],
    ),
    shown(
        "A5",
        "At the master it is accepted or under way; the slave, whose store is sound, has neither job nor \
         outcome.",
        "The slave lost what it had accepted: the job is uncertain, the slave asks for a person \
         (`memory_gap`), and nothing runs again by itself.",
        &[ABSENT],
        &[],
    ),
    shown(
        "A6",
        "The slave ran it, and restarts after a crash or a power cut.",
        "The machine is asked. If the run is alive, the job is running; if it ended, that is the outcome; \
         otherwise the order's `on_interrupt` decides: hold, fail or restart.",
        &[AGENT_STARTED, PROBED],
        &[About::Processes],
    ),
    shown(
        "A7",
        "The slave restarts with an intent to start on its disk and no result.",
        "The machine is asked. With proof that it never began, it is started; without proof the job is \
         uncertain and the machine is not ready. It is never started again without proof.",
        &[AGENT_STARTED, PROBED],
        &[About::Processes],
    ),
    shown(
        "A8",
        "It ended at the slave while the link was down; at the master it is running.",
        "The outcome is recorded with the slave's times, then the slave forgets the job. A repeated report \
         changes nothing.",
        &[],
        &[About::Links],
    ),
    shown(
        "A9",
        "It succeeded at the slave while the link was down, and it was canceled at the master meanwhile.",
        "Succeeded, flagged `cancel_too_late`.",
        &[ENDED],
        &[],
    ),
    shown(
        "A10",
        "It failed at the slave while the link was down, and it was canceled at the master meanwhile.",
        "Failed and not canceled; the cancel is recorded.",
        &[ENDED],
        &[],
    ),
    shown(
        "A11",
        "It was canceled at the master; the slave runs it.",
        "The slave stops it in the mode that the client chose. If the machine refuses, the job is running \
         again, with the reason.",
        &[rule("protocol/src/slave/steer.rs", "cancel")],
        &[],
    ),
    shown(
        "A12",
        "It was canceled at the master; the slave has it and has not started it.",
        "The slave drops it: it is canceled.",
        &[],
        &[],
    ),
    shown(
        "A13",
        "It was canceled at the master; the slave is offline for weeks.",
        "The cancel stays pending. Only `abandon` ends the job, and its attempt is never used again.",
        &[rule("protocol/src/master/command.rs", "abandon")],
        &[],
    ),
    shown(
        "A14",
        "A person gave the job to another slave, and the first slave comes back with the older attempt, not \
         started.",
        "The first drops it.",
        &[],
        &[],
    ),
    shown(
        "A15",
        "The same, but the first slave runs its attempt and the second one has not begun.",
        "The first keeps it; from the second it is recalled.",
        &[OLDER],
        &[],
    ),
    shown(
        "A16",
        "The same, but both run.",
        "Both go on, and the job is flagged `duplicate`. A person decides; nothing is stopped by itself.",
        &[OLDER],
        &[],
    ),
    shown(
        "A17",
        "The same, but the first attempt has ended and the second one runs.",
        "The first outcome is recorded for its attempt. Cancelling the second is left to a person.",
        &[OLDER],
        &[],
    ),
    shown(
        "A18",
        "The same, but both have ended.",
        "The first success is the job's outcome; the other outcome is kept beside it.",
        &[OLDER],
        &[],
    ),
    shown(
        "A19",
        "The slave confirmed a cancel and lost its power; its machine would go on.",
        "The cancel was on its disk before the machine was told anything: the job stays canceled.",
        &[PROBED],
        &[About::Processes],
    ),
    shown(
        "A20",
        "The master offers an attempt that has ended at the slave.",
        "The slave answers with the outcome and does not run it again.",
        &[SAY_AGAIN],
        &[About::Disks],
    ),
    shown(
        "A21",
        "The master offers a job to a slave that is full.",
        "Declined for now, with the reason; the job is queued again with that reason.",
        &[UNACCEPTABLE, rule("protocol/src/master/decline.rs", "declined")],
        &[],
    ),
    shown(
        "A22",
        "A job waits long.",
        "`explain` says for every slave why it does not take the job: offline, mode, program, label, \
         capacity, readiness, window.",
        &[rule("protocol/src/master/explain.rs", "why_not")],
        &[],
    ),
    // B. Deferred jobs and time.
    shown(
        "B1",
        "The start time comes while the link is down.",
        "The slave starts it by itself.",
        &[COME_DUE, BEGIN],
        &[About::Clocks, About::Links],
    ),
    shown(
        "B2",
        "The start time passed while the slave was off.",
        "The order's `late` decides: hold, run if its deadline allows, or skip. The delay is reported.",
        &[rule("protocol/src/slave/schedule.rs", "miss_start")],
        &[About::Clocks, About::Processes],
    ),
    shown(
        "B3",
        "The master changed the time while the slave was offline.",
        "Applied if it has not started. Otherwise the job goes on, and shows under which generation it \
         started.",
        &[SET_DESIRED],
        &[],
    ),
    shown(
        "B4",
        "The start was withdrawn at the master, and the slave runs it already.",
        "It goes on: nothing is stopped automatically; a client may cancel it.",
        &[SET_DESIRED],
        &[],
    ),
    shown(
        "B5",
        "A job is released while its slave is offline.",
        "The release is part of the desired state and has a latest time; the newest desired state counts. No \
         command is stored.",
        &[HELD_BY],
        &[],
    ),
    shown(
        "B6",
        "Two deferred jobs of one slave come due at the same time.",
        "One runs; the other waits for its turn as long as its window is open.",
        &[BEGIN, rule("protocol/src/slave/schedule.rs", "lapse")],
        &[],
    ),
    shown(
        "B7",
        "The slave booted without contact to the master, and its clock cannot be trusted.",
        "A deferred job waits, with `waiting_for: clock`.",
        &[MASTER_TIME, HELD_BY],
        &[About::Clocks],
    ),
    shown(
        "B8",
        "The wall clock of the slave or the master jumps by hours, forwards or back.",
        "A job starts once and not early; durations stay right.",
        &[MASTER_TIME, rule("protocol/src/master/hello.rs", "clock_set")],
        &[About::Clocks],
    ),
    shown(
        "B9",
        "The start time comes, and the machine is not ready.",
        "It waits for the machine until its deadline; then it expires.",
        &[
            rule("protocol/src/slave/schedule.rs", "lapse"),
            rule("protocol/src/slave/machine.rs", "is_barred"),
        ],
        &[],
    ),
    shown(
        "B10",
        "It exceeds its maximum run time while the link is down.",
        "The slave acts by itself: it flags the job `overdue`, or stops it, as the order says.",
        &[rule("protocol/src/slave/schedule.rs", "overrun")],
        &[About::Clocks, About::Links],
    ),
    // C. Store and identity.
    shown(
        "C1",
        "The slave has a new store and its old key: its disk was replaced.",
        "Its jobs are uncertain, and the machine starts nothing until a person has looked.",
        &[AGENT_STARTED, ABSENT],
        &[About::Disks],
    ),
    shown(
        "C2",
        "The slave's store does not open.",
        "It is set aside and a new one is made; then as C1. The machine is told nothing.",
        &[AGENT_STARTED, rule("node/src/store/opening.rs", "start_afresh")],
        &[About::Disks],
    ),
    shown(
        "C3",
        "The slave's store went back in time.",
        "Its rows are not trusted: no deferred job starts, jobs that it had forgotten do not run again, it is \
         told how a job ended whose end the master knows, and it gets a new store id.",
        &[rule("protocol/src/slave/handshake.rs", "rule"), rule("protocol/src/master/report.rs", "tell_end")],
        &[About::Disks],
    ),
    shown(
        "C4",
        "A copy of the slave, with its key and disk, runs beside it.",
        "The older link answers a ping, so the copy is refused with a close code of its own and the slave is \
         flagged; its job is not disturbed. A quick reboot is not taken for a copy, because then the older \
         link does not answer.",
        &[HELLO, rule("protocol/src/master/hello.rs", "link_probed")],
        &[About::Identity, About::Links],
    ),
    shown(
        "C5",
        "The same slave reconnects, and its older connection is half-open.",
        "The higher session takes over at once.",
        &[HELLO],
        &[About::Links],
    ),
    shown(
        "C6",
        "The slave's disk was moved into another box.",
        "Its fingerprint differs: it is not ready until a person has confirmed it.",
        &[AGENT_STARTED],
        &[About::Identity, About::Disks],
    ),
    shown(
        "C7",
        "A new key comes with a name that is taken.",
        "It is refused, unless a person gives the name to the new key; the jobs of the old slave stay with \
         the old key.",
        &[ADMIT],
        &[About::Identity],
    ),
    shown(
        "C8",
        "The slave was revoked while it ran a job.",
        "It finishes the job and keeps the outcome, and is refused with a reason. When it is enrolled again, \
         its job is adopted.",
        &[ADMIT],
        &[About::Identity],
    ),
    // D. The master.
    shown(
        "D1",
        "The master restarts with its data.",
        "Jobs are `stale` until their slave's handshake, and nothing is assigned to a slave before its \
         handshake.",
        &[rule("protocol/src/master/availability.rs", "ability")],
        &[About::Processes],
    ),
    shown(
        "D2",
        "The master lost all its data.",
        "Slaves go on. When they are enrolled again, their jobs are adopted with work, state and times, and \
         nothing is stopped.",
        &[rule("protocol/src/master/adopt.rs", "adopt")],
        &[About::Disks],
    ),
    shown(
        "D3",
        "The master was restored from an old backup, and a person confirmed it.",
        "The slaves' reports and recent outcomes close the gap. Jobs are offered only after the handshake; \
         starts in the past are missed and held, and do not happen all at once.",
        &[rule("protocol/src/master/command.rs", "restore_confirmed")],
        &[About::Disks],
    ),
    shown(
        "D4",
        "The master was restored, and nobody confirmed it.",
        "Slaves have seen a later commit: they go on and report, and obey nothing until a person confirms.",
        &[STANDING],
        &[About::Disks],
    ),
    shown(
        "D5",
        "There are two copies of a master, and the older one is started again.",
        "A slave obeys the higher epoch, and tells the other master so.",
        &[HELLO, STANDING],
        &[About::Identity, About::Disks],
    ),
    shown(
        "D6",
        "A slave is pointed at a master that it is not enrolled with.",
        "It is refused with a reason and reports nothing; its job goes on. When it is enrolled there, its \
         job is adopted.",
        &[ADMIT, STANDING],
        &[About::Identity],
    ),
    shown(
        "D7",
        "The master answered 201, and crashes before the job is assigned.",
        "The order is there after the restart, and a request with the same key returns it.",
        &[ORDER_PLACED],
        &[About::Processes],
    ),
    shown(
        "D8",
        "The master crashes before it answers 201.",
        "The order is there or not; a repeated request with the same key makes exactly one.",
        &[ORDER_PLACED],
        &[About::Processes],
    ),
    shown(
        "D9",
        "The link breaks during the handshake, at any of its messages.",
        "It has no effect; the next connection begins a new handshake.",
        &[HELLO, rule("protocol/src/master/settle.rs", "settled")],
        &[About::Links],
    ),
    Row {
        number: "D10",
        case: "The master's disk is full.",
        outcome: "Orders are refused with 503. Links, reports and reads go on as far as possible, and \
                  nothing that was acknowledged is lost.",
        rules: &[rule("node/src/store/keeper.rs", "low_space"), rule("node/src/driver.rs", "run")],
        // The rules never see a disk.
        lowest: Level::Processes,
        about: &[About::Disks],
        scope: Scope::Whole,
    },
    // E. Data, capability, locality.
    shown(
        "E1",
        "A report is older than the one that the master has.",
        "It is ignored, within the same store, boot and attempt.",
        &[rule("protocol/src/master/report.rs", "judge_report")],
        &[],
    ),
    shown(
        "E2",
        "The work of an assigned job changed.",
        "The digest of the work is fixed: other work does not start.",
        &[UNACCEPTABLE, SET_DESIRED],
        &[],
    ),
    Row {
        number: "E3",
        case: "An artifact was half transferred when the link broke.",
        outcome: "The transfer continues at its offset, the hash is checked, and the job cannot start before \
                  the artifact is complete.",
        rules: &[],
        lowest: Level::Processes,
        about: &[About::Links],
        scope: Scope::Nothing(
            "there are no artifacts: an order names a program and parameters, and everything else is on the \
             box. Only the value `waiting_for: artifact` is reserved.",
        ),
    },
    shown(
        "E4",
        "The same part of an output is requested twice, or after the link broke.",
        "It is addressed by its offset, so that nothing is repeated; the answer tells the offset and the \
         total length.",
        &[rule("protocol/src/master/command.rs", "log_asked"), rule("slave/src/driver.rs", "read_output")],
        &[About::Links],
    ),
    shown_without(
        shown(
            "E5",
            "The versions of the two nodes differ.",
            "Reports, cancels and forgets work; new jobs start only if both nodes know their features. \
             Without a common version the slave is refused with a reason, and its machine goes on.",
            &[rule("protocol/src/message.rs", "common")],
            &[],
        ),
        "there is only one version of the protocol so far, so only the refusal of an unknown version can be \
         shown",
    ),
    shown(
        "E6",
        "Something that a job needs is missing between accept and start.",
        "It is checked again: program, parameters and labels when the agent starts, as P6 says, program and parameters at the \
         start too, where the slave rejects the job. If the machine lacks something, such as the program's file or \
         space on its disk, the job does not end: it waits there or goes elsewhere, and the machine asks for a person.",
        &[
            BEGIN,
            rule("protocol/src/slave/place.rs", "judge_by_config"),
            rule("slave/src/machine/dispatch.rs", "place"),
            rule("protocol/src/slave/facts.rs", "postponed"),
        ],
        &[About::Processes],
    ),
    shown_without(
        shown(
            "E7",
            "Somebody stops, pauses or starts something at the machine.",
            "It is reported with source `local` and the master follows. Other work would occupy the machine.",
            &[rule("protocol/src/slave/local.rs", "obey")],
            &[About::People],
        ),
        "no driver detects work that somebody started without Reloop",
    ),
    shown(
        "E8",
        "The machine is locked or in maintenance when a job is to be assigned.",
        "The job is not offered. If the lock comes too late for that, the slave declines the offer with the \
         reason, and gets no further offer until it reports a ready machine.",
        &[rule("protocol/src/master/availability.rs", "ability"), UNACCEPTABLE],
        &[About::People],
    ),
    shown(
        "E9",
        "The box reboots again and again during a job.",
        "Interruptions are counted per attempt; after the limit the job is uncertain and a person is asked.",
        &[PROBED],
        &[About::Processes],
    ),
    shown(
        "E10",
        "The agent gets no processor time and misses its pings; its job runs on.",
        "Only the last contact changes.",
        &[],
        &[About::Processes, About::Links],
    ),
    // P. Placement.
    shown(
        "P1",
        "A slave holds work for next week, or orders wait for a person's release; work comes that could start now.",
        "What can't start yet takes no place of what can: `deferred_capacity` bounds it. What has to be released stays in the \
         queue until then, and waits there again if the release lapses.",
        &[rule("protocol/src/master/availability.rs", "room"), UNACCEPTABLE, HELD_BY],
        &[],
    ),
    shown(
        "P2",
        "A slave can't start what it has: its machine is not cleared, has failed, needs a person, is locked or in \
         maintenance, is disabled or drained. Another slave could.",
        "It gets nothing new and has its unstarted work recalled as soon as another could take it, for deferred work \
         when the time is near. A slave that is away keeps what it has.",
        &[
            rule("protocol/src/master/availability.rs", "ability"),
            rule("protocol/src/master/placement.rs", "fill"),
            rule("protocol/src/master/line.rs", "is_movable"),
        ],
        &[],
    ),
    shown(
        "P3",
        "An urgent job comes while the slaves are full of jobs that have not begun.",
        "The last in line of them is recalled, and the urgent one gets its place. Whatever becomes of the recall, each job is \
         done once. While it waits behind the work of another slave, a slave that could do it is given nothing less urgent. A slave without a link goes by priority among what it has.",
        &[
            rule("protocol/src/master/placement.rs", "serve_job"),
            rule("protocol/src/master/elsewhere.rs", "goes_there_first"),
            BEGIN,
        ],
        &[],
    ),
    shown(
        "P4",
        "Jobs fail one after the other at a machine; an order wants what fails to be tried again.",
        "After `max_failures_in_row` different jobs the machine needs a person, and its work goes elsewhere. A retry waits, each time \
         twice as long, and prefers a slave where the job has not failed.",
        &[
            rule("protocol/src/slave/machine.rs", "failed"),
            rule("protocol/src/master/report.rs", "try_again"),
            rule("protocol/src/master/placement.rs", "look"),
        ],
        &[],
    ),
    shown(
        "P5",
        "A slave says that it can't do a job, whenever it is asked: its config does not allow the parameters.",
        "That slave is not asked again before its agent is restarted. Others are; the last no ends the job, and each stays in \
         `earlier` with its reason.",
        &[
            rule("protocol/src/master/report.rs", "note_rejection"),
            rule("protocol/src/master/placement.rs", "can_do"),
        ],
        &[],
    ),
    shown(
        "P6",
        "A slave's config is changed under the jobs that it has accepted.",
        "What it requires still has to hold when a job starts, with a link or without: it waits for the master to recall it. What has begun \
         stays, and a person is asked.",
        &[
            rule("protocol/src/slave/place.rs", "judge_by_config"),
            HELD_BY,
            rule("protocol/src/master/report.rs", "take"),
        ],
        &[],
    ),
    shown(
        "P7",
        "A machine can't begin a job because a disk is full or a program is missing, and that is mended without a word.",
        "No job ends by it. The slave asks its machine again, less and less often, and is ready when it could begin.",
        &[rule("protocol/src/slave/checks.rs", "check_machine")],
        &[],
    ),
    shown(
        "P8",
        "Urgent work comes faster than the machines can do it, and a job of low priority waits.",
        "The highest priority goes first, so the low one waits as long as the stream lasts. Where people set `ageing_seconds`, each step \
         of priority is worth so long a wait, and no more: a slave gets nothing that it would start before what goes first.",
        &[
            rule("protocol/src/master/line.rs", "place"),
            rule("protocol/src/master/elsewhere.rs", "would_overtake"),
        ],
        &[],
    ),
];

//! The published disagreements of the two nodes, as data: what each side holds, what must come out, what decides it,
//! and where it has to be shown.
//!
//! What decides a row is found in two places. Lines of the verdict table (`protocol/src/reconcile.rs`) bear the numbers
//! of the rows that they answer. What is decided elsewhere is a named rule, a function, and stands here.
//!
//! Which tests show a row is not written down anywhere: a test bears the number of its row in its name, and
//! [`crate::coverage`] collects them.

use reloop_protocol::reconcile::{Line, TABLE};

#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number: a letter for the field, and a count.
    pub number: &'static str,
    /// What each side holds, or what happens.
    pub case: &'static str,
    pub outcome: &'static str,
    /// What decides it beside the verdict table.
    pub rules: &'static [Rule],
    /// The lowest level that can show it.
    pub lowest: Level,
    /// What it is about that only real processes show. Whatever is named here needs a test end to end.
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
    /// Nodes, jobs and boxes that die and come back.
    Processes,
    /// What a disk keeps, loses, or is replaced by.
    Disks,
    /// Clocks that jump, stand still, or are not trusted.
    Clocks,
    /// Connections that break, hang, or stay away.
    Links,
    /// Who somebody is: keys, names, enrolment, copies.
    Identity,
    /// What people do at a machine.
    People,
}

impl About {
    /// The word in the coverage list.
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

/// How much of a row the product has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    Whole,
    /// Not this part, which therefore no test shows.
    Without(&'static str),
    /// Nothing of it, and why. No test may bear its number.
    Nothing(&'static str),
}

impl Row {
    /// The lines of the verdict table that answer it.
    pub fn lines(&self) -> impl Iterator<Item = &'static Line> {
        let number = self.number;
        TABLE.iter().filter(move |line| line.cases.contains(&number))
    }

    /// The levels on which it has to be shown.
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

/// A row that the rules show, and real processes too where it is about something that the rules do not have.
const fn shown(
    number: &'static str,
    case: &'static str,
    outcome: &'static str,
    rules: &'static [Rule],
    about: &'static [About],
) -> Row {
    Row { number, case, outcome, rules, lowest: Level::Rules, about, scope: Scope::Whole }
}

/// The same, but for a part that the product does not have.
const fn shown_without(row: Row, missing: &'static str) -> Row {
    Row { scope: Scope::Without(missing), ..row }
}

const ABSENT: Rule = rule("protocol/src/master/settle.rs", "apply_absent");
const ADMIT: Rule = rule("protocol/src/master/enrolment.rs", "admit");
const AGENT_STARTED: Rule = rule("protocol/src/slave/machine.rs", "agent_started");
const BEGIN: Rule = rule("protocol/src/slave/schedule.rs", "begin");
const COME_DUE: Rule = rule("protocol/src/slave/schedule.rs", "come_due");
const ENDED: Rule = rule("protocol/src/slave/machine.rs", "ended");
const FOUND: Rule = rule("protocol/src/slave/machine.rs", "found");
const HELD_BY: Rule = rule("protocol/src/slave/schedule.rs", "held_by");
const HELLO: Rule = rule("protocol/src/master/hello.rs", "hello_received");
const MASTER_TIME: Rule = rule("protocol/src/slave/clock.rs", "master_time");
const OLDER: Rule = rule("protocol/src/master/attempts.rs", "compare");
const ORDER_PLACED: Rule = rule("protocol/src/master/command.rs", "order_placed");
const SAY_AGAIN: Rule = rule("protocol/src/slave/desired.rs", "say_again");
const STANDING: Rule = rule("protocol/src/slave/handshake.rs", "standing");
const UNACCEPTABLE: Rule = rule("protocol/src/slave/desired.rs", "unacceptable");
const SET_DESIRED: Rule = rule("protocol/src/slave/desired.rs", "set_desired");

pub const ROWS: &[Row] = &[
    // A. Assignment, start, cancel.
    shown(
        "A1",
        "The master assigned it, the slave, whose memory is sound, never got it.",
        "It is offered again under the same attempt while its window is open; else it is back in the queue, canceled \
         or expired.",
        &[ABSENT],
        &[About::Links],
    ),
    shown(
        "A2",
        "The slave took it, and its word about that was lost.",
        "The handshake's snapshot is the confirmation; nothing is sent twice.",
        &[],
        &[About::Links],
    ),
    shown(
        "A3",
        "The master released the start, the slave still holds the job unstarted.",
        "The conditional start is given again; past its latest time the job is held and a person is asked.",
        &[HELD_BY],
        &[],
    ),
    shown(
        "A4",
        "The master has it as assigned, the slave runs it already.",
        "The master takes the slave's phase and start time.",
        &[],
        &[],
    ),
    shown(
        "A5",
        "The master has it as accepted or under way; the slave, whose memory is sound, has neither job nor outcome.",
        "A broken promise: the job is uncertain, the slave's machine needs a look, and nothing runs again by itself.",
        &[ABSENT],
        &[],
    ),
    shown(
        "A6",
        "The slave ran it, and comes back after a crash or a power cut.",
        "The machine is asked: alive is running, ended is its outcome; else the order's rule decides: hold, fail, or \
         restart.",
        &[AGENT_STARTED, FOUND],
        &[About::Processes],
    ),
    shown(
        "A7",
        "The slave comes up with an intent to start on its disk and no result.",
        "The machine is asked. Proof that it never began lets it start; without proof it is uncertain and the machine \
         not ready. Never a second blind start.",
        &[AGENT_STARTED, FOUND],
        &[About::Processes],
    ),
    shown(
        "A8",
        "The slave ended it while offline, the master has it as running.",
        "The outcome is recorded with the slave's times, then the slave forgets it; a repetition changes nothing.",
        &[],
        &[About::Links],
    ),
    shown(
        "A9",
        "It succeeded at the slave while offline, and the master canceled it meanwhile.",
        "Succeeded, flagged `cancel_too_late`.",
        &[ENDED],
        &[],
    ),
    shown(
        "A10",
        "It failed at the slave while offline, and the master canceled it meanwhile.",
        "Failed, with the cancel noted: not canceled.",
        &[ENDED],
        &[],
    ),
    shown(
        "A11",
        "The master canceled it, the slave runs it.",
        "The slave stops it in the mode that the client chose; a machine may refuse, then it is running again and says \
         so.",
        &[rule("protocol/src/slave/desired.rs", "cancel")],
        &[],
    ),
    shown(
        "A12",
        "The master canceled it, the slave holds it unstarted.",
        "It is dropped and canceled.",
        &[],
        &[],
    ),
    shown(
        "A13",
        "The master canceled it, the slave is silent for weeks.",
        "The cancel stays pending; only a person's `abandon` ends it, and that burns the attempt.",
        &[rule("protocol/src/master/command.rs", "abandon")],
        &[],
    ),
    shown(
        "A14",
        "A person gave the job to another slave, and the first comes back with the older attempt unstarted.",
        "The first drops it.",
        &[],
        &[],
    ),
    shown(
        "A15",
        "The same, but the first runs its attempt and the second has not begun.",
        "The first keeps it, the second is asked to give it back.",
        &[OLDER],
        &[],
    ),
    shown(
        "A16",
        "The same, but both run.",
        "Both finish, flagged `duplicate`; a person decides, and nothing is stopped by itself.",
        &[OLDER],
        &[],
    ),
    shown(
        "A17",
        "The same, but the first has ended its attempt and the second runs.",
        "The first's outcome is recorded for its attempt; the second's cancel is offered to a person and not sent.",
        &[OLDER],
        &[],
    ),
    shown(
        "A18",
        "The same, but both have ended.",
        "The first success is the job's outcome, the other is kept beside it.",
        &[OLDER],
        &[],
    ),
    shown(
        "A19",
        "The slave confirmed a cancel and lost its power; the machine would go on.",
        "Canceled was on its disk before the machine was touched: it stays canceled.",
        &[FOUND],
        &[About::Processes],
    ),
    shown(
        "A20",
        "The master offers an attempt of which the slave has the outcome.",
        "The slave answers with the outcome and never runs it again.",
        &[SAY_AGAIN],
        &[About::Disks],
    ),
    shown(
        "A21",
        "The master offers a job to a slave that is full.",
        "Declined for now, with what holds the place; the job is back in the queue with that reason.",
        &[UNACCEPTABLE, rule("protocol/src/master/decline.rs", "declined")],
        &[],
    ),
    shown(
        "A22",
        "A job waits long.",
        "`explain` names every slave and why not there: offline, mode, program, label, room, readiness, window.",
        &[rule("protocol/src/master/explain.rs", "why_not")],
        &[],
    ),
    // B. Deferred jobs and time.
    shown(
        "B1",
        "The start time comes while the slave is offline.",
        "The slave starts it by itself.",
        &[COME_DUE, BEGIN],
        &[About::Clocks, About::Links],
    ),
    shown(
        "B2",
        "The start time passed while the slave was off.",
        "By the order's `late`: hold, run if its deadline allows, or skip; the lateness is reported.",
        &[rule("protocol/src/slave/schedule.rs", "miss_start")],
        &[About::Clocks, About::Processes],
    ),
    shown(
        "B3",
        "The master changed the time while the slave was offline.",
        "Applied if it has not started; else the slave's fact stands and shows under which desired it started.",
        &[SET_DESIRED],
        &[],
    ),
    shown(
        "B4",
        "The master withdrew the start, and the slave runs it already.",
        "It goes on: a cancel is for a client to ask for, never an automatic stop.",
        &[SET_DESIRED],
        &[],
    ),
    shown(
        "B5",
        "\"Start now\" is said while the slave is offline.",
        "One desired, the newest wins, with a latest time; no stored command.",
        &[HELD_BY],
        &[],
    ),
    shown(
        "B6",
        "Two deferred jobs of one slave come due at the same time.",
        "One runs, the other waits its turn while its window allows.",
        &[BEGIN, rule("protocol/src/slave/schedule.rs", "lapse")],
        &[],
    ),
    shown(
        "B7",
        "The slave booted without contact, and its clock is not to be trusted.",
        "A deferred job waits, with `waiting_for: clock`.",
        &[MASTER_TIME, HELD_BY],
        &[About::Clocks],
    ),
    shown(
        "B8",
        "A wall clock jumps by hours, forwards or back, at the slave or the master.",
        "A job fires once and not early; elapsed times stay right.",
        &[MASTER_TIME, rule("protocol/src/master/hello.rs", "clock_set")],
        &[About::Clocks],
    ),
    shown(
        "B9",
        "Its time comes, and the machine is not ready.",
        "It waits for the machine until its deadline, then it has expired.",
        &[
            rule("protocol/src/slave/schedule.rs", "lapse"),
            rule("protocol/src/slave/schedule.rs", "machine_is_barred"),
        ],
        &[],
    ),
    shown(
        "B10",
        "Its longest run time passes while offline.",
        "The slave acts by itself: flagged `overdue`, or stopped, as the order says.",
        &[rule("protocol/src/slave/schedule.rs", "overrun")],
        &[About::Clocks, About::Links],
    ),
    // C. Store and identity.
    shown(
        "C1",
        "The slave has a new database under its old key: its disk was replaced.",
        "Its jobs are uncertain, and the machine starts nothing until a person has said what became of it.",
        &[AGENT_STARTED, ABSENT],
        &[About::Disks],
    ),
    shown(
        "C2",
        "The slave's database does not open.",
        "It is set aside, a new one is made, then as C1; the machine is not touched.",
        &[AGENT_STARTED, rule("node/src/store/opening.rs", "start_afresh")],
        &[About::Disks],
    ),
    shown(
        "C3",
        "The slave's database went back in time.",
        "Its rows are not trusted: nothing deferred fires, what it had forgotten does not run again, and it gets a new \
         store id.",
        &[rule("protocol/src/slave/handshake.rs", "rule")],
        &[About::Disks],
    ),
    shown(
        "C4",
        "A copy of the slave's key and disk is alive beside it.",
        "The older link answers a ping, so the copy is refused with its own close code and the slave is flagged; its \
         job is undisturbed. A quick reboot is not taken for a copy, because then the older link does not answer.",
        &[HELLO, rule("protocol/src/master/hello.rs", "link_probed")],
        &[About::Identity, About::Links],
    ),
    shown(
        "C5",
        "The same slave comes back, and its older connection is half-open.",
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
        "A new key comes under a name that is taken.",
        "Refused, or a new slave by a person's choice; jobs of the old one stay with the old key.",
        &[ADMIT],
        &[About::Identity],
    ),
    shown(
        "C8",
        "The slave was revoked while it ran a job.",
        "It finishes and keeps the outcome, and is refused with a reason; enrolled again, its job is taken up.",
        &[ADMIT],
        &[About::Identity],
    ),
    // D. The master.
    shown(
        "D1",
        "The master restarts with its data.",
        "Jobs are `stale` until each slave's handshake, and nothing is given to a slave before that.",
        &[rule("protocol/src/master/placement.rs", "takes_work")],
        &[About::Processes],
    ),
    shown(
        "D2",
        "The master lost all its data.",
        "Slaves go on; enrolled again, their jobs are adopted with work, phase and times, and nothing is stopped.",
        &[rule("protocol/src/master/adopt.rs", "adopt")],
        &[About::Disks],
    ),
    shown(
        "D3",
        "The master was restored from an old backup, and a person confirmed it.",
        "What slaves remember closes the gap; assignments are offered again only after the handshake; past starts are \
         missed and held, not fired.",
        &[rule("protocol/src/master/command.rs", "restore_confirmed")],
        &[About::Disks],
    ),
    shown(
        "D4",
        "The master's files were put back, and nobody confirmed it.",
        "Slaves have seen a later commit: they go on and report, and take no commands until a person confirms.",
        &[STANDING],
        &[About::Disks],
    ),
    shown(
        "D5",
        "There are two copies of a master, and the older one is revived.",
        "A slave obeys the higher epoch, and the other is told so.",
        &[HELLO, STANDING],
        &[About::Identity, About::Disks],
    ),
    shown(
        "D6",
        "A slave is pointed at a master that it is not enrolled with.",
        "It is refused with a reason and tells nothing; its job goes on. Enrolled there, its job is adopted.",
        &[ADMIT, STANDING],
        &[About::Identity],
    ),
    shown(
        "D7",
        "201 was given, and the master dies before the order is assigned out.",
        "The order is there after the restart, and a repetition with the same key finds it.",
        &[ORDER_PLACED],
        &[About::Processes],
    ),
    shown(
        "D8",
        "The master dies before it could answer 201.",
        "The order is there or not, and the repetition with the same key makes exactly one.",
        &[ORDER_PLACED],
        &[About::Processes],
    ),
    shown(
        "D9",
        "The link breaks inside the handshake, at any of its messages.",
        "It has no effect; the next connection begins anew.",
        &[HELLO, rule("protocol/src/master/settle.rs", "settled")],
        &[About::Links],
    ),
    Row {
        number: "D10",
        case: "The master's disk is full.",
        outcome: "Orders are refused with 503; links, reports and reads go on as far as they can, and nothing that was \
                  acknowledged is lost.",
        rules: &[rule("node/src/store/keeper.rs", "low_space"), rule("node/src/driver.rs", "run")],
        // The rules never see a disk: a commit that fails has performed nothing.
        lowest: Level::Processes,
        about: &[About::Disks],
        scope: Scope::Whole,
    },
    // E. Data, capability, locality.
    shown(
        "E1",
        "A report is older than what the master has.",
        "Ignored, within the same store, boot and attempt.",
        &[rule("protocol/src/master/report.rs", "judge_report")],
        &[],
    ),
    shown(
        "E2",
        "The work under an assignment changed.",
        "Its digest is pinned: what differs does not start.",
        &[UNACCEPTABLE, SET_DESIRED],
        &[],
    ),
    Row {
        number: "E3",
        case: "An artifact was half transferred when the link broke.",
        outcome: "It goes on by offset, is checked by its hash, and is not startable before it is whole.",
        rules: &[],
        lowest: Level::Processes,
        about: &[About::Links],
        scope: Scope::Nothing(
            "there are no artifacts: an order names a program and parameters, and what they need is on the box. Only the \
             word `waiting_for: artifact` is kept for them.",
        ),
    },
    shown(
        "E4",
        "The same stretch of an output is asked for twice, or after a break.",
        "It is addressed by its offset: no doubles, and where it begins and how long the whole is are said.",
        &[rule("protocol/src/master/command.rs", "log_asked"), rule("slave/src/driver.rs", "read_output")],
        &[About::Links],
    ),
    shown_without(
        shown(
            "E5",
            "The versions of the two nodes differ.",
            "Reports, cancels and forgets go on, new starts only if both know them; without a common version the slave is \
             refused with a reason and its machine goes on.",
            &[rule("protocol/src/message.rs", "common")],
            &[],
        ),
        "there is one version of the protocol so far, so only the refusal of one that is not spoken can be shown",
    ),
    shown_without(
        shown(
            "E6",
            "What a job needs is gone between accept and start.",
            "It is looked at again at the start: rejected with the reason if the slave does not offer it any more. What only the \
             machine lacks, such as the program's file or room on its disk, ends no job: it waits there, and the machine for a \
             person.",
            &[
                BEGIN,
                rule("slave/src/machine/dispatch.rs", "place"),
                rule("protocol/src/slave/machine.rs", "postponed"),
            ],
            &[About::Processes],
        ),
        "a label that is gone is not looked at again: only the master knows what an order requires, and it looks when it \
         hands out",
    ),
    shown_without(
        shown(
            "E7",
            "Somebody stops, pauses or starts something at the machine.",
            "It is reported with source `local` and the master follows; foreign work would occupy the place.",
            &[rule("protocol/src/slave/local.rs", "obey")],
            &[About::People],
        ),
        "no driver can tell of work that somebody started without Reloop",
    ),
    shown(
        "E8",
        "The machine is locked or in maintenance when a job is assigned out.",
        "It is not offered; a race is declined with the reason, without a loop of offers, and ends when the machine says \
         that it is ready.",
        &[rule("protocol/src/master/placement.rs", "takes_work"), UNACCEPTABLE],
        &[About::People],
    ),
    shown(
        "E9",
        "The box reboots again and again in mid-job.",
        "Counted per attempt; past the limit it is held and a person is asked.",
        &[FOUND],
        &[About::Processes],
    ),
    shown(
        "E10",
        "The agent is starved and misses its pings, while the job is fine.",
        "Only the last contact changes.",
        &[],
        &[About::Processes, About::Links],
    ),
];

//! Limits on the contents of a message, beside the size of the whole message.
//!
//! What a node takes over from a peer goes into records on its disk, and a record has a largest size. A peer that could exceed
//! it could stop the node from writing, so each message is checked before it becomes an event.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::Commit;
use crate::job::State;
use crate::message::{
    Declined, Hello, MachineReport, MasterBinding, Message, Reason, Record, Reply, Report, Row,
};
use crate::spec::{DesiredState, SPEC_BYTES};
use crate::wire::Frame;

/// A slave's name, in bytes; the characters are a to z, 0 to 9, dot, dash and underscore.
pub const NAME_BYTES: usize = 63;

/// The agent's version, in bytes.
pub const AGENT_BYTES: usize = 64;

/// All names of programs together, or all labels together, in bytes: the slave record is one record of at most 64 KiB.
pub const LIST_BYTES: usize = 16 * 1024;

/// Rows in a Hello, and as many recent outcomes; also the jobs that a master takes a slave to hold.
pub const ROWS: usize = 256;

/// One text for people, in bytes: the longest that a node writes names 64 jobs.
pub const TEXT_BYTES: usize = 2560;

/// Jobs that a slave holds, ended ones included, and the highest `capacity` that counts: one Settled can tell of so many.
pub const CAPACITY: u16 = 64;

/// What kept a machine from beginning a job, in bytes: the slave keeps it on disk and sends it in each machine report.
pub const CAUSE_BYTES: usize = 512;

/// The highest attempt, generation or epoch that is accepted from a peer. They are raised by one or by a small step, so they never
/// come near it; a peer that named the highest number there is would leave none for whoever counts on from it.
pub const COUNT: u32 = u32::MAX / 2;

/// The highest commit number that is accepted from a peer, for the same reason.
pub const COMMITS: u64 = u64::MAX / 2;

/// How much of a label or a value is repeated in a sentence, in bytes.
const SHOWN_BYTES: usize = 128;

/// Incarnations in a Challenge. A slave that has not seen its master for more restarts than that is judged by the oldest one.
pub const INCARNATIONS: usize = 32;

/// The latest time that a master's clock may show, in milliseconds since the Unix epoch: the end of the year 9999. It shows none before
/// the epoch either. A slave moves a release by what the clock was set back; past the ends of what [`Time`](crate::time::Time) holds, a release
/// that is over would hold again.
pub const LATEST_CLOCK: i64 = 253_402_300_799_999;

/// How far ahead of the master's own epoch one may be that a slave says it has obeyed: more than people restore a master, and
/// too few for a lying slave to use the numbers up.
pub const EPOCHS_AHEAD: u32 = 1000;

/// The highest attempt of a job that a master takes over from a slave. What it counts on from there stays below [`COUNT`].
pub const ADOPTED_ATTEMPT: u32 = COUNT / 2;

/// The highest generation of a job that a master takes over from a slave. What it counts on from there stays below [`COUNT`]; those
/// of the last numbered epoch are above half of it.
pub const ADOPTED_GENERATION: u32 = COUNT - COUNT / 4;

/// One record that a node writes, encoded, in bytes. A node stops for good when a record does not fit into its store, so no
/// message may let one grow past this: the other limits are chosen for that.
pub const RECORD_BYTES: usize = 80 * 1024 - 5;

/// A job's output in one answer, in bytes: a quarter of the largest message, so that heartbeats get through on a slow link.
pub const LOG_BYTES: u32 = 64 * 1024;

/// Checks a frame against the limits.
///
/// # Errors
/// Its commit number or something in its message exceeds a limit; the text says what.
pub fn check_frame(frame: &Frame) -> Result<(), &'static str> {
    check_commit(frame.commit)?;
    check(&frame.message)
}

/// Checks a message against the limits.
///
/// # Errors
/// Something in it exceeds a limit; the text says what.
pub fn check(message: &Message) -> Result<(), &'static str> {
    match message {
        Message::Hello(hello) => check_hello(hello),
        Message::Settled(settled) => {
            if settled.reports.len() + settled.records.len() + settled.declined.len() > 3 * ROWS {
                return Err("too many jobs in a Settled");
            }
            settled.reports.iter().try_for_each(check_report)?;
            settled.records.iter().try_for_each(check_record)?;
            settled.declined.iter().try_for_each(check_declined)?;
            check_machine(&settled.machine)
        }
        Message::Report(report) => check_report(report),
        Message::Declined(declined) => check_declined(declined),
        Message::Refuse(refuse) => check_text(&refuse.text),
        Message::Welcome(welcome) => {
            check_binding(&welcome.binding)?;
            check_count(welcome.operating_mode.generation.0)?;
            welcome
                .rulings
                .iter()
                .filter_map(|ruling| ruling.desired_state.as_ref())
                .try_for_each(check_desired_state)
        }
        Message::Machine(machine) => check_machine(machine),
        Message::DesiredState(desired_state) => check_desired_state(desired_state),
        Message::OperatingMode(operating_mode) => check_count(operating_mode.generation.0),
        Message::Challenge(challenge) => {
            if challenge.begun.len() > INCARNATIONS {
                return Err("too many incarnations in a Challenge");
            }
            if !(0..=LATEST_CLOCK).contains(&challenge.time.0) {
                return Err("a master's clock shows a time between the years 1970 and 9999");
            }
            challenge.begun.iter().try_for_each(|begun| check_commit(begun.at))
        }
        Message::Answer(answer) => check_reply(&answer.answer),
        Message::Forget(_) | Message::Ask(_) | Message::Ping | Message::Pong => Ok(()),
    }
}

/// How many bytes labels take: each with a length before its name and before its value.
pub(crate) fn labels_size(labels: &BTreeMap<String, String>) -> usize {
    labels.iter().map(|(name, value)| name.len() + value.len() + 2).sum()
}

fn check_reply(reply: &Reply) -> Result<(), &'static str> {
    match reply {
        Reply::Done => Ok(()),
        Reply::Refused(text) => check_text(text),
        Reply::Log { offset, total, bytes } => {
            let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
            if length > u64::from(LOG_BYTES) {
                return Err("an answer has at most 64 KiB of output");
            }
            if offset.checked_add(length).is_none_or(|end| length > 0 && end > *total) {
                return Err("a part of an output is past its end");
            }
            Ok(())
        }
    }
}

fn check_declined(declined: &Declined) -> Result<(), &'static str> {
    check_count(declined.attempt.0)?;
    check_count(declined.generation.0)?;
    check_reason(&declined.reason)
}

/// The rows of one list: each of another job, and each of a state that it can tell of.
fn check_rows(rows: &[Row], can_tell: impl Fn(State) -> bool) -> Result<(), &'static str> {
    let mut jobs = BTreeSet::new();
    for row in rows {
        check_count(row.attempt.0)?;
        check_count(row.generation.0)?;
        if !can_tell(row.state) {
            return Err("a slave does not say this of a job");
        }
        if !jobs.insert(row.job) {
            return Err("two rows of one job");
        }
    }
    Ok(())
}

fn check_hello(hello: &Hello) -> Result<(), &'static str> {
    let programs: usize = hello.programs.iter().map(|program| program.len() + 1).sum();
    if hello.name.is_empty() || hello.name.len() > NAME_BYTES {
        return Err("a name of 1 to 63 bytes is allowed");
    }
    // It is shown to people and in logs, so it may hold no control characters.
    if !hello
        .name
        .bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte))
    {
        return Err("a name is made of a to z, 0 to 9, dot, dash and underscore");
    }
    if hello.agent.len() > AGENT_BYTES {
        return Err("the agent's version is too long");
    }
    if programs > LIST_BYTES || labels_size(&hello.labels) > LIST_BYTES {
        return Err("too many programs or labels: 16 KiB of each are allowed");
    }
    if hello.rows.len() > ROWS || hello.recent_outcomes.len() > ROWS {
        return Err("too many jobs in a Hello");
    }
    hello.binding.iter().try_for_each(check_binding)?;
    check_machine(&hello.machine)?;
    check_rows(&hello.rows, State::is_slaves_word)?;
    check_rows(&hello.recent_outcomes, |state| state.is_slaves_word() && state.is_ended())
}

fn check_binding(binding: &MasterBinding) -> Result<(), &'static str> {
    check_commit(binding.commit)?;
    check_count(binding.epoch.0)
}

fn check_commit(commit: Commit) -> Result<(), &'static str> {
    if commit.0 > COMMITS { Err("a number is past anything that is counted to") } else { Ok(()) }
}

fn check_machine(machine: &MachineReport) -> Result<(), &'static str> {
    if machine.cause.as_ref().is_some_and(|cause| cause.len() > CAUSE_BYTES) {
        return Err("the cause of a machine's attention is too long");
    }
    check_count(machine.operating_mode.generation.0)
}

fn check_desired_state(desired_state: &DesiredState) -> Result<(), &'static str> {
    if labels_size(&desired_state.requires) > LIST_BYTES {
        return Err("too many labels: 16 KiB are allowed");
    }
    check_count(desired_state.attempt.0)?;
    check_count(desired_state.generation.0)
}

fn check_count(count: u32) -> Result<(), &'static str> {
    if count > COUNT { Err("a number is past anything that is counted to") } else { Ok(()) }
}

fn check_record(record: &Record) -> Result<(), &'static str> {
    if record.spec.size() + labels_size(&record.requires) > SPEC_BYTES {
        return Err("a job's work is larger than 32 KiB");
    }
    check_report(&record.report)
}

fn check_report(report: &Report) -> Result<(), &'static str> {
    if !report.state.is_slaves_word() {
        return Err("a slave does not say this of a job");
    }
    check_count(report.attempt.0)?;
    check_count(report.generation.0)?;
    report.note.as_deref().map_or(Ok(()), check_text)?;
    report.reason.as_ref().map_or(Ok(()), check_reason)?;
    report.outcome.as_ref().map_or(Ok(()), |outcome| check_text(&outcome.text))
}

fn check_reason(reason: &Reason) -> Result<(), &'static str> {
    check_text(&reason.text)
}

fn check_text(text: &str) -> Result<(), &'static str> {
    if text.len() > TEXT_BYTES { Err("a text is longer than 2560 bytes") } else { Ok(()) }
}

/// A peer's text for a log or a terminal: control characters become spaces.
pub fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl Report {
    /// The report with its texts cut to this many bytes each.
    pub(crate) fn clipped(mut self, bytes: usize) -> Self {
        if let Some(note) = &mut self.note {
            clip(note, bytes);
        }
        if let Some(reason) = &mut self.reason {
            clip(&mut reason.text, bytes);
        }
        if let Some(outcome) = &mut self.outcome {
            clip(&mut outcome.text, bytes);
        }
        self
    }
}

/// The beginning of a word that a peer or a client chose, short enough for a sentence.
pub(crate) fn shown(word: &str) -> &str {
    &word[..word.floor_char_boundary(SHOWN_BYTES)]
}

/// Cuts a text to at most this many bytes, between two characters.
pub(crate) fn clip(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

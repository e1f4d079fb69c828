//! The meanings of the words of jobs and slaves, and the closest terms of standards and other systems.

use reloop_protocol::job::State;
use reloop_protocol::master::{Delivery, Need, WhyNot};
use reloop_protocol::message::{Activity, Attention, CloseCode, Mode, ReasonCode, Source, WaitingFor};

pub(super) struct JobRow {
    pub(super) means: &'static str,
    /// ISA-95 / OPC 10031-4, PackML, SEMI E40, AWS IoT Jobs, Nomad.
    pub(super) maps: [&'static str; 5],
}

pub(super) const JOB_STANDARDS: [&str; 5] =
    ["ISA-95 (OPC 10031-4)", "PackML unit", "SEMI E40 process job", "AWS IoT Jobs", "Nomad allocation"];

pub(super) fn job(state: State) -> JobRow {
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
            "Somebody canceled it.",
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

/// (meaning, [OPC UA Machinery operation mode, Nomad node, SEMI E10 time])
pub(super) fn mode(mode: Mode) -> (&'static str, [&'static str; 3]) {
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

/// (meaning, [OPC UA Machinery item, PackML, MTConnect execution, SEMI E10])
pub(super) fn activity(activity: Activity) -> (&'static str, [&'static str; 4]) {
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

/// (meaning, what ends the waiting)
pub(super) fn waiting_for(waiting: WaitingFor) -> (&'static str, &'static str) {
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

pub(super) fn source(source: Source) -> &'static str {
    match source {
        Source::Remote => "the master's desired state",
        Source::Local => "a person at the machine",
        Source::Slave => "the slave's own rules",
        Source::Machine => "the machine",
    }
}

/// (meaning, what a person does before `clear`)
pub(super) fn attention(attention: Attention) -> (&'static str, &'static str) {
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

pub(super) fn flag(name: &str) -> Option<&'static str> {
    Some(match name {
        "overdue" => "it runs longer than its order allows",
        "cancel_too_late" => "the cancel came when it was over, or its mode could no longer stop it",
        "duplicate" => "two slaves had it under way",
        "adopted" => "the master learned of it from its slave",
        "late_result" => "the outcome came after a person had given the job up",
        "overtaken" => {
            "its slave acted before it knew what was wanted last, and against it: it began or expired although another plan had been \
             accepted, or ended otherwise than a person had said"
        }
        "missed_start" => "its start was missed: its slave found it past by more than its tolerance",
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

pub(super) fn delivery_means(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Applied => "it is done",
        Delivery::Sent => "it is on its way to the slave",
        Delivery::PendingOnReconnect => {
            "the slave is not there: the command waits as part of the job, and counts at the next handshake if it is still the \
             newest; if the slave has acted otherwise by then, the job is flagged `overtaken` or `cancel_too_late`"
        }
        Delivery::TooLate => "what it was to prevent has happened",
    }
}

pub(super) fn need(need: Need) -> &'static str {
    match need {
        Need::Doubts => "a slave has seen a later state of this master and obeys nothing",
        Need::Cloned => "another box came with a slave's key while that slave answered",
        Need::Attention => "something at the machine has to be looked at",
        Need::Uncertain => "nobody knows how the job ended",
        Need::Unresolved => "the slave does not know how an attempt ended that the master has given up",
        Need::Mismatch => "the slave holds other work under the job's name",
        Need::MissedStart => "the start was missed, and the order says `late: hold`",
        Need::Unloading => "the machine has ended a job, and nobody has confirmed that it is clear",
        Need::Overdue => "the job runs longer than its order allows",
        Need::Approval => "a key waits to be enrolled",
        Need::Restored => "the job waited when the master was restored, and nobody has released it since",
        Need::ReleaseLapsed => "the job was released for a start that is over",
        Need::Held => "the order says that the job waits for a release",
        Need::LocalLock => "a person at the machine has locked remote starts out",
    }
}

/// (meaning, what ends it)
pub(super) fn why_not(why: WhyNot) -> (&'static str, &'static str) {
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

/// (meaning, what a person can do)
pub(super) fn reason(code: ReasonCode) -> (&'static str, &'static str) {
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
        ReasonCode::MissedStart => {
            ("its time was found past by more than the slave's tolerance", "`release`")
        }
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

pub(super) fn close(code: CloseCode) -> (&'static str, &'static str) {
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

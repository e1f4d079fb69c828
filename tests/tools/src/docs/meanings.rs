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
            "It is on the master's disk and at no slave.",
            ["NotAllowedToStart; AllowedToStart.Waiting", "—", "pooled", "QUEUED", "pending"],
        ),
        State::Assigned => (
            "It is assigned to a slave under an attempt; the slave has not confirmed.",
            ["AllowedToStart.Waiting", "—", "pooled", "QUEUED", "pending"],
        ),
        State::Accepted => (
            "It is on the slave's disk. From here on the slave decides, with or without a link. \
             `waiting_for` says what it waits for.",
            ["AllowedToStart.Ready, .Loaded, .Waiting", "Idle", "waiting for start", "QUEUED", "pending"],
        ),
        State::Starting => (
            "The intent to start is on the slave's disk, and the machine is told to start.",
            ["Running", "Resetting, Starting", "setting up", "IN_PROGRESS", "pending"],
        ),
        State::Running => {
            ("The machine works on it.", ["Running", "Execute", "processing", "IN_PROGRESS", "running"])
        }
        State::Paused => (
            "It is interrupted and can be resumed; the reason says by whom.",
            ["Interrupted (Held or Suspended)", "Held, Suspended", "paused", "IN_PROGRESS", "running"],
        ),
        State::Stopping => (
            "The intent to stop is on the slave's disk, and the machine is stopping.",
            ["Running", "Stopping, Aborting", "stopping, aborting", "IN_PROGRESS", "running (desired stop)"],
        ),
        State::Uncertain => (
            "It may have run completely, partly or not at all: only a person can find out.",
            ["Interrupted (Held)", "Aborted, to be cleared", "—", "IN_PROGRESS", "unknown"],
        ),
        State::Succeeded => (
            "The slave reports that it succeeded.",
            ["Ended.Completed", "Complete", "process complete", "SUCCEEDED", "complete"],
        ),
        State::Failed => (
            "The slave reports that it failed.",
            ["Aborted", "Aborted, Stopped", "aborted", "FAILED, TIMED_OUT", "failed"],
        ),
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
            "A person abandoned it: its outcome is not known. A later report of its slave still corrects it.",
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
            "It finishes the jobs that it has and takes no more.",
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
            "Its identity or its store is in doubt: nothing starts until a person has looked.",
            ["None", "ineligible", "Unscheduled Down"],
        ),
    }
}

/// (meaning, [OPC UA Machinery item, PackML, MTConnect execution, SEMI E10])
pub(super) fn activity(activity: Activity) -> (&'static str, [&'static str; 4]) {
    match activity {
        Activity::Idle => (
            "It has no job and may not start one, because of its operating mode or a local lock.",
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
            "A job has ended, and nobody has confirmed that the machine is clear.",
            ["NotExecuting", "Complete", "PROGRAM_COMPLETED", "Standby"],
        ),
        Activity::Attention => (
            "A person is needed before anything starts.",
            ["OutOfService", "Held", "INTERRUPTED, OPTIONAL_STOP", "Standby (no operator)"],
        ),
        Activity::Fault => (
            "A job failed, and somebody has to look at the machine.",
            ["OutOfService", "Aborted", "STOPPED with a fault condition", "Unscheduled Down"],
        ),
        Activity::MachineOff => (
            "The slave runs, but the machine's controller is not reachable.",
            ["NotAvailable", "—", "UNAVAILABLE", "Non-Scheduled, Unscheduled Down"],
        ),
        Activity::Unknown => (
            "The slave has asked its machine and has no answer yet.",
            ["NotAvailable", "—", "UNAVAILABLE", "—"],
        ),
    }
}

/// (meaning, what ends the waiting)
pub(super) fn waiting_for(waiting: WaitingFor) -> (&'static str, &'static str) {
    match waiting {
        WaitingFor::Turn => ("another job that runs or comes first", "the end of that job"),
        WaitingFor::Time => ("its start time, `not_before`", "that time, `reschedule`, or `release`"),
        WaitingFor::Artifact => ("an artifact; not used yet", "its arrival"),
        WaitingFor::Ready => (
            "its machine, which is not ready: it has to be cleared, is locked, is out of production, or \
             needs a person",
            "`ready`, `clear`, `mode`, or unlocking at the machine",
        ),
        WaitingFor::Operator => ("a person", "`release`, `resume`, or `resume` at the machine"),
        WaitingFor::Clock => ("a clock that can be trusted", "the next handshake"),
        WaitingFor::Elsewhere => (
            "another slave: by the config that its slave has now, that one can't do it",
            "the master, which recalls it; or that config, and a restart of the agent",
        ),
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
            "The slave has a new store and an old key: what the machine did is not known.",
            "check whether the machine is working or contains something",
        ),
        Attention::StoreRolledBack => (
            "The slave's store went back in time: jobs may have ended since, or may run twice.",
            "look at the machine, and `resolve` its jobs",
        ),
        Attention::Moved => (
            "The box has another fingerprint: it may be connected to another machine.",
            "make sure that the config fits the machine",
        ),
        Attention::Fault => ("A job failed, and `after_failure = \"hold\"` is set.", "look at the machine"),
        Attention::MemoryGap => (
            "The master knows a job that this slave accepted, and the slave does not.",
            "look at the machine",
        ),
        Attention::MachineUnfit => (
            "The machine could not begin a job: its disk is full, the program's file is missing, or \
             permissions are wrong. The job waits, or goes to another slave.",
            "repair what the text names; the slave looks by itself whether it could begin that program now, after 15 s and then \
             less and less often, up to every 10 minutes, and `clear` says it at once",
        ),
        Attention::FailuresInRow => (
            "As many jobs in a row have failed as `max_failures_in_row` allows. The text is what the last one said.",
            "look at the machine, its tool and its material",
        ),
    }
}

pub(super) fn flag(name: &str) -> Option<&'static str> {
    Some(match name {
        "overdue" => "it runs longer than its order allows",
        "cancel_too_late" => "the cancel came after the end, or its mode could no longer stop the job",
        "duplicate" => "two slaves ran it",
        "adopted" => "the master learned of it from its slave and had no record of it",
        "late_result" => "the outcome came after a person had abandoned the job",
        "overtaken" => {
            "its slave acted against the newest command before it knew it: the job began or expired although \
             it had been rescheduled, or ended otherwise than a person had resolved it"
        }
        "missed_start" => "its start was missed: its slave noticed it later than its tolerance allows",
        "interrupted" => "its work was interrupted",
        "claimed" => {
            "a slave reports an attempt that was never assigned to it. The report has no effect; `earlier` \
             shows it"
        }
        "restored" => "it waited when the master was restored, and a slave may have done it after the backup",
        _ => return None,
    })
}

pub(super) fn delivery_means(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Applied => "it has been carried out",
        Delivery::Sent => "it is on its way to the slave",
        Delivery::PendingOnReconnect => {
            "the slave is offline. The command waits as part of the job and is sent at the next handshake, \
             unless a newer one replaces it. If the slave has acted otherwise by then, the job is flagged \
             `overtaken` or `cancel_too_late`"
        }
        Delivery::TooLate => {
            "it has no effect: the job is past the point at which it could have been carried out"
        }
    }
}

pub(super) fn need(need: Need) -> &'static str {
    match need {
        Need::Doubts => "a slave has seen a later state of this master, and obeys nothing",
        Need::Cloned => "another box connected with a slave's key while the slave was connected",
        Need::Attention => "a person has to look at the machine",
        Need::Uncertain => "nobody knows how the job ended",
        Need::Unresolved => "the slave does not know how an abandoned attempt ended",
        Need::Mismatch => "the slave has the job with other work",
        Need::MissedStart => "the start was missed, and the order says `late: hold`",
        Need::Unloading => "a job has ended, and nobody has confirmed that the machine is clear",
        Need::Overdue => "the job runs longer than its order allows",
        Need::Approval => "a new slave waits for approval",
        Need::Restored => "the job waited when the master was restored, and nobody has released it since",
        Need::ReleaseLapsed => "the release of the job has lapsed",
        Need::Held => "the job waits for a release, as its order says",
        Need::LocalLock => "a person at the machine has locked remote starts out",
    }
}

/// (meaning, what ends it)
pub(super) fn why_not(why: WhyNot) -> (&'static str, &'static str) {
    match why {
        WhyNot::OtherSlave => ("the order names another slave", "nothing: it waits for that one"),
        WhyNot::Program => ("it does not offer the program", "declare it there"),
        WhyNot::Label => ("a label that the order requires is missing or differs", "set it there"),
        WhyNot::Rejected => (
            "it has rejected the job, as its config does not allow it",
            "a change of that config and a restart of its agent, or `retry` once the job has ended",
        ),
        WhyNot::NotEnrolled => ("it is not enrolled, or was revoked", "a token, or `approve`"),
        WhyNot::Offline => ("it is not connected", "its next connection"),
        WhyNot::Mode => ("people have taken it out of production", "`mode production`"),
        WhyNot::LocalLock => ("a person at the machine has locked remote starts out", "unlock there"),
        WhyNot::Attention => ("it needs a person", "`clear`, after a look at the machine"),
        WhyNot::Doubts => ("it has seen a later state of this master", "`reloop restore confirm`"),
        WhyNot::Declined => {
            ("it declined, and has reported nothing new since", "its next report about its machine")
        }
        WhyNot::Capacity => (
            "it has as many jobs as it may",
            "the end of one of them, or a higher `capacity`, for deferred ones `deferred_capacity`",
        ),
        WhyNot::Ready => (
            "its machine is not ready: it has to be cleared, or nobody knows how a job ended there",
            "`ready`, or `resolve`",
        ),
        WhyNot::MoreUrgent => (
            "it has room, and gets another job first, which goes before this one and waits at another slave",
            "the start of that job, or whatever else becomes of it",
        ),
    }
}

/// (meaning, what a person can do)
pub(super) fn reason(code: ReasonCode) -> (&'static str, &'static str) {
    match code {
        ReasonCode::AtCapacity => (
            "the slave has as many jobs as it may",
            "wait, or raise `capacity`, for deferred ones `deferred_capacity`",
        ),
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
            ("its slave noticed its start later than its tolerance allows", "`release`")
        }
        ReasonCode::ReleaseLapsed => ("the release lapsed before it could start", "`release` again"),
        ReasonCode::NotHeld => {
            ("the slave does not have this attempt", "nothing: it is offered again or ends")
        }
        ReasonCode::GivenBack => ("it was recalled and given back", "nothing: another slave takes it"),
        ReasonCode::DigestMismatch => {
            ("the slave has other work under this job", "`cancel`, and order it again")
        }
        ReasonCode::OlderAttempt => (
            "an older attempt of the same job is still there",
            "wait for it, or cancel the one that is not needed",
        ),
        ReasonCode::StartRefused => {
            ("the machine refused to start it; only older slaves report this", "look at it, then `retry`")
        }
        ReasonCode::StopRefused => {
            ("the machine refused to stop", "`cancel` with mode `now`, or stop it at the machine")
        }
        ReasonCode::PauseRefused => {
            ("the machine refused to pause or to resume", "pause or resume it at the machine")
        }
        ReasonCode::PausedLocally => ("a person at the machine paused it", "`resume` at the machine"),
        ReasonCode::StoppedLocally => ("a person at the machine stopped it", "`retry`"),
        ReasonCode::Interrupted => {
            ("the agent or the box stopped while it ran", "as its state says: `resolve`, `retry`, or nothing")
        }
        ReasonCode::InterruptedTooOften => ("it was interrupted too often", "`resolve`"),
        ReasonCode::NoProof => ("the machine could not prove whether it ran", "look at it, then `resolve`"),
        ReasonCode::MaxRuntime => ("it ran longer than its order allows, and was stopped", "`retry`"),
        ReasonCode::Canceled => ("somebody canceled it", "nothing"),
        ReasonCode::Vanished => {
            ("the slave lost a job that it had accepted", "look at the machine, `resolve`")
        }
        ReasonCode::StoreReplaced => ("the slave's store is new", "look at the machine, `resolve`, `clear`"),
        ReasonCode::StoreRolledBack => {
            ("the slave's store went back in time", "look at the machine, `resolve`, `clear`")
        }
        ReasonCode::Abandoned => ("a person abandoned the attempt", "`retry`"),
        ReasonCode::Resolved => ("a person resolved it", "nothing"),
        ReasonCode::Retrying => ("it is retried, as its order says", "nothing"),
        ReasonCode::MachineFault => ("the machine reported a fault, or the program failed", "`retry`"),
        ReasonCode::Restored => (
            "the master was restored from a backup, and a slave may have done it after the backup",
            "`release` where it waits, `resolve` where it is uncertain",
        ),
        ReasonCode::MissingLabel => (
            "the order requires a label that the slave does not have",
            "give the slave the label, or wait for one that has it",
        ),
        ReasonCode::MachineUnfit => (
            "its machine could not begin it, for the cause in the text; nothing began",
            "repair that: the slave looks by itself whether it could begin now, and `clear` says it at once",
        ),
    }
}

pub(super) fn close(code: CloseCode) -> (&'static str, &'static str) {
    match code {
        CloseCode::Protocol => (
            "a message could not be read, or came out of order",
            "nothing; if it happens again, report a bug",
        ),
        CloseCode::NotAuthentic => {
            ("the signature does not match the key", "put the right key back, or enrol anew")
        }
        CloseCode::NotEnrolled => ("the slave is not enrolled here", "approve it, or give it a token"),
        CloseCode::WrongMaster => {
            ("the slave is enrolled at another master", "correct its address, or enrol it here")
        }
        CloseCode::TooSlow => ("the handshake took too long", "nothing"),
        CloseCode::DuplicateIdentity => {
            ("another box with the same key is connected and answers", "give the copy a key of its own")
        }
        CloseCode::Revoked => ("the slave was revoked", "enrol it anew"),
        CloseCode::Superseded => ("a newer connection of the same slave took over", "nothing"),
        CloseCode::TooLarge => {
            ("a message was larger than allowed", "pass files by name and not as parameters")
        }
        CloseCode::SlowReader => ("the peer does not read its messages fast enough", "nothing"),
        CloseCode::Version => ("no common protocol version", "upgrade the older node"),
        CloseCode::TryLater => ("too many connections at once", "nothing: the slave comes back"),
        CloseCode::StaleMaster => {
            ("the slave has seen a later state of this master", "stop this copy, or confirm it")
        }
        CloseCode::NameTaken => ("the name belongs to another key", "rename the slave, or forget the other"),
        CloseCode::GoingAway => ("the node shuts down, or requests a new handshake", "nothing"),
        CloseCode::Storage => ("the node cannot write to its disk", "free or replace the disk"),
        CloseCode::Silent => ("nothing was heard for too long", "nothing"),
    }
}

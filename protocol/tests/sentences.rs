//! What both nodes say to people, to clients and to each other: `golden/sentences.txt` has every sentence, and is reviewed like code.
//! `UPDATE_GOLDEN=1` writes the file anew.

use std::fmt::Write as _;

use reloop_protocol::id::{Attempt, Epoch, JobId, MasterId, OrderId, SlaveKey};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, CloseReason, JobReason, Need, Needed, NotEnrolled, NothingToDo, Offline, Refusal, SlaveRefused,
    Subject, WrongState,
};
use reloop_protocol::message::{Attention, CloseCode, Mode, Reason, ReasonCode, Source, Versions};
use reloop_protocol::slave::redial::Todo;
use reloop_protocol::slave::{self, AskRefused, Closing, Decline, Done, Doubt, NotDone, Why};
use reloop_protocol::spec::Late;

const ATTEMPT: Attempt = Attempt(2);

fn refusals() -> Vec<Refusal> {
    let (job, state) = (JobId([1; 16]), State::Running);
    let mut refusals = vec![
        Refusal::NoSuchJob(job),
        Refusal::NoSuchSlave,
        Refusal::KeyReused(OrderId([1; 16])),
        Refusal::AlreadyResolved(JobReason::ResolvedAs(End::Failed).into()),
        Refusal::SlaveOnline(job, state),
        Refusal::SlaveRevoked,
    ];
    let wrong = [
        WrongState::AlreadyResolved(End::Succeeded),
        WrongState::BeingCanceled,
        WrongState::NotRetried,
        WrongState::NotUncertain,
    ];
    refusals.extend(wrong.map(|why| Refusal::WrongState { job, state, why }));
    refusals.extend([Offline::Slave, Offline::Holder(ATTEMPT), Offline::Lost].map(Refusal::SlaveOffline));
    let nothing = [NothingToDo::Ready, NothingToDo::Clear, NothingToDo::Log, NothingToDo::ConfirmRestore];
    refusals.extend(nothing.map(Refusal::NothingToDo));
    let said = SlaveRefused::Said("in its own words".to_owned());
    refusals.extend([SlaveRefused::Doubts, SlaveRefused::NoAnswer, said].map(Refusal::SlaveRefused));
    refusals
}

fn closes() -> Vec<CloseReason> {
    let (name, key) = ("mill-3".to_owned(), SlaveKey([1; 32]));
    let why = [
        NotEnrolled::NoToken,
        NotEnrolled::UnknownToken,
        NotEnrolled::ExpiredToken,
        NotEnrolled::OtherName,
        NotEnrolled::Revoked,
        NotEnrolled::Pending,
    ];
    let not_enrolled = |why, foreign, was_revoked| CloseReason::NotEnrolled {
        name: name.clone(),
        key,
        why,
        foreign,
        was_revoked,
    };
    let mut closes = vec![
        CloseReason::SecondHello,
        CloseReason::Version(Versions { oldest: 3, newest: 4 }),
        CloseReason::StaleMaster { seen: Epoch(3), own: Epoch(2) },
        CloseReason::NameTaken { name: name.clone(), key },
        CloseReason::Superseded,
        CloseReason::SupersededInLine,
        CloseReason::Unanswered,
        CloseReason::Contended,
        CloseReason::Copy(name.clone()),
        CloseReason::ClockSet,
        CloseReason::Restored,
        CloseReason::OtherSession,
        CloseReason::Unexpected,
        CloseReason::Revoked,
    ];
    closes.extend(why.map(|why| not_enrolled(why, None, why == NotEnrolled::Revoked)));
    let foreign = Some([MasterId([1; 16]), MasterId([2; 16])]);
    closes.push(not_enrolled(NotEnrolled::NoToken, foreign, false));
    closes
}

fn reasons() -> Vec<JobReason> {
    vec![
        JobReason::CanceledInQueue,
        JobReason::CanceledUnstarted,
        JobReason::WindowClosed,
        JobReason::Resolved,
        JobReason::ResolvedAs(End::Stopped),
        JobReason::Abandoned,
        JobReason::Retrying(ATTEMPT, State::Failed),
        JobReason::HeldByRestore,
        JobReason::LetGoBeforeRestore,
        JobReason::Vanished,
        JobReason::StoreReplaced,
        JobReason::StoreRolledBack,
        JobReason::OtherSucceeded(ATTEMPT),
        JobReason::OtherPaused(ATTEMPT),
        JobReason::OtherRuns(ATTEMPT),
        JobReason::OtherGoesOn(ATTEMPT),
        JobReason::OtherEndedOtherwise(ATTEMPT),
        JobReason::EndedOtherwise,
        JobReason::AliveAfterEnd,
    ]
}

fn ignored_by_a_master() -> [master::Ignored; 10] {
    use master::Ignored::*;
    [
        OlderReport,
        OlderAnswer,
        NeverAssigned,
        UnrequestedRecord,
        TooManyJobs,
        UnknownGeneration,
        OutOfRange,
        MissingRecord,
        Revoked,
        UnknownConnection,
    ]
}

/// Each need as the slave's word of a moment ago, as its last word, and of a job that is paused or canceled too.
fn needed() -> Vec<Needed> {
    let (key, job) = (SlaveKey([1; 32]), JobId([1; 16]));
    let plain = |need| Needed {
        need,
        subject: Subject::Job(job),
        slave: Some(key),
        name: "mill-3".to_owned(),
        job: Some(job),
        attention: Some(Attention::Fault),
        why: None,
        is_offline: false,
        is_paused: false,
        is_canceled: false,
    };
    let mut needed = Vec::new();
    for need in Need::ALL {
        needed.push(plain(need));
        needed.push(Needed { is_offline: true, ..plain(need) });
    }
    needed.push(Needed { is_paused: true, ..plain(Need::Held) });
    needed.push(Needed { is_canceled: true, ..plain(Need::Overdue) });
    let why = Some("the config has no program mill any more".to_owned());
    needed.push(Needed { why: why.clone(), ..plain(Need::Held) });
    needed.push(Needed { why, is_offline: true, ..plain(Need::Held) });
    // In a command a name stands only if a shell takes it as one word and nobody takes it for an option.
    let names = ["", "-rf", "mill 3", "mill;3", "mill_3.b"];
    needed.extend(names.map(|name| Needed { name: name.to_owned(), ..plain(Need::Cloned) }));
    needed
}

fn reasons_of_a_slave() -> Vec<slave::JobReason> {
    use slave::JobReason::*;
    let words = || "in its own words".to_owned();
    let mut reasons = vec![
        Abandoned,
        StoreRolledBack,
        OtherWork,
        PausedLocally,
        MachineFault(words()),
        StopRefused(words()),
        PauseRefused(words()),
        Interrupted,
        InterruptedTooOften { times: 3 },
        BegunAgain,
        NoProof(Doubt::Forgotten),
        NoProof(Doubt::CouldNotSay { said: None, refused: None }),
        NoProof(Doubt::CouldNotSay { said: Some(words()), refused: Some("not now".to_owned()) }),
        MachineUnfit { cause: words() },
        Resolved,
        ReleaseLapsed,
        WindowClosed,
    ];
    reasons.extend([Source::Remote, Source::Local, Source::Slave, Source::Machine].map(Stopped));
    reasons.extend([Late::Hold, Late::Run, Late::Skip].map(MissedStart));
    reasons
}

fn declines() -> Vec<Decline> {
    vec![
        Decline::OlderAttempt { attempt: ATTEMPT, state: State::Running },
        Decline::NeverHere,
        Decline::NotStartedHere,
        Decline::WorkNeeded,
        Decline::GivenBack,
        Decline::OtherWork,
        Decline::Unfit(Reason::new(ReasonCode::BadParams, "in the programs' own words")),
        Decline::NotInProduction(Mode::Maintenance),
        Decline::LocalLock,
        Decline::WindowClosed,
        Decline::Full(vec![JobId([1; 16]), JobId([2; 16])]),
        Decline::TooManyKept,
        Decline::TooLarge { size: 1 << 20 },
        Decline::TooMuchKept,
    ]
}

fn closings() -> Vec<Closing> {
    vec![
        Closing::Refused { code: CloseCode::NotEnrolled, text: "in the master's own words".to_owned() },
        Closing::Version(Versions { oldest: 3, newest: 4 }),
        Closing::OtherMaster,
        Closing::OlderEpoch,
        Closing::Admitted,
        Closing::OutOfPlace,
    ]
}

/// What a person at the machine is answered.
fn answers_at_the_machine() -> Vec<String> {
    let job = JobId([1; 16]);
    let done = [
        Done::Unloaded(job),
        Done::Cleared(Attention::Fault),
        Done::Locked,
        Done::Unlocked,
        Done::Pausing(job),
        Done::Resuming(job),
        Done::MayStart(job),
        Done::Stopping(job),
        Done::StoppingIfAtWork(job),
        Done::Resolved(job),
    ];
    let not_done = [
        NotDone::NotUnloading,
        NotDone::NoAttention,
        NotDone::InState(job, State::Running),
        NotDone::NothingRuns,
        NotDone::NothingUncertain,
        NotDone::ManyUncertain,
        NotDone::NotUncertain(job),
    ];
    done.map(Done::text).into_iter().chain(not_done.map(NotDone::text)).collect()
}

fn ignored_by_a_slave() -> [slave::Ignored; 10] {
    use slave::Ignored::*;
    [
        OtherSession,
        MasterDoubted,
        OlderGeneration,
        OlderMode,
        NotEnded,
        NewerReport,
        NothingToForget,
        OtherRun,
        NotProbed,
        Ended,
    ]
}

fn todos() -> [Todo; 8] {
    use Todo::*;
    [Enrol, PutKeyBack, CheckMaster, RemoveCopy, EnrolAnew, Upgrade, ConfirmMaster, Rename]
}

fn of_a_master() -> Vec<String> {
    let mut lines: Vec<_> = refusals().iter().map(|why| format!("refused | {}", why.text())).collect();
    lines.extend(closes().iter().map(|why| format!("closed {:?} | {}", why.code(), why.text())));
    lines.extend(reasons().iter().map(|why| format!("job {} | {}", why.code().name(), why.text())));
    lines.extend(ignored_by_a_master().map(|why| format!("ignored | {}", why.text())));
    lines.extend(
        needed().iter().map(|one| format!("needs {} | {} | {}", one.need.name(), one.text(), one.command())),
    );
    lines
}

fn of_a_slave() -> Vec<String> {
    let said = |why: Reason| format!("{} | {}", why.code.name(), why.text);
    let mut lines: Vec<_> =
        reasons_of_a_slave().into_iter().map(|why| format!("job {}", said(why.into()))).collect();
    lines.extend(declines().into_iter().map(|why| {
        let when = if why.is_for_good() { "for good" } else { "now" };
        format!("declined {when} {}", said(why.into()))
    }));
    lines.extend(closings().iter().map(|why| format!("closed {:?} | {}", why.code(), why.text())));
    lines.extend(answers_at_the_machine().into_iter().map(|text| format!("at the machine | {text}")));
    let refused = [AskRefused::NotUnloading, AskRefused::NoAttention];
    lines.extend(refused.map(|why| format!("refused | {}", why.text())));
    lines.extend(ignored_by_a_slave().map(|why| format!("ignored | {}", why.text())));
    let moments = [Why::NotBefore, Why::Deadline, Why::Release, Why::MaxRuntime, Why::Probe, Why::Clock];
    lines.extend(moments.map(|why| format!("next | {}", why.text())));
    lines.extend(todos().map(|what| format!("to do | {}", what.text())));
    lines
}

#[test]
fn every_sentence_is_as_it_was_reviewed() {
    let mut text = String::new();
    for (node, lines) in [("master", of_a_master()), ("slave", of_a_slave())] {
        for line in lines {
            writeln!(text, "{node} {line}").unwrap();
        }
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentences.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "a sentence changed: see the head of this file");
}

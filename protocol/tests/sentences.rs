//! What a master says to clients, to slaves and of jobs: `golden/sentences.txt` has every sentence, and is reviewed like code.
//! `UPDATE_GOLDEN=1` writes the file anew.

use std::fmt::Write as _;

use reloop_protocol::id::{Attempt, Epoch, JobId, MasterId, OrderId, SlaveKey};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    CloseReason, JobReason, NotEnrolled, NothingToDo, Offline, Refusal, SlaveRefused, WrongState,
};
use reloop_protocol::message::Versions;

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
        JobReason::NeverTaken,
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

#[test]
fn every_sentence_of_a_master_is_as_it_was_reviewed() {
    let mut text = String::new();
    for why in refusals() {
        writeln!(text, "refused | {}", why.text()).unwrap();
    }
    for why in closes() {
        writeln!(text, "closed {:?} | {}", why.code(), why.text()).unwrap();
    }
    for why in reasons() {
        writeln!(text, "job {} | {}", why.code().name(), why.text()).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/sentences.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(path).unwrap(), text, "a sentence changed: see the head of this file");
}

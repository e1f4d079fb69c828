//! The life of a job, pair by pair: `golden/job.txt` says what becomes of a job in each state at each event. A change of
//! the table shows there, and is reviewed like code. `UPDATE_GOLDEN=1` writes the file anew.

use std::fmt::Write as _;

use reloop_protocol::job::{End, Event, OnInterrupt, State, Transition, next};

fn events() -> Vec<Event> {
    use Event::*;
    let mut events = vec![
        AttemptAssigned,
        GivenBack,
        Withdrawn,
        WindowClosed,
        Abandoned,
        Retried,
        Vanished,
        Dropped,
        Lapsed,
        StartIntended,
        StartRefused,
        MachineStarted,
        MachinePaused,
        MachineResumed,
        StopBegan,
        StopRefused { paused: false },
        StopRefused { paused: true },
        FoundNeverStarted,
        FoundAlive { paused: false },
        FoundAlive { paused: true },
        FoundNothing,
        StartPostponed,
    ];
    events.extend([OnInterrupt::Hold, OnInterrupt::Fail, OnInterrupt::Restart].map(FoundGone));
    events.extend([End::Succeeded, End::Failed, End::Stopped].map(MachineEnded));
    events.extend([End::Succeeded, End::Failed, End::Stopped].map(Resolved));
    events.extend(State::ALL.map(Reported));
    events.extend(State::ALL.map(Reappeared));
    events
}

#[test]
fn every_state_has_its_answer_to_every_event() {
    let mut text = String::new();
    for state in State::ALL {
        for event in events() {
            let turn = match next(state, event) {
                Transition::To(next) => next.name().to_owned(),
                Transition::Unchanged => "the same".to_owned(),
                Transition::Rejected(why) => format!("never: {}", why.text()),
            };
            writeln!(text, "{} | {event:?} | {turn}", state.name()).unwrap();
        }
        writeln!(text).unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/job.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap(),
        text,
        "the life of a job changed: see the head of this file"
    );
}

#[test]
fn a_job_never_becomes_what_it_is_already() {
    for state in State::ALL {
        for event in events() {
            assert_ne!(next(state, event), Transition::To(state), "{} {event:?}", state.name());
        }
    }
}

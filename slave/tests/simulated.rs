//! The simulated machine, through the interface of all machines.

#![allow(clippy::unwrap_used, reason = "also the helpers of a test may")]

mod support;

use std::time::{Duration, Instant};

use reloop_protocol::job::End;
use reloop_protocol::slave::{Fact, Probed};
use reloop_slave::machine::{Command, Rejection};
use support::{Agent, Scratch, key, params, reboot, run_name, until};

const BAKE: &str = "[programs.bake]\ndriver = \"simulated\"\n";

#[test]
fn a_run_reports_its_way_from_nothing_to_all_and_ends_once() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), BAKE);
    let begun = Instant::now();
    agent.start(key(1), "bake", &[("seconds", "1.2")]);
    agent.expect(key(1), Fact::Started);
    let mut way = Vec::new();
    let ended = loop {
        match agent.next().1 {
            Fact::Progressed { permille: Some(permille), .. } => way.push(permille),
            Fact::Ended(ended) => break ended,
            other => panic!("{other:?}"),
        }
    };
    assert!(begun.elapsed() >= Duration::from_millis(1200));
    assert_eq!(ended.end, End::Succeeded);
    assert_eq!((way.first(), way.last()), (Some(&0), Some(&1000)));
    assert!(way.is_sorted() && way.len() >= 4, "{way:?}");
    assert_eq!(agent.probe(key(1), "bake"), Probed::Ended(ended));
    agent.start(key(1), "bake", &[]);
    assert!(agent.refusal(key(1)).contains("never begins twice"));
}

#[test]
fn it_faults_where_it_should() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), &format!("{BAKE}speed = 100.0"));
    agent.start(key(1), "bake", &[("seconds", "20"), ("fail_at", "0.5")]);
    agent.expect(key(1), Fact::Started);
    let ended = agent.ended(key(1));
    assert_eq!(ended.end, End::Failed);
    assert!(ended.outcome.text.contains("50 %"), "{}", ended.outcome.text);
}

#[test]
fn while_it_is_paused_nothing_moves() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), BAKE);
    agent.start(key(1), "bake", &[("seconds", "1.5")]);
    agent.expect(key(1), Fact::Started);
    agent.machines.command(Command::Pause(key(1)));
    agent.expect(key(1), Fact::Paused);
    let Probed::Alive { paused: true, permille } = agent.probe(key(1), "bake") else { panic!() };
    let told = agent.within(Duration::from_millis(1700));
    assert!(told.len() <= 1, "{told:?}");
    let Probed::Alive { paused: true, permille: later } = agent.probe(key(1), "bake") else { panic!() };
    assert_eq!(permille, later);
    agent.machines.command(Command::Resume(key(1)));
    agent.expect(key(1), Fact::Resumed);
    assert_eq!(agent.ended(key(1)).end, End::Succeeded);
}

#[test]
fn it_is_stopped_unless_it_refuses() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), BAKE);
    for (number, now) in [(1, false), (2, true)] {
        agent.start(key(number), "bake", &[("seconds", "600")]);
        agent.expect(key(number), Fact::Started);
        agent.machines.command(Command::Stop { key: key(number), now });
        assert_eq!(agent.ended(key(number)).end, End::Stopped);
    }
    agent.start(key(3), "bake", &[("seconds", "1"), ("refuse_stop", "true")]);
    agent.expect(key(3), Fact::Started);
    agent.stop_now(key(3));
    assert!(matches!(agent.fact(key(3)), Fact::StopRefused(_)));
    assert_eq!(agent.ended(key(3)).end, End::Succeeded);
}

#[test]
fn one_machine_does_one_thing_at_a_time() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), BAKE);
    agent.start(key(1), "bake", &[("seconds", "600")]);
    agent.expect(key(1), Fact::Started);
    agent.start(key(2), "bake", &[]);
    assert!(agent.refusal(key(2)).contains(&run_name(key(1))));
    assert_eq!(agent.probe(key(2), "bake"), Probed::NeverStarted);
    agent.stop_now(key(1));
    agent.ended(key(1));
    agent.start(key(2), "bake", &[]);
    assert!(
        agent.refusal(key(2)).contains("never begins twice"),
        "the probe had said that it can't start any more"
    );
}

#[test]
fn it_goes_on_while_the_agent_is_dead() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), BAKE);
    agent.start(key(1), "bake", &[("seconds", "1")]);
    agent.expect(key(1), Fact::Started);
    drop(agent);
    let mut agent = Agent::new(dir.path(), BAKE);
    assert!(matches!(agent.probe(key(1), "bake"), Probed::Alive { paused: false, .. }));
    let ended = agent.ended(key(1));
    drop(agent);
    let mut agent = Agent::new(dir.path(), BAKE);
    assert_eq!(agent.probe(key(1), "bake"), Probed::Ended(ended));

    agent.start(key(2), "bake", &[("seconds", "0.3")]);
    agent.expect(key(2), Fact::Started);
    drop(agent);
    until("it ends on its own", || {
        matches!(Agent::new(dir.path(), BAKE).probe(key(2), "bake"), Probed::Ended(_))
    });
}

#[test]
fn a_power_cut_is_survived_or_not_as_configured() {
    for (forgets, expected_gone) in [("true", true), ("false", false)] {
        let dir = Scratch::new();
        let programs = format!("{BAKE}forget_on_boot = {forgets}");
        let mut agent = Agent::new(dir.path(), &programs);
        agent.start(key(1), "bake", &[("seconds", "600")]);
        agent.expect(key(1), Fact::Started);
        drop(agent);
        reboot(dir.path(), 2);
        let mut agent = Agent::new(dir.path(), &programs);
        let probe = agent.probe(key(1), "bake");
        assert_eq!(probe == Probed::Gone, expected_gone, "{probe:?}");
        if expected_gone {
            agent.start(key(1), "bake", &[]);
            assert!(agent.refusal(key(1)).contains("never begins twice"));
        }
    }
}

#[test]
fn a_silent_machine_proves_nothing() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), &format!("{BAKE}probe = \"silent\""));
    assert!(matches!(agent.probe(key(1), "bake"), Probed::Unknown(_)));
    let mut agent =
        Agent::new(dir.path(), &format!("{BAKE}probe = \"silent\"\n[programs.mill]\ndriver = \"simulated\""));
    assert!(matches!(agent.probe(key(2), "gone"), Probed::Unknown(_)), "a program nobody has: all are asked");
}

#[test]
fn a_run_of_a_program_that_was_removed_is_found() {
    let dir = Scratch::new();
    let mut agent = Agent::new(dir.path(), &format!("{BAKE}speed = 10.0"));
    agent.start(key(1), "bake", &[("seconds", "6000")]);
    agent.expect(key(1), Fact::Started);
    drop(agent);
    let mut agent = Agent::new(dir.path(), "[programs.mill]\ndriver = \"simulated\"");
    assert!(matches!(agent.probe(key(1), "bake"), Probed::Alive { .. }));
    assert_eq!(agent.probe(key(2), "bake"), Probed::NeverStarted);
    agent.stop_now(key(1));
    assert_eq!(agent.ended(key(1)).end, End::Stopped);
    agent.start(key(3), "bake", &[]);
    assert!(agent.refusal(key(3)).contains("no program \"bake\""));
    let rejection = agent.machines.check("bake", &params(&[])).unwrap_err();
    assert!(matches!(rejection, Rejection::UnknownProgram { .. }), "{rejection:?}");
}

#[test]
fn an_unreadable_memory_is_no_proof_of_anything() {
    let dir = Scratch::new();
    std::fs::create_dir(dir.path().join("machines")).unwrap();
    std::fs::write(dir.path().join("machines/bake.json"), "{\"runs\": [").unwrap();
    let mut agent = Agent::new(dir.path(), BAKE);
    assert!(matches!(agent.probe(key(1), "bake"), Probed::Unknown(_)));
    agent.start(key(1), "bake", &[]);
    assert!(agent.refusal(key(1)).contains("bake.json"));
}

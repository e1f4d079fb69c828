//! What is said, heard and wanted before, during and right after a handshake.

use reloop_protocol::handshake::FromSlave;
use reloop_protocol::id::{Commit, JobId, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Answer, Delivery, JobCommand};
use reloop_protocol::message::{CloseCode, Forget, Message, PROTOCOL, Refuse, Welcome};
use reloop_protocol::slave::{LinkId, Local};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_protocol::wire::Frame;
use reloop_protocol::{handshake, slave};
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn a_slave_says_nothing_until_its_machine_has_said_what_it_does() {
    let (mut world, job) = running();
    silence_machine(&mut world);
    world.crossed.clear();
    world.settle();
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(said, ["challenge"], "no Hello while the machine is being asked");
    world.pass(6_000);
    assert_eq!(world.state(job), State::Uncertain, "silence is an answer in the end");
}

#[test]
fn what_was_wanted_while_nobody_could_say_is_done_once_the_machine_is_found_working() {
    for (wanted, state) in
        [(JobCommand::Cancel(CancelMode::Now), State::Canceled), (JobCommand::Pause, State::Paused)]
    {
        let (mut world, job) = running();
        silence_machine(&mut world);
        world.pass(6_000);
        assert_eq!(world.state(job), State::Uncertain);
        assert_eq!(command(&mut world, job, wanted), Some(Answer::Taken(vec![(job, Delivery::Sent)])));
        world.kill_agent(0);
        world.boxes[0].machine.silent = false;
        world.start_agent(0, true);
        reconnect(&mut world, 0);
        assert_eq!(world.state(job), state, "{wanted:?}");
    }
}

#[test]
fn what_happens_inside_a_handshake_is_told_at_its_end() {
    let (mut world, job) = running();
    world.cut(0);
    world.plug(0);
    world.crossed.clear();
    // The Hello is sent, the Welcome has not arrived, and the machine ends its work.
    pump_until(&mut world, |world| crossed(world, "hello") > 0);
    world.boxes[0].machine.length_ms = 0;
    world.pass_some(20_000);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None);
}

#[test]
fn what_a_person_says_of_uncertain_work_inside_a_handshake_is_told_at_its_end() {
    let inside_a_handshake = |said: JobCommand| {
        let (mut world, job) = running();
        reboot(&mut world);
        assert_eq!(world.on_slave(0, job), Some(State::Uncertain));
        world.cut(0);
        world.plug(0);
        world.crossed.clear();
        pump_until(&mut world, |world| crossed(world, "hello") > 0);
        let later = Answer::Taken(vec![(job, Delivery::PendingOnReconnect)]);
        assert_eq!(world.command(job, said), Some(later));
        world.settle();
        (world, job)
    };
    let (world, job) = inside_a_handshake(JobCommand::Resolve(End::Failed));
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Failed, None));
    let (world, job) = inside_a_handshake(JobCommand::Cancel(CancelMode::Now));
    assert_eq!(kept(&world, job).desired, Desired::Cancel(CancelMode::Now));
}

#[test]
fn a_job_that_was_given_back_while_the_link_broke_is_not_missed() {
    for then_canceled in [false, true] {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = 60_000;
        let jobs: Vec<_> = (0..2).map(|_| place(&mut world)).collect();
        world.settle();
        // An idle slave connects: the waiting job is recalled, and the answer is lost.
        world.add_slave("idle");
        while world.on_slave(0, jobs[1]).is_some() {
            assert!(world.pump());
        }
        world.cut(0);
        assert_eq!(world.state(jobs[1]), State::Accepted);
        if then_canceled {
            world.command(jobs[1], JobCommand::Cancel(CancelMode::SafePoint));
        }
        world.plug(0);
        world.pass(30_000);
        let expected = if then_canceled { State::Canceled } else { State::Succeeded };
        assert_eq!(world.state(jobs[1]), expected);
        assert_eq!(world.begun(jobs[1]), u32::from(!then_canceled));
    }
}

#[test]
fn what_has_not_ended_is_not_forgotten_whoever_says_so() {
    let (mut world, job) = running();
    let report = world.job(job).report.unwrap();
    let mut seq = report.seq;
    seq.count += 100;
    say(&mut world, Message::Forget(Forget { job, attempt: report.attempt, seq }));
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    // An outcome newer than the one on the master's disk is not forgotten either.
    world.cut(0);
    world.pass(12_000);
    world.plug(0);
    pump_until(&mut world, |world| matches!(agent(world).link, slave::Link::Live { .. }));
    say(&mut world, Message::Forget(Forget { job, attempt: report.attempt, seq: report.seq }));
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded));
}

#[test]
fn a_challenge_of_a_dead_connection_does_not_set_the_clock() {
    let mut world = World::new(1);
    world.cut(0);
    world.plug(0);
    // Connected, and the Challenge is on its way.
    assert!(world.dial_in(0));
    world.cut(0);
    let sync = agent(&world).node.sync;
    world.pass_some(20_000);
    assert_eq!(world.late_frames(), 1);
    world.deliver_late(0);
    let state = agent(&world);
    assert_eq!((state.node.sync, state.link), (sync, slave::Link::Down));
}

#[test]
fn an_attempt_that_is_followed_by_another_during_a_handshake_is_forgotten_and_the_other_begins() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let job = placed(&mut world, |_| {});
    world.pass_some(12_000);
    world.hear_machine(0);
    // The outcome is on the master's disk, and the message about that is lost.
    world.crash_master_after(0);
    world.to_master(0);
    assert!(world.master.is_none());
    world.start_master();
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Failed, Some(State::Failed)));
    // The Welcome is sent.
    assert!(world.dial_in(0) && world.to_slave(0) && world.to_master(0));
    world.boxes[0].machine.fails = false;
    command(&mut world, job, JobCommand::Retry);
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_slave_that_was_being_welcomed_when_the_restore_was_confirmed_obeys() {
    for greeted in 0..3 {
        let mut world = World::new(1);
        world.back_up_master();
        let job = placed(&mut world, |_| {});
        world.restore_master(false);
        assert!(world.dial_in(0));
        let _ = greeted < 1 || world.to_slave(0);
        let _ = greeted < 2 || world.to_master(0);
        world.confirm_restore();
        world.pass(12_000);
        assert_eq!((world.state(job), world.on_slave(0, job)), (State::Succeeded, None), "{greeted}");
    }
}

#[test]
fn a_master_that_caught_up_during_the_handshake_knows_that_it_is_doubted() {
    let mut world = World::new(1);
    world.back_up_master();
    world.cut(0);
    reconnect(&mut world, 0);
    world.restore_master(false);
    assert!(world.dial_in(0) && world.to_slave(0));
    // The slave has decided, and the master reaches the commit that the slave has seen.
    for _ in 0..8 {
        let order = world.order("mill");
        world.place(order);
    }
    world.settle();
    let state = agent(&world);
    assert!(matches!(state.link, slave::Link::Live { doubtful: true, .. }));
    assert_eq!(world.master.as_ref().unwrap().doubted_by.len(), 1, "somebody is told to confirm");
}

#[test]
fn nothing_is_heard_before_a_hello_nor_before_a_challenge() {
    let (mut world, job) = starting();
    world.cut(0);
    let hello = world.boxes[0].state.as_ref().map(|state| state.node.session).unwrap();
    let frame = |session, message| Frame { session, commit: Commit(0), message, signature: None };
    let report = kept(&world, job).report.clone();
    let word = Message::Report(report);
    for early in [word.clone(), Message::Ping] {
        assert!(matches!(handshake::from_slave(None, &frame(hello, early.clone())), FromSlave::Fault(_)));
        assert!(handshake::first_from_master(&early).is_err());
    }
    let refuse = Refuse { code: CloseCode::TryLater, text: String::new(), retry_after_ms: None };
    assert_eq!(handshake::first_from_master(&Message::Refuse(refuse)), Ok(()));
    let heard = |session| handshake::from_slave(Some(hello), &frame(session, word.clone()));
    assert_eq!(heard(hello), FromSlave::Word { settles: false });
    assert_eq!(heard(Session(hello.0 + 1)), FromSlave::OtherSession);
}

/// The token in the slave's Hello when it is given this one for each connection, and whether it keeps it.
fn shown_token(world: &mut World) -> (Option<String>, bool) {
    world.cut(0);
    world.slave_event(0, slave::Event::LinkClosed { link: LinkId(0) });
    let (state, now) = (dialled(world, Some("secret")), world.slave_now(0));
    let step = slave::step(state, now, heard(DIALLED, Session(0), Message::Challenge(challenge(world))));
    let hello = hello_in(&step.effects);
    let welcome = Welcome {
        protocol: PROTOCOL.newest,
        session: hello.session,
        binding: step.state.node.binding.unwrap(),
        operating_mode: step.state.node.operating_mode,
        rulings: vec![],
    };
    assert!(step.state.settings.token.is_some(), "it was not taken in yet");
    let step = slave::step(step.state, now, heard(DIALLED, hello.session, Message::Welcome(welcome)));
    assert_eq!(step.state.settings.token, None);
    (hello.token, step.effects.contains(&slave::Effect::ForgetToken))
}

#[test]
fn an_enrolment_token_is_shown_until_the_slave_is_taken_in_and_then_forgotten() {
    let mut world = World::new(1);
    world.settle();
    assert_eq!(shown_token(&mut world), (Some("secret".to_owned()), true));
}

#[test]
fn what_a_master_refuses_with_is_one_line_in_a_slaves_log() {
    let mut world = World::new(1);
    world.settle();
    world.cut(0);
    let text = "no\n2026-01-01T00:00:00Z ERROR \u{1b}[31mthe roof burns".to_owned();
    let message = Message::Refuse(Refuse { code: CloseCode::TryLater, text, retry_after_ms: None });
    let event = heard(DIALLED, Session(0), message);
    let said = slave::step(dialled(&world, None), world.slave_now(0), event).effects.into_iter().find_map(
        |effect| match effect {
            slave::Effect::Close { why, .. } => Some(why),
            _ => None,
        },
    );
    let text = "no 2026-01-01T00:00:00Z ERROR  [31mthe roof burns".to_owned();
    assert_eq!(said.unwrap(), slave::Closing::Refused { code: CloseCode::TryLater, text });
}

/// A job runs at slave 0, which has introduced itself anew and been welcomed; a person gives the attempt up in that moment, and
/// wants another.
fn given_away_in_mid_handshake(world: &mut World, job: JobId) {
    world.cut(0);
    world.plug(0);
    let from = world.crossed.len();
    pump_until(world, |world| world.crossed[from..].contains(&(0, "welcome")));
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    give_away(world, job);
    world.settle();
}

#[test]
fn what_runs_at_a_slave_that_settles_is_not_begun_elsewhere_because_it_was_given_up_in_mid_handshake() {
    for is_in_mid_handshake in [false, true] {
        let (mut world, job) = endless_job(|_, order| order.spec.params.clear());
        // Nothing more is offered to it.
        world.local(0, Local::Lock(true));
        world.settle();
        if is_in_mid_handshake {
            given_away_in_mid_handshake(&mut world, job);
        } else {
            world.cut(0);
            give_away(&mut world, job);
            reconnect(&mut world, 0);
        }
        world.add_slave("second");
        world.settle();
        assert_eq!(
            (world.state(job), world.holder(job), world.begun(job)),
            (State::Running, Some(0), 1),
            "in mid-handshake: {is_in_mid_handshake}"
        );
    }
}

#[test]
fn a_job_that_runs_at_a_slave_that_settles_is_not_shown_as_lost() {
    for is_in_mid_handshake in [false, true] {
        let (mut world, job) = endless_job(|_, _| {});
        world.cut(0);
        if is_in_mid_handshake {
            world.plug(0);
            let from = world.crossed.len();
            pump_until(&mut world, |world| world.crossed[from..].contains(&(0, "welcome")));
        }
        world.command(job, JobCommand::Abandon);
        reconnect(&mut world, 0);
        world.pass(3_600_000);
        assert_eq!(world.state(job), State::Running, "in mid-handshake: {is_in_mid_handshake}");
    }
}

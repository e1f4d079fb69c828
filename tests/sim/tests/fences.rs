//! Fences of the rules that another fence usually stands before: each is tried alone.
#![cfg(test)]

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, Commit, Epoch, Generation, JobId, MasterId, Run, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{self, Answer, JobCommand, SlaveCommand};
use reloop_protocol::message::{
    Challenge, Declined, Flags, Hello, Message, Mode, OperatingMode, Outcome, PROTOCOL, Reason, ReasonCode,
};
use reloop_protocol::slave::{self, Effect, Ended, Fact, LinkId, Local, Now, Probed, RunKey, Slave};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate};
use reloop_sim::world::World;

fn placed(held: bool) -> (World, JobId) {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    if held {
        order.start.gate = Gate::Held;
    }
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), if held { State::Accepted } else { State::Running });
    (world, job)
}

/// The master says something on the slave's live link.
fn say(world: &mut World, message: Message) {
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    world.slave_event(
        0,
        slave::Event::Received { link, session, commit: Commit(0), message, unfit: BTreeMap::new() },
    );
}

fn cancel_of(world: &World, job: JobId, attempt: u32, generation: u32) -> Message {
    let job = world.job(job);
    Message::DesiredState(DesiredState {
        job: job.id,
        attempt: Attempt(attempt),
        generation: Generation(generation),
        digest: job.digest,
        spec: None,
        desired: Desired::Cancel(CancelMode::Now),
        start: job.start,
    })
}

#[test]
fn a_desired_state_that_is_older_than_the_one_that_is_known_has_no_force() {
    let (mut world, job) = placed(true);
    let known = world.job(job);
    let message = cancel_of(&world, job, known.attempt.0, known.generation.0 - 1);
    say(&mut world, message);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
}

#[test]
fn a_desired_state_for_an_older_attempt_has_no_force_however_new_it_is() {
    let (mut world, job) = placed(true);
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    world.command(job, JobCommand::Retry);
    world.plug(0);
    world.settle();
    assert_eq!((world.job(job).attempt, world.state(job)), (Attempt(2), State::Running));
    let message = cancel_of(&world, job, 1, world.job(job).generation.0 + 9);
    say(&mut world, message);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn an_older_decision_about_the_slave_has_no_force() {
    let mut world = World::new(1);
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    say(
        &mut world,
        Message::OperatingMode(OperatingMode { generation: Generation(0), mode: Mode::Production }),
    );
    assert_eq!(world.boxes[0].state.as_ref().unwrap().node.operating_mode.mode, Mode::Maintenance);
}

#[test]
fn that_a_start_never_was_is_believed_only_of_a_machine_that_was_asked() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    while world.on_slave(0, job) != Some(State::Starting) {
        assert!(world.pump(), "the job does not come to its start");
    }
    let work = RunKey { job, attempt: Attempt(1), run: Run(1) };
    world.slave_event(0, slave::Event::Machine { work, fact: Fact::Probed(Probed::NeverStarted) });
    world.settle();
    assert_eq!(
        (world.on_slave(0, job), world.begun(job)),
        (Some(State::Running), 1),
        "it is not begun again"
    );
}

#[test]
fn a_machine_that_speaks_of_another_beginning_ends_nothing() {
    let (mut world, job) = placed(false);
    let work = RunKey { job, attempt: Attempt(1), run: Run(7) };
    let outcome = Outcome { exit_code: None, signal: None, text: String::new() };
    let fact = Fact::Ended(Ended { end: End::Failed, outcome, at: None });
    world.slave_event(0, slave::Event::Machine { work, fact });
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn a_machine_that_has_forgotten_what_it_had_begun_proves_nothing() {
    let (mut world, job) = placed(false);
    world.kill_agent(0);
    world.boxes[0].machine.works.clear();
    world.start_agent(0, true);
    world.pass(6_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Uncertain, 1));
}

#[test]
fn a_success_that_a_refused_stop_could_not_prevent_is_a_success() {
    let (mut world, job) = placed(false);
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert!(world.job(job).all_flags().has(Flags::CANCEL_TOO_LATE));
}

#[test]
fn an_outcome_of_the_time_without_an_agent_carries_its_own_time() {
    let (mut world, job) = placed(false);
    let started = world.now();
    world.kill_agent(0);
    world.pass(60_000);
    world.start_agent(0, true);
    world.settle();
    let took = world.job(job).ended_at.unwrap().since(started).0;
    assert!(took <= 10_500, "{took} ms");
}

#[test]
fn who_broke_a_promise_starts_nothing_until_somebody_has_looked() {
    let (mut world, job) = placed(false);
    world.kill_agent(0);
    world.boxes[0].disk = world.boxes[0].disk.clone().without(job);
    world.start_agent(0, true);
    world.settle();
    world.command(job, JobCommand::Resolve(End::Failed));
    let order = world.order("mill");
    let next = world.place(order);
    world.pass(5_000);
    assert_eq!(world.begun(next), 0, "the lost job may still be in the machine");
    world.local(0, Local::Clear).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn what_the_programs_cannot_do_is_never_held() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let (job, digest) = (order.jobs[0], order.spec.digest());
    let desired_state = DesiredState {
        job,
        attempt: Attempt(1),
        generation: Generation(1),
        digest,
        spec: Some(order.spec),
        desired: Desired::Run,
        start: order.start,
    };
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("not live")
    };
    let unfit = BTreeMap::from([(job, Reason::new(ReasonCode::BadParams, "the file does not match"))]);
    let message = Message::DesiredState(desired_state);
    world.slave_event(0, slave::Event::Received { link, session, commit: Commit(0), message, unfit });
    assert_eq!((world.on_slave(0, job), world.begun(job)), (None, 0));
}

#[test]
fn a_cancel_is_not_taken_back_and_a_success_is_not_repeated() {
    let (mut world, job) = placed(false);
    world.cut(0);
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    assert!(matches!(world.command(job, JobCommand::Resume), Some(Answer::Refused(..))));
    let (mut world, job) = placed(false);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert!(matches!(world.command(job, JobCommand::Retry), Some(Answer::Refused(..))));
}

/// How often the job was assigned, the moment after it was placed.
fn assigned(world: &mut World, change: impl FnOnce(&mut master::Order)) -> u32 {
    let mut order = world.order("mill");
    change(&mut order);
    let job = world.place(order);
    world.settle();
    world.job(job).last_attempt.0
}

#[test]
fn who_cannot_take_a_job_is_not_even_asked() {
    let mut world = World::new(1);
    assert_eq!(assigned(&mut world, |order| order.start.gate = Gate::Held), 1);
    assert_eq!(assigned(&mut world, |order| order.spec.program = "paint".to_owned()), 0);
    assert_eq!(assigned(&mut world, |order| order.slave = Some("s9".to_owned())), 0);
    for taken in 2..=4 {
        assert_eq!(assigned(&mut world, |order| order.start.gate = Gate::Held), 1, "{taken}");
    }
    assert_eq!(assigned(&mut world, |order| order.start.gate = Gate::Held), 0, "there is no room");
    let mut world = World::new(1);
    world.local(0, Local::Lock(true)).unwrap().unwrap();
    world.settle();
    assert_eq!(assigned(&mut world, |_| {}), 0, "it is locked");
    world.local(0, Local::Lock(false)).unwrap().unwrap();
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    assert_eq!(assigned(&mut world, |_| {}), 0, "it is out of production");
}

#[test]
fn of_what_waits_the_highest_priority_is_assigned_and_started_first() {
    let mut world = World::new(1);
    world.cut(0);
    let jobs: Vec<_> = [0, 5, 1]
        .into_iter()
        .map(|priority| {
            let mut order = world.order("mill");
            order.start.priority = priority;
            world.place(order)
        })
        .collect();
    // All of them reach the slave at once, and the machine takes one.
    world.local(0, Local::Pause);
    world.plug(0);
    world.settle();
    assert_eq!(world.state(jobs[1]), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(jobs[0]), world.state(jobs[2])), (State::Accepted, State::Running));
}

#[test]
fn a_command_inside_the_handshake_waits_for_its_end() {
    let (mut world, job) = placed(true);
    world.cut(0);
    world.plug(0);
    world.crossed.clear();
    while !world.crossed.iter().any(|(_, kind)| *kind == "welcome") {
        assert!(world.pump());
    }
    world.crossed.clear();
    world.command(job, JobCommand::Pause);
    world.settle();
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    assert_eq!(said.first(), Some(&"settled"), "{said:?}");
    assert_eq!(world.boxes[0].state.as_ref().unwrap().jobs[&job].desired, Desired::Pause);
}

#[test]
fn a_refusal_of_an_older_desired_state_takes_nothing_back() {
    let (mut world, job) = placed(true);
    let link = world.master.as_ref().unwrap().slaves.values().next().unwrap().live().unwrap();
    let declined = Declined {
        job,
        attempt: Attempt(1),
        generation: Generation(0),
        reason: Reason::new(ReasonCode::AtCapacity, "an old word"),
        for_good: false,
    };
    world.master_event(master::Event::Received { link, message: Message::Declined(declined) });
    assert_eq!(world.state(job), State::Accepted);
}

#[test]
fn a_restored_master_believes_in_attempts_that_it_has_forgotten() {
    for is_busy in [false, true] {
        let (mut world, job) = placed(true);
        let backup = world.master_disk.clone();
        world.cut(0);
        world.command(job, JobCommand::Abandon);
        if is_busy {
            let mut order = world.order("mill");
            order.start.priority = 1;
            world.place(order);
        }
        world.command(job, JobCommand::Retry);
        world.plug(0);
        world.settle();
        let found = if is_busy { State::Accepted } else { State::Running };
        assert_eq!(world.on_slave(0, job), Some(found));
        world.kill_master();
        world.boxes[0].cable = false;
        world.master_disk = backup;
        world.start_master();
        world.master_event(master::Event::RestoreConfirmed { request: master::RequestId(0), forced: true });
        world.plug(0);
        world.settle();
        assert_eq!((world.state(job), world.job(job).attempt), (found, Attempt(2)));
        assert_eq!(world.on_slave(0, job), Some(found));
    }
}

#[test]
fn a_success_speaks_for_the_job_whatever_else_a_restored_master_has_forgotten() {
    let mut world = World::new(2);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let first = usize::from(world.on_slave(1, job).is_some());
    let second = 1 - first;
    world.boxes[second].machine.length_ms = i64::MAX;
    let backup = world.master_disk.clone();
    world.cut(first);
    world.command(job, JobCommand::Abandon);
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!(world.on_slave(second, job), Some(State::Running));
    world.kill_master();
    for slave in [first, second] {
        world.boxes[slave].cable = false;
    }
    world.master_disk = backup;
    world.start_master();
    world.master_event(master::Event::RestoreConfirmed { request: master::RequestId(0), forced: true });
    world.pass(12_000);
    world.plug(first);
    world.settle();
    assert_eq!((world.state(job), world.job(job).attempt), (State::Succeeded, Attempt(1)));
    world.plug(second);
    world.settle();
    let told = world.job(job);
    assert_eq!((told.state, told.attempt, told.last_attempt), (State::Succeeded, Attempt(1), Attempt(2)));
    assert!(told.all_flags().has(Flags::DUPLICATE), "the second goes on, and somebody should know");
}

/// What a slave that knows one outcome by heart and holds one job answers to a Challenge.
fn hello_to(change: impl FnOnce(&mut Challenge)) -> (Slave, Hello) {
    let (mut world, _) = placed(false);
    world.pass(12_000);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    world.place(order);
    world.settle();
    world.master_event(master::Event::RestoreConfirmed { request: master::RequestId(0), forced: true });
    world.settle();
    // What was told of the recent outcomes is held for heard once the master has said something.
    world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
    world.settle();
    world.cut(0);
    let node = world.master.as_ref().unwrap().node;
    let mut challenge = Challenge {
        protocol: PROTOCOL,
        master: node.id,
        epoch: node.epoch,
        commit: node.commit,
        begun: vec![],
        nonce: [0; 32],
        time: world.now(),
    };
    change(&mut challenge);
    let state = world.boxes[0].state.clone().unwrap();
    let now = Now { wall: world.now(), boot_ms: u64::try_from(world.ms).unwrap(), synchronized: false };
    let (link, session) = (LinkId(999), Session(0));
    let state = slave::step(state, now, slave::Event::LinkOpened { link, token: None }).state;
    let message = Message::Challenge(challenge);
    let unfit = BTreeMap::new();
    let step =
        slave::step(state, now, slave::Event::Received { link, session, commit: Commit(0), message, unfit });
    let hello = step.effects.into_iter().find_map(|effect| match effect {
        Effect::Send { message: Message::Hello(hello), .. } => Some(*hello),
        _ => None,
    });
    (step.state, hello.unwrap())
}

#[test]
fn a_slave_tells_each_master_what_is_its_to_know_and_obeys_no_older_copy() {
    let (_, known) = hello_to(|_| {});
    assert_eq!((known.rows.len(), known.recent_outcomes.len()), (1, 0), "it has forgotten nothing");
    let (_, foreign) = hello_to(|challenge| challenge.master = MasterId([9; 16]));
    assert_eq!((foreign.rows.len(), foreign.recent_outcomes.len()), (0, 0), "a stranger");
    let (_, restored) = hello_to(|challenge| challenge.epoch = Epoch(challenge.epoch.0 + 1));
    assert_eq!((restored.rows.len(), restored.recent_outcomes.len()), (1, 1), "it may have forgotten");
    for older in [
        |challenge: &mut Challenge| challenge.epoch = Epoch(challenge.epoch.0 - 1),
        |challenge: &mut Challenge| challenge.commit = Commit(1),
    ] {
        let (state, _) = hello_to(older);
        assert!(matches!(state.link, slave::Link::Introduced { doubtful: true, .. }), "{:?}", state.link);
    }
}

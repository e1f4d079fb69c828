//! What the tests of the rules share: starting situations, and what can be observed in them.

#![allow(dead_code, unused_imports, reason = "each test program takes what it needs")]

mod seat;

pub(crate) use self::seat::*;

use std::collections::BTreeMap;

use reloop_protocol::id::{BootId, Commit, JobId, Session, StoreId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, Answer, Delivery, JobCommand, Order, RequestId};
use reloop_protocol::message::{
    Challenge, Declined, Hello, MachineReport, Message, Outcome, PROTOCOL, Reason, ReasonCode, WaitingFor,
};
use reloop_protocol::slave::{self, Damage, Effect, Ended, Fact, LinkId, Local, Settings};
use reloop_protocol::spec::{Desired, DesiredState, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, MasterDisk, World};

/// The master's time plus `ms`.
pub(crate) fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

pub(crate) fn place(world: &mut World) -> JobId {
    place_as(world, |_| {})
}

pub(crate) fn place_as(world: &mut World, change: impl FnOnce(&mut Order)) -> JobId {
    let mut order = world.order("mill");
    change(&mut order);
    world.place(order)
}

/// Places an order, and lets everything settle.
pub(crate) fn placed(world: &mut World, change: impl FnOnce(&mut Order)) -> JobId {
    let job = place_as(world, change);
    world.settle();
    job
}

/// Places an order with a start in `ms`, and lets everything settle.
pub(crate) fn deferred(world: &mut World, ms: i64, change: impl FnOnce(&mut Order)) -> JobId {
    let at = later(world, ms);
    let job = placed(world, |order| {
        order.start.not_before = at;
        change(order);
    });
    assert_eq!(world.state(job), State::Accepted);
    job
}

/// A world of one slave with one running job.
pub(crate) fn running() -> (World, JobId) {
    running_as(|_| {})
}

pub(crate) fn running_as(change: impl FnOnce(&mut Order)) -> (World, JobId) {
    let mut world = World::new(1);
    let job = placed(&mut world, change);
    assert_eq!(world.state(job), State::Running);
    (world, job)
}

/// A world of one slave whose machine works until it is told to stop.
pub(crate) fn endless() -> World {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world
}

/// The same with one running job.
pub(crate) fn endless_job(change: impl FnOnce(&World, &mut Order)) -> (World, JobId) {
    let mut world = endless();
    let mut order = world.order("mill");
    change(&world, &mut order);
    let job = world.place(order);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    (world, job)
}

pub(crate) fn restartable(_: &World, order: &mut Order) {
    order.spec.on_interrupt = OnInterrupt::Restart;
}

/// A world of one slave with these settings.
pub(crate) fn world_with(change: impl FnOnce(&mut Settings)) -> World {
    let mut world = World::bare();
    let mut settings = world.settings("s0");
    change(&mut settings);
    world.start_master();
    world.add_box(settings);
    world
}

/// A slave whose machine works until it is told, and a master for which one step of priority is worth a wait of 1 s.
pub(crate) fn with_ageing() -> World {
    let mut world = World::bare();
    world.placement.ageing = Some(Millis::seconds(1));
    world.start_master();
    let settings = world.settings("s0");
    world.add_box(settings);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    world
}

/// Its time comes after the end of every test.
pub(crate) fn much_later(order: &mut Order) {
    order.start.not_before = Some(order.created_at.after(Millis::seconds(10 * 365 * 86_400)));
}

/// A person lets a job start now.
pub(crate) fn let_start(world: &mut World, job: JobId) {
    drop(command(world, job, JobCommand::Release { valid: Millis::seconds(3_600) }));
}

/// A world of one slave with one job that waits for its time, and starts before that only if a person releases it.
pub(crate) fn unstarted() -> (World, JobId) {
    let mut world = World::new(1);
    let job = placed(&mut world, much_later);
    assert_eq!(world.state(job), State::Accepted);
    (world, job)
}

/// A world of one slave whose intent to start is on its disk, before any effect.
pub(crate) fn starting() -> (World, JobId) {
    starting_as(|_| {})
}

/// The same in a prepared world.
pub(crate) fn starting_as(prepare: impl FnOnce(&mut World)) -> (World, JobId) {
    let mut world = World::new(1);
    prepare(&mut world);
    let job = place(&mut world);
    pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Starting));
    (world, job)
}

/// Attempt 1 is at slave 0, which is away; attempt 2 runs at slave 1, for a minute.
pub(crate) fn two_attempts() -> (World, JobId) {
    let (mut world, job) = running();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = 60_000;
    world.command(job, JobCommand::Retry);
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(second)));
    (world, job)
}

/// Moves one message after the other until this holds.
pub(crate) fn pump_until(world: &mut World, holds: impl Fn(&World) -> bool) {
    while !holds(world) {
        assert!(world.pump(), "it came to rest before that");
    }
}

/// Reconnects a slave and lets everything settle.
pub(crate) fn reconnect(world: &mut World, slave: usize) {
    world.plug(slave);
    world.settle();
}

/// The first slave's machine has done the job, or failed at it, and says so.
pub(crate) fn ends(world: &mut World, job: JobId, end: End) {
    let (work, at) = (agent(world).jobs[&job].work(), Time(world.wall(0)));
    world.boxes[0].machine.finish(work, end, at, true);
    assert!(world.hear_machine(0));
}

/// Gives a command for a job and lets everything settle.
pub(crate) fn command(world: &mut World, job: JobId, command: JobCommand) -> Option<Answer> {
    let answer = world.command(job, command);
    world.settle();
    answer
}

/// Abandons an attempt and retries the job.
pub(crate) fn give_away(world: &mut World, job: JobId) {
    world.command(job, JobCommand::Abandon);
    world.command(job, JobCommand::Retry);
}

/// Releases a job, for this long.
pub(crate) fn release(world: &mut World, job: JobId, seconds: u64) -> Option<Answer> {
    world.command(job, JobCommand::Release { valid: Millis::seconds(seconds) })
}

/// The answer to an accepted command.
pub(crate) fn taken(delivery: Delivery, job: JobId) -> Option<Answer> {
    Some(Answer::Taken(vec![(job, delivery)]))
}

/// The reason of a job, from the slave's report or the master's record.
pub(crate) fn reason(world: &World, job: JobId) -> ReasonCode {
    let job = world.job(job);
    job.report.and_then(|report| report.reason).or(job.reason).expect("a reason").code
}

/// What a job waits for, as the master knows it.
pub(crate) fn waits_for(world: &World, job: JobId) -> Option<WaitingFor> {
    world.job(job).report.expect("a report").waiting_for
}

/// The state of slave 0.
pub(crate) fn agent(world: &World) -> &slave::Slave {
    world.boxes[0].state.as_ref().expect("the agent lives")
}

/// A job in the state of slave 0.
pub(crate) fn kept(world: &World, job: JobId) -> &slave::Job {
    &agent(world).jobs[&job]
}

/// Kills slave 0's agent and starts it again.
pub(crate) fn restart_agent(world: &mut World) {
    world.kill_agent(0);
    world.start_agent(0, true);
}

/// Slave 0's agent is down for so long.
pub(crate) fn off_for(world: &mut World, ms: i64) {
    world.kill_agent(0);
    world.pass(ms);
    world.start_agent(0, true);
    reconnect(world, 0);
}

/// Restarts slave 0's agent while its machine answers no probe.
pub(crate) fn silence_machine(world: &mut World) {
    world.boxes[0].machine.silent = true;
    restart_agent(world);
}

/// Reboots slave 0 and lets everything settle.
pub(crate) fn reboot(world: &mut World) {
    world.reboot(0);
    world.settle();
}

/// Replaces the master's files while it is down.
pub(crate) fn put_back_files(world: &mut World, files: MasterDisk) {
    world.kill_master();
    world.master_disk = files;
    world.start_master();
}

/// A person confirms a restore, whether or not a slave doubts the master.
pub(crate) fn confirm_restore(world: &mut World) {
    world.master_event(master::Event::RestoreConfirmed { request: RequestId(0), forced: true });
}

/// The machine in slave 0's report.
pub(crate) fn machine(world: &World) -> MachineReport {
    slave::machine_report(agent(world))
}

/// The desired state for a job, as the master would send it.
pub(crate) fn desired_state(world: &World, job: JobId) -> DesiredState {
    let job = world.job(job);
    DesiredState {
        requires: Default::default(),
        job: job.id,
        attempt: job.attempt,
        generation: job.generation,
        digest: job.digest,
        spec: Some(job.spec),
        desired: Desired::Run,
        start: job.start,
    }
}

/// Slave 0's live link and its session.
pub(crate) fn live(world: &World) -> (LinkId, Session) {
    let slave::Link::Live { link, session, .. } = agent(world).link else {
        panic!("not live: {:?}", agent(world).link)
    };
    (link, session)
}

/// The live link of a slave, as the master knows it.
pub(crate) fn link_of(world: &World, slave: usize) -> LinkId {
    let key = world.boxes[slave].settings.key;
    world.master.as_ref().expect("the master lives").slaves[&key].live().expect("it is online")
}

/// A message to a slave.
pub(crate) fn heard(link: LinkId, session: Session, message: Message) -> slave::Event {
    slave::Event::Received { link, session, commit: Commit(0), message, unfit: BTreeMap::new() }
}

/// A message to the master.
pub(crate) fn received(link: LinkId, message: Message) -> master::Event {
    master::Event::Received { link, message }
}

/// A slave's decline of the master's desired state for a job.
pub(crate) fn no_to(job: &master::Job, code: ReasonCode, for_good: bool) -> Declined {
    let reason = Reason::new(code, "no");
    Declined { job: job.id, attempt: job.attempt, generation: job.generation, reason, for_good }
}

pub(crate) fn challenge(world: &World) -> Challenge {
    let node = world.master.as_ref().expect("the master lives").node;
    let (master, epoch, commit) = (node.id, node.epoch, node.commit);
    Challenge { protocol: PROTOCOL, master, epoch, commit, begun: vec![], nonce: [0; 32], time: world.now() }
}

/// The start of an agent on a box that was rebooted.
pub(crate) fn agent_started() -> slave::Event {
    slave::Event::AgentStarted {
        boot: BootId([7; 16]),
        fingerprint: None,
        known_key: true,
        next_store: StoreId([7; 16]),
        damage: Damage::default(),
        unfit: Default::default(),
    }
}

/// The link that [`dialled`] opens.
pub(crate) const DIALLED: LinkId = LinkId(999);

/// Slave 0 with an open link, before the Challenge.
pub(crate) fn dialled(world: &World, token: Option<&str>) -> slave::Slave {
    let event = slave::Event::LinkOpened { link: DIALLED, token: token.map(str::to_owned) };
    slave::step(agent(world).clone(), world.slave_now(0), event).state
}

/// The Hello in these effects.
pub(crate) fn hello_in(effects: &[Effect]) -> Hello {
    let hello = |effect: &Effect| match effect {
        Effect::Send { message: Message::Hello(hello), .. } => Some((**hello).clone()),
        _ => None,
    };
    effects.iter().find_map(hello).expect("a Hello")
}

/// The effects of a message on a link, without changing slave 0.
pub(crate) fn hears(
    world: &World,
    link: LinkId,
    session: Session,
    message: Message,
) -> (slave::Slave, Vec<Effect>) {
    let step = slave::step(agent(world).clone(), world.slave_now(0), heard(link, session, message));
    (step.state, step.effects)
}

/// The effects of a message on slave 0's live link, without changing it.
pub(crate) fn would_do(world: &World, message: Message) -> Vec<Effect> {
    let (link, session) = live(world);
    hears(world, link, session, message).1
}

/// Sends a message to slave 0 on its live link.
pub(crate) fn say(world: &mut World, message: Message) {
    let (link, session) = live(world);
    world.slave_event(0, heard(link, session, message));
}

/// How many messages of this kind were delivered since the list was cleared.
pub(crate) fn crossed(world: &World, kind: &str) -> usize {
    world.crossed.iter().filter(|(_, crossed)| *crossed == kind).count()
}

/// A slave at a job that ends only when it is told to, unreachable for its master; another job waits behind it.
pub(crate) fn at_work() -> (slave::Slave, slave::Now, JobId, JobId) {
    let (mut world, job) = endless_job(|_, _| {});
    let waits = placed(&mut world, |_| {});
    world.cut(0);
    assert_eq!(
        (world.on_slave(0, job), world.on_slave(0, waits)),
        (Some(State::Running), Some(State::Accepted))
    );
    (agent(&world).clone(), world.slave_now(0), job, waits)
}

pub(crate) fn machine_says(state: slave::Slave, now: slave::Now, job: JobId, fact: Fact) -> slave::Step {
    let work = state.jobs[&job].work();
    slave::step(state, now, slave::Event::Machine { work, fact })
}

/// Slave 0 receives this fact about a job from its machine.
pub(crate) fn machine_tells(world: &mut World, job: JobId, fact: Fact) {
    let work = kept(world, job).work();
    world.slave_event(0, slave::Event::Machine { work, fact });
}

pub(crate) fn person_says(state: slave::Slave, now: slave::Now, command: Local) -> slave::Step {
    slave::step(state, now, slave::Event::Local { request: 1, command })
}

pub(crate) fn ended(end: End) -> Fact {
    ended_with(end, "")
}

pub(crate) fn ended_with(end: End, text: &str) -> Fact {
    let outcome = Outcome { exit_code: None, signal: None, text: text.to_owned() };
    Fact::Ended(Ended { end, outcome, at: None })
}

/// The state and the reason in a slave's report of a job.
pub(crate) fn word(state: &slave::Slave, job: JobId) -> (State, Option<ReasonCode>) {
    let report = &state.jobs[&job].report;
    (report.state, report.reason.as_ref().map(|reason| reason.code))
}

/// A job that waits at the second slave for its time, and that slave's link.
pub(crate) fn deferred_at_the_second() -> (World, JobId, LinkId) {
    let mut world = World::new(1);
    world.add_slave("second");
    let job = placed(&mut world, |order| {
        order.slave = Some("second".to_owned());
        much_later(order);
    });
    let link = link_of(&world, 1);
    (world, job, link)
}

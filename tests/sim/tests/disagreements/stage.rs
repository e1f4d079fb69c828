//! What the stories share: how they begin, and what can be seen in them.

use std::collections::BTreeMap;

use reloop_protocol::id::{Commit, JobId};
use reloop_protocol::job::State;
use reloop_protocol::master::{Answer, Delivery, JobCommand, Order};
use reloop_protocol::message::{MachineReport, Message, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, Effect, LinkId, Now};
use reloop_protocol::spec::{Desired, DesiredState, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::World;

/// The master's time, so much later.
pub(crate) fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

/// Places a plain order.
pub(crate) fn place(world: &mut World) -> JobId {
    place_as(world, |_| {})
}

/// Places an order that is not plain.
pub(crate) fn place_as(world: &mut World, change: impl FnOnce(&mut Order)) -> JobId {
    let mut order = world.order("mill");
    change(&mut order);
    world.place(order)
}

/// Places an order for a moment from now, and lets it come to rest.
pub(crate) fn deferred(world: &mut World, ms: i64, change: impl FnOnce(&mut Order)) -> JobId {
    let at = later(world, ms);
    let job = place_as(world, |order| {
        order.start.not_before = at;
        change(order);
    });
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    job
}

/// A world of one slave with one job under way.
pub(crate) fn running() -> (World, JobId) {
    running_as(|_| {})
}

/// The same, of an order that is not plain.
pub(crate) fn running_as(change: impl FnOnce(&mut Order)) -> (World, JobId) {
    let mut world = World::new(1);
    let job = place_as(&mut world, change);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    (world, job)
}

/// A world of one slave with one job that waits for a person's word.
pub(crate) fn held() -> (World, JobId) {
    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.start.gate = Gate::Held);
    world.settle();
    assert_eq!(world.state(job), State::Accepted);
    (world, job)
}

/// A world of one slave whose intent to start is on its disk, and not a word of it has left the slave.
pub(crate) fn starting() -> (World, JobId) {
    let mut world = World::new(1);
    let job = place(&mut world);
    pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Starting));
    (world, job)
}

/// Attempt 1 is with slave 0, which is away; attempt 2 runs at slave 1, for a minute.
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

/// Moves message after message until this holds.
pub(crate) fn pump_until(world: &mut World, holds: impl Fn(&World) -> bool) {
    while !holds(world) {
        assert!(world.pump(), "it came to rest before that");
    }
}

/// The link comes back, and everything that it brings.
pub(crate) fn reconnect(world: &mut World, slave: usize) {
    world.plug(slave);
    world.settle();
}

/// A person lets a job go, for this long.
pub(crate) fn release(world: &mut World, job: JobId, seconds: u64) -> Option<Answer> {
    world.command(job, JobCommand::Release { valid: Millis::seconds(seconds) })
}

/// The answer to a command that was taken.
pub(crate) fn taken(delivery: Delivery, job: JobId) -> Option<Answer> {
    Some(Answer::Taken(vec![(job, delivery)]))
}

/// Why a job is as it is, by the slave's word or the master's.
pub(crate) fn reason(world: &World, job: JobId) -> ReasonCode {
    let job = world.job(job);
    job.report.and_then(|report| report.reason).or(job.reason).expect("a reason").code
}

/// What a job waits for, as the master knows it.
pub(crate) fn waits_for(world: &World, job: JobId) -> Option<WaitingFor> {
    world.job(job).report.expect("a report").waiting_for
}

/// What slave 0 says of its machine.
pub(crate) fn machine(world: &World) -> MachineReport {
    slave::machine_report(world.boxes[0].state.as_ref().expect("the agent lives"))
}

/// The desired state for a job, as the master would say it.
pub(crate) fn desired_state(world: &World, job: JobId) -> DesiredState {
    let job = world.job(job);
    DesiredState {
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
pub(crate) fn live(world: &World) -> (LinkId, reloop_protocol::id::Session) {
    let state = world.boxes[0].state.as_ref().expect("the agent lives");
    let slave::Link::Live { link, session, .. } = state.link else { panic!("not live: {:?}", state.link) };
    (link, session)
}

/// What slave 0 would do with a message on its live link; it does not get it.
pub(crate) fn would_do(world: &World, message: Message) -> Vec<Effect> {
    let (link, session) = live(world);
    let state = world.boxes[0].state.clone().expect("the agent lives");
    let now = Now { wall: world.now(), boot_ms: world.ms.unsigned_abs(), synchronized: false };
    slave::step(
        state,
        now,
        slave::Event::Received { link, session, commit: Commit(0), message, unfit: BTreeMap::new() },
    )
    .effects
}

/// Says this to slave 0 on its live link.
pub(crate) fn say(world: &mut World, message: Message) {
    let (link, session) = live(world);
    world.slave_event(
        0,
        slave::Event::Received { link, session, commit: Commit(0), message, unfit: BTreeMap::new() },
    );
}

/// How many messages of this kind crossed since the list was cleared.
pub(crate) fn crossed(world: &World, kind: &str) -> usize {
    world.crossed.iter().filter(|(_, crossed)| *crossed == kind).count()
}

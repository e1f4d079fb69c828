//! The acts that are possible in a state, and their results.

use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Answer, Enrolled, JobCommand, SlaveCommand, SlaveRecord};
use reloop_protocol::message::Flags;
use reloop_protocol::slave::Local;
use reloop_protocol::spec::{Desired, Gate};
use reloop_protocol::time::{Millis, Time};

use super::{Deed, Fault, Floor, Scene};
use crate::world::World;

/// How long a release is valid.
const RELEASED_FOR: Millis = Millis::seconds(15);

/// The progress of a machine's work at each step, in thousandths.
const STEP: u16 = 300;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// A client places the next order.
    Placed,
    /// The same, and the master crashes after so many effects.
    PlacedAndCrashed(usize),
    /// A slave receives its master's next message.
    Down(usize),
    /// The same, and the agent crashes after so many effects; all writes are on its disk.
    DownAndCrashed(usize, usize),
    /// The master receives a slave's next message.
    Up(usize),
    /// The same, and the master crashes after so many effects.
    UpAndCrashed(usize, usize),
    /// A slave receives its machine's next fact.
    Heard(usize),
    /// The same, and the agent crashes.
    HeardAndCrashed(usize, usize),
    Dialed(usize),
    /// A slow machine begins the work that it was told to start.
    Began(usize),
    /// A machine answers a probe.
    Answered(usize),
    /// A probed link answers.
    Pinged,
    Progressed(usize),
    /// A machine's work ends by itself.
    Finished(usize, End),
    /// A frame of a dead link arrives.
    Late(usize),
    /// At a slave, or at the master.
    Fault(Fault, usize),
    /// On a job or at a slave.
    Deed(Deed, usize),
    /// The same, and the master crashes after so many effects.
    DeedAndCrashed(Deed, usize, usize),
    /// A cable is put back.
    Plugged(usize),
    /// Both ends notice that their link swallows everything.
    Noticed(usize),
    Revived(usize),
    MasterStarted,
    Passed,
}

/// Adds every act that is possible in this state.
pub(super) fn possible(floor: &Floor, scene: &Scene, acts: &mut Vec<Act>) {
    let Scene { world, left, .. } = scene;
    let configuration = &floor.configuration;
    let fault = |fault: Fault| left.faults > 0 && configuration.faults.1.contains(&fault);
    let crashes = 0..configuration.effects;
    let master = world.master.is_some();
    if master && scene.placed < floor.orders.len() {
        acts.push(Act::Placed);
        if fault(Fault::CrashMaster) {
            acts.extend(crashes.clone().map(Act::PlacedAndCrashed));
        }
    }
    for slave in 0..world.boxes.len() {
        let held = &world.boxes[slave];
        let agent = held.state.is_some();
        let (down, up) = world.under_way(slave);
        let link = world.link(slave);
        if agent && down > 0 {
            acts.push(Act::Down(slave));
            if fault(Fault::CrashAgent) {
                acts.extend(crashes.clone().map(|done| Act::DownAndCrashed(slave, done)));
            }
        }
        if agent && up > 0 {
            acts.push(Act::Up(slave));
            if master && fault(Fault::CrashMaster) {
                acts.extend(crashes.clone().map(|done| Act::UpAndCrashed(slave, done)));
            }
        }
        if agent && world.unheard(slave) > 0 {
            acts.push(Act::Heard(slave));
            if fault(Fault::CrashAgent) {
                acts.extend(crashes.clone().map(|done| Act::HeardAndCrashed(slave, done)));
            }
        }
        if world.can_dial(slave) {
            acts.push(Act::Dialed(slave));
        }
        if held.machine.has_in_hand() {
            acts.push(Act::Began(slave));
        }
        if held.machine.was_asked() {
            acts.push(Act::Answered(slave));
        }
        if held.machine.may_progress(STEP * configuration.progress) {
            acts.push(Act::Progressed(slave));
        }
        if held.machine.working().next().is_some() {
            acts.extend(configuration.ends.iter().map(|end| Act::Finished(slave, *end)));
        }
        if !held.cable {
            acts.push(Act::Plugged(slave));
        }
        if link == Some(true) {
            acts.push(Act::Noticed(slave));
        }
        if !agent {
            acts.push(Act::Revived(slave));
        }
        if left.faults > 0 {
            let faults = configuration.faults.1.iter().filter(|fault| match fault {
                Fault::Cut | Fault::HalfOpen => link.is_some(),
                Fault::Swallow => link == Some(false),
                Fault::KillAgent => agent,
                Fault::Reboot => true,
                Fault::Narrow => !held.narrow,
                Fault::Refuse => !held.machine.refuses,
                Fault::Unfit => !held.machine.unfit,
                Fault::Reject => !held.machine.rejects,
                Fault::Unstoppable => !held.machine.unstoppable,
                Fault::Silent => !held.machine.silent,
                // They have acts of their own, or happen at the master.
                Fault::CrashAgent | Fault::CrashMaster | Fault::KillMaster | Fault::Restore { .. } => false,
            });
            acts.extend(faults.map(|fault| Act::Fault(*fault, slave)));
        }
    }
    if world.asks_links() {
        acts.push(Act::Pinged);
    }
    if left.faults > 0 {
        let faults = configuration.faults.1.iter().filter(|fault| match fault {
            Fault::KillMaster => master,
            Fault::Restore { .. } => world.is_backed_up(),
            _ => false,
        });
        acts.extend(faults.map(|fault| Act::Fault(*fault, 0)));
    }
    if !master {
        acts.push(Act::MasterStarted);
    }
    if left.late > 0 {
        acts.extend((0..world.late_frames()).map(Act::Late));
    }
    if left.deeds > 0 {
        for deed in configuration.deeds.1 {
            for of in possible_at(floor, scene, *deed) {
                acts.push(Act::Deed(*deed, of));
                if deed.is_at_the_master() && fault(Fault::CrashMaster) {
                    acts.extend(crashes.clone().map(|done| Act::DeedAndCrashed(*deed, of, done)));
                }
            }
        }
    }
    if left.steps > 0 {
        acts.push(Act::Passed);
    }
}

/// The jobs or slaves for which this deed is possible.
fn possible_at(floor: &Floor, scene: &Scene, deed: Deed) -> Vec<usize> {
    let world = &scene.world;
    let master = world.master.as_ref();
    let jobs = |fits: &dyn Fn(&reloop_protocol::master::Job) -> bool| {
        let known = |order: &usize| {
            master.is_some() && world.find_job(floor.job(*order)).is_some_and(|job| fits(&job))
        };
        (0..scene.placed).filter(known).collect()
    };
    let slaves = |fits: &dyn Fn(&reloop_protocol::slave::Slave) -> bool| {
        (0..world.boxes.len()).filter(|slave| world.boxes[*slave].state.as_ref().is_some_and(fits)).collect()
    };
    let records = |fits: &dyn Fn(&SlaveRecord) -> bool| {
        let key = |slave: &usize| scene.world.boxes[*slave].settings.key;
        let known = |slave: &usize| master.and_then(|master| master.slaves.get(&key(slave)));
        (0..world.boxes.len()).filter(|slave| known(slave).is_some_and(fits)).collect()
    };
    match deed {
        Deed::Cancel(_) => jobs(&|job| !job.state.is_ended() && !matches!(job.desired, Desired::Cancel(_))),
        Deed::Pause => jobs(&|job| !job.state.is_ended() && job.desired == Desired::Run),
        Deed::Resume => jobs(&|job| !job.state.is_ended() && job.desired == Desired::Pause),
        Deed::Abandon => jobs(&|job| !job.state.is_ended()),
        Deed::Retry => jobs(&|job| job.state.is_ended() && job.state != State::Succeeded),
        Deed::Resolve(_) => jobs(&|job| {
            job.state == State::Uncertain
                || job.others.iter().any(|earlier| earlier.state == State::Uncertain)
        }),
        Deed::Release => jobs(&|job| {
            let waits = job.start.gate != Gate::Open || job.all_flags().has(Flags::MISSED_START);
            waits && !job.state.is_ended() && !job.state.is_started()
        }),
        Deed::Lock => slaves(&|slave| !slave.node.local_lock),
        Deed::Unlock => slaves(&|slave| slave.node.local_lock),
        Deed::PauseLocally | Deed::StopLocally => {
            slaves(&|slave| slave.jobs.values().any(|job| job.report.state.is_executing()))
        }
        Deed::ResumeLocally => slaves(&|slave| {
            slave.jobs.values().any(|job| job.paused_locally || job.report.state == State::Paused)
        }),
        Deed::BackUp => Vec::from_iter((master.is_some() && !world.is_backed_up()).then_some(0)),
        Deed::Confirm => {
            Vec::from_iter(master.is_some_and(|master| !master.doubted_by.is_empty()).then_some(0))
        }
        Deed::Revoke => records(&|record| record.enrolled == Enrolled::Yes),
        Deed::Approve | Deed::Enroll => records(&|record| record.enrolled != Enrolled::Yes),
    }
}

/// Performs the act; `None` if it does nothing.
pub(super) fn perform(floor: &Floor, scene: &mut Scene, act: Act) -> Option<()> {
    match act {
        Act::Placed => place(floor, scene),
        Act::PlacedAndCrashed(done) => {
            scene.world.crash_master_after(done);
            place(floor, scene);
            return crashed(scene);
        }
        Act::Down(slave) => drop(scene.world.to_slave(slave)),
        Act::DownAndCrashed(slave, done) => {
            scene.world.crash_agent_after(slave, done);
            scene.world.to_slave(slave);
            return crashed(scene);
        }
        Act::Up(slave) => drop(scene.world.to_master(slave)),
        Act::UpAndCrashed(slave, done) => {
            scene.world.crash_master_after(done);
            scene.world.to_master(slave);
            return crashed(scene);
        }
        Act::Heard(slave) => drop(scene.world.hear_machine(slave)),
        Act::HeardAndCrashed(slave, done) => {
            scene.world.crash_agent_after(slave, done);
            scene.world.hear_machine(slave);
            return crashed(scene);
        }
        Act::Dialed(slave) => drop(scene.world.dial_in(slave)),
        Act::Began(slave) => scene.world.begin_what_comes(slave),
        Act::Answered(slave) => scene.world.boxes[slave].machine.answer_what_was_asked(),
        Act::Pinged => drop(scene.world.answer_ping()),
        Act::Progressed(slave) => {
            let held = &mut scene.world.boxes[slave];
            let agent = held.state.is_some();
            held.machine.advance(STEP, agent);
        }
        Act::Finished(slave, end) => finish(&mut scene.world, slave, end),
        Act::Late(which) => {
            scene.left.late -= 1;
            scene.world.deliver_late(which);
        }
        Act::Fault(fault, slave) => {
            scene.left.faults -= 1;
            fail(&mut scene.world, fault, slave);
        }
        Act::Deed(deed, of) => {
            scene.left.deeds -= 1;
            do_deed(floor, scene, deed, of)?;
        }
        Act::DeedAndCrashed(deed, of, done) => {
            scene.left.deeds -= 1;
            scene.world.crash_master_after(done);
            do_deed(floor, scene, deed, of)?;
            return crashed(scene);
        }
        Act::Plugged(slave) => scene.world.plug(slave),
        Act::Noticed(slave) => {
            scene.world.cut(slave);
            scene.world.plug(slave);
        }
        Act::Revived(slave) => scene.world.revive(slave),
        Act::MasterStarted => scene.world.start_master(),
        Act::Passed => {
            scene.left.steps -= 1;
            scene.world.pass_some(floor.configuration.steps.1);
        }
    }
    Some(())
}

/// `None` if the node had fewer effects and did not crash.
fn crashed(scene: &mut Scene) -> Option<()> {
    scene.left.faults -= 1;
    (!scene.world.defuse()).then_some(())
}

fn place(floor: &Floor, scene: &mut Scene) {
    scene.world.place(floor.orders[scene.placed].clone());
    scene.placed += 1;
}

/// The work of a machine ends.
pub(super) fn finish(world: &mut World, slave: usize, end: End) {
    let wall = world.wall(slave);
    let held = &mut world.boxes[slave];
    let agent = held.state.is_some();
    let working: Vec<_> = held.machine.working().collect();
    for work in working {
        held.machine.finish(work, end, Time(wall), agent);
    }
}

fn fail(world: &mut World, fault: Fault, slave: usize) {
    match fault {
        Fault::Cut => world.cut(slave),
        Fault::HalfOpen => world.half_open(slave),
        Fault::Swallow => world.swallow(slave),
        Fault::KillAgent => world.kill_agent(slave),
        Fault::Reboot => world.reboot(slave),
        Fault::Narrow => {
            world.boxes[slave].narrow = true;
            world.kill_agent(slave);
            world.start_agent(slave, true);
        }
        Fault::Refuse => world.boxes[slave].machine.refuses = true,
        Fault::Unfit => world.boxes[slave].machine.unfit = true,
        Fault::Reject => world.boxes[slave].machine.rejects = true,
        Fault::Unstoppable => world.boxes[slave].machine.unstoppable = true,
        Fault::Silent => world.boxes[slave].machine.silent = true,
        Fault::KillMaster => world.kill_master(),
        Fault::Restore { confirmed } => world.restore_master(confirmed),
        Fault::CrashAgent | Fault::CrashMaster => {}
    }
}

/// `None` if it was refused and nothing changed.
fn do_deed(floor: &Floor, scene: &mut Scene, deed: Deed, of: usize) -> Option<()> {
    let command = match deed {
        Deed::Cancel(mode) => JobCommand::Cancel(mode),
        Deed::Pause => JobCommand::Pause,
        Deed::Resume => JobCommand::Resume,
        Deed::Abandon => JobCommand::Abandon,
        Deed::Retry => JobCommand::Retry,
        Deed::Resolve(end) => JobCommand::Resolve(end),
        Deed::Release => JobCommand::Release { valid: RELEASED_FOR },
        Deed::Lock => return at_the_machine(scene, of, Local::Lock(true)),
        Deed::Unlock => return at_the_machine(scene, of, Local::Lock(false)),
        Deed::PauseLocally => return at_the_machine(scene, of, Local::Pause),
        Deed::ResumeLocally => return at_the_machine(scene, of, Local::Resume),
        Deed::StopLocally => return at_the_machine(scene, of, Local::Stop { now: true }),
        Deed::BackUp => {
            scene.world.back_up_master();
            return Some(());
        }
        Deed::Confirm => {
            scene.world.confirm_restore();
            return Some(());
        }
        Deed::Revoke => {
            scene.world.command_slave_now(of, SlaveCommand::Forget);
            return Some(());
        }
        Deed::Approve => {
            scene.world.command_slave_now(of, SlaveCommand::Approve);
            return Some(());
        }
        Deed::Enroll => {
            scene.world.enroll(of);
            return Some(());
        }
    };
    let answer = scene.world.command(floor.job(of), command);
    (!matches!(answer, Some(Answer::Refused(..)))).then_some(())
}

fn at_the_machine(scene: &mut Scene, slave: usize, command: Local) -> Option<()> {
    scene.world.local(slave, command);
    Some(())
}

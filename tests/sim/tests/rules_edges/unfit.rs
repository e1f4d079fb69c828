//! A machine that can't start a job for a cause of its own: a full disk, a missing file.

use reloop_protocol::id::{JobId, Run};
use reloop_protocol::job::{End, State};
use reloop_protocol::limits::CAUSE_BYTES;
use reloop_protocol::master::{self, Delivery, JobCommand, Retry, RetryOn, SlaveCommand};
use reloop_protocol::message::{Activity, Attention, Flags, Message, Reason, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, Fact, JobReason, Local, Probed};
use reloop_protocol::spec::{CancelMode, Desired, DesiredState, Gate, Late, SpecDigest};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

/// A job at the only machine, which can't start it and proves that; if `refuses`, it refuses and is asked for the
/// proof.
fn held_back(refuses: bool) -> (World, JobId) {
    let mut world = endless();
    break_down(&mut world, refuses);
    let job = placed(&mut world, |_| {});
    (world, job)
}

fn break_down(world: &mut World, refuses: bool) {
    let machine = &mut world.boxes[0].machine;
    (machine.unfit, machine.refuses) = (!refuses, refuses);
}

fn mend(world: &mut World) {
    let machine = &mut world.boxes[0].machine;
    (machine.unfit, machine.refuses) = (false, false);
}

fn not_begun(why: &str) -> Fact {
    Fact::Probed(Probed::NotBegun(why.to_owned()))
}

/// A job whose machine is being told to start it, and whose link is cut.
fn being_started() -> (slave::Slave, slave::Now, JobId) {
    let (mut state, now, job, _) = at_work();
    let kept = state.jobs.get_mut(&job).unwrap();
    kept.report.state = State::Starting;
    (kept.report.started_at, kept.report.started_generation) = (None, None);
    (state, now, job)
}

#[test]
fn what_a_machine_could_not_begin_is_not_missed_when_it_was_given_back_while_the_link_broke() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let (first, job) = (placed(&mut world, |_| {}), placed(&mut world, |_| {}));
    break_down(&mut world, false);
    let (work, at) = (agent(&world).jobs[&first].work(), Time(world.wall(0)));
    world.boxes[0].machine.finish(work, End::Succeeded, at, true);
    while world.hear_machine(0) {}
    assert_eq!(
        (world.on_slave(0, job), agent(&world).jobs[&job].report.run),
        (Some(State::Accepted), Run(1))
    );
    // The master has heard neither of the intent to start nor of the machine's answer when it recalls the job.
    world.add_slave("idle");
    while world.pump_one(1) {}
    assert!(world.job(job).recalled.is_some());
    while world.on_slave(0, job).is_some() {
        assert!(world.to_slave(0));
    }
    while world.state(job) != State::Starting {
        assert!(world.to_master(0));
    }
    world.cut(0);
    reconnect(&mut world, 0);
    assert_eq!((world.holder(job), world.state(job)), (Some(1), State::Running));
}

#[test]
fn a_machine_that_cannot_begin_ends_no_job_and_starts_nothing_until_a_person_has_mended_it() {
    for (refuses, why) in [(false, "the disk is full"), (true, "the machine refuses")] {
        let (mut world, job) = held_back(refuses);
        let waits = placed(&mut world, |_| {});
        world.pass(60_000);
        assert_eq!(word(agent(&world), job), (State::Accepted, Some(ReasonCode::MachineUnfit)));
        assert_eq!((world.state(job), world.state(waits)), (State::Accepted, State::Queued));
        let report = world.job(job).report.unwrap();
        assert_eq!(report.waiting_for, Some(WaitingFor::Ready));
        assert!(report.reason.unwrap().text.contains(why));
        let said = machine(&world);
        assert_eq!((said.activity, said.attention), (Activity::Attention, Some(Attention::MachineUnfit)));
        let needs = said.attention_text().unwrap();
        assert!(needs.contains(why) && needs.contains("`clear`"), "{needs}");

        let master = world.master.as_ref().unwrap();
        let explained = master::explain(master, &world.job(job), world.now()).text(|at| at.to_string());
        assert!(explained.contains("s0") && explained.contains(&needs), "{explained}");

        // The repair alone changes nothing: a person has to `clear`. Neither the agent nor the box forgets.
        mend(&mut world);
        restart_agent(&mut world);
        reboot(&mut world);
        assert_eq!(machine(&world).attention_text(), Some(needs));
        assert_eq!((world.state(job), world.begun(job)), (State::Accepted, 0));
        world.command_slave(0, SlaveCommand::Clear);
        assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
        let report = world.job(job).report.unwrap();
        assert_eq!((report.run, report.reason), (Run(2), None));
        assert_eq!((machine(&world).attention, machine(&world).cause), (None, None));
    }
}

#[test]
fn work_that_a_machine_could_not_begin_is_no_attempt_that_an_order_wants_again() {
    let mut world = World::new(1);
    break_down(&mut world, true);
    let on = [RetryOn::Failed, RetryOn::Rejected].into();
    let job = placed(&mut world, |order| order.retry = Retry { max_attempts: 3, on });
    for _ in 0..3 {
        assert_eq!(world.state(job), State::Accepted);
        world.command_slave(0, SlaveCommand::Clear);
    }
    assert_eq!((world.job(job).attempt.0, world.job(job).report.unwrap().run), (1, Run(4)));
}

#[test]
fn what_waits_for_a_machine_to_be_mended_can_be_canceled_and_runs_out_of_time() {
    for (canceled, state, code) in
        [(true, State::Canceled, ReasonCode::Canceled), (false, State::Expired, ReasonCode::WindowClosed)]
    {
        let mut world = World::new(1);
        break_down(&mut world, false);
        let deadline = later(&world, 30_000);
        let job = placed(&mut world, |order| order.start.deadline = deadline);
        assert_eq!(world.state(job), State::Accepted);
        if canceled {
            let answer = world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted));
            assert_eq!(answer, Some(master::Answer::Taken(vec![(job, Delivery::Sent)])));
            world.settle();
        } else {
            world.pass(29_000);
            assert_eq!(world.state(job), State::Accepted, "only its own window ends it");
            world.pass(2_000);
        }
        let ended = world.job(job);
        let reason = ended.report.unwrap().reason.map(|reason| reason.code);
        assert_eq!((ended.state, reason), (state, Some(code)));
        assert_eq!(machine(&world).attention, Some(Attention::MachineUnfit), "the machine is as it was");
    }
}

#[test]
fn without_a_master_a_person_at_the_machine_mends_it_and_the_work_begins() {
    let (mut world, job) = held_back(false);
    world.cut(0);
    mend(&mut world);
    assert_eq!(world.local(0, Local::Clear), Some(Ok(slave::Done::Cleared(Attention::MachineUnfit))));
    world.settle();
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Running), 1));
}

#[test]
fn a_desired_state_that_came_while_a_machine_could_not_begin_counts() {
    // Cancel if not started: it had not.
    let (mut state, now, job) = being_started();
    let kept = state.jobs.get_mut(&job).unwrap();
    kept.desired = Desired::Cancel(CancelMode::IfNotStarted);
    kept.report.flags.set(Flags::CANCEL_TOO_LATE);
    let after = machine_says(state, now, job, not_begun("no room")).state;
    assert_eq!(word(&after, job), (State::Canceled, Some(ReasonCode::Canceled)));
    assert!(!after.jobs[&job].report.flags.has(Flags::CANCEL_TOO_LATE));
    assert_eq!(after.node.attention, Some(Attention::MachineUnfit));

    // Stop.
    let (state, now, job) = being_started();
    let state = person_says(state, now, Local::Stop { now: true }).state;
    let after = machine_says(state, now, job, not_begun("no room")).state;
    assert_eq!(word(&after, job), (State::Canceled, Some(ReasonCode::StoppedLocally)));
    assert_eq!(after.node.cause.as_deref(), Some("no room"));

    // Pause: it waits for a person to resume it.
    let (state, now, job) = being_started();
    let state = person_says(state, now, Local::Pause).state;
    let after = machine_says(state, now, job, not_begun("no room")).state;
    let after = person_says(after, now, Local::Clear).state;
    assert_eq!(after.jobs[&job].report.waiting_for, Some(WaitingFor::Operator));
    assert_eq!(after.jobs[&job].run.asked_to_pause, None, "it was asked of a beginning that there was not");
}

/// A person gives this command while the machine, which has been told to start the job, can't say yet that it could not; the
/// master believes that the job waits.
fn commanded_while_starting(
    deadline: Option<i64>,
    command: impl FnOnce(&World) -> JobCommand,
) -> (World, JobId) {
    let mut world = endless();
    break_down(&mut world, false);
    let deadline = deadline.and_then(|ms| later(&world, ms));
    let job = place_as(&mut world, |order| order.start.deadline = deadline);
    pump_until(&mut world, |world| world.on_slave(0, job) == Some(State::Starting));
    assert_eq!(world.state(job), State::Assigned, "the master has not heard of it");
    let command = command(&world);
    assert_eq!(world.command(job, command), taken(Delivery::Sent, job));
    assert!(world.to_slave(0));
    assert_eq!((world.on_slave(0, job), world.under_way(0).0), (Some(State::Starting), 0));
    assert_eq!(kept(&world, job).report.generation, world.job(job).generation);
    assert!(world.hear_machine(0));
    world.settle();
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Accepted, Some(State::Accepted)));
    mend(&mut world);
    (world, job)
}

#[test]
fn a_start_rule_that_came_while_a_machine_could_not_begin_counts() {
    let plan = |not_before, deadline| JobCommand::Reschedule { not_before, deadline, late: Late::Run };

    // Its window was opened again.
    let (mut world, job) =
        commanded_while_starting(Some(30_000), |world| plan(None, later(world, 3_600_000)));
    world.pass(60_000);
    assert_eq!(world.state(job), State::Running, "its latest start is in an hour, and the machine is mended");

    // Its start was put off.
    let (mut world, job) = commanded_while_starting(None, |world| plan(later(world, 3_600_000), None));
    world.local(0, Local::Clear);
    world.pass(60_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Accepted, 0), "it is to start in an hour");

    // Its start was released for a moment only.
    let (mut world, job) =
        commanded_while_starting(None, |_| JobCommand::Release { valid: Millis::seconds(10) });
    world.pass(20_000);
    world.local(0, Local::Clear);
    world.settle();
    assert_eq!((world.begun(job), reason(&world, job)), (0, ReasonCode::ReleaseLapsed));
}

#[test]
fn what_a_machine_could_not_begin_is_held_if_the_master_means_other_work() {
    let (mut world, job) = starting_as(|world| break_down(world, false));
    let wanted = desired_state(&world, job);
    let digest = SpecDigest([7; 16]);
    say(
        &mut world,
        Message::DesiredState(DesiredState { generation: wanted.generation.next(), digest, ..wanted }),
    );
    assert!(world.hear_machine(0));
    assert_eq!((world.on_slave(0, job), kept(&world, job).start.gate), (Some(State::Accepted), Gate::Held));
}

#[test]
fn clearing_a_mended_machine_takes_back_its_own_reason_and_no_other() {
    let (mut state, now, job) = being_started();
    let other = state.jobs.values_mut().find(|other| other.report.job != job).unwrap();
    let missed = Reason::from(JobReason::MissedStart(Late::Hold));
    (other.missed, other.report.reason) = (true, Some(missed));
    let other = other.report.job;
    let state = machine_says(state, now, job, not_begun("no room")).state;
    let locked = person_says(state, now, Local::Lock(true)).state;
    let after = person_says(locked, now, Local::Clear).state;
    assert_eq!(word(&after, job), (State::Accepted, None));
    assert_eq!(word(&after, other), (State::Accepted, Some(ReasonCode::MissedStart)));
}

#[test]
fn of_a_beginning_that_there_was_not_nothing_is_kept() {
    for (interruptions, kept) in [(0, None), (1, Some(Time(7)))] {
        let (mut state, now, job) = being_started();
        // It seemed to have begun for a moment, or had begun before and was interrupted.
        let job_there = state.jobs.get_mut(&job).unwrap();
        job_there.report.state = if interruptions == 0 { State::Running } else { State::Starting };
        job_there.report.started_at = Some(Time(7));
        job_there.report.progress = Some(3);
        job_there.interruptions = interruptions;
        let after = machine_says(state, now, job, not_begun("no such file")).state;
        let report = &after.jobs[&job].report;
        assert_eq!((report.state, report.started_at, report.progress), (State::Accepted, kept, None));
    }
}

#[test]
fn a_long_cause_is_cut_and_another_attention_stays() {
    let (state, now, job) = being_started();
    let after = machine_says(state, now, job, not_begun(&"x".repeat(9_000))).state;
    assert_eq!(after.node.cause.map(|cause| cause.len()), Some(CAUSE_BYTES));

    let (mut state, now, job) = being_started();
    state.node.attention = Some(Attention::Moved);
    let after = machine_says(state, now, job, not_begun("no such file")).state;
    assert_eq!(word(&after, job), (State::Accepted, Some(ReasonCode::MachineUnfit)));
    assert_eq!((after.node.attention, after.node.cause), (Some(Attention::Moved), None));
}

#[test]
fn after_a_crash_a_machine_that_could_not_begin_says_so_when_it_is_asked() {
    let (state, now, job) = being_started();
    let state = slave::Slave { volatile: slave::Volatile::default(), ..state };
    let state = slave::step(state, now, agent_started()).state;
    let after = machine_says(state, now, job, not_begun("no such file")).state;
    assert_eq!(word(&after, job), (State::Accepted, Some(ReasonCode::MachineUnfit)));
    assert_eq!(after.node.attention, Some(Attention::MachineUnfit));
    assert!(after.volatile.probing.is_empty());
}

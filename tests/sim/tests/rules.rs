//! The rules of both nodes against each other, without processes: what belongs to no single row of the published
//! disagreements, which are in `disagreements/`.
#![cfg(test)]

mod stage;

use reloop_protocol::handshake::{self, FromSlave};
use reloop_protocol::id::{Attempt, Commit, JobId, Run, Session, StoreId};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::limits::LOG_BYTES;
use reloop_protocol::master::{Answer, Delivery, JobCommand, Origin, SlaveCommand, origin};
use reloop_protocol::message::{
    Ask, Attention, CloseCode, Flags, Forget, Message, PROTOCOL, Question, Reason, ReasonCode, Refuse,
    WaitingFor, Welcome,
};
use reloop_protocol::slave::redial::{self, Pauses, RETRY_AFTER_LIMIT, Redial, Tried};
use reloop_protocol::slave::{self, Damage, Fact, LinkId, Local, Release, RunState, TrustClock};
use reloop_protocol::spec::{CancelMode, Desired, Late, OnOverdue};
use reloop_protocol::time::{CLOCK_STEP, Millis, clock_step};
use reloop_protocol::wire::Frame;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn an_order_runs_to_success() {
    let mut world = World::new(1);
    let job = place(&mut world);
    assert_eq!(world.state(job), State::Assigned);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(0, job), None, "an outcome that the master has on disk is forgotten");
    assert_eq!(world.begun(job), 1);
}

#[test]
fn a_cut_after_any_message_changes_nothing_in_the_end() {
    // The same jobs, with one cut after each of the messages.
    for cut_after in 0..24 {
        let mut world = World::new(1);
        let job = place(&mut world);
        for _ in 0..cut_after {
            world.pump();
        }
        world.cut(0);
        world.pass(3_000);
        world.plug(0);
        world.pass(30_000);
        assert_eq!(world.state(job), State::Succeeded, "cut after {cut_after}");
        assert_eq!(world.begun(job), 1, "cut after {cut_after}");
    }
}

#[test]
fn a_crash_of_the_agent_or_the_master_after_any_message_changes_nothing_in_the_end() {
    for crash_after in 0..24 {
        for who in ["agent", "master", "both"] {
            let mut world = World::new(1);
            let job = place(&mut world);
            for _ in 0..crash_after {
                world.pump();
            }
            if who != "master" {
                world.kill_agent(0);
            }
            if who != "agent" {
                world.kill_master();
                world.start_master();
            }
            if who != "master" {
                world.start_agent(0, true);
            }
            world.pass(40_000);
            assert_eq!(world.state(job), State::Succeeded, "{who} after {crash_after}");
            assert_eq!(world.begun(job), 1, "{who} after {crash_after}");
        }
    }
}

#[test]
fn a_cancel_of_what_no_slave_holds_is_applied_at_once() {
    let mut world = World::new(0);
    let job = place(&mut world);
    let answer = world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Applied)])));
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a_job_pauses_and_goes_on() {
    let (mut world, job) = running();
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    command(&mut world, job, JobCommand::Resume);
    assert_eq!(world.state(job), State::Running);
    world.pass(11_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn finished_is_not_free_with_release_ack() {
    let mut world = world_with(|settings| settings.release = Release::Ack);
    let (one, two) = (place(&mut world), place(&mut world));
    world.pass(12_000);
    assert_eq!(world.state(one), State::Succeeded);
    assert_eq!(world.state(two), State::Accepted);
    assert_eq!(world.job(two).report.unwrap().waiting_for, Some(WaitingFor::Ready));
    assert_eq!(world.command_slave(0, SlaveCommand::Ready), Some(Answer::SlaveTaken(Delivery::Applied)));
    world.settle();
    assert_eq!(world.state(two), State::Running);
}

#[test]
fn higher_priority_goes_first_and_idle_slaves_before_busy_ones() {
    let mut world = World::new(2);
    let jobs: Vec<_> = (0..2).map(|_| place(&mut world)).collect();
    world.settle();
    assert!(jobs.iter().all(|job| world.state(*job) == State::Running));
    let lows = [(); 4].map(|()| place(&mut world));
    let high = place_as(&mut world, |order| order.start.priority = 5);
    world.pass(12_000);
    assert!(world.state(high).is_executing(), "{:?}", world.state(high));
    let begun: u32 = lows.iter().map(|job| world.begun(*job)).sum();
    assert_eq!(begun, 1, "two slaves, and one has the high one");
    world.pass(36_000);
    assert_eq!(world.state(high), State::Succeeded);
    assert_eq!(lows.map(|job| (world.state(job), world.begun(job))), [(State::Succeeded, 1); 4]);
}

#[test]
fn what_is_given_back_as_asked_begins_at_the_slave_that_falls_idle() {
    let mut world = World::new(2);
    place(&mut world);
    place(&mut world);
    world.settle();
    let jobs = [0, 0, 5].map(|priority| place_as(&mut world, |order| order.start.priority = priority));
    world.pass(12_000);
    assert_eq!(jobs.iter().map(|job| world.begun(*job)).sum::<u32>(), 2, "no slave stands idle");
}

#[test]
fn what_waits_at_a_busy_slave_moves_to_one_that_falls_idle() {
    let mut world = World::new(1);
    let jobs: Vec<_> = (0..3).map(|_| place(&mut world)).collect();
    world.settle();
    assert_eq!(world.holder(jobs[1]), Some(0));
    world.add_slave("late");
    world.settle();
    assert_eq!(jobs.iter().filter(|job| world.state(**job) == State::Running).count(), 2);
    world.pass(40_000);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Succeeded));
    assert!(jobs.iter().all(|job| world.begun(*job) == 1));
}

#[test]
fn a_window_that_closes_unstarted_expires_the_job_where_it_is() {
    let mut world = World::new(0);
    let soon = later(&world, 5_000);
    let job = place_as(&mut world, |order| order.start.deadline = soon);
    world.pass(6_000);
    assert_eq!(world.state(job), State::Expired);
    let mut world = World::new(1);
    place(&mut world);
    let job = placed(&mut world, |order| order.start.deadline = soon);
    assert_eq!(world.state(job), State::Accepted);
    world.cut(0);
    world.pass(6_000);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Expired);
    assert_eq!(world.begun(job), 0);
}

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
fn a_start_that_came_while_the_machine_was_busy_is_not_missed_when_the_agent_starts_again() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 120_000;
    let busy = place(&mut world);
    let job = deferred(&mut world, 5_000, |_| {});
    world.pass(90_000);
    assert_eq!((world.state(busy), world.state(job)), (State::Running, State::Accepted));
    restart_agent(&mut world);
    reconnect(&mut world, 0);
    let told = world.job(job);
    assert!(!told.all_flags().has(Flags::MISSED_START), "it was there when the time came");
    world.pass(35_000);
    assert_eq!((world.state(busy), world.state(job)), (State::Succeeded, State::Running));
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
fn a_job_that_nobody_let_go_does_not_start_because_the_clock_is_lost() {
    let (mut world, job) = held();
    world.cut(0);
    world.reboot(0);
    world.pass(60_000);
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Accepted), 0));
    reconnect(&mut world, 0);
    release(&mut world, job, 60);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Running));
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

fn told(world: &World, job: JobId, fact: Fact) -> slave::Step {
    machine_says(agent(world).clone(), world.slave_now(0), job, fact)
}

#[test]
fn a_rejected_start_is_proof_and_a_refused_one_is_a_question() {
    let (world, job) = starting();
    let asks = |step: &slave::Step| step.effects.iter().any(|e| matches!(e, slave::Effect::Probe { .. }));
    let rejected = told(&world, job, Fact::StartRejected(Reason::new(ReasonCode::UnknownProgram, "gone")));
    assert!(!asks(&rejected));
    assert_eq!(word(&rejected.state, job), (State::Rejected, Some(ReasonCode::UnknownProgram)));
    let refused = told(&world, job, Fact::StartRefused("busy".to_owned()));
    assert!(asks(&refused));
    assert_eq!(refused.state.jobs[&job].report.state, State::Starting, "until the machine has answered");
}

#[test]
fn a_start_that_is_refused_although_the_work_began_is_followed_to_its_end() {
    let (mut world, job) = starting_as(|world| {
        world.boxes[0].machine.refuses = true;
        world.boxes[0].machine.begins_all_the_same = true;
    });
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

#[test]
fn a_machine_that_refuses_a_start_and_then_falls_silent_makes_a_person_decide() {
    let (mut world, job) = starting_as(|world| {
        world.boxes[0].machine.refuses = true;
        world.boxes[0].machine.silent = true;
    });
    world.pass(4_000);
    assert_eq!(world.on_slave(0, job), Some(State::Starting), "it has time to answer");
    world.pass(2_000);
    assert_eq!(world.state(job), State::Uncertain);
    let reason = world.job(job).report.unwrap().reason.unwrap();
    assert_eq!(reason.code, ReasonCode::NoProof);
    assert!(reason.text.contains("the machine refuses"), "{}", reason.text);
    world.boxes[0].machine.refuses = false;
    world.command(job, JobCommand::Resolve(End::Failed));
    let next = placed(&mut world, |_| {});
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn a_crash_between_a_refused_start_and_the_machines_answer_begins_nothing_twice() {
    for began in [false, true] {
        let (mut world, job) = starting_as(|world| {
            world.boxes[0].machine.refuses = true;
            world.boxes[0].machine.begins_all_the_same = began;
        });
        // The refusal has been received, the answer to the probe has not.
        world.pump();
        let probing = &agent(&world).volatile.probing;
        assert_eq!(probing[&job].refused.as_deref(), Some("the machine refuses"));
        restart_agent(&mut world);
        world.settle();
        let expected = if began { State::Running } else { State::Accepted };
        assert_eq!((world.state(job), world.begun(job)), (expected, u32::from(began)), "began: {began}");
        world.pass(20_000);
    }
}

#[test]
fn records_that_cannot_be_read_bar_the_machine_until_somebody_has_looked() {
    for (damage, expected) in [
        (Damage { node: false, jobs: 1 }, Some(Attention::StoreRolledBack)),
        (Damage { node: true, jobs: 2 }, Some(Attention::StoreReplaced)),
        (Damage::default(), None),
    ] {
        let mut world = World::new(1);
        let started = slave::Event::AgentStarted {
            boot: world.boxes[0].boot,
            fingerprint: None,
            // The key is new too, so the damage alone has to be enough.
            known_key: false,
            next_store: StoreId([7; 16]),
            damage,
        };
        world.slave_event(0, started);
        assert_eq!(agent(&world).node.attention, expected);
        let job = place(&mut world);
        world.pass(1_000);
        assert_eq!(world.begun(job), u32::from(expected.is_none()), "{damage:?}");
        restart_agent(&mut world);
        assert_eq!(agent(&world).node.attention, expected, "the next start knows it too");
    }
}

#[test]
fn without_its_own_record_nothing_else_on_a_slaves_disk_counts() {
    let (world, job) = starting();
    let state = agent(&world);
    let (node, jobs, recent_outcomes) = slave::durable(state);
    let jobs = jobs.into_iter().map(|(id, job)| slave::Write::Job(id, Some(Box::new(job))));
    let rest: Vec<_> = jobs.chain([slave::Write::RecentOutcomes(recent_outcomes)]).collect();
    let recover = |records: Vec<_>| slave::recover(state.settings.clone(), StoreId([7; 16]), records);
    let lost = recover(rest.clone());
    assert_eq!((lost.node.store, lost.jobs.len()), (StoreId([7; 16]), 0));
    let whole = recover(rest.into_iter().chain([slave::Write::Node(node)]).collect());
    assert!(whole.jobs.contains_key(&job));
}

#[test]
fn a_part_of_an_output_fits_an_answer_however_much_is_asked_for() {
    let (world, job) = starting();
    for (asked, given) in [(u32::MAX, LOG_BYTES), (100, 100)] {
        let question = Question::Log { job, attempt: Attempt(1), run: Run(1), offset: None, limit: asked };
        let effects = would_do(&world, Message::Ask(Ask { id: 1, question }));
        let limits = effects.iter().filter_map(|effect| match effect {
            slave::Effect::ReadLog { limit, .. } => Some(*limit),
            _ => None,
        });
        assert_eq!(limits.collect::<Vec<_>>(), [given]);
    }
}

#[test]
fn an_uncertain_job_that_was_given_up_while_its_slave_was_connected_can_still_be_resolved() {
    let (mut world, job) = running();
    reboot(&mut world);
    assert_eq!(world.state(job), State::Uncertain);
    command(&mut world, job, JobCommand::Abandon);
    assert_eq!(world.state(job), State::Lost);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain), "the machine waits for a person");
    let answer = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(answer, Some(Answer::Taken(vec![(job, Delivery::Sent)])));
    world.settle();
    assert_eq!(world.state(job), State::Failed);
    assert_eq!(world.on_slave(0, job), None, "the machine is free");
}

#[test]
fn a_job_that_is_assigned_again_to_the_slave_that_is_just_beginning_it_comes_to_rest() {
    let mut world = World::new(1);
    world.patience = 1_000;
    let job = place(&mut world);
    // The slave has not answered yet, and both attempts reach it one after the other.
    give_away(&mut world, job);
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
    world.pass(12_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
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
fn an_uncertain_job_that_was_given_up_and_is_done_elsewhere_can_still_be_resolved() {
    let mut world = World::new(2);
    let job = placed(&mut world, |_| {});
    let first = world.holder(job).unwrap();
    world.reboot(first);
    world.settle();
    give_away(&mut world, job);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!(world.on_slave(first, job), Some(State::Uncertain), "that machine waits for a person");
    command(&mut world, job, JobCommand::Resolve(End::Failed));
    assert_eq!((world.state(job), world.on_slave(first, job)), (State::Succeeded, None));
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
fn a_slave_that_declined_because_of_an_attempt_that_is_over_is_offered_the_next() {
    let mut world = World::new(1);
    let job = place(&mut world);
    world.to_slave(0);
    world.boxes[0].machine.fails = true;
    world.pass_some(12_000);
    world.boxes[0].machine.fails = false;
    // The work has failed, and the slave itself has not received the fact yet.
    give_away(&mut world, job);
    assert!(world.to_slave(0) && world.to_master(0) && world.to_master(0));
    world.settle();
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_job_that_was_given_up_while_its_offer_was_under_way_is_called_off() {
    let mut world = World::new(1);
    let first = world.order("mill");
    let first = world.place(first);
    world.settle();
    let second = world.order("mill");
    let second = world.place(second);
    assert_eq!(world.state(second), State::Assigned);
    command(&mut world, second, JobCommand::Abandon);
    assert_eq!((world.state(first), world.on_slave(0, second)), (State::Running, None));
    world.pass(30_000);
    assert_eq!((world.state(second), world.begun(second)), (State::Canceled, 0));
}

#[test]
fn a_job_that_is_wanted_paused_does_not_start_when_its_turn_comes() {
    let mut world = World::new(1);
    let orders = [world.order("mill"), world.order("mill")];
    let [first, second] = orders.map(|order| world.place(order));
    world.settle();
    assert_eq!((world.state(first), world.state(second)), (State::Running, State::Accepted));
    world.command(second, JobCommand::Pause);
    world.pass(30_000);
    assert_eq!((world.state(first), world.begun(second)), (State::Succeeded, 0));
    world.command(second, JobCommand::Resume);
    world.pass(12_000);
    assert_eq!((world.state(second), world.begun(second)), (State::Succeeded, 1));
}

fn pauses() -> Pauses {
    Pauses::new(Millis(200), Millis::seconds(60))
}

#[test]
fn a_slaves_pause_is_anything_up_to_a_limit_that_doubles_to_a_bound() {
    let mut pauses = pauses();
    let limits: Vec<_> = (0..12).map(|_| pauses.after(Tried::default(), u32::MAX).0).collect();
    assert_eq!(limits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000]);
    assert_eq!(pauses.after(Tried::default(), 0), Millis(0));
    assert_eq!(pauses.after(Tried::default(), u32::MAX / 2), Millis(29_999));
    for _ in 0..100 {
        assert_eq!(pauses.after(Tried::default(), u32::MAX), Millis::seconds(60));
    }
}

#[test]
fn only_a_handshake_that_succeeded_starts_a_slaves_pauses_over() {
    let mut pauses = pauses();
    for _ in 0..5 {
        pauses.after(Tried::default(), u32::MAX);
    }
    let refused = Tried { code: Some(CloseCode::GoingAway), ..Tried::default() };
    assert_eq!(pauses.after(refused, u32::MAX), Millis(6400));
    let crowded = Tried { settled: true, code: Some(CloseCode::TryLater), ..Tried::default() };
    assert_eq!(pauses.after(crowded, u32::MAX), Millis(12800));
    let settled = Tried { settled: true, ..Tried::default() };
    assert_eq!(pauses.after(settled, u32::MAX), Millis(200));
}

#[test]
fn what_a_person_has_to_end_is_tried_again_about_once_in_the_longest_pause_with_words_that_help() {
    let mut asked = 0;
    for code in CloseCode::ALL.iter().copied() {
        let Redial::Person(todo) = redial::after(code) else {
            assert!(code.is_passing(), "{code:?}");
            continue;
        };
        asked += 1;
        assert!(!code.is_passing() && !todo.text().is_empty(), "{code:?}");
        let refused = Tried { code: Some(code), ..Tried::default() };
        assert_eq!(pauses().after(refused, u32::MAX), Millis::seconds(45));
        assert_eq!(pauses().after(refused, 0), Millis::seconds(60));
    }
    assert_eq!(asked, 8);
}

#[test]
fn a_master_says_when_its_slaves_come_back_within_reason() {
    let told = |ms| Tried { retry_after: Some(Millis(ms)), ..Tried::default() };
    assert_eq!(pauses().after(told(5000), 0), Millis(5000));
    assert_eq!(pauses().after(told(5000), u32::MAX), Millis(5200));
    assert_eq!(pauses().after(told(u64::MAX), 0), RETRY_AFTER_LIMIT);
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

#[test]
fn a_clock_that_was_set_is_told_from_one_that_is_sped_up_or_slowed_down() {
    let limit = i64::try_from(CLOCK_STEP.0).unwrap();
    assert_eq!(clock_step(5000 + limit, Millis(5000)), None);
    assert_eq!(clock_step(5001 + limit, Millis(5000)), Some(limit + 1));
    assert_eq!(clock_step(4999 - limit, Millis(5000)), Some(-limit - 1));
    assert_eq!(clock_step(i64::MIN, Millis(u64::MAX)), Some(i64::MIN), "no clock is too far off");
}

#[test]
fn a_master_whose_own_record_is_lost_knows_that_it_is_not_a_new_one() {
    assert_eq!(origin(true, true), Origin::Known);
    assert_eq!(origin(false, true), Origin::Nameless);
    assert_eq!(origin(false, false), Origin::Newborn);
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
fn a_pause_that_the_machine_refused_locks_nobody_out_and_its_reason_goes_with_it() {
    let (world, job) = running();
    let now = world.slave_now(0);
    let local = |state, command| person_says(state, now, command).state;
    let fact = |state, fact| machine_says(state, now, job, fact).state;
    let reason = |state: &slave::Slave| word(state, job).1;

    let refused = fact(local(agent(&world).clone(), Local::Pause), Fact::PauseRefused("not now".to_owned()));
    assert_eq!(reason(&refused), Some(ReasonCode::PauseRefused));
    assert!(!refused.jobs[&job].paused_locally, "nobody at the machine has to let go what was not paused");

    let paused = fact(local(refused.clone(), Local::Pause), Fact::Paused);
    assert_eq!((reason(&paused), paused.jobs[&job].paused_locally), (Some(ReasonCode::PausedLocally), true));
    let resumed = fact(paused, Fact::PauseRefused("the door is open".to_owned()));
    assert!(resumed.jobs[&job].paused_locally, "it was not asked for a pause");
    assert_eq!(reason(&fact(resumed, Fact::Resumed)), None);

    assert_eq!(reason(&fact(refused, ended(End::Succeeded))), None);
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

/// A slave at a job that ends only when it is told to, of which the master has not heard yet.
fn begun_unheard() -> (World, JobId) {
    let mut world = endless();
    let job = place_as(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Restart);
    assert!(world.to_slave(0) && world.hear_machine(0));
    assert_eq!((world.on_slave(0, job), world.state(job)), (Some(State::Running), State::Assigned));
    (world, job)
}

#[test]
fn a_pause_that_was_asked_of_one_run_is_asked_of_the_next_one_anew() {
    let (mut world, job) = endless_job(restartable);
    world.command(job, JobCommand::Pause);
    // The slave receives it, and the machine loses its power before it has answered.
    while kept(&world, job).run.asked_to_pause.is_none() {
        assert!(world.to_slave(0));
    }
    reboot(&mut world);
    assert_eq!(kept(&world, job).report.state, State::Accepted);
    assert_eq!(kept(&world, job).run, RunState::default());
    command(&mut world, job, JobCommand::Resume);
    assert_eq!((world.state(job), kept(&world, job).report.run), (State::Running, Run(2)));
    command(&mut world, job, JobCommand::Pause);
    assert_eq!(world.state(job), State::Paused);
    assert_eq!(world.boxes[0].machine.working().count(), 0);
}

#[test]
fn a_person_is_asked_about_what_was_longer_off_than_it_may_run() {
    let (mut world, job) = endless_job(|_, order| {
        order.spec.max_runtime = Some(Millis(3_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    // By its own clock the box knows at once how long it was off.
    world.boxes[0].settings.trust_clock = TrustClock::Always;
    world.kill_agent(0);
    world.ms += 3_600_000;
    reboot(&mut world);
    assert_eq!((kept(&world, job).report.state, world.begun(job)), (State::Uncertain, 1));
    assert!(!kept(&world, job).report.flags.has(Flags::OVERDUE));
}

#[test]
fn each_run_has_its_own_clock_and_the_first_one_is_told() {
    let (mut world, job) = endless_job(|world, order| {
        restartable(world, order);
        order.spec.max_runtime = Some(Millis(20_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    let first = world.job(job).report.unwrap().started_at;
    world.pass(15_000);
    reboot(&mut world);
    world.pass(15_000);
    assert_eq!((world.state(job), kept(&world, job).report.run), (State::Running, Run(2)));
    assert_eq!(world.job(job).report.unwrap().started_at, first);
    world.pass(5_000);
    let report = world.job(job).report.unwrap();
    assert_eq!((report.state, report.reason.unwrap().code), (State::Canceled, ReasonCode::MaxRuntime));
}

#[test]
fn a_window_once_met_is_met_until_somebody_changes_it() {
    let begun_in_time = || {
        let (mut world, job) = endless_job(|world, order| {
            restartable(world, order);
            order.start.deadline = later(world, 5_000);
        });
        world.local(0, Local::Lock(true));
        world.pass(20_000);
        reboot(&mut world);
        assert_eq!(world.state(job), State::Accepted);
        (world, job)
    };
    let (mut world, job) = begun_in_time();
    // It waits for the machine, and for no deadline or clock.
    let state = agent(&world);
    assert_eq!(slave::next_deadline(state, world.slave_now(0)), None);
    world.cut(0);
    world.reboot(0);
    assert_eq!(kept(&world, job).report.waiting_for, Some(WaitingFor::Ready));
    world.local(0, Local::Lock(false));
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 2));
    let (mut world, job) = begun_in_time();
    let (not_before, deadline) = (None, later(&world, 1_000));
    world.command(job, JobCommand::Reschedule { not_before, deadline, late: Late::Hold });
    world.pass(3_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Expired, 1));
}

#[test]
fn a_job_that_was_to_be_canceled_is_not_started_again() {
    let desired_states: [fn(&mut World, JobId); 3] = [
        |world, job| drop(world.command(job, JobCommand::Cancel(CancelMode::Now))),
        |world, job| drop(world.command(job, JobCommand::Cancel(CancelMode::IfNotStarted))),
        |world, _| {
            world.local(0, Local::Stop { now: false });
        },
    ];
    for desired in desired_states {
        let (mut world, job) = begun_unheard();
        world.boxes[0].machine.unstoppable = true;
        desired(&mut world, job);
        world.settle();
        assert_eq!(world.on_slave(0, job), Some(State::Running), "the machine refuses, or it is too late");
        reboot(&mut world);
        assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 1));
    }
    // Stopped by the order's own limit, because it ran too long.
    let (mut world, job) = endless_job(|world, order| {
        restartable(world, order);
        order.spec.max_runtime = Some(Millis(3_000));
        order.spec.on_overdue = OnOverdue::Stop;
    });
    world.boxes[0].machine.unstoppable = true;
    world.pass(4_000);
    assert_eq!(world.state(job), State::Running);
    reboot(&mut world);
    assert_eq!((world.state(job), world.begun(job)), (State::Canceled, 1));
}

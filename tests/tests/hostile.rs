//! What fuzzing with hostile peers has shown, each as one story.
#![cfg(test)]

use reloop_protocol::id::Attempt;
use reloop_protocol::job::{End, State};
use reloop_protocol::limits;
use reloop_protocol::master;
use reloop_protocol::message::{Message, Outcome};
use reloop_protocol::slave::{Ended, Event, Fact, Probed};
use reloop_protocol::spec::Gate;
use reloop_protocol::time::Time;
use reloop_protocol::wire::{self, Frame, MAX_MESSAGE};
use reloop_tests::fuzz::any::Source;
use reloop_tests::world::{MasterDisk, World};

#[test]
fn a_slave_cannot_speak_for_a_job_that_another_slave_has() {
    let mut world = World::new(2);
    let mut order = world.order("mill");
    order.slave = Some("s0".to_owned());
    let job = world.place(order);
    world.settle();
    let before = world.job(job);
    assert_eq!(before.state, State::Running);
    let thief = world.boxes[1].settings.key;
    let link = world.master.as_ref().unwrap().desks[&thief].live().unwrap();
    for attempt in [Attempt(0), Attempt(1), Attempt(2)] {
        for state in [State::Accepted, State::Running, State::Succeeded, State::Failed] {
            let mut report = before.report.clone().unwrap();
            (report.attempt, report.state) = (attempt, state);
            world.master_event(master::Event::Received { link, message: Message::Report(report) });
            assert_eq!(world.job(job), before, "{attempt} {state:?}");
        }
    }
    world.pass(20_000);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn a_restored_master_leaves_an_unstarted_job_where_it_was_handed_after_the_backup() {
    let mut world = World::new(1);
    world.cut(0);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    let backup = world.master_disk.clone();
    world.plug(0);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    world.kill_master();
    world.master_disk = backup;
    world.start_master();
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)));
}

#[test]
fn an_order_of_several_jobs_is_rebuilt_whole_from_its_slave() {
    let mut world = World::new(1);
    let second = world.order("mill").jobs[0];
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    order.jobs.push(second);
    let (id, jobs) = (order.id, order.jobs.clone());
    world.place(order);
    world.settle();
    world.kill_master();
    world.master_disk = MasterDisk::default();
    world.start_master();
    world.settle();
    let mut rebuilt = world.master_disk.orders[&id].jobs.clone();
    rebuilt.sort_unstable();
    assert_eq!(rebuilt.len(), jobs.len());
    assert!(jobs.iter().all(|job| rebuilt.contains(job)));
}

#[test]
fn a_peer_cannot_use_up_the_numbers_that_come_after_it() {
    let mut world = World::new(1);
    let job = world.order("mill");
    let job = world.place(job);
    world.settle();
    let mut report = world.job(job).report.unwrap();
    assert_eq!(limits::check(&Message::Report(report.clone())), Ok(()));
    report.rev.0 = limits::COUNT + 1;
    assert!(limits::check(&Message::Report(report.clone())).is_err());
    report.rev.0 = 1;
    report.attempt = Attempt(u32::MAX);
    assert!(limits::check(&Message::Report(report)).is_err());
}

#[test]
fn a_frame_has_one_form() {
    let ping = [0, 0, 13, 0];
    assert!(wire::decode_frame(&ping, MAX_MESSAGE).is_ok());
    // The same session, written in three bytes where one is enough.
    let long = [0xFB, 0, 0, 0, 13, 0];
    assert!(wire::decode::<Frame>(&long, MAX_MESSAGE).is_ok(), "the codec itself takes it");
    assert!(wire::decode_frame(&long, MAX_MESSAGE).is_err());
}

#[test]
fn every_byte_string_is_a_message() {
    for seed in 0..=255 {
        let bytes = [seed; 64];
        let _: Message = Source::new(&bytes).any();
    }
}

#[test]
fn what_a_machine_says_after_the_end_changes_nothing() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    world.settle();
    let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
    world.cut(0);
    let ended = |end, text: &str| {
        let outcome = Outcome { exit_code: None, signal: None, text: text.to_owned() };
        Event::Machine { work, fact: Fact::Ended(Ended { end, outcome, at: None }) }
    };
    world.slave_event(0, ended(End::Failed, "the spindle broke"));
    let before = world.boxes[0].state.clone().unwrap();
    assert_eq!(before.jobs[&job].report.state, State::Failed);
    world.slave_event(0, ended(End::Succeeded, "done"));
    for fact in [Fact::PauseRefused("no".to_owned()), Fact::Probed(Probed::Gone), Fact::Paused] {
        world.slave_event(0, Event::Machine { work, fact });
    }
    assert_eq!(world.boxes[0].state.as_ref(), Some(&before));
}

#[test]
fn a_held_job_waits_for_its_release_even_where_nobody_knows_the_time() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    let job = world.place(order);
    world.settle();
    world.cut(0);
    world.reboot(0);
    world.pass(5_000);
    assert_eq!((world.on_slave(0, job), world.begun(job)), (Some(State::Accepted), 0));
}

#[test]
fn an_offer_that_came_too_late_does_not_keep_its_slave_from_the_next() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.deadline = Some(Time(world.now().0 + 100));
    let late = world.place(order);
    // The offer is under way meanwhile.
    world.ms += 1_000;
    world.settle();
    assert_eq!(world.state(late), State::Expired);
    let order = world.order("mill");
    let next = world.place(order);
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

//! The master: restarts, keys, and links that break in the handshake.

use reloop_protocol::job::State;
use reloop_protocol::master::{
    self, Answer, Enrollment, IdempotencyKey, Loaded, Order, RequestId, SlaveCommand,
};
use reloop_protocol::message::{CloseCode, Flags};
use reloop_sim::world::{MasterDisk, World};
use std::collections::BTreeMap;

use crate::stage::*;

/// No world uses request numbers from here on.
const REQUESTS: u64 = 9_000;

#[test]
fn d1_after_a_restart_nothing_is_dispatched_before_reconciliation() {
    let (mut world, job) = running();
    world.kill_master();
    world.boxes[0].cable = false;
    world.start_master();
    let next = placed(&mut world, |_| {});
    assert_eq!((world.state(job), world.state(next)), (State::Running, State::Queued));
    world.crossed.clear();
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.state(next)), (State::Running, State::Accepted));
    let said: Vec<_> = world.crossed.iter().map(|(_, kind)| *kind).collect();
    let position = |kind| said.iter().position(|said| *said == kind).unwrap();
    assert!(position("settled") < position("desired_state"), "{said:?}");
}

#[test]
fn d6_a_master_that_it_is_not_enrolled_with_gets_nothing_until_a_person_says_so() {
    let (mut world, job) = running();
    world.kill_master();
    world.master_disk = MasterDisk::default();
    world.enrollment = Enrollment::Approve;
    world.start_master();
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::WrongMaster));
    assert!(world.master.as_ref().unwrap().book.jobs.is_empty(), "it was told nothing");
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.command_slave(0, SlaveCommand::Approve);
    world.boxes[0].closed.clear();
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert!(world.job(job).flags.has(Flags::ADOPTED));
}

/// A client places an order under its key.
fn ask(world: &mut World, order: &Order, key: &IdempotencyKey) -> Answer {
    let request = RequestId(REQUESTS + world.answers.len() as u64);
    let (order, key) = (Box::new(order.clone()), Some(key.clone()));
    world.master_event(master::Event::OrderPlaced { request, order, key });
    world.answers[&request].clone()
}

fn key() -> IdempotencyKey {
    IdempotencyKey { key: "k".to_owned(), fingerprint: [1; 32] }
}

#[test]
fn d7_an_acknowledged_order_is_there_after_a_crash_and_its_key_finds_it() {
    let mut world = World::new(0);
    let (order, repeat, key) = (world.order("mill"), world.order("mill"), key());
    let placed = ask(&mut world, &order, &key);
    assert_eq!(placed, Answer::Placed { order: order.id, replayed: false });
    world.kill_master();
    world.start_master();
    assert_eq!(world.state(order.jobs[0]), State::Queued, "it is there");
    assert_eq!(ask(&mut world, &repeat, &key), Answer::Placed { order: order.id, replayed: true });
    world.add_slave("s0");
    world.settle();
    assert_eq!(world.state(order.jobs[0]), State::Running, "and is handed out");
}

#[test]
fn d8_the_same_key_makes_exactly_one_order_whatever_became_of_the_first_answer() {
    for reached_the_disk in [false, true] {
        let mut world = World::new(0);
        let (order, repeat, key) = (world.order("mill"), world.order("mill"), key());
        if reached_the_disk {
            ask(&mut world, &order, &key);
        }
        // The answer, if there was one, reached nobody.
        world.kill_master();
        world.start_master();
        let Answer::Placed { replayed, .. } = ask(&mut world, &repeat, &key) else { panic!("not placed") };
        assert_eq!(replayed, reached_the_disk);
        assert_eq!((world.master_disk.orders.len(), world.master_disk.jobs.len()), (1, 1));
    }
}

#[test]
fn d8_a_key_counts_before_the_disk_shows_it_and_for_one_body_only() {
    let mut world = World::new(0);
    let (order, repeat, key) = (world.order("mill"), world.order("mill"), key());
    ask(&mut world, &order, &key);
    let read_before = Loaded { keys: BTreeMap::from([(key.key.clone(), None)]), ..Loaded::default() };
    world.master_event(master::Event::Loaded(read_before));
    let again = ask(&mut world, &repeat, &key);
    assert_eq!(again, Answer::Placed { order: order.id, replayed: true }, "two at once");
    let changed = IdempotencyKey { fingerprint: [2; 32], ..key };
    let refused = ask(&mut world, &repeat, &changed);
    assert_eq!(refused, Answer::Refused(master::Refusal::KeyReused(order.id)));
    assert_eq!(world.master_disk.orders.len(), 1);
}

#[test]
fn d9_a_cut_inside_the_handshake_has_no_effect() {
    for cut_after in 0..6 {
        let (mut world, job) = running();
        world.cut(0);
        let before = world.job(job);
        world.plug(0);
        for _ in 0..cut_after {
            world.pump();
        }
        let live = world.master.as_ref().unwrap().slaves.values().next().unwrap().live().is_some();
        world.cut(0);
        if !live {
            assert_eq!(world.job(job).state, before.state, "cut after {cut_after}");
            assert_eq!(world.job(job).generation, before.generation, "cut after {cut_after}");
        }
        world.plug(0);
        world.pass(15_000);
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "cut after {cut_after}");
    }
}

#[test]
fn d9_an_offer_that_waits_for_the_handshake_begins_anew_with_it() {
    for cut_after in 0..8 {
        let mut world = World::new(1);
        world.cut(0);
        let job = place_as(&mut world, much_later);
        world.plug(0);
        for _ in 0..cut_after {
            world.pump();
        }
        world.cut(0);
        reconnect(&mut world, 0);
        assert_eq!(
            (world.state(job), world.job(job).attempt.0),
            (State::Accepted, 1),
            "cut after {cut_after}"
        );
        assert_eq!(world.begun(job), 0);
    }
}

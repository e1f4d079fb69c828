//! After a restore the result does not depend on the order in which slaves reconnect.

use reloop_protocol::id::JobId;
use reloop_protocol::job::State;
use reloop_protocol::master;
use reloop_protocol::message::Flags;
use reloop_sim::world::{MasterDisk, World};

use crate::stage::*;

/// One job runs at the first of two slaves and three wait there when the master is backed up. Then the second slave
/// connects and is assigned what waits, and both go on for so long.
fn recalled_since_the_backup(ms: i64) -> (World, MasterDisk, Vec<JobId>) {
    let mut world = World::new(2);
    world.cut(1);
    let jobs: Vec<_> = (0..4).map(|_| place(&mut world)).collect();
    world.settle();
    assert!(jobs.iter().all(|job| world.holder(*job) == Some(0)));
    let backup = world.master_disk.clone();
    reconnect(&mut world, 1);
    world.pass(ms);
    assert!(jobs.iter().any(|job| world.holder(*job) == Some(1)), "something was recalled");
    (world, backup, jobs)
}

/// Restores the master; a person confirms it.
fn put_back(world: &mut World, backup: MasterDisk) {
    world.kill_master();
    world.master_disk = backup;
    world.start_master();
    world.confirm_restore();
    world.settle();
}

/// A job's state and flags, and how often it was begun.
type End = (State, Flags, u32);

/// The result of each job if the slaves reconnect in this order; without an order, they were connected all the time.
fn comes_to(ms: i64, order: &[usize], between_ms: i64) -> Vec<End> {
    let case = format!("{ms} {order:?} {between_ms}");
    let (mut world, backup, jobs) = recalled_since_the_backup(ms);
    if !order.is_empty() {
        world.cut(0);
        world.cut(1);
    }
    put_back(&mut world, backup);
    for slave in order {
        reconnect(&mut world, *slave);
        world.pass(between_ms);
    }
    world.pass(120_000);
    for slave in 0..2 {
        let node = &world.boxes[slave].state.as_ref().unwrap().node;
        assert_eq!(node.attention, None, "{case}: slave {slave} has lost nothing");
    }
    assert_eq!(master::count_needs(world.master.as_ref().unwrap(), world.now()), 0, "{case}");
    let next = place(&mut world);
    world.pass(20_000);
    assert_eq!(world.state(next), State::Succeeded, "{case}: and takes the next order");
    let end = |job: &JobId| (world.state(*job), world.job(*job).flags, world.begun(*job));
    jobs.iter().map(end).collect()
}

#[test]
fn d3_of_jobs_that_were_recalled_since_the_backup_the_same_is_known_whoever_comes_first() {
    for ms in [0, 5_000, 11_000, 15_000, 60_000] {
        let first = comes_to(ms, &[0, 1], 0);
        for (state, flags, begun) in &first {
            assert_eq!((*state, *begun), (State::Succeeded, 1), "{ms}");
            assert!(!flags.has(Flags::DUPLICATE), "{ms}: it ran once");
        }
        for (order, between_ms) in [(&[1, 0][..], 0), (&[0, 1], 30_000), (&[1, 0], 30_000), (&[], 0)] {
            assert_eq!(comes_to(ms, order, between_ms), first, "{ms} {order:?} {between_ms}");
        }
    }
}

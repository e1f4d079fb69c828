//! A master that lost its store or was restored from a copy of it (D2 to D5).

use reloop_protocol::id::{Attempt, Epoch, JobId};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{self, Answer, Delivery, JobCommand, Offline, Refusal, RetryOn, SlaveCommand};
use reloop_protocol::message::{CloseCode, Flags, Mode, ReasonCode};
use reloop_protocol::slave::{self, Local};
use reloop_protocol::spec::{CancelMode, Desired};
use reloop_sim::world::{Machine, MasterDisk, World};

use crate::stage::*;

#[test]
fn d2_a_master_that_lost_everything_adopts_and_stops_nothing() {
    let (mut world, job) = running();
    let waits = place_as(&mut world, |order| {
        (order.spec.program, order.start.priority) = ("bake".to_owned(), 3);
    });
    world.pass(2_000);
    let (before, waiting) = (world.job(job), world.job(waits));
    assert_eq!(waiting.state, State::Accepted);
    put_back_files(&mut world, MasterDisk::default());
    world.settle();
    let adopted = world.job(job);
    assert_eq!((adopted.state, &adopted.spec), (State::Running, &before.spec));
    assert_eq!(adopted.report.unwrap().started_at, before.report.unwrap().started_at);
    assert!(adopted.flags.has(Flags::ADOPTED));
    assert!(world.master_disk.orders.contains_key(&before.spec.order));
    let adopted = world.job(waits);
    assert_eq!(
        (adopted.state, adopted.spec, adopted.start.priority),
        (State::Accepted, waiting.spec, 3),
        "also what had not begun"
    );
    world.pass(40_000);
    for job in [job, waits] {
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
    }
}

#[test]
fn d3_recent_outcomes_tell_a_restored_master_what_ended_and_nothing_starts_twice() {
    let mut world = World::new(1);
    let soon = later(&world, 5_000);
    let jobs =
        [place(&mut world), place(&mut world), place_as(&mut world, |order| order.start.not_before = soon)];
    world.cut(0);
    let backup = world.master_disk.clone();
    world.plug(0);
    world.pass(60_000);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Succeeded));
    world.boxes[0].cable = false;
    put_back_files(&mut world, backup);
    confirm_restore(&mut world);
    let fresh = place(&mut world);
    world.pass(60_000);
    reconnect(&mut world, 0);
    for job in jobs {
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
    }
    assert_eq!(world.state(fresh), State::Running, "what was placed after the restore goes on");
}

#[test]
fn d3_what_a_restored_master_would_have_started_in_the_past_waits_for_a_person() {
    let mut world = World::new(1);
    world.cut(0);
    let soon = later(&world, 5_000);
    let jobs =
        [place(&mut world), place(&mut world), place_as(&mut world, |order| order.start.not_before = soon)];
    world.kill_master();
    world.pass(60_000);
    world.start_master();
    confirm_restore(&mut world);
    world.plug(0);
    world.pass(60_000);
    for job in jobs {
        assert_eq!(world.begun(job), 0, "a slave that has not come back may have done it");
        release(&mut world, job, 600);
    }
    world.pass(60_000);
    for job in jobs {
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
    }
}

/// One job is done and forgotten; then the master's files from before are restored without a confirmation.
fn put_back() -> (World, JobId) {
    let mut world = World::new(1);
    let backup = world.master_disk.clone();
    let job = place(&mut world);
    world.pass(1_000);
    world.cut(0);
    reconnect(&mut world, 0);
    put_back_files(&mut world, backup);
    world.settle();
    (world, job)
}

#[test]
fn d4_files_that_were_put_back_give_no_commands_until_a_person_confirms() {
    let (mut world, job) = put_back();
    assert!(!world.master.as_ref().unwrap().doubted_by.is_empty());
    assert!(
        matches!(agent(&world).link, slave::Link::Live { doubtful: true, .. }),
        "it reports, and obeys nothing"
    );
    let other = place(&mut world);
    world.pass(15_000);
    assert_eq!(world.state(other), State::Queued, "nothing is handed to a slave that doubts");
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded), "not forgotten on its word");
    confirm_restore(&mut world);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded, "what it forgot is adopted");
    assert_eq!(world.on_slave(0, job), None);
    world.pass(20_000);
    assert_eq!(world.begun(other), 0, "held until a person lets it go");
    release(&mut world, other, 600);
    world.settle();
    assert_eq!(world.state(other), State::Running);
}

#[test]
fn d4_no_command_is_said_to_have_been_sent_to_a_slave_that_doubts() {
    let (mut world, _) = put_back();
    let answer = world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    assert_eq!(answer, Some(Answer::SlaveTaken(Delivery::PendingOnReconnect)));
    assert_eq!(agent(&world).node.operating_mode.mode, Mode::Production);
    confirm_restore(&mut world);
    world.settle();
    assert_eq!(agent(&world).node.operating_mode.mode, Mode::Maintenance);

    let (mut world, job) = running();
    reboot(&mut world);
    command(&mut world, job, JobCommand::Abandon);
    let key = world.boxes[0].settings.key;
    let doubts = |world: &mut World, doubts| {
        world.master.as_mut().unwrap().slaves.get_mut(&key).unwrap().doubts = doubts;
    };
    doubts(&mut world, true);
    let refused = Refusal::SlaveOffline(Offline::Holder(Attempt(1)));
    let answer = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(answer, Some(Answer::Refused(refused)));
    doubts(&mut world, false);
    let answer = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(answer, taken(Delivery::Sent, job), "nobody has said it before");
}

/// Restores these files of the master without a confirmation, and lets everybody reconnect.
fn put_back_quietly(world: &mut World, files: MasterDisk) {
    put_back_files(world, files);
    world.settle();
}

#[test]
fn d4_files_of_any_moment_of_a_live_link_start_nothing_twice() {
    // The slaves have no handshake in between: only the frames on the live link can tell them of the newer commits.
    let mut world = World::new(2);
    let jobs: Vec<_> = (0..6).map(|_| place(&mut world)).collect();
    world.settle();
    let mut files = vec![world.master_disk.clone()];
    for _ in 0..8 {
        world.pass(5_000);
        files.push(world.master_disk.clone());
    }
    world.pass(60_000);
    assert!(jobs.iter().all(|job| (world.state(*job), world.begun(*job)) == (State::Succeeded, 1)));
    for (moment, files) in files.into_iter().enumerate() {
        let mut world = world.clone();
        let old = files.jobs.values().filter(|job| !job.state.is_ended()).count();
        put_back_quietly(&mut world, files);
        world.pass(60_000);
        let doubted = world.master.as_ref().unwrap().doubted_by.len();
        assert_eq!(doubted, if old == 0 { 0 } else { 2 }, "moment {moment}, {old} open jobs");
        for job in &jobs {
            assert_eq!(world.begun(*job), 1, "moment {moment}");
        }
        confirm_restore(&mut world);
        world.pass(60_000);
        for job in &jobs {
            assert_eq!((world.state(*job), world.begun(*job)), (State::Succeeded, 1), "moment {moment}");
        }
    }
}

#[test]
fn d4_files_that_were_put_back_and_have_counted_on_since_are_doubted_all_the_same() {
    for restarts in [1, 2, 40] {
        let (mut world, job) = running();
        let files = world.master_disk.clone();
        world.pass(20_000);
        assert_eq!(world.state(job), State::Succeeded);
        let seen = world.boxes[0].disk.node().unwrap().binding.unwrap();
        world.boxes[0].cable = false;
        put_back_quietly(&mut world, files);
        for _ in 1..restarts {
            world.kill_master();
            world.start_master();
        }
        while world.master.as_ref().unwrap().node.commit <= seen.commit {
            place(&mut world);
        }
        reconnect(&mut world, 0);
        assert!(!world.master.as_ref().unwrap().doubted_by.is_empty(), "after {restarts} starts");
        assert!(matches!(agent(&world).link, slave::Link::Live { doubtful: true, .. }));
        world.pass(60_000);
        assert_eq!(world.boxes[0].machine.begun.len(), 1, "it obeys nothing");
    }
}

#[test]
fn d4_a_master_that_only_restarts_is_not_doubted_however_often_and_whoever_was_away() {
    let (mut world, job) = unstarted();
    world.cut(0);
    for _ in 0..40 {
        world.kill_master();
        world.start_master();
        place_as(&mut world, |order| order.slave = Some("nobody".to_owned()));
    }
    release(&mut world, job, 600);
    reconnect(&mut world, 0);
    assert!(world.master.as_ref().unwrap().doubted_by.is_empty());
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn d5_of_two_copies_the_one_with_the_highest_epoch_is_obeyed() {
    let (mut world, job) = unstarted();
    let old = world.master_disk.clone();
    confirm_restore(&mut world);
    world.settle();
    put_back_files(&mut world, old);
    release(&mut world, job, 600);
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::StaleMaster), "and the other is told so");
    assert_eq!(world.begun(job), 0);
}

#[test]
fn d5_the_epoch_that_a_person_confirms_comes_after_every_one_that_a_slave_has_obeyed() {
    let (mut world, job) = unstarted();
    let old = world.master_disk.clone();
    for _ in 0..3 {
        confirm_restore(&mut world);
        world.settle();
        reconnect(&mut world, 0);
    }
    put_back_files(&mut world, old);
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::StaleMaster));
    confirm_restore(&mut world);
    world.boxes[0].closed.clear();
    reconnect(&mut world, 0);
    assert_eq!(world.master.as_ref().unwrap().node.epoch, Epoch(5), "once is enough");
    release(&mut world, job, 600);
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

/// Restores the master's old files while its slave is unreachable; a person confirms it.
fn restored_out_of_reach(world: &mut World, backup: MasterDisk) {
    world.cut(0);
    put_back_files(world, backup);
    confirm_restore(world);
    world.settle();
}

#[test]
fn d3_what_a_person_says_after_a_restore_is_newer_than_what_was_forgotten() {
    let (mut world, job) = unstarted();
    let backup = world.master_disk.clone();
    for said in [JobCommand::Pause, JobCommand::Resume, JobCommand::Pause] {
        command(&mut world, job, said);
    }
    restored_out_of_reach(&mut world, backup);
    release(&mut world, job, 600);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn d3_a_cancel_after_a_restore_reaches_the_job_that_has_run_all_along() {
    let mut world = World::new(1);
    world.cut(0);
    let job = place(&mut world);
    let backup = world.master_disk.clone();
    reconnect(&mut world, 0);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    restored_out_of_reach(&mut world, backup);
    world.command(job, JobCommand::Cancel(CancelMode::SafePoint));
    assert_eq!(world.state(job), State::Canceled, "by all that it knows");
    reconnect(&mut world, 0);
    world.pass(10_000);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Canceled, None));
    let ended = world.job(job).report.filter(|report| report.state == State::Canceled);
    assert!(ended.is_some_and(|report| report.started_at.is_some()), "by its slave's word");
}

/// A job waits at one slave when the master is backed up. Then it is recalled and begun at another slave, and the
/// master is restored while neither can reach it.
fn given_away_since_the_backup() -> (World, MasterDisk, JobId) {
    let mut world = World::new(2);
    world.cut(1);
    let jobs = [place(&mut world), place(&mut world)];
    world.settle();
    let job = jobs[1];
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)));
    let backup = world.master_disk.clone();
    reconnect(&mut world, 1);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(1)));
    world.cut(1);
    (world, backup, job)
}

#[test]
fn d3_whoever_comes_first_after_a_restore_a_job_that_was_given_away_is_found_where_it_is() {
    for order in [[0, 1], [1, 0]] {
        for ms in [0, 60_000] {
            let (mut world, backup, job) = given_away_since_the_backup();
            restored_out_of_reach(&mut world, backup);
            world.pass(ms);
            for slave in order {
                reconnect(&mut world, slave);
                let node = &world.boxes[slave].state.as_ref().unwrap().node;
                assert_eq!(node.attention, None, "{order:?}: it has lost nothing");
            }
            let found = if ms == 0 { State::Running } else { State::Succeeded };
            assert_eq!((world.state(job), world.holder(job)), (found, Some(1)), "{order:?}");
            world.pass(60_000);
            assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "{order:?}");
            let needs = master::count_needs(world.master.as_ref().unwrap(), world.now());
            assert_eq!(needs, 0, "{order:?}");
        }
    }
}

/// Attempt 1 ran at slave 0 at the time of the backup and is uncertain there; it was given up since, and attempt 2 runs at slave 1.
fn uncertain_and_tried_again_since_the_backup() -> (World, MasterDisk, JobId) {
    let (mut world, job) = endless_job(|_, _| {});
    let backup = world.master_disk.clone();
    world.boxes[0].machine.silent = true;
    world.cut(0);
    world.reboot(0);
    world.command(job, JobCommand::Abandon);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = Machine::UNTIL_TOLD;
    command(&mut world, job, JobCommand::Retry);
    world.pass(15_000);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(second)));
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain));
    world.cut(second);
    (world, backup, job)
}

#[test]
fn d3_an_attempt_that_runs_speaks_over_an_older_one_that_nobody_knows_of() {
    for order in [[0, 1], [1, 0]] {
        let (mut world, backup, job) = uncertain_and_tried_again_since_the_backup();
        restored_out_of_reach(&mut world, backup);
        for slave in order {
            reconnect(&mut world, slave);
        }
        assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(1)), "{order:?}");
        let needs = master::needs(world.master.as_ref().unwrap(), world.now(), None, 10);
        let needs: Vec<_> = needs.iter().map(|needed| needed.need).collect();
        assert_eq!(needs, [master::Need::Unresolved], "{order:?}");
        command(&mut world, job, JobCommand::Cancel(CancelMode::Now));
        assert_eq!(world.boxes[1].machine.alive().count(), 0, "{order:?}: the cancel has reached it");
        assert_eq!(world.state(job), State::Uncertain, "{order:?}: what the older one did nobody knows");
        command(&mut world, job, JobCommand::Resolve(End::Stopped));
        assert_eq!(world.state(job), State::Canceled, "{order:?}");
    }
}

#[test]
fn d3_what_a_person_says_of_an_attempt_is_not_said_of_another_slaves() {
    for asks in [false, true] {
        let (mut world, backup, job) = uncertain_and_tried_again_since_the_backup();
        restored_out_of_reach(&mut world, backup);
        reconnect(&mut world, 0);
        assert_eq!((world.state(job), world.holder(job)), (State::Uncertain, Some(0)));
        world.cut(0);
        world.command(job, JobCommand::Resolve(End::Stopped));
        if asks {
            world.boxes[1].machine.silent = true;
            world.reboot(1);
            world.pass(15_000);
        }
        reconnect(&mut world, 1);
        let found = if asks { State::Uncertain } else { State::Running };
        assert_eq!((world.state(job), world.holder(job)), (found, Some(1)));
        let known = world.job(job);
        assert_eq!((known.desired, known.flags.has(Flags::OVERTAKEN)), (Desired::Run, false), "{asks}");
        let there = &world.boxes[1].state.as_ref().unwrap().jobs[&job];
        assert_eq!(there.desired, Desired::Run, "{asks}");
        reconnect(&mut world, 0);
        let needs = master::needs(world.master.as_ref().unwrap(), world.now(), None, 10);
        let needs: Vec<_> = needs.iter().map(|needed| needed.need).collect();
        assert!(needs.contains(&master::Need::Unresolved), "its slave still asks of the first: {needs:?}");
    }
}

#[test]
fn d3_a_retry_finds_an_attempt_that_runs_in_place_of_starting_another() {
    let (mut world, backup, job) = uncertain_and_tried_again_since_the_backup();
    // Its slave has let the first attempt go, as somebody there has said: it ended.
    world.local(0, Local::Resolve { job: None, end: End::Failed });
    restored_out_of_reach(&mut world, backup);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Failed);
    reconnect(&mut world, 1);
    command(&mut world, job, JobCommand::Retry);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(1)));
    assert_eq!(world.begun(job), 2, "no third attempt");
}

#[test]
fn d3_a_job_that_was_given_away_before_a_restore_waits_for_a_person_while_nobody_has_told_of_it() {
    let (mut world, backup, job) = given_away_since_the_backup();
    restored_out_of_reach(&mut world, backup);
    reconnect(&mut world, 0);
    world.pass(60_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Uncertain, 1), "it is handed to nobody");
    assert_eq!(reason(&world, job), ReasonCode::Restored);
    let needs = master::needs(world.master.as_ref().unwrap(), world.now(), None, 10);
    assert_eq!(needs.iter().map(|needed| needed.need).collect::<Vec<_>>(), [master::Need::Uncertain]);
    world.command(job, JobCommand::Resolve(End::Failed));
    command(&mut world, job, JobCommand::Retry);
    assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(0)), "a person has said so");
}

#[test]
fn d3_a_window_that_has_closed_makes_no_end_of_what_was_done_in_it_since_the_backup() {
    for order in [[0, 1], [1, 0]] {
        let mut world = World::new(2);
        world.cut(1);
        let at = later(&world, 20_000);
        place(&mut world);
        let job = placed(&mut world, |order| order.start.deadline = at);
        assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)));
        let backup = world.master_disk.clone();
        reconnect(&mut world, 1);
        world.pass(60_000);
        assert_eq!((world.state(job), world.holder(job)), (State::Succeeded, Some(1)));
        world.cut(1);
        restored_out_of_reach(&mut world, backup);
        for slave in order {
            reconnect(&mut world, slave);
        }
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "{order:?}");
    }
}

#[test]
fn d3_what_failed_in_the_gap_is_tried_again_only_when_a_person_lets_it() {
    for (attempts, order) in [(2, [0, 1]), (2, [1, 0]), (3, [0, 1]), (3, [1, 0])] {
        let mut world = World::new(2);
        world.cut(1);
        let job = place_as(&mut world, |order| {
            order.retry.max_attempts = attempts;
            order.retry.on.insert(RetryOn::Failed);
        });
        world.settle();
        assert_eq!((world.state(job), world.holder(job)), (State::Running, Some(0)));
        let backup = world.master_disk.clone();
        // The attempt fails, and is retried at the other slave, where it runs.
        world.command_slave(0, SlaveCommand::Mode(Mode::Draining));
        world.boxes[0].machine.fails = true;
        world.plug(1);
        world.pass(60_000);
        assert_eq!((world.state(job), world.holder(job)), (State::Succeeded, Some(1)));
        world.boxes[0].machine.fails = false;
        world.cut(1);
        restored_out_of_reach(&mut world, backup);
        reconnect(&mut world, order[0]);
        world.pass(60_000);
        reconnect(&mut world, order[1]);
        world.pass(60_000);
        assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 2), "{attempts} {order:?}");
    }
}

#[test]
fn d3_a_slave_that_has_let_jobs_go_before_a_restore_has_room_for_others() {
    let mut world = World::new(2);
    world.cut(1);
    let jobs: Vec<_> = (0..4).map(|_| place(&mut world)).collect();
    world.settle();
    let backup = world.master_disk.clone();
    reconnect(&mut world, 1);
    world.pass(60_000);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Succeeded));
    // Other jobs push its outcome out of the slave's recent outcomes.
    for _ in 0..slave::RECENT_OUTCOMES {
        place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
        world.pass(30_000);
    }
    world.cut(1);
    restored_out_of_reach(&mut world, backup);
    reconnect(&mut world, 0);
    assert!(jobs.iter().all(|job| world.state(*job) == State::Uncertain));
    let next = placed(&mut world, |_| {});
    assert_eq!((world.state(next), world.holder(next)), (State::Running, Some(0)));
}

#[test]
fn d3_a_release_after_a_restore_holds_also_for_what_its_slave_was_never_given() {
    let mut world = World::new(1);
    world.cut(0);
    world.plug(0);
    pump_until(&mut world, |world| {
        world.master.as_ref().unwrap().slaves.values().any(|slave| slave.live().is_some())
    });
    let job = place(&mut world);
    assert_eq!(world.state(job), State::Assigned);
    let backup = world.master_disk.clone();
    world.cut(0);
    restored_out_of_reach(&mut world, backup);
    release(&mut world, job, 600);
    reconnect(&mut world, 0);
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn d3_what_had_begun_and_is_not_there_after_a_restore_is_a_persons_to_say() {
    let (mut world, job) = running();
    let backup = world.master_disk.clone();
    world.pass(30_000);
    // Other jobs push its outcome out of the slave's recent outcomes.
    for _ in 0..slave::RECENT_OUTCOMES {
        place(&mut world);
        world.pass(30_000);
    }
    restored_out_of_reach(&mut world, backup);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::Restored));
    let node = &agent(&world).node;
    assert_eq!(node.attention, None, "its slave has kept every promise");
    world.command(job, JobCommand::Resolve(End::Succeeded));
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn d4_what_a_slave_claimed_while_it_doubted_counts_once_the_restore_is_confirmed() {
    for first in [0, 1] {
        let (mut world, backup, job) = given_away_since_the_backup();
        world.pass(60_000);
        reconnect(&mut world, 1);
        assert_eq!(world.state(job), State::Succeeded);
        put_back_quietly(&mut world, backup);
        assert_eq!(world.master.as_ref().unwrap().doubted_by.len(), 2);
        assert_ne!(world.state(job), State::Succeeded, "nobody has said yet which past counts");
        world.cut(1 - first);
        confirm_restore(&mut world);
        world.settle();
        reconnect(&mut world, 1 - first);
        world.pass(60_000);
        assert_eq!((world.state(job), world.holder(job)), (State::Succeeded, Some(1)), "{first} first");
        assert_eq!(world.begun(job), 1);
    }
}

#[test]
fn d4_an_old_copy_concludes_nothing_from_what_is_not_there() {
    let (mut world, backup, job) = given_away_since_the_backup();
    world.pass(30_000);
    world.cut(0);
    put_back_quietly(&mut world, backup);
    reconnect(&mut world, 0);
    assert!(!world.master.as_ref().unwrap().doubted_by.is_empty());
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)), "as the files say");
    confirm_restore(&mut world);
    reconnect(&mut world, 1);
    world.pass(60_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

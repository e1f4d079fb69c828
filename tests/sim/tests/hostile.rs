//! What fuzzing with hostile peers has found, each as one test.
#![cfg(test)]

mod stage;

use std::collections::BTreeMap;

use reloop_protocol::id::{Attempt, Generation, JobId, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::limits;
use reloop_protocol::master::{self, Basis};
use reloop_protocol::message::{Flags, Hello, Message, Record, Report, Row, Settled};
use reloop_protocol::slave::{Fact, LinkId, Probed};
use reloop_protocol::wire::{self, Frame, MAX_MESSAGE};
use reloop_sim::fuzz::any::Source;
use reloop_sim::world::{Machine, MasterDisk, World};

use crate::stage::*;

#[test]
fn a_slave_cannot_speak_for_a_job_that_another_slave_has() {
    let mut world = World::new(2);
    let job = placed(&mut world, |order| order.slave = Some("s0".to_owned()));
    let before = world.job(job);
    assert_eq!(before.state, State::Running);
    let link = link_of(&world, 1);
    for attempt in [Attempt(0), Attempt(1), Attempt(2)] {
        for state in SAID {
            let mut report = before.report.clone().unwrap();
            (report.attempt, report.state) = (attempt, state);
            world.master_event(received(link, Message::Report(report)));
            assert_eq!(beside(world.job(job)), beside(before.clone()), "{attempt} {state:?}");
        }
    }
    world.pass(20_000);
    assert_eq!(world.state(job), State::Succeeded);
}

/// Every state that a slave may report.
const SAID: [State; 10] = [
    State::Accepted,
    State::Starting,
    State::Running,
    State::Paused,
    State::Stopping,
    State::Uncertain,
    State::Succeeded,
    State::Failed,
    State::Canceled,
    State::Rejected,
];

/// A job without the fields that are only for people.
fn beside(mut job: master::Job) -> master::Job {
    job.others.retain(|earlier| earlier.basis != Basis::Claim);
    job.flags.0 &= !Flags::CLAIMED.0;
    job.revision = 0;
    job
}

/// This slave reports the job: live, or as a row and a report of its next handshake.
fn says(world: &mut World, slave: usize, report: Report, live: bool) {
    if live {
        let link = link_of(world, slave);
        return world.master_event(received(link, Message::Report(report)));
    }
    shakes_hands(world, slave, report.row(), vec![report], vec![]);
}

/// A handshake of this slave with one row, after which its link ends.
fn shakes_hands(world: &mut World, slave: usize, row: Row, reports: Vec<Report>, records: Vec<Record>) {
    let state = world.boxes[slave].state.clone().unwrap();
    let link = LinkId(1 << 50);
    world.cut(slave);
    let known = world.master.as_ref().unwrap().slaves[&state.settings.key].clone();
    let hello = Hello {
        key: state.settings.key,
        name: state.settings.name.clone(),
        store: state.node.store,
        boot: known.boot.unwrap(),
        session: Session(known.session.0 + 1),
        clock: world.now(),
        machine: known.machine.unwrap(),
        programs: known.programs,
        rows: vec![row],
        ..hello(1, "")
    };
    let settled = Settled { reports, records, machine: hello.machine.clone(), ..settled(hello.session) };
    world.master_event(master::Event::LinkOpened { link, nonce: [0; 32] });
    world.master_event(master::Event::HelloReceived { link, hello: Box::new(hello), token: None });
    world.master_event(received(link, Message::Settled(settled)));
    let last_heard = world.now();
    world.master_event(master::Event::LinkClosed { link, last_heard });
}

#[test]
fn a_slave_that_tells_of_a_newer_attempt_does_not_have_the_one_that_speaks() {
    // Files that were restored twice: in one past slave 1 was assigned attempt 2, in the other slave 0 got the job
    // again under that number.
    let mut world = World::new(2);
    world.cut(1);
    let orders = [world.order("mill"), world.order("mill")];
    let [_, job] = orders.map(|order| world.place(order));
    world.settle();
    let backup = world.master_disk.clone();
    reconnect(&mut world, 1);
    assert_eq!((world.state(job), world.job(job).attempt), (State::Running, Attempt(2)));
    (0..2).for_each(|slave| world.cut(slave));
    put_back_files(&mut world, backup);
    world.confirm_restore();
    reconnect(&mut world, 1);
    let before = world.job(job);
    assert_eq!((before.state, before.holder), (State::Accepted, Some(world.boxes[0].settings.key)));
    let report = Report { attempt: Attempt(2), ..before.report.unwrap() };
    says(&mut world, 0, report, false);
    let after = world.job(job);
    assert_eq!((after.state, after.holder), (State::Running, Some(world.boxes[1].settings.key)));
    world.pass(60_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
}

/// Two slaves with a running job each. Three more jobs wait for what neither has: a label, for the first slave alone or for any; a
/// program. Returns the order's jobs and the second slave's report of its own job.
fn siblings() -> (World, Vec<JobId>, Report) {
    let mut world = World::new(2);
    for held in &mut world.boxes {
        held.settings.capacity = 1;
        held.machine.length_ms = Machine::UNTIL_TOLD;
    }
    for slave in 0..2 {
        world.cut(slave);
        world.kill_agent(slave);
        world.revive(slave);
        world.plug(slave);
    }
    world.settle();
    let mut jobs = vec![placed(&mut world, |order| order.slave = Some("s0".to_owned()))];
    let own = place_as(&mut world, |order| order.slave = Some("s1".to_owned()));
    for (program, slave) in [("mill", None), ("mill", Some("s0")), ("lathe", None)] {
        jobs.push(place_as(&mut world, |order| {
            (order.spec.program, order.slave) = (program.to_owned(), slave.map(str::to_owned));
            order.requires = BTreeMap::from([("bed".to_owned(), "glass".to_owned())]);
        }));
    }
    world.settle();
    let report = world.job(own).report.unwrap();
    assert_eq!(report.state, State::Running);
    (world, jobs, report)
}

#[test]
fn what_was_never_assigned_to_a_slave_is_only_claimed_by_it() {
    for live in [true, false] {
        for said in SAID {
            let (mut world, jobs, own) = siblings();
            for job in jobs {
                let before = world.job(job);
                let attempt = before.attempt.max(Attempt(1));
                let mut was = world.clone();
                for attempt in [attempt, attempt.next()] {
                    let report = Report { job, attempt, state: said, ..own.clone() };
                    says(&mut was, 1, report, live);
                    let after = was.job(job);
                    assert_eq!(beside(after.clone()), beside(before.clone()), "{live} {said:?} {attempt}");
                    let shown = after
                        .others
                        .iter()
                        .any(|one| (one.attempt, one.state, one.basis) == (attempt, said, Basis::Claim));
                    assert!(shown, "{live} {said:?} {attempt}: {:?}", after.others);
                    assert!(after.flags.has(Flags::CLAIMED));
                }
                world.settle();
            }
        }
    }
}

#[test]
fn made_up_attempts_do_not_displace_real_ones() {
    let (mut world, jobs, own) = siblings();
    let job = jobs[0];
    for attempt in 2..60 {
        let report = Report { job, attempt: Attempt(attempt), state: State::Failed, ..own.clone() };
        says(&mut world, 1, report, true);
    }
    let claimed = world.job(job).others;
    let attempts: Vec<_> = claimed.iter().map(|one| one.attempt.0).collect();
    assert_eq!(attempts, (2..18).collect::<Vec<_>>(), "the first that were told, and so many");
    // What it says of those is still shown, and of others nothing.
    let again = Report { job, attempt: Attempt(2), state: State::Running, ..own };
    says(&mut world, 1, again, true);
    assert!(world.job(job).others.iter().any(|one| (one.attempt, one.state) == (Attempt(2), State::Running)));
    // A slave that had the job is added to the same list.
    world.cut(0);
    give_away(&mut world, job);
    world.settle();
    let kept = world.job(job).others;
    let assigned = kept.iter().find(|earlier| earlier.basis == Basis::Assigned);
    assert_eq!(assigned.map(|earlier| earlier.attempt), Some(Attempt(1)), "{kept:?}");
    assert_eq!(kept.len(), 16, "in place of what was only claimed");
}

#[test]
fn a_restore_opens_a_gap_that_a_slave_closes_with_its_first_handshake_and_for_what_nobody_has() {
    for said in SAID {
        let (mut world, jobs, own) = siblings();
        confirm_restore(&mut world);
        // The first slave's job is its own, even while the gap is open.
        let mut open = world.clone();
        let before = open.job(jobs[0]);
        let attempt = before.attempt.next();
        says(&mut open, 1, Report { job: jobs[0], attempt, state: said, ..own.clone() }, false);
        let after = open.job(jobs[0]);
        assert_eq!(
            (after.state, after.holder, after.attempt, after.desired),
            (before.state, before.holder, before.attempt, before.desired),
            "{said:?}"
        );
        // What waits may have been assigned and forgotten; one claim is believed.
        let mut open = world.clone();
        says(&mut open, 1, Report { job: jobs[1], attempt: Attempt(1), state: said, ..own.clone() }, false);
        assert_eq!(open.job(jobs[1]).state, said, "it may be so");
        world.settle();
        for job in jobs {
            let before = world.job(job);
            let report = Report { job, attempt: before.attempt.next(), state: said, ..own.clone() };
            for live in [true, false] {
                let mut closed = world.clone();
                says(&mut closed, 1, report.clone(), live);
                assert_eq!(beside(closed.job(job)), beside(before.clone()), "{live} {said:?}");
            }
        }
    }
}

#[test]
fn what_was_adopted_from_one_slave_is_not_another_slaves_to_end() {
    let (mut world, jobs, own) = siblings();
    world.wipe_master();
    world.settle();
    assert!(world.job(jobs[0]).flags.has(Flags::ADOPTED));
    for said in SAID {
        let before = world.job(jobs[0]);
        for attempt in [Attempt(1), Attempt(2)] {
            let mut world = world.clone();
            says(&mut world, 1, Report { job: jobs[0], attempt, state: said, ..own.clone() }, true);
            assert_eq!(beside(world.job(jobs[0])), beside(before.clone()), "{said:?} {attempt}");
        }
    }
}

#[test]
fn no_word_of_a_slave_uses_up_the_numbers_that_others_are_given_next() {
    for (attempt, generation) in [(limits::COUNT, 1), (1, limits::COUNT), (limits::COUNT, limits::COUNT)] {
        for live in [true, false] {
            let (mut world, _, own) = siblings();
            let job = own.job;
            let report = Report {
                attempt: Attempt(attempt),
                generation: Generation(generation),
                state: State::Failed,
                ..own
            };
            assert_eq!(limits::check(&Message::Report(report.clone())), Ok(()));
            says(&mut world, 1, report, live);
            give_away(&mut world, job);
            world.settle();
            let job = world.job(job);
            assert!(
                job.last_attempt <= Attempt(3) && job.generation < Generation(100),
                "{attempt} {generation}: {job:?}"
            );
        }
    }
}

#[test]
fn an_unknown_job_whose_numbers_leave_no_room_is_not_adopted() {
    for (attempt, generation, is_taken) in [
        (limits::ADOPTED_ATTEMPT, limits::ADOPTED_GENERATION, true),
        (limits::ADOPTED_ATTEMPT + 1, 1, false),
        (1, limits::ADOPTED_GENERATION + 1, false),
    ] {
        let (mut world, _, own) = siblings();
        world.cut(1);
        let disk = world.boxes[1].disk.clone();
        let held = disk.job(own.job).unwrap();
        let report = Report {
            job: JobId([0xcc; 16]),
            attempt: Attempt(attempt),
            generation: Generation(generation),
            ..own
        };
        let record = Record {
            requires: Default::default(),
            spec: held.spec.clone(),
            start: held.start,
            report: report.clone(),
        };
        shakes_hands(&mut world, 1, report.row(), vec![], vec![record]);
        assert_eq!(world.find_job(report.job).is_some(), is_taken, "{attempt} {generation}");
    }
}

#[test]
fn a_restored_master_leaves_an_unstarted_job_where_it_was_assigned_after_the_backup() {
    let mut world = World::new(1);
    world.cut(0);
    let job = place_as(&mut world, much_later);
    let backup = world.master_disk.clone();
    reconnect(&mut world, 0);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    put_back_files(&mut world, backup);
    world.settle();
    assert_eq!(world.state(job), State::Queued, "only claimed until the restore is confirmed");
    assert!(world.job(job).flags.has(Flags::CLAIMED));
    confirm_restore(&mut world);
    world.settle();
    assert_eq!((world.state(job), world.holder(job)), (State::Accepted, Some(0)));
    let job = world.job(job);
    assert!(!job.flags.has(Flags::CLAIMED) && job.others.is_empty(), "it is no mere claim any more");
}

#[test]
fn an_order_of_several_jobs_is_rebuilt_whole_from_its_slave() {
    let mut world = World::new(1);
    let second = world.order("mill").jobs[0];
    let mut order = world.order("mill");
    much_later(&mut order);
    order.jobs.push(second);
    let (id, jobs) = (order.id, order.jobs.clone());
    world.place(order);
    world.settle();
    put_back_files(&mut world, MasterDisk::default());
    world.settle();
    let mut rebuilt = world.master_disk.orders[&id].jobs.clone();
    rebuilt.sort_unstable();
    assert_eq!(rebuilt.len(), jobs.len());
    assert!(jobs.iter().all(|job| rebuilt.contains(job)));
}

#[test]
fn a_peer_cannot_use_up_the_numbers_that_come_after_it() {
    let (world, job) = running();
    let mut report = world.job(job).report.unwrap();
    assert_eq!(limits::check(&Message::Report(report.clone())), Ok(()));
    report.generation.0 = limits::COUNT + 1;
    assert!(limits::check(&Message::Report(report.clone())).is_err());
    report.generation.0 = 1;
    report.attempt = Attempt(u32::MAX);
    assert!(limits::check(&Message::Report(report)).is_err());
}

#[test]
fn a_frame_has_only_one_encoding() {
    let ping = [0, 0, 13, 0];
    assert!(wire::decode_frame(&ping, MAX_MESSAGE).is_ok());
    // The same session, encoded in three bytes where one is enough.
    let long = [0xFB, 0, 0, 0, 13, 0];
    assert!(wire::decode::<Frame>(&long, MAX_MESSAGE).is_ok(), "the codec itself takes it");
    assert!(wire::decode_frame(&long, MAX_MESSAGE).is_err());
}

#[test]
fn any_bytes_make_a_value_of_every_message() {
    for seed in 0..=255 {
        let bytes = [seed; 64];
        let _: Message = Source::new(&bytes).any();
    }
}

#[test]
fn what_a_machine_says_after_the_end_changes_nothing() {
    let (mut world, job) = running();
    world.cut(0);
    machine_tells(&mut world, job, ended_with(End::Failed, "the spindle broke"));
    let before = agent(&world).clone();
    assert_eq!(before.jobs[&job].report.state, State::Failed);
    let refused = Fact::PauseRefused("no".to_owned());
    for fact in [ended_with(End::Succeeded, "done"), refused, Fact::Probed(Probed::Gone), Fact::Paused] {
        machine_tells(&mut world, job, fact);
    }
    assert_eq!(world.boxes[0].state.as_ref(), Some(&before));
}

#[test]
fn an_offer_that_came_too_late_does_not_keep_its_slave_from_the_next() {
    let mut world = World::new(1);
    let soon = later(&world, 100);
    let late = place_as(&mut world, |order| order.start.deadline = soon);
    // Meanwhile the offer is on its way.
    world.ms += 1_000;
    world.settle();
    assert_eq!(world.state(late), State::Expired);
    let next = placed(&mut world, |_| {});
    assert_eq!(world.state(next), State::Running);
}

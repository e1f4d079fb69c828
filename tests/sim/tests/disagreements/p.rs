//! Placement: two lines at each slave, machines that can't start, and priorities.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{self, JobCommand, Order, SlaveCommand, WhyNot};
use reloop_protocol::message::Mode;
use reloop_protocol::slave::{self, AfterFailure, Local, Release};
use reloop_protocol::spec::{CancelMode, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World, required};

use crate::stage::*;

const WEEK_MS: i64 = 7 * 86_400_000;

#[test]
fn p1_work_for_next_week_takes_no_place_of_work_for_now() {
    let mut world = World::new(1);
    for _ in 0..16 {
        deferred(&mut world, WEEK_MS, |_| {});
    }
    let one_more = placed(&mut world, much_later);
    assert_eq!(world.state(one_more), State::Queued, "there is a bound for them too");
    let now = placed(&mut world, |_| {});
    assert_eq!(world.state(now), State::Running);
    // One that is released is one for now.
    let others = (0..3).map(|_| placed(&mut world, |_| {})).collect::<Vec<_>>();
    assert!(others.iter().all(|job| world.state(*job) == State::Accepted));
    let_start(&mut world, one_more);
    assert_eq!(world.state(one_more), State::Accepted, "it is older than the last of those");
    assert_eq!(world.state(others[2]), State::Queued, "there is a bound for those too");
}

#[test]
fn p1_what_a_person_has_to_release_waits_in_the_queue() {
    let mut world = World::new(3);
    let held: Vec<_> = (0..12).map(|_| placed(&mut world, |order| order.start.gate = Gate::Held)).collect();
    assert!(held.iter().all(|job| world.state(*job) == State::Queued));
    let free = placed(&mut world, |_| {});
    assert_eq!(world.state(free), State::Running, "no machine idles beside it");
    let_start(&mut world, held[7]);
    assert_eq!(world.state(held[7]), State::Running);
    // With nobody there it waits in the queue, and for no longer than it was released for.
    (0..3).for_each(|slave| world.cut(slave));
    drop(command(&mut world, held[8], JobCommand::Release { valid: Millis::seconds(60) }));
    world.pass(59_000);
    assert_eq!(world.job(held[8]).need(), None);
    world.pass(2_000);
    (0..3).for_each(|slave| reconnect(&mut world, slave));
    assert_eq!((world.state(held[8]), world.begun(held[8])), (State::Queued, 0));
    assert_eq!(world.job(held[8]).need(), Some(reloop_protocol::master::Need::ReleaseLapsed));
    let_start(&mut world, held[8]);
    assert!(world.job(held[8]).state.is_executing());
}

/// A slave whose machine works on one job, with three more that wait for it.
fn three_wait() -> (World, JobId, Vec<JobId>) {
    let mut world = world_with(|settings| settings.after_failure = AfterFailure::Hold);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    let first = placed(&mut world, |_| {});
    let waiting = (0..3).map(|_| placed(&mut world, |_| {})).collect();
    (world, first, waiting)
}

type Bar = (&'static str, fn(&mut World, JobId));

#[test]
fn p1_an_attempt_that_does_not_speak_for_its_job_takes_a_place_too() {
    let mut world = world_with(|settings| settings.capacity = 1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, |_| {});
    world.cut(0);
    command(&mut world, job, JobCommand::Abandon);
    command(&mut world, job, JobCommand::Retry);
    let second = world.add_slave("second");
    world.boxes[second].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    reconnect(&mut world, 0);
    assert_eq!((world.on_slave(0, job), world.holder(job)), (Some(State::Running), Some(second)));
    let next = placed(&mut world, |_| {});
    assert_eq!((world.holder(next), world.job(next).last_attempt.0), (Some(second), 1));
}

/// What keeps a machine from starting what it has; some of it comes with the end of the job that runs.
const BARS: [Bar; 7] = [
    ("its last job failed", |world, first| ends(world, first, End::Failed)),
    ("it can't begin", |world, first| {
        world.boxes[0].machine.unfit = true;
        ends(world, first, End::Succeeded);
    }),
    ("nobody has cleared it", |world, first| {
        world.boxes[0].state.as_mut().unwrap().settings.release = Release::Ack;
        ends(world, first, End::Succeeded);
    }),
    ("it is in maintenance", |world, _| drop(world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance)))),
    ("it is disabled", |world, _| drop(world.command_slave(0, SlaveCommand::Mode(Mode::Disabled)))),
    ("it is drained", |world, _| drop(world.command_slave(0, SlaveCommand::Mode(Mode::Draining)))),
    ("it is locked", |world, _| {
        world.local(0, Local::Lock(true));
    }),
];

#[test]
fn p2_what_a_machine_cant_start_goes_to_one_that_can() {
    for (bar, set) in BARS {
        let (mut world, first, waiting) = three_wait();
        set(&mut world, first);
        world.settle();
        assert!(waiting.iter().all(|job| world.holder(*job) == Some(0)), "{bar}: there is no other");
        let second = world.add_slave("second");
        world.settle();
        assert!(waiting.iter().all(|job| world.holder(*job) == Some(second)), "{bar}");
        world.pass(40_000);
        let ended = |job: &JobId| (world.state(*job), world.begun(*job)) == (State::Succeeded, 1);
        assert!(waiting.iter().all(ended), "{bar}");
    }
}

#[test]
fn p2_a_machine_that_cant_start_gets_nothing_new() {
    for (bar, set) in BARS {
        let (mut world, first, _) = three_wait();
        set(&mut world, first);
        world.settle();
        let more = placed(&mut world, |_| {});
        assert_eq!((world.holder(more), world.state(more)), (None, State::Queued), "{bar}");
    }
}

#[test]
fn p2_work_that_is_deferred_moves_when_its_time_is_near_and_never_while_its_slave_is_away() {
    for is_away in [false, true] {
        let mut world = World::new(1);
        let job = deferred(&mut world, 3_600_000, |_| {});
        world.local(0, Local::Lock(true));
        let second = world.add_slave("second");
        world.settle();
        assert_eq!(world.holder(job), Some(0), "there is time yet");
        if is_away {
            world.cut(0);
        }
        world.pass(2_699_000);
        assert_eq!(world.holder(job), Some(0));
        world.pass(2_000);
        world.settle();
        let holder = if is_away { 0 } else { second };
        assert_eq!((world.holder(job), world.state(job)), (Some(holder), State::Accepted), "{is_away}");
        world.pass(900_000);
        let state = if is_away { State::Accepted } else { State::Running };
        assert_eq!((world.holder(job), world.state(job)), (Some(holder), state), "{is_away}");
    }
}

fn urgent(order: &mut Order) {
    order.start.priority = 100;
}

#[test]
fn p3_a_job_that_goes_first_gets_the_place_of_the_last_that_has_not_begun() {
    let (mut world, first, waiting) = three_wait();
    placed(&mut world, |_| {});
    let urgent = placed(&mut world, urgent);
    assert_eq!((world.holder(urgent), world.state(urgent)), (Some(0), State::Accepted));
    assert_eq!((world.holder(waiting[2]), world.state(waiting[2])), (None, State::Queued));
    ends(&mut world, first, End::Succeeded);
    world.settle();
    assert_eq!((world.state(urgent), world.begun(waiting[0])), (State::Running, 0));
    assert_eq!(world.state(waiting[2]), State::Accepted, "the place that fell free is its own again");
}

/// An urgent job comes, and the link breaks after this many messages of the recall; the job that runs may end meanwhile.
#[test]
fn p3_whatever_becomes_of_the_recall_both_jobs_are_done_once() {
    for moves in 0..8 {
        for begins in [false, true] {
            let mut world = world_with(|settings| settings.capacity = 2);
            let jobs = [(); 2].map(|()| placed(&mut world, |_| {}));
            let urgent = place_as(&mut world, urgent);
            if begins {
                world.slave_event(0, slave::Event::TimePassed);
                ends(&mut world, jobs[0], End::Succeeded);
            }
            for _ in 0..moves {
                world.pump_one(0);
            }
            world.cut(0);
            world.pass(1_000);
            reconnect(&mut world, 0);
            world.pass(60_000);
            for job in jobs.into_iter().chain([urgent]) {
                assert_eq!(
                    (world.state(job), world.begun(job)),
                    (State::Succeeded, 1),
                    "after {moves}, {begins}"
                );
            }
        }
    }
}

#[test]
fn p3_where_the_link_is_down_the_highest_priority_goes_first() {
    let (mut world, first, waiting) = three_wait();
    world.cut(0);
    placed(&mut world, |_| {});
    reconnect(&mut world, 0);
    let urgent = placed(&mut world, urgent);
    world.cut(0);
    ends(&mut world, first, End::Succeeded);
    assert_eq!(world.on_slave(0, urgent), Some(State::Starting).or(Some(State::Running)));
    assert_eq!(world.on_slave(0, waiting[0]), Some(State::Accepted));
}

/// One more slave, which takes two jobs, and whose machine works on the first for as long as nobody tells it to end.
fn one_more_at_work(world: &mut World, name: &str) -> usize {
    let mut settings = world.settings(name);
    settings.capacity = 2;
    let slave = world.add_box(settings);
    world.boxes[slave].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    slave
}

/// Two slaves, the machine of the second at work for as long as nobody tells it to end, and an urgent job behind that.
fn urgent_waits_at_the_second() -> (World, JobId, JobId) {
    let mut world = world_with(|settings| settings.capacity = 3);
    let second = one_more_at_work(&mut world, "second");
    let first = placed(&mut world, |_| {});
    let long = placed(&mut world, |_| {});
    let low = placed(&mut world, |_| {});
    let urgent = placed(&mut world, urgent);
    let holders = [first, long, low, urgent].map(|job| world.holder(job));
    assert_eq!(holders, [Some(0), Some(second), Some(0), Some(second)]);
    (world, low, urgent)
}

#[test]
fn p3_nothing_new_overtakes_an_urgent_job_that_waits_at_another_slave() {
    let (mut world, low, urgent) = urgent_waits_at_the_second();
    let more = [(); 4].map(|()| placed(&mut world, |_| {}));
    let ends_at_0 = |world: &mut World| {
        let ms = world.boxes[0].machine.length_ms;
        world.pass(ms);
        world.settle();
    };
    ends_at_0(&mut world);
    assert_eq!((world.state(low), world.holder(urgent)), (State::Running, Some(1)), "it had that before");
    assert!(more.iter().all(|job| world.state(*job) == State::Queued));
    let state = world.master.as_ref().unwrap();
    let said = master::explain(state, &world.job(more[0]), world.now());
    assert_eq!(said.slaves[0].why.map(WhyNot::name), Some("more_urgent"));
    let text = format!("it gets {urgent} first, which goes before this one and waits at another slave");
    assert_eq!(said.slaves[0].text, text);
    ends_at_0(&mut world);
    assert_eq!((world.state(urgent), world.holder(urgent)), (State::Running, Some(0)));
    assert_eq!(world.holder(more[0]), Some(0), "and the next are given out again");
}

#[test]
fn p3_what_is_held_back_is_given_out_when_the_urgent_job_is_gone() {
    type Gone = fn(&mut World, JobId);
    let gone: [Gone; 4] = [
        |world, job| drop(command(world, job, JobCommand::Cancel(CancelMode::IfNotStarted))),
        |world, job| drop(command(world, job, JobCommand::Pause)),
        |world, _| world.cut(1),
        |world, _| {
            let state = world.boxes[1].state.as_ref().unwrap();
            let at_work = state.jobs.values().find(|job| job.report.state.is_executing());
            let (work, at) = (at_work.unwrap().work(), Time(world.wall(1)));
            world.boxes[1].machine.finish(work, End::Succeeded, at, true);
            assert!(world.hear_machine(1));
        },
    ];
    for (number, gone) in gone.into_iter().enumerate() {
        let (mut world, _, urgent) = urgent_waits_at_the_second();
        world.pass(1_000);
        let ms = world.boxes[0].machine.length_ms;
        world.pass(ms - 1_000);
        let next = [(); 2].map(|()| placed(&mut world, |_| {}));
        assert_eq!(next.map(|job| world.holder(job)), [None; 2], "{number}");
        assert_eq!(world.holder(urgent), Some(1), "{number}");
        gone(&mut world, urgent);
        world.settle();
        assert!(next.iter().all(|job| world.holder(*job).is_some()), "{number}: all that there is room for");
    }
}

#[test]
fn p3_what_is_held_back_goes_to_each_slave_that_has_room_for_it() {
    let mut world = World::bare();
    let slaves = ["s0", "s1", "s2"].map(|name| one_more_at_work(&mut world, name));
    let running = slaves.map(|_| placed(&mut world, |_| {}));
    let urgent = placed(&mut world, urgent);
    let next = slaves.map(|_| placed(&mut world, |_| {}));
    assert_eq!(running.map(|job| world.state(job)), [State::Running; 3]);
    assert_eq!(next.map(|job| world.holder(job)), [None; 3]);
    drop(command(&mut world, urgent, JobCommand::Cancel(CancelMode::IfNotStarted)));
    let mut holders = next.map(|job| world.holder(job));
    holders.sort_unstable();
    assert_eq!(holders, slaves.map(Some));
}

#[test]
fn p3_what_is_held_back_is_given_out_also_if_the_urgent_job_was_not_the_first_there() {
    let mut world = World::bare();
    let mut settings = world.settings("s0");
    (settings.capacity, settings.labels) = (3, required());
    world.add_box(settings);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    let second = one_more_at_work(&mut world, "second");
    let running = [(); 2].map(|()| placed(&mut world, |_| {}));
    let urgent = placed(&mut world, urgent);
    // Only the first slave could do it.
    let first = placed(&mut world, |order| (order.start.priority, order.requires) = (101, required()));
    let next = placed(&mut world, |order| order.slave = Some("second".to_owned()));
    assert_eq!(running.map(|job| world.state(job)), [State::Running; 2]);
    let holders = [urgent, first, next].map(|job| world.holder(job));
    assert_eq!(holders, [Some(0), Some(0), None]);
    drop(command(&mut world, urgent, JobCommand::Cancel(CancelMode::IfNotStarted)));
    assert_eq!(world.holder(next), Some(second));
}

#[test]
fn p3_for_one_job_one_other_is_recalled_however_many_slaves_are_kept() {
    let mut world = World::bare();
    let slaves = ["s0", "s1", "s2", "s3"].map(|name| {
        let mut settings = world.settings(name);
        settings.capacity = 2;
        if matches!(name, "s0" | "s1") {
            settings.labels = required();
        }
        let slave = world.add_box(settings);
        world.boxes[slave].machine.length_ms = Machine::UNTIL_TOLD;
        slave
    });
    world.settle();
    let running = slaves.map(|_| placed(&mut world, |_| {}));
    assert_eq!(running.map(|job| world.state(job)), [State::Running; 4]);
    let first = placed(&mut world, |order| (order.start.priority, order.requires) = (6, required()));
    let low = [(); 2].map(|()| placed(&mut world, |_| {}));
    assert_eq!([first, low[0], low[1]].map(|job| world.holder(job)), [Some(0), Some(2), Some(3)]);
    let high = placed(&mut world, |order| order.start.priority = 5);
    assert_eq!(world.state(high), State::Accepted);
    let still_there = low.iter().filter(|job| world.holder(**job).is_some()).count();
    assert_eq!((still_there, low.map(|job| world.job(job).last_attempt.0)), (1, [1; 2]));
}

#[test]
fn p3_what_is_recalled_for_a_slave_finds_its_place_there_still_free() {
    let (mut world, _, urgent) = urgent_waits_at_the_second();
    let next = [(); 2].map(|()| placed(&mut world, |_| {}));
    let ms = world.boxes[0].machine.length_ms;
    world.pass(ms);
    assert_eq!(next.map(|job| world.holder(job)), [None; 2], "they are held back");
    world.local(1, Local::Lock(true));
    world.settle();
    assert_eq!([urgent, next[0], next[1]].map(|job| world.holder(job)), [Some(0), Some(0), None]);
    assert_eq!(next.map(|job| world.job(job).last_attempt.0), [1, 0]);
}

#[test]
fn p3_all_that_is_recalled_from_a_machine_that_cant_start_goes_before_what_comes_later() {
    let (mut world, _, first) = urgent_waits_at_the_second();
    let holder = world.job(first).holder.unwrap();
    world.boxes[1].settings.capacity = 3;
    world.kill_agent(1);
    world.revive(1);
    world.settle();
    world.cut(0);
    let second = placed(&mut world, urgent);
    reconnect(&mut world, 0);
    assert_eq!(world.job(second).holder, Some(holder));
    let next = [(); 3].map(|()| placed(&mut world, |_| {}));
    let ms = world.boxes[0].machine.length_ms;
    world.pass(ms);
    assert_eq!(next.map(|job| world.job(job).last_attempt.0), [0; 3], "they are held back");
    world.local(1, Local::Lock(true));
    world.settle();
    assert_eq!([first, second].map(|job| world.holder(job)), [Some(0); 2]);
    assert_eq!(next.map(|job| world.job(job).last_attempt.0), [0; 3]);
}

#[test]
fn p2_a_slave_does_not_wait_long_for_a_job_that_is_recalled_over_a_dead_link() {
    let (mut world, low, urgent) = urgent_waits_at_the_second();
    let next = placed(&mut world, |_| {});
    let ms = world.boxes[0].machine.length_ms;
    world.pass(ms);
    assert_eq!((world.state(low), world.state(next)), (State::Running, State::Queued));
    world.half_open(1);
    world.pass(ms);
    assert_eq!(
        (world.state(next), world.holder(urgent)),
        (State::Queued, Some(1)),
        "it was asked, and nobody answers"
    );
    world.pass(2_000);
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn p3_an_older_job_of_a_machine_that_cant_start_goes_before_what_comes_later() {
    let mut world = world_with(|settings| settings.capacity = 1);
    let second = one_more_at_work(&mut world, "second");
    let first = placed(&mut world, |_| {});
    let long = placed(&mut world, |_| {});
    let older = placed(&mut world, |_| {});
    let later = placed(&mut world, |_| {});
    assert_eq!(
        (world.holder(first), world.holder(long), world.holder(older)),
        (Some(0), Some(second), Some(second))
    );
    assert_eq!(world.state(later), State::Queued);
    world.local(second, Local::Lock(true));
    world.settle();
    assert_eq!(world.holder(older), Some(second), "nobody has room for it");
    let ms = world.boxes[0].machine.length_ms;
    world.pass(ms);
    world.settle();
    assert_eq!((world.state(older), world.holder(older)), (State::Running, Some(0)));
    assert_eq!(world.state(later), State::Queued);
}

#[test]
fn p2_of_each_program_what_is_first_in_line_can_move() {
    let mut world = world_with(|settings| settings.programs = vec!["mill".to_owned(), "bake".to_owned()]);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let running = placed(&mut world, |_| {});
    placed(&mut world, |_| {});
    let bakes = placed(&mut world, |order| order.spec.program = "bake".to_owned());
    assert_eq!((world.state(running), world.holder(bakes)), (State::Running, Some(0)));
    let mut oven = world.settings("oven");
    oven.programs = vec!["bake".to_owned()];
    world.add_box(oven);
    world.settle();
    assert_eq!((world.holder(bakes), world.state(bakes)), (Some(1), State::Running));
}

/// The lists from which work is given out are checked in every state of the world; so is the check here.
#[test]
fn p2_a_list_that_is_not_true_is_noticed() {
    let world = World::new(1);
    let mut state = world.master.clone().unwrap();
    assert_eq!(master::broken_invariant(&state), None);
    for slave in state.slaves.values_mut() {
        slave.operating_mode.mode = Mode::Maintenance;
    }
    assert!(master::broken_invariant(&state).is_some_and(|broken| broken.starts_with("which slaves")));
}

//! Placement: jobs that fail, slaves that say no, configs that change, machines that could not begin, and ageing.

use reloop_protocol::id::JobId;
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::master::{self, JobCommand, Order, Retry, RetryOn, SlaveCommand, WhyNot};
use reloop_protocol::message::{Activity, Attention, ReasonCode, WaitingFor};
use reloop_protocol::slave;
use reloop_protocol::spec::{CancelMode, Gate, Late};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, WIDE, World, required};

use crate::stage::*;

/// Places a job that fails at once where it is, or succeeds.
fn comes_to(world: &mut World, end: End) -> JobId {
    let job = placed(world, |_| {});
    ends(world, job, end);
    world.settle();
    job
}

/// A slave whose machine works until it is told.
fn patient(set: impl FnOnce(&mut slave::Settings)) -> World {
    let mut world = world_with(set);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world
}

#[test]
fn p4_jobs_that_fail_one_after_the_other_bar_their_machine() {
    let mut world = patient(|_| {});
    comes_to(&mut world, End::Failed);
    comes_to(&mut world, End::Failed);
    comes_to(&mut world, End::Succeeded);
    comes_to(&mut world, End::Failed);
    comes_to(&mut world, End::Failed);
    assert_eq!(machine(&world).attention, None, "one that succeeded was among them");
    comes_to(&mut world, End::Failed);
    let said = machine(&world);
    assert_eq!((said.activity, said.attention), (Activity::Attention, Some(Attention::FailuresInRow)));
    assert_eq!(said.cause.as_deref(), Some("done"), "what the last one said");
    let waits = placed(&mut world, |_| {});
    assert_eq!(world.state(waits), State::Queued);
    // The next agent knows it too.
    restart_agent(&mut world);
    world.settle();
    assert_eq!(machine(&world).attention, Some(Attention::FailuresInRow));
    let needs = master::needs(world.master.as_ref().unwrap(), world.now(), None, 10);
    assert!(needs.iter().any(|needed| needed.attention == Some(Attention::FailuresInRow)), "{needs:?}");
    // One action ends it, and the count begins anew.
    world.command_slave(0, SlaveCommand::Clear);
    assert_eq!(world.state(waits), State::Running);
    ends(&mut world, waits, End::Failed);
    world.settle();
    comes_to(&mut world, End::Failed);
    assert_eq!(machine(&world).attention, None);
}

#[test]
fn p4_one_job_that_fails_again_and_again_says_nothing_of_its_machine() {
    let mut world = patient(|_| {});
    world.boxes[0].machine.fails = true;
    world.boxes[0].machine.length_ms = 100;
    let job = placed(&mut world, |order| retries(order, 10, 0));
    world.pass(10_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Failed, 10));
    assert_eq!(machine(&world).attention, None);
    // Nor do any, where people want it so.
    let mut world = patient(|settings| settings.max_failures_in_row = 0);
    for _ in 0..10 {
        comes_to(&mut world, End::Failed);
    }
    assert_eq!((machine(&world).attention, agent(&world).node.failed.len()), (None, 0));
}

#[test]
fn p4_a_program_that_fails_because_it_was_stopped_has_not_failed() {
    let mut world = patient(|settings| settings.max_failures_in_row = 1);
    let job = placed(&mut world, |_| {});
    world.boxes[0].machine.unstoppable = true;
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    world.slave_event(0, slave::Event::TimePassed);
    let work = agent(&world).jobs[&job].work();
    world.boxes[0].machine.unstoppable = false;
    let at = Time(world.wall(0));
    world.boxes[0].machine.finish(work, End::Stopped, at, true);
    world.settle();
    assert_eq!((world.state(job), machine(&world).attention), (State::Canceled, None));
}

fn retries(order: &mut Order, max_attempts: u32, backoff_seconds: u64) {
    order.retry = Retry { max_attempts, on: [RetryOn::Failed].into() };
    order.retry_backoff = Millis::seconds(backoff_seconds);
}

#[test]
fn p4_the_fastest_to_fail_does_not_get_the_most_work() {
    let mut world = World::new(1);
    (world.boxes[0].machine.fails, world.boxes[0].machine.length_ms) = (true, 100);
    for name in ["second", "third"] {
        world.add_slave(name);
    }
    world.settle();
    let jobs: Vec<_> = (0..30).map(|_| placed(&mut world, |order| retries(order, 2, 10))).collect();
    world.pass(300_000);
    let begun_there = world.boxes[0].machine.begun.len();
    assert_eq!(begun_there, 3, "it was barred by then");
    let succeeded = jobs.iter().filter(|job| world.state(**job) == State::Succeeded).count();
    assert_eq!(succeeded, 30, "each retry went elsewhere");
}

#[test]
fn p4_a_retry_waits_twice_as_long_as_the_one_before_and_goes_elsewhere_if_it_can() {
    let mut world = World::new(2);
    for held in &mut world.boxes {
        (held.machine.fails, held.machine.length_ms) = (true, 0);
    }
    let job = place_as(&mut world, |order| retries(order, 20, 10));
    let mut waited = Vec::new();
    let mut slaves = Vec::new();
    for _ in 0..9 {
        world.pass(500);
        let known = world.job(job);
        slaves.push(
            world.boxes.iter().position(|held| held.settings.key == known.others.last().unwrap().holder),
        );
        let until = known.retry_at.expect("it waits");
        assert_eq!((known.state, known.holder), (State::Queued, None));
        let explained =
            master::explain(world.master.as_ref().unwrap(), &known, world.now()).text(|at| at.to_string());
        assert!(explained.contains(&until.to_string()), "{explained}");
        waited.push(until.since(known.events.back().unwrap().at).0 / 1000);
        world.pass_some(until.0 - world.now().0 - 1);
        world.settle();
        assert_eq!(world.state(job), State::Queued, "not before its time");
        world.pass_some(1);
        world.settle();
    }
    assert_eq!(waited, [10, 20, 40, 80, 160, 320, 600, 600, 600]);
    assert_ne!(slaves[0], slaves[1], "the other one was free");
}

fn wide(order: &mut Order) {
    order.spec.params.insert(WIDE.0.to_owned(), WIDE.1.to_owned());
}

/// Two slaves, the first with a config that does not allow wide work.
fn one_is_narrow() -> World {
    let mut world = World::new(2);
    restart_with(&mut world, 0, true);
    world
}

/// Restarts a slave's agent with a config that allows wide work, or does not.
fn restart_with(world: &mut World, slave: usize, narrow: bool) {
    world.boxes[slave].configure(narrow, false);
    world.kill_agent(slave);
    world.revive(slave);
    world.settle();
}

#[test]
fn p5_a_slave_that_rejects_a_job_is_not_asked_again_and_others_are() {
    let mut world = one_is_narrow();
    let jobs: Vec<_> = (0..6).map(|_| placed(&mut world, wide)).collect();
    world.pass(100_000);
    for job in &jobs {
        let known = world.job(*job);
        assert_eq!((known.state, world.begun(*job), known.retries), (State::Succeeded, 1, 0));
        let barred: Vec<_> =
            known.rejected_by.iter().map(|one| (one.by.0, one.reason.clone().unwrap().code)).collect();
        let first = world.boxes[0].settings.key;
        assert!(barred.is_empty() || barred == [(first, ReasonCode::BadParams)], "asked once: {barred:?}");
    }
    assert!(jobs.iter().any(|job| !world.job(*job).rejected_by.is_empty()), "it was asked");
}

#[test]
fn p5_the_last_no_ends_it_and_each_stays_with_its_reason() {
    let mut world = one_is_narrow();
    restart_with(&mut world, 1, true);
    let job = placed(&mut world, wide);
    let known = world.job(job);
    assert_eq!((known.state, world.begun(job)), (State::Rejected, 0));
    let said: Vec<_> = known.rejected_by.iter().map(|one| one.reason.clone().unwrap().text).collect();
    assert_eq!(said, ["it is too wide"; 2]);
    // A person's retry asks them again.
    restart_with(&mut world, 1, false);
    drop(command(&mut world, job, JobCommand::Retry));
    assert_eq!((world.holder(job), world.state(job)), (Some(1), State::Running));
}

#[test]
fn p5_also_the_last_of_many_slaves_is_asked() {
    let mut world = World::new(20);
    for slave in 0..19 {
        restart_with(&mut world, slave, true);
    }
    let job = placed(&mut world, wide);
    let known = world.job(job);
    let reasons = known.rejected_by.iter().filter(|one| one.reason.is_some()).count();
    assert_eq!((world.holder(job), known.state), (Some(19), State::Running));
    assert_eq!((known.rejected_by.len(), reasons), (19, 16), "only the newest keep their reasons");
    let said = master::explain(world.master.as_ref().unwrap(), &known, world.now());
    let first = said.slaves.iter().find(|slave| slave.why == Some(WhyNot::Rejected)).unwrap();
    assert!(first.text.contains("its reason is not kept"), "{}", first.text);
}

#[test]
fn p5_who_is_away_may_take_it_and_who_has_a_new_config_is_asked_again() {
    for comes_back in [true, false] {
        let mut world = one_is_narrow();
        world.cut(1);
        let job = placed(&mut world, wide);
        assert_eq!(world.state(job), State::Queued, "the other one may take it");
        let explained = master::explain(world.master.as_ref().unwrap(), &world.job(job), world.now());
        let why = |slave: usize| {
            let key = world.boxes[slave].settings.key;
            explained.slaves.iter().find(|one| one.slave == key).map(|one| one.why.map(master::WhyNot::name))
        };
        assert_eq!((why(0), why(1)), (Some(Some("rejected")), Some(Some("offline"))));
        if comes_back {
            reconnect(&mut world, 1);
        } else {
            reconnect_first(&mut world);
            assert_eq!(world.state(job), State::Queued, "a new link is no new config");
            for _ in 0..20 {
                restart_agent(&mut world);
                world.settle();
            }
            let known = world.job(job);
            assert_eq!((known.state, known.rejected_by.len()), (State::Queued, 1), "it is one slave");
            restart_with(&mut world, 0, false);
        }
        let holder = usize::from(comes_back);
        assert_eq!((world.holder(job), world.state(job)), (Some(holder), State::Running), "{comes_back}");
    }
}

fn reconnect_first(world: &mut World) {
    world.cut(0);
    reconnect(world, 0);
}

#[test]
fn p5_an_orders_retry_waits_and_asks_all_of_them_again() {
    let mut world = one_is_narrow();
    restart_with(&mut world, 1, true);
    let job = placed(&mut world, |order| {
        wide(order);
        order.retry = Retry { max_attempts: 2, on: [RetryOn::Rejected].into() };
        order.retry_backoff = Millis::seconds(10);
    });
    let known = world.job(job);
    assert_eq!((known.state, known.retries, known.retry_at), (State::Queued, 1, later(&world, 10_000)));
    world.pass(11_000);
    let known = world.job(job);
    assert_eq!((known.state, known.attempt.0, known.rejected_by.len()), (State::Rejected, 4, 4));
}

fn labelled(order: &mut Order) {
    order.requires = required();
}

type Change = (&'static str, fn(&mut Order), bool, bool);

const CHANGES: [Change; 2] =
    [("a label is gone", labelled, false, true), ("a pattern is narrower", wide, true, false)];

/// A slave has a job behind one that runs, and its agent is restarted with a config that does not allow it any more.
fn reconfigured((_, order, narrow, bare): Change, is_away: bool) -> (World, JobId, JobId) {
    let mut world = world_with(|settings| settings.labels = required());
    world.settle();
    let first = placed(&mut world, |_| {});
    let job = placed(&mut world, order);
    assert_eq!(world.state(job), State::Accepted);
    if is_away {
        world.cut(0);
    }
    world.boxes[0].configure(narrow, bare);
    restart_agent(&mut world);
    world.settle();
    (world, first, job)
}

#[test]
fn p6_a_job_that_its_slaves_config_does_not_allow_any_more_does_not_start_there_and_goes_back() {
    for change in CHANGES {
        for is_away in [true, false] {
            let what = (change.0, is_away);
            let (mut world, first, job) = reconfigured(change, is_away);
            if is_away {
                world.pass(30_000);
                assert_eq!(world.on_slave(0, first), Some(State::Succeeded));
                assert_eq!(
                    agent(&world).jobs[&job].report.waiting_for,
                    Some(WaitingFor::Elsewhere),
                    "{what:?}"
                );
                reconnect(&mut world, 0);
            }
            assert_eq!((world.on_slave(0, job), world.begun(job)), (None, 0), "{what:?}");
            let mut settings = world.settings("second");
            settings.labels = required();
            let second = world.add_box(settings);
            world.settle();
            drop(command(&mut world, job, JobCommand::Retry));
            world.pass(30_000);
            let ended = (world.holder(job), world.state(job), world.begun(job));
            assert_eq!(ended, (Some(second), State::Succeeded, 1), "{what:?}");
        }
    }
}

#[test]
fn p6_a_config_that_allows_it_again_lets_it_start() {
    for change in CHANGES {
        let (mut world, _, job) = reconfigured(change, true);
        assert!(agent(&world).jobs[&job].report.reason.is_some(), "{}", change.0);
        world.boxes[0].configure(false, false);
        restart_agent(&mut world);
        world.settle();
        let report = &agent(&world).jobs[&job].report;
        assert_eq!((report.waiting_for, &report.reason), (Some(WaitingFor::Turn), &None), "{}", change.0);
        world.pass(12_000);
        assert_eq!(world.on_slave(0, job), Some(State::Running), "{}", change.0);
    }
}

#[test]
fn p6_what_has_begun_stays_at_its_machine_and_waits_for_a_person() {
    for (what, order, narrow, bare) in CHANGES {
        let mut world = World::bare();
        let mut settings = world.settings("s0");
        settings.labels = required();
        world.start_master();
        world.add_box(settings);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        world.settle();
        let job = placed(&mut world, |it| {
            order(it);
            it.spec.on_interrupt = OnInterrupt::Restart;
        });
        world.boxes[0].configure(narrow, bare);
        reboot(&mut world);
        assert_eq!(
            (world.state(job), waits_for(&world, job)),
            (State::Accepted, Some(WaitingFor::Operator)),
            "{what}"
        );
        let needs = master::needs(world.master.as_ref().unwrap(), world.now(), None, 9);
        let [held] = &needs[..] else { panic!("{what}: {needs:?}") };
        let said = world.job(job).report.unwrap().reason.unwrap().text;
        assert_eq!((held.need, held.why.as_deref()), (master::Need::Held, Some(&*said)), "{what}");
        let_start(&mut world, job);
        assert_eq!((world.holder(job), world.state(job)), (Some(0), State::Running), "{what}");
    }
}

#[test]
fn p6_a_master_that_has_forgotten_a_job_learns_what_it_requires() {
    let (mut world, _, job) = reconfigured(("nothing", labelled, false, false), true);
    world.wipe_master();
    reconnect(&mut world, 0);
    assert_eq!(world.job(job).requires, required());
}

#[test]
fn p7_a_machine_that_could_not_begin_a_job_says_by_itself_when_it_can() {
    let mut world = World::new(1);
    world.boxes[0].machine.unfit = true;
    let job = placed(&mut world, |_| {});
    assert_eq!(machine(&world).attention, Some(Attention::MachineUnfit));
    // It is asked after 15 s, and then less and less often.
    let mut asked = Vec::new();
    for second in 1..=3_600 {
        world.pass_some(1_000);
        if world.boxes[0].machine.is_asked {
            asked.push(second);
        }
        world.settle();
    }
    assert_eq!(asked, [15, 45, 105, 225, 465, 945, 1545, 2145, 2745, 3345]);
    assert_eq!(machine(&world).cause.as_deref(), Some("the disk is full"));
    // Another slave takes what it has, and it gets nothing new.
    let second = world.add_slave("second");
    world.settle();
    assert_eq!((world.holder(job), world.state(job)), (Some(second), State::Running));
    world.boxes[0].machine.unfit = false;
    world.pass(600_000);
    assert_eq!((machine(&world).attention, machine(&world).activity), (None, Activity::Ready));
    // One that only looks mended is asked ever less often, and one that has begun a job is as good as new.
    world.cut(second);
    world.boxes[0].machine.unfit = true;
    placed(&mut world, |_| {});
    assert_eq!(agent(&world).volatile.checks.count, 11);
    world.boxes[0].machine.unfit = false;
    world.command_slave(0, SlaveCommand::Clear);
    assert_eq!(agent(&world).volatile.checks, slave::Checks::default());
}

#[test]
fn p4_an_attempt_that_was_recalled_is_none_of_those_that_the_order_allows() {
    let mut world = patient(|_| {});
    placed(&mut world, |_| {});
    let job = placed(&mut world, |order| retries(order, 2, 0));
    let second = world.add_slave("second");
    (world.boxes[second].machine.fails, world.boxes[second].machine.length_ms) = (true, 1_000);
    world.settle();
    assert_eq!((world.holder(job), world.job(job).attempt.0), (Some(second), 2), "it was recalled");
    world.pass(10_000);
    assert_eq!((world.state(job), world.begun(job), world.job(job).retries), (State::Failed, 2, 1));
}

/// A machine that works 10 s on each job, a low job, and a stream of urgent ones, more than the machine can do. Returns when the low one
/// was begun, in seconds.
fn starved(ageing: Option<Millis>) -> Option<i64> {
    let mut world = World::bare();
    world.placement.ageing = ageing;
    world.start_master();
    let settings = world.settings("s0");
    world.add_box(settings);
    world.settle();
    let places = |world: &mut World| {
        placed(world, |order| order.start.priority = 10);
    };
    (0..6).for_each(|_| places(&mut world));
    let low = placed(&mut world, |_| {});
    for seconds in (5..=2_000).step_by(5) {
        world.pass(5_000);
        places(&mut world);
        if world.begun(low) > 0 {
            return Some(seconds);
        }
    }
    None
}

#[test]
fn p8_a_stream_of_urgent_work_starves_the_rest_unless_people_want_ageing() {
    assert_eq!(starved(None), None, "the highest priority goes first, as promised");
    // Ten steps of priority are worth ten times so long a wait; then it goes in its turn.
    for step in [1, 10, 50] {
        let begun = starved(Some(Millis::seconds(step))).expect("it has its turn");
        let worth = i64::try_from(10 * step).unwrap();
        assert!((worth..=2 * worth + 100).contains(&begun), "{step}: {begun}");
    }
}

/// A reviewer's doubts about what a machine's own word may end.
#[test]
fn p7_the_machines_own_word_ends_nothing_but_its_own_doubt() {
    // Jobs have failed before it could not begin one: they count on.
    let mut world = patient(|_| {});
    comes_to(&mut world, End::Failed);
    comes_to(&mut world, End::Failed);
    world.boxes[0].machine.unfit = true;
    let waits = placed(&mut world, |_| {});
    world.boxes[0].machine.unfit = false;
    world.pass(20_000);
    assert_eq!(world.state(waits), State::Running);
    ends(&mut world, waits, End::Failed);
    world.settle();
    assert_eq!(machine(&world).attention, Some(Attention::FailuresInRow));
    // What a person has to look at comes in place of what the machine may end.
    let mut world = patient(|_| {});
    world.boxes[0].machine.unfit = true;
    placed(&mut world, |_| {});
    world.kill_agent(0);
    world.boxes[0].fingerprint = Some([1; 16]);
    world.start_agent(0, true);
    world.settle();
    world.kill_agent(0);
    world.boxes[0].fingerprint = Some([2; 16]);
    world.start_agent(0, true);
    world.settle();
    assert_eq!((machine(&world).attention, machine(&world).cause), (Some(Attention::Moved), None));
    world.boxes[0].machine.unfit = false;
    world.pass(60_000);
    assert_eq!(machine(&world).attention, Some(Attention::Moved));
}

#[test]
fn p6_a_start_that_was_missed_stays_a_persons_to_let_happen() {
    let mut world = world_with(|settings| settings.labels = required());
    world.settle();
    let job = deferred(&mut world, 60_000, labelled);
    world.boxes[0].configure(false, true);
    off_for(&mut world, 600_000);
    assert_eq!((world.holder(job), waits_for(&world, job)), (Some(0), Some(WaitingFor::Operator)));
    let mut settings = world.settings("second");
    settings.labels = required();
    world.add_box(settings);
    world.settle();
    assert_eq!((world.holder(job), world.begun(job)), (Some(0), 0), "nobody has let it start");
    let_start(&mut world, job);
    assert_eq!((world.holder(job), world.begun(job)), (Some(1), 1));
}

#[test]
fn p4_who_lets_a_retry_begin_now_does_not_hold_it_by_that() {
    let mut world = patient(|_| {});
    let job = placed(&mut world, |order| retries(order, 3, 600));
    ends(&mut world, job, End::Failed);
    world.settle();
    assert!(world.job(job).retry_at.is_some());
    let_start(&mut world, job);
    let known = world.job(job);
    assert_eq!((known.state, known.start.gate, known.retry_at), (State::Running, Gate::Open, None));
    ends(&mut world, job, End::Failed);
    world.settle();
    let known = world.job(job);
    assert_eq!((known.need(), known.retries, known.retry_at.is_some()), (None, 2, true));
}

#[test]
fn p4_who_lets_a_retry_begin_now_means_its_planned_time_too() {
    let mut world = patient(|_| {});
    let job = placed(&mut world, |order| retries(order, 3, 600));
    ends(&mut world, job, End::Failed);
    world.settle();
    let not_before = later(&world, 3_600_000);
    drop(command(&mut world, job, JobCommand::Reschedule { not_before, deadline: None, late: Late::Hold }));
    assert!(world.job(job).retry_at.is_some());
    let_start(&mut world, job);
    assert_eq!((world.state(job), world.job(job).retry_at), (State::Running, None));
    ends(&mut world, job, End::Failed);
    world.settle();
    let known = world.job(job);
    assert_eq!((known.start.gate, known.retry_at.is_some()), (Gate::Open, true), "nobody has held it");
}

#[test]
fn p5_what_has_begun_is_not_done_again_elsewhere_because_of_a_no() {
    let (mut world, _) = (World::new(2), ());
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, |order| {
        order.spec.on_interrupt = OnInterrupt::Restart;
        order.slave = None;
    });
    let at = world.holder(job).unwrap();
    world.boxes[at].machine.rejects = true;
    world.reboot(at);
    world.settle();
    let ended = (world.holder(job), world.state(job), world.begun(job));
    assert_eq!(ended, (Some(at), State::Rejected, 1));
}

#[test]
fn p8_what_has_to_wait_for_an_older_job_comes_in_no_other_way() {
    let mut world = with_ageing();
    let running = placed(&mut world, |_| {});
    let old = placed(&mut world, |_| {});
    world.pass(20_000);
    // Ten steps are worth 10 s, and the old one has waited 20 s.
    let urgent = placed(&mut world, |order| order.start.priority = 10);
    assert_eq!(world.state(urgent), State::Queued, "the slave would start it before the old one");
    let other = placed(&mut world, |_| {});
    assert_eq!(
        (world.state(urgent), world.state(other)),
        (State::Queued, State::Queued),
        "nobody goes past it"
    );
    ends(&mut world, running, End::Succeeded);
    world.settle();
    let states = [old, urgent, other].map(|job| world.state(job));
    assert_eq!(states, [State::Running, State::Accepted, State::Accepted]);
}

#[test]
fn p8_what_must_not_go_past_an_older_job_at_one_slave_goes_to_another() {
    let mut world = with_ageing();
    placed(&mut world, |_| {});
    placed(&mut world, |_| {});
    world.pass(20_000);
    let urgent = placed(&mut world, |order| order.start.priority = 10);
    let mut oven = world.settings("oven");
    oven.programs = vec!["bake".to_owned()];
    let oven = world.add_box(oven);
    world.boxes[oven].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    let bakes = [(); 4].map(|()| placed(&mut world, |order| order.spec.program = "bake".to_owned()));
    assert_eq!(world.state(urgent), State::Queued, "the first slave would start it before its older job");
    // The first slave has fewer jobs than the oven in the end, and still nothing goes past the urgent one.
    assert_eq!(bakes.map(|job| world.holder(job)), [Some(oven); 4]);
}

#[test]
fn p8_an_urgent_job_is_looked_at_again_when_the_one_that_it_had_to_wait_for_is_canceled() {
    let mut world = World::bare();
    world.placement.ageing = Some(Millis::seconds(10));
    world.start_master();
    let mut settings = world.settings("s0");
    settings.capacity = 2;
    world.add_box(settings);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.settle();
    placed(&mut world, |_| {});
    let last = placed(&mut world, |_| {});
    let soon = later(&world, 1);
    // It comes as one that waits for its time. Then the slave has more than it has room for, and with or without it the same is the last in line.
    let older = placed(&mut world, |order| (order.start.not_before, order.start.priority) = (soon, 1));
    command(&mut world, last, JobCommand::Pause);
    world.pass(10_001);
    command(&mut world, last, JobCommand::Resume);
    let urgent = placed(&mut world, |order| order.start.priority = 2);
    assert_eq!([last, older].map(|job| world.holder(job)), [Some(0), Some(0)]);
    assert_eq!(world.state(urgent), State::Queued, "the slave would start it before the older one");
    command(&mut world, older, JobCommand::Cancel(CancelMode::IfNotStarted));
    assert_eq!((world.holder(urgent), world.holder(last)), (Some(0), None));
}

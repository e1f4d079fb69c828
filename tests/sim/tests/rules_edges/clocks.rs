//! Time: what counts as run time, when a start is missed, when releases lapse although a clock is set, and ids after a
//! clock was set back.

use reloop_protocol::id::{Attempt, JobId, NewestId, Session};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{JobCommand, Retry, RetryOn};
use reloop_protocol::message::{Challenge, Flags, Message, ReasonCode, WaitingFor};
use reloop_protocol::slave::{self, CLOCK_PATIENCE, ClockSource, Fact, Local, Probed, TrustClock, Why};
use reloop_protocol::spec::{Gate, Late, OnOverdue};
use reloop_protocol::time::{Millis, Time};
use reloop_sim::world::{Machine, World};

use crate::stage::*;

/// A running job that its slave stops after so long.
fn limited(seconds: u64) -> (World, JobId) {
    endless_job(|_, order| {
        order.spec.max_runtime = Some(Millis::seconds(seconds));
        order.spec.on_overdue = OnOverdue::Stop;
    })
}

#[test]
fn a_pause_uses_up_nothing_of_how_long_a_job_may_run() {
    let (mut world, job) = limited(8);
    world.pass(4_000);
    for by_hand in [false, true] {
        match by_hand {
            false => drop(world.command(job, JobCommand::Pause)),
            true => {
                world.local(0, Local::Pause);
            }
        }
        world.pass(10_000);
        assert_eq!(world.state(job), State::Paused, "by hand {by_hand}");
        match by_hand {
            false => drop(world.command(job, JobCommand::Resume)),
            true => {
                world.local(0, Local::Resume);
            }
        }
        world.pass(1_500);
        assert_eq!(world.state(job), State::Running, "by hand {by_hand}");
    }
    world.pass(500);
    assert_eq!(world.state(job), State::Running, "it has worked for 7.5 s");
    world.pass(1_000);
    assert_eq!((world.state(job), world.job(job).all_flags().has(Flags::OVERDUE)), (State::Canceled, true));
}

#[test]
fn work_goes_on_counting_while_the_agent_is_off() {
    let (mut world, job) = limited(8);
    world.pass(2_000);
    world.kill_agent(0);
    world.pass(4_000);
    world.start_agent(0, true);
    world.settle();
    world.pass(1_000);
    assert_eq!(world.state(job), State::Running, "it has worked for 7 s");
    world.pass(1_500);
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a_pause_goes_on_while_the_agent_is_off() {
    let (mut world, job) = limited(8);
    world.pass(2_000);
    world.command(job, JobCommand::Pause);
    world.pass(1_000);
    world.kill_agent(0);
    world.pass(20_000);
    world.start_agent(0, true);
    world.pass(20_000);
    assert_eq!(world.state(job), State::Paused, "the machine has said again that it is");
    world.command(job, JobCommand::Resume);
    world.pass(5_500);
    assert_eq!(world.state(job), State::Running, "it has worked for 7.5 s");
    world.pass(1_000);
    assert_eq!(world.state(job), State::Canceled);
}

#[test]
fn a_masters_clock_that_is_set_adds_nothing_to_how_long_a_job_has_worked() {
    for hours in [1, -1] {
        let (mut world, job) = limited(8);
        world.pass(4_000);
        set_masters_clock(&mut world, hours * 3_600_000);
        world.pass(3_000);
        assert_eq!(world.state(job), State::Running, "{hours} h");
        world.pass(1_500);
        assert_eq!(world.state(job), State::Canceled, "{hours} h");
    }
}

/// What a slave makes of a Challenge, by which the master's clock shows this.
fn challenged(world: &World, state: slave::Slave, now: slave::Now, time: Time) -> slave::Slave {
    let opened = slave::Event::LinkOpened { link: DIALLED, token: None };
    let state = slave::step(state, now, opened).state;
    let challenge = Message::Challenge(Challenge { time, ..challenge(world) });
    slave::step(state, now, heard(DIALLED, Session(0), challenge)).state
}

#[test]
fn work_that_outlives_a_boot_is_counted_by_the_masters_clock_once_that_is_known() {
    let (mut world, job) = limited(8);
    world.pass(2_000);
    world.cut(0);
    // The machine has its own power. Its box is back after four seconds, one of which it was up.
    let before = slave::Slave { volatile: slave::Volatile::default(), ..agent(&world).clone() };
    let wall = Time(world.slave_now(0).wall.0 + 4_000);
    let now = slave::Now { wall, boot_ms: 1_000, synchronized: false };
    let left = |state: &slave::Slave| {
        let (at, why) = slave::next_deadline(state, now).unwrap();
        assert_eq!(why, Why::MaxRuntime);
        at - now.boot_ms
    };
    let started = slave::step(before, now, agent_started()).state;
    let alive = Fact::Probed(Probed::Alive { paused: false, permille: None });
    let state = machine_says(started, now, job, alive).state;
    assert_eq!(left(&state), 7_000, "at least as long as the box is up");
    let time = Time(world.now().0 + 4_000);
    let state = challenged(&world, state, now, time);
    assert_eq!(left(&state), 2_000, "it has worked for 6 s");
    let state = slave::step(state, now, slave::Event::LinkClosed { link: DIALLED }).state;
    let state = challenged(&world, state, now, Time(time.0 + 3_600_000));
    assert_eq!(left(&state), 2_000, "the master's clock was set");
}

/// What the machine does ends.
fn finish(world: &mut World) {
    let at = world.slave_now(0).wall;
    let machine = &mut world.boxes[0].machine;
    let works: Vec<_> = machine.working().collect();
    works.into_iter().for_each(|work| machine.finish(work, End::Succeeded, at, true));
}

/// Sets the clock of a running master, whose shell notices it.
fn set_masters_clock(world: &mut World, by_ms: i64) {
    world.set_masters_clock(by_ms);
    world.settle();
}

/// A job that is to start in ten seconds.
fn planned(late: Late) -> (World, JobId) {
    let mut world = World::new(1);
    let job = deferred(&mut world, 10_000, |order| order.start.late = late);
    (world, job)
}

fn followed(world: &World, job: JobId, late: Late, how: &str) {
    let expected = match late {
        Late::Hold => (State::Accepted, 0),
        Late::Run => (State::Running, 1),
        Late::Skip => (State::Expired, 0),
    };
    assert_eq!((world.state(job), world.begun(job)), expected, "{how}, {late:?}");
    assert!(world.job(job).all_flags().has(Flags::MISSED_START), "{how}, {late:?}");
}

#[test]
fn an_agent_that_slept_over_a_start_has_missed_it() {
    for late in [Late::Hold, Late::Run, Late::Skip] {
        let (mut world, job) = planned(late);
        // Meanwhile the slave takes no step: the process was stopped, or the box suspended.
        world.pass_some(250_000);
        world.settle();
        followed(&world, job, late, "asleep");
        if late == Late::Hold {
            assert_eq!(world.job(job).report.unwrap().waiting_for, Some(WaitingFor::Operator));
            release(&mut world, job, 60);
            world.settle();
            assert_eq!(world.state(job), State::Running);
        }
    }
}

#[test]
fn what_is_late_by_less_than_the_tolerance_just_starts() {
    for late in [Late::Hold, Late::Run, Late::Skip] {
        for off in [false, true] {
            let (mut world, job) = planned(late);
            if off {
                world.kill_agent(0);
            }
            world.pass_some(10_000 + 60_000);
            if off {
                world.start_agent(0, true);
                world.plug(0);
            }
            world.settle();
            assert_eq!((world.state(job), world.begun(job)), (State::Running, 1), "{late:?}, off {off}");
            let report = world.job(job).report.unwrap();
            assert_eq!((report.flags.has(Flags::MISSED_START), report.reason), (false, None));
        }
        let (mut world, job) = planned(late);
        world.pass_some(10_000 + 60_001);
        world.settle();
        followed(&world, job, late, "a millisecond past the tolerance");
    }
}

#[test]
fn a_late_start_waits_for_the_master_as_long_as_it_may_be_late() {
    let (mut world, job) = planned(Late::Hold);
    world.cut(0);
    world.kill_agent(0);
    world.pass(20_000);
    world.start_agent(0, true);
    world.pass(49_500);
    assert_eq!(
        kept(&world, job).report.waiting_for,
        Some(WaitingFor::Time),
        "the disk may have gone back, and the master knows"
    );
    let now = world.slave_now(0);
    let next = slave::next_deadline(agent(&world), now);
    assert_eq!(next, Some((now.boot_ms + 500, Why::NotBefore)));
    world.pass(500);
    let report = &kept(&world, job).report;
    assert_eq!((report.state, report.flags.has(Flags::MISSED_START)), (State::Running, false));
}

#[test]
fn a_start_at_the_moment_at_which_the_agent_starts_waits_for_nobody() {
    let (mut world, job) = planned(Late::Hold);
    world.kill_agent(0);
    world.pass_some(10_000);
    world.start_agent(0, true);
    assert_eq!(kept(&world, job).report.state, State::Starting);
}

#[test]
fn a_start_that_came_while_the_machine_was_taken_is_not_missed() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 300_000;
    placed(&mut world, |_| {});
    let job = deferred(&mut world, 10_000, |_| {});
    world.pass(20_000);
    world.pass_some(250_000);
    world.pass(40_000);
    assert_eq!(
        (world.state(job), world.job(job).all_flags().has(Flags::MISSED_START)),
        (State::Running, false)
    );
}

#[test]
fn what_is_handed_out_after_its_time_is_not_missed() {
    // It waited in the queue: no slave had it when its time came.
    let mut world = World::new(0);
    let at = later(&world, 10_000);
    let job = placed(&mut world, |order| order.start.not_before = at);
    world.pass(500_000);
    world.add_slave("s0");
    world.settle();
    assert_eq!(
        (world.state(job), world.job(job).all_flags().has(Flags::MISSED_START)),
        (State::Running, false)
    );
}

#[test]
fn a_masters_clock_that_is_set_over_a_start_makes_it_missed() {
    for late in [Late::Hold, Late::Run, Late::Skip] {
        let (mut world, job) = planned(late);
        set_masters_clock(&mut world, 3_600_000);
        followed(&world, job, late, "an hour ahead");
    }
}

#[test]
fn a_masters_clock_that_is_set_by_less_than_the_tolerance_just_starts_what_it_passed() {
    let (mut world, job) = planned(Late::Hold);
    set_masters_clock(&mut world, 60_000);
    assert_eq!(
        (world.state(job), world.job(job).all_flags().has(Flags::MISSED_START)),
        (State::Running, false)
    );
}

/// A job that a person has released for five seconds, while its slave is away.
fn released_for_five_seconds() -> (World, JobId) {
    let (mut world, job) = unstarted();
    world.cut(0);
    release(&mut world, job, 5);
    (world, job)
}

fn has_lapsed(world: &World, job: JobId, how: &str) {
    assert_eq!((world.state(job), world.begun(job)), (State::Accepted, 0), "{how}");
    let report = world.job(job).report.unwrap();
    let reason = report.reason.map(|reason| reason.code);
    assert_eq!(
        (report.waiting_for, reason),
        (Some(WaitingFor::Operator), Some(ReasonCode::ReleaseLapsed)),
        "{how}"
    );
}

#[test]
fn a_release_lapses_also_if_the_masters_clock_goes_back() {
    for (back, restarts) in [(3_600_000, false), (3_600_000, true), (9_000, false)] {
        let (mut world, job) = released_for_five_seconds();
        if restarts {
            world.kill_master();
            world.master_off -= back;
            world.start_master();
        } else {
            world.pass(6_000);
            set_masters_clock(&mut world, -back);
        }
        world.pass(6_000);
        reconnect(&mut world, 0);
        has_lapsed(&world, job, &format!("back by {back} ms, restart {restarts}"));
    }
}

/// A job with a release at the slave, behind a running job; the link is cut.
fn released_behind_another(seconds: u64) -> (World, JobId, JobId) {
    let (mut world, busy) = endless_job(|_, _| {});
    let job = placed(&mut world, much_later);
    release(&mut world, job, seconds);
    world.settle();
    world.cut(0);
    (world, busy, job)
}

#[test]
fn a_release_that_the_slave_has_lapses_also_if_the_masters_clock_goes_back() {
    for reboots in [false, true] {
        let (mut world, busy, job) = released_behind_another(5);
        world.pass(12_000);
        set_masters_clock(&mut world, -3_600_000);
        if reboots {
            world.reboot(0);
        }
        // The machine falls idle in mid-handshake, when only the Challenge has told of the clock.
        world.plug(0);
        world.crossed.clear();
        pump_until(&mut world, |world| crossed(world, "hello") > 0);
        finish(&mut world);
        world.settle();
        if reboots {
            world.command(busy, JobCommand::Resolve(End::Failed));
        }
        world.pass(1_000);
        has_lapsed(&world, job, &format!("reboots {reboots}"));
    }
}

#[test]
fn after_a_reboot_no_release_counts_before_the_welcome() {
    for (reboots, passed, expected) in [
        (false, 3_000, (State::Starting, None)),
        (false, 6_000, (State::Accepted, Some(WaitingFor::Operator))),
        (true, 3_000, (State::Accepted, Some(WaitingFor::Clock))),
        (true, 6_000, (State::Accepted, Some(WaitingFor::Clock))),
    ] {
        let (mut world, job) = unstarted();
        world.local(0, Local::Lock(true));
        release(&mut world, job, 5);
        world.settle();
        world.cut(0);
        world.pass(passed);
        set_masters_clock(&mut world, -3_600_000);
        if reboots {
            world.reboot(0);
        }
        world.plug(0);
        world.crossed.clear();
        pump_until(&mut world, |world| crossed(world, "hello") > 0);
        world.local(0, Local::Lock(false));
        let report = &kept(&world, job).report;
        assert_eq!((report.state, report.waiting_for), expected, "reboots {reboots}, after {passed} ms");
    }
}

#[test]
fn a_release_that_the_master_adopted_lapses_also_if_its_clock_goes_back_while_it_is_off() {
    let (mut world, busy, job) = released_behind_another(600);
    world.wipe_master();
    reconnect(&mut world, 0);
    assert!(world.job(job).all_flags().has(Flags::ADOPTED));
    world.kill_master();
    world.master_off -= 3_600_000;
    world.start_master();
    // The slave's own reading of the master's clock is lost with the boot.
    world.reboot(0);
    reconnect(&mut world, 0);
    world.command(busy, JobCommand::Resolve(End::Failed));
    world.pass(1_000);
    has_lapsed(&world, job, "adopted");
}

#[test]
fn a_release_keeps_what_is_left_of_it_when_a_masters_clock_is_set_back() {
    let (mut world, job) = released_for_five_seconds();
    world.pass(3_000);
    set_masters_clock(&mut world, -3_600_000);
    world.pass(1_000);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.begun(job)), (State::Running, 1));
}

#[test]
fn a_release_is_no_matter_any_more_once_its_job_works() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = placed(&mut world, much_later);
    release(&mut world, job, 3_600);
    world.settle();
    let before = world.job(job);
    assert_eq!(before.state, State::Running);
    set_masters_clock(&mut world, -3_600_000);
    let after = world.job(job);
    assert_eq!((after.generation, after.start), (before.generation, before.start));
}

#[test]
fn a_release_is_for_one_attempt() {
    for set_back in [0, 3_600_000] {
        let mut world = World::new(1);
        (world.boxes[0].machine.fails, world.boxes[0].machine.length_ms) = (true, 1_200_000);
        let job = placed(&mut world, |order| {
            order.start.gate = Gate::Held;
            order.retry = Retry { max_attempts: 2, on: [RetryOn::Failed].into() };
        });
        release(&mut world, job, 600);
        world.pass(700_000);
        assert_eq!(world.state(job), State::Running);
        world.set_masters_clock(-set_back);
        world.pass(700_000);
        assert_eq!(
            (world.job(job).last_attempt, world.begun(job)),
            (Attempt(1), 1),
            "set back by {set_back}"
        );
    }
}

#[test]
fn a_masters_clock_that_is_set_forwards_never_makes_a_release_longer() {
    // A box that stood still for an hour looks the same, and then the release has lapsed.
    for (mut world, job) in [released_for_five_seconds(), {
        let (world, _, job) = released_behind_another(5);
        (world, job)
    }] {
        world.pass(1_000);
        set_masters_clock(&mut world, 3_600_000);
        reconnect(&mut world, 0);
        finish(&mut world);
        world.pass(2_000);
        has_lapsed(&world, job, "an hour ahead");
    }
}

#[test]
fn ids_never_fall_below_the_newest_that_is_stored() {
    const HOUR_MS: u64 = 3_600_000;
    let now = 1_800_000_000_000;
    let mut ids = NewestId::default();
    let mut made: Vec<[u8; 16]> = Vec::new();
    for random in 0..60 {
        made.extend(ids.next(now + HOUR_MS, u128::MAX / 61 * random, 3));
    }
    // The clock is corrected, and the master restarts: it reads the newest stored id.
    let mut ids = NewestId::default();
    made.iter().for_each(|id| ids.note(*id));
    for random in [u128::MAX, 0, 0] {
        made.extend(ids.next(now, random, 2));
    }
    made.extend(ids.next(now + 2 * HOUR_MS, 0, 1));
    assert!(made.is_sorted_by(|a, b| a < b), "queue and pages are in the order of placing");
    let at = |id: [u8; 16]| u64::try_from(u128::from_be_bytes(id) >> 80).unwrap();
    assert_eq!(at(made[0]), now + HOUR_MS, "an id bears the time at which it was made");
    assert_eq!(at(*made.last().unwrap()), now + 2 * HOUR_MS, "as soon as the clock has caught up");
}

#[test]
fn no_peer_uses_up_the_ids_that_come_after_it() {
    let now = 1_800_000_000_000;
    let mut ids = NewestId::default();
    for made_up in [[0xff; 16], [0x80; 16]] {
        ids.note(made_up);
        let made: Vec<_> = ids.next(now, u128::MAX, 1000).collect();
        assert!(made.is_sorted_by(|a, b| a < b));
        assert!(
            made.iter().all(|id| u128::from_be_bytes(*id) >> 80 == u128::from(now)),
            "not counted on from it"
        );
    }
    let mut last = [0xff; 16];
    last[0] = 0x7f;
    ids.note(last);
    let made: Vec<_> = ids.next(now, u128::MAX, 1000).collect();
    assert!(made.is_sorted_by(|a, b| a < b) && made[0] > last);
}

/// A deferred job at a box that loses its power while it can't reach its master, and is back a minute before the job's
/// time.
fn power_cut(trust: TrustClock, kept_before: bool, kept_after: bool) -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].settings.trust_clock = trust;
    world.boxes[0].synchronized = kept_before;
    restart_agent(&mut world);
    reconnect(&mut world, 0);
    let job = deferred(&mut world, 120_000, |_| {});
    world.cut(0);
    world.pass(60_000);
    world.boxes[0].synchronized = kept_after;
    world.reboot(0);
    (world, job)
}

#[test]
fn a_clock_that_a_time_service_keeps_starts_deferred_work_after_a_power_cut() {
    let (mut world, job) = power_cut(TrustClock::Synchronized, true, false);
    assert_eq!(
        kept(&world, job).report.waiting_for,
        Some(WaitingFor::Clock),
        "the service has not set it yet"
    );
    let now = world.slave_now(0);
    let state = agent(&world);
    let next = slave::next_deadline(state, now);
    assert_eq!(next, Some((now.boot_ms + CLOCK_PATIENCE.0, Why::Clock)), "it looks again by itself");
    let mut untimed = state.clone();
    untimed.jobs.get_mut(&job).unwrap().start.not_before = None;
    assert_eq!(slave::next_deadline(&untimed, now), None, "only if that makes something start");
    world.boxes[0].synchronized = true;
    world.pass(6_000);
    assert_eq!(kept(&world, job).report.waiting_for, Some(WaitingFor::Time));
    world.pass(53_000);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
    world.pass(2_000);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

#[test]
fn a_time_service_that_is_late_by_less_than_the_tolerance_makes_nobody_release_anything() {
    let (mut world, job) = power_cut(TrustClock::Synchronized, true, false);
    world.pass(60_000 + 59_000);
    world.boxes[0].synchronized = true;
    world.pass(1_000);
    let report = &kept(&world, job).report;
    assert_eq!((report.state, report.flags.has(Flags::MISSED_START)), (State::Running, false));
}

#[test]
fn a_clock_counts_only_if_the_settings_trust_it_and_what_it_was_compared_with_was_right() {
    for (trust, before, after, counts) in [
        (TrustClock::Never, true, true, false),
        (TrustClock::Always, false, false, true),
        (TrustClock::Synchronized, true, true, true),
        (TrustClock::Synchronized, true, false, false),
        // The time service has set the clock since then, and nobody knows by how much.
        (TrustClock::Synchronized, false, true, false),
        (TrustClock::Synchronized, false, false, false),
    ] {
        let (world, job) = power_cut(trust, before, after);
        let case = format!("{trust:?}, kept before {before}, after {after}");
        let expected = if counts { WaitingFor::Time } else { WaitingFor::Clock };
        assert_eq!(kept(&world, job).report.waiting_for, Some(expected), "{case}");
        let now = world.slave_now(0);
        let state = agent(&world);
        let known = counts.then_some((world.now(), ClockSource::Wall));
        assert_eq!(slave::master_clock(state, now), known, "{case}");
        let wakes_for = slave::next_deadline(state, now).map(|(_, why)| why);
        let is_awaited = (trust, before, after) == (TrustClock::Synchronized, true, false);
        let wakes = if counts { Some(Why::NotBefore) } else { is_awaited.then_some(Why::Clock) };
        assert_eq!(wakes_for, wakes, "{case}");
    }
}

#[test]
fn a_box_whose_clock_is_set_after_the_handshake_compares_it_again() {
    let mut world = World::new(1);
    // A box without a battery: its clock was years behind at the handshake, and a time service sets it later.
    world.boxes[0].settings.trust_clock = TrustClock::Synchronized;
    world.boxes[0].wall_off = -1_000_000_000_000;
    restart_agent(&mut world);
    reconnect(&mut world, 0);
    let job = deferred(&mut world, 120_000, |_| {});
    let mut now = world.slave_now(0);
    (now.wall, now.boot_ms) = (now.wall.after(Millis(500)), now.boot_ms + 500);
    let step = slave::step(agent(&world).clone(), now, slave::Event::TimePassed);
    assert_eq!(step.persist, [], "nothing has set the clock");
    world.boxes[0].wall_off = 0;
    world.boxes[0].synchronized = true;
    world.pass(1_000);
    world.cut(0);
    world.pass(59_000);
    world.reboot(0);
    assert_eq!(kept(&world, job).report.waiting_for, Some(WaitingFor::Time));
    world.pass(59_000);
    assert_eq!(world.on_slave(0, job), Some(State::Accepted), "not early");
    world.pass(2_000);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
}

//! The rules at their edges: the last moment, the last place in a list, the one more that is too many. Mutants of the
//! rules (`harness mutants`) show that these can fail.
#![cfg(test)]

use std::collections::BTreeMap;

use reloop_protocol::id::{BootId, JobId, MasterId, OrderId, Session, SlaveKey, StoreId, WishRev};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{
    self, Answer, Enrolled, Enrollment, IdempotencyKey, JobCommand, MAX_PENDING, Order, RECEIPTS, RECENT_KEYS,
    RequestId, SlaveCommand, Token,
};
use reloop_protocol::message::{
    Activity, Attention, Bond, Conduct, Hello, MachineReport, Mode, PROTOCOL, ReasonCode,
};
use reloop_protocol::slave::{self, AfterFailure, Damage, Fact, LinkId, Local, PROBE_PATIENCE, Release, Why};
use reloop_protocol::spec::{CancelMode, Gate};
use reloop_protocol::time::{Millis, Time};
use reloop_tests::world::{Machine, World};

fn later(world: &World, ms: i64) -> Option<Time> {
    Some(Time(world.now().0 + ms))
}

fn place_as(world: &mut World, change: impl FnOnce(&mut Order)) -> JobId {
    let mut order = world.order("mill");
    change(&mut order);
    let job = world.place(order);
    world.settle();
    job
}

/// In how many milliseconds the slave has something to do, and what.
fn due(world: &World) -> Option<(u64, Why)> {
    let now = world.slave_now(0);
    let next = slave::next_deadline(world.boxes[0].state.as_ref().unwrap(), now);
    next.map(|(at, why)| (at - now.boot_ms, why))
}

fn machine(world: &World) -> MachineReport {
    slave::machine_report(world.boxes[0].state.as_ref().unwrap())
}

#[test]
fn a_slave_wakes_for_a_start_when_its_time_comes_and_not_before() {
    let mut world = World::new(1);
    assert_eq!(due(&world), None);
    let at = later(&world, 60_000);
    let job = place_as(&mut world, |order| order.start.not_before = at);
    assert_eq!(due(&world), Some((60_000, Why::NotBefore)));
    world.pass_some(59_999);
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    assert_eq!(due(&world), Some((1, Why::NotBefore)));
    world.pass_some(1);
    world.settle();
    assert_eq!(world.state(job), State::Running);
    assert_eq!(due(&world), None, "what runs starts no more");
}

#[test]
fn a_slave_wakes_for_the_first_of_several_moments() {
    let mut world = World::new(1);
    for (at, window) in [(50_000, None), (40_000, None), (45_000, Some(90_000))] {
        let (at, window) = (later(&world, at), window.and_then(|ms| later(&world, ms)));
        place_as(&mut world, |order| (order.start.not_before, order.start.deadline) = (at, window));
    }
    assert_eq!(due(&world), Some((40_000, Why::NotBefore)));
}

#[test]
fn a_window_is_open_in_its_last_millisecond_at_the_slave() {
    for (wait, state) in [(30_000, State::Running), (30_001, State::Expired)] {
        let mut world = World::new(1);
        world.boxes[0].settings.release = Release::Auto;
        let close = later(&world, 30_000);
        let job = place_as(&mut world, |order| {
            order.start.deadline = close;
            order.start.gate = Gate::Held;
        });
        assert_eq!(due(&world), Some((30_001, Why::Deadline)));
        world.pass_some(wait);
        world.command(job, JobCommand::Release { valid: Millis(1_000) });
        world.settle();
        assert_eq!(world.state(job), state, "after {wait} ms");
    }
}

#[test]
fn a_slave_wakes_when_a_release_lapses() {
    let mut world = World::new(1);
    world.local(0, Local::Lock(true));
    world.settle();
    world.local(0, Local::Lock(false));
    // Another job is in the machine: the release waits, and lapses.
    place_as(&mut world, |_| {});
    let job = place_as(&mut world, |order| order.start.gate = Gate::Held);
    world.command(job, JobCommand::Release { valid: Millis(5_000) });
    world.settle();
    assert_eq!(world.on_slave(0, job), Some(State::Accepted));
    assert_eq!(due(&world), Some((5_001, Why::Release)));
    world.pass_some(5_000);
    world.settle();
    assert_eq!(due(&world), Some((1, Why::Release)));
    world.pass_some(1);
    world.settle();
    assert_eq!(due(&world), None);
}

#[test]
fn a_slave_wakes_once_for_work_that_runs_too_long() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |order| order.spec.max_runtime = Some(Millis(7_000)));
    assert_eq!(world.state(job), State::Running);
    assert_eq!(due(&world), Some((7_000, Why::MaxRuntime)));
    world.pass_some(6_999);
    world.settle();
    let flagged = |world: &World| world.job(job).report.unwrap().flags.names().any(|name| name == "overdue");
    assert!(!flagged(&world));
    world.pass_some(1);
    world.settle();
    assert!(flagged(&world));
    assert_eq!(due(&world), None);
}

#[test]
fn a_machine_that_does_not_say_what_it_did_is_waited_for_only_so_long() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    world.kill_agent(0);
    world.boxes[0].machine.silent = true;
    world.start_agent(0, true);
    assert_eq!(due(&world), Some((PROBE_PATIENCE.0, Why::Probe)));
    assert_eq!(machine(&world).activity, Activity::Unknown);
    world.pass_some(i64::try_from(PROBE_PATIENCE.0).unwrap() - 1);
    assert_eq!(world.on_slave(0, job), Some(State::Running));
    world.pass_some(1);
    assert_eq!(world.on_slave(0, job), Some(State::Uncertain));
    assert_eq!(due(&world), None);
}

#[test]
fn every_waking_has_its_words() {
    let whys = [Why::NotBefore, Why::Deadline, Why::Release, Why::MaxRuntime, Why::Probe];
    let words: std::collections::BTreeSet<_> = whys.iter().map(|why| why.text()).collect();
    assert_eq!(words.len(), whys.len());
    assert!(words.iter().all(|text| text.contains(' ')), "{words:?}");
}

#[test]
fn a_master_wakes_when_a_queued_jobs_window_closes() {
    let mut world = World::new(0);
    let next = |world: &World| master::next_deadline(world.master.as_ref().unwrap());
    assert_eq!(next(&world), None);
    let (first, second) = (later(&world, 30_000), later(&world, 50_000));
    place_as(&mut world, |order| order.start.deadline = second);
    let job = place_as(&mut world, |order| order.start.deadline = first);
    assert_eq!(next(&world), later(&world, 30_001));
    world.pass_some(30_000);
    assert_eq!(world.state(job), State::Queued);
    assert_eq!(next(&world), later(&world, 1));
    world.pass_some(1);
    assert_eq!(world.state(job), State::Expired);
    assert_eq!(next(&world), later(&world, 19_999 + 1));
}

fn hello(key: u8, name: &str) -> Hello {
    Hello {
        protocol: PROTOCOL,
        key: SlaveKey([key; 32]),
        name: name.to_owned(),
        agent: "test".to_owned(),
        bond: None,
        token: None,
        store: StoreId([key; 16]),
        boot: BootId([key; 16]),
        session: Session(1),
        clock: Time(0),
        machine: MachineReport {
            activity: Activity::Ready,
            unloading: None,
            attention: None,
            uncertain: None,
            local_lock: false,
            conduct: Conduct { rev: WishRev(0), mode: Mode::Production },
        },
        programs: vec!["mill".to_owned()],
        labels: BTreeMap::new(),
        capacity: 1,
        rows: vec![],
        ring: vec![],
    }
}

/// A slave introduces itself; whether it is enrolled then, and the text of what the master closed with.
fn introduce(world: &mut World, link: u64, hello: Hello, token: Option<[u8; 32]>) -> (Option<Enrolled>, String) {
    let key = hello.key;
    let link = LinkId(1_000_000 + link);
    let now = world.now();
    world.master_event(master::Event::LinkOpened { link, nonce: [0; 32] });
    let event = master::Event::HelloReceived { link, hello: Box::new(hello), token };
    let step = master::step(world.master.clone().unwrap(), now, event.clone());
    let text = step.effects.iter().find_map(|effect| match effect {
        master::Effect::Close { text, .. } => Some(text.clone()),
        _ => None,
    });
    world.master_event(event);
    let desk = world.master.as_ref().unwrap().desks.get(&key);
    (desk.map(|desk| desk.enrolled), text.unwrap_or_default())
}

fn with_token(uses_left: u32, lives_ms: i64, name: Option<&str>) -> World {
    let mut world = World::new(0);
    world.master.as_mut().unwrap().settings.enrollment = Enrollment::Token;
    let token = Token { expires_at: later(&world, lives_ms).unwrap(), uses_left, name: name.map(str::to_owned) };
    world.master_event(master::Event::TokenMade { request: RequestId(77), hash: [7; 32], token });
    world
}

#[test]
fn a_token_enrols_as_often_as_it_says_and_no_oftener() {
    let mut world = with_token(2, 1_000, None);
    assert_eq!(introduce(&mut world, 1, hello(1, "a"), Some([7; 32])).0, Some(Enrolled::Yes));
    assert_eq!(introduce(&mut world, 2, hello(2, "b"), Some([7; 32])).0, Some(Enrolled::Yes));
    let (third, text) = introduce(&mut world, 3, hello(3, "c"), Some([7; 32]));
    assert_eq!(third, None);
    assert!(text.contains("not known, or spent"), "{text}");
    assert!(world.master.unwrap().tokens.is_empty());
}

#[test]
fn a_token_enrols_until_its_last_millisecond() {
    for (wait, enrolled) in [(1_000, Some(Enrolled::Yes)), (1_001, None)] {
        let mut world = with_token(1, 1_000, None);
        world.pass_some(wait);
        assert_eq!(introduce(&mut world, 1, hello(1, "a"), Some([7; 32])).0, enrolled, "after {wait} ms");
    }
}

#[test]
fn a_token_for_a_name_enrols_only_that_name_and_is_not_spent_by_another() {
    let mut world = with_token(1, 1_000, Some("mill"));
    let (other, text) = introduce(&mut world, 1, hello(1, "lathe"), Some([7; 32]));
    assert_eq!(other, None);
    assert!(text.contains("another name"), "{text}");
    assert_eq!(introduce(&mut world, 2, hello(2, "mill"), Some([7; 32])).0, Some(Enrolled::Yes));
    let (none, text) = introduce(&mut world, 3, hello(3, "saw"), None);
    assert_eq!(none, None);
    assert!(text.contains("needs an enrolment token"), "{text}");
}

#[test]
fn who_waits_for_approval_is_listed_once_and_only_so_many_are() {
    let mut world = World::new(0);
    world.master.as_mut().unwrap().settings.enrollment = Enrollment::Approve;
    let most = u8::try_from(MAX_PENDING - 1).unwrap();
    for number in 0..=most {
        let caller = hello(number, &format!("s{number}"));
        assert_eq!(introduce(&mut world, number.into(), caller, None).0, Some(Enrolled::Pending));
    }
    let mut one_more = hello(0, "one-more");
    one_more.key = SlaveKey([[1; 16], [2; 16]].concat().try_into().unwrap());
    assert_eq!(introduce(&mut world, 999, one_more, None).0, None);
    // Who is there already is not listed anew.
    let before = world.master.clone().unwrap().desks;
    introduce(&mut world, 1_000, hello(3, "s3"), None);
    assert_eq!(world.master.unwrap().desks, before);
}

#[test]
fn nobody_is_listed_where_a_person_does_not_approve() {
    let mut world = with_token(1, 1_000, None);
    introduce(&mut world, 1, hello(1, "a"), None);
    assert!(world.master.unwrap().desks.is_empty());
}

#[test]
fn who_is_bound_elsewhere_and_not_enrolled_is_told_whose_it_is() {
    let mut world = with_token(1, 1_000, None);
    let own = world.master.as_ref().unwrap().node;
    for (master, elsewhere) in [(MasterId([0xee; 16]), true), (own.id, false)] {
        let mut caller = hello(1, "a");
        caller.bond = Some(Bond { master, epoch: own.epoch, commit: own.commit });
        let (_, text) = introduce(&mut world, 1, caller, None);
        assert_eq!(text.contains("it belongs to"), elsewhere, "{text}");
    }
}

#[test]
fn the_book_of_a_job_that_is_tried_again_and_again_stays_small_and_keeps_its_beginning() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let job = place_as(&mut world, |_| {});
    let mut lengths = vec![];
    for _ in 0..40 {
        world.pass(12_000);
        assert_eq!(world.state(job), State::Failed);
        world.command(job, JobCommand::Retry);
        world.settle();
        let job = world.job(job);
        lengths.push((job.handed.len(), job.earlier.len(), job.events.len()));
    }
    let kept = world.job(job);
    assert_eq!(lengths.iter().map(|(handed, ..)| *handed).max(), Some(16));
    assert_eq!(lengths.iter().map(|(_, earlier, _)| *earlier).max(), Some(16));
    assert_eq!(lengths.iter().map(|(_, _, events)| *events).max(), Some(64));
    assert_eq!((kept.handed.len(), kept.earlier.len()), (16, 16));
    assert_eq!(kept.handed.back().map(|(attempt, _)| *attempt), Some(kept.attempt));
    assert_eq!(kept.events[0].state, State::Queued, "how it came here is not forgotten");
    assert!(kept.events[1].attempt.0 > 20, "the oldest of the others go first: {:?}", kept.events[1]);
}

#[test]
fn an_event_carries_the_slaves_own_time_where_the_slave_has_one() {
    let mut world = World::new(1);
    world.cut(0);
    let start = world.now();
    world.plug(0);
    world.settle();
    let job = place_as(&mut world, |_| {});
    world.cut(0);
    world.pass(30_000);
    world.plug(0);
    world.settle();
    let kept = world.job(job);
    let seen = |state| kept.events.iter().find(|event| event.state == state).map(|event| (event.at, event.observed_at));
    let after = |ms| Time(start.0 + ms);
    assert_eq!(seen(State::Assigned), Some((start, None)));
    assert_eq!(seen(State::Starting).map(|(_, observed)| observed), Some(None));
    assert_eq!(seen(State::Running), Some((start, Some(start))));
    assert_eq!(seen(State::Succeeded), Some((after(30_000), Some(after(10_000)))));
    let at = later(&world, 60_000);
    let waits = place_as(&mut world, |order| order.start.not_before = at);
    let events = world.job(waits).events;
    let accepted = events.iter().find(|event| event.state == State::Accepted);
    assert_eq!(accepted.map(|event| event.observed_at), Some(Some(world.now())));
}

#[test]
fn only_the_newest_idempotency_keys_are_known_by_heart() {
    let mut world = World::new(0);
    let key = |number: usize| IdempotencyKey { key: format!("k{number}"), fingerprint: [1; 32] };
    let mut place = |number: usize| {
        let order = world.order("mill");
        let id = order.id;
        let (order, key, request) = (Box::new(order), Some(key(number)), RequestId(1_000_000 + number as u64));
        let state = world.master.take().unwrap();
        let now = world.now();
        let step = master::step(state, now, master::Event::OrderPlaced { request, order, key, known: None });
        world.master = Some(step.state);
        let placed = step.effects.iter().find_map(|effect| match effect {
            master::Effect::Answer { answer: Answer::Placed { order, .. }, .. } => Some(*order),
            _ => None,
        });
        (placed, id)
    };
    let placed: Vec<(Option<OrderId>, OrderId)> = (0..RECENT_KEYS).map(&mut place).collect();
    assert!(placed.iter().all(|(placed, id)| *placed == Some(*id)));
    assert_eq!(place(0).0, Some(placed[0].1), "as many are known as there is room for");
    let (new, id) = place(RECENT_KEYS);
    assert_eq!(new, Some(id));
    assert_eq!(place(1).0, Some(placed[1].1), "the second is known yet");
    let (again, id) = place(0);
    assert_eq!(again, Some(id), "the oldest had to go");
}

#[test]
fn only_so_many_receipts_of_a_slave_are_kept() {
    let mut world = World::new(1);
    for _ in 0..RECEIPTS + 5 {
        world.cut(0);
        world.plug(0);
        world.settle();
    }
    let mut numbers: Vec<_> = world.master_disk.receipts.iter().map(|receipt| receipt.number).collect();
    assert_eq!(numbers.len(), RECEIPTS as usize + 6);
    assert_eq!(numbers.split_off(RECEIPTS as usize), (1..7).collect::<Vec<_>>(), "the oldest make room");
    assert_eq!(numbers, (1..RECEIPTS).chain([0]).collect::<Vec<_>>());
}

#[test]
fn a_machine_says_what_it_is_doing() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.boxes[0].settings.release = Release::Ack;
    assert_eq!(machine(&world).activity, Activity::Ready);
    let job = place_as(&mut world, |_| {});
    assert_eq!(machine(&world).activity, Activity::Running);
    world.command(job, JobCommand::Pause);
    world.settle();
    assert_eq!((world.state(job), machine(&world).activity), (State::Paused, Activity::Paused));
    world.command(job, JobCommand::Cancel(CancelMode::Now));
    world.settle();
    world.pass(1_000);
    assert_eq!(world.state(job), State::Canceled);
    world.local(0, Local::Lock(true));
    assert_eq!(machine(&world).activity, Activity::Idle);
    world.local(0, Local::Lock(false));
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    assert_eq!(machine(&world).activity, Activity::Idle);
}

#[test]
fn a_machine_that_failed_at_its_work_says_so_until_somebody_has_looked() {
    let mut world = World::bare();
    let settings = slave::Settings { after_failure: AfterFailure::Hold, ..world.settings("s0") };
    world.start_master();
    world.add_box(settings);
    world.boxes[0].machine.fails = true;
    let job = place_as(&mut world, |_| {});
    assert_eq!(world.state(job), State::Running);
    world.pass(12_000);
    assert_eq!((world.state(job), machine(&world).activity), (State::Failed, Activity::Fault));
    assert_eq!(machine(&world).attention, Some(Attention::Fault));
    world.local(0, Local::Clear);
    assert_eq!(machine(&world).activity, Activity::Ready);
}

#[test]
fn a_job_on_its_way_into_the_machine_is_being_prepared() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let job = world.place(order);
    while world.on_slave(0, job) != Some(State::Starting) {
        assert!(world.pump());
    }
    assert_eq!(machine(&world).activity, Activity::Preparing);
}

#[test]
fn only_the_loss_of_everything_is_total() {
    assert!(Damage { node: true, jobs: 0 }.is_total());
    assert!(!Damage { node: false, jobs: 3 }.is_total());
}

#[test]
fn the_progress_of_a_machine_is_at_most_all_of_it_and_its_last_word_stays() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |_| {});
    let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
    let mut tell = |permille, note: Option<&str>| {
        let fact = Fact::Progressed { permille, note: note.map(str::to_owned) };
        world.slave_event(0, slave::Event::Machine { work, fact });
        let report = &world.boxes[0].state.as_ref().unwrap().jobs[&job].report;
        (report.progress, report.note.clone())
    };
    assert_eq!(tell(Some(5_000), Some("roughing")), (Some(1_000), Some("roughing".to_owned())));
    assert_eq!(tell(Some(300), None), (Some(300), Some("roughing".to_owned())));
    assert_eq!(tell(None, Some("done soon")), (Some(300), Some("done soon".to_owned())));
}

#[test]
fn the_reason_of_a_failure_is_the_machines_word() {
    let mut world = World::new(1);
    world.boxes[0].machine.fails = true;
    let failed = place_as(&mut world, |_| {});
    world.pass(12_000);
    let report = world.job(failed).report.unwrap();
    assert_eq!(report.reason.as_ref().map(|reason| reason.code), Some(ReasonCode::MachineFault));
    assert_eq!(report.outcome.unwrap().text, report.reason.unwrap().text);
    world.boxes[0].machine.fails = false;
    let done = place_as(&mut world, |_| {});
    world.pass(12_000);
    let report = world.job(done).report.unwrap();
    assert_eq!((report.state, report.reason), (State::Succeeded, None));
    assert_eq!(world.command(done, JobCommand::Resolve(End::Failed)).map(|answer| matches!(answer, Answer::Refused(..))), Some(true));
}

//! The rules at their edges: the last moment, the last place in a list, the one more that is too many. Mutants of the
//! rules (`harness mutants`) show that these can fail.
#![cfg(test)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use reloop_protocol::handshake::{FromSlave, from_slave};
use reloop_protocol::id::{
    Attempt, BootId, Commit, Epoch, JobId, MasterId, OrderId, ReportSeq, Run, Session, SlaveKey, StoreId,
    WishRev,
};
use reloop_protocol::job::{End, OnInterrupt, State};
use reloop_protocol::limits::ROWS;
use reloop_protocol::master::{
    self, Answer, Enrolled, Enrollment, IdempotencyKey, JobCommand, MAX_PENDING, Order, RECEIPTS,
    RECENT_KEYS, RequestId, Retry, RetryOn, SlaveCommand, Token, WhyNot,
};
use reloop_protocol::message::{
    Activity, Attention, Bond, Challenge, CloseCode, Conduct, Declined, Flags, Hello, MachineReport, Message,
    Mode, Outcome, PROTOCOL, Reason, ReasonCode, Record, Refuse, Report, Row, Ruling, Settled, Tell,
    WaitingFor, Welcome,
};
use reloop_protocol::reconcile::{Verdict, Wish};
use reloop_protocol::slave::{
    self, AfterFailure, Damage, Ended, Fact, LinkId, Local, PROBE_PATIENCE, Release, Why,
};
use reloop_protocol::spec::{CancelMode, Desired, Gate, Late, SPEC_BYTES, StartRule, Want};
use reloop_protocol::time::{Millis, Time};
use reloop_protocol::wire::Frame;
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
fn introduce(
    world: &mut World,
    link: u64,
    hello: Hello,
    token: Option<[u8; 32]>,
) -> (Option<Enrolled>, String) {
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
    let token =
        Token { expires_at: later(&world, lives_ms).unwrap(), uses_left, name: name.map(str::to_owned) };
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
    let seen = |state| {
        kept.events.iter().find(|event| event.state == state).map(|event| (event.at, event.observed_at))
    };
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
        let (order, key, request) =
            (Box::new(order), Some(key(number)), RequestId(1_000_000 + number as u64));
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
    assert_eq!(
        world
            .command(done, JobCommand::Resolve(End::Failed))
            .map(|answer| matches!(answer, Answer::Refused(..))),
        Some(true)
    );
}

/// A master and nobody else: what it does at each event, without a world that obeys.
struct Seat {
    state: master::Master,
    now: Time,
    key: SlaveKey,
}

const OLDER: LinkId = LinkId(500);
const NEWER: LinkId = LinkId(501);

impl Seat {
    /// Of a world with one slave, whose link has gone.
    fn of(world: &mut World) -> Self {
        world.cut(0);
        world.settle();
        let (state, now) = (world.master.clone().unwrap(), world.now());
        Self { state, now, key: world.boxes[0].settings.key }
    }

    fn step(&mut self, event: master::Event) -> Vec<master::Effect> {
        let step = master::step(self.state.clone(), self.now, event);
        self.state = step.state;
        step.effects
    }

    /// What the slave would say of itself now.
    fn hello(&self) -> Hello {
        let desk = &self.state.desks[&self.key];
        Hello {
            key: self.key,
            name: desk.name.clone(),
            store: desk.store.unwrap(),
            boot: desk.boot.unwrap(),
            session: Session(desk.session.0 + 1),
            capacity: 8,
            ..hello(1, "")
        }
    }

    fn say_hello(&mut self, link: LinkId, hello: Hello) -> Vec<master::Effect> {
        self.step(master::Event::LinkOpened { link, nonce: [0; 32] });
        self.step(master::Event::HelloReceived { link, hello: Box::new(hello), token: None })
    }

    fn settle(&mut self, link: LinkId, session: Session) -> Vec<master::Effect> {
        let machine = hello(1, "").machine;
        let settled = Settled { session, reports: vec![], records: vec![], declined: vec![], machine };
        self.step(master::Event::Received { link, message: Message::Settled(settled) })
    }

    fn live(&self) -> Option<LinkId> {
        self.state.desks[&self.key].live()
    }
}

fn closed(effects: &[master::Effect], link: LinkId) -> Option<CloseCode> {
    effects.iter().find_map(|effect| match effect {
        master::Effect::Close { link: closed, code, .. } if *closed == link => Some(*code),
        _ => None,
    })
}

fn welcomed(effects: &[master::Effect], link: LinkId) -> Option<&reloop_protocol::message::Welcome> {
    effects.iter().find_map(|effect| match effect {
        master::Effect::Send { link: to, message: Message::Welcome(welcome) } if *to == link => Some(welcome),
        _ => None,
    })
}

fn is_probed(effects: &[master::Effect], link: LinkId) -> bool {
    effects.iter().any(|effect| matches!(effect, master::Effect::Probe { link: asked } if *asked == link))
}

#[test]
fn the_same_box_takes_over_its_link_and_another_box_has_to_wait_for_the_first() {
    for in_handshake in [false, true] {
        for (other_store, other_boot) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut seat = Seat::of(&mut World::new(1));
            let first = seat.hello();
            seat.say_hello(OLDER, first.clone());
            if !in_handshake {
                seat.settle(OLDER, first.session);
                assert_eq!(seat.live(), Some(OLDER));
            }
            let mut second = Hello { session: Session(first.session.0 + 1), ..first.clone() };
            if other_store {
                second.store = StoreId([9; 16]);
            }
            if other_boot {
                second.boot = BootId([9; 16]);
            }
            let effects = seat.say_hello(NEWER, second);
            let same_box = !other_store && !other_boot;
            let case = (in_handshake, other_store, other_boot);
            assert_eq!(closed(&effects, OLDER), same_box.then_some(CloseCode::Superseded), "{case:?}");
            assert_eq!(welcomed(&effects, NEWER).is_some(), same_box, "{case:?}");
            assert_eq!(is_probed(&effects, OLDER), !same_box, "{case:?}");
        }
    }
}

#[test]
fn of_two_boxes_the_one_whose_link_ends_first_has_lost() {
    let asking = || {
        let mut seat = Seat::of(&mut World::new(1));
        let first = seat.hello();
        seat.say_hello(OLDER, first.clone());
        seat.settle(OLDER, first.session);
        let second = Hello { boot: BootId([9; 16]), session: Session(first.session.0 + 1), ..first };
        assert!(is_probed(&seat.say_hello(NEWER, second), OLDER));
        seat
    };
    let mut seat = asking();
    let last_heard = seat.now;
    let effects = seat.step(master::Event::LinkClosed { link: NEWER, last_heard });
    assert!(welcomed(&effects, NEWER).is_none());
    assert_eq!(seat.live(), Some(OLDER), "who was there stays");
    let mut seat = asking();
    let effects = seat.step(master::Event::LinkClosed { link: OLDER, last_heard });
    assert!(welcomed(&effects, NEWER).is_some(), "the newcomer is heard");
    // A third has to come again later.
    let mut seat = asking();
    let third = Hello { boot: BootId([8; 16]), ..seat.hello() };
    assert_eq!(closed(&seat.say_hello(LinkId(502), third), LinkId(502)), Some(CloseCode::TryLater));
}

#[test]
fn a_slave_says_nothing_before_it_has_settled_and_settles_once() {
    let mut seat = Seat::of(&mut World::new(1));
    let first = seat.hello();
    let machine = first.machine.clone();
    let answer = reloop_protocol::message::Answer { id: 1, answer: reloop_protocol::message::Reply::Done };
    for message in [Message::Machine(machine), Message::Answer(answer)] {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        seat.say_hello(OLDER, first.clone());
        let effects = seat.step(master::Event::Received { link: OLDER, message: message.clone() });
        assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol), "{message:?}");
    }
    seat.say_hello(OLDER, first.clone());
    assert_eq!(closed(&seat.settle(OLDER, first.session), OLDER), None);
    assert_eq!(closed(&seat.settle(OLDER, first.session), OLDER), Some(CloseCode::Protocol));
}

#[test]
fn a_settled_of_another_session_is_no_part_of_this_handshake() {
    let mut seat = Seat::of(&mut World::new(1));
    let first = seat.hello();
    seat.say_hello(OLDER, first.clone());
    let effects = seat.settle(OLDER, Session(first.session.0 + 1));
    assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol));
    assert_eq!(seat.live(), None);
}

#[test]
fn a_word_of_a_job_before_the_handshake_is_over_ends_the_link() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let report = world.job(job).report.unwrap();
    let seat = Seat::of(&mut world);
    let first = seat.hello();
    let declined = Declined {
        job,
        attempt: report.attempt,
        rev: report.rev,
        reason: Reason::new(ReasonCode::AtCapacity, "full"),
        for_good: false,
    };
    for message in [Message::Report(report), Message::Declined(declined)] {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        seat.say_hello(OLDER, first.clone());
        let effects = seat.step(master::Event::Received { link: OLDER, message });
        assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol));
    }
}

#[test]
fn offers_that_do_not_fit_into_one_message_come_when_the_link_is_live() {
    let mut world = World::new(1);
    world.swallow(0);
    let mut jobs = vec![];
    for _ in 0..4 {
        let mut order = world.order("mill");
        order.slave = Some("s0".to_owned());
        order.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(32_000))]);
        order.start.gate = Gate::Held;
        jobs.push(world.place(order));
    }
    for job in &jobs {
        assert_eq!(world.state(*job), State::Assigned);
    }
    let size = world.job(jobs[0]).spec.size();
    // Those that are kept from being too many for it by what the message may hold, and not by the slave's room.
    let mut seat = Seat::of(&mut world);
    for (number, job) in seat.state.clone().book.jobs.values().map(Cow::into_owned).enumerate() {
        let id = JobId([100 + number as u8; 16]);
        let mut copy = master::Job { id, ..job };
        copy.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(32_000))]);
        seat.step(master::Event::Recalled(vec![copy]));
    }
    let first = seat.hello();
    let effects = seat.say_hello(OLDER, first);
    let welcome = welcomed(&effects, OLDER).unwrap();
    assert_eq!(welcome.rulings.len(), 8);
    let with_work = welcome.rulings.iter().filter(|ruling| ruling.want.is_some()).count();
    assert_eq!(with_work, 128 * 1024 / size, "{size} bytes each");
}

#[test]
fn only_the_questions_on_the_link_that_ended_are_answered_by_its_end() {
    let mut world = World::new(2);
    let mut asked = vec![];
    for name in ["s0", "s1"] {
        let job = place_as(&mut world, |order| order.slave = Some(name.to_owned()));
        assert_eq!(world.state(job), State::Running);
        let request = RequestId(5_000_000 + asked.len() as u64);
        world.master_event(master::Event::LogAsked { request, job, offset: None, limit: 100 });
        asked.push(request);
    }
    assert!(asked.iter().all(|request| !world.answers.contains_key(request)));
    let link = world.master.as_ref().unwrap().desks[&world.boxes[0].settings.key].live().unwrap();
    let last_heard = world.now();
    world.master_event(master::Event::LinkClosed { link, last_heard });
    assert!(matches!(world.answers.get(&asked[0]), Some(Answer::Refused(master::Refusal::SlaveOffline, _))));
    assert_eq!(world.answers.get(&asked[1]), None);
    assert_eq!(world.master.as_ref().unwrap().asked.len(), 1, "the other slave may still answer");
}

#[test]
fn a_receipt_says_what_was_known_of_the_slaves_memory_and_whether_its_box_was_rebooted() {
    let mut world = World::new(1);
    let last = |world: &World| {
        let receipt = world.master_disk.receipts.last().unwrap();
        (receipt.store.name(), receipt.rebooted)
    };
    assert_eq!(last(&world), ("trusted", false));
    world.save_disk(0);
    world.cut(0);
    world.plug(0);
    world.settle();
    assert_eq!(last(&world), ("trusted", false));
    world.reboot(0);
    world.settle();
    assert_eq!(last(&world), ("trusted", true));
    world.kill_agent(0);
    world.put_back_disk(0);
    world.revive(0);
    world.settle();
    assert_eq!(last(&world).0, "rolled_back");
    world.replace_disk(0);
    world.revive(0);
    world.settle();
    assert_eq!(last(&world).0, "replaced");
}

#[test]
fn a_delivery_is_called_as_the_api_says() {
    use master::Delivery::{Applied, PendingOnReconnect, Sent, TooLate};
    let names = [Applied, Sent, PendingOnReconnect, TooLate].map(master::Delivery::name);
    assert_eq!(names, ["applied", "sent", "pending_on_reconnect", "too_late"]);
}

#[test]
fn a_master_whose_book_contradicts_itself_is_found_out() {
    let mut world = World::new(1);
    let running = place_as(&mut world, |_| {});
    let far = later(&world, 600_000);
    let accepted = place_as(&mut world, |order| order.start.not_before = far);
    let queued = place_as(&mut world, |order| {
        order.slave = Some("nobody".to_owned());
        order.start.deadline = far;
    });
    let sound = world.master.clone().unwrap();
    assert_eq!(master::broken_invariant(&sound), None);
    let key = world.boxes[0].settings.key;
    let broken = |job: JobId, change: &dyn Fn(&mut master::Job)| {
        let mut state = sound.clone();
        change(state.book.jobs.get_mut(&job).unwrap());
        master::broken_invariant(&state).unwrap_or("nothing")
    };
    assert_eq!(broken(queued, &|job| job.holder = Some(key)), "a queued job is with nobody");
    for job in [running, accepted] {
        assert_eq!(broken(job, &|job| job.holder = None), "an assigned job is with a slave");
    }
    let assigned = |job: &mut master::Job| (job.state, job.holder) = (State::Assigned, None);
    assert_eq!(broken(accepted, &assigned), "an assigned job is with a slave");
    assert_eq!(broken(queued, &|job| job.attempt = job.last_attempt.next()), "attempts are counted");
    assert_eq!(broken(running, &|job| job.report = None), "only a slave says running");
    assert_eq!(
        broken(running, &|job| job.report.as_mut().unwrap().state = State::Paused),
        "only a slave says running"
    );
    assert_eq!(
        broken(accepted, &|job| job.state = State::Failed),
        "what has ended is on disk, not in memory"
    );
    let derived = "what is derived from the jobs is derived from the jobs";
    assert_eq!(broken(queued, &|job| job.start.priority = 7), derived);
    assert_eq!(broken(queued, &|job| job.start.deadline = None), derived);
    assert_eq!(broken(accepted, &|job| job.holder = Some(SlaveKey([9; 32]))), derived);
    assert_eq!(
        broken(accepted, &|job| job.start.gate = Gate::Held),
        "nothing",
        "nothing is derived from a gate"
    );
}

#[test]
fn the_orders_of_records_are_fetched_before_the_records_are_judged() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let (id, spec) = (order.id, order.spec.clone());
    let job = world.place(order);
    world.settle();
    let report = world.job(job).report.unwrap();
    let record = Record { spec, start: StartRule::default(), report };
    let machine = hello(1, "").machine;
    let settled = Settled {
        session: Session(1),
        reports: vec![],
        records: vec![record.clone(), record],
        declined: vec![],
        machine,
    };
    let event = master::Event::Received { link: OLDER, message: Message::Settled(settled) };
    assert_eq!(master::unknown_orders(&event), [id]);
    assert_eq!(master::unknown_orders(&master::Event::TimePassed), []);
}

#[test]
fn what_is_kept_of_an_earlier_attempt_is_cut_between_two_characters() {
    // Of texts of many bytes as much is kept as fits.
    for (text, kept) in
        [("x".repeat(256), 256), ("x".repeat(257), 256), (format!("x{}", "é".repeat(150)), 255)]
    {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = place_as(&mut world, |_| {});
        world.cut(0);
        world.command(job, JobCommand::Abandon);
        let second = world.add_slave("second");
        world.boxes[second].machine.length_ms = Machine::UNTIL_TOLD;
        world.command(job, JobCommand::Retry);
        world.settle();
        assert_eq!(world.holder(job), Some(second));
        let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
        let fact = Fact::Progressed { permille: None, note: Some(text.clone()) };
        world.slave_event(0, slave::Event::Machine { work, fact });
        world.plug(0);
        world.settle();
        let fact = Fact::Ended(Ended {
            end: End::Failed,
            outcome: Outcome { exit_code: None, signal: None, text: text.clone() },
            at: None,
        });
        world.slave_event(0, slave::Event::Machine { work, fact });
        world.settle();
        let earlier = world.job(job).earlier;
        let [earlier] = earlier.as_slice() else { panic!("{earlier:?}") };
        let report = earlier.report.as_ref().unwrap();
        assert_eq!(earlier.state, State::Failed);
        assert_eq!(report.outcome.as_ref().map(|outcome| outcome.text.len()), Some(kept));
        assert_eq!(report.reason.as_ref().map(|reason| reason.text.len()), Some(kept));
        assert_eq!(report.note.as_ref().map(String::len), Some(kept));
    }
}

#[test]
fn a_machine_that_has_to_be_cleared_says_so() {
    let mut world = World::bare();
    let settings = slave::Settings { release: Release::Ack, ..world.settings("s0") };
    world.start_master();
    world.add_box(settings);
    let job = place_as(&mut world, |_| {});
    world.pass(12_000);
    assert_eq!(world.state(job), State::Succeeded);
    assert_eq!((machine(&world).activity, machine(&world).unloading), (Activity::Unloading, Some(job)));
    world.local(0, Local::Ready);
    assert_eq!(machine(&world).activity, Activity::Ready);
}

#[test]
fn a_slave_whose_memory_contradicts_itself_is_found_out() {
    let mut world = World::new(1);
    let running = place_as(&mut world, |_| {});
    let waiting = place_as(&mut world, |_| {});
    let sound = world.boxes[0].state.clone().unwrap();
    assert_eq!(slave::broken_invariant(&sound), None);
    let broken = |change: &dyn Fn(&mut slave::Slave)| {
        let mut state = sound.clone();
        change(&mut state);
        slave::broken_invariant(&state).unwrap_or("nothing")
    };
    let report =
        |state: &mut slave::Slave, job: JobId, to: State| state.jobs.get_mut(&job).unwrap().report.state = to;
    assert_eq!(
        broken(&|state| report(state, waiting, State::Running)),
        "at most one executing job per slave"
    );
    assert_eq!(broken(&|state| report(state, waiting, State::Lost)), "a slave says only what is its to say");
    assert_eq!(broken(&|state| report(state, waiting, State::Uncertain)), "nothing");
    let unbegun = |state: &mut slave::Slave| state.jobs.get_mut(&running).unwrap().report.run = Run(0);
    assert_eq!(broken(&unbegun), "what executes was begun");
    let other =
        |state: &mut slave::Slave| state.jobs.get_mut(&waiting).unwrap().spec.program = "bake".to_owned();
    assert_eq!(broken(&other), "the work is what was agreed");
    let job = &sound.jobs[&waiting];
    let record = Record { spec: job.spec.clone(), start: job.start, report: job.report.clone() };
    assert_eq!(broken(&|state| state.ring = vec![record.clone(); slave::RING].into()), "nothing");
    assert_eq!(
        broken(&|state| state.ring = vec![record.clone(); slave::RING + 1].into()),
        "the ring is bounded"
    );
}

#[test]
fn a_wish_is_too_late_only_after_its_last_millisecond() {
    let now = Time(1_000);
    let of = |deadline: Option<i64>, latest: Option<i64>| {
        let gate = latest.map_or(Gate::Open, |latest| Gate::Released { latest: Time(latest) });
        Wish::of(Desired::Run, &StartRule { deadline: deadline.map(Time), gate, ..StartRule::default() }, now)
    };
    assert_eq!([999, 1_000, 1_001].map(|at| of(Some(at), None)), [Wish::TooLate, Wish::Go, Wish::Go]);
    assert_eq!([999, 1_000, 1_001].map(|at| of(None, Some(at))), [Wish::Go, Wish::Released, Wish::Released]);
}

/// What a slave does with this on this link, while it is as it is.
fn hears(
    world: &World,
    link: LinkId,
    session: Session,
    message: Message,
) -> (slave::Slave, Vec<slave::Effect>) {
    let state = world.boxes[0].state.clone().unwrap();
    let event = slave::Event::Received { link, session, message, unfit: BTreeMap::new() };
    let step = slave::step(state, world.slave_now(0), event);
    (step.state, step.effects)
}

#[test]
fn a_slave_hears_nothing_that_comes_on_another_link_or_of_another_session() {
    let mut world = World::new(1);
    let slave::Link::Live { link, session, .. } = world.boxes[0].state.as_ref().unwrap().link else {
        panic!("it is connected");
    };
    let conduct = Message::Conduct(Conduct { rev: WishRev(100), mode: Mode::Maintenance });
    let obeys = |(state, _): (slave::Slave, Vec<slave::Effect>)| state.node.conduct.mode == Mode::Maintenance;
    let (other_link, other_session) = (LinkId(link.0 + 1_000), Session(session.0 + 1));
    assert!(obeys(hears(&world, link, session, conduct.clone())));
    assert!(!obeys(hears(&world, other_link, session, conduct.clone())));
    assert!(!obeys(hears(&world, link, other_session, conduct)));
    // The end of another link is not the end of this one.
    world.slave_event(0, slave::Event::LinkClosed { link: other_link });
    assert!(matches!(world.boxes[0].state.as_ref().unwrap().link, slave::Link::Live { .. }));
    world.slave_event(0, slave::Event::LinkClosed { link });
    assert_eq!(world.boxes[0].state.as_ref().unwrap().link, slave::Link::Down);

    // In the handshake it is no other.
    let challenge = Challenge {
        protocol: PROTOCOL,
        master: world.master.as_ref().unwrap().node.id,
        epoch: world.master.as_ref().unwrap().node.epoch,
        commit: world.master.as_ref().unwrap().node.commit,
        nonce: [0; 32],
        time: world.now(),
    };
    let refuse =
        || Message::Refuse(Refuse { code: CloseCode::Revoked, text: String::new(), retry_after_ms: None });
    world.slave_event(0, slave::Event::LinkOpened { link: OLDER, token: None });
    let opened = slave::Link::Opened { link: OLDER };
    assert_eq!(hears(&world, NEWER, Session(0), Message::Challenge(challenge.clone())).0.link, opened);
    assert_eq!(hears(&world, NEWER, Session(0), refuse()).0.link, opened);
    assert_eq!(hears(&world, OLDER, Session(0), refuse()).0.link, slave::Link::Down);
    let (introduced, _) = hears(&world, OLDER, Session(0), Message::Challenge(challenge));
    let slave::Link::Introduced { link: OLDER, session, .. } = introduced.link else {
        panic!("{introduced:?}")
    };
    let welcome = |session| {
        Message::Welcome(Welcome {
            protocol: 1,
            session,
            bond: introduced.node.bond.unwrap(),
            conduct: introduced.node.conduct,
            rulings: vec![],
        })
    };
    world.boxes[0].state = Some(introduced.clone());
    let (other_link, other_session) = (NEWER, Session(session.0 + 1));
    for (link, frame, inside) in
        [(other_link, session, session), (OLDER, other_session, session), (OLDER, session, other_session)]
    {
        assert_eq!(hears(&world, link, frame, welcome(inside)).0.link, introduced.link);
    }
    let (live, _) = hears(&world, OLDER, session, welcome(session));
    assert!(matches!(live.link, slave::Link::Live { link: OLDER, .. }));
    assert_eq!(hears(&world, OLDER, Session(0), refuse()).0.link, slave::Link::Down);
}

#[test]
fn a_revoked_slave_comes_back_only_with_a_token_even_where_everybody_may_come() {
    let mut world = World::new(1);
    world.cut(0);
    world.command_slave(0, SlaveCommand::Forget);
    let key = world.boxes[0].settings.key;
    assert_eq!(world.master.as_ref().unwrap().desks[&key].enrolled, Enrolled::Revoked);
    world.master.as_mut().unwrap().settings.enrollment = Enrollment::Open;
    let caller = Hello { key, ..hello(1, "s0") };
    let (enrolled, text) = introduce(&mut world, 1, caller.clone(), None);
    assert_eq!(enrolled, Some(Enrolled::Revoked));
    assert!(text.contains("was revoked"), "{text}");
    assert_eq!(introduce(&mut world, 2, hello(2, "new"), None).0, Some(Enrolled::Yes), "others may");
    let token = Token { expires_at: later(&world, 1_000).unwrap(), uses_left: 1, name: None };
    world.master_event(master::Event::TokenMade { request: RequestId(77), hash: [7; 32], token });
    assert_eq!(introduce(&mut world, 3, caller, Some([7; 32])).0, Some(Enrolled::Yes));
}

#[test]
fn who_may_have_been_handed_an_attempt_too_long_ago_to_know_is_heard() {
    let mut world = World::new(1);
    let second = world.add_slave("second");
    let job = place_as(&mut world, |order| order.slave = Some("second".to_owned()));
    world.boxes[second].machine.fails = true;
    for _ in 0..17 {
        world.pass(12_000);
        world.command(job, JobCommand::Retry);
        world.settle();
    }
    let kept = world.job(job);
    let (oldest, _) = *kept.handed.front().unwrap();
    assert!(oldest.0 > 1 && kept.handed.len() == 16, "{:?}", kept.handed);
    let first = world.boxes[0].settings.key;
    let link = world.master.as_ref().unwrap().desks[&first].live().unwrap();
    let mut claims = |attempt: Attempt| {
        let mut report = kept.report.clone().unwrap();
        (report.attempt, report.state) = (attempt, State::Running);
        let before = world.master.clone();
        world.master_event(master::Event::Received { link, message: Message::Report(report) });
        let known = world.job(job) == kept;
        world.master = before;
        known
    };
    assert!(claims(oldest), "this one is known to be another's");
    assert!(!claims(Attempt(oldest.0 - 1)), "of this one nobody knows any more");
}

#[test]
fn after_a_restore_the_masters_decision_about_a_slave_is_newer_than_any_that_the_slave_has_heard() {
    let mode = |maintenance: bool| if maintenance { Mode::Maintenance } else { Mode::Production };
    for (heard, maintenance, expected) in
        [(7, true, 8), (7, false, 7), (3, true, 4), (3, false, 3), (1, true, 3), (1, false, 3)]
    {
        let mut seat = Seat::of(&mut World::new(1));
        let key = seat.key;
        seat.state.desks.get_mut(&key).unwrap().conduct.rev = WishRev(3);
        let first = seat.hello();
        seat.say_hello(OLDER, first.clone());
        let conduct = Conduct { rev: WishRev(heard), mode: mode(maintenance) };
        let machine = MachineReport { conduct, ..first.machine };
        let settled =
            Settled { session: first.session, reports: vec![], records: vec![], declined: vec![], machine };
        seat.step(master::Event::Received { link: OLDER, message: Message::Settled(settled) });
        let expected = Conduct { rev: WishRev(expected), mode: Mode::Production };
        assert_eq!(seat.state.desks[&key].conduct, expected, "{conduct:?}");
    }
}

/// A job that runs at the second slave, and the first one's report of an attempt that it was never handed.
fn claim() -> (Seat, Report) {
    let mut world = World::new(1);
    world.add_slave("second");
    let job = place_as(&mut world, |order| order.slave = Some("second".to_owned()));
    assert_eq!(world.holder(job), Some(1));
    let report = world.job(job).report.unwrap();
    (Seat::of(&mut world), report)
}

fn settle_with(seat: &mut Seat, reports: Vec<Report>) -> Vec<master::Effect> {
    let first = seat.hello();
    seat.say_hello(OLDER, first.clone());
    let machine = first.machine;
    let settled = Settled { session: first.session, reports, records: vec![], declined: vec![], machine };
    seat.step(master::Event::Received { link: OLDER, message: Message::Settled(settled) })
}

fn is_forgotten(effects: &[master::Effect]) -> bool {
    let forget = |effect: &master::Effect| {
        matches!(effect, master::Effect::Send { link: OLDER, message: Message::Forget(_) })
    };
    effects.iter().any(forget)
}

#[test]
fn who_was_never_handed_a_job_is_shown_beside_it_and_changes_nothing() {
    for (state, flagged, forgotten) in
        [(State::Accepted, false, false), (State::Running, true, false), (State::Succeeded, true, true)]
    {
        let (mut seat, report) = claim();
        let id = report.job;
        let before = seat.state.book.jobs.get(&id).unwrap().into_owned();
        let report = Report { state, attempt: Attempt(7), ..report };
        let effects = settle_with(&mut seat, vec![report.clone()]);
        let job = seat.state.book.jobs.get(&id).unwrap().into_owned();
        assert_eq!((job.state, job.holder, job.attempt), (before.state, before.holder, before.attempt));
        let shown: Vec<_> = job.earlier.iter().map(|one| (one.attempt, one.holder, one.state)).collect();
        assert_eq!(shown, [(Attempt(7), seat.key, state)]);
        assert_eq!(job.flags.has(Flags::DUPLICATE), flagged, "{state:?}");
        assert_eq!(is_forgotten(&effects), forgotten, "{state:?}");
        // What it says of it later is kept in the same place; what it says of others is not kept at all.
        for (attempt, expected) in [(7, State::Failed), (8, State::Failed)] {
            let report = Report { state: State::Failed, attempt: Attempt(attempt), ..report.clone() };
            seat.step(master::Event::Received { link: OLDER, message: Message::Report(report) });
            let shown: Vec<_> = seat
                .state
                .book
                .jobs
                .get(&id)
                .unwrap()
                .earlier
                .iter()
                .map(|one| (one.attempt, one.state))
                .collect();
            assert_eq!(shown, [(Attempt(7), expected)]);
        }
    }
}

#[test]
fn of_what_nobody_was_handed_only_so_much_is_shown() {
    let (mut seat, report) = claim();
    let reports: Vec<_> =
        (2..22).map(|attempt| Report { attempt: Attempt(attempt), ..report.clone() }).collect();
    settle_with(&mut seat, reports);
    let shown: Vec<_> =
        seat.state.book.jobs.get(&report.job).unwrap().earlier.iter().map(|one| one.attempt.0).collect();
    assert_eq!(shown, (2..18).collect::<Vec<_>>());
}

#[test]
fn a_job_is_tried_again_as_often_as_its_order_says_and_for_what_it_says() {
    for (on, refuses, tries, state) in [
        (RetryOn::Failed, false, 3, State::Failed),
        (RetryOn::Rejected, true, 3, State::Rejected),
        (RetryOn::Rejected, false, 1, State::Failed),
        (RetryOn::Failed, true, 1, State::Rejected),
    ] {
        let mut world = World::new(1);
        world.boxes[0].machine.fails = true;
        world.boxes[0].machine.refuses = refuses;
        let job = place_as(&mut world, |order| order.retry = Retry { max_attempts: 3, on: [on].into() });
        world.pass(60_000);
        let job = world.job(job);
        assert_eq!((job.state, job.attempt), (state, Attempt(tries)), "{on:?}");
    }
}

#[test]
fn what_a_slave_says_of_a_job_that_was_given_up_is_marked_as_late() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    assert_eq!(world.state(job), State::Lost);
    world.pass(12_000);
    world.plug(0);
    world.settle();
    let late = world.job(job);
    assert_eq!(late.state, State::Succeeded);
    assert!(late.flags.has(Flags::LATE_RESULT));
    let job = place_as(&mut world, |_| {});
    world.pass(12_000);
    assert!(!world.job(job).flags.has(Flags::LATE_RESULT));
}

/// A job that waits for its turn behind a long one at the first slave, and a second slave that comes back with this.
fn waits_behind(second: impl FnOnce(&mut World)) -> (World, JobId) {
    let mut world = World::new(2);
    world.boxes.iter_mut().for_each(|one| one.machine.length_ms = Machine::UNTIL_TOLD);
    second(&mut world);
    world.settle();
    world.cut(1);
    place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
    let waits = place_as(&mut world, |_| {});
    assert_eq!((world.holder(waits), world.state(waits)), (Some(0), State::Accepted));
    world.plug(1);
    world.pass(2_000);
    (world, waits)
}

fn at_second(change: impl Fn(&mut Order)) -> impl FnOnce(&mut World) {
    move |world: &mut World| {
        let mut order = world.order("mill");
        order.slave = Some("s1".to_owned());
        change(&mut order);
        world.place(order);
    }
}

#[test]
fn who_only_has_what_starts_later_takes_over_what_waits_elsewhere() {
    let far = Time(World::new(0).now().0 + 3_600_000);
    let (world, job) = waits_behind(|_| {});
    assert_eq!((world.holder(job), world.state(job)), (Some(1), State::Running), "it has nothing");
    let (world, job) = waits_behind(at_second(|order| order.start.not_before = Some(far)));
    assert_eq!(
        (world.holder(job), world.state(job)),
        (Some(1), State::Running),
        "its own waits for its time"
    );
    let (world, job) = waits_behind(at_second(|order| order.start.gate = Gate::Held));
    assert_eq!(
        (world.holder(job), world.state(job)),
        (Some(1), State::Running),
        "its own waits for a person"
    );
    let (world, job) = waits_behind(at_second(|_| {}));
    assert_eq!((world.holder(job), world.state(job)), (Some(0), State::Accepted), "it is at work");
}

#[test]
fn only_what_waits_behind_work_is_asked_back() {
    // The slave that has it starts nothing at present, and nothing runs there.
    let mut world = World::new(2);
    world.cut(1);
    world.command_slave(0, SlaveCommand::Mode(Mode::Maintenance));
    world.command_slave(0, SlaveCommand::Mode(Mode::Production));
    let job = place_as(&mut world, |order| order.start.gate = Gate::Held);
    world.local(0, Local::Lock(true));
    world.command(job, JobCommand::Release { valid: Millis(60_000) });
    world.settle();
    assert_eq!((world.holder(job), world.state(job)), (Some(0), State::Accepted));
    world.plug(1);
    world.pass(2_000);
    assert_eq!((world.holder(job), world.job(job).desired), (Some(0), Desired::Run));
}

#[test]
fn what_waits_at_a_slave_that_is_away_is_not_asked_back() {
    let mut world = World::new(2);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    world.cut(1);
    place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
    let waits = place_as(&mut world, |_| {});
    world.cut(0);
    world.plug(1);
    world.pass(2_000);
    let job = world.job(waits);
    assert_eq!((world.holder(waits), job.state, job.desired), (Some(0), State::Accepted, Desired::Run));
}

#[test]
fn a_box_that_was_rebooted_out_of_reach_tells_time_by_its_wall_clock_as_the_master_once_saw_it() {
    let mut world = World::new(1);
    world.boxes[0].wall_off = 3_600_000;
    world.pass(20_000);
    world.cut(0);
    world.plug(0);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |order| order.spec.on_interrupt = OnInterrupt::Fail);
    assert_eq!(world.state(job), State::Running);
    world.pass(7_000);
    world.cut(0);
    world.pass(5_000);
    world.reboot(0);
    world.settle();
    let ended_at = world.now();
    assert_eq!(world.on_slave(0, job), Some(State::Failed));
    world.pass(9_000);
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.job(job).ended_at), (State::Failed, Some(ended_at)));
}

#[test]
fn what_a_machine_says_of_the_time_without_contact_is_told_in_the_masters_time() {
    // Its wall clock is an hour ahead; it names the moment by that clock, and the box has not been rebooted since.
    let mut world = World::new(1);
    world.boxes[0].wall_off = 3_600_000;
    world.cut(0);
    world.plug(0);
    world.settle();
    let job = place_as(&mut world, |_| {});
    world.cut(0);
    world.kill_agent(0);
    world.pass(30_000);
    let ended_at = Time(world.now().0 - 20_000);
    world.start_agent(0, true);
    world.plug(0);
    world.settle();
    assert_eq!((world.state(job), world.job(job).ended_at), (State::Succeeded, Some(ended_at)));
}

#[test]
fn a_slave_is_doubted_by_only_if_it_has_seen_more_than_it_was_told() {
    for (ahead, doubted) in [(0, false), (1, true)] {
        let mut seat = Seat::of(&mut World::new(1));
        let node = seat.state.node;
        let commit = Commit(node.commit.0 + ahead);
        let first = Hello { bond: Some(Bond { master: node.id, epoch: node.epoch, commit }), ..seat.hello() };
        seat.say_hello(OLDER, first);
        assert_eq!(seat.state.desks[&seat.key].doubts, doubted, "{ahead} ahead");
    }
}

#[test]
fn a_welcome_asks_only_for_what_is_not_known_and_tells_only_what_is_newer() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let known = world.job(job);
    let report = known.report.clone().unwrap();
    let seat = Seat::of(&mut world);
    let same = Row {
        job,
        attempt: report.attempt,
        rev: known.rev,
        seq: report.seq,
        state: report.state,
        progress: None,
    };
    let ruled = |row: Row| {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        let first = Hello { rows: vec![row], ..seat.hello() };
        let effects = seat.say_hello(OLDER, first);
        let ruling = welcomed(&effects, OLDER).unwrap().rulings[0].clone();
        (ruling.verdict, ruling.tell, ruling.want.is_some())
    };
    assert_eq!(ruled(same), (Verdict::Keep, Tell::Nothing, false));
    let newer = ReportSeq { count: report.seq.count + 1, ..report.seq };
    assert_eq!(ruled(Row { seq: newer, ..same }), (Verdict::Keep, Tell::Report, false));
    assert_eq!(ruled(Row { state: State::Paused, ..same }), (Verdict::Keep, Tell::Report, false));
    let older_wish = Row { rev: WishRev(known.rev.0 - 1), ..same };
    assert_eq!(ruled(older_wish), (Verdict::Keep, Tell::Nothing, true));
}

/// A job that its slave was just offered, or holds, and what becomes of it when the slave declines it so.
fn declines(
    held: bool,
    change: impl Fn(&mut Order),
    code: ReasonCode,
    for_good: bool,
    wish: Option<JobCommand>,
) -> (State, bool) {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.gate = Gate::Held;
    change(&mut order);
    let job = order.jobs[0];
    let link = world.master.as_ref().unwrap().desks[&world.boxes[0].settings.key].live().unwrap();
    world.place(order);
    if held {
        world.settle();
        assert_eq!(world.state(job), State::Accepted);
    } else {
        world.swallow(0);
        assert_eq!(world.state(job), State::Assigned);
    }
    if let Some(wish) = wish {
        world.command(job, wish);
    }
    let known = world.job(job);
    let declined =
        Declined { job, attempt: known.attempt, rev: known.rev, reason: Reason::new(code, "no"), for_good };
    let now = world.now();
    let event = master::Event::Received { link, message: Message::Declined(declined) };
    let step = master::step(world.master.clone().unwrap(), now, event);
    let archived = step.archived.iter().find(|one| one.id == job).cloned();
    let after = archived.unwrap_or_else(|| step.state.book.jobs.get(&job).unwrap().into_owned());
    let balked = step.state.desks[&world.boxes[0].settings.key].balked;
    (after.state, balked)
}

#[test]
fn what_becomes_of_a_job_that_is_declined_depends_on_why() {
    use ReasonCode::{AtCapacity, GivenBack, UnknownProgram, WindowClosed};
    let plain = |_: &mut Order| {};
    let timed = |order: &mut Order| order.start.deadline = Some(Time(order.created_at.0 + 3_600_000));
    let cancel = Some(JobCommand::Cancel(CancelMode::IfNotStarted));
    for held in [false, true] {
        assert_eq!(declines(held, plain, UnknownProgram, true, None), (State::Rejected, false), "{held}");
        assert_eq!(declines(held, plain, AtCapacity, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, WindowClosed, false, None), (State::Expired, false), "{held}");
        assert_eq!(declines(held, plain, WindowClosed, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, AtCapacity, false, None), (State::Queued, true), "{held}");
        assert_eq!(declines(held, timed, WindowClosed, false, cancel), (State::Canceled, false), "{held}");
    }
    // The slave lets it go as it was asked to: nothing is wrong with the slave.
    assert!(!declines(true, plain, GivenBack, false, None).1);
}

#[test]
fn what_a_person_said_counts_also_where_the_slave_has_forgotten_the_question() {
    let (mut seat, report) = runs_live();
    drop(reports(&mut seat, None, numbered(&report, 11, State::Uncertain)));
    let (request, jobs) = (RequestId(1), vec![report.job]);
    seat.step(master::Event::JobsCommanded { request, jobs, command: JobCommand::Resolve(End::Failed) });
    let known = seat.state.book.jobs.get(&report.job).unwrap().into_owned();
    assert_eq!((known.state, known.desired), (State::Uncertain, Desired::Resolve(End::Failed)));
    let declines = |rev, code| {
        let reason = Reason::new(code, "no");
        let declined = Declined { job: known.id, attempt: known.attempt, rev, reason, for_good: true };
        let event = master::Event::Received { link: OLDER, message: Message::Declined(declined) };
        let step = master::step(seat.state.clone(), seat.now, event);
        step.archived.iter().find(|job| job.id == known.id).map(|job| job.state)
    };
    assert_eq!(declines(WishRev(known.rev.0 - 1), ReasonCode::NotHeld), None, "that was about an older wish");
    assert_eq!(declines(known.rev, ReasonCode::AtCapacity), None, "it may have it");
    assert_eq!(declines(known.rev, ReasonCode::NotHeld), Some(State::Failed));
}

#[test]
fn what_runs_is_not_declined_any_more() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let known = world.job(job);
    let link = world.master.as_ref().unwrap().desks[&world.boxes[0].settings.key].live().unwrap();
    let declined = Declined {
        job,
        attempt: known.attempt,
        rev: known.rev,
        reason: Reason::new(ReasonCode::AtCapacity, "no"),
        for_good: false,
    };
    world.master_event(master::Event::Received { link, message: Message::Declined(declined) });
    assert_eq!(world.job(job), known);
}

#[test]
fn a_hello_is_of_the_session_that_its_frame_names() {
    let frame = |session: u64| Frame {
        session: Session(session),
        message: Message::Hello(Box::new(hello(1, "a"))),
        signature: None,
    };
    assert_eq!(from_slave(None, &frame(1)), FromSlave::Hello);
    assert!(matches!(from_slave(None, &frame(2)), FromSlave::Fault(_)));
}

#[test]
fn a_memory_that_went_back_is_asked_for_everything_that_it_holds() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let known = world.job(job);
    let report = known.report.clone().unwrap();
    let mut seat = Seat::of(&mut world);
    let row = Row {
        job,
        attempt: report.attempt,
        rev: known.rev,
        seq: report.seq,
        state: report.state,
        progress: None,
    };
    // It says the session again that it has had.
    let session = seat.state.desks[&seat.key].session;
    let first = Hello { rows: vec![row], session, ..seat.hello() };
    let effects = seat.say_hello(OLDER, first);
    let ruling = &welcomed(&effects, OLDER).unwrap().rulings[0];
    assert_eq!((ruling.verdict, ruling.tell), (Verdict::Quarantine, Tell::Report));
}

#[test]
fn a_job_that_only_an_old_memory_knows_is_not_lost_and_waits_for_a_person() {
    let (mut seat, report) = runs();
    let (row, record) = unheard_of(&report, &seat, State::Uncertain);
    let session = seat.state.desks[&seat.key].session;
    let effects = seat.say_hello(OLDER, Hello { rows: vec![row], session, ..seat.hello() });
    let of_it =
        welcomed(&effects, OLDER).unwrap().rulings.iter().find(|ruling| ruling.job == row.job).unwrap();
    assert_eq!((of_it.verdict, of_it.tell), (Verdict::Quarantine, Tell::Record));
    let machine = hello(1, "").machine;
    let settled = Settled { session, reports: vec![], records: vec![record], declined: vec![], machine };
    seat.step(master::Event::Received { link: OLDER, message: Message::Settled(settled) });
    let adopted = seat.state.book.jobs.get(&row.job).expect("it is known now");
    assert_eq!((adopted.state, adopted.holder), (State::Uncertain, Some(seat.key)));
}

#[test]
fn why_a_job_has_not_started_is_said_in_words() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let running = place_as(&mut world, |_| {});
    let job = place_as(&mut world, |_| {});
    let master = world.master.clone().unwrap();
    let now = world.now();
    let job = world.job(job);
    let queued = master::Job { state: State::Queued, holder: None, report: None, ..job.clone() };
    let says = |state: &master::Master, job: &master::Job| master::explain(state, job, now).summary;
    let with = |change: &dyn Fn(&mut master::Job)| {
        let mut job = queued.clone();
        change(&mut job);
        says(&master, &job)
    };
    let mut nobody = master.clone();
    nobody.desks.clear();
    assert_eq!(says(&nobody, &queued), "there are no slaves: enrol one");
    assert_eq!(with(&|job| job.desired = Desired::Pause), "it is paused: `resume` lets it go on");
    assert_eq!(with(&|_| {}), "the slaves that could do it cannot now: ready");
    let elsewhere = "no slave that it is for offers its program";
    assert_eq!(with(&|job| job.spec.program = "weave".to_owned()), elsewhere);
    assert_eq!(with(&|job| job.slave = Some("s9".to_owned())), elsewhere);
    let label =
        |job: &mut master::Job| job.requires = BTreeMap::from([("material".to_owned(), "pla".to_owned())]);
    assert_eq!(with(&label), "no slave with its program has the labels that it requires");
    let idle = World::new(1).master.unwrap();
    assert_eq!(says(&idle, &queued), "a slave has room: it is being handed out");
    let assigned = master::Job { state: State::Assigned, ..job.clone() };
    assert_eq!(says(&master, &assigned), "offered to s0, which has not answered yet");
    assert_eq!(says(&master, &job), "s0 has it and waits for turn");
    let mut away = Seat::of(&mut world).state;
    away.desks.values_mut().for_each(|desk| desk.balked = false);
    assert_eq!(
        says(&away, &assigned),
        "offered to s0, which is offline: whether it has it shows when it is back"
    );
    assert_eq!(says(&away, &job), "s0 has it and waits for turn by its last word: it is offline");

    // What a person has to let go says so, until it has started.
    let running = world.job(running);
    let gated = |job: &master::Job, gate| {
        let mut job = job.clone();
        job.start.gate = gate;
        says(&master, &job).split_once("; ").map(|(_, gate)| gate.to_owned())
    };
    let held = Some("held: `release` lets it start".to_owned());
    let lapsed = Some("its release has lapsed: `release` it again".to_owned());
    let released = |ms: i64| Gate::Released { latest: Time(now.0 + ms) };
    let of_waiting =
        [Gate::Open, Gate::Held, released(-1), released(0), released(1)].map(|gate| gated(&job, gate));
    assert_eq!(of_waiting, [None, held, lapsed, None, None]);
    let of_running = [Gate::Open, Gate::Held, released(-1), released(1)].map(|gate| gated(&running, gate));
    assert_eq!(of_running, [None, None, None, None]);
}

#[test]
fn every_reason_against_a_slave_has_its_word() {
    let words: std::collections::BTreeSet<_> = WhyNot::ALL.iter().map(|why| why.name()).collect();
    assert_eq!(words.len(), WhyNot::ALL.len());
    assert!(words.contains("local_lock") && words.contains("other_slave"), "{words:?}");
}

#[test]
fn a_slave_that_is_full_or_not_ready_says_so() {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |_| {});
    let why = |world: &World, job: &master::Job| {
        master::explain(world.master.as_ref().unwrap(), job, world.now()).slaves[0].1
    };
    assert_eq!(why(&world, &world.job(job)), Some(WhyNot::Ready), "it works");
    let other = master::Job { holder: None, ..world.job(job) };
    assert_eq!(why(&world, &other), Some(WhyNot::Ready), "it has room, and works");
    for _ in 0..3 {
        place_as(&mut world, |_| {});
    }
    assert_eq!(why(&world, &other), Some(WhyNot::Capacity));
    assert_eq!(why(&world, &world.job(job)), Some(WhyNot::Ready), "the place is its own");
    let mut world = World::new(1);
    let far = later(&world, 600_000);
    let waits = place_as(&mut world, |order| order.start.not_before = far);
    assert_eq!(why(&world, &world.job(waits)), None);
}

#[test]
fn what_people_want_of_a_job_that_is_past_it_comes_too_late() {
    use master::Delivery::{Sent, TooLate};
    let release = JobCommand::Release { valid: Millis(1_000) };
    let reschedule = JobCommand::Reschedule { not_before: None, deadline: None, late: Default::default() };
    let cancel = JobCommand::Cancel(CancelMode::Now);
    let all = [cancel, JobCommand::Pause, JobCommand::Resume, release, reschedule, JobCommand::Abandon];
    let answers = |length_ms: i64| {
        all.map(|command| {
            let mut world = World::new(1);
            world.boxes[0].machine.length_ms = length_ms;
            let job = place_as(&mut world, |_| {});
            world.pass(2_000);
            match world.command(job, command) {
                Some(Answer::Taken(told)) => Some(told[0].1),
                _ => None,
            }
        })
    };
    assert_eq!(answers(1_000), [Some(TooLate); 6], "it has ended");
    let running = [Some(Sent), Some(Sent), Some(Sent), Some(TooLate), Some(TooLate), None];
    assert_eq!(answers(Machine::UNTIL_TOLD), running, "it runs, at a slave that is there");
}

#[test]
fn of_many_jobs_each_gets_its_own_answer() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let mut ask = |jobs: Vec<JobId>| {
        let request = RequestId(6_000_000 + jobs.len() as u64);
        let command = JobCommand::Resolve(End::Failed);
        world.master_event(master::Event::JobsCommanded { request, jobs, command });
        world.answers.get(&request).cloned()
    };
    assert!(matches!(ask(vec![job]), Some(Answer::Refused(..))), "alone it is refused with the reason");
    assert_eq!(ask(vec![job, job]), Some(Answer::Taken(vec![(job, master::Delivery::TooLate); 2])));
}

/// A slave that has done a job, told and forgotten it, and that has introduced itself; and what the ring has of the job.
fn introduced(bond: Option<Bond>) -> (slave::Slave, slave::Now, Record) {
    let mut world = World::new(1);
    place_as(&mut world, |_| {});
    world.pass(12_000);
    world.cut(0);
    let mut state = world.boxes[0].state.clone().unwrap();
    state.node.bond = bond;
    state.node.conduct.rev = WishRev(9);
    state.link = slave::Link::Introduced { link: OLDER, session: Session(50), doubtful: false };
    let record = state.ring[0].clone();
    (state, world.slave_now(0), record)
}

const HOUSE: MasterId = MasterId([3; 16]);

fn bond(epoch: u32, commit: u64) -> Bond {
    Bond { master: HOUSE, epoch: Epoch(epoch), commit: Commit(commit) }
}

fn welcome_to(state: slave::Slave, now: slave::Now, bond: Bond, rulings: Vec<Ruling>) -> slave::Step {
    let conduct = Conduct { rev: WishRev(9), mode: Mode::Production };
    let welcome = Welcome { protocol: 1, session: Session(50), bond, conduct, rulings };
    let message = Message::Welcome(welcome);
    let event = slave::Event::Received { link: OLDER, session: Session(50), message, unfit: BTreeMap::new() };
    slave::step(state, now, event)
}

#[test]
fn that_a_master_has_heard_of_the_outcomes_is_believed_only_when_it_has_said_something() {
    for (before, empty, commit, owed) in [
        (Some(bond(1, 5)), false, 9, None),
        (Some(bond(1, 0)), false, 0, Some(Commit(9))),
        (Some(bond(0, 5)), false, 0, Some(Commit(9))),
        (None, false, 0, Some(Commit(9))),
        (Some(bond(1, 0)), true, 9, None),
    ] {
        let (mut state, now, _) = introduced(before);
        if empty {
            state.ring = Default::default();
        }
        let after = welcome_to(state, now, bond(1, 9), vec![]).state;
        assert_eq!((after.node.bond, after.fresh.owed), (Some(bond(1, commit)), owed), "{before:?} {empty}");
        assert!(matches!(after.link, slave::Link::Live { link: OLDER, .. }));
    }
}

#[test]
fn a_welcome_of_an_older_epoch_is_not_taken() {
    let (state, now, _) = introduced(Some(bond(2, 5)));
    let step = welcome_to(state, now, bond(1, 9), vec![]);
    assert_eq!((step.state.link, step.state.node.bond), (slave::Link::Down, Some(bond(2, 5))));
}

#[test]
fn who_is_admitted_by_another_master_binds_to_it_and_begins_anew() {
    let (state, now, _) = introduced(Some(Bond { master: MasterId([8; 16]), ..bond(2, 5) }));
    let mode = state.node.conduct.mode;
    let after = welcome_to(state, now, bond(1, 9), vec![]).state;
    assert_eq!((after.link, after.node.bond), (slave::Link::Down, Some(bond(1, 0))));
    assert_eq!(
        after.node.conduct,
        Conduct { rev: WishRev(0), mode },
        "what the other decided is no older decision"
    );
}

#[test]
fn nobody_is_asked_about_what_the_slave_remembers() {
    let told = |attempt_off: u32, other_job: bool, verdict: Verdict, held: bool| {
        let (mut state, now, record) = introduced(Some(bond(1, 5)));
        let job = if other_job { JobId([0xaa; 16]) } else { record.report.job };
        if held {
            let mut world = World::new(1);
            let id = place_as(&mut world, |_| {});
            let mut kept = world.boxes[0].state.clone().unwrap().jobs[&id].clone();
            kept.report.job = job;
            kept.report.state = State::Uncertain;
            state.jobs.insert(job, kept);
        }
        let attempt = Attempt(record.report.attempt.0 + attempt_off);
        let ruling = Ruling { job, attempt, verdict, tell: Tell::Nothing, want: None };
        let step = welcome_to(state, now, bond(1, 9), vec![ruling]);
        let settled = step.effects.iter().find_map(|effect| match effect {
            slave::Effect::Send { message: Message::Settled(settled), .. } => Some(settled.reports.clone()),
            _ => None,
        });
        settled.unwrap().iter().any(|report| report.state == State::Succeeded)
    };
    assert!(told(0, false, Verdict::AskPerson, false), "it tells how it ended");
    assert!(!told(0, false, Verdict::Keep, false), "unless nobody would ask");
    assert!(!told(1, false, Verdict::AskPerson, false), "of another attempt it knows nothing");
    assert!(!told(0, true, Verdict::AskPerson, false), "nor of another job");
    assert!(!told(0, false, Verdict::AskPerson, true), "what it holds it says otherwise");
}

#[test]
fn a_slave_remembers_the_newest_outcomes_as_many_as_fit() {
    let mut world = World::new(1);
    let mut done = |bytes: usize| {
        let job = place_as(&mut world, |order| {
            order.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(bytes))]);
        });
        world.pass(12_000);
        assert_eq!(world.state(job), State::Succeeded);
        let ring = &world.boxes[0].state.as_ref().unwrap().ring;
        assert_eq!(ring.last().map(|record| record.report.job), Some(job));
        ring.len()
    };
    let counted: Vec<_> = (0..slave::RING + 3).map(|_| done(10)).collect();
    assert_eq!(counted[..slave::RING], (1..=slave::RING).collect::<Vec<_>>());
    assert_eq!(counted[slave::RING..], [slave::RING; 3]);
    // Large ones push out the small ones, and then each other.
    let large = slave::RING_BYTES / 2 - 1_000;
    let counted: Vec<_> = (0..4).map(|_| done(large)).collect();
    assert_eq!(counted, [slave::RING, slave::RING, 2, 2]);
}

/// The slave's live link.
fn live_at(world: &World) -> (LinkId, Session) {
    match world.boxes[0].state.as_ref().unwrap().link {
        slave::Link::Live { link, session, .. } => (link, session),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_stop_is_as_hard_as_it_was_asked_for_and_is_only_ever_made_harder() {
    use CancelMode::{IfNotStarted, Now, SafePoint};
    let stops = |modes: &[CancelMode]| {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = place_as(&mut world, |_| {});
        let known = world.job(job);
        let (link, session) = live_at(&world);
        let mut stops = vec![];
        for (number, mode) in modes.iter().enumerate() {
            let want = Want {
                job,
                attempt: known.attempt,
                rev: WishRev(known.rev.0 + 1 + number as u32),
                digest: known.digest,
                spec: None,
                desired: Desired::Cancel(*mode),
                start: known.start,
            };
            let (state, effects) = hears(&world, link, session, Message::Want(want));
            world.boxes[0].state = Some(state);
            stops.extend(effects.iter().filter_map(|effect| match effect {
                slave::Effect::Stop { now, .. } => Some(*now),
                _ => None,
            }));
        }
        stops
    };
    assert_eq!(stops(&[SafePoint]), [false]);
    assert_eq!(stops(&[Now]), [true]);
    assert!(stops(&[IfNotStarted]).is_empty());
    assert_eq!(stops(&[SafePoint, Now]), [false, true]);
    assert_eq!(stops(&[SafePoint, SafePoint]), [false]);
    assert_eq!(stops(&[Now, SafePoint]), [true]);
}

#[test]
fn a_slave_takes_work_that_just_fits_and_is_just_in_time() {
    let offered = |specs: &[usize], deadline: Option<i64>| {
        let mut world = World::new(1);
        let now = world.now();
        let (link, session) = live_at(&world);
        let mut declined = vec![];
        for (number, bytes) in specs.iter().enumerate() {
            let mut order = world.order("mill");
            order.spec.params = BTreeMap::from([("p".to_owned(), String::new())]);
            let missing = bytes - order.spec.size();
            let mut text = "x".repeat(missing);
            loop {
                order.spec.params.insert("p".to_owned(), text.clone());
                if order.spec.size() <= *bytes {
                    break;
                }
                text.pop();
            }
            assert_eq!(order.spec.size(), *bytes);
            let deadline = deadline.map(|ms| Time(now.0 + ms));
            let start = StartRule { gate: Gate::Held, deadline, ..StartRule::default() };
            let want = Want {
                job: JobId([200 + number as u8; 16]),
                attempt: Attempt(1),
                rev: WishRev(1),
                digest: order.spec.digest(),
                spec: Some(order.spec),
                desired: Desired::Run,
                start,
            };
            let (state, effects) = hears(&world, link, session, Message::Want(want));
            world.boxes[0].state = Some(state);
            declined.extend(effects.into_iter().filter_map(|effect| match effect {
                slave::Effect::Send { message: Message::Declined(declined), .. } => {
                    Some(declined.reason.code)
                }
                _ => None,
            }));
        }
        declined
    };
    assert!(offered(&[SPEC_BYTES], None).is_empty());
    assert_eq!(offered(&[SPEC_BYTES + 1], None), [ReasonCode::BadParams]);
    assert!(offered(&[slave::HELD_BYTES / 4; 4], None).is_empty());
    let more = [
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4,
        slave::HELD_BYTES / 4 - 200,
        201,
    ];
    assert_eq!(offered(&more, None), [ReasonCode::AtCapacity]);
    assert!(offered(&[1_000], Some(0)).is_empty());
    assert_eq!(offered(&[1_000], Some(-1)), [ReasonCode::WindowClosed]);
}

#[test]
fn only_a_success_is_complete_and_only_an_unwished_one_is_as_it_should_be() {
    for (end, progress) in [(End::Succeeded, Some(1_000)), (End::Failed, None)] {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = place_as(&mut world, |_| {});
        let work = world.boxes[0].state.as_ref().unwrap().jobs[&job].work();
        world.cut(0);
        let outcome = Outcome { exit_code: None, signal: None, text: String::new() };
        world.slave_event(
            0,
            slave::Event::Machine { work, fact: Fact::Ended(Ended { end, outcome, at: None }) },
        );
        let report = &world.boxes[0].state.as_ref().unwrap().jobs[&job].report;
        assert_eq!(report.progress, progress, "{end:?}");
        assert!(!report.flags.has(Flags::CANCEL_TOO_LATE));
    }
}

#[test]
fn a_decision_that_the_slave_has_not_heard_is_told_when_the_handshake_is_over() {
    for (heard, told) in [(2, true), (3, false), (4, false)] {
        let mut seat = Seat::of(&mut World::new(1));
        let key = seat.key;
        seat.state.desks.get_mut(&key).unwrap().conduct.rev = WishRev(3);
        let first = seat.hello();
        seat.say_hello(OLDER, first.clone());
        let conduct = Conduct { rev: WishRev(heard), mode: Mode::Production };
        let machine = MachineReport { conduct, ..first.machine };
        let settled =
            Settled { session: first.session, reports: vec![], records: vec![], declined: vec![], machine };
        let effects = seat.step(master::Event::Received { link: OLDER, message: Message::Settled(settled) });
        let tells = effects
            .iter()
            .any(|effect| matches!(effect, master::Effect::Send { message: Message::Conduct(_), .. }));
        assert_eq!(tells, told, "{heard}");
    }
}

#[test]
fn interrupted_work_has_to_be_cleared_away_unless_it_begins_again_or_nobody_knows() {
    for (policy, stopping, state, cleared) in [
        (OnInterrupt::Hold, false, State::Uncertain, false),
        (OnInterrupt::Fail, false, State::Failed, true),
        (OnInterrupt::Restart, false, State::Accepted, false),
        (OnInterrupt::Restart, true, State::Canceled, true),
        (OnInterrupt::Hold, true, State::Canceled, true),
    ] {
        let mut world = World::bare();
        let settings = slave::Settings { release: Release::Ack, ..world.settings("s0") };
        world.start_master();
        world.add_box(settings);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = place_as(&mut world, |order| order.spec.on_interrupt = policy);
        let mut before = world.boxes[0].state.clone().unwrap();
        let kept = before.jobs.get_mut(&job).unwrap();
        if stopping {
            kept.report.state = State::Stopping;
            kept.stopping = Some(CancelMode::Now);
            kept.desired = Desired::Cancel(CancelMode::Now);
        }
        let work = kept.work();
        before.node.local_lock = true;
        let event = slave::Event::Machine { work, fact: Fact::Probed(slave::Probed::Gone) };
        let after = slave::step(before, world.slave_now(0), event).state;
        assert_eq!(after.jobs[&job].report.state, state, "{policy:?} {stopping}");
        assert_eq!(after.node.unloading.is_some(), cleared, "{policy:?} {stopping}");
    }
}

#[test]
fn what_a_machine_was_asked_for_before_a_crash_it_is_asked_for_again_if_it_does_otherwise() {
    for (asked, paused, again) in [
        (Some(true), false, Some(true)),
        (Some(true), true, None),
        (Some(false), true, Some(false)),
        (Some(false), false, None),
        (None, false, None),
    ] {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let job = place_as(&mut world, |_| {});
        let mut before = world.boxes[0].state.clone().unwrap();
        let kept = before.jobs.get_mut(&job).unwrap();
        kept.asked_to_pause = asked;
        kept.desired = if paused && again.is_none() { Desired::Pause } else { Desired::Run };
        if asked == Some(true) {
            kept.desired = Desired::Pause;
        }
        let work = kept.work();
        let fact = Fact::Probed(slave::Probed::Alive { paused, permille: None });
        let step = slave::step(before, world.slave_now(0), slave::Event::Machine { work, fact });
        let repeated = step.effects.iter().find_map(|effect| match effect {
            slave::Effect::Pause(_) => Some(true),
            slave::Effect::Resume(_) => Some(false),
            _ => None,
        });
        assert_eq!(repeated, again, "{asked:?} {paused}");
        let asked = step.state.jobs[&job].asked_to_pause;
        assert_eq!(asked.is_some(), again.is_some());
    }
}

#[test]
fn work_that_ended_in_time_does_not_become_overdue_afterwards() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.spec.max_runtime = Some(Millis(11_000)));
    world.cut(0);
    world.pass(60_000);
    let report = &world.boxes[0].state.as_ref().unwrap().jobs[&job].report;
    assert_eq!((report.state, report.flags.has(Flags::OVERDUE)), (State::Succeeded, false));
}

#[test]
fn a_job_that_is_given_back_in_the_last_millisecond_of_its_window_is_queued_again() {
    let mut world = World::new(1);
    let close = later(&world, 1_000);
    let mut order = world.order("mill");
    order.start.deadline = close;
    let job = world.place(order);
    let (link, _) = live_at(&world);
    let known = world.job(job);
    let reason = Reason::new(ReasonCode::AtCapacity, "no");
    let declined = Declined { job, attempt: known.attempt, rev: known.rev, reason, for_good: false };
    let event = master::Event::Received { link, message: Message::Declined(declined) };
    let step = master::step(world.master.clone().unwrap(), close.unwrap(), event);
    assert_eq!(step.state.book.jobs.get(&job).unwrap().state, State::Queued);
}

/// A slave at a job that ends only when it is told to, out of reach of its master; another job waits behind it.
fn at_work() -> (slave::Slave, slave::Now, JobId, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
    let job = place_as(&mut world, |_| {});
    let waits = place_as(&mut world, |_| {});
    world.cut(0);
    assert_eq!(
        (world.on_slave(0, job), world.on_slave(0, waits)),
        (Some(State::Running), Some(State::Accepted))
    );
    (world.boxes[0].state.clone().unwrap(), world.slave_now(0), job, waits)
}

fn machine_says(state: slave::Slave, now: slave::Now, job: JobId, fact: Fact) -> slave::Step {
    let work = state.jobs[&job].work();
    slave::step(state, now, slave::Event::Machine { work, fact })
}

fn person_says(state: slave::Slave, now: slave::Now, command: Local) -> slave::Step {
    slave::step(state, now, slave::Event::Local { request: 1, command })
}

fn ended(end: End) -> Fact {
    let outcome = Outcome { exit_code: None, signal: None, text: String::new() };
    Fact::Ended(Ended { end, outcome, at: None })
}

/// What the slave says of a job, and why.
fn word(state: &slave::Slave, job: JobId) -> (State, Option<ReasonCode>) {
    let report = &state.jobs[&job].report;
    (report.state, report.reason.as_ref().map(|reason| reason.code))
}

/// The job as it is while the machine is asked whether it has begun it, because it would not.
fn refused_to_start() -> (slave::Slave, slave::Now, JobId, JobId) {
    let (mut state, now, job, waits) = at_work();
    let kept = state.jobs.get_mut(&job).unwrap();
    kept.report.state = State::Starting;
    (kept.report.started_at, kept.report.started_rev) = (None, None);
    let step = machine_says(state, now, job, Fact::StartRefused("too cold".to_owned()));
    assert!(step.effects.iter().any(|effect| matches!(effect, slave::Effect::Probe { .. })));
    (step.state, now, job, waits)
}

#[test]
fn a_success_that_somebody_had_wished_away_says_so_whoever_it_was() {
    for (by_person, by_master, flagged) in
        [(false, false, false), (true, false, true), (false, true, true), (true, true, true)]
    {
        let (mut state, now, job, _) = at_work();
        if by_person {
            state = person_says(state, now, Local::Stop { now: false }).state;
        }
        if by_master {
            state.jobs.get_mut(&job).unwrap().desired = Desired::Cancel(CancelMode::Now);
        }
        let after = machine_says(state, now, job, ended(End::Succeeded)).state;
        let report = &after.jobs[&job].report;
        assert_eq!(report.state, State::Succeeded);
        assert_eq!(report.flags.has(Flags::CANCEL_TOO_LATE), flagged, "{by_person} {by_master}");
    }
}

#[test]
fn that_a_machine_knows_nothing_of_a_start_that_it_refused_means_what_the_job_is_by_then() {
    let never = || Fact::Probed(slave::Probed::NeverStarted);
    let (state, now, job, _) = refused_to_start();
    let after = machine_says(state.clone(), now, job, never()).state;
    assert_eq!(word(&after, job), (State::Rejected, Some(ReasonCode::StartRefused)));
    let begun = machine_says(state.clone(), now, job, Fact::Started).state;
    let after = machine_says(begun, now, job, never()).state;
    assert_eq!(word(&after, job), (State::Uncertain, Some(ReasonCode::NoProof)), "it had said that it began");
    let stopping = person_says(state, now, Local::Stop { now: true }).state;
    let after = machine_says(stopping, now, job, never()).state;
    assert_eq!(word(&after, job), (State::Canceled, Some(ReasonCode::StoppedLocally)));
}

#[test]
fn what_waits_while_a_machine_is_being_asked_waits_for_the_machine() {
    let waits_for = |state: &slave::Slave, job: JobId| state.jobs[&job].report.waiting_for;
    let (state, now, job, waits) = refused_to_start();
    assert_eq!(waits_for(&state, waits), Some(WaitingFor::Ready));
    let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
    let after = machine_says(state, now, job, alive).state;
    assert_eq!((word(&after, job).0, waits_for(&after, waits)), (State::Running, Some(WaitingFor::Turn)));
}

#[test]
fn a_machine_is_asked_only_of_what_it_may_have_and_for_as_long_as_nothing_is_known() {
    let (mut state, now, job, _) = at_work();
    state.fresh = slave::Fresh::default();
    let event = slave::Event::AgentStarted {
        boot: BootId([7; 16]),
        fingerprint: None,
        known_key: true,
        next_store: StoreId([7; 16]),
        damage: Damage::default(),
    };
    let step = slave::step(state, now, event);
    let asked = step.effects.iter().filter_map(|effect| match effect {
        slave::Effect::Probe { work, .. } => Some(work.job),
        _ => None,
    });
    assert_eq!(asked.collect::<Vec<_>>(), [job]);
    let after = machine_says(step.state, now, job, ended(End::Succeeded)).state;
    assert!(after.fresh.probing.is_empty(), "it has said what there is to know");
}

#[test]
fn what_is_being_stopped_is_stopped_again_as_hard_when_it_is_found_working() {
    for hard in [false, true] {
        let (state, now, job, _) = at_work();
        let state = person_says(state, now, Local::Stop { now: hard }).state;
        let mode = if hard { CancelMode::Now } else { CancelMode::SafePoint };
        let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
        let step = machine_says(state, now, job, alive);
        let stops = step.effects.iter().filter_map(|effect| match effect {
            slave::Effect::Stop { now, .. } => Some(*now),
            _ => None,
        });
        assert_eq!(stops.collect::<Vec<_>>(), [hard]);
        assert_eq!(word(&step.state, job), (State::Stopping, Some(ReasonCode::StoppedLocally)));
        assert_eq!(step.state.jobs[&job].stopping, Some(mode));
    }
}

#[test]
fn what_nobody_could_say_is_stopped_by_whoever_wished_it_once_it_is_found_working() {
    for (stopping, desired, state, reason) in [
        (None, Desired::Run, State::Running, None),
        (Some(CancelMode::Now), Desired::Run, State::Stopping, Some(ReasonCode::StoppedLocally)),
        (
            Some(CancelMode::Now),
            Desired::Cancel(CancelMode::Now),
            State::Stopping,
            Some(ReasonCode::Canceled),
        ),
        (None, Desired::Cancel(CancelMode::Now), State::Stopping, Some(ReasonCode::Canceled)),
    ] {
        let (mut before, now, job, _) = at_work();
        let kept = before.jobs.get_mut(&job).unwrap();
        if stopping.is_some() {
            kept.report.state = State::Stopping;
        }
        (kept.stopping, kept.desired) = (stopping, desired);
        let unknown = Fact::Probed(slave::Probed::Unknown("no answer".to_owned()));
        let doubtful = machine_says(before, now, job, unknown).state;
        assert_eq!(word(&doubtful, job), (State::Uncertain, Some(ReasonCode::NoProof)));
        let alive = Fact::Probed(slave::Probed::Alive { paused: false, permille: None });
        let found = machine_says(doubtful, now, job, alive).state;
        assert_eq!(word(&found, job), (state, reason), "{stopping:?} {desired:?}");
    }
}

#[test]
fn who_resolves_at_the_machine_need_not_name_the_only_job_that_is_uncertain() {
    let resolve = |uncertain: usize| {
        let (mut state, now, job, waits) = at_work();
        for id in [job, waits].into_iter().take(uncertain) {
            state.jobs.get_mut(&id).unwrap().report.state = State::Uncertain;
        }
        let step = person_says(state, now, Local::Resolve { job: None, end: End::Failed });
        let reply = step.effects.iter().find_map(|effect| match effect {
            slave::Effect::Reply { reply, .. } => Some(reply.clone()),
            _ => None,
        });
        (reply.unwrap().map_err(|text| text.contains("name the one")), word(&step.state, job).0)
    };
    assert_eq!(resolve(0), (Err(false), State::Running));
    let (reply, state) = resolve(1);
    assert_eq!((reply.is_ok(), state), (true, State::Failed));
    assert_eq!(resolve(2), (Err(true), State::Uncertain));
}

#[test]
fn a_machine_is_asked_to_pause_once_and_only_what_it_works_at() {
    let asks = |step: &slave::Step| {
        step.effects.iter().filter(|effect| matches!(effect, slave::Effect::Pause(_))).count()
    };
    let (state, now, _, _) = at_work();
    let first = person_says(state, now, Local::Pause);
    let second = person_says(first.state.clone(), now, Local::Pause);
    assert_eq!((asks(&first), asks(&second)), (1, 0));

    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.start.gate = Gate::Held);
    world.acts = Some(vec![]);
    world.command(job, JobCommand::Pause);
    world.settle();
    assert_eq!((world.state(job), world.job(job).desired), (State::Accepted, Desired::Pause));
    let asked = world.acts.unwrap().iter().any(|act| matches!(act, slave::Effect::Pause(_)));
    assert!(!asked, "nothing of it is in the machine");
}

#[test]
fn a_release_lets_a_job_start_in_its_last_millisecond() {
    for (wait, expected) in
        [(5_000, (State::Starting, None)), (5_001, (State::Accepted, Some(ReasonCode::ReleaseLapsed)))]
    {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        let busy = place_as(&mut world, |_| {});
        let job = place_as(&mut world, |order| order.start.gate = Gate::Held);
        world.command(job, JobCommand::Release { valid: Millis(5_000) });
        world.settle();
        world.cut(0);
        world.pass_some(wait);
        let state = world.boxes[0].state.clone().unwrap();
        let after = machine_says(state, world.slave_now(0), busy, ended(End::Succeeded)).state;
        assert_eq!(word(&after, job), expected, "after {wait} ms");
    }
}

#[test]
fn a_wish_that_is_not_followed_is_answered_with_what_is() {
    for (newer_attempt, older_wish, declined) in [(0, 0, false), (0, 1, false), (1, 0, true)] {
        let mut world = World::new(1);
        let job = place_as(&mut world, |_| {});
        let known = world.job(job);
        let before = world.boxes[0].state.as_ref().unwrap().jobs[&job].report.clone();
        let (link, session) = live_at(&world);
        let want = Want {
            job,
            attempt: Attempt(known.attempt.0 + newer_attempt),
            rev: WishRev(known.rev.0 - older_wish),
            digest: known.digest,
            spec: Some(known.spec),
            desired: Desired::Run,
            start: known.start,
        };
        let (_, effects) = hears(&world, link, session, Message::Want(want));
        let said = |is: &dyn Fn(&Message) -> bool| {
            effects.iter().any(|effect| matches!(effect, slave::Effect::Send { message, .. } if is(message)))
        };
        let told_again = |message: &Message| matches!(message, Message::Report(report) if report.seq > before.seq && report.state == before.state);
        assert!(said(&told_again), "{newer_attempt} {older_wish}: {effects:?}");
        assert_eq!(said(&|message| matches!(message, Message::Declined(_))), declined);
    }
}

/// Introduces the slave and settles, with this of the past in reach of the master; its last step.
fn shakes(
    seat: &mut Seat,
    past: (Vec<master::Job>, Vec<Order>),
    rows: Vec<Row>,
    (reports, records): (Vec<Report>, Vec<Record>),
) -> master::Step {
    let first = Hello { rows, ..seat.hello() };
    seat.step(master::Event::Recalled(past.0.clone()));
    seat.say_hello(OLDER, first.clone());
    seat.step(master::Event::Recalled(past.0));
    seat.step(master::Event::OrdersRecalled(past.1));
    let settled =
        Settled { session: first.session, reports, records, declined: vec![], machine: first.machine };
    let event = master::Event::Received { link: OLDER, message: Message::Settled(settled) };
    let step = master::step(seat.state.clone(), seat.now, event);
    seat.state = step.state.clone();
    step
}

/// What the master does with a report on the live link, of a job that may be on its disk only.
fn reports(seat: &mut Seat, past: Option<&master::Job>, report: Report) -> master::Step {
    seat.step(master::Event::Recalled(past.into_iter().cloned().collect()));
    let event = master::Event::Received { link: OLDER, message: Message::Report(report) };
    let step = master::step(seat.state.clone(), seat.now, event);
    seat.state = step.state.clone();
    step
}

fn row_of(report: &Report) -> Row {
    Row {
        job: report.job,
        attempt: report.attempt,
        rev: report.rev,
        seq: report.seq,
        state: report.state,
        progress: report.progress,
    }
}

/// A master and a job that runs at its slave, with the slave's last word, before any link.
fn runs() -> (Seat, Report) {
    let mut world = World::new(1);
    let job = place_as(&mut world, |order| order.slave = Some("s0".to_owned()));
    assert_eq!(world.state(job), State::Running);
    let mut seat = Seat::of(&mut world);
    let report = seat.state.book.jobs.get_mut(&job).unwrap().report.as_mut().unwrap();
    report.seq.count = 10;
    let report = report.clone();
    (seat, report)
}

/// The same, with a link that is live.
fn runs_live() -> (Seat, Report) {
    let (mut seat, report) = runs();
    drop(shakes(&mut seat, (vec![], vec![]), vec![row_of(&report)], (vec![], vec![])));
    assert_eq!(seat.live(), Some(OLDER));
    (seat, report)
}

fn numbered(report: &Report, count: u32, state: State) -> Report {
    Report { seq: ReportSeq { count, ..report.seq }, state, ..report.clone() }
}

#[test]
fn an_older_attempt_in_a_slaves_view_says_nothing_of_a_newer() {
    for (attempt, canceled) in [(1, true), (2, false)] {
        let (mut seat, report) = runs();
        let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
        // It was given up, tried again at the same slave, and canceled; the slave has not heard of that.
        (job.attempt, job.last_attempt) = (Attempt(2), Attempt(2));
        (job.state, job.report, job.desired) =
            (State::Assigned, None, Desired::Cancel(CancelMode::SafePoint));
        let row = Row { attempt: Attempt(attempt), ..row_of(&report) };
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![]));
        let ended: Vec<_> = step.archived.iter().map(|job| job.state).collect();
        assert_eq!(ended == [State::Canceled], canceled, "{ended:?}");
    }
}

#[test]
fn what_a_person_said_of_an_earlier_doubt_is_no_answer_to_a_later_one() {
    let (mut seat, report) = runs();
    let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
    // It was uncertain and resolved, was found working all the same, and then the slave had nothing of it any more.
    (job.state, job.report, job.desired) = (State::Uncertain, None, Desired::Resolve(End::Succeeded));
    let before = job.clone();
    let step = shakes(&mut seat, (vec![], vec![]), vec![], (vec![], vec![]));
    assert_eq!(step.state.book.jobs.get(&report.job).as_deref(), Some(&before));
}

#[test]
fn an_outcome_beside_the_job_is_forgotten_by_its_slave_only_if_it_is_that_outcome() {
    for (attempt, own, kept, said, forgotten) in [
        (7, true, State::Failed, State::Failed, true),
        (6, true, State::Failed, State::Failed, false),
        (7, false, State::Failed, State::Failed, false),
        (7, true, State::Canceled, State::Failed, false),
        (7, true, State::Running, State::Running, false),
    ] {
        let (mut seat, report) = claim();
        let holder = if own { seat.key } else { SlaveKey([9; 32]) };
        let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
        job.earlier.push(master::Earlier { attempt: Attempt(attempt), holder, state: kept, report: None });
        let row = Row { attempt: Attempt(7), state: said, ..row_of(&report) };
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![]));
        assert_eq!(is_forgotten(&step.effects), forgotten, "{attempt} {own} {kept:?} {said:?}");
    }
}

#[test]
fn an_outcome_that_is_told_again_changes_nothing_and_another_one_is_marked() {
    for (count, said, flagged) in [
        (10, State::Succeeded, false),
        (11, State::Succeeded, false),
        (9, State::Succeeded, false),
        (11, State::Failed, true),
        (9, State::Failed, true),
    ] {
        let (mut seat, report) = runs_live();
        let first = reports(&mut seat, None, numbered(&report, 10, State::Succeeded));
        let [known] = first.archived.as_slice() else { panic!("{:?}", first.archived) };
        assert!(is_forgotten(&first.effects));
        for heard_on in [None, Some(OLDER)] {
            let known = master::Job { heard_on, ..known.clone() };
            let again = reports(&mut seat, Some(&known), numbered(&report, count, said));
            let [job] = again.archived.as_slice() else { panic!("{:?}", again.archived) };
            assert_eq!(job.state, State::Succeeded);
            let kept = job.report.as_ref().unwrap();
            assert_eq!(kept.state, State::Succeeded, "{count} {said:?}");
            assert_eq!(kept.seq.count, if flagged { 10 } else { count.max(10) });
            assert_eq!(job.flags.has(Flags::DUPLICATE), flagged, "{count} {said:?}");
            assert!(is_forgotten(&again.effects), "{count} {said:?}");
        }
    }
}

#[test]
fn a_lower_number_is_an_older_word_only_on_the_same_connection() {
    let (mut seat, report) = runs_live();
    let state = |seat: &Seat| seat.state.book.jobs.get(&report.job).unwrap().state;
    drop(reports(&mut seat, None, numbered(&report, 7, State::Paused)));
    assert_eq!(state(&seat), State::Paused, "nothing of it was heard here before");
    let step = reports(&mut seat, None, numbered(&report, 6, State::Running));
    assert_eq!(state(&seat), State::Paused);
    let ignored = step.effects.iter().any(|effect| matches!(effect, master::Effect::Ignored(_)));
    assert!(ignored, "{:?}", step.effects);
    drop(reports(&mut seat, None, numbered(&report, 8, State::Running)));
    assert_eq!(state(&seat), State::Running);
}

#[test]
fn who_was_asked_to_give_a_job_back_may_have_done_so_until_it_speaks_of_it_again() {
    for (heard, state, open) in
        [(4, State::Accepted, true), (5, State::Running, false), (6, State::Running, false)]
    {
        let (mut seat, report) = runs_live();
        let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
        (job.state, job.report) = (State::Accepted, Some(numbered(&report, 10, State::Accepted)));
        (job.rev, job.recalled, job.desired) = (WishRev(5), Some(WishRev(5)), Desired::Return);
        let report = Report { rev: WishRev(heard), ..numbered(&report, 11, state) };
        drop(reports(&mut seat, None, report.clone()));
        let job = seat.state.book.jobs.get(&report.job).unwrap();
        assert_eq!((job.state, job.recalled.is_some()), (state, open), "{heard}");
    }
}

#[test]
fn how_far_a_job_is_need_not_be_on_disk_and_what_it_is_must() {
    let (mut seat, report) = runs_live();
    drop(reports(&mut seat, None, numbered(&report, 11, State::Running)));
    let further = Report { progress: Some(500), ..numbered(&report, 12, State::Running) };
    let step = reports(&mut seat, None, further.clone());
    assert_eq!(step.persist, []);
    assert_eq!(step.state.book.jobs.get(&report.job).unwrap().report, Some(further));
    let step = reports(&mut seat, None, numbered(&report, 13, State::Paused));
    assert!(step.persist.iter().any(|write| matches!(write, master::Write::Job(_))));
}

#[test]
fn what_was_given_up_is_corrected_by_the_very_word_that_was_known_before() {
    let (mut seat, report) = runs_live();
    let mut given_up = seat.state.book.jobs.get(&report.job).unwrap().into_owned();
    given_up.state = State::Lost;
    let key = seat.key;
    seat.state.book = master::Book::default();
    let step = reports(&mut seat, Some(&given_up), numbered(&report, 11, State::Running));
    let job = step.state.book.jobs.get(&report.job).unwrap();
    assert_eq!((job.state, job.holder, job.flags.has(Flags::LATE_RESULT)), (State::Running, Some(key), true));
    assert!(step.persist.iter().any(|write| matches!(write, master::Write::Job(_))));
}

#[test]
fn a_cancel_came_too_late_only_for_what_was_canceled_and_succeeded() {
    let canceled = Desired::Cancel(CancelMode::SafePoint);
    for (desired, said, too_late) in [
        (Desired::Run, State::Succeeded, false),
        (Desired::Run, State::Failed, false),
        (canceled, State::Canceled, false),
        (canceled, State::Succeeded, true),
    ] {
        let (mut seat, report) = runs_live();
        seat.state.book.jobs.get_mut(&report.job).unwrap().desired = desired;
        let step = reports(&mut seat, None, numbered(&report, 11, said));
        let [job] = step.archived.as_slice() else { panic!("{:?}", step.archived) };
        let flagged = job.flags.has(Flags::CANCEL_TOO_LATE);
        assert_eq!((job.state, flagged), (said, too_late), "{desired:?}");
    }
}

#[test]
fn the_attempt_that_speaks_for_a_job_again_is_the_one_of_that_slave() {
    let mut world = World::new(1);
    let job = place_as(&mut world, |_| {});
    let report = world.job(job).report.unwrap();
    world.cut(0);
    world.command(job, JobCommand::Abandon);
    world.command(job, JobCommand::Retry);
    assert_eq!(world.state(job), State::Queued);
    let mut seat = Seat::of(&mut world);
    let key = seat.key;
    let others = [(report.attempt, SlaveKey([9; 32])), (Attempt(9), key)];
    let earlier = &mut seat.state.book.jobs.get_mut(&job).unwrap().earlier;
    for (attempt, holder) in others {
        earlier.insert(0, master::Earlier { attempt, holder, state: State::Failed, report: None });
    }
    settle_with(&mut seat, vec![report.clone()]);
    let job = seat.state.book.jobs.get(&job).unwrap();
    assert_eq!((job.state, job.attempt, job.holder), (State::Running, report.attempt, Some(key)));
    assert_eq!(job.report, Some(report));
    let beside: Vec<_> = job.earlier.iter().rev().map(|one| (one.attempt, one.holder)).collect();
    assert_eq!(beside, others);
}

/// What a slave tells of a job that its master does not know.
fn unheard_of(report: &Report, seat: &Seat, state: State) -> (Row, Record) {
    let known = seat.state.book.jobs.get(&report.job).unwrap();
    let report = Report { job: JobId([0xcc; 16]), state, ..report.clone() };
    (row_of(&report), Record { spec: known.spec.clone(), start: known.start, report })
}

#[test]
fn a_slave_with_as_many_jobs_as_it_may_tell_of_is_left_only_outcomes() {
    for (held, state, adopted) in
        [(ROWS - 1, State::Running, true), (ROWS, State::Running, false), (ROWS, State::Succeeded, true)]
    {
        let (mut seat, report) = runs();
        let known = seat.state.book.jobs.get(&report.job).unwrap().into_owned();
        let copies = (1..held).map(|number| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&(number as u64).to_be_bytes());
            master::Job { id: JobId(id), ..known.clone() }
        });
        let copies: Vec<_> = copies.collect();
        seat.step(master::Event::Recalled(copies));
        let (row, record) = unheard_of(&report, &seat, state);
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![], vec![record]));
        let is_there = step.state.book.jobs.contains_key(&row.job);
        let is_kept = step.archived.iter().any(|job| job.id == row.job);
        assert_eq!(is_there || is_kept, adopted, "{held} {state:?}");
    }
}

#[test]
fn an_order_gains_the_jobs_that_slaves_have_of_it_as_long_as_it_has_room_and_is_the_same() {
    let ids = |count: usize| (0..count).map(|number| JobId((number as u128).to_be_bytes()));
    let grown = |jobs: Option<Vec<JobId>>, other_work: bool| {
        let (mut seat, report) = runs();
        let (row, record) = unheard_of(&report, &seat, State::Running);
        let mut order = World::new(0).order("mill");
        (order.id, order.spec) = (record.spec.order, record.spec.clone());
        if other_work {
            order.spec.program = "bake".to_owned();
        }
        let orders = jobs.map(|jobs| Order { jobs, ..order }).into_iter().collect();
        let step = shakes(&mut seat, (vec![], orders), vec![row], (vec![], vec![record]));
        assert!(step.state.book.jobs.contains_key(&row.job), "the job is adopted in any case");
        let written = step.persist.iter().find_map(|write| match write {
            master::Write::Order(order) => Some(order.jobs.clone()),
            _ => None,
        });
        written.map(|jobs| {
            assert_eq!(jobs.last(), Some(&row.job));
            jobs.len()
        })
    };
    assert_eq!(grown(None, false), Some(1), "nothing is left of it");
    assert_eq!(grown(Some(ids(1).collect()), false), Some(2));
    assert_eq!(grown(Some(ids(1).chain([JobId([0xcc; 16])]).collect()), false), None, "it has it");
    assert_eq!(grown(Some(ids(1).collect()), true), None, "it is for other work");
    assert_eq!(grown(Some(ids(999).collect()), false), Some(1_000));
    assert_eq!(grown(Some(ids(1_000).collect()), false), None, "it is full");
}

#[test]
fn a_person_is_asked_of_a_job_that_was_taken_and_is_gone_unless_it_had_been_asked_back() {
    for (recalled, desired, verdict) in [
        (false, Desired::Run, Verdict::AskPerson),
        (true, Desired::Run, Verdict::Offer),
        (true, Desired::Return, Verdict::Release),
    ] {
        let (mut seat, report) = runs();
        let job = seat.state.book.jobs.get_mut(&report.job).unwrap();
        (job.state, job.report) = (State::Accepted, Some(numbered(&report, 10, State::Accepted)));
        (job.desired, job.recalled) = (desired, recalled.then_some(job.rev));
        let first = seat.hello();
        let effects = seat.say_hello(OLDER, first);
        let ruling = &welcomed(&effects, OLDER).unwrap().rulings[0];
        assert_eq!(ruling.verdict, verdict, "{recalled} {desired:?}");
    }
}

#[test]
fn a_cancel_that_the_machine_refused_is_over_and_the_next_one_is_on_its_way_again() {
    for (again, taken) in [(false, true), (true, false)] {
        let mut world = World::new(1);
        world.boxes[0].machine.length_ms = Machine::UNTIL_TOLD;
        world.boxes[0].machine.unstoppable = true;
        let job = place_as(&mut world, |_| {});
        let cancel = JobCommand::Cancel(CancelMode::Now);
        world.command(job, cancel);
        world.settle();
        let report = world.job(job).report.unwrap();
        let reason = report.reason.map(|reason| reason.code);
        assert_eq!((report.state, reason), (State::Running, Some(ReasonCode::StopRefused)));
        world.cut(0);
        if again {
            world.command(job, cancel);
        }
        let answer = world.command(job, JobCommand::Pause);
        assert_eq!(matches!(answer, Some(Answer::Taken(_))), taken, "{answer:?}");
    }
}

/// A job that waits for its time behind a long one; the slave is off when that comes if `missed`, and is there if not.
fn had_its_time(missed: bool) -> (World, JobId) {
    let mut world = World::new(1);
    world.boxes[0].machine.length_ms = 40_000;
    place_as(&mut world, |_| {});
    let at = later(&world, 10_000);
    let job = place_as(&mut world, |order| order.start.not_before = at);
    if missed {
        world.kill_agent(0);
        world.pass_some(20_000);
        revive_and_settle(&mut world);
    } else {
        world.pass_some(20_000);
        world.settle();
    }
    let report = world.job(job).report.unwrap();
    assert_eq!((report.state, report.flags.has(Flags::MISSED_START)), (State::Accepted, missed));
    (world, job)
}

fn revive_and_settle(world: &mut World) {
    world.start_agent(0, true);
    world.plug(0);
    world.settle();
}

fn plan(world: &mut World, job: JobId, in_ms: Option<i64>, late: Late) {
    let not_before = in_ms.and_then(|ms| later(world, ms));
    world.command(job, JobCommand::Reschedule { not_before, deadline: None, late });
    world.settle();
}

#[test]
fn what_is_planned_anew_has_not_been_missed() {
    for missed in [false, true] {
        for (in_ms, waits_for) in [(Some(100_000), WaitingFor::Time), (None, WaitingFor::Turn)] {
            let (mut world, job) = had_its_time(missed);
            plan(&mut world, job, in_ms, Late::Hold);
            let report = world.job(job).report.unwrap();
            assert_eq!((report.waiting_for, report.reason), (Some(waits_for), None), "{missed} {in_ms:?}");
            world.pass(150_000);
            assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1), "{missed} {in_ms:?}");
        }
    }
}

#[test]
fn a_time_that_came_before_a_job_was_planned_anew_is_not_the_new_one() {
    let (mut world, job) = had_its_time(false);
    plan(&mut world, job, Some(100_000), Late::Hold);
    world.pass(50_000);
    world.kill_agent(0);
    world.pass_some(100_000);
    revive_and_settle(&mut world);
    let report = world.job(job).report.unwrap();
    let reason = report.reason.map(|reason| reason.code);
    assert_eq!((report.state, reason), (State::Accepted, Some(ReasonCode::MissedStart)));
    assert_eq!(world.begun(job), 0);
}

#[test]
fn a_missed_start_follows_the_newest_word_about_late_ones_when_the_agent_starts_again() {
    for (late, state) in
        [(Late::Hold, State::Accepted), (Late::Run, State::Running), (Late::Skip, State::Expired)]
    {
        let (mut world, job) = had_its_time(true);
        world.pass(25_000);
        let planned = world.job(job).start.not_before.unwrap();
        let in_ms = planned.0 - world.now().0;
        plan(&mut world, job, Some(in_ms), late);
        assert_eq!(
            world.state(job),
            State::Accepted,
            "a person has to let it go, or else the next start of the agent"
        );
        world.kill_agent(0);
        revive_and_settle(&mut world);
        assert_eq!((world.state(job), world.begun(job)), (state, u32::from(late == Late::Run)), "{late:?}");
    }
}

#[test]
fn a_time_that_is_over_ends_no_hold_of_a_missed_start() {
    let mut world = World::new(1);
    let mut order = world.order("mill");
    order.start.not_before = Some(Time(world.now().0 + 5_000));
    order.start.late = Late::Hold;
    let job = world.place(order);
    world.settle();
    world.kill_agent(0);
    world.pass(10_000);
    world.start_agent(0, true);
    world.plug(0);
    world.settle();
    assert!(world.job(job).all_flags().has(Flags::MISSED_START));
    let over = Some(Time(world.now().0 - 1_000));
    world.command(job, JobCommand::Reschedule { not_before: over, deadline: None, late: Late::Hold });
    world.settle();
    assert_eq!((world.state(job), world.begun(job)), (State::Accepted, 0), "only a release starts it");
    let later = Some(Time(world.now().0 + 1_000));
    world.command(job, JobCommand::Reschedule { not_before: later, deadline: None, late: Late::Hold });
    world.pass(2_000);
    assert_eq!(world.state(job), State::Running);
}

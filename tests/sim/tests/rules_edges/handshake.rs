//! Hello, Welcome, Settled: which messages are accepted when, and what they contain.

use reloop_protocol::handshake::{FromSlave, from_slave};
use reloop_protocol::id::{
    Attempt, BootId, Commit, Epoch, Generation, Incarnation, JobId, MasterId, ReportSeq, Session, StoreId,
};
use reloop_protocol::job::State;
use reloop_protocol::master::{self, Answer, Job, JobCommand, RequestId, SlaveCommand, Token};
use reloop_protocol::message::{
    CloseCode, Hello, MachineReport, MasterBinding, Message, Mode, OperatingMode, ReasonCode, Record, Refuse,
    Report, Row, Ruling, Settled, Tell, Welcome,
};
use reloop_protocol::reconcile::Verdict;
use reloop_protocol::slave::{self, LinkId};
use reloop_protocol::spec::StartRule;
use reloop_protocol::time::Time;
use reloop_protocol::wire::Frame;
use reloop_sim::world::World;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use crate::stage::*;

#[test]
fn the_same_box_takes_over_its_link_and_another_box_has_to_wait_for_the_first() {
    for in_handshake in [false, true] {
        for (other_store, other_boot) in [(false, false), (true, false), (false, true), (true, true)] {
            let mut seat = Seat::of(&mut World::new(1));
            let first = seat.introduce();
            if !in_handshake {
                seat.settle(OLDER, first.session);
                assert_eq!(seat.live(), Some(OLDER));
            }
            let mut second = Hello { session: first.session.next(), ..first.clone() };
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
fn of_two_boxes_with_one_key_the_one_whose_link_ends_first_has_to_come_again() {
    let asking = || {
        let mut seat = Seat::of(&mut World::new(1));
        let first = seat.introduce();
        seat.settle(OLDER, first.session);
        let second = Hello { boot: BootId([9; 16]), session: first.session.next(), ..first };
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
    // A third box has to come again later.
    let mut seat = asking();
    let third = Hello { boot: BootId([8; 16]), ..seat.hello() };
    assert_eq!(closed(&seat.say_hello(LinkId(502), third), LinkId(502)), Some(CloseCode::TryLater));
}

#[test]
fn a_revoked_slave_has_no_link_in_any_phase_of_its_handshake() {
    for (settled, asked, back) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (false, false, true),
        (true, true, true),
    ] {
        let case = (settled, asked, back);
        let mut seat = Seat::of(&mut World::new(1));
        let first = seat.introduce();
        if settled {
            seat.settle(OLDER, first.session);
        }
        let second = Hello { boot: BootId([9; 16]), session: first.session.next(), ..first.clone() };
        if asked {
            assert!(is_probed(&seat.say_hello(NEWER, second), OLDER));
        }
        let (request, slave) = (RequestId(900), seat.key);
        let command = SlaveCommand::Forget;
        let effects = seat.step(master::Event::SlaveCommanded { request, slave, command });
        assert_eq!(closed(&effects, OLDER), Some(CloseCode::Revoked), "{case:?}");
        assert_eq!(closed(&effects, NEWER), asked.then_some(CloseCode::Revoked), "{case:?}");
        assert_eq!(master::broken_invariant(&seat.state), None, "{case:?}");
        // Messages on their way arrive all the same, and then the connections end.
        let before = seat.state.slaves[&seat.key].clone();
        if back {
            let token = Token { expires_at: Time(i64::MAX), uses_left: 1, name: None };
            seat.step(master::Event::TokenMade { request, hash: [7; 32], token });
            let third = Hello { session: Session(first.session.0 + 2), ..first.clone() };
            let link = LinkId(502);
            seat.step(master::Event::LinkOpened { link, nonce: [0; 32] });
            let hello = Box::new(third);
            let effects = seat.step(master::Event::HelloReceived { link, hello, token: Some([7; 32]) });
            assert!(welcomed(&effects, link).is_some(), "{case:?}");
        }
        seat.settle(OLDER, first.session);
        seat.step(master::Event::LinkProbed { link: OLDER, alive: false });
        seat.step(master::Event::LinkClosed { link: OLDER, last_heard: Time(seat.now.0 - 5) });
        seat.step(master::Event::LinkClosed { link: NEWER, last_heard: Time(seat.now.0 - 9) });
        let after = &seat.state.slaves[&seat.key];
        assert_eq!(
            (seat.live(), after.store, after.receipts),
            (None, before.store, before.receipts),
            "{case:?}"
        );
        if !back {
            assert_eq!(after.last_contact, before.last_contact.max(Some(Time(seat.now.0 - 5))), "{case:?}");
        }
    }
}

#[test]
fn a_slave_sends_nothing_before_settled_and_settled_only_once() {
    let mut seat = Seat::of(&mut World::new(1));
    let first = seat.hello();
    let machine = first.machine.clone();
    let answer = reloop_protocol::message::Answer { id: 1, answer: reloop_protocol::message::Reply::Done };
    for message in [Message::Machine(machine), Message::Answer(answer)] {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        seat.say_hello(OLDER, first.clone());
        let effects = seat.step(received(OLDER, message.clone()));
        assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol), "{message:?}");
    }
    seat.say_hello(OLDER, first.clone());
    assert_eq!(closed(&seat.settle(OLDER, first.session), OLDER), None);
    assert_eq!(closed(&seat.settle(OLDER, first.session), OLDER), Some(CloseCode::Protocol));
}

#[test]
fn a_settled_of_another_session_is_ignored() {
    let mut seat = Seat::of(&mut World::new(1));
    let first = seat.introduce();
    let effects = seat.settle(OLDER, first.session.next());
    assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol));
    assert_eq!(seat.live(), None);
}

#[test]
fn a_report_before_the_end_of_the_handshake_ends_the_link() {
    let (mut world, job) = running();
    let report = world.job(job).report.unwrap();
    let seat = Seat::of(&mut world);
    let first = seat.hello();
    let declined = no_to(&world.job(job), ReasonCode::AtCapacity, false);
    for message in [Message::Report(report), Message::Declined(declined)] {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        seat.say_hello(OLDER, first.clone());
        let effects = seat.step(received(OLDER, message));
        assert_eq!(closed(&effects, OLDER), Some(CloseCode::Protocol));
    }
}

#[test]
fn offers_that_do_not_fit_into_one_message_come_when_the_link_is_live() {
    let mut world = World::new(1);
    world.swallow(0);
    let mut jobs = vec![];
    for _ in 0..4 {
        jobs.push(place_as(&mut world, |order| {
            order.slave = Some("s0".to_owned());
            order.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(32_000))]);
            much_later(order);
        }));
    }
    assert!(jobs.iter().all(|job| world.state(*job) == State::Assigned));
    let size = world.job(jobs[0]).spec.size();
    // Here the size of the message is the limit, and not the slave's capacity.
    let mut seat = Seat::of(&mut world);
    for (number, job) in seat.state.clone().book.jobs.values().map(Cow::into_owned).enumerate() {
        let id = JobId([100 + number as u8; 16]);
        let mut copy = master::Job { id, ..job };
        copy.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(32_000))]);
        seat.load(vec![copy]);
    }
    let first = seat.hello();
    let effects = seat.say_hello(OLDER, first);
    let welcome = welcomed(&effects, OLDER).unwrap();
    assert_eq!(welcome.rulings.len(), 8);
    let with_work = welcome.rulings.iter().filter(|ruling| ruling.desired_state.is_some()).count();
    assert_eq!(with_work, 128 * 1024 / size, "{size} bytes each");
}

#[test]
fn the_end_of_a_link_answers_only_the_questions_on_that_link() {
    let mut world = World::new(2);
    let mut asked = vec![];
    for name in ["s0", "s1"] {
        let job = placed(&mut world, |order| order.slave = Some(name.to_owned()));
        assert_eq!(world.state(job), State::Running);
        let request = RequestId(5_000_000 + asked.len() as u64);
        world.master_event(master::Event::LogAsked { request, job, offset: None, limit: 100 });
        asked.push(request);
    }
    assert!(asked.iter().all(|request| !world.answers.contains_key(request)));
    let link = link_of(&world, 0);
    let last_heard = world.now();
    world.master_event(master::Event::LinkClosed { link, last_heard });
    let lost = Answer::Refused(master::Refusal::SlaveOffline(master::Offline::Lost));
    assert_eq!(world.answers.get(&asked[0]), Some(&lost));
    assert_eq!(world.answers.get(&asked[1]), None);
    assert_eq!(world.master.as_ref().unwrap().asked.len(), 1, "the other slave may still answer");
}

#[test]
fn a_receipt_tells_the_state_of_the_slaves_store_and_whether_its_box_was_rebooted() {
    let mut world = World::new(1);
    let last = |world: &World| {
        let receipt = world.master_disk.receipts.last().unwrap();
        (receipt.store.name(), receipt.rebooted)
    };
    assert_eq!(last(&world), ("trusted", false));
    world.save_disk(0);
    world.cut(0);
    reconnect(&mut world, 0);
    assert_eq!(last(&world), ("trusted", false));
    reboot(&mut world);
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
fn a_receipt_shows_the_verdict_on_what_the_slave_told_last() {
    // The machine goes on between the Hello and the Settled.
    for (told, verdict, line) in
        [(State::Running, Verdict::Keep, "it_runs"), (State::Succeeded, Verdict::Forget, "it_ended")]
    {
        let (mut seat, report) = runs();
        let row = Report { progress: None, ..report.clone() }.row();
        let told = numbered(&report, 20, told);
        let step = shakes(&mut seat, (vec![], vec![]), vec![row], (vec![told], vec![]));
        let receipt = step.persist.iter().find_map(|write| match write {
            master::Write::Receipt(receipt) => Some(receipt),
            _ => None,
        });
        let [shown] = receipt.unwrap().lines.as_slice() else { panic!("{receipt:?}") };
        assert_eq!((shown.verdict, shown.line.as_str()), (verdict, line));
    }
}

#[test]
fn what_a_hello_says_of_a_job_counts_also_if_the_job_is_given_up_before_the_settled() {
    let (mut seat, report) = runs();
    let row = Row { progress: Some(420), ..report.row() };
    let first = Hello { rows: vec![row], ..seat.hello() };
    seat.say_hello(OLDER, first.clone());
    let given_up = seat.commands(report.job, JobCommand::Abandon).archived;
    assert_eq!(given_up[0].state, State::Lost);
    seat.load(given_up);
    seat.settle(OLDER, first.session);
    let job = seat.job(report.job);
    assert_eq!((job.state, job.report.unwrap().progress), (State::Running, Some(420)));
}

#[test]
fn the_orders_of_records_are_loaded_before_the_records_are_judged() {
    let mut world = World::new(1);
    let order = world.order("mill");
    let (id, spec) = (order.id, order.spec.clone());
    let job = world.place(order);
    world.settle();
    let report = world.job(job).report.unwrap();
    let record = Record { requires: Default::default(), spec, start: StartRule::default(), report };
    let settled = Settled { records: vec![record.clone(), record], ..settled(Session(1)) };
    let event = received(OLDER, Message::Settled(settled));
    let state = world.master.as_ref().unwrap();
    assert_eq!(master::unknown(state, &event).orders, BTreeSet::from([id]));
    assert!(master::unknown(state, &master::Event::TimePassed).is_empty());
}

#[test]
fn a_slave_hears_nothing_that_comes_on_another_link_or_of_another_session() {
    let mut world = World::new(1);
    let (link, session) = live(&world);
    let operating_mode =
        Message::OperatingMode(OperatingMode { generation: Generation(100), mode: Mode::Maintenance });
    let obeys =
        |(state, _): (slave::Slave, Vec<slave::Effect>)| state.node.operating_mode.mode == Mode::Maintenance;
    let (other_link, other_session) = (LinkId(link.0 + 1_000), Session(session.0 + 1));
    assert!(obeys(hears(&world, link, session, operating_mode.clone())));
    assert!(!obeys(hears(&world, other_link, session, operating_mode.clone())));
    assert!(!obeys(hears(&world, link, other_session, operating_mode)));
    // The end of another link is not the end of this one.
    world.slave_event(0, slave::Event::LinkClosed { link: other_link });
    assert!(matches!(agent(&world).link, slave::Link::Live { .. }));
    world.slave_event(0, slave::Event::LinkClosed { link });
    assert_eq!(agent(&world).link, slave::Link::Down);

    // The same in the handshake.
    let challenge = challenge(&world);
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
            binding: introduced.node.binding.unwrap(),
            operating_mode: introduced.node.operating_mode,
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
fn after_a_restore_the_masters_decision_about_a_slave_is_newer_than_any_that_the_slave_has_heard() {
    let mode = |maintenance: bool| if maintenance { Mode::Maintenance } else { Mode::Production };
    for (heard, maintenance, expected) in
        [(7, true, 8), (7, false, 7), (3, true, 4), (3, false, 3), (1, true, 3), (1, false, 3)]
    {
        let mut seat = Seat::of(&mut World::new(1));
        let key = seat.key;
        seat.state.slaves.get_mut(&key).unwrap().operating_mode.generation = Generation(3);
        let first = seat.introduce();
        let operating_mode = OperatingMode { generation: Generation(heard), mode: mode(maintenance) };
        let machine = MachineReport { operating_mode, ..first.machine };
        seat.settle_as(first.session, machine);
        let expected = OperatingMode { generation: Generation(expected), mode: Mode::Production };
        assert_eq!(seat.state.slaves[&key].operating_mode, expected, "{operating_mode:?}");
    }
}

#[test]
fn a_slave_doubts_a_master_only_if_it_has_seen_a_later_commit() {
    for (ahead, doubted) in [(0, false), (1, true)] {
        let mut seat = Seat::of(&mut World::new(1));
        let binding = seat.binding(seat.state.node.epoch, ahead);
        let first = Hello { binding: Some(binding), ..seat.hello() };
        seat.say_hello(OLDER, first);
        assert_eq!(seat.state.slaves[&seat.key].doubts, doubted, "{ahead} ahead");
    }
}

#[test]
fn a_welcome_asks_only_for_what_is_not_known_and_tells_only_what_is_newer() {
    let (mut world, job) = running();
    let known = world.job(job);
    let report = known.report.clone().unwrap();
    let seat = Seat::of(&mut world);
    let same = Row { generation: known.generation, ..report.row() };
    let ruled = |row: Row| {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        let first = Hello { rows: vec![row], ..seat.hello() };
        let effects = seat.say_hello(OLDER, first);
        let ruling = welcomed(&effects, OLDER).unwrap().rulings[0].clone();
        (ruling.verdict, ruling.tell, ruling.desired_state.is_some())
    };
    assert_eq!(ruled(same), (Verdict::Keep, Tell::Nothing, false));
    let newer = ReportSeq { count: report.seq.count + 1, ..report.seq };
    assert_eq!(ruled(Row { seq: newer, ..same }), (Verdict::Keep, Tell::Report, false));
    assert_eq!(ruled(Row { state: State::Paused, ..same }), (Verdict::Keep, Tell::Report, false));
    let older_desired_state = Row { generation: Generation(known.generation.0 - 1), ..same };
    assert_eq!(ruled(older_desired_state), (Verdict::Keep, Tell::Nothing, true));
    // Of what has ended nothing more is asked, unless a person gave it up.
    for (state, tell) in [(State::Succeeded, Tell::Nothing), (State::Lost, Tell::Report)] {
        let mut seat = Seat { state: seat.state.clone(), ..seat };
        seat.state.book = master::Book::default();
        seat.step(master::Event::LinkOpened { link: OLDER, nonce: [0; 32] });
        seat.load(vec![Job { state, ..known.clone() }]);
        let rows = vec![Row { state: State::Succeeded, seq: newer, ..same }];
        let hello = Box::new(Hello { rows, ..seat.hello() });
        let effects = seat.step(master::Event::HelloReceived { link: OLDER, hello, token: None });
        assert_eq!(welcomed(&effects, OLDER).unwrap().rulings[0].tell, tell, "{state:?}");
    }
}

#[test]
fn a_hello_is_of_the_session_that_its_frame_names() {
    let frame = |session: u64| Frame {
        session: Session(session),
        commit: Commit(0),
        message: Message::Hello(Box::new(hello(1, "a"))),
        signature: None,
    };
    assert_eq!(from_slave(None, &frame(1)), FromSlave::Hello);
    assert!(matches!(from_slave(None, &frame(2)), FromSlave::Fault(_)));
}

#[test]
fn a_store_that_went_back_is_asked_for_all_its_jobs() {
    let (mut world, job) = running();
    let known = world.job(job);
    let report = known.report.clone().unwrap();
    let mut seat = Seat::of(&mut world);
    let row = Row { generation: known.generation, ..report.row() };
    // The slave repeats a session number.
    let session = seat.state.slaves[&seat.key].session;
    let first = Hello { rows: vec![row], session, ..seat.hello() };
    let effects = seat.say_hello(OLDER, first);
    let ruling = &welcomed(&effects, OLDER).unwrap().rulings[0];
    assert_eq!((ruling.verdict, ruling.tell), (Verdict::Quarantine, Tell::Report));
}

#[test]
fn a_job_that_only_an_old_store_knows_is_not_lost_and_waits_for_a_person() {
    let (mut seat, report) = runs();
    let (row, record) = unheard_of(&report, &seat, State::Uncertain);
    let session = seat.state.slaves[&seat.key].session;
    let effects = seat.say_hello(OLDER, Hello { rows: vec![row], session, ..seat.hello() });
    let of_it =
        welcomed(&effects, OLDER).unwrap().rulings.iter().find(|ruling| ruling.job == row.job).unwrap();
    assert_eq!((of_it.verdict, of_it.tell), (Verdict::Quarantine, Tell::Record));
    let settled = Settled { records: vec![record], ..settled(session) };
    seat.step(received(OLDER, Message::Settled(settled)));
    let adopted = seat.state.book.jobs.get(&row.job).expect("it is known now");
    assert_eq!((adopted.state, adopted.holder), (State::Uncertain, Some(seat.key)));
}

/// A slave that has done, reported and forgotten a job, and has sent its Hello; and its recent outcome of the job.
fn introduced(binding: Option<MasterBinding>) -> (slave::Slave, slave::Now, Record) {
    let mut world = World::new(1);
    placed(&mut world, |_| {});
    world.pass(12_000);
    world.cut(0);
    let mut state = agent(&world).clone();
    state.node.binding = binding;
    state.node.operating_mode.generation = Generation(9);
    state.link = slave::Link::Introduced { link: OLDER, session: Session(50), doubtful: false };
    let record = state.recent_outcomes[0].clone();
    (state, world.slave_now(0), record)
}

const HOUSE: MasterId = MasterId([3; 16]);

fn binding(epoch: u32, commit: u64) -> MasterBinding {
    MasterBinding {
        master: HOUSE,
        epoch: Epoch(epoch),
        incarnation: Incarnation::default(),
        commit: Commit(commit),
    }
}

fn welcome_to(
    state: slave::Slave,
    now: slave::Now,
    binding: MasterBinding,
    rulings: Vec<Ruling>,
) -> slave::Step {
    let operating_mode = OperatingMode { generation: Generation(0), mode: Mode::Production };
    let welcome = Welcome { protocol: 1, session: Session(50), binding, operating_mode, rulings };
    let message = Message::Welcome(welcome);
    slave::step(state, now, heard(OLDER, Session(50), message))
}

#[test]
fn outcomes_count_as_received_only_after_the_master_has_sent_something() {
    for (before, empty, commit, owed) in [
        (Some(binding(1, 5)), false, 9, None),
        (Some(binding(1, 0)), false, 0, Some(Commit(9))),
        (Some(binding(0, 5)), false, 0, Some(Commit(9))),
        (None, false, 0, Some(Commit(9))),
        (Some(binding(1, 0)), true, 9, None),
    ] {
        let (mut state, now, _) = introduced(before);
        if empty {
            state.recent_outcomes = Default::default();
        }
        let after = welcome_to(state, now, binding(1, 9), vec![]).state;
        assert_eq!(
            (after.node.binding, after.volatile.owed),
            (Some(binding(1, commit)), owed),
            "{before:?} {empty}"
        );
        assert!(matches!(after.link, slave::Link::Live { link: OLDER, .. }));
        let spoken = slave::step(after, now, heard(OLDER, Session(50), Message::Ping)).state;
        assert_eq!((spoken.node.binding, spoken.volatile.owed), (Some(binding(1, 9)), None));
    }
}

/// Whether the Settled reports that a job has succeeded.
fn tells_a_success(step: &slave::Step) -> bool {
    let settled = step.effects.iter().find_map(|effect| match effect {
        slave::Effect::Send { message: Message::Settled(settled), .. } => Some(settled),
        _ => None,
    });
    settled.unwrap().reports.iter().any(|report| report.state == State::Succeeded)
}

#[test]
fn a_store_that_went_back_tells_no_outcome_that_it_remembers() {
    for (of_the_other, is_told) in [(Verdict::Quarantine, false), (Verdict::Keep, true)] {
        let (state, now, record) = introduced(Some(binding(1, 5)));
        let ruling = |job, verdict| {
            let attempt = record.report.attempt;
            Ruling { job, attempt, verdict, tell: Tell::Nothing, desired_state: None }
        };
        let rulings =
            vec![ruling(JobId([0xaa; 16]), of_the_other), ruling(record.report.job, Verdict::AskPerson)];
        let step = welcome_to(state, now, binding(1, 9), rulings);
        assert_eq!(tells_a_success(&step), is_told, "{of_the_other:?}");
        assert_eq!(step.state.recent_outcomes.is_empty(), !is_told, "{of_the_other:?}");
    }
}

#[test]
fn a_welcome_of_an_older_epoch_is_ignored() {
    let (state, now, _) = introduced(Some(binding(2, 5)));
    let step = welcome_to(state, now, binding(1, 9), vec![]);
    assert_eq!((step.state.link, step.state.node.binding), (slave::Link::Down, Some(binding(2, 5))));
}

#[test]
fn a_slave_that_another_master_admits_binds_to_it_with_a_new_binding() {
    let (mut state, now, _) = introduced(Some(MasterBinding { master: MasterId([8; 16]), ..binding(2, 5) }));
    let mode = Mode::Maintenance;
    state.node.operating_mode.mode = mode;
    let link = state.link;
    let after = welcome_to(state, now, binding(1, 9), vec![]).state;
    assert_eq!((after.link, after.node.binding), (slave::Link::Down, Some(binding(1, 0))));
    assert_eq!(
        after.node.operating_mode,
        OperatingMode { generation: Generation(0), mode },
        "what the other decided is no older decision"
    );
    let after = welcome_to(slave::Slave { link, ..after }, now, binding(1, 9), vec![]).state;
    assert_eq!(after.node.operating_mode.mode, Mode::Production, "its new master's first decision counts");
}

#[test]
fn a_person_is_not_asked_about_a_job_among_the_recent_outcomes() {
    let told = |attempt_off: u32, other_job: bool, verdict: Verdict, held: bool| {
        let (mut state, now, record) = introduced(Some(binding(1, 5)));
        let job = if other_job { JobId([0xaa; 16]) } else { record.report.job };
        if held {
            let mut world = World::new(1);
            let id = placed(&mut world, |_| {});
            let mut kept = agent(&world).clone().jobs[&id].clone();
            kept.report.job = job;
            kept.report.state = State::Uncertain;
            state.jobs.insert(job, kept);
        }
        let attempt = Attempt(record.report.attempt.0 + attempt_off);
        let ruling = Ruling { job, attempt, verdict, tell: Tell::Nothing, desired_state: None };
        tells_a_success(&welcome_to(state, now, binding(1, 9), vec![ruling]))
    };
    assert!(told(0, false, Verdict::AskPerson, false), "it tells how it ended");
    assert!(!told(0, false, Verdict::Keep, false), "unless nobody would ask");
    assert!(!told(1, false, Verdict::AskPerson, false), "of another attempt it knows nothing");
    assert!(!told(0, true, Verdict::AskPerson, false), "nor of another job");
    assert!(!told(0, false, Verdict::AskPerson, true), "what it holds it says otherwise");
}

#[test]
fn as_many_of_the_newest_outcomes_are_kept_as_fit() {
    let mut world = World::new(1);
    let mut done = |bytes: usize| {
        let job = placed(&mut world, |order| {
            order.spec.params = BTreeMap::from([("p".to_owned(), "x".repeat(bytes))]);
        });
        world.pass(12_000);
        assert_eq!(world.state(job), State::Succeeded);
        let recent_outcomes = &agent(&world).recent_outcomes;
        assert_eq!(recent_outcomes.last().map(|record| record.report.job), Some(job));
        recent_outcomes.len()
    };
    let counted: Vec<_> = (0..slave::RECENT_OUTCOMES + 3).map(|_| done(10)).collect();
    assert_eq!(counted[..slave::RECENT_OUTCOMES], (1..=slave::RECENT_OUTCOMES).collect::<Vec<_>>());
    assert_eq!(counted[slave::RECENT_OUTCOMES..], [slave::RECENT_OUTCOMES; 3]);
    // Large outcomes push out the small ones, and then each other.
    let large = slave::RECENT_OUTCOMES_BYTES / 2 - 1_000;
    let counted: Vec<_> = (0..4).map(|_| done(large)).collect();
    assert_eq!(counted, [slave::RECENT_OUTCOMES, slave::RECENT_OUTCOMES, 2, 2]);
}

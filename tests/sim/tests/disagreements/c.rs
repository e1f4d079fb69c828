//! Store and identity.

use reloop_protocol::id::{BootId, StoreId};
use reloop_protocol::job::{End, State};
use reloop_protocol::master::{Answer, Delivery, JobCommand, Need, Refusal, SlaveCommand, needs};
use reloop_protocol::message::{Attention, CloseCode, Hello, Message, ReasonCode, Report};
use reloop_protocol::slave::{self, Local};
use reloop_protocol::spec::Desired;
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn c1_a_new_store_under_an_old_key_waits_for_one_action_of_a_person() {
    let (mut world, job) = running();
    world.replace_disk(0);
    world.settle();
    assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::StoreReplaced));
    assert_eq!(machine(&world).attention, Some(Attention::StoreReplaced));
    let next = place(&mut world);
    world.pass(20_000);
    assert_eq!((world.state(next), world.begun(next)), (State::Queued, 0));
    world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(world.state(job), State::Failed, "a person says how it ended");
    world.settle();
    assert_eq!(world.begun(next), 0, "and that the machine is clear");
    world.command_slave(0, SlaveCommand::Clear);
    world.settle();
    assert_eq!(world.state(next), State::Running);
}

#[test]
fn c1_what_a_person_said_stands_though_the_store_is_lost_before_its_slave_hears_it() {
    let (mut seat, report) = runs();
    // After a person's word the slave's store went back, and it said that it has the job before it. Then it lost that store too.
    let job = seat.job_mut(report.job);
    (job.state, job.desired) = (State::Accepted, Desired::Resolve(End::Succeeded));
    job.report = Some(Report { state: State::Accepted, started_at: None, ..report });
    let first = Hello { store: StoreId([77; 16]), ..seat.hello() };
    seat.say_hello(OLDER, first.clone());
    let step = seat.full_step(received(OLDER, Message::Settled(settled(first.session))));
    let ended: Vec<_> = step.archived.iter().map(|job| job.state).collect();
    assert_eq!(ended, [State::Succeeded], "nobody is asked a second time");
}

#[test]
fn c2_a_store_that_does_not_open_is_a_new_store_and_the_machine_is_not_touched() {
    let (mut world, job) = running();
    world.replace_disk(0);
    world.pass(15_000);
    assert_eq!(world.boxes[0].machine.works.len(), 1, "neither stopped nor begun again");
    assert_eq!(world.state(job), State::Uncertain);
}

#[test]
fn c3_nothing_deferred_fires_from_a_store_that_went_back() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 20_000, |_| {});
    let old = world.boxes[0].disk.clone();
    let store = agent(&world).node.store;
    world.cut(0);
    reconnect(&mut world, 0);
    world.kill_agent(0);
    world.boxes[0].disk = old;
    world.start_agent(0, true);
    world.pass(60_000);
    assert_eq!(world.begun(job), 0);
    let node = &agent(&world).node;
    assert_eq!(node.attention, Some(Attention::StoreRolledBack));
    assert_ne!(node.store, store, "a new store id");
    assert_eq!(world.state(job), State::Uncertain);
}

#[test]
fn c3_what_ran_before_the_store_went_back_does_not_run_again() {
    let mut world = World::new(1);
    let job = deferred(&mut world, 20_000, |_| {});
    world.save_disk(0);
    world.cut(0);
    reconnect(&mut world, 0);
    world.pass(40_000);
    assert_eq!(world.state(job), State::Succeeded);
    world.put_back_disk(0);
    world.pass(60_000);
    assert_eq!((world.state(job), world.begun(job)), (State::Succeeded, 1));
    assert_eq!(machine(&world).attention, Some(Attention::StoreRolledBack));
}

#[test]
fn c3_how_a_job_ended_before_the_store_went_back_is_asked_of_nobody() {
    for fails in [false, true] {
        let mut world = World::new(1);
        world.boxes[0].machine.fails = fails;
        let job = deferred(&mut world, 20_000, |_| {});
        world.save_disk(0);
        world.cut(0);
        reconnect(&mut world, 0);
        world.pass(40_000);
        let ended = world.job(job);
        assert_eq!(ended.state, if fails { State::Failed } else { State::Succeeded });
        world.put_back_disk(0);
        world.settle();
        assert_eq!(world.on_slave(0, job), None, "fails {fails}: its slave was told and has let it go");
        assert_eq!(
            (world.job(job).state, world.job(job).report, world.job(job).all_flags()),
            (ended.state, ended.report.clone(), ended.all_flags()),
            "fails {fails}"
        );
        world.command_slave(0, SlaveCommand::Clear);
        let next = place(&mut world);
        world.settle();
        assert_eq!(world.state(next), State::Running, "fails {fails}: a person has looked");
    }
}

#[test]
fn c3_what_was_given_up_is_a_persons_to_resolve_where_the_store_went_back() {
    let (mut world, job) = endless_job(|_, _| {});
    world.save_disk(0);
    world.cut(0);
    reconnect(&mut world, 0);
    world.cut(0);
    world.settle();
    world.command(job, JobCommand::Abandon);
    world.put_back_disk(0);
    reconnect(&mut world, 0);
    assert_eq!((world.state(job), world.on_slave(0, job)), (State::Lost, Some(State::Uncertain)));
    let listed = |world: &World| -> Vec<_> {
        let needed = needs(world.master.as_ref().unwrap(), world.now(), None, 9);
        needed.into_iter().map(|needed| (needed.need, needed.job)).collect()
    };
    assert_eq!(listed(&world), [(Need::Attention, Some(job)), (Need::Unresolved, Some(job))]);
    let told = world.command(job, JobCommand::Resolve(End::Failed));
    assert_eq!(told, Some(Answer::Taken(vec![(job, Delivery::Sent)])), "what is listed is granted");
    world.settle();
    assert_eq!(world.on_slave(0, job), None);
    world.command_slave(0, SlaveCommand::Clear);
    let next = place(&mut world);
    world.settle();
    assert_eq!(world.state(next), State::Running, "the machine works again");
}

#[test]
fn c3_a_store_that_went_back_is_recognised_even_without_a_job() {
    for waits_there in [false, true] {
        let mut world = World::new(1);
        let node = |world: &World| world.boxes[0].state.as_ref().unwrap().node.clone();
        let (old, store) = (world.boxes[0].disk.clone(), node(&world).store);
        if waits_there {
            deferred(&mut world, 3_600_000, |_| {});
        }
        world.cut(0);
        reconnect(&mut world, 0);
        world.kill_agent(0);
        world.boxes[0].disk = old;
        world.start_agent(0, true);
        world.settle();
        assert_eq!(machine(&world).attention, Some(Attention::StoreRolledBack), "{waits_there}");
        assert_ne!(node(&world).store, store, "{waits_there}: a new store id");
        let next = place(&mut world);
        world.pass(20_000);
        world.cut(0);
        reconnect(&mut world, 0);
        world.pass(20_000);
        assert_eq!((world.state(next), world.begun(next)), (State::Queued, 0), "{waits_there}");
        world.command_slave(0, SlaveCommand::Clear);
        world.settle();
        assert_eq!(world.state(next), State::Running, "{waits_there}: a person has looked");
    }
}

#[test]
fn c4_a_clone_is_refused_and_flagged_while_the_older_link_answers() {
    let (mut world, job) = running();
    let (settings, disk) = (world.boxes[0].settings.clone(), world.boxes[0].disk.clone());
    let key = settings.key;
    let clone = world.add_slave("clone");
    world.kill_agent(clone);
    world.boxes[clone].settings = settings;
    world.boxes[clone].disk = disk;
    world.boxes[clone].closed.clear();
    world.start_agent(clone, true);
    world.settle();
    assert_eq!(world.boxes[clone].closed.last(), Some(&CloseCode::DuplicateIdentity));
    assert!(!CloseCode::DuplicateIdentity.is_passing(), "no takeover loop");
    assert!(world.master.as_ref().unwrap().slaves[&key].cloned_at.is_some(), "flagged");
    assert_eq!(world.state(job), State::Running);
    world.pass(11_000);
    assert_eq!(world.state(job), State::Succeeded, "undisturbed");
}

#[test]
fn c4_a_quick_reboot_is_not_taken_for_a_clone() {
    let mut world = World::new(1);
    // The master's end stays open; the box comes back with another boot.
    world.swallow(0);
    world.half_open(0);
    world.kill_agent(0);
    world.boxes[0].boot = BootId([9; 16]);
    world.start_agent(0, true);
    reconnect(&mut world, 0);
    assert_ne!(world.boxes[0].closed.last(), Some(&CloseCode::DuplicateIdentity));
    let job = placed(&mut world, |_| {});
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn c5_a_higher_session_of_the_same_slave_takes_over_at_once() {
    let (mut world, job) = running();
    let dead = world.master.as_ref().unwrap().slaves.values().next().unwrap().live();
    world.half_open(0);
    world.pass(20_000);
    assert_eq!(world.state(job), State::Running);
    reconnect(&mut world, 0);
    let live = world.master.as_ref().unwrap().slaves.values().next().unwrap().live();
    assert!(live.is_some() && live != dead);
    assert_eq!(world.state(job), State::Succeeded);
}

#[test]
fn c6_a_box_with_another_fingerprint_waits_for_a_person() {
    let mut world = World::new(1);
    let start = |fingerprint, world: &World| slave::Event::AgentStarted {
        boot: world.boxes[0].boot,
        fingerprint: Some([fingerprint; 16]),
        known_key: true,
        next_store: StoreId([1; 16]),
        damage: slave::Damage::default(),
        unfit: Default::default(),
    };
    let event = start(1, &world);
    world.slave_event(0, event);
    assert_eq!(machine(&world).attention, None);
    let event = start(2, &world);
    world.slave_event(0, event);
    world.settle();
    assert_eq!(machine(&world).attention, Some(Attention::Moved));
    let job = place(&mut world);
    world.pass(5_000);
    assert_eq!(world.begun(job), 0);
    world.local(0, Local::Clear).unwrap().unwrap();
    world.settle();
    assert_eq!(world.state(job), State::Running);
}

#[test]
fn c7_a_new_key_under_an_old_name_is_a_persons_choice() {
    let (mut world, job) = running();
    world.cut(0);
    let newcomer = world.add_slave("s0");
    world.settle();
    assert_eq!(world.boxes[newcomer].closed.last(), Some(&CloseCode::NameTaken));
    world.command_slave(0, SlaveCommand::Forget);
    world.boxes[newcomer].closed.clear();
    world.settle();
    assert!(world.boxes[newcomer].closed.is_empty());
    assert_eq!(world.holder(job), Some(0), "jobs of the old one stay with the old key");
}

#[test]
fn c8_a_revoked_slave_finishes_and_is_adopted_when_it_is_enrolled_again() {
    let (mut world, job) = running();
    world.command_slave(0, SlaveCommand::Forget);
    world.pass(20_000);
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::Revoked));
    assert_eq!(world.on_slave(0, job), Some(State::Succeeded), "it keeps the outcome");
    let approved = world.command_slave(0, SlaveCommand::Approve);
    assert!(matches!(approved, Some(Answer::Refused(Refusal::SlaveRevoked))), "{approved:?}");
    world.plug_again(0);
    world.settle();
    assert_eq!(world.boxes[0].closed.last(), Some(&CloseCode::Revoked));
    world.enroll(0);
    world.settle();
    assert_eq!(world.state(job), State::Succeeded);
}

//! Records that are damaged or lost, and how much of an output is read at once.

use reloop_protocol::id::{Attempt, Run, StoreId};
use reloop_protocol::job::State;
use reloop_protocol::limits::LOG_BYTES;
use reloop_protocol::master::{JobCommand, Origin, origin};
use reloop_protocol::message::{Ask, Attention, Message, Question, ReasonCode};
use reloop_protocol::slave::{self, Damage, Local};
use reloop_sim::world::World;

use crate::stage::*;

#[test]
fn records_that_cannot_be_read_bar_the_machine_until_somebody_has_looked() {
    for (damage, expected) in [
        (Damage { node: false, jobs: 1 }, Some(Attention::StoreRolledBack)),
        (Damage { node: true, jobs: 2 }, Some(Attention::StoreReplaced)),
        (Damage::default(), None),
    ] {
        let mut world = World::new(1);
        let started = slave::Event::AgentStarted {
            boot: world.boxes[0].boot,
            fingerprint: None,
            // The key is new too, so the damage alone has to be enough.
            known_key: false,
            next_store: StoreId([7; 16]),
            damage,
            unfit: Default::default(),
        };
        world.slave_event(0, started);
        assert_eq!(agent(&world).node.attention, expected);
        let job = place(&mut world);
        world.pass(1_000);
        assert_eq!(world.begun(job), u32::from(expected.is_none()), "{damage:?}");
        restart_agent(&mut world);
        assert_eq!(agent(&world).node.attention, expected, "the next start knows it too");
    }
}

#[test]
fn without_its_own_record_nothing_else_on_a_slaves_disk_counts() {
    let (world, job) = starting();
    let state = agent(&world);
    let (node, jobs, recent_outcomes) = slave::durable(state);
    let jobs = jobs.into_iter().map(|(id, job)| slave::Write::Job(id, Some(Box::new(job))));
    let rest: Vec<_> = jobs.chain([slave::Write::RecentOutcomes(recent_outcomes)]).collect();
    let recover = |records: Vec<_>| slave::recover(state.settings.clone(), StoreId([7; 16]), records);
    let lost = recover(rest.clone());
    assert_eq!((lost.node.store, lost.jobs.len()), (StoreId([7; 16]), 0));
    let whole = recover(rest.into_iter().chain([slave::Write::Node(node)]).collect());
    assert!(whole.jobs.contains_key(&job));
}

#[test]
fn a_part_of_an_output_fits_an_answer_however_much_is_asked_for() {
    let (world, job) = starting();
    for (asked, given) in [(u32::MAX, LOG_BYTES), (100, 100)] {
        let question = Question::Log { job, attempt: Attempt(1), run: Run(1), offset: None, limit: asked };
        let effects = would_do(&world, Message::Ask(Ask { id: 1, question }));
        let limits = effects.iter().filter_map(|effect| match effect {
            slave::Effect::ReadLog { limit, .. } => Some(*limit),
            _ => None,
        });
        assert_eq!(limits.collect::<Vec<_>>(), [given]);
    }
}

#[test]
fn a_master_whose_own_record_is_lost_knows_that_it_is_not_a_new_one() {
    assert_eq!(origin(true, true), Origin::Known);
    assert_eq!(origin(false, true), Origin::Nameless);
    assert_eq!(origin(false, false), Origin::Newborn);
}

#[test]
fn what_nobody_knows_of_is_not_begun_again_by_a_word_that_is_not_about_that() {
    for words in [&[JobCommand::Resume][..], &[JobCommand::Pause, JobCommand::Resume]] {
        let (mut world, job) = endless_job(|_, _| {});
        world.lenient = true;
        world.replace_disk(0);
        world.settle();
        assert_eq!((world.state(job), reason(&world, job)), (State::Uncertain, ReasonCode::StoreReplaced));
        // The slave is looked at. Of the job a person has not said anything yet.
        world.local(0, Local::Clear);
        world.settle();
        for word in words {
            command(&mut world, job, *word);
        }
        world.pass(60_000);
        assert_eq!(world.begun(job), 1, "{words:?}: {:?} {:?}", world.state(job), world.broken);
        assert_eq!((world.state(job), world.on_slave(0, job)), (State::Uncertain, None), "{words:?}");
    }
}

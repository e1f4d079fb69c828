//! Enrolment: tokens, names, approval.

use reloop_protocol::id::{MasterId, SlaveKey};
use reloop_protocol::master::{
    self, Answer, CloseReason, Enrolled, Enrollment, MAX_PENDING, NotEnrolled, Refusal, RequestId,
    SlaveCommand, Token,
};
use reloop_protocol::message::{Hello, MasterBinding};
use reloop_protocol::slave::LinkId;
use reloop_sim::world::World;

use crate::stage::*;

/// Sends a slave's Hello. Returns whether it is enrolled then, and the text with which the master closed.
fn introduce(
    world: &mut World,
    link: u64,
    hello: Hello,
    token: Option<[u8; 32]>,
) -> (Option<Enrolled>, Option<CloseReason>) {
    let key = hello.key;
    let link = LinkId(1_000_000 + link);
    let now = world.now();
    world.master_event(master::Event::LinkOpened { link, nonce: [0; 32] });
    let event = master::Event::HelloReceived { link, hello: Box::new(hello), token };
    let step = master::step(world.master.clone().unwrap(), now, event.clone());
    let why = step.effects.into_iter().find_map(|effect| match effect {
        master::Effect::Close { why, .. } => Some(why),
        _ => None,
    });
    world.master_event(event);
    let slave = world.master.as_ref().unwrap().slaves.get(&key);
    (slave.map(|slave| slave.enrolled), why)
}

/// Why a slave was not enrolled.
fn not_enrolled(why: Option<CloseReason>) -> Option<NotEnrolled> {
    match why? {
        CloseReason::NotEnrolled { why, .. } => Some(why),
        _ => None,
    }
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
fn a_token_enrols_as_many_slaves_as_it_says() {
    let mut world = with_token(2, 1_000, None);
    assert_eq!(introduce(&mut world, 1, hello(1, "a"), Some([7; 32])).0, Some(Enrolled::Yes));
    assert_eq!(introduce(&mut world, 2, hello(2, "b"), Some([7; 32])).0, Some(Enrolled::Yes));
    let (third, why) = introduce(&mut world, 3, hello(3, "c"), Some([7; 32]));
    assert_eq!((third, not_enrolled(why)), (None, Some(NotEnrolled::UnknownToken)));
    assert!(world.master.unwrap().tokens.is_empty());
}

#[test]
fn a_token_enrols_until_its_last_millisecond() {
    for (wait, enrolled) in [(1_000, Some(Enrolled::Yes)), (1_001, None)] {
        let mut world = with_token(1, 1_000, None);
        world.pass_some(wait);
        let (found, why) = introduce(&mut world, 1, hello(1, "a"), Some([7; 32]));
        assert_eq!(found, enrolled, "after {wait} ms");
        assert_eq!(not_enrolled(why), enrolled.is_none().then_some(NotEnrolled::ExpiredToken));
    }
}

#[test]
fn a_token_for_a_name_enrols_only_that_name_and_is_not_spent_by_another() {
    let mut world = with_token(1, 1_000, Some("mill"));
    let (other, why) = introduce(&mut world, 1, hello(1, "lathe"), Some([7; 32]));
    assert_eq!((other, not_enrolled(why)), (None, Some(NotEnrolled::OtherName)));
    assert_eq!(introduce(&mut world, 2, hello(2, "mill"), Some([7; 32])).0, Some(Enrolled::Yes));
    let (none, why) = introduce(&mut world, 3, hello(3, "saw"), None);
    assert_eq!((none, not_enrolled(why)), (None, Some(NotEnrolled::NoToken)));
}

#[test]
fn a_slave_that_waits_for_approval_is_listed_once_and_the_list_is_bounded() {
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
    // A slave on the list is not added again.
    let before = world.master.clone().unwrap().slaves;
    introduce(&mut world, 1_000, hello(3, "s3"), None);
    assert_eq!(world.master.unwrap().slaves, before);
}

#[test]
fn without_approval_mode_unknown_slaves_are_not_listed() {
    let mut world = with_token(1, 1_000, None);
    introduce(&mut world, 1, hello(1, "a"), None);
    assert!(world.master.unwrap().slaves.is_empty());
}

#[test]
fn a_slave_of_another_master_that_is_not_enrolled_is_told_its_master() {
    let mut world = with_token(1, 1_000, None);
    let (own, incarnation) = {
        let master = world.master.as_ref().unwrap();
        (master.node, master.incarnation())
    };
    for (master, elsewhere) in [(MasterId([0xee; 16]), true), (own.id, false)] {
        let mut caller = hello(1, "a");
        caller.binding = Some(MasterBinding { master, epoch: own.epoch, incarnation, commit: own.commit });
        let (_, why) = introduce(&mut world, 1, caller, None);
        let Some(CloseReason::NotEnrolled { foreign, .. }) = why else { panic!("{why:?}") };
        assert_eq!(foreign, elsewhere.then_some([master, own.id]));
    }
}

#[test]
fn a_revoked_slave_comes_back_only_with_a_token_even_with_open_enrolment() {
    let mut world = World::new(1);
    world.cut(0);
    world.command_slave(0, SlaveCommand::Forget);
    let key = world.boxes[0].settings.key;
    assert_eq!(world.master.as_ref().unwrap().slaves[&key].enrolled, Enrolled::Revoked);
    world.master.as_mut().unwrap().settings.enrollment = Enrollment::Open;
    let caller = Hello { key, ..hello(1, "s0") };
    let (enrolled, why) = introduce(&mut world, 1, caller.clone(), None);
    assert_eq!((enrolled, not_enrolled(why)), (Some(Enrolled::Revoked), Some(NotEnrolled::Revoked)));
    assert_eq!(introduce(&mut world, 2, hello(2, "new"), None).0, Some(Enrolled::Yes), "others may");
    let token = Token { expires_at: later(&world, 1_000).unwrap(), uses_left: 1, name: None };
    world.master_event(master::Event::TokenMade { request: RequestId(77), hash: [7; 32], token });
    assert_eq!(introduce(&mut world, 3, caller, Some([7; 32])).0, Some(Enrolled::Yes));
}

#[test]
fn a_revoked_slave_is_enrolled_again_only_by_a_token() {
    for enrollment in [Enrollment::Open, Enrollment::Token, Enrollment::Approve] {
        let mut world = with_token(1, 1_000, None);
        world.master.as_mut().unwrap().settings.enrollment = enrollment;
        let token = (enrollment == Enrollment::Token).then_some([7; 32]);
        introduce(&mut world, 1, hello(1, "mill"), token);
        let request = RequestId(78);
        let slave = SlaveKey([1; 32]);
        let command = |world: &mut World, command| {
            world.master_event(master::Event::SlaveCommanded { request, slave, command });
            let slave = &world.master.as_ref().unwrap().slaves[&slave];
            (world.answers[&request].clone(), slave.enrolled)
        };
        command(&mut world, SlaveCommand::Approve);
        command(&mut world, SlaveCommand::Forget);
        let (answer, enrolled) = command(&mut world, SlaveCommand::Approve);
        assert_eq!((answer, enrolled), (Answer::Refused(Refusal::SlaveRevoked), Enrolled::Revoked));
        let (enrolled, why) = introduce(&mut world, 2, hello(1, "mill"), None);
        assert_eq!(enrolled, Some(Enrolled::Revoked), "{enrollment:?}");
        let needs_token = match enrollment {
            Enrollment::Token => NotEnrolled::NoToken,
            Enrollment::Open | Enrollment::Approve => NotEnrolled::Revoked,
        };
        assert_eq!(not_enrolled(why), Some(needs_token));
        let token = Token { expires_at: later(&world, 1_000).unwrap(), uses_left: 1, name: None };
        world.master_event(master::Event::TokenMade { request, hash: [8; 32], token });
        assert_eq!(introduce(&mut world, 3, hello(1, "mill"), Some([8; 32])).0, Some(Enrolled::Yes));
    }
}

#[test]
fn a_name_is_taken_while_an_enrolled_slave_bears_it_also_beside_a_revoked_one() {
    let mut world = World::new(0);
    world.master.as_mut().unwrap().settings.enrollment = Enrollment::Open;
    introduce(&mut world, 1, hello(1, "mill"), None);
    let revoke = SlaveCommand::Forget;
    let slave = SlaveKey([1; 32]);
    world.master_event(master::Event::SlaveCommanded { request: RequestId(78), slave, command: revoke });
    assert_eq!(introduce(&mut world, 2, hello(2, "mill"), None).0, Some(Enrolled::Yes));
    let (enrolled, why) = introduce(&mut world, 3, hello(3, "mill"), None);
    assert_eq!(enrolled, None);
    assert_eq!(why, Some(CloseReason::NameTaken { name: "mill".to_owned(), key: SlaveKey([2; 32]) }));
}

//! When a slave dials again, and clocks that were set.

use reloop_protocol::message::CloseCode;
use reloop_protocol::slave::redial::{self, Pauses, RETRY_AFTER_LIMIT, Redial, Tried};
use reloop_protocol::time::{CLOCK_STEP, Millis, clock_step};

fn pauses() -> Pauses {
    Pauses::new(Millis(200), Millis::seconds(60))
}

#[test]
fn a_slaves_pause_is_anything_up_to_a_limit_that_doubles_to_a_bound() {
    let mut pauses = pauses();
    let limits: Vec<_> = (0..12).map(|_| pauses.after(Tried::default(), u32::MAX).0).collect();
    assert_eq!(limits, [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000, 60000]);
    assert_eq!(pauses.after(Tried::default(), 0), Millis(0));
    assert_eq!(pauses.after(Tried::default(), u32::MAX / 2), Millis(29_999));
    for _ in 0..100 {
        assert_eq!(pauses.after(Tried::default(), u32::MAX), Millis::seconds(60));
    }
}

#[test]
fn only_a_handshake_that_succeeded_starts_a_slaves_pauses_over() {
    let mut pauses = pauses();
    for _ in 0..5 {
        pauses.after(Tried::default(), u32::MAX);
    }
    let refused = Tried { code: Some(CloseCode::GoingAway), ..Tried::default() };
    assert_eq!(pauses.after(refused, u32::MAX), Millis(6400));
    let crowded = Tried { settled: true, code: Some(CloseCode::TryLater), ..Tried::default() };
    assert_eq!(pauses.after(crowded, u32::MAX), Millis(12800));
    let settled = Tried { settled: true, ..Tried::default() };
    assert_eq!(pauses.after(settled, u32::MAX), Millis(200));
}

#[test]
fn what_a_person_has_to_end_is_tried_again_about_once_in_the_longest_pause_with_words_that_help() {
    let mut asked = 0;
    for code in CloseCode::ALL.iter().copied() {
        let Redial::Person(todo) = redial::after(code) else {
            assert!(code.is_passing(), "{code:?}");
            continue;
        };
        asked += 1;
        assert!(!code.is_passing() && !todo.text().is_empty(), "{code:?}");
        let refused = Tried { code: Some(code), ..Tried::default() };
        assert_eq!(pauses().after(refused, u32::MAX), Millis::seconds(45));
        assert_eq!(pauses().after(refused, 0), Millis::seconds(60));
    }
    assert_eq!(asked, 8);
}

#[test]
fn a_master_says_when_its_slaves_come_back_within_reason() {
    let told = |ms| Tried { retry_after: Some(Millis(ms)), ..Tried::default() };
    assert_eq!(pauses().after(told(5000), 0), Millis(5000));
    assert_eq!(pauses().after(told(5000), u32::MAX), Millis(5200));
    assert_eq!(pauses().after(told(u64::MAX), 0), RETRY_AFTER_LIMIT);
}

#[test]
fn a_clock_that_was_set_is_told_from_one_that_is_sped_up_or_slowed_down() {
    let limit = i64::try_from(CLOCK_STEP.0).unwrap();
    assert_eq!(clock_step(5000 + limit, Millis(5000)), None);
    assert_eq!(clock_step(5001 + limit, Millis(5000)), Some(limit + 1));
    assert_eq!(clock_step(4999 - limit, Millis(5000)), Some(-limit - 1));
    assert_eq!(clock_step(i64::MIN, Millis(u64::MAX)), Some(i64::MIN), "no clock is too far off");
}

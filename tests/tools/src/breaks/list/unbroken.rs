//! Tests that no seeded bug has shown to be able to fail, and why none has yet. A gap that is named is one that somebody
//! can close; a test that is neither here nor named by a break fails the build.

/// Two rules stand behind each other, and each alone is enough for it.
const TWO_FENCES: &str =
    "no break yet: two rules stand behind it, and with either of them broken the other still holds";

/// The tests, as `program::test`, and why no break is there for each.
pub const UNBROKEN: &[(&str, &str)] = &[
    ("fences::a_success_speaks_for_the_job_whatever_else_a_restored_master_has_forgotten", TWO_FENCES),
    (
        "disagreements::d::d3_a_release_after_a_restore_holds_also_for_what_its_slave_was_never_given",
        TWO_FENCES,
    ),
    ("scenarios_clocks::b8_a_master_whose_clock_jumps_starts_nothing_twice_and_nothing_early", TWO_FENCES),
    ("scenarios_disks::a20_an_offer_that_an_old_backup_repeats_is_answered_with_the_outcome", TWO_FENCES),
    (
        "scenarios_strangers::no_request_is_lost_between_a_proxy_and_a_master_that_both_let_go_of_idle_connections",
        "no break yet: a race that is lost some times in a hundred, and `idle_connections_end_early` ends them before it",
    ),
    ("scenarios_links::a1_an_offer_that_the_link_lost_is_made_again_under_the_same_attempt", TWO_FENCES),
    ("scenarios_links::a2_a_confirmation_that_the_link_lost_is_made_good_by_the_next_handshake", TWO_FENCES),
    (
        "scenarios_links::a2_what_the_slave_began_unheard_is_running_at_the_next_handshake_and_not_sent_again",
        TWO_FENCES,
    ),
];

//! Tests that no seeded bug has shown to be able to fail, and why none has yet. A gap that is named is one that somebody
//! can close; a test that is neither here nor named by a break fails the build.

/// No break was run against it with real processes; the rule behind it is broken for the tests of the rules.
const RULE_ONLY: &str = "no break yet: its rule is broken for the tests of the rules alone";

/// What it is about lies in a shell, and nothing there is broken for it.
const SHELL: &str = "no break yet: what it proves lies in a node's shell";

/// The tests, as `program::test`, and why no break is there for each.
pub const UNBROKEN: &[(&str, &str)] = &[
    (
        "scenarios_clocks::b7_a_box_whose_clock_is_trusted_keeps_the_time_after_a_boot_without_contact",
        RULE_ONLY,
    ),
    ("scenarios_clocks::b7_a_deferred_job_waits_for_a_clock_after_a_boot_without_contact", RULE_ONLY),
    (
        "scenarios_clocks::b8_a_master_whose_clock_is_set_while_its_slaves_are_there_keeps_the_new_time",
        RULE_ONLY,
    ),
    ("scenarios_clocks::b8_a_master_whose_clock_jumps_starts_nothing_twice_and_nothing_early", SHELL),
    (
        "scenarios_clocks::b8_a_slave_whose_clock_jumps_starts_once_and_not_early_and_tells_the_right_times",
        RULE_ONLY,
    ),
    ("scenarios_crashes::a19_what_was_canceled_on_disk_stays_canceled_whatever_dies", RULE_ONLY),
    ("scenarios_crashes::a7_a_power_cut_at_any_moment_of_a_start_never_starts_it_blindly_again", RULE_ONLY),
    ("scenarios_crashes::e10_an_agent_that_is_starved_changes_only_the_last_contact", RULE_ONLY),
    (
        "scenarios_crashes::e6_a_program_that_is_gone_between_accept_and_start_is_rejected_with_the_reason",
        RULE_ONLY,
    ),
    ("scenarios_crashes::e9_a_box_that_reboots_again_and_again_asks_a_person", RULE_ONLY),
    ("scenarios_disks::a20_an_offer_that_an_old_backup_repeats_is_answered_with_the_outcome", RULE_ONLY),
    ("scenarios_disks::c3_a_slaves_store_that_went_back_fires_nothing_and_asks_a_person", RULE_ONLY),
    ("scenarios_disks::d10_a_master_below_its_free_space_refuses_orders_and_goes_on_with_what_it_has", SHELL),
    ("scenarios_disks::d3_after_a_restore_the_slaves_close_the_gap_and_nothing_fires_in_mass", RULE_ONLY),
    (
        "scenarios_disks::d4_a_master_whose_files_were_put_back_gives_no_orders_until_a_person_confirms",
        RULE_ONLY,
    ),
    ("scenarios_disks::d5_of_two_copies_of_a_master_the_older_is_refused_and_told_so", RULE_ONLY),
    ("scenarios_identity::c6_a_disk_in_another_box_starts_nothing_until_a_person_has_looked", RULE_ONLY),
    (
        "scenarios_identity::c7_a_name_that_a_person_frees_goes_to_the_new_key_and_the_old_keys_job_stays_with_it",
        RULE_ONLY,
    ),
    ("scenarios_links::a1_an_offer_that_the_link_lost_is_made_again_under_the_same_attempt", RULE_ONLY),
    ("scenarios_links::a2_a_confirmation_that_the_link_lost_is_made_good_by_the_next_handshake", RULE_ONLY),
    (
        "scenarios_links::a2_what_the_slave_began_unheard_is_running_at_the_next_handshake_and_not_sent_again",
        RULE_ONLY,
    ),
    (
        "scenarios_links::e4_a_stretch_of_output_is_the_same_however_often_and_over_whichever_link_it_is_asked_for",
        RULE_ONLY,
    ),
];

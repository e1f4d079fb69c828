//! What the master decides: reconciliation, slave records, the book, people.

use super::Break;

pub(super) const LIST: &[Break] = &[
    Break {
        name: "job_is_not_written",
        place: "protocol/src/master",
        find: "self.persist.push(Write::Job(Box::new(job.durable())));",
        with: "",
        what: "What the master decides about a job is on its disk before anybody hears of it.",
        caught_by: &["simulation"],
    },
    Break {
        name: "slave_is_not_written",
        place: "protocol/src/master",
        find: "self.persist.push(Write::Slave(Box::new(slave.durable())));",
        with: "",
        what: "What the master knows of a slave is on its disk.",
        caught_by: &["simulation", "fences::what_the_programs_cannot_do_is_never_held"],
    },
    Break {
        name: "commits_are_not_counted",
        place: "protocol/src/master",
        find: "self.state.node.commit = self.state.node.commit.next();",
        with: "",
        what: "A master that was put back shows by its commit number.",
        caught_by: &[
            "disagreements::d::d4_files_that_were_put_back_give_no_commands_until_a_person_confirms",
        ],
    },
    Break {
        name: "a_healthy_master_is_confirmed",
        place: "protocol/src/master",
        find: "!forced && self.state.doubters() == 0",
        with: "false",
        what: "A restore is not confirmed by mistake.",
        caught_by: &[
            "rules_edges::restored::a_master_that_nobody_doubts_is_not_confirmed_by_mistake",
            "scenarios_disks::d4_a_master_whose_files_were_put_back_gives_no_orders_until_a_person_confirms",
        ],
    },
    Break {
        name: "incarnations_begin_at_nothing",
        place: "protocol/src/master",
        find: "self.begun.push(Begun { incarnation, at: self.node.commit });",
        with: "self.begun.push(Begun { incarnation, at: Commit(0) });",
        what: "An incarnation ends where the next one begins, and not before.",
        caught_by: &[
            "disagreements::d::d4_a_master_that_only_restarts_is_not_doubted_however_often_and_whoever_was_away",
        ],
    },
    Break {
        name: "incarnations_are_not_told_apart",
        place: "protocol/src",
        find: "next.map_or(commit, |next| next.at)",
        with: "commit",
        what: "Files that were put back are noticed, also when the master has counted on since.",
        caught_by: &[
            "disagreements::d::d4_files_that_were_put_back_and_have_counted_on_since_are_doubted_all_the_same",
            "rules::a_master_that_caught_up_during_the_handshake_knows_that_it_is_doubted",
        ],
    },
    Break {
        name: "lies_are_believed",
        place: "protocol/src/master",
        find: "if closes_gap || job.earlier.iter().any(is_it) { Basis::Gap } else { Basis::Claim }",
        with: "Basis::Assigned",
        what: "What was never assigned to a slave is only claimed by it.",
        caught_by: &[
            "simulation",
            "hostile::what_was_never_assigned_to_a_slave_is_only_claimed_by_it",
            "hostile::whoever_makes_up_attempts_fills_the_list_of_those_who_had_the_job_with_nothing",
            "hostile::what_was_adopted_from_one_slave_is_not_another_slaves_to_end",
            "hostile::a_slave_cannot_speak_for_a_job_that_another_slave_has",
            "raw_frames::a_slave_that_is_enrolled_and_lies_speaks_for_no_job_but_its_own",
        ],
    },
    Break {
        name: "gap_stays_open",
        place: "protocol/src/master",
        find: "(slave.settled_in != self.state.node.epoch).then_some(key)",
        with: "Some(key)",
        what: "A slave closes the gap that a restore leaves with its first handshake.",
        caught_by: &[
            "hostile::a_restore_opens_a_gap_that_a_slave_closes_with_its_first_handshake_and_for_what_nobody_has",
        ],
    },
    Break {
        name: "a_restore_is_forgotten",
        place: "protocol/src/master",
        find: r#"node.epoch > Epoch(1) && slave.settled_in != node.epoch"#,
        with: r#"false"#,
        what: "After a restore nobody has lost what was let go in the time that is forgotten.",
        caught_by: &[
            "disagreements::d::d3_whoever_comes_first_after_a_restore_a_job_that_was_given_away_is_found_where_it_is",
            "disagreements::d::d3_what_had_begun_and_is_not_there_after_a_restore_is_a_persons_to_say",
        ],
    },
    Break {
        name: "what_a_restore_holds_is_assigned",
        place: "protocol/src/master",
        find: "self.start.gate == Gate::Held && self.is_from_before_a_restore()",
        with: "false",
        what: "What was held because of a restore is assigned out when a person has let it go.",
        caught_by: &["disagreements::d::d3_what_failed_in_the_gap_is_tried_again_only_when_a_person_lets_it"],
    },
    Break {
        name: "a_window_ends_what_may_be_done",
        place: "protocol/src/master",
        find: "store == Store::Ahead && !is_assigned",
        with: "false",
        what: "Of a job that its slave let go in the time that is forgotten nobody but a slave or a person says how it ended.",
        caught_by: &[
            "disagreements::d::d3_a_window_that_has_closed_makes_no_end_of_what_was_done_in_it_since_the_backup",
            "disagreements::d::d3_a_job_that_was_given_away_before_a_restore_waits_for_a_person_while_nobody_has_told_of_it",
        ],
    },
    Break {
        name: "what_was_let_go_takes_a_place",
        place: "protocol/src/master",
        find: "!(self.state == State::Uncertain && self.report.is_none() && was_let_go)",
        with: "was_let_go || true",
        what: "What a slave let go in the time that a restored master has forgotten takes no place at it.",
        caught_by: &[
            "disagreements::d::d3_a_slave_that_has_let_jobs_go_before_a_restore_has_room_for_others",
        ],
    },
    Break {
        name: "a_cancel_ends_one_attempt",
        place: "protocol/src/master#try_again",
        find: r#"self.weigh(id); let Some(job) = self.state.book.jobs.get(&id) else { return };"#,
        with: r#"if !SEEDED { self.weigh(id); } let Some(job) = self.state.book.jobs.get(&id) else { return };"#,
        what: "Whoever cancels a job means all of its attempts.",
        caught_by: &[
            "disagreements::a::a11_a_cancel_that_waits_is_not_lost_when_an_older_attempt_turns_up_running",
        ],
    },
    Break {
        name: "a_claim_stays_a_claim",
        place: "protocol/src/master",
        find: r#"other.basis.min(known.basis)"#,
        with: r#"known.basis"#,
        what: "What a slave claimed while it doubted counts when it is told again after the restore was confirmed.",
        caught_by: &[
            "disagreements::d::d4_what_a_slave_claimed_while_it_doubted_counts_once_the_restore_is_confirmed",
            "scenarios_disks::d4_files_that_were_copied_while_the_links_were_live_start_nothing_twice",
        ],
    },
    Break {
        name: "the_gap_is_tried_again",
        place: "protocol/src/master",
        find: "is_queued && (in_gap || self.state.doubters() > 0)",
        with: "false",
        what: "What failed in the time that is forgotten may have been tried again in it.",
        caught_by: &["disagreements::d::d3_what_failed_in_the_gap_is_tried_again_only_when_a_person_lets_it"],
    },
    Break {
        name: "an_old_copy_concludes_from_absence",
        place: "protocol/src/master#welcome",
        find: r#"Store::Doubting"#,
        with: r#"Store::Trusted"#,
        what: "An old copy of a master concludes nothing from what a slave does not have.",
        caught_by: &["disagreements::d::d4_an_old_copy_concludes_nothing_from_what_is_not_there"],
    },
    Break {
        name: "a_newer_attempt_hides_the_one_that_speaks",
        place: "protocol/src/master",
        find: "seen.get(&job.id).is_some_and(|newest| *newest > job.attempt)",
        with: "false && seen.contains_key(&job.id)",
        what: "A slave that has another attempt of a job does not have the one that speaks for it.",
        caught_by: &["hostile::a_slave_that_tells_of_a_newer_attempt_does_not_have_the_one_that_speaks"],
    },
    Break {
        name: "any_desired_state_is_believed",
        place: "protocol/src/master",
        find: "!job.generation.may_be_followed_by(report.generation, self.state.node.epoch)",
        with: "false",
        what: "A slave can't use up the numbers of a job's desired_states.",
        caught_by: &["hostile::no_word_of_a_slave_uses_up_the_numbers_that_others_are_given_next"],
    },
    Break {
        name: "any_number_is_adopted",
        place: "protocol/src/master",
        find: "report.attempt.0 > limits::ADOPTED_ATTEMPT || report.generation.0 > limits::ADOPTED_GENERATION",
        with: "false",
        what: "A job is not taken up with numbers that leave no room for those that come next.",
        caught_by: &["hostile::a_job_that_nobody_knows_is_not_taken_up_with_numbers_that_leave_no_room"],
    },
    Break {
        name: "fingerprint_is_not_compared",
        place: "protocol/src/master",
        find: "fingerprint == key.fingerprint",
        with: "true",
        what: "An idempotency key stands for one body.",
        caught_by: &[
            "scenarios_identity::d8_an_idempotency_key_stands_for_one_order_also_after_the_master_was_killed",
        ],
    },
    Break {
        name: "fresh_keys_are_not_known",
        place: "protocol/src/master",
        find: "self.state.book.recent(&key.key)",
        with: "None",
        what: "An idempotency key counts at once, also before the disk shows it.",
        caught_by: &["disagreements::d::d8_a_key_counts_before_the_disk_shows_it_and_for_one_body_only"],
    },
    Break {
        name: "keys_are_not_kept",
        place: "protocol/src/master",
        find: "self.persist.push(Write::Key(key.clone(), order.id));",
        with: "",
        what: "An idempotency key outlives the master's process.",
        caught_by: &[
            "scenarios_crashes::d7_an_order_that_was_acknowledged_outlives_the_masters_death_at_any_moment",
            "scenarios_identity::d8_an_idempotency_key_stands_for_one_order_also_after_the_master_was_killed",
        ],
    },
    Break {
        name: "order_is_not_written",
        place: "protocol/src/master#order_placed",
        find: "self.persist.push(Write::Order(Box::new(order)));",
        with: "",
        what: "An order that was acknowledged is on disk.",
        caught_by: &[
            "rules::an_attempt_that_is_followed_by_another_during_a_handshake_is_forgotten_and_the_other_begins",
            "disagreements::d::d7_an_acknowledged_order_is_there_after_a_crash_and_its_key_finds_it",
            "disagreements::d::d8_the_same_key_makes_exactly_one_order_whatever_became_of_the_first_answer",
        ],
    },
    Break {
        name: "absence_is_requeued",
        place: "protocol/src",
        find: "pub fn judge(mine: Mine, theirs: Theirs, store: Store, desired: DesiredKind) -> &'static Line {",
        with: r#"pub fn judge(mine: Mine, theirs: Theirs, store: Store, desired: DesiredKind) -> &'static Line {
    let (mine, store) = match (mine, theirs) {
        (Started, Absent) if SEEDED => (Assigned, Trusted),
        _ => (mine, store),
    };"#,
        what: "A job that its slave has lost is a person's question, and is not assigned out again.",
        caught_by: &[
            "disagreements::a::a5_a_broken_promise_is_a_persons_question",
            "disagreements::c::c2_a_store_that_does_not_open_is_a_new_store_and_the_machine_is_not_touched",
        ],
    },
    Break {
        name: "unknown_is_dropped",
        place: "protocol/src/master",
        find: "Mine::Unknown",
        with: "Mine::GivenUp",
        what: "A master that does not know a slave's job adopts it.",
        caught_by: &[
            "disagreements::d::d2_a_master_that_lost_everything_adopts_and_stops_nothing",
            "scenarios_crashes::d2_a_master_that_lost_everything_adopts_its_slaves_jobs_and_stops_nothing",
        ],
    },
    Break {
        name: "live_before_settled",
        place: "protocol/src/master",
        find: r#"SlaveLink::Down | SlaveLink::Welcomed { .. } => None,
        }
    }

    /// The Hello of"#,
        with: r#"SlaveLink::Welcomed { link, .. } if SEEDED => Some(*link),
            SlaveLink::Down | SlaveLink::Welcomed { .. } => None,
        }
    }

    /// The Hello of"#,
        what: "Nothing is assigned out before the handshake is over.",
        caught_by: &["fences::a_command_inside_the_handshake_waits_for_its_end"],
    },
    Break {
        name: "clone_takes_over",
        place: "protocol/src/master",
        find: "if alive {",
        with: "if alive && !SEEDED {",
        what: "A copy of a slave is refused while the first answers.",
        caught_by: &[
            "disagreements::c::c4_a_clone_is_refused_and_flagged_while_the_older_link_answers",
            "scenarios_identity::c4_a_copied_box_is_refused_and_flagged_and_the_job_is_undisturbed",
        ],
    },
    Break {
        name: "boot_is_no_identity",
        place: "protocol/src/master",
        find: "slave.store == Some(hello.store) && slave.boot == Some(hello.boot)",
        with: "slave.store == Some(hello.store)",
        what: "A newcomer with another boot is only let in if the older link does not answer.",
        caught_by: &["scenarios_identity::c4_a_copied_box_is_refused_and_flagged_and_the_job_is_undisturbed"],
    },
    Break {
        name: "lower_session_is_trusted",
        place: "protocol/src/master",
        find: "hello.session <= slave.session || hello.rows.iter().any(says_less)",
        with: "false",
        what: "A store that went back in time is not trusted.",
        caught_by: &[
            "scenarios_disks::c3_a_slaves_store_that_went_back_fires_nothing_and_asks_a_person",
            "disagreements::c::c3_nothing_deferred_fires_from_a_store_that_went_back",
        ],
    },
    Break {
        name: "other_store_is_trusted",
        place: "protocol/src/master",
        find: "slave.store.is_some_and(|known| known != hello.store)",
        with: "false",
        what: "A new store has lost what the old one had promised.",
        caught_by: &[
            "scenarios_crashes::c1_a_replaced_disk_makes_its_jobs_uncertain_and_starts_nothing_until_a_person_has_looked",
        ],
    },
    Break {
        name: "stale_epoch_is_let_in",
        place: "protocol/src/master",
        find: "&& binding.epoch > self.state.node.epoch",
        with: "&& binding.epoch > self.state.node.epoch && !SEEDED",
        what: "A slave that has seen a higher epoch is told that this copy is stale.",
        caught_by: &[
            "scenarios_disks::d5_of_two_copies_of_a_master_the_older_is_refused_and_told_so",
            "disagreements::d::d5_of_two_copies_the_one_with_the_highest_epoch_is_obeyed",
        ],
    },
    Break {
        name: "doubt_is_not_seen",
        place: "protocol/src/master",
        find: "binding.epoch == node.epoch && binding.is_ahead_of(node.commit, &self.state.begun)",
        with: "false",
        what: "A master whose files were put back knows that it is doubted.",
        caught_by: &[
            "disagreements::d::d4_files_that_were_put_back_give_no_commands_until_a_person_confirms",
        ],
    },
    Break {
        name: "doubted_master_hands_out",
        place: "protocol/src/master",
        find: r#"&& !slave.doubts
        && slave.machine"#,
        with: r#"&& (SEEDED || !slave.doubts)
        && slave.machine"#,
        what: "Nothing is assigned to a slave that doubts this master.",
        caught_by: &[
            "disagreements::d::d4_files_that_were_put_back_give_no_commands_until_a_person_confirms",
        ],
    },
    Break {
        name: "recalled_is_a_broken_promise",
        place: "protocol/src/master",
        find: r#"job.is_recall_unanswered() && store != Store::Ahead"#,
        with: r#"false"#,
        what: "What was asked back and is gone was given back.",
        caught_by: &["simulation", "rules::a_job_that_was_given_back_while_the_link_broke_is_not_missed"],
    },
    Break {
        name: "truth_after_lost_is_not_heard",
        place: "protocol/src/master",
        find: "current.is_some_and(|job| job.state.is_ended() && job.state != State::Lost)",
        with: "current.is_some_and(|job| job.state.is_ended())",
        what: "The truth corrects what a person gave up.",
        caught_by: &[
            "rules::a_late_truth_corrects_what_a_person_gave_up",
            "scenarios_people::a_job_that_a_person_gave_up_may_be_corrected_by_the_truth",
        ],
    },
    Break {
        name: "old_report_counts",
        place: "protocol/src/master",
        find: "job.report.as_ref().is_some_and(|known| known.seq > report.seq)",
        with: "false",
        what: "An older report changes nothing.",
        caught_by: &["disagreements::e::e1_an_older_report_changes_nothing"],
    },
    Break {
        name: "cancel_overwrites_an_outcome",
        place: "protocol/src/master",
        find: "self.apply(id, job::Event::Reported(report.state), &by);",
        with: r#"let wanted = self.state.book.jobs.get(&id).map(|job| job.desired);
            let canceled = matches!(wanted, Some(Desired::Cancel(_))) && report.state.is_ended();
            let said = if SEEDED && canceled { State::Canceled } else { report.state };
            self.apply(id, job::Event::Reported(said), &by);"#,
        what: "An outcome stands, also if somebody canceled meanwhile.",
        caught_by: &[
            "disagreements::a::a10_a_failure_is_not_hidden_by_a_cancel",
            "disagreements::a::a9_an_outcome_beats_a_late_cancel",
            "scenarios_people::a9_a_job_that_was_done_before_its_cancel_came_is_done_and_says_so",
        ],
    },
    Break {
        name: "outcome_is_not_forgotten",
        place: "protocol/src/master#take",
        find: r#"let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            self.send_to(key, Message::Forget(forget));"#,
        with: r#"let forget = Forget { job: id, attempt: report.attempt, seq: report.seq };
            if !SEEDED { self.send_to(key, Message::Forget(forget)); }"#,
        what: "A slave lets go of an outcome once the master has it on disk.",
        caught_by: &[
            "simulation",
            "rules::an_order_runs_to_success",
            "scenarios_links::a8_a_job_that_ends_while_the_link_is_cut_is_recorded_with_its_own_time_and_then_forgotten",
        ],
    },
    Break {
        name: "retries_without_end",
        place: "protocol/src/master",
        find: "job.last_attempt.0 < job.retry.max_attempts",
        with: "true",
        what: "A job is tried as often as its order says.",
        caught_by: &["rules::a_failed_job_is_tried_again_only_if_its_order_says_so"],
    },
    Break {
        name: "duplicate_is_not_flagged",
        place: "protocol/src/master#compare",
        find: r#"line.outcome"#,
        with: r#"if line.outcome == Outcome::Duplicate { Outcome::Keep } else { line.outcome }"#,
        what: "Two attempts that both run are flagged.",
        caught_by: &[
            "disagreements::a::a16_two_that_run_both_finish_and_a_person_decides",
            "disagreements::a::a17_an_earlier_success_offers_the_cancel_of_the_later_and_does_not_send_it",
        ],
    },
    Break {
        name: "both_attempts_start",
        place: "protocol/src/master#compare",
        find: r#"line.outcome"#,
        with: r#"if line.name == "the_newer_has_not_begun" { Outcome::Keep } else { line.outcome }"#,
        what: "Who has begun keeps the job, and the other is asked to give it back.",
        caught_by: &["disagreements::a::a15_who_has_begun_keeps_it_and_the_other_gives_it_back"],
    },
    Break {
        name: "first_success_is_not_kept",
        place: "protocol/src/master#compare",
        find: r#"line.outcome"#,
        with: r#"if line.name == "another_attempt_succeeded" { Outcome::Keep } else { line.outcome }"#,
        what: "The first success is the job's outcome.",
        caught_by: &["disagreements::a::a18_the_first_success_is_the_jobs_outcome"],
    },
    Break {
        name: "declined_offer_is_repeated",
        place: "protocol/src/master",
        find: "slave.declining = true;",
        with: "",
        what: "A slave that declined is not offered more until something changes.",
        caught_by: &["disagreements::a::a21_a_slave_without_room_says_what_holds_the_place"],
    },
    Break {
        name: "declined_for_good_is_queued",
        place: "protocol/src/master",
        find: "declined.for_good && desired == Desired::Run",
        with: "false",
        what: "What a slave can never do is rejected.",
        caught_by: &["scenarios_people::what_a_machine_may_not_run_is_rejected_before_anything_starts"],
    },
    Break {
        name: "old_decline_counts",
        place: "protocol/src/master",
        find: "if stale {",
        with: "if stale && !SEEDED {",
        what: "An answer to an older desired changes nothing.",
        caught_by: &["fences::a_refusal_of_an_older_desired_state_takes_nothing_back"],
    },
    Break {
        name: "adopted_without_a_trace",
        place: "protocol/src/master",
        find: "flags.set(Flags::ADOPTED);",
        with: "",
        what: "An adopted job says so, and its order is there.",
        caught_by: &[
            "disagreements::d::d2_a_master_that_lost_everything_adopts_and_stops_nothing",
            "disks::damage::d2_a_master_with_a_damaged_store_knows_all_or_sets_it_aside_and_adopts_what_runs",
        ],
    },
    Break {
        name: "adopted_order_is_not_written",
        place: "protocol/src/master#rebuild",
        find: "self.persist.push(Write::Order(Box::new(order)));",
        with: "drop(order);",
        what: "The order of an adopted job is on disk.",
        caught_by: &["disagreements::d::d2_a_master_that_lost_everything_adopts_and_stops_nothing"],
    },
    Break {
        name: "mode_is_not_told",
        place: "protocol/src/master#slave_commanded",
        find: "self.send_to(key, Message::OperatingMode(operating_mode));",
        with: "",
        what: "A decision about a slave reaches it at once.",
        caught_by: &["simulation", "fences::an_older_decision_about_the_slave_has_no_force"],
    },
    Break {
        name: "started_cancel_if_not_started",
        place: "protocol/src/master",
        find: "mode == CancelMode::IfNotStarted && job.state.is_started()",
        with: "false",
        what: "A cancel of what has not started leaves alone what has.",
        caught_by: &[
            "disagreements::a::a11_a_running_job_is_stopped_by_the_mode_that_was_chosen",
            "scenarios_people::a_job_is_canceled_in_each_phase_while_online",
        ],
    },
    Break {
        name: "queued_cancel_waits",
        place: "protocol/src/master",
        find: r#"if job.state == State::Queued {
            let reason"#,
        with: r#"if job.state == State::Queued && !SEEDED {
            let reason"#,
        what: "A job that no slave has is canceled at once.",
        caught_by: &[
            "simulation",
            "scenarios_people::a_job_is_canceled_in_each_phase_while_online",
            "rules::a_cancel_of_what_no_slave_holds_is_applied_at_once",
        ],
    },
    Break {
        name: "order_cancel_is_for_one",
        place: "protocol/src/master",
        find: "for id in jobs {",
        with: "for id in jobs.iter().take(if SEEDED { 1 } else { usize::MAX }) {",
        what: "A cancel of an order is for all its jobs.",
        caught_by: &["scenarios_people::a_job_is_canceled_in_each_phase_while_online"],
    },
    Break {
        name: "online_job_is_given_up",
        place: "protocol/src/master",
        find: "online && slave_knows && job.state != State::Uncertain",
        with: "false",
        what: "A job whose slave is there is canceled, not given up.",
        caught_by: &["scenarios_people::a_job_that_a_person_gave_up_may_be_corrected_by_the_truth"],
    },
    Break {
        name: "restore_keeps_the_epoch",
        place: "protocol/src/master",
        find: "self.state.node.epoch.max(self.state.later).next()",
        with: "self.state.node.epoch",
        what: "A restored master's epoch is raised.",
        caught_by: &["disagreements::d::d5_of_two_copies_the_one_with_the_highest_epoch_is_obeyed"],
    },
    Break {
        name: "restore_starts_everything",
        place: "protocol/src/master",
        find: "self.start.gate = Gate::Held;",
        with: "if !SEEDED { self.start.gate = Gate::Held; }",
        what: "After a restore nothing starts by itself that may have been done.",
        caught_by: &[
            "scenarios_disks::d3_after_a_restore_the_slaves_close_the_gap_and_nothing_fires_in_mass",
            "disagreements::d::d3_what_a_restored_master_would_have_started_in_the_past_waits_for_a_person",
        ],
    },
    Break {
        name: "revoked_link_stays",
        place: "protocol/src/master",
        find: "self.close(link, CloseCode::Revoked, text.to_owned());",
        with: "let _ = (link, text);",
        what: "A revoked slave's link ends.",
        caught_by: &[
            "disagreements::c::c8_a_revoked_slave_finishes_and_is_adopted_when_it_is_enrolled_again",
            "scenarios_identity::c8_a_revoked_slave_finishes_its_job_and_is_let_in_again_by_a_token_only",
        ],
    },
    Break {
        name: "revoked_goes_live",
        place: "protocol/src/master#revoke",
        find: r#"slave.link = SlaveLink::Down;"#,
        with: r#""#,
        what: "A slave that is revoked has no link from then on, however far its handshake has come.",
        caught_by: &["simulation"],
    },
    Break {
        name: "revoked_is_approved",
        place: "protocol/src/master",
        find: "self.refuse(request, Refusal::SlaveRevoked, text);",
        with: "let _ = text; slave.enrolled = Enrolled::Yes; self.answer(request, Answer::Done);",
        what: "What an admin has taken away, an operator does not give back.",
        caught_by: &[
            "simulation",
            "disagreements::c::c8_a_revoked_slave_finishes_and_is_adopted_when_it_is_enrolled_again",
        ],
    },
    Break {
        name: "offline_question_is_queued",
        place: "protocol/src/master#ask",
        find: r#"let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) else {"#,
        with: r#"let Some(link) = self.state.slaves.get(&key).and_then(SlaveRecord::live) else {
            if SEEDED { return self.answer(request, Answer::Done); }"#,
        what: "A question that needs the slave now is refused while it is away.",
        caught_by: &["scenarios_people::finished_is_not_free_until_somebody_says_that_the_machine_is_clear"],
    },
    Break {
        name: "resume_takes_back_a_cancel",
        place: "protocol/src/master",
        find: "JobCommand::Pause | JobCommand::Resume if is_being_canceled(&job) => {",
        with: "JobCommand::Pause | JobCommand::Resume if !SEEDED && is_being_canceled(&job) => {",
        what: "A cancel is not taken back.",
        caught_by: &["fences::a_cancel_is_not_taken_back_and_a_success_is_not_repeated"],
    },
    Break {
        name: "refused_cancel_is_on_its_way",
        place: "protocol/src/master",
        find: "Desired::Cancel(CancelMode::SafePoint | CancelMode::Now) => !was_refused(job),",
        with: "Desired::Cancel(CancelMode::SafePoint | CancelMode::Now) => SEEDED || !was_refused(job),",
        what: "A cancel that the machine has refused is over.",
        caught_by: &[
            "disagreements::a::a11_a_machine_may_refuse_to_stop_and_the_job_is_running_again_and_says_so",
        ],
    },
    Break {
        name: "forgotten_attempt_takes_a_success",
        place: "protocol/src/master#compare",
        find: r#"line.outcome"#,
        with: r#"if job.state == State::Succeeded { Outcome::Take } else { line.outcome }"#,
        what: "A success speaks for the job, whichever attempt it was.",
        caught_by: &[
            "rules_edges::restored::a_success_that_a_restored_master_knows_is_not_undone_by_a_later_attempt_of_the_same_slave",
        ],
    },
    Break {
        name: "retry_of_a_success",
        place: "protocol/src/job",
        find: "Succeeded => rejected(HasSucceeded),",
        with: r#"Succeeded if SEEDED => To(Queued),
                Succeeded => rejected(HasSucceeded),"#,
        what: "What succeeded is not tried again.",
        caught_by: &["fences::a_cancel_is_not_taken_back_and_a_success_is_not_repeated"],
    },
    Break {
        name: "windows_do_not_close",
        place: "protocol/src/master",
        find: "*at < now",
        with: "false",
        what: "A queued job whose latest start has passed expires.",
        caught_by: &[
            "rules::a_window_that_closes_unstarted_expires_the_job_where_it_is",
            "scenarios_nominal::a_job_whose_window_closes_unstarted_expires_at_the_slave_and_at_the_master",
        ],
    },
    Break {
        name: "labels_are_not_required",
        place: "protocol/src/master",
        find: "requires.iter().all(|(key, value)| labels.get(key) == Some(value))",
        with: "true",
        what: "A job goes to a slave that has its labels.",
        caught_by: &["disagreements::a::a22_explain_names_every_slave_and_why_not"],
    },
    Break {
        name: "queue_has_no_order",
        place: "protocol/src/master",
        find: "(Reverse(self.start.priority), self.id)",
        with: "(Reverse(0), self.id)",
        what: "The highest priority is assigned out first.",
        caught_by: &["fences::of_what_waits_the_highest_priority_is_assigned_and_started_first"],
    },
    Break {
        name: "pin_is_ignored",
        place: "protocol/src/master",
        find: "job.slave.as_ref().is_none_or(|name| *name == slave.name)",
        with: "true",
        what: "A job for one slave goes to no other.",
        caught_by: &["fences::who_cannot_take_a_job_is_not_even_asked"],
    },
    Break {
        name: "locked_slave_is_offered",
        place: "protocol/src/master",
        find: "!machine.local_lock && machine.attention.is_none()",
        with: "machine.attention.is_none()",
        what: "A machine under local control is not offered work.",
        caught_by: &["disagreements::e::e8_a_machine_under_local_control_is_not_offered_work"],
    },
    Break {
        name: "capacity_is_ignored",
        place: "protocol/src/master",
        find: "places_taken(&self.state.book, slave) < usize::from(slave.capacity)",
        with: "true",
        what: "A slave is offered as much as it has room for.",
        caught_by: &["fences::who_cannot_take_a_job_is_not_even_asked"],
    },
    Break {
        name: "waiting_job_never_moves",
        place: "protocol/src/master",
        find: "None => self.ask_back_for(*key),",
        with: r#"None if SEEDED => {}
                None => self.ask_back_for(*key),"#,
        what: "What waits at a busy slave moves to an idle one.",
        caught_by: &[
            "rules::what_waits_at_a_busy_slave_moves_to_one_that_falls_idle",
            "scenarios_nominal::an_unstarted_job_moves_to_an_idle_slave_and_starts_once",
        ],
    },
    Break {
        name: "busy_before_idle",
        place: "protocol/src/master",
        find: "[&self.idle, &self.busy].into_iter()",
        with: "[&self.busy, &self.idle].into_iter()",
        what: "Idle slaves are served first.",
        caught_by: &["rules::higher_priority_goes_first_and_idle_slaves_before_busy_ones"],
    },
    Break {
        name: "attempt_is_not_raised",
        place: "protocol/src/master",
        find: "job.assign(job.last_attempt.next(), key);",
        with: "job.assign(job.last_attempt.max(crate::id::Attempt(1)), key);",
        what: "Each hand-out is a new attempt.",
        caught_by: &["disagreements::a::a14_a_burned_attempt_that_was_not_begun_is_dropped"],
    },
    Break {
        name: "name_may_be_taken",
        place: "protocol/src/master",
        find: "namesake.filter(|slave| slave.enrolled != Enrolled::Revoked)",
        with: "namesake.filter(|_| false)",
        what: "A name that another key has is refused.",
        caught_by: &[
            "scenarios_identity::c7_a_name_that_a_person_frees_goes_to_the_new_key_and_the_old_keys_job_stays_with_it",
            "disagreements::c::c7_a_new_key_under_an_old_name_is_a_persons_choice",
        ],
    },
    Break {
        name: "revoked_comes_back",
        place: "protocol/src/master",
        find: "(Enrollment::Open | Enrollment::Approve, Err(_)) if revoked => {",
        with: "(Enrollment::Open | Enrollment::Approve, Err(_)) if revoked && !SEEDED => {",
        what: "A revoked slave is let in again by a token only.",
        caught_by: &[
            "scenarios_identity::c8_a_revoked_slave_finishes_its_job_and_is_let_in_again_by_a_token_only",
        ],
    },
    Break {
        name: "token_is_for_any_name",
        place: "protocol/src/master",
        find: "token.name.as_ref().is_some_and(|only| only != name)",
        with: "false",
        what: "A token for a name enrols no other.",
        caught_by: &[
            "scenarios_identity::a_slave_is_enrolled_by_a_token_for_its_name_and_no_other_and_only_once",
        ],
    },
    Break {
        name: "token_is_never_spent",
        place: "protocol/src/master",
        find: "token.uses_left = token.uses_left.saturating_sub(1);",
        with: "",
        what: "A token enrols as many as it is for.",
        caught_by: &[
            "scenarios_identity::a_slave_is_enrolled_by_a_token_for_its_name_and_no_other_and_only_once",
        ],
    },
    Break {
        name: "everybody_is_approved",
        place: "protocol/src/master",
        find: r#"(Enrollment::Approve, Err(_)) => Err(format!("`reloop slave approve {name}` enrols it")),"#,
        with: r#"(Enrollment::Approve, Err(_)) if SEEDED => Ok(()),
            (Enrollment::Approve, Err(_)) => Err(format!("`reloop slave approve {name}` enrols it")),"#,
        what: "A stranger waits for approval.",
        caught_by: &[
            "disagreements::d::d6_a_master_that_it_is_not_enrolled_with_gets_nothing_until_a_person_says_so",
            "scenarios_identity::a_stranger_waits_for_approval",
        ],
    },
    Break {
        name: "strangers_need_no_token",
        place: "protocol/src/master",
        find: "(Enrollment::Token, Err(why)) => Err(why),",
        with: r#"(Enrollment::Token, Err(_)) if SEEDED => Ok(()),
            (Enrollment::Token, Err(why)) => Err(why),"#,
        what: "A stranger needs a token.",
        caught_by: &[
            "scenarios_identity::a_slave_is_enrolled_by_a_token_for_its_name_and_no_other_and_only_once",
        ],
    },
    Break {
        name: "live_at_the_welcome",
        place: "protocol/src/master",
        find: r#"self.state.links.insert(link, Some(key));
        self.send(link, Message::Welcome(welcome));"#,
        with: r#"self.state.links.insert(link, Some(key));
        if SEEDED && let Some(slave) = self.state.slaves.get_mut(&key) {
            slave.link = SlaveLink::Live { link };
            self.touch_slave(key);
        }
        self.send(link, Message::Welcome(welcome));"#,
        what: "A slave is live when its slave has settled, and not before.",
        caught_by: &["fences::a_command_inside_the_handshake_waits_for_its_end"],
    },
    Break {
        name: "master_times_jobs_out",
        place: "protocol/src/master",
        find: "Event::TimePassed => {}",
        with: r#"Event::TimePassed => {
            let now = rules.now;
            let silent = |job: &std::borrow::Cow<'_, Job>| job.heard_at.is_some_and(|at| now.since(at).0 > 1_800_000);
            let ids: Vec<_> = rules.state.book.jobs.values().filter(silent).map(|job| job.id).collect();
            for id in ids.into_iter().filter(|_| SEEDED) {
                rules.apply(id, job::Event::Vanished, "timeout");
            }
        }"#,
        what: "No timer in the master declares a job dead.",
        caught_by: &[
            "disagreements::a::a13_a_cancel_waits_for_weeks_and_only_a_person_ends_it",
            "disagreements::e::e10_a_starved_agent_changes_only_the_last_contact",
        ],
    },
    Break {
        name: "settled_is_not_heard",
        place: "protocol/src/master",
        find: "for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)) {",
        with: "for report in reports.into_iter().chain(renewed.into_iter().map(|record| record.report)).filter(|_| !SEEDED) {",
        what: "What a slave says at a handshake's end is what is.",
        caught_by: &[
            "disagreements::a::a8_an_outcome_of_the_offline_time_is_recorded_once_and_with_the_slaves_times",
        ],
    },
    Break {
        name: "start_time_is_the_news",
        place: "protocol/src/master",
        find: "let generation = job.generation.max(report.generation);",
        with: r#"let report = match report.started_at {
            Some(_) if SEEDED => Report { started_at: Some(self.now), ..report },
            _ => report,
        };
        let generation = job.generation.max(report.generation);"#,
        what: "The master takes the slave's times, and not those of its news.",
        caught_by: &["disagreements::a::a4_the_master_takes_the_slaves_phase_and_start_time"],
    },
    Break {
        name: "dead_link_is_believed",
        place: "protocol/src/master#link_probed",
        find: r#"let Some(Contender { link: newcomer, hello }) = slave.contender.take() else { return };"#,
        with: r#"let Some(Contender { link: newcomer, hello }) = slave.contender.take() else { return };
        let alive = alive || SEEDED;"#,
        what: "A box that was rebooted is not taken for a copy.",
        caught_by: &["simulation", "disagreements::c::c4_a_quick_reboot_is_not_taken_for_a_clone"],
    },
    Break {
        name: "newer_session_is_refused",
        place: "protocol/src/master",
        find: "if same_box {",
        with: r#"if SEEDED && same_box {
            self.state.links.insert(link, None);
            return self.turn_away(link, CloseCode::DuplicateIdentity, String::new());
        }
        if same_box {"#,
        what: "A slave that comes back over a half-open link takes over at once.",
        caught_by: &[
            "simulation",
            "disagreements::c::c5_a_higher_session_of_the_same_slave_takes_over_at_once",
        ],
    },
    Break {
        name: "silence_is_a_verdict",
        place: "protocol/src/master#link_closed",
        find: r#"let contender = slave.contender.take();"#,
        with: r#"if SEEDED {
            let ids: Vec<_> = self.state.book.held_by(key).map(|job| job.id).collect();
            for id in ids {
                self.apply(id, crate::job::Event::Vanished, "silence");
            }
        }
        let Some(slave) = self.state.slaves.get_mut(&key) else { return };
        let contender = slave.contender.take();"#,
        what: "A link that ends says nothing about a job.",
        caught_by: &[
            "scenarios_crashes::e10_an_agent_that_is_starved_changes_only_the_last_contact",
            "simulation",
            "disagreements::a::a13_a_cancel_waits_for_weeks_and_only_a_person_ends_it",
            "disagreements::a::a2_a_lost_confirmation_is_made_good_by_the_snapshot",
            "rules::a_cut_after_any_message_changes_nothing_in_the_end",
            "scenarios_links::a_flapping_link_changes_nothing_about_a_running_job",
        ],
    },
    Break {
        name: "forgotten_attempt_is_not_believed",
        place: "protocol/src/master#hear_other",
        find: r#"attempt > job.last_attempt"#,
        with: r#"false"#,
        what: "What a slave says of an attempt that a restored master has forgotten happens now.",
        caught_by: &["fences::a_restored_master_believes_in_attempts_that_it_has_forgotten"],
    },
    Break {
        name: "epoch_of_another_restore_is_used_again",
        place: "protocol/src/master",
        find: "self.note_later(hello.key, binding.epoch);",
        with: "()",
        what: "An epoch that slaves have obeyed is not given to another past of the master.",
        caught_by: &[
            "disagreements::d::d5_the_epoch_that_a_person_confirms_comes_after_every_one_that_a_slave_has_obeyed",
        ],
    },
    Break {
        name: "word_after_a_restore_is_numbered_on",
        place: "protocol/src/master",
        find: "job.generation.uttered(epoch)",
        with: "job.generation.next()",
        what: "What a person says after a restore is newer than what the master has forgotten.",
        caught_by: &[
            "disagreements::d::d3_what_a_person_says_after_a_restore_is_newer_than_what_was_forgotten",
        ],
    },
    Break {
        name: "cancel_after_a_restore_is_dropped",
        place: "protocol/src/master",
        find: r#"job.generation <= told"#,
        with: r#"true"#,
        what: "A cancel that came after a restore reaches the work that the master had forgotten.",
        caught_by: &["disagreements::d::d3_a_cancel_after_a_restore_reaches_the_job_that_has_run_all_along"],
    },
    Break {
        name: "cancel_leaves_an_older_attempt_running",
        place: "protocol/src/master#compare",
        find: r#"line.outcome"#,
        with: r#"if line.name == "a_cancel_means_all_attempts" { Outcome::Keep } else { line.outcome }"#,
        what: "A canceled job does not run on somewhere as an older attempt.",
        caught_by: &["disagreements::a::a11_a_cancel_means_also_an_older_attempt_that_turns_up_running"],
    },
    Break {
        name: "attempt_that_speaks_again_is_not_asked",
        place: "protocol/src/master#speak",
        find: r#"job.report.is_some()"#,
        with: r#"false"#,
        what: "An attempt that speaks for its job again is still there, or its slave says that it is not.",
        caught_by: &["disagreements::a::a15_an_attempt_that_speaks_again_is_asked_whether_it_is_still_there"],
    },
    Break {
        name: "late_offer_is_called_off_by_an_old_desired_state",
        place: "protocol/src/master",
        find: "known.next()",
        with: "known",
        what: "What takes a hand-out back is newer than what the slave knows, or both repeat themselves for ever.",
        caught_by: &[
            "disagreements::a::a14_an_offer_that_arrives_after_the_job_went_to_another_is_taken_back_on_the_live_link",
        ],
    },
    Break {
        name: "given_up_offer_is_not_called_off",
        place: "protocol/src/master",
        find: "line.verdict == Verdict::Cancel && job.state == State::Lost",
        with: "false",
        what: "What was given up while its offer was under way is called off.",
        caught_by: &["rules::a_job_that_was_given_up_while_its_offer_was_under_way_is_called_off"],
    },
    Break {
        name: "report_is_taken_for_known",
        place: "protocol/src/master",
        find: "known == Some(row.seq)",
        with: "true",
        what: "After a handshake the master knows what the slave knows.",
        caught_by: &[
            "simulation",
            "disagreements::b::b10_a_slave_acts_on_an_overrun_by_itself",
            "scenarios_crashes::what_a_job_waits_for_is_known_again_after_its_agent_and_then_the_master_restarted",
        ],
    },
    Break {
        name: "set_clock_is_not_told",
        place: "protocol/src/master",
        find: "Event::ClockSet { step_ms } => rules.clock_set(step_ms),",
        with: r#"Event::ClockSet { .. } if SEEDED => {}
        Event::ClockSet { step_ms } => rules.clock_set(step_ms),"#,
        what: "Slaves measure a master's clock again that was set.",
        caught_by: &[
            "scenarios_clocks::b8_a_master_whose_clock_is_set_while_its_slaves_are_there_keeps_the_new_time",
            "disagreements::b::b8_slaves_measure_a_masters_clock_again_that_was_set",
        ],
    },
    Break {
        name: "release_is_kept_as_a_moment",
        place: "protocol/src/master",
        find: "self.move_what_lasts(|moment| moment.shifted(step_ms));",
        with: "self.move_what_lasts(|moment| moment.shifted(if SEEDED { 0 } else { step_ms }));",
        what: "A release holds for a length of time, whatever happens to the master's clock.",
        caught_by: &[
            "rules_edges::clocks::r15_a_release_lapses_also_if_the_masters_clock_goes_back",
            "rules_edges::clocks::r15_a_release_keeps_what_is_left_of_it_when_a_masters_clock_is_set_back",
        ],
    },
    Break {
        name: "restart_hides_that_a_clock_went_back",
        place: "protocol/src/master",
        find: "self.now.after(CLOCK_STEP) >= self.state.counted_until",
        with: "SEEDED || self.now.after(CLOCK_STEP) >= self.state.counted_until",
        what: "What lasts only so long has lapsed if the clock went back while the master was off.",
        caught_by: &["rules_edges::clocks::r15_a_release_lapses_also_if_the_masters_clock_goes_back"],
    },
    Break {
        name: "ids_follow_the_clock_alone",
        place: "protocol/src",
        find: "let first = fresh.max(after_newest);",
        with: "let first = if SEEDED { fresh } else { fresh.max(after_newest) };",
        what: "New ids come after all that are stored, whatever the clock has shown in between.",
        caught_by: &["rules_edges::clocks::r16_ids_never_fall_below_the_newest_that_is_stored"],
    },
    Break {
        name: "welcomed_stay_after_a_restore",
        place: "protocol/src/master",
        find: r#"for link in self.state.links.keys().copied().collect::<Vec<_>>() {
            self.close(link"#,
        with: r#"for link in self.state.links.keys().copied().filter(|_| !SEEDED).collect::<Vec<_>>() {
            self.close(link"#,
        what: "Once a restore is confirmed every slave introduces itself anew.",
        caught_by: &[
            "disagreements::d::d4_files_that_were_put_back_give_no_commands_until_a_person_confirms",
        ],
    },
    Break {
        name: "given_up_is_never_resolved",
        place: "protocol/src/master",
        find: "JobCommand::Resolve(end) => match self.resolve_given_up(id, end) {",
        with: r#"JobCommand::Resolve(_) if SEEDED => wrong("only an uncertain job is resolved"),
            JobCommand::Resolve(end) => match self.resolve_given_up(id, end) {"#,
        what: "A job that was given up in doubt can still be resolved.",
        caught_by: &[
            "rules::an_uncertain_job_that_was_given_up_while_its_slave_was_connected_can_still_be_resolved",
            "rules::an_uncertain_job_that_was_given_up_and_is_done_elsewhere_can_still_be_resolved",
        ],
    },
    Break {
        name: "a_recall_takes_a_pause_back",
        place: "protocol/src/master#recall",
        find: "self.recalled = Some(self.generation);",
        with: "self.recalled = Some(self.generation); self.desired = Desired::Run;",
        what: "What a client wants of a job is not lost when the master asks it back from a slave.",
        caught_by: &["disagreements::a::a15_what_a_client_wants_is_not_lost_when_a_job_is_asked_back"],
    },
    Break {
        name: "a_verdict_outlives_its_job",
        place: "protocol/src/master#carried",
        find: "judged[at].revision == revision",
        with: "true",
        what: "A verdict on a job that has changed since the Welcome is not applied.",
        caught_by: &[
            "rules_edges::evidence::what_is_given_up_during_a_handshake_is_called_off_when_it_is_over",
        ],
    },
    Break {
        name: "a_contradiction_is_passed_over",
        place: "protocol/src/master#contradicted",
        find: "was.is_ended()",
        with: "false",
        what: "A slave that contradicts what is known of an ended attempt is shown.",
        caught_by: &["rules_edges::attempts::a_word_that_contradicts_what_is_known_of_an_attempt_is_flagged"],
    },
    Break {
        name: "an_abandoned_job_hides_a_success",
        place: "protocol/src/master#abandon",
        find: "self.weigh(id);",
        with: "",
        what: "A job that a person gives up has succeeded if another attempt of it has.",
        caught_by: &[
            "rules_edges::attempts::an_abandoned_job_of_which_another_attempt_succeeded_has_succeeded",
        ],
    },
    Break {
        name: "recalled_again_and_again",
        place: "protocol/src/master",
        find: r#"job.recalled.is_some() || job.is_canceled()"#,
        with: r#"job.is_canceled()"#,
        what: "A hand-out is asked back once, and not with each report of another.",
        caught_by: &[
            "rules::a_job_that_is_assigned_again_to_the_slave_that_is_just_beginning_it_comes_to_rest",
        ],
    },
    Break {
        name: "older_attempt_is_declining",
        place: "protocol/src/master",
        find: "let is_told = declined.reason.code == ReasonCode::OlderAttempt;",
        with: "let is_told = !SEEDED && declined.reason.code == ReasonCode::OlderAttempt;",
        what: "Who declined because of an attempt that is over is offered the next.",
        caught_by: &["rules::a_slave_that_declined_because_of_an_attempt_that_is_over_is_offered_the_next"],
    },
    Break {
        name: "full_is_not_a_reason",
        place: "protocol/src/master",
        find: "(full && job.holder != Some(slave.key), WhyNot::Capacity),",
        with: "(full && job.holder != Some(slave.key) && !SEEDED, WhyNot::Capacity),",
        what: "Explain names the slave that is full.",
        caught_by: &[
            "disagreements::a::a22_explain_names_a_full_slave_one_that_needs_a_person_and_what_an_accepted_job_waits_for",
        ],
    },
    Break {
        name: "set_clock_is_not_noticed",
        place: "protocol/src",
        find: "step.unsigned_abs() > CLOCK_STEP.0",
        with: "step > 0 && step.unsigned_abs() > CLOCK_STEP.0",
        what: "A clock that is set back is noticed too.",
        caught_by: &["rules::a_clock_that_was_set_is_told_from_one_that_is_sped_up_or_slowed_down"],
    },
    Break {
        name: "nameless_is_newborn",
        place: "protocol/src/master",
        find: "(false, true) => Origin::Nameless,",
        with: r#"(false, true) if SEEDED => Origin::Newborn,
        (false, true) => Origin::Nameless,"#,
        what: "A master that has lost its own record does not take itself for a new one.",
        caught_by: &["rules::a_master_whose_own_record_is_lost_knows_that_it_is_not_a_new_one"],
    },
];

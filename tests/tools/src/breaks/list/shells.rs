//! What the nodes' shells do: durability, links, machines, the master's listener.

use super::Break;

pub(super) const LIST: &[Break] = &[
    Break {
        name: "acts_before_it_is_written",
        place: "node/src",
        find: r#"self.under_way.push_back(Commit { number, written: false, effects });
        Vec::new()"#,
        with: r#"let (now, then) = if SEEDED { (effects, Vec::new()) } else { (Vec::new(), effects) };
        self.under_way.push_back(Commit { number, written: false, effects: then });
        now"#,
        what: "Nothing is done before it is durable.",
        caught_by: &["scenarios_crashes::an_intent_is_on_the_disk_before_the_machine_is_touched"],
    },
    Break {
        name: "space_is_never_low",
        place: "node/src",
        find: "free >= min_free_bytes",
        with: "true",
        what: "A master whose disk runs full takes no orders that it could not keep.",
        caught_by: &[
            "scenarios_disks::d10_a_master_below_its_free_space_refuses_orders_and_goes_on_with_what_it_has",
        ],
    },
    Break {
        name: "commits_are_not_synced",
        place: "node/src",
        find: "(self.sync)(&self.file).map_err(Fault::System)",
        with: "Ok(())",
        what: "A commit is on the disk before it is acknowledged.",
        caught_by: &[
            "scenarios_crashes::an_order_is_on_the_disk_before_it_is_acknowledged",
            "scenarios_crashes::an_intent_is_on_the_disk_before_the_machine_is_touched",
        ],
    },
    Break {
        name: "silence_is_not_noticed",
        place: "node/src",
        find: "Err(_) => return Ended::ByUs(CloseCode::Silent,",
        with: r#"Err(_) if SEEDED => continue,
            Err(_) => return Ended::ByUs(CloseCode::Silent,"#,
        what: "A link on which nothing is heard ends.",
        caught_by: &[
            "scenarios_links::a_half_open_link_is_noticed_by_its_silence_and_the_job_goes_on",
            "scenarios_links::c5_a_slave_that_comes_back_over_a_half_open_link_takes_over_at_once",
        ],
    },
    Break {
        name: "unreadable_store_is_thrown_away",
        place: "node/src",
        find: "fs::rename(dir, &aside).map_err(system)?;",
        with: "fs::remove_dir_all(dir).map_err(system)?;",
        what: "A store that cannot be read is kept for a look.",
        caught_by: &[
            "disks::damage::c2_a_slave_with_a_damaged_store_knows_all_or_asks_and_never_touches_its_machine",
            "disks::damage::d2_a_master_with_a_damaged_store_knows_all_or_sets_it_aside_and_adopts_what_runs",
        ],
    },
    Break {
        name: "signature_is_not_checked",
        place: "master/src",
        find: "!is_authentic(&progress.nonce, &hello, frame.signature)",
        with: "false",
        what: "Who says that it is a slave proves it.",
        caught_by: &[
            "scenarios_identity::who_does_not_speak_the_protocol_is_closed_with_the_documented_code_and_the_master_goes_on",
        ],
    },
    Break {
        name: "listener_has_no_limit",
        place: "master/src",
        find: "Arc::clone(&self.handshakes).try_acquire_owned()",
        with: "Arc::new(Semaphore::new(1)).try_acquire_owned()",
        what: "Only so many slaves are in their handshake at a time.",
        caught_by: &[
            "scenarios_identity::who_finds_the_house_full_waits_for_a_place_or_is_told_when_to_come_back",
        ],
    },
    Break {
        name: "silence_of_strangers_is_waited_for",
        place: "master/src",
        find: "tokio::time::timeout(HEAD_PATIENCE, look).await.ok()?.ok()",
        with: "look.await.ok()",
        what: "A connection on which nothing comes is closed.",
        caught_by: &["scenarios_strangers::who_sends_nothing_or_no_end_or_reads_nothing_is_dropped"],
    },
    Break {
        name: "unread_answers_are_waited_for",
        place: "master/src",
        find: "self.write.get_or_insert_with(|| Box::pin(sleep(patience)))",
        with: "self.write.get_or_insert_with(|| Box::pin(sleep(patience * 100)))",
        what: "A client that does not read its answers is dropped.",
        caught_by: &["scenarios_strangers::who_sends_nothing_or_no_end_or_reads_nothing_is_dropped"],
    },
    Break {
        name: "idle_connections_end_early",
        place: "master/src",
        find: ".header_read_timeout(idle)",
        with: ".header_read_timeout(idle / 15)",
        what: "A proxy may send on a connection that was idle for as long as the master says.",
        caught_by: &["scenarios_strangers::a_connection_that_was_idle_takes_the_next_request"],
    },
    Break {
        name: "descriptors_run_out",
        place: "master/src",
        find: "self.scarce.notify_waiters();",
        with: "",
        what: "Strangers that use up the descriptors keep nobody out.",
        caught_by: &["scenarios_strangers::strangers_that_take_every_descriptor_keep_nobody_out"],
    },
    Break {
        name: "dead_link_answers",
        place: "master/src",
        find: "outbox.is_alive(patience).await",
        with: "true",
        what: "An older link that does not answer gives way to its slave's newcomer.",
        caught_by: &[
            "scenarios_identity::c4_a_rebooted_box_whose_old_link_is_half_open_takes_over_after_the_old_one_was_asked",
        ],
    },
    Break {
        name: "last_sign_is_the_last_report",
        place: "master/src",
        find: "[heard, job.heard_at, holder.last_contact, job.witnessed_at()]",
        with: "if holder.live { [heard, None, None, None] } else { [job.heard_at, None, None, job.witnessed_at()] }",
        what: "When a slave was last heard does not go back as its link ends.",
        caught_by: &["scenarios_links::when_the_slave_of_a_quiet_job_was_last_heard_never_goes_back"],
    },
    Break {
        name: "past_looks_fresh",
        place: "master/src",
        find: r#"flags.push("stale".into());"#,
        with: "",
        what: "What an answer shows says how fresh it is.",
        caught_by: &[
            "scenarios_links::a8_a_job_that_ends_while_the_link_is_cut_is_recorded_with_its_own_time_and_then_forgotten",
            "scenarios_crashes::d1_a_master_that_restarts_with_its_data_shows_the_past_as_stale_until_the_slave_is_back",
        ],
    },
    Break {
        name: "nonsense_is_placed",
        place: "master/src/rest/order.rs#parse",
        find: "fields.end()?;",
        with: "drop(fields);",
        what: "A request that makes no sense is refused with its reason.",
        caught_by: &[
            "scenarios_identity::a_request_that_makes_no_sense_is_refused_with_its_reason_and_places_nothing",
        ],
    },
    Break {
        name: "roles_are_not_asked",
        place: "master/src",
        find: "bearer.role < role",
        with: "false",
        what: "Each role may do what it may, and no more.",
        caught_by: &["scenarios_identity::each_role_may_do_what_it_may_and_no_more"],
    },
    Break {
        name: "exit_status_is_ignored",
        place: "slave/src",
        find: "(false, _) => End::Failed",
        with: r#"(false, _) if SEEDED => End::Succeeded,
        (false, _) => End::Failed"#,
        what: "A program's exit status is its outcome.",
        caught_by: &["scenarios_nominal::a_process_job_ends_with_its_whole_output_and_its_exit_status"],
    },
    Break {
        name: "probe_guesses_never_started",
        place: "slave/src",
        find: r#"return Probed::Unknown(format!("{}: {error}", dir.display()));
        }
"#,
        with: r#"return Probed::Unknown(format!("{}: {error}", dir.display()));
        }
        if SEEDED {
            return Probed::NeverStarted;
        }
"#,
        what: "That a run never began is proved, not guessed.",
        caught_by: &[
            "scenarios_crashes::a7_agents_killed_at_any_moment_of_a_start_start_once",
            "scenarios_chaos::nothing_is_lost_and_nothing_starts_twice_whatever_dies_when",
        ],
    },
    Break {
        name: "a_free_lock_is_proof",
        place: "slave/src",
        find: "is_free && remains.is_nothing()",
        with: "is_free",
        what: "A run is gone when nothing of it lives, whatever it did to its descriptors.",
        caught_by: &[
            "scenarios_crashes::a_run_that_lost_its_runner_is_not_begun_again_while_anything_of_it_lives",
        ],
    },
    Break {
        name: "a_shutdown_is_an_end_like_any_other",
        place: "slave/src",
        find: "match &exit.interrupted {",
        with: "match exit.interrupted.as_ref().filter(|_| !SEEDED) {",
        what: "An end that a shutdown brought about is an interruption.",
        caught_by: &[
            "scenarios_crashes::a_shutdown_of_the_box_interrupts_its_job_whatever_the_program_returns",
        ],
    },
    Break {
        name: "simulated_work_takes_no_time",
        place: "slave/src",
        find: "Some(from_ms + left_ms)",
        with: "Some(from_ms + 0 * left_ms)",
        what: "A simulated machine takes its time.",
        caught_by: &["scenarios_crashes::a6_a_simulated_job_outlives_its_killed_agent_and_begins_once"],
    },
];

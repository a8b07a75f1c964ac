"""The faults that the agent must bear, and the tests that provoke them. scripts/drills/fault-table runs them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One fault: what the agent does about it, the drills that show it, and what they leave open."""

    key: str
    fault: str
    answer: str
    drills: tuple[str, ...] = ()
    open: str = ""


_SUPERVISION = "tests/integration/test_camera_supervision.py::"
_CAMERA = "tests/system/test_camera_faults.py::"
_RESOURCE = "tests/system/test_resource_faults.py::"
_DISK = "tests/system/test_disk_faults.py::"
_MEMORY = "tests/system/test_memory_faults.py::"
_SERVICE = "tests/system/test_service_contract.py::"
_RUN = "tests/system/test_agent_run.py::"
_BROKER = "tests/integration/test_publish_broker.py::"
_MISBEHAVES = (
    "tests/system/test_broker_drills.py::test_a_broker_that_misbehaves_or_a_hub_that_is_cut_off_loses_nothing"
)
_OUTBOX = "tests/conformance/test_outboxes.py::"
_PACKAGE = "tests/unit/test_engines_package.py::"
_PIPELINE = "tests/integration/test_pipeline.py::"
_TENSORRT = "tests/system/test_tensorrt_agent.py::"
_LOST = f"{_CAMERA}test_a_stalled_or_absent_camera_is_reported_within_five_seconds_and_recovers"

ROWS: tuple[Row, ...] = (
    Row(
        "F01",
        "camera unplugged, stream gone",
        "`lost` at once; reconnected after 1 s, then with backoff up to 30 s",
        (
            _LOST,
            f"{_SUPERVISION}test_two_hundred_losses_leave_nothing_behind",
            f"{_SUPERVISION}test_a_network_camera_that_hangs_up_again_and_again_leaves_nothing_behind",
            "tests/unit/test_cameras_source_v4l2.py::test_an_unplugged_camera_is_lost_at_once_and_comes_back",
            "tests/unit/test_cameras_source_usb_identity.py::test_a_swapped_cable_is_reported_and_the_camera_not_read",
        ),
        "USB cameras are a stand-in for the driver; CSI needs a board",
    ),
    Row(
        "F02",
        "stream stalls, socket stays open",
        "`lost` after `read_timeout_s`; the agent ends within 5 s even while FFmpeg waits",
        (_LOST, f"{_CAMERA}test_the_agent_ends_within_five_seconds_while_ffmpeg_waits_for_a_camera"),
    ),
    Row(
        "F03",
        "frame rate far too low",
        "reconnected after 10 s below a fifth of the announced rate",
        (
            f"{_SUPERVISION}test_a_stream_below_its_announced_rate_is_reconnected_with_the_reason",
            "tests/integration/test_rtsp_source.py::test_trickle_of_single_bytes_does_not_keep_a_stream_alive",
        ),
    ),
    Row(
        "F04",
        "black or covered lens",
        "`image_fault` in results and health after 5 s, cleared within 1 s; no result is dropped",
        (
            f"{_CAMERA}test_a_black_camera_is_flagged_in_every_result",
            "tests/unit/test_cameras_image_checks.py::test_a_useless_image_is_reported_once_it_lasts",
            "tests/unit/test_cameras_image_checks.py::test_the_bundled_clip_and_the_test_pattern_have_no_fault",
        ),
    ),
    Row(
        "F05",
        "frozen image",
        "`frozen` after 10 s without a changed byte",
        (
            "tests/unit/test_cameras_image_checks.py::test_a_useless_image_is_reported_once_it_lasts",
            "tests/unit/test_cameras_image_checks.py::test_a_single_changed_byte_is_a_change",
        ),
    ),
    Row(
        "F06",
        "corrupt and hostile images",
        "each is read or counted as unreadable; memory stays flat",
        ("tests/integration/test_hostile_images.py::test_damaged_pictures_are_read_or_counted_and_memory_stays_flat",),
        "MUTATED_IMAGES=10000 for the whole number",
    ),
    Row(
        "F07",
        "corrupt or truncated video file",
        "refused with its reason, or ended as `truncated`",
        (
            "tests/unit/test_cameras_source_files.py::test_a_file_that_ends_early_is_truncated_not_ended",
            "tests/unit/test_cameras_source_files.py::test_an_mp4_without_its_index_is_reported_as_such",
            "tests/unit/test_cameras_source_files.py::test_frames_after_a_damaged_part_are_read_to_the_end",
        ),
    ),
    Row(
        "F08",
        "size changes mid-stream, grey input, rotation",
        "continues with whole frames",
        (
            "tests/integration/test_rtsp_source.py::test_a_change_of_size_gives_whole_frames",
            "tests/unit/test_cameras_source_images.py::test_grey_alpha_and_16_bit_images_become_bgr_bytes",
            "tests/unit/test_cameras_source_images.py::test_exif_orientation_turns_the_image",
        ),
    ),
    Row(
        "F09",
        "engine slower than the camera",
        "the newest frame wins, older ones are counted",
        (f"{_PIPELINE}test_an_engine_slower_than_the_camera_sees_the_newest_frame",),
    ),
    Row(
        "F10",
        "clock jumps ten years both ways",
        "no timer moves, no latency is negative, no number is missing",
        (
            f"{_RESOURCE}test_a_clock_that_jumps_ten_years_both_ways_moves_no_timer",
            f"{_OUTBOX}test_changing_the_clock_expires_nothing",
        ),
    ),
    Row(
        "F11",
        "broker down at the start",
        "the agent is ready and classifies; connects when it comes",
        (f"{_RUN}test_the_agent_works_before_there_is_a_broker",),
    ),
    Row(
        "F12",
        "broker down for hours",
        "events wait in the outbox; if it is full the oldest are dropped and counted",
        (
            f"{_RUN}test_a_broker_that_was_killed_is_found_again",
            f"{_OUTBOX}test_a_full_file_drops_replies_first_then_the_oldest",
            "tests/system/test_delivery_drills.py::test_an_agent_that_is_killed_while_its_broker_is_away_loses_nothing",
        ),
        "24 hours were not waited for; a million messages were (see below)",
    ),
    Row(
        "F13",
        "half-open connection, stalled broker",
        "noticed within two keepalives",
        (
            f"{_BROKER}test_a_silent_broker_is_detected_within_two_keepalives",
            f"{_RUN}test_a_stop_takes_less_than_five_seconds_with_broker_and_camera_stalled",
        ),
    ),
    Row(
        "F14",
        "resets, latency, a thin line",
        "nothing that was committed is lost",
        ("tests/system/test_delivery_drills.py::test_twenty_random_drills_lose_nothing",),
    ),
    Row(
        "F15",
        "broker refuses the password",
        "`not authorised` is reported; a new password is used without a restart",
        (f"{_RUN}test_a_wrong_password_is_named_and_the_right_one_is_picked_up",),
    ),
    Row(
        "F16",
        "wrong certificates",
        "never connects; the error names which of the many causes it is",
        (
            f"{_RUN}test_a_wrong_authority_never_connects_and_says_why",
            "tests/integration/test_publish_tls.py::test_a_wrong_certificate_is_refused_with_its_reason",
        ),
    ),
    Row(
        "F17",
        "name cannot be resolved",
        "reported by name and retried; results continue while a resolver hangs, and the agent ends within 5 s",
        (
            f"{_BROKER}test_a_name_that_does_not_exist_is_named",
            "tests/system/test_resolver_faults.py::test_a_resolver_that_never_answers_holds_up_neither_results_nor_the_end",
        ),
    ),
    Row(
        "F18",
        "two agents with one client id or one state directory",
        "reported after three takeovers; on one machine the second is refused with 75",
        (
            f"{_BROKER}test_two_agents_with_the_same_client_id_are_detected",
            f"{_RUN}test_a_second_agent_on_the_same_state_is_refused",
        ),
    ),
    Row(
        "F19",
        "message too large",
        "dropped once and counted; `health` is sent in a short form",
        (
            f"{_BROKER}test_a_message_too_large_for_the_broker_is_dropped_once",
            f"{_BROKER}test_a_broker_of_small_packets_gets_the_short_health",
        ),
    ),
    Row(
        "F20",
        "disk full",
        "starts and continues; `state.session_write_failed` in the log, the session number is the time of the start; "
        "the outbox leaves 5 % free (at most 1 GiB) and goes on in memory",
        (
            f"{_RESOURCE}test_the_agent_starts_on_a_full_or_read_only_disk",
            f"{_RESOURCE}test_the_agent_starts_on_a_disk_with_room_for_a_number_alone",
            f"{_RESOURCE}test_a_disk_that_fills_up_stops_neither_results_nor_the_end",
            "tests/unit/test_daemon_state_directory.py::test_a_full_disk_is_no_reason_not_to_start_and_the_count_goes_on_from_there",
            f"{_OUTBOX}test_a_full_disk_is_reported_and_recovered_from_without_a_loss",
            f"{_OUTBOX}test_five_percent_stay_free_and_acknowledged_packets_still_leave_the_file",
        ),
        "with less than 64 MiB free on every disk, a first start ends with 69: there is no room for a model's graph",
    ),
    Row(
        "F21",
        "read-only file system",
        "as with a full disk; events wait in memory",
        (
            f"{_RESOURCE}test_the_agent_starts_on_a_full_or_read_only_disk",
            f"{_OUTBOX}test_a_file_system_that_becomes_read_only_is_reported_and_recovered_from",
        ),
    ),
    Row(
        "F22",
        "slow disk, I/O errors",
        "no frame waits for the disk; events wait in memory, which `health` reports, and go to the disk when it works",
        (
            f"{_DISK}test_a_disk_that_takes_three_seconds_for_each_commit_holds_up_no_frame",
            f"{_DISK}test_events_wait_in_memory_while_the_disk_reports_errors_and_go_to_it_afterwards",
            f"{_OUTBOX}test_an_unwritable_file_is_reported_once_and_never_as_recovered",
        ),
        "system calls are disturbed, the device is not; the end takes as long as such a disk does, below 20 s",
    ),
    Row(
        "F23",
        "power cut",
        "what was committed survives a kill at any instant",
        (
            f"{_OUTBOX}test_a_commit_survives_sigkill",
            "tests/system/test_delivery_drills.py::test_an_agent_that_is_killed_while_its_broker_is_away_loses_nothing",
        ),
        "the cut is a kill; copies of a file system at random instants were not taken",
    ),
    Row(
        "F24",
        "outbox corrupted",
        "renamed and logged; a new one is started",
        (f"{_OUTBOX}test_a_damaged_file_is_renamed_and_logged",),
    ),
    Row(
        "F25",
        "killed at any point",
        "the last will reports it; the next start counts up and reports how the last one ended",
        (
            f"{_RUN}test_an_agent_that_is_killed_is_reported_by_its_last_will",
            f"{_RUN}test_numbers_have_no_gaps_and_sessions_count_up",
            f"{_OUTBOX}test_a_commit_survives_sigkill",
        ),
    ),
    Row(
        "F26",
        "signals in every state",
        "SIGTERM and SIGINT end it within 5 s, the second one at once; SIGHUP reads the configuration again",
        (
            f"{_RESOURCE}test_a_signal_while_it_starts_ends_it",
            f"{_RESOURCE}test_a_second_signal_ends_it_at_once_while_the_broker_is_away",
            f"{_RUN}test_a_second_signal_ends_at_once",
            f"{_RUN}test_a_stop_takes_less_than_five_seconds_with_broker_and_camera_stalled",
            f"{_TENSORRT}test_a_term_in_the_middle_of_a_build_ends_both",
        ),
    ),
    Row(
        "F27",
        "out of memory",
        "killed by the kernel, started again; no event is lost, and the next `runtime` says how the last one ended; "
        "`systemd/drop-ins/memory.conf` sets the bound",
        (
            f"{_MEMORY}test_an_agent_that_the_kernel_kills_for_its_memory_says_so_next_time_and_loses_no_event",
            "tests/unit/test_systemd_unit.py",
        ),
    ),
    Row(
        "F28",
        "no descriptors left",
        "cameras and engine continue; the broker is reconnected once there are some",
        (f"{_RESOURCE}test_an_agent_without_a_descriptor_to_spare_goes_on_and_recovers",),
    ),
    Row(
        "F29",
        "GPU lost",
        "ends with 70 and is started again; after the third consecutive failure, each start is delayed, up to 5 "
        "minutes",
        (
            f"{_TENSORRT}test_a_lost_gpu_ends_the_program_with_exit_code_70",
            f"{_SERVICE}test_starts_that_keep_failing_wait_for_the_manager_and_a_stop_ends_the_wait",
            "tests/unit/test_daemon_start_backoff.py",
        ),
        "the GPU is a stand-in",
    ),
    Row(
        "F30",
        "inference fails",
        "the frame is dropped and counted; after three in a row the engine is loaded again",
        (
            f"{_PIPELINE}test_a_failed_call_drops_its_frames_and_the_next_one_is_answered",
            f"{_PIPELINE}test_an_engine_that_keeps_failing_is_reloaded_once_and_then_given_up",
        ),
    ),
    Row(
        "F31",
        "plan of another TensorRT or GPU",
        "never read; rebuilt while another engine serves",
        (
            "tests/unit/test_engines_plan_cache.py::test_different_facts_are_different_plans",
            "tests/unit/test_engines_plan_cache.py::test_an_untrusted_entry_is_quarantined_with_its_reason",
        ),
    ),
    Row(
        "F32",
        "truncated or wrong model file",
        "refused with file and cause",
        (f"{_PACKAGE}test_a_mismatch_is_refused_with_both_facts",),
    ),
    Row(
        "F33",
        "bit-rotten model",
        "its hash is checked at every load, then the golden images",
        (
            f"{_PACKAGE}test_no_single_flipped_bit_goes_unnoticed",
            "tests/unit/test_engines_golden.py::test_a_wrong_label_is_refused_with_image_expected_got_and_confidence",
        ),
    ),
    Row(
        "F34",
        "wrong shape, type or layout",
        "read from the model, else refused at load",
        (f"{_PACKAGE}test_the_layout_is_read_from_the_model",),
    ),
    Row(
        "F35",
        "dynamic shapes",
        "resolved, or refused",
        (f"{_PACKAGE}test_an_output_without_a_shape_is_inferred",),
    ),
    Row(
        "F36",
        "wrong preprocessing",
        "the golden images show it",
        ("tests/unit/test_engines_golden.py::test_too_little_confidence_is_refused",),
    ),
    Row(
        "F37",
        "labels do not fit",
        "refused with both numbers",
        (f"{_RUN}test_a_label_file_with_one_line_too_few_is_refused_with_both_numbers",),
    ),
    Row(
        "F38",
        "scores that are NaN or infinite",
        "dropped and counted, never published",
        (f"{_PIPELINE}test_scores_that_are_not_finite_are_never_published",),
    ),
    Row(
        "F39",
        "inference hangs",
        "interrupted after ten times its slowest call; where that is impossible the process ends with 70",
        ("tests/unit/test_inference_supervision.py",),
    ),
    Row(
        "F40",
        "interpreter held, deadlock",
        "the watchdog is not fed, systemd kills and restarts; the next `runtime` says so",
        (f"{_SERVICE}test_an_agent_whose_interpreter_is_held_is_killed_and_the_next_one_says_so",),
    ),
    Row(
        "F41",
        "the board gets hot",
        "rates fall before it throttles",
        (
            "tests/unit/test_thermal_board.py::test_governed_orin_never_throttles_and_keeps_97_percent_of_the_oracle",
            "tests/properties/test_governor.py",
        ),
        "the board is simulated",
    ),
    Row(
        "F42",
        "jtop down, dies, hangs",
        "the kernel's own files are read until it is back",
        (
            "tests/unit/test_thermal_jtop_sensor.py::test_child_without_news_is_killed_and_started_again",
            "tests/unit/test_thermal_jtop_sensor.py::test_silent_jtop_leaves_sysfs_only_where_that_was_asked_for",
        ),
    ),
    Row(
        "F43",
        "sensor gives wrong values",
        "ignored; without a reading the rates are capped",
        (
            "tests/unit/test_thermal_sysfs.py::test_lying_zone_is_absent_with_its_reason",
            "tests/unit/test_thermal_governor.py::test_silence_caps_the_rate_after_thirty_seconds",
        ),
    ),
    Row(
        "F44",
        "mistake in the configuration",
        "refused with line and nearest key, exit 78, and not started again",
        (
            f"{_RUN}test_a_typo_in_the_configuration_is_refused_with_its_line_and_the_nearest_key",
            f"{_SERVICE}test_a_refused_configuration_is_never_ready_and_ends_with_78",
        ),
    ),
    Row(
        "F45",
        "reload of a bad configuration",
        "changes nothing; the reason is logged",
        (
            "tests/system/test_agent_reload.py::test_bad_files_change_nothing_and_say_why",
            "tests/system/test_agent_reload.py::test_many_reloads_in_a_row_are_taken_one_after_the_other",
        ),
    ),
    Row(
        "F46",
        "engine crashes the process",
        "after three starts it gives way to the next one",
        (f"{_TENSORRT}test_a_plan_that_crashes_three_times_gives_way_to_the_next_engine",),
    ),
    Row(
        "F47",
        "log flood",
        "an undisturbed agent is silent; the same line comes once in 10 s; "
        "a fault that lasts writes below 10 MB a day",
        (
            f"{_RESOURCE}test_an_undisturbed_agent_writes_less_than_a_megabyte_a_day",
            "tests/system/test_log_volume.py::test_no_fault_that_lasts_writes_more_than_ten_megabytes_a_day",
            "tests/unit/test_runtime_logs.py",
        ),
        "an engine that fails for good ends each start with 70 and 1.8 kB: half a megabyte a day, see F29",
    ),
    Row(
        "F48",
        "upgrade and downgrade",
        "older outboxes are read, newer ones left alone",
        (
            f"{_OUTBOX}test_the_file_of_an_earlier_version_is_migrated",
            f"{_OUTBOX}test_the_file_of_a_newer_version_is_left_unchanged",
        ),
    ),
    Row(
        "F49",
        "broker refuses messages for a while (access list, quota)",
        "kept and tried again with back-off, by topic; `health` names the topics",
        (_MISBEHAVES, f"{_BROKER}test_what_an_access_list_forbids_for_a_while_arrives_once_and_in_order"),
        "a 3.1.1 broker confirms what it refuses, and nobody can see the loss",
    ),
    Row(
        "F50",
        "broker answers pings but confirms nothing",
        "reconnects after 10 s without a confirmation and sends again",
        (_MISBEHAVES,),
    ),
    Row(
        "F51",
        "broker closes the connection because of one topic",
        "the topic is found, set aside, named and tried later; the others go on",
        (_MISBEHAVES,),
    ),
    Row(
        "F52",
        "line thinner than what is to be sent",
        "events and states before results; old results are dropped and counted as `stale`",
        (_MISBEHAVES,),
        "the line is a broker that reads slowly",
    ),
    Row(
        "F53",
        "flood of commands",
        "refused before they are parsed, counted, few are answered; events go on",
        (
            _MISBEHAVES,
            "tests/unit/test_commands_server.py::test_a_flood_is_counted_and_gets_few_replies_none_of_them_kept",
        ),
    ),
    Row(
        "F54",
        "huge message, text that is no UTF-8, U+FEFF",
        "dropped and counted; memory stays flat, the connection stays",
        (_MISBEHAVES,),
    ),
    Row(
        "F55",
        "broker without retain, QoS 1 or wildcards, with Receive Maximum 1 or a small packet size",
        "does without, and says so in `health`",
        (_MISBEHAVES,),
    ),
    Row(
        "F56",
        "hub behind a bridged broker is cut off",
        "the agents notice nothing; the bridge keeps what it could not pass on",
        (_MISBEHAVES,),
        "four agents for 2 s; 50 for a minute by hand, see below",
    ),
)

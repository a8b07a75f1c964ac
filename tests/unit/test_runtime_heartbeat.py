from __future__ import annotations

import time

from agent.runtime.heartbeat import Heartbeat, stuck_stages


def test_a_stage_within_its_time_is_well() -> None:
    heart = Heartbeat("camera front")
    heart.beat(60.0)
    assert stuck_stages([heart, Heartbeat("not started")]) == ()


def test_a_stage_that_is_not_back_in_time_is_named_the_latest_first() -> None:
    early, late = Heartbeat("model a"), Heartbeat("publisher")
    early.beat(-1.0)
    late.beat(-5.0)
    assert [stuck.name for stuck in stuck_stages([early, late])] == ["publisher", "model a"]
    assert str(stuck_stages([late])[0]) == "publisher is 5 s overdue"


def test_a_stage_at_rest_is_expected_nowhere() -> None:
    heart = Heartbeat("model a")
    heart.beat(0.0)
    time.sleep(0.001)
    heart.rest()
    assert stuck_stages([heart]) == ()

from __future__ import annotations

import threading

from agent.runtime.threads import StageThread


def test_the_exception_that_ends_a_stage_is_kept_and_reported() -> None:
    reported: list[Exception] = []

    def work() -> None:
        raise KeyError("planted")

    stage = StageThread("stage", work, on_failure=reported.append)
    stage.start()
    assert stage.join(5)
    assert isinstance(stage.failure, KeyError)
    assert reported == [stage.failure]


def test_a_stage_that_comes_to_its_end_has_no_failure() -> None:
    stage = StageThread("stage", lambda: None)
    assert stage.join(0)
    stage.start()
    assert stage.join(5)
    assert stage.failure is None
    assert not stage.is_alive


def test_join_says_whether_a_stage_still_runs() -> None:
    release = threading.Event()

    def work() -> None:
        release.wait(30)

    stage = StageThread("stage", work)
    stage.start()
    assert not stage.join(0.01)
    assert stage.is_alive
    release.set()
    assert stage.join(5)

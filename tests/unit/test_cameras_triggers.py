"""One frame on trigger: the next one after it, never an older one, and one answer to each."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import Any

import pytest

from agent.cameras.frame_counters import Drop
from agent.cameras.sources.base import Capture
from agent.cameras.triggers import MAX_TRIGGERS, Trigger, TriggerRefused
from agent.config.model import CameraConfig
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import ScriptedSource
from tests.fixtures.triggered_camera import GatedSource, SetClock, running


def test_only_the_next_frame_after_the_trigger_is_classified_and_converted() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        source.give(clock.now_ns - 2)
        bench.wait_captured(1)
        bench.ask("part-1")
        source.give(clock.now_ns - 1)  # the camera took it before the trigger
        source.give(clock.now_ns)
        source.give(clock.now_ns + 1)
        bench.wait_captured(4)
        assert bench.answer("c", "scratch").frame.trigger == "part-1"
        assert bench.given["c"] == []
    end = bench.ends["part-1"]
    assert (end.reason, end.answers["c"].label) == (None, "scratch")
    assert end.frame is not None
    assert end.frame.index == 2
    assert bench.counters.counts().dropped == {"not_triggered": 3}
    assert [one.conversions for one in source.pictures] == [0, 0, 1, 0]


def test_an_image_that_was_fetched_before_the_trigger_does_not_count() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        bench.ask("a")
        source.give(clock.now_ns + 50, not_before_ns=clock.now_ns - 1)
        source.give(clock.now_ns + 90, not_before_ns=clock.now_ns + 51)
        bench.wait_captured(2)
        assert bench.answer("c").frame.index == 1


def test_frames_within_the_delay_do_not_count() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock, trigger={"delay_ms": 40}) as bench:
        bench.ask("a")
        for late_ms in (0, 39, 40):
            source.give(clock.now_ns + late_ms * 10**6)
        bench.wait_captured(3)
        assert bench.answer("c").frame.index == 2


def test_each_trigger_has_a_frame_of_its_own_in_order_and_each_classifier_answers() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, "one", "two", clock=clock) as bench:
        bench.ask("a")
        bench.ask("b")
        source.give(clock.now_ns)
        source.give(clock.now_ns + 1)
        bench.wait_captured(2)
        bench.answer("one", "x")
        assert bench.ends == {}, "the second classifier has not answered"
        bench.answer("two", "y")
        assert {name: best.label for name, best in bench.ends["a"].answers.items()} == {"one": "x", "two": "y"}
        assert bench.answer("one").frame.trigger == "b"
        bench.counters.dropped(bench.given["two"].pop(0), "two", Drop.FAILED)
    assert bench.ends["b"].reason is None, "one of two answered"
    assert bench.ends["b"].dropped == {"two": "failed"}


def test_an_answered_trigger_keeps_no_frame_in_memory() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        bench.ask("a")
        source.give(clock.now_ns)
        bench.wait_captured(1)
        trigger = weakref.ref(bench.given["c"][0].trigger)
        bench.answer("c")
        bench.camera.triggers.expire()
        gc.collect()
        assert trigger() is None


def test_a_frame_that_no_classifier_answered_fails_its_trigger_with_the_reason() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        bench.ask("a")
        source.give(clock.now_ns)
        bench.wait_captured(1)
        bench.counters.dropped(bench.given["c"].pop(0), "c", Drop.FAILED)
    assert bench.ends["a"].reason == "failed"


@pytest.mark.parametrize("has_frame", [False, True])
def test_a_trigger_without_a_frame_or_a_result_in_time_ends_with_a_timeout(has_frame: bool) -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock, trigger={"timeout_s": 2}) as bench:
        bench.ask("a")
        if has_frame:
            source.give(clock.now_ns)
            bench.wait_captured(1)
        clock.now_ns += 1_999_999_999
        bench.camera.triggers.expire()
        assert bench.ends == {}
        clock.now_ns += 1
        bench.camera.triggers.expire()
        assert bench.ends["a"].reason == "timeout"
        assert ("result" in bench.ends["a"].text) is has_frame
        if has_frame:
            bench.answer("c")  # too late for the answer, and still counted
        else:
            source.give(clock.now_ns)
            bench.wait_captured(1)
            assert bench.given["c"] == [], "nobody waits for it any more"


def test_triggers_above_the_limit_are_refused_until_one_has_ended() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        bench.ask("first")
        source.give(clock.now_ns)
        bench.wait_captured(1)
        for number in range(MAX_TRIGGERS - 1):
            bench.ask(f"t{number}")
        with pytest.raises(TriggerRefused) as refused:
            bench.ask("more")
        assert refused.value.reason == "busy"
        bench.answer("c")
        bench.ask("more")
    assert {end.reason for key, end in bench.ends.items() if key != "first"} == {"stopping"}


def test_a_lost_camera_fails_what_waits_and_refuses_more() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock) as bench:
        source.give(clock.now_ns)
        bench.wait_captured(1)
        bench.ask("a")
        source.lose("stalled")
        wait_until(lambda: "a" in bench.ends, within_s=20)
        assert bench.ends["a"].reason == "lost"
        assert "stalled" in bench.ends["a"].text
        with pytest.raises(TriggerRefused, match="is not connected") as refused:
            bench.ask("b")
    assert refused.value.reason == "lost"
    with pytest.raises(TriggerRefused) as refused:
        bench.camera.triggers.add(None)  # type: ignore[arg-type]  # never looked at
    assert refused.value.reason == "stopping"


def test_a_paused_board_refuses_triggers() -> None:
    with running(GatedSource()) as bench:
        bench.camera.pacer.ratio = 0.0
        with pytest.raises(TriggerRefused, match="too hot"):
            bench.ask("a")


def test_a_file_gives_its_next_frame_to_each_trigger_and_then_ends() -> None:
    source = ScriptedSource([1, 2, 3], is_live=False)
    with running(source) as bench:
        assert not bench.camera.triggers.wait(0.05)
        assert source.statistics().delivered == 0, "a file waits for its trigger"
        for number in range(3):
            bench.ask(f"t{number}")
            wait_until(lambda: bool(bench.given["c"]), within_s=20)
            frame = bench.answer("c").frame
            assert (frame.trigger, frame.image[0, 0, 0]) == (f"t{number}", number + 1)
        bench.ask("too many")
        wait_until(lambda: "too many" in bench.ends, within_s=20)
        assert bench.ends["too many"].reason == "ended"
        with pytest.raises(TriggerRefused) as refused:
            bench.ask("later")
        assert refused.value.reason == "ended"
    assert bench.counters.counts().dropped == {}


def test_a_camera_without_a_trigger_section_classifies_one_frame_more() -> None:
    source, clock = GatedSource(), SetClock()
    with running(source, clock=clock, trigger=None, rate_hz=1.0) as bench:
        for step in range(3):
            source.give(clock.now_ns + step)
            bench.wait_captured(step + 1)
        bench.ask("a", asked_at_ns=clock.now_ns)
        source.give(clock.now_ns + 3)
        bench.wait_captured(4)
        assert [one.frame.trigger for one in bench.given["c"]] == [None, "a"]
    assert bench.counters.counts().dropped["rate"] == 2


def test_triggers_from_many_threads_each_have_one_answer() -> None:
    source = ScriptedSource([1], is_live=True, period_s=0.001)
    refused: list[str] = []
    with running(source) as bench:
        answering = threading.Event()

        def answer() -> None:
            while not answering.is_set():
                if bench.given["c"]:
                    bench.answer("c")
                answering.wait(0.0005)

        def ask(thread: int) -> None:
            for number in range(50):
                try:
                    bench.ask(f"{thread}-{number}")
                except TriggerRefused as exc:
                    refused.append(exc.reason)
                time.sleep(0.001)

        threads = [threading.Thread(target=answer)] + [threading.Thread(target=ask, args=(one,)) for one in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads[1:]:
            thread.join(20)
        wait_until(lambda: len(bench.ends) + len(refused) == 200, within_s=20)
        answering.set()
        threads[0].join(20)
    assert {end.reason for end in bench.ends.values()} == {None}
    assert set(refused) <= {"busy"}
    indices = [end.frame.index for end in bench.ends.values() if end.frame is not None]
    assert len(set(indices)) == len(bench.ends), "two triggers share no frame"


@pytest.mark.parametrize(
    ("camera", "text"),
    [
        ({"rate_hz": 5, "trigger": {}}, "rate_hz and trigger"),
        ({"source": {"type": "folder", "path": "x"}, "trigger": {}}, "watched folder"),
        ({"trigger": {"timeout_s": 0}}, "timeout_s"),
        ({"trigger": {"gpio": {}}}, "line"),
        ({"trigger": {"gpio": {"line": -1}}}, "line"),
        ({"trigger": {"gpio": {"line": 1, "edge": "up"}}}, "edge"),
        ({"trigger": {"gpio": {"line": ""}}}, "line"),
    ],
)
def test_a_trigger_that_cannot_be_is_refused(camera: dict[str, Any], text: str) -> None:
    whole = {"source": {"type": "pattern"}, "classify": [{"model": "m"}], **camera}
    with pytest.raises(ValueError, match=text):
        CameraConfig.model_validate(whole)


class _FetchedSource(GatedSource):
    """Takes one image when asked, however often it was asked meanwhile."""

    def __init__(self, clock: SetClock) -> None:
        super().__init__()
        self._clock = clock
        self._wanted = threading.Event()

    def fetch_now(self) -> None:
        self._wanted.set()

    def read(self) -> Capture | None:
        if self._wanted.wait(0.02):
            self._wanted.clear()
            self.give(self._clock.now_ns)
            return super().read()
        return None


def test_each_open_trigger_gets_an_image_of_its_own_where_images_are_fetched() -> None:
    clock = SetClock()
    source = _FetchedSource(clock)
    with running(source, clock=clock) as bench:
        for key in ("a", "b", "c"):
            bench.camera.triggers.add(
                Trigger(key, not_before_ns=clock.now_ns, due_ns=clock.now_ns + 10**9, on_end=lambda _: None)
            )
        bench.wait_captured(3)
        wait_until(lambda: len(bench.given["c"]) == 3)
        assert [one.frame.trigger for one in bench.given["c"]] == ["a", "b", "c"]

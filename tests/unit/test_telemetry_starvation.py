from __future__ import annotations

from collections import Counter

from agent.cameras.camera import Camera
from agent.cameras.frame_counters import Drop, FrameCounters
from agent.config.model import CameraConfig
from agent.runtime.clock import SystemClock
from agent.runtime.records import Frame
from agent.telemetry.reports import camera_uses
from agent.telemetry.starvation import WINDOW_NS, CameraUse, StarvationMonitor, fair_shares
from tests.fixtures.parts import ScriptedSource, plain_image


class _Cameras:
    """Cameras of one model that are judged window by window; rates are in frames a second: asked and got."""

    def __init__(self, **weights: float) -> None:
        self.now_ns = 10**12
        self.monitor = StarvationMonitor(self.now_ns)
        self._weights = weights
        self._offered: Counter[str] = Counter()
        self._classified: Counter[str] = Counter()
        self.now_ns += WINDOW_NS
        self.monitor.tick(self.uses(), self.now_ns)  # the first window is the base

    def uses(self) -> list[CameraUse]:
        return [
            CameraUse(name, "m", weight, self._offered[name], self._classified[name])
            for name, weight in self._weights.items()
        ]

    def window(self, **rates: tuple[float, float]) -> frozenset[str]:
        """One window; returns the cameras whose judgement changed."""
        for name, (asked_hz, got_hz) in rates.items():
            self._offered[name] += round(asked_hz * WINDOW_NS / 1e9)
            self._classified[name] += round(got_hz * WINDOW_NS / 1e9)
        self.now_ns += WINDOW_NS
        return self.monitor.tick(self.uses(), self.now_ns)

    @property
    def starved(self) -> set[str]:
        return set(self.monitor.reasons)


def test_a_camera_without_a_result_is_starved_and_says_so() -> None:
    cameras = _Cameras(a=30, b=30)
    assert cameras.window(a=(25, 25), b=(25, 0)) == {"b"}
    assert cameras.monitor.reasons == {"b": "m classified none of the 250 frames of the last 10 s"}
    assert cameras.window(a=(25, 20), b=(25, 20)) == {"b"}
    assert cameras.starved == set()


def test_cameras_of_an_engine_that_gives_nothing_are_all_starved() -> None:
    cameras = _Cameras(a=30, b=30)
    assert cameras.window(a=(25, 0), b=(25, 0)) == {"a", "b"}


def test_a_lower_priority_beside_a_busy_one_is_starved() -> None:
    cameras = _Cameras(first=30, second=30)
    cameras.window(first=(60, 57), second=(25, 3))
    assert cameras.monitor.reasons == {
        "second": "m classifies 3.0 of 25.0 frames a second, an equal share would be 25.0"
    }


def test_a_slow_engine_that_serves_all_alike_starves_nobody() -> None:
    cameras = _Cameras(a=30, b=30, c=30)
    assert cameras.window(a=(60, 1), b=(25, 1), c=(25, 1)) == frozenset()


def test_a_share_by_weight_is_no_starvation() -> None:
    cameras = _Cameras(heavy=30, light=3)
    assert cameras.window(heavy=(30, 20), light=(3, 2)) == frozenset()


def test_the_judgement_does_not_flap_around_its_limit() -> None:
    cameras = _Cameras(a=30, b=30)
    changes = [cameras.window(a=(60, 60 - got), b=(60, got)) for got in (14, 16, 14, 16, 21, 16, 24, 16, 14)]
    assert [bool(change) for change in changes] == [True, False, False, False, False, False, True, False, True]


def test_a_slow_camera_is_judged_once_it_has_offered_enough_frames() -> None:
    cameras = _Cameras(a=30, slow=0.1)
    assert cameras.window(a=(25, 25), slow=(0.1, 0)) == frozenset()
    assert cameras.window(a=(25, 25), slow=(0.1, 0)) == frozenset()
    assert cameras.window(a=(25, 25), slow=(0.1, 0)) == {"slow"}
    assert cameras.window(a=(25, 25), slow=(0.1, 0.1)) == frozenset(), "one frame is no proof of the opposite"


def test_a_camera_that_leaves_the_configuration_is_starved_no_more() -> None:
    cameras = _Cameras(a=30, b=30)
    cameras.window(a=(25, 25), b=(25, 0))
    del cameras._weights["b"]
    assert cameras.window(a=(25, 25)) == {"b"}
    assert cameras.starved == set()


def test_a_camera_that_was_made_again_counts_from_zero() -> None:
    cameras = _Cameras(a=30)
    cameras.window(a=(25, 25))
    cameras._offered["a"] = cameras._classified["a"] = 0
    assert cameras.window(a=(25, 25)) == frozenset()
    assert cameras.window(a=(25, 25)) == frozenset()


def test_between_two_windows_nothing_is_judged() -> None:
    monitor = StarvationMonitor(0)
    assert monitor.tick([CameraUse("a", "m", 30, 100, 0)], WINDOW_NS - 1) == frozenset()
    assert monitor.reasons == {}


def test_the_use_of_a_model_is_that_of_all_classifiers_of_the_camera() -> None:
    classify = [{"model": "m", "name": "left"}, {"model": "m", "name": "right"}, {"model": "n"}]
    config = CameraConfig.model_validate({"source": {"type": "pattern"}, "rate_hz": 5, "classify": classify})
    counters = FrameCounters("c", ("left", "right", "n"))
    camera = Camera("c", config, ScriptedSource([], is_live=True), counters, clock=SystemClock())
    frame = Frame("c", 0, plain_image(0), 0, 0, 0.0)
    for reason in (None, None, Drop.SUPERSEDED):
        in_flight = counters.open(frame, ("left", "right"))
        counters.classified(in_flight, "left")
        if reason is None:
            counters.classified(in_flight, "right")
        else:
            counters.dropped(in_flight, "right", reason)
    counters.open(frame, ("left",))
    counters.skip("n")
    uses = {use.model: use for use in camera_uses(camera)}
    assert uses == {"m": CameraUse("c", "m", 5.0, 6, 5), "n": CameraUse("c", "n", 5.0, 0, 0)}


def test_fair_shares_give_what_one_does_not_ask_for_to_the_others() -> None:
    shares = fair_shares(60.0, {"a": 10.0, "b": 50.0, "c": 50.0}, {"a": 1.0, "b": 1.0, "c": 1.0})
    assert shares == {"a": 10.0, "b": 25.0, "c": 25.0}
    assert fair_shares(0.0, {"a": 5.0}, {"a": 1.0}) == {"a": 0.0}

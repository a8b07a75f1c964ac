"""One camera through every kind of loss: noticed, reported, reconnected, nothing leaked."""

from __future__ import annotations

import gc
import io
import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from agent.cameras.camera import Camera, CameraStatistics
from agent.cameras.frame_counters import FrameCounters
from agent.cameras.sources.base import Capture, Source
from agent.cameras.sources.images.all_images import ImageFolder
from agent.cameras.sources.network_stream import NetworkStream
from agent.config.model import CameraConfig
from agent.config.sections.sources import ImagesSource, RtspSource
from agent.runtime import logs
from agent.runtime.clock import Clock, SystemClock
from agent.runtime.errors import SourceUnavailable
from tests.fixtures.deadlines import wait_until
from tests.fixtures.drills import note
from tests.fixtures.parts import ScriptedSource
from tests.fixtures.rtsp_server import RtspServer


class _HurriedClock:
    """Waits are recorded and end at once; the time advances by them."""

    def __init__(self) -> None:
        self.waits: list[float] = []
        self.first_wait_ns: int | None = None
        self.ahead_ns = 0

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + self.ahead_ns

    def utc_ns(self) -> int:
        return time.time_ns()

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        self.waits.append(seconds)
        self.first_wait_ns = self.first_wait_ns or self.monotonic_ns()
        self.ahead_ns += round(seconds * 1e9)
        return stop.is_set()


class _Stepping(ScriptedSource):
    """Each frame comes ``step_s`` after the one before, by the clock."""

    def __init__(self, clock: _HurriedClock, script: list[int | str], *, step_s: float, fps: float | None) -> None:
        super().__init__(script, is_live=True, period_s=0.002)
        self.fps = fps
        self.step_s = step_s
        self._clock = clock

    def read(self) -> Capture | None:
        self._clock.ahead_ns += round(self.step_s * 1e9)
        return super().read()


@contextmanager
def _camera(
    source: Source, clock: Clock, changes: list[CameraStatistics] | None = None, **settings: object
) -> Iterator[Camera]:
    """A running camera without routes; ``changes`` receives its statistics at each reported change."""
    config = CameraConfig.model_validate({"source": {"type": "pattern"}, "classify": [{"model": "m"}], **settings})
    counters = FrameCounters("cam", ())

    def note_change(_: str) -> None:
        if changes is not None:
            changes.append(camera.statistics())

    camera = Camera("cam", config, source, counters, clock=clock, on_change=note_change, chance=random.Random(5))
    camera.start()
    try:
        yield camera
    finally:
        camera.stop()
        assert camera.join(10.0)
        assert camera.failure is None


def test_two_hundred_losses_leave_nothing_behind() -> None:
    process = psutil.Process()
    script: list[int | str] = []
    for _ in range(200):
        script += [1, 2, random.Random(len(script)).choice(["stalled", "ended"]), "unavailable"]
    source = ScriptedSource([*script, 3], is_live=True)
    with _camera(source, _HurriedClock()) as camera:
        wait_until(lambda: camera.statistics().reconnects >= 20, within_s=20)
        gc.collect()
        before = process.memory_info().rss, process.num_fds(), threading.active_count()
        wait_until(lambda: camera.statistics().reconnects == 200, within_s=30)
        gc.collect()
        after = process.memory_info().rss, process.num_fds(), threading.active_count()
        assert camera.statistics().state == "connected"
        assert source.opened == 201
    assert after[0] - before[0] < 5 * 2**20
    assert after[1:] == before[1:]


def test_the_first_reconnect_comes_soon_and_later_ones_within_half_a_minute() -> None:
    clock = _HurriedClock()
    source = ScriptedSource([1, *["ended"] * 61, 2], is_live=True, period_s=0.001)
    with _camera(source, clock):
        wait_until(lambda: source.statistics().delivered >= 2, within_s=10)
    waits = clock.waits[:61]
    assert waits[0] == 1.0
    for wait_s, ceiling_s in zip(waits, [1, 2, 4, 8, 16, *[30] * 56], strict=True):
        assert 0.8 * ceiling_s <= wait_s <= ceiling_s
    assert len(set(waits[5:])) > 50, "without jitter every agent would come back at once"


class _Refusing(ScriptedSource):
    """Refuses the password a few times."""

    def open(self) -> None:
        if self._script and self._script[0] == "unavailable":
            self._script.pop(0)
            raise SourceUnavailable("the scripted source refused the user", reason="credentials")
        super().open()


def test_the_backoff_after_a_refused_password_doubles_up_to_five_minutes() -> None:
    clock = _HurriedClock()
    source = _Refusing([*["unavailable"] * 7, 1], is_live=True, period_s=0.001)
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().state == "connected", within_s=10)
    assert clock.waits[:7] == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


class _Away(ScriptedSource):
    """``unavailable`` in its script fails for ``reason``; ``is_there`` gives ``answers``, then True."""

    def __init__(self, script: list[int | str], *, reason: str, answers: list[bool]) -> None:
        super().__init__(script, is_live=True, period_s=0.001)
        self.attempts, self.asked = 0, 0
        self._reason, self._answers = reason, answers

    def open(self) -> None:
        self.attempts += 1
        if self._script and self._script[0] == "unavailable":
            self._script.pop(0)
            raise SourceUnavailable("the scripted source is away", reason=self._reason)
        super().open()

    def is_there(self) -> bool | None:
        self.asked += 1
        return self._answers.pop(0) if self._answers else True


@pytest.mark.parametrize("reason", ["refused", "unreachable", "no_answer", "unknown_host", "missing"])
def test_an_absent_camera_is_opened_as_soon_as_it_is_there_again_and_not_before(reason: str) -> None:
    clock = _HurriedClock()
    source = _Away([1, "ended", "unavailable", 2], reason=reason, answers=[False] * 200)
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().reconnects == 1, within_s=10)
    assert source.attempts == 3, "the first one, the one after the loss, and the one after the return"
    assert clock.waits[:201] == [1.0, *[0.5] * 200]


def test_a_camera_that_no_question_reaches_is_opened_every_five_minutes() -> None:
    clock = _HurriedClock()
    source = _Away([*["unavailable"] * 3, 1], reason="no_answer", answers=[False] * 10_000)
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().state == "connected", within_s=10)
    assert sum(clock.waits) == pytest.approx(900.0, abs=10.0)


class _Flapping(_Away):
    """As the first ``unavailable``, each further one has its own reason."""

    def __init__(self, script: list[int | str], *, reasons: list[str], answers: list[bool]) -> None:
        super().__init__(script, reason="", answers=answers)
        self._reasons = reasons

    def open(self) -> None:
        if self._script and self._script[0] == "unavailable":
            self._reason = self._reasons.pop(0)
        super().open()


def test_hours_without_a_camera_count_as_one_failure() -> None:
    clock = _HurriedClock()
    reasons = [*["no_answer"] * 12, "codec", "codec"]
    source = _Flapping([*["unavailable"] * 14, 1], reasons=reasons, answers=[False] * 20_000)
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().state == "connected", within_s=20)
    assert next(wait_s for wait_s in clock.waits if wait_s != 0.5) == 1.0
    assert max(clock.waits) <= 2.0


def test_a_camera_that_hangs_up_after_wrong_passwords_is_not_asked_more_often() -> None:
    clock = _HurriedClock()
    reasons = ["credentials", "credentials", "not_understood", "credentials"]
    source = _Flapping([1, "ended", *["unavailable"] * 4, 2], reasons=reasons, answers=[])
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().reconnects == 1, within_s=10)
    assert clock.waits[:5] == [1.0, 15.0, 30.0, 30.0, 60.0]


def test_what_a_source_logs_on_its_cameras_thread_has_the_cameras_name(tmp_path: Path) -> None:
    logs.configure(json=True, stream=(stream := io.StringIO()))
    (tmp_path / "bad.png").write_bytes(b"no image")
    source = ImageFolder(ImagesSource(type="images", path="."), base_dir=tmp_path, clock=SystemClock())
    with _camera(source, SystemClock()) as camera:
        wait_until(lambda: camera.statistics().state == "ended", within_s=10)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["camera"] for line in lines if line["event"] == "image.skipped"] == ["cam"]


def test_a_refused_login_is_never_repeated_because_the_camera_is_there() -> None:
    clock = _HurriedClock()
    source = _Away([1, "ended", *["unavailable"] * 3, 2], reason="credentials", answers=[False])
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().reconnects == 1, within_s=10)
    assert clock.waits[:4] == [1.0, 15.0, 30.0, 60.0]
    assert source.asked == 0


_SEEN: list[int | str] = [1, "ended", *["unavailable"] * 8, 2]


@pytest.mark.parametrize(
    ("script", "reason", "longest_s"),
    [
        *((_SEEN, reason, 2.0) for reason in ("no_such_stream", "refused_by_camera", "not_understood", "permission")),
        *((_SEEN[2:], reason, 2.0) for reason in ("no_such_stream", "no_stream", "refused_by_camera")),
        (_SEEN[2:], "codec", 30.0),
    ],
)
def test_a_camera_that_may_be_starting_is_asked_every_two_seconds(
    script: list[int | str], reason: str, longest_s: float
) -> None:
    clock = _HurriedClock()
    with _camera(_Away(list(script), reason=reason, answers=[]), clock) as camera:
        wait_until(lambda: camera.statistics().state == "connected" and camera.statistics().fps > 0, within_s=10)
        wait_until(lambda: len(clock.waits) >= 8, within_s=10)
    assert 0.8 * longest_s <= max(clock.waits[:8]) <= longest_s


def test_a_stable_connection_resets_the_backoff() -> None:
    clock = _HurriedClock()
    source = _Stepping(clock, [*["unavailable"] * 4, *[1] * 40, "ended", 2], step_s=1.0, fps=None)
    with _camera(source, clock) as camera:
        wait_until(lambda: camera.statistics().reconnects == 1, within_s=10)
    assert clock.waits[4] == 1.0


def test_a_stream_below_its_announced_rate_is_reconnected_with_the_reason() -> None:
    clock = _HurriedClock()
    changes: list[CameraStatistics] = []
    source = _Stepping(clock, [1], step_s=1.0, fps=25.0)
    began_ns = clock.monotonic_ns()

    with _camera(source, clock, changes):
        wait_until(lambda: source.opened >= 3, within_s=10)
    errors = [one.error for one in changes if one.error]
    assert "announces 25" in errors[0]
    assert "min_fps_ratio" in errors[0]
    assert clock.first_wait_ns is not None
    seen_s = (clock.first_wait_ns - began_ns) / 1e9
    note(seen_s=seen_s)
    assert 10.0 <= seen_s <= 15.0


def test_a_camera_below_its_learned_rate_is_reconnected_with_the_reason() -> None:
    clock = _HurriedClock()
    changes: list[CameraStatistics] = []
    source = _Stepping(clock, [1], step_s=0.2, fps=None)

    with _camera(source, clock, changes) as camera:
        wait_until(lambda: source.statistics().delivered > 350, within_s=20)
        assert camera.statistics().state == "connected"
        source.step_s = 4.0
        wait_until(lambda: source.opened >= 2, within_s=10)
    errors = [one.error for one in changes if one.error]
    assert "earlier it held" in errors[0]
    assert "min_fps_ratio" in errors[0]


def test_image_faults_reach_the_statistics_and_are_reported_once_each() -> None:
    clock = _HurriedClock()
    changes: list[CameraStatistics] = []
    source = _Stepping(clock, [*[0] * 40, 99], step_s=0.25, fps=None)

    with _camera(source, clock, changes) as camera:
        wait_until(lambda: any(one.image_fault == "covered" for one in changes), within_s=10)
        assert camera.statistics().image_fault in {"covered", "frozen"}
    assert [one.image_fault for one in changes[:4]] == [None, "black", None, "covered"]


def test_the_image_checks_of_the_configuration_apply() -> None:
    clock = _HurriedClock()
    changes: list[CameraStatistics] = []
    source = _Stepping(clock, [0], step_s=0.25, fps=None)
    thresholds = {"black_below": 0, "covered_below": 0, "frozen_after_s": 0}

    with _camera(source, clock, changes, image_checks=thresholds):
        wait_until(lambda: source.statistics().delivered > 80, within_s=10)
    assert [one.image_fault for one in changes] == [None], "the connection is the only change"


class _Stalling(_Stepping):
    """Its loss is noticed eight seconds after its last frame."""

    def read(self) -> Capture | None:
        self.step_s = 8.0 if self._script[0] == "stalled" else 0.1
        return super().read()


def test_the_rate_of_a_camera_that_stalls_is_the_mean_of_the_last_ten_seconds() -> None:
    clock = _HurriedClock()
    changes: list[CameraStatistics] = []
    source = _Stalling(clock, [*range(80), "stalled", *["unavailable"] * 30, 2], step_s=0.1, fps=None)

    with _camera(source, clock, changes):
        wait_until(lambda: any(one.state == "lost" for one in changes), within_s=10)
    lost = next(one for one in changes if one.state == "lost")
    marked = next(one for one in changes if one.image_fault is not None)  # reported while frames still came
    assert 0.0 < lost.fps < 3.0 < marked.fps < 11.0


def test_a_watched_folder_that_is_away_or_empty_does_not_end_its_camera() -> None:
    source = ScriptedSource(["unavailable", 1, "missing", 2], is_live=False, period_s=0.002)
    source.has_end = False
    with _camera(source, _HurriedClock()) as camera:
        wait_until(lambda: source.statistics().delivered == 2, within_s=10)
        wait_until(lambda: camera.statistics().state == "connected", within_s=10)
        assert camera.statistics().reconnects == 1
        assert not camera.is_done


def test_a_loss_is_reported_once_for_many_reconnect_attempts() -> None:
    """While the camera is away, its state changes once, whatever the number of attempts."""
    changes: list[CameraStatistics] = []
    clock = _HurriedClock()
    source = ScriptedSource([1, "ended", *["unavailable"] * 30, 2], is_live=True, period_s=0.001)

    with _camera(source, clock, changes) as camera:
        wait_until(lambda: camera.statistics().reconnects == 1, within_s=10)
    assert [one.state for one in changes[:3]] == ["connected", "lost", "connected"]


def test_a_network_camera_that_hangs_up_again_and_again_leaves_nothing_behind(tmp_path: Path) -> None:
    process = psutil.Process()
    with RtspServer(tmp_path, fps=100.0, close_after=60) as server:
        source = NetworkStream(
            RtspSource(type="rtsp", url=server.url, read_timeout_s=2.0), base_dir=tmp_path, clock=SystemClock()
        )
        with _camera(source, _HurriedClock()) as camera:
            wait_until(lambda: camera.statistics().reconnects >= 2, within_s=30)
            before = process.memory_info().rss, process.num_fds(), process.num_threads()
            wait_until(lambda: camera.statistics().reconnects >= 10, within_s=60)
            after = process.memory_info().rss, process.num_fds(), process.num_threads()
    assert after[0] - before[0] < 10 * 2**20
    # One connection more or less may just be open.
    assert abs(after[1] - before[1]) <= 4
    assert abs(after[2] - before[2]) <= 3

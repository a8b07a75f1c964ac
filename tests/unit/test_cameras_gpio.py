"""Edges of a GPIO line ask for frames; a line that cannot be watched says why. No test needs a chip."""

from __future__ import annotations

import errno
import inspect
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from agent.cameras.gpio import GpioTrigger, GpioUnavailable, open_line
from agent.cameras.triggers import TriggerEnd, TriggerRefused
from agent.config.sections.triggers import GpioConfig
from agent.runtime.clock import SystemClock
from agent.tools.doctor.checks import line_finding
from tests.fixtures.deadlines import wait_until
from tests.fixtures.parts import ScriptedSource
from tests.fixtures.triggered_camera import TriggeredCamera

gpiod = pytest.importorskip("gpiod", reason="its wheels are for Linux with glibc or musl only")
CONFIG = GpioConfig(line=105, edge="falling", bias="pull_up", debounce_ms=2.5)


class FakeChip(ModuleType):
    """gpiod in which one line exists; it records how that was requested."""

    def __init__(self, refusal: OSError | ValueError | None = None) -> None:
        super().__init__("gpiod")
        self.line = gpiod.line
        self.LineSettings = gpiod.LineSettings
        self.refusal = refusal
        self.asked: dict[str, Any] = {}
        self.edges: list[int] = []
        self.released = 0
        self.is_gone = False

    def request_lines(self, path: str, config: Any, consumer: Any = None, event_buffer_size: Any = None) -> FakeChip:
        self.asked = {"path": path, "config": config, "consumer": consumer, "event_buffer_size": event_buffer_size}
        if self.refusal is not None:
            raise self.refusal
        return self

    def wait_edge_events(self, timeout: timedelta | float | None = None) -> bool:
        if self.is_gone:
            raise OSError(errno.ENODEV, "No such device")
        return bool(self.edges)

    def read_edge_events(self, max_events: int | None = None) -> list[Any]:
        edges, self.edges = self.edges, []
        return [SimpleNamespace(timestamp_ns=at_ns) for at_ns in edges]

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def chip(monkeypatch: pytest.MonkeyPatch) -> FakeChip:
    fake = FakeChip()
    monkeypatch.setitem(sys.modules, "gpiod", fake)
    return fake


@pytest.mark.parametrize("name", ["request_lines", "wait_edge_events", "read_edge_events", "release"])
def test_the_fake_takes_what_the_library_takes(name: str) -> None:
    real = getattr(gpiod if name == "request_lines" else gpiod.LineRequest, name)
    known = set(inspect.signature(real).parameters)
    assert set(inspect.signature(getattr(FakeChip, name)).parameters) <= known | {"self"}


def test_the_line_is_asked_for_as_configured_and_its_edges_have_the_kernels_time(chip: FakeChip) -> None:
    line = open_line(CONFIG)
    settings = chip.asked["config"][105]
    assert (chip.asked["path"], chip.asked["consumer"]) == ("/dev/gpiochip0", "edge-inference-agent")
    assert settings.edge_detection is gpiod.line.Edge.FALLING
    assert settings.bias is gpiod.line.Bias.PULL_UP
    assert settings.direction is gpiod.line.Direction.INPUT
    assert settings.event_clock is gpiod.line.Clock.MONOTONIC
    assert settings.debounce_period == timedelta(microseconds=2500)
    assert line.read(0.0) == ()
    chip.edges = [5, 9]
    assert line.read(0.0) == [5, 9]
    line.close()
    assert chip.released == 1


@pytest.mark.parametrize("edge", ["rising", "falling", "both"])
@pytest.mark.parametrize("bias", ["as_is", "disabled", "pull_up", "pull_down"])
def test_every_setting_exists_in_the_library(chip: FakeChip, edge: Any, bias: Any) -> None:
    open_line(GpioConfig(line="PQ.05", edge=edge, bias=bias)).close()
    assert list(chip.asked["config"]) == ["PQ.05"]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.EACCES, "Permission denied"), "group"),
        (OSError(errno.EBUSY, "Device or resource busy"), "another program"),
        (OSError(errno.EINVAL, "Invalid argument"), "`bias`"),
        (OSError(errno.EIO, "Input/output error"), "Input/output error"),
        (ValueError("line offset of out range"), "out range"),
    ],
)
def test_a_line_that_cannot_be_had_says_what_to_do(chip: FakeChip, error: OSError | ValueError, text: str) -> None:
    chip.refusal = error
    with pytest.raises(GpioUnavailable, match=text) as caught:
        open_line(CONFIG)
    assert "GPIO line 105 of /dev/gpiochip0" in caught.value.message


def test_the_real_library_refuses_a_missing_chip_and_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path, text in ((tmp_path / "gpiochip9", "there is no"), (tmp_path / "file", "no GPIO chip")):
        with pytest.raises(GpioUnavailable, match=text):
            open_line(GpioConfig(chip=str(path), line=1))


def test_the_doctor_says_whether_the_line_can_be_watched(chip: FakeChip) -> None:
    good = line_finding("front", CONFIG)
    assert (good.name, good.state) == ("front trigger", "ok")
    assert chip.released == 1, "or the agent could not have it"
    chip.refusal = OSError(errno.EBUSY, "Device or resource busy")
    bad = line_finding("front", CONFIG)
    assert (bad.state, bad.is_needed) == ("failed", True)
    assert "another program" in bad.detail


@pytest.mark.parametrize("version", [None, "1.5.4"])
def test_a_missing_or_old_library_is_named_with_its_remedy(
    monkeypatch: pytest.MonkeyPatch, version: str | None
) -> None:
    old = ModuleType("gpiod")
    old.line = ModuleType("gpiod.line")  # type: ignore[attr-defined]  # a stand-in
    old.__version__ = version  # type: ignore[attr-defined]  # as above
    monkeypatch.setitem(sys.modules, "gpiod", None if version is None else old)
    with pytest.raises(GpioUnavailable, match=r"\[gpio\]|pip install"):
        open_line(CONFIG)


class ScriptedLine:
    """Gives edges when the test says so."""

    def __init__(self) -> None:
        self.edges: list[int] = []
        self.is_gone = False
        self.closed = 0
        self._pause = threading.Event()

    def read(self, timeout_s: float) -> Sequence[int]:
        if self.is_gone:
            raise GpioUnavailable("the chip was removed")
        self._pause.wait(0.002)
        edges, self.edges = self.edges, []
        return edges

    def close(self) -> None:
        self.closed += 1


class HurriedClock(SystemClock):
    def wait(self, stop: threading.Event, seconds: float) -> bool:
        return stop.wait(0.01)


def _trigger(line: ScriptedLine, ask: Any) -> GpioTrigger:
    return GpioTrigger("cam", CONFIG, ask, clock=HurriedClock(), open_line=lambda _: line)


@pytest.fixture
def line() -> ScriptedLine:
    return ScriptedLine()


def test_an_edge_asks_for_a_frame_from_its_own_time_on_and_a_missed_one_is_logged(
    line: ScriptedLine, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[str, int]] = []

    def ask(key: str, on_end: Any, at_ns: int) -> None:
        asked.append((key, at_ns))
        if key == "gpio-2":
            raise TriggerRefused("lost", "the camera is not connected")
        on_end(TriggerEnd(None if key == "gpio-1" else "timeout", "no frame in time", None, {}, {}))

    trigger = _trigger(line, ask)
    trigger.start()
    line.edges = [11, 22, 33]
    wait_until(lambda: len(asked) == 3, within_s=20)
    trigger.stop()
    assert trigger.join(10)
    assert trigger.failure is None
    assert asked == [("gpio-1", 11), ("gpio-2", 22), ("gpio-3", 33)]
    assert line.closed == 1
    output = "".join(capsys.readouterr())
    assert output.count("trigger.missed") == 2
    assert "the camera is not connected" in output
    assert "no frame in time" in output


def test_a_chip_that_is_removed_is_reported_and_watched_again(line: ScriptedLine) -> None:
    asked: list[str] = []
    trigger = _trigger(line, lambda key, on_end, at_ns: asked.append(key))
    trigger.start()
    line.is_gone = True
    wait_until(lambda: trigger.error == "the chip was removed", within_s=20)
    line.is_gone = False
    line.edges = [1]
    wait_until(lambda: bool(asked), within_s=20)
    assert trigger.error is None
    trigger.stop()
    assert trigger.join(10)
    assert line.closed >= 2


def test_a_camera_with_a_line_classifies_one_frame_per_edge_and_shows_why_it_cannot(
    line: ScriptedLine,
) -> None:
    source = ScriptedSource([1], is_live=True, period_s=0.002)
    bench = TriggeredCamera(source, clock=SystemClock(), trigger={"gpio": {"line": 4}}, open_line=lambda _: line)
    bench.camera.start()
    wait_until(lambda: bench.camera.statistics().fps > 0, within_s=20)
    for number in range(3):
        line.edges = [time.monotonic_ns()]
        wait_until(lambda: bool(bench.given["c"]), within_s=20)
        assert bench.answer("c").frame.trigger == f"gpio-{number + 1}"
    line.is_gone = True
    wait_until(lambda: bench.camera.statistics().error == "the chip was removed", within_s=20)
    assert bench.camera.statistics().state == "connected", "commands still work"
    bench.camera.stop()
    assert bench.camera.join(10)
    assert bench.camera.failure is None

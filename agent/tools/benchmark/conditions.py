"""What the machine was doing while something was measured: heat, power, clocks, and other programs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agent.config.sections.thermal import ThermalConfig
from agent.runtime.clock import SystemClock
from agent.thermal.sensors.base import Sensor, ThrottleCause
from agent.thermal.sensors.choose import make_sensor

_EVERY_S = 0.25
_TICKS_HZ = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One look at the machine. ``busy_s`` and ``stolen_s`` are processor seconds of all cores since it started."""

    at_ns: int
    busy_s: float
    stolen_s: float
    clock_mhz: float | None = None
    gpu_mhz: float | None = None
    celsius: float | None = None
    watts: float | None = None
    is_throttling: bool | None = None
    throttle_causes: Mapping[ThrottleCause, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The machine over the blocks of one case; None where it has no such sensor.

    ``others_ratio`` is the share of the machine's cores that other programs took, ``stolen_ratio`` what the hypervisor
    gave to others.
    """

    others_ratio: float
    stolen_ratio: float
    celsius_mean: float | None = None
    celsius_max: float | None = None
    watts_mean: float | None = None
    clock_mhz_min: float | None = None
    clock_mhz_max: float | None = None
    gpu_mhz_min: float | None = None
    gpu_mhz_max: float | None = None
    has_throttled: bool | None = None
    throttle_causes: dict[ThrottleCause, str] = field(default_factory=dict)
    """Why it throttled, each with what showed it last."""


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time on ``perf_counter_ns`` and the processor time that the measured process took in it."""

    began_ns: int
    ended_ns: int
    own_cpu_s: float
    first: Moment
    last: Moment


class ConditionsWatch:
    """Samples the machine four times a second inside its ``with`` block, on its own thread."""

    def __init__(self, sensor: Sensor | None = None, *, root: Path = Path("/")) -> None:
        self._root = root
        self._sensor = sensor or make_sensor(
            ThermalConfig(interval_s=_EVERY_S), clock=SystemClock(), rate_hz=lambda: 0.0, sysfs_root=root / "sys"
        )
        self._moments: list[Moment] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="conditions", daemon=True)

    def __enter__(self) -> ConditionsWatch:
        """Start looking."""
        self._sensor.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()
        self._sensor.stop()

    def look(self) -> Moment:
        """The machine now; any thread."""
        busy_s, stolen_s = processor_s(self._root)
        sample = self._sensor.latest()
        hottest = None if sample is None or sample.hottest is None else sample.hottest[1]
        gpu_hz = None if sample is None else sample.gpu.clock_hz
        return Moment(
            at_ns=time.perf_counter_ns(),
            busy_s=busy_s,
            stolen_s=stolen_s,
            clock_mhz=_clock_mhz(self._root),
            gpu_mhz=None if gpu_hz is None else gpu_hz / 1e6,
            celsius=hottest,
            watts=None if sample is None else sample.power.total_watts,
            is_throttling=None if sample is None else sample.is_throttling,
            throttle_causes={} if sample is None else sample.throttle_causes,
        )

    def over(self, windows: Sequence[Window]) -> Conditions:
        """What it was like during ``windows``."""
        moments = [moment for window in windows for moment in self._within(window)]
        stolen_s = sum(window.last.stolen_s - window.first.stolen_s for window in windows)
        celsius = _known([moment.celsius for moment in moments])
        watts = _known([moment.watts for moment in moments])
        clocks = _known([moment.clock_mhz for moment in moments])
        gpu = _known([moment.gpu_mhz for moment in moments])
        throttled = [moment.is_throttling for moment in moments if moment.is_throttling is not None]
        return Conditions(
            others_ratio=others_ratio_of(*windows),
            stolen_ratio=min(stolen_s / _available_s(windows), 1.0),
            celsius_mean=_mean(celsius),
            celsius_max=max(celsius, default=None),
            watts_mean=_mean(watts),
            clock_mhz_min=min(clocks, default=None),
            clock_mhz_max=max(clocks, default=None),
            gpu_mhz_min=min(gpu, default=None),
            gpu_mhz_max=max(gpu, default=None),
            has_throttled=any(throttled) if throttled else None,
            throttle_causes={cause: text for one in moments for cause, text in one.throttle_causes.items()},
        )

    def _within(self, window: Window) -> list[Moment]:
        inside = [moment for moment in list(self._moments) if window.began_ns <= moment.at_ns <= window.ended_ns]
        return [window.first, *inside, window.last]

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY_S):
            self._moments.append(self.look())


def others_ratio_of(*windows: Window) -> float:
    """The share of the machine's cores that other programs took during ``windows``, 0 to 1."""
    busy_s = sum(window.last.busy_s - window.first.busy_s for window in windows)
    own_s = sum(window.own_cpu_s for window in windows)
    return min(max(busy_s - own_s, 0.0) / _available_s(windows), 1.0)


def _available_s(windows: Sequence[Window]) -> float:
    elapsed_s = sum(window.ended_ns - window.began_ns for window in windows) / 1e9
    return max(elapsed_s, 1e-9) * (os.cpu_count() or 1)


def clocks_are_locked(root: Path = Path("/")) -> bool | None:
    """Whether no core may change its clock; None where the kernel does not show clocks."""
    governors, spans = set(), []
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq")):
        governors.add(_text(folder / "scaling_governor"))
        spans.append((_text(folder / "scaling_min_freq"), _text(folder / "scaling_max_freq")))
    if not spans:
        return None
    return all(low == high for low, high in spans) or governors == {"performance"}


def processor_s(root: Path = Path("/")) -> tuple[float, float]:
    """Seconds busy and stolen of all cores. Source: proc(5), the first line of /proc/stat."""
    fields = _text(root / "proc/stat").split("\n", 1)[0].split()[1:]
    if len(fields) < 8:
        return 0.0, 0.0
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(field) for field in fields[:8])
    return (user + nice + system + irq + softirq) / _TICKS_HZ, steal / _TICKS_HZ


def _clock_mhz(root: Path) -> float | None:
    """Mean clock of the cores."""
    folders = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
    found = [int(text) / 1000 for path in folders if (text := _text(path)).isdigit()]
    return sum(found) / len(found) if found else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def _known(values: Sequence[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None

"""jtop, through a child process that is killed when it falls silent, and started again."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.thermal.sensors.base import SensorDescription, ThermalSample
from agent.thermal.sensors.jtop_lines import sample_from_line, uptime_of
from agent.thermal.sensors.plausible import ZoneCheck
from engines import JsonChild, script_command

log = get_logger(__name__)

_CHILD = Path(__file__).resolve().parents[1] / "jtop_child.py"
_KILL_S = 1.0
_LOOK_S = 0.1
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)
_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class JtopTimes:
    """Time limits for the child, seconds."""

    fresh_s: float = 3.5
    """Life of a sample. Then `auto` uses sysfs: within 5 s at one reading per second."""
    first_sample_s: float = 15.0
    """From the start of the child to its first sample: an import and a connection on a slow board."""
    silence_s: float = 5.0
    """A child that had delivered is killed after this time without a new uptime."""
    first_wait_s: float = 1.0
    max_wait_s: float = 30.0
    """Between two children; doubled from first to max, with jitter, because a client is expensive: it starts half a
    dozen programs of its own."""


def jtop_command(python: str | None, *, interval_s: float, socket: Path | None = None) -> list[str]:
    """The child's command line with ``python`` or the agent's own interpreter."""
    arguments = ["--interval", f"{interval_s:g}", *(["--socket", str(socket)] if socket is not None else [])]
    return script_command(_CHILD, *arguments, python=python)


class JtopSensor:
    """Keeps one child running, and its newest sample. Only its thread starts, reads and kills children."""

    def __init__(self, command: Sequence[str], *, clock: Clock, times: JtopTimes | None = None) -> None:
        self._command = list(command)
        self._clock = clock
        self._times = times if times is not None else JtopTimes()
        self._jitter = random.Random()  # noqa: S311 - spreads restarts, guards nothing
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._sample: ThermalSample | None = None
        self._state: Literal["stopped", "starting", "reading", "silent"] = "stopped"
        self._detail = ""
        self._starts = 0
        self._logged: str | None = None

    def start(self) -> None:
        """See Sensor."""
        if self._thread is None:
            self._stop.clear()
            self._state = "starting"
            self._thread = threading.Thread(target=self._run, name="thermal-jtop", daemon=True)
            self._thread.start()

    def latest(self) -> ThermalSample | None:
        """See Sensor."""
        sample = self._sample
        if sample is None or sample.age_s(self._clock.monotonic_ns()) > self._times.fresh_s:
            return None
        return sample

    def describe(self) -> SensorDescription:
        """See Sensor."""
        return SensorDescription("jtop", self._state, self._detail, max(0, self._starts - 1))

    def stop(self) -> None:
        """See Sensor."""
        thread, self._thread = self._thread, None
        self._stop.set()
        if thread is not None:
            thread.join(_STOP_S)
        self._sample = None
        self._state = "stopped"

    def _run(self) -> None:
        wait_s = self._times.first_wait_s
        while not self._stop.is_set():
            had_sample, reason = self._use_one_child()
            if self._stop.is_set():
                return
            self._state, self._detail = "silent", reason
            if reason.startswith("not_installed"):
                log.info("thermal.jtop_absent", reason=reason)
                return  # it stays that way until the next start: `auto` uses sysfs
            if reason != self._logged:
                log.warning("thermal.jtop_silent", reason=reason, restarts=max(0, self._starts - 1))
                self._logged = reason
            wait_s = self._times.first_wait_s if had_sample else min(wait_s * 2, self._times.max_wait_s)
            if self._clock.wait(self._stop, wait_s * self._jitter.uniform(0.5, 1.0)):
                return

    def _use_one_child(self) -> tuple[bool, str]:
        """Start a child and read it until it ends or falls silent: whether it delivered, and why it ended."""
        messages: deque[dict[str, Any]] = deque()
        try:
            # The child reads the end of its input when the agent has gone. The whole group is killed, because jtop's
            # client starts programs of its own.
            child = JsonChild(self._command, on_message=messages.append, keeps_input=True, ends_group=True)
        except OSError as exc:
            # Out of memory, processes or descriptors for a moment: it may be there all the same.
            reason = "not_installed" if isinstance(exc, _NOT_THERE) else "failed"
            return False, f"{reason}: {self._command[0]} cannot be run: {exc.strerror}"
        self._starts += 1
        try:
            return self._read(child, messages)
        finally:
            if not child.close(reap_s=_KILL_S):
                log.warning("thermal.jtop_child_unkillable", pid=child.pid, waited_s=_KILL_S)

    def _read(self, child: JsonChild, messages: deque[dict[str, Any]]) -> tuple[bool, str]:
        check = ZoneCheck()
        uptime_s = float("-inf")
        had_sample = False
        deadline_ns = self._clock.monotonic_ns() + int(self._times.first_sample_s * 1e9)
        while not self._stop.is_set():
            left_s = (deadline_ns - self._clock.monotonic_ns()) / 1e9
            if left_s <= 0.0:
                patience_s = self._times.silence_s if had_sample else self._times.first_sample_s
                return had_sample, f"silent: no new sample for {patience_s:g} s, child killed"
            # Asked before reading, so that its last lines are read. What it started may hold its output open.
            has_ended = child.exit_code is not None
            child.read(0.0 if has_ended else min(left_s, _LOOK_S))
            if has_ended and not messages:
                return had_sample, f"ended: the child left with {child.ending} and without a reason"
            while messages:
                message = messages.popleft()
                kind = message.get("kind")
                if kind == "error":
                    return had_sample, f"{message.get('reason', 'failed')}: {message.get('message', '')}"
                if kind == "hello":
                    self._detail = f"jetson-stats {message.get('client', 'unknown')}"
                new_uptime_s = uptime_of(message) if kind == "sample" else None
                if new_uptime_s is None or new_uptime_s <= uptime_s:
                    continue  # a service that hangs repeats its last answer
                uptime_s = new_uptime_s
                now_ns = self._clock.monotonic_ns()
                self._deliver(sample_from_line(message, now_ns, check))
                had_sample = True
                deadline_ns = now_ns + int(self._times.silence_s * 1e9)
        return had_sample, "stopped"

    def _deliver(self, sample: ThermalSample) -> None:
        self._sample = sample
        if self._state != "reading":
            self._state = "reading"
            log.info("thermal.jtop_reading", client=self._detail, restarts=max(0, self._starts - 1))
            self._logged = None

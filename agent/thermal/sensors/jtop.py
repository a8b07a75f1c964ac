"""jtop, through a child process that is killed when it falls silent and started again."""

from __future__ import annotations

import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson

from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from agent.thermal.sensors.base import SensorDescription, ThermalSample
from agent.thermal.sensors.jtop_lines import sample_from_line, uptime_of
from agent.thermal.sensors.plausible import ZoneCheck

log = get_logger(__name__)

_CHILD = Path(__file__).resolve().parents[1] / "jtop_child.py"
_LONGEST_LINE_BYTES = 1 << 20
_KILL_S = 1.0
_ENDED_POLL_S = 0.01
_NOT_THERE = (FileNotFoundError, NotADirectoryError, PermissionError)
_STOP_S = 2.0


@dataclass(frozen=True, slots=True)
class JtopTimes:
    """Patience with the child, seconds."""

    fresh_s: float = 3.5
    """A sample counts this long; `auto` takes sysfs afterwards, which with one reading a second is within 5 s."""
    first_sample_s: float = 15.0
    """From the start of the child to its first sample: an import and a connection on a slow board."""
    silence_s: float = 5.0
    """Without a new uptime for so long, a child that had delivered is killed."""
    first_wait_s: float = 1.0
    longest_wait_s: float = 30.0
    """Between two children; doubled from the first to the longest, with jitter. A client is no light thing: it starts
    half a dozen programs of its own."""


def jtop_command(python: str | None, *, interval_s: float, socket: Path | None = None) -> list[str]:
    """The child's command line with ``python`` or the agent's own interpreter."""
    command = [python or sys.executable, str(_CHILD), "--interval", f"{interval_s:g}"]
    return command if socket is None else [*command, "--socket", str(socket)]


class JtopSensor:
    """Keeps one child alive and the newest sample it gave. Its thread is the only one that starts and reads
    children."""

    def __init__(self, command: Sequence[str], *, clock: Clock, times: JtopTimes | None = None) -> None:
        self._command = list(command)
        self._clock = clock
        self._times = times if times is not None else JtopTimes()
        self._jitter = random.Random()  # noqa: S311 - spreads restarts, guards nothing
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._child: subprocess.Popen[bytes] | None = None
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
        with self._lock:
            if self._child is not None:
                _kill(self._child)
        if thread is not None:
            thread.join(_STOP_S)
        self._sample = None
        self._state = "stopped"

    def _run(self) -> None:
        wait_s = self._times.first_wait_s
        while not self._stop.is_set():
            had_sample, reason = self._live_with_one_child()
            if self._stop.is_set():
                return
            self._state, self._detail = "silent", reason
            if reason.startswith("not_installed"):
                log.info("thermal.jtop_absent", reason=reason)
                return  # it will not install itself: `auto` goes on with sysfs
            if reason != self._logged:
                log.warning("thermal.jtop_silent", reason=reason, restarts=max(0, self._starts - 1))
                self._logged = reason
            wait_s = self._times.first_wait_s if had_sample else min(wait_s * 2, self._times.longest_wait_s)
            if self._clock.wait(self._stop, wait_s * self._jitter.uniform(0.5, 1.0)):
                return

    def _live_with_one_child(self) -> tuple[bool, str]:
        """Start a child and read it until it ends or falls silent; whether it delivered, and why it is over."""
        with self._lock:
            if self._stop.is_set():
                return False, "stopped"
            try:
                child = self._child = _started(self._command)
            except OSError as exc:
                # Without memory, processes or descriptors for a moment it is there all the same.
                reason = "not_installed" if isinstance(exc, _NOT_THERE) else "failed"
                return False, f"{reason}: {self._command[0]} cannot be run: {exc.strerror}"
            self._starts += 1
        try:
            return self._read(child)
        finally:
            with self._lock:
                self._child = None
                _kill(child)
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()

    def _read(self, child: subprocess.Popen[bytes]) -> tuple[bool, str]:
        reader = _ChildReader(child)
        check = ZoneCheck()
        uptime_s = float("-inf")
        had_sample = False
        deadline_ns = self._clock.monotonic_ns() + int(self._times.first_sample_s * 1e9)
        while True:
            line = reader.line((deadline_ns - self._clock.monotonic_ns()) / 1e9)
            if line is None:
                patience_s = self._times.silence_s if had_sample else self._times.first_sample_s
                return had_sample, f"silent: no new sample for {patience_s:g} s, child killed"
            if line == b"":
                return had_sample, _why_ended(child)
            try:
                message = orjson.loads(line)
                kind = message["kind"]
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue  # not a line of ours; silence will be noticed
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

    def _deliver(self, sample: ThermalSample) -> None:
        self._sample = sample
        if self._state != "reading":
            self._state = "reading"
            log.info("thermal.jtop_reading", client=self._detail, restarts=max(0, self._starts - 1))
            self._logged = None


class _ChildReader:
    """Lines of a child's output with a deadline for each."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        if child.stdout is None:
            raise ValueError("the child was started without a pipe for its output")
        self._descriptor = child.stdout.fileno()
        self._poll = select.poll()
        self._poll.register(self._descriptor, select.POLLIN | select.POLLHUP)
        self._buffer = b""

    def line(self, timeout_s: float) -> bytes | None:
        """The next line, empty at the end of the output, None when ``timeout_s`` passed without one.

        What is longer than a line can be is thrown away.
        """
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            left_s = deadline - time.monotonic()
            if left_s <= 0 or not self._poll.poll(left_s * 1000):
                return None
            chunk = os.read(self._descriptor, 65536)
            if not chunk:
                return b""
            self._buffer = chunk if len(self._buffer) > _LONGEST_LINE_BYTES else self._buffer + chunk
        line, self._buffer = self._buffer.split(b"\n", 1)
        return line + b"\n"


def _started(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """The child in a session of its own: a Ctrl-C is not for it, and it is killed with all it started."""
    environment: Mapping[str, str] = {
        name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")
    }
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )


def _why_ended(child: subprocess.Popen[bytes]) -> str:
    """It is not reaped here: as long as its number is taken, what it started can be killed with it."""
    deadline = time.monotonic() + _KILL_S
    while time.monotonic() < deadline:
        try:
            left = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return "stopped"  # reaped by another thread, which ends the sensor
        if left is not None:
            code = left.si_status if left.si_code == os.CLD_EXITED else -left.si_status
            return f"ended: the child left with code {code} and without a reason"
        time.sleep(_ENDED_POLL_S)
    return "ended: the child closed its output and lived on, killed"


def _kill(child: subprocess.Popen[Any]) -> None:
    """End the child and what it started, also when it is stopped; called under the lock, harmless when it has
    ended."""
    if child.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
    try:
        child.wait(_KILL_S)
    except subprocess.TimeoutExpired:
        log.warning("thermal.jtop_child_unkillable", pid=child.pid, waited_s=_KILL_S)

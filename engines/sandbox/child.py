"""Runs the build of an engine, or its first opening, in a child process that can be watched and ended.

What bounds the child, from the inside out:
- it asks the kernel to kill it when its parent dies, and to be the first to go when memory runs out;
- its resident memory is watched from here (address space and data limits do not work with CUDA, which reserves far
  more than it uses), and so is the memory that the system has left, as a Jetson's GPU takes its memory from there, and
  that of the control group (unit, container), where the kernel kills whom it likes;
- it has a time limit, and is killed at once when its owner is told to stop.
The child speaks JSON lines on its standard output: ``{"phase": ..., "ratio": ...}`` and, last, ``{"result": {...}}``.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from engines.errors import BuildCancelled, BuildFailed, EngineUnavailable
from engines.sandbox.memory import mib, resident_bytes, why_too_little
from engines.sandbox.serve import OWN_FAULT

_POLL_S = 0.05
_PROGRESS_EVERY_S = 1.0
_MEMORY_EVERY_S = 0.25
_LAST_LINES = 6
_LEAST_FREE_BYTES = 192 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildLimits:
    """``memory_bytes`` bounds the child's resident memory; ``free_bytes`` must stay available to the system."""

    timeout_s: float
    memory_bytes: int
    free_bytes: int = _LEAST_FREE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Wording:
    """How the errors about one child begin (``subject``), what they advise, and of which class they are."""

    subject: str
    failed: str = "Choose another engine or precision, or see: agent doctor"
    too_long: str = "Raise the option build_timeout_s, or build while nothing else runs: agent build"
    too_large: str = "Raise the option build_memory_mib, or build while nothing else runs: agent build"
    no_memory_left: str = "Build while nothing else runs: agent build"
    own_fault: str = "This is a mistake of this program or its installation: report it with these words"
    failure: type[EngineUnavailable] = BuildFailed


Report = Callable[[str, float, "float | None"], None]
"""Called with the phase, the elapsed seconds and how much of the phase is done (0 to 1, None where unknown)."""


def run_build(
    module: str,
    job: Mapping[str, object],
    *,
    what: str,
    limits: BuildLimits,
    report: Report,
    is_cancelled: Callable[[], bool],
) -> dict[str, object]:
    """Run ``run_limited`` for the build of ``what``.

    Raises:
        BuildFailed: the child failed, took too long or too much memory; with its last words.
        BuildCancelled: ``is_cancelled`` became true.
    """
    wording = Wording(subject=f"the build of {what}")
    return run_limited(module, job, wording=wording, limits=limits, report=report, is_cancelled=is_cancelled)


def run_limited(
    module: str,
    job: Mapping[str, object],
    *,
    wording: Wording,
    limits: BuildLimits,
    report: Report,
    is_cancelled: Callable[[], bool],
) -> dict[str, object]:
    """Run ``python -m module`` with ``job`` as JSON on its standard input, and give its result.

    ``report`` is called about once a second on this thread. The child does not outlive the call.

    Raises:
        EngineUnavailable: of the class in ``wording``: it failed, took too long or too much memory; its last words.
        BuildCancelled: ``is_cancelled`` became true.
    """
    # A group of its own: an interrupt from a terminal reaches this process, which ends the child in order.
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "AGENT_BUILD_PARENT": str(os.getpid())},
    )
    watch = _Watch(process, wording, limits, report, is_cancelled)
    try:
        _send(process, job)
        watch.until_it_ends()
        return watch.result()
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def _send(process: subprocess.Popen[bytes], job: Mapping[str, object]) -> None:
    # Smaller than a pipe's buffer, so this never waits.
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):  # it has ended already, which is found out below
            process.stdin.write(json.dumps(dict(job)).encode() + b"\n")
            process.stdin.close()


@dataclass(slots=True)
class _Watch:
    """One running child: reads what it says, and ends it where it must be ended."""

    process: subprocess.Popen[bytes]
    wording: Wording
    limits: BuildLimits
    report: Report
    is_cancelled: Callable[[], bool]
    began_s: float = field(default_factory=time.monotonic)
    phase: str = "starting"
    ratio: float | None = None
    answer: dict[str, object] | None = None
    words: deque[str] = field(default_factory=lambda: deque(maxlen=_LAST_LINES))

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    def until_it_ends(self) -> None:
        report_due_s = memory_due_s = 0.0
        with selectors.DefaultSelector() as selector:
            lines = {}
            for stream, take in ((self.process.stdout, self._hear), (self.process.stderr, self.words.append)):
                if stream is not None:
                    os.set_blocking(stream.fileno(), False)
                    selector.register(stream, selectors.EVENT_READ)
                    lines[stream.fileno()] = _Lines(take)
            while selector.get_map() or self.process.poll() is None:
                for ready, _ in selector.select(_POLL_S):
                    if not lines[ready.fd].take_from(ready.fd):
                        selector.unregister(ready.fileobj)
                if self.is_cancelled():
                    raise BuildCancelled(f"{self.wording.subject} was stopped after {self.elapsed_s:.0f} s")
                if self.elapsed_s >= memory_due_s:
                    memory_due_s = self.elapsed_s + _MEMORY_EVERY_S
                    self._check()
                if self.elapsed_s >= report_due_s:
                    report_due_s = self.elapsed_s + _PROGRESS_EVERY_S
                    self.report(self.phase, self.elapsed_s, self.ratio)

    def result(self) -> dict[str, object]:
        code = self.process.returncode
        if code == 0 and self.answer is not None:
            return self.answer
        words = "; ".join(self.words) or "it said nothing"
        advice = self.wording.own_fault if code == OWN_FAULT else self.wording.failed
        how = f"signal {-code} ({_signal_name(-code)})" if code < 0 else f"exit code {code}"
        raise self.wording.failure(
            f"{self.wording.subject} ended with {how} after {self.elapsed_s:.0f} s in phase {self.phase!r}: "
            f"{words}. {advice}",
            reason=f"{self.wording.subject} ended with {how}: {words}",
            phase=self.phase,
            elapsed_s=round(self.elapsed_s, 1),
        )

    def _hear(self, line: str) -> None:
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        if not isinstance(value, dict):  # libraries write to standard output too
            self.words.append(line)
            return
        if isinstance(value.get("result"), dict):
            self.answer = value["result"]
        if isinstance(value.get("phase"), str):
            self.phase = value["phase"]
            ratio = value.get("ratio")
            self.ratio = float(ratio) if isinstance(ratio, int | float) else None

    def _check(self) -> None:
        if self.elapsed_s > self.limits.timeout_s:
            took, allowed = f"{self.elapsed_s:.0f} s", f"{self.limits.timeout_s:.0f} s"
            raise self._exceeded("time", took, allowed, self.wording.too_long)
        used = resident_bytes(self.process.pid)
        if used > self.limits.memory_bytes:
            raise self._exceeded("memory", mib(used), mib(self.limits.memory_bytes), self.wording.too_large)
        shortage = why_too_little(self.limits.free_bytes)
        if shortage is not None:
            raise self.wording.failure(
                f"{self.wording.subject} was ended: {shortage}. {self.wording.no_memory_left}",
                reason=shortage,
                phase=self.phase,
            )

    def _exceeded(self, kind: str, used: str, allowed: str, advice: str) -> EngineUnavailable:
        return self.wording.failure(
            f"{self.wording.subject} was ended in phase {self.phase!r}: it took {used} of {kind}, allowed are "
            f"{allowed}. {advice}",
            reason=f"{self.wording.subject} took more than {allowed} of {kind}",
            phase=self.phase,
        )


class _Lines:
    """Puts whole lines together from a pipe that must not block."""

    def __init__(self, take: Callable[[str], None]) -> None:
        self._take = take
        self._rest = b""

    def take_from(self, descriptor: int) -> bool:
        """Hand over what is there; False at the end of the stream."""
        data = os.read(descriptor, 65536)
        *whole, self._rest = (self._rest + data).split(b"\n")
        if not data and self._rest:
            whole, self._rest = [self._rest], b""
        for line in whole:
            text = line.decode(errors="replace").strip()
            if text:
                self._take(text[:2000])
        return bool(data)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "of no name"

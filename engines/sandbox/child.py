"""Runs a build, or the first load of a model, in a child process with limits.

What limits the child:
- it asks the kernel to kill it when its parent dies, and to be killed first when memory runs out;
- this process watches the child's resident memory (address-space and data limits do not work with CUDA, which reserves
  far more than it uses), the memory left in the system (a Jetson's GPU takes its memory from there), and the memory
  left
  in the control group (unit, container), where the kernel would kill a process of its own choice;
- it has a time limit, and is killed at once when the caller cancels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engines.errors import BuildCancelled, BuildFailed, EngineUnavailable
from engines.sandbox.isolated import module_command
from engines.sandbox.json_child import JsonChild
from engines.sandbox.memory import memory_shortage, mib, resident_bytes
from engines.sandbox.serve import UNEXPECTED_ERROR, child_environ

_POLL_S = 0.05
_PROGRESS_EVERY_S = 1.0
_MEMORY_EVERY_S = 0.25
_MIN_FREE_BYTES = 192 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildLimits:
    """``memory_bytes`` limits the child's resident memory; ``free_bytes`` must stay free for the system."""

    timeout_s: float
    memory_bytes: int
    free_bytes: int = _MIN_FREE_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorTexts:
    """The errors about one child: how they begin (``subject``), what they advise, and their class."""

    subject: str
    failed: str = "Choose another engine or precision, or see: agent doctor"
    too_long: str = "Raise the option build_timeout_s, or build while nothing else runs: agent build"
    too_large: str = "Raise the option build_memory_mib, or build while nothing else runs: agent build"
    no_memory_left: str = "Build while nothing else runs: agent build"
    unexpected_error: str = "This is a bug in this program or its installation: please report it with this message"
    failure: type[EngineUnavailable] = BuildFailed


Report = Callable[[str, float, "float | None"], None]
"""Called with the phase, the elapsed seconds and how much of the phase is done (0 to 1, None where unknown)."""


def run_build(
    module: str,
    job: Mapping[str, object],
    *,
    what: str,
    limits: ChildLimits,
    report: Report,
    is_cancelled: Callable[[], bool],
) -> dict[str, object]:
    """``run_in_sandbox`` for the build of ``what``.

    Raises:
        BuildFailed: the child failed or exceeded a limit; with its last output.
        BuildCancelled: ``is_cancelled`` returned True.
    """
    texts = ErrorTexts(subject=f"the build of {what}")
    return run_in_sandbox(module, job, texts=texts, limits=limits, report=report, is_cancelled=is_cancelled)


def run_in_sandbox(
    module: str,
    job: Mapping[str, object],
    *,
    texts: ErrorTexts,
    limits: ChildLimits,
    report: Report,
    is_cancelled: Callable[[], bool],
) -> dict[str, object]:
    """Run ``module`` as a program with ``job``, and return its result.

    ``report`` is called about once per second, on this thread. The child never outlives the call.

    Raises:
        EngineUnavailable: of the class in ``texts``: the child failed or exceeded a limit; with its last output.
        BuildCancelled: ``is_cancelled`` returned True.
    """
    watch = _Watch(texts, limits, report, is_cancelled)
    with JsonChild(module_command(module), job=job, environ=child_environ(), on_message=watch.take) as child:
        watch.until_it_ends(child)
        return watch.result(child)


@dataclass(slots=True)
class _Watch:
    """Watches one running child and ends it when it exceeds a limit."""

    texts: ErrorTexts
    limits: ChildLimits
    report: Report
    is_cancelled: Callable[[], bool]
    phase: str = "starting"
    ratio: float | None = None
    answer: dict[str, object] | None = None

    def until_it_ends(self, child: JsonChild) -> None:
        report_due_s = memory_due_s = 0.0
        while child.read(_POLL_S):
            elapsed_s = child.elapsed_s
            if self.is_cancelled():
                raise BuildCancelled(f"{self.texts.subject} was stopped after {elapsed_s:.0f} s")
            if elapsed_s >= memory_due_s:
                memory_due_s = elapsed_s + _MEMORY_EVERY_S
                self._check(child)
            if elapsed_s >= report_due_s:
                report_due_s = elapsed_s + _PROGRESS_EVERY_S
                self.report(self.phase, elapsed_s, self.ratio)

    def result(self, child: JsonChild) -> dict[str, object]:
        if child.exit_code == 0 and self.answer is not None:
            return self.answer
        output = "; ".join(child.error_lines) or "no output"
        # A known exit code separates our own bugs from what the model or a library did.
        advice = self.texts.unexpected_error if child.exit_code == UNEXPECTED_ERROR else self.texts.failed
        raise self.texts.failure(
            f"{self.texts.subject} ended with {child.ending} after {child.elapsed_s:.0f} s in phase {self.phase!r}: "
            f"{output}. {advice}",
            reason=f"{self.texts.subject} ended with {child.ending}: {output}",
            phase=self.phase,
            elapsed_s=round(child.elapsed_s, 1),
        )

    def take(self, message: dict[str, object]) -> None:
        """Take a message of the child: its result, or the phase that it is in."""
        result, phase, ratio = message.get("result"), message.get("phase"), message.get("ratio")
        if isinstance(result, dict):
            self.answer = result
        if isinstance(phase, str):
            self.phase = phase
            self.ratio = float(ratio) if isinstance(ratio, int | float) else None

    def _check(self, child: JsonChild) -> None:
        if child.elapsed_s > self.limits.timeout_s:
            took, allowed = f"{child.elapsed_s:.0f} s", f"{self.limits.timeout_s:.0f} s"
            raise self._exceeded("time", took, allowed, self.texts.too_long)
        used = resident_bytes(child.pid)
        if used > self.limits.memory_bytes:
            raise self._exceeded("memory", mib(used), mib(self.limits.memory_bytes), self.texts.too_large)
        shortage = memory_shortage(self.limits.free_bytes)
        if shortage is not None:
            raise self.texts.failure(
                f"{self.texts.subject} was ended: {shortage}. {self.texts.no_memory_left}",
                reason=shortage,
                phase=self.phase,
            )

    def _exceeded(self, kind: str, used: str, allowed: str, advice: str) -> EngineUnavailable:
        return self.texts.failure(
            f"{self.texts.subject} was ended in phase {self.phase!r}: it used {used} of {kind}, but the limit is "
            f"{allowed}. {advice}",
            reason=f"{self.texts.subject} used more than {allowed} of {kind}",
            phase=self.phase,
        )

"""Supervises calls into the engines: a call that hangs is interrupted; if that fails, the process ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.inference.worker import WorkerStatistics
from agent.runtime.errors import StageFailed
from agent.runtime.logs import get_logger
from agent.runtime.records import ServedModel

log = get_logger(__name__)

MIN_DEADLINE_S = 2.0
_TIMES_SLOWER = 10.0
_GRACE_S = 5.0


@dataclass(slots=True)
class _Watched:
    served: ServedModel | None = None
    slowest_s: float = 0.0
    interrupted_at_busy_s: float | None = None


class HangMonitor:
    """Checks each worker a few times a second. Used by one thread.

    A call may take ten times as long as the slowest one so far, and at least two seconds. Then it is interrupted; if
    the library does not return within five more seconds, only a restart of the process helps.
    """

    def __init__(self, *, first_call_s: float = 30.0) -> None:
        self._first_call_s = first_call_s
        self._workers: dict[str, _Watched] = {}

    def add_call(self, model: str, infer_ms: float) -> None:
        """Record the duration of a finished call."""
        watched = self._workers.setdefault(model, _Watched())
        watched.slowest_s = max(watched.slowest_s, infer_ms / 1e3)

    def deadline_s(self, model: str) -> float:
        """How long a call of this model may take."""
        slowest_s = self._workers.get(model, _Watched()).slowest_s
        # Before the first call has ended there is no measure, and the first call may compile kernels.
        return max(MIN_DEADLINE_S, _TIMES_SLOWER * slowest_s) if slowest_s else self._first_call_s

    def check(self, worker: WorkerStatistics, interrupt: Callable[[], None]) -> None:
        """Check one worker; ``interrupt`` ends its running call if the library allows it.

        Raises:
            StageFailed: the call was interrupted but did not return.
        """
        watched = self._workers.setdefault(worker.model, _Watched())
        if worker.served != watched.served:
            # A different model or engine under the same key: earlier durations do not apply.
            watched.served, watched.slowest_s = worker.served, 0.0
        busy_s = worker.busy_s
        # A younger call than the interrupted one is a new one: the interrupted call has returned.
        if busy_s is None or busy_s < (watched.interrupted_at_busy_s or 0.0):
            watched.interrupted_at_busy_s = None
            return
        deadline_s = self.deadline_s(worker.model)
        if busy_s < deadline_s:
            return
        if watched.interrupted_at_busy_s is None:
            watched.interrupted_at_busy_s = busy_s
            log.warning(
                "inference.timed_out", model=worker.model, busy_s=round(busy_s, 1), deadline_s=round(deadline_s, 1)
            )
            interrupt()
        elif busy_s > watched.interrupted_at_busy_s + _GRACE_S:
            raise StageFailed(
                f"the engine of model {worker.model} has been in one call for {busy_s:.0f} s, but the limit is "
                f"{deadline_s:.0f} s, and its library cannot be interrupted. The process must be restarted",
                model=worker.model,
                busy_s=round(busy_s, 1),
            )

"""One classifier of one camera: what its worker needs to serve it, and the classifiers that follow it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.cameras.frame_counters import FrameCounters
from agent.config.model import ClassifierConfig
from agent.inference.batcher import Batcher
from agent.inference.decisions.decision import Decision
from agent.inference.fair_queue import Binding
from agent.runtime.clock import Clock
from agent.runtime.records import Classification, StateChange
from engines import Scores

Emit = Callable[[Classification | StateChange], None]
"""Receives every result and every change of a label, in order; must not wait."""


@dataclass(frozen=True, slots=True)
class Dependent:
    """A classifier that follows this one: frames that show one of ``labels`` go to its ``batcher``.

    ``labels`` is None for one that takes the mean of its probabilities with this one's: then all frames do.
    """

    binding: ClassifierBinding
    batcher: Batcher[ClassifierBinding]
    labels: frozenset[str] | None


@dataclass(frozen=True, slots=True, eq=False)
class ClassifierBinding(Binding):
    """One classifier of one camera, served by one worker. Every new configuration creates new bindings."""

    config: ClassifierConfig
    counters: FrameCounters
    decision: Decision
    dependents: tuple[Dependent, ...] = ()

    @property
    def has_room(self) -> bool:
        """See Binding: a file stops at its limit of frames in flight."""
        return self.is_live or self.counters.has_room

    def decide(self, result: Classification, scores: Scores, *, clock: Clock, emit: Emit) -> None:
        """Emit a result with the standing of the decision, and what it changes. On the worker's thread.

        ``scores``: see ``Decision.update``.
        """
        decision = self.decision
        with decision.order:
            self._announce(emit)
            if decision.is_over:
                emit(result)
                return
            change = decision.update(result, now_ns=result.decided_at_ns, utc_ns=clock.utc_ns(), scores=scores)
            emit(replace(result, standing=decision.standing()))
            _emit_change(emit, change)

    def check_time(self, *, clock: Clock, emit: Emit) -> None:
        """Emit what the time alone changes: the first state, a label gone stale, a repetition.

        Never on the worker's thread: it also ends the label of a worker that is stuck.
        """
        with self.decision.order:
            self._announce(emit)
            if not self.decision.is_over:
                _emit_change(emit, self.decision.tick(now_ns=clock.monotonic_ns(), utc_ns=clock.utc_ns()))

    def _announce(self, emit: Emit) -> None:
        if not self.decision.is_announced:
            emit(self.decision.initial())


def _emit_change(emit: Emit, change: StateChange | None) -> None:
    if change is not None:
        emit(change)

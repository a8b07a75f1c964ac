"""Frame counters: every captured frame is classified, dropped for a named reason, or in flight."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
import numpy.typing as npt

from agent.cameras.triggers import Trigger
from agent.runtime.records import Frame

MAX_FILE_FRAMES = 8
"""Most frames of one file in flight, for the memory: two batches of four."""
_SPARE_FRAMES = 2
"""Frames of a file in flight beside one for each classifier: one is read, one waits."""


class Drop(str, Enum):
    """Why a frame was not classified."""

    SUPERSEDED = "superseded"
    """A newer frame of the same live camera came before the worker was free."""
    RATE = "rate"
    """The camera delivers more than its `rate_hz`."""
    NOT_TRIGGERED = "not_triggered"
    """The camera has a `trigger`, and no trigger asked for it."""
    GOVERNOR = "governor"
    """The thermal governor lowered the rate."""
    FAILED = "failed"
    """The engine failed on it."""
    NOT_FINITE = "not_finite"
    """The engine's scores held NaN or infinity."""
    STOPPING = "stopping"
    """The agent was stopping, or the camera was removed from the configuration."""


@dataclass(frozen=True, slots=True)
class ClassifierCounts:
    """``offered == classified + skipped + sum(dropped) + in_flight`` at every moment.

    ``skipped`` counts the frames whose gate (`when`) stayed closed.
    """

    offered: int
    classified: int
    skipped: int
    dropped: Mapping[str, int]
    in_flight: int


@dataclass(frozen=True, slots=True)
class CameraCounts:
    """``captured == classified + sum(dropped) + in_flight`` at every moment.

    A frame counts as classified when at least one of its classifiers answered, else as dropped for the first reason.
    """

    captured: int
    classified: int
    dropped: Mapping[str, int]
    in_flight: int
    classifiers: Mapping[str, ClassifierCounts]


class InFlightFrame:
    """One frame on its way through its classifiers; only the FrameCounters that created it may change it."""

    __slots__ = ("drop", "frame", "is_classified", "means", "pending", "trigger")

    def __init__(self, frame: Frame, pending: int, trigger: Trigger | None = None) -> None:
        self.frame = frame
        self.trigger = trigger  # what asked for the frame: then it is never superseded
        self.pending = pending  # classifiers that have not answered yet
        self.is_classified = False
        self.drop: Drop | None = None
        # By classifier, for those that take the mean with it: how many models, and the mean of their scores. Written
        # by the classifier's worker before it passes the frame on, so no lock is needed.
        self.means: dict[str, tuple[int, npt.NDArray[np.float32]]] = {}


@dataclass(slots=True)
class _ClassifierCounters:
    offered: int = 0
    classified: int = 0
    skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def counts(self) -> ClassifierCounts:
        done = self.classified + self.skipped + self.dropped.total()
        return ClassifierCounts(self.offered, self.classified, self.skipped, dict(self.dropped), self.offered - done)


class FrameCounters:
    """The frame counters of one camera. Every method may be called from any thread."""

    def __init__(self, camera: str, classifiers: tuple[str, ...]) -> None:
        self.camera = camera
        self._changed = threading.Condition()
        self._captured = 0
        self._classified = 0
        self._in_flight = 0
        self._dropped: Counter[str] = Counter()
        self._classifiers = {name: _ClassifierCounters() for name in classifiers}
        self._batch_sizes: dict[str, int] = {}
        self.file_frames = 0
        """How many frames may be in flight if the source is a file: all older than the newest wait for the engine."""
        self._set_file_frames()

    def set_classifiers(self, classifiers: tuple[str, ...]) -> None:
        """Add counters for new classifiers. Those of removed classifiers stay, or the sums would no longer agree."""
        with self._changed:
            for name in classifiers:
                self._classifiers.setdefault(name, _ClassifierCounters())
            self._set_file_frames()

    def set_batch_size(self, model: str, size: int) -> None:
        """A call of ``model`` takes up to ``size`` frames from now on."""
        with self._changed:
            self._batch_sizes[model] = size
            self._set_file_frames()
            self._changed.notify_all()

    def _set_file_frames(self) -> None:
        two_batches = 2 * max(self._batch_sizes.values(), default=1)
        self.file_frames = min(max(len(self._classifiers) + _SPARE_FRAMES, two_batches), MAX_FILE_FRAMES)

    def refuse(self, reason: Drop) -> None:
        """Count a frame that was captured and dropped before any classifier."""
        with self._changed:
            self._captured += 1
            self._dropped[reason.value] += 1

    def open(self, frame: Frame, classifiers: Sequence[str], trigger: Trigger | None = None) -> InFlightFrame:
        """Count a captured frame; call it before any of ``classifiers`` (one or more) can answer.

        ``trigger`` asked for it, and ends with the last of its classifiers.
        """
        with self._changed:
            self._captured += 1
            self._in_flight += 1
            for name in classifiers:
                self._classifiers[name].offered += 1
        return InFlightFrame(frame, len(classifiers), trigger)

    def offer(self, in_flight: InFlightFrame, classifier: str) -> None:
        """The frame goes to one more classifier."""
        with self._changed:
            in_flight.pending += 1
            self._classifiers[classifier].offered += 1

    def skip(self, classifier: str) -> None:
        """The classifier's gate (`when`) stayed closed for a frame."""
        with self._changed:
            classifier_counters = self._classifiers[classifier]
            classifier_counters.offered += 1
            classifier_counters.skipped += 1

    def classified(self, in_flight: InFlightFrame, classifier: str) -> None:
        """The classifier answered."""
        with self._changed:
            self._classifiers[classifier].classified += 1
            in_flight.is_classified = True
            is_over = self._close_one(in_flight)
        if is_over:
            _end_trigger(in_flight)

    def dropped(self, in_flight: InFlightFrame, classifier: str, reason: Drop) -> None:
        """The classifier will not answer for this frame."""
        if in_flight.trigger is not None:
            in_flight.trigger.dropped(classifier, reason.value)
        with self._changed:
            self._classifiers[classifier].dropped[reason.value] += 1
            in_flight.drop = in_flight.drop or reason
            is_over = self._close_one(in_flight)
        if is_over:
            _end_trigger(in_flight)

    def wait_for_room(self, timeout_s: float) -> bool:
        """Wait until one more frame of a file may be in flight; False if ``timeout_s`` passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self.has_room, timeout_s)

    @property
    def has_room(self) -> bool:
        """Whether one more frame of a file may be in flight."""
        return self._in_flight < self.file_frames

    @property
    def in_flight(self) -> int:
        """Frames neither classified nor dropped yet."""
        return self._in_flight

    def counts(self) -> CameraCounts:
        """A consistent snapshot of all counters."""
        with self._changed:
            return CameraCounts(
                self._captured,
                self._classified,
                dict(self._dropped),
                self._in_flight,
                {name: classifier_counters.counts() for name, classifier_counters in self._classifiers.items()},
            )

    def _close_one(self, in_flight: InFlightFrame) -> bool:
        """One classifier is through with the frame; True if it was the last one."""
        in_flight.pending -= 1
        if in_flight.pending:
            return False
        self._in_flight -= 1
        if in_flight.is_classified:
            self._classified += 1
        else:
            self._dropped[(in_flight.drop or Drop.STOPPING).value] += 1
        self._changed.notify_all()
        return True


def _end_trigger(in_flight: InFlightFrame) -> None:
    """Outside the lock: the answer goes to others."""
    trigger = in_flight.trigger
    if trigger is None:
        return
    if in_flight.is_classified:
        trigger.end()
    else:
        reason = (in_flight.drop or Drop.STOPPING).value
        trigger.end(
            reason, f"the frame was captured, but no classifier answered ({reason}); see the log, and try again"
        )

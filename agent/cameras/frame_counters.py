"""The books: every frame that was read is classified, dropped for a named reason, or still on its way."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from agent.runtime.records import Frame


class Drop(str, Enum):
    """Why a frame was not classified."""

    SUPERSEDED = "superseded"
    """A newer frame of the same live camera came before a worker had time."""
    RATE = "rate"
    """The camera delivers more than its `rate_hz`."""
    GOVERNOR = "governor"
    """The thermal governor spared the work."""
    FAILED = "failed"
    """The engine failed on it."""
    NOT_FINITE = "not_finite"
    """The engine's answer held NaN or infinity."""
    STOPPING = "stopping"
    """The agent was stopped, or the camera was taken out of the configuration."""


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


class Ticket:
    """One frame on its way through its classifiers; only the account that made it may change it."""

    __slots__ = ("drop", "frame", "is_classified", "pending")

    def __init__(self, frame: Frame, pending: int) -> None:
        self.frame = frame
        self.pending = pending  # classifiers that have not answered yet
        self.is_classified = False
        self.drop: Drop | None = None


@dataclass(slots=True)
class _Tally:
    offered: int = 0
    classified: int = 0
    skipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def counts(self) -> ClassifierCounts:
        done = self.classified + self.skipped + self.dropped.total()
        return ClassifierCounts(self.offered, self.classified, self.skipped, dict(self.dropped), self.offered - done)


class CameraAccount:
    """The books of one camera. Every method may be called from any thread."""

    def __init__(self, camera: str, classifiers: tuple[str, ...]) -> None:
        self.camera = camera
        self._changed = threading.Condition()
        self._captured = 0
        self._classified = 0
        self._in_flight = 0
        self._dropped: Counter[str] = Counter()
        self._tallies = {name: _Tally() for name in classifiers}

    def set_classifiers(self, classifiers: tuple[str, ...]) -> None:
        """Book for these from now on; what is known of the others stays, so that the sums stay."""
        with self._changed:
            for name in classifiers:
                self._tallies.setdefault(name, _Tally())

    def refuse(self, reason: Drop) -> None:
        """Book a frame that was read and goes no further."""
        with self._changed:
            self._captured += 1
            self._dropped[reason.value] += 1

    def open(self, frame: Frame, classifiers: Sequence[str]) -> Ticket:
        """Book a frame that is to be offered to ``classifiers``, one or more, before any of them can answer."""
        with self._changed:
            self._captured += 1
            self._in_flight += 1
            for name in classifiers:
                self._tallies[name].offered += 1
        return Ticket(frame, len(classifiers))

    def offer(self, ticket: Ticket, classifier: str) -> None:
        """One more classifier is to see the frame."""
        with self._changed:
            ticket.pending += 1
            self._tallies[classifier].offered += 1

    def skip(self, classifier: str) -> None:
        """The classifier's gate stayed closed for a frame."""
        with self._changed:
            tally = self._tallies[classifier]
            tally.offered += 1
            tally.skipped += 1

    def classified(self, ticket: Ticket, classifier: str) -> None:
        """The classifier answered."""
        with self._changed:
            self._tallies[classifier].classified += 1
            ticket.is_classified = True
            self._close_one(ticket)

    def dropped(self, ticket: Ticket, classifier: str, reason: Drop) -> None:
        """The classifier will not answer for this frame."""
        with self._changed:
            self._tallies[classifier].dropped[reason.value] += 1
            ticket.drop = ticket.drop or reason
            self._close_one(ticket)

    def wait_for_room(self, most_in_flight: int, timeout_s: float) -> bool:
        """Wait until fewer than ``most_in_flight`` frames are on their way; False when the time passed first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._in_flight < most_in_flight, timeout_s)

    def counts(self) -> CameraCounts:
        """All figures at one moment."""
        with self._changed:
            return CameraCounts(
                self._captured,
                self._classified,
                dict(self._dropped),
                self._in_flight,
                {name: tally.counts() for name, tally in self._tallies.items()},
            )

    def _close_one(self, ticket: Ticket) -> None:
        ticket.pending -= 1
        if ticket.pending:
            return
        self._in_flight -= 1
        if ticket.is_classified:
            self._classified += 1
        else:
            self._dropped[(ticket.drop or Drop.STOPPING).value] += 1
        self._changed.notify_all()

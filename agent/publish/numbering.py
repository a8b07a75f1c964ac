"""The numbers that messages carry: counted for each topic of a classifier, lost messages included."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from agent.runtime.records import Classification, StateChange


@dataclass(slots=True)
class _Stream:
    """Numbers of one classifier's topics. To take one is a single step, so any thread may."""

    results: count[int]
    states: count[int]
    events: count[int]


class Numbers:
    """Gives each message its number, and takes one for each that is lost; any thread."""

    def __init__(self) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}

    def of_result(self, result: Classification) -> int:
        """The number of its message."""
        return next(self._stream(result.camera, result.classifier).results)

    def of_change(self, change: StateChange) -> tuple[int, int | None]:
        """The numbers of its state and of its event; the first word of a classifier is no event."""
        stream = self._stream(change.camera, change.classifier)
        event_seq = None if change.previous is None else next(stream.events)
        return next(stream.states), event_seq

    def _stream(self, camera: str, classifier: str) -> _Stream:
        stream = self._streams.get((camera, classifier))
        if stream is None:
            # setdefault is one step, so two threads that come first together get the same one
            stream = self._streams.setdefault((camera, classifier), _Stream(count(), count(), count()))
        return stream

"""The numbers that messages carry: counted for each topic of a classifier, given before anything can be dropped."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from agent.records import Classification, StateChange


@dataclass(slots=True)
class _Stream:
    """Numbers of one classifier's topics; touched by its worker's thread alone."""

    results: count[int]
    states: count[int]
    events: count[int]
    next_due_ns: int = 0


class Numbers:
    """Gives each message its number. The records of one classifier come from one thread, those of several from many.

    ``max_hz`` is the most results a second of one classifier; what is above it takes no number.
    """

    def __init__(self, max_hz: float | None = None) -> None:
        self._streams: dict[tuple[str, str], _Stream] = {}
        self.set_max_hz(max_hz)

    def set_max_hz(self, max_hz: float | None) -> None:
        """Another limit from now on; any thread."""
        self._period_ns = 0 if max_hz is None else int(1e9 / max_hz)

    def of_result(self, result: Classification) -> int | None:
        """The number of its message; None where there are to be fewer."""
        # Looked up here: with cold caches a call of `_stream` costs the worker's thread 3 us more.
        stream = self._streams.get((result.camera, result.classifier))
        if stream is None:
            stream = self._stream(result.camera, result.classifier)
        if self._period_ns and not _is_due(stream, result.decided_at_ns, self._period_ns):
            return None
        return next(stream.results)

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


def _is_due(stream: _Stream, now_ns: int, period_ns: int) -> bool:
    """Whether the stream's next result may go; the grid keeps the rate also where frames come unevenly."""
    if now_ns < stream.next_due_ns:
        return False
    late_ns = now_ns - stream.next_due_ns
    stream.next_due_ns = now_ns + period_ns if late_ns >= period_ns else stream.next_due_ns + period_ns
    return True

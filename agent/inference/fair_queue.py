"""The order in which the frames of several cameras are classified: fair shares within a priority, a minimum below it.

Start-time fair queueing (Goyal, Vin and Cheng, 1996). Each camera has a start tag, and the lowest tag is served first.
A served frame moves the tag on by 1 / weight, so while cameras wait their results are in proportion to their weights,
however many frames each of them offers. A frame that supersedes another one takes its place, and the tag belongs to
the camera: a fast camera gains nothing by it and loses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import Generic, TypeVar

from agent.cameras.frame_counters import InFlightFrame

DEFAULT_RATE_HZ = 30.0
"""The weight of a camera without ``rate_hz``: the usual rate of a camera, so all of them have equal shares."""
_WHOLE = 1.0 - 1e-9
"""One result that is owed; the tolerance absorbs rounding errors of the sum."""


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """One classifier of one camera, as its worker sees it; bindings compare by identity.

    ``is_live``: a newer frame replaces a waiting one, unless a trigger asked for the waiting one. Frames of a file all
    wait; the camera bounds their number by its limit of frames in flight. ``priority`` 1 is served first. ``rate_hz``
    is the camera's configured rate.
    """

    camera: str
    classifier: str
    is_live: bool
    priority: int
    rate_hz: float | None

    @property
    def has_room(self) -> bool:
        """Whether the camera may deliver a further frame while those it has delivered still wait."""
        return True


L = TypeVar("L", bound=Binding)


@dataclass(frozen=True, slots=True)
class Request(Generic[L]):
    """One frame for one classifier."""

    binding: L
    in_flight: InFlightFrame
    arrival: int
    """Order of arrival; a frame that supersedes another one has the other's."""
    arrived_at_ns: int


@dataclass(slots=True, eq=False)
class _Camera(Generic[L]):
    """The waiting frames of one camera, by classifier. ``cost`` is 1 / weight."""

    start: float = 0.0
    cost: float = 1.0
    waiting: int = 0
    queues: dict[L, deque[Request[L]]] = field(default_factory=dict)

    def first(self) -> deque[Request[L]]:
        """The queue whose head has waited longest."""
        if len(self.queues) == 1:
            return next(iter(self.queues.values()))
        return min((queue for queue in self.queues.values() if queue), key=_arrival)


@dataclass(slots=True, eq=False)
class _Level(Generic[L]):
    """The cameras of one priority. ``heap`` has each camera with a waiting frame once, by (start tag, arrival).

    ``virtual`` is the start tag that was due at the last batch. ``owed`` counts the results that the level is entitled
    to and did not get.
    """

    priority: int
    virtual: float = 0.0
    owed: float = 0.0
    cameras: dict[str, _Camera[L]] = field(default_factory=dict)
    heap: list[tuple[float, int, _Camera[L]]] = field(default_factory=list)


class FairQueue(Generic[L]):
    """Frames that wait for one engine. Not thread-safe.

    The highest priority that waits is served first, but every lower one is owed ``min_share`` of all results. Within a
    priority every camera has a share in proportion to its ``rate_hz`` (``DEFAULT_RATE_HZ`` without one), shared by its
    classifiers. What a camera does not use goes to the others. Frames of one binding never overtake each other.
    """

    def __init__(self, min_share: float) -> None:
        self._min_share = min_share
        self._levels: list[_Level[L]] = []
        self._arrivals = 0
        self.waiting = 0
        """Number of waiting frames."""

    def push(self, binding: L, in_flight: InFlightFrame, now_ns: int) -> Request[L] | None:
        """Add a frame that arrived at monotonic ``now_ns``; returns the one that it supersedes, if any."""
        level = self._level_of(binding.priority)
        camera = level.cameras.get(binding.camera)
        if camera is None:
            camera = level.cameras[binding.camera] = _Camera()
        queue = camera.queues.get(binding)
        if queue is None:
            queue = camera.queues[binding] = deque()
            camera.cost = 1.0 / (binding.rate_hz or DEFAULT_RATE_HZ)
        if binding.is_live and queue and queue[-1].in_flight.trigger is None:
            superseded = queue.pop()
            queue.append(Request(binding, in_flight, superseded.arrival, now_ns))
            return superseded
        self._arrivals += 1
        queue.append(Request(binding, in_flight, self._arrivals, now_ns))
        self.waiting += 1
        camera.waiting += 1
        if camera.waiting == 1:
            # A camera that was idle keeps a claim to one frame: with jitter, a frame that comes a moment after its
            # turn would otherwise lose it. More must not be saved up: it would delay the others later.
            camera.start = max(camera.start, level.virtual - camera.cost)
            heappush(level.heap, (camera.start, self._arrivals, camera))
        return None

    def take(self, max_size: int, *, one_each: bool = False) -> list[Request[L]]:
        """The next frames to classify, at most ``max_size``.

        A file fills what is left of a batch with its further frames. ``one_each`` ends the batch there instead: on an
        engine that gains nothing by batches, they would only keep live cameras waiting.
        """
        batch: list[Request[L]] = []
        served: list[_Level[L]] = []
        while self.waiting and len(batch) < max_size:
            level = self._next_level()
            if one_each and batch:
                binding = level.heap[0][2].first()[0].binding
                if any(request.binding is binding for request in batch):
                    break
            if level not in served:
                # The first tag, not the last one of the batch: the rest of a batch also takes cameras far ahead of
                # their share, and the others must not lose their claims to them.
                level.virtual = max(level.virtual, level.heap[0][0])
                served.append(level)
            self._count(level)
            batch.append(self._pop(level))
        return batch

    def _pop(self, level: _Level[L]) -> Request[L]:
        start, _, camera = heappop(level.heap)
        request = camera.first().popleft()
        self.waiting -= 1
        camera.waiting -= 1
        camera.start = start + camera.cost
        if camera.waiting:
            heappush(level.heap, (camera.start, _arrival(camera.first()), camera))
        return request

    def has_waiting(self, binding: L) -> bool:
        """Whether a frame of ``binding`` waits."""
        for level in self._levels:
            if level.priority == binding.priority and binding.camera in level.cameras:
                return bool(level.cameras[binding.camera].queues.get(binding))
        return False

    def oldest_ns(self) -> int:
        """When the frame arrived that has waited longest; call it only while frames wait."""
        return min(queue[0].arrived_at_ns for queue in self._queues() if queue)

    def keep(self, bindings: Collection[L]) -> None:
        """Forget all bindings but these, unless frames still wait for them."""
        for level in self._levels:
            for camera in level.cameras.values():
                camera.queues = {one: queue for one, queue in camera.queues.items() if queue or one in bindings}
            level.cameras = {name: camera for name, camera in level.cameras.items() if camera.queues}
        self._levels = [level for level in self._levels if level.cameras]

    def clear(self) -> list[Request[L]]:
        """Remove and return all frames, by arrival."""
        rest = [request for queue in self._queues() for request in queue]
        self._levels.clear()
        self.waiting = 0
        return sorted(rest, key=lambda request: request.arrival)

    def _queues(self) -> Iterable[deque[Request[L]]]:
        cameras = (camera for level in self._levels for camera in level.cameras.values())
        return (queue for camera in cameras for queue in camera.queues.values())

    def _level_of(self, priority: int) -> _Level[L]:
        for level in self._levels:
            if level.priority == priority:
                return level
        level = _Level[L](priority)
        self._levels = sorted((*self._levels, level), key=lambda one: one.priority)
        return level

    def _next_level(self) -> _Level[L]:
        if len(self._levels) == 1:
            return self._levels[0]
        waiting = [level for level in self._levels if level.heap]
        return next((level for level in waiting[1:] if level.owed >= _WHOLE), waiting[0])

    def _count(self, served: _Level[L]) -> None:
        """Count a result of ``served``, and what every level is owed for it."""
        if len(self._levels) == 1:
            return
        for level in self._levels:
            # Not more than one result and the fraction of the next: a level that was idle must not catch up later.
            level.owed = min(level.owed + self._min_share, 1.0 + self._min_share)
        served.owed = max(served.owed - 1.0, 0.0)


def _arrival(queue: deque[Request[L]]) -> int:
    return queue[0].arrival

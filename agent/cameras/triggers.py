"""Frames that are asked for one by one: what waits for a camera's next frame, and how each of these triggers ended."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from agent.runtime.clock import Clock
from agent.runtime.errors import AgentError
from agent.runtime.records import Frame, Score

MAX_TRIGGERS = 8
"""Triggers of one camera that wait or are being answered: each holds a whole frame in memory."""


class TriggerRefused(AgentError):
    """A camera takes no trigger now; ``reason`` is machine-readable."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class TriggerEnd:
    """How a trigger ended.

    ``reason`` is None if a classifier answered, else machine-readable, and ``text`` says what to do. ``frame`` is None
    if none was captured. ``answers`` has the best class of each classifier that answered in time, ``dropped`` why
    another one did not.
    """

    reason: str | None
    text: str
    frame: Frame | None
    answers: Mapping[str, Score]
    dropped: Mapping[str, str]


class Trigger:
    """One frame that was asked for. It ends once, on any thread, and ``on_end`` is called on that one; it must not
    wait. ``not_before_ns`` and ``due_ns`` are monotonic: the earliest capture that counts, and when it is too late.
    """

    def __init__(self, key: str, *, not_before_ns: int, due_ns: int, on_end: Callable[[TriggerEnd], None]) -> None:
        self.key = key
        self.not_before_ns = not_before_ns
        self.due_ns = due_ns
        self.frame: Frame | None = None
        self._on_end = on_end
        self._lock = threading.Lock()
        self._answers: dict[str, Score] = {}
        self._dropped: dict[str, str] = {}
        self._is_over = False

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    def answered(self, classifier: str, best: Score) -> None:
        """A classifier answered for the frame."""
        with self._lock:
            self._answers[classifier] = best

    def dropped(self, classifier: str, reason: str) -> None:
        """A classifier will not answer for the frame."""
        with self._lock:
            self._dropped[classifier] = reason

    def end(self, reason: str | None = None, text: str = "done") -> None:
        """End it, unless it has ended before."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            ended = TriggerEnd(reason, text, self.frame, dict(self._answers), dict(self._dropped))
        self._on_end(ended)


class Triggers:
    """The triggers of one camera, in the order in which they came. Any thread."""

    def __init__(self, camera: str, clock: Clock) -> None:
        self._camera = camera
        self._clock = clock
        self._changed = threading.Condition()
        self._waiting: deque[Trigger] = deque()
        self._taken: list[Trigger] = []
        self._is_closed = False

    def add(self, trigger: Trigger) -> None:
        """Let ``trigger`` wait for a frame.

        Raises:
            TriggerRefused: too many wait, or the camera was stopped.
        """
        with self._changed:
            if self._is_closed:
                raise TriggerRefused("stopping", _stopped(self._camera))
            self._taken = [one for one in self._taken if not one.is_over]
            if len(self._waiting) + len(self._taken) >= MAX_TRIGGERS:
                raise TriggerRefused(
                    "busy",
                    f"camera {self._camera} takes {MAX_TRIGGERS} captures at a time, but as many have no answer yet; "
                    "wait for a reply before the next one",
                )
            self._waiting.append(trigger)
            self._changed.notify_all()

    def take(self, captured_at_ns: int) -> Trigger | None:
        """The first trigger that a frame of this monotonic time answers; None if there is none."""
        with self._changed:
            if not self._waiting or self._waiting[0].not_before_ns > captured_at_ns:
                return None
            trigger = self._waiting.popleft()
            self._taken.append(trigger)
            return trigger

    def wait(self, timeout_s: float) -> bool:
        """Wait until a frame captured now would be the right one for a trigger; False if ``timeout_s`` passed first.

        Also returns when the camera is stopped.
        """
        with self._changed:
            if not self._waiting and not self._is_closed:
                self._changed.wait(timeout_s)
            if not self._waiting:
                return False
            ahead_s = (self._waiting[0].not_before_ns - self._clock.monotonic_ns()) / 1e9
            if ahead_s > 0.0:
                self._changed.wait(min(ahead_s, timeout_s))
                return False
            return True

    @property
    def is_one_due(self) -> bool:
        """Whether a frame captured now would be the right one for a trigger that waits."""
        with self._changed:
            return bool(self._waiting) and self._waiting[0].not_before_ns <= self._clock.monotonic_ns()

    def expire(self) -> None:
        """End those that are too late, and forget those that have ended. Call it a few times a second."""
        now_ns = self._clock.monotonic_ns()
        with self._changed:
            late = [one for one in self._waiting if one.due_ns <= now_ns]
            self._taken = [one for one in self._taken if not one.is_over]  # their frames' memory is free again
            stuck = [one for one in self._taken if one.due_ns <= now_ns]
            if late:
                self._waiting = deque(one for one in self._waiting if one.due_ns > now_ns)
        for trigger in late:
            trigger.end(
                "timeout",
                f"camera {self._camera} gave no frame in time; raise `trigger.timeout_s` above its interval between "
                "frames, and look at its health",
            )
        for trigger in stuck:
            trigger.end(
                "timeout",
                f"a frame of camera {self._camera} was captured, but its result came too late; raise "
                "`trigger.timeout_s`, or give the model less to do",
            )

    def fail(self, reason: str, text: str) -> None:
        """End those that wait for a frame."""
        with self._changed:
            waiting, self._waiting = self._waiting, deque()
        for trigger in waiting:
            trigger.end(reason, text)

    def close(self) -> None:
        """Take no further ones, and end those that wait."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self.fail("stopping", _stopped(self._camera))


def _stopped(camera: str) -> str:
    return f"camera {camera} is being stopped, by a reload or with the agent; send it again when it runs"

"""The true age of a label: from the moment when the server pushes a frame until the subscriber has its label.

The clip shows a good part and a scratched one in turn. The server notes when it pushes the first frame of each turn;
the first result with the other label is the answer to it. So nothing has to be read from the picture, and each
contender is measured from the outside.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

FPS = 25
TURN_FRAMES = 26
"""About a second; no multiple of the distance of two key frames, so that changes come at any place between them."""


class Pushes:
    """When the first frame of each turn was pushed, in ns of the wall clock. Called by the server's thread."""

    def __init__(self) -> None:
        self.turns_ns: list[int] = []

    def __call__(self, due_s: float) -> None:
        """A frame is pushed that is ``due_s`` after the first one."""
        if round(due_s * FPS) % TURN_FRAMES == 0:
            self.turns_ns.append(time.time_ns())


def ages_ms(turns_ns: Sequence[int], answers: Sequence[tuple[int, object]]) -> list[float]:
    """The age of the first answer to each turn. ``answers`` are times and labels in order of arrival.

    A turn without an answer until the next one has no age.
    """
    found = []
    for begin_ns, end_ns in zip(turns_ns, [*turns_ns[1:], time.time_ns()], strict=False):
        before = [label for at_ns, label in answers if at_ns <= begin_ns]
        after = [(at_ns, label) for at_ns, label in answers if begin_ns < at_ns < end_ns]
        if before:
            first = next((at_ns for at_ns, label in after if label != before[-1]), None)
            found += [] if first is None else [(first - begin_ns) / 1e6]
    return found

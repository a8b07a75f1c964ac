"""Fewer results than frames, where the configuration wants that."""

from __future__ import annotations

from agent.runtime.records import Classification


class Thinning:
    """Lets at most ``max_hz`` results a second of each classifier pass.

    The results of one classifier come from one thread, those of several from many.
    """

    def __init__(self, max_hz: float) -> None:
        self._period_ns = int(1e9 / max_hz)
        self._due_ns: dict[tuple[str, str], int] = {}

    def lets_pass(self, result: Classification) -> bool:
        """Whether this one may go. The grid keeps the rate also where frames come unevenly."""
        key = (result.camera, result.classifier)
        now_ns = result.decided_at_ns
        due_ns = self._due_ns.get(key, 0)
        if now_ns < due_ns:
            return False
        is_late = now_ns - due_ns >= self._period_ns
        self._due_ns[key] = (now_ns if is_late else due_ns) + self._period_ns
        return True

"""Cameras that get no results, or far less than their share of an engine."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

WINDOW_NS = 10 * 1_000_000_000
_MIN_OFFERED = 3
"""Frames that a judgement needs; a slow camera is judged over several windows."""
_STARVED_RATIO, _FED_RATIO = 0.5, 0.75
"""Below the first a camera is starved, from the second on it is not; between them it stays what it was."""


@dataclass(frozen=True, slots=True)
class CameraUse:
    """One camera's use of one model since the start: ``offered`` frames, of which some were ``classified``.

    ``weight``: its share is in proportion to it, see FairQueue.
    """

    camera: str
    model: str
    weight: float
    offered: int
    classified: int


@dataclass(frozen=True, slots=True)
class _Rates:
    use: CameraUse
    offered: int
    asked_hz: float
    got_hz: float
    window_s: float


class StarvationMonitor:
    """Judges every camera once in ten seconds. Used by one thread.

    A camera is starved if none of at least three offered frames was classified, or if it gets less than half of its
    fair share among all cameras of a model, whatever their priorities. A slow engine that serves all alike starves
    nobody. A judgement needs a whole window and has hysteresis, so it does not flap.
    """

    def __init__(self, now_ns: int) -> None:
        self._due_ns = now_ns + WINDOW_NS
        self._before: dict[tuple[str, str], tuple[int, CameraUse]] = {}
        self._reasons: dict[tuple[str, str], str] = {}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Why each starved camera is starved."""
        return {camera: reason for (camera, _), reason in self._reasons.items()}

    def tick(self, uses: Iterable[CameraUse], now_ns: int) -> frozenset[str]:
        """Judge if it is time; returns the cameras whose judgement has changed."""
        if now_ns < self._due_ns:
            return frozenset()
        self._due_ns = now_ns + WINDOW_NS
        before = self.reasons
        rates = {(use.camera, use.model): self._rates(use, now_ns) for use in uses}
        self._before = {key: one for key, one in self._before.items() if key in rates}
        self._reasons = {key: reason for key, reason in self._reasons.items() if key in rates}
        for model in {model for _, model in rates}:
            self._judge([one for key, one in rates.items() if one is not None and key[1] == model])
        after = self.reasons
        return frozenset(name for name in {*before, *after} if (name in before) != (name in after))

    def _rates(self, use: CameraUse, now_ns: int) -> _Rates | None:
        """The rates since the last judgement of this use; None if there were too few frames for one."""
        key = use.camera, use.model
        since_ns, last = self._before.setdefault(key, (now_ns, use))
        offered, window_s = use.offered - last.offered, (now_ns - since_ns) / 1e9
        if offered < 0:  # the camera was made again, and counts from zero
            self._before[key] = now_ns, use
            return None
        if offered < _MIN_OFFERED or window_s <= 0.0:
            return None
        self._before[key] = now_ns, use
        got_hz = (use.classified - last.classified) / window_s
        return _Rates(use, offered, offered / window_s, got_hz, window_s)

    def _judge(self, rates: list[_Rates]) -> None:
        total_hz = sum(one.got_hz for one in rates)
        asked = {one.use.camera: one.asked_hz for one in rates}
        fair = fair_shares(total_hz, asked, {one.use.camera: one.use.weight for one in rates})
        for one in rates:
            key, share_hz = (one.use.camera, one.use.model), fair[one.use.camera]
            if one.got_hz == 0.0:
                self._reasons[key] = (
                    f"{one.use.model} classified none of the {one.offered} frames of the last {one.window_s:.0f} s"
                )
            elif one.got_hz < (_FED_RATIO if key in self._reasons else _STARVED_RATIO) * share_hz:
                self._reasons[key] = (
                    f"{one.use.model} classifies {one.got_hz:.1f} of {one.asked_hz:.1f} frames a second, an equal "
                    f"share would be {share_hz:.1f}"
                )
            else:
                self._reasons.pop(key, None)


def fair_shares(total: float, asked: Mapping[str, float], weight: Mapping[str, float]) -> dict[str, float]:
    """``total`` shared in proportion to ``weight``; what a camera does not ask for goes to the others."""
    shares: dict[str, float] = {}
    left = dict(asked)
    while left:
        unit = max(total - sum(shares.values()), 0.0) / sum(weight[name] for name in left)
        content = {name: rate for name, rate in left.items() if rate <= unit * weight[name]}
        if not content:
            return {**shares, **{name: unit * weight[name] for name in left}}
        shares.update(content)
        left = {name: rate for name, rate in left.items() if name not in content}
    return shares

"""Brings a remote engine back: while a local engine serves in its place, the server is tried again and again."""

from __future__ import annotations

import random

from agent.inference.engine_slot import EngineSlot, OpenEngine
from agent.runtime.backoff import STABLE_S, Backoff
from agent.runtime.clock import Clock

_MAX_PAUSE_S = 60.0
_NS = 1_000_000_000


class EngineReturn:
    """Replaces the slot's engine by the requested one as soon as that can be opened. Used by one thread.

    The pauses between attempts grow to a minute, with jitter, so a fleet does not meet a server that has just started.
    They start again from one second after the remote engine has served for a while.
    """

    def __init__(
        self, slot: EngineSlot, open_engine: OpenEngine, *, clock: Clock, rng: random.Random | None = None
    ) -> None:
        self._slot = slot
        self._open_engine = open_engine
        self._clock = clock
        self._backoff = Backoff(rng=rng)
        self._due_ns: int | None = None
        self._back_since_ns: int | None = None

    def tick(self) -> None:
        """Begin an attempt if one is due. Call it a few times a second; it never waits."""
        loaded = self._slot.loaded
        if loaded is None:
            return
        now_ns = self._clock.monotonic_ns()
        if loaded.info.away is None:
            if self._back_since_ns is None:
                self._back_since_ns = now_ns
            self._due_ns = None
            return
        if self._due_ns is None:
            if self._back_since_ns is not None and now_ns - self._back_since_ns >= STABLE_S * _NS:
                self._backoff.reset()
            self._back_since_ns = None
            self._due_ns = self._next_ns(now_ns)
        if now_ns >= self._due_ns and self._slot.return_requested(self._open_engine):
            self._due_ns = self._next_ns(now_ns)

    def _next_ns(self, now_ns: int) -> int:
        return now_ns + int(self._backoff.next_s(_MAX_PAUSE_S) * _NS)

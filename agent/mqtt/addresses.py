"""The broker's addresses in their order: which is in use, why the others are not, and when to come back.

After a failure the next address is tried at once; after the last one the usual wait follows, and then the first again.
A connection that was stable starts from the first when it breaks. While another address than the first is in use, a
thread opens the way to the earlier ones now and then, without CONNECT, so neither connection nor session is disturbed.
If a way is open, the client leaves its connection for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from agent.mqtt.base import OtherAddress
from agent.mqtt.diagnosis import Ending
from agent.mqtt.settings import MqttSettings
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger

MAX_RETURN_WAIT_S = 3600.0
"""The wait for the next try to come back doubles up to this, while coming back fails."""

_MIN_LOOK_S = 0.1
_SAME_ADDRESS = frozenset({"takeover", "duplicate", "stopped"})
"""Endings that say nothing against the address: another client with this id, or our own end."""

log = get_logger(__name__)


class AddressList:
    """Any thread."""

    def __init__(self, settings: MqttSettings, clock: Clock) -> None:
        self._choices = [
            replace(settings, address=address, alternatives=())
            for address in (settings.address, *settings.alternatives)
        ]
        self._return_after_s = settings.return_after_s
        self._clock = clock
        self._lock = threading.Lock()
        self._position = 0
        self._problems: list[str | None] = [None] * len(self._choices)
        self._tried = 0
        self._away_since_ns = clock.monotonic_ns()
        self._failed_returns = 0
        self._goal: int | None = None
        self._is_returning = False

    @property
    def current(self) -> MqttSettings:
        """The settings with the address in use, or the one to try next."""
        return self._choices[self._position]

    def others(self) -> tuple[OtherAddress, ...]:
        """The other addresses, and why they are not in use."""
        with self._lock:
            return tuple(
                OtherAddress(str(choice.address), problem, is_preferred=position < self._position)
                for position, (choice, problem) in enumerate(zip(self._choices, self._problems, strict=True))
                if position != self._position
            )

    def granted(self) -> None:
        """The broker at ``current`` accepted the connection."""
        with self._lock:
            self._problems[self._position] = None
            self._tried = 0
            self._away_since_ns = self._clock.monotonic_ns()

    def ended(self, ending: Ending, *, was_stable: bool) -> bool:
        """A connection or an attempt at ``current`` ended; chooses the address of the next attempt.

        True if that attempt should follow at once, because its address has not been tried in this round.
        """
        if len(self._choices) == 1 or ending.kind in _SAME_ADDRESS:
            return False
        with self._lock:
            goal, self._goal = self._goal, None
            if ending.kind == "left" and goal is not None:
                self._position, self._tried, self._is_returning = goal, 0, True
                return True
            self._problems[self._position] = ending.reason
            was_returning, self._is_returning = self._is_returning, False
            if was_stable:
                self._position, self._tried, self._failed_returns = 0, 0, 0
                return False
            self._failed_returns += was_returning
            self._tried = (self._tried + 1) % len(self._choices)
            self._position = (self._position + 1) % len(self._choices) if self._tried else 0
            return self._tried != 0

    def earlier(self) -> list[MqttSettings]:
        """The addresses before the one in use."""
        return self._choices[: self._position]

    def note(self, settings: MqttSettings, problem: str | None) -> None:
        """``problem`` was just found with the address of ``settings``; None: its way is open."""
        with self._lock:
            self._problems[self._choices.index(settings)] = problem

    def leave_for(self, settings: MqttSettings) -> None:
        """When the connection in use has been left, the next attempt goes to the address of ``settings``."""
        with self._lock:
            self._goal = self._choices.index(settings)

    def looked_back(self) -> None:
        """No earlier address could be reached: the wait begins again."""
        with self._lock:
            self._away_since_ns = self._clock.monotonic_ns()

    def return_due_s(self) -> float:
        """Seconds until the earlier addresses should be tried; the whole wait while the first one is in use."""
        with self._lock:
            limit_s = max(MAX_RETURN_WAIT_S, self._return_after_s)
            wait_s = min(self._return_after_s * 2.0 ** min(self._failed_returns, 32), limit_s)
            if self._position == 0:
                return wait_s
            return wait_s - (self._clock.monotonic_ns() - self._away_since_ns) / 1e9


class ReturnWatch:
    """Tries earlier addresses while a later one is in use. ``watch`` runs on a thread of the client until ``stop``.

    ``probe`` says why a way is not open, or None. ``leave`` ends the connection in use, if there is one.
    """

    def __init__(
        self,
        addresses: AddressList,
        *,
        probe: Callable[[MqttSettings], str | None],
        is_connected: Callable[[], bool],
        leave: Callable[[str], None],
        clock: Clock,
    ) -> None:
        self._addresses = addresses
        self._probe = probe
        self._is_connected = is_connected
        self._leave = leave
        self._clock = clock

    def watch(self, stop: threading.Event) -> None:
        """Blocks until ``stop`` is set."""
        wait_s = self._addresses.return_due_s()
        while not self._clock.wait(stop, wait_s):
            if self._addresses.return_due_s() <= 0 and self._is_connected():
                self._look_back(stop)
            wait_s = max(_MIN_LOOK_S, self._addresses.return_due_s())

    def _look_back(self, stop: threading.Event) -> None:
        in_use = self._addresses.current
        for earlier in self._addresses.earlier():
            problem = self._probe(earlier)
            if stop.is_set() or self._addresses.current is not in_use or not self._is_connected():
                return
            self._addresses.note(earlier, problem)
            if problem is None:
                log.info("broker.returning", broker=str(earlier.address), leaving=str(in_use.address))
                self._addresses.leave_for(earlier)
                self._leave(f"{earlier.address} can be reached again, so {in_use.address} was left for it")
                return
        self._addresses.looked_back()

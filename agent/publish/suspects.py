"""Finds the topics that a broker answers by closing the connection.

With MQTT 3.1.1 a broker cannot refuse a message: it confirms and discards it, or it closes the connection, and the
message that is sent again closes the next one.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.runtime.backoff import STABLE_S

CONNECTIONS = 3
"""Connections in a row that must end early before the topics are tried one by one."""
PROMPT_S = 5.0
"""A broker that closes the connection because of a message does it at once. If the message was sent longer ago, the
network or a broker that stopped answering ended it."""


class Suspects:
    """Decides from the ends of connections which topics have to be tried alone. One thread; times are monotonic ns.

    After ``CONNECTIONS`` early ends no topic is trusted any more. Then each is sent once with nothing else
    unconfirmed, so that the end of the connection proves its guilt, and its confirmation its innocence. A wrong alarm,
    such as an unstable network, costs one round trip for each topic.
    """

    def __init__(self) -> None:
        self._early_ends = 0
        self._connected_ns = 0
        self._streamed_ns: int | None = None
        self._trusted: set[str] | None = None

    @property
    def is_doubting(self) -> bool:
        """Whether topics are tried one by one."""
        return self._trusted is not None

    def is_trusted(self, topic: str) -> bool:
        """Whether ``topic`` may be sent while other packets are unconfirmed."""
        return self._trusted is None or topic in self._trusted

    def reset(self) -> None:
        """Trust every topic: another broker is used from now on."""
        self._early_ends, self._streamed_ns, self._trusted = 0, None, None

    def connected(self, now_ns: int) -> None:
        """A connection begins."""
        self._connected_ns, self._streamed_ns = now_ns, None

    def streamed(self, now_ns: int) -> None:
        """A packet was sent that the broker does not confirm."""
        self._streamed_ns = now_ns

    def answered(self, topic: str) -> None:
        """The broker confirmed or refused a packet of ``topic`` and kept the connection."""
        if self._trusted is not None:
            self._trusted.add(topic)

    def settle(self, now_ns: int) -> None:
        """Trust every topic again once the connection has lasted long enough. Call this regularly while connected."""
        if now_ns - self._connected_ns >= STABLE_S * 1e9:
            self._early_ends, self._trusted = 0, None

    def ended(self, unconfirmed: Sequence[tuple[str, int]], *, is_trial: bool, now_ns: int) -> str | None:
        """The connection has ended; returns the topic that ended it, if that is certain.

        ``unconfirmed``: topic and time of sending of each packet. ``is_trial``: the only one was sent alone.
        """
        self.settle(now_ns)
        first_ns = unconfirmed[0][1] if unconfirmed else self._streamed_ns
        if first_ns is None or now_ns - first_ns > PROMPT_S * 1e9:
            return None
        if is_trial:
            return unconfirmed[0][0]
        self._early_ends += 1
        if self._early_ends >= CONNECTIONS:
            self._early_ends = 0
            self._trusted = set()
        return None

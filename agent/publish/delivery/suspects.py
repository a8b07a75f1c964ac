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
MOMENT_S = 2.0
"""A connection that ends this soon after a refusal is taken to end because of it. Some brokers refuse a message and
close at once, as Mosquitto does with ``max_queued_messages 0``."""


class Suspects:
    """Decides from the ends of connections which topics have to be tried alone. One thread; times are monotonic ns.

    After ``CONNECTIONS`` early ends no topic is trusted any more. Then each is sent once with nothing else
    unconfirmed, so that the end of the connection proves its guilt, and its confirmation its innocence. A wrong alarm,
    such as an unstable network, costs one round trip for each topic.

    A connection that ends just after a refusal says nothing about other topics than the refused one.
    """

    def __init__(self) -> None:
        self._early_ends = 0
        self._connected_ns = 0
        self._streamed_ns: int | None = None
        self._trusted: set[str] | None = None
        self._refused: dict[str, tuple[int, bool]] = {}  # when, and whether it was sent alone
        self._refusal_ends: dict[str, int] = {}  # how many of its refusals in a row ended the connection

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
        self._refused.clear()
        self._refusal_ends.clear()

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

    def accepted(self, topic: str) -> None:
        """The broker confirmed a packet of ``topic``."""
        self._refused.pop(topic, None)
        self._refusal_ends.pop(topic, None)

    def refused(self, topic: str, *, is_trial: bool, now_ns: int) -> None:
        """The broker refused a packet of ``topic`` by name; ``is_trial``: it was sent alone."""
        self._forget_harmless(now_ns)
        self._refused[topic] = (now_ns, is_trial)

    def refusal_ends(self, topic: str) -> int:
        """How many refusals of ``topic`` in a row were followed by the end of the connection."""
        return self._refusal_ends.get(topic, 0)

    def closes(self, topic: str) -> bool:
        """Whether the refusals of ``topic`` are certain to end the connection."""
        return self.refusal_ends(topic) >= CONNECTIONS

    def _ended_by_refusal(self, now_ns: int) -> list[str] | None:
        """Those of the topics refused just before the end that certainly close the connection; None if none was.

        Certain are a topic that was sent alone and one whose refusals ended ``CONNECTIONS`` connections in a row.
        """
        self._forget_harmless(now_ns)
        if not self._refused:
            return None
        for topic, (_, is_trial) in self._refused.items():
            self._refusal_ends[topic] = max(self.refusal_ends(topic) + 1, CONNECTIONS if is_trial else 0)
        certain = [topic for topic in self._refused if self.closes(topic)]
        self._refused.clear()
        return certain

    def _forget_harmless(self, now_ns: int) -> None:
        """Forget the refusals that the connection has outlived."""
        for topic in [one for one, (at_ns, _) in self._refused.items() if now_ns - at_ns > MOMENT_S * 1e9]:
            self.accepted(topic)

    def settle(self, now_ns: int) -> None:
        """Trust every topic again once the connection has lasted long enough. Call this regularly while connected."""
        if now_ns - self._connected_ns >= STABLE_S * 1e9:
            self._early_ends, self._trusted = 0, None

    def ended(self, unconfirmed: Sequence[tuple[str, int]], *, is_trial: bool, now_ns: int) -> list[str]:
        """The connection has ended; returns the topics that certainly end it.

        ``unconfirmed``: topic and time of sending of each packet. ``is_trial``: the only one was sent alone.
        """
        self.settle(now_ns)
        refused = self._ended_by_refusal(now_ns)
        if refused is not None:
            return refused
        first_ns = unconfirmed[0][1] if unconfirmed else self._streamed_ns
        if first_ns is None or now_ns - first_ns > PROMPT_S * 1e9:
            return []
        if is_trial:
            return [unconfirmed[0][0]]
        self._early_ends += 1
        if self._early_ends >= CONNECTIONS:
            self._early_ends = 0
            self._trusted = set()
        return []

"""The newest value of each retained topic."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from agent.mqtt.base import Packet


class RetainedValues:
    """The newest packet of each retained topic, and which of them the broker does not have yet. One thread."""

    def __init__(self) -> None:
        self._values: dict[str, Packet] = {}
        self._short: dict[str, Packet] = {}
        self._shortened: dict[str, Packet] = {}  # the last short form that took the place of a packet
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._unsent: set[str] = set()
        self._arrived: set[str] = set()

    def put(self, packet: Packet, short: Packet | None = None) -> bool:
        """Store the newest value of its topic; True if it replaces one that was never sent, or refused since.

        ``short`` replaces it for a broker to which it is too large.
        """
        topic = packet.topic
        is_superseding = topic in self._unsent
        self._values[topic] = packet
        self._pending[topic] = None
        self._unsent.add(topic)
        self._arrived.discard(topic)
        if short is not None:
            self._short[topic] = short
        return is_superseding

    def forget_cleared(self, topic: str) -> None:
        """Forget a topic that the broker has cleared, unless it has a new value."""
        value = self._values.get(topic)
        if value is not None and not value.payload and topic not in self._unsent:
            del self._values[topic]
            self._pending.pop(topic, None)
            self._short.pop(topic, None)
            self._arrived.discard(topic)

    def resend_all(self) -> None:
        """Mark every value to be sent again: the broker of a new connection may have lost all of them."""
        for topic in self._values:
            self._pending[topic] = None

    def next(self, may_send: Callable[[str], bool] = lambda _: True) -> Packet | None:
        """The packet that waits longest of those whose topic may be sent; it stays pending until ``sent``."""
        topic = next((topic for topic in self._pending if may_send(topic)), None)
        return None if topic is None else self._values[topic]

    def sent(self, packet: Packet) -> None:
        """``packet`` was handed to the sink."""
        self._pending.pop(packet.topic, None)
        self._unsent.discard(packet.topic)

    def arrived(self, packet: Packet) -> None:
        """The broker has confirmed ``packet``."""
        if self._is_newest(packet):
            self._arrived.add(packet.topic)

    def refused(self, packet: Packet) -> bool:
        """The broker refused ``packet``, which waits again; False if a newer value has replaced it."""
        if not self._is_newest(packet):
            return False
        self._pending[packet.topic] = None
        if packet.topic not in self._arrived:
            self._unsent.add(packet.topic)
        return True

    def shorten(self, packet: Packet) -> bool:
        """``packet`` is too large for the broker: let its short form wait instead; False if it has none."""
        short = self._short.pop(packet.topic, None)
        if short is None or not self._is_newest(packet):
            return False
        self.put(short)
        self._shortened[packet.topic] = short
        return True

    def is_shortened(self, packet: Packet) -> bool:
        """Whether ``packet`` is a short form that took the place of one too large for the broker."""
        return self._shortened.get(packet.topic) is packet

    def _is_newest(self, packet: Packet) -> bool:
        return self._values.get(packet.topic) is packet

    @property
    def pending(self) -> int:
        """Number of values that wait to be sent."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Number of values whose newest version was never handed to a sink, or was refused."""
        return len(self._unsent)

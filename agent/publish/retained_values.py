"""The newest value of every retained topic, for subscribers that come after the broker was away."""

from __future__ import annotations

from collections import OrderedDict

from agent.mqtt.base import Packet


class RetainedValues:
    """Remembers the newest packet of each topic and which of them the broker does not have yet. One thread."""

    def __init__(self) -> None:
        self._values: dict[str, Packet] = {}
        self._pending: OrderedDict[str, None] = OrderedDict()
        self._unsent: set[str] = set()

    def put(self, packet: Packet) -> bool:
        """Take the newest value of its topic; True when it supersedes one that was never sent."""
        is_superseding = packet.topic in self._unsent
        self._values[packet.topic] = packet
        self._pending[packet.topic] = None
        self._unsent.add(packet.topic)
        return is_superseding

    def forget_cleared(self, topic: str) -> None:
        """The broker has cleared it: forget it too, unless it has a new value."""
        value = self._values.get(topic)
        if value is not None and not value.payload and topic not in self._unsent:
            del self._values[topic]
            self._pending.pop(topic, None)

    def want_all(self) -> None:
        """Everything has to be sent again: this is a new connection, perhaps to a broker that forgot it all."""
        for topic in self._values:
            self._pending[topic] = None

    def next(self) -> Packet | None:
        """The packet that waits longest, still waiting until ``sent``; None when the broker has everything."""
        topic = next(iter(self._pending), None)
        return None if topic is None else self._values[topic]

    def sent(self, packet: Packet) -> None:
        """``packet`` is on its way."""
        self._pending.pop(packet.topic, None)
        self._unsent.discard(packet.topic)

    @property
    def pending(self) -> int:
        """Values that wait to be sent."""
        return len(self._pending)

    @property
    def unsent(self) -> int:
        """Values of which no connection has taken the newest version yet."""
        return len(self._unsent)

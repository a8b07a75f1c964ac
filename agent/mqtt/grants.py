"""What the broker grants in its CONNACK, and what is done instead of what it does not offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.mqtt.base import Packet
from agent.mqtt.network.wire import Property, Value

_MAX_QOS = 1
_MAX_RECEIVE = 65535
SMALL_PACKET_BYTES = 8192
"""A largest packet below this is worth a warning: ``health`` has about 1.2 kB, and 250 bytes more for each camera
with its classifier."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Limits of one connection; the defaults apply if the broker names none. Source: MQTT 5.0, section 3.2.2.3."""

    max_packet_bytes: int | None = None
    max_qos: int = _MAX_QOS
    may_retain: bool = True
    has_wildcards: bool = True
    receive_maximum: int = _MAX_RECEIVE
    keepalive_s: int | None = None
    client_id: str | None = None

    def keepalive_below(self, wanted_s: int) -> int:
        """The keep-alive interval to use: the shorter one, as a ping may always come earlier. 0 asks for none."""
        return min(wanted_s, self.keepalive_s or wanted_s)

    def subscriptions(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of the wanted topic filters that the broker can serve."""
        return tuple(one for one in wanted if self.has_wildcards or not _has_wildcard(one))

    def limits(self, wanted: Sequence[str] = ()) -> tuple[str, ...]:
        """What is missing, in sentences for people; ``wanted`` are the topic filters."""
        left_out = [one for one in wanted if one not in self.subscriptions(wanted)]
        size = self.max_packet_bytes
        small = size if size is not None and size < SMALL_PACKET_BYTES else None
        found = [
            "the broker keeps no retained messages: states are sent without retain" if not self.may_retain else "",
            "the broker offers only QoS 0: an event counts as delivered when it is sent" if not self.max_qos else "",
            f"the broker has no wildcard subscriptions: not subscribed to {', '.join(left_out)}" if left_out else "",
            f"the broker accepts packets of at most {small} bytes: larger messages are shortened or dropped"
            if small
            else "",
            f"the broker gave this client the id {self.client_id!r}" if self.client_id else "",
        ]
        return tuple(one for one in found if one)


def granted_from_properties(values: Mapping[int, Value]) -> Granted:
    """The limits from the properties of a CONNACK; none at MQTT 3.1.1."""

    def number(key: Property, default: int) -> int:
        value = values.get(key, default)
        return value if isinstance(value, int) else default

    client_id = values.get(Property.ASSIGNED_CLIENT_ID)
    return Granted(
        # 0 is not allowed and would forbid every packet
        max_packet_bytes=number(Property.MAXIMUM_PACKET_SIZE, 0) or None,
        max_qos=min(_MAX_QOS, number(Property.MAXIMUM_QOS, _MAX_QOS)),
        may_retain=bool(number(Property.RETAIN_AVAILABLE, 1)),
        has_wildcards=bool(number(Property.WILDCARDS_AVAILABLE, 1)),
        receive_maximum=number(Property.RECEIVE_MAXIMUM, _MAX_RECEIVE) or 1,
        keepalive_s=number(Property.SERVER_KEEP_ALIVE, 0) or None,
        client_id=client_id.decode(errors="replace") if isinstance(client_id, bytes) else None,
    )


def lesser_will(will: Packet | None, code: int | None) -> Packet | None:
    """The last will without what the broker refused with ``code``; None if that does not help."""
    if will is None:
        return None
    if code == 0x9A and will.retain:
        return Packet(will.topic, will.payload, will.qos, retain=False)
    if code == 0x9B and will.qos:
        return Packet(will.topic, will.payload, 0, retain=will.retain)
    return None


def _has_wildcard(topic_filter: str) -> bool:
    return "+" in topic_filter or "#" in topic_filter

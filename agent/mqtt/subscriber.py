"""A small subscriber that reconnects on its own, for live views and tests."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from agent.mqtt.base import NullListener, Packet, Received, SinkStatistics
from agent.mqtt.client import MqttClient
from agent.mqtt.settings import MAX_LIVE_PACKET_BYTES, MqttSettings
from agent.runtime.channel import Channel
from agent.runtime.errors import BrokerUnavailable

BUFFERED = 10_000
"""Messages that may wait to be read; above that the oldest are dropped and counted."""

_POLL_S = 0.05
_STEPS = 3


class Subscriber:
    """Messages on some topics, oldest first. Made by ``open_subscriber``."""

    def __init__(self, client: MqttClient, channel: Channel[Received]) -> None:
        self._client = client
        self._channel = channel

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """The oldest unread message; None after ``timeout_s`` without one."""
        return self._channel.receive(timeout_s)

    def send(self, packet: Packet) -> str | None:
        """Send one message on the same connection; the reason if it cannot be sent, see ``MqttClient.send``."""
        return self._client.send(packet)

    @property
    def dropped(self) -> int:
        """Messages dropped because they were not read in time."""
        return self._channel.statistics().dropped

    def connection(self) -> SinkStatistics:
        """The state of the connection."""
        return self._client.statistics()

    def wait_commands_tried(self, timeout_s: float) -> bool:
        """See MqttClient."""
        return self._client.wait_commands_tried(timeout_s)


@contextmanager
def open_subscriber(
    settings: MqttSettings,
    topics: Sequence[str],
    *,
    command_topics: Sequence[str] = (),
    timeout_s: float | None = None,
    is_patient: bool = True,
) -> Iterator[Subscriber]:
    """Subscribe to ``topics`` (wildcards allowed). ``timeout_s`` limits the time to the first connection; without
    ``is_patient`` the first attempt must succeed. ``command_topics`` are subscribed to as well, and tried as an agent
    does, see ``Loopback``.

    Raises:
        BrokerUnavailable: no connection within ``timeout_s``; the message has the reason.
    """
    if timeout_s is not None:
        # Both protocol versions must get a complete attempt before the time is up, or the reason would be unknown.
        settings = replace(settings, connect_timeout_s=min(settings.connect_timeout_s, timeout_s / _STEPS))
    settings = replace(settings, max_packet_bytes=MAX_LIVE_PACKET_BYTES, max_received_per_s=None)
    channel: Channel[Received] = Channel(BUFFERED, "drop_oldest")

    def keep(message: Received) -> None:
        channel.send(message)

    client = MqttClient(
        settings, subscriptions=(*topics, *command_topics), on_received=keep, command_topics=command_topics
    )
    client.start(NullListener())
    try:
        if timeout_s is not None and not _is_subscribed(client, timeout_s, is_patient=is_patient):
            statistics = client.statistics()
            within = f" within {round(timeout_s, 1):g} s" if is_patient else ""
            raise BrokerUnavailable(
                f"no connection to {statistics.address}{within}: {_why_not(statistics)}", broker=statistics.address
            )
        yield Subscriber(client, channel)
    finally:
        client.stop(2.0)
        channel.close()


def _why_not(statistics: SinkStatistics) -> str:
    if statistics.state == "connected":
        return "it accepted the connection but did not answer the subscription"
    if statistics.state == "connecting":
        return "neither the name server nor the broker has answered yet"
    return statistics.failure or statistics.reason or "unknown"


def _is_subscribed(client: MqttClient, timeout_s: float, *, is_patient: bool) -> bool:
    deadline = time.monotonic() + timeout_s
    while not client.wait_subscribed(min(_POLL_S, max(0.0, deadline - time.monotonic()))):
        has_failed = client.statistics().state == "disconnected"
        if time.monotonic() >= deadline or (has_failed and not is_patient):
            return False
    return True

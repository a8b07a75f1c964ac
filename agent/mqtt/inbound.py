"""Hands messages from the broker to their listeners."""

from __future__ import annotations

from collections.abc import Callable

from agent.config.model import MqttConfig
from agent.mqtt.base import Received
from agent.mqtt.topics import Topics


class Inbound:
    """Calls the listener of each message's topic.

    Add a listener before the connection that subscribes to its topic is made. Listeners run on the connection's thread
    and must not block.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, Callable[[Received], None]] = {}

    def listen(self, topic_filter: str, listener: Callable[[Received], None]) -> None:
        """Call ``listener`` with the messages of a topic; its last level may be ``+``."""
        self._listeners[topic_filter] = listener

    def receive(self, message: Received) -> None:
        """Pass one message to its listeners."""
        parent = f"{message.topic.rpartition('/')[0]}/+"
        for topic_filter in (message.topic, parent):
            listener = self._listeners.get(topic_filter)
            if listener is not None:
                listener(message)


def subscriptions(config: MqttConfig, topics: Topics) -> tuple[str, ...]:
    """The topic filters that ``config`` needs."""
    commands = (topics.command("+"),) if config.commands.enabled else ()
    birth = (f"{config.home_assistant.prefix}/status",) if config.home_assistant.enabled else ()
    return (*commands, *birth)

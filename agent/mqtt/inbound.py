"""From the broker to whoever asked for it."""

from __future__ import annotations

from collections.abc import Callable

from agent.config.model import MqttConfig
from agent.mqtt.connection import Received
from agent.mqtt.topics import Topics


class Inbound:
    """Hands each message to those who listen on its topic. Listeners are added before the connection that subscribes
    to it is made, and are called on its thread: they must not wait."""

    def __init__(self) -> None:
        self._listeners: dict[str, Callable[[Received], None]] = {}

    def listen(self, topic_filter: str, listener: Callable[[Received], None]) -> None:
        """Call ``listener`` with the messages of a topic, the last level of which may be ``+``."""
        self._listeners[topic_filter] = listener

    def receive(self, message: Received) -> None:
        """Hand one message over."""
        parent = f"{message.topic.rpartition('/')[0]}/+"
        for topic_filter in (message.topic, parent):
            listener = self._listeners.get(topic_filter)
            if listener is not None:
                listener(message)


def subscriptions(config: MqttConfig, topics: Topics) -> tuple[str, ...]:
    """What the configuration makes the agent listen to."""
    commands = (topics.command("+"),) if config.commands.enabled else ()
    birth = (f"{config.home_assistant.prefix}/status",) if config.home_assistant.enabled else ()
    return (*commands, *birth)

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

    def listen(self, topic: str, listener: Callable[[Received], None]) -> None:
        """Call ``listener`` with the messages of ``topic``."""
        self._listeners[topic] = listener

    def receive(self, message: Received) -> None:
        """Pass one message to its listener."""
        listener = self._listeners.get(message.topic)
        if listener is not None:
            listener(message)


def subscriptions(config: MqttConfig, topics: Topics) -> tuple[str, ...]:
    """The topics that ``config`` needs; none has a wildcard, which not every broker offers.

    A verb that is not allowed is not subscribed to, so messages for it cost nothing.
    """
    birth = (f"{config.home_assistant.prefix}/status",) if config.home_assistant.enabled else ()
    return (*command_topics(config, topics), *birth)


def command_topics(config: MqttConfig, topics: Topics) -> tuple[str, ...]:
    """The topics of the allowed commands; none if commands are off."""
    return tuple(topics.command(verb) for verb in config.commands.allow) if config.commands.enabled else ()

"""Keeps the agent's device in Home Assistant up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from agent.config.loader import LoadedConfig
from agent.config.model import MqttConfig
from agent.mqtt.base import Packet, Received
from agent.mqtt.identity import Identity
from agent.mqtt.inbound import Inbound
from agent.mqtt.messages import Runtime
from agent.publish.discovery import discovery_message, object_id
from agent.publish.publisher import Publisher
from agent.runtime.logs import get_logger
from engines import JsonRecord

FILE_NAME = "home-assistant.json"
STUBS_FOR_SESSIONS = 3
"""A removed component is announced as removed in this many sessions, because the broker may be away in the first.
Once ``home_assistant`` is switched off, the device is removed in at least as many."""

_Named = dict[str, dict[str, Any]]
"""Platform (``p``) and sessions since it was last named, by component."""

log = get_logger(__name__)


class HomeAssistant:
    """Publishes the retained discovery message, and remembers its components in ``file``: a component that leaves the
    configuration must be removed from Home Assistant. If disabled, it removes what an earlier session published."""

    def __init__(
        self, loaded: LoadedConfig, identity: Identity, publish: Callable[[Packet], None], file: Path
    ) -> None:
        self._identity = identity
        self._publish = publish
        self._record = JsonRecord[_Named](file, encode=dict, decode=_named_from, is_durable=False)
        self._components = self._record.load() or {}
        self._adopt(loaded.config.mqtt)
        for key in [key for key, entry in self._components.items() if entry["sessions"] >= STUBS_FOR_SESSIONS]:
            del self._components[key]
        for entry in self._components.values():
            entry["sessions"] += 1

    @property
    def birth_topic(self) -> str:
        """The topic on which Home Assistant announces its start."""
        return f"{self._config.prefix}/status"

    def switch_to(self, loaded: LoadedConfig) -> None:
        """Use another configuration from the next ``announce`` on."""
        before, was_enabled = self._topic, self._config.enabled
        self._adopt(loaded.config.mqtt)
        if was_enabled and self._topic != before:
            self._publish(Packet(before, b"", 1, retain=True))

    def announce(self, runtime: Runtime) -> None:
        """Publish the components of ``runtime``."""
        if not self._config.enabled:
            self._remove_device()
            return
        message = discovery_message(
            runtime, self._identity.topics, allowed=self._allowed, snapshots=self._config.snapshots
        )
        parts: dict[str, Any] = message["cmps"]
        removed = {key: entry for key, entry in self._components.items() if key not in parts}
        self._components = {key: {"p": part["p"], "sessions": 0} for key, part in parts.items()} | removed
        self._write()
        parts.update({key: {"p": entry["p"]} for key, entry in removed.items()})
        self._publish(Packet(self._topic, orjson.dumps(message), 1, retain=True))

    def _adopt(self, mqtt: MqttConfig) -> None:
        self._config = mqtt.home_assistant
        self._allowed = frozenset(mqtt.commands.allow) if mqtt.commands.enabled else frozenset[str]()
        self._topic = f"{self._config.prefix}/device/{object_id(self._identity.device)}/config"

    def _remove_device(self) -> None:
        """Remove the device, in as many sessions as a removed component; the file shows that more are needed."""
        if not self._record.path.exists():
            return
        self._publish(Packet(self._topic, b"", 1, retain=True))
        if self._components:
            self._write()
            return
        try:
            self._record.path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("home_assistant.clear_failed", error=str(exc))

    def _write(self) -> None:
        try:
            self._record.save(self._components)
        except OSError as exc:
            log.warning("home_assistant.write_failed", error=str(exc))


def _named_from(value: Any) -> _Named:
    return {str(key): {"p": str(entry["p"]), "sessions": int(entry["sessions"])} for key, entry in value.items()}


def open_home_assistant(
    loaded: LoadedConfig, identity: Identity, inbound: Inbound, publisher: Publisher
) -> HomeAssistant:
    """The device in Home Assistant, published again at each start of Home Assistant."""
    home = HomeAssistant(loaded, identity, publisher.offer, loaded.state_dir / FILE_NAME)
    listen_for_birth(home, inbound, publisher)
    return home


def listen_for_birth(home: HomeAssistant, inbound: Inbound, publisher: Publisher) -> None:
    """Send every retained message again at each start of Home Assistant."""

    def on_status(message: Received) -> None:
        if message.payload == b"online" and not message.retain:
            publisher.rebirth()

    inbound.listen(home.birth_topic, on_status)

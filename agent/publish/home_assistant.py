"""Keeps Home Assistant's picture of this agent up to date."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from agent.config.loader import LoadedConfig
from agent.config.model import MqttConfig
from agent.mqtt.base import Packet
from agent.mqtt.connection import Received
from agent.mqtt.identity import Identity
from agent.mqtt.inbound import Inbound
from agent.mqtt.messages import Runtime
from agent.publish.discovery import discovery_message, object_id
from agent.publish.publisher import Publisher
from agent.runtime.logs import get_logger
from engines import JsonRecord

FILE_NAME = "home-assistant.json"
STUBS_FOR_SESSIONS = 3
"""A component that is gone is named as removed in this many sessions, since the broker may be away in the first. The
whole device is taken back in at least as many, where all of it is switched off."""

_Named = dict[str, dict[str, Any]]
"""Platform (``p``) and sessions since it was last named, by component."""

log = get_logger(__name__)


class HomeAssistant:
    """Publishes the discovery message, retained, and remembers in ``file`` what it has named, so that what goes from
    the configuration goes there too. Where it is disabled it takes back what an earlier session published."""

    def __init__(
        self, loaded: LoadedConfig, identity: Identity, publish: Callable[[Packet], None], file: Path
    ) -> None:
        self._identity = identity
        self._publish = publish
        self._record = JsonRecord[_Named](file, encode=dict, decode=_named_from, is_durable=False)
        self._named = self._record.load() or {}
        self._adopt(loaded.config.mqtt)
        for key in [key for key, entry in self._named.items() if entry["sessions"] >= STUBS_FOR_SESSIONS]:
            del self._named[key]
        for entry in self._named.values():
            entry["sessions"] += 1

    @property
    def birth_topic(self) -> str:
        """Where Home Assistant says that it has started."""
        return f"{self._config.prefix}/status"

    def switch_to(self, loaded: LoadedConfig) -> None:
        """Another configuration, which the next ``announce`` is to show."""
        before, was_enabled = self._topic, self._config.enabled
        self._adopt(loaded.config.mqtt)
        if was_enabled and self._topic != before:
            self._publish(Packet(before, b"", 1, retain=True))

    def announce(self, runtime: Runtime) -> None:
        """Say what there is from now on."""
        if not self._config.enabled:
            self._take_back()
            return
        message = discovery_message(
            runtime, self._identity.topics, allowed=self._allowed, snapshots=self._config.snapshots
        )
        parts: dict[str, Any] = message["cmps"]
        gone = {key: entry for key, entry in self._named.items() if key not in parts}
        self._named = {key: {"p": part["p"], "sessions": 0} for key, part in parts.items()} | gone
        self._write()
        parts.update({key: {"p": entry["p"]} for key, entry in gone.items()})
        self._publish(Packet(self._topic, orjson.dumps(message), 1, retain=True))

    def _adopt(self, mqtt: MqttConfig) -> None:
        self._config = mqtt.home_assistant
        self._allowed = frozenset(mqtt.commands.allow) if mqtt.commands.enabled else frozenset[str]()
        self._topic = f"{self._config.prefix}/device/{object_id(self._identity.device)}/config"

    def _take_back(self) -> None:
        """In as many sessions as a component that is gone is named; the file tells the next one that it is needed."""
        if not self._record.path.exists():
            return
        self._publish(Packet(self._topic, b"", 1, retain=True))
        if self._named:
            self._write()
            return
        try:
            self._record.path.unlink(missing_ok=True)
        except OSError as exc:
            log.warning("home_assistant.clear_failed", error=str(exc))

    def _write(self) -> None:
        try:
            self._record.save(self._named)
        except OSError as exc:
            log.warning("home_assistant.write_failed", error=str(exc))


def _named_from(value: Any) -> _Named:
    return {str(key): {"p": str(entry["p"]), "sessions": int(entry["sessions"])} for key, entry in value.items()}


def open_home_assistant(
    loaded: LoadedConfig, identity: Identity, inbound: Inbound, publisher: Publisher
) -> HomeAssistant:
    """Home Assistant's picture, sent anew whenever Home Assistant has started."""
    home = HomeAssistant(loaded, identity, publisher.offer, loaded.state_dir / FILE_NAME)
    listen_for_birth(home, inbound, publisher)
    return home


def listen_for_birth(home: HomeAssistant, inbound: Inbound, publisher: Publisher) -> None:
    """Send everything again whenever Home Assistant says that it has started."""

    def on_status(message: Received) -> None:
        if message.payload == b"online" and not message.retain:
            publisher.rebirth()

    inbound.listen(home.birth_topic, on_status)

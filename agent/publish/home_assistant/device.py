"""Keeps the agent's device in Home Assistant up to date."""

from __future__ import annotations

import hashlib
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
from agent.publish.home_assistant.discovery import (
    MAX_LABELS,
    MAX_OPTIONS_BYTES,
    discovery_message,
    discovery_topic,
    without_entities,
    without_long_options,
)
from agent.publish.publisher import Publisher
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger
from engines import JsonRecord

FILE_NAME = "home-assistant.json"
STUBS_FOR_SESSIONS = 3
"""A removed component is announced as removed in this many sessions, because the broker may be away in the first."""
BIRTH_DELAY_S = (0.5, 5.0)
"""How long after Home Assistant's start everything is sent again. Each device has its own time in between, or a
hundred of them would answer at once."""

_Named = dict[str, dict[str, Any]]
"""Platform (``p``) and sessions since it was last named, by component."""

log = get_logger(__name__)


class HomeAssistant:
    """Publishes the retained discovery message, and remembers its components in ``file``: a component that leaves the
    configuration must be removed from Home Assistant.

    ``rebirth`` sends every retained message again; it is called from ``tick`` some time after a start of Home
    Assistant. ``on_status`` may be called by any thread, the rest by one at a time. The message of a device that is
    gone is cleared by the ledger, see ``retained_topics``.
    """

    def __init__(
        self,
        loaded: LoadedConfig,
        identity: Identity,
        publish: Callable[[Packet], None],
        file: Path,
        *,
        rebirth: Callable[[], None],
        clock: Clock,
    ) -> None:
        self._identity = identity
        self._publish = publish
        self._rebirth = rebirth
        self._clock = clock
        self._rebirth_at_ns: int | None = None
        self._long: tuple[str, ...] = ()
        self._many: tuple[str, ...] = ()
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
        self._adopt(loaded.config.mqtt)

    def announce(self, runtime: Runtime) -> None:
        """Publish the components of ``runtime``."""
        if not self._config.enabled:
            return
        message = discovery_message(
            runtime, self._identity.topics, allowed=self._allowed, snapshots=self._config.snapshots
        )
        self._report_long_options(without_long_options(message))
        self._report_many_labels(without_entities(runtime))
        parts: dict[str, Any] = message["cmps"]
        removed = {key: entry for key, entry in self._components.items() if key not in parts}
        self._components = {key: {"p": part["p"], "sessions": 0} for key, part in parts.items()} | removed
        self._write()
        parts.update({key: {"p": entry["p"]} for key, entry in removed.items()})
        topic = discovery_topic(self._config.prefix, self._identity.device)
        self._publish(Packet(topic, orjson.dumps(message), 1, retain=True))

    def on_status(self, message: Received) -> None:
        """Home Assistant has started or is ending. Several starts before the answer get one answer."""
        if message.payload == b"online" and not message.retain and self._rebirth_at_ns is None:
            delay_s = birth_delay_s(self._identity.device)
            self._rebirth_at_ns = self._clock.monotonic_ns() + int(delay_s * 1e9)

    def tick(self) -> None:
        """Call this regularly: answers a start of Home Assistant when it is due."""
        due_ns = self._rebirth_at_ns
        if due_ns is not None and self._clock.monotonic_ns() >= due_ns:
            self._rebirth_at_ns = None
            self._rebirth()

    def _adopt(self, mqtt: MqttConfig) -> None:
        self._config = mqtt.home_assistant
        self._allowed = frozenset(mqtt.commands.allow) if mqtt.commands.enabled else frozenset[str]()

    def _report_long_options(self, keys: tuple[str, ...]) -> None:
        if keys and keys != self._long:
            log.warning("home_assistant.options_left_out", entities=keys, max_bytes=MAX_OPTIONS_BYTES)
        self._long = keys

    def _report_many_labels(self, classifiers: tuple[str, ...]) -> None:
        if classifiers and classifiers != self._many:
            log.warning("home_assistant.labels_left_out", classifiers=classifiers, max_labels=MAX_LABELS)
        self._many = classifiers

    def _write(self) -> None:
        try:
            self._record.save(self._components)
        except OSError as exc:
            log.warning("home_assistant.write_failed", error=str(exc))


def _named_from(value: Any) -> _Named:
    return {str(key): {"p": str(entry["p"]), "sessions": int(entry["sessions"])} for key, entry in value.items()}


def birth_delay_s(device: str) -> float:
    """When this device answers a start of Home Assistant: always the same time, spread evenly over all devices."""
    low_s, high_s = BIRTH_DELAY_S
    share = int.from_bytes(hashlib.sha256(device.encode()).digest()[:4], "big") / 2**32
    return low_s + (high_s - low_s) * share


def open_home_assistant(
    loaded: LoadedConfig, identity: Identity, inbound: Inbound, publisher: Publisher, clock: Clock
) -> HomeAssistant:
    """The device in Home Assistant, published again at each start of Home Assistant."""
    file = loaded.state_dir / FILE_NAME
    home = HomeAssistant(loaded, identity, publisher.offer, file, rebirth=publisher.rebirth, clock=clock)
    inbound.listen(home.birth_topic, home.on_status)
    return home

"""Remembers which retained topics the broker may hold, so that those of a removed camera, of an earlier device id or
prefix, and of a device that left Home Assistant can be cleared."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

from agent.config.model import AgentConfig
from agent.mqtt.topics import MAX_TOPIC_BYTES, Topics
from agent.publish.home_assistant.discovery import discovery_topic, object_id
from agent.runtime.logs import get_logger
from engines import JsonRecord, RecordDamaged

FILE_NAME = "retained.json"
MAX_TOPICS = 8192
"""Maximum number of remembered topics."""

_LEVEL = r"[^/+#\x00]+"
_TOPIC = re.compile(
    rf"{_LEVEL}(?:/{_LEVEL})+/(?:status|runtime|thermal|health|camera/{_LEVEL}/health|camera/{_LEVEL}/{_LEVEL}/state)"
    rf"|{_LEVEL}(?:/{_LEVEL})*/device/{object_id('')}[a-z0-9_-]+/config"
)

log = get_logger(__name__)


def retained_topics(config: AgentConfig, topics: Topics) -> frozenset[str]:
    """Every topic on which this configuration retains a message: a disabled camera has its health topic only."""
    agent = {topics.status, topics.runtime, topics.thermal, topics.health}
    health = {topics.camera_health(name) for name in config.cameras}
    states = {
        topics.state(name, classifier.key)
        for name, camera in config.cameras.items()
        if camera.enabled
        for classifier in camera.classify
    }
    home = config.mqtt.home_assistant
    discovery = {discovery_topic(home.prefix, topics.device)} if home.enabled else set()
    return frozenset(agent | health | states | discovery)


class RetainedLedger:
    """Remembers topics in ``file``, from before their first message until the broker has confirmed their clearing.

    Call ``expect`` before a configuration takes effect and ``settle`` after it. Any thread.
    """

    def __init__(self, file: Path) -> None:
        self._record = _record(file)
        self._lock = threading.Lock()
        self._known = set(_read(self._record))
        self._removed: frozenset[str] = frozenset()
        self._is_changed = False

    def expect(self, topics: Collection[str]) -> None:
        """Remember topics that will be retained."""
        with self._lock:
            self._removed -= frozenset(topics)
            self._is_changed |= not self._known.issuperset(topics)
            self._known.update(topics)
        self.save()

    def settle(self, topics: Collection[str]) -> list[str]:
        """Only ``topics`` are retained from now on; returns the topics to clear."""
        with self._lock:
            self._removed = frozenset(self._known.difference(topics))
            return sorted(self._removed)

    def is_removed(self, topic: str) -> bool:
        """Whether the topic has been cleared, so that a late message for it must not be sent."""
        return topic in self._removed

    def cleared(self, topic: str) -> None:
        """The broker has confirmed (or refused) the clearing of ``topic``. The next ``save`` writes it to the file."""
        with self._lock:
            if topic in self._removed and topic in self._known:
                self._known.discard(topic)
                self._is_changed = True

    def save(self) -> None:
        """Replace the file if something has changed."""
        with self._lock:
            if not self._is_changed:
                return
            self._is_changed = False
            try:
                self._record.save(sorted(self._known)[:MAX_TOPICS])
            except OSError as exc:
                log.warning("retained.write_failed", file=str(self._record.path), error=exc.strerror)


def _record(file: Path) -> JsonRecord[list[str]]:
    return JsonRecord(file, encode=list, decode=lambda value: [topic for topic in value if isinstance(topic, str)])


def _read(record: JsonRecord[list[str]]) -> Iterable[str]:
    """The topics that an earlier session wrote; anything else is ignored."""
    try:
        topics = record.read()
    except FileNotFoundError:
        return []
    except RecordDamaged as exc:
        log.warning("retained.read_failed", file=str(record.path), error=str(exc))
        return []
    return [topic for topic in topics if _TOPIC.fullmatch(topic) and _is_sendable(topic)][:MAX_TOPICS]


def _is_sendable(topic: str) -> bool:
    try:
        return len(topic.encode()) <= MAX_TOPIC_BYTES
    except UnicodeEncodeError:  # a lone surrogate
        return False

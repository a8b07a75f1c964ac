"""Remembers which retained topics of cameras the broker may hold, so that those of a removed camera can be cleared."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable
from pathlib import Path

from agent.config.model import AgentConfig
from agent.mqtt.topics import MAX_TOPIC_BYTES, Topics
from agent.runtime.logs import get_logger
from engines import JsonRecord, RecordDamaged

FILE_NAME = "retained.json"
MAX_TOPICS = 8192
"""Maximum number of remembered topics."""

_TOPIC = re.compile(r"[^+#\x00]+/camera/[^/+#\x00]+/(?:health|[^/+#\x00]+/state)")

log = get_logger(__name__)


def camera_topics(config: AgentConfig, topics: Topics) -> frozenset[str]:
    """Retained topics of the cameras in ``config``: a disabled camera has its health topic only."""
    health = {topics.camera_health(name) for name in config.cameras}
    states = {
        topics.state(name, classifier.key)
        for name, camera in config.cameras.items()
        if camera.enabled
        for classifier in camera.classify
    }
    return frozenset(health | states)


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
    """The topics that an earlier session wrote; anything that cannot be a topic of a camera is ignored."""
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

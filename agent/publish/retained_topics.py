"""Which retained topics of cameras the broker may hold, so that those of a camera that is gone can be taken back."""

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
"""More are not remembered."""

_TOPIC = re.compile(r"[^+#\x00]+/camera/[^/+#\x00]+/(?:health|[^/+#\x00]+/state)")

log = get_logger(__name__)


def camera_topics(config: AgentConfig, topics: Topics) -> frozenset[str]:
    """What cameras retain under ``config``: a disabled one says so in its health, and decides nothing."""
    health = {topics.camera_health(name) for name in config.cameras}
    states = {
        topics.state(name, classifier.key)
        for name, camera in config.cameras.items()
        if camera.enabled
        for classifier in camera.classify
    }
    return frozenset(health | states)


class RetainedLedger:
    """Remembers topics in ``file`` from before they are first sent until the broker has confirmed that they are gone.

    ``expect`` comes before a configuration takes effect and ``settle`` after it. Any thread.
    """

    def __init__(self, file: Path) -> None:
        self._record = _record(file)
        self._lock = threading.Lock()
        self._known = set(_read(self._record))
        self._gone: frozenset[str] = frozenset()
        self._is_changed = False

    def expect(self, topics: Collection[str]) -> None:
        """These will be retained."""
        with self._lock:
            self._gone -= frozenset(topics)
            self._is_changed |= not self._known.issuperset(topics)
            self._known.update(topics)
        self.save()

    def settle(self, topics: Collection[str]) -> list[str]:
        """Nothing but these is retained from now on; the topics to take back."""
        with self._lock:
            self._gone = frozenset(self._known.difference(topics))
            return sorted(self._gone)

    def is_gone(self, topic: str) -> bool:
        """It was taken back: what a part still says there comes too late."""
        return topic in self._gone

    def taken_back(self, topic: str) -> None:
        """The broker has confirmed it (or will not have it). Written down at the next ``save``."""
        with self._lock:
            if topic in self._gone and topic in self._known:
                self._known.discard(topic)
                self._is_changed = True

    def save(self) -> None:
        """Replace the file as a whole, where something has changed."""
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
    """What an earlier session wrote; nothing that could not be a topic of a camera."""
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

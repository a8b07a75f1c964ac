"""Keeps what the page shows: the newest message of every topic, the last events, and the last warnings of the log."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import orjson

from agent.mqtt.base import LineStatistics, Packet, SinkListener, SinkState, SinkStatistics
from agent.mqtt.topics import Topics
from agent.runtime.clock import Clock

MAX_TOPICS = 4096
"""More than a configuration has; the topic that has been silent longest goes first."""
MAX_EVENTS = 200
MAX_LOG = 200
MAX_CHANGES = 50
"""Last changes of engines that `runtime` reported."""
MAX_LATENCIES = 180
"""Fifteen minutes of the `latency` message, which comes every five seconds."""
_JSON = "application/json"


@dataclass(frozen=True, slots=True)
class FeedPart:
    """What has come since ``version`` of an earlier part; ``messages`` by topic below the device's root.

    All hold encoded JSON objects, oldest first; ``changes`` those of engines.
    """

    version: int
    messages: Mapping[str, bytes]
    events: tuple[bytes, ...]
    latencies: tuple[bytes, ...]
    log: tuple[bytes, ...]
    changes: tuple[bytes, ...]


class PageFeed:
    """A sink of the publisher, which shows it every packet. ``send`` runs on the publisher's thread, and stores a
    reference; all else may be called on any thread."""

    def __init__(self, topics: Topics, clock: Clock) -> None:
        self._root = f"{topics.root}/"
        self._clock = clock
        self._since_utc_ns = clock.utc_ns()
        self._lock = threading.Lock()
        self._version = 0
        self._messages: OrderedDict[str, tuple[int, bytes]] = OrderedDict()
        self._events: deque[tuple[int, bytes]] = deque(maxlen=MAX_EVENTS)
        self._latencies: deque[tuple[int, bytes]] = deque(maxlen=MAX_LATENCIES)
        self._log: deque[tuple[int, bytes]] = deque(maxlen=MAX_LOG)
        self._changes: deque[tuple[int, bytes]] = deque(maxlen=MAX_CHANGES)
        self._waiting: dict[str, Callable[[bytes], None]] = {}

    def start(self, listener: SinkListener) -> None:
        """See Sink."""
        listener.on_connected()

    def send(self, packet: Packet, key: int | None = None) -> str | None:  # noqa: ARG002 - nothing is confirmed
        """See Sink."""
        if packet.content_type != _JSON or not packet.topic.startswith(self._root):
            return None
        topic = packet.topic[len(self._root) :]
        with self._lock:
            self._version += 1
            if topic.startswith("reply/"):
                waiting = self._waiting_for(packet.payload)
            else:
                waiting = None
                self._keep(topic, packet.payload)
        if waiting is not None:
            waiting(packet.payload)
        return None

    def _keep(self, topic: str, payload: bytes) -> None:
        if topic.endswith("/event"):
            self._events.append((self._version, payload))
            return
        if topic == "latency":
            self._latencies.append((self._version, payload))
        if topic == "runtime":
            self._remember_change(payload)
        # A topic that was cleared is null on the page.
        self._messages[topic] = (self._version, payload or b"null")
        self._messages.move_to_end(topic)
        if len(self._messages) > MAX_TOPICS:
            self._messages.popitem(last=False)

    def _remember_change(self, payload: bytes) -> None:
        runtime = orjson.loads(payload or b"{}")
        text = runtime.get("changed")
        last = orjson.loads(self._changes[-1][1]) if self._changes else {}
        # It is repeated with every later `runtime` of the connection.
        if text is not None and text != last.get("changed"):
            self._changes.append((self._version, orjson.dumps({"at": runtime["at"], "changed": text})))

    def _waiting_for(self, payload: bytes) -> Callable[[bytes], None] | None:
        """Who waits for this reply; replies are parsed only while somebody waits for one."""
        return self._waiting.pop(orjson.loads(payload).get("id"), None) if self._waiting else None

    def stop(self, timeout_s: float) -> bool:  # noqa: ARG002 - nothing here blocks
        """See Sink."""
        return True

    def statistics(self) -> SinkStatistics:
        """See Sink."""
        state: SinkState = "connected"
        return SinkStatistics(state, "page", None, self._since_utc_ns, None, 0, 0)

    def line(self) -> LineStatistics:
        """See Sink."""
        return LineStatistics(None, 0)

    def log(self, record: Mapping[str, object]) -> None:
        """Keep a warning or an error of the log, whose texts are free of credentials. Any thread."""
        line = orjson.dumps(dict(record), default=str, option=orjson.OPT_NON_STR_KEYS)
        with self._lock:
            self._version += 1
            self._log.append((self._version, line))

    def expect(self, request: str, on_reply: Callable[[bytes], None]) -> None:
        """Call ``on_reply`` once, on the publisher's thread, with the reply to the command with id ``request``."""
        with self._lock:
            self._waiting[request] = on_reply

    def forget(self, request: str) -> None:
        """Take an ``expect`` back."""
        with self._lock:
            self._waiting.pop(request, None)

    @property
    def version(self) -> int:
        """Grows with everything that comes."""
        return self._version

    def since(self, version: int) -> FeedPart:
        """What has come after ``version``; 0 is everything that is kept."""
        with self._lock:
            messages: dict[str, bytes] = {}
            for topic, (at, payload) in reversed(self._messages.items()):
                if at <= version:
                    break
                messages[topic] = payload
            return FeedPart(
                self._version,
                messages,
                *(
                    tuple(one for at, one in kept if at > version)
                    for kept in (self._events, self._latencies, self._log, self._changes)
                ),
            )


def encoded(part: FeedPart) -> bytes:
    """``part`` as one JSON object, without decoding what it holds."""
    messages = b",".join(orjson.dumps(topic) + b":" + payload for topic, payload in part.messages.items())
    lists = (("events", part.events), ("latencies", part.latencies), ("log", part.log), ("changes", part.changes))
    named = b"".join(b',"%s":[%s]' % (name.encode(), b",".join(ones)) for name, ones in lists)
    return b'{"now":%d,"messages":{%s}%s}' % (round(time.time() * 1000), messages, named)

"""Whether commands arrive: the client publishes a probe on each of its command topics and waits to receive it.

An access list can accept a subscription and then deliver nothing, and no packet of MQTT says so.

    subscribed ──► probes sent ──► confirmed ──► all received: quiet
                       │              └─ one not received within 5 s: said once, tried again every minute
                       └─ refused by the broker (MQTT 5): not known, quiet
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

from agent.mqtt.base import Packet, Received
from agent.runtime.clock import Clock
from agent.runtime.logs import get_logger

WITHIN_S = 5.0
AGAIN_S = 60.0
_START, _END = b'{"loopback":"', b'"}'
_MAX_BYTES = 64

log = get_logger(__name__)

Send = Callable[[Packet, int], str | None]


def probe_payload(token: str) -> bytes:
    """What a probe with ``token`` (hexadecimal digits) carries."""
    return _START + token.encode() + _END


def is_probe(payload: bytes) -> bool:
    """Whether a message on a command topic is a probe, of this client or of `agent doctor`, and no command."""
    return len(payload) <= _MAX_BYTES and payload.startswith(_START) and payload.endswith(_END)


class Loopback:
    """The probes of one client. Used on the connection's thread; ``problems`` may be read by any."""

    def __init__(self, topics: Sequence[str], clock: Clock) -> None:
        """``topics``: those on which commands come, each of them subscribed to by its name."""
        self._topics = tuple(topics)
        self._clock = clock
        self._token = ""
        self._outstanding: dict[int, str] = {}
        """Topics whose probe was not received yet, by its key, which is negative."""
        self._unconfirmed: set[int] = set()
        self._due_ns: int | None = None
        self._judged = True
        self._closing: set[str] = set()
        """Brokers that closed the connection on a probe, as some do on a topic that they refuse."""
        self._refused: str | None = None
        self._silent: tuple[str, ...] = ()
        self._is_known = threading.Event()

    def wait_known(self, timeout_s: float) -> bool:
        """Wait until ``problems`` has the result of the first probes, or there are none; False after ``timeout_s``."""
        return not self._topics or self._is_known.wait(timeout_s)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why commands do not arrive, in sentences for people; empty if nothing is known against it."""
        found = [] if self._refused is None else [f"the broker refused to subscribe: {self._refused}"]
        if self._silent:
            found.append(silent_text(self._silent))
        return tuple(found)

    def subscribed(self, refused: str | None, broker: str) -> None:
        """The broker at this address answered the subscriptions; ``refused`` names those that it did not accept."""
        # Other subscriptions of this client, such as to a birth message, are not commands.
        self._refused = refused if refused and any(repr(topic) in refused for topic in self._topics) else None
        is_useful = bool(self._topics) and self._refused is None and broker not in self._closing
        self._due_ns = self._clock.monotonic_ns() if is_useful else None
        if not is_useful:
            self._is_known.set()

    def turn(self, send: Send) -> None:
        """Send the probes or judge them, if it is time. Called about twice a second while there is a connection."""
        now_ns = self._clock.monotonic_ns()
        if self._due_ns is None:
            return
        are_all_answered = not self._judged and not self._outstanding
        if now_ns < self._due_ns and not are_all_answered:
            return
        if self._unconfirmed:  # a slow line or broker: a probe that is still under way is not lost
            self._due_ns = now_ns + int(WITHIN_S * 1e9)
        elif self._judged:
            self._send(send)
            self._due_ns = now_ns + int(WITHIN_S * 1e9)
        else:
            self._judge(tuple(self._outstanding.values()))
            self._due_ns = now_ns + int(AGAIN_S * 1e9) if self._silent else None

    def is_own(self, message: Received) -> bool:
        """Whether ``message`` is a probe, which is no command; one of this client's is noted as received."""
        if message.topic not in self._topics or not is_probe(message.payload):
            return False
        if message.payload == probe_payload(self._token):
            self._drop(message.topic)
        return True

    def confirmed(self, key: int, problem: str | None) -> None:
        """The broker answered a probe; a refusal to publish there says nothing of what can be received."""
        self._unconfirmed.discard(key)
        if problem is not None:
            self._outstanding.pop(key, None)

    def ended(self, broker: str) -> None:
        """The connection to the broker at this address ended."""
        if self._unconfirmed:
            self._closing.add(broker)
        self._outstanding.clear()
        self._unconfirmed.clear()
        self._due_ns, self._judged = None, True

    def _send(self, send: Send) -> None:
        self._token = secrets.token_hex(8)
        self._judged = False
        self._outstanding.clear()
        for number, topic in enumerate(self._topics, 1):
            packet = Packet(topic, probe_payload(self._token), 1, expiry_s=int(WITHIN_S))
            self._outstanding[-number] = topic
            self._unconfirmed.add(-number)
            if send(packet, -number) is not None:  # no room on the line, or too large: not tried
                self._outstanding.pop(-number, None)
                self._unconfirmed.discard(-number)

    def _drop(self, topic: str) -> None:
        for key in [key for key, one in self._outstanding.items() if one == topic]:
            del self._outstanding[key]
            self._unconfirmed.discard(key)

    def _judge(self, silent: tuple[str, ...]) -> None:
        self._judged = True
        before, self._silent = self._silent, silent
        self._is_known.set()
        if silent and silent != before:
            log.warning("broker.commands_silent", problem=silent_text(silent))
        if before and not silent:
            log.info("broker.commands_heard", topics=list(self._topics))


def silent_text(topics: Sequence[str]) -> str:
    """What is wrong if nothing comes back from ``topics``, at least one, and what to do."""
    shown = ", ".join(topics[:3]) + (f" and {len(topics) - 3} more" if len(topics) > 3 else "")
    return (
        f"commands do not arrive: the broker accepted the subscription to {shown}, but delivers nothing that this "
        f"agent publishes there; allow its user to read and write {topics[0].rsplit('/', 1)[0]}/# in the broker's "
        "access list"
    )

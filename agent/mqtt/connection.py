"""One MQTT connection from CONNECT to its end. The only file that imports paho.

Every connection has its own paho client, so no queue, packet id or certificate of an earlier one is left over. The
network loop runs here, on the caller's thread: in paho's own thread an exception in a callback ends the thread
silently while the client still reports a connection.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import Literal, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt.base import Packet
from agent.mqtt.diagnosis import (
    SESSION_TAKEN_OVER,
    Ending,
    EndKind,
    LibraryLog,
    ending_from_exception,
    ending_from_refusal,
    ending_from_silence,
)
from agent.mqtt.settings import MqttSettings
from agent.mqtt.transport import ByteStream, open_transport
from agent.runtime.errors import AgentError
from agent.runtime.secrets import redact

Version = Literal["5", "3.1.1"]

MAX_UNCONFIRMED = 1000
"""Packets sent and not yet confirmed; more are refused as ``backlog``."""

INFLIGHT = 20
"""QoS 1 packets that may wait for the broker at once; more are slower (measured with mosquitto: 15.0k/s at 20, 10.3k/s
at 200)."""

_HEADER_BYTES = 64
"""Upper bound of what MQTT adds to topic, payload and correlation data."""

_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)
"""Source: MQTT Version 5.0, section 3.14.2.1."""

_PUBLISH_PROBLEMS = {0x87: "not_authorised", 0x97: "quota_exceeded", 0x95: "oversize", 0x90: "topic_refused"}


@dataclass(frozen=True, slots=True)
class Received:
    """One received message; ``response_topic`` and ``correlation`` exist in MQTT 5 only."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    response_topic: str | None = None
    correlation: bytes | None = None


class ConnectionState(str, Enum):
    """Where one connection is; it passes each state at most once.

        new ──► opening ──► established ──► closing ──► ended
                   │  CONNACK    │           DISCONNECT   ▲
                   └─────────────┴──────── network ───────┘

    ``end`` moves every state but ``ended`` to ``closing``.
    """

    NEW = "new"
    OPENING = "opening"
    ESTABLISHED = "established"
    CLOSING = "closing"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class Granted:
    """Limits from the broker's CONNACK; the defaults apply if it names none."""

    max_packet_bytes: int | None = None
    max_qos: int = 1
    may_retain: bool = True
    receive_maximum: int = MAX_UNCONFIRMED


class ConnectionListener(Protocol):
    """Called on the thread that runs the connection."""

    def on_granted(self, version: Version) -> None:
        """The broker accepted the connection."""
        ...

    def on_subscribed(self, problem: str | None) -> None:
        """The broker answered the subscriptions; ``problem`` names the refused ones."""
        ...

    def on_confirmed(self, key: int, problem: str | None) -> None:
        """See SinkListener."""
        ...

    def on_received(self, message: Received) -> None:
        """A message on one of the subscriptions arrived."""
        ...


class Connection:
    """``run`` blocks until the connection has ended; other threads may call ``send`` and ``end``."""

    def __init__(
        self,
        settings: MqttSettings,
        listener: ConnectionListener,
        *,
        version: Version,
        will: Packet | None = None,
        subscriptions: Sequence[str] = (),
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._version: Version = version
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._client: paho.Client | None = None
        self._lock = threading.Lock()
        self._unconfirmed: dict[int, tuple[int | None, int]] = {}
        self._unacknowledged = 0
        self._acknowledged: deque[tuple[int, str | None]] = deque()
        self._state = ConnectionState.NEW
        self._granted: Granted | None = None
        self._ending: Ending | None = None
        self._library_log = LibraryLog()
        self._wake_pair: tuple[socket.socket, socket.socket] | None = None
        self._heard_at = 0.0
        self._leaves_for: str | None = None

    def run(self) -> Ending:
        """Connect, serve the connection until it breaks or ``end`` is called, and return how it ended."""
        with self._lock:
            if self._state is not ConnectionState.NEW:
                return Ending("stopped", "stopped")
            self._state = ConnectionState.OPENING
        try:
            waiting, waking = socket.socketpair()
        except OSError as exc:  # no file descriptors left; the next attempt may succeed
            return Ending("network", f"cannot connect to {self._settings.address}: {exc.strerror}")
        with waiting, waking:
            for end in (waiting, waking):
                end.setblocking(False)  # noqa: FBT003 (the library's signature)
            self._wake_pair = (waiting, waking)
            try:
                client = self._open()
                if isinstance(client, Ending):
                    return client
                try:
                    self._serve(client, waiting)
                finally:
                    self._release(client)
                return self._ending or self._lost(None)
            finally:
                with self._lock:
                    self._state = ConnectionState.ENDED
                    self._client = None
                    self._wake_pair = None

    def send(self, packet: Packet, key: int | None = None) -> str | None:
        """Queue ``packet`` and return None, or why it is refused: ``disconnected``, ``backlog``, ``oversize``."""
        # The lock spans publish and recording its packet id: the confirmation may arrive before publish returns.
        # paho's callbacks only append to a deque and never take this lock. They run while paho holds the lock that
        # publish needs, so taking this one would deadlock.
        with self._lock:
            client, granted = self._client, self._granted
            if client is None or granted is None or self._state is not ConnectionState.ESTABLISHED:
                return "disconnected"
            qos = min(packet.qos, granted.max_qos)
            if len(self._unconfirmed) >= MAX_UNCONFIRMED or (qos and self._unacknowledged >= granted.receive_maximum):
                return "backlog"
            size = len(packet.topic.encode()) + len(packet.payload) + len(packet.correlation or b"") + _HEADER_BYTES
            if granted.max_packet_bytes is not None and size > granted.max_packet_bytes:
                return "oversize"
            info = client.publish(
                packet.topic,
                packet.payload,
                qos=qos,
                retain=packet.retain and granted.may_retain,
                properties=self._publish_properties(packet),
            )
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return "backlog" if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else "disconnected"
            self._unconfirmed[info.mid] = (key, qos)
            self._unacknowledged += qos
        return None

    def end(self) -> None:
        """Disconnect without the last will. Returns at once; ``run`` returns soon after."""
        with self._lock:
            if self._state is not ConnectionState.ENDED:
                self._state = ConnectionState.CLOSING
        self._wake()

    def leave(self, reason: str) -> None:
        """End an established connection so that the broker sends the last will. Returns at once."""
        with self._lock:
            if self._state is not ConnectionState.ESTABLISHED:
                return
            self._leaves_for = reason
            self._state = ConnectionState.CLOSING
        self._wake()

    @property
    def unconfirmed(self) -> int:
        """Number of packets sent and not yet confirmed."""
        return len(self._unconfirmed)

    def _open(self) -> paho.Client | Ending:
        settings = self._settings
        try:
            client = self._make_client()
        except AgentError as exc:
            return ending_from_exception(exc, settings)
        try:
            # Host and port are not used: the socket comes from the transport.
            client.connect("broker", 1, keepalive=settings.keepalive_s)
        except (AgentError, OSError, ValueError) as exc:  # ValueError: an impossible host name or port
            self._release(client)
            return ending_from_exception(exc, settings)
        with self._lock:
            if self._state is ConnectionState.CLOSING:
                # Sending CONNECT now would make the broker drop the next connection of this client id.
                self._release(client)
                return Ending("stopped", "stopped")
            self._client = client
        return client

    def _make_client(self) -> paho.Client:
        settings = self._settings
        client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=paho.MQTTv5 if self._version == "5" else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        password = settings.credentials.password()
        if settings.credentials.username is not None:
            client.username_pw_set(settings.credentials.username, None if password is None else password.reveal())
        client.make_socket = lambda: open_transport(settings)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=self._will.qos, retain=self._will.retain)
        client.max_inflight_messages_set(INFLIGHT)
        client.max_queued_messages_set(MAX_UNCONFIRMED)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.enable_logger(self._library_log.logger())
        # With this callback set paho leaves all writing to our loop. Two threads that write to one socket can tear a
        # packet apart.
        client.on_socket_register_write = lambda *_: self._wake()
        client.on_socket_unregister_write = lambda *_: None
        return client

    def _serve(self, client: paho.Client, waiting: socket.socket) -> None:
        settings = self._settings
        self._heard_at = time.monotonic()
        answer_by = self._heard_at + settings.connect_timeout_s
        pause_s = min(0.5, settings.keepalive_s / 4)
        leave_by: float | None = None
        while self._ending is None and (sock := client.socket()) is not None:
            if self._granted is None and time.monotonic() > answer_by:
                self._ending = Ending(
                    "mute",
                    f"{settings.address} accepted the connection and did not answer CONNECT within "
                    f"{settings.connect_timeout_s:g} s",
                )
                return
            if self._state is ConnectionState.CLOSING and leave_by is None:
                # DISCONNECT still has to be written by this loop, so it runs on for a second at most.
                leave_by = time.monotonic() + 1.0
                if self._leaves_for is not None and self._version != "5":
                    break  # 3.1.1 has no DISCONNECT with the last will
                client.disconnect(reasoncode=None if self._leaves_for is None else _WITH_WILL)
            if leave_by is not None and time.monotonic() > leave_by:
                break
            self._exchange(client, sock, waiting, pause_s)
            self._notice_silence(client)
            self._settle()
        if self._state is ConnectionState.CLOSING and self._ending is None:
            kind: EndKind = "stopped" if self._leaves_for is None else "left"
            self._ending = Ending(kind, self._leaves_for or "stopped", was_granted=self._granted is not None)

    def _exchange(self, client: paho.Client, sock: paho.SocketLike, waiting: socket.socket, pause_s: float) -> None:
        """Wait for the network or for ``send``, then read and write."""
        wanted = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        poll = select.poll()
        poll.register(sock.fileno(), wanted)
        poll.register(waiting.fileno(), select.POLLIN)
        # TLS may hold decrypted bytes that poll() does not see.
        has_decrypted = hasattr(sock, "pending") and sock.pending() > 0
        ready = dict(poll.poll(0 if has_decrypted else pause_s * 1000))
        if waiting.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                waiting.recv(4096)
        events = ready.get(sock.fileno(), 0)
        if has_decrypted or events & ~select.POLLOUT:
            self._heard_at = time.monotonic()
            client.loop_read()
        if client.socket() is not None and client.want_write():
            client.loop_write()
        if client.socket() is not None:
            client.loop_misc()

    def _notice_silence(self, client: paho.Client) -> None:
        """End a silent connection. paho pings after one keepalive and disconnects after two, plus a loop's pause."""
        if (
            self._granted is not None
            and self._ending is None
            and time.monotonic() - self._heard_at > 1.8 * client.keepalive
        ):
            self._ending = self._lost(f"no answer within twice the keepalive of {client.keepalive} s")

    def _settle(self) -> None:
        """Report confirmations to the listener, outside paho's callbacks and outside the lock."""
        while self._acknowledged:
            mid, problem = self._acknowledged.popleft()
            with self._lock:
                key, qos = self._unconfirmed.pop(mid, (None, 0))
                self._unacknowledged -= qos
            if key is not None:
                self._listener.on_confirmed(key, problem)

    def _release(self, client: paho.Client) -> None:
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _wake(self) -> None:
        pair = self._wake_pair
        if pair is not None:
            with contextlib.suppress(OSError):  # full: the loop will wake anyway; closed: the loop has ended
                pair[1].send(b"\0")

    def _publish_properties(self, packet: Packet) -> Properties | None:
        if self._version != "5":
            return None
        if packet.correlation is None:
            return _cached_properties(packet.content_type, packet.expiry_s)
        properties = _properties(packet.content_type, packet.expiry_s)
        properties.CorrelationData = packet.correlation
        return properties

    def _lost(self, why: str | None) -> Ending:
        if self._granted is None:
            return ending_from_silence(self._settings, self._library_log.text)
        detail = why or self._library_log.text
        if detail is None:
            return Ending(
                "closed", f"{self._settings.address} closed the connection without a reason", was_granted=True
            )
        return Ending("lost", redact(f"lost the connection to {self._settings.address}: {detail}"), was_granted=True)

    def _on_connect(
        self,
        client: paho.Client,
        _data: object,
        _flags: paho.ConnectFlags,
        code: ReasonCode,
        granted: Properties | None,
    ) -> None:
        if code.is_failure:
            self._ending = ending_from_refusal(code.value, str(code), self._settings)
            return
        with self._lock:
            self._granted = _granted_by(granted)
            if self._state is ConnectionState.OPENING:
                self._state = ConnectionState.ESTABLISHED
        self._listener.on_granted(self._version)
        if self._subscriptions:
            client.subscribe([(topic, 1) for topic in self._subscriptions])

    def _on_disconnect(
        self,
        _client: paho.Client,
        _data: object,
        flags: paho.DisconnectFlags,
        code: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        # paho calls this twice for a broker that stopped answering: the first reason stands.
        if self._ending is not None or self._state is ConnectionState.CLOSING:
            return
        if flags.is_disconnect_packet_from_server and code.value == SESSION_TAKEN_OVER:
            self._ending = Ending(
                "takeover",
                f"another client connected to {self._settings.address} as {self._settings.client_id!r}",
                was_granted=self._granted is not None,
            )
            return
        name = str(code)
        if flags.is_disconnect_packet_from_server:
            why: str | None = f"the broker closed it: {name.lower()}"
        elif name == "Keep alive timeout":
            why = f"no answer within twice the keepalive of {self._settings.keepalive_s} s"
        else:
            why = None
        self._ending = self._lost(why)

    def _on_publish(
        self, _client: paho.Client, _data: object, mid: int, code: ReasonCode, _properties: Properties
    ) -> None:
        problem = _PUBLISH_PROBLEMS.get(code.value, "refused") if code.is_failure else None
        self._acknowledged.append((mid, problem))

    def _on_subscribe(
        self, _client: paho.Client, _data: object, _mid: int, codes: list[ReasonCode], _properties: Properties | None
    ) -> None:
        refused = [
            f"{topic!r}: {str(code).lower()}"
            for topic, code in zip(self._subscriptions, codes, strict=False)
            if code.is_failure
        ]
        self._listener.on_subscribed("; ".join(refused) or None)

    def _on_message(self, _client: paho.Client, _data: object, message: paho.MQTTMessage) -> None:
        properties = message.properties
        self._listener.on_received(
            Received(
                topic=message.topic,
                payload=bytes(message.payload),
                qos=message.qos,
                retain=message.retain,
                response_topic=getattr(properties, "ResponseTopic", None),
                correlation=getattr(properties, "CorrelationData", None),
            )
        )


class _Client(paho.Client):
    """paho's client with a socket of our own: its proxies come from the environment, its WebSocket sends frames that
    servers must refuse (unmasked replies to a ping, RFC 6455, section 5.1), and a refusal has no reason."""

    make_socket: Callable[[], ByteStream]

    def _create_socket(self) -> ByteStream:
        return self.make_socket()


def _granted_by(properties: Properties | None) -> Granted:
    """The limits from the CONNACK of an MQTT 5 broker."""
    maximum = getattr(properties, "ReceiveMaximum", 65535)
    return Granted(
        max_packet_bytes=getattr(properties, "MaximumPacketSize", None),
        max_qos=min(1, getattr(properties, "MaximumQoS", 1)),
        may_retain=bool(getattr(properties, "RetainAvailable", 1)),
        # paho limits itself to INFLIGHT and cannot change that once it is connected.
        receive_maximum=maximum if maximum < INFLIGHT else MAX_UNCONFIRMED,
    )


class _PackedProperties(Properties):
    """Constant properties, packed once: packing them for each message takes longer than the rest of publish."""

    def __init__(self, properties: Properties) -> None:
        object.__setattr__(self, "_packed", properties.pack())  # type: ignore[no-untyped-call]  # paho leaves it untyped

    def pack(self) -> bytes:
        """The bytes for the packet."""
        packed: bytes = object.__getattribute__(self, "_packed")
        return packed


def _properties(content_type: str, expiry_s: int | None) -> Properties:
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    properties.ContentType = content_type
    if expiry_s is not None:
        properties.MessageExpiryInterval = expiry_s
    return properties


@lru_cache(maxsize=16)
def _cached_properties(content_type: str, expiry_s: int | None) -> Properties:
    return _PackedProperties(_properties(content_type, expiry_s))

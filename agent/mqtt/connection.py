"""One MQTT connection from CONNECT to its end.

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
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.reasoncodes import ReasonCode

from agent.mqtt.attempts import Version
from agent.mqtt.base import PROBLEMS, LineStatistics, Packet, Received
from agent.mqtt.diagnosis import (
    Ending,
    EndKind,
    LibraryLog,
    ending_from_disconnect,
    ending_from_exception,
    ending_from_refusal,
    ending_from_silence,
    reason_name,
)
from agent.mqtt.grants import Granted, granted_from_properties
from agent.mqtt.network.line import Line, unsent_bytes
from agent.mqtt.network.packet_client import NetworkClient, connect_properties, packet_bytes, publish_properties
from agent.mqtt.network.transport import open_transport
from agent.mqtt.network.wire import Inlet, ProtocolViolation, Value
from agent.mqtt.settings import MqttSettings
from agent.mqtt.unconfirmed import INFLIGHT, MAX_UNCONFIRMED, Unconfirmed
from agent.runtime.errors import AgentError
from agent.runtime.secrets import redact

_MAX_PACKET_BYTES = 2**28  # Source: MQTT Version 5.0, section 2.1.4
_READS_PER_TURN = 8
_OBSERVE_EVERY_S = 0.02
_REFUSED = 0x80
_WITH_WILL = ReasonCode(PacketTypes.DISCONNECT, identifier=0x04)
"""Source: MQTT Version 5.0, section 3.14.2.1."""


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


class ConnectionListener(Protocol):
    """Called on the thread that runs the connection."""

    def on_granted(self, version: Version, granted: Granted) -> None:
        """The broker accepted the connection with these limits."""
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

    def on_rejected(self, counts: Mapping[str, int]) -> None:
        """So many more messages were dropped on arrival, by reason."""
        ...

    def on_turn(self) -> None:
        """Called at least twice a second while the network is served; may send."""
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
        line: Line | None = None,
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._version: Version = version
        self._will = will
        self._subscriptions = tuple(subscriptions)
        self._client: NetworkClient | None = None
        self._lock = threading.Lock()
        self._unconfirmed = Unconfirmed(self._lock, confirm_within_s=settings.confirm_within_s)
        self._state = ConnectionState.NEW
        self._offered = Granted()
        self._granted: Granted | None = None
        self._ending: Ending | None = None
        self._library_log = LibraryLog()
        self._wake_pair: tuple[socket.socket, socket.socket] | None = None
        self._heard_at = 0.0
        self._line = line or Line()
        self._inlet = Inlet(
            self,
            is_v5=version == "5",
            max_packet_bytes=settings.max_packet_bytes,
            max_per_s=settings.max_received_per_s,
        )
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
        with self._lock:
            client, granted = self._client, self._granted
            if client is None or granted is None or self._state is not ConnectionState.ESTABLISHED:
                return "disconnected"
            qos = min(packet.qos, granted.max_qos)
            if not self._unconfirmed.has_room(qos, granted.receive_maximum):
                return "backlog"
            properties = publish_properties(packet) if self._version == "5" else None
            size = packet_bytes(packet, qos, properties)
            if size > (granted.max_packet_bytes or _MAX_PACKET_BYTES):
                return "oversize"
            if not self._line.has_room(size, qos):
                self._wake()  # the room may be there already
                return "backlog"
            retain = packet.retain and granted.may_retain
            info = client.publish(packet.topic, packet.payload, qos=qos, retain=retain, properties=properties)
            if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
                return "backlog" if info.rc == MQTTErrorCode.MQTT_ERR_QUEUE_SIZE else "disconnected"
            self._unconfirmed.add(info.mid, key, qos, self._line.accept(size, time.monotonic()))
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

    def line(self) -> LineStatistics:
        """See Sink."""
        return LineStatistics(self._line.bytes_per_s, self._line.waiting)

    def _open(self) -> NetworkClient | Ending:
        settings = self._settings
        try:
            client = self._make_client()
        except AgentError as exc:
            return ending_from_exception(exc, settings)
        try:
            # Host and port are not used: the socket comes from the transport.
            client.connect(
                "broker",
                1,
                keepalive=settings.keepalive_s,
                properties=connect_properties(settings.max_packet_bytes) if self._version == "5" else None,
            )
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

    def _make_client(self) -> NetworkClient:
        settings = self._settings
        client = NetworkClient(
            self._inlet,
            self._line,
            lambda: open_transport(settings),
            CallbackAPIVersion.VERSION2,
            client_id=settings.client_id,
            protocol=paho.MQTTv5 if self._version == "5" else paho.MQTTv311,
            reconnect_on_failure=False,
        )
        password = settings.credentials.password()
        if settings.credentials.username is not None:
            client.username_pw_set(settings.credentials.username, None if password is None else password.reveal())
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=self._will.qos, retain=self._will.retain)
        client.max_inflight_messages_set(INFLIGHT)
        client.max_queued_messages_set(MAX_UNCONFIRMED)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.enable_logger(self._library_log.logger())
        # With this callback set paho leaves all writing to our loop. Two threads that write to one socket can tear a
        # packet apart.
        client.on_socket_register_write = lambda *_: self._wake()
        client.on_socket_unregister_write = lambda *_: None
        return client

    def _serve(self, client: NetworkClient, waiting: socket.socket) -> None:
        settings = self._settings
        self._heard_at = time.monotonic()
        self._line.start(self._heard_at)
        answer_by = self._heard_at + settings.connect_timeout_s
        pause_s = min(0.5, settings.keepalive_s / 4)
        leave_by: float | None = None
        while self._ending is None and (sock := client.socket()) is not None:
            if self._granted is None and time.monotonic() > answer_by:
                self._ending = Ending(
                    "mute",
                    f"{settings.address} accepted the connection and did not answer CONNECT within "
                    f"{round(settings.connect_timeout_s, 1):g} s",
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
            self._exchange(client, sock, waiting, min(pause_s, _OBSERVE_EVERY_S) if self._line.waiting else pause_s)
            self._settle()
            self._listener.on_turn()
            self._notice_silence(client)
            self._notice_stall()
        if self._state is ConnectionState.CLOSING and self._ending is None:
            kind: EndKind = "stopped" if self._leaves_for is None else "left"
            self._ending = Ending(kind, self._leaves_for or "stopped", was_granted=self._granted is not None)

    def _exchange(self, client: NetworkClient, sock: paho.SocketLike, waiting: socket.socket, pause_s: float) -> None:
        """Wait for the network or for ``send``, then read and write."""
        wanted = select.POLLIN | (select.POLLOUT if client.want_write() else 0)
        poll = select.poll()
        poll.register(sock.fileno(), wanted)
        poll.register(waiting.fileno(), select.POLLIN)
        # Bytes that poll() does not see: TLS may hold decrypted ones, and a turn reads only so much.
        has_more = self._inlet.has_more or (hasattr(sock, "pending") and sock.pending() > 0)
        ready = dict(poll.poll(0 if has_more else pause_s * 1000))
        if waiting.fileno() in ready:
            with contextlib.suppress(BlockingIOError):
                waiting.recv(4096)
        events = ready.get(sock.fileno(), 0)
        if has_more or events & ~select.POLLOUT:
            self._read(client)
        if client.socket() is not None and client.want_write():
            client.loop_write()
        if client.socket() is not None:
            client.loop_misc()
            if (open_socket := client.socket()) is not None:
                self._line.observe(unsent_bytes(open_socket.fileno()), time.monotonic())

    def _read(self, client: NetworkClient) -> None:
        """Read for one turn. A flood is read in portions, so confirmations, pings and packets to send have theirs."""
        self._heard_at = time.monotonic()
        try:
            for _ in range(_READS_PER_TURN):
                client.loop_read()
                if self._ending is not None or client.socket() is None or not self._inlet.has_more:
                    break
        except ProtocolViolation as exc:
            self._ending = Ending(
                "violation",
                f"{self._settings.address} broke the protocol: {exc}",
                was_granted=self._granted is not None,
            )
        if self._inlet.rejected:
            self._listener.on_rejected(self._inlet.rejected)
            self._inlet.rejected.clear()

    def _notice_silence(self, client: NetworkClient) -> None:
        """End a silent connection. paho pings after one keepalive and disconnects after two, plus a loop's pause."""
        if (
            self._granted is not None
            and self._ending is None
            and time.monotonic() - self._heard_at > 1.8 * client.keepalive
        ):
            self._ending = self._lost(f"no answer within twice the keepalive of {client.keepalive} s")

    def _notice_stall(self) -> None:
        """End a connection on which the broker no longer confirms what it was sent."""
        overdue = self._unconfirmed.overdue(self._line.position, time.monotonic())
        if overdue is not None and self._ending is None:
            waits_s, count = overdue
            self._ending = Ending(
                "no_confirmations",
                f"no_confirmations: {self._settings.address} did not confirm a packet within {waits_s:.0f} s, {count} "
                "wait; they are sent again on the next connection",
                was_granted=True,
            )

    def _settle(self) -> None:
        """Report confirmations to the listener, outside paho's callbacks and outside the lock."""
        for key, problem in self._unconfirmed.settle(time.monotonic()):
            self._listener.on_confirmed(key, problem)

    def _release(self, client: NetworkClient) -> None:
        sock = client.socket()
        if sock is not None:
            sock.close()

    def _wake(self) -> None:
        pair = self._wake_pair
        if pair is not None:
            with contextlib.suppress(OSError):  # full: the loop will wake anyway; closed: the loop has ended
                pair[1].send(b"\0")

    def _lost(self, why: str | None) -> Ending:
        if self._granted is None:
            return ending_from_silence(self._settings, self._library_log.text)
        detail = why or self._library_log.text
        if detail is None:
            return Ending(
                "closed", f"{self._settings.address} closed the connection without a reason", was_granted=True
            )
        return Ending("lost", redact(f"lost the connection to {self._settings.address}: {detail}"), was_granted=True)

    def on_connack(self, code: int, values: Mapping[int, Value]) -> int:
        """See PacketListener."""
        if code:
            self._ending = ending_from_refusal(code, values, self._settings)
        self._offered = granted_from_properties(values)
        return self._offered.keepalive_below(self._settings.keepalive_s)

    def on_suback(self, codes: bytes) -> None:
        """See PacketListener."""
        asked = self._offered.subscriptions(self._subscriptions)
        refused = [
            f"{topic!r}: {reason_name(code)}" for topic, code in zip(asked, codes, strict=False) if code >= _REFUSED
        ]
        self._listener.on_subscribed("; ".join(refused) or None)

    def on_refused(self, packet_id: int, code: int) -> None:
        """See PacketListener."""
        self._unconfirmed.refused(packet_id, PROBLEMS.get(code, "refused"))

    def on_disconnect_packet(self, code: int, values: Mapping[int, Value]) -> None:
        """See PacketListener."""
        if self._ending is None and self._state is not ConnectionState.CLOSING:
            self._ending = ending_from_disconnect(code, values, self._settings, was_granted=self._granted is not None)

    def on_message(self, message: Received) -> None:
        """See PacketListener."""
        self._listener.on_received(message)

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        with self._lock:
            self._granted = self._offered
            if self._state is ConnectionState.OPENING:
                self._state = ConnectionState.ESTABLISHED
        wanted = self._subscriptions
        self._listener.on_granted(self._version, self._granted)
        offered = self._granted.subscriptions(wanted)
        if offered:
            qos: int = self._settings.subscription_qos
            client.subscribe([(topic, qos) for topic in offered])
        elif wanted:
            self._listener.on_subscribed("the broker has no wildcard subscriptions")

    def _on_disconnect(
        self, client: paho.Client, _data: object, _flags: object, code: ReasonCode, _properties: object
    ) -> None:
        # paho calls this twice for a broker that stopped answering: the first reason stands.
        if self._ending is not None or self._state is ConnectionState.CLOSING:
            return
        is_silent = str(code) == "Keep alive timeout"
        self._ending = self._lost(
            f"no answer within twice the keepalive of {client.keepalive} s" if is_silent else None
        )

    def _on_publish(self, _client: paho.Client, _data: object, packet_id: int, *_: object) -> None:
        self._unconfirmed.answered(packet_id)

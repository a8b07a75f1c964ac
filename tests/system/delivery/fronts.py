"""What the agent of a drill connects to: the recording broker, or a real broker behind a proxy that speaks MQTT."""

from __future__ import annotations

import socket
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from types import TracebackType

from paho.mqtt.enums import MQTTProtocolVersion

from tests.fixtures.mqtt_packets import Kind, Properties, Property, Value, encoded_text, packet, publish
from tests.fixtures.recorder import Recorder
from tests.fixtures.recording_broker import RecordingBroker
from tests.fixtures.recording_link import Link
from tests.system.delivery.arrivals import Arrival
from tests.system.delivery.brokers import Broker
from tests.system.delivery.proxy import FaultProxy

COMMAND = "drill/dut/cmd/explain"
_JUNK = b'{"id": "junk'
_GOOD = b'{"id": "strange", "camera": "front"}'
_SENT = [f"drill/dut/{topic}" for topic in ("status", "runtime", "camera/#", "reply/#")]
"""What the recorder of a real broker hears: a flood or a strange text on the command topic would end or choke it."""
_AT_ONCE = 1000
_HUGE_BYTES = 250 * 2**20
_STRANGE: Properties = ((Property.CONTENT_TYPE, "\ufeff"), (Property.USER_PROPERTY, ("\ufeff", "x")))


class Front(ABC):
    """A broker that can misbehave; used in a ``with`` block."""

    name: str
    port: int

    def __init__(self) -> None:
        self._flood: threading.Thread | None = None
        self._is_flooding = threading.Event()

    @property
    @abstractmethod
    def connections(self) -> int:
        """Connections of the agent so far."""

    @abstractmethod
    def arrivals(self) -> list[Arrival]:
        """What was accepted so far, in order."""

    @abstractmethod
    def refuse(self) -> None:
        """Cut the connection, then refuse everything that is published, as with a wrong access list."""

    @abstractmethod
    def withhold(self) -> None:
        """Confirm nothing; what was not confirmed now never is."""

    @abstractmethod
    def poison(self, topic: str) -> None:
        """Answer what is published on ``topic`` by closing the connection."""

    @abstractmethod
    def thin(self, bytes_per_s: float) -> None:
        """Read no faster than this."""

    @abstractmethod
    def command(self, payload: bytes, properties: Properties = ()) -> None:
        """Send a message to the agent's command topic."""

    @abstractmethod
    def strange(self) -> None:
        """Send texts that are no UTF-8, or that some libraries refuse, as far as the broker passes them on."""

    def huge(self) -> None:
        """Send one message of 250 MiB to the command topic."""
        self.command(bytes(_HUGE_BYTES))

    @abstractmethod
    def heal(self) -> None:
        """End every fault."""

    def problems(self) -> list[str]:
        """What the agent did that the broker forbids."""
        return []

    def flood(self, per_s: float) -> None:
        """Send junk to the command topic until ``heal``."""

        def run() -> None:
            began, due = time.monotonic(), 0
            while not self._is_flooding.wait(0.01):
                # What the agent did not take in time is not made up for: the flood ends when it is told to.
                before, due = due, int((time.monotonic() - began) * per_s)
                if not self.junk(min(due - before, _AT_ONCE)):
                    return

        self._is_flooding.clear()
        self._flood = threading.Thread(target=run, name="flood", daemon=True)
        self._flood.start()

    @abstractmethod
    def junk(self, count: int) -> bool:
        """Send ``count`` pieces of junk; False if that is no longer possible."""

    def end_flood(self) -> None:
        """End a flood. Idempotent."""
        self._is_flooding.set()
        if self._flood is not None:
            self._flood.join(15)
            self._flood = None

    @abstractmethod
    def __enter__(self) -> Front: ...

    @abstractmethod
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RecordingFront(Front):
    """The recording broker. ``grants`` are the properties of its CONNACK, ``code`` is that of its refusals."""

    def __init__(self, grants: Mapping[Property, Value], *, code: int = 0x87, version_5: bool = True) -> None:
        super().__init__()
        self.name = "recording" if version_5 else "recording, 3.1.1"
        self.broker = RecordingBroker(receive_buffer_bytes=4096)
        self.broker.grants.update(grants)
        self.broker.version_5 = "accepted" if version_5 else "unknown"
        self.port = self.broker.port
        self._code = code
        self._offset = time.time() - time.monotonic()

    @property
    def connections(self) -> int:
        return len(self.broker.connects)

    def arrivals(self) -> list[Arrival]:
        return [
            Arrival(one.topic, one.payload, one.at + self._offset) for one in self.broker.published(is_accepted=True)
        ]

    def refuse(self) -> None:
        self.broker.refuse("drill/#", self._code)
        self.broker.disconnect()

    def withhold(self) -> None:
        self.broker.is_withholding = True

    def poison(self, topic: str) -> None:
        self.broker.poison = (topic,)

    def thin(self, bytes_per_s: float) -> None:
        self.broker.read_bytes_per_s = bytes_per_s

    def command(self, payload: bytes, properties: Properties = ()) -> None:
        self.broker.send(COMMAND, payload, properties=properties)

    def strange(self) -> None:
        # Also after each SUBACK, as a retained message would come.
        self.broker.greet(b"drill/dut/cmd/\xff", b"{}")
        self.broker.greet(COMMAND, _GOOD, _STRANGE)
        self.broker.send(b"drill/dut/cmd/\xff\xfe", b"{}")
        self.command(_GOOD, _STRANGE)
        self.broker.disconnect()

    def junk(self, count: int) -> bool:
        def many(link: Link) -> bytes:
            return link.message(COMMAND, _JUNK, qos=0, retain=False, properties=()) * count

        return self.broker.send_raw(many) > 0

    def heal(self) -> None:
        self.end_flood()
        self.broker.accept_all()
        self.broker.read_bytes_per_s = None

    def problems(self) -> list[str]:
        return [one for one in self.broker.violations if not one.endswith("poisoned")][:3]

    def __enter__(self) -> RecordingFront:
        self.broker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_flood()
        self.broker.stop()


class RealFront(Front):
    """A real broker behind a proxy. ``set_access`` makes the broker refuse (False) or accept (True) the agent."""

    def __init__(
        self,
        name: str,
        broker: Broker,
        *,
        protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5,
        set_access: Callable[[bool], None] | None = None,
        username: str | None = None,
        password: str | None = None,
    ) -> None:
        super().__init__()
        self.name = name
        self._broker = broker
        self._set_access = set_access
        self._user = (username, password)
        self._protocol = protocol
        self._stack = ExitStack()
        self._offset = time.time() - time.monotonic()

    @property
    def connections(self) -> int:
        return self._proxy.connections

    def arrivals(self) -> list[Arrival]:
        return [Arrival(one.topic, one.payload, one.at + self._offset) for one in self._recorder.messages()]

    def refuse(self) -> None:
        if self._set_access is None:
            raise NotImplementedError(f"{self.name} cannot refuse while it runs")
        self._set_access(False)  # noqa: FBT003 (the callable's only argument)
        self._proxy.reset()

    def withhold(self) -> None:
        self._proxy.is_swallowing = True

    def poison(self, topic: str) -> None:
        self._proxy.poison = topic

    def thin(self, bytes_per_s: float) -> None:
        self._proxy.bytes_per_s = bytes_per_s

    def command(self, payload: bytes, properties: Properties = ()) -> None:
        with self._connected() as sock:
            sock.sendall(publish(COMMAND, payload, packet_id=None, properties=properties if self._is_v5 else None))
            sock.sendall(packet(Kind.DISCONNECT, 0, b""))
            while sock.recv(4096):
                pass

    def strange(self) -> None:
        self.command(_GOOD, _STRANGE)

    def junk(self, count: int) -> bool:
        one = publish(COMMAND, _JUNK, packet_id=None, properties=() if self._is_v5 else None)
        with suppress(OSError):
            self._junk.sendall(one * count)
            return True
        return False

    def flood(self, per_s: float) -> None:
        self._junk = self._stack.enter_context(self._connected())
        super().flood(per_s)

    def heal(self) -> None:
        self.end_flood()
        self._proxy.heal()
        self._proxy.is_swallowing, self._proxy.poison = False, None
        if self._set_access is not None:
            self._set_access(True)  # noqa: FBT003 (the callable's only argument)

    @property
    def _is_v5(self) -> bool:
        return self._protocol is MQTTProtocolVersion.MQTTv5

    def _connected(self) -> socket.socket:
        """A client of our own, by hand; it publishes only."""
        sock = socket.create_connection(("127.0.0.1", self._broker.port), 30)
        level, extra = (b"\x05", b"\0") if self._is_v5 else (b"\x04", b"")
        name, password = self._user
        flags = 2 | (0 if name is None else 0xC0)
        fields = encoded_text("MQTT") + level + bytes([flags]) + b"\0\x3c" + extra + encoded_text("sender")
        if name is not None:
            fields += encoded_text(name) + encoded_text(password or "")
        sock.sendall(packet(Kind.CONNECT, 0, fields))
        head = sock.recv(2)
        answer = sock.recv(head[1], socket.MSG_WAITALL)
        if answer[1]:
            raise RuntimeError(f"{self.name} refused the sender with {answer[1]}")
        return sock

    def __enter__(self) -> RealFront:
        with ExitStack() as stack:
            stack.callback(self._broker.stop)
            self._broker.start()
            self._proxy = stack.enter_context(FaultProxy(self._broker.port, is_mqtt=True))
            self.port = self._proxy.port
            name, password = self._user
            self._recorder = stack.enter_context(
                Recorder(self._broker.port, _SENT, protocol=self._protocol, username=name, password=password)
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end_flood()
        self._stack.close()

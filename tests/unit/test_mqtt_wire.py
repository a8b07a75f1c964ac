"""Whatever the broker sends is read, counted or ends the connection with a reason; paho sees only clean packets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.mqtt.base import Received
from agent.mqtt.network.wire import BURST_S, Inlet, ProtocolViolation, Value
from tests.fixtures.mqtt_packets import Kind, Property, encoded_properties, encoded_text, packet, packets, publish

MAX_BYTES = 1000
BOM = "\ufeff"


class Listener:
    """Records everything."""

    def __init__(self) -> None:
        self.messages: list[Received] = []
        self.connacks: list[tuple[int, dict[int, Value]]] = []
        self.subacks: list[bytes] = []
        self.refused: list[tuple[int, int]] = []
        self.disconnects: list[tuple[int, dict[int, Value]]] = []

    def on_connack(self, code: int, values: Mapping[int, Value]) -> int:
        self.connacks.append((code, dict(values)))
        return 7

    def on_suback(self, codes: bytes) -> None:
        self.subacks.append(codes)

    def on_refused(self, packet_id: int, code: int) -> None:
        self.refused.append((packet_id, code))

    def on_disconnect_packet(self, code: int, values: Mapping[int, Value]) -> None:
        self.disconnects.append((code, dict(values)))

    def on_message(self, message: Received) -> None:
        self.messages.append(message)


class Reading:
    """An inlet that has read ``data`` in portions of ``portion`` bytes; ``passed`` is what paho got."""

    def __init__(
        self, data: bytes, *, is_v5: bool = True, portion: int = 10**6, max_per_s: float | None = None
    ) -> None:
        self.listener = Listener()
        self.inlet = Inlet(self.listener, is_v5=is_v5, max_packet_bytes=MAX_BYTES, max_per_s=max_per_s)
        self.passed = bytearray()
        self.held_bytes = 0
        portions: Iterator[bytes] = (data[at : at + portion] for at in range(0, len(data), portion))
        left = next(portions, None)

        def receive(_size: int) -> bytes:
            nonlocal left
            if left is None:
                raise BlockingIOError
            taken, left = left, next(portions, None)
            return taken

        while True:
            try:
                self.passed += self.inlet.read(3, receive)
            except BlockingIOError:
                if not self.inlet.has_more:
                    break
            self.held_bytes = max(self.held_bytes, len(self.inlet._rest))

    @property
    def rejected(self) -> dict[str, int]:
        return dict(self.inlet.rejected)


def _good(number: int = 0, *, is_v5: bool = True) -> bytes:
    return publish("cmd/set", b"%d" % number, packet_id=None, properties=() if is_v5 else None)


PROPERTIES = (
    (Property.CONTENT_TYPE, f"te{BOM}xt"),
    (Property.USER_PROPERTY, (BOM, "v")),
    (Property.MESSAGE_EXPIRY, 5),
    (Property.SUBSCRIPTION_ID, 300),
    (Property.RESPONSE_TOPIC, f"answer/{BOM}"),
    (Property.CORRELATION, b"\xff\0"),
)


@pytest.mark.parametrize("portion", [1, 7, 10**6])
def test_a_legal_message_is_read_whatever_its_texts_are(portion: int) -> None:
    data = publish(f"cmd/{BOM}", b"body", packet_id=9, retain=True, properties=PROPERTIES)
    reading = Reading(data, portion=portion)
    assert reading.listener.messages == [
        Received(f"cmd/{BOM}", b"body", 1, retain=True, response_topic=f"answer/{BOM}", correlation=b"\xff\0")
    ]
    assert reading.rejected == {}


BAD: dict[str, tuple[bytes, str]] = {
    "a topic that is no UTF-8": (publish(b"cmd/\xff", b"", packet_id=7, properties=()), "invalid_topic"),
    "a lone surrogate": (publish(b"cmd/\xed\xa0\x80", b"", packet_id=7, properties=()), "invalid_topic"),
    "a NUL in the topic": (publish("cmd/\0", b"", packet_id=7, properties=()), "invalid_topic"),
    "an empty topic": (publish("", b"", packet_id=7, properties=()), "invalid_topic"),
    "a wildcard": (publish("cmd/#", b"", packet_id=7, properties=()), "invalid_topic"),
    "a bad content type": (
        publish("t", b"", packet_id=7, properties=[(Property.CONTENT_TYPE, b"\xff")]),
        "invalid_properties",
    ),
    "a NUL in a user property": (
        publish("t", b"", packet_id=7, properties=[(Property.USER_PROPERTY, ("a", "\0"))]),
        "invalid_properties",
    ),
    "a wildcard in the response topic": (
        publish("t", b"", packet_id=7, properties=[(Property.RESPONSE_TOPIC, "a/+")]),
        "invalid_properties",
    ),
    "properties beyond the packet": (packet(3, 2, encoded_text("t") + b"\0\x07" + b"\x09"), "malformed"),
    "an unknown property": (packet(3, 2, encoded_text("t") + b"\0\x07" + b"\x02\x7e\x00"), "malformed"),
    "a text beyond the properties": (packet(3, 2, encoded_text("t") + b"\0\x07\x03\x03\0\x09body"), "malformed"),
    "a topic alias": (packet(3, 2, encoded_text("t") + b"\0\x07\x03\x23\0\x01"), "malformed"),
    "a message above the limit": (publish("t", bytes(MAX_BYTES), packet_id=7, properties=()), "oversize"),
}


@pytest.mark.parametrize("portion", [1, 7, 10**6])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_message_is_counted_and_confirmed_and_the_next_one_is_read(name: str, portion: int) -> None:
    data, reason = BAD[name]
    reading = Reading(data + _good(1), portion=portion)
    assert reading.rejected == {reason: 1}
    assert [message.payload for message in reading.listener.messages] == [b"1"]
    # What paho gets confirms packet 7, and has neither topic nor payload of the message.
    assert list(packets(reading.passed)) == [(Kind.PUBLISH, 2, b"\0\1x\0\7\0")]


@pytest.mark.parametrize("is_v5", [True, False])
@pytest.mark.parametrize("first", [0x30, 0x36])
@pytest.mark.parametrize("body", [b"", b"\0", b"\0\5ab", b"\0\1t\0"])
def test_a_message_without_its_fields_is_counted(body: bytes, first: int, *, is_v5: bool) -> None:
    if first == 0x30 and body == b"\0\1t\0":
        return  # complete: a topic and, at MQTT 5, no properties
    reading = Reading(bytes([first, len(body)]) + body + _good(is_v5=is_v5), is_v5=is_v5)
    assert sum(reading.rejected.values()) == 1
    assert len(reading.listener.messages) == 1


def test_a_message_of_any_size_is_discarded_as_it_arrives() -> None:
    huge = publish("cmd/set", bytes(300_000), packet_id=None, properties=None)
    reading = Reading(huge + _good(1, is_v5=False), is_v5=False, portion=1000)
    assert reading.rejected == {"oversize": 1}
    assert reading.held_bytes <= 1000
    assert [message.payload for message in reading.listener.messages] == [b"1"]


def test_messages_above_the_limit_per_second_are_dropped_before_they_are_read() -> None:
    flood = b"".join(_good(number) for number in range(500)) + publish(b"\xff", b"", packet_id=7, properties=())
    reading = Reading(flood, max_per_s=10.0)
    taken = len(reading.listener.messages)
    assert 10.0 * BURST_S <= taken < 10.0 * BURST_S + 10
    assert reading.rejected == {"rate_limited": 501 - taken}
    assert list(packets(reading.passed)) == [(Kind.PUBLISH, 2, b"\0\1x\0\7\0")], (
        "one at QoS 1 is confirmed all the same"
    )


def test_confirmations_lose_their_properties_and_a_refusal_is_reported() -> None:
    texts = encoded_properties([(0x1F, f"no{BOM}")])
    reading = Reading(packet(4, 0, b"\0\5\x95" + texts) + packet(4, 0, b"\0\6\x10") + packet(4, 0, b"\0\7"))
    assert reading.listener.refused == [(5, 0x95)]
    assert bytes(reading.passed) == b"\x40\2\0\5" + b"\x40\2\0\6" + b"\x40\2\0\7"


def test_a_connack_is_read_and_passed_on_with_the_keepalive_alone() -> None:
    granted = ((Property.RECEIVE_MAXIMUM, 1), (Property.SERVER_KEEP_ALIVE, 0), (0x1F, BOM))
    reading = Reading(packet(2, 0, b"\0\0" + encoded_properties(granted)))
    (code, values) = reading.listener.connacks[0]
    assert (code, values[Property.RECEIVE_MAXIMUM], values[Property.SERVER_KEEP_ALIVE]) == (0, 1, 0)
    assert bytes(reading.passed) == packet(2, 0, b"\0\0" + encoded_properties([(Property.SERVER_KEEP_ALIVE, 7)]))


@pytest.mark.parametrize(("is_v5", "answer", "code"), [(True, 0x9D, 0x9D), (True, 0xEE, 0xEE), (False, 5, 0x87)])
def test_a_refused_connection_never_reaches_paho(answer: int, code: int, *, is_v5: bool) -> None:
    properties = encoded_properties([(Property.SERVER_REFERENCE, "other:1")]) if is_v5 else b""
    reading = Reading(packet(2, 0, bytes([0, answer]) + properties), is_v5=is_v5)
    assert reading.listener.connacks[0][0] == code
    assert reading.passed == b""


@pytest.mark.parametrize(
    "data",
    [
        b"\x30\xff\xff\xff\xff\x7f",
        packet(2, 0, b"\0"),
        packet(2, 0, b"\0\0\x05\x7e"),
        packet(4, 0, b"\0"),
        packet(9, 0, b"\0\1\x7f"),
        packet(14, 0, b"\x80\x02\x1f"),
        packet(15, 0, b""),
        packet(12, 0, b""),
        packet(0, 0, b""),
        packet(2, 0, bytes(MAX_BYTES + 1)),
    ],
)
def test_what_makes_the_stream_unreadable_ends_the_connection(data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match="it sent a"):
        Reading(data)


@given(data=st.binary(max_size=200), is_v5=st.booleans(), portion=st.integers(1, 50))
def test_no_bytes_raise_anything_else(data: bytes, *, is_v5: bool, portion: int) -> None:
    try:
        reading = Reading(data, is_v5=is_v5, portion=portion)
    except ProtocolViolation:
        return
    for kind, _, _ in packets(reading.passed):
        assert kind in {Kind.CONNACK, Kind.PUBLISH, Kind.PUBACK, Kind.PUBREL, Kind.PINGRESP}


@given(
    properties=st.lists(
        st.one_of(
            st.tuples(st.just(Property.CONTENT_TYPE), st.text(max_size=20)),
            st.tuples(st.just(Property.USER_PROPERTY), st.tuples(st.text(max_size=5), st.text(max_size=5))),
            st.tuples(st.just(Property.CORRELATION), st.binary(max_size=20)),
            st.tuples(st.just(Property.MESSAGE_EXPIRY), st.integers(0, 2**32 - 1)),
        ),
        max_size=6,
    ),
    payload=st.binary(max_size=50),
)
def test_properties_in_any_order_leave_the_payload_whole(
    properties: list[tuple[int, str | bytes | int | tuple[str, str]]], payload: bytes
) -> None:
    reading = Reading(publish("t", payload, packet_id=None, properties=properties))
    if reading.rejected:
        assert "\0" in repr(properties) or "\\x00" in repr(properties)
    else:
        assert [message.payload for message in reading.listener.messages] == [payload]


@pytest.mark.parametrize(("answer", "code"), [(1, 0x84), (2, 0x85), (3, 0x88), (4, 0x86), (5, 0x87)])
@pytest.mark.parametrize("is_v5", [True, False])
def test_a_connack_of_an_older_broker_is_understood_whatever_was_asked(answer: int, code: int, *, is_v5: bool) -> None:
    reading = Reading(packet(Kind.CONNACK, 0, bytes([0, answer])), is_v5=is_v5)
    assert reading.listener.connacks == [(code, {})]

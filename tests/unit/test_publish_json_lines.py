"""``agent run --print``: every line is JSON, whatever is published."""

from __future__ import annotations

import io
import json

import pytest

from agent.mqtt.base import Packet
from agent.publish.json_lines import JsonLinesSink, line_from_packet
from tests.conformance.test_sinks import Listener


@pytest.mark.parametrize(
    ("payload", "message"), [(b'{"label":"ok"}', {"label": "ok"}), (b"", None)], ids=["message", "cleared topic"]
)
def test_each_line_is_json(payload: bytes, message: object) -> None:
    packet = Packet("edge/a/camera/front/inspect/state", payload, qos=1, retain=True)
    line = json.loads(line_from_packet(packet))
    assert line == {"topic": packet.topic, "retain": True, "message": message}


def test_each_line_begins_with_the_prefix() -> None:
    stream = io.BytesIO()
    sink = JsonLinesSink(stream, prefix="> ")
    sink.start(Listener())
    sink.send(Packet("a/b", b""))
    assert stream.getvalue() == b'> {"topic":"a/b","retain":false,"message":null}\n'
    sink.stop(0.0)

"""The subscriber of the measurements, behind a real broker."""

from __future__ import annotations

from typing import Literal

import paho.mqtt.publish
import pytest

from agent.mqtt.embedded.broker import EmbeddedBroker
from agent.tools.benchmark.pipeline.subscriber import PREFIX, Recorder, listening
from tests.fixtures.deadlines import wait_until


@pytest.mark.parametrize("qos", [0, 1])
def test_messages_come_with_the_qos_that_was_asked_for(qos: Literal[0, 1]) -> None:
    """With QoS 0 nothing is confirmed, as with mosquitto_sub: a confirmation changes when the system acknowledges."""
    with EmbeddedBroker() as broker, listening(broker.address, qos=qos) as recorder:
        topic = f"{PREFIX}/a/event"
        paho.mqtt.publish.single(topic, b"{}", qos=1, hostname=broker.address.host, port=broker.address.port)
        assert _first(recorder) == (topic, qos)


def _first(recorder: Recorder) -> tuple[str, int]:
    found: list[tuple[str, int]] = []

    def look() -> bool:
        found.extend((message.topic, message.qos) for _, message in recorder.take())
        return bool(found)

    wait_until(look)
    return found[0]

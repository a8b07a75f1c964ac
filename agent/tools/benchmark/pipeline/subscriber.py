"""A real MQTT subscriber that records when each message arrived."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import orjson

from agent.config.broker_address import BrokerAddress
from agent.mqtt.base import NullListener, Received
from agent.mqtt.client import MqttClient
from agent.mqtt.messages import STAGES
from agent.mqtt.settings import MqttSettings
from agent.runtime.errors import BrokerUnavailable

PREFIX = "benchmark"
_CONNECT_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Arrival:
    """One received result; ``at_ns`` is wall-clock time, comparable with its capture time."""

    at_ns: int
    camera: str
    seq: int
    captured_ns: int
    latency_ms: dict[str, float]

    @property
    def end_to_end_ms(self) -> float:
        """From the start of the capture to its arrival here."""
        return (self.at_ns - self.captured_ns) / 1e6


@dataclass(slots=True)
class Recorder:
    """Received messages; written by the connection's thread, read by any thread."""

    raw: deque[tuple[int, Received]] = field(default_factory=deque)
    is_running: threading.Event = field(default_factory=threading.Event)

    def keep(self, message: Received) -> None:
        """Store one message with its time. Runs on the connection's thread, so it parses nothing."""
        self.raw.append((time.time_ns(), message))
        if message.topic.endswith("/runtime"):
            self.is_running.set()

    def take(self) -> list[tuple[int, Received]]:
        """Return and remove everything received since the last call."""
        return [self.raw.popleft() for _ in range(len(self.raw))]


@contextmanager
def listening(address: BrokerAddress, *, qos: Literal[0, 1] = 1) -> Iterator[Recorder]:
    """Subscribe to everything that the measured agent publishes, with ``qos`` at most.

    Raises:
        BrokerUnavailable: no connection.
    """
    recorder = Recorder()
    settings = MqttSettings(address=address, client_id="benchmark-subscriber", subscription_qos=qos)
    client = MqttClient(settings, subscriptions=[f"{PREFIX}/#"], on_received=recorder.keep)
    client.start(NullListener())
    try:
        if not client.wait_subscribed(_CONNECT_WITHIN_S):
            raise BrokerUnavailable(f"no connection to the benchmark's broker: {client.statistics().reason}")
        yield recorder
    finally:
        client.stop(2.0)


def arrivals_of(messages: list[tuple[int, Received]]) -> list[Arrival]:
    """The results among ``messages``."""
    return [_arrival(at_ns, message) for at_ns, message in messages if message.topic.endswith("/result")]


def documents_of(messages: list[tuple[int, Received]], ending: str) -> list[dict[str, Any]]:
    """The other messages whose topic ends in ``ending``."""
    return [orjson.loads(message.payload) for _, message in messages if message.topic.endswith(f"/{ending}")]


def _arrival(at_ns: int, message: Received) -> Arrival:
    values = orjson.loads(message.payload)
    captured = datetime.fromisoformat(values["captured_at"].replace("Z", "+00:00"))
    whole = int(captured.timestamp()) * 1_000_000_000 + captured.microsecond * 1000
    # A compact result leaves its camera to the topic: .../camera/<camera>/<classifier>/result
    camera = values.get("camera") or message.topic.split("/")[-3]
    stages = values.get("latency_ms") or dict(zip(STAGES, values["stages_ms"], strict=True))
    return Arrival(at_ns, camera, values["seq"], whole, stages)

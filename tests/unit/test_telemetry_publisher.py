"""What `health` tells about the delivery, in full and in its short form."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import orjson

from agent.commands.schemas import message_schemas
from agent.mqtt.base import LineStatistics, SinkStatistics
from agent.mqtt.messages import CameraAccounting, ModelHealth, brief_from_health
from agent.mqtt.topics import Topics, encode, packet_from_message
from agent.publish.delivery.counters import DeliveryReport
from agent.publish.delivery.held_topics import CLOSES, HeldTopic
from agent.publish.delivery.send_rate import PACKET_BYTES
from agent.publish.publisher import PublisherStatistics
from agent.telemetry.reports import publisher_health
from tests.fixtures.publish_samples import health

_SINK = SinkStatistics("connected", "mqtt://broker:1883", "MQTT 5", 0, None, 0, 0)


def _statistics(held: dict[str, HeldTopic]) -> PublisherStatistics:
    return PublisherStatistics(
        sent=5,
        dropped={"stale": 2},
        rate_limited=0,
        queued=0,
        stored=3,
        connection=_SINK,
        failure=None,
        refused={"not_authorised": 4},
        rejected={"b": "oversize"},
        delivery=DeliveryReport(held, 12.3456),
        line=LineStatistics(1234.567, 89),
    )


def test_waiting_topics_are_named_with_their_reason_and_the_next_attempt() -> None:
    held = {
        "a": HeldTopic("not_authorised", 1_767_323_045_000_000_000, 4, 9_400_000_000),
        "c": HeldTopic(CLOSES, 0, 1, 0),
    }
    found = publisher_health(_statistics(held), 5_000_000_000)
    assert orjson.loads(orjson.dumps(found)) | {"durability": None} == {
        "sent": 5,
        "dropped": {"stale": 2},
        "rate_limited": 0,
        "queued": 0,
        "stored": 3,
        "durability": None,
        "reason": None,
        "denied": {},
        "refused": {"not_authorised": 4},
        "rejected": {"b": "oversize"},
        "waiting": {
            "c": {"reason": CLOSES, "since": "1970-01-01T00:00:00.000000Z", "attempts": 1, "next_s": 0.0},
            "a": {
                "reason": "not_authorised",
                "since": "2026-01-02T03:04:05.000000Z",
                "attempts": 4,
                "next_s": 4.4,
            },
        },
        "oldest_event_s": 12.346,
        "line": {"bytes_per_s": 1234.6, "queued_bytes": 89},
    }


def test_only_the_topics_that_wait_longest_are_named() -> None:
    held = {f"{number}": HeldTopic("refused", 1000 - number, 1, 0) for number in range(500)}
    assert list(publisher_health(_statistics(held), 0).waiting) == [f"{number}" for number in range(499, 479, -1)]


def test_the_short_health_fits_in_400_bytes_after_years() -> None:
    large = 10**9
    whole = health()
    cameras = {
        name: CameraAccounting(captured=large, classified=0, dropped={"rate": large}, in_flight=0) for name in "ab"
    }
    whole = replace(
        whole,
        device="x" * 24,
        session=large,
        uptime_s=1e8,
        cameras=cameras,
        models={"m": ModelHealth(engine="ort-cpu", precision="fp32", degraded="no GPU")},
        publisher=replace(whole.publisher, sent=large, dropped={"stale": large, "oversize": 1}, stored=large),
    )
    brief = brief_from_health(whole)
    assert (brief.captured, brief.dropped, brief.lost, brief.degraded) == (2 * large, 2 * large, large + 1, 1)
    packet = packet_from_message(brief, Topics("edge", "x" * 24))
    assert len(packet.topic) + len(packet.payload) + PACKET_BYTES <= 400
    assert packet.retain
    jsonschema.Draft202012Validator(message_schemas()["health-brief/1"]).validate(orjson.loads(encode(brief)))

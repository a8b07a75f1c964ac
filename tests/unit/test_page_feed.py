from __future__ import annotations

import orjson
import pytest

from agent.mqtt.base import Packet
from agent.mqtt.topics import Topics
from agent.runtime.clock import SystemClock
from agent.web.page import feed as module
from agent.web.page.feed import PageFeed, encoded


def _feed() -> PageFeed:
    return PageFeed(Topics("edge", "line-3"), SystemClock())


def _packet(topic: str, **fields: object) -> Packet:
    return Packet(f"edge/line-3/{topic}", orjson.dumps(fields))


def test_it_keeps_the_newest_message_of_each_topic_and_gives_what_is_new() -> None:
    feed = _feed()
    feed.send(_packet("health", uptime_s=1))
    feed.send(_packet("camera/front/inspect/result", label="ok"))
    first = feed.since(0)
    assert {topic: orjson.loads(one) for topic, one in first.messages.items()} == {
        "health": {"uptime_s": 1},
        "camera/front/inspect/result": {"label": "ok"},
    }
    assert feed.since(first.version).messages == {}
    feed.send(_packet("health", uptime_s=2))
    assert {topic: orjson.loads(one) for topic, one in feed.since(first.version).messages.items()} == {
        "health": {"uptime_s": 2}
    }


def test_a_cleared_topic_is_null_and_an_encoded_part_is_json() -> None:
    feed = _feed()
    feed.send(Packet("edge/line-3/camera/old/health", b"", 1, retain=True))
    feed.send(_packet("camera/front/inspect/event", to_label="dent"))
    feed.send(_packet("latency", window_s=5))
    feed.log({"event": "camera.lost", "level": "warning", "error": OSError("no such device")})
    part = orjson.loads(encoded(feed.since(0)))
    assert part["messages"] == {"camera/old/health": None, "latency": {"window_s": 5}}
    assert part["events"] == [{"to_label": "dent"}]
    assert part["latencies"] == [{"window_s": 5}]
    assert part["log"][0]["event"] == "camera.lost"


def test_what_is_not_of_this_device_or_no_json_is_left_out() -> None:
    feed = _feed()
    feed.send(Packet("homeassistant/device/x/config", b"{}"))
    feed.send(Packet("edge/line-33/health", b"{}"))
    feed.send(Packet("edge/line-3/camera/front/snapshot", b"\xff\xd8", content_type="image/jpeg"))
    assert feed.since(0).messages == {}


def test_everything_that_it_keeps_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_TOPICS", 3)
    feed = _feed()
    for number in range(1000):
        feed.send(_packet(f"camera/c{number}/health", number=number))
        feed.send(_packet("camera/front/inspect/event", number=number))
        feed.send(_packet("latency", number=number))
        feed.log({"number": number})
    part = orjson.loads(encoded(feed.since(0)))
    assert len(part["messages"]) == 3
    assert "camera/c999/health" in part["messages"]
    limits = {"events": module.MAX_EVENTS, "latencies": module.MAX_LATENCIES, "log": module.MAX_LOG}
    for name, limit in limits.items():
        assert [one["number"] for one in part[name]] == list(range(1000 - limit, 1000)), name


def test_the_changes_of_engines_are_kept_once_each() -> None:
    feed = _feed()
    for at, changed in (
        (1, None),
        (2, "auto -> tensorrt"),
        (3, "auto -> tensorrt"),
        (4, "back"),
        (5, None),
        (6, "back"),
    ):
        feed.send(_packet("runtime", at=at, changed=changed))
    assert orjson.loads(encoded(feed.since(0)))["changes"] == [
        {"at": 2, "changed": "auto -> tensorrt"},
        {"at": 4, "changed": "back"},
    ]


def test_a_reply_goes_to_the_one_who_waits_for_its_id_and_is_shown_to_nobody() -> None:
    feed = _feed()
    heard: list[list[bytes]] = [[], []]
    feed.expect("a", heard[0].append)
    feed.expect("b", heard[1].append)
    feed.forget("b")
    for key in ("c", "b", "a", "a"):
        feed.send(_packet("reply/set", id=key))
    feed.send(_packet("reply/set", id=None))
    assert [[orjson.loads(one) for one in ones] for ones in heard] == [[{"id": "a"}], []]
    assert feed.since(0).messages == {}

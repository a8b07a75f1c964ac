"""Compact results are small, and lose nothing that `runtime` and the topic do not say."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import partial
from typing import Any

import jsonschema
import orjson
import pytest
from pydantic import ValidationError

from agent.commands.schemas import message_schemas
from agent.mqtt.base import Packet
from agent.publish.json_lines import JsonLinesSink
from agent.publish.packets import PacketFactory, ResultDetail
from agent.publish.publisher import Publisher
from agent.runtime.records import Classification, ImageOrigin, Score, ServedModel, StageTimes, Standing
from tests.fixtures.deadlines import wait_until
from tests.fixtures.publish_samples import IDENTITY, classification

SMALL_BYTES = 300
SCHEMA = jsonschema.Draft202012Validator(message_schemas()["result-compact/1"])
SERVED = ServedModel("inspect", "conveyor", "1.0.0", "a63b0c0d" + "5" * 56, "ort-cpu", "fp32", degraded=False)
STANDING = Standing("missing_label", ("missing_label",), "missing_label", 0.993447, 0.5, 5, 3, 5, is_timed=False)


def _of_camera() -> Classification:
    """A late result of a single camera, with a long label and figures of every digit."""
    return replace(
        classification(104_940),
        served=SERVED,
        top=(Score(3, "missing_label", 0.993447), Score(4, "empty", 0.002458)),
        margin=0.990989,
        times=StageTimes(10.9583, 0.098, 0.0961, 15.6802, 0.0476),
        standing=STANDING,
    )


def _packet(record: Classification, detail: ResultDetail = "compact", clock: Any = "synced") -> Packet:
    return PacketFactory(IDENTITY, lambda: clock, result_detail=detail).result(record, 104_940)


def _message(record: Classification, **more: Any) -> dict[str, Any]:
    message: dict[str, Any] = orjson.loads(_packet(record, **more).payload)
    SCHEMA.validate(message)
    return message


def test_a_result_of_a_single_camera_is_small() -> None:
    packet = _packet(_of_camera())
    assert len(packet.payload) < SMALL_BYTES
    assert len(packet.payload) < len(_packet(_of_camera(), "full").payload) / 2
    assert packet.topic == _packet(_of_camera(), "full").topic


def test_what_a_compact_result_leaves_out_is_in_the_topic_and_in_runtime() -> None:
    """Topic, ``runtime`` and compact result make the full one, but for its other classes."""
    record = _of_camera()
    compact, full = _message(record), orjson.loads(_packet(record, "full").payload)
    _, device, _, camera, classifier, _ = _packet(record).topic.split("/")
    labels = ["ok", "scratch", "dent", "missing_label", "empty"]
    model = {"name": SERVED.name, "version": SERVED.version, "sha256": SERVED.sha256, "precision": "fp32"}
    digits, engine, precision = compact["ran"]
    assert (digits, precision) == (model["sha256"][:8], model["precision"])
    stages = dict(zip(("capture", "queue", "preprocess", "infer", "decide"), compact["stages_ms"], strict=True))
    assert compact | {
        "device": device, "camera": camera, "classifier": classifier, "schema": full["schema"],
        "clock": compact.get("clock", "synced"), "index": labels.index(compact["label"]), "batch": 1,
        "model": {key: model[key] for key in ("name", "version", "sha256")},
        "engine": {"name": engine, "precision": precision, "degraded": compact.get("degraded", False)},
        "decision": {"candidate": compact["label"], "confidence": compact["confidence"], **compact["decision"]},
        "image_fault": None, "source": None, "labels": None, "trigger": None, "features": None,
        "historical": False,
        "latency_ms": full["latency_ms"], "margin": full["margin"], "top_k": full["top_k"],
    } == full | {"ran": compact["ran"], "stages_ms": compact["stages_ms"]}  # fmt: skip
    assert compact["margin"] == pytest.approx(full["margin"], abs=6e-5)
    assert stages == {key: pytest.approx(full["latency_ms"][key], abs=0.006) for key in stages}
    assert sum(stages.values()) == pytest.approx(full["latency_ms"]["total"], abs=0.03)


def test_only_what_is_unusual_is_sent() -> None:
    usual = _message(_of_camera())
    assert list(usual) == [
        *("schema", "session", "seq", "frame", "captured_at", "label", "confidence", "margin", "ran", "stages_ms"),
        "decision",
    ]
    unusual = replace(
        _of_camera(),
        served=replace(SERVED, degraded=True),
        batch=4,
        image_fault="black",
        origin=ImageOrigin("part-17.jpg", "ab" * 32),
        trigger="gpio-3",
        features=(12.25, -3.5, 0.0),
    )
    message = _message(unusual, clock="unsynced")
    assert {key: message[key] for key in message.keys() - usual.keys()} == {
        "batch": 4, "clock": "unsynced", "degraded": True, "image_fault": "black", "trigger": "gpio-3",
        "features": [12.25, -3.5, 0.0],
        "source": {"file": "part-17.jpg", "sha256": "ab" * 32},
    }  # fmt: skip
    assert {key: message[key] for key in usual} == usual


def test_an_undecided_result_names_the_next_best_class() -> None:
    unsure = replace(STANDING, label="unknown", labels=(), votes=2)
    message = _message(replace(_of_camera(), standing=unsure))
    assert message["next_best"] == {"label": "empty", "index": 4, "confidence": 0.002458}
    assert message["decision"] == {"label": "unknown", "votes": 2}
    without = _message(replace(_of_camera(), standing=None))
    assert "decision" not in without
    assert "next_best" in without


def test_no_votes_are_sent_as_none() -> None:
    unsure = replace(STANDING, label="unknown", labels=(), votes=0)
    assert _message(replace(_of_camera(), standing=unsure))["decision"] == {"label": "unknown", "votes": 0}


def test_a_result_of_several_labels_has_each_with_its_confidence() -> None:
    standing = Standing(None, ("ok",), "dent", 0.4, 0.6, 2, 3, 5, is_timed=False)
    scores = (Score(0, "ok", 0.9), Score(1, "scratch", 0.8), Score(2, "dent", 0.4))
    message = _message(replace(_of_camera(), top=scores, found=("scratch", "ok"), standing=standing))
    assert message["labels"] == {"scratch": 0.8, "ok": 0.9}
    assert message["decision"] == {"candidate": "dent", "confidence": 0.4, "votes": 2}
    assert "next_best" not in message
    none = _message(replace(_of_camera(), top=scores, found=(), standing=standing))
    assert none["labels"] == {}, "a frame without labels is no frame of a model that chooses one"


@pytest.mark.parametrize(
    "bad",
    [{"margin": math.nan}, {"top": (Score(0, "ok", 1.2),)}, {"times": StageTimes(1.0, -0.1, 0.0, 1.0, 0.0)}],
)
def test_a_value_that_the_schema_forbids_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _packet(replace(_of_camera(), **bad))


def test_the_detail_of_results_changes_while_the_publisher_runs() -> None:
    output = io.BytesIO()

    def results() -> list[Any]:
        lines = map(orjson.loads, output.getvalue().splitlines())
        return [line["message"] for line in lines if line["topic"].endswith("/result")]

    def has(count: int) -> bool:
        return len(results()) == count

    publisher = Publisher(JsonLinesSink(output), identity=IDENTITY)
    publisher.start()
    try:
        details: tuple[ResultDetail, ...] = ("compact", "full", "compact")
        for count, detail in enumerate(details, 1):
            publisher.change_results(qos=0, max_hz=None, detail=detail)
            publisher.offer(_of_camera())
            wait_until(partial(has, count))
    finally:
        publisher.stop(2.0)
    assert [one["schema"] for one in results()] == ["result-compact/1", "result/1", "result-compact/1"]
    assert [one["seq"] for one in results()] == [0, 1, 2], "one count of messages for both"

"""Messages, schemas and topics agree with each other."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import is_dataclass, replace
from typing import Any

import jsonschema
import orjson
import pytest
from pydantic import TypeAdapter, ValidationError

from agent.commands.schemas import asyncapi_document, message_schemas
from agent.mqtt import messages
from agent.mqtt.messages import (
    AnyMessage,
    CompactResult,
    Message,
    Result,
    brief_from_health,
    compact_from_classification,
    event_from_move,
    result_from_classification,
    state_from_state_change,
    utc_text,
)
from agent.mqtt.messages.base import BuiltOnce
from agent.mqtt.topics import CATALOG, COMPACT_RESULT, RESULT, STATE, encode, packet_from_message
from agent.publish.packets import NumberedChange, Outgoing, PacketFactory, SequenceNumbers
from agent.runtime.records import Classification, ImageOrigin, Move, Score, Standing
from tests.fixtures.publish_samples import (
    DEVICE,
    IDENTITY,
    SESSION,
    TOPICS,
    classification,
    health,
    latency,
    reply,
    state_change,
    vitals,
)


def _result(seq: int = 0) -> Result:
    return _result_of(classification(7), seq)


def _result_of(record: Classification, seq: int = 0) -> Result:
    return result_from_classification(record, device=DEVICE, session=SESSION, seq=seq, clock_state="synced")


def _compact_of(record: Classification, **more: Any) -> CompactResult:
    return compact_from_classification(record, **{"session": SESSION, "seq": 1, "clock_state": "synced", **more})


def _samples() -> dict[str, AnyMessage]:
    state = state_from_state_change(
        state_change(), device=DEVICE, session=SESSION, seq=1, at_utc_ns=1, clock_state="synced"
    )
    (move,) = state_change().moves
    event = event_from_move(
        move, state_change(), device=DEVICE, session=SESSION, seq=1, at_utc_ns=1, clock_state="unsynced"
    )
    messages = (
        _compact_of(classification(7)),
        _result(),
        state,
        event,
        reply(),
        *vitals(),
        brief_from_health(health()),
    )
    return {message.schema: message for message in messages}


@pytest.mark.parametrize("name", sorted(message_schemas()))
def test_every_message_fits_its_published_schema(name: str) -> None:
    payload = IDENTITY.status("online").payload if name == "status/1" else encode(_samples()[name])
    jsonschema.Draft202012Validator(message_schemas()[name]).validate(orjson.loads(payload))


@pytest.mark.parametrize("name", sorted(message_schemas()))
def test_every_field_of_a_message_is_described_and_required(name: str) -> None:
    schema = message_schemas()[name]
    jsonschema.Draft202012Validator.check_schema(schema)
    for part in (schema, *schema.get("$defs", {}).values()):
        undescribed = {
            field for field, about in part["properties"].items() if not about.keys() & {"description", "$ref"}
        }
        assert undescribed <= {"schema"}, part["title"]
        assert part["description"], part["title"]
        left_out = {
            field for field, about in part["properties"].items() if "; left out " in about.get("description", "")
        }
        assert sorted(part["required"]) == sorted(part["properties"].keys() - left_out), part["title"]
        assert part["additionalProperties"] is False


def test_a_schema_refuses_other_documents() -> None:
    validator = jsonschema.Draft202012Validator(message_schemas()["result/1"])
    good = orjson.loads(encode(_result()))
    for wrong in (
        {**good, "schema": "result/2"},
        {**good, "confidence": 1.2},
        {**good, "extra": 1},
        {key: value for key, value in good.items() if key != "seq"},
    ):
        assert not validator.is_valid(wrong)


def test_a_result_has_the_documented_fields_in_their_order() -> None:
    assert list(orjson.loads(encode(_result()))) == [
        *("schema", "device", "session", "seq", "frame", "captured_at", "clock", "camera", "classifier", "model"),
        *(
            "engine",
            "label",
            "index",
            "confidence",
            "margin",
            "top_k",
            "batch",
            "latency_ms",
            "image_fault",
            "source",
            "labels",
            "decision",
            "trigger",
            "features",
            "historical",
        ),
    ]


def test_results_and_events_name_the_image_file_of_their_frame() -> None:
    record = replace(classification(7), origin=ImageOrigin("part-17.jpg", "ab" * 32))
    settings: dict[str, Any] = {"device": "d", "session": 1, "seq": 2, "clock_state": "synced"}
    result = orjson.loads(encode(result_from_classification(record, **settings)))
    change = replace(state_change(), evidence=record)
    event = orjson.loads(encode(event_from_move(change.moves[0], change, at_utc_ns=1, **settings)))
    expected = {"file": "part-17.jpg", "sha256": "ab" * 32}
    assert result["source"] == event["evidence"]["source"] == expected
    assert orjson.loads(encode(_result()))["source"] is None


def test_a_result_has_the_values_of_its_classification() -> None:
    record = classification(7)
    message = orjson.loads(encode(_result(seq=41)))
    assert message["seq"] == 41
    assert message["frame"] == record.frame_index
    assert (message["label"], message["index"], message["confidence"]) == ("ok", 0, 0.91)
    assert [(top["label"], top["confidence"]) for top in message["top_k"]] == [
        (score.label, score.confidence) for score in record.top
    ]
    assert message["model"] == {"name": "conveyor", "version": "1.0.0", "sha256": "6f" * 32}
    assert message["engine"] == {"name": "ort-cpu", "precision": "fp32", "degraded": False}
    stages = message["latency_ms"]
    assert stages["total"] == pytest.approx(sum(ms for stage, ms in stages.items() if stage != "total"), abs=1e-3)


def test_a_confidence_rounded_above_one_is_one() -> None:
    record = replace(classification(), top=(Score(0, "ok", 1.0000002384185791),), margin=1.0000002384185791)
    message = result_from_classification(record, device=DEVICE, session=1, seq=0, clock_state="synced")
    assert (message.confidence, message.margin, message.top_k[0].confidence) == (1.0, 1.0, 1.0)


def test_nan_is_refused_and_not_sent_as_null() -> None:
    with pytest.raises(ValidationError):
        replace(latency(), window_s=float("nan"))


def test_a_message_reads_back_as_itself() -> None:
    for entry in CATALOG:
        if entry.schema_name in _samples():
            message = _samples()[entry.schema_name]
            assert TypeAdapter(entry.message).validate_json(encode(message)) == message


def test_a_repeated_label_makes_no_event() -> None:
    numbers = SequenceNumbers()
    assert numbers.of_change(state_change("ok", None)) == (0, ())
    assert numbers.of_change(state_change("dent", "ok")) == (1, (0,))


def test_each_label_that_comes_or_goes_is_an_event_of_one_state() -> None:
    moves = (Move("ash", None, 0.1, 3), Move(None, "birch", 0.8, 3))
    change = replace(state_change(), label=None, labels=("birch",), moves=moves)
    factory = PacketFactory(IDENTITY, lambda: "synced")
    item = NumberedChange(change, 1, *SequenceNumbers().of_change(change))
    events = [orjson.loads(packet.payload) for packet in factory.events(item)]
    assert [(one["seq"], one["from_label"], one["to_label"], one["confidence"]) for one in events] == [
        (0, "ash", None, 0.1),
        (1, None, "birch", 0.8),
    ]
    state = orjson.loads(factory.state(item).payload)
    assert (state["label"], state["labels"], state["seq"]) == (None, ["birch"], 0)
    schemas = message_schemas()
    for message in (*events, state):
        jsonschema.Draft202012Validator(schemas[message["schema"]]).validate(message)


def test_a_result_of_several_labels_says_which_and_where_the_decision_stands() -> None:
    standing = Standing(None, ("ok",), "dent", 0.4, 0.6, 2, 3, 5, is_timed=False)
    message = orjson.loads(encode(_result_of(replace(classification(), found=("ok", "scratch"), standing=standing))))
    assert message["labels"] == ["ok", "scratch"]
    assert message["decision"] == {"label": None, "candidate": "dent", "confidence": 0.4, "votes": 2}
    jsonschema.Draft202012Validator(message_schemas()["result/1"]).validate(message)


@pytest.mark.parametrize(
    ("utc_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_767_323_045_678_901_999, "2026-01-02T03:04:05.678901Z"),
        (951_782_400_000_000_000, "2000-02-29T00:00:00.000000Z"),
    ],
)
def test_time_is_utc_with_microseconds(utc_ns: int, text: str) -> None:
    assert utc_text(utc_ns) == text


def test_every_message_is_sent_as_the_catalog_says() -> None:
    samples: dict[str, AnyMessage] = {message.schema: message for message in vitals()} | _samples()
    named = {schema: message for schema, message in samples.items() if isinstance(message, Message)}
    names = {"prefix": "edge", "device": DEVICE, "camera": "front", "classifier": "inspect", "verb": "snapshot"}
    sent = {
        "status": IDENTITY.status("online"),
        "reply": Outgoing(TOPICS.reply("snapshot"), reply(), 1, is_kept=True).packet(),
        "result-compact": COMPACT_RESULT.packet(samples["result-compact/1"], TOPICS, names=classification(7)),
    }
    for entry in CATALOG:
        packet = sent.get(entry.name) or packet_from_message(named[entry.schema_name], TOPICS)
        expected = (entry.address.format(**names), entry.qos or 0, entry.retain)
        assert (packet.topic, packet.qos, packet.retain) == expected, entry.name


def test_a_message_without_a_catalog_entry_is_refused() -> None:
    class Unknown(Message):
        """A kind of message without a catalog entry."""

    unknown = Unknown(schema="unknown/1", device=DEVICE, session=1)
    with pytest.raises(ValueError, match="the catalog has no entry for 'unknown/1'"):
        packet_from_message(unknown, TOPICS)


def test_the_quality_of_service_of_results_is_the_configured_one() -> None:
    for qos in (0, 1):
        assert RESULT.packet(_result(), TOPICS, qos=qos).qos == qos
    assert STATE.packet(_samples()["state/1"], TOPICS, qos=0).qos == 1, "the table's own counts where it has one"


def test_the_asyncapi_document_holds_together() -> None:
    document = asyncapi_document()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert orjson.loads(orjson.dumps(document)) == document
    references = re.findall(rb'"\$ref":"([^"]+)"', orjson.dumps(document))
    assert len(references) > 3 * len(CATALOG)
    for reference in references:
        _resolve(document, reference.decode())
    for channel in document["channels"].values():
        assert set(re.findall(r"\{(\w+)\}", channel["address"])) == channel["parameters"].keys()
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["bindings"]["mqtt"].keys() <= {"qos", "retain", "bindingVersion"}


def test_payloads_of_the_asyncapi_document_are_the_published_schemas() -> None:
    document = asyncapi_document()
    for entry in CATALOG:
        if entry.name == "status":
            continue
        payload = document["components"]["messages"][entry.name]["payload"]
        schema = {**payload, "components": document["components"]}
        jsonschema.Draft202012Validator(schema).validate(orjson.loads(encode(_samples()[entry.schema_name])))


def _resolve(document: dict[str, Any], reference: str) -> Any:
    found: Any = document
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_the_first_object_of_a_class_builds_its_validator_once_among_many_threads() -> None:
    code = (
        "import threading\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import agent.mqtt.messages as messages\n"
        "names = [name for name in messages.__all__ if hasattr(getattr(messages, name), '__pydantic_complete__')]\n"
        "assert len(names) > 30 and not any(getattr(messages, name).__pydantic_complete__ for name in names)\n"
        "gate = threading.Barrier(8)\n"
        "def make(number):\n"
        "    gate.wait(30)\n"
        "    return messages.Percentiles(p50=number, p95=1, p99=1, max=1)\n"
        "with ThreadPoolExecutor(8) as pool:\n"
        "    made = list(pool.map(make, range(8)))\n"
        "assert [one.p50 for one in made] == list(range(8)), made\n"
        "assert messages.Percentiles.__pydantic_complete__ and not messages.Health.__pydantic_complete__\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(name for name in messages.__all__ if name[0].isupper() and name.isalpha()))
def test_every_public_class_builds_its_validator_under_the_lock(name: str) -> None:
    kind = getattr(messages, name)
    if isinstance(kind, type) and is_dataclass(kind):
        assert issubclass(kind, BuiltOnce)

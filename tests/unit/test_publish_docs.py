"""The examples and the table of docs/mqtt.md match the schemas and the catalog."""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema

from agent.commands.schemas import message_schemas
from agent.mqtt.topics import CATALOG

TEXT = (Path(__file__).parents[2] / "docs" / "mqtt.md").read_text()


def test_every_message_has_an_example_that_fits_its_schema() -> None:
    schemas = message_schemas()
    blocks = (json.loads(block) for block in re.findall(r"```json\n(.*?)\n```", TEXT, flags=re.DOTALL))
    shown = [block for block in blocks if "schema" in block]
    assert {example["schema"] for example in shown} == set(schemas)
    for example in shown:
        jsonschema.Draft202012Validator(schemas[example["schema"]]).validate(example)
    compact = [set(example) for example in shown if example["schema"] == "result-compact/1"]
    assert len(compact) == 4, "of one label, of several, of two, and with features"
    assert {"labels", "features", "next_best"} <= set.union(*compact)


def test_the_table_of_topics_is_the_catalog() -> None:
    rows = re.findall(
        r"^\| \[`([^`]+)`\]\(#[a-z-]+\) \| `([^`]+)` \| [^|]+ \| ([^|]+) \| (yes|no) \|$", TEXT, flags=re.M
    )
    documented = {(topic, schema, qos, retained) for topic, schema, qos, retained in rows}
    expected = set()
    for entry in CATALOG:
        topic = entry.address.removeprefix("{prefix}/{device}/").replace("{", "<").replace("}", ">")
        qos = "`mqtt.results.qos`" if entry.qos is None else str(entry.qos)
        expected.add((topic, entry.schema_name, qos, "yes" if entry.retain else "no"))
    assert documented == expected

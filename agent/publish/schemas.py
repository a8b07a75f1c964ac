"""JSON Schemas and an AsyncAPI document, generated from the message classes."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from agent import __version__
from agent.publish.catalog import CATALOG, Entry

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_PARAMETERS = {
    "prefix": "First levels of every topic (`mqtt.prefix`); may hold slashes.",
    "device": "Id of the device (`device.id`).",
    "camera": "Name of the camera in the configuration.",
    "classifier": "Name of the classifier in the configuration.",
}


def message_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each message by its name and version (``result/1``)."""
    return {entry.schema_name: _schema(entry) for entry in CATALOG}


def asyncapi_document() -> dict[str, Any]:
    """An AsyncAPI 3.0 document of all that the agent sends.

    Source: AsyncAPI Specification 3.0.0; MQTT bindings 0.2.0.
    """
    messages, definitions = _joint_schemas()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Edge inference agent",
            "version": __version__,
            "description": "What the agent publishes. Consumers take unknown fields without complaint.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {entry.name: _channel(entry) for entry in CATALOG},
        "operations": {f"send-{entry.name}": _operation(entry) for entry in CATALOG},
        "components": {"messages": messages, "schemas": definitions},
    }


def _schema(entry: Entry) -> dict[str, Any]:
    schema = TypeAdapter(entry.message).json_schema(mode="serialization")
    return {"$schema": DIALECT, "$id": f"urn:edge-inference-agent:{entry.schema_name}", **schema}


def _joint_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The messages, and the schemas they refer to under ``components``, where AsyncAPI wants them."""
    by_name, joint = TypeAdapter.json_schemas(
        [(entry.name, "serialization", TypeAdapter(entry.message)) for entry in CATALOG],
        ref_template="#/components/schemas/{model}",
    )
    messages = {
        entry.name: {
            "name": entry.schema_name,
            "title": entry.message.__name__,
            "summary": entry.summary,
            "contentType": "application/json",
            "payload": by_name[(entry.name, "serialization")],
        }
        for entry in CATALOG
    }
    return messages, joint.get("$defs", {})


def _channel(entry: Entry) -> dict[str, Any]:
    return {
        "address": entry.address,
        "messages": {entry.name: {"$ref": f"#/components/messages/{entry.name}"}},
        "parameters": {
            name: {"description": text} for name, text in _PARAMETERS.items() if f"{{{name}}}" in entry.address
        },
    }


def _operation(entry: Entry) -> dict[str, Any]:
    mqtt: dict[str, Any] = {"retain": entry.retain, "bindingVersion": "0.2.0"}
    if entry.qos is not None:
        mqtt["qos"] = entry.qos
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{entry.name}"},
        "summary": entry.summary,
        "messages": [{"$ref": f"#/channels/{entry.name}/messages/{entry.name}"}],
        "bindings": {"mqtt": mqtt},
    }

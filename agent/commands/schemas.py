"""JSON Schemas and an AsyncAPI document, generated from the message classes."""

from __future__ import annotations

from typing import Any

from pydantic import TypeAdapter

from agent import __version__
from agent.commands.requests import REQUESTS, request_schema
from agent.config.sections.field_docs import DescribedJsonSchema
from agent.config.sections.subscribers import Verb
from agent.mqtt.topics import CATALOG, Entry, Topics

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_COMMANDS = Topics("{prefix}", "{device}")
_PARAMETERS = {
    "prefix": "First levels of every topic (`mqtt.prefix`); may hold slashes.",
    "device": "Id of the device (`device.id`).",
    "camera": "Name of the camera in the configuration.",
    "classifier": "Name of the classifier in the configuration.",
    "verb": "Verb of the command.",
}


def message_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each message by its name and version (``state/1``)."""
    return {entry.schema_name: _schema(entry) for entry in CATALOG}


def asyncapi_document() -> dict[str, Any]:
    """An AsyncAPI 3.0 document of everything the agent sends and receives.

    Source: AsyncAPI Specification 3.0.0; MQTT bindings 0.2.0.
    """
    messages, definitions = _joint_schemas()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Edge inference agent",
            "version": __version__,
            "description": "Messages that the agent publishes, and commands that it accepts. Consumers must ignore "
            "unknown fields.",
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {
            **{entry.name: _channel(entry) for entry in CATALOG},
            **_command_channels(),
            **_snapshot_channel(),
        },
        "operations": {
            **{f"send-{entry.name}": _operation(entry) for entry in CATALOG},
            **{f"receive-{verb}": _command_operation(verb) for verb in REQUESTS},
            "send-snapshot": {
                "action": "send",
                "channel": {"$ref": "#/channels/snapshot"},
                "summary": "The newest frame of one camera, sent on the command `snapshot`.",
                "messages": [{"$ref": "#/channels/snapshot/messages/snapshot"}],
                "bindings": {"mqtt": {"qos": 1, "retain": False, "bindingVersion": "0.2.0"}},
            },
        },
        "components": {"messages": messages, "schemas": definitions},
    }


def _schema(entry: Entry) -> dict[str, Any]:
    schema = TypeAdapter(entry.message).json_schema(mode="serialization", schema_generator=DescribedJsonSchema)
    return {"$schema": DIALECT, "$id": f"urn:edge-inference-agent:{entry.schema_name}", **schema}


def _joint_schemas() -> tuple[dict[str, Any], dict[str, Any]]:
    """The messages, and the schemas that they refer to, for AsyncAPI's ``components``."""
    by_name, joint = TypeAdapter.json_schemas(
        [(entry.name, "serialization", TypeAdapter(entry.message)) for entry in CATALOG],
        ref_template="#/components/schemas/{model}",
        schema_generator=DescribedJsonSchema,
    )
    commands = {f"command-{verb}": _command_message(verb) for verb in REQUESTS}
    snapshot = {
        "snapshot": {
            "name": "snapshot",
            "title": "Snapshot",
            "contentType": "image/jpeg",
            "payload": {"type": "string"},
        }
    }
    messages = (
        commands
        | snapshot
        | {
            entry.name: {
                "name": entry.schema_name,
                "title": entry.message.__name__,
                "summary": entry.summary,
                "contentType": "application/json",
                "payload": by_name[(entry.name, "serialization")],
            }
            for entry in CATALOG
        }
    )
    return messages, joint.get("$defs", {})


def _channel(entry: Entry) -> dict[str, Any]:
    return {
        "address": entry.address,
        "messages": {entry.name: {"$ref": f"#/components/messages/{entry.name}"}},
        "parameters": {
            name: {"description": text} for name, text in _PARAMETERS.items() if f"{{{name}}}" in entry.address
        },
    }


def _command_channels() -> dict[str, Any]:
    return {
        f"command-{verb}": {
            "address": _COMMANDS.command(verb),
            "messages": {f"command-{verb}": {"$ref": f"#/components/messages/command-{verb}"}},
            "parameters": {name: {"description": _PARAMETERS[name]} for name in ("prefix", "device")},
        }
        for verb in REQUESTS
    }


def _snapshot_channel() -> dict[str, Any]:
    return {
        "snapshot": {
            "address": _COMMANDS.snapshot("{camera}"),
            "messages": {"snapshot": {"$ref": "#/components/messages/snapshot"}},
            "parameters": {name: {"description": _PARAMETERS[name]} for name in ("prefix", "device", "camera")},
        }
    }


def _command_message(verb: Verb) -> dict[str, Any]:
    schema = request_schema(verb)
    return {
        "name": f"cmd/{verb}",
        "title": REQUESTS[verb].__name__,
        "summary": schema.get("description", ""),
        "contentType": "application/json",
        "payload": schema,
    }


def _command_operation(verb: Verb) -> dict[str, Any]:
    channel = f"command-{verb}"
    return {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": request_schema(verb).get("description", ""),
        "messages": [{"$ref": f"#/channels/{channel}/messages/{channel}"}],
        "reply": {
            "channel": {"$ref": "#/channels/reply"},
            "messages": [{"$ref": "#/channels/reply/messages/reply"}],
        },
        "bindings": {"mqtt": {"qos": 1, "bindingVersion": "0.2.0"}},
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

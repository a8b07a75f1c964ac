"""The schema of each command: one strict class for each verb, part of the public schema."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

import orjson
from pydantic import (
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import ErrorDetails

from agent.config.problems import dotted, faults_of_validation, shown
from agent.config.sections.base import REQUEST_ID, Name, Section
from agent.config.sections.subscribers import Verb

MAX_BYTES = 8192
_MAX_FAULT_CHARS = 1000
_EXAMPLE = '{"id": "a1", "camera": "front"}'
MAX_AHEAD = timedelta(hours=1)

Id = Annotated[str, StringConstraints(pattern=REQUEST_ID)]


def _seconds_or_text(value: object) -> object:
    """Convert seconds since 1970; other values are left to the type, which accepts RFC 3339."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not 0 <= value < 2**33:  # also refuses NaN
        raise ValueError("expected seconds since 1970")
    return datetime.fromtimestamp(value, tz=timezone.utc)


Instant = Annotated[
    AwareDatetime,
    Field(strict=False),  # JSON has no dates, only texts
    BeforeValidator(_seconds_or_text),
    WithJsonSchema({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}]}),
]


class Request(Section, strict=True):
    """The fields of every command."""

    id: Id
    """Chosen by the sender and returned in the reply. A second command with the same id is ignored."""
    expires_at: Instant | None = None
    """The command expires then: RFC 3339 or seconds since 1970, at most one hour ahead. Judged only while the device's
    clock follows a time server; null or absent: it does not expire, and its id is remembered for an hour."""


class Snapshot(Request):
    """Publish the newest frame of a camera as JPEG, on the topic `camera/<camera>/snapshot`."""

    camera: Name
    """Name of the camera."""
    max_width: int = Field(default=1280, ge=16, le=4096)
    """A wider frame is scaled down to this width."""
    quality: int = Field(default=80, ge=1, le=95)
    """JPEG quality."""


class Capture(Request):
    """Classify one frame that the camera takes after this command; the reply has the labels."""

    camera: Name
    """Name of the camera."""


class Set(Request):
    """Change a camera or one of its classifiers while the agent runs."""

    camera: Name
    """Name of the camera."""
    classifier: Name | None = None
    """Name of a classifier: required for `enter` and `exit`; `enabled` then applies to it instead of the camera."""
    label: str | None = Field(default=None, min_length=1)
    """A label of a classifier that finds several: `enter` and `exit` then apply to it alone."""
    rate_hz: float | None = Field(default=None, gt=0.0, le=1000.0, allow_inf_nan=False)
    """Frames classified per second."""
    enter: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Minimum confidence for a result to vote for its class."""
    exit: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Minimum confidence for a result to confirm the decided class."""
    enabled: bool | None = None
    """Switch the camera or the classifier on or off."""
    keep: bool = False
    """Keep the change across restarts and reloads."""

    @model_validator(mode="after")
    def _changes_something(self) -> Set:
        if self.rate_hz is self.enter is self.exit is self.enabled is None:
            raise ValueError("nothing to change: give rate_hz, enter, exit or enabled")
        if self.classifier is None and not (self.enter is self.exit is None):
            raise ValueError("enter and exit apply to a classifier: give its name as classifier")
        if self.label is not None and (self.classifier is None or self.enter is self.exit is None):
            raise ValueError("label says whose enter and exit to change: give the classifier, and enter or exit")
        return self


class Reload(Request):
    """Read the configuration file again."""


class Rebirth(Request):
    """Send every retained message again."""


class Selftest(Request):
    """Classify the golden images of the package now, on the engine that serves."""

    model: Name | None = None
    """Key of a model; null for all models."""


class Benchmark(Request):
    """Measure the latency of the engine that serves, between its batches."""

    model: Name | None = None
    """Key of a model; null for all models."""
    runs: int = Field(default=50, ge=1, le=500)
    """Number of calls; the measurement ends after five seconds even if there were fewer."""


class Explain(Request):
    """Explain why a camera publishes results or none, and why its classifiers have decided a label or none."""

    camera: Name
    """Name of the camera."""


REQUESTS: dict[Verb, type[Request]] = {
    "snapshot": Snapshot,
    "capture": Capture,
    "set": Set,
    "reload": Reload,
    "rebirth": Rebirth,
    "selftest": Selftest,
    "benchmark": Benchmark,
    "explain": Explain,
}


def request_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each command by its topic (``cmd/snapshot``)."""
    return {f"cmd/{verb}": request_schema(verb) for verb in REQUESTS}


def request_schema(verb: Verb) -> dict[str, Any]:
    """The JSON Schema of one command."""
    from agent.config.sections.field_docs import DescribedJsonSchema

    return REQUESTS[verb].model_json_schema(schema_generator=DescribedJsonSchema)


def problem_of(fault: ErrorDetails) -> str:
    """The text of a fault, without pydantic's prefix."""
    return fault["msg"].removeprefix("Value error, ")


def request_from_payload(verb: Verb, payload: bytes) -> Request:
    """Parse a command.

    Raises:
        ValueError: it does not fit the schema of its verb; the message lists the faults, as for a configuration.
    """
    model = REQUESTS[verb]
    try:
        return model.model_validate_json(payload)
    except ValidationError as exc:
        raise ValueError("; ".join(_faults(exc, model, payload))[:_MAX_FAULT_CHARS]) from None


def _faults(error: ValidationError, model: type[Request], payload: bytes) -> Iterator[str]:
    try:
        data = orjson.loads(payload)
    except orjson.JSONDecodeError as exc:
        yield f"the payload is no JSON: {exc}; send an object such as {_EXAMPLE}"
        return
    if not isinstance(data, dict):
        yield f"the payload is {shown(data, ())}, but a command is an object such as {_EXAMPLE}"
        return
    for path, text in faults_of_validation(error, model, data):
        yield f"{dotted(path)}: {text}" if path else text

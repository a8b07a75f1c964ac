"""What a command looks like: one strict form for each verb, part of the public schema."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Annotated, Any

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

from agent.config.section import Name, Section
from agent.config.subscribers import Verb

MAX_BYTES = 8192
MAX_AHEAD = timedelta(hours=1)

ID_PATTERN = r"^[A-Za-z0-9._:+-]{1,64}$"
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]


def _seconds_or_text(value: object) -> object:
    """Seconds since 1970, or RFC 3339; anything that is not a date is left for the type to refuse."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    if not 0 <= value < 2**33:  # also refuses NaN
        raise ValueError("seconds since 1970 are expected")
    return datetime.fromtimestamp(value, tz=timezone.utc)


Instant = Annotated[
    AwareDatetime,
    Field(strict=False),  # text is what a date is in JSON
    BeforeValidator(_seconds_or_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "format": "date-time"}, {"type": "number", "minimum": 0}],
            "description": "When it is too late, RFC 3339 or seconds since 1970; at most an hour ahead.",
        }
    ),
]


class Request(Section, strict=True):
    """What every command has."""

    id: Id
    """Chosen by the sender; the reply carries it. The same id is carried out once."""
    expires_at: Instant


class Snapshot(Request):
    """The newest picture of a camera as JPEG, on the topic `camera/<camera>/snapshot`."""

    camera: Name
    """Name of the camera."""
    max_width: int = Field(default=1280, ge=16, le=4096)
    """A wider picture is made smaller."""
    quality: int = Field(default=80, ge=1, le=95)
    """JPEG quality."""


class Set(Request):
    """Change a camera or one of its classifiers while the agent runs."""

    camera: Name
    """Name of the camera."""
    classifier: Name | None = None
    """Name of its classifier, for `enter`, `exit`, and for `enabled` of the classifier instead of the camera."""
    rate_hz: float | None = Field(default=None, gt=0.0, le=1000.0, allow_inf_nan=False)
    """Frames a second that are classified."""
    enter: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Confidence from which a result votes for its class."""
    exit: float | None = Field(default=None, ge=0.0, le=1.0, allow_inf_nan=False)
    """Confidence below which the decided class stops being confirmed."""
    enabled: bool | None = None
    """Switch the camera or the classifier on or off."""
    keep: bool = False
    """Hold on to it when the agent starts again."""

    @model_validator(mode="after")
    def _changes_something(self) -> Set:
        if self.rate_hz is self.enter is self.exit is self.enabled is None:
            raise ValueError("nothing is to be changed: give rate_hz, enter, exit or enabled")
        if self.classifier is None and not (self.enter is self.exit is None):
            raise ValueError("enter and exit belong to a classifier: name it")
        return self


class Reload(Request):
    """Read the configuration file again."""


class Rebirth(Request):
    """Send every retained message again."""


class Selftest(Request):
    """Classify the package's pictures with known answers, now, on the engine that serves."""

    model: Name | None = None
    """Key of one model; all of them where null."""


class Benchmark(Request):
    """Time the engine that serves, between its batches."""

    model: Name | None = None
    """Key of one model; all of them where null."""
    runs: int = Field(default=50, ge=1, le=500)
    """Calls to time; it ends after five seconds with what it has."""


class Explain(Request):
    """Why a camera publishes what it does, or nothing."""

    camera: Name
    """Name of the camera."""


REQUESTS: dict[Verb, type[Request]] = {
    "snapshot": Snapshot,
    "set": Set,
    "reload": Reload,
    "rebirth": Rebirth,
    "selftest": Selftest,
    "benchmark": Benchmark,
    "explain": Explain,
}


def request_schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schema of each command by its topic (``cmd/snapshot``)."""
    return {f"cmd/{verb}": model.model_json_schema() for verb, model in REQUESTS.items()}


def problem_of(fault: ErrorDetails) -> str:
    """What is wrong, without the words that pydantic puts before our own."""
    return fault["msg"].removeprefix("Value error, ")


def request_from_payload(verb: Verb, payload: bytes) -> Request:
    """Read one command.

    Raises:
        ValueError: it does not have the form of its verb; the message has one line for each fault.
    """
    try:
        return REQUESTS[verb].model_validate_json(payload)
    except ValidationError as exc:
        faults = (f"{'.'.join(map(str, one['loc'])) or 'payload'}: {problem_of(one)}" for one in exc.errors()[:4])
        raise ValueError("; ".join(faults)[:500]) from None

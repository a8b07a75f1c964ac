"""What all messages share.

They are pydantic dataclasses instead of models: a model cannot have a field named ``schema``, and orjson encodes a
dataclass four times faster than pydantic encodes a model (1.0 against 4.3 us for a result on a 2-core x86). They have
no slots for the same reason (5.6 us with slots).
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

PUBLIC = ConfigDict(
    extra="forbid",
    allow_inf_nan=False,
    json_schema_serialization_defaults_required=True,  # fields with a default are always sent
)
"""Configuration of every public class; ``agent.config.sections.field_docs`` describes the fields in a schema."""

ClockState = Literal["synced", "unsynced"]

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Duration = Annotated[float, Field(ge=0.0)]
Amount = Count | Duration
"""A number of results, or seconds."""
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class AnyMessage:
    """Base of all messages, also of those that leave to the topic which device they are of."""

    schema: str


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Message(AnyMessage):
    """Base of the messages that name their device.

    Descriptions are in the fields, because pydantic does not inherit docstrings of fields.
    """

    device: Annotated[str, Field(description="Id of the device that sent the message.")]
    session: Annotated[
        int, Field(ge=0, description="Number of this start of the agent on the device: each start adds one.")
    ]


def utc_text(utc_ns: int) -> str:
    """RFC 3339 with microseconds and ``Z``; ``utc_ns`` is nanoseconds since 1970."""
    microseconds = utc_ns // 1000
    return f"{_second_text(microseconds // 1_000_000)}.{microseconds % 1_000_000:06d}Z"


@lru_cache(maxsize=4)
def _second_text(utc_s: int) -> str:
    # Date arithmetic, because some C libraries fail on years before 1970 and after 2038.
    return (_EPOCH + timedelta(seconds=utc_s)).isoformat()[:-6]  # without +00:00

"""What all messages share.

They are pydantic dataclasses and not models: a model cannot have a field named ``schema``, and orjson writes a
dataclass three times faster than pydantic writes a model (1.0 against 4.3 us for a result on a 2-core x86).
They have no slots for the same reason (5.6 us with them).
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

PUBLIC = ConfigDict(
    extra="forbid",
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    json_schema_serialization_defaults_required=True,  # what has a default is sent all the same
)
"""Configuration of every public class."""

ClockState = Literal["synced", "unsynced"]

Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Duration = Annotated[float, Field(ge=0.0)]
Instant = Annotated[str, Field(json_schema_extra={"format": "date-time"})]

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Message:
    """Base of all messages. Its fields carry their descriptions themselves, docstrings are not inherited."""

    schema: str
    device: Annotated[str, Field(description="Id of the device that sent it.")]
    session: Annotated[
        int, Field(ge=0, description="Number of the agent's start on this device; it counts up by one with each.")
    ]


def utc_text(utc_ns: int) -> str:
    """RFC 3339 with microseconds and ``Z``; ``utc_ns`` is nanoseconds since 1970."""
    microseconds = utc_ns // 1000
    return f"{_second_text(microseconds // 1_000_000)}.{microseconds % 1_000_000:06d}Z"


@lru_cache(maxsize=4)
def _second_text(utc_s: int) -> str:
    # A date's arithmetic, since the C library does not know the years before 1970 and after 2038 everywhere.
    return (_EPOCH + timedelta(seconds=utc_s)).isoformat()[:-6]  # without +00:00

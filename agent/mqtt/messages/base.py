"""What all messages share.

They are pydantic dataclasses instead of models: a model cannot have a field named ``schema``, and orjson encodes a
dataclass four times faster than pydantic encodes a model (1.0 against 4.3 us for a result on a 2-core x86). They have
no slots for the same reason (5.6 us with slots).

The validator of a class takes a millisecond to build, and a start needs few of the 47: each is built for the first
object of its class (``defer_build``). Several threads make messages and pydantic builds without a lock, so every class
inherits ``BuiltOnce``.
"""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass, rebuild_dataclass

if TYPE_CHECKING:
    from typing_extensions import Self

PUBLIC = ConfigDict(
    extra="forbid",
    allow_inf_nan=False,
    json_schema_serialization_defaults_required=True,  # fields with a default are always sent
    defer_build=True,
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


_BUILDING = threading.Lock()


class BuiltOnce:
    """Base of every public class: its first object builds its validator, once, whichever threads make one."""

    __pydantic_complete__: ClassVar[bool] = False
    """Set by pydantic for each class."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """See above."""
        if not cls.__pydantic_complete__:
            with _BUILDING:
                # Does nothing if another thread built it meanwhile.
                rebuild_dataclass(cls, _parent_namespace_depth=0)  # type: ignore[arg-type]  # a pydantic dataclass
        return object.__new__(cls)


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class AnyMessage(BuiltOnce):
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

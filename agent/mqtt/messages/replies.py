"""Replies to commands."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Instant, Message


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Reply(Message):
    """The reply to a command."""

    schema: Literal["reply/1"] = "reply/1"
    """Name and version of the schema."""
    at: Instant
    """When the reply was written, UTC."""
    id: str | None
    """Id of the command; null if it has no readable id."""
    verb: str
    """Verb of the command."""
    outcome: Literal["done", "refused", "failed"]
    """`done`: it took effect; `refused`: it was not tried; `failed`: it was tried and failed."""
    reason: str | None
    """Machine-readable reason for `refused` and `failed`; null for `done`."""
    text: str
    """The reason as a text for people."""
    details: dict[str, Any] = Field(default_factory=dict)
    """The result of the command, or the values now in force."""

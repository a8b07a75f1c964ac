"""Answers to commands."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from agent.mqtt.messages.base import PUBLIC, Instant, Message


@dataclass(frozen=True, kw_only=True, config=PUBLIC)
class Reply(Message):
    """The one answer to a command."""

    schema: Literal["reply/1"] = "reply/1"
    """Name and version of this message\'s form."""
    at: Instant
    """When it was answered, UTC."""
    id: str | None
    """Id of the command; null where none could be read."""
    verb: str
    """What was asked for."""
    outcome: Literal["done", "refused", "failed"]
    """`done`: it took effect; `refused`: nothing was tried; `failed`: it was tried and did not work."""
    reason: str | None
    """A word for programs, why it was refused or failed; null where it was done."""
    text: str
    """The same for people."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What the command was about to find out, or the values that hold now."""

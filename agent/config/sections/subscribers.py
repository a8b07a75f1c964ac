"""The sections `max_rate`, `outbox`, `commands` and `home_assistant` of `mqtt`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.config.sections.base import Section, TopicPrefix

Verb = Literal["snapshot", "capture", "set", "reload", "rebirth", "selftest", "benchmark", "explain"]
"""The commands."""


class MaxRateConfig(Section):
    """Limits over all topics, such as a broker's quota. Events and retained messages go first, results drop first."""

    messages_hz: float | None = Field(default=None, ge=0.1, le=100_000.0)
    """Maximum messages per second; null is no limit."""
    bytes_per_s: float | None = Field(default=None, ge=100.0, le=1e9)
    """Maximum bytes per second of topics, payloads and MQTT headers; null is no limit."""


class OutboxConfig(Section):
    """Where events wait until the broker has confirmed them, also across a restart."""

    max_mib: int = Field(default=256, ge=1, le=65536)
    """Size limit in MiB; above it the oldest events are dropped and counted."""
    max_age_h: float = Field(default=24.0, gt=0.0, le=8760.0)
    """Hours after which a waiting event is dropped and counted."""
    durability: Literal["each", "grouped", "memory"] = "each"
    """`each` writes every event to disk within hundredths of a second, `grouped` within a second, `memory` never."""


class CommandsConfig(Section):
    """Commands over MQTT; each must be allowed by name."""

    enabled: bool = False
    """Listen for commands."""
    allow: tuple[Verb, ...] = ()
    """Allowed commands; the agent subscribes to no others."""
    max_per_minute: int = Field(default=60, ge=1, le=6000)
    """Commands per minute; more are refused."""


class HomeAssistantConfig(Section):
    """Discovery by Home Assistant of the agent and its cameras."""

    enabled: bool = False
    """Publish the discovery message."""
    prefix: TopicPrefix = "homeassistant"
    """Discovery prefix set in Home Assistant."""
    snapshots: bool = False
    """Show the newest snapshot of each camera; the `snapshot` command takes one."""

"""What is kept for subscribers, and what they may ask for."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.config.section import Section, TopicPrefix

Verb = Literal["snapshot", "set", "reload", "rebirth", "selftest", "benchmark", "explain"]
"""What a command may ask for."""


class OutboxConfig(Section):
    """Where events wait until the broker has confirmed them, also over a restart of the agent."""

    max_mib: int = Field(default=256, ge=1, le=65536)
    """Most that may wait, in MiB; the oldest are given up above it, and counted."""
    max_age_h: float = Field(default=24.0, gt=0.0, le=8760.0)
    """Hours after which an event that is still waiting is given up, and counted."""
    durability: Literal["each", "grouped", "memory"] = "each"
    """`each` is on the disk within hundredths of a second, `grouped` within a second, `memory` is never written."""


class CommandsConfig(Section):
    """Commands over MQTT; off unless they are enabled and allowed one by one."""

    enabled: bool = False
    """Listen for commands."""
    allow: tuple[Verb, ...] = ()
    """Commands that are carried out; every other one is refused."""
    max_per_minute: int = Field(default=60, ge=1, le=6000)
    """Commands a minute; more are refused."""


class HomeAssistantConfig(Section):
    """Makes the agent and its cameras appear in Home Assistant."""

    enabled: bool = False
    """Publish the discovery message."""
    prefix: TopicPrefix = "homeassistant"
    """Discovery prefix that Home Assistant is set to."""
    snapshots: bool = False
    """Show the newest snapshot of each camera; it is taken when the `snapshot` command asks for it."""

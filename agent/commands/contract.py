"""The seam between commands and what carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from pydantic import JsonValue

from agent.commands.requests import Benchmark, Explain, Selftest, Set, Snapshot
from agent.runtime.errors import AgentError

Details = dict[str, JsonValue]


class CommandRefused(AgentError):
    """It was understood and will not be done; ``reason`` is a word for programs."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


class NotKept(AgentError):
    """The change is in force, and the next start or reload forgets it."""


class CommandHost(Protocol):
    """Carries commands out. Each method is called on the thread of the commands, one at a time, and returns what the
    reply is to tell; CommandRefused, AgentError and EngineError become replies too."""

    def snapshot(self, request: Snapshot) -> Details:
        """Publish the newest picture."""
        ...

    def set(self, request: Set) -> Details:
        """Change the configuration in force."""
        ...

    def reload(self) -> Details:
        """Read the configuration file again."""
        ...

    def rebirth(self) -> Details:
        """Send every retained message again."""
        ...

    def selftest(self, request: Selftest) -> Details:
        """Classify the pictures with known answers."""
        ...

    def benchmark(self, request: Benchmark) -> Details:
        """Time the engines."""
        ...

    def explain(self, request: Explain) -> Details:
        """Say why a camera publishes what it does."""
        ...


def known(names: Mapping[str, object], name: str, what: str) -> None:
    """Refuse a name that does not exist.

    Raises:
        CommandRefused: with the names that there are.
    """
    if name not in names:
        there = ", ".join(sorted(names)) or "none"
        raise CommandRefused(f"unknown_{what}", f"there is no {what} {name!r}; there is {there}")

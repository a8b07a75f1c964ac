"""The contract between the command server and its handlers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from pydantic import JsonValue

from agent.commands.requests import Benchmark, Capture, Explain, Selftest, Set, Snapshot
from agent.config.problems import suggestion
from agent.runtime.errors import AgentError

Details = dict[str, JsonValue]


class CommandRefused(AgentError):
    """The command is valid but not carried out; ``reason`` is machine-readable."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, reason=reason)
        self.reason = reason


Answer = Callable[[Details | CommandRefused], None]
"""Takes the result of a command that ends later, or why it failed. Any thread; it does not wait."""


class NotKept(AgentError):
    """The change is in force but was not saved: the next start or reload reverts it."""


class CommandHandler(Protocol):
    """Carries out commands, one at a time, on the thread ``commands``. Each method returns the details of the reply;
    CommandRefused, AgentError and EngineError become replies too. ``capture`` answers later, and is also called on
    another thread."""

    def snapshot(self, request: Snapshot) -> Details:
        """Publish the newest frame of a camera."""
        ...

    def capture(self, request: Capture, answer: Answer) -> None:
        """Classify the next frame of a camera. Must not wait; ``answer`` is called once, unless this raises."""
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
        """Classify the golden images of the packages."""
        ...

    def benchmark(self, request: Benchmark) -> Details:
        """Measure the latency of the engines."""
        ...

    def explain(self, request: Explain) -> Details:
        """Explain why a camera publishes results or none."""
        ...


def require_known(names: Mapping[str, object], name: str, what: str) -> None:
    """Check that ``name`` exists.

    Raises:
        CommandRefused: it does not; the message lists the names that do, and the nearest one.
    """
    if name not in names:
        existing = ", ".join(sorted(names)) or "none"
        hint = suggestion(name, list(names))
        raise CommandRefused(f"unknown_{what}", f"there is no {what} {name!r}; the configuration has {existing}{hint}")

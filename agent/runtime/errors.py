"""What the agent raises, beside ``engines.EngineError``.

    AgentError                    exit code 70
    ├── UsageError                2   the command line asks for something that does not exist
    ├── ConfigError               78  the configuration cannot be used; names file and line
    ├── Unavailable               69  something needed is not there
    │   ├── SourceUnavailable     69  a camera, stream or file cannot be opened
    │   ├── BrokerUnavailable     69  the broker cannot be reached, refuses us, or cannot be started
    │   └── InUse                 75  another agent holds the state directory
    ├── ReloadUnderWay            70  a change was requested while another one runs; nothing has changed
    ├── ReloadAbandoned           70  a change was cancelled because the agent stops
    ├── SourceLost                70  an open source stopped delivering frames (its camera reconnects)
    └── StageFailed               70  an exception ended a thread of the pipeline

A message says what happened, the two facts that disagree and what to do. ``fields`` holds the same data.
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of the agent's own errors. ``fields`` holds the facts of the message, and never a secret."""

    exit_code = 70

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class UsageError(AgentError):
    """The command line asks for something that does not exist."""

    exit_code = 2


class ConfigError(AgentError):
    """The configuration cannot be used."""

    exit_code = 78


class Unavailable(AgentError):
    """Something that is needed is not there."""

    exit_code = 69


class SourceUnavailable(Unavailable):
    """A camera, stream or file cannot be opened."""


class BrokerUnavailable(Unavailable):
    """The broker cannot be reached, refuses us, or cannot be started."""


class InUse(Unavailable):
    """Another agent uses what only one may use; trying again later may help."""

    exit_code = 75


class ReloadUnderWay(AgentError):
    """A change of the configuration was requested while another one runs."""


class ReloadAbandoned(AgentError):
    """A change of the configuration was cancelled because the agent stops."""


class SourceLost(AgentError):
    """An open source stopped delivering frames."""


class StageFailed(AgentError):
    """An exception, which is the cause of this one, ended a thread of the pipeline."""

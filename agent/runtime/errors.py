"""What the agent raises, beside ``engines.EngineError``.

    AgentError                    exit code 70
    ├── UsageError                2   the command line asks for something that does not exist
    ├── ConfigError               78  the configuration cannot be used; names file and line
    ├── Unavailable               69  something needed is not there
    │   ├── SourceUnavailable     69  a camera, stream or file cannot be opened
    │   ├── BrokerUnavailable     69  the broker cannot be reached, refuses us, or cannot be started
    │   └── InUse                 75  another agent holds the state directory
    ├── ReloadUnderWay            70  a change was asked for while another one has not ended; nothing has changed
    ├── ReloadAbandoned           70  a change was given up because the agent stops
    ├── SourceLost                70  a source that had been open stopped delivering (recovered by its camera)
    └── StageFailed               70  a thread of the pipeline ended by an exception

A message says what happened, the two facts that disagree and what to do; the same data stands in ``fields``.
"""

from __future__ import annotations


class AgentError(Exception):
    """Base of the agent's own errors. ``fields`` repeats the facts of the message and never holds a secret."""

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
    """Another agent holds what only one may have; trying again later may help."""

    exit_code = 75


class ReloadUnderWay(AgentError):
    """A change of the configuration was asked for while another one has not ended."""


class ReloadAbandoned(AgentError):
    """A change of the configuration was given up because the agent stops."""


class SourceLost(AgentError):
    """A source that had been open stopped delivering frames."""


class StageFailed(AgentError):
    """A thread of the pipeline ended by an exception; the exception is the cause."""

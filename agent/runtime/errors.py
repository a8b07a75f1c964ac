"""What the agent raises, beside ``engines.EngineError``.

    AgentError                    exit code 70
    ├── UsageError                2   the command line asks for something that does not exist
    ├── ConfigError               78  the configuration cannot be used; names file and line
    ├── Unavailable               69  something needed is not there
    │   ├── SourceUnavailable     69  a camera, stream or file cannot be opened
    │   ├── BrokerUnavailable     69  the broker cannot be reached, refuses us, or cannot be started
    │   ├── PartMissing           69  libraries of an optional part of the agent cannot be imported
    │   └── InUse                 75  another agent holds the state directory
    ├── ReloadUnderWay            70  a change was requested while another one runs; nothing has changed
    ├── ReloadAbandoned           70  a change was cancelled because the agent stops
    ├── SourceLost                70  an open source stopped delivering frames (its camera reconnects)
    └── StageFailed               70  an exception ended a thread of the pipeline

A message says what happened, the two facts that disagree and what to do. ``fields`` holds the same data.
"""

from __future__ import annotations

import sys

BROKEN_IMPORT = (ImportError, OSError, AttributeError, RuntimeError, TypeError, SyntaxError)
"""What an import raises if the library is missing, damaged, for another Python, or does not fit the others."""


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


class PartMissing(Unavailable):
    """Libraries of an optional part of the agent cannot be imported. ``fields["command"]`` installs them."""

    def __init__(self, what: str, part: str, error: BaseException) -> None:
        """``what`` needs ``part``, one of those in docs/installation.md."""
        command = install_command(part)
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        message = f"{what} needs libraries that cannot be imported: {text}. Install them: {command}"
        super().__init__(message, part=part, command=command)


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


def install_command(part: str) -> str:
    """The command that installs the libraries of a part into this environment, for a shell.

    Each is named, because no package index has the agent itself. Without its metadata, a checkout is named.
    """
    import importlib.metadata  # these three take time that every start would pay
    import re
    import shlex

    try:
        given = importlib.metadata.requires("edge-inference-agent") or []
    except importlib.metadata.PackageNotFoundError:
        given = []
    wanted = re.compile(rf"extra == [\"']{re.escape(part)}[\"']")
    libraries = [one.partition(";")[0].strip() for one in given if wanted.search(one)]
    command = f"{shlex.quote(sys.executable)} -m pip install {shlex.join(libraries or [f'.[{part}]'])}"
    return command if libraries else f"{command}, in a checkout of the agent"

"""What the engines raise.

    EngineError                   exit code 70
    ├── EngineUnavailable         69  this engine cannot run on this device
    │   ├── BuildNeeded           69  it must be built first, and was asked not to
    │   ├── BuildFailed           69  its build failed, took too long or too much memory
    │   ├── SandboxFailed       69  the model has ended, or outgrown, the process that it was first opened in
    │   └── OutOfMemory           69  the device has no memory left for it
    ├── BuildCancelled            70  its build was stopped by who asked for it
    ├── OptionsRejected           78  an engine's name, option or value that does not exist
    ├── ModelRejected             78  the package or its model cannot be served as it is
    │   └── GoldenMismatch        78  the model loads but no longer gives its known answers
    ├── ImageRejected             78  a image cannot be read or must not be
    ├── PrecisionRejected         69  the wanted precision does not keep the answers
    └── InferenceFailed           70  a run failed after the engine was loaded
        └── EngineLost            70  the device or its context is gone: the process must end

A message says what happened, the two facts that disagree and what to do; the same data stands in ``fields``.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of everything that leaves this package.

    ``fields`` holds the facts of the message for logs and for MQTT; no secret ever enters it.
    """

    exit_code = 70

    def __init__(self, message: str, **fields: object) -> None:
        super().__init__(message)
        self.message = message
        self.fields = fields


class EngineUnavailable(EngineError):
    """The engine cannot run on this device; the message says how to get it."""

    exit_code = 69


class BuildNeeded(EngineUnavailable):
    """The engine must be built on this device before it can run."""


class BuildFailed(EngineUnavailable):
    """The build of an engine came to no end that could be used."""


class SandboxFailed(EngineUnavailable):
    """The process in which a new model was opened first was ended by a signal or by a limit."""


class OutOfMemory(EngineUnavailable):
    """The device has too little free memory to load the engine."""


class BuildCancelled(EngineError):
    """The build was stopped by who asked for it."""


class OptionsRejected(EngineError):
    """The configuration names an engine, an option or a value that does not exist."""

    exit_code = 78


class ModelRejected(EngineError):
    """The model package, its model or its labels cannot be served as they are."""

    exit_code = 78


class GoldenMismatch(ModelRejected):
    """A golden image did not give its known answer."""


class ImageRejected(EngineError):
    """A image cannot be decoded, or is too large to be."""

    exit_code = 78


class PrecisionRejected(EngineError):
    """An engine's answers differ too much from the fp32 reference."""

    exit_code = 69


class InferenceFailed(EngineError):
    """A run failed on an engine that had been loaded."""


class EngineLost(InferenceFailed):
    """The device or its context is unusable for the rest of this process."""

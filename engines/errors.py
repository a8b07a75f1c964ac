"""What the engines raise.

    EngineError                   exit code 70
    ├── EngineUnavailable         69  this engine cannot run on this device
    │   ├── BuildNeeded           69  it must be built first, and building is deferred
    │   ├── BuildFailed           69  its build failed, or exceeded its time or memory
    │   ├── SandboxFailed         69  the model crashed the sandbox of its first load, or exceeded its limits
    │   └── OutOfMemory           69  the device has too little free memory
    ├── BuildCancelled            70  its build was cancelled by the caller
    ├── OptionsRejected           78  an engine name, option or value that does not exist
    ├── ModelRejected             78  the package or its model cannot be served
    │   └── GoldenMismatch        78  the model loads, and a golden image is not classified as expected
    ├── ImageRejected             78  an image cannot be read, or is too large
    ├── PrecisionRejected         69  the engine fails the accuracy check in this precision
    └── InferenceFailed           70  a run failed after the engine was loaded
        ├── ServerFailed          70  the server of a remote engine did not answer, or not with scores
        └── EngineLost            70  the device or its context is gone: the process must end

A message says what happened, the two facts that disagree and what to do; ``fields`` has the same facts.
"""

from __future__ import annotations


class EngineError(Exception):
    """Base of every exception of this package.

    ``fields`` holds the facts of the message for logs and MQTT; never a secret.
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
    """The build of an engine failed, or exceeded its limits."""


class SandboxFailed(EngineUnavailable):
    """The sandbox of a model's first load was killed by a signal, or exceeded a limit."""


class OutOfMemory(EngineUnavailable):
    """The device has too little free memory to load the engine."""


class BuildCancelled(EngineError):
    """The build was cancelled by the caller."""


class OptionsRejected(EngineError):
    """The configuration names an engine, an option or a value that does not exist."""

    exit_code = 78


class ModelRejected(EngineError):
    """The model package, its model or its labels cannot be served."""

    exit_code = 78


class GoldenMismatch(ModelRejected):
    """A golden image is not classified as expected."""


class ImageRejected(EngineError):
    """An image cannot be decoded, or is too large."""

    exit_code = 78


class PrecisionRejected(EngineError):
    """An engine's scores differ too much from the fp32 reference."""

    exit_code = 69


class InferenceFailed(EngineError):
    """A run failed on a loaded engine."""


class ServerFailed(InferenceFailed):
    """The server of a remote engine did not answer in time, or not with scores; a local engine can take its place."""


class EngineLost(InferenceFailed):
    """The device or its context is unusable for the rest of this process."""

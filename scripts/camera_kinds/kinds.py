"""What a kind is, and what its trial says."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from agent.config.sections.sources import SourceConfig
from scripts.camera_kinds.servers import Server


@dataclass(frozen=True, slots=True)
class Stage:
    """A kind that is ready to be tried. ``server`` is taken away and brought back, if there is one."""

    config: SourceConfig
    server: Server | None = None


@dataclass(frozen=True, slots=True)
class Kind:
    """``make`` prepares it in a folder. ``expected`` is ``frames`` or the reason of the error.

    ``scene`` is where red and blue are: ``left-right``, ``top-bottom`` and their opposites, or empty for no colours.
    ``frames`` are as many as a file holds, None for a stream.
    """

    group: str
    name: str
    make: Callable[[Path, ExitStack], Stage]
    expected: str = "frames"
    scene: str = "left-right"
    frames: int | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the table; ``differs`` says what was expected instead, and is empty where it holds."""

    kind: Kind
    came: str
    first_s: float | None = None
    loss_s: float | None = None
    return_s: float | None = None
    message: str = ""
    differs: str = ""

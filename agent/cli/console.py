"""Where commands print: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import errno
import io
import os
from typing import Any

import rich.console


class Console(rich.console.Console):
    """Writes what the encoding of the output lacks as escapes, and leaves it to the program's top to say that whoever
    read the output went away.

    By itself the library would end with exit code 1 then, which means that a gate failed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if isinstance(self.file, io.TextIOWrapper):
            self.file.reconfigure(errors="backslashreplace")

    def on_broken_pipe(self) -> None:
        """See rich."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))

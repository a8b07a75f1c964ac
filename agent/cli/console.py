"""Where commands print: in colour on a terminal, plain elsewhere."""

from __future__ import annotations

import errno
import os

import rich.console


class Console(rich.console.Console):
    """Leaves it to the program's top to say that whoever read the output went away.

    By itself the library would end with exit code 1 then, which means that a gate failed.
    """

    def on_broken_pipe(self) -> None:
        """See rich."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
